package export

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/vecenv"
)

func parse(t *testing.T, text string) *Spec {
	t.Helper()
	s, err := ParseSpec([]byte(text))
	require.NoError(t, err)
	return &s
}

func open1(t *testing.T, text string) *Env {
	t.Helper()
	e, err := Open(parse(t, text), vecenv.Buffers{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	return e
}

// Every refusal names the field and what it held.
func TestSpecErrors(t *testing.T) {
	for text, words := range map[string]string{
		``:                                     "config: one JSON object",
		`[]`:                                   "config: array",
		`{"envs":1} {}`:                        "config: one object",
		`{"envs":"8"}`:                         "config: envs: string",
		`{"envs":1.5}`:                         "config: envs",
		`{"envs":-1}`:                          "envs: -1",
		`{"envs":0}`:                           "envs: 0",
		`{"envs":1048577}`:                     "envs: 1048577: 1048576",
		`{"envs":1,"speed":2}`:                 "config: speed: unknown",
		`{"envs":1,"seed":-1}`:                 "config: seed",
		`{"envs":1,"first_env":4294967296}`:    "config: first_env",
		`{"envs":2,"first_env":4294967295}`:    "first_env: 4294967295",
		`{"envs":1,"slots":65}`:                "slots: 65",
		`{"envs":1,"slots":1024}`:              "slots: 1024",
		`{"envs":1,"steps":-1}`:                "steps: -1",
		`{"envs":1,"steps":4097}`:              "steps: 4097",
		`{"envs":1,"max_wait":-1}`:             "max_wait: -1",
		`{"envs":1,"profile":"Seed"}`:          `config: profile: "Seed": seed, serving`,
		`{"envs":1,"difficulty":"extreme"}`:    `config: difficulty: "extreme": easy, medium, hard, all`,
		`{"envs":1,"preset":"llama3-8b.a100"}`: "config: preset: without profile serving",
		`{"envs":1,"profile":"serving","preset":"none"}`:                               "config: none",
		`{"envs":1,"profile":"serving","preset":"/no/such.toml"}`:                      "config: /no/such.toml",
		`{"envs":1,"autoreset":"later"}`:                                               `config: autoreset: "later": next-step, same-step, disabled`,
		`{"envs":1,"outputs":["obs","reward"]}`:                                        `config: outputs: "reward": obs, mask, components, metrics`,
		`{"envs":1,"obs_dtype":"float16"}`:                                             `config: obs_dtype: "float16": float32, uint8`,
		`{"envs":1,"obs_order":"random"}`:                                              "config: obs_order: slot-major, feature-major",
		`{"envs":1,"stores":"fast"}`:                                                   "config: stores: auto, plain, stream",
		`{"envs":1,"workers":-1}`:                                                      "workers: -1",
		`{"envs":1,"workers":1025}`:                                                    "workers: 1025",
		`{"envs":4,"groups":5}`:                                                        "groups: 5: 1 to 4",
		`{"envs":4,"groups":-1}`:                                                       "groups: -1",
		`{"envs":1,"simd":"mmx"}`:                                                      `config: simd: "mmx": auto generic`,
		`{"envs":1,"trace":{}}`:                                                        "trace",
		`{"envs":1,"trace":{"path":"/no/such"}}`:                                       "config: /no/such",
		`{"envs":1,"trace":{"path":"x","format":"xml"}}`:                               `trace.format: "xml": mooncake`,
		`{"envs":1,"trace":{"path":"x","loop":"half"}}`:                                `trace.loop: "half": open, closed`,
		`{"envs":1,"trace":{"path":"x","loop":"closed"}}`:                              "loop: closed serving",
		`{"envs":1,"trace":{"path":"x","step_ms":-1}}`:                                 "step_ms: -1",
		`{"envs":1,"trace":{"path":"x","decode_rate":-1}}`:                             "decode_rate: -1",
		`{"envs":1,"trace":{"path":"x","decode_rate":10001}}`:                          "decode_rate: 10001",
		`{"envs":1,"trace":{"path":"x","sample":1001}}`:                                "sample: 1001",
		`{"envs":1,"trace":{"path":"x","sample":-1}}`:                                  "sample: -1",
		`{"envs":1,"profile":"serving","trace":{"path":"x","step_ms":3600001}}`:        "step_ms: 3600001",
		`{"envs":1,"trace":{"path":"x","speed":1}}`:                                    "config: speed: unknown",
		`{"envs":1,"profile":"` + strings.Repeat("x", 9999) + `"}`:                     "config: profile",
		`{"envs":1,"trace":{"path":"x","format":"` + strings.Repeat("x", 9999) + `"}}`: "trace.format",
	} {
		s, err := ParseSpec([]byte(text))
		if err == nil {
			_, err = Open(&s, vecenv.Buffers{})
		}
		if !assert.Error(t, err, "%.80s", text) {
			continue
		}
		for _, w := range strings.Fields(words) {
			assert.Contains(t, err.Error(), w, "%.80s", text)
		}
		assert.Less(t, len(err.Error()), 300, "%.80s", text)
		assert.Regexp(t, "allowed|no such file", err.Error(), "%.80s: %s", text, err)
	}
	require.Zero(t, open.envs, "a refused one is not open")
}

func TestSpecIsWhatVecenvIsGiven(t *testing.T) {
	s := parse(t, `{"envs":6,"slots":32,"steps":7,"max_wait":3,"seed":18446744073709551615,"first_env":4,"profile":"serving","preset":"llama3-8b.a100",
		"difficulty":"hard","autoreset":"disabled","truncate":true,"outputs":["mask","metrics"],"obs_dtype":"uint8","obs_order":"feature-major",
		"stores":"plain","workers":1,"groups":2}`)
	c, err := s.Config()
	require.NoError(t, err)
	require.NotNil(t, c.Source)
	c.Source, c.Preset.Name = nil, ""
	require.Equal(t, vecenv.Config{Envs: 6, Slots: 32, Steps: 7, MaxWait: 3, Seed: 1<<64 - 1, FirstEnv: 4, Profile: vecenv.Serving, Preset: c.Preset,
		Autoreset: vecenv.Disabled, Truncate: true, Outputs: vecenv.WithMask | vecenv.WithMetrics, NoObs: true, ObsType: vecenv.ObsU8,
		ObsOrder: vecenv.FeatureMajor, Stores: vecenv.PlainStores, Workers: 1, Groups: 2}, c)
}

func TestDefaults(t *testing.T) {
	d, err := Describe(parse(t, `{"envs":5,"groups":2}`))
	require.NoError(t, err)
	require.Equal(t, []Tensor{{"obs", "float32", []int{5, 784}}, {"reward", "float32", []int{5}}, {"terminated", "uint8", []int{5}}, {"truncated", "uint8", []int{5}}},
		d.Tensors)
	require.Equal(t, [][2]int{{0, 2}, {2, 5}}, d.Groups)
	require.Equal(t, []any{64, 15, "seed", "next-step", ABI}, []any{d.Slots, d.Steps, d.Profile, d.Autoreset, d.ABI})
	require.Contains(t, d.SIMDLevels, d.SIMD)
	d, err = Describe(parse(t, `{"envs":1,"outputs":[]}`))
	require.NoError(t, err)
	require.Len(t, d.Tensors, 3, "an empty list asks for none, not for the default")
}

// What Describe tells is what Open makes.
func TestDescribeEqualsOpen(t *testing.T) {
	for _, text := range []string{`{"envs":7,"groups":3}`, `{"envs":3,"slots":128,"autoreset":"same-step","obs_dtype":"uint8","outputs":["obs","mask","components","metrics"]}`} {
		d, err := Describe(parse(t, text))
		require.NoError(t, err)
		e := open1(t, text)
		cfg := e.batch.Config()
		require.Equal(t, []int{d.Envs, d.Slots, len(d.Groups)}, []int{cfg.Envs, cfg.Slots, cfg.Groups})
		for g, want := range d.Groups {
			first, end := e.batch.Group(g)
			require.Equal(t, want, [2]int{first, end})
		}
		sizes := map[string]int{"obs": len(e.batch.Obs) + len(e.batch.ObsBytes), "final_obs": len(e.batch.FinalObs) + len(e.batch.FinalObsBytes), "reward": len(e.batch.Reward),
			"terminated": len(e.batch.Terminated), "truncated": len(e.batch.Truncated), "mask": len(e.batch.Mask), "components": len(e.batch.Components), "metrics": len(e.batch.Metrics)}
		for _, x := range d.Tensors {
			n := 1
			for _, s := range x.Shape {
				n *= s
			}
			require.Equal(t, n, sizes[x.Name], x.Name)
			delete(sizes, x.Name)
		}
		for name, n := range sizes {
			require.Zero(t, n, "%s is not described", name)
		}
	}
}

func TestBusy(t *testing.T) {
	e := open1(t, `{"envs":2,"groups":2}`)
	require.NoError(t, e.Reset(vecenv.ResetOptions{}))
	other := open1(t, `{"envs":2}`)
	require.NoError(t, other.Reset(vecenv.ResetOptions{}))
	inside, leave := make(chan struct{}), make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		first := true
		_ = e.Identities(func(int, scenario.Identity) {
			if first {
				first = false
				close(inside)
				<-leave
			}
		})
	})
	<-inside
	for name, call := range calls(e, other) {
		require.ErrorIs(t, call(), ErrBusy, name)
	}
	require.ErrorIs(t, e.Close(), ErrBusy)
	require.ErrorIs(t, other.Fork(0, e, 0), ErrBusy)
	close(leave)
	done.Wait()
	require.NoError(t, e.Step(vecenv.Actions{}))
	require.NoError(t, other.Fork(0, e, 1))
}

func TestClosed(t *testing.T) {
	e, other := open1(t, `{"envs":2}`), open1(t, `{"envs":2}`)
	require.NoError(t, e.Reset(vecenv.ResetOptions{}))
	require.NoError(t, other.Reset(vecenv.ResetOptions{}))
	require.NoError(t, e.Close())
	require.NoError(t, e.Close(), "twice")
	for name, call := range calls(e, other) {
		require.ErrorIs(t, call(), vecenv.ErrClosed, name)
	}
	require.ErrorIs(t, other.Fork(0, e, 0), vecenv.ErrClosed)
}

// calls are all methods that need an open batch.
func calls(e, other *Env) map[string]func() error {
	return map[string]func() error{
		"SetBuffers": func() error { return e.SetBuffers(vecenv.Buffers{}) },
		"Reset":      func() error { return e.Reset(vecenv.ResetOptions{}) },
		"Step":       func() error { return e.Step(vecenv.Actions{}) },
		"Send":       func() error { return e.Send(0, vecenv.Actions{}) },
		"Recv":       func() error { return e.Recv(0) },
		"Snapshot":   func() error { _, err := e.Snapshot(0, 1); return err },
		"Restore":    func() error { return e.Restore(nil, 0) },
		"Fork":       func() error { return e.Fork(0, other, 0) },
		"Decide":     func() error { return e.Decide("noop", nil) },
		"Identities": func() error { return e.Identities(func(int, scenario.Identity) {}) },
	}
}

// Two batches that fork into each other at once are told that one is busy; they do not wait for each other.
func TestForksDoNotDeadlock(t *testing.T) {
	a, b := open1(t, `{"envs":1}`), open1(t, `{"envs":1}`)
	require.NoError(t, a.Reset(vecenv.ResetOptions{}))
	require.NoError(t, b.Reset(vecenv.ResetOptions{}))
	var done sync.WaitGroup
	for _, pair := range [][2]*Env{{a, b}, {b, a}} {
		done.Go(func() {
			for range 20_000 {
				if err := pair[0].Fork(0, pair[1], 0); err != nil {
					require.ErrorIs(t, err, ErrBusy)
				}
			}
		})
	}
	done.Wait()
}

// A process has one SIMD level while a batch is open, and keeps it when another one is refused.
func TestLevelConflict(t *testing.T) {
	levels := kernels.Levels()
	if len(levels) < 2 {
		t.Skip("this machine has one SIMD level")
	}
	before := kernels.Active()
	defer func() { require.NoError(t, kernels.Use(before)) }()
	lowest, highest := levels[0].String(), levels[len(levels)-1].String()
	require.NoError(t, kernels.Use(levels[len(levels)-1]))
	e, err := Open(parse(t, `{"envs":1,"simd":"`+highest+`"}`), vecenv.Buffers{})
	require.NoError(t, err)
	_, err = Open(parse(t, `{"envs":1,"simd":"`+lowest+`"}`), vecenv.Buffers{})
	require.ErrorContains(t, err, "config: simd: \""+lowest+"\" while other environments run at "+highest)
	require.Equal(t, highest, kernels.Active().String())
	same, err := Open(parse(t, `{"envs":1,"simd":"auto"}`), vecenv.Buffers{})
	require.NoError(t, err)
	require.NoError(t, same.Close())
	require.NoError(t, e.Close())
	_, err = Open(parse(t, `{"envs":1,"simd":"`+lowest+`","trace":{"path":"/no/such"}}`), vecenv.Buffers{})
	require.Error(t, err)
	require.Equal(t, highest, kernels.Active().String(), "a refused one changes nothing")
	e, err = Open(parse(t, `{"envs":1,"simd":"`+lowest+`"}`), vecenv.Buffers{})
	require.NoError(t, err)
	require.Equal(t, lowest, kernels.Active().String())
	require.NoError(t, e.Close())
}

func TestDecide(t *testing.T) {
	e := open1(t, `{"envs":3,"outputs":[]}`)
	require.NoError(t, e.Reset(vecenv.ResetOptions{}))
	list := make([]int32, 3*64*2*2)
	require.NoError(t, e.Decide("compress-all", list))
	require.True(t, slices.ContainsFunc(list, func(x int32) bool { return x != 0 }))
	require.NoError(t, e.Step(vecenv.Actions{List: list, PerEnv: 128}))
	require.ErrorContains(t, e.Decide("compress-all", list[:10]), "decide: 10 values: allowed 768")
	require.ErrorContains(t, e.Decide("nobody", list), "nobody")
}

// docs/abi.md names every field of a configuration and of a description, and the tensors.
func TestDocs(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "docs", "abi.md"))
	require.NoError(t, err)
	names := map[string]bool{}
	for _, m := range regexp.MustCompile("`([^`\\s]+)`").FindAllStringSubmatch(string(text), -1) {
		names[m[1]] = true
	}
	for _, x := range []any{Spec{}, Trace{}, Description{}, Tensor{}, vecenv.Layout{}, vecenv.Feature{}} {
		typ := reflect.TypeOf(x)
		for i := range typ.NumField() {
			name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			require.True(t, names[name], "%s.%s is not in docs/abi.md", typ, name)
		}
	}
	d, err := Describe(parse(t, `{"envs":1,"autoreset":"same-step","outputs":["obs","mask","components","metrics"]}`))
	require.NoError(t, err)
	for _, x := range d.Tensors {
		require.True(t, names[x.Name], x.Name)
	}
	out, err := json.Marshal(d)
	require.NoError(t, err)
	require.NotContains(t, string(out), "null", "no list of a description is null")
}
