package vecenv

import (
	"fmt"
	"runtime"

	"github.com/kvgym/kvgym/scenario"
)

// SimulatorVersion is the version of the rules in docs/simulator.md. It changes whenever the same identity and actions
// would give other bits.
const SimulatorVersion = "1"

// Profile chooses which rules of the book apply.
type Profile uint8

// The profiles. Seed is the seed's rules and rewards.
const Seed Profile = 0

// String returns the profile's name.
func (p Profile) String() string {
	if p == Seed {
		return "seed"
	}
	return fmt.Sprintf("Profile(%d)", uint8(p))
}

// ParseProfile returns the profile of that name.
func ParseProfile(s string) (Profile, error) {
	if s == "seed" {
		return Seed, nil
	}
	return 0, fmt.Errorf("profile: %.40q: allowed seed", s)
}

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

	Autoreset Autoreset // default NextStep
	Truncate  bool      // report the last step of the horizon as truncated instead of terminated
	Outputs   Outputs   // default WithObs
	NoObs     bool      // with Outputs zero: write no optional tensor at all

	Workers int     // threads that step, the caller among them; 0 is all cores; at most 1,024
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
	if c.Source == nil {
		s, err := scenario.NewSynthetic(c.Slots, c.Steps, scenario.All)
		if err != nil {
			return c, err
		}
		c.Source = s
	}
	if got, want := c.Source.Shape(), (scenario.Shape{Slots: c.Slots, Steps: c.Steps}); got != want {
		return c, fmt.Errorf("vecenv: Source: made for %d slots and %d steps: allowed the batch's %d and %d", got.Slots, got.Steps, want.Slots, want.Steps)
	}
	return c, nil
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
	if err := inRange("Groups", c.Groups, 1, c.Envs); err != nil {
		return err
	}
	if int(c.Autoreset) >= len(autoresetNames) {
		return fmt.Errorf("vecenv: Autoreset: %d: allowed NextStep, SameStep, Disabled", c.Autoreset)
	}
	if c.Profile != Seed {
		return fmt.Errorf("vecenv: Profile: %d: allowed Seed", c.Profile)
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
