package vecenv

import (
	"fmt"
	"math/bits"
	"slices"

	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/scenario"
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
	for w := range v.blocks() {
		b := &v.blocks()[w]
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
	pending := v.pending()
	for _, c := range []struct {
		name      string
		have, sum uint32
	}{
		{"PrivateQP", v.PrivateQP, private}, {"RetainedPrivate", v.RetainedPrivate, retained}, {"SharedQP", v.SharedQP, shared},
		{"RetainedShared", v.RetainedShared, retainedShared}, {"PendingQP", v.PendingQP, pending},
		{"Arrived", v.Counters.Arrived, v.arrivedSum()},
	} {
		if c.have != c.sum {
			return fmt.Errorf("%s: %d: allowed %d, what the state adds up to", c.name, c.have, c.sum)
		}
	}
	return nil
}

// pending recomputes what the private prompts of waiting requests need.
func (v *env) pending() (qp uint32) {
	if v.rules.serving != nil {
		for i := range int(v.QueueLen) {
			qp += kv.Pages(v.ticket(i).Private) * kv.FP16QuarterPages
		}
		return qp
	}
	for _, w := range v.queue()[:v.QueueLen] {
		prompt, _ := v.rules.source.Demand(&v.Episode, w)
		qp += kv.Pages(prompt) * kv.FP16QuarterPages
	}
	return qp
}

// arrivedSum is what Arrived must be. In the serving profile a request may be admitted several times, so it is no sum.
func (v *env) arrivedSum() uint32 {
	if v.rules.serving != nil {
		return v.Counters.Arrived
	}
	return v.Counters.Admitted + v.Counters.Failures + uint32(v.QueueLen)
}

// checkPrefixes recomputes the state of every shared prefix and what they add up to.
func (v *env) checkPrefixes() (shared, retained uint32, err error) {
	var state kernels.Shared
	kernels.Prefixes(&v.blocks()[0].Block, len(v.blocks()), &v.Episode.PrefixPages, &state)
	for p := range v.PrefixMul {
		m, w := uint32(state.Mul[p]), uint32(state.Weight[p])
		if v.rules.serving != nil && m != 0 { // the level is the prefix's own
			w = prefixWeight
			if have := v.PrefixMul[p]; have == 1 || have == 2 || have == 4 {
				m = uint32(have)
			}
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
	case v.QueueLen < 0 || int(v.QueueLen) > v.queueRoom():
		return fmt.Errorf("QueueLen: %d: allowed 0 to %d", v.QueueLen, v.queueRoom())
	case e.BudgetQP == 0 || e.BudgetQP > e.CapacityQP || e.CapacityQP > 1<<28:
		return fmt.Errorf("BudgetQP: %d of capacity %d: allowed 1 to the capacity, at most 2^28", e.BudgetQP, e.CapacityQP)
	case e.TokenNorm == 0:
		return fmt.Errorf("TokenNorm: 0: allowed at least 1")
	case e.NumPrefixes > kv.MaxPrefixes || e.PrefixPages[0] != 0:
		return fmt.Errorf("NumPrefixes: %d with %d pages of prefix 0: allowed at most %d with 0", e.NumPrefixes, e.PrefixPages[0], kv.MaxPrefixes)
	case v.rules.drawn != nil && slices.Max(e.PrefixPages[:]) > kernels.MostPages:
		return fmt.Errorf("PrefixPages: %d: allowed up to %d", e.PrefixPages[1:], kernels.MostPages)
	case v.Ended > 1 || v.Ended == 1 && v.Step != v.rules.steps:
		return fmt.Errorf("Ended: %d at step %d of %d: allowed 1 after the last step only", v.Ended, v.Step, v.rules.steps)
	}
	if v.rules.serving != nil {
		return v.checkServing()
	}
	for i, w := range v.queue()[:v.QueueLen] {
		if age := v.Step - scenario.Birth(w); age < 0 || age >= v.rules.maxWait && v.Step > 0 {
			return fmt.Errorf("queue %d: age %d: allowed 0 to %d", i, age, v.rules.maxWait-1)
		}
		if prompt, prefix := v.rules.source.Demand(e, w); prompt < 1 || prompt > 1<<24 || prefix > e.NumPrefixes {
			return fmt.Errorf("queue %d: prompt of %d tokens with prefix %d: allowed 1 to 2^24 with a prefix up to %d", i, prompt, prefix, e.NumPrefixes)
		}
		if i > 0 && scenario.Birth(w) < scenario.Birth(v.queue()[i-1]) {
			return fmt.Errorf("queue %d: arrived at step %d: allowed not before its predecessor", i, scenario.Birth(w))
		}
	}
	return nil
}

// queueRoom is how many waiting requests there may be.
func (v *env) queueRoom() int {
	if v.rules.serving != nil {
		return ticketCap(v.rules.slots)
	}
	return v.rules.queueCap
}

// checkServing checks what the serving profile holds of an environment beside its head and blocks.
func (v *env) checkServing() error {
	if e := &v.Episode; e.GoodNorm == 0 || e.RequestNorm == 0 {
		return fmt.Errorf("GoodNorm: %d, RequestNorm: %d: allowed at least 1", e.GoodNorm, e.RequestNorm)
	}
	oldest := int32(maxWake)
	for i := range int(v.QueueLen) {
		oldest = min(oldest, int32(v.ticket(i).Since))
	}
	if oldest != v.tally.Oldest {
		return fmt.Errorf("Oldest: %d: allowed %d, what the tickets give", v.tally.Oldest, oldest)
	}
	for i := range int(v.QueueLen) {
		k := v.ticket(i)
		switch {
		case k.Private < 1 || k.Private > maxTokens || k.Remaining == 0:
			return fmt.Errorf("ticket %d: %d private tokens, %d to generate: allowed 1 to 2^30, at least 1", i, k.Private, k.Remaining)
		case k.Priority > 100 || k.Prefix > v.Episode.NumPrefixes || k.Type < uint8(kv.Context) || k.Type >= kv.NumBlockTypes:
			return fmt.Errorf("ticket %d: priority %d, prefix %d, type %d: allowed up to 100, up to %d, 1 to %d", i, k.Priority, k.Prefix, k.Type, v.Episode.NumPrefixes, kv.NumBlockTypes-1)
		case k.Born < 0 || k.Since < 0 || k.Flags > ticketFirst|ticketLate|ticketAgain:
			return fmt.Errorf("ticket %d: born %d, since %d, flags %d: allowed 0 or more, up to 7", i, k.Born, k.Since, k.Flags)
		case v.Step > 0 && v.Step-int32(k.Since) >= v.rules.maxWait:
			return fmt.Errorf("ticket %d: since step %d: allowed less than %d steps ago", i, k.Since, v.rules.maxWait)
		}
	}
	for w := range v.lanes() {
		if err := v.checkLane(&v.blocks()[w], &v.lanes()[w]); err != nil {
			return fmt.Errorf("lane %d: %w", w, err)
		}
	}
	return nil
}

func (v *env) checkLane(b *block, l *lane) error {
	all := l.Out | l.In | l.Fresh | l.Wanted | l.First | l.Late
	switch {
	case all&^b.Alive != 0:
		return fmt.Errorf("planes: %x: allowed subsets of Alive %x", all, b.Alive)
	case l.Out&l.In != 0 || (l.Out|l.In)&b.Swapped != 0:
		return fmt.Errorf("planes: Out, In and Swapped: allowed disjoint")
	case (l.Fresh|l.Wanted)&^b.Swapped != 0:
		return fmt.Errorf("planes: Fresh and Wanted: allowed subsets of Swapped %x", b.Swapped)
	}
	for m := b.Alive; m != 0; m &= m - 1 {
		s := bits.TrailingZeros64(m) & 63
		if l.Wake[s] < 0 || l.Born[s] < 0 || l.Admit[s] < 0 || int32(l.Admit[s]) > v.Step || b.Prefill>>s&1 != 0 && l.Work[s] == 0 || l.Work[s] > 1<<31 {
			return fmt.Errorf("slot %d: wake %d, born %d, admitted %d, work %d: allowed 0 or more, admitted up to step %d, work while in prefill", s, l.Wake[s], l.Born[s], l.Admit[s], l.Work[s], v.Step)
		}
	}
	return nil
}

// maxTokens bounds the tokens of a sequence.
const maxTokens = 1 << 30

// mostTokens is what kernels.Step can count, where it does the steps.
func (r *rules) mostTokens() uint32 {
	if r.drawn != nil {
		return kernels.MostPages * kv.PageTokens
	}
	return maxTokens
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
	case kv.Pages(s.Tokens) < uint32(v.Episode.PrefixPages[s.Prefix]) || s.Tokens > v.rules.mostTokens():
		return fmt.Errorf("tokens: %d: allowed from its prefix's %d pages to %d", s.Tokens, v.Episode.PrefixPages[s.Prefix], v.rules.mostTokens())
	case s.Priority > 100:
		return fmt.Errorf("priority: %d: allowed 0 to 100", s.Priority)
	case s.LastAccess > int(v.Step) || s.LastAccess < -16:
		return fmt.Errorf("last access: %d: allowed -16 to %d", s.LastAccess, v.Step)
	case v.rules.serving == nil && s.Type != kv.System && s.Remaining > 0 && s.Rate == 0:
		return fmt.Errorf("rate: 0: allowed at least 1")
	case s.Timer > 5:
		return fmt.Errorf("timer: %d: allowed 0 to 5", s.Timer)
	case v.rules.serving != nil:
		if s.Type != kv.System && (s.PrivatePages == 0 || (s.Remaining == 0) != (s.Phase == kv.Idle)) {
			return fmt.Errorf("serving: %d private pages, %d tokens to generate in phase %s: allowed some pages, and none to generate exactly while idle", s.PrivatePages, s.Remaining, s.Phase)
		}
	case s.Type != kv.System && s.Remaining == 0 && (s.Phase != kv.Idle || s.Timer == 0 || s.Type == kv.Context || s.Type == kv.Generation):
		return fmt.Errorf("remaining: 0 in phase %s: allowed only while lingering", s.Phase)
	}
	return nil
}

// memberOf is the shared prefix whose members plane holds the slot, 0 if none does.
func (v *env) memberOf(slot int) uint8 {
	for p, m := range v.blocks()[slot/64].Members {
		if m>>(slot&63)&1 != 0 {
			return uint8(p + 1)
		}
	}
	return 0
}
