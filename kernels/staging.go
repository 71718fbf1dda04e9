package kernels

import "unsafe"

// StagedRow is the length of the rows that can be staged: an observation of 64 slots.
const StagedRow = 16 + Lanes*SlotFeatures

// stagedLines are the cache lines of such a row.
const stagedLines = 4 * StagedRow / 64

// Staging keeps an observation row on its way to memory. A tensor that a core's cache cannot hold takes a row more slowly than the core
// computes it, and what is stored after the row waits for it. So ObserveStaged leaves the row here, and it is moved some lines at a time
// while the next environment steps, which stores little. One thread may use it at a time.
type Staging struct {
	Row    *[StagedRow]float32 // begins a cache line
	To     *[StagedRow]float32 // where the row belongs; nil if none waits
	Moved  int                 // cache lines of it that are there
	Stream bool                // past the caches; as in Rows
}

// MakeStaging returns one in which no row waits.
func MakeStaging() Staging {
	bytes := make([]byte, 4*StagedRow+63)
	at := -uintptr(unsafe.Pointer(&bytes[0])) & 63
	return Staging{Row: (*[StagedRow]float32)(unsafe.Pointer(&bytes[at]))}
}

// Move moves some more cache lines of the row that waits, if one does.
func (s *Staging) Move(lines int) {
	if s.To != nil {
		s.move(min(lines, stagedLines-s.Moved))
	}
}

func (s *Staging) move(lines int) {
	first := s.Moved * 16
	from, to := s.Row[first:first+16*lines], s.To[first:]
	if s.Stream && lines > 0 {
		streamLines(to, from)
	} else {
		copy(to, from)
	}
	if s.Moved += lines; s.Moved == stagedLines {
		s.To = nil
	}
}

// Flush moves the rest of the row that waits, if one does.
func (s *Staging) Flush() { s.Move(stagedLines) }

// StagingPays tells whether staging is faster than writing rows at once, where a tensor is larger than a core's cache. It is on Intel's
// processors; on AMD's, whose stores of rows delay nothing, the copy costs more than it brings (docs/performance.md).
func StagingPays() bool { return active == AVX512 && waitsForRows }
