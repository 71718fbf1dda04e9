package vecenv

import (
	"math/bits"
	"unsafe"

	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/reward"
	"github.com/kvgym/kvgym/scenario"
)

// env is one environment's place in the batch's columns, assembled on the stack for the time of a step.
type env struct {
	*head
	rules   *rules
	scratch *scratch       // of the worker that steps
	seat    kernels.Seat   // where its columns start, which are longer than this says if it has several blocks
	trail   *kernels.Trail // of the worker, where rows are left; nil if they are written at once

	// Of the serving profile, whose waiting requests are tickets; nil in the seed profile.
	firstLane   *lane
	firstTicket *kernels.Tickets
	tally       *tally
}

// sit takes the first of an environment's blocks, words of its queue, and needs.
func (v *env) sit(b *block, queue *scenario.Word, needs *uint32) {
	h := v.head
	p := &v.seat // field by field: a literal would be built in narrow stores and copied in wide loads, which wait until the last row is in memory
	p.Block, p.Ledger, p.Limits, p.Pages = &b.Block, &h.Ledger, &h.Episode.Limits, &h.Episode.PrefixPages
	p.Queue = (*[kernels.QueueRoom]scenario.Word)(unsafe.Pointer(queue))
	p.Needs = (*[kernels.QueueRoom]uint32)(unsafe.Pointer(needs))
}

// blocks has one for every 64 slots, or part of 64.
func (v *env) blocks() []block {
	return unsafe.Slice((*block)(unsafe.Pointer(v.seat.Block)), v.rules.width)
}

// block is one of them; w is not checked.
func (v *env) block(w int) *block {
	return (*block)(unsafe.Add(unsafe.Pointer(v.seat.Block), w*int(unsafe.Sizeof(block{}))))
}

// queue has room for Slots/2 waiting requests, and behind that as much as is written beyond it.
func (v *env) queue() []scenario.Word {
	return unsafe.Slice((*scenario.Word)(unsafe.Pointer(v.seat.Queue)), v.rules.words)[:v.rules.queueCap]
}

// needs is what each of them needs, as its source packs it; room for a multiple of 32, and eight.
func (v *env) needs() []uint32 {
	return unsafe.Slice((*uint32)(unsafe.Pointer(v.seat.Needs)), v.rules.words)
}

// lanes are the serving profile's part of blocks.
func (v *env) lanes() []lane { return unsafe.Slice(v.firstLane, v.rules.width) }

// lane is one of them; w is not checked.
func (v *env) lane(w int) *lane {
	return (*lane)(unsafe.Add(unsafe.Pointer(v.firstLane), w*int(unsafe.Sizeof(lane{}))))
}

// tickets are in groups of kernels.TicketLanes.
func (v *env) tickets() []kernels.Tickets {
	return unsafe.Slice(v.firstTicket, v.rules.ticketGroups)
}

// scratch is what a worker needs for the time of a step.
type scratch struct {
	shared    kernels.Shared // of the prefixes, as refreshShared left it
	admission kernels.Admission
	newcomers kernels.Newcomers
	acted     kernels.Acted
	advanced  kernels.Advanced
	draws     kernels.ArrivalDraws
	operated  kernels.Operated
	prefilled kernels.Prefilled
	decoded   kernels.Decoded
	waiting   kernels.Waiting
	served    kernels.Served
	view      kernels.View

	words [maxQueue + arriving]scenario.Word // requests that arrive in a step of the serving profile
	needs [maxQueue + arriving]uint32        // what each of them needs

	serving kernels.ServingGlobals
	num     [GlobalFeatures]int32 // of the observation's global values
	norm    uint32                // denominator of the last value but one
	most    uint32                // of the last one
	wide    bool                  // the last two are in last instead
	last    [2]float32
	globals [GlobalFeatures]float32 // before they become bytes

	components reward.Terms

	trail                 kernels.Trail
	run                   kernels.Run
	terminated, truncated [cacheLine]uint8 // of a run, where workers must not write to the tensors in every environment
}

// terms is where the components of a step go if there is a tensor for them, else nil.
func (s *scratch) terms(tensor []float32) *reward.Terms {
	if tensor == nil {
		return nil
	}
	return &s.components
}

// newScratch gives a worker cache lines that it shares with nobody: everything here is written in every step.
func newScratch() *scratch {
	padded := new(struct {
		_ [128]byte
		scratch
		_ [128]byte
	})
	return &padded.scratch
}

// rules is what all environments of a batch share.
type rules struct {
	source   scenario.Source
	drawn    *scenario.Synthetic // the source, if kernels.Step does the steps; else nil
	agents   *scenario.Agents    // the source, if kernels.ArriveTickets draws from it; else nil
	whole    bool                // kernels.Observe writes the rows
	slots    int
	width    int // blocks
	words    int // of queue and needs
	steps    int32
	maxWait  int32
	queueCap int
	growth   uint32 // quarter pages by which a sequence can grow in a step, at most
	lastMask uint64 // the slots that exist in the last block
	truncate bool
	obsLen   int
	frame    kernels.Frame
	profile  Profile
	serving  *servingRules // nil in the seed profile

	ticketGroups int // of the serving profile
}

// slotMask is the mask of the slots that exist in block w.
func (v *env) slotMask(w int) uint64 {
	if w == v.rules.width-1 {
		return v.rules.lastMask
	}
	return ^uint64(0)
}

// step runs the phases of one step in order; rule 6.1. ops is the environment's row of an op matrix, list its ordered
// actions; one of them is nil.
func (v *env) step(ops []uint8, list []int32) {
	v.Step++
	waiting := v.QueueLen
	if v.rules.serving != nil {
		v.stepServing(ops, list)
		v.Growth = v.QueueLen - waiting
		return
	}
	if v.rules.drawn != nil {
		v.stepDrawn(ops, list)
	} else {
		v.operate(ops, list)
		v.serveQueue()
		v.arrive()
	}
	v.Growth = v.QueueLen - waiting
}

// operate is rules 6.2 to 6.10.
func (v *env) operate(ops []uint8, list []int32) {
	if ops != nil {
		v.applyMatrix(ops)
	} else {
		v.applyList(list)
	}
	v.generate()
	v.refreshShared()
}

// stepDrawn is a step in one kernel, for an environment of one block whose requests are drawn. What the kernel leaves, which is seldom
// anything, is done here.
func (v *env) stepDrawn(ops []uint8, list []int32) {
	s, f := v.scratch, &v.rules.frame
	v.rules.drawn.Draws(&v.Episode, v.Step, &s.draws)
	from := kernels.StageOperate
	var row *[kernels.Lanes]uint8
	if len(ops) == kernels.Lanes {
		row = (*[kernels.Lanes]uint8)(ops)
	} else {
		v.operate(ops, list)
		from = kernels.StageServe
	}
	var left kernels.Stage
	if t := v.trail; t != nil && t.To != nil && from == kernels.StageOperate {
		left = kernels.StepTrailing(&v.seat, f, row, &s.draws, &s.admission, &s.shared, t)
	} else {
		left = kernels.Step(&v.seat, f, row, &s.draws, &s.admission, &s.shared, from)
	}
	if left == kernels.StageOperate {
		v.operate(ops, nil)
		left = kernels.Step(&v.seat, f, row, &s.draws, &s.admission, &s.shared, kernels.StageServe)
	}
	v.complete(left)
}

// complete does what a step's kernel has left.
func (v *env) complete(left kernels.Stage) {
	s := v.scratch
	if s.admission.Reads != 0 {
		v.chargeReads(v.block(0), s.admission.Reads, &s.admission.Joins)
	}
	if left == kernels.StageDone {
		return
	}
	if left == kernels.StageEnter {
		v.enter(&s.admission)
		v.refreshShared()
	}
	v.arrive()
}

// account adds the finished step to the totals and returns the step's reward, in 2^-20; rules 9.1 to 9.9. The terms go to
// components if that is not nil.
func (v *env) account(components *reward.Terms) int64 {
	h := v.head
	used := h.UsedQP()
	h.HeadroomTenths += reward.HeadroomTenths(used, h.Episode.BudgetQP)
	h.Counters.PressureSteps += reward.Pressure(used, h.Episode.BudgetQP)
	var score int64
	if components == nil && v.rules.serving == nil {
		score = reward.SeedScore(h.Counters.Failures, h.Tokens, h.Episode.TokenNorm, h.HeadroomTenths, uint32(v.rules.steps), used,
			h.Episode.BudgetQP, h.RetainedPrivate+h.RetainedShared, h.LatencyMilli, h.RiskHundredths)
	} else {
		score = v.score(components)
	}
	gain := score - h.Score
	h.Score = score
	return gain
}

// score is the score as if the episode ended now, of which the terms are kept or the profile is the serving profile.
func (v *env) score(components *reward.Terms) int64 {
	if components == nil {
		var s reward.ServingTotals
		v.servingTotals(&s)
		return s.Score(v.Counters.Failures)
	}
	t := v.totals()
	*components = reward.Compute(&t)
	return components.Score(t.Weights())
}

// terms is what the components of an environment are: nothing before its first step.
func terms(t *reward.Totals, step int32) reward.Terms {
	if step == 0 {
		return reward.Terms{}
	}
	return reward.Compute(t)
}

func (v *env) totals() reward.Totals {
	t := v.head.totals(v.rules.steps)
	if v.rules.serving != nil {
		v.servingTotals(&t.Serving)
	}
	return t
}

// servingTotals finds those of a serving environment; field by field, as sit does it.
func (v *env) servingTotals(s *reward.ServingTotals) {
	t, e, r := v.tally, &v.Episode, v.rules
	s.Goodput, s.GoodNorm, s.WasteUS, s.WindowUS = t.Goodput, e.GoodNorm, t.WasteUS, uint64(r.steps)*uint64(r.serving.stepUS)
	s.FirstWaits, s.Late, s.RequestNorm, s.MaxWait = t.FirstWaits, v.Counters.Late, e.RequestNorm, uint32(r.maxWait)
}

func (v *head) totals(steps int32) reward.Totals {
	return reward.Totals{
		Steps: uint32(steps), TokenNorm: v.Episode.TokenNorm, Failures: v.Counters.Failures, Tokens: v.Tokens,
		HeadroomTenths: v.HeadroomTenths, LatencyMilli: v.LatencyMilli, RiskHundredths: v.RiskHundredths,
		UsedQP: v.UsedQP(), BudgetQP: v.Episode.BudgetQP, RetainedTwenty: v.RetainedPrivate + v.RetainedShared,
	}
}

// privatePages is what slot s of a block holds alone; rule 1.5.
func (v *head) privatePages(b *block, s uint) uint32 {
	s &= 63
	return kv.Pages(b.Tokens[s]) - uint32(v.Episode.PrefixPages[b.Prefix[s]&kv.MaxPrefixes])
}

// refreshShared brings the memory of the shared prefixes up to date; rule 1.7.
func (v *env) refreshShared() {
	kernels.Prefixes(&v.block(0).Block, v.rules.width, &v.Episode.PrefixPages, &v.scratch.shared)
	v.takeShared()
}

// takeShared adopts the state of the prefixes that a kernel has found.
func (v *env) takeShared() {
	s := &v.scratch.shared
	v.SharedQP, v.RetainedShared = s.QP, s.Retained
	v.PrefixMul, v.PrefixWeight = s.Mul, s.Weight
}

// setPrefix gives prefix p's pages their multiplier and retention weight.
func (v *env) setPrefix(p int, multiplier, weight uint32) {
	p &= kv.MaxPrefixes
	pages := uint32(v.Episode.PrefixPages[p])
	was, is := uint32(v.PrefixMul[p])*pages, multiplier*pages
	v.SharedQP += is - was
	v.RetainedShared += weight*is - uint32(v.PrefixWeight[p])*was
	v.PrefixMul[p], v.PrefixWeight[p] = uint8(multiplier), uint8(weight)
}

// advanced adds what a block's sequences have done.
func (v *env) advanced(a *kernels.Advanced) {
	v.PrivateQP += a.QP - a.Freed
	v.RetainedPrivate += a.Retained - a.FreedRetained
	v.Tokens += uint64(a.Tokens)
	v.Counters.Completed += uint32(bits.OnesCount64(a.Done))
}

// generate is rules 6.4 to 6.10: hotness decays, phases advance, sequences generate, finished ones complete. The shared memory that
// actions have freed is taken off before only if something might stall otherwise: it can only have fallen.
func (v *env) generate() {
	growth := uint32(0)
	for w := range v.rules.width {
		b := v.block(w)
		growth += v.rules.growth * uint32(bits.OnesCount64(b.Active))
	}
	if v.UsedQP()+growth > v.Episode.CapacityQP {
		v.refreshShared()
	}
	used, a := v.UsedQP(), &v.scratch.advanced
	for w := range v.rules.width {
		kernels.Advance(&v.block(w).Block, &v.Episode.PrefixPages, int16(v.Step), used, v.Episode.CapacityQP, a)
		used += a.QP // what completion frees is not taken off: it prevents no stall in a later block
		v.advanced(a)
	}
}

// readSwapped charges one access to a swapped sequence; rule 6.9.
func (v *env) readSwapped(b *block, s uint) {
	v.LatencyMilli += accessMilli(v.privatePages(b, s) * b.quant(s).QuarterPages())
	v.Counters.SwapReads++
}

// accessMilli is the latency of an access to a swapped sequence that holds so many quarter pages, thousandths.
func accessMilli(qp uint32) uint32 { return 100 + min(200, 2*qp) }
