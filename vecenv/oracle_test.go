package vecenv_test

import (
	"math/rand/v2"
	"testing"

	"github.com/kvgym/kvgym/internal/oracle"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/vecenv"
	"github.com/stretchr/testify/require"
)

func TestQuick(t *testing.T) {
	src, _ := scenario.NewSynthetic(64, 15, scenario.All)
	b, err := vecenv.New(vecenv.Config{Envs: 256, Source: src, Outputs: vecenv.AllOutputs, Workers: 2})
	require.NoError(t, err)
	defer b.Close()
	require.NoError(t, b.Reset(vecenv.ResetOptions{}))
	require.NoError(t, b.Check())
	os := make([]*oracle.Env, 256)
	for i := range os {
		os[i] = oracle.New(src, 64, 15, 5)
		os[i].Reset(b.Identity(i))
	}
	r := rand.New(rand.NewPCG(1, 2))
	ops := make([]uint8, 256*64)
	for step := 0; step < 100; step++ {
		for i := range ops {
			ops[i] = 0
			if r.IntN(10) == 0 {
				ops[i] = uint8(r.IntN(6))
			}
		}
		require.NoError(t, b.Step(vecenv.Actions{Ops: ops}))
		require.NoError(t, b.Check())
		for i, o := range os {
			if o.Done() {
				o.Reset(b.Identity(i))
			} else {
				var a []oracle.Action
				for s := 0; s < 64; s++ {
					a = append(a, oracle.Action{Op: int(ops[i*64+s]), Slot: s})
				}
				o.StepOnce(a)
			}
			v := b.View(i)
			require.Equal(t, o.Used(), v.UsedQP(), "env %d step %d", i, step)
			require.Equal(t, o.Score, v.Score(), "env %d step %d", i, step)
			require.Equal(t, len(o.Queue), v.QueueLen())
			v.Live(func(s *vecenv.SlotState) bool {
				e := o.Slots[s.Slot]
				require.True(t, e.Alive)
				require.Equal(t, e.Hotness, uint32(s.Hotness))
				require.Equal(t, e.Phase, s.Phase)
				return true
			})
		}
	}
}

func BenchmarkStep(b *testing.B) {
	bt, _ := vecenv.New(vecenv.Config{Envs: 1024, Workers: 1})
	bt.Reset(vecenv.ResetOptions{})
	r := rand.New(rand.NewPCG(1, 2))
	ops := make([]uint8, 16*1024*64)
	for i := range ops {
		if r.IntN(16) == 0 {
			ops[i] = uint8(r.IntN(4))
		}
	}
	for i := 0; b.Loop(); i++ {
		bt.Step(vecenv.Actions{Ops: ops[i%16*65536:][:65536]})
	}
	b.ReportMetric(float64(b.N)*1024/b.Elapsed().Seconds(), "env-steps/s")
}
