package policy

import (
	"slices"

	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/vecenv"
)

// headroomPercent is the share of the budget below which a step earns full headroom.
const headroomPercent = 80

// target is the memory a policy wants to be at after its operations: below 80 % of the budget once the waiting requests
// have come in, as far as that leaves something to run.
func target(v vecenv.View) int {
	free := int(v.BudgetQP())*headroomPercent/100 - int(v.PendingQP())
	return max(free, int(v.BudgetQP())/2)
}

// ranked evicts in one order until memory is at its target.
type ranked struct {
	name string
	less func(v vecenv.View, a, b *vecenv.SlotState) int
	live []vecenv.SlotState
}

func (r *ranked) Name() string { return r.name }

func (r *ranked) Act(v vecenv.View, a *Actions) {
	used, goal := int(v.UsedQP()), target(v)
	if used <= goal {
		return
	}
	r.live = v.AppendLive(r.live[:0])
	slices.SortStableFunc(r.live, func(x, y vecenv.SlotState) int { return r.less(v, &x, &y) })
	for i := range r.live {
		if used <= goal {
			return
		}
		if s := &r.live[i]; s.CostQP > 0 {
			a.Evict(s.Slot)
			used -= int(s.CostQP)
		}
	}
}

func leastRecent(_ vecenv.View, a, b *vecenv.SlotState) int { return a.LastAccess - b.LastAccess }

func largest(_ vecenv.View, a, b *vecenv.SlotState) int { return int(b.CostQP) - int(a.CostQP) }

func leastValuable(v vecenv.View, a, b *vecenv.SlotState) int { return worth(v, a) - worth(v, b) }

// worth is what evicting a sequence loses, for each quarter page it holds: the tokens it would still give before the
// episode ends, and the retention value of its block weighed by its priority.
func worth(v vecenv.View, s *vecenv.SlotState) int {
	if s.Type == kv.System {
		return 1 << 30
	}
	tokens := min(s.Remaining, s.Rate*uint32(v.Steps()-v.Step()))
	value := 100*tokens + (100-s.Type.EvictionPercent())*(50+s.Priority)/50
	return int(1000 * value / max(1, s.CostQP))
}
