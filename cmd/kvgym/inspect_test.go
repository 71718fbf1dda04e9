package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func inspectLines(t *testing.T, stdin string, args ...string) []map[string]any {
	status, out, errs := kvgym(stdin, append([]string{"inspect"}, args...)...)
	require.Equal(t, exitDone, status, errs)
	var lines []map[string]any
	for line := range strings.Lines(out) {
		var m map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &m))
		lines = append(lines, m)
	}
	return lines
}

func TestInspect(t *testing.T) {
	lines := inspectLines(t, "", "--difficulty", "hard", "--env", "3", "--episode", "2", "--policy", "greedy", "--steps", "4")
	require.Len(t, lines, 5)
	require.Equal(t, "scenario", lines[0]["type"])
	require.EqualValues(t, 3, lines[0]["env"])
	require.EqualValues(t, 2, lines[0]["episode"])
	for _, key := range []string{"initial", "arrivals", "state", "mask", "obs", "key", "budget_qp", "capacity_qp"} {
		require.Contains(t, lines[0], key)
	}
	for k, line := range lines[1:] {
		require.Equal(t, "step", line["type"])
		for _, key := range []string{"actions", "state", "mask", "reward", "components", "metrics", "obs", "terminated", "truncated"} {
			require.Contains(t, line, key)
		}
		require.Equal(t, k == 3, line["terminated"])
		require.Len(t, line["obs"], 784)
	}
	again := inspectLines(t, "", "--difficulty", "hard", "--env", "3", "--episode", "2", "--policy", "greedy", "--steps", "4")
	require.Equal(t, lines, again)
	other := inspectLines(t, "", "--difficulty", "hard", "--env", "4", "--episode", "2", "--policy", "greedy", "--steps", "4")
	require.NotEqual(t, lines[0]["initial"], other[0]["initial"])
}

func TestInspectActions(t *testing.T) {
	lines := inspectLines(t, "[[\"compress\",4],[2,4],[\"evict\",5]]\n[]\n[[9,1],[1,-1],[\"keep\",0]]\n", "--actions", "-", "--steps", "4", "--no-obs")
	state := func(k int) map[string]any { return lines[k]["state"].(map[string]any) }
	require.EqualValues(t, 2, state(1)["compressions"])
	require.EqualValues(t, 1, state(1)["evictions"])
	require.EqualValues(t, 0, state(2)["invalid"])
	require.EqualValues(t, 2, state(3)["invalid"])
	require.Equal(t, []any{[]any{"compress", 4.0}, []any{"compress", 4.0}, []any{"evict", 5.0}}, lines[1]["actions"])
	require.NotContains(t, lines[1], "obs")
}

func TestInspectBadActions(t *testing.T) {
	for text, says := range map[string]string{
		"[[\"burn\",3]]":             `actions: -:1: operation: "\"burn\"": allowed keep, evict, compress, swap, or a number`,
		"[]\n[[\"evict\",NaN]]":      `actions: -:2: "[[\"evict\",NaN]]": allowed an array`,
		"[[\"evict\",1.5]]":          `slot: "1.5": allowed a whole number`,
		"[[\"evict\",99999999999]]":  `slot: "99999999999": allowed a whole number`,
		"[[\"evict\"]]":              "1 values in an operation",
		"null":                       `"null": allowed an array`,
		"{\"evict\":3}":              "allowed an array",
		"[[null,3]]":                 "operation",
		"[[\"evict\",null]]":         `slot: "null": allowed a whole number`,
		"[null]":                     "0 values in an operation",
		"[]\n\n":                     `actions: -:2: "": allowed an array`,
		strings.Repeat("[]\n", 16):   "16 lines in -: allowed at most --steps, 15",
		strings.Repeat("[", 1<<20+1): "a longer line: allowed 1048576 bytes",
	} {
		status, out, errs := kvgym(text, "inspect", "--actions", "-")
		require.NotEqual(t, exitDone, status)
		require.Empty(t, out)
		require.Contains(t, errs, says)
	}
}

func TestInspectTrace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "traffic.jsonl")
	done(t, "trace", "synth", "--requests", "400", "--out", path, "--quiet")
	lines := inspectLines(t, "", "--trace", path, "--difficulty", "medium", "--no-obs")
	require.Equal(t, "trace", lines[0]["arrival_level"])
	require.Len(t, lines, 16)
}

func TestInspectServing(t *testing.T) {
	preset := filepath.Join(t.TempDir(), "slow.toml")
	require.NoError(t, os.WriteFile(preset, []byte("base = \"llama3-8b.a100\"\nname = \"slow\"\nlink_ps = 209720000\n"), 0o600))
	lines := inspectLines(t, "", "--profile", "serving", "--preset", preset, "--difficulty", "hard", "--policy", "tiered", "--no-obs")
	require.Len(t, lines, 16)
	require.Equal(t, "serving", lines[0]["profile"])
	got := lines[0]["preset"].(map[string]any)
	require.Equal(t, []any{"slow", 209720000.0, 1000.0}, []any{got["name"], got["link_ps"], got["step_ms"]})
	require.Positive(t, lines[0]["good_norm"])
	require.Positive(t, lines[0]["request_norm"])
	require.Len(t, lines[15]["components"], 11)
	require.Len(t, lines[15]["metrics"], 19)
	seed := inspectLines(t, "", "--steps", "1", "--no-obs")
	require.Equal(t, "seed", seed[0]["profile"])
	require.NotContains(t, seed[0], "preset")
	require.Len(t, seed[1]["components"], 7)
	require.Len(t, seed[1]["metrics"], 14)
}

// The step of a trace is that of the preset, unless it is given: then it is the preset's, too.
func TestInspectServingTrace(t *testing.T) {
	dir := t.TempDir()
	path, preset := filepath.Join(dir, "traffic.jsonl"), filepath.Join(dir, "long.json")
	done(t, "trace", "synth", "--requests", "400", "--out", path, "--quiet")
	require.NoError(t, os.WriteFile(preset, []byte(`{"base": "dynamo-mocker", "step_ms": 2000}`), 0o600))
	for _, c := range []struct {
		args []string
		step float64
	}{{nil, 2000}, {[]string{"--trace-step-ms", "500"}, 500}, {[]string{"--trace-step-ms", "1000"}, 1000}} {
		args := append([]string{"--profile", "serving", "--preset", preset, "--trace", path, "--no-obs"}, c.args...)
		open, closed := inspectLines(t, "", args...), inspectLines(t, "", append(args, "--trace-loop", "closed")...)
		require.Equal(t, c.step, open[0]["preset"].(map[string]any)["step_ms"])
		require.Equal(t, open[0]["preset"], closed[0]["preset"])
		require.Zero(t, turnsIn(open[0]))
		require.Positive(t, turnsIn(closed[0]))
	}
}

// turnsIn counts the further turns of all initial sequences and requests that a scenario draws.
func turnsIn(s map[string]any) (n int) {
	requests := s["initial"].([]any)
	for _, a := range s["arrivals"].([]any) {
		requests = append(requests, a.(map[string]any)["requests"].([]any)...)
	}
	for _, q := range requests {
		n += len(q.(map[string]any)["turns"].([]any))
	}
	return n
}

// FuzzParseActions feeds arbitrary files: no panic, and what parses means the same when it is written out again.
func FuzzParseActions(f *testing.F) {
	for _, s := range []string{"", "[]", "[[\"compress\",3],[\"evict\",7]]\n[[3,-2]]\n", "[[1e3,4]]", "[[\"\\u0065vict\",3]]", "[[2147483648,1]]", "[[1,null]]", "null\n", "[[\"keep\",0],null]"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		lines, err := parseActions(bytes.NewReader(text), "fuzz")
		if err != nil {
			require.Contains(t, err.Error(), "fuzz:")
			return
		}
		var again bytes.Buffer
		for _, pairs := range lines {
			row := [][2]int32{}
			for k := 0; k+1 < len(pairs); k += 2 {
				row = append(row, [2]int32{pairs[k], pairs[k+1]})
			}
			require.NoError(t, json.NewEncoder(&again).Encode(row))
		}
		second, err := parseActions(&again, "again")
		require.NoError(t, err)
		require.Equal(t, lines, second)
	})
}
