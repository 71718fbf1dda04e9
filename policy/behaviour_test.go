package policy_test

import (
	"slices"
	"testing"

	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/policy"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/vecenv"
	"github.com/stretchr/testify/require"
)

// move is what a policy does to one environment, and what it saw.
type move struct {
	used, goal int
	stepsLeft  int
	pairs      []int32
	live       map[int]vecenv.SlotState
}

// moves asks a policy at every step of episodes that another plays: noop fills memory as far as it goes, compress-all leaves
// nothing to compress but what came in.
func moves(t *testing.T, name, player string) (all []move) {
	const envs = 40
	b := episodes(t, "noop", envs, synthetic(t, 64, 15, scenario.Hard), 3)
	require.NoError(t, b.Reset(vecenv.ResetOptions{}))
	p, err := policy.New(name)
	require.NoError(t, err)
	plays, err := policy.New(player)
	require.NoError(t, err)
	d := policy.NewDriver(plays, envs, 64)
	for range 15 {
		for i := range envs {
			v := b.View(i)
			m := move{used: int(v.UsedQP()), stepsLeft: v.Steps() - v.Step(), live: map[int]vecenv.SlotState{}}
			budget := int(v.BudgetQP())
			m.goal = max(budget*80/100-int(v.PendingQP()), budget/2)
			for _, s := range v.AppendLive(nil) {
				m.live[s.Slot] = s
			}
			var a policy.Actions
			p.Act(v, &a)
			m.pairs = slices.Clone(a.Pairs())
			all = append(all, m)
		}
		require.NoError(t, b.Step(d.Decide(b)))
	}
	return all
}

// slots lists the slots that an operation is done to, in order.
func (m *move) slots(op kv.Op) (out []int) {
	for k := 0; k < len(m.pairs); k += 2 {
		if kv.Op(m.pairs[k]) == op {
			out = append(out, int(m.pairs[k+1]))
		}
	}
	return out
}

// Below its target a policy leaves the environment alone; above, those that evict take sequences in their order until the
// target is met, and not one more.
func TestEvictionOrder(t *testing.T) {
	for name, key := range map[string]func(m *move, s vecenv.SlotState) int{
		"lru":           func(_ *move, s vecenv.SlotState) int { return s.LastAccess },
		"largest-first": func(_ *move, s vecenv.SlotState) int { return -int(s.CostQP) },
		"value-aware":   worth,
	} {
		acted := 0
		for _, m := range moves(t, name, "noop") {
			require.Empty(t, m.slots(kv.Compress))
			require.Empty(t, m.slots(kv.Swap))
			evicted := m.slots(kv.Evict)
			if m.used <= m.goal {
				require.Empty(t, evicted, name)
				continue
			}
			acted++
			left := m.used
			for _, slot := range evicted {
				require.Greater(t, left, m.goal, "%s evicts more than it needs", name)
				left -= int(m.live[slot].CostQP)
			}
			spared := false
			for slot, s := range m.live {
				spared = spared || s.CostQP > 0 && !slices.Contains(evicted, slot)
			}
			require.True(t, left <= m.goal || !spared, "%s stops early", name)
			for slot, s := range m.live {
				if s.CostQP > 0 && !slices.Contains(evicted, slot) {
					for _, e := range evicted {
						require.LessOrEqual(t, key(&m, m.live[e]), key(&m, s), name)
					}
				}
			}
		}
		require.Greater(t, acted, 100, name)
	}
}

// worth is what value-aware goes by, thousandths for a quarter page: 100 for every token that a sequence will still give,
// and up to 300 for what its block is worth to those that come later.
func worth(m *move, s vecenv.SlotState) int {
	tokens := min(int(s.Remaining), int(s.Rate)*m.stepsLeft)
	return 1000 * (100*tokens + int(100-s.Type.EvictionPercent())*int(50+s.Priority)/50) / int(s.CostQP)
}

// The compressing policies act only above their target, evict what is alive only when everything is at int4, and stop as
// soon as they may; greedy drops the dead first.
func TestCompressors(t *testing.T) {
	for _, name := range []string{"compress-first", "greedy"} {
		dropped, compressed, evicted := 0, 0, 0
		for _, m := range append(moves(t, name, "noop"), moves(t, name, "compress-all")...) {
			if m.used <= m.goal {
				require.Empty(t, m.pairs, name)
				continue
			}
			compressed += len(m.slots(kv.Compress))
			for _, slot := range m.slots(kv.Evict) {
				if evicted++; dead(m.live[slot]) {
					dropped++
				}
			}
			requireCompressor(t, name, &m)
		}
		require.Greater(t, compressed, 1000, name)
		require.Greater(t, evicted-dropped, 20, name)
		if name == "greedy" {
			require.Greater(t, dropped, 50)
		}
	}
}

func dead(s vecenv.SlotState) bool {
	return s.Phase == kv.Idle && s.Remaining == 0 && s.Type != kv.System
}

func requireCompressor(t *testing.T, name string, m *move) {
	left := m.used
	for k := 0; k < len(m.pairs); k += 2 {
		op, slot := kv.Op(m.pairs[k]), int(m.pairs[k+1])
		s, ok := m.live[slot]
		require.True(t, ok && s.CostQP > 0, "%s: slot %d is live and costs", name, slot)
		require.Greater(t, left, m.goal, "%s does more than it needs", name)
		switch {
		case op == kv.Compress:
			require.NotEqual(t, kv.INT4, s.Quant)
			s.Quant++
			s.CostQP /= 2
			left -= int(s.CostQP)
			m.live[slot] = s
		case op == kv.Evict && name == "greedy" && dead(s):
			left -= int(s.CostQP)
			delete(m.live, slot)
		default:
			require.Equal(t, kv.Evict, op)
			require.NotEqual(t, kv.System, s.Type)
			for other, o := range m.live {
				require.True(t, o.Quant == kv.INT4 || o.CostQP == 0, "%s evicts a living sequence while slot %d is at %s", name, other, o.Quant)
				require.True(t, o.CostQP == 0 || worth(m, s) <= worth(m, o), "%s: slot %d is worth less than %d", name, other, slot)
			}
			left -= int(s.CostQP)
			delete(m.live, slot)
		}
	}
}

// The constant policies leave nothing resident above their level, whatever the pressure, and touch nothing else: what random
// has swapped stays as it is.
func TestConstants(t *testing.T) {
	for name, level := range map[string]kv.Quant{"compress-int8": kv.INT8, "compress-all": kv.INT4} {
		for _, m := range append(moves(t, name, "noop"), moves(t, name, "random")...) {
			want := 0
			for slot, s := range m.live {
				got := kv.Quant(0)
				for _, c := range m.slots(kv.Compress) {
					if c == slot {
						got++
					}
				}
				if s.Swapped {
					require.Zero(t, got, name)
					continue
				}
				require.Equal(t, max(level, s.Quant)-s.Quant, got, name)
				want += int(got)
			}
			require.Len(t, m.pairs, 2*want, name)
		}
	}
}
