package scripted

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
)

// readScript makes a decider of a file: a JSON list of turns, each a text, or a list of calls [tool, arguments]. Arguments that are a JSON string
// are sent as they stand in it, whether they are JSON or not. After its last turn a script says so.
func readScript(path string) (decider, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("policy: script: %w", err)
	}
	var turns []Reply
	var raw []json.RawMessage
	if err := json.Unmarshal(text, &raw); err != nil {
		return nil, fmt.Errorf("policy: script: %s: %w: allowed a JSON list of turns", path, err)
	}
	for i, r := range raw {
		reply, err := parseTurn(r)
		if err != nil {
			return nil, fmt.Errorf("policy: script: %s: turn %d: %w: allowed a text, or a list of [tool, arguments]", path, i, err)
		}
		turns = append(turns, reply)
	}
	return func(r *request) Reply {
		n := turn(r.Messages)
		if n >= len(turns) {
			return Reply{Text: "The script has ended."}
		}
		if len(turns[n].Calls) > 0 && !r.mayCall() {
			return Reply{Text: "The script calls tools, of which the request has none."}
		}
		return turns[n].clone()
	}, nil
}

func parseTurn(raw json.RawMessage) (reply Reply, err error) {
	if json.Unmarshal(raw, &reply.Text) == nil {
		return reply, nil
	}
	var calls [][]json.RawMessage
	if err := json.Unmarshal(raw, &calls); err != nil {
		return reply, err
	}
	for _, c := range calls {
		call, err := parseCall(c)
		if err != nil {
			return reply, err
		}
		reply.Calls = append(reply.Calls, call)
	}
	return reply, nil
}

func parseCall(c []json.RawMessage) (call Call, err error) {
	if len(c) != 2 {
		return call, fmt.Errorf("a call of %d values", len(c))
	}
	if err := json.Unmarshal(c[0], &call.Tool); err != nil {
		return call, err
	}
	if json.Unmarshal(c[1], &call.Arguments) == nil {
		return call, nil
	}
	var compact bytes.Buffer
	err = json.Compact(&compact, c[1])
	call.Arguments = compact.String()
	return call, err
}

// clone keeps a turn from what is done to the reply.
func (r *Reply) clone() Reply { return Reply{r.Text, append([]Call(nil), r.Calls...)} }
