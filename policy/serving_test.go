package policy_test

import (
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/policy"
	"github.com/kvgym/kvgym/reward"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/trace"
	"github.com/kvgym/kvgym/vecenv"
	"github.com/stretchr/testify/require"
	"gonum.org/v1/gonum/stat"
)

// What the serving profile is for: that the choice between the operations matters. Episodes are paired: every policy plays
// the same ones.

// confidence is z of a two-sided 95 % interval; significant that of 99 %, for the assertions of which there are many.
const (
	confidence  = 1.96
	significant = 2.58
)

func preset(t testing.TB) kv.Preset {
	p, err := kv.PresetNamed(vecenv.DefaultPreset)
	require.NoError(t, err)
	return p
}

func agents(t testing.TB, d scenario.Difficulty, p kv.Preset) scenario.Source {
	s, err := scenario.NewAgents(64, 15, d, p)
	require.NoError(t, err)
	return s
}

// played is what a policy made of n episodes.
type played struct {
	scores   []float64
	counters vecenv.Counters // summed
	swaps    float64         // an episode
	terms    [reward.NumTerms]float64
}

func (p *played) mean() float64 { return stat.Mean(p.scores, nil) }

// half is half the width of the mean's 95 % interval.
func (p *played) half() float64 {
	_, sd := stat.MeanStdDev(p.scores, nil)
	return confidence * sd / math.Sqrt(float64(len(p.scores)))
}

// gain is the mean of a's scores less b's on the same episodes, and its standard error.
func gain(a, b *played) (mean, se float64) {
	diff := make([]float64, len(a.scores))
	for i := range diff {
		diff[i] = a.scores[i] - b.scores[i]
	}
	mean, sd := stat.MeanStdDev(diff, nil)
	return mean, sd / math.Sqrt(float64(len(diff)))
}

// playServing plays n episodes with a policy.
func playServing(t testing.TB, make func() policy.Policy, src scenario.Source, p kv.Preset, n int) *played {
	const wave = 100
	out := &played{}
	for k := 0; k < n; k += wave {
		b, err := vecenv.New(vecenv.Config{Envs: min(wave, n-k), FirstEnv: uint32(k), Seed: 11, Source: src, Profile: vecenv.Serving, Preset: p, Workers: 1, NoObs: true,
			Autoreset: vecenv.Disabled})
		require.NoError(t, err)
		require.NoError(t, b.Reset(vecenv.ResetOptions{}))
		d := policy.NewDriver(make(), b.Envs(), 64)
		for range 15 {
			require.NoError(t, b.Step(d.Decide(b)))
		}
		for i := range b.Envs() {
			v := b.View(i)
			out.scores = append(out.scores, float64(v.Score())/reward.ScoreOne)
			totals, c := v.Totals(), v.Counters()
			for k, x := range reward.Compute(&totals) {
				out.terms[k] += float64(x) / reward.TermOne / float64(n)
			}
			out.counters.Evictions += c.Evictions
			out.counters.Compressions += c.Compressions
			out.counters.Swaps += c.Swaps
			out.counters.Forced += c.Forced
			out.counters.Failures += c.Failures
			out.counters.Late += c.Late
		}
		b.Close()
	}
	return out
}

func named(t testing.TB, name string) func() policy.Policy {
	return func() policy.Policy {
		p, err := policy.New(name)
		require.NoError(t, err)
		return p
	}
}

// inParallel runs jobs two at a time.
func inParallel(jobs []func()) {
	var wg sync.WaitGroup
	queue := make(chan func())
	for range 2 {
		wg.Go(func() {
			for job := range queue {
				job()
			}
		})
	}
	for _, job := range jobs {
		queue <- job
	}
	close(queue)
	wg.Wait()
}

func episodesFor(full, short int) int {
	if testing.Short() {
		return short
	}
	return full
}

// servingRules are the rules that choose without looking ahead.
var servingRules = []string{"noop", "random", "lru", "largest-first", "value-aware", "compress-first", "compress-int8", "compress-all", "greedy", "swap-idle", "tiered"}

var evictOnly = []string{"lru", "largest-first", "value-aware"}

// measureServing plays every rule, search, and search without each of the operations on the same n episodes of each tier.
func measureServing(t *testing.T, n int) map[string]*[3]*played {
	p := preset(t)
	makers := map[string]func() policy.Policy{"search": named(t, "search")}
	for _, name := range servingRules {
		makers[name] = named(t, name)
	}
	for op := kv.Keep; op < kv.NumOps && !testing.Short(); op++ {
		makers["search without "+op.String()] = func() policy.Policy { return policy.NewSearchWithout(op) }
	}
	out := map[string]*[3]*played{}
	var jobs []func()
	for name, maker := range makers {
		row := &[3]*played{}
		out[name] = row
		for d := range scenario.All {
			jobs = append(jobs, func() { row[d] = playServing(t, maker, agents(t, d, p), p, n) })
		}
	}
	inParallel(jobs)
	return out
}

func logServing(t *testing.T, all map[string]*[3]*played) {
	names := slices.Sorted(maps.Keys(all))
	text := fmt.Sprintf("\n%-24s %-7s %9s %7s %8s %8s %8s %8s %9s %6s %7s %9s %9s %6s\n", "policy", "tier", "score", "±95%", "goodput", "requests", "first", "waste", "failures", "late", "forced", "evictions", "compress", "swaps")
	for _, name := range names {
		for d, m := range all[name] {
			n, c := float64(len(m.scores)), &m.counters
			text += fmt.Sprintf("%-24s %-7s %9.4f %7.4f %8.3f %8.3f %8.3f %8.3f %9.2f %6.2f %7.2f %9.2f %9.2f %6.2f\n", name, scenario.Difficulty(d), m.mean(), m.half(),
				m.terms[reward.Goodput], m.terms[reward.RequestPenalty], m.terms[reward.FirstTokenPenalty], m.terms[reward.WastePenalty], float64(c.Failures)/n, float64(c.Late)/n,
				float64(c.Forced)/n, float64(c.Evictions)/n, float64(c.Compressions)/n, float64(c.Swaps)/n)
		}
	}
	t.Log(text)
}

// TestServingCalibration asserts what the serving profile is for: no rule is good enough everywhere, every operation is of use, and
// the tiers are light, tight and hopeless at peaks.
func TestServingCalibration(t *testing.T) {
	all := measureServing(t, episodesFor(2_000, 60))
	logServing(t, all)
	search, noop := all["search"], all["noop"]
	for d := range 3 {
		tier, spread := scenario.Difficulty(d), search[d].mean()-noop[d].mean()
		best := 0.0
		for _, name := range servingRules {
			mean, se := gain(search[d], all[name][d])
			require.Greater(t, mean, significant*se, "search against %s on %s", name, tier)
			best = max(best, all[name][d].mean())
		}
		require.Greater(t, search[d].mean()-best, 0.05*spread, "search against the best rule on %s, in the spread from noop", tier)
		require.Greater(t, best-noop[d].mean(), 0.5*spread, "the best rule against noop on %s", tier)
		require.Greater(t, search[d].mean()-all["compress-all"][d].mean(), 0.1*spread, "compress-all on %s", tier)
		for _, name := range evictOnly {
			require.Greater(t, search[d].mean()-all[name][d].mean(), 0.9*spread, "%s on %s", name, tier)
		}
	}
	require.Greater(t, noop[0].mean(), 0.6*search[0].mean(), "noop on easy is not hopeless")
	require.Less(t, noop[2].mean(), 0.2*search[2].mean(), "noop on hard is")
	requireEveryOperation(t, all)
	for name, m := range all {
		require.Greater(t, m[0].mean(), m[1].mean(), "%s: easy above medium", name)
		require.Greater(t, m[1].mean(), m[2].mean(), "%s: medium above hard", name)
	}
}

// requireEveryOperation asserts that taking away any operation costs search something significant on some tier.
func requireEveryOperation(t *testing.T, all map[string]*[3]*played) {
	if testing.Short() {
		return // too few episodes for an interval
	}
	for op := kv.Keep; op < kv.NumOps; op++ {
		costs := false
		for d := range 3 {
			mean, se := gain(all["search"][d], all["search without "+op.String()][d])
			t.Logf("without %s on %s: %.4f ± %.4f", op, scenario.Difficulty(d), mean, confidence*se)
			costs = costs || mean > significant*se
		}
		require.True(t, costs, "%s can be done without on every tier", op)
	}
}

// search is at least as good as the rules that it can follow to the end, on every single episode.
func TestServingSearchBeatsItsCandidates(t *testing.T) {
	p := preset(t)
	for d := range scenario.All {
		best := playServing(t, named(t, "search"), agents(t, d, p), p, 20)
		for _, name := range []string{"noop", "tiered", "compress-int8", "compress-all"} {
			other := playServing(t, named(t, name), agents(t, d, p), p, 20)
			for i := range best.scores {
				require.GreaterOrEqual(t, best.scores[i], other.scores[i], "%s on %s, episode %d", name, d, i)
			}
		}
	}
}

// More memory never lowers what search reaches.
func TestServingMoreCapacity(t *testing.T) {
	if testing.Short() {
		t.Skip("plays search without -short only")
	}
	const n = 200
	p := preset(t)
	sizes := []uint64{500, 700, 1000, 1400, 2000, 4000} // of 1000
	for d := range scenario.All {
		results := make([]*played, len(sizes))
		var jobs []func()
		for k, size := range sizes {
			jobs = append(jobs, func() { results[k] = playServing(t, named(t, "search"), scaled{agents(t, d, p), size}, p, n) })
		}
		inParallel(jobs)
		for k := 1; k < len(sizes); k++ {
			mean, se := gain(results[k], results[k-1])
			t.Logf("%s, %d to %d thousandths: %.4f to %.4f", d, sizes[k-1], sizes[k], results[k-1].mean(), results[k].mean())
			require.Greater(t, mean, -confidence*se, "%s: from %d to %d thousandths of the memory", d, sizes[k-1], sizes[k])
		}
		mean, se := gain(results[len(sizes)-1], results[0])
		require.Greater(t, mean, significant*se, "%s: eight times the memory", d)
	}
}

// slower is the default preset with a link that takes so many times longer.
func slower(t testing.TB, times int64) kv.Preset {
	p := preset(t)
	p.Name, p.LinkPS = fmt.Sprintf("%d times slower", times), times*p.LinkPS
	return p
}

// A faster link never hurts those who swap.
func TestServingFasterLink(t *testing.T) {
	n := episodesFor(1_000, 200)
	for _, name := range []string{"swap-idle", "tiered"} {
		for d := range scenario.All {
			var last *played
			for _, times := range []int64{400, 120, 40, 12, 4, 1} {
				p := slower(t, times)
				now := playServing(t, named(t, name), agents(t, d, p), p, n)
				if last != nil {
					mean, se := gain(now, last)
					require.Greater(t, mean, -confidence*se, "%s on %s: %s", name, d, p.Name)
				}
				last = now
			}
			p := slower(t, 400)
			mean, se := gain(last, playServing(t, named(t, name), agents(t, d, p), p, n))
			require.Greater(t, mean, significant*se, "%s on %s: the link does not matter", name, d)
		}
	}
}

// Loading beats computing again on a real link, and computing again beats a link that is too slow. On the default preset a token
// takes 12.7 times as long to compute as to load, and a transfer takes a sequence's memory until it ends.
func TestServingBreakEven(t *testing.T) {
	n := episodesFor(1_000, 200)
	for d := range scenario.All {
		fast, slow := slower(t, 1), slower(t, 400)
		swap := [2]*played{playServing(t, named(t, "swap-idle"), agents(t, d, fast), fast, n), playServing(t, named(t, "swap-idle"), agents(t, d, slow), slow, n)}
		evict := playServing(t, policy.EvictIdle, agents(t, d, fast), fast, n)
		if d != scenario.Hard { // where memory is full of what runs, and hardly anything pauses
			mean, se := gain(swap[0], evict)
			require.Greater(t, mean, significant*se, "%s: swapping what pauses against evicting it", d)
		}
		mean, se := gain(evict, swap[1])
		require.Greater(t, mean, significant*se, "%s: evicting what pauses against swapping it over a slow link", d)
		m := episodesFor(200, 20)
		with, without := playServing(t, named(t, "search"), agents(t, d, fast), fast, m), playServing(t, named(t, "search"), agents(t, d, slow), slow, m)
		t.Logf("%s: search swaps %.2f times an episode, over a slow link %.2f", d, float64(with.counters.Swaps)/float64(m), float64(without.counters.Swaps)/float64(m))
		require.Greater(t, with.counters.Swaps, 2*without.counters.Swaps, "%s: swaps of search", d)
	}
}

// With a boundless cache nothing has to be done, and all who act by need alone tie. Those who compress at once lose quality and
// time, and tie where both cost nothing.
func TestServingBoundlessCache(t *testing.T) {
	p, free := preset(t), preset(t)
	free.QualityPermille, free.CompressPS = [kv.NumQuants]int64{1000, 1000, 1000}, 0
	for d := range scenario.All {
		boundless := func(p kv.Preset) scenario.Source { return scaled{agents(t, d, p), 1_000_000} }
		want := playServing(t, named(t, "noop"), boundless(p), p, 50)
		for _, name := range []string{"lru", "largest-first", "value-aware", "compress-first", "greedy", "swap-idle", "tiered"} {
			require.Equal(t, want.scores, playServing(t, named(t, name), boundless(p), p, 50).scores, "%s on %s", name, d)
		}
		for _, name := range []string{"compress-int8", "compress-all"} {
			require.Equal(t, want.scores, playServing(t, named(t, name), boundless(free), free, 50).scores, "%s on %s, free", name, d)
			priced := playServing(t, named(t, name), boundless(p), p, 50)
			for i := range want.scores { // a goodput of 1 has no more to lose
				require.LessOrEqual(t, priced.scores[i], want.scores[i], "%s on %s", name, d)
			}
			require.Less(t, priced.mean(), want.mean(), "%s on %s", name, d)
		}
	}
}

// scaled gives another source's episodes more or less memory.
type scaled struct {
	scenario.Source
	permille uint64
}

func (s scaled) Begin(id scenario.Identity, e *scenario.Episode) {
	s.Source.Begin(id, e)
	scale := func(qp uint32) uint32 { return uint32(min(1<<26, uint64(qp)*s.permille/1000)) }
	e.CapacityQP, e.BudgetQP = scale(e.CapacityQP), scale(e.BudgetQP)
}

func (s scaled) Fingerprint() string {
	return fmt.Sprintf("%s/scaled=%d", s.Source.Fingerprint(), s.permille)
}

// traces are the files that the serving profile is calibrated on: one that is made here, and the real ones where there are some.
func traces(t *testing.T) []string {
	made := filepath.Join(t.TempDir(), "made.jsonl")
	f, err := os.Create(made)
	require.NoError(t, err)
	require.NoError(t, trace.Synthesize(f, trace.SynthConfig{Requests: 4000, Seed: 3, Rate: 8, Tenants: 5}))
	require.NoError(t, f.Close())
	out := []string{made}
	for _, pattern := range []string{"*.jsonl", "*.csv"} {
		real, err := filepath.Glob(filepath.Join(os.Getenv("KVGYM_TRACES"), pattern))
		require.NoError(t, err)
		if os.Getenv("KVGYM_TRACES") != "" {
			out = append(out, real...)
		}
	}
	return out
}

// On traces, too, the tiers are ordered and a sensible rule is better than none, for every preset: the default sample is what its
// prefill can carry.
func TestServingTraces(t *testing.T) {
	for _, path := range traces(t) {
		for _, p := range kv.Presets() {
			for _, closed := range []bool{false, true} {
				easy, err := scenario.LoadTraffic(scenario.TrafficConfig{Path: path, Serving: &p, Closed: closed})
				require.NoError(t, err)
				requireTiers(t, fmt.Sprintf("%s, %s, closed=%v", filepath.Base(path), p.Name, closed), easy, p)
			}
		}
	}
	if os.Getenv("KVGYM_TRACES") == "" {
		t.Skip("on a made trace only: KVGYM_TRACES names no folder with real traces")
	}
}

func requireTiers(t *testing.T, what string, easy *scenario.Traffic, p kv.Preset) {
	n := episodesFor(400, 60)
	var noop, tiered [3]*played
	for d := range scenario.All {
		src, err := easy.WithDifficulty(d)
		require.NoError(t, err)
		noop[d], tiered[d] = playServing(t, named(t, "noop"), src, p, n), playServing(t, named(t, "tiered"), src, p, n)
	}
	boundless := playServing(t, named(t, "noop"), scaled{easy, 1_000_000}, p, n)
	t.Logf("%s: noop %.3f %.3f %.3f, tiered %.3f %.3f %.3f; boundless %.3f, goodput %.3f", what, noop[0].mean(), noop[1].mean(), noop[2].mean(),
		tiered[0].mean(), tiered[1].mean(), tiered[2].mean(), boundless.mean(), boundless.terms[reward.Goodput])
	require.Greater(t, boundless.terms[reward.Goodput], 0.7, "%s: the server cannot carry the load", what)
	for d := range 3 {
		mean, se := gain(tiered[d], noop[d])
		require.Greater(t, mean, -0.01-confidence*se, "%s: tiered against noop on %s", what, scenario.Difficulty(d)) // where load is light there is nothing to gain
		if d == int(scenario.Hard) {
			require.Greater(t, mean, significant*se, "%s: tiered against noop on hard", what)
		}
		if d > 0 {
			require.Greater(t, noop[d-1].mean(), noop[d].mean(), "%s: noop on %s", what, scenario.Difficulty(d))
			require.Greater(t, tiered[d-1].mean(), tiered[d].mean(), "%s: tiered on %s", what, scenario.Difficulty(d))
		}
	}
}
