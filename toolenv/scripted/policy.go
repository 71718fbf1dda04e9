package scripted

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"strings"

	"github.com/kvgym/kvgym/internal/rng"
)

// decider is how a server replies.
type decider func(r *request) Reply

// observed turns a compact observation into tool calls.
type observed func(o *observation) []Call

var policies = []struct {
	name, about string
	calls       observed
}{
	{"noop", "answers with text and calls nothing", func(*observation) []Call { return nil }},
	{"greedy", "evicts dead blocks, then compresses the largest, by pressure", greedy},
	{"compress-all", "compresses everything that it sees to int4", compressAll},
	{"largest-first", "evicts the largest until memory is below 80 % of the budget", largestFirst},
	{"random", "one of the four tools for every sequence that it sees, drawn from the observation", random},
}

// scriptPrefix begins the name of a policy that is a script.
const scriptPrefix = "script:"

// ScriptAbout describes scripts beside the policies.
const ScriptAbout = "turns from a JSON file: a list of turns, each a text or a list of [tool, arguments]"

// Policies lists the policies with a line about each.
func Policies() (names, abouts []string) {
	for _, p := range policies {
		names, abouts = append(names, p.name), append(abouts, p.about)
	}
	return names, abouts
}

func newDecider(name string) (decider, error) {
	if path, ok := strings.CutPrefix(name, scriptPrefix); ok {
		return readScript(path)
	}
	var allowed []string
	for _, p := range policies {
		if p.name == name {
			return func(r *request) Reply { return play(r, p.calls) }, nil
		}
		allowed = append(allowed, p.name)
	}
	return nil, fmt.Errorf("policy: %.40q: allowed %s, %sFILE", name, strings.Join(allowed, ", "), scriptPrefix)
}

// play lets a policy see the observation. Text says why there are no calls.
func play(r *request, policy observed) Reply {
	o, ok := lastObservation(r.Messages)
	if !ok {
		return Reply{Text: "I see no observation in the last user message."}
	}
	calls := policy(o)
	if len(calls) == 0 || !r.mayCall() {
		return Reply{Text: fmt.Sprintf("Memory is at %v of the budget. I keep everything.", *o.Usage)}
	}
	return Reply{Calls: calls}
}

// turn is the number of replies so far.
func turn(messages []message) (n int) {
	for i := range messages {
		if messages[i].Role == "assistant" {
			n++
		}
	}
	return n
}

// observation is what the policies read of a compact observation (package toolenv). Memory is in shares of the budget.
type observation struct {
	Usage      *float64 `json:"memory_usage"`
	Largest    []entry  `json:"top_memory_entries"`
	Candidates []entry  `json:"top_eviction_candidates"`
	Pending    struct {
		Needs float64 `json:"needs"`
	} `json:"pending_summary"`
	Visible []int `json:"visible_seq_ids"`

	text string
}

// entry is a sequence in either list, which tell different things about it.
type entry struct {
	ID    int     `json:"id"`
	Type  string  `json:"type"`
	Cost  float64 `json:"cost"`
	Quant string  `json:"quant"`
	Frees float64 `json:"frees"`
	Left  int     `json:"tokens_left"`
	Risk  float64 `json:"risk"`
}

// lastObservation finds the newest observation in the last user message.
func lastObservation(messages []message) (*observation, bool) {
	for i := len(messages) - 1; i >= 0; i-- {
		if messages[i].Role == "user" {
			return findObservation(string(messages[i].Content))
		}
	}
	return nil, false
}

// findObservation finds the last JSON object in a text that is an observation.
func findObservation(text string) (found *observation, ok bool) {
	for at := strings.IndexByte(text, '{'); at >= 0; {
		rest := text[at:]
		var o observation
		d := json.NewDecoder(strings.NewReader(rest))
		used := 1
		if d.Decode(&o) == nil {
			used = int(d.InputOffset())
			if o.Usage != nil && o.Visible != nil {
				o.text = rest[:used]
				found = &o
			}
		}
		next := strings.IndexByte(rest[used:], '{')
		if next < 0 {
			break
		}
		at += used + next
	}
	return found, found != nil
}

func call(tool string, id int) Call { return Call{tool, fmt.Sprintf(`{"seq_id": %d}`, id)} }

// seed is a number that depends on the observation alone.
func (o *observation) seed() uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(o.text))
	return rng.Mix(h.Sum64())
}

// excess is the memory above what leaves headroom once the waiting requests have come in.
func (o *observation) excess() float64 { return *o.Usage - max(0.80-o.Pending.Needs, 0.50) }

// evict evicts those of a list that are chosen, until the excess is gone, and returns what is left of it.
func evict(calls []Call, list []entry, excess float64, frees func(*entry) float64) ([]Call, float64) {
	for i := range list {
		if f := frees(&list[i]); excess > 0 && f > 0 {
			calls = append(calls, call("evict", list[i].ID))
			excess -= f
		}
	}
	return calls, excess
}

func largestFirst(o *observation) []Call {
	calls, _ := evict(nil, o.Largest, o.excess(), func(x *entry) float64 { return x.Cost })
	return calls
}

// greedy is what the policy of that name does, with what it can see: dead blocks go, the largest are compressed, what may be evicted without
// risk goes.
func greedy(o *observation) []Call {
	dead := func(x *entry) bool { return x.Left == 0 && (x.Type == "reasoning" || x.Type == "ephemeral") }
	calls, excess := evict(nil, o.Candidates, o.excess(), func(x *entry) float64 {
		if !dead(x) {
			return 0
		}
		return x.Frees
	})
	gone := map[int]bool{}
	for i := range o.Candidates[:len(calls)] { // the dead ones lead the list
		gone[o.Candidates[i].ID] = true
	}
	for _, from := range []string{"fp16", "int8"} {
		for i := range o.Largest {
			if x := &o.Largest[i]; excess > 0 && !gone[x.ID] && x.Quant == from {
				calls = append(calls, call("compress", x.ID))
				x.Cost /= 2
				x.Quant = "int8"
				excess -= x.Cost
			}
		}
	}
	calls, _ = evict(calls, o.Candidates, excess, func(x *entry) float64 {
		if dead(x) || x.Risk > 0 {
			return 0
		}
		return x.Frees
	})
	return calls
}

// levels are how many times a sequence can be compressed.
var levels = map[string]int{"fp16": 2, "int8": 1}

func compressAll(o *observation) (calls []Call) {
	for _, x := range o.Largest {
		for range levels[x.Quant] {
			calls = append(calls, call("compress", x.ID))
		}
	}
	return calls
}

func random(o *observation) (calls []Call) {
	seed := o.seed()
	for i, id := range o.Visible {
		switch tool := []string{"keep", "evict", "compress", "swap_to_cpu"}[rng.Mix(seed+uint64(i)*rng.Golden)>>62]; tool {
		case "keep":
			calls = append(calls, Call{tool, "{}"})
		default:
			calls = append(calls, call(tool, id))
		}
	}
	return calls
}
