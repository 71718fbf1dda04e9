package shm

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
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
	Steps     int    // to play and compare; 0: play without a pause until it is killed
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
	if a.Steps == 0 {
		_, err := hurry(c)
		return err
	}
	return play(c, twin, 0, a.Steps)
}

// hurry steps without a pause until that fails, so that the server is in a step most of the time, and tells how many steps were done.
func hurry(c *Client) (steps int, err error) {
	for ; ; steps++ {
		opsFor(c.Ops(), c.FirstEnv, c.Description.Slots, steps)
		if err := c.Step(); err != nil {
			return steps, err
		}
	}
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

// kills is how often the crash tests kill: the variable KVGYM_KILLS, else a few. When they do is drawn from KVGYM_SEED, else from a seed that is logged.
func kills(t *testing.T) (n int, moment func() time.Duration) {
	n, err := strconv.Atoi(os.Getenv("KVGYM_KILLS"))
	if err != nil {
		n = 12
	}
	if testing.Short() {
		n = min(n, 3)
	}
	seed, err := strconv.ParseUint(os.Getenv("KVGYM_SEED"), 10, 64)
	if err != nil {
		seed = rand.Uint64()
	}
	t.Logf("KVGYM_KILLS=%d KVGYM_SEED=%d", n, seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	return n, func() time.Duration { return time.Duration(rng.IntN(20_000)) * time.Microsecond }
}

// victim is a process that is killed, and how long its death took to be noticed.
type victim struct {
	killed, ended time.Time     // ended: the system has taken it down
	waited        time.Duration // this process had for a processor, until the kill
}

func kill(cmd *exec.Cmd) *victim {
	v := &victim{waited: processorWait(), killed: time.Now()}
	_ = cmd.Process.Kill()
	_, _ = cmd.Process.Wait()
	v.ended = time.Now()
	return v
}

// processorWait is for how long the threads of this process have been ready to run without a processor, all together.
func processorWait() (sum time.Duration) {
	tasks, _ := filepath.Glob("/proc/self/task/*/schedstat")
	for _, task := range tasks {
		var ran, waited time.Duration
		text, _ := os.ReadFile(task)
		if n, _ := fmt.Sscan(string(text), &ran, &waited); n == 2 {
			sum += waited
		}
	}
	return sum
}

// reports collects how long it took until deaths were noticed.
type reports struct {
	n, late int
	worst   time.Duration
}

// noticed counts a death that is noticed now, within a second. On a starved machine it takes longer: what the system needed to end the victim and
// to give this process a processor is not ours, and is told apart.
func (r *reports) noticed(t *testing.T, v *victim) {
	took := time.Since(v.killed)
	starved := max(0, v.ended.Sub(v.killed)) + processorWait() - v.waited
	r.n++
	r.worst = max(r.worst, took)
	if took >= time.Second {
		r.late++
		t.Logf("noticed after %v, of which the machine let the victim live and this process wait for %v", took, starved)
		require.Less(t, took-starved, time.Second)
	}
}

func (r *reports) String() string {
	return fmt.Sprintf("%d deaths noticed within %v, %d of them after a second because the machine was starved", r.n, r.worst, r.late)
}

// segmentsHere counts the segments of a server's range that this process has mapped or open.
func segmentsHere(t *testing.T, name string, index int) int {
	maps, err := os.ReadFile("/proc/self/maps")
	require.NoError(t, err)
	segment := fmt.Sprintf("/memfd:kvgym-%s-%d ", name, index)
	n := strings.Count(string(maps), segment)
	fds, err := filepath.Glob("/proc/self/fd/*")
	require.NoError(t, err)
	for _, fd := range fds {
		if link, _ := os.Readlink(fd); strings.HasPrefix(link, segment) {
			n++
		}
	}
	return n
}

// Servers that are killed at any moment: the client gets one clear error within a second, what it has got is whole, nothing of the segment is left, and
// the next server of the name starts at once and afresh.
func TestKilledServer(t *testing.T) {
	dir := newDir(t)
	n, moment := kills(t)
	spec := export.Spec{Envs: 512, Seed: 5, Outputs: []string{"obs", "mask"}}
	var deaths reports
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
		victims := make(chan *victim, 1)
		delay := moment()
		go func() {
			time.Sleep(delay)
			victims <- kill(cmd)
		}()
		done, err := hurry(c)
		require.ErrorIs(t, err, ErrGone)
		deaths.noticed(t, <-victims)
		require.ErrorContains(t, err, fmt.Sprintf("server victim (process %d): the server has gone: start it again with kvgym serve --name victim", cmd.Process.Pid))
		ops := make([]uint8, len(c.Ops()))
		for i := range done {
			opsFor(ops, 0, c.Description.Slots, i)
			require.NoError(t, twin.Step(vecenv.Actions{Ops: ops}))
		}
		require.Empty(t, differ(c.Block(), &twin.Buffers, false), "the last results are whole")
		steps += done
		c.Close()
		twin.Close()
		require.Zero(t, segmentsHere(t, "victim", 0))
	}
	t.Logf("servers: %v; %d steps", &deaths, steps)
	s := start(t, Config{Name: "victim", Dir: dir, Spec: spec}) // which checks that it leaves nothing
	s.dial(t, Dialing{})
}

// Clients that are killed at any moment: the server frees the range and its segment within a second, the other client sees nothing of it, and the next
// one starts afresh.
func TestKilledClient(t *testing.T) {
	n, moment := kills(t)
	spec := export.Spec{Envs: 512, Seed: 5, Outputs: []string{"obs", "mask"}, Workers: 2}
	s := start(t, Config{Spec: spec, Clients: 2})
	other, otherTwin := s.dial(t, Dialing{Range: at(1)}), newTwin(t, spec, 256, 256)
	require.NoError(t, other.Reset(nil, nil))
	require.NoError(t, otherTwin.Reset(vecenv.ResetOptions{}))
	var deaths reports
	for round := range n {
		cmd, out := process(t, "client", clientArgs{Name: s.Name, Dir: s.Dir, Range: at(0), Spec: spec})
		line, err := bufio.NewReader(out).ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "playing\n", line)
		time.Sleep(moment())
		v := kill(cmd)
		s.freed(t, 2*round+1)
		deaths.noticed(t, v)
		require.Zero(t, segmentsHere(t, s.Name, 0))
		next, twin := s.dial(t, Dialing{Range: at(0)}), newTwin(t, spec, 0, 256)
		require.NoError(t, next.Reset(nil, nil))
		require.NoError(t, twin.Reset(vecenv.ResetOptions{}))
		require.NoError(t, play(next, twin, 0, 5))
		require.NoError(t, play(other, otherTwin, round, 3))
		next.Close()
		twin.Close()
		s.freed(t, 2*round+2)
	}
	t.Logf("clients: %v", &deaths)
}

// freed waits until clients have gone so many times.
func (s *testServer) freed(t *testing.T, times int) {
	require.Eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return strings.Count(strings.Join(s.logs, "\n"), "free again: the client has gone") == times
	}, 30*time.Second, 200*time.Microsecond)
}
