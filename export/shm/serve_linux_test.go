package shm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kvgym/kvgym/export"
	"github.com/kvgym/kvgym/scenario"
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

func TestServedEqualsBatch(t *testing.T) {
	for _, spec := range []export.Spec{
		{Envs: 37, Outputs: everything, Seed: 1},
		{Envs: 37, Outputs: everything, Seed: 2, Autoreset: "same-step", Truncate: true, FirstEnv: 11},
		{Envs: 37, Outputs: everything, Seed: 3, Profile: "serving", ObsDType: "uint8", Slots: 128},
		{Envs: 1, Outputs: []string{}, Seed: 4, Workers: 2},
		{Envs: 700, Outputs: []string{"obs"}, Seed: 5, ObsOrder: "feature-major", Stores: "stream", Workers: 2},
	} {
		for _, blocks := range []int{1, 2, 5} {
			s := start(t, Config{Spec: spec, Blocks: blocks})
			c := s.dial(t, Dialing{Layout: s.info.Layout})
			twin := newTwin(t, spec, 0, spec.Envs)
			require.NoError(t, c.Reset(nil, nil))
			require.NoError(t, twin.Reset(vecenv.ResetOptions{}))
			require.Empty(t, differ(c.Block(), &twin.Buffers, false))
			require.NoError(t, play(c, twin, 0, 35))

			list := make([]int32, spec.Envs*3*2)
			for i := range list {
				list[i] = int32(i*i%9) - 1 // nonsense among it
			}
			require.NoError(t, c.StepPairs(list, 3))
			require.NoError(t, twin.Step(vecenv.Actions{List: list, PerEnv: 3}))
			require.Empty(t, differ(c.Block(), &twin.Buffers, true))
			require.NoError(t, c.StepPairs(nil, 0))
			require.NoError(t, twin.Step(vecenv.Actions{List: []int32{}}))
			require.Empty(t, differ(c.Block(), &twin.Buffers, true))

			mask, seeds := make([]bool, spec.Envs), make([]uint64, spec.Envs)
			for i := range mask {
				mask[i], seeds[i] = i%3 == 0, uint64(i*7)
			}
			for _, o := range []vecenv.ResetOptions{{Mask: mask}, {Seeds: seeds}, {Mask: mask, Seeds: seeds}} {
				require.NoError(t, c.Reset(o.Mask, o.Seeds))
				require.NoError(t, twin.Reset(o))
				require.Empty(t, differ(c.Block(), &twin.Buffers, false))
				require.NoError(t, play(c, twin, 40, 17))
			}
			c.Close()
			s.stop()
		}
	}
}

// A call that cannot be done says why, and changes nothing.
func TestRefusedCalls(t *testing.T) {
	spec := export.Spec{Envs: 4, Steps: 3, Autoreset: "disabled", Seed: 3}
	s := start(t, Config{Spec: spec})
	c := s.dial(t, Dialing{})
	err := c.Step()
	require.ErrorIs(t, err, ErrRefused)
	require.ErrorContains(t, err, "server test: refused: vecenv: Step: environment 0: never reset: Reset it first")
	require.ErrorContains(t, c.Reset(make([]bool, 4), nil), "selects no environment")
	require.ErrorContains(t, c.Reset(make([]bool, 3), nil), "one an environment")
	require.ErrorContains(t, c.StepPairs(make([]int32, 4*129*2), 129), "allowed 0 to 128 pairs")
	twin := newTwin(t, spec, 0, 4)
	require.NoError(t, c.Reset(nil, nil))
	require.NoError(t, twin.Reset(vecenv.ResetOptions{}))
	require.NoError(t, play(c, twin, 0, 3))
	require.ErrorContains(t, c.Step(), "its episode has ended and autoreset is disabled")
	require.Empty(t, differ(c.Block(), &twin.Buffers, false))
	require.NoError(t, c.Reset(nil, nil))
	require.NoError(t, twin.Reset(vecenv.ResetOptions{}))
	require.NoError(t, play(c, twin, 0, 3))
	c.Close()
	require.ErrorIs(t, c.Step(), net.ErrClosed)
}

func TestRefusedClients(t *testing.T) {
	s := start(t, Config{Spec: export.Spec{Envs: 10}, Clients: 3})
	require.Equal(t, [][2]int{{0, 3}, {3, 6}, {6, 10}}, s.info.Ranges)
	for _, x := range []struct {
		o    Dialing
		says string
	}{
		{Dialing{Range: at(3)}, "server test: range: 3: allowed 0 to 2"},
		{Dialing{Range: at(-1)}, "server test: range: -1: allowed 0 to 2"},
		{Dialing{Layout: "0123456789abcdef"}, "server test: layout: 0123456789abcdef: allowed " + s.info.Layout},
	} {
		x.o.Dir = s.Dir
		_, err := Dial(s.Name, x.o)
		require.ErrorContains(t, err, x.says)
	}
	one := s.dial(t, Dialing{Range: at(1)})
	_, err := Dial(s.Name, Dialing{Dir: s.Dir, Range: at(1)})
	require.ErrorContains(t, err, fmt.Sprintf("range: 1: taken by process %d: allowed a free one, now [0 2]", os.Getpid()))
	zero, two := s.dial(t, Dialing{}), s.dial(t, Dialing{})
	require.Equal(t, []int{0, 1, 2, 0, 3, 6}, []int{zero.Range, one.Range, two.Range, zero.FirstEnv, one.FirstEnv, two.FirstEnv})
	_, err = Dial(s.Name, Dialing{Dir: s.Dir})
	require.ErrorContains(t, err, "range: all 3 are taken")
	one.Close()
	require.Equal(t, 1, s.dial(t, Dialing{}).Range, "a range that is just being left is waited for")
	_, err = Dial("nobody", Dialing{Dir: s.Dir, Wait: 50 * time.Millisecond})
	require.ErrorContains(t, err, "server nobody: no server at "+filepath.Join(s.Dir, "nobody.sock"))
	for _, name := range []string{"", ".x", "a/b", "a b", strings.Repeat("x", 65)} {
		_, err = Dial(name, Dialing{Dir: s.Dir})
		require.ErrorContains(t, err, "allowed 1 to 64 letters")
	}
}

// raw is a connection that says what it likes, and reads one answer.
func (s *testServer) raw(t testing.TB) *net.UnixConn {
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: filepath.Join(s.Dir, s.Name+".sock"), Net: "unixpacket"})
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	return conn
}

func TestStrangers(t *testing.T) {
	s := start(t, Config{Spec: export.Spec{Envs: 4}})
	ask := func(text string) string {
		conn := s.raw(t)
		_, err := conn.Write([]byte(text))
		require.NoError(t, err)
		answer := make([]byte, maxWelcome)
		n, err := conn.Read(answer)
		require.NoError(t, err)
		_, err = parseWelcome(answer[:n])
		require.Error(t, err)
		return err.Error()
	}
	require.Contains(t, ask(`{"version":2}`), "version: 2: allowed 1: use a client and a server of the same release")
	require.Contains(t, ask(`GET / HTTP/1.1`), "hello: no JSON object with a version")
	require.Contains(t, ask(strings.Repeat("x", 100_000)), "more than 4096 bytes")
	begin := time.Now()
	silent := s.raw(t)
	answer := make([]byte, maxWelcome)
	n, err := silent.Read(answer)
	require.NoError(t, err)
	require.Contains(t, string(answer[:n]), "hello: none in 2s")
	require.Less(t, time.Since(begin), helloLimit+time.Second)
	c := s.dial(t, Dialing{}) // none of them has taken the range
	require.NoError(t, c.Reset(nil, nil))
}

func TestOtherUsersAreRefused(t *testing.T) {
	s := start(t, Config{Spec: export.Spec{Envs: 4}, authorize: func(uid uint32) error { return sameUser(uid + 1) }})
	_, err := Dial(s.Name, Dialing{Dir: s.Dir})
	require.ErrorContains(t, err, fmt.Sprintf("user: %d: allowed %d, whose server this is", os.Getuid()+1, os.Getuid()))
	s.log(t, "refused: user")
}

func TestDirectoryMustBeOurs(t *testing.T) {
	dir := newDir(t)
	require.NoError(t, os.Chmod(dir, 0o755))
	err := Serve(context.Background(), Config{Name: "x", Dir: dir, Spec: export.Spec{Envs: 1}})
	require.ErrorContains(t, err, "allowed a directory of user")
	_, err = Dial("x", Dialing{Dir: dir})
	require.ErrorContains(t, err, "allowed a directory of user")
	require.NoError(t, os.Chmod(dir, 0o700))
	link := dir + "-link"
	require.NoError(t, os.Symlink(dir, link))
	defer os.Remove(link)
	require.ErrorContains(t, Serve(context.Background(), Config{Name: "x", Dir: link, Spec: export.Spec{Envs: 1}}), "allowed a directory of user")
}

func TestOneServerOfAName(t *testing.T) {
	s := start(t, Config{Spec: export.Spec{Envs: 1}})
	err := Serve(context.Background(), Config{Name: s.Name, Dir: s.Dir, Spec: export.Spec{Envs: 1}})
	require.EqualError(t, err, fmt.Sprintf("name: test: taken by the server with process number %d: allowed one that no server has", os.Getpid()))
	s.dial(t, Dialing{})
}

func TestConfigErrors(t *testing.T) {
	for _, x := range []struct {
		cfg  Config
		says string
	}{
		{Config{Name: "x", Spec: export.Spec{Envs: 0}}, "envs: 0"}, {Config{Name: "x", Spec: export.Spec{Envs: 4}, Clients: 5}, "clients: 5: allowed 1 to 4"},
		{Config{Name: "x", Spec: export.Spec{Envs: 4}, Blocks: 65}, "blocks: 65: allowed 1 to 64"}, {Config{Name: "x", Spec: export.Spec{Envs: 4, Groups: 2}}, "groups: 2"},
		{Config{Name: "x", Spec: export.Spec{Envs: 4, Pin: true}, Clients: 2}, "pin"}, {Config{Name: "x", Spec: export.Spec{Envs: 4}, Idle: -1}, "idle"}, {Config{Name: "/", Spec: export.Spec{Envs: 4}}, "name"},
		{Config{Name: "x", Spec: export.Spec{Envs: 4, Trace: &export.Trace{Path: "/nowhere"}}}, "nowhere"}, {Config{Name: "x", Spec: export.Spec{Envs: 4, Difficulty: "odd"}}, "difficulty"},
	} {
		x.cfg.Dir = newDir(t)
		require.ErrorContains(t, Serve(context.Background(), x.cfg), x.says)
		left, err := os.ReadDir(x.cfg.Dir)
		require.NoError(t, err)
		require.Empty(t, left)
	}
}

// A client that stops calling loses its range, and is told why; the others go on.
func TestStalledClient(t *testing.T) {
	spec := export.Spec{Envs: 8}
	s := start(t, Config{Spec: spec, Clients: 2, Idle: 300 * time.Millisecond})
	stalled, busy := s.dial(t, Dialing{Range: at(0)}), s.dial(t, Dialing{Range: at(1)})
	twin := newTwin(t, spec, 4, 4)
	require.NoError(t, busy.Reset(nil, nil))
	require.NoError(t, twin.Reset(vecenv.ResetOptions{}))
	require.NoError(t, stalled.Reset(nil, nil))
	for i, begin := 0, time.Now(); time.Since(begin) < 700*time.Millisecond; i++ {
		require.NoError(t, play(busy, twin, i, 1))
	}
	err := stalled.Step()
	require.ErrorIs(t, err, ErrGone)
	require.ErrorContains(t, err, fmt.Sprintf("server test (process %d): the server has gone: no call for 300ms", os.Getpid()))
	require.Equal(t, err, stalled.Step(), "one error for ever")
	require.Equal(t, 0, s.dial(t, Dialing{}).Range)
}

func TestStopTellsClients(t *testing.T) {
	s := start(t, Config{Spec: export.Spec{Envs: 8}, Clients: 2})
	c := s.dial(t, Dialing{})
	require.NoError(t, c.Reset(nil, nil))
	begin := time.Now()
	s.stop()
	for time.Since(begin) < time.Second {
		if err := c.Step(); err != nil {
			require.ErrorIs(t, err, ErrGone)
			require.ErrorContains(t, err, "the server was stopped")
			return
		}
	}
	t.Fatal("a second has passed")
}

// What a client breaks is its own.
func TestHostileClient(t *testing.T) {
	spec := export.Spec{Envs: 64, Seed: 9, Outputs: everything, Workers: 2}
	s := start(t, Config{Spec: spec, Clients: 2})
	good := s.dial(t, Dialing{Range: at(1)})
	twin := newTwin(t, spec, 32, 32)
	require.NoError(t, good.Reset(nil, nil))
	require.NoError(t, twin.Reset(vecenv.ResetOptions{}))
	for name, attack := range map[string]struct {
		do   func(c *Client)
		says string
	}{
		"command": {func(c *Client) { _ = c.call(command{kind: 77}) }, "command: 77: allowed"},
		"pairs":   {func(c *Client) { _ = c.call(command{kind: cmdPairs, pairs: 1 << 30}) }, "pairs: 1073741824 an environment: allowed 0 to 128"},
		"epoch": {func(c *Client) {
			publish(word32(c.mem, offRequest), word32(c.mem, offServerSleeps), 0xFFFFFFFF)
		}, "request: epoch 4294967295: allowed 1"},
		"message": {func(c *Client) { _, _ = c.conn.Write([]byte("hello?")) }, "the client sent a message: allowed a hello only"},
		"leaves":  {func(c *Client) { _ = c.conn.Close() }, "the client has gone"},
	} {
		t.Run(name, func(t *testing.T) {
			c := s.dial(t, Dialing{Range: at(0)})
			attack.do(c)
			s.log(t, "free again: "+attack.says)
			require.NoError(t, play(good, twin, 0, 5))
		})
	}
}

// Memory that a client tears at while the server steps: everything in the segment but the request line holds anything at any moment. The
// server goes on, the other client sees nothing of it, and the next one of the range starts afresh.
func TestScribblingClient(t *testing.T) {
	for _, profile := range []string{"seed", "serving"} {
		spec := export.Spec{Envs: 64, Seed: 9, Outputs: everything, Workers: 2, Profile: profile}
		s := start(t, Config{Spec: spec, Clients: 2})
		good, bad := s.dial(t, Dialing{Range: at(1)}), s.dial(t, Dialing{Range: at(0)})
		twin := newTwin(t, spec, 32, 32)
		require.NoError(t, good.Reset(nil, nil))
		require.NoError(t, twin.Reset(vecenv.ResetOptions{}))
		require.NoError(t, bad.Reset(nil, nil))
		scribbler, _ := process(t, "client", clientArgs{Name: s.Name, Dir: s.Dir, Scribble: true, Path: segmentPath(t, s, 0)})
		for i, begin := 0, time.Now(); time.Since(begin) < 400*time.Millisecond; i++ {
			what := []command{{kind: cmdStep}, {kind: cmdPairs, pairs: 128}, {kind: cmdReset, mask: true, seeds: true}, {kind: cmdReset, seeds: true}}[i%4]
			atomicCall(bad, what)
			require.NoError(t, play(good, twin, i, 1))
		}
		_ = scribbler.Process.Kill()
		bad.Close()
		s.log(t, "range 0 (environments 0 to 31): free again")
		next := s.dial(t, Dialing{Range: at(0)})
		first := newTwin(t, spec, 0, 32)
		require.NoError(t, next.Reset(nil, nil))
		require.NoError(t, first.Reset(vecenv.ResetOptions{}))
		require.NoError(t, play(next, first, 0, 20))
		require.NoError(t, play(good, twin, 7, 20))
		s.stop()
	}
}

// atomicCall asks and waits for the epoch, whatever the other words say.
func atomicCall(c *Client, what command) {
	*word64(c.mem, offCommand) = what.word()
	publish(word32(c.mem, offRequest), word32(c.mem, offServerSleeps), c.done+1)
	c.done++
	time.Sleep(200 * time.Microsecond) // the done word is scribbled on, too
}

// segmentPath is the segment of a range of a server in this process, for anybody of the same user to open.
func segmentPath(t testing.TB, s *testServer, index int) string {
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	for _, e := range entries {
		link, _ := os.Readlink("/proc/self/fd/" + e.Name())
		if strings.HasPrefix(link, fmt.Sprintf("/memfd:kvgym-%s-%d ", s.Name, index)) {
			return fmt.Sprintf("/proc/%d/fd/%s", os.Getpid(), e.Name())
		}
	}
	t.Fatal("no segment")
	return ""
}

// The memory of a segment cannot be taken away from the server, and holes in it are zeros. It is large enough for huge pages.
func TestSealed(t *testing.T) {
	s := start(t, Config{Spec: export.Spec{Envs: 512, Outputs: everything}})
	c := s.dial(t, Dialing{})
	require.NoError(t, c.Reset(nil, nil))
	f, err := os.OpenFile(segmentPath(t, s, 0), os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	require.ErrorIs(t, f.Truncate(0), unix.EPERM)
	require.ErrorIs(t, f.Truncate(1<<30), unix.EPERM)
	_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE)
	require.ErrorIs(t, err, unix.EPERM)
	for range 50 {
		require.NoError(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, offData, c.segment.Size-offData))
		require.NoError(t, c.Step())
	}
}

// A former client that keeps its memory has no hold on the next one.
func TestFormerClient(t *testing.T) {
	spec := export.Spec{Envs: 16, Outputs: everything}
	s := start(t, Config{Spec: spec})
	former := s.dial(t, Dialing{})
	require.NoError(t, former.Reset(nil, nil))
	require.NoError(t, former.conn.Close())
	s.log(t, "free again")
	c := s.dial(t, Dialing{})
	twin := newTwin(t, spec, 0, 16)
	require.NoError(t, c.Reset(nil, nil))
	require.NoError(t, twin.Reset(vecenv.ResetOptions{}))
	for i := range 20 {
		for j := range former.mem {
			former.mem[j] = byte(i)
		}
		require.NoError(t, play(c, twin, i, 1))
	}
}

// A step allocates nothing on the server, as everywhere.
func TestStepAllocatesNothing(t *testing.T) {
	s := start(t, Config{Spec: export.Spec{Envs: 64, Workers: 1}})
	c := s.dial(t, Dialing{})
	require.NoError(t, c.Reset(nil, nil))
	require.Zero(t, testing.AllocsPerRun(200, func() {
		if err := c.Step(); err != nil {
			t.Error(err)
		}
	}))
}

// bomb is a source that panics in the episode of an environment.
type bomb struct {
	scenario.Source
	env, episode uint32
}

func (b bomb) Begin(id scenario.Identity, e *scenario.Episode) {
	if id.Env == b.env && id.Episode == b.episode {
		panic("boom")
	}
	b.Source.Begin(id, e)
}

// A panic ends the connection of its client, with the reason, and nothing else.
func TestPanics(t *testing.T) {
	spec := export.Spec{Envs: 4, Steps: 3, Autoreset: "same-step"}
	s := start(t, Config{Spec: spec, Clients: 2, source: func(src scenario.Source) scenario.Source { return bomb{src, 1, 1} }})
	other, twin := s.dial(t, Dialing{Range: at(1)}), newTwin(t, spec, 2, 2)
	require.NoError(t, other.Reset(nil, nil))
	require.NoError(t, twin.Reset(vecenv.ResetOptions{}))
	for _, x := range []struct {
		do   func(c *Client) error
		says string
	}{
		{func(c *Client) error { return c.Reset(nil, nil) }, "server test: status 2: panic: boom: the batch is broken"},
		{func(c *Client) error { _ = c.Step(); _ = c.Step(); return c.Step() }, "server test: status 2: vecenv: step: environment 1 (seed 0, env 1, episode 1): panic: boom"},
	} {
		c := s.dial(t, Dialing{Range: at(0)})
		require.NoError(t, c.Reset(nil, nil))
		err := x.do(c)
		require.ErrorContains(t, err, x.says)
		require.Equal(t, err, c.Step())
		require.NoError(t, play(other, twin, 0, 4))
		s.log(t, "free again: "+x.says[len("server test: status 2: "):])
	}
}

// More clients at once than shake hands at a time.
func TestCrowd(t *testing.T) {
	const n = 3 * maxHandshakes
	s := start(t, Config{Spec: export.Spec{Envs: n, Outputs: everything}, Clients: n})
	var all sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		all.Go(func() {
			c, err := Dial(s.Name, Dialing{Dir: s.Dir})
			if err == nil {
				err = c.Reset(nil, nil)
				defer c.Close()
			}
			errs[i] = err
		})
	}
	all.Wait()
	require.NoError(t, errors.Join(errs...))
}

// FuzzAnswer lets a request line and inputs be anything: no answer may panic, and the environments must stay sound.
func FuzzAnswer(f *testing.F) {
	f.Add(uint64(1), uint64(3), []byte{1, 2, 3, 4, 5, 255}, uint32(1))
	f.Add(uint64(2|3<<32), uint64(2|32<<32), []byte{1, 0, 0, 0, 17, 0, 0, 0, 255, 255, 255, 255}, uint32(1))
	f.Add(uint64(3|3<<8), uint64(1), []byte{0, 9}, uint32(2))
	for _, profile := range []string{"seed", "serving"} {
		f.Add(uint64(len(profile)), uint64(1), []byte(profile), uint32(0))
	}
	f.Fuzz(func(t *testing.T, first, second uint64, inputs []byte, request uint32) {
		spec := export.Spec{Envs: 2, Slots: 16, Steps: 3, Outputs: everything, Seed: first}
		if second%2 == 1 {
			spec.Profile = "serving"
		}
		cfg, err := spec.Config()
		must(t, err)
		cfg.Workers = 1
		d := describe(t, spec)
		seg, err := SegmentOf(d, 2)
		must(t, err)
		s, err := newSession(nil, "fuzz", cfg, d, seg, Hash(d))
		must(t, err)
		defer s.close()
		must(t, s.batch.Reset(vecenv.ResetOptions{}))
		for i := range seg.Size - offData {
			if len(inputs) > 0 {
				s.mem[offData+i] = inputs[int(i)%len(inputs)]
			}
		}
		for i, w := range []uint64{first, second, first} {
			*word64(s.mem, offCommand) = w
			want := request
			if i == 1 {
				want = 1
			}
			status, text := s.answer(request, want)
			if status == statusBroken || (status == statusDone) != (text == "") {
				t.Fatalf("status %d: %s", status, text)
			}
			s.reply(status, text)
			must(t, s.batch.Check())
		}
	})
}

// Operations that change while they are read leave the environments sound: whatever is read is one of them, for one slot.
func TestTornInputs(t *testing.T) {
	for _, profile := range []string{"seed", "serving"} {
		for _, slots := range []int{64, 80} { // 64 have a kernel of their own
			spec := export.Spec{Envs: 40, Slots: slots, Profile: profile, Outputs: everything}
			cfg, err := spec.Config()
			require.NoError(t, err)
			cfg.Workers = 1
			d := describe(t, spec)
			seg, err := SegmentOf(d, 2)
			require.NoError(t, err)
			s, err := newSession(nil, "torn", cfg, d, seg, Hash(d))
			require.NoError(t, err)
			require.NoError(t, s.batch.Reset(vecenv.ResetOptions{}))
			var stop atomic.Bool
			var scribbler sync.WaitGroup
			scribbler.Go(func() {
				for x := uint64(1); !stop.Load(); x = x*0x5851F42D4C957F2D + 1 {
					for i := range s.ops {
						s.ops[i] = uint8(x>>(i&56)) & 7
					}
					for i := range s.pairs {
						s.pairs[i] = int32(x>>(i&31)) & 127
					}
				}
			})
			for i := range 600 {
				*word64(s.mem, offCommand) = command{kind: cmdStep}.word()
				if i%2 == 1 {
					*word64(s.mem, offCommand) = command{kind: cmdPairs, pairs: 8}.word()
				}
				status, text := s.answer(uint32(i), uint32(i))
				require.Zero(t, status, text)
				require.NoError(t, s.batch.Check())
			}
			stop.Store(true)
			scribbler.Wait()
			s.close()
		}
	}
}
