package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"

	"github.com/kvgym/kvgym/kernels"
)

// Step and Observe take few arguments and leave few results in memory: stores are what they wait for most.

// within returns what loads something of 4 or 8 bytes out of what an argument points to.
func within(pointer string, off, bytes int) func() GPVirtual {
	return func() GPVirtual {
		r := argument(pointer)
		m := Mem{Base: r, Disp: off}
		if bytes == 4 {
			MOVL(m, r.As32())
		} else {
			MOVQ(m, r)
		}
		return r
	}
}

// seatOf512 is what a seat has.
var seatOf512 = map[string]int{"b": offStBlock, "l": offStLedger, "limits": offStLimits, "pages": offStPages, "queue": offStQueue, "needs": offStNeeds}

// seated512 is where kernels that work on a seat find what others have as arguments.
func seated512() map[string]func() GPVirtual {
	m := map[string]func() GPVirtual{
		"budget":   within("limits", offLmBudget, 4),
		"capacity": within("limits", offLmCapacity, 4),
		"step":     within("l", offLgStep, 4),
		"n":        within("l", offLgQueueLen, 4),
		"oldest":   oldest512,
	}
	for name, off := range seatOf512 {
		m[name] = within("p", off, 8)
	}
	return m
}

// oldest512 is how long the oldest request waits, 0 if none does.
func oldest512() GPVirtual {
	age, born, some := argument("step"), argument("queue"), argument("n")
	MOVWLZX(Mem{Base: born, Disp: 6}, born.As32())
	SUBL(born.As32(), age.As32())
	NEGL(some.As32())
	SARL(U8(31), some.As32())
	ANDL(some.As32(), age.As32())
	return age
}

func step512() {
	TEXT("stepAVX512", NOSPLIT, "func(p *Seat, f *Frame, ops *[64]uint8, d *ArrivalDraws, a *Admission, s *Shared, from uint8) (stage uint8)")
	Pragma("noescape")
	Doc("stepAVX512 is Step.")
	given = seated512()
	defer func() { given = nil }()
	s := newStepper512()
	s.load()
	from := GP32()
	MOVBLZX(mustAddr("from"), from)
	TESTL(from, from)
	JNZ(LabelRef("serve"))
	s.operate()
	JMP(LabelRef("admit"))
	Label("serve")
	s.usedQP(s.used)
	s.rest()
}

func stepTrailing512(stream bool) {
	name := named("stepTrailing", stream)
	TEXT(name, NOSPLIT, "func(p *Seat, f *Frame, ops *[64]uint8, d *ArrivalDraws, a *Admission, s *Shared, trail *Trail) (stage uint8)")
	Pragma("noescape")
	Doc(name + " is StepTrailing.")
	given = seated512()
	defer func() { given = nil }()
	s := newStepper512()
	s.trail = &trailer512{stream: stream, seat: func(off int) func() GPVirtual { return within("trail", offTrSeat+off, 8) }, to: within("trail", offTrTo, 8)}
	s.load()
	s.operate()
	s.rest()
}

func newStepper512() *stepper512 {
	given["t"] = within("f", offFrTables, 8)
	given["base"], given["count"], given["table"] = within("d", offDrBase, 8), within("d", offDrCount, 8), within("d", offDrCounts, 8)
	return &stepper512{b: GP64(), ledger: GP64(), used: GP32(), leave: leaveStep512}
}

// rest is what follows the first stage.
func (s *stepper512) rest() {
	Label("admit")
	s.trail.globals()
	s.group(2)
	s.serve()
	Label("arrive")
	s.group(3)
	s.arrive()
}

// stepper512 holds what the stages of Step hand on.
type stepper512 struct {
	b, ledger GPVirtual
	used      GPVirtual // quarter pages
	trail     *trailer512
	fetch     func(g int)         // asks for memory ahead before a group of the trail is written; may be nil
	amid      func()              // does what else is done amid a step; may be nil
	leave     func(kernels.Stage) // says what is left to do
}

// group writes a group of the trail's rows.
func (s *stepper512) group(g int) {
	if s.fetch != nil {
		s.fetch(g)
	}
	s.trail.group(g)
}

func (s *stepper512) load() {
	MOVQ(argument("b"), s.b)
	MOVQ(argument("l"), s.ledger)
}

func (s *stepper512) in(off int) Mem { return Mem{Base: s.ledger, Disp: off} }

// usedQP finds the memory in use.
func (s *stepper512) usedQP(r GPVirtual) {
	MOVL(s.in(offLgPrivateQP), r)
	ADDL(s.in(offLgSharedQP), r)
}

// leave returns what is left to do.
func leaveStep512(stage kernels.Stage) {
	r := GP8()
	MOVB(U8(stage), r)
	Store(r, Return("stage"))
	VZEROUPPER()
	RET()
}

func (s *stepper512) operate() {
	s.mayStall()
	s.leave(kernels.StageOperate)
	Label("operate")
	s.work()
}

// mayStall passes over what follows, to a label, if no lane can stall.
func (s *stepper512) mayStall() {
	most, frame, used := planeOf(s.b, offActive), argument("f"), GP32()
	POPCNTQ(most, most)
	IMULL(Mem{Base: frame, Disp: offFrGrowth}, most.As32())
	s.usedQP(used)
	ADDL(used, most.As32())
	CMPL(most.As32(), argument("capacity").As32())
	JLS(LabelRef("operate"))
}

func (s *stepper512) work() {
	if s.trail != nil {
		s.trail.begin()
		s.group(0)
	}
	p := passer512{b: s.b, ledger: s.ledger}
	p.operate()
	if s.amid != nil {
		s.amid()
	}
	s.group(1)
	p.generate()
	private := p.account()
	shared := p.prefixes(argument("s"))
	ADDL(private, shared)
	MOVL(shared, s.used)
}

// serve admits, and lets the admitted enter.
func (s *stepper512) serve() {
	a, n, free := argument("a"), argument("n"), GP64()
	TESTQ(n, n)
	JZ(LabelRef("nobody"))
	slots := argument("f")
	MOVQ(Mem{Base: slots, Disp: offFrSlots}, slots)
	ANDNQ(slots, planeOf(s.b, offAlive), free) // empty ones
	words, taken := argument("queue"), GP64()
	s.all(a, n, free, "some")
	MOVQ(n, taken)
	JMP(LabelRef("admitted"))

	Label("some")
	slotsM := local(free)
	s.some(a, free)
	MOVQ(slotsM, free)
	s.load() // which registers had no room for
	MOVL(Mem{Base: a, Disp: offAdTaken}, taken.As32())
	LEAQ(Mem{Base: a, Disp: offAdWords}, words)
	CMPQ(taken, U8(8))
	JHI(LabelRef("many"))
	TESTQ(taken, taken)
	JZ(LabelRef("nobody"))

	Label("admitted")
	first := GP64()
	MOVQ(I32(-1), first)
	BZHIQ(taken, first, first)
	PDEPQ(free, first, free) // the lowest of them
	worth, touched := enterBody512(s.b, free, taken, Mem{Base: words}, Mem{Base: a, Disp: offAdJoins})
	reads := GP64()
	KMOVQ(touched, reads)
	ANDQ(Mem{Base: s.b, Disp: offSwapped}, reads)
	MOVQ(reads, Mem{Base: a, Disp: offAdReads})
	sums, r := prefixesBody512(s.b, s.prefixes(), worth), GP32()
	VPEXTRD(U8(2), sums, r)
	ADDL(r, s.in(offLgRetainedPrivate))
	JMP(LabelRef("arrive"))

	Label("nobody")
	s.noReads()
	prefixesBody512(s.b, s.prefixes(), nil)
	JMP(LabelRef("arrive"))

	Label("many")
	s.noReads()
	s.leave(kernels.StageEnter)
}

func (s *stepper512) prefixes() toldPrefixes512 {
	return toldPrefixes512{shared: argument("s"), totals: s.ledger, qp: offLgSharedQP, retained: offLgRetainedShared, mul: offLgPrefixMul, weight: offLgPrefixWeight}
}

func (s *stepper512) noReads() {
	none := GP64()
	XORQ(none, none)
	MOVQ(none, Mem{Base: argument("a"), Disp: offAdReads})
}

// all admits the whole queue if it has at most eight requests and there are slots and memory for all of them, as there most often are:
// then their order does not matter. Else it has changed nothing and jumps to a label.
func (s *stepper512) all(a, n, slots GPVirtual, otherwise string) {
	CMPQ(n, U8(8))
	JHI(LabelRef(otherwise))
	free := GP64()
	POPCNTQ(slots, free)
	CMPQ(free, n)
	JCS(LabelRef(otherwise))
	first, k := GP64(), K()
	MOVQ(I32(-1), first)
	BZHIQ(n, first, first)
	KMOVB(first.As32(), k)
	need, prefix := YMM(), YMM()
	VMOVDQU32_Z(Mem{Base: argument("needs")}, k, need)
	VPSRLD(U8(demandShift), need, prefix)
	VPANDD_BCST(constant(uint32(demandMask)), need, need)

	// Their memory, and what the prefixes that they join grow by.
	wide := ZMM()
	VPMOVZXDQ(prefix, wide)
	x := joined512(wide, k)
	joined, extra, joins := YMM(), YMM(), K()
	VPMOVZXBD(x, joined)
	VPTESTMD(joined, joined, joins)
	VMOVDQU32_Z(Mem{Base: argument("s"), Disp: offShExtra}, joins, extra)
	both, total := twoSums512(need, extra), GP64()
	MOVQ(both, total)
	SHRQ(U8(32), total)
	ADDL(both.As32(), total.As32())
	ADDL(s.used, total.As32())
	CMPL(total.As32(), argument("budget").As32())
	JHI(LabelRef(otherwise))

	VMOVQ(x, Mem{Base: a, Disp: offAdJoins})
	ADDL(both.As32(), s.in(offLgPrivateQP))
	SUBL(both.As32(), s.in(offLgPendingQP))
	ADDL(n.As32(), s.in(offLgAdmitted))
	none := GP32()
	XORL(none, none)
	MOVL(none, s.in(offLgQueueLen))
}

// some admits what fits, in order.
func (s *stepper512) some(a, slots GPVirtual) {
	put := func(r GPVirtual, off int) { MOVL(r.As32(), Mem{Base: a, Disp: off}) }
	none, free := GP64(), GP64()
	XORQ(none, none)
	POPCNTQ(slots, free)
	put(free, offAdFree)
	put(s.used, offAdUsed)
	put(argument("budget"), offAdBudget)
	for _, off := range []int{offAdTaken, offAdFailed, offAdPrivate, offAdGone} {
		put(none, off)
	}
	MOVQ(none, Mem{Base: a, Disp: offAdJoins})
	extra := argument("s")
	ADDQ(U8(offShExtra), extra)
	given["old"] = s.old()
	given["first"], given["kept"] = zero512, zero512
	end, r := admitBody512(a, extra), GP32()
	MOVQ(argument("l"), s.ledger)
	MOVL(end.As32(), s.in(offLgQueueLen))
	add := func(from, to int) {
		MOVL(Mem{Base: a, Disp: from}, r)
		ADDL(r, s.in(to))
	}
	add(offAdPrivate, offLgPrivateQP)
	add(offAdFailed, offLgFailures)
	add(offAdTaken, offLgAdmitted)
	MOVL(Mem{Base: a, Disp: offAdGone}, r)
	SUBL(r, s.in(offLgPendingQP))
}

func zero512() GPVirtual {
	r := GP64()
	XORQ(r, r)
	return r
}

// old counts the requests at the queue's head that fail unless they are admitted now.
func (s *stepper512) old() func() GPVirtual {
	old, n, queue, latest, frame := GP64(), argument("n"), argument("queue"), argument("step"), argument("f")
	SUBL(Mem{Base: frame, Disp: offFrMaxWait}, latest.As32()) // step of arrival
	XORQ(old, old)
	Label("old")
	CMPQ(old, n)
	JGE(LabelRef("expired"))
	born := GP32()
	MOVWLZX(Mem{Base: queue, Index: old, Scale: 8, Disp: 6}, born)
	CMPL(born, latest.As32())
	JGT(LabelRef("expired"))
	INCQ(old)
	JMP(LabelRef("old"))
	Label("expired")
	m := local(old)
	return func() GPVirtual {
		r := GP64()
		MOVQ(m, r)
		return r
	}
}

// arrive lets the step's requests join the queue.
func (s *stepper512) arrive() {
	n := argument("n")
	behind := func(queue string, bytes uint8) func() GPVirtual {
		of := given[queue]
		return func() GPVirtual {
			r := of()
			LEAQ(Mem{Base: r, Index: n, Scale: bytes}, r)
			return r
		}
	}
	given["words"], given["needs"] = behind("queue", 8), behind("needs", 4)
	given["lanes"] = within("f", offFrGroups, 8)
	given["stamp"] = func() GPVirtual {
		r := argument("step")
		SHLQ(U8(48), r)
		return r
	}
	room := GP32()
	frame := argument("f")
	MOVL(Mem{Base: frame, Disp: offFrQueueCap}, room)
	SUBL(n.As32(), room)
	given["room"] = func() GPVirtual {
		r := GP64()
		MOVL(room, r.As32())
		return r
	}
	arrived, memory := arriveBody512()
	CMPQ(arrived, U8(8))
	JHI(LabelRef("flood"))
	ADDL(sum512(memory), s.in(offLgPendingQP))
	ADDL(arrived.As32(), s.in(offLgArrived))
	CMPL(arrived.As32(), room)
	JHI(LabelRef("full"))
	ADDL(arrived.As32(), n.As32())
	MOVL(n.As32(), s.in(offLgQueueLen))
	s.leave(kernels.StageDone)

	Label("full")
	SUBL(room, arrived.As32())
	ADDL(arrived.As32(), s.in(offLgRejected))
	ADDL(arrived.As32(), s.in(offLgFailures))
	ADDL(n.As32(), room)
	MOVL(room, s.in(offLgQueueLen))
	s.leave(kernels.StageDone)

	Label("flood")
	s.leave(kernels.StageArrive)
}
