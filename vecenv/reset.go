package vecenv

import (
	"fmt"

	"github.com/kvgym/kvgym/scenario"
)

// ResetOptions chooses what Reset does. The zero value starts the next episode everywhere (the first one for
// environments that were never reset). Nil slices mean "all" or "not given"; others have one value an environment.
type ResetOptions struct {
	Mask []bool // environments to reset; the others and their rows stay untouched
	// Seeds restarts the selected environments at episode 0 of stream (Seeds[i], environment 0), so that an environment
	// seeded s plays the same episodes wherever it stands.
	Seeds []uint64
	// Identities starts exactly these episodes. At most one of Seeds and Identities may be given.
	Identities []scenario.Identity
}

// Reset starts episodes and writes the first observation, mask, zero reward and flags of the selected environments. It
// clears everything that a mode had pending for them.
func (b *Batch) Reset(o ResetOptions) error {
	if err := b.checkIdle("Reset"); err != nil {
		return err
	}
	if err := b.checkReset(&o); err != nil {
		return err
	}
	v := env{scratch: b.scratch}
	for i := range b.ids {
		if o.Mask != nil && !o.Mask[i] {
			continue
		}
		switch {
		case o.Seeds != nil:
			b.ids[i] = scenario.Identity{Seed: o.Seeds[i]}
		case o.Identities != nil:
			b.ids[i] = o.Identities[i]
		case !b.fresh[i]:
			b.ids[i].Episode++
		}
		b.fresh[i] = false
		b.load(&v, i)
		v.reset(b.ids[i])
		b.writeReset(&v, i)
	}
	b.publish()
	return nil
}

func (b *Batch) checkReset(o *ResetOptions) error {
	if o.Seeds != nil && o.Identities != nil {
		return fmt.Errorf("vecenv: Reset: Seeds and Identities both given: allowed one of them")
	}
	for _, f := range []struct {
		name string
		n    int
		set  bool
	}{{"Mask", len(o.Mask), o.Mask != nil}, {"Seeds", len(o.Seeds), o.Seeds != nil}, {"Identities", len(o.Identities), o.Identities != nil}} {
		if f.set && f.n != b.cfg.Envs {
			return fmt.Errorf("vecenv: Reset: %s: %d values: allowed %d, one an environment", f.name, f.n, b.cfg.Envs)
		}
	}
	if o.Mask == nil {
		return nil
	}
	for _, m := range o.Mask {
		if m {
			return nil
		}
	}
	return fmt.Errorf("vecenv: Reset: Mask: selects no environment: allowed at least one true")
}

// Identity tells which episode environment i plays or has just ended.
func (b *Batch) Identity(i int) scenario.Identity { return b.ids[i] }
