package export

import (
	"fmt"

	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/policy"
	"github.com/kvgym/kvgym/reward"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/vecenv"
)

// ABI is the version of the C interface: it grows with every change that an older caller would notice.
const ABI = 1

// Description is what a caller needs to know of a batch before it makes one.
type Description struct {
	ABI        int           `json:"abi"`
	SIMD       string        `json:"simd"`
	SIMDLevels []string      `json:"simd_levels"`
	Envs       int           `json:"envs"`
	Slots      int           `json:"slots"`
	Steps      int           `json:"steps"`
	Profile    string        `json:"profile"`
	Autoreset  string        `json:"autoreset"`
	Groups     [][2]int      `json:"groups"` // ranges of environments
	Obs        vecenv.Layout `json:"obs"`
	Tensors    []Tensor      `json:"tensors"`
	Ops        []string      `json:"ops"`        // in the order of their codes
	Components []string      `json:"components"` // of the reward
	Weights    []float64     `json:"weights"`    // of the components
	Metrics    []string      `json:"metrics"`
	Policies   []string      `json:"policies"`
}

// Tensor describes one of vecenv.Buffers.
type Tensor struct {
	Name  string `json:"name"`
	DType string `json:"dtype"` // float32 or uint8
	Shape []int  `json:"shape"`
}

// Describe says what Open would make, without reading a trace.
func Describe(s *Spec) (*Description, error) {
	c, err := s.words()
	if err != nil {
		return nil, err
	}
	if c.Envs < 1 || c.Envs > vecenv.MaxEnvs {
		return nil, fmt.Errorf("config: envs: %d: allowed 1 to %d", c.Envs, vecenv.MaxEnvs)
	}
	if err := scenario.CheckShape(c.Slots, c.Steps); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	groups := max(1, c.Groups)
	if groups > c.Envs {
		return nil, fmt.Errorf("config: groups: %d: allowed 1 to %d", groups, c.Envs)
	}
	d := &Description{ABI: ABI, SIMD: kernels.Active().String(), Envs: c.Envs, Slots: c.Slots, Steps: c.Steps, Profile: c.Profile.String(),
		Autoreset: c.Autoreset.String(), Obs: vecenv.LayoutOf(c.Slots, c.ObsType, c.ObsOrder), Tensors: tensorsOf(&c),
		Components: reward.Names[:], Metrics: vecenv.MetricNames[:], Policies: policy.Names()}
	for _, l := range kernels.Levels() {
		d.SIMDLevels = append(d.SIMDLevels, l.String())
	}
	for g := range groups {
		d.Groups = append(d.Groups, [2]int{c.Envs * g / groups, c.Envs * (g + 1) / groups})
	}
	for op := range kv.NumOps {
		d.Ops = append(d.Ops, kv.Op(op).String())
	}
	for _, w := range weightsOf(c.Profile) {
		d.Weights = append(d.Weights, float64(w)/100)
	}
	return d, nil
}

func weightsOf(p vecenv.Profile) []int64 {
	if p == vecenv.Serving {
		return reward.ServingWeights[:]
	}
	return reward.SeedWeights[:]
}

func tensorsOf(c *vecenv.Config) (out []Tensor) {
	n := c.Envs
	add := func(name, dtype string, shape ...int) { out = append(out, Tensor{name, dtype, shape}) }
	if c.Outputs&vecenv.WithObs != 0 {
		add("obs", c.ObsType.String(), n, vecenv.ObsLen(c.Slots))
		if c.Autoreset == vecenv.SameStep {
			add("final_obs", c.ObsType.String(), n, vecenv.ObsLen(c.Slots))
		}
	}
	add("reward", "float32", n)
	add("terminated", "uint8", n)
	add("truncated", "uint8", n)
	if c.Outputs&vecenv.WithMask != 0 {
		add("mask", "uint8", n, c.Slots, kv.NumOps)
	}
	if c.Outputs&vecenv.WithComponents != 0 {
		add("components", "float32", n, reward.NumTerms)
	}
	if c.Outputs&vecenv.WithMetrics != 0 {
		add("metrics", "float32", n, vecenv.NumMetrics)
	}
	return out
}
