package vecenv

import (
	"math/bits"

	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/reward"
	"github.com/kvgym/kvgym/scenario"
)

// View reads one environment's present state without copying it. It is a small value; what it returns is valid until
// the next step, reset or restore of the environment. Reading is safe from several goroutines while nothing steps.
type View struct {
	batch *Batch
	env   int
}

// View returns the view of environment i.
func (b *Batch) View(i int) View { return View{batch: b, env: i} }

// SlotState is one live sequence.
type SlotState struct {
	Slot         int
	Type         kv.BlockType
	Phase        kv.Phase
	Quant        kv.Quant
	Swapped      bool
	Tokens       uint32 // cached, shared prefix included
	Remaining    uint32 // still to generate
	Rate         uint32 // a step
	Priority     uint32 // percent
	Prefix       uint8  // 0 none
	LastAccess   int    // step
	Hotness      uint8
	Timer        uint8  // steps left of a pause, a run or lingering; 0 where none counts
	OnCode       uint8  // rule 4.5
	OffCode      uint8  // rule 4.5
	PrivatePages uint32 // pages it holds alone
	CostQP       uint32 // private memory now, quarter pages; 0 while swapped

	// Serving profile only.
	WorkUS uint32 // microseconds of prefill left
	Moving bool   // on the way to or from CPU memory
	Back   bool   // of that, from it
	Wanted bool   // swapped, and asked back
	First  bool   // its turn has given its first token
}

// ServingSlot is what the serving profile holds of a sequence beside its SlotState.
type ServingSlot struct {
	Late    bool   // the first token of its turn came after the deadline
	Born    int    // step in which its turn began
	Admit   int    // step of admission
	MoveQP  uint32 // quarter pages still to cross the link
	TurnRef uint32 // name of its session's present turn; what that leads to is for the rules, not for policies
	Wake    int    // step in which an idle sequence goes on or ends; for the rules, not for policies
}

// Target is the sequence length it will have reached when it completes.
func (s *SlotState) Target() uint32 { return s.Tokens + s.Remaining }

func (v View) state() env { return v.batch.envAt(v.env) }

// Batch is the batch that the view looks into, Env the environment's row in it.
func (v View) Batch() *Batch { return v.batch }

// Env is the environment's row in its batch.
func (v View) Env() int { return v.env }

// Identity names the episode.
func (v View) Identity() scenario.Identity { return v.batch.ids[v.env] }

// Episode is what was drawn once for the episode.
func (v View) Episode() *scenario.Episode { return &v.batch.heads[v.env].Episode }

// Slots is the number of slots, live or not.
func (v View) Slots() int { return v.batch.cfg.Slots }

// Steps is the episode's length; Step the number of steps done.
func (v View) Steps() int { return v.batch.cfg.Steps }

// Step is the number of steps done.
func (v View) Step() int { return int(v.batch.heads[v.env].Step) }

// MaxWait is how many steps a request may wait.
func (v View) MaxWait() int { return v.batch.cfg.MaxWait }

// UsedQP is the memory in use, quarter pages.
func (v View) UsedQP() uint32 { h := &v.batch.heads[v.env]; return h.PrivateQP + h.SharedQP }

// SharedQP is the part of it that shared prefixes hold.
func (v View) SharedQP() uint32 { return v.batch.heads[v.env].SharedQP }

// PrefixMultiplier is what one page of shared prefix p costs now, quarter pages; 0 while no resident sequence shares it.
func (v View) PrefixMultiplier(p int) uint32 {
	return uint32(v.batch.heads[v.env].PrefixMul[p&kv.MaxPrefixes])
}

// BudgetQP is the memory budget, quarter pages.
func (v View) BudgetQP() uint32 { return v.batch.heads[v.env].Episode.BudgetQP }

// PendingQP is what the private prompts of waiting requests need, quarter pages.
func (v View) PendingQP() uint32 { return v.batch.heads[v.env].PendingQP }

// QueueLen is the number of waiting requests; Growth its change in the last step.
func (v View) QueueLen() int { return int(v.batch.heads[v.env].QueueLen) }

// Growth is the change of QueueLen in the last step.
func (v View) Growth() int { return int(v.batch.heads[v.env].Growth) }

// Waiting returns waiting request i, oldest first, and the step it arrived in. In the serving profile: its private tokens, the
// tokens it has left to generate, and the step since which it waits, which is in the future while it pauses.
func (v View) Waiting(i int) (q scenario.Sequence, arrived int) {
	e := v.state()
	if e.rules.serving != nil {
		k := e.ticket(i)
		return scenario.Sequence{PromptTokens: k.Private, OutputTokens: k.Remaining, Priority: k.Priority, Prefix: k.Prefix, Type: kv.BlockType(k.Type),
			Steady: true, Codes: k.Codes, Ref: k.Ref}, int(k.Since)
	}
	w := e.queue()[i]
	return e.rules.source.Decode(&e.Episode, w), int(scenario.Birth(w))
}

// Ticket is what the serving profile knows of a waiting request beyond Waiting.
type Ticket struct {
	Born               int // step in which its turn began
	First, Late, Again bool
}

// Ticket returns it for waiting request i of a serving environment.
func (v View) Ticket(i int) Ticket {
	e := v.state()
	k := e.ticket(i)
	return Ticket{Born: int(k.Born), First: k.Flags&ticketFirst != 0, Late: k.Flags&ticketLate != 0, Again: k.Flags&ticketAgain != 0}
}

// Profile is the environment's profile.
func (v View) Profile() Profile { return v.batch.rulesOf(v.env).profile }

// Preset is what operations cost in a serving environment, nil in others.
func (v View) Preset() *kv.Preset {
	if s := v.batch.rulesOf(v.env).serving; s != nil {
		return &s.preset
	}
	return nil
}

// HostFreeQP is the CPU memory left for swapped sequences in a serving environment, quarter pages. It is boundless in others.
func (v View) HostFreeQP() uint64 {
	e := v.state()
	if e.rules.serving == nil {
		return 1 << 40
	}
	limit, used := e.hostLimit(), e.hostQP(&[4]uint64{})
	return limit - min(limit, used)
}

// Source is what arrives in the environment.
func (v View) Source() scenario.Source { return v.batch.rulesOf(v.env).source }

// Counters are the events so far.
func (v View) Counters() Counters { return v.batch.heads[v.env].Counters }

// Totals are the facts the score is made of.
func (v View) Totals() reward.Totals { e := v.state(); return e.totals() }

// Score is the weighted score so far, in units of 2^-20.
func (v View) Score() int64 { return v.batch.heads[v.env].Score }

// Live calls f for every live sequence in slot order until f returns false.
func (v View) Live(f func(s *SlotState) bool) {
	e := v.state()
	var st SlotState
	for w := range e.blocks() {
		for m := e.blocks()[w].Alive; m != 0; m &= m - 1 {
			e.slot(&st, w, uint(bits.TrailingZeros64(m)))
			if !f(&st) {
				return
			}
		}
	}
}

// AppendLive appends every live sequence in slot order.
func (v View) AppendLive(out []SlotState) []SlotState {
	e := v.state()
	for w := range e.blocks() {
		for m := e.blocks()[w].Alive; m != 0; m &= m - 1 {
			out = append(out, SlotState{})
			e.slot(&out[len(out)-1], w, uint(bits.TrailingZeros64(m)))
		}
	}
	return out
}

// Slot returns the state of a slot; ok is false when it is empty or does not exist.
func (v View) Slot(slot int) (s SlotState, ok bool) {
	ok = v.ReadSlot(slot, &s)
	return s, ok
}

// ReadSlot is Slot into memory of the caller's; it leaves s alone when it returns false.
func (v View) ReadSlot(slot int, s *SlotState) bool {
	if slot < 0 || slot >= v.batch.cfg.Slots {
		return false
	}
	b := &v.batch.blocks[v.env*v.batch.width+slot/64]
	if b.Alive>>(slot&63)&1 == 0 {
		return false
	}
	e := v.state()
	e.slot(s, slot/64, uint(slot&63))
	return true
}

// Allowed tells whether an operation on a slot would do something; rule 8.1.
func (v View) Allowed(op kv.Op, slot int) bool {
	if op == kv.Keep {
		return true
	}
	if slot < 0 || slot >= v.batch.cfg.Slots {
		return false
	}
	e := v.state()
	evict, compress, swap := e.allowed(slot / 64)
	if op == kv.Swap {
		swap = e.swappable(slot/64, swap)
	}
	switch op {
	case kv.Evict:
		return evict>>(slot&63)&1 != 0
	case kv.Compress:
		return compress>>(slot&63)&1 != 0
	case kv.Swap:
		return swap>>(slot&63)&1 != 0
	}
	return false
}

// Observe writes the environment's observation into row, which must hold ObsLen(slots) values, whether or not the batch
// has an Obs tensor.
func (v View) Observe(row []float32) {
	var s scratch // not the batch's: several may read at once
	e := v.state()
	e.scratch = &s
	e.look()
	e.observe(row[:e.rules.obsLen], SlotMajor, false)
}

// ObserveMask writes the environment's action mask into row, which must hold 4 bytes a slot.
func (v View) ObserveMask(row []uint8) { e := v.state(); e.maskRow(row[:v.batch.cfg.Slots*kv.NumOps]) }

func (v *env) slot(st *SlotState, w int, s uint) {
	v.head.slot(st, &v.blocks()[w], 64*w, s)
	if v.rules.serving == nil {
		return
	}
	s &= 63
	l := &v.lanes()[w]
	st.Moving, st.Back, st.Wanted = (l.Out|l.In)>>s&1 != 0, l.In>>s&1 != 0, l.Wanted>>s&1 != 0
	st.First = l.First>>s&1 != 0
	if st.Phase == kv.Prefill {
		st.WorkUS = l.Work[s]
	}
}

// ServingSlot returns it for a live slot of a serving environment.
func (v View) ServingSlot(slot int) (st ServingSlot) {
	e := v.state()
	if e.rules.serving == nil || slot < 0 || slot >= v.Slots() {
		return st
	}
	b, l, s := &e.blocks()[slot/64], &e.lanes()[slot/64], uint(slot&63)
	st = ServingSlot{Late: l.Late>>s&1 != 0, TurnRef: l.Ref[s], Born: int(l.Born[s]), Admit: int(l.Admit[s])}
	if (l.Out|l.In)>>s&1 != 0 {
		st.MoveQP = l.Moving[s]
	}
	if b.phase(s) == kv.Idle {
		st.Wake = int(l.Wake[s])
	}
	return st
}

// slot describes live slot s of a block whose first slot has number first.
func (v *head) slot(st *SlotState, b *block, first int, s uint) {
	s &= 63
	c := b.Cycle[s]
	*st = SlotState{
		Slot: first + int(s), Type: b.blockType(s), Phase: b.phase(s), Quant: b.quant(s), Swapped: b.Swapped>>s&1 != 0,
		Tokens: b.Tokens[s], Remaining: uint32(b.Remaining[s]), Rate: uint32(b.Rate[s]), Priority: uint32(b.Priority[s]),
		Prefix: b.Prefix[s], LastAccess: int(b.LastAccess[s]), Hotness: b.Hotness[s],
		Timer: c & 15, OnCode: c >> 4 & 3, OffCode: c >> 6, PrivatePages: v.privatePages(b, s),
	}
	if !st.Swapped {
		st.CostQP = st.PrivatePages * st.Quant.QuarterPages()
	}
}
