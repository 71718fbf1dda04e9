package vecenv_test

import (
	"encoding/binary"
	"testing"

	"github.com/kvgym/kvgym/internal/oracle"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/vecenv"
	"github.com/stretchr/testify/require"
)

// fuzzPair is an environment and its oracle, each at the start of the same hard episode.
func fuzzPair(t *testing.T) *lockstep {
	l, err := newLockstep(vecenv.Config{Envs: 1, Slots: 16, Steps: 6, MaxWait: 2, Workers: 1, Source: mustSynthetic(16, 6, scenario.Hard)}, 1)
	require.NoError(t, err)
	t.Cleanup(l.batch.Close)
	return l
}

func (l *lockstep) give(a vecenv.Actions, actions []oracle.Action) error {
	l.actions[0] = actions
	if err := l.batch.Step(a); err != nil {
		return err
	}
	l.stepOracle(0, l.oracles[0])
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
