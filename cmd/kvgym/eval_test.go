package main

import (
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kvgym/kvgym/eval"
	"github.com/kvgym/kvgym/toolenv/scripted"
	"github.com/stretchr/testify/require"
)

// scriptedModel starts a scripted model and returns its base URL.
func scriptedModel(t *testing.T, cfg scripted.Config) string {
	s, err := scripted.New(cfg)
	require.NoError(t, err)
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	return h.URL + "/v1"
}

// evaluated runs eval with --json and returns what it prints.
func evaluated(t *testing.T, args ...string) (sum map[string]any, groups []map[string]any) {
	text := done(t, append([]string{"eval", "--json"}, args...)...)
	require.NoError(t, json.Unmarshal([]byte(text), &sum))
	for _, g := range sum["groups"].([]any) {
		groups = append(groups, g.(map[string]any))
	}
	return sum, groups
}

func TestEvalWrongUse(t *testing.T) {
	t.Setenv("OPENAI_API_KEY", "")
	t.Setenv("ABSENT", "")
	policy := []string{"--policy", "noop", "--out", t.TempDir()}
	model := []string{"-m", "x", "-b", "http://127.0.0.1:1/v1", "--out", t.TempDir()}
	for _, c := range []struct {
		says string
		args []string
	}{
		{"--model: none given: allowed a model, or --policy, or both", nil},
		{`--policy: "best": allowed noop, random`, []string{"--policy", "best"}},
		{"--policy: noop: allowed each name once", []string{"--policy", "noop,noop"}},
		{"--num-examples: 0: allowed 1 to 1048576", append(policy, "-n", "0")},
		{"--rollouts: 65537: allowed 1 to 65536", append(policy, "-r", "65537")},
		{"--max-concurrent: 0: allowed 1 to 4096", append(policy, "--max-concurrent", "0")},
		{"--max-retries: -1: allowed 0 to 100", append(policy, "--max-retries", "-1")},
		{"--timeout: 0s: allowed more than 0", append(policy, "--timeout", "0s")},
		{`--transcripts: "first": allowed all, none, best, worst (best and worst of each player), failed, numbers`, append(policy, "--transcripts", "first")},
		{"--resume: no --out: allowed together with --out DIR", []string{"--policy", "noop", "--resume"}},
		{`--env-args: "hard": allowed a JSON object such as {"difficulty": "hard"}`, append(policy, "--env-args", "hard")},
		{`--env-args: "null": allowed a JSON object`, append(policy, "--env-args", "null")},
		{`--env-args: "dificulty": allowed difficulty, max_wait, num_examples, preset, profile, seed, slots, steps, trace`, append(policy, "--env-args", `{"dificulty":"hard"}`)},
		{`--env-args: "trace.paht": allowed trace.decode_rate, trace.format, `, append(policy, "--env-args", `{"trace":{"paht":"x"}}`)},
		{`--env-args: seed: "x": allowed a whole number from 0`, append(policy, "--env-args", `{"seed":"x"}`)},
		{`--env-args: num_examples: 0: allowed -1, or 1 or more`, append(policy, "--env-args", `{"num_examples":0}`)},
		{`--env-args: "seed": allowed without --seed, which says the same`, append(policy, "--seed", "3", "--env-args", `{"seed":3}`)},
		{"--difficulty: brutal: allowed easy, medium, hard, all", append(policy, "--env-args", `{"difficulty":"brutal"}`)},
		{"--slots: 65: allowed a multiple of 16", append(policy, "--slots", "65")},
		{`--base-url: "127.0.0.1": allowed an http or https URL`, []string{"-m", "x", "-b", "127.0.0.1"}},
		{`--key-var: "OPENAI_API_KEY", which is not set: allowed the name of a variable that holds the key of https://api.openai.com/v1`, []string{"-m", "x"}},
		{`--key-var: "ABSENT", which is not set: allowed the name of a variable that holds the key of http://example.com`, []string{"-m", "x", "-b", "http://example.com", "-k", "ABSENT"}},
		{`--key-var: none given: allowed the name of a variable that holds the key of http://example.com`, []string{"-m", "x", "-b", "http://example.com"}},
		{"--policy: noop: allowed names that are not the model's", []string{"-m", "noop", "--policy", "noop"}},
		{"--temperature: -1: allowed 0 or more", append(model, "--temperature", "-1")},
		{"--top-p: 0: allowed above 0 to 1", append(model, "--top-p", "0")},
		{"--max-tokens: 0: allowed 1 or more", append(model, "--max-tokens", "0")},
		{`--sampling-args: "[]": allowed a JSON object`, append(model, "--sampling-args", "[]")},
		{"--sampling-args: stream: allowed all fields of a request but model, messages, tools, stream", append(model, "--sampling-args", `{"stream":true}`)},
	} {
		refused(t, exitUsage, "kvgym eval: "+c.says, append([]string{"eval"}, c.args...)...)
	}
	refused(t, exitFailed, "kvgym eval: --trace: absent: no such file", append([]string{"eval", "--env-args", `{"trace":"absent"}`}, policy...)...)
}

// The contract's keys, for a model and policies; what is written beside them; and a folder is used once, or resumed.
func TestEval(t *testing.T) {
	url := scriptedModel(t, scripted.Config{Policy: "greedy"})
	out := filepath.Join(t.TempDir(), "out")
	args := []string{"-m", "some/model", "-b", url, "-n", "3", "-r", "2", "--policy", "noop, greedy", "--difficulty", "hard", "--out", out, "--transcripts", "best,1"}
	sum, groups := evaluated(t, args...)
	require.Equal(t, []any{18.0, 0.0, out, filepath.Join(out, "transcript.html")}, []any{sum["episodes"], sum["failed"], sum["out"], sum["transcript"]})
	require.Len(t, groups, 3)
	for i, name := range []string{"some/model", "noop", "greedy"} {
		g := groups[i]
		require.Equal(t, []any{name, "hard", 6.0, 0.0}, []any{g["policy"], g["difficulty"], g["episodes"], g["failed"]})
		for _, k := range []string{"reward_mean", "failures_mean", "tokens_mean", "latency_mean", "pressure_steps_mean", "prompt_tokens_mean"} {
			require.Contains(t, g, k)
		}
		require.Len(t, g["components"], 7)
		require.Len(t, g["calls_mean"], 4)
		require.Len(t, g["reward_ci95"], 2)
	}
	require.Greater(t, groups[0]["reward_mean"], groups[1]["reward_mean"])
	for _, name := range []string{"results.jsonl", "results.parquet", "manifest.json", "transcript.html"} {
		require.FileExists(t, filepath.Join(out, name))
	}
	refused(t, exitUsage, "holds results already: allowed another folder, or resuming that one: --resume", append([]string{"eval"}, args...)...)
	again, _ := evaluated(t, append(args, "--resume")...)
	require.Equal(t, 18.0, again["episodes_kept"])
	require.Equal(t, sum["groups"], again["groups"])
	refused(t, exitUsage, "seed is 42 there and 43 here", append([]string{"eval", "--resume", "--seed", "43"}, args...)...)
}

func TestEvalTable(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	text := done(t, "eval", "--policy", "tiered", "-n", "2", "--profile", "serving", "--out", out)
	for _, says := range []string{"│ POLICY │ DIFFICULTY │ EPISODES │ FAILED │  SCORE │", "GOODPUT", "FIRST", "│ EVICT │ COMPRESS │ SWAP_TO_CPU │ KEEP │ REFUSED CALLS │", "2 episodes in ", "in " + out} {
		require.Contains(t, text, says)
	}
	require.Empty(t, done(t, "eval", "--policy", "noop", "-n", "1", "--out", filepath.Join(t.TempDir(), "out"), "--quiet", "--transcripts", "none"))
}

// Failed episodes are in everything that is printed, and make the exit status 1.
func TestEvalFails(t *testing.T) {
	faults := scripted.Faults{}
	var err error
	faults.When[scripted.Broken], err = scripted.ParseWhen("5")
	require.NoError(t, err)
	url := scriptedModel(t, scripted.Config{Policy: "noop", Faults: faults})
	out := filepath.Join(t.TempDir(), "out")
	args := []string{"eval", "-m", "m", "-b", url, "-n", "3", "--max-retries", "0", "--max-concurrent", "1", "--out", out}
	status, stdout, stderr := kvgym("", append(args, "--json")...)
	require.Equal(t, exitFailed, status)
	require.Equal(t, "kvgym eval: 1 of 3 episodes failed: 500 Internal Server Error: request 5: internal error (a scripted fault) [internal_error]: see "+
		filepath.Join(out, "results.jsonl")+"\n", stderr)
	var sum eval.Summary
	require.NoError(t, json.Unmarshal([]byte(stdout), &sum))
	require.Equal(t, []int{3, 1}, []int{sum.Episodes, sum.Failed})

	require.Contains(t, done(t, append(args, "--resume")...), "3 episodes (2 kept from an earlier run)")
}

// --env-args means the flags of the same names.
func TestEvalEnvArgs(t *testing.T) {
	trace := filepath.Join(t.TempDir(), "traffic.jsonl")
	done(t, "trace", "synth", "--requests", "400", "--out", trace, "--quiet")
	quoted, err := json.Marshal(trace)
	require.NoError(t, err)
	for _, c := range []struct{ args, flags string }{
		{`{"difficulty":"easy","seed":7,"steps":5,"slots":32,"max_wait":3,"preset":null}`, "--difficulty easy --seed 7 --steps 5 --slots 32 --max-wait 3"},
		{`{"profile":"serving","preset":"dynamo-mocker","num_examples":2}`, "--profile serving --preset dynamo-mocker -n 2"},
		{`{"trace":` + string(quoted) + `,"num_examples":-1}`, "--trace " + trace},
		{`{"trace":{"path":` + string(quoted) + `,"step_ms":500,"skip_bad_lines":true}}`, "--trace-step-ms 500 --skip-bad-lines --trace " + trace},
	} {
		_, want := evaluated(t, append(strings.Fields(c.flags), "--policy", "lru", "--out", filepath.Join(t.TempDir(), "out"))...)
		_, got := evaluated(t, "--env-args", c.args, "--policy", "lru", "--out", filepath.Join(t.TempDir(), "out"))
		for i := range want {
			delete(want[i], "seconds_mean")
			delete(got[i], "seconds_mean")
		}
		require.Equal(t, want, got, c.args)
	}
}

// A key goes where it was named for, and into no file.
func TestEvalKey(t *testing.T) {
	url := scriptedModel(t, scripted.Config{Policy: "noop", Key: "sesame-sesame"})
	t.Setenv("OPENAI_API_KEY", "sesame-sesame")
	t.Setenv("MY_KEY", "sesame-sesame")
	out := filepath.Join(t.TempDir(), "out")
	args := []string{"eval", "-m", "m", "-b", url, "-n", "1", "--out", out}
	status, _, errs := kvgym("", args...)
	require.Equal(t, exitFailed, status, "OPENAI_API_KEY is not for this URL")
	require.Contains(t, errs, "401 Unauthorized: key: missing or wrong")
	require.NotEmpty(t, done(t, append(args, "--resume", "-k", "MY_KEY")...))
	files, err := os.ReadDir(out)
	require.NoError(t, err)
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(out, f.Name()))
		require.NoError(t, err)
		require.NotContains(t, string(text), "sesame", f.Name())
	}
}
