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
	b, s := argument("b"), argument("s")
	planes := ZMM()
	VMOVDQU64(Mem{Base: b, Disp: offAlive}, planes)
	var o observer512
	o.begin(b)
	o.gain = eightDwords512(Mem{Base: s, Disp: offShGain})
	o.last = local(and(andNot(planeOf(b, offAlive), planeOf(b, offSwapped)), planeOf(s, offShLast)))
	o.finish(planes, stream, nil)
}

func observeServing512(stream bool) {
	name := named("observeServing", stream)
	TEXT(name, NOSPLIT, "func(dst *float32, p *Seat, f *Frame, x *ServingGlobals)")
	Pragma("noescape")
	Doc(name + " is ObserveServing.")
	given = seated512()
	defer func() { given = nil }()
	b := argument("b")
	planes := ZMM()
	VMOVDQU64(Mem{Base: b, Disp: offAlive}, planes)
	var o observer512
	o.begin(b)
	gain, last := holdersBody512(b, Mem{Base: argument("l"), Disp: offLgPrefixMul})
	o.gain = gain.AsZ().(VecVirtual)
	alone, alive := GP64(), planeOf(b, offAlive)
	VMOVQ(union512(last), alone)
	o.last = local(and(andNot(alive, planeOf(b, offSwapped)), alone))
	o.moving = local(and(alive, planeOf(argument("x"), offSgMoving)))
	o.finish(planes, stream, func() GPVirtual { return argument("x") })
}

// finish loads what else features need, and writes the rows and then the global values: of a serving environment if there is something
// that they count otherwise.
func (o *observer512) finish(planes VecVirtual, stream bool, serving func() GPVirtual) {
	o.widen(Mem{Base: argument("pages")}, &o.pages)
	VPBROADCASTD(Mem{Base: argument("l"), Disp: offLgStep}, o.step)
	o.limit, o.inv = measures512()
	dst, at := argument("dst"), GP64()
	LEAQ(Mem{Base: dst, Disp: 64}, at)
	o.rows(at, within("f", offFrGroups, 8)(), stream)

	n := seatGlobals512(planes, argument("l"), argument("f"), serving)
	store512(n, Mem{Base: argument("dst")}, stream)
	VZEROUPPER()
	RET()
}

// lanes512 are ones in some of 16 dwords. What a k register would choose, a ternary operation with these chooses without a shuffle.
func lanes512(lanes ...int) Mem {
	var ones [16]uint32
	for _, i := range lanes {
		ones[i] = 1<<32 - 1
	}
	return constant(ones[:]...)
}

// replace512 replaces some dwords of z.
func replace512(z, by VecVirtual, lanes ...int) { VPTERNLOGD(U8(0xD8), lanes512(lanes...), by, z) }

// measures512 stores what cost and reclaim are cut at, twice the budget, and what they are multiplied by, 1 over the budget.
func measures512() (limit, inv Mem) {
	budget := ofEpisode512(offLmBudget)
	limit, inv = AllocLocal(8), AllocLocal(8)
	VMOVSS(inverse512(budget), inv)
	VPADDD(budget, budget, budget)
	VMOVD(budget.AsX(), limit)
	return limit, inv
}

// ofEpisode512 broadcasts one of the limits.
func ofEpisode512(off int) VecVirtual {
	z := ZMM()
	VPBROADCASTD(Mem{Base: argument("limits"), Disp: off}, z)
	return z
}

// picks are indices of dwords for a permutation of two registers: i of the first, 16 + i of the second.
func picks(at map[int]int) Mem {
	var idx [16]uint32
	for lane, from := range at {
		idx[lane] = uint32(from)
	}
	return constant(idx[:]...)
}

// seatGlobals512 finds the global values of one block, whose first line of planes is given: Numerators, divided, but for what the serving
// profile counts otherwise. It reads the ledger as two
// whole lines, which waits for narrower stores on their way: the later the better.
func seatGlobals512(planes VecVirtual, l, f Register, serving func() GPVirtual) (num VecVirtual) {
	const second = 16 // dwords from the second line on
	lines, counts, den := [2]VecVirtual{ZMM(), ZMM()}, ZMM(), ZMM()
	VMOVDQU64(Mem{Base: l}, lines[0])
	VMOVDQU64(Mem{Base: l, Disp: 64}, lines[1])
	VPOPCNTQ(planes, counts)
	VMOVDQU32(Mem{Base: f, Disp: offFrDen}, den)

	dword := func(off int) int { return off / 4 }
	plane := func(off int) int { return (off - offAlive) / 4 }
	num = ZMM()
	VMOVDQU32(picks(map[int]int{0: dword(offLgPrivateQP), 2: dword(offLgStep), 3: dword(offLgPressureSteps), 4: dword(offLgQueueLen), 5: dword(offLgGrowth),
		7: dword(offLgPendingQP), 12: dword(offLgSharedQP), 13: dword(offLgFailures), 15: dword(offLgLatencyMilli)}), num)
	VPERMI2D(lines[1], lines[0], num)
	of, more, left := ZMM(), ZMM(), ZMM()
	VMOVDQU32(picks(map[int]int{8: plane(offAlive), 9: plane(offActive), 10: plane(offInt8), 11: plane(offSwapped)}), of)
	VPERMD(counts, of, of)
	replace512(num, of, 8, 9, 10, 11)
	VMOVDQU32(picks(map[int]int{0: dword(offLgSharedQP), 10: second + plane(offInt4)}), more)
	VPERMI2D(counts, lines[0], more)
	VPANDD(lanes512(0, 10), more, more)
	VPADDD(more, num, num)
	VPBROADCASTD(Mem{Base: f, Disp: offFrSteps}, left)
	VPSUBD(num, left, left)
	replace512(num, left, 2)
	told := func(off int) VecVirtual {
		z := ZMM()
		VPBROADCASTD(Mem{Base: serving(), Disp: off}, z)
		return z
	}
	var norm VecVirtual
	if serving == nil {
		norm = ofEpisode512(offLmNorm)
		tokens, low, oldest := ZMM(), ZMM(), ZMM()
		VPBROADCASTQ(Mem{Base: l, Disp: offLgTokens}, tokens)
		VPANDQ_BCST(constant(uint64(1)<<32-1), norm, low)
		VPMINUQ(low, tokens, tokens)
		replace512(num, tokens, 14)
		VPBROADCASTD(argument("oldest").As32(), oldest)
		replace512(num, oldest, 6)
	} else {
		norm = told(offSgNorm)
		for _, x := range [][2]int{{4, offSgQueueLen}, {5, offSgGrowth}, {6, offSgOldest}, {14, offSgGood}, {15, offSgWaits}} {
			replace512(num, told(x[1]), x[0])
		}
		replace512(den, told(offSgMost), 15)
	}
	budget, most, limits := ofEpisode512(offLmBudget), ZMM(), ZMM()
	replace512(num, budget, 1)

	var doubled, least [16]uint32
	for i := range least {
		least[i] = 1<<32 - 1
	}
	least[13] = 16
	if serving == nil {
		least[15] = mostLatency
	}
	doubled[0], doubled[7], doubled[12] = 1, 2, 1
	VMOVDQU32(constant(least[:]...), most)
	VPSLLVD(constant(doubled[:]...), budget, limits)
	replace512(most, limits, 0, 7, 12)
	VPMINUD(most, num, num)

	replace512(den, budget, 0, 7, 12)
	replace512(den, ofEpisode512(offLmCapacity), 1)
	replace512(den, norm, 14)
	VCVTDQ2PS(num, num)
	VCVTDQ2PS(den, den)
	VDIVPS(den, num, num)
	return num
}
