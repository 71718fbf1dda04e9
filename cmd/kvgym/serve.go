package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/kvgym/kvgym/export"
	"github.com/kvgym/kvgym/export/shm"
	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/vecenv"
	"github.com/spf13/cobra"
)

type serveFlags struct {
	env       envFlags
	name      string
	envs      int
	clients   int
	blocks    int
	idle      time.Duration
	autoreset string
	truncate  bool
	outputs   []string
	obsDType  string
	obsOrder  string
	stores    string
	pin       bool
	json      bool
	quiet     bool
}

func newServeCmd() *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve environments to trainers in other processes, through shared memory",
		Long: `serve makes environments and steps them for trainers in other processes of the same user, which see the tensors without a copy:
in Python env = kvgym.connect(NAME), which has the methods of kvgym.Batch. The environments are split into --clients equal ranges, of
which each is served to one trainer at a time, and is fresh for every one.

It runs until it is interrupted (exit status 130) or gets SIGTERM (exit status 0). A trainer that ends or is killed frees its range, and
the others go on. With --json, one document is printed once trainers can connect. docs/shared-memory.md describes the protocol. Linux only.`,
		Example: "  kvgym serve --name train --envs 4096\n" +
			"  kvgym serve --name train --envs 4096 --clients 2 --profile serving --json\n" +
			"  python -c 'import kvgym; env = kvgym.connect(\"train\"); print(env.reset().obs.shape)'",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runServe(cmd, &f) },
	}
	fl := cmd.Flags()
	fl.StringVar(&f.name, "name", "", "name that trainers connect to: 1 to 64 letters, digits, dots, dashes and underscores (required)")
	fl.IntVar(&f.envs, "envs", 1024, fmt.Sprintf("environments of all trainers together, 1 to %d", vecenv.MaxEnvs))
	fl.IntVar(&f.clients, "clients", 1, fmt.Sprintf("ranges, one for each trainer, 1 to --envs and to %d", shm.MaxClients))
	fl.IntVar(&f.blocks, "blocks", shm.DefaultBlocks, fmt.Sprintf("sets of tensors of a range that take turns: results stay for that many steps less one, 1 to %d", shm.MaxBlocks))
	fl.DurationVar(&f.idle, "idle", shm.DefaultIdle, "how long a trainer may hold a range without a call, such as 90s or 2h")
	fl.StringVar(&f.autoreset, "autoreset", "next-step", "when episodes end: next-step, same-step or disabled")
	fl.BoolVar(&f.truncate, "truncate", false, "report the last step of an episode as truncated instead of terminated")
	fl.StringSliceVar(&f.outputs, "outputs", []string{"obs", "mask"}, "tensors that are written beside reward and flags: obs, mask, components, metrics, or none")
	fl.StringVar(&f.obsDType, "obs-dtype", "float32", "observations: float32 or uint8")
	fl.StringVar(&f.obsOrder, "obs-order", "slot-major", "values of an observation: slot-major or feature-major")
	fl.StringVar(&f.stores, "stores", "auto", "how observations are stored: auto, plain or stream")
	fl.BoolVar(&f.pin, "pin", false, "bind threads to processors; with one client only")
	f.env.register(cmd)
	f.env.registerWorkers(cmd, "threads of all ranges together, each of which has one at least; 0 means all cores")
	fl.BoolVar(&f.json, "json", false, "print one JSON document on standard output once trainers can connect")
	fl.BoolVar(&f.quiet, "quiet", false, "no messages")
	return cmd
}

func (f *serveFlags) check() error {
	if err := shm.CheckName(f.name); err != nil {
		return usage("--name", quote(f.name), "1 to 64 letters, digits, dots, dashes and underscores, no dot first")
	}
	for _, r := range []struct {
		flag      string
		v, lo, hi int
	}{{"--envs", f.envs, 1, vecenv.MaxEnvs}, {"--clients", f.clients, 1, min(f.envs, shm.MaxClients)}, {"--blocks", f.blocks, 1, shm.MaxBlocks}} {
		if r.v < r.lo || r.v > r.hi {
			return usage(r.flag, r.v, fmt.Sprintf("%d to %d", r.lo, r.hi))
		}
	}
	if f.pin && f.clients > 1 {
		return usage("--pin", fmt.Sprintf("with --clients %d", f.clients), "with one client")
	}
	if f.idle <= 0 {
		return usage("--idle", f.idle, "more than 0, such as 90s or 2h")
	}
	for _, w := range []struct{ flag, word, allowed string }{{"--autoreset", f.autoreset, "next-step, same-step, disabled"},
		{"--obs-dtype", f.obsDType, "float32, uint8"}, {"--obs-order", f.obsOrder, "slot-major, feature-major"}, {"--stores", f.stores, "auto, plain, stream"}} {
		if !slices.Contains(strings.Split(w.allowed, ", "), w.word) {
			return usage(w.flag, quote(w.word), w.allowed)
		}
	}
	if len(f.outputs) == 1 && f.outputs[0] == "none" {
		f.outputs = []string{}
	}
	for _, o := range f.outputs {
		if !slices.Contains([]string{"obs", "mask", "components", "metrics"}, o) {
			return usage("--outputs", quote(o), "obs, mask, components, metrics, or none alone")
		}
	}
	return f.env.check()
}

// spec is what the flags ask for; they have been checked.
func (f *serveFlags) spec() export.Spec {
	e := &f.env
	s := export.Spec{Envs: f.envs, Slots: e.slots, Steps: e.steps, MaxWait: e.maxWait, Seed: e.seed, Profile: e.profile, Difficulty: e.difficulty,
		Autoreset: f.autoreset, Truncate: f.truncate, Outputs: f.outputs, ObsDType: f.obsDType, ObsOrder: f.obsOrder, Stores: f.stores,
		Workers: e.workers, Pin: f.pin}
	if e.serving() {
		s.Preset = e.preset
	}
	if t := &e.trace; t.path != "" {
		s.Trace = &export.Trace{Path: t.path, Format: t.format, SkipBadLines: t.skipBadLines, StepMillis: t.stepMillis, DecodeRate: t.decodeRate,
			Sample: t.sample, Loop: t.loop}
	}
	return s
}

func runServe(cmd *cobra.Command, f *serveFlags) error {
	if err := f.check(); err != nil {
		return err
	}
	if err := kernels.Use(f.env.level); err != nil {
		return err
	}
	say := func(text string) {
		if !f.quiet {
			fmt.Fprintf(cmd.ErrOrStderr(), "kvgym serve: %s: %s\n", f.name, oneLine(text))
		}
	}
	var failed error
	err := shm.Serve(cmd.Context(), shm.Config{Name: f.name, Spec: f.spec(), Clients: f.clients, Blocks: f.blocks, Idle: f.idle, Log: say,
		Ready: func(i shm.Info) {
			say(fmt.Sprintf("ready: %d environments in %d ranges of %d workers, layout %s, at %s", i.Envs, len(i.Ranges), i.Workers, i.Layout, i.Socket))
			if f.json {
				failed = json.NewEncoder(cmd.OutOrStdout()).Encode(i)
			}
		}})
	if failed != nil {
		return failed
	}
	return ending(err)
}

// ending is how a server's end counts: SIGTERM is how one is stopped, an interrupt is one.
func ending(err error) error {
	switch {
	case !errors.Is(err, context.Canceled):
		return err
	case strings.HasPrefix(err.Error(), syscall.SIGTERM.String()): // the cause that a signal leaves
		return nil
	}
	return context.Canceled
}
