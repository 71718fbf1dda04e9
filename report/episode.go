package report

import (
	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/reward"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/vecenv"
)

// Request is one drawn sequence: what a request brings, or an initial sequence.
type Request struct {
	PromptTokens uint32 `json:"private_prompt_tokens"`
	OutputTokens uint16 `json:"output_tokens"`
	Rate         uint16 `json:"rate"`
	Priority     uint8  `json:"priority"`
	Prefix       uint8  `json:"prefix"`
	Type         string `json:"type"`
	RunCode      uint8  `json:"run_code"`
	PauseCode    uint8  `json:"pause_code"`
	Pauses       bool   `json:"pauses"`
	*Session
}

// Initial is one drawn initial sequence.
type Initial struct {
	Request
	DoneTokens uint16 `json:"done_tokens"`
	LastAccess int16  `json:"last_access"`
	Hotness    uint8  `json:"hotness"`
	Timer      uint8  `json:"timer"`
	Phase      string `json:"phase"`
}

// Arrivals are the requests of one step.
type Arrivals struct {
	Step     int       `json:"step"`
	Requests []Request `json:"requests"`
}

// Scenario is everything that was drawn for an episode, and the state after its reset.
type Scenario struct {
	Kind         string     `json:"type"` // "scenario"
	Simulator    string     `json:"simulator_version"`
	Profile      string     `json:"profile"`
	Seed         uint64     `json:"seed"`
	Env          uint32     `json:"env"`
	Episode      uint32     `json:"episode"`
	Key          uint64     `json:"key"`
	Slots        int        `json:"slots"`
	Steps        int        `json:"steps"`
	MaxWait      int        `json:"max_wait"`
	Difficulty   string     `json:"difficulty"`
	ArrivalLevel string     `json:"arrival_level"`
	CapacityQP   uint32     `json:"capacity_qp"`
	BudgetQP     uint32     `json:"budget_qp"`
	TokenNorm    uint32     `json:"token_norm"`
	WindowStep   uint32     `json:"window_step"`
	Preset       *kv.Preset `json:"preset,omitempty"`       // serving
	GoodNorm     uint64     `json:"good_norm,omitempty"`    // serving
	RequestNorm  uint32     `json:"request_norm,omitempty"` // serving
	PrefixPages  []uint16   `json:"prefix_pages"`           // entry p-1 is prefix p, as known when the episode ends
	Initial      []Initial  `json:"initial"`
	Arrivals     []Arrivals `json:"arrivals"`
	State        State      `json:"state"`
	Mask         []int      `json:"mask"` // 4 values a slot: keep, evict, compress, swap
	Obs          []float32  `json:"obs,omitempty"`
}

// Slot is one live sequence.
type Slot struct {
	Slot         int    `json:"slot"`
	Type         string `json:"type"`
	Phase        string `json:"phase"`
	Quant        string `json:"quant"`
	Swapped      bool   `json:"swapped"`
	Tokens       uint32 `json:"tokens"`
	Remaining    uint32 `json:"remaining"`
	Rate         uint32 `json:"rate"`
	Priority     uint32 `json:"priority"`
	Prefix       uint8  `json:"prefix"`
	LastAccess   int    `json:"last_access"`
	Hotness      uint8  `json:"hotness"`
	Timer        uint8  `json:"timer"`
	RunCode      uint8  `json:"run_code"`
	PauseCode    uint8  `json:"pause_code"`
	PrivatePages uint32 `json:"private_pages"`
	CostQP       uint32 `json:"cost_qp"`

	Serving *ServingSlot `json:"serving,omitempty"`
}

// Waiting is one queued request.
type Waiting struct {
	Arrived int `json:"arrived"` // serving: the step since which it waits
	Request
	*Ticket
}

// State is the whole state of an environment.
type State struct {
	Step           int       `json:"step"`
	UsedQP         uint32    `json:"used_qp"`
	SharedQP       uint32    `json:"shared_qp"`
	PendingQP      uint32    `json:"pending_qp"`
	QueueGrowth    int       `json:"queue_growth"`
	Tokens         uint64    `json:"tokens"`
	LatencyMilli   uint32    `json:"latency_milli"`
	HeadroomTenths int32     `json:"headroom_tenths"`
	RiskHundredths uint32    `json:"risk_hundredths"`
	RetainedTwenty uint32    `json:"retained_twentieths"`
	Arrived        uint32    `json:"arrived"`
	Admitted       uint32    `json:"admitted"`
	Completed      uint32    `json:"completed"`
	Failures       uint32    `json:"failures"`
	Rejected       uint32    `json:"rejected"`
	Evictions      uint32    `json:"evictions"`
	Compressions   uint32    `json:"compressions"`
	Swaps          uint32    `json:"swaps"`
	Invalid        uint32    `json:"invalid"`
	SwapReads      uint32    `json:"swap_reads"`
	PressureSteps  uint32    `json:"pressure_steps"`
	ScoreFixed     int64     `json:"score_fixed"` // 2^-20
	Slots          []Slot    `json:"slots"`
	Queue          []Waiting `json:"queue"`

	Serving *ServingState `json:"serving,omitempty"`
}

// Step is one step of an episode.
type Step struct {
	Kind            string             `json:"type"` // "step"
	Step            int                `json:"step"`
	Actions         [][2]any           `json:"actions"`
	State           State              `json:"state"`
	Mask            []int              `json:"mask"` // 4 values a slot: keep, evict, compress, swap
	Reward          float32            `json:"reward"`
	RewardFixed     int64              `json:"reward_fixed"` // 2^-20
	Components      map[string]float64 `json:"components"`
	ComponentsFixed map[string]int64   `json:"components_fixed"` // 2^-24
	Metrics         map[string]float32 `json:"metrics"`
	Obs             []float32          `json:"obs,omitempty"`
	Terminated      bool               `json:"terminated"`
	Truncated       bool               `json:"truncated"`
}

// DrawScenario asks the batch's source for everything it draws for the episode that environment i plays, and adds the
// environment's present state, which must be that after the reset.
func DrawScenario(b *vecenv.Batch, i int, withObs bool) Scenario {
	cfg, v := b.Config(), b.View(i)
	src := v.Source()
	var e scenario.Episode
	src.Begin(v.Identity(), &e)
	s := Scenario{Kind: "scenario", Simulator: vecenv.SimulatorVersion, Profile: v.Profile().String(), Seed: e.Seed, Env: e.Env, Episode: e.Identity.Episode, Key: e.Key,
		Slots: cfg.Slots, Steps: cfg.Steps, MaxWait: cfg.MaxWait, Difficulty: e.DrawnFrom.String(), ArrivalLevel: e.ArrivalLevel.String(),
		CapacityQP: e.CapacityQP, BudgetQP: e.BudgetQP, TokenNorm: e.TokenNorm, WindowStep: e.WindowStep, GoodNorm: e.GoodNorm, RequestNorm: e.RequestNorm,
		Preset: presetOf(v), Initial: []Initial{}, PrefixPages: []uint16{}}
	for k := range int(e.NumInitial) {
		q := src.Initial(&e, k)
		s.Initial = append(s.Initial, Initial{Request: drawn(v, &e, &q.Sequence), DoneTokens: q.DoneTokens, LastAccess: q.LastAccess,
			Hotness: q.Hotness, Timer: q.Timer, Phase: q.Phase.String()})
	}
	words := make([]scenario.Word, 0)
	for t := 0; t <= cfg.Steps; t++ {
		at := e
		n, _ := src.Arrive(&at, t, nil, nil)
		if n > len(words) {
			words = make([]scenario.Word, n)
		}
		src.Arrive(&e, t, words, nil)
		a := Arrivals{Step: t, Requests: []Request{}}
		for _, w := range words[:n] {
			q := src.Decode(&e, w)
			a.Requests = append(a.Requests, drawn(v, &e, &q))
		}
		s.Arrivals = append(s.Arrivals, a)
	}
	for p := 1; p <= int(e.NumPrefixes); p++ {
		s.PrefixPages = append(s.PrefixPages, e.PrefixPages[p])
	}
	s.State, s.Mask = StateOf(v), mask(v)
	if withObs {
		s.Obs = obs(v)
	}
	return s
}

// StepOf describes the step that environment i has just made with the given (op, slot) pairs.
func StepOf(b *vecenv.Batch, i int, pairs []int32, withObs bool) Step {
	v := b.View(i)
	t := v.Totals()
	terms := reward.Compute(&t)
	s := Step{Kind: "step", Step: v.Step(), Actions: actions(pairs), State: StateOf(v), Mask: mask(v), Reward: b.Reward[i],
		RewardFixed: int64(float64(b.Reward[i]) * reward.ScoreOne), Components: map[string]float64{}, ComponentsFixed: map[string]int64{},
		Metrics: map[string]float32{}, Terminated: b.Terminated[i] != 0, Truncated: b.Truncated[i] != 0}
	names, metrics := reward.Names[:], vecenv.MetricNames[:]
	if v.Profile() == vecenv.Seed {
		names, metrics = names[:reward.SeedTerms], metrics[:seedMetrics]
	}
	for k, name := range names {
		s.Components[name] = float64(terms[k]) / reward.TermOne
		s.ComponentsFixed[name] = terms[k]
	}
	for k, name := range metrics {
		s.Metrics[name] = b.Metrics[i*vecenv.NumMetrics+k]
	}
	if withObs {
		s.Obs = obs(v)
	}
	return s
}

// seedMetrics is how many of vecenv.MetricNames the seed profile has; the others are 0 in it.
const seedMetrics = 14

// StateOf copies an environment's whole state.
func StateOf(v vecenv.View) State {
	c, t := v.Counters(), v.Totals()
	s := State{Step: v.Step(), UsedQP: v.UsedQP(), SharedQP: v.SharedQP(), PendingQP: v.PendingQP(), QueueGrowth: v.Growth(), Tokens: t.Tokens,
		LatencyMilli: t.LatencyMilli, HeadroomTenths: t.HeadroomTenths, RiskHundredths: t.RiskHundredths, RetainedTwenty: t.RetainedTwenty,
		Arrived: c.Arrived, Admitted: c.Admitted, Completed: c.Completed, Failures: c.Failures, Rejected: c.Rejected, Evictions: c.Evictions,
		Compressions: c.Compressions, Swaps: c.Swaps, Invalid: c.Invalid, SwapReads: c.SwapReads, PressureSteps: c.PressureSteps,
		ScoreFixed: v.Score(), Slots: []Slot{}, Queue: []Waiting{}, Serving: servingState(v)}
	v.Live(func(q *vecenv.SlotState) bool {
		s.Slots = append(s.Slots, Slot{q.Slot, q.Type.String(), q.Phase.String(), q.Quant.String(), q.Swapped, q.Tokens, q.Remaining, q.Rate,
			q.Priority, q.Prefix, q.LastAccess, q.Hotness, q.Timer, q.OnCode, q.OffCode, q.PrivatePages, q.CostQP, servingSlot(v, q)})
		return true
	})
	for k := range v.QueueLen() {
		q, arrived := v.Waiting(k)
		s.Queue = append(s.Queue, Waiting{arrived, request(v, &q), ticket(v, k)})
	}
	return s
}

func request(v vecenv.View, q *scenario.Sequence) Request {
	return Request{q.PromptTokens, q.OutputTokens, q.RateTokens, q.Priority, q.Prefix, q.Type.String(), q.OnCode(), q.OffCode(),
		q.Type == kv.Context && !q.Steady, session(v, q)}
}

func mask(v vecenv.View) []int {
	m := make([]uint8, v.Slots()*kv.NumOps)
	v.ObserveMask(m)
	out := make([]int, len(m))
	for k, x := range m {
		out[k] = int(x)
	}
	return out
}

func obs(v vecenv.View) []float32 {
	o := make([]float32, vecenv.ObsLen(v.Slots()))
	v.Observe(o)
	return o
}

// actions names the operations; unknown ones stay numbers.
func actions(pairs []int32) [][2]any {
	out := [][2]any{}
	for k := 0; k+1 < len(pairs); k += 2 {
		var op any = pairs[k]
		if pairs[k] >= 0 && pairs[k] < kv.NumOps {
			op = kv.Op(pairs[k]).String()
		}
		out = append(out, [2]any{op, pairs[k+1]})
	}
	return out
}
