package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// envArgs are the arguments of the Python environments, and the flags that mean the same.
var envArgs = map[string]string{"difficulty": "difficulty", "seed": "seed", "profile": "profile", "preset": "preset", "steps": "steps", "slots": "slots",
	"max_wait": "max-wait", "trace": "trace"}

// traceArgs are those of a trace that is an object.
var traceArgs = map[string]string{"path": "trace", "format": "trace-format", "skip_bad_lines": "skip-bad-lines", "step_ms": "trace-step-ms",
	"decode_rate": "trace-decode-rate", "sample": "trace-sample", "loop": "trace-loop"}

// setArgs sets the flags that a JSON object of arguments asks for. Its num_examples bounds examples; -1 is no bound.
func (f *envFlags) setArgs(fl *pflag.FlagSet, text string, examples *int) error {
	if text == "" {
		return nil
	}
	args, err := parseArgs(text)
	if err != nil {
		return err
	}
	if raw, ok := args["num_examples"]; ok {
		delete(args, "num_examples")
		n, err := strconv.Atoi(string(raw))
		if err != nil || n == 0 || n < -1 {
			return usage("--env-args", "num_examples: "+string(raw), "-1, or 1 or more")
		}
		if n > 0 {
			*examples = min(*examples, n)
		}
	}
	if raw := args["trace"]; len(raw) > 0 && raw[0] == '{' {
		trace, err := parseArgs(string(raw))
		if err != nil {
			return err
		}
		delete(args, "trace")
		if err := setFlags(fl, trace, traceArgs, "trace."); err != nil {
			return err
		}
	}
	return setFlags(fl, args, envArgs, "")
}

func parseArgs(text string) (args map[string]json.RawMessage, err error) {
	if err := json.Unmarshal([]byte(text), &args); err != nil || args == nil {
		return nil, usage("--env-args", quote(text), `a JSON object such as {"difficulty": "hard"}`)
	}
	return args, nil
}

// setFlags sets the flags of arguments. null is no argument.
func setFlags(fl *pflag.FlagSet, args map[string]json.RawMessage, flags map[string]string, prefix string) error {
	for name, raw := range args {
		flag, ok := flags[name]
		if !ok {
			return usage("--env-args", quote(prefix+name), strings.Join(names(flags, prefix), ", "))
		}
		value := string(raw)
		if value == "null" {
			continue
		}
		if raw[0] == '"' {
			_ = json.Unmarshal(raw, &value) // it is a string of a document that was read
		}
		if fl.Changed(flag) {
			return usage("--env-args", quote(prefix+name), "without --"+flag+", which says the same")
		}
		if err := fl.Set(flag, value); err != nil {
			return usage("--env-args", fmt.Sprintf("%s%s: %.60s", prefix, name, raw), kindOf(fl.Lookup(flag)))
		}
	}
	return nil
}

// names are the arguments that there are.
func names(flags map[string]string, prefix string) (out []string) {
	for n := range flags {
		out = append(out, prefix+n)
	}
	if prefix == "" {
		out = append(out, "num_examples")
	}
	slices.Sort(out)
	return out
}
