package eval

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/kvgym/kvgym/toolenv"
)

// player gives the next message of a conversation, as the protocol writes it.
type player interface {
	reply(ctx context.Context, e *episode) (json.RawMessage, error)
}

// modelPlayer asks an endpoint.
type modelPlayer struct{ endpoint *endpoint }

func (p modelPlayer) reply(ctx context.Context, e *episode) (json.RawMessage, error) {
	r, err := p.endpoint.complete(ctx, e.row.Messages, &e.row.Usage)
	if err != nil {
		return nil, err
	}
	return returned([]byte(r.Choices[0].Message.RawJSON()))
}

// returned is a reply's message as it goes back into the conversation: with all that an endpoint has put there, such as reasoning that some want to
// see again, but without what some refuse although others send it, which is null and an empty list of calls.
func returned(message []byte) (json.RawMessage, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(message, &fields); err != nil {
		return nil, &Failure{Kind: Malformed, Message: fmt.Sprintf("message: %v: %.80q", err, message)}
	}
	for name, value := range fields {
		if string(value) == "null" || name == "tool_calls" && string(value) == "[]" {
			delete(fields, name)
		}
	}
	if fields["content"] == nil {
		fields["content"] = json.RawMessage("null")
		if fields["tool_calls"] == nil {
			fields["content"] = json.RawMessage(`""`)
		}
	}
	return json.Marshal(fields)
}

// policyPlayer is a policy of package policy, which calls the tools as a model would.
type policyPlayer struct{ name string }

func (p policyPlayer) reply(_ context.Context, e *episode) (json.RawMessage, error) {
	calls, err := e.env.Suggest(p.name)
	if err != nil {
		return nil, &Failure{Kind: Engine, Message: err.Error()}
	}
	m := message{Role: "assistant"}
	for i, c := range calls {
		m.ToolCalls = append(m.ToolCalls, toolCall{ID: fmt.Sprintf("call_%d_%d", len(e.row.Memory)-1, i), Type: "function", Function: c})
	}
	if len(calls) == 0 {
		m.ToolCalls = []toolCall{{ID: fmt.Sprintf("call_%d_0", len(e.row.Memory)-1), Type: "function", Function: toolenv.Call{Name: "keep", Arguments: "{}"}}}
	}
	return json.Marshal(&m)
}

// message is what kvgym writes of a message.
type message struct {
	Role       string     `json:"role"`
	Content    *string    `json:"content"`
	ToolCalls  []toolCall `json:"tool_calls,omitempty"`
	ToolCallID string     `json:"tool_call_id,omitempty"`
}

type toolCall struct {
	ID       string       `json:"id"`
	Type     string       `json:"type"`
	Function toolenv.Call `json:"function"`
}

// episode is one rollout under way.
type episode struct {
	env *toolenv.Env
	row Row
}

// play plays an episode to its end or to what stops it. The error is that of ctx; all others are in the row.
func play(ctx context.Context, env *toolenv.Env, p player, row Row) (Row, error) {
	began := time.Now()
	e := &episode{env: env, row: row}
	e.row.Difficulty = env.Result().Difficulty
	err := e.turns(ctx, p)
	if ctx.Err() != nil {
		return e.row, ctx.Err()
	}
	r := env.Result()
	e.row.Calls, e.row.Faults, e.row.Turns, e.row.Seconds = r.Calls, r.Faults, r.Turns, time.Since(began).Seconds()
	if err != nil {
		if !errors.As(err, &e.row.Failure) {
			e.row.Failure = &Failure{Kind: Engine, Message: err.Error()}
		}
		return e.row, nil
	}
	e.row.Score, e.row.Components, e.row.Metrics = &r.Score, r.Components, r.Metrics
	return e.row, nil
}

func (e *episode) turns(ctx context.Context, p player) error {
	if err := e.say("system", e.env.System(), ""); err != nil {
		return err
	}
	text, done := e.env.Prompt(), false
	for {
		if err := e.look(text); err != nil || done {
			return err
		}
		raw, err := p.reply(ctx, e)
		if err != nil {
			return err
		}
		e.row.Messages = append(e.row.Messages, raw)
		if err := e.answer(raw); err != nil {
			return err
		}
		if text, done, err = e.env.Step(); err != nil {
			return err
		}
	}
}

// look gives the player a user message, and takes down the memory that it shows.
func (e *episode) look(text string) error {
	var o struct {
		Usage float64 `json:"memory_usage"`
	}
	if err := json.Unmarshal(e.env.Observe(), &o); err != nil {
		return err
	}
	e.row.Memory = append(e.row.Memory, o.Usage)
	return e.say("user", text, "")
}

func (e *episode) say(role, text, id string) error {
	raw, err := json.Marshal(&message{Role: role, Content: &text, ToolCallID: id})
	e.row.Messages = append(e.row.Messages, raw)
	return err
}

// reply is what kvgym reads of a model's message.
type reply struct {
	ToolCalls []struct {
		ID       string `json:"id"`
		Function struct {
			Name      string          `json:"name"`
			Arguments json.RawMessage `json:"arguments"`
		} `json:"function"`
	} `json:"tool_calls"`
}

// answer does the tool calls of a reply, in their order.
func (e *episode) answer(raw json.RawMessage) error {
	var m reply
	if err := json.Unmarshal(raw, &m); err != nil {
		return &Failure{Kind: Malformed, Message: fmt.Sprintf("message: %v: %.80q", err, raw)}
	}
	for _, c := range m.ToolCalls {
		var arguments string
		if json.Unmarshal(c.Function.Arguments, &arguments) != nil {
			arguments = string(c.Function.Arguments) // some servers send the object itself
		}
		if err := e.say("tool", e.env.Call(c.Function.Name, arguments), c.ID); err != nil {
			return err
		}
	}
	return nil
}
