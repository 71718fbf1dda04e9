package scripted

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// answer is a completion in the protocol's words.
type answer struct {
	id      string
	created int64
	model   string
	reply   Reply
	calls   []toolCall
	finish  string
	usage   map[string]int
}

type toolCall struct {
	Index    *int         `json:"index,omitempty"` // in streams
	ID       string       `json:"id,omitempty"`
	Type     string       `json:"type,omitempty"`
	Function functionCall `json:"function"`
}

type functionCall struct {
	Name      string `json:"name,omitempty"`
	Arguments string `json:"arguments"`
}

func newAnswer(req *request, reply Reply, n uint64, prompt int) *answer {
	a := &answer{id: fmt.Sprintf("chatcmpl-%d", n), created: time.Now().Unix(), model: req.Model, reply: reply, finish: "stop"}
	for i, c := range reply.Calls {
		a.calls = append(a.calls, toolCall{ID: fmt.Sprintf("call_%d_%d", turn(req.Messages), i), Type: "function", Function: functionCall{c.Tool, c.Arguments}})
		a.finish = "tool_calls"
	}
	a.usage = map[string]int{"prompt_tokens": prompt, "completion_tokens": reply.tokens(), "total_tokens": prompt + reply.tokens()}
	return a
}

// spoil cuts the arguments of every call in half.
func (r *Reply) spoil() {
	for i := range r.Calls {
		a := &r.Calls[i].Arguments
		*a = "{" + (*a)[:len(*a)/2]
	}
}

// text is what a message without text has as content.
func (a *answer) text() any {
	if len(a.calls) > 0 && a.reply.Text == "" {
		return nil
	}
	return a.reply.Text
}

// write sends the answer in one piece, of which Dropped and Garbled leave half.
func (a *answer) write(w http.ResponseWriter, fault Fault) {
	message := map[string]any{"role": "assistant", "content": a.text(), "refusal": nil}
	if len(a.calls) > 0 {
		message["tool_calls"] = a.calls
	}
	document := map[string]any{"id": a.id, "object": "chat.completion", "created": a.created, "model": a.model, "usage": a.usage,
		"choices": []any{map[string]any{"index": 0, "message": message, "logprobs": nil, "finish_reason": a.finish}}}
	if fault != Dropped && fault != Garbled {
		writeJSON(w, http.StatusOK, document)
		return
	}
	text, _ := json.Marshal(document)
	w.Header().Set("Content-Type", "application/json")
	if fault == Dropped {
		w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	}
	_, _ = w.Write(text[:len(text)/2])
	if fault == Dropped {
		drop(w)
	}
}

// drop ends the connection without ending the body.
func drop(w http.ResponseWriter) {
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

// stream sends the answer in pieces: the role, text word by word or calls in two halves each, the end, and the usage if it is wanted. Dropped and Garbled
// come half-way.
func (a *answer) stream(w http.ResponseWriter, fault Fault, usage bool) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-cache")
	deltas := a.deltas()
	for i, d := range deltas {
		if i == len(deltas)/2 && fault == Dropped {
			drop(w)
		}
		if i == len(deltas)/2 && fault == Garbled {
			send(w, `{"id": "`+a.id)
			continue
		}
		a.chunk(w, []any{map[string]any{"index": 0, "delta": d, "logprobs": nil, "finish_reason": nil}}, nil)
	}
	a.chunk(w, []any{map[string]any{"index": 0, "delta": map[string]any{}, "logprobs": nil, "finish_reason": a.finish}}, nil)
	if usage {
		a.chunk(w, []any{}, a.usage)
	}
	send(w, "[DONE]")
}

// deltas are the pieces of the message.
func (a *answer) deltas() []map[string]any {
	out := []map[string]any{{"role": "assistant", "content": a.text()}}
	if len(a.calls) == 0 {
		out[0]["content"] = ""
		for _, word := range strings.SplitAfter(a.reply.Text, " ") {
			out = append(out, map[string]any{"content": word})
		}
	}
	for i, c := range a.calls {
		half := len(c.Function.Arguments) / 2
		first, rest := c, toolCall{Index: &i, Function: functionCall{Arguments: c.Function.Arguments[half:]}}
		first.Index, first.Function.Arguments = &i, c.Function.Arguments[:half]
		out = append(out, map[string]any{"tool_calls": []toolCall{first}}, map[string]any{"tool_calls": []toolCall{rest}})
	}
	return out
}

func (a *answer) chunk(w http.ResponseWriter, choices []any, usage map[string]int) {
	text, err := json.Marshal(map[string]any{"id": a.id, "object": "chat.completion.chunk", "created": a.created, "model": a.model, "choices": choices, "usage": usage})
	if err != nil {
		panic(fmt.Sprintf("scripted: %v", err)) // strings and integers always marshal
	}
	send(w, string(text))
}

// send writes one event.
func send(w http.ResponseWriter, data string) {
	_, _ = fmt.Fprintf(w, "data: %s\n\n", data)
	_ = http.NewResponseController(w).Flush()
}
