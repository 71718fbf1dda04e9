package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

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
