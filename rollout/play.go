package rollout

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/kvgym/kvgym/policy"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/vecenv"
)

// recorder keeps what a player brings. A nil one keeps nothing.
type recorder interface {
	// before is called for environment i with the operations of the step that it is about to make.
	before(episode int64, i int, b *vecenv.Batch, pairs []int32)
	// after is called for every environment when it has stepped.
	after(episode int64, i int, b *vecenv.Batch)
	// reset is called for every environment when its episode starts.
	reset(episode int64, i int, b *vecenv.Batch)
}

// player plays episodes of one policy after another, in waves of as many environments as its batch has. It belongs to one
// goroutine.
type player struct {
	cfg  *Config
	envs int // at most, in a wave
	stop *atomic.Bool
	done func(steps int64) // environment steps that have just been made

	group  *group
	policy policy.Policy
	batch  *vecenv.Batch
	ids    []scenario.Identity

	acts   policy.Actions
	pairs  []int32 // all environments' operations of a step, one after another
	starts []int   // of each environment's in pairs, and the end
	list   []int32 // the same, with as many pairs for each
	at     int     // environment whose policy acts
}

func (p *player) close() {
	if p.batch != nil {
		p.batch.Close()
		p.batch = nil
	}
}

// play plays a shard's episodes and hands them to the recorder. A panic becomes an error.
func (p *player) play(s shard, rec recorder) (err error) {
	defer func() {
		if r := recover(); r != nil {
			p.close()
			err = fmt.Errorf("rollout: policy %s, difficulty %s, seed %d, env %d: panic: %v", s.group.policy, s.group.difficulty, p.cfg.Seed,
				p.ids[p.at].Env, r)
		}
	}()
	waves := (s.n + int64(p.envs) - 1) / int64(p.envs)
	size := int((s.n + waves - 1) / waves)
	if err := p.prepare(s.group, size); err != nil {
		return err
	}
	for first := int64(0); first < s.n; first += int64(size) {
		n := int(min(int64(size), s.n-first))
		if err := p.wave(s.first+first, first, n, rec); err != nil {
			return err
		}
	}
	return nil
}

// prepare makes the batch and the policy for a group, or keeps those of the shard before.
func (p *player) prepare(g *group, envs int) error {
	if p.batch != nil && p.group == g && p.batch.Envs() == envs {
		return nil
	}
	p.close()
	if p.group != g {
		pol, err := policy.New(g.policy)
		if err != nil {
			return fmt.Errorf("rollout: %w", err)
		}
		if policy.Fingerprint(pol) != p.cfg.networks[g.policy] {
			return fmt.Errorf("rollout: policy: %s: the file has changed since the rollout began", g.policy)
		}
		p.policy, p.group = pol, g
	}
	b, err := vecenv.New(vecenv.Config{Envs: envs, Slots: p.cfg.Slots, Steps: p.cfg.Steps, MaxWait: p.cfg.MaxWait, Profile: p.cfg.Profile,
		Preset: p.cfg.Preset, Source: g.source, ServingSource: g.source, Workers: 1, Autoreset: vecenv.Disabled, NoObs: p.cfg.Obs == ObsNone,
		ObsType: p.cfg.Obs.values()})
	if err != nil {
		return fmt.Errorf("rollout: %w", err)
	}
	p.batch = b
	fit(&p.ids, envs)
	fit(&p.starts, envs+1)
	return nil
}

// wave plays n episodes, the first of which is number env of its group and number at of its shard. The batch may have
// more environments than that: the rest play the last episode along and are not recorded.
func (p *player) wave(env, at int64, n int, rec recorder) error {
	for i := range p.ids {
		p.ids[i] = scenario.Identity{Seed: p.cfg.Seed, Env: uint32(env + int64(min(i, n-1)))}
	}
	if err := p.batch.Reset(vecenv.ResetOptions{Identities: p.ids}); err != nil {
		return err
	}
	for i := range n {
		if rec != nil {
			rec.reset(at+int64(i), i, p.batch)
		}
	}
	for range p.cfg.Steps {
		actions, err := p.decide(n)
		if err != nil {
			return err
		}
		if rec != nil {
			for i := range n {
				rec.before(at+int64(i), i, p.batch, p.pairs[p.starts[i]:p.starts[i+1]])
			}
		}
		if err := p.batch.Step(actions); err != nil {
			return err
		}
		if rec != nil {
			for i := range n {
				rec.after(at+int64(i), i, p.batch)
			}
		}
		p.done(int64(n))
	}
	return nil
}

// decide asks the policy for the operations of the first n environments; the others keep everything. More than two
// operations a slot are dropped, as policy.Driver does.
func (p *player) decide(n int) (vecenv.Actions, error) {
	most, longest := 2*p.cfg.Slots, 0
	p.pairs = p.pairs[:0]
	for i := range n {
		if p.stop.Load() {
			return vecenv.Actions{}, context.Canceled
		}
		p.at = i
		p.acts.Clear()
		p.policy.Act(p.batch.View(i), &p.acts)
		pairs := p.acts.Pairs()
		pairs = pairs[:min(len(pairs), 2*most)]
		p.starts[i] = len(p.pairs)
		p.pairs = append(p.pairs, pairs...)
		longest = max(longest, len(pairs))
	}
	p.starts[n] = len(p.pairs)
	if longest == 0 {
		return vecenv.Actions{}, nil
	}
	fit(&p.list, p.batch.Envs()*longest)
	clear(p.list)
	for i := range n {
		copy(p.list[i*longest:], p.pairs[p.starts[i]:p.starts[i+1]])
	}
	return vecenv.Actions{List: p.list, PerEnv: longest / 2}, nil
}
