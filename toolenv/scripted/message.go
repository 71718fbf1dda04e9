package scripted

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// request is what the server reads of a chat-completions request.
type request struct {
	Model         string          `json:"model"`
	Messages      []message       `json:"messages"`
	Tools         []any           `json:"tools"`
	ToolChoice    json.RawMessage `json:"tool_choice"`
	Stream        bool            `json:"stream"`
	StreamOptions struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
}

// mayCall tells whether the reply may have tool calls.
func (r *request) mayCall() bool { return len(r.Tools) > 0 && string(r.ToolChoice) != `"none"` }

func parseRequest(body []byte) (*request, error) {
	var r request
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, fmt.Errorf("body: %w: allowed a chat-completions request", err)
	}
	if len(r.Messages) == 0 {
		return nil, errors.New("messages: none: allowed one or more")
	}
	return &r, nil
}

type message struct {
	Role    string  `json:"role"`
	Content content `json:"content"`
}

// content is a message's text, which comes as a string, as parts, or not at all.
type content string

func (c *content) UnmarshalJSON(text []byte) error {
	if text[0] != '[' {
		return json.Unmarshal(text, (*string)(c))
	}
	var parts []struct {
		Text string `json:"text"`
	}
	if err := json.Unmarshal(text, &parts); err != nil {
		return err
	}
	var all strings.Builder
	for _, p := range parts {
		all.WriteString(p.Text)
	}
	*c = content(all.String())
	return nil
}

// Call is one tool call: a tool's name and its arguments as a model writes them, JSON if all is well.
type Call struct{ Tool, Arguments string }

// Reply is what the model says: tool calls, or text.
type Reply struct {
	Text  string
	Calls []Call
}

// tokens is what a text counts as.
func tokens(bytes int) int { return (bytes + 3) / 4 }

func (r *Reply) tokens() int {
	n := len(r.Text)
	for _, c := range r.Calls {
		n += len(c.Tool) + len(c.Arguments)
	}
	return tokens(n)
}
