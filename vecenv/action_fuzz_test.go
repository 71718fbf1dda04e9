package vecenv_test

import (
	"encoding/binary"
	"testing"

	"github.com/kvgym/kvgym/internal/oracle"
	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/vecenv"
	"github.com/stretchr/testify/require"
)

// fuzzPair is an environment of each profile, and their oracles, each at the start of a hard episode.
func fuzzPair(t *testing.T) *lockstep {
	p := slowLink(kv.Presets()[0])
	l, err := newLockstep(vecenv.Config{Envs: 2, Slots: 16, Steps: 6, MaxWait: 2, Workers: 1, Source: mustSynthetic(16, 6, scenario.Hard),
		Profiles: []vecenv.Profile{vecenv.Seed, vecenv.Serving}, Preset: p, ServingSource: mustAgents(16, 6, scenario.Hard, p)}, 1)
	require.NoError(t, err)
	t.Cleanup(l.batch.Close)
	return l
}

// give steps every environment with the same operations.
func (l *lockstep) give(a vecenv.Actions, actions []oracle.Action) error {
	both := vecenv.Actions{PerEnv: a.PerEnv}
	for range l.oracles {
		both.Ops, both.List = append(both.Ops, a.Ops...), append(both.List, a.List...)
	}
	if err := l.batch.Step(both); err != nil {
		return err
	}
	for i, o := range l.oracles {
		l.actions[i] = actions
		l.stepOracle(i, o)
	}
	return l.compareAll()
}

// FuzzActionList feeds arbitrary (op, slot) pairs, all of an episode's steps long.
func FuzzActionList(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x02\x00\x00\x00\x05\x00\x00\x00\x02\x00\x00\x00\x05\x00\x00\x00\x03\x00\x00\x00\x05\x00\x00\x00"))
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\x7f\x00\x00\x00\x80\x00\x00\x00\x80"))
	f.Fuzz(func(t *testing.T, data []byte) {
		l := fuzzPair(t)
		for len(data) >= 8 && !l.oracles[0].Done() {
			n := min(len(data)/8, 3)
			a := vecenv.Actions{PerEnv: n}
			var actions []oracle.Action
			for range n {
				op, slot := int32(binary.LittleEndian.Uint32(data)), int32(binary.LittleEndian.Uint32(data[4:]))
				if op&0xF0 == 0x70 { // often enough something that can be done
					op, slot = op&3, slot&15
				}
				a.List, actions = append(a.List, op, slot), append(actions, oracle.Action{Op: int(op), Slot: int(slot)})
				data = data[8:]
			}
			require.NoError(t, l.give(a, actions))
		}
	})
}

// FuzzOpMatrix feeds arbitrary op bytes.
func FuzzOpMatrix(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x01\x02\x03\x00\x01\x02\x03\x00\x01\x02\x03\x00\x01\x02\x03\x00"))
	f.Add([]byte("\x04\xff\x80\x00\x01\x7f\x03\x20\x01\x02\x03\x00\x05\x02\x03\x10\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02"))
	f.Fuzz(func(t *testing.T, data []byte) {
		l := fuzzPair(t)
		for len(data) > 0 && !l.oracles[0].Done() {
			row := make([]uint8, 16)
			data = data[copy(row, data):]
			var actions []oracle.Action
			for s, op := range row {
				actions = append(actions, oracle.Action{Op: int(op), Slot: s})
			}
			require.NoError(t, l.give(vecenv.Actions{Ops: row}, actions))
		}
	})
}
