package vecenv

import (
	"math"
	"math/bits"

	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/kv"
)

// The operations of the serving profile; rules 13.11 to 13.14.

// allowed gives the slots of block w on which each operation is possible; rules 8.1 and 13.11. Whether the CPU has memory for
// one that swaps out is for refuseSwaps and swappable to say.
func (v *env) allowed(w int) (evict, compress, swap uint64) {
	b := v.block(w)
	if v.rules.serving == nil {
		resident := b.Alive &^ b.Swapped
		return b.Alive, resident &^ b.Int4, resident
	}
	l := v.lane(w)
	s := settled(b, l)
	return b.Alive, s &^ b.Int4, s | b.Swapped&^l.Wanted
}

// acted is what one step of a serving environment remembers from its actions.
type acted struct {
	busyQP   int64                     // memory traffic of compressions
	asked    [4]uint64                 // planes: to leave in this step
	wantedQP [kv.MaxPrefixes + 1]uint8 // quarter pages a page that the coarsest compressed member asks of its prefix; 0 none
}

// stepServing runs the phases of one step; rule 13.10.
func (v *env) stepServing(ops []uint8, list []int32) {
	busyQP, ok := v.operateAtOnce(ops)
	if !ok {
		busyQP = v.operateServing(ops, list)
	}
	v.wake()
	v.swapIn()
	v.transferIn()
	v.compute(busyQP)
	admitted := v.Counters.Admitted
	v.serveTickets()
	v.arriveTickets()
	if v.Counters.Admitted != admitted {
		v.touchSystems(&v.scratch.served.Joins) // late: it loads as a whole what the admitted have stored lane by lane
	}
	for w := range v.rules.width {
		v.tally.FirstWaits += uint32(bits.OnesCount64((v.block(w).Prefill | v.block(w).Active) &^ v.lane(w).First))
	}
}

// operateAtOnce does a row of operations and what leaves for CPU memory by a kernel, if it can; rules 13.11 to 13.14. It returns the
// memory traffic of compressions.
func (v *env) operateAtOnce(ops []uint8) (busyQP int64, ok bool) {
	if len(ops) != kernels.Lanes {
		return 0, false
	}
	o := &v.scratch.operated
	host, link := uint32(min(math.MaxUint32, v.hostLimit())), uint32(min(math.MaxUint32, v.rules.serving.linkQP))
	if !kernels.OperateServing(&v.seat, &v.lane(0).Lane, (*[kernels.Lanes]uint8)(ops), host, link, o) {
		return 0, false
	}
	v.evict(0, o.Evict) // after what does not depend on it
	v.countTransfer(int64(o.MovedQP))
	return int64(o.BusyQP), true
}

// operateServing does operations one kind, slot and phase after the other.
func (v *env) operateServing(ops []uint8, list []int32) (busyQP int64) {
	for w := range v.rules.width {
		v.lane(w).Fresh = 0
	}
	var sc acted
	if ops != nil {
		for w := range v.rules.width {
			n := min(64, len(ops)-64*w)
			v.applyServingBlock(w, ops[64*w:64*w+n], &sc)
		}
	} else {
		v.applyServingList(list, &sc)
	}
	v.refuseSwaps(&sc)
	v.lowerPrefixes(&sc)
	v.transferOut()
	for w := range v.rules.width {
		kernels.Heat(&v.block(w).Hotness, 0)
	}
	return sc.busyQP
}

// applyServingBlock turns up to 64 op bytes into planes and applies them, kind by kind. Only the order of evictions can matter,
// which the queue shows, and those go in slot order.
func (v *env) applyServingBlock(w int, row []uint8, sc *acted) {
	lo, hi, unknown := planesOf(row)
	if lo|hi|unknown == 0 {
		return
	}
	evict, compress, swap := v.allowed(w)
	e, c, s := lo&^hi&evict, hi&^lo&compress, lo&hi&swap
	v.Counters.Invalid += uint32(bits.OnesCount64(lo|hi|unknown) - bits.OnesCount64(e|c|s))
	v.applyServing(w, e, c, s, sc)
}

// applyServingList applies ordered pairs (op, slot).
func (v *env) applyServingList(list []int32, sc *acted) {
	for i := 0; i+1 < len(list); i += 2 {
		op, slot := list[i], list[i+1]
		if op == int32(kv.Keep) {
			continue
		}
		if op < 0 || op >= kv.NumOps || slot < 0 || int(slot) >= v.rules.slots {
			v.Counters.Invalid++
			continue
		}
		w, bit := int(slot)/64, uint64(1)<<(slot&63)
		e, c, s := v.allowed(w)
		e, c, s = e&bit&planeIf(op == int32(kv.Evict)), c&bit&planeIf(op == int32(kv.Compress)), s&bit&planeIf(op == int32(kv.Swap))
		if e|c|s == 0 {
			v.Counters.Invalid++
			continue
		}
		v.applyServing(w, e, c, s, sc)
	}
}

func planeIf(b bool) uint64 {
	if b {
		return ^uint64(0)
	}
	return 0
}

// applyServing does operations that are allowed; rules 13.12 to 13.14.
func (v *env) applyServing(w int, evict, compress, swap uint64, sc *acted) {
	b, l := v.block(w), v.lane(w)
	v.Counters.Evictions += uint32(bits.OnesCount64(evict))
	v.evict(w, evict)
	for m := compress; m != 0; m &= m - 1 {
		v.compressServing(b, uint(bits.TrailingZeros64(m)), sc)
	}
	v.Counters.Compressions += uint32(bits.OnesCount64(compress))
	back := swap & b.Swapped
	l.Wanted |= back
	for m := swap &^ back; m != 0; m &= m - 1 {
		s := uint(bits.TrailingZeros64(m)) & 63
		l.Moving[s] = v.privatePages(b, s) * b.quant(s).QuarterPages()
	}
	l.Out |= swap &^ back
	sc.asked[w&3] |= swap &^ back
	v.Counters.Swaps += uint32(bits.OnesCount64(swap))
}

// evict drops the sequences of a plane, in slot order; rule 13.12.
func (v *env) evict(w int, plane uint64) {
	if plane == 0 {
		return
	}
	v.RiskHundredths += v.block(w).Risk(plane)
	for m := plane; m != 0; m &= m - 1 {
		v.requeue(w, uint(bits.TrailingZeros64(m)))
	}
	v.removeAll(w, plane)
}

// hostLimit is the CPU's memory for swapped sequences, quarter pages; rule 13.14.
func (v *env) hostLimit() uint64 {
	return uint64(v.Episode.BudgetQP) * uint64(v.rules.serving.preset.HostPermille) / 1000
}

// hostQP is what swapped and leaving sequences take of it, but for those of some planes.
func (v *env) hostQP(but *[4]uint64) (qp uint64) {
	for w := range v.rules.width {
		b := v.block(w)
		for m := (b.Swapped | v.lane(w).Out) &^ but[w&3]; m != 0; m &= m - 1 {
			s := uint(bits.TrailingZeros64(m))
			qp += uint64(v.privatePages(b, s) * b.quant(s).QuarterPages())
		}
	}
	return qp
}

// refuseSwaps takes back swaps that the CPU has no memory for, in slot order; rule 13.14.
func (v *env) refuseSwaps(sc *acted) {
	if sc.asked[0]|sc.asked[1]|sc.asked[2]|sc.asked[3] == 0 {
		return
	}
	host, limit := v.hostQP(&sc.asked), v.hostLimit()
	for w := range v.rules.width {
		l := v.lane(w)
		for m := sc.asked[w&3] & l.Out; m != 0; m &= m - 1 {
			s := bits.TrailingZeros64(m) & 63
			if host+uint64(l.Moving[s]) <= limit {
				host += uint64(l.Moving[s])
				continue
			}
			l.Out &^= m & -m
			l.Moving[s] = 0
			v.Counters.Swaps--
			v.Counters.Invalid++
		}
	}
}

// swappable takes those slots out of a plane that are to leave and that the CPU has no memory for.
func (v *env) swappable(w int, plane uint64) uint64 {
	if v.rules.serving == nil {
		return plane
	}
	b := v.block(w)
	limit, used := v.hostLimit(), v.hostQP(&[4]uint64{})
	for m := plane &^ b.Swapped; m != 0; m &= m - 1 {
		s := uint(bits.TrailingZeros64(m))
		if used+uint64(v.privatePages(b, s)*b.quant(s).QuarterPages()) > limit {
			plane &^= m & -m
		}
	}
	return plane
}

// compressServing takes one slot a level down; rule 13.13.
func (v *env) compressServing(b *block, s uint, sc *acted) {
	s &= 63
	bit := uint64(1) << s
	pages, before := v.privatePages(b, s), b.quant(s).QuarterPages()
	after := before / 2
	b.Int4 |= bit & b.Int8
	b.Int8 ^= bit
	freed := pages * (before - after)
	v.PrivateQP -= freed
	v.RetainedPrivate -= freed * b.blockType(s).RetentionTwentieths()
	sc.busyQP += int64(pages) * int64(before+after)
	if p := b.Prefix[s] & kv.MaxPrefixes; p != 0 && (sc.wantedQP[p] == 0 || after < uint32(sc.wantedQP[p])) {
		sc.wantedQP[p] = uint8(after)
	}
}

// lowerPrefixes compresses the shared pages of compressed sequences, once for all who share them; rule 13.13.
func (v *env) lowerPrefixes(sc *acted) {
	if sc.wantedQP == [kv.MaxPrefixes + 1]uint8{} {
		return
	}
	for p := 1; p <= kv.MaxPrefixes; p++ {
		want, have := sc.wantedQP[p], v.PrefixMul[p]
		if want != 0 && want < have {
			sc.busyQP += int64(v.Episode.PrefixPages[p]) * int64(want+have)
			v.setPrefix(p, uint32(want), prefixWeight)
		}
	}
}

// prefixWeight is the retention weight of shared pages, those of a system block; rule 13.21.
const prefixWeight = 20

// hold makes a new member hold its prefix, at fp16 if nobody held it.
func (v *env) hold(p uint8) {
	if p &= kv.MaxPrefixes; uint32(v.PrefixMul[p])|(uint32(p)-1)>>31 == 0 { // one condition, seldom true
		v.setPrefix(int(p), kv.FP16QuarterPages, prefixWeight)
	}
}

// leave frees a prefix that no resident member holds any more.
func (v *env) leave(p uint8) {
	if p &= kv.MaxPrefixes; p == 0 || v.PrefixMul[p] == 0 {
		return
	}
	for w := range v.rules.width {
		if v.block(w).Members[p-1]&^v.block(w).Swapped != 0 {
			return
		}
	}
	v.setPrefix(int(p), 0, 0)
}

// release takes the private memory of a resident slot off the totals.
func (v *env) release(b *block, s uint) {
	qp := v.privatePages(b, s) * b.quant(s).QuarterPages()
	v.PrivateQP -= qp
	v.RetainedPrivate -= qp * b.blockType(s).RetentionTwentieths()
}

// remove empties a slot.
func (v *env) remove(w int, s uint) { v.removeAll(w, 1<<(s&63)) }

// removeAll empties the slots of a mask.
func (v *env) removeAll(w int, mask uint64) {
	b := v.block(w)
	qp, retained, empty := kernels.Remove(&b.Block, &v.lane(w).Lane, mask, &v.Episode.PrefixPages)
	v.PrivateQP -= qp
	v.RetainedPrivate -= retained
	for m := empty; m != 0; m &= m - 1 {
		v.leave(uint8(bits.TrailingZeros8(m)))
	}
}

// drop takes a sequence out of its slot and back into the queue, if it has anything left to do; rule 13.12.
func (v *env) drop(w int, s uint) {
	v.requeue(w, s)
	v.remove(w, s)
}

// requeue lets a sequence wait, if it has anything left to do, which is still in its slot.
func (v *env) requeue(w int, s uint) {
	s &= 63
	b, l := v.block(w), v.lane(w)
	bit := uint64(1) << s
	typ := b.blockType(s)
	if typ == kv.System {
		return
	}
	var k ticket // field by field, as sit does it
	k.Private, k.Ref, k.Remaining, k.Born, k.Since = b.Tokens[s]-v.prefixTokens(b.Prefix[s]), l.Ref[s], b.Remaining[s], l.Born[s], int16(v.Step)
	k.Priority, k.Prefix, k.Type, k.Codes = b.Priority[s], b.Prefix[s], uint8(typ), b.Cycle[s]&^15
	k.Flags = uint8(l.First>>s&1) | uint8(l.Late>>s&1)<<1
	if b.Prefill&bit == 0 {
		k.Flags |= ticketAgain
	}
	waits := true
	if (b.Prefill|b.Active)&bit == 0 {
		waits = v.park(&k, l.Wake[s])
	}
	if waits && int(v.QueueLen) < ticketCap(v.rules.slots) {
		v.setTicket(int(v.QueueLen), &k)
		v.QueueLen++
		v.PendingQP += kv.Pages(k.Private) * kv.FP16QuarterPages
	}
}

// park makes the ticket of an idle sequence that of its session's next turn; false if there is none.
func (v *env) park(k *ticket, wake int16) bool {
	turn, ok := v.rules.source.Next(&v.Episode, k.Ref)
	if !ok {
		return false
	}
	now := int16(v.Step)
	k.Private += turn.PromptTokens
	k.Remaining, k.Ref = turn.OutputTokens, turn.Ref
	k.Born, k.Since = max(now, wake), max(now, wake-1)
	k.Flags = ticketAgain
	if k.Type == uint8(kv.Generation) {
		k.Type = uint8(kv.Context)
	}
	return true
}
