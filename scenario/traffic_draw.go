package scenario

import (
	"fmt"
	"math/bits"

	"github.com/kvgym/kvgym/internal/rng"
	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/kv"
)

// How a trace that has been read becomes episodes: Traffic as a Source; docs/simulator.md, rules 5.1, 5.7 to 5.9 and 13.7.

// windows is the number of different first steps an episode may have; rule 5.1.
func (t *Traffic) windows() int { return max(1, len(t.stepStart)-1-t.cfg.Steps) }

// WithDifficulty is the same traffic at another difficulty; the tables are shared, nothing is read again.
func (t *Traffic) WithDifficulty(d Difficulty) (*Traffic, error) {
	if d > All {
		return nil, fmt.Errorf("difficulty: %d: allowed easy, medium, hard, all", d)
	}
	other := *t
	other.cfg.Difficulty = d
	return &other, nil
}

// Info tells what the trace gave.
func (t *Traffic) Info() TrafficInfo { return t.info }

// Shape implements Source.
func (t *Traffic) Shape() Shape { return Shape{Slots: t.cfg.Slots, Steps: t.cfg.Steps} }

// CheckEpisode implements Source.
func (t *Traffic) CheckEpisode(e *Episode) error {
	if int64(e.WindowStep) >= int64(t.windows()) || int64(e.Cursor) > int64(len(t.requests)) || e.NumPrefixes > kv.MaxPrefixes {
		return fmt.Errorf("episode: window %d, cursor %d, %d prefixes: allowed below %d, up to %d, up to %d", e.WindowStep, e.Cursor, e.NumPrefixes,
			t.windows(), len(t.requests), kv.MaxPrefixes)
	}
	for p := 1; p <= int(e.NumPrefixes); p++ {
		if int64(e.PrefixKeys[p]) >= int64(len(t.prefixPages)) || e.PrefixPages[p] != t.prefixPages[e.PrefixKeys[p]] {
			return fmt.Errorf("episode: prefix %d: key %d of %d pages: allowed the trace's", p, e.PrefixKeys[p], e.PrefixPages[p])
		}
	}
	return nil
}

// Fingerprint implements Source.
func (t *Traffic) Fingerprint() string {
	fp := fmt.Sprintf("traffic/sha256=%s/format=%s/skip=%v/slots=%d/steps=%d/difficulty=%s/step_ms=%d/rate=%d/sample=%d", t.info.SHA256,
		t.info.Format, t.cfg.SkipBadLines, t.cfg.Slots, t.cfg.Steps, t.cfg.Difficulty, t.cfg.StepMillis, t.cfg.DecodeRate, t.info.SampleMillis)
	if p := t.cfg.Serving; p != nil {
		fp += fmt.Sprintf("/serving/capacity=%d/closed=%v", p.CapacityTokens, t.cfg.Closed)
	}
	return fp
}

// Begin implements Source; rules 5.1, 5.7 and 5.9.
func (t *Traffic) Begin(id Identity, e *Episode) {
	e.begin(id)
	hi, _ := bits.Mul64(rng.Draw(e.Key, rng.Window, 0, 0), uint64(t.windows()))
	e.WindowStep = uint32(hi)
	first, end := int(hi), min(int(hi)+t.cfg.Steps, len(t.demand)-1)
	pages := t.demand[end]
	if first > 0 {
		pages -= t.demand[first-1]
	}
	mean := pages * capacityTenths / uint64(10*(t.cfg.Steps+1))
	e.CapacityQP = kv.FP16QuarterPages * uint32(min(1<<24, max(uint64(t.cfg.Slots), mean)))
	e.drawTier(t.cfg.Difficulty, rng.Draw(e.Key, rng.Episode, 0, tierWord))
	e.ArrivalLevel = FromTrace
	e.TokenNorm = uint32(min(1<<31, max(1, t.generated[min(end, len(t.generated)-1)]-t.generated[first])))
	e.Cursor = t.scanStart(e)
	for i := e.Cursor; i < t.firstOf(e.WindowStep); i++ {
		if t.initial(e, i) {
			e.NumInitial++
		}
	}
	if p := t.cfg.Serving; p != nil {
		sum := demandSum{pageSteps: pages, good: t.good[min(end, len(t.good)-1)] - t.good[first]}
		sum.requests = uint32(e.NumInitial) + t.firstOf(uint32(first+t.cfg.Steps)+1) - t.firstOf(uint32(first))
		e.setServing(sum, t.cfg.Steps, t.cfg.Slots, p)
		e.drawTier(t.cfg.Difficulty, rng.Draw(e.Key, rng.Episode, 0, tierWord))
	}
}

// capacityTenths scales the mean unconstrained demand of a window to its capacity.
const capacityTenths = 8

func (t *Traffic) firstOf(step uint32) uint32 { return t.stepStart[min(int(step), len(t.stepStart)-1)] }

// scanStart is where the search for initial sequences begins: at most four requests a slot before the window.
func (t *Traffic) scanStart(e *Episode) uint32 {
	end := t.firstOf(e.WindowStep)
	return end - min(end, uint32(4*t.cfg.Slots))
}

// liveAt tells whether an unconstrained server would still be generating the request after the step; rule 5.7.
func (t *Traffic) liveAt(q *request, step uint32) bool {
	return q.step < step && step < q.step+t.life(q)
}

// Initial implements Source; i must go up from 0 one by one. Rule 5.7.
func (t *Traffic) Initial(e *Episode, _ int) InitialSequence {
	for !t.initial(e, e.Cursor) {
		e.Cursor++
	}
	q := &t.requests[e.Cursor]
	e.Cursor++
	out := InitialSequence{Sequence: t.sequence(e, q, t.prefixID(e, q)), Phase: kv.Decode, Hotness: 63}
	switch {
	case e.WindowStep == q.step+1:
		out.Phase = kv.Prefill
	case q.typ == kv.Reasoning:
		out.Phase = kv.Thinking
	}
	if e.WindowStep >= q.step+t.delay {
		out.DoneTokens = uint16((e.WindowStep - q.step - t.delay + 1) * uint32(t.rate))
	}
	return out
}

// prefixID gives the episode's small number for a request's shared prefix, assigning the next one to a new prefix; rule
// 5.8.
func (t *Traffic) prefixID(e *Episode, q *request) uint8 {
	if q.prefixKey == 0 {
		return 0
	}
	for p := uint8(1); p <= e.NumPrefixes; p++ {
		if e.PrefixKeys[p] == q.prefixKey {
			return p
		}
	}
	if e.NumPrefixes == kv.MaxPrefixes {
		return 0
	}
	e.NumPrefixes++
	e.PrefixKeys[e.NumPrefixes] = q.prefixKey
	e.PrefixPages[e.NumPrefixes] = t.prefixPages[q.prefixKey]
	return e.NumPrefixes
}

func (t *Traffic) sequence(e *Episode, q *request, prefix uint8) Sequence {
	return Sequence{PromptTokens: privatePrompt(e, q, prefix), OutputTokens: q.output, RateTokens: t.rate,
		Priority: q.priority, Prefix: prefix, Type: q.typ, Steady: true, Codes: q.offCode << 6, Ref: t.refOf(q)}
}

// refOf names a request's turn; 0 in an open loop.
func (t *Traffic) refOf(q *request) uint32 {
	if !t.cfg.Closed {
		return 0
	}
	if q.next != 0 {
		return t.requests[q.next-1].previous
	}
	return refLast
}

// refLast names the last turn of any session.
const refLast = 1<<32 - 1

// Next implements Source; rule 13.7.
func (t *Traffic) Next(_ *Episode, ref uint32) (Turn, bool) {
	if ref == 0 || int64(ref) > int64(len(t.requests)) || t.requests[ref-1].next == 0 {
		return Turn{}, false
	}
	q := &t.requests[ref-1]
	f := &t.requests[q.next-1]
	end := q.step + t.life(q) - 1 // on an unconstrained server
	pause := max(1, int64(f.step+t.delay)-int64(end))
	return Turn{PauseSteps: uint16(min(65535, pause)), PromptTokens: f.input - min(f.input-1, q.input+uint32(q.output)), OutputTokens: f.output, Ref: t.refOf(f)}, true
}

// continued tells whether a request is a turn of a session that the episode already holds, so that it does not arrive by
// itself; rule 13.7.
func (t *Traffic) continued(e *Episode, q *request) bool {
	if q.previous == 0 {
		return false
	}
	return t.requests[q.previous-1].step >= e.WindowStep || t.held(e, q.previous-1)
}

// held tells whether a request from before the window is still running, and near enough to be looked at; rule 5.7.
func (t *Traffic) held(e *Episode, i uint32) bool {
	return i >= t.scanStart(e) && t.liveAt(&t.requests[i], e.WindowStep)
}

// initial tells whether a request from before the window is an initial sequence: it is held, and not a turn of one that is.
func (t *Traffic) initial(e *Episode, i uint32) bool {
	previous := t.requests[i].previous
	return t.held(e, i) && (previous == 0 || !t.held(e, previous-1))
}

// Arrive implements Source; rules 5.1 and 5.8. The low 32 bits of a word are the request's number, the next 3 its prefix id.
func (t *Traffic) Arrive(e *Episode, step int, out []Word, needs []uint32) (n int, qp uint32) {
	at := e.WindowStep + uint32(step)
	first, end := t.firstOf(at), t.firstOf(at+1)
	for i := first; i < end; i++ {
		if q := &t.requests[i]; !t.continued(e, q) {
			prefix := t.prefixID(e, q)
			if n < len(out) {
				out[n] = Word(i) | Word(prefix)<<32 | Word(step)<<PayloadBits
				if n < len(needs) {
					needs[n] = Need(privatePrompt(e, q, prefix), prefix)
					qp += needs[n] & kernels.DemandMask
				}
			}
			n++
		}
	}
	e.Cursor = end
	return n, qp
}

// MaxRate implements Source.
func (t *Traffic) MaxRate() uint32 { return uint32(t.rate) }

// Initials implements Source.
func (t *Traffic) Initials(e *Episode, first int, n *kernels.Newcomers) int {
	return initials(t, e, first, n)
}

// Requests implements Source.
func (t *Traffic) Requests(e *Episode, words *[8]Word, count int, step int16, n *kernels.Newcomers) {
	requests(t, e, words, count, step, n)
}

// Demand implements Source.
func (t *Traffic) Demand(e *Episode, w Word) (uint32, uint8) {
	prefix := uint8(w >> 32 & 7)
	return privatePrompt(e, t.requestOf(w), prefix), prefix
}

// Decode implements Source.
func (t *Traffic) Decode(e *Episode, w Word) Sequence {
	return t.sequence(e, t.requestOf(w), uint8(w>>32&7))
}

// requestOf finds a word's request; a word from outside may name one that the trace does not have.
func (t *Traffic) requestOf(w Word) *request {
	return &t.requests[min(uint64(uint32(w)), uint64(len(t.requests)-1))]
}

// privatePrompt is what a request's prompt holds beyond its prefix. Only a word from outside can pair a request with a
// prefix that leaves it nothing; it gets one token, so that the bound of maxPromptTokens holds for it too.
func privatePrompt(e *Episode, q *request, prefix uint8) uint32 {
	return q.input - min(q.input-1, uint32(e.PrefixPages[prefix])*kv.PageTokens)
}

// Enqueue implements Source.
func (t *Traffic) Enqueue(e *Episode, words *[8]Word, count int, step int16, q *kernels.Tickets, first int) {
	enqueue(t, e, words, count, step, q, first)
}
