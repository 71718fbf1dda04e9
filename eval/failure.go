package eval

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
)

// Kind is what made an episode fail.
type Kind string

// The kinds. The client has retried those marked so.
const (
	TimedOut      Kind = "timeout"        // retried: no reply in time
	Disconnected  Kind = "connection"     // retried: no connection, or one that ended too early
	Malformed     Kind = "malformed"      // retried: a reply that is no completion
	RateLimited   Kind = "rate_limit"     // retried: 429
	ServerError   Kind = "server_error"   // retried: 5xx
	ContextLength Kind = "context_length" // the conversation is longer than the model takes
	Refused       Kind = "refused"        // any other status of 400 or more
	Engine        Kind = "engine"         // ours, not the endpoint's
)

// Failure is why an episode has no score.
type Failure struct {
	Kind    Kind   `json:"kind"`
	Status  int    `json:"status,omitempty"` // of the last reply, if there was one
	Message string `json:"message"`
}

func (f *Failure) Error() string { return fmt.Sprintf("%s: %s", f.Kind, f.Message) }

// problem is an error document: the protocol's, and those of servers that write it flat or as text.
type problem struct {
	Error   json.RawMessage `json:"error"`
	Message string          `json:"message"`
	Detail  json.RawMessage `json:"detail"`
	Code    json.RawMessage `json:"code"`
}

// words are what an error document says.
func (p *problem) words() string {
	var inner problem
	if json.Unmarshal(p.Error, &inner) == nil && inner.Message != "" {
		if code := strings.Trim(string(inner.Code), `"`); code != "" && code != "null" {
			return inner.Message + " [" + code + "]"
		}
		return inner.Message
	}
	for _, text := range []string{p.Message, string(p.Error), string(p.Detail)} {
		if text != "" {
			return text
		}
	}
	return ""
}

// maxWords bounds what is kept of an endpoint's words.
const maxWords = 500

// wordsOf are what a body says, on one line.
func wordsOf(body []byte) string {
	var p problem
	text := string(body)
	if json.Unmarshal(body, &p) == nil && p.words() != "" {
		text = p.words()
	}
	text = strings.ToValidUTF8(strings.Join(strings.Fields(text), " "), "?")
	if runes := []rune(text); len(runes) > maxWords {
		text = string(runes[:maxWords]) + "..."
	}
	return text
}

// tooLong are the words of endpoints for a conversation that is too long.
var tooLong = regexp.MustCompile(`(?i)context_length_exceeded|exceed_context_size|maximum context length|context (length|window|size)|prompt is too long|max_model_len|too many (input )?tokens`)

// refusal is the failure that a status and its body mean.
func refusal(status int, body []byte) *Failure {
	f := &Failure{Kind: Refused, Status: status, Message: strings.TrimSuffix(fmt.Sprintf("%d %s: %s", status, http.StatusText(status), wordsOf(body)), ": ")}
	switch {
	case status == http.StatusTooManyRequests:
		f.Kind = RateLimited
	case status >= 500:
		f.Kind = ServerError
	case tooLong.Match(body):
		f.Kind = ContextLength
	}
	return f
}

// checkCompletion tells what is wrong with a reply, nil if it is a completion.
func checkCompletion(body []byte) *Failure {
	var reply struct {
		Choices []struct {
			Message *json.RawMessage `json:"message"`
		} `json:"choices"`
	}
	if err := json.Unmarshal(body, &reply); err != nil {
		return &Failure{Kind: Malformed, Message: fmt.Sprintf("reply: %v: %.80q", err, body)}
	}
	if len(reply.Choices) == 0 || reply.Choices[0].Message == nil {
		f := refusal(http.StatusOK, body)
		return &Failure{Kind: Malformed, Message: "reply without a message: " + f.Message}
	}
	return nil
}
