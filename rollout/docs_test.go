package rollout

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/kvgym/kvgym/scenario"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "rewrite docs/rollout.md")

const docIntro = `# The files of a rollout

` + "`kvgym rollout --out OUT`" + ` writes Parquet tables that hold all that is needed to recompute every reward function and the four metrics without kvgym
(rules, [section 9](simulator.md#9-score-and-reward), for the seed profile; [section 13](simulator.md#13-the-serving-profile), rule 13.21, for the serving profile):

` + "```" + `
OUT/steps/part-NNNNN.parquet     one row an environment step, in the order of group, episode, step
OUT/episodes/part-NNNNN.parquet  one row an episode, in the order of group, episode
OUT/manifest.json                configuration, groups, columns, names of small numbers, host, rates, summary
` + "```" + `

A group is a policy at a difficulty. Episode e of every group is the one that ` + "`kvgym inspect --env e`" + ` shows with the same flags. A part holds a
range of one group's episodes; the parts of both tables correspond. Memory is in quarter pages (qp). The data files are a function of the
configuration alone: not of workers, machine, time or interruptions. Terms and scores stand in fixed point too, exactly: 2^-24 and 2^-20.
Both profiles have the same columns: those marked serving, and the terms from goodput on, are 0 in the seed profile. The manifest's ` + "`config`" + ` holds the
profile, with the serving profile the whole preset and, for a trace, the loop, and the SHA-256 of the files of networks (` + "`onnx:FILE`" + `).

Actions and the observation (with ` + "`--obs f32` or `--obs u8`" + ` only) are from just before the step, everything else from after it, so ` + "`obs`, `actions`" + ` and ` + "`reward`" + ` of a row
belong together. For example:

` + "```python" + `
import duckdb
duckdb.sql("select policy, difficulty, avg(reward), avg(total_failures_metric) from 'OUT/episodes/*.parquet' group by all order by all").show()
duckdb.sql("select policy, a.op, a.block_type, count(*) from (select policy, unnest(actions) a from 'OUT/steps/*.parquet') where a.valid group by all").show()
` + "```" + `

The four terms of the serving profile after any step are, with integer divisions toward zero and the columns of both tables:

` + "```python" + `
duckdb.sql("""with one as (select (1 << 24)::bigint as one)
  select s.episode, s.step, least(s.good_tokens, e.good_norm) * one // e.good_norm as goodput,
  -least((2 * s.failures + s.late) * one // (2 * e.request_norm), one) as request_penalty,
  -least(s.first_waits * one // (e.max_wait * e.request_norm), one) as first_token_penalty,
  -least(s.waste_us * one // (e.steps * e.step_us), one) as waste_penalty
  from one, 'OUT/steps/*.parquet' s join 'OUT/episodes/*.parquet' e using (episode)""").show()
` + "```" + `

## Observations

An observation is a fixed-size binary in the layout of [section 10](simulator.md#10-observation), which the manifest's ` + "`observation`" + ` states: n values, n its ` + "`length`" + ` (784 at 64
slots), slot-major. With ` + "`--obs f32`" + ` they are little-endian float32; with ` + "`--obs u8`" + ` a byte each, a quarter of the memory, and then the layout has the scales of rule 10.4.
A byte stands for the value byte / scale + low, which is off by about half a step, 0.5 / scale, at most:

` + "```python" + `
import json, numpy, pyarrow.parquet
layout = json.load(open("OUT/manifest.json"))["observation"]
n, slots, u8 = layout["length"], layout["slots"], layout["dtype"] == "uint8"
obs = pyarrow.parquet.read_table("OUT/steps/part-00000.parquet", columns=["obs"])["obs"]
rows = numpy.frombuffer(b"".join(obs.to_pylist()), "u1" if u8 else "<f4").reshape(-1, n)
if u8:
    scale = numpy.array(layout["global_scales"] + layout["slot_scales"] * slots, "f4")
    low = numpy.array([f["low"] for f in layout["globals"] + layout["slot"] * slots], "f4")
    values = rows / scale + low
` + "```" + `

This page is written by ` + "`go test ./rollout -run TestDocs -update`" + ` and kept true by that test.
`

// TestDocs keeps docs/rollout.md true to the columns that are written.
func TestDocs(t *testing.T) {
	cfg := Config{Out: "unused", Episodes: 1, Policies: []string{"noop"}, Difficulties: []scenario.Difficulty{scenario.Easy}, Obs: ObsF32}
	require.NoError(t, cfg.fill())
	sources, err := cfg.sources(context.Background())
	require.NoError(t, err)
	tables := func() map[string][]columnOf {
		r := run{cfg: cfg, plan: newPlan(&cfg, sources)}
		m := r.manifest("running", nil)
		return m.Tables
	}
	shown := tables()
	cfg.Obs = ObsU8
	steps := tables()[stepsTable]
	bytesColumn := steps[len(steps)-1]
	require.Equal(t, "obs", bytesColumn.Name)
	bytesColumn.About = "with `--obs u8`: " + bytesColumn.About
	shown[stepsTable] = append(shown[stepsTable], bytesColumn)
	var page bytes.Buffer
	page.WriteString(docIntro)
	for _, table := range []string{stepsTable, episodesTable} {
		fmt.Fprintf(&page, "\n## %s\n\n| column | type | what it is |\n|---|---|---|\n", table)
		for _, c := range shown[table] {
			fmt.Fprintf(&page, "| %s | %s | %s |\n", c.Name, c.Type, c.About)
			for _, f := range c.Fields {
				fmt.Fprintf(&page, "| %s.%s | %s | %s |\n", c.Name, f.Name, f.Type, f.About)
			}
		}
	}
	path := filepath.Join("..", "docs", "rollout.md")
	if *update {
		require.NoError(t, os.WriteFile(path, page.Bytes(), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), page.String(), "docs/rollout.md is not what is written")
}
