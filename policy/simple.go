package policy

import (
	"github.com/kvgym/kvgym/internal/rng"
	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/vecenv"
)

type noop struct{}

func (noop) Name() string              { return "noop" }
func (noop) Act(vecenv.View, *Actions) {}

// random draws one possible operation for every live slot from the episode's own stream, so a rollout of it can be
// repeated like any other.
type random struct{}

func (random) Name() string { return "random" }

func (random) Act(v vecenv.View, a *Actions) {
	key, step := v.Episode().Key, uint32(v.Step())
	v.Live(func(s *vecenv.SlotState) bool {
		ops := [kv.NumOps]kv.Op{kv.Keep, kv.Evict}
		n := 2
		if !s.Swapped {
			ops[n] = kv.Swap
			n++
			if s.Quant != kv.INT4 {
				ops[n] = kv.Compress
				n++
			}
		}
		w := rng.Draw(key, rng.Policy, step, uint32(s.Slot))
		if op := ops[rng.Scale(rng.Field(w, 0, 16), 16, uint32(n))]; op != kv.Keep {
			a.add(op, s.Slot)
		}
		return true
	})
}

// constant compresses every resident sequence to one level, whatever the pressure.
type constant struct {
	name  string
	level kv.Quant
}

func (c constant) Name() string { return c.name }

func (c constant) Act(v vecenv.View, a *Actions) {
	v.Live(func(s *vecenv.SlotState) bool {
		if !s.Swapped {
			for q := s.Quant; q < c.level; q++ {
				a.Compress(s.Slot)
			}
		}
		return true
	})
}
