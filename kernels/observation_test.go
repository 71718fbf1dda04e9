package kernels_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/kvgym/kvgym/kernels"
	"github.com/stretchr/testify/require"
)

func TestGlobalsLevels(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		r := random(19)
		for range rounds {
			var num, den [16]int32
			for i := range num {
				num[i], den[i] = int32(r.Uint32()), 1+r.Int32N(1<<30)
			}
			g := newGuarded(t, 64)
			var want [16]float32
			budget, capacity, norm, most := 1+r.Uint32N(1<<30), 1+r.Uint32N(1<<30), 1+r.Uint32N(1<<30), 1+r.Uint32N(1<<30)
			kernels.Globals((*[16]float32)(g.floats()), &num, &den, budget, capacity, norm, most, r.IntN(2) == 0)
			generic(func() { kernels.Globals(&want, &num, &den, budget, capacity, norm, most, false) })
			require.Equal(t, bitsOf(want[:]), bitsOf(g.floats()))
			g.check(t)
		}
	})
}

func TestMaskRowsLevels(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		r := random(8)
		for range rounds {
			n := 64 * (1 + r.IntN(4))
			buf := newGuarded(t, n)
			e, c, s := plane(r), plane(r), plane(r)
			kernels.MaskRows(buf.data, e, c, s)
			want := make([]uint8, n)
			generic(func() { kernels.MaskRows(want, e, c, s) })
			require.Equal(t, want, buf.data)
			buf.check(t)
		}
	})
}

// The observation kernels, each writing to memory that ends where no more can be read or written.
func TestObservationLevels(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		for slots := 16; slots <= 64; slots += 16 {
			for _, stream := range []bool{false, true} {
				r := random(uint64(slots))
				values := slots * kernels.SlotFeatures
				rows, columns := newGuarded(t, 4*values), newGuarded(t, 4*values)
				byteRows, byteColumns := newGuarded(t, values), newGuarded(t, values)
				for k := range rounds / 5 {
					pages := randomPages(r)
					b, v := randomBlock(r, &pages), randomView(r, &pages)
					cut(b, slots)
					before, at := *b, fmt.Sprintf("slots=%d stream=%v round=%d", slots, stream, k)
					kernels.Rows(rows.floats(), b, v, stream)
					kernels.Columns(columns.floats(), slots, slots, b, v, stream)
					kernels.ByteRows(byteRows.data, b, v)
					kernels.ByteColumns(byteColumns.data, slots, slots, b, v)
					kernels.Fence()
					require.Equal(t, before, *b, "%s: the block is only read", at)
					want, wantBytes := make([]float32, values), make([]uint8, values)
					generic(func() {
						kernels.Rows(want, b, v, false)
						require.Equal(t, bitsOf(want), bitsOf(rows.floats()), at)
						kernels.Columns(want, slots, slots, b, v, false)
						require.Equal(t, bitsOf(want), bitsOf(columns.floats()), at)
						kernels.ByteRows(wantBytes, b, v)
						require.Equal(t, wantBytes, byteRows.data, at)
						kernels.ByteColumns(wantBytes, slots, slots, b, v)
						require.Equal(t, wantBytes, byteColumns.data, at)
					})
					for _, g := range []*guarded{rows, columns, byteRows, byteColumns} {
						g.check(t)
					}
				}
			}
		}
	})
}

// A wider stride leaves what lies between the columns alone.
func TestColumnsStride(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		r := random(9)
		pages := randomPages(r)
		b, v := randomBlock(r, &pages), randomView(r, &pages)
		const stride, slots = 256, 48
		cut(b, slots)
		got, want := make([]float32, 12*stride), make([]float32, 12*stride)
		bytes, wantBytes := make([]uint8, 12*stride), make([]uint8, 12*stride)
		kernels.Columns(got, stride, slots, b, v, false)
		kernels.ByteColumns(bytes, stride, slots, b, v)
		generic(func() {
			kernels.Columns(want, stride, slots, b, v, false)
			kernels.ByteColumns(wantBytes, stride, slots, b, v)
		})
		require.Equal(t, bitsOf(want), bitsOf(got))
		require.Equal(t, wantBytes, bytes)
		for f := range kernels.SlotFeatures {
			for s := slots; s < stride; s++ {
				require.Zero(t, math.Float32bits(got[f*stride+s]))
			}
		}
	})
}

func TestFillLevels(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		for _, stream := range []bool{false, true} {
			for n := 0; n <= 200; n++ {
				g := newGuarded(t, 4*n)
				kernels.Fill(g.floats(), 3.5, stream)
				kernels.Fence()
				for _, x := range g.floats() {
					require.Equal(t, float32(3.5), x)
				}
				g.check(t)
			}
		}
	})
}

// A byte observation never leaves its range, and its ends are reached.
func TestByteScale(t *testing.T) {
	high := [kernels.SlotFeatures]float32{1, 2, 2, 1, 1, 1, 1, 0.75, 1, 1, 0.875, 1}
	for f, scale := range kernels.ByteScale {
		require.EqualValues(t, 0, kernels.Byte(0, 0, scale), "feature %d", f)
		require.EqualValues(t, 255, kernels.Byte(high[f], 0, scale), "feature %d", f)
		require.InDelta(t, 127.5, kernels.Byte(high[f]/2, 0, scale), 0.5, "feature %d", f)
	}
}

func bitsOf(x []float32) []uint32 {
	out := make([]uint32, len(x))
	for i, v := range x {
		out[i] = math.Float32bits(v)
	}
	return out
}
