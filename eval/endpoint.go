package eval

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/kvgym/kvgym/toolenv"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/packages/param"
)

// endpoint asks a model. Several goroutines may use it at once.
type endpoint struct {
	model *Model
	chat  openai.ChatCompletionService
	tools []openai.ChatCompletionToolUnionParam
}

// newEndpoint makes a client for so many requests at a time. It takes nothing from the process's environment.
func newEndpoint(m *Model, concurrent int) *endpoint {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConns, transport.MaxIdleConnsPerHost = 0, concurrent
	e := &endpoint{model: m}
	options := []option.RequestOption{option.WithBaseURL(m.BaseURL), option.WithAPIKey(m.Key), option.WithMaxRetries(m.MaxRetries),
		option.WithHTTPClient(&http.Client{Transport: transport}), option.WithMiddleware(e.attempt)}
	if m.MaxDelay > 0 {
		options = append(options, option.WithMaxRetryDelay(m.MaxDelay))
	}
	e.chat = openai.NewChatCompletionService(options...)
	for _, t := range toolenv.Tools() {
		e.tools = append(e.tools, param.Override[openai.ChatCompletionToolUnionParam](t))
	}
	return e
}

// call follows the requests of one completion.
type call struct {
	requests int
	failure  *Failure // of the last one
}

// callKey is where a context holds its call.
type callKey struct{}

// complete asks for the next message. Its error is a *Failure, or that of ctx.
func (e *endpoint) complete(ctx context.Context, messages []json.RawMessage, usage *Usage) (*openai.ChatCompletion, error) {
	s := &e.model.Sampling
	p := openai.ChatCompletionNewParams{Model: e.model.Name, Tools: e.tools}
	for _, m := range messages {
		p.Messages = append(p.Messages, param.Override[openai.ChatCompletionMessageParamUnion](m))
	}
	set(&p.Temperature, s.Temperature)
	set(&p.TopP, s.TopP)
	set(&p.MaxCompletionTokens, s.MaxTokens)
	p.ReasoningEffort = openai.ReasoningEffort(s.ReasoningEffort)
	p.SetExtraFields(s.extra())
	var c call
	reply, err := e.chat.New(context.WithValue(ctx, callKey{}, &c), p)
	usage.Requests += c.requests
	usage.Retries += max(0, c.requests-1)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case c.failure != nil:
		return nil, e.told(&c)
	case err != nil:
		return nil, &Failure{Kind: Malformed, Message: err.Error()}
	}
	usage.add(reply)
	return reply, nil
}

// told is the failure of a call for people: never with the key, which some servers repeat.
func (e *endpoint) told(c *call) *Failure {
	if len(e.model.Key) >= 8 {
		c.failure.Message = strings.ReplaceAll(c.failure.Message, e.model.Key, "[key]")
	}
	if c.requests > 1 {
		c.failure.Message += fmt.Sprintf(" (the last of %d requests)", c.requests)
	}
	return c.failure
}

// extra are the other fields of a request.
func (s *Sampling) extra() map[string]any {
	out := map[string]any{}
	for name, value := range s.Extra {
		out[name] = value
	}
	return out
}

// set gives a field of a request its value, if there is one.
func set[T comparable](field *param.Opt[T], value *T) {
	if value != nil {
		*field = param.NewOpt(*value)
	}
}

func (u *Usage) add(r *openai.ChatCompletion) {
	u.PromptTokens += r.Usage.PromptTokens
	u.CachedTokens += r.Usage.PromptTokensDetails.CachedTokens
	u.CompletionTokens += r.Usage.CompletionTokens
	u.ReasoningTokens += r.Usage.CompletionTokensDetails.ReasoningTokens
	if r.Choices[0].FinishReason == "length" {
		u.CutReplies++
	}
}

// maxReply bounds a reply's body.
const maxReply = 64 << 20

// attempt does one request of a call whole, within its time. The client retries what has an error here, and what has a status that may pass: by
// itself it would neither retry a request that took too long nor look at a body before it is too late to retry.
func (e *endpoint) attempt(r *http.Request, next option.MiddlewareNext) (*http.Response, error) {
	c := r.Context().Value(callKey{}).(*call)
	c.requests++
	ctx, cancel := context.WithTimeout(r.Context(), e.model.Timeout)
	defer cancel()
	body := []byte(nil)
	res, err := next(r.WithContext(ctx))
	if err == nil {
		body, err = io.ReadAll(io.LimitReader(res.Body, maxReply))
		res.Body.Close()
		res.Body = io.NopCloser(bytes.NewReader(body))
	}
	switch {
	case err != nil && ctx.Err() != nil:
		c.failure = &Failure{Kind: TimedOut, Message: fmt.Sprintf("no reply within %s", e.model.Timeout)}
	case err != nil:
		c.failure = &Failure{Kind: Disconnected, Message: err.Error()}
	case res.StatusCode >= 400:
		c.failure = refusal(res.StatusCode, body)
		return res, nil
	default:
		if c.failure = checkCompletion(body); c.failure == nil {
			res.Header.Set("Content-Type", "application/json") // whatever it was called
			return res, nil
		}
	}
	return nil, c.failure
}
