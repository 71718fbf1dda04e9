package kernels_test

import (
	"math"
	"math/bits"
	"math/rand/v2"
	"testing"

	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/kv"
	"github.com/stretchr/testify/require"
)

// randomTickets are tickets that wait about a step.
func randomTickets(r *rand.Rand, step int16) (t kernels.Tickets) {
	for i := range kernels.TicketLanes {
		t.Private[i], t.Ref[i], t.Remaining[i] = 1+numbers(r, 1<<30-1), r.Uint32(), uint16(r.Uint32())
		t.Born[i], t.Since[i] = int16(r.Uint32()), []int16{int16(r.Uint32()), step, step - 1, step + 1, step - 5, step - 6}[r.IntN(6)]
		t.Priority[i], t.Prefix[i], t.Type[i], t.Codes[i], t.Flags[i] = uint8(r.Uint32()), uint8(r.IntN(8)), uint8(r.IntN(5)), uint8(r.Uint32()), uint8(r.IntN(8))
	}
	return t
}

func TestEnqueueLevels(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		r := random(27)
		for k := range rounds {
			tables := randomTables(r)
			got := randomTickets(r, 0)
			want := got
			var words [8]uint64
			for i := range words {
				words[i] = r.Uint64()
			}
			first, step := r.IntN(25), int16(r.Uint32())
			kernels.Enqueue(&got, first, &words, tables, step)
			generic(func() { kernels.Enqueue(&want, first, &words, tables, step) })
			require.Equal(t, want, got, "round %d", k)
		}
	})
	require.Panics(t, func() {
		kernels.Enqueue(new(kernels.Tickets), 25, new([8]uint64), new(kernels.RequestTables), 0)
	})
}

func TestWaitLevels(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		r := random(28)
		fits := uint32(0)
		for k := range rounds {
			step, pages := int16(r.IntN(4096)), randomPages(r)
			tickets, n := randomTickets(r, step), r.IntN(33)
			mul, _ := randomWorth(r)
			room := numbers(r, 1<<26)
			if i := r.IntN(32); r.IntN(2) == 0 { // as much as one needs, or a little less
				room = (tickets.Private[i]+127)/128*4 - r.Uint32N(2)
			}
			var got, want kernels.Waiting
			kernels.Wait(&tickets, n, step, step-5, room, &pages, mul, &got)
			generic(func() { kernels.Wait(&tickets, n, step, step-5, room, &pages, mul, &want) })
			require.Equal(t, want, got, "round %d", k)
			fits |= want.Fits
		}
		require.NotZero(t, fits)
	})
}

func TestChooseLevels(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		r := random(38)
		chosen := 0
		for k := range rounds {
			pages := [8]uint16{}
			for p := 1; p < 8; p++ {
				pages[p] = uint16(r.IntN(200))
			}
			tickets, set, slots, room := randomTickets(r, 5), uint32(plane(r)), r.IntN(33), numbers(r, 1<<16)
			if k%2 == 0 { // several fit, and others between them do not
				for i := range tickets.Private {
					tickets.Private[i] = 1 + r.Uint32N(20_000)
				}
			}
			mul, _ := randomWorth(r)
			got := kernels.Choose(&tickets, set, slots, room, &pages, mul)
			generic(func() { require.Equal(t, kernels.Choose(&tickets, set, slots, room, &pages, mul), got, "round %d", k) })
			chosen += bits.OnesCount32(got)
		}
		require.Greater(t, chosen, rounds)
	})
}

func TestArriveTicketsLevels(t *testing.T) {
	type state struct {
		ledger  kernels.Ledger
		tickets kernels.Tickets
		n       int
		ok      bool
	}
	onEachLevel(t, func(t *testing.T) {
		r := random(41)
		var came, refused int
		for k := range rounds {
			tables := randomTables(r)
			before := state{ledger: kernels.Ledger{Step: int32(r.IntN(4096)), QueueLen: int32(r.IntN(33)), PendingQP: r.Uint32()}, tickets: randomTickets(r, 0)}
			if k%4 != 0 {
				before.ledger.QueueLen %= 25
			}
			frame := kernels.Frame{Groups: 1 + r.IntN(4), QueueCap: int32([]int{8, 16, 32, 32, 40}[r.IntN(5)]), Tables: tables}
			var counts [8]uint16
			for i := range counts {
				counts[i] = uint16(r.Uint32())
				if r.IntN(2) == 0 {
					counts[i] = 0xFFFF
				}
			}
			d := kernels.ArrivalDraws{Base: r.Uint64(), Count: r.Uint64(), Counts: &counts}
			play := func() state {
				x := before
				x.n, x.ok = kernels.ArriveTickets(&x.ledger, &frame, &x.tickets, &d)
				if !x.ok {
					x = before
				}
				return x
			}
			got, want := play(), state{}
			generic(func() { want = play() })
			require.Equal(t, want, got, "round %d", k)
			if got.ok {
				came += got.n
			} else {
				refused++
			}
		}
		require.Greater(t, came, 20)
		require.Greater(t, refused, 20)
	})
}

func TestServeTicketsLevels(t *testing.T) {
	type state struct {
		block   kernels.Block
		lane    kernels.Lane
		ledger  kernels.Ledger
		tickets kernels.Tickets
		served  kernels.Served
	}
	onEachLevel(t, func(t *testing.T) {
		r := random(40)
		all := clocks(r)
		var none, some, many, failed int
		for k := range 2 * rounds {
			step, pages := int32(r.IntN(4096)), randomPages(r)
			for p := range pages {
				pages[p] %= 1 << r.IntN(13)
			}
			pages[0] = 0
			before := state{block: *randomBlock(r, &pages), tickets: randomTickets(r, int16(step))}
			if k%4 != 0 {
				cut(&before.block, 1+r.IntN(63))
			}
			members(&before.block)
			for i := range before.tickets.Private {
				before.tickets.Private[i] = 1 + before.tickets.Private[i]%(1<<r.IntN(18))
			}
			for s := range kernels.Lanes {
				before.lane.Ref[s], before.lane.Born[s], before.lane.Admit[s], before.lane.Work[s] = r.Uint32(), int16(r.Uint32()), int16(r.Uint32()), r.Uint32()
			}
			before.lane.First, before.lane.Late = before.block.Alive&plane(r), before.block.Alive&plane(r)
			l := &before.ledger
			l.Step, l.QueueLen = step, int32(r.IntN(kernels.TicketLanes+1))
			l.PrivateQP, l.SharedQP, l.RetainedPrivate, l.RetainedShared = r.Uint32N(1<<14), r.Uint32N(1<<14), r.Uint32(), r.Uint32()
			l.Counters.Failures, l.Counters.Admitted = r.Uint32(), r.Uint32()
			for p := 1; p < len(pages); p++ {
				if l.PrefixMul[p] = uint8(4 >> r.IntN(4)); l.PrefixMul[p] != 0 {
					l.PrefixWeight[p] = 20
				}
			}
			limits := kernels.Limits{BudgetQP: l.UsedQP() + r.Uint32N(1<<r.IntN(20))}
			if k%16 == 0 {
				limits.BudgetQP = r.Uint32N(1 << 15)
			}
			frame := kernels.Frame{MaxWait: []int32{6, 6, 20, 5000}[r.IntN(4)], Slots: ^uint64(0) >> (16 * r.IntN(4))}
			clock := all[k%len(all)]
			play := func() state {
				x := before
				p := kernels.Seat{Block: &x.block, Ledger: &x.ledger, Limits: &limits, Pages: &pages}
				kernels.ServeTickets(&p, &frame, &x.lane, &x.tickets, clock, &x.served)
				return x
			}
			got, want := play(), state{}
			generic(func() { want = play() })
			require.Equal(t, want, got, "round %d", k)
			switch n := got.ledger.Counters.Admitted - l.Counters.Admitted; {
			case n == 0:
				none++
			case n <= 8:
				some++
			default:
				many++
			}
			failed += int(got.ledger.Counters.Failures - l.Counters.Failures)
		}
		for _, n := range []int{none, some, many, failed} {
			require.Greater(t, n, 20)
		}
	})
}

func TestSettleLevels(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		r := random(35)
		type place struct {
			Block kernels.Block
			Lane  kernels.Lane
		}
		var seen [2]uint64
		for k := range rounds {
			step, pages := int16(r.IntN(4096)), randomPages(r)
			tickets := randomTickets(r, step)
			got := place{Block: *randomBlock(r, &pages)}
			for s := range kernels.Lanes {
				got.Lane.Ref[s], got.Lane.Born[s], got.Lane.Admit[s] = r.Uint32(), int16(r.Uint32()), int16(r.Uint32())
			}
			if k%8 == 0 {
				got.Block = kernels.Block{} // room for all
			}
			free, slots := ^got.Block.Alive, uint64(0)
			set := uint32(plane(r))
			for bits.OnesCount32(set) > bits.OnesCount64(free) {
				set &= set - 1
			}
			for range bits.OnesCount32(set) { // now the lowest ones, now others
				bit := free & -free
				if r.IntN(4) == 0 {
					bit = 1 << (63 - bits.LeadingZeros64(free))
				}
				slots, free = slots|bit, free&^bit
			}
			want := got
			kernels.Settle(&got.Block, &got.Lane, &tickets, set, slots, &pages, step)
			generic(func() { kernels.Settle(&want.Block, &want.Lane, &tickets, set, slots, &pages, step) })
			require.Equal(t, want, got, "round %d", k)
			seen[0], seen[1] = seen[0]|got.Lane.First, seen[1]|got.Lane.Late
		}
		require.NotZero(t, seen[0])
		require.NotZero(t, seen[1])
	})
}

func TestLeaveLevels(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		r := random(29)
		for k := range rounds {
			got := randomTickets(r, 9)
			want, stay := got, uint32(plane(r))
			oldest, qp := kernels.Leave(&got, stay)
			generic(func() {
				wantOldest, wantQP := kernels.Leave(&want, stay)
				require.Equal(t, []any{wantOldest, wantQP}, []any{oldest, qp}, "round %d", k)
			})
			require.Equal(t, want, got, "round %d", k)
			if stay == 0 {
				require.EqualValues(t, math.MaxInt16, oldest)
			}
		}
	})
}

func TestLivesLevels(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		r := random(30)
		for k := range rounds {
			l := &kernels.Lives{Tables: randomTables(r), Rate: 1 + numbers(r, 0xFFFF-1), Steps: 1 + r.Uint32N(4096)}
			if r.IntN(2) == 0 {
				l.Steps = 1 + r.Uint32N(40)
			}
			for i := range l.Spans {
				l.Spans[i] = 1 + uint16(numbers(r, 0xFFFE))
			}
			words := make([]uint64, r.IntN(40))
			for i := range words {
				words[i] = r.Uint64()>>16 | uint64(r.Uint32N(l.Steps))<<48
			}
			held, good := l.Add(words)
			var draws [8]uint64
			for i := range draws {
				draws[i] = r.Uint64()
			}
			n := 1 + r.IntN(12)
			initialHeld, initialGood := l.AddInitial(&draws, n)
			generic(func() {
				wantHeld, wantGood := l.Add(words)
				require.Equal(t, []uint64{wantHeld, wantGood}, []uint64{held, good}, "round %d", k)
				wantHeld, wantGood = l.AddInitial(&draws, n)
				require.Equal(t, []uint64{wantHeld, wantGood}, []uint64{initialHeld, initialGood}, "round %d", k)
			})
		}
	})
}

func FuzzLives(f *testing.F) {
	type input struct {
		Tables kernels.RequestTables
		Spans  [64]uint16
		Rate   uint16
		Steps  uint16
		Words  [20]uint64
		N      uint8
	}
	fuzzLevels(f, func(r *rand.Rand, in *input) {
		in.Tables, in.Rate, in.Steps, in.N = *randomTables(r), uint16(1+r.IntN(60)), uint16(r.IntN(60)), uint8(r.IntN(21))
		for i := range in.Spans {
			in.Spans[i] = uint16(1 + r.IntN(12))
		}
		for i := range in.Words {
			in.Words[i] = r.Uint64()
		}
	}, func(in input) []any {
		repairTables(&in.Tables)
		l := &kernels.Lives{Tables: &in.Tables, Spans: in.Spans, Rate: max(1, uint32(in.Rate)), Steps: 1 + uint32(in.Steps)%4096}
		for i := range l.Spans {
			l.Spans[i] = max(1, l.Spans[i])
		}
		draws := [8]uint64(in.Words[:8])
		for i, w := range in.Words {
			in.Words[i] = w&(1<<48-1) | w>>48%uint64(l.Steps)<<48
		}
		held, good := l.Add(in.Words[:in.N%21])
		initialHeld, initialGood := l.AddInitial(&draws, 1+int(in.N%8))
		return []any{held, good, initialHeld, initialGood}
	})
}

func FuzzTickets(f *testing.F) {
	type input struct {
		Tickets   kernels.Tickets
		Tables    kernels.RequestTables
		Words     [8]uint64
		Pages     [8]uint16
		Mul       [8]uint8
		First, N  uint8
		Step, Old int16
		Room      uint32
		Stay      uint32
	}
	fuzzLevels(f, func(r *rand.Rand, in *input) {
		in.Step, in.Pages, in.Tables = int16(r.IntN(4096)), randomPages(r), *randomTables(r)
		in.Tickets, in.Old, in.Room = randomTickets(r, in.Step), in.Step-5, numbers(r, 1<<20)
		in.First, in.N, in.Stay = uint8(r.IntN(25)), uint8(r.IntN(33)), uint32(plane(r))
		for i := range in.Words {
			in.Words[i] = r.Uint64()
		}
	}, func(in input) []any {
		repairTables(&in.Tables)
		for i := range kernels.TicketLanes {
			in.Tickets.Private[i] %= 1<<30 + 1
			in.Tickets.Prefix[i] &= 7
			in.Tickets.Type[i] %= kv.NumBlockTypes
		}
		kernels.Enqueue(&in.Tickets, int(in.First%25), &in.Words, &in.Tables, in.Step)
		var w kernels.Waiting
		kernels.Wait(&in.Tickets, int(in.N%33), in.Step, in.Old, in.Room, &in.Pages, &in.Mul, &w)
		queued := in.Tickets
		chosen := kernels.Choose(&in.Tickets, in.Stay, int(in.N%33), in.Room, &in.Pages, &in.Mul)
		var b kernels.Block
		var lane kernels.Lane
		slots := (uint64(1)<<bits.OnesCount32(chosen) - 1) << (in.First & 31)
		kernels.Settle(&b, &lane, &in.Tickets, chosen, slots, &in.Pages, in.Step)
		settled, there := b, lane
		gone, retained, empty := kernels.Remove(&b, &lane, slots&uint64(in.Room), &in.Pages)
		oldest, qp := kernels.Leave(&in.Tickets, in.Stay)
		return []any{queued, w, chosen, settled, there, b, lane, gone, retained, empty, oldest, qp, in.Tickets}
	})
}
