package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/kvgym/kvgym/kernels"
	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
)

// kvgym runs a command line.
func kvgym(stdin string, args ...string) (status int, stdout, stderr string) {
	var out, errs bytes.Buffer
	status = run(args, strings.NewReader(stdin), &out, &errs)
	return status, out.String(), errs.String()
}

// done runs a command line that must succeed without a message.
func done(t *testing.T, args ...string) string {
	status, out, errs := kvgym("", args...)
	require.Equal(t, exitDone, status, errs)
	require.Empty(t, errs)
	return out
}

// refused runs a command line that must fail with one line.
func refused(t *testing.T, want int, says string, args ...string) {
	status, out, errs := kvgym("", args...)
	require.Equal(t, want, status, "%v: %s", args, errs)
	require.Empty(t, out)
	require.Equal(t, 1, strings.Count(errs, "\n"), errs)
	require.Contains(t, errs, says)
	require.Contains(t, errs, "kvgym")
	require.NotContains(t, errs, "goroutine")
}

func TestHelp(t *testing.T) {
	var visit func(c *cobra.Command, path []string)
	visit = func(c *cobra.Command, path []string) {
		out := done(t, append(path, "--help")...)
		require.Contains(t, out, "Examples:", "%v", path)
		require.Contains(t, out, "kvgym "+strings.Join(path, " "), "%v", path)
		for _, sub := range c.Commands() {
			if sub.IsAvailableCommand() && sub.Name() != "help" {
				visit(sub, append(append([]string{}, path...), sub.Name()))
			}
		}
	}
	visit(newRoot(), nil)
	require.Contains(t, done(t), "Available Commands:")
	require.Equal(t, done(t, "trace", "info", "--help"), done(t, "help", "trace", "info"))
	require.Equal(t, done(t), done(t, "help"))
	require.Contains(t, done(t, "completion", "bash"), "bash completion")
}

func TestWrongUse(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, []byte("x"), 0o600))
	for _, c := range []struct {
		says string
		args []string
	}{
		{`kvgym: command: "foo": allowed bench, eval, inspect, rollout, serve, serve-model, trace, version`, []string{"foo"}},
		{`kvgym trace: command: "foo": allowed info, synth`, []string{"trace", "foo"}},
		{`kvgym help: command: "foo": allowed `, []string{"help", "foo"}},
		{`kvgym help: command: "foo": allowed info, synth`, []string{"help", "trace", "foo"}},
		{`kvgym completion: command: "foo": allowed bash, fish`, []string{"completion", "foo"}},
		{`kvgym completion bash: argument: "foo": allowed flags only`, []string{"completion", "bash", "foo"}},
		{`kvgym inspect: argument: "foo": allowed flags only`, []string{"inspect", "foo"}},
		{`kvgym trace info: arguments: 0 given: allowed one, the trace file`, []string{"trace", "info"}},
		{"kvgym rollout: flag: --episods: allowed those that kvgym rollout --help lists", []string{"rollout", "--episods", "3"}},
		{"kvgym rollout: flag: -x: allowed", []string{"rollout", "-x"}},
		{`kvgym rollout: --episodes: "NaN": allowed a whole number`, []string{"rollout", "--episodes", "NaN"}},
		{`kvgym rollout: --seed: "-1": allowed a whole number from 0 to 18446744073709551615`, []string{"rollout", "--seed", "-1"}},
		{"kvgym rollout: --out: no value", []string{"rollout", "--out"}},
		{`kvgym rollout: --resume: "perhaps": allowed true or false`, []string{"rollout", "--resume=perhaps"}},
		{`kvgym rollout: --out: none given: allowed a folder`, []string{"rollout"}},
		{"kvgym rollout: --episodes: 0: allowed 1 to 2147483648", []string{"rollout", "--episodes", "0", "--out", dir}},
		{"kvgym rollout: --envs: 0: allowed 1 to 1048576", []string{"rollout", "--envs", "0", "--out", dir}},
		{"kvgym rollout: --obs: f16: allowed none, f32, u8", []string{"rollout", "--obs", "f16", "--out", dir}},
		{`kvgym rollout: --policy: "best": allowed noop, random`, []string{"rollout", "--policy", "best", "--out", dir}},
		{"kvgym rollout: --policy: noop: allowed each name once", []string{"rollout", "--policy", "noop,noop", "--out", dir}},
		{"kvgym rollout: --steps: 4097: allowed 1 to 4096", []string{"rollout", "--steps", "4097", "--out", dir}},
		{"kvgym rollout: --slots: 65: allowed a multiple of 16 from 16 to 256", []string{"rollout", "--slots", "65", "--out", dir}},
		{"kvgym inspect: --difficulty: brutal: allowed easy, medium, hard, all", []string{"inspect", "--difficulty", "brutal"}},
		{"kvgym inspect: --profile: server: allowed seed, serving", []string{"inspect", "--profile", "server"}},
		{"kvgym inspect: --preset: no --profile serving: allowed together with --profile serving", []string{"inspect", "--preset", "dynamo-mocker"}},
		{"kvgym rollout: --preset: no --profile serving: allowed together", []string{"rollout", "--out", dir, "--profile", "seed", "--preset", "llama3-8b.a100"}},
		{`kvgym rollout: --preset: "a100": allowed llama3-8b.a100, llama3-70b.8xh100, `, []string{"rollout", "--out", dir, "--profile", "serving", "--preset", "a100"}},
		{`kvgym inspect: --preset: "": allowed llama3-8b.a100, `, []string{"inspect", "--profile", "serving", "--preset", ""}},
		{"kvgym inspect: --trace-loop: half: allowed open, closed", []string{"inspect", "--profile", "serving", "--trace", file, "--trace-loop", "half"}},
		{"kvgym inspect: --trace-loop: closed without --profile serving: allowed open, or closed together with it", []string{"inspect", "--trace", file, "--trace-loop", "closed"}},
		{"kvgym inspect: --trace-loop: no --trace: allowed together with --trace FILE", []string{"inspect", "--profile", "serving", "--trace-loop", "closed"}},
		{"kvgym inspect: --trace-step-ms: no --trace: allowed together", []string{"inspect", "--profile", "serving", "--trace-step-ms", "500"}},
		{`kvgym inspect: --simd: sse2: allowed auto, generic`, []string{"inspect", "--simd", "sse2"}},
		{`kvgym rollout: --simd: : allowed auto, generic`, []string{"rollout", "--simd", "", "--out", dir}},
		{"kvgym inspect: --workers: -1: allowed 0 to 1024", []string{"inspect", "--workers", "-1"}},
		{"kvgym inspect: --max-wait: 0: allowed 1 to 4096", []string{"inspect", "--max-wait", "0"}},
		{"kvgym inspect: --trace-format: csv: allowed auto, mooncake", []string{"inspect", "--trace-format", "csv"}},
		{"kvgym inspect: --trace-sample: 1001: allowed 0 to 1000", []string{"inspect", "--trace-sample", "1001"}},
		{`kvgym inspect: --env: "4294967296": allowed a whole number from 0 to 4294967295`, []string{"inspect", "--env", "4294967296"}},
		{"kvgym inspect: --actions and --policy: both given: allowed one of them", []string{"inspect", "--actions", "-", "--policy", "noop"}},
		{`kvgym trace synth: --out: "": allowed a file to write`, []string{"trace", "synth"}},
		{"kvgym trace synth: --out: " + file + ": allowed a new file, or --force to replace it", []string{"trace", "synth", "--out", file}},
		{"kvgym trace synth: --requests: 0: allowed 1 to 10000000", []string{"trace", "synth", "--requests", "0", "--out", filepath.Join(dir, "new")}},
		{"kvgym trace synth: --rate: NaN: allowed 0.01 to 100000", []string{"trace", "synth", "--rate", "NaN", "--out", filepath.Join(dir, "new")}},
	} {
		refused(t, exitUsage, c.says, c.args...)
	}
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 1, "wrong use leaves nothing behind")
}

func TestFailures(t *testing.T) {
	dir := t.TempDir()
	missing := filepath.Join(dir, "missing")
	broken := filepath.Join(dir, "broken.jsonl")
	require.NoError(t, os.WriteFile(broken, []byte(`{"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [1, 2]}`+"\n"+
		`{"timestamp": 1, "input_length": -600, "output_length": 5, "hash_ids": [1, 2]}`+"\n"), 0o600))
	for _, args := range [][]string{{"trace", "info"}, {"inspect", "--trace"}, {"inspect", "--actions"}, {"rollout", "--out", filepath.Join(dir, "out"), "--trace"}} {
		refused(t, exitFailed, missing+": no such file or directory: allowed a file that can be read", append(args, missing)...)
		refused(t, exitFailed, dir+": is a folder: allowed a file that can be read", append(args, dir)...)
	}
	for _, args := range [][]string{{"trace", "info", broken}, {"inspect", "--trace", broken}, {"rollout", "--out", filepath.Join(dir, "out"), "--trace", broken}} {
		refused(t, exitFailed, "broken.jsonl:2: input_length: -600: allowed 1 to 2147483647", args...)
	}
	for path, why := range map[string]string{filepath.Join(broken, "new"): "not a directory", filepath.Join(missing, "new"): "no such file or directory"} {
		refused(t, exitFailed, "kvgym trace synth: --out: "+path+": "+why+": allowed a file in a folder that can be written\n", "trace", "synth", "--out", path)
	}
	require.NoError(t, os.Mkdir(filepath.Join(dir, "folder"), 0o700))
	refused(t, exitFailed, "--out: "+filepath.Join(dir, "folder")+": ", "trace", "synth", "--force", "--out", filepath.Join(dir, "folder"))
	left, err := filepath.Glob(filepath.Join(dir, ".*"))
	require.NoError(t, err)
	require.Empty(t, left, "no temporary file stays")
	refused(t, exitFailed, "allowed a folder that can be written", "rollout", "--out", broken)

	preset := filepath.Join(dir, "preset.toml")
	require.NoError(t, os.WriteFile(preset, []byte("base = \"llama3-8b.a100\"\nlink_ps = 0\n"), 0o600))
	for _, args := range [][]string{{"inspect", "--profile", "serving", "--preset"}, {"rollout", "--profile", "serving", "--out", filepath.Join(dir, "out"), "--preset"}} {
		refused(t, exitFailed, "link_ps: 0: allowed 1 to ", append(args, preset)...)
		refused(t, exitFailed, missing+".json: no such file or directory: allowed a file that can be read", append(args, missing+".json")...)
	}
}

// full is an output that takes nothing, like a full disk.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

// What cannot be printed is a failure, not a success without output.
func TestFullOutput(t *testing.T) {
	path := filepath.Join(t.TempDir(), "traffic.jsonl")
	for _, args := range [][]string{{"trace", "synth", "--requests", "9", "--out", path}, {"trace", "info", path}, {"trace", "info", "--json", path}, {"version"},
		{"version", "--json"}, {"inspect", "--steps", "1", "--no-obs"}, {"inspect"},
		{"rollout", "--episodes", "5", "--out", filepath.Join(t.TempDir(), "a")}, {"rollout", "--episodes", "5", "--json", "--out", filepath.Join(t.TempDir(), "b")}} {
		var errs strings.Builder
		require.Equal(t, exitFailed, run(args, strings.NewReader(""), full{}, &errs), "%v", args)
		require.Contains(t, errs.String(), "no space left on device", "%v", args)
	}
}

func TestVersion(t *testing.T) {
	var v map[string]any
	require.NoError(t, json.Unmarshal([]byte(done(t, "version", "--json")), &v))
	for _, key := range []string{"version", "commit", "go", "simd_levels", "simulator_version"} {
		require.NotEmpty(t, v[key], key)
	}
	require.Equal(t, kernels.Active().String(), v["simd"])
	require.Contains(t, v["simd_levels"], v["simd"])
	require.Len(t, v["simd_levels"], len(kernels.Levels()))
	require.Contains(t, done(t, "version"), "SIMD levels: "+kernels.Names(kernels.Levels())+" (in use: "+kernels.Active().String()+")\n")
	require.Equal(t, []any{"seed", "serving"}, v["profiles"])
	require.Equal(t, []any{"llama3-8b.a100", "llama3-70b.8xh100", "deepseek-v3.h800-node", "dynamo-mocker"}, v["presets"])
	require.Contains(t, done(t, "version"), "\nprofiles: seed, serving\npresets: llama3-8b.a100, ")
	require.Contains(t, done(t, "version"), "simulator rules version")
}

func TestTraceCommands(t *testing.T) {
	path := filepath.Join(t.TempDir(), "traffic.jsonl")
	var made, info map[string]any
	require.NoError(t, json.Unmarshal([]byte(done(t, "trace", "synth", "--requests", "300", "--seed", "5", "--out", path, "--json")), &made))
	require.NoError(t, json.Unmarshal([]byte(done(t, "trace", "info", "--json", path)), &info))
	require.Equal(t, made, info)
	for _, key := range []string{"format", "requests", "sessions", "blocks", "distinct_blocks", "input_tokens", "output_tokens", "seconds_covered", "bad_lines", "sha256"} {
		require.Contains(t, info, key)
	}
	require.EqualValues(t, 300, info["requests"])
	require.Contains(t, done(t, "trace", "info", path), "hit share")
	before, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Empty(t, done(t, "trace", "synth", "--requests", "300", "--seed", "5", "--out", path, "--force", "--quiet"))
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, before, after, "a function of the flags alone")

	require.NoError(t, os.WriteFile(path, append(before, "nonsense\n"...), 0o600))
	require.NoError(t, json.Unmarshal([]byte(done(t, "trace", "info", "--json", "--skip-bad-lines", path)), &info))
	require.EqualValues(t, 1, info["bad_lines"])
	require.NoError(t, os.WriteFile(path, []byte("\x1f\x8b\x08\x00truncated"), 0o600))
	refused(t, exitFailed, path, "trace", "info", path)
}
