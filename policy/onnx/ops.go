package onnx

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Bounds of a whole graph: memory for its tensors, and multiplications and copies of one run.
const (
	maxMemory = 1 << 26 // elements
	maxWork   = 1 << 30
)

// compiler makes a node's output and the step that computes it. Inputs are never nil.
type compiler func(g *Graph, n *node, in []*tensor) (out *tensor, run func(), err error)

// operators is what a graph may consist of.
var operators = map[string]struct {
	least, most int // inputs
	attributes  []string
	compile     compiler
}{
	"Add":       {2, 2, nil, arithmetic(func(to, a, b []float32, sa, sb int) { addRow(to, a, b, sa, sb) })},
	"ArgMax":    {1, 1, []string{"axis", "keepdims", "select_last_index"}, argMax},
	"Cast":      {1, 1, []string{"to", "saturate"}, cast},
	"Concat":    {1, maxNames, []string{"axis"}, concat},
	"Equal":     {2, 2, nil, equal},
	"MatMul":    {2, 2, nil, matMul},
	"Mul":       {2, 2, nil, arithmetic(func(to, a, b []float32, sa, sb int) { mulRow(to, a, b, sa, sb) })},
	"ReduceSum": {2, 2, []string{"keepdims", "noop_with_empty_axes"}, reduceSum},
	"Relu":      {1, 1, nil, relu},
	"Reshape":   {2, 2, []string{"allowzero"}, reshape},
	"Slice":     {4, 5, nil, slice},
	"Transpose": {1, 1, []string{"perm"}, transpose},
	"Where":     {3, 3, nil, where},
}

// Operators lists the operators that a graph may have.
func Operators() []string {
	var out []string
	for name := range operators {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

func compileNode(g *Graph, n *node) error {
	op, ok := operators[n.op]
	switch {
	case n.domain != "" && n.domain != "ai.onnx":
		return fmt.Errorf("domain %q: allowed ONNX's own operators", n.domain)
	case !ok:
		return fmt.Errorf("no such operator here: allowed %s", strings.Join(Operators(), ", "))
	case len(n.out) != 1 || n.out[0] == "":
		return fmt.Errorf("%d outputs: allowed 1", len(n.out))
	case len(n.in) < op.least || len(n.in) > op.most:
		return fmt.Errorf("%d inputs: allowed %d to %d", len(n.in), op.least, op.most)
	}
	for name, a := range n.attributes {
		if !slices.Contains(op.attributes, name) || !a.used {
			return fmt.Errorf("attribute %q: allowed integers named %q", name, op.attributes)
		}
	}
	in := make([]*tensor, len(n.in))
	for k, name := range n.in {
		if in[k] = g.values[name]; in[k] == nil {
			return fmt.Errorf("input %q: not computed by an earlier node", name)
		}
	}
	if g.values[n.out[0]] != nil {
		return fmt.Errorf("output %q: computed twice", n.out[0])
	}
	out, run, err := op.compile(g, n, in)
	if err != nil {
		return err
	}
	g.values[n.out[0]] = out
	g.steps = append(g.steps, run)
	return nil
}

// allocate makes an output; work is what computing it costs.
func (g *Graph) allocate(d dtype, dims []int64, work int) (*tensor, error) {
	shape, size, err := sizeOf(dims)
	if err != nil {
		return nil, err
	}
	g.memory += size
	g.work += max(size, work)
	if g.memory > maxMemory || g.work > maxWork {
		return nil, fmt.Errorf("shape %v: the graph takes more than %d elements or %d operations", dims, maxMemory, maxWork)
	}
	return newTensor(d, shape, size), nil
}

func need(t *tensor, d ...dtype) error {
	if !slices.Contains(d, t.dtype) {
		return fmt.Errorf("input of %s: allowed %v", t.dtype, d)
	}
	return nil
}

// integers are the values of a shape-like input, which must be a constant.
func (g *Graph) integers(t *tensor, name string) ([]int64, error) {
	if t.dtype != int64s || len(t.shape) > 1 || !g.constant[t] {
		return nil, fmt.Errorf("%s: allowed a constant list of int64", name)
	}
	return t.i, nil
}

// axis reads an axis, which may count from the end.
func axis(a int64, rank int) (int, error) {
	if a < int64(-rank) || a >= int64(rank) {
		return 0, fmt.Errorf("axis %d: allowed %d to %d", a, -rank, rank-1)
	}
	if a < 0 {
		a += int64(rank)
	}
	return int(a), nil
}

func (n *node) int(name string, otherwise int64) int64 {
	if a, ok := n.attributes[name]; ok {
		return a.i
	}
	return otherwise
}

func dims(shape []int) []int64 {
	out := make([]int64, len(shape))
	for k, d := range shape {
		out[k] = int64(d)
	}
	return out
}

// addRow and mulRow compute one row; sa and sb are 1, or 0 where an operand's value is repeated.
func addRow(to, a, b []float32, sa, sb int) {
	switch {
	case sa == 1 && sb == 1:
		a, b = a[:len(to)], b[:len(to)]
		for k := range to {
			to[k] = a[k] + b[k]
		}
	default:
		for k := range to {
			to[k] = a[k*sa] + b[k*sb]
		}
	}
}

func mulRow(to, a, b []float32, sa, sb int) {
	switch {
	case sa == 1 && sb == 1:
		a, b = a[:len(to)], b[:len(to)]
		for k := range to {
			to[k] = a[k] * b[k]
		}
	default:
		for k := range to {
			to[k] = a[k*sa] * b[k*sb]
		}
	}
}

func arithmetic(row func(to, a, b []float32, sa, sb int)) compiler {
	return func(g *Graph, _ *node, in []*tensor) (*tensor, func(), error) {
		a, b := in[0], in[1]
		if a.dtype != float || b.dtype != float {
			return nil, nil, fmt.Errorf("inputs of %s and %s: allowed float", a.dtype, b.dtype)
		}
		out, r, err := g.together(float, a, b)
		if err != nil {
			return nil, nil, err
		}
		w, sa, sb := r.width(), r.step(0), r.step(1)
		return out, func() {
			r.each(func(at int, off []int) { row(out.f[at:at+w], a.f[off[0]:], b.f[off[1]:], sa, sb) })
		}, nil
	}
}

// together makes the output of an element by element operation and the way through it.
func (g *Graph) together(d dtype, in ...*tensor) (*tensor, *rows, error) {
	shape, err := broadcast(in...)
	if err != nil {
		return nil, nil, err
	}
	out, err := g.allocate(d, shape, 0)
	if err != nil {
		return nil, nil, err
	}
	var strides [][]int
	for _, t := range in {
		s, ok := t.strides(out.shape)
		if !ok {
			return nil, nil, fmt.Errorf("shapes %v and %v do not fit", t.shape, out.shape)
		}
		strides = append(strides, s)
	}
	return out, newRows(out.shape, strides...), nil
}

func equal(g *Graph, _ *node, in []*tensor) (*tensor, func(), error) {
	a, b := in[0], in[1]
	if a.dtype != float || b.dtype != float {
		return nil, nil, fmt.Errorf("inputs of %s and %s: allowed float", a.dtype, b.dtype)
	}
	out, r, err := g.together(bools, a, b)
	if err != nil {
		return nil, nil, err
	}
	w, sa, sb := r.width(), r.step(0), r.step(1)
	return out, func() {
		r.each(func(at int, off []int) {
			for k := range w {
				out.b[at+k] = 0
				if a.f[off[0]+k*sa] == b.f[off[1]+k*sb] {
					out.b[at+k] = 1
				}
			}
		})
	}, nil
}

func where(g *Graph, _ *node, in []*tensor) (*tensor, func(), error) {
	c, a, b := in[0], in[1], in[2]
	if c.dtype != bools || a.dtype != float || b.dtype != float {
		return nil, nil, fmt.Errorf("inputs of %s, %s and %s: allowed bool, float, float", c.dtype, a.dtype, b.dtype)
	}
	out, r, err := g.together(float, c, a, b)
	if err != nil {
		return nil, nil, err
	}
	w, sc, sa, sb := r.width(), r.step(0), r.step(1), r.step(2)
	return out, func() {
		r.each(func(at int, off []int) {
			for k := range w {
				if c.b[off[0]+k*sc] != 0 {
					out.f[at+k] = a.f[off[1]+k*sa]
				} else {
					out.f[at+k] = b.f[off[2]+k*sb]
				}
			}
		})
	}, nil
}

func relu(g *Graph, _ *node, in []*tensor) (*tensor, func(), error) {
	a := in[0]
	if err := need(a, float); err != nil {
		return nil, nil, err
	}
	out, err := g.allocate(float, dims(a.shape), 0)
	return out, func() {
		for k, x := range a.f {
			out.f[k] = max(x, 0)
		}
	}, err
}

// cast turns bool, uint8 or int64 into float.
func cast(g *Graph, n *node, in []*tensor) (*tensor, func(), error) {
	a := in[0]
	if dtype(n.int("to", 0)) != float {
		return nil, nil, fmt.Errorf("to %s: allowed float", dtype(n.int("to", 0)))
	}
	out, err := g.allocate(float, dims(a.shape), 0)
	return out, func() {
		copy(out.f, a.f)
		for k, x := range a.b {
			out.f[k] = float32(x)
		}
		for k, x := range a.i {
			out.f[k] = float32(x)
		}
	}, err
}

// copied moves elements of the types' three kinds of memory.
func copied(to, from *tensor, at, off, n int) {
	switch {
	case to.f != nil:
		copy(to.f[at:at+n], from.f[off:off+n])
	case to.b != nil:
		copy(to.b[at:at+n], from.b[off:off+n])
	default:
		copy(to.i[at:at+n], from.i[off:off+n])
	}
}

func concat(g *Graph, n *node, in []*tensor) (*tensor, func(), error) {
	first := in[0]
	if _, ok := n.attributes["axis"]; !ok {
		return nil, nil, fmt.Errorf("axis: none given")
	}
	ax, err := axis(n.int("axis", 0), len(first.shape))
	if err != nil {
		return nil, nil, err
	}
	shape := dims(first.shape)
	for _, t := range in[1:] {
		if t.dtype != first.dtype || len(t.shape) != len(first.shape) {
			return nil, nil, fmt.Errorf("%s %v beside %s %v", t.dtype, t.shape, first.dtype, first.shape)
		}
		for k := range shape {
			if k == ax {
				shape[k] += int64(t.shape[k])
			} else if t.shape[k] != first.shape[k] {
				return nil, nil, fmt.Errorf("shape %v beside %v", t.shape, first.shape)
			}
		}
	}
	out, err := g.allocate(first.dtype, shape, 0)
	if err != nil {
		return nil, nil, err
	}
	outer := product(first.shape[:ax])
	return out, func() {
		at := 0
		for o := range outer {
			for _, t := range in {
				w := t.size() / outer
				copied(out, t, at, o*w, w)
				at += w
			}
		}
	}, nil
}

func product(shape []int) int {
	p := 1
	for _, d := range shape {
		p *= d
	}
	return p
}

func reshape(g *Graph, n *node, in []*tensor) (*tensor, func(), error) {
	a := in[0]
	wanted, err := g.integers(in[1], "shape")
	if err != nil {
		return nil, nil, err
	}
	if n.int("allowzero", 0) != 0 || len(wanted) > maxRank {
		return nil, nil, fmt.Errorf("shape %v: allowed at most %d dimensions, allowzero 0", wanted, maxRank)
	}
	shape, open, known := slices.Clone(wanted), -1, int64(1)
	for k, d := range shape {
		switch {
		case d == 0 && k < len(a.shape):
			shape[k] = int64(a.shape[k])
		case d == -1 && open < 0:
			open = k
			continue
		case d < 1 || d > maxElements:
			return nil, nil, fmt.Errorf("shape %v: not possible for %v", wanted, a.shape)
		}
		if known *= shape[k]; known > maxElements {
			return nil, nil, fmt.Errorf("shape %v: not possible for %v", wanted, a.shape)
		}
	}
	if open >= 0 {
		shape[open] = int64(a.size()) / known
		known *= shape[open]
	}
	if known != int64(a.size()) {
		return nil, nil, fmt.Errorf("shape %v: not possible for %v", wanted, a.shape)
	}
	out, err := g.allocate(a.dtype, shape, 0)
	return out, func() { copied(out, a, 0, 0, a.size()) }, err
}

func slice(g *Graph, _ *node, in []*tensor) (*tensor, func(), error) {
	a := in[0]
	var lists [4][]int64 // starts, ends, axes, steps
	for k, t := range in[1:] {
		var err error
		if lists[k], err = g.integers(t, "starts, ends, axes or steps"); err != nil {
			return nil, nil, err
		}
		if len(lists[k]) != len(lists[0]) {
			return nil, nil, fmt.Errorf("%d starts, %d ends, axes or steps", len(lists[0]), len(lists[k]))
		}
	}
	shape, offset, strides := dims(a.shape), 0, make([]int, len(a.shape))
	for k, step := len(a.shape)-1, 1; k >= 0; k-- {
		strides[k] = step
		step *= a.shape[k]
	}
	cutAt := make([]bool, len(a.shape))
	for k := range lists[0] {
		ax, err := axis(lists[2][k], len(a.shape))
		if err != nil {
			return nil, nil, err
		}
		if cutAt[ax] || len(in) == 5 && lists[3][k] != 1 {
			return nil, nil, fmt.Errorf("axis %d: allowed once, in steps of 1", ax)
		}
		cutAt[ax] = true
		size := int64(a.shape[ax])
		first, end := bound(lists[0][k], size), bound(lists[1][k], size)
		if shape[ax] = end - first; end <= first {
			return nil, nil, fmt.Errorf("axis %d of %v: %d to %d is empty", ax, a.shape, first, end)
		}
		offset += int(first) * strides[ax]
	}
	return g.pick(a, shape, offset, strides)
}

// bound is a start or end within 0 to size; it may count from the end.
func bound(x, size int64) int64 {
	if x < 0 {
		x = max(x, -size) + size
	}
	return min(x, size)
}

// pick is a tensor of elements of another, from an offset on with the strides given.
func (g *Graph) pick(a *tensor, shape []int64, offset int, strides []int) (*tensor, func(), error) {
	out, err := g.allocate(a.dtype, shape, 0)
	if err != nil {
		return nil, nil, err
	}
	r := newRows(out.shape, strides)
	w, step := r.width(), r.step(0)
	return out, func() {
		r.each(func(at int, off []int) {
			from := offset + off[0]
			if step == 1 {
				copied(out, a, at, from, w)
				return
			}
			for k := range w {
				copied(out, a, at+k, from+k*step, 1)
			}
		})
	}, nil
}

func transpose(g *Graph, n *node, in []*tensor) (*tensor, func(), error) {
	a, perm := in[0], n.attributes["perm"].ints
	if len(perm) != len(a.shape) {
		return nil, nil, fmt.Errorf("perm %v: allowed an order of %d axes", perm, len(a.shape))
	}
	own, _ := a.strides(a.shape)
	shape, strides := make([]int64, len(perm)), make([]int, len(perm))
	seen := make([]bool, len(perm))
	for k, p := range perm {
		if p < 0 || p >= int64(len(perm)) || seen[p] {
			return nil, nil, fmt.Errorf("perm %v: allowed an order of %d axes", perm, len(a.shape))
		}
		seen[p] = true
		shape[k], strides[k] = int64(a.shape[p]), own[p]
	}
	return g.pick(a, shape, 0, strides)
}

func reduceSum(g *Graph, n *node, in []*tensor) (*tensor, func(), error) {
	a := in[0]
	if err := need(a, float); err != nil {
		return nil, nil, err
	}
	axes, err := g.integers(in[1], "axes")
	if err != nil || len(axes) != 1 {
		return nil, nil, fmt.Errorf("axes: allowed one, constant")
	}
	ax, err := axis(axes[0], len(a.shape))
	if err != nil {
		return nil, nil, err
	}
	out, err := g.allocate(float, reduced(a.shape, ax, n.int("keepdims", 1) != 0), a.size())
	if err != nil {
		return nil, nil, err
	}
	outer, count, inner := product(a.shape[:ax]), a.shape[ax], product(a.shape[ax+1:])
	return out, func() {
		clear(out.f)
		for o := range outer {
			to := out.f[o*inner:][:inner]
			for c := range count {
				from := a.f[(o*count+c)*inner:]
				addRow(to, to, from, 1, 1)
			}
		}
	}, nil
}

func reduced(shape []int, ax int, keep bool) []int64 {
	out := dims(shape)
	if keep {
		out[ax] = 1
		return out
	}
	return slices.Delete(out, ax, ax+1)
}

// argMax takes the lowest index of equal values.
func argMax(g *Graph, n *node, in []*tensor) (*tensor, func(), error) {
	a := in[0]
	if err := need(a, float); err != nil {
		return nil, nil, err
	}
	if n.int("select_last_index", 0) != 0 {
		return nil, nil, fmt.Errorf("select_last_index: allowed 0")
	}
	ax, err := axis(n.int("axis", 0), len(a.shape))
	if err != nil {
		return nil, nil, err
	}
	out, err := g.allocate(int64s, reduced(a.shape, ax, n.int("keepdims", 1) != 0), a.size())
	if err != nil {
		return nil, nil, err
	}
	count, inner := a.shape[ax], product(a.shape[ax+1:])
	return out, func() {
		for k := range out.i {
			first := k/inner*count*inner + k%inner
			best, at := float32(math.Inf(-1)), 0
			for c := range count {
				if x := a.f[first+c*inner]; x > best {
					best, at = x, c
				}
			}
			out.i[k] = int64(at)
		}
	}, nil
}

// matMul multiplies matrices of float; a stack of them by one matrix or by as many. Each element is a sum from the first term to
// the last, every product and sum rounded to float32. Terms whose left factor is 0 are passed over: the right one is finite or the
// result is of no use anyway.
func matMul(g *Graph, _ *node, in []*tensor) (*tensor, func(), error) {
	a, b := in[0], in[1]
	ra, rb := len(a.shape), len(b.shape)
	if a.dtype != float || b.dtype != float || ra < 2 || rb < 2 {
		return nil, nil, fmt.Errorf("%s %v by %s %v: allowed matrices of float", a.dtype, a.shape, b.dtype, b.shape)
	}
	m, k, n := a.shape[ra-2], a.shape[ra-1], b.shape[rb-1]
	stack := product(a.shape[:ra-2])
	if b.shape[rb-2] != k || rb != 2 && !slices.Equal(a.shape[:ra-2], b.shape[:rb-2]) {
		return nil, nil, fmt.Errorf("%v by %v: shapes do not fit", a.shape, b.shape)
	}
	shape := dims(a.shape)
	shape[ra-1] = int64(n)
	if _, _, err := sizeOf(shape); err != nil {
		return nil, nil, err
	}
	out, err := g.allocate(float, shape, clamped(stack*m*k, n))
	if err != nil {
		return nil, nil, err
	}
	return out, func() {
		clear(out.f)
		for row := range stack * m {
			right := b.f
			if rb != 2 {
				right = b.f[row/m*k*n:]
			}
			to := out.f[row*n:][:n]
			for c, x := range a.f[row*k:][:k] {
				if x != 0 {
					accumulate(to, right[c*n:][:n], x)
				}
			}
		}
	}, nil
}

// clamped is a product that cannot overflow: each factor is at most maxElements.
func clamped(a, b int) int {
	return int(min(int64(a)*int64(b), int64(maxWork)+1))
}

// accumulate adds x times a row.
func accumulate(to, row []float32, x float32) {
	row = row[:len(to)]
	for k, y := range row {
		to[k] += float32(x * y) // rounded: no fused operation on any processor
	}
}
