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
