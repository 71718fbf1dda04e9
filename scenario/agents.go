package scenario

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/kvgym/kvgym/internal/rng"
	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/kv"
)

// Agents draws episodes of agent traffic for the serving profile: the requests of Synthetic at the size of real ones, and
// conversations of several turns; docs/simulator.md, rules 13.3 to 13.6.
type Agents struct {
	Synthetic
	preset kv.Preset
	lives  kernels.Lives // at the nominal rate
}

const (
	agentPrefixPages   = 8 // a system prompt has 8 to 64 pages
	agentPromptPages   = 2 // times those of a request of the seed profile
	agentOutputTokens  = 4 // times those of a request of the seed profile
	agentBasePer64     = 14
	toolTokens         = 256 // shifted by the pause code
	nominalContext     = 4096
	refAgent           = 1 << 31
	firstTokenSteps    = 2 // an unconstrained server generates from the second step after a request's arrival
	servingWindowScale = 1000
)

// servingCapacityPermille is capacity over the mean unconstrained demand, by tier; rule 13.5.
var servingCapacityPermille = [3]uint64{750, 600, 450}

// agentTables are the sizes of rule 13.3 for the kernels.
var agentTables = makeAgentTables()

func makeAgentTables() (t kernels.RequestTables) {
	t = requestTables
	for i := range t.Pages {
		t.Pages[i] *= agentPromptPages
		t.Output[i] *= agentOutputTokens
	}
	return t
}

// NewAgents makes a source for environments of the serving profile on a server like the preset.
func NewAgents(slots, steps int, d Difficulty, p kv.Preset) (*Agents, error) {
	s, err := NewSynthetic(slots, steps, d)
	if err != nil {
		return nil, err
	}
	if err := p.Validate(); err != nil {
		return nil, err
	}
	a := &Agents{Synthetic: *s, preset: p, lives: kernels.Lives{Tables: &agentTables, Rate: nominalRate(&p, slots), Steps: uint32(steps)}}
	a.tables = &agentTables
	for k, n := range agentTables.Output {
		a.lives.Spans[k] = uint16((uint32(n) + a.lives.Rate - 1) / a.lives.Rate)
	}
	return a, nil
}

// nominalRate is what a sequence generates in a step on a server that half of the slots share; rule 13.4.
func nominalRate(p *kv.Preset, slots int) uint32 {
	return uint32(p.NominalRate(int64(slots/2), nominalContext))
}

// Fingerprint implements Source.
func (s *Agents) Fingerprint() string {
	return fmt.Sprintf("agents/slots=%d/steps=%d/difficulty=%s/rate=%d/capacity=%d", s.slots, s.steps, s.difficulty, s.lives.Rate, s.preset.CapacityTokens)
}

// Begin implements Source; rules 13.3 to 13.5.
func (s *Agents) Begin(id Identity, e *Episode) {
	e.begin(id)
	w := rng.Draw(e.Key, rng.Episode, 0, tierWord)
	e.CapacityQP = 1
	e.drawTier(s.difficulty, w)
	e.ArrivalLevel = tierLevels[e.DrawnFrom][rng.Field(w, 32, 1)]
	per64 := agentBasePer64 + rng.Scale(rng.Field(w, 33, 16), 16, initialSpreadPer64)
	e.NumInitial = uint16(numTenants + int(per64)*s.slots/64)
	e.TokenNorm = uint32(max(1, seedTokens*s.steps/seedSteps))
	e.NumPrefixes = numTenants
	for p := uint32(1); p <= numTenants; p++ {
		e.PrefixPages[p] = uint16(agentPrefixPages * (1 + rng.Field(rng.Draw(e.Key, rng.Prefix, 0, p), 0, 3)))
	}
	e.setServing(s.windowDemand(e), s.steps, s.slots, &s.preset)
	e.drawTier(s.difficulty, w) // again: the budget is a part of the capacity
}

// setServing gives an episode of the serving profile its capacity and its norms; rule 13.5.
func (e *Episode) setServing(d demandSum, steps, slots int, p *kv.Preset) {
	pages := d.pageSteps * servingCapacityPermille[e.DrawnFrom] / servingWindowScale / uint64(steps+1)
	pages = min(max(uint64(slots), pages), 1<<24)
	pages = min(pages, max(1, uint64(p.CapacityTokens)/kv.PageTokens))
	e.CapacityQP = kv.FP16QuarterPages * uint32(pages)
	e.GoodNorm, e.RequestNorm = max(1, d.good), max(1, d.requests)
}

// demandSum is what an unconstrained server would hold and deliver in an episode.
type demandSum struct {
	pageSteps uint64 // private pages, summed over the steps 0 to the last
	good      uint64 // tokens times weight
	requests  uint32
}

// windowDemand adds up the unconstrained lives of everything that the episode draws; rule 13.4. It reads words instead of
// decoding them: it is a good part of what a reset costs.
func (s *Agents) windowDemand(e *Episode) demandSum {
	var sum demandSum
	for p := 1; p <= numTenants; p++ {
		sum.pageSteps += uint64(e.PrefixPages[p]) * uint64(s.steps+1)
	}
	var draws [8]uint64
	for i := numTenants; i < int(e.NumInitial); i += len(draws) {
		kernels.Draws(&draws, rng.Counter(e.Key, rng.Initial, 0, uint32(i)))
		sum.add(s.lives.AddInitial(&draws, int(e.NumInitial)-i))
	}
	sum.requests += uint32(e.NumInitial) - numTenants
	if s.lanes() <= 4 {
		s.addSteps(e, &sum)
	} else {
		s.addWide(e, &sum)
	}
	return sum
}

// addSteps adds what arrives, eight steps at a time.
func (s *Agents) addSteps(e *Episode, sum *demandSum) {
	var words [kernels.StepRoom]Word
	var d kernels.StepDraws
	s.stepDraws(e, &d)
	for t := 0; t < s.steps; t += 8 {
		n := kernels.ArriveSteps((*[kernels.StepRoom]uint64)(&words), &d, t, min(8, s.steps-t))
		sum.requests += uint32(n)
		sum.add(s.lives.Add(words[:n]))
	}
	sum.requests += uint32(kernels.ArriveSteps((*[kernels.StepRoom]uint64)(&words), &d, s.steps, 1)) // these are admitted later
}

// addWide adds what arrives in more slots than kernels.ArriveSteps draws for.
func (s *Agents) addWide(e *Episode, sum *demandSum) {
	var words [256]Word
	var needs [128]uint32
	most, waiting := s.slots/laneSlots*arrivalTableLen, 0
	for t := range s.steps {
		if waiting+most > len(words) {
			sum.add(s.lives.Add(words[:waiting]))
			waiting = 0
		}
		n, _ := s.Arrive(e, t, words[waiting:][:most], needs[:most])
		waiting += n
		sum.requests += uint32(n)
	}
	sum.add(s.lives.Add(words[:waiting]))
	n, _ := s.Arrive(e, s.steps, words[:most], needs[:most])
	sum.requests += uint32(n)
}

func (d *demandSum) add(pageSteps, good uint64) {
	d.pageSteps += pageSteps
	d.good += good
}

// Initial implements Source; rule 13.6. The first numTenants sequences are the tenants' system prompts.
func (s *Agents) Initial(e *Episode, i int) InitialSequence {
	if i < numTenants {
		return s.Synthetic.Initial(e, i)
	}
	w := rng.Draw(e.Key, rng.Initial, 0, uint32(i))
	q := InitialSequence{Sequence: s.Decode(e, Word(w)), Hotness: uint8(rng.Field(w, 54, 8)), Phase: kv.Decode}
	q.DoneTokens = uint16(rng.Scale(rng.Field(w, 48, 6), 6, uint32(q.OutputTokens)))
	switch {
	case q.Type == kv.Reasoning:
		q.Phase = kv.Thinking
	case q.Type == kv.Context && rng.Field(w, 62, 1) == 1:
		q.Phase, q.DoneTokens, q.Timer = kv.Idle, q.OutputTokens, 1+uint8(rng.Field(w, 54, 3))
		q.LastAccess = -int16(rng.Field(w, 57, 3))
	}
	return q
}

// Initials implements Source: those of the seed profile with larger sizes, but for what is idle between turns.
func (s *Agents) Initials(e *Episode, first int, n *kernels.Newcomers) int {
	var draws [8]uint64
	systems := systemsOf(first)
	all := uint8(1)<<systems - 1
	kernels.Initials(&draws, rng.Counter(e.Key, rng.Initial, 0, uint32(first)), s.tables, &e.PrefixPages, systems, n)
	n.Wake = [8]int16{}
	for i := systems; i < len(draws); i++ {
		n.Ref[i] = refOf(draws[i])
	}
	clear(n.Ref[:systems])
	// As one word: a kernel loads it as one, and would wait for narrower stores.
	binary.LittleEndian.PutUint64(n.Cycle[:], binary.LittleEndian.Uint64(n.Cycle[:])&^0x0F0F0F0F0F0F0F0F)
	for m := ^n.Active &^ all; m != 0; m &= m - 1 {
		s.rest(&draws, bits.TrailingZeros8(m)&7, n)
	}
	return min(len(draws), int(e.NumInitial)-first)
}

// rest makes a newcomer one that is idle between turns; rule 13.6.
func (s *Agents) rest(draws *[8]uint64, i int, n *kernels.Newcomers) {
	w, left := draws[i], n.Remaining[i]
	n.Remaining[i] = 0
	own := kv.Pages(agentPrompt(w) + agentOutputTokens*uint32(outputTokens[w>>25&63]))
	n.Tokens[i] += uint32(left)
	n.Need[i] = own * kv.FP16QuarterPages
	n.Wake[i] = 1 + int16(rng.Field(w, 54, 3))
	n.Cycle[i] |= uint8(n.Wake[i])
	n.LastAccess[i] = -int16(rng.Field(w, 57, 3))
}

// Requests implements Source.
func (s *Agents) Requests(e *Episode, words *[8]Word, count int, step int16, n *kernels.Newcomers) {
	requests(s, e, words, count, step, n)
}

// Enqueue implements Source.
func (s *Agents) Enqueue(e *Episode, words *[8]Word, count int, step int16, t *kernels.Tickets, first int) {
	if first+len(words) <= kernels.TicketLanes {
		kernels.Enqueue(t, first, words, s.tables, step)
		return
	}
	enqueue(s, e, words, count, step, t, first)
}

// Demand implements Source.
func (s *Agents) Demand(_ *Episode, w Word) (uint32, uint8) {
	return agentPrompt(uint64(w)), prefixOf(uint64(w))
}

// Decode implements Source; rule 13.3. One literal: Go builds a struct of so many fields in memory, and copying it there stalls.
func (s *Agents) Decode(_ *Episode, word Word) Sequence {
	w := uint64(word)
	return Sequence{PromptTokens: agentPrompt(w), OutputTokens: agentOutputTokens * outputTokens[w>>25&63], RateTokens: rateTokens[w>>31&3],
		Priority: uint8(rng.Scale(rng.Field(w, 33, 7), 7, 101)), Prefix: prefixOf(w), Type: typeOf[uint8(w)], Codes: uint8(rng.Field(w, 40, 4)) << 4,
		Ref: refOf(w)}
}

// refOf names the first turn of a session.
func refOf(w uint64) uint32 {
	ref := refAgent | agentOutputTokens*uint32(outputTokens[w>>25&63])<<4 | rng.Field(w, 40, 4) // turns left, pause code
	if typeOf[uint8(w)] != kv.Context {                                                         // a move without a branch, which nothing could predict
		ref = 0
	}
	return ref
}

func agentPrompt(w uint64) uint32 {
	return (agentPromptPages*uint32(promptPages[w>>12&63])-1)*kv.PageTokens + 1 + rng.Field(w, 18, 7)
}

// Next implements Source: the low two bits of ref are the turns left, then the pause code, then the tokens of a turn; rule 13.3.
func (s *Agents) Next(_ *Episode, ref uint32) (Turn, bool) {
	if ref&refAgent == 0 || ref&3 == 0 {
		return Turn{}, false
	}
	pause := ref >> 2 & 3
	return Turn{PauseSteps: 2 << pause, PromptTokens: toolTokens << pause, OutputTokens: uint16(max(1, ref>>4&0xFFFF)), Ref: ref - 1}, true
}

// Next implements Source: requests of the seed profile have one turn.
func (s *Synthetic) Next(*Episode, uint32) (Turn, bool) { return Turn{}, false }
