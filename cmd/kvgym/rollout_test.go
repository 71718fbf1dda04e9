package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kvgym/kvgym/reward"
	"github.com/stretchr/testify/require"
)

func TestRolloutJSON(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	args := []string{"rollout", "--episodes", "40", "--policy", "noop,greedy", "--seed", "7", "--out", out, "--json"}
	var sum map[string]any
	require.NoError(t, json.Unmarshal([]byte(done(t, args...)), &sum))
	require.EqualValues(t, 240, sum["episodes"])
	require.EqualValues(t, 3600, sum["env_steps"])
	require.Equal(t, out, sum["out"])
	require.Positive(t, sum["seconds"])
	require.Positive(t, sum["env_steps_per_second"])
	groups := sum["groups"].([]any)
	require.Len(t, groups, 6)
	g := groups[5].(map[string]any)
	require.Equal(t, []any{"greedy", "hard", 40.0}, []any{g["policy"], g["difficulty"], g["episodes"]})
	for _, key := range []string{"reward_mean", "failures_mean", "tokens_mean", "latency_mean", "pressure_steps_mean", "late_mean", "forced_mean", "first_waits_mean", "waste_us_mean"} {
		require.Contains(t, g, key)
	}
	require.Len(t, g["reward_ci95"], 2)
	for _, name := range reward.Names {
		require.Contains(t, g["components"], name)
	}
	require.Equal(t, "seed", sum["profile"])
	require.NotContains(t, sum, "trace")

	refused(t, exitUsage, "kvgym rollout: out: "+out+": holds a rollout already: allowed another folder, or resuming that one: --resume", args...)
	refused(t, exitUsage, "seed is 7 there and 8 here", append(args, "--resume", "--seed", "8")...)
	var again map[string]any
	require.NoError(t, json.Unmarshal([]byte(done(t, append(args, "--resume")...)), &again))
	require.Equal(t, sum["groups"], again["groups"])
	require.EqualValues(t, 240, again["episodes_kept"])
}

func TestRolloutTable(t *testing.T) {
	dir := t.TempDir()
	trace := filepath.Join(dir, "traffic.jsonl")
	done(t, "trace", "synth", "--requests", "400", "--out", trace, "--quiet")
	out := done(t, "rollout", "--episodes", "20", "--policy", "lru", "--difficulty", "easy", "--trace", trace, "--out", filepath.Join(dir, "out"))
	require.Contains(t, out, "lru")
	require.Contains(t, out, "hit share of an infinite prefix cache")
	require.Contains(t, out, "MB of Parquet in "+filepath.Join(dir, "out"))
	require.Empty(t, done(t, "rollout", "--episodes", "20", "--policy", "lru", "--out", filepath.Join(dir, "quiet"), "--quiet"))
}

// The manifest says of what type the observations are that --obs keeps, and --resume keeps to it.
func TestRolloutObs(t *testing.T) {
	for obs, dtype := range map[string]string{"f32": "float32", "u8": "uint8"} {
		out := filepath.Join(t.TempDir(), "out")
		args := []string{"rollout", "--episodes", "4", "--policy", "noop", "--out", out, "--quiet", "--resume", "--obs"}
		require.Empty(t, done(t, append(args, obs)...))
		text, err := os.ReadFile(filepath.Join(out, "manifest.json"))
		require.NoError(t, err)
		var m struct{ Observation map[string]any }
		require.NoError(t, json.Unmarshal(text, &m))
		require.Equal(t, dtype, m.Observation["dtype"])
		refused(t, exitUsage, `obs is "`+obs+`" there and "none" here`, append(args, "none")...)
	}
}

// The table of the serving profile has other columns, and its episodes are those that inspect shows with the same flags.
func TestRolloutServing(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	flags := []string{"--profile", "serving", "--preset", "dynamo-mocker", "--difficulty", "hard", "--seed", "3"}
	text := done(t, append([]string{"rollout", "--episodes", "1", "--policy", "tiered", "--out", out}, flags...)...)
	header := strings.Join(strings.Fields(strings.Split(text, "\n")[1]), " ")
	require.Equal(t, "│ POLICY │ DIFFICULTY │ EPISODES │ SCORE │ ± 95 % │ GOODPUT │ FAILURES │ LATE │ FIRST-TOKEN WAITS │ FORCED │ WASTE (MS) │ STEPS ABOVE 95 % │", header)
	var sum struct{ Groups []map[string]any }
	require.NoError(t, json.Unmarshal([]byte(done(t, append([]string{"rollout", "--episodes", "1", "--policy", "tiered", "--out", out, "--json", "--resume"}, flags...)...)), &sum))
	lines := inspectLines(t, "", append([]string{"--policy", "tiered", "--no-obs"}, flags...)...)
	last := lines[15]
	state, g := last["state"].(map[string]any), sum.Groups[0]
	serving := state["serving"].(map[string]any)
	require.Equal(t, []any{state["failures"], serving["late"], serving["forced"], serving["first_waits"], serving["waste_us"], last["components"]},
		[]any{g["failures_mean"], g["late_mean"], g["forced_mean"], g["first_waits_mean"], g["waste_us_mean"], g["components"]})
	refused(t, exitUsage, `preset.name is "dynamo-mocker" there and "llama3-8b.a100" here`,
		"rollout", "--episodes", "1", "--policy", "tiered", "--out", out, "--resume", "--profile", "serving", "--difficulty", "hard", "--seed", "3")
}

// TestInterrupt sends a real signal to a real process: status 130, one line, and --resume goes on.
func TestInterrupt(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no interrupt signal for child processes here")
	}
	dir := t.TempDir()
	binary := filepath.Join(dir, "kvgym")
	build, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput()
	require.NoError(t, err, string(build))
	out := filepath.Join(dir, "out")
	args := []string{"rollout", "--episodes", "200000", "--policy", "greedy", "--difficulty", "hard", "--out", out}
	cmd := exec.Command(binary, args...)
	var errs strings.Builder
	cmd.Stderr = &errs
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool {
		parts, _ := filepath.Glob(filepath.Join(out, "episodes", "part-*"))
		return len(parts) > 0
	}, time.Minute, 10*time.Millisecond)
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	var exit *exec.ExitError
	require.ErrorAs(t, cmd.Wait(), &exit)
	require.Equal(t, exitInterrupted, exit.ExitCode())
	require.Equal(t, "kvgym rollout: interrupted: what is finished stays in "+out+": --resume goes on\n", errs.String())
	left, err := filepath.Glob(filepath.Join(out, "*", ".unfinished-*"))
	require.NoError(t, err)
	require.Empty(t, left)
	require.NoError(t, os.RemoveAll(out))
}

// A trained network plays by its file's name, beside built-in policies, and inspect shows the same episodes.
func TestRolloutNetwork(t *testing.T) {
	dir := t.TempDir()
	out, file := filepath.Join(dir, "out"), filepath.Join(dir, "net.onnx")
	data, err := os.ReadFile("../../policy/onnx/testdata/tiny.onnx")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, data, 0o600))
	name := "onnx:" + file
	flags := []string{"--profile", "serving", "--difficulty", "hard", "--seed", "3"}
	args := append([]string{"rollout", "--episodes", "6", "--policy", "noop, " + name, "--out", out, "--json"}, flags...)
	var sum struct {
		Groups []struct {
			Policy     string
			RewardMean float64 `json:"reward_mean"`
		}
	}
	require.NoError(t, json.Unmarshal([]byte(done(t, args...)), &sum))
	require.Len(t, sum.Groups, 2)
	require.Equal(t, name, sum.Groups[1].Policy)
	require.NotEqual(t, sum.Groups[0].RewardMean, sum.Groups[1].RewardMean)

	total := 0.0
	for env := range 6 {
		lines := strings.Split(strings.TrimSpace(done(t, append([]string{"inspect", "--env", strconv.Itoa(env), "--policy", name, "--no-obs"}, flags...)...)), "\n")
		var last struct {
			State struct {
				Score int64 `json:"score_fixed"`
			}
		}
		require.NoError(t, json.Unmarshal([]byte(lines[len(lines)-1]), &last))
		total += float64(last.State.Score) / (1 << 20)
	}
	require.InDelta(t, total/6, sum.Groups[1].RewardMean, 1e-6)

	// Its contents are part of what a rollout is.
	require.NotEmpty(t, done(t, append(args, "--resume")...))
	require.NoError(t, os.WriteFile(file, append(data, 0x18, 1), 0o600)) // a field that nobody reads
	refused(t, exitUsage, "networks", append(args, "--resume")...)

	refused(t, exitUsage, "kvgym rollout: --policy: onnx:"+dir+": allowed a regular file", "rollout", "--policy", "onnx:"+dir, "--out", out)
	refused(t, exitUsage, "kvgym inspect: --policy: onnx:absent: no such file or directory", "inspect", "--policy", "onnx:absent")
	require.Contains(t, done(t, "rollout", "--help"), "onnx:FILE")
}
