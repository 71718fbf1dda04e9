package eval

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/kvgym/kvgym/toolenv"
	"github.com/stretchr/testify/require"
)

func scoredRow(example int, score float64) Row {
	return Row{Policy: "p", Example: example, Difficulty: "easy", Score: &score, Metrics: map[string]float64{"total_tokens_metric": 100 * score},
		Components: map[string]float64{"headroom_bonus": score / 2}, Calls: map[string]int{"evict": 3}}
}

// The interval is Student's, of examples: rollouts of one example say little about others.
func TestIntervals(t *testing.T) {
	g := groupsOf("p", []Row{scoredRow(0, 0.1), scoredRow(1, 0.2), scoredRow(2, 0.6)})[0]
	require.InDelta(t, 0.3, float64(g.Reward), 1e-12)
	s := math.Sqrt((0.04 + 0.01 + 0.09) / 2)
	require.InDelta(t, 0.3-4.302653*s/math.Sqrt(3), float64(g.RewardCI95[0]), 1e-6)
	require.InDelta(t, 0.3+4.302653*s/math.Sqrt(3), float64(g.RewardCI95[1]), 1e-6)

	same := groupsOf("p", []Row{scoredRow(0, 0.1), scoredRow(0, 0.1), scoredRow(1, 0.2), scoredRow(1, 0.2), scoredRow(2, 0.6), scoredRow(2, 0.6)})[0]
	require.InDelta(t, float64(g.RewardCI95[0]), float64(same.RewardCI95[0]), 1e-12, "rollouts that repeat each other tell nothing")

	one := groupsOf("p", []Row{scoredRow(0, 0.1), scoredRow(0, 0.3)})[0]
	text, err := json.Marshal(&one)
	require.NoError(t, err)
	require.Contains(t, string(text), `"reward_mean":0.2,"reward_ci95":[null,null]`)
}

// Means are of the episodes that have a score; failed ones are counted apart, and a group of nothing else has none.
func TestFailedEpisodesAreNotZero(t *testing.T) {
	failed := Row{Policy: "p", Example: 1, Difficulty: "hard", Failure: &Failure{Kind: TimedOut, Message: "late"}, Faults: map[toolenv.Fault]int{toolenv.NoCall: 2}}
	rows := []Row{scoredRow(0, 0.4), failed, scoredRow(2, 0.2), failed}
	groups := groupsOf("p", rows)
	require.Len(t, groups, 3)
	require.Equal(t, []any{"easy", 2, 0}, []any{groups[0].Difficulty, groups[0].Episodes, groups[0].Failed})
	require.Equal(t, []any{"hard", 0, 2}, []any{groups[1].Difficulty, groups[1].Episodes, groups[1].Failed})
	require.Equal(t, []any{"all", 2, 2}, []any{groups[2].Difficulty, groups[2].Episodes, groups[2].Failed})
	require.InDelta(t, 0.3, float64(groups[2].Reward), 1e-12)
	require.InDelta(t, 30, float64(groups[2].Tokens), 1e-12)
	require.InDelta(t, 0.15, float64(groups[2].Components["headroom_bonus"]), 1e-12)
	require.InDelta(t, 3, float64(groups[2].Calls["evict"]), 1e-12)
	require.True(t, math.IsNaN(float64(groups[1].Reward)))
	require.Equal(t, []FailureCount{{TimedOut, 2, "late"}}, failures(rows))
	require.Empty(t, groupsOf("q", rows))
}

func TestBadCalls(t *testing.T) {
	g := Group{Faults: map[toolenv.Fault]Mean{toolenv.NoCall: 2, toolenv.CoercedID: 8, toolenv.ExtraArgument: 8, toolenv.BadJSON: 1, toolenv.Repeated: 0.5}}
	refused, none := g.BadCalls()
	require.Equal(t, []Mean{1.5, 2}, []Mean{refused, none})
}
