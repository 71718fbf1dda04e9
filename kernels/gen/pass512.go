package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// Operations and generation of Step look at memory once, after generation, instead of keeping it up to date with every change. Sequences
// fill the lowest slots first, so the upper 32 lanes are seldom used, and passed over then.

// passer512 holds what the parts of StageOperate hand on.
type passer512 struct {
	b, ledger Register
	read      GPVirtual // plane

	active, t0, t1, done GPVirtual
	even                 OpmaskVirtual // lower bytes of words
	unit, value          VecVirtual    // bytes: quarter pages that a page of each lane costs at its level; the same times its retention weight, but for ephemeral lanes
	read1                VecVirtual    // bytes: 1 for lanes that are read
	own                  [2]VecVirtual // words, in the order of mixed512: private pages after generation
	tokens, latency      VecVirtual    // sums, dwords
	lines                [2]VecVirtual // of planes, at the end
}

// operate applies the operations.
func (p *passer512) operate() {
	t := told512{p.ledger, offLgEvictions, offLgCompressions, offLgSwaps, offLgSwapReads, offLgInvalid, offLgRisk, true}
	o := ops512(p.b, t)
	p.read = o.read
	t0, t1 := planeOf(p.b, offType0), planeOf(p.b, offType1)
	system := andNot(planeOf(p.b, offAlive), or(or(t0, t1), planeOf(p.b, offType2)))
	risk512(p.b, o.evict, system, andNot(t0, t1), andNot(t1, t0), t)
	p.weigh(applyOps512(p.b, o))
}

// weigh finds what a page of each lane costs, and what it is worth.
func (p *passer512) weigh(planes VecVirtual) {
	codes := kinds512(planes)
	p.unit = shuffled512(codes, func(x uint8) uint8 { return 1 << shiftOf(x) })
	p.value = shuffled512(codes, func(x uint8) uint8 { return weightOf(x) << shiftOf(x) })
	p.read1 = ZMM()
	k := K()
	KMOVQ(p.read, k)
	VMOVDQU8_Z(bytes(1), k, p.read1)
}

// kinds512 makes a byte of what decides what a page of each lane costs and is worth: bits 0 to 3 are Int8, Int4, Type0, Type1.
func kinds512(line VecVirtual) VecVirtual {
	codes := gather512(line, [8]int{offInt8, offInt4, offType0, offType1, offInt8, offInt4, offType0, offType1})
	VPANDD_BCST(constant(uint32(0x0F0F0F0F)), codes, codes)
	return codes
}

// shiftOf is the power of two that a page costs in quarter pages, weightOf the retention weight, twentieths, but for ephemeral lanes.
func shiftOf(kind uint8) uint8  { return [4]uint8{2, 1, 0, 0}[kind&3] }
func weightOf(kind uint8) uint8 { return [4]uint8{20, 15, 10, 2}[kind>>2] }

// mixed512 is the order of the words of 32 lanes that packing two registers of dwords leaves: every byte of a column by its place.
func mixed512(h int) (order []uint8) {
	for w := range 32 {
		lane := 32*h + w/8*4 + w%4 + w%8/4*16
		order = append(order, uint8(lane), uint8(lane))
	}
	return order
}

// mixed makes words of 32 lanes of a column of bytes.
func (p *passer512) mixed(column VecVirtual, h int) VecVirtual {
	z := ZMM()
	VMOVDQU8(constant(mixed512(h)...), z)
	VPERMB_Z(column, z, p.even, z)
	return z
}

// maskOf moves a plane to a k register.
func maskOf(m Mem) OpmaskVirtual {
	k := K()
	KMOVQ(m, k)
	return k
}

// lanesFrom moves the bits of a mask from lane n on to its start.
func lanesFrom(k OpmaskVirtual, n uint8) OpmaskVirtual {
	if n == 0 {
		return k
	}
	to := K()
	KSHIFTRQ(U8(n), k, to)
	return to
}

// bytesOf widens the bytes of group g to dwords.
func bytesOf(z VecVirtual, g int) VecVirtual {
	out := ZMM()
	if g == 0 {
		VPMOVZXBD(z.AsX(), out)
		return out
	}
	x := XMM()
	VEXTRACTI32X4(U8(g), z, x)
	VPMOVZXBD(x, out)
	return out
}

func (p *passer512) plane(off int) Mem { return Mem{Base: p.b, Disp: off} }

// ifNoUpper jumps to a label if no lane from 32 on is alive.
func (p *passer512) ifNoUpper(label string) {
	r := GP32()
	MOVL(p.plane(offAlive+4), r)
	TESTL(r, r)
	JZ(LabelRef(label))
}

// generate lets the lanes of Active generate, and the timers of all run.
func (p *passer512) generate() {
	b := p.b
	p.tokens, p.latency = ZMM(), ZMM()
	for _, z := range []VecVirtual{p.tokens, p.latency} {
		VPXORD(z, z, z)
	}
	p.own = [2]VecVirtual{ZMM(), ZMM()}
	p.even = K()
	KMOVQ(constant(uint64(0x5555555555555555)), p.even)
	p.active = upperPlane(b, offActive)
	slow := planeOf(b, offSwapped)
	ANDQ(p.active, slow)
	active, slowly := K(), K()
	KMOVQ(p.active, active)
	KMOVQ(slow, slowly)
	table, prefix, step := XMM(), ZMM(), ZMM()
	VMOVDQU(Mem{Base: argument("pages")}, table)
	VMOVDQU8(p.plane(offPrefix), prefix)
	VPBROADCASTW(argument("step").As32(), step)
	spent := GP64()
	p.half(0, active, slowly, prefix, table.AsZ(), step, spent)
	p.ifNoUpper("lower")
	upper := GP64()
	p.half(1, lanesFrom(active, 32), lanesFrom(slowly, 32), prefix, table.AsZ(), step, upper)
	SHLQ(U8(32), upper)
	ORQ(upper, spent)
	Label("lower")

	heat := ZMM()
	VMOVDQU8(p.plane(offHotness), heat)
	decay512(heat, active)
	VMOVDQU8(heat, p.plane(offHotness))

	p.t0, p.t1 = planeOf(b, offType0), planeOf(b, offType1)
	done, now := timers512(b, p.active, p.t0, p.t1, spent)
	p.done = done
	completed := GP64()
	POPCNTQ(done, completed)
	ADDL(completed.As32(), Mem{Base: p.ledger, Disp: offLgCompleted})
	gone := one512(done)
	p.lines = [2]VecVirtual{ZMM(), ZMM()}
	VMOVDQU64(p.plane(offAlive), p.lines[0])
	VMOVDQU64(p.plane(offAlive+64), p.lines[1])
	setPlane512(p.lines[0], one512(now), offActive)
	clearPlanes512(p.lines[0], gone, offPrefill)
	VPANDNQ(p.lines[1], gone, p.lines[1])
	VMOVDQU64(p.lines[0], p.plane(offAlive))
	VMOVDQU64(p.lines[1], p.plane(offAlive+64))
}

// half generates with 32 lanes; spent becomes a mask of those with nothing left.
func (p *passer512) half(h int, active, slowly OpmaskVirtual, prefix VecVirtual, table Register, step VecVirtual, spent GPVirtual) {
	rate, less, rest, n := ZMM(), ZMM(), ZMM(), ZMM()
	VMOVDQU16(p.plane(offRate+64*h), rate)
	VMOVDQU16(p.plane(offRemaining+64*h), rest)
	VPSRLW(U8(1), rate, less)
	VPSUBW(less, rate, slowly, rate)
	VPMINUW_Z(rest, rate, active, n)
	VPSUBW(n, rest, rest)
	VMOVDQU16(rest, p.plane(offRemaining+64*h))
	last, k := ZMM(), K()
	VMOVDQU16(p.plane(offLastAccess+64*h), last)
	VMOVDQU16(step, active, last)
	VMOVDQU16(last, p.plane(offLastAccess+64*h))
	VPTESTNMW(rest, rest, k)
	KMOVD(k, spent.As32())

	low := dwords(127)
	var before, after [2]VecVirtual // pages
	for i := range 2 {
		g := 2*h + i
		tokens, more := ZMM(), ZMM()
		before[i], after[i] = ZMM(), ZMM()
		if i == 0 {
			VPMOVZXWD(n.AsY(), more)
		} else {
			VMOVDQU16(constant(upperWords()...), more)
			VPERMW(n, more, more)
			VPANDD_BCST(constant(uint32(0xFFFF)), more, more)
		}
		VMOVDQU32(p.plane(offTokens+64*g), tokens)
		VPADDD(low, tokens, before[i])
		VPADDD(more, tokens, tokens)
		VMOVDQU32(tokens, p.plane(offTokens+64*g))
		VPADDD(more, p.tokens, p.tokens)
		VPADDD(more, before[i], after[i])
		VPSRLD(U8(7), before[i], before[i])
		VPSRLD(U8(7), after[i], after[i])
	}
	private, pages := ZMM(), p.mixed(prefix, h)
	VPERMW(table, pages, pages)
	VPACKUSDW(before[1], before[0], private)
	VPACKUSDW(after[1], after[0], p.own[h])
	VPSUBW(pages, private, private)
	VPSUBW(pages, p.own[h], p.own[h])

	// What an access to the swapped ones costs; rule 6.9. 200 pages are at the limit at every level.
	most := dwords(200 * 0x10001)
	VPMINUW(most, private, private)
	VPMULLW(p.mixed(p.unit, h), private, private)
	VPADDW(private, private, private)
	VPMINUW(most, private, private)
	VPADDW(dwords(100*0x10001), private, private)
	VPDPWSSD(p.mixed(p.read1, h), private, p.latency)
}

// upperWords moves the upper 16 of 32 words to the lower halves of dwords.
func upperWords() []uint16 {
	out := make([]uint16, 32)
	for i := range out {
		out[i] = uint16(16 + i/2)
	}
	return out
}

// account finds what the resident lanes hold alone, which it returns, and adds up tokens and latency.
func (p *passer512) account() (privateQP GPVirtual) {
	resident, swapped, ephemeral := GP64(), GP64(), GP64() // not from memory, where the lines have just gone
	VMOVQ(p.lines[0].AsX(), resident)
	VPEXTRQ(U8(1), p.lines[0].AsX(), swapped)
	VMOVQ(p.lines[1].AsX(), ephemeral)
	ANDNQ(resident, swapped, resident)
	unit, value, k := ZMM(), ZMM(), K()
	KMOVQ(resident, k)
	VMOVDQU8_Z(p.unit, k, unit)
	KMOVQ(andNot(resident, ephemeral), k) // ephemeral ones are worth nothing
	VMOVDQU8_Z(p.value, k, value)
	private, retained := ZMM(), ZMM()
	for _, z := range []VecVirtual{private, retained} {
		VPXORD(z, z, z)
	}
	for h := range 2 {
		if h == 1 {
			p.ifNoUpper("accounted")
		}
		VPDPWSSD(p.mixed(unit, h), p.own[h], private)
		VPDPWSSD(p.mixed(value, h), p.own[h], retained)
	}
	Label("accounted")
	sums, r := fourSums512(private, retained, p.tokens, p.latency), GP64()
	privateQP = GP32()
	VMOVD(sums, privateQP)
	MOVL(privateQP, Mem{Base: p.ledger, Disp: offLgPrivateQP})
	VPEXTRD(U8(1), sums, Mem{Base: p.ledger, Disp: offLgRetainedPrivate})
	VPEXTRD(U8(2), sums, r.As32())
	ADDQ(r, Mem{Base: p.ledger, Disp: offLgTokens})
	VPEXTRD(U8(3), sums, r.As32())
	ADDL(r.As32(), Mem{Base: p.ledger, Disp: offLgLatencyMilli})
	return privateQP
}

// fourSums512 adds up the dwords of each of four registers.
func fourSums512(a, b, c, d VecVirtual) VecVirtual {
	pair := func(a, b VecVirtual) VecVirtual { // dwords a, b, a, b
		lo, hi := ZMM(), ZMM()
		VPUNPCKLDQ(b, a, lo)
		VPUNPCKHDQ(b, a, hi)
		VPADDD(hi, lo, lo)
		return lo
	}
	ab, cd, lo, hi := pair(a, b), pair(c, d), ZMM(), ZMM()
	VPUNPCKLQDQ(cd, ab, lo)
	VPUNPCKHQDQ(cd, ab, hi)
	VPADDD(hi, lo, lo)
	y, x := YMM(), XMM()
	VEXTRACTI64X4(U8(1), lo, y)
	VPADDD(lo.AsY(), y, y)
	VEXTRACTI128(U8(1), y, x)
	VPADDD(y.AsX(), x, x)
	return x
}

// prefixes finds what the prefixes take, which it returns, and what joining them would add.
func (p *passer512) prefixes(shared Register) (qp GPVirtual) {
	m := &prefixer512{b: p.b}
	m.byLevel(p.lines[1])
	qp = sumQ512(m.memory(shared)).As32().(GPVirtual)
	MOVL(qp, Mem{Base: p.ledger, Disp: offLgSharedQP})
	return qp
}
