package bench

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/vecenv"
)

// ours is kvgym itself. check compares its bits with those at the active level.
func (r *run) ours(profile vecenv.Profile, envs, workers int, obs string, level kernels.Level, check bool) *contestant {
	x := &contestant{name: kvgymName, profile: profile, envs: envs, workers: workers, batches: 1, obs: obs, level: level}
	x.open = func(ctx context.Context) error {
		s, err := r.scene(ctx, profile, envs)
		if err != nil {
			return err
		}
		if check {
			if err := r.checkLevel(ctx, s, level); err != nil {
				return err
			}
			x.checked = true
		}
		b, err := s.batch(workers, func(c *vecenv.Config) { setObs(c, obs) })
		if err != nil {
			return err
		}
		x.close = b.Close
		x.stream = b.Streams() && level != kernels.Generic
		x.take = func(ctx context.Context, cycles int) (turn, error) { return s.take(ctx, b, 0, cycles) }
		return nil
	}
	return x
}

// apartEnvs are the numbers of environments of a batch that are tried for apart: few enough for a core's cache.
var apartEnvs = []int{64, 128, 256}

// apart is kvgym as a batch for each worker, which step on without waiting for each other, at the number of environments that was best when
// it was opened.
func (r *run) apart(obs string) *contestant {
	x := &contestant{name: kvgymName, profile: vecenv.Seed, workers: r.cfg.Workers, batches: r.cfg.Workers, obs: obs, level: r.level}
	x.open = func(ctx context.Context) error {
		return openBest(ctx, r, x, apartEnvs, func(envs int) (*contestant, error) { return r.apartWith(ctx, envs, obs) })
	}
	return x
}

// apartWith makes the batches of so many environments each; close must be called even after an error.
func (r *run) apartWith(ctx context.Context, envs int, obs string) (*contestant, error) {
	var bs []*vecenv.Batch
	c := &contestant{envs: envs * r.cfg.Workers, workers: r.cfg.Workers, level: r.level, close: func() {
		for _, b := range bs {
			b.Close()
		}
	}}
	s, err := r.scene(ctx, vecenv.Seed, c.envs)
	if err != nil {
		return c, err
	}
	for range r.cfg.Workers {
		b, err := s.batch(1, func(c *vecenv.Config) {
			setObs(c, obs)
			c.Envs = envs
		})
		if err != nil {
			return c, err
		}
		bs = append(bs, b)
	}
	c.take = func(ctx context.Context, cycles int) (turn, error) {
		return together(bs, func(b *vecenv.Batch) (turn, error) {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			return s.take(ctx, b, envs*slices.Index(bs, b), cycles)
		})
	}
	return c, nil
}

// take steps cycles of the environments from first on, as many as the batch has, and times the steps, but for the first of each.
func (s *scene) take(ctx context.Context, b *vecenv.Batch, first, cycles int) (turn, error) {
	var took time.Duration
	for range cycles {
		if err := ctx.Err(); err != nil {
			return turn{}, err
		}
		if err := s.rewind(b, first); err != nil {
			return turn{}, err
		}
		if err := s.play(b, first, 0, warm); err != nil {
			return turn{}, err
		}
		start := time.Now()
		if err := s.play(b, first, warm, cycle); err != nil {
			return turn{}, err
		}
		took += time.Since(start)
	}
	return turn{rate: float64(cycles*timed*b.Envs()) / took.Seconds(), took: took}, nil
}

// play makes steps [k, end) of a cycle.
func (s *scene) play(b *vecenv.Batch, first, k, end int) error {
	for _, ops := range s.ops[k:end] {
		if err := b.Step(vecenv.Actions{Ops: ops[first*s.config.Slots:][:b.Envs()*s.config.Slots]}); err != nil {
			return err
		}
	}
	return nil
}

// checkLevel tells whether a level gives the bits of the active one.
func (r *run) checkLevel(ctx context.Context, s *scene, level kernels.Level) error {
	if err := kernels.Use(r.level); err != nil {
		return err
	}
	want, err := s.want(ctx, 0, s.config.Envs)
	if err != nil {
		return err
	}
	if err := kernels.Use(level); err != nil {
		return err
	}
	got, err := s.digest(ctx, 0, s.config.Envs)
	if err == nil && got != want {
		err = fmt.Errorf("level %s: digest %016x: allowed %016x, that of level %s", level, got, want, r.level)
	}
	return err
}

// ntStore is the limit that memory sets to writing observations: threads that fill a buffer as large as theirs.
func (r *run) ntStore(profile vecenv.Profile, envs, threads int, obs string) *contestant {
	levels := kernels.Levels()
	x := &contestant{name: "nt-store", profile: profile, envs: envs, workers: threads, obs: obs, level: levels[len(levels)-1]}
	x.open = func(context.Context) error {
		buf := make([]float32, (envs*obsBytes(obs, r.cfg.Slots)+3)/4)
		x.take = func(_ context.Context, cycles int) (turn, error) {
			took := fill(buf, threads, cycles)
			return turn{rate: 4 * float64(len(buf)) * float64(cycles) / took.Seconds(), took: took}, nil
		}
		return nil
	}
	return x
}

// fill stores over a buffer several times. Threads have whole lines each, and do not wait for each other in between.
func fill(buf []float32, threads, times int) time.Duration {
	const line = 16
	lines := len(buf) / line
	part := func(k int) []float32 {
		end := lines * (k + 1) / threads * line
		if k == threads-1 {
			end = len(buf)
		}
		return buf[lines*k/threads*line : end]
	}
	work := func(k int) {
		for range times {
			kernels.Fill(part(k), 1, true)
		}
		kernels.Fence()
	}
	var wg sync.WaitGroup
	start := time.Now()
	for k := range threads - 1 {
		wg.Go(func() { work(k) })
	}
	work(threads - 1)
	wg.Wait()
	return time.Since(start)
}
