package shm

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kvgym/kvgym/export"
	"github.com/kvgym/kvgym/vecenv"
)

// The test binary is also the other process: as a server or as a client.
func TestMain(m *testing.M) {
	switch os.Getenv("KVGYM_SHM_ROLE") {
	case "server":
		serverProcess()
	case "client":
		clientProcess()
	}
	os.Exit(m.Run())
}

// process starts this binary in a role; its standard output comes through the pipe.
func process(t *testing.T, role string, args any) (*exec.Cmd, *os.File) {
	text, err := json.Marshal(args)
	require.NoError(t, err)
	r, w, err := os.Pipe()
	require.NoError(t, err)
	cmd := exec.Command(os.Args[0], "-test.run", "^$")
	cmd.Env = append(os.Environ(), "KVGYM_SHM_ROLE="+role, "KVGYM_SHM_ARGS="+string(text))
	cmd.Stdout, cmd.Stderr = w, os.Stderr
	require.NoError(t, cmd.Start())
	_ = w.Close()
	t.Cleanup(func() { _ = cmd.Process.Kill(); _, _ = cmd.Process.Wait(); _ = r.Close() })
	return cmd, r
}

func processArgs(args any) {
	if err := json.Unmarshal([]byte(os.Getenv("KVGYM_SHM_ARGS")), args); err != nil {
		panic(err)
	}
}

type serverArgs struct {
	Name, Dir string
	Spec      export.Spec
	Clients   int
}

func serverProcess() {
	var a serverArgs
	processArgs(&a)
	err := Serve(context.Background(), Config{Name: a.Name, Dir: a.Dir, Spec: a.Spec, Clients: a.Clients, Ready: func(Info) { fmt.Println("ready") }})
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// newDir is a directory for sockets with a path that is short enough for one.
func newDir(t testing.TB) string {
	dir, err := os.MkdirTemp("/tmp", "kvs")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// testServer is a server in this process.
type testServer struct {
	Config
	info Info
	stop context.CancelFunc
	done chan error
	mu   sync.Mutex
	logs []string
}

func start(t testing.TB, cfg Config) *testServer {
	s := &testServer{Config: cfg, done: make(chan error, 1)}
	if s.Name == "" {
		s.Name = "test"
	}
	if s.Dir == "" {
		s.Dir = newDir(t)
	}
	ready := make(chan struct{})
	s.Ready = func(i Info) { s.info = i; close(ready) }
	s.Log = func(line string) { s.mu.Lock(); s.logs = append(s.logs, line); s.mu.Unlock() }
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	go func() { s.done <- Serve(ctx, s.Config) }()
	select {
	case <-ready:
	case err := <-s.done:
		require.NoError(t, err)
	case <-time.After(20 * time.Second):
		t.Fatal("the server does not start")
	}
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-s.done:
			require.ErrorIs(t, err, context.Canceled)
		case <-time.After(10 * time.Second):
			t.Error("the server does not end")
		}
		left, _ := os.ReadDir(s.Dir)
		require.Empty(t, left)
	})
	return s
}

// log waits for a line.
func (s *testServer) log(t testing.TB, part string) {
	require.Eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return strings.Contains(strings.Join(s.logs, "\n"), part)
	}, 5*time.Second, time.Millisecond, part)
}

func (s *testServer) dial(t testing.TB, o Dialing) *Client {
	o.Dir = s.Dir
	c, err := Dial(s.Name, o)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func at(i int) *int { return &i }

// opsFor fills ops that are a function of environment, step and slot, invalid ones among them.
func opsFor(ops []uint8, firstEnv, slots, step int) {
	for i := range ops {
		h := uint64(firstEnv+i/slots)*0x9E3779B97F4A7C15 ^ uint64(step)*0xBF58476D1CE4E5B9 ^ uint64(i%slots)*0x94D049BB133111EB
		h ^= h >> 31
		h *= 0xD6E8FEB86659FD93
		if h>>60 < 3 {
			ops[i] = uint8(h>>32) % 6
		} else {
			ops[i] = 0
		}
	}
}

// newTwin is a batch in this process that plays what a client's range plays.
func newTwin(t testing.TB, s export.Spec, first, envs int) *vecenv.Batch {
	cfg, err := s.Config()
	require.NoError(t, err)
	cfg.Envs, cfg.FirstEnv, cfg.Workers = envs, s.FirstEnv+uint32(first), 1
	b, err := vecenv.New(cfg)
	require.NoError(t, err)
	t.Cleanup(b.Close)
	return b
}

// differ tells which tensor differs; rows of FinalObs count where an episode has ended only.
func differ(a, b *vecenv.Buffers, same bool) string {
	for name, p := range map[string][2][]float32{"reward": {a.Reward, b.Reward}, "obs": {a.Obs, b.Obs}, "components": {a.Components, b.Components}, "metrics": {a.Metrics, b.Metrics}} {
		if !bytes.Equal(floatBytes(p[0]), floatBytes(p[1])) {
			return name
		}
	}
	for name, p := range map[string][2][]uint8{"terminated": {a.Terminated, b.Terminated}, "truncated": {a.Truncated, b.Truncated}, "mask": {a.Mask, b.Mask}, "obs bytes": {a.ObsBytes, b.ObsBytes}} {
		if !bytes.Equal(p[0], p[1]) {
			return name
		}
	}
	if n := len(a.FinalObs) / len(a.Reward); same && n > 0 {
		for i := range a.Reward {
			if a.Terminated[i]|a.Truncated[i] != 0 && !bytes.Equal(floatBytes(a.FinalObs[i*n:][:n]), floatBytes(b.FinalObs[i*n:][:n])) {
				return "final_obs"
			}
		}
	}
	return ""
}

func floatBytes(f []float32) []byte {
	if len(f) == 0 {
		return nil
	}
	mem := make([]byte, 4*len(f))
	copy(slice[float32](mem, 0, len(f)), f)
	return mem
}

// play steps a client and its twin and compares everything.
func play(c *Client, twin *vecenv.Batch, from, steps int) error {
	slots := c.Description.Slots
	for i := from; i < from+steps; i++ {
		opsFor(c.Ops(), c.FirstEnv, slots, i)
		if err := c.Step(); err != nil {
			return err
		}
		if err := twin.Step(vecenv.Actions{Ops: bytes.Clone(c.Ops())}); err != nil {
			return err
		}
		if d := differ(c.Block(), &twin.Buffers, true); d != "" {
			return fmt.Errorf("step %d: %s differs", i, d)
		}
	}
	return nil
}
