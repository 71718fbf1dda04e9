package vecenv

import (
	"math/bits"

	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/reward"
	"github.com/kvgym/kvgym/scenario"
)

// env is one environment's place in the batch's columns, assembled on the stack for the time of a step.
type env struct {
	*head
	blocks []block         // one for every 64 slots, or part of 64
	queue  []scenario.Word // room for Slots/2 waiting requests; the high 16 bits hold the step of arrival
	rules  *rules
}

// rules is what all environments of a batch share.
type rules struct {
	source    scenario.Source
	slots     int
	steps     int32
	maxWait   int32
	queueCap  int
	firstMask uint64 // the slots that exist in the last block
	truncate  bool
	obsLen    int
}

// slotMask is the mask of the slots that exist in block w.
func (v *env) slotMask(w int) uint64 {
	if w == len(v.blocks)-1 {
		return v.rules.firstMask
	}
	return ^uint64(0)
}

func (v *env) usedQP() uint32 { return v.PrivateQP + v.SharedQP }

// step runs the phases of one step in order; rule 6.1. ops is the environment's row of an op matrix, list its ordered
// actions; one of them is nil.
func (v *env) step(ops []uint8, list []int32) {
	v.Step++
	waiting := v.QueueLen
	changed := false
	if ops != nil {
		changed = v.applyMatrix(ops)
	} else {
		changed = v.applyList(list)
	}
	if changed {
		v.recountShared()
	}
	if v.generate() {
		v.recountShared()
	}
	v.serveQueue()
	v.arrive()
	v.Growth = v.QueueLen - waiting
}

// account adds the finished step to the totals and returns the terms and the step's reward, in 2^-20; rules 9.1 to 9.9.
func (v *env) account() (reward.Terms, int64) {
	used := v.usedQP()
	v.HeadroomTenths += reward.HeadroomTenths(used, v.Episode.BudgetQP)
	if reward.Pressure(used, v.Episode.BudgetQP) {
		v.Counters.PressureSteps++
	}
	t := v.totals()
	terms := reward.Compute(&t)
	score := terms.Score()
	gain := score - v.Score
	v.Score = score
	return terms, gain
}

// terms is what the components of an environment are: nothing before its first step.
func terms(t *reward.Totals, step int32) reward.Terms {
	if step == 0 {
		return reward.Terms{}
	}
	return reward.Compute(t)
}

func (v *env) totals() reward.Totals {
	return reward.Totals{
		Steps: uint32(v.rules.steps), TokenNorm: v.Episode.TokenNorm, Failures: v.Counters.Failures, Tokens: v.Tokens,
		HeadroomTenths: v.HeadroomTenths, LatencyMilli: v.LatencyMilli, RiskHundredths: v.RiskHundredths,
		UsedQP: v.usedQP(), BudgetQP: v.Episode.BudgetQP, RetainedTwenty: v.RetainedPrivate + v.RetainedShared,
	}
}

// privatePages is what slot s of a block holds alone; rule 1.5.
func (v *env) privatePages(b *block, s uint) uint32 {
	s &= 63
	return kv.Pages(b.Tokens[s]) - uint32(v.Episode.PrefixPages[b.Prefix[s]&kv.MaxPrefixes])
}

// prefixState returns the multiplier of prefix p's pages (rule 1.7) and the retention weight of its most valuable
// resident member (rule 9.6); both are 0 when no member is resident.
func (v *env) prefixState(p int) (multiplier, retention uint32) {
	var fp16, int8, any, sys, ctx, gen, rea uint64
	for w := range v.blocks {
		b := &v.blocks[w]
		r := b.Members[p-1] &^ b.Swapped
		any |= r
		fp16 |= r &^ (b.Int8 | b.Int4)
		int8 |= r & b.Int8
		sys |= r & b.system()
		ctx |= r & b.context()
		gen |= r & b.generation()
		rea |= r & b.reasoning()
	}
	switch {
	case any == 0:
		return 0, 0
	case fp16 != 0:
		multiplier = 4
	case int8 != 0:
		multiplier = 2
	default:
		multiplier = 1
	}
	switch {
	case sys != 0:
		retention = 20
	case ctx != 0:
		retention = 15
	case gen != 0:
		retention = 10
	case rea != 0:
		retention = 2
	}
	return multiplier, retention
}

// recountShared recomputes the memory of shared prefixes; rule 1.7. Called only when membership, residency or
// quantisation changed.
func (v *env) recountShared() {
	var shared, retained uint32
	for p := 1; p <= int(v.Episode.NumPrefixes) && p <= kv.MaxPrefixes; p++ {
		m, r := v.prefixState(p)
		qp := m * uint32(v.Episode.PrefixPages[p])
		shared += qp
		retained += r * qp
	}
	v.SharedQP, v.RetainedShared = shared, retained
}

// removeMemory takes qp quarter pages of slot s off the private totals.
func (v *env) removeMemory(b *block, s uint, qp uint32) {
	v.PrivateQP -= qp
	v.RetainedPrivate -= qp * b.blockType(s).RetentionTwentieths()
}

// generate is rules 6.4 to 6.8: hotness decays, phases advance, sequences generate, finished ones complete. It tells
// whether a sequence completed.
func (v *env) generate() bool {
	completed := false
	used := v.usedQP()
	for w := range v.blocks {
		b := &v.blocks[w]
		if b.Alive == 0 {
			continue
		}
		decayHotness(&b.Hotness)
		started := b.Prefill
		active := b.Active
		idle := b.Alive &^ (started | active)
		done := v.rest(b, idle)
		done |= v.decodeResident(b, active&^b.Swapped, &used)
		if swapped := active & b.Swapped; swapped != 0 {
			done |= v.decodeSwapped(b, swapped)
		}
		b.Active |= started
		b.Prefill = 0
		if done != 0 {
			completed = true
			v.complete(b, done)
		}
	}
	return completed
}

// decayHotness takes a quarter (rounded down) off all 64 values; dead slots' stale values decay harmlessly.
func decayHotness(h *[64]uint8) {
	for i := 0; i < 64; i += 8 {
		x := load64(h, i)
		store64(h, i, x-x>>2&0x3F3F3F3F3F3F3F3F)
	}
}

// rest counts down the timers of idle slots and returns those whose lingering is over; rule 6.5.
func (v *env) rest(b *block, idle uint64) (done uint64) {
	for m := idle &^ b.system(); m != 0; m &= m - 1 {
		s := bits.TrailingZeros64(m) & 63
		c := b.Cycle[s]
		if c&15 == 0 {
			continue
		}
		c--
		if c&15 == 0 {
			if b.Remaining[s] == 0 {
				done |= m & -m
			} else {
				b.Active |= m & -m
				c |= 2 + c>>4&3
			}
		}
		b.Cycle[s] = c
	}
	return done
}

// decodeResident generates on resident slots in slot order; rule 6.6. It returns those that completed.
func (v *env) decodeResident(b *block, active uint64, used *uint32) (done uint64) {
	total, u := uint32(0), *used
	for m := active; m != 0; m &= m - 1 {
		s := bits.TrailingZeros64(m) & 63
		tokens := b.Tokens[s]
		n := min(b.Rate[s], b.Remaining[s])
		if grown := kv.Pages(tokens+uint32(n)) - kv.Pages(tokens); grown != 0 {
			qp := grown * b.quant(uint(s)).QuarterPages()
			if u+qp > v.Episode.CapacityQP {
				continue
			}
			u += qp
			v.PrivateQP += qp
			v.RetainedPrivate += qp * b.blockType(uint(s)).RetentionTwentieths()
		}
		total += uint32(n)
		done |= v.advance(b, uint(s), n)
	}
	*used = u
	v.Tokens += total
	return done
}

// decodeSwapped generates at half the rate on swapped slots and charges the access; rule 6.7.
func (v *env) decodeSwapped(b *block, swapped uint64) (done uint64) {
	for m := swapped; m != 0; m &= m - 1 {
		s := uint(bits.TrailingZeros64(m)) & 63
		v.readSwapped(b, s)
		n := min((b.Rate[s]+1)/2, b.Remaining[s])
		v.Tokens += uint32(n)
		done |= v.advance(b, s, n)
	}
	return done
}

// readSwapped charges one access to a swapped sequence; rule 6.9.
func (v *env) readSwapped(b *block, s uint) {
	v.LatencyMilli += 100 + min(200, 2*v.privatePages(b, s)*b.quant(s).QuarterPages())
	v.Counters.SwapReads++
}

// advance gives slot s its n tokens and moves its phase; rule 6.8. It returns the slot's bit if the sequence completed.
func (v *env) advance(b *block, s uint, n uint16) (done uint64) {
	s &= 63
	bit := uint64(1) << s
	rest := b.Remaining[s] - n
	b.Tokens[s] += uint32(n)
	b.Remaining[s] = rest
	b.LastAccess[s] = int16(v.Step)
	b.Hotness[s] += 63
	t0, t1 := b.Type0>>s&1, b.Type1>>s&1
	if rest == 0 {
		if t0 != t1 { // context or generation
			return bit
		}
		b.Active &^= bit // reasoning or ephemeral: lingers
		c := b.Cycle[s]
		b.Cycle[s] = c&^15 | 1 + c>>6
		return 0
	}
	if c := b.Cycle[s]; t0&^t1 != 0 && c&15 != 0 { // context pauses
		c--
		if c&15 == 0 {
			b.Active &^= bit
			c |= 1 + c>>6
		}
		b.Cycle[s] = c
	}
	return 0
}

// complete removes finished sequences; rule 6.10.
func (v *env) complete(b *block, done uint64) {
	for m := done &^ b.Swapped; m != 0; m &= m - 1 {
		s := uint(bits.TrailingZeros64(m))
		v.removeMemory(b, s, v.privatePages(b, s)*b.quant(s).QuarterPages())
	}
	v.Counters.Completed += uint32(bits.OnesCount64(done))
	b.clear(done)
}
