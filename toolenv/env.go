package toolenv

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/policy"
	"github.com/kvgym/kvgym/reward"
	"github.com/kvgym/kvgym/vecenv"
)

// Env is one episode. Any goroutine may call it; calls that meet wait for each other.
type Env struct {
	mu      sync.Mutex
	batch   *vecenv.Batch // nil: closed
	picture picture       // of this turn
	seen    []byte        // the observation of this turn
	list    []int32       // accepted operations of this turn: op, slot, ...
	called  bool          // in this turn
	turns   int
	done    bool
	calls   [kv.NumOps]int
	faults  map[Fault]int
	drivers map[string]*policy.Driver
	system  string
}

// ErrClosed is returned by calls of a closed Env.
var ErrClosed = errors.New("toolenv: closed")

// Open starts the episode of (cfg.Seed, cfg.FirstEnv). cfg.Envs is 0 or 1; what an Env does not use, tensors, autoreset, workers and groups,
// it sets itself.
func Open(cfg vecenv.Config) (*Env, error) {
	if cfg.Envs < 0 || cfg.Envs > 1 {
		return nil, fmt.Errorf("toolenv: Envs: %d: allowed 0, 1", cfg.Envs)
	}
	cfg.Envs, cfg.Workers, cfg.Groups, cfg.Pin = 1, 1, 1, false
	cfg.Autoreset, cfg.Outputs, cfg.NoObs, cfg.Buffers = vecenv.Disabled, vecenv.WithComponents|vecenv.WithMetrics, false, vecenv.Buffers{}
	b, err := vecenv.New(cfg)
	if err != nil {
		return nil, err
	}
	if err := b.Reset(vecenv.ResetOptions{}); err != nil {
		b.Close()
		return nil, err
	}
	e := &Env{batch: b, faults: map[Fault]int{}, drivers: map[string]*policy.Driver{}, system: systemPrompt(b.View(0))}
	e.look()
	return e, nil
}

// Close ends the episode; a second call does nothing. It waits for a call of another goroutine that is under way.
func (e *Env) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.batch != nil {
		e.batch.Close()
		e.batch = nil
	}
	return nil
}

// System is the system prompt: the rules of the game. It is the same for all episodes of a configuration.
func (e *Env) System() string { return e.system }

// look takes in the state at the start of a turn.
func (e *Env) look() {
	v := e.batch.View(0)
	e.picture.take(v)
	e.seen = observe(v, &e.picture)
}

// Observe is the compact observation at the start of this turn, JSON on one line; docs/language-models.md describes its fields.
func (e *Env) Observe() []byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.seen)
}

// Prompt is the first user message, or what it would be in the present turn.
func (e *Env) Prompt() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return fmt.Sprintf("Choose what to do before step %d.\n%s", e.turns+1, e.seen)
}

// Step applies the turn's operations and returns the next user message, which after the last step is a closing line.
func (e *Env) Step() (message string, done bool, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.batch == nil {
		return "", e.done, ErrClosed
	}
	v := e.batch.View(0)
	if e.done {
		return "", true, fmt.Errorf("toolenv: step: %d: allowed %d, the episode is over", e.turns+1, v.Steps())
	}
	before, tokens := v.Counters(), v.Totals().Tokens
	if err := e.batch.Step(vecenv.Actions{List: e.list, PerEnv: len(e.list) / 2}); err != nil {
		return "", false, err
	}
	idle := !e.called
	e.note(idle, NoCall)
	e.turns++
	e.done = e.batch.Terminated[0]|e.batch.Truncated[0] != 0
	e.list, e.called = e.list[:0], false
	e.look()
	return e.report(before, v.Totals().Tokens-tokens, idle), e.done, nil
}

// Result is what an episode has come to so far.
type Result struct {
	Difficulty string             `json:"difficulty"` // that the episode was drawn from
	Turns      int                `json:"turns"`      // steps done
	Done       bool               `json:"done"`
	Score      float64            `json:"score"`      // exact: a multiple of 2^-20
	Components map[string]float64 `json:"components"` // the profile's terms before weighting, exact
	Weights    map[string]float64 `json:"weights"`    // of the terms
	Metrics    map[string]float64 `json:"metrics"`    // vecenv.MetricNames
	Calls      map[string]int     `json:"calls"`      // by tool, refused ones included
	Faults     map[Fault]int      `json:"faults"`     // by kind; kinds that did not occur are absent
}

// Result is what the episode has come to so far. After Close it is the zero Result.
func (e *Env) Result() Result {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.batch == nil {
		return Result{}
	}
	v := e.batch.View(0)
	r := Result{Difficulty: v.Episode().DrawnFrom.String(), Turns: e.turns, Done: e.done, Score: float64(v.Score()) / reward.ScoreOne,
		Components: map[string]float64{}, Weights: map[string]float64{}, Metrics: map[string]float64{}, Calls: map[string]int{}, Faults: map[Fault]int{}}
	totals := v.Totals()
	for i, w := range totals.Weights() {
		if w != 0 {
			r.Components[reward.Names[i]], r.Weights[reward.Names[i]] = float64(e.batch.Components[i]), float64(w)/100
		}
	}
	for i, name := range vecenv.MetricNames {
		r.Metrics[name] = float64(e.batch.Metrics[i])
	}
	for op, name := range toolNames {
		r.Calls[name] = e.calls[op]
	}
	for kind, n := range e.faults {
		r.Faults[kind] = n
	}
	return r
}

// Call is a tool call as a model writes it.
type Call struct {
	Name      string `json:"name"`
	Arguments string `json:"arguments"` // JSON
}

// Suggest is what a policy of package policy would call now. It decides from the whole state, not from the observation, and
// before the turn's calls.
func (e *Env) Suggest(policyName string) ([]Call, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.batch == nil {
		return nil, ErrClosed
	}
	if e.done {
		return []Call{}, nil
	}
	d := e.drivers[policyName]
	if d == nil {
		slots := e.batch.Config().Slots
		p, err := policy.NewFor(policyName, slots)
		if err != nil {
			return nil, err
		}
		d = policy.NewDriver(p, 1, slots)
		e.drivers[policyName] = d
	}
	d.Decide(e.batch)
	pairs := d.Pairs(0)
	out := []Call{}
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, Call{toolNames[pairs[i]], fmt.Sprintf(`{"seq_id": %d}`, pairs[i+1])})
	}
	return out, nil
}

// report is the user message after a step.
func (e *Env) report(before vecenv.Counters, tokens uint64, idle bool) string {
	v := e.batch.View(0)
	now := v.Counters()
	var s strings.Builder
	if idle {
		s.WriteString("You called no tool, so everything was kept. ")
	}
	fmt.Fprintf(&s, "Step %d of %d done: tokens generated %d, requests admitted %d, failed %d", v.Step(), v.Steps(), tokens, now.Admitted-before.Admitted, now.Failures-before.Failures)
	if forced := now.Forced - before.Forced; forced > 0 {
		fmt.Fprintf(&s, ", sequences dropped for want of memory %d", forced)
	}
	if e.done {
		fmt.Fprintf(&s, ". The episode is over, score %.4f.", float64(v.Score())/reward.ScoreOne)
		return s.String()
	}
	fmt.Fprintf(&s, ". Now step %d.\n", v.Step()+1)
	s.Write(e.seen)
	return s.String()
}
