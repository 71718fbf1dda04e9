package vecenv_test

import (
	"math/rand/v2"
	"testing"
	"unsafe"

	"github.com/kvgym/kvgym/vecenv"
	"github.com/stretchr/testify/require"
)

// A batch that writes into two sets of tensors in turn gives what one does that keeps its own, and leaves the other set alone.
func TestSetBuffersTakesTurns(t *testing.T) {
	cfg := vecenv.Config{Envs: 40, Workers: 2, Outputs: vecenv.AllOutputs, Autoreset: vecenv.SameStep, Steps: 4}
	want, got, second := newBatch(t, cfg), newBatch(t, cfg), newBatch(t, cfg)
	sets := [2]vecenv.Buffers{got.Buffers, second.Buffers}
	r := rand.New(rand.NewPCG(5, 6))
	require.NoError(t, want.Reset(vecenv.ResetOptions{}))
	require.NoError(t, got.Reset(vecenv.ResetOptions{}))
	for k := range 12 {
		ops := validOps(r, want)
		require.NoError(t, want.Step(vecenv.Actions{Ops: ops}))
		kept := append([]float32(nil), sets[k%2].Obs...)
		require.NoError(t, got.SetBuffers(sets[1-k%2]))
		require.NoError(t, got.Step(vecenv.Actions{Ops: ops}))
		require.Equal(t, want.Obs, sets[1-k%2].Obs)
		require.Equal(t, want.Reward, got.Reward)
		require.Equal(t, want.Mask, got.Mask)
		require.Equal(t, want.Metrics, got.Metrics)
		require.Equal(t, kept, sets[k%2].Obs, "step %d", k)
	}
}

func TestSetBuffersRefuses(t *testing.T) {
	b := newBatch(t, vecenv.Config{Envs: 4, Groups: 2})
	require.EqualError(t, b.SetBuffers(vecenv.Buffers{Reward: make([]float32, 3)}), "vecenv: Buffers.Reward: 3 values: allowed 4")
	require.EqualError(t, b.SetBuffers(vecenv.Buffers{Mask: make([]uint8, 3)}), "vecenv: Buffers.Mask: 3 values: allowed 0")
	require.NoError(t, b.SetBuffers(vecenv.Buffers{}), "nothing changes")
	require.NoError(t, b.Reset(vecenv.ResetOptions{}))
	require.NoError(t, b.Send(1, vecenv.Actions{}))
	require.EqualError(t, b.SetBuffers(vecenv.Buffers{}), "vecenv: SetBuffers: group 1: in flight: Recv it first")
	require.NoError(t, b.Recv(1))
	b.Close()
	require.ErrorIs(t, b.SetBuffers(vecenv.Buffers{}), vecenv.ErrClosed)
}

// Tensors start on a cache line, and on a huge page where they fill one.
func TestLargeTensorsAreOnHugePages(t *testing.T) {
	for envs, boundary := range map[int]uintptr{1: 64, 100: 64, 1024: 2 << 20} {
		b := newBatch(t, vecenv.Config{Envs: envs, NoObs: true, Outputs: vecenv.AllOutputs})
		require.Zero(t, uintptr(unsafe.Pointer(&b.Obs[0]))%boundary, "%d environments", envs)
		require.Zero(t, uintptr(unsafe.Pointer(&b.Mask[0]))%64, "%d environments", envs)
		require.Zero(t, b.Obs[len(b.Obs)-1])
	}
}
