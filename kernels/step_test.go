package kernels_test

import (
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/kv"
	"github.com/stretchr/testify/require"
)

// stepInput is an environment and everything else that Step is given.
type stepInput struct {
	Block  kernels.Block
	Ledger kernels.Ledger
	Limits kernels.Limits
	Pages  [8]uint16
	Queue  [kernels.QueueRoom]uint64
	Needs  [kernels.QueueRoom]uint32 // follows from Queue
	Ops    [kernels.Lanes]uint8
	Tables kernels.RequestTables
	Counts [8]uint16
	Base   uint64
	Count  uint64
	Extra  [8]uint32
	Wait   uint8
	Groups uint8
	Tight  uint8 // how near the capacity is: bits 0 to 2
	From   bool  // from StageServe on
}

// stepOutput is everything that Step may have changed.
type stepOutput struct {
	Left   kernels.Stage
	Block  kernels.Block
	Ledger kernels.Ledger
	Queue  []uint64
	Needs  []uint32
	Taken  uint32
	Joins  [8]uint8
	Reads  uint64
	Words  []uint64
	Extra  [8]uint32
	Gain   [8]uint32
	Last   [4]uint64
}

// repair makes whatever is given an environment that the simulator could have.
func (in *stepInput) repair() *kernels.Frame {
	l := &in.Ledger
	l.Step = 1 + l.Step&0xFFF
	f := &kernels.Frame{Steps: 4096, MaxWait: 1 + int32(in.Wait), Groups: 1 + int(in.Groups&3), Tables: &in.Tables}
	slots := 16 * f.Groups
	f.QueueCap, f.Slots = int32(slots/2), ^uint64(0)>>(64-slots)
	in.Block.Alive &= f.Slots
	in.lighten()
	repair(&in.Block, &in.Pages, int16(l.Step))
	for s := range in.Block.Tokens { // no more than memory holds
		in.Block.Tokens[s] = uint32(in.Pages[in.Block.Prefix[s]])*kv.PageTokens + in.Block.Tokens[s]%5000
	}
	repairTables(&in.Tables)
	l.QueueLen = int32(uint32(l.QueueLen) % uint32(f.QueueCap+1))
	step, some := uint64(l.Step), uint64(f.MaxWait)
	for i := range in.Queue { // the oldest first
		old := max(0, int64(step)-int64(some)-1+int64(i)/2)
		in.Queue[i] = in.Queue[i]<<16>>16 | min(step, uint64(old))<<48
	}
	for i, w := range in.Queue { // as Arrivals packs it
		in.Needs[i] = 4 * uint32(in.Tables.Pages[w>>12&63])
		if w>>10&3 != 0 {
			in.Needs[i] |= (1 + uint32(w>>8&3)) << kernels.DemandShift
		}
	}
	var s kernels.Shared
	kernels.Prefixes(&in.Block, 1, &in.Pages, &s)
	l.PrivateQP, l.RetainedPrivate = alone(&in.Block, &in.Pages)
	l.SharedQP, l.RetainedShared, l.PrefixMul, l.PrefixWeight = s.QP, s.Retained, s.Mul, s.Weight
	in.Extra = s.Extra
	f.Growth = 4 * (uint32(slices.Max(in.Block.Rate[:]))/kv.PageTokens + 1)
	most, begun := l.UsedQP()+f.Growth*uint32(bits.OnesCount64(in.Block.Active)), l.UsedQP()
	for m := in.Block.Active &^ in.Block.Swapped; m != 0; m &= m - 1 {
		tokens, rate := in.Block.Tokens[bits.TrailingZeros64(m)], in.Block.Rate[bits.TrailingZeros64(m)]
		begun += 4 * (kv.Pages(tokens+uint32(rate)) - kv.Pages(tokens))
	}
	in.Limits.TokenNorm = max(1, in.Limits.TokenNorm%(1<<28))
	in.Limits.BudgetQP = 1 + in.Limits.BudgetQP%(1<<24)
	switch in.Tight & 7 {
	case 0:
		in.Limits.CapacityQP = 1 << 28
	case 1:
		in.Limits.CapacityQP = most
	case 2:
		in.Limits.CapacityQP = max(most, 1) - 1
	case 3:
		in.Limits.CapacityQP = in.Limits.BudgetQP
	case 4:
		in.Limits.CapacityQP = begun
	default:
		in.Limits.CapacityQP = max(begun, 1) - 1
	}
	return f
}

// lighten keeps lanes below the pages that Step allows.
func (in *stepInput) lighten() {
	for p := range in.Pages {
		in.Pages[p] %= kernels.MostPages - 50
	}
}

// run steps a copy.
func (in stepInput) run() stepOutput { return in.runWith(nil) }

// runWith writes an observation meanwhile, if there is a trail.
func (in stepInput) runWith(trail *kernels.Trail) (out stepOutput) {
	f := in.repair()
	seat := kernels.Seat{Block: &in.Block, Ledger: &in.Ledger, Limits: &in.Limits, Pages: &in.Pages, Queue: &in.Queue, Needs: &in.Needs}
	d := kernels.ArrivalDraws{Base: in.Base, Count: in.Count, Counts: &in.Counts}
	a, s, from := kernels.Admission{Reads: 77}, kernels.Shared{Extra: in.Extra}, kernels.StageOperate
	if in.From {
		from = kernels.StageServe
	}
	if trail != nil {
		f.Den = trail.Frame.Den
		out.Left = kernels.StepTrailing(&seat, f, &in.Ops, &d, &a, &s, trail)
	} else {
		out.Left = kernels.Step(&seat, f, &in.Ops, &d, &a, &s, from)
	}
	out.Block, out.Ledger = in.Block, in.Ledger
	out.Queue, out.Needs = in.Queue[:in.Ledger.QueueLen], in.Needs[:in.Ledger.QueueLen]
	if out.Left == kernels.StageOperate {
		return out
	}
	out.Reads = a.Reads
	if out.Reads != 0 {
		out.Joins = a.Joins
	}
	switch out.Left {
	case kernels.StageEnter:
		out.Taken, out.Joins = a.Taken, a.Joins
		out.Words = a.Words[:a.Taken]
	default:
		out.Extra, out.Gain, out.Last = s.Extra, s.Gain, s.Last
	}
	return out
}

func randomStep(r *rand.Rand) *stepInput {
	in := &stepInput{Tables: *randomTables(r), Pages: randomPages(r), Base: r.Uint64(), Count: r.Uint64(), Wait: uint8(r.IntN(6)), Groups: uint8(r.IntN(4)),
		Tight: uint8(r.Uint32()) & uint8(r.Uint32()), From: r.IntN(4) == 0, Counts: [8]uint16{30000, 50000, 60000, 64000, 65000, 65500, 65535}}
	in.Block, in.Ledger = *randomBlock(r, &in.Pages), *randomLedger(r)
	if r.IntN(4) == 0 {
		in.Ledger.Step = r.Int32N(6) // so early that nobody can have waited long enough
	}
	in.lighten()
	if r.IntN(2) == 0 {
		in.Block.Alive &= 1<<r.IntN(40) - 1
	}
	for s := range in.Ops {
		in.Ops[s] = uint8(r.IntN(5)) & uint8(r.IntN(4))
	}
	for i := range in.Queue {
		in.Queue[i] = r.Uint64()
	}
	if r.IntN(3) != 0 {
		in.Ledger.QueueLen = int32(r.IntN(9))
	}
	if r.IntN(4) == 0 {
		in.Counts = [8]uint16{100, 200, 300, 400, 500, 600, 60000}
	}
	in.Limits = kernels.Limits{BudgetQP: numbers(r, 1<<24), TokenNorm: 1 + r.Uint32N(5000)}
	if r.IntN(2) == 0 {
		in.Limits.BudgetQP = 1<<24 - 1
	}
	return in
}

// A whole step is the kernels that it consists of, one after the other, and leaves to the caller what it says.
func TestStepLevels(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		r := random(20)
		var left [kernels.StageDone + 1]int
		reads, rejected, failed := 0, uint32(0), uint32(0)
		for k := range 3 * rounds {
			in := randomStep(r)
			got := in.run()
			generic(func() { require.Equal(t, in.run(), got, "round %d", k) })
			left[got.Left]++
			reads += bits.OnesCount64(got.Reads)
			rejected += got.Ledger.Counters.Rejected - in.Ledger.Counters.Rejected
			failed += got.Ledger.Counters.Failures - in.Ledger.Counters.Failures
			if got.Left != kernels.StageOperate && got.Left != kernels.StageEnter {
				private, retained := alone(&got.Block, &in.Pages)
				require.Equal(t, []uint32{private, retained}, []uint32{got.Ledger.PrivateQP, got.Ledger.RetainedPrivate}, "round %d: what the ledger says is what the lanes hold", k)
			}
		}
		for _, stage := range []kernels.Stage{kernels.StageOperate, kernels.StageEnter, kernels.StageArrive, kernels.StageDone} {
			require.Positive(t, left[stage], "stage %d", stage)
		}
		require.Positive(t, reads)
		require.Positive(t, rejected)
		require.Greater(t, failed, rejected, "some have waited too long")
	})
}

// A step from StageServe on is the rest of one from StageOperate on.
func TestStepFromServe(t *testing.T) {
	r := random(21)
	for range rounds {
		in := randomStep(r)
		in.From, in.Tight = false, 0
		whole := in.run()
		f := in.repair()
		var o kernels.Acted
		var g kernels.Advanced
		var s kernels.Shared
		b, l := &in.Block, &in.Ledger
		kernels.Act(b, &in.Ops, &in.Pages, &o)
		kernels.Advance(b, &in.Pages, int16(l.Step), 0, 1<<28, &g)
		kernels.Prefixes(b, 1, &in.Pages, &s)
		l.PrivateQP, l.RetainedPrivate = alone(b, &in.Pages)
		l.SharedQP = s.QP
		var a kernels.Admission
		seat := kernels.Seat{Block: b, Ledger: l, Limits: &in.Limits, Pages: &in.Pages, Queue: &in.Queue, Needs: &in.Needs}
		left := kernels.Step(&seat, f, nil, &kernels.ArrivalDraws{Base: in.Base, Count: in.Count, Counts: &in.Counts}, &a, &s, kernels.StageServe)
		require.Equal(t, whole.Left, left)
		require.Equal(t, whole.Block, *b)
		require.Equal(t, whole.Ledger.PrivateQP, l.PrivateQP)
		require.Equal(t, whole.Ledger.PendingQP, l.PendingQP)
		require.Equal(t, whole.Queue, in.Queue[:l.QueueLen])
	}
}

// trailing is an environment whose observation is still to be written.
type trailing struct {
	block  kernels.Block
	ledger kernels.Ledger
	limits kernels.Limits
	pages  [8]uint16
	queue  [kernels.QueueRoom]uint64
	shared kernels.Shared
}

func randomTrailing(r *rand.Rand) *trailing {
	x := &trailing{pages: randomPages(r), limits: kernels.Limits{BudgetQP: 1 + numbers(r, 1<<26), CapacityQP: 1 + numbers(r, 1<<28), TokenNorm: 1 + numbers(r, 1<<28)}}
	x.block, x.ledger = *randomBlock(r, &x.pages), *randomLedger(r)
	x.block.Clear(^uint64(0) << r.IntN(65)) // some groups are empty
	x.shared.Last[0] = plane(r)
	for i := 1; i < len(x.shared.Gain); i++ {
		x.shared.Gain[i] = numbers(r, 4*0xFFFF)
	}
	x.queue[0] = uint64(r.IntN(int(x.ledger.Step)+1)) << 48
	return x
}

func (x *trailing) seat() kernels.Seat {
	return kernels.Seat{Block: &x.block, Ledger: &x.ledger, Limits: &x.limits, Pages: &x.pages, Queue: &x.queue}
}

// A step with an observation to write does what a step does, and the observation is the one that would have been written at once.
func TestStepTrailing(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		r, g := random(22), newGuarded(t, 4*kernels.TrailRow)
		to, want := (*[kernels.TrailRow]float32)(g.floats()), make([]float32, kernels.TrailRow)
		var trail kernels.Trail
		trail.Flush() // of nothing
		var left [kernels.StageDone + 1]int
		for k := range rounds {
			in := randomStep(r)
			in.From, in.Groups = false, 3
			last, f := randomTrailing(r), in.repair()
			f.Den[15] = kernels.MostLatency
			for i := range 15 {
				f.Den[i] = 1 + r.Int32N(5000)
			}
			seat, before := last.seat(), *last
			generic(func() { kernels.Observe(want, &seat, f, &last.shared, false) })
			clear(to[:])
			trail.Leave(to, &seat, f, &last.shared, k%2 == 0)
			require.Zero(t, *to)
			alone := in.run()
			require.Equal(t, alone, in.runWith(&trail), "round %d", k)
			left[alone.Left]++
			require.True(t, trail.To == nil || alone.Left < kernels.StageArrive, "round %d", k)
			trail.Flush()
			kernels.Fence()
			require.Equal(t, bitsOf(want), bitsOf(to[:]), "round %d", k)
			require.Equal(t, before, *last, "only read")
			g.check(t)
		}
		for _, stage := range []kernels.Stage{kernels.StageOperate, kernels.StageEnter, kernels.StageArrive, kernels.StageDone} {
			require.Positive(t, left[stage], "stage %d", stage)
		}
	})
}

func FuzzStep(f *testing.F) {
	fuzzLevels(f, func(r *rand.Rand, in *stepInput) { *in = *randomStep(r) }, func(in stepInput) []any { return []any{in.run()} })
}

// alone is what the resident lanes hold alone, quarter pages, and the same by retention weight; rules 1.5, 1.6 and 9.6.
func alone(b *kernels.Block, pages *[8]uint16) (private, retained uint32) {
	for m := b.Alive &^ b.Swapped; m != 0; m &= m - 1 {
		s := bits.TrailingZeros64(m)
		cost, code := uint32(4), b.Type0>>s&1|b.Type1>>s&1<<1|b.Type2>>s&1<<2
		if b.Int8>>s&1 != 0 {
			cost = 2
		} else if b.Int4>>s&1 != 0 {
			cost = 1
		}
		qp := (kv.Pages(b.Tokens[s]) - uint32(pages[b.Prefix[s]])) * cost
		private += qp
		retained += qp * kv.BlockType(code).RetentionTwentieths()
	}
	return private, retained
}

// The whole row in one call is the numerators, divided, and the rows of the slots.
func TestObserveLevels(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		for slots := 16; slots <= 64; slots += 16 {
			r := random(uint64(40 + slots))
			g := newGuarded(t, 4*(16+slots*kernels.SlotFeatures))
			for k := range rounds / 5 {
				pages := randomPages(r)
				b, l, f, s := randomBlock(r, &pages), randomLedger(r), kernels.Frame{Steps: int32(r.IntN(4097)), Groups: slots / 16}, kernels.Shared{Last: [4]uint64{plane(r)}}
				cut(b, slots)
				for i := range f.Den {
					f.Den[i] = 1 + r.Int32N(5000)
				}
				f.Den[15] = kernels.MostLatency
				for i := 1; i < len(s.Gain); i++ {
					s.Gain[i] = numbers(r, 4*0xFFFF)
				}
				limits := kernels.Limits{BudgetQP: 1 + numbers(r, 1<<26), CapacityQP: 1 + numbers(r, 1<<28), TokenNorm: 1 + numbers(r, 1<<28)}
				var queue [kernels.QueueRoom]uint64
				queue[0] = uint64(r.IntN(int(l.Step)+1)) << 48
				seat := kernels.Seat{Block: b, Ledger: l, Limits: &limits, Pages: &pages, Queue: &queue}
				before := []any{*b, *l, f, s}
				kernels.Observe(g.floats(), &seat, &f, &s, k%2 == 1)
				kernels.Fence()
				require.Equal(t, before, []any{*b, *l, f, s}, "only read")
				want := make([]float32, len(g.floats()))
				generic(func() { kernels.Observe(want, &seat, &f, &s, false) })
				require.Equal(t, bitsOf(want), bitsOf(g.floats()), "slots=%d round=%d", slots, k)
				g.check(t)
			}
		}
	})
}

func TestObserveServingLevels(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		for slots := 16; slots <= 64; slots += 16 {
			r := random(uint64(50 + slots))
			g := newGuarded(t, 4*(16+slots*kernels.SlotFeatures))
			for k := range rounds / 5 {
				pages := randomPages(r)
				b, l, f := randomBlock(r, &pages), randomLedger(r), kernels.Frame{Steps: int32(r.IntN(4097)), Groups: slots / 16}
				cut(b, slots)
				for i := range f.Den {
					f.Den[i] = 1 + r.Int32N(5000)
				}
				l.PrefixMul = [8]uint8{0, 1, 2, 4, 0, 4, 1, 2}
				limits := kernels.Limits{BudgetQP: 1 + numbers(r, 1<<26), CapacityQP: 1 + numbers(r, 1<<28), TokenNorm: 1 + numbers(r, 1<<28)}
				seat := kernels.Seat{Block: b, Ledger: l, Limits: &limits, Pages: &pages}
				x := kernels.ServingGlobals{QueueLen: r.Int32N(33), Growth: r.Int32N(65) - 32, Oldest: r.Int32N(100), Good: int32(numbers(r, 1<<31-1)), Waits: int32(numbers(r, 1<<31-1)),
					Norm: 1 + numbers(r, 1<<31-2), Most: 1 + numbers(r, 1<<31-2), Moving: plane(r)}
				before := []any{*b, *l, f, x}
				kernels.ObserveServing(g.floats(), &seat, &f, &x, k%2 == 1)
				kernels.Fence()
				require.Equal(t, before, []any{*b, *l, f, x}, "only read")
				want := make([]float32, len(g.floats()))
				generic(func() { kernels.ObserveServing(want, &seat, &f, &x, false) })
				require.Equal(t, bitsOf(want), bitsOf(g.floats()), "slots=%d round=%d", slots, k)
				g.check(t)
			}
		}
	})
}

func TestObserveLength(t *testing.T) {
	require.PanicsWithValue(t, "kernels: Observe: 783 values: allowed 16, and 12 for each of 64 slots", func() {
		kernels.Observe(make([]float32, 783), &kernels.Seat{}, &kernels.Frame{Groups: 4}, &kernels.Shared{}, false)
	})
}

func randomLedger(r *rand.Rand) *kernels.Ledger {
	l := &kernels.Ledger{Tokens: uint64(numbers(r, 1<<31-1)) << r.IntN(30), Step: int32(20 + r.IntN(4000)), QueueLen: int32(r.IntN(129)), Growth: int32(r.IntN(257) - 128),
		PrivateQP: numbers(r, 1<<27), SharedQP: numbers(r, 1<<27), PendingQP: numbers(r, 1<<30), LatencyMilli: numbers(r, 5000)}
	l.Counters.Failures, l.Counters.PressureSteps = numbers(r, 40), numbers(r, 4096)
	return l
}

// Who alone holds a prefix, by the reference and by what the words say.
func TestHoldersLevels(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		r, some := random(50), 0
		for k := range rounds {
			pages := randomPages(r)
			n := 1 + r.IntN(4)*r.IntN(2)
			blocks := make([]kernels.Block, n)
			for w := range blocks {
				blocks[w] = *randomBlock(r, &pages)
				if r.IntN(2) == 0 {
					cut(&blocks[w], 5)
				}
			}
			var mul [8]uint8
			for p := 1; p < len(mul); p++ {
				mul[p] = 4 >> r.IntN(3)
			}
			got := kernels.Shared{Extra: [8]uint32{1, 2, 3}, Gain: [8]uint32{9, 9, 9, 9, 9, 9, 9, 9}, Last: [4]uint64{9, 9, 9, 9}, QP: 7}
			want := got
			want.Gain, want.Last = [8]uint32{}, [4]uint64{}
			for p := 1; p < len(mul); p++ {
				members, at := 0, 0
				for w := range blocks {
					if here := bits.OnesCount64(blocks[w].Members[p-1] &^ blocks[w].Swapped); here != 0 {
						members, at = members+here, w
					}
				}
				if members == 1 {
					want.Gain[p] = uint32(pages[p]) * uint32(mul[p])
					want.Last[at] |= blocks[at].Members[p-1] &^ blocks[at].Swapped
					some++
				}
			}
			kernels.Holders(&blocks[0], n, &pages, &mul, &got)
			require.Equal(t, want, got, "round %d", k)
		}
		require.Positive(t, some)
	})
}

// An empty block has no lanes; what they were stays in the columns.
func TestEmpty(t *testing.T) {
	r := random(25)
	pages := randomPages(r)
	b := randomBlock(r, &pages)
	was := *b
	b.Empty()
	was.Clear(^uint64(0))
	require.Equal(t, was, *b)
	require.NotZero(t, b.Tokens)
}
