package vecenv_test

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/vecenv"
	"github.com/stretchr/testify/require"
)

// cycle is the number of steps whose operations are prepared: three episodes and their reset steps. The first warm ones belong to rewinding,
// after which the state lies in the caches of the core that did it.
const (
	warm  = 16
	cycle = warm + 32
)

// workload is a batch in the middle of staggered episodes, and valid operations for its next steps, about three an
// environment and step.
type workload struct {
	batch *vecenv.Batch
	start *vecenv.Batch // keeps the state that a cycle starts from
	ops   [cycle][]uint8
	next  int
	began time.Time
	best  time.Duration // of a cycle's steps behind the warm ones: what the machine can do when nothing disturbs it
}

func newWorkload(tb testing.TB, cfg vecenv.Config) *workload {
	prepare := cfg
	prepare.Outputs, prepare.NoObs = vecenv.WithMask, false
	p := newBatch(tb, prepare)
	require.NoError(tb, p.Reset(vecenv.ResetOptions{}))
	stagger(tb, p)
	w := &workload{batch: newBatch(tb, cfg)}
	keep := cfg
	keep.Outputs, keep.NoObs = 0, true
	w.start = newBatch(tb, keep)
	copyState(tb, p, w.start)
	r := rand.New(rand.NewPCG(3, 4))
	for k := range w.ops {
		w.ops[k] = validOps(r, p)
		require.NoError(tb, p.Step(vecenv.Actions{Ops: w.ops[k]}))
	}
	w.rewind(tb)
	return w
}

// stagger leaves every sixteenth of the environments at another step of its episode.
func stagger(tb testing.TB, b *vecenv.Batch) {
	mask := make([]bool, b.Envs())
	for k := range 16 {
		for i := range mask {
			mask[i] = i%16 == k
		}
		require.NoError(tb, b.Reset(vecenv.ResetOptions{Mask: mask}))
		require.NoError(tb, b.Step(vecenv.Actions{}))
	}
}

// validOps draws operations that the mask allows, on one slot of ten.
func validOps(r *rand.Rand, b *vecenv.Batch) []uint8 {
	ops := make([]uint8, len(b.Mask)/4)
	for s := range ops {
		if op := uint8(1 + r.IntN(3)); r.IntN(10) == 0 && b.Mask[4*s+int(op)] != 0 {
			ops[s] = op
		}
	}
	return ops
}

func (w *workload) rewind(tb testing.TB) {
	copyState(tb, w.start, w.batch)
	for _, ops := range w.ops[:warm] {
		require.NoError(tb, w.batch.Step(vecenv.Actions{Ops: ops}))
	}
	w.next = warm
}

func copyState(tb testing.TB, from, to *vecenv.Batch) {
	for i := range from.Envs() {
		require.NoError(tb, from.Fork(i, to, i))
	}
}

// step makes one step of the prepared cycle; rewinding is not timed.
func (w *workload) step(b *testing.B) {
	if w.next == cycle {
		b.StopTimer()
		if took := time.Since(w.began); w.best == 0 || took < w.best {
			w.best = took
		}
		w.rewind(b)
		b.StartTimer()
	}
	if w.next == warm {
		w.began = time.Now()
	}
	if err := w.batch.Step(vecenv.Actions{Ops: w.ops[w.next]}); err != nil {
		b.Fatal(err)
	}
	w.next++
}

// BenchmarkStep is a whole step: operations, dynamics, reward, observation, autoreset.
func BenchmarkStep(b *testing.B) {
	for _, obs := range []string{"f32", "none"} {
		for _, envs := range []int{64, 1024, 4096, 16384} {
			for _, workers := range []int{1, 2} {
				b.Run(fmt.Sprintf("envs=%d/workers=%d/slots=64/obs=%s/simd=%s", envs, workers, obs, kernels.Active()), func(b *testing.B) {
					w := newWorkload(b, vecenv.Config{Envs: envs, Workers: workers, NoObs: obs == "none"})
					b.ReportAllocs()
					b.SetBytes(int64(4 * len(w.batch.Obs)))
					b.ResetTimer()
					for range b.N {
						w.step(b)
					}
					b.ReportMetric(float64(b.N)*float64(envs)/b.Elapsed().Seconds(), "env-steps/s")
					b.ReportMetric(float64(w.best.Nanoseconds())/float64((cycle-warm)*envs), "best-ns/env-step")
				})
			}
		}
	}
}

// BenchmarkObserve writes observations of states that do not change.
func BenchmarkObserve(b *testing.B) {
	w := newWorkload(b, vecenv.Config{Envs: 256, Workers: 1})
	row := make([]float32, vecenv.ObsLen(64))
	b.ResetTimer()
	for i := range b.N {
		w.batch.View(i % 256).Observe(row)
	}
}

// BenchmarkReset starts episodes.
func BenchmarkReset(b *testing.B) {
	batch := newBatch(b, vecenv.Config{Envs: 256, Workers: 1, NoObs: true})
	b.ReportAllocs()
	for range b.N {
		if err := batch.Reset(vecenv.ResetOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/256, "ns/env")
}

// BenchmarkStores is the physical limit that BenchmarkStep's MB/s stand against: the observation tensor of as many
// environments written with the runtime's widest plain stores.
func BenchmarkStores(b *testing.B) {
	for _, envs := range []int{64, 1024, 4096, 16384} {
		for _, workers := range []int{1, 2} {
			b.Run(fmt.Sprintf("envs=%d/workers=%d", envs, workers), func(b *testing.B) {
				tensor := make([]float32, envs*vecenv.ObsLen(64))
				b.SetBytes(int64(4 * len(tensor)))
				var wg sync.WaitGroup
				for k := range workers {
					part := tensor[len(tensor)*k/workers : len(tensor)*(k+1)/workers]
					wg.Go(func() {
						for range b.N {
							clear(part)
						}
					})
				}
				wg.Wait()
			})
		}
	}
}

// BenchmarkProfiles steps a batch of each profile in turn, so that what disturbs the machine disturbs both: the metric
// serving/seed is the ratio of their speeds.
func BenchmarkProfiles(b *testing.B) {
	for _, obs := range []string{"f32", "none"} {
		for _, envs := range []int{64, 1024, 4096} {
			b.Run(fmt.Sprintf("envs=%d/workers=1/slots=64/obs=%s/simd=%s", envs, obs, kernels.Active()), func(b *testing.B) {
				var loads [2]*workload
				for p := range loads {
					loads[p] = newWorkload(b, vecenv.Config{Envs: envs, Workers: 1, NoObs: obs == "none", Profile: vecenv.Profile(p)})
				}
				b.ReportAllocs()
				var took [2]time.Duration
				for range b.N {
					for p, w := range loads {
						if w.next == cycle {
							w.rewind(b)
						}
						start := time.Now()
						w.step(b)
						took[p] += time.Since(start)
					}
				}
				rate := func(p int) float64 { return float64(b.N) * float64(envs) / took[p].Seconds() }
				b.ReportMetric(rate(0), "seed-steps/s")
				b.ReportMetric(rate(1), "serving-steps/s")
				b.ReportMetric(rate(1)/rate(0), "serving/seed")
			})
		}
	}
}

// BenchmarkUnderLoad steps while other processes burn processors: what the pool loses should be what they take.
func BenchmarkUnderLoad(b *testing.B) {
	for _, load := range []int{0, 1, 2} {
		for _, pinned := range []bool{false, true} {
			b.Run(fmt.Sprintf("load=%d/pinned=%t/envs=1024/workers=2/slots=64/obs=f32/simd=%s", load, pinned, kernels.Active()), func(b *testing.B) {
				w := newWorkload(b, vecenv.Config{Envs: 1024, Workers: 2, Pin: pinned && runtime.GOOS == "linux"})
				for range load {
					cmd := exec.Command("sh", "-c", "while :; do :; done")
					if err := cmd.Start(); err != nil {
						b.Skip(err)
					}
					defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
				}
				var worst time.Duration
				b.ResetTimer()
				for range b.N {
					start := time.Now()
					w.step(b)
					worst = max(worst, time.Since(start))
				}
				b.ReportMetric(float64(b.N)*1024/b.Elapsed().Seconds(), "env-steps/s")
				b.ReportMetric(float64(worst.Microseconds()), "worst-us/step")
			})
		}
	}
}

// BenchmarkDispatch is what a step call costs beside the work: the time of a step with w workers less the time with one, shared out.
func BenchmarkDispatch(b *testing.B) {
	for _, envs := range []int{32, 48, 64, 96, 128, 256, 1024} {
		b.Run(fmt.Sprintf("envs=%d/workers=2/slots=64/obs=f32/simd=%s", envs, kernels.Active()), func(b *testing.B) {
			one := newWorkload(b, vecenv.Config{Envs: envs, Workers: 1})
			two := newWorkload(b, vecenv.Config{Envs: envs, Workers: 2})
			var took [2]time.Duration
			for range b.N {
				for i, w := range []*workload{one, two} {
					if w.next == cycle {
						w.rewind(b)
					}
					start := time.Now()
					w.step(b)
					took[i] += time.Since(start)
				}
			}
			ideal := took[0].Seconds() / 2
			b.ReportMetric((took[1].Seconds()-ideal)/float64(b.N)*1e6, "overhead-us/step")
			b.ReportMetric(took[0].Seconds()/took[1].Seconds(), "speed-up")
		})
	}
}
