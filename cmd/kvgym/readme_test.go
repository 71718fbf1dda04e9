package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kvgym/kvgym/toolenv/scripted"
	"github.com/stretchr/testify/require"
)

// The table that the README shows is what the program prints.
func TestReadmeTable(t *testing.T) {
	out := done(t, "rollout", "--episodes", "4096", "--policy", "noop", "--out", filepath.Join(t.TempDir(), "out"))
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	require.NoError(t, err)
	squeeze := func(s string) string { return strings.Join(strings.Fields(s), " ") } // columns are as wide as the longest name
	rows := 0
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "│ noop ") {
			rows++
			require.Contains(t, squeeze(string(readme)), squeeze(line))
		}
	}
	require.Equal(t, 3, rows)
}

// The commands of the README's section on language models do what it says, typed as they stand there. Where they listen and write is moved.
func TestReadmeLanguageModels(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	require.NoError(t, err)
	_, section, ok := strings.Cut(string(readme), "\n## Language models\n")
	require.True(t, ok)
	_, block, _ := strings.Cut(section, "\n```\n")
	block, _, _ = strings.Cut(block, "\n```\n")
	lines := strings.Split(block, "\n")
	require.Len(t, lines, 3)
	words := func(line string) []string {
		line, ok := strings.CutPrefix(strings.TrimSuffix(line, " &"), "build/kvgym ")
		require.True(t, ok, line)
		return strings.Fields(strings.NewReplacer("'", "", "out/eval", filepath.Join(t.TempDir(), "eval")).Replace(line))
	}
	serve := words(lines[0])
	f := newServeModelCmd()
	require.NoError(t, f.ParseFlags(serve[1:]))
	require.Equal(t, "serve-model", serve[0])
	name, err := f.Flags().GetString("policy")
	require.NoError(t, err)
	address, err := f.Flags().GetString("addr")
	require.NoError(t, err)
	args := words(strings.ReplaceAll(lines[1], "http://"+address+"/v1", scriptedModel(t, scripted.Config{Policy: name})))
	out := done(t, args...)
	for _, row := range []string{"│ scripted │ hard       │        8 │", "│ noop     │ hard       │        8 │", "│ greedy   │ hard       │        8 │"} {
		require.Contains(t, out, row)
	}
	for _, name := range []string{"results.jsonl", "results.parquet", "transcript.html"} {
		require.FileExists(t, filepath.Join(args[len(args)-1], name))
	}
	require.Equal(t, "kill %1", lines[2])
}
