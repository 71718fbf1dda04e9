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
type random struct{ live []vecenv.SlotState }

func (*random) Name() string { return "random" }

func (r *random) Act(v vecenv.View, a *Actions) {
	key, step := v.Episode().Key, uint32(v.Step())
	r.live = v.AppendLive(r.live[:0])
	for i := range r.live {
		s := &r.live[i]
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
	}
}

// constant compresses every resident sequence to one level, whatever the pressure.
type constant struct {
	name  string
	level kv.Quant
	live  []vecenv.SlotState
}

func (c *constant) Name() string { return c.name }

func (c *constant) Act(v vecenv.View, a *Actions) {
	c.live = v.AppendLive(c.live[:0])
	for i := range c.live {
		s := &c.live[i]
		for q := s.Quant; q < c.level && !s.Swapped; q++ {
			a.Compress(s.Slot)
		}
	}
}
