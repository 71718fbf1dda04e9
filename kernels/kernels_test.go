package kernels_test

import (
	"encoding/binary"
	"math"
	"math/bits"
	"math/rand/v2"
	"testing"

	"github.com/kvgym/kvgym/internal/rng"
	"github.com/kvgym/kvgym/kernels"
	"github.com/stretchr/testify/require"
)

func TestOpPlanesLevels(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		r := random(1)
		for range rounds {
			var ops [kernels.Lanes]uint8
			for s := range ops {
				ops[s] = uint8(r.IntN(4))
				if r.IntN(40) == 0 {
					ops[s] = uint8(r.Uint32())
				}
			}
			lo, hi, over := kernels.OpPlanes(&ops)
			generic(func() {
				a, b, c := kernels.OpPlanes(&ops)
				require.Equal(t, [3]uint64{a, b, c}, [3]uint64{lo, hi, over})
			})
		}
	})
}

func TestActLevels(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		r := random(18)
		for k := range rounds {
			pages := randomPages(r)
			b := randomBlock(r, &pages)
			if r.IntN(2) == 0 { // sums of large numbers would wrap, on all levels alike, but that is not the point
				for s := range b.Tokens {
					b.Tokens[s] = uint32(pages[b.Prefix[s]])*128 + r.Uint32N(5000)
				}
			}
			ref := *b
			var ops [kernels.Lanes]uint8
			for s := range ops {
				if r.IntN(3) == 0 {
					ops[s] = uint8(r.IntN(4))
				}
				if r.IntN(90) == 0 {
					ops[s] = uint8(r.Uint32())
				}
			}
			var got, want kernels.Acted
			kernels.Act(b, &ops, &pages, &got)
			generic(func() { kernels.Act(&ref, &ops, &pages, &want) })
			require.Equal(t, want, got, "round %d", k)
			require.Equal(t, ref, *b, "round %d", k)
		}
	})
}

func TestHeatLevels(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		r := random(2)
		for range rounds {
			var h, want [kernels.Lanes]uint8
			for s := range h {
				h[s] = uint8(r.Uint32())
			}
			want = h
			warm := plane(r)
			kernels.Heat(&h, warm)
			generic(func() { kernels.Heat(&want, warm) })
			require.Equal(t, want, h)
		}
	})
}

func TestAdvanceLevels(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		r := random(3)
		stalls := 0
		for k := range rounds {
			pages := randomPages(r)
			b := randomBlock(r, &pages)
			want := *b
			used, limit := numbers(r, 1<<28), numbers(r, 1<<28)
			if r.IntN(2) == 0 {
				limit = 1 << 28
			} else if r.IntN(2) == 0 {
				limit = used + r.Uint32N(60)
			}
			step := int16(20 + r.IntN(4000))
			var got, ref kernels.Advanced
			kernels.Advance(b, &pages, step, used, limit, &got)
			generic(func() { kernels.Advance(&want, &pages, step, used, limit, &ref) })
			require.Equal(t, ref, got, "round %d", k)
			require.Equal(t, want, *b, "round %d", k)
			if used+ref.QP == limit {
				stalls++
			}
		}
		require.Positive(t, stalls, "some rounds fill the memory to the brim")
	})
}

func TestDueLevels(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		r := random(24)
		for range rounds {
			var steps [kernels.Lanes]int16
			at, set, want := int16(r.Uint32()), plane(r), uint64(0)
			for s := range steps {
				steps[s] = []int16{int16(r.Uint32()), at, at + 1, at - 1, math.MaxInt16, math.MinInt16}[r.IntN(6)]
				if steps[s] <= at {
					want |= set & (1 << s)
				}
			}
			require.Equal(t, want, kernels.Due(&steps, set, at))
		}
	})
}

func TestTogetherLevels(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		r := random(37)
		for k := range rounds {
			var n kernels.Newcomers
			pages := randomPages(r)
			for i := range n.Need {
				n.Need[i], n.Prefix[i] = numbers(r, 1<<24), uint8(r.IntN(8))
			}
			count, joins := r.IntN(9), r.Uint64()&0x0101010101010101
			var want [3]uint64
			tell := func() [3]uint64 {
				private, whole, joined := kernels.Together(&n, count, joins, &pages)
				return [3]uint64{uint64(private), uint64(whole), joined}
			}
			generic(func() { want = tell() })
			require.Equal(t, want, tell(), "round %d", k)
		}
	})
}

func TestDecodeLevels(t *testing.T) {
	type state struct {
		block  kernels.Block
		lane   kernels.Lane
		ledger kernels.Ledger
		told   kernels.Decoded
	}
	onEachLevel(t, func(t *testing.T) {
		r := random(26)
		var full, gone, late int
		for k := range rounds {
			pages := randomPages(r)
			before := state{block: *randomBlock(r, &pages), ledger: kernels.Ledger{Step: int32(r.IntN(4096)), Tokens: r.Uint64() >> 1, PrivateQP: r.Uint32() >> 1, RetainedPrivate: r.Uint32()}}
			b := &before.block
			for s := range kernels.Lanes {
				before.lane.Born[s], before.lane.Ref[s] = int16(r.IntN(4096)), r.Uint32N(3)
			}
			set := b.Active &^ b.Swapped & plane(r)
			before.lane.First, before.lane.Late = b.Alive&plane(r), b.Alive&plane(r)
			n := []uint32{r.Uint32N(40), 1 + r.Uint32N(300), 0xFFFF}[r.IntN(3)]
			mul, worth := randomWorth(r)
			before.ledger.PrefixMul = *mul
			deadline := int16(r.IntN(4097) - 1)
			play := func(x *state, room uint32) bool {
				return kernels.Decode(&x.block, &x.lane, &x.ledger, set, n, deadline, room, worth, &x.told)
			}
			got, want := before, before
			generic(func() { require.True(t, play(&want, math.MaxUint32)) })
			grown := want.ledger.PrivateQP - before.ledger.PrivateQP
			if grown > 0 && r.IntN(4) == 0 {
				full++
				require.False(t, play(&got, grown-1))
				require.Equal(t, before, got, "round %d", k)
			}
			require.True(t, play(&got, grown))
			require.Equal(t, want, got, "round %d", k)
			gone += bits.OnesCount64(got.told.Gone)
			late += int(got.ledger.Counters.Late)
		}
		for _, n := range []int{full, gone, late} {
			require.Greater(t, n, 20)
		}
	})
}

// randomWorth are levels of prefixes, and what tokens are worth by them, for Decode.
func randomWorth(r *rand.Rand) (mul *[8]uint8, worth *[8]uint32) {
	mul, worth = new([8]uint8), new([8]uint32)
	for i := range mul {
		mul[i], worth[i] = []uint8{0, 1, 2, 4}[r.IntN(4)], numbers(r, 1<<25-1)
	}
	return mul, worth
}

func TestPrefixesLevels(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		r := random(14)
		for k := range rounds {
			pages := randomPages(r)
			n := 1 + r.IntN(4)
			blocks := make([]kernels.Block, n)
			for i := range blocks {
				blocks[i] = *randomBlock(r, &pages)
				if r.IntN(2) == 0 { // few members, so that some hold their prefix alone
					cut(&blocks[i], 8)
				}
				members(&blocks[i])
			}
			var got, want kernels.Shared
			kernels.Prefixes(&blocks[0], n, &pages, &got)
			generic(func() { kernels.Prefixes(&blocks[0], n, &pages, &want) })
			require.Equal(t, want, got, "round %d, %d blocks", k, n)
		}
	})
}

func TestAdmitLevels(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		r := random(15)
		for k := range rounds {
			const room = 3*32 + 8
			queue, needs := make([]uint64, room), make([]uint32, room)
			for i := range queue {
				queue[i] = r.Uint64()
				needs[i] = numbers(r, 1<<20) | uint32(r.IntN(8))<<kernels.DemandShift
			}
			a := kernels.Admission{Extra: new([8]uint32), Used: numbers(r, 1<<22), Budget: numbers(r, 1<<22), Free: r.Uint32N(40)}
			if r.IntN(2) == 0 {
				a.Used, a.Budget = 0, 1<<r.IntN(24)
			}
			for i := 1; i < len(a.Extra); i++ {
				a.Extra[i] = numbers(r, 1<<18)
			}
			first, n := 32*r.IntN(2), r.IntN(33)
			old, kept := r.IntN(n+1), r.IntN(first+1)
			want, wantQueue, wantNeeds := a, append([]uint64(nil), queue...), append([]uint32(nil), needs...)
			want.Extra = new([8]uint32)
			*want.Extra = *a.Extra
			end := kernels.Admit(queue, needs, first, n, old, kept, &a)
			generic(func() { require.Equal(t, kernels.Admit(wantQueue, wantNeeds, first, n, old, kept, &want), end) })
			require.Equal(t, wantQueue[:end], queue[:end], "round %d", k)
			require.Equal(t, wantNeeds[:end], needs[:end], "round %d", k)
			require.Equal(t, wantQueue[first+32:], queue[first+32:], "round %d: those that the next call looks at", k)
			require.Equal(t, wantNeeds[first+32:], needs[first+32:], "round %d: those that the next call looks at", k)
			clear(a.Words[a.Taken:])
			clear(want.Words[want.Taken:])
			require.Equal(t, want, a, "round %d", k)
		}
	})
}

func TestDrawsLevels(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		r := random(5)
		for range rounds {
			var got, want [8]uint64
			base := r.Uint64()
			kernels.Draws(&got, base)
			generic(func() { kernels.Draws(&want, base) })
			require.Equal(t, want, got)
		}
	})
}

func TestCountsLevels(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		r := random(6)
		for range rounds {
			var table [8]uint16
			for i := range table {
				table[i] = uint16(r.Uint32())
			}
			u := r.Uint64()
			if r.IntN(4) == 0 { // thresholds that are met exactly, and both ends
				u = uint64(table[0]) | uint64(table[6])<<16 | 0xFFFF<<48
			}
			got := kernels.Counts(u, &table)
			generic(func() { require.Equal(t, kernels.Counts(u, &table), got) })
		}
	})
}

func randomTables(r *rand.Rand) *kernels.RequestTables {
	t := new(kernels.RequestTables)
	for i := range t.Pages {
		t.Pages[i], t.Output[i] = uint8(1+r.IntN(255)), uint16(1+r.IntN(0xFFFF))
	}
	t.Types = [3]uint64{r.Uint64N(100), 100 + r.Uint64N(100), 200 + r.Uint64N(56)}
	return t
}

func TestArrivalsLevels(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		r := random(11)
		for range rounds {
			tables, base, stamp := randomTables(r), r.Uint64(), r.Uint64N(4097)<<48
			var words, wantWords [8]uint64
			var needs, wantNeeds [8]uint32
			kernels.Arrivals(&words, &needs, base, stamp, tables)
			generic(func() { kernels.Arrivals(&wantWords, &wantNeeds, base, stamp, tables) })
			require.Equal(t, wantWords, words)
			require.Equal(t, wantNeeds, needs)
		}
	})
}

func TestNewcomersLevels(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		r := random(12)
		for range rounds {
			tables, pages := randomTables(r), randomPages(r)
			var words [8]uint64
			for i := range words {
				words[i] = r.Uint64()
			}
			var got, want kernels.Newcomers
			last, hotness := int16(r.IntN(4097)), uint8(r.Uint32())
			kernels.Requests(&words, tables, &pages, last, hotness, &got)
			generic(func() { kernels.Requests(&words, tables, &pages, last, hotness, &want) })
			require.Equal(t, want, got, "requests")
			for i := range tables.Output {
				tables.Output[i] >>= 6 // so that no product leaves 16 bits
			}
			system := r.IntN(8)
			var drawn, wanted [8]uint64
			base := r.Uint64()
			kernels.Initials(&drawn, base, tables, &pages, system, &got)
			generic(func() { kernels.Initials(&wanted, base, tables, &pages, system, &want) })
			require.Equal(t, want, got, "initial sequences")
			require.Equal(t, wanted, drawn, "draws")

			b := randomBlock(r, &pages)
			ref := *b
			free := ^b.Alive
			take, slots := uint8(r.Uint32()), uint64(0)
			if r.IntN(2) == 0 {
				take = 1<<r.IntN(8) - 1
			}
			for m := take; m != 0; m &= m - 1 {
				if free == 0 {
					take &^= m & -m
					continue
				}
				slots |= free & -free
				free &= free - 1
			}
			retained := kernels.Place(b, slots, &got, take)
			generic(func() { require.Equal(t, kernels.Place(&ref, slots, &got, take), retained) })
			require.Equal(t, ref, *b, "placed")
		}
	})
}

func TestArriveLevels(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		r := random(16)
		for range rounds {
			tables, base, count, stamp := randomTables(r), r.Uint64(), r.Uint64(), r.Uint64N(4097)<<48
			table := [8]uint16{30000, 50000, 60000, 64000, 65000, 65500, 65535}
			if r.IntN(2) == 0 {
				table = [8]uint16{100, 200, 300, 400, 500, 600, 60000}
			}
			lanes, room := 1+r.IntN(4), r.IntN(33)
			var words, wantWords [8]uint64
			var needs, wantNeeds [8]uint32
			n, qp := kernels.Arrive(&words, &needs, base, stamp, tables, count, lanes, &table, room)
			generic(func() {
				a, b := kernels.Arrive(&wantWords, &wantNeeds, base, stamp, tables, count, lanes, &table, room)
				require.Equal(t, [2]int{a, int(b)}, [2]int{n, int(qp)})
			})
			require.Equal(t, wantWords, words)
			require.Equal(t, wantNeeds, needs)
		}
	})
}

func TestArriveStepsLevels(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		r := random(43)
		bursts := 0
		for range rounds {
			tables := [2]*[8]uint16{{30000, 50000, 60000, 64000, 65000, 65500, 65535}, {100, 200, 300, 400, 500, 600, 60000}}
			if r.IntN(2) == 0 {
				tables[0], tables[1] = tables[1], tables[0]
			}
			d := kernels.StepDraws{Count: r.Uint64(), Burst: r.Uint64(), Base: r.Uint64(), Counts: tables, Chance: uint16(r.IntN(0x10000)), Lanes: 1 + r.IntN(4)}
			first, n := r.IntN(4097), 1+r.IntN(8)
			var got, want [kernels.StepRoom]uint64
			total, wanted := kernels.ArriveSteps(&got, &d, first, n), 0
			generic(func() { wanted = kernels.ArriveSteps(&want, &d, first, n) })
			require.Equal(t, wanted, total)
			require.Equal(t, want[:total], got[:total])
			// The same step by step.
			at := 0
			for k := first; k < first+n; k++ {
				var words [8]uint64
				var needs [8]uint32
				more := uint64(k) * (kernels.StepStride & (1<<64 - 1))
				table := 0
				if rng.Mix(d.Burst+more)&0xFFFF < uint64(d.Chance) {
					table, bursts = 1, bursts+1
				}
				arrived, _ := kernels.Arrive(&words, &needs, d.Base+more, uint64(k)<<48, randomTables(r), d.Count+more, d.Lanes, d.Counts[table], 8)
				require.Equal(t, words[:min(8, arrived)], got[at:][:min(8, arrived)])
				at += arrived
			}
			require.Equal(t, total, at)
		}
		require.Greater(t, bursts, 20)
	})
}

func TestEnterLevels(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		r := random(17)
		for k := range rounds {
			tables, pages := randomTables(r), randomPages(r)
			b := randomBlock(r, &pages)
			members(b)
			ref := *b
			var words [8]uint64
			for i := range words {
				words[i] = r.Uint64()
			}
			slots, count := uint64(0), 0
			for free := ^b.Alive; free != 0 && count < 8 && r.IntN(4) != 0; free &= free - 1 {
				slots |= free & -free
				count++
			}
			step, joins := int16(r.IntN(4097)), [8]uint8{}
			for i := range joins {
				joins[i] = []uint8{0, 1, 2, 3, 4, 5, 32, 0}[r.IntN(8)]
			}
			retained := kernels.Enter(b, slots, &words, count, tables, &pages, step, &joins)
			generic(func() {
				require.Equal(t, kernels.Enter(&ref, slots, &words, count, tables, &pages, step, &joins), retained)
			})
			require.Equal(t, ref, *b, "round %d", k)
		}
	})
}

func TestTouchLevels(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		r := random(13)
		for range rounds {
			pages := randomPages(r)
			b := randomBlock(r, &pages)
			ref, p, step := *b, plane(r), int16(r.IntN(4097))
			var joins [8]uint8
			for i := range joins {
				joins[i] = []uint8{0, 1, 2, 3, 4, 5, 32, 0}[r.IntN(8)]
			}
			kernels.Touch(b, p, &joins, step)
			generic(func() { kernels.Touch(&ref, p, &joins, step) })
			require.Equal(t, ref, *b)
		}
	})
}

// The reference itself against the loops that its documentation gives.
func TestGenericIsTheDocumentedLoop(t *testing.T) {
	r := random(10)
	generic(func() {
		for range rounds {
			var ops, h [kernels.Lanes]uint8
			for s := range ops {
				ops[s], h[s] = uint8(r.IntN(6)), uint8(r.Uint32())
			}
			lo, hi, over := kernels.OpPlanes(&ops)
			warm := plane(r)
			was := h
			kernels.Heat(&h, warm)
			for s, op := range ops {
				require.Equal(t, op > 3, over>>s&1 == 1)
				if op <= 3 {
					require.Equal(t, uint64(op), lo>>s&1|hi>>s&1<<1)
				}
				require.EqualValues(t, was[s]-was[s]/4+63*uint8(warm>>s&1), h[s])
			}
			var table [8]uint16
			for i := range table {
				table[i] = uint16(r.Uint32())
			}
			u, n := r.Uint64(), 0
			for lane := u; lane != 0; lane >>= 16 {
				for _, th := range table[:7] {
					if th <= uint16(lane) {
						n++
					}
				}
			}
			require.Equal(t, n, kernels.Counts(u, &table)-countZeros(u, &table))
		}
	})
}

// countZeros is what the lanes that the loop above did not reach, all 0, add.
func countZeros(u uint64, table *[8]uint16) (n int) {
	for lane := range 4 {
		if u>>(16*lane) == 0 {
			for _, th := range table[:7] {
				if th == 0 {
					n++
				}
			}
		}
	}
	return n
}

// fillFrom makes a value of fixed size from fuzzed bytes, repeating them.
func fillFrom(data []byte, into any) {
	size := binary.Size(into)
	buf := make([]byte, size)
	for i := 0; i < size && len(data) > 0; i += len(data) {
		copy(buf[i:], data)
	}
	if _, err := binary.Decode(buf, binary.LittleEndian, into); err != nil {
		panic(err)
	}
}
