package kernels_test

import (
	"math/bits"
	"testing"

	"github.com/kvgym/kvgym/kernels"
	"github.com/stretchr/testify/require"
)

func TestSumLevels(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		r := random(30)
		for k := range rounds {
			var column [kernels.Lanes]uint32
			var want, zeros uint64
			set := plane(r)
			for s := range column {
				if r.IntN(3) != 0 {
					column[s] = r.Uint32() >> r.IntN(32)
				}
				in := set >> s & 1
				want += in * uint64(column[s])
				if column[s] == 0 {
					zeros |= in << s
				}
			}
			require.Equal(t, want, kernels.Sum(&column, set), "round %d", k)
			require.Equal(t, zeros, kernels.Zeros(&column, set), "round %d", k)
		}
	})
}

func TestRemoveLevels(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		r := random(36)
		emptied := 0
		for k := range rounds {
			pages := randomPages(r)
			got, more := *randomBlock(r, &pages), [8]uint64{r.Uint64(), r.Uint64(), 0, ^uint64(0)}
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
