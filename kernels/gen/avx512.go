package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// Groups of 16 lanes fill one ZMM register of dwords; k registers hold the 16 bits that a plane has for them.

func avx512() {
	opPlanes512()
	act512()
	globals512()
	heat512()
	advance512()
	prefixes512()
	admit512()
	enter512()
	arrive512()
	draws512()
	arriveSteps512()
	counts512()
	maskRows512()
	arrivals512()
	requests512()
	initials512()
	together512()
	place512()
	touch512()
	step512()
	stepTrailing512(false)
	stepTrailing512(true)
	steps512("stepsAVX512", false, false)
	steps512("stepsAheadAVX512", false, true)
	steps512("stepsStreamAVX512", true, true)
	holders512()
	due512()
	sums512()
	remove512()
	prefill512()
	operateServing512()
	decodeKernel512()
	enqueue512()
	wait512()
	choose512()
	pay512()
	settle512()
	leave512()
	serveTickets512()
	arriveTickets512()
	lives512()
	livesInitial512()
	fill512()
	for _, stream := range []bool{false, true} {
		rows512(stream)
		columns512(stream)
		observe512(stream)
		observeServing512(stream)
	}
	byteRows512()
	byteColumns512()
}

// dwords broadcasts a constant to all lanes of a new register.
func dwords(x uint32) VecVirtual {
	z := ZMM()
	VPBROADCASTD(constant(x), z)
	return z
}

// bytes does the same with a byte, four at a time: a single byte would take a shuffle, where a load is enough.
func bytes(x uint8) VecVirtual { return dwords(uint32(x) * 0x01010101) }

func opPlanes512() {
	TEXT("opPlanesAVX512", NOSPLIT, "func(ops *[64]uint8) (lo, hi, over uint64)")
	Pragma("noescape")
	Doc("opPlanesAVX512 is OpPlanes.")
	p := Load(Param("ops"), GP64())
	ops := ZMM()
	VMOVDQU8(Mem{Base: p}, ops)
	plane := func(bits uint8) (GPVirtual, OpmaskVirtual) {
		k, r := K(), GP64()
		VPTESTMB(bytes(bits), ops, k)
		KMOVQ(k, r)
		return r, k
	}
	lo, _ := plane(1)
	hi, _ := plane(2)
	over, _ := plane(0xFC)
	Store(andNot(lo, over), Return("lo"))
	Store(andNot(hi, over), Return("hi"))
	Store(over, Return("over"))
	VZEROUPPER()
	RET()
}

// plane512 has ones where a plane stands in the first line of them.
func plane512(off int) Mem {
	d := (off - offAlive) / 4
	return lanes512(d, d+1)
}

// orPlane512, xorPlane512 and setPlane512 change one plane of a line by what is in all lanes of by; clearPlanes512 takes what is in by
// out of all planes, and one plane out whole.
func orPlane512(line, by VecVirtual, off int)  { VPTERNLOGQ(U8(0xF8), plane512(off), by, line) }
func xorPlane512(line, by VecVirtual, off int) { VPTERNLOGQ(U8(0x78), plane512(off), by, line) }
func setPlane512(line, by VecVirtual, off int) { VPTERNLOGQ(U8(0xD8), plane512(off), by, line) }

func clearPlanes512(line, by VecVirtual, whole int) {
	VPTERNLOGQ(U8(0x10), plane512(whole), by, line)
}

func act512() {
	TEXT("actAVX512", NOSPLIT, "func(b *Block, ops *[64]uint8, pages *[8]uint16, a *Acted)")
	Pragma("noescape")
	Doc("actAVX512 is Act.")
	actBody512(Load(Param("b"), GP64()), Load(Param("a"), GP64()))
	VZEROUPPER()
	RET()
}

// acted512 is what the operations of a row come to, as planes.
type acted512 struct {
	evict, compress, swap, read, resident GPVirtual
}

// told512 is where a kernel tells what operations did.
type told512 struct {
	out                                                         Register
	evicted, compressed, swapped, read, invalid, riskHundredths int
	count                                                       bool // adds numbers, those of lanes for planes, instead of storing both
}

func (t *told512) plane(p GPVirtual, off int) {
	if t.count {
		n := GP64()
		POPCNTQ(p, n)
		ADDL(n.As32(), Mem{Base: t.out, Disp: off})
		return
	}
	MOVQ(p, Mem{Base: t.out, Disp: off})
}

func (t *told512) number(n Register, off int) {
	if t.count {
		ADDL(n, Mem{Base: t.out, Disp: off})
		return
	}
	MOVL(n, Mem{Base: t.out, Disp: off})
}

// asked512 turns op bytes into the planes of their two bits, without those that are none, and counts all of them.
func asked512() (lo, hi, count GPVirtual) {
	ops := ZMM()
	VMOVDQU8(Mem{Base: argument("ops")}, ops)
	plane := func(bits uint8) GPVirtual {
		k, r := K(), GP64()
		VPTESTMB(bytes(bits), ops, k)
		KMOVQ(k, r)
		return r
	}
	var over GPVirtual
	lo, hi, over = plane(1), plane(2), plane(0xFC)
	count = or(or(lo, hi), over)
	POPCNTQ(count, count)
	lo, hi = andNot(lo, over), andNot(hi, over)
	return lo, hi, count
}

// ops512 turns op bytes into planes of what is done, and tells them.
func ops512(b Register, t told512) (o acted512) {
	lo, hi, asked := asked512()
	alive, swapped := planeOf(b, offAlive), planeOf(b, offSwapped)
	o.resident = andNot(alive, swapped)
	o.evict = and(andNot(lo, hi), alive)
	o.compress = andNot(and(andNot(hi, lo), o.resident), planeOf(b, offInt4))
	o.swap = and(and(lo, hi), o.resident)
	done := or(or(o.evict, o.compress), o.swap)
	POPCNTQ(done, done)
	SUBL(done.As32(), asked.As32())
	t.number(asked.As32(), t.invalid)
	t.plane(o.evict, t.evicted)
	t.plane(o.compress, t.compressed)
	t.plane(o.swap, t.swapped)
	o.read = andNot(swapped, o.evict)
	ORQ(o.swap, o.read)
	ANDQ(Mem{Base: b, Disp: offActive}, o.read)
	t.plane(o.read, t.read)
	return o
}

// risk512 tells what evictions of sequences of the given types risk.
func risk512(b Register, evict, system, context, generation GPVirtual, t told512) {
	risk, r := GP32(), and(evict, system)
	POPCNTQ(r, r)
	IMUL3L(U8(30), r.As32(), risk)
	priority := ZMM()
	VMOVDQU8(Mem{Base: b, Disp: offPriority}, priority)
	atLeast := func(x uint8, among GPVirtual) GPVirtual {
		k, r := K(), GP64()
		VPCMPUB(U8(5), bytes(x), priority, k)
		KMOVQ(k, r)
		ANDQ(among, r)
		ANDQ(evict, r)
		return r
	}
	r = atLeast(50, context)
	POPCNTQ(r, r)
	IMUL3L(U8(15), r.As32(), r.As32())
	ADDL(r.As32(), risk)
	r = atLeast(70, generation)
	Label("generation") // seldom any
	TESTQ(r, r)
	JZ(LabelRef("risked"))
	{
		i, x, y := GP64(), GP64(), GP64()
		TZCNTQ(r, i)
		BLSRQ(r, r)
		MOVL(Mem{Base: b, Disp: offTokens, Index: i, Scale: 4}, x.As32())
		LEAQ(Mem{Base: x, Index: x, Scale: 2}, x)
		MOVWQZX(Mem{Base: b, Disp: offRemaining, Index: i, Scale: 2}, y)
		IMUL3Q(U8(7), y, y)
		CMPQ(x, y)
		JCS(LabelRef("generation"))
		ADDL(U8(20), risk)
		JMP(LabelRef("generation"))
	}
	Label("risked")
	t.number(risk, t.riskHundredths)
}

// local puts a plane into the frame.
func local(p GPVirtual) Mem {
	m := AllocLocal(8)
	MOVQ(p, m)
	return m
}

// actBody512 writes what Act tells to out.
func actBody512(b, out Register) {
	t := told512{out, offEvicted, offCompressed, offActSwapped, offRead, offInvalid, offRisk, false}
	o := ops512(b, t)
	freed := or(and(o.evict, o.resident), or(o.swap, o.compress))
	touched := local(or(freed, o.read))
	freedM, readM, compressM := local(freed), local(o.read), local(o.compress)
	t0, t1, t2 := planeOf(b, offType0), planeOf(b, offType1), planeOf(b, offType2)
	context, generation := andNot(t0, t1), andNot(t1, t0)
	system := andNot(planeOf(b, offAlive), or(or(t0, t1), t2))
	contextM, generationM, reasoningM, systemM := local(context), local(generation), local(and(t0, t1)), local(system)
	risk512(b, o.evict, system, context, generation, t)

	// Memory, in the groups that have any touched lane.
	table := pageTable512()
	sum, worth, latency := ZMM(), ZMM(), ZMM()
	for _, z := range []VecVirtual{sum, worth, latency} {
		VPXORD(z, z, z)
	}
	low, two, hundred := dwords(127), dwords(200), dwords(100)
	at := func(m Mem, g int) OpmaskVirtual {
		k := K()
		KMOVW(m.Offset(2*g), k)
		return k
	}
	for g := range 4 {
		skip := "skip" + string(rune('0'+g))
		w := GP32()
		MOVWLZX(touched.Offset(2*g), w)
		TESTL(w, w)
		JZ(LabelRef(skip))
		own, prefix, l := ZMM(), ZMM(), ZMM()
		VMOVDQU32(Mem{Base: b, Disp: offTokens + 64*g}, own)
		VPADDD(low, own, own)
		VPSRLD(U8(7), own, own)
		VPMOVZXBD(Mem{Base: b, Disp: offPrefix + 16*g}, prefix)
		VPERMD(table, prefix, prefix)
		VPSUBD(prefix, own, own)
		VPSLLD(U8(2), own, own)
		VPSRLD(U8(1), own, at(Mem{Base: b, Disp: offInt8}, g), own)
		VPSRLD(U8(2), own, at(Mem{Base: b, Disp: offInt4}, g), own)
		VPADDD(own, own, l)
		VPMINUD(two, l, l)
		VPADDD(hundred, l, l)
		VPADDD(l, latency, at(readM, g), latency)
		VMOVDQA32_Z(own, at(freedM, g), own)
		VPSRLD(U8(1), own, at(compressM, g), own)
		VPADDD(own, sum, sum)
		z := ZMM()
		VPBROADCASTD_Z(constant(uint32(20)), at(systemM, g), z)
		VPBROADCASTD(constant(uint32(15)), at(contextM, g), z)
		VPBROADCASTD(constant(uint32(10)), at(generationM, g), z)
		VPBROADCASTD(constant(uint32(2)), at(reasoningM, g), z)
		VPMULLD(z, own, own)
		VPADDD(own, worth, worth)
		Label(skip)
	}
	MOVL(sum512(sum), Mem{Base: out, Disp: offActFreed})
	MOVL(sum512(worth), Mem{Base: out, Disp: offActFreedRetained})
	MOVL(sum512(latency), Mem{Base: out, Disp: offLatency})
	applyOps512(b, o)
}

// applyOps512 updates the planes, of which it returns the first line: evicted lanes leave them all.
func applyOps512(b Register, o acted512) VecVirtual {
	gone, planes, rest := one512(o.evict), ZMM(), ZMM()
	VMOVDQU64(Mem{Base: b, Disp: offAlive}, planes)
	VMOVDQU64(Mem{Base: b, Disp: offAlive + 64}, rest)
	lower := GP64()
	MOVQ(Mem{Base: b, Disp: offInt8}, lower)
	ANDQ(o.compress, lower)
	VPANDNQ(planes, gone, planes)
	VPANDNQ(rest, gone, rest)
	orPlane512(planes, one512(o.swap), offSwapped)
	xorPlane512(planes, one512(o.compress), offInt8)
	orPlane512(planes, one512(lower), offInt4)
	VMOVDQU64(planes, Mem{Base: b, Disp: offAlive})
	VMOVDQU64(rest, Mem{Base: b, Disp: offAlive + 64})
	return planes
}

func globals512() {
	TEXT("globalsAVX512", NOSPLIT, "func(dst *[16]float32, num, den *[16]int32, budget, capacity, norm, most uint32, stream bool)")
	Pragma("noescape")
	Doc("globalsAVX512 is Globals.")
	num := Load(Param("num"), GP64())
	n := ZMM()
	VMOVDQU32(Mem{Base: num}, n)
	divide512(n, Mem{Base: Load(Param("den"), GP64())}, "budget", "capacity", "norm", "most")
	dst, r := Load(Param("dst"), GP64()), GP32()
	MOVBLZX(mustAddr("stream"), r)
	TESTL(r, r)
	JNZ(LabelRef("stream"))
	VMOVUPS(n, Mem{Base: dst})
	VZEROUPPER()
	RET()
	Label("stream")
	VMOVNTPS(n, Mem{Base: dst})
	VZEROUPPER()
	RET()
}

// divide512 divides 16 numerators by 16 denominators, of which parameters replace some.
func divide512(n VecVirtual, den Mem, budget, capacity, norm, most string) {
	d := ZMM()
	VMOVDQU32(den, d)
	for _, x := range []struct {
		name  string
		lanes uint32
	}{{budget, 1<<0 | 1<<7 | 1<<12}, {capacity, 1 << 1}, {norm, 1 << 14}, {most, 1 << 15}} {
		if x.name == "" {
			continue
		}
		k := K()
		KMOVW(constant(uint16(x.lanes)), k)
		VPBROADCASTD(argument(x.name).As32(), k, d)
	}
	VCVTDQ2PS(n, n)
	VCVTDQ2PS(d, d)
	VDIVPS(d, n, n)
}

// decay512 takes a quarter off every byte and warms those of a mask.
func decay512(h VecVirtual, warm OpmaskVirtual) {
	cool512(h)
	VPADDB(bytes(63), h, warm, h)
}

// cool512 is the decay alone.
func cool512(h VecVirtual) {
	q := ZMM()
	VPSRLW(U8(2), h, q)
	VPANDD_BCST(constant(uint32(0x3F3F3F3F)), q, q)
	VPSUBB(q, h, h)
}

func heat512() {
	TEXT("heatAVX512", NOSPLIT, "func(h *[64]uint8, warm uint64)")
	Pragma("noescape")
	Doc("heatAVX512 is Heat.")
	p, k, h := Load(Param("h"), GP64()), K(), ZMM()
	KMOVQ(Load(Param("warm"), GP64()), k)
	VMOVDQU8(Mem{Base: p}, h)
	decay512(h, k)
	VMOVDQU8(h, Mem{Base: p})
	VZEROUPPER()
	RET()
}

// sum512 adds up the dwords of z.
func sum512(z VecVirtual) GPVirtual {
	y, y2 := YMM(), YMM()
	VEXTRACTI64X4(U8(1), z, y)
	VPADDD(z.AsY(), y, y)
	VEXTRACTI128(U8(1), y, y2.AsX())
	x := y.AsX()
	VPADDD(y2.AsX(), x, x)
	VPSHUFD(U8(0x4E), x, y2.AsX())
	VPADDD(y2.AsX(), x, x)
	VPSHUFD(U8(0xB1), x, y2.AsX())
	VPADDD(y2.AsX(), x, x)
	r := GP32()
	VMOVD(x, r)
	return r
}

// part moves the 16 bits of a plane that belong to group g into a k register.
func part(plane GPVirtual, g int) OpmaskVirtual {
	k := K()
	if g == 0 {
		KMOVW(plane.As32(), k)
		return k
	}
	r := GP64()
	MOVQ(plane, r)
	SHRQ(U8(16*g), r)
	KMOVW(r.As32(), k)
	return k
}

// half moves 32 bits of a plane into a k register.
func half(plane GPVirtual, h int) OpmaskVirtual {
	k := K()
	if h == 0 {
		KMOVD(plane.As32(), k)
		return k
	}
	r := GP64()
	MOVQ(plane, r)
	SHRQ(U8(32), r)
	KMOVD(r.As32(), k)
	return k
}

// pageTable512 loads the pages of the shared prefixes as dwords.
func pageTable512() VecVirtual {
	y := YMM()
	VPMOVZXWD(Mem{Base: argument("pages")}, y)
	return y.AsZ().(VecVirtual)
}

func advance512() {
	TEXT("advanceAVX512", NOSPLIT, "func(b *Block, pages *[8]uint16, step int16, used, limit uint32, a *Advanced) (ok bool)")
	Pragma("noescape")
	Doc("advanceAVX512 is Advance, where no lane stalls; else it changes nothing, and ok is false.")
	advanceBody512(Load(Param("b"), GP64()), Load(Param("a"), GP64()))
	returnBool("ok", 1)
	VZEROUPPER()
	RET()
}

// advanceBody512 writes what Advance tells to out. If a lane would stall it returns from the function with ok false, and has
// changed nothing.
func advanceBody512(b, out Register) {
	active, swapped := planeOf(b, offActive), planeOf(b, offSwapped)
	slow := and(active, swapped)
	full := andNot(active, slow)

	// What every lane generates.
	var rest, n [2]VecVirtual // words, 32 lanes each
	for h := range 2 {
		rate, less := ZMM(), ZMM()
		rest[h], n[h] = ZMM(), ZMM()
		VMOVDQU16(Mem{Base: b, Disp: offRate + 64*h}, rate)
		VMOVDQU16(Mem{Base: b, Disp: offRemaining + 64*h}, rest[h])
		VPSRLW(U8(1), rate, less)
		VPSUBW(less, rate, half(slow, h), rate)
		VPMINUW_Z(rest[h], rate, half(active, h), n[h])
	}
	var tokens, grown, held [4]VecVirtual // dwords, 16 lanes each
	more := [4]VecVirtual{}
	low := dwords(127)
	any := GP32()
	XORL(any, any)
	for g := range 4 {
		tokens[g], grown[g], more[g] = ZMM(), ZMM(), ZMM()
		VMOVDQU32(Mem{Base: b, Disp: offTokens + 64*g}, tokens[g])
		if g%2 == 0 {
			VPMOVZXWD(n[g/2].AsY(), more[g])
		} else {
			y := YMM()
			VEXTRACTI64X4(U8(1), n[g/2], y)
			VPMOVZXWD(y, more[g])
		}
		before := ZMM()
		held[g] = ZMM()
		VPADDD(low, tokens[g], before)
		VPADDD(more[g], before, held[g])
		VPSRLD(U8(7), before, before)
		VPSRLD(U8(7), held[g], held[g])
		VPSUBD_Z(before, held[g], part(full, g), grown[g])
		k, r := K(), GP32()
		VPTESTMD(grown[g], grown[g], k)
		KMOVW(k, r)
		ORL(r, any)
	}
	qp, retained := GP32(), GP32()
	XORL(qp, qp)
	XORL(retained, retained)
	t0, t1 := planeOf(b, offType0), planeOf(b, offType1)
	context, generation, reasoning := andNot(t0, t1), andNot(t1, t0), and(t0, t1)
	TESTL(any, any)
	JZ(LabelRef("fits"))
	{
		sum, worth := ZMM(), ZMM()
		VPXORD(sum, sum, sum)
		VPXORD(worth, worth, worth)
		int8s, int4s := planeOf(b, offInt8), planeOf(b, offInt4)
		system := andNot(active, or(or(t0, t1), planeOf(b, offType2))) // there is none, but all levels do the same with it
		for g := range 4 {
			w := ZMM()
			VPSLLD(U8(2), grown[g], grown[g])
			VPSRLD(U8(1), grown[g], part(int8s, g), grown[g])
			VPSRLD(U8(2), grown[g], part(int4s, g), grown[g])
			VPADDD(grown[g], sum, sum)
			VPBROADCASTD_Z(constant(uint32(20)), part(system, g), w)
			VPBROADCASTD(constant(uint32(15)), part(context, g), w)
			VPBROADCASTD(constant(uint32(10)), part(generation, g), w)
			VPBROADCASTD(constant(uint32(2)), part(reasoning, g), w)
			VPMULLD(w, grown[g], w)
			VPADDD(w, worth, worth)
		}
		MOVL(sum512(sum), qp)
		MOVL(sum512(worth), retained)
		total := argument("used").As32()
		ADDL(qp, total)
		CMPL(total, Load(Param("limit"), GP32()))
		JLS(LabelRef("fits"))
		returnBool("ok", 0)
		VZEROUPPER()
		RET()
	}
	Label("fits")
	MOVL(qp, Mem{Base: out, Disp: offQP})
	MOVL(retained, Mem{Base: out, Disp: offRetained})

	// Tokens, remaining, last access.
	sum := ZMM()
	VPXORD(sum, sum, sum)
	for g := range 4 {
		VPADDD(more[g], tokens[g], tokens[g])
		VMOVDQU32(tokens[g], Mem{Base: b, Disp: offTokens + 64*g})
		VPADDD(more[g], sum, sum)
	}
	MOVL(sum512(sum), Mem{Base: out, Disp: offAdvTokens})
	step := ZMM()
	VPBROADCASTW(Load(Param("step"), GP32()), step)
	spent := GP64()
	for h := range 2 {
		VPSUBW(n[h], rest[h], rest[h])
		VMOVDQU16(rest[h], Mem{Base: b, Disp: offRemaining + 64*h})
		last := ZMM()
		VMOVDQU16(Mem{Base: b, Disp: offLastAccess + 64*h}, last)
		VMOVDQU16(step, half(active, h), last)
		VMOVDQU16(last, Mem{Base: b, Disp: offLastAccess + 64*h})
		k, r := K(), GP64()
		VPTESTNMW(rest[h], rest[h], k)
		KMOVD(k, r.As32())
		if h == 0 {
			MOVQ(r, spent)
		} else {
			SHLQ(U8(32), r)
			ORQ(r, spent)
		}
	}
	heat, warm := ZMM(), K()
	KMOVQ(active, warm)
	VMOVDQU8(Mem{Base: b, Disp: offHotness}, heat)
	decay512(heat, warm)
	VMOVDQU8(heat, Mem{Base: b, Disp: offHotness})

	done, now := timers512(b, active, t0, t1, spent)
	MOVQ(done, Mem{Base: out, Disp: offDone})
	lines := [2]VecVirtual{ZMM(), ZMM()}
	VMOVDQU64(Mem{Base: b, Disp: offAlive}, lines[0])
	VMOVDQU64(Mem{Base: b, Disp: offAlive + 64}, lines[1])
	gone := one512(done)
	freed, worth := GP32(), GP32()
	XORL(freed, freed)
	XORL(worth, worth)
	TESTQ(done, done)
	JZ(LabelRef("none"))
	{
		resident := andNot(done, planeOf(b, offSwapped))
		t0, t1 := planeOf(b, offType0), planeOf(b, offType1)
		context, generation, reasoning := andNot(t0, t1), andNot(t1, t0), and(t0, t1)
		table := pageTable512()
		sum, value := ZMM(), ZMM()
		VPXORD(sum, sum, sum)
		VPXORD(value, value, value)
		int8s, int4s := planeOf(b, offInt8), planeOf(b, offInt4)
		for g := range 4 {
			prefix, w := ZMM(), ZMM()
			VPMOVZXBD(Mem{Base: b, Disp: offPrefix + 16*g}, prefix)
			VPERMD(table, prefix, prefix)
			VPSUBD_Z(prefix, held[g], part(resident, g), held[g])
			VPSLLD(U8(2), held[g], held[g])
			VPSRLD(U8(1), held[g], part(int8s, g), held[g])
			VPSRLD(U8(2), held[g], part(int4s, g), held[g])
			VPADDD(held[g], sum, sum)
			VPBROADCASTD_Z(constant(uint32(15)), part(context, g), w)
			VPBROADCASTD(constant(uint32(10)), part(generation, g), w)
			VPBROADCASTD(constant(uint32(2)), part(reasoning, g), w)
			VPMULLD(w, held[g], w)
			VPADDD(w, value, value)
		}
		MOVL(sum512(sum), freed)
		MOVL(sum512(value), worth)
	}
	Label("none")
	setPlane512(lines[0], one512(now), offActive)
	clearPlanes512(lines[0], gone, offPrefill)
	VPANDNQ(lines[1], gone, lines[1])
	VMOVDQU64(lines[0], Mem{Base: b, Disp: offAlive})
	VMOVDQU64(lines[1], Mem{Base: b, Disp: offAlive + 64})
	MOVL(freed, Mem{Base: out, Disp: offFreed})
	MOVL(worth, Mem{Base: out, Disp: offFreedRetained})
}

// timers512 counts down Cycle. spent are lanes with nothing left to generate. It returns who is done, and who is Active from now on.
func timers512(b Register, active, t0, t1, spent GPVirtual) (done, now GPVirtual) {
	context := andNot(t0, t1)
	finished := and(spent, active)
	done = or(context, andNot(t1, t0))
	ANDQ(finished, done)
	linger := andNot(finished, done)
	runs := andNot(and(active, context), done)
	started := upperPlane(b, offPrefill)
	idle := or(or(t0, t1), planeOf(b, offType2))
	idle = andNot(idle, or(started, active))
	cycle, fifteen, one := ZMM(), bytes(15), bytes(1)
	VMOVDQU8(Mem{Base: b, Disp: offCycle}, cycle)
	counts, zero := K(), K()
	KMOVQ(or(idle, runs), counts)
	VPTESTMB(fifteen, cycle, counts, counts)
	VPSUBB(one, cycle, counts, cycle)
	VPTESTNMB(fifteen, cycle, counts, zero)
	hit := GP64()
	KMOVQ(zero, hit)
	rested := and(hit, idle)
	ended, woke := and(rested, spent), andNot(rested, spent)
	pauses := and(hit, runs)
	ORQ(linger, pauses)
	three, code := bytes(3), ZMM()
	k := K()
	KMOVQ(woke, k)
	VPSRLW(U8(4), cycle, code)
	VPANDQ(three, code, code)
	VPADDB(one, code, code)
	VPADDB(one, code, code)
	VPADDB(code, cycle, k, cycle)
	k2 := K()
	KMOVQ(pauses, k2)
	VPSRLW(U8(6), cycle, code)
	VPANDQ(three, code, code)
	VPADDB(one, code, code)
	VPANDNQ(cycle, fifteen, three) // the codes alone
	VPADDB(three, code, k2, cycle)
	VMOVDQU8(cycle, Mem{Base: b, Disp: offCycle})
	ORQ(ended, done)
	now = andNot(active, pauses)
	ORQ(woke, now)
	ORQ(started, now)
	return done, now
}

// one512 broadcasts a plane to eight qwords.
func one512(plane GPVirtual) VecVirtual {
	z := ZMM()
	VPBROADCASTQ(plane, z)
	return z
}

// mixing are the shifts and factors of rule 2.1 but for the last shift, which is 31.
var mixing = []struct {
	shift uint8
	times uint64
}{{30, 0xBF58476D1CE4E5B9}, {27, 0x94D049BB133111EB}}

// mix is rule 2.1.
func mix(u GPVirtual) {
	x, c := GP64(), GP64()
	for _, s := range mixing {
		MOVQ(u, x)
		SHRQ(U8(s.shift), x)
		XORQ(x, u)
		MOVQ(U64(s.times), c)
		IMULQ(c, u)
	}
	MOVQ(u, x)
	SHRQ(U8(31), x)
	XORQ(x, u)
}

// mix512 is rule 2.1 on eight counters.
func mix512(z VecVirtual) {
	t, c := ZMM(), ZMM()
	for _, s := range mixing {
		VPSRLQ(U8(s.shift), z, t)
		VPXORQ(t, z, z)
		VPBROADCASTQ(constant(s.times), c)
		VPMULLQ(c, z, z)
	}
	VPSRLQ(U8(31), z, t)
	VPXORQ(t, z, z)
}

func goldens() []uint64 {
	out := make([]uint64, 8)
	for i := range out {
		out[i] = uint64(i) * golden
	}
	return out
}

func draws512() {
	TEXT("drawsAVX512", NOSPLIT, "func(dst *[8]uint64, base uint64)")
	Pragma("noescape")
	Doc("drawsAVX512 is Draws.")
	dst, z := Load(Param("dst"), GP64()), ZMM()
	VPBROADCASTQ(Load(Param("base"), GP64()), z)
	VPADDQ(constant(goldens()...), z, z)
	mix512(z)
	VMOVDQU64(z, Mem{Base: dst})
	VZEROUPPER()
	RET()
}

// counted512 counts the thresholds that four lanes of 16 bits reach.
func counted512(lanes GPVirtual) GPVirtual {
	u, t := ZMM(), ZMM()
	VPBROADCASTQ(lanes, u)
	VPERMW(u, eightOfEach512(), u)
	VBROADCASTI32X4(Mem{Base: argument("table")}, t)
	return reached512(u, t)
}

// eightOfEach512 makes a permutation of words that repeats each of four eight times.
func eightOfEach512() VecVirtual {
	idx := make([]uint16, 32)
	for i := range idx {
		idx[i] = uint16(i / 8)
	}
	i := ZMM()
	VMOVDQU16(constant(idx...), i)
	return i
}

// reached512 counts how many of the thresholds t, eight times four of which the last is none, the words of u reach.
func reached512(u, t VecVirtual) GPVirtual {
	k, r := K(), GP64()
	VPCMPUW(U8(5), t, u, k) // not below
	KMOVD(k, r.As32())
	ANDL(U32(0x7F7F7F7F), r.As32())
	POPCNTL(r.As32(), r.As32())
	return r
}

func arriveSteps512() {
	TEXT("arriveStepsAVX512", NOSPLIT, "func(words *[232]uint64, d *StepDraws, first, n int) int")
	Pragma("noescape")
	Doc("arriveStepsAVX512 is ArriveSteps.")
	d, first, left := argument("d"), argument("first"), argument("n")
	strides := make([]uint64, 8)
	for i := range strides {
		strides[i] = uint64(i) * (stepStride & (1<<64 - 1))
	}
	ahead, stride := GP64(), GP64()
	MOVQ(U64(stepStride&(1<<64-1)), stride)
	MOVQ(first, ahead)
	IMULQ(stride, ahead)
	eight := func(off int) VecVirtual { // the draws of eight steps
		r, z := GP64(), ZMM()
		MOVQ(Mem{Base: d, Disp: off}, r)
		ADDQ(ahead, r)
		VPBROADCASTQ(r, z)
		VPADDQ(constant(strides...), z, z)
		mix512(z)
		return z
	}
	counts, bursts := eight(offSdCount), eight(offSdBurst)
	ones, lanes, mask := GP64(), GP64(), ZMM()
	MOVQ(I32(-1), ones)
	MOVQ(Mem{Base: d, Disp: offSdLanes}, lanes)
	SHLQ(U8(4), lanes)
	BZHIQ(lanes, ones, ones)
	VPBROADCASTQ(ones, mask)
	VPANDQ(mask, counts, counts)
	drawn := AllocLocal(64)
	VMOVDQU64(counts, drawn)
	chance, low, k, burst := GP64(), ZMM(), K(), GP64()
	VPANDQ_BCST(constant(uint64(0xFFFF)), bursts, bursts)
	MOVWQZX(Mem{Base: d, Disp: offSdChance}, chance)
	VPBROADCASTQ(chance, low)
	VPCMPUQ(U8(1), low, bursts, k) // below
	KMOVB(k, burst.As32())

	var thresholds [2]VecVirtual
	for i := range thresholds {
		r := GP64()
		MOVQ(Mem{Base: d, Disp: offSdCounts + 8*i}, r)
		thresholds[i] = ZMM()
		VBROADCASTI32X4(Mem{Base: r}, thresholds[i])
	}
	spread, next, payload, stamp, one := eightOfEach512(), ZMM(), qwords(1<<48-1), ZMM(), qwords(1<<48)
	words, total, at := argument("words"), GP64(), GP64()
	base := GP64()
	MOVQ(Mem{Base: d, Disp: offSdBase}, base)
	ADDQ(ahead, base)
	SHLQ(U8(48), first)
	VPBROADCASTQ(first, stamp)
	VPBROADCASTQ(constant(uint64(golden*8&(1<<64-1))), next)
	XORL(total.As32(), total.As32())
	LEAQ(drawn, at)
	draws := ZMM()
	eightWords := func(z VecVirtual, at Mem) {
		w := ZMM()
		VMOVDQA64(z, w)
		mix512(w)
		VPANDQ(payload, w, w)
		VPORQ(stamp, w, w)
		VMOVDQU64(w, at)
	}

	Label("step")
	u := ZMM()
	VPBROADCASTQ(Mem{Base: at}, u)
	VPERMW(u, spread, u)
	n, more := reached512(u, thresholds[0]), reached512(u, thresholds[1])
	SHRQ(U8(1), burst)
	CMOVQCS(more, n)
	VPBROADCASTQ(base, draws)
	VPADDQ(constant(goldens()...), draws, draws)
	end := GP64()
	LEAQ(Mem{Base: total, Index: n, Scale: 1}, end)
	Label("words")
	eightWords(draws, Mem{Base: words, Index: total, Scale: 8})
	VPADDQ(next, draws, draws)
	ADDQ(U8(8), total)
	CMPQ(total, end)
	JLT(LabelRef("words")) // seldom
	MOVQ(end, total)
	ADDQ(stride, base)
	VPADDQ(one, stamp, stamp)
	ADDQ(U8(8), at)
	DECQ(left)
	JNZ(LabelRef("step"))
	Store(total, ReturnIndex(0))
	VZEROUPPER()
	RET()
}

func counts512() {
	TEXT("countsAVX512", NOSPLIT, "func(u uint64, table *[8]uint16) (n int)")
	Pragma("noescape")
	Doc("countsAVX512 is Counts.")
	Store(counted512(argument("u")), Return("n"))
	VZEROUPPER()
	RET()
}

func maskRows512() {
	TEXT("maskRowsAVX512", NOSPLIT, "func(dst *uint8, groups int, evict, compress, swap uint64)")
	Pragma("noescape")
	Doc("maskRowsAVX512 is MaskRows of 16 lanes a group.")
	dst := Load(Param("dst"), GP64())
	groups := Load(Param("groups"), GP64())
	var planes [3]GPVirtual
	for i, name := range []string{"evict", "compress", "swap"} {
		planes[i] = GP64()
		Load(Param(name), planes[i])
	}
	one := dwords(1)
	var bits [3]VecVirtual
	for i := range bits {
		bits[i] = dwords(1 << (8 * (i + 1)))
	}
	Label("group")
	z := ZMM()
	VMOVDQA32(one, z)
	for i, p := range planes {
		k := K()
		KMOVW(p.As32(), k)
		VPORD(bits[i], z, k, z)
		SHRQ(U8(16), p)
	}
	VMOVDQU32(z, Mem{Base: dst})
	ADDQ(U8(64), dst)
	DECQ(groups)
	JNZ(LabelRef("group"))
	VZEROUPPER()
	RET()
}

// observer512 computes the features of the 16 lanes that index points at.
type observer512 struct {
	b            Register
	lane         GPVirtual // 16 times the group; nil if that is first
	bits         GPVirtual // 2 times the group
	first        int
	codes        Mem // a byte a lane: codeBits
	last, moving Mem // planes; nothing moves if there is none
	tables       codeTables512
	pages, gain  VecVirtual
	limit, inv   Mem // dwords
	step         VecVirtual
}

// codeTables512 say what the halves of a lane's code mean, each a table of 16 dwords.
type codeTables512 struct {
	quant, shift, swapped Op // of the lower half; shift: pages to quarter pages, 32 for those that take no memory
	eviction, phase       Op // of the upper half
	prefix                Op // of the prefix, instead of a code
}

// codeBits are the planes, all of the first line, that the bits 0 to 7 of a lane's code come from.
var codeBits = [8]int{offInt8, offInt4, offSwapped, offAlive, offType0, offType1, offActive, offPrefill}

// table512 makes a constant of what f says of four bits.
func table512[T uint32 | float32](f func(b0, b1, b2, b3 bool) T) Mem {
	t := make([]T, 16)
	for i := range t {
		t[i] = f(i&1 != 0, i&2 != 0, i&4 != 0, i&8 != 0)
	}
	return constant(t...)
}

func newCodeTables512() codeTables512 {
	return codeTables512{
		quant: table512(func(int8s, int4s, _, alive bool) float32 {
			switch {
			case !alive:
				return 0
			case int4s:
				return 0.25
			case int8s:
				return 0.5
			}
			return 1
		}),
		shift: table512(func(int8s, int4s, swapped, alive bool) uint32 {
			switch {
			case !alive || swapped:
				return 32
			case int4s:
				return 0
			case int8s:
				return 1
			}
			return 2
		}),
		swapped: table512(func(_, _, swapped, _ bool) float32 {
			if swapped {
				return 1
			}
			return 0
		}),
		eviction: table512(func(t0, t1, _, _ bool) float32 { // but for ephemeral ones
			switch {
			case t0 && t1:
				return float32(90) / 100
			case t1:
				return 0.5
			case t0:
				return 0.25
			}
			return 0
		}),
		prefix: table512(func(b0, b1, b2, _ bool) (x float32) {
			for i, bit := range []bool{b0, b1, b2} {
				if bit {
					x += float32(int(1)<<i) / 8
				}
			}
			return x
		}),
		phase: table512(func(t0, t1, active, prefill bool) float32 {
			switch {
			case active && t0 && t1:
				return 0.75
			case active:
				return 0.5
			case prefill:
				return 0.25
			}
			return 0
		}),
	}
}

// kept loads them into registers.
func (t codeTables512) kept() codeTables512 {
	for _, of := range []*Op{&t.quant, &t.shift, &t.swapped, &t.eviction, &t.phase, &t.prefix} {
		z := ZMM()
		VMOVDQU32(*of, z)
		*of = z
	}
	return t
}

// codes512 gathers what the planes of the first line say of each lane into a byte a lane.
func codes512(b Register) VecVirtual {
	planes := ZMM()
	VMOVDQU64(Mem{Base: b, Disp: offAlive}, planes)
	return gather512(planes, codeBits)
}

// gather512 makes a byte of the bits that each lane has in eight planes, given by their offsets, of the first line: 64 transpositions of
// 8 by 8 bits, as a product of matrices.
func gather512(line VecVirtual, bits [8]int) VecVirtual {
	gather, unit := make([]uint8, 64), make([]uint8, 64)
	for i := range gather {
		word, row := i/8, 7-i%8
		gather[i] = uint8(bits[row] - offAlive + word)
		unit[i] = 1 << (i % 8)
	}
	planes, index, ones, codes := ZMM(), ZMM(), ZMM(), ZMM()
	VMOVDQU8(constant(gather...), index)
	VPERMB(line, index, planes)
	VMOVDQU8(constant(unit...), ones)
	VGF2P8AFFINEQB(U8(0), planes, ones, codes)
	return codes
}

// start loads what is the same for all groups from a view, and puts codes and the planes that are not in the block into the frame.
func (o *observer512) start() {
	v := Load(Param("v"), GP64())
	o.begin(Load(Param("b"), GP64()))
	p := GP64()
	MOVQ(Mem{Base: v, Disp: offPages}, p)
	o.widen(Mem{Base: p}, &o.pages)
	MOVQ(Mem{Base: v, Disp: offGain}, p)
	o.gain = eightDwords512(Mem{Base: p})
	o.limit, o.inv = AllocLocal(8), AllocLocal(8)
	x := GP32()
	MOVL(Mem{Base: v, Disp: offLimit}, x)
	MOVL(x, o.limit)
	MOVL(Mem{Base: v, Disp: offInv}, x)
	MOVL(x, o.inv)
	VPBROADCASTD(Mem{Base: v, Disp: offStep}, o.step)
	alive := planeOf(o.b, offAlive)
	o.last = local(and(andNot(alive, planeOf(o.b, offSwapped)), planeOf(v, offLast)))
	o.moving = local(and(alive, planeOf(v, offMoving)))
}

// begin loads what depends on the block alone.
func (o *observer512) begin(b Register) {
	o.b = b
	o.codes = AllocLocal(64)
	VMOVDQU8(codes512(o.b), o.codes)
	o.tables = newCodeTables512().kept()
	o.step = ZMM()
	o.lane, o.bits = GP64(), GP64()
	XORQ(o.lane, o.lane)
	XORQ(o.bits, o.bits)
}

// widen loads a table of eight words as dwords.
func (o *observer512) widen(m Mem, table *VecVirtual) {
	y := YMM()
	VPMOVZXWD(m, y)
	*table = y.AsZ().(VecVirtual)
}

// eightDwords512 loads a table of eight dwords, of which a permutation takes no more.
func eightDwords512(m Mem) VecVirtual {
	y := YMM()
	VMOVDQU32(m, y)
	return y.AsZ().(VecVirtual)
}

// next moves on to the next group.
func (o *observer512) next() {
	ADDQ(U8(16), o.lane)
	ADDQ(U8(2), o.bits)
}

// plane loads the group's bits of a plane.
func (o *observer512) plane(m Mem) OpmaskVirtual {
	k := K()
	if o.lane == nil {
		m.Disp += o.first / 8
	} else {
		m.Index, m.Scale = o.bits, 1
	}
	KMOVW(m, k)
	return k
}

func (o *observer512) at(m Mem, scale uint8) Mem {
	if o.lane == nil {
		m.Disp += o.first * int(scale)
	} else {
		m.Index, m.Scale = o.lane, scale
	}
	return m
}

func (o *observer512) bytes(off int) Mem  { return o.at(Mem{Base: o.b, Disp: off}, 1) }
func (o *observer512) words(off int) Mem  { return o.at(Mem{Base: o.b, Disp: off}, 2) }
func (o *observer512) dwords(off int) Mem { return o.at(Mem{Base: o.b, Disp: off}, 4) }

// times converts integers and multiplies by a constant.
func times512(z VecVirtual, x float32) {
	VCVTDQ2PS(z, z)
	VMULPS_BCST(constant(x), z, z)
}

// features computes all values of the group; lanes that are not alive are 0.
func (o *observer512) features() (f [12]VecVirtual) {
	for i := range f {
		f[i] = ZMM()
	}
	alive := o.plane(Mem{Base: o.b, Disp: offAlive})
	tokens, prefix, cost, code := ZMM(), ZMM(), ZMM(), ZMM()
	VMOVDQU32(o.dwords(offTokens), tokens)

	// 3 progress: first, since a division takes longest
	target, made := ZMM(), ZMM()
	VPMOVZXWD(o.words(offRemaining), target)
	VPADDD(tokens, target, target)
	VCVTUDQ2PS(tokens, made)
	VCVTUDQ2PS(target, target)
	VDIVPS_Z(target, made, alive, f[3])

	VPMOVZXBD(o.bytes(offPrefix), prefix)
	VPMOVZXBD(o.at(o.codes, 1), code)

	// 0 quant, 1 cost, 2 reclaim, 11 swapped
	VPADDD_BCST(constant(uint32(127)), tokens, cost)
	VPSRLD(U8(7), cost, cost)
	pages, shift := ZMM(), ZMM()
	VPERMD(o.pages, prefix, pages)
	VPSUBD(pages, cost, cost)
	VPERMD(o.tables.shift, code, shift) // which looks at the lower half of a code
	VPSLLVD(shift, cost, cost)
	VPERMPS(o.tables.quant, code, f[0])
	VPMINUD_BCST(o.limit, cost, f[1])
	VCVTUDQ2PS(f[1], f[1])
	VMULPS_BCST(o.inv, f[1], f[1])
	VPERMD_Z(o.gain, prefix, o.plane(o.last), f[2])
	VPADDD(cost, f[2], f[2])
	VPMINUD_BCST(o.limit, f[2], f[2])
	VCVTUDQ2PS(f[2], f[2])
	VMULPS_BCST(o.inv, f[2], f[2])
	VPERMPS(o.tables.swapped, code, f[11])
	if o.moving != (Mem{}) {
		VBROADCASTSS(constant(float32(0.5)), o.plane(o.moving), f[11])
	}

	// 6 eviction value, 7 phase
	VPSRLD(U8(4), code, code)
	VPERMPS(o.tables.eviction, code, f[6])
	VBROADCASTSS(constant(float32(1)), o.plane(Mem{Base: o.b, Disp: offType2}), f[6])
	VPERMPS(o.tables.phase, code, f[7])

	// 4 rate, 5 priority
	VPMOVZXWD_Z(o.words(offRate), alive, f[4])
	VPMINUD_BCST(constant(uint32(128)), f[4], f[4])
	times512(f[4], 1.0/128)
	VPMOVZXBD_Z(o.bytes(offPriority), alive, f[5])
	times512(f[5], 1.0/100)

	// 8 hotness, 9 age, 10 prefix
	VPMOVZXBD_Z(o.bytes(offHotness), alive, f[8])
	times512(f[8], 1.0/255)
	VPMOVSXWD(o.words(offLastAccess), f[9])
	VPSUBD_Z(f[9], o.step, alive, f[9])
	VPMINUD_BCST(constant(uint32(16)), f[9], f[9])
	times512(f[9], 1.0/16)
	VPERMPS_Z(o.tables.prefix, prefix, alive, f[10])
	return f
}

// store512 stores 16 dwords.
func store512(z VecVirtual, m Mem, stream bool) {
	if stream {
		VMOVNTPS(z, m)
	} else {
		VMOVUPS(z, m)
	}
}

// transpose512 turns 12 registers of a feature each into 12 lines of 16 lanes' rows: 4 by 4 dwords within the 128-bit pieces, then
// 4 by 4 pieces.
func transpose512(f [12]VecVirtual) (lines [12]VecVirtual) {
	m := pieces512(f)
	for i := range 3 {
		a, b, c, d := m[4*i], m[4*i+1], m[4*i+2], m[4*i+3]
		t := [4]VecVirtual{ZMM(), ZMM(), ZMM(), ZMM()}
		VSHUFF32X4(U8(0x44), b, a, t[0])
		VSHUFF32X4(U8(0xEE), b, a, t[1])
		VSHUFF32X4(U8(0x44), d, c, t[2])
		VSHUFF32X4(U8(0xEE), d, c, t[3])
		for k := range 4 {
			lines[3*k+i] = ZMM()
		}
		VSHUFF32X4(U8(0x88), t[2], t[0], lines[i])
		VSHUFF32X4(U8(0xDD), t[2], t[0], lines[3+i])
		VSHUFF32X4(U8(0x88), t[3], t[1], lines[6+i])
		VSHUFF32X4(U8(0xDD), t[3], t[1], lines[9+i])
	}
	return lines
}

// pieces512 transposes within the 128-bit pieces: piece k of m[3j+q] has features 4q to 4q+3 of lane 4k+j.
func pieces512(f [12]VecVirtual) (m [12]VecVirtual) {
	for q := range 3 {
		a, b, c, d := f[4*q], f[4*q+1], f[4*q+2], f[4*q+3]
		t := [4]VecVirtual{ZMM(), ZMM(), ZMM(), ZMM()}
		VUNPCKLPS(b, a, t[0])
		VUNPCKHPS(b, a, t[1])
		VUNPCKLPS(d, c, t[2])
		VUNPCKHPS(d, c, t[3])
		for j := range 4 {
			m[3*j+q] = ZMM()
		}
		VUNPCKLPD(t[2], t[0], m[q])
		VUNPCKHPD(t[2], t[0], m[3+q])
		VUNPCKLPD(t[3], t[1], m[6+q])
		VUNPCKHPD(t[3], t[1], m[9+q])
	}
	return m
}

// storeHalves512 writes the 12 lines that transpose512 makes, as halves: 12 shuffles fewer for 12 stores more, which wait for each other less.
func storeHalves512(f [12]VecVirtual, to Register, first int) {
	m := pieces512(f)
	of := [2]VecVirtual{ZMM(), ZMM()} // pieces 0 and 1, 2 and 3
	VMOVDQU64(constant[uint64](0, 1, 8, 9, 2, 3, 10, 11), of[0])
	VMOVDQU64(constant[uint64](4, 5, 12, 13, 6, 7, 14, 15), of[1])
	var halves [2][6]VecVirtual
	for i := range 6 {
		halves[0][i], halves[1][i] = ZMM(), m[2*i]
		VMOVDQA64(m[2*i], halves[0][i])
		for k := range 2 {
			VPERMT2PD(m[2*i+1], of[k], halves[k][i])
		}
	}
	for k := range 4 {
		for i, z := range halves[k/2] {
			at := Mem{Base: to, Disp: first + 192*k + 32*i}
			if k%2 == 0 {
				VMOVUPS(z.AsY(), at)
			} else {
				VEXTRACTF64X4(U8(1), z, at)
			}
		}
	}
}

func named(base string, stream bool) string {
	if stream {
		return base + "StreamAVX512"
	}
	return base + "AVX512"
}

func rows512(stream bool) {
	name := named("rows", stream)
	TEXT(name, NOSPLIT, "func(dst *float32, groups int, b *Block, v *View)")
	Pragma("noescape")
	Doc(name + " is Rows of 16 lanes a group.")
	var o observer512
	o.start()
	o.rows(Load(Param("dst"), GP64()), Load(Param("groups"), GP64()), stream)
	VZEROUPPER()
	RET()
}

// liveGroups512 counts the groups up to the last sequence.
func liveGroups512(b Register, live GPVirtual) {
	LZCNTQ(Mem{Base: b, Disp: offAlive}, live)
	NEGQ(live)
	ADDQ(U8(64+15), live)
	SHRQ(U8(4), live)
}

// rows writes the groups behind the last sequence first: their stores go on while the others are computed.
func (o *observer512) rows(dst, groups Register, stream bool) {
	live, at, size := GP64(), GP64(), GP64()
	liveGroups512(o.b, live)
	CMPQ(groups, live)
	CMOVQCS(groups, live)
	IMUL3Q(U32(768), live, at)
	IMUL3Q(U32(768), groups, size)
	ADDQ(dst, at)
	ADDQ(dst, size)
	zero := ZMM()
	VPXORD(zero, zero, zero)
	JMP(LabelRef("left"))
	Label("empty")
	for i := range 12 {
		store512(zero, Mem{Base: at, Disp: 64 * i}, stream)
	}
	ADDQ(U32(768), at)
	Label("left")
	CMPQ(at, size)
	JCS(LabelRef("empty"))
	TESTQ(live, live)
	JZ(LabelRef("end"))
	Label("group")
	for i, line := range transpose512(o.features()) {
		store512(line, Mem{Base: dst, Disp: 64 * i}, stream)
	}
	o.next()
	ADDQ(U32(768), dst)
	DECQ(live)
	JNZ(LabelRef("group"))
	Label("end")
}

func columns512(stream bool) {
	name := named("columns", stream)
	TEXT(name, NOSPLIT, "func(dst *float32, stride, groups int, b *Block, v *View)")
	Pragma("noescape")
	Doc(name + " is Columns of 16 lanes a group; stride counts bytes.")
	var o observer512
	o.start()
	dst := Load(Param("dst"), GP64())
	stride := Load(Param("stride"), GP64())
	groups := Load(Param("groups"), GP64())
	at := GP64()
	Label("group")
	f := o.features()
	MOVQ(dst, at)
	for i := range f {
		store512(f[i], Mem{Base: at}, stream)
		ADDQ(stride, at)
	}
	o.next()
	ADDQ(U8(64), dst)
	DECQ(groups)
	JNZ(LabelRef("group"))
	VZEROUPPER()
	RET()
}

// quantise512 turns a feature into integers 0 to 255.
func quantise512(z VecVirtual, i int, halves VecVirtual) {
	VMULPS_BCST(constant(byteScale[i]), z, z)
	VADDPS(halves, z, z)
	VCVTTPS2DQ(z, z)
}

func byteRows512() {
	TEXT("byteRowsAVX512", NOSPLIT, "func(dst *uint8, groups int, b *Block, v *View)")
	Pragma("noescape")
	Doc("byteRowsAVX512 is ByteRows of 16 lanes a group.")
	var o observer512
	o.start()
	dst := Load(Param("dst"), GP64())
	groups := Load(Param("groups"), GP64())
	halves := ZMM()
	VBROADCASTSS(constant(float32(0.5)), halves)
	// Dword 3s+q of the three lines is dword s of quad q.
	var first, second [3][]uint32
	for line := range 3 {
		for i := range 16 {
			n := 16*line + i
			s, q := uint32(n/3), n%3
			if q < 2 {
				first[line] = append(first[line], s+16*uint32(q))
				second[line] = append(second[line], uint32(i))
			} else {
				first[line] = append(first[line], 0)
				second[line] = append(second[line], s+16)
			}
		}
	}
	Label("group")
	f := o.features()
	var quads [3]VecVirtual
	for q := range 3 {
		quads[q] = f[4*q]
		for i := range 4 {
			z := f[4*q+i]
			quantise512(z, 4*q+i, halves)
			if i > 0 {
				VPSLLD(U8(8*i), z, z)
				VPORD(z, quads[q], quads[q])
			}
		}
	}
	for line := range 3 {
		z, i := ZMM(), ZMM()
		VMOVDQA32(quads[0], z)
		VMOVDQU32(constant(first[line]...), i)
		VPERMT2D(quads[1], i, z)
		VMOVDQU32(constant(second[line]...), i)
		VPERMT2D(quads[2], i, z)
		VMOVDQU32(z, Mem{Base: dst, Disp: 64 * line})
	}
	o.next()
	ADDQ(U32(192), dst)
	DECQ(groups)
	JNZ(LabelRef("group"))
	VZEROUPPER()
	RET()
}

func byteColumns512() {
	TEXT("byteColumnsAVX512", NOSPLIT, "func(dst *uint8, stride, groups int, b *Block, v *View)")
	Pragma("noescape")
	Doc("byteColumnsAVX512 is ByteColumns of 16 lanes a group.")
	var o observer512
	o.start()
	dst := Load(Param("dst"), GP64())
	stride := Load(Param("stride"), GP64())
	groups := Load(Param("groups"), GP64())
	halves := ZMM()
	VBROADCASTSS(constant(float32(0.5)), halves)
	at := GP64()
	Label("group")
	f := o.features()
	MOVQ(dst, at)
	for i, z := range f {
		quantise512(z, i, halves)
		x := XMM()
		VPMOVDB(z, x)
		VMOVDQU(x, Mem{Base: at})
		ADDQ(stride, at)
	}
	o.next()
	ADDQ(U8(16), dst)
	DECQ(groups)
	JNZ(LabelRef("group"))
	VZEROUPPER()
	RET()
}

// request512 cuts the fields of eight draws, a qword each; rule 4.5.
type request512 struct {
	w                                     VecVirtual
	context, generation, reasoning, other OpmaskVirtual
	shares                                OpmaskVirtual
	systems, others                       OpmaskVirtual // those that are system entries of prefixes, if any may be, and the rest
}

func qwords(x uint64) VecVirtual {
	z := ZMM()
	VPBROADCASTQ(constant(x), z)
	return z
}

// field is (w >> lo) & (2^n - 1).
func (r *request512) field(lo, n int) VecVirtual {
	z := ZMM()
	VPSRLQ(U8(lo), r.w, z)
	VPANDQ_BCST(constant(uint64(1)<<n-1), z, z)
	return z
}

// prefix is 0 if bits 10 and 11 are 0, else 1 + bits 8 and 9.
func (r *request512) prefix() VecVirtual {
	k, z := K(), r.field(8, 2)
	VPTESTMQ_BCST(constant(uint64(3<<10)), r.w, k)
	VPADDQ_BCST_Z(constant(uint64(1)), z, k, z)
	if r.systems != nil {
		VMOVDQU64(constant[uint64](1, 2, 3, 4, 5, 6, 7, 8), r.systems, z)
	}
	return z
}

// pages looks up the pages of the private prompt.
func (r *request512) pages(tables Register) VecVirtual {
	z, t := r.field(12, 6), ZMM()
	VMOVDQU64(Mem{Base: tables, Disp: offTabPages}, t)
	VPERMB(t, z, z)
	VPANDQ_BCST(constant(uint64(0xFF)), z, z)
	return z
}

// output looks up the tokens to generate.
func (r *request512) output(tables Register) VecVirtual {
	return r.lookup(Mem{Base: tables, Disp: offTabOutput})
}

// lookup looks bits 25 to 30 up in a table of words.
func (r *request512) lookup(table Mem) VecVirtual {
	z, t, u := r.field(25, 6), ZMM(), ZMM()
	VMOVDQU64(table, t)
	VMOVDQU64(table.Offset(64), u)
	VPERMI2W(u, t, z)
	VPANDQ_BCST(constant(uint64(0xFFFF)), z, z)
	return z
}

// below finds which requests are below each threshold of the types: context; context or generation; all but ephemeral ones.
func (r *request512) below(tables Register) (k [3]OpmaskVirtual) {
	b := r.field(0, 8)
	for i := range k {
		k[i] = K()
		VPCMPUQ_BCST(U8(1), Mem{Base: tables, Disp: offTabTypes + 8*i}, b, k[i])
	}
	return k
}

// byType512 chooses a qword for each request.
func byType512(below [3]OpmaskVirtual, context, generation, reasoning, ephemeral uint64) VecVirtual {
	z := qwords(ephemeral)
	VPBROADCASTQ(constant(reasoning), below[2], z)
	VPBROADCASTQ(constant(generation), below[1], z)
	VPBROADCASTQ(constant(context), below[0], z)
	return z
}

// typePlanes512 are the types as bits of eight requests.
func typePlanes512(k [3]OpmaskVirtual) (planes [3]GPVirtual) {
	var below [3]GPVirtual
	for i := range k {
		below[i] = GP64()
		KMOVB(k[i], below[i].As32())
	}
	planes[0] = or(below[0], andNot(below[2], below[1]))
	planes[1] = andNot(below[2], below[0])
	planes[2] = GP64()
	MOVQ(below[2], planes[2])
	NOTQ(planes[2])
	return planes
}

// draw512 draws eight requests, stores their words and needs, and returns what memory they need, qwords.
func draw512() (memory VecVirtual) {
	words, needs, tables := argument("words"), argument("needs"), argument("t")
	r := drawn512(argument("base"))
	z, stamp := ZMM(), ZMM()
	VPANDQ_BCST(constant(uint64(1)<<48-1), r.w, z)
	VPBROADCASTQ(argument("stamp"), stamp)
	VPORQ(stamp, z, z)
	VMOVDQU64(z, Mem{Base: words})
	memory = r.pages(tables)
	need, prefix := ZMM(), r.prefix()
	VPSLLQ(U8(2), memory, memory)
	VPSLLQ(U8(demandShift), prefix, prefix)
	VPORQ(prefix, memory, need)
	dwords512(need, needs, 0)
	return memory
}

// drawn512 draws eight requests.
func drawn512(base GPVirtual) (r request512) {
	r.w = ZMM()
	VPBROADCASTQ(base, r.w)
	VPADDQ(constant(goldens()...), r.w, r.w)
	mix512(r.w)
	return r
}

func arrivals512() {
	TEXT("arrivalsAVX512", NOSPLIT, "func(words *[8]uint64, needs *[8]uint32, base, stamp uint64, t *RequestTables)")
	Pragma("noescape")
	Doc("arrivalsAVX512 is Arrivals.")
	draw512()
	VZEROUPPER()
	RET()
}

// fields512 are the fields of eight requests, a qword each.
type fields512 struct {
	tokens, prefixTokens    VecVirtual // private ones; those of the prefix
	need, output, rate      VecVirtual
	priority, prefix, cycle VecVirtual       // cycle without its timer
	below                   [3]OpmaskVirtual // of types; the first is context
}

// decode512 cuts the fields that arriving requests and initial sequences have in common. Without the pages of the prefixes it leaves
// prefixTokens alone.
func decode512(r *request512, tables, pagesOf Register) (f fields512) {
	f.below = r.below(tables)
	pages, table := r.pages(tables), ZMM()
	f.prefix = r.prefix()
	if pagesOf != nil {
		f.prefixTokens = ZMM()
		VPMOVZXWQ(Mem{Base: pagesOf}, table)
		VPERMQ(table, f.prefix, f.prefixTokens)
		VPSLLQ(U8(7), f.prefixTokens, f.prefixTokens)
	}
	f.need = ZMM()
	VPSLLQ(U8(2), pages, f.need)
	f.tokens = r.field(18, 7)
	VPSLLQ(U8(7), pages, pages)
	VPADDQ(pages, f.tokens, f.tokens)
	VPSUBQ(qwords(127), f.tokens, f.tokens)
	f.output = r.output(tables)
	f.rate = r.field(31, 2)
	if r.systems == nil {
		VPADDQ_BCST(constant(uint64(1)), f.rate, f.rate)
	} else {
		VPADDQ_BCST_Z(constant(uint64(1)), f.rate, r.others, f.rate)
	}
	f.priority = r.field(33, 7)
	VPMULUDQ_BCST(constant(uint64(101)), f.priority, f.priority)
	VPSRLQ(U8(7), f.priority, f.priority)
	f.cycle = ZMM()
	VPSRLQ(U8(36), r.w, f.cycle)
	VPANDQ_BCST(constant(uint64(0xF0)), f.cycle, f.cycle)
	return f
}

// addRun sets the timer of an admitted request: 2 + run code for context, else 0.
func (r *request512) addRun(f *fields512) {
	run := r.field(40, 2)
	VPADDQ_BCST_Z(constant(uint64(2)), run, f.below[0], run)
	VPORQ(run, f.cycle, f.cycle)
}

// bytes512, words512 and dwords512 narrow eight qwords and store them.
func bytes512(z VecVirtual, out Register, off int) {
	x := XMM()
	VPMOVQB(z, x)
	VMOVQ(x, Mem{Base: out, Disp: off})
}

func words512(z VecVirtual, out Register, off int) {
	x := XMM()
	VPMOVQW(z, x)
	VMOVDQU(x, Mem{Base: out, Disp: off})
}

func dwords512(z VecVirtual, out Register, off int) {
	y := YMM()
	VPMOVQD(z, y)
	VMOVDQU(y, Mem{Base: out, Disp: off})
}

// store puts what needs no more work into newcomers.
func (f *fields512) store(out Register) {
	for i, t := range typePlanes512(f.below) {
		MOVB(t.As8(), Mem{Base: out, Disp: offNewType0 + i})
	}
	bytes512(f.prefix, out, offNewPrefix)
	words512(f.rate, out, offNewRate)
	bytes512(f.priority, out, offNewPriority)
}

func requests512() {
	TEXT("requestsAVX512", NOSPLIT, "func(words *[8]uint64, t *RequestTables, prefixPages *[8]uint16, last int16, hotness uint8, n *Newcomers)")
	Pragma("noescape")
	Doc("requestsAVX512 is Requests.")
	words := Load(Param("words"), GP64())
	tables := Load(Param("t"), GP64())
	pagesOf := Load(Param("prefixPages"), GP64())
	out := Load(Param("n"), GP64())
	r := request512{w: ZMM()}
	VMOVDQU64(Mem{Base: words}, r.w)
	f := decode512(&r, tables, pagesOf)
	f.store(out)
	r.addRun(&f)
	bytes512(f.cycle, out, offNewCycle)
	VPADDQ(f.prefixTokens, f.tokens, f.tokens)
	dwords512(f.tokens, out, offNewTokens)
	dwords512(f.need, out, offNewNeed)
	words512(f.output, out, offNewRemaining)
	x := XMM()
	VPBROADCASTW(Load(Param("last"), GP32()), x)
	VMOVDQU(x, Mem{Base: out, Disp: offNewLast})
	VPBROADCASTB(Load(Param("hotness"), GP32()), x)
	VMOVQ(x, Mem{Base: out, Disp: offNewHotness})
	MOVB(I8(-1), Mem{Base: out, Disp: offNewPrefill})
	MOVB(I8(0), Mem{Base: out, Disp: offNewPrefill + 1})
	VZEROUPPER()
	RET()
}

func initials512() {
	TEXT("initialsAVX512", NOSPLIT, "func(draws *[8]uint64, base uint64, t *RequestTables, prefixPages *[8]uint16, system int, n *Newcomers)")
	Pragma("noescape")
	Doc("initialsAVX512 is Initials.")
	words := Load(Param("draws"), GP64())
	tables := Load(Param("t"), GP64())
	pagesOf := Load(Param("prefixPages"), GP64())
	out := Load(Param("n"), GP64())
	r := drawn512(argument("base"))
	VMOVDQU64(r.w, Mem{Base: words})
	r.systems, r.others = K(), K()
	all := GP64()
	MOVQ(I32(-1), all)
	BZHIQ(argument("system"), all, all)
	KMOVB(all.As32(), r.systems)
	KNOTB(r.systems, r.others)
	f := decode512(&r, tables, pagesOf)
	for _, k := range f.below {
		KANDB(r.others, k, k)
	}
	f.store(out)
	notAll := GP64()
	MOVQ(all, notAll)
	NOTQ(notAll)
	ANDB(notAll.As8(), Mem{Base: out, Disp: offNewType0 + 2}) // which has what is below no threshold
	done := r.field(48, 6)
	VPMULUDQ(f.output, done, done)
	VPSRLQ(U8(6), done, done)
	VPSUBQ(done, f.output, f.output)
	r.own(f.output)
	words512(f.output, out, offNewRemaining)
	VPADDQ(done, f.tokens, f.tokens)
	r.own(f.tokens)
	need := ZMM()
	VPADDQ(qwords(127), f.tokens, need)
	VPSRLQ(U8(7), need, need)
	VPSLLQ(U8(2), need, need)
	dwords512(need, out, offNewNeed)
	VPADDQ(f.prefixTokens, f.tokens, f.tokens)
	dwords512(f.tokens, out, offNewTokens)
	bytes512(r.field(54, 8), out, offNewHotness)
	idle := K()
	VPTESTMQ_BCST(constant(uint64(1)<<62), r.w, f.below[0], idle)
	last, age, zero := r.field(54, 3), ZMM(), ZMM()
	VPXORQ(zero, zero, zero)
	VPSUBQ_Z(last, zero, idle, last)
	VPSRLQ(U8(62), r.w, age)
	VPSUBQ(age, zero, r.systems, last)
	words512(last, out, offNewLast)
	timer, pause := r.field(40, 2), r.field(42, 2)
	VPADDQ_BCST_Z(constant(uint64(2)), timer, f.below[0], timer)
	VPADDQ_BCST(constant(uint64(1)), pause, idle, timer)
	VPORQ(timer, f.cycle, f.cycle)
	r.own(f.cycle)
	bytes512(f.cycle, out, offNewCycle)
	active := GP32()
	KORB(r.systems, idle, idle)
	KMOVB(idle, active)
	NOTL(active)
	MOVB(I8(0), Mem{Base: out, Disp: offNewPrefill})
	MOVB(active.As8(), Mem{Base: out, Disp: offNewPrefill + 1})
	VZEROUPPER()
	RET()
}

// own empties what system entries have none of.
func (r *request512) own(z VecVirtual) { VMOVDQA64_Z(z, r.others, z) }

// iotas counts from 0.
func iotas[T uint8 | uint16 | uint32](n int) []T {
	out := make([]T, n)
	for i := range out {
		out[i] = T(i)
	}
	return out
}

func arrive512() {
	TEXT("arriveAVX512", NOSPLIT, "func(words *[8]uint64, needs *[8]uint32, base, stamp uint64, t *RequestTables, count uint64, lanes int, table *[8]uint16, room int) (n int, qp uint32)")
	Pragma("noescape")
	Doc("arriveAVX512 is Arrive.")
	n, memory := arriveBody512()
	Store(sum512(memory), Return("qp"))
	Store(n, Return("n"))
	VZEROUPPER()
	RET()
}

// howMany512 draws how many requests arrive.
func howMany512() GPVirtual {
	u := argument("count")
	mix(u)
	lanes := argument("lanes")
	SHLQ(U8(4), lanes)
	BZHIQ(lanes, u, u)
	return counted512(u)
}

// arriveBody512 is Arrive; what the requests need is to be added up.
func arriveBody512() (n GPVirtual, memory VecVirtual) {
	n = howMany512()
	memory = draw512()
	room := argument("room")
	least := GP64()
	MOVQ(U32(8), least)
	CMPQ(room, least)
	CMOVQLT(room, least)
	CMPQ(n, least)
	CMOVQLT(n, least)
	ones, k := GP64(), K()
	MOVQ(I32(-1), ones)
	BZHIQ(least, ones, ones)
	KMOVB(ones.As32(), k)
	VMOVDQA64_Z(memory, k, memory)
	return n, memory
}

func together512() {
	TEXT("togetherAVX512", NOSPLIT, "func(n *Newcomers, count int, joins uint64, pages *[8]uint16) (private, whole uint32, joined uint64)")
	Pragma("noescape")
	Doc("togetherAVX512 is Together.")
	n, first, k := argument("n"), GP64(), K()
	MOVQ(I32(-1), first)
	BZHIQ(argument("count"), first, first)
	KMOVB(first.As32(), k)
	need, fresh, pages := YMM(), YMM(), YMM()
	VMOVDQU32_Z(Mem{Base: n, Disp: offNewNeed}, k, need)
	prefix := ZMM()
	VPMOVZXBQ(Mem{Base: n, Disp: offNewPrefix}, prefix)
	joined := joined512(prefix, k)
	before := XMM()
	VMOVQ(mustAddr("joins"), before)
	VPADDB(before, joined, joined)
	VPMINUB(constant(repeated(uint8(1), 16)...), joined, joined)
	out := GP64()
	VMOVQ(joined, out)
	Store(out, Return("joined"))
	VPSUBB(joined, before, joined) // all ones where they are the first
	VPMOVSXBD(joined, fresh)
	VPMOVZXWD(Mem{Base: argument("pages")}, pages)
	VPANDD(pages, fresh, fresh)
	VPSLLD(U8(2), fresh, fresh)
	both := twoSums512(need, fresh)
	whole := GP64()
	MOVQ(both, whole)
	SHRQ(U8(32), whole)
	ADDL(both.As32(), whole.As32())
	Store(both.As32(), Return("private"))
	Store(whole.As32(), Return("whole"))
	VZEROUPPER()
	RET()
}

// joined512 counts how many of the lanes of a mask have each prefix, which are qwords: a byte a prefix.
func joined512(prefix VecVirtual, lanes OpmaskVirtual) VecVirtual {
	shift, one := ZMM(), ZMM()
	VPSLLQ(U8(3), prefix, shift)
	VPBROADCASTQ_Z(constant(uint64(1)), lanes, one)
	VPSLLVQ(shift, one, one)
	return addedQ512(one)
}

// joinedOf16 does it for sixteen lanes, dwords.
func joinedOf16(prefix VecVirtual, lanes OpmaskVirtual) VecVirtual {
	var ones [2]VecVirtual
	for h := range 2 {
		var half Op = prefix.AsY()
		k, shift := lanes, ZMM()
		if h == 1 {
			upper := YMM()
			VEXTRACTI64X4(U8(1), prefix, upper)
			k, half = K(), upper
			KSHIFTRW(U8(8), lanes, k)
		}
		VPMOVZXDQ(half, shift)
		VPSLLQ(U8(3), shift, shift)
		ones[h] = ZMM()
		VPBROADCASTQ_Z(constant(uint64(1)), k, ones[h])
		VPSLLVQ(shift, ones[h], ones[h])
	}
	VPADDQ(ones[1], ones[0], ones[0])
	return addedQ512(ones[0])
}

// addedQ512 adds up eight quadwords, into the lower ones.
func addedQ512(z VecVirtual) VecVirtual {
	y, x, h := YMM(), XMM(), XMM()
	VEXTRACTI64X4(U8(1), z, y)
	VPADDQ(z.AsY(), y, y)
	VEXTRACTI128(U8(1), y, x)
	VPADDQ(y.AsX(), x, x)
	VPSHUFD(U8(0x4E), x, h)
	VPADDQ(h, x, x)
	return x
}

// twoSums512 adds up eight dwords each: the lower half is the sum of a, the upper that of b.
func twoSums512(a, b VecVirtual) GPVirtual {
	lo, hi, sum, h, both := YMM(), YMM(), XMM(), XMM(), GP64()
	VPUNPCKLDQ(b, a, lo)
	VPUNPCKHDQ(b, a, hi)
	VPADDD(hi, lo, lo)
	VEXTRACTI128(U8(1), lo, sum)
	VPADDD(lo.AsX(), sum, sum)
	VPSHUFD(U8(0x4E), sum, h)
	VPADDD(h, sum, sum)
	VMOVQ(sum, both)
	return both
}

func place512() {
	TEXT("placeAVX512", NOSPLIT, "func(b *Block, slots uint64, n *Newcomers, take uint8) (retained uint32)")
	Pragma("noescape")
	Doc("placeAVX512 is Place for the first newcomers: take is 2^k - 1.")
	b, slots, take := Load(Param("b"), GP64()), argument("slots"), argument("take")
	n := Load(Param("n"), GP64())
	e := newExpander512(b, slots, false)
	var prefixes VecVirtual
	for _, c := range [][2]int{{offNewPriority, offPriority}, {offNewHotness, offHotness}, {offNewCycle, offCycle}, {offNewPrefix, offPrefix}} {
		x := XMM()
		VMOVQ(Mem{Base: n, Disp: c[0]}, x)
		prefixes = e.byteColumn(x, c[1])
	}
	words := wide512{map[int]VecVirtual{}, YMM()}
	for _, c := range [][2]int{{offNewRemaining, offRemaining}, {offNewLast, offLastAccess}, {offNewRate, offRate}} {
		words.words[c[1]] = XMM()
		VMOVDQU(Mem{Base: n, Disp: c[0]}, words.words[c[1]])
	}
	VMOVDQU(Mem{Base: n, Disp: offNewTokens}, words.tokens)
	e.wide(words, offRemaining, offLastAccess, offRate)
	var types [3]GPVirtual
	for i := range types {
		types[i] = GP64()
		MOVBQZX(Mem{Base: n, Disp: offNewType0 + i}, types[i])
	}
	need := ZMM()
	VPMOVZXDQ(Mem{Base: n, Disp: offNewNeed}, need)
	Store(sum512(weighed512(need, types, take)), Return("retained"))
	phases := [2]GPVirtual{GP64(), GP64()}
	for i, r := range phases {
		MOVBQZX(Mem{Base: n, Disp: offNewPrefill + i}, r)
		deposit512(r, slots, take)
	}
	enterPlanes512(b, prefixes, e.bytes, types, phases[0], phases[1], slots, take)
	VZEROUPPER()
	RET()
}

// joins512 is the warmth that the joins of each prefix bring, 63 each and at most 255, repeated through a register.
func joins512(joins Mem) VecVirtual {
	x, c, z := XMM(), XMM(), ZMM()
	VPMOVZXBW(joins, x)
	VMOVDQU(constant[uint16](0, 63, 63, 63, 63, 63, 63, 63), c) // prefix 0 is none
	VPMULLW(c, x, x)
	VPACKUSWB(x, x, x) // cuts at 255
	VPBROADCASTQ(x, z)
	return z
}

func touch512() {
	TEXT("touchAVX512", NOSPLIT, "func(b *Block, plane uint64, joins *[8]uint8, step int16)")
	Pragma("noescape")
	Doc("touchAVX512 is Touch.")
	b, plane := Load(Param("b"), GP64()), argument("plane")
	warmth, prefix, hot, step := joins512(Mem{Base: argument("joins")}), ZMM(), ZMM(), ZMM()
	VMOVDQU8(Mem{Base: b, Disp: offPrefix}, prefix)
	VPERMB(warmth, prefix, warmth)
	k, r := K(), GP64()
	KMOVQ(plane, k)
	VPTESTMB(warmth, warmth, k, k)
	KMOVQ(k, r)
	VMOVDQU8(Mem{Base: b, Disp: offHotness}, hot)
	VPADDUSB(warmth, hot, k, hot)
	VMOVDQU8(hot, Mem{Base: b, Disp: offHotness})
	VPBROADCASTW(Load(Param("step"), GP32()), step)
	for h := range 2 {
		z := ZMM()
		VMOVDQU16(Mem{Base: b, Disp: offLastAccess + 64*h}, z)
		VMOVDQU16(step, half(r, h), z)
		VMOVDQU16(z, Mem{Base: b, Disp: offLastAccess + 64*h})
	}
	VZEROUPPER()
	RET()
}

func fill512() {
	TEXT("fillAVX512", NOSPLIT, "func(dst *float32, lines int, x float32, stream bool)")
	Pragma("noescape")
	Doc("fillAVX512 is Fill of whole lines.")
	dst := Load(Param("dst"), GP64())
	lines := Load(Param("lines"), GP64())
	z := ZMM()
	VBROADCASTSS(Load(Param("x"), XMM()), z)
	r := GP32()
	MOVBLZX(mustAddr("stream"), r)
	TESTL(r, r)
	JNZ(LabelRef("stream"))
	for _, name := range []string{"plain", "stream"} {
		Label(name)
		store512(z, Mem{Base: dst}, name == "stream")
		ADDQ(U8(64), dst)
		DECQ(lines)
		JNZ(LabelRef(name))
		VZEROUPPER()
		RET()
	}
	TEXT("storeFence", NOSPLIT, "func()")
	Doc("storeFence orders streamed stores before all later ones.")
	SFENCE()
	RET()
	TEXT("prefetchLines", NOSPLIT, "func(p *uint8, lines int)")
	Pragma("noescape")
	Doc("prefetchLines asks for cache lines.")
	p, lines := argument("p"), argument("lines")
	Label("line")
	PREFETCHT0(Mem{Base: p})
	ADDQ(U8(64), p)
	DECQ(lines)
	JNZ(LabelRef("line"))
	RET()
}
