package trace

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"math"
	"math/big"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func synthText(t *testing.T, c SynthConfig) []byte {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, Synthesize(&b, c))
	return b.Bytes()
}

// Ensure that a seed is a promise: these bytes, on every machine and in every
// later version.
func TestSynthesizeGolden(t *testing.T) {
	sum := func(c SynthConfig) string {
		s := sha256.Sum256(synthText(t, c))
		return hex.EncodeToString(s[:])
	}
	require.Equal(t, "3eff5ec147344fcd01fdc00cf113f3f361c89c80960486e0e0c0a8da38244cdb", sum(SynthConfig{Seed: 1}))
	require.Equal(t, sum(SynthConfig{Seed: 1}), sum(SynthConfig{Seed: 1, Requests: 2000, Rate: 4, Tenants: 8, SystemBlocks: 1, MaxInputTokens: 65536}))
	seen := map[string]bool{}
	for seed := range uint64(50) {
		seen[sum(SynthConfig{Seed: seed, Requests: 20})] = true
	}
	require.Len(t, seen, 50)
}

// Ensure that a shorter file is a prefix of a longer one.
func TestSynthesizePrefix(t *testing.T) {
	long := synthText(t, SynthConfig{Seed: 9, Requests: 500})
	require.True(t, bytes.HasPrefix(long, synthText(t, SynthConfig{Seed: 9, Requests: 100})))
}

// Ensure that every configuration gives a file without a bad line whose ids
// form a tree.
func TestSynthesizeIsValid(t *testing.T) {
	for _, c := range []SynthConfig{
		{}, {Seed: math.MaxUint64, Requests: 5000}, {Requests: 1}, {Requests: 3000, Rate: 100_000}, {Requests: 3000, Rate: 0.01},
		{Requests: 3000, Tenants: 1, SystemBlocks: 64, MaxInputTokens: 65 * 512}, {Requests: 3000, Tenants: 65_536, MaxInputTokens: 1024},
		{Requests: 3000, SystemBlocks: 5, MaxInputTokens: 1 << 20},
	} {
		r, err := NewReader(bytes.NewReader(synthText(t, c)), "synth", Options{SkipBadLines: true})
		require.NoError(t, err)
		require.Equal(t, Mooncake, r.Format())
		all, err := readAll(r)
		require.NoError(t, err)
		c, err = c.withDefaults()
		require.NoError(t, err)
		require.Len(t, all, c.Requests)
		require.Zero(t, r.BadLines(), "%v", r.FirstBad())
		parent := map[uint64]uint64{}
		for _, rec := range all {
			require.LessOrEqual(t, rec.InputTokens, int64(c.MaxInputTokens))
			before := uint64(math.MaxUint64)
			for _, id := range rec.Blocks {
				if p, ok := parent[id]; ok {
					require.Equal(t, p, before)
				}
				parent[id] = before
				before = id
			}
		}
	}
}

// Ensure that the file looks like the traffic it stands for.
func TestSynthesizeShape(t *testing.T) {
	all, err := readString(t, string(synthText(t, SynthConfig{Seed: 5, Requests: 20000})), Options{})
	require.NoError(t, err)
	var in, out []int64
	s := NewSessionizer()
	follow, system := 0, 0
	for i := range all {
		in, out = append(in, all[i].InputTokens), append(out, all[i].OutputTokens)
		p := s.Place(&all[i])
		if p.FollowUp {
			follow++
		}
		if p.SystemBlocks == 1 {
			system++
		}
	}
	slices.Sort(in)
	slices.Sort(out)
	n := len(all)
	require.InDelta(t, 3000, in[n/2], 500)
	require.InDelta(t, 12000, in[n*9/10], 1500)
	require.InDelta(t, 300, out[n/2], 20)
	require.InDelta(t, 4, float64(n)/(float64(all[n-1].TimeMicros)/1e6), 0.4)
	require.InDelta(t, 0.39, float64(follow)/float64(n), 0.05)
	require.Greater(t, system, n*9/10)
}

func TestSynthesizeErrors(t *testing.T) {
	for want, c := range map[string]SynthConfig{
		"requests: -1: allowed 1 to 10000000":                                 {Requests: -1},
		"requests: 10000001: allowed 1 to 10000000":                           {Requests: 10_000_001},
		"rate: NaN: allowed 0.01 to 100000":                                   {Rate: math.NaN()},
		"rate: +Inf: allowed 0.01 to 100000":                                  {Rate: math.Inf(1)},
		"rate: -4: allowed 0.01 to 100000":                                    {Rate: -4},
		"tenants: 65537: allowed 1 to 65536":                                  {Tenants: 65537},
		"system_blocks: 65: allowed 1 to 64":                                  {SystemBlocks: 65},
		"max_input_tokens: 1000: allowed 512*system_blocks+512 to 1048576":    {MaxInputTokens: 1000},
		"max_input_tokens: 1048577: allowed 512*system_blocks+512 to 1048576": {MaxInputTokens: 1048577},
	} {
		require.EqualError(t, Synthesize(io.Discard, c), want)
	}
	boom := errors.New("boom")
	require.ErrorIs(t, Synthesize(failingWriter{boom}, SynthConfig{Requests: 5000}), boom)
	require.ErrorIs(t, Synthesize(failingWriter{boom}, SynthConfig{Requests: 1}), boom)
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

// Ensure that the logarithm table is right and the draws have their means.
func TestDistributions(t *testing.T) {
	require.Equal(t, int64(math.Round(math.Ln2*(1<<20))), int64(ln2))
	for i, v := range ln1p {
		require.Equal(t, int64(math.Round(math.Log1p(float64(i)/32)*(1<<20))), v)
	}
	s := newStream(1, 2, 3)
	const n = 400_000
	sum, above := new(big.Int), 0
	for range n {
		v := s.exponential(1_000_000)
		require.GreaterOrEqual(t, v, int64(0))
		sum.Add(sum, big.NewInt(v))
		if v > 2_000_000 {
			above++
		}
	}
	mean := float64(sum.Int64()) / n
	require.InDelta(t, 1_000_000, mean, 6_000) // 4 standard errors of 1,581
	require.InDelta(t, math.Exp(-2), float64(above)/n, 0.003)
	total := int64(0)
	for _, p := range burstPct {
		total += p
	}
	require.Equal(t, int64(100*len(burstPct)), total)

	q := &outputTokens
	below := 0
	for range n {
		v := s.draw(q)
		require.True(t, v >= q[0] && v <= q[len(q)-1])
		if v < q[5] {
			below++
		}
	}
	require.InDelta(t, 0.5, float64(below)/n, 0.004)
	// The longest gaps and the smallest must not overflow.
	for range n {
		require.GreaterOrEqual(t, s.exponential(1<<37-1), int64(0))
	}
}
