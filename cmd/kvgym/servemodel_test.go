//go:build unix

package main

import (
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestServeModelRefusesWrongUse(t *testing.T) {
	script := filepath.Join(t.TempDir(), "turns.json")
	require.NoError(t, os.WriteFile(script, []byte(`[3]`), 0o600))
	for _, x := range []struct{ says, args string }{
		{`--policy: "best": allowed noop, greedy, compress-all, largest-first, random, script:FILE`, "--policy best"},
		{"--policy: script: open absent: no such file", "--policy script:absent"},
		{"turn 0: ", "--policy script:" + script},
		{`--addr: "8123": allowed HOST:PORT, such as 127.0.0.1:8123`, "--addr 8123"},
		{"--context: -1: allowed 0 or more", "--context -1"},
		{`--fault-429: "often": allowed a share such as 10%, or numbers of requests such as 3,7`, "--fault-429 often"},
		{`--fault-slow: "0": allowed a share`, "--fault-slow 0"},
		{"--slow-by: -1s: allowed 0 or more", "--slow-by -1s"},
		{`argument: "x": allowed flags only`, "x"},
	} {
		refused(t, exitUsage, x.says, append([]string{"serve-model"}, strings.Fields(x.args)...)...)
	}
	refused(t, exitFailed, "kvgym serve-model: listen tcp", "serve-model", "--addr", "127.0.0.1:99999")
}

func TestInterruptServeModel(t *testing.T) {
	out := first{ready: make(chan struct{})}
	interrupt(t, strings.NewReader(""), &out, out.ready, "serve-model", "--json")
	require.Regexp(t, `^\{"base_url":"http://127\.0\.0\.1:\d+/v1","policy":"greedy"\}\n$`, out.String())
}

// SIGTERM is how a server is stopped: nothing has failed.
func TestServeModelStops(t *testing.T) {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM) // the test itself must not end
	out := first{ready: make(chan struct{})}
	asked := make(chan int, 1)
	go func() {
		<-out.ready
		status := 0
		r, err := http.Post(strings.TrimSpace(out.String())+"/chat/completions", "application/json", strings.NewReader(`{"messages":[{"role":"user","content":"x"}]}`))
		if err == nil {
			status = r.StatusCode
			r.Body.Close()
		}
		_ = syscall.Kill(os.Getpid(), syscall.SIGTERM)
		asked <- status
	}()
	var errs strings.Builder
	require.Equal(t, exitDone, run([]string{"serve-model", "--policy", "noop"}, strings.NewReader(""), &out, &errs))
	require.Equal(t, http.StatusOK, <-asked)
	require.Equal(t, "kvgym serve-model: 1 requests\n", errs.String())
}
