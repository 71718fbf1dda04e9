package shm

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kvgym/kvgym/export"
	"github.com/kvgym/kvgym/vecenv"
)

type clientArgs struct {
	Name, Dir string
	Range     *int
	Spec      export.Spec
	Steps     int    // to play and compare; 0: until it is killed
	Scribble  bool   // write nonsense all over a segment instead, but for the request line
	Path      string // of the segment
}

func clientProcess() {
	var a clientArgs
	processArgs(&a)
	if a.Scribble {
		scribble(a.Path)
	}
	if err := a.run(); err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
	fmt.Println("equal")
	os.Exit(0)
}

// run plays a range and compares it with a batch of its own.
func (a *clientArgs) run() error {
	c, err := Dial(a.Name, Dialing{Dir: a.Dir, Range: a.Range})
	if err != nil {
		return err
	}
	defer c.Close()
	cfg, err := a.Spec.Config()
	if err != nil {
		return err
	}
	cfg.Envs, cfg.FirstEnv, cfg.Workers = c.Description.Envs, uint32(c.FirstEnv), 1
	twin, err := vecenv.New(cfg)
	if err != nil {
		return err
	}
	if err := c.Reset(nil, nil); err != nil {
		return err
	}
	if err := twin.Reset(vecenv.ResetOptions{}); err != nil {
		return err
	}
	fmt.Println("playing")
	for i := 0; a.Steps == 0 || i < a.Steps; i++ {
		if err := play(c, twin, i, 1); err != nil {
			return err
		}
	}
	return nil
}

func scribble(path string) {
	fd, err := unix.Open(path, unix.O_RDWR, 0)
	if err != nil {
		panic(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		panic(err)
	}
	mem, err := unix.Mmap(fd, 0, int(st.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		panic(err)
	}
	for {
		x := rand.Uint64()
		for i := range mem {
			if i < offRequest || i >= offRequest+16 {
				mem[i] = byte(x >> (i & 56))
			}
			x += 0x9E3779B97F4A7C15
		}
	}
}

func TestTwoProcesses(t *testing.T) {
	spec := export.Spec{Envs: 101, Seed: 12, Outputs: everything, Autoreset: "same-step", Workers: 2}
	s := start(t, Config{Spec: spec, Clients: 2})
	var outs []*os.File
	for i := range 2 {
		_, out := process(t, "client", clientArgs{Name: s.Name, Dir: s.Dir, Range: at(i), Spec: spec, Steps: 400})
		outs = append(outs, out)
	}
	for _, out := range outs {
		text, err := io.ReadAll(out)
		require.NoError(t, err)
		require.Equal(t, "playing\nequal\n", string(text))
	}
}

// kills is how often the crash tests kill: the variable KVGYM_KILLS, else a few.
func kills(t *testing.T) int {
	n, err := strconv.Atoi(os.Getenv("KVGYM_KILLS"))
	if err != nil {
		n = 12
	}
	if testing.Short() {
		n = min(n, 3)
	}
	return n
}

// Servers that are killed at any moment: the client gets one clear error within a second, what it has got is whole, and the next server of the
// name starts at once.
func TestKilledServer(t *testing.T) {
	dir, n := newDir(t), kills(t)
	spec := export.Spec{Envs: 512, Seed: 5, Outputs: []string{"obs", "mask"}}
	var worst time.Duration
	steps := 0
	for round := range n {
		cmd, out := process(t, "server", serverArgs{Name: "victim", Dir: dir, Spec: spec})
		line, err := bufio.NewReader(out).ReadString('\n')
		require.NoError(t, err, "round %d: the server does not start on what the last one has left", round)
		require.Equal(t, "ready\n", line)
		c, err := Dial("victim", Dialing{Dir: dir})
		require.NoError(t, err)
		twin := newTwin(t, spec, 0, spec.Envs)
		require.NoError(t, c.Reset(nil, nil))
		require.NoError(t, twin.Reset(vecenv.ResetOptions{}))
		killed := make(chan time.Time, 1)
		go func() {
			time.Sleep(time.Duration(rand.IntN(20_000)) * time.Microsecond)
			at := time.Now()
			_ = cmd.Process.Kill()
			killed <- at
		}()
		for err = nil; err == nil; steps++ {
			err = play(c, twin, steps, 1)
		}
		took := time.Since(<-killed)
		worst = max(worst, took)
		require.ErrorIs(t, err, ErrGone)
		require.ErrorContains(t, err, fmt.Sprintf("server victim (process %d): the server has gone: start it again with kvgym serve --name victim", cmd.Process.Pid))
		require.Less(t, took, time.Second)
		require.Empty(t, differ(c.Block(), &twin.Buffers, false), "the last results are whole")
		c.Close()
		_, _ = cmd.Process.Wait()
	}
	t.Logf("%d servers killed in %d steps; noticed within %v", n, steps, worst)
	s := start(t, Config{Name: "victim", Dir: dir, Spec: spec}) // which checks that it leaves nothing
	s.dial(t, Dialing{})
}

// Clients that are killed at any moment: the server frees the range within a second, the other client sees nothing of it, and the next one
// starts afresh.
func TestKilledClient(t *testing.T) {
	spec, n := export.Spec{Envs: 512, Seed: 5, Outputs: []string{"obs", "mask"}, Workers: 2}, kills(t)
	s := start(t, Config{Spec: spec, Clients: 2})
	other, otherTwin := s.dial(t, Dialing{Range: at(1)}), newTwin(t, spec, 256, 256)
	require.NoError(t, other.Reset(nil, nil))
	require.NoError(t, otherTwin.Reset(vecenv.ResetOptions{}))
	var worst time.Duration
	for round := range n {
		cmd, out := process(t, "client", clientArgs{Name: s.Name, Dir: s.Dir, Range: at(0), Spec: spec})
		line, err := bufio.NewReader(out).ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "playing\n", line)
		time.Sleep(time.Duration(rand.IntN(20_000)) * time.Microsecond)
		killed := time.Now()
		require.NoError(t, cmd.Process.Kill())
		require.Eventually(t, func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return strings.Count(strings.Join(s.logs, "\n"), "free again: the client has gone") == 2*round+1
		}, time.Second, 200*time.Microsecond)
		worst = max(worst, time.Since(killed))
		next, twin := s.dial(t, Dialing{Range: at(0)}), newTwin(t, spec, 0, 256)
		require.NoError(t, next.Reset(nil, nil))
		require.NoError(t, twin.Reset(vecenv.ResetOptions{}))
		require.NoError(t, play(next, twin, 0, 5))
		require.NoError(t, play(other, otherTwin, round, 3))
		next.Close()
		_, _ = cmd.Process.Wait()
		require.Eventually(t, func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return strings.Count(strings.Join(s.logs, "\n"), "free again: the client has gone") == 2*round+2
		}, time.Second, 200*time.Microsecond)
	}
	t.Logf("%d clients killed; noticed within %v", n, worst)
}
