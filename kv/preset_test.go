package kv

import (
	"math/big"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func named(t testing.TB, name string) *Preset {
	p, err := PresetNamed(name)
	require.NoError(t, err)
	return &p
}

// linearNS is the part of a prefill that is not attention.
func linearNS(p *Preset, m int64) int64 {
	q := *p
	q.PairPS = 0
	return q.PrefillNS(m, 0)
}

func requireWithin(t *testing.T, want, got, permille float64, args ...any) {
	t.Helper()
	require.InEpsilon(t, want, got, permille/1000, args...)
}

// Vidur's profiles (microsoft/vidur, data/profiling): medians of all linear layers, summed, and of 160 all-reduces, ms.
func TestVidurKnots(t *testing.T) {
	a, b := named(t, "llama3-8b.a100"), named(t, "llama3-70b.8xh100")
	const head = 0.7
	for m, ms := range map[int64]float64{1: 9.70, 32: 10.91, 64: 11.23, 128: 13.18, 256: 19.49, 512: 34.64, 1024: 75.14, 2048: 143.68, 4096: 273.25,
		6144: 415.33, 8192: 543.89, 12288: 816.32, 16384: 1091.94, 24576: 1654.54, 32768: 2176.06} {
		requireWithin(t, ms*1e6, float64(linearNS(a, m)), 50, "%d tokens", m)
		requireWithin(t, (ms+head)*1e6, float64(a.DecodeBaseNS(m)), 50, "%d sequences", m)
	}
	for m, ms := range map[int64][2]float64{1: {8.36, 0.030}, 32: {9.28, 0.031}, 64: {8.96, 0.034}, 128: {10.00, 0.039}, 256: {11.52, 0.051}, 512: {17.68, 0.074},
		1024: {32.64, 0.115}, 2048: {63.66, 0.196}, 4096: {122.3, 0.322}} {
		requireWithin(t, (ms[0]+160*ms[1])*1e6, float64(linearNS(b, m)), 50, "%d tokens", m)
		require.Equal(t, linearNS(b, m), b.DecodeBaseNS(m))
	}
}

// Between the knots, which are sizes that suit the GPU's tiles, the same profiles are slower: the presets are optimistic by
// at most a quarter on the A100, and by less than 40 % of the linear layers alone on the H100s.
func TestBetweenKnots(t *testing.T) {
	a, b := named(t, "llama3-8b.a100"), named(t, "llama3-70b.8xh100")
	for m, ms := range map[int64]float64{96: 12.61, 136: 18.06, 160: 17.44, 264: 26.53, 320: 27.12, 384: 27.74, 640: 48.21, 760: 51.26, 1536: 106.91, 3072: 205.17} {
		ratio := float64(linearNS(a, m)) / (ms * 1e6)
		require.Greater(t, ratio, 0.75, "%d tokens", m)
		require.Less(t, ratio, 1.06, "%d tokens", m)
	}
	for m, ms := range map[int64]float64{96: 10.32, 160: 12.40, 320: 16.96, 536: 30.24, 640: 29.32, 768: 30.48, 1536: 48.08, 3072: 91.40} {
		ratio := float64(linearNS(b, m)) / (ms * 1e6)
		require.Greater(t, ratio, 0.75, "%d tokens", m) // with the all-reduces, which the measured time leaves out
	}
}

// DeepSeek's published day: 73.7 thousand prompt tokens a second and prefill node, 56.3 % of them cached; 14.8 thousand
// generated ones a decode node at 21 a sequence, 4,989 tokens of context each.
func TestDeepSeekDay(t *testing.T) {
	p := named(t, "deepseek-v3.h800-node")
	for _, m := range []int64{1, 128, 4096, 100_000} {
		requireWithin(t, 73_700*(1-0.563), float64(m)*1e9/float64(p.PrefillNS(m, 4989)), 10)
	}
	step := float64(p.DecodeStepNS(705, 705*4989))
	requireWithin(t, 47e6, step, 20)
	requireWithin(t, 14_800, 705*1e9/step, 20)
	requireWithin(t, 705*4989, float64(p.CapacityTokens), 20)
}

// The polynomials of NVIDIA Dynamo's mocker (ai-dynamo/dynamo, docs/mocker/mocker.md), u being the used share of 2^20 tokens.
func TestDynamoPolynomials(t *testing.T) {
	p := named(t, "dynamo-mocker")
	for _, n := range []float64{1, 16, 128, 1000, 4096, 8192, 16_384, 65_536, 131_072} {
		requireWithin(t, 1e6*(4.209989e-07*n*n+1.518344e-02*n+16.50142), float64(p.PrefillNS(int64(n), 0)), 2, "%v tokens", n)
	}
	for _, u := range []float64{0, 0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 1} {
		for _, running := range []int64{1, 16, 256} {
			requireWithin(t, 1e6*max(1, -25.74*u*u+54.01*u+5.74), float64(p.DecodeStepNS(running, int64(u*(1<<20)))), 2, "share %v", u)
		}
	}
	require.Equal(t, p.DecodeStepNS(9, 1<<20), p.DecodeStepNS(9, 1<<22), "the curve ends where the memory does")
}

// What losing a token costs to recompute, linear layers alone beyond the last knot, over what bringing it back costs.
func TestRecomputeAgainstSwap(t *testing.T) {
	for name, want := range map[string]float64{"llama3-8b.a100": 12.7, "llama3-70b.8xh100": 51, "deepseek-v3.h800-node": 176} {
		p := named(t, name)
		slope := float64(linearNS(p, 1<<16)-linearNS(p, 1<<15)) / (1 << 15) * 1000
		requireWithin(t, want, slope/float64(p.LinkPS), 50, name)
	}
}

// The integers follow from the models' shapes and the machines' rates.
func TestPresetDerivations(t *testing.T) {
	const a100, h100 = 0.7 * 2.04e12, 0.7 * 3.35e12 // bytes a second of memory that attention and compression reach
	for name, d := range map[string]struct{ kv, link, memory, pair, capacity float64 }{
		"llama3-8b.a100":        {2 * 32 * 8 * 128 * 2, 25e9, a100, 4 * 32 * 4096 / (0.6 * 312e12), (0.9*80*(1<<30) - 16e9) / 131_072},
		"llama3-70b.8xh100":     {2 * 80 * 8 * 128 * 2, 8 * 50e9, 8 * h100, 4 * 80 * 8192 / (0.6 * 8 * 989e12), (0.9*8*80*(1<<30) - 141e9) / 327_680},
		"deepseek-v3.h800-node": {61 * (512 + 64) * 2, 8 * 50e9, 8 * h100, 0, 705 * 4989},
		"dynamo-mocker":         {2 * 32 * 8 * 128 * 2, 14e9, a100, 2 * 4.209989e-10, 16_384 * 64},
	} {
		p := named(t, name)
		require.EqualValues(t, d.kv, p.KVBytes, name)
		requireWithin(t, d.kv/d.link*1e12, float64(p.LinkPS), 1, name)
		requireWithin(t, d.kv/d.memory*1e12, float64(p.CompressPS), 1, name)
		requireWithin(t, d.capacity, float64(p.CapacityTokens), 10, name)
		if d.pair == 0 {
			require.Zero(t, p.PairPS, name)
		} else {
			requireWithin(t, d.pair*1e12, float64(p.PairPS), 2, name)
		}
		if p.CurveNS == 0 { // decode attention reads all of the context once
			requireWithin(t, d.kv/d.memory*1e12, float64(p.CtxPS), 5, name)
		}
	}
}

func TestCompressNS(t *testing.T) {
	p := named(t, "llama3-8b.a100")
	requireWithin(t, 18_000, float64(p.CompressNS(FP16QuarterPages+FP16QuarterPages/2)), 50) // a 16 MiB page is read, half of it written
}

func TestLink(t *testing.T) {
	p := named(t, "llama3-8b.a100")
	const qpBytes = 16 << 20 / FP16QuarterPages
	requireWithin(t, 25e9/qpBytes, float64(p.LinkQP()), 1)
	requireWithin(t, 1e9, float64(p.LinkNS(p.LinkQP())), 1)
	requireWithin(t, 1000*qpBytes/25.0, float64(p.LinkNS(1000)), 1)
	p.LinkPS = 1_000_000_000_000
	require.EqualValues(t, 1, p.LinkQP())
}

func TestNominalRate(t *testing.T) {
	rates := map[string]int64{}
	for _, p := range Presets() {
		rates[p.Name] = p.NominalRate(32, 4096)
	}
	for name, want := range map[string]float64{"llama3-8b.a100": 29.6, "llama3-70b.8xh100": 42.1, "deepseek-v3.h800-node": 29.0, "dynamo-mocker": 58} {
		requireWithin(t, want, float64(rates[name]), 50, name)
	}
	require.GreaterOrEqual(t, rates["llama3-8b.a100"], int64(20))
	require.LessOrEqual(t, rates["llama3-8b.a100"], int64(45))
	p := named(t, "llama3-8b.a100")
	require.EqualValues(t, 1, p.NominalRate(256, 1<<24))
	p.StepMillis = 3_600_000
	require.EqualValues(t, 65_535, p.NominalRate(1, 1))
}

// A clock says what its preset says, at every number of tokens up to some, around powers of two and knots, and at random.
func TestClock(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	presets := append(Presets(), Preset{Prefill: []Knot{{3, 5}, {7, 9}, {8, 1_000_000}}, PairPS: 77}, Preset{Prefill: []Knot{{1 << 23, 4}, {1 << 24, 100_000_000_000}}})
	for _, p := range presets {
		c := p.Clock()
		check := func(m, cached uint32) {
			require.Equal(t, p.PrefillUS(int64(m), int64(cached)), c.PrefillUS(m, cached), "%s: %d tokens after %d", p.Name, m, cached)
		}
		for m := range uint32(20_000) {
			check(m, m*7)
		}
		for i := range 32 {
			for d := range uint32(5) {
				check(1<<i+d-2, r.Uint32())
			}
		}
		for _, k := range p.Prefill {
			for d := range uint32(5) {
				check(uint32(k.Tokens)+d-2, r.Uint32N(1<<26))
			}
		}
		for range 20_000 {
			check(r.Uint32()>>r.IntN(32), r.Uint32()>>r.IntN(32))
		}
	}
}

func TestPrefillUS(t *testing.T) {
	p := &Preset{Prefill: []Knot{{1, 1000}, {2, 1001}, {3, 1999}, {4, 2000}, {5, 2001}}}
	for m, us := range []uint32{0, 1, 2, 2, 2, 3} {
		require.Equal(t, us, p.PrefillUS(int64(m), 0), "%d tokens", m)
	}
	p.PairPS = 1 // 1.5 pairs are none
	require.EqualValues(t, 1, p.PrefillUS(1, 0))
	require.EqualValues(t, 2, p.PrefillUS(1, 1000), "1000 ps make it more than one microsecond")
	for _, top := range []int64{1<<31*1000 - 1, 1 << 31 * 1000, 1<<31*1000 + 1, 1 << 62} {
		require.EqualValues(t, 1<<31, (&Preset{Prefill: []Knot{{1, top}, {2, top}}}).PrefillUS(1, 0))
	}
	require.EqualValues(t, 1<<31-1, (&Preset{Prefill: []Knot{{1, (1<<31 - 1) * 1000}, {2, 1 << 42}}}).PrefillUS(1, 0))
}

// anyPreset draws a preset that is valid, often at the limits of validity; its curve never bends down.
func anyPreset(r *rand.Rand) *Preset {
	knots := func() (out []Knot) {
		tokens, ns := int64(0), int64(0)
		n := 2 + r.IntN(6)
		for i := range n {
			tokens += 1 + r.Int64N([]int64{1, 100, (1<<24-tokens)/int64(n-i) + 1}[r.IntN(3)])
			tokens = min(tokens, 1<<24-int64(n-1-i))
			ns += r.Int64N([]int64{1, 1_000_000, (100_000_000_000-ns)/int64(n-i) + 1}[r.IntN(3)])
			out = append(out, Knot{tokens, ns})
		}
		if r.IntN(3) == 0 {
			out[n-1].NS = 100_000_000_000
		}
		return out
	}
	upTo := func(lo, hi int64) int64 {
		switch r.IntN(3) {
		case 0:
			return lo
		case 1:
			return hi
		}
		return lo + r.Int64N(hi-lo+1)
	}
	p := &Preset{Name: "any", KVBytes: upTo(1, 1<<30), CapacityTokens: upTo(1, 1<<40), StepMillis: upTo(1, 3_600_000), PrefillPermille: upTo(1, 1000), Disaggregated: r.IntN(2) == 0,
		Prefill: knots(), PairPS: upTo(0, 100_000), Decode: knots(), CtxPS: upTo(0, 100_000_000), LinkPS: upTo(1, 1_000_000_000_000), HostPermille: upTo(0, 100_000),
		CompressPS: upTo(0, 100_000_000), QualityPermille: [NumQuants]int64{upTo(0, 1000), upTo(0, 1000), upTo(0, 1000)}}
	if r.IntN(3) == 0 {
		p.CurveNS = min(1_000_000_000, max(0, p.CtxPS/1000-2)<<19)
	}
	return p
}

// More work never takes less time.
func TestMonotone(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 1))
	all := Presets()
	for range 300 {
		all = append(all, *anyPreset(r))
	}
	for i := range all {
		p := &all[i]
		require.NoError(t, p.Validate())
		for range 200 {
			m, c, b, ctx, qp := r.Int64N(1<<25), r.Int64N(1<<25), 1+r.Int64N(256), r.Int64N(1<<(1+r.IntN(33))), r.Int64N(1<<20)
			step := 1 + r.Int64N(1<<r.IntN(20))
			require.LessOrEqual(t, p.PrefillNS(m, c), p.PrefillNS(min(1<<25, m+step), c), "%+v: %d+%d tokens after %d", p, m, step, c)
			require.LessOrEqual(t, p.PrefillNS(m, c), p.PrefillNS(m, min(1<<25, c+step)), "%+v: %d tokens after %d+%d", p, m, c, step)
			require.LessOrEqual(t, p.PrefillUS(m, c), p.PrefillUS(min(1<<25, m+step), c))
			require.LessOrEqual(t, p.DecodeStepNS(b, ctx), p.DecodeStepNS(b+step%16, ctx), "%+v: %d sequences, %d tokens", p, b, ctx)
			require.LessOrEqual(t, p.DecodeStepNS(b, ctx), p.DecodeStepNS(b, min(1<<33, ctx+step)), "%+v: %d sequences, %d+%d tokens", p, b, ctx, step)
			require.GreaterOrEqual(t, p.NominalRate(b, ctx>>8), p.NominalRate(b+step%16, ctx>>8))
			require.LessOrEqual(t, p.CompressNS(qp), p.CompressNS(qp+step))
			if p.LinkPS <= 10_000_000 {
				require.LessOrEqual(t, p.LinkNS(qp), p.LinkNS(qp+step))
			}
			require.GreaterOrEqual(t, p.LinkNS(p.LinkQP()+1), p.StepMillis*1_000_000, "one more quarter page needs more than a step")
			require.GreaterOrEqual(t, p.DecodeStepNS(b, ctx), int64(1_000_000))
		}
	}
}

// bigAt is `at` without a limit to the size of numbers.
func bigAt(knots []Knot, n int64) *big.Int {
	if n <= knots[0].Tokens {
		return big.NewInt(knots[0].NS)
	}
	i := 1
	for i < len(knots)-1 && knots[i].Tokens < n {
		i++
	}
	a, b := knots[i-1], knots[i]
	x := new(big.Int).Mul(big.NewInt(n-a.Tokens), big.NewInt(b.NS-a.NS))
	return x.Div(x, big.NewInt(b.Tokens-a.Tokens)).Add(x, big.NewInt(a.NS))
}

// mulDiv is a*b/c rounded down.
func mulDiv(a *big.Int, b, c int64) *big.Int {
	x := new(big.Int).Mul(a, big.NewInt(b))
	return x.Div(x, big.NewInt(c))
}

// No valid preset overflows at the documented maxima: 2^25 new and cached tokens, 2^33 tokens of context.
func TestNoOverflow(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 2))
	steepest := []Knot{{1, 0}, {2, 100_000_000_000}}
	all := append(Presets(), Preset{Prefill: steepest, Decode: steepest, PairPS: 100_000, CtxPS: 100_000_000, StepMillis: 3_600_000, LinkPS: 1, CompressPS: 100_000_000},
		Preset{Prefill: steepest, Decode: steepest, CtxPS: 100_000_000, CurveNS: 1_000_000_000, StepMillis: 1, LinkPS: 1_000_000_000_000})
	for range 300 {
		all = append(all, *anyPreset(r))
	}
	for i := range all {
		p := &all[i]
		for _, m := range []int64{0, 1, 2, 1000, 1 << 24, 1<<25 - 1, 1 << 25} {
			for _, c := range []int64{0, 1, 1 << 24, 1 << 25} {
				pairs := new(big.Int).Add(new(big.Int).Mul(big.NewInt(m), big.NewInt(c)), big.NewInt(m*m/2))
				want := new(big.Int).Add(bigAt(p.Prefill, m), mulDiv(pairs, p.PairPS, 1000))
				if m == 0 {
					want.SetInt64(0)
				}
				require.Equal(t, want.String(), big.NewInt(p.PrefillNS(m, c)).String(), "%+v: %d tokens after %d", p, m, c)
			}
		}
		for _, n := range []int64{1, 2, 256, 1 << 24, 1 << 25} {
			for _, ctx := range []int64{0, 1, 999, 1 << 20, 1<<20 + 1, 1 << 33} {
				require.Equal(t, bigStep(p, n, ctx).String(), big.NewInt(p.DecodeStepNS(n, ctx)).String(), "%+v: %d sequences, %d tokens", p, n, ctx)
			}
		}
		const most = 9 << 24 // all memory of 2^26 quarter pages, twice compressed in one step
		require.Equal(t, mulDiv(big.NewInt(most*32), p.CompressPS, 1000).String(), big.NewInt(p.CompressNS(most)).String())
		require.Equal(t, mulDiv(big.NewInt(p.LinkQP()*32), p.LinkPS, 1000).String(), big.NewInt(p.LinkNS(p.LinkQP())).String())
	}
}

func bigStep(p *Preset, n, ctx int64) *big.Int {
	x := bigAt(p.Decode, n)
	if p.CurveNS != 0 {
		ctx = min(ctx, 1<<20)
		x.Sub(x, mulDiv(mulDiv(big.NewInt(ctx), ctx, 1<<20), p.CurveNS, 1<<20))
	}
	x.Add(x, mulDiv(big.NewInt(ctx), p.CtxPS, 1000))
	if x.Cmp(big.NewInt(1_000_000)) < 0 {
		x.SetInt64(1_000_000)
	}
	return x
}

func TestValidate(t *testing.T) {
	for _, p := range Presets() {
		require.NoError(t, p.Validate())
	}
	p := named(t, "llama3-8b.a100")
	for field, at := range map[string]struct {
		v      *int64
		lo, hi int64
	}{
		"kv_bytes": {&p.KVBytes, 1, 1 << 30}, "capacity_tokens": {&p.CapacityTokens, 1, 1 << 40}, "step_ms": {&p.StepMillis, 1, 3_600_000},
		"prefill_permille": {&p.PrefillPermille, 1, 1000}, "pair_ps": {&p.PairPS, 0, 100_000}, "ctx_ps": {&p.CtxPS, 0, 100_000_000}, "curve_ns": {&p.CurveNS, 0, 1_000_000_000},
		"link_ps": {&p.LinkPS, 1, 1_000_000_000_000}, "host_permille": {&p.HostPermille, 0, 100_000}, "compress_ps": {&p.CompressPS, 0, 100_000_000},
		"quality_permille[0]": {&p.QualityPermille[0], 0, 1000}, "quality_permille[1]": {&p.QualityPermille[1], 0, 1000}, "quality_permille[2]": {&p.QualityPermille[2], 0, 1000},
	} {
		was := *at.v
		for _, v := range []int64{at.lo - 1, at.hi + 1, -1 << 63, 1<<63 - 1} {
			*at.v = v
			err := p.Validate()
			require.Error(t, err, field)
			for _, word := range []string{`"llama3-8b.a100"`, field + ": ", "allowed", "to"} {
				require.Contains(t, err.Error(), word)
			}
		}
		*at.v = was
		require.NoError(t, p.Validate())
	}
	p.Name = ""
	require.ErrorContains(t, p.Validate(), "name: none: allowed a name")
}

func TestValidateKnots(t *testing.T) {
	long := make([]Knot, 65)
	for i := range long {
		long[i] = Knot{int64(i + 1), 0}
	}
	for want, knots := range map[string][]Knot{
		"0 knots: allowed 2 to 64":  nil,
		"1 knots: allowed 2 to 64":  {{1, 1}},
		"65 knots: allowed 2 to 64": long,
		"knot 0: 0 tokens in 1 ns":  {{0, 1}, {2, 2}},
		"knot 0: 1 tokens in -1 ns": {{1, -1}, {2, 2}},
		"knot 1: 1 tokens in 2 ns":  {{1, 1}, {1, 2}},
		"knot 1: 2 tokens in 0 ns":  {{1, 1}, {2, 0}},
		"knot 1: 16777217 tokens in 2 ns: allowed more tokens than before up to 2^24, in no less time up to 10^11 ns": {{1, 1}, {1<<24 + 1, 2}},
		"knot 1: 2 tokens in 100000000001 ns": {{1, 1}, {2, 100_000_000_001}},
	} {
		for field, set := range map[string]func(*Preset){"prefill": func(p *Preset) { p.Prefill = knots }, "decode": func(p *Preset) { p.Decode = knots }} {
			p := named(t, "llama3-8b.a100")
			set(p)
			require.ErrorContains(t, p.Validate(), want)
			require.ErrorContains(t, p.Validate(), field)
		}
	}
	p := named(t, "llama3-8b.a100")
	p.Prefill, p.Decode = long[:64], []Knot{{1, 0}, {1 << 24, 100_000_000_000}}
	require.NoError(t, p.Validate())
}

func TestPresetNamed(t *testing.T) {
	_, err := PresetNamed("llama4")
	require.Error(t, err)
	for _, p := range Presets() {
		require.Contains(t, err.Error(), p.Name)
		got, err := PresetNamed(p.Name)
		require.NoError(t, err)
		require.Equal(t, p, got)
		require.NotEmpty(t, p.Source)
		require.False(t, strings.ContainsAny(p.Name, " ,/\\"), "a name that lists and paths can hold")
	}
}

// The fingerprint is that of the costs: any of them changes it, the name and the source do not.
func TestPresetFingerprint(t *testing.T) {
	p := named(t, "dynamo-mocker")
	was := p.Fingerprint()
	require.Len(t, was, 16)
	p.Name, p.Source = "x", "y"
	require.Equal(t, was, p.Fingerprint())
	seen := map[string]string{was: "the preset"}
	v := reflect.ValueOf(p).Elem()
	for i := range v.NumField() {
		if name := v.Type().Field(i).Name; name != "Name" && name != "Source" {
			q := *p
			switch f := reflect.ValueOf(&q).Elem().Field(i); f.Kind() {
			case reflect.Int64:
				f.SetInt(f.Int() + 1)
			case reflect.Bool:
				f.SetBool(!f.Bool())
			case reflect.Slice:
				f.Set(reflect.ValueOf([]Knot{{1, 1}, {2, int64(i)}}))
			case reflect.Array:
				f.Index(2).SetInt(7)
			default:
				require.Fail(t, name)
			}
			require.NotContains(t, seen, q.Fingerprint(), name)
			seen[q.Fingerprint()] = name
		}
	}
}
