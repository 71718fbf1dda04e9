package vecenv

import (
	"math"
	"math/bits"

	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/kv"
)

// The phases of a step of the serving profile that move, compute and generate; rules 13.14 to 13.19.

// transferOut moves leaving sequences to CPU memory as far as the link's budget goes; rule 13.14.
func (v *env) transferOut() {
	budget := v.rules.serving.linkQP
	for w := range v.rules.width {
		b, l := v.block(w), v.lane(w)
		for m := l.Out; m != 0; m &= m - 1 {
			s := uint(bits.TrailingZeros64(m)) & 63
			if !l.move(s, &budget) {
				continue
			}
			v.release(b, s)
			l.Out &^= m & -m
			l.Fresh |= m & -m
			b.Swapped |= m & -m
			v.leave(b.Prefix[s])
		}
	}
	v.countTransfer(v.rules.serving.linkQP - budget)
}

// transferIn does it for returning ones.
func (v *env) transferIn() {
	budget := v.rules.serving.linkQP
	for w := range v.rules.width {
		l := v.lane(w)
		for m := l.In; m != 0; m &= m - 1 {
			if l.move(uint(bits.TrailingZeros64(m)), &budget) {
				l.In &^= m & -m
			}
		}
	}
	v.countTransfer(v.rules.serving.linkQP - budget)
}

// move takes what a slot still has to move from the link's budget, and tells whether it has arrived.
func (l *lane) move(s uint, budget *int64) bool {
	s &= 63
	x := min(*budget, int64(l.Moving[s]))
	l.Moving[s] -= uint32(x)
	*budget -= x
	return l.Moving[s] == 0
}

// countTransfer counts the time of what a direction of the link has moved in a step.
func (v *env) countTransfer(movedQP int64) {
	v.tally.WasteUS += uint64(v.rules.serving.preset.LinkNS(movedQP)) / 1000
}

// wake lets idle sequences go on or end; rule 13.15.
func (v *env) wake() {
	for w := range v.rules.width {
		b, l := v.block(w), v.lane(w)
		idle := b.Alive &^ (b.Prefill | b.Active | l.Out | l.In | b.system())
		if idle == 0 {
			continue
		}
		for m := kernels.Due(&l.Wake, idle, int16(v.Step)); m != 0; m &= m - 1 {
			if b.Alive&m&-m != 0 { // an earlier slot may have preempted this one
				v.wakeSlot(w, uint(bits.TrailingZeros64(m)))
			}
		}
	}
}

func (v *env) wakeSlot(w int, s uint) {
	s &= 63
	b, l := v.block(w), v.lane(w)
	bit := uint64(1) << s
	turn, ok := v.rules.source.Next(&v.Episode, l.Ref[s])
	if !ok {
		v.remove(w, s)
		v.Counters.Completed++
		return
	}
	tokens := b.Tokens[s]
	if b.Swapped&bit == 0 && !v.grow(w, s, turn.PromptTokens) {
		return
	}
	l.Work[s] = v.rules.serving.clock.PrefillUS(turn.PromptTokens, tokens)
	b.Tokens[s] = tokens + turn.PromptTokens
	b.Remaining[s] = turn.OutputTokens
	b.Prefill |= bit
	if b.Type1&^b.Type0&bit != 0 { // generation becomes context
		if b.Swapped&bit == 0 {
			v.RetainedPrivate += 5 * v.privatePages(b, s) * b.quant(s).QuarterPages()
		}
		b.Type0 |= bit
		b.Type1 &^= bit
	}
	l.Ref[s], l.Born[s] = turn.Ref, int16(v.Step)
	l.First &^= bit
	l.Late &^= bit
	b.LastAccess[s] = int16(v.Step)
	b.Hotness[s] = uint8(min(255, int(b.Hotness[s])+63))
}

// grow gives a resident slot the memory for n more tokens and tells whether the sequence itself is still there; rule 13.16. The tokens
// themselves are for the caller to add.
func (v *env) grow(w int, s uint, n uint32) bool {
	b := v.block(w)
	qp := v.growth(b, s, n)
	if !v.makeRoom(w, s, qp) {
		return false
	}
	v.PrivateQP += qp
	v.RetainedPrivate += qp * b.blockType(s).RetentionTwentieths()
	return true
}

// growth is the memory that n more tokens take.
func (v *env) growth(b *block, s uint, n uint32) uint32 {
	s &= 63
	return (kv.Pages(b.Tokens[s]+n) - kv.Pages(b.Tokens[s])) * b.quant(s).QuarterPages()
}

// makeRoom preempts the newest sequences until a slot can grow by some quarter pages, and tells whether its own is still there.
func (v *env) makeRoom(w int, s uint, qp uint32) bool {
	for qp != 0 && v.UsedQP()+qp > v.Episode.BudgetQP {
		vw, vs, ok := v.newest()
		if !ok {
			break
		}
		v.Counters.Forced++
		v.drop(vw, vs)
		if vw == w && vs == s {
			return false
		}
	}
	return true
}

// newest is the resident sequence that was admitted last, of several the one in the highest slot.
func (v *env) newest() (w int, s uint, ok bool) {
	best := int16(-1)
	for i := range v.rules.width {
		b, l := v.block(i), v.lane(i)
		for m := b.Alive &^ (b.Swapped | b.system()); m != 0; m &= m - 1 {
			k := uint(bits.TrailingZeros64(m)) & 63
			if l.Admit[k] >= best && v.privatePages(b, k) != 0 {
				w, s, ok, best = i, k, true, l.Admit[k]
			}
		}
	}
	return w, s, ok
}

// oldest is the slot of a set, given block by block, that was admitted first, of several the lowest.
func (v *env) oldest(set *[4]uint64) (w int, s uint, ok bool) {
	best := int32(maxWake + 1)
	for i := range v.rules.width {
		for m := set[i&3]; m != 0; m &= m - 1 {
			k := uint(bits.TrailingZeros64(m)) & 63
			if a := int32(v.lane(i).Admit[k]); a < best {
				w, s, ok, best = i, k, true, a
			}
		}
	}
	return w, s, ok
}

// work adds up the prefill that a set of slots has left.
func (v *env) work(set *[4]uint64) (us int64) {
	for w := range v.rules.width {
		us += int64(kernels.Sum(&v.lane(w).Work, set[w&3]))
	}
	return us
}

// prefill spends the step's prefill time, oldest admission first, and returns what it spent, microseconds; rule 13.17.
func (v *env) prefill() int64 {
	var set [4]uint64
	any := uint64(0)
	for w := range v.rules.width {
		b, l := v.block(w), v.lane(w)
		set[w&3] = b.Prefill &^ (b.Swapped | l.Out | l.In)
		any |= set[w&3]
	}
	if any == 0 {
		return 0
	}
	budget := v.rules.serving.prefillUS
	if work := v.work(&set); work < budget { // enough for all, and no order to look at
		for w := range v.rules.width {
			v.block(w).Prefill &^= set[w&3]
			v.block(w).Active |= set[w&3]
		}
		return work
	}
	left := budget
	for left > 0 {
		w, s, ok := v.oldest(&set)
		if !ok {
			break
		}
		b, l := v.block(w), v.lane(w)
		x := min(left, int64(l.Work[s]))
		l.Work[s] -= uint32(x)
		left -= x
		if l.Work[s] == 0 {
			bit := uint64(1) << s
			set[w&3] &^= bit
			b.Prefill &^= bit
			b.Active |= bit
		}
	}
	return budget - left
}

// compute prefills, and generates with what is left of the step; rules 13.17 and 13.18.
func (v *env) compute(busyQP int64) {
	if v.rules.width == 1 {
		b, p := v.block(0), &v.scratch.prefilled
		kernels.Prefill(&b.Block, &v.lane(0).Lane, uint64(v.rules.serving.prefillUS), p)
		v.decodeServing(&[4]uint64{p.Set}, bits.OnesCount64(p.Set), int64(p.Context), int64(p.Spent), busyQP)
		return
	}
	prefilled := v.prefill()
	var set [4]uint64
	running, context := 0, int64(0)
	for w := range v.rules.width {
		b, l := v.block(w), v.lane(w)
		set[w&3] = b.Active &^ (b.Swapped | l.Out | l.In)
		running += bits.OnesCount64(set[w&3])
		context += int64(kernels.Sum(&b.Tokens, set[w&3]))
	}
	v.decodeServing(&set, running, context, prefilled, busyQP)
}

// decodeServing generates on a set of so many slots with so many tokens; rule 13.18.
func (v *env) decodeServing(set *[4]uint64, running int, context, prefilled, busyQP int64) {
	if running == 0 {
		return
	}
	n := v.decodeTokens(running, context, prefilled, busyQP)
	if n == 0 {
		return
	}
	good := uint64(0)
	for w := range v.rules.width {
		good += v.decodeBlock(w, set[w&3], n)
	}
	v.tally.Goodput += good / 2000
}

// decodeTokens is how many tokens each of the running sequences generates in a step that has spent some time on prefill and
// compression.
func (v *env) decodeTokens(running int, context, prefilled, busyQP int64) uint32 {
	r := v.rules.serving
	left := r.stepUS - int64(uint64(r.preset.CompressNS(busyQP))/1000)
	if !r.preset.Disaggregated {
		left -= prefilled
	}
	if left <= 0 {
		return 0
	}
	return uint32(min(65_535, uint64(left*1000)/uint64(r.preset.AttentionNS(r.decodeBase[running&511%257], context))))
}

// decodeBlock generates up to n tokens on every slot of a set and returns their worth; rule 13.18. Where memory is short for all of
// them, one slot after the other gets some, and may preempt others for that or be preempted.
func (v *env) decodeBlock(w int, set uint64, n uint32) (worth uint64) {
	b := v.block(w)
	set &= b.Active // an earlier block may have preempted some
	if set == 0 {
		return 0
	}
	used := v.UsedQP()
	worth, ok := v.decodeSet(w, set, n, max(v.Episode.BudgetQP, used)-used)
	if ok {
		return worth
	}
	for m := set; m != 0; m &= m - 1 {
		s := uint(bits.TrailingZeros64(m)) & 63
		if b.Active>>s&1 != 0 && v.makeRoom(w, s, v.growth(b, s, min(n, uint32(b.Remaining[s])))) {
			more, _ := v.decodeSet(w, m&-m, n, math.MaxUint32)
			worth += more
		}
	}
	return worth
}

// decodeSet generates on a set of slots that are there if they need no more than room for that, and tells whether they do.
func (v *env) decodeSet(w int, set uint64, n, room uint32) (worth uint64, ok bool) {
	b, l, d := v.block(w), v.lane(w), &v.scratch.decoded
	deadline := int16(max(-1, v.Step-v.rules.maxWait-1))
	if !kernels.Decode(&b.Block, &l.Lane, &v.Ledger, set, n, deadline, room, &v.rules.serving.worth, d) {
		return 0, false
	}
	for m := d.Finished; m != 0; m &= m - 1 {
		v.endTurn(w, uint(bits.TrailingZeros64(m)))
	}
	if d.Gone != 0 {
		v.removeAll(w, d.Gone)
		v.Counters.Completed += uint32(bits.OnesCount64(d.Gone))
	}
	return d.Worth, true
}

// endTurn is rule 13.19 of a slot whose sequence has nothing left to generate and stays.
func (v *env) endTurn(w int, s uint) {
	s &= 63
	b, l := v.block(w), v.lane(w)
	b.Active &^= 1 << s
	pause := 2 * int32(1+b.Cycle[s]>>6)
	if turn, ok := v.rules.source.Next(&v.Episode, l.Ref[s]); ok {
		pause = int32(turn.PauseSteps)
	}
	l.Wake[s] = int16(min(maxWake, v.Step+pause))
}
