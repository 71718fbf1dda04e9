package rollout_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"
	"github.com/kvgym/kvgym/rollout"
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
	run(t, cfg)
	for k := range 15 {
		name := "part-0000" + string(rune('0'+k))
		if k > 9 {
			name = "part-0001" + string(rune('0'+k-10))
		}
		steps := readPart(t, filepath.Join(cfg.Out, "steps", name+".parquet"))
		episodes := readPart(t, filepath.Join(cfg.Out, "episodes", name+".parquet"))
		require.Equal(t, 60, episodes.rows)
		require.Equal(t, 60*15, steps.rows)
		for e := range episodes.rows {
			recompute(t, steps, episodes, e)
		}
	}
}

func recompute(t *testing.T, steps, episodes part, e int) {
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
		done, asked := [4]int64{}, int64(0)
		steps.each("actions", row, func(get func(string) int64) {
			asked++
			if get("valid") == 1 {
				done[get("op")]++
				if get("op") == 1 {
					risk += riskOf(get("block_type"), get("priority"), get("tokens"), get("target_tokens"))
				}
			}
		})
		for op, name := range map[int]string{1: "evictions", 2: "compressions", 3: "swaps"} {
			before := int64(0)
			if row > first {
				before = steps.int(name, row-1)
			}
			require.Equal(t, done[op], steps.int(name, row)-before, name)
		}
		require.Equal(t, risk, steps.int("risk_hundredths", row))
		gain := float64(steps.cols["reward"].(*array.Float32).Value(row)) * (1 << 20)
		score += int64(gain)
		require.Equal(t, score, steps.int("score_fixed", row), "rewards add up to the score")
	}
	used := episodes.int("used_qp", e)
	require.Equal(t, steps.int("used_qp", last), used)
	f, tokens, norm, latency := steps.int("failures", last), steps.int("tokens", last), episodes.int("token_norm", e), steps.int("latency_milli", last)
	left, retained := left(episodes, e)
	require.Equal(t, used, left)
	terms := []int64{
		-(min(15*f+10*max(0, f-2), 100) * one / 100),
		min(tokens, norm) * one / norm,
		floor(tenths*4*one, 1500),
		efficiency(used, budget),
		retained * one / max(1, 20*used),
		-(min(2*latency, 3000) * one / 10000),
		-(risk * one / 100),
	}
	sum := int64(0)
	for k, name := range []string{"failure_penalty", "throughput_reward", "headroom_bonus", "memory_efficiency", "eviction_quality", "latency_penalty", "risky_eviction_penalty"} {
		require.Equal(t, terms[k], episodes.int(name+"_fixed", e), name)
		sum += terms[k] * []int64{40, 25, 18, 7, 5, 3, 2}[k]
	}
	require.Equal(t, floor(sum, 1600), episodes.int("score_fixed", e))
	require.Equal(t, score, episodes.int("score_fixed", e))
	require.Equal(t, []int64{tokens, f, pressure}, []int64{episodes.int("total_tokens_metric", e), episodes.int("total_failures_metric", e), episodes.int("pressure_steps_metric", e)})
	require.Equal(t, float64(latency)/1000, episodes.cols["total_latency_metric"].(*array.Float64).Value(e))
}

// left adds up what the cache holds at the end, and 20 (1 - eviction value) times it.
func left(episodes part, e int) (used, retained int64) {
	weight := []int64{20, 15, 10, 2, 0}
	best := map[int64]int64{}
	episodes.each("live", e, func(get func(string) int64) {
		used += get("cost_qp")
		retained += get("cost_qp") * weight[get("block_type")]
		if get("swapped") == 0 {
			best[get("prefix")] = max(best[get("prefix")], weight[get("block_type")])
		}
	})
	episodes.each("prefixes", e, func(get func(string) int64) {
		used += get("cost_qp")
		retained += get("cost_qp") * best[get("prefix")]
	})
	return used, retained
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
