package policy_test

import (
	"fmt"
	"math"
	"sync"
	"testing"

	"github.com/kvgym/kvgym/reward"
	"github.com/kvgym/kvgym/scenario"
	"github.com/stretchr/testify/require"
	"gonum.org/v1/gonum/stat"
)

// tier is what one policy reached at one difficulty.
type tier struct {
	n                              int
	score, half                    float64 // mean, and half its 99.9 % interval
	failures, failuresHalf         float64
	tokens, latency, pressure      float64
	evictions, compressions, swaps float64
}

// z of a two-sided 99.9 % interval: with some hundred assertions, 95 % would be a lottery.
const z = 3.29

// measure plays n episodes.
func measure(t *testing.T, name string, d scenario.Difficulty, n int) tier {
	const wave = 250
	src := synthetic(t, 64, 15, d)
	var scores, failures []float64
	var sum tier
	for k := range n / wave {
		b := episodes(t, name, wave, src, uint64(1000+k))
		for i := range wave {
			v := b.View(i)
			c, totals := v.Counters(), v.Totals()
			scores, failures = append(scores, float64(v.Score())/reward.ScoreOne), append(failures, float64(c.Failures))
			sum.tokens += float64(totals.Tokens)
			sum.latency += float64(totals.LatencyMilli) / 1000
			sum.pressure += float64(c.PressureSteps)
			sum.evictions += float64(c.Evictions)
			sum.compressions += float64(c.Compressions)
			sum.swaps += float64(c.Swaps)
		}
		b.Close()
	}
	for _, x := range []*float64{&sum.tokens, &sum.latency, &sum.pressure, &sum.evictions, &sum.compressions, &sum.swaps} {
		*x /= float64(len(scores))
	}
	sum.n = len(scores)
	var sd float64
	sum.score, sd = stat.MeanStdDev(scores, nil)
	sum.half = z * sd / math.Sqrt(float64(sum.n))
	sum.failures, sd = stat.MeanStdDev(failures, nil)
	sum.failuresHalf = z * sd / math.Sqrt(float64(sum.n))
	return sum
}

// measureAll plays every policy at every difficulty, two at a time.
func measureAll(t *testing.T, n, searched int) map[string][3]tier {
	out := map[string][3]tier{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	jobs := make(chan func(), 64)
	for range 2 {
		wg.Go(func() {
			for job := range jobs {
				job()
			}
		})
	}
	for _, name := range baselines {
		for d := range scenario.All {
			jobs <- func() {
				count := n
				if name == "search" {
					count = searched
				}
				m := measure(t, name, d, count)
				mu.Lock()
				defer mu.Unlock()
				row := out[name]
				row[d] = m
				out[name] = row
			}
		}
	}
	close(jobs)
	wg.Wait()
	return out
}

func logTable(t *testing.T, all map[string][3]tier) {
	text := fmt.Sprintf("\n%-15s %-7s %9s %8s %9s %8s %7s %8s %9s %9s %6s\n", "policy", "tier", "score", "±99.9%", "failures", "tokens", "latency", "pressure", "evictions", "compress", "swaps")
	for _, name := range baselines {
		for d, m := range all[name] {
			text += fmt.Sprintf("%-15s %-7s %9.4f %8.4f %9.2f %8.0f %7.2f %8.1f %9.1f %9.1f %6.1f\n", name, scenario.Difficulty(d), m.score, m.half, m.failures, m.tokens,
				m.latency, m.pressure, m.evictions, m.compressions, m.swaps)
		}
	}
	t.Log(text)
}

// TestCalibration asserts what the tiers of the seed profile mean: doing nothing hurts, a sensible policy gets by, and
// harder is harder.
func TestCalibration(t *testing.T) {
	n, searched := 10_000, 1_000
	if testing.Short() {
		n, searched = 1_500, 250
	}
	all := measureAll(t, n, searched)
	logTable(t, all)
	noop := all["noop"]
	pressure := (noop[0].pressure + noop[1].pressure + noop[2].pressure) / 3 / 15
	require.InDelta(t, 0.55, pressure, 0.15, "noop: pressure in about half of the steps of all")
	for d := range 3 {
		random, tier := all["random"][d], scenario.Difficulty(d)
		require.Greater(t, noop[d].failures-noop[d].failuresHalf, 2.0, "noop on %s: several failures", tier)
		greedy := all["greedy"][d]
		require.Less(t, greedy.failures+greedy.failuresHalf, 1.0, "greedy on %s: at most about one failure", tier)
		require.Greater(t, greedy.score-greedy.half, 0.0, "greedy on %s: a score above zero", tier)
		for name, m := range all {
			if name != "noop" && name != "random" {
				require.Greater(t, m[d].score-m[d].half, random.score+random.half, "%s against random on %s", name, tier)
				require.Greater(t, m[d].score-m[d].half, noop[d].score+noop[d].half, "%s against noop on %s", name, tier)
			}
		}
		require.Greater(t, all["search"][d].score+all["search"][d].half, all["compress-all"][d].score, "search on %s", tier)
	}
	requireOrder(t, all)
}

// requireOrder asserts that difficulty orders the scores. What compresses all that it needs to has the same headroom at
// every tier (nothing charges for compression, rule 9.7) and generates more where more arrives, so between easy and medium
// such policies may be level; random destroys nearly everything at any tier, and is left out.
func requireOrder(t *testing.T, all map[string][3]tier) {
	for name, m := range all {
		switch name {
		case "random":
		case "noop", "lru", "largest-first", "value-aware", "compress-int8":
			require.Greater(t, m[0].score-m[0].half, m[1].score+m[1].half, "%s: easy above medium", name)
			require.Greater(t, m[1].score-m[1].half, m[2].score+m[2].half, "%s: medium above hard", name)
		default:
			require.InDelta(t, m[0].score, m[1].score, 0.005, "%s: easy and medium level", name)
			require.Greater(t, m[1].score, m[2].score, "%s: medium above hard", name)
			require.Greater(t, m[0].score, m[2].score, "%s: easy above hard", name)
		}
	}
}
