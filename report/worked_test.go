package report_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/kvgym/kvgym/report"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/vecenv"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "rewrite docs/worked-episodes.md")

var workedFile = filepath.Join("..", "docs", "worked-episodes.md")

const workedIntro = `# Worked episodes

Three small episodes of the seed profile and one of the serving profile with every number, to check an implementation of [the rules](simulator.md) by hand. This page is written by
the program (` + "`go test ./report -run TestWorkedEpisodes -update`" + `) and a test keeps it true. Memory is in quarter pages (QP); empty cells
mean no.

`

// op is one operation of a worked episode: keep 0, evict 1, compress 2, swap 3.
type op [2]int32

func steps(all ...[]op) (out [][]int32) {
	for _, ops := range all {
		pairs := []int32{}
		for _, o := range ops {
			pairs = append(pairs, o[0], o[1])
		}
		out = append(out, pairs)
	}
	return out
}

func workedEpisodes(t *testing.T) []report.Worked {
	hard, err := scenario.NewSynthetic(16, 6, scenario.Hard)
	require.NoError(t, err)
	traffic, err := scenario.LoadTraffic(scenario.TrafficConfig{Path: filepath.Join("..", "vecenv", "testdata", "traffic.jsonl"), Slots: 16, Steps: 5,
		Difficulty: scenario.Medium})
	require.NoError(t, err)
	preset, err := scenario.LoadPreset(filepath.Join("testdata", "slow-link.toml"))
	require.NoError(t, err)
	agents, err := scenario.NewAgents(16, 7, scenario.Hard, preset)
	require.NoError(t, err)
	return []report.Worked{
		{
			Title: "Doing nothing", About: "Memory fills up, requests wait, two of them fail; two sequences complete and one reasoning block lingers.",
			Flags:    "--difficulty hard --seed 1 --env 4 --slots 16 --steps 6 --max-wait 2",
			Config:   vecenv.Config{Slots: 16, Steps: 6, MaxWait: 2, Source: hard},
			Identity: scenario.Identity{Seed: 1, Env: 4}, Actions: steps(nil, nil, nil, nil, nil, nil),
		},
		{
			Title: "Several operations a step", About: "Two compressions of one slot in one step reach int4, a third cannot be done; a swapped sequence is read in every step; when the last fp16 sharer of prefix 4 leaves the GPU its pages fall to int4; evicting a system block is risky; a swapped system block is read when its tenant's next request is admitted.",
			Flags:    "--difficulty hard --seed 1 --env 8 --slots 16 --steps 6 --max-wait 2 --actions FILE",
			Config:   vecenv.Config{Slots: 16, Steps: 6, MaxWait: 2, Source: hard},
			Identity: scenario.Identity{Seed: 1, Env: 8},
			Actions: steps([]op{{2, 4}, {2, 4}, {3, 5}}, []op{{2, 4}, {3, 3}, {2, 0}, {1, 15}}, []op{{3, 0}, {1, 1}}, []op{{2, 2}, {2, 6}, {2, 7}},
				nil, []op{{1, 5}, {9, 2}}),
		},
		{
			Title: "A window of a trace", About: "The trace is `vecenv/testdata/traffic.jsonl` of the repository. Capacity and throughput norm come from what an unconstrained server would need and deliver in the window; prefixes are those of the trace's shared system blocks.",
			Flags:    "--trace vecenv/testdata/traffic.jsonl --difficulty medium --seed 5 --slots 16 --steps 5 --actions FILE",
			Config:   vecenv.Config{Slots: 16, Steps: 5, Source: traffic},
			Identity: scenario.Identity{Seed: 5},
			Actions:  steps(nil, []op{{2, 0}, {2, 1}}, []op{{1, 0}}, nil, nil),
		},
		{
			Title: "The serving profile", About: "The link is so slow that transfers take several steps, and CPU memory is half of the budget. Step 1 swaps out a session that waits for a tool: 62 of its 84 QP cross the link, the others in step 2, in which a sequence on its way cannot be compressed. In step 3 the tool answers: the session wakes with 256 more tokens and comes back; in step 4 it arrives, its answer is prefilled, and it goes on. Compressing slot 2 takes the pages of prefix 3 down with it, for all who share them. What step 4 evicts waits and is prefilled again in step 6, which is waste; in that step another sequence needs memory that is not there and is dropped (rule 13.16), to be prefilled again from step 7 on. A request whose prefix finds no room fails.",
			Flags:    "--profile serving --preset report/testdata/slow-link.toml --difficulty hard --seed 1 --env 12767 --slots 16 --steps 7 --max-wait 2 --actions FILE",
			Config:   vecenv.Config{Slots: 16, Steps: 7, MaxWait: 2, Profile: vecenv.Serving, Preset: preset, ServingSource: agents},
			Identity: scenario.Identity{Seed: 1, Env: 12767},
			Actions:  steps([]op{{3, 4}}, []op{{2, 4}}, []op{{2, 2}}, []op{{1, 5}}, nil, nil, nil),
		},
	}
}

func TestWorkedEpisodes(t *testing.T) {
	var page bytes.Buffer
	page.WriteString(workedIntro)
	for _, e := range workedEpisodes(t) {
		require.NoError(t, report.WriteWorked(&page, &e))
	}
	if *update {
		require.NoError(t, os.WriteFile(workedFile, page.Bytes(), 0o644))
	}
	want, err := os.ReadFile(workedFile)
	require.NoError(t, err)
	require.Equal(t, string(want), page.String(), "docs/worked-episodes.md is not what the program does")
}
