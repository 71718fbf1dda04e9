package kernels

import (
	"encoding/binary"
	"math/bits"
	"unsafe"

	"github.com/kvgym/kvgym/kv"
)

// The reference of the observation kernels.

// Tables of float32 values, each rounded once.
var (
	percentOf  = multiples[[128]float32](1.0 / 100) // priorities
	hotnessOf  = multiples[[256]float32](1.0 / 255)
	rateOf     = multiples[[256]float32](1.0 / 128)
	ageOf      = multiples[[32]float32](1.0 / 16)
	prefixOf   = multiples[[8]float32](1.0 / 8)
	quantOf    = [4]float32{1, 0.5, 0.25, 0}
	evictionOf = evictionValues()
	phaseOf    = phaseValues()
	swappedOf  = [2]float32{0, 1}
	pageCost   = [8]uint8{4, 2, 1} // by quantisation level; the upper half is swapped
)

// phaseValues is indexed by bits 3 to 7 of a slot's code.
func phaseValues() (t [32]float32) {
	for code := range t {
		prefill, active, reasoning := code>>3&1 == 1, code>>4&1 == 1, kv.BlockType(code&7) == kv.Reasoning
		switch {
		case prefill:
			t[code] = 0.25
		case active && reasoning:
			t[code] = 0.75
		case active:
			t[code] = 0.5
		}
	}
	return t
}

func multiples[T [8]float32 | [32]float32 | [128]float32 | [256]float32](unit float32) (t T) {
	for i := range len(t) {
		t[i] = float32(i) * unit
	}
	return t
}

func evictionValues() (t [8]float32) {
	for i := range kv.NumBlockTypes {
		t[i] = float32(kv.BlockType(i).EvictionPercent()) / 100
	}
	return t
}

// rowsGeneric writes slot-major float32 rows. Everything is cleared first, with the widest stores there are, and only live slots
// are visited then: a test a slot would be a branch that nothing predicts.
func rowsGeneric(dst []float32, b *Block, v *View) {
	clear(dst)
	if len(dst) < SlotFeatures {
		return
	}
	slots := unsafe.Slice((*[SlotFeatures]float32)(unsafe.Pointer(&dst[0])), len(dst)/SlotFeatures)
	var codes [Lanes]uint8
	b.codes(&codes)
	for m := b.Alive; m != 0; m &= m - 1 {
		s := uint(bits.TrailingZeros64(m)) & 63
		f := &slots[s]
		code := codes[s]
		prefix := b.Prefix[s] & kv.MaxPrefixes
		tokens := b.Tokens[s]
		cost := (kv.Pages(tokens) - uint32(v.PrefixPages[prefix])) * uint32(pageCost[code&7])
		share := float32(min(cost, v.Limit)) * v.Inv
		f[0] = quantOf[code&3]
		f[1] = share
		f[2] = share
		f[3] = float32(tokens) / float32(tokens+uint32(b.Remaining[s]))
		f[4] = rateOf[uint8(min(b.Rate[s], 128))]
		f[5] = percentOf[b.Priority[s]&127]
		f[6] = evictionOf[code>>3&7]
		f[7] = phaseOf[code>>3]
		f[8] = hotnessOf[b.Hotness[s]]
		f[9] = ageOf[min(uint32(v.Step-int32(b.LastAccess[s])), 16)&31]
		f[10] = prefixOf[prefix]
		f[11] = swappedOf[code>>2&1]
	}
	for m := v.Last & b.Alive &^ b.Swapped; m != 0; m &= m - 1 { // at most one slot a prefix
		s := uint(bits.TrailingZeros64(m)) & 63
		prefix := b.Prefix[s] & kv.MaxPrefixes
		cost := (kv.Pages(b.Tokens[s]) - uint32(v.PrefixPages[prefix])) << (b.level(int(s)) & 31)
		slots[s][2] = float32(min(cost+v.Gain[prefix], v.Limit)) * v.Inv
	}
	for m := v.Moving & b.Alive; m != 0; m &= m - 1 {
		slots[bits.TrailingZeros64(m)][11] = 0.5
	}
}

// codes packs what eight planes say of a slot into one byte for each of the 64, bit 0 to 7: int8, int4, swapped, the
// three bits of the type, prefill, active. Eight slots at a time, as an 8 by 8 matrix of bits that is transposed.
func (b *Block) codes(out *[Lanes]uint8) {
	for i := uint(0); i < Lanes; i += 8 {
		if b.Alive>>i&0xFF == 0 {
			continue
		}
		x := b.Int8>>i&0xFF | b.Int4>>i&0xFF<<8 | b.Swapped>>i&0xFF<<16 | b.Type0>>i&0xFF<<24 |
			b.Type1>>i&0xFF<<32 | b.Type2>>i&0xFF<<40 | b.Prefill>>i&0xFF<<48 | b.Active>>i<<56
		t := (x ^ x>>7) & 0x00AA00AA00AA00AA
		x ^= t ^ t<<7
		t = (x ^ x>>14) & 0x0000CCCC0000CCCC
		x ^= t ^ t<<14
		t = (x ^ x>>28) & 0x00000000F0F0F0F0
		x ^= t ^ t<<28
		binary.LittleEndian.PutUint64(out[i&56:], x)
	}
}

// columnsGeneric writes feature-major float32 rows: the transposition of rowsGeneric.
func columnsGeneric(dst []float32, stride, slots int, b *Block, v *View) {
	var rows [Lanes * SlotFeatures]float32
	rowsGeneric(rows[:slots*SlotFeatures], b, v)
	for f := range SlotFeatures {
		column := dst[f*stride:][:slots]
		for s := range column {
			column[s] = rows[s*SlotFeatures+f]
		}
	}
}

// Byte is the u8 observation of value x of a feature whose lowest value is low: round((x - low) * scale), half up. Every operation
// is rounded to float32 by itself.
func Byte(x, low, scale float32) uint8 {
	return uint8(float32(float32(float32(x-low)*scale) + 0.5))
}

func byteRowsGeneric(dst []uint8, b *Block, v *View) {
	var rows [Lanes * SlotFeatures]float32
	rowsGeneric(rows[:len(dst)], b, v)
	for i := range dst {
		dst[i] = Byte(rows[i], 0, ByteScale[i%SlotFeatures])
	}
}

func byteColumnsGeneric(dst []uint8, stride, slots int, b *Block, v *View) {
	var rows [Lanes * SlotFeatures]float32
	rowsGeneric(rows[:slots*SlotFeatures], b, v)
	for f := range SlotFeatures {
		column := dst[f*stride:][:slots]
		for s := range column {
			column[s] = Byte(rows[s*SlotFeatures+f], 0, ByteScale[f])
		}
	}
}
