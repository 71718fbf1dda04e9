package trace

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// csvSpec names the columns of a CSV format, in lower case.
type csvSpec struct {
	required []string
	optional []string
}

// csvSpecs is searched in this order by detection; no header fits two.
var csvSpecs = []struct {
	format Format
	spec   csvSpec
}{
	{Azure, csvSpec{required: []string{"timestamp", "contexttokens", "generatedtokens"}}},
	{BurstGPT, csvSpec{required: []string{"timestamp", "request tokens", "response tokens"},
		optional: []string{"session id", "model", "log type"}}},
	{Vidur, csvSpec{required: []string{"arrived_at", "num_prefill_tokens", "num_decode_tokens"}}},
}

// csvColumns says where a file has the columns of its format.
type csvColumns struct {
	names []string // of the header, as written, for errors
	time  int
	in    int
	out   int
	// burstgpt only; -1 where the file lacks them.
	session, model, log int
}

// detectCSV returns the format whose required columns the header has, or "".
func detectCSV(header []byte) Format {
	fields, ok := splitCSV(bytes.Clone(header), nil)
	if !ok {
		return ""
	}
	names := columnNames(fields)
	for _, s := range csvSpecs {
		if missingColumn(names, s.spec.required) == "" {
			return s.format
		}
	}
	return ""
}

func columnNames(fields [][]byte) []string {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = strings.ToLower(strings.TrimSpace(string(f)))
	}
	return names
}

func missingColumn(names, want []string) string {
	for _, w := range want {
		if !slices.Contains(names, w) {
			return w
		}
	}
	return ""
}

// readHeader finds the columns of r.format in the header line.
func (r *Reader) readHeader(line []byte) error {
	var spec csvSpec
	for _, s := range csvSpecs {
		if s.format == r.format {
			spec = s.spec
		}
	}
	fields, ok := splitCSV(line, nil)
	if !ok {
		return r.bad("header", line, "a CSV row")
	}
	names := columnNames(fields)
	if m := missingColumn(names, spec.required); m != "" {
		return r.bad("header", []byte(strings.Join(names, ",")), fmt.Sprintf("a header of format %s with the column %q", r.format, m))
	}
	written := make([]string, len(fields))
	for i, f := range fields {
		written[i] = string(bytes.TrimSpace(f))
	}
	column := func(list []string, i int) int {
		if i >= len(list) {
			return -1
		}
		return slices.Index(names, list[i])
	}
	r.cols = csvColumns{
		names: written,
		time:  column(spec.required, 0), in: column(spec.required, 1), out: column(spec.required, 2),
		session: column(spec.optional, 0), model: column(spec.optional, 1), log: column(spec.optional, 2),
	}
	r.parse = r.parseCSV
	return nil
}

// parseCSV reads a row of any of the CSV formats.
func (r *Reader) parseCSV(line []byte, rec *Record) (int64, *LineError) {
	var ok bool
	if r.fields, ok = splitCSV(line, r.fields[:0]); !ok {
		return 0, r.bad("row", line, "a CSV row (a quote is misplaced)")
	}
	if len(r.fields) != len(r.cols.names) {
		return 0, r.bad("row", line, fmt.Sprintf("%d fields, as the header has", len(r.cols.names)))
	}
	at, bad := r.csvTime()
	if bad == nil {
		bad = r.monotone(r.cols.names[r.cols.time], r.fields[r.cols.time], at, r.last)
	}
	if bad == nil {
		rec.InputTokens, bad = r.tokens(r.cols.names[r.cols.in], r.fields[r.cols.in])
	}
	if out := r.fields[r.cols.out]; bad == nil {
		rec.OutputTokens, bad = r.tokens(r.cols.names[r.cols.out], out)
		if bad != nil && r.format == BurstGPT && string(out) == "0" {
			bad.Allowed = ">= 1 (a failed request)"
		}
	}
	if bad == nil && r.format == BurstGPT {
		r.burstGPT(rec)
	}
	return at, bad
}

// csvTime reads the arrival in absolute microseconds.
func (r *Reader) csvTime() (int64, *LineError) {
	name, text := r.cols.names[r.cols.time], r.fields[r.cols.time]
	if r.format != Azure {
		return r.decimal(name, text, 6, allowedSeconds)
	}
	at, ok := parseClock(text)
	if !ok {
		return 0, r.missing(name, text, "a time from 1970 on, like 2023-11-16 18:15:46.6805900 or 2024-05-10 00:00:00.009930+00:00")
	}
	return at, nil
}

// burstGPT reads the columns that tell sessions, models and logs apart.
func (r *Reader) burstGPT(rec *Record) {
	field := func(i int) []byte {
		if i < 0 {
			return nil
		}
		return r.fields[i]
	}
	if id := field(r.cols.session); !noValue(id) {
		rec.Session = hashText(id)
	}
	if bytes.EqualFold(field(r.cols.model), []byte("GPT-4")) {
		rec.PriorityPct = 60
	}
	if bytes.EqualFold(field(r.cols.log), []byte("API log")) {
		rec.Kind = KindAPI
		rec.PriorityPct -= 15
	}
}

// noValue reports whether a field is empty or one of the words that data
// frames write for nothing.
func noValue(s []byte) bool {
	for _, w := range []string{"", "nan", "none", "null"} {
		if strings.EqualFold(string(s), w) {
			return true
		}
	}
	return false
}

// splitCSV appends the fields of line, without surrounding spaces, to fields
// and reports whether the line is well formed. Quotes are resolved in place, so
// line is overwritten. The rows of all formats end with the line, which is why
// encoding/csv is not used here: it allocates a string a row and would swallow
// the rest of a file behind one stray quote.
func splitCSV(line []byte, fields [][]byte) ([][]byte, bool) {
	for {
		line = bytes.TrimLeft(line, " \t")
		if len(line) > 0 && line[0] == '"' {
			field, rest, ok := unquote(line[1:])
			if !ok {
				return fields, false
			}
			fields = append(fields, bytes.TrimSpace(field))
			if len(rest) == 0 {
				return fields, true
			}
			line = rest[1:]
			continue
		}
		field, rest, more := bytes.Cut(line, []byte{','})
		if bytes.IndexByte(field, '"') >= 0 {
			return fields, false
		}
		fields = append(fields, bytes.TrimSpace(field))
		if !more {
			return fields, true
		}
		line = rest
	}
}

// unquote reads a field up to its closing quote; rest is empty or starts with
// the comma behind it. A doubled quote stands for one.
func unquote(s []byte) (field, rest []byte, ok bool) {
	n := 0
	for i := 0; i < len(s); i++ {
		if s[i] == '"' {
			if i+1 < len(s) && s[i+1] == '"' {
				i++
			} else {
				rest = bytes.TrimLeft(s[i+1:], " \t")
				return s[:n], rest, len(rest) == 0 || rest[0] == ','
			}
		}
		s[n] = s[i]
		n++
	}
	return nil, nil, false
}
