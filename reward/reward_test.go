package reward

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// hundredths is h hundredths in units of 2^-24, rounded toward zero as the rules do.
func hundredths(h int64) int64 { return h * TermOne / 100 }

// Hand-computed from the seed's definitions.
func TestFailure(t *testing.T) {
	for f, want := range map[uint32]int64{0: 0, 1: -15, 2: -30, 3: -55, 4: -80, 5: -100, 6: -100, 1000: -100} {
		require.Equal(t, -hundredths(-want), Failure(f), "%d failures", f)
	}
}

// The seed's author once divided twice, which made throughput 15 times too small: 500 tokens are 1, whatever the steps.
func TestThroughputIsNormalisedOnce(t *testing.T) {
	for tokens, want := range map[uint64]int64{0: 0, 125: TermOne / 4, 250: TermOne / 2, 500: TermOne, 501: TermOne, 1 << 30: TermOne} {
		require.Equal(t, want, Throughput(tokens, 500), "%d tokens", tokens)
		totals := Totals{Steps: 15, TokenNorm: 500, Tokens: tokens, BudgetQP: 1}
		require.Equal(t, want, Compute(&totals)[ThroughputReward])
		totals.Steps = 400
		require.Equal(t, want, Compute(&totals)[ThroughputReward])
	}
}

func TestHeadroom(t *testing.T) {
	for _, c := range []struct {
		used, budget uint32
		tenths       int32
		pressure     bool
	}{{0, 1000, 10, false}, {799, 1000, 10, false}, {800, 1000, 5, false}, {949, 1000, 5, false}, {950, 1000, 2, false}, {951, 1000, 2, true},
		{999, 1000, 2, true}, {1000, 1000, -5, true}, {4_000_000_000, 1, -5, true}} {
		require.Equal(t, c.tenths, HeadroomTenths(c.used, c.budget), "%d of %d", c.used, c.budget)
		require.Equal(t, c.pressure, Pressure(c.used, c.budget) == 1, "%d of %d", c.used, c.budget)
	}
	require.Equal(t, hundredths(40), Headroom(150, 15), "full headroom in every step")
	require.Equal(t, hundredths(-20)-1, Headroom(-75, 15), "overflow in every step, rounded down")
	require.Equal(t, int64(-223697), Headroom(-5, 15)) // 0.4 * -0.5 / 15 * 2^24 = -223696.2, rounded down
}

func TestEfficiency(t *testing.T) {
	for used, want := range map[uint32]int64{0: 20, 849: 20, 850: 10, 949: 10, 950: 0, 999: 0, 1000: -20, 3000: -20} {
		require.Equal(t, hundredths(want), Efficiency(used, 1000), "%d of 1000", used)
	}
}

func TestQuality(t *testing.T) {
	require.Zero(t, Quality(0, 0))
	require.Equal(t, int64(TermOne), Quality(20*50, 50), "only system blocks")
	require.Equal(t, int64(TermOne/2), Quality(10*50, 50), "only generation blocks")
	require.Zero(t, Quality(0, 50), "only ephemeral blocks")
}

func TestLatencyAndRisk(t *testing.T) {
	for milli, want := range map[uint32]int64{0: 0, 100: -2, 1000: -20, 1500: -30, 9000: -30} {
		require.Equal(t, -hundredths(-want), Latency(milli), "%d thousandths", milli)
	}
	require.Equal(t, -hundredths(30), Risk(30))
	require.Equal(t, -hundredths(2000), Risk(2000), "no bound")
}

func TestScore(t *testing.T) {
	sum := int64(0)
	for _, w := range SeedWeights {
		sum += w
	}
	require.EqualValues(t, 100, sum)
	all := Terms{TermOne, TermOne, TermOne, TermOne, TermOne, TermOne, TermOne}
	require.EqualValues(t, ScoreOne, all.Score(&SeedWeights))
	one := Terms{FailurePenalty: -1}
	require.EqualValues(t, -1, one.Score(&SeedWeights), "rounded down")
	// 0.4*-0.15 + 0.25*0.5 + 0.18*0.4*0.5 + 0.07*0.2 + 0.05*0.5 + 0.03*-0.1 + 0.02*-0.15
	some := Totals{Steps: 15, TokenNorm: 500, Failures: 1, Tokens: 250, HeadroomTenths: 75, UsedQP: 60, BudgetQP: 100, RetainedTwenty: 600, LatencyMilli: 500, RiskHundredths: 15}
	terms := Compute(&some)
	require.InDelta(t, 0.134, float64(terms.Score(&SeedWeights))/ScoreOne, 1.0/ScoreOne)
	best := Totals{Steps: 15, TokenNorm: 500, Tokens: 500, HeadroomTenths: 150, UsedQP: 10, BudgetQP: 100, RetainedTwenty: 200}
	terms = Compute(&best)
	require.InDelta(t, 0.25+0.18*0.4+0.07*0.2+0.05, float64(terms.Score(&SeedWeights))/ScoreOne, 1e-6, "the most that an episode can give")
}

// Whatever happens, every term stays in its range.
func TestRanges(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 20_000 {
		steps := 1 + r.Uint32N(4096)
		used := r.Uint32() >> r.IntN(32)
		totals := Totals{Steps: steps, TokenNorm: 1 + r.Uint32()>>r.IntN(32)>>1, Failures: r.Uint32() >> r.IntN(32), Tokens: r.Uint64() >> r.IntN(64),
			HeadroomTenths: int32(r.Uint32N(15*steps+1)) - int32(5*steps), LatencyMilli: r.Uint32() >> r.IntN(32), RiskHundredths: r.Uint32() >> r.IntN(32),
			UsedQP: used, BudgetQP: 1 + r.Uint32()>>r.IntN(32)>>1, RetainedTwenty: uint32(uint64(used) * r.Uint64N(20) / 20)}
		terms := Compute(&totals)
		for term, bounds := range map[Term][2]int64{FailurePenalty: {-100, 0}, ThroughputReward: {0, 100}, HeadroomBonus: {-20, 40}, MemoryEfficiency: {-20, 20},
			EvictionQuality: {0, 100}, LatencyPenalty: {-30, 0}} {
			require.GreaterOrEqual(t, terms[term], hundredths(bounds[0])-1, "%s of %+v", Names[term], totals)
			require.LessOrEqual(t, terms[term], hundredths(bounds[1]), "%s of %+v", Names[term], totals)
		}
		require.Equal(t, hundredths(int64(totals.RiskHundredths)), -terms[RiskyEvictionPenalty])
	}
}

// An episode's rewards in float32 add up to its score without rounding.
func TestRewardsAddUp(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		totals := Totals{Steps: 15, TokenNorm: 500, BudgetQP: 700 + r.Uint32N(300)}
		var score int64
		var sum float32
		for range 15 {
			totals.Failures += r.Uint32N(3)
			totals.Tokens += uint64(r.Uint32N(60))
			totals.LatencyMilli += r.Uint32N(400)
			totals.RiskHundredths += 15 * r.Uint32N(3)
			totals.UsedQP = r.Uint32N(1200)
			totals.RetainedTwenty = totals.UsedQP * r.Uint32N(20)
			totals.HeadroomTenths += HeadroomTenths(totals.UsedQP, totals.BudgetQP)
			terms := Compute(&totals)
			now := terms.Score(&SeedWeights)
			sum += float32(now-score) * (1.0 / ScoreOne)
			score = now
		}
		require.Equal(t, float64(score)/ScoreOne, float64(sum))
	}
}
