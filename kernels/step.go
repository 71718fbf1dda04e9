package kernels

import (
	"fmt"

	"github.com/kvgym/kvgym/kv"
)

// Seat is where an environment of the seed profile stands that has one block: what the kernels of its whole step work on.
type Seat struct {
	Block  *Block
	Ledger *Ledger
	Limits *Limits
	Pages  *[kv.MaxPrefixes + 1]uint16 // of each shared prefix, [0] is 0
	Queue  *[QueueRoom]uint64          // waiting requests, oldest first; the step of arrival in the upper 16 bits
	Needs  *[QueueRoom]uint32          // what each of them needs, at least 1
}

// QueueRoom is the room of a queue: eight more than there can be requests, so that they can be written eight at a time.
const QueueRoom = 32 + 8

// Limits are what an episode measures memory and tokens by.
type Limits struct {
	CapacityQP uint32 // GPU memory for KV cache, quarter pages
	BudgetQP   uint32 // what the policy may use of it, quarter pages
	TokenNorm  uint32 // tokens that make a throughput of 1
}

// Frame is what all environments of a batch have in common.
type Frame struct {
	Den      [16]int32      // what the observation's global values are divided by, where no episode changes it
	Steps    int32          // of an episode
	MaxWait  int32          // steps that a request may wait
	QueueCap int32          // requests that may wait, at most 32
	Growth   uint32         // quarter pages by which a sequence can grow in a step, at most
	Slots    uint64         // plane of those that exist
	Tables   *RequestTables // of the requests that arrive
	Groups   int            // of 16 slots, at most 4: a draw for each counts arrivals
}

// ArrivalDraws are the counters of a step's arrivals, as Arrive takes them.
type ArrivalDraws struct {
	Base   uint64     // of what each request brings
	Count  uint64     // of how many arrive
	Counts *[8]uint16 // thresholds of that
}

// MostPages bounds the pages of a lane, with those of its prefix, and those of a prefix, when Step begins: it counts them in 16 bits.
const MostPages = 1 << 14

// Stage is a part of a step.
type Stage uint8

// The stages of Step, in order.
const (
	StageOperate Stage = iota // operations and generation: Act and Advance
	StageServe                // admission: Admit
	StageEnter                // the admitted into their slots: Enter; then Prefixes
	StageArrive               // arrivals: Arrive
	StageDone
)

// Step lets the stages of a step of the seed profile pass from a given one on, StageOperate or StageServe, and adds to the ledger what they
// do; rules 6.2 to 7.6. No lane and no prefix has more than MostPages. Step of the ledger is the step that passes; Score, Growth, HeadroomTenths and PressureSteps are the caller's. It
// returns the first stage that it leaves to the caller, with those after it:
//
//	StageOperate: a lane might stall: used memory would be above the capacity both with Growth quarter pages for each Active lane, and with
//	              four for each page that those of them that are not Swapped begin with Rate more tokens
//	StageEnter:   more than eight are admitted: Taken, Joins and Words of the admission say which
//	StageArrive:  more than eight arrive
//	StageDone:    nothing
//
// From StageServe on, ops is not looked at, and the caller must have brought SharedQP of the ledger and Extra of s up to date, unless nobody
// waits. Unless it returns StageEnter, Reads and Joins of the admission say, where something was admitted, which swapped system blocks have
// been accessed through their prefix: Reads is 0 otherwise. That is the caller's to charge; rule 6.9. After StageArrive and StageDone, s is
// what Prefixes gives, but for QP, Retained, Mul and Weight, which the ledger has.
func Step(p *Seat, f *Frame, ops *[Lanes]uint8, d *ArrivalDraws, a *Admission, s *Shared, from Stage) Stage {
	return step(p, f, ops, d, a, s, from)
}

// Observe writes the whole observation row of an environment: Globals of Numerators, and Rows; rules 10.1 and 10.2. len(dst) is 16, and 12
// for each slot; the budget is below 2^29, and f.Den[15] is MostLatency. s is what Step or Prefixes leaves. stream is as in Rows.
func Observe(dst []float32, p *Seat, f *Frame, s *Shared, stream bool) {
	if len(dst) != 16+16*SlotFeatures*f.Groups {
		panicLength(len(dst), f.Groups)
	}
	observe(dst, p, f, s, stream)
}

// ServingGlobals is what the global values of the serving profile count otherwise than Numerators; rule 13.22.
type ServingGlobals struct {
	QueueLen, Growth, Oldest int32  // numerators 4 to 6
	Good, Waits              int32  // numerators 14 and 15
	Norm, Most               uint32 // their denominators, below 2^31
	Moving                   uint64 // plane; as in View
}

// ObserveServing is Observe of an environment of the serving profile: Globals, Holders and Rows.
func ObserveServing(dst []float32, p *Seat, f *Frame, g *ServingGlobals, stream bool) {
	if len(dst) != 16+16*SlotFeatures*f.Groups {
		panicLength(len(dst), f.Groups)
	}
	observeServing(dst, p, f, g, stream)
}

//go:noinline
func panicLength(values, groups int) {
	panic(fmt.Sprintf("kernels: Observe: %d values: allowed 16, and 12 for each of %d slots", values, 16*groups))
}
