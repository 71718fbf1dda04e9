package rollout

import (
	"fmt"
	"io"

	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/compress"
	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/apache/arrow-go/v18/parquet/metadata"
)

// createdBy is what every file names as its writer. It holds nothing that varies between builds.
const createdBy = "kvgym rollout 1"

// field is one entry of a file's key-value metadata.
type field struct{ key, value string }

// tableWriter writes tables as Parquet files of one row group. It keeps its scratch memory from one table to the next.
type tableWriter struct {
	def, rep []int16
	strings  []parquet.ByteArray
	fixed    []parquet.FixedLenByteArray
}

// write writes one table. The bytes are a function of the arguments alone.
func (t *tableWriter) write(out io.Writer, cols []column, meta []field) error {
	root, err := parquetSchema(cols)
	if err != nil {
		return err
	}
	kv := metadata.NewKeyValueMetadata()
	for _, f := range meta {
		if err := kv.Append(f.key, f.value); err != nil {
			return err
		}
	}
	all := leaves(cols)
	w, err := file.NewParquetWriterWithError(out, root, file.WithWriterProps(properties(all)), file.WithWriteMetadata(kv))
	if err != nil {
		return err
	}
	group, err := w.AppendRowGroupChecked()
	if err != nil {
		return err
	}
	for i := range all {
		c, err := group.NextColumn()
		if err != nil {
			return err
		}
		if err := t.chunk(c, &all[i]); err != nil {
			return fmt.Errorf("column %s: %w", all[i].path, err)
		}
	}
	return w.Close()
}

// properties states encodings and compression. Delta encoding of integers alone gives about a byte a value; a compressor
// on top would gain a tenth and take as long again. Observations are mostly the zeros of empty slots: worth one.
func properties(all []leaf) *parquet.WriterProperties {
	opts := []parquet.WriterProperty{parquet.WithCreatedBy(createdBy), parquet.WithVersion(parquet.V2_LATEST), parquet.WithDictionaryDefault(false),
		parquet.WithStats(false), parquet.WithBatchSize(1 << 16)}
	for i := range all {
		l := &all[i]
		switch l.data.(type) {
		case words:
			opts = append(opts, parquet.WithDictionaryFor(l.path, true))
		case blob:
			opts = append(opts, parquet.WithCompressionFor(l.path, compress.Codecs.Zstd), parquet.WithCompressionLevelFor(l.path, 1))
		case []int32, []int64, []uint64:
			opts = append(opts, parquet.WithEncodingFor(l.path, parquet.Encodings.DeltaBinaryPacked))
		}
		if l.key {
			opts = append(opts, parquet.WithStatsFor(l.path, true))
		}
	}
	return parquet.NewWriterProperties(opts...)
}

// chunk writes one column chunk.
func (t *tableWriter) chunk(c file.ColumnChunkWriter, l *leaf) error {
	var def, rep []int16
	if l.list != nil {
		def, rep = t.listLevels(l.list.lengths)
	}
	if err := t.values(c, l, def, rep); err != nil {
		return err
	}
	return c.Close()
}

func (t *tableWriter) values(c file.ColumnChunkWriter, l *leaf, def, rep []int16) (err error) {
	switch w := c.(type) {
	case *file.Int32ColumnChunkWriter:
		_, err = w.WriteBatch(l.data.([]int32), def, rep)
	case *file.Int64ColumnChunkWriter:
		if u, ok := l.data.([]uint64); ok {
			_, err = w.WriteBatch(signed(u), def, rep)
		} else {
			_, err = w.WriteBatch(l.data.([]int64), def, rep)
		}
	case *file.Float32ColumnChunkWriter:
		_, err = w.WriteBatch(l.data.([]float32), def, rep)
	case *file.Float64ColumnChunkWriter:
		_, err = w.WriteBatch(l.data.([]float64), def, rep)
	case *file.BooleanColumnChunkWriter:
		_, err = w.WriteBatch(l.data.([]bool), def, rep)
	case *file.ByteArrayColumnChunkWriter:
		_, err = w.WriteBatch(t.named(l.data.(words)), def, rep)
	case *file.FixedLenByteArrayColumnChunkWriter:
		_, err = w.WriteBatch(t.cut(l.data.(blob)), def, rep)
	default:
		err = fmt.Errorf("%T: allowed the types of column.data", c)
	}
	return err
}

// listLevels are the definition and repetition levels of rows of the given lengths.
func (t *tableWriter) listLevels(lengths []int32) (def, rep []int16) {
	t.def, t.rep = t.def[:0], t.rep[:0]
	for _, n := range lengths {
		t.def, t.rep = append(t.def, int16(min(n, 1))), append(t.rep, 0)
		for range n - 1 {
			t.def, t.rep = append(t.def, 1), append(t.rep, 1)
		}
	}
	return t.def, t.rep
}

// signed is the same bits, as Parquet stores unsigned numbers.
func signed(u []uint64) []int64 {
	out := make([]int64, len(u))
	for i, x := range u {
		out[i] = int64(x)
	}
	return out
}

func (t *tableWriter) named(w words) []parquet.ByteArray {
	t.strings = t.strings[:0]
	for _, c := range w.codes {
		t.strings = append(t.strings, parquet.ByteArray(w.names[c]))
	}
	return t.strings
}

func (t *tableWriter) cut(b blob) []parquet.FixedLenByteArray {
	t.fixed = t.fixed[:0]
	for rest := b.bytes; len(rest) > 0; rest = rest[b.width:] {
		t.fixed = append(t.fixed, rest[:b.width])
	}
	return t.fixed
}
