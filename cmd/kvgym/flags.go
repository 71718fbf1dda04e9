package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"

	"github.com/kvgym/kvgym/policy"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/trace"
	"github.com/kvgym/kvgym/vecenv"
	"github.com/spf13/cobra"
)

// envFlags are the flags that describe environments; they mean the same in every command that has them.
type envFlags struct {
	set        func(flag string) bool // was the flag given?
	seed       uint64
	difficulty string
	profile    string
	simd       string
	steps      int
	slots      int
	workers    int
	maxWait    int
	trace      traceFlags
}

// traceFlags choose real traffic instead of synthetic.
type traceFlags struct {
	path         string
	format       string
	skipBadLines bool
	stepMillis   int
	decodeRate   int
	sample       int
}

func (f *envFlags) register(cmd *cobra.Command) {
	fl := cmd.Flags()
	f.set = fl.Changed
	fl.Uint64Var(&f.seed, "seed", 42, "seed of all random streams")
	fl.StringVar(&f.difficulty, "difficulty", "all", "easy, medium, hard, or all (each episode drawn from the three)")
	fl.StringVar(&f.profile, "profile", "seed", "rules and rewards: seed")
	fl.StringVar(&f.simd, "simd", "auto", "SIMD level: auto or generic")
	fl.IntVar(&f.steps, "steps", 15, "steps an episode, 1 to 4096")
	fl.IntVar(&f.slots, "slots", 64, "sequences an environment can hold, a multiple of 16 from 16 to 256")
	fl.IntVar(&f.workers, "workers", 0, "threads; 0 means all cores")
	fl.IntVar(&f.maxWait, "max-wait", 5, "steps a request waits before it fails, 1 to 4096")
	f.trace.register(cmd)
}

func (f *traceFlags) register(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.path, "trace", "", "replay windows of this trace file instead of synthetic traffic (gzip and zstd are read as they are)")
	fl.StringVar(&f.format, "trace-format", "auto", "auto, mooncake, dynamo, bailian, azure, burstgpt or vidur")
	fl.BoolVar(&f.skipBadLines, "skip-bad-lines", false, "count and report bad lines of the trace instead of failing")
	fl.IntVar(&f.stepMillis, "trace-step-ms", 1000, "length of a step in the trace's time, milliseconds")
	fl.IntVar(&f.decodeRate, "trace-decode-rate", 30, "tokens a sequence generates a second")
	fl.IntVar(&f.sample, "trace-sample", 0, "sessions kept, of 1000; 0 chooses so that half the slots are busy on average")
}

// check validates what the library would only find later, and names flags.
func (f *envFlags) check() error {
	if _, err := vecenv.ParseProfile(f.profile); err != nil {
		return usage("--profile", f.profile, "seed")
	}
	if f.simd != "auto" && f.simd != "generic" {
		return usage("--simd", f.simd, "auto, generic (this build has no other level)")
	}
	if _, err := scenario.ParseDifficulty(f.difficulty); err != nil {
		return usage("--difficulty", f.difficulty, "easy, medium, hard, all")
	}
	if f.slots < 16 || f.slots > 256 || f.slots%16 != 0 {
		return usage("--slots", f.slots, "a multiple of 16 from 16 to 256")
	}
	for _, r := range []struct {
		flag      string
		v, lo, hi int
	}{{"--steps", f.steps, 1, 4096}, {"--workers", f.workers, 0, 1024}, {"--max-wait", f.maxWait, 1, 4096},
		{"--trace-step-ms", f.trace.stepMillis, 1, 3_600_000}, {"--trace-decode-rate", f.trace.decodeRate, 1, 10_000}, {"--trace-sample", f.trace.sample, 0, 1000}} {
		if r.v < r.lo || r.v > r.hi {
			return usage(r.flag, r.v, fmt.Sprintf("%d to %d", r.lo, r.hi))
		}
	}
	if _, err := trace.ParseFormat(f.trace.format); err != nil {
		return usage("--trace-format", f.trace.format, "auto, mooncake, dynamo, bailian, azure, burstgpt, vidur")
	}
	if f.trace.path != "" {
		return readable("--trace", f.trace.path)
	}
	for _, name := range []string{"trace-format", "skip-bad-lines", "trace-step-ms", "trace-decode-rate", "trace-sample"} {
		if f.set(name) {
			return usage("--"+name, "no --trace", "together with --trace FILE")
		}
	}
	return nil
}

// readable tells whether a file that a command line names can be read; what names the flag or argument.
func readable(what, path string) error {
	f, err := os.Open(path)
	if err == nil {
		defer f.Close()
		var info os.FileInfo
		if info, err = f.Stat(); err == nil && info.IsDir() {
			err = errors.New("is a folder")
		}
	}
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	if err != nil {
		return fmt.Errorf("%s: %s: %w: allowed a file that can be read", what, path, err)
	}
	return nil
}

func (f *envFlags) threads() int {
	if f.workers == 0 {
		return runtime.GOMAXPROCS(0)
	}
	return f.workers
}

// source makes what arrives, for one difficulty.
func (f *envFlags) source(ctx context.Context, d scenario.Difficulty) (scenario.Source, error) {
	if f.trace.path == "" {
		return scenario.NewSynthetic(f.slots, f.steps, d)
	}
	format, err := trace.ParseFormat(f.trace.format)
	if err != nil {
		return nil, err
	}
	return scenario.LoadTrafficContext(ctx, scenario.TrafficConfig{Path: f.trace.path, Format: format, SkipBadLines: f.trace.skipBadLines, Slots: f.slots,
		Steps: f.steps, Difficulty: d, StepMillis: f.trace.stepMillis, DecodeRate: f.trace.decodeRate, SampleMillis: f.trace.sample})
}

// checkPolicies validates a list of policy names.
func checkPolicies(names []string) error {
	if len(names) == 0 {
		return usage("--policy", "none given", "one or more policy names")
	}
	seen := map[string]bool{}
	for i, n := range names {
		n = strings.TrimSpace(n) // people write "noop, greedy"
		names[i] = n
		if _, err := policy.New(n); err != nil {
			return usageError{errors.New("--" + err.Error())}
		}
		if seen[n] {
			return usage("--policy", n, "each name once")
		}
		seen[n] = true
	}
	return nil
}
