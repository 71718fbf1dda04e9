package bench

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/kvgym/kvgym/bench/rivals"
	"github.com/kvgym/kvgym/vecenv"
)

// Bounds of a Config, for those who check before they call.
const (
	MaxRounds = 1000
	MinTurn   = time.Millisecond
	MaxTurn   = time.Minute
)

// Config says what to measure, and for how long. The zero value of a field means its default, but for Seed.
type Config struct {
	Envs    []int         // numbers of environments, different ones; each 1 to 1,048,576; default 64, 1024, 4096, 16384
	Slots   int           // sequences an environment can hold; a multiple of 16 from 16 to 256; default 64
	Seed    uint64        // of episodes and operations; any value
	Workers int           // threads of the batches that do not have one; at most 1,024; default all cores
	Rounds  int           // in which every contestant has its turn; 1 to 1,000; default 7
	Turn    time.Duration // how long a contestant runs in a round, about; 1 ms to 1 minute; default 200 ms

	// Rivals asks for the comparisons with other implementations, which are built or found first. Those that cannot be are Skipped.
	// The default numbers of environments are compared up to 4096, given ones all.
	Rivals bool
	Root   string // directory that holds .venv-bench, the Python rivals' environment; default the working directory

	Version, Commit string // of the program, for the report

	// Progress hears how many turns are done, of how many; nil for nobody. Run calls it between turns, never while one is timed.
	Progress func(done, total int64)
	// Skip hears of every rival that is left out, before anything is measured; nil for nobody.
	Skip func(Skipped)

	rivalEnvs []int
	// How rivals come; tests have their own.
	buildC     func(ctx context.Context, dir string) (string, error)
	findPython func(root string) (string, error)
}

// The numbers of environments of single comparisons, where Config.Envs has them.
const (
	mainEnvs     = 1024 // serving profile, levels
	cartPoleEnvs = 4096
	pythonEnvs   = 16 // a Python environment takes a thousand times as long
)

// DefaultEnvs are the numbers of environments that are measured if none are given.
func DefaultEnvs() []int { return []int{64, 1024, 4096, 16384} }

func (c Config) withDefaults() (Config, error) {
	if c.Envs == nil {
		c.Envs = DefaultEnvs()
		c.rivalEnvs = c.Envs[:3]
	} else {
		c.rivalEnvs = c.Envs
	}
	if c.Slots == 0 {
		c.Slots = 64
	}
	if c.Workers == 0 {
		c.Workers = runtime.GOMAXPROCS(0)
	}
	if c.Rounds == 0 {
		c.Rounds = 7
	}
	if c.Turn == 0 {
		c.Turn = 200 * time.Millisecond
	}
	if c.Root == "" {
		c.Root = "."
	}
	if c.Progress == nil {
		c.Progress = func(_, _ int64) {}
	}
	if c.Skip == nil {
		c.Skip = func(Skipped) {}
	}
	if c.buildC == nil {
		c.buildC = rivals.BuildC
	}
	if c.findPython == nil {
		c.findPython = rivals.FindPython
	}
	return c, c.validate()
}

func (c *Config) validate() error {
	if len(c.Envs) == 0 {
		return fmt.Errorf("bench: Envs: none: allowed at least one number")
	}
	for i, n := range c.Envs {
		if n < 1 || n > vecenv.MaxEnvs {
			return fmt.Errorf("bench: Envs: %d: allowed 1 to %d", n, vecenv.MaxEnvs)
		}
		if slices.Contains(c.Envs[:i], n) {
			return fmt.Errorf("bench: Envs: %d: allowed each number once", n)
		}
	}
	switch {
	case c.Slots < 16 || c.Slots > 256 || c.Slots%16 != 0:
		return fmt.Errorf("bench: Slots: %d: allowed a multiple of 16 from 16 to 256", c.Slots)
	case c.Workers < 1 || c.Workers > 1024:
		return fmt.Errorf("bench: Workers: %d: allowed 1 to 1024", c.Workers)
	case c.Rounds < 1 || c.Rounds > MaxRounds:
		return fmt.Errorf("bench: Rounds: %d: allowed 1 to %d", c.Rounds, MaxRounds)
	case c.Turn < MinTurn || c.Turn > MaxTurn:
		return fmt.Errorf("bench: Turn: %s: allowed %s to %s", c.Turn, MinTurn, MaxTurn)
	}
	return nil
}

// envsNear is n if that many environments are measured, else the last number that is.
func (c *Config) envsNear(n int) int {
	if slices.Contains(c.Envs, n) {
		return n
	}
	return c.Envs[len(c.Envs)-1]
}
