package vecenv

import (
	"fmt"
	"runtime"
	"slices"
	"unsafe"

	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/scenario"
)

// SimulatorVersion is the version of the rules in docs/simulator.md. It changes whenever the same identity and actions
// would give other bits.
const SimulatorVersion = "1"

// Profile chooses which rules of the book apply.
type Profile uint8

// The profiles. Seed is the seed's rules and rewards; Serving gives every action the price that it has in a real engine.
const (
	Seed Profile = iota
	Serving
)

var profileNames = [...]string{"seed", "serving"}

// String returns the profile's name.
func (p Profile) String() string {
	if int(p) < len(profileNames) {
		return profileNames[p]
	}
	return fmt.Sprintf("Profile(%d)", uint8(p))
}

// ParseProfile returns the profile of that name.
func ParseProfile(s string) (Profile, error) {
	for i, n := range profileNames {
		if n == s {
			return Profile(i), nil
		}
	}
	return 0, fmt.Errorf("profile: %.40q: allowed seed, serving", s)
}

// DefaultPreset is the server of the serving profile where none is named.
const DefaultPreset = "llama3-8b.a100"

// Autoreset says what happens to an environment whose episode has ended; rule 11.1.
type Autoreset uint8

// The autoreset modes, named as in Gymnasium.
const (
	// NextStep resets in the step after the last one: that step ignores the environment's actions and gives reward 0.
	NextStep Autoreset = iota
	// SameStep resets within the last step: the observation is the new episode's first, the terminal one is in FinalObs.
	SameStep
	// Disabled leaves the environment ended: stepping it again is an error until a Reset selects it.
	Disabled
)

var autoresetNames = [...]string{"next-step", "same-step", "disabled"}

func (a Autoreset) String() string {
	if int(a) < len(autoresetNames) {
		return autoresetNames[a]
	}
	return fmt.Sprintf("Autoreset(%d)", uint8(a))
}

// Outputs chooses which tensors beyond reward and flags a batch writes.
type Outputs uint8

// The optional tensors.
const (
	WithObs        Outputs = 1 << iota // Obs, and FinalObs in SameStep mode
	WithMask                           // Mask
	WithComponents                     // Components
	WithMetrics                        // Metrics
	// AllOutputs writes everything.
	AllOutputs = WithObs | WithMask | WithComponents | WithMetrics
)

// Stores says how observations go to memory.
type Stores uint8

// The ways to store. A stream passes the caches by: that is faster for a tensor that the caches cannot hold anyway, and slower for
// one that is read at once from them (docs/performance.md has the figures).
const (
	AutoStores   Stores = iota // Stream for tensors of at least 8 MiB, or 32 MiB where observations trail (kernels.TrailPays), else Plain
	PlainStores                // through the caches
	StreamStores               // past the caches, where the level can and the tensor starts on a cache line
)

const (
	// streamBytes is the size from which AutoStores streams; rows that trail go through the caches as fast for longer.
	streamBytes, streamTrailBytes = 8 << 20, 32 << 20
)

var storesNames = [...]string{"auto", "plain", "stream"}

func (s Stores) String() string {
	if int(s) < len(storesNames) {
		return storesNames[s]
	}
	return fmt.Sprintf("Stores(%d)", uint8(s))
}

// streams tells whether stores to a tensor pass the caches by.
func (s Stores) streams(t []float32, trails bool) bool {
	if len(t) == 0 || uintptr(unsafe.Pointer(&t[0]))&63 != 0 {
		return false
	}
	from := streamBytes
	if trails {
		from = streamTrailBytes
	}
	return s == StreamStores || s == AutoStores && 4*len(t) >= from
}

// ObsType is the type of an observation's values.
type ObsType uint8

// The types. A byte is round((value - low) * scale), half up, with low and scale of its Feature; rule 10.4.
const (
	ObsF32 ObsType = iota // Buffers.Obs
	ObsU8                 // Buffers.ObsBytes: a quarter of the memory
)

var obsTypeNames = [...]string{"float32", "uint8"}

func (t ObsType) String() string {
	if int(t) < len(obsTypeNames) {
		return obsTypeNames[t]
	}
	return fmt.Sprintf("ObsType(%d)", uint8(t))
}

// ObsOrder is how the values of the slots follow each other in a row, behind the global values.
type ObsOrder uint8

// The orders; rule 10.3.
const (
	SlotMajor    ObsOrder = iota // all features of slot 0, of slot 1, ...: [slots][12]
	FeatureMajor                 // the first feature of all slots, the second, ...: [12][slots]; faster to write
)

var obsOrderNames = [...]string{"slot-major", "feature-major"}

func (o ObsOrder) String() string {
	if int(o) < len(obsOrderNames) {
		return obsOrderNames[o]
	}
	return fmt.Sprintf("ObsOrder(%d)", uint8(o))
}

// Config describes a batch. The zero value of a field means its default.
type Config struct {
	Envs     int             // number of environments; 1 to 1,048,576; no default
	Slots    int             // sequences an environment can hold; a multiple of 16 from 16 to 256; default 64
	Steps    int             // steps an episode; 1 to 4,096; default 15
	Seed     uint64          // seed of every environment's stream; any value
	FirstEnv uint32          // environment number of row 0, for batches that are parts of a larger one; default 0
	Source   scenario.Source // what arrives; default scenario.NewSynthetic(Slots, Steps, scenario.All)
	MaxWait  int             // steps a request waits before it fails; 1 to 4,096; default 5
	Profile  Profile         // default Seed

	Profiles      []Profile       // one an environment, for a batch of both profiles; default Profile for all
	Preset        kv.Preset       // serving: what operations cost; default that named DefaultPreset
	ServingSource scenario.Source // serving: what arrives; default Source if that is given, else scenario.NewAgents for Preset

	Autoreset Autoreset // default NextStep
	Truncate  bool      // report the last step of the horizon as truncated instead of terminated
	Outputs   Outputs   // default WithObs
	NoObs     bool      // with Outputs zero: write no optional tensor at all

	ObsType  ObsType  // of the observation; default ObsF32
	ObsOrder ObsOrder // of the observation; default SlotMajor

	Stores  Stores  // how observations are stored; default AutoStores
	Workers int     // threads that step, the caller among them; 0 is all cores; at most 1,024
	Pin     bool    // bind every worker but the caller to a processor of its own (Linux); default false, right on a machine that is shared
	Groups  int     // contiguous groups for Send and Recv, as equal as possible; 1 to Envs; default 1
	Buffers Buffers // tensors to write into; any that is nil is allocated, 64-byte aligned
}

// MaxEnvs bounds a batch.
const MaxEnvs = 1 << 20

// withDefaults fills zero fields.
func (c Config) withDefaults() (Config, error) {
	if c.Slots == 0 {
		c.Slots = 64
	}
	if c.Steps == 0 {
		c.Steps = 15
	}
	if c.MaxWait == 0 {
		c.MaxWait = 5
	}
	if c.Groups == 0 {
		c.Groups = 1
	}
	if c.Workers == 0 {
		c.Workers = runtime.GOMAXPROCS(0)
	}
	if c.Outputs == 0 && !c.NoObs {
		c.Outputs = WithObs
	}
	if err := c.validate(); err != nil {
		return c, err
	}
	if err := c.fillSources(); err != nil {
		return c, err
	}
	for _, f := range []struct {
		name string
		src  scenario.Source
	}{{"Source", c.Source}, {"ServingSource", c.ServingSource}} {
		if f.src == nil {
			continue
		}
		if got, want := f.src.Shape(), (scenario.Shape{Slots: c.Slots, Steps: c.Steps}); got != want {
			return c, fmt.Errorf("vecenv: %s: made for %d slots and %d steps: allowed the batch's %d and %d", f.name, got.Slots, got.Steps, want.Slots, want.Steps)
		}
	}
	return c, nil
}

// plays tells whether any environment has the profile.
func (c *Config) plays(p Profile) bool {
	if c.Profiles == nil {
		return c.Profile == p
	}
	return slices.Contains(c.Profiles, p)
}

// fillSources gives every profile that is played its preset and its source.
func (c *Config) fillSources() (err error) {
	if c.plays(Serving) {
		if c.Preset.Name == "" {
			if c.Preset, err = kv.PresetNamed(DefaultPreset); err != nil {
				return err
			}
		}
		if err := c.Preset.Validate(); err != nil {
			return fmt.Errorf("vecenv: Preset: %w", err)
		}
		if c.ServingSource == nil {
			c.ServingSource = c.Source
		}
		if c.ServingSource == nil {
			if c.ServingSource, err = scenario.NewAgents(c.Slots, c.Steps, scenario.All, c.Preset); err != nil {
				return err
			}
		}
	}
	if c.plays(Seed) && c.Source == nil {
		if c.Source, err = scenario.NewSynthetic(c.Slots, c.Steps, scenario.All); err != nil {
			return err
		}
	}
	return nil
}

func (c Config) validate() error {
	if err := inRange("Envs", c.Envs, 1, MaxEnvs); err != nil {
		return err
	}
	if err := scenario.CheckShape(c.Slots, c.Steps); err != nil {
		return fmt.Errorf("vecenv: %w", err)
	}
	if err := inRange("MaxWait", c.MaxWait, 1, 4096); err != nil {
		return err
	}
	if err := inRange("Workers", c.Workers, 1, 1024); err != nil {
		return err
	}
	if c.Pin && !canPin {
		return fmt.Errorf("vecenv: Pin: true: allowed on Linux only")
	}
	if err := inRange("Groups", c.Groups, 1, c.Envs); err != nil {
		return err
	}
	if int(c.Autoreset) >= len(autoresetNames) {
		return fmt.Errorf("vecenv: Autoreset: %d: allowed NextStep, SameStep, Disabled", c.Autoreset)
	}
	if c.Profile > Serving {
		return fmt.Errorf("vecenv: Profile: %d: allowed Seed, Serving", c.Profile)
	}
	if c.Profiles != nil && len(c.Profiles) != c.Envs {
		return fmt.Errorf("vecenv: Profiles: %d values: allowed %d, one an environment", len(c.Profiles), c.Envs)
	}
	for i, p := range c.Profiles {
		if p > Serving {
			return fmt.Errorf("vecenv: Profiles[%d]: %d: allowed Seed, Serving", i, p)
		}
	}
	if int(c.ObsType) >= len(obsTypeNames) {
		return fmt.Errorf("vecenv: ObsType: %d: allowed ObsF32, ObsU8", c.ObsType)
	}
	if int(c.ObsOrder) >= len(obsOrderNames) {
		return fmt.Errorf("vecenv: ObsOrder: %d: allowed SlotMajor, FeatureMajor", c.ObsOrder)
	}
	if int(c.Stores) >= len(storesNames) {
		return fmt.Errorf("vecenv: Stores: %d: allowed AutoStores, PlainStores, StreamStores", c.Stores)
	}
	if c.Outputs > AllOutputs {
		return fmt.Errorf("vecenv: Outputs: %d: allowed 0 to %d", c.Outputs, AllOutputs)
	}
	if uint64(c.FirstEnv)+uint64(c.Envs) > 1<<32 {
		return fmt.Errorf("vecenv: FirstEnv: %d: allowed 0 to 2^32-Envs", c.FirstEnv)
	}
	return nil
}

func inRange(field string, v, lo, hi int) error {
	if v < lo || v > hi {
		return fmt.Errorf("vecenv: %s: %d: allowed %d to %d", field, v, lo, hi)
	}
	return nil
}
