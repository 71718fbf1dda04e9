package scenario

import (
	"fmt"

	"github.com/kvgym/kvgym/internal/rng"
	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/kv"
)

// Level is how fast requests arrive.
type Level uint8

// The arrival levels. FromTrace marks an episode whose arrivals are a trace's.
const (
	Low Level = iota
	Moderate
	High
	Bursty
	FromTrace
)

var levelNames = []string{"low", "medium", "high", "bursty", "trace"}

func (l Level) String() string {
	if int(l) < len(levelNames) {
		return levelNames[l]
	}
	return fmt.Sprintf("Level(%d)", uint8(l))
}

// tierLevels gives the two arrival levels of a tier (SEED's table).
var tierLevels = [3][2]Level{{Low, Moderate}, {Moderate, High}, {High, Bursty}}

const (
	numTenants         = 4
	seedTokens         = 500 // tokens that make a throughput of 1 in seedSteps steps
	seedSteps          = 15
	pagesPerSlot       = 4 // capacity
	laneSlots          = 16
	burstChance        = 19661 // of 65536: 0.3
	tierWord           = 0     // indices of the Episode purpose
	initialBasePer64   = 6
	initialSpreadPer64 = 8
)

// Synthetic draws episodes of agent traffic from the published tables; docs/simulator.md, section 4.
type Synthetic struct {
	slots, steps int
	difficulty   Difficulty
	tables       *kernels.RequestTables
}

// NewSynthetic makes a source for environments of the given number of slots (a multiple of 16 from 16 to 256) and steps
// an episode (1 to 4096).
func NewSynthetic(slots, steps int, d Difficulty) (*Synthetic, error) {
	if err := CheckShape(slots, steps); err != nil {
		return nil, err
	}
	if d > All {
		return nil, fmt.Errorf("difficulty: %d: allowed easy, medium, hard, all", d)
	}
	return &Synthetic{slots: slots, steps: steps, difficulty: d, tables: &requestTables}, nil
}

// CheckShape tells whether an environment may have this many slots and steps.
func CheckShape(slots, steps int) error {
	if slots < 16 || slots > 256 || slots%laneSlots != 0 {
		return fmt.Errorf("slots: %d: allowed a multiple of 16 from 16 to 256", slots)
	}
	if steps < 1 || steps > 4096 {
		return fmt.Errorf("steps: %d: allowed 1 to 4096", steps)
	}
	return nil
}

// Shape implements Source.
func (s *Synthetic) Shape() Shape { return Shape{Slots: s.slots, Steps: s.steps} }

// CheckEpisode implements Source.
func (s *Synthetic) CheckEpisode(e *Episode) error {
	if e.ArrivalLevel > Bursty || e.NumPrefixes != numTenants {
		return fmt.Errorf("episode: arrivals %s, %d prefixes: allowed low to bursty, %d", e.ArrivalLevel, e.NumPrefixes, numTenants)
	}
	return nil
}

// Fingerprint implements Source.
func (s *Synthetic) Fingerprint() string {
	return fmt.Sprintf("synthetic/slots=%d/steps=%d/difficulty=%s", s.slots, s.steps, s.difficulty)
}

// Begin implements Source; rules 4.1 to 4.4.
func (s *Synthetic) Begin(id Identity, e *Episode) {
	e.begin(id)
	e.CapacityQP = uint32(s.slots * pagesPerSlot * kv.FP16QuarterPages)
	w := rng.Draw(e.Key, rng.Episode, 0, tierWord)
	e.drawTier(s.difficulty, w)
	e.ArrivalLevel = tierLevels[e.DrawnFrom][rng.Field(w, 32, 1)]
	per64 := initialBasePer64 + rng.Scale(rng.Field(w, 33, 16), 16, initialSpreadPer64)
	e.NumInitial = uint16(numTenants + int(per64)*s.slots/64)
	e.TokenNorm = uint32(max(1, seedTokens*s.steps/seedSteps))
	e.NumPrefixes = numTenants
	for p := 1; p <= numTenants; p++ {
		e.PrefixPages[p] = uint16(2 + rng.Field(rng.Draw(e.Key, rng.Prefix, 0, uint32(p)), 0, 3))
	}
}

// Initial implements Source; rule 4.6. The first numTenants sequences are the tenants' system prompts.
func (s *Synthetic) Initial(e *Episode, i int) InitialSequence {
	w := rng.Draw(e.Key, rng.Initial, 0, uint32(i))
	if i < numTenants {
		return InitialSequence{
			Sequence:   Sequence{Priority: uint8(rng.Scale(rng.Field(w, 33, 7), 7, 101)), Prefix: uint8(i + 1), Type: kv.System},
			LastAccess: -int16(rng.Field(w, 62, 2)),
			Hotness:    uint8(rng.Field(w, 54, 8)),
		}
	}
	q := InitialSequence{Sequence: sequenceOf(w), Hotness: uint8(rng.Field(w, 54, 8))}
	q.DoneTokens = uint16(rng.Scale(rng.Field(w, 48, 6), 6, uint32(q.OutputTokens)))
	q.Phase = kv.Decode
	switch q.Type {
	case kv.Reasoning:
		q.Phase = kv.Thinking
	case kv.Context:
		q.Timer = 2 + q.OnCode()
		if rng.Field(w, 62, 1) == 1 {
			q.Phase, q.Timer = kv.Idle, 1+q.OffCode()
		}
	}
	if q.Phase == kv.Idle {
		q.LastAccess = -int16(rng.Field(w, 54, 3))
	}
	return q
}

// Initials implements Source.
func (s *Synthetic) Initials(e *Episode, first int, n *kernels.Newcomers) int {
	var draws [8]uint64
	kernels.Initials(&draws, rng.Counter(e.Key, rng.Initial, 0, uint32(first)), s.tables, &e.PrefixPages, systemsOf(first), n)
	return min(len(draws), int(e.NumInitial)-first)
}

// systemsOf is how many of the eight initial sequences from first on, a multiple of eight, are the tenants' system prompts.
func systemsOf(first int) int { return max(0, numTenants-first) }

// Requests implements Source.
func (s *Synthetic) Requests(e *Episode, words *[8]Word, _ int, step int16, n *kernels.Newcomers) {
	kernels.Requests(words, s.tables, &e.PrefixPages, step, 63, n)
}

// Enqueue implements Source.
func (s *Synthetic) Enqueue(e *Episode, words *[8]Word, count int, step int16, t *kernels.Tickets, first int) {
	enqueue(s, e, words, count, step, t, first)
}

// Tables are those by which kernels decode the requests.
func (s *Synthetic) Tables() *kernels.RequestTables { return s.tables }

// lanes is how many draws count a step's arrivals.
func (s *Synthetic) lanes() int { return s.slots / laneSlots }

// Draws says what a step's arrivals are drawn from; rules 4.7 to 4.9. It serves up to 64 slots.
func (s *Synthetic) Draws(e *Episode, step int32, d *kernels.ArrivalDraws) {
	t := uint32(step)
	d.Base, d.Count, d.Counts = rng.Counter(e.Key, rng.Request, t, 0), rng.Counter(e.Key, rng.Arrivals, t, 0), s.thresholds(e, t)
}

// Arrivals says what any step's arrivals are drawn from, as Draws says it of one.
func (s *Synthetic) Arrivals(a *kernels.RunArrivals) {
	a.Base, a.Count, a.Burst = rng.Counter(0, rng.Request, 0, 0), rng.Counter(0, rng.Arrivals, 0, 0), rng.Counter(0, rng.Arrivals, 0, burstIndex)
	a.Counts, a.Chance = &arrivalThresholds, burstChance
}

// stepDraws says what all steps' arrivals are drawn from, as Draws says it of one.
func (s *Synthetic) stepDraws(e *Episode, d *kernels.StepDraws) {
	d.Count, d.Burst, d.Base = rng.Counter(e.Key, rng.Arrivals, 0, 0), rng.Counter(e.Key, rng.Arrivals, 0, burstIndex), rng.Counter(e.Key, rng.Request, 0, 0)
	level := uint64(e.ArrivalLevel)
	d.Counts[0], d.Counts[1] = &arrivalThresholds[level&7], &arrivalThresholds[(level+level>>1&level&1)&7]
	d.Chance, d.Lanes = burstChance, s.lanes()
}

// MaxRate implements Source.
func (s *Synthetic) MaxRate() uint32 { return uint32(len(rateTokens)) }

// Arrive implements Source; rules 4.7 to 4.9.
func (s *Synthetic) Arrive(e *Episode, step int, out []Word, needs []uint32) (n int, qp uint32) {
	var d kernels.ArrivalDraws
	s.Draws(e, int32(step), &d)
	base, stamp, count, table, lanes := d.Base, uint64(step)<<PayloadBits, d.Count, d.Counts, s.lanes()
	if lanes <= 4 && cap(out) >= 8 && cap(needs) >= 8 {
		n, qp = kernels.Arrive((*[8]Word)(out[:8]), (*[8]uint32)(needs[:8]), base, stamp, s.tables, count, lanes, table, len(out))
	} else {
		for i := uint64(0); lanes > 0; lanes, i = lanes-4, i+1 {
			n += kernels.Counts(rng.Mix(rng.After(count, i))&(^uint64(0)>>(64-16*min(lanes, 4))), table)
		}
		qp = s.arriveEight(out, needs, base, stamp, n)
	}
	for k := 8; k < min(n, len(out)); k += 8 {
		qp += s.arriveEight(out[k:], needs[min(k, len(needs)):], rng.After(base, uint64(k)), stamp, n-k)
	}
	return n, qp
}

// burst is the index of the arrivals' table that follows Bursty.
const burst = Bursty + 1

// burstIndex is the index of the draw that says whether there is one.
const burstIndex = 255

// thresholds chooses the table of a step's arrivals, without a branch.
func (s *Synthetic) thresholds(e *Episode, t uint32) *[arrivalTableLen + 1]uint16 {
	level := uint64(e.ArrivalLevel)
	bursty := level >> 1 & level & 1
	now := (uint64(rng.Field(rng.Draw(e.Key, rng.Arrivals, t, burstIndex), 0, 16)) - burstChance) >> 63
	return &arrivalThresholds[(level+bursty&now)&7]
}

// arriveEight writes up to n requests, but no more than eight and no more than there is room for.
func (s *Synthetic) arriveEight(out []Word, needs []uint32, base, stamp uint64, n int) (qp uint32) {
	var words [8]Word
	var needed [8]uint32
	kernels.Arrivals(&words, &needed, base, stamp, s.tables)
	n = min(n, len(words), len(out))
	copy(out, words[:n])
	copy(needs, needed[:n])
	for _, need := range needed[:min(n, len(needs))] {
		qp += need & kernels.DemandMask
	}
	return qp
}

// Demand implements Source.
func (s *Synthetic) Demand(e *Episode, w Word) (uint32, uint8) {
	return promptOf(uint64(w)), prefixOf(uint64(w))
}

// Decode implements Source; rule 4.5.
func (s *Synthetic) Decode(e *Episode, w Word) Sequence { return sequenceOf(uint64(w)) }

func sequenceOf(w uint64) Sequence {
	return Sequence{
		Type:         typeOf[uint8(w)],
		PromptTokens: promptOf(w),
		Prefix:       prefixOf(w),
		OutputTokens: outputTokens[w>>25&63],
		RateTokens:   rateTokens[w>>31&3],
		Priority:     uint8(rng.Scale(rng.Field(w, 33, 7), 7, 101)),
		Codes:        uint8(rng.Field(w, 40, 4)) << 4,
	}
}

func promptOf(w uint64) uint32 {
	return (uint32(promptPages[w>>12&63])-1)*kv.PageTokens + 1 + rng.Field(w, 18, 7)
}

// prefixOf has no branch, which nothing could predict.
func prefixOf(w uint64) uint8 {
	shares := (rng.Field(w, 10, 2) + 3) >> 2 // 0 if the field is 0, else 1
	return uint8(shares * (1 + rng.Field(w, 8, 2)))
}

// requestTables are rule 4.5 for the kernels: 56, 110, 51 and 39 of 256 draws are context, generation, reasoning, ephemeral.
var requestTables = kernels.RequestTables{Pages: promptPages, Output: outputTokens, Types: [3]uint64{56, 166, 217}}

// typeOf maps eight random bits to a block type. A table, since no predictor knows a draw.
var typeOf = makeTypes()

func makeTypes() (t [256]kv.BlockType) {
	for b := range t {
		t[b] = kv.Context
		for _, th := range requestTables.Types {
			if b >= int(th) {
				t[b]++
			}
		}
	}
	return t
}
