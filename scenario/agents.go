package scenario

import (
	"fmt"

	"github.com/kvgym/kvgym/internal/rng"
	"github.com/kvgym/kvgym/kv"
)

// Agents draws episodes of agent traffic for the serving profile: the requests of Synthetic at the size of real ones, and
// conversations of several turns; docs/simulator.md, rules 13.3 to 13.6.
type Agents struct {
	Synthetic
	preset kv.Preset
	rate   uint32 // nominal tokens a step
}

const (
	agentPrefixPages   = 8 // a system prompt has 8 to 64 pages
	agentPromptPages   = 2 // times those of a request of the seed profile
	agentOutputTokens  = 4 // times those of a request of the seed profile
	agentBasePer64     = 14
	toolTokens         = 256 // shifted by the pause code
	nominalContext     = 4096
	refAgent           = 1 << 31
	servingWeightBase  = 50 // a token's weight is this plus its priority
	firstTokenSteps    = 2  // an unconstrained server generates from the second step after a request's arrival
	servingWindowScale = 1000
)

// servingCapacityPermille is capacity over the mean unconstrained demand, by tier; rule 13.5.
var servingCapacityPermille = [3]uint64{750, 600, 450}

// NewAgents makes a source for environments of the serving profile on a server like the preset.
func NewAgents(slots, steps int, d Difficulty, p kv.Preset) (*Agents, error) {
	s, err := NewSynthetic(slots, steps, d)
	if err != nil {
		return nil, err
	}
	if err := p.Validate(); err != nil {
		return nil, err
	}
	return &Agents{Synthetic: *s, preset: p, rate: nominalRate(&p, slots)}, nil
}

// nominalRate is what a sequence generates in a step on a server that half of the slots share; rule 13.4.
func nominalRate(p *kv.Preset, slots int) uint32 {
	return uint32(p.NominalRate(int64(slots/2), nominalContext))
}

// Fingerprint implements Source.
func (s *Agents) Fingerprint() string {
	return fmt.Sprintf("agents/slots=%d/steps=%d/difficulty=%s/rate=%d/capacity=%d", s.slots, s.steps, s.difficulty, s.rate, s.preset.CapacityTokens)
}

// Begin implements Source; rules 13.3 to 13.5.
func (s *Agents) Begin(id Identity, e *Episode) {
	*e = newEpisode(id)
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

// windowDemand adds up the unconstrained lives of everything that the episode draws; rule 13.4.
func (s *Agents) windowDemand(e *Episode) demandSum {
	var sum demandSum
	for p := 1; p <= numTenants; p++ {
		sum.pageSteps += uint64(e.PrefixPages[p]) * uint64(s.steps+1)
	}
	for i := numTenants; i < int(e.NumInitial); i++ {
		q := s.Initial(e, i)
		sum.requests++
		s.addInitial(&sum, &q)
	}
	var words [256]Word
	for t := 0; t <= s.steps; t++ {
		n := s.Synthetic.Arrive(e, t, words[:])
		sum.requests += uint32(n)
		for _, w := range words[:min(n, len(words))] {
			q := s.Decode(e, w)
			s.addLife(&sum, &q, q.PromptTokens, t+1, t+firstTokenSteps, uint32(q.OutputTokens))
		}
	}
	return sum
}

func (s *Agents) addInitial(sum *demandSum, q *InitialSequence) {
	tokens := q.PromptTokens + uint32(q.DoneTokens)
	if q.Phase != kv.Idle {
		s.addLife(sum, &q.Sequence, tokens, 0, 1, uint32(q.OutputTokens-q.DoneTokens))
		return
	}
	if turn, ok := s.Next(nil, q.Ref); ok {
		next := q.Sequence
		next.Ref = turn.Ref
		s.addLife(sum, &next, tokens+turn.PromptTokens, 0, int(q.Timer), uint32(turn.OutputTokens))
	}
}

// addLife adds a sequence that holds memory from step held on and generates `left` tokens from step start on, and then its
// session's further turns.
func (s *Agents) addLife(sum *demandSum, q *Sequence, tokens uint32, held, start int, left uint32) {
	if held > s.steps {
		return
	}
	ref, end := q.Ref, 0
	for {
		end = start + int((left+s.rate-1)/s.rate) - 1
		sum.good += uint64(min(left, s.rate*uint32(max(0, s.steps-start+1)))) * uint64(servingWeightBase+uint32(q.Priority))
		tokens += left
		turn, ok := s.Next(nil, ref)
		if !ok || end >= s.steps {
			break
		}
		start, tokens, left, ref = end+int(turn.PauseSteps), tokens+turn.PromptTokens, uint32(turn.OutputTokens), turn.Ref
	}
	sum.pageSteps += uint64(kv.Pages(tokens)) * uint64(min(end, s.steps)-held+1)
}

// Initial implements Source; rule 13.6. The first numTenants sequences are the tenants' system prompts.
func (s *Agents) Initial(e *Episode, i int) InitialSequence {
	if i < numTenants {
		return s.Synthetic.Initial(e, i)
	}
	w := rng.Draw(e.Key, rng.Initial, 0, uint32(i))
	q := InitialSequence{Sequence: agentOf(w), Hotness: uint8(rng.Field(w, 54, 8)), Phase: kv.Decode}
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

// Arrive implements Source.
func (s *Agents) Arrive(e *Episode, step int, out []Word) int {
	return s.Synthetic.Arrive(e, step, out)
}

// Demand implements Source.
func (s *Agents) Demand(_ *Episode, w Word) (uint32, uint8) {
	return agentPrompt(uint64(w)), prefixOf(uint64(w))
}

// Decode implements Source; rule 13.3.
func (s *Agents) Decode(_ *Episode, w Word) Sequence { return agentOf(uint64(w)) }

func agentPrompt(w uint64) uint32 {
	return (agentPromptPages*uint32(promptPages[w>>12&63])-1)*kv.PageTokens + 1 + rng.Field(w, 18, 7)
}

func agentOf(w uint64) Sequence {
	q := sequenceOf(w)
	q.PromptTokens = agentPrompt(w)
	q.OutputTokens *= agentOutputTokens
	if q.Type == kv.Context {
		q.Ref = refAgent | uint32(q.OutputTokens)<<4 | uint32(q.OffCode)<<2 | uint32(q.OnCode)
	}
	return q
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
