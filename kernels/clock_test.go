package kernels_test

import (
	"math/bits"
	"math/rand/v2"
	"testing"

	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/kv"
	"github.com/stretchr/testify/require"
)

// clocks are those of all presets, and some that the tables do not hold or that knots make hard.
func clocks(r *rand.Rand) (all []*kernels.Clock) {
	presets := append(kv.Presets(), kv.Preset{Prefill: []kv.Knot{{Tokens: 3, NS: 5}, {Tokens: 7, NS: 9}, {Tokens: 8, NS: 1_000_000}}, PairPS: 77},
		kv.Preset{Prefill: []kv.Knot{{Tokens: 1 << 23, NS: 4}, {Tokens: 1 << 24, NS: 100_000_000_000}}, PairPS: 100_000}) // rises too fast for the tables
	for _, most := range []int{16, 17, 64} {
		p := kv.Preset{PairPS: int64(r.IntN(100_000))}
		k := kv.Knot{}
		for range most {
			k.Tokens, k.NS = k.Tokens+1+int64(r.IntN(9000)), k.NS+int64(r.IntN(1_000_000_000))
			p.Prefill = append(p.Prefill, k)
		}
		presets = append(presets, p)
	}
	for i := range presets {
		all = append(all, kernels.NewClock(presets[i].Clock()))
	}
	return all
}

func TestPayLevels(t *testing.T) {
	type state struct {
		ledger       kernels.Ledger
		work         [kernels.Lanes]uint32
		joins        [8]uint8
		slots, waste uint64
	}
	onEachLevel(t, func(t *testing.T) {
		r := random(38)
		all := clocks(r)
		fresh, wasted, many := 0, 0, 0
		for k := range rounds {
			pages, tickets, clock := randomPages(r), randomTickets(r, 0), all[k%len(all)]
			pages[0] = 0
			if k%4 != 0 {
				for p := range pages {
					pages[p] %= 200
				}
				for i := range tickets.Private {
					tickets.Private[i] = 1 + tickets.Private[i]%(1<<r.IntN(21))
				}
			}
			set, free := uint32(plane(r)), r.Uint64()|r.Uint64()
			if k%3 == 0 {
				free = ^uint64(0) << r.IntN(33)
			}
			for limit := min(bits.OnesCount64(free), []int{1, 3, 8, 8, 9, 32}[r.IntN(6)]); bits.OnesCount32(set) > limit; {
				set &= set - 1
			}
			var before state
			l := &before.ledger
			l.PrivateQP, l.RetainedPrivate, l.SharedQP, l.RetainedShared = r.Uint32(), r.Uint32(), r.Uint32(), r.Uint32()
			for p := 1; p < len(pages); p++ {
				l.PrefixMul[p], before.joins[p] = uint8(4>>r.IntN(4)), uint8(r.IntN(100))
				if l.PrefixMul[p] != 0 {
					l.PrefixWeight[p] = 20
				}
			}
			for s := range before.work {
				before.work[s] = r.Uint32()
			}
			play := func() state {
				x := before
				x.slots, x.waste = kernels.Pay(&x.ledger, &tickets, set, free, &pages, clock, &x.work, &x.joins)
				return x
			}
			got, want := play(), state{}
			generic(func() { want = play() })
			require.Equal(t, want, got, "round %d", k)
			require.Equal(t, bits.OnesCount32(set), bits.OnesCount64(got.slots))
			for p, mul := range got.ledger.PrefixMul {
				fresh += int(mul - before.ledger.PrefixMul[p])
			}
			wasted += min(1, int(got.waste))
			many += bits.OnesCount32(set) / 9
		}
		for _, n := range []int{fresh, wasted, many} {
			require.Greater(t, n, 20)
		}
	})
}

// The reference asks the clock; its tables say the same wherever the assembly does not leave it to the reference.
func TestClockTables(t *testing.T) {
	r := random(39)
	for _, c := range clocks(r) {
		for k := range 20_000 {
			var tickets kernels.Tickets
			for i := range 8 {
				tickets.Private[i] = uint32(8*k + i + 1)
				if k%2 != 0 {
					tickets.Private[i] = 1 + r.Uint32()>>(4+r.IntN(20))
				}
				tickets.Prefix[i] = uint8(r.IntN(8))
			}
			pages := [8]uint16{0, 1, 3, uint16(r.Uint32() >> r.IntN(16)), 17, 64, uint16(r.Uint32()), 2}
			var ledger kernels.Ledger
			for p := 1; p < 8; p++ {
				ledger.PrefixMul[p] = uint8(4 * r.IntN(2))
			}
			was := ledger
			var joins [8]uint8
			var got, want [kernels.Lanes]uint32
			kernels.Pay(&ledger, &tickets, 0xFF, ^uint64(0), &pages, c, &got, &joins)
			generic(func() { kernels.Pay(&was, &tickets, 0xFF, ^uint64(0), &pages, c, &want, &joins) })
			require.Equal(t, want, got)
		}
	}
}
