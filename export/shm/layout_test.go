package shm

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kvgym/kvgym/export"
)

func describe(t testing.TB, s export.Spec) *export.Description {
	d, err := export.Describe(&s)
	require.NoError(t, err)
	return d
}

var everything = []string{"obs", "mask", "components", "metrics"}

// The figures of docs/shared-memory.md. Who changes them changes Version.
func TestSegmentOffsets(t *testing.T) {
	s, err := SegmentOf(describe(t, export.Spec{Envs: 3, Outputs: []string{"obs", "mask"}}), 2)
	require.NoError(t, err)
	require.Equal(t, Segment{Size: 28672, PairsPerEnv: 128, Ops: 4096, Mask: 4288, Seeds: 4352, Identities: 4416, Pairs: 25216, Blocks: []map[string]int64{
		{"obs": 4480, "reward": 13888, "terminated": 13952, "truncated": 14016, "mask": 14080},
		{"obs": 14848, "reward": 24256, "terminated": 24320, "truncated": 24384, "mask": 24448},
	}}, s)
}

func TestSegmentAreasAreApartAndAligned(t *testing.T) {
	for _, spec := range []export.Spec{
		{Envs: 1, Outputs: []string{}}, {Envs: 7, Slots: 16, Autoreset: "same-step", Outputs: everything}, {Envs: 1000, Slots: 256, Outputs: everything, ObsDType: "uint8"},
	} {
		d := describe(t, spec)
		s, err := SegmentOf(d, 3)
		require.NoError(t, err)
		n := int64(d.Envs)
		areas := [][2]int64{{0, offData}, {s.Ops, n * int64(d.Slots)}, {s.Mask, n}, {s.Seeds, 8 * n}, {s.Identities, 16 * n}, {s.Pairs, n * int64(s.PairsPerEnv) * 8}}
		for _, b := range s.Blocks {
			for _, tensor := range d.Tensors {
				areas = append(areas, [2]int64{b[tensor.Name], tensorBytes(tensor)})
			}
		}
		for i, a := range areas {
			require.Zero(t, a[0]%alignment)
			require.LessOrEqual(t, a[0]+a[1], s.Size)
			for _, b := range areas[:i] {
				require.True(t, a[0]+a[1] <= b[0] || b[0]+b[1] <= a[0], "%v and %v overlap", a, b)
			}
		}
		require.NoError(t, s.check(d))
	}
}

func TestSegmentRefusesBlocks(t *testing.T) {
	for _, n := range []int{-1, 0, MaxBlocks + 1} {
		_, err := SegmentOf(describe(t, export.Spec{Envs: 1}), n)
		require.ErrorContains(t, err, "allowed 1 to 64")
	}
}

func TestHashIsOfWhatARowIs(t *testing.T) {
	one := Hash(describe(t, export.Spec{Envs: 8}))
	require.Equal(t, one, Hash(describe(t, export.Spec{Envs: 9, Groups: 3, Seed: 7, Difficulty: "hard", Workers: 2})))
	for _, other := range []export.Spec{{Envs: 8, Slots: 128}, {Envs: 8, Steps: 16}, {Envs: 8, Autoreset: "same-step"}, {Envs: 8, ObsOrder: "feature-major"},
		{Envs: 8, ObsDType: "uint8"}, {Envs: 8, Profile: "serving"}, {Envs: 8, Outputs: []string{"obs", "mask"}}} {
		require.NotEqual(t, one, Hash(describe(t, other)), other)
	}
}
