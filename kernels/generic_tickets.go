package kernels

import (
	"math"
	"math/bits"

	"github.com/kvgym/kvgym/kv"
)

func enqueueGeneric(t *Tickets, first int, words *[8]uint64, tables *RequestTables, step int16) {
	for k, w := range words {
		i := (first + k) & (TicketLanes - 1)
		out, code := uint32(tables.Output[w>>25&63]), tables.typeOf(uint32(w&0xFF))
		ref := 1<<31 | out<<4 | uint32(w>>40&15)
		if code != uint32(kv.Context) {
			ref = 0
		}
		t.Private[i] = (uint32(tables.Pages[w>>12&63])-1)*kv.PageTokens + 1 + uint32(w>>18&127)
		t.Ref[i], t.Remaining[i], t.Born[i], t.Since[i] = ref, uint16(out), step, step
		t.Priority[i], t.Prefix[i] = uint8(w>>33&127*101>>7), uint8(tenantOf(w))
		t.Type[i], t.Codes[i], t.Flags[i] = uint8(code), uint8(w>>40&15)<<4, 0
	}
}

func waitGeneric(t *Tickets, n int, step, old int16, room uint32, pages *[8]uint16, mul *[8]uint8, w *Waiting) {
	extra := joining(pages, mul)
	*w = Waiting{}
	for i := range n { // no branches: nothing could predict them
		i &= TicketLanes - 1
		since := int32(t.Since[i])
		w.Ready |= uint32(since-int32(step)) >> 31 << i
		w.Old |= uint32(since-int32(old)-1) >> 31 << i
		w.Fresh |= uint32(^t.Flags[i]&TicketFirst) << i
		need := uint64(kv.Pages(t.Private[i])*kv.FP16QuarterPages + extra[t.Prefix[i]&kv.MaxPrefixes])
		w.Fits |= uint32((need-uint64(room)-1)>>63) << i
	}
	w.Fits &= w.Ready
}

func leaveGeneric(t *Tickets, stay uint32) (oldest int16, qp uint32) {
	kept := 0
	oldest = math.MaxInt16
	for m := stay; m != 0; m &= m - 1 {
		i, to := bits.TrailingZeros32(m)&(TicketLanes-1), kept&(TicketLanes-1)
		oldest = min(oldest, t.Since[i])
		qp += kv.Pages(t.Private[i]) * kv.FP16QuarterPages
		kept++
		if i == to {
			continue
		}
		t.Private[to], t.Ref[to], t.Remaining[to], t.Born[to], t.Since[to] = t.Private[i], t.Ref[i], t.Remaining[i], t.Born[i], t.Since[i]
		t.Priority[to], t.Prefix[to], t.Type[to], t.Codes[to], t.Flags[to] = t.Priority[i], t.Prefix[i], t.Type[i], t.Codes[i], t.Flags[i]
	}
	clear(t.Private[kept:])
	clear(t.Ref[kept:])
	clear(t.Remaining[kept:])
	clear(t.Born[kept:])
	clear(t.Since[kept:])
	clear(t.Priority[kept:])
	clear(t.Prefix[kept:])
	clear(t.Type[kept:])
	clear(t.Codes[kept:])
	clear(t.Flags[kept:])
	return oldest, qp
}

func settleGeneric(b *Block, lane *Lane, t *Tickets, set uint32, slots uint64, pages *[8]uint16, step int16) {
	for set != 0 && slots != 0 {
		i, s := bits.TrailingZeros32(set)&(TicketLanes-1), bits.TrailingZeros64(slots)&(Lanes-1)
		set, slots = set&(set-1), slots&(slots-1)
		bit, p, code := uint64(1)<<s, t.Prefix[i]&kv.MaxPrefixes, uint64(t.Type[i])
		b.Tokens[s] = t.Private[i] + uint32(pages[p])*kv.PageTokens
		b.Remaining[s], b.LastAccess[s], b.Rate[s] = t.Remaining[i], step, 0
		b.Priority[s], b.Prefix[s], b.Hotness[s], b.Cycle[s] = t.Priority[i], p, 63, t.Codes[i]
		lane.Ref[s], lane.Born[s], lane.Admit[s] = t.Ref[i], t.Born[i], step
		b.Alive |= bit
		b.Prefill |= bit
		b.Type0 |= code & 1 << s
		b.Type1 |= code >> 1 & 1 << s
		b.Type2 |= code >> 2 & 1 << s
		b.Members[(p+kv.MaxPrefixes-1)%kv.MaxPrefixes] |= bit * uint64((p+kv.MaxPrefixes)>>3) // times 0 for no prefix: nothing could predict a branch
		lane.First |= uint64(t.Flags[i]&TicketFirst) << s
		lane.Late |= uint64(t.Flags[i]&TicketLate) / TicketLate << s
	}
}

// joining is what the first member of each prefix adds, of those that nobody holds.
func joining(pages *[8]uint16, mul *[8]uint8) (extra [8]uint32) {
	for p := range extra {
		if mul[p] == 0 {
			extra[p] = uint32(pages[p]) * kv.FP16QuarterPages
		}
	}
	return extra
}

func chooseGeneric(t *Tickets, set uint32, slots int, room uint32, pages *[8]uint16, mul *[8]uint8) (chosen uint32) {
	extra := joining(pages, mul)
	for ; set != 0 && slots > 0; set &= set - 1 {
		i := bits.TrailingZeros32(set) & (TicketLanes - 1)
		p := t.Prefix[i] & kv.MaxPrefixes
		need := kv.Pages(t.Private[i])*kv.FP16QuarterPages + extra[p]
		if need > room {
			continue
		}
		room, extra[p] = room-need, 0
		chosen |= set & -set
		slots--
	}
	return chosen
}

func payGeneric(l *Ledger, t *Tickets, set uint32, free uint64, pages *[8]uint16, clock *Clock, work *[Lanes]uint32, joins *[8]uint8) (slots, waste uint64) {
	for ; set != 0 && free != 0; set &= set - 1 {
		i := bits.TrailingZeros32(set) & (TicketLanes - 1)
		p, qp, private := t.Prefix[i]&kv.MaxPrefixes, kv.Pages(t.Private[i])*kv.FP16QuarterPages, t.Private[i]
		prefix, shared := uint32(pages[p])*kv.PageTokens, uint32(-int32(l.PrefixMul[p])>>31) // no branch: nothing could predict it
		us := clock.of.PrefillUS(private+prefix&^shared, prefix&shared)
		waste += uint64(t.Flags[i]/TicketAgain&1) * uint64(us)
		work[bits.TrailingZeros64(free)&(Lanes-1)] = us
		if p != 0 && shared == 0 {
			fresh := uint32(pages[p]) * kv.FP16QuarterPages
			l.SharedQP += fresh
			l.RetainedShared += fresh * retention[kv.System]
			l.PrefixMul[p], l.PrefixWeight[p] = kv.FP16QuarterPages, uint8(retention[kv.System])
		}
		l.PrivateQP += qp
		l.RetainedPrivate += qp * retention[t.Type[i]&7]
		joins[p]++
		slots |= free & -free
		free &= free - 1
	}
	return slots, waste
}

func serveTicketsGeneric(p *Seat, f *Frame, lane *Lane, t *Tickets, clock *Clock, s *Served) {
	b, l, n := p.Block, p.Ledger, int(p.Ledger.QueueLen)
	limit, used := p.Limits.BudgetQP-p.Limits.BudgetQP/64, l.UsedQP()
	room, free := max(limit, used)-used, ^b.Alive&f.Slots
	var w Waiting
	waitGeneric(t, n, int16(l.Step), int16(max(-1, l.Step-f.MaxWait)), room, p.Pages, &l.PrefixMul, &w)
	chosen := chooseGeneric(t, w.Fits, bits.OnesCount64(free), room, p.Pages, &l.PrefixMul)
	*s = Served{}
	if chosen != 0 {
		var slots uint64
		slots, s.Waste = payGeneric(l, t, chosen, free, p.Pages, clock, &lane.Work, &s.Joins)
		settleGeneric(b, lane, t, chosen, slots, p.Pages, int16(l.Step))
	}
	failed := w.Old &^ chosen
	stay := uint32(uint64(1)<<n-1) &^ (failed | chosen)
	oldest, qp := leaveGeneric(t, stay)
	s.FirstWaits, s.Oldest = uint32(bits.OnesCount32(stay&w.Ready&w.Fresh)), int32(oldest)
	l.QueueLen, l.PendingQP = int32(bits.OnesCount32(stay)), qp
	l.Counters.Failures += uint32(bits.OnesCount32(failed))
	l.Counters.Admitted += uint32(bits.OnesCount32(chosen))
}

func arriveTicketsGeneric(l *Ledger, f *Frame, t *Tickets, d *ArrivalDraws) (n int, ok bool) {
	if l.QueueLen+8 > min(f.QueueCap, TicketLanes) {
		return 0, false
	}
	var words [8]uint64
	var needs [8]uint32
	n, qp := arriveGeneric(&words, &needs, d.Base, 0, f.Tables, d.Count, f.Groups, d.Counts, 8)
	if n > 8 {
		return 0, false
	}
	enqueueGeneric(t, int(l.QueueLen), &words, f.Tables, int16(l.Step))
	l.QueueLen += int32(n)
	l.PendingQP += qp
	l.Counters.Arrived += uint32(n)
	return n, true
}
