package onnx

import "fmt"

// dtype is an element type, numbered as in onnx.proto.
type dtype int32

const (
	float  dtype = 1
	uint8s dtype = 2
	int64s dtype = 7
	bools  dtype = 9
)

func (d dtype) String() string {
	switch d {
	case float:
		return "float"
	case uint8s:
		return "uint8"
	case int64s:
		return "int64"
	case bools:
		return "bool"
	}
	return fmt.Sprintf("element type %d", int32(d))
}

// width is an element's size in bytes; 0 for types that are not supported.
func (d dtype) width() int {
	switch d {
	case float:
		return 4
	case uint8s, bools:
		return 1
	case int64s:
		return 8
	}
	return 0
}

// tensor is a dense array in row-major order; one of f, b, i holds its elements.
type tensor struct {
	dtype dtype
	shape []int
	f     []float32
	b     []uint8 // uint8, and bool as 0 and 1
	i     []int64
}

// maxElements bounds a tensor.
const maxElements = 1 << 24

// sizeOf checks dimensions and multiplies them.
func sizeOf(dims []int64) (shape []int, size int, err error) {
	if len(dims) > maxRank {
		return nil, 0, fmt.Errorf("shape %v: allowed at most %d dimensions", dims, maxRank)
	}
	size = 1
	for _, d := range dims {
		if d < 1 || d > maxElements || int64(size)*d > maxElements {
			return nil, 0, fmt.Errorf("shape %v: allowed dimensions of at least 1, %d elements in all", dims, maxElements)
		}
		size *= int(d)
		shape = append(shape, int(d))
	}
	return shape, size, nil
}

func newTensor(d dtype, shape []int, size int) *tensor {
	t := &tensor{dtype: d, shape: shape}
	switch d {
	case float:
		t.f = make([]float32, size)
	case int64s:
		t.i = make([]int64, size)
	default:
		t.b = make([]uint8, size)
	}
	return t
}

func (t *tensor) size() int { return len(t.f) + len(t.b) + len(t.i) }

// strides of a tensor read as if it had the shape given: 0 where it is repeated. ok is false where it does not fit.
func (t *tensor) strides(as []int) (out []int, ok bool) {
	out = make([]int, len(as))
	step := 1
	for k := len(t.shape) - 1; k >= 0; k-- {
		at := k + len(as) - len(t.shape)
		switch {
		case at < 0 || t.shape[k] != 1 && t.shape[k] != as[at]:
			return nil, false
		case t.shape[k] != 1:
			out[at] = step
		}
		step *= t.shape[k]
	}
	return out, true
}

// broadcast is the common shape of tensors by ONNX's (numpy's) rule.
func broadcast(ts ...*tensor) ([]int64, error) {
	var out []int64
	for _, t := range ts {
		for len(out) < len(t.shape) {
			out = append([]int64{1}, out...)
		}
		for k, d := range t.shape {
			at := k + len(out) - len(t.shape)
			switch {
			case out[at] == 1:
				out[at] = int64(d)
			case d != 1 && int64(d) != out[at]:
				return nil, fmt.Errorf("shapes %v and %v do not fit", out, t.shape)
			}
		}
	}
	return out, nil
}

// rows calls f for every row (the last axis) of a shape, with the offset of the row in the output and in each operand.
type rows struct {
	shape   []int
	strides [][]int // of each operand
	at      []int   // index of the row
	offsets []int   // of each operand
}

func newRows(shape []int, strides ...[]int) *rows {
	return &rows{shape: shape, strides: strides, at: make([]int, len(shape)), offsets: make([]int, len(strides))}
}

// width is the length of a row; step is an operand's stride in it.
func (r *rows) width() int {
	if len(r.shape) == 0 {
		return 1
	}
	return r.shape[len(r.shape)-1]
}

func (r *rows) step(operand int) int {
	if len(r.shape) == 0 {
		return 0
	}
	return r.strides[operand][len(r.shape)-1]
}

// each visits all rows in order. It leaves r as it was.
func (r *rows) each(f func(out int, offsets []int)) {
	clear(r.at)
	clear(r.offsets)
	w := r.width()
	for out := 0; ; out += w {
		f(out, r.offsets)
		k := len(r.shape) - 2
		for ; k >= 0; k-- {
			r.at[k]++
			for o := range r.offsets {
				r.offsets[o] += r.strides[o][k]
			}
			if r.at[k] < r.shape[k] {
				break
			}
			for o := range r.offsets {
				r.offsets[o] -= r.shape[k] * r.strides[o][k]
			}
			r.at[k] = 0
		}
		if k < 0 {
			return
		}
	}
}
