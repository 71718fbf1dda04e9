package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/kvgym/kvgym/toolenv/scripted"
	"github.com/spf13/cobra"
)

type serveModelFlags struct {
	cfg    scripted.Config
	addr   string
	faults [scripted.NumFaults]string
	json   bool
	quiet  bool
}

func newServeModelCmd() *cobra.Command {
	var f serveModelFlags
	cmd := &cobra.Command{
		Use:   "serve-model",
		Short: "Serve a scripted language model over HTTP, for tests and demonstrations without a key",
		Long: `serve-model is an OpenAI-compatible server whose model is a policy or a script. It reads the newest compact observation in the last user message
and answers with tool calls, from the messages alone: POST /v1/chat/completions (plain, and streamed) and GET /v1/models. It takes any model name.

It prints its base URL, and runs until it is interrupted (exit status 130) or gets SIGTERM (exit status 0).

Policies:
` + scriptedHelp() + `

Faults, each of a share of the requests (10%) or of requests of given numbers (3,7), counted from 1, retries too:
  --fault-slow       the reply takes --slow-by longer
  --fault-429        too many requests, with Retry-After
  --fault-500        internal error
  --fault-drop       the connection ends in the middle of the body
  --fault-json       the body is no JSON
  --fault-arguments  the arguments of tool calls are no JSON`,
		Example: "  kvgym serve-model --policy greedy --addr 127.0.0.1:8123\n" +
			"  kvgym serve-model --policy random --fault-429 20% --fault-drop 3,7 --json\n" +
			"  echo '[[[\"evict\", {\"seq_id\": 3}], [\"keep\", {}]], \"nothing to do\"]' >turns.json && kvgym serve-model --policy script:turns.json",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runServeModel(cmd, &f) },
	}
	fl := cmd.Flags()
	fl.StringVar(&f.addr, "addr", "127.0.0.1:0", "address to listen on; port 0 takes any that is free")
	fl.StringVar(&f.cfg.Policy, "policy", "greedy", "what decides: a policy, or script:FILE")
	fl.StringVar(&f.cfg.Key, "require-key", "", "refuse requests that do not bring this key")
	fl.IntVar(&f.cfg.Context, "context", 0, "refuse requests of more tokens, of four bytes each; 0 takes all")
	for k := range f.faults {
		fl.StringVar(&f.faults[k], "fault-"+scripted.Fault(k).String(), "", scripted.WhenAllowed)
	}
	fl.Uint64Var(&f.cfg.Faults.Seed, "fault-seed", 42, "seed of the shares' draws")
	fl.DurationVar(&f.cfg.Faults.Delay, "slow-by", 3*time.Second, "how much longer a slow reply takes")
	fl.DurationVar(&f.cfg.Faults.RetryAfter, "retry-after", time.Second, "how long a 429 tells the client to wait")
	fl.BoolVar(&f.json, "json", false, "print the base URL in one JSON document")
	fl.BoolVar(&f.quiet, "quiet", false, "no message at the end")
	return cmd
}

// scriptedHelp lists the policies of serve-model for --help.
func scriptedHelp() string {
	var b strings.Builder
	names, abouts := scripted.Policies()
	for i, n := range names {
		fmt.Fprintf(&b, "  %-15s %s\n", n, abouts[i])
	}
	fmt.Fprintf(&b, "  %-15s %s", "script:FILE", scripted.ScriptAbout)
	return b.String()
}

func (f *serveModelFlags) check() (err error) {
	if _, _, err := net.SplitHostPort(f.addr); err != nil {
		return usage("--addr", quote(f.addr), "HOST:PORT, such as 127.0.0.1:8123")
	}
	if f.cfg.Context < 0 {
		return usage("--context", f.cfg.Context, "0 or more")
	}
	for k, word := range f.faults {
		if f.cfg.Faults.When[k], err = scripted.ParseWhen(word); err != nil {
			return usageError{fmt.Errorf("--fault-%s: %w", scripted.Fault(k), err)}
		}
	}
	for _, d := range []struct {
		flag string
		v    time.Duration
	}{{"--slow-by", f.cfg.Faults.Delay}, {"--retry-after", f.cfg.Faults.RetryAfter}} {
		if d.v < 0 {
			return usage(d.flag, d.v, "0 or more, such as 500ms or 3s")
		}
	}
	return nil
}

func runServeModel(cmd *cobra.Command, f *serveModelFlags) error {
	if err := f.check(); err != nil {
		return err
	}
	s, err := scripted.New(f.cfg)
	if err != nil {
		return usageError{errors.New("--" + err.Error())}
	}
	var failed error
	err = s.Serve(cmd.Context(), f.addr, func(i scripted.Info) {
		if f.json {
			failed = json.NewEncoder(cmd.OutOrStdout()).Encode(i)
			return
		}
		_, failed = fmt.Fprintln(cmd.OutOrStdout(), i.BaseURL)
	})
	if failed != nil {
		return failed
	}
	if n := s.Stats(); !f.quiet && n.Requests > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "kvgym serve-model: %s\n", n)
	}
	return ending(err)
}
