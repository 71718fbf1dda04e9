package scripted

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/stretchr/testify/require"
)

// sight is an observation with everything that the policies read.
const sight = `{"memory_usage":0.97,"top_memory_entries":[{"id":3,"cost":0.2,"quant":"fp16"},{"id":4,"cost":0.1,"quant":"fp16"},{"id":5,"cost":0.05,"quant":"int8"}],` +
	`"top_eviction_candidates":[{"id":4,"type":"reasoning","tokens_left":0,"frees":0.06},{"id":7,"type":"ephemeral","tokens_left":9,"frees":0.02}],` +
	`"pending_summary":{"needs":0},"visible_seq_ids":[4,7,3,5]}`

// start makes a server and a client of it that does not retry.
func start(t *testing.T, cfg Config) (*Server, openai.Client) {
	s, err := New(cfg)
	require.NoError(t, err)
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	return s, openai.NewClient(option.WithBaseURL(h.URL+"/v1"), option.WithAPIKey("k"), option.WithMaxRetries(0))
}

func ask(text string) openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{Model: "any", Messages: []openai.ChatCompletionMessageParamUnion{openai.SystemMessage("You decide."), openai.UserMessage(text)},
		Tools: []openai.ChatCompletionToolUnionParam{openai.ChatCompletionFunctionTool(openai.FunctionDefinitionParam{Name: "evict"})}}
}

// A reply is the same in one piece and as a stream, with text and with calls.
func TestCompletions(t *testing.T) {
	ctx := t.Context()
	for policy, calls := range map[string]int{"noop": 0, "greedy": 3, "compress-all": 5, "largest-first": 1, "random": 4} {
		_, client := start(t, Config{Policy: policy})
		plain, err := client.Chat.Completions.New(ctx, ask("Now: "+sight))
		require.NoError(t, err, policy)
		m := plain.Choices[0].Message
		require.Len(t, m.ToolCalls, calls, policy)
		require.Equal(t, calls == 0, m.Content != "", policy)
		require.Positive(t, plain.Usage.PromptTokens)
		require.Equal(t, plain.Usage.TotalTokens, plain.Usage.PromptTokens+plain.Usage.CompletionTokens)

		params := ask("Now: " + sight)
		params.StreamOptions.IncludeUsage = openai.Bool(true)
		stream := client.Chat.Completions.NewStreaming(ctx, params)
		var all openai.ChatCompletionAccumulator
		for stream.Next() {
			require.True(t, all.AddChunk(stream.Current()))
		}
		require.NoError(t, stream.Err())
		got := all.Choices[0]
		require.Equal(t, plain.Choices[0].FinishReason, got.FinishReason, policy)
		require.Equal(t, m.Content, got.Message.Content, policy)
		require.Len(t, got.Message.ToolCalls, calls, policy)
		for i, c := range m.ToolCalls {
			require.Equal(t, []string{c.ID, c.Function.Name, c.Function.Arguments},
				[]string{got.Message.ToolCalls[i].ID, got.Message.ToolCalls[i].Function.Name, got.Message.ToolCalls[i].Function.Arguments})
		}
		require.Equal(t, plain.Usage.CompletionTokens, all.Usage.CompletionTokens)
	}
}

func TestModels(t *testing.T) {
	_, client := start(t, Config{Policy: "noop"})
	page, err := client.Models.List(t.Context())
	require.NoError(t, err)
	require.Len(t, page.Data, 1)
	m, err := client.Models.Get(t.Context(), "owner/name")
	require.NoError(t, err)
	require.Equal(t, "owner/name", m.ID)
}

// A model without tools, or told to call none, writes text.
func TestWithoutTools(t *testing.T) {
	_, client := start(t, Config{Policy: "greedy"})
	params := ask(sight)
	params.ToolChoice.OfAuto = openai.String("none")
	r, err := client.Chat.Completions.New(t.Context(), params)
	require.NoError(t, err)
	require.Empty(t, r.Choices[0].Message.ToolCalls)
	params.Tools = nil
	r, err = client.Chat.Completions.New(t.Context(), params)
	require.NoError(t, err)
	require.Equal(t, "Memory is at 0.97 of the budget. I keep everything.", r.Choices[0].Message.Content)
}

func TestRefusals(t *testing.T) {
	s, err := New(Config{Policy: "noop", Key: "secret", Context: 100})
	require.NoError(t, err)
	for _, c := range []struct {
		method, path, key, body string
		status                  int
		code, says              string
	}{
		{"POST", "/v1/chat/completions", "", `{}`, 401, "invalid_api_key", "missing or wrong"},
		{"POST", "/v1/chat/completions", "other", `{}`, 401, "invalid_api_key", "missing or wrong"},
		{"GET", "/v1/chat/completions", "secret", ``, 404, "not_found", "GET /v1/chat/completions: allowed POST"},
		{"POST", "/v1/responses", "secret", `{}`, 404, "not_found", "POST /v1/responses: allowed POST"},
		{"POST", "/v1/chat/completions", "secret", `{`, 400, "invalid_request", "body: unexpected end of JSON input: allowed"},
		{"POST", "/chat/completions", "secret", `{"messages":[]}`, 400, "invalid_request", "messages: none: allowed one or more"},
		{"POST", "/chat/completions", "secret", `{"messages":[{"role":"user","content":7}]}`, 400, "invalid_request", "cannot unmarshal number"},
		{"POST", "/chat/completions", "secret", `{"messages":[{"role":"user","content":"` + strings.Repeat("x", 400) + `"}]}`, 400, "context_length_exceeded", "context length of 100 tokens"},
	} {
		r := httptest.NewRequest(c.method, c.path, strings.NewReader(c.body))
		r.Header.Set("Authorization", "Bearer "+c.key)
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		require.Equal(t, c.status, w.Code, c.path)
		var got struct {
			Error struct{ Message, Code string }
		}
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &got))
		require.Equal(t, c.code, got.Error.Code)
		require.Contains(t, got.Error.Message, c.says)
	}
}

// Every fault looks to a client as it should, in one piece and as a stream, and comes to the requests that it was asked for.
func TestFaults(t *testing.T) {
	for f := Limited; f < NumFaults; f++ {
		var cfg = Config{Policy: "greedy", Faults: Faults{RetryAfter: 1500 * time.Millisecond}}
		cfg.Faults.When[f] = When{numbers: []uint64{1, 2}}
		s, client := start(t, cfg)
		plain, err := client.Chat.Completions.New(t.Context(), ask(sight))
		stream := client.Chat.Completions.NewStreaming(t.Context(), ask(sight))
		var all openai.ChatCompletionAccumulator
		for stream.Next() {
			all.AddChunk(stream.Current())
		}
		var status *openai.Error
		switch f {
		case Limited, Broken:
			want := map[Fault]int{Limited: 429, Broken: 500}[f]
			require.ErrorAs(t, err, &status)
			require.Equal(t, want, status.StatusCode)
			require.Contains(t, status.Message, "scripted fault")
			if f == Limited {
				require.Equal(t, []string{"2", "1500"}, []string{status.Response.Header.Get("Retry-After"), status.Response.Header.Get("Retry-After-Ms")})
			}
			require.ErrorAs(t, stream.Err(), &status)
			require.Equal(t, want, status.StatusCode)
		case Dropped:
			require.ErrorIs(t, err, io.ErrUnexpectedEOF)
			require.ErrorIs(t, stream.Err(), io.ErrUnexpectedEOF)
		case Garbled:
			require.ErrorContains(t, err, "parsing response json")
			require.Error(t, stream.Err())
		case Arguments:
			require.NoError(t, err)
			require.NoError(t, stream.Err())
			for _, calls := range [][]openai.ChatCompletionMessageToolCallUnion{plain.Choices[0].Message.ToolCalls, all.Choices[0].Message.ToolCalls} {
				require.Len(t, calls, 3)
				require.False(t, json.Valid([]byte(calls[0].Function.Arguments)))
			}
		}
		_, err = client.Chat.Completions.New(t.Context(), ask(sight))
		require.NoError(t, err, "request 3 has no fault")
		require.Equal(t, Stats{Requests: 3, Faults: map[string]uint64{f.String(): 2}}, s.Stats())
	}
}

// A server that ends does not wait for slow replies.
func TestServeEnds(t *testing.T) {
	cfg := Config{Policy: "noop", Faults: Faults{Delay: time.Hour}}
	cfg.Faults.When[Slow] = When{share: 1}
	s, err := New(cfg)
	require.NoError(t, err)
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	began := time.Now()
	asked := make(chan error, 1)
	err = s.Serve(ctx, "127.0.0.1:0", func(i Info) {
		go func() {
			r, err := http.Post(i.BaseURL+"/chat/completions", "application/json", strings.NewReader(`{"messages":[{"role":"user","content":"x"}]}`))
			if err == nil {
				_, err = io.ReadAll(r.Body)
				r.Body.Close()
			}
			asked <- err
		}()
		go func() {
			for s.Stats().Faults["slow"] == 0 {
				time.Sleep(time.Millisecond)
			}
			cancel(why)
		}()
	})
	require.ErrorIs(t, err, why)
	<-asked
	require.Less(t, time.Since(began), 10*time.Second)
	require.Equal(t, "1 requests, fault slow: 1", s.Stats().String())
	require.Error(t, s.Serve(t.Context(), "127.0.0.1:99999", nil))
}
