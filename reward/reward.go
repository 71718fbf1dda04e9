// Package reward says what is good: the seven functions of the seed, the four of the serving profile, their weights, and
// the score they add up to. Use it on an episode's totals; it knows no environment.
//
// Every term is an integer in units of 2^-24, and the score one in units of 2^-20 (docs/simulator.md, sections 9 and 13), so
// that per-step rewards, the differences of consecutive scores, are exact in float32 and add up to the episode's score
// without rounding.
package reward

import "math/bits"

// Term numbers one of the functions.
type Term int

// The terms: the seed's seven in the order of their weights, then the serving profile's.
const (
	FailurePenalty Term = iota
	ThroughputReward
	HeadroomBonus
	MemoryEfficiency
	EvictionQuality
	LatencyPenalty
	RiskyEvictionPenalty
	Goodput
	RequestPenalty
	FirstTokenPenalty
	WastePenalty
	NumTerms  = 11
	SeedTerms = 7 // the first of them are the seed's
)

// Names are the names of the terms.
var Names = [NumTerms]string{"failure_penalty", "throughput_reward", "headroom_bonus", "memory_efficiency",
	"eviction_quality", "latency_penalty", "risky_eviction_penalty", "goodput", "request_penalty", "first_token_penalty", "waste_penalty"}

// Weights are hundredths; they sum to 100.
type Weights [NumTerms]int64

// The weights of the two profiles.
var (
	SeedWeights    = Weights{40, 25, 18, 7, 5, 3, 2}
	ServingWeights = Weights{7: 70, 8: 20, 9: 7, 10: 3}
)

// Fixed-point formats.
const (
	TermOne  = 1 << 24 // a term of 1.0
	ScoreOne = 1 << 20 // a score of 1.0
	// scoreDivisor takes a sum of weight (hundredths) times term (2^-24) to 2^-20.
	scoreDivisor = 100 * (TermOne / ScoreOne)
)

// Totals are the integer facts about an episode so far that the score depends on.
type Totals struct {
	Steps          uint32 // steps of the whole episode
	TokenNorm      uint32 // tokens that make a throughput of 1, at least 1
	Failures       uint32 // requests that waited too long or were rejected
	Tokens         uint64 // tokens generated
	HeadroomTenths int32  // sum over steps of HeadroomTenths
	LatencyMilli   uint32 // sum of swap latencies, thousandths
	RiskHundredths uint32 // sum over evictions of RiskHundredths
	UsedQP         uint32 // memory in use now, quarter pages
	BudgetQP       uint32 // memory budget, quarter pages, at least 1
	RetainedTwenty uint32 // sum over resident memory of 20*(1-eviction value)*quarter pages
	Serving        ServingTotals
}

// ServingTotals are the facts that the serving profile adds; all 0 in the seed profile.
type ServingTotals struct {
	Goodput     uint64 // tokens, weighted by priority and quality, late ones by half
	GoodNorm    uint64 // what an unconstrained server delivers, at least 1
	WasteUS     uint64 // work done again and time of transfers, microseconds
	WindowUS    uint64 // steps * length of a step, microseconds, at least 1
	FirstWaits  uint32 // steps that requests waited for the first token of a turn
	Late        uint32 // turns whose first token came after the deadline
	RequestNorm uint32 // requests of the episode, at least 1
	MaxWait     uint32 // the deadline, steps, at least 1
}

// Weights are the weights of the profile that the totals come from.
func (t *Totals) Weights() *Weights {
	if t.Serving.GoodNorm != 0 {
		return &ServingWeights
	}
	return &SeedWeights
}

// Terms holds the value of each term in units of 2^-24.
type Terms [NumTerms]int64

// Compute evaluates every term as if the episode ended now.
func Compute(t *Totals) Terms {
	terms := Terms{
		Failure(t.Failures), Throughput(t.Tokens, t.TokenNorm), Headroom(t.HeadroomTenths, t.Steps),
		Efficiency(t.UsedQP, t.BudgetQP), Quality(t.RetainedTwenty, t.UsedQP), Latency(t.LatencyMilli),
		Risk(t.RiskHundredths),
	}
	if t.Serving.GoodNorm != 0 {
		terms.addServing(t)
	}
	return terms
}

// Score is Compute(t).Score(t.Weights()) without the terms that have no weight.
func (t *Totals) Score() int64 {
	if t.Serving.GoodNorm == 0 {
		return SeedScore(t.Failures, t.Tokens, t.TokenNorm, t.HeadroomTenths, t.Steps, t.UsedQP, t.BudgetQP, t.RetainedTwenty, t.LatencyMilli, t.RiskHundredths)
	}
	return t.Serving.Score(t.Failures)
}

// Score is the score of the serving profile.
func (s *ServingTotals) Score(failures uint32) int64 {
	w := &ServingWeights
	return floorDiv(w[Goodput]*s.goodput()+w[RequestPenalty]*s.requests(failures)+w[FirstTokenPenalty]*s.firstTokens()+w[WastePenalty]*s.waste(), scoreDivisor)
}

// SeedScore is the score of the seed profile from the totals of the same names, for those who have no Totals at hand.
func SeedScore(failures uint32, tokens uint64, norm uint32, tenths int32, steps, used, budget, retained, latency, risk uint32) int64 {
	w := &SeedWeights // one sum without an array, which Go would build in memory
	return floorDiv(w[0]*Failure(failures)+w[1]*Throughput(tokens, norm)+w[2]*Headroom(tenths, steps)+
		w[3]*Efficiency(used, budget)+w[4]*Quality(retained, used)+w[5]*Latency(latency)+w[6]*Risk(risk), scoreDivisor)
}

// addServing evaluates the terms of the serving profile.
func (terms *Terms) addServing(t *Totals) {
	s := &t.Serving
	terms[Goodput], terms[RequestPenalty], terms[FirstTokenPenalty], terms[WastePenalty] = s.goodput(), s.requests(t.Failures), s.firstTokens(), s.waste()
}

func (s *ServingTotals) goodput() int64 { return share(s.Goodput, s.GoodNorm) }

func (s *ServingTotals) requests(failures uint32) int64 {
	return -share(2*uint64(failures)+uint64(s.Late), 2*uint64(s.RequestNorm))
}

func (s *ServingTotals) firstTokens() int64 {
	return -share(uint64(s.FirstWaits), uint64(s.MaxWait)*uint64(s.RequestNorm))
}

func (s *ServingTotals) waste() int64 { return -share(s.WasteUS, s.WindowUS) }

// share is min(a/b, 1) in units of 2^-24, rounded toward zero.
func share(a, b uint64) int64 {
	a = min(a, b)
	if a < 1<<40 { // as always but in windows of years
		return int64(a * TermOne / b)
	}
	hi, lo := bits.Mul64(a, TermOne)
	q, _ := bits.Div64(hi, lo, b)
	return int64(q)
}

// Score is the weighted sum of the terms in units of 2^-20, rounded down.
func (t *Terms) Score(weights *Weights) int64 {
	var sum int64
	for i, w := range weights {
		sum += w * t[i]
	}
	return floorDiv(sum, scoreDivisor)
}

// Failure is -min(0.15 f + 0.10 max(0, f-2), 1); range [-1, 0].
func Failure(failures uint32) int64 { return failureTerms[min(failures, uint32(len(failureTerms)-1))] }

// failureTerms is that of 0, 1, ... failures; the last is -1, as all beyond it are.
var failureTerms = func() (t [8]int64) {
	for f := range int64(len(t)) {
		t[f] = -(min(15*f+10*max(0, f-2), 100) * TermOne / 100)
	}
	return t
}()

// Throughput is min(tokens/norm, 1); range [0, 1].
func Throughput(tokens uint64, norm uint32) int64 {
	return int64(min(tokens, uint64(norm))) * TermOne / int64(norm)
}

// Headroom is 0.4 times the mean over the episode's steps of the step values; range [-0.2, 0.4]. tenths is ten times
// the sum of the step values so far.
func Headroom(tenths int32, steps uint32) int64 {
	return floorDiv(int64(tenths)*4*TermOne, 100*int64(steps))
}

// HeadroomTenths is ten times a step's headroom value: 10 below 80 % of the budget, 5 below 95 %, 2 below 100 %, else -5.
func HeadroomTenths(usedQP, budgetQP uint32) int32 {
	return int32(-5 + 7*below(usedQP, budgetQP, 100) + 3*below(usedQP, budgetQP, 95) + 5*below(usedQP, budgetQP, 80))
}

// Pressure is 1 if memory stands above 95 % of the budget, else 0.
func Pressure(usedQP, budgetQP uint32) uint32 {
	return uint32((uint64(budgetQP)*95 - uint64(usedQP)*100) >> 63)
}

// Efficiency judges the memory left at the end: 0.2 below 85 % of the budget, 0.1 below 95 %, 0 below 100 %, else -0.2.
func Efficiency(usedQP, budgetQP uint32) int64 {
	const full, half = TermOne * 2 / 10, TermOne / 10
	return -full + full*below(usedQP, budgetQP, 100) + half*below(usedQP, budgetQP, 95) + (full-half)*below(usedQP, budgetQP, 85)
}

// Quality is the mean of (1 - eviction value) over the memory in use, 0 when nothing is; range [0, 1].
func Quality(retainedTwenty, usedQP uint32) int64 {
	return int64(retainedTwenty) * TermOne / (20 * int64(max(1, usedQP))) // nothing is retained where nothing is used
}

// Latency is -min(0.2 * swap latency, 0.3); range [-0.3, 0].
func Latency(milli uint32) int64 {
	return -int64(min(uint64(milli)*2, 3000) * TermOne / 10000) // unsigned divisions are shorter
}

// Risk is minus the sum of the evictions' risks; range (-inf, 0].
func Risk(hundredths uint32) int64 { return -int64(uint64(hundredths) * TermOne / 100) }

// below is 1 if used is less than percent of budget, else 0. No branch: memory wanders about these marks.
func below(used, budget, percent uint32) int64 {
	return int64((uint64(used)*100 - uint64(budget)*uint64(percent)) >> 63)
}

// floorDiv has no branch: the sign of a score is anybody's guess.
func floorDiv(a, b int64) int64 {
	q := a / b
	return q + (a-q*b)>>63 // the remainder's sign
}
