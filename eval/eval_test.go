package eval_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kvgym/kvgym/eval"
	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/policy"
	"github.com/kvgym/kvgym/reward"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/toolenv/scripted"
	"github.com/kvgym/kvgym/vecenv"
	"github.com/stretchr/testify/require"
)

// serve starts a scripted model.
func serve(t testing.TB, cfg scripted.Config) (*scripted.Server, *eval.Model) {
	s, err := scripted.New(cfg)
	require.NoError(t, err)
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	return s, model(h)
}

func model(h *httptest.Server) *eval.Model {
	return &eval.Model{Name: "scripted", BaseURL: h.URL + "/v1", Key: "none", MaxRetries: 8, Timeout: 20 * time.Second, MaxDelay: 20 * time.Millisecond}
}

// config is a small evaluation of seed 42, on episodes of all difficulties.
func config(t testing.TB, m *eval.Model, policies ...string) eval.Config {
	source, err := scenario.NewSynthetic(64, 15, scenario.All)
	require.NoError(t, err)
	return eval.Config{Out: filepath.Join(t.TempDir(), "out"), Env: vecenv.Config{Seed: 42, Source: source}, Difficulty: scenario.All, Model: m, Policies: policies, Examples: 6}
}

func serving(t testing.TB, cfg eval.Config) eval.Config {
	preset, err := kv.PresetNamed(vecenv.DefaultPreset)
	require.NoError(t, err)
	cfg.Env.Profile, cfg.Env.Preset = vecenv.Serving, preset
	cfg.Env.Source, err = scenario.NewAgents(64, 15, scenario.All, preset)
	require.NoError(t, err)
	return cfg
}

func run(t testing.TB, cfg eval.Config) *eval.Summary {
	s, err := eval.Run(context.Background(), cfg, nil)
	require.NoError(t, err)
	return s
}

// rows are the rows of a folder, in the order of player, example, rollout.
func rows(t testing.TB, out string) (all []*eval.Row) {
	require.NoError(t, eval.ReadRows(out, func(r *eval.Row) error { all = append(all, r); return nil }))
	slices.SortFunc(all, func(a, b *eval.Row) int {
		return slices.Compare([]string{a.Policy, fmt.Sprintf("%9d %9d", a.Example, a.Rollout)}, []string{b.Policy, fmt.Sprintf("%9d %9d", b.Example, b.Rollout)})
	})
	return all
}

// operations are what a conversation did, turn by turn: the calls that were not refused.
func operations(t *testing.T, r *eval.Row) (turns [][]int32) {
	ops := map[string]kv.Op{"evict": kv.Evict, "compress": kv.Compress, "swap_to_cpu": kv.Swap}
	type message struct {
		Role      string
		Content   string
		ToolCalls []struct {
			Function struct{ Name, Arguments string }
		} `json:"tool_calls"`
	}
	var calls []message
	for _, raw := range r.Messages {
		var m message
		require.NoError(t, json.Unmarshal(raw, &m))
		switch m.Role {
		case "assistant":
			turns, calls = append(turns, nil), append(calls[:0], m)
		case "tool":
			c := calls[0].ToolCalls[0].Function
			calls[0].ToolCalls = calls[0].ToolCalls[1:]
			if op, ok := ops[c.Name]; ok && !strings.HasPrefix(m.Content, "refused") {
				var args struct {
					ID int32 `json:"seq_id"`
				}
				require.NoError(t, json.Unmarshal([]byte(c.Arguments), &args))
				turns[len(turns)-1] = append(turns[len(turns)-1], int32(op), args.ID)
			}
		}
	}
	return turns
}

// replayed plays the operations of all rows in one batch of the tensor environment.
func replayed(t *testing.T, cfg vecenv.Config, played []*eval.Row) *vecenv.Batch {
	const perEnv = 256
	cfg.Envs, cfg.Autoreset, cfg.Outputs = len(played), vecenv.Disabled, vecenv.AllOutputs
	cfg.Slots, cfg.Steps = cfg.Source.Shape().Slots, cfg.Source.Shape().Steps
	b, err := vecenv.New(cfg)
	require.NoError(t, err)
	require.NoError(t, b.Reset(vecenv.ResetOptions{}))
	all := make([][][]int32, len(played))
	for i, r := range played {
		require.Equal(t, i, r.Example)
		all[i] = operations(t, r)
		require.Len(t, all[i], cfg.Steps)
	}
	for step := range cfg.Steps {
		list := make([]int32, 2*perEnv*len(played))
		for i := range played {
			require.LessOrEqual(t, copy(list[2*perEnv*i:], all[i][step]), 2*perEnv)
		}
		require.NoError(t, b.Step(vecenv.Actions{List: list, PerEnv: perEnv}))
	}
	return b
}

// Models over HTTP score to the last bit what the tensor environment gives for the same operations, in both profiles.
func TestScoresEqualTheTensorEnvironments(t *testing.T) {
	for _, p := range []string{"greedy", "random", "compress-all"} {
		for _, profile := range []vecenv.Profile{vecenv.Seed, vecenv.Serving} {
			_, m := serve(t, scripted.Config{Policy: p})
			cfg := config(t, m)
			if profile == vecenv.Serving {
				cfg = serving(t, cfg)
			}
			sum := run(t, cfg)
			require.Zero(t, sum.Failed)
			played := rows(t, cfg.Out)
			require.Len(t, played, 6)
			b := replayed(t, cfg.Env, played)
			total := 0.0
			for i, r := range played {
				v := b.View(i)
				require.Equal(t, float64(v.Score())/reward.ScoreOne, *r.Score, "%s, %s, example %d", p, profile, i)
				require.Equal(t, v.Episode().DrawnFrom.String(), r.Difficulty)
				for k, name := range reward.Names {
					if x, ok := r.Components[name]; ok {
						require.Equal(t, float64(b.Components[i*len(reward.Names)+k]), x, name)
					}
				}
				for k, name := range vecenv.MetricNames {
					require.Equal(t, float64(b.Metrics[i*vecenv.NumMetrics+k]), r.Metrics[name], name)
				}
				require.Equal(t, 15, r.Turns)
				require.Len(t, r.Memory, 16)
				require.Positive(t, r.PromptTokens)
				total += *r.Score
			}
			last := sum.Groups[len(sum.Groups)-1]
			require.Equal(t, eval.AllDifficulties, last.Difficulty)
			require.InDelta(t, total/6, float64(last.Reward), 1e-12)
		}
	}
}

// A policy through the tools is the policy on the tensors, in both profiles. (In the serving profile one that swaps first and evicts afterwards, as
// random does, need not be: a call is answered before the next one is known, and CPU memory may be full by then.)
func TestPoliciesEqualTheTensorEnvironments(t *testing.T) {
	seed := config(t, nil, "greedy", "lru", "random")
	for _, cfg := range []eval.Config{seed, serving(t, config(t, nil, "swap-idle", "tiered"))} {
		run(t, cfg)
		played := rows(t, cfg.Out)
		for n, name := range cfg.Policies {
			env := cfg.Env
			env.Envs, env.Autoreset, env.Slots, env.Steps = 6, vecenv.Disabled, 64, 15
			b, err := vecenv.New(env)
			require.NoError(t, err)
			require.NoError(t, b.Reset(vecenv.ResetOptions{}))
			p, err := policy.New(name)
			require.NoError(t, err)
			d := policy.NewDriver(p, 6, 64)
			for range 15 {
				require.NoError(t, b.Step(d.Decide(b)))
			}
			for i, r := range played[6*n : 6*n+6] {
				require.Equal(t, name, r.Policy)
				require.Equal(t, float64(b.View(i).Score())/reward.ScoreOne, *r.Score, "%s, example %d", name, i)
				require.Zero(t, r.Requests)
			}
		}
	}
}

// Rollouts of an example start from the same scenario, whatever the player.
func TestRolloutsShareTheScenario(t *testing.T) {
	_, m := serve(t, scripted.Config{Policy: "noop"})
	cfg := config(t, m, "noop")
	cfg.Examples, cfg.Rollouts, cfg.Concurrent = 3, 4, 5
	sum := run(t, cfg)
	require.Equal(t, 24, sum.Episodes)
	first := map[int]*eval.Row{}
	for _, r := range rows(t, cfg.Out) {
		if was := first[r.Example]; was != nil {
			require.Equal(t, was.Messages[:2], r.Messages[:2])
			require.Equal(t, *was.Score, *r.Score)
			require.Equal(t, was.Memory, r.Memory)
		}
		first[r.Example] = r
	}
	require.Len(t, first, 3)
	require.NotEqual(t, first[0].Messages[1], first[1].Messages[1])
}

// What the flags of sampling say is what the endpoint gets, and the reply goes back into the conversation as it came, without nulls.
func TestRequests(t *testing.T) {
	var last atomic.Value
	inside, most := atomic.Int32{}, atomic.Int32{}
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		most.Store(max(most.Load(), inside.Add(1)))
		defer inside.Add(-1)
		var body map[string]any
		require.NoError(t, json.NewDecoder(r.Body).Decode(&body))
		last.Store(body)
		require.Equal(t, "Bearer the-key", r.Header.Get("Authorization"))
		time.Sleep(2 * time.Millisecond)
		w.Header().Set("Content-Type", "text/plain") // as some proxies have it
		fmt.Fprint(w, `{"choices":[{"message":{"role":"assistant","content":null,"refusal":null,"tool_calls":[],"reasoning_content":"hm","extra":{"a":null}},"finish_reason":"length"}],`+
			`"usage":{"prompt_tokens":10,"completion_tokens":3,"total_tokens":13,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":2}}}`)
	}))
	defer h.Close()
	m := model(h)
	temperature, topP, tokens := 0.5, 0.9, int64(77)
	m.Key, m.Sampling = "the-key", eval.Sampling{Temperature: &temperature, TopP: &topP, MaxTokens: &tokens, ReasoningEffort: "low"}
	require.NoError(t, m.Sampling.ParseExtra(`{"top_k": 20, "chat_template_kwargs": {"enable_thinking": false}, "a.b": [1]}`))
	cfg := config(t, m)
	cfg.Rollouts, cfg.Concurrent = 4, 3
	run(t, cfg)
	body := last.Load().(map[string]any)
	require.LessOrEqual(t, most.Load(), int32(3))
	for name, want := range map[string]any{"model": "scripted", "temperature": 0.5, "top_p": 0.9, "max_completion_tokens": 77.0, "reasoning_effort": "low", "top_k": 20.0,
		"chat_template_kwargs": map[string]any{"enable_thinking": false}, "a.b": []any{1.0}} {
		require.Equal(t, want, body[name], name)
	}
	require.Len(t, body["tools"], 4)
	r := rows(t, cfg.Out)[0]
	require.Equal(t, []any{15, 0, 15, int64(150), int64(60), int64(45), int64(30)},
		[]any{r.Requests, r.Retries, r.CutReplies, r.PromptTokens, r.CachedTokens, r.CompletionTokens, r.ReasoningTokens})
	require.Equal(t, 15, r.Faults["no_call"])
	require.JSONEq(t, `{"role":"assistant","content":"","reasoning_content":"hm","extra":{"a":null}}`, string(r.Messages[2]))
	text, err := os.ReadFile(filepath.Join(cfg.Out, "manifest.json"))
	require.NoError(t, err)
	require.NotContains(t, string(text), "the-key")
}

func TestConfigIsChecked(t *testing.T) {
	for says, change := range map[string]func(*eval.Config){
		"eval: examples: -1: allowed 1 to 1048576":                                       func(c *eval.Config) { c.Examples = -1 },
		"eval: rollouts: 65537: allowed 1 to 65536":                                      func(c *eval.Config) { c.Rollouts = 65537 },
		"eval: concurrent: 4097: allowed 1 to 4096":                                      func(c *eval.Config) { c.Concurrent = 4097 },
		`eval: out: "": allowed a folder`:                                                func(c *eval.Config) { c.Out = "" },
		"eval: source: none: allowed one":                                                func(c *eval.Config) { c.Env.Source = nil },
		"eval: players: none: allowed a model, policies, or both":                        func(c *eval.Config) { c.Model, c.Policies = nil, nil },
		`eval: policy: "best": allowed noop`:                                             func(c *eval.Config) { c.Policies = []string{"best"} },
		"eval: policy: noop: allowed each name once":                                     func(c *eval.Config) { c.Policies = []string{"noop", "noop"} },
		"eval: policy: noop: allowed each name once, and none that is the model's":       func(c *eval.Config) { c.Model.Name = "noop" },
		`eval: model: "": allowed the name of a model`:                                   func(c *eval.Config) { c.Model.Name = "" },
		`eval: base url: "127.0.0.1:80": allowed an http or https URL`:                   func(c *eval.Config) { c.Model.BaseURL = "127.0.0.1:80" },
		"eval: timeout and retries: negative: allowed 0 or more":                         func(c *eval.Config) { c.Model.MaxRetries = -1 },
		"eval: sampling: messages: allowed all fields of a request but model, messages,": func(c *eval.Config) { c.Model.Sampling.Extra = map[string]json.RawMessage{"messages": nil} },
	} {
		cfg := config(t, &eval.Model{Name: "scripted", BaseURL: "http://127.0.0.1:1"}, "noop")
		change(&cfg)
		_, err := eval.Run(t.Context(), cfg, nil)
		require.ErrorContains(t, err, says)
	}
}

func TestLoopback(t *testing.T) {
	for base, want := range map[string]bool{"http://127.0.0.1:8000/v1": true, "http://localhost/v1": true, "http://[::1]:80": true, "https://api.openai.com/v1": false,
		"http://127.0.0.1.example.com": false, "http://10.0.0.1": false, "://": false} {
		require.Equal(t, want, eval.Loopback(base), base)
	}
}

// As many episodes as are allowed are under way at a time: here none gets its first reply before all wait for it.
func TestConcurrentEpisodes(t *testing.T) {
	n := 256
	if testing.Short() {
		n = 32
	}
	s, err := scripted.New(scripted.Config{Policy: "greedy"})
	require.NoError(t, err)
	var arrived atomic.Int32
	all := make(chan struct{})
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if arrived.Add(1) == int32(n) {
			close(all)
		}
		select {
		case <-all:
			s.ServeHTTP(w, r)
		case <-time.After(time.Minute):
			w.WriteHeader(http.StatusGatewayTimeout)
		}
	}))
	defer h.Close()
	cfg := config(t, model(h))
	cfg.Model.Timeout, cfg.Model.MaxRetries = 2*time.Minute, 0
	cfg.Examples, cfg.Concurrent = n, n
	sum := run(t, cfg)
	require.Equal(t, []int{n, 0}, []int{sum.Episodes, sum.Failed})
	require.EqualValues(t, 15*n, arrived.Load())
}
