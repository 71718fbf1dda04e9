package policy

import (
	"slices"

	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/vecenv"
)

// tiered makes room in the order of what it costs in a real engine, each measure only while memory is above its target: it
// evicts what is dead, swaps out what pauses, compresses what loses least by it, and at last swaps out or compresses again
// what runs. It is the rule of thumb of the serving profile; its options leave measures out.
type tiered struct {
	name      string
	compress  bool     // to int8
	deep      bool     // to int4 when that is not enough
	recompute bool     // evict what pauses instead of swapping it out
	running   bool     // swap out running sequences of low weight when that is not enough
	hold      int      // first send back what is still in its first prefill and has a priority below this, so that decoding gets that time
	eager     kv.Quant // compress every sequence to this level at once, first
	prefix    [kv.MaxPrefixes + 1]prefixState
	live      []vecenv.SlotState
	order     ranking
}

func (p *tiered) Name() string { return p.name }

func (p *tiered) Act(v vecenv.View, a *Actions) {
	used, goal := int(v.UsedQP()), target(v)
	used -= p.holdBack(v, a)
	if used <= goal && p.eager == kv.FP16 {
		return
	}
	p.live = v.AppendLive(p.live[:0])
	p.live = slices.DeleteFunc(p.live, func(s vecenv.SlotState) bool { return p.holds(&s) })
	p.live, used = evictDead(p.live, used, goal, a)
	if p.recompute {
		used = p.evictIdle(used, goal, a)
	} else {
		used = p.swapIdle(v, used, goal, a)
	}
	if p.eager != kv.FP16 {
		used = p.compressTo(v, p.eager, used, 0, a)
	}
	if p.compress {
		used = p.compressTo(v, kv.INT8, used, goal, a)
	}
	if p.running {
		used = p.swapRunning(v, used, goal, a)
	}
	if p.deep {
		p.compressTo(v, kv.INT4, used, goal+int(v.PendingQP())*3/4, a)
	}
}

// holdBack sends back what it holds and returns the memory that this frees.
func (p *tiered) holdBack(v vecenv.View, a *Actions) (freed int) {
	if p.hold == 0 {
		return 0
	}
	v.Live(func(s *vecenv.SlotState) bool {
		if p.holds(s) {
			a.Evict(s.Slot)
			freed += int(s.CostQP)
		}
		return true
	})
	return freed
}

func (p *tiered) holds(s *vecenv.SlotState) bool {
	return s.Phase == kv.Prefill && !s.First && int(s.Priority) < p.hold
}

// evictIdle evicts sequences that pause, largest first.
func (p *tiered) evictIdle(used, goal int, a *Actions) int {
	if used <= goal {
		return used
	}
	for _, i := range p.order.ascending(p.live, func(s *vecenv.SlotState) int { return -int(s.CostQP) }) {
		s := &p.live[i]
		if used > goal && s.CostQP > 0 && s.Phase == kv.Idle && s.Type != kv.System {
			a.Evict(s.Slot)
			used -= int(s.CostQP)
			s.Moving = true // gone: nothing else is done to it
		}
	}
	return used
}

// swapIdle swaps out sequences that pause, largest first, while the CPU has memory.
func (p *tiered) swapIdle(v vecenv.View, used, goal int, a *Actions) int {
	return p.swapSome(v, used, goal, a, func(s *vecenv.SlotState) int { return -int(s.CostQP) },
		func(s *vecenv.SlotState) bool { return s.Phase == kv.Idle })
}

// swapRunning swaps out generating sequences, those of least weight first.
func (p *tiered) swapRunning(v vecenv.View, used, goal int, a *Actions) int {
	return p.swapSome(v, used, goal, a, func(s *vecenv.SlotState) int { return int(s.Priority) },
		func(s *vecenv.SlotState) bool { return s.Phase == kv.Decode || s.Phase == kv.Thinking })
}

func (p *tiered) swapSome(v vecenv.View, used, goal int, a *Actions, key func(s *vecenv.SlotState) int, may func(s *vecenv.SlotState) bool) int {
	if used <= goal {
		return used
	}
	host := int(v.HostFreeQP())
	for _, i := range p.order.ascending(p.live, key) {
		s := &p.live[i]
		if used <= goal {
			break
		}
		if s.Type != kv.System && s.CostQP > 0 && !s.Moving && int(s.CostQP) <= host && may(s) {
			a.Swap(s.Slot)
			host -= int(s.CostQP)
			used -= int(s.CostQP)
			s.Moving = true
		}
	}
	return used
}

// compressTo takes sequences one level down to the level given, those first that lose least for the memory they free.
func (p *tiered) compressTo(v vecenv.View, level kv.Quant, used, goal int, a *Actions) int {
	if used <= goal {
		return used
	}
	p.weighPrefixes(v)
	for _, i := range p.order.ascending(p.live, func(s *vecenv.SlotState) int { return p.loss(s, level) }) {
		s := &p.live[i]
		if used <= goal {
			break
		}
		if s.Quant != level-1 || s.Moving || s.Swapped || s.Phase == kv.Prefill {
			continue
		}
		freed := p.frees(s, level)
		if freed == 0 {
			continue
		}
		a.Compress(s.Slot)
		s.Quant++
		s.CostQP /= 2
		if s.Prefix != 0 && p.prefix[s.Prefix].qp > level.QuarterPages() {
			p.prefix[s.Prefix].qp = level.QuarterPages()
		}
		used -= freed
	}
	return used
}

// prefixState is what compressing a sharer does to its prefix.
type prefixState struct {
	pages  uint32
	qp     uint32 // quarter pages a page
	weight int    // of the tokens that all sharers have still to generate
}

func weight(s *vecenv.SlotState) int { return int(s.Remaining) * int(kv.TokenWeight(s.Priority)) }

func (p *tiered) weighPrefixes(v vecenv.View) {
	for k := range p.prefix {
		p.prefix[k] = prefixState{pages: uint32(v.Episode().PrefixPages[k]), qp: v.PrefixMultiplier(k)}
	}
	for i := range p.live {
		if s := &p.live[i]; s.Prefix != 0 {
			p.prefix[s.Prefix].weight += weight(s)
		}
	}
}

// frees is the memory that taking a sequence down to a level frees, its prefix's part too.
func (p *tiered) frees(s *vecenv.SlotState, level kv.Quant) int {
	freed := int(s.CostQP / 2)
	if x := &p.prefix[s.Prefix]; s.Prefix != 0 && x.qp > level.QuarterPages() {
		freed += int(x.pages * (x.qp - level.QuarterPages()))
	}
	return freed
}

// loss is the weight of the tokens that lose quality when a sequence goes down to a level, for the memory that this frees: those
// of all sharers where its prefix goes down with it, none where its prefix is as low already.
func (p *tiered) loss(s *vecenv.SlotState, level kv.Quant) int {
	lost := weight(s)
	if s.Prefix != 0 {
		lost = 0
		if p.prefix[s.Prefix].qp > level.QuarterPages() {
			lost = p.prefix[s.Prefix].weight
		}
	}
	return 16 * lost / max(1, p.frees(s, level))
}
