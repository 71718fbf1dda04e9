package vecenv

import (
	"math/bits"

	"github.com/kvgym/kvgym/kv"
)

// The phases of a step of the serving profile that move, compute and generate; rules 13.14 to 13.19.

// transferOut moves leaving sequences to CPU memory as far as the link's budget goes; rule 13.14.
func (v *env) transferOut() {
	budget := v.rules.serving.linkQP
	for w := range v.blocks {
		b, l := &v.blocks[w], &v.lanes[w]
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
	v.countTransfer(budget)
}

// transferIn does it for returning ones.
func (v *env) transferIn() {
	budget := v.rules.serving.linkQP
	for w := range v.lanes {
		l := &v.lanes[w]
		for m := l.In; m != 0; m &= m - 1 {
			if l.move(uint(bits.TrailingZeros64(m)), &budget) {
				l.In &^= m & -m
			}
		}
	}
	v.countTransfer(budget)
}

// move takes what a slot still has to move from the link's budget, and tells whether it has arrived.
func (l *lane) move(s uint, budget *int64) bool {
	s &= 63
	x := min(*budget, int64(l.Moving[s]))
	l.Moving[s] -= uint32(x)
	*budget -= x
	return l.Moving[s] == 0
}

// countTransfer counts the time of what a direction of the link has moved in a step, of which budget was left.
func (v *env) countTransfer(budget int64) {
	if moved := v.rules.serving.linkQP - budget; moved != 0 {
		v.tally.WasteUS += uint64(v.rules.serving.preset.LinkNS(moved) / 1000)
	}
}

// wake lets idle sequences go on or end; rule 13.15.
func (v *env) wake() {
	for w := range v.blocks {
		b, l := &v.blocks[w], &v.lanes[w]
		for m := b.Alive &^ (b.Prefill | b.Active | l.Out | l.In | b.system()); m != 0; m &= m - 1 {
			s := uint(bits.TrailingZeros64(m)) & 63
			if int32(l.Wake[s]) <= v.Step && b.Alive>>s&1 != 0 { // an earlier slot may have preempted this one
				v.wakeSlot(w, s)
			}
		}
	}
}

func (v *env) wakeSlot(w int, s uint) {
	s &= 63
	b, l := &v.blocks[w], &v.lanes[w]
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
	l.Work[s] = v.rules.serving.preset.PrefillUS(int64(turn.PromptTokens), int64(tokens))
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

// grow gives a resident slot the memory for n more tokens, preempting the newest sequences where there is none, and tells
// whether the sequence itself is still there; rule 13.16. The tokens themselves are for the caller to add.
func (v *env) grow(w int, s uint, n uint32) bool {
	s &= 63
	b := &v.blocks[w]
	pages := kv.Pages(b.Tokens[s]+n) - kv.Pages(b.Tokens[s])
	if pages == 0 {
		return true
	}
	qp := pages * b.quant(s).QuarterPages()
	for v.usedQP()+qp > v.Episode.BudgetQP {
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
	v.PrivateQP += qp
	v.RetainedPrivate += qp * b.blockType(s).RetentionTwentieths()
	return true
}

// newest is the resident sequence that was admitted last, of several the one in the highest slot.
func (v *env) newest() (w int, s uint, ok bool) {
	best := int16(-1)
	for i := range v.blocks {
		b, l := &v.blocks[i], &v.lanes[i]
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
	for i := range v.lanes {
		for m := set[i&3]; m != 0; m &= m - 1 {
			k := uint(bits.TrailingZeros64(m)) & 63
			if a := int32(v.lanes[i].Admit[k]); a < best {
				w, s, ok, best = i, k, true, a
			}
		}
	}
	return w, s, ok
}

// prefill spends the step's prefill time, oldest admission first, and returns what it spent, microseconds; rule 13.17.
func (v *env) prefill() int64 {
	var set [4]uint64
	any := uint64(0)
	for w := range v.blocks {
		b, l := &v.blocks[w], &v.lanes[w]
		set[w&3] = b.Prefill &^ (b.Swapped | l.Out | l.In)
		any |= set[w&3]
	}
	if any == 0 {
		return 0
	}
	budget := v.rules.serving.prefillUS
	left := budget
	for left > 0 {
		w, s, ok := v.oldest(&set)
		if !ok {
			break
		}
		b, l := &v.blocks[w], &v.lanes[w]
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

// decodeServing generates with what is left of the step; rule 13.18.
func (v *env) decodeServing(prefilled, busyQP int64) {
	var set [4]uint64
	running, context := 0, int64(0)
	for w := range v.blocks {
		b, l := &v.blocks[w], &v.lanes[w]
		active := b.Active &^ (b.Swapped | l.Out | l.In)
		set[w&3] = active
		running += bits.OnesCount64(active)
		for m := active; m != 0; m &= m - 1 {
			context += int64(b.Tokens[bits.TrailingZeros64(m)&63])
		}
	}
	if running == 0 {
		return
	}
	n := v.decodeTokens(running, context, prefilled, busyQP)
	if n == 0 {
		return
	}
	good := uint64(0)
	for w := range v.blocks {
		good += v.decodeBlock(w, set[w&3], n)
	}
	v.tally.Goodput += good / 2000
}

// decodeTokens is how many tokens each of the running sequences generates in a step that has spent some time on prefill and
// compression.
func (v *env) decodeTokens(running int, context, prefilled, busyQP int64) uint32 {
	r := v.rules.serving
	left := r.stepUS
	if busyQP != 0 {
		left -= r.preset.CompressNS(busyQP) / 1000
	}
	if !r.preset.Disaggregated {
		left -= prefilled
	}
	if left <= 0 {
		return 0
	}
	return uint32(min(65_535, left*1000/r.preset.AttentionNS(r.decodeBase[running&511%257], context)))
}

// decodeBlock generates up to n tokens on every slot of a set and returns their worth; rule 13.18.
func (v *env) decodeBlock(w int, set uint64, n uint32) (worth uint64) {
	b, l := &v.blocks[w], &v.lanes[w]
	quality := &v.rules.serving.quality
	step, total := int16(v.Step), uint32(0)
	for m := set; m != 0; m &= m - 1 {
		s := uint(bits.TrailingZeros64(m)) & 63
		bit := m & -m
		if b.Active&bit == 0 {
			continue // an earlier slot has preempted this one
		}
		tokens, rest := b.Tokens[s], b.Remaining[s]
		k := min(n, uint32(rest))
		if kv.Pages(tokens+k) != kv.Pages(tokens) && !v.grow(w, s, k) {
			continue
		}
		rest -= uint16(k)
		total += k
		b.Tokens[s] = tokens + k
		b.Remaining[s] = rest
		b.Rate[s] = uint16(k)
		b.LastAccess[s] = step
		b.Hotness[s] = uint8(min(255, uint32(b.Hotness[s])+63))
		if l.First&bit == 0 {
			v.firstToken(l, s)
		}
		level := max(b.quant(s), levelOf[v.PrefixMul[b.Prefix[s]&kv.MaxPrefixes]&7])
		worth += uint64(k) * uint64(kv.TokenWeight(uint32(b.Priority[s]))) * quality[level&3] << (1 &^ (l.Late >> s & 1))
		if rest == 0 {
			v.endTurn(w, s)
		}
	}
	v.Tokens += uint64(total)
	return worth
}

// levelOf turns quarter pages a page into the level; no prefix counts as fp16.
var levelOf = [8]kv.Quant{0: kv.FP16, 1: kv.INT4, 2: kv.INT8, 4: kv.FP16}

func (v *env) firstToken(l *lane, s uint) {
	l.First |= 1 << s
	v.Counters.FirstTokens++
	if v.Step-int32(l.Born[s&63]) > v.rules.maxWait {
		l.Late |= 1 << s
		v.Counters.Late++
	}
}

// endTurn is rule 13.19.
func (v *env) endTurn(w int, s uint) {
	s &= 63
	b, l := &v.blocks[w], &v.lanes[w]
	turn, ok := v.rules.source.Next(&v.Episode, l.Ref[s])
	if !ok && l.Ref[s] == 0 && b.blockType(s) == kv.Generation {
		v.remove(w, s)
		v.Counters.Completed++
		return
	}
	b.Active &^= 1 << s
	pause := 2 * int32(1+b.Cycle[s]>>6)
	if ok {
		pause = int32(turn.PauseSteps)
	}
	l.Wake[s] = int16(min(maxWake, v.Step+pause))
}
