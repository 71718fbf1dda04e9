package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// Prefill of up to 16 lanes, all below 32: a dword each. Their times are cut at one microsecond more than there is, so that no sum of them
// leaves 32 bits.

const mostPrefill = 1 << 27 // microseconds in a step

func prefill512() {
	TEXT("prefillAVX512", NOSPLIT, "func(b *Block, lane *Lane, budget uint64, p *Prefilled) (ok bool)")
	Pragma("noescape")
	Doc("prefillAVX512 is Prefill; ok is false, and nothing is done, for more than 16 lanes, one from 32 on, or more time than a sum has room for.")
	f := &prefiller512{b: argument("b"), lane: argument("lane"), away: GP64(), set: GP64(), lanes: K(), budget: ZMM()}
	MOVQ(f.plane(offSwapped), f.away)
	ORQ(Mem{Base: f.lane, Disp: offLnOut}, f.away)
	ORQ(Mem{Base: f.lane, Disp: offLnIn}, f.away)
	ANDNQ(planeOf(f.b, offPrefill), f.away, f.set)
	n, most, spent, budget := GP64(), GP64(), GP64(), argument("budget")
	MOVQ(U32(mostPrefill), most)
	CMPQ(budget, most)
	JCC(LabelRef("refused"))
	XORL(spent.As32(), spent.As32())
	POPCNTQ(f.set, n)
	CMPQ(n, U8(16))
	JHI(LabelRef("refused"))
	TESTQ(f.set, f.set)
	JZ(LabelRef("none"))
	MOVQ(f.set, most)
	SHRQ(U8(32), most)
	JNZ(LabelRef("refused"))

	ones := GP64()
	MOVQ(I32(-1), ones)
	BZHIQ(n, ones, ones)
	KMOVW(ones.As32(), f.lanes)
	VPBROADCASTD(budget.As32(), f.budget)
	f.choose()
	done := GP64()
	MOVQ(f.set, done)
	MOVL(sum512(f.short), spent.As32())
	CMPQ(spent, budget)
	JCS(LabelRef("done"))
	MOVQ(budget, spent)
	f.spend(done)
	Label("done")
	ORQ(done, f.plane(offActive))
	NOTQ(done)
	ANDQ(done, f.plane(offPrefill))
	Label("none")
	out := argument("p")
	MOVQ(spent, Mem{Base: out, Disp: offPfSpent})
	f.running(out)
	mayRefuse512()
}

// prefiller512 holds what the parts of Prefill hand on.
type prefiller512 struct {
	b, lane   Register
	away, set GPVirtual // planes
	lanes     OpmaskVirtual

	budget, work, short, keys VecVirtual // dwords: times, cut, and places in the order
}

func (f *prefiller512) plane(off int) Mem { return Mem{Base: f.b, Disp: off} }

// choose brings the times of the set together.
func (f *prefiller512) choose() {
	k, numbers, index := K(), YMM(), ZMM()
	KMOVD(f.set.As32(), k)
	VMOVDQU8(constant(iotas[uint8](32)...), numbers)
	VPCOMPRESSB_Z(numbers, k, numbers)
	VPMOVZXBD(numbers.AsX(), index)
	half, admit, one := ZMM(), ZMM(), ZMM()
	VMOVDQU32(Mem{Base: f.lane, Disp: offLnWork}, half)
	VPERMI2D(Mem{Base: f.lane, Disp: offLnWork + 64}, half, index)
	f.work, f.short, f.keys = ZMM(), ZMM(), ZMM()
	VMOVDQA32_Z(index, f.lanes, f.work)
	VPADDD_BCST(constant(uint32(1)), f.budget, one)
	VPMINUD(one, f.work, f.short)
	VMOVDQU16(Mem{Base: f.lane, Disp: offLnAdmit}, admit)
	VPCOMPRESSW_Z(admit, k, admit)
	VPMOVZXWD(admit.AsY(), f.keys)
	VPSLLD(U8(4), f.keys, f.keys)
	VPORD(constant(iotas[uint32](16)...), f.keys, f.keys)
}

// spend finds whose time is spent when there is not enough for all, and stores what the one has left whose time is spent in part.
func (f *prefiller512) spend(done GPVirtual) {
	before, n := ZMM(), GP64()
	VPXORD(before, before, before)
	POPCNTQ(f.set, n)
	CMPQ(n, U8(8))
	JHI(LabelRef("many"))
	meet512(7, YMM, f.keys.AsY(), f.short.AsY(), before.AsY())
	JMP(LabelRef("met"))
	Label("many")
	meet512(15, ZMM, f.keys, f.short, before)
	Label("met")
	until, begun, whole, part, r := ZMM(), K(), K(), K(), GP64()
	VPADDD(f.short, before, until)
	VPCMPUD(U8(1), f.budget, before, f.lanes, begun)
	VPCMPUD(U8(2), f.budget, until, begun, whole)
	KANDNW(begun, whole, part)
	KMOVW(whole, done.As32())
	PDEPQ(f.set, done, done)
	KMOVW(part, r.As32())
	TESTQ(r, r)
	JZ(LabelRef("done"))
	rest, left := ZMM(), GP32()
	VPADDD(before, f.work, rest)
	VPSUBD(f.budget, rest, rest)
	VPCOMPRESSD_Z(rest, part, rest)
	VMOVD(rest.AsX(), left)
	PDEPQ(f.set, r, r)
	TZCNTQ(r, r)
	MOVL(left, Mem{Base: f.lane, Disp: offLnWork, Index: r, Scale: 4})
}

// meet512 lets every lane meet all others, one after the other, and adds up the times of the earlier ones.
func meet512(others int, register func() VecVirtual, keys, short, before Register) {
	turnedKeys, turned := keys, short
	for range others {
		k, nextKeys, next := K(), register(), register()
		VALIGND(U8(1), turnedKeys, turnedKeys, nextKeys)
		VALIGND(U8(1), turned, turned, next)
		turnedKeys, turned = nextKeys, next
		VPCMPUD(U8(1), keys, turnedKeys, k)
		VPADDD(turned, before, k, before)
	}
}

// running tells who generates, and their tokens.
func (f *prefiller512) running(out Register) {
	set, upper, lanes, sum := GP64(), GP64(), K(), ZMM()
	ANDNQ(planeOf(f.b, offActive), f.away, set)
	MOVQ(set, Mem{Base: out, Disp: offPfSet})
	KMOVQ(set, lanes)
	MOVQ(set, upper)
	VPXORD(sum, sum, sum)
	for g := range 4 {
		if g == 2 {
			SHRQ(U8(32), upper)
			JZ(LabelRef("lower"))
		}
		addDwords512(Mem{Base: f.b, Disp: offTokens + 64*g}, lanesFrom(lanes, uint8(16*g)), sum)
	}
	Label("lower")
	MOVQ(sumQ512(sum), Mem{Base: out, Disp: offPfContext})
}
