package vecenv

import (
	"math/bits"

	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/scenario"
)

const birthShift = scenario.PayloadBits

func birth(w scenario.Word) int32 { return int32(w >> birthShift) }

// serveQueue admits what fits, oldest first, and fails what has waited MaxWait steps; rules 7.2 to 7.5. The queue is
// compacted in the same pass: a ring would still need that, since a later request may pass one that does not fit.
func (v *env) serveQueue() {
	n := int(v.QueueLen)
	if n == 0 {
		return
	}
	kept, admitted := 0, uint32(0)
	pending := uint32(0)
	for i := 0; i < n && i < len(v.queue); i++ {
		word := v.queue[i]
		prompt, prefix := v.rules.source.Demand(&v.Episode, word)
		qp := kv.Pages(prompt) * kv.FP16QuarterPages
		if v.admit(word, qp, prefix) {
			admitted++
			continue
		}
		if v.Step-birth(word) >= v.rules.maxWait {
			v.Counters.Failures++
			continue
		}
		v.queue[kept] = word
		kept++
		pending += qp
	}
	v.QueueLen = int32(kept)
	v.PendingQP = pending
	v.Counters.Admitted += admitted
}

// admit places the request, whose private prompt takes qp quarter pages, if a slot is free and its memory fits into the
// budget; rules 7.2 and 7.3.
func (v *env) admit(word scenario.Word, qp uint32, prefix uint8) bool {
	if v.usedQP()+qp > v.Episode.BudgetQP {
		return false
	}
	w, s, ok := v.freeSlot()
	if !ok {
		return false
	}
	shared := v.sharedNeed(prefix)
	if v.usedQP()+qp+shared > v.Episode.BudgetQP {
		return false
	}
	q := v.rules.source.Decode(&v.Episode, word)
	b := &v.blocks[w]
	timer := uint8(0)
	if q.Type == kv.Context && !q.Steady {
		timer = 2 + q.OnCode()
	}
	b.place(s, &q, q.PromptTokens+v.prefixTokens(prefix), kv.Prefill, timer)
	b.Remaining[s&63] = q.OutputTokens
	b.LastAccess[s&63] = int16(v.Step)
	b.Hotness[s&63] = 63
	v.PrivateQP += qp
	v.RetainedPrivate += qp * q.Type.RetentionTwentieths()
	v.joinPrefix(prefix, q.Type)
	if prefix != 0 {
		v.touchSystem(int(prefix))
	}
	return true
}

func (v *env) prefixTokens(prefix uint8) uint32 {
	return uint32(v.Episode.PrefixPages[prefix&kv.MaxPrefixes]) * kv.PageTokens
}

// sharedNeed is what a new fp16 member adds to the memory of its prefix; rule 7.2.
func (v *env) sharedNeed(prefix uint8) uint32 {
	return uint32(v.Episode.PrefixPages[prefix&kv.MaxPrefixes]) * (kv.FP16QuarterPages - uint32(v.PrefixMul[prefix&kv.MaxPrefixes]))
}

// freeSlot is the lowest slot that holds no sequence.
func (v *env) freeSlot() (w int, s uint, ok bool) {
	for w := range v.blocks {
		if free := ^v.blocks[w].Alive & v.slotMask(w); free != 0 {
			return w, uint(bits.TrailingZeros64(free)), true
		}
	}
	return 0, 0, false
}

// touchSystem is the access that an admission makes to its prefix's system entry; rule 7.4.
func (v *env) touchSystem(p int) {
	for w := range v.blocks {
		b := &v.blocks[w]
		for m := b.Members[p-1] & b.system(); m != 0; m &= m - 1 {
			s := uint(bits.TrailingZeros64(m)) & 63
			if b.Swapped>>s&1 != 0 && v.rules.serving == nil {
				v.readSwapped(b, s)
			}
			b.LastAccess[s] = int16(v.Step)
			b.Hotness[s] = uint8(min(255, int(b.Hotness[s])+63))
		}
	}
}

// arrive appends the step's new requests to the queue and rejects those it has no room for; rule 7.6.
func (v *env) arrive() {
	n := int(v.QueueLen)
	room := v.queue[n:]
	arrived := v.rules.source.Arrive(&v.Episode, int(v.Step), room)
	taken := min(arrived, len(room))
	for i := range room[:taken] {
		prompt, _ := v.rules.source.Demand(&v.Episode, room[i])
		v.PendingQP += kv.Pages(prompt) * kv.FP16QuarterPages
		room[i] |= scenario.Word(v.Step) << birthShift
	}
	v.QueueLen = int32(n + taken)
	v.Counters.Arrived += uint32(arrived)
	v.Counters.Rejected += uint32(arrived - taken)
	v.Counters.Failures += uint32(arrived - taken)
}

// reset starts the episode of the given identity; rules 3.1 to 3.4.
func (v *env) reset(id scenario.Identity) {
	*v.head = head{}
	clear(v.blocks)
	if v.rules.serving != nil {
		clear(v.lanes)
		*v.tally = tally{Oldest: maxWake}
	}
	src := v.rules.source
	src.Begin(id, &v.Episode)
	for i := range int(v.Episode.NumInitial) {
		q := src.Initial(&v.Episode, i)
		v.placeInitial(&q)
	}
	if v.rules.serving != nil {
		v.arriveTickets()
		return
	}
	v.arrive()
}

// placeInitial puts an initial sequence into the lowest free slot if it fits into the budget.
func (v *env) placeInitial(q *scenario.InitialSequence) {
	w, s, ok := v.freeSlot()
	if !ok {
		return
	}
	shared := v.sharedNeed(q.Prefix)
	own := q.PromptTokens + uint32(q.DoneTokens)
	qp := kv.Pages(own) * kv.FP16QuarterPages
	if v.usedQP()+qp+shared > v.Episode.BudgetQP {
		return
	}
	b := &v.blocks[w]
	b.place(s, &q.Sequence, own+v.prefixTokens(q.Prefix), q.Phase, q.Timer)
	b.Remaining[s&63] = q.OutputTokens - q.DoneTokens
	b.LastAccess[s&63] = q.LastAccess
	b.Hotness[s&63] = q.Hotness
	v.PrivateQP += qp
	v.RetainedPrivate += qp * q.Type.RetentionTwentieths()
	resident := v.PrefixMul[q.Prefix&kv.MaxPrefixes] != 0
	v.joinPrefix(q.Prefix, q.Type)
	if v.rules.serving != nil {
		v.placeServing(w, s, q, resident)
	}
}
