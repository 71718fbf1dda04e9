package vecenv

import (
	"fmt"

	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/reward"
)

// Buffers are the tensors a batch writes, row i for environment i, all contiguous. A tensor that Config.Outputs leaves
// out is nil. Terms of Components are cumulative and unweighted, as if the episode ended now.
type Buffers struct {
	Obs      []float32 // [envs][ObsLen(slots)]
	FinalObs []float32 // [envs][ObsLen(slots)], SameStep only: rows of environments that ended in this step are written

	ObsBytes      []uint8 // [envs][ObsLen(slots)], in place of Obs where Config.ObsType is ObsU8
	FinalObsBytes []uint8 // the same for FinalObs

	Reward     []float32 // [envs] increase of the weighted score, a multiple of 2^-20
	Terminated []uint8   // [envs] 0 or 1
	Truncated  []uint8   // [envs] 0 or 1
	Mask       []uint8   // [envs][slots][4] 0 or 1: keep, evict, compress, swap
	Components []float32 // [envs][11] in the order of reward.Names
	Metrics    []float32 // [envs][NumMetrics] in the order of MetricNames
}

// NumMetrics is the number of metrics of an environment.
const NumMetrics = 19

// MetricNames are the metrics' names; the first four are the seed's. All are totals of the episode so far, but for
// memory_usage, which is memory in use over the budget. Those after it are 0 in the seed profile.
var MetricNames = [NumMetrics]string{"total_tokens_metric", "total_failures_metric", "total_latency_metric", "pressure_steps_metric",
	"arrived", "admitted", "completed", "rejected", "evictions", "compressions", "swaps", "invalid_actions", "swap_reads", "memory_usage",
	"forced_preemptions", "late_turns", "first_tokens", "first_token_waits", "waste_us"}

func (v *env) metrics(out *[NumMetrics]float32) {
	c := &v.Counters
	*out = [NumMetrics]float32{float32(v.Tokens), float32(c.Failures), float32(v.LatencyMilli) / 1000, float32(c.PressureSteps),
		float32(c.Arrived), float32(c.Admitted), float32(c.Completed), float32(c.Rejected), float32(c.Evictions),
		float32(c.Compressions), float32(c.Swaps), float32(c.Invalid), float32(c.SwapReads), ratio(v.UsedQP(), v.Episode.BudgetQP),
		float32(c.Forced), float32(c.Late), float32(c.FirstTokens), 0, 0}
	if v.tally != nil {
		out[17], out[18] = float32(v.tally.FirstWaits), float32(v.tally.WasteUS)
	}
}

func writeComponents(out *[reward.NumTerms]float32, t *reward.Terms) {
	for i, x := range t {
		out[i] = float32(x) * (1.0 / reward.TermOne)
	}
}

// prepare checks the caller's tensors and allocates the missing ones.
func (b *Buffers) prepare(c *Config) error {
	obs := c.Envs * ObsLen(c.Slots)
	if c.Outputs&WithObs == 0 {
		obs = 0
	}
	final := obs
	if c.Autoreset != SameStep {
		final = 0
	}
	bytes, finalBytes := 0, 0
	if c.ObsType == ObsU8 {
		obs, final, bytes, finalBytes = 0, 0, obs, final
	}
	with := func(o Outputs, n int) int {
		if c.Outputs&o == 0 {
			return 0
		}
		return c.Envs * n
	}
	for _, t := range []struct {
		name string
		p    *[]float32
		n    int
	}{
		{"Obs", &b.Obs, obs}, {"FinalObs", &b.FinalObs, final}, {"Reward", &b.Reward, c.Envs},
		{"Components", &b.Components, with(WithComponents, reward.NumTerms)}, {"Metrics", &b.Metrics, with(WithMetrics, NumMetrics)},
	} {
		if err := ensure(t.name, t.p, t.n); err != nil {
			return err
		}
	}
	for _, t := range []struct {
		name string
		p    *[]uint8
		n    int
	}{{"ObsBytes", &b.ObsBytes, bytes}, {"FinalObsBytes", &b.FinalObsBytes, finalBytes}, {"Terminated", &b.Terminated, c.Envs}, {"Truncated", &b.Truncated, c.Envs}, {"Mask", &b.Mask, with(WithMask, c.Slots*kv.NumOps)}} {
		if err := ensure(t.name, t.p, t.n); err != nil {
			return err
		}
	}
	return nil
}

// ensure allocates *p with n values when it is nil and checks its length otherwise.
func ensure[T float32 | uint8](name string, p *[]T, n int) error {
	if *p == nil && n > 0 {
		*p = aligned[T](n)
	}
	if len(*p) != n {
		return fmt.Errorf("vecenv: Buffers.%s: %d values: allowed %d", name, len(*p), n)
	}
	return nil
}

// SetBuffers makes the batch write into other tensors from the next call on; one that is nil stays what it is. The lengths must be those of
// Buffers, and no group may be in flight. Nothing is copied: rows that the next calls do not write, those of a partial reset and of FinalObs,
// hold what the new tensors hold.
func (b *Batch) SetBuffers(tensors Buffers) error {
	if err := b.checkIdle("SetBuffers"); err != nil {
		return err
	}
	b.next = tensors // whose address may be taken without an allocation: callers do this before every step
	next := &b.next
	for _, t := range []struct{ to, from *[]float32 }{{&next.Obs, &b.Obs}, {&next.FinalObs, &b.FinalObs}, {&next.Reward, &b.Reward},
		{&next.Components, &b.Components}, {&next.Metrics, &b.Metrics}} {
		if *t.to == nil {
			*t.to = *t.from
		}
	}
	for _, t := range []struct{ to, from *[]uint8 }{{&next.ObsBytes, &b.ObsBytes}, {&next.FinalObsBytes, &b.FinalObsBytes},
		{&next.Terminated, &b.Terminated}, {&next.Truncated, &b.Truncated}, {&next.Mask, &b.Mask}} {
		if *t.to == nil {
			*t.to = *t.from
		}
	}
	if err := next.prepare(&b.cfg); err != nil {
		return err
	}
	b.Buffers = *next
	b.chooseStores()
	return nil
}
