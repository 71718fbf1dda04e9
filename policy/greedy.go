package policy

import (
	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/vecenv"
)

// compressor compresses the largest sequences until memory is at its target and evicts by value only what compression
// cannot give. With dropDead it first evicts what is dead: thinkers and sub-agents that only linger. That is greedy, the
// seed's advice to its agents: batch several operations by pressure.
type compressor struct {
	name     string
	dropDead bool
	live     []vecenv.SlotState
	order    ranking
}

func (c *compressor) Name() string { return c.name }

func (c *compressor) Act(v vecenv.View, a *Actions) {
	used, goal := int(v.UsedQP()), target(v)
	if used <= goal {
		return
	}
	c.live = v.AppendLive(c.live[:0])
	if c.dropDead {
		c.live, used = evictDead(c.live, used, goal, a)
	}
	used = c.compressLargest(used, goal, a)
	c.evictWorthless(v, used, goal, a)
}

// dead tells whether a sequence holds memory that nobody will read again.
func dead(s *vecenv.SlotState) bool {
	return s.Phase == kv.Idle && s.Remaining == 0 && (s.Type == kv.Reasoning || s.Type == kv.Ephemeral)
}

// evictDead drops sequences that are dead while memory is above its goal, and returns the others and the memory left.
func evictDead(live []vecenv.SlotState, used, goal int, a *Actions) ([]vecenv.SlotState, int) {
	kept := live[:0]
	for i := range live {
		s := &live[i]
		if used > goal && s.CostQP > 0 && dead(s) {
			a.Evict(s.Slot)
			used -= int(s.CostQP)
			continue
		}
		kept = append(kept, *s)
	}
	return kept, used
}

// compressLargest takes the largest sequences one level down, then again, until memory is at its goal. It updates the
// states and returns the memory left.
func (c *compressor) compressLargest(used, goal int, a *Actions) int {
	for level := kv.FP16; level < kv.INT4 && used > goal; level++ {
		for _, i := range c.order.ascending(c.live, func(s *vecenv.SlotState) int { return -int(s.CostQP) }) {
			s := &c.live[i]
			if used <= goal || s.CostQP == 0 {
				break
			}
			if s.Quant == level {
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
func (c *compressor) evictWorthless(v vecenv.View, used, goal int, a *Actions) {
	if used <= goal {
		return
	}
	for _, i := range c.order.ascending(c.live, func(s *vecenv.SlotState) int { return worth(v, s) }) {
		if s := &c.live[i]; used > goal && s.CostQP > 0 && s.Type != kv.System {
			a.Evict(s.Slot)
			used -= int(s.CostQP)
		}
	}
}
