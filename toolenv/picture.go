package toolenv

import (
	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/vecenv"
)

// picture is what the cache looks like within a turn: its state before the step with the operations accepted so far. It answers calls; the
// core, which gets the same operations at the step, is never asked.
type picture struct {
	serving bool
	seats   []seat // by slot
	pages   [kv.MaxPrefixes + 1]uint32
	level   [kv.MaxPrefixes + 1]uint32 // serving: quarter pages that a page of each prefix costs once the turn is over
	budget  uint32
	cpuUsed uint64 // serving: quarter pages of CPU memory
	cpuMost uint64
}

// seat is one slot.
type seat struct {
	vecenv.SlotState
	live    bool
	evicted bool // in this turn
	swapped bool // in this turn
}

// take looks at an environment anew.
func (p *picture) take(v vecenv.View) {
	p.serving, p.budget = v.Profile() == vecenv.Serving, v.BudgetQP()
	if p.seats == nil {
		p.seats = make([]seat, v.Slots())
	}
	clear(p.seats)
	v.Live(func(s *vecenv.SlotState) bool {
		p.seats[s.Slot] = seat{SlotState: *s, live: true}
		return true
	})
	for k, n := range v.Episode().PrefixPages {
		p.pages[k], p.level[k] = uint32(n), v.PrefixMultiplier(k)
	}
	p.cpuUsed, p.cpuMost = 0, 0
	if s := v.Preset(); s != nil {
		p.cpuMost = uint64(p.budget) * uint64(s.HostPermille) / 1000
	}
	for i := range p.seats {
		if s := &p.seats[i]; s.onCPU() {
			p.cpuUsed += s.cpuQP()
		}
	}
}

// onCPU tells whether a sequence takes CPU memory, which one that leaves the GPU does from the start.
func (s *seat) onCPU() bool { return s.live && (s.Swapped || s.Moving && !s.Back) }

func (s *seat) cpuQP() uint64 { return uint64(s.PrivatePages * s.Quant.QuarterPages()) }

// resident tells whether a sequence holds GPU memory.
func (s *seat) resident() bool { return s.live && !s.Swapped }

// sharers is how many other resident sequences have the prefix of one.
func (p *picture) sharers(s *seat) (n int) {
	for i := range p.seats {
		if o := &p.seats[i]; o != s && o.resident() && o.Prefix == s.Prefix {
			n++
		}
	}
	return n
}

// prefixQP is what a page of a prefix costs: in the seed profile what its finest resident member makes of it (rule 1.7).
func (p *picture) prefixQP(prefix uint8) (qp uint32) {
	if prefix == 0 {
		return 0
	}
	for i := range p.seats {
		if s := &p.seats[i]; s.resident() && s.Prefix == prefix {
			if p.serving {
				return p.level[prefix]
			}
			qp = max(qp, s.Quant.QuarterPages())
		}
	}
	return qp
}

// freed is the memory that a change of a sequence frees, its prefix's part too, quarter pages. It leaves the sequence changed.
func (p *picture) freed(s *seat, change func()) (private, shared uint32) {
	private, shared = s.CostQP, p.prefixQP(s.Prefix)
	change()
	return private - s.CostQP, (shared - p.prefixQP(s.Prefix)) * p.pages[s.Prefix&kv.MaxPrefixes]
}

// reclaim is what evicting a sequence would free.
func (p *picture) reclaim(s *seat) uint32 {
	was := *s
	private, shared := p.freed(s, func() { s.live, s.CostQP = false, 0 })
	*s = was
	return private + shared
}

// evict, compress and swap do what may has allowed, and return the memory that this frees.
func (p *picture) evict(s *seat) (private, shared uint32) {
	if s.onCPU() {
		p.cpuUsed -= s.cpuQP()
	}
	return p.freed(s, func() { s.live, s.evicted, s.CostQP = false, true, 0 })
}

func (p *picture) compress(s *seat) (private, shared uint32) {
	return p.freed(s, func() {
		s.Quant++
		s.CostQP = s.PrivatePages * s.Quant.QuarterPages()
		if k := s.Prefix & kv.MaxPrefixes; p.level[k] > s.Quant.QuarterPages() {
			p.level[k] = s.Quant.QuarterPages()
		}
	})
}

// swap of the serving profile frees nothing yet: the link takes its time.
func (p *picture) swap(s *seat) (private, shared uint32) {
	if !p.serving {
		return p.freed(s, func() { s.Swapped, s.swapped, s.CostQP = true, true, 0 })
	}
	s.swapped = true
	if s.Swapped {
		s.Wanted = true
		return 0, 0
	}
	p.cpuUsed += s.cpuQP()
	s.Moving = true
	return 0, 0
}
