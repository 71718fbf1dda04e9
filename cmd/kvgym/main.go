// Command kvgym generates rollouts, shows episodes, measures speed and reads traces. Every subcommand is one file; this one holds what they
// share: exit statuses, error lines, flags with one meaning, and the progress bar.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Exit statuses, as the documentation promises them.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

// usageError marks wrong use: an unknown flag, a value out of bounds, a bad combination.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

// usage makes a usage error in the form WHAT: VALUE: WHAT IS ALLOWED.
func usage(what string, value any, allowed string) error {
	return usageError{fmt.Errorf("%s: %v: allowed %s", what, value, allowed)}
}

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// run executes one command line and returns its exit status.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the program at once, whatever it is doing
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.InitDefaultCompletionCmd() // it keeps the output that is set now
	refuseArguments(root, "completion")
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitDone
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		text := strings.TrimPrefix(oneLine(err.Error()), context.Canceled.Error())
		fmt.Fprintf(stderr, "%s: interrupted%s\n", cmd.CommandPath(), text)
		return exitInterrupted
	}
	text := strings.TrimPrefix(oneLine(err.Error()), cmd.Name()+": ") // the package's name is the command's already
	fmt.Fprintf(stderr, "%s: %s\n", cmd.CommandPath(), text)
	var u usageError
	if errors.As(err, &u) {
		return exitUsage
	}
	return exitFailed
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "kvgym",
		Short:         "An environment for KV-cache eviction policies of LLM servers",
		Long:          "kvgym simulates LLM servers whose GPU memory for KV cache runs out, and lets policies decide what to evict,\ncompress, swap or keep: thousands of servers at once, on synthetic traffic or real traces.",
		Example:       "  kvgym rollout --episodes 1000 --policy noop,greedy --out out/first",
		Version:       currentVersion().Version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(flagError)
	root.AddCommand(newRolloutCmd(), newInspectCmd(), newBenchCmd(), newEvalCmd(), newServeCmd(), newServeModelCmd(), newTraceCmd(), newVersionCmd())
	root.SetHelpCommand(newHelpCmd(root))
	return root
}

// newHelpCmd replaces cobra's help command, which shows the whole program's help for an unknown command and succeeds.
func newHelpCmd(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND]",
		Short:   "Show the help of a command",
		Example: "  kvgym help trace info",
		RunE: func(_ *cobra.Command, args []string) error {
			target, rest, err := root.Find(args)
			if err != nil {
				return usageError{err}
			}
			if err := noArgs(target, rest); err != nil {
				return err
			}
			target.InitDefaultHelpFlag()
			target.InitDefaultVersionFlag()
			return target.Help()
		},
	}
}

// refuseArguments makes a command of cobra's own, and those below it, refuse arguments as ours do.
func refuseArguments(root *cobra.Command, name string) {
	cmd, _, err := root.Find([]string{name})
	if err != nil {
		return
	}
	cmd.Args, cmd.RunE = noArgs, func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	for _, sub := range cmd.Commands() {
		sub.Args = noArgs
	}
}

// noArgs refuses arguments: those of a command with subcommands are unknown commands.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if !cmd.HasSubCommands() {
		return usage("argument", quote(args[0]), "flags only")
	}
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return usage("command", quote(args[0]), strings.Join(names, ", "))
}

// oneArg wants exactly one argument, of which it says what it is.
func oneArg(what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usage("arguments", fmt.Sprintf("%d given", len(args)), "one, "+what)
		}
		return nil
	}
}

// flagError says what is wrong with a flag, and what is allowed.
func flagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	var invalid *pflag.InvalidValueError
	var missing *pflag.ValueRequiredError
	var syntax *pflag.InvalidSyntaxError
	switch {
	case errors.As(err, &unknown):
		dashes := "--"
		if unknown.GetSpecifiedShortnames() != "" {
			dashes = "-"
		}
		return usage("flag", dashes+unknown.GetSpecifiedName(), "those that "+cmd.CommandPath()+" --help lists")
	case errors.As(err, &invalid):
		return usage("--"+invalid.GetFlag().Name, quote(invalid.GetValue()), kindOf(invalid.GetFlag()))
	case errors.As(err, &missing):
		return usage("--"+missing.GetFlag().Name, "no value", kindOf(missing.GetFlag()))
	case errors.As(err, &syntax):
		return usage("flag", quote(syntax.GetSpecifiedFlag()), "--name or --name=value")
	}
	return usageError{err}
}

// kindOf says in words what values a flag takes.
func kindOf(f *pflag.Flag) string {
	switch f.Value.Type() {
	case "bool":
		return "true or false"
	case "uint64":
		return "a whole number from 0 to 18446744073709551615"
	case "uint32":
		return "a whole number from 0 to 4294967295"
	case "int", "int64":
		return "a whole number"
	case "float64":
		return "a number"
	}
	return f.Usage
}

// interruptible does work that knows no context, and gives up waiting for it when ctx ends. The work may go on until the
// program ends, which is at once.
func interruptible[T any](ctx context.Context, work func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := work()
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// quote shows a value as it was given, cut where it is long.
func quote(s string) string { return fmt.Sprintf("%.60q", s) }

// oneLine keeps an error on one line.
func oneLine(s string) string {
	return strings.Join(strings.Fields(strings.ReplaceAll(s, "\n", " ")), " ")
}
