package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// Groups of 8 lanes fill one YMM register of dwords, 16 one of words, 32 one of bytes. There are no mask registers: the bits of a
// plane become lanes of all ones. Constants are whole registers in memory, since 16 registers are too few to keep them in.
//
// Nothing here deposits or extracts bits (PDEP, PEXT): processors of this level exist that take hundreds of cycles for it.
//
// Admit stays on the reference. A test of eight requests at a time is faster by itself, and made whole steps 10 ns slower: few wait, and
// a load of eight demands meets those that have just arrived on their way to the cache.

func avx2() {
	opPlanes2()
	act2()
	globals2()
	heat2()
	advance2()
	prefixes2()
	draws2()
	counts2()
	maskRows2()
	arrivals2()
	arrive2()
	requests2()
	initials2()
	place2()
	touch2()
	fill2()
	for _, stream := range []bool{false, true} {
		rows2(stream)
		columns2(stream)
	}
	byteRows2()
	byteColumns2()
}

// every is a constant that fills a register.
func every[T uint8 | uint16 | uint32 | uint64 | float32](x T) Mem {
	n := 32
	switch any(x).(type) {
	case uint16:
		n = 16
	case uint32, float32:
		n = 8
	case uint64:
		n = 4
	}
	values := make([]T, n)
	for i := range values {
		values[i] = x
	}
	return constant(values...)
}

// indices is a constant of n values that depend on where they stand.
func indices[T uint8 | uint16 | uint32 | uint64](n int, f func(i int) T) Mem {
	values := make([]T, n)
	for i := range values {
		values[i] = f(i)
	}
	return constant(values...)
}

func bitOfDword() Mem { return indices(8, func(i int) uint32 { return 1 << i }) }
func bitOfWord() Mem  { return indices(16, func(i int) uint16 { return 1 << i }) }

// octet makes dwords of all ones from the lowest eight bits at m, of which four bytes are read.
func octet(m Mem) VecVirtual {
	y := YMM()
	VPBROADCASTD(m, y)
	VPAND(bitOfDword(), y, y)
	VPCMPEQD(bitOfDword(), y, y)
	return y
}

// sixteen makes words of all ones from the 16 bits at m.
func sixteen(m Mem) VecVirtual {
	y := YMM()
	VPBROADCASTW(m, y)
	VPAND(bitOfWord(), y, y)
	VPCMPEQW(bitOfWord(), y, y)
	return y
}

// spread makes bytes of all ones from a half of a plane that fills the qwords of a register.
func spread(plane VecVirtual, half int) VecVirtual {
	y := YMM()
	VPSHUFB(indices(32, func(i int) uint8 { return uint8(4*half + i/8) }), plane, y)
	VPAND(every(uint64(0x8040201008040201)), y, y)
	VPCMPEQB(every(uint64(0x8040201008040201)), y, y)
	return y
}

// inQwords fills the qwords of a register with a plane.
func inQwords(plane GPVirtual) VecVirtual {
	x, y := XMM(), YMM()
	VMOVQ(plane, x)
	VPBROADCASTQ(x, y)
	return y
}

// joined makes a plane of two halves, which it changes.
func joined(low, high GPVirtual) GPVirtual {
	SHLQ(U8(32), high)
	ORQ(high, low)
	return low
}

// sum2 adds up the dwords of y.
func sum2(y VecVirtual) GPVirtual {
	x, t, r := XMM(), XMM(), GP32()
	VEXTRACTI128(U8(1), y, x)
	VPADDD(y.AsX(), x, x)
	VPSHUFD(U8(0x4E), x, t)
	VPADDD(t, x, x)
	VPSHUFD(U8(0xB1), x, t)
	VPADDD(t, x, x)
	VMOVD(x, r)
	return r
}

func zero2() VecVirtual {
	y := YMM()
	VPXOR(y, y, y)
	return y
}

// stream2 makes the name of a kernel that has a variant with stores that pass the caches by.
func stream2(base string, stream bool) string {
	if stream {
		return base + "StreamAVX2"
	}
	return base + "AVX2"
}

// store2 stores a register.
func store2(y VecVirtual, m Mem, stream bool) {
	if stream {
		VMOVNTPS(y, m)
	} else {
		VMOVUPS(y, m)
	}
}

// opBits2 finds the planes of the ops' two low bits and of those that are at most 3.
func opBits2(p Register) (low, high, ok GPVirtual) {
	var lo, hi, valid [2]GPVirtual
	for h := range 2 {
		ops, y := YMM(), YMM()
		VMOVDQU(Mem{Base: p, Disp: 32 * h}, ops)
		lo[h], hi[h], valid[h] = GP64(), GP64(), GP64()
		VPSLLW(U8(7), ops, y)
		VPMOVMSKB(y, lo[h].As32())
		VPSLLW(U8(6), ops, y)
		VPMOVMSKB(y, hi[h].As32())
		VPMINUB(every(uint8(3)), ops, y)
		VPCMPEQB(ops, y, y)
		VPMOVMSKB(y, valid[h].As32())
	}
	return joined(lo[0], lo[1]), joined(hi[0], hi[1]), joined(valid[0], valid[1])
}

func opPlanes2() {
	TEXT("opPlanesAVX2", NOSPLIT, "func(ops *[64]uint8) (lo, hi, over uint64)")
	Pragma("noescape")
	Doc("opPlanesAVX2 is OpPlanes.")
	low, high, ok := opBits2(Load(Param("ops"), GP64()))
	ANDQ(ok, low)
	ANDQ(ok, high)
	NOTQ(ok)
	Store(low, Return("lo"))
	Store(high, Return("hi"))
	Store(ok, Return("over"))
	VZEROUPPER()
	RET()
}

// quarter and place are where the register of four planes stands that holds a plane, and which of the four it is. Planes that others load
// as registers are stored as registers: a load that meets narrower stores on their way to the cache waits for all of them.
func quarter(off int) int { return (off - offAlive) / 32 }
func place(off int) int   { return (off - offAlive) / 8 % 4 }

// planesMask is all ones in those of four planes whose bits are set.
func planesMask(planes int) Mem {
	return indices(4, func(i int) uint64 { return -uint64(planes >> i & 1) })
}

func act2() {
	TEXT("actAVX2", NOSPLIT, "func(b *Block, ops *[64]uint8, pages *[8]uint16, a *Acted)")
	Pragma("noescape")
	Doc("actAVX2 is Act.")
	b := Load(Param("b"), GP64())
	out := Load(Param("a"), GP64())
	touched := AllocLocal(40) // with the three after it; octet reads three bytes more
	freedM, readM, compressM := touched.Offset(8), touched.Offset(16), touched.Offset(24)
	lo, hi, valid := opBits2(Load(Param("ops"), GP64()))
	asked := or(lo, hi) // of those above 3, too: their complement is what is missing
	{
		over := GP64()
		MOVQ(valid, over)
		NOTQ(over)
		ORQ(over, asked)
	}
	POPCNTQ(asked, asked)
	ANDQ(valid, lo)
	ANDQ(valid, hi)
	alive, swapped := planeOf(b, offAlive), planeOf(b, offSwapped)
	resident := andNot(alive, swapped)
	evict := and(andNot(lo, hi), alive)
	compress := and(andNot(hi, lo), resident)
	swap := and(and(lo, hi), resident)
	ANDNQ(compress, planeOf(b, offInt4), compress)
	done := or(or(evict, compress), swap)
	{
		n := GP64()
		POPCNTQ(done, n)
		SUBL(n.As32(), asked.As32())
	}
	MOVL(asked.As32(), Mem{Base: out, Disp: offInvalid})
	MOVQ(evict, Mem{Base: out, Disp: offEvicted})
	MOVQ(compress, Mem{Base: out, Disp: offCompressed})
	MOVQ(swap, Mem{Base: out, Disp: offActSwapped})
	read := andNot(swapped, evict)
	ORQ(swap, read)
	ANDQ(Mem{Base: b, Disp: offActive}, read)
	MOVQ(read, Mem{Base: out, Disp: offRead})
	MOVQ(read, readM)
	MOVQ(compress, compressM)
	freed := and(evict, resident)
	ORQ(swap, freed)
	ORQ(compress, freed)
	MOVQ(freed, freedM)
	ORQ(read, freed)
	MOVQ(freed, touched)

	// Risk.
	risk := GP32()
	XORL(risk, risk)
	TESTQ(evict, evict)
	JZ(LabelRef("risked"))
	{
		t0, t1 := planeOf(b, offType0), planeOf(b, offType1)
		r := or(t0, t1)
		ORQ(Mem{Base: b, Disp: offType2}, r)
		ANDNQ(evict, r, r)
		POPCNTQ(r, r)
		IMUL3L(U8(30), r.As32(), risk)
		atLeast := func(x uint8) GPVirtual {
			var r [2]GPVirtual
			for h := range r {
				y, c := YMM(), YMM()
				VMOVDQU(Mem{Base: b, Disp: offPriority + 32*h}, y)
				VPMAXUB(every(x), y, c)
				VPCMPEQB(y, c, c)
				r[h] = GP64()
				VPMOVMSKB(c, r[h].As32())
			}
			return joined(r[0], r[1])
		}
		r = atLeast(50)
		ANDQ(evict, r)
		ANDQ(andNot(t0, t1), r)
		POPCNTQ(r, r)
		IMUL3L(U8(15), r.As32(), r.As32())
		ADDL(r.As32(), risk)
		r = atLeast(70)
		ANDQ(evict, r)
		ANDQ(andNot(t1, t0), r)
		JMP(LabelRef("anyGeneration"))
		Label("generation") // seldom any
		i, x, y := GP64(), GP64(), GP64()
		TZCNTQ(r, i)
		BLSRQ(r, r)
		MOVL(Mem{Base: b, Disp: offTokens, Index: i, Scale: 4}, x.As32())
		LEAQ(Mem{Base: x, Index: x, Scale: 2}, x)
		MOVWQZX(Mem{Base: b, Disp: offRemaining, Index: i, Scale: 2}, y)
		IMUL3Q(U8(7), y, y)
		CMPQ(x, y)
		JCS(LabelRef("anyGeneration"))
		ADDL(U8(20), risk)
		Label("anyGeneration")
		TESTQ(r, r)
		JNZ(LabelRef("generation"))
	}
	Label("risked")
	MOVL(risk, Mem{Base: out, Disp: offRisk})

	// Memory, in the groups that have any touched lane.
	at, bits := GP64(), GP64()
	sum, worth, latency, table := zero2(), zero2(), zero2(), YMM()
	VPMOVZXWD(Mem{Base: Load(Param("pages"), GP64())}, table)
	MOVQ(touched, bits)
	TESTQ(bits, bits)
	JZ(LabelRef("counted"))
	XORL(bits.As32(), bits.As32())
	XORL(at.As32(), at.As32())
	plane := func(off int) VecVirtual { return octet(Mem{Base: b, Disp: off, Index: bits, Scale: 1}) }
	Label("group")
	CMPB(touched.Idx(bits, 1), U8(0))
	JE(LabelRef("next"))
	{
		own, pages, shift := YMM(), YMM(), YMM()
		VMOVDQU(Mem{Base: b, Disp: offTokens, Index: at, Scale: 4}, own)
		VPADDD(every(uint32(127)), own, own)
		VPSRLD(U8(7), own, own)
		VPMOVZXBD(Mem{Base: b, Disp: offPrefix, Index: at, Scale: 1}, pages)
		VPERMD(table, pages, pages)
		VPSUBD(pages, own, own)
		shift = plane(offInt4)
		VPADDD(shift, shift, shift)
		VPADDD(plane(offInt8), shift, shift)
		VPADDD(every(uint32(2)), shift, shift)
		VPSLLVD(shift, own, own)
		l := YMM()
		VPADDD(own, own, l)
		VPMINUD(every(uint32(200)), l, l)
		VPADDD(every(uint32(100)), l, l)
		VPAND(octet(readM.Idx(bits, 1)), l, l)
		VPADDD(l, latency, latency)
		VPAND(octet(freedM.Idx(bits, 1)), own, own)
		half := octet(compressM.Idx(bits, 1))
		VPSRLD(U8(31), half, half)
		VPSRLVD(half, own, own)
		VPADDD(own, sum, sum)
		code := plane(offType2)
		for _, off := range []int{offType1, offType0} {
			VPADDD(code, code, code)
			VPADDD(plane(off), code, code)
		}
		VPERMD(retentions(), code, code)
		VPMULLD(own, code, code)
		VPADDD(code, worth, worth)
	}
	Label("next")
	ADDQ(U8(8), at)
	INCQ(bits)
	CMPQ(bits, U8(8))
	JNE(LabelRef("group"))
	Label("counted")
	MOVL(sum2(sum), Mem{Base: out, Disp: offActFreed})
	MOVL(sum2(worth), Mem{Base: out, Disp: offActFreedRetained})
	MOVL(sum2(latency), Mem{Base: out, Disp: offLatency})

	// Planes: evicted lanes leave them all.
	TESTQ(done, done)
	JZ(LabelRef("end"))
	lower := planeOf(b, offInt8)
	ANDQ(compress, lower)
	gone := inQwords(evict)
	for i := range 4 {
		y := YMM()
		VPANDN(Mem{Base: b, Disp: offAlive + 32*i}, gone, y)
		for _, c := range []struct {
			plane GPVirtual
			off   int
		}{{swap, offSwapped}, {compress, offInt8}, {lower, offInt4}} {
			if quarter(c.off) == i {
				q := inQwords(c.plane)
				VPAND(planesMask(1<<place(c.off)), q, q)
				VPXOR(q, y, y) // swapped and int4 lanes are new there
			}
		}
		VMOVDQU(y, Mem{Base: b, Disp: offAlive + 32*i})
	}
	Label("end")
	VZEROUPPER()
	RET()
}

func globals2() {
	TEXT("globalsAVX2", NOSPLIT, "func(dst *[16]float32, num, den *[16]int32, budget, capacity, norm, most uint32, stream bool)")
	Pragma("noescape")
	Doc("globalsAVX2 is Globals.")
	dst := Load(Param("dst"), GP64())
	num := Load(Param("num"), GP64())
	den := Load(Param("den"), GP64())
	given := YMM()
	var n [2]VecVirtual
	for h := range n {
		n[h] = YMM()
		// The numerators have just been written one by one: one load of them all would wait for all these stores to leave.
		var quads [2]VecVirtual
		for q := range quads {
			quads[q] = XMM()
			VMOVD(Mem{Base: num, Disp: 32*h + 16*q}, quads[q])
			for i := 1; i < 4; i++ {
				VPINSRD(U8(i), Mem{Base: num, Disp: 32*h + 16*q + 4*i}, quads[q], quads[q])
			}
		}
		VINSERTI128(U8(1), quads[1], quads[0].AsY(), n[h])
		VCVTDQ2PS(n[h], n[h])
		d := YMM()
		VMOVDQU(Mem{Base: den, Disp: 32 * h}, d)
		for _, x := range []struct {
			name  string
			lanes uint16
		}{{"budget", 1<<0 | 1<<7 | 1<<12}, {"capacity", 1 << 1}, {"norm", 1 << 14}, {"most", 1 << 15}} {
			if lanes := uint8(x.lanes >> (8 * h)); lanes != 0 {
				VBROADCASTSS(mustAddr(x.name), given)
				VPBLENDD(U8(lanes), given, d, d)
			}
		}
		VCVTDQ2PS(d, d)
		VDIVPS(d, n[h], n[h])
	}
	end2(dst, n)
}

// end2 stores a line, as stream says, and returns.
func end2(dst Register, n [2]VecVirtual) {
	r := GP32()
	MOVBLZX(mustAddr("stream"), r)
	TESTL(r, r)
	JNZ(LabelRef("stream"))
	for _, stream := range []bool{false, true} {
		if stream {
			Label("stream")
		}
		for h := range n {
			store2(n[h], Mem{Base: dst, Disp: 32 * h}, stream)
		}
		VZEROUPPER()
		RET()
	}
}

// decay2 takes a quarter off every byte at m and warms the lanes of half a plane.
func decay2(m Mem, warm VecVirtual, half int) {
	h, q := YMM(), YMM()
	VMOVDQU(m, h)
	VPSRLW(U8(2), h, q)
	VPAND(every(uint8(0x3F)), q, q)
	VPSUBB(q, h, h)
	w := spread(warm, half)
	VPAND(every(uint8(63)), w, w)
	VPADDB(w, h, h)
	VMOVDQU(h, m)
}

func heat2() {
	TEXT("heatAVX2", NOSPLIT, "func(h *[64]uint8, warm uint64)")
	Pragma("noescape")
	Doc("heatAVX2 is Heat.")
	p, warm := Load(Param("h"), GP64()), YMM()
	VPBROADCASTQ(mustAddr("warm"), warm)
	for h := range 2 {
		decay2(Mem{Base: p, Disp: 32 * h}, warm, h)
	}
	VZEROUPPER()
	RET()
}

// retentions is what a quarter page is worth, by the type's code, negated: that is how masks add up.
func retentions() Mem {
	weights := [8]uint32{20, 15, 10, 2, 0}
	return indices(8, func(i int) uint32 { return weights[-i&7] })
}

func advance2() {
	TEXT("advanceAVX2", NOSPLIT, "func(b *Block, pages *[8]uint16, step int16, used, limit uint32, a *Advanced) (ok bool)")
	Pragma("noescape")
	Doc("advanceAVX2 is Advance, where no lane stalls; else it changes nothing, and ok is false.")
	b := Load(Param("b"), GP64())
	out := Load(Param("a"), GP64())
	slow, made := AllocLocal(8), AllocLocal(128) // what the lanes generate
	{
		r := planeOf(b, offActive)
		ANDQ(Mem{Base: b, Disp: offSwapped}, r)
		MOVQ(r, slow)
	}
	// Groups of 16 lanes: at counts the bytes of their words, bits those of their planes.
	at, bits := GP64(), GP64()
	plane := func(off, sub int) Mem { return Mem{Base: b, Disp: off + sub, Index: bits, Scale: 1} }
	words := func(off int) Mem { return Mem{Base: b, Disp: off, Index: at, Scale: 1} }
	tokens := func(sub int) Mem { return Mem{Base: b, Disp: offTokens + 32*sub, Index: at, Scale: 2} }
	generated := made.Idx(at, 1)
	group := func(name string, body func()) {
		XORL(at.As32(), at.As32())
		XORL(bits.As32(), bits.As32())
		Label(name)
		r := GP32()
		MOVWLZX(plane(offActive, 0), r)
		TESTL(r, r)
		JZ(LabelRef(name + "Next"))
		body()
		Label(name + "Next")
		ADDQ(U8(32), at)
		ADDQ(U8(2), bits)
		CMPQ(at, U8(128))
		JNE(LabelRef(name))
	}

	// What every lane generates, and what that takes.
	sum, worth := zero2(), zero2()
	group("grow", func() {
		rate, less, n := YMM(), YMM(), YMM()
		VMOVDQU(words(offRate), rate)
		half := sixteen(slow.Idx(bits, 1))
		VPSRLW(U8(1), rate, less)
		VPAND(half, less, less)
		VPSUBW(less, rate, rate)
		VPMINUW(words(offRemaining), rate, n)
		VPAND(sixteen(plane(offActive, 0)), n, n)
		VMOVDQU(n, generated)
		VPANDN(n, half, n) // what is swapped takes nothing
		var before, after [2]VecVirtual
		for sub := range 2 {
			before[sub], after[sub] = YMM(), YMM()
			if sub == 0 {
				VPMOVZXWD(n.AsX(), after[sub])
			} else {
				VEXTRACTI128(U8(1), n, n.AsX())
				VPMOVZXWD(n.AsX(), after[sub])
			}
			VMOVDQU(tokens(sub), before[sub])
			VPADDD(every(uint32(127)), before[sub], before[sub])
			VPADDD(before[sub], after[sub], after[sub])
		}
		x, y := YMM(), YMM()
		VPXOR(before[0], after[0], x)
		VPXOR(before[1], after[1], y)
		VPOR(y, x, x)
		VPTEST(every(^uint32(127)), x)
		JZ(LabelRef("growNext")) // no lane begins a page, as is usual
		for sub := range 2 {
			VPSRLD(U8(7), before[sub], before[sub])
			VPSRLD(U8(7), after[sub], after[sub])
			VPSUBD(before[sub], after[sub], after[sub])
			shift := octet(plane(offInt4, sub))
			VPADDD(shift, shift, shift)
			VPADDD(octet(plane(offInt8, sub)), shift, shift)
			VPADDD(every(uint32(2)), shift, shift)
			VPSLLVD(shift, after[sub], after[sub])
			VPADDD(after[sub], sum, sum)
			code := octet(plane(offType2, sub))
			for _, off := range []int{offType1, offType0} {
				VPADDD(code, code, code)
				VPADDD(octet(plane(off, sub)), code, code)
			}
			VPERMD(retentions(), code, code)
			VPMULLD(after[sub], code, code)
			VPADDD(code, worth, worth)
		}
	})
	qp, retained := GP32(), GP32()
	XORL(qp, qp)
	XORL(retained, retained)
	VPTEST(sum, sum)
	JZ(LabelRef("fits"))
	MOVL(sum2(sum), qp)
	MOVL(sum2(worth), retained)
	total := Load(Param("used"), GP32())
	ADDL(qp, total)
	CMPL(total, Load(Param("limit"), GP32()))
	JLS(LabelRef("fits"))
	returnBool("ok", 0)
	VZEROUPPER()
	RET()
	Label("fits")
	MOVL(qp, Mem{Base: out, Disp: offQP})
	MOVL(retained, Mem{Base: out, Disp: offRetained})

	// Tokens, remaining, last access.
	step, count := YMM(), zero2()
	VPBROADCASTW(mustAddr("step"), step)
	group("note", func() {
		n, rest, last := YMM(), YMM(), YMM()
		VMOVDQU(generated, n)
		VMOVDQU(words(offRemaining), rest)
		VPSUBW(n, rest, rest)
		VMOVDQU(rest, words(offRemaining))
		VMOVDQU(words(offLastAccess), last)
		VPBLENDVB(sixteen(plane(offActive, 0)), step, last, last)
		VMOVDQU(last, words(offLastAccess))
		for sub := range 2 {
			more, t := YMM(), YMM()
			if sub == 1 {
				VEXTRACTI128(U8(1), n, n.AsX())
			}
			VPMOVZXWD(n.AsX(), more)
			VPADDD(more, count, count)
			VPADDD(tokens(sub), more, t)
			VMOVDQU(t, tokens(sub))
		}
	})
	MOVL(sum2(count), Mem{Base: out, Disp: offAdvTokens})
	zero := zero2()
	var none [2]GPVirtual
	for h := range 2 {
		low, high := YMM(), YMM()
		VPCMPEQW(Mem{Base: b, Disp: offRemaining + 64*h}, zero, low)
		VPCMPEQW(Mem{Base: b, Disp: offRemaining + 64*h + 32}, zero, high)
		VPACKSSWB(high, low, low)
		VPERMQ(U8(0xD8), low, low)
		none[h] = GP64()
		VPMOVMSKB(low, none[h].As32())
	}
	spent := joined(none[0], none[1])
	active := planeOf(b, offActive)
	warm := YMM()
	VPBROADCASTQ(Mem{Base: b, Disp: offActive}, warm)
	for h := range 2 {
		decay2(Mem{Base: b, Disp: offHotness + 32*h}, warm, h)
	}

	// Timers.
	t0, t1 := planeOf(b, offType0), planeOf(b, offType1)
	context, generation := andNot(t0, t1), andNot(t1, t0)
	finished := and(spent, active)
	done := or(context, generation)
	ANDQ(finished, done)
	linger := andNot(finished, done)
	runs := andNot(and(active, context), done)
	started := planeOf(b, offPrefill)
	idle := or(t0, t1)
	ORQ(Mem{Base: b, Disp: offType2}, idle)
	ANDQ(Mem{Base: b, Disp: offAlive}, idle)
	idle = andNot(idle, or(started, active))
	counts := inQwords(or(idle, runs))
	var cycle [2]VecVirtual
	var hits [2]GPVirtual
	for h := range 2 {
		cycle[h] = YMM()
		timer := YMM()
		VMOVDQU(Mem{Base: b, Disp: offCycle + 32*h}, cycle[h])
		VPAND(every(uint8(15)), cycle[h], timer)
		VPCMPEQB(zero, timer, timer)
		c := spread(counts, h)
		VPANDN(c, timer, c)
		VPADDB(c, cycle[h], cycle[h]) // one less
		VPAND(every(uint8(15)), cycle[h], timer)
		VPCMPEQB(zero, timer, timer)
		VPAND(c, timer, timer)
		hits[h] = GP64()
		VPMOVMSKB(timer, hits[h].As32())
	}
	hit := joined(hits[0], hits[1])
	rested := and(hit, idle)
	ended, woke := and(rested, spent), andNot(rested, spent)
	pauses := and(hit, runs)
	ORQ(linger, pauses)
	wake, pause := inQwords(woke), inQwords(pauses)
	for h := range 2 {
		code, more := YMM(), YMM()
		VPSRLW(U8(4), cycle[h], code)
		VPAND(every(uint8(3)), code, code)
		VPADDB(every(uint8(2)), code, code)
		VPAND(spread(wake, h), code, code)
		VPADDB(code, cycle[h], cycle[h])
		VPSRLW(U8(6), cycle[h], code)
		VPAND(every(uint8(3)), code, code)
		VPADDB(every(uint8(1)), code, code)
		VPAND(every(uint8(0xF0)), cycle[h], more)
		VPOR(more, code, code)
		VPBLENDVB(spread(pause, h), code, cycle[h], cycle[h])
		VMOVDQU(cycle[h], Mem{Base: b, Disp: offCycle + 32*h})
	}
	ORQ(ended, done)
	MOVQ(done, Mem{Base: out, Disp: offDone})
	now := andNot(active, pauses)
	ORQ(woke, now)
	ORQ(started, now)
	freed, value := GP32(), GP32()
	XORL(freed, freed)
	XORL(value, value)
	TESTQ(done, done)
	JZ(LabelRef("none"))
	{
		table, weights := Load(Param("pages"), GP64()), GP64()
		LEAQ(retentions(), weights)
		left := andNot(done, planeOf(b, offSwapped))
		one := func(plane int, s GPVirtual) GPVirtual {
			r := GP64()
			SHRXQ(s, Mem{Base: b, Disp: plane}, r)
			ANDL(U8(1), r.As32())
			return r
		}
		TESTQ(left, left)
		JZ(LabelRef("clear"))
		Label("free")
		s, held, p := GP64(), GP32(), GP64()
		TZCNTQ(left, s)
		MOVL(Mem{Base: b, Disp: offTokens, Index: s, Scale: 4}, held)
		ADDL(U8(127), held)
		SHRL(U8(7), held)
		MOVBLZX(Mem{Base: b, Disp: offPrefix, Index: s, Scale: 1}, p.As32())
		MOVWLZX(Mem{Base: table, Index: p, Scale: 2}, p.As32())
		SUBL(p.As32(), held)
		SHLL(U8(2), held)
		SHRXL(one(offInt8, s).As32(), held, held)
		shift := one(offInt4, s)
		ADDL(shift.As32(), shift.As32())
		SHRXL(shift.As32(), held, held)
		ADDL(held, freed)
		code := one(offType2, s)
		for _, t := range []int{offType1, offType0} {
			ADDL(code.As32(), code.As32())
			ORL(one(t, s).As32(), code.As32())
		}
		NEGL(code.As32())
		ANDL(U8(7), code.As32())
		IMULL(Mem{Base: weights, Index: code, Scale: 4}, held)
		ADDL(held, value)
		BLSRQ(left, left)
		JNZ(LabelRef("free"))
		Label("clear")
		gone := inQwords(done)
		for i := range 4 {
			if i == quarter(offActive) {
				continue
			}
			y := YMM()
			VPANDN(Mem{Base: b, Disp: offAlive + 32*i}, gone, y)
			VMOVDQU(y, Mem{Base: b, Disp: offAlive + 32*i})
		}
	}
	Label("none")
	// The planes beside Active, and Prefill, which is among them, becomes empty.
	if quarter(offPrefill) != quarter(offActive) {
		panic("gen: Active and Prefill no longer share a register")
	}
	y, gone, m := YMM(), inQwords(done), Mem{Base: b, Disp: offAlive + 32*quarter(offActive)}
	VPANDN(m, gone, y)
	VPAND(planesMask(^(1<<place(offActive) | 1<<place(offPrefill))), y, y)
	{
		n := inQwords(now)
		VPANDN(n, gone, n)
		VPAND(planesMask(1<<place(offActive)), n, n)
		VPOR(n, y, y)
	}
	VMOVDQU(y, m)
	MOVL(freed, Mem{Base: out, Disp: offFreed})
	MOVL(value, Mem{Base: out, Disp: offFreedRetained})
	returnBool("ok", 1)
	VZEROUPPER()
	RET()
}

func prefixes2() {
	TEXT("prefixesAVX2", NOSPLIT, "func(b *Block, pages *[8]uint16, s *Shared)")
	Pragma("noescape")
	Doc("prefixesAVX2 is Prefixes of one block. Dwords stand for the prefixes 0, 1, 4, 5, 2, 3, 6, 7, which is how two registers of",
		"qwords become one.")
	b := Load(Param("b"), GP64())
	out := Load(Param("s"), GP64())
	zero := zero2()
	pages := YMM()
	VPMOVZXWD(Mem{Base: Load(Param("pages"), GP64())}, pages)
	int8s, int4s := planeOf(b, offInt8), planeOf(b, offInt4)
	t0, t1 := planeOf(b, offType0), planeOf(b, offType1)

	// Resident members; the qword before the first plane is another plane, where no prefix has pages.
	var members [2]VecVirtual
	{
		swapped, used := YMM(), YMM()
		VPBROADCASTQ(Mem{Base: b, Disp: offSwapped}, swapped)
		VPCMPEQD(zero, pages, used)
		for h := range 2 {
			members[h] = YMM()
			VPANDN(Mem{Base: b, Disp: offMembers - 8 + 32*h}, swapped, members[h])
			no := YMM()
			if h == 0 {
				VPMOVSXDQ(used.AsX(), no)
			} else {
				VEXTRACTI128(U8(1), used, no.AsX())
				VPMOVSXDQ(no.AsX(), no)
			}
			VPANDN(members[h], no, members[h])
		}
		VPERMQ(U8(0xD8), pages, pages)
	}
	narrow := func(y [2]VecVirtual) VecVirtual {
		n := YMM()
		VSHUFPS(U8(0x88), y[1], y[0], n)
		return n
	}
	// part is the members in a plane, or in its complement; without tells where there are none.
	part := func(plane VecVirtual, complement bool) (p [2]VecVirtual) {
		for h := range p {
			p[h] = YMM()
			if complement {
				VPANDN(members[h], plane, p[h])
			} else {
				VPAND(members[h], plane, p[h])
			}
		}
		return p
	}
	without := func(p [2]VecVirtual) (w [2]VecVirtual) {
		for h := range w {
			w[h] = YMM()
			VPCMPEQQ(zero, p[h], w[h])
		}
		return w
	}
	// By level: the best one's members, one after the other.
	z8, z4, fine := inQwords(int8s), inQwords(int4s), inQwords(or(int8s, int4s))
	top := part(z4, false)
	no4 := narrow(without(top))
	better := func(plane VecVirtual, complement bool) VecVirtual {
		p := part(plane, complement)
		w := without(p)
		for h := range w {
			VBLENDVPD(w[h], top[h], p[h], top[h])
		}
		return narrow(w)
	}
	no8 := better(z8, false)
	no16 := better(fine, true)
	mul, next, t := YMM(), YMM(), YMM()
	VPANDN(every(uint32(1)), no4, mul)
	VPAND(no8, no16, next)
	VPANDN(mul, next, next) // what a level leaves behind: int4, if there is a better one
	VPOR(no8, no16, t)
	VPAND(t, next, next)
	VPANDN(every(uint32(2)), t, t)
	VPOR(t, next, next)
	two, four := YMM(), YMM()
	VMOVDQU(every(uint32(2)), two)
	VMOVDQU(every(uint32(4)), four)
	VBLENDVPS(no8, mul, two, mul)
	VBLENDVPS(no16, mul, four, mul)
	// One member alone at the best level.
	var single [2]VecVirtual
	for h, y := range top {
		none, less := YMM(), YMM()
		single[h] = YMM()
		VPCMPEQQ(zero, y, none)
		VPADDQ(every(^uint64(0)), y, less)
		VPAND(y, less, less)
		VPCMPEQQ(zero, less, less)
		VPANDN(less, none, single[h])
		VPAND(single[h], y, y)
	}
	natural := func(y VecVirtual, off int) {
		VPERMQ(U8(0xD8), y, y)
		VMOVDQU(y, Mem{Base: out, Disp: off})
	}
	gain := YMM()
	VPSUBD(next, mul, gain)
	VPMULLD(pages, gain, gain)
	VPAND(narrow(single), gain, gain)
	natural(gain, offShGain)
	last, x := YMM(), XMM()
	VPOR(top[1], top[0], last)
	VEXTRACTI128(U8(1), last, x)
	VPOR(last.AsX(), x, x)
	hi := XMM()
	VPSHUFD(U8(0x4E), x, hi)
	VPOR(hi, x, x)
	VMOVQ(x, x)
	VMOVDQU(x.AsY(), Mem{Base: out, Disp: offShLast})
	// By type, the heaviest last.
	weight := YMM()
	VPANDN(every(uint32(2)), narrow(without(part(inQwords(and(t0, t1)), false))), weight)
	some := or(t0, t1)
	ORQ(Mem{Base: b, Disp: offType2}, some)
	for _, c := range []struct {
		plane      GPVirtual
		complement bool
		weight     uint32
	}{{andNot(t1, t0), false, 10}, {andNot(t0, t1), false, 15}, {some, true, 20}} {
		no, y := narrow(without(part(inQwords(c.plane), c.complement))), YMM()
		VMOVDQU(every(c.weight), y)
		VBLENDVPS(no, weight, y, weight)
	}
	// Totals.
	both := YMM() // words: mul and weight
	VPACKUSDW(weight, mul, both)
	VPACKUSWB(both, both, both)
	VPERMQ(U8(0x08), both, both)
	VPSHUFB(constant[uint8](0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15), both.AsX(), both.AsX())
	VMOVDQU(both.AsX(), Mem{Base: out, Disp: offShMul}) // and Weight, which follows
	qp, extra := YMM(), YMM()
	VPMULLD(pages, mul, qp)
	VPSLLD(U8(2), pages, extra)
	VPSUBD(qp, extra, extra)
	natural(extra, offShExtra)
	VPMULLD(qp, weight, weight)
	MOVL(sum2(qp), Mem{Base: out, Disp: offShQP})
	MOVL(sum2(weight), Mem{Base: out, Disp: offShRetained})
	VZEROUPPER()
	RET()
}

// mix2 is rule 2.1 on eight counters. There is no 64-bit multiplication: three of 32 bits make one.
func mix2(w [2]VecVirtual) {
	t, u := YMM(), YMM()
	for _, s := range []struct {
		shift uint8
		times uint64
	}{{30, 0xBF58476D1CE4E5B9}, {27, 0x94D049BB133111EB}} {
		for _, z := range w {
			VPSRLQ(U8(s.shift), z, t)
			VPXOR(t, z, z)
			VPSRLQ(U8(32), z, t)
			VPMULUDQ(every(s.times), t, t)
			VPMULUDQ(every(s.times>>32), z, u)
			VPADDQ(u, t, t)
			VPSLLQ(U8(32), t, t)
			VPMULUDQ(every(s.times), z, z)
			VPADDQ(t, z, z)
		}
	}
	for _, z := range w {
		VPSRLQ(U8(31), z, t)
		VPXOR(t, z, z)
	}
}

// drawn2 mixes base and the seven counters that follow.
func drawn2() (w [2]VecVirtual) {
	base := YMM()
	VPBROADCASTQ(mustAddr("base"), base)
	for h := range w {
		w[h] = YMM()
		VPADDQ(constant(goldens()[4*h:4*h+4]...), base, w[h])
	}
	mix2(w)
	return w
}

func draws2() {
	TEXT("drawsAVX2", NOSPLIT, "func(dst *[8]uint64, base uint64)")
	Pragma("noescape")
	Doc("drawsAVX2 is Draws.")
	dst := Load(Param("dst"), GP64())
	for h, z := range drawn2() {
		VMOVDQU(z, Mem{Base: dst, Disp: 32 * h})
	}
	VZEROUPPER()
	RET()
}

// counted2 counts the thresholds that four lanes of 16 bits reach.
func counted2(lanes GPVirtual) GPVirtual {
	table, u, r := YMM(), inQwords(lanes), GP64()
	VBROADCASTI128(Mem{Base: Load(Param("table"), GP64())}, table)
	var reached [2]VecVirtual
	for h := range reached {
		y, least := YMM(), YMM()
		VPSHUFB(indices(32, func(i int) uint8 { return uint8(4*h + 2*(i/16) + i%2) }), u, y)
		VPMINUW(table, y, least)
		VPCMPEQW(table, least, least)
		reached[h] = least
	}
	VPACKSSWB(reached[1], reached[0], reached[0])
	VPMOVMSKB(reached[0], r.As32())
	ANDL(U32(0x7F7F7F7F), r.As32())
	POPCNTL(r.As32(), r.As32())
	return r
}

func counts2() {
	TEXT("countsAVX2", NOSPLIT, "func(u uint64, table *[8]uint16) (n int)")
	Pragma("noescape")
	Doc("countsAVX2 is Counts.")
	Store(counted2(argument("u")), Return("n"))
	VZEROUPPER()
	RET()
}

func maskRows2() {
	TEXT("maskRowsAVX2", NOSPLIT, "func(dst *uint8, groups int, evict, compress, swap uint64)")
	Pragma("noescape")
	Doc("maskRowsAVX2 is MaskRows of 16 lanes a group.")
	dst := Load(Param("dst"), GP64())
	groups := Load(Param("groups"), GP64())
	// Dword i of the frame is what eight lanes have in the four bytes, before each takes its bit.
	local := AllocLocal(32)
	ones, e, c, s := XMM(), XMM(), XMM(), XMM()
	VPCMPEQD(ones, ones, ones)
	VMOVQ(mustAddr("evict"), e)
	VMOVQ(mustAddr("compress"), c)
	VMOVQ(mustAddr("swap"), s)
	VPUNPCKLBW(e, ones, e)
	VPUNPCKLBW(s, c, c)
	VPUNPCKLWD(c, e, s)
	VPUNPCKHWD(c, e, c)
	VMOVDQU(s, local)
	VMOVDQU(c, local.Offset(16))
	i := GP64()
	XORL(i.As32(), i.As32())
	Label("group")
	for h := range 2 {
		y, bits := YMM(), indices(32, func(i int) uint8 { return 1 << (i / 4) })
		VPBROADCASTD(local.Offset(4*h).Idx(i, 8), y)
		VPAND(bits, y, y)
		VPCMPEQB(bits, y, y)
		VPABSB(y, y)
		VMOVDQU(y, Mem{Base: dst, Disp: 32 * h})
	}
	ADDQ(U8(64), dst)
	INCQ(i)
	CMPQ(i, groups)
	JNE(LabelRef("group"))
	VZEROUPPER()
	RET()
}

// request2 holds eight draws, the halves of each apart: the fields of rule 4.5 are cut from dwords.
type request2 struct{ low, high VecVirtual }

// split2 takes the draws apart.
func split2(w [2]VecVirtual) (r request2) {
	r.low, r.high = YMM(), YMM()
	VSHUFPS(U8(0x88), w[1], w[0], r.low)
	VSHUFPS(U8(0xDD), w[1], w[0], r.high)
	VPERMQ(U8(0xD8), r.low, r.low)
	VPERMQ(U8(0xD8), r.high, r.high)
	return r
}

// field is bits [lo, lo+n) of dwords.
func field2(of VecVirtual, lo, n int) VecVirtual {
	y := YMM()
	VPSRLD(U8(lo), of, y)
	VPAND(every(uint32(1)<<n-1), y, y)
	return y
}

// prefix is 0 if bits 10 and 11 are 0, else 1 + bits 8 and 9.
func (r *request2) prefix() VecVirtual {
	y, none := field2(r.low, 8, 2), YMM()
	VPADDD(every(uint32(1)), y, y)
	VPAND(every(uint32(3<<10)), r.low, none)
	VPCMPEQD(zero2(), none, none)
	VPANDN(y, none, y)
	return y
}

// pages looks up the pages of the private prompt: in each sixteenth of the table, then two bits choose among the four. Only the lowest
// byte of a dword is looked up; the others, with their top bit set, become 0.
func (r *request2) pages(tables Register) VecVirtual {
	i := field2(r.low, 12, 6)
	VPOR(every(uint32(0x80808000)), i, i)
	return lookup2(i, tables, offTabPages, 4, 3)
}

// output looks up the tokens to generate, of 16 bits.
func (r *request2) output(tables Register) VecVirtual {
	i, t := YMM(), YMM()
	VPSRLD(U8(24), r.low, i)
	VPAND(every(uint32(0x7E)), i, i) // the byte of the word
	VPSLLD(U8(8), i, t)
	VPOR(t, i, i)
	VPOR(every(uint32(0x80800100)), i, i)
	return lookup2(i, tables, offTabOutput, 8, 3)
}

// lookup2 looks up bytes in a table of n pieces of 16 bytes, n a power of two. The index's four low bits choose within a piece, those
// above, which shift moves to the top of a byte, among pieces.
func lookup2(i VecVirtual, tables Register, off, n, shift int) VecVirtual {
	choice := []VecVirtual{}
	for m, s := n, shift; m > 1; m, s = m/2, s-1 {
		y := YMM()
		VPSLLD(U8(s), i, y)
		choice = append(choice, y)
	}
	var find func(piece, bit int) VecVirtual // among 2^bit pieces
	find = func(piece, bit int) VecVirtual {
		if bit == 0 {
			y := YMM()
			VBROADCASTI128(Mem{Base: tables, Disp: off + 16*piece}, y)
			VPSHUFB(i, y, y)
			return y
		}
		a := find(piece, bit-1)
		b := find(piece+1<<(bit-1), bit-1)
		VPBLENDVB(choice[bit-1], b, a, a)
		return a
	}
	return find(0, len(choice))
}

// code is the block type.
func (r *request2) code(tables Register) VecVirtual {
	b, code := field2(r.low, 0, 8), YMM()
	VMOVDQU(every(uint32(4)), code)
	for i := range 3 {
		y := YMM()
		VPBROADCASTD(Mem{Base: tables, Disp: offTabTypes + 8*i}, y)
		VPCMPGTD(b, y, y)
		VPADDD(y, code, code)
	}
	return code
}

// draw2 draws eight requests, stores their words and needs, and returns what memory they need.
func draw2() (memory VecVirtual) {
	words := Load(Param("words"), GP64())
	needs := Load(Param("needs"), GP64())
	tables := Load(Param("t"), GP64())
	w := drawn2()
	stamp := YMM()
	VPBROADCASTQ(mustAddr("stamp"), stamp)
	for h := range w {
		y := YMM()
		VPAND(every(uint64(1)<<48-1), w[h], y)
		VPOR(stamp, y, y)
		VMOVDQU(y, Mem{Base: words, Disp: 32 * h})
	}
	r := split2(w)
	memory = r.pages(tables)
	VPSLLD(U8(2), memory, memory)
	need := r.prefix()
	VPSLLD(U8(demandShift), need, need)
	VPOR(memory, need, need)
	VMOVDQU(need, Mem{Base: needs})
	return memory
}

func arrivals2() {
	TEXT("arrivalsAVX2", NOSPLIT, "func(words *[8]uint64, needs *[8]uint32, base, stamp uint64, t *RequestTables)")
	Pragma("noescape")
	Doc("arrivalsAVX2 is Arrivals.")
	draw2()
	VZEROUPPER()
	RET()
}

func arrive2() {
	TEXT("arriveAVX2", NOSPLIT, "func(words *[8]uint64, needs *[8]uint32, base, stamp uint64, t *RequestTables, count uint64, lanes int, table *[8]uint16, room int) (n int, qp uint32)")
	Pragma("noescape")
	Doc("arriveAVX2 is Arrive.")
	u := argument("count")
	mix(u)
	lanes := argument("lanes")
	SHLQ(U8(4), lanes)
	BZHIQ(lanes, u, u)
	n := counted2(u)
	memory := draw2()
	room, least := argument("room"), GP64()
	MOVQ(n, least)
	CMPQ(room, least)
	CMOVQLT(room, least)
	k, y := XMM(), YMM()
	VMOVD(least.As32(), k)
	VPBROADCASTD(k, y)
	VPCMPGTD(indices(8, func(i int) uint32 { return uint32(i) }), y, y)
	VPAND(y, memory, memory)
	Store(sum2(memory), Return("qp"))
	Store(n, Return("n"))
	VZEROUPPER()
	RET()
}

// decoder2 cuts what arriving requests and initial sequences have in common, and stores what both store.
type decoder2 struct {
	request2
	tables, out Register
	table       VecVirtual // pages of the prefixes
	context     VecVirtual // all ones, where it is
	priority    VecVirtual
}

func newDecoder2(words string) *decoder2 {
	d := &decoder2{tables: Load(Param("t"), GP64()), out: Load(Param("n"), GP64())}
	from := Load(Param(words), GP64())
	var w [2]VecVirtual
	for h := range w {
		w[h] = YMM()
		VMOVDQU(Mem{Base: from, Disp: 32 * h}, w[h])
	}
	d.request2 = split2(w)
	code := d.code(d.tables)
	d.context = YMM()
	for i := range 3 {
		y, r := YMM(), GP32()
		VPSLLD(U8(31-i), code, y)
		VMOVMSKPS(y, r)
		MOVB(r.As8(), Mem{Base: d.out, Disp: offNewType0 + i})
	}
	VPCMPEQD(every(uint32(1)), code, d.context)
	rate, high := YMM(), YMM()
	VPSRLD(U8(31), d.low, rate)
	VPAND(every(uint32(1)), d.high, high)
	VPADDD(high, high, high)
	VPADDD(high, rate, rate)
	VPADDD(every(uint32(1)), rate, rate)
	VPACKUSDW(rate, rate, rate)
	VPERMQ(U8(0x08), rate, rate)
	VMOVDQU(rate.AsX(), Mem{Base: d.out, Disp: offNewRate})
	d.priority = field2(d.high, 1, 7)
	VPMULLD(every(uint32(101)), d.priority, d.priority)
	VPSRLD(U8(7), d.priority, d.priority)
	d.table = YMM()
	VPMOVZXWD(Mem{Base: Load(Param("prefixPages"), GP64())}, d.table)
	return d
}

// tokens is the pages and the tokens of the private prompts, and the tokens of the prefixes.
func (d *decoder2) tokens(prefix VecVirtual) (pages, private, shared VecVirtual) {
	pages, private, shared = d.pages(d.tables), field2(d.low, 18, 7), YMM()
	t := YMM()
	VPSLLD(U8(7), pages, t)
	VPADDD(t, private, private)
	VPSUBD(every(uint32(127)), private, private)
	VPERMD(d.table, prefix, shared)
	VPSLLD(U8(7), shared, shared)
	return pages, private, shared
}

// bytes stores the four columns of bytes, and words two of words, which lie side by side in newcomers.
func (d *decoder2) bytes(prefix, hotness, cycle VecVirtual) {
	if offNewPrefix != offNewPriority+8 || offNewHotness != offNewPriority+16 || offNewCycle != offNewPriority+24 {
		panic("gen: the bytes of newcomers are no longer in this order")
	}
	x, y := YMM(), YMM()
	VPACKUSDW(prefix, d.priority, x)
	VPACKUSDW(cycle, hotness, y)
	VPACKUSWB(y, x, x)
	VMOVDQU(constant[uint32](0, 4, 1, 5, 2, 6, 3, 7), y)
	VPERMD(x, y, x)
	VMOVDQU(x, Mem{Base: d.out, Disp: offNewPriority})
}

func (d *decoder2) words(remaining, last VecVirtual) {
	if offNewLast != offNewRemaining+16 {
		panic("gen: LastAccess no longer follows Remaining")
	}
	y := YMM()
	VPACKUSDW(last, remaining, y)
	VPERMQ(U8(0xD8), y, y)
	VMOVDQU(y, Mem{Base: d.out, Disp: offNewRemaining})
}

// codes is the cycle byte without a timer, and run what the timer of a context block starts from.
func (d *decoder2) codes() (cycle, run VecVirtual) {
	cycle, run = YMM(), field2(d.high, 8, 2)
	VPSRLD(U8(4), d.high, cycle)
	VPAND(every(uint32(0xF0)), cycle, cycle)
	VPADDD(every(uint32(2)), run, run)
	VPAND(d.context, run, run)
	return cycle, run
}

func requests2() {
	TEXT("requestsAVX2", NOSPLIT, "func(words *[8]uint64, t *RequestTables, prefixPages *[8]uint16, last int16, hotness uint8, n *Newcomers)")
	Pragma("noescape")
	Doc("requestsAVX2 is Requests.")
	d := newDecoder2("words")
	prefix := d.prefix()
	pages, tokens, shared := d.tokens(prefix)
	VPADDD(shared, tokens, tokens)
	VMOVDQU(tokens, Mem{Base: d.out, Disp: offNewTokens})
	VPSLLD(U8(2), pages, pages)
	VMOVDQU(pages, Mem{Base: d.out, Disp: offNewNeed})
	cycle, run := d.codes()
	VPOR(run, cycle, cycle)
	hot, last := YMM(), YMM()
	VPBROADCASTB(mustAddr("hotness"), hot)
	VPSRLD(U8(24), hot, hot)
	d.bytes(prefix, hot, cycle)
	VPBROADCASTW(mustAddr("last"), last)
	VPSRLD(U8(16), last, last)
	d.words(d.output(d.tables), last)
	MOVW(U16(0x00FF), Mem{Base: d.out, Disp: offNewPrefill}) // and Active
	VZEROUPPER()
	RET()
}

func initials2() {
	TEXT("initialsAVX2", NOSPLIT, "func(draws *[8]uint64, t *RequestTables, prefixPages *[8]uint16, n *Newcomers)")
	Pragma("noescape")
	Doc("initialsAVX2 is Initials.")
	d := newDecoder2("draws")
	prefix := d.prefix()
	_, tokens, shared := d.tokens(prefix)
	output, done := d.output(d.tables), field2(d.high, 16, 6)
	VPMULLD(output, done, done)
	VPSRLD(U8(6), done, done)
	VPSUBD(done, output, output)
	VPADDD(done, tokens, tokens)
	VPADDD(tokens, shared, shared)
	VMOVDQU(shared, Mem{Base: d.out, Disp: offNewTokens})
	VPADDD(every(uint32(127)), tokens, tokens)
	VPSRLD(U8(7), tokens, tokens)
	VPSLLD(U8(2), tokens, tokens)
	VMOVDQU(tokens, Mem{Base: d.out, Disp: offNewNeed})

	idle, active := YMM(), GP32()
	VPSLLD(U8(1), d.high, idle)
	VPSRAD(U8(31), idle, idle)
	VPAND(d.context, idle, idle)
	VMOVMSKPS(idle, active)
	NOTL(active)
	MOVB(I8(0), Mem{Base: d.out, Disp: offNewPrefill})
	MOVB(active.As8(), Mem{Base: d.out, Disp: offNewPrefill + 1})
	cycle, run := d.codes()
	pause := field2(d.high, 10, 2)
	VPADDD(every(uint32(1)), pause, pause)
	VPBLENDVB(idle, pause, run, run)
	VPOR(run, cycle, cycle)
	d.bytes(prefix, field2(d.high, 22, 8), cycle)
	last := field2(d.high, 22, 3)
	VPAND(idle, last, last)
	VPSUBD(last, zero2(), last)
	VPAND(every(uint32(0xFFFF)), last, last)
	d.words(output, last)
	VZEROUPPER()
	RET()
}

// place2 is the loop of the reference, since no instruction spreads values over slots; but all planes of a newcomer are made at once.
func place2() {
	TEXT("placeAVX2", NOSPLIT, "func(b *Block, slots uint64, n *Newcomers, take uint8) (retained uint32)")
	Pragma("noescape")
	Doc("placeAVX2 is Place.")
	b, n, slots, take := argument("b"), argument("n"), argument("slots"), GP64()
	MOVBQZX(mustAddr("take"), take)
	{
		// The newcomers' planes are bytes, and bits are all that octet wants.
		code, taken, x := octet(Mem{Base: n, Disp: offNewType0 + 2}), YMM(), XMM()
		for i := 1; i >= 0; i-- {
			VPADDD(code, code, code)
			VPADDD(octet(Mem{Base: n, Disp: offNewType0 + i}), code, code)
		}
		VPERMD(retentions(), code, code)
		VMOVD(take.As32(), x)
		VPBROADCASTD(x, taken)
		VPAND(bitOfDword(), taken, taken)
		VPCMPEQD(bitOfDword(), taken, taken)
		VPAND(taken, code, code)
		VPMULLD(Mem{Base: n, Disp: offNewNeed}, code, code)
		Store(sum2(code), Return("retained"))
	}
	// What each of four planes has for the newcomers, bit by bit; later the slots' bits that are new in it.
	bitsOf := map[int]Op{}
	all := GP64()
	MOVL(U32(0xFF), all.As32())
	bitsOf[offAlive] = all
	for i, off := range []int{offType0, offType1, offType2, offPrefill, offActive} {
		r := GP64()
		MOVBQZX(Mem{Base: n, Disp: offNewType0 + i}, r)
		bitsOf[off] = r
	}
	var from, fresh, prefixes [4]VecVirtual
	for q := range 4 {
		ids := make([]uint64, 4)
		member, flag := false, false
		var half [2]VecVirtual
		for h := range 2 {
			half[h] = XMM()
			VPXOR(half[h], half[h], half[h])
			for i := range 2 {
				off := offAlive + 32*q + 16*h + 8*i
				ids[2*h+i] = 0xFF // no prefix
				if p := (off-offMembers)/8 + 1; off >= offMembers {
					ids[2*h+i], member = uint64(p), true
				}
				if r, ok := bitsOf[off]; ok {
					VPINSRQ(U8(i), r, half[h], half[h])
					flag = true
				}
			}
		}
		if flag {
			from[q] = YMM()
			VINSERTI128(U8(1), half[1], half[0].AsY(), from[q])
		}
		if member {
			prefixes[q] = YMM()
			VMOVDQU(constant(ids...), prefixes[q])
		}
		fresh[q] = zero2()
	}
	i, s, t := GP64(), GP64(), GP64()
	which, to := XMM(), XMM()
	JMP(LabelRef("any"))
	Label("next")
	TZCNTQ(take, i)
	TZCNTQ(slots, s)
	BLSRQ(take, take)
	BLSRQ(slots, slots)
	VMOVQ(i, which)
	VMOVQ(s, to)
	MOVL(Mem{Base: n, Disp: offNewTokens, Index: i, Scale: 4}, t.As32())
	MOVL(t.As32(), Mem{Base: b, Disp: offTokens, Index: s, Scale: 4})
	for _, c := range [][2]int{{offNewRemaining, offRemaining}, {offNewLast, offLastAccess}, {offNewRate, offRate}} {
		MOVWLZX(Mem{Base: n, Disp: c[0], Index: i, Scale: 2}, t.As32())
		MOVW(t.As16(), Mem{Base: b, Disp: c[1], Index: s, Scale: 2})
	}
	for _, c := range [][2]int{{offNewPriority, offPriority}, {offNewHotness, offHotness}, {offNewCycle, offCycle}, {offNewPrefix, offPrefix}} {
		MOVBLZX(Mem{Base: n, Disp: c[0], Index: i, Scale: 1}, t.As32())
		if c[1] == offPrefix {
			ANDL(U8(7), t.As32())
		}
		MOVB(t.As8(), Mem{Base: b, Disp: c[1], Index: s, Scale: 1})
	}
	prefix := inQwords(t)
	for q := range 4 {
		bit, same := YMM(), YMM()
		if from[q] != nil {
			VPSRLQ(which, from[q], bit)
			VPAND(every(uint64(1)), bit, bit)
		}
		if prefixes[q] != nil {
			VPCMPEQQ(prefixes[q], prefix, same)
			VPSRLQ(U8(63), same, same)
			if from[q] != nil {
				VPOR(same, bit, bit)
			} else {
				bit = same
			}
		}
		VPSLLQ(to, bit, bit)
		VPOR(bit, fresh[q], fresh[q])
	}
	Label("any")
	TESTQ(take, take)
	JNZ(LabelRef("next"))
	for q, y := range fresh {
		m := Mem{Base: b, Disp: offAlive + 32*q}
		VPOR(m, y, y)
		VMOVDQU(y, m)
	}
	VZEROUPPER()
	RET()
}

func touch2() {
	TEXT("touchAVX2", NOSPLIT, "func(b *Block, plane uint64, joins *[8]uint8, step int16)")
	Pragma("noescape")
	Doc("touchAVX2 is Touch.")
	b := Load(Param("b"), GP64())
	warmth, t, plane, step := YMM(), XMM(), YMM(), YMM()
	VPMOVZXBW(Mem{Base: Load(Param("joins"), GP64())}, t)
	VPMULLW(constant[uint16](0, 63, 63, 63, 63, 63, 63, 63), t, t) // prefix 0 is none
	VPACKUSWB(t, t, t)                                             // cuts at 255
	VPBROADCASTQ(t, warmth)
	VPBROADCASTQ(mustAddr("plane"), plane)
	VPBROADCASTW(mustAddr("step"), step)
	some := argument("plane")
	for h := range 2 {
		skip := []string{"low", "high"}[h]
		TESTL(some.As32(), some.As32())
		JZ(LabelRef(skip))
		w, hot := YMM(), YMM()
		VMOVDQU(Mem{Base: b, Disp: offPrefix + 32*h}, w)
		VPSHUFB(w, warmth, w)
		VPAND(spread(plane, h), w, w)
		VPADDUSB(Mem{Base: b, Disp: offHotness + 32*h}, w, hot)
		VMOVDQU(hot, Mem{Base: b, Disp: offHotness + 32*h})
		VPCMPEQB(zero2(), w, w)
		for g := range 2 {
			none, last := YMM(), YMM()
			if g == 1 {
				VEXTRACTI128(U8(1), w, w.AsX())
			}
			VPMOVSXBW(w.AsX(), none)
			m := Mem{Base: b, Disp: offLastAccess + 64*h + 32*g}
			VPBLENDVB(none, m, step, last)
			VMOVDQU(last, m)
		}
		Label(skip)
		if h == 0 {
			SHRQ(U8(32), some)
		}
	}
	VZEROUPPER()
	RET()
}

func fill2() {
	TEXT("fillAVX2", NOSPLIT, "func(dst *float32, lines int, x float32, stream bool)")
	Pragma("noescape")
	Doc("fillAVX2 is Fill of whole lines.")
	dst := Load(Param("dst"), GP64())
	lines := Load(Param("lines"), GP64())
	y, r := YMM(), GP32()
	VBROADCASTSS(mustAddr("x"), y)
	MOVBLZX(mustAddr("stream"), r)
	TESTL(r, r)
	JNZ(LabelRef("stream"))
	for _, name := range []string{"plain", "stream"} {
		Label(name)
		for h := range 2 {
			store2(y, Mem{Base: dst, Disp: 32 * h}, name == "stream")
		}
		ADDQ(U8(64), dst)
		DECQ(lines)
		JNZ(LabelRef(name))
		VZEROUPPER()
		RET()
	}
}

// observer2 computes the features of eight lanes, four at a time: more would not stay in 16 registers.
type observer2 struct {
	b, v, gain Register
	lane, bits GPVirtual // of the group: its first lane, and an eighth of that
	pages      Mem       // of the prefixes, dwords
	codes      Mem       // a byte a lane
	last       Mem       // planes
	moving     Mem
}

// start finds what is the same for all groups, in the frame.
//
// The codes are the eight planes of a block turned by 90 degrees, as Block.codes does, so that a permutation is a look-up of values by
// three of a lane's bits. Bit 0 to 7: int8, int4 (both: not alive), swapped, the type, and two bits that say 0 idle, 1 prefill,
// 2 active, 3 active and reasoning.
func (o *observer2) start() {
	o.b = Load(Param("b"), GP64())
	o.v = Load(Param("v"), GP64())
	o.gain = GP64()
	MOVQ(Mem{Base: o.v, Disp: offGain}, o.gain)
	o.pages, o.codes, o.last = AllocLocal(32), AllocLocal(64), AllocLocal(24) // octet reads three bytes more
	o.moving = o.last.Offset(8)
	{
		p, y := GP64(), YMM()
		MOVQ(Mem{Base: o.v, Disp: offPages}, p)
		VPMOVZXWD(Mem{Base: p}, y)
		VMOVDQU(y, o.pages)
	}
	alive := planeOf(o.b, offAlive)
	thinking, last, moving := planeOf(o.b, offType0), planeOf(o.b, offSwapped), planeOf(o.v, offMoving)
	ANDNQ(alive, last, last)
	ANDQ(Mem{Base: o.v, Disp: offLast}, last)
	MOVQ(last, o.last)
	ANDQ(alive, moving)
	MOVQ(moving, o.moving)
	ANDQ(Mem{Base: o.b, Disp: offType1}, thinking)
	ANDQ(Mem{Base: o.b, Disp: offActive}, thinking)
	ORQ(Mem{Base: o.b, Disp: offPrefill}, thinking)
	NOTQ(alive)
	int8s, int4s := or(alive, planeOf(o.b, offInt8)), or(alive, planeOf(o.b, offInt4))

	// Bytes of the planes that belong to eight lanes, side by side.
	var p [8]VecVirtual
	for i, from := range []Op{int8s, int4s, Mem{Base: o.b, Disp: offSwapped}, Mem{Base: o.b, Disp: offType0},
		Mem{Base: o.b, Disp: offType1}, Mem{Base: o.b, Disp: offType2}, thinking, Mem{Base: o.b, Disp: offActive}} {
		p[i] = XMM()
		VMOVQ(from, p[i])
	}
	for i := 0; i < 8; i += 2 {
		VPUNPCKLBW(p[i+1], p[i], p[i])
	}
	for i := 0; i < 8; i += 4 {
		VPUNPCKHWD(p[i+2], p[i], p[i+1])
		VPUNPCKLWD(p[i+2], p[i], p[i])
	}
	for i := range 2 {
		low, high, x := XMM(), XMM(), YMM()
		VPUNPCKLDQ(p[4+i], p[i], low)
		VPUNPCKHDQ(p[4+i], p[i], high)
		VINSERTI128(U8(1), high, low.AsY(), x)
		// 8 by 8 bits.
		for _, s := range []struct {
			shift uint8
			mask  uint64
		}{{7, 0x00AA00AA00AA00AA}, {14, 0x0000CCCC0000CCCC}, {28, 0x00000000F0F0F0F0}} {
			t := YMM()
			VPSRLQ(U8(s.shift), x, t)
			VPXOR(x, t, t)
			VPAND(every(s.mask), t, t)
			VPXOR(t, x, x)
			VPSLLQ(U8(s.shift), t, t)
			VPXOR(t, x, x)
		}
		VMOVDQU(x, o.codes.Offset(32*i))
	}
	o.lane, o.bits = GP64(), GP64()
	XORL(o.lane.As32(), o.lane.As32())
	XORL(o.bits.As32(), o.bits.As32())
}

// next moves on by some groups.
func (o *observer2) next(groups int) {
	ADDQ(U8(8*groups), o.lane)
	ADDQ(U8(groups), o.bits)
}

// ifEmpty jumps to a label if the next lanes, as many as a group or two, hold no sequence.
func (o *observer2) ifEmpty(groups int, label string) {
	m := Mem{Base: o.b, Disp: offAlive, Index: o.bits, Scale: 1}
	if groups == 1 {
		CMPB(m, U8(0))
	} else {
		CMPW(m, U8(0))
	}
	JE(LabelRef(label))
}

// column is where the values of group i after the present one stand.
func (o *observer2) column(off, size, i int) Mem {
	return Mem{Base: o.b, Disp: off + 8*size*i, Index: o.lane, Scale: uint8(size)}
}

func (o *observer2) code(i int) VecVirtual {
	y := YMM()
	VPMOVZXBD(o.codes.Offset(8*i).Idx(o.lane, 1), y)
	return y
}

// times2 converts integers, which are below 2^31, and multiplies.
func times2(y VecVirtual, x Mem) {
	VCVTDQ2PS(y, y)
	VMULPS(x, y, y)
}

// quad computes features 4q to 4q+3 of group i after the present one; lanes that are not alive are 0.
//
// The reference converts unsigned numbers; all of these are below 2^31. Tokens are below 2^25 + 2^23 and Limit at most 2^29.
func (o *observer2) quad(q, i int) (f [4]VecVirtual) {
	for j := range f {
		f[j] = YMM()
	}
	alive := octet(Mem{Base: o.b, Disp: offAlive + i, Index: o.bits, Scale: 1})
	switch q {
	case 0: // quant, cost, reclaim, progress
		tokens, prefix, code, pages, t := YMM(), YMM(), o.code(i), YMM(), YMM()
		VPERMPS(constant[float32](1, 0.5, 0.25, 0, 1, 0.5, 0.25, 0), code, f[0])
		VPERMD(constant[uint32](2, 1, 0, 32, 32, 32, 32, 32), code, code) // 32 shifts everything out
		VMOVDQU(o.column(offTokens, 4, i), tokens)
		VPMOVZXBD(o.column(offPrefix, 1, i), prefix)
		VPADDD(every(uint32(127)), tokens, t)
		VPSRLD(U8(7), t, t)
		VPERMD(o.pages, prefix, pages)
		VPSUBD(pages, t, t)
		VPSLLVD(code, t, t)
		VPERMD(Mem{Base: o.gain}, prefix, f[2])
		VPAND(octet(o.last.Offset(i).Idx(o.bits, 1)), f[2], f[2])
		VPADDD(t, f[2], f[2])
		limit, inv := YMM(), YMM()
		VPBROADCASTD(Mem{Base: o.v, Disp: offLimit}, limit)
		VBROADCASTSS(Mem{Base: o.v, Disp: offInv}, inv)
		VPMINUD(limit, t, f[1])
		VPMINUD(limit, f[2], f[2])
		for _, y := range f[1:3] {
			VCVTDQ2PS(y, y)
			VMULPS(inv, y, y)
		}
		VPMOVZXWD(o.column(offRemaining, 2, i), t)
		VPADDD(tokens, t, t)
		VCVTDQ2PS(tokens, tokens)
		VCVTDQ2PS(t, t)
		VDIVPS(t, tokens, f[3])
		VANDPS(alive, f[3], f[3])
	case 1: // rate, priority, eviction value, phase
		code := o.code(i)
		VPMOVZXWD(o.column(offRate, 2, i), f[0])
		VPMINUD(every(uint32(128)), f[0], f[0])
		VPAND(alive, f[0], f[0])
		times2(f[0], every(float32(1.0/128)))
		VPMOVZXBD(o.column(offPriority, 1, i), f[1])
		VPAND(alive, f[1], f[1])
		times2(f[1], every(float32(1.0/100)))
		VPSRLD(U8(3), code, f[2])
		VPERMPS(constant[float32](0, 0.25, 0.5, float32(90)/100, 1, 0, 0, 0), f[2], f[2])
		VPSRLD(U8(6), code, f[3])
		VPERMPS(constant[float32](0, 0.25, 0.5, 0.75, 0, 0, 0, 0), f[3], f[3])
	case 2: // hotness, age, prefix, swapped
		VPMOVZXBD(o.column(offHotness, 1, i), f[0])
		VPAND(alive, f[0], f[0])
		times2(f[0], every(float32(1.0/255)))
		last := YMM()
		VPMOVSXWD(o.column(offLastAccess, 2, i), last)
		VPBROADCASTD(Mem{Base: o.v, Disp: offStep}, f[1])
		VPSUBD(last, f[1], f[1])
		VPMINUD(every(uint32(16)), f[1], f[1])
		VPAND(alive, f[1], f[1])
		times2(f[1], every(float32(1.0/16)))
		VPMOVZXBD(o.column(offPrefix, 1, i), f[2])
		VPAND(alive, f[2], f[2])
		times2(f[2], every(float32(1.0/8)))
		moving, half := octet(o.moving.Offset(i).Idx(o.bits, 1)), YMM()
		VPERMPS(constant[float32](0, 0, 0, 0, 1, 1, 1, 1), o.code(i), f[3])
		// Code 3 is not alive and has neither; bit 2 is swapped.
		VMOVUPS(every(float32(0.5)), half)
		VBLENDVPS(moving, half, f[3], f[3])
	}
	return f
}

// pieces2 turns four features of eight lanes into four registers; number j holds those of lanes j and 4+j in its halves.
func pieces2(f [4]VecVirtual) (m [4]VecVirtual) {
	var t [4]VecVirtual
	for i := range t {
		t[i], m[i] = YMM(), YMM()
	}
	VUNPCKLPS(f[1], f[0], t[0])
	VUNPCKHPS(f[1], f[0], t[1])
	VUNPCKLPS(f[3], f[2], t[2])
	VUNPCKHPS(f[3], f[2], t[3])
	VUNPCKLPD(t[2], t[0], m[0])
	VUNPCKHPD(t[2], t[0], m[1])
	VUNPCKLPD(t[3], t[1], m[2])
	VUNPCKHPD(t[3], t[1], m[3])
	return m
}

func rows2(stream bool) {
	name := stream2("rows", stream)
	TEXT(name, NOSPLIT, "func(dst *float32, groups int, b *Block, v *View)")
	Pragma("noescape")
	Doc(name + " is Rows of 16 lanes a group.")
	var o observer2
	o.start()
	dst, groups := Load(Param("dst"), GP64()), argument("groups")
	ADDQ(groups, groups) // of eight lanes: six lines
	Label("group")
	o.ifEmpty(1, "empty")
	var m [12]VecVirtual // 3j+q: features 4q to 4q+3 of lanes j and 4+j
	for q := range 3 {
		for j, y := range pieces2(o.quad(q, 0)) {
			m[3*j+q] = y
		}
	}
	y := YMM()
	for i := range 12 {
		a, b := m[2*i%12], m[2*i%12+1]
		if i < 6 {
			VINSERTF128(U8(1), b.AsX(), a, y)
		} else {
			VPERM2F128(U8(0x31), b, a, y)
		}
		store2(y, Mem{Base: dst, Disp: 32 * i}, stream)
	}
	JMP(LabelRef("next"))
	Label("empty")
	zero := zero2()
	for i := range 12 {
		store2(zero, Mem{Base: dst, Disp: 32 * i}, stream)
	}
	Label("next")
	o.next(1)
	ADDQ(U32(384), dst)
	DECQ(groups)
	JNZ(LabelRef("group"))
	VZEROUPPER()
	RET()
}

func columns2(stream bool) {
	name := stream2("columns", stream)
	TEXT(name, NOSPLIT, "func(dst *float32, stride, groups int, b *Block, v *View)")
	Pragma("noescape")
	Doc(name + " is Columns of 16 lanes a group; stride counts bytes.")
	var o observer2
	o.start()
	dst, stride, groups, at := Load(Param("dst"), GP64()), argument("stride"), argument("groups"), GP64()
	Label("group")
	MOVQ(dst, at)
	o.ifEmpty(2, "empty")
	for q := range 3 {
		low, high := o.quad(q, 0), o.quad(q, 1)
		for j := range 4 {
			store2(low[j], Mem{Base: at}, stream)
			store2(high[j], Mem{Base: at, Disp: 32}, stream)
			ADDQ(stride, at)
		}
	}
	JMP(LabelRef("next"))
	Label("empty")
	zero := zero2()
	for range 12 {
		store2(zero, Mem{Base: at}, stream)
		store2(zero, Mem{Base: at, Disp: 32}, stream)
		ADDQ(stride, at)
	}
	Label("next")
	o.next(2)
	ADDQ(U8(64), dst)
	DECQ(groups)
	JNZ(LabelRef("group"))
	VZEROUPPER()
	RET()
}

// quantise2 turns feature i into integers 0 to 255.
func quantise2(y VecVirtual, i int) {
	VMULPS(every(byteScale[i]), y, y)
	VADDPS(every(float32(0.5)), y, y)
	VCVTTPS2DQ(y, y)
}

func byteRows2() {
	TEXT("byteRowsAVX2", NOSPLIT, "func(dst *uint8, groups int, b *Block, v *View)")
	Pragma("noescape")
	Doc("byteRowsAVX2 is ByteRows of 16 lanes a group.")
	var o observer2
	o.start()
	dst, groups := Load(Param("dst"), GP64()), argument("groups")
	ADDQ(groups, groups)
	Label("group")
	o.ifEmpty(1, "empty")
	var quads [3]VecVirtual // dword s: four bytes of lane s
	for q := range quads {
		f := o.quad(q, 0)
		for i, y := range f {
			quantise2(y, 4*q+i)
		}
		VPACKUSDW(f[1], f[0], f[0])
		VPACKUSDW(f[3], f[2], f[2])
		VPACKUSWB(f[2], f[0], f[0])
		VPSHUFB(indices(32, func(i int) uint8 { return uint8(i%4*4 + i/4%4) }), f[0], f[0])
		quads[q] = f[0]
	}
	for part := range 3 { // dword n of the group is dword n/3 of quad n%3
		var out VecVirtual
		for q := range 3 {
			y, i := YMM(), YMM()
			mask := uint8(0)
			VMOVDQU(indices(8, func(i int) uint32 { return uint32(8*part+i) / 3 }), i)
			for i := range 8 {
				if (8*part+i)%3 == q {
					mask |= 1 << i
				}
			}
			VPERMD(quads[q], i, y)
			if q == 0 {
				out = y
			} else {
				VPBLENDD(U8(mask), y, out, out)
			}
		}
		VMOVDQU(out, Mem{Base: dst, Disp: 32 * part})
	}
	JMP(LabelRef("next"))
	Label("empty")
	zero := zero2()
	for part := range 3 {
		VMOVDQU(zero, Mem{Base: dst, Disp: 32 * part})
	}
	Label("next")
	o.next(1)
	ADDQ(U8(96), dst)
	DECQ(groups)
	JNZ(LabelRef("group"))
	VZEROUPPER()
	RET()
}

func byteColumns2() {
	TEXT("byteColumnsAVX2", NOSPLIT, "func(dst *uint8, stride, groups int, b *Block, v *View)")
	Pragma("noescape")
	Doc("byteColumnsAVX2 is ByteColumns of 16 lanes a group.")
	var o observer2
	o.start()
	dst, stride, groups, at := Load(Param("dst"), GP64()), argument("stride"), argument("groups"), GP64()
	Label("group")
	MOVQ(dst, at)
	o.ifEmpty(2, "empty")
	for q := range 3 {
		low, high := o.quad(q, 0), o.quad(q, 1)
		for j := range 4 {
			quantise2(low[j], 4*q+j)
			quantise2(high[j], 4*q+j)
			VPACKUSDW(high[j], low[j], low[j])
		}
		for j := 0; j < 4; j += 2 { // two columns at a time
			y, i := YMM(), YMM()
			VPACKUSWB(low[j+1], low[j], y)
			VMOVDQU(constant[uint32](0, 4, 1, 5, 2, 6, 3, 7), i)
			VPERMD(y, i, y)
			VMOVDQU(y.AsX(), Mem{Base: at})
			ADDQ(stride, at)
			VEXTRACTI128(U8(1), y, Mem{Base: at})
			ADDQ(stride, at)
		}
	}
	JMP(LabelRef("next"))
	Label("empty")
	zero := zero2()
	for range 12 {
		VMOVDQU(zero.AsX(), Mem{Base: at})
		ADDQ(stride, at)
	}
	Label("next")
	o.next(2)
	ADDQ(U8(16), dst)
	DECQ(groups)
	JNZ(LabelRef("group"))
	VZEROUPPER()
	RET()
}
