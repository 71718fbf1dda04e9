package vecenv

import (
	"fmt"
	"math/bits"

	"github.com/kvgym/kvgym/kv"
)

// Check recomputes every incremental total and verifies every invariant of the environments' state. It returns the first
// violation. It is slow and meant for tests, restored snapshots and suspicion.
func (b *Batch) Check() error {
	for i := range b.heads {
		if b.fresh[i] {
			continue // no state yet
		}
		v := b.envAt(i)
		if err := v.check(); err != nil {
			return fmt.Errorf("vecenv: environment %d (seed %d, env %d, episode %d): %w", i, b.ids[i].Seed, b.ids[i].Env, b.ids[i].Episode, err)
		}
	}
	return nil
}

func (v *env) check() error {
	if err := v.checkHead(); err != nil {
		return err
	}
	var private, retained uint32
	for w := range v.blocks {
		b := &v.blocks[w]
		if err := v.checkPlanes(b, v.slotMask(w)); err != nil {
			return fmt.Errorf("block %d: %w", w, err)
		}
		for m := b.Alive; m != 0; m &= m - 1 {
			var st SlotState
			v.slot(&st, w, uint(bits.TrailingZeros64(m)))
			if err := v.checkSlot(&st); err != nil {
				return fmt.Errorf("slot %d: %w", st.Slot, err)
			}
			private += st.CostQP
			retained += st.CostQP * st.Type.RetentionTwentieths()
		}
	}
	shared, retainedShared, err := v.checkPrefixes()
	if err != nil {
		return err
	}
	pending := uint32(0)
	for _, w := range v.queue[:v.QueueLen] {
		prompt, _ := v.rules.source.Demand(&v.Episode, w)
		pending += kv.Pages(prompt) * kv.FP16QuarterPages
	}
	for _, c := range []struct {
		name      string
		have, sum uint32
	}{
		{"PrivateQP", v.PrivateQP, private}, {"RetainedPrivate", v.RetainedPrivate, retained}, {"SharedQP", v.SharedQP, shared},
		{"RetainedShared", v.RetainedShared, retainedShared}, {"PendingQP", v.PendingQP, pending},
		{"Arrived", v.Counters.Arrived, v.Counters.Admitted + v.Counters.Failures + uint32(v.QueueLen)},
	} {
		if c.have != c.sum {
			return fmt.Errorf("%s: %d: allowed %d, what the state adds up to", c.name, c.have, c.sum)
		}
	}
	return nil
}

// checkPrefixes recomputes the state of every shared prefix and what they add up to.
func (v *env) checkPrefixes() (shared, retained uint32, err error) {
	for p := range v.PrefixMul {
		var m, w uint32
		if p > 0 {
			m, w = v.prefixState(p)
		}
		if uint32(v.PrefixMul[p]) != m || uint32(v.PrefixWeight[p]) != w {
			return 0, 0, fmt.Errorf("prefix %d: multiplier %d, weight %d: allowed %d and %d, what its members give", p, v.PrefixMul[p], v.PrefixWeight[p], m, w)
		}
		qp := m * uint32(v.Episode.PrefixPages[p])
		shared += qp
		retained += w * qp
	}
	return shared, retained, nil
}

func (v *env) checkHead() error {
	e := &v.Episode
	switch {
	case v.Step < 0 || v.Step > v.rules.steps:
		return fmt.Errorf("Step: %d: allowed 0 to %d", v.Step, v.rules.steps)
	case v.QueueLen < 0 || int(v.QueueLen) > v.rules.queueCap:
		return fmt.Errorf("QueueLen: %d: allowed 0 to %d", v.QueueLen, v.rules.queueCap)
	case e.BudgetQP == 0 || e.BudgetQP > e.CapacityQP || e.CapacityQP > 1<<28:
		return fmt.Errorf("BudgetQP: %d of capacity %d: allowed 1 to the capacity, at most 2^28", e.BudgetQP, e.CapacityQP)
	case e.TokenNorm == 0:
		return fmt.Errorf("TokenNorm: 0: allowed at least 1")
	case e.NumPrefixes > kv.MaxPrefixes || e.PrefixPages[0] != 0:
		return fmt.Errorf("NumPrefixes: %d with %d pages of prefix 0: allowed at most %d with 0", e.NumPrefixes, e.PrefixPages[0], kv.MaxPrefixes)
	case v.Ended > 1 || v.Ended == 1 && v.Step != v.rules.steps:
		return fmt.Errorf("Ended: %d at step %d of %d: allowed 1 after the last step only", v.Ended, v.Step, v.rules.steps)
	}
	for i, w := range v.queue[:v.QueueLen] {
		if age := v.Step - birth(w); age < 0 || age >= v.rules.maxWait && v.Step > 0 {
			return fmt.Errorf("queue %d: age %d: allowed 0 to %d", i, age, v.rules.maxWait-1)
		}
		if prompt, prefix := v.rules.source.Demand(e, w); prompt < 1 || prompt > 1<<24 || prefix > e.NumPrefixes {
			return fmt.Errorf("queue %d: prompt of %d tokens with prefix %d: allowed 1 to 2^24 with a prefix up to %d", i, prompt, prefix, e.NumPrefixes)
		}
		if i > 0 && birth(w) < birth(v.queue[i-1]) {
			return fmt.Errorf("queue %d: arrived at step %d: allowed not before its predecessor", i, birth(w))
		}
	}
	return nil
}

func (v *env) checkPlanes(b *block, exists uint64) error {
	var members uint64
	for p, m := range b.Members {
		if m&members != 0 {
			return fmt.Errorf("prefix %d: %x: allowed no member of another prefix", p+1, m)
		}
		members |= m
	}
	all := b.Swapped | b.Type0 | b.Type1 | b.Type2 | b.Int8 | b.Int4 | b.Prefill | b.Active | members
	switch {
	case b.Alive&^exists != 0:
		return fmt.Errorf("Alive: %x: allowed subsets of %x", b.Alive, exists)
	case all&^b.Alive != 0:
		return fmt.Errorf("planes: %x: allowed subsets of Alive %x", all, b.Alive)
	case b.Prefill&b.Active != 0 || b.Int8&b.Int4 != 0:
		return fmt.Errorf("planes: Prefill and Active, Int8 and Int4: allowed disjoint")
	case b.Type2&(b.Type0|b.Type1) != 0:
		return fmt.Errorf("planes: type code above 4: allowed 0 to 4")
	}
	return nil
}

func (v *env) checkSlot(s *SlotState) error {
	switch {
	case s.Prefix > v.Episode.NumPrefixes:
		return fmt.Errorf("prefix: %d: allowed 0 to %d", s.Prefix, v.Episode.NumPrefixes)
	case v.memberOf(s.Slot) != s.Prefix:
		return fmt.Errorf("prefix: %d: allowed %d, whose members plane holds the slot", s.Prefix, v.memberOf(s.Slot))
	case kv.Pages(s.Tokens) < uint32(v.Episode.PrefixPages[s.Prefix]) || s.Tokens > 1<<30:
		return fmt.Errorf("tokens: %d: allowed from its prefix's %d pages to 2^30", s.Tokens, v.Episode.PrefixPages[s.Prefix])
	case s.Priority > 100:
		return fmt.Errorf("priority: %d: allowed 0 to 100", s.Priority)
	case s.LastAccess > int(v.Step) || s.LastAccess < -16:
		return fmt.Errorf("last access: %d: allowed -16 to %d", s.LastAccess, v.Step)
	case s.Type != kv.System && s.Remaining > 0 && s.Rate == 0:
		return fmt.Errorf("rate: 0: allowed at least 1")
	case s.Timer > 5:
		return fmt.Errorf("timer: %d: allowed 0 to 5", s.Timer)
	case s.Type != kv.System && s.Remaining == 0 && (s.Phase != kv.Idle || s.Timer == 0 || s.Type == kv.Context || s.Type == kv.Generation):
		return fmt.Errorf("remaining: 0 in phase %s: allowed only while lingering", s.Phase)
	}
	return nil
}

// memberOf is the shared prefix whose members plane holds the slot, 0 if none does.
func (v *env) memberOf(slot int) uint8 {
	for p, m := range v.blocks[slot/64].Members {
		if m>>(slot&63)&1 != 0 {
			return uint8(p + 1)
		}
	}
	return 0
}
