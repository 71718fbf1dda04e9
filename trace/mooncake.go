package trace

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
)

// jsonRow holds the raw text of the fields that the three JSONL formats use.
// Raw text tells an absent field from a zero and lets an error repeat what the
// file says; the memory is reused from row to row.
type jsonRow struct {
	Timestamp     json.RawMessage `json:"timestamp"`
	CreatedTime   json.RawMessage `json:"created_time"` // dynamo's other name for timestamp
	InputLength   json.RawMessage `json:"input_length"`
	OutputLength  json.RawMessage `json:"output_length"`
	HashIDs       json.RawMessage `json:"hash_ids"`
	SessionID     json.RawMessage `json:"session_id"`
	RequestID     json.RawMessage `json:"request_id"`
	ParentSession json.RawMessage `json:"parent_session_id"`
	ParentRequest json.RawMessage `json:"parent_request_id"`
	Delay         json.RawMessage `json:"delay"`
	DelayMS       json.RawMessage `json:"delay_ms"`
	ToolWait      json.RawMessage `json:"tool_wait_ms"`
	WaitFor       json.RawMessage `json:"wait_for"`
	Branches      json.RawMessage `json:"branches"`
	ChatID        json.RawMessage `json:"chat_id"`
	ParentChatID  json.RawMessage `json:"parent_chat_id"`
	Type          json.RawMessage `json:"type"`
	Turn          json.RawMessage `json:"turn"`
}

// decode reads one JSON object. Fields the object lacks are left empty.
func (w *jsonRow) decode(line []byte) error {
	for _, f := range []*json.RawMessage{
		&w.Timestamp, &w.CreatedTime, &w.InputLength, &w.OutputLength, &w.HashIDs, &w.SessionID,
		&w.RequestID, &w.ParentSession, &w.ParentRequest, &w.Delay, &w.DelayMS, &w.ToolWait,
		&w.WaitFor, &w.Branches, &w.ChatID, &w.ParentChatID, &w.Type, &w.Turn,
	} {
		*f = (*f)[:0]
	}
	return json.Unmarshal(line, w)
}

// has reports whether a field is there and not null.
func has(f json.RawMessage) bool { return len(f) > 0 && f[0] != 'n' }

// decode fills r.row from line.
func (r *Reader) decode(line []byte) *LineError {
	if err := r.row.decode(line); err != nil {
		return r.bad("row", line, "one JSON object a line ("+err.Error()+")")
	}
	return nil
}

const (
	allowedTokens = "1 to 2147483647"
	allowedMillis = "a number of milliseconds from 0 to 10000000000000"
	allowedIDs    = "1 to 1048576 integers from 0 to 18446744073709551615"
)

// tokens reads a token count.
func (r *Reader) tokens(field string, text []byte) (int64, *LineError) {
	if len(text) == 0 || text[0] == 'n' {
		return 0, r.missing(field, text, allowedTokens)
	}
	v, ok := parseInt(text)
	if !ok || v < 1 || v > MaxTokens {
		return 0, r.bad(field, text, allowedTokens)
	}
	return v, nil
}

func (r *Reader) missing(field string, text []byte, allowed string) *LineError {
	if len(text) == 0 {
		text = []byte("missing")
	}
	return r.bad(field, text, allowed)
}

// decimal reads a time or delay as microseconds; see parseDecimal for shift.
func (r *Reader) decimal(field string, text []byte, shift int, allowed string) (int64, *LineError) {
	if len(text) == 0 {
		return 0, r.missing(field, text, allowed)
	}
	v, ok := parseDecimal(text, shift)
	if !ok {
		return 0, r.bad(field, text, allowed)
	}
	return v, nil
}

// monotone checks an arrival against the arrival before it.
func (r *Reader) monotone(field string, text []byte, at, before int64) *LineError {
	if r.started && at < before {
		return r.bad(field, text, "times that never go back")
	}
	return nil
}

// blockIDs reads hash_ids into rec.Blocks.
func (r *Reader) blockIDs(rec *Record) *LineError {
	text := r.row.HashIDs
	if len(text) == 0 || text[0] != '[' {
		return r.missing("hash_ids", text, allowedIDs)
	}
	// The text is valid JSON, so between the brackets stand values and commas;
	// a nested list or a string with a comma falls into pieces that are not
	// numbers, which is as good an error.
	r.ids = r.ids[:0]
	for rest, more := text[1:len(text)-1], true; more; {
		var item []byte
		item, rest, more = bytes.Cut(rest, []byte{','})
		item = bytes.TrimSpace(item)
		if len(item) == 0 && !more && len(r.ids) == 0 {
			break
		}
		id, ok := parseUint(item)
		if !ok {
			return r.bad("hash_ids", item, allowedIDs)
		}
		if len(r.ids) == MaxBlocks {
			return r.bad("hash_ids", []byte("over 1048576 ids"), allowedIDs)
		}
		r.ids = append(r.ids, id)
	}
	if len(r.ids) == 0 {
		return r.bad("hash_ids", text, allowedIDs)
	}
	if id, twice := r.repeated(); twice {
		return r.bad("hash_ids", strconv.AppendUint(nil, id, 10), "each id once in a request")
	}
	rec.Blocks = r.ids
	return nil
}

// repeated returns an id that r.ids holds more than once. Sorting a copy beats
// a map at the two dozen ids of a usual request and stays fast at a million.
func (r *Reader) repeated() (uint64, bool) {
	r.sorted = append(r.sorted[:0], r.ids...)
	slices.Sort(r.sorted)
	for i := 1; i < len(r.sorted); i++ {
		if r.sorted[i] == r.sorted[i-1] {
			return r.sorted[i], true
		}
	}
	return 0, false
}

// covering returns how many blocks cover n tokens.
func (r *Reader) covering(n int64) int64 { return (n + int64(r.block) - 1) / int64(r.block) }

// fit checks that the ids cover the prompt and no more, the last one perhaps in part.
func (r *Reader) fit(rec *Record) *LineError {
	want := r.covering(rec.InputTokens)
	if got := int64(len(rec.Blocks)); got != want {
		return r.bad("hash_ids", append(strconv.AppendInt(nil, got, 10), " ids"...),
			strconv.FormatInt(want, 10)+" ids (input_length "+strconv.FormatInt(rec.InputTokens, 10)+
				" in blocks of "+strconv.Itoa(int(r.block))+" tokens)")
	}
	return nil
}

// parseMooncake reads {"timestamp", "input_length", "output_length",
// "hash_ids"}; timestamp is in milliseconds and may have a fraction.
func (r *Reader) parseMooncake(line []byte, rec *Record) (int64, *LineError) {
	if bad := r.decode(line); bad != nil {
		return 0, bad
	}
	at, bad := r.decimal("timestamp", r.row.Timestamp, 3, allowedMillis)
	if bad == nil {
		bad = r.monotone("timestamp", r.row.Timestamp, at, r.last)
	}
	if bad == nil {
		rec.InputTokens, bad = r.tokens("input_length", r.row.InputLength)
	}
	if bad == nil {
		rec.OutputTokens, bad = r.tokens("output_length", r.row.OutputLength)
	}
	if bad == nil {
		bad = r.blockIDs(rec)
	}
	if bad == nil {
		bad = r.fit(rec)
	}
	return at, bad
}
