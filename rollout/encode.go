package rollout

import (
	"encoding/binary"
	"math/bits"
)

// Value encodings of the Parquet format (parquet-format, Encodings.md), beside arrow-go, which writes everything around
// them: its own delta encoder takes 8 ns a value and its level encoder 4 ns, and a row has some 40 values where a step of
// the simulator takes 500 ns. These take 1 to 2. Tests read every file back with arrow-go.

const (
	deltaBlock = 128 // values a block
	deltaMini  = 32  // values a miniblock
	deltaMinis = deltaBlock / deltaMini
)

// appendDelta appends values in DELTA_BINARY_PACKED. Deltas wrap at the width of T, as the format requires.
func appendDelta[T int32 | int64](out []byte, values []T) []byte {
	out = binary.AppendUvarint(out, deltaBlock)
	out = binary.AppendUvarint(out, deltaMinis)
	out = binary.AppendUvarint(out, uint64(len(values)))
	if len(values) == 0 {
		return binary.AppendVarint(out, 0)
	}
	out = binary.AppendVarint(out, int64(values[0]))
	var deltas [deltaBlock]T
	for last := 0; last < len(values)-1; {
		n := min(deltaBlock, len(values)-1-last)
		prev, lo, hi := values[last], values[last+1]-values[last], values[last+1]-values[last]
		for i, v := range values[last+1 : last+1+n] {
			d := v - prev
			prev = v
			deltas[i] = d
			lo, hi = min(lo, d), max(hi, d)
		}
		out = appendDeltaBlock(out, deltas[:n], lo, hi)
		last += n
	}
	return out
}

// appendDeltaBlock appends one block; lo and hi are its smallest and largest delta.
func appendDeltaBlock[T int32 | int64](out []byte, deltas []T, lo, hi T) []byte {
	out = binary.AppendVarint(out, int64(lo))
	widths := len(out)
	out = append(out, 0, 0, 0, 0)
	if lo == hi {
		return out
	}
	var packed [deltaMini]uint64
	for m := 0; m*deltaMini < len(deltas); m++ {
		mini := deltas[m*deltaMini : min((m+1)*deltaMini, len(deltas))]
		var all uint64
		for i, d := range mini {
			x := unsigned(d - lo)
			packed[i] = x
			all |= x
		}
		clear(packed[len(mini):])
		width := bits.Len64(all)
		out[widths+m] = byte(width)
		out = appendPacked(out, &packed, width)
	}
	return out
}

// unsigned reads a wrapped difference at the width of T.
func unsigned[T int32 | int64](d T) uint64 {
	if d32, ok := any(d).(int32); ok {
		return uint64(uint32(d32))
	}
	return uint64(d)
}

// appendPacked appends 32 values of width bits, lowest bits first: 4 * width bytes.
func appendPacked(out []byte, values *[deltaMini]uint64, width int) []byte {
	var packed [8 * (deltaMini + 1)]byte
	var word uint64
	filled, at := 0, 0
	for _, x := range values {
		word |= x << (filled & 63)
		filled += width
		if filled >= 64 {
			binary.LittleEndian.PutUint64(packed[at:], word)
			at += 8
			filled -= 64
			word = x >> (width - filled) // a shift by the whole width, when nothing is left over, gives 0
		}
	}
	binary.LittleEndian.PutUint64(packed[at:], word)
	return append(out, packed[:4*width]...)
}

// appendRuns appends values of at most 8 bits in the run-length part of the hybrid encoding.
func appendRuns(out []byte, values []uint8) []byte {
	for i := 0; i < len(values); {
		end := i + 1
		for end < len(values) && values[end] == values[i] {
			end++
		}
		out = binary.AppendUvarint(out, uint64(end-i)<<1)
		out = append(out, values[i])
		i = end
	}
	return out
}

// appendBits appends values of one bit in the bit-packed part of the hybrid encoding.
func appendBits(out []byte, values []bool) []byte {
	out = binary.AppendUvarint(out, uint64((len(values)+7)/8)<<1|1)
	return appendBools(out, values)
}

// appendBools appends truth values one bit each, as PLAIN does.
func appendBools(out []byte, values []bool) []byte {
	for len(values) > 0 {
		n := min(8, len(values))
		var x byte
		for i, v := range values[:n] {
			if v {
				x |= 1 << i
			}
		}
		out = append(out, x)
		values = values[n:]
	}
	return out
}

// levels are the repetition and definition levels of a list column's rows, as they stand before the values of a page.
type levels struct {
	bytes    []byte
	n        int // levels; a row has as many as values, or one
	rep, def []bool
}

// set encodes the levels of rows of the given lengths, each of the two with its size in front.
func (l *levels) set(lengths []int32) {
	l.rep, l.def, l.bytes = l.rep[:0], l.def[:0], l.bytes[:0]
	for _, n := range lengths {
		l.rep, l.def = append(l.rep, false), append(l.def, n > 0)
		for range n - 1 {
			l.rep, l.def = append(l.rep, true), append(l.def, true)
		}
	}
	l.n = len(l.rep)
	for _, side := range [][]bool{l.rep, l.def} {
		at := len(l.bytes)
		l.bytes = append(l.bytes, 0, 0, 0, 0)
		l.bytes = appendBits(l.bytes, side)
		binary.LittleEndian.PutUint32(l.bytes[at:], uint32(len(l.bytes)-at-4))
	}
}
