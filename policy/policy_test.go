package policy_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/kvgym/kvgym/policy"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/trace"
	"github.com/kvgym/kvgym/vecenv"
	"github.com/stretchr/testify/require"
)

// baselines are the policies of which the documentation makes claims; others that are registered must only be valid.
var baselines = []string{"noop", "random", "lru", "largest-first", "value-aware", "compress-first", "compress-int8", "compress-all", "greedy", "search"}

// episodes plays one episode of each of n environments with a policy and returns the batch as it ends.
func episodes(t testing.TB, name string, n int, src scenario.Source, seed uint64) *vecenv.Batch {
	shape := src.Shape()
	b, err := vecenv.New(vecenv.Config{Envs: n, Slots: shape.Slots, Steps: shape.Steps, Source: src, Seed: seed, Workers: 1, NoObs: true, Autoreset: vecenv.Disabled})
	require.NoError(t, err)
	t.Cleanup(b.Close)
	require.NoError(t, b.Reset(vecenv.ResetOptions{}))
	p, err := policy.New(name)
	require.NoError(t, err)
	d := policy.NewDriver(p, n, shape.Slots)
	for range shape.Steps {
		require.NoError(t, b.Step(d.Decide(b)))
	}
	return b
}

func synthetic(t testing.TB, slots, steps int, d scenario.Difficulty) scenario.Source {
	s, err := scenario.NewSynthetic(slots, steps, d)
	require.NoError(t, err)
	return s
}

func traffic(t testing.TB) scenario.Source {
	path := filepath.Join(t.TempDir(), "traffic.jsonl")
	f, err := os.Create(path)
	require.NoError(t, err)
	require.NoError(t, trace.Synthesize(f, trace.SynthConfig{Requests: 2000, Seed: 3, Rate: 8, Tenants: 5}))
	require.NoError(t, f.Close())
	s, err := scenario.LoadTraffic(scenario.TrafficConfig{Path: path, Difficulty: scenario.Hard})
	require.NoError(t, err)
	return s
}

// Every policy acts validly, the same way twice, whatever the shape and the traffic, and keeps the state consistent.
func TestPoliciesActValidly(t *testing.T) {
	sources := []scenario.Source{synthetic(t, 64, 15, scenario.All), synthetic(t, 16, 40, scenario.Hard), synthetic(t, 256, 4, scenario.Hard), traffic(t),
		synthetic(t, 32, 1, scenario.Easy), synthetic(t, 112, 12, scenario.Easy), synthetic(t, 48, 25, scenario.Medium)}
	for _, name := range policy.Names() {
		for k, src := range sources {
			t.Run(fmt.Sprintf("%s/%d", name, k), func(t *testing.T) {
				n := 20
				if testing.Short() {
					n = 8
				}
				b, again := episodes(t, name, n, src, 1), episodes(t, name, n, src, 1)
				require.NoError(t, b.Check())
				acted := uint32(0)
				for i := range n {
					c := b.View(i).Counters()
					require.Zero(t, c.Invalid)
					require.Equal(t, c, again.View(i).Counters())
					require.Equal(t, b.View(i).Score(), again.View(i).Score())
					acted += c.Evictions + c.Compressions + c.Swaps
				}
				if slices.Contains(baselines, name) && (name == "noop" || src.Shape().Steps > 1) { // in a first step there may be nothing to do
					require.Equal(t, name == "noop", acted == 0, "%d operations", acted)
				}
			})
		}
	}
}

// search is at least as good as each of its candidates on every single episode.
func TestSearchBeatsItsCandidates(t *testing.T) {
	for _, src := range []scenario.Source{synthetic(t, 64, 15, scenario.All), traffic(t)} {
		best := episodes(t, "search", 60, src, 5)
		for _, name := range policy.SearchCandidates {
			b := episodes(t, name, 60, src, 5)
			for i := range 60 {
				require.GreaterOrEqual(t, best.View(i).Score(), b.View(i).Score(), "%s, environment %d", name, i)
			}
		}
	}
}

// Policies decide without allocating, once their scratch memory has grown, and start nothing that outlives them.
func TestPoliciesAllocateNothing(t *testing.T) {
	b := episodes(t, "noop", 8, synthetic(t, 64, 15, scenario.Hard), 2)
	require.NoError(t, b.Reset(vecenv.ResetOptions{}))
	for range 6 {
		require.NoError(t, b.Step(vecenv.Actions{}))
	}
	before := runtime.NumGoroutine()
	for _, name := range policy.Names() {
		p, err := policy.New(name)
		require.NoError(t, err)
		var a policy.Actions
		act := func() {
			for i := range b.Envs() {
				a.Clear()
				p.Act(b.View(i), &a)
			}
		}
		act()
		require.Zero(t, testing.AllocsPerRun(20, act), name)
	}
	require.LessOrEqual(t, runtime.NumGoroutine(), before) // fewer where an earlier test's were still ending
}

// One search may serve several batches in turn.
func TestSearchChangesBatch(t *testing.T) {
	one, other := synthetic(t, 64, 15, scenario.Hard), synthetic(t, 16, 8, scenario.Easy)
	p, err := policy.New("search")
	require.NoError(t, err)
	for _, src := range []scenario.Source{one, other, one} {
		b := episodes(t, "noop", 3, src, 4)
		require.NoError(t, b.Reset(vecenv.ResetOptions{}))
		for i := range 3 {
			fresh, err := policy.New("search")
			require.NoError(t, err)
			var want, got policy.Actions
			fresh.Act(b.View(i), &want)
			p.Act(b.View(i), &got)
			require.Equal(t, want.Pairs(), got.Pairs())
		}
	}
}

// search leaves the environment that it looks ahead for as it was.
func TestSearchLeavesNoTrace(t *testing.T) {
	b := episodes(t, "noop", 1, synthetic(t, 64, 15, scenario.Hard), 2)
	require.NoError(t, b.Reset(vecenv.ResetOptions{}))
	before, err := b.Snapshot(nil, 0, 1)
	require.NoError(t, err)
	p, err := policy.New("search")
	require.NoError(t, err)
	var a policy.Actions
	p.Act(b.View(0), &a)
	after, err := b.Snapshot(nil, 0, 1)
	require.NoError(t, err)
	require.Equal(t, before, after)
}

// many gives a scripted number of operations.
type many struct{ counts []int }

func (*many) Name() string { return "many" }
func (m *many) Act(_ vecenv.View, a *policy.Actions) {
	for range m.counts[0] {
		a.Compress(5)
	}
	m.counts = m.counts[1:]
}

func TestDriver(t *testing.T) {
	b := episodes(t, "noop", 1, synthetic(t, 64, 15, scenario.All), 1)
	d := policy.NewDriver(&many{counts: []int{3, 1, 0, 1000}}, 1, 64)
	for _, want := range []int{3, 1, 0, 128} {
		a := d.Decide(b)
		require.Len(t, d.Pairs(0), 2*want)
		for k, x := range a.List {
			require.Equal(t, k < 2*want, x != 0, "value %d of %d operations", k, want)
		}
	}
}

func TestRegistry(t *testing.T) {
	for _, n := range policy.Names() {
		p, err := policy.New(n)
		require.NoError(t, err)
		require.Equal(t, n, p.Name())
		require.NotEmpty(t, policy.About(n))
	}
	require.Empty(t, policy.About("clairvoyant"))
	_, err := policy.New("clairvoyant")
	require.ErrorContains(t, err, `policy: "clairvoyant": allowed `+strings.Join(policy.Names(), ", "))
	require.Subset(t, policy.Names(), baselines)
}
