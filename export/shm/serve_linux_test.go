package shm

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kvgym/kvgym/export"
	"github.com/kvgym/kvgym/vecenv"
)

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

// A client may say which block is written: the others stay what they were, and so do rows that a reset leaves alone.
func TestChosenBlocks(t *testing.T) {
	spec := export.Spec{Envs: 37, Outputs: everything, Seed: 6, Steps: 4, Autoreset: "same-step", Workers: 2}
	s := start(t, Config{Spec: spec, Blocks: 4})
	c, twin := s.dial(t, Dialing{}), newTwin(t, spec, 0, spec.Envs)
	require.NoError(t, c.Reset(nil, nil))
	require.NoError(t, twin.Reset(vecenv.ResetOptions{}))
	mask := make([]bool, spec.Envs)
	for i := 0; i < spec.Envs; i += 4 {
		mask[i], c.mem[c.segment.Mask+int64(i)] = true, 1
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 60 {
		before := bytes.Clone(c.mem)
		block, want := rng.IntN(5), (c.turn+1)%4 // 0 is the next
		if block > 0 {
			want = block - 1
		}
		opsFor(c.Ops(), 0, 64, i)
		what, do := command{kind: cmdStep, block: block}, func() error { return twin.Step(vecenv.Actions{Ops: bytes.Clone(c.Ops())}) }
		if i%7 == 3 {
			what, do = command{kind: cmdReset, mask: true, block: block}, func() error { return twin.Reset(vecenv.ResetOptions{Mask: mask}) }
		}
		require.NoError(t, c.call(what))
		require.NoError(t, do())
		require.Equal(t, want, c.turn)
		require.Empty(t, differ(c.Block(), &twin.Buffers, what.kind == cmdStep), i)
		for b, at := range c.segment.Blocks {
			if end := at["metrics"]; b != want { // its last tensor
				require.True(t, bytes.Equal(before[at["obs"]:end], c.mem[at["obs"]:end]), "step %d: block %d", i, b)
			}
		}
	}
}

// The episodes that a range plays have the identities of the same environments in a batch.
func TestIdentities(t *testing.T) {
	spec := export.Spec{Envs: 10, Seed: 6, Steps: 3, FirstEnv: 5}
	s := start(t, Config{Spec: spec, Clients: 2})
	c, twin := s.dial(t, Dialing{Range: at(1)}), newTwin(t, spec, 5, 5)
	require.NoError(t, c.Reset(nil, nil))
	require.NoError(t, twin.Reset(vecenv.ResetOptions{}))
	for i := range 12 {
		if i == 6 {
			o := vecenv.ResetOptions{Mask: []bool{true, false, true, false, false}, Seeds: []uint64{1 << 63, 2, 3, 4, 5}}
			require.NoError(t, c.Reset(o.Mask, o.Seeds))
			require.NoError(t, twin.Reset(o))
		}
		require.NoError(t, play(c, twin, i, 1))
		block := c.Block()
		seeds, envs, episodes, err := c.Identities()
		require.NoError(t, err)
		require.Equal(t, block, c.Block(), "it writes no block")
		for e := range seeds {
			id := twin.Identity(e)
			require.Equal(t, []any{id.Seed, id.Env, id.Episode}, []any{seeds[e], envs[e], episodes[e]})
		}
	}
	c.Close()
	_, _, _, err := c.Identities()
	require.ErrorIs(t, err, net.ErrClosed)
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
	require.Contains(t, ask(`{"version":1}`), "version: 1: allowed 2: use a client and a server of the same release")
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
