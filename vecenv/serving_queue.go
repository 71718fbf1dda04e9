package vecenv

import (
	"math/bits"

	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/scenario"
)

// How sequences come into an environment of the serving profile: back from CPU memory, from the queue, at the reset; rule 13.20.

func (v *env) watermark() uint32 { return v.Episode.BudgetQP / 64 }

// prefixNeed is what a prefix adds to the memory when a member comes; rule 13.20.
func (v *env) prefixNeed(p uint8) uint32 {
	p &= kv.MaxPrefixes
	return uint32(v.Episode.PrefixPages[p]) * kv.FP16QuarterPages &^ held(v.PrefixMul[p])
}

// held is all ones if somebody holds a prefix, of whom x tells, else 0: no branch, which nothing could predict.
func held(x uint8) uint32 { return uint32(-int32(x) >> 31) }

// swapIn brings swapped sequences back, oldest admission first; rule 13.20.
func (v *env) swapIn() {
	var set [4]uint64
	any := uint64(0)
	for w := range v.rules.width {
		b, l := v.block(w), v.lane(w)
		set[w&3] = b.Swapped &^ l.Fresh & (l.Wanted | b.Active | b.Prefill)
		any |= set[w&3]
	}
	if any == 0 {
		return
	}
	for {
		w, s, ok := v.oldest(&set)
		if !ok {
			return
		}
		b, l := v.block(w), v.lane(w)
		bit := uint64(1) << s
		set[w&3] &^= bit
		qp := v.privatePages(b, s) * b.quant(s).QuarterPages()
		need := qp + v.prefixNeed(b.Prefix[s])
		if v.UsedQP()+need+v.watermark() > v.Episode.BudgetQP {
			continue
		}
		v.hold(b.Prefix[s])
		v.PrivateQP += qp
		v.RetainedPrivate += qp * b.blockType(s).RetentionTwentieths()
		b.Swapped &^= bit
		l.Wanted &^= bit
		l.In |= bit
		l.Moving[s] = need
	}
}

// serveTickets admits what fits, in order, and fails what has waited too long; rule 13.20.
func (v *env) serveTickets() {
	if v.rules.width == 1 && v.QueueLen <= kernels.TicketLanes {
		s := &v.scratch.served
		kernels.ServeTickets(&v.seat, &v.rules.frame, &v.firstLane.Lane, v.firstTicket, v.rules.serving.ticketClock, s)
		v.tally.WasteUS += s.Waste
		v.tally.FirstWaits += s.FirstWaits
		v.tally.Oldest = s.Oldest
		return
	}
	v.serveGroups()
}

// serveGroups does it one group of tickets after the other.
func (v *env) serveGroups() {
	kept, oldest, n, pending := 0, int16(maxWake), int(v.QueueLen), uint32(0)
	v.scratch.served.Joins = [kv.MaxPrefixes + 1]uint8{}
	for first := 0; first < n; first += kernels.TicketLanes {
		t := &v.tickets()[first/kernels.TicketLanes]
		stay := v.serveGroup(t, min(kernels.TicketLanes, n-first))
		since, qp := kernels.Leave(t, stay)
		oldest, pending = min(oldest, since), pending+qp
		left := bits.OnesCount32(stay)
		for i := 0; kept < first && i < left; i++ { // a group before has room
			k := v.ticket(first + i)
			v.setTicket(kept+i, &k)
		}
		kept += left
	}
	v.QueueLen, v.PendingQP = int32(kept), pending
	v.tally.Oldest = int32(oldest)
}

// serveGroup does it for the first n of a group of tickets, and tells which of them go on waiting.
func (v *env) serveGroup(t *kernels.Tickets, n int) (stay uint32) {
	used, limit, w := v.UsedQP(), v.Episode.BudgetQP-v.watermark(), &v.scratch.waiting
	kernels.Wait(t, n, int16(v.Step), int16(max(-1, v.Step-v.rules.maxWait)), max(limit, used)-used, &v.Episode.PrefixPages, &v.PrefixMul, w)
	admitted := v.admitTickets(t, w.Fits, limit)
	failed := w.Old &^ admitted
	v.Counters.Failures += uint32(bits.OnesCount32(failed))
	stay = uint32(uint64(1)<<n-1) &^ (failed | admitted)
	v.tally.FirstWaits += uint32(bits.OnesCount32(stay & w.Ready & w.Fresh))
	return stay
}

// admitTickets places those of a set of waiting requests for which there are slots and memory, in order, and tells which: into the lowest
// slots, one after the other.
func (v *env) admitTickets(t *kernels.Tickets, set, limit uint32) (admitted uint32) {
	for w := 0; w < v.rules.width && set != 0; w++ {
		b, l := v.block(w), v.lane(w)
		free := ^b.Alive & v.slotMask(w)
		here := kernels.Choose(t, set, bits.OnesCount64(free), max(limit, v.UsedQP())-v.UsedQP(), &v.Episode.PrefixPages, &v.PrefixMul)
		if here == 0 {
			continue
		}
		taken, waste := kernels.Pay(&v.Ledger, t, here, free, &v.Episode.PrefixPages, v.rules.serving.ticketClock, &l.Work, &v.scratch.served.Joins)
		v.tally.WasteUS += waste
		set &^= here
		kernels.Settle(&b.Block, &l.Lane, t, here, taken, &v.Episode.PrefixPages, int16(v.Step))
		v.Counters.Admitted += uint32(bits.OnesCount32(here))
		admitted |= here
	}
	return admitted
}

// promptWork is the time to compute a prompt of private tokens after a prefix, which is shared if a resident member holds it: all ones
// then, else 0; rule 13.17.
func (v *env) promptWork(private, prefix, shared uint32) uint32 {
	return v.rules.serving.clock.PrefillUS(private+prefix&^shared, prefix&shared)
}

// start gives the columns of a slot that a sequence takes their first values; its planes are clear.
func (l *lane) start(s uint, ref uint32, born, admit int16) {
	s &= 63
	l.Ref[s], l.Born[s], l.Admit[s] = ref, born, admit // Moving and Wake are written when they begin to mean something
}

// arriveTickets lets the step's new requests join the queue; rule 13.20.
func (v *env) arriveTickets() {
	if v.rules.agents == nil || !v.drawTickets() {
		v.takeTickets()
	}
}

// drawTickets does it by a kernel, if it can.
func (v *env) drawTickets() (ok bool) {
	d := &v.scratch.draws
	v.rules.agents.Draws(&v.Episode, v.Step, d)
	n, ok := kernels.ArriveTickets(&v.Ledger, &v.rules.frame, v.firstTicket, d)
	if n > 0 && ok {
		v.tally.Oldest = min(v.tally.Oldest, v.Step)
	}
	return ok
}

// takeTickets does it with what the source gives.
func (v *env) takeTickets() {
	n := int(v.QueueLen)
	room := max(0, v.rules.queueCap-n)
	arrived, qp := v.rules.source.Arrive(&v.Episode, int(v.Step), v.scratch.words[:room], v.scratch.needs[:room])
	taken := min(arrived, room)
	v.PendingQP += qp
	for done := 0; done < taken; {
		to := uint(n + done) // unsigned: two shifts instead of ten instructions
		at := int(to % kernels.TicketLanes)
		count := min(8, taken-done, kernels.TicketLanes-at)
		v.rules.source.Enqueue(&v.Episode, (*[8]scenario.Word)(v.scratch.words[done:]), count, int16(v.Step), &v.tickets()[to/kernels.TicketLanes], at)
		done += count
	}
	if taken > 0 {
		v.tally.Oldest = min(v.tally.Oldest, v.Step)
	}
	v.QueueLen = int32(n + taken)
	v.Counters.Arrived += uint32(arrived)
	v.Counters.Rejected += uint32(arrived - taken)
	v.Counters.Failures += uint32(arrived - taken)
}

// resetServing starts an episode in an environment whose head and blocks are empty; rule 13.9.
func (v *env) resetServing(id scenario.Identity) {
	clear(v.lanes())
	*v.tally = tally{Oldest: maxWake}
	src := v.rules.source
	src.Begin(id, &v.Episode)
	a, n := &v.scratch.admission, &v.scratch.newcomers
	v.startAdmission(a)
	for first, placed := 0, uint(0); first < int(v.Episode.NumInitial); first += len(n.Need) {
		joins := a.Joins
		count := src.Initials(&v.Episode, first, n)
		n.Rate = [8]uint16{}
		for i := range n.Cycle {
			n.Cycle[i] &^= 15
		}
		for m := v.placeInitials(a, count); m != 0; m &= m - 1 { // one slot after the other
			v.placeServing(placed, bits.TrailingZeros8(m), n, &joins)
			placed++
		}
	}
	for p, joined := range a.Joins {
		if joined != 0 {
			v.hold(uint8(p))
		}
	}
	v.arriveTickets()
}

// touchSystems are the accesses that admissions make to their prefixes' system entries; rule 7.4, without latency.
func (v *env) touchSystems(joins *[kv.MaxPrefixes + 1]uint8) {
	for w := range v.rules.width {
		b := v.block(w)
		kernels.Touch(&b.Block, b.system(), joins, int16(v.Step))
	}
}

// placeServing completes newcomer i, which has just been placed into a slot; rule 13.9. joins are the prefixes that are resident before,
// and with it its own.
func (v *env) placeServing(slot uint, i int, n *kernels.Newcomers, joins *[8]uint8) {
	i &= 7
	l, s, p := v.lane(int(slot/64)), slot%64, n.Prefix[i]&kv.MaxPrefixes
	l.start(s, n.Ref[i], 0, 0)
	l.Wake[s] = n.Wake[i]
	if n.Prefill>>i&1 == 0 {
		l.First |= 1 << s
	} else {
		prefix := v.prefixTokens(p)
		l.Work[s] = v.promptWork(n.Tokens[i]-prefix, prefix, held(joins[p]))
	}
	joins[p] = 1
}
