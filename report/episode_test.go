package report_test

import (
	"encoding/json"
	"math"
	"path/filepath"
	"testing"

	"github.com/kvgym/kvgym/report"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/vecenv"
	"github.com/stretchr/testify/require"
)

// What DrawScenario says was drawn is what the batch plays: the initial sequences that fit stand in slots in their order,
// and every step's arrivals are in the queue, or admitted or rejected.
func TestDrawScenario(t *testing.T) {
	easy, err := scenario.NewSynthetic(64, 15, scenario.Easy)
	require.NoError(t, err)
	hard, err := scenario.NewSynthetic(64, 15, scenario.Hard)
	require.NoError(t, err)
	traffic, err := scenario.LoadTraffic(scenario.TrafficConfig{Path: filepath.Join("..", "vecenv", "testdata", "traffic.jsonl")})
	require.NoError(t, err)
	for _, src := range []scenario.Source{easy, hard, traffic} {
		b, err := vecenv.New(vecenv.Config{Envs: 20, Workers: 1, Source: src, Outputs: vecenv.WithMetrics, Autoreset: vecenv.Disabled})
		require.NoError(t, err)
		defer b.Close()
		require.NoError(t, b.Reset(vecenv.ResetOptions{}))
		drawn := make([]report.Scenario, 20)
		for i := range drawn {
			drawn[i] = report.DrawScenario(b, i, true)
			requireInitial(t, &drawn[i])
			requireRoundTrip(t, &drawn[i])
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
				requireRoundTrip(t, &st)
			}
		}
	}
}

// requireRoundTrip asserts that a document survives JSON bit for bit, which it could not with a NaN or an infinity in it.
func requireRoundTrip[T any](t *testing.T, document *T) {
	text, err := json.Marshal(document)
	require.NoError(t, err)
	var back T
	require.NoError(t, json.Unmarshal(text, &back))
	again, err := json.Marshal(&back)
	require.NoError(t, err)
	require.Equal(t, string(text), string(again))
	if st, ok := any(document).(*report.Step); ok {
		for k, x := range st.Obs {
			require.Equal(t, math.Float32bits(x), math.Float32bits(any(&back).(*report.Step).Obs[k]))
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
