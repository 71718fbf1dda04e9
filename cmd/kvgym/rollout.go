package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/policy"
	"github.com/kvgym/kvgym/reward"
	"github.com/kvgym/kvgym/rollout"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/vecenv"
	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
)

type rolloutFlags struct {
	env      envFlags
	episodes int64
	policies []string
	out      string
	obs      string
	envs     int
	resume   bool
	json     bool
	quiet    bool
}

func newRolloutCmd() *cobra.Command {
	var f rolloutFlags
	cmd := &cobra.Command{
		Use:   "rollout",
		Short: "Play episodes of policies and write them as Parquet",
		Long: `rollout plays --episodes episodes for every policy and difficulty (all: easy, medium and hard) and writes

  OUT/steps/part-NNNNN.parquet     one row an environment step
  OUT/episodes/part-NNNNN.parquet  one row an episode
  OUT/manifest.json                configuration, columns, files, host, rates

Episode e of every group is the one that kvgym inspect --env e shows. The data files are a function of the configuration alone,
whatever --workers and --envs are. An interrupted or killed rollout goes on with --resume and ends with the same files.

Policies:
` + policyHelp(),
		Example: "  kvgym rollout --episodes 10000 --policy noop,greedy --difficulty hard --out out/hard\n" +
			"  kvgym trace synth --out traffic.jsonl && kvgym rollout --policy greedy --trace traffic.jsonl --out out/trace --json\n" +
			"  kvgym rollout --profile serving --preset llama3-70b.8xh100 --policy noop,tiered --out out/serving",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runRollout(cmd, &f) },
	}
	f.env.register(cmd)
	f.env.registerWorkers(cmd, "threads; 0 means all cores")
	fl := cmd.Flags()
	fl.Int64Var(&f.episodes, "episodes", 1000, "episodes for every policy and difficulty, 1 to 2147483648")
	fl.StringSliceVar(&f.policies, "policy", []string{"noop", "greedy"}, "policies, separated by commas")
	fl.StringVar(&f.out, "out", "", "folder to write to")
	fl.StringVar(&f.obs, "obs", "none", "observations to keep: none, f32 or u8")
	fl.IntVar(&f.envs, "envs", rollout.DefaultEnvs, "environments stepped together, 1 to 1048576")
	fl.BoolVar(&f.resume, "resume", false, "go on with an interrupted rollout of the same configuration")
	fl.BoolVar(&f.json, "json", false, "one JSON document on standard output")
	fl.BoolVar(&f.quiet, "quiet", false, "no progress bar and no table")
	cmd.Flags().Lookup("difficulty").Usage = "easy, medium, hard, or all (each of the three)"
	return cmd
}

// policyHelp lists the policies for --help.
func policyHelp() string {
	var b strings.Builder
	for _, n := range policy.Names() {
		fmt.Fprintf(&b, "  %-15s %s\n", n, policy.About(n))
	}
	fmt.Fprintf(&b, "  %-15s %s\n", policy.NetworkName, policy.NetworkAbout)
	return strings.TrimRight(b.String(), "\n")
}

func (f *rolloutFlags) check() error {
	if err := f.env.check(); err != nil {
		return err
	}
	if err := checkPolicies(f.policies, f.env.slots); err != nil {
		return err
	}
	switch {
	case f.out == "":
		return usage("--out", "none given", "a folder to write to")
	case f.episodes < 1 || f.episodes > rollout.MaxEpisodes:
		return usage("--episodes", f.episodes, fmt.Sprintf("1 to %d", int64(rollout.MaxEpisodes)))
	case f.envs < 1 || f.envs > vecenv.MaxEnvs:
		return usage("--envs", f.envs, fmt.Sprintf("1 to %d", vecenv.MaxEnvs))
	}
	if _, err := rollout.ParseObs(f.obs); err != nil {
		return usage("--obs", f.obs, "none, f32, u8")
	}
	return nil
}

// config is the rollout that the flags ask for; they have been checked.
func (f *rolloutFlags) config() (rollout.Config, error) {
	c := rollout.Config{Out: f.out, Episodes: f.episodes, Policies: f.policies, Seed: f.env.seed, Slots: f.env.slots, Steps: f.env.steps,
		MaxWait: f.env.maxWait, Obs: rollout.Obs(f.obs), Resume: f.resume, Envs: f.envs, Workers: f.env.workers}
	v := currentVersion()
	c.Program = rollout.Program{Version: v.Version, Commit: v.Commit}
	d, err := scenario.ParseDifficulty(f.env.difficulty)
	if err != nil {
		return c, err
	}
	if d != scenario.All {
		c.Difficulties = []scenario.Difficulty{d}
	}
	c.Profile, c.Preset = f.env.rules()
	if f.env.trace.path != "" {
		t, err := f.env.traffic()
		if err != nil {
			return c, err
		}
		c.Traffic = &t
	}
	return c, nil
}

func runRollout(cmd *cobra.Command, f *rolloutFlags) error {
	if err := f.check(); err != nil {
		return err
	}
	cfg, err := f.config()
	if err != nil {
		return err
	}
	if err := kernels.Use(f.env.level); err != nil {
		return err
	}
	bar := newStepBar(cmd.ErrOrStderr(), "env-steps", f.quiet)
	sum, err := rollout.Run(cmd.Context(), cfg, bar.set)
	bar.finish()
	var refused *rollout.RefusedError
	switch {
	case errors.As(err, &refused):
		return usageError{withFlags(err)}
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%w: what is finished stays in %s: --resume goes on", err, f.out)
	case err != nil:
		return err
	}
	if f.json {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(sum)
	}
	if f.quiet {
		return nil
	}
	_, err = io.WriteString(cmd.OutOrStdout(), summaryText(&sum))
	return err
}

// withFlags says how the command line allows what the library speaks of.
func withFlags(err error) error {
	if strings.HasSuffix(err.Error(), "or resuming that one") {
		return fmt.Errorf("%w: --resume", err)
	}
	return err
}

// summaryColumn is one column of the summary's table.
type summaryColumn struct {
	name, format string
	value        func(*rollout.Group) float64
}

// The columns after the score that matter in each profile.
var (
	seedColumns = []summaryColumn{
		{"failures", "%.2f", func(g *rollout.Group) float64 { return g.Failures }},
		{"tokens", "%.0f", func(g *rollout.Group) float64 { return g.Tokens }},
		{"swap latency", "%.2f", func(g *rollout.Group) float64 { return g.Latency }},
		{"steps above 95 %", "%.1f", func(g *rollout.Group) float64 { return g.PressureSteps }},
	}
	servingColumns = []summaryColumn{
		{"goodput", "%.3f", func(g *rollout.Group) float64 { return g.Components[reward.Names[reward.Goodput]] }},
		{"failures", "%.2f", func(g *rollout.Group) float64 { return g.Failures }},
		{"late", "%.2f", func(g *rollout.Group) float64 { return g.Late }},
		{"first-token waits", "%.1f", func(g *rollout.Group) float64 { return g.FirstWaits }},
		{"forced", "%.2f", func(g *rollout.Group) float64 { return g.Forced }},
		{"waste (ms)", "%.0f", func(g *rollout.Group) float64 { return g.WasteUS / 1000 }},
		{"steps above 95 %", "%.1f", func(g *rollout.Group) float64 { return g.PressureSteps }},
	}
)

// summaryText is the summary for people: a table, and where the data lie.
func summaryText(s *rollout.Summary) string {
	var w strings.Builder
	t := table.NewWriter()
	t.SetOutputMirror(&w)
	t.SetStyle(table.StyleLight)
	columns := seedColumns
	if s.Profile == vecenv.Serving.String() {
		columns = servingColumns
	}
	header, right := table.Row{"policy", "difficulty", "episodes", "score", "± 95 %"}, []table.ColumnConfig{}
	for _, c := range columns {
		header = append(header, c.name)
	}
	t.AppendHeader(header)
	for n := 3; n <= len(header); n++ {
		right = append(right, table.ColumnConfig{Number: n, Align: text.AlignRight, AlignHeader: text.AlignRight})
	}
	t.SetColumnConfigs(right)
	for i, g := range s.Groups {
		if i > 0 && g.Policy != s.Groups[i-1].Policy {
			t.AppendSeparator()
		}
		row := table.Row{g.Policy, g.Difficulty, g.Episodes, fmt.Sprintf("%.4f", g.Reward), fmt.Sprintf("%.4f", (g.RewardCI95[1]-g.RewardCI95[0])/2)}
		for _, c := range columns {
			row = append(row, fmt.Sprintf(c.format, c.value(&g)))
		}
		t.AppendRow(row)
	}
	t.Render()
	if s.Trace != nil {
		fmt.Fprintf(&w, "trace %s (%s): %d of %d requests and %d of %d sessions used, %d windows to start at, %d bad lines; shared prefixes: %s", s.Trace.Path, s.Trace.Format,
			s.Trace.Requests, s.Trace.FileRequests, s.Trace.Sessions, s.Trace.FileSessions, s.Trace.Windows, s.Trace.BadLines, s.Trace.Sharing)
		if s.Trace.Sharing == "blocks" {
			fmt.Fprintf(&w, "; hit share of an infinite prefix cache %.3f", s.Trace.HitShare)
		}
		fmt.Fprintln(&w)
	}
	if s.Complete {
		fmt.Fprintf(&w, "%d episodes, all of them finished earlier; in %s\n", s.Episodes, s.Out)
		return w.String()
	}
	fmt.Fprintf(&w, "%d episodes, %d steps", s.Episodes, s.EnvSteps)
	if s.Kept > 0 {
		fmt.Fprintf(&w, " (%d episodes kept from an earlier run)", s.Kept)
	}
	fmt.Fprintf(&w, " in %.1f s: %.2f M steps/s; %.1f MB of Parquet in %s\n", s.Seconds, s.StepsPerSec/1e6, float64(s.Bytes)/1e6, s.Out)
	return w.String()
}

// stepBar shows how many steps of some kind are done, on a terminal and after barDelay only. set may be called from several
// goroutines.
type stepBar struct {
	mu    sync.Mutex
	w     io.Writer // nil: never shown
	what  string    // is counted
	start time.Time
	shown time.Time
	bar   *progressbar.ProgressBar
}

func newStepBar(w io.Writer, what string, quiet bool) *stepBar {
	if quiet || !isTerminal(w) {
		w = nil
	}
	return &stepBar{w: w, what: what, start: time.Now()}
}

func (b *stepBar) set(done, total int64) {
	if b.w == nil || !b.mu.TryLock() {
		return
	}
	defer b.mu.Unlock()
	now := time.Now()
	if now.Sub(b.start) < barDelay || now.Sub(b.shown) < 100*time.Millisecond {
		return
	}
	b.shown = now
	if b.bar == nil {
		b.bar = progressbar.NewOptions64(total, progressbar.OptionSetWriter(b.w), progressbar.OptionShowCount(), progressbar.OptionSetPredictTime(false),
			progressbar.OptionSetElapsedTime(false), progressbar.OptionClearOnFinish())
	}
	// The bar begins late, so its own forecast would be wrong.
	left := time.Duration(float64(now.Sub(b.start)) / float64(max(done, 1)) * float64(total-done))
	b.bar.Describe(fmt.Sprintf("%s, %s left", b.what, left.Round(time.Second)))
	_ = b.bar.Set64(done)
}

// say changes what is counted.
func (b *stepBar) say(what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.what = what
}

func (b *stepBar) finish() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.bar != nil {
		_ = b.bar.Finish()
	}
}
