package trace

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
)

// Reader reads the records of one trace file in file order. It is not safe for
// concurrent use.
type Reader struct {
	name   string
	opt    Options
	format Format
	raw    *rawReader
	lines  lineReader
	close  []func() error

	// The line that detection read ahead, handed to the first Next.
	pending    []byte
	pendingErr error
	hasPending bool

	parse  func(line []byte, rec *Record) (timeMicros int64, bad *LineError)
	row    jsonRow
	dyn    dynamoState
	cols   csvColumns
	fields [][]byte
	ids    []uint64
	sorted []uint64
	block  int32

	started  bool
	base     int64 // absolute time of the first record, microseconds
	last     int64 // absolute time of the last record, microseconds
	badLines int64
	firstBad error
	err      error // what every further Next returns
}

// Open opens the trace file at path. gzip and zstd are recognised by their
// first bytes. The caller closes the Reader. It fails if o is out of range, the
// file cannot be read or is empty, a Git LFS pointer or of no known format, or
// a CSV header lacks a column.
func Open(path string, o Options) (*Reader, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	r, err := NewReader(f, path, o)
	if err != nil {
		f.Close()
		return nil, err
	}
	r.close = append(r.close, f.Close)
	return r, nil
}

// NewReader reads a trace from src, compressed or not; name stands for the file
// in errors. Close does not close src. It reads ahead, so src must not be used
// by others until the Reader is closed. It fails as Open does.
func NewReader(src io.Reader, name string, o Options) (*Reader, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	r := &Reader{name: name, opt: o, raw: &rawReader{src: src, hash: sha256.New()}}
	if err := r.decompress(); err != nil {
		return nil, err
	}
	if err := r.detect(); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// maxZstdWindow bounds the memory a frame header can ask for; it is what the
// zstd tool itself accepts without an extra flag.
const maxZstdWindow = 128 << 20

// decompress puts the decoder that the first bytes ask for under r.lines.
func (r *Reader) decompress() error {
	br := bufio.NewReaderSize(r.raw, 64<<10)
	magic, err := br.Peek(4)
	if err != nil && err != io.EOF {
		return fmt.Errorf("%s: %w", oneLine(r.name), err)
	}
	r.lines.br = br
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(br)
		if err != nil {
			return fmt.Errorf("%s: truncated or damaged gzip header: %w", oneLine(r.name), err)
		}
		// z holds nothing to free, and its Close only repeats a read error.
		r.lines.br = bufio.NewReaderSize(z, 64<<10)
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		// One goroutine fewer to leak, and errors arrive in stream order.
		z, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxZstdWindow))
		if err != nil {
			return fmt.Errorf("%s: truncated or damaged zstd header: %w", oneLine(r.name), err)
		}
		r.close = append(r.close, func() error { z.Close(); return nil })
		r.lines.br = bufio.NewReaderSize(z, 64<<10)
	}
	return nil
}

// rawReader hashes and counts the bytes of the file as they are on disk.
type rawReader struct {
	src  io.Reader
	hash hash.Hash
	n    int64
}

func (r *rawReader) Read(p []byte) (int, error) {
	n, err := r.src.Read(p)
	r.hash.Write(p[:n])
	r.n += int64(n)
	return n, err
}

const lfsPrefix = "version https://git-lfs.github.com/spec/"

// detect reads the first line that is not blank and sets up the parser.
func (r *Reader) detect() error {
	var line []byte
	var err error
	for len(line) == 0 && err == nil {
		line, err = r.lines.next()
		line = bytes.TrimSpace(line)
	}
	switch {
	case err == io.EOF:
		return fmt.Errorf("%s: the file is empty: allowed a trace in one of the formats %s", oneLine(r.name), formatNames())
	case err != nil && err != errLongLine:
		return r.streamError(err)
	case bytes.HasPrefix(line, []byte(lfsPrefix)):
		return fmt.Errorf("%s: a Git LFS pointer file, not the trace: fetch the real file (git lfs pull)", oneLine(r.name))
	}
	r.format = r.opt.Format
	if r.format == "" || r.format == Auto {
		if err != nil {
			return r.longLine()
		}
		if r.format = r.detectFormat(line); r.format == "" {
			return fmt.Errorf("%s:%d: cannot detect the format from %s: allowed %s",
				oneLine(r.name), r.lines.line, show(string(line)), formatNames())
		}
	}
	r.block = r.opt.blockTokens(r.format)
	switch r.format {
	case Mooncake:
		r.parse = r.parseMooncake
	case Dynamo:
		r.parse = r.parseDynamo
		r.dyn.init()
	case Bailian:
		r.parse = r.parseBailian
	default:
		if err != nil {
			return r.longLine()
		}
		return r.readHeader(line)
	}
	r.pending, r.pendingErr, r.hasPending = line, err, true
	return nil
}

// detectFormat returns the format whose first row or header line is, or "".
func (r *Reader) detectFormat(line []byte) Format {
	if line[0] != '{' {
		return detectCSV(line)
	}
	if r.row.decode(line) != nil {
		return ""
	}
	switch row := &r.row; {
	case has(row.ChatID):
		return Bailian
	case has(row.SessionID), has(row.Delay), has(row.DelayMS):
		return Dynamo
	case has(row.WaitFor), has(row.Branches), has(row.ToolWait):
		return Dynamo
	case has(row.HashIDs) && has(row.Timestamp):
		return Mooncake
	}
	return ""
}

// Next reads the next record into rec, overwriting all of it. It returns io.EOF
// after the last record, a *LineError for a bad row (unless they are skipped)
// and other errors, naming the file, for a damaged stream. Any error is final:
// later calls return it again. On error rec's contents are unspecified.
func (r *Reader) Next(rec *Record) error {
	for r.err == nil {
		line, err := r.pending, r.pendingErr
		if r.hasPending {
			r.pending, r.pendingErr, r.hasPending = nil, nil, false
		} else {
			line, err = r.lines.next()
		}
		var bad *LineError
		switch {
		case err == errLongLine:
			bad = r.longLine()
		case err != nil:
			r.err = r.finish(err)
			return r.err
		default:
			if line = bytes.TrimSpace(line); len(line) == 0 {
				continue
			}
			*rec = Record{Line: r.lines.line, BlockTokens: r.block, Parent: -1, PriorityPct: defaultPriorityPct}
			var at int64
			if at, bad = r.parse(line, rec); bad == nil {
				r.accept(rec, at)
				return nil
			}
		}
		if !r.opt.SkipBadLines {
			r.err = bad
			return r.err
		}
		r.badLines++
		if r.firstBad == nil {
			r.firstBad = bad
		}
	}
	return r.err
}

// accept makes the time of a good row relative to the first good row.
func (r *Reader) accept(rec *Record, at int64) {
	if !r.started {
		r.started, r.base = true, at
	}
	r.last = at
	rec.TimeMicros = at - r.base
}

// finish turns the error that ended the lines into the one Next returns. At the
// end it reads what the decoder left, so that SHA256 covers the whole file.
func (r *Reader) finish(err error) error {
	if err != io.EOF {
		return r.streamError(err)
	}
	if _, err := io.Copy(io.Discard, r.raw); err != nil {
		return r.streamError(err)
	}
	return io.EOF
}

func (r *Reader) streamError(err error) error {
	what := "cannot read on"
	if errors.Is(err, io.ErrUnexpectedEOF) {
		what = "the compressed file is truncated"
	}
	return fmt.Errorf("%s: after line %d: %s: %w", oneLine(r.name), r.lines.line, what, err)
}

// maxKept is how much of a bad value an error holds on to.
const maxKept = 1024

// bad returns the error of the current line.
func (r *Reader) bad(field string, value []byte, allowed string) *LineError {
	value = value[:min(len(value), maxKept)]
	return &LineError{File: r.name, Line: r.lines.line, Field: field, Value: string(value), Allowed: allowed}
}

func (r *Reader) longLine() *LineError {
	return r.bad("row", []byte("a longer line"), "16777216 bytes a line")
}

// Format returns the format being read, never Auto.
func (r *Reader) Format() Format { return r.format }

// BadLines returns the number of rows skipped so far.
func (r *Reader) BadLines() int64 { return r.badLines }

// FirstBad returns the error of the first skipped row, nil if there is none.
func (r *Reader) FirstBad() error { return r.firstBad }

// BytesRead returns how many bytes of the file, as it is on disk, have been
// read; the Reader reads ahead of the records.
func (r *Reader) BytesRead() int64 { return r.raw.n }

// SHA256 returns the hash, in lower-case hex, of the file's bytes as they are
// on disk. It covers the whole file once Next has returned io.EOF, and only the
// part read so far before that.
func (r *Reader) SHA256() string { return hex.EncodeToString(r.raw.hash.Sum(nil)) }

var errClosed = errors.New("trace: the reader is closed")

// Close frees the decoder and, after Open, closes the file. Next fails
// afterwards; the other methods keep their answers. Closing again does nothing.
func (r *Reader) Close() error {
	var first error
	for _, f := range r.close {
		if err := f(); err != nil && first == nil {
			first = err
		}
	}
	r.close = nil
	r.err = errClosed
	return first
}
