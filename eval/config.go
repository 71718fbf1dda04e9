package eval

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/kvgym/kvgym/internal/outdir"
	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/policy"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/toolenv"
	"github.com/kvgym/kvgym/vecenv"
)

// Config says who plays what, and where the results go. The zero value of a field means its default.
type Config struct {
	Out        string              // folder to write to; made if it does not exist; no default
	Env        vecenv.Config       // the episodes: Seed, Source (no default), MaxWait, Profile and Preset; slots and steps are the Source's
	Difficulty scenario.Difficulty // that the Source was made for
	Model      *Model              // nil: policies only
	Policies   []string            // names of package policy, each once
	Examples   int                 // 1 to MaxExamples; default 5
	Rollouts   int                 // of each example, 1 to MaxRollouts; default 1
	Concurrent int                 // rollouts under way, 1 to MaxConcurrent; default 8; no effect on the results of policies
	Resume     bool                // go on with an interrupted run of the same configuration
	Version    string              // of the program, for the manifest
	Commit     string              // the same
}

// Bounds of Config.
const (
	MaxExamples   = 1 << 20
	MaxRollouts   = 1 << 16
	MaxConcurrent = 4096
)

// Model is a model behind an endpoint.
type Model struct {
	Name       string        // as the endpoint knows it
	BaseURL    string        // such as https://api.openai.com/v1
	Key        string        // kept out of everything that is written
	Sampling   Sampling      //
	MaxRetries int           // of a request; 0: none
	Timeout    time.Duration // of a request; default 10 minutes
	MaxDelay   time.Duration // between retries; default 8 s, or 2 minutes where the endpoint asks for them
}

// Sampling is what a request says of how to sample; what is not given is left to the endpoint.
type Sampling struct {
	Temperature     *float64                   `json:"temperature,omitempty"`
	TopP            *float64                   `json:"top_p,omitempty"`
	MaxTokens       *int64                     `json:"max_completion_tokens,omitempty"`
	ReasoningEffort string                     `json:"reasoning_effort,omitempty"`
	Extra           map[string]json.RawMessage `json:"extra,omitempty"` // other fields of the request
}

// reserved are the fields of a request that are not for sampling.
var reserved = []string{"model", "messages", "tools", "stream", "stream_options", "n"}

// RefusedError tells that the output folder cannot be used as asked: it holds other results, or none to resume.
type RefusedError = outdir.RefusedError

func (c *Config) fill() error {
	for _, f := range []struct {
		name     string
		v        *int
		def, max int
	}{{"examples", &c.Examples, 5, MaxExamples}, {"rollouts", &c.Rollouts, 1, MaxRollouts}, {"concurrent", &c.Concurrent, 8, MaxConcurrent}} {
		if *f.v == 0 {
			*f.v = f.def
		}
		if *f.v < 1 || *f.v > f.max {
			return fmt.Errorf("eval: %s: %d: allowed 1 to %d", f.name, *f.v, f.max)
		}
	}
	if c.Out == "" {
		return errors.New(`eval: out: "": allowed a folder`)
	}
	if err := c.fillEnv(); err != nil {
		return fmt.Errorf("eval: %w", err)
	}
	return c.fillPlayers()
}

func (c *Config) fillEnv() (err error) {
	e := &c.Env
	if e.Source == nil {
		return errors.New("source: none: allowed one")
	}
	e.Slots, e.Steps = e.Source.Shape().Slots, e.Source.Shape().Steps
	if e.MaxWait == 0 {
		e.MaxWait = 5
	}
	if e.Profile == vecenv.Serving && e.Preset.Name == "" {
		e.Preset, err = kv.PresetNamed(vecenv.DefaultPreset)
	}
	return err
}

func (c *Config) fillPlayers() error {
	if c.Model == nil && len(c.Policies) == 0 {
		return errors.New("eval: players: none: allowed a model, policies, or both")
	}
	for i, p := range c.Policies {
		if _, err := policy.NewFor(p, c.Env.Slots); err != nil {
			return fmt.Errorf("eval: %w", err)
		}
		if slices.Contains(c.Policies[:i], p) || c.Model != nil && c.Model.Name == p {
			return fmt.Errorf("eval: policy: %s: allowed each name once, and none that is the model's", p)
		}
	}
	if c.Model == nil {
		return nil
	}
	return c.Model.fill()
}

func (m *Model) fill() error {
	if m.Name == "" {
		return errors.New(`eval: model: "": allowed the name of a model`)
	}
	if err := CheckURL(m.BaseURL); err != nil {
		return fmt.Errorf("eval: base url: %w", err)
	}
	if m.Timeout == 0 {
		m.Timeout = 10 * time.Minute
	}
	if m.Timeout < 0 || m.MaxRetries < 0 {
		return errors.New("eval: timeout and retries: negative: allowed 0 or more")
	}
	if err := m.Sampling.check(); err != nil {
		return fmt.Errorf("eval: sampling: %w", err)
	}
	return nil
}

// CheckURL refuses base URLs that no client can use.
func CheckURL(base string) error {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("%.60q: allowed an http or https URL, such as http://127.0.0.1:8000/v1", base)
	}
	return nil
}

// Loopback tells whether a base URL is of this machine, where servers need no key as a rule.
func Loopback(base string) bool {
	u, err := url.Parse(base)
	if err != nil {
		return false
	}
	return u.Hostname() == "localhost" || net.ParseIP(u.Hostname()).IsLoopback()
}

// ParseExtra reads the other fields of a request, a JSON object.
func (s *Sampling) ParseExtra(text string) error {
	if err := json.Unmarshal([]byte(text), &s.Extra); err != nil || s.Extra == nil {
		return fmt.Errorf(`%.60q: allowed a JSON object such as {"top_k": 20}`, text)
	}
	return s.check()
}

func (s *Sampling) check() error {
	for _, name := range reserved {
		if _, ok := s.Extra[name]; ok {
			return fmt.Errorf("%s: allowed all fields of a request but %s", name, strings.Join(reserved, ", "))
		}
	}
	return nil
}

// env is the environment of an example.
func (c *Config) env(example int) (*toolenv.Env, error) {
	e := c.Env
	e.Envs, e.FirstEnv = 1, uint32(example)
	return toolenv.Open(e)
}

// identity is the part of a configuration that decides what the results are of, as the manifest states it.
type identity struct {
	Format     string            `json:"format"`
	Simulator  string            `json:"simulator_version"`
	Profile    string            `json:"profile"`
	Difficulty string            `json:"difficulty"`
	Seed       uint64            `json:"seed"`
	Slots      int               `json:"slots"`
	Steps      int               `json:"steps"`
	MaxWait    int               `json:"max_wait"`
	Source     string            `json:"source"`
	Traffic    string            `json:"traffic"`
	Preset     *kv.Preset        `json:"preset,omitempty"` // serving
	Model      string            `json:"model,omitempty"`
	Sampling   *Sampling         `json:"sampling,omitempty"`
	Policies   []string          `json:"policies"`
	Networks   map[string]string `json:"networks,omitempty"` // SHA-256 of each policy that is a file
	Examples   int               `json:"num_examples"`
	Rollouts   int               `json:"rollouts"`
	Prompts    string            `json:"prompts"` // SHA-256 of the system prompt and the tools
}

// formatName names the layout of the files. It changes when their columns do.
const formatName = "kvgym-eval-1"

func (c *Config) identity() (identity, error) {
	prompts, err := c.prompts()
	if err != nil {
		return identity{}, err
	}
	e := &c.Env
	id := identity{Format: formatName, Simulator: vecenv.SimulatorVersion, Profile: e.Profile.String(), Difficulty: c.Difficulty.String(), Seed: e.Seed, Slots: e.Slots,
		Steps: e.Steps, MaxWait: e.MaxWait, Source: e.Source.Fingerprint(), Traffic: "synthetic", Policies: c.Policies, Networks: map[string]string{}, Examples: c.Examples,
		Rollouts: c.Rollouts, Prompts: prompts}
	if t, ok := e.Source.(*scenario.Traffic); ok {
		id.Traffic = t.Info().SHA256
	}
	if e.Profile == vecenv.Serving {
		id.Preset = &e.Preset
	}
	if c.Model != nil {
		id.Model, id.Sampling = c.Model.Name, &c.Model.Sampling
	}
	for _, name := range c.Policies {
		p, err := policy.NewFor(name, e.Slots)
		if err != nil {
			return id, err
		}
		if sum := policy.Fingerprint(p); sum != "" {
			id.Networks[name] = sum
		}
	}
	return id, nil
}

// prompts is the SHA-256 of what every model is told of the game.
func (c *Config) prompts() (string, error) {
	e, err := c.env(0)
	if err != nil {
		return "", err
	}
	defer e.Close()
	tools, err := json.Marshal(toolenv.Tools())
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(append([]byte(e.System()), tools...))
	return hex.EncodeToString(sum[:]), nil
}
