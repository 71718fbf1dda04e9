package vecenv

import (
	"math/bits"

	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/kv"
)

// applyMatrix applies one row of an op matrix, one op a slot; rule 6.2. All operations of a row are on different slots,
// so their order cannot matter.
func (v *env) applyMatrix(row []uint8) {
	for w := range v.rules.width {
		v.applyBlock(v.block(w), row[64*w:min(len(row), 64*w+64)])
	}
}

// planesOf turns up to 64 op bytes into planes.
func planesOf(row []uint8) (lo, hi, over uint64) {
	var room [kernels.Lanes]uint8
	return kernels.OpPlanes(wholeRow(row, &room))
}

// wholeRow is a row of up to 64 ops as one of 64, in room if it has to be made longer.
func wholeRow(row []uint8, room *[kernels.Lanes]uint8) *[kernels.Lanes]uint8 {
	if len(row) == kernels.Lanes {
		return (*[kernels.Lanes]uint8)(row)
	}
	copy(room[:], row)
	return room
}

// applyBlock applies up to 64 ops, each on a slot of its own, and counts the accesses to swapped sequences that are to generate.
func (v *env) applyBlock(b *block, row []uint8) {
	a := &v.scratch.acted
	var room [kernels.Lanes]uint8
	kernels.Act(&b.Block, wholeRow(row, &room), &v.Episode.PrefixPages, a)
	v.acted(a)
}

// acted adds what the ops on a block have done.
func (v *env) acted(a *kernels.Acted) {
	v.PrivateQP -= a.Freed
	v.RetainedPrivate -= a.FreedRetained
	v.LatencyMilli += a.LatencyMilli
	v.RiskHundredths += a.RiskHundredths
	v.Counters.Invalid += a.Invalid
	v.Counters.SwapReads += uint32(bits.OnesCount64(a.Read))
	v.count(a.Evicted, a.Compressed, a.Swapped)
}

// free takes the private memory of resident slots off the totals: all of it, or half of it for those of another plane.
func (v *env) free(b *block, all, half uint64) {
	private, retained := uint32(0), uint32(0)
	for m := all | half; m != 0; m &= m - 1 {
		s := uint(bits.TrailingZeros64(m)) & 63
		qp := v.privatePages(b, s) * b.quant(s).QuarterPages() >> (half >> s & 1)
		private += qp
		retained += qp * b.blockType(s).RetentionTwentieths()
	}
	v.PrivateQP -= private
	v.RetainedPrivate -= retained
}

// compress takes slots one quantisation level down.
func (b *block) compress(mask uint64) {
	b.Int4 |= mask & b.Int8
	b.Int8 ^= mask
}

func (v *env) count(evicted, compressed, swapped uint64) {
	v.Counters.Evictions += uint32(bits.OnesCount64(evicted))
	v.Counters.Compressions += uint32(bits.OnesCount64(compressed))
	v.Counters.Swaps += uint32(bits.OnesCount64(swapped))
}

// applyList applies ordered pairs (op, slot), rule 6.3, and then counts the accesses to swapped sequences that generate.
func (v *env) applyList(list []int32) {
	for i := 0; i+1 < len(list); i += 2 {
		op, slot := list[i], list[i+1]
		if op == int32(kv.Keep) {
			continue
		}
		if op < 0 || op >= kv.NumOps || slot < 0 || int(slot) >= v.rules.slots || !v.apply(kv.Op(op), uint(slot)) {
			v.Counters.Invalid++
		}
	}
	for w := range v.rules.width {
		b := v.block(w)
		for m := b.Active & b.Swapped; m != 0; m &= m - 1 {
			v.readSwapped(b, uint(bits.TrailingZeros64(m)))
		}
	}
}

// apply does one operation if the slot's state allows it; rule 6.2.
func (v *env) apply(op kv.Op, slot uint) bool {
	b := v.block(int(slot / 64))
	bit := uint64(1) << (slot & 63)
	resident := b.Alive &^ b.Swapped
	switch op {
	case kv.Evict:
		if bit &= b.Alive; bit != 0 {
			v.free(b, bit&resident, 0)
			v.RiskHundredths += b.Risk(bit)
			b.Clear(bit)
			v.count(bit, 0, 0)
		}
	case kv.Compress:
		bit &= resident &^ b.Int4
		v.free(b, 0, bit)
		b.compress(bit)
		v.count(0, bit, 0)
	case kv.Swap:
		bit &= resident
		v.free(b, bit, 0)
		b.Swapped |= bit
		v.count(0, 0, bit)
	}
	return bit != 0
}
