package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kvgym/kvgym/export/shm"
	"github.com/stretchr/testify/require"
)

// ownRuntimeDir gives a test a directory for sockets, with a path that is short enough for one.
func ownRuntimeDir(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "kvs")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	t.Setenv("XDG_RUNTIME_DIR", dir)
}

func TestServeRefusesWrongUse(t *testing.T) {
	ownRuntimeDir(t)
	for _, x := range []struct{ says, args string }{
		{`kvgym serve: --name: "": allowed 1 to 64 letters, digits, dots, dashes and underscores, no dot first`, ""},
		{`kvgym serve: --name: "a/b": allowed 1 to 64`, "--name a/b"},
		{"kvgym serve: --envs: 0: allowed 1 to 1048576", "--name x --envs 0"},
		{"kvgym serve: --clients: 9: allowed 1 to 8", "--name x --envs 8 --clients 9"},
		{"kvgym serve: --blocks: 65: allowed 1 to 64", "--name x --blocks 65"},
		{"kvgym serve: --pin: with --clients 2: allowed with one client", "--name x --clients 2 --pin"},
		{"kvgym serve: --idle: 0s: allowed more than 0", "--name x --idle 0s"},
		{`kvgym serve: --autoreset: "never": allowed next-step, same-step, disabled`, "--name x --autoreset never"},
		{`kvgym serve: --obs-dtype: "float64": allowed float32, uint8`, "--name x --obs-dtype float64"},
		{`kvgym serve: --outputs: "obs2": allowed obs, mask, components, metrics, or none alone`, "--name x --outputs obs2"},
		{"kvgym serve: --slots: 17: allowed a multiple of 16", "--name x --slots 17"},
		{"kvgym serve: --trace-loop: no --trace: allowed together with --trace FILE", "--name x --trace-loop open"},
		{`kvgym serve: argument: "x": allowed flags only`, "--name x x"},
	} {
		refused(t, exitUsage, x.says, append([]string{"serve"}, strings.Fields(x.args)...)...)
	}
}

// document is what serve prints once clients can connect.
func document(t *testing.T, out []byte) (i shm.Info) {
	d := json.NewDecoder(bytes.NewReader(out))
	d.DisallowUnknownFields()
	require.NoError(t, d.Decode(&i))
	_, err := d.Token()
	require.ErrorIs(t, err, io.EOF, "one document")
	return i
}

func TestInterruptServe(t *testing.T) {
	ownRuntimeDir(t)
	out := first{ready: make(chan struct{})}
	interrupt(t, strings.NewReader(""), &out, out.ready, "serve", "--name", "x", "--envs", "10", "--clients", "3", "--json", "--quiet", "--outputs", "none")
	i := document(t, out.Bytes())
	require.Equal(t, [][2]int{{0, 3}, {3, 6}, {6, 10}}, i.Ranges)
	require.Equal(t, os.Getpid(), i.PID)
	require.NoFileExists(t, i.Socket)
}

// SIGTERM is how a server is stopped: nothing has failed.
func TestServeStops(t *testing.T) {
	ownRuntimeDir(t)
	signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM) // the test itself must not end
	out := first{ready: make(chan struct{})}
	served := make(chan error, 1)
	go func() {
		<-out.ready
		c, err := shm.Dial("x", shm.Dialing{})
		if err == nil {
			err = c.Reset(nil, nil)
		}
		_ = syscall.Kill(os.Getpid(), syscall.SIGTERM)
		served <- err
	}()
	var errs strings.Builder
	begin := time.Now()
	require.Equal(t, exitDone, run([]string{"serve", "--name", "x", "--envs", "10", "--json"}, strings.NewReader(""), &out, &errs), errs.String())
	require.NoError(t, <-served)
	require.Less(t, time.Since(begin), 5*time.Second)
	lines := strings.Split(strings.TrimSpace(errs.String()), "\n")
	require.Len(t, lines, 3, errs.String())
	require.Regexp(t, `^kvgym serve: x: ready: 10 environments in 1 ranges of \d+ workers, layout [0-9a-f]{16}, at .*/kvgym/x\.sock$`, lines[0])
	require.Regexp(t, `^kvgym serve: x: client \d+: range 0 \(environments 0 to 9\): connected$`, lines[1])
	require.Regexp(t, `^kvgym serve: x: client \d+: range 0 \(environments 0 to 9\): free again: the server was stopped$`, lines[2])
}

// What the flags say is what is served.
func TestServeFlags(t *testing.T) {
	f := serveFlags{name: "x", envs: 8, clients: 1, blocks: 1, idle: 1, autoreset: "same-step", truncate: true, outputs: []string{"none"}, obsDType: "uint8", obsOrder: "feature-major",
		stores: "plain", pin: true, env: envFlags{set: func(string) bool { return false }, seed: 3, difficulty: "hard", profile: "serving", preset: "llama3-8b.a100", simd: "auto", steps: 7, slots: 32,
			workers: 2, maxWait: 4, trace: traceFlags{format: "auto", stepMillis: 1000, decodeRate: 30, loop: "open"}}}
	require.NoError(t, f.check())
	s := f.spec()
	text, err := json.Marshal(s)
	require.NoError(t, err)
	require.JSONEq(t, `{"envs":8,"slots":32,"steps":7,"max_wait":4,"seed":3,"profile":"serving","preset":"llama3-8b.a100","difficulty":"hard","autoreset":"same-step",
		"truncate":true,"obs_dtype":"uint8","obs_order":"feature-major","stores":"plain","workers":2,"pin":true}`, string(text))
	require.NotNil(t, s.Outputs)
}
