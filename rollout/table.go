package rollout

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"unsafe"

	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/compress"
	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/apache/arrow-go/v18/parquet/metadata"
	"github.com/apache/arrow-go/v18/parquet/schema"
)

// createdBy is what every file names as its writer. It holds nothing that varies between builds.
const createdBy = "kvgym rollout version 1"

// field is one entry of a file's key-value metadata.
type field struct{ key, value string }

// tableWriter writes tables as Parquet files of one row group. It keeps its scratch memory from one table to the next.
type tableWriter struct {
	sink   countingWriter
	page   []byte
	packed []byte
	levels levels
	of     *list // whose levels those are
}

// countingWriter tells how many bytes have been written, as arrow-go's page writer wants to know.
type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// Tell is the position in the file.
func (c *countingWriter) Tell() int64 { return c.n }

const parquetMagic = "PAR1"

// write writes one table. The bytes are a function of the arguments alone.
func (t *tableWriter) write(out io.Writer, cols []column, rows int, meta []field) error {
	root, err := parquetSchema(cols)
	if err != nil {
		return err
	}
	all := leaves(cols)
	props := properties(all)
	kv := metadata.NewKeyValueMetadata()
	for _, f := range meta {
		if err := kv.Append(f.key, f.value); err != nil {
			return err
		}
	}
	builder := metadata.NewFileMetadataBuilder(schema.NewSchema(root), props, kv)
	t.sink, t.of = countingWriter{w: out}, nil
	if _, err := io.WriteString(&t.sink, parquetMagic); err != nil {
		return err
	}
	group := builder.AppendRowGroup()
	for i := range all {
		if err := t.chunk(&all[i], group.NextColumnChunk(), int16(i), props); err != nil {
			return fmt.Errorf("column %s: %w", all[i].path, err)
		}
	}
	group.SetNumRows(rows)
	if err := group.Finish(0, 0); err != nil {
		return err
	}
	footer, err := builder.Finish()
	if err != nil {
		return err
	}
	return t.footer(footer)
}

func (t *tableWriter) footer(m *metadata.FileMetaData) error {
	n, err := m.WriteTo(&t.sink, nil)
	if err != nil {
		return err
	}
	_, err = t.sink.Write(append(binary.LittleEndian.AppendUint32(nil, uint32(n)), parquetMagic...))
	return err
}

// properties states encodings and compression. Delta encoding alone gives about a byte a value; observations are mostly
// the zeros of empty slots, and worth a compressor.
func properties(all []leaf) *parquet.WriterProperties {
	opts := []parquet.WriterProperty{parquet.WithCreatedBy(createdBy), parquet.WithVersion(parquet.V2_LATEST), parquet.WithDictionaryDefault(false)}
	for i := range all {
		l := &all[i]
		switch l.data.(type) {
		case words:
			opts = append(opts, parquet.WithDictionaryFor(l.path, true))
		case blob:
			opts = append(opts, parquet.WithCompressionFor(l.path, compress.Codecs.Zstd))
		default:
			opts = append(opts, parquet.WithEncodingFor(l.path, l.encoding()))
		}
	}
	return parquet.NewWriterProperties(opts...)
}

// chunk writes one column chunk.
func (t *tableWriter) chunk(l *leaf, m *metadata.ColumnChunkMetaDataBuilder, ordinal int16, props *parquet.WriterProperties) error {
	pw, err := file.NewPageWriter(&t.sink, props.CompressionFor(l.path), blobLevel, m, 0, ordinal, memory.DefaultAllocator, false, nil, nil)
	if err != nil {
		return err
	}
	if b, ok := l.data.(blob); ok {
		if err := t.blobPages(pw, &b); err != nil {
			return err
		}
		return pw.Close(false, false)
	}
	w, dictionary := l.data.(words)
	if dictionary {
		if err := writeDictionary(pw, w.names); err != nil {
			return err
		}
	}
	t.page = t.page[:0]
	values := l.length()
	if l.list != nil {
		if t.of != l.list {
			t.of = l.list
			t.levels.set(l.list.lengths)
		}
		t.page, values = append(t.page, t.levels.bytes...), t.levels.n
	}
	t.page = appendValues(t.page, l.data)
	if err := dataPage(pw, t.page, len(t.page), values, l.encoding()); err != nil {
		return err
	}
	if l.key {
		m.SetStats(keyRange(l.data))
	}
	return pw.Close(dictionary, false)
}

func dataPage(pw file.PageWriter, data []byte, uncompressed, values int, e parquet.Encoding) error {
	if len(data) > math.MaxInt32 || uncompressed > math.MaxInt32 {
		return fmt.Errorf("page of %d bytes: allowed below 2 GiB", uncompressed)
	}
	p := file.NewDataPageV1(memory.NewBufferBytes(data), int32(values), e, parquet.Encodings.RLE, parquet.Encodings.RLE, int32(uncompressed))
	defer p.Release()
	_, err := pw.WriteDataPage(p)
	return err
}

const (
	blobPage  = 1 << 20 // bytes of a page of a blob column
	blobLevel = 1       // of compression
)

// blobPages writes a blob column in compressed pages.
func (t *tableWriter) blobPages(pw file.PageWriter, b *blob) error {
	codec, err := compress.GetCodec(compress.Codecs.Zstd)
	if err != nil {
		return err
	}
	size := max(1, blobPage/b.width) * b.width
	for rest := b.bytes; len(rest) > 0; {
		page := rest[:min(size, len(rest))]
		rest = rest[len(page):]
		if need := int(codec.CompressBound(int64(len(page)))); cap(t.packed) < need {
			t.packed = make([]byte, 0, need)
		}
		packed := codec.EncodeLevel(t.packed[:0], page, blobLevel)
		if err := dataPage(pw, packed, len(page), len(page)/b.width, parquet.Encodings.Plain); err != nil {
			return err
		}
	}
	return nil
}

// writeDictionary writes the page of a column's different strings.
func writeDictionary(pw file.PageWriter, names []string) error {
	var data []byte
	for _, n := range names {
		data = binary.LittleEndian.AppendUint32(data, uint32(len(n)))
		data = append(data, n...)
	}
	p := file.NewDictionaryPage(memory.NewBufferBytes(data), int32(len(names)), parquet.Encodings.Plain)
	defer p.Release()
	_, err := pw.WriteDictionaryPage(p)
	return err
}

// length is the number of values that a leaf holds.
func (l *leaf) length() int {
	switch d := l.data.(type) {
	case []int32:
		return len(d)
	case []int64:
		return len(d)
	case []uint64:
		return len(d)
	case []float32:
		return len(d)
	case []float64:
		return len(d)
	case []bool:
		return len(d)
	case words:
		return len(d.codes)
	}
	return 0
}

// appendValues appends a leaf's values in its encoding.
func appendValues(out []byte, data any) []byte {
	switch d := data.(type) {
	case []int32:
		return appendDelta(out, d)
	case []int64:
		return appendDelta(out, d)
	case []uint64:
		return appendDelta(out, unsafe.Slice((*int64)(unsafe.Pointer(unsafe.SliceData(d))), len(d)))
	case []float32:
		for _, v := range d {
			out = binary.LittleEndian.AppendUint32(out, math.Float32bits(v))
		}
	case []float64:
		for _, v := range d {
			out = binary.LittleEndian.AppendUint64(out, math.Float64bits(v))
		}
	case []bool:
		return appendBools(out, d)
	case words:
		out = append(out, byte(d.codeBits()))
		return appendRuns(out, d.codes)
	}
	return out
}

// keyRange states the smallest and largest value of a key column, so that readers skip files.
func keyRange(data any) metadata.EncodedStatistics {
	s := metadata.EncodedStatistics{HasMin: true, HasMax: true, HasNullCount: true, Signed: true}
	switch d := data.(type) {
	case []int32:
		lo, hi := bounds(d)
		s.Min, s.Max = binary.LittleEndian.AppendUint32(nil, uint32(lo)), binary.LittleEndian.AppendUint32(nil, uint32(hi))
	case []int64:
		lo, hi := bounds(d)
		s.Min, s.Max = binary.LittleEndian.AppendUint64(nil, uint64(lo)), binary.LittleEndian.AppendUint64(nil, uint64(hi))
	}
	return s
}

func bounds[T int32 | int64](values []T) (lo, hi T) {
	lo, hi = values[0], values[0]
	for _, v := range values {
		lo, hi = min(lo, v), max(hi, v)
	}
	return lo, hi
}
