package scripted

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// words are calls in short.
func words(calls []Call) string {
	var out []string
	for _, c := range calls {
		out = append(out, strings.NewReplacer(`{"seq_id": `, "", "}", "", "{", "").Replace(c.Tool+" "+c.Arguments))
	}
	return strings.Join(out, ", ")
}

func TestPolicies(t *testing.T) {
	for _, c := range []struct{ policy, usage, says string }{
		{"greedy", "0.97", "evict 4, compress 3, compress 3"},
		{"greedy", "1.4", "evict 4, compress 3, compress 3, compress 5, evict 7"},
		{"greedy", "0.79", ""},
		{"largest-first", "0.97", "evict 3"},
		{"largest-first", "1.05", "evict 3, evict 4"},
		{"compress-all", "0.1", "compress 3, compress 3, compress 4, compress 4, compress 5"},
		{"noop", "2", ""},
	} {
		decide, err := newDecider(c.policy)
		require.NoError(t, err)
		text := strings.Replace(sight, "0.97", c.usage, 1)
		reply := decide(&request{Messages: []message{{Role: "user", Content: content(text)}}, Tools: []any{1}})
		require.Equal(t, c.says, words(reply.Calls), "%s at %s", c.policy, c.usage)
		require.Equal(t, c.says == "", reply.Text != "")
	}
	_, err := newDecider("best")
	require.EqualError(t, err, `policy: "best": allowed noop, greedy, compress-all, largest-first, random, script:FILE`)
}

// random depends on the observation and on nothing else, and calls every tool.
func TestRandom(t *testing.T) {
	o, ok := findObservation(sight)
	require.True(t, ok)
	first := random(o)
	require.Equal(t, first, random(o))
	seen := map[string]int{}
	for i := range 100 {
		o, ok = findObservation(strings.Replace(sight, "0.97", fmt.Sprint(i), 1))
		require.True(t, ok)
		for _, c := range random(o) {
			require.True(t, json.Valid([]byte(c.Arguments)))
			seen[c.Tool]++
		}
	}
	for _, tool := range []string{"keep", "evict", "compress", "swap_to_cpu"} {
		require.Greater(t, seen[tool], 50, tool)
	}
}

func TestFindObservation(t *testing.T) {
	newer := strings.Replace(sight, "0.97", "0.5", 1)
	for _, c := range []struct {
		messages string
		usage    float64 // 0: none is found
	}{
		{`[{"role":"user","content":SIGHT}]`, 0.97},
		{`[{"role":"user","content":"an {object}, {\"a\":{\"b\":1}} and { none"}]`, 0},
		{`[{"role":"user","content":[{"type":"text","text":"see {this}: "},{"type":"text","text":SIGHT}]}]`, 0.97},
		{`[{"role":"user","content":SIGHT},{"role":"assistant","content":null},{"role":"user","content":NEWER}]`, 0.5},
		{`[{"role":"user","content":SIGHT},{"role":"tool","content":NEWER}]`, 0.97},
		{`[{"role":"user","content":SIGHT},{"role":"user","content":"no more"}]`, 0},
		{`[{"role":"system","content":SIGHT}]`, 0},
	} {
		quoted, _ := json.Marshal("It is " + sight + ". Go on {please}.")
		later, _ := json.Marshal(sight + "\n" + newer)
		text := strings.NewReplacer("SIGHT", string(quoted), "NEWER", string(later)).Replace(c.messages)
		var messages []message
		require.NoError(t, json.Unmarshal([]byte(text), &messages))
		o, ok := lastObservation(messages)
		require.Equal(t, c.usage != 0, ok, c.messages)
		if ok {
			require.Equal(t, c.usage, *o.Usage, c.messages)
			require.True(t, json.Valid([]byte(o.text)))
		}
	}
}

func TestScript(t *testing.T) {
	path := filepath.Join(t.TempDir(), "turns.json")
	write := func(text string) { require.NoError(t, os.WriteFile(path, []byte(text), 0o600)) }
	write(`[[["evict", {"seq_id": 3}], ["keep", {}]], "just text", [["compress", "{not json"], ["nope", [1, 2]]], []]`)
	decide, err := newDecider("script:" + path)
	require.NoError(t, err)
	r := &request{Tools: []any{1}, Messages: []message{{Role: "user"}}}
	for _, want := range []Reply{{Calls: []Call{{"evict", `{"seq_id":3}`}, {"keep", "{}"}}}, {Text: "just text"},
		{Calls: []Call{{"compress", "{not json"}, {"nope", "[1,2]"}}}, {}, {Text: "The script has ended."}, {Text: "The script has ended."}} {
		got := decide(r)
		require.Equal(t, want, got)
		got.spoil()
		require.Equal(t, want, decide(r), "what is done to a reply stays with it")
		r.Messages = append(r.Messages, message{Role: "assistant"}, message{Role: "user"})
	}
	for text, says := range map[string]string{`{}`: "allowed a JSON list of turns", `[7]`: "turn 0: ", `["a", [["evict"]]]`: "turn 1: a call of 1 values: allowed a text, or a list",
		`[[[1, {}]]]`: "turn 0: "} {
		write(text)
		_, err := newDecider("script:" + path)
		require.ErrorContains(t, err, says)
		require.ErrorContains(t, err, path)
	}
	_, err = newDecider("script:" + path + ".absent")
	require.ErrorContains(t, err, "no such file")
}

func TestWhen(t *testing.T) {
	for _, word := range []string{"x", "0", "-1", "101%", "-1%", "NaN%", "%", "3,,4", "1.5"} {
		_, err := ParseWhen(word)
		require.ErrorContains(t, err, "allowed a share such as 10%, or numbers of requests such as 3,7", word)
	}
	var f Faults
	count := func(fault Fault, word string) (n int) {
		var err error
		f.When[fault], err = ParseWhen(word)
		require.NoError(t, err)
		for k := range uint64(10_000) {
			if f.hits(fault, k+1) {
				n++
			}
		}
		return n
	}
	require.Zero(t, count(Slow, ""))
	require.Zero(t, count(Slow, "0%"))
	require.Equal(t, 10_000, count(Slow, "100%"))
	require.Equal(t, 2, count(Slow, "3, 7"))
	require.InDelta(t, 1000, count(Slow, "10%"), 100)
	f.Seed = 1
	both := 0
	require.InDelta(t, 1000, count(Limited, "10%"), 100)
	for k := range uint64(10_000) {
		if f.hits(Slow, k+1) && f.hits(Limited, k+1) {
			both++
		}
	}
	require.InDelta(t, 100, both, 40, "faults are drawn apart")
}
