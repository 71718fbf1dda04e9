package toolenv

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/reward"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/vecenv"
	"github.com/stretchr/testify/require"
)

// seen is the observation as a model reads it.
type seen struct {
	MemoryUsage   *float64 `json:"memory_usage"`
	MemoryBudget  *float64 `json:"memory_budget"`
	Remaining     *int     `json:"episode_remaining"`
	TimeAbove     *int     `json:"time_above_0_95"`
	Growth        *int     `json:"pending_queue_growth"`
	CacheOverview *struct {
		Live, Compressed, Swapped int
		Types                     map[string]int
		SharedPrefixes            float64  `json:"shared_prefixes"`
		CPU                       *cpuSeen `json:"cpu"`
	} `json:"cache_overview"`
	Largest []struct {
		ID                         int
		Type, Quant, Phase, Moving string
		Cost, Progress, Priority   float64
		Tokens                     uint32
		Prefix                     uint8
		SharedBy                   int    `json:"shared_by"`
		IdleSteps                  int    `json:"idle_steps"`
		RecomputeMS                uint32 `json:"recompute_ms"`
	} `json:"top_memory_entries"`
	Candidates []struct {
		ID                              int
		Type                            string
		Frees, Priority, Progress, Risk float64
		EvictionValue                   float64 `json:"eviction_value"`
		TokensLeft                      uint32  `json:"tokens_left"`
	} `json:"top_eviction_candidates"`
	Pending *struct {
		Waiting      int
		Needs        float64
		OldestWait   int `json:"oldest_wait"`
		FailNextStep int `json:"fail_next_step"`
	} `json:"pending_summary"`
	Visible []int `json:"visible_seq_ids"`
}

type cpuSeen struct {
	Free float64
	Link float64 `json:"link_per_step"`
}

func look(t testing.TB, e *Env) (o seen) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(e.Observe()))
	d.DisallowUnknownFields()
	require.NoError(t, d.Decode(&o), "%s", e.Observe())
	return o
}

var fields = []string{"memory_usage", "memory_budget", "episode_remaining", "time_above_0_95", "pending_queue_growth", "cache_overview",
	"top_memory_entries", "top_eviction_candidates", "pending_summary", "visible_seq_ids"}

// names are the keys of the outermost object, in order.
func names(t testing.TB, text []byte) (out []string) {
	d := json.NewDecoder(bytes.NewReader(text))
	_, err := d.Token()
	require.NoError(t, err)
	for d.More() {
		key, err := d.Token()
		require.NoError(t, err)
		out = append(out, key.(string))
		var value json.RawMessage
		require.NoError(t, d.Decode(&value))
	}
	return out
}

// The observation tells, rounded, what the state is, step by step under a policy that does something, in both profiles and every shape.
func TestObservation(t *testing.T) {
	for _, profile := range profiles {
		for n := range 24 {
			cfg := config(t, profile, []int{16, 64, 256}[n%3], 15, scenario.Difficulty(n%4))
			cfg.FirstEnv = uint32(n)
			e := open1(t, cfg)
			for !e.done {
				checkObservation(t, e)
				calls, err := e.Suggest([]string{"noop", "greedy", "tiered", "random"}[n/3%4])
				require.NoError(t, err)
				was := string(e.Observe())
				for _, c := range calls {
					e.Call(c.Name, c.Arguments)
				}
				require.Equal(t, was, string(e.Observe()), "what is to be done is not done yet")
				message := step(t, e)
				require.Equal(t, !e.done, strings.HasSuffix(message, "\n"+string(e.Observe())))
			}
			checkObservation(t, e)
		}
	}
}

func checkObservation(t *testing.T, e *Env) {
	v := e.batch.View(0)
	o, row := look(t, e), make([]float32, vecenv.ObsLen(v.Slots()))
	v.Observe(row)
	require.Equal(t, fields, names(t, e.Observe()))
	require.NotContains(t, string(e.Observe()), "\n")
	near := func(want, got float64) { t.Helper(); require.InDelta(t, want, got, 0.000501) }
	budget := float64(v.BudgetQP())
	near(float64(v.UsedQP())/budget, *o.MemoryUsage)
	near(budget/float64(v.Episode().CapacityQP), *o.MemoryBudget)
	require.Equal(t, []int{v.Steps() - v.Step(), int(v.Counters().PressureSteps), v.Growth()}, []int{*o.Remaining, *o.TimeAbove, *o.Growth})
	near(float64(v.SharedQP())/budget, o.CacheOverview.SharedPrefixes)
	near(float64(v.PendingQP())/budget, o.Pending.Needs)
	require.Equal(t, v.QueueLen(), o.Pending.Waiting)
	oldest := row[6] * float32(v.MaxWait())
	require.InDelta(t, oldest, o.Pending.OldestWait, 0.001)

	live := v.AppendLive(nil)
	types, compressed, swapped := map[string]int{"system": 0, "context": 0, "generation": 0, "reasoning": 0, "ephemeral": 0}, 0, 0
	for i := range live {
		types[live[i].Type.String()]++
		compressed += min(1, int(live[i].Quant))
		if live[i].Swapped {
			swapped++
		}
	}
	require.Equal(t, types, o.CacheOverview.Types)
	require.Equal(t, []int{len(live), compressed, swapped}, []int{o.CacheOverview.Live, o.CacheOverview.Compressed, o.CacheOverview.Swapped})
	require.Equal(t, v.Profile() == vecenv.Serving, o.CacheOverview.CPU != nil)
	if cpu := o.CacheOverview.CPU; cpu != nil {
		near(float64(v.HostFreeQP())/budget, cpu.Free)
		near(float64(v.Preset().LinkQP())/budget, cpu.Link)
	}

	var visible []int
	for _, c := range o.Candidates {
		visible = append(visible, c.ID)
		s := at(t, e, c.ID)
		require.Equal(t, s.Type.String(), c.Type)
		require.NotEqual(t, kv.System, s.Type)
		require.Equal(t, []uint32{s.Remaining, s.Priority, s.Type.EvictionPercent()}, []uint32{c.TokensLeft, hundredths(c.Priority), hundredths(c.EvictionValue)})
		near(float64(s.Tokens)/float64(s.Target()), c.Progress)
		near(float64(row[vecenv.GlobalFeatures+vecenv.SlotFeatures*c.ID+2]), c.Frees)
	}
	least := uint32(1 << 31)
	for _, m := range o.Largest {
		if !slices.Contains(visible, m.ID) {
			visible = append(visible, m.ID)
		}
		s := at(t, e, m.ID)
		near(float64(s.CostQP)/budget, m.Cost)
		near(float64(s.Tokens)/float64(s.Target()), m.Progress)
		require.LessOrEqual(t, s.CostQP, least, "largest first")
		least = s.CostQP
		require.Equal(t, []any{s.Type.String(), s.Quant.String(), s.Tokens, s.Priority, s.Prefix}, []any{m.Type, m.Quant, m.Tokens, hundredths(m.Priority), m.Prefix})
		sharers := 0
		for i := range live {
			if s.Prefix != 0 && live[i].Prefix == s.Prefix && !live[i].Swapped {
				sharers++
			}
		}
		require.Equal(t, sharers, m.SharedBy)
		phase := map[kv.Phase]string{kv.Idle: "idle", kv.Prefill: "prefill"}[s.Phase]
		require.Equal(t, phase, m.Phase)
		require.Equal(t, map[bool]int{true: v.Step() - s.LastAccess}[s.Phase == kv.Idle], m.IdleSteps)
		require.Equal(t, v.Profile() == vecenv.Serving, m.RecomputeMS > 0)
		require.Equal(t, map[[2]bool]string{{true, false}: "out", {true, true}: "in"}[[2]bool{s.Moving, s.Back}], m.Moving)
	}
	require.Equal(t, len(visible), len(o.Visible))
	require.Subset(t, o.Visible, visible)
	held := 0
	for i := range live {
		if live[i].CostQP > 0 {
			held++
		}
		require.True(t, len(o.Largest) == listed && live[i].CostQP <= least || live[i].CostQP == 0 || slices.Contains(o.Visible, live[i].Slot))
	}
	require.Len(t, o.Largest, min(listed, held))
}

func hundredths(x float64) uint32 { return uint32(x*100 + 0.5) }

// Of the requests that wait, none fails in the next step but those of which the observation says so, and some of these do.
func TestFailNextStep(t *testing.T) {
	for _, profile := range profiles {
		failed := 0
		for n := range uint32(20) {
			cfg := config(t, profile, 64, 15, scenario.Hard)
			cfg.FirstEnv = n
			e := open1(t, cfg)
			for !e.done {
				before, warned := e.batch.View(0).Counters(), look(t, e).Pending.FailNextStep
				step(t, e)
				now := e.batch.View(0).Counters()
				expired := int(now.Failures - now.Rejected - before.Failures + before.Rejected)
				require.LessOrEqual(t, expired, warned)
				failed += expired
			}
		}
		require.Positive(t, failed)
	}
}

// Candidates: what is dead first, then what carries no risk; by eviction value, then the least important, then what has come least far.
func TestCandidatesAreRanked(t *testing.T) {
	set := func(slot int, typ kv.BlockType, priority, tokens, remaining uint32) seat {
		pages := kv.Pages(tokens)
		return seat{live: true, SlotState: vecenv.SlotState{Slot: slot, Type: typ, Priority: priority, Tokens: tokens, Remaining: remaining, PrivatePages: pages, CostQP: 4 * pages}}
	}
	p := &picture{budget: 1000, seats: make([]seat, 16)}
	e := open1(t, vecenv.Config{Slots: 16})
	for slot, s := range []seat{
		0: set(0, kv.Context, 60, 500, 20),     // risk
		1: set(1, kv.Ephemeral, 90, 500, 20),   // alive
		2: set(2, kv.System, 10, 500, 0),       // never
		3: set(3, kv.Reasoning, 90, 500, 0),    // dead
		4: set(4, kv.Generation, 20, 300, 300), // as the next, further from its end
		5: set(5, kv.Generation, 20, 500, 100), //
		6: set(6, kv.Generation, 10, 500, 20),  // less important than these two
		7: set(7, kv.Ephemeral, 90, 500, 0),    // dead, and the safest type
		8: set(8, kv.Generation, 70, 700, 300), // risk, and a safer type than context
		9: set(9, kv.Generation, 75, 699, 301), // not far enough for a risk
	} {
		p.seats[slot] = s
	}
	p.seats[10] = set(10, kv.Ephemeral, 0, 500, 5)
	p.seats[10].Swapped, p.seats[10].CostQP = true, 0 // frees nothing
	var order []int
	for range 3 { // the list is short: what it names leaves, and the next come
		for _, c := range p.candidates(e.batch.View(0)) {
			order = append(order, c.ID)
			p.seats[c.ID].live = false
		}
	}
	require.Equal(t, []int{7, 3, 1, 6, 4, 5, 9, 8, 0}, order)
}

// The risk that a candidate shows is what the core charges for evicting it.
func TestRiskIsWhatTheCoreCharges(t *testing.T) {
	charged := 0
	for n := range uint32(40) {
		e := open1(t, vecenv.Config{Seed: 9, FirstEnv: n})
		for range 15 {
			var risk, before float64
			before = e.Result().Components["risky_eviction_penalty"]
			for i := range e.picture.seats {
				if s := &e.picture.seats[i]; s.live && i%5 == e.turns%5 {
					risk += float64(e.picture.risk(s)) / 100
					e.Call("evict", on(i))
				}
			}
			step(t, e)
			require.InDelta(t, before-risk, e.Result().Components["risky_eviction_penalty"], 1e-6)
			charged += int(risk*100 + 0.5)
		}
	}
	require.Positive(t, charged)
}

// The same episode is described by the same bytes, and the system prompt is one for all episodes of a configuration.
func TestTextsAreDeterministic(t *testing.T) {
	for _, profile := range profiles {
		a, b := open1(t, vecenv.Config{Seed: 3, Profile: profile}), open1(t, vecenv.Config{Seed: 3, Profile: profile})
		other := open1(t, vecenv.Config{Seed: 4, FirstEnv: 8, Profile: profile})
		require.Equal(t, a.System(), other.System())
		for range 15 {
			require.Equal(t, a.Prompt(), b.Prompt())
			require.Equal(t, step(t, a), step(t, b))
		}
	}
}

// Observations are the same bytes on every machine.
func TestObservationsAreGolden(t *testing.T) {
	for profile, want := range map[vecenv.Profile]string{vecenv.Seed: "239e6877d73c6779", vecenv.Serving: "0645e3dd418fe285"} {
		sum := sha256.New()
		for n := range uint32(16) {
			e := open1(t, vecenv.Config{Seed: 42, FirstEnv: n, Profile: profile})
			for !e.done {
				calls, err := e.Suggest("tiered")
				require.NoError(t, err)
				for _, c := range calls {
					e.Call(c.Name, c.Arguments)
				}
				step(t, e)
				sum.Write(e.Observe())
			}
		}
		require.Equal(t, want, fmt.Sprintf("%x", sum.Sum(nil))[:16], "%s: if a change of the observation is meant, put in the new value", profile)
	}
}

// The prompts name every tool, every weight and the episode's numbers.
func TestSystemPrompt(t *testing.T) {
	for profile, weights := range map[vecenv.Profile]reward.Weights{vecenv.Seed: reward.SeedWeights, vecenv.Serving: reward.ServingWeights} {
		e := open1(t, vecenv.Config{Profile: profile, Steps: 23, MaxWait: 7})
		text := e.System()
		for _, name := range toolNames {
			require.Contains(t, text, name+"(")
		}
		n := 0
		for _, w := range weights {
			if w != 0 {
				n++
				require.Contains(t, text, "\n- "+number(float64(w)/100).padded()+" ")
			}
		}
		require.Len(t, regexp.MustCompile(`(?m)^- 0\.\d\d `).FindAllString(text, -1), n)
		require.Contains(t, text, "An episode has 23 steps")
		require.Contains(t, text, "waited 7 steps")
		require.NotContains(t, text, "%!")
		require.Contains(t, e.Prompt(), "before step 1.\n{")
	}
}

// padded is a weight as prompts write it.
func (x number) padded() string {
	s := x.String()
	return s + strings.Repeat("0", 4-len(s))
}

// docs/language-models.md names every field of the observation, every kind of fault and every tool.
func TestDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/language-models.md")
	require.NoError(t, err)
	docs := string(text)
	for _, f := range Faults {
		require.Contains(t, docs, "| `"+string(f)+"` |")
	}
	source, err := os.ReadFile("observe.go")
	require.NoError(t, err)
	for _, m := range regexp.MustCompile("`json:\"(\\w+)").FindAllStringSubmatch(string(source), -1) {
		require.Contains(t, docs, "`"+m[1]+"`", "a field of the observation")
	}
	for _, name := range toolNames {
		require.Contains(t, docs, "`"+name)
	}
}

// What the observation tells is enough to play by: a rule of thumb that reads nothing else comes near the baseline that sees the whole state.
func TestTheObservationIsEnough(t *testing.T) {
	const episodes = 200
	var noop, reader, greedy float64
	for n := range uint32(episodes) {
		cfg := config(t, vecenv.Seed, 64, 15, scenario.Hard)
		cfg.FirstEnv = n
		for _, p := range []struct {
			sum  *float64
			play func(e *Env)
		}{{&noop, func(*Env) {}}, {&reader, readAndCall(t)}, {&greedy, func(e *Env) {
			calls, err := e.Suggest("greedy")
			require.NoError(t, err)
			for _, c := range calls {
				e.Call(c.Name, c.Arguments)
			}
		}}} {
			e := open1(t, cfg)
			for !e.done {
				p.play(e)
				step(t, e)
			}
			*p.sum += e.Result().Score / episodes
		}
	}
	t.Logf("mean score of hard episodes: noop %.3f, by the observation %.3f, greedy %.3f", noop, reader, greedy)
	require.Greater(t, reader, noop+0.9*(greedy-noop))
}

// readAndCall evicts what is dead and compresses the largest while memory and what waits for it stand above 80 % of the budget.
func readAndCall(t *testing.T) func(e *Env) {
	return func(e *Env) {
		o := look(t, e)
		above := *o.MemoryUsage + min(o.Pending.Needs, 0.3) - 0.8
		for _, c := range o.Candidates {
			if above > 0 && c.TokensLeft == 0 {
				e.Call("evict", on(c.ID))
				above -= c.Frees
			}
		}
		for range 2 {
			for _, m := range o.Largest {
				if above > 0 && !strings.HasPrefix(e.Call("compress", on(m.ID)), "refused") {
					above -= m.Cost / 2
				}
			}
		}
	}
}
