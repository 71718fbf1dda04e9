package kernels_test

import (
	"math/bits"
	"testing"

	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/kv"
	"github.com/stretchr/testify/require"
)

func TestSumLevels(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		r := random(30)
		for k := range rounds {
			var column [kernels.Lanes]uint32
			var want uint64
			set := plane(r)
			for s := range column {
				if r.IntN(3) != 0 {
					column[s] = r.Uint32() >> r.IntN(32)
				}
				in := set >> s & 1
				want += in * uint64(column[s])
			}
			require.Equal(t, want, kernels.Sum(&column, set), "round %d", k)
		}
	})
}

func TestPrefillLevels(t *testing.T) {
	type state struct {
		block kernels.Block
		lane  kernels.Lane
		told  kernels.Prefilled
	}
	onEachLevel(t, func(t *testing.T) {
		r := random(42)
		var short, whole, none int
		for k := range 2 * rounds {
			pages := randomPages(r)
			before := state{block: *randomBlock(r, &pages)}
			b := &before.block
			if k%3 != 0 { // as it is as a rule: few that prefill
				b.Prefill = b.Alive &^ b.Active & plane(r) & 0xFFFF << (k % 17)
			}
			before.lane.In, before.lane.Out = b.Alive&plane(r)&plane(r)&plane(r), b.Alive&plane(r)&plane(r)&plane(r)
			for s := range kernels.Lanes {
				before.lane.Admit[s], before.lane.Work[s] = int16(r.IntN(20)), numbers(r, 1<<31)>>r.IntN(31)
				if r.IntN(16) == 0 {
					before.lane.Admit[s], before.lane.Work[s] = 0x7FFF, 0
				}
			}
			budget := uint64(r.Uint32()) >> r.IntN(32)
			want := before // slot after slot
			set := b.Prefill &^ (b.Swapped | before.lane.In | before.lane.Out)
			left := budget
			for rest := set; rest != 0 && left > 0; {
				first := bits.TrailingZeros64(rest)
				for m := rest; m != 0; m &= m - 1 {
					if s := bits.TrailingZeros64(m); before.lane.Admit[s] < before.lane.Admit[first] {
						first = s
					}
				}
				rest &^= 1 << first
				x := min(left, uint64(before.lane.Work[first]))
				left -= x
				if want.lane.Work[first] -= uint32(x); want.lane.Work[first] == 0 {
					want.block.Prefill &^= 1 << first
					want.block.Active |= 1 << first
				}
			}
			want.told.Spent, want.told.Set = budget-left, want.block.Active&^(b.Swapped|before.lane.In|before.lane.Out)
			want.told.Context = kernels.Sum(&b.Tokens, want.told.Set)
			got := before
			kernels.Prefill(&got.block, &got.lane, budget, &got.told)
			for s := range kernels.Lanes { // it means nothing any more
				if (b.Prefill&^got.block.Prefill)>>s&1 != 0 {
					got.lane.Work[s], want.lane.Work[s] = 0, 0
				}
			}
			require.Equal(t, want, got, "round %d", k)
			switch {
			case set == 0:
				none++
			case left == 0:
				short++
			default:
				whole++
			}
		}
		for _, n := range []int{short, whole, none} {
			require.Greater(t, n, 20)
		}
	})
}

func TestRemoveLevels(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		r := random(36)
		emptied := 0
		for k := range rounds {
			pages := randomPages(r)
			got, more := *randomBlock(r, &pages), kernels.Lane{Out: r.Uint64(), In: r.Uint64(), Wanted: ^uint64(0)}
			want, others, mask := got, more, got.Alive&plane(r)
			var told, wanted [3]uint32
			tell := func(x *[3]uint32, qp, retained uint32, empty uint8) { *x = [3]uint32{qp, retained, uint32(empty)} }
			qp, retained, empty := kernels.Remove(&got, &more, mask, &pages)
			tell(&told, qp, retained, empty)
			generic(func() {
				qp, retained, empty := kernels.Remove(&want, &others, mask, &pages)
				tell(&wanted, qp, retained, empty)
			})
			require.Equal(t, wanted, told, "round %d", k)
			require.Equal(t, want, got, "round %d", k)
			require.Equal(t, others, more, "round %d", k)
			emptied += bits.OnesCount8(empty)
		}
		require.Positive(t, emptied)
	})
}

func TestOperateServingLevels(t *testing.T) {
	type state struct {
		block  kernels.Block
		ledger kernels.Ledger
		lane   kernels.Lane
		told   kernels.Operated
		ok     bool
	}
	onEachLevel(t, func(t *testing.T) {
		r := random(37)
		var done, refused, lowered, emptied int
		for k := range rounds {
			pages := randomPages(r)
			for p := range pages {
				pages[p] %= 1 << r.IntN(13)
			}
			pages[0] = 0
			before := state{block: *randomBlock(r, &pages)}
			for s := range before.block.Tokens {
				before.block.Tokens[s] = min(before.block.Tokens[s], uint32(pages[before.block.Prefix[s]])*kv.PageTokens+numbers(r, 1<<20)) // seldom too many
			}
			b, l := &before.block, &before.ledger
			if k%3 == 0 { // in CPU memory as a rule: a prefix may lose its last holder
				b.Swapped |= b.Alive & plane(r)
			}
			free := b.Alive &^ b.Swapped
			before.lane = kernels.Lane{In: free & plane(r) & plane(r), Fresh: b.Swapped & plane(r), Wanted: b.Swapped & plane(r), First: r.Uint64(), Late: r.Uint64()}
			if k%4 == 0 {
				before.lane.Out = free &^ before.lane.In & plane(r) & plane(r)
			}
			l.PrivateQP, l.RetainedPrivate, l.SharedQP, l.RetainedShared = r.Uint32(), r.Uint32(), r.Uint32(), r.Uint32()
			for p := 1; p < len(pages); p++ {
				l.PrefixMul[p], l.PrefixWeight[p] = uint8(4>>r.IntN(4)), uint8(20*r.IntN(2))
			}
			var ops [kernels.Lanes]uint8
			asked := plane(r)
			for s := range ops {
				ops[s] = uint8(r.IntN(4)) * uint8(asked>>s&1)
				if k%8 == 0 && r.IntN(20) == 0 {
					ops[s] = uint8(r.Uint32())
				}
				if k%4 == 0 && before.lane.Out>>s&1 != 0 && r.IntN(30) != 0 {
					ops[s] = uint8(kv.Evict)
				}
			}
			host, link := r.Uint32()>>r.IntN(32), r.Uint32()>>r.IntN(32)
			play := func() state {
				x := before
				x.ok = kernels.OperateServing(&kernels.Seat{Block: &x.block, Ledger: &x.ledger, Pages: &pages}, &x.lane, &ops, host, link, &x.told)
				if !x.ok {
					x.told = kernels.Operated{}
				}
				return x
			}
			got, want := play(), state{}
			generic(func() { want = play() })
			require.Equal(t, want, got, "round %d", k)
			if !got.ok {
				refused++
				require.Equal(t, before, got, "round %d", k)
				continue
			}
			done++
			for p, mul := range got.ledger.PrefixMul {
				switch was := before.ledger.PrefixMul[p]; {
				case mul == 0 && was != 0:
					emptied++
				case mul != was:
					lowered++
				}
			}
		}
		for _, n := range []int{done, refused, lowered, emptied} {
			require.Greater(t, n, 20)
		}
	})
}
