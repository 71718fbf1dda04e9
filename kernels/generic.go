package kernels

import (
	"encoding/binary"
	"math/bits"
	"unsafe"

	"github.com/kvgym/kvgym/internal/rng"
	"github.com/kvgym/kvgym/kv"
)

// The reference: what every level must give, bit for bit, and what runs where there is no faster one. Where walking the set
// bits of a plane is as clear as a loop over all lanes, it is done that way, since it is the quicker one.

const (
	lowBits  = 0x0101010101010101
	opBits   = 0x0303030303030303
	gather64 = 0x0102040810204080 // gathers the low bit of eight bytes into the top byte
)

func opPlanesGeneric(ops *[Lanes]uint8) (lo, hi, over uint64) {
	high := uint64(0)
	for i := 0; i < Lanes; i += 8 {
		x := binary.LittleEndian.Uint64(ops[i:])
		lo |= x & lowBits * gather64 >> 56 << (i & 63)
		hi |= x >> 1 & lowBits * gather64 >> 56 << (i & 63)
		high |= x
	}
	if high&^opBits == 0 {
		return lo, hi, 0
	}
	for s, op := range ops {
		if op >= kv.NumOps {
			over |= 1 << s
		}
	}
	return lo &^ over, hi &^ over, over
}

func actGeneric(b *Block, ops *[Lanes]uint8, pages *[8]uint16, a *Acted) {
	lo, hi, over := opPlanesGeneric(ops)
	resident := b.Alive &^ b.Swapped
	evict, compress, swap := lo&^hi&b.Alive, hi&^lo&resident&^b.Int4, lo&hi&resident
	*a = Acted{Evicted: evict, Compressed: compress, Swapped: swap, Read: b.Active & (b.Swapped&^evict | swap),
		Invalid: uint32(bits.OnesCount64(lo|hi|over) - bits.OnesCount64(evict|compress|swap)), RiskHundredths: b.Risk(evict)}
	for m := evict&resident | swap | compress | a.Read; m != 0; m &= m - 1 {
		s := bits.TrailingZeros64(m) & 63
		qp := b.own(s, pages)
		a.LatencyMilli += (100 + min(200, 2*qp)) * uint32(a.Read>>s&1)
		freed := qp >> (compress >> s & 1) * uint32(resident>>s&1)
		a.Freed += freed
		a.FreedRetained += freed * retention[b.code(s)]
	}
	if evict != 0 {
		b.Clear(evict)
	}
	b.Int4 |= compress & b.Int8
	b.Int8 ^= compress
	b.Swapped |= swap
}

// Risk is what evicting lanes risks, hundredths; rule 9.8.
func (b *Block) Risk(evict uint64) (hundredths uint32) {
	t0, t1 := b.Type0&evict, b.Type1&evict
	hundredths = 30 * uint32(bits.OnesCount64(evict&^(t0|t1|b.Type2)))
	for m := t0 &^ t1; m != 0; m &= m - 1 { // context
		if b.Priority[bits.TrailingZeros64(m)&63] >= 50 {
			hundredths += 15
		}
	}
	for m := t1 &^ t0; m != 0; m &= m - 1 { // generation
		s := bits.TrailingZeros64(m) & 63
		if b.Priority[s] >= 70 && uint64(b.Tokens[s])*3 >= uint64(b.Remaining[s])*7 {
			hundredths += 20
		}
	}
	return hundredths
}

func heatGeneric(h *[Lanes]uint8, warm uint64) {
	for i := 0; i < Lanes; i += 8 {
		x := binary.LittleEndian.Uint64(h[i:])
		x -= x >> 2 & 0x3F3F3F3F3F3F3F3F // now at most 192 in each byte
		spread := (warm >> i & 0xFF) * lowBits & 0x8040201008040201
		spread = (spread + 0x7F7F7F7F7F7F7F7F) >> 7 & lowBits // 1 in each byte whose bit is set
		binary.LittleEndian.PutUint64(h[i:], x+spread*63)
	}
}

func advanceGeneric(b *Block, pages *[8]uint16, step int16, used, limit uint32, a *Advanced) {
	started, active := b.Prefill, b.Active
	g := generate(b, active&^b.Swapped, active&b.Swapped, step, used, limit)
	generated := active &^ g.stalled
	heatGeneric(&b.Hotness, generated)

	context, generation := b.Type0&^b.Type1, b.Type1&^b.Type0
	done := g.finished & (context | generation)
	linger := g.finished &^ done
	idle := b.Alive & (b.Type0 | b.Type1 | b.Type2) &^ (started | active)
	ended, woke, paused := timers(b, idle, generated&context&^done, linger)
	b.Active = active&^(linger|paused) | woke | started
	b.Prefill = 0
	done |= ended
	*a = Advanced{Done: done, Tokens: g.tokens, QP: g.qp, Retained: g.retained}
	for m := done &^ b.Swapped; m != 0; m &= m - 1 {
		s := bits.TrailingZeros64(m) & 63
		qp := b.own(s, pages)
		a.Freed += qp
		a.FreedRetained += qp * retention[b.code(s)]
	}
	b.Clear(done)
}

// own is what slot s holds alone, quarter pages; rules 1.5 and 1.6.
func (b *Block) own(s int, pages *[8]uint16) uint32 {
	return (kv.Pages(b.Tokens[s]) - uint32(pages[b.Prefix[s]&kv.MaxPrefixes])) << (b.level(s) & 31)
}

// generated is what generate tells.
type generated struct {
	finished, stalled    uint64
	tokens, qp, retained uint32
}

// generate lets the lanes of full generate at their rate and those of half at half of it.
func generate(b *Block, full, half uint64, step int16, used, limit uint32) (g generated) {
	u, total := used, uint32(0)
	for m := full; m != 0; m &= m - 1 {
		s := bits.TrailingZeros64(m) & 63
		tokens, rest := b.Tokens[s], b.Remaining[s]
		n := min(b.Rate[s], rest)
		if grown := kv.Pages(tokens+uint32(n)) - kv.Pages(tokens); grown != 0 {
			qp := grown << (b.level(s) & 31)
			if u+qp > limit {
				g.stalled |= m & -m
				continue
			}
			u += qp
			g.retained += qp * retention[b.code(s)]
		}
		total += uint32(n)
		rest -= n
		g.finished |= uint64((uint32(rest)-1)>>31) << s // 1 when nothing is left
		b.Tokens[s] = tokens + uint32(n)
		b.Remaining[s] = rest
		b.LastAccess[s] = step
	}
	for m := half; m != 0; m &= m - 1 {
		s := bits.TrailingZeros64(m) & 63
		n := min(b.Rate[s]-b.Rate[s]/2, b.Remaining[s]) // half, rounded up without overflow
		rest := b.Remaining[s] - n
		total += uint32(n)
		g.finished |= uint64((uint32(rest)-1)>>31) << s
		b.Tokens[s] += uint32(n)
		b.Remaining[s] = rest
		b.LastAccess[s] = step
	}
	g.qp, g.tokens = u-used, total
	return g
}

// level is the power of two that a page of slot s costs in quarter pages.
func (b *Block) level(s int) uint { return uint(2 - b.Int8>>s&1 - b.Int4>>s&1<<1) }

// code is the block type of slot s.
func (b *Block) code(s int) uint64 { return (b.Type0>>s&1 | b.Type1>>s&1<<1 | b.Type2>>s&1<<2) & 7 }

// retention is what a quarter page of each block type is worth, twentieths.
var retention = [8]uint32{kv.System: 20, kv.Context: 15, kv.Generation: 10, kv.Reasoning: 2, kv.Ephemeral: 0}

// timers counts down Cycle of three disjoint planes.
func timers(b *Block, idle, runs, linger uint64) (ended, woke, paused uint64) {
	for m := idle; m != 0; m &= m - 1 {
		s := bits.TrailingZeros64(m) & 63
		c := b.Cycle[s]
		if c&15 == 0 {
			continue
		}
		c--
		if c&15 == 0 {
			if b.Remaining[s] == 0 {
				ended |= m & -m
			} else {
				woke |= m & -m
				c |= 2 + c>>4&3
			}
		}
		b.Cycle[s] = c
	}
	for m := runs; m != 0; m &= m - 1 {
		s := bits.TrailingZeros64(m) & 63
		c := b.Cycle[s]
		if c&15 == 0 {
			continue
		}
		c--
		if c&15 == 0 {
			paused |= m & -m
			c |= 1 + c>>6
		}
		b.Cycle[s] = c
	}
	for m := linger; m != 0; m &= m - 1 {
		s := bits.TrailingZeros64(m) & 63
		c := b.Cycle[s]
		b.Cycle[s] = c&^15 | 1 + c>>6
	}
	return ended, woke, paused
}

func prefixesGeneric(b *Block, n int, pages *[8]uint16, s *Shared) {
	blocks := unsafe.Slice(b, n)
	*s = Shared{}
	for p := 1; p <= kv.MaxPrefixes; p++ {
		if pages[p] != 0 {
			s.prefix(blocks, p, uint32(pages[p]))
		}
	}
}

// prefix finds the state of prefix p.
func (s *Shared) prefix(blocks []Block, p int, pages uint32) {
	var sys, ctx, gen, rea uint64
	var count [3]int // resident members by level
	for w := range blocks {
		b := &blocks[w]
		r := b.Members[p-1] &^ b.Swapped
		t0, t1 := r&b.Type0, r&b.Type1
		sys |= r &^ (t0 | t1 | b.Type2)
		ctx |= t0 &^ t1
		gen |= t1 &^ t0
		rea |= t0 & t1
		count[0] += bits.OnesCount64(r &^ (b.Int8 | b.Int4))
		count[1] += bits.OnesCount64(r & b.Int8)
		count[2] += bits.OnesCount64(r & b.Int4)
	}
	multiplier := multiplierOf[isSet(count[0])<<2|isSet(count[1])<<1|isSet(count[2])]
	weight := weightOf[isSet(sys)<<3|isSet(ctx)<<2|isSet(gen)<<1|isSet(rea)]
	s.Extra[p] = pages * (kv.FP16QuarterPages - multiplier)
	s.Mul[p], s.Weight[p] = uint8(multiplier), uint8(weight)
	s.QP += pages * multiplier
	s.Retained += weight * pages * multiplier
	if top := topOf[multiplier&7]; multiplier != 0 && count[top] == 1 {
		count[top] = 0
		s.Gain[p] = pages * (multiplier - multiplierOf[isSet(count[0])<<2|isSet(count[1])<<1|isSet(count[2])])
		for w := range blocks {
			b := &blocks[w]
			s.Last[w&3] |= b.Members[p-1] &^ b.Swapped & [3]uint64{^(b.Int8 | b.Int4), b.Int8, b.Int4}[top]
		}
	}
}

// isSet is 1 unless x is 0, without a branch.
func isSet[T int | uint64](x T) uint64 { y := uint64(x); return (y | -y) >> 63 }

// The multiplier of a prefix by what levels its resident members have (fp16, int8, int4), that level as an index, and the prefix's
// retention weight by what types they have (system, context, generation, reasoning).
var (
	multiplierOf = [8]uint32{0, 1, 2, 2, 4, 4, 4, 4}
	topOf        = [8]int{1: 2, 2: 1, 4: 0}
	weightOf     = [16]uint32{0, 2, 10, 10, 15, 15, 15, 15, 20, 20, 20, 20, 20, 20, 20, 20}
)

func admitGeneric(queue []uint64, needs []uint32, first, n, old, kept int, a *Admission) int {
	for i := first; i < first+n; i++ {
		need, word := needs[i], queue[i]
		p, qp := need>>DemandShift&7, need&DemandMask
		switch {
		case a.Used < a.Budget && a.Used+qp+a.Extra[p] <= a.Budget && a.Free > 0:
			a.Used += qp + a.Extra[p]
			a.Extra[p] = 0
			a.Joins[p]++
			a.Free--
			a.Private += qp
			a.Gone += qp
			a.Words[a.Taken&31] = word
			a.Taken++
		case i < first+old:
			a.Failed++
			a.Gone += qp
		default:
			queue[kept], needs[kept] = word, need
			kept++
		}
	}
	return kept
}

func enterGeneric(b *Block, slots uint64, words *[8]uint64, count int, t *RequestTables, prefixPages *[8]uint16, step int16, joins *[8]uint8) uint32 {
	touch(b, b.Alive&^(b.Type0|b.Type1|b.Type2), joins, step)
	var n Newcomers
	requests(words, t, prefixPages, step, 63, &n)
	return place(b, slots, &n, uint8(1<<count-1))
}

func arriveGeneric(words *[8]uint64, needs *[8]uint32, base, stamp uint64, t *RequestTables, count uint64, lanes int, table *[8]uint16, room int) (n int, qp uint32) {
	n = counts(rng.Mix(count)&(^uint64(0)>>(64-16*lanes)), table)
	arrivals(words, needs, base, stamp, t)
	for _, need := range needs[:min(n, room, len(needs))] {
		qp += need & DemandMask
	}
	return n, qp
}

func drawsGeneric(dst *[8]uint64, base uint64) {
	for k := range dst {
		dst[k] = rng.Mix(base)
		base += rng.Golden
	}
}

func arrivalsGeneric(words *[8]uint64, needs *[8]uint32, base, stamp uint64, t *RequestTables) {
	for k := range words {
		w := rng.Mix(base)
		base += rng.Golden
		words[k] = w&(1<<48-1) | stamp
		needs[k] = uint32(t.Pages[w>>12&63])*kv.FP16QuarterPages | tenantOf(w)<<DemandShift
	}
}

// tenantOf is a request's shared prefix. It has no branch, which nothing could predict.
func tenantOf(w uint64) uint32 {
	shares := uint32(w>>10&3+3) >> 2 // 0 if the field is 0, else 1
	return shares * (1 + uint32(w>>8&3))
}

func requestsGeneric(words *[8]uint64, t *RequestTables, prefixPages *[8]uint16, last int16, hotness uint8, n *Newcomers) {
	n.Prefill, n.Active = 0xFF, 0
	n.decode(words, t, prefixPages)
	for i := range words {
		n.LastAccess[i], n.Hotness[i] = last, hotness
	}
}

// decode cuts the fields that arriving requests and initial sequences have in common.
func (n *Newcomers) decode(words *[8]uint64, t *RequestTables, prefixPages *[8]uint16) {
	n.Type0, n.Type1, n.Type2 = 0, 0, 0
	for i, w := range words {
		code := t.typeOf(uint32(w & 0xFF))
		n.Type0 |= uint8(code & 1 << i)
		n.Type1 |= uint8(code >> 1 & 1 << i)
		n.Type2 |= uint8(code >> 2 & 1 << i)
		pages, prefix := uint32(t.Pages[w>>12&63]), tenantOf(w)
		n.Tokens[i] = (pages-1)*kv.PageTokens + 1 + uint32(w>>18&127) + uint32(prefixPages[prefix&7])*kv.PageTokens
		n.Need[i] = pages * kv.FP16QuarterPages
		n.Remaining[i] = t.Output[w>>25&63]
		n.Rate[i] = 1 + uint16(w>>31&3)
		n.Priority[i] = uint8(w >> 33 & 127 * 101 >> 7)
		n.Prefix[i] = uint8(prefix)
		context := uint8(code & 1 &^ (code >> 1))
		n.Cycle[i] = uint8(w>>40&15)<<4 | context*(2+uint8(w>>40&3))
	}
}

// typeOf is the block type of a draw's lowest eight bits: 1 below the first threshold, one more with each that is reached.
func (t *RequestTables) typeOf(b uint32) uint32 {
	code := uint32(kv.Context)
	for _, th := range t.Types {
		code += 1 - (b-uint32(th))>>31
	}
	return code
}

func initialsGeneric(draws *[8]uint64, base uint64, t *RequestTables, prefixPages *[8]uint16, system int, n *Newcomers) {
	drawsGeneric(draws, base)
	n.decode(draws, t, prefixPages)
	idle := uint8(0)
	for i, w := range draws {
		done := uint32(w>>48&63) * uint32(n.Remaining[i]) >> 6
		own := n.Tokens[i] - uint32(prefixPages[n.Prefix[i]&7])*kv.PageTokens + done
		n.Tokens[i] += done
		n.Remaining[i] -= uint16(done)
		n.Need[i] = kv.Pages(own) * kv.FP16QuarterPages
		n.Hotness[i] = uint8(w >> 54)
		context := n.Type0 &^ n.Type1 >> i & 1
		pauses := context & uint8(w>>62&1)
		idle |= pauses << i
		n.LastAccess[i] = -int16(pauses * uint8(w>>54&7))
		if pauses != 0 {
			n.Cycle[i] = n.Cycle[i]&^15 | 1 + uint8(w>>42&3)
		}
	}
	n.Prefill, n.Active = 0, ^idle
	n.systems(draws, prefixPages, system)
}

// systems makes the first newcomers system entries.
func (n *Newcomers) systems(draws *[8]uint64, prefixPages *[8]uint16, count int) {
	all := uint8(1)<<count - 1
	n.Type0, n.Type1, n.Type2, n.Active = n.Type0&^all, n.Type1&^all, n.Type2&^all, n.Active&^all
	for i, w := range draws[:count] {
		n.Prefix[i] = uint8(i + 1)
		n.Tokens[i] = uint32(prefixPages[i+1]) * kv.PageTokens
		n.Need[i], n.Remaining[i], n.Rate[i], n.Cycle[i] = 0, 0, 0, 0
		n.LastAccess[i] = -int16(w >> 62)
	}
}

func togetherGeneric(n *Newcomers, count int, joins uint64, pages *[8]uint16) (private, whole uint32, joined uint64) {
	joined = joins
	for i, need := range n.Need[:count] {
		p := n.Prefix[i] & kv.MaxPrefixes
		private += need
		whole += uint32(1-joined>>(8*p)&1) * uint32(pages[p]) * kv.FP16QuarterPages
		joined |= 1 << (8 * p)
	}
	return private, private + whole, joined
}

func placeGeneric(b *Block, slots uint64, n *Newcomers, take uint8) (retained uint32) {
	var t0, t1, t2, prefill, active uint64
	for m := take; m != 0; m &= m - 1 {
		i, s := bits.TrailingZeros8(m)&7, bits.TrailingZeros64(slots)&63
		slots &= slots - 1
		b.Tokens[s] = n.Tokens[i]
		b.Remaining[s] = n.Remaining[i]
		b.LastAccess[s] = n.LastAccess[i]
		b.Rate[s] = n.Rate[i]
		b.Priority[s] = n.Priority[i]
		b.Hotness[s] = n.Hotness[i]
		b.Cycle[s] = n.Cycle[i]
		prefix := n.Prefix[i] & kv.MaxPrefixes
		b.Prefix[s] = prefix
		bit := uint64(1) << s
		if prefix != 0 {
			b.Members[prefix-1] |= bit
		}
		b.Alive |= bit
		c0, c1, c2 := uint64(n.Type0>>i&1), uint64(n.Type1>>i&1), uint64(n.Type2>>i&1)
		t0 |= c0 << s
		t1 |= c1 << s
		t2 |= c2 << s
		prefill |= uint64(n.Prefill>>i&1) << s
		active |= uint64(n.Active>>i&1) << s
		retained += n.Need[i] * retention[c0|c1<<1|c2<<2]
	}
	b.Type0 |= t0
	b.Type1 |= t1
	b.Type2 |= t2
	b.Prefill |= prefill
	b.Active |= active
	return retained
}

func touchGeneric(b *Block, plane uint64, joins *[8]uint8, step int16) {
	for m := plane; m != 0; m &= m - 1 {
		s := bits.TrailingZeros64(m) & 63
		if p := b.Prefix[s] & kv.MaxPrefixes; p != 0 && joins[p] != 0 {
			n := joins[p]
			b.Hotness[s] = uint8(min(255, uint32(b.Hotness[s])+63*uint32(n)))
			b.LastAccess[s] = step
		}
	}
}

func countsGeneric(u uint64, table *[8]uint16) (n int) {
	for range 4 {
		for _, th := range table[:7] { // no branch: nothing could predict a draw
			n += int(1 - (uint32(u&0xFFFF)-uint32(th))>>31)
		}
		u >>= 16
	}
	return n
}

func globalsGeneric(dst *[16]float32, num, den *[16]int32, budget, capacity, norm, most uint32) {
	for i, n := range num {
		dst[i] = float32(n) / float32(den[i])
	}
	b := float32(budget)
	dst[0], dst[1], dst[7], dst[12] = float32(num[0])/b, float32(num[1])/float32(capacity), float32(num[7])/b, float32(num[12])/b
	dst[14], dst[15] = float32(num[14])/float32(norm), float32(num[15])/float32(most)
}

func maskRowsGeneric(dst []uint8, evict, compress, swap uint64) {
	for s := uint(0); len(dst) >= kv.NumOps; s++ {
		m := (*[kv.NumOps]uint8)(dst)
		dst = dst[kv.NumOps:]
		m[0] = 1
		m[1] = uint8(evict >> (s & 63) & 1)
		m[2] = uint8(compress >> (s & 63) & 1)
		m[3] = uint8(swap >> (s & 63) & 1)
	}
}

func fillGeneric(dst []float32, x float32) {
	for i := range dst {
		dst[i] = x
	}
}
