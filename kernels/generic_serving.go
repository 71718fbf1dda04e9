package kernels

import (
	"math"
	"math/bits"
	"unsafe"

	"github.com/kvgym/kvgym/kv"
)

// What only the serving profile does with slots.

func dueGeneric(steps *[Lanes]int16, set uint64, at int16) (plane uint64) {
	for m := set; m != 0; m &= m - 1 {
		s := bits.TrailingZeros64(m) & 63
		plane |= uint64(uint32(int32(steps[s])-int32(at)-1)>>31) << s // 1 where it is at most that
	}
	return plane
}

func sumGeneric(column *[Lanes]uint32, set uint64) (sum uint64) {
	for ; set != 0; set &= set - 1 {
		sum += uint64(column[bits.TrailingZeros64(set)&63])
	}
	return sum
}

func removeGeneric(b *Block, lane *Lane, mask uint64, pages *[8]uint16) (qp, retained uint32, empty uint8) {
	resident := mask &^ b.Swapped
	for m := resident; m != 0; m &= m - 1 {
		s := bits.TrailingZeros64(m) & 63
		own := b.own(s, pages)
		qp += own
		retained += own * retention[b.code(s)]
	}
	for p, members := range b.Members {
		if members&resident != 0 && members&^(b.Swapped|mask) == 0 {
			empty |= 2 << p
		}
	}
	b.Clear(mask)
	for i := range lane.planes() {
		lane.planes()[i] &^= mask
	}
	return qp, retained, empty
}

func decodeGeneric(b *Block, lane *Lane, l *Ledger, set uint64, n uint32, deadline int16, room uint32, worth *[8]uint32, d *Decoded) bool {
	qp := uint32(0)
	for m := set; m != 0; m &= m - 1 {
		s := bits.TrailingZeros64(m) & 63
		tokens := b.Tokens[s]
		qp += (kv.Pages(tokens+min(n, uint32(b.Remaining[s]))) - kv.Pages(tokens)) << (b.level(s) & 31)
	}
	if qp > room {
		return false
	}
	first := set &^ lane.First
	late := dueGeneric(&lane.Born, first, deadline)
	lane.First |= first
	lane.Late |= late
	l.Counters.FirstTokens += uint32(bits.OnesCount64(first))
	l.Counters.Late += uint32(bits.OnesCount64(late))
	l.PrivateQP += qp
	*d = Decoded{}
	finished, last := uint64(0), uint64(0)
	for m := set; m != 0; m &= m - 1 {
		s := bits.TrailingZeros64(m) & 63
		tokens, rest, unit := b.Tokens[s], b.Remaining[s], uint32(1)<<(b.level(s)&31)
		k := min(n, uint32(rest))
		l.RetainedPrivate += (kv.Pages(tokens+k) - kv.Pages(tokens)) * unit * retention[b.code(s)]
		l.Tokens += uint64(k)
		rest -= uint16(k)
		b.Tokens[s], b.Remaining[s], b.Rate[s], b.LastAccess[s] = tokens+k, rest, uint16(k), int16(l.Step)
		b.Hotness[s] = uint8(min(255, uint32(b.Hotness[s])+63))
		if shared := uint32(l.PrefixMul[b.Prefix[s]&kv.MaxPrefixes]); shared != 0 { // the coarser level counts
			unit = min(unit, shared)
		}
		d.Worth += uint64(k) * uint64(kv.TokenWeight(uint32(b.Priority[s]))) * uint64(worth[unit&7]) << (1 &^ (lane.Late >> s & 1))
		finished |= uint64((uint32(rest)-1)>>31) << s // 1 when nothing is left
		last |= (uint64(lane.Ref[s]) - 1) >> 63 << s  // 1 without another turn
	}
	d.Gone = finished & last & b.Type1 &^ b.Type0
	d.Finished = finished &^ d.Gone
	return true
}

func holdersGeneric(b *Block, n int, pages *[8]uint16, mul *[8]uint8, s *Shared) {
	blocks := unsafe.Slice(b, n)
	s.Gain, s.Last = [8]uint32{}, [4]uint64{}
	for p := 1; p <= kv.MaxPrefixes; p++ {
		members := 0
		for w := range blocks {
			members += bits.OnesCount64(blocks[w].Members[p-1] &^ blocks[w].Swapped)
		}
		alone := (uint64(members^1) - 1) >> 63 // 1 if there is one; no branch: nothing could predict it
		s.Gain[p] = uint32(pages[p]) * uint32(mul[p]) * uint32(alone)
		for w := range blocks {
			s.Last[w&3] |= blocks[w].Members[p-1] &^ blocks[w].Swapped & -alone
		}
	}
}

func operateServingGeneric(p *Seat, lane *Lane, ops *[Lanes]uint8, host, link uint32, o *Operated) (ok bool) {
	b, l := p.Block, p.Ledger
	lo, hi, over := opPlanesGeneric(ops)
	evict := lo &^ hi & b.Alive
	settled := b.Alive &^ (b.Swapped | lane.Out | lane.In | b.Prefill)
	compress, back, leave := hi&^lo&settled&^b.Int4, lo&hi&b.Swapped&^lane.Wanted, lo&hi&settled
	if lane.Out&^evict != 0 {
		return false
	}
	*o = Operated{Evict: evict}
	if compress|leave != 0 && !(&operator{b, l, p.Pages, compress, leave, host, link}).move(b.Swapped&^evict, o) {
		return false
	}
	l.Counters.Evictions += uint32(bits.OnesCount64(evict))
	l.Counters.Compressions += uint32(bits.OnesCount64(compress))
	l.Counters.Swaps += uint32(bits.OnesCount64(back | leave))
	l.Counters.Invalid += uint32(bits.OnesCount64(lo|hi|over) - bits.OnesCount64(evict|compress|back|leave))
	lane.Wanted |= back
	lane.Fresh = leave
	heatGeneric(&b.Hotness, 0)
	return true
}

// operator compresses some lanes, and lets others leave for CPU memory.
type operator struct {
	b               *Block
	l               *Ledger
	pages           *[8]uint16
	compress, leave uint64
	host, link      uint32
}

// few tells whether no lane that is looked at has too many tokens.
func (x *operator) few() bool {
	lanes := x.b.Tokens[:]
	if x.b.Alive>>32 == 0 {
		lanes = lanes[:32]
	}
	all := uint32(0)
	for _, n := range lanes {
		all |= n
	}
	return all < MostOperated
}

// move does it beside the lanes that CPU memory holds, or nothing.
func (x *operator) move(inHost uint64, o *Operated) (ok bool) {
	if !x.few() {
		return false
	}
	b, l := x.b, x.l
	var compressed, freedRetained, hosted uint32
	for m := x.compress | x.leave | inHost; m != 0; m &= m - 1 {
		s := bits.TrailingZeros64(m) & 63
		qp := b.own(s, x.pages)
		switch {
		case inHost>>s&1 != 0:
			hosted += qp
		case x.leave>>s&1 != 0:
			o.MovedQP += qp
			freedRetained += qp * retention[b.code(s)]
		default:
			compressed += qp
			freedRetained += qp / 2 * retention[b.code(s)]
		}
	}
	if o.MovedQP > x.link || x.leave != 0 && hosted+o.MovedQP > x.host {
		return false
	}
	o.BusyQP = compressed + compressed/2
	l.PrivateQP -= o.MovedQP + compressed/2
	l.RetainedPrivate -= freedRetained
	x.prefixes(o)
	b.Int4 |= x.compress & b.Int8
	b.Int8 ^= x.compress
	b.Swapped |= x.leave
	return true
}

// prefixes brings those up to date that are compressed with a member, or that no resident member holds any more.
func (x *operator) prefixes(o *Operated) {
	b, l := x.b, x.l
	for p := 1; p <= kv.MaxPrefixes; p++ {
		members, pages, was := b.Members[p-1], uint32(x.pages[p]), uint32(l.PrefixMul[p])
		is, weight := was, uint32(l.PrefixWeight[p])
		want := uint32(0)
		if members&x.compress != 0 {
			want = 2
		}
		if members&x.compress&b.Int8 != 0 {
			want = 1
		}
		if want != 0 && want < was {
			is, weight = want, retention[kv.System]
			o.BusyQP += pages * (want + was)
		}
		if members&x.leave != 0 && members&^(b.Swapped|x.leave) == 0 {
			is, weight = 0, 0
		}
		l.SharedQP += pages * (is - was)
		l.RetainedShared += pages * (is*weight - was*uint32(l.PrefixWeight[p]))
		l.PrefixMul[p], l.PrefixWeight[p] = uint8(is), uint8(weight)
	}
}

func prefillGeneric(b *Block, lane *Lane, budget uint64, p *Prefilled) {
	away := b.Swapped | lane.Out | lane.In
	set, left, done := b.Prefill&^away, budget, uint64(0)
	if work := sumGeneric(&lane.Work, set); work < budget { // enough for all, and no order to look at
		set, left, done = 0, budget-work, set
	}
	for left > 0 && set != 0 {
		s := bits.TrailingZeros64(oldest(&lane.Admit, set)) & 63
		set &^= 1 << s
		x := min(left, uint64(lane.Work[s]))
		left -= x
		if lane.Work[s] -= uint32(x); lane.Work[s] == 0 {
			done |= 1 << s
		}
	}
	b.Prefill &^= done
	b.Active |= done
	p.Spent, p.Set = budget-left, b.Active&^away
	p.Context = sumGeneric(&b.Tokens, p.Set)
}

// oldest is the plane of those of a set whose step is the least.
func oldest(steps *[Lanes]int16, set uint64) uint64 {
	least := int16(math.MaxInt16)
	for m := set; m != 0; m &= m - 1 {
		least = min(least, steps[bits.TrailingZeros64(m)&63])
	}
	return dueGeneric(steps, set, least)
}
