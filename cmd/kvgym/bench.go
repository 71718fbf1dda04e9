package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/kvgym/kvgym/bench"
	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/vecenv"
	"github.com/spf13/cobra"
)

type benchFlags struct {
	envs    []int
	slots   int
	workers int
	seed    uint64
	simd    string
	rounds  int
	seconds float64
	rivals  bool
	json    bool
	quiet   bool

	level kernels.Level // once checked
}

func newBenchCmd() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure env-steps a second, against itself and against rivals",
		Long: `bench steps batches in the middle of staggered episodes, with valid operations that were drawn before the clock runs, and
prints env-steps a second, time, bytes of observations and allocations, and ratios: to one worker, and to the memory's limit for
non-temporal stores. What is compared runs in turns, --rounds times --seconds each; a ratio is computed in every round, and its
median, least and greatest are printed. Let nothing else run meanwhile.

With --rivals, other implementations are measured in the same rounds, after a check that those of the same rules give the same bits:

  c-aos-1, c-aos-2, c-tuned-1      the rules in C, a struct an environment: one process, two, and one of tuned code (needs gcc, or CC)
  gymnasium-sync, gymnasium-async  the rules in Python with numpy under Gymnasium's vector environments; of kvgym one batch, and a batch a worker
  envpool-cartpole, gymnasium-cartpole-vector   CartPole, a far smaller game
  generic                          kvgym without SIMD

Those in Python need the packages that make bench-venv installs into .venv-bench in the working directory; the variable
KVGYM_BENCH_PYTHON names another interpreter. What is missing is skipped, and said so.`,
		Example: "  kvgym bench --rounds 3\n" +
			"  kvgym bench --envs 1024 --workers 1 --simd generic\n" +
			"  kvgym bench --rivals --json | jq '.ratios[] | [.against, .envs, .workers, .batches, .median]'",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runBench(cmd, &f) },
	}
	fl := cmd.Flags()
	fl.IntSliceVar(&f.envs, "envs", bench.DefaultEnvs(), "numbers of environments, separated by commas, each 1 to 1048576; rivals have at most 4096 unless given")
	fl.IntVar(&f.slots, "slots", 64, "sequences an environment can hold, a multiple of 16 from 16 to 256")
	fl.IntVar(&f.workers, "workers", 0, "threads, beside one; 0 means all cores")
	fl.Uint64Var(&f.seed, "seed", 42, "seed of all random streams")
	registerSIMD(fl, &f.simd)
	fl.IntVar(&f.rounds, "rounds", 7, fmt.Sprintf("rounds of every comparison, 1 to %d", bench.MaxRounds))
	fl.Float64Var(&f.seconds, "seconds", 0.2, "length of a turn in a round, 0.001 to 60 seconds")
	fl.BoolVar(&f.rivals, "rivals", false, "measure other implementations, too")
	fl.BoolVar(&f.json, "json", false, "one JSON document on standard output")
	fl.BoolVar(&f.quiet, "quiet", false, "no progress bar, no messages and no table")
	return cmd
}

func (f *benchFlags) check() error {
	if len(f.envs) == 0 {
		return usage("--envs", "none given", "one or more numbers")
	}
	seen := map[int]bool{}
	for _, n := range f.envs {
		if n < 1 || n > vecenv.MaxEnvs {
			return usage("--envs", n, fmt.Sprintf("1 to %d", vecenv.MaxEnvs))
		}
		if seen[n] {
			return usage("--envs", n, "each number once")
		}
		seen[n] = true
	}
	switch {
	case f.slots < 16 || f.slots > 256 || f.slots%16 != 0:
		return usage("--slots", f.slots, "a multiple of 16 from 16 to 256")
	case f.workers < 0 || f.workers > 1024:
		return usage("--workers", f.workers, "0 to 1024")
	case f.rounds < 1 || f.rounds > bench.MaxRounds:
		return usage("--rounds", f.rounds, fmt.Sprintf("1 to %d", bench.MaxRounds))
	case !(f.seconds >= bench.MinTurn.Seconds() && f.seconds <= bench.MaxTurn.Seconds()): // not a number, too
		return usage("--seconds", strconv.FormatFloat(f.seconds, 'g', -1, 64), fmt.Sprintf("%g to %g", bench.MinTurn.Seconds(), bench.MaxTurn.Seconds()))
	}
	var err error
	f.level, err = simdLevel(f.simd)
	return err
}

// config is what the flags ask for; they have been checked.
func (f *benchFlags) config(given func(flag string) bool) bench.Config {
	v := currentVersion()
	c := bench.Config{Slots: f.slots, Seed: f.seed, Workers: f.workers, Rounds: f.rounds, Turn: time.Duration(f.seconds * float64(time.Second)), Rivals: f.rivals,
		Version: v.Version, Commit: v.Commit}
	if given("envs") {
		c.Envs = f.envs
	}
	return c
}

func runBench(cmd *cobra.Command, f *benchFlags) error {
	if err := f.check(); err != nil {
		return err
	}
	if err := kernels.Use(f.level); err != nil {
		return err
	}
	cfg := f.config(cmd.Flags().Changed)
	bar := newStepBar(cmd.ErrOrStderr(), "turns", f.quiet)
	cfg.Progress = bar.set
	if !f.quiet {
		cfg.Skip = func(s bench.Skipped) {
			fmt.Fprintf(cmd.ErrOrStderr(), "kvgym bench: %s: skipped: %s\n", s.Against, s.Why)
		}
	}
	rep, err := bench.Run(cmd.Context(), cfg)
	bar.finish()
	switch {
	case err != nil:
		return err
	case f.json:
		return json.NewEncoder(cmd.OutOrStdout()).Encode(rep)
	case f.quiet:
		return nil
	}
	_, err = io.WriteString(cmd.OutOrStdout(), rep.Text())
	return err
}
