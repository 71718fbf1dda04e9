package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

func observe512(stream bool) {
	name := named("observe", stream)
	TEXT(name, NOSPLIT, "func(dst *float32, p *Seat, f *Frame, s *Shared)")
	Pragma("noescape")
	Doc(name + " is Observe.")
	given = seated512()
	defer func() { given = nil }()
	b, l, s := argument("b"), argument("l"), argument("s")
	num := AllocLocal(64)
	numerators512(num, b, l, argument("f"))

	var o observer512
	o.begin(b)
	o.widen(Mem{Base: argument("pages")}, &o.pages)
	o.gain = eightDwords512(Mem{Base: s, Disp: offShGain})
	VPBROADCASTD(Mem{Base: l, Disp: offLgStep}, o.step)
	budget, x := argument("budget").As32(), XMM()
	VCVTUSI2SSL(budget, x, x)
	one := XMM()
	VMOVSS(constant(float32(1)), one)
	VDIVSS(x, one, x)
	VBROADCASTSS(x, o.inv)
	ADDL(budget, budget)
	VPBROADCASTD(budget, o.limit)
	o.last = local(and(andNot(planeOf(b, offAlive), planeOf(b, offSwapped)), planeOf(s, offShLast)))
	dst, at := argument("dst"), GP64()
	LEAQ(Mem{Base: dst, Disp: 64}, at)
	o.rows(at, within("f", offFrGroups, 8)(), stream)

	// Divided last, when the numerators have left for the cache: a wide load that meets narrow stores on their way would wait for them.
	n := divide512(num, Mem{Base: argument("f"), Disp: offFrDen}, "budget", "capacity", "norm", "")
	store512(n, Mem{Base: argument("dst")}, stream)
	VZEROUPPER()
	RET()
}

// numerators512 is Numerators of one block.
func numerators512(num Mem, b, l, f Register) {
	put := func(i int, r Register) { MOVL(r, num.Offset(4*i)) }
	of := func(off int) GPVirtual { // a dword of the ledger
		r := GP32()
		MOVL(Mem{Base: l, Disp: off}, r)
		return r
	}
	least := func(r GPVirtual, most Register) {
		CMPL(r, most)
		CMOVLHI(most, r)
	}
	fixed := func(r GPVirtual, most uint32) {
		m := GP32()
		MOVL(U32(most), m)
		least(r, m)
	}
	budget := argument("budget").As32()
	put(1, budget)
	twice, used, shared := GP32(), of(offLgPrivateQP), of(offLgSharedQP)
	ADDL(shared, used)
	LEAL(Mem{Base: budget.(GPVirtual).As64(), Index: budget.(GPVirtual).As64(), Scale: 1}, twice)
	least(used, twice)
	put(0, used)
	least(shared, twice)
	put(12, shared)
	pending := of(offLgPendingQP)
	ADDL(twice, twice)
	least(pending, twice)
	put(7, pending)

	left := GP32()
	MOVL(Mem{Base: f, Disp: offFrSteps}, left)
	SUBL(Mem{Base: l, Disp: offLgStep}, left)
	put(2, left)
	put(3, of(offLgPressureSteps))
	put(4, of(offLgQueueLen))
	put(5, of(offLgGrowth))
	put(6, argument("oldest").As32())
	count := func(i int, plane GPVirtual) {
		POPCNTQ(plane, plane)
		put(i, plane.As32())
	}
	count(8, planeOf(b, offAlive))
	count(9, planeOf(b, offActive))
	count(10, or(planeOf(b, offInt8), planeOf(b, offInt4)))
	count(11, planeOf(b, offSwapped))
	failures := of(offLgFailures)
	fixed(failures, 16)
	put(13, failures)
	tokens, norm := planeOf(l, offLgTokens), argument("norm")
	MOVL(norm.As32(), norm.As32())
	CMPQ(tokens, norm)
	CMOVQHI(norm, tokens)
	put(14, tokens.As32())
	latency := of(offLgLatencyMilli)
	fixed(latency, mostLatency)
	put(15, latency)
}
