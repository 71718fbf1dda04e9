package eval

import (
	"encoding/json"
	"math"
	"time"

	"github.com/kvgym/kvgym/reward"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/toolenv"
	"github.com/kvgym/kvgym/vecenv"
	"gonum.org/v1/gonum/stat/distuv"
)

// Summary is what a run gave. The groups are of the whole run, seconds and requests of this one.
type Summary struct {
	Out      string             `json:"out"`
	Profile  string             `json:"profile"`
	Weights  map[string]float64 `json:"weights"` // of the components
	Episodes int                `json:"episodes"`
	Failed   int                `json:"failed"`
	Kept     int                `json:"episodes_kept"` // of Episodes, those that an earlier, interrupted run had finished
	Seconds  float64            `json:"seconds"`
	Groups   []Group            `json:"groups"`
	Failures []FailureCount     `json:"failures"` // by kind

	Transcript string `json:"transcript,omitempty"` // file; set by who writes it
}

// FailureCount is how many episodes failed for one kind of reason.
type FailureCount struct {
	Kind     Kind   `json:"kind"`
	Episodes int    `json:"episodes"`
	First    string `json:"first"` // message of the first
}

// Mean is a mean, or a bound of one; it is NaN, null in JSON, where there is nothing to take it of.
type Mean float64

// MarshalJSON writes null for NaN.
func (m Mean) MarshalJSON() ([]byte, error) {
	if math.IsNaN(float64(m)) {
		return []byte("null"), nil
	}
	return json.Marshal(float64(m))
}

// AllDifficulties is the difficulty of a group of episodes of all of them.
const AllDifficulties = "all"

// Group is one player at one difficulty. Means are over the episodes that have a score.
type Group struct {
	Policy        string          `json:"policy"`
	Difficulty    string          `json:"difficulty"`
	Episodes      int             `json:"episodes"` // with a score
	Failed        int             `json:"failed"`
	Reward        Mean            `json:"reward_mean"`
	RewardCI95    [2]Mean         `json:"reward_ci95"` // rollouts of an example count together; Student's t
	Failures      Mean            `json:"failures_mean"`
	Tokens        Mean            `json:"tokens_mean"`
	Latency       Mean            `json:"latency_mean"`
	PressureSteps Mean            `json:"pressure_steps_mean"`
	Components    map[string]Mean `json:"components"` // before weighting

	Calls      map[string]Mean        `json:"calls_mean"`  // by tool, an episode
	Faults     map[toolenv.Fault]Mean `json:"faults_mean"` // by kind, an episode
	Turns      Mean                   `json:"turns_mean"`
	Requests   Mean                   `json:"requests_mean"`
	Retries    Mean                   `json:"retries_mean"`
	Prompt     Mean                   `json:"prompt_tokens_mean"`
	Completion Mean                   `json:"completion_tokens_mean"`
	Reasoning  Mean                   `json:"reasoning_tokens_mean"`
	Seconds    Mean                   `json:"seconds_mean"`
}

// BadCalls is how many calls an episode were refused, and how many turns had none.
func (g *Group) BadCalls() (refused, none Mean) {
	for kind, n := range g.Faults {
		switch kind {
		case toolenv.NoCall:
			none += n
		case toolenv.CoercedID, toolenv.ExtraArgument: // done all the same
		default:
			refused += n
		}
	}
	return refused, none
}

func (r *run) summarize(names []string) *Summary {
	s := &Summary{Out: r.cfg.Out, Profile: r.id.Profile, Weights: weights(r.cfg.Env.Profile), Episodes: r.now.Done, Failed: r.now.Failed, Kept: r.kept,
		Seconds: time.Since(r.start).Seconds(), Failures: failures(r.results.rows)}
	for _, name := range names {
		s.Groups = append(s.Groups, groupsOf(name, r.results.rows)...)
	}
	return s
}

// weights are those of a profile's components.
func weights(p vecenv.Profile) map[string]float64 {
	w := &reward.SeedWeights
	if p == vecenv.Serving {
		w = &reward.ServingWeights
	}
	out := map[string]float64{}
	for i, hundredths := range w {
		if hundredths != 0 {
			out[reward.Names[i]] = float64(hundredths) / 100
		}
	}
	return out
}

func failures(rows []Row) []FailureCount {
	out := []FailureCount{}
	at := map[Kind]int{}
	for i := range rows {
		f := rows[i].Failure
		if f == nil {
			continue
		}
		if _, ok := at[f.Kind]; !ok {
			at[f.Kind] = len(out)
			out = append(out, FailureCount{Kind: f.Kind, First: f.Message})
		}
		out[at[f.Kind]].Episodes++
	}
	return out
}

// groupsOf are the groups of a player: one a difficulty that was drawn, and one of all where there are several.
func groupsOf(name string, rows []Row) (out []Group) {
	by := map[string][]*Row{}
	for i := range rows {
		if row := &rows[i]; row.Policy == name {
			by[row.Difficulty] = append(by[row.Difficulty], row)
			by[AllDifficulties] = append(by[AllDifficulties], row)
		}
	}
	several := len(by) > 2
	for _, d := range []string{scenario.Easy.String(), scenario.Medium.String(), scenario.Hard.String(), AllDifficulties} {
		if by[d] != nil && (d != AllDifficulties || several) {
			out = append(out, newGroup(name, d, by[d]))
		}
	}
	return out
}

func newGroup(name, difficulty string, rows []*Row) Group {
	var scored []*Row
	for _, r := range rows {
		if r.Score != nil {
			scored = append(scored, r)
		}
	}
	mean := func(of func(*Row) float64) Mean {
		sum := 0.0
		for _, r := range scored {
			sum += of(r)
		}
		return Mean(sum / float64(len(scored))) // NaN of none
	}
	metric := func(i int) Mean { return mean(func(r *Row) float64 { return r.Metrics[vecenv.MetricNames[i]] }) }
	count := func(of func(*Row) int64) Mean { return mean(func(r *Row) float64 { return float64(of(r)) }) }
	g := Group{Policy: name, Difficulty: difficulty, Episodes: len(scored), Failed: len(rows) - len(scored), Reward: mean(func(r *Row) float64 { return *r.Score }),
		Tokens: metric(0), Failures: metric(1), Latency: metric(2), PressureSteps: metric(3),
		Components: map[string]Mean{}, Calls: map[string]Mean{}, Faults: map[toolenv.Fault]Mean{},
		Turns: count(func(r *Row) int64 { return int64(r.Turns) }), Requests: count(func(r *Row) int64 { return int64(r.Requests) }),
		Retries: count(func(r *Row) int64 { return int64(r.Retries) }), Prompt: count(func(r *Row) int64 { return r.PromptTokens }),
		Completion: count(func(r *Row) int64 { return r.CompletionTokens }), Reasoning: count(func(r *Row) int64 { return r.ReasoningTokens }),
		Seconds: mean(func(r *Row) float64 { return r.Seconds })}
	for c := range keys(scored, func(r *Row) map[string]float64 { return r.Components }) {
		g.Components[c] = mean(func(r *Row) float64 { return r.Components[c] })
	}
	for c := range keys(scored, func(r *Row) map[string]int { return r.Calls }) {
		g.Calls[c] = count(func(r *Row) int64 { return int64(r.Calls[c]) })
	}
	for f := range keys(scored, func(r *Row) map[toolenv.Fault]int { return r.Faults }) {
		g.Faults[f] = count(func(r *Row) int64 { return int64(r.Faults[f]) })
	}
	half := halfWidth(scored, float64(g.Reward))
	g.RewardCI95 = [2]Mean{g.Reward - half, g.Reward + half}
	return g
}

// keys are all keys of the rows' maps.
func keys[K comparable, V any](rows []*Row, of func(*Row) map[K]V) map[K]bool {
	out := map[K]bool{}
	for _, r := range rows {
		for k := range of(r) {
			out[k] = true
		}
	}
	return out
}

// halfWidth is half the 95 % interval of the mean score. Rollouts of one example share its scenario, so that only examples are independent.
func halfWidth(rows []*Row, mean float64) Mean {
	off := map[int]float64{}
	for _, r := range rows {
		off[r.Example] += *r.Score - mean
	}
	n := float64(len(off))
	if n < 2 {
		return Mean(math.NaN())
	}
	sum := 0.0
	for _, d := range off {
		sum += d * d
	}
	t := distuv.StudentsT{Mu: 0, Sigma: 1, Nu: n - 1}.Quantile(0.975)
	return Mean(t * math.Sqrt(sum*n/(n-1)) / float64(len(rows)))
}
