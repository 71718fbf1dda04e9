package onnx_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/kvgym/kvgym/policy/onnx"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"
)

const (
	slots  = 16
	obsLen = 16 + 12*slots
	ops    = 4
)

// recorded is an observation of a played episode and PyTorch's logits for it; testdata/make.py writes them.
type recorded struct {
	Obs    []float32 `json:"obs"`
	Mask   []uint8   `json:"mask"`
	Logits []float32 `json:"logits"`
}

func records(t testing.TB) (out []recorded) {
	data, err := os.ReadFile("testdata/tiny.json")
	require.NoError(t, err)
	for line := range bytes.Lines(data) {
		var raw struct {
			Obs, Logits []float32
			Mask        []int
		}
		require.NoError(t, json.Unmarshal(line, &raw))
		r := recorded{Obs: raw.Obs, Logits: raw.Logits}
		for _, m := range raw.Mask {
			r.Mask = append(r.Mask, uint8(m))
		}
		out = append(out, r)
	}
	return out
}

func tiny(t testing.TB) []byte {
	data, err := os.ReadFile("testdata/tiny.onnx")
	require.NoError(t, err)
	return data
}

func compile(t testing.TB, data []byte) *onnx.Graph {
	m, err := onnx.Read(data)
	require.NoError(t, err)
	g, err := m.Compile(obsLen, slots, ops)
	require.NoError(t, err)
	return g
}

func argmax(x []float32) (best int) {
	for k := range x {
		if x[k] > x[best] {
			best = k
		}
	}
	return best
}

// The forward pass gives PyTorch's logits but for the last digits, and the same operations.
func TestLogitsArePyTorchs(t *testing.T) {
	g, chosen := compile(t, tiny(t)), [ops]int{}
	cases := records(t)
	require.Len(t, cases, 4)
	for n, c := range cases {
		copy(g.Obs, c.Obs)
		copy(g.Mask, c.Mask)
		g.Run()
		for k, want := range c.Logits {
			require.InDelta(t, want, g.Logits[k], 1e-5*max(1, math.Abs(float64(want))), "state %d, logit %d", n, k)
		}
		for s := range slots {
			want := argmax(c.Logits[s*ops:][:ops])
			require.Equal(t, want, argmax(g.Logits[s*ops:][:ops]), "state %d, slot %d", n, s)
			require.EqualValues(t, want, g.Ops[s])
			chosen[want]++
		}
	}
	for op, n := range chosen {
		require.Positive(t, n, "no state in which operation %d is chosen: the test is blind to it", op)
	}
}

// bits is the SHA-256 of all logits of all recorded states, whatever the machine. It changes with testdata/tiny.*, which make.py writes.
const bits = "7f7e157f24d3d93524aa161bb590389bdefec8974836b16548f97bf906c829ef"

func TestLogitsToTheBit(t *testing.T) {
	g, h := compile(t, tiny(t)), sha256.New()
	for _, c := range records(t) {
		copy(g.Obs, c.Obs)
		copy(g.Mask, c.Mask)
		g.Run()
		require.NoError(t, binary.Write(h, binary.LittleEndian, g.Logits))
	}
	require.Equal(t, bits, hex.EncodeToString(h.Sum(nil)))
}

// A graph gives the same bits again, whatever it computed in between, and allocates nothing.
func TestRunIsRepeatable(t *testing.T) {
	g, cases := compile(t, tiny(t)), records(t)
	run := func(c recorded) []float32 {
		copy(g.Obs, c.Obs)
		copy(g.Mask, c.Mask)
		g.Run()
		return slices.Clone(g.Logits)
	}
	first := run(cases[0])
	run(cases[3])
	require.Equal(t, first, run(cases[0]))
	require.NotEqual(t, first, run(cases[3]))
	require.Zero(t, testing.AllocsPerRun(10, g.Run))
}

// A file without fixed numbers of slots serves all.
func TestCompileForOtherSlots(t *testing.T) {
	m, err := onnx.Read(tiny(t))
	require.NoError(t, err)
	for _, n := range []int{16, 64, 256} {
		g, err := m.Compile(16+12*n, n, ops)
		require.NoError(t, err)
		require.Len(t, g.Obs, 16+12*n)
		require.Len(t, g.Logits, n*ops)
		g.Run()
	}
	_, err = m.Compile(0, 16, ops)
	require.Error(t, err)
}

// Every cut of a file and every other version of one of its texts is refused with a reason.
func TestRefusals(t *testing.T) {
	good := tiny(t)
	for n := range len(good) {
		if m, err := onnx.Read(good[:n]); err == nil {
			_, err = m.Compile(obsLen, slots, ops)
			require.Error(t, err, "cut to %d bytes", n)
		}
	}
	for from, want := range map[string]string{
		"MatMul":    "no such operator here: allowed Add, ArgMax,",
		"logits":    "allowed logits, float [n, slots, 4], or ops", // the Where's output is then missing, too
		"obs":       "input \"",
		"axis":      "attribute",
		"keepdims":  "attribute",
		"Transpose": "no such operator",
	} {
		other := bytes.ReplaceAll(good, []byte(from), []byte(strings.Repeat("Q", len(from))))
		m, err := onnx.Read(other)
		require.NoError(t, err, from)
		_, err = m.Compile(obsLen, slots, ops)
		if from == "logits" { // ops is computed from it under its new name and stays an output
			require.NoError(t, err)
			continue
		}
		require.ErrorContains(t, err, want, from)
	}
}

// field makes a protobuf field of bytes.
func field(num protowire.Number, parts ...[]byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), bytes.Join(parts, nil))
}

func number(num protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, num, protowire.VarintType), v)
}

// model makes a file of operator set 17 from a graph's fields.
func model(graph ...[]byte) []byte {
	return slices.Concat(field(8, number(2, 17)), field(7, graph...))
}

func named(num protowire.Number, name string) []byte { return field(num, []byte(name)) }

// input declares an input or output of a type without dimensions, which fits none.
func input(num protowire.Number, name string, dtype uint64, sizes ...uint64) []byte {
	var dims [][]byte
	for _, d := range sizes {
		dims = append(dims, field(1, number(1, d)))
	}
	return field(num, named(1, name), field(2, field(1, number(1, dtype), field(2, dims...))))
}

// constant is an initializer of int64.
func constant(name string, dims []uint64, values ...uint64) []byte {
	var d, v [][]byte
	for _, x := range dims {
		d = append(d, number(1, x))
	}
	for _, x := range values {
		v = append(v, number(7, x))
	}
	return field(5, slices.Concat(d...), number(2, 7), named(8, name), slices.Concat(v...))
}

// What a file may not hold, one case each.
func TestRefusalsByCase(t *testing.T) {
	obs, mask := input(11, "obs", 1, 1, obsLen), input(11, "mask", 9, 1, slots, ops)
	node := func(op string, out string, attributes []byte, in ...string) []byte {
		var names []byte
		for _, n := range in {
			names = append(names, named(1, n)...)
		}
		return field(1, names, named(2, out), named(4, op), attributes)
	}
	attribute := func(name string, v uint64) []byte { return field(5, named(1, name), number(3, v)) }
	wide := make([]byte, 8)
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"empty":              {nil, "0 graphs"},
		"not a model":        {[]byte("\x89PNG\r\n\x1a\n"), "protobuf"},
		"two graphs":         {slices.Concat(model(), field(7)), "2 graphs"},
		"old operators":      {slices.Concat(field(8, number(2, 9)), field(7)), "operator set 9"},
		"functions":          {slices.Concat(model(), field(25)), "functions"},
		"sparse":             {model(field(15)), "sparse"},
		"no inputs":          {model(), "no input obs"},
		"other input":        {model(input(11, "x", 1, 1, 4)), `input "x"`},
		"wrong shape":        {model(input(11, "obs", 1, 1, 7)), "shape [1 7]: allowed [1 208]"},
		"wrong type":         {model(input(11, "obs", 7, 1, obsLen)), "of int64"},
		"no outputs":         {model(obs, mask), "outputs: allowed logits"},
		"output of nothing":  {model(obs, mask, input(12, "logits", 1)), `output "logits": not computed`},
		"unknown operator":   {model(obs, node("Softmax", "y", nil, "obs")), "node 0, Softmax: no such operator here"},
		"other domain":       {model(obs, field(1, named(1, "obs"), named(2, "y"), named(4, "Relu"), named(7, "com.microsoft"))), "domain"},
		"unknown attribute":  {model(obs, node("Relu", "y", attribute("alpha", 1), "obs")), `attribute "alpha"`},
		"later input":        {model(obs, node("Relu", "y", nil, "z")), "not computed by an earlier node"},
		"computed twice":     {model(obs, node("Relu", "obs", nil, "obs")), "computed twice"},
		"too few inputs":     {model(obs, node("Add", "y", nil, "obs")), "1 inputs: allowed 2 to 2"},
		"cast to double":     {model(obs, node("Cast", "y", attribute("to", 11), "obs")), "element type 11: allowed float"},
		"axis":               {model(obs, node("ArgMax", "y", attribute("axis", 2), "obs")), "axis 2"},
		"relu of bool":       {model(obs, mask, node("Relu", "y", nil, "mask")), "input of bool"},
		"add bool":           {model(obs, mask, node("Add", "y", nil, "mask", "obs")), "bool and float"},
		"matrix shapes":      {model(obs, node("MatMul", "y", nil, "obs", "obs")), "shapes do not fit"},
		"broadcast":          {model(obs, node("Cast", "m", attribute("to", 1), "mask"), mask, node("Add", "y", nil, "m", "obs")), "do not fit"},
		"reshape":            {model(obs, constant("s", []uint64{1}, 7), node("Reshape", "y", nil, "obs", "s")), "not possible"},
		"reshape, huge":      {model(obs, constant("s", []uint64{2}, 1<<62, 1<<62), node("Reshape", "y", nil, "obs", "s")), "not possible"},
		"shape not constant": {model(obs, node("ArgMax", "a", nil, "obs"), node("Reshape", "y", nil, "obs", "a")), "constant"},
		"transpose":          {model(obs, node("Transpose", "y", field(5, named(1, "perm"), number(8, 0), number(8, 0)), "obs")), "perm"},
		"empty slice": {model(obs, constant("a", []uint64{1}, 5), constant("b", []uint64{1}, 1), node("Slice", "y", nil, "obs", "a", "a", "b")),
			"is empty"},
		"slice, steps": {model(obs, constant("a", []uint64{1}, 5), constant("b", []uint64{1}, 1), constant("c", []uint64{1}, 2),
			node("Slice", "y", nil, "obs", "b", "a", "b", "c")), "steps of 1"},
		"constant, short":    {model(constant("s", []uint64{2}, 7)), "0 floats, 1 integers: allowed 2 values"},
		"constant, huge":     {model(constant("s", []uint64{1 << 40, 1 << 40})), "shape"},
		"constant, negative": {model(constant("s", []uint64{1<<64 - 1})), "shape"},
		"constant, twice":    {model(constant("s", nil, 7), constant("s", nil, 7)), "given twice"},
		"constant, infinite": {model(field(5, number(2, 1), named(8, "s"), field(4, []byte{0, 0, 0x80, 0x7f}))), "allowed finite ones"},
		"constant, double":   {model(field(5, number(2, 11), named(8, "s"), field(9, wide))), "element type 11"},
		"constant, raw":      {model(field(5, number(2, 7), number(1, 2), named(8, "s"), field(9, wide))), "8 bytes of data: allowed 16"},
		"constant, outside":  {model(field(5, number(2, 7), named(8, "s"), field(13))), "data outside of the file"},
		"long name":          {model(input(11, strings.Repeat("x", 300), 1)), "300 bytes: allowed at most 256"},
		"many dimensions":    {model(input(11, "obs", 1, 1, 1, 1, 1, 1, 1, 1)), "more than 6 dimensions"},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := onnx.Read(c.data)
			if err == nil {
				_, err = m.Compile(obsLen, slots, ops)
			}
			require.ErrorContains(t, err, c.want)
		})
	}
}

// A file of a few KB cannot ask for much memory or time.
func TestWorkIsBounded(t *testing.T) {
	column, row := constant("c", []uint64{2}, obsLen, 1), input(11, "obs", 1, 1, obsLen)
	graph := [][]byte{row, column, field(1, named(1, "obs"), named(1, "c"), named(2, "t"), named(4, "Reshape")),
		field(1, named(1, "t"), named(1, "obs"), named(2, "x0"), named(4, "MatMul"))} // [208, 208]
	for k := range 4000 {
		from, to := "x"+string(rune('0'+k%10))+strings.Repeat("i", k/10), "x"+string(rune('0'+(k+1)%10))+strings.Repeat("i", (k+1)/10)
		if len(to) > 200 {
			break
		}
		graph = append(graph, field(1, named(1, from), named(1, from), named(2, to), named(4, "MatMul")))
	}
	m, err := onnx.Read(model(graph...))
	require.NoError(t, err)
	_, err = m.Compile(obsLen, slots, ops)
	require.ErrorContains(t, err, "the graph takes more than")
}

// Whatever the bytes, reading, compiling and running end without a panic, and within bounds.
func FuzzRead(f *testing.F) {
	f.Add(tiny(f))
	f.Add(model(input(11, "obs", 1, 1, obsLen), field(1, named(1, "obs"), named(2, "y"), named(4, "Relu"))))
	f.Add(model(constant("s", []uint64{2}, 7, 9)))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := onnx.Read(data)
		if err != nil {
			return
		}
		if g, err := m.Compile(obsLen, slots, ops); err == nil {
			g.Mask = nil
			g.Run()
		}
	})
}

func BenchmarkRun(b *testing.B) {
	g, c := compile(b, tiny(b)), records(b)[1]
	copy(g.Obs, c.Obs)
	copy(g.Mask, c.Mask)
	for b.Loop() {
		g.Run()
	}
}
