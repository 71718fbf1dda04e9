//go:build unix

package outdir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Lock keeps a second writer out of the folder for as long as this process lives. The kernel gives the lock back when the
// process ends, however it ends.
func (d Dir) Lock() (release func(), err error) {
	f, err := os.OpenFile(filepath.Join(d.Path, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, d.Unwritable(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, Refuse("%s: out: %s: another %s is writing to it: allowed one at a time", d.Owner, d.Path, d.Owner)
		}
		return nil, fmt.Errorf("%s: out: %s: lock: %w", d.Owner, d.Path, err)
	}
	return func() { f.Close() }, nil
}
