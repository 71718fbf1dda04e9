package oracle

import (
	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/reward"
	"github.com/kvgym/kvgym/scenario"
)

// Served is what the serving profile adds to a sequence; rule 13.8.
type Served struct {
	Work   uint32 // microseconds of prefill left
	Moving uint32 // quarter pages still to cross the link
	Ref    uint32
	Wake   int // step in which an idle sequence goes on or ends
	Born   int // step in which its turn began
	Admit  int // step in which it was admitted
	Out    bool
	In     bool
	Fresh  bool // swapped out in this step
	Wanted bool // swapped, and asked back
	First  bool // its turn has given its first token
	Late   bool // after the deadline
}

// Ticket is one waiting request of the serving profile; rule 13.8.
type Ticket struct {
	Private   uint32
	Remaining uint32
	Priority  uint32
	Ref       uint32
	Prefix    uint8
	Type      kv.BlockType
	OnCode    int
	OffCode   int
	Born      int
	Since     int
	First     bool
	Late      bool
	Again     bool // its prefill is work done again
}

// NewServing makes an environment of the serving profile.
func NewServing(source scenario.Source, slots, steps, maxWait int, p *kv.Preset) *Env {
	v := New(source, slots, steps, maxWait)
	v.preset = p
	return v
}

// Serving tells whether the environment plays the serving profile.
func (v *Env) Serving() bool { return v.preset != nil }

func (v *Env) stepUS() int64 { return v.preset.StepMillis * 1000 }

func (v *Env) resetServing() {
	v.Tickets = v.Tickets[:0]
	v.levels = [kv.MaxPrefixes + 1]kv.Quant{}
	if v.preset == nil {
		return
	}
	v.Totals.Serving = reward.ServingTotals{GoodNorm: v.Episode.GoodNorm, RequestNorm: v.Episode.RequestNorm, MaxWait: uint32(v.maxWait),
		WindowUS: uint64(v.Steps) * uint64(v.stepUS())}
}

// startInitial completes an initial sequence; rule 13.9.
func (v *Env) startInitial(e *Entry, q scenario.InitialSequence, shared bool) {
	e.Rate, e.Timer = 0, 0
	e.Serving = Served{Ref: q.Ref, Wake: int(q.Timer), First: true}
	if e.Phase == kv.Prefill {
		e.Serving.First = false
		e.Serving.Work = v.prefillWork(e, shared)
	}
}

// prefillWork is the time to compute a sequence's whole prompt, but for a resident prefix; rule 13.17.
func (v *Env) prefillWork(e *Entry, shared bool) uint32 {
	prefix := int64(v.Episode.PrefixPages[e.Prefix]) * kv.PageTokens
	if shared {
		return v.preset.PrefillUS(int64(e.Tokens)-prefix, prefix)
	}
	return v.preset.PrefillUS(int64(e.Tokens), 0)
}

// stepServing is the rest of rule 13.10 after the step number has grown.
func (v *Env) stepServing(actions []Action) {
	before := len(v.Tickets)
	for i := range v.Slots {
		v.Slots[i].Serving.Fresh = false
	}
	v.actServing(actions)
	v.transferOut()
	for i := range v.Slots {
		v.Slots[i].Hotness -= v.Slots[i].Hotness / 4
	}
	v.wake()
	v.swapIn()
	v.transferIn()
	prefilled := v.prefill()
	v.decodeServing(prefilled)
	v.admitServing()
	v.expireServing()
	v.arriveServing()
	v.Growth = len(v.Tickets) - before
	v.countWaits()
	v.account()
}

// actServing applies the operations; rules 13.11 to 13.13.
func (v *Env) actServing(actions []Action) {
	v.busyQP = 0
	wanted := v.levels
	asked := make([]bool, len(v.Slots)) // to leave in this step
	for _, a := range actions {
		if a.Op == int(kv.Keep) {
			continue
		}
		if a.Op < 0 || a.Op >= kv.NumOps || a.Slot < 0 || a.Slot >= len(v.Slots) || !v.allowed(kv.Op(a.Op), a.Slot) {
			v.Count.Invalid++
			continue
		}
		e := &v.Slots[a.Slot]
		switch kv.Op(a.Op) {
		case kv.Evict:
			v.Totals.RiskHundredths += risk(e)
			v.Count.Evictions++
			v.drop(a.Slot)
		case kv.Compress:
			before := e.Quant.QuarterPages()
			e.Quant++
			v.busyQP += int64(v.PrivatePages(e)) * int64(before+e.Quant.QuarterPages())
			wanted[e.Prefix] = max(wanted[e.Prefix], e.Quant)
			v.Count.Compressions++
		case kv.Swap:
			if e.Swapped {
				e.Serving.Wanted = true
			} else {
				e.Serving.Out, e.Serving.Moving = true, v.Cost(e)
				asked[a.Slot] = true
			}
			v.Count.Swaps++
		}
	}
	v.refuseSwaps(asked)
	for p := uint8(1); p <= v.Episode.NumPrefixes; p++ {
		if before := v.PrefixMultiplier(p); before != 0 && wanted[p] > v.levels[p] {
			v.levels[p] = wanted[p]
			v.busyQP += int64(v.Episode.PrefixPages[p]) * int64(before+v.PrefixMultiplier(p))
		}
	}
}

// hostCost is what a sequence takes of the CPU's memory, quarter pages; rule 13.14.
func (v *Env) hostCost(e *Entry) uint32 {
	if !e.Alive || !e.Swapped && !e.Serving.Out {
		return 0
	}
	return v.PrivatePages(e) * e.Quant.QuarterPages()
}

// hostLimit is the CPU's memory for swapped sequences, quarter pages.
func (v *Env) hostLimit() uint64 {
	return uint64(v.Episode.BudgetQP) * uint64(v.preset.HostPermille) / 1000
}

// refuseSwaps takes back swaps that the CPU has no memory for, in slot order; rule 13.14.
func (v *Env) refuseSwaps(asked []bool) {
	var host uint64
	for i := range v.Slots {
		if !asked[i] {
			host += uint64(v.hostCost(&v.Slots[i]))
		}
	}
	for i := range v.Slots {
		e := &v.Slots[i]
		if !asked[i] || !e.Serving.Out {
			continue
		}
		if cost := uint64(v.hostCost(e)); host+cost <= v.hostLimit() {
			host += cost
			continue
		}
		e.Serving.Out, e.Serving.Moving = false, 0
		v.Count.Swaps--
		v.Count.Invalid++
	}
}

// allowed is the mask of one operation; rule 13.11.
func (v *Env) allowed(op kv.Op, slot int) bool {
	e := &v.Slots[slot]
	s := &e.Serving
	settled := e.Alive && !e.Swapped && !s.Out && !s.In && e.Phase != kv.Prefill
	switch op {
	case kv.Evict:
		return e.Alive
	case kv.Compress:
		return settled && e.Quant != kv.INT4
	case kv.Swap:
		return settled || e.Alive && e.Swapped && !s.Wanted
	}
	return true
}

// drop takes a sequence out of its slot and back into the queue, if it has anything left to do; rule 13.12.
func (v *Env) drop(slot int) {
	e := v.Slots[slot]
	v.Slots[slot] = Entry{}
	s := e.Serving
	t := Ticket{Private: e.Tokens - uint32(v.Episode.PrefixPages[e.Prefix])*kv.PageTokens, Remaining: e.Remaining, Priority: e.Priority, Ref: s.Ref,
		Prefix: e.Prefix, Type: e.Type, OnCode: e.OnCode, OffCode: e.OffCode, Born: s.Born, Since: v.Step, First: s.First, Late: s.Late, Again: e.Phase != kv.Prefill}
	if e.Type == kv.System {
		return
	}
	if e.Phase == kv.Idle {
		turn, ok := v.source.Next(&v.Episode, s.Ref)
		if !ok {
			return
		}
		t.Private += turn.PromptTokens
		t.Remaining, t.Ref = uint32(turn.OutputTokens), turn.Ref
		t.Born, t.Since = max(v.Step, s.Wake), max(v.Step, s.Wake-1)
		t.First, t.Late, t.Type = false, false, followUp(e.Type)
	}
	v.Tickets = append(v.Tickets, t)
}

// followUp is the type of a session's later turns; rule 13.15.
func followUp(t kv.BlockType) kv.BlockType {
	if t == kv.Generation {
		return kv.Context
	}
	return t
}

// transferOut moves leaving sequences to CPU memory as far as the link's budget goes; rule 13.14.
func (v *Env) transferOut() {
	budget := v.preset.LinkQP()
	for i := range v.Slots {
		if e := &v.Slots[i]; e.Serving.Out && v.move(&e.Serving, &budget) {
			e.Serving.Out, e.Serving.Fresh, e.Swapped = false, true, true
		}
	}
	v.Totals.Serving.WasteUS += uint64(v.preset.LinkNS(v.preset.LinkQP()-budget) / 1000)
}

// transferIn does it for returning ones.
func (v *Env) transferIn() {
	budget := v.preset.LinkQP()
	for i := range v.Slots {
		if e := &v.Slots[i]; e.Serving.In && v.move(&e.Serving, &budget) {
			e.Serving.In = false
		}
	}
	v.Totals.Serving.WasteUS += uint64(v.preset.LinkNS(v.preset.LinkQP()-budget) / 1000)
}

// move takes what a sequence still has to move from the link's budget, and tells whether it has arrived.
func (v *Env) move(s *Served, budget *int64) bool {
	x := min(*budget, int64(s.Moving))
	s.Moving -= uint32(x)
	*budget -= x
	return s.Moving == 0
}

// wake lets idle sequences go on or end; rule 13.15.
func (v *Env) wake() {
	for i := range v.Slots {
		e := &v.Slots[i]
		s := &e.Serving
		if !e.Alive || e.Phase != kv.Idle || e.Type == kv.System || s.Out || s.In || s.Wake > v.Step {
			continue
		}
		turn, ok := v.source.Next(&v.Episode, s.Ref)
		if !ok {
			*e = Entry{}
			v.Count.Completed++
			continue
		}
		if !e.Swapped {
			growth := (kv.Pages(e.Tokens+turn.PromptTokens) - kv.Pages(e.Tokens)) * e.Quant.QuarterPages()
			if !v.fit(i, growth) {
				continue
			}
		}
		s.Work = v.preset.PrefillUS(int64(turn.PromptTokens), int64(e.Tokens))
		e.Tokens += turn.PromptTokens
		e.Remaining, e.Phase, e.Type = uint32(turn.OutputTokens), kv.Prefill, followUp(e.Type)
		s.Ref, s.Born, s.First, s.Late = turn.Ref, v.Step, false, false
		e.LastAccess, e.Hotness = v.Step, min(255, e.Hotness+63)
	}
}

// fit makes room for the growth of a slot's sequence by preempting the newest sequences, and tells whether the sequence
// itself is still there; rule 13.16.
func (v *Env) fit(slot int, growth uint32) bool {
	for v.Used()+growth > v.Episode.BudgetQP && growth > 0 {
		victim := -1
		for i := range v.Slots {
			e := &v.Slots[i]
			if e.Type == kv.System || v.Cost(e) == 0 {
				continue
			}
			if victim < 0 || e.Serving.Admit >= v.Slots[victim].Serving.Admit {
				victim = i
			}
		}
		if victim < 0 {
			return true
		}
		v.Count.Forced++
		v.drop(victim)
		if victim == slot {
			return false
		}
	}
	return true
}

// running tells whether a sequence is in GPU memory and not on its way.
func running(e *Entry) bool {
	return e.Alive && !e.Swapped && !e.Serving.Out && !e.Serving.In
}

// prefill spends the step's prefill time, oldest admission first, and returns what it spent; rule 13.17.
func (v *Env) prefill() (spent int64) {
	budget := v.stepUS() * v.preset.PrefillPermille / 1000
	for spent < budget {
		oldest := -1
		for i := range v.Slots {
			e := &v.Slots[i]
			if running(e) && e.Phase == kv.Prefill && (oldest < 0 || e.Serving.Admit < v.Slots[oldest].Serving.Admit) {
				oldest = i
			}
		}
		if oldest < 0 {
			break
		}
		e := &v.Slots[oldest]
		x := min(budget-spent, int64(e.Serving.Work))
		e.Serving.Work -= uint32(x)
		spent += x
		if e.Serving.Work == 0 {
			e.Phase = kv.Decode
			if e.Type == kv.Reasoning {
				e.Phase = kv.Thinking
			}
		}
	}
	return spent
}

// decodeServing generates with what is left of the step; rule 13.18.
func (v *Env) decodeServing(prefilled int64) {
	var slots []int
	var context int64
	for i := range v.Slots {
		e := &v.Slots[i]
		if running(e) && (e.Phase == kv.Decode || e.Phase == kv.Thinking) {
			slots = append(slots, i)
			context += int64(e.Tokens)
		}
	}
	if len(slots) == 0 {
		return
	}
	left := v.stepUS() - v.preset.CompressNS(v.busyQP)/1000
	if !v.preset.Disaggregated {
		left -= prefilled
	}
	n := min(65_535, max(0, left)*1000/v.preset.DecodeStepNS(int64(len(slots)), context))
	var good uint64
	for _, i := range slots {
		if v.Slots[i].Alive && n > 0 {
			good += v.decodeSlot(i, uint32(n))
		}
	}
	v.Totals.Serving.Goodput += good / 2000
}

// decodeSlot generates on one slot and returns the worth of its tokens; rule 13.18.
func (v *Env) decodeSlot(i int, n uint32) uint64 {
	e := &v.Slots[i]
	s := &e.Serving
	n = min(n, e.Remaining)
	if !v.fit(i, (kv.Pages(e.Tokens+n)-kv.Pages(e.Tokens))*e.Quant.QuarterPages()) {
		return 0
	}
	e.Tokens += n
	e.Remaining -= n
	e.Rate = n
	v.Totals.Tokens += uint64(n)
	e.LastAccess = v.Step
	e.Hotness = min(255, e.Hotness+63)
	if !s.First {
		s.First = true
		v.Count.FirstTokens++
		if v.Step-s.Born > v.maxWait {
			s.Late = true
			v.Count.Late++
		}
	}
	level := e.Quant
	if e.Prefix != 0 {
		level = max(level, v.levels[e.Prefix])
	}
	worth := uint64(n) * uint64(50+e.Priority) * uint64(v.preset.QualityPermille[level])
	if !s.Late {
		worth *= 2
	}
	if e.Remaining == 0 {
		v.endTurn(i)
	}
	return worth
}

// endTurn is rule 13.19.
func (v *Env) endTurn(i int) {
	e := &v.Slots[i]
	turn, ok := v.source.Next(&v.Episode, e.Serving.Ref)
	if !ok && e.Type == kv.Generation && e.Serving.Ref == 0 {
		*e = Entry{}
		v.Count.Completed++
		return
	}
	e.Phase = kv.Idle
	e.Serving.Wake = v.Step + 2*(1+e.OffCode)
	if ok {
		e.Serving.Wake = min(32_767, v.Step+int(turn.PauseSteps))
	}
}

// watermark is the memory that admissions and swap-ins leave free; rule 13.20.
func (v *Env) watermark() uint32 { return v.Episode.BudgetQP / 64 }

// swapIn brings swapped sequences back, oldest admission first; rule 13.20.
func (v *Env) swapIn() {
	tried := make([]bool, len(v.Slots))
	for {
		oldest := -1
		for i := range v.Slots {
			e := &v.Slots[i]
			if !e.Alive || tried[i] || !e.Swapped || e.Serving.Fresh || e.Phase == kv.Idle && !e.Serving.Wanted {
				continue
			}
			if oldest < 0 || e.Serving.Admit < v.Slots[oldest].Serving.Admit {
				oldest = i
			}
		}
		if oldest < 0 {
			return
		}
		tried[oldest] = true
		e := &v.Slots[oldest]
		need := v.PrivatePages(e)*e.Quant.QuarterPages() + v.prefixNeed(e.Prefix)
		if v.Used()+need+v.watermark() > v.Episode.BudgetQP {
			continue
		}
		v.join(e.Prefix)
		e.Swapped = false
		e.Serving.In, e.Serving.Wanted, e.Serving.Moving = true, false, need
	}
}

// prefixNeed is what a prefix adds to the memory when a member comes; rule 13.20.
func (v *Env) prefixNeed(p uint8) uint32 {
	if p == 0 || v.PrefixMultiplier(p) != 0 {
		return 0
	}
	return uint32(v.Episode.PrefixPages[p]) * kv.FP16QuarterPages
}

// join makes a prefix that nobody holds a new one at fp16.
func (v *Env) join(p uint8) {
	if v.PrefixMultiplier(p) == 0 {
		v.levels[p] = kv.FP16
	}
}

// admitServing is rule 13.20.
func (v *Env) admitServing() {
	var kept []Ticket
	for _, r := range v.Tickets {
		slot := v.freeSlot()
		need := kv.Pages(r.Private)*kv.FP16QuarterPages + v.prefixNeed(r.Prefix)
		if r.Since >= v.Step || slot < 0 || v.Used()+need+v.watermark() > v.Episode.BudgetQP {
			kept = append(kept, r)
			continue
		}
		shared := v.PrefixMultiplier(r.Prefix) != 0
		v.join(r.Prefix)
		e := Entry{Alive: true, Type: r.Type, Phase: kv.Prefill, Tokens: r.Private + uint32(v.Episode.PrefixPages[r.Prefix])*kv.PageTokens,
			Remaining: r.Remaining, Priority: r.Priority, Prefix: r.Prefix, LastAccess: v.Step, Hotness: 63, OnCode: r.OnCode, OffCode: r.OffCode,
			Serving: Served{Ref: r.Ref, Born: r.Born, Admit: v.Step, First: r.First, Late: r.Late}}
		e.Serving.Work = v.prefillWork(&e, shared)
		if r.Again {
			v.Totals.Serving.WasteUS += uint64(e.Serving.Work)
		}
		v.Slots[slot] = e
		v.Count.Admitted++
		for i := range v.Slots {
			if q := &v.Slots[i]; q.Alive && q.Type == kv.System && q.Prefix == r.Prefix && r.Prefix != 0 {
				q.LastAccess, q.Hotness = v.Step, min(255, q.Hotness+63)
			}
		}
	}
	v.Tickets = kept
}

// expireServing is rule 13.20.
func (v *Env) expireServing() {
	var kept []Ticket
	for _, r := range v.Tickets {
		if v.Step-r.Since >= v.maxWait {
			v.Count.Failures++
			continue
		}
		kept = append(kept, r)
	}
	v.Tickets = kept
}

// arriveServing is rule 13.20.
func (v *Env) arriveServing() {
	var words [256]scenario.Word
	room := max(0, v.queueCap-len(v.Tickets))
	n, _ := v.source.Arrive(&v.Episode, v.Step, words[:room], nil)
	for _, w := range words[:min(n, room)] {
		q := v.source.Decode(&v.Episode, w)
		v.Tickets = append(v.Tickets, Ticket{Private: q.PromptTokens, Remaining: uint32(q.OutputTokens), Priority: uint32(q.Priority), Ref: q.Ref, Prefix: q.Prefix,
			Type: q.Type, OnCode: int(q.OnCode()), OffCode: int(q.OffCode()), Born: v.Step, Since: v.Step})
	}
	v.Count.Arrived += uint32(n)
	if n > room {
		v.Count.Rejected += uint32(n - room)
		v.Count.Failures += uint32(n - room)
	}
}

// countWaits is rule 13.21.
func (v *Env) countWaits() {
	for _, r := range v.Tickets {
		if r.Since < v.Step && !r.First {
			v.Totals.Serving.FirstWaits++
		}
	}
	for i := range v.Slots {
		if e := &v.Slots[i]; e.Alive && e.Phase != kv.Idle && !e.Serving.First {
			v.Totals.Serving.FirstWaits++
		}
	}
	v.Totals.Serving.Late = v.Count.Late
}
