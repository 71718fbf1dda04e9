//go:build unix

package eval_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/kvgym/kvgym/eval"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/toolenv/scripted"
	"github.com/kvgym/kvgym/vecenv"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A child process is this test binary with these set: it plays the evaluation of childConfig and ends.
const (
	childURL   = "KVGYM_TEST_EVAL_URL"
	childOut   = "KVGYM_TEST_EVAL_OUT"
	childLimit = "KVGYM_TEST_FILE_LIMIT" // bytes that a file may have, as on a disk that is full
)

func TestMain(m *testing.M) {
	if os.Getenv(childURL) != "" {
		os.Exit(child())
	}
	os.Exit(m.Run())
}

func child() int {
	if limit, err := strconv.ParseUint(os.Getenv(childLimit), 10, 64); err == nil {
		signal.Ignore(syscall.SIGXFSZ)
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: limit, Max: limit}); err != nil {
			panic(err)
		}
	}
	cfg, err := childConfig(os.Getenv(childURL), os.Getenv(childOut))
	if err == nil {
		_, err = eval.Run(context.Background(), cfg, nil)
	}
	if err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		return 1
	}
	return 0
}

func childConfig(url, out string) (eval.Config, error) {
	source, err := scenario.NewSynthetic(64, 15, scenario.All)
	return eval.Config{Out: out, Env: vecenv.Config{Seed: 42, Source: source}, Difficulty: scenario.All, Examples: 12, Rollouts: 2, Concurrent: 3, Resume: true,
		Model: &eval.Model{Name: "scripted", BaseURL: url, Key: "none", Timeout: time.Minute}}, err
}

func childOf(m *eval.Model, out string, env ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), childURL+"="+m.BaseURL, childOut+"="+out), env...)
	return cmd
}

// TestKill kills an evaluation without warning again and again until one run gets through: what was a whole line stays, to the byte, and no episode
// is lost, doubled or played again.
func TestKill(t *testing.T) {
	faults := scripted.Faults{Delay: 2 * time.Millisecond}
	faults.When[scripted.Slow] = when(t, "100%")
	s, m := serve(t, scripted.Config{Policy: "greedy", Faults: faults})
	out := filepath.Join(t.TempDir(), "out")
	path := filepath.Join(out, eval.ResultsName)
	var kept []byte
	kills := 0
	for delay := 150 * time.Millisecond; ; delay += delay / 2 {
		cmd := childOf(m, out)
		var errs bytes.Buffer
		cmd.Stderr = &errs
		require.NoError(t, cmd.Start())
		time.AfterFunc(delay, func() { _ = cmd.Process.Kill() })
		err := cmd.Wait()
		require.Empty(t, errs.String())
		text, _ := os.ReadFile(path)
		require.True(t, bytes.HasPrefix(text, kept), "finished lines stay")
		kept = text[:bytes.LastIndexByte(text, '\n')+1]
		if err == nil {
			break
		}
		kills++
	}
	require.Positive(t, kills)
	all := rows(t, out)
	require.Len(t, all, 24)
	for i, r := range all {
		require.Equal(t, []int{i / 2, i % 2}, []int{r.Example, r.Rollout})
		require.NotNil(t, r.Score)
	}
	require.Less(t, s.Stats().Requests, uint64(15*(24+3*(kills+1))), "only what was under way is asked again")
	t.Logf("killed %d times", kills)
}

// A torn line, one that is none of ours, and one twice are no reason to stop, or to play what is there again. Failed episodes are played again.
func TestResumeRepairs(t *testing.T) {
	faults := scripted.Faults{}
	faults.When[scripted.Broken] = when(t, "20")
	_, m := serve(t, scripted.Config{Policy: "greedy", Faults: faults})
	m.MaxRetries = 0
	cfg := config(t, m)
	cfg.Concurrent = 1
	require.Equal(t, 1, run(t, cfg).Failed)
	path := filepath.Join(cfg.Out, eval.ResultsName)
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	lines := bytes.SplitAfter(text, []byte("\n"))
	require.Len(t, lines, 7)
	damaged := bytes.Join([][]byte{lines[0], lines[1], lines[0], []byte("{}\n"), lines[2], lines[3], lines[4][:100]}, nil)
	require.NoError(t, os.WriteFile(path, damaged, 0o600))
	cfg.Resume = true
	sum := run(t, cfg)
	require.Equal(t, []int{6, 0, 3}, []int{sum.Episodes, sum.Failed, sum.Kept})
	require.Len(t, rows(t, cfg.Out), 6)
	text, err = os.ReadFile(path)
	require.NoError(t, err)
	require.True(t, bytes.HasPrefix(text, bytes.Join([][]byte{lines[0], lines[2], lines[3]}, nil)), "example 1 was the one that failed")
}

// TestFullDisk lets no file grow beyond a limit, as a full disk does: one clear error, and a run on a larger disk goes on.
func TestFullDisk(t *testing.T) {
	_, m := serve(t, scripted.Config{Policy: "greedy"})
	for _, limit := range []string{"1000", "200000"} {
		out := filepath.Join(t.TempDir(), "out")
		text, err := childOf(m, out, childLimit+"="+limit).CombinedOutput()
		require.Error(t, err)
		require.Regexp(t, `^eval: .*write .*: file too large\n$`, string(text))
		cfg, err := childConfig(m.BaseURL, out)
		require.NoError(t, err)
		require.Equal(t, 24, run(t, cfg).Episodes)
	}
}

// A folder is resumed with its own configuration only, and one at a time.
func TestResumeRefuses(t *testing.T) {
	cfg := config(t, nil, "noop")
	run(t, cfg)
	refused := func(says string, change func(*eval.Config)) {
		c := cfg
		c.Resume = true
		change(&c)
		_, err := eval.Run(t.Context(), c, nil)
		var r *eval.RefusedError
		require.ErrorAs(t, err, &r, says)
		require.ErrorContains(t, err, says)
	}
	refused("holds results already: allowed another folder, or resuming that one", func(c *eval.Config) { c.Resume = false })
	refused("which cannot be resumed with this one: seed is 42 there and 43 here", func(c *eval.Config) { c.Env.Seed = 43 })
	refused("num_examples is 6 there and 7 here; rollouts is 1 there and 2 here", func(c *eval.Config) { c.Examples, c.Rollouts = 7, 2 })
	refused(`policies is ["noop"] there and ["noop","greedy"] here`, func(c *eval.Config) { c.Policies = []string{"noop", "greedy"} })
	refused(`model is not given there and "x" here`, func(c *eval.Config) { c.Model = &eval.Model{Name: "x", BaseURL: "http://127.0.0.1:1"} })
	refused(`profile is "seed" there and "serving" here`, func(c *eval.Config) { *c = serving(t, *c) })

	require.NoError(t, os.WriteFile(filepath.Join(cfg.Out, "manifest.json"), []byte(`{"config": 3}`), 0o600))
	refused("not one of ours: allowed the manifest that an eval wrote", func(*eval.Config) {})
	require.NoError(t, os.Remove(filepath.Join(cfg.Out, "manifest.json")))
	refused("holds results.jsonl but no manifest.json", func(*eval.Config) {})
}
