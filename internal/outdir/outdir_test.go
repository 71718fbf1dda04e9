package outdir

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A file is there whole, or as it was before, and nothing else is.
func TestPublish(t *testing.T) {
	d := Dir{t.TempDir(), "test"}
	require.NoError(t, d.PublishJSON("a.json", map[string]int{"x": 1}))
	broken := errors.New("broken")
	err := d.Publish("a.json", func(w io.Writer) error {
		_, _ = io.WriteString(w, "half")
		return broken
	})
	require.ErrorIs(t, err, broken)
	require.ErrorContains(t, err, "test: writing "+filepath.Join(d.Path, "a.json"))
	text, err := os.ReadFile(filepath.Join(d.Path, "a.json"))
	require.NoError(t, err)
	require.JSONEq(t, `{"x":1}`, string(text))
	left, err := os.ReadDir(d.Path)
	require.NoError(t, err)
	require.Len(t, left, 1)
}

func TestDifferences(t *testing.T) {
	require.Empty(t, Differences([]byte(`{"a":1,"b":{"c":[2]}}`), []byte(`{"b":{"c":[2]},"a":1}`)))
	require.Equal(t, `a is 1 there and not given here; b.c is [2] there and [3] here; d is not given there and "x" here`,
		Differences([]byte(`{"a":1,"b":{"c":[2]}}`), []byte(`{"b":{"c":[3]},"d":"x"}`)))
}
