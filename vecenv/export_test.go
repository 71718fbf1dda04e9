package vecenv

import "github.com/kvgym/kvgym/kernels"

// SetTrailing makes new batches leave observations to be written in the next environment's step if they can, or never, whatever the
// machine, until the function that it returns is called.
func SetTrailing(trails bool) (reset func()) {
	trailPays = func() bool { return trails }
	return func() { trailPays = kernels.TrailPays }
}

// Trails tells whether a batch does that.
func (b *Batch) Trails() bool { return b.trails }

// Runs tells whether environments of a batch step in one call of a kernel.
func (b *Batch) Runs() bool { return b.runs }

// Share is what workers claim environments from.
type Share = share

// NewShare is one of environments [first, end), of step 0.
func NewShare(first, end int32) *Share {
	s := &share{first: first, end: end}
	s.claimed.Store(uint64(uint32(end)))
	return s
}

// Claim is claim.
func (s *Share) Claim(number uint32, n int32) (lo, hi int32) { return s.claim(number, n) }
