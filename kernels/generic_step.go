package kernels

import (
	"math/bits"

	"github.com/kvgym/kvgym/kv"
)

// The reference of the kernels that do several phases of a step: the kernels that they consist of, one after the other.

// stepEach is Step.
func stepEach(p *Seat, f *Frame, ops *[Lanes]uint8, d *ArrivalDraws, a *Admission, s *Shared, from Stage) Stage {
	if from == StageOperate && !p.operate(f, ops, s) {
		return StageOperate
	}
	if !p.serve(f, a, s) {
		return StageEnter
	}
	if !p.arrive(f, d) {
		return StageArrive
	}
	return StageDone
}

// operate applies the operations and lets the lanes generate, if none might stall.
func (p *Seat) operate(f *Frame, ops *[Lanes]uint8, s *Shared) bool {
	b, l := p.Block, p.Ledger
	if p.mayStall(f) {
		return false
	}
	var o Acted
	var g Advanced
	act(b, ops, p.Pages, &o)
	advance(b, p.Pages, int16(l.Step), 0, 1<<28, &g) // nobody stalls
	prefixes(b, 1, p.Pages, s)
	l.PrivateQP += g.QP - g.Freed - o.Freed
	l.RetainedPrivate += g.Retained - g.FreedRetained - o.FreedRetained
	l.SharedQP = s.QP
	l.Tokens += uint64(g.Tokens)
	l.LatencyMilli += o.LatencyMilli
	l.RiskHundredths += o.RiskHundredths
	c := &l.Counters
	c.Invalid += o.Invalid
	c.SwapReads += uint32(bits.OnesCount64(o.Read))
	c.Evictions += uint32(bits.OnesCount64(o.Evicted))
	c.Compressions += uint32(bits.OnesCount64(o.Compressed))
	c.Swaps += uint32(bits.OnesCount64(o.Swapped))
	c.Completed += uint32(bits.OnesCount64(g.Done))
	return true
}

// mayStall looks at lanes one by one only if there is no room for the most that all of them could grow by.
func (p *Seat) mayStall(f *Frame) bool {
	b, used, capacity := p.Block, p.Ledger.UsedQP(), p.Limits.CapacityQP
	if used+f.Growth*uint32(bits.OnesCount64(b.Active)) <= capacity {
		return false
	}
	pages := uint32(0)
	for m := b.Active &^ b.Swapped; m != 0; m &= m - 1 {
		s := bits.TrailingZeros64(m)
		pages += kv.Pages(b.Tokens[s]+uint32(b.Rate[s])) - kv.Pages(b.Tokens[s])
	}
	return used+kv.FP16QuarterPages*pages > capacity
}

// serve admits, and lets the admitted enter if they are no more than eight.
func (p *Seat) serve(f *Frame, a *Admission, s *Shared) bool {
	b, l, n := p.Block, p.Ledger, int(p.Ledger.QueueLen)
	a.Extra, a.Used, a.Budget, a.Free = &s.Extra, l.UsedQP(), p.Limits.BudgetQP, uint32(bits.OnesCount64(f.Slots&^b.Alive))
	a.Taken, a.Failed, a.Private, a.Gone, a.Joins, a.Reads = 0, 0, 0, 0, [8]uint8{}, 0
	old := 0 // requests at the queue's head that fail unless they are admitted now
	for old < n && l.Step-int32(p.Queue[old]>>48) >= f.MaxWait {
		old++
	}
	l.QueueLen = int32(admit(p.Queue[:], p.Needs[:], 0, n, old, 0, a))
	l.PrivateQP += a.Private
	l.PendingQP -= a.Gone
	l.Counters.Failures += a.Failed
	l.Counters.Admitted += a.Taken
	if a.Taken > 8 {
		return false
	}
	if a.Taken != 0 {
		for x, joined := range a.Joins[1:] {
			a.Reads |= b.Members[x] & b.Swapped &^ (b.Type0 | b.Type1 | b.Type2) & -isSet(uint64(joined))
		}
		free := f.Slots &^ b.Alive
		rest := free
		for range a.Taken {
			rest &= rest - 1
		}
		l.RetainedPrivate += enter(b, free&^rest, (*[8]uint64)(a.Words[:]), int(a.Taken), f.Tables, p.Pages, int16(l.Step), &a.Joins)
	}
	prefixes(b, 1, p.Pages, s)
	l.SharedQP, l.RetainedShared, l.PrefixMul, l.PrefixWeight = s.QP, s.Retained, s.Mul, s.Weight
	return true
}

// arrive lets the step's requests join the queue if they are no more than eight.
func (p *Seat) arrive(f *Frame, d *ArrivalDraws) bool {
	l, n := p.Ledger, p.Ledger.QueueLen
	words, needs := (*[8]uint64)(p.Queue[n:]), (*[8]uint32)(p.Needs[n:])
	room := f.QueueCap - n
	arrived, qp := arrive(words, needs, d.Base, uint64(uint16(l.Step))<<48, f.Tables, d.Count, f.Groups, d.Counts, int(room))
	if arrived > 8 {
		return false
	}
	taken := min(int32(arrived), room)
	l.PendingQP += qp
	l.QueueLen += taken
	l.Counters.Arrived += uint32(arrived)
	l.Counters.Rejected += uint32(int32(arrived) - taken)
	l.Counters.Failures += uint32(int32(arrived) - taken)
	return true
}

// observeEach is Observe.
func observeEach(dst []float32, p *Seat, f *Frame, s *Shared, stream bool) {
	var num [16]int32
	b, l, m := p.Block, p.Ledger, p.Limits
	l.Numerators(&num, f, m.BudgetQP, m.TokenNorm, p.oldest(), bits.OnesCount64(b.Alive), bits.OnesCount64(b.Active), bits.OnesCount64(b.Int8|b.Int4),
		bits.OnesCount64(b.Swapped))
	rows(dst[16:], b, &View{PrefixPages: p.Pages, Gain: &s.Gain, Last: s.Last[0], Limit: 2 * m.BudgetQP, Inv: float32(1) / float32(m.BudgetQP), Step: l.Step}, stream)
	globals((*[16]float32)(dst), &num, &f.Den, m.BudgetQP, m.CapacityQP, m.TokenNorm, MostLatency, stream)
}

func observeServingEach(dst []float32, p *Seat, f *Frame, g *ServingGlobals, stream bool) {
	var num [16]int32
	var s Shared
	b, l, m := p.Block, p.Ledger, p.Limits
	l.Numerators(&num, f, m.BudgetQP, 1, g.Oldest, bits.OnesCount64(b.Alive), bits.OnesCount64(b.Active), bits.OnesCount64(b.Int8|b.Int4), bits.OnesCount64(b.Swapped))
	num[4], num[5], num[14], num[15] = g.QueueLen, g.Growth, g.Good, g.Waits
	holders(b, 1, p.Pages, &l.PrefixMul, &s)
	rows(dst[16:], b, &View{PrefixPages: p.Pages, Gain: &s.Gain, Last: s.Last[0], Moving: g.Moving, Limit: 2 * m.BudgetQP, Inv: float32(1) / float32(m.BudgetQP), Step: l.Step}, stream)
	globals((*[16]float32)(dst), &num, &f.Den, m.BudgetQP, m.CapacityQP, g.Norm, g.Most, stream)
}

// oldest is the age of the oldest waiting request, 0 if none waits.
func (p *Seat) oldest() int32 {
	some := -p.Ledger.QueueLen >> 31 // no branch: nothing could predict it
	return (p.Ledger.Step - int32(p.Queue[0]>>48)) & some
}
