package kernels

import (
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

func zerosGeneric(column *[Lanes]uint32, set uint64) (plane uint64) {
	for m := set; m != 0; m &= m - 1 {
		x := uint64(column[bits.TrailingZeros64(m)&63])
		plane |= m & -m & -((x - 1) >> 63)
	}
	return plane
}

func removeGeneric(b *Block, more *[8]uint64, mask uint64, pages *[8]uint16) (qp, retained uint32, empty uint8) {
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
	for i := range more {
		more[i] &^= mask
	}
	return qp, retained, empty
}

func decodeGeneric(b *Block, set, late uint64, n uint32, step int16, room uint32, mul *[8]uint8, worth *[8]uint32, d *Decoded) bool {
	qp := uint32(0)
	for m := set; m != 0; m &= m - 1 {
		s := bits.TrailingZeros64(m) & 63
		tokens := b.Tokens[s]
		qp += (kv.Pages(tokens+min(n, uint32(b.Remaining[s]))) - kv.Pages(tokens)) << (b.level(s) & 31)
	}
	if qp > room {
		return false
	}
	*d = Decoded{QP: qp}
	for m := set; m != 0; m &= m - 1 {
		s := bits.TrailingZeros64(m) & 63
		tokens, rest, unit := b.Tokens[s], b.Remaining[s], uint32(1)<<(b.level(s)&31)
		k := min(n, uint32(rest))
		d.Retained += (kv.Pages(tokens+k) - kv.Pages(tokens)) * unit * retention[b.code(s)]
		d.Tokens += k
		rest -= uint16(k)
		b.Tokens[s], b.Remaining[s], b.Rate[s], b.LastAccess[s] = tokens+k, rest, uint16(k), step
		b.Hotness[s] = uint8(min(255, uint32(b.Hotness[s])+63))
		if shared := uint32(mul[b.Prefix[s]&kv.MaxPrefixes]); shared != 0 { // the coarser level counts
			unit = min(unit, shared)
		}
		d.Worth += uint64(k) * uint64(kv.TokenWeight(uint32(b.Priority[s]))) * uint64(worth[unit&7]) << (1 &^ (late >> s & 1))
		d.Finished |= uint64((uint32(rest)-1)>>31) << s // 1 when nothing is left
	}
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
