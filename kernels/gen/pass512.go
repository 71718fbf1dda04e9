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
	read      Mem // plane

	active, t0, t1, done GPVirtual
	unit                 VecVirtual    // bytes: quarter pages a page of each lane costs at its level
	units, own           [4]VecVirtual // dwords: the same; private pages after generation
	tokens, latency      VecVirtual    // sums
	lines                [2]VecVirtual // of planes, at the end
}

// operate applies the operations.
func (p *passer512) operate() {
	t := told512{p.ledger, offLgEvictions, offLgCompressions, offLgSwaps, offLgSwapReads, offLgInvalid, offLgRisk, true}
	o := ops512(p.b, t)
	p.read = local(o.read)
	t0, t1 := planeOf(p.b, offType0), planeOf(p.b, offType1)
	system := andNot(planeOf(p.b, offAlive), or(or(t0, t1), planeOf(p.b, offType2)))
	risk512(p.b, o.evict, system, andNot(t0, t1), andNot(t1, t0), t)
	applyOps512(p.b, o)
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
	p.unit = unit512(p.plane)
	p.tokens, p.latency = ZMM(), ZMM()
	for _, z := range []VecVirtual{p.tokens, p.latency} {
		VPXORD(z, z, z)
	}
	for g := range 4 {
		p.own[g], p.units[g] = ZMM(), ZMM()
	}
	p.active = planeOf(b, offActive)
	slow := planeOf(b, offSwapped)
	ANDQ(p.active, slow)
	active, slowly := K(), K()
	KMOVQ(p.active, active)
	KMOVQ(slow, slowly)
	table, step := pageTable512(), ZMM()
	VPBROADCASTW(argument("step").As32(), step)
	read := maskOf(p.read)
	spent := GP64()
	p.half(0, active, slowly, read, table, step, spent)
	p.ifNoUpper("lower")
	upper := GP64()
	p.half(1, lanesFrom(active, 32), lanesFrom(slowly, 32), lanesFrom(read, 32), table, step, upper)
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
	VPBROADCASTQ(now, lane512(offActive), p.lines[0])
	VPANDNQ_Z(p.lines[0], gone, lane512(offAlive, offSwapped, offType0, offType1, offActive, offInt8, offInt4), p.lines[0]) // no Prefill
	VPANDNQ(p.lines[1], gone, p.lines[1])
	VMOVDQU64(p.lines[0], p.plane(offAlive))
	VMOVDQU64(p.lines[1], p.plane(offAlive+64))
}

// half generates with 32 lanes; spent becomes a mask of those with nothing left.
func (p *passer512) half(h int, active, slowly, read OpmaskVirtual, table, step VecVirtual, spent GPVirtual) {
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

	low, two, hundred := dwords(127), dwords(200), dwords(100)
	for i := range 2 {
		g := 2*h + i
		tokens, more, prefix, before := ZMM(), ZMM(), ZMM(), ZMM()
		if i == 0 {
			VPMOVZXWD(n.AsY(), more)
		} else {
			y := YMM()
			VEXTRACTI64X4(U8(1), n, y)
			VPMOVZXWD(y, more)
		}
		VMOVDQU32(p.plane(offTokens+64*g), tokens)
		VPMOVZXBD(p.plane(offPrefix+16*g), prefix)
		VPERMD(table, prefix, prefix)
		VPADDD(low, tokens, before)
		VPADDD(more, tokens, tokens)
		VMOVDQU32(tokens, p.plane(offTokens+64*g))
		VPADDD(more, p.tokens, p.tokens)
		VPADDD(more, before, p.own[g])
		VPSRLD(U8(7), before, before)
		VPSRLD(U8(7), p.own[g], p.own[g])
		VPSUBD(prefix, before, before)
		VPSUBD(prefix, p.own[g], p.own[g])
		VMOVDQA32(bytesOf(p.unit, g), p.units[g])
		VPMULLD(p.units[g], before, before)
		VPADDD(before, before, before)
		VPMINUD(two, before, before)
		k := lanesFrom(read, uint8(16*i))
		VPADDD_Z(hundred, before, k, before)
		VPADDD(before, p.latency, p.latency)
	}
}

// account finds what the resident lanes hold alone, which it returns, and adds up tokens and latency.
func (p *passer512) account() (privateQP GPVirtual) {
	resident := GP64()
	MOVQ(p.plane(offAlive), resident)
	ANDNQ(resident, planeOf(p.b, offSwapped), resident)
	mask := K()
	KMOVQ(resident, mask)
	worth := retention512(p.plane)
	private, retained := ZMM(), ZMM()
	for _, z := range []VecVirtual{private, retained} {
		VPXORD(z, z, z)
	}
	for g := range 4 {
		if g == 2 {
			p.ifNoUpper("accounted")
		}
		qp, w := ZMM(), bytesOf(worth, g)
		VPMULLD_Z(p.units[g], p.own[g], lanesFrom(mask, uint8(16*g)), qp)
		VPADDD(qp, private, private)
		VPMULLD(w, qp, qp)
		VPADDD(qp, retained, retained)
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
	qp = sum512(m.memory(shared))
	MOVL(qp, Mem{Base: p.ledger, Disp: offLgSharedQP})
	return qp
}
