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
