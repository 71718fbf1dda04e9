package vecenv_test

import (
	"testing"
	"unsafe"

	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/vecenv"
	"github.com/stretchr/testify/require"
)

func TestBadConfig(t *testing.T) {
	for _, c := range []struct {
		cfg  vecenv.Config
		says string
	}{
		{vecenv.Config{}, "Envs: 0: allowed 1 to 1048576"},
		{vecenv.Config{Envs: 1<<20 + 1}, "Envs: 1048577"},
		{vecenv.Config{Envs: 1, Slots: 63}, "slots: 63: allowed a multiple of 16 from 16 to 256"},
		{vecenv.Config{Envs: 1, Slots: 512}, "slots: 512"},
		{vecenv.Config{Envs: 1, Steps: -1}, "steps: -1: allowed 1 to 4096"},
		{vecenv.Config{Envs: 1, Steps: 4097}, "steps: 4097"},
		{vecenv.Config{Envs: 1, MaxWait: 5000}, "MaxWait: 5000: allowed 1 to 4096"},
		{vecenv.Config{Envs: 1, Workers: -1}, "Workers: -1"},
		{vecenv.Config{Envs: 4, Groups: 5}, "Groups: 5: allowed 1 to 4"},
		{vecenv.Config{Envs: 1, Autoreset: 3}, "Autoreset: 3: allowed NextStep, SameStep, Disabled"},
		{vecenv.Config{Envs: 1, Profile: 9}, "Profile: 9: allowed Seed"},
		{vecenv.Config{Envs: 1, Outputs: 128}, "Outputs: 128"},
		{vecenv.Config{Envs: 2, FirstEnv: 1<<32 - 1}, "FirstEnv: 4294967295"},
		{vecenv.Config{Envs: 2, Source: mustSynthetic(32, 15, scenario.All)}, "Source: made for 32 slots and 15 steps: allowed the batch's 64 and 15"},
		{vecenv.Config{Envs: 2, Buffers: vecenv.Buffers{Reward: make([]float32, 3)}}, "Buffers.Reward: 3 values: allowed 2"},
		{vecenv.Config{Envs: 2, Buffers: vecenv.Buffers{Obs: make([]float32, 784)}}, "Buffers.Obs: 784 values: allowed 1568"},
		{vecenv.Config{Envs: 2, Buffers: vecenv.Buffers{Mask: make([]uint8, 512)}}, "Buffers.Mask: 512 values: allowed 0"},
		{vecenv.Config{Envs: 2, Buffers: vecenv.Buffers{Truncated: []uint8{}}}, "Buffers.Truncated: 0 values: allowed 2"},
	} {
		_, err := vecenv.New(c.cfg)
		require.ErrorContains(t, err, c.says)
	}
}

func TestDefaults(t *testing.T) {
	b := newBatch(t, vecenv.Config{Envs: 3})
	c := b.Config()
	require.Equal(t, []int{64, 15, 5, 1}, []int{c.Slots, c.Steps, c.MaxWait, c.Groups})
	require.Equal(t, vecenv.WithObs, c.Outputs)
	require.Len(t, b.Obs, 3*784)
	require.Nil(t, b.Mask)
	none := newBatch(t, vecenv.Config{Envs: 3, NoObs: true})
	require.Nil(t, none.Obs)
	require.Len(t, none.Reward, 3)
}

func TestTensorsAreAligned(t *testing.T) {
	b := newBatch(t, vecenv.Config{Envs: 17, Outputs: vecenv.AllOutputs, Autoreset: vecenv.SameStep})
	for name, p := range map[string]unsafe.Pointer{"Obs": unsafe.Pointer(&b.Obs[0]), "FinalObs": unsafe.Pointer(&b.FinalObs[0]),
		"Reward": unsafe.Pointer(&b.Reward[0]), "Mask": unsafe.Pointer(&b.Mask[0]), "Terminated": unsafe.Pointer(&b.Terminated[0])} {
		require.Zero(t, uintptr(p)%64, name)
	}
}

func TestBadActions(t *testing.T) {
	b := newBatch(t, vecenv.Config{Envs: 2, Workers: 1, Groups: 2})
	require.ErrorContains(t, b.Step(vecenv.Actions{}), "environment 0: never reset: Reset it first")
	require.NoError(t, b.Reset(vecenv.ResetOptions{}))
	before := b.View(0).Step()
	for _, c := range []struct {
		a    vecenv.Actions
		says string
	}{
		{vecenv.Actions{Ops: make([]uint8, 127)}, "Actions.Ops: 127 values: allowed 128, 2 environments of 64 slots"},
		{vecenv.Actions{Ops: []uint8{}}, "Actions.Ops: 0 values"},
		{vecenv.Actions{Ops: make([]uint8, 128), List: []int32{}}, "Ops and List both given"},
		{vecenv.Actions{List: make([]int32, 4), PerEnv: 0}, "Actions.List: 4 values with PerEnv 0"},
		{vecenv.Actions{List: make([]int32, 5), PerEnv: 1}, "Actions.List: 5 values with PerEnv 1"},
		{vecenv.Actions{List: make([]int32, 4), PerEnv: -1}, "PerEnv -1"},
	} {
		require.ErrorContains(t, b.Step(c.a), c.says)
	}
	require.Equal(t, before, b.View(0).Step(), "a refused step changes nothing")
	require.ErrorContains(t, b.Send(2, vecenv.Actions{}), "Send: group: 2: allowed 0 to 1")
	require.ErrorContains(t, b.Send(-1, vecenv.Actions{}), "Send: group: -1")
	require.ErrorContains(t, b.Send(0, vecenv.Actions{Ops: make([]uint8, 128)}), "Actions.Ops: 128 values: allowed 64")
	require.ErrorContains(t, b.Recv(0), "Recv: group 0: not in flight")
}

func TestOutOfOrder(t *testing.T) {
	b := newBatch(t, vecenv.Config{Envs: 4, Workers: 2, Groups: 2})
	require.NoError(t, b.Reset(vecenv.ResetOptions{}))
	require.NoError(t, b.Send(1, vecenv.Actions{}))
	require.ErrorContains(t, b.Send(1, vecenv.Actions{}), "group 1: already in flight")
	require.ErrorContains(t, b.Step(vecenv.Actions{}), "Step: group 1: in flight: Recv it first")
	require.ErrorContains(t, b.Reset(vecenv.ResetOptions{}), "Reset: group 1: in flight")
	_, err := b.Snapshot(nil, 0, 4)
	require.ErrorContains(t, err, "Snapshot: group 1: in flight")
	require.ErrorContains(t, b.Restore(nil, 0), "Restore: group 1: in flight")
	require.ErrorContains(t, b.Fork(0, b, 1), "Fork: group 1: in flight")
	b.Close() // receives what is in flight
	b.Close()
	require.ErrorIs(t, b.Step(vecenv.Actions{}), vecenv.ErrClosed)
	require.ErrorIs(t, b.Reset(vecenv.ResetOptions{}), vecenv.ErrClosed)
	require.ErrorIs(t, b.Send(0, vecenv.Actions{}), vecenv.ErrClosed)
	require.ErrorIs(t, b.Recv(0), vecenv.ErrClosed)
}

func TestBadReset(t *testing.T) {
	b := newBatch(t, vecenv.Config{Envs: 2, Workers: 1})
	for _, c := range []struct {
		o    vecenv.ResetOptions
		says string
	}{
		{vecenv.ResetOptions{Mask: []bool{true}}, "Mask: 1 values: allowed 2, one an environment"},
		{vecenv.ResetOptions{Mask: []bool{false, false}}, "Mask: selects no environment"},
		{vecenv.ResetOptions{Seeds: make([]uint64, 3)}, "Seeds: 3 values"},
		{vecenv.ResetOptions{Identities: make([]scenario.Identity, 1)}, "Identities: 1 values"},
		{vecenv.ResetOptions{Seeds: make([]uint64, 2), Identities: make([]scenario.Identity, 2)}, "Seeds and Identities both given"},
	} {
		require.ErrorContains(t, b.Reset(c.o), c.says)
	}
}

func TestParse(t *testing.T) {
	p, err := vecenv.ParseProfile("seed")
	require.NoError(t, err)
	require.Equal(t, "seed", p.String())
	_, err = vecenv.ParseProfile("nope")
	require.ErrorContains(t, err, `profile: "nope": allowed seed`)
}

// The published state: a block is exactly 1,024 bytes, an environment of 64 slots about 1.5 KiB.
func TestStateSize(t *testing.T) {
	slots, head := vecenv.Columns()
	last := slots[len(slots)-1]
	require.Equal(t, 1024, last.Offset+last.Bytes)
	end := head[len(head)-1]
	require.LessOrEqual(t, 1024+end.Offset+end.Bytes+32*8, 1700)
	for _, c := range append(slots, head...) {
		require.NotEmpty(t, c.Unit, c.Name)
	}
}
