package kv

import (
	"crypto/sha256"
	"fmt"
	"math"
	"math/bits"
)

// Knot is one measured point of a piecewise linear time: Tokens processed together take NS nanoseconds.
type Knot struct {
	Tokens int64 `json:"tokens" toml:"tokens"`
	NS     int64 `json:"ns" toml:"ns"`
}

// Preset is what operations cost on one server: a model on given GPUs. All values are integers; docs/serving.md says where
// each number comes from and what it leaves out.
type Preset struct {
	Name   string `json:"name" toml:"name"`
	Source string `json:"source" toml:"source"` // where the numbers come from

	KVBytes        int64 `json:"kv_bytes" toml:"kv_bytes"`               // a token at 16 bit, all layers and ranks
	CapacityTokens int64 `json:"capacity_tokens" toml:"capacity_tokens"` // 16-bit tokens that fit the server's KV memory

	StepMillis      int64 `json:"step_ms" toml:"step_ms"`                   // length of a step
	PrefillPermille int64 `json:"prefill_permille" toml:"prefill_permille"` // share of a step that prefill may take
	Disaggregated   bool  `json:"disaggregated" toml:"disaggregated"`       // prefill has GPUs of its own and takes no time from decoding

	Prefill []Knot `json:"prefill" toml:"prefill"`   // linear layers and collectives of a prefill, by new tokens
	PairPS  int64  `json:"pair_ps" toml:"pair_ps"`   // attention, picoseconds a (query, key) pair
	Decode  []Knot `json:"decode" toml:"decode"`     // a decode step without attention, by running sequences
	CtxPS   int64  `json:"ctx_ps" toml:"ctx_ps"`     // attention of a decode step, picoseconds a token of context
	CurveNS int64  `json:"curve_ns" toml:"curve_ns"` // taken off a decode step: CurveNS * (context / 2^20)^2

	LinkPS       int64 `json:"link_ps" toml:"link_ps"`             // moving a 16-bit token over the host link, one way, picoseconds
	HostPermille int64 `json:"host_permille" toml:"host_permille"` // CPU memory for swapped sequences, thousandths of the GPU's budget

	CompressPS int64 `json:"compress_ps" toml:"compress_ps"` // reading or writing a 16-bit token's KV in GPU memory, picoseconds

	QualityPermille [NumQuants]int64 `json:"quality_permille" toml:"quality_permille"` // worth of a token generated on fp16, int8, int4
}

// Presets are the servers that kvgym knows by name.
func Presets() []Preset {
	return []Preset{llama8bA100(), llama70bH100(), deepseekH800(), dynamoMocker()}
}

// PresetNamed returns the preset of that name; the error names what is allowed.
func PresetNamed(name string) (Preset, error) {
	var names string
	for _, p := range Presets() {
		if p.Name == name {
			return p, nil
		}
		names += p.Name + ", "
	}
	return Preset{}, fmt.Errorf("preset: %.60q: allowed %sor a .toml or .json file", name, names)
}

// naiveQuality is what a token generated on quantised KV is worth: a simple per-token scheme on a grouped-query model.
var naiveQuality = [NumQuants]int64{1000, 980, 750}

// hostShare is small on purpose: engines reserve some gigabytes of pinned memory for swapping, not a second cache.
const hostShare = 250

func llama8bA100() Preset {
	mlp := []Knot{{1, 9_700_000}, {32, 10_910_000}, {64, 11_230_000}, {128, 13_180_000}, {256, 19_490_000}, {512, 34_640_000}, {1024, 75_140_000},
		{2048, 143_680_000}, {4096, 273_250_000}, {8192, 545_224_400}}
	decode := make([]Knot, len(mlp))
	for i, k := range mlp {
		decode[i] = Knot{k.Tokens, k.NS + 700_000}
	}
	return Preset{Name: "llama3-8b.a100", Source: "Vidur's profile of one A100-80; FlashAttention-2 at 60 % of peak; PCIe 4 at 25 GB/s",
		KVBytes: 131_072, CapacityTokens: 467_000, StepMillis: 1000, PrefillPermille: 600, Prefill: mlp, PairPS: 2800, Decode: decode, CtxPS: 92_000,
		LinkPS: 5_243_000, CompressPS: 91_787, HostPermille: hostShare, QualityPermille: naiveQuality}
}

func llama70bH100() Preset {
	mlp := []Knot{{1, 13_160_000}, {32, 14_350_000}, {64, 14_790_000}, {128, 16_550_000}, {256, 19_830_000}, {512, 29_520_000}, {1024, 50_990_000},
		{2048, 95_020_000}, {4096, 173_820_000}, {8192, 345_032_800}}
	return Preset{Name: "llama3-70b.8xh100", Source: "Vidur's profiles of 8 H100 with tensor parallelism, all-reduce included; PCIe 5 at 8 x 50 GB/s",
		KVBytes: 327_680, CapacityTokens: 1_450_000, StepMillis: 1000, PrefillPermille: 600, Prefill: mlp, PairPS: 552, Decode: mlp, CtxPS: 17_500,
		LinkPS: 819_200, CompressPS: 17_467, HostPermille: hostShare, QualityPermille: naiveQuality}
}

func deepseekH800() Preset {
	return Preset{Name: "deepseek-v3.h800-node", Source: "DeepSeek's published day of serving: one prefill and one decode node of 8 H800; 8 x 50 GB/s to the host",
		KVBytes: 70_272, CapacityTokens: 3_500_000, StepMillis: 1000, PrefillPermille: 1000, Disaggregated: true,
		Prefill: []Knot{{1, 31_000}, {4096, 126_976_000}}, Decode: []Knot{{1, 34_000_000}, {1024, 34_000_000}}, CtxPS: 3750,
		LinkPS: 175_680, CompressPS: 3746, HostPermille: hostShare, QualityPermille: naiveQuality}
}

func dynamoMocker() Preset {
	return Preset{Name: "dynamo-mocker", Source: "the polynomials of NVIDIA Dynamo's mocker; link of its default 14 GB/s with Llama-3-8B's KV",
		KVBytes: 131_072, CapacityTokens: 1_048_576, StepMillis: 1000, PrefillPermille: 600,
		Prefill: []Knot{{1, 16_516_603}, {65_536, 1_011_563_345}}, PairPS: 842, Decode: []Knot{{1, 5_740_000}, {1024, 5_740_000}}, CtxPS: 51_508,
		CurveNS: 25_740_000, LinkPS: 9_362_286, CompressPS: 91_787, HostPermille: hostShare, QualityPermille: naiveQuality}
}

// at evaluates a piecewise linear time at n tokens, which continues beyond its last knot as between its last two.
func at(knots []Knot, n int64) int64 {
	if n <= knots[0].Tokens {
		return knots[0].NS
	}
	i := 1
	for _, k := range knots[1 : len(knots)-1] { // all of them and no branch: a search would be mispredicted
		i += int(uint64(k.Tokens-n) >> 63)
	}
	a, b := knots[i-1], knots[i]
	return a.NS + int64(uint64((n-a.Tokens)*(b.NS-a.NS))/uint64(b.Tokens-a.Tokens)) // nothing is negative: a signed division takes longer
}

// PrefillNS is the time to prefill m new tokens after p that are cached: m and p at most 2^25.
func (p *Preset) PrefillNS(m, cached int64) int64 {
	if m == 0 {
		return 0
	}
	pairs := m*cached + m*m/2 // at most 2^51
	whole := int64(uint64(pairs) / 1000)
	return at(p.Prefill, m) + whole*p.PairPS + int64(uint64((pairs-1000*whole)*p.PairPS)/1000)
}

// PrefillUS is PrefillNS in whole microseconds, rounded up, at most 2^31; it takes any number of tokens above 2^25 for that.
func (p *Preset) PrefillUS(m, cached int64) uint32 {
	m, cached = min(m, 1<<25), min(cached, 1<<25)
	return uint32(min(1<<31, uint64(p.PrefillNS(m, cached)+999)/1000))
}

// Clock says how long a preset's prefill takes, made for being asked often.
type Clock struct {
	Segments []Segment // the last one has no end
	From     [32]uint8 // where to begin to look for n tokens, by the bits of n - 1
	PairPS   uint64
}

// Segment is a piece of a piecewise linear time, up to End tokens: Rise nanoseconds more in every Span tokens after Start, where it is NS.
type Segment struct{ End, Start, NS, Rise, Span uint64 }

// Clock makes the preset's.
func (p *Preset) Clock() *Clock {
	k := p.Prefill
	c := &Clock{PairPS: uint64(p.PairPS), Segments: []Segment{{End: uint64(k[0].Tokens), NS: uint64(k[0].NS), Span: 1}}}
	for i := range k[1:] {
		a, b := k[i], k[i+1]
		c.Segments = append(c.Segments, Segment{uint64(b.Tokens), uint64(a.Tokens), uint64(a.NS), uint64(b.NS - a.NS), uint64(b.Tokens - a.Tokens)})
	}
	c.Segments[len(k)-1].End = math.MaxUint64
	for i := range c.From {
		for c.Segments[c.From[i]].End <= 1<<i>>1 {
			c.From[i]++
		}
	}
	return c
}

// PrefillUS is PrefillUS of the preset.
func (c *Clock) PrefillUS(tokens, cached uint32) uint32 {
	if tokens == 0 {
		return 0
	}
	m := min(uint64(tokens), 1<<25)
	i := c.From[bits.Len64(m-1)&31]
	for m > c.Segments[i].End { // seldom: knots stand at powers of two
		i++
	}
	s := &c.Segments[i]
	pairs := m*min(uint64(cached), 1<<25) + m*m/2
	whole := pairs / 1000
	ns := s.NS + (m-s.Start)*s.Rise/s.Span + whole*c.PairPS + (pairs-1000*whole)*c.PairPS/1000
	return uint32(min(1<<31, (ns+999)/1000))
}

// DecodeStepNS is the time of one decode step of running sequences with ctx tokens of context in all (at most 2^33).
func (p *Preset) DecodeStepNS(running, ctx int64) int64 {
	return p.AttentionNS(at(p.Decode, running), ctx)
}

// DecodeBaseNS is the part of DecodeStepNS that does not depend on the context.
func (p *Preset) DecodeBaseNS(running int64) int64 { return at(p.Decode, running) }

// AttentionNS completes a decode step's base with its attention.
func (p *Preset) AttentionNS(base, ctx int64) int64 {
	if p.CurveNS != 0 {
		ctx = min(ctx, 1<<20)
		base -= p.CurveNS * (ctx * ctx >> 20) >> 20
	}
	return max(1_000_000, base+ctx*p.CtxPS/1000)
}

// LinkQP is how many quarter pages cross the host link in a step, one way; at least 1.
func (p *Preset) LinkQP() int64 { return max(1, p.StepMillis*1_000_000_000/(p.LinkPS*qpTokens)) }

// LinkNS is the time that qp quarter pages need on the link.
func (p *Preset) LinkNS(qp int64) int64 { return qp * p.LinkPS * qpTokens / 1000 }

// CompressNS is the GPU time to read and write that many quarter pages.
func (p *Preset) CompressNS(qp int64) int64 { return qp * p.CompressPS * qpTokens / 1000 }

// NominalRate is the tokens that a sequence generates in a step while `running` ones of ctx tokens each share a server that
// also prefills: what demand is measured with.
func (p *Preset) NominalRate(running, ctx int64) int64 {
	ns := p.StepMillis * 1_000_000
	if !p.Disaggregated {
		ns -= ns * p.PrefillPermille / 2000 // prefill takes half of what it may
	}
	return min(65_535, max(1, ns/p.DecodeStepNS(running, running*ctx)))
}

// qpTokens is how many 16-bit tokens' memory a quarter page is.
const qpTokens = PageTokens / FP16QuarterPages

// Fingerprint identifies what the preset makes operations cost, whatever it is called.
func (p *Preset) Fingerprint() string {
	q := *p
	q.Name, q.Source = "", ""
	return fmt.Sprintf("%x", sha256.Sum256(fmt.Appendf(nil, "%v", q)))[:16]
}

// Validate tells what is wrong with a preset, naming the field, its value and what is allowed.
func (p *Preset) Validate() error {
	for _, f := range []struct {
		name      string
		v, lo, hi int64
	}{
		{"kv_bytes", p.KVBytes, 1, 1 << 30}, {"capacity_tokens", p.CapacityTokens, 1, 1 << 40}, {"step_ms", p.StepMillis, 1, 3_600_000},
		{"prefill_permille", p.PrefillPermille, 1, 1000}, {"pair_ps", p.PairPS, 0, 100_000}, {"ctx_ps", p.CtxPS, 0, 100_000_000},
		{"curve_ns", p.CurveNS, 0, 1_000_000_000}, {"host_permille", p.HostPermille, 0, 100_000}, {"link_ps", p.LinkPS, 1, 1_000_000_000_000}, {"compress_ps", p.CompressPS, 0, 100_000_000},
		{"quality_permille[0]", p.QualityPermille[0], 0, 1000}, {"quality_permille[1]", p.QualityPermille[1], 0, 1000}, {"quality_permille[2]", p.QualityPermille[2], 0, 1000},
	} {
		if f.v < f.lo || f.v > f.hi {
			return fmt.Errorf("preset %.60q: %s: %d: allowed %d to %d", p.Name, f.name, f.v, f.lo, f.hi)
		}
	}
	if most := p.CtxPS / 1000 << 19; p.CurveNS > most { // or a longer context would take less time
		return fmt.Errorf("preset %.60q: curve_ns: %d: allowed 0 to %d with ctx_ps %d", p.Name, p.CurveNS, most, p.CtxPS)
	}
	if p.Name == "" {
		return fmt.Errorf("preset: name: none: allowed a name")
	}
	if err := checkKnots(p.Name, "prefill", p.Prefill); err != nil {
		return err
	}
	return checkKnots(p.Name, "decode", p.Decode)
}

func checkKnots(preset, field string, knots []Knot) error {
	if len(knots) < 2 || len(knots) > 64 {
		return fmt.Errorf("preset %.60q: %s: %d knots: allowed 2 to 64", preset, field, len(knots))
	}
	last := Knot{0, 0}
	for i, k := range knots {
		if k.Tokens <= last.Tokens || k.Tokens > 1<<24 || k.NS < last.NS || k.NS > 100_000_000_000 {
			return fmt.Errorf("preset %.60q: %s knot %d: %d tokens in %d ns: allowed more tokens than before up to 2^24, in no less time up to 10^11 ns", preset, field, i, k.Tokens, k.NS)
		}
		last = k
	}
	return nil
}
