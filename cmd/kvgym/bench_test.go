package main

import (
	"encoding/json"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kvgym/kvgym/kernels"
	"github.com/stretchr/testify/require"
)

// tiny measures in no time, and nothing well.
var tiny = []string{"bench", "--envs", "32", "--slots", "16", "--rounds", "1", "--seconds", "0.001", "--workers", "2"}

func TestBenchJSON(t *testing.T) {
	var doc struct {
		Machine, CPU, Go, Commit, SIMD string
		Results                        []map[string]any
		Ratios                         []map[string]any
		Skipped                        []map[string]any
	}
	require.NoError(t, json.Unmarshal([]byte(done(t, append(tiny, "--json")...)), &doc))
	for _, s := range []string{doc.Machine, doc.CPU, doc.Go, doc.Commit} {
		require.NotEmpty(t, s)
	}
	require.Equal(t, kernels.Active().String(), doc.SIMD)
	require.Empty(t, doc.Skipped)
	require.Len(t, doc.Results, 12, "two profiles, three kinds of observations, two numbers of workers")
	for _, r := range doc.Results {
		for _, key := range []string{"name", "envs", "workers", "obs", "env_steps_per_second", "ns_per_env_step", "obs_bytes_per_second", "nt_store_bytes_per_second", "allocs_per_step"} {
			require.Contains(t, r, key)
		}
		require.EqualValues(t, 32, r["envs"])
	}
	require.Len(t, doc.Ratios, 14)
	for _, r := range doc.Ratios {
		for _, key := range []string{"name", "envs", "workers", "against", "median", "min", "max", "rounds"} {
			require.Contains(t, r, key)
		}
		require.Contains(t, []string{"go-1-worker", "nt-store"}, r["against"])
	}
}

func TestBenchText(t *testing.T) {
	out := done(t, tiny...)
	require.Contains(t, out, "│ WHAT ")
	require.Contains(t, out, "│ kvgym │ serving ")
	require.Contains(t, out, "│ TIMES AS FAST AS ")
	require.Contains(t, out, "│ nt-store ")
	require.Empty(t, done(t, append(tiny, "--quiet")...))
}

// Without compiler and Python the rest is measured, and standard error says what is missing.
func TestBenchSkips(t *testing.T) {
	t.Setenv("CC", "no-such-compiler")
	t.Setenv("KVGYM_BENCH_PYTHON", filepath.Join(t.TempDir(), "python"))
	status, out, errs := kvgym("", append(tiny, "--rivals", "--json")...)
	require.Equal(t, exitDone, status, errs)
	var doc struct {
		Skipped []struct{ Against, Why string }
		Ratios  []struct{ Against string }
	}
	require.NoError(t, json.Unmarshal([]byte(out), &doc))
	require.Len(t, doc.Skipped, 7)
	for _, s := range doc.Skipped {
		require.Contains(t, errs, "kvgym bench: "+s.Against+": skipped: "+s.Why+"\n")
	}
	require.Equal(t, 7, strings.Count(errs, "\n"), errs)
	require.Contains(t, errs, "c-aos-1: skipped: build the C rival: C compiler no-such-compiler is missing")
	require.Contains(t, errs, "gymnasium-sync: skipped: rivals: KVGYM_BENCH_PYTHON: ")

	status, out, errs = kvgym("", append(tiny, "--rivals", "--quiet")...)
	require.Equal(t, exitDone, status, errs)
	require.Empty(t, out+errs)
}

func TestBenchWrongUse(t *testing.T) {
	for _, c := range []struct {
		says string
		args []string
	}{
		{"--envs: 0: allowed 1 to 1048576", []string{"--envs", "64,0"}},
		{"--envs: 64: allowed each number once", []string{"--envs", "64,64"}},
		{`--envs: "many": allowed numbers of environments, separated by commas`, []string{"--envs", "many"}},
		{"--slots: 24: allowed a multiple of 16 from 16 to 256", []string{"--slots", "24"}},
		{"--workers: 1025: allowed 0 to 1024", []string{"--workers", "1025"}},
		{"--rounds: 0: allowed 1 to 1000", []string{"--rounds", "0"}},
		{"--seconds: 0: allowed 0.001 to 60", []string{"--seconds", "0"}},
		{"--seconds: NaN: allowed 0.001 to 60", []string{"--seconds", "NaN"}},
		{"--seconds: +Inf: allowed 0.001 to 60", []string{"--seconds", "Inf"}},
		{`--simd: : allowed auto, generic`, []string{"--simd", ""}},
		{`--simd: avx9: allowed auto, generic`, []string{"--simd", "avx9"}},
		{`argument: "64": allowed flags only`, []string{"64"}},
		{"flag: --policy: allowed those that kvgym bench --help lists", []string{"--policy", "noop"}},
	} {
		refused(t, exitUsage, "kvgym bench: "+c.says, append([]string{"bench"}, c.args...)...)
	}
}

// What cannot be printed is a failure.
func TestBenchFullOutput(t *testing.T) {
	for _, args := range [][]string{tiny, append(tiny, "--json")} {
		var errs strings.Builder
		require.Equal(t, exitFailed, run(args, strings.NewReader(""), full{}, &errs))
		require.Contains(t, errs.String(), "no space left on device")
	}
	require.Equal(t, exitDone, run(append(tiny, "--quiet"), strings.NewReader(""), full{}, io.Discard))
}
