package vecenv

import (
	"encoding/binary"
	"math/bits"

	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/scenario"
)

// serveQueue admits what fits, oldest first, and fails what has waited MaxWait steps; rules 7.2 to 7.5.
func (v *env) serveQueue() {
	n := int(v.QueueLen)
	if n == 0 {
		v.refreshShared()
		return
	}
	old := 0 // requests at the queue's head that fail unless they are admitted now
	for old < n && v.Step-scenario.Birth(v.queue()[old]) >= v.rules.maxWait {
		old++
	}
	a := &v.scratch.admission
	v.startAdmission(a)
	kept := 0
	for first := 0; first < n; first += scan {
		a.Taken, a.Failed, a.Private, a.Gone, a.Joins = 0, 0, 0, 0, [8]uint8{}
		kept = kernels.Admit(v.queue()[:v.rules.words], v.needs(), first, min(scan, n-first), max(0, min(scan, old-first)), kept, a)
		v.served(a)
		if a.Taken != 0 {
			v.enter(a)
		}
	}
	v.QueueLen = int32(kept)
	v.refreshShared()
}

// served adds what an admission has done.
func (v *env) served(a *kernels.Admission) {
	v.PrivateQP += a.Private
	v.PendingQP -= a.Gone
	v.Counters.Failures += a.Failed
	v.Counters.Admitted += a.Taken
}

// scan is how many waiting requests one call of kernels.Admit looks at; arriving the room that queues have beyond their capacity, so
// that requests can be written eight at a time.
const (
	scan     = 32
	arriving = 8
)

// startAdmission says what there is room for. The scratch holds the prefixes' present state.
func (v *env) startAdmission(a *kernels.Admission) {
	a.Extra, a.Used, a.Budget, a.Joins = &v.scratch.shared.Extra, v.UsedQP(), v.Episode.BudgetQP, [8]uint8{}
	a.Free = 0
	for w := range v.rules.width {
		a.Free += uint32(bits.OnesCount64(^v.block(w).Alive & v.slotMask(w)))
	}
}

// enter puts admitted requests into the lowest free slots and lets them access the system entries of their prefixes; rules 7.3 and 7.4.
func (v *env) enter(a *kernels.Admission) {
	step := int16(v.Step)
	v.chargeSystems(&a.Joins)
	v.touchSystems(&a.Joins)
	for first := uint32(0); first < a.Taken; first += 8 {
		count := int(min(8, a.Taken-first))
		v.rules.source.Requests(&v.Episode, (*[8]scenario.Word)(a.Words[first:]), count, step, &v.scratch.newcomers)
		v.place(1<<count - 1)
	}
}

// chargeSystems counts the accesses that joins of prefixes make to those of their system entries that are swapped; rules 6.9 and 7.4.
func (v *env) chargeSystems(joins *[8]uint8) {
	for w := range v.rules.width {
		b := v.block(w)
		v.chargeReads(b, b.system()&b.Swapped, joins)
	}
}

// chargeReads does it for the system entries of a plane, all swapped.
func (v *env) chargeReads(b *block, plane uint64, joins *[8]uint8) {
	for m := plane; m != 0; m &= m - 1 {
		s := uint(bits.TrailingZeros64(m)) & 63
		if p := b.Prefix[s] & kv.MaxPrefixes; p != 0 {
			for range joins[p] {
				v.readSwapped(b, s)
			}
		}
	}
}

// place puts those of the scratch's newcomers that a mask names into the lowest free slots, of which there are enough.
func (v *env) place(take uint8) {
	if v.rules.width == 1 {
		b := v.block(0)
		slots := lowest(^b.Alive&v.rules.lastMask, bits.OnesCount8(take))
		v.RetainedPrivate += kernels.Place(&b.Block, slots, &v.scratch.newcomers, take)
		return
	}
	for w := range v.rules.width {
		b := v.block(w)
		free := ^b.Alive & v.slotMask(w)
		n := min(bits.OnesCount64(uint64(take)), bits.OnesCount64(free))
		here := uint8(lowest(uint64(take), n))
		v.RetainedPrivate += kernels.Place(&b.Block, lowest(free, n), &v.scratch.newcomers, here)
		if take &^= here; take == 0 {
			return
		}
	}
}

// lowest are the n lowest bits that are set in x, which has as many.
func lowest(x uint64, n int) uint64 {
	at := bits.TrailingZeros64(x)
	if run := (uint64(1)<<(n&63) - 1) << (at & 63); x&run == run && n < 64 { // most often they are neighbours
		return run
	}
	rest := x
	for range n {
		rest &= rest - 1
	}
	return x &^ rest
}

func (v *env) prefixTokens(prefix uint8) uint32 {
	return uint32(v.Episode.PrefixPages[prefix&kv.MaxPrefixes]) * kv.PageTokens
}

// arrive appends the step's new requests to the queue and rejects those it has no room for; rule 7.6.
func (v *env) arrive() {
	n := int(v.QueueLen)
	room := v.queue()[n:v.rules.queueCap]
	needs := v.needs()[n:][:len(room)]
	arrived, qp := v.rules.source.Arrive(&v.Episode, int(v.Step), room, needs)
	taken := min(arrived, len(room))
	v.PendingQP += qp
	v.QueueLen = int32(n + taken)
	v.Counters.Arrived += uint32(arrived)
	v.Counters.Rejected += uint32(arrived - taken)
	v.Counters.Failures += uint32(arrived - taken)
}

// reset starts the episode of the given identity; rules 3.1 to 3.4.
func (v *env) reset(id scenario.Identity) {
	*v.head = head{}
	if v.rules.serving != nil {
		clear(v.blocks())
		v.resetServing(id)
		return
	}
	src := v.rules.source
	src.Begin(id, &v.Episode)
	for w := range v.rules.width { // not before: wide loads of what Begin stores would wait for all of it
		v.block(w).Empty()
	}
	a := &v.scratch.admission
	v.startAdmission(a)
	for first := 0; first < int(v.Episode.NumInitial); first += len(v.scratch.newcomers.Need) {
		v.placeInitials(a, src.Initials(&v.Episode, first, &v.scratch.newcomers))
	}
	if v.rules.drawn != nil { // in one kernel: there is nobody to admit
		s := v.scratch
		v.rules.drawn.Draws(&v.Episode, 0, &s.draws)
		v.complete(kernels.Step(&v.seat, &v.rules.frame, nil, &s.draws, &s.admission, &s.shared, kernels.StageServe))
		return
	}
	v.refreshShared()
	v.arrive()
}

// placeInitials puts those of the first n of the scratch's newcomers that fit into the budget into the lowest free slots; rule 3.2. It returns which.
func (v *env) placeInitials(a *kernels.Admission, n int) (take uint8) {
	joins := a.Joins[:] // as one word
	private, whole, joined := kernels.Together(&v.scratch.newcomers, n, binary.LittleEndian.Uint64(joins), &v.Episode.PrefixPages)
	if int(a.Free) >= n && a.Used+whole <= a.Budget { // most often all of them
		a.Used, a.Free = a.Used+whole, a.Free-uint32(n)
		binary.LittleEndian.PutUint64(joins, joined)
		v.PrivateQP += private
		take = uint8(1<<n - 1)
	} else {
		take = v.someInitials(a, n)
	}
	v.place(take)
	return take
}

// firstOf is what a prefix takes if nobody has joined it before: a trace gives a prefix its pages with the first of the initial sequences
// that shares it.
func (v *env) firstOf(joins *[8]uint8, p uint8) uint32 {
	return uint32(1-joins[p&kv.MaxPrefixes]) * uint32(v.Episode.PrefixPages[p&kv.MaxPrefixes]) * kv.FP16QuarterPages
}

// someInitials chooses, of the first n of the scratch's newcomers, each that still fits.
func (v *env) someInitials(a *kernels.Admission, n int) (take uint8) {
	for i, need := range v.scratch.newcomers.Need[:n] {
		p := v.scratch.newcomers.Prefix[i] & kv.MaxPrefixes
		whole := need + v.firstOf(&a.Joins, p)
		if a.Free == 0 || a.Used+whole > a.Budget {
			continue
		}
		a.Used += whole
		a.Joins[p] = 1
		a.Free--
		v.PrivateQP += need
		take |= 1 << i
	}
	return take
}
