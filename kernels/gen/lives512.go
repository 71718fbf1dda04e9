package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

func lives512() {
	TEXT("livesAVX512", NOSPLIT, "func(l *Lives, words *uint64, n int) (pageSteps, good uint64)")
	Pragma("noescape")
	Doc("livesAVX512 is Lives.Add: eight words at a time, a qword each.")
	p, words, n := argument("l"), argument("words"), argument("n")
	l := &liver512{p: p, tables: GP64(), rate: ZMM(), steps: ZMM(), after: ZMM(), zero: ZMM()}
	MOVQ(Mem{Base: p, Disp: offLvTables}, l.tables)
	broadcast := func(off int, z VecVirtual) {
		r := GP64()
		MOVL(Mem{Base: p, Disp: off}, r.As32())
		VPBROADCASTQ(r, z)
	}
	broadcast(offLvRate, l.rate)
	broadcast(offLvSteps, l.steps)
	VPADDQ_BCST(constant(uint64(1)), l.steps, l.after)
	VPXORD(l.zero, l.zero, l.zero)
	held, good := ZMM(), ZMM()
	for _, z := range []VecVirtual{held, good} {
		VPXORD(z, z, z)
	}
	Label("eight")
	{
		ones, lanes := GP64(), K()
		MOVQ(I32(-1), ones)
		BZHIQ(n, ones, ones)
		KMOVB(ones.As32(), lanes)
		h, g := l.eight(words, lanes)
		VPADDQ(h, held, lanes, held)
		VPADDQ(g, good, lanes, good)
		ADDQ(U8(64), words)
		SUBQ(U8(8), n)
		JHI(LabelRef("eight"))
	}
	Store(sumQ512(held), Return("pageSteps"))
	Store(sumQ512(good), Return("good"))
	VZEROUPPER()
	RET()
}

// liver512 holds what is the same for all lives.
type liver512 struct {
	p, tables                Register
	rate, steps, after, zero VecVirtual // after is the step after the last
}

// delivered is what turns of the given tokens deliver that start in some steps.
func (l *liver512) delivered(tokens, start VecVirtual) VecVirtual {
	z := ZMM()
	VPSUBQ(start, l.after, z)
	VPMAXSQ(l.zero, z, z)
	VPMULUDQ(l.rate, z, z)
	VPMINUQ(tokens, z, z)
	return z
}

// eight follows the lives of eight requests.
func (l *liver512) eight(words Register, lanes OpmaskVirtual) (pageSteps, good VecVirtual) {
	r := request512{w: ZMM()}
	VMOVDQU64_Z(Mem{Base: words}, lanes, r.w)
	arrived, start, end, context, types := ZMM(), ZMM(), ZMM(), K(), GP64()
	VPSRLQ(U8(48), r.w, arrived)
	out, tokens := r.output(l.tables), r.pages(l.tables)
	span := r.lookup(Mem{Base: l.p, Disp: offLvSpans})
	VPSUBQ_BCST(constant(uint64(1)), span, span)
	VPSLLQ(U8(7), tokens, tokens)
	VPADDQ(r.field(18, 7), tokens, tokens)
	VPSUBQ_BCST(constant(uint64(127)), tokens, tokens)
	VPADDQ(out, tokens, tokens)
	VPADDQ_BCST(constant(uint64(2)), arrived, start)
	VPADDQ(span, start, end)
	good = l.delivered(out, start)

	MOVBQZX(Mem{Base: l.tables, Disp: offTabTypes}, types)
	first := ZMM()
	VPBROADCASTQ(types, first)
	VPCMPUQ(U8(1), first, r.field(0, 8), context)
	turns, pause, gap, more := ZMM(), r.field(42, 2), ZMM(), ZMM()
	VMOVDQA64_Z(r.field(40, 2), context, turns)
	VPSLLVQ(pause, qwords(2), gap)
	VPSLLVQ(pause, qwords(256), more)
	VPADDQ(out, more, more)
	for turn := range 3 {
		goes := K()
		VPCMPUQ_BCST(U8(6), constant(uint64(turn)), turns, goes) // above
		VPCMPUQ(U8(1), l.steps, end, goes, goes)
		VPADDQ(gap, end, start)
		VPADDQ(l.delivered(out, start), good, goes, good)
		VPADDQ(more, tokens, goes, tokens)
		VPADDQ(span, start, goes, end)
	}
	priority := r.field(33, 7)
	VPMULUDQ_BCST(constant(uint64(101)), priority, priority)
	VPSRLQ(U8(7), priority, priority)
	VPADDQ_BCST(constant(uint64(50)), priority, priority)
	VPMULUDQ(priority, good, good)
	VPADDQ_BCST(constant(uint64(127)), tokens, tokens)
	VPSRLQ(U8(7), tokens, tokens)
	VPMINUQ(l.steps, end, end)
	VPSUBQ(arrived, end, end)
	pageSteps = ZMM()
	VPMULUDQ(end, tokens, pageSteps)
	return pageSteps, good
}
