package vecenv

// StageAlways makes new batches stage their observation rows if they can, whatever the machine and the size.
func StageAlways(always bool) { stageAlways = always }

// Staged tells whether a batch stages its rows.
func (b *Batch) Staged() bool { return b.staged }
