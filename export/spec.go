package export

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/trace"
	"github.com/kvgym/kvgym/vecenv"
)

// Spec describes a batch in words, as the C interface, the Python package and servers take it: one JSON object. Absent fields have the
// defaults of vecenv.Config; unknown ones are refused.
type Spec struct {
	Envs     int    `json:"envs"`
	Slots    int    `json:"slots,omitempty"`
	Steps    int    `json:"steps,omitempty"`
	MaxWait  int    `json:"max_wait,omitempty"`
	Seed     uint64 `json:"seed,omitempty"`
	FirstEnv uint32 `json:"first_env,omitempty"`

	Profile    string `json:"profile,omitempty"`    // seed (default) or serving
	Preset     string `json:"preset,omitempty"`     // serving: a name, or a .toml or .json file
	Difficulty string `json:"difficulty,omitempty"` // easy, medium, hard or all (default)
	Trace      *Trace `json:"trace,omitempty"`      // real traffic instead of synthetic

	Autoreset string   `json:"autoreset,omitempty"` // next-step (default), same-step or disabled
	Truncate  bool     `json:"truncate,omitempty"`  // report the horizon as truncation
	Outputs   []string `json:"outputs,omitempty"`   // obs, mask, components, metrics; default obs
	ObsDType  string   `json:"obs_dtype,omitempty"` // float32 (default) or uint8
	ObsOrder  string   `json:"obs_order,omitempty"` // slot-major (default) or feature-major
	Stores    string   `json:"stores,omitempty"`    // auto (default), plain or stream

	Workers int    `json:"workers,omitempty"` // 0 is all cores
	Pin     bool   `json:"pin,omitempty"`
	Groups  int    `json:"groups,omitempty"`
	SIMD    string `json:"simd,omitempty"` // auto (default), generic, avx2 or avx512; of the whole process
}

// Trace says how a file of requests becomes traffic; cmd/kvgym documents the same flags.
type Trace struct {
	Path         string `json:"path"`
	Format       string `json:"format,omitempty"` // default auto
	SkipBadLines bool   `json:"skip_bad_lines,omitempty"`
	StepMillis   int    `json:"step_ms,omitempty"`     // default 1000, in the serving profile its preset's step
	DecodeRate   int    `json:"decode_rate,omitempty"` // tokens a second; default 30
	Sample       int    `json:"sample,omitempty"`      // sessions kept, of 1000
	Loop         string `json:"loop,omitempty"`        // open (default) or closed (serving)
}

// ParseSpec reads a Spec. Its errors name the field.
func ParseSpec(text []byte) (Spec, error) {
	var s Spec
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return s, specError(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return s, errors.New("config: something follows the JSON object: allowed one object")
	}
	return s, nil
}

// specError says in our words what encoding/json has found.
func specError(err error) error {
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		return fmt.Errorf("config: %s: %s: allowed %s", wrong.Field, wrong.Value, wrong.Type)
	}
	if text, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return fmt.Errorf("config: %s: unknown: allowed the fields of docs/abi.md", strings.Trim(text, `"`))
	}
	return fmt.Errorf("config: %w: allowed one JSON object", err)
}

// InWords names the field of a Spec in an error of vecenv.New, which names the one of its Config.
func InWords(err error) error {
	for field, word := range map[string]string{"Envs": "envs", "MaxWait": "max_wait", "FirstEnv": "first_env", "Workers": "workers", "Pin": "pin", "Groups": "groups"} {
		if rest, ok := strings.CutPrefix(err.Error(), "vecenv: "+field+":"); ok {
			return fmt.Errorf("config: %s:%s", word, rest)
		}
	}
	return err
}

// choice finds a word in a list; the empty word is the first of them.
func choice(field, word string, allowed ...string) (int, error) {
	if word == "" {
		return 0, nil
	}
	for i, a := range allowed {
		if word == a {
			return i, nil
		}
	}
	return 0, fmt.Errorf("config: %s: %.40q: allowed %s", field, word, strings.Join(allowed, ", "))
}

// Config turns the words into what vecenv takes. It reads the trace and the preset's file, if there are any, and sets the SIMD level.
func (s *Spec) Config() (c vecenv.Config, err error) {
	if c, err = s.words(); err != nil {
		return c, err
	}
	if err := s.useLevel(); err != nil {
		return c, err
	}
	return c, s.sources(&c, scenario.LoadTraffic)
}

// words is Config without anything that reads a file or changes the process.
func (s *Spec) words() (c vecenv.Config, err error) {
	c = vecenv.Config{Envs: s.Envs, Slots: s.Slots, Steps: s.Steps, MaxWait: s.MaxWait, Seed: s.Seed, FirstEnv: s.FirstEnv,
		Truncate: s.Truncate, Workers: s.Workers, Pin: s.Pin, Groups: s.Groups}
	for _, f := range []struct {
		name, word string
		allowed    []string
		set        func(i int)
	}{
		{"profile", s.Profile, []string{"seed", "serving"}, func(i int) { c.Profile = vecenv.Profile(i) }},
		{"autoreset", s.Autoreset, []string{"next-step", "same-step", "disabled"}, func(i int) { c.Autoreset = vecenv.Autoreset(i) }},
		{"obs_dtype", s.ObsDType, []string{"float32", "uint8"}, func(i int) { c.ObsType = vecenv.ObsType(i) }},
		{"obs_order", s.ObsOrder, []string{"slot-major", "feature-major"}, func(i int) { c.ObsOrder = vecenv.ObsOrder(i) }},
		{"stores", s.Stores, []string{"auto", "plain", "stream"}, func(i int) { c.Stores = vecenv.Stores(i) }},
	} {
		i, err := choice(f.name, f.word, f.allowed...)
		if err != nil {
			return c, err
		}
		f.set(i)
	}
	for _, o := range s.Outputs {
		i, err := choice("outputs", o, "obs", "mask", "components", "metrics")
		if err != nil {
			return c, err
		}
		c.Outputs |= vecenv.WithObs << i
	}
	if c.NoObs = s.Outputs != nil; !c.NoObs {
		c.Outputs = vecenv.WithObs
	}
	if c.Slots == 0 {
		c.Slots = 64
	}
	if c.Steps == 0 {
		c.Steps = 15
	}
	return c, nil
}

// useLevel sets the SIMD level if one is named.
func (s *Spec) useLevel() error {
	if err := kernels.Problem(); err != nil {
		return err
	}
	if s.SIMD == "" || s.SIMD == "auto" {
		return nil
	}
	level, err := kernels.Parse(s.SIMD)
	if err != nil {
		return fmt.Errorf("config: simd: %.40q: allowed auto, %s on this machine", s.SIMD, kernels.Names(kernels.Levels()))
	}
	return kernels.Use(level)
}

// loader reads a trace.
type loader func(scenario.TrafficConfig) (*scenario.Traffic, error)

// sources makes the preset and what arrives.
func (s *Spec) sources(c *vecenv.Config, load loader) (err error) {
	word := s.Difficulty
	if word == "" {
		word = "all"
	}
	difficulty, err := scenario.ParseDifficulty(word)
	if err != nil {
		return fmt.Errorf("config: difficulty: %.40q: allowed easy, medium, hard, all", s.Difficulty)
	}
	serving := c.Profile == vecenv.Serving
	if s.Preset != "" && !serving {
		return fmt.Errorf("config: preset: %.40q without profile serving: allowed together with it", s.Preset)
	}
	if serving {
		name := s.Preset
		if name == "" {
			name = vecenv.DefaultPreset
		}
		if c.Preset, err = scenario.FindPreset(name); err != nil {
			return fmt.Errorf("config: %w", err)
		}
	}
	switch {
	case s.Trace != nil:
		c.Source, err = s.Trace.source(c, difficulty, load)
	case serving:
		c.Source, err = scenario.NewAgents(c.Slots, c.Steps, difficulty, c.Preset)
	default:
		c.Source, err = scenario.NewSynthetic(c.Slots, c.Steps, difficulty)
	}
	if err != nil {
		return fmt.Errorf("config: %w", err)
	}
	return nil
}

// check refuses what the words do not allow; zeros are defaults.
func (t *Trace) check() error {
	if t.Path == "" {
		return errors.New("trace.path: none: allowed a file of requests")
	}
	for _, f := range []struct {
		name    string
		v, most int
	}{{"step_ms", t.StepMillis, 3_600_000}, {"decode_rate", t.DecodeRate, 10_000}, {"sample", t.Sample, 1000}} {
		if f.v < 0 || f.v > f.most {
			return fmt.Errorf("trace.%s: %d: allowed 0 (the default) to %d", f.name, f.v, f.most)
		}
	}
	return nil
}

// source reads the trace. In the serving profile a step that is given counts for the server, too.
func (t *Trace) source(c *vecenv.Config, d scenario.Difficulty, load loader) (scenario.Source, error) {
	word := t.Format
	if word == "" {
		word = "auto"
	}
	format, err := trace.ParseFormat(word)
	if err != nil {
		return nil, fmt.Errorf("trace.format: %.40q: allowed auto, mooncake, dynamo, bailian, azure, burstgpt, vidur", t.Format)
	}
	loop, err := choice("trace.loop", t.Loop, "open", "closed")
	if err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "config: ")) // which the caller says
	}
	if err := t.check(); err != nil {
		return nil, err
	}
	step, rate := t.StepMillis, t.DecodeRate
	if c.Profile == vecenv.Serving {
		if step != 0 {
			c.Preset.StepMillis = int64(step)
		}
		step = int(c.Preset.StepMillis)
	}
	if step == 0 {
		step = 1000
	}
	if rate == 0 {
		rate = 30
	}
	tc := scenario.TrafficConfig{Path: t.Path, Format: format, SkipBadLines: t.SkipBadLines, StepMillis: step, DecodeRate: rate,
		SampleMillis: t.Sample, Closed: loop == 1, Slots: c.Slots, Steps: c.Steps, Difficulty: d}
	if c.Profile == vecenv.Serving {
		tc.Serving = &c.Preset
	}
	return load(tc)
}
