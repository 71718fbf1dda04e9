package main

import (
	"fmt"
	"maps"
	"math/bits"
	"unsafe"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"

	"github.com/kvgym/kvgym/kernels"
)

// Steps: StepTrailing of one environment after the other, with what a caller does before and after it. The reward of an environment is found
// amid the next one's step, where what it depends on is long there.

// runner512 is what Steps keeps from one environment to the next.
type runner512 struct {
	*stepper512
	here, last, ahead   Mem // the eight pointers of a run: of the environment that steps, of the one before, and of the one after the next
	stream, asks        bool
	done, below         Mem // below: as marks leaves it
	base, count, counts Mem // what the arrivals are drawn from
}

// steps512 makes a kernel that asks for the memory of the next environments, or does not.
func steps512(name string, stream, asks bool) {
	TEXT(name, NOSPLIT, "func(run *Run, f *Frame, a *Admission, s *Shared, trail *Trail, envs int) (done int, stage uint8)")
	Pragma("noescape")
	Doc(name + " is Steps.")
	defer func() { given = nil }()
	r := newRunner512(stream, asks)
	r.start()
	Label("environment")
	r.load()
	r.begin()
	r.work()
	r.rest()
	Label("stepped")
	r.load()
	r.charge()
	r.marks()
	r.end()
	r.next()
	JMP(LabelRef("environment"))

	Label("untouched")
	r.reward()
	r.stop(kernels.StageOperate)
	r.trail.late()
}

func newRunner512(stream, asks bool) *runner512 {
	r := &runner512{stream: stream, asks: asks, here: AllocLocal(64), last: AllocLocal(64), ahead: AllocLocal(64), done: AllocLocal(8), below: AllocLocal(8),
		base: AllocLocal(8), count: AllocLocal(8), counts: AllocLocal(8)}
	given = seated512()
	for name, off := range seatOf512 {
		given[name] = loaded(r.here.Offset(off))
	}
	given["ops"] = loaded(r.here.Offset(offRnOps))
	r.stepper512 = newStepper512()
	r.seat = &r.here
	given["base"], given["count"], given["table"] = loaded(r.base), loaded(r.count), loaded(r.counts)
	r.trail = &trailer512{stream: stream, seat: func(off int) func() GPVirtual { return loaded(r.last.Offset(off)) }, to: loaded(r.last.Offset(offRnRow))}
	r.amid = r.reward
	if asks {
		r.fetch = r.ask
	}
	r.leave = func(stage kernels.Stage) {
		if stage == kernels.StageDone {
			JMP(LabelRef("stepped"))
		} else {
			r.stop(stage)
		}
	}
	return r
}

// loaded loads a quadword.
func loaded(m Mem) func() GPVirtual {
	return func() GPVirtual {
		r := GP64()
		MOVQ(m, r)
		return r
	}
}

func (r *runner512) run(off int) Mem { return Mem{Base: argument("run"), Disp: off} }

// more is what the environment has at a distance from its ledger that the run says.
func (r *runner512) more(off int) Mem {
	at := GP64()
	MOVQ(r.run(off), at)
	return Mem{Base: r.ledger, Index: at, Scale: 1}
}

// start finds the first environment, and the one whose observation is left.
func (r *runner512) start() {
	x, run, trail := GP64(), argument("run"), argument("trail")
	copied := func(from, to Mem) {
		MOVQ(from, x)
		MOVQ(x, to)
	}
	for off := 0; off < 64; off += 8 {
		copied(Mem{Base: run, Disp: off}, r.here.Offset(off))
		if !r.asks {
			continue
		}
		ADDQ(Mem{Base: run, Disp: offRnStride + off}, x)
		ADDQ(Mem{Base: run, Disp: offRnStride + off}, x)
		MOVQ(x, r.ahead.Offset(off))
	}
	for off := 0; off < offStNeeds; off += 8 {
		copied(Mem{Base: trail, Disp: offTrSeat + off}, r.last.Offset(off))
	}
	copied(Mem{Base: trail, Disp: offTrTo}, r.last.Offset(offRnRow))
	MOVQ(I32(0), r.done)
}

// begin leaves environments to the caller that do not step as others do, counts the step, and finds what its arrivals are drawn from.
func (r *runner512) begin() {
	CMPL(r.more(offRnEnded), U8(0))
	JNE(LabelRef("untouched"))
	step, waiting := GP64(), GP32()
	MOVL(r.in(offLgStep), step.As32())
	CMPL(step.As32(), r.run(offRnLast))
	JGE(LabelRef("untouched"))
	r.mayStall()
	JMP(LabelRef("untouched"))
	Label("operate")
	INCL(step.As32())
	MOVL(step.As32(), r.in(offLgStep))
	MOVL(r.in(offLgQueueLen), waiting)
	NEGL(waiting)
	MOVL(waiting, r.in(offLgGrowth))

	counter, a, level, bursty := step, GP64(), GP64(), GP64()
	MOVQ(U64(golden<<24&(1<<64-1)), a)
	IMULQ(a, counter)
	ADDQ(r.more(offRnKey), counter)
	for _, draw := range []struct {
		off int
		to  Mem
	}{{offRnBase, r.base}, {offRnCount, r.count}} {
		MOVQ(r.run(draw.off), a)
		ADDQ(counter, a)
		MOVQ(a, draw.to)
	}
	ADDQ(r.run(offRnBurst), counter)
	mix(counter)
	MOVWLZX(counter.As16(), counter.As32())
	SUBQ(r.run(offRnChance), counter)
	SHRQ(U8(63), counter)
	MOVBLZX(r.more(offRnLevel), level.As32())
	MOVL(level.As32(), bursty.As32())
	SHRL(U8(1), bursty.As32())
	ANDL(level.As32(), bursty.As32())
	ANDL(counter.As32(), bursty.As32())
	ADDL(bursty.As32(), level.As32())
	ANDL(U8(7), level.As32())
	SHLL(U8(4), level.As32())
	ADDQ(r.run(offRnCounts), level)
	MOVQ(level, r.counts)
}

// ask asks for a quarter of what environments will need that step later: for the state of the one after the next, and for the row of the
// next one, if it is to go through the cache.
func (r *runner512) ask(g int) {
	from := func(off int) GPVirtual {
		p := GP64()
		MOVQ(r.ahead.Offset(off), p)
		return p
	}
	lines := func(p Register, at, n int) {
		for k := range n {
			PREFETCHT0(Mem{Base: p, Disp: at + 64*k})
		}
	}
	const quarter = int(unsafe.Sizeof(block)) / 4
	lines(from(offStBlock), g*quarter, quarter/64)
	switch g {
	case 0:
		lines(from(offStLimits), 0, 1)
		lines(from(offRnOps), 0, 1)
	case 1:
		lines(from(offStLedger), 0, 2)
	case 2:
		lines(from(offStLedger), int(unsafe.Sizeof(ledger))-1, 1)
		lines(from(offStQueue), 0, 1)
	case 3:
		lines(from(offStNeeds), 0, 1)
	}
	if !r.stream {
		row := GP64()
		MOVQ(r.here.Offset(offRnRow), row)
		ADDQ(r.run(offRnStride+offRnRow), row)
		lines(row, 64*12*g, 12)
	}
}

// charge charges accesses to swapped system entries; rule 6.9.
func (r *runner512) charge() {
	a, left := argument("a"), GP64()
	MOVQ(Mem{Base: a, Disp: offAdReads}, left)
	TESTQ(left, left)
	JZ(LabelRef("charged"))
	Label("charge")
	slot, prefix, many, milli, shift, x := GP64(), GP64(), GP32(), GP32(), GP32(), GP32()
	TZCNTQ(left, slot)
	MOVBLZX(Mem{Base: r.b, Index: slot, Scale: 1, Disp: offPrefix}, prefix.As32())
	XORL(many, many)
	TESTL(prefix.As32(), prefix.As32())
	MOVBLZX(Mem{Base: a, Index: prefix, Scale: 1, Disp: offAdJoins}, x)
	CMOVLNE(x, many)
	MOVL(U32(2), shift)
	for _, off := range []int{offInt8, offInt4, offInt4} {
		BTQ(slot, planeOf(r.b, off))
		SBBL(U8(0), shift)
	}
	MOVL(Mem{Base: r.b, Index: slot, Scale: 4, Disp: offTokens}, milli)
	ADDL(U8(127), milli)
	SHRL(U8(7), milli)
	MOVWLZX(Mem{Base: argument("pages"), Index: prefix, Scale: 2}, x)
	SUBL(x, milli)
	SHLXL(shift, milli, milli)
	ADDL(milli, milli)
	least(milli, 200)
	ADDL(U8(100), milli)
	IMULL(many, milli)
	ADDL(milli, r.in(offLgLatencyMilli))
	ADDL(many, r.in(offLgSwapReads))
	BLSRQ(left, left)
	JNZ(LabelRef("charge"))
	Label("charged")
}

// least takes the lesser of n, of 32 or 64 bits, and a constant.
func least(n GPVirtual, most uint32) {
	x := GP64()
	MOVL(U32(most), x.As32())
	if n.Size() == 4 {
		CMPL(n, x.As32())
		CMOVLHI(x.As32(), n)
	} else {
		CMPQ(n, x)
		CMOVQHI(x, n)
	}
}

// marks counts where memory stands, for rules 9.1 and 9.3: how many of 100, 95 and 85 percent of the budget it is below is left for score.
func (r *runner512) marks() {
	used, budget := GP64(), GP64()
	r.usedQP(used.As32().(GPVirtual))
	MOVL(argument("budget").As32(), budget.As32())
	count, hundred, mark, score := GP64(), GP64(), GP64(), GP64()
	IMUL3Q(I8(100), used, hundred)
	XORL(count.As32(), count.As32())
	below := func(percent int8, count GPVirtual) {
		IMUL3Q(I8(percent), budget, mark)
		CMPQ(hundred, mark)
		ADCL(U8(0), count.As32())
	}
	below(100, count)
	below(95, count)
	CMPQ(mark, hundred)
	ADCL(U8(0), r.in(offLgPressureSteps))
	MOVL(count.As32(), score.As32())
	below(80, count)
	below(85, score)
	MOVQ(score, r.below)
	tenths := picked(count, -5, 2, 5, 10)
	ADDL(tenths.As32(), r.in(offLgTenths))
}

// picked is one of some constants.
func picked(which GPVirtual, of ...int64) GPVirtual {
	table, x := make([]uint64, len(of)), GP64()
	for i := range of {
		table[i] = uint64(of[i])
	}
	LEAQ(constant(table...), x)
	MOVQ(Mem{Base: x, Index: which, Scale: 8}, x)
	return x
}

// end says how the queue has grown and whether the episode has ended.
func (r *runner512) end() {
	grown, step, ended, i := GP32(), GP32(), GP32(), GP64()
	MOVL(r.in(offLgQueueLen), grown)
	ADDL(grown, r.in(offLgGrowth))
	XORL(ended, ended)
	MOVL(r.in(offLgStep), step)
	CMPL(step, Mem{Base: argument("f"), Disp: offFrSteps})
	SETGE(ended.As8())
	MOVL(ended, r.more(offRnEnded))
	MOVQ(r.done, i)
	for _, flag := range [][2]int{{offRnTerminal, offRnTerminated}, {offRnTruncate, offRnTruncated}} {
		is, to := GP32(), GP64()
		MOVBLZX(r.run(flag[0]), is)
		ANDL(ended, is)
		MOVQ(r.run(flag[1]), to)
		MOVB(is.As8(), Mem{Base: to, Index: i, Scale: 1})
	}
}

// next leaves the observation, and goes on to the next environment if there is one.
func (r *runner512) next() {
	gain, last, s, t := YMM(), GP64(), argument("s"), argument("trail")
	VMOVDQU(Mem{Base: s, Disp: offShGain}, gain)
	VMOVDQU(gain, Mem{Base: t, Disp: offTrShared + offShGain})
	MOVQ(Mem{Base: s, Disp: offShLast}, last)
	MOVQ(last, Mem{Base: t, Disp: offTrShared + offShLast})
	for off := 0; off < 64; off += 32 { // halves: what general registers load of a store's upper one waits until it is in memory
		y, stride := YMM(), YMM()
		VMOVDQU(r.here.Offset(off), y)
		VMOVDQU(y, r.last.Offset(off))
		VMOVDQU(r.run(offRnStride+off), stride)
		VPADDQ(stride, y, y)
		VMOVDQU(y, r.here.Offset(off))
		if !r.asks {
			continue
		}
		VPADDQ(r.ahead.Offset(off), stride, stride)
		VMOVDQU(stride, r.ahead.Offset(off))
	}
	i := GP64()
	MOVQ(r.done, i)
	INCQ(i)
	MOVQ(i, r.done)
	CMPQ(i, argument("envs"))
	JGE(LabelRef("untouched"))
}

func (r *runner512) stop(stage kernels.Stage) {
	i := GP64()
	MOVQ(r.done, i)
	Store(i, Return("done"))
	leaveStep512(stage)
}

// rewards counts the copies of reward.
var rewards int

// reward finds the reward of the environment before, if it is one of this run.
func (r *runner512) reward() {
	rewards++
	none, i := fmt.Sprintf("rewarded%d", rewards), GP64()
	MOVQ(r.done, i)
	DECQ(i)
	JS(LabelRef(none))
	r.ofLast(func() {
		score, gain, x, to := r.score(), GP64(), XMM(), GP64()
		MOVQ(score, gain)
		SUBQ(r.in(offLgScore), gain)
		MOVQ(score, r.in(offLgScore))
		VXORPS(x, x, x)
		VCVTSI2SSQ(local(gain), x, x)
		VMULSS(constant(float32(1.0/scoreOne)), x, x)
		MOVQ(r.run(offRnReward), to)
		VMOVSS(x, Mem{Base: to, Index: i, Scale: 4})
	})
	Label(none)
}

// ofLast lets what follows find the environment before where it would find the present one.
func (r *runner512) ofLast(do func()) {
	own, ledger := given, r.ledger
	given = maps.Clone(own)
	for name, off := range seatOf512 {
		given[name] = loaded(r.last.Offset(off))
	}
	r.ledger = argument("l")
	do()
	given, r.ledger = own, ledger
}

// Units of terms and scores; rules 9.2 and 9.3.
const (
	termOne  = 1 << 24
	scoreOne = 1 << 20
)

// score is the score as if the episode ended now; rules 9.2 and 9.3.
func (r *runner512) score() GPVirtual {
	used, count := GP64(), GP64()
	r.usedQP(used.As32().(GPVirtual))
	sum, weights := GP64(), GP64()
	MOVQ(r.run(offRnWeights), weights)
	weighed := func(x GPVirtual, term int) GPVirtual {
		IMULQ(Mem{Base: weights, Disp: 8 * term}, x)
		return x
	}
	number := func(off int) GPVirtual {
		x := GP64()
		MOVL(r.in(off), x.As32())
		return x
	}

	MOVQ(r.below, count)
	MOVQ(weighed(picked(count, -termOne*2/10, 0, termOne/10, termOne*2/10), 3), sum)

	failures := number(offLgFailures)
	least(failures, 7)
	var penalties []int64
	for f := range int64(8) {
		penalties = append(penalties, -(min(15*f+10*max(0, f-2), 100) * termOne / 100))
	}
	ADDQ(weighed(picked(failures, penalties...), 0), sum)

	norm, tokens := argument("limits"), GP64()
	MOVL(Mem{Base: norm, Disp: offLmNorm}, norm.As32())
	MOVQ(r.in(offLgTokens), tokens)
	CMPQ(tokens, norm)
	CMOVQHI(norm, tokens)
	ADDQ(weighed(share(tokens, norm), 1), sum)

	tenths, steps, floor := GP64(), GP64(), GP64()
	MOVLQSX(r.in(offLgTenths), tenths)
	SHLQ(U8(26), tenths)
	MOVL(Mem{Base: argument("f"), Disp: offFrSteps}, steps.As32())
	IMUL3Q(I8(100), steps, steps)
	MOVQ(tenths, RAX)
	CQO()
	IDIVQ(steps)
	SARQ(U8(63), RDX) // the remainder's sign
	ADDQ(RAX, RDX)
	MOVQ(RDX, floor)
	ADDQ(weighed(floor, 2), sum)

	kept, by := number(offLgRetainedPrivate), GP64()
	ADDL(r.in(offLgRetainedShared), kept.As32())
	MOVL(U32(1), by.As32())
	CMPL(used.As32(), by.As32())
	CMOVLHI(used.As32(), by.As32())
	IMUL3Q(I8(20), by, by)
	ADDQ(weighed(share(kept, by), 4), sum)

	latency, risk := number(offLgLatencyMilli), number(offLgRisk)
	ADDQ(latency, latency)
	least(latency, 3000)
	SUBQ(weighed(over(latency, 24, 10000), 5), sum)
	SUBQ(weighed(over(risk, 24, 100), 6), sum)

	const divisor, up = 100 * termOne / scoreOne, 1 << 44 // rounded down: what is negative becomes positive
	x := GP64()
	MOVQ(U64(divisor*up), x)
	ADDQ(x, sum)
	score := over(sum, 0, divisor)
	MOVQ(U64(up), x)
	SUBQ(x, score)
	return score
}

// share is x over y in units of 2^-24, rounded down.
func share(x, y GPVirtual) GPVirtual {
	q := GP64()
	SHLQ(U8(24), x)
	MOVQ(x, RAX)
	XORL(EDX, EDX)
	DIVQ(y)
	MOVQ(RAX, q)
	return q
}

// over is x, shifted, over a constant, rounded down, if x is below 2^57 then: a product with 2^(64+n) over the constant, rounded up, whose
// error is below 1 for all of them.
func over(x GPVirtual, shift uint8, by uint64) GPVirtual {
	n := uint8(bits.Len64(by) - 1)
	times, _ := bits.Div64(1<<n, 0, by)
	c, low, q := GP64(), GP64(), GP64()
	MOVQ(U64(times+1), c)
	MOVQ(x, RDX)
	if shift != 0 {
		SHLQ(U8(shift), RDX)
	}
	MULXQ(c, low, q)
	SHRQ(U8(n), q)
	return q
}
