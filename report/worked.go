package report

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/kvgym/kvgym/internal/rng"
	"github.com/kvgym/kvgym/reward"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/vecenv"
)

// Worked is an episode to be written out with every number, for docs/worked-episodes.md.
type Worked struct {
	Title    string
	About    string        // what to look at
	Flags    string        // of the kvgym inspect that shows the same episode
	Config   vecenv.Config // the sources, Slots, Steps, MaxWait, Profile and Preset
	Identity scenario.Identity
	Actions  [][]int32 // (op, slot) pairs of each step
}

// page collects Markdown and remembers the first error of its writer.
type page struct {
	w   io.Writer
	err error
}

func (p *page) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format, args...)
	}
}

// row prints one row of a table.
func (p *page) row(cells ...any) {
	for _, c := range cells {
		p.printf("| %v ", c)
	}
	p.printf("|\n")
}

// header prints a table's first two lines.
func (p *page) header(names ...string) {
	p.printf("| %s |\n|%s\n", strings.Join(names, " | "), strings.Repeat("---|", len(names)))
}

// WriteWorked plays the episode and writes it as Markdown.
func WriteWorked(w io.Writer, e *Worked) error {
	cfg := e.Config
	cfg.Envs, cfg.Workers, cfg.Autoreset, cfg.Outputs = 1, 1, vecenv.Disabled, vecenv.WithMetrics
	b, err := vecenv.New(cfg)
	if err != nil {
		return err
	}
	defer b.Close()
	if err := b.Reset(vecenv.ResetOptions{Identities: []scenario.Identity{e.Identity}}); err != nil {
		return err
	}
	p := &page{w: w}
	p.printf("## %s\n\n%s\n\n```\nkvgym inspect %s\n```\n\n", e.Title, e.About, e.Flags)
	if err := p.actionsFile(e.Actions); err != nil {
		return err
	}
	s := DrawScenario(b, 0, false)
	p.randoms(&s)
	if s.Preset != nil {
		p.servingDraws(&s)
	} else {
		p.draws(&s)
	}
	p.printf("### After the reset\n\n")
	p.state(b.View(0), &s.State)
	for _, pairs := range e.Actions {
		if err := b.Step(vecenv.Actions{List: pairs, PerEnv: len(pairs) / 2}); err != nil {
			return err
		}
		st := StepOf(b, 0, pairs, true)
		p.step(b, &st)
	}
	return p.err
}

// actionsFile shows the file that --actions takes.
func (p *page) actionsFile(all [][]int32) error {
	p.printf("Operations, a line a step:\n\n```\n")
	for _, pairs := range all {
		line, err := json.Marshal(actions(pairs))
		if err != nil {
			return err
		}
		p.printf("%s\n", line)
	}
	p.printf("```\n\n")
	return p.err
}

// uses tell which rules need the draws that a worked episode shows, by profile.
var uses = map[string][]string{
	"seed":    {"4.1 to 4.4", "5.1 (traces)", "4.4", "4.6", "4.7", "4.5"},
	"serving": {"4.1 to 4.3, 13.3", "5.1 (traces)", "13.3", "4.6, 13.6", "4.7", "13.3"},
}

// randoms writes what the episode was drawn from.
func (p *page) randoms(s *Scenario) {
	p.printf("### What is drawn\n\nKey (rule 2.2): `%#016x`. Some draws (rule 2.3):\n\n", s.Key)
	p.header("draw", "value", "used by")
	for k, d := range []struct {
		purpose     rng.Purpose
		step, index uint32
	}{{rng.Episode, 0, 0}, {rng.Window, 0, 0}, {rng.Prefix, 0, 1}, {rng.Initial, 0, 0}, {rng.Arrivals, 1, 0}, {rng.Request, 1, 0}} {
		p.row(fmt.Sprintf("draw(%d, %d, %d)", d.purpose, d.step, d.index), fmt.Sprintf("`%#016x`", rng.Draw(s.Key, d.purpose, d.step, d.index)), uses[s.Profile][k])
	}
}

// draws writes what was drawn in the seed profile.
func (p *page) draws(s *Scenario) {
	p.printf("\nDifficulty %s, arrivals %s, capacity %d QP, budget %d QP, throughput norm %d tokens, window step %d, pages of prefixes 1, 2, ...: %v.\n\n",
		s.Difficulty, s.ArrivalLevel, s.CapacityQP, s.BudgetQP, s.TokenNorm, s.WindowStep, s.PrefixPages)
	p.printf("Initial sequences, as drawn; those that did not fit are missing from the state below:\n\n")
	p.header("i", "type", "private prompt", "done", "output", "rate", "priority", "prefix", "phase", "last access", "hotness", "timer", "run", "pause")
	for i, q := range s.Initial {
		p.row(i, q.Type, q.PromptTokens, q.DoneTokens, q.OutputTokens, q.Rate, q.Priority, q.Prefix, q.Phase, q.LastAccess, q.Hotness, q.Timer, q.RunCode, q.PauseCode)
	}
	p.printf("\nRequests, by the step in which they arrive:\n\n")
	p.header("step", "k", "type", "private prompt", "output", "rate", "priority", "prefix", "run", "pause")
	for _, a := range s.Arrivals {
		for k, q := range a.Requests {
			p.row(a.Step, k, q.Type, q.PromptTokens, q.OutputTokens, q.Rate, q.Priority, q.Prefix, q.RunCode, q.PauseCode)
		}
	}
	p.printf("\n")
}

// state writes slots, prefixes and queue.
func (p *page) state(v vecenv.View, s *State) {
	if s.Serving != nil {
		p.servingSlots(s)
	} else {
		p.slots(s)
	}
	private := uint32(0)
	for _, q := range s.Slots {
		private += q.CostQP
	}
	p.printf("\nUsed %d QP = %d private + %d shared (%s).\n", s.UsedQP, private, s.SharedQP, prefixes(v))
	if len(s.Queue) == 0 {
		p.printf("Nothing waits.\n\n")
		return
	}
	p.printf("Waiting, oldest first: ")
	for k, q := range s.Queue {
		if k > 0 {
			p.printf("; ")
		}
		if s.Serving != nil {
			p.printf("%s", waits(&q))
			continue
		}
		p.printf("%s of step %d (prompt %d, prefix %d)", q.Type, q.Arrived, q.PromptTokens, q.Prefix)
	}
	p.printf(". Pending demand %d QP.\n\n", s.PendingQP)
}

// slots writes the live sequences of the seed profile.
func (p *page) slots(s *State) {
	p.header("slot", "type", "phase", "quant", "swapped", "tokens", "remaining", "rate", "priority", "prefix", "last access", "hotness", "timer", "run", "pause", "private pages", "cost")
	for _, q := range s.Slots {
		p.row(q.Slot, q.Type, q.Phase, q.Quant, yes(q.Swapped), q.Tokens, q.Remaining, q.Rate, q.Priority, q.Prefix, q.LastAccess, q.Hotness, q.Timer, q.RunCode, q.PauseCode, q.PrivatePages, q.CostQP)
	}
}

// prefixes spells out the sum over shared prefixes.
func prefixes(v vecenv.View) string {
	var parts []string
	e := v.Episode()
	for i := 1; i <= int(e.NumPrefixes); i++ {
		parts = append(parts, fmt.Sprintf("m[%d] P[%d] = %d * %d", i, i, v.PrefixMultiplier(i), e.PrefixPages[i]))
	}
	return strings.Join(parts, ", ")
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return ""
}

// step writes one step: operations, state, totals and the score's terms.
func (p *page) step(b *vecenv.Batch, s *Step) {
	p.printf("### Step %d: %s\n\n", s.Step, operations(s.Actions))
	p.state(b.View(0), &s.State)
	t := &s.State
	p.printf("Totals: tokens %d, swap latency %d thousandths, headroom %d tenths, risk %d hundredths, R = %d, growth %d; arrived %d, admitted %d, completed %d, failures %d, rejected %d, evictions %d, compressions %d, swaps %d, invalid %d, accesses to swapped %d, steps above 0.95 %d.\n\n",
		t.Tokens, t.LatencyMilli, t.HeadroomTenths, t.RiskHundredths, t.RetainedTwenty, t.QueueGrowth, t.Arrived, t.Admitted, t.Completed, t.Failures, t.Rejected,
		t.Evictions, t.Compressions, t.Swaps, t.Invalid, t.SwapReads, t.PressureSteps)
	names, weights := reward.Names[:reward.SeedTerms], &reward.SeedWeights
	if t.Serving != nil {
		names, weights = reward.Names[:], &reward.ServingWeights
		p.servingTotals(t.Serving)
	}
	p.header("term", "weight", "value / 2^24", "value")
	for k, name := range names {
		p.row(name, weights[k], s.ComponentsFixed[name], s.Components[name])
	}
	p.printf("\nScore %d / 2^20; reward %d / 2^20 = %v; terminated: %v.\n\n", t.ScoreFixed, s.RewardFixed, s.Reward, s.Terminated)
	p.observation(s.Obs, t)
}

// observation writes the globals and the first two live slots' features.
func (p *page) observation(obs []float32, t *State) {
	layout := vecenv.ObsLayout((len(obs) - vecenv.GlobalFeatures) / vecenv.SlotFeatures)
	var parts []string
	for k, f := range layout.Globals {
		parts = append(parts, fmt.Sprintf("%s %v", f.Name, obs[k]))
	}
	p.printf("Observation, globals: %s.\n", strings.Join(parts, ", "))
	for _, q := range t.Slots[:min(2, len(t.Slots))] {
		parts = parts[:0]
		for k, f := range layout.Slot {
			parts = append(parts, fmt.Sprintf("%s %v", f.Name, obs[vecenv.GlobalFeatures+q.Slot*vecenv.SlotFeatures+k]))
		}
		p.printf("Slot %d: %s.\n", q.Slot, strings.Join(parts, ", "))
	}
	p.printf("\n")
}

func operations(actions [][2]any) string {
	if len(actions) == 0 {
		return "keep"
	}
	var parts []string
	for _, a := range actions {
		parts = append(parts, fmt.Sprintf("%v %v", a[0], a[1]))
	}
	return strings.Join(parts, ", ")
}
