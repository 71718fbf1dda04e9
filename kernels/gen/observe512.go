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
	planes := ZMM()
	VMOVDQU64(Mem{Base: b, Disp: offAlive}, planes)
	var o observer512
	o.begin(b)
	o.widen(Mem{Base: argument("pages")}, &o.pages)
	o.gain = eightDwords512(Mem{Base: s, Disp: offShGain})
	VPBROADCASTD(Mem{Base: l, Disp: offLgStep}, o.step)
	limit := argument("budget")
	VBROADCASTSS(inverse512(limit), o.inv)
	budget := limit.As32()
	ADDL(budget, budget)
	VPBROADCASTD(budget, o.limit)
	o.last = local(and(andNot(planeOf(b, offAlive), planeOf(b, offSwapped)), planeOf(s, offShLast)))
	dst, at := argument("dst"), GP64()
	LEAQ(Mem{Base: dst, Disp: 64}, at)
	o.rows(at, within("f", offFrGroups, 8)(), stream)

	n := numerators512(planes, argument("l"), argument("f"))
	divide512(n, Mem{Base: argument("f"), Disp: offFrDen}, "budget", "capacity", "norm", "")
	store512(n, Mem{Base: argument("dst")}, stream)
	VZEROUPPER()
	RET()
}

// lanes32 is the mask of some of 16 dwords.
func lanes32(lanes ...int) OpmaskVirtual {
	k, bits := K(), uint16(0)
	for _, i := range lanes {
		bits |= 1 << i
	}
	KMOVW(constant(bits), k)
	return k
}

// picks are indices of dwords for a permutation of two registers: i of the first, 16 + i of the second.
func picks(at map[int]int) Mem {
	var idx [16]uint32
	for lane, from := range at {
		idx[lane] = uint32(from)
	}
	return constant(idx[:]...)
}

// numerators512 is Numerators of one block, whose first line of planes is given. It reads the ledger as two whole lines, which waits for
// narrower stores on their way: the later the better.
func numerators512(planes VecVirtual, l, f Register) (num VecVirtual) {
	const second = 16 // dwords from the second line on
	lines, counts := [2]VecVirtual{ZMM(), ZMM()}, ZMM()
	VMOVDQU64(Mem{Base: l}, lines[0])
	VMOVDQU64(Mem{Base: l, Disp: 64}, lines[1])
	VPOPCNTQ(planes, counts)
	norm := ZMM()
	VPBROADCASTQ(argument("norm"), norm)
	tokens := K()
	KMOVB(constant(uint8(1<<(offLgTokens/8))), tokens)
	VPMINUQ(norm, lines[0], tokens, lines[0])

	dword := func(off int) int { return off / 4 }
	plane := func(off int) int { return (off - offAlive) / 4 }
	num = ZMM()
	VMOVDQU32(picks(map[int]int{0: dword(offLgPrivateQP), 2: dword(offLgStep), 3: dword(offLgPressureSteps), 4: dword(offLgQueueLen), 5: dword(offLgGrowth),
		7: dword(offLgPendingQP), 12: dword(offLgSharedQP), 13: dword(offLgFailures), 14: dword(offLgTokens), 15: dword(offLgLatencyMilli)}), num)
	VPERMI2D(lines[1], lines[0], num)
	of, more := ZMM(), ZMM()
	VMOVDQU32(picks(map[int]int{8: plane(offAlive), 9: plane(offActive), 10: plane(offInt8), 11: plane(offSwapped)}), of)
	VPERMD(counts, of, lanes32(8, 9, 10, 11), num)
	VMOVDQU32(picks(map[int]int{0: dword(offLgSharedQP), 10: second + plane(offInt4)}), more)
	VPERMI2D_Z(counts, lines[0], lanes32(0, 10), more)
	VPADDD(more, num, num)
	steps := ZMM()
	VPBROADCASTD(Mem{Base: f, Disp: offFrSteps}, steps)
	VPSUBD(num, steps, lanes32(2), num)

	budget, most := argument("budget").As32(), ZMM()
	VPBROADCASTD(budget, lanes32(1), num)
	VPBROADCASTD(argument("oldest").As32(), lanes32(6), num)
	limits := [16]uint32{13: 16, 15: mostLatency}
	for i := range 15 {
		if i != 13 {
			limits[i] = 1<<32 - 1
		}
	}
	VMOVDQU32(constant(limits[:]...), most)
	ADDL(budget, budget)
	VPBROADCASTD(budget, lanes32(0, 12), most)
	ADDL(budget, budget)
	VPBROADCASTD(budget, lanes32(7), most)
	VPMINUD(most, num, num)
	return num
}
