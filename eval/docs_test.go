package eval

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "rewrite the columns in docs/evaluation.md")

// TestDocs keeps docs/evaluation.md true to the columns that are written, and to the fields and kinds that there are.
func TestDocs(t *testing.T) {
	const heading = "## Columns of results.parquet\n"
	path := filepath.Join("..", "docs", "evaluation.md")
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	before, _, _ := strings.Cut(string(text), heading)
	var page strings.Builder
	page.WriteString(before + heading + "\nThis list is written by `go test ./eval -run TestDocs -update`.\n\n| column | type | what it is |\n|---|---|---|\n")
	for _, c := range Columns() {
		fmt.Fprintf(&page, "| %s | %s | %s |\n", c.Name, c.Type, c.About)
	}
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(page.String()), 0o644))
		return
	}
	require.Equal(t, page.String(), string(text), "docs/evaluation.md is not what is written")
	for _, k := range []Kind{TimedOut, Disconnected, Malformed, RateLimited, ServerError, ContextLength, Refused, Engine} {
		require.Contains(t, before, "`"+string(k)+"`")
	}
}
