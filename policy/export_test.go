package policy

import (
	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/vecenv"
)

// SearchCandidates are the policies that search tries in the seed profile.
var SearchCandidates = searchCandidates

// NewSearchWithout is search whose candidates may not use one of the operations. Without keep they have to do something to
// every sequence: what they would keep is compressed, where that is possible, or swapped, or evicted.
func NewSearchWithout(op kv.Op) Policy {
	s := newSearch().(*search)
	s.restrict = func(v vecenv.View, a *Actions) {
		if op == kv.Keep {
			touchAll(v, a)
			return
		}
		kept := a.pairs[:0]
		for k := 0; k < len(a.pairs); k += 2 {
			if a.pairs[k] != int32(op) {
				kept = append(kept, a.pairs[k], a.pairs[k+1])
			}
		}
		a.pairs = kept
	}
	return s
}

func touchAll(v vecenv.View, a *Actions) {
	var touched [256]bool
	for k := 0; k < len(a.pairs); k += 2 {
		touched[a.pairs[k+1]] = true
	}
	v.Live(func(s *vecenv.SlotState) bool {
		for _, op := range []kv.Op{kv.Compress, kv.Swap, kv.Evict} {
			if !touched[s.Slot] && v.Allowed(op, s.Slot) {
				a.add(op, s.Slot)
				break
			}
		}
		return true
	})
}

// EvictIdle is swap-idle that evicts what pauses instead, so that it has to be computed again.
func EvictIdle() Policy { return &tiered{name: "evict-idle", recompute: true} }
