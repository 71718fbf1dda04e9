package vecenv

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// canPin tells whether this system lets threads be bound to processors.
const canPin = true

// pin binds the calling goroutine's thread to one of the processors that the process may use: number k of them, counting round. The
// thread is the goroutine's alone from then on, and ends with it.
func pin(k int) error {
	var allowed, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return fmt.Errorf("vecenv: Pin: reading the processors of the process: %w", err)
	}
	runtime.LockOSThread()
	k %= max(1, allowed.Count())
	for cpu := range len(allowed) * 64 {
		if !allowed.IsSet(cpu) {
			continue
		}
		if k == 0 {
			one.Set(cpu)
			break
		}
		k--
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return fmt.Errorf("vecenv: Pin: binding a worker to its processor: %w", err)
	}
	return nil
}
