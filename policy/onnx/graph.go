package onnx

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// Model is a network file that has been read. It is not changed by use; several goroutines may compile it.
type Model struct {
	file   *file
	sha256 string
}

// Read parses a file's bytes. What it says about operators is checked by Compile.
func Read(data []byte) (*Model, error) {
	f, err := read(data)
	if err != nil {
		return nil, fmt.Errorf("onnx: %w", err)
	}
	sum := sha256.Sum256(data)
	return &Model{file: f, sha256: hex.EncodeToString(sum[:])}, nil
}

// SHA256 names the file's contents.
func (m *Model) SHA256() string { return m.sha256 }

// Graph is a model for one environment of a given number of slots, with memory for all its tensors. One goroutine at a time may use it.
type Graph struct {
	Obs  []float32 // input "obs", [1, 16 + 12 * slots]: to be filled before Run
	Mask []uint8   // input "mask", [1, slots, 4]
	// One of these is there: output "logits", [1, slots, 4], or else "ops", [1, slots].
	Logits []float32
	Ops    []int64

	values   map[string]*tensor
	constant map[*tensor]bool
	steps    []func()
	memory   int
	work     int
}

// Compile checks shapes and operators and makes a graph. obs is the observation's length.
func (m *Model) Compile(obs, slots, ops int) (*Graph, error) {
	g := &Graph{values: map[string]*tensor{}, constant: map[*tensor]bool{}}
	for name, t := range m.file.constants {
		g.values[name], g.constant[t] = t, true
	}
	for _, v := range m.file.inputs {
		if err := g.input(&v, obs, slots, ops); err != nil {
			return nil, fmt.Errorf("onnx: input %q: %w", v.name, err)
		}
	}
	if g.Obs == nil {
		return nil, fmt.Errorf("onnx: no input obs, %s", wantedInputs)
	}
	for k := range m.file.nodes {
		n := &m.file.nodes[k]
		if err := compileNode(g, n); err != nil {
			return nil, fmt.Errorf("onnx: node %d, %s: %w", k, n.op, err)
		}
	}
	for _, v := range m.file.outs {
		if err := g.output(&v, slots, ops); err != nil {
			return nil, fmt.Errorf("onnx: output %q: %w", v.name, err)
		}
	}
	if g.Logits == nil && g.Ops == nil {
		return nil, fmt.Errorf("onnx: outputs: allowed logits, float [n, slots, 4], or ops, int64 [n, slots]")
	}
	return g, nil
}

const wantedInputs = "allowed obs, float [n, 16 + 12 * slots], and mask, bool or uint8 [n, slots, 4]"

func (g *Graph) input(v *valueInfo, obs, slots, ops int) error {
	if _, ok := g.values[v.name]; ok {
		return nil // a constant that is listed as an input, as old files do, or an input listed twice
	}
	var want []int
	switch {
	case v.name == "obs" && v.dtype == float:
		want = []int{1, obs}
	case v.name == "mask" && (v.dtype == bools || v.dtype == uint8s):
		want = []int{1, slots, ops}
	default:
		return fmt.Errorf("of %s: %s", v.dtype, wantedInputs)
	}
	if err := fits(v.dims, want); err != nil {
		return err
	}
	t, err := g.allocate(v.dtype, dims(want), 0)
	if err != nil {
		return err
	}
	g.values[v.name] = t
	if v.name == "obs" {
		g.Obs = t.f
	} else {
		g.Mask = t.b
	}
	return nil
}

// fits compares declared dimensions with those wanted; open ones fit all.
func fits(have []int64, want []int) error {
	ok := len(have) == len(want)
	for k := range want {
		ok = ok && (have[k] == -1 || have[k] == int64(want[k]))
	}
	if !ok {
		return fmt.Errorf("shape %v: allowed %v, or open dimensions (-1)", have, want)
	}
	return nil
}

func (g *Graph) output(v *valueInfo, slots, ops int) error {
	t := g.values[v.name]
	if t == nil {
		return fmt.Errorf("not computed")
	}
	switch v.name {
	case "logits":
		if t.dtype != float {
			return fmt.Errorf("%s: allowed float", t.dtype)
		}
		g.Logits = t.f
		return fits(dims(t.shape), []int{1, slots, ops})
	case "ops":
		if t.dtype != int64s {
			return fmt.Errorf("%s: allowed int64", t.dtype)
		}
		g.Ops = t.i
		return fits(dims(t.shape), []int{1, slots})
	}
	return nil // values and the like are of no use here
}

// Run computes the outputs from Obs and Mask.
func (g *Graph) Run() {
	for _, step := range g.steps {
		step()
	}
}
