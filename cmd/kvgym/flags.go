package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/policy"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/trace"
	"github.com/kvgym/kvgym/vecenv"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// envFlags are the flags that describe environments; they mean the same in every command that has them.
type envFlags struct {
	set        func(flag string) bool // was the flag given?
	seed       uint64
	difficulty string
	profile    string
	preset     string
	simd       string
	steps      int
	slots      int
	workers    int
	maxWait    int
	trace      traceFlags

	// Once checked.
	level  kernels.Level
	server kv.Preset // of the serving profile
}

// traceFlags choose real traffic instead of synthetic.
type traceFlags struct {
	path         string
	format       string
	skipBadLines bool
	stepMillis   int
	decodeRate   int
	sample       int
	loop         string
}

func (f *envFlags) register(cmd *cobra.Command) {
	fl := cmd.Flags()
	f.set = fl.Changed
	fl.Uint64Var(&f.seed, "seed", 42, "seed of all random streams")
	fl.StringVar(&f.difficulty, "difficulty", "all", "easy, medium, hard, or all (each episode drawn from the three)")
	fl.StringVar(&f.profile, "profile", "seed", "rules and rewards: seed, or serving (actions at the prices of a real engine)")
	fl.StringVar(&f.preset, "preset", vecenv.DefaultPreset, "server of --profile serving: "+strings.Join(presetNames(), ", ")+", or a .toml or .json file")
	registerSIMD(fl, &f.simd)
	fl.IntVar(&f.steps, "steps", 15, "steps an episode, 1 to 4096")
	fl.IntVar(&f.slots, "slots", 64, "sequences an environment can hold, a multiple of 16 from 16 to 256")
	fl.IntVar(&f.maxWait, "max-wait", 5, "steps a request waits before it fails, 1 to 4096")
	f.trace.register(cmd)
}

// registerWorkers adds the flag of commands that step many environments at a time.
func (f *envFlags) registerWorkers(cmd *cobra.Command, about string) {
	cmd.Flags().IntVar(&f.workers, "workers", 0, about)
}

func (f *traceFlags) register(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.path, "trace", "", "replay windows of this trace file instead of synthetic traffic (gzip and zstd are read as they are)")
	fl.StringVar(&f.format, "trace-format", "auto", "auto, mooncake, dynamo, bailian, azure, burstgpt or vidur")
	fl.BoolVar(&f.skipBadLines, "skip-bad-lines", false, "count and report bad lines of the trace instead of failing")
	fl.IntVar(&f.stepMillis, "trace-step-ms", 1000, "length of a step in the trace's time, milliseconds; --profile serving has that of its preset if none is given")
	fl.IntVar(&f.decodeRate, "trace-decode-rate", 30, "tokens a sequence generates a second")
	fl.IntVar(&f.sample, "trace-sample", 0, "sessions kept, of 1000; 0 chooses so that half the slots are busy on average")
	fl.StringVar(&f.loop, "trace-loop", "open", "a session's next turn comes at its timestamp (open) or its think time after the last one's end (closed, --profile serving)")
}

// check validates what the library would only find later, and names flags.
func (f *envFlags) check() error {
	if _, err := vecenv.ParseProfile(f.profile); err != nil {
		return usage("--profile", f.profile, "seed, serving")
	}
	var err error
	if f.level, err = simdLevel(f.simd); err != nil {
		return err
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
	if err := f.checkTrace(); err != nil {
		return err
	}
	return f.checkPreset()
}

// startLevel is what the variable KVGYM_SIMD asks for, else the best of the machine.
var startLevel = kernels.Active()

func registerSIMD(fl *pflag.FlagSet, value *string) {
	fl.StringVar(value, "simd", "auto", "SIMD level: generic, avx2 or avx512; auto is the variable "+kernels.SIMDVariable+", else the machine's best")
}

// simdLevel is the level that --simd asks for. Commands that step use it before they begin.
func simdLevel(name string) (kernels.Level, error) {
	if err := kernels.Problem(); err != nil {
		return 0, usageError{err}
	}
	if name == "auto" {
		return startLevel, nil
	}
	level, err := kernels.Parse(name)
	if err != nil || name == "" { // which Parse takes for auto
		return 0, usage("--simd", name, "auto, "+kernels.Names(kernels.Levels())+" on this machine")
	}
	return level, nil
}

func (f *envFlags) checkTrace() error {
	if f.trace.loop != "open" && f.trace.loop != "closed" {
		return usage("--trace-loop", f.trace.loop, "open, closed")
	}
	if f.trace.path != "" {
		if f.trace.loop == "closed" && !f.serving() {
			return usage("--trace-loop", "closed without --profile serving", "open, or closed together with it")
		}
		return readable("--trace", f.trace.path)
	}
	for _, name := range []string{"trace-format", "skip-bad-lines", "trace-step-ms", "trace-decode-rate", "trace-sample", "trace-loop"} {
		if f.set(name) {
			return usage("--"+name, "no --trace", "together with --trace FILE")
		}
	}
	return nil
}

// checkPreset finds the server. Its step is that of the trace, whichever of them is given.
func (f *envFlags) checkPreset() (err error) {
	if !f.serving() {
		if f.set("preset") {
			return usage("--preset", "no --profile serving", "together with --profile serving")
		}
		return nil
	}
	if f.server, err = findPreset(f.preset); err != nil {
		return err
	}
	if f.set("trace-step-ms") {
		f.server.StepMillis = int64(f.trace.stepMillis)
	}
	f.trace.stepMillis = int(f.server.StepMillis)
	return nil
}

// findPreset is the preset that --preset names, or that its file holds.
func findPreset(name string) (kv.Preset, error) {
	file := scenario.IsPresetFile(name)
	if info, err := os.Stat(name); file && (err != nil || info.IsDir()) {
		return kv.Preset{}, readable("--preset", name)
	}
	p, err := scenario.FindPreset(name)
	if err != nil && !file {
		return p, usageError{errors.New("--" + err.Error())}
	}
	return p, err
}

func presetNames() (names []string) {
	for _, p := range kv.Presets() {
		names = append(names, p.Name)
	}
	return names
}

// serving tells whether the environments have the serving profile.
func (f *envFlags) serving() bool { return f.profile == vecenv.Serving.String() }

// rules are the profile and the preset, which is empty in the seed profile.
func (f *envFlags) rules() (vecenv.Profile, kv.Preset) {
	if f.serving() {
		return vecenv.Serving, f.server
	}
	return vecenv.Seed, kv.Preset{}
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

// source makes what arrives, for one difficulty.
func (f *envFlags) source(ctx context.Context, d scenario.Difficulty) (scenario.Source, error) {
	switch {
	case f.trace.path == "" && f.serving():
		return scenario.NewAgents(f.slots, f.steps, d, f.server)
	case f.trace.path == "":
		return scenario.NewSynthetic(f.slots, f.steps, d)
	}
	c, err := f.traffic()
	if err != nil {
		return nil, err
	}
	c.Slots, c.Steps, c.Difficulty = f.slots, f.steps, d
	return scenario.LoadTrafficContext(ctx, c)
}

// traffic says how the trace becomes episodes, of whatever shape and difficulty.
func (f *envFlags) traffic() (scenario.TrafficConfig, error) {
	t := &f.trace
	format, err := trace.ParseFormat(t.format)
	c := scenario.TrafficConfig{Path: t.path, Format: format, SkipBadLines: t.skipBadLines, StepMillis: t.stepMillis, DecodeRate: t.decodeRate,
		SampleMillis: t.sample, Closed: t.loop == "closed"}
	if f.serving() {
		c.Serving = &f.server
	}
	return c, err
}

// checkPolicies validates a list of names of policies for so many slots.
func checkPolicies(names []string, slots int) error {
	if len(names) == 0 {
		return usage("--policy", "none given", "one or more policy names")
	}
	seen := map[string]bool{}
	for i, n := range names {
		n = strings.TrimSpace(n) // people write "noop, greedy"
		names[i] = n
		if _, err := policy.NewFor(n, slots); err != nil {
			return usageError{errors.New("--" + err.Error())}
		}
		if seen[n] {
			return usage("--policy", n, "each name once")
		}
		seen[n] = true
	}
	return nil
}
