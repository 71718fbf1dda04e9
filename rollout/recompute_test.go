package rollout_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"
	"github.com/kvgym/kvgym/policy"
	"github.com/kvgym/kvgym/rollout"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/vecenv"
	"github.com/stretchr/testify/require"
)

// part is one Parquet file as Arrow columns.
type part struct {
	t    *testing.T
	cols map[string]arrow.Array
	rows int
}

func readPart(t *testing.T, path string) part {
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	table, err := pqarrow.ReadTable(context.Background(), f, parquet.NewReaderProperties(memory.DefaultAllocator), pqarrow.ArrowReadProperties{BatchSize: 1 << 20}, memory.DefaultAllocator)
	require.NoError(t, err)
	p := part{t: t, cols: map[string]arrow.Array{}, rows: int(table.NumRows())}
	for i := range int(table.NumCols()) {
		c := table.Column(i)
		require.Len(t, c.Data().Chunks(), 1)
		p.cols[c.Name()] = c.Data().Chunk(0)
	}
	return p
}

func (p part) int(name string, row int) int64 { return intAt(p.t, p.cols[name], row) }

func intAt(t *testing.T, a arrow.Array, row int) int64 {
	switch c := a.(type) {
	case *array.Int32:
		return int64(c.Value(row))
	case *array.Int64:
		return c.Value(row)
	}
	require.Failf(t, "column", "%T", a)
	return 0
}

// each calls f for every element of a list of structs in a row; get reads a field of the element.
func (p part) each(name string, row int, f func(get func(field string) int64)) {
	list := p.cols[name].(*array.List)
	elements := list.ListValues().(*array.Struct)
	kind := elements.DataType().(*arrow.StructType)
	first, end := list.ValueOffsets(row)
	for k := first; k < end; k++ {
		f(func(field string) int64 {
			i, ok := kind.FieldIdx(field)
			require.True(p.t, ok, field)
			if b, ok := elements.Field(i).(*array.Boolean); ok {
				if b.Value(int(k)) {
					return 1
				}
				return 0
			}
			return intAt(p.t, elements.Field(i), int(k))
		})
	}
}

const one = 1 << 24

// TestRecompute computes every term, the score, every reward and the four metrics out of the tables alone, by the seed's
// formulas, and compares with the columns that state them.
func TestRecompute(t *testing.T) {
	cfg := small(filepath.Join(t.TempDir(), "out"))
	cfg.Policies = []string{"noop", "random", "lru", "greedy", "compress-all"}
	cfg.Episodes = 60
	eachPart(t, cfg, 15, func(steps, episodes part) {
		for e := range episodes.rows {
			recompute(t, steps, episodes, e, false)
			for _, name := range []string{"good_norm", "request_norm", "step_us", "good_tokens", "first_waits", "late", "forced", "waste_us", "first_tokens"} {
				require.Zero(t, episodes.int(name, e), name)
			}
		}
	})
}

// The same for the serving profile, on a server whose link is slow and whose CPU memory is small, so that transfers take
// several steps and swaps are refused.
func TestRecomputeServing(t *testing.T) {
	cfg := serving(t, filepath.Join(t.TempDir(), "out"))
	cfg.Policies = []string{"noop", "random", "lru", "tiered", "swap-idle"}
	cfg.Episodes = 60
	sums := map[string]int64{}
	eachPart(t, cfg, 15, func(steps, episodes part) {
		for e := range episodes.rows {
			recompute(t, steps, episodes, e, true)
			require.EqualValues(t, 1_000_000, episodes.int("step_us", e))
			for _, name := range []string{"late", "forced", "waste_us", "first_tokens", "first_waits"} {
				require.Equal(t, steps.int(name, e*15+14), episodes.int(name, e), name)
				sums[name] += episodes.int(name, e)
			}
		}
		for row := range steps.rows {
			sums["moving"] += steps.int("moving", row)
			require.LessOrEqual(t, steps.int("moving", row), steps.int("live", row))
			steps.each("actions", row, func(get func(string) int64) {
				if get("op") == 3 && get("block_type") >= 0 && get("valid") == 0 {
					sums["refused"]++
				}
			})
		}
	})
	for _, name := range []string{"late", "forced", "waste_us", "first_tokens", "first_waits", "moving", "refused"} {
		require.Positive(t, sums[name], name)
	}
}

// eachPart plays a rollout of 60 episodes a part and calls f for each.
func eachPart(t *testing.T, cfg rollout.Config, parts int, f func(steps, episodes part)) {
	run(t, cfg)
	for k := range parts {
		name := fmt.Sprintf("part-%05d.parquet", k)
		steps, episodes := readPart(t, filepath.Join(cfg.Out, "steps", name)), readPart(t, filepath.Join(cfg.Out, "episodes", name))
		require.Equal(t, 60, episodes.rows)
		require.Equal(t, 60*15, steps.rows)
		f(steps, episodes)
	}
}

// terms are the names of the reward functions, the seed's first; weights are those of the two profiles.
var (
	terms = []string{"failure_penalty", "throughput_reward", "headroom_bonus", "memory_efficiency", "eviction_quality", "latency_penalty",
		"risky_eviction_penalty", "goodput", "request_penalty", "first_token_penalty", "waste_penalty"}
	weights = map[bool][]int64{false: {40, 25, 18, 7, 5, 3, 2, 0, 0, 0, 0}, true: {0, 0, 0, 0, 0, 0, 0, 70, 20, 7, 3}}
)

func scoreOf(values []int64, serving bool) int64 {
	sum := int64(0)
	for k, w := range weights[serving] {
		sum += w * values[k]
	}
	return floor(sum, 1600)
}

func recompute(t *testing.T, steps, episodes part, e int, serving bool) {
	first, last := e*15, e*15+14
	budget := episodes.int("budget_qp", e)
	require.Equal(t, episodes.int("episode", e), steps.int("episode", first))
	var tenths, pressure, risk, score int64
	for row := first; row <= last; row++ {
		require.EqualValues(t, row-first+1, steps.int("step", row))
		require.Equal(t, budget, steps.int("budget_qp", row))
		used := steps.int("used_qp", row)
		tenths += headroomTenths(used, budget)
		if used*100 > budget*95 {
			pressure++
		}
		risk += recomputeActions(t, steps, row, first)
		require.Equal(t, risk, steps.int("risk_hundredths", row))
		gain := float64(steps.cols["reward"].(*array.Float32).Value(row)) * (1 << 20)
		score += int64(gain)
		require.Equal(t, score, steps.int("score_fixed", row), "rewards add up to the score")
		if serving {
			require.Equal(t, score, scoreOf(append(make([]int64, 7), servingTerms(steps, row, episodes, e)...), true))
		}
	}
	used := episodes.int("used_qp", e)
	require.Equal(t, steps.int("used_qp", last), used)
	f, tokens, norm, latency := steps.int("failures", last), steps.int("tokens", last), episodes.int("token_norm", e), steps.int("latency_milli", last)
	left, retained, live := left(episodes, e, serving)
	require.Equal(t, []int64{left, live}, []int64{used, steps.int("live", last)})
	values := []int64{
		-(min(15*f+10*max(0, f-2), 100) * one / 100),
		min(tokens, norm) * one / norm,
		floor(tenths*4*one, 1500),
		efficiency(used, budget),
		retained * one / max(1, 20*used),
		-(min(2*latency, 3000) * one / 10000),
		-(risk * one / 100),
		0, 0, 0, 0,
	}
	if serving {
		copy(values[7:], servingTerms(steps, last, episodes, e))
	}
	for k, name := range terms {
		require.Equal(t, values[k], episodes.int(name+"_fixed", e), name)
		require.Equal(t, float64(values[k])/one, episodes.cols[name].(*array.Float64).Value(e), name)
	}
	require.Equal(t, scoreOf(values, serving), episodes.int("score_fixed", e))
	require.Equal(t, score, episodes.int("score_fixed", e))
	require.Equal(t, []int64{tokens, f, pressure}, []int64{episodes.int("total_tokens_metric", e), episodes.int("total_failures_metric", e), episodes.int("pressure_steps_metric", e)})
	require.Equal(t, float64(latency)/1000, episodes.cols["total_latency_metric"].(*array.Float64).Value(e))
}

// recomputeActions compares a step's operations with what the counters say of it, and returns the risk of its evictions.
func recomputeActions(t *testing.T, steps part, row, first int) (risk int64) {
	done, invalid := [4]int64{}, int64(0)
	steps.each("actions", row, func(get func(string) int64) {
		if get("valid") == 0 {
			invalid++
			return
		}
		done[get("op")]++
		if get("op") == 1 {
			risk += riskOf(get("block_type"), get("priority"), get("tokens"), get("target_tokens"))
		}
	})
	for name, n := range map[string]int64{"evictions": done[1], "compressions": done[2], "swaps": done[3], "invalid_actions": invalid} {
		before := int64(0)
		if row > first {
			before = steps.int(name, row-1)
		}
		require.Equal(t, n, steps.int(name, row)-before, name)
	}
	return risk
}

// servingTerms are the four terms of the serving profile as they stand after a step.
func servingTerms(steps part, row int, episodes part, e int) []int64 {
	requests, length, wait := episodes.int("request_norm", e), episodes.int("step_us", e)*episodes.int("steps", e), episodes.int("max_wait", e)
	norm := episodes.int("good_norm", e)
	return []int64{
		min(steps.int("good_tokens", row), norm) * one / norm,
		-min((2*steps.int("failures", row)+steps.int("late", row))*one/(2*requests), one),
		-min(steps.int("first_waits", row)*one/(wait*requests), one),
		-min(steps.int("waste_us", row)*one/length, one),
	}
}

// left adds up what the cache holds at the end, and 20 (1 - eviction value) times it, and counts the sequences.
func left(episodes part, e int, serving bool) (used, retained, live int64) {
	weight := []int64{20, 15, 10, 2, 0}
	best := map[int64]int64{}
	episodes.each("live", e, func(get func(string) int64) {
		live++
		used += get("cost_qp")
		retained += get("cost_qp") * weight[get("block_type")]
		if get("swapped") == 0 {
			best[get("prefix")] = max(best[get("prefix")], weight[get("block_type")])
		}
	})
	episodes.each("prefixes", e, func(get func(string) int64) {
		used += get("cost_qp")
		if serving {
			retained += get("cost_qp") * 20
			return
		}
		retained += get("cost_qp") * best[get("prefix")]
	})
	return used, retained, live
}

func riskOf(kind, priority, tokens, target int64) int64 {
	switch {
	case kind == 0:
		return 30
	case kind == 1 && priority >= 50:
		return 15
	case kind == 2 && priority >= 70 && tokens*10 >= target*7:
		return 20
	}
	return 0
}

func headroomTenths(used, budget int64) int64 {
	switch {
	case used*100 < budget*80:
		return 10
	case used*100 < budget*95:
		return 5
	case used < budget:
		return 2
	}
	return -5
}

func efficiency(used, budget int64) int64 {
	switch {
	case used*100 < budget*85:
		return one * 2 / 10
	case used*100 < budget*95:
		return one / 10
	case used < budget:
		return 0
	}
	return -(one * 2 / 10)
}

func floor(a, b int64) int64 {
	if a < 0 {
		return -((-a + b - 1) / b)
	}
	return a / b
}

// An observation is the one that the policy saw before the step of its row.
func TestObservationColumn(t *testing.T) {
	cfg := small(filepath.Join(t.TempDir(), "out"))
	cfg.Policies, cfg.Episodes, cfg.Obs = []string{"noop"}, 3, rollout.ObsF32
	run(t, cfg)
	steps := readPart(t, filepath.Join(cfg.Out, "steps", "part-00000.parquet"))
	obs := steps.cols["obs"].(*array.FixedSizeBinary)
	for row := range steps.rows {
		values := arrow.Float32Traits.CastFromBytes(obs.Value(row))
		require.Len(t, values, 784)
		require.Equal(t, float32(16-steps.int("step", row))/15, values[2], "episode_remaining before the step")
		if row%15 > 0 {
			require.Equal(t, float32(steps.int("used_qp", row-1))/float32(steps.int("budget_qp", row)), values[0], "usage after the step before")
		}
	}
}

// The observations are those of a batch that plays the same episodes, bit for bit, and the manifest says how they lie.
func TestObservations(t *testing.T) {
	for _, base := range []rollout.Config{small(""), serving(t, "")} {
		for _, slots := range []int{64, 128} {
			for _, obs := range []rollout.Obs{rollout.ObsF32, rollout.ObsU8} {
				cfg := base
				cfg.Out, cfg.Slots, cfg.Obs, cfg.Episodes, cfg.Policies, cfg.Difficulties = filepath.Join(t.TempDir(), "out"), slots, obs, 20, []string{"random"}, []scenario.Difficulty{scenario.Hard}
				t.Run(fmt.Sprintf("%s/%d/%s", cfg.Profile, slots, obs), func(t *testing.T) { testObservations(t, cfg) })
			}
		}
	}
}

func testObservations(t *testing.T, cfg rollout.Config) {
	run(t, cfg)
	steps := readPart(t, filepath.Join(cfg.Out, "steps", "part-00000.parquet"))
	require.Equal(t, 20*15, steps.rows)
	column := steps.cols["obs"].(*array.FixedSizeBinary)

	c := vecenv.Config{Envs: 20, Slots: cfg.Slots, Seed: cfg.Seed, Profile: cfg.Profile, Preset: cfg.Preset, Autoreset: vecenv.Disabled}
	width := 4 * vecenv.ObsLen(cfg.Slots)
	if cfg.Obs == rollout.ObsU8 {
		c.ObsType, width = vecenv.ObsU8, vecenv.ObsLen(cfg.Slots)
	}
	var err error
	if cfg.Profile == vecenv.Serving {
		c.Source, err = scenario.NewAgents(cfg.Slots, 15, scenario.Hard, cfg.Preset)
	} else {
		c.Source, err = scenario.NewSynthetic(cfg.Slots, 15, scenario.Hard)
	}
	require.NoError(t, err)
	b, err := vecenv.New(c)
	require.NoError(t, err)
	defer b.Close()
	require.NoError(t, b.Reset(vecenv.ResetOptions{}))
	p, err := policy.New("random")
	require.NoError(t, err)
	driver := policy.NewDriver(p, c.Envs, cfg.Slots)
	for k := range 15 {
		all := b.ObsBytes
		if cfg.Obs == rollout.ObsF32 {
			all = arrow.Float32Traits.CastToBytes(b.Obs)
		}
		for i := range c.Envs {
			require.Equal(t, all[i*width:(i+1)*width], column.Value(i*15+k), "env %d, step %d", i, k+1)
		}
		require.NoError(t, b.Step(driver.Decide(b)))
	}
	testObservationLayout(t, cfg, c.ObsType, width)
}

func testObservationLayout(t *testing.T, cfg rollout.Config, values vecenv.ObsType, width int) {
	text, err := os.ReadFile(filepath.Join(cfg.Out, "manifest.json"))
	require.NoError(t, err)
	var m struct {
		Config      struct{ Obs string }
		Tables      map[string][]struct{ Name, Type string }
		Observation vecenv.Layout
	}
	require.NoError(t, json.Unmarshal(text, &m))
	require.Equal(t, string(cfg.Obs), m.Config.Obs)
	require.Equal(t, vecenv.LayoutOf(cfg.Slots, values, vecenv.SlotMajor), m.Observation)
	last := m.Tables["steps"][len(m.Tables["steps"])-1]
	require.Equal(t, []string{"obs", fmt.Sprintf("fixed_size_binary[%d]", width)}, []string{last.Name, last.Type})
}
