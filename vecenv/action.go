package vecenv

import (
	"encoding/binary"
	"math/bits"

	"github.com/kvgym/kvgym/kv"
)

func load64(h *[64]uint8, i int) uint64     { return binary.LittleEndian.Uint64(h[i&56:]) }
func store64(h *[64]uint8, i int, x uint64) { binary.LittleEndian.PutUint64(h[i&56:], x) }

const (
	lowBits  = 0x0101010101010101
	opBits   = 0x0303030303030303
	gather64 = 0x0102040810204080 // gathers the low bit of eight bytes into the top byte
)

// applyMatrix applies one row of an op matrix, one op a slot; rule 6.2. All operations of a row are on different slots,
// so their order cannot matter.
func (v *env) applyMatrix(row []uint8) {
	for w := range v.blocks {
		n := min(64, len(row)-64*w)
		v.applyBlock(&v.blocks[w], row[64*w:64*w+n])
	}
}

// applyBlock turns up to 64 op bytes into planes and applies them.
func (v *env) applyBlock(b *block, row []uint8) {
	lo, hi, high := opPlanes(row)
	var unknown uint64
	if high&^opBits != 0 {
		lo, hi, unknown = checkedPlanes(row)
	}
	if lo|hi|unknown == 0 {
		return
	}
	evict, compress, swap := lo&^hi, hi&^lo, lo&hi
	resident := b.Alive &^ b.Swapped
	e, c, s := evict&b.Alive, compress&resident&^b.Int4, swap&resident
	v.Counters.Invalid += uint32(bits.OnesCount64(lo|hi|unknown) - bits.OnesCount64(e|c|s))
	v.evict(b, e)
	v.compress(b, c)
	v.swap(b, s)
}

// opPlanes gathers the two low bits of every op byte into planes, and all bits of all bytes into high. There is no test
// for bytes that are all 0: with a few operations a step nothing predicts it.
func opPlanes(row []uint8) (lo, hi, high uint64) {
	for i := 0; len(row) >= 8; i += 8 {
		x := binary.LittleEndian.Uint64(row)
		row = row[8:]
		lo |= x & lowBits * gather64 >> 56 << (i & 63)
		hi |= x >> 1 & lowBits * gather64 >> 56 << (i & 63)
		high |= x
	}
	return lo, hi, high
}

// checkedPlanes is opPlanes for rows that hold unknown ops, whose slots it gathers apart.
func checkedPlanes(row []uint8) (lo, hi, unknown uint64) {
	for s, op := range row {
		switch {
		case op >= kv.NumOps:
			unknown |= 1 << s
		default:
			lo |= uint64(op&1) << s
			hi |= uint64(op>>1) << s
		}
	}
	return lo, hi, unknown
}

// applyList applies ordered pairs (op, slot); rule 6.3.
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
}

// apply does one operation if the slot's state allows it.
func (v *env) apply(op kv.Op, slot uint) bool {
	b := &v.blocks[slot/64]
	bit := uint64(1) << (slot & 63)
	resident := b.Alive &^ b.Swapped
	switch op {
	case kv.Evict:
		bit &= b.Alive
		v.evict(b, bit)
	case kv.Compress:
		bit &= resident &^ b.Int4
		v.compress(b, bit)
	case kv.Swap:
		bit &= resident
		v.swap(b, bit)
	}
	return bit != 0
}

// evict drops live slots; rule 6.2.
func (v *env) evict(b *block, mask uint64) {
	if mask == 0 {
		return
	}
	for m := mask &^ b.Swapped; m != 0; m &= m - 1 {
		s := uint(bits.TrailingZeros64(m))
		v.removeMemory(b, s, v.privatePages(b, s)*b.quant(s).QuarterPages())
	}
	v.countRisk(b, mask)
	v.Counters.Evictions += uint32(bits.OnesCount64(mask))
	b.clear(mask)
}

// countRisk adds the risk of evicting slots; rule 9.8.
func (v *env) countRisk(b *block, mask uint64) {
	v.RiskHundredths += 30 * uint32(bits.OnesCount64(mask&b.system()))
	for m := mask & b.context(); m != 0; m &= m - 1 {
		if b.Priority[bits.TrailingZeros64(m)&63] >= 50 {
			v.RiskHundredths += 15
		}
	}
	for m := mask & b.generation(); m != 0; m &= m - 1 {
		s := bits.TrailingZeros64(m) & 63
		tokens := uint64(b.Tokens[s])
		if b.Priority[s] >= 70 && tokens*10 >= (tokens+uint64(b.Remaining[s]))*7 {
			v.RiskHundredths += 20
		}
	}
}

// compress takes resident slots one quantisation level down, which halves their memory; rule 6.2.
func (v *env) compress(b *block, mask uint64) {
	for m := mask; m != 0; m &= m - 1 {
		s := uint(bits.TrailingZeros64(m))
		v.removeMemory(b, s, v.privatePages(b, s)*b.quant(s).QuarterPages()/2)
	}
	b.Int4 |= mask & b.Int8
	b.Int8 ^= mask
	v.Counters.Compressions += uint32(bits.OnesCount64(mask))
}

// swap moves resident slots to CPU memory; rule 6.2.
func (v *env) swap(b *block, mask uint64) {
	for m := mask; m != 0; m &= m - 1 {
		s := uint(bits.TrailingZeros64(m))
		v.removeMemory(b, s, v.privatePages(b, s)*b.quant(s).QuarterPages())
	}
	b.Swapped |= mask
	v.Counters.Swaps += uint32(bits.OnesCount64(mask))
}
