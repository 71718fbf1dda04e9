package trace

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

func gzipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := w.Write(b)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return out.Bytes()
}

func zstded(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	defer w.Close()
	return w.EncodeAll(b, nil)
}

// synthetic returns a Mooncake file of n rows.
func synthetic(t testing.TB, n int) []byte {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, Synthesize(&b, SynthConfig{Requests: n, Seed: 3}))
	return b.Bytes()
}

// Ensure that compression changes nothing but the hash, which is that of the
// bytes on disk.
func TestCompression(t *testing.T) {
	plain := synthetic(t, 3000)
	want, err := readString(t, string(plain), Options{})
	require.NoError(t, err)
	half := len(plain) / 2
	for name, data := range map[string][]byte{
		"plain":      plain,
		"gzip":       gzipped(t, plain),
		"gzip parts": append(gzipped(t, plain[:half]), gzipped(t, plain[half:])...),
		"zstd":       zstded(t, plain),
		"zstd parts": append(zstded(t, plain[:half]), zstded(t, plain[half:])...),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "trace.bin")
			require.NoError(t, os.WriteFile(path, data, 0o600))
			r, err := Open(path, Options{})
			require.NoError(t, err)
			defer r.Close()
			got, err := readAll(r)
			require.NoError(t, err)
			require.Equal(t, want, got)
			sum := sha256.Sum256(data)
			require.Equal(t, hex.EncodeToString(sum[:]), r.SHA256())
			require.Equal(t, int64(len(data)), r.BytesRead())
		})
	}
}

// Ensure that a stream cut anywhere is an error that names the file, never a
// shorter trace, and that skipping bad lines does not hide it.
func TestTruncated(t *testing.T) {
	plain := synthetic(t, 2000)
	for _, data := range [][]byte{gzipped(t, plain), zstded(t, plain)} {
		for _, n := range []int{5, 20, len(data) / 2, len(data) - 5, len(data) - 1} {
			for _, skip := range []bool{false, true} {
				r, err := NewReader(bytes.NewReader(data[:n]), "cut.bin", Options{SkipBadLines: skip})
				if err == nil {
					_, err = readAll(r)
					require.Equal(t, err, r.Next(new(Record)), "the error is final")
					require.NoError(t, r.Close())
				}
				require.ErrorContains(t, err, "cut.bin: ", "%d of %d bytes", n, len(data))
				require.ErrorContains(t, err, "truncated")
				require.True(t, errors.Is(err, io.ErrUnexpectedEOF))
			}
		}
	}
	damaged := gzipped(t, plain)
	damaged[len(damaged)/2] ^= 0xff
	r, err := NewReader(bytes.NewReader(damaged), "bad.gz", Options{})
	require.NoError(t, err)
	_, err = readAll(r)
	require.ErrorContains(t, err, "bad.gz")
}

func TestUndetectable(t *testing.T) {
	const formats = "mooncake, dynamo, bailian, azure, burstgpt, vidur"
	long := `{"timestamp": 1, "pad": "` + strings.Repeat("x", MaxLineBytes) + `"}`
	for _, c := range []struct {
		text, want string
		format     Format
	}{
		{"", "t: the file is empty: allowed a trace in one of the formats " + formats, Auto},
		{"\n \r\n", "t: the file is empty: allowed a trace in one of the formats " + formats, Vidur},
		{"hello", "t:1: cannot detect the format from hello: allowed " + formats, Auto},
		{"\n{\"a\": 1}", "t:2: cannot detect the format from {\"a\": 1}: allowed " + formats, Auto},
		{"{\"a\": ", "t:1: cannot detect the format from {\"a\":: allowed " + formats, Auto},
		{"\x00\x01\x02", `t:1: cannot detect the format from "\x00\x01\x02": allowed ` + formats, Auto},
		{long, "t:1: row: a longer line: allowed 16777216 bytes a line", Auto},
		{long, "t:1: row: a longer line: allowed 16777216 bytes a line", Azure},
		{lfsPrefix + "v1\noid sha256:0\nsize 3\n", "t: a Git LFS pointer file, not the trace: fetch the real file (git lfs pull)", Auto},
		{lfsPrefix + "v1\n", "t: a Git LFS pointer file, not the trace: fetch the real file (git lfs pull)", Bailian},
		{"timestamp,b", `t:1: header: timestamp,b: allowed a header of format azure with the column "contexttokens"`, Azure},
		{`"`, `t:1: header: ": allowed a CSV row`, Azure},
		{"x", "format: nope: allowed auto, " + formats, "nope"},
	} {
		_, err := readString(t, c.text, Options{Format: c.format})
		require.EqualError(t, err, c.want)
	}
	_, err := Open(filepath.Join(t.TempDir(), "absent.jsonl"), Options{})
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = Open(t.TempDir(), Options{})
	require.Error(t, err)
}

func TestDetectDialects(t *testing.T) {
	for text, want := range map[string]Format{
		mooncakeRow: Mooncake,
		dynamoRow:   Dynamo,
		bailianRow:  Bailian,
		azureRow:    Azure,
		burstRow:    BurstGPT,
		vidurRow:    Vidur,
		strings.Replace(mooncakeRow, "{", `{"delay_ms": 1, `, 1): Dynamo,
		strings.Replace(mooncakeRow, "{", `{"delay": 1, `, 1):    Dynamo,
		"\ufeff\r\n" + mooncakeRow:                               Mooncake,
		"\ufeff" + vidurRow:                                      Vidur,
		strings.ReplaceAll(vidurRow, "\n", "\r\n"):               Vidur,
		`"arrived_at", "num_prefill_tokens","num_decode_tokens"`: Vidur,
	} {
		r, err := NewReader(strings.NewReader(text), "t", Options{})
		require.NoError(t, err, text)
		require.Equal(t, want, r.Format(), text)
		_, err = readAll(r)
		require.NoError(t, err, text)
	}
}

func TestParseFormat(t *testing.T) {
	for _, f := range append(Formats(), Auto) {
		got, err := ParseFormat(string(f))
		require.NoError(t, err)
		require.Equal(t, f, got)
	}
	_, err := ParseFormat("Mooncake")
	require.EqualError(t, err, "format: Mooncake: allowed auto, mooncake, dynamo, bailian, azure, burstgpt, vidur")
	require.Len(t, Formats(), 6)
	require.Equal(t, "subagent", KindSubagent.String())
	require.Equal(t, "unknown", Kind(200).String())
}

// Ensure that an overlong line is skipped as one bad line, and costs no more
// memory than the limit.
func TestLongLine(t *testing.T) {
	long := strings.Repeat("y", 2*MaxLineBytes+7)
	text := io.MultiReader(strings.NewReader(mooncakeRow+"\n"), strings.NewReader(long), strings.NewReader("\n"+mooncakeRow))
	r, err := NewReader(text, "t", Options{SkipBadLines: true})
	require.NoError(t, err)
	got, err := readAll(r)
	require.NoError(t, err)
	require.Len(t, got, 2)
	require.Equal(t, int64(3), got[1].Line)
	require.Equal(t, int64(1), r.BadLines())
	require.EqualError(t, r.FirstBad(), "t:2: row: a longer line: allowed 16777216 bytes a line")
	require.Less(t, cap(r.lines.long), 2*MaxLineBytes)
}

// Ensure that a line of exactly the limit is read, and one byte more is not,
// with or without a line end.
func TestLineLimit(t *testing.T) {
	for _, end := range []string{"", "\n", "\r\n"} {
		for _, extra := range []int{0, 1} {
			row := mooncakeRow[:len(mooncakeRow)-1] + strings.Repeat(" ", MaxLineBytes-len(mooncakeRow)+extra) + "}"
			got, err := readString(t, row+end, Options{Format: Mooncake, SkipBadLines: true})
			require.NoError(t, err)
			require.Len(t, got, 1-extra)
		}
	}
}

func TestReadErrorsPassThrough(t *testing.T) {
	boom := errors.New("boom")
	_, err := NewReader(iotest.ErrReader(boom), "t", Options{})
	require.ErrorIs(t, err, boom)
	r, err := NewReader(io.MultiReader(strings.NewReader(mooncakeRow+"\n"), iotest.ErrReader(boom)), "t", Options{SkipBadLines: true})
	require.NoError(t, err)
	_, err = readAll(r)
	require.ErrorIs(t, err, boom)
	require.EqualError(t, err, "t: after line 1: cannot read on: boom")
	// One byte a read must make no difference.
	slow, err := NewReader(iotest.OneByteReader(strings.NewReader(vidurRow)), "t", Options{})
	require.NoError(t, err)
	got, err := readAll(slow)
	require.NoError(t, err)
	require.Len(t, got, 1)
}

func TestClosedReader(t *testing.T) {
	r, err := Open("testdata/mooncake.jsonl", Options{})
	require.NoError(t, err)
	require.NoError(t, r.Close())
	require.NoError(t, r.Close())
	require.ErrorIs(t, r.Next(new(Record)), errClosed)
}

// Ensure that the rows of the large formats cost no allocations.
func TestCSVRowsDoNotAllocate(t *testing.T) {
	for _, c := range []struct{ header, row string }{
		{"TIMESTAMP,ContextTokens,GeneratedTokens\n", "2024-05-10 00:00:00.009930+00:00,2162,5\n"},
		{"Timestamp,Session ID,Model,Request tokens,Response tokens,Log Type\n", "9.5,\"12\",GPT-4,20,5,API log\n"},
		{"arrived_at,num_prefill_tokens,num_decode_tokens\n", "9.25,20,5\n"},
	} {
		r, err := NewReader(strings.NewReader(c.header+strings.Repeat(c.row, 3000)), "t", Options{})
		require.NoError(t, err)
		var rec Record
		require.NoError(t, r.Next(&rec))
		require.Zero(t, testing.AllocsPerRun(2000, func() {
			if err := r.Next(&rec); err != nil {
				t.Fatal(err)
			}
		}), c.header)
	}
}
