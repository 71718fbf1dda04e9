package toolenv

import (
	"cmp"
	"encoding/json"
	"math"
	"slices"
	"strconv"

	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/vecenv"
)

// listed is how many entries each list of the observation has at most: two to three times what a turn under pressure needs.
const listed = 6

// observation is the compact observation; the seed fixes its ten fields.
type observation struct {
	Usage      number      `json:"memory_usage"`         // in use, share of the budget
	Budget     number      `json:"memory_budget"`        // share of the GPU's capacity
	Remaining  int         `json:"episode_remaining"`    // steps
	TimeAbove  int         `json:"time_above_0_95"`      // steps
	Growth     int         `json:"pending_queue_growth"` // requests, in the last step
	Overview   overview    `json:"cache_overview"`
	Largest    []entry     `json:"top_memory_entries"`
	Candidates []candidate `json:"top_eviction_candidates"`
	Pending    pending     `json:"pending_summary"`
	Visible    []int       `json:"visible_seq_ids"`
}

// overview counts what is in the cache.
type overview struct {
	Live       int       `json:"live"`
	Types      types     `json:"types"`
	Compressed int       `json:"compressed"`
	Swapped    int       `json:"swapped"`
	Shared     number    `json:"shared_prefixes"` // memory that prefixes hold, share of the budget
	CPU        *cpuState `json:"cpu,omitempty"`   // serving
}

// cpuState is what matters for swapping in the serving profile.
type cpuState struct {
	Free number `json:"free"`          // CPU memory left, share of the GPU's budget
	Link number `json:"link_per_step"` // what crosses the link in a step, each way, share of the budget
}

// types counts sequences by block type.
type types struct {
	System     int `json:"system"`
	Context    int `json:"context"`
	Generation int `json:"generation"`
	Reasoning  int `json:"reasoning"`
	Ephemeral  int `json:"ephemeral"`
}

// entry is one of the largest sequences.
type entry struct {
	ID       int    `json:"id"`
	Type     string `json:"type"`
	Cost     number `json:"cost"` // private memory, share of the budget
	Tokens   uint32 `json:"tokens"`
	Progress number `json:"progress"`
	Priority number `json:"priority"`
	Quant    string `json:"quant"`
	Prefix   uint8  `json:"prefix,omitempty"`
	Sharers  int    `json:"shared_by,omitempty"` // sequences in GPU memory that hold the prefix, itself included
	Phase    string `json:"phase,omitempty"`     // where it does not generate
	Idle     int    `json:"idle_steps,omitempty"`
	Moving   string `json:"moving,omitempty"`       // serving: out or in
	Again    uint32 `json:"recompute_ms,omitempty"` // serving: prefill time that evicting it costs later
}

// candidate is a sequence that could be evicted.
type candidate struct {
	ID       int    `json:"id"`
	Type     string `json:"type"`
	Value    number `json:"eviction_value"`
	Frees    number `json:"frees"` // share of the budget, its prefix's part included
	Priority number `json:"priority"`
	Progress number `json:"progress"`
	Left     uint32 `json:"tokens_left"`
	Risk     number `json:"risk,omitempty"` // penalty of evicting it, before weighting
}

// pending sums up the requests that wait.
type pending struct {
	Waiting    int    `json:"waiting"`
	Needs      number `json:"needs"` // memory of their prompts, share of the budget
	Oldest     int    `json:"oldest_wait"`
	LastChance int    `json:"fail_next_step"` // those that fail in the next step unless they are admitted in it
}

// number is a share with three digits behind the point: exact values would cost tokens and tell nothing.
type number float64

func rounded(x float64) number { return number(math.Round(x*1000) / 1000) }

// String is what JSON has, too.
func (x number) String() string { return strconv.FormatFloat(float64(x), 'f', -1, 64) }

// share is memory as a part of other memory.
func share(qp, of uint64) number { return rounded(float64(qp) / float64(max(1, of))) }

// share is memory as a part of the budget.
func (p *picture) share(qp uint32) number { return share(uint64(qp), uint64(p.budget)) }

// percent is a share of hundredths.
func percent(x uint32) number { return rounded(float64(x) / 100) }

// observe looks at the present state; p is its picture.
func observe(v vecenv.View, p *picture) []byte {
	o := observation{Usage: p.share(v.UsedQP()), Budget: share(uint64(v.BudgetQP()), uint64(v.Episode().CapacityQP)), Remaining: v.Steps() - v.Step(),
		TimeAbove: int(v.Counters().PressureSteps), Growth: v.Growth(), Overview: p.overview(v), Pending: p.pending(v)}
	o.Largest, o.Candidates = p.largest(v), p.candidates(v)
	o.Visible = []int{}
	for i := range o.Candidates {
		o.Visible = append(o.Visible, o.Candidates[i].ID)
	}
	for i := range o.Largest {
		if id := o.Largest[i].ID; !slices.Contains(o.Visible, id) {
			o.Visible = append(o.Visible, id)
		}
	}
	text, err := json.Marshal(&o)
	if err != nil {
		panic(err) // there is nothing in it that JSON cannot hold
	}
	return text
}

func (p *picture) overview(v vecenv.View) (o overview) {
	counts := [kv.NumBlockTypes]*int{&o.Types.System, &o.Types.Context, &o.Types.Generation, &o.Types.Reasoning, &o.Types.Ephemeral}
	v.Live(func(s *vecenv.SlotState) bool {
		o.Live++
		*counts[s.Type]++
		if s.Quant != kv.FP16 {
			o.Compressed++
		}
		if s.Swapped {
			o.Swapped++
		}
		return true
	})
	o.Shared = p.share(v.SharedQP())
	if preset := v.Preset(); preset != nil {
		o.CPU = &cpuState{share(v.HostFreeQP(), uint64(p.budget)), share(uint64(preset.LinkQP()), uint64(p.budget))}
	}
	return o
}

func (p *picture) pending(v vecenv.View) pending {
	q := pending{Waiting: v.QueueLen(), Needs: p.share(v.PendingQP())}
	for i := range v.QueueLen() {
		_, since := v.Waiting(i)
		wait := v.Step() - since
		q.Oldest = max(q.Oldest, wait)
		if wait+1 >= v.MaxWait() {
			q.LastChance++
		}
	}
	return q
}

// largest are the sequences with the most private memory.
func (p *picture) largest(v vecenv.View) []entry {
	out := []entry{}
	for _, s := range p.top(func(s *seat) bool { return s.CostQP > 0 }, func(a, b *seat) int { return cmp.Compare(b.CostQP, a.CostQP) }) {
		x := entry{ID: s.Slot, Type: s.Type.String(), Cost: p.share(s.CostQP), Tokens: s.Tokens, Progress: progress(s), Priority: percent(s.Priority),
			Quant: s.Quant.String(), Prefix: s.Prefix}
		if s.Prefix != 0 {
			x.Sharers = p.sharers(s) + 1
		}
		if s.Phase == kv.Idle || s.Phase == kv.Prefill {
			x.Phase = s.Phase.String()
		}
		if s.Phase == kv.Idle {
			x.Idle = v.Step() - s.LastAccess
		}
		if p.serving {
			x.addServing(v.Preset(), s, int64(p.pages[s.Prefix&kv.MaxPrefixes])*kv.PageTokens)
		}
		out = append(out, x)
	}
	return out
}

// addServing adds what an entry of the serving profile has besides.
func (x *entry) addServing(preset *kv.Preset, s *seat, prefix int64) {
	if s.Moving {
		x.Moving = "out"
	}
	if s.Back {
		x.Moving = "in"
	}
	x.Again = preset.PrefillUS(int64(s.Tokens)-prefix, prefix) / 1000 // others hold the prefix as a rule
}

func progress(s *seat) number { return share(uint64(s.Tokens), uint64(s.Target())) }

// candidates are the sequences that are best evicted: what is dead first, then what carries no risk, then the rest; in each of these by
// eviction value, then the least important, then what has come least far. System blocks, and what would free nothing, are none.
func (p *picture) candidates(v vecenv.View) []candidate {
	out := []candidate{}
	for _, s := range p.top(func(s *seat) bool { return s.Type != kv.System && s.live && p.reclaim(s) > 0 }, func(a, b *seat) int {
		return cmp.Or(cmp.Compare(p.safety(a), p.safety(b)), cmp.Compare(b.Type.EvictionPercent(), a.Type.EvictionPercent()), cmp.Compare(a.Priority, b.Priority),
			cmp.Compare(uint64(a.Tokens)*uint64(b.Target()), uint64(b.Tokens)*uint64(a.Target())))
	}) {
		out = append(out, candidate{ID: s.Slot, Type: s.Type.String(), Value: percent(s.Type.EvictionPercent()), Frees: p.share(p.reclaim(s)),
			Priority: percent(s.Priority), Progress: progress(s), Left: s.Remaining, Risk: percent(p.risk(s))})
	}
	return out
}

// safety is 0 for what is dead, 1 for what may be evicted without risk, 2 for what may not.
func (p *picture) safety(s *seat) int {
	switch {
	case s.Remaining == 0 && (s.Type == kv.Reasoning || s.Type == kv.Ephemeral):
		return 0
	case p.risk(s) == 0:
		return 1
	}
	return 2
}

// risk is what evicting a sequence costs, hundredths; rule 9.8. The serving profile has no such penalty.
func (p *picture) risk(s *seat) uint32 {
	switch {
	case p.serving:
		return 0
	case s.Type == kv.System:
		return 30
	case s.Type == kv.Context && s.Priority >= 50:
		return 15
	case s.Type == kv.Generation && s.Priority >= 70 && uint64(s.Tokens)*10 >= uint64(s.Target())*7:
		return 20
	}
	return 0
}

// top are the first live sequences in an order, those of lower slots first among equal ones.
func (p *picture) top(is func(s *seat) bool, order func(a, b *seat) int) []*seat {
	var out []*seat
	for i := range p.seats {
		if s := &p.seats[i]; s.live && is(s) {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b *seat) int { return cmp.Or(order(a, b), cmp.Compare(a.Slot, b.Slot)) })
	return out[:min(len(out), listed)]
}
