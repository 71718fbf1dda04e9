package kernels

import "unsafe"

// Lane is what the serving profile holds of 64 slots beside their block: exactly 1,216 bytes, the planes as a line of eight.
//
// INVARIANT (the owner's): every plane is a subset of Alive; Out, In and Swapped exclude each other; Fresh and Wanted are subsets of Swapped;
// Moving means something only in Out or In, Work only in Prefill, Wake only while idle. Columns of dead slots hold stale values that nothing reads.
type Lane struct {
	Out    uint64 `unit:"plane, on the way to CPU memory"`
	In     uint64 `unit:"plane, on the way back"`
	Fresh  uint64 `unit:"plane, swapped out in the last step"`
	Wanted uint64 `unit:"plane, swapped and asked back"`
	First  uint64 `unit:"plane, the turn has given its first token"`
	Late   uint64 `unit:"plane, after the deadline"`

	Reserved [2]uint64 `unit:"0"`

	Work   [Lanes]uint32 `unit:"microseconds of prefill left"`
	Moving [Lanes]uint32 `unit:"quarter pages still to cross the link"`
	Ref    [Lanes]uint32 `unit:"name of the session's present turn, 0 none"`
	Wake   [Lanes]int16  `unit:"step in which an idle sequence goes on or ends"`
	Born   [Lanes]int16  `unit:"step in which the turn began"`
	Admit  [Lanes]int16  `unit:"step of admission"`
}

// planes are all planes of a lane.
func (l *Lane) planes() *[8]uint64 { return (*[8]uint64)(unsafe.Pointer(l)) }

// MostOperated bounds the tokens of the lanes that OperateServing looks at: it counts pages in 16 bits.
const MostOperated = 1 << 21

// Operated is what OperateServing tells.
type Operated struct {
	Evict   uint64 // plane: what is to be evicted
	BusyQP  uint32 // memory traffic of compressions, quarter pages
	MovedQP uint32 // over the link, quarter pages
}

// OperateServing does the operations of a row on an environment of one block of 64 slots, but for evictions, moves what they swap out over
// the link, and lets hotness decay; rules 13.11 to 13.14. It counts operations in the ledger, those
// of evictions too, and keeps memory and prefixes in it up to date. host is what swapped sequences may take of the CPU's memory, link what
// may be moved in a step, quarter pages.
//
//	settled = Alive &^ (Swapped | Out | In | Prefill)
//	evict = Alive with op 1; compress = settled &^ Int4 with op 2; back = Swapped &^ Wanted with op 3; leave = settled with op 3
//	a lower level for compress, and for the prefixes of compress that have a higher one; Wanted |= back; Fresh = leave; Swapped |= leave
//
// ok is false, and nothing is done, if something that is not evicted is on its way out; if leave is not empty and CPU memory, without what is
// evicted, or the link, has no room for all of it; or if the lowest 32 lanes, or the others when one of them is alive, have one with
// MostOperated tokens or more and something is to be compressed or to leave.
func OperateServing(p *Seat, lane *Lane, ops *[Lanes]uint8, host, link uint32, o *Operated) (ok bool) {
	return operateServing(p, lane, ops, host, link, o)
}

// Prefilled is what Prefill tells.
type Prefilled struct {
	Spent   uint64 // microseconds
	Set     uint64 // plane: who generates now, resident and not on its way
	Context uint64 // their tokens
}

// Prefill spends a step's time of prefill, microseconds, on the resident lanes of a block that prefill and are not on their way, oldest
// admission first, of several the lowest lane; rule 13.17. No step of admission is negative. Who has no more to do generates from now on.
//
//	for s in Prefill &^ (Swapped | Out | In), by (Admit[s], s) {
//		x := min(Work[s], time left); Work[s] -= x
//		if Work[s] == 0 and there was time left before { s leaves Prefill and joins Active, and Work[s] means nothing any more }
//	}
func Prefill(b *Block, lane *Lane, budget uint64, p *Prefilled) { prefill(b, lane, budget, p) }
