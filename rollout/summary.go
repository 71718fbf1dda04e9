package rollout

import (
	"fmt"
	"math"
	"path/filepath"

	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/kvgym/kvgym/reward"
	"github.com/kvgym/kvgym/scenario"
)

// Summary is what a rollout gave. The groups are those of the whole rollout, the rates those of this run.
type Summary struct {
	Episodes    int64                 `json:"episodes"`
	EnvSteps    int64                 `json:"env_steps"`
	Kept        int64                 `json:"episodes_kept"` // of Episodes, those that an earlier, interrupted run had finished
	Seconds     float64               `json:"seconds"`       // of this run
	StepsPerSec float64               `json:"env_steps_per_second"`
	Out         string                `json:"out"`
	Profile     string                `json:"profile"`
	Groups      []Group               `json:"groups"`
	Trace       *scenario.TrafficInfo `json:"trace,omitempty"`
	Bytes       int64                 `json:"bytes"` // of the data files
	Complete    bool                  `json:"-"`     // an earlier run had finished all of them
}

// Group is one policy at one difficulty. Means are over episodes.
type Group struct {
	Policy        string             `json:"policy"`
	Difficulty    string             `json:"difficulty"`
	Episodes      int64              `json:"episodes"`
	Reward        float64            `json:"reward_mean"`
	RewardCI95    [2]float64         `json:"reward_ci95"` // mean ± 1.96 s/√n
	Failures      float64            `json:"failures_mean"`
	Tokens        float64            `json:"tokens_mean"`
	Latency       float64            `json:"latency_mean"`
	PressureSteps float64            `json:"pressure_steps_mean"`
	Late          float64            `json:"late_mean"`
	Forced        float64            `json:"forced_mean"`
	FirstWaits    float64            `json:"first_waits_mean"`
	WasteUS       float64            `json:"waste_us_mean"`
	Components    map[string]float64 `json:"components"` // before weighting
}

// summarize reads the episodes tables in the order of the shards, so that the result is the same for any number of
// workers and after any number of interruptions.
func (r *run) summarize() ([]Group, error) {
	var groups []Group
	for g := range r.plan.groups {
		var t tally
		for k := range r.plan.perGroup {
			if err := t.addFile(filepath.Join(r.folder.Path, partName(episodesTable, int64(g)*r.plan.perGroup+k))); err != nil {
				return nil, err
			}
		}
		groups = append(groups, t.group(&r.plan.groups[g]))
	}
	return groups, nil
}

// summed are the columns whose sums the summary needs; the terms follow.
var summed = [...]string{"score_fixed", "total_failures_metric", "total_tokens_metric", "latency_milli", "pressure_steps_metric",
	"late", "forced", "first_waits", "waste_us"}

// tally adds up episodes: exactly, but for the squares.
type tally struct {
	n      int64
	sums   [len(summed) + reward.NumTerms]int64
	mean   float64 // of the scores, by Welford's method
	spread float64 // sum of squared differences from the mean
}

func (t *tally) addFile(path string) error {
	f, err := file.OpenParquetFile(path, false)
	if err != nil {
		return fmt.Errorf("rollout: %s: %w: remove it and run again with --resume", path, err)
	}
	defer f.Close()
	for k := range t.sums {
		name := ""
		if k < len(summed) {
			name = summed[k]
		} else {
			name = reward.Names[k-len(summed)] + "_fixed"
		}
		values, err := readInts(f, name)
		if err != nil {
			return fmt.Errorf("rollout: %s: column %s: %w: remove the file and run again with --resume", path, name, err)
		}
		for _, v := range values {
			t.sums[k] += v
		}
		if k == 0 {
			t.addScores(values)
		}
	}
	return nil
}

func (t *tally) addScores(scores []int64) {
	for _, s := range scores {
		t.n++
		x := float64(s) / reward.ScoreOne
		d := x - t.mean
		t.mean += d / float64(t.n)
		t.spread += d * (x - t.mean)
	}
}

// readInts reads a whole integer column.
func readInts(f *file.Reader, name string) ([]int64, error) {
	index := f.MetaData().Schema.ColumnIndexByName(name)
	if index < 0 {
		return nil, fmt.Errorf("missing")
	}
	out := make([]int64, 0, f.NumRows())
	for g := range f.NumRowGroups() {
		group := f.RowGroup(g)
		col, err := group.Column(index)
		if err != nil {
			return nil, err
		}
		n := group.NumRows()
		switch c := col.(type) {
		case *file.Int64ColumnChunkReader:
			values := make([]int64, n)
			if err := readAll(n, func(at int64) (int64, int, error) { return c.ReadBatch(n-at, values[at:], nil, nil) }); err != nil {
				return nil, err
			}
			out = append(out, values...)
		case *file.Int32ColumnChunkReader:
			values := make([]int32, n)
			if err := readAll(n, func(at int64) (int64, int, error) { return c.ReadBatch(n-at, values[at:], nil, nil) }); err != nil {
				return nil, err
			}
			for _, v := range values {
				out = append(out, int64(v))
			}
		default:
			return nil, fmt.Errorf("%T: allowed integers", col)
		}
	}
	return out, nil
}

// readAll calls read until n values have come.
func readAll(n int64, read func(at int64) (int64, int, error)) error {
	for at := int64(0); at < n; {
		_, got, err := read(at)
		if err != nil {
			return err
		}
		if got == 0 {
			return fmt.Errorf("%d values: allowed %d", at, n)
		}
		at += int64(got)
	}
	return nil
}

func (t *tally) group(g *group) Group {
	n := float64(t.n)
	mean := func(k int, one float64) float64 { return float64(t.sums[k]) / n / one }
	out := Group{Policy: g.policy, Difficulty: g.difficulty.String(), Episodes: t.n, Reward: mean(0, reward.ScoreOne), Failures: mean(1, 1), Tokens: mean(2, 1),
		Latency: mean(3, 1000), PressureSteps: mean(4, 1), Late: mean(5, 1), Forced: mean(6, 1), FirstWaits: mean(7, 1), WasteUS: mean(8, 1), Components: map[string]float64{}}
	half := 0.0
	if t.n > 1 {
		half = 1.96 * math.Sqrt(t.spread/(n-1)/n)
	}
	out.RewardCI95 = [2]float64{out.Reward - half, out.Reward + half}
	for k, name := range reward.Names {
		out.Components[name] = mean(len(summed)+k, reward.TermOne)
	}
	return out
}
