package vecenv_test

import (
	"encoding/binary"
	"flag"
	"fmt"
	"hash/fnv"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/reward"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/vecenv"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "rewrite golden files; refused while SimulatorVersion is that of the file")

// goldenFile holds one line an episode: its configuration and identity, how it ended, and a digest of every tensor and of
// every slot after every step. testdata/traffic.jsonl was written by `kvgym trace synth --requests 160 --rate 5 --tenants 3`.
var (
	goldenFile        = filepath.Join("testdata", "golden.txt")
	goldenServingFile = filepath.Join("testdata", "golden-serving.txt")
)

func goldenCases(t *testing.T) []vecenv.Config {
	traffic := trafficMaker(t, filepath.Join("testdata", "traffic.jsonl"))
	var out []vecenv.Config
	for _, d := range []scenario.Difficulty{scenario.Easy, scenario.Medium, scenario.Hard, scenario.All} {
		out = append(out, vecenv.Config{Envs: 4, Seed: 42, Source: mustSynthetic(64, 15, d)},
			vecenv.Config{Envs: 2, Seed: 1 << 63, FirstEnv: 1 << 31, Source: traffic(64, 15, d)})
	}
	return append(out,
		vecenv.Config{Envs: 3, Seed: 0, Slots: 16, Steps: 7, MaxWait: 2, Source: mustSynthetic(16, 7, scenario.Hard)},
		vecenv.Config{Envs: 2, Seed: 7, Slots: 256, Steps: 40, MaxWait: 9, Source: mustSynthetic(256, 40, scenario.All)},
		vecenv.Config{Envs: 2, Seed: 3, Slots: 80, Steps: 20, MaxWait: 5, Source: traffic(80, 20, scenario.Hard)})
}

func goldenServingCases(t *testing.T) []vecenv.Config {
	path := filepath.Join("testdata", "traffic.jsonl")
	open, closed := servingTraffic(t, path, false), servingTraffic(t, path, true)
	var out []vecenv.Config
	for k, p := range kv.Presets() {
		d := scenario.Difficulty(k)
		out = append(out, vecenv.Config{Envs: 4, Seed: 42, Preset: p, Source: mustAgents(64, 15, d, p)},
			vecenv.Config{Envs: 2, Seed: 9, Preset: p, Source: open(64, 15, d, p)},
			vecenv.Config{Envs: 2, Seed: 1 << 63, FirstEnv: 1 << 31, Slots: 32, Steps: 30, Preset: p, Source: closed(32, 30, d, p)})
	}
	slow := slowLink(kv.Presets()[0])
	out = append(out, vecenv.Config{Envs: 3, Slots: 16, Steps: 9, MaxWait: 2, Preset: slow, Source: mustAgents(16, 9, scenario.Hard, slow)},
		vecenv.Config{Envs: 2, Seed: 7, Slots: 256, Steps: 40, MaxWait: 9, Preset: slow, Source: mustAgents(256, 40, scenario.All, slow)})
	for i := range out {
		out[i].Profile = vecenv.Serving
	}
	return out
}

// TestGolden fails when the same identity and actions give other bits than the file, which the simulator version promises.
func TestGolden(t *testing.T) { checkGolden(t, goldenFile, goldenCases(t)) }

// TestGoldenServing does it for the serving profile.
func TestGoldenServing(t *testing.T) { checkGolden(t, goldenServingFile, goldenServingCases(t)) }

func checkGolden(t *testing.T, file string, cases []vecenv.Config) {
	got := fmt.Sprintf("simulator version %s\n", vecenv.SimulatorVersion)
	for _, cfg := range cases {
		got += goldenLines(t, cfg)
	}
	raw, err := os.ReadFile(file)
	want := string(raw)
	if *update && (os.IsNotExist(err) || !strings.HasPrefix(want, strings.SplitAfter(got, "\n")[0])) {
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
		return
	}
	require.NoError(t, err)
	wantLines, gotLines := strings.Split(want, "\n"), strings.Split(got, "\n")
	require.Equal(t, wantLines[0], gotLines[0], "the rules have a new version: go test ./vecenv -run TestGolden -update")
	for k := range min(len(wantLines), len(gotLines)) {
		require.Equal(t, wantLines[k], gotLines[k], "behaviour changed: raise vecenv.SimulatorVersion and change docs/simulator.md, then update this file")
	}
	require.Equal(t, len(wantLines), len(gotLines))
}

// goldenLines plays two episodes of every environment.
func goldenLines(t *testing.T, cfg vecenv.Config) string {
	cfg.Workers, cfg.Outputs = 1, vecenv.AllOutputs
	b := newBatch(t, cfg)
	cfg = b.Config()
	require.NoError(t, b.Reset(vecenv.ResetOptions{}))
	var out strings.Builder
	for range 2 {
		digests := make([]uint64, cfg.Envs)
		for step := range cfg.Steps {
			play{}.step(t, b, step)
			for i := range digests {
				digests[i] = goldenDigest(b, i, digests[i])
			}
		}
		source, _, _ := strings.Cut(b.View(0).Source().Fingerprint(), "/")
		if cfg.Profile == vecenv.Serving {
			source += " " + cfg.Preset.Name
		}
		for i, d := range digests {
			id, v := b.Identity(i), b.View(i)
			c := v.Counters()
			fmt.Fprintf(&out, "%s %s slots=%d steps=%d wait=%d seed=%d env=%d episode=%d: score=%d used=%d/%d failures=%d tokens=%d invalid=%d digest=%016x\n",
				source, v.Episode().DrawnFrom, cfg.Slots, cfg.Steps, cfg.MaxWait, id.Seed, id.Env, id.Episode, v.Score(), v.UsedQP(), v.BudgetQP(),
				c.Failures, v.Totals().Tokens, c.Invalid, d)
		}
		require.NoError(t, b.Reset(vecenv.ResetOptions{}))
	}
	return out.String()
}

// seedMetrics is how many metrics the seed profile has.
const seedMetrics = 14

// goldenDigest depends on published numbers only, not on names or layouts in Go.
func goldenDigest(b *vecenv.Batch, i int, before uint64) uint64 {
	h := fnv.New64a()
	put := func(values ...uint64) {
		for _, x := range values {
			_ = binary.Write(h, binary.LittleEndian, x)
		}
	}
	put(before, uint64(b.View(i).Score()), uint64(b.Terminated[i]))
	n := b.Envs()
	for k, f := range [][]float32{b.Obs, b.Reward, b.Components, b.Metrics} {
		row := f[len(f)/n*i : len(f)/n*(i+1)]
		if b.View(i).Profile() == vecenv.Seed { // which has no more terms and metrics than these
			row = row[:min(len(row), []int{len(row), 1, reward.SeedTerms, seedMetrics}[k])]
		}
		for _, x := range row {
			put(uint64(math.Float32bits(x)))
		}
	}
	h.Write(b.Mask[len(b.Mask)/n*i : len(b.Mask)/n*(i+1)])
	b.View(i).Live(func(s *vecenv.SlotState) bool {
		put(uint64(s.Slot), uint64(s.Tokens), uint64(s.Remaining), uint64(s.Rate), uint64(s.Timer), uint64(s.OnCode), uint64(s.OffCode), uint64(s.LastAccess))
		if b.View(i).Profile() == vecenv.Serving {
			x := b.View(i).ServingSlot(s.Slot)
			put(uint64(s.WorkUS), uint64(x.MoveQP), uint64(x.TurnRef), uint64(x.Wake), uint64(x.Born), uint64(x.Admit))
		}
		return true
	})
	return h.Sum64()
}
