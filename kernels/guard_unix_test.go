//go:build unix

package kernels_test

import (
	"os"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// guarded is memory of n bytes that ends on a page which cannot be touched; what stands before it is watched, too.
type guarded struct {
	data  []byte
	front []byte
}

func newGuarded(t *testing.T, n int) *guarded {
	page := os.Getpagesize()
	size := (n+page-1)/page*page + page
	all, err := unix.Mmap(-1, 0, size+page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	require.NoError(t, err)
	t.Cleanup(func() { _ = unix.Munmap(all) })
	require.NoError(t, unix.Mprotect(all[size:], unix.PROT_NONE))
	g := &guarded{data: all[size-n : size : size], front: all[:size-n]}
	for i := range g.front {
		g.front[i] = 0xA5
	}
	return g
}

func (g *guarded) floats() []float32 {
	if len(g.data) == 0 {
		return nil
	}
	return unsafe.Slice((*float32)(unsafe.Pointer(&g.data[0])), len(g.data)/4)
}

func (g *guarded) check(t *testing.T) {
	for i, x := range g.front {
		if x != 0xA5 {
			require.Failf(t, "written before the start", "%d bytes before", len(g.front)-i)
		}
	}
}
