package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"time"

	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/vecenv"
)

// turn is what a contestant did when it was its turn.
type turn struct {
	rate float64       // environment steps a second; of stores, bytes a second
	took time.Duration // of what was timed
}

// kvgymName is the contestant that has no name as a rival.
const kvgymName = "kvgym"

// contestant is what has turns: a batch, a buffer that is filled, one or more processes.
type contestant struct {
	name    string // kvgymName, or as in Ratio.Against
	profile vecenv.Profile
	envs    int
	workers int           // threads, or processes
	batches int           // of kvgym, that share the environments and the threads
	obs     string        // "" of another game
	level   kernels.Level // in its turns
	stores  *contestant   // of as many threads and bytes; nil: no observations

	// open makes it ready, checks what it steps, and sets what follows.
	open     func(ctx context.Context) error
	take     func(ctx context.Context, cycles int) (turn, error)
	close    func()
	settings string // of a rival that has some
	checked  bool   // gives the same bits as kvgym
	stream   bool   // observations pass the caches by

	cycles int       // of a turn
	rates  []float64 // of each round
	allocs []float64 // in each round, a cycle
}

// pair is a ratio to be.
type pair struct {
	ours, against *contestant
	name          string // of the ratio's other side
}

// comparison is what runs in the same rounds.
type comparison struct {
	contestants []*contestant
	pairs       []pair
}

func (c *comparison) add(x *contestant) *contestant {
	c.contestants = append(c.contestants, x)
	return x
}

func (c *comparison) compare(ours, against *contestant, name string) {
	c.pairs = append(c.pairs, pair{ours, against, name})
}

// turns is how many calls of Progress a comparison makes: a warm-up and the rounds of each contestant.
func (c *comparison) turns(rounds int) int64 { return int64(len(c.contestants)) * int64(rounds+1) }

// measure opens the contestants, lets them have their turns, and closes them.
func (r *run) measure(ctx context.Context, c *comparison) error {
	defer func() {
		for _, x := range c.contestants {
			if x.close != nil {
				x.close()
			}
			x.open, x.take, x.close = nil, nil, nil // they hold memory
		}
		r.closeScenes()
	}()
	for _, x := range c.contestants {
		err := kernels.Use(x.level)
		if err == nil {
			err = x.open(ctx)
		}
		if err != nil {
			return r.failed(ctx, x, err)
		}
	}
	runtime.GC() // what the preparation left must not be collected in a turn
	for _, x := range c.contestants {
		if err := r.warmUp(ctx, x); err != nil {
			return r.failed(ctx, x, err)
		}
		r.step()
	}
	order := slices.Clone(c.contestants)
	for range r.cfg.Rounds {
		for _, x := range order {
			t, allocs, err := x.turn(ctx, x.cycles)
			if err != nil {
				return r.failed(ctx, x, err)
			}
			x.rates = append(x.rates, t.rate)
			x.allocs = append(x.allocs, allocs)
			r.step()
		}
		slices.Reverse(order)
	}
	return nil
}

// warmUp lets a contestant run for a good part of a turn, and finds how many cycles make a turn.
func (r *run) warmUp(ctx context.Context, x *contestant) error {
	if _, _, err := x.turn(ctx, 1); err != nil { // touches memory for the first time
		return err
	}
	for cycles := 1; ; cycles *= 2 {
		t, _, err := x.turn(ctx, cycles)
		if err != nil {
			return err
		}
		if t.took >= r.cfg.Turn/4 {
			x.cycles = max(1, int(math.Round(float64(cycles)*float64(r.cfg.Turn)/float64(t.took))))
			return nil
		}
	}
}

// turn is one turn, and the heap allocations of the whole process in it, a cycle.
func (x *contestant) turn(ctx context.Context, cycles int) (t turn, allocs float64, err error) {
	if err := ctx.Err(); err != nil {
		return t, 0, err
	}
	if err := kernels.Use(x.level); err != nil {
		return t, 0, err
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	t, err = x.take(ctx, cycles)
	runtime.ReadMemStats(&after)
	if err == nil && (t.took <= 0 || t.rate <= 0) {
		err = fmt.Errorf("%d cycles took %s: allowed more than nothing", cycles, t.took)
	}
	return t, float64(after.Mallocs-before.Mallocs) / float64(cycles), err
}

// interruptDelay is how long an interruption may come after the death of a rival that it has killed, too.
const interruptDelay = 100 * time.Millisecond

// failed names the contestant, unless the reason is an interruption.
func (r *run) failed(ctx context.Context, x *contestant, err error) error {
	if x.name != kvgymName && !errors.Is(err, context.Canceled) {
		// Ctrl-C on a terminal reaches the rival, too, and its death may be seen first.
		select {
		case <-ctx.Done():
		case <-time.After(interruptDelay):
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if x.obs == "" { // another game
		return fmt.Errorf("bench: %s: %w", x.name, err)
	}
	return fmt.Errorf("bench: %s: profile=%s/envs=%d: %w", x.name, x.profile, x.envs, err)
}

// trials is how many turns of each setting decide which one is the best.
const trials = 3

// openBest tries settings of a contestant, which open makes ready, and lets it be the fastest of them. What open returns is closed even after
// an error.
func openBest[S any](ctx context.Context, r *run, x *contestant, settings []S, open func(S) (*contestant, error)) error {
	best := 0.0
	for _, s := range settings {
		c, err := open(s)
		rate := 0.0
		if err == nil {
			rate, err = r.try(ctx, c)
		}
		if err != nil {
			c.close()
			return fmt.Errorf("%v: %w", s, err)
		}
		if rate <= best {
			c.close()
			continue
		}
		if x.close != nil {
			x.close()
		}
		best, x.take, x.close, x.settings, x.envs, x.workers = rate, c.take, c.close, c.settings, c.envs, c.workers
	}
	return nil
}

// try is the median rate of a few turns.
func (r *run) try(ctx context.Context, c *contestant) (float64, error) {
	if err := r.warmUp(ctx, c); err != nil {
		return 0, err
	}
	var rates []float64
	for range trials {
		t, _, err := c.turn(ctx, c.cycles)
		if err != nil {
			return 0, err
		}
		rates = append(rates, t.rate)
	}
	return spreadOf(rates).median, nil
}
