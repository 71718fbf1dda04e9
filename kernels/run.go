package kernels

import "unsafe"

// Run is a run of environments of the seed profile that stand one after the other in memory: what Steps works on. They have one block each.
type Run struct {
	// Of the first environment.
	Seat Seat
	Ops  *[Lanes]uint8
	Row  *[TrailRow]float32 // where its observation belongs; whole cache lines if the trail streams

	Stride [8]int // bytes from what each of these eight pointers points to, in their order, to the same of the next environment

	// Bytes from an environment's ledger to what else it has.
	Key   int // uint64: of its random streams
	Level int // uint8: of its arrivals, at most 3
	Ended int // uint32: 1 when its episode has ended, else 0

	// Where the first environment's values belong. Those of the next one are the next elements.
	Reward                *float32
	Terminated, Truncated *uint8

	Terminal, Truncate uint8 // 0 or 1: the flags of an episode's last step
	Ahead              bool  // asks for the memory of the next environments: for runs that a core's cache cannot hold
	Last               int32 // an environment that has done so many steps is left to the caller
	Arrivals           RunArrivals
	Weights            *[7]int64 // hundredths: of failures, throughput, headroom, efficiency, quality, latency, risk; rule 9.2
}

// RunArrivals says what the arrivals of any step are drawn from; rules 4.7 to 4.9. Its counters are those of key 0 and step 0.
type RunArrivals struct {
	Base   uint64        // of what each request brings
	Count  uint64        // of how many arrive
	Burst  uint64        // of whether there is a burst, at level 3: if the lowest 16 bits of the draw are below Chance
	Counts *[8][8]uint16 // thresholds of each level, and behind them of a burst
	Chance uint64        // at most 65,536
}

// Steps lets the first n environments step, one after the other, until one has to be left to the caller: Step, the accesses that Step leaves
// to be charged, and then reward, flags and Ended; rules 4.7 to 9.9. Their observations are left in the trail, as Leave would leave them;
// when Steps is called, it must have one, and Stream holds for all. It returns how many have stepped, and what is left of the next one:
//
//	StageOperate: its whole step; or there is no next one
//	StageEnter, StageArrive: as of Step; Growth of its ledger is minus the length that the queue had before
//
// A level without it leaves everything to the caller: that is its reference.
func Steps(r *Run, n int, f *Frame, a *Admission, s *Shared, t *Trail) (done int, left Stage) {
	done, left = steps(r, n, f, a, s, t)
	if done > 0 {
		r.leave(t, done-1)
	}
	if left >= StageArrive {
		t.To = nil
	}
	return done, left
}

// leave names environment i in the trail, which has the rest.
func (r *Run) leave(t *Trail, i int) {
	p, q := &r.Seat, &t.Seat
	q.Block = beyond(p.Block, i*r.Stride[0])
	q.Ledger = beyond(p.Ledger, i*r.Stride[1])
	q.Limits = beyond(p.Limits, i*r.Stride[2])
	q.Pages = beyond(p.Pages, i*r.Stride[3])
	q.Queue = beyond(p.Queue, i*r.Stride[4])
	t.To = beyond(r.Row, i*r.Stride[7])
}

func beyond[T any](p *T, bytes int) *T { return (*T)(unsafe.Add(unsafe.Pointer(p), bytes)) }

// StepsPay tells whether Steps does anything.
func StepsPay() bool { return active == AVX512 }
