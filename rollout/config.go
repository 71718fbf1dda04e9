package rollout

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/kvgym/kvgym/internal/outdir"
	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/policy"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/vecenv"
)

// Obs chooses what of the observations is kept.
type Obs string

// The kinds of observation columns.
const (
	ObsNone Obs = "none"
	ObsF32  Obs = "f32"
	ObsU8   Obs = "u8"
)

// ParseObs returns the kind of that name.
func ParseObs(s string) (Obs, error) {
	switch o := Obs(s); o {
	case ObsNone, ObsF32, ObsU8:
		return o, nil
	}
	return "", fmt.Errorf("obs: %.40q: allowed none, f32, u8", s)
}

// values is the type of the values that are kept.
func (o Obs) values() vecenv.ObsType {
	if o == ObsU8 {
		return vecenv.ObsU8
	}
	return vecenv.ObsF32
}

// bytes is the size of one observation; 0: none is kept.
func (o Obs) bytes(slots int) int {
	switch o {
	case ObsF32:
		return 4 * vecenv.ObsLen(slots)
	case ObsU8:
		return vecenv.ObsLen(slots)
	}
	return 0
}

// about says what an observation's bytes mean, for the manifest.
func (o Obs) about() string {
	if o == ObsU8 {
		return "one byte a value (rule 10.4), the observation that the policy saw before this step"
	}
	return "little-endian float32 values, the observation that the policy saw before this step"
}

// Program names the build that writes, for the manifest.
type Program struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
}

// Config says what to play and where to write it. The zero value of a field means its default.
type Config struct {
	Out          string                // folder to write to; made if it does not exist; no default
	Episodes     int64                 // for every group; 1 to 2^31; no default
	Policies     []string              // names that package policy makes policies of, each once; no default
	Difficulties []scenario.Difficulty // of easy, medium, hard, each once; default all three
	Seed         uint64                // of every episode's identity; any value
	Slots        int                   // default 64
	Steps        int                   // default 15
	MaxWait      int                   // default 5
	Profile      vecenv.Profile        // default Seed
	Preset       kv.Preset             // serving only: what operations cost; default that named vecenv.DefaultPreset
	Obs          Obs                   // default ObsNone
	// Traffic takes the requests from a trace instead of drawing them. Its Slots, Steps, Difficulty and Serving are set by Run,
	// and in the serving profile a StepMillis of 0 means the preset's.
	Traffic *scenario.TrafficConfig

	Resume  bool // go on with an interrupted rollout of the same configuration
	Envs    int  // environments stepped together, all workers'; 1 to 1,048,576; default 512; no effect on the data
	Workers int  // threads; 0 is all cores; at most 1,024; no effect on the data
	Program Program

	networks map[string]string // SHA-256 of the policies that are files
}

// MaxEpisodes bounds the episodes of one group: an episode's number is its environment's.
const MaxEpisodes = 1 << 31

// Defaults of Config.
const (
	DefaultEnvs    = 512
	defaultSlots   = 64
	defaultSteps   = 15
	defaultMaxWait = 5
)

// RefusedError tells that the output folder cannot be used as asked: it holds another rollout's data, or none to resume.
type RefusedError = outdir.RefusedError

func (c *Config) fill() error {
	set := func(p *int, d int) {
		if *p == 0 {
			*p = d
		}
	}
	set(&c.Slots, defaultSlots)
	set(&c.Steps, defaultSteps)
	set(&c.MaxWait, defaultMaxWait)
	set(&c.Envs, DefaultEnvs)
	set(&c.Workers, runtime.GOMAXPROCS(0))
	if c.Obs == "" {
		c.Obs = ObsNone
	}
	if len(c.Difficulties) == 0 {
		c.Difficulties = []scenario.Difficulty{scenario.Easy, scenario.Medium, scenario.Hard}
	}
	if c.Profile == vecenv.Serving && c.Preset.Name == "" {
		var err error
		if c.Preset, err = kv.PresetNamed(vecenv.DefaultPreset); err != nil {
			return err
		}
	}
	return c.validate()
}

func (c *Config) validate() error {
	if c.Out == "" {
		return errors.New(`rollout: out: "": allowed a folder`)
	}
	if err := scenario.CheckShape(c.Slots, c.Steps); err != nil {
		return fmt.Errorf("rollout: %w", err)
	}
	for _, f := range []struct {
		name      string
		v, lo, hi int64
	}{{"episodes", c.Episodes, 1, MaxEpisodes}, {"max wait", int64(c.MaxWait), 1, 4096}, {"envs", int64(c.Envs), 1, vecenv.MaxEnvs}, {"workers", int64(c.Workers), 1, 1024}} {
		if f.v < f.lo || f.v > f.hi {
			return fmt.Errorf("rollout: %s: %d: allowed %d to %d", f.name, f.v, f.lo, f.hi)
		}
	}
	if err := c.validateProfile(); err != nil {
		return fmt.Errorf("rollout: %w", err)
	}
	if _, err := ParseObs(string(c.Obs)); err != nil {
		return fmt.Errorf("rollout: %w", err)
	}
	return c.validateGroups()
}

func (c *Config) validateProfile() error {
	switch {
	case c.Profile > vecenv.Serving:
		return fmt.Errorf("profile: %s: allowed seed, serving", c.Profile)
	case c.Profile == vecenv.Serving:
		return c.Preset.Validate()
	case c.Preset.Name != "":
		return fmt.Errorf("preset: %.60q: allowed with the serving profile", c.Preset.Name)
	}
	return nil
}

func (c *Config) validateGroups() error {
	if len(c.Policies) == 0 {
		return fmt.Errorf(`rollout: policies: none: allowed %s`, strings.Join(policy.Names(), ", "))
	}
	c.networks = nil
	for i, p := range c.Policies {
		made, err := policy.NewFor(p, c.Slots)
		if err != nil {
			return fmt.Errorf("rollout: %w", err)
		}
		if sum := policy.Fingerprint(made); sum != "" {
			if c.networks == nil {
				c.networks = map[string]string{}
			}
			c.networks[p] = sum
		}
		if slices.Contains(c.Policies[:i], p) {
			return fmt.Errorf("rollout: policy: %s: allowed each name once", p)
		}
	}
	for i, d := range c.Difficulties {
		if d > scenario.Hard {
			return fmt.Errorf("rollout: difficulty: %s: allowed easy, medium, hard", d)
		}
		if slices.Contains(c.Difficulties[:i], d) {
			return fmt.Errorf("rollout: difficulty: %s: allowed each once", d)
		}
	}
	return nil
}

// identity is the part of a configuration that decides the data, as the manifest and every file state it.
type identity struct {
	Format       string   `json:"format"`
	Simulator    string   `json:"simulator_version"`
	Profile      string   `json:"profile"`
	Policies     []string `json:"policies"`
	Difficulties []string `json:"difficulties"`
	Episodes     int64    `json:"episodes"` // for every group
	Seed         uint64   `json:"seed"`
	Slots        int      `json:"slots"`
	Steps        int      `json:"steps"`
	MaxWait      int      `json:"max_wait"`
	Obs          string   `json:"obs"`
	Sources      []string `json:"sources"` // one a difficulty
	Traffic      string   `json:"traffic"` // synthetic, or the trace file's SHA-256

	Preset   *kv.Preset        `json:"preset,omitempty"`   // serving
	Loop     string            `json:"loop,omitempty"`     // serving, of a trace: open or closed
	Networks map[string]string `json:"networks,omitempty"` // SHA-256 of each policy that is a file
}

// formatName names the layout of the files. It changes when files of the same configuration would.
const formatName = "kvgym-rollout-2"

func (c *Config) identity(sources []scenario.Source) identity {
	id := identity{Format: formatName, Simulator: vecenv.SimulatorVersion, Profile: c.Profile.String(), Policies: c.Policies, Episodes: c.Episodes,
		Seed: c.Seed, Slots: c.Slots, Steps: c.Steps, MaxWait: c.MaxWait, Obs: string(c.Obs), Traffic: "synthetic", Networks: c.networks}
	for i, d := range c.Difficulties {
		id.Difficulties = append(id.Difficulties, d.String())
		id.Sources = append(id.Sources, sources[i].Fingerprint())
		if t, ok := sources[i].(*scenario.Traffic); ok {
			id.Traffic = t.Info().SHA256
		}
	}
	if c.Profile == vecenv.Serving {
		id.Preset, id.Loop = &c.Preset, c.loop()
	}
	return id
}

// loop names how a trace's sessions go on; empty without a trace.
func (c *Config) loop() string {
	switch {
	case c.Traffic == nil:
		return ""
	case c.Traffic.Closed:
		return "closed"
	}
	return "open"
}

// json is the canonical text of an identity.
func (i *identity) json() string {
	b, err := json.Marshal(i)
	if err != nil {
		panic(fmt.Sprintf("rollout: identity: %v", err)) // strings and integers always marshal
	}
	return string(b)
}

// fingerprint is equal for two rollouts exactly when their data files are.
func (i *identity) fingerprint() string {
	sum := sha256.Sum256([]byte(i.json()))
	return hex.EncodeToString(sum[:])
}
