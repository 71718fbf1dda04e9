package trace

import "math"

const allowedSeconds = "a number of seconds from 0 to 10000000000"

// bailianTypes gives the kind and the priority in percent of a request type.
// A type this list lacks is read as text: later files add types.
var bailianTypes = map[string]struct {
	kind     Kind
	priority int8
}{
	`"text"`:     {KindChat, defaultPriorityPct},
	`"search"`:   {KindSearch, 40},
	`"image"`:    {KindImage, 45},
	`"file"`:     {KindFile, 45},
	`"api"`:      {KindAPI, 25},
	`"thinking"`: {KindThinking, 50},
	`"coder"`:    {KindCoder, 45},
}

// parseBailian reads {"chat_id", "parent_chat_id", "timestamp" in seconds,
// "input_length", "output_length", "type", "turn", "hash_ids"}. type and turn
// may be absent.
func (r *Reader) parseBailian(line []byte, rec *Record) (int64, *LineError) {
	if bad := r.decode(line); bad != nil {
		return 0, bad
	}
	row := &r.row
	rec.HasChat = true
	var ok bool
	if rec.ChatID, ok = parseInt(row.ChatID); !ok || rec.ChatID < 0 {
		return 0, r.missing("chat_id", row.ChatID, "an integer >= 0")
	}
	if rec.Parent, ok = parseInt(row.ParentChatID); !ok || rec.Parent < -1 {
		return 0, r.missing("parent_chat_id", row.ParentChatID, "an integer >= -1 (-1: none)")
	}
	if rec.Parent == rec.ChatID {
		return 0, r.bad("parent_chat_id", row.ParentChatID, "another chat than chat_id")
	}
	at, bad := r.decimal("timestamp", row.Timestamp, 6, allowedSeconds)
	if bad == nil {
		bad = r.monotone("timestamp", row.Timestamp, at, r.last)
	}
	if bad == nil {
		rec.InputTokens, bad = r.tokens("input_length", row.InputLength)
	}
	if bad == nil {
		rec.OutputTokens, bad = r.tokens("output_length", row.OutputLength)
	}
	if bad == nil {
		bad = r.blockIDs(rec)
	}
	if bad == nil {
		bad = r.fit(rec)
	}
	if bad != nil {
		return 0, bad
	}
	if has(row.Type) {
		if row.Type[0] != '"' {
			return 0, r.bad("type", row.Type, "a string")
		}
		if t, ok := bailianTypes[string(row.Type)]; ok {
			rec.Kind, rec.PriorityPct = t.kind, t.priority
		}
	}
	if has(row.Turn) {
		turn, ok := parseInt(row.Turn)
		if !ok || turn < 0 || turn > math.MaxInt32 {
			return 0, r.bad("turn", row.Turn, "0 to 2147483647")
		}
		rec.Turn = int32(turn)
	}
	return at, nil
}
