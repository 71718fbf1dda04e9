package vecenv

import (
	"math/bits"

	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/scenario"
)

// serveQueue admits what fits, oldest first, and fails what has waited MaxWait steps; rules 7.2 to 7.5.
func (v *env) serveQueue() {
	n := int(v.QueueLen)
	if n == 0 {
		return
	}
	old := 0 // requests at the queue's head that fail unless they are admitted now
	for old < n && v.Step-v.queue[old].Birth() >= v.rules.maxWait {
		old++
	}
	kept := 0
	for first := 0; first < n; first += scan {
		kept = v.serveChunk(first, min(scan, n-first), old-first, kept)
	}
	v.QueueLen = int32(kept)
}

// scan is how many waiting requests one call of kernels.Fits looks at.
const scan = 32

// serveChunk does it for requests first to first+n, of which the first `old` are in their last step, and moves those that stay
// to kept on. What fits by the memory in use now is a superset of what fits in the end: an admission never lowers what is in
// use plus what another request needs.
func (v *env) serveChunk(first, n, old, kept int) int {
	queue, needs := v.queue[first:first+n], v.needs[first:first+scan]
	gone := ^uint64(0) >> (64 - uint(max(0, min(old, n))))
	failed := bits.OnesCount64(gone)
	if used := v.usedQP(); used < v.Episode.BudgetQP {
		extra := v.sharedNeeds()
		for fit := kernels.Fits((*[scan]uint32)(needs), n, &extra, v.Episode.BudgetQP-used); fit != 0; fit &= fit - 1 {
			i := bits.TrailingZeros64(fit)
			if v.admit(queue[i], needs[i]) {
				failed -= int(gone >> i & 1)
				gone |= fit & -fit
				v.Counters.Admitted++
			}
		}
	}
	v.Counters.Failures += uint32(failed)
	if gone == 0 && kept == first {
		return first + n
	}
	for i := range queue { // a queue that loses requests in its middle is compacted
		v.queue[kept], v.needs[kept] = queue[i], needs[i]
		leaves := uint32(gone >> i & 1)
		kept += int(1 - leaves)
		v.PendingQP -= needs[i] & kernels.DemandMask & -leaves
	}
	return kept
}

// sharedNeeds is what a new fp16 member of each prefix adds to its memory; rule 7.2.
func (v *env) sharedNeeds() (extra [8]uint32) {
	for p := 1; p <= int(v.Episode.NumPrefixes) && p < len(extra); p++ {
		extra[p] = uint32(v.Episode.PrefixPages[p]) * (kv.FP16QuarterPages - uint32(v.PrefixMul[p]))
	}
	return extra
}

// admit places the request, whose need is given, if a slot is free and its memory fits into the budget; rules 7.2 and 7.3.
func (v *env) admit(word scenario.Word, need uint32) bool {
	qp, prefix := need&kernels.DemandMask, uint8(need>>kernels.DemandShift)
	if v.usedQP()+qp+v.sharedNeed(prefix) > v.Episode.BudgetQP {
		return false
	}
	w, s, ok := v.freeSlot()
	if !ok {
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
	needs := v.needs[n:][:len(room)]
	arrived := v.rules.source.Arrive(&v.Episode, int(v.Step), room, needs)
	taken := min(arrived, len(room))
	for _, need := range needs[:taken] {
		v.PendingQP += need & kernels.DemandMask
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
