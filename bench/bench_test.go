package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/vecenv"
	"github.com/stretchr/testify/require"
)

// stubVariable makes the test program play a rival: see stub_test.go.
const stubVariable = "KVGYM_BENCH_STUB"

func TestMain(m *testing.M) {
	if mode := os.Getenv(stubVariable); mode != "" {
		os.Exit(playStub(mode, os.Args[1:]))
	}
	os.Exit(m.Run())
}

func TestSpread(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   spread
	}{
		{[]float64{3}, spread{3, 3, 3}},
		{[]float64{4, 1}, spread{2.5, 1, 4}},
		{[]float64{5, 1, 3}, spread{3, 1, 5}},
		{[]float64{8, 1, 2, 4}, spread{3, 1, 8}},
		{[]float64{7, 7, 1, 9, 2, 7, 100}, spread{7, 1, 100}},
	} {
		values := slices.Clone(c.values)
		require.Equal(t, c.want, spreadOf(values))
		require.Equal(t, c.values, values, "the rounds stay in their order")
	}
	require.Equal(t, []float64{2, 0.5}, quotients([]float64{6, 1}, []float64{3, 2}))
}

func TestConfig(t *testing.T) {
	c, err := Config{}.withDefaults()
	require.NoError(t, err)
	require.Equal(t, []int{64, 1024, 4096, 16384}, c.Envs)
	require.Equal(t, []int{64, 1024, 4096}, c.rivalEnvs)
	require.Equal(t, []int{64, 7, 200}, []int{c.Slots, c.Rounds, int(c.Turn.Milliseconds())})
	require.Equal(t, []int{1024, 16384}, []int{c.envsNear(1024), c.envsNear(17)})
	for _, f := range []struct {
		says string
		edit func(*Config)
	}{
		{"Envs: none", func(c *Config) { c.Envs = []int{} }},
		{"Envs: 0: allowed 1 to 1048576", func(c *Config) { c.Envs = []int{0} }},
		{"Envs: 1048577: allowed 1 to 1048576", func(c *Config) { c.Envs = []int{1 << 20, 1<<20 + 1} }},
		{"Envs: 5: allowed each number once", func(c *Config) { c.Envs = []int{5, 6, 5} }},
		{"Slots: 65: allowed a multiple of 16 from 16 to 256", func(c *Config) { c.Slots = 65 }},
		{"Workers: -1: allowed 1 to 1024", func(c *Config) { c.Workers = -1 }},
		{"Rounds: 1001: allowed 1 to 1000", func(c *Config) { c.Rounds = 1001 }},
		{"Turn: 1µs: allowed 1ms to 1m0s", func(c *Config) { c.Turn = time.Microsecond }},
	} {
		var c Config
		f.edit(&c)
		_, err := Run(context.Background(), c)
		require.ErrorContains(t, err, "bench: "+f.says)
	}
}

// quick is a configuration that measures in no time, and nothing well.
func quick() Config {
	return Config{Envs: []int{32, 64}, Slots: 16, Workers: 2, Rounds: 1, Turn: time.Millisecond}
}

// stubbed has stub processes as rivals.
func stubbed(t *testing.T, mode string) Config {
	t.Setenv(stubVariable, mode)
	t.Setenv("GORACE", "atexit_sleep_ms=0") // a program with the race detector sleeps a second at its end
	t.Setenv("TMPDIR", t.TempDir())
	c := quick()
	c.Envs, c.Rivals = []int{32}, true
	program, err := os.Executable()
	require.NoError(t, err)
	c.buildC = func(context.Context, string) (string, error) { return program, nil }
	c.findPython = func(string) (string, error) { return program, nil }
	return c
}

func against(rep *Report) []string {
	names := map[string]bool{}
	for _, r := range rep.Ratios {
		names[r.Against] = true
	}
	return slices.Sorted(maps.Keys(names))
}

func TestRun(t *testing.T) {
	c := quick()
	c.Rounds = 2
	var calls, total int64
	c.Progress = func(done, of int64) {
		calls++
		require.Equal(t, calls, done)
		total = of
	}
	level := kernels.Active()
	rep, err := Run(context.Background(), c)
	require.NoError(t, err)
	require.Equal(t, level, kernels.Active())
	require.Equal(t, total, calls)
	require.Equal(t, []string{"go-1-worker", "nt-store"}, against(rep))
	require.Empty(t, rep.Skipped)
	require.Empty(t, rep.Rivals)

	var cases []string
	for _, r := range rep.Results {
		cases = append(cases, fmt.Sprintf("%s %d %d %s", r.Profile, r.Envs, r.Workers, r.Obs))
		require.Equal(t, fmt.Sprintf("profile=%s/envs=%d/workers=%d/slots=16/obs=%s/level=%s", r.Profile, r.Envs, r.Workers, r.Obs, level), r.Name)
		require.Positive(t, r.Least)
		require.LessOrEqual(t, r.Least, r.EnvStepsPerSecond)
		require.LessOrEqual(t, r.EnvStepsPerSecond, r.Greatest)
		require.InDelta(t, 1e9, r.NSPerEnvStep*r.EnvStepsPerSecond, 1)
		require.Less(t, r.AllocsPerStep, 0.5, "a step allocates nothing")
		bytes := float64(obsBytes(r.Obs, 16))
		require.InDelta(t, r.EnvStepsPerSecond*bytes, r.ObsBytesPerSecond, 1)
		require.Equal(t, bytes > 0, r.NTStoreBytesPerSecond > 0)
		require.Equal(t, map[bool]string{true: "plain", false: "none"}[bytes > 0], r.Stores)
	}
	var want []string
	for _, w := range []string{"seed 32", "seed 64", "serving 64"} {
		for _, obs := range obsKinds {
			want = append(want, w+" 1 "+obs, w+" 2 "+obs)
		}
	}
	require.Equal(t, want, cases)
	for _, r := range rep.Ratios {
		require.Positive(t, r.Min)
		require.LessOrEqual(t, r.Min, r.Median)
		require.LessOrEqual(t, r.Median, r.Max)
		require.Equal(t, 2, r.Rounds)
		require.False(t, r.Checked)
		require.True(t, rep.has(r.Name))
	}
	require.Contains(t, rep.Text(), rep.CPU)
	require.Contains(t, rep.Text(), "│ go-1-worker ")
}

// A ratio of stores is of bytes.
func TestStoresRatio(t *testing.T) {
	nt := &contestant{name: "nt-store", obs: obsF32, envs: 8, rates: []float64{8e9, 4e9}}
	ours := &contestant{name: kvgymName, obs: obsF32, envs: 8, workers: 1, stores: nt, rates: []float64{1e6, 1e6}, allocs: []float64{0, 0}}
	c := comparison{contestants: []*contestant{ours, nt}, pairs: []pair{{ours, nt, "nt-store"}}}
	cfg := Config{Slots: 64}
	rep := newReport(&cfg, kernels.Generic)
	rep.add(&cfg, &c)
	perStep := float64(4 * vecenv.ObsLen(64))
	require.InDelta(t, 1e6*perStep/8e9, rep.Ratios[0].Min, 1e-9)
	require.InDelta(t, 1e6*perStep/4e9, rep.Ratios[0].Max, 1e-9)
	require.InDelta(t, 6e9, rep.Results[0].NTStoreBytesPerSecond, 1)
	rep.add(&cfg, &c)
	require.Len(t, rep.Results, 1, "measured again, told once")
	require.Len(t, rep.Ratios, 2)
}

// TestKeys holds the report's keys, on which programs rely.
func TestKeys(t *testing.T) {
	rep, err := Run(context.Background(), stubbed(t, "good"))
	require.NoError(t, err)
	rep.Skipped = append(rep.Skipped, Skipped{"x", "y"})
	text, err := json.Marshal(rep)
	require.NoError(t, err)
	var doc map[string]any
	require.NoError(t, json.Unmarshal(text, &doc))
	keys := func(m any) string { return strings.Join(slices.Sorted(maps.Keys(m.(map[string]any))), " ") }
	require.Equal(t, "commit cores cpu go machine nt_store_level ratios results rivals rounds seconds_total seed simd skipped turn_seconds version", keys(doc))
	first := func(list string) any { return doc[list].([]any)[0] }
	require.Equal(t, "allocs_per_step batches env_steps_per_second env_steps_per_second_max env_steps_per_second_min envs level name ns_per_env_step "+
		"nt_store_bytes_per_second obs obs_bytes_per_second profile slots stores workers", keys(first("results")))
	require.Equal(t, "against batches checked envs level max median min name obs profile rounds workers", keys(first("ratios")))
	require.Equal(t, "against env_steps_per_second envs ns_per_env_step profile workers", keys(first("rivals")))
	require.Equal(t, "against why", keys(first("skipped")))
	empty, err := json.Marshal(newReport(&Config{}, kernels.Generic))
	require.NoError(t, err)
	require.NotContains(t, string(empty), "null")
}

// With every rival there is, of which each plays as kvgym does.
func TestRivals(t *testing.T) {
	rep, err := Run(context.Background(), stubbed(t, "good"))
	require.NoError(t, err)
	require.Empty(t, rep.Skipped)
	want := []string{cPlain, cTwo, cTuned, envpoolCartPole, "go-1-worker", gymAsync, gymCartPole, gymSync, "nt-store"}
	if kernels.Active() != kernels.Generic {
		want = append(want, "generic")
	}
	slices.Sort(want)
	require.Equal(t, want, against(rep))
	levels := map[string]bool{}
	for _, r := range rep.Ratios {
		switch r.Against {
		case cPlain, cTwo, cTuned, "generic":
			require.True(t, r.Checked, "%+v", r)
			if r.Profile == "seed" && r.Against == cPlain {
				levels[r.Level] = true
			}
		case gymSync, gymAsync:
			require.Equal(t, r.Envs == pythonEnvs, r.Checked, "%+v", r)
		default:
			require.False(t, r.Checked, "%+v", r)
		}
	}
	require.Len(t, levels, int(kernels.Active())+1, "the active level and all below")
	apart := slices.DeleteFunc(slices.Clone(rep.Ratios), func(r Ratio) bool { return r.Batches == 1 })
	require.Len(t, apart, 2, "as many batches as workers, against each vector environment of Gymnasium")
	for _, r := range apart {
		require.Equal(t, []any{2, 2}, []any{r.Batches, r.Workers})
		require.Contains(t, apartEnvs, r.Envs/2)
		require.True(t, strings.HasSuffix(r.Name, "/batches=2") && rep.has(r.Name), "%+v", r)
	}
	require.Contains(t, rep.Text(), "│ 2, 2 batches │")
	require.Contains(t, rep.Text(), envpoolCartPole+": processes=")
	for _, v := range rep.Rivals {
		require.Positive(t, v.EnvStepsPerSecond)
		require.Equal(t, v.Against == envpoolCartPole || v.Against == gymCartPole, v.Profile == "")
	}
	left, err := os.ReadDir(os.TempDir())
	require.NoError(t, err)
	require.Empty(t, left)
}

// A rival that cannot be had is told, and the rest is measured.
func TestSkipped(t *testing.T) {
	c := stubbed(t, "good")
	c.Workers = 1
	c.buildC = func(context.Context, string) (string, error) { return "", errors.New("no\ncompiler") }
	c.findPython = func(string) (string, error) { return "", errors.New("no python") }
	var told []Skipped
	c.Skip = func(s Skipped) { told = append(told, s) }
	rep, err := Run(context.Background(), c)
	require.NoError(t, err)
	require.Equal(t, []Skipped{{cPlain, "no compiler"}, {cTwo, "no compiler"}, {cTuned, "no compiler"}, {gymSync, "no python"}, {gymAsync, "no python"},
		{gymCartPole, "no python"}, {envpoolCartPole, "no python"}}, rep.Skipped)
	require.Equal(t, rep.Skipped, told)
	require.NotEmpty(t, rep.Results)

	c = stubbed(t, "good")
	c.Workers = 1
	rep, err = Run(context.Background(), c)
	require.NoError(t, err)
	for _, r := range rep.Results {
		require.Equal(t, 1, r.Batches, "one worker has no use for more")
	}

	c = stubbed(t, "no-modules")
	c.Envs, c.Workers = []int{24}, 3
	c.buildC = nil
	t.Setenv("CC", "no-such-compiler")
	rep, err = Run(context.Background(), c)
	require.NoError(t, err)
	require.Len(t, rep.Skipped, 7)
	require.Contains(t, rep.Skipped[0].Why, "no-such-compiler is missing")
	require.Contains(t, rep.Skipped[3].Why, "cannot import gymnasium: exit status 1: No module named this")
	require.Contains(t, rep.Skipped[6].Why, "cannot import envpool")

	c = stubbed(t, "good")
	c.Envs = []int{24}
	c.findPython = func(string) (string, error) { return "", errors.New("no python") }
	rep, err = Run(context.Background(), c)
	require.NoError(t, err)
	require.Contains(t, rep.Skipped, Skipped{cTwo, "envs: 24: allowed a multiple of 32 for two processes"})
	require.Contains(t, against(rep), cPlain)
}

// More workers than two: two of them are what two processes stand against.
func TestManyWorkers(t *testing.T) {
	c := stubbed(t, "good")
	c.Workers = 3
	c.findPython = func(string) (string, error) { return "", errors.New("no python") }
	rep, err := Run(context.Background(), c)
	require.NoError(t, err)
	var workers []int
	for _, r := range rep.Ratios {
		if r.Against == cTwo {
			workers = append(workers, r.Workers)
		}
	}
	require.Equal(t, []int{2, 2}, workers, "seed and serving")
}

// Rivals that fail end the run with an error that says which one and why.
func TestBrokenRivals(t *testing.T) {
	for mode, says := range map[string]string{
		"wrong":       "bench: c-aos-1: profile=seed/envs=32: digest 0000000000000001: allowed ",
		"dies":        "closed its output without an answer (exit status 3); its standard error ends: out of luck",
		"stuck-clock": "1 cycles took 0s: allowed more than nothing",
		"bad-init":    "bench: c-aos-1: profile=seed/envs=32: rival ",
	} {
		c := stubbed(t, mode)
		level := kernels.Active()
		_, err := Run(context.Background(), c)
		require.ErrorContains(t, err, says, mode)
		require.Equal(t, level, kernels.Active())
	}
	// The same of a game of its own.
	c := stubbed(t, "dies")
	c.buildC = func(context.Context, string) (string, error) { return "", errors.New("none") }
	_, err := Run(context.Background(), c)
	require.ErrorContains(t, err, "bench: gymnasium-sync: profile=seed/envs=16: rival ")
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	c := stubbed(t, "good")
	c.Progress = func(done, _ int64) {
		if done == 9 {
			cancel()
		}
	}
	level := kernels.Active()
	_, err := Run(ctx, c)
	require.Equal(t, context.Canceled, err)
	require.Equal(t, level, kernels.Active())

	// Whose rival is killed by the interruption, and dies before it is noticed.
	ctx, cancel = context.WithCancel(context.Background())
	c = stubbed(t, "dies")
	x := &contestant{name: cPlain}
	time.AfterFunc(10*time.Millisecond, cancel)
	require.Equal(t, context.Canceled, (&run{cfg: c}).failed(ctx, x, errors.New("killed")))
}

// All levels give the same digest, and another start state gives another.
func TestDigest(t *testing.T) {
	ctx := context.Background()
	s, err := newScene(ctx, vecenv.Seed, 32, 64, 1, 0, nil)
	require.NoError(t, err)
	defer s.close()
	want, err := s.want(ctx, 0, 32)
	require.NoError(t, err)
	r := &run{level: kernels.Active()}
	defer func() { require.NoError(t, kernels.Use(r.level)) }()
	for _, l := range kernels.Levels() {
		require.NoError(t, r.checkLevel(ctx, s, l))
	}
	half, err := s.want(ctx, 16, 32)
	require.NoError(t, err)
	require.NotEqual(t, want, half)
	other, err := newScene(ctx, vecenv.Seed, 32, 64, 2, 0, nil)
	require.NoError(t, err)
	defer other.close()
	got, err := other.want(ctx, 0, 32)
	require.NoError(t, err)
	require.NotEqual(t, want, got)
	s.sums[[2]int{0, 32}]++
	require.ErrorContains(t, r.checkLevel(ctx, s, kernels.Generic), "level generic: digest ")
}

// Every thread fills its part of the buffer, whatever its length.
func TestFill(t *testing.T) {
	for _, n := range []int{1, 15, 16, 17, 100, 4096} {
		for _, threads := range []int{1, 2, 3, 8} {
			buf := make([]float32, n)
			require.Positive(t, fill(buf, threads, 2))
			for _, x := range buf {
				require.Equal(t, float32(1), x)
			}
		}
	}
}

func TestCartPoleSettings(t *testing.T) {
	names := func(kind string, cores int) (list []string) {
		for _, s := range cartPoleSettings(kind, cores) {
			list = append(list, s.String())
		}
		return list
	}
	require.Equal(t, []string{"processes=1/envs=2048/threads=2/async/batch=1024", "processes=1/envs=1024/threads=1", "processes=1/envs=4096/threads=1",
		"processes=2/envs=1024/threads=1", "processes=2/envs=4096/threads=1"}, names("envpool", 2))
	require.Equal(t, []string{"processes=1/envs=1024", "processes=1/envs=4096"}, names("gymnasium-vector", 1))
	require.Equal(t, []string{"processes=1/envs=1024", "processes=1/envs=4096", "processes=8/envs=1024", "processes=8/envs=4096"}, names("gymnasium-vector", 8))
	require.Len(t, names("envpool", 1), 3)
}
