package kernels

import "github.com/kvgym/kvgym/kv"

// Lanes is the number of slots in a Block; a flag of them is one bit in a plane.
const Lanes = 64

// Block holds 64 slots: exactly 1,024 bytes, per-slot columns first, then bit planes (bit s of a plane is slot s). It is the
// one declaration of these arrays: the generated assembly takes its offsets from here, and so do allocation, snapshots and
// descriptions above.
//
// The planes are two lines of eight. Kernels store them as whole lines: a load of a line that meets narrower stores on their way to
// the cache waits for all of them, which cost 30 ns a step.
//
// INVARIANT (the owner's): every plane is a subset of Alive; Prefill and Active exclude each other; Int8 and Int4 exclude each
// other; Members[p-1] is exactly the live slots whose Prefix is p. Columns of dead slots hold stale values that no result depends on.
type Block struct {
	Tokens     [Lanes]uint32 `unit:"tokens cached, shared prefix included"`
	Remaining  [Lanes]uint16 `unit:"tokens still to generate"`
	LastAccess [Lanes]int16  `unit:"step"`
	Rate       [Lanes]uint16 `unit:"tokens a step"`
	Priority   [Lanes]uint8  `unit:"percent"`
	Prefix     [Lanes]uint8  `unit:"shared prefix id, 0 none"`
	Hotness    [Lanes]uint8  `unit:"1/255"`
	Cycle      [Lanes]uint8  `unit:"bits 0-3 timer in steps, 4-5 run code, 6-7 pause code"`

	Alive   uint64 `unit:"plane"`
	Swapped uint64 `unit:"plane"`
	Type0   uint64 `unit:"plane, bit 0 of the block type"`
	Type1   uint64 `unit:"plane, bit 1 of the block type"`
	Active  uint64 `unit:"plane, generating: decode or reasoning"`
	Int8    uint64 `unit:"plane"`
	Int4    uint64 `unit:"plane"`
	Prefill uint64 `unit:"plane"`

	Type2   uint64                 `unit:"plane, bit 2 of the block type"`
	Members [kv.MaxPrefixes]uint64 `unit:"planes, one a shared prefix"`
}

// Empty takes all lanes out of the planes.
func (b *Block) Empty() {
	b.Alive, b.Swapped, b.Type0, b.Type1, b.Active, b.Int8, b.Int4, b.Prefill, b.Type2 = 0, 0, 0, 0, 0, 0, 0, 0, 0
	b.Members = [kv.MaxPrefixes]uint64{}
}

// Clear removes the lanes of a mask from every plane.
func (b *Block) Clear(mask uint64) {
	keep := ^mask
	b.Alive &= keep
	b.Swapped &= keep
	b.Type0 &= keep
	b.Type1 &= keep
	b.Type2 &= keep
	b.Int8 &= keep
	b.Int4 &= keep
	b.Prefill &= keep
	b.Active &= keep
	for p := range b.Members {
		b.Members[p] &= keep
	}
}
