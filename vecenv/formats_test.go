package vecenv_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"unsafe"

	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/vecenv"
	"github.com/stretchr/testify/require"
)

// Every type, order and way of storing gives what the default gives, moved and rounded as rules 10.3 and 10.4 say.
func TestObservationFormats(t *testing.T) {
	for _, slots := range []int{16, 64, 112, 256} {
		for p := vecenv.Seed; p <= vecenv.Serving; p++ {
			for o := vecenv.SlotMajor; o <= vecenv.FeatureMajor; o++ {
				for _, typ := range []vecenv.ObsType{vecenv.ObsF32, vecenv.ObsU8} {
					for st := vecenv.AutoStores; st <= vecenv.StreamStores; st++ {
						if typ == vecenv.ObsU8 && st != vecenv.AutoStores {
							continue
						}
						t.Run(fmt.Sprintf("slots=%d/profile=%s/order=%s/type=%s/stores=%s", slots, p, o, typ, st), func(t *testing.T) {
							sameObservations(t, vecenv.Config{Envs: 20, Slots: slots, Profile: p, ObsType: typ, ObsOrder: o, Stores: st, Workers: 2, Autoreset: vecenv.SameStep, Steps: 7})
						})
					}
				}
			}
		}
	}
}

func sameObservations(t *testing.T, cfg vecenv.Config) {
	plain := cfg
	plain.ObsType, plain.ObsOrder, plain.Stores, plain.Outputs = 0, 0, 0, vecenv.WithObs|vecenv.WithMask
	want, got := newBatch(t, plain), newBatch(t, cfg)
	layout := vecenv.LayoutOf(cfg.Slots, cfg.ObsType, cfg.ObsOrder)
	r := rand.New(rand.NewPCG(1, uint64(cfg.Slots)))
	require.NoError(t, want.Reset(vecenv.ResetOptions{}))
	require.NoError(t, got.Reset(vecenv.ResetOptions{}))
	for range 16 {
		for i := range cfg.Envs {
			compareFormats(t, &layout, i, want.Obs, got.Obs, got.ObsBytes)
			if want.Terminated[i] != 0 {
				compareFormats(t, &layout, i, want.FinalObs, got.FinalObs, got.FinalObsBytes)
			}
		}
		ops := validOps(r, want)
		require.NoError(t, want.Step(vecenv.Actions{Ops: ops}))
		require.NoError(t, got.Step(vecenv.Actions{Ops: ops}))
	}
}

// compareFormats compares environment i's row.
func compareFormats(t *testing.T, l *vecenv.Layout, i int, want, floats []float32, bytes []uint8) {
	base := i * l.Length
	for k, x := range want[base : base+l.Length] {
		feature, scales, at := l.Globals, l.GlobalScales, base+k
		if k >= vecenv.GlobalFeatures {
			s, f := (k-vecenv.GlobalFeatures)/vecenv.SlotFeatures, (k-vecenv.GlobalFeatures)%vecenv.SlotFeatures
			feature, scales, at, k = l.Slot, l.SlotScales, base+l.At(s, f), f
		}
		if l.DType == "float32" {
			if math.Float32bits(x) != math.Float32bits(floats[at]) {
				require.Failf(t, "other bits", "environment %d, %s at %d: %g, want %g", i, feature[k].Name, at, floats[at], x)
			}
			continue
		}
		rounded := float32(float32(float32(x-feature[k].Low)*scales[k]) + 0.5)
		back := float32(bytes[at])/scales[k] + feature[k].Low
		if bytes[at] != uint8(rounded) || math.Abs(float64(x-back)) > float64(0.5001/scales[k]) {
			require.Failf(t, "other byte", "environment %d, %s at %d: %d for %g, want %g", i, feature[k].Name, at, bytes[at], x, rounded)
		}
	}
}

// What the layout says of bytes is what the kernels do.
func TestByteScalesAreTheLayouts(t *testing.T) {
	require.Equal(t, kernels.ByteScale[:], vecenv.LayoutOf(64, vecenv.ObsU8, vecenv.SlotMajor).SlotScales)
}

// A caller's tensor that does not start on a cache line is written all the same.
func TestStreamingIntoAnyTensor(t *testing.T) {
	const envs = 6
	n := envs * vecenv.ObsLen(64)
	aligned := newBatch(t, vecenv.Config{Envs: envs, Stores: vecenv.StreamStores})
	buf := make([]float32, n+16)
	shift := 0
	for uintptr(unsafe.Pointer(&buf[shift]))%64 == 0 {
		shift++
	}
	odd := newBatch(t, vecenv.Config{Envs: envs, Stores: vecenv.StreamStores, Buffers: vecenv.Buffers{Obs: buf[shift : shift+n]}})
	for range 4 {
		require.NoError(t, aligned.Reset(vecenv.ResetOptions{}))
		require.NoError(t, odd.Reset(vecenv.ResetOptions{}))
		require.Equal(t, aligned.Obs, odd.Obs)
	}
}

// Levels give the same bits: each plays the same episodes.
func TestLevelsAgree(t *testing.T) {
	before := kernels.Active()
	defer func() { require.NoError(t, kernels.Use(before)) }()
	for p := vecenv.Seed; p <= vecenv.Serving; p++ {
		for _, slots := range []int{16, 64, 128} {
			play := func(level kernels.Level) (sums []uint64) {
				require.NoError(t, kernels.Use(level))
				b := newBatch(t, vecenv.Config{Envs: 40, Slots: slots, Profile: p, Outputs: vecenv.AllOutputs})
				require.NoError(t, b.Reset(vecenv.ResetOptions{}))
				r := rand.New(rand.NewPCG(9, 9))
				for range 40 {
					require.NoError(t, b.Step(vecenv.Actions{Ops: validOps(r, b)}))
					sum := uint64(14695981039346656037)
					for _, tensor := range [][]float32{b.Obs, b.Reward, b.Components, b.Metrics} {
						for _, x := range tensor {
							sum = (sum ^ uint64(math.Float32bits(x))) * 1099511628211
						}
					}
					sums = append(sums, sum)
				}
				require.NoError(t, b.Check())
				return sums
			}
			want := play(kernels.Generic)
			for _, level := range []kernels.Level{kernels.AVX2, kernels.AVX512} {
				t.Run(fmt.Sprintf("profile=%s/slots=%d/simd=%s", p, slots, level), func(t *testing.T) {
					if err := kernels.Use(level); err != nil {
						t.Skip(err)
					}
					require.Equal(t, want, play(level))
				})
			}
		}
	}
}
