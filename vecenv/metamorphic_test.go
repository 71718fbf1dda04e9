package vecenv_test

import (
	"fmt"
	"hash/maphash"
	"math"
	"runtime"
	"testing"
	"unsafe"

	"github.com/kvgym/kvgym/internal/rng"
	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/reward"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/vecenv"
	"github.com/stretchr/testify/require"
)

// A play is one way to run the same operations: the matrix below says that none of them may change a bit.
type play struct {
	name     string
	workers  int
	groups   int
	splits   int  // batches that the environments are divided into
	async    bool // groups in flight together, received in another order
	list     bool // ordered lists instead of op matrices
	buffers  bool // tensors given by the caller
	restore  bool // snapshot and restore into a new batch in the middle, twice
	fork     bool // every environment forked to another row's batch in the middle
	trails   bool // observation rows written while the next environment steps
	stores   vecenv.Stores
	maxProcs int
}

var plays = []play{
	{name: "workers=2", workers: 2},
	{name: "workers=3", workers: 3},
	{name: "workers=7/procs=1", workers: 7, maxProcs: 1},
	{name: "workers=2/procs=4", workers: 2, maxProcs: 4},
	{name: "split=2", workers: 1, splits: 2},
	{name: "split=5/workers=2", workers: 2, splits: 5},
	{name: "groups=2/async", workers: 2, groups: 2, async: true},
	{name: "groups=5/async", workers: 3, groups: 5, async: true},
	{name: "groups=3/workers=1", workers: 1, groups: 3, async: true},
	{name: "list", workers: 2, list: true},
	{name: "buffers", workers: 2, buffers: true},
	{name: "restore", workers: 1, restore: true},
	{name: "fork", workers: 1, fork: true},
	{name: "stream", workers: 2, stores: vecenv.StreamStores},
	{name: "trails", workers: 2, trails: true},
	{name: "trails/groups=3/async", workers: 2, trails: true, groups: 3, async: true},
	{name: "trails/list/groups=3/async", workers: 2, trails: true, list: true, groups: 3, async: true},
	{name: "trails/stream/fork", workers: 3, trails: true, stores: vecenv.StreamStores, fork: true},
	{name: "everything", workers: 3, splits: 2, groups: 3, async: true, list: true, buffers: true, restore: true, fork: true},
}

// TestMetamorphic runs one set of operations in every way and compares a digest of each environment's whole history.
func TestMetamorphic(t *testing.T) {
	for _, mode := range []vecenv.Autoreset{vecenv.NextStep, vecenv.SameStep} {
		testMetamorphic(t, vecenv.Config{Envs: metamorphicEnvs, Steps: 11, Seed: historySeed(t), FirstEnv: 1000, Source: mustSynthetic(64, 11, scenario.All),
			Autoreset: mode, Outputs: vecenv.AllOutputs})
	}
}

// TestMetamorphicRuns does it with observations, rewards and flags alone, so that those that trail are of environments that step in one call.
func TestMetamorphicRuns(t *testing.T) {
	for _, mode := range []vecenv.Autoreset{vecenv.NextStep, vecenv.SameStep} {
		for _, truncate := range []bool{false, true} {
			testMetamorphic(t, vecenv.Config{Envs: metamorphicEnvs, Steps: 11, Seed: historySeed(t), FirstEnv: 1000, Source: mustSynthetic(64, 11, scenario.All),
				Autoreset: mode, Truncate: truncate, Outputs: vecenv.WithObs})
		}
	}
}

// TestMetamorphicMixed does it with environments of both profiles in one batch.
func TestMetamorphicMixed(t *testing.T) {
	p := slowLink(kv.Presets()[0])
	for _, mode := range []vecenv.Autoreset{vecenv.NextStep, vecenv.SameStep} {
		testMetamorphic(t, vecenv.Config{Envs: metamorphicEnvs, Steps: 11, Seed: historySeed(t), FirstEnv: 1000, Source: mustSynthetic(64, 11, scenario.All),
			Profiles: mixed(metamorphicEnvs), Preset: p, ServingSource: mustAgents(64, 11, scenario.All, p), Autoreset: mode, Outputs: vecenv.AllOutputs})
	}
}

// mixed gives two of three environments the serving profile.
func mixed(n int) []vecenv.Profile {
	out := make([]vecenv.Profile, n)
	for i := range out {
		if i%3 != 0 {
			out[i] = vecenv.Serving
		}
	}
	return out
}

const metamorphicEnvs = 150 // enough for the workers to be used

func testMetamorphic(t *testing.T, base vecenv.Config) {
	const steps = 30
	mode := base.Autoreset
	want := play{workers: 1}.run(t, base, steps)
	for _, p := range plays {
		t.Run(fmt.Sprintf("%s/%s", mode, p.name), func(t *testing.T) {
			require.Equal(t, want, p.run(t, base, steps))
		})
	}
	t.Run(fmt.Sprintf("%s/control", mode), func(t *testing.T) {
		other := base
		other.Seed++
		got := play{workers: 1}.run(t, other, steps)
		for i := range want {
			require.NotEqual(t, want[i], got[i], "environment %d of another seed has the same history", i)
		}
	})
}

// run plays the operations and returns a digest of every environment's history.
func (p play) run(t *testing.T, cfg vecenv.Config, steps int) []uint64 {
	if p.maxProcs > 0 {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(p.maxProcs))
	}
	digests := make([]uint64, 0, cfg.Envs)
	splits := max(1, p.splits)
	for k := range splits {
		part := cfg
		first, end := cfg.Envs*k/splits, cfg.Envs*(k+1)/splits
		part.Envs, part.FirstEnv = end-first, cfg.FirstEnv+uint32(first)
		if cfg.Profiles != nil {
			part.Profiles = cfg.Profiles[first:end]
		}
		digests = append(digests, p.runPart(t, part, steps)...)
	}
	return digests
}

func (p play) runPart(t *testing.T, cfg vecenv.Config, steps int) []uint64 {
	cfg.Workers, cfg.Groups, cfg.Stores = p.workers, p.groups, p.stores
	defer vecenv.SetTrailing(p.trails)()
	if p.buffers {
		cfg.Buffers = ownBuffers(cfg)
	}
	b := newBatch(t, cfg)
	require.NoError(t, b.Reset(vecenv.ResetOptions{}))
	digests := make([]uint64, cfg.Envs)
	for i := range digests {
		digests[i] = digest(b, i, 0)
	}
	for step := range steps {
		if p.restore && (step == 3 || step == 25) {
			b = restored(t, b, cfg)
		}
		if p.fork && step == 18 {
			b = forked(t, b, cfg)
		}
		p.step(t, b, step)
		for i := range digests {
			digests[i] = digest(b, i, digests[i])
		}
	}
	require.NoError(t, b.Check())
	require.Equal(t, p.trails, b.Trails())
	require.Equal(t, p.trails && cfg.Outputs == vecenv.WithObs && kernels.StepsPay(), b.Runs())
	return digests
}

func (p play) step(t *testing.T, b *vecenv.Batch, step int) {
	if !p.async {
		require.NoError(t, b.Step(p.actions(b, 0, b.Envs(), step)))
		return
	}
	groups := b.Config().Groups
	for g := range groups {
		first, end := b.Group(g)
		require.NoError(t, b.Send(g, p.actions(b, first, end, step)))
	}
	for g := range groups {
		require.NoError(t, b.Recv((g+1)%groups))
	}
}

// actions are a function of environment number and step alone, whatever the form. The list form lists slots from the
// highest to the lowest, which must not matter since each slot has one operation; but in the serving profile what is evicted
// waits in the order of the operations.
func (p play) actions(b *vecenv.Batch, first, end, step int) vecenv.Actions {
	slots := b.Config().Slots
	a := vecenv.Actions{Ops: make([]uint8, (end-first)*slots)}
	for i := first; i < end; i++ {
		key := rng.Key(77, b.Config().FirstEnv+uint32(i), uint32(step))
		for s := range slots {
			if w := rng.Mix(key + uint64(s)); w%11 == 0 {
				a.Ops[(i-first)*slots+s] = uint8(w >> 32 % 4)
			}
		}
	}
	if !p.list {
		return a
	}
	l := vecenv.Actions{PerEnv: slots}
	for i := range end - first {
		for k := range slots {
			s := slots - 1 - k
			if b.View(first+i).Profile() == vecenv.Serving {
				s = k
			}
			l.List = append(l.List, int32(a.Ops[i*slots+s]), int32(s))
		}
	}
	return l
}

// digestSeed is that of all digests, which only this process compares.
var digestSeed = maphash.MakeSeed()

// digest folds environment i's tensors and whole state into the digest of its history so far. It gives rows and structs to the hash as
// they are: formatting them took most of what these tests need under the race detector and under emulation.
func digest(b *vecenv.Batch, i int, before uint64) uint64 {
	var h maphash.Hash
	h.SetSeed(digestSeed)
	row := func(f []float32) {
		n := len(f) / b.Envs()
		if f = f[n*i : n*(i+1)]; n > 0 {
			_, _ = h.Write(unsafe.Slice((*byte)(unsafe.Pointer(&f[0])), 4*n))
		}
	}
	maphash.WriteComparable(&h, [...]uint64{before, uint64(math.Float32bits(b.Reward[i])), uint64(b.Terminated[i]), uint64(b.Truncated[i])})
	row(b.Obs)
	row(b.Components)
	row(b.Metrics)
	masked := len(b.Mask) / b.Envs()
	_, _ = h.Write(b.Mask[masked*i : masked*(i+1)])
	if b.FinalObs != nil && b.Terminated[i] != 0 {
		row(b.FinalObs)
	}
	v := b.View(i)
	maphash.WriteComparable(&h, v.Identity())
	maphash.WriteComparable(&h, v.Counters())
	maphash.WriteComparable(&h, v.Totals())
	maphash.WriteComparable(&h, [...]int64{int64(v.Score()), int64(v.Growth())})
	for _, s := range v.AppendLive(nil) {
		maphash.WriteComparable(&h, s)
		maphash.WriteComparable(&h, v.ServingSlot(s.Slot))
	}
	for k := range v.QueueLen() {
		q, arrived := v.Waiting(k)
		maphash.WriteComparable(&h, q)
		maphash.WriteComparable(&h, arrived)
		if v.Profile() == vecenv.Serving {
			maphash.WriteComparable(&h, v.Ticket(k))
		}
	}
	return h.Sum64()
}

func newBatch(t testing.TB, cfg vecenv.Config) *vecenv.Batch {
	b, err := vecenv.New(cfg)
	require.NoError(t, err)
	t.Cleanup(b.Close)
	return b
}

// ownBuffers gives every tensor, filled with what must be overwritten.
func ownBuffers(cfg vecenv.Config) vecenv.Buffers {
	n := cfg.Envs
	b := vecenv.Buffers{Obs: make([]float32, n*vecenv.ObsLen(64)), Reward: make([]float32, n), Terminated: make([]uint8, n), Truncated: make([]uint8, n)}
	if cfg.Outputs == vecenv.AllOutputs {
		b.Mask, b.Components, b.Metrics = make([]uint8, n*64*4), make([]float32, n*reward.NumTerms), make([]float32, n*vecenv.NumMetrics)
	}
	if cfg.Autoreset == vecenv.SameStep {
		b.FinalObs = make([]float32, n*vecenv.ObsLen(64))
	}
	for _, f := range [][]float32{b.Obs, b.Reward, b.Components, b.Metrics, b.FinalObs} {
		for k := range f {
			f[k] = float32(math.NaN())
		}
	}
	for _, u := range [][]uint8{b.Terminated, b.Truncated, b.Mask} {
		for k := range u {
			u[k] = 99
		}
	}
	return b
}

// restored carries all environments to a new batch through snapshots of two parts.
func restored(t *testing.T, b *vecenv.Batch, cfg vecenv.Config) *vecenv.Batch {
	other := newBatch(t, cfg)
	cut := b.Envs() / 3
	for _, part := range [][2]int{{0, cut}, {cut, b.Envs()}} {
		s, err := b.Snapshot(nil, part[0], part[1])
		require.NoError(t, err)
		require.NoError(t, other.Restore(s, part[0]))
	}
	b.Close()
	return other
}

// forked carries all environments to a new batch by forks.
func forked(t *testing.T, b *vecenv.Batch, cfg vecenv.Config) *vecenv.Batch {
	other := newBatch(t, cfg)
	for i := range b.Envs() {
		require.NoError(t, b.Fork(i, other, i))
	}
	b.Close()
	return other
}
