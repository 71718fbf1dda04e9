package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"

	"github.com/kvgym/kvgym/kernels"
)

// Admission: which waiting requests fit. A step has three ways: all of a short queue, few of a queue of sixteen, and one after the other.

func admit512() {
	TEXT("admitAVX512", NOSPLIT, "func(queue *uint64, needs *uint32, first, n, old, kept int, a *Admission) (end int)")
	Pragma("noescape")
	Doc("admitAVX512 is Admit.")
	a, extra := argument("a"), GP64()
	MOVQ(Mem{Base: a, Disp: offAdExtra}, extra)
	Store(admitBody512(a, extra), Return("end"))
	VZEROUPPER()
	RET()
}

// admitBody512 is Admit; it returns the end.
func admitBody512(a, extra GPVirtual) (end GPVirtual) {
	demands := argument("needs")
	LEAQ(Mem{Base: demands, Index: argument("first"), Scale: 4}, demands)

	used, budget, free := GP32(), GP32(), GP32()
	MOVL(Mem{Base: a, Disp: offAdUsed}, used)
	MOVL(Mem{Base: a, Disp: offAdBudget}, budget)
	MOVL(Mem{Base: a, Disp: offAdFree}, free)
	taken, private, joins, one := GP64(), GP32(), GP64(), GP64()
	XORQ(taken, taken)
	XORL(private, private)
	MOVQ(Mem{Base: a, Disp: offAdJoins}, joins) // one store at the end: a load of them all must not meet eight stores
	MOVQ(U32(1), one)
	table, mask, room := ZMM(), ZMM(), ZMM()
	VBROADCASTI32X8(Mem{Base: extra}, table)
	VPBROADCASTD(constant(uint32(demandMask)), mask)
	left := GP32()
	MOVL(budget, left)
	SUBL(used, left)
	VPBROADCASTD(left, room)
	var bits [2]GPVirtual
	for h := range 2 {
		need, prefix, k := ZMM(), ZMM(), K()
		VMOVDQU32(Mem{Base: demands, Disp: 64 * h}, need)
		VPSRLD(U8(demandShift), need, prefix)
		VPANDD(mask, need, need)
		VPERMD(table, prefix, prefix)
		VPADDD(prefix, need, need)
		VPCMPUD(U8(2), room, need, k) // at most
		bits[h] = GP64()
		KMOVW(k, bits[h].As32())
	}
	fit := bits[0]
	SHLQ(U8(16), bits[1])
	ORQ(bits[1], fit)
	BZHIQ(argument("n"), fit, fit)

	i, need, p, sum := GP64(), GP32(), GP64(), GP32()
	Label("next")
	TESTQ(fit, fit)
	JZ(LabelRef("served"))
	CMPL(used, budget)
	JCC(LabelRef("served"))
	TESTL(free, free)
	JZ(LabelRef("served"))
	TZCNTQ(fit, i)
	BLSRQ(fit, fit)
	MOVL(Mem{Base: demands, Index: i, Scale: 4}, need)
	MOVL(need, p.As32())
	SHRL(U8(demandShift), p.As32())
	ANDL(U32(demandMask), need)
	MOVL(used, sum)
	ADDL(need, sum)
	ADDL(Mem{Base: extra, Index: p, Scale: 4}, sum)
	CMPL(sum, budget)
	JHI(LabelRef("next"))
	MOVL(sum, used)
	MOVL(U32(0), Mem{Base: extra, Index: p, Scale: 4})
	SHLQ(U8(3), p)
	SHLXQ(p, one, p)
	ADDQ(p, joins)
	ADDL(need, private)
	DECL(free)
	BTSQ(i, taken)
	JMP(LabelRef("next"))
	Label("served")
	MOVL(used, Mem{Base: a, Disp: offAdUsed})
	MOVL(free, Mem{Base: a, Disp: offAdFree})
	MOVQ(joins, Mem{Base: a, Disp: offAdJoins})
	ADDL(private, Mem{Base: a, Disp: offAdPrivate})

	ones, gone, keep := GP64(), GP64(), GP64()
	MOVQ(I32(-1), ones)
	BZHIQ(argument("old"), ones, gone)
	BZHIQ(argument("n"), ones, keep)
	failed := andNot(gone, taken)
	POPCNTQ(failed, failed)
	ADDL(failed.As32(), Mem{Base: a, Disp: offAdFailed})
	ORQ(taken, gone)
	ANDQ(keep, gone)
	ANDNQ(keep, gone, keep)
	ADDL(private, Mem{Base: a, Disp: offAdGone})
	lost := andNot(gone, taken)
	Label("lost") // seldom any
	TESTQ(lost, lost)
	JZ(LabelRef("counted"))
	TZCNTQ(lost, i)
	BLSRQ(lost, lost)
	MOVL(Mem{Base: demands, Index: i, Scale: 4}, need)
	ANDL(U32(demandMask), need)
	ADDL(need, Mem{Base: a, Disp: offAdGone})
	JMP(LabelRef("lost"))
	Label("counted")

	// Eight at a time: the admitted to Words, the rest to its new place.
	queue, needs, n, from := argument("queue"), argument("needs"), argument("n"), GP64()
	LEAQ(Mem{Base: queue, Index: argument("first"), Scale: 8}, from)
	kept, admitted := argument("kept"), GP64()
	MOVL(Mem{Base: a, Disp: offAdTaken}, admitted.As32())
	count := GP64()
	Label("eight")
	TESTQ(n, n)
	JLE(LabelRef("end"))
	words, needed, out := ZMM(), YMM(), ZMM()
	VMOVDQU64(Mem{Base: from}, words)
	VMOVDQU(Mem{Base: demands}, needed)
	k := K()
	KMOVB(taken.As32(), k)
	VPCOMPRESSQ_Z(words, k, out)
	VMOVDQU64(out, Mem{Base: a, Disp: offAdWords, Index: admitted, Scale: 8})
	MOVBQZX(taken.As8(), count)
	POPCNTQ(count, count)
	ADDQ(count, admitted)
	SHRQ(U8(8), taken)
	k2 := K()
	KMOVB(keep.As32(), k2)
	VPCOMPRESSQ_Z(words, k2, out)
	VMOVDQU64(out, Mem{Base: queue, Index: kept, Scale: 8})
	VPCOMPRESSD_Z(needed, k2, needed)
	VMOVDQU(needed, Mem{Base: needs, Index: kept, Scale: 4})
	MOVBQZX(keep.As8(), count)
	POPCNTQ(count, count)
	ADDQ(count, kept)
	SHRQ(U8(8), keep)
	ADDQ(U8(64), from)
	ADDQ(U8(32), demands)
	SUBQ(U8(8), n)
	JMP(LabelRef("eight"))
	Label("end")
	MOVL(admitted.As32(), Mem{Base: a, Disp: offAdTaken})
	return kept
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
	needs, prefix := ZMM(), ZMM()
	VMOVDQU32(Mem{Base: argument("needs")}, needs)
	VPSRLD(U8(demandShift), needs, prefix)
	s.refuseGrowth(prefix, some, otherwise)
	costs := costs512(needs, some)
	in, sum := s.firstFit(costs)
	admitted := GP64()
	KMOVW(in, admitted.As32())
	POPCNTL(admitted.As32(), taken.As32())

	queue, waiting, gone := s.expired()
	ANDL(all.As32(), gone.As32())
	ANDNL(gone.As32(), admitted.As32(), gone.As32())
	failed := GP32()
	POPCNTL(gone.As32(), failed)
	ADDL(failed, s.in(offLgFailures))
	ADDL(sum, s.in(offLgPrivateQP))
	SUBL(sum, s.in(offLgPendingQP))
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

	taken512(a, waiting, in, words)
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

// refuseGrowth jumps to a label if a request joins a prefix that would grow.
func (s *stepper512) refuseGrowth(prefix VecVirtual, some OpmaskVirtual, otherwise string) {
	extra, grow := ZMM(), K()
	VBROADCASTI32X8(Mem{Base: argument("s"), Disp: offShExtra}, extra)
	VPERMD(extra, prefix, extra)
	VPTESTMD(extra, extra, some, grow)
	KORTESTW(grow, grow)
	JNZ(LabelRef(otherwise))
}

// costs512 stores what each of sixteen requests takes alone, and more than there can be for those that there are not: as halves, which general
// registers can load at once.
func costs512(needs VecVirtual, some OpmaskVirtual) Mem {
	cost, costs := ZMM(), AllocLocal(64)
	VPTERNLOGD(U8(0xFF), cost, cost, cost)
	VPANDD_BCST(constant(uint32(demandMask)), needs, some, cost)
	VMOVDQU(cost.AsY(), costs)
	VEXTRACTI64X4(U8(1), cost, costs.Offset(32))
	return costs
}

// firstFit lets each of sixteen requests take what it costs of the room that is left, if that is enough: if subtracting it borrows nothing. It
// returns which do, and what they take together.
func (s *stepper512) firstFit(costs Mem) (in OpmaskVirtual, sum GPVirtual) {
	refused, room := GP32(), GP32() // refused: bit 15 is the first request
	sum = GP32()
	XORL(refused, refused)
	MOVL(argument("budget").As32(), room)
	SUBL(s.used, room)
	CMOVLCS(refused, room)
	MOVL(room, sum)
	var falling [16]uint16
	for i := range 16 {
		falling[i] = 1 << (15 - i)
		rest := GP32()
		MOVL(room, rest)
		SUBL(costs.Offset(4*i), rest)
		CMOVLCC(rest, room)
		ADCL(refused, refused)
	}
	SUBL(room, sum)
	bits := YMM()
	in = K()
	VPBROADCASTW(refused, bits)
	VPTESTNMW(constant(falling[:]...), bits, in)
	return in, sum
}

// expired loads sixteen requests, and finds those that fail unless they are admitted now.
func (s *stepper512) expired() (queue GPVirtual, waiting [2]VecVirtual, gone GPVirtual) {
	bound, late := GP64(), ZMM() // below it: arrived long enough ago
	gone, queue = GP64(), argument("queue")
	MOVL(argument("step").As32(), bound.As32())
	SUBL(Mem{Base: argument("f"), Disp: offFrMaxWait}, bound.As32())
	XORL(gone.As32(), gone.As32())
	INCL(bound.As32())
	CMOVLLT(gone.As32(), bound.As32())
	SHLQ(U8(48), bound)
	VPBROADCASTQ(bound, late)
	var old [2]OpmaskVirtual
	for h := range 2 {
		waiting[h], old[h] = ZMM(), K()
		VMOVDQU64(Mem{Base: queue, Disp: 64 * h}, waiting[h])
		VPCMPUQ(U8(1), late, waiting[h], old[h])
	}
	KUNPCKBW(old[0], old[1], old[0])
	KMOVW(old[0], gone.As32())
	return queue, waiting, gone
}

// taken512 tells which of sixteen requests are admitted; the first eight are words, too.
func taken512(a GPVirtual, waiting [2]VecVirtual, in OpmaskVirtual, words VecVirtual) {
	list, more := XMM(), ZMM()
	VMOVDQU(constant(iotas[uint8](16)...), list)
	VPCOMPRESSB_Z(list, in, list)
	VPMOVZXBQ(list, words)
	VPERMI2Q(waiting[1], waiting[0], words)
	VPSRLDQ(U8(8), list, list)
	VPMOVZXBQ(list, more)
	VPERMI2Q(waiting[1], waiting[0], more)
	for h, w := range []VecVirtual{words, more} {
		VMOVDQU64(w, Mem{Base: a, Disp: offAdWords + 64*h})
	}
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
