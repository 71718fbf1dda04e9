package vecenv

import (
	"encoding/json"
	"math/bits"
	"unsafe"

	"github.com/kvgym/kvgym/kv"
)

// Shape of an observation row: GlobalFeatures values, then SlotFeatures values for every slot.
const (
	GlobalFeatures = 16
	SlotFeatures   = 12
)

// ObsLen is the number of float32 values in one environment's observation.
func ObsLen(slots int) int { return GlobalFeatures + SlotFeatures*slots }

// Feature describes one value of an observation.
type Feature struct {
	Name    string  `json:"name"`
	Formula string  `json:"formula"` // as in docs/simulator.md, section 10
	Low     float32 `json:"low"`
	High    float32 `json:"high"`
}

// Layout describes an observation row.
type Layout struct {
	DType   string    `json:"dtype"`   // "float32"
	Length  int       `json:"length"`  // values a row
	Slots   int       `json:"slots"`   // slots a row
	Globals []Feature `json:"globals"` // the first values of the row
	Slot    []Feature `json:"slot"`    // then these for slot 0, slot 1, ...
}

// ObsLayout is the one declaration of the observation; every face of kvgym reads it from here.
func ObsLayout(slots int) Layout {
	return Layout{DType: "float32", Length: ObsLen(slots), Slots: slots, Globals: globalFeatures[:], Slot: slotFeatures[:]}
}

// String renders the layout as JSON for people.
func (l Layout) String() string {
	b, _ := json.MarshalIndent(l, "", "  ")
	return string(b)
}

var globalFeatures = [GlobalFeatures]Feature{
	{"usage", "min(used, 2 budget) / budget", 0, 2},
	{"budget", "budget / capacity", 0, 1},
	{"episode_remaining", "(steps - step) / steps", 0, 1},
	{"time_above_0_95", "steps above 0.95 / steps", 0, 1},
	{"pending", "waiting requests / queue capacity", 0, 1},
	{"pending_growth", "change of waiting requests / queue capacity", -1, 1},
	{"oldest_wait", "age of the oldest waiting request / max wait", 0, 1},
	{"pending_demand", "min(private prompt memory of waiting requests, 4 budget) / budget", 0, 4},
	{"live", "live sequences / slots", 0, 1},
	{"generating", "generating sequences / slots", 0, 1},
	{"compressed", "int8 and int4 sequences / slots", 0, 1},
	{"swapped", "swapped sequences / slots", 0, 1},
	{"shared", "min(shared prefix memory, 2 budget) / budget", 0, 2},
	{"failures", "min(failures, 16) / 16", 0, 1},
	{"throughput", "min(tokens, norm) / norm", 0, 1},
	{"latency", "min(swap latency, 1.5) / 1.5", 0, 1},
}

var slotFeatures = [SlotFeatures]Feature{
	{"quant", "1, 0.5 or 0.25 by level; 0 for an empty slot", 0, 1},
	{"cost", "min(private memory, 2 budget) * (1 / budget); 0 while swapped", 0, 2},
	{"reclaim", "min(memory that evicting would free, 2 budget) * (1 / budget)", 0, 2},
	{"progress", "tokens cached / target tokens", 0, 1},
	{"rate", "min(rate, 128) / 128", 0, 1},
	{"priority", "priority percent * (1 / 100)", 0, 1},
	{"eviction_value", "eviction percent / 100", 0, 1},
	{"phase", "idle 0, prefill 0.25, decode 0.5, reasoning 0.75", 0, 0.75},
	{"hotness", "hotness * (1 / 255)", 0, 1},
	{"age", "min(step - last access, 16) / 16", 0, 1},
	{"prefix", "shared prefix id / 8", 0, 0.875},
	{"swapped", "1 while in CPU memory", 0, 1},
}

// Tables of float32 values, each rounded once.
var (
	percentOf  = multiples[[128]float32](1.0 / 100) // priorities
	hotnessOf  = multiples[[256]float32](1.0 / 255)
	rateOf     = quotients[[256]float32](128)
	ageOf      = quotients[[32]float32](16)
	prefixOf   = quotients[[8]float32](8)
	quantOf    = [4]float32{1, 0.5, 0.25, 0}
	evictionOf = evictionValues()
	phaseOf    = phaseValues()
	swappedOf  = [2]float32{0, 1}
	pageCost   = [8]uint8{4, 2, 1} // by quantisation level; the upper half is swapped
)

// phaseValues is indexed by bits 3 to 7 of a slot's code.
func phaseValues() (t [32]float32) {
	for code := range t {
		prefill, active, reasoning := code>>3&1 == 1, code>>4&1 == 1, kv.BlockType(code&7) == kv.Reasoning
		switch {
		case prefill:
			t[code] = 0.25
		case active && reasoning:
			t[code] = 0.75
		case active:
			t[code] = 0.5
		}
	}
	return t
}

func quotients[T [8]float32 | [32]float32 | [128]float32 | [256]float32](d float32) (t T) {
	for i := range len(t) {
		t[i] = float32(i) / d
	}
	return t
}

func multiples[T [128]float32 | [256]float32](unit float32) (t T) {
	for i := range len(t) {
		t[i] = float32(i) * unit
	}
	return t
}

func evictionValues() (t [8]float32) {
	for i := range kv.NumBlockTypes {
		t[i] = float32(kv.BlockType(i).EvictionPercent()) / 100
	}
	return t
}

func ratio(a, b uint32) float32 { return float32(a) / float32(b) }

// observe writes the environment's whole observation row; section 10 of the rules.
func (v *env) observe(row []float32) {
	v.observeGlobals((*[GlobalFeatures]float32)(row))
	inv := float32(1) / float32(v.Episode.BudgetQP)
	row = row[GlobalFeatures:]
	if v.rules.serving != nil {
		v.observeServingSlots(row, inv)
		return
	}
	extra, gain := v.lastHolders()
	for w := range v.blocks {
		n := min(64, v.rules.slots-64*w)
		v.observeBlock(&v.blocks[w], row[64*w*SlotFeatures:][:n*SlotFeatures], inv, extra[w&3], &gain)
	}
}

// observeServingSlots writes the slots' rows of the serving profile; rule 13.22.
func (v *env) observeServingSlots(row []float32, inv float32) {
	extra, gain := v.lastHoldersServing()
	for w := range v.blocks {
		n := min(64, v.rules.slots-64*w)
		rows := row[64*w*SlotFeatures:][:n*SlotFeatures]
		v.observeBlock(&v.blocks[w], rows, inv, extra[w&3], &gain)
		for m := v.lanes[w].Out | v.lanes[w].In; m != 0; m &= m - 1 {
			rows[bits.TrailingZeros64(m)*SlotFeatures+11] = 0.5
		}
	}
}

func (v *env) observeGlobals(g *[GlobalFeatures]float32) {
	r := v.rules
	used, e := v.usedQP(), &v.Episode
	var live, active, compressed, swapped int
	for w := range v.blocks {
		b := &v.blocks[w]
		live += bits.OnesCount64(b.Alive)
		active += bits.OnesCount64(b.Active)
		compressed += bits.OnesCount64(b.Int8 | b.Int4)
		swapped += bits.OnesCount64(b.Swapped)
	}
	oldest := int32(0)
	if v.QueueLen > 0 && r.serving == nil {
		oldest = v.Step - birth(v.queue[0])
	}
	slots, steps, queue := float32(r.slots), float32(r.steps), float32(r.queueCap)
	g[0] = ratio(min(used, 2*e.BudgetQP), e.BudgetQP)
	g[1] = ratio(e.BudgetQP, e.CapacityQP)
	g[2] = float32(r.steps-v.Step) / steps
	g[3] = float32(v.Counters.PressureSteps) / steps
	g[4] = float32(v.QueueLen) / queue
	g[5] = float32(v.Growth) / queue
	g[6] = float32(oldest) / float32(r.maxWait)
	g[7] = ratio(min(v.PendingQP, 4*e.BudgetQP), e.BudgetQP)
	g[8] = float32(live) / slots
	g[9] = float32(active) / slots
	g[10] = float32(compressed) / slots
	g[11] = float32(swapped) / slots
	g[12] = ratio(min(v.SharedQP, 2*e.BudgetQP), e.BudgetQP)
	g[13] = float32(min(v.Counters.Failures, 16)) / 16
	g[14] = ratio(uint32(min(v.Tokens, uint64(e.TokenNorm))), e.TokenNorm)
	g[15] = float32(min(v.LatencyMilli, 1500)) / 1500
	if r.serving != nil {
		v.observeServing(g)
	}
}

// observeServing writes the global values that mean something else in the serving profile; rule 13.22.
func (v *env) observeServing(g *[GlobalFeatures]float32) {
	r, e := v.rules, &v.Episode
	queue, oldest := int32(r.queueCap), max(0, v.Step-v.tally.Oldest)
	g[4] = float32(min(v.QueueLen, queue)) / float32(queue)
	g[5] = float32(max(-queue, min(queue, v.Growth))) / float32(queue)
	g[6] = float32(min(oldest, r.maxWait)) / float32(r.maxWait)
	g[14] = float32(min(v.tally.Goodput, e.GoodNorm)) / float32(e.GoodNorm)
	most := uint64(r.maxWait) * uint64(e.RequestNorm)
	g[15] = float32(min(uint64(v.tally.FirstWaits), most)) / float32(most)
}

// lastHoldersServing is lastHolders where a prefix has a level of its own: the only one who holds it.
func (v *env) lastHoldersServing() (extra [4]uint64, gain [8]uint32) {
	for p := 1; p <= kv.MaxPrefixes; p++ {
		if v.PrefixMul[p] == 0 {
			continue
		}
		n := 0
		var mask [4]uint64
		for w := range v.blocks {
			mask[w&3] = v.blocks[w].Members[p-1] &^ v.blocks[w].Swapped
			n += bits.OnesCount64(mask[w&3])
		}
		if n == 1 {
			gain[p] = uint32(v.Episode.PrefixPages[p]) * uint32(v.PrefixMul[p])
			for w := range extra {
				extra[w] |= mask[w]
			}
		}
	}
	return extra, gain
}

// lastHolders finds, for every shared prefix, the slot whose eviction would free or cheapen the prefix's pages, because
// it alone holds them at their present level: a bit in extra for the slot, the quarter pages it would free in gain.
func (v *env) lastHolders() (extra [4]uint64, gain [8]uint32) {
	for p := 1; p <= int(v.Episode.NumPrefixes) && p <= kv.MaxPrefixes; p++ {
		var count [3]int
		var mask [3][4]uint64
		for w := range v.blocks {
			b := &v.blocks[w]
			r := b.Members[p-1] &^ b.Swapped
			if r == 0 {
				continue
			}
			f, i8, i4 := r&^(b.Int8|b.Int4), r&b.Int8, r&b.Int4
			count[0] += bits.OnesCount64(f)
			count[1] += bits.OnesCount64(i8)
			count[2] += bits.OnesCount64(i4)
			mask[0][w&3], mask[1][w&3], mask[2][w&3] = f, i8, i4
		}
		top := 0
		for top < 2 && count[top] == 0 {
			top++
		}
		if count[top] != 1 {
			continue
		}
		next := uint32(0)
		for q := 2; q > top; q-- {
			if count[q] != 0 {
				next = kv.Quant(q).QuarterPages()
			}
		}
		gain[p] = uint32(v.Episode.PrefixPages[p]) * (kv.Quant(top).QuarterPages() - next)
		for w := range extra {
			extra[w] |= mask[top][w]
		}
	}
	return extra, gain
}

// observeBlock writes the rows of up to 64 slots. Everything is cleared first, with the widest stores there are, and only
// live slots are visited then: a test a slot would be a branch that nothing predicts, and where the row is far away in
// memory, wide stores fetch it faster (1.2 times the speed of clearing empty slots only, at 4,096 environments).
func (v *env) observeBlock(b *block, row []float32, inv float32, extra uint64, gain *[8]uint32) {
	clear(row)
	if len(row) < SlotFeatures {
		return
	}
	slots := unsafe.Slice((*[SlotFeatures]float32)(unsafe.Pointer(&row[0])), len(row)/SlotFeatures)
	var codes [64]uint8
	b.codes(&codes)
	step, limit, pages := v.Step, 2*v.Episode.BudgetQP, &v.Episode.PrefixPages
	for m := b.Alive; m != 0; m &= m - 1 {
		s := uint(bits.TrailingZeros64(m)) & 63
		f := &slots[s]
		code := codes[s]
		prefix := b.Prefix[s] & kv.MaxPrefixes
		tokens := b.Tokens[s]
		cost := (kv.Pages(tokens) - uint32(pages[prefix])) * uint32(pageCost[code&7])
		share := float32(min(cost, limit)) * inv
		f[0] = quantOf[code&3]
		f[1] = share
		f[2] = share
		f[3] = float32(tokens) / float32(tokens+uint32(b.Remaining[s]))
		f[4] = rateOf[uint8(min(b.Rate[s], 128))]
		f[5] = percentOf[b.Priority[s]&127]
		f[6] = evictionOf[code>>3&7]
		f[7] = phaseOf[code>>3]
		f[8] = hotnessOf[b.Hotness[s]]
		f[9] = ageOf[min(uint32(step-int32(b.LastAccess[s])), 16)&31]
		f[10] = prefixOf[prefix]
		f[11] = swappedOf[code>>2&1]
	}
	for m := extra & b.Alive; m != 0; m &= m - 1 { // at most one slot a prefix
		s := uint(bits.TrailingZeros64(m)) & 63
		reclaim := v.privatePages(b, s)*b.quant(s).QuarterPages() + gain[b.Prefix[s]&kv.MaxPrefixes]
		slots[s][2] = float32(min(reclaim, limit)) * inv
	}
}

// codes packs what eight planes say of a slot into one byte for each of the 64, bit 0 to 7: int8, int4, swapped, the
// three bits of the type, prefill, active. Eight slots at a time, as an 8 by 8 matrix of bits that is transposed.
func (b *block) codes(out *[64]uint8) {
	for i := uint(0); i < 64; i += 8 {
		if b.Alive>>i&0xFF == 0 {
			continue
		}
		x := b.Int8>>i&0xFF | b.Int4>>i&0xFF<<8 | b.Swapped>>i&0xFF<<16 | b.Type0>>i&0xFF<<24 |
			b.Type1>>i&0xFF<<32 | b.Type2>>i&0xFF<<40 | b.Prefill>>i&0xFF<<48 | b.Active>>i<<56
		t := (x ^ x>>7) & 0x00AA00AA00AA00AA
		x ^= t ^ t<<7
		t = (x ^ x>>14) & 0x0000CCCC0000CCCC
		x ^= t ^ t<<14
		t = (x ^ x>>28) & 0x00000000F0F0F0F0
		x ^= t ^ t<<28
		store64(out, int(i), x)
	}
}

// phase reads the phase of live slot s.
func (b *block) phase(s uint) kv.Phase {
	active := b.Active >> (s & 63) & 1
	thinking := b.reasoning() >> (s & 63) & active
	return kv.Phase(b.Prefill>>(s&63)&1 | active<<1 | thinking)
}

// maskRow writes the action mask of one environment: four bytes a slot, one for every op; rule 8.1. A nil alive of a slot
// leaves keep alone possible.
func (v *env) maskRow(row []uint8) {
	for w := range v.blocks {
		evict, compress, swap := v.allowed(w)
		swap = v.swappable(w, swap)
		n := min(64, v.rules.slots-64*w)
		out := row[64*w*kv.NumOps:][:n*kv.NumOps]
		for s := uint(0); len(out) >= kv.NumOps; s++ {
			m := (*[kv.NumOps]uint8)(out)
			out = out[kv.NumOps:]
			m[0] = 1
			m[1] = uint8(evict >> (s & 63) & 1)
			m[2] = uint8(compress >> (s & 63) & 1)
			m[3] = uint8(swap >> (s & 63) & 1)
		}
	}
}
