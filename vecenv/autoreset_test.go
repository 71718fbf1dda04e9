package vecenv_test

import (
	"slices"
	"testing"

	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/vecenv"
	"github.com/stretchr/testify/require"
)

// lane is what one environment's rows say after a step.
type lane struct {
	step       int
	episode    uint32
	reward     bool // other than 0
	terminated uint8
	truncated  uint8
}

func lanes(b *vecenv.Batch) (out []lane) {
	for i := range b.Envs() {
		v := b.View(i)
		out = append(out, lane{v.Step(), v.Identity().Episode, b.Reward[i] != 0, b.Terminated[i], b.Truncated[i]})
	}
	return out
}

// lane0 plays n steps and returns what environment 0's rows say after each.
func lane0(t *testing.T, b *vecenv.Batch, n int) (out []lane) {
	for range n {
		require.NoError(t, b.Step(vecenv.Actions{}))
		out = append(out, lanes(b)[0])
	}
	return out
}

// Rule 11.1, each mode's exact sequence over two episodes of three steps.
func TestAutoresetNextStep(t *testing.T) {
	b := oneEnv(t, vecenv.Config{Steps: 3})
	terminal := []lane{{1, 0, true, 0, 0}, {2, 0, true, 0, 0}, {3, 0, true, 1, 0}, {0, 1, false, 0, 0},
		{1, 1, true, 0, 0}, {2, 1, true, 0, 0}, {3, 1, true, 1, 0}, {0, 2, false, 0, 0}}
	require.Equal(t, terminal, lane0(t, b, 8))
}

func TestAutoresetNextStepIgnoresActions(t *testing.T) {
	b, c := oneEnv(t, vecenv.Config{Steps: 3}), oneEnv(t, vecenv.Config{Steps: 3})
	evict := vecenv.Actions{Ops: slices.Repeat([]uint8{1}, 64)}
	lane0(t, b, 3)
	lane0(t, c, 3)
	require.NoError(t, b.Step(evict))
	require.NoError(t, c.Step(vecenv.Actions{}))
	require.Equal(t, c.Obs, b.Obs)
	require.Zero(t, b.View(0).Counters().Evictions)
	require.Zero(t, b.View(0).Counters().Invalid)
}

func TestAutoresetSameStep(t *testing.T) {
	b := oneEnv(t, vecenv.Config{Steps: 3, Autoreset: vecenv.SameStep, Truncate: true})
	require.Equal(t, []lane{{1, 0, true, 0, 0}, {2, 0, true, 0, 0}, {0, 1, true, 0, 1}, {1, 1, true, 0, 0}, {2, 1, true, 0, 0},
		{0, 2, true, 0, 1}}, lane0(t, b, 6))

	// The terminal observation is the one that the other modes show; the observation is the next episode's first.
	same, next := oneEnv(t, vecenv.Config{Steps: 3, Autoreset: vecenv.SameStep}), oneEnv(t, vecenv.Config{Steps: 3})
	lane0(t, same, 3)
	lane0(t, next, 3)
	require.Equal(t, next.Obs, same.FinalObs)
	lane0(t, next, 1)
	require.Equal(t, next.Obs, same.Obs)
}

func TestAutoresetDisabled(t *testing.T) {
	b := newBatch(t, vecenv.Config{Envs: 3, Steps: 3, Autoreset: vecenv.Disabled, Workers: 1})
	require.NoError(t, b.Reset(vecenv.ResetOptions{}))
	require.Equal(t, lane{3, 0, true, 1, 0}, lane0(t, b, 3)[2])
	require.ErrorContains(t, b.Step(vecenv.Actions{}), "environment 0: its episode has ended and autoreset is disabled")
	require.NoError(t, b.Reset(vecenv.ResetOptions{Mask: []bool{true, false, true}}))
	require.ErrorContains(t, b.Step(vecenv.Actions{}), "environment 1: its episode has ended")
	require.Equal(t, []lane{{0, 1, false, 0, 0}, {3, 0, true, 1, 0}, {0, 1, false, 0, 0}}, lanes(b))
	require.NoError(t, b.Reset(vecenv.ResetOptions{Mask: []bool{false, true, false}}))
	require.NoError(t, b.Step(vecenv.Actions{}))
}

// Rule 11.2: a masked reset touches the selected rows only and cancels a pending autoreset; a seed is the same episode
// wherever it stands.
func TestMaskedReset(t *testing.T) {
	b := newBatch(t, vecenv.Config{Envs: 3, Steps: 3, Seed: 9, Workers: 1, Outputs: vecenv.AllOutputs})
	require.NoError(t, b.Reset(vecenv.ResetOptions{}))
	lane0(t, b, 3) // all have ended: next-step resets are pending
	before := slices.Clone(b.Obs)
	require.NoError(t, b.Reset(vecenv.ResetOptions{Mask: []bool{false, true, false}}))
	row := vecenv.ObsLen(64)
	require.Equal(t, before[:row], b.Obs[:row])
	require.Equal(t, before[2*row:], b.Obs[2*row:])
	require.NotEqual(t, before[row:2*row], b.Obs[row:2*row])
	require.Equal(t, []lane{{3, 0, true, 1, 0}, {0, 1, false, 0, 0}, {3, 0, true, 1, 0}}, lanes(b))
	require.NoError(t, b.Step(vecenv.Actions{})) // the others' pending resets, a step for the one reset by hand
	require.Equal(t, []lane{{0, 1, false, 0, 0}, {1, 1, true, 0, 0}, {0, 1, false, 0, 0}}, lanes(b))
}

func TestSeededReset(t *testing.T) {
	b := newBatch(t, vecenv.Config{Envs: 4, Workers: 1, FirstEnv: 50})
	require.NoError(t, b.Reset(vecenv.ResetOptions{Seeds: []uint64{5, 6, 5, 5}}))
	row := vecenv.ObsLen(64)
	for _, i := range []int{2, 3} {
		require.Equal(t, b.Obs[:row], b.Obs[i*row:(i+1)*row], "seed 5 in row %d", i)
	}
	require.NotEqual(t, b.Obs[:row], b.Obs[row:2*row])
	require.Equal(t, scenario.Identity{Seed: 6}, b.Identity(1))

	ids := []scenario.Identity{{Seed: 5}, {Seed: 1, Env: 2, Episode: 3}, {}, {Env: 1 << 31}}
	require.NoError(t, b.Reset(vecenv.ResetOptions{Identities: ids}))
	for i, id := range ids {
		require.Equal(t, id, b.Identity(i))
	}
	require.NoError(t, b.Reset(vecenv.ResetOptions{}))
	require.Equal(t, scenario.Identity{Seed: 1, Env: 2, Episode: 4}, b.Identity(1), "the next episode of the same stream")
}
