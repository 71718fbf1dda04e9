package trace

import (
	"bytes"
	"encoding/json"
)

// dynamoState is what a dynamo row may refer back to. It grows with the
// sessions and the named requests of the file, not with its rows as such.
type dynamoState struct {
	sessions map[uint64]int64    // last arrival of a session, absolute microseconds
	requests map[uint64]int64    // arrival of a request that has a request_id
	children map[uint64]struct{} // sessions and requests known to be branches
	explicit int64               // last timestamp written in the file, microseconds
	waits    []uint64            // scratch
	branches []uint64            // scratch
}

func (d *dynamoState) init() {
	d.sessions = make(map[uint64]int64)
	d.requests = make(map[uint64]int64)
	d.children = make(map[uint64]struct{})
}

// parseDynamo reads a Mooncake row with sessions. The differences:
//
//   - session_id (text or number) names the session. timestamp (or
//     created_time) may be absent when an earlier row of the session is there
//     or wait_for names other requests. The arrival is then the arrival of the
//     session's previous row and of the known rows waited for, whichever is
//     last, plus the delay. It leaves out how long those requests ran, which
//     the file does not know: a closed-loop replay uses Record.DelayMicros.
//   - delay or delay_ms, plus tool_wait_ms, is that delay in milliseconds. On a
//     row with nothing before it, it means nothing and is ignored.
//   - A computed arrival may lie after the next timestamp in the file. Written
//     timestamps must not go back among themselves; the emitted time is never
//     less than the previous record's.
//   - input_length counts the whole prompt while ids may cover less: it is cut
//     to what the ids cover, and taken from them when absent.
//   - A row whose request or session an earlier row lists in branches, or which
//     names a parent, is a branch, and so are later rows of its session.
func (r *Reader) parseDynamo(line []byte, rec *Record) (int64, *LineError) {
	if bad := r.decode(line); bad != nil {
		return 0, bad
	}
	row, d := &r.row, &r.dyn
	if bad := r.dynamoSize(rec); bad != nil {
		return 0, bad
	}
	var request uint64
	for _, f := range []struct {
		name string
		text json.RawMessage
		to   *uint64
	}{{"session_id", row.SessionID, &rec.Session}, {"request_id", row.RequestID, &request}} {
		var ok bool
		if *f.to, ok = hashID(f.text); !ok {
			return 0, r.bad(f.name, f.text, "a string or an integer")
		}
	}
	d.waits = hashIDs(row.WaitFor, d.waits[:0])
	d.branches = hashIDs(row.Branches, d.branches[:0])

	before, follows := d.sessions[rec.Session]
	follows = follows && rec.Session != 0
	delay, bad := r.dynamoDelay()
	if bad != nil {
		return 0, bad
	}
	if follows || len(d.waits) > 0 {
		rec.DelayMicros = delay
	}
	name, text := "timestamp", row.Timestamp
	if !has(text) && has(row.CreatedTime) {
		name, text = "created_time", row.CreatedTime
	}
	var at int64
	explicit := has(text)
	switch {
	case explicit:
		if at, bad = r.decimal(name, text, 3, allowedMillis); bad == nil {
			bad = r.monotone(name, text, at, d.explicit)
		}
	case follows || len(d.waits) > 0:
		at = d.base(before, follows, r.last) + delay
		if at > maxTimeMicros {
			bad = r.missing("delay", row.Delay, "arrivals up to 10000000000000 milliseconds")
		}
	default:
		bad = r.missing(name, text, allowedMillis+" on a session's first row")
	}
	if bad != nil {
		return 0, bad
	}

	// The row is good: remember it.
	if explicit {
		d.explicit = at
	}
	if !r.started {
		r.last = at
	}
	at = max(at, r.last)
	if d.isChild(rec.Session, request) || has(row.ParentSession) || has(row.ParentRequest) {
		rec.Kind = KindSubagent
		// A branch inside its parent's session does not make that session one.
		if rec.Session != 0 && !follows {
			d.children[rec.Session] = struct{}{}
		}
	}
	if rec.Session != 0 {
		d.sessions[rec.Session] = at
	}
	if request != 0 {
		d.requests[request] = at
	}
	for _, id := range d.branches {
		d.children[id] = struct{}{}
	}
	return at, nil
}

// dynamoSize reads tokens and ids.
func (r *Reader) dynamoSize(rec *Record) (bad *LineError) {
	if bad = r.blockIDs(rec); bad != nil {
		return bad
	}
	covered := min(int64(len(rec.Blocks))*int64(r.block), MaxTokens)
	rec.InputTokens = covered
	if has(r.row.InputLength) {
		if rec.InputTokens, bad = r.tokens("input_length", r.row.InputLength); bad != nil {
			return bad
		}
		rec.InputTokens = min(rec.InputTokens, covered)
	}
	if rec.OutputTokens, bad = r.tokens("output_length", r.row.OutputLength); bad != nil {
		return bad
	}
	return r.fit(rec)
}

// dynamoDelay returns delay plus tool wait in microseconds.
func (r *Reader) dynamoDelay() (int64, *LineError) {
	var sum int64
	name, text := "delay", r.row.Delay
	if !has(text) {
		name, text = "delay_ms", r.row.DelayMS
	}
	if has(text) {
		v, bad := r.decimal(name, text, 3, allowedMillis)
		if bad != nil {
			return 0, bad
		}
		sum = v
	}
	if has(r.row.ToolWait) {
		v, bad := r.decimal("tool_wait_ms", r.row.ToolWait, 3, allowedMillis)
		if bad != nil {
			return 0, bad
		}
		sum += v
	}
	return sum, nil
}

// base returns the arrival a delay counts from: the latest of the session's
// previous row and the rows waited for. If none of them is known (a file cut
// out of a longer one), it is the last record's.
func (d *dynamoState) base(before int64, follows bool, last int64) int64 {
	at := int64(-1)
	if follows {
		at = before
	}
	for _, id := range d.waits {
		if t, ok := d.requests[id]; ok {
			at = max(at, t)
		}
	}
	if at < 0 {
		return last
	}
	return at
}

// isChild reports whether an earlier row announced this one, or its session, as
// a branch.
func (d *dynamoState) isChild(session, request uint64) bool {
	_, byRequest := d.children[request]
	_, bySession := d.children[session]
	return byRequest && request != 0 || bySession && session != 0
}

// hashID returns a hash of an id that is a JSON string or integer; 0 for none
// (absent, null or empty). The string "7" and the number 7 are one id.
func hashID(text json.RawMessage) (uint64, bool) {
	if !has(text) {
		return 0, true
	}
	id := []byte(text)
	if text[0] == '"' {
		id = text[1 : len(text)-1]
		if bytes.IndexByte(id, '\\') >= 0 {
			var s string
			if json.Unmarshal(text, &s) != nil {
				return 0, false
			}
			id = []byte(s)
		}
		if len(id) == 0 {
			return 0, true
		}
	} else if _, ok := parseInt(text); !ok {
		return 0, false
	}
	return hashText(id), true
}

// hashIDs appends the ids of a list, or of a single id. What is neither is left
// out: workflow fields are hints, and a row is usable without them.
func hashIDs(text json.RawMessage, to []uint64) []uint64 {
	if !has(text) {
		return to
	}
	items := []json.RawMessage{text}
	if text[0] == '[' && json.Unmarshal(text, &items) != nil {
		return to
	}
	for _, item := range items {
		if id, ok := hashID(item); ok && id != 0 {
			to = append(to, id)
		}
	}
	return to
}

// hashText hashes an id of the file to a number that is never 0: FNV-1a, whose
// output is then mixed because its high bits are weak on short texts.
func hashText(s []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range s {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return max(mix(h), 1)
}
