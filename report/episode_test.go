package report_test

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/kvgym/kvgym/report"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/vecenv"
	"github.com/stretchr/testify/require"
)

// What DrawScenario says was drawn is what the batch plays: the initial sequences that fit stand in slots in their order,
// and every step's arrivals are in the queue, or admitted or rejected.
func TestDrawScenario(t *testing.T) {
	for _, d := range []scenario.Difficulty{scenario.Easy, scenario.Hard} {
		src, err := scenario.NewSynthetic(64, 15, d)
		require.NoError(t, err)
		b, err := vecenv.New(vecenv.Config{Envs: 20, Workers: 1, Source: src, Outputs: vecenv.WithMetrics, Autoreset: vecenv.Disabled})
		require.NoError(t, err)
		defer b.Close()
		require.NoError(t, b.Reset(vecenv.ResetOptions{}))
		drawn := make([]report.Scenario, 20)
		for i := range drawn {
			drawn[i] = report.DrawScenario(b, i, true)
			requireInitial(t, &drawn[i])
		}
		score := make([]int64, 20)
		for range 15 {
			require.NoError(t, b.Step(vecenv.Actions{}))
			for i := range drawn {
				st := report.StepOf(b, i, nil, true)
				requireArrivals(t, &drawn[i], &st)
				require.Equal(t, st.State.ScoreFixed-score[i], st.RewardFixed)
				require.Equal(t, float64(st.RewardFixed)/(1<<20), float64(st.Reward))
				score[i] = st.State.ScoreFixed
				text, err := json.Marshal(st)
				require.NoError(t, err, "no NaN")
				var back report.Step
				require.NoError(t, json.Unmarshal(text, &back))
				for k, x := range st.Obs {
					require.Equal(t, math.Float32bits(x), math.Float32bits(back.Obs[k]), "float32 survive JSON")
				}
			}
		}
	}
}

func requireInitial(t *testing.T, s *report.Scenario) {
	k := 0
	for _, q := range s.Initial {
		if k < len(s.State.Slots) {
			slot := s.State.Slots[k]
			prefix := uint32(0)
			if q.Prefix > 0 {
				prefix = 128 * uint32(s.PrefixPages[q.Prefix-1])
			}
			if slot.Tokens == q.PromptTokens+uint32(q.DoneTokens)+prefix && slot.Type == q.Type && slot.Priority == uint32(q.Priority) {
				require.Equal(t, k, slot.Slot)
				require.Equal(t, []any{q.Phase, q.Hotness, q.Timer, int(q.LastAccess)}, []any{slot.Phase, slot.Hotness, slot.Timer, slot.LastAccess})
				k++
			}
		}
	}
	require.Len(t, s.State.Slots, k, "every slot holds an initial sequence, in order")
	require.Equal(t, len(s.Arrivals[0].Requests), len(s.State.Queue))
}

func requireArrivals(t *testing.T, s *report.Scenario, st *report.Step) {
	arrived := 0
	for _, a := range s.Arrivals[:st.Step+1] {
		arrived += len(a.Requests)
	}
	require.EqualValues(t, arrived, st.State.Arrived)
	for _, q := range st.State.Queue {
		require.Contains(t, s.Arrivals[q.Arrived].Requests, q.Request)
	}
}
