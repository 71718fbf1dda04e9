package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/kvgym/kvgym/eval"
	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/report"
	"github.com/kvgym/kvgym/scenario"
	"github.com/spf13/cobra"
)

type evalFlags struct {
	env         envFlags
	envArgs     string
	model       eval.Model
	keyVar      string
	temperature float64
	topP        float64
	maxTokens   int64
	sampling    string
	policies    []string
	examples    int
	rollouts    int
	concurrent  int
	transcripts string
	out         string
	resume      bool
	json        bool
	quiet       bool
}

func newEvalCmd() *cobra.Command {
	var f evalFlags
	cmd := &cobra.Command{
		Use:   "eval",
		Short: "Let language models play through tool calls, and judge them",
		Long: `eval plays episodes with the model of an OpenAI-compatible endpoint, which sees compact observations and calls the tools evict, compress, swap_to_cpu
and keep, and with policies through the same tools, for comparison. Example i is the episode that kvgym inspect --env i shows. It writes

  OUT/results.jsonl    one line an episode, with all messages, on disk as soon as the episode ends
  OUT/results.parquet  the same as a table
  OUT/transcript.html  chosen episodes, to look at
  OUT/manifest.json    configuration, columns, summary

Requests are tried again after 408, 409, 429, 5xx, timeouts, dropped connections and malformed replies, ever later, or when the endpoint says so. An
episode that fails all the same has an error instead of a score, and makes the exit status 1. An interrupted or killed eval goes on with --resume,
which plays failed episodes again, too. docs/evaluation.md is the reference.

--env-args takes what the Python package takes, as JSON: difficulty, seed, profile, preset, steps, slots, max_wait, trace, num_examples. Each
has the meaning of the flag of that name.

Policies:
` + policyHelp(),
		Example: "  kvgym eval -m gpt-5-mini -n 20 --policy noop,greedy --out out/mini\n" +
			"  kvgym eval -m Qwen/Qwen3-8B -b http://127.0.0.1:8000/v1 -n 50 -r 2 --max-concurrent 32 --env-args '{\"difficulty\":\"hard\"}'\n" +
			"  kvgym serve-model --policy greedy --addr 127.0.0.1:8123 & kvgym eval -m any -b http://127.0.0.1:8123/v1",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runEval(cmd, &f) },
	}
	fl := cmd.Flags()
	fl.StringVarP(&f.model.Name, "model", "m", "", "model, as the endpoint knows it")
	fl.StringVarP(&f.model.BaseURL, "base-url", "b", "https://api.openai.com/v1", "base URL of the endpoint")
	fl.StringVarP(&f.keyVar, "key-var", "k", "OPENAI_API_KEY", "environment variable that holds the key; a server on this machine needs none")
	fl.IntVarP(&f.examples, "num-examples", "n", 5, fmt.Sprintf("examples, each an episode of its own, 1 to %d", eval.MaxExamples))
	fl.IntVarP(&f.rollouts, "rollouts", "r", 1, fmt.Sprintf("rollouts of each example, 1 to %d", eval.MaxRollouts))
	fl.IntVar(&f.concurrent, "max-concurrent", 8, fmt.Sprintf("episodes under way at a time, 1 to %d", eval.MaxConcurrent))
	fl.StringSliceVar(&f.policies, "policy", nil, "policies to play too, separated by commas")
	fl.StringVar(&f.envArgs, "env-args", "", "arguments of the environment, as a JSON object")
	fl.Float64Var(&f.temperature, "temperature", 0, "sampling temperature, 0 or more (the endpoint's default if none is given)")
	fl.Float64Var(&f.topP, "top-p", 0, "nucleus sampling, above 0 to 1 (likewise)")
	fl.Int64Var(&f.maxTokens, "max-tokens", 0, "tokens of a reply, 1 or more (likewise); sent as max_completion_tokens")
	fl.StringVar(&f.model.Sampling.ReasoningEffort, "reasoning-effort", "", "how long to reason, such as low, medium or high (likewise)")
	fl.StringVar(&f.sampling, "sampling-args", "", "other fields of a request, as a JSON object")
	fl.IntVar(&f.model.MaxRetries, "max-retries", 5, "times that a request is tried again, 0 to 100")
	fl.DurationVar(&f.model.Timeout, "timeout", 10*time.Minute, "time for a request, such as 90s or 10m")
	fl.StringVar(&f.transcripts, "transcripts", "best,worst", "episodes in transcript.html: "+report.EpisodesAllowed)
	fl.StringVar(&f.out, "out", "", "folder to write to (out/eval/NAME-TIME if none is given)")
	f.env.register(cmd)
	fl.BoolVar(&f.resume, "resume", false, "go on with an interrupted eval of the same configuration")
	fl.BoolVar(&f.json, "json", false, "one JSON document on standard output")
	fl.BoolVar(&f.quiet, "quiet", false, "no progress bar and no table")
	return cmd
}

func (f *evalFlags) check(cmd *cobra.Command) error {
	if err := f.env.setArgs(cmd.Flags(), f.envArgs, &f.examples); err != nil {
		return err
	}
	if err := f.env.check(); err != nil {
		return err
	}
	for _, r := range []struct {
		flag      string
		v, lo, hi int
	}{{"--num-examples", f.examples, 1, eval.MaxExamples}, {"--rollouts", f.rollouts, 1, eval.MaxRollouts}, {"--max-concurrent", f.concurrent, 1, eval.MaxConcurrent},
		{"--max-retries", f.model.MaxRetries, 0, 100}} {
		if r.v < r.lo || r.v > r.hi {
			return usage(r.flag, r.v, fmt.Sprintf("%d to %d", r.lo, r.hi))
		}
	}
	if _, err := report.ParseEpisodes(f.transcripts); err != nil {
		return usage("--transcripts", quote(f.transcripts), report.EpisodesAllowed)
	}
	if f.model.Timeout <= 0 {
		return usage("--timeout", f.model.Timeout, "more than 0, such as 90s or 10m")
	}
	if f.resume && f.out == "" {
		return usage("--resume", "no --out", "together with --out DIR")
	}
	if f.model.Name == "" && len(f.policies) == 0 {
		return usage("--model", "none given", "a model, or --policy, or both")
	}
	if len(f.policies) > 0 {
		if err := checkPolicies(f.policies, f.env.slots); err != nil {
			return err
		}
	}
	if f.model.Name == "" {
		return nil
	}
	return f.checkModel(cmd)
}

func (f *evalFlags) checkModel(cmd *cobra.Command) error {
	m, given := &f.model, cmd.Flags().Changed
	for _, p := range f.policies {
		if p == m.Name {
			return usage("--policy", p, "names that are not the model's")
		}
	}
	if err := eval.CheckURL(m.BaseURL); err != nil {
		return usageError{fmt.Errorf("--base-url: %w", err)}
	}
	if given("temperature") {
		if m.Sampling.Temperature = &f.temperature; !(f.temperature >= 0) {
			return usage("--temperature", f.temperature, "0 or more")
		}
	}
	if given("top-p") {
		if m.Sampling.TopP = &f.topP; !(f.topP > 0 && f.topP <= 1) {
			return usage("--top-p", f.topP, "above 0 to 1")
		}
	}
	if given("max-tokens") {
		if m.Sampling.MaxTokens = &f.maxTokens; f.maxTokens < 1 {
			return usage("--max-tokens", f.maxTokens, "1 or more")
		}
	}
	if f.sampling != "" {
		if err := m.Sampling.ParseExtra(f.sampling); err != nil {
			return usageError{fmt.Errorf("--sampling-args: %w", err)}
		}
	}
	return f.checkKey(given("base-url") && !given("key-var"))
}

// checkKey finds the key. One that nobody has named for a base URL is not sent there.
func (f *evalFlags) checkKey(unnamed bool) error {
	m := &f.model
	allowed := "the name of a variable that holds the key of " + m.BaseURL
	switch local := eval.Loopback(m.BaseURL); {
	case !unnamed && os.Getenv(f.keyVar) != "":
		m.Key = os.Getenv(f.keyVar)
	case local:
		m.Key = "none"
	case unnamed:
		return usage("--key-var", "none given", allowed)
	default:
		return usage("--key-var", quote(f.keyVar)+", which is not set", allowed)
	}
	return nil
}

// unfit is what does not belong into a folder's name.
var unfit = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

// config is the evaluation that the flags ask for; they have been checked.
func (f *evalFlags) config(ctx context.Context) (c eval.Config, err error) {
	v := currentVersion()
	c = eval.Config{Out: f.out, Policies: f.policies, Examples: f.examples, Rollouts: f.rollouts, Concurrent: f.concurrent, Resume: f.resume, Version: v.Version, Commit: v.Commit}
	if f.model.Name != "" {
		c.Model = &f.model
	}
	if f.out == "" {
		name := f.model.Name
		if name == "" {
			name = f.policies[0]
		}
		c.Out = filepath.Join("out", "eval", unfit.ReplaceAllString(name, "-")+time.Now().Format("-20060102-150405"))
	}
	if c.Difficulty, err = scenario.ParseDifficulty(f.env.difficulty); err != nil {
		return c, err
	}
	c.Env.Seed, c.Env.MaxWait = f.env.seed, f.env.maxWait
	c.Env.Profile, c.Env.Preset = f.env.rules()
	c.Env.Source, err = f.env.source(ctx, c.Difficulty)
	return c, err
}

func runEval(cmd *cobra.Command, f *evalFlags) error {
	if err := f.check(cmd); err != nil {
		return err
	}
	if err := kernels.Use(f.env.level); err != nil {
		return err
	}
	cfg, err := f.config(cmd.Context())
	if err != nil {
		return err
	}
	bar := newStepBar(cmd.ErrOrStderr(), "episodes", f.quiet)
	sum, err := eval.Run(cmd.Context(), cfg, func(p eval.Progress) {
		bar.say(fmt.Sprintf("episodes, score %.3f, %d failed", p.Score, p.Failed))
		bar.set(int64(p.Done), int64(p.Total))
	})
	bar.finish()
	var refused *eval.RefusedError
	switch {
	case errors.As(err, &refused):
		return usageError{withFlags(err)}
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%w: what is finished stays in %s: --resume --out %s goes on", err, cfg.Out, cfg.Out)
	case err != nil:
		return err
	}
	chosen, _ := report.ParseEpisodes(f.transcripts)
	if sum.Transcript, err = report.WriteTranscript(cfg.Out, sum, chosen); err != nil {
		return err
	}
	if err := f.print(cmd.OutOrStdout(), sum); err != nil {
		return err
	}
	if sum.Failed > 0 {
		return fmt.Errorf("%d of %d episodes failed: %s: see %s", sum.Failed, sum.Episodes, sum.Failures[0].First, filepath.Join(cfg.Out, eval.ResultsName))
	}
	return nil
}

func (f *evalFlags) print(w io.Writer, sum *eval.Summary) error {
	if f.json {
		return json.NewEncoder(w).Encode(sum)
	}
	if f.quiet {
		return nil
	}
	_, err := io.WriteString(w, report.EvalText(sum))
	return err
}
