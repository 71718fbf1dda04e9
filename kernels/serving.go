package kernels

// What lanes of the serving profile are beside the planes of their block: the first four of eight planes.
const (
	PlaneOut    = iota // on the way to CPU memory
	PlaneIn            // on the way back
	PlaneFresh         // swapped out in the last step
	PlaneWanted        // swapped and asked back
)

// MostOperated bounds the tokens of the lanes that OperateServing looks at: it counts pages in 16 bits.
const MostOperated = 1 << 21

// Operated is what OperateServing tells.
type Operated struct {
	Evict   uint64 // plane: what is to be evicted
	BusyQP  uint32 // memory traffic of compressions, quarter pages
	MovedQP uint32 // over the link, quarter pages
}

// OperateServing does the operations of a row on an environment of one block of 64 slots, but for evictions, moves what they swap out over
// the link, and lets hotness decay; rules 13.11 to 13.14. more are the planes of the lanes. It counts operations in the ledger, those
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
func OperateServing(p *Seat, more *[8]uint64, ops *[Lanes]uint8, host, link uint32, o *Operated) (ok bool) {
	return operateServing(p, more, ops, host, link, o)
}
