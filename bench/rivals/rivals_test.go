package rivals_test

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kvgym/kvgym/bench/rivals"
	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/vecenv"
	"github.com/stretchr/testify/require"
)

var buildOnce = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "kvgym-rival")
	if err != nil {
		return "", err
	}
	buildDir = dir
	return rivals.BuildC(context.Background(), dir)
})

var buildDir string // removed by TestMain

func TestMain(m *testing.M) {
	code := m.Run()
	if buildDir != "" {
		os.RemoveAll(buildDir)
	}
	os.Exit(code)
}

// program builds the C rival once for all tests.
func program(tb testing.TB) string {
	if _, err := exec.LookPath("gcc"); err != nil && os.Getenv("CC") == "" {
		tb.Skip("SKIP: gcc is missing: apt-get install gcc")
	}
	path, err := buildOnce()
	require.NoError(tb, err)
	return path
}

func start(tb testing.TB, path string, args ...string) *rivals.Process {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	p, err := rivals.Start(ctx, path, args...)
	require.NoError(tb, err)
	tb.Cleanup(func() {
		p.Close()
		cancel()
	})
	return p
}

// drawOps makes an op matrix for the batch's state.
type drawOps func(r *rand.Rand, b *vecenv.Batch) []uint8

// validOps draws operations that the mask allows, on one slot of ten.
func validOps(r *rand.Rand, b *vecenv.Batch) []uint8 {
	ops := make([]uint8, len(b.Mask)/kv.NumOps)
	for s := range ops {
		if op := uint8(1 + r.IntN(3)); r.IntN(10) == 0 && b.Mask[kv.NumOps*s+int(op)] != 0 {
			ops[s] = op
		}
	}
	return ops
}

// anyOps draws operations, known or not and possible or not, on one slot of five.
func anyOps(r *rand.Rand, b *vecenv.Batch) []uint8 {
	ops := make([]uint8, len(b.Mask)/kv.NumOps)
	for s := range ops {
		switch r.IntN(25) {
		case 0, 1, 2, 3:
			ops[s] = uint8(r.IntN(kv.NumOps))
		case 4:
			ops[s] = uint8(r.Uint32())
		}
	}
	return ops
}

// gentleOps draws compressions and swaps only, so that memory fills up.
func gentleOps(r *rand.Rand, b *vecenv.Batch) []uint8 {
	ops := make([]uint8, len(b.Mask)/kv.NumOps)
	for s := range ops {
		if r.IntN(40) == 0 {
			ops[s] = uint8(kv.Compress) + uint8(r.IntN(2))
		}
	}
	return ops
}

// massOps evicts everything in one step of four of an environment, and sometimes asks everything out or down.
func massOps(r *rand.Rand, b *vecenv.Batch) []uint8 {
	ops := make([]uint8, len(b.Mask)/kv.NumOps)
	slots := len(ops) / b.Envs()
	for i := range b.Envs() {
		op := uint8(0)
		switch r.IntN(12) {
		case 0, 1, 2:
			op = uint8(kv.Evict)
		case 3:
			op = uint8(kv.Swap)
		case 4:
			op = uint8(kv.Compress)
		}
		for s := range slots {
			ops[i*slots+s] = op
		}
	}
	return ops
}

func noOps(_ *rand.Rand, b *vecenv.Batch) []uint8 { return make([]uint8, len(b.Mask)/kv.NumOps) }

// fnv is the digest of the protocol.
type fnv uint64

func newFNV() fnv { return 14695981039346656037 }

func (h *fnv) word(w uint32) { *h = (*h ^ fnv(w)) * 1099511628211 }

func (h *fnv) outputs(b *vecenv.Batch) {
	for _, t := range [][]float32{b.Obs, b.Reward} {
		for _, x := range t {
			h.word(math.Float32bits(x))
		}
	}
	for _, t := range [][]uint8{b.Terminated, b.Truncated} {
		for _, x := range t {
			h.word(uint32(x))
		}
	}
}

// setup is a comparison: a rival's workload and what vecenv says its digest is.
type setup struct {
	vecenv.Config
	difficulty scenario.Difficulty
	cycle      int
	ops        drawOps
	history    [][]uint8 // op matrices as they were drawn
}

func (s *setup) batch(tb testing.TB) *vecenv.Batch {
	c := s.Config
	c.Outputs, c.Workers = vecenv.WithObs|vecenv.WithMask, 1
	var err error
	if c.Profile == vecenv.Serving {
		c.ServingSource, err = scenario.NewAgents(c.Slots, c.Steps, s.difficulty, c.Preset)
	} else {
		c.Source, err = scenario.NewSynthetic(c.Slots, c.Steps, s.difficulty)
	}
	require.NoError(tb, err)
	b, err := vecenv.New(c)
	require.NoError(tb, err)
	tb.Cleanup(func() { b.Close() })
	return b
}

// play staggers a batch, draws its operations, and returns the digest of its outputs.
func (s *setup) play(tb testing.TB) uint64 {
	b := s.batch(tb)
	require.NoError(tb, b.Reset(vecenv.ResetOptions{}))
	mask := make([]bool, b.Envs())
	for k := range 16 {
		if k < b.Envs() {
			for i := range mask {
				mask[i] = i%16 == k
			}
			require.NoError(tb, b.Reset(vecenv.ResetOptions{Mask: mask}))
		}
		require.NoError(tb, b.Step(vecenv.Actions{}))
	}
	r := rand.New(rand.NewPCG(s.Seed, 4))
	h := newFNV()
	s.history = nil
	for range s.cycle {
		ops := s.ops(r, b)
		s.history = append(s.history, ops)
		require.NoError(tb, b.Step(vecenv.Actions{Ops: ops}))
		h.outputs(b)
	}
	return uint64(h)
}

// workload writes the files that a rival reads; play must come first.
func (s *setup) workload(tb testing.TB) rivals.Workload {
	dir := tb.TempDir()
	w := rivals.Workload{Profile: s.Profile.String(), Envs: s.Envs, Slots: s.Slots, Steps: s.Steps, MaxWait: s.MaxWait, Cycle: s.cycle, Seed: s.Seed,
		FirstEnv: s.FirstEnv, Difficulty: s.difficulty.String(), OpsPath: filepath.Join(dir, "ops")}
	require.NoError(tb, os.WriteFile(w.OpsPath, bytes.Join(s.history, nil), 0o644))
	if s.Profile == vecenv.Serving {
		w.PresetPath = filepath.Join(dir, "preset")
		require.NoError(tb, rivals.WritePreset(w.PresetPath, s.Preset))
	}
	return w
}

func digest(tb testing.TB, path string, w rivals.Workload) uint64 {
	p := start(tb, path)
	require.NoError(tb, p.Init(w))
	require.NoError(tb, p.Stagger())
	d, err := p.Digest()
	require.NoError(tb, err)
	_, err = p.Run(1)
	require.NoError(tb, err)
	again, err := p.Digest()
	require.NoError(tb, err)
	require.Equal(tb, d, again, "the digest starts from the saved state")
	require.NoError(tb, p.Close())
	return d
}

// slowLink is a preset on whose link a sequence needs several steps.
func slowLink(p kv.Preset) kv.Preset {
	p.Name, p.LinkPS = "slow-link", 200*p.LinkPS
	return p
}

// tiny is a preset whose memory holds few sequences and whose CPU holds fewer, so that much is refused and dropped.
func tiny(p kv.Preset, tokens int64) kv.Preset {
	p.Name, p.CapacityTokens, p.HostPermille = fmt.Sprint("tiny-", tokens), tokens, 120
	return p
}

// wide is a slow preset with room for so much context that its curve is cut.
func wide(p kv.Preset) kv.Preset {
	p.Name, p.CapacityTokens = "wide", 1<<30
	p.Decode = []kv.Knot{{Tokens: 1, NS: 100_000_000}, {Tokens: 1024, NS: 200_000_000}}
	return p
}

// styles are those of the C rival.
var styles = []string{"plain", "tuned"}

// requireDigest compares what the C rival plays, in each of its styles, with what vecenv has played.
func requireDigest(tb testing.TB, path string, want uint64, w rivals.Workload) {
	for _, w.Style = range styles {
		require.Equal(tb, want, digest(tb, path, w), "%s", w.Style)
	}
}

// TestEqual compares the outputs of the C rival with vecenv's: every bit of every observation, reward and flag.
func TestEqual(t *testing.T) {
	path := program(t)
	for _, profile := range []vecenv.Profile{vecenv.Seed, vecenv.Serving} {
		for _, s := range setups(profile) {
			t.Run(s.name(), func(t *testing.T) {
				t.Parallel()
				want := s.play(t)
				requireDigest(t, path, want, s.workload(t))
			})
		}
	}
}

func (s *setup) name() string {
	return fmt.Sprintf("%s%s/%s/envs=%d+%d/slots=%d/steps=%d/wait=%d/seed=%d", s.Profile, s.Preset.Name, s.difficulty, s.FirstEnv, s.Envs, s.Slots, s.Steps, s.MaxWait, s.Seed)
}

func setups(profile vecenv.Profile) []*setup {
	var out []*setup
	add := func(envs, slots, steps, wait, cycle int, seed uint64, first uint32, d scenario.Difficulty, ops drawOps, presets ...kv.Preset) {
		c := vecenv.Config{Envs: envs, Slots: slots, Steps: steps, MaxWait: wait, Seed: seed, FirstEnv: first, Profile: profile}
		if profile == vecenv.Seed {
			presets = []kv.Preset{{}}
		}
		for _, p := range presets {
			c.Preset = p
			out = append(out, &setup{Config: c, difficulty: d, cycle: cycle, ops: ops})
		}
	}
	all := kv.Presets()
	first := all[0]
	add(512, 64, 15, 5, 48, 42, 0, scenario.All, validOps, all...)
	add(256, 64, 15, 5, 48, 1, 1_000_003, scenario.Hard, anyOps, first, slowLink(first), tiny(first, 60_000), tiny(first, 3000), tiny(first, 1))
	add(256, 64, 15, 5, 32, 2, 7, scenario.Medium, gentleOps, first, slowLink(all[1]), tiny(all[3], 100_000))
	add(128, 64, 15, 5, 32, 1<<64-1, 1<<32-128, scenario.Easy, noOps, first, all[2])
	add(128, 64, 1, 1, 8, 3, 0, scenario.All, validOps, first)
	add(64, 64, 200, 40, 230, 4, 0, scenario.Hard, gentleOps, first, tiny(all[1], 200_000))
	add(16, 64, 4096, 4096, 300, 5, 0, scenario.All, validOps, first)
	for k, slots := range []int{16, 32, 48, 80, 128, 256} {
		add(64, slots, 12+k, 1+k, 48, uint64(k), uint32(k), scenario.Difficulty(k%4), anyOps, first, tiny(slowLink(all[k%4]), 4000*int64(slots)))
		add(64, slots, 15, 5, 32, uint64(k), 0, scenario.Hard, gentleOps, first)
	}
	add(1, 64, 15, 5, 40, 9, 3, scenario.All, validOps, first)
	add(512, 16, 40, 5, 60, 10, 0, scenario.Easy, noOps, first) // little between budget and capacity: stalls
	add(256, 32, 15, 5, 40, 11, 0, scenario.Easy, gentleOps, first)
	add(128, 64, 15, 5, 40, 12, 0, scenario.Medium, massOps, first, slowLink(first), tiny(all[2], 50_000))
	add(128, 16, 15, 5, 40, 14, 0, scenario.Easy, massOps, first, all[2])
	add(16, 256, 60, 20, 70, 13, 0, scenario.Easy, gentleOps, wide(all[3])) // more context than the curve takes
	return out
}

// A batch in two processes plays what it plays in one: the tensors of the parts are the parts of the tensors.
func TestParts(t *testing.T) {
	path := program(t)
	for _, profile := range []vecenv.Profile{vecenv.Seed, vecenv.Serving} {
		whole := &setup{Config: vecenv.Config{Envs: 96, Slots: 64, Steps: 15, MaxWait: 5, Seed: 11, FirstEnv: 5, Profile: profile, Preset: kv.Presets()[0]},
			difficulty: scenario.All, cycle: 32, ops: validOps}
		whole.play(t)
		for _, part := range [][2]int{{0, 32}, {32, 96}} { // multiples of 16, so that staggering is the same
			lo, hi := part[0], part[1]
			s := *whole
			s.Envs, s.FirstEnv = hi-lo, whole.FirstEnv+uint32(lo)
			step := 0
			s.ops = func(*rand.Rand, *vecenv.Batch) []uint8 {
				step++
				return whole.history[step-1][lo*64 : hi*64]
			}
			want := s.play(t)
			requireDigest(t, path, want, s.workload(t))
		}
	}
}

func TestProtocolErrors(t *testing.T) {
	path := program(t)
	ops := filepath.Join(t.TempDir(), "ops")
	require.NoError(t, os.WriteFile(ops, make([]byte, 2*16*3), 0o644))
	good := rivals.Workload{Profile: "seed", Envs: 2, Slots: 16, Steps: 15, MaxWait: 5, Cycle: 3, Difficulty: "all", OpsPath: ops}
	for _, c := range []struct {
		edit func(w *rivals.Workload)
		want string
	}{
		{func(w *rivals.Workload) { w.OpsPath += "-missing" }, "ops-missing: No such file"},
		{func(w *rivals.Workload) { w.Cycle = 4 }, "less than 128 bytes"},
		{func(w *rivals.Workload) { w.Envs = 1 }, "more than 48 bytes"},
		{func(w *rivals.Workload) { w.Profile = "other" }, "profile: allowed seed, serving"},
		{func(w *rivals.Workload) { w.Difficulty = "other" }, "difficulty: allowed"},
		{func(w *rivals.Workload) { w.Slots = 24 }, "multiples of 16"},
		{func(w *rivals.Workload) { w.Slots = 512 }, "slots=512: allowed 16 to 256"},
		{func(w *rivals.Workload) { w.Steps = 0 }, "steps=0: allowed 1 to 4096"},
		{func(w *rivals.Workload) { w.Profile = "serving" }, "preset: missing"},
		{func(w *rivals.Workload) { w.Profile, w.PresetPath = "serving", ops }, "preset: "},
		{func(w *rivals.Workload) { w.OpsPath = "a b" }, "no white space"},
		{func(w *rivals.Workload) { w.Style = "other" }, "style: allowed plain, tuned"},
		{func(w *rivals.Workload) { w.Style = "plain x=1" }, "no white space"},
	} {
		w := good
		c.edit(&w)
		p := start(t, path)
		require.ErrorContains(t, p.Stagger(), "stagger: no init yet")
		require.ErrorContains(t, p.Init(w), c.want)
		require.NoError(t, p.Init(good), "an error leaves the process usable")
		_, err := p.Digest()
		require.ErrorContains(t, err, "no stagger yet")
		require.ErrorContains(t, p.Init(good), "once")
		require.NoError(t, p.Close())
		require.ErrorContains(t, p.Stagger(), "closed")
	}
	p := start(t, path)
	require.NoError(t, p.Init(good))
	require.NoError(t, p.Stagger())
	_, err := p.Run(0)
	require.ErrorContains(t, err, "rounds=0")
}

// The commands that the Go side does not send, and what is not a command.
func TestProtocolText(t *testing.T) {
	cmd := exec.Command(program(t))
	cmd.Stdin = strings.NewReader("init nonsense\ninit a=1\n\nwhat\ninit profile=seed slots=16 seed=x\nquit\nwhat\n")
	out, err := cmd.Output()
	require.NoError(t, err)
	require.Equal(t, []string{"error init: nonsense: not name=value", "error init: a: unknown", "error : no init yet", "error what: no init yet",
		"error seed=x: allowed 0 to 2^64-1"}, strings.Split(strings.TrimSpace(string(out)), "\n"))
}

// script starts a shell as a rival that misbehaves.
func script(t *testing.T, ctx context.Context, text string) *rivals.Process {
	if _, err := exec.LookPath("sh"); err != nil {
		t.Skip("SKIP: no shell")
	}
	p, err := rivals.Start(ctx, "sh", "-c", text)
	require.NoError(t, err)
	t.Cleanup(func() { p.Close() })
	return p
}

// A rival that dies, talks nonsense or does not answer gives an error that says what happened, and no hang.
func TestBrokenProcess(t *testing.T) {
	ctx := context.Background()
	_, err := rivals.Start(ctx, filepath.Join(t.TempDir(), "none"))
	require.ErrorContains(t, err, "none")

	p := script(t, ctx, "echo out of luck >&2; exit 3")
	err = p.Stagger()
	require.ErrorContains(t, err, "stagger")
	require.ErrorContains(t, err, "exit status 3")
	require.ErrorContains(t, err, "out of luck")
	_, err = p.Run(1)
	require.ErrorContains(t, err, "earlier command failed")
	require.NoError(t, p.Close(), "its death was told already")

	p = script(t, ctx, "read line; echo '"+strings.Repeat("long ", 1000)+"the end' >&2; kill -9 $$")
	err = p.Stagger()
	require.ErrorContains(t, err, "killed")
	require.ErrorContains(t, err, "the end")
	require.Less(t, len(err.Error()), 3000)

	p = script(t, ctx, "read line; echo hello; read line")
	require.ErrorContains(t, p.Stagger(), `answered "hello"`)
	require.ErrorContains(t, p.Stagger(), "not sent")
	require.NoError(t, p.Close(), "its trouble was told already")

	p = script(t, ctx, "read line; echo ok; read line; exit 4")
	require.NoError(t, p.Stagger())
	require.ErrorContains(t, p.Close(), "exit status 4")

	p = script(t, ctx, "read line; echo digest 12; read line; echo ns x; read line; echo error broken; read line; echo okay")
	_, err = p.Digest()
	require.ErrorContains(t, err, "16 hexadecimal digits")
	_, err = p.Run(1)
	require.ErrorContains(t, err, "want nanoseconds")
	require.ErrorContains(t, p.Stagger(), "stagger: broken")
	require.ErrorContains(t, p.Stagger(), "want ok")
	require.NoError(t, p.Close())

	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	p = script(t, short, "echo sleepy >&2; exec sleep 60")
	begin := time.Now()
	err = p.Stagger()
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "sleepy")
	require.Less(t, time.Since(begin), 20*time.Second)
}

func TestBuildErrors(t *testing.T) {
	t.Setenv("CC", "no-such-compiler -x")
	_, err := rivals.BuildC(context.Background(), t.TempDir())
	require.ErrorContains(t, err, "no-such-compiler is missing")
	t.Setenv("CC", "go vet") // something that is there and is no C compiler
	_, err = rivals.BuildC(context.Background(), t.TempDir())
	require.ErrorContains(t, err, "build the C rival: go vet -std=gnu11")
	require.Error(t, rivals.WritePreset(filepath.Join(t.TempDir(), "preset"), kv.Preset{}))
	require.Error(t, rivals.WritePreset(filepath.Join(t.TempDir(), "none", "preset"), kv.Presets()[0]))
}

// BenchmarkC is a step of the C rival, timed by itself: valid operations on one slot of ten, staggered episodes, resets
// included. The metric is the fastest of its cycles of 32 steps, in groups of a few.
func BenchmarkC(b *testing.B) {
	path := program(b)
	for _, profile := range []vecenv.Profile{vecenv.Seed, vecenv.Serving} {
		for _, envs := range []int{64, 1024, 4096} {
			s := &setup{Config: vecenv.Config{Envs: envs, Slots: 64, Steps: 15, MaxWait: 5, Seed: 42, Profile: profile, Preset: kv.Presets()[0]},
				difficulty: scenario.All, cycle: 32, ops: validOps}
			s.play(b)
			w := s.workload(b)
			for _, w.Style = range styles {
				b.Run(fmt.Sprintf("profile=%s/style=%s/envs=%d/slots=64", profile, w.Style, envs), func(b *testing.B) {
					p := start(b, path)
					require.NoError(b, p.Init(w))
					require.NoError(b, p.Stagger())
					rounds := max(1, 4096/envs)
					best := math.Inf(1)
					for b.Loop() {
						d, err := p.Run(rounds)
						require.NoError(b, err)
						best = min(best, float64(d.Nanoseconds())/float64(rounds*s.cycle*envs))
					}
					b.ReportMetric(best, "min-ns/env-step")
				})
			}
		}
	}
}
