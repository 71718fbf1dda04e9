package toolenv

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/vecenv"
	"github.com/stretchr/testify/require"
)

// answers are calls of a first turn in the seed profile, the kind that they count as, and what the answer must say.
func TestAnswers(t *testing.T) {
	for _, c := range []struct {
		name, arguments string
		kind            Fault
		says            string
	}{
		{"evict", `{"seq_id": 4}`, "", "4 evicted: frees 0."},
		{" evict ", `{"seq_id": 4}`, "", "4 evicted"},
		{"keep", `{}`, "", "kept"},
		{"keep", ``, "", "kept"},
		{"keep", `null`, "", "kept"},
		{"keep", `{"why": "enough room"}`, ExtraArgument, "kept"},
		{"evict", `{"seq_id": 4, "reason": "large"}`, ExtraArgument, "4 evicted"},
		{"evict", `{"seq_id": "4"}`, CoercedID, "4 evicted"},
		{"evict", `{"seq_id": " 4.0 "}`, CoercedID, "4 evicted"},
		{"evict", `{"seq_id": 4.0}`, CoercedID, "4 evicted"},
		{"evict", `{"seq_id": 0.4e1}`, CoercedID, "4 evicted"},
		{"swap", `{"seq_id": 4}`, UnknownTool, `unknown tool "swap": allowed evict, compress, swap_to_cpu, keep`},
		{"", ``, UnknownTool, `unknown tool "": allowed evict`},
		{strings.Repeat("x", 9999), ``, UnknownTool, `unknown tool "xxxx`},
		{"evict", `{"seq_id": 4`, BadJSON, `not JSON: allowed an object such as {"seq_id": 3}`},
		{"evict", `seq_id=4`, BadJSON, "not JSON"},
		{"evict", `{"seq_id": 4} {"seq_id": 5}`, BadJSON, "not JSON"},
		{"evict", `{'seq_id': 4}`, BadJSON, "not JSON"},
		{"evict", `{"seq_id": NaN}`, BadJSON, "not JSON"},
		{"evict", `[4]`, NotAnObject, "a JSON array: allowed an object"},
		{"evict", `4`, NotAnObject, "a JSON number"},
		{"evict", `"{\"seq_id\": 4}"`, NotAnObject, "a JSON string"},
		{"evict", `true`, NotAnObject, "a JSON bool"},
		{"keep", `[]`, NotAnObject, "a JSON array"},
		{"evict", ``, MissingArgument, `seq_id is missing: allowed {"seq_id": 3}`},
		{"evict", `null`, MissingArgument, "seq_id is missing"},
		{"evict", `{"id": 4}`, MissingArgument, "seq_id is missing"},
		{"evict", `{"SEQ_ID": 4}`, MissingArgument, "seq_id is missing"},
		{"evict", `{"seq_id": null}`, WrongType, "seq_id: null: allowed one integer"},
		{"evict", `{"seq_id": [4, 5]}`, WrongType, "seq_id: [4,5]: allowed one integer, and a call for each sequence"},
		{"evict", `{"seq_id": {"id": 4}}`, WrongType, "allowed one integer"},
		{"evict", `{"seq_id": true}`, WrongType, "allowed one integer"},
		{"evict", `{"seq_id": 4.5}`, WrongType, "seq_id: 4.5: allowed one integer"},
		{"evict", `{"seq_id": "four"}`, WrongType, `seq_id: "four": allowed one integer`},
		{"evict", `{"seq_id": ""}`, WrongType, "allowed one integer"},
		{"evict", `{"seq_id": "nan"}`, WrongType, "allowed one integer"},
		{"evict", `{"seq_id": -1}`, OutOfRange, "seq_id: -1: allowed 0 to 63"},
		{"evict", `{"seq_id": 64}`, OutOfRange, "seq_id: 64: allowed 0 to 63"},
		{"evict", `{"seq_id": 99999999999999999999999}`, OutOfRange, "allowed 0 to 63"},
		{"evict", `{"seq_id": 1e999}`, OutOfRange, "allowed 0 to 63"},
		{"evict", `{"seq_id": 9223372036854775807}`, OutOfRange, "allowed 0 to 63"},
		{"evict", `{"seq_id": 63}`, NotInCache, "63 is not in the cache: allowed the ids that the observation lists"},
		{"evict", `{"seq_id": ` + strings.Repeat("4", MaxArguments) + `}`, TooLong, "bytes of arguments: allowed 4096"},
		{"evict", strings.Repeat("[", MaxArguments), BadJSON, "not JSON"},
	} {
		e := open1(t, vecenv.Config{Seed: 42})
		answer := e.Call(c.name, c.arguments)
		require.Contains(t, answer, c.says, "%s %.60s", c.name, c.arguments)
		require.Less(t, len(answer), 200)
		accepted := c.kind == "" || c.kind == ExtraArgument || c.kind == CoercedID
		require.Equal(t, !accepted, strings.HasPrefix(answer, "refused: "), answer)
		if c.kind == "" {
			require.Empty(t, e.Result().Faults, answer)
		} else {
			require.Equal(t, 1, e.Result().Faults[c.kind], "%s %s", c.kind, answer)
		}
		step(t, e)
		require.Zero(t, e.Result().Metrics["invalid_actions"])
		require.Zero(t, e.Result().Faults[NoCall])
	}
}

// Within a turn, later calls meet what earlier ones have done.
func TestAnswersWithinATurn(t *testing.T) {
	for _, c := range []struct {
		calls string
		kind  Fault
		says  string
	}{
		{"evict evict", Repeated, "was evicted in this turn already"},
		{"evict compress", NotInCache, "is not in the cache: it was evicted in this turn"},
		{"evict swap_to_cpu", NotInCache, "is not in the cache"},
		{"swap_to_cpu swap_to_cpu", Repeated, "was called in this turn already"},
		{"swap_to_cpu compress", Swapped, "is in CPU memory"},
		{"compress compress compress", AtInt4, "is at int4, the lowest level"},
		{"compress compress", "", "compressed to int4"},
		{"compress swap_to_cpu evict", "", "evicted: frees 0"},
		{"swap_to_cpu | swap_to_cpu", Swapped, "is in CPU memory already"},
		{"swap_to_cpu | compress", Swapped, "is in CPU memory: allowed"},
		{"compress | compress compress", AtInt4, "is at int4"},
	} {
		e := open1(t, vecenv.Config{Seed: 42})
		slot := find(t, e, lasting)
		last := ""
		for _, word := range strings.Fields(c.calls) {
			if word == "|" {
				step(t, e)
				continue
			}
			last = e.Call(word, on(slot))
		}
		require.Contains(t, last, c.says, c.calls)
		require.True(t, c.kind == "" || e.Result().Faults[c.kind] == 1, c.calls)
		step(t, e)
		require.Zero(t, e.Result().Metrics["invalid_actions"], c.calls)
	}
}

// Evicting one who shares a prefix says that the prefix stays, and the last one frees it.
func TestEvictingSharers(t *testing.T) {
	e := open1(t, vecenv.Config{Seed: 42})
	prefix := at(t, e, find(t, e, func(s *vecenv.SlotState) bool { return lasting(s) && s.Prefix != 0 })).Prefix
	var sharers []int
	e.batch.View(0).Live(func(s *vecenv.SlotState) bool {
		if s.Prefix == prefix {
			sharers = append([]int{s.Slot}, sharers...) // the system entry last
		}
		return true
	})
	require.GreaterOrEqual(t, len(sharers), 2)
	for i, slot := range sharers {
		answer, left := e.Call("evict", on(slot)), len(sharers)-1-i
		if left > 0 {
			require.Contains(t, answer, fmt.Sprintf("; prefix %d (0.", prefix))
			require.Contains(t, answer, fmt.Sprintf("stays, pinned by %d others", left))
			continue
		}
		require.Contains(t, answer, "its prefix's part included; a risky eviction, penalty 0.3")
	}
	// The system entry holds nothing alone: what it frees is the prefix.
	pages := e.batch.View(0).Episode().PrefixPages[prefix]
	require.Contains(t, e.Call("keep", ""), "kept")
	require.EqualValues(t, pages, e.picture.pages[prefix])
}

// In the serving profile a sequence crosses the link, waits in CPU memory until there is room, and comes back.
func TestAnswersOnTheWay(t *testing.T) {
	cfg := config(t, vecenv.Serving, 64, 15, scenario.Hard)
	cfg.Preset.LinkPS *= 400
	e := open1(t, cfg)
	slot := find(t, e, func(s *vecenv.SlotState) bool {
		return s.Type == kv.Context && s.Phase == kv.Decode && s.Remaining > 40*s.Rate && s.CostQP > 40
	})
	asked := func(tool string) string { return e.Call(tool, on(slot)) }
	require.Contains(t, asked("swap_to_cpu"), "starts to move to CPU memory: frees 0.")
	require.Contains(t, asked("compress"), "is on its way to CPU memory: allowed evict")
	step(t, e)
	require.Contains(t, asked("swap_to_cpu"), "is on its way to CPU memory: allowed evict")
	for !at(t, e, slot).Swapped {
		e.Call("keep", "")
		step(t, e)
	}
	require.Contains(t, asked("compress"), "is in CPU memory: allowed on sequences in GPU memory")
	require.Contains(t, asked("swap_to_cpu"), "is asked back: it comes as soon as there is room")
	require.Contains(t, asked("swap_to_cpu"), "was called in this turn already")
	step(t, e)
	require.True(t, at(t, e, slot).Wanted, "there is no room")
	require.Contains(t, asked("swap_to_cpu"), "is in CPU memory and comes back as soon as there is room")
	e.batch.View(0).Live(func(s *vecenv.SlotState) bool {
		if s.Slot != slot {
			e.Call("evict", on(s.Slot))
		}
		return true
	})
	step(t, e)
	require.True(t, at(t, e, slot).Back)
	require.Contains(t, asked("swap_to_cpu"), "is on its way back to GPU memory: allowed evict")
	require.Contains(t, asked("evict"), "evicted")
	require.Equal(t, map[Fault]int{Moving: 3, Swapped: 2, Repeated: 1}, e.Result().Faults)
}

// A turn without calls keeps everything, says so and is counted; a call that was refused is a call.
func TestNoCall(t *testing.T) {
	e := open1(t, vecenv.Config{Seed: 42})
	require.Contains(t, step(t, e), "You called no tool, so everything was kept.")
	e.Call("keep", "")
	require.NotContains(t, step(t, e), "no tool")
	e.Call("nothing", "")
	require.NotContains(t, step(t, e), "no tool")
	require.Equal(t, map[Fault]int{NoCall: 1, UnknownTool: 1}, e.Result().Faults)
}

// callAtRandom makes calls, most of which can be done, and returns how many of each operation were accepted.
func callAtRandom(r *rand.Rand, e *Env, mean int) (accepted [kv.NumOps]uint32) {
	var live []int
	e.batch.View(0).Live(func(s *vecenv.SlotState) bool { live = append(live, s.Slot); return true })
	for range r.IntN(2*mean + 1) {
		op, slot := kv.Op(1+r.IntN(kv.NumOps-1)), r.IntN(len(e.picture.seats))
		if len(live) > 0 && r.IntN(8) > 0 {
			slot = live[r.IntN(len(live))]
		}
		for range 1 + r.IntN(3)/2 {
			if !strings.HasPrefix(e.Call(toolNames[op], on(slot)), "refused") {
				accepted[op]++
			}
		}
	}
	return accepted
}

// What Call accepts is exactly what the core counts as valid, and afterwards slots are as Call has foreseen: over random calls, many of them on
// the same sequences, in both profiles, small and large caches, servers with little CPU memory too.
func TestAcceptedIsValid(t *testing.T) {
	episodes := 300
	if testing.Short() {
		episodes = 40
	}
	var refused [2]map[Fault]int
	for _, profile := range profiles {
		refused[profile] = map[Fault]int{}
		for n := range episodes {
			slots := []int{16, 64, 64, 112, 256}[n%5]
			cfg := config(t, profile, slots, 15, scenario.Difficulty(n%4))
			if profile == vecenv.Serving && n%3 > 0 {
				cfg.Preset.HostPermille = int64(n%3-1) * 60 // CPU memory is soon full
			}
			if profile == vecenv.Serving && n%4 == 1 {
				cfg.Preset.LinkPS *= 400 // and crossing the link takes some steps
			}
			cfg.FirstEnv = uint32(n)
			e := open1(t, cfg)
			r := rand.New(rand.NewPCG(uint64(n), uint64(profile)))
			for range 15 {
				before := e.batch.View(0).Counters()
				accepted := callAtRandom(r, e, []int{1, 6, 40}[n%7%3])
				foreseen := e.picture
				foreseen.seats = slices.Clone(foreseen.seats)
				require.LessOrEqual(t, len(e.list)/2, 4*slots)
				step(t, e)
				now := e.batch.View(0).Counters()
				require.Zero(t, now.Invalid, "%s, episode %d, step %d", profile, n, e.turns)
				require.Equal(t, accepted, [kv.NumOps]uint32{0, now.Evictions - before.Evictions, now.Compressions - before.Compressions, now.Swaps - before.Swaps})
				compare(t, e, &foreseen)
			}
			for kind, n := range e.Result().Faults {
				refused[profile][kind] += n
			}
		}
	}
	for _, kind := range []Fault{NotInCache, Repeated, AtInt4, Swapped} {
		require.Positive(t, refused[vecenv.Seed][kind], kind)
		require.Positive(t, refused[vecenv.Serving][kind], kind)
	}
	for _, kind := range []Fault{InPrefill, Moving, CPUFull} {
		require.Positive(t, refused[vecenv.Serving][kind], kind)
	}
}

// compare compares what was foreseen with the state after the step, as far as a step leaves it: a level changes by operations alone, and what is in a
// slot that was emptied has been admitted in this step.
func compare(t *testing.T, e *Env, foreseen *picture) {
	v := e.batch.View(0)
	serving := v.Profile() == vecenv.Serving
	v.Live(func(s *vecenv.SlotState) bool {
		f := &foreseen.seats[s.Slot]
		admitted := !serving && s.Phase == kv.Prefill || serving && v.ServingSlot(s.Slot).Admit == v.Step()
		switch {
		case admitted:
			require.Equal(t, kv.FP16, s.Quant)
			return true
		case !f.live:
			require.Failf(t, "alive", "slot %d was evicted", s.Slot)
		}
		require.Equal(t, f.Quant, s.Quant)
		leaving := f.Moving && !f.Back
		require.True(t, !leaving || s.Swapped || s.Moving && !s.Back, "slot %d leaves", s.Slot)
		require.True(t, leaving || f.Swapped || !s.Swapped, "slot %d was not asked to leave", s.Slot)
		require.True(t, serving || f.Swapped == s.Swapped)
		if serving && s.Prefix != 0 && !f.Swapped && !s.Swapped { // it has held its prefix all the time
			require.Equal(t, foreseen.level[s.Prefix], v.PrefixMultiplier(int(s.Prefix)), "prefix %d", s.Prefix)
		}
		return true
	})
}

// What an answer says is freed is what the rules say: the observation of the tensor environment tells what evicting each sequence would free, and
// memory is summed anew after every call (rule 1.8; 13.13 for the level of prefixes in the serving profile).
func TestFreedMemory(t *testing.T) {
	for _, profile := range profiles {
		for n := range 60 {
			cfg := config(t, profile, 64, 15, scenario.Hard)
			cfg.FirstEnv = uint32(n)
			e := open1(t, cfg)
			r := rand.New(rand.NewPCG(uint64(n), 3))
			row := make([]float32, vecenv.ObsLen(64))
			for range 15 {
				v := e.batch.View(0)
				v.Observe(row)
				for i := range e.picture.seats {
					if s := &e.picture.seats[i]; s.live {
						reclaim := row[vecenv.GlobalFeatures+vecenv.SlotFeatures*i+2] * float32(v.BudgetQP())
						require.InDelta(t, float64(min(e.picture.reclaim(s), 2*v.BudgetQP())), float64(reclaim), 0.01, "slot %d", i)
					}
				}
				used := v.UsedQP()
				require.Equal(t, used, summed(&e.picture))
				for range 30 {
					s := &e.picture.seats[r.IntN(64)]
					op := kv.Op(1 + r.IntN(3))
					if e.picture.may(op, s, s.Slot) != nil {
						continue
					}
					private, shared := map[kv.Op]func(*seat) (uint32, uint32){kv.Evict: e.picture.evict, kv.Compress: e.picture.compress, kv.Swap: e.picture.swap}[op](s)
					require.Equal(t, summed(&e.picture), used-private-shared, "%s %s", profile, op)
					used = summed(&e.picture)
				}
				callAtRandom(r, e, 2) // of which the picture, which has gone on alone, refuses some
				step(t, e)
			}
		}
	}
}

// summed is the memory in use.
func summed(p *picture) (used uint32) {
	var multiplier [kv.MaxPrefixes + 1]uint32
	for i := range p.seats {
		if s := &p.seats[i]; s.live && !s.Swapped {
			used += s.PrivatePages * s.Quant.QuarterPages()
			multiplier[s.Prefix] = max(multiplier[s.Prefix], s.Quant.QuarterPages())
			if p.serving {
				multiplier[s.Prefix] = p.level[s.Prefix]
			}
		}
	}
	for k := 1; k <= kv.MaxPrefixes; k++ {
		used += multiplier[k] * p.pages[k]
	}
	return used
}

// Nothing that a model writes breaks anything.
func FuzzCall(f *testing.F) {
	for _, s := range []string{`{"seq_id": 4}`, `{"seq_id": "4"}`, `{"seq_id": 4.0, "x": []}`, `[]`, `null`, `{"seq_id": -1e400}`, "{\"seq_id\":\xff}", `{"seq_id":4}{`, "{\"seq_id\": [1,\n2]}", "{\"seq_id\": \"\xff\xfe\"}"} {
		f.Add("compress", s, false)
		f.Add("swap_to_cpu", s, true)
	}
	f.Add("\x00", "", false)
	f.Fuzz(func(t *testing.T, name, arguments string, serving bool) {
		cfg := vecenv.Config{Seed: 42}
		if serving {
			cfg.Profile = vecenv.Serving
		}
		e := open1(t, cfg)
		for range 2 {
			answer := e.Call(name, arguments)
			require.NotEmpty(t, answer)
			require.Less(t, len(answer), 400)
			require.NotContains(t, answer, "\n")
			require.True(t, utf8.ValidString(answer))
		}
		accepted := len(e.list) / 2
		step(t, e)
		r := e.Result()
		require.Zero(t, r.Metrics["invalid_actions"])
		require.EqualValues(t, accepted, r.Metrics["evictions"]+r.Metrics["compressions"]+r.Metrics["swaps"])
	})
}
