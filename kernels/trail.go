package kernels

// TrailRow is the length of the rows that can be written later: an observation of 64 slots.
const TrailRow = 16 + Lanes*SlotFeatures

// Trail is the observation that an environment's step has left to be written while the next one steps. Both are chains of operations that
// wait for each other, and a tensor that a core's cache cannot hold takes a row more slowly than the core computes it: what is written
// between the parts of another step costs little more than its instructions. One thread may use it at a time.
type Trail struct {
	Seat   Seat               // of the environment, which must not change until then
	Shared Shared             // of its prefixes: Gain and Last
	Frame  *Frame             // of its batch, with Groups 4
	To     *[TrailRow]float32 // where the row belongs; nil if there is nothing to write
	Stream bool               // past the caches; as in Rows
}

// Leave leaves an observation to StepTrailing, Steps or Flush, and writes the one before. The arguments are those of Observe.
func (t *Trail) Leave(to *[TrailRow]float32, p *Seat, f *Frame, s *Shared, stream bool) {
	t.Flush()
	q := &t.Seat // field by field: wide loads would wait for narrow stores
	q.Block, q.Ledger, q.Limits, q.Pages, q.Queue = p.Block, p.Ledger, p.Limits, p.Pages, p.Queue
	t.Shared.Gain, t.Shared.Last[0] = s.Gain, s.Last[0]
	t.Frame, t.To, t.Stream = f, to, stream
}

// Flush writes the observation that is left, if one is.
func (t *Trail) Flush() {
	if t.To != nil {
		Observe(t.To[:], &t.Seat, t.Frame, &t.Shared, t.Stream)
		t.To = nil
	}
}

// StepTrailing is Step from StageOperate on, and writes the observation that is left in t meanwhile, which there must be; perhaps only in
// the next Leave or Flush.
func StepTrailing(p *Seat, f *Frame, ops *[Lanes]uint8, d *ArrivalDraws, a *Admission, s *Shared, t *Trail) Stage {
	left := stepTrailing(p, f, ops, d, a, s, t)
	if left >= StageArrive {
		t.To = nil
	}
	return left
}

// stepTrailingEach is the reference.
func stepTrailingEach(p *Seat, f *Frame, ops *[Lanes]uint8, d *ArrivalDraws, a *Admission, s *Shared, t *Trail) Stage {
	t.Flush()
	return stepEach(p, f, ops, d, a, s, StageOperate)
}

// TrailPays tells whether that is faster than to write each observation at once. It is on Intel's processors; on AMD's, an observation in the
// middle of the next step made no difference (docs/performance.md).
func TrailPays() bool { return active == AVX512 && trails }

// PrefetchPays tells whether asking for the memory of a serving environment ahead is faster than to let the processor find it: on AMD's
// processors by a tenth, on Intel's the requests hold up what the present step asks for (docs/performance.md).
func PrefetchPays() bool { return !trails }
