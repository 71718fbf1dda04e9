package rng

import (
	"math/big"
	"math/bits"
	"testing"

	"github.com/stretchr/testify/require"
)

// slowMix is rule 2.1 in big integers.
func slowMix(z uint64) uint64 {
	mask := new(big.Int).SetUint64(^uint64(0))
	x := new(big.Int).SetUint64(z)
	step := func(shift uint, factor uint64) {
		x.Xor(x, new(big.Int).Rsh(x, shift))
		x.Mul(x, new(big.Int).SetUint64(factor)).And(x, mask)
	}
	step(30, 0xBF58476D1CE4E5B9)
	step(27, 0x94D049BB133111EB)
	return x.Xor(x, new(big.Int).Rsh(x, 31)).Uint64()
}

func TestMix(t *testing.T) {
	for _, z := range []uint64{0, 1, 42, Golden, 1 << 63, ^uint64(0)} {
		require.Equal(t, slowMix(z), Mix(z))
	}
	// The first outputs of SplitMix64 seeded with 1234567, as published with its reference implementation.
	state := uint64(1234567)
	for _, want := range []uint64{6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431} {
		state += Golden
		require.Equal(t, want, Mix(state))
	}
}

func TestDraw(t *testing.T) {
	key := Key(7, 8, 9)
	wrapped := uint64(Golden)
	hi, counter := bits.Mul64(uint64(5)<<56|3<<24|2, wrapped)
	_ = hi // modulo 2^64
	require.Equal(t, Mix(key+counter), Draw(key, Request, 3, 2))

	seen := map[uint64]bool{}
	for _, id := range [][3]uint64{{0, 0, 0}, {1, 0, 0}, {0, 1, 0}, {0, 0, 1}, {Golden, 0, 0}, {0, 1 << 31, 0}, {0, 0, 1<<32 - 1}} {
		k := Key(id[0], uint32(id[1]), uint32(id[2]))
		for p := Episode; p <= Policy; p++ {
			for step := range uint32(40) {
				for index := range uint32(10) {
					w := Draw(k, p, step, index)
					require.False(t, seen[w])
					seen[w] = true
				}
			}
		}
	}
}

func TestFieldAndScale(t *testing.T) {
	w := uint64(0xFEDC_BA98_7654_3210)
	require.EqualValues(t, 0x0, Field(w, 0, 4))
	require.EqualValues(t, 0xF, Field(w, 60, 4))
	require.EqualValues(t, 0x7654, Field(w, 16, 16))
	for n, limit := range map[uint]uint32{6: 40, 7: 101, 16: 3} {
		require.EqualValues(t, 0, Scale(0, n, limit))
		require.Equal(t, limit-1, Scale(1<<n-1, n, limit), "the largest field gives the largest value")
	}
}
