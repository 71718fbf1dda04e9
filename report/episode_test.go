package report_test

import (
	"encoding/json"
	"math"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/kvgym/kvgym/kv"
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
		testDocuments(t, vecenv.Config{Source: src}, func(text string) {
			for _, name := range []string{"serving", "preset", "good_norm", "request_norm", "ref", "turns", "born", "again"} {
				require.False(t, strings.Contains(text, `"`+name+`":`), name)
			}
		})
	}
}

// The same for the serving profile, whose documents hold more.
func TestDrawScenarioServing(t *testing.T) {
	preset, err := scenario.LoadPreset(filepath.Join("testdata", "slow-link.toml"))
	require.NoError(t, err)
	var sources []scenario.Source
	for _, d := range []scenario.Difficulty{scenario.Easy, scenario.Hard} {
		src, err := scenario.NewAgents(64, 15, d, preset)
		require.NoError(t, err)
		sources = append(sources, src)
	}
	for _, closed := range []bool{false, true} {
		src, err := scenario.LoadTraffic(scenario.TrafficConfig{Path: filepath.Join("..", "vecenv", "testdata", "traffic.jsonl"), Serving: &preset, Closed: closed})
		require.NoError(t, err)
		sources = append(sources, src)
	}
	for _, src := range sources {
		testDocuments(t, vecenv.Config{Profile: vecenv.Serving, Preset: preset, ServingSource: src}, func(text string) {
			for _, name := range []string{"profile", "preset", "good_norm", "request_norm", "ref", "turns", "serving", "prefix_multipliers"} {
				require.True(t, strings.Contains(text, `"`+name+`":`), name)
			}
		})
	}
}

// testDocuments plays 20 episodes without actions and compares what their documents say. draws looks at the text of the first.
func testDocuments(t *testing.T, cfg vecenv.Config, draws func(text string)) {
	cfg.Envs, cfg.Workers, cfg.Outputs, cfg.Autoreset = 20, 1, vecenv.WithMetrics, vecenv.Disabled
	b, err := vecenv.New(cfg)
	require.NoError(t, err)
	defer b.Close()
	require.NoError(t, b.Reset(vecenv.ResetOptions{}))
	drawn := make([]report.Scenario, 20)
	for i := range drawn {
		drawn[i] = report.DrawScenario(b, i, true)
		require.Equal(t, cfg.Profile.String(), drawn[i].Profile)
		requireInitial(t, &drawn[i])
		text := requireRoundTrip(t, &drawn[i])
		if i == 0 {
			draws(text)
		}
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
			if cfg.Profile == vecenv.Serving {
				requireServing(t, b.View(i), &st)
			} else {
				require.Len(t, st.Components, 7)
				require.Len(t, st.Metrics, 14)
			}
		}
	}
}

// requireServing compares what the profile adds with the view and with the metrics.
func requireServing(t *testing.T, v vecenv.View, st *report.Step) {
	s := st.State.Serving
	require.Len(t, st.Components, 11)
	require.Equal(t, []float32{float32(s.Forced), float32(s.Late), float32(s.FirstTokens), float32(s.FirstWaits), float32(s.WasteUS)},
		[]float32{st.Metrics["forced_preemptions"], st.Metrics["late_turns"], st.Metrics["first_tokens"], st.Metrics["first_token_waits"], st.Metrics["waste_us"]})
	good := v.Totals().Serving
	require.Equal(t, int64(min(good.Goodput, good.GoodNorm)<<24/good.GoodNorm), st.ComponentsFixed["goodput"])
	require.Equal(t, good.Goodput, s.Goodput)
	for k, q := range v.AppendLive(nil) {
		got, x := st.State.Slots[k].Serving, v.ServingSlot(q.Slot)
		require.Equal(t, []any{q.WorkUS, q.Moving, q.Back, x.MoveQP, q.Wanted, q.First, x.Late, x.Born, x.Admit, x.TurnRef},
			[]any{got.WorkUS, got.Moving, got.Back, got.MoveQP, got.Wanted, got.First, got.Late, got.Born, got.Admit, got.Ref})
		require.Equal(t, q.Phase == kv.Idle && q.Type != kv.System, got.Wake != nil)
	}
}

// requireRoundTrip asserts that a document survives JSON bit for bit, which it could not with a NaN or an infinity in it.
func requireRoundTrip[T any](t *testing.T, document *T) string {
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
	return string(text)
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
				timer := int(slot.Timer)
				if slot.Serving != nil {
					require.Equal(t, q.Ref, slot.Serving.Ref)
					timer = int(q.Timer)
					if slot.Serving.Wake != nil {
						timer = *slot.Serving.Wake
					}
				}
				require.Equal(t, []any{q.Phase, q.Hotness, int(q.Timer), int(q.LastAccess)}, []any{slot.Phase, slot.Hotness, timer, slot.LastAccess})
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
		if q.Ticket == nil {
			require.Contains(t, s.Arrivals[q.Arrived].Requests, q.Request)
		} else if q.Born == q.Arrived && !q.Again { // as it arrived, not dropped since
			require.True(t, slices.ContainsFunc(s.Arrivals[q.Arrived].Requests, func(a report.Request) bool {
				a.Rate, a.Pauses = 0, false // which have no meaning here
				a.Session = &report.Session{Ref: a.Ref}
				return reflect.DeepEqual(a, q.Request)
			}))
		}
	}
}
