package shm

import (
	"errors"
	"fmt"
	"os"
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
		"block":   {func(c *Client) { _ = c.call(command{kind: cmdStep, block: 4}) }, "command: block: 4: allowed 0 (the next) to 3"},
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
			what := []command{{kind: cmdStep}, {kind: cmdPairs, pairs: 128}, {kind: cmdReset, mask: true, seeds: true, block: 3}, {kind: cmdReset, seeds: true},
				{kind: cmdStep, block: 1}, {kind: cmdIdentities}}[i%6]
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
	f.Add(uint64(3|3<<8|2<<16), uint64(1|1<<16), []byte{0, 9}, uint32(2))
	f.Add(uint64(4), uint64(2|2<<16), []byte{7}, uint32(1))
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
