//go:build unix

package rollout_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/kvgym/kvgym/rollout"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A child process is this test binary with these set: it plays the rollout and ends.
const (
	childConfig = "KVGYM_TEST_ROLLOUT"
	childLimit  = "KVGYM_TEST_FILE_LIMIT" // bytes that a file may have, as on a disk that is full
)

func TestMain(m *testing.M) {
	if text := os.Getenv(childConfig); text != "" {
		os.Exit(child(text))
	}
	os.Exit(m.Run())
}

func child(text string) int {
	var cfg rollout.Config
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		panic(err)
	}
	if s := os.Getenv(childLimit); s != "" {
		limit, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			panic(err)
		}
		signal.Ignore(syscall.SIGXFSZ)
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: limit, Max: limit}); err != nil {
			panic(err)
		}
	}
	if _, err := rollout.Run(context.Background(), cfg, nil); err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		return 1
	}
	return 0
}

func childOf(t *testing.T, cfg rollout.Config, env ...string) *exec.Cmd {
	text, err := json.Marshal(cfg)
	require.NoError(t, err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), childConfig+"="+string(text)), env...)
	return cmd
}

// TestKill kills a rollout without warning again and again until one run gets through: no episode may be lost or doubled,
// and the files must be those of an uninterrupted run.
func TestKill(t *testing.T) {
	whole := small(filepath.Join(t.TempDir(), "whole"))
	whole.Episodes = 4000
	if testing.Short() {
		whole.Episodes = 600
	}
	start := time.Now()
	want := run(t, whole)
	took := time.Since(start)

	cfg := whole
	cfg.Out, cfg.Resume = filepath.Join(t.TempDir(), "killed"), true
	kills := 0
	for delay := took / 5; ; delay += took / 40 {
		cmd := childOf(t, cfg)
		require.NoError(t, cmd.Start())
		time.AfterFunc(delay, func() { _ = cmd.Process.Kill() })
		if err := cmd.Wait(); err == nil {
			break
		}
		kills++
	}
	require.Positive(t, kills)
	require.Equal(t, contents(t, whole.Out), contents(t, cfg.Out))
	got := run(t, cfg)
	require.True(t, got.Complete)
	require.Equal(t, want.Groups, got.Groups)
	t.Logf("killed %d times", kills)
}

// TestFullDisk lets no file grow beyond a limit, as a full disk does: one clear error, no torn file, and a run on a larger
// disk goes on.
func TestFullDisk(t *testing.T) {
	for _, limit := range []string{"8192", "60000"} {
		cfg := small(filepath.Join(t.TempDir(), "out"))
		cfg.Resume = true
		out, err := childOf(t, cfg, childLimit+"="+limit).CombinedOutput()
		require.Error(t, err)
		require.Regexp(t, `^rollout: writing .*: write .*: file too large\n$`, string(out))
		left, err := filepath.Glob(filepath.Join(cfg.Out, "*", ".unfinished-*"))
		require.NoError(t, err)
		require.Empty(t, left)
		run(t, cfg)
	}
}
