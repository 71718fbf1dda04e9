package shm

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/kvgym/kvgym/export"
	"github.com/kvgym/kvgym/vecenv"
)

// What a step costs in this process, with one worker and ops that keep everything: what BenchmarkClient and python/tests/shm_rate.py compare with.
func BenchmarkInProcess(b *testing.B) {
	for _, envs := range []int{1, 4096} {
		b.Run(fmt.Sprintf("envs=%d", envs), func(b *testing.B) {
			batch := newTwin(b, export.Spec{Envs: envs, Seed: 42, Outputs: []string{"obs", "mask"}}, 0, envs)
			must(b, batch.Reset(vecenv.ResetOptions{}))
			a := vecenv.Actions{Ops: make([]uint8, envs*64)}
			measure(b, envs, func() error { return batch.Step(a) })
		})
	}
}

// The same through shared memory, client and server in one process.
func BenchmarkClient(b *testing.B) {
	for _, envs := range []int{1, 4096} {
		b.Run(fmt.Sprintf("envs=%d", envs), func(b *testing.B) {
			s := start(b, Config{Spec: export.Spec{Envs: envs, Seed: 42, Outputs: []string{"obs", "mask"}, Workers: 1}})
			c := s.dial(b, Dialing{})
			must(b, c.Reset(nil, nil))
			measure(b, envs, c.Step)
		})
	}
}

func must(b testing.TB, err error) {
	if err != nil {
		b.Fatal(err)
	}
}

// measure steps, and reports the rate and quantiles of a step's time: the lower ones tell what a step costs where others use the machine, too.
func measure(b *testing.B, envs int, step func() error) {
	var took []float64
	for b.Loop() {
		begin := time.Now()
		must(b, step())
		took = append(took, float64(time.Since(begin).Nanoseconds()))
	}
	slices.Sort(took)
	b.ReportMetric(float64(b.N)*float64(envs)/b.Elapsed().Seconds(), "env-steps/s")
	b.ReportMetric(took[len(took)/10], "p10-ns")
	b.ReportMetric(took[len(took)/2], "p50-ns")
}
