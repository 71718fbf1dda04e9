package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// Operations in the serving profile, where they need nobody's place and nothing has to wait.

func operateServing512() {
	TEXT("operateServingAVX512", NOSPLIT, "func(p *Seat, lane *Lane, ops *[64]uint8, host, link uint32, o *Operated) (ok bool)")
	Pragma("noescape")
	Doc("operateServingAVX512 is OperateServing.")
	seat := argument("p")
	at := func(off int) GPVirtual {
		r := GP64()
		MOVQ(Mem{Base: seat, Disp: off}, r)
		return r
	}
	o := &operator512{b: at(offStBlock), ledger: at(offStLedger), pages: at(offStPages), more: argument("lane"), out: argument("o")}
	o.operations()
	o.line0, o.line1 = ZMM(), ZMM()
	VMOVDQU64(o.plane(offAlive), o.line0)
	VMOVDQU64(o.plane(offAlive+64), o.line1)
	busy, moved := GP32(), GP32()
	XORL(busy, busy)
	XORL(moved, moved)
	some := or(o.compress, o.leave)
	TESTQ(some, some)
	JZ(LabelRef("moved"))
	o.weigh()
	o.move(busy, moved)
	Label("moved")
	o.tell(busy, moved)
	mayRefuse512()
}

// mayRefuse512 ends a kernel that says whether it has done anything: what jumps to refused must have stored nothing.
func mayRefuse512() {
	returnBool("ok", 1)
	VZEROUPPER()
	RET()
	Label("refused")
	returnBool("ok", 0)
	VZEROUPPER()
	RET()
}

// operator512 holds what the parts of OperateServing hand on.
type operator512 struct {
	b, ledger, pages, more, out GPVirtual

	evict, compress, back, leave GPVirtual // planes
	asked                        GPVirtual // operations
	line0, line1                 VecVirtual
	sums                         VecVirtual // dwords: what is compressed, what leaves, what the CPU holds, and what retaining the memory freed was worth
}

func (o *operator512) plane(off int) Mem { return Mem{Base: o.b, Disp: off} }

func (o *operator512) lane(off int) Mem { return Mem{Base: o.more, Disp: off} }

// operations finds what is to be done.
func (o *operator512) operations() {
	lo, hi, asked := asked512()
	o.asked = asked
	alive, swapped := planeOf(o.b, offAlive), planeOf(o.b, offSwapped)
	o.evict = and(andNot(lo, hi), alive)
	out, settled := GP64(), GP64()
	MOVQ(o.lane(offLnOut), out)
	ANDNQ(out, o.evict, settled)
	JNZ(LabelRef("refused"))
	MOVQ(swapped, settled)
	ORQ(out, settled)
	ORQ(o.lane(offLnIn), settled)
	ORQ(o.plane(offPrefill), settled)
	ANDNQ(alive, settled, settled)
	o.compress, o.back, o.leave = andNot(hi, lo), GP64(), and(lo, hi)
	ANDNQ(o.compress, planeOf(o.b, offInt4), o.compress)
	ANDQ(settled, o.compress)
	MOVQ(o.lane(offLnWanted), o.back)
	ANDNQ(swapped, o.back, o.back)
	ANDQ(o.leave, o.back)
	ANDQ(settled, o.leave)
	done := or(or(o.evict, o.compress), or(o.back, o.leave))
	POPCNTQ(done, done)
	SUBL(done.As32(), o.asked.As32())
}

// weigh adds up what the lanes hold alone, and refuses those that hold too much.
func (o *operator512) weigh() {
	codes, lanes := kinds512(o.line0), passer512{b: o.b, even: K()}
	KMOVQ(constant(uint64(0x5555555555555555)), lanes.even)
	unit := shuffled512(codes, func(x uint8) uint8 { return 1 << shiftOf(x) })
	value := shuffled512(codes, func(x uint8) uint8 { return weightOf(x) << shiftOf(x) })
	half := shuffled512(codes, func(x uint8) uint8 { return weightOf(x) << shiftOf(x) >> 1 })
	of := func(plane GPVirtual, column, also VecVirtual) VecVirtual { // the column where the plane has lanes, elsewhere 0 or also
		k := K()
		KMOVQ(plane, k)
		if also == nil {
			also = ZMM()
			VMOVDQU8_Z(column, k, also)
		} else {
			VMOVDQU8(column, k, also)
		}
		return also
	}
	ephemeral := planeOf(o.b, offType2)
	inHost := andNot(planeOf(o.b, offSwapped), o.evict)
	times := [4]VecVirtual{of(o.compress, unit, nil), of(o.leave, unit, nil), of(inHost, unit, nil),
		of(andNot(o.compress, ephemeral), half, of(andNot(o.leave, ephemeral), value, nil))}
	var sums [4]VecVirtual
	for i := range sums {
		sums[i] = ZMM()
		VPXORD(sums[i], sums[i], sums[i])
	}
	table, prefix, low, most := XMM(), ZMM(), dwords(127), K()
	VMOVDQU(Mem{Base: o.pages}, table)
	VMOVDQU8(o.plane(offPrefix), prefix)
	all := ZMM()
	for h := range 2 {
		if h == 1 {
			lanes.ifNoUpper("weighed")
		}
		var held [2]VecVirtual
		for i := range held {
			held[i] = ZMM()
			VMOVDQU32(o.plane(offTokens+64*(2*h+i)), held[i])
			if h+i == 0 {
				VMOVDQA32(held[i], all)
			} else {
				VPORD(held[i], all, all)
			}
			VPADDD(low, held[i], held[i])
			VPSRLD(U8(7), held[i], held[i])
		}
		own, shared := ZMM(), lanes.mixed(prefix, h)
		VPERMW(table.AsZ(), shared, shared)
		VPACKUSDW(held[1], held[0], own)
		VPSUBW(shared, own, own)
		for i := range sums {
			VPDPWSSD(lanes.mixed(times[i], h), own, sums[i])
		}
	}
	Label("weighed")
	VPTESTMD(dwords(^uint32(mostOperated-1)), all, most)
	o.sums = fourSums512(sums[0], sums[1], sums[2], sums[3])
	KORTESTW(most, most)
	JNZ(LabelRef("refused"))
}

// move takes what is freed off the totals, or refuses if there is no room for what leaves.
func (o *operator512) move(busy, moved GPVirtual) {
	hosted, freed, worth := GP32(), GP32(), GP32()
	VPEXTRD(U8(1), o.sums, moved)
	VPEXTRD(U8(2), o.sums, hosted)
	CMPL(moved, Load(Param("link"), GP32()))
	JHI(LabelRef("refused"))
	ADDL(moved, hosted)
	CMPL(hosted, Load(Param("host"), GP32()))
	JLS(LabelRef("room"))
	TESTQ(o.leave, o.leave)
	JNZ(LabelRef("refused"))
	Label("room")
	VMOVD(o.sums, busy)
	MOVL(busy, freed)
	SHRL(U8(1), freed)
	ADDL(freed, busy)
	ADDL(moved, freed)
	SUBL(freed, Mem{Base: o.ledger, Disp: offLgPrivateQP})
	VPEXTRD(U8(3), o.sums, worth)
	SUBL(worth, Mem{Base: o.ledger, Disp: offLgRetainedPrivate})
	o.prefixes(busy)

	lower := GP64()
	MOVQ(o.plane(offInt8), lower)
	ANDQ(o.compress, lower)
	orPlane512(o.line0, one512(o.leave), offSwapped)
	xorPlane512(o.line0, one512(o.compress), offInt8)
	orPlane512(o.line0, one512(lower), offInt4)
	VMOVDQU64(o.line0, o.plane(offAlive))
}

// prefixes brings those up to date that are compressed with a member, or that no resident member holds any more: a dword each.
func (o *operator512) prefixes(busy GPVirtual) {
	compressed, among, left, others := one512(o.compress), ZMM(), one512(o.leave), ZMM()
	prefixes, some, int8s, empty, lowered := K(), K(), K(), K(), K()
	KMOVB(constant(uint8(0xFE)), prefixes) // the first qword is no prefix's
	VPANDQ(o.line1, compressed, among)
	VPTESTMQ(among, among, prefixes, some)
	everywhere := ZMM()
	VPBROADCASTQ(o.plane(offInt8), everywhere)
	VPTESTMQ(everywhere, among, some, int8s)
	VPTESTMQ(left, o.line1, prefixes, empty)
	VPORQ_BCST(o.plane(offSwapped), left, others)
	VPANDNQ(o.line1, others, others)
	VPTESTNMQ(others, others, empty, empty)

	pages, was, weight, want := YMM(), YMM(), YMM(), YMM()
	VPMOVZXWD(Mem{Base: o.pages}, pages)
	VPMOVZXBD(Mem{Base: o.ledger, Disp: offLgPrefixMul}, was)
	VPMOVZXBD(Mem{Base: o.ledger, Disp: offLgPrefixWeight}, weight)
	VPBROADCASTD(constant(uint32(2)), want)
	VPBROADCASTD(constant(uint32(1)), int8s, want)
	VPCMPUD(U8(1), was, want, some, lowered) // less than

	qp, retained, traffic, is := YMM(), YMM(), YMM(), YMM()
	VPMULLD(pages, was, qp)
	VPMULLD(qp, weight, retained)
	VMOVDQA32(was, is)
	VMOVDQA32(want, lowered, is)
	VPADDD(want, was, traffic)
	VPMULLD_Z(pages, traffic, lowered, traffic)
	VPBROADCASTD(constant(uint32(20)), lowered, weight)
	VPXORD(is, is, empty, is)
	VPXORD(weight, weight, empty, weight)
	after, worth := YMM(), YMM()
	VPMULLD(pages, is, after)
	VPMULLD(after, weight, worth)
	VPSUBD(qp, after, after)
	VPSUBD(retained, worth, worth)
	x, r := XMM(), GP32()
	VPMOVDB(is, x)
	VMOVQ(x, Mem{Base: o.ledger, Disp: offLgPrefixMul})
	VPMOVDB(weight, x)
	VMOVQ(x, Mem{Base: o.ledger, Disp: offLgPrefixWeight})
	sums := fourSums512(after.AsZ().(VecVirtual), worth.AsZ().(VecVirtual), traffic.AsZ().(VecVirtual), traffic.AsZ().(VecVirtual))
	VMOVD(sums, r)
	ADDL(r, Mem{Base: o.ledger, Disp: offLgSharedQP})
	VPEXTRD(U8(1), sums, r)
	ADDL(r, Mem{Base: o.ledger, Disp: offLgRetainedShared})
	VPEXTRD(U8(2), sums, r)
	ADDL(r, busy)
}

// tell counts the operations, lets hotness decay, and stores the planes of the lanes.
func (o *operator512) tell(busy, moved GPVirtual) {
	count := func(n GPVirtual, off int) { ADDL(n.As32(), Mem{Base: o.ledger, Disp: off}) }
	count(o.asked, offLgInvalid)
	t := told512{out: o.ledger, count: true}
	t.plane(o.evict, offLgEvictions)
	t.plane(o.compress, offLgCompressions)
	t.plane(or(o.back, o.leave), offLgSwaps)
	MOVQ(o.evict, Mem{Base: o.out, Disp: offOpEvict})
	MOVL(busy, Mem{Base: o.out, Disp: offOpBusy})
	MOVL(moved, Mem{Base: o.out, Disp: offOpMoved})
	hot := ZMM()
	VMOVDQU8(o.plane(offHotness), hot)
	cool512(hot)
	VMOVDQU8(hot, o.plane(offHotness))
	update512(Mem{Base: o.more}, func(z VecVirtual) {
		VPORQ(one512(o.back), z, maskOfPlanes(offLnWanted), z)
		VPBROADCASTQ(o.leave, maskOfPlanes(offLnFresh), z)
	})
}

// maskOfPlanes is the mask of one of a lane's planes.
func maskOfPlanes(off int) OpmaskVirtual {
	k := K()
	KMOVB(constant(uint8(1)<<(off/8)), k)
	return k
}
