//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kvgym/kvgym/toolenv/scripted"
	"github.com/stretchr/testify/require"
)

// interrupt runs a command line and sends this process real interrupts from when ready is closed until the command ends:
// again and again, since a first one may come before the command listens. The test listens too, so that none ends the
// process, and waits for each: none is left to come when interrupt returns, into whatever is interrupted next.
func interrupt(t *testing.T, stdin io.Reader, stdout io.Writer, ready <-chan struct{}, args ...string) {
	arrived := make(chan os.Signal, 1)
	signal.Notify(arrived, os.Interrupt)
	defer signal.Stop(arrived)
	ended, sent := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(sent)
		select {
		case <-ready:
		case <-ended:
		}
		for {
			select {
			case <-ended:
				return
			case <-time.After(5 * time.Millisecond):
				_ = syscall.Kill(os.Getpid(), syscall.SIGINT)
				<-arrived
			}
		}
	}()
	var errs strings.Builder
	status := run(args, stdin, stdout, &errs)
	close(ended)
	<-sent
	require.Equal(t, exitInterrupted, status, errs.String())
	require.Regexp(t, `^kvgym `+args[0]+`( info| synth)?: interrupted(: what is finished stays in .*: --resume .*goes on)?\n$`, errs.String())
}

func now() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// blocked is an input that never comes.
type blocked struct{ forever chan struct{} }

func (b blocked) Read([]byte) (int, error) {
	<-b.forever
	return 0, io.EOF
}

func TestInterruptWaitingForActions(t *testing.T) {
	b := blocked{make(chan struct{})}
	defer close(b.forever)
	interrupt(t, b, io.Discard, now(), "inspect", "--actions", "-")
}

// first tells when something is printed.
type first struct {
	bytes.Buffer
	ready chan struct{}
}

func (f *first) Write(p []byte) (int, error) {
	if f.Len() == 0 {
		close(f.ready)
	}
	return f.Buffer.Write(p)
}

// An interrupted inspect has printed whole lines.
func TestInterruptInspect(t *testing.T) {
	out := first{ready: make(chan struct{})}
	interrupt(t, strings.NewReader(""), &out, out.ready, "inspect", "--policy", "search", "--steps", "4096", "--no-obs")
	require.True(t, strings.HasSuffix(out.String(), "}\n"))
	for line := range strings.Lines(out.String()) {
		require.True(t, json.Valid([]byte(line)))
	}
}

func TestInterruptTraceSynth(t *testing.T) {
	dir := t.TempDir()
	interrupt(t, strings.NewReader(""), io.Discard, now(), "trace", "synth", "--requests", "10000000", "--out", filepath.Join(dir, "big.jsonl"))
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
}

// A named pipe that nobody writes to is a file that never ends.
func TestInterruptTraceInfo(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	f, err := os.OpenFile(pipe, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	interrupt(t, strings.NewReader(""), io.Discard, now(), "trace", "info", pipe)
}

func TestInterruptBench(t *testing.T) {
	interrupt(t, strings.NewReader(""), io.Discard, now(), "bench", "--seconds", "1")
}

// An interrupted eval has the episodes that were finished.
func TestInterruptEval(t *testing.T) {
	faults := scripted.Faults{Delay: time.Hour}
	var err error
	faults.When[scripted.Slow], err = scripted.ParseWhen("17")
	require.NoError(t, err)
	url, out, ready := scriptedModel(t, scripted.Config{Policy: "noop", Faults: faults}), filepath.Join(t.TempDir(), "out"), make(chan struct{})
	lines := func() int {
		text, _ := os.ReadFile(filepath.Join(out, "results.jsonl"))
		return bytes.Count(text, []byte("\n"))
	}
	go func() {
		for lines() == 0 {
			time.Sleep(time.Millisecond)
		}
		close(ready)
	}()
	interrupt(t, strings.NewReader(""), io.Discard, ready, "eval", "-m", "m", "-b", url, "--max-concurrent", "1", "--out", out)
	require.Equal(t, 1, lines())
}
