package vecenv

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// canPin tells whether this system lets threads be bound to processors.
const canPin = true

// pin binds the calling goroutine's thread, which is the goroutine's alone until release, to one of the processors that the process may
// use: number k of them, counting round. release gives the thread back as it was: it may be the program's first one, which does not
// end with its goroutine.
func pin(k int) (release func(), err error) {
	var allowed, one unix.CPUSet
	runtime.LockOSThread()
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		runtime.UnlockOSThread()
		return func() {}, fmt.Errorf("vecenv: Pin: reading the processors of the process: %w", err)
	}
	release = func() {
		if unix.SchedSetaffinity(0, &allowed) == nil {
			runtime.UnlockOSThread()
		}
	}
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
		return release, fmt.Errorf("vecenv: Pin: binding a worker to its processor: %w", err)
	}
	return release, nil
}
