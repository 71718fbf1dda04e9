package rollout

import (
	"fmt"
	"math/bits"

	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/schema"
)

// column is one column of a table as it lies in memory. Its data is one of []int32, []int64, []uint64, []float32,
// []float64, []bool, words, blob or list; the kind of data decides its type and encoding in the file.
type column struct {
	name string
	unit string // what a value means, for the manifest
	data any
	key  bool // readers select by it: the file states its range
}

// words is a column of a few different strings: codes index names.
type words struct {
	codes []uint8
	names []string
}

// blob is a column of values that all have the same number of bytes.
type blob struct {
	bytes []byte
	width int
}

// list is a column of lists of structs: lengths has one value a row, the fields one value an element.
type list struct {
	lengths []int32
	fields  []column
}

// leaf is a column as Parquet stores it: flat, or a field of a list.
type leaf struct {
	column
	path string
	list *list // nil for a flat column
}

// leaves lists the leaves of a table in file order.
func leaves(cols []column) []leaf {
	var out []leaf
	for _, c := range cols {
		l, ok := c.data.(list)
		if !ok {
			out = append(out, leaf{column: c, path: c.name})
			continue
		}
		for _, f := range l.fields {
			out = append(out, leaf{column: f, path: c.name + ".list.element." + f.name, list: &l})
		}
	}
	return out
}

// encoding is how a column's values are written.
func (c *column) encoding() parquet.Encoding {
	switch c.data.(type) {
	case []int32, []int64, []uint64:
		return parquet.Encodings.DeltaBinaryPacked
	case words:
		return parquet.Encodings.RLEDict
	}
	return parquet.Encodings.Plain
}

// codeBits is the width of a dictionary index.
func (w *words) codeBits() int { return max(1, bits.Len(uint(len(w.names)-1))) }

// typeName is a column's type for the manifest.
func (c *column) typeName() string {
	switch d := c.data.(type) {
	case []int32:
		return "int32"
	case []int64:
		return "int64"
	case []uint64:
		return "uint64"
	case []float32:
		return "float32"
	case []float64:
		return "float64"
	case []bool:
		return "bool"
	case words:
		return "string"
	case blob:
		return fmt.Sprintf("fixed_size_binary[%d]", d.width)
	case list:
		return "list<struct>"
	}
	return "unknown"
}

// parquetSchema describes a table's columns; every column is required.
func parquetSchema(cols []column) (*schema.GroupNode, error) {
	fields, err := nodes(cols)
	if err != nil {
		return nil, err
	}
	return schema.NewGroupNode("schema", parquet.Repetitions.Required, fields, -1)
}

func nodes(cols []column) (schema.FieldList, error) {
	fields := make(schema.FieldList, len(cols))
	for i := range cols {
		n, err := node(&cols[i])
		if err != nil {
			return nil, err
		}
		fields[i] = n
	}
	return fields, nil
}

func node(c *column) (schema.Node, error) {
	one := func(logical schema.LogicalType, physical parquet.Type, width int) (schema.Node, error) {
		return schema.NewPrimitiveNodeLogical(c.name, parquet.Repetitions.Required, logical, physical, width, -1)
	}
	switch d := c.data.(type) {
	case []int32:
		return one(nil, parquet.Types.Int32, -1)
	case []int64:
		return one(nil, parquet.Types.Int64, -1)
	case []uint64:
		return one(schema.NewIntLogicalType(64, false), parquet.Types.Int64, -1)
	case []float32:
		return one(nil, parquet.Types.Float, -1)
	case []float64:
		return one(nil, parquet.Types.Double, -1)
	case []bool:
		return one(nil, parquet.Types.Boolean, -1)
	case words:
		return one(schema.StringLogicalType{}, parquet.Types.ByteArray, -1)
	case blob:
		return one(nil, parquet.Types.FixedLenByteArray, d.width)
	case list:
		return listNode(c.name, d)
	}
	return nil, fmt.Errorf("rollout: column %s: %T: allowed the types of column.data", c.name, c.data)
}

// listNode is the standard three-level list of structs.
func listNode(name string, l list) (schema.Node, error) {
	fields, err := nodes(l.fields)
	if err != nil {
		return nil, err
	}
	element, err := schema.NewGroupNode("element", parquet.Repetitions.Required, fields, -1)
	if err != nil {
		return nil, err
	}
	repeated, err := schema.NewGroupNode("list", parquet.Repetitions.Repeated, schema.FieldList{element}, -1)
	if err != nil {
		return nil, err
	}
	return schema.NewGroupNodeLogical(name, parquet.Repetitions.Required, schema.FieldList{repeated}, schema.NewListLogicalType(), -1)
}
