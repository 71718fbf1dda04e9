//go:build unix

package rollout

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// lock keeps a second rollout out of the folder for as long as this process lives. The kernel gives the lock back when the
// process ends, however it ends.
func (f *folder) lock() (release func(), err error) {
	d, err := os.OpenFile(filepath.Join(f.path, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("rollout: out: %s: %w: allowed a folder that can be written", f.path, err)
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		d.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, refuse("rollout: out: %s: another rollout is writing to it: allowed one at a time", f.path)
		}
		return nil, fmt.Errorf("rollout: out: %s: lock: %w", f.path, err)
	}
	return func() { d.Close() }, nil
}
