package export

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/trace"
	"github.com/kvgym/kvgym/vecenv"
)

func synthesize(t *testing.T, path string, seed uint64) {
	t.Helper()
	f, err := os.Create(path)
	require.NoError(t, err)
	require.NoError(t, trace.Synthesize(f, trace.SynthConfig{Requests: 500, Seed: seed, Rate: 8, Tenants: 3}))
	require.NoError(t, f.Close())
}

func config(t *testing.T, traces *Traces, text string) vecenv.Config {
	t.Helper()
	c, err := traces.Config(parse(t, text))
	require.NoError(t, err)
	return c
}

// A trace is read once for all difficulties, however many ask at once; what reads it otherwise, or a file that has changed, is another one, and few are kept.
func TestTracesAreShared(t *testing.T) {
	var traces Traces
	path := filepath.Join(t.TempDir(), "a.jsonl")
	synthesize(t, path, 1)
	text := func(difficulty, more string) string {
		return fmt.Sprintf(`{"difficulty":%q,"trace":{"path":%q}%s}`, difficulty, path, more)
	}
	var asking sync.WaitGroup
	for i := range 12 {
		asking.Go(func() { config(t, &traces, text([]string{"easy", "medium", "hard", "all"}[i%4], "")) })
	}
	asking.Wait()
	require.Len(t, traces.kept, 1)

	for _, difficulty := range []string{"easy", "hard"} {
		alone, err := parse(t, text(difficulty, "")).Config()
		require.NoError(t, err)
		shared := config(t, &traces, text(difficulty, ""))
		require.Equal(t, alone.Source.Fingerprint(), shared.Source.Fingerprint())
		alone.Envs, shared.Envs = 1, 1
		require.Equal(t, played(t, alone), played(t, shared))
	}

	first := traces.kept[0].src
	config(t, &traces, text("all", `,"steps":20`))
	config(t, &traces, text("all", `,"profile":"serving"`))
	config(t, &traces, text("all", `,"profile":"serving","preset":"llama3-70b.8xh100"`))
	require.Len(t, traces.kept, MaxTraces)
	require.Same(t, first, traces.find(traces.kept[3].key).src, "what is used again is kept")
	config(t, &traces, text("all", `,"slots":16`))
	require.Len(t, traces.kept, MaxTraces)
	require.Same(t, first, traces.kept[1].src)

	synthesize(t, path, 2)
	require.NoError(t, os.Chtimes(path, time.Time{}, time.Now().Add(time.Hour)))
	require.NotEqual(t, first.Fingerprint(), config(t, &traces, text("all", "")).Source.Fingerprint())
	require.NoError(t, os.WriteFile(path, []byte("nonsense\n"), 0o600))
	for range 2 {
		_, err := traces.Config(parse(t, text("all", "")))
		require.ErrorContains(t, err, "config: ")
	}
	require.NoError(t, os.Remove(path))
	_, err := traces.Config(parse(t, text("all", "")))
	require.ErrorContains(t, err, "no such file")
}

// played is how an episode begins.
func played(t *testing.T, c vecenv.Config) scenario.Episode {
	t.Helper()
	b, err := vecenv.New(c)
	require.NoError(t, err)
	defer b.Close()
	require.NoError(t, b.Reset(vecenv.ResetOptions{}))
	return *b.View(0).Episode()
}

// An episode runs at the process's SIMD level.
func TestTracesRefuseALevel(t *testing.T) {
	_, err := new(Traces).Config(parse(t, `{"simd":"generic"}`))
	require.EqualError(t, err, `config: simd: "generic": allowed none, an episode has the process's level`)
}
