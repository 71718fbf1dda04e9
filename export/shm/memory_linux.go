package shm

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const wantedSeals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL

// newMemory makes a segment that nobody can resize: a mapping of one that shrinks would kill its reader. Pages come from ordinary memory,
// never from a reserved pool of huge ones: a client can punch holes, and what is read there must be zeros, not a fault.
func newMemory(name string, size int64) (mem []byte, file *os.File, err error) {
	fd, err := unix.MemfdCreate("kvgym-"+name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		fd, err = unix.MemfdCreate("kvgym-"+name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("segment: %w", err)
	}
	file = os.NewFile(uintptr(fd), "kvgym-"+name)
	if err = unix.Ftruncate(fd, size); err == nil {
		if _, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, wantedSeals); err == nil {
			mem, err = mapMemory(fd, size)
		}
	}
	if err != nil {
		_ = file.Close()
		return nil, nil, fmt.Errorf("segment: %d bytes: %w", size, err)
	}
	return mem, file, nil
}

// mapMemory maps a segment. A large one starts at an address that huge pages can stand at, for which room is reserved first.
func mapMemory(fd int, size int64) ([]byte, error) {
	if size < hugePage {
		return unix.Mmap(fd, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	}
	room, err := unix.MmapPtr(-1, 0, nil, uintptr(size+hugePage), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return nil, err
	}
	before := -uintptr(room) & (hugePage - 1)
	at := unsafe.Add(room, before)
	if _, err = unix.MmapPtr(fd, 0, at, uintptr(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_FIXED); err != nil {
		_ = unix.MunmapPtr(room, uintptr(size+hugePage))
		return nil, err
	}
	if before > 0 {
		_ = unix.MunmapPtr(room, before)
	}
	_ = unix.MunmapPtr(unsafe.Add(at, size), hugePage-before)
	return unsafe.Slice((*byte)(at), int(size)), nil
}

// unmapMemory gives a mapping back.
func unmapMemory(mem []byte) {
	_ = unix.MunmapPtr(unsafe.Pointer(unsafe.SliceData(mem)), uintptr(len(mem)))
}

// openMemory maps a segment that a server has sent, once it is sure that it cannot shrink.
func openMemory(fd int, size int64) ([]byte, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil || seals&wantedSeals != wantedSeals || st.Size != size {
		return nil, fmt.Errorf("segment: %d bytes, seals %#x: allowed %d bytes, sealed against resizing", st.Size, seals, size)
	}
	return mapMemory(fd, size)
}

// populate makes the pages of a segment's first bytes present, so that no step meets one for the first time, and huge where there are
// that many. Linux gives shared memory huge pages by itself only where an administrator has said so; asked to collapse what is there it
// does so everywhere but where they are denied. A step over 4,096 environments takes a quarter less time with them.
func populate(mem []byte) {
	_ = unix.Madvise(mem, unix.MADV_HUGEPAGE)
	_ = unix.Madvise(mem, unix.MADV_POPULATE_WRITE)
	if n := len(mem) &^ (hugePage - 1); n > 0 {
		_ = unix.Madvise(mem[:n], unix.MADV_COLLAPSE)
	}
}

// word32 is a word of a segment, for atomic access.
func word32(mem []byte, offset int) *uint32 {
	return (*uint32)(unsafe.Pointer(&mem[offset : offset+4][0]))
}

func word64(mem []byte, offset int) *uint64 {
	return (*uint64)(unsafe.Pointer(&mem[offset : offset+8][0]))
}

const (
	futexWaitOp = 0 // not private: the other side is another process
	futexWakeOp = 1
)

func futexWake(word *uint32) {
	_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWakeOp, 1<<30, 0, 0, 0)
}

// How a side waits: it looks at the word for a moment, since a wake-up through the system costs some microseconds, and then sleeps. With few
// processors the moment is short, with one there is none: the other side needs it.
func spinTime() time.Duration {
	switch n := min(runtime.NumCPU(), runtime.GOMAXPROCS(0)); {
	case n < 2:
		return 0
	case n < 4:
		return 20 * time.Microsecond
	}
	return 50 * time.Microsecond
}

const (
	looksPerClock = 32 // looks at the word between looks at the clock
	sleepSlice    = 100 * time.Millisecond
)

// waiter waits for a word of the other side. It allocates nothing.
type waiter struct {
	word   *uint32 // the other side's
	sleeps *uint32 // this side's, for the other one to see
	spin   time.Duration
	over   atomic.Bool   // ends the waiting early; any goroutine may set it
	slice  unix.Timespec // what the system is told
}

// change waits until the word is not old any more, or it is over, or limit has passed.
func (w *waiter) change(old uint32, limit time.Duration) (now uint32, changed bool) {
	start := time.Now()
	for w.spin > 0 {
		for range looksPerClock {
			if now = atomic.LoadUint32(w.word); now != old {
				return now, true
			}
			pause()
		}
		if w.over.Load() || time.Since(start) > w.spin {
			break
		}
		runtime.Gosched()
	}
	defer atomic.StoreUint32(w.sleeps, 0)
	for {
		atomic.StoreUint32(w.sleeps, 1) // before the look: whoever changes the word after it sees the flag
		if now = atomic.LoadUint32(w.word); now != old {
			return now, true
		}
		left := limit - time.Since(start)
		if w.over.Load() || left <= 0 {
			return old, false
		}
		w.sleep(old, min(left, sleepSlice))
	}
}

func (w *waiter) sleep(old uint32, limit time.Duration) {
	w.slice = unix.NsecToTimespec(int64(limit))
	_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(w.word)), futexWaitOp, uintptr(old), uintptr(unsafe.Pointer(&w.slice)), 0, 0)
}

// publish changes a word and wakes the other side if it sleeps.
func publish(word, othersSleep *uint32, value uint32) {
	atomic.StoreUint32(word, value)
	if atomic.LoadUint32(othersSleep) != 0 {
		futexWake(word)
	}
}
