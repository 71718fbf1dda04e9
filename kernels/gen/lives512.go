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
	words, n := argument("words"), argument("n")
	l := newLiver512(argument("l"))
	held, good := ZMM(), ZMM()
	for _, z := range []VecVirtual{held, good} {
		VPXORD(z, z, z)
	}
	Label("eight")
	{
		lanes := firstLanes512(n)
		h, g := l.arrived(words, lanes)
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

func livesInitial512() {
	TEXT("livesInitialAVX512", NOSPLIT, "func(l *Lives, draws *[8]uint64, n int) (pageSteps, good uint64)")
	Pragma("noescape")
	Doc("livesInitialAVX512 is Lives.AddInitial.")
	lanes := firstLanes512(argument("n"))
	l := newLiver512(argument("l"))
	held, good := l.initial(argument("draws"), lanes)
	VMOVDQA64_Z(held, lanes, held)
	VMOVDQA64_Z(good, lanes, good)
	Store(sumQ512(held), Return("pageSteps"))
	Store(sumQ512(good), Return("good"))
	VZEROUPPER()
	RET()
}

// firstLanes512 is the mask of the first n of eight lanes.
func firstLanes512(n GPVirtual) OpmaskVirtual {
	ones, lanes := GP64(), K()
	MOVQ(I32(-1), ones)
	BZHIQ(n, ones, ones)
	KMOVB(ones.As32(), lanes)
	return lanes
}

// liver512 holds what is the same for all lives.
type liver512 struct {
	p, tables                Register
	rate, steps, after, zero VecVirtual // after is the step after the last
}

func newLiver512(p Register) *liver512 {
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
	return l
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

// life512 is what eight lives start from. span is one less than the steps of a later turn.
type life512 struct {
	r                   request512
	before              VecVirtual // the step before they hold memory
	tokens, start, end  VecVirtual // tokens after the first turn, and its first and last step
	left, turns         VecVirtual // tokens of the first turn; turns after it, 0 for what is no context
	out, span, gap, add VecVirtual // of later turns: tokens, steps, steps before them, tokens that they add
	context             OpmaskVirtual
}

// load loads eight words and cuts what all lives have in common; tokens are those of the prompt.
func (l *liver512) load(words Register, lanes OpmaskVirtual) (f life512) {
	f.r = request512{w: ZMM()}
	r := &f.r
	VMOVDQU64_Z(Mem{Base: words}, lanes, r.w)
	f.out, f.tokens, f.span = r.output(l.tables), r.pages(l.tables), r.lookup(Mem{Base: l.p, Disp: offLvSpans})
	VPSUBQ_BCST(constant(uint64(1)), f.span, f.span)
	VPSLLQ(U8(7), f.tokens, f.tokens)
	VPADDQ(r.field(18, 7), f.tokens, f.tokens)
	VPSUBQ_BCST(constant(uint64(127)), f.tokens, f.tokens)
	f.context, f.turns, f.gap, f.add = K(), ZMM(), ZMM(), ZMM()
	VPCMPUQ_BCST(U8(1), Mem{Base: l.tables, Disp: offTabTypes}, r.field(0, 8), f.context)
	VMOVDQA64_Z(r.field(40, 2), f.context, f.turns)
	pause := r.field(42, 2)
	VPSLLVQ(pause, qwords(2), f.gap)
	VPSLLVQ(pause, qwords(256), f.add)
	VPADDQ(f.out, f.add, f.add)
	return f
}

// arrived follows the lives of requests.
func (l *liver512) arrived(words Register, lanes OpmaskVirtual) (pageSteps, good VecVirtual) {
	f := l.load(words, lanes)
	f.before, f.start, f.end, f.left = ZMM(), ZMM(), ZMM(), f.out
	VPSRLQ(U8(48), f.r.w, f.before)
	VPADDQ(f.out, f.tokens, f.tokens)
	VPADDQ_BCST(constant(uint64(2)), f.before, f.start)
	VPADDQ(f.span, f.start, f.end)
	return l.follow(&f)
}

// initial follows the lives of initial sequences. Those that are idle between turns begin with the next one, if there is any.
func (l *liver512) initial(draws Register, lanes OpmaskVirtual) (pageSteps, good VecVirtual) {
	f := l.load(draws, lanes)
	idle, over, k := K(), K(), K()
	VPTESTMQ_BCST(constant(uint64(1)<<62), f.r.w, f.context, idle)
	VPTESTNMQ(f.turns, f.turns, idle, over)
	done := f.r.field(48, 6)
	VPMULUDQ(f.out, done, done)
	VPSRLQ(U8(6), done, done)
	f.before, f.start, f.end, f.left = ZMM(), qwords(1), ZMM(), ZMM()
	VPBROADCASTQ(constant(^uint64(0)), f.before)
	VPSUBQ(done, f.out, f.left)
	// The span of the first turn less 1 is (left-1)/rate rounded down: exact in double precision.
	n, rate := ZMM(), ZMM()
	VPSUBQ_BCST(constant(uint64(1)), f.left, n)
	VCVTUQQ2PD(n, n)
	VCVTUQQ2PD(l.rate, rate)
	VDIVPD(rate, n, n)
	VCVTTPD2UQQ(n, n)
	KMOVB(idle, k)
	VMOVDQA64(f.out, k, f.left)
	VMOVDQA64(f.span, k, n)
	VPADDQ(f.r.field(54, 3), f.start, k, f.start)
	VPSUBQ_BCST(constant(uint64(1)), f.turns, k, f.turns)
	VMOVDQA64(f.add, k, done)
	VPADDQ(done, f.tokens, f.tokens)
	VPADDQ(f.left, f.tokens, f.tokens)
	VPADDQ(n, f.start, f.end)
	pageSteps, good = l.follow(&f)
	VMOVDQA64(l.zero, over, pageSteps)
	VMOVDQA64(l.zero, over, good)
	return pageSteps, good
}

// follow adds a life's further turns.
func (l *liver512) follow(f *life512) (pageSteps, good VecVirtual) {
	good = l.delivered(f.left, f.start)
	for turn := range 3 {
		goes := K()
		VPCMPQ_BCST(U8(6), constant(uint64(turn)), f.turns, goes) // above
		VPCMPUQ(U8(1), l.steps, f.end, goes, goes)
		VPADDQ(f.gap, f.end, f.start)
		VPADDQ(l.delivered(f.out, f.start), good, goes, good)
		VPADDQ(f.add, f.tokens, goes, f.tokens)
		VPADDQ(f.span, f.start, goes, f.end)
	}
	priority := f.r.field(33, 7)
	VPMULUDQ_BCST(constant(uint64(101)), priority, priority)
	VPSRLQ(U8(7), priority, priority)
	VPADDQ_BCST(constant(uint64(50)), priority, priority)
	VPMULUDQ(priority, good, good)
	VPADDQ_BCST(constant(uint64(127)), f.tokens, f.tokens)
	VPSRLQ(U8(7), f.tokens, f.tokens)
	VPMINUQ(l.steps, f.end, f.end)
	VPSUBQ(f.before, f.end, f.end)
	pageSteps = ZMM()
	VPMULUDQ(f.end, f.tokens, pageSteps)
	return pageSteps, good
}
