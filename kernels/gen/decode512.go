package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// Generation in the serving profile. Sequences fill the lowest slots first, so the upper 32 lanes are seldom used, and passed over then.

// due512 is the plane of those of 64 words that are at most a bound.
func due512() {
	TEXT("dueAVX512", NOSPLIT, "func(steps *[64]int16, set uint64, at int16) (plane uint64)")
	Pragma("noescape")
	Doc("dueAVX512 is Due.")
	steps, at := argument("steps"), ZMM()
	VPBROADCASTW(Load(Param("at"), GP32()), at)
	var halves [2]GPVirtual
	for h := range halves {
		z, k := ZMM(), K()
		VMOVDQU16(Mem{Base: steps, Disp: 64 * h}, z)
		VPCMPW(U8(2), at, z, k)
		halves[h] = GP64()
		KMOVD(k, halves[h].As32())
	}
	SHLQ(U8(32), halves[1])
	Store(and(or(halves[0], halves[1]), argument("set")), Return("plane"))
	VZEROUPPER()
	RET()
}

// sumQ512 adds up the qwords of z.
func sumQ512(z VecVirtual) GPVirtual {
	y, x, h, r := YMM(), XMM(), XMM(), GP64()
	VEXTRACTI64X4(U8(1), z, y)
	VPADDQ(z.AsY(), y, y)
	VEXTRACTI128(U8(1), y, x)
	VPADDQ(y.AsX(), x, x)
	VPSHUFD(U8(0x4E), x, h)
	VPADDQ(h, x, x)
	VMOVQ(x, r)
	return r
}

// perGroup512 goes through the set of a column of dwords, 16 lanes at a time, and past the upper 32 if the set has none there.
func perGroup512(do func(g int, m Mem, k OpmaskVirtual)) {
	column, set, lanes := argument("column"), argument("set"), K()
	KMOVQ(set, lanes)
	for g := range 4 {
		if g == 2 {
			SHRQ(U8(32), set)
			JZ(LabelRef("lower"))
		}
		do(g, Mem{Base: column, Disp: 64 * g}, lanesFrom(lanes, uint8(16*g)))
	}
	Label("lower")
}

// addDwords512 adds dwords to qwords.
func addDwords512(m Mem, k OpmaskVirtual, sum VecVirtual) {
	z, odd := ZMM(), ZMM()
	VMOVDQU32_Z(m, k, z)
	VPSRLQ(U8(32), z, odd)
	VPANDQ_BCST(constant(uint64(1)<<32-1), z, z)
	VPADDQ(odd, sum, sum)
	VPADDQ(z, sum, sum)
}

func sums512() {
	TEXT("sumAVX512", NOSPLIT, "func(column *[64]uint32, set uint64) uint64")
	Pragma("noescape")
	Doc("sumAVX512 is Sum.")
	sum := ZMM()
	VPXORD(sum, sum, sum)
	perGroup512(func(_ int, m Mem, k OpmaskVirtual) { addDwords512(m, k, sum) })
	Store(sumQ512(sum), ReturnIndex(0))
	VZEROUPPER()
	RET()
}

func remove512() {
	TEXT("removeAVX512", NOSPLIT, "func(b *Block, lane *Lane, mask uint64, pages *[8]uint16) (qp, retained uint32, empty uint8)")
	Pragma("noescape")
	Doc("removeAVX512 is Remove.")
	b, mask := argument("b"), argument("mask")
	resident, gone, lines := andNot(mask, planeOf(b, offSwapped)), ZMM(), [2]VecVirtual{ZMM(), ZMM()}
	VPBROADCASTQ(mask, gone)
	VMOVDQU64(Mem{Base: b, Disp: offAlive}, lines[0])
	VMOVDQU64(Mem{Base: b, Disp: offAlive + 64}, lines[1])

	// Of each prefix: whether they have members, and whether others have.
	theirs, others, had, none := ZMM(), ZMM(), K(), K()
	VPBROADCASTQ(resident, theirs)
	VPTESTMQ(theirs, lines[1], had)
	VPORQ_BCST(Mem{Base: b, Disp: offSwapped}, gone, others)
	VPANDNQ(lines[1], others, others)
	VPTESTNMQ(others, others, had, none)
	empty := GP32()
	KMOVB(none, empty)
	ANDL(U8(0xFE), empty) // the first qword is no prefix's
	Store(empty.As8(), Return("empty"))

	codes := kinds512(lines[0])
	shift := shuffled512(codes, shiftOf)
	weight, worthless := shuffled512(codes, weightOf), K()
	KMOVQ(Mem{Base: b, Disp: offAlive + 64}, worthless) // Type2: ephemeral ones
	KNOTQ(worthless, worthless)
	VMOVDQU8_Z(weight, worthless, weight)
	pages, qp, retained, low, lanes := pageTable512(), ZMM(), ZMM(), dwords(127), K()
	VPXORD(qp, qp, qp)
	VPXORD(retained, retained, retained)
	KMOVQ(resident, lanes)
	upper := resident
	for g := range 4 {
		if g == 2 {
			SHRQ(U8(32), upper)
			JZ(LabelRef("summed"))
		}
		own, prefix := ZMM(), ZMM()
		VPADDD(Mem{Base: b, Disp: offTokens + 64*g}, low, own)
		VPMOVZXBD(Mem{Base: b, Disp: offPrefix + 16*g}, prefix)
		VPSRLD(U8(7), own, own)
		VPERMD(pages, prefix, prefix)
		VPSUBD(prefix, own, own)
		VPSLLVD_Z(bytesOf(shift, g), own, lanesFrom(lanes, uint8(16*g)), own)
		VPADDD(own, qp, qp)
		VPMULLD(bytesOf(weight, g), own, own)
		VPADDD(own, retained, retained)
	}
	Label("summed")
	both := GP64()
	VMOVQ(fourSums512(qp, retained, qp, retained), both)
	Store(both.As32(), Return("qp"))
	SHRQ(U8(32), both)
	Store(both.As32(), Return("retained"))

	rest, more := ZMM(), argument("lane")
	VMOVDQU64(Mem{Base: more}, rest)
	for _, x := range []struct {
		line VecVirtual
		to   Mem
	}{{lines[0], Mem{Base: b, Disp: offAlive}}, {lines[1], Mem{Base: b, Disp: offAlive + 64}}, {rest, Mem{Base: more}}} {
		VPANDNQ(x.line, gone, x.line)
		VMOVDQU64(x.line, x.to)
	}
	VZEROUPPER()
	RET()
}

// retention512 are the retention weights of all lanes as bytes, twentieths: 20 system, 15 context, 10 generation, 2 reasoning, 0 ephemeral.
func retention512(plane func(off int) Mem) VecVirtual {
	worth, both := bytes(20), K()
	t0, t1 := maskOf(plane(offType0)), maskOf(plane(offType1))
	VMOVDQU8(bytes(15), t0, worth)
	VMOVDQU8(bytes(10), t1, worth)
	KANDQ(t0, t1, both)
	VMOVDQU8(bytes(2), both, worth)
	VMOVDQU8(bytes(0), maskOf(plane(offType2)), worth)
	return worth
}

// unit512 are the quarter pages that a page of each lane costs at its level, as bytes.
func unit512(plane func(off int) Mem) VecVirtual {
	unit := bytes(4)
	VMOVDQU8(bytes(2), maskOf(plane(offInt8)), unit)
	VMOVDQU8(bytes(1), maskOf(plane(offInt4)), unit)
	return unit
}

func decodeKernel512() {
	TEXT("decodeAVX512", NOSPLIT, "func(b *Block, lane *Lane, l *Ledger, set uint64, n uint32, deadline int16, room uint32, worth *[8]uint32, d *Decoded) (ok bool)")
	Pragma("noescape")
	Doc("decodeAVX512 is Decode.")
	d := &decoder512{b: argument("b"), set: argument("set"), lanes: K()}
	KMOVQ(d.set, d.lanes)
	d.grow()
	sums, qp := fourSums512(d.qp, d.retained, d.tokens, d.tokens), GP32()
	VMOVD(sums, qp)
	CMPL(qp, Load(Param("room"), GP32()))
	JHI(LabelRef("full"))
	l, r := argument("l"), GP64()
	ADDL(qp, Mem{Base: l, Disp: offLgPrivateQP})
	VPEXTRD(U8(1), sums, r.As32())
	ADDL(r.As32(), Mem{Base: l, Disp: offLgRetainedPrivate})
	VPEXTRD(U8(2), sums, r.As32())
	ADDQ(r, Mem{Base: l, Disp: offLgTokens})
	d.first()
	d.generate()
	returnBool("ok", 1)
	VZEROUPPER()
	RET()
	Label("full")
	returnBool("ok", 0)
	VZEROUPPER()
	RET()
}

// decoder512 holds what the parts of Decode hand on.
type decoder512 struct {
	b     Register
	set   GPVirtual
	lanes OpmaskVirtual // the set

	n, rest              [2]VecVirtual // words: what is generated, and what remains after that
	more, held, units    [4]VecVirtual // dwords: what is generated, tokens before it, quarter pages a page at the lane's level
	qp, retained, tokens VecVirtual    // sums
}

func (d *decoder512) plane(off int) Mem { return Mem{Base: d.b, Disp: off} }

// ifNoUpper jumps to a label if no lane from 32 on is in the set.
func (d *decoder512) ifNoUpper(label string) {
	r := GP64()
	MOVQ(d.set, r)
	SHRQ(U8(32), r)
	JZ(LabelRef(label))
}

// grow finds what the lanes generate and by how much memory they grow, and stores nothing.
func (d *decoder512) grow() {
	unit, weight, n, low := unit512(d.plane), retention512(d.plane), ZMM(), dwords(127)
	VPBROADCASTW(Load(Param("n"), GP32()), n)
	d.qp, d.retained, d.tokens = ZMM(), ZMM(), ZMM()
	for _, z := range []VecVirtual{d.qp, d.retained, d.tokens} {
		VPXORD(z, z, z)
	}
	for h := range 2 {
		if h == 1 {
			d.ifNoUpper("grown")
		}
		d.n[h], d.rest[h] = ZMM(), ZMM()
		VMOVDQU16(d.plane(offRemaining+64*h), d.rest[h])
		VPMINUW_Z(d.rest[h], n, lanesFrom(d.lanes, uint8(32*h)), d.n[h])
		VPSUBW(d.n[h], d.rest[h], d.rest[h])
		for g := 2 * h; g < 2*h+2; g++ {
			d.more[g], d.held[g] = ZMM(), ZMM()
			if g%2 == 0 {
				VPMOVZXWD(d.n[h].AsY(), d.more[g])
			} else {
				y := YMM()
				VEXTRACTI64X4(U8(1), d.n[h], y)
				VPMOVZXWD(y, d.more[g])
			}
			before, after := ZMM(), ZMM()
			VMOVDQU32(d.plane(offTokens+64*g), d.held[g])
			VPADDD(low, d.held[g], before)
			VPADDD(d.more[g], before, after)
			VPSRLD(U8(7), before, before)
			VPSRLD(U8(7), after, after)
			VPSUBD(before, after, after)
			d.units[g] = bytesOf(unit, g)
			VPMULLD(d.units[g], after, after)
			VPADDD(after, d.qp, d.qp)
			VPMULLD(bytesOf(weight, g), after, after)
			VPADDD(after, d.retained, d.retained)
			VPADDD(d.more[g], d.tokens, d.tokens)
		}
	}
	Label("grown")
}

// first finds whose first token this is, and who of them is late.
func (d *decoder512) first() {
	lane, first, late, upper, at := argument("lane"), GP64(), GP64(), GP64(), ZMM()
	MOVQ(Mem{Base: lane, Disp: offLnFirst}, first)
	ANDNQ(d.set, first, first)
	ORQ(first, Mem{Base: lane, Disp: offLnFirst})
	VPBROADCASTW(Load(Param("deadline"), GP32()), at)
	before := func(h int, to GPVirtual) {
		z, k := ZMM(), K()
		VMOVDQU16(Mem{Base: lane, Disp: offLnBorn + 64*h}, z)
		VPCMPW(U8(2), at, z, k)
		KMOVD(k, to.As32())
	}
	before(0, late)
	d.ifNoUpper("born")
	before(1, upper)
	SHLQ(U8(32), upper)
	ORQ(upper, late)
	Label("born")
	ANDQ(first, late)
	ORQ(late, Mem{Base: lane, Disp: offLnLate})
	t := told512{out: argument("l"), count: true}
	t.plane(first, offLgFirstTokens)
	t.plane(late, offLgLate)
}

// generate stores what the lanes have generated, and finds what that is worth.
func (d *decoder512) generate() {
	heat, step, value, finished := ZMM(), ZMM(), ZMM(), GP64()
	VMOVDQU8(d.plane(offHotness), heat)
	VPADDUSB(constant(repeated(uint8(63), 64)...), heat, d.lanes, heat)
	VMOVDQU8(heat, d.plane(offHotness))
	VPBROADCASTW(Mem{Base: argument("l"), Disp: offLgStep}, step)
	VPXORD(value, value, value)
	XORL(finished.As32(), finished.As32())

	// What a page of each prefix costs, 4 where nobody holds it, and what a token is worth by that of the coarser level.
	shared, worth, none, intime := YMM(), YMM(), K(), K()
	VPMOVZXBD(Mem{Base: argument("l"), Disp: offLgPrefixMul}, shared)
	VPTESTNMD(shared, shared, none)
	VPBROADCASTD(constant(uint32(4)), none, shared)
	VMOVDQU32(Mem{Base: argument("worth")}, worth)
	KMOVQ(Mem{Base: argument("lane"), Disp: offLnLate}, intime)
	KNOTQ(intime, intime)
	fifty := dwords(50)
	for h := range 2 {
		if h == 1 {
			d.ifNoUpper("generated")
		}
		lanes := lanesFrom(d.lanes, uint8(32*h))
		VMOVDQU16(d.rest[h], d.plane(offRemaining+64*h))
		rate, last, k, spent := ZMM(), ZMM(), K(), GP64()
		VMOVDQU16(d.plane(offRate+64*h), rate)
		VMOVDQU16(d.n[h], lanes, rate)
		VMOVDQU16(rate, d.plane(offRate+64*h))
		VMOVDQU16(d.plane(offLastAccess+64*h), last)
		VMOVDQU16(step, lanes, last)
		VMOVDQU16(last, d.plane(offLastAccess+64*h))
		VPTESTNMW(d.rest[h], d.rest[h], lanes, k)
		KMOVD(k, spent.As32())
		if h == 1 {
			SHLQ(U8(32), spent)
		}
		ORQ(spent, finished)
		for g := 2 * h; g < 2*h+2; g++ {
			VPADDD(d.more[g], d.held[g], d.held[g])
			VMOVDQU32(d.held[g], d.plane(offTokens+64*g))
			level, priority, odd := ZMM(), ZMM(), ZMM()
			VPMOVZXBD(d.plane(offPrefix+16*g), level)
			VPERMD(shared.AsZ(), level, level)
			VPMINUD(d.units[g], level, level)
			VPERMD(worth.AsZ(), level, level)
			VPADDD(level, level, lanesFrom(intime, uint8(16*g)), level)
			VPMOVZXBD(d.plane(offPriority+16*g), priority)
			VPADDD(fifty, priority, priority)
			VPMULLD(d.more[g], priority, priority) // below 2^25
			VPSRLQ(U8(32), priority, odd)
			VPMULUDQ(level, priority, priority)
			VPSRLQ(U8(32), level, level)
			VPMULUDQ(level, odd, odd)
			VPADDQ(priority, value, value)
			VPADDQ(odd, value, value)
		}
	}
	Label("generated")
	out := argument("d")
	MOVQ(sumQ512(value), Mem{Base: out, Disp: offDecWorth})
	gone := and(finished, andNot(planeOf(d.b, offType1), planeOf(d.b, offType0)))
	ANDQ(d.last(), gone)
	MOVQ(gone, Mem{Base: out, Disp: offDecGone})
	XORQ(gone, finished)
	MOVQ(finished, Mem{Base: out, Disp: offDecFinished})
}

// last are the lanes without another turn, of those that are looked at.
func (d *decoder512) last() GPVirtual {
	plane := GP64()
	XORL(plane.As32(), plane.As32())
	for g := range 4 {
		if g == 2 {
			d.ifNoUpper("last")
		}
		z, k, r := ZMM(), K(), GP64()
		VMOVDQU32(Mem{Base: argument("lane"), Disp: offLnRef + 64*g}, z)
		VPTESTNMD(z, z, k)
		KMOVW(k, r.As32())
		if g > 0 {
			SHLQ(U8(16*g), r)
		}
		ORQ(r, plane)
	}
	Label("last")
	return plane
}

// repeated are n equal values.
func repeated[T any](x T, n int) []T {
	out := make([]T, n)
	for i := range out {
		out[i] = x
	}
	return out
}
