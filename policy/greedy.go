package policy

import (
	"slices"

	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/vecenv"
)

// compressFirst compresses the largest sequences until memory is at its target and evicts by value only what compression
// cannot give.
type compressFirst struct{ live []vecenv.SlotState }

func (*compressFirst) Name() string { return "compress-first" }

func (c *compressFirst) Act(v vecenv.View, a *Actions) {
	used, goal := int(v.UsedQP()), target(v)
	if used <= goal {
		return
	}
	c.live = v.AppendLive(c.live[:0])
	used = compressLargest(c.live, used, goal, a)
	evictWorthless(v, c.live, used, goal, a)
}

// compressLargest takes the largest sequences one level down, and again, until memory is at its goal; it updates the
// states and returns the memory left.
func compressLargest(live []vecenv.SlotState, used, goal int, a *Actions) int {
	for level := kv.FP16; level < kv.INT4 && used > goal; level++ {
		slices.SortStableFunc(live, func(x, y vecenv.SlotState) int { return int(y.CostQP) - int(x.CostQP) })
		for i := range live {
			s := &live[i]
			if used <= goal {
				break
			}
			if s.Quant == level && s.CostQP > 0 {
				a.Compress(s.Slot)
				s.Quant++
				s.CostQP /= 2
				used -= int(s.CostQP)
			}
		}
	}
	return used
}

// evictWorthless evicts the least valuable sequences until memory is at its goal.
func evictWorthless(v vecenv.View, live []vecenv.SlotState, used, goal int, a *Actions) {
	slices.SortStableFunc(live, func(x, y vecenv.SlotState) int { return leastValuable(v, &x, &y) })
	for i := range live {
		if used <= goal {
			return
		}
		if s := &live[i]; s.CostQP > 0 && s.Type != kv.System {
			a.Evict(s.Slot)
			used -= int(s.CostQP)
		}
	}
}

// greedy batches by pressure, as the seed advises its agents: first it drops what is dead (thinkers and sub-agents that
// only linger), then it compresses, and it evicts living sequences last.
type greedy struct{ live []vecenv.SlotState }

func (*greedy) Name() string { return "greedy" }

func (g *greedy) Act(v vecenv.View, a *Actions) {
	used, goal := int(v.UsedQP()), target(v)
	if used <= goal {
		return
	}
	g.live = v.AppendLive(g.live[:0])
	kept := g.live[:0]
	for _, s := range g.live {
		if used > goal && s.CostQP > 0 && s.Phase == kv.Idle && s.Remaining == 0 && s.Type != kv.System {
			a.Evict(s.Slot)
			used -= int(s.CostQP)
			continue
		}
		kept = append(kept, s)
	}
	used = compressLargest(kept, used, goal, a)
	evictWorthless(v, kept, used, goal, a)
}
