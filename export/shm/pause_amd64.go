//go:build !purego

package shm

// pause tells the processor that this thread waits for a word of another one.
func pause()
