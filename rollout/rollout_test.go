package rollout_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/policy"
	"github.com/kvgym/kvgym/reward"
	"github.com/kvgym/kvgym/rollout"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/trace"
	"github.com/kvgym/kvgym/vecenv"
	"github.com/stretchr/testify/require"
	"gonum.org/v1/gonum/stat"
)

// small is a rollout of some 20 shards that takes a moment.
func small(out string) rollout.Config {
	return rollout.Config{Out: out, Episodes: 500, Policies: []string{"noop", "random", "greedy"}, Seed: 7, Workers: 2}
}

// serving is a small rollout of the serving profile, on a server whose link is slow and whose CPU memory is small.
func serving(t testing.TB, out string) rollout.Config {
	cfg := small(out)
	cfg.Profile, cfg.Policies = vecenv.Serving, []string{"noop", "random", "tiered"}
	var err error
	cfg.Preset, err = kv.PresetNamed(vecenv.DefaultPreset)
	require.NoError(t, err)
	cfg.Preset.Name, cfg.Preset.LinkPS, cfg.Preset.HostPermille = "slow-link", 40*cfg.Preset.LinkPS, 150
	return cfg
}

func run(t testing.TB, cfg rollout.Config) rollout.Summary {
	s, err := rollout.Run(context.Background(), cfg, nil)
	require.NoError(t, err)
	return s
}

// contents maps the data files of a rollout to digests.
func contents(t testing.TB, out string) map[string]string {
	files := map[string]string{}
	for _, table := range []string{"steps", "episodes"} {
		entries, err := os.ReadDir(filepath.Join(out, table))
		require.NoError(t, err)
		for _, e := range entries {
			b, err := os.ReadFile(filepath.Join(out, table, e.Name()))
			require.NoError(t, err)
			files[table+"/"+e.Name()] = fmt.Sprintf("%x", sha256.Sum256(b))
		}
	}
	return files
}

func TestSameBytes(t *testing.T) {
	for _, base := range []rollout.Config{small(filepath.Join(t.TempDir(), "seed")), serving(t, filepath.Join(t.TempDir(), "serving"))} {
		for _, obs := range []rollout.Obs{rollout.ObsF32, rollout.ObsU8} {
			cfg := base
			cfg.Obs, cfg.Out = obs, base.Out+string(obs)
			t.Run(base.Profile.String()+"/"+string(obs), func(t *testing.T) { testSameBytes(t, cfg) })
		}
	}
}

func testSameBytes(t *testing.T, base rollout.Config) {
	base.Episodes = 150
	want := run(t, base)
	files := contents(t, base.Out)
	require.Len(t, files, 2*9*3, "nine groups of three shards")
	for _, c := range []struct{ workers, envs int }{{1, 16}, {2, 1000}, {3, 7}, {2, 512}} {
		cfg := base
		cfg.Out, cfg.Workers, cfg.Envs = filepath.Join(t.TempDir(), "other"), c.workers, c.envs
		got := run(t, cfg)
		require.Equal(t, files, contents(t, cfg.Out), "workers=%d envs=%d", c.workers, c.envs)
		require.Equal(t, want.Groups, got.Groups)
	}
	other := base
	other.Out, other.Seed = filepath.Join(t.TempDir(), "seed"), 8
	run(t, other)
	for name, digest := range contents(t, other.Out) {
		require.NotEqual(t, files[name], digest, "%s of another seed", name)
	}
}

// The summary is what the episodes give when they are played in memory.
func TestSummary(t *testing.T) {
	for _, cfg := range []rollout.Config{small(filepath.Join(t.TempDir(), "seed")), serving(t, filepath.Join(t.TempDir(), "serving"))} {
		t.Run(cfg.Profile.String(), func(t *testing.T) { testSummary(t, cfg) })
	}
}

func testSummary(t *testing.T, cfg rollout.Config) {
	got := run(t, cfg)
	require.Equal(t, cfg.Profile.String(), got.Profile)
	require.EqualValues(t, 9*500, got.Episodes)
	require.EqualValues(t, 9*500*15, got.EnvSteps)
	k := 0
	for _, name := range cfg.Policies {
		for d := range scenario.All {
			g := got.Groups[k]
			k++
			require.Equal(t, []any{name, d.String(), int64(500)}, []any{g.Policy, g.Difficulty, g.Episodes})
			played := inMemory(t, &cfg, name, d)
			mean, sd := stat.MeanStdDev(played["score"], nil)
			half := 1.96 * sd / 22.360679774997898
			require.InDelta(t, mean, g.Reward, 1e-12)
			require.InDelta(t, mean-half, g.RewardCI95[0], 1e-12)
			require.InDelta(t, mean+half, g.RewardCI95[1], 1e-12)
			for n, x := range map[string]float64{"failures": g.Failures, "late": g.Late, "forced": g.Forced, "first waits": g.FirstWaits, "waste": g.WasteUS} {
				require.InEpsilon(t, 1+stat.Mean(played[n], nil), 1+x, 1e-12, n)
			}
			for _, n := range reward.Names {
				require.InDelta(t, stat.Mean(played[n], nil), g.Components[n], 1e-12, n)
			}
		}
	}
}

// inMemory plays a group's episodes and returns what the summary speaks of, one value an episode.
func inMemory(t *testing.T, cfg *rollout.Config, name string, d scenario.Difficulty) map[string][]float64 {
	c := vecenv.Config{Envs: int(cfg.Episodes), Seed: cfg.Seed, Profile: cfg.Profile, Preset: cfg.Preset, Autoreset: vecenv.Disabled, NoObs: true}
	var err error
	if cfg.Profile == vecenv.Serving {
		c.Source, err = scenario.NewAgents(64, 15, d, cfg.Preset)
	} else {
		c.Source, err = scenario.NewSynthetic(64, 15, d)
	}
	require.NoError(t, err)
	b, err := vecenv.New(c)
	require.NoError(t, err)
	defer b.Close()
	require.NoError(t, b.Reset(vecenv.ResetOptions{}))
	p, err := policy.New(name)
	require.NoError(t, err)
	driver := policy.NewDriver(p, c.Envs, 64)
	for range 15 {
		require.NoError(t, b.Step(driver.Decide(b)))
	}
	out := map[string][]float64{}
	for i := range c.Envs {
		v := b.View(i)
		n, totals := v.Counters(), v.Totals()
		for key, x := range map[string]float64{"score": float64(v.Score()) / reward.ScoreOne, "failures": float64(n.Failures), "late": float64(n.Late),
			"forced": float64(n.Forced), "first waits": float64(totals.Serving.FirstWaits), "waste": float64(totals.Serving.WasteUS)} {
			out[key] = append(out[key], x)
		}
		for k, x := range reward.Compute(&totals) {
			out[reward.Names[k]] = append(out[reward.Names[k]], float64(x)/reward.TermOne)
		}
	}
	return out
}

func TestResume(t *testing.T) {
	for _, obs := range []rollout.Obs{rollout.ObsNone, rollout.ObsU8} {
		t.Run(string(obs), func(t *testing.T) { testResume(t, obs) })
	}
}

func testResume(t *testing.T, obs rollout.Obs) {
	whole := small(filepath.Join(t.TempDir(), "whole"))
	whole.Obs = obs
	want := run(t, whole)
	files := contents(t, whole.Out)

	cfg := whole
	cfg.Out = filepath.Join(t.TempDir(), "torn")
	cfg.Resume = true // starts, where there is nothing to resume
	run(t, cfg)
	require.Equal(t, files, contents(t, cfg.Out))
	tear(t, cfg.Out)
	got := run(t, cfg)
	require.Equal(t, files, contents(t, cfg.Out))
	require.Equal(t, want.Groups, got.Groups)
	require.Less(t, got.Kept, got.Episodes)
	require.Positive(t, got.Kept)

	manifest, err := os.ReadFile(filepath.Join(cfg.Out, "manifest.json"))
	require.NoError(t, err)
	require.Contains(t, string(manifest), `"simd": "`+kernels.Active().String()+`"`, "the manifest says what it ran on")
	again := run(t, cfg)
	require.True(t, again.Complete)
	kept, err := os.ReadFile(filepath.Join(cfg.Out, "manifest.json"))
	require.NoError(t, err)
	require.Equal(t, string(manifest), string(kept), "a finished rollout's manifest is left alone")
	require.Equal(t, want.Groups, again.Groups)

	flip(t, filepath.Join(cfg.Out, "steps", "part-00004.parquet"))
	again = run(t, cfg)
	require.False(t, again.Complete, "a changed byte is noticed")
	require.Equal(t, files, contents(t, cfg.Out))
}

// flip changes one byte in the middle of a file, where no footer tells.
func flip(t *testing.T, path string) {
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	b[len(b)/2] ^= 1
	require.NoError(t, os.WriteFile(path, b, 0o644))
}

// tear leaves what kills, full disks and accidents leave.
func tear(t *testing.T, out string) {
	path := func(table string, n int) string {
		return filepath.Join(out, table, fmt.Sprintf("part-%05d.parquet", n))
	}
	require.NoError(t, os.Remove(path("episodes", 0)))
	require.NoError(t, os.Remove(path("steps", 3)))
	require.NoError(t, os.Truncate(path("steps", 5), 1000))
	require.NoError(t, os.Truncate(path("episodes", 7), 0))
	other, err := os.ReadFile(path("episodes", 9))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path("episodes", 8), other, 0o644), "another shard's file")
	require.NoError(t, os.WriteFile(filepath.Join(out, "steps", ".unfinished-123"), []byte("half"), 0o600))
	require.NoError(t, os.WriteFile(path("steps", 99999), other, 0o644), "of no shard")
}

func TestRefusedFolders(t *testing.T) {
	cfg := small(filepath.Join(t.TempDir(), "out"))
	cfg.Episodes = 10
	run(t, cfg)
	files := contents(t, cfg.Out)
	refused := func(c rollout.Config, says ...string) {
		_, err := rollout.Run(context.Background(), c, nil)
		var r *rollout.RefusedError
		require.ErrorAs(t, err, &r)
		for _, s := range says {
			require.ErrorContains(t, err, s)
		}
		require.Equal(t, files, contents(t, c.Out), "nothing is lost")
	}
	refused(cfg, cfg.Out, "holds a rollout already")
	cfg.Resume = true
	other := cfg
	other.Seed, other.MaxWait = 8, 6
	refused(other, "seed is 7 there and 8 here", "max_wait is 5 there and 6 here")
	other = cfg
	other.Obs = rollout.ObsU8
	refused(other, `obs is "none" there and "u8" here`)
	other = cfg
	other.Profile = vecenv.Serving
	refused(other, `profile is "seed" there and "serving" here`, `preset.name is not given there and "llama3-8b.a100" here`)
	manifest := filepath.Join(cfg.Out, "manifest.json")
	require.NoError(t, os.WriteFile(manifest, []byte("{"), 0o644))
	refused(cfg, "manifest.json", "unexpected end of JSON")
	require.NoError(t, os.Remove(manifest))
	refused(cfg, "holds parts but no manifest.json")
}

// A rollout of the serving profile is not resumed with another preset or another loop.
func TestRefusedServing(t *testing.T) {
	cfg := serving(t, filepath.Join(t.TempDir(), "out"))
	cfg.Episodes = 10
	cfg.Traffic = &scenario.TrafficConfig{Path: writeTrace(t), StepMillis: 1000}
	open := run(t, cfg)
	files := contents(t, cfg.Out)
	cfg.Resume = true
	require.True(t, run(t, cfg).Complete)
	preset, loop := cfg, cfg
	preset.Preset.LinkPS++
	loop.Traffic = &scenario.TrafficConfig{Path: cfg.Traffic.Path, Closed: true}
	for says, c := range map[string]rollout.Config{"preset.link_ps is 209720000 there and 209720001 here": preset, `loop is "open" there and "closed" here`: loop} {
		_, err := rollout.Run(context.Background(), c, nil)
		var r *rollout.RefusedError
		require.ErrorAs(t, err, &r)
		require.ErrorContains(t, err, says)
		require.Equal(t, files, contents(t, cfg.Out))
	}
	loop.Out = filepath.Join(t.TempDir(), "closed")
	closed := run(t, loop)
	require.Equal(t, open.Trace.Requests, closed.Trace.Requests)
	require.NotEqual(t, open.Groups, closed.Groups)

	text, err := os.ReadFile(filepath.Join(loop.Out, "manifest.json"))
	require.NoError(t, err)
	var manifest struct {
		Config struct {
			Profile, Loop string
			Preset        kv.Preset
		}
	}
	require.NoError(t, json.Unmarshal(text, &manifest))
	require.Equal(t, []any{"serving", "closed", cfg.Preset}, []any{manifest.Config.Profile, manifest.Config.Loop, manifest.Config.Preset})
}

func TestUnwritableFolders(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for _, out := range []string{file, filepath.Join(file, "below"), "/proc/kvgym"} {
		_, err := rollout.Run(context.Background(), small(out), nil)
		require.ErrorContains(t, err, out)
		require.ErrorContains(t, err, "allowed a folder that can be written")
	}
}

func TestCancel(t *testing.T) {
	cfg := small(filepath.Join(t.TempDir(), "out"))
	cfg.Episodes = 1000
	ctx, cancel := context.WithCancel(context.Background())
	_, err := rollout.Run(ctx, cfg, func(done, total int64) {
		if done > total/3 {
			cancel()
		}
	})
	require.ErrorIs(t, err, context.Canceled)
	left, err := filepath.Glob(filepath.Join(cfg.Out, "*", ".unfinished-*"))
	require.NoError(t, err)
	require.Empty(t, left)
	cfg.Resume = true
	got := run(t, cfg)
	require.Positive(t, got.Kept)
	whole := cfg
	whole.Out = filepath.Join(t.TempDir(), "whole")
	run(t, whole)
	require.Equal(t, contents(t, whole.Out), contents(t, cfg.Out))
}

func TestProgressEndsAtTotal(t *testing.T) {
	cfg := small(filepath.Join(t.TempDir(), "out"))
	cfg.Workers = 1
	var last, total int64
	_, err := rollout.Run(context.Background(), cfg, func(d, n int64) { last, total = d, n })
	require.NoError(t, err)
	require.EqualValues(t, 9*500*15, total)
	require.Equal(t, total, last)
}

// writeTrace writes a trace of 1,500 requests.
func writeTrace(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "traffic.jsonl")
	f, err := os.Create(path)
	require.NoError(t, err)
	require.NoError(t, trace.Synthesize(f, trace.SynthConfig{Requests: 1500, Seed: 1, Rate: 6, Tenants: 4}))
	require.NoError(t, f.Close())
	return path
}

func TestTrafficRollout(t *testing.T) {
	path := writeTrace(t)
	cfg := small(filepath.Join(t.TempDir(), "out"))
	cfg.Traffic, cfg.Episodes = &scenario.TrafficConfig{Path: path}, 100
	sum := run(t, cfg)
	require.Equal(t, path, sum.Trace.Path)
	require.Positive(t, sum.Trace.Windows)
	require.EqualValues(t, 1500, sum.Trace.FileRequests)

	require.NoError(t, os.WriteFile(path, []byte(strings.Repeat(`{"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [1, 2]}`+"\n", 50)), 0o644))
	cfg.Resume = true
	_, err := rollout.Run(context.Background(), cfg, nil)
	var r *rollout.RefusedError
	require.ErrorAs(t, err, &r, "the trace has changed")
	require.ErrorContains(t, err, "traffic is")

	cfg.Traffic.Path = filepath.Join(t.TempDir(), "missing.jsonl")
	_, err = rollout.Run(context.Background(), cfg, nil)
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestBadConfigs(t *testing.T) {
	for says, change := range map[string]func(*rollout.Config){
		`out: ""`:                               func(c *rollout.Config) { c.Out = "" },
		"episodes: 0: allowed 1 to 2147483648":  func(c *rollout.Config) { c.Episodes = 0 },
		"episodes: 2147483649":                  func(c *rollout.Config) { c.Episodes = 1<<31 + 1 },
		"envs: -1: allowed 1 to 1048576":        func(c *rollout.Config) { c.Envs = -1 },
		"workers: 2000":                         func(c *rollout.Config) { c.Workers = 2000 },
		"slots: 60":                             func(c *rollout.Config) { c.Slots = 60 },
		"steps: 5000":                           func(c *rollout.Config) { c.Steps = 5000 },
		"max wait: -3":                          func(c *rollout.Config) { c.MaxWait = -3 },
		"policies: none: allowed noop":          func(c *rollout.Config) { c.Policies = nil },
		`policy: "best": allowed noop`:          func(c *rollout.Config) { c.Policies = []string{"best"} },
		"policy: noop: allowed each name once":  func(c *rollout.Config) { c.Policies = []string{"noop", "noop"} },
		"difficulty: all: allowed easy":         func(c *rollout.Config) { c.Difficulties = []scenario.Difficulty{scenario.All} },
		"difficulty: easy: allowed each once":   func(c *rollout.Config) { c.Difficulties = []scenario.Difficulty{0, 0} },
		`obs: "f16": allowed none, f32, u8`:     func(c *rollout.Config) { c.Obs = "f16" },
		"profile: Profile(4): allowed seed":     func(c *rollout.Config) { c.Profile = 4 },
		`preset: "x": allowed with the serving`: func(c *rollout.Config) { c.Preset.Name = "x" },
		`preset "x": kv_bytes: 0: allowed 1 to`: func(c *rollout.Config) { c.Profile, c.Preset.Name = vecenv.Serving, "x" },
		"closed loop: without a preset":         func(c *rollout.Config) { c.Traffic = &scenario.TrafficConfig{Path: "none", Closed: true} },
		"trace step milliseconds: 500: allowed the preset's, 1000": func(c *rollout.Config) {
			c.Profile, c.Traffic = vecenv.Serving, &scenario.TrafficConfig{Path: "none", StepMillis: 500}
		},
	} {
		cfg := small(filepath.Join(t.TempDir(), "out"))
		change(&cfg)
		_, err := rollout.Run(context.Background(), cfg, nil)
		require.ErrorContains(t, err, says)
		require.False(t, errors.Is(err, context.Canceled))
		require.NoDirExists(t, filepath.Join(cfg.Out, "steps"))
	}
}

// A second rollout may not write to a folder at the same time.
func TestOneAtATime(t *testing.T) {
	cfg := small(filepath.Join(t.TempDir(), "out"))
	cfg.Resume = true
	var second error
	tried := false
	cfg.Workers = 1
	_, err := rollout.Run(context.Background(), cfg, func(int64, int64) {
		if !tried {
			tried = true
			_, second = rollout.Run(context.Background(), cfg, nil)
		}
	})
	require.NoError(t, err)
	require.ErrorContains(t, second, "another rollout is writing to it")
}
