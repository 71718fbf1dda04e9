package scenario

import (
	"fmt"
	"strings"

	"github.com/kvgym/kvgym/internal/rng"
	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/kv"
)

// Difficulty is the tier an episode is drawn from. All draws one of the other three for every episode.
type Difficulty uint8

// The difficulties.
const (
	Easy Difficulty = iota
	Medium
	Hard
	All
)

var difficultyNames = []string{"easy", "medium", "hard", "all"}

func (d Difficulty) String() string {
	if int(d) < len(difficultyNames) {
		return difficultyNames[d]
	}
	return fmt.Sprintf("Difficulty(%d)", uint8(d))
}

// ParseDifficulty returns the difficulty of that name; the error names what is allowed.
func ParseDifficulty(s string) (Difficulty, error) {
	for i, n := range difficultyNames {
		if n == s {
			return Difficulty(i), nil
		}
	}
	return 0, fmt.Errorf("difficulty: %.40q: allowed %s", s, strings.Join(difficultyNames, ", "))
}

// Shape is the size of the environments that a Source draws for.
type Shape struct{ Slots, Steps int }

// Identity names one episode: everything in it is a function of these three numbers and of the configuration.
type Identity struct {
	Seed    uint64
	Env     uint32
	Episode uint32
}

// Episode is what was drawn once for an episode, and the Source's place in it. It has a fixed size and holds no
// pointer, so that it can live inside an environment's block and be saved with it.
type Episode struct {
	Identity
	Key uint64 // random stream key, rule 2.2
	kernels.Limits
	RequestNorm  uint32                     // serving: requests of the episode, at least 1; seed: 0
	GoodNorm     uint64                     // serving: weighted tokens that an unconstrained server delivers, at least 1; seed: 0
	WindowStep   uint32                     // Traffic: step of the trace before the episode's first
	Cursor       uint32                     // Traffic: next request of the trace to arrive
	PrefixKeys   [kv.MaxPrefixes + 1]uint32 // Traffic: what each prefix id stands for; 0 none
	PrefixPages  [kv.MaxPrefixes + 1]uint16 // pages of each shared prefix; [0] is always 0
	NumInitial   uint16                     // initial sequences drawn (some may not fit)
	NumPrefixes  uint8                      // prefix ids in use are 1..NumPrefixes
	DrawnFrom    Difficulty                 // never All
	ArrivalLevel Level
	Reserved     [3]uint8 // 0; keeps the size a multiple of 8 on every machine
}

// Sequence is what a request brings when it is admitted.
type Sequence struct {
	PromptTokens uint32       // private prompt tokens beyond the shared prefix, at least 1
	OutputTokens uint16       // tokens it will generate, at least 1
	RateTokens   uint16       // tokens it generates a step, at least 1
	Priority     uint8        // percent, 0 to 100
	Prefix       uint8        // shared prefix id, 0 none
	Type         kv.BlockType // never System
	Steady       bool         // a context sequence that never pauses
	Codes        uint8        // bits 4-5 the run code, 6-7 the pause code
	Ref          uint32       // serving: names the turn for Source.Next, 0 for what has no session
	// No more than nine fields, so that Go passes a Sequence in registers.
}

// OnCode is the run code, 0-3: a context sequence decodes 2+OnCode steps between pauses.
func (q *Sequence) OnCode() uint8 { return q.Codes >> 4 & 3 }

// OffCode is the pause code, 0-3: it pauses, or a finished thinker lingers, 1+OffCode steps.
func (q *Sequence) OffCode() uint8 { return q.Codes >> 6 }

// Turn is what a session goes on with after one of its turns has ended; serving profile only.
type Turn struct {
	PauseSteps   uint16 // steps from the end of the last turn to its start, at least 1
	OutputTokens uint16 // tokens it will generate, at least 1
	PromptTokens uint32 // tokens that it adds to the context before it generates, at least 1
	Ref          uint32 // names it for Source.Next
}

// InitialSequence is a sequence that is already in the cache when the episode starts.
type InitialSequence struct {
	Sequence
	DoneTokens uint16 // of OutputTokens, already generated; for System both are 0
	LastAccess int16  // step of last access, 0 or negative
	Hotness    uint8
	Timer      uint8 // steps left of the present pause or run
	Phase      kv.Phase
}

// Word carries one waiting request: the low 48 bits belong to the Source, the high 16 are the step it arrived in.
type Word = uint64

// PayloadBits is how many low bits of a Word belong to the Source.
const PayloadBits = 48

// Source draws episodes. Implementations are immutable and safe for concurrent use; e belongs to the caller.
type Source interface {
	// Begin draws everything of the episode that is drawn once.
	Begin(id Identity, e *Episode)
	// Initial returns initial sequence i, 0 <= i < e.NumInitial, asked for in order, each once.
	Initial(e *Episode, i int) InitialSequence
	// Arrive returns how many requests arrive at the end of the step (0 is the reset) and writes the first len(out) of
	// them; what out and needs have beyond their length may be overwritten. Steps must be asked for in order, each once: a trace's place is in e. Where needs is not nil, which must then be as
	// long as out, it gets what each of them needs: the quarter pages of its private prompt at fp16 and its shared prefix, packed
	// as a kernels.Demand; the memory of them all is then the second result.
	Arrive(e *Episode, step int, out []Word, needs []uint32) (n int, qp uint32)
	// Demand tells the tokens of a request's private prompt and its shared prefix: a part of Decode.
	Demand(e *Episode, w Word) (promptTokens uint32, prefix uint8)
	// Initials is Initial for up to eight of them, first, first+1, ..., as they are placed; it returns how many it wrote.
	Initials(e *Episode, first int, n *kernels.Newcomers) int
	// Requests is Decode for the first count of eight words, as they are placed at a step.
	Requests(e *Episode, words *[8]Word, count int, step int16, n *kernels.Newcomers)
	// Enqueue is Decode for the first count of eight words, as they join the queue of a serving environment at a step: tickets from the
	// first-th on. Where there are so many, up to eight may be overwritten.
	Enqueue(e *Episode, words *[8]Word, count int, step int16, t *kernels.Tickets, first int)
	// MaxRate bounds the tokens that a sequence of the seed profile generates a step.
	MaxRate() uint32
	// Decode tells what a request brings.
	Decode(e *Episode, w Word) Sequence
	// Next tells how a session goes on after the turn named ref; ok is false when it does not.
	Next(e *Episode, ref uint32) (t Turn, ok bool)
	// Shape is the slots and steps that the source draws for.
	Shape() Shape
	// CheckEpisode tells whether an Episode that came from outside could have been drawn by this source, as far as safety
	// needs it: no later call with it may read outside a table.
	CheckEpisode(e *Episode) error
	// Fingerprint identifies the configuration: two Sources with equal fingerprints draw equal episodes.
	Fingerprint() string
}

// Birth is the step that a request arrived in.
func Birth(w Word) int32 { return int32(w >> PayloadBits) }

// Need packs what a request needs: the quarter pages of its private prompt at fp16 and its shared prefix, as a kernels.Demand.
func Need(promptTokens uint32, prefix uint8) uint32 {
	return kv.Pages(promptTokens)*kv.FP16QuarterPages | uint32(prefix)<<kernels.DemandShift
}

// newcomer makes sequence i of a group of newcomers.
func (e *Episode) newcomer(n *kernels.Newcomers, i int, q *Sequence, phase kv.Phase, timer uint8) {
	i &= 7
	bit, t := uint8(1)<<i, uint8(q.Type)
	n.Tokens[i] = q.PromptTokens + uint32(e.PrefixPages[q.Prefix&kv.MaxPrefixes])*kv.PageTokens
	n.Need[i] = kv.Pages(q.PromptTokens) * kv.FP16QuarterPages
	n.Remaining[i], n.Rate[i] = q.OutputTokens, q.RateTokens
	n.Priority[i], n.Prefix[i], n.Cycle[i] = q.Priority, q.Prefix, timer|q.Codes
	n.Type0 = n.Type0&^bit | t&1<<i
	n.Type1 = n.Type1&^bit | t>>1&1<<i
	n.Type2 = n.Type2&^bit | t>>2&1<<i
	n.Prefill, n.Active = n.Prefill&^bit, n.Active&^bit
	switch phase {
	case kv.Prefill:
		n.Prefill |= bit
	case kv.Decode, kv.Thinking:
		n.Active |= bit
	}
}

// initials writes initial sequences one by one.
func initials(src Source, e *Episode, first int, n *kernels.Newcomers) int {
	count := min(len(n.Tokens), int(e.NumInitial)-first)
	for i := range count {
		q := src.Initial(e, first+i)
		done := q.DoneTokens
		q.PromptTokens += uint32(done)
		q.OutputTokens -= done
		e.newcomer(n, i, &q.Sequence, q.Phase, q.Timer)
		n.LastAccess[i], n.Hotness[i] = q.LastAccess, q.Hotness
		n.Ref[i], n.Wake[i] = q.Ref, int16(q.Timer)
	}
	return count
}

// requests writes admitted requests one by one.
func requests(src Source, e *Episode, words *[8]Word, count int, step int16, n *kernels.Newcomers) {
	for i, w := range words[:count] {
		q := src.Decode(e, w)
		timer := uint8(0)
		if q.Type == kv.Context && !q.Steady {
			timer = 2 + q.OnCode()
		}
		e.newcomer(n, i, &q, kv.Prefill, timer)
		n.LastAccess[i], n.Hotness[i] = step, 63
	}
}

// enqueue writes waiting requests one by one.
func enqueue(src Source, e *Episode, words *[8]Word, count int, step int16, t *kernels.Tickets, first int) {
	for k, w := range words[:count] {
		q, i := src.Decode(e, w), first+k
		t.Private[i], t.Ref[i], t.Remaining[i], t.Born[i], t.Since[i] = q.PromptTokens, q.Ref, q.OutputTokens, step, step
		t.Priority[i], t.Prefix[i], t.Type[i], t.Codes[i], t.Flags[i] = q.Priority, q.Prefix, uint8(q.Type), q.Codes, 0
	}
}

// begin empties the episode in its place: a copy from elsewhere would be loaded in wide pieces before its narrow ones are stored.
func (e *Episode) begin(id Identity) {
	*e = Episode{}
	e.Identity, e.Key = id, rng.Key(id.Seed, id.Env, id.Episode)
}

// budgetPermille is the range of a tier's memory budget, thousandths of the capacity (SEED: 0.90-1.00, 0.75-0.90,
// 0.65-0.80).
var budgetPermille = [3][2]uint32{{900, 1000}, {750, 900}, {650, 800}}

// drawTier resolves All and draws the budget; rules 4.1 and 4.2.
func (e *Episode) drawTier(d Difficulty, w uint64) {
	if d == All {
		d = Difficulty(rng.Scale(rng.Field(w, 0, 16), 16, 3))
	}
	e.DrawnFrom = d
	lo, hi := budgetPermille[d][0], budgetPermille[d][1]
	permille := lo + rng.Scale(rng.Field(w, 16, 16), 16, hi-lo+1)
	e.BudgetQP = uint32(uint64(e.CapacityQP) * uint64(permille) / 1000)
}
