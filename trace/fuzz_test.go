package trace

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzReader feeds any bytes to any format: no panic, no hang, errors of one
// line, and records within the ranges their documentation gives.
func FuzzReader(f *testing.F) {
	files, err := filepath.Glob("testdata/*.*")
	if err != nil || len(files) == 0 {
		f.Fatal("no samples", err)
	}
	all := append(Formats(), Auto)
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		for i := range all {
			f.Add(text, uint8(i), i%2 == 0)
		}
		f.Add(gzipped(f, text), uint8(len(all)-1), false)
		f.Add(zstded(f, text), uint8(len(all)-1), true)
		f.Add(zstded(f, text)[:20], uint8(len(all)-1), true)
	}
	f.Add([]byte(lfsPrefix), uint8(0), false)
	f.Add([]byte("\xef\xbb\xbf\n\r\n"), uint8(0), false)
	f.Fuzz(func(t *testing.T, data []byte, format uint8, skip bool) {
		o := Options{Format: all[int(format)%len(all)], SkipBadLines: skip}
		r, err := NewReader(bytes.NewReader(data), "fuzz", o)
		if err != nil {
			checkError(t, err)
			return
		}
		defer r.Close()
		s := NewSessionizer()
		var rec Record
		var line, last int64
		for rows := int64(0); ; rows++ {
			if err = r.Next(&rec); err != nil {
				break
			}
			checkRecord(t, &rec, r.Format())
			if rec.Line <= line || rec.TimeMicros < last || rows == 0 && rec.TimeMicros != 0 {
				t.Fatalf("line %d at %d after line %d at %d", rec.Line, rec.TimeMicros, line, last)
			}
			line, last = rec.Line, rec.TimeMicros
			p := s.Place(&rec)
			if p.KnownBlocks > len(rec.Blocks) || p.SystemBlocks > p.KnownBlocks || p.FollowUp != (p.Turn > 0) ||
				int64(p.Session) >= s.Sessions() || (p.SystemKey == 0) != (p.SystemBlocks == 0) {
				t.Fatalf("placement %+v of %+v", p, rec)
			}
		}
		checkEnd(t, r, err, len(data), skip)
	})
}

func checkError(t *testing.T, err error) {
	t.Helper()
	if text := err.Error(); text == "" || strings.ContainsAny(text, "\n\r\x00") || !strings.Contains(text, "fuzz") {
		t.Fatalf("error %q", text)
	}
}

func checkRecord(t *testing.T, rec *Record, f Format) {
	t.Helper()
	ids := f == Mooncake || f == Dynamo || f == Bailian
	ok := rec.Line >= 1 && rec.TimeMicros >= 0 && rec.DelayMicros >= 0 &&
		rec.InputTokens >= 1 && rec.InputTokens <= MaxTokens && rec.OutputTokens >= 1 && rec.OutputTokens <= MaxTokens &&
		rec.PriorityPct >= 0 && rec.PriorityPct <= 100 && rec.Kind <= KindCoder && rec.Turn >= 0 &&
		rec.Parent >= -1 && rec.ChatID >= 0 && (rec.HasChat || rec.Parent == -1)
	if ids {
		size := int64(rec.BlockTokens)
		ok = ok && size > 0 && int64(len(rec.Blocks)) == (rec.InputTokens+size-1)/size && len(rec.Blocks) <= MaxBlocks
		seen := make(map[uint64]bool, len(rec.Blocks))
		for _, id := range rec.Blocks {
			ok = ok && !seen[id]
			seen[id] = true
		}
	} else {
		ok = ok && rec.BlockTokens == 0 && rec.Blocks == nil
	}
	if !ok {
		t.Fatalf("record out of range: %+v", rec)
	}
}

func checkEnd(t *testing.T, r *Reader, err error, size int, skip bool) {
	t.Helper()
	if again := r.Next(new(Record)); again != err {
		t.Fatalf("error %v became %v", err, again)
	}
	if err != io.EOF {
		checkError(t, err)
		if _, bad := err.(*LineError); bad && skip {
			t.Fatalf("not skipped: %v", err)
		}
	} else if r.BytesRead() != int64(size) {
		t.Fatalf("read %d of %d bytes", r.BytesRead(), size)
	}
	if (r.BadLines() > 0) != (r.FirstBad() != nil) || !skip && r.BadLines() > 0 {
		t.Fatalf("%d bad lines, first %v", r.BadLines(), r.FirstBad())
	}
}
