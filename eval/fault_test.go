package eval_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/kvgym/kvgym/eval"
	"github.com/kvgym/kvgym/toolenv/scripted"
	"github.com/stretchr/testify/require"
)

func when(t testing.TB, word string) scripted.When {
	w, err := scripted.ParseWhen(word)
	require.NoError(t, err)
	return w
}

// Every fault that may pass is retried until it has: no episode is lost, none is scored differently, and every request is accounted for.
func TestFaultsAreRetried(t *testing.T) {
	_, calm := serve(t, scripted.Config{Policy: "greedy"})
	want := config(t, calm)
	run(t, want)
	faults := scripted.Faults{RetryAfter: 5 * time.Millisecond}
	for _, f := range []scripted.Fault{scripted.Limited, scripted.Broken, scripted.Dropped, scripted.Garbled} {
		faults.When[f] = when(t, "6%")
	}
	s, m := serve(t, scripted.Config{Policy: "greedy", Faults: faults})
	cfg := config(t, m)
	cfg.Concurrent = 4
	sum := run(t, cfg)
	require.Equal(t, []int{6, 0}, []int{sum.Episodes, sum.Failed})
	requests, retries := 0, 0
	calmly := rows(t, want.Out)
	for i, r := range rows(t, cfg.Out) {
		require.Equal(t, *calmly[i].Score, *r.Score)
		require.Equal(t, calmly[i].Messages, r.Messages)
		requests += r.Requests
		retries += r.Retries
	}
	stats := s.Stats()
	total := uint64(0)
	for _, n := range stats.Faults {
		total += n
	}
	require.Len(t, stats.Faults, 4, "every fault has come")
	require.EqualValues(t, stats.Requests, requests)
	require.EqualValues(t, total, retries)
}

// Faults that do not pass fail an episode with their kind, after as many requests as are allowed. All episodes are in the results.
func TestFaultsAreReported(t *testing.T) {
	for f, want := range map[scripted.Fault]eval.Kind{scripted.Limited: eval.RateLimited, scripted.Broken: eval.ServerError, scripted.Dropped: eval.Disconnected,
		scripted.Garbled: eval.Malformed, scripted.Slow: eval.TimedOut} {
		faults := scripted.Faults{Delay: time.Minute, RetryAfter: time.Millisecond}
		faults.When[f] = when(t, map[bool]string{false: "4%", true: "20,40"}[f == scripted.Slow])
		s, m := serve(t, scripted.Config{Policy: "greedy", Faults: faults})
		m.MaxRetries = 0
		if f == scripted.Slow {
			m.Timeout = 3 * time.Second
		}
		cfg := config(t, m)
		cfg.Examples, cfg.Concurrent = 16, 16
		sum := run(t, cfg)
		played := rows(t, cfg.Out)
		require.Len(t, played, 16)
		require.Equal(t, int(s.Stats().Faults[f.String()]), sum.Failed, f)
		require.Positive(t, sum.Failed, f)
		require.Less(t, sum.Failed, 16, f)
		failed := 0
		for _, r := range played {
			if r.Score != nil {
				require.Nil(t, r.Failure)
				continue
			}
			failed++
			require.Equal(t, want, r.Failure.Kind, r.Failure.Message)
			require.Empty(t, r.Components)
			require.Equal(t, r.Turns+1, r.Requests, "the turns before are kept")
			require.Len(t, r.Memory, r.Turns+1)
		}
		require.Equal(t, sum.Failed, failed)
		require.Equal(t, []eval.FailureCount{{Kind: want, Episodes: failed, First: sum.Failures[0].First}}, sum.Failures)
	}
}

// Refusals for good are not tried again, and are told in the endpoint's words: without the key, whatever the endpoint says.
func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		status   int
		body     string
		kind     eval.Kind
		says     string
		requests int
	}{
		{401, `{"error":{"message":"Incorrect key secret-key-1","code":"invalid_api_key"}}`, eval.Refused, "401 Unauthorized: Incorrect key [key] [invalid_api_key]", 1},
		{404, `{"detail":"Not Found"}`, eval.Refused, `404 Not Found: "Not Found"`, 1},
		{400, `{"object":"error","message":"This model's maximum context length is 4096 tokens. However, you requested 5000"}`, eval.ContextLength, "400 Bad Request: This model's maximum", 1},
		{400, `{"error":{"message":"no","code":"context_length_exceeded"}}`, eval.ContextLength, "400 Bad Request: no [context_length_exceeded]", 1},
		{400, `{"error":{"message":"bad tool","code":null}}`, eval.Refused, "400 Bad Request: bad tool", 1},
		{413, "", eval.Refused, "413 Request Entity Too Large", 1},
		{503, "<html>\nbusy</html>", eval.ServerError, "503 Service Unavailable: <html> busy</html> (the last of 3 requests)", 3},
		{200, `{"error":{"message":"upstream","code":502}}`, eval.Malformed, "reply without a message: 200 OK: upstream [502] (the last of 3 requests)", 3},
		{200, `{"choices":[]}`, eval.Malformed, `reply without a message: 200 OK: {"choices":[]} (the last of 3 requests)`, 3},
		{200, `<html>`, eval.Malformed, `reply: invalid character '<' looking for beginning of value: "<html>" (the last of 3 requests)`, 3},
	} {
		got := 0
		h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			got++
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(c.status)
			fmt.Fprint(w, c.body)
		}))
		m := model(h)
		m.Key, m.MaxRetries, m.MaxDelay = "secret-key-1", 2, time.Millisecond
		cfg := config(t, m)
		cfg.Examples = 1
		sum := run(t, cfg)
		h.Close()
		require.Equal(t, 1, sum.Failed)
		r := rows(t, cfg.Out)[0]
		require.Equal(t, c.kind, r.Failure.Kind, c.body)
		require.Contains(t, r.Failure.Message, c.says)
		require.Equal(t, []int{c.requests, c.requests}, []int{got, r.Requests}, c.body)
		if c.status != 200 {
			require.Equal(t, c.status, r.Failure.Status)
		}
	}
}

// A conversation that outgrows the model fails by that name.
func TestContextLength(t *testing.T) {
	_, m := serve(t, scripted.Config{Policy: "greedy", Context: 4000})
	cfg := config(t, m)
	cfg.Examples = 1
	sum := run(t, cfg)
	require.Equal(t, eval.ContextLength, sum.Failures[0].Kind)
	r := rows(t, cfg.Out)[0]
	require.Greater(t, r.Turns, 1)
	require.Less(t, r.Turns, 15)
}

// The endpoint's wait is kept to, and one that is longer than allowed ends the retries.
func TestRetryAfter(t *testing.T) {
	faults := scripted.Faults{RetryAfter: 300 * time.Millisecond}
	faults.When[scripted.Limited] = when(t, "2")
	_, m := serve(t, scripted.Config{Policy: "noop", Faults: faults})
	m.MaxDelay = 0
	cfg := config(t, m)
	cfg.Examples = 1
	began := time.Now()
	require.Zero(t, run(t, cfg).Failed)
	require.GreaterOrEqual(t, time.Since(began), 300*time.Millisecond)

	faults.RetryAfter = time.Hour
	_, m = serve(t, scripted.Config{Policy: "noop", Faults: faults})
	cfg = config(t, m)
	cfg.Examples = 1
	require.Equal(t, eval.RateLimited, run(t, cfg).Failures[0].Kind)
}

// Nobody listens: every episode says so.
func TestNoServer(t *testing.T) {
	h := httptest.NewServer(http.NotFoundHandler())
	h.Close()
	m := model(h)
	m.MaxRetries, m.MaxDelay = 1, time.Millisecond
	cfg := config(t, m, "noop")
	sum := run(t, cfg)
	require.Equal(t, []int{12, 6}, []int{sum.Episodes, sum.Failed})
	require.Equal(t, eval.Disconnected, sum.Failures[0].Kind)
	require.Contains(t, sum.Failures[0].First, "connection refused (the last of 2 requests)")
}

// An interrupt keeps what is finished, and ends while a reply is waited for.
func TestInterrupt(t *testing.T) {
	faults := scripted.Faults{Delay: time.Hour}
	faults.When[scripted.Slow] = when(t, "40")
	_, m := serve(t, scripted.Config{Policy: "noop", Faults: faults})
	m.Timeout = time.Hour
	cfg := config(t, m)
	cfg.Concurrent = 1
	ctx, cancel := context.WithCancel(t.Context())
	began := time.Now()
	_, err := eval.Run(ctx, cfg, func(p eval.Progress) {
		if p.Done == 2 {
			time.AfterFunc(100*time.Millisecond, cancel)
		}
	})
	require.ErrorIs(t, err, context.Canceled)
	require.Less(t, time.Since(began), 10*time.Second)
	kept := rows(t, cfg.Out)
	require.Len(t, kept, 2)

	_, cfg.Model = serve(t, scripted.Config{Policy: "noop"})
	cfg.Resume = true
	sum := run(t, cfg)
	require.Equal(t, []int{6, 2, 0}, []int{sum.Episodes, sum.Kept, sum.Failed})
	require.Equal(t, kept, rows(t, cfg.Out)[:2])
}
