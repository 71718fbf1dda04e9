package main

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kvgym/kvgym/kernels"
	"github.com/stretchr/testify/require"
)

// mainVariable makes the test program be kvgym, for what a process reads at its start.
const mainVariable = "KVGYM_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(mainVariable) != "" {
		main()
	}
	os.Exit(m.Run())
}

// kvgymWith runs a command line in a process of its own whose variable KVGYM_SIMD is simd.
func kvgymWith(t *testing.T, simd string, args ...string) (status int, stdout, stderr string) {
	program, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), mainVariable+"=1", kernels.SIMDVariable+"="+simd)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

var allLevels = []kernels.Level{kernels.Generic, kernels.AVX2, kernels.AVX512}

// Commands that step accept the levels of the machine, refuse others, and leave the same bytes at all of them.
func TestSIMD(t *testing.T) {
	t.Cleanup(func() { require.NoError(t, kernels.Use(startLevel)) })
	inspect := done(t, "inspect", "--seed", "5", "--policy", "greedy")
	require.Equal(t, startLevel, kernels.Active())
	names := kernels.Names(kernels.Levels())
	for _, l := range allLevels {
		if !slices.Contains(kernels.Levels(), l) {
			for _, command := range []string{"inspect", "rollout", "bench"} {
				refused(t, exitUsage, `kvgym `+command+`: --simd: `+l.String()+`: allowed auto, `+names+" on this machine", command, "--simd", l.String())
			}
			continue
		}
		require.Equal(t, inspect, done(t, "inspect", "--seed", "5", "--policy", "greedy", "--simd", l.String()), l)
		require.Equal(t, l, kernels.Active())
		require.Equal(t, inspect, done(t, "inspect", "--seed", "5", "--policy", "greedy", "--simd", "auto"), "auto after %s", l)
		require.Equal(t, startLevel, kernels.Active())
		out := filepath.Join(t.TempDir(), "out")
		done(t, "rollout", "--episodes", "3", "--policy", "noop", "--difficulty", "easy", "--out", out, "--quiet", "--simd", l.String())
		require.Equal(t, l, kernels.Active())
	}
}

// The variable lowers the level, a flag wins over it, and what it cannot mean is an error of every command that steps.
func TestSIMDVariable(t *testing.T) {
	best := kernels.Levels()[len(kernels.Levels())-1].String()
	levelOf := func(simd string, args ...string) string {
		status, out, errs := kvgymWith(t, simd, args...)
		require.Equal(t, exitDone, status, errs)
		var doc map[string]any
		require.NoError(t, json.Unmarshal([]byte(out), &doc))
		return doc["simd"].(string)
	}
	require.Equal(t, best, levelOf("", "version", "--json"))
	require.Equal(t, best, levelOf("auto", "version", "--json"))
	require.Equal(t, "generic", levelOf("generic", "version", "--json"))
	bench := []string{"bench", "--json", "--envs", "16", "--slots", "16", "--rounds", "1", "--seconds", "0.001", "--workers", "1"}
	require.Equal(t, "generic", levelOf("generic", bench...))
	require.Equal(t, "generic", levelOf("generic", append(bench, "--simd", "auto")...))
	require.Equal(t, best, levelOf("generic", append(bench, "--simd", best)...))
	require.Equal(t, "generic", levelOf(best, append(bench, "--simd", "generic")...))

	for _, args := range [][]string{{"inspect"}, {"rollout", "--out", filepath.Join(t.TempDir(), "out")}, {"bench"}, {"bench", "--simd", "generic"}} {
		status, out, errs := kvgymWith(t, "mmx", args...)
		require.Equal(t, exitUsage, status, errs)
		require.Empty(t, out)
		require.Equal(t, 1, strings.Count(errs, "\n"), errs)
		require.Contains(t, errs, "kvgym "+args[0]+": KVGYM_SIMD: simd: \"mmx\": allowed auto, "+kernels.Names(kernels.Levels()))
	}
	status, _, errs := kvgymWith(t, "mmx", "version")
	require.Equal(t, exitDone, status, errs)
}
