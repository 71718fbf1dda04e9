package report_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/kvgym/kvgym/eval"
	"github.com/kvgym/kvgym/report"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/vecenv"
	"github.com/stretchr/testify/require"
)

// sayings is a model that says what a page must not take for markup, and fails in its 40th reply.
func sayings(t *testing.T) *eval.Model {
	n := 0
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if n++; n == 40 {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"choices": []any{map[string]any{"message": map[string]any{"role": "assistant",
			"content": "</div><script>alert(1)</script>", "reasoning_content": "<b>hm</b>", "tool_calls": []any{
				map[string]any{"id": "a", "type": "function", "function": map[string]any{"name": "<i>", "arguments": `{"x":"</pre>"}`}},
				map[string]any{"id": "b", "type": "function", "function": map[string]any{"name": "keep", "arguments": "{}"}}}}}}})
	}))
	t.Cleanup(h.Close)
	return &eval.Model{Name: "talker <x>", BaseURL: h.URL, Key: "none"}
}

func evaluate(t *testing.T) (string, *eval.Summary) {
	source, err := scenario.NewSynthetic(64, 15, scenario.Hard)
	require.NoError(t, err)
	out := filepath.Join(t.TempDir(), "out")
	sum, err := eval.Run(context.Background(), eval.Config{Out: out, Env: vecenv.Config{Seed: 42, Source: source}, Difficulty: scenario.Hard, Model: sayings(t),
		Policies: []string{"greedy"}, Examples: 4, Concurrent: 1}, nil)
	require.NoError(t, err)
	return out, sum
}

// The page has what was chosen and everything of it, takes nothing for markup, and loads nothing.
func TestTranscript(t *testing.T) {
	out, sum := evaluate(t)
	page := func(words string) string {
		e, err := report.ParseEpisodes(words)
		require.NoError(t, err)
		path, err := report.WriteTranscript(out, sum, e)
		require.NoError(t, err)
		require.Equal(t, filepath.Join(out, "transcript.html"), path)
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		return string(text)
	}
	all := page("all")
	require.Equal(t, 8, strings.Count(all, "<section "))
	require.Equal(t, 8, strings.Count(all, "<svg "))
	require.Equal(t, 7*15+10, strings.Count(all, `<div class="turn">`), "the third episode ended in its tenth turn")
	for _, says := range []string{"refused: 418 I&#39;m a teapot", "&lt;/div&gt;&lt;script&gt;alert(1)&lt;/script&gt;", "&lt;b&gt;hm&lt;/b&gt;", "unknown tool &#34;&lt;i&gt;&#34;",
		"Step 15 of 15 done", "talker &lt;x&gt;"} {
		require.True(t, strings.Contains(all, says), says) // which would print all of it otherwise
	}
	require.Empty(t, regexp.MustCompile(`(?i)<script|<i>\(|<link|<img|@import|https?://|\ssrc=|url\(`).FindString(all))
	for what, n := range map[string]int{"best": 2, "worst": 2, "best,worst": 4, "failed": 1, "0": 2, "1,failed,3": 5} {
		require.Equal(t, n, strings.Count(page(what), "<section "), what)
	}
	e, err := report.ParseEpisodes("none")
	require.NoError(t, err)
	path, err := report.WriteTranscript(out, sum, e)
	require.NoError(t, err)
	require.Empty(t, path)
	for _, words := range []string{"", "first", "-1", "1,,2"} {
		_, err := report.ParseEpisodes(words)
		require.ErrorContains(t, err, "allowed all, none, best, worst", words)
	}
}

// Every table has a row a group; a mean of nothing is empty; failures are told with their words.
func TestEvalText(t *testing.T) {
	out, sum := evaluate(t)
	text := report.EvalText(sum)
	require.Equal(t, 3, strings.Count(text, "│ talker <x> │ hard "))
	require.Equal(t, 3, strings.Count(text, "│ greedy "))
	squeezed := strings.Join(strings.Fields(text), " ")
	require.Contains(t, squeezed, "│ talker <x> │ hard │ 3 │ 1 │")
	require.Contains(t, squeezed, "8 episodes in ")
	require.Contains(t, squeezed, "in "+out+" failed: 1 of refused: 418 I'm a teapot")
	for i := range sum.Groups {
		require.Equal(t, []int{4}, []int{sum.Groups[i].Episodes + sum.Groups[i].Failed})
	}

	one := *sum
	one.Groups = sum.Groups[:1]
	one.Groups[0].Episodes, one.Groups[0].RewardCI95 = 1, [2]eval.Mean{}
	one.Groups[0].RewardCI95[0] = eval.Mean(nan())
	require.NotContains(t, report.EvalText(&one), "NaN")
}

func nan() float64 { zero := 0.0; return zero / zero }
