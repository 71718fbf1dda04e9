package toolenv

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/policy"
	"github.com/kvgym/kvgym/reward"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/vecenv"
	"github.com/stretchr/testify/require"
)

var profiles = []vecenv.Profile{vecenv.Seed, vecenv.Serving}

func open1(t testing.TB, cfg vecenv.Config) *Env {
	t.Helper()
	e, err := Open(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	return e
}

func step(t testing.TB, e *Env) string {
	t.Helper()
	message, _, err := e.Step()
	require.NoError(t, err)
	return message
}

func on(slot int) string { return fmt.Sprintf(`{"seq_id": %d}`, slot) }

// at is what slot holds now.
func at(t testing.TB, e *Env, slot int) vecenv.SlotState {
	t.Helper()
	s, ok := e.batch.View(0).Slot(slot)
	require.True(t, ok, "slot %d", slot)
	return s
}

// find is the slot of a live sequence that something is true of.
func find(t testing.TB, e *Env, is func(s *vecenv.SlotState) bool) int {
	t.Helper()
	found := -1
	e.batch.View(0).Live(func(s *vecenv.SlotState) bool {
		if is(s) {
			found = s.Slot
		}
		return found < 0
	})
	require.GreaterOrEqual(t, found, 0)
	return found
}

// lasting is a sequence that will still be there in some steps.
func lasting(s *vecenv.SlotState) bool {
	return s.Type != kv.System && s.Remaining > 8*s.Rate && s.CostQP >= 4
}

// The seed's first trap: a compress after the first did nothing, so int4 was never reached.
func TestRepeatedCompressReachesInt4(t *testing.T) {
	e := open1(t, vecenv.Config{Seed: 42})
	slot := find(t, e, lasting)
	require.Contains(t, e.Call("compress", on(slot)), "compressed to int8")
	step(t, e)
	require.Equal(t, kv.INT8, at(t, e, slot).Quant)
	require.Contains(t, e.Call("compress", on(slot)), "compressed to int4")
	step(t, e)
	require.Equal(t, kv.INT4, at(t, e, slot).Quant)
	require.Contains(t, e.Call("compress", on(slot)), "refused")
	require.Equal(t, map[Fault]int{AtInt4: 1}, e.Result().Faults)
	require.EqualValues(t, 2, e.Result().Metrics["compressions"])
}

// The seed's second trap: one tool a step made the load uncontrollable. All calls of a turn count, in their order, also two on one sequence.
func TestAllCallsOfATurnApply(t *testing.T) {
	e := open1(t, vecenv.Config{Seed: 42})
	var slots []int
	e.batch.View(0).Live(func(s *vecenv.SlotState) bool {
		if lasting(s) {
			slots = append(slots, s.Slot)
		}
		return true
	})
	require.GreaterOrEqual(t, len(slots), 4)
	e.Call("evict", on(slots[0]))
	e.Call("compress", on(slots[1]))
	e.Call("compress", on(slots[1]))
	e.Call("swap_to_cpu", on(slots[2]))
	e.Call("compress", on(slots[3]))
	e.Call("keep", "{}")
	step(t, e)
	r := e.Result()
	require.Empty(t, r.Faults)
	require.Equal(t, map[string]int{"evict": 1, "compress": 3, "swap_to_cpu": 1, "keep": 1}, r.Calls)
	require.EqualValues(t, []float64{1, 3, 1, 0}, []float64{r.Metrics["evictions"], r.Metrics["compressions"], r.Metrics["swaps"], r.Metrics["invalid_actions"]})
	require.Equal(t, kv.INT4, at(t, e, slots[1]).Quant)
	require.True(t, at(t, e, slots[2]).Swapped)
	require.Equal(t, kv.INT8, at(t, e, slots[3]).Quant)
}

// The seed's third trap: throughput was divided by the number of steps once more than it should.
func TestThroughputIsNormalisedOnce(t *testing.T) {
	for env := range uint32(8) {
		e := open1(t, vecenv.Config{Seed: 42, FirstEnv: env})
		for range 15 {
			step(t, e)
		}
		r := e.Result()
		tokens := r.Metrics["total_tokens_metric"]
		require.Greater(t, tokens, 100.0)
		require.InDelta(t, min(tokens/500, 1), r.Components["throughput_reward"], 1e-6)
	}
}

// The fifteenth turn is played like the others, and it is the last.
func TestTheLastTurnIsPlayed(t *testing.T) {
	for _, profile := range profiles {
		e := open1(t, vecenv.Config{Seed: 42, Profile: profile})
		for turn := 1; turn <= 15; turn++ {
			require.False(t, e.Result().Done)
			slot := find(t, e, func(s *vecenv.SlotState) bool { return s.Type != kv.System })
			require.Contains(t, e.Call("evict", on(slot)), "evicted")
			message, done, err := e.Step()
			require.NoError(t, err)
			require.Equal(t, turn == 15, done)
			require.True(t, strings.HasPrefix(message, fmt.Sprintf("Step %d of 15 done", turn)), message)
			require.Equal(t, turn == 15, strings.Contains(message, "The episode is over"))
			require.EqualValues(t, turn, e.Result().Metrics["evictions"])
		}
		require.Equal(t, 15, e.Result().Turns)
		require.True(t, e.Result().Done)
		require.Contains(t, e.Call("evict", on(1)), "the episode is over")
		_, _, err := e.Step()
		require.EqualError(t, err, "toolenv: step: 16: allowed 15, the episode is over")
		calls, err := e.Suggest("greedy")
		require.NoError(t, err)
		require.Empty(t, calls)
		require.Equal(t, map[Fault]int{AfterEnd: 1}, e.Result().Faults)
	}
}

// player plays several episodes by tools and the same operations in a plain batch.
type player struct {
	envs  []*Env
	batch *vecenv.Batch
	sums  []float32
}

func newPlayer(t testing.TB, envs int, cfg vecenv.Config) *player {
	p := &player{sums: make([]float32, envs)}
	cfg.FirstEnv = 5
	for i := range envs {
		one := cfg
		one.FirstEnv += uint32(i)
		p.envs = append(p.envs, open1(t, one))
	}
	cfg.Envs, cfg.Workers, cfg.Outputs = envs, 2, vecenv.AllOutputs
	var err error
	p.batch, err = vecenv.New(cfg)
	require.NoError(t, err)
	t.Cleanup(p.batch.Close)
	require.NoError(t, p.batch.Reset(vecenv.ResetOptions{}))
	return p
}

// step steps both and compares them to the last bit.
func (p *player) step(t testing.TB) {
	perEnv := 0
	for _, e := range p.envs {
		perEnv = max(perEnv, len(e.list)/2)
	}
	list := make([]int32, len(p.envs)*perEnv*2)
	for i, e := range p.envs {
		copy(list[i*perEnv*2:], e.list)
	}
	require.NoError(t, p.batch.Step(vecenv.Actions{List: list, PerEnv: perEnv}))
	for i, e := range p.envs {
		_, done, err := e.Step()
		require.NoError(t, err)
		require.Equal(t, p.batch.Terminated[i] != 0, done)
		p.sums[i] += p.batch.Reward[i]
		r := e.Result()
		require.Equal(t, float64(p.sums[i]), r.Score, "an episode's rewards sum to its score")
		weights, terms := p.batch.View(i).Totals(), 0
		for k, name := range reward.Names {
			if w := weights.Weights()[k]; w != 0 {
				terms++
				require.Equal(t, float64(p.batch.Components[i*reward.NumTerms+k]), r.Components[name], name)
				require.Equal(t, float64(w)/100, r.Weights[name], name)
			}
		}
		require.Len(t, r.Components, terms)
		for k, name := range vecenv.MetricNames {
			require.Equal(t, float64(p.batch.Metrics[i*vecenv.NumMetrics+k]), r.Metrics[name], name)
		}
		require.Equal(t, p.batch.View(i).Episode().DrawnFrom.String(), r.Difficulty)
	}
}

// The same operations give a tensor batch the same components, metrics and rewards, to the last bit.
func TestEqualToTheTensorEnvironment(t *testing.T) {
	for _, profile := range profiles {
		for _, d := range []scenario.Difficulty{scenario.Easy, scenario.Medium, scenario.Hard, scenario.All} {
			p := newPlayer(t, 6, config(t, profile, 64, 15, d))
			r := rand.New(rand.NewPCG(uint64(profile), uint64(d)))
			for range 15 {
				for _, e := range p.envs {
					callAtRandom(r, e, 3)
				}
				p.step(t)
			}
		}
	}
}

// config is that of an episode of a difficulty.
func config(t testing.TB, profile vecenv.Profile, slots, steps int, d scenario.Difficulty) vecenv.Config {
	cfg := vecenv.Config{Seed: 42, Profile: profile, Slots: slots, Steps: steps}
	var err error
	if profile == vecenv.Serving {
		cfg.Preset, err = kv.PresetNamed(vecenv.DefaultPreset)
		require.NoError(t, err)
		cfg.Source, err = scenario.NewAgents(slots, steps, d, cfg.Preset)
	} else {
		cfg.Source, err = scenario.NewSynthetic(slots, steps, d)
	}
	require.NoError(t, err)
	return cfg
}

// Playing what a baseline suggests is playing the baseline.
func TestSuggestPlaysTheBaseline(t *testing.T) {
	for _, profile := range profiles {
		for _, name := range policy.Names() {
			cfg := config(t, profile, 64, 15, scenario.Hard)
			e := open1(t, cfg)
			cfg.Envs, cfg.Workers = 1, 1
			b, err := vecenv.New(cfg)
			require.NoError(t, err)
			require.NoError(t, b.Reset(vecenv.ResetOptions{}))
			p, err := policy.New(name)
			require.NoError(t, err)
			d := policy.NewDriver(p, 1, 64)
			for range 15 {
				calls, err := e.Suggest(name)
				require.NoError(t, err)
				for _, c := range calls {
					e.Call(c.Name, c.Arguments)
				}
				step(t, e)
				require.NoError(t, b.Step(d.Decide(b)))
				require.Equal(t, float64(b.View(0).Score())/reward.ScoreOne, e.Result().Score, "%s %s", profile, name)
			}
			b.Close()
		}
	}
	_, err := open1(t, vecenv.Config{}).Suggest("oracle")
	require.ErrorContains(t, err, "policy: \"oracle\": allowed noop, random")
}

// An Env is one environment, wherever its configuration comes from.
func TestOpenTakesOneEnvironment(t *testing.T) {
	_, err := Open(vecenv.Config{Envs: 2})
	require.EqualError(t, err, "toolenv: Envs: 2: allowed 0, 1")
	_, err = Open(vecenv.Config{Slots: 65})
	require.ErrorContains(t, err, "slots: 65")
	a, b := open1(t, vecenv.Config{Envs: 1, Seed: 7, Workers: 9, Groups: 1, Autoreset: vecenv.SameStep, Truncate: true, NoObs: true}), open1(t, vecenv.Config{Seed: 7})
	for range 15 {
		require.Equal(t, a.Prompt(), b.Prompt())
		require.Equal(t, step(t, a), step(t, b))
	}
	require.Equal(t, a.Result(), b.Result())
}

// A closed Env answers, and Close may come while another goroutine calls.
func TestClose(t *testing.T) {
	e, err := Open(vecenv.Config{})
	require.NoError(t, err)
	var playing sync.WaitGroup
	started := make(chan struct{})
	for range 3 {
		playing.Go(func() {
			for i := range 100_000 {
				if i == 1 {
					select {
					case started <- struct{}{}:
					default:
					}
				}
				e.Call("compress", on(i%64))
				if _, _, err := e.Step(); err == ErrClosed {
					return
				}
				e.Observe()
				e.Result()
			}
		})
	}
	<-started
	require.NoError(t, e.Close())
	playing.Wait()
	require.NoError(t, e.Close())
	require.Equal(t, "refused: closed", e.Call("keep", ""))
	_, _, err = e.Step()
	require.ErrorIs(t, err, ErrClosed)
	_, err = e.Suggest("greedy")
	require.ErrorIs(t, err, ErrClosed)
	require.Equal(t, Result{}, e.Result())
}

// The tools are what clients of the protocol expect.
func TestTools(t *testing.T) {
	text, err := json.Marshal(Tools())
	require.NoError(t, err)
	var tools []struct {
		Type     string
		Function struct {
			Name, Description string
			Parameters        struct {
				Type                 string
				Properties           map[string]struct{ Type, Description string }
				Required             []string
				AdditionalProperties *bool
			}
		}
	}
	require.NoError(t, json.Unmarshal(text, &tools))
	require.Len(t, tools, 4)
	for i, name := range []string{"evict", "compress", "swap_to_cpu", "keep"} {
		f := tools[i].Function
		require.Equal(t, []string{"function", name, "object"}, []string{tools[i].Type, f.Name, f.Parameters.Type})
		require.NotEmpty(t, f.Description)
		require.False(t, *f.Parameters.AdditionalProperties)
		if name == "keep" {
			require.Empty(t, f.Parameters.Properties)
			require.NotNil(t, f.Parameters.Required)
			continue
		}
		require.Equal(t, []string{"seq_id"}, f.Parameters.Required)
		require.Equal(t, "integer", f.Parameters.Properties["seq_id"].Type)
	}
}
