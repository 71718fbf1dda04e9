package rollout

import (
	"github.com/kvgym/kvgym/reward"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/vecenv"
)

// episodeRows holds the episodes of one shard as columns, in the order of the file.
type episodeRows struct {
	episode, tokenNorm, windowStep, tokens, score          []int64
	goodNorm, requestNorm, stepUS, good, wasteUS           []int64
	seed                                                   []uint64
	group, env, number, slots, steps, maxWait              []int32
	capacity, budget, used, shared, queue                  []int32
	arrived, admitted, completed, failures, rejected       []int32
	evictions, compressions, swaps, invalid, swapReads     []int32
	latency, headroom, pressure, risk, retained, liveFirst []int32
	firstWaits, late, forced, firstTokens                  []int32
	policy, difficulty, level                              []uint8
	reward, returned, latencyMetric                        []float64
	fixed                                                  [reward.NumTerms][]int64
	terms                                                  [reward.NumTerms][]float64

	live     liveRows
	prefixes prefixRows
}

// liveRows are the sequences left at the end of each episode.
type liveRows struct {
	lengths                                                []int32
	slot, tokens, remaining, priority, prefix, pages, cost []int32
	kind, quant                                            []int32
	swapped                                                []bool
	scratch                                                []vecenv.SlotState
}

// prefixRows are the shared prefixes of each episode as they stand at its end.
type prefixRows struct {
	lengths                     []int32
	id, pages, multiplier, cost []int32
}

func (e *episodeRows) int64s() []*[]int64 {
	out := []*[]int64{&e.episode, &e.tokenNorm, &e.windowStep, &e.tokens, &e.score, &e.goodNorm, &e.requestNorm, &e.stepUS, &e.good, &e.wasteUS}
	for k := range e.fixed {
		out = append(out, &e.fixed[k])
	}
	return out
}

func (e *episodeRows) int32s() []*[]int32 {
	return []*[]int32{&e.group, &e.env, &e.number, &e.slots, &e.steps, &e.maxWait, &e.capacity, &e.budget, &e.used, &e.shared, &e.queue,
		&e.arrived, &e.admitted, &e.completed, &e.failures, &e.rejected, &e.evictions, &e.compressions, &e.swaps, &e.invalid,
		&e.swapReads, &e.latency, &e.headroom, &e.pressure, &e.risk, &e.retained, &e.liveFirst, &e.firstWaits, &e.late, &e.forced,
		&e.firstTokens, &e.live.lengths, &e.prefixes.lengths}
}

func (l *liveRows) int32s() []*[]int32 {
	return []*[]int32{&l.slot, &l.tokens, &l.remaining, &l.priority, &l.prefix, &l.pages, &l.cost, &l.kind, &l.quant}
}

// clear empties every column.
func (e *episodeRows) clear() {
	for _, p := range e.int64s() {
		*p = (*p)[:0]
	}
	p := &e.prefixes
	for _, p := range append(append(e.int32s(), e.live.int32s()...), &p.id, &p.pages, &p.multiplier, &p.cost) {
		*p = (*p)[:0]
	}
	for _, p := range []*[]uint8{&e.policy, &e.difficulty, &e.level} {
		*p = (*p)[:0]
	}
	e.seed, e.live.swapped = e.seed[:0], e.live.swapped[:0]
	for _, p := range []*[]float64{&e.reward, &e.returned, &e.latencyMetric} {
		*p = (*p)[:0]
	}
	for k := range e.terms {
		e.terms[k] = e.terms[k][:0]
	}
}

// push appends one value to a column.
func push[T any](p *[]T, v T) { *p = append(*p, v) }

// ended is what the recorder knows of an episode beside its view.
type ended struct {
	episode  int64
	group    int
	live0    int32
	returned float64
}

// record appends the episode that the view's environment has just ended.
func (e *episodeRows) record(v vecenv.View, x ended) {
	c, t, ep, cfg := v.Counters(), v.Totals(), v.Episode(), v.Batch().Config()
	push(&e.episode, x.episode)
	push(&e.group, int32(x.group))
	push(&e.policy, 0)
	push(&e.difficulty, 0)
	push(&e.seed, ep.Seed)
	push(&e.env, int32(ep.Env))
	push(&e.number, int32(ep.Identity.Episode))
	push(&e.slots, int32(cfg.Slots))
	push(&e.steps, int32(cfg.Steps))
	push(&e.maxWait, int32(cfg.MaxWait))
	push(&e.capacity, int32(ep.CapacityQP))
	push(&e.budget, int32(ep.BudgetQP))
	push(&e.tokenNorm, int64(ep.TokenNorm))
	push(&e.level, uint8(ep.ArrivalLevel))
	push(&e.windowStep, int64(ep.WindowStep))
	push(&e.liveFirst, x.live0)
	push(&e.used, int32(t.UsedQP))
	push(&e.shared, int32(v.SharedQP()))
	push(&e.queue, int32(v.QueueLen()))
	push(&e.tokens, int64(t.Tokens))
	push(&e.latency, int32(t.LatencyMilli))
	push(&e.latencyMetric, float64(t.LatencyMilli)/1000)
	push(&e.headroom, t.HeadroomTenths)
	push(&e.risk, int32(t.RiskHundredths))
	push(&e.retained, int32(t.RetainedTwenty))
	push(&e.score, v.Score())
	push(&e.reward, float64(v.Score())/reward.ScoreOne)
	push(&e.returned, x.returned)
	e.recordCounters(&c)
	e.recordServing(v, &t)
	terms := reward.Compute(&t)
	for k, term := range terms {
		push(&e.fixed[k], term)
		push(&e.terms[k], float64(term)/reward.TermOne)
	}
	e.recordLeft(v, ep)
}

func (e *episodeRows) recordCounters(c *vecenv.Counters) {
	push(&e.arrived, int32(c.Arrived))
	push(&e.admitted, int32(c.Admitted))
	push(&e.completed, int32(c.Completed))
	push(&e.failures, int32(c.Failures))
	push(&e.rejected, int32(c.Rejected))
	push(&e.evictions, int32(c.Evictions))
	push(&e.compressions, int32(c.Compressions))
	push(&e.swaps, int32(c.Swaps))
	push(&e.invalid, int32(c.Invalid))
	push(&e.swapReads, int32(c.SwapReads))
	push(&e.pressure, int32(c.PressureSteps))
	push(&e.late, int32(c.Late))
	push(&e.forced, int32(c.Forced))
	push(&e.firstTokens, int32(c.FirstTokens))
}

// recordServing appends what the serving profile's terms are made of; 0 in the seed profile.
func (e *episodeRows) recordServing(v vecenv.View, t *reward.Totals) {
	s := &t.Serving
	push(&e.goodNorm, int64(s.GoodNorm))
	push(&e.requestNorm, int64(s.RequestNorm))
	push(&e.stepUS, int64(s.WindowUS)/int64(t.Steps))
	push(&e.good, int64(s.Goodput))
	push(&e.firstWaits, int32(s.FirstWaits))
	push(&e.wasteUS, int64(s.WasteUS))
}

// recordLeft appends what the cache holds at the episode's end, from which memory_efficiency and eviction_quality can be
// computed again.
func (e *episodeRows) recordLeft(v vecenv.View, ep *scenario.Episode) {
	l := &e.live
	l.scratch = v.AppendLive(l.scratch[:0])
	push(&l.lengths, int32(len(l.scratch)))
	for i := range l.scratch {
		s := &l.scratch[i]
		push(&l.slot, int32(s.Slot))
		push(&l.kind, int32(s.Type))
		push(&l.quant, int32(s.Quant))
		push(&l.swapped, s.Swapped)
		push(&l.tokens, int32(s.Tokens))
		push(&l.remaining, int32(s.Remaining))
		push(&l.priority, int32(s.Priority))
		push(&l.prefix, int32(s.Prefix))
		push(&l.pages, int32(s.PrivatePages))
		push(&l.cost, int32(s.CostQP))
	}
	p := &e.prefixes
	push(&p.lengths, int32(ep.NumPrefixes))
	for id := 1; id <= int(ep.NumPrefixes); id++ {
		push(&p.id, int32(id))
		push(&p.pages, int32(ep.PrefixPages[id]))
		push(&p.multiplier, int32(v.PrefixMultiplier(id)))
		push(&p.cost, int32(v.PrefixMultiplier(id)*uint32(ep.PrefixPages[id])))
	}
}

// columns describes the episodes table of one group's shard; docs/rollout.md shows it.
func (e *episodeRows) columns(policy, difficulty string) []column {
	out := []column{
		{name: "episode", unit: "number of the episode in the rollout", data: e.episode, key: true},
		{name: "group", unit: "index into the manifest's groups", data: e.group, key: true},
		{name: "policy", unit: "name", data: words{e.policy, []string{policy}}},
		{name: "difficulty", unit: "name", data: words{e.difficulty, []string{difficulty}}},
		{name: "seed", unit: "of the episode's identity", data: e.seed},
		{name: "env", unit: "of the episode's identity", data: e.env, key: true},
		{name: "episode_number", unit: "of the episode's identity", data: e.number},
		{name: "slots", unit: "sequences the environment can hold", data: e.slots},
		{name: "steps", unit: "steps of the episode", data: e.steps},
		{name: "max_wait", unit: "steps a request waits before it fails", data: e.maxWait},
		{name: "capacity_qp", unit: "GPU memory for KV cache, quarter pages", data: e.capacity},
		{name: "budget_qp", unit: "quarter pages that the policy may use", data: e.budget},
		{name: "token_norm", unit: "tokens that make a throughput of 1", data: e.tokenNorm},
		{name: "good_norm", unit: "serving: weighted tokens that make a goodput of 1", data: e.goodNorm},
		{name: "request_norm", unit: "serving: requests that the penalties are shares of", data: e.requestNorm},
		{name: "step_us", unit: "serving: length of a step, microseconds", data: e.stepUS},
		{name: "arrival_level", unit: "name", data: words{e.level, levelNames}},
		{name: "window_step", unit: "step of the trace at which the episode starts; 0 for synthetic traffic", data: e.windowStep},
		{name: "live_at_start", unit: "sequences in the cache after the reset", data: e.liveFirst},
		{name: "score_fixed", unit: "score, 2^-20", data: e.score},
		{name: "reward", unit: "score", data: e.reward},
		{name: "return", unit: "sum of the steps' rewards", data: e.returned},
	}
	for k, name := range reward.Names {
		out = append(out, column{name: name, unit: "term before weighting", data: e.terms[k]},
			column{name: name + "_fixed", unit: "term before weighting, 2^-24", data: e.fixed[k]})
	}
	out = append(out, e.metricColumns()...)
	return append(out, column{name: "live", unit: "sequences in the cache at the end", data: e.live.list()},
		column{name: "prefixes", unit: "shared prefixes at the end", data: e.prefixes.list()})
}

func (e *episodeRows) metricColumns() []column {
	return []column{
		{name: "total_tokens_metric", unit: "tokens generated", data: e.tokens},
		{name: "total_failures_metric", unit: "requests that waited too long or were rejected", data: e.failures},
		{name: "total_latency_metric", unit: "swap latency", data: e.latencyMetric},
		{name: "pressure_steps_metric", unit: "steps above 95 % of the budget", data: e.pressure},
		{name: "latency_milli", unit: "swap latency, thousandths", data: e.latency},
		{name: "headroom_tenths", unit: "sum of the steps' headroom values, tenths", data: e.headroom},
		{name: "risk_hundredths", unit: "sum of the evictions' risks, hundredths", data: e.risk},
		{name: "used_qp", unit: "quarter pages in use at the end", data: e.used},
		{name: "shared_qp", unit: "quarter pages, the part of used_qp that shared prefixes hold", data: e.shared},
		{name: "retained_twentieths", unit: "retention value of memory in use at the end, twentieths of quarter pages", data: e.retained},
		{name: "queue_len", unit: "requests waiting at the end", data: e.queue},
		{name: "arrived", unit: "requests", data: e.arrived},
		{name: "admitted", unit: "requests", data: e.admitted},
		{name: "completed", unit: "sequences", data: e.completed},
		{name: "rejected", unit: "of the failures, those that found the queue full", data: e.rejected},
		{name: "evictions", unit: "operations done", data: e.evictions},
		{name: "compressions", unit: "operations done", data: e.compressions},
		{name: "swaps", unit: "operations done", data: e.swaps},
		{name: "invalid_actions", unit: "operations that could not be done", data: e.invalid},
		{name: "swap_reads", unit: "accesses to swapped sequences", data: e.swapReads},
		{name: "good_tokens", unit: "serving: tokens weighted by priority and quality, late ones by half", data: e.good},
		{name: "first_waits", unit: "serving: steps that requests waited for the first token of a turn", data: e.firstWaits},
		{name: "late", unit: "serving: turns whose first token came after max_wait steps", data: e.late},
		{name: "forced", unit: "serving: sequences dropped because another one needed their memory", data: e.forced},
		{name: "waste_us", unit: "serving: transfers and work done again, microseconds", data: e.wasteUS},
		{name: "first_tokens", unit: "serving: turns that have given their first token", data: e.firstTokens},
	}
}

func (l *liveRows) list() list {
	return list{lengths: l.lengths, fields: []column{
		{name: "slot", unit: "slot", data: l.slot},
		{name: "block_type", unit: "0 system, 1 context, 2 generation, 3 reasoning, 4 ephemeral", data: l.kind},
		{name: "quant", unit: "0 fp16, 1 int8, 2 int4", data: l.quant},
		{name: "swapped", unit: "in CPU memory", data: l.swapped},
		{name: "tokens", unit: "tokens cached, shared prefix included", data: l.tokens},
		{name: "remaining", unit: "tokens still to generate", data: l.remaining},
		{name: "priority", unit: "percent", data: l.priority},
		{name: "prefix", unit: "shared prefix, 0 none", data: l.prefix},
		{name: "private_pages", unit: "pages it holds alone", data: l.pages},
		{name: "cost_qp", unit: "private memory, quarter pages; 0 while swapped", data: l.cost},
	}}
}

func (p *prefixRows) list() list {
	return list{lengths: p.lengths, fields: []column{
		{name: "prefix", unit: "number, 1 to 7", data: p.id},
		{name: "pages", unit: "pages", data: p.pages},
		{name: "multiplier", unit: "quarter pages a page costs now: 4, 2, 1, or 0 while no resident sequence has it", data: p.multiplier},
		{name: "cost_qp", unit: "quarter pages", data: p.cost},
	}}
}

// levelNames are the arrival levels by number.
var levelNames = func() (names []string) {
	for l := range scenario.FromTrace + 1 {
		names = append(names, l.String())
	}
	return names
}()
