package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// What admissions of the serving profile cost: up to eight tickets, a qword each, in order.

func pay512() {
	TEXT("payAVX512", NOSPLIT, "func(l *Ledger, t *Tickets, set uint32, free uint64, pages *[8]uint16, clock *Clock, work *[64]uint32, joins *[8]uint8) (slots, waste uint64, ok bool)")
	Pragma("noescape")
	Doc("payAVX512 is Pay, for a clock whose tables hold all; ok is false, and nothing is done, for more than eight tickets or times that they do not give.")
	set := GP64()
	Load(Param("set"), set.As32())
	slots, waste := payBody512(set, func() GPVirtual { return argument("free") })
	Store(slots, Return("slots"))
	Store(waste, Return("waste"))
	mayRefuse512()
}

// payBody512 is Pay. It jumps to a label, refused, before it stores anything where it cannot.
func payBody512(set GPVirtual, free func() GPVirtual) (slots, waste GPVirtual) {
	p := &payer512{ledger: argument("l"), t: argument("t"), ranks: K()}
	n, lanes := GP64(), GP64()
	slots = GP64()
	POPCNTQ(set, n)
	CMPQ(n, U8(8))
	JHI(LabelRef("refused"))
	MOVQ(I32(-1), lanes)
	BZHIQ(n, lanes, lanes)
	KMOVQ(lanes, p.ranks)
	PDEPQ(free(), lanes, slots)
	p.choose(set)
	p.join()
	us := p.time()
	waste = p.account(us)
	p.place(us, slots)
	return slots, waste
}

// payer512 holds what the parts of Pay hand on.
type payer512 struct {
	ledger, t Register
	ranks     OpmaskVirtual // who of eight there is

	private, prefix     VecVirtual // qwords
	prefixes            VecVirtual // bytes
	types, flags        VecVirtual // bytes
	pages               VecVirtual // qwords, of the prefixes
	mul, members        VecVirtual // qwords, of the prefixes: what a page costs, and a plane of ranks
	fresh, first, later OpmaskVirtual
}

// choose brings the tickets' columns together.
func (p *payer512) choose(set GPVirtual) {
	at := func(off int) Mem { return Mem{Base: p.t, Disp: off} }
	order, k, index, half := YMM(), K(), ZMM(), ZMM()
	KMOVD(set.As32(), k)
	VMOVDQU8(constant(iotas[uint8](32)...), order)
	VPCOMPRESSB_Z(order, k, order)
	VPMOVZXBD(order.AsX(), index)
	VMOVDQU32(at(offTkPrivate), half)
	VPERMI2D(at(offTkPrivate+64), half, index)
	p.private = ZMM()
	VPMOVZXDQ(index.AsY(), p.private)
	bytes := func(off int) VecVirtual {
		y := YMM()
		VPERMB(at(off), order, y)
		return y
	}
	p.prefixes, p.types, p.flags = bytes(offTkPrefix), bytes(offTkType), bytes(offTkFlags)
	p.prefix = ZMM()
	VPMOVZXBQ(p.prefixes.AsX(), p.prefix)
}

// join finds who is the first of a prefix that nobody holds.
func (p *payer512) join() {
	codes, others := ZMM(), K()
	VMOVDQU8_Z(shuffled512(p.prefixes.AsZ().(VecVirtual), func(x uint8) uint8 { return 1 << (x & 7) }), p.ranks, codes)
	p.members = planes512(codes)
	p.mul, p.pages, p.fresh, p.first, p.later = ZMM(), ZMM(), K(), K(), K()
	VPMOVZXBQ(Mem{Base: p.ledger, Disp: offLgPrefixMul}, p.mul)
	VPMOVZXWQ(Mem{Base: argument("pages")}, p.pages)
	KMOVB(constant(uint8(0xFE)), others) // the first is no prefix
	VPTESTNMQ(p.mul, p.mul, others, others)
	VPTESTMQ(p.members, p.members, others, p.fresh)
	lowest, zero, r := ZMM(), ZMM(), GP64()
	VPXORQ(zero, zero, zero)
	VPSUBQ(p.members, zero, lowest)
	VPANDQ_Z(p.members, lowest, p.fresh, lowest)
	VMOVQ(union512(lowest).AsX(), r)
	KMOVB(r.As32(), p.first)
	KNOTB(p.first, p.later)
}

// time is how long they take to prefill, microseconds; kv.Clock says how that is reckoned.
func (p *payer512) time() (us VecVirtual) {
	clock := argument("clock")
	prefix, m, cached, most := ZMM(), ZMM(), ZMM(), ZMM()
	VPERMQ(p.pages, p.prefix, prefix)
	VPSLLQ(U8(7), prefix, prefix)
	VMOVDQA64_Z(prefix, p.later, cached)
	VPADDQ(p.private, prefix, prefix)
	VMOVDQA64(p.private, m)
	VMOVDQA64(prefix, p.first, m)
	VPBROADCASTQ(constant(uint64(1)<<25), most)
	VPMINUQ(most, m, m)
	VPMINUQ(most, cached, cached)

	segment, low, k := ZMM(), ZMM(), K()
	VPADDQ_BCST(constant(^uint64(0)), m, low)
	VPLZCNTQ(low, low)
	KMOVQ(constant(uint64(0x0101010101010101)), k)
	VPERMB_Z(Mem{Base: clock, Disp: offClFrom}, low, k, segment)
	of := func(off int) VecVirtual {
		z, half := ZMM(), ZMM()
		VMOVDQA64(segment, z)
		VMOVDQU64(Mem{Base: clock, Disp: off}, half)
		VPERMI2Q(Mem{Base: clock, Disp: off + 64}, half, z)
		return z
	}
	beyond, wide, above := K(), K(), ZMM()
	VPCMPUQ(U8(6), of(offClEnd), m, p.ranks, beyond) // greater than
	VPSUBQ(of(offClStart), m, above)
	VPMULUDQ(of(offClRise), above, above)
	VPTESTMQ_BCST(constant(^uint64(1<<50-1)), above, p.ranks, wide)
	KORTESTB(beyond, wide)
	JNZ(LabelRef("refused"))
	divided512(above, of(offClInverse))

	thousandth, pairs, square, whole, rest, pair := ZMM(), ZMM(), ZMM(), ZMM(), ZMM(), ZMM()
	VPBROADCASTQ(constant(math.Float64bits(0.001)), thousandth) // a little above
	VPBROADCASTQ(Mem{Base: clock, Disp: offClPair}, pair)
	VPMULUDQ(m, cached, pairs)
	VPMULUDQ(m, m, square)
	VPSRLQ(U8(1), square, square)
	VPADDQ(square, pairs, pairs)
	VMOVDQA64(pairs, whole)
	divided512(whole, thousandth)
	VPMULLQ_BCST(constant(uint64(1000)), whole, rest)
	VPSUBQ(rest, pairs, rest)
	VPMULUDQ(pair, rest, rest)
	divided512(rest, thousandth)
	VPMULLQ(pair, whole, whole)
	VPADDQ(of(offClNS), above, above)
	VPADDQ(whole, above, above)
	VPADDQ(rest, above, above)
	VPMINUQ_BCST(constant(uint64(1000)<<31), above, above)
	VPADDQ_BCST(constant(uint64(999)), above, above)
	divided512(above, thousandth)
	return above
}

// divided512 multiplies whole numbers by factors that are not below the inverses of what they are divided by, and rounds down.
func divided512(z, factor VecVirtual) {
	VCVTUQQ2PD(z, z)
	VMULPD(factor, z, z)
	VCVTTPD2UQQ(z, z)
}

// account adds up what they take.
func (p *payer512) account(us VecVirtual) (waste GPVirtual) {
	wasted, again := ZMM(), K()
	VPTESTMB(bytes(ticketAgain), p.flags.AsZ(), p.ranks, again)
	VMOVDQA64_Z(us, again, wasted)
	waste = sumQ512(wasted)

	qp, worth, shared, retained := ZMM(), ZMM(), ZMM(), ZMM()
	VPADDQ_BCST(constant(uint64(127)), p.private, qp)
	VPSRLQ(U8(7), qp, qp)
	VPSLLQ_Z(U8(2), qp, p.ranks, qp)
	VPMOVZXBQ(shuffled512(p.types.AsZ().(VecVirtual), func(x uint8) uint8 { return [8]uint8{20, 15, 10, 2}[x&7] }).AsX(), worth)
	VPMULUDQ(qp, worth, worth)
	VPSLLQ_Z(U8(2), p.pages, p.fresh, shared)
	VPMULUDQ_BCST(constant(uint64(20)), shared, retained)
	sums, r := fourSums512(qp, worth, shared, retained), GP32()
	for i, off := range []int{offLgPrivateQP, offLgRetainedPrivate, offLgSharedQP, offLgRetainedShared} {
		VPEXTRD(U8(uint8(i)), sums, r)
		ADDL(r, Mem{Base: p.ledger, Disp: off})
	}

	weight, x, joins, joined := ZMM(), XMM(), argument("joins"), ZMM()
	tell := func(z VecVirtual, m Mem) {
		VPMOVQB(z, x)
		VMOVQ(x, m)
	}
	VPBROADCASTQ(constant(uint64(4)), p.fresh, p.mul)
	tell(p.mul, Mem{Base: p.ledger, Disp: offLgPrefixMul})
	VPMOVZXBQ(Mem{Base: p.ledger, Disp: offLgPrefixWeight}, weight)
	VPBROADCASTQ(constant(uint64(20)), p.fresh, weight)
	tell(weight, Mem{Base: p.ledger, Disp: offLgPrefixWeight})
	VPOPCNTQ(p.members, joined)
	VPMOVZXBQ(Mem{Base: joins}, weight)
	VPADDQ(weight, joined, joined)
	tell(joined, Mem{Base: joins})
	return waste
}

// place writes their times to their slots.
func (p *payer512) place(us VecVirtual, slots GPVirtual) {
	work, lanes, rank, times, upper := argument("work"), K(), ZMM(), YMM(), GP64()
	VPMOVQD(us, times)
	KMOVQ(slots, lanes)
	VMOVDQU8(constant(iotas[uint8](64)...), rank)
	VPEXPANDB_Z(rank, lanes, rank)
	for g := range 4 {
		if g == 2 {
			MOVQ(slots, upper)
			SHRQ(U8(32), upper)
			JZ(LabelRef("placed"))
		}
		z := bytesOf(rank, g)
		VPERMD(times.AsZ(), z, z)
		VMOVDQU32(z, lanesFrom(lanes, uint8(16*g)), Mem{Base: work, Disp: 64 * g})
	}
	Label("placed")
}
