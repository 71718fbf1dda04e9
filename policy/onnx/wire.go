package onnx

import (
	"encoding/binary"
	"fmt"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// file is what is read of a ModelProto. Field numbers are those of onnx.proto (onnx 1.18), named where they are read.
type file struct {
	opset        int64
	nodes        []node
	constants    map[string]*tensor
	inputs, outs []valueInfo
}

type node struct {
	op, domain string
	in, out    []string
	attributes map[string]attribute
}

type attribute struct {
	i    int64
	ints []int64
	used bool // has an integer or integers
}

// valueInfo is a graph's input or output. A dimension without a size is -1.
type valueInfo struct {
	name  string
	dtype dtype
	dims  []int64
}

// Bounds of what a file may hold; a network of examples/ppo.py has some 40 nodes and 60 KB.
const (
	maxFile  = 64 << 20
	maxNodes = 4096
	maxNames = 16
	maxName  = 256
	maxRank  = 6
)

// message calls f for every field of a message. Values of varints and fixed32 come as v, of lengths as data.
func message(data []byte, f func(num protowire.Number, typ protowire.Type, v uint64, data []byte) error) error {
	for len(data) > 0 {
		num, typ, n := protowire.ConsumeTag(data)
		if n < 0 {
			return fmt.Errorf("protobuf: %w", protowire.ParseError(n))
		}
		data = data[n:]
		var v uint64
		var inner []byte
		switch typ {
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(data)
		case protowire.Fixed32Type:
			var v32 uint32
			v32, n = protowire.ConsumeFixed32(data)
			v = uint64(v32)
		case protowire.BytesType:
			inner, n = protowire.ConsumeBytes(data)
		default:
			n = protowire.ConsumeFieldValue(num, typ, data)
		}
		if n < 0 {
			return fmt.Errorf("protobuf: field %d: %w", num, protowire.ParseError(n))
		}
		data = data[n:]
		if err := f(num, typ, v, inner); err != nil {
			return err
		}
	}
	return nil
}

// read parses a model file.
func read(data []byte) (*file, error) {
	if len(data) > maxFile {
		return nil, fmt.Errorf("%d bytes: allowed at most %d", len(data), maxFile)
	}
	f := &file{constants: map[string]*tensor{}}
	graphs := 0
	err := message(data, func(num protowire.Number, typ protowire.Type, _ uint64, data []byte) error {
		if typ != protowire.BytesType {
			return nil
		}
		switch num {
		case 7: // graph
			graphs++
			return f.readGraph(data)
		case 8: // opset_import
			return f.readOpset(data)
		case 25: // functions
			return fmt.Errorf("functions: allowed none")
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case graphs != 1:
		return nil, fmt.Errorf("%d graphs: allowed one: not an ONNX file", graphs)
	case f.opset < 13 || f.opset > 25:
		return nil, fmt.Errorf("operator set %d: allowed 13 to 25", f.opset)
	}
	return f, nil
}

func (f *file) readOpset(data []byte) error {
	domain, version := "", int64(0)
	err := message(data, func(num protowire.Number, typ protowire.Type, v uint64, data []byte) error {
		switch {
		case num == 1 && typ == protowire.BytesType:
			domain = string(data)
		case num == 2 && typ == protowire.VarintType:
			version = int64(v)
		}
		return nil
	})
	if domain == "" || domain == "ai.onnx" {
		f.opset = version
	}
	return err
}

func (f *file) readGraph(data []byte) error {
	return message(data, func(num protowire.Number, typ protowire.Type, _ uint64, data []byte) error {
		if typ != protowire.BytesType {
			return nil
		}
		switch num {
		case 1: // node
			if len(f.nodes) == maxNodes {
				return fmt.Errorf("more than %d nodes", maxNodes)
			}
			n, err := readNode(data)
			f.nodes = append(f.nodes, n)
			return err
		case 5: // initializer
			return f.readConstant(data)
		case 11: // input
			return readValueInfo(data, &f.inputs)
		case 12: // output
			return readValueInfo(data, &f.outs)
		case 15: // sparse_initializer
			return fmt.Errorf("sparse initializers: allowed none")
		}
		return nil
	})
}

// text is a name of bounded length.
func text(data []byte) (string, error) {
	if len(data) > maxName {
		return "", fmt.Errorf("name %.40q...: %d bytes: allowed at most %d", data, len(data), maxName)
	}
	return string(data), nil
}

func readNode(data []byte) (n node, err error) {
	n.attributes = map[string]attribute{}
	err = message(data, func(num protowire.Number, typ protowire.Type, _ uint64, data []byte) (err error) {
		if typ != protowire.BytesType {
			return nil
		}
		switch num {
		case 1, 2: // input, output
			s, err := text(data)
			if err != nil {
				return err
			}
			list := &n.in
			if num == 2 {
				list = &n.out
			}
			if *list = append(*list, s); len(*list) > maxNames {
				return fmt.Errorf("a node with more than %d inputs or outputs", maxNames)
			}
		case 4: // op_type
			n.op, err = text(data)
		case 5: // attribute
			return n.readAttribute(data)
		case 7: // domain
			n.domain, err = text(data)
		}
		return err
	})
	return n, err
}

func (n *node) readAttribute(data []byte) error {
	name, a := "", attribute{}
	err := message(data, func(num protowire.Number, typ protowire.Type, v uint64, data []byte) (err error) {
		switch {
		case num == 1 && typ == protowire.BytesType:
			name, err = text(data)
		case num == 3 && typ == protowire.VarintType: // i
			a.i, a.used = int64(v), true
		case num == 8: // ints
			a.used = true
			a.ints, err = appendInts(a.ints, typ, v, data)
			if err == nil && len(a.ints) > maxRank {
				err = fmt.Errorf("attribute %s: more than %d integers", name, maxRank)
			}
		}
		return err
	})
	if len(n.attributes) == maxNames {
		return fmt.Errorf("a node with more than %d attributes", maxNames)
	}
	n.attributes[name] = a
	return err
}

// appendInts reads a repeated int64, packed or not.
func appendInts(to []int64, typ protowire.Type, v uint64, data []byte) ([]int64, error) {
	if typ == protowire.VarintType {
		return append(to, int64(v)), nil
	}
	if typ != protowire.BytesType {
		return to, fmt.Errorf("integers of wire type %d", typ)
	}
	for len(data) > 0 {
		x, n := protowire.ConsumeVarint(data)
		if n < 0 {
			return to, fmt.Errorf("protobuf: %w", protowire.ParseError(n))
		}
		to, data = append(to, int64(x)), data[n:]
	}
	return to, nil
}

func readValueInfo(data []byte, to *[]valueInfo) error {
	if len(*to) == maxNames {
		return fmt.Errorf("more than %d inputs or outputs", maxNames)
	}
	var v valueInfo
	err := message(data, func(num protowire.Number, typ protowire.Type, _ uint64, data []byte) (err error) {
		switch {
		case num == 1 && typ == protowire.BytesType:
			v.name, err = text(data)
		case num == 2 && typ == protowire.BytesType: // type
			err = message(data, func(num protowire.Number, typ protowire.Type, _ uint64, data []byte) error {
				if num != 1 || typ != protowire.BytesType {
					return fmt.Errorf("%s: not a tensor", v.name)
				}
				return v.readTensorType(data)
			})
		}
		return err
	})
	*to = append(*to, v)
	return err
}

func (v *valueInfo) readTensorType(data []byte) error {
	return message(data, func(num protowire.Number, typ protowire.Type, x uint64, data []byte) error {
		switch {
		case num == 1 && typ == protowire.VarintType: // elem_type
			v.dtype = dtype(min(x, math.MaxInt32))
		case num == 2 && typ == protowire.BytesType: // shape
			return message(data, func(num protowire.Number, typ protowire.Type, _ uint64, data []byte) error {
				if num != 1 || typ != protowire.BytesType { // dim
					return nil
				}
				if len(v.dims) == maxRank {
					return fmt.Errorf("%s: more than %d dimensions", v.name, maxRank)
				}
				v.dims = append(v.dims, -1)
				return message(data, func(num protowire.Number, typ protowire.Type, x uint64, _ []byte) error {
					if num == 1 && typ == protowire.VarintType { // dim_value; else dim_param, a name
						v.dims[len(v.dims)-1] = int64(x)
					}
					return nil
				})
			})
		}
		return nil
	})
}

// rawConstant is a TensorProto.
type rawConstant struct {
	name   string
	dims   []int64
	dtype  dtype
	raw    []byte
	floats []byte // packed
	ints   []int64
}

// readConstant reads an initializer: float, int64, bool or uint8, raw or in the list for its type.
func (f *file) readConstant(data []byte) error {
	var c rawConstant
	err := message(data, func(num protowire.Number, typ protowire.Type, v uint64, data []byte) (err error) {
		switch num {
		case 1: // dims
			if c.dims, err = appendInts(c.dims, typ, v, data); err == nil && len(c.dims) > maxRank {
				err = fmt.Errorf("more than %d dimensions", maxRank)
			}
		case 2: // data_type
			c.dtype = dtype(min(v, math.MaxInt32))
		case 4: // float_data
			if typ == protowire.Fixed32Type {
				data = binary.LittleEndian.AppendUint32(nil, uint32(v))
			}
			c.floats = append(c.floats, data...)
		case 5, 7: // int32_data, int64_data
			c.ints, err = appendInts(c.ints, typ, v, data)
		case 8: // name
			c.name, err = text(data)
		case 9: // raw_data
			c.raw = data
		case 13, 14: // external_data, data_location
			if typ == protowire.BytesType || v != 0 {
				err = fmt.Errorf("data outside of the file: allowed inside only")
			}
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("initializer %s: %w", c.name, err)
	}
	t, err := c.tensor()
	if err != nil {
		return fmt.Errorf("initializer %s: %w", c.name, err)
	}
	if _, ok := f.constants[c.name]; ok {
		return fmt.Errorf("initializer %s: given twice", c.name)
	}
	f.constants[c.name] = t
	return nil
}

func (c *rawConstant) tensor() (*tensor, error) {
	shape, size, err := sizeOf(c.dims)
	if err != nil {
		return nil, err
	}
	if width := c.dtype.width(); width == 0 {
		return nil, fmt.Errorf("%s: allowed float, uint8, bool, int64", c.dtype)
	} else if c.raw != nil && len(c.raw) != size*width {
		return nil, fmt.Errorf("%d bytes of data: allowed %d for %v of %s", len(c.raw), size*width, shape, c.dtype)
	}
	if c.raw == nil && (c.dtype == float && len(c.floats) != 4*size || c.dtype != float && len(c.ints) != size) {
		return nil, fmt.Errorf("%d floats, %d integers: allowed %d values for %v of %s", len(c.floats)/4, len(c.ints), size, shape, c.dtype)
	}
	t := newTensor(c.dtype, shape, size)
	switch c.dtype {
	case float:
		data := c.floats
		if c.raw != nil {
			data = c.raw
		}
		for i := range t.f {
			t.f[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:]))
			if x := float64(t.f[i]); math.IsNaN(x) || math.IsInf(x, 0) {
				return nil, fmt.Errorf("value %d is %v: allowed finite ones", i, x)
			}
		}
	case int64s:
		for i := range t.i {
			if c.raw != nil {
				t.i[i] = int64(binary.LittleEndian.Uint64(c.raw[8*i:]))
			} else {
				t.i[i] = c.ints[i]
			}
		}
	default:
		for i := range t.b {
			if c.raw != nil {
				t.b[i] = c.raw[i]
			} else {
				t.b[i] = uint8(c.ints[i])
			}
		}
	}
	return t, nil
}
