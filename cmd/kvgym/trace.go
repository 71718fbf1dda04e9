package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/kvgym/kvgym/trace"
	"github.com/spf13/cobra"
)

func newTraceCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "trace",
		Short:   "Summarise a trace file, or write a synthetic one",
		Example: "  kvgym trace info conversation.jsonl\n  kvgym trace synth --requests 5000 --out traffic.jsonl",
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newTraceInfoCmd(), newTraceSynthCmd())
	return cmd
}

func newTraceInfoCmd() *cobra.Command {
	var format string
	var skip, asJSON, quiet bool
	cmd := &cobra.Command{
		Use:     "info FILE",
		Short:   "Count requests, sessions, blocks and tokens of a trace, in one streaming pass",
		Example: "  kvgym trace info --json conversation.jsonl.zst",
		Args:    oneArg("the trace file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := trace.ParseFormat(format)
			if err != nil {
				return usageError{fmt.Errorf("--trace-%w", err)}
			}
			if err := readable("FILE", args[0]); err != nil {
				return err
			}
			bar := newByteBar(cmd.ErrOrStderr(), "reading", quiet)
			info, err := summarize(cmd.Context(), args[0], trace.Options{Format: f, SkipBadLines: skip}, bar.set)
			bar.finish()
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(info)
			}
			return printTraceInfo(cmd.OutOrStdout(), args[0], &info)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&format, "trace-format", "auto", "auto, mooncake, dynamo, bailian, azure, burstgpt or vidur")
	fl.BoolVar(&skip, "skip-bad-lines", false, "count bad lines instead of failing")
	fl.BoolVar(&asJSON, "json", false, "one JSON document on standard output")
	fl.BoolVar(&quiet, "quiet", false, "no progress bar")
	return cmd
}

func printTraceInfo(w io.Writer, path string, i *trace.Info) error {
	t := table.NewWriter()
	t.SetStyle(table.StyleLight)
	t.SetTitle("%s", path)
	t.AppendRows([]table.Row{
		{"format", i.Format}, {"requests", i.Requests}, {"sessions", i.Sessions}, {"follow-ups", i.FollowUps},
		{"blocks", i.Blocks}, {"distinct blocks", i.DistinctBlocks}, {"input tokens", i.InputTokens}, {"output tokens", i.OutputTokens},
		{"longest prompt", i.LargestInput}, {"seconds covered", i.SecondsCovered}, {"bad lines", i.BadLines}, {"sha256", i.SHA256},
	})
	if i.InputTokens > 0 && i.Blocks > 0 {
		t.AppendRow(table.Row{"hit share, infinite cache", fmt.Sprintf("%.4f of prompt tokens", float64(i.HitTokens)/float64(i.InputTokens))})
	}
	if i.FirstBadLine != "" {
		t.AppendRow(table.Row{"first bad line", i.FirstBadLine})
	}
	_, err := fmt.Fprintln(w, t.Render())
	return err
}

func newTraceSynthCmd() *cobra.Command {
	var c trace.SynthConfig
	var out string
	var asJSON, quiet, force bool
	cmd := &cobra.Command{
		Use:   "synth",
		Short: "Write a synthetic trace in the Mooncake format",
		Long: `synth writes requests of tenants that share system prompts, with sessions of several turns, think times and bursts. The file
is a function of the flags alone.`,
		Example: "  kvgym trace synth --requests 5000 --seed 7 --out traffic.jsonl",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if out == "" {
				return usage("--out", `""`, "a file to write")
			}
			if _, err := os.Stat(out); err == nil && !force {
				return usage("--out", out, "a new file, or --force to replace it")
			}
			if err := checkSynth(&c); err != nil {
				return err
			}
			ctx := cmd.Context()
			if err := writeAtomically(out, func(w io.Writer) error { return trace.Synthesize(contextWriter{ctx, w}, c) }); err != nil {
				return outError(out, err)
			}
			info, err := summarize(ctx, out, trace.Options{}, nil)
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(info)
			}
			if quiet {
				return nil
			}
			return printTraceInfo(cmd.OutOrStdout(), out, &info)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&out, "out", "", "file to write")
	fl.IntVar(&c.Requests, "requests", 2000, "requests to write")
	fl.Uint64Var(&c.Seed, "seed", 42, "seed of all random draws")
	fl.Float64Var(&c.Rate, "rate", 4, "requests a second")
	fl.IntVar(&c.Tenants, "tenants", 8, "tenants, each with its own system prompt")
	fl.BoolVar(&force, "force", false, "replace an existing file")
	fl.BoolVar(&asJSON, "json", false, "one JSON document on standard output")
	fl.BoolVar(&quiet, "quiet", false, "print no summary")
	return cmd
}

// checkSynth refuses what the library would take for a default, and names flags.
func checkSynth(c *trace.SynthConfig) error {
	switch {
	case c.Requests < 1 || c.Requests > 10_000_000:
		return usage("--requests", c.Requests, "1 to 10000000")
	case c.Tenants < 1 || c.Tenants > 65_536:
		return usage("--tenants", c.Tenants, "1 to 65536")
	case !(c.Rate >= 0.01 && c.Rate <= 100_000): // NaN too
		return usage("--rate", c.Rate, "0.01 to 100000")
	}
	if err := c.Validate(); err != nil {
		return usageError{err}
	}
	return nil
}

// summarize is trace.Summarize that an interruption ends.
func summarize(ctx context.Context, path string, o trace.Options, progress func(done, total int64)) (trace.Info, error) {
	return interruptible(ctx, func() (trace.Info, error) { return trace.Summarize(path, o, progress) })
}

// contextWriter fails when its context ends.
type contextWriter struct {
	ctx context.Context
	w   io.Writer
}

func (c contextWriter) Write(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.w.Write(p)
}

// outError says what is allowed where a file cannot be written, and names that file, not a temporary one beside it.
func outError(path string, err error) error {
	var p *fs.PathError
	var l *os.LinkError
	switch {
	case errors.As(err, &p):
		err = p.Err
	case errors.As(err, &l):
		err = l.Err
	default:
		return err
	}
	return fmt.Errorf("--out: %s: %w: allowed a file in a folder that can be written", path, err)
}

// writeAtomically writes a file under a temporary name and renames it when it is whole and on disk.
func writeAtomically(path string, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	w := bufio.NewWriterSize(f, 1<<20)
	if err = write(w); err != nil {
		return err
	}
	if err = w.Flush(); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Chmod(0o644); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
