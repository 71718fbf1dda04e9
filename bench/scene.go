package bench

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/kvgym/kvgym/bench/rivals"
	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/vecenv"
)

const (
	// cycle is the number of steps whose operations are prepared: three episodes and their reset steps. The first warm ones are not timed,
	// since who has taken the state back has it in its cache, and others have not; timed are the rest.
	cycle = warm + timed
	warm  = 16
	timed = 32
	// phases is the number of different steps of an episode at which the environments of a start state are.
	phases  = 16
	steps   = 15 // of an episode
	maxWait = 5
)

// The kinds of observations. A new one needs its name in obsKinds, and its case in setObs and obsBytes.
const (
	obsF32  = "f32"
	obsU8   = "u8"
	obsNone = "none"
)

var obsKinds = []string{obsF32, obsU8, obsNone}

// setObs makes a batch write observations of a kind.
func setObs(c *vecenv.Config, obs string) {
	switch obs {
	case obsF32:
		c.Outputs = vecenv.WithObs
	case obsU8:
		c.Outputs, c.ObsType = vecenv.WithObs, vecenv.ObsU8
	case obsNone:
		c.NoObs = true
	}
}

// obsBytes is the size of an environment's observation of a kind.
func obsBytes(obs string, slots int) int {
	switch obs {
	case obsF32:
		return 4 * vecenv.ObsLen(slots)
	case obsU8:
		return vecenv.ObsLen(slots)
	}
	return 0
}

// scene is the start state and the operations that the contestants of a comparison share. Batches that step it are the
// contestants' own.
type scene struct {
	config vecenv.Config // with sources, without outputs and workers
	start  *vecenv.Batch // keeps the start state
	ops    [cycle][]uint8
	sums   map[[2]int]uint64 // digests of rows [first, end), once known
}

// newScene makes environments firstEnv, firstEnv+1, ... At every step choose fills the op matrix; nil draws one.
func newScene(ctx context.Context, profile vecenv.Profile, envs, slots int, seed uint64, firstEnv uint32, choose func(step int) []uint8) (*scene, error) {
	s := &scene{config: vecenv.Config{Envs: envs, Slots: slots, Steps: steps, MaxWait: maxWait, Seed: seed, FirstEnv: firstEnv, Profile: profile}}
	// One source for all batches: a Fork between them compares sources, and allocates where they are two.
	var err error
	if profile == vecenv.Serving {
		if s.config.Preset, err = kv.PresetNamed(vecenv.DefaultPreset); err == nil {
			s.config.ServingSource, err = scenario.NewAgents(slots, steps, scenario.All, s.config.Preset)
		}
	} else {
		s.config.Source, err = scenario.NewSynthetic(slots, steps, scenario.All)
	}
	if err != nil {
		return nil, err
	}
	p, err := s.batch(1, func(c *vecenv.Config) { c.Outputs = vecenv.WithMask })
	if err != nil {
		return nil, err
	}
	defer p.Close()
	if err := stagger(p); err != nil {
		return nil, err
	}
	if s.start, err = s.batch(1, func(c *vecenv.Config) { c.NoObs = true }); err != nil {
		return nil, err
	}
	if err := fork(p, 0, s.start); err != nil {
		return nil, err
	}
	r := rand.New(rand.NewPCG(seed, 4))
	for k := range s.ops {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if choose != nil {
			s.ops[k] = choose(k)
		} else {
			s.ops[k] = validOps(r, p)
		}
		if err := p.Step(vecenv.Actions{Ops: s.ops[k]}); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// batch makes a batch that can step the scene once it is rewound; the caller closes it.
func (s *scene) batch(workers int, outputs func(*vecenv.Config)) (*vecenv.Batch, error) {
	c := s.config
	c.Workers = workers
	outputs(&c)
	return vecenv.New(c)
}

func (s *scene) close() { s.start.Close() }

// rewind takes a batch back to the start state of the environments from first on.
func (s *scene) rewind(b *vecenv.Batch, first int) error { return fork(s.start, first, b) }

// fork copies as many environments as the other batch has, from first on.
func fork(from *vecenv.Batch, first int, to *vecenv.Batch) error {
	for i := range to.Envs() {
		if err := from.Fork(first+i, to, i); err != nil {
			return err
		}
	}
	return nil
}

// stagger resets a batch and leaves every sixteenth of its environments at another step of its episode.
func stagger(b *vecenv.Batch) error {
	if err := b.Reset(vecenv.ResetOptions{}); err != nil {
		return err
	}
	mask := make([]bool, b.Envs())
	for k := range phases {
		for i := range mask {
			mask[i] = i%phases == k
		}
		if k < len(mask) {
			if err := b.Reset(vecenv.ResetOptions{Mask: mask}); err != nil {
				return err
			}
		}
		if err := b.Step(vecenv.Actions{}); err != nil {
			return err
		}
	}
	return nil
}

// validOps draws operations that the mask allows, on one slot of ten.
func validOps(r *rand.Rand, b *vecenv.Batch) []uint8 {
	ops := make([]uint8, len(b.Mask)/kv.NumOps)
	for s := range ops {
		if op := uint8(1 + r.IntN(kv.NumOps-1)); r.IntN(10) == 0 && b.Mask[kv.NumOps*s+int(op)] != 0 {
			ops[s] = op
		}
	}
	return ops
}

// digest hashes what rows [first, end) give in one cycle, as the rivals' protocol says, at the present level.
func (s *scene) digest(ctx context.Context, first, end int) (uint64, error) {
	b, err := s.batch(1, func(c *vecenv.Config) { c.Outputs = vecenv.WithObs })
	if err != nil {
		return 0, err
	}
	defer b.Close()
	if err := s.rewind(b, 0); err != nil {
		return 0, err
	}
	row := len(b.Obs) / b.Envs()
	h := newFNV()
	for _, ops := range s.ops {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		if err := b.Step(vecenv.Actions{Ops: ops}); err != nil {
			return 0, err
		}
		h.floats(b.Obs[first*row : end*row])
		h.floats(b.Reward[first:end])
		h.bytes(b.Terminated[first:end])
		h.bytes(b.Truncated[first:end])
	}
	return uint64(h), nil
}

// want is digest, computed once; the level does not matter.
func (s *scene) want(ctx context.Context, first, end int) (uint64, error) {
	rows := [2]int{first, end}
	if sum, ok := s.sums[rows]; ok {
		return sum, nil
	}
	sum, err := s.digest(ctx, first, end)
	if err != nil {
		return 0, err
	}
	if s.sums == nil {
		s.sums = map[[2]int]uint64{}
	}
	s.sums[rows] = sum
	return sum, nil
}

// fnv is 64-bit FNV-1a over words.
type fnv uint64

func newFNV() fnv { return 14695981039346656037 }

func (h *fnv) floats(xs []float32) {
	x := *h
	for _, f := range xs {
		x = (x ^ fnv(math.Float32bits(f))) * 1099511628211
	}
	*h = x
}

func (h *fnv) bytes(xs []uint8) {
	for _, b := range xs {
		*h = (*h ^ fnv(b)) * 1099511628211
	}
}

// rival describes rows [first, end) of the scene to a rival, and writes the files that it will read into dir.
func (s *scene) rival(dir string, first, end int) (rivals.Workload, error) {
	c := &s.config
	w := rivals.Workload{Profile: c.Profile.String(), Envs: end - first, Slots: c.Slots, Steps: c.Steps, MaxWait: c.MaxWait, Cycle: cycle, Warm: warm, Seed: c.Seed,
		FirstEnv: c.FirstEnv + uint32(first), Difficulty: scenario.All.String()}
	w.OpsPath = filepath.Join(dir, fmt.Sprintf("ops-%s-%d-%d-%d", c.Profile, c.Envs, first, end))
	f, err := os.Create(w.OpsPath)
	if err != nil {
		return w, err
	}
	for _, ops := range s.ops {
		if _, err := f.Write(ops[first*c.Slots : end*c.Slots]); err != nil {
			f.Close()
			return w, err
		}
	}
	if err := f.Close(); err != nil {
		return w, err
	}
	if c.Profile == vecenv.Serving {
		w.PresetPath = filepath.Join(dir, "preset")
		err = rivals.WritePreset(w.PresetPath, c.Preset)
	}
	return w, err
}
