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
	s.trail.late()
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
	seat      *Mem      // where its pointers stand in the frame, if they do
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
	if s.seat != nil {
		MOVQ(s.seat.Offset(offStBlock), s.b)
		MOVQ(s.seat.Offset(offStLedger), s.ledger)
		return
	}
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

// mayStall passes over what follows, to a label, if no lane can stall. It looks at lanes only if there is no room for the most that all could
// grow by.
func (s *stepper512) mayStall() {
	lanes, most, frame, used := planeOf(s.b, offActive), GP64(), argument("f"), GP32()
	POPCNTQ(lanes, most)
	IMULL(Mem{Base: frame, Disp: offFrGrowth}, most.As32())
	s.usedQP(used)
	ADDL(used, most.As32())
	CMPL(most.As32(), argument("capacity").As32())
	JLS(LabelRef("operate"))
	ANDNQ(lanes, planeOf(s.b, offSwapped), lanes)
	ADDL(s.begun(lanes), used)
	CMPL(used, argument("capacity").As32())
	JLS(LabelRef("operate"))
}

// begun is what the pages cost at fp16 that lanes begin if they generate at their rate.
func (s *stepper512) begun(lanes GPVirtual) GPVirtual {
	pages, up, k := ZMM(), ZMM(), K()
	VPBROADCASTD(constant(uint32(127)), up)
	KMOVQ(lanes, k)
	for g := range 4 {
		before, after := ZMM(), ZMM()
		VPADDD(Mem{Base: s.b, Disp: offTokens + 64*g}, up, before)
		VPMOVZXWD(Mem{Base: s.b, Disp: offRate + 32*g}, after)
		VPADDD(before, after, after)
		VPSRLD(U8(7), before, before)
		VPSRLD(U8(7), after, after)
		if g == 0 {
			VPSUBD_Z(before, after, k, pages)
		} else {
			KSHIFTRQ(U8(16), k, k)
			VPSUBD_Z(before, after, k, after)
			VPADDD(after, pages, pages)
		}
	}
	qp := sum512(pages)
	SHLL(U8(2), qp)
	return qp
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
	words, taken := ZMM(), GP64()
	VMOVDQU64(Mem{Base: argument("queue")}, words)
	s.all(a, n, free, "some")
	MOVQ(n, taken)
	JMP(LabelRef("admitted"))

	Label("some")
	s.few(a, n, free, taken, words, "any")
	JMP(LabelRef("entering"))

	Label("any")
	slotsM := local(free)
	s.some(a, free)
	MOVQ(slotsM, free)
	s.load() // which registers had no room for
	MOVL(Mem{Base: a, Disp: offAdTaken}, taken.As32())
	VMOVDQU64(Mem{Base: a, Disp: offAdWords}, words)
	Label("entering")
	CMPQ(taken, U8(8))
	JHI(LabelRef("many"))
	TESTQ(taken, taken)
	JZ(LabelRef("nobody"))

	Label("admitted")
	first := GP64()
	MOVQ(I32(-1), first)
	BZHIQ(taken, first, first)
	PDEPQ(free, first, free) // the lowest of them
	worth, touched := enterBody512(s.b, free, taken, words, Mem{Base: a, Disp: offAdJoins})
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

// few admits what fits, in order, of at most sixteen requests, if there are slots for all of them and none joins a prefix that grows by it:
// without a branch, which nothing could predict. Else it has changed nothing and jumps to a label.
func (s *stepper512) few(a, n, slots, taken GPVirtual, words VecVirtual, otherwise string) {
	CMPQ(n, U8(16))
	JHI(LabelRef(otherwise))
	free := GP64()
	POPCNTQ(slots, free)
	CMPQ(free, n)
	JCS(LabelRef(otherwise))
	all, some := GP64(), K()
	MOVQ(I32(-1), all)
	BZHIQ(n, all, all)
	KMOVW(all.As32(), some)
	needs, prefix, cost, extra := ZMM(), ZMM(), ZMM(), ZMM()
	VMOVDQU32(Mem{Base: argument("needs")}, needs)
	VPSRLD(U8(demandShift), needs, prefix)
	VBROADCASTI32X8(Mem{Base: argument("s"), Disp: offShExtra}, extra)
	VPERMD(extra, prefix, extra)
	grow := K()
	VPTESTMD(extra, extra, some, grow)
	KORTESTW(grow, grow)
	JNZ(LabelRef(otherwise))
	VPTERNLOGD(U8(0xFF), cost, cost, cost)
	VPANDD_BCST(constant(uint32(demandMask)), needs, some, cost)
	costs := AllocLocal(64)
	VMOVDQU(cost.AsY(), costs)
	VEXTRACTI64X4(U8(1), cost, costs.Offset(32))

	none, room, before := GP32(), GP32(), GP32()
	XORL(none, none)
	MOVL(argument("budget").As32(), room)
	SUBL(s.used, room)
	CMOVLCS(none, room)
	MOVL(room, before)
	not := none // bit 15 is the first request
	var falling [16]uint16
	for i := range 16 {
		falling[i] = 1 << (15 - i)
		rest := GP32()
		MOVL(room, rest)
		SUBL(costs.Offset(4*i), rest)
		CMOVLCC(rest, room)
		ADCL(not, not)
	}
	SUBL(room, before) // what the admitted take
	admitted, bits, in := GP64(), YMM(), K()
	VPBROADCASTW(not, bits)
	VPTESTNMW(constant(falling[:]...), bits, in)
	KMOVW(in, admitted.As32())
	POPCNTL(admitted.As32(), taken.As32())

	// Who has waited long enough fails.
	bound, gone, late := GP64(), GP64(), ZMM()
	queue := argument("queue")
	MOVL(argument("step").As32(), bound.As32())
	SUBL(Mem{Base: argument("f"), Disp: offFrMaxWait}, bound.As32())
	XORL(gone.As32(), gone.As32())
	INCL(bound.As32())
	CMOVLLT(gone.As32(), bound.As32())
	SHLQ(U8(48), bound)
	VPBROADCASTQ(bound, late)
	var waiting [2]VecVirtual
	var old [2]OpmaskVirtual
	for h := range 2 {
		waiting[h], old[h] = ZMM(), K()
		VMOVDQU64(Mem{Base: queue, Disp: 64 * h}, waiting[h])
		VPCMPUQ(U8(1), late, waiting[h], old[h])
	}
	KUNPCKBW(old[0], old[1], old[0])
	KMOVW(old[0], gone.As32())
	ANDL(all.As32(), gone.As32())
	ANDNL(gone.As32(), admitted.As32(), gone.As32())
	failed := GP32()
	POPCNTL(gone.As32(), failed)
	ADDL(failed, s.in(offLgFailures))
	ADDL(before, s.in(offLgPrivateQP))
	SUBL(before, s.in(offLgPendingQP))
	ADDL(taken.As32(), s.in(offLgAdmitted))
	stay, left := GP64(), GP32()
	ANDNL(all.As32(), admitted.As32(), stay.As32())
	ANDNL(stay.As32(), gone.As32(), stay.As32())
	POPCNTL(stay.As32(), left)
	MOVL(left, s.in(offLgQueueLen))

	Label("failing") // seldom any
	TESTL(gone.As32(), gone.As32())
	JZ(LabelRef("kept"))
	i, lost := GP64(), GP32()
	TZCNTL(gone.As32(), i.As32())
	BLSRL(gone.As32(), gone.As32())
	MOVL(costs.Idx(i, 4), lost)
	SUBL(lost, s.in(offLgPendingQP))
	JMP(LabelRef("failing"))
	Label("kept")

	list, more := XMM(), ZMM()
	VMOVDQU(constant(numbered(16)...), list)
	VPCOMPRESSB_Z(list, in, list)
	VPMOVZXBQ(list, words)
	VPERMI2Q(waiting[1], waiting[0], words)
	VPSRLDQ(U8(8), list, list)
	VPMOVZXBQ(list, more)
	VPERMI2Q(waiting[1], waiting[0], more)
	for h, w := range []VecVirtual{words, more} {
		VMOVDQU64(w, Mem{Base: a, Disp: offAdWords + 64*h})
	}
	MOVL(taken.As32(), Mem{Base: a, Disp: offAdTaken})
	VMOVQ(joinedOf16(prefix, in), Mem{Base: a, Disp: offAdJoins})

	KMOVW(stay.As32(), in)
	VPCOMPRESSD_Z(needs, in, needs)
	VMOVDQU32(needs, Mem{Base: argument("needs")})
	VPCOMPRESSQ_Z(waiting[0], in, waiting[0])
	VMOVDQU64(waiting[0], Mem{Base: queue})
	KSHIFTRW(U8(8), in, in)
	VPCOMPRESSQ_Z(waiting[1], in, waiting[1])
	MOVBLZX(stay.As8(), stay.As32())
	POPCNTL(stay.As32(), stay.As32())
	VMOVDQU64(waiting[1], Mem{Base: queue, Index: stay, Scale: 8})
}

// numbered counts from 0.
func numbered(n int) []uint8 {
	list := make([]uint8, n)
	for i := range list {
		list[i] = uint8(i)
	}
	return list
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
