package policy

import "github.com/kvgym/kvgym/vecenv"

// lru evicts the least recently used sequences until memory is at its target.
type lru struct {
	live  []vecenv.SlotState
	order ranking
}

func (*lru) Name() string { return "lru" }

func (p *lru) Act(v vecenv.View, a *Actions) {
	used, goal := int(v.UsedQP()), target(v)
	if used <= goal {
		return
	}
	p.live = v.AppendLive(p.live[:0])
	for _, i := range p.order.ascending(p.live, func(s *vecenv.SlotState) int { return s.LastAccess }) {
		if s := &p.live[i]; used > goal && s.CostQP > 0 {
			a.Evict(s.Slot)
			used -= int(s.CostQP)
		}
	}
}
