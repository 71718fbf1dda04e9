package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// The queue of the serving profile: 32 tickets are two registers of dwords, one of words, half a one of bytes.

func enqueue512() {
	TEXT("enqueueAVX512", NOSPLIT, "func(t *Tickets, first int, words *[8]uint64, tables *RequestTables, step int16)")
	Pragma("noescape")
	Doc("enqueueAVX512 is Enqueue.")
	r := request512{w: ZMM()}
	VMOVDQU64(Mem{Base: argument("words")}, r.w)
	enqueueBody512(&r, Load(Param("tables"), GP64()), argument("first"), Load(Param("step"), GP32()))
	VZEROUPPER()
	RET()
}

// enqueueBody512 decodes eight requests into tickets from the first on, and returns what they need, qwords.
func enqueueBody512(r *request512, tables Register, first GPVirtual, now Register) (need VecVirtual) {
	t := argument("t")
	at := func(off int, size uint8) Mem { return Mem{Base: t, Disp: off, Index: first, Scale: size} }
	f := decode512(r, tables, nil)
	dwords := func(z VecVirtual, off int) {
		y := YMM()
		VPMOVQD(z, y)
		VMOVDQU32(y, at(off, 4))
	}
	bytes := func(z VecVirtual, off int) {
		x := XMM()
		VPMOVQB(z, x)
		VMOVQ(x, at(off, 1))
	}
	dwords(f.tokens, offTkPrivate)
	ref, codes := ZMM(), r.field(40, 4)
	VPSLLQ(U8(4), f.output, ref)
	VPORQ(codes, ref, ref)
	VPORQ_BCST_Z(constant(uint64(1)<<31), ref, f.below[0], ref)
	dwords(ref, offTkRef)
	rest, step := XMM(), XMM()
	VPMOVQW(f.output, rest)
	VMOVDQU16(rest, at(offTkRemaining, 2))
	VPBROADCASTW(now, step)
	VMOVDQU16(step, at(offTkBorn, 2))
	VMOVDQU16(step, at(offTkSince, 2))
	bytes(f.priority, offTkPriority)
	bytes(f.prefix, offTkPrefix)
	bytes(f.cycle, offTkCodes)
	kind := byType512(f.below, 1, 2, 3, 4)
	bytes(kind, offTkType)
	none := GP64()
	XORL(none.As32(), none.As32())
	MOVQ(none, at(offTkFlags, 1))
	return f.need
}

func wait512() {
	TEXT("waitAVX512", NOSPLIT, "func(t *Tickets, n int, step, old int16, room uint32, pages *[8]uint16, mul *[8]uint8, w *Waiting)")
	Pragma("noescape")
	Doc("waitAVX512 is Wait.")
	of := func(name string) GPVirtual {
		r := GP64()
		Load(Param(name), r.As32())
		return r
	}
	planes := waitBody512(argument("n"), of("step"), of("old"), of("room"))
	w := argument("w")
	for i, off := range []int{offWtReady, offWtFits, offWtOld, offWtFresh} {
		MOVL(planes[i].As32(), Mem{Base: w, Disp: off})
	}
	VZEROUPPER()
	RET()
}

// waitBody512 finds who is ready, who of these fits, who has waited too long, and who has given no first token.
func waitBody512(n, step, old, room GPVirtual) (planes [4]GPVirtual) {
	t := argument("t")
	extra, low := joining512(), dwords(127)
	most := ZMM()
	VPBROADCASTD(room.As32(), most)
	var fits [2]GPVirtual
	for h := range fits {
		need, prefix, k := ZMM(), ZMM(), K()
		VPADDD(Mem{Base: t, Disp: offTkPrivate + 64*h}, low, need)
		VPSRLD(U8(7), need, need)
		VPSLLD(U8(2), need, need)
		VPMOVZXBD(Mem{Base: t, Disp: offTkPrefix + 16*h}, prefix)
		VPERMD(extra, prefix, prefix)
		VPADDD(prefix, need, need)
		VPCMPUD(U8(2), most, need, k)
		fits[h] = GP64()
		KMOVW(k, fits[h].As32())
	}
	SHLQ(U8(16), fits[1])
	ORQ(fits[1], fits[0])
	since := ZMM()
	VMOVDQU16(Mem{Base: t, Disp: offTkSince}, since)
	compared := func(than GPVirtual, how uint8) GPVirtual {
		z, k, r := ZMM(), K(), GP64()
		VPBROADCASTW(than.As32(), z)
		VPCMPW(U8(how), z, since, k)
		KMOVD(k, r.As32())
		return r
	}
	ready, late, fresh := compared(step, 1), compared(old, 2), GP64()
	flags, first, k := YMM(), YMM(), K()
	VMOVDQU8(Mem{Base: t, Disp: offTkFlags}, flags)
	VPBROADCASTB(constant(uint8(ticketFirst)), first)
	VPTESTNMB(first, flags, k)
	KMOVD(k, fresh.As32())
	ANDQ(ready, fits[0])
	planes = [4]GPVirtual{ready, fits[0], late, fresh}
	for _, plane := range planes {
		BZHIQ(n, plane, plane)
	}
	return planes
}

// joining512 is what the first member of each prefix adds, dwords, of those that nobody holds.
func joining512() VecVirtual {
	extra, mul, unheld := YMM(), YMM(), K()
	VPMOVZXWD(Mem{Base: argument("pages")}, extra)
	VPMOVZXBD(Mem{Base: argument("mul")}, mul)
	VPTESTNMD(mul, mul, unheld)
	VPSLLD_Z(U8(2), extra, unheld, extra)
	return extra.AsZ().(VecVirtual)
}

func choose512() {
	TEXT("chooseAVX512", NOSPLIT, "func(t *Tickets, set uint32, slots int, room uint32, pages *[8]uint16, mul *[8]uint8) (chosen uint32)")
	Pragma("noescape")
	Doc("chooseAVX512 is Choose.")
	set, room := GP64(), GP64()
	Load(Param("set"), set.As32())
	Load(Param("room"), room.As32())
	Store(chooseBody512(set, argument("slots"), room.As32()).As32(), Return("chosen"))
	VZEROUPPER()
	RET()
}

// chooseBody512 is Choose.
func chooseBody512(set, slots GPVirtual, room Register) (chosen GPVirtual) {
	t, low := argument("t"), dwords(127)
	chosen = GP64()
	XORL(chosen.As32(), chosen.As32())
	extra := joining512()
	var alone, prefix [2]VecVirtual
	for h := range 2 {
		alone[h], prefix[h] = ZMM(), ZMM()
		VPADDD(Mem{Base: t, Disp: offTkPrivate + 64*h}, low, alone[h])
		VPSRLD(U8(7), alone[h], alone[h])
		VPSLLD(U8(2), alone[h], alone[h])
		VPMOVZXBD(Mem{Base: t, Disp: offTkPrefix + 16*h}, prefix[h])
	}
	numbers, zero := ZMM(), ZMM()
	VMOVDQU32(constant(iotas[uint32](16)...), numbers)
	VPXORD(zero, zero, zero)

	Label("choose")
	left, fits := ZMM(), [2]GPVirtual{GP64(), GP64()}
	VPBROADCASTD(room, left)
	var whole [2]VecVirtual
	for h := range 2 {
		k := K()
		whole[h] = ZMM()
		VPERMD(extra, prefix[h], whole[h])
		VPADDD(alone[h], whole[h], whole[h])
		VPCMPUD(U8(2), left, whole[h], k)
		KMOVW(k, fits[h].As32())
	}
	SHLQ(U8(16), fits[1])
	ORQ(fits[1], fits[0])
	ANDQ(set, fits[0])
	JZ(LabelRef("chosen"))
	TESTQ(slots, slots)
	JZ(LabelRef("chosen"))
	DECQ(slots)
	i, upTo, place, taken, held := GP64(), GP64(), ZMM(), ZMM(), K()
	TZCNTQ(fits[0], i)
	BTSQ(i, chosen)
	BLSMSKQ(fits[0], upTo) // what did not fit before it does not fit later
	ANDNQ(set, upTo, set)
	VPBROADCASTD(i.As32(), place)
	VMOVDQA32(place, taken)
	VPERMI2D(whole[1], whole[0], taken)
	need := GP32()
	VMOVD(taken.AsX(), need)
	SUBL(need, room)
	VPERMI2D(prefix[1], prefix[0], place)
	VPCMPEQD(place, numbers, held)
	VMOVDQA32(zero, held, extra)
	JMP(LabelRef("choose"))
	Label("chosen")
	return chosen
}

func leave512() {
	TEXT("leaveAVX512", NOSPLIT, "func(t *Tickets, stay uint32) (oldest int16, qp uint32)")
	Pragma("noescape")
	Doc("leaveAVX512 is Leave.")
	stay := GP64()
	Load(Param("stay"), stay.As32())
	oldest, qp := leaveBody512(stay)
	Store(oldest.As16(), Return("oldest"))
	Store(qp, Return("qp"))
	VZEROUPPER()
	RET()
}

// leaveBody512 is Leave.
func leaveBody512(stays GPVirtual) (oldest, qp GPVirtual) {
	t, stay, kept := argument("t"), stays.As32(), GP64()
	at := func(off int) Mem { return Mem{Base: t, Disp: off} }
	lanes, zero := K(), ZMM()
	KMOVD(stay, lanes)
	VPXORD(zero, zero, zero)
	MOVWLZX(stays.As16(), kept.As32())
	POPCNTL(kept.As32(), kept.As32())
	need, low := ZMM(), dwords(127)
	VPXORD(need, need, need)
	for _, off := range []int{offTkPrivate, offTkRef} { // the second half behind what stays of the first
		lo, hi := ZMM(), ZMM()
		VMOVDQU32(at(off), lo)
		VMOVDQU32(at(off+64), hi)
		VPCOMPRESSD_Z(lo, lanes, lo)
		VPCOMPRESSD_Z(hi, lanesFrom(lanes, 16), hi)
		VMOVDQU32(zero, at(off+64))
		VMOVDQU32(lo, at(off))
		VMOVDQU32(hi, Mem{Base: t, Disp: off, Index: kept, Scale: 4})
		if off != offTkPrivate {
			continue
		}
		for _, z := range []VecVirtual{lo, hi} {
			VPADDD(low, z, z)
			VPSRLD(U8(7), z, z)
			VPADDD(z, need, need)
		}
	}
	since := ZMM()
	VMOVDQU16(at(offTkSince), since)
	for _, off := range []int{offTkRemaining, offTkBorn, offTkSince} {
		z := since
		if off != offTkSince {
			z = ZMM()
			VMOVDQU16(at(off), z)
		}
		out := ZMM()
		VPCOMPRESSW_Z(z, lanes, out)
		VMOVDQU16(out, at(off))
	}
	for _, off := range []int{offTkPriority, offTkPrefix, offTkType, offTkCodes, offTkFlags} {
		y := YMM()
		VMOVDQU8(at(off), y)
		VPCOMPRESSB_Z(y, lanes, y)
		VMOVDQU8(y, at(off))
	}
	VPSLLD(U8(2), need, need)
	qp = sum512(need)
	// The least of the words, as unsigned ones.
	most, y, x := ZMM(), YMM(), XMM()
	oldest = GP32()
	VPBROADCASTW(constant(uint16(0x7FFF)), most)
	VMOVDQU16(since, lanes, most)
	VEXTRACTI64X4(U8(1), most, y)
	VPMINSW(most.AsY(), y, y)
	VEXTRACTI128(U8(1), y, x)
	VPMINSW(y.AsX(), x, x)
	VPXORD(constant(repeated(uint16(0x8000), 8)...), x, x)
	VPHMINPOSUW(x, x)
	VMOVD(x, oldest)
	XORL(U32(0x8000), oldest)
	return oldest, qp
}

func settle512() {
	TEXT("settleAVX512", NOSPLIT, "func(b *Block, lane *Lane, t *Tickets, set uint32, slots uint64, pages *[8]uint16, step int16)")
	Pragma("noescape")
	Doc("settleAVX512 is Settle.")
	set, step := GP64(), GP64()
	Load(Param("set"), set.As32())
	Load(Param("step"), step.As32())
	newSettler512(set, argument("slots")).settle(step)
	VZEROUPPER()
	RET()
}

// settler512 moves columns of tickets to slots by one permutation.
type settler512 struct {
	b, t  GPVirtual
	from  VecVirtual // bytes: the ticket that each of the slots gets
	slots OpmaskVirtual
}

func newSettler512(set, slots GPVirtual) *settler512 {
	s := &settler512{b: argument("b"), t: argument("t"), from: ZMM(), slots: K()}
	numbers, k := YMM(), K()
	KMOVD(set.As32(), k)
	VMOVDQU8(constant(iotas[uint8](32)...), numbers)
	VPCOMPRESSB_Z(numbers, k, numbers)
	KMOVQ(slots, s.slots)
	VPEXPANDB_Z(numbers.AsZ(), s.slots, s.from)
	return s
}

// bytes moves a column of bytes, where other slots keep what they have in z; nil is 0.
func (s *settler512) bytes(off int, z VecVirtual) VecVirtual {
	y := YMM()
	VMOVDQU(Mem{Base: s.t, Disp: off}, y)
	if z == nil {
		z = ZMM()
		VPERMB_Z(y.AsZ(), s.from, s.slots, z)
	} else {
		VPERMB(y.AsZ(), s.from, s.slots, z)
	}
	return z
}

// update512 changes a line of a column.
func update512(m Mem, do func(z VecVirtual)) {
	z := ZMM()
	VMOVDQU64(m, z)
	do(z)
	VMOVDQU64(z, m)
}

func (s *settler512) settle(now GPVirtual) {
	column := func(off int) Mem { return Mem{Base: s.b, Disp: off} }
	for _, c := range [][2]int{{offTkPriority, offPriority}, {offTkCodes, offCycle}} {
		update512(column(c[1]), func(z VecVirtual) { s.bytes(c[0], z) })
	}
	update512(column(offHotness), func(z VecVirtual) { VMOVDQU8(bytes(63), s.slots, z) })
	prefixes, types, flags := s.bytes(offTkPrefix, nil), s.bytes(offTkType, nil), s.bytes(offTkFlags, nil)
	update512(column(offPrefix), func(z VecVirtual) { VMOVDQU8(prefixes, s.slots, z) })
	for _, f := range []struct {
		bit uint8
		off int
	}{{ticketFirst, offLnFirst}, {ticketLate, offLnLate}} {
		k, r := K(), GP64()
		VPTESTMB(bytes(f.bit), flags, k)
		KMOVQ(k, r)
		ORQ(r, Mem{Base: argument("lane"), Disp: f.off})
	}
	planes, members := ZMM(), ZMM()
	VMOVDQU8_Z(shuffled512(types, func(x uint8) uint8 {
		return bitOf512(offAlive) | bitOf512(offPrefill) | x&1*bitOf512(offType0) | x>>1&1*bitOf512(offType1)
	}), s.slots, planes)
	join512(planes512(planes), s.b, offAlive)
	VPORQ(shuffled512(types, func(x uint8) uint8 { return x >> 2 & 1 }), shuffled512(prefixes, func(x uint8) uint8 { return member(x & 7) }), members)
	join512(planes512(members), s.b, offAlive+64)

	pages, step := YMM(), ZMM()
	VPMOVZXWD(Mem{Base: argument("pages")}, pages)
	VPBROADCASTW(now.As32(), step)
	upper := GP64()
	KMOVQ(s.slots, upper)
	SHRQ(U8(32), upper)
	s.half(0, prefixes, pages, step)
	TESTQ(upper, upper)
	JZ(LabelRef("settled"))
	s.half(1, prefixes, pages, step)
	Label("settled")
}

// half moves what is wider than a byte into 32 slots.
func (s *settler512) half(h int, prefixes, pages, step VecVirtual) {
	k := lanesFrom(s.slots, uint8(32*h))
	from, zero := YMM(), ZMM()
	VEXTRACTI64X4(U8(uint8(h)), s.from, from)
	words := ZMM()
	VPMOVZXBW(from, words)
	VPXORD(zero, zero, zero)
	at := func(base Register, off, size int) Mem { return Mem{Base: base, Disp: off + 32*size*h} }
	for _, c := range []struct {
		to   Mem
		from int
	}{{at(s.b, offRemaining, 2), offTkRemaining}, {at(argument("lane"), offLnBorn, 2), offTkBorn}} {
		table := ZMM()
		VMOVDQU16(Mem{Base: s.t, Disp: c.from}, table)
		update512(c.to, func(z VecVirtual) { VPERMW(table, words, k, z) })
	}
	for _, to := range []Mem{at(s.b, offLastAccess, 2), at(argument("lane"), offLnAdmit, 2)} {
		update512(to, func(z VecVirtual) { VMOVDQU16(step, k, z) })
	}
	update512(at(s.b, offRate, 2), func(z VecVirtual) { VMOVDQU16(zero, k, z) })
	var private, ref [2]VecVirtual
	for i := range 2 {
		private[i], ref[i] = ZMM(), ZMM()
		VMOVDQU32(Mem{Base: s.t, Disp: offTkPrivate + 64*i}, private[i])
		VMOVDQU32(Mem{Base: s.t, Disp: offTkRef + 64*i}, ref[i])
	}
	for i := range 2 {
		g, lanes := 2*h+i, lanesFrom(k, uint8(16*i))
		x, px, index, prefix, tokens := XMM(), XMM(), ZMM(), ZMM(), ZMM()
		VEXTRACTI32X4(U8(uint8(i)), from, x)
		VPMOVZXBD(x, index)
		VEXTRACTI32X4(U8(uint8(g)), prefixes, px)
		VPMOVZXBD(px, prefix)
		VPERMD(pages.AsZ(), prefix, prefix)
		VPSLLD(U8(7), prefix, prefix)
		VMOVDQA32(index, tokens)
		VPERMI2D(private[1], private[0], tokens)
		to := Mem{Base: s.b, Disp: offTokens + 64*g}
		update512(to, func(z VecVirtual) { VPADDD(prefix, tokens, lanes, z) })
		VPERMI2D(ref[1], ref[0], index)
		update512(Mem{Base: argument("lane"), Disp: offLnRef + 64*g}, func(z VecVirtual) { VMOVDQA32(index, lanes, z) })
	}
}

func serveTickets512() {
	TEXT("serveTicketsAVX512", NOSPLIT, "func(p *Seat, f *Frame, lane *Lane, t *Tickets, clock *Clock, s *Served) (ok bool)")
	Pragma("noescape")
	Doc("serveTicketsAVX512 is ServeTickets, for a clock whose tables hold all; ok is false, and nothing is done, where Pay's kernel does not either.")
	seat := func(off int) GPVirtual {
		r := argument("p")
		MOVQ(Mem{Base: r, Disp: off}, r)
		return r
	}
	inside := func(base func() GPVirtual, off int) func() GPVirtual {
		return func() GPVirtual {
			r := base()
			ADDQ(U32(off), r)
			return r
		}
	}
	ledger := func() GPVirtual { return seat(offStLedger) }
	given = map[string]func() GPVirtual{
		"b": func() GPVirtual { return seat(offStBlock) }, "pages": func() GPVirtual { return seat(offStPages) }, "l": ledger,
		"mul":   inside(ledger, offLgPrefixMul),
		"work":  inside(func() GPVirtual { r := GP64(); Load(Param("lane"), r); return r }, offLnWork),
		"joins": inside(func() GPVirtual { r := GP64(); Load(Param("s"), r); return r }, offSvJoins),
	}
	defer func() { given = nil }()
	of := func(base GPVirtual, off int) GPVirtual {
		r := GP64()
		MOVL(Mem{Base: base, Disp: off}, r.As32())
		return r
	}

	lg, limits := ledger(), seat(offStLimits)
	n, step, old, minus := of(lg, offLgQueueLen), of(lg, offLgStep), GP64(), GP64()
	MOVL(step.As32(), old.As32())
	SUBL(Mem{Base: argument("f"), Disp: offFrMaxWait}, old.As32())
	MOVL(I32(-1), minus.As32())
	CMPL(old.As32(), minus.As32())
	CMOVLLT(minus.As32(), old.As32())
	limit, room, none := of(limits, offLmBudget), GP64(), GP64()
	MOVL(limit.As32(), room.As32())
	SHRL(U8(6), limit.As32())
	SUBL(limit.As32(), room.As32())
	used := of(lg, offLgPrivateQP)
	ADDL(Mem{Base: lg, Disp: offLgSharedQP}, used.As32())
	XORL(none.As32(), none.As32())
	SUBL(used.As32(), room.As32())
	CMOVLCS(none.As32(), room.As32())
	queued, stepAt, roomAt := local(n), local(step), local(room)
	w := waitBody512(n, step, old, room)
	lateAt := local(w[2])
	ANDQ(w[0], w[3])
	waitsAt := local(w[3])

	free, count := GP64(), GP64()
	b := argument("b")
	MOVQ(Mem{Base: b, Disp: offAlive}, free)
	NOTQ(free)
	ANDQ(Mem{Base: argument("f"), Disp: offFrSlots}, free)
	POPCNTQ(free, count)
	freeAt := local(free)
	MOVQ(roomAt, room)
	chosen := chooseBody512(w[1], count, room.As32())
	chosenAt := local(chosen)
	back := func(m Mem) GPVirtual {
		r := GP64()
		MOVQ(m, r)
		return r
	}

	zero, out := GP64(), argument("s")
	XORL(zero.As32(), zero.As32())
	MOVQ(zero, Mem{Base: out, Disp: offSvWaste})
	MOVQ(zero, Mem{Base: out, Disp: offSvJoins})
	TESTQ(chosen, chosen)
	JZ(LabelRef("none"))
	slots, waste := payBody512(chosen, func() GPVirtual { return back(freeAt) })
	MOVQ(waste, Mem{Base: argument("s"), Disp: offSvWaste})
	newSettler512(back(chosenAt), slots).settle(back(stepAt))
	Label("none")

	stay, failed, gone, admitted := GP64(), back(lateAt), back(chosenAt), GP64()
	MOVQ(I32(-1), stay)
	BZHIQ(back(queued), stay, stay)
	ANDNQ(failed, gone, failed)
	POPCNTQ(gone, admitted)
	ORQ(failed, gone)
	ANDNQ(stay, gone, stay)
	POPCNTQ(failed, failed)
	lg = ledger()
	ADDL(failed.As32(), Mem{Base: lg, Disp: offLgFailures})
	ADDL(admitted.As32(), Mem{Base: lg, Disp: offLgAdmitted})
	left, waits := GP64(), back(waitsAt)
	POPCNTQ(stay, left)
	MOVL(left.As32(), Mem{Base: lg, Disp: offLgQueueLen})
	ANDQ(stay, waits)
	POPCNTQ(waits, waits)
	MOVL(waits.As32(), Mem{Base: argument("s"), Disp: offSvFirstWaits})
	oldest, qp := leaveBody512(stay)
	MOVWLSX(oldest.As16(), oldest.As32())
	MOVL(oldest.As32(), Mem{Base: argument("s"), Disp: offSvOldest})
	MOVL(qp.As32(), Mem{Base: ledger(), Disp: offLgPendingQP})
	mayRefuse512()
}

func arriveTickets512() {
	TEXT("arriveTicketsAVX512", NOSPLIT, "func(l *Ledger, f *Frame, t *Tickets, d *ArrivalDraws) (n int, ok bool)")
	Pragma("noescape")
	Doc("arriveTicketsAVX512 is ArriveTickets.")
	in := func(base string, off int) func() GPVirtual {
		return func() GPVirtual {
			r := GP64()
			Load(Param(base), r)
			MOVQ(Mem{Base: r, Disp: off}, r)
			return r
		}
	}
	given = map[string]func() GPVirtual{"count": in("d", offDrCount), "table": in("d", offDrCounts), "lanes": in("f", offFrGroups)}
	defer func() { given = nil }()
	l, f, queued, most := argument("l"), argument("f"), GP64(), GP32()
	MOVL(Mem{Base: l, Disp: offLgQueueLen}, queued.As32())
	MOVL(Mem{Base: f, Disp: offFrQueueCap}, most)
	lanes := GP32()
	MOVL(U32(ticketLanes), lanes)
	CMPL(most, lanes)
	CMOVLGT(lanes, most)
	SUBL(queued.As32(), most)
	CMPL(most, U8(8))
	JLT(LabelRef("refused"))
	n := howMany512()
	CMPQ(n, U8(8))
	JHI(LabelRef("refused"))
	Store(n, Return("n"))
	ones, k := GP64(), K()
	MOVQ(I32(-1), ones)
	BZHIQ(n, ones, ones)
	KMOVB(ones.As32(), k)
	ADDL(n.As32(), Mem{Base: l, Disp: offLgArrived})
	ADDL(queued.As32(), n.As32())
	MOVL(n.As32(), Mem{Base: l, Disp: offLgQueueLen})
	r, step := drawn512(in("d", offDrBase)()), GP32()
	MOVL(Mem{Base: l, Disp: offLgStep}, step)
	need := enqueueBody512(&r, in("f", offFrTables)(), queued, step)
	VMOVDQA64_Z(need, k, need)
	ADDL(sum512(need), Mem{Base: argument("l"), Disp: offLgPendingQP})
	mayRefuse512()
}
