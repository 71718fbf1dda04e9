package policy_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/kvgym/kvgym/policy"
	"github.com/stretchr/testify/require"
)

// The README shows a policy whole, and names every one.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join("..", "README.md"))
	require.NoError(t, err)
	lru, err := os.ReadFile("lru.go")
	require.NoError(t, err)
	require.Contains(t, string(readme), "```go\n"+string(lru)+"```\n", "README.md shows another lru.go")
	for _, n := range policy.Names() {
		require.Contains(t, string(readme), "| `"+n+"` |", "README.md's table of policies lacks %s", n)
	}
}
