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
	if v.Profile() == vecenv.Serving {
		return servingTarget(v)
	}
	free := int(v.BudgetQP())*headroomPercent/100 - int(v.PendingQP())
	return max(free, int(v.BudgetQP())/2)
}

// servingTarget leaves room for the requests that wait and for what one step grows, about a quarter page a sequence.
func servingTarget(v vecenv.View) int {
	budget := int(v.BudgetQP())
	return max(budget-budget/64-int(v.PendingQP())-v.Slots()/2, budget/2)
}

// ranking sorts sequences without moving them.
type ranking struct {
	keys  []uint64
	order []int
}

// ascending returns the indices of live by ascending key, equal ones as they stand in live. It is valid until the next
// call. Keys must lie between -2^40 and 2^40.
func (r *ranking) ascending(live []vecenv.SlotState, key func(s *vecenv.SlotState) int) []int {
	r.keys, r.order = r.keys[:0], r.order[:0]
	for i := range live {
		r.keys = append(r.keys, uint64(key(&live[i])+1<<40)<<16|uint64(i))
	}
	slices.Sort(r.keys)
	for _, k := range r.keys {
		r.order = append(r.order, int(k&(1<<16-1)))
	}
	return r.order
}

// ranked evicts in the order of a key until memory is at its target.
type ranked struct {
	name  string
	key   func(v vecenv.View, s *vecenv.SlotState) int
	live  []vecenv.SlotState
	order ranking
}

func (r *ranked) Name() string { return r.name }

func (r *ranked) Act(v vecenv.View, a *Actions) {
	used, goal := int(v.UsedQP()), target(v)
	if used <= goal {
		return
	}
	r.live = v.AppendLive(r.live[:0])
	for _, i := range r.order.ascending(r.live, func(s *vecenv.SlotState) int { return r.key(v, s) }) {
		if s := &r.live[i]; used > goal && s.CostQP > 0 {
			a.Evict(s.Slot)
			used -= int(s.CostQP)
		}
	}
}

func smallness(_ vecenv.View, s *vecenv.SlotState) int { return -int(s.CostQP) }

// worth is what evicting a sequence loses, for each quarter page it holds: the tokens it would still give before the
// episode ends, and the retention value of its block weighed by its priority.
func worth(v vecenv.View, s *vecenv.SlotState) int {
	if s.Type == kv.System {
		return 1 << 39
	}
	tokens := min(s.Remaining, s.Rate*uint32(v.Steps()-v.Step()))
	value := 100*tokens + (100-s.Type.EvictionPercent())*(50+s.Priority)/50
	return 1000 * int(value) / int(max(1, s.CostQP))
}
