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

// arriving is the room that queues have beyond their capacity, so that requests can be written eight at a time.
const arriving = 8

// serveChunk does it for requests first to first+n, of which the first `old` are in their last step, and moves those that stay
// to kept on.
func (v *env) serveChunk(first, n, old, kept int) int {
	taken := v.admit(first, n)
	gone := uint64(taken) | ^uint64(0)>>(64-uint(max(0, min(old, n))))
	if gone == 0 && kept == first {
		return first + n
	}
	v.Counters.Failures += uint32(bits.OnesCount64(gone &^ uint64(taken)))
	queue, needs, pending := v.queue[first:first+n], v.needs[first:first+n], uint32(0)
	for i, word := range queue { // requests leave from the middle, so what stays is moved together
		need := needs[i]
		v.queue[kept], v.needs[kept] = word, need
		leaves := uint32(gone >> (i & 63) & 1)
		kept += int(1 - leaves)
		pending += need & kernels.DemandMask & -leaves
	}
	v.PendingQP -= pending
	return kept
}

// admit admits those of n waiting requests for which there is a slot and memory, and tells which; rules 7.2 and 7.3. What fits by the
// memory in use at the start is a superset of what fits in the end: an admission never lowers what is in use plus what another
// request needs.
func (v *env) admit(first, n int) (taken uint32) {
	used, budget := v.usedQP(), v.Episode.BudgetQP
	if used >= budget {
		return 0
	}
	extra := v.sharedNeeds()
	needs := (*[scan]uint32)(v.needs[first:])
	free, private := v.freeSlots(), uint32(0)
	var joins [8]uint8 // requests that joined each prefix
	for fit := uint32(kernels.Fits(needs, n, &extra, budget-used)); fit != 0 && free > 0; fit &= fit - 1 {
		need := needs[bits.TrailingZeros32(fit)&(scan-1)]
		qp, p := need&kernels.DemandMask, need>>kernels.DemandShift&kv.MaxPrefixes
		if used+qp+extra[p] > budget {
			continue
		}
		used += qp + extra[p]
		private += qp
		if extra[p] != 0 || v.PrefixWeight[p] != 20 {
			v.dirty |= 1 << p
			extra[p] = 0
		}
		joins[p]++
		taken |= fit & -fit
		free--
	}
	if taken == 0 {
		return 0
	}
	v.PrivateQP += private
	v.Counters.Admitted += uint32(bits.OnesCount32(taken))
	v.placeRequests(first, taken)
	v.refreshShared()
	v.touchSystems(&joins)
	return taken
}

// placeRequests puts the taken ones of the waiting requests into the lowest free slots.
func (v *env) placeRequests(first int, taken uint32) {
	queue := v.queue[first:]
	for taken != 0 {
		count, words := 0, &v.scratch.words
		for ; taken != 0 && count < len(words); taken &= taken - 1 {
			words[count] = queue[bits.TrailingZeros32(taken)]
			count++
		}
		v.rules.source.Requests(&v.Episode, words, count, int16(v.Step), &v.scratch.newcomers)
		v.place(1<<count - 1)
	}
}

// place puts those of the scratch's newcomers that a mask names into the lowest free slots, of which there are enough.
func (v *env) place(take uint8) {
	for w := range v.blocks {
		b := &v.blocks[w]
		free := ^b.Alive & v.slotMask(w)
		slots, here := uint64(0), uint8(0)
		for m := take; m != 0 && free != 0; m &= m - 1 {
			slots |= free & -free
			here |= m & -m
			free &= free - 1
		}
		v.RetainedPrivate += kernels.Place(&b.Block, slots, &v.scratch.newcomers, here)
		if take &^= here; take == 0 {
			return
		}
	}
}

// freeSlots counts the slots that hold no sequence.
func (v *env) freeSlots() (n int) {
	for w := range v.blocks {
		n += bits.OnesCount64(^v.blocks[w].Alive & v.slotMask(w))
	}
	return n
}

// sharedNeeds is what a new fp16 member of each prefix adds to its memory; rule 7.2.
func (v *env) sharedNeeds() (extra [8]uint32) {
	for p := 1; p <= int(v.Episode.NumPrefixes) && p < len(extra); p++ {
		extra[p] = uint32(v.Episode.PrefixPages[p]) * (kv.FP16QuarterPages - uint32(v.PrefixMul[p]))
	}
	return extra
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

// touchSystems is the access that admissions make to the system entries of their prefixes; rule 7.4.
func (v *env) touchSystems(joins *[8]uint8) {
	var warmth [8]uint8
	for p, n := range joins {
		warmth[p] = uint8(min(255, 63*uint32(n)))
	}
	warmth[0] = 0
	for w := range v.blocks {
		b := &v.blocks[w]
		system := b.system()
		kernels.Touch(&b.Block, system, &warmth, int16(v.Step))
		for m := system & b.Swapped; m != 0; m &= m - 1 {
			s := uint(bits.TrailingZeros64(m)) & 63
			for range joins[b.Prefix[s]&kv.MaxPrefixes] {
				v.readSwapped(b, s)
			}
		}
	}
}

// arrive appends the step's new requests to the queue and rejects those it has no room for; rule 7.6.
func (v *env) arrive() {
	n := int(v.QueueLen)
	room := v.queue[n:v.rules.queueCap]
	needs := v.needs[n:][:len(room)]
	arrived := v.rules.source.Arrive(&v.Episode, int(v.Step), room, needs)
	taken := min(arrived, len(room))
	pending := uint32(0)
	for _, need := range needs[:taken] {
		pending += need & kernels.DemandMask
	}
	v.PendingQP += pending
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
		v.resetServing(id)
		return
	}
	src := v.rules.source
	src.Begin(id, &v.Episode)
	for first := 0; first < int(v.Episode.NumInitial); first += len(v.scratch.newcomers.Need) {
		v.placeInitials(src.Initials(&v.Episode, first, &v.scratch.newcomers))
	}
	v.arrive()
}

// placeInitials puts those of the first n of the scratch's newcomers that fit into the budget into the lowest free slots; rule 3.2.
func (v *env) placeInitials(n int) {
	free, take := v.freeSlots(), uint8(0)
	for i := range n {
		need, p := v.scratch.newcomers.Need[i], v.scratch.newcomers.Prefix[i]
		if free == 0 || v.usedQP()+need+v.sharedNeed(p) > v.Episode.BudgetQP {
			continue
		}
		take |= 1 << i
		free--
		v.PrivateQP += need
		t := v.scratch.newcomers.Type0>>i&1 | v.scratch.newcomers.Type1>>i&1<<1 | v.scratch.newcomers.Type2>>i&1<<2
		v.joinPrefix(p, kv.BlockType(t))
	}
	v.place(take)
}
