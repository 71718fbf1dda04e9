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
profile, and with the serving profile the whole preset and, for a trace, the loop.

Actions and the observation (with ` + "`--obs f32`" + ` only) are from just before the step, everything else from after it, so ` + "`obs`, `actions`" + ` and ` + "`reward`" + ` of a row
belong together. Read an observation with ` + "`numpy.frombuffer(value, '<f4')`" + `; its layout is that of
[section 10](simulator.md#10-observation). For example:

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

This page is written by ` + "`go test ./rollout -run TestDocs -update`" + ` and kept true by that test.
`

// TestDocs keeps docs/rollout.md true to the columns that are written.
func TestDocs(t *testing.T) {
	cfg := Config{Out: "unused", Episodes: 1, Policies: []string{"noop"}, Difficulties: []scenario.Difficulty{scenario.Easy}, Obs: ObsF32}
	require.NoError(t, cfg.fill())
	sources, err := cfg.sources(context.Background())
	require.NoError(t, err)
	r := run{cfg: cfg, plan: newPlan(&cfg, sources)}
	m := r.manifest("running", nil)
	var page bytes.Buffer
	page.WriteString(docIntro)
	for _, table := range []string{stepsTable, episodesTable} {
		fmt.Fprintf(&page, "\n## %s\n\n| column | type | what it is |\n|---|---|---|\n", table)
		for _, c := range m.Tables[table] {
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
