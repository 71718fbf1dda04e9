package vecenv

import "unsafe"

// hugePage is what the memory of a large batch is aligned to, so that the system can back it with pages of that size.
const hugePage = 2 << 20

// aligned allocates n zero values at a 64-byte boundary, or on huge pages if they fill one. Go does not move heap objects, so the boundary
// stays. T holds no pointers.
func aligned[T any](n int) []T {
	size := n * int(unsafe.Sizeof(*new(T)))
	if size == 0 {
		return nil
	}
	boundary, room := 64, size
	if size >= hugePage {
		boundary, room = hugePage, (size+hugePage-1)&^(hugePage-1)
	}
	raw := make([]byte, room+boundary)
	skip := -int(uintptr(unsafe.Pointer(&raw[0]))) & (boundary - 1)
	raw = raw[skip : skip+room]
	if boundary == hugePage {
		adviseHuge(raw)
	}
	return unsafe.Slice((*T)(unsafe.Pointer(&raw[0])), n)
}
