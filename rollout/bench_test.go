package rollout

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"testing"

	"github.com/kvgym/kvgym/scenario"
)

// BenchmarkRollout plays shards of hard episodes on one worker: in memory only (the policy and the steps), and with rows
// recorded and written as Parquet, to a sink that costs nothing, with and without observations.
func BenchmarkRollout(b *testing.B) {
	for _, name := range []string{"noop", "random", "greedy"} {
		for _, sink := range []string{"memory", "parquet"} {
			for _, obs := range []Obs{ObsNone, ObsF32, ObsU8} {
				b.Run(fmt.Sprintf("policy=%s/sink=%s/obs=%s/workers=1", name, sink, obs), func(b *testing.B) { benchmarkShard(b, name, sink, obs) })
			}
		}
	}
}

func benchmarkShard(b *testing.B, name, sink string, obs Obs) {
	cfg := Config{Out: "unused", Episodes: 1 << 20, Policies: []string{name}, Difficulties: []scenario.Difficulty{scenario.Hard}, Obs: obs}
	if err := cfg.fill(); err != nil {
		b.Fatal(err)
	}
	sources, err := cfg.sources(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	var stop atomic.Bool
	w := worker{player: player{cfg: &cfg, envs: 256, stop: &stop, done: func(int64) {}}}
	defer w.player.close()
	w.rec.plan = newPlan(&cfg, sources)
	steps := int64(0)
	for i := int64(0); b.Loop(); i++ {
		s := w.rec.plan.shard(i)
		if err := w.benchmark(s, sink); err != nil {
			b.Fatal(err)
		}
		steps += s.n * int64(cfg.Steps)
	}
	b.ReportMetric(float64(steps)/b.Elapsed().Seconds(), "env-steps/s")
}

func (w *worker) benchmark(s shard, sink string) error {
	if sink == "memory" {
		return w.player.play(s, nil)
	}
	w.rec.start(s)
	if err := w.player.play(s, &w.rec); err != nil {
		return err
	}
	steps, episodes := w.rec.tables()
	if err := w.write(io.Discard, steps, int(s.n)*w.rec.plan.steps, nil); err != nil {
		return err
	}
	return w.write(io.Discard, episodes, int(s.n), nil)
}
