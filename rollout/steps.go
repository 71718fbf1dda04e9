package rollout

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/reward"
	"github.com/kvgym/kvgym/vecenv"
)

// stepRows holds the steps of one shard as columns; row episode*steps+step-1, in the order of the file, whatever the
// order in which the waves bring them.
type stepRows struct {
	episode, tokens, score, tokenNorm, good, wasteUS   []int64
	seed                                               []uint64
	policy, difficulty                                 []uint8
	group, env, step                                   []int32
	used, shared, budget, queue, growth                []int32
	arrived, admitted, completed, failures, rejected   []int32
	evictions, compressions, swaps, invalid, swapReads []int32
	latency, headroom, pressure, risk, retained, live  []int32
	firstWaits, late, forced, firstTokens, moving      []int32
	reward                                             []float32
	terminated, truncated                              []bool
	acts                                               actionRows
	obs                                                blob // width 0: none
}

// int32s and the like are the columns to allocate; the order does not matter.
func (s *stepRows) int32s() []*[]int32 {
	return []*[]int32{&s.group, &s.env, &s.step, &s.used, &s.shared, &s.budget, &s.queue, &s.growth, &s.arrived, &s.admitted, &s.completed,
		&s.failures, &s.rejected, &s.evictions, &s.compressions, &s.swaps, &s.invalid, &s.swapReads, &s.latency, &s.headroom, &s.pressure,
		&s.risk, &s.retained, &s.live, &s.firstWaits, &s.late, &s.forced, &s.firstTokens, &s.moving}
}

// resize makes room for rows, of obsBytes of observation each, and forgets the actions.
func (s *stepRows) resize(rows, obsBytes int) {
	for _, p := range []*[]int64{&s.episode, &s.tokens, &s.score, &s.tokenNorm, &s.good, &s.wasteUS} {
		fit(p, rows)
	}
	fit(&s.seed, rows)
	fit(&s.policy, rows)
	fit(&s.difficulty, rows)
	for _, p := range s.int32s() {
		fit(p, rows)
	}
	fit(&s.reward, rows)
	fit(&s.terminated, rows)
	fit(&s.truncated, rows)
	s.obs.width = obsBytes
	fit(&s.obs.bytes, rows*obsBytes)
	s.acts.resize(rows)
}

// fit gives *p n values, of which nothing is known.
func fit[T any](p *[]T, n int) {
	if cap(*p) < n {
		*p = make([]T, n)
	}
	*p = (*p)[:n]
}

// record stores a step that environment i has just made. live0 is the number of sequences live after its reset.
func (s *stepRows) record(row int, b *vecenv.Batch, i int, live0 int32) {
	v := b.View(i)
	c, t := v.Counters(), v.Totals()
	s.used[row] = int32(t.UsedQP)
	s.shared[row] = int32(v.SharedQP())
	s.budget[row] = int32(t.BudgetQP)
	s.queue[row] = int32(v.QueueLen())
	s.growth[row] = int32(v.Growth())
	s.tokens[row] = int64(t.Tokens)
	s.tokenNorm[row] = int64(t.TokenNorm)
	s.score[row] = v.Score()
	s.arrived[row] = int32(c.Arrived)
	s.admitted[row] = int32(c.Admitted)
	s.completed[row] = int32(c.Completed)
	s.failures[row] = int32(c.Failures)
	s.rejected[row] = int32(c.Rejected)
	s.evictions[row] = int32(c.Evictions)
	s.compressions[row] = int32(c.Compressions)
	s.swaps[row] = int32(c.Swaps)
	s.invalid[row] = int32(c.Invalid)
	s.swapReads[row] = int32(c.SwapReads)
	s.latency[row] = int32(t.LatencyMilli)
	s.headroom[row] = t.HeadroomTenths
	s.pressure[row] = int32(c.PressureSteps)
	s.risk[row] = int32(t.RiskHundredths)
	s.retained[row] = int32(t.RetainedTwenty)
	s.live[row] = live0 + int32(c.Admitted) - int32(c.Completed) - int32(c.Evictions) - int32(c.Forced)
	s.reward[row] = b.Reward[i]
	s.terminated[row] = b.Terminated[i] != 0
	s.truncated[row] = b.Truncated[i] != 0
	s.recordServing(row, v, &c, &t.Serving)
}

// recordServing stores what the serving profile counts; 0 in the seed profile.
func (s *stepRows) recordServing(row int, v vecenv.View, c *vecenv.Counters, t *reward.ServingTotals) {
	s.good[row] = int64(t.Goodput)
	s.firstWaits[row] = int32(t.FirstWaits)
	s.late[row] = int32(c.Late)
	s.forced[row] = int32(c.Forced)
	s.firstTokens[row] = int32(c.FirstTokens)
	s.wasteUS[row] = int64(t.WasteUS)
	s.moving[row] = 0
	if v.Profile() == vecenv.Serving {
		v.Live(func(q *vecenv.SlotState) bool {
			if q.Moving {
				s.moving[row]++
			}
			return true
		})
	}
}

// observe stores what environment i's policy saw before the step of that row.
func (s *stepRows) observe(row int, b *vecenv.Batch, i int) {
	out := s.obs.bytes[row*s.obs.width : (row+1)*s.obs.width]
	if b.ObsBytes != nil {
		copy(out, b.ObsBytes[i*len(out):])
		return
	}
	n := len(out) / 4
	for k, x := range b.Obs[i*n : (i+1)*n] {
		binary.LittleEndian.PutUint32(out[4*k:], math.Float32bits(x))
	}
}

// number fills the columns that name rows: episodes first, first+1, ... of a group, each of the given steps.
func (s *stepRows) number(seed uint64, group int, firstOfGroup, first int64, steps int) {
	for row := range s.seed {
		s.seed[row] = seed
	}
	for row := 0; row < len(s.episode); first++ {
		for t := range steps {
			s.episode[row+t] = firstOfGroup + first
			s.group[row+t] = int32(group)
			s.env[row+t] = int32(first)
			s.step[row+t] = int32(t + 1)
		}
		row += steps
	}
}

// columns describes the steps table of one group's shard; docs/rollout.md shows it.
func (s *stepRows) columns(policy, difficulty string, obs Obs) []column {
	out := []column{
		{name: "episode", unit: "number of the episode in the rollout", data: s.episode, key: true},
		{name: "group", unit: "index into the manifest's groups", data: s.group, key: true},
		{name: "policy", unit: "name", data: words{s.policy, []string{policy}}},
		{name: "difficulty", unit: "name", data: words{s.difficulty, []string{difficulty}}},
		{name: "seed", unit: "of the episode's identity", data: s.seed},
		{name: "env", unit: "of the episode's identity, whose episode number is 0", data: s.env, key: true},
		{name: "step", unit: "number of the step, 1 to steps; the row shows the state after it", data: s.step, key: true},
		{name: "used_qp", unit: "quarter pages in use", data: s.used},
		{name: "shared_qp", unit: "quarter pages, the part of used_qp that shared prefixes hold", data: s.shared},
		{name: "budget_qp", unit: "quarter pages that the policy may use", data: s.budget},
		{name: "queue_len", unit: "requests waiting", data: s.queue},
		{name: "queue_growth", unit: "requests, change of queue_len in this step", data: s.growth},
		{name: "tokens", unit: "tokens generated so far", data: s.tokens},
		{name: "token_norm", unit: "tokens that make a throughput of 1", data: s.tokenNorm},
		{name: "arrived", unit: "requests so far", data: s.arrived},
		{name: "admitted", unit: "requests so far", data: s.admitted},
		{name: "completed", unit: "sequences so far", data: s.completed},
		{name: "failures", unit: "requests so far that waited too long or were rejected", data: s.failures},
		{name: "rejected", unit: "of failures, those that found the queue full", data: s.rejected},
		{name: "evictions", unit: "operations done so far", data: s.evictions},
		{name: "compressions", unit: "operations done so far", data: s.compressions},
		{name: "swaps", unit: "operations done so far", data: s.swaps},
		{name: "invalid_actions", unit: "operations so far that could not be done", data: s.invalid},
		{name: "swap_reads", unit: "accesses to swapped sequences so far", data: s.swapReads},
		{name: "latency_milli", unit: "swap latency so far, thousandths", data: s.latency},
		{name: "headroom_tenths", unit: "sum of the steps' headroom values so far, tenths", data: s.headroom},
		{name: "pressure_steps", unit: "steps so far above 95 % of the budget", data: s.pressure},
		{name: "risk_hundredths", unit: "sum of the evictions' risks so far, hundredths", data: s.risk},
		{name: "retained_twentieths", unit: "retention value of memory in use, twentieths of quarter pages", data: s.retained},
		{name: "good_tokens", unit: "serving: tokens so far, weighted by priority and quality, late ones by half", data: s.good},
		{name: "first_waits", unit: "serving: steps so far that requests waited for the first token of a turn", data: s.firstWaits},
		{name: "late", unit: "serving: turns so far whose first token came after max_wait steps", data: s.late},
		{name: "forced", unit: "serving: sequences so far dropped because another one needed their memory", data: s.forced},
		{name: "waste_us", unit: "serving: transfers and work done again so far, microseconds", data: s.wasteUS},
		{name: "first_tokens", unit: "serving: turns so far that have given their first token", data: s.firstTokens},
		{name: "live", unit: "sequences in the cache", data: s.live},
		{name: "moving", unit: "serving: of live, sequences on the way to or from CPU memory", data: s.moving},
		{name: "reward", unit: "increase of the score in this step", data: s.reward},
		{name: "score_fixed", unit: "score as if the episode ended here, 2^-20", data: s.score},
		{name: "terminated", unit: "the episode ends with this step", data: s.terminated},
		{name: "truncated", unit: "the episode is cut off after this step", data: s.truncated},
		{name: "actions", unit: "operations that the policy asked for in this step, in order; keep is left out", data: s.acts.list()},
	}
	if s.obs.width > 0 {
		out = append(out, column{name: "obs", unit: obs.about(), data: s.obs})
	}
	return out
}

// action is one operation that a policy asked for, and the sequence it is on as it stood just before the step.
type action struct {
	slot           int32
	tokens, target uint32
	cost           uint32
	op             int32
	kind, quant    int8 // -1: the slot is empty or does not exist
	priority       uint8
	valid          bool
}

// actionRows holds the operations of one shard: all of them in the order in which they came, and where each row's lie.
type actionRows struct {
	all     []action
	first   []int32 // of each row
	lengths []int32 // of each row

	op, slot, kind, priority, tokens, target, quant, cost []int32
	valid                                                 []bool
}

func (a *actionRows) resize(rows int) {
	a.all = a.all[:0]
	fit(&a.first, rows)
	fit(&a.lengths, rows)
}

// list gathers the operations in the order of the rows.
func (a *actionRows) list() list {
	for _, p := range []*[]int32{&a.op, &a.slot, &a.kind, &a.priority, &a.tokens, &a.target, &a.quant, &a.cost} {
		fit(p, len(a.all))
	}
	fit(&a.valid, len(a.all))
	k := 0
	for row, n := range a.lengths {
		if n == 0 {
			continue
		}
		for _, x := range a.all[a.first[row]:][:n] {
			a.op[k], a.slot[k], a.kind[k], a.priority[k] = x.op, x.slot, int32(x.kind), int32(x.priority)
			a.tokens[k], a.target[k], a.quant[k], a.cost[k] = int32(x.tokens), int32(x.target), int32(x.quant), int32(x.cost)
			a.valid[k] = x.valid
			k++
		}
	}
	return list{lengths: a.lengths, fields: []column{
		{name: "op", unit: "operation: 1 evict, 2 compress, 3 swap", data: a.op},
		{name: "slot", unit: "slot", data: a.slot},
		{name: "valid", unit: "the operation was done; earlier ones of the same step count, and in the serving profile whether the CPU had memory for a swap", data: a.valid},
		{name: "block_type", unit: "of the sequence just before the step: 0 system, 1 context, 2 generation, 3 reasoning, 4 ephemeral; -1: empty slot", data: a.kind},
		{name: "priority", unit: "percent", data: a.priority},
		{name: "tokens", unit: "tokens cached just before the step", data: a.tokens},
		{name: "target_tokens", unit: "tokens when complete, so that progress is tokens / target_tokens", data: a.target},
		{name: "quant", unit: "just before the step: 0 fp16, 1 int8, 2 int4; -1: empty slot", data: a.quant},
		{name: "cost_qp", unit: "private memory just before the step, quarter pages", data: a.cost},
	}}
}

// actionRecorder judges operations one after another as rules 6.2 and 13.11 do, before the batch applies them.
type actionRecorder struct {
	stamp uint32
	seen  [256]uint32 // stamp of the step in which the slot was last looked up
	was   [256]action // what is known of the slot's sequence just before the step
	now   [256]place
	slot  vecenv.SlotState // scratch
	asked []leaving        // of the present step
}

// place is what an operation depends on.
type place struct {
	live, swapped bool
	quant         kv.Quant
	pages         uint32 // private
	// Serving profile only.
	moving, prefill, wanted bool
}

// leaving is a swap out: the CPU may have no memory for it.
type leaving struct {
	slot int32
	at   int // its operation in actionRows.all
}

// record stores the operations that environment i's policy asks for in its next step.
func (r *actionRecorder) record(a *actionRows, row int, v vecenv.View, pairs []int32) {
	a.first[row] = int32(len(a.all))
	r.stamp++
	r.asked = r.asked[:0]
	slots, serving := v.Slots(), v.Profile() == vecenv.Serving
	for k := 0; k+1 < len(pairs); k += 2 {
		op, slot := pairs[k], pairs[k+1]
		if op == int32(kv.Keep) {
			continue
		}
		if slot < 0 || int(slot) >= slots {
			a.all = append(a.all, action{op: op, slot: slot, kind: -1, quant: -1})
			continue
		}
		if r.seen[slot] != r.stamp {
			r.seen[slot] = r.stamp
			r.lookUp(v, slot)
		}
		a.all = append(a.all, r.was[slot])
		x := &a.all[len(a.all)-1]
		x.op = op
		if serving {
			x.valid = r.applyServing(op, slot, len(a.all)-1)
		} else {
			x.valid = r.now[slot].apply(op)
		}
	}
	if len(r.asked) > 0 {
		r.refuse(a, v)
	}
	a.lengths[row] = int32(len(a.all)) - a.first[row]
}

// lookUp remembers a slot as it stands before the step.
func (r *actionRecorder) lookUp(v vecenv.View, slot int32) {
	s := &r.slot
	if !v.ReadSlot(int(slot), s) {
		r.was[slot], r.now[slot] = action{slot: slot, kind: -1, quant: -1}, place{}
		return
	}
	r.was[slot] = action{slot: slot, kind: int8(s.Type), quant: int8(s.Quant), priority: uint8(s.Priority), tokens: s.Tokens, target: s.Target(), cost: s.CostQP}
	r.now[slot] = place{live: true, swapped: s.Swapped, quant: s.Quant, pages: s.PrivatePages, moving: s.Moving, prefill: s.Phase == kv.Prefill, wanted: s.Wanted}
}

// apply does an operation of the seed profile if it can be done.
func (p *place) apply(op int32) bool {
	switch {
	case op == int32(kv.Evict) && p.live:
		p.live = false
	case op == int32(kv.Compress) && p.live && !p.swapped && p.quant != kv.INT4:
		p.quant++
	case op == int32(kv.Swap) && p.live && !p.swapped:
		p.swapped = true
	default:
		return false
	}
	return true
}

// applyServing does an operation of the serving profile, number at in the rows, if it can be done; rule 13.11. A swap out stays
// to be judged by refuse.
func (r *actionRecorder) applyServing(op, slot int32, at int) bool {
	p := &r.now[slot]
	runs := p.live && !p.swapped && !p.moving && !p.prefill
	switch {
	case op == int32(kv.Evict) && p.live:
		p.live = false
	case op == int32(kv.Compress) && runs && p.quant != kv.INT4:
		p.quant++
	case op == int32(kv.Swap) && runs:
		p.moving = true
		r.asked = append(r.asked, leaving{slot, at})
	case op == int32(kv.Swap) && p.live && p.swapped && !p.wanted:
		p.wanted = true
	default:
		return false
	}
	return true
}

// refuse marks the swaps out for which the CPU has no memory; rule 13.14.
func (r *actionRecorder) refuse(a *actionRows, v vecenv.View) {
	host, limit := r.hostQP(v), uint64(v.BudgetQP())*uint64(v.Preset().HostPermille)/1000
	slices.SortFunc(r.asked, func(x, y leaving) int { return int(x.slot - y.slot) })
	for _, x := range r.asked {
		p := &r.now[x.slot]
		if !p.live {
			continue
		}
		if qp := uint64(p.pages * p.quant.QuarterPages()); host+qp <= limit {
			host += qp
		} else {
			a.all[x.at].valid = false
		}
	}
}

// hostQP is the CPU memory that those take which had left or were leaving before the step, without those evicted in it.
func (r *actionRecorder) hostQP(v vecenv.View) (qp uint64) {
	v.Live(func(s *vecenv.SlotState) bool {
		evicted := r.seen[s.Slot] == r.stamp && !r.now[s.Slot].live
		if (s.Swapped || s.Moving && !s.Back) && !evicted {
			qp += uint64(s.PrivatePages * s.Quant.QuarterPages())
		}
		return true
	})
	return qp
}
