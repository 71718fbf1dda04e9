package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/policy"
	"github.com/kvgym/kvgym/report"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/vecenv"
	"github.com/spf13/cobra"
)

type inspectFlags struct {
	env     envFlags
	index   uint32
	episode uint32
	actions string
	policy  string
	noObs   bool
}

func newInspectCmd() *cobra.Command {
	var f inspectFlags
	cmd := &cobra.Command{
		Use:   "inspect",
		Short: "Show one episode whole: everything drawn, and the state after every step, as JSON lines",
		Long: `inspect is the door for anyone who checks the simulator. It prints one line {"type":"scenario"} with everything that was
drawn and the state after the reset, then one line {"type":"step"} for every step. Names and units are those of
docs/simulator.md; memory is in quarter pages (qp). With --profile serving the preset, sessions, prefill left, transfers and the
profile's counts are there, too.

Actions come from a policy or from a file with one JSON array a step, for example [["compress",3],["evict",7]]: operation
(keep, evict, compress, swap, or any number) and slot, applied in order. Missing lines keep everything. Lines are long: --no-obs and a tool such as jq make them readable.`,
		Example: "  kvgym inspect --difficulty hard --env 7 --policy greedy --no-obs | jq -c '[.type, .step, .state.used_qp, .reward]'\n" +
			"  printf '[[\"compress\",4],[\"compress\",4]]\\n[]\\n' | kvgym inspect --actions - --steps 2 --no-obs\n" +
			"  kvgym inspect --profile serving --policy tiered --no-obs | jq -c '[.step, .state.serving, .reward]'",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return inspect(cmd, &f) },
	}
	f.env.register(cmd)
	f.env.registerWorkers(cmd, "threads; 0 means all cores")
	fl := cmd.Flags()
	fl.Uint32Var(&f.index, "env", 0, "environment number")
	fl.Uint32Var(&f.episode, "episode", 0, "episode number")
	fl.StringVar(&f.actions, "actions", "", "file of actions, one JSON array a step; - is standard input")
	fl.StringVar(&f.policy, "policy", "", "policy that acts: "+strings.Join(policy.Names(), ", ")+", "+policy.NetworkName)
	fl.BoolVar(&f.noObs, "no-obs", false, "leave the observations out")
	fl.Bool("json", true, "JSON lines are the only output")
	fl.Bool("quiet", false, "print no messages; accepted everywhere")
	return cmd
}

func inspect(cmd *cobra.Command, f *inspectFlags) error {
	if err := f.env.check(); err != nil {
		return err
	}
	if f.actions != "" && f.policy != "" {
		return usage("--actions and --policy", "both given", "one of them")
	}
	decide, err := f.decider(cmd.Context(), cmd.InOrStdin())
	if err != nil {
		return err
	}
	d, err := scenario.ParseDifficulty(f.env.difficulty)
	if err != nil {
		return err
	}
	src, err := f.env.source(cmd.Context(), d)
	if err != nil {
		return err
	}
	if err := kernels.Use(f.env.level); err != nil {
		return err
	}
	profile, preset := f.env.rules()
	b, err := vecenv.New(vecenv.Config{Envs: 1, Slots: f.env.slots, Steps: f.env.steps, MaxWait: f.env.maxWait, Source: src, Workers: 1,
		Profile: profile, Preset: preset, ServingSource: src, Autoreset: vecenv.Disabled, Outputs: vecenv.WithMetrics})
	if err != nil {
		return err
	}
	defer b.Close()
	id := scenario.Identity{Seed: f.env.seed, Env: f.index, Episode: f.episode}
	if err := b.Reset(vecenv.ResetOptions{Identities: []scenario.Identity{id}}); err != nil {
		return err
	}
	out := bufio.NewWriter(cmd.OutOrStdout())
	err = f.play(cmd.Context(), b, decide, json.NewEncoder(out))
	if flushed := out.Flush(); err == nil { // after an interruption too: what is printed are whole lines
		err = flushed
	}
	return err
}

// play prints the episode as it goes.
func (f *inspectFlags) play(ctx context.Context, b *vecenv.Batch, decide decider, enc *json.Encoder) error {
	if err := enc.Encode(report.DrawScenario(b, 0, !f.noObs)); err != nil {
		return err
	}
	for range f.env.steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		pairs := decide(b.View(0))
		a := vecenv.Actions{}
		if len(pairs) > 0 {
			a = vecenv.Actions{List: pairs, PerEnv: len(pairs) / 2}
		}
		if err := b.Step(a); err != nil {
			return err
		}
		if err := enc.Encode(report.StepOf(b, 0, pairs, !f.noObs)); err != nil {
			return err
		}
	}
	return nil
}

// decider gives the actions of one step after another, as (op, slot) pairs.
type decider func(vecenv.View) []int32

func (f *inspectFlags) decider(ctx context.Context, stdin io.Reader) (decider, error) {
	switch {
	case f.policy != "":
		if err := checkPolicies([]string{f.policy}, f.env.slots); err != nil {
			return nil, err
		}
		p, err := policy.New(f.policy)
		if err != nil {
			return nil, err
		}
		var a policy.Actions
		return func(v vecenv.View) []int32 {
			a.Clear()
			p.Act(v, &a)
			return a.Pairs()
		}, nil
	case f.actions != "":
		lines, err := interruptible(ctx, func() ([][]int32, error) { return readActions(f.actions, stdin) })
		if err != nil {
			return nil, err
		}
		if len(lines) > f.env.steps {
			return nil, usage("--actions", fmt.Sprintf("%d lines in %s", len(lines), f.actions), fmt.Sprintf("at most --steps, %d", f.env.steps))
		}
		return func(v vecenv.View) []int32 {
			if v.Step() < len(lines) {
				return lines[v.Step()]
			}
			return nil
		}, nil
	}
	return func(vecenv.View) []int32 { return nil }, nil
}

// maxActionLine bounds one line of an actions file.
const maxActionLine = 1 << 20

// readActions reads one JSON array of [operation, slot] pairs a line.
func readActions(path string, stdin io.Reader) ([][]int32, error) {
	r := stdin
	if path != "-" {
		if err := readable("--actions", path); err != nil {
			return nil, err
		}
		file, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		r = file
	}
	return parseActions(r, path)
}

func parseActions(r io.Reader, name string) ([][]int32, error) {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 4096), maxActionLine)
	var lines [][]int32
	for n := 1; sc.Scan(); n++ {
		pairs, err := parseActionLine(sc.Bytes())
		if err != nil {
			return nil, fmt.Errorf("actions: %s:%d: %w", name, n, err)
		}
		lines = append(lines, pairs)
	}
	if errors.Is(sc.Err(), bufio.ErrTooLong) {
		return nil, fmt.Errorf("actions: %s:%d: a longer line: allowed %d bytes", name, len(lines)+1, maxActionLine)
	}
	return lines, sc.Err()
}

func parseActionLine(line []byte) ([]int32, error) {
	const form = `allowed an array of [operation, slot], such as [["compress",3],["evict",7]]`
	var raw [][]json.RawMessage
	if err := json.Unmarshal(line, &raw); err != nil || raw == nil {
		return nil, fmt.Errorf("%.60q: %s", line, form)
	}
	pairs := []int32{}
	for _, pair := range raw {
		if len(pair) != 2 {
			return nil, fmt.Errorf("%d values in an operation: %s", len(pair), form)
		}
		op, err := parseOp(pair[0])
		if err != nil {
			return nil, err
		}
		var slot *int32 // nil after null, which would leave a number as it was
		if err := json.Unmarshal(pair[1], &slot); err != nil || slot == nil {
			return nil, fmt.Errorf("slot: %.40q: allowed a whole number", pair[1])
		}
		pairs = append(pairs, op, *slot)
	}
	return pairs, nil
}

func parseOp(raw json.RawMessage) (int32, error) {
	var number int32
	if err := json.Unmarshal(raw, &number); err == nil && string(raw) != "null" {
		return number, nil
	}
	var name string
	if err := json.Unmarshal(raw, &name); err == nil {
		if op, ok := kv.ParseOp(name); ok {
			return int32(op), nil
		}
	}
	return 0, fmt.Errorf("operation: %.40q: allowed keep, evict, compress, swap, or a number", raw)
}
