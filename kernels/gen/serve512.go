package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// The prefixes' state, and newcomers into their slots.

func prefixes512() {
	TEXT("prefixesAVX512", NOSPLIT, "func(b *Block, pages *[8]uint16, s *Shared)")
	Pragma("noescape")
	Doc("prefixesAVX512 is Prefixes of one block: qword p of every register is prefix p.")
	b, s := argument("b"), argument("s")
	told := toldPrefixes512{shared: s, totals: s, qp: offShQP, retained: offShRetained, mul: offShMul, weight: offShWeight}
	prefixesBody512(b, told, nil)
	VZEROUPPER()
	RET()
}

// prefixer512 finds the state of the prefixes of a block, whose planes must have been stored as whole lines. The qword before the first
// plane of Members is no prefix's, which has no pages.
type prefixer512 struct {
	b                  Register
	pages, members     VecVirtual // members: resident ones
	int8s, int4s, fine VecVirtual // fine: members at fp16
	has8, has4, has16  OpmaskVirtual
	mul                VecVirtual
}

// everywhere broadcasts a plane of the block.
func (p *prefixer512) everywhere(off int) VecVirtual {
	z := ZMM()
	VPBROADCASTQ(Mem{Base: p.b, Disp: off}, z)
	return z
}

func (p *prefixer512) holds(plane VecVirtual) OpmaskVirtual {
	k := K()
	VPTESTMQ(plane, p.members, k)
	return k
}

// byLevel finds what a page of each prefix costs. line holds Type2 and Members.
func (p *prefixer512) byLevel(line VecVirtual) {
	p.pages, p.members = ZMM(), ZMM()
	used := K()
	VPMOVZXWQ(Mem{Base: argument("pages")}, p.pages)
	VPTESTMQ(p.pages, p.pages, used)
	VPANDNQ_Z(line, p.everywhere(offSwapped), used, p.members)
	p.int8s, p.int4s, p.fine = p.everywhere(offInt8), p.everywhere(offInt4), ZMM()
	p.has8, p.has4, p.has16 = p.holds(p.int8s), p.holds(p.int4s), K()
	VPORQ(p.int8s, p.int4s, p.fine)
	VPANDNQ(p.members, p.fine, p.fine)
	VPTESTMQ(p.fine, p.fine, p.has16)
	p.mul = ZMM()
	VPBROADCASTQ_Z(constant(uint64(1)), p.has4, p.mul)
	VPBROADCASTQ(constant(uint64(2)), p.has8, p.mul)
	VPBROADCASTQ(constant(uint64(4)), p.has16, p.mul)
}

// memory stores what joining would add, and returns what the prefixes take.
func (p *prefixer512) memory(out Register) (qp VecVirtual) {
	qp = ZMM()
	extra, y := ZMM(), YMM()
	VPMULUDQ(p.pages, p.mul, qp)
	VPSLLQ(U8(2), p.pages, extra)
	VPSUBQ(qp, extra, extra)
	VPMOVQD(extra, y)
	VMOVDQU(y, Mem{Base: out, Disp: offShExtra})
	return qp
}

// lastHolders stores who alone holds a prefix at its level, and what evicting it frees of the prefix.
func (p *prefixer512) lastHolders(out Register) {
	top, next := ZMM(), ZMM()
	VPANDQ(p.int4s, p.members, top)
	VPANDQ(p.int8s, p.members, p.has8, top)
	VMOVDQA64(p.fine, p.has16, top)
	// What a level leaves behind.
	below, both := K(), K()
	KORW(p.has8, p.has16, below)
	KANDW(p.has4, below, below)
	KANDW(p.has8, p.has16, both)
	VPBROADCASTQ_Z(constant(uint64(1)), below, next)
	VPBROADCASTQ(constant(uint64(2)), both, next)
	single, less := K(), ZMM()
	VPTESTMQ(top, top, single)
	VPADDQ_BCST(constant(^uint64(0)), top, less)
	VPTESTNMQ(less, top, single, single)
	gain, y := ZMM(), YMM()
	VPSUBQ(next, p.mul, gain)
	VPMULUDQ_Z(p.pages, gain, single, gain)
	VPMOVQD(gain, y)
	VMOVDQU(y, Mem{Base: out, Disp: offShGain})
	last := ZMM()
	VMOVDQA64_Z(top, single, last)
	storeLast512(last, out)
}

// storeLast512 stores the union of eight planes as Last of one block.
func storeLast512(last VecVirtual, out Register) {
	VMOVDQU(union512(last).AsY(), Mem{Base: out, Disp: offShLast})
}

// union512 is the union of eight planes, in a register that is 0 beside it.
func union512(last VecVirtual) VecVirtual {
	x, y, hi := XMM(), YMM(), XMM()
	VEXTRACTI64X4(U8(1), last, y)
	VPORD(last.AsY(), y, y)
	VEXTRACTI128(U8(1), y, x)
	VPORD(y.AsX(), x, x)
	VPSHUFD(U8(0x4E), x, hi)
	VPORD(hi, x, x)
	VMOVQ(x, x)
	return x
}

func holders512() {
	TEXT("holdersAVX512", NOSPLIT, "func(b *Block, pages *[8]uint16, mul *[8]uint8, s *Shared)")
	Pragma("noescape")
	Doc("holdersAVX512 is Holders of one block.")
	b, out := argument("b"), argument("s")
	gain, last := holdersBody512(b, Mem{Base: argument("mul")})
	VMOVDQU(gain, Mem{Base: out, Disp: offShGain})
	storeLast512(last, out)
	VZEROUPPER()
	RET()
}

// holdersBody512 finds what evicting those who hold a prefix alone frees of it, dwords, and their planes.
func holdersBody512(b Register, mulOf Mem) (gain, last VecVirtual) {
	line, swapped, n := ZMM(), ZMM(), ZMM()
	VMOVDQU64(Mem{Base: b, Disp: offMembers - 8}, line) // the first is no prefix's
	VPBROADCASTQ(Mem{Base: b, Disp: offSwapped}, swapped)
	VPANDNQ(line, swapped, line)
	VPOPCNTQ(line, n)
	prefixes, alone := K(), K()
	KMOVB(constant(uint8(0xFE)), prefixes)
	VPCMPEQQ_BCST(constant(uint64(1)), n, prefixes, alone)
	mul := YMM()
	gain, last = YMM(), ZMM()
	VPMOVZXWD(Mem{Base: argument("pages")}, gain)
	VPMOVZXBD(mulOf, mul)
	VPMULLD_Z(mul, gain, alone, gain)
	VMOVDQA64_Z(line, alone, last)
	return gain, last
}

// weights finds the retention weight of each prefix.
func (p *prefixer512) weights() VecVirtual {
	t0, t1, t2 := p.everywhere(offType0), p.everywhere(offType1), p.everywhere(offType2)
	with0, without0, rest, some := ZMM(), ZMM(), ZMM(), K()
	VPANDQ(t0, p.members, with0)
	VPANDNQ(p.members, t0, without0)
	test := func(a, b VecVirtual) OpmaskVirtual {
		k := K()
		VPTESTMQ(a, b, k)
		return k
	}
	w := ZMM()
	VPBROADCASTQ_Z(constant(uint64(2)), test(with0, t1), w)
	VPBROADCASTQ(constant(uint64(10)), test(without0, t1), w)
	VPANDNQ(with0, t1, rest)
	VPBROADCASTQ(constant(uint64(15)), test(rest, rest), w)
	VPORQ(t1, t2, t2)
	VPANDNQ(without0, t2, rest)
	VPTESTMQ(rest, rest, some)
	VPBROADCASTQ(constant(uint64(20)), some, w)
	return w
}

// toldPrefixes512 is where a kernel tells the state of the prefixes: Extra, Gain and Last in shared, the rest in totals.
type toldPrefixes512 struct {
	shared, totals            Register
	qp, retained, mul, weight int
}

// prefixesBody512 writes the state of the prefixes. If there are qwords to be added up it returns a register whose dword 2 is their sum.
func prefixesBody512(b Register, to toldPrefixes512, also VecVirtual) VecVirtual {
	line := ZMM()
	VMOVDQU64(Mem{Base: b, Disp: offMembers - 8}, line)
	p := &prefixer512{b: b}
	p.byLevel(line)
	p.lastHolders(to.shared)
	w, x := p.weights(), XMM()
	VPMOVQB(p.mul, x)
	VMOVQ(x, Mem{Base: to.totals, Disp: to.mul})
	VPMOVQB(w, x)
	VMOVQ(x, Mem{Base: to.totals, Disp: to.weight})
	qp := p.memory(to.shared)
	VPMULUDQ(qp, w, w)
	if also == nil {
		also = qp
	}
	sums := fourSums512(qp, w, also, also)
	VMOVD(sums, Mem{Base: to.totals, Disp: to.qp})
	VPEXTRD(U8(1), sums, Mem{Base: to.totals, Disp: to.retained})
	return sums
}

// deposit512 moves bits of newcomers to their slots, the lowest to the lowest.
func deposit512(bits, slots, take GPVirtual) GPVirtual {
	ANDL(take.As32(), bits.As32())
	PDEPQ(slots, bits, bits)
	return bits
}

// eight512 puts eight planes into a register; nil is an empty one.
func eight512(planes [8]GPVirtual) VecVirtual {
	var pairs [4]VecVirtual
	for i := range pairs {
		pairs[i] = XMM()
		lo, hi := planes[2*i], planes[2*i+1]
		switch {
		case lo != nil:
			VMOVQ(lo, pairs[i])
		default:
			VPXORD(pairs[i], pairs[i], pairs[i])
		}
		if hi != nil {
			VPINSRQ(U8(1), hi, pairs[i], pairs[i])
		}
	}
	y, z, line := YMM(), YMM(), ZMM()
	VINSERTI32X4(U8(1), pairs[1], pairs[0].AsY(), y)
	VINSERTI32X4(U8(1), pairs[3], pairs[2].AsY(), z)
	VINSERTI64X4(U8(1), z, y.AsZ(), line)
	return line
}

// planes512 turns a byte a lane into planes: qword p has bit p of all lanes. It transposes 8 by 8 bits as a product of matrices, which
// leaves the bits of each byte in reverse order.
func planes512(codes VecVirtual) VecVirtual {
	unit, gather := make([]uint8, 64), make([]uint8, 64)
	for i := range unit {
		unit[i] = 1 << (i % 8)
		gather[i] = uint8(8*(i%8) + i/8)
	}
	units, index, z := ZMM(), ZMM(), ZMM()
	VMOVDQU8(constant(unit...), units)
	VGF2P8AFFINEQB(U8(0), codes, units, z)
	VGF2P8AFFINEQB(U8(0), constant(unit...), z, z)
	VMOVDQU8(constant(gather...), index)
	VPERMB(z, index, z)
	return z
}

// shuffled512 looks up the lower halves of bytes, whose highest bit is 0, in a table of 16 bytes.
func shuffled512(of VecVirtual, f func(x uint8) uint8) (table VecVirtual) {
	var t [64]uint8
	for i := range t {
		t[i] = f(uint8(i % 16))
	}
	table = ZMM()
	VMOVDQU8(constant(t[:]...), table)
	VPSHUFB(of, table, table)
	return table
}

// bitOf512 is the bit that planes512 moves to a plane of the first line.
func bitOf512(off int) uint8 { return 1 << ((off - offAlive) / 8) }

// member is the bit of Members that a prefix has, from bit 1 on; 0 is none.
func member(prefix uint8) uint8 { return 1 << prefix &^ 1 }

// join512 adds a line to one of a block.
func join512(line VecVirtual, b Register, off int) {
	m := Mem{Base: b, Disp: off}
	VPORQ(m, line, line)
	VMOVDQU64(line, m)
}

// enterPlanes512 enters newcomers into the planes: all are alive, types are given as bits, the prefix column with them in it.
func enterPlanes512(b Register, prefixes VecVirtual, entered OpmaskVirtual, t [3]GPVirtual, prefill, active, slots, take GPVirtual) {
	join512(eight512([8]GPVirtual{0: slots, 2: deposit512(t[0], slots, take), 3: deposit512(t[1], slots, take), 4: active, 7: prefill}), b, offAlive)
	codes, ephemeral := ZMM(), XMM()
	VMOVDQU8_Z(shuffled512(prefixes, func(x uint8) uint8 { return member(x & 7) }), entered, codes)
	line := planes512(codes)
	VMOVQ(deposit512(t[2], slots, take), ephemeral)
	VPORQ(ephemeral.AsZ(), line, line)
	join512(line, b, offAlive+64)
}

// weighed512 is the needs (qwords), each times the retention weight of its type, of the newcomers of take.
func weighed512(need VecVirtual, t [3]GPVirtual, take GPVirtual) VecVirtual {
	w := ZMM()
	mask := func(plane GPVirtual) OpmaskVirtual {
		k, r := K(), and(plane, take)
		KMOVB(r.As32(), k)
		return k
	}
	system := or(or(t[0], t[1]), t[2])
	NOTQ(system)
	VPBROADCASTQ_Z(constant(uint64(20)), mask(system), w)
	VPBROADCASTQ(constant(uint64(15)), mask(andNot(t[0], t[1])), w)
	VPBROADCASTQ(constant(uint64(10)), mask(andNot(t[1], t[0])), w)
	VPBROADCASTQ(constant(uint64(2)), mask(and(t[0], t[1])), w)
	VPMULUDQ(need, w, w)
	return w
}

// expander512 puts up to eight elements into the slots of a block's columns, in order: those below 32, and the others, which are seldom there.
type expander512 struct {
	b     Register
	slots GPVirtual
	bytes OpmaskVirtual // all 64 slots
	from  VecVirtual    // bytes: where in a register the first byte of each slot's element stands, if elements are quadwords; else its number
	quads bool
}

func newExpander512(b Register, slots GPVirtual, quads bool) *expander512 {
	e := &expander512{b: b, slots: slots, bytes: K(), from: ZMM(), quads: quads}
	KMOVQ(slots, e.bytes)
	first := iotas[uint8](64)
	if quads {
		for i := range first {
			first[i] *= 8
		}
	}
	VMOVDQU8(constant(first...), e.from)
	VPEXPANDB_Z(e.from, e.bytes, e.from)
	return e
}

func (e *expander512) at(off int) Mem { return Mem{Base: e.b, Disp: off} }

// byteColumn returns the whole column.
func (e *expander512) byteColumn(x VecVirtual, off int) VecVirtual {
	z := ZMM()
	VMOVDQU8(e.at(off), z)
	VPERMB(x.AsZ(), e.from, e.bytes, z)
	VMOVDQU8(z, e.at(off))
	return z
}

// kinds enters requests that are to prefill into the planes, and their prefixes into the column, which it returns.
func (e *expander512) kinds(f *fields512) (prefixes VecVirtual) {
	const (
		ephemeral = 1 << (3 + iota) // above the prefix
		type0
		type1
	)
	kind, z := byType512(f.below, type0, type1, type0|type1, ephemeral), ZMM()
	VPORQ(f.prefix, kind, kind)
	VPERMB_Z(kind, e.from, e.bytes, z)
	halves := bytes(0x0F)
	lower, upper, planes := ZMM(), ZMM(), ZMM()
	VPANDD(halves, z, lower)
	join512(planes512(shuffled512(lower, func(x uint8) uint8 { return member(x&7) | x>>3 })), e.b, offAlive+64)
	VPSRLW(U8(4), z, upper)
	VPANDD(halves, upper, upper)
	VMOVDQU8_Z(shuffled512(upper, func(x uint8) uint8 {
		return bitOf512(offAlive) | bitOf512(offPrefill) | x&1*bitOf512(offType0) | x>>1&1*bitOf512(offType1)
	}), e.bytes, planes)
	join512(planes512(planes), e.b, offAlive)
	prefixes = ZMM()
	VMOVDQU8(e.at(offPrefix), prefixes)
	VPANDD_BCST(constant(uint32(0x07070707)), z, z)
	VMOVDQU8(z, e.bytes, prefixes)
	VMOVDQU8(prefixes, e.at(offPrefix))
	return prefixes
}

// wide512 are the elements of columns of words, and of the one column of dwords.
type wide512 struct {
	words  map[int]VecVirtual // by offset
	tokens VecVirtual
}

// wide puts words, in the given order, and dwords in their places.
func (e *expander512) wide(w wide512, offsets ...int) {
	e.half(0, w, offsets)
	upper := GP64()
	MOVQ(e.slots, upper)
	SHRQ(U8(32), upper)
	TESTQ(upper, upper)
	JZ(LabelRef("placed"))
	e.half(1, w, offsets)
	Label("placed")
}

// half places elements into 32 lanes.
func (e *expander512) half(h int, w wide512, offsets []int) {
	y, from := e.from.AsY(), ZMM()
	if h == 1 {
		y = YMM()
		VEXTRACTI64X4(U8(1), e.from, y)
	}
	VPMOVZXBW(y, from)
	if e.quads {
		VPSRLW(U8(1), from, from)
	}
	for _, off := range offsets {
		z := ZMM()
		VMOVDQU16(e.at(off+64*h), z)
		VPERMW(w.words[off].AsZ(), from, lanesFrom(e.bytes, uint8(32*h)), z)
		VMOVDQU16(z, e.at(off+64*h))
	}
	for g := 2 * h; g < 2*h+2; g++ {
		z, from := ZMM(), bytesOf(e.from, g)
		if e.quads {
			VPSRLD(U8(2), from, from)
		}
		VMOVDQU32(e.at(offTokens+64*g), z)
		VPERMD(w.tokens.AsZ(), from, lanesFrom(e.bytes, uint8(16*g)), z)
		VMOVDQU32(z, e.at(offTokens+64*g))
	}
}

func enter512() {
	TEXT("enterAVX512", NOSPLIT, "func(b *Block, slots uint64, words *[8]uint64, count int, t *RequestTables, pages *[8]uint16, step int16, joins *[8]uint8) (retained uint32)")
	Pragma("noescape")
	Doc("enterAVX512 is Enter.")
	words := ZMM()
	VMOVDQU64(Mem{Base: argument("words")}, words)
	worth, _ := enterBody512(argument("b"), argument("slots"), argument("count"), words, Mem{Base: argument("joins")})
	Store(sum512(worth), Return("retained"))
	VZEROUPPER()
	RET()
}

// enterBody512 is Enter of the first count newcomers; it returns what they are worth, to be added up, and the system blocks touched.
func enterBody512(b Register, slots, count GPVirtual, words VecVirtual, joined Mem) (VecVirtual, OpmaskVirtual) {
	take, taken := GP64(), K()
	MOVQ(I32(-1), take)
	BZHIQ(count, take, take)
	r := request512{w: words}
	f := decode512(&r, argument("t"), argument("pages"))
	r.addRun(&f)
	VPADDQ(f.prefixTokens, f.tokens, f.tokens)
	KMOVB(take.As32(), taken)
	worth := ZMM()
	VPMULUDQ_Z(f.need, byType512(f.below, 15, 10, 2, 0), taken, worth)

	e := newExpander512(b, slots, true)
	e.byteColumn(f.priority, offPriority)
	system := andNot(planeOf(b, offAlive), or(or(planeOf(b, offType0), planeOf(b, offType1)), planeOf(b, offType2)))
	prefixes := e.kinds(&f)
	e.byteColumn(f.cycle, offCycle)
	// Hotness and last access, of the newcomers and of the system blocks that they touch.
	hot := ZMM()
	joins := joins512(joined)
	VPERMB(joins, prefixes, joins) // the newcomers' prefixes in it are no system block's
	touched := K()
	KMOVQ(system, touched)
	VPTESTMB(joins, joins, touched, touched)
	VMOVDQU8(e.at(offHotness), hot)
	VPADDUSB(joins, hot, touched, hot)
	VMOVDQU8(bytes(63), e.bytes, hot)
	VMOVDQU8(hot, e.at(offHotness))
	accessed := K()
	KORQ(e.bytes, touched, accessed)
	step := ZMM()
	VPBROADCASTW(argument("step").As32(), step)
	for h := range 2 { // system blocks may stand anywhere
		z := ZMM()
		VMOVDQU16(e.at(offLastAccess+64*h), z)
		VMOVDQU16(step, lanesFrom(accessed, uint8(32*h)), z)
		VMOVDQU16(z, e.at(offLastAccess+64*h))
	}
	e.wide(wide512{map[int]VecVirtual{offRemaining: f.output, offRate: f.rate}, f.tokens}, offRemaining, offRate)
	return worth, touched
}
