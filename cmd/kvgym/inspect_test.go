package main

import (
	"bytes"
	"encoding/json"
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
