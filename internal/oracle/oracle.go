// Package oracle is the judge of everything fast: one environment, scalar and obvious, written rule by rule from
// docs/simulator.md. It shares no step code with vecenv and is never tuned; when the two differ, read the rule.
package oracle

import (
	"fmt"

	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/reward"
	"github.com/kvgym/kvgym/scenario"
)

// Entry is one slot's sequence.
type Entry struct {
	Alive      bool
	Type       kv.BlockType
	Phase      kv.Phase
	Quant      kv.Quant
	Swapped    bool
	Tokens     uint32
	Remaining  uint32
	Rate       uint32
	Priority   uint32
	Prefix     uint8
	LastAccess int
	Hotness    uint32
	Timer      int
	OnCode     int
	OffCode    int
	Serving    Served
}

// Waiting is one queued request.
type Waiting struct {
	Word  scenario.Word
	Birth int
}

// Action is one operation on one slot.
type Action struct {
	Op   int
	Slot int
}

// Counters are the episode's event counts.
type Counters struct {
	Arrived, Admitted, Completed, Failures, Rejected   uint32
	Evictions, Compressions, Swaps, Invalid, SwapReads uint32
	PressureSteps                                      uint32
	Forced, Late, FirstTokens                          uint32
}

// Env is one environment.
type Env struct {
	Episode scenario.Episode
	Step    int // steps done
	Steps   int
	Slots   []Entry
	Queue   []Waiting
	Totals  reward.Totals
	Count   Counters
	Growth  int // change of the queue's length in the last step
	Terms   reward.Terms
	Score   int64
	Reward  int64 // last step's increase of Score

	source   scenario.Source
	queueCap int
	maxWait  int

	preset  *kv.Preset // nil: seed profile
	Tickets []Ticket   // the queue of the serving profile
	levels  [kv.MaxPrefixes + 1]kv.Quant
	busyQP  int64 // memory traffic of this step's compressions
}

// New makes an environment that draws from the source; Reset must follow.
func New(source scenario.Source, slots, steps, maxWait int) *Env {
	return &Env{source: source, Slots: make([]Entry, slots), Steps: steps, queueCap: slots / 2, maxWait: maxWait}
}

// Reset starts an episode; rules 3.1 to 3.4.
func (v *Env) Reset(id scenario.Identity) {
	v.source.Begin(id, &v.Episode)
	v.Step, v.Growth, v.Score, v.Reward = 0, 0, 0, 0
	v.Queue = v.Queue[:0]
	v.Count, v.Terms = Counters{}, reward.Terms{}
	clear(v.Slots)
	v.Totals = reward.Totals{Steps: uint32(v.Steps), TokenNorm: v.Episode.TokenNorm, BudgetQP: v.Episode.BudgetQP}
	v.resetServing()
	for i := 0; i < int(v.Episode.NumInitial); i++ {
		q := v.source.Initial(&v.Episode, i)
		slot := v.freeSlot()
		if slot < 0 || v.Used()+v.need(q.Sequence, uint32(q.DoneTokens)) > v.Episode.BudgetQP {
			continue
		}
		shared := v.PrefixMultiplier(q.Prefix) != 0
		v.Slots[slot] = Entry{Alive: true, Type: q.Type, Phase: q.Phase, Tokens: v.startTokens(q.Sequence) + uint32(q.DoneTokens),
			Remaining: uint32(q.OutputTokens) - uint32(q.DoneTokens), Rate: uint32(q.RateTokens), Priority: uint32(q.Priority),
			Prefix: q.Prefix, LastAccess: int(q.LastAccess), Hotness: uint32(q.Hotness), Timer: int(q.Timer),
			OnCode: int(q.OnCode()), OffCode: int(q.OffCode())}
		if v.preset != nil {
			v.startInitial(&v.Slots[slot], q, shared)
		}
	}
	if v.preset != nil {
		v.arriveServing()
	} else {
		v.arrive(0)
	}
	v.Totals.UsedQP = v.Used()
}

// Done tells whether the episode is over.
func (v *Env) Done() bool { return v.Step == v.Steps }

// StepOnce runs the phases of one step in order; rule 6.1.
func (v *Env) StepOnce(actions []Action) {
	v.Step++
	if v.preset != nil {
		v.stepServing(actions)
		return
	}
	before := len(v.Queue)
	for _, a := range actions {
		v.act(a)
	}
	v.generate()
	v.complete()
	v.admit()
	v.expire()
	v.arrive(v.Step)
	v.Growth = len(v.Queue) - before
	v.account()
}

// PrivatePages is what a sequence holds alone; rule 1.5.
func (v *Env) PrivatePages(e *Entry) uint32 {
	return kv.Pages(e.Tokens) - uint32(v.Episode.PrefixPages[e.Prefix])
}

// Cost is a sequence's private memory in quarter pages; rule 1.6.
func (v *Env) Cost(e *Entry) uint32 {
	if !e.Alive || e.Swapped {
		return 0
	}
	return v.PrivatePages(e) * e.Quant.QuarterPages()
}

// PrefixMultiplier is what one page of a shared prefix costs now; rule 1.7.
func (v *Env) PrefixMultiplier(p uint8) uint32 {
	var m uint32
	for i := range v.Slots {
		if e := &v.Slots[i]; e.Alive && !e.Swapped && e.Prefix == p {
			m = max(m, e.Quant.QuarterPages())
		}
	}
	if m != 0 && v.preset != nil { // rule 13.13: the level is the prefix's own
		m = v.levels[p].QuarterPages()
	}
	return m
}

// Used is all memory in use, quarter pages; rule 1.8.
func (v *Env) Used() uint32 {
	var used uint32
	for i := range v.Slots {
		used += v.Cost(&v.Slots[i])
	}
	return used + v.SharedCost()
}

// SharedCost is the memory of the shared prefixes, each held once.
func (v *Env) SharedCost() uint32 {
	var c uint32
	for p := uint8(1); p <= v.Episode.NumPrefixes; p++ {
		c += v.PrefixMultiplier(p) * uint32(v.Episode.PrefixPages[p])
	}
	return c
}

func (v *Env) act(a Action) {
	if a.Op == int(kv.Keep) {
		return
	}
	if a.Op < 0 || a.Op >= kv.NumOps || a.Slot < 0 || a.Slot >= len(v.Slots) || !v.Slots[a.Slot].Alive {
		v.Count.Invalid++
		return
	}
	e := &v.Slots[a.Slot]
	switch kv.Op(a.Op) {
	case kv.Evict:
		v.Totals.RiskHundredths += risk(e)
		*e = Entry{}
		v.Count.Evictions++
	case kv.Compress:
		if e.Swapped || e.Quant == kv.INT4 {
			v.Count.Invalid++
			return
		}
		e.Quant++
		v.Count.Compressions++
	case kv.Swap:
		if e.Swapped {
			v.Count.Invalid++
			return
		}
		e.Swapped = true
		v.Count.Swaps++
	}
}

func risk(e *Entry) uint32 {
	switch {
	case e.Type == kv.System:
		return 30
	case e.Type == kv.Context && e.Priority >= 50:
		return 15
	case e.Type == kv.Generation && e.Priority >= 70 && uint64(e.Tokens)*10 >= uint64(e.Tokens+e.Remaining)*7:
		return 20
	}
	return 0
}

func (v *Env) generate() {
	for i := range v.Slots {
		v.Slots[i].Hotness -= v.Slots[i].Hotness / 4
	}
	for i := range v.Slots {
		e := &v.Slots[i]
		if !e.Alive {
			continue
		}
		switch e.Phase {
		case kv.Prefill:
			e.Phase = kv.Decode
			if e.Type == kv.Reasoning {
				e.Phase = kv.Thinking
			}
		case kv.Idle:
			v.idle(e)
		default:
			v.decode(e)
		}
	}
}

func (v *Env) idle(e *Entry) {
	if e.Timer == 0 {
		return
	}
	e.Timer--
	if e.Timer == 0 && e.Remaining > 0 {
		e.Phase, e.Timer = kv.Decode, 2+e.OnCode
	}
}

func (v *Env) decode(e *Entry) {
	n := e.Rate
	if e.Swapped {
		n = (n + 1) / 2
	}
	n = min(n, e.Remaining)
	if !e.Swapped {
		growth := (kv.Pages(e.Tokens+n) - kv.Pages(e.Tokens)) * e.Quant.QuarterPages()
		if growth > 0 && v.Used()+growth > v.Episode.CapacityQP {
			return
		}
	} else {
		v.swapRead(e)
	}
	e.Tokens += n
	e.Remaining -= n
	v.Totals.Tokens += uint64(n)
	e.LastAccess = v.Step
	e.Hotness += 63
	switch e.Type {
	case kv.Context:
		if e.Timer == 0 {
			return
		}
		e.Timer--
		if e.Timer == 0 && e.Remaining > 0 {
			e.Phase, e.Timer = kv.Idle, 1+e.OffCode
		}
	case kv.Reasoning, kv.Ephemeral:
		if e.Remaining == 0 {
			e.Phase, e.Timer = kv.Idle, 1+e.OffCode
		}
	}
}

func (v *Env) swapRead(e *Entry) {
	v.Totals.LatencyMilli += 100 + min(200, 2*v.PrivatePages(e)*e.Quant.QuarterPages())
	v.Count.SwapReads++
}

func (v *Env) complete() {
	for i := range v.Slots {
		e := &v.Slots[i]
		if !e.Alive || e.Remaining > 0 || e.Type == kv.System {
			continue
		}
		if e.Type == kv.Context || e.Type == kv.Generation || (e.Phase == kv.Idle && e.Timer == 0) {
			*e = Entry{}
			v.Count.Completed++
		}
	}
}

func (v *Env) freeSlot() int {
	for i := range v.Slots {
		if !v.Slots[i].Alive {
			return i
		}
	}
	return -1
}

func (v *Env) startTokens(q scenario.Sequence) uint32 {
	return q.PromptTokens + uint32(v.Episode.PrefixPages[q.Prefix])*kv.PageTokens
}

func (v *Env) need(q scenario.Sequence, done uint32) uint32 {
	n := kv.Pages(q.PromptTokens+done) * kv.FP16QuarterPages
	if q.Prefix != 0 {
		n += uint32(v.Episode.PrefixPages[q.Prefix]) * (kv.FP16QuarterPages - v.PrefixMultiplier(q.Prefix))
	}
	return n
}

func (v *Env) admit() {
	kept := v.Queue[:0]
	for _, r := range v.Queue {
		q := v.source.Decode(&v.Episode, r.Word)
		slot := v.freeSlot()
		if slot < 0 || v.Used()+v.need(q, 0) > v.Episode.BudgetQP {
			kept = append(kept, r)
			continue
		}
		e := Entry{Alive: true, Type: q.Type, Phase: kv.Prefill, Tokens: v.startTokens(q), Remaining: uint32(q.OutputTokens),
			Rate: uint32(q.RateTokens), Priority: uint32(q.Priority), Prefix: q.Prefix, LastAccess: v.Step, Hotness: 63,
			OnCode: int(q.OnCode()), OffCode: int(q.OffCode())}
		if q.Type == kv.Context && !q.Steady {
			e.Timer = 2 + e.OnCode
		}
		v.Slots[slot] = e
		v.Count.Admitted++
		v.touchSystem(q.Prefix)
	}
	v.Queue = kept
}

func (v *Env) touchSystem(p uint8) {
	if p == 0 {
		return
	}
	for i := range v.Slots {
		e := &v.Slots[i]
		if e.Alive && e.Type == kv.System && e.Prefix == p {
			if e.Swapped {
				v.swapRead(e)
			}
			e.LastAccess = v.Step
			e.Hotness = min(255, e.Hotness+63)
		}
	}
}

func (v *Env) expire() {
	kept := v.Queue[:0]
	for _, r := range v.Queue {
		if v.Step-r.Birth >= v.maxWait {
			v.Count.Failures++
			continue
		}
		kept = append(kept, r)
	}
	v.Queue = kept
}

func (v *Env) arrive(step int) {
	var words [256]scenario.Word
	room := v.queueCap - len(v.Queue)
	n, _ := v.source.Arrive(&v.Episode, step, words[:room], nil)
	for k := 0; k < min(n, room); k++ {
		v.Queue = append(v.Queue, Waiting{Word: words[k], Birth: step})
	}
	v.Count.Arrived += uint32(n)
	if n > room {
		v.Count.Rejected += uint32(n - room)
		v.Count.Failures += uint32(n - room)
	}
}

func (v *Env) account() {
	t := &v.Totals
	t.Failures = v.Count.Failures
	t.UsedQP = v.Used()
	t.HeadroomTenths += reward.HeadroomTenths(t.UsedQP, t.BudgetQP)
	if reward.Pressure(t.UsedQP, t.BudgetQP) == 1 {
		v.Count.PressureSteps++
	}
	t.RetainedTwenty = v.retained()
	v.Terms = reward.Compute(t)
	score := v.Terms.Score(t.Weights())
	v.Reward, v.Score = score-v.Score, score
}

func (v *Env) retained() uint32 {
	var sum uint32
	for i := range v.Slots {
		sum += v.Cost(&v.Slots[i]) * v.Slots[i].Type.RetentionTwentieths()
	}
	for p := uint8(1); p <= v.Episode.NumPrefixes; p++ {
		var w uint32
		for i := range v.Slots {
			if e := &v.Slots[i]; e.Alive && !e.Swapped && e.Prefix == p {
				w = max(w, e.Type.RetentionTwentieths())
			}
		}
		if v.preset != nil {
			w = kv.System.RetentionTwentieths() // rule 13.21
		}
		sum += w * v.PrefixMultiplier(p) * uint32(v.Episode.PrefixPages[p])
	}
	return sum
}

func (v *Env) String() string {
	return fmt.Sprintf("step %d/%d used %d budget %d queue %d failures %d", v.Step, v.Steps, v.Used(), v.Episode.BudgetQP, len(v.Queue), v.Count.Failures)
}
