package rollout

import (
	"bytes"
	"encoding/binary"
	"math"
	"testing"

	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/stretchr/testify/require"
)

// roundTrip writes a table of one flat integer column and one list of them, and reads both back with arrow-go.
func roundTrip(t *testing.T, narrow []int32, wide []int64, lengths []int32) {
	cols := []column{{name: "narrow", data: narrow, key: true}, {name: "wide", data: wide},
		{name: "list", data: list{lengths: lengths, fields: []column{{name: "a", data: narrow}, {name: "b", data: flags(narrow)}}}}}
	rows := len(narrow)
	if lengths != nil {
		rows = len(lengths)
		cols = cols[2:]
	} else {
		cols = cols[:2]
	}
	var buf bytes.Buffer
	var w tableWriter
	require.NoError(t, w.write(&buf, cols, rows, []field{{"k", "v"}}))
	r, err := file.NewParquetReader(bytes.NewReader(buf.Bytes()))
	require.NoError(t, err)
	require.EqualValues(t, rows, r.NumRows())
	if lengths == nil {
		got, err := readInts(r, "narrow")
		require.NoError(t, err)
		for i, v := range narrow {
			require.EqualValues(t, v, got[i])
		}
		got, err = readInts(r, "wide")
		require.NoError(t, err)
		require.Equal(t, wide, got)
		return
	}
	readList(t, r, narrow, lengths)
}

func flags(v []int32) (out []bool) {
	for _, x := range v {
		out = append(out, x&1 != 0)
	}
	return out
}

// readList checks values and levels of both fields of the list.
func readList(t *testing.T, r *file.Reader, values, lengths []int32) {
	n := int64(0)
	for _, l := range lengths {
		n += int64(max(1, l))
	}
	group := r.RowGroup(0)
	a, err := group.Column(0)
	require.NoError(t, err)
	got, def, rep := make([]int32, n), make([]int16, n), make([]int16, n)
	levels, read := int64(0), 0
	for levels < n {
		l, v, err := a.(*file.Int32ColumnChunkReader).ReadBatch(n-levels, got[read:], def[levels:], rep[levels:])
		require.NoError(t, err)
		require.Positive(t, l)
		levels, read = levels+l, read+v
	}
	require.Equal(t, values, append([]int32{}, got[:read]...))
	k := 0
	for _, l := range lengths {
		for j := range max(1, l) {
			require.Equal(t, [2]int16{int16(min(l, 1)), int16(min(j, 1))}, [2]int16{def[k], rep[k]})
			k++
		}
	}
	b, err := group.Column(1)
	require.NoError(t, err)
	truth := make([]bool, len(values)+1)
	read = 0
	for read < len(values) {
		_, v, err := b.(*file.BooleanColumnChunkReader).ReadBatch(n, truth[read:], nil, nil)
		require.NoError(t, err)
		require.Positive(t, v)
		read += v
	}
	for i, v := range values {
		require.Equal(t, v&1 != 0, truth[i])
	}
}

func TestEncodings(t *testing.T) {
	for _, n := range []int{1, 2, 31, 32, 33, 64, 127, 128, 129, 130, 160, 161, 257, 1000} {
		narrow, wide := make([]int32, n), make([]int64, n)
		for i := range n {
			narrow[i], wide[i] = int32(i*i%37-9), int64(i)<<40-5
			switch i % 50 {
			case 7:
				narrow[i], wide[i] = math.MaxInt32, math.MaxInt64
			case 8:
				narrow[i], wide[i] = math.MinInt32, math.MinInt64
			}
		}
		roundTrip(t, narrow, wide, nil)
		roundTrip(t, make([]int32, n), make([]int64, n), nil)
		roundTrip(t, narrow, nil, []int32{int32(n)})
		roundTrip(t, narrow, nil, append([]int32{0, 0, 1}, int32(n-1), 0))
	}
	roundTrip(t, []int32{}, nil, []int32{0, 0, 0})
}

// FuzzEncodings writes arbitrary integers, flat and in lists of arbitrary lengths, and reads them back with arrow-go.
func FuzzEncodings(f *testing.F) {
	f.Add([]byte("12345678"), []byte{3})
	f.Add(bytes.Repeat([]byte{0xFF, 0, 0, 0x80, 1, 2, 3, 4}, 200), []byte{0, 1, 255, 0, 9})
	f.Fuzz(func(t *testing.T, data, cuts []byte) {
		var narrow []int32
		var wide []int64
		for ; len(data) >= 8; data = data[8:] {
			wide = append(wide, int64(binary.LittleEndian.Uint64(data)))
			narrow = append(narrow, int32(binary.LittleEndian.Uint32(data)))
		}
		if len(narrow) == 0 {
			return
		}
		roundTrip(t, narrow, wide, nil)
		lengths := []int32{}
		left := int32(len(narrow))
		for _, c := range cuts {
			n := min(left, int32(c))
			lengths, left = append(lengths, n), left-n
		}
		roundTrip(t, narrow, nil, append(lengths, left))
	})
}
