package vecenv

import (
	"encoding/json"
	"math/bits"

	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/scenario"
)

// Shape of an observation row: GlobalFeatures values, then SlotFeatures values for every slot.
const (
	GlobalFeatures = 16
	SlotFeatures   = kernels.SlotFeatures
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

// Scale is what a u8 observation multiplies the value by, less Low: 255 over its range.
func (f *Feature) Scale() float32 { return 255 / (f.High - f.Low) }

// Layout describes an observation row: the global values, then those of the slots in the given order.
type Layout struct {
	DType   string    `json:"dtype"`   // "float32" or "uint8"
	Order   string    `json:"order"`   // "slot-major" or "feature-major"
	Length  int       `json:"length"`  // values a row
	Slots   int       `json:"slots"`   // slots a row
	Globals []Feature `json:"globals"` // the first values of the row
	Slot    []Feature `json:"slot"`    // then these for every slot
	// Scales of the u8 observation, of the global values and of a slot's: byte = round((value - low) * scale). Absent for float32.
	GlobalScales []float32 `json:"global_scales,omitempty"`
	SlotScales   []float32 `json:"slot_scales,omitempty"`
}

// ObsLayout is the declaration of the float32, slot-major observation.
func ObsLayout(slots int) Layout { return LayoutOf(slots, ObsF32, SlotMajor) }

// LayoutOf is the one declaration of the observation; every face of kvgym reads it from here.
func LayoutOf(slots int, t ObsType, o ObsOrder) Layout {
	l := Layout{DType: t.String(), Order: o.String(), Length: ObsLen(slots), Slots: slots, Globals: globalFeatures[:], Slot: slotFeatures[:]}
	if t == ObsU8 {
		l.GlobalScales, l.SlotScales = scalesOf(globalFeatures[:]), scalesOf(slotFeatures[:])
	}
	return l
}

func scalesOf(features []Feature) []float32 {
	out := make([]float32, len(features))
	for i := range features {
		out[i] = features[i].Scale()
	}
	return out
}

// At is where a row has feature f of slot s.
func (l *Layout) At(s, f int) int {
	if l.Order == FeatureMajor.String() {
		return GlobalFeatures + f*l.Slots + s
	}
	return GlobalFeatures + s*SlotFeatures + f
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

func ratio(a, b uint32) float32 { return float32(a) / float32(b) }

// observe writes the environment's whole observation row; section 10 of the rules. The scratch holds the state of its prefixes. stream
// is for a row on whole cache lines only.
func (v *env) observe(row []float32, order ObsOrder, stream bool) {
	if v.rules.whole && order == SlotMajor {
		kernels.Observe(row, &v.seat, &v.rules.frame, &v.scratch.shared, stream)
		return
	}
	if v.rules.serving != nil && v.rules.width == 1 && order == SlotMajor && v.servingGlobals(&v.scratch.serving) {
		v.scratch.serving.Moving = v.lane(0).Out | v.lane(0).In // rule 13.22
		kernels.ObserveServing(row, &v.seat, &v.rules.frame, &v.scratch.serving, stream)
		return
	}
	o, slots := v.view(), v.rules.slots // first: its stores take some time until a kernel can load them as a whole
	v.countGlobals()
	globals := (*[GlobalFeatures]float32)(row)
	row = row[GlobalFeatures:]
	for w := range v.rules.width {
		v.lookAt(w)
		b, n := &v.block(w).Block, min(64, slots-64*w)
		if order == FeatureMajor {
			kernels.Columns(row[64*w:], slots, n, b, o, stream)
		} else {
			kernels.Rows(row[64*w*SlotFeatures:][:n*SlotFeatures], b, o, stream)
		}
	}
	v.observeGlobals(globals, stream)
}

// observeBytes writes the same row as bytes; rule 10.4.
func (v *env) observeBytes(row []uint8, order ObsOrder) {
	globals := &v.scratch.globals
	v.countGlobals()
	v.observeGlobals(globals, false)
	for i, x := range globals {
		row[i] = kernels.Byte(x, globalFeatures[i].Low, globalScales[i])
	}
	row = row[GlobalFeatures:]
	o, slots := v.view(), v.rules.slots
	for w := range v.rules.width {
		v.lookAt(w)
		b, n := &v.block(w).Block, min(64, slots-64*w)
		if order == FeatureMajor {
			kernels.ByteColumns(row[64*w:], slots, n, b, o)
		} else {
			kernels.ByteRows(row[64*w*SlotFeatures:][:n*SlotFeatures], b, o)
		}
	}
}

var globalScales = scalesOf(globalFeatures[:])

// view is what the kernels need to observe the slots.
func (v *env) view() *kernels.View {
	o, s := &v.scratch.view, &v.scratch.shared
	o.PrefixPages, o.Limit, o.Step = &v.Episode.PrefixPages, 2*v.Episode.BudgetQP, v.Step
	o.Inv = float32(1) / float32(v.Episode.BudgetQP)
	o.Moving = 0
	if v.rules.serving != nil {
		kernels.Holders(&v.block(0).Block, v.rules.width, &v.Episode.PrefixPages, &v.PrefixMul, s)
	}
	o.Gain = &s.Gain
	return o
}

// lookAt chooses the block that is observed next.
func (v *env) lookAt(w int) {
	v.scratch.view.Last = v.scratch.shared.Last[w&3]
	if v.rules.serving != nil {
		v.scratch.view.Moving = v.lane(w).Out | v.lane(w).In // rule 13.22
	}
}

// look makes an environment ready to be observed that has not just been stepped or reset.
func (v *env) look() {
	kernels.Prefixes(&v.block(0).Block, v.rules.width, &v.Episode.PrefixPages, &v.scratch.shared)
}

// countGlobals finds the numerators of the global values. observeGlobals divides them later: a wide load that meets the narrow stores
// of this function on their way would wait for them.
func (v *env) countGlobals() {
	r, e := v.rules, &v.Episode
	var live, active, compressed, swapped int
	for w := range v.rules.width {
		b := v.block(w)
		live += bits.OnesCount64(b.Alive)
		active += bits.OnesCount64(b.Active)
		compressed += bits.OnesCount64(b.Int8 | b.Int4)
		swapped += bits.OnesCount64(b.Swapped)
	}
	oldest := int32(0)
	if r.serving == nil {
		oldest = v.oldestWait()
	}
	v.Numerators(&v.scratch.num, &r.frame, e.BudgetQP, e.TokenNorm, oldest, live, active, compressed, swapped)
	v.scratch.norm, v.scratch.most, v.scratch.wide = e.TokenNorm, kernels.MostLatency, false
	if r.serving != nil {
		v.countServing()
	}
}

// oldestWait is how long the oldest request of the seed profile waits, 0 if none does.
func (v *env) oldestWait() int32 {
	some := -v.QueueLen >> 31 // no branch: nothing could predict it
	return (v.Step - scenario.Birth(v.queue()[0])) & some
}

// observeGlobals writes the global values that countGlobals has prepared.
func (v *env) observeGlobals(row *[GlobalFeatures]float32, stream bool) {
	c, e := v.scratch, &v.Episode
	kernels.Globals(row, &c.num, &v.rules.frame.Den, e.BudgetQP, e.CapacityQP, c.norm, c.most, stream)
	if c.wide {
		row[14], row[15] = c.last[0], c.last[1]
	}
}

// newFrame holds what the kernels of a whole step need of the rules.
func (r *rules) newFrame() kernels.Frame {
	slots, steps, queue := int32(r.slots), r.steps, int32(r.queueCap)
	f := kernels.Frame{Steps: steps, MaxWait: r.maxWait, QueueCap: queue, Growth: r.growth, Slots: r.lastMask, Den: [GlobalFeatures]int32{0: 1, 1: 1, 2: steps, 3: steps, 4: queue, 5: queue, 6: r.maxWait, 7: 1, 8: slots, 9: slots, 10: slots, 11: slots,
		12: 1, 13: 16, 14: 1, 15: kernels.MostLatency}}
	f.Groups = r.slots / 16
	if r.drawn != nil {
		f.Tables = r.drawn.Tables()
	}
	return f
}

// countServing finds the numerators that mean something else in the serving profile, and their denominators; rule 13.22. What does not
// fit into 31 bits, in a long trace, it divides itself.
func (v *env) countServing() {
	c, g := v.scratch, &v.scratch.serving
	fits := v.servingGlobals(g)
	c.num[4], c.num[5], c.num[6] = g.QueueLen, g.Growth, g.Oldest
	if fits {
		c.num[14], c.num[15], c.norm, c.most = g.Good, g.Waits, g.Norm, g.Most
		return
	}
	e, most := &v.Episode, v.mostWaits()
	good, waits := min(v.tally.Goodput, e.GoodNorm), min(uint64(v.tally.FirstWaits), most)
	c.norm, c.most, c.wide = 1, 1, true
	c.last = [2]float32{float32(good) / float32(e.GoodNorm), float32(waits) / float32(most)}
}

// mostWaits is what waits for first tokens are measured by.
func (v *env) mostWaits() uint64 { return uint64(v.rules.maxWait) * uint64(v.Episode.RequestNorm) }

// servingGlobals finds what the global values of the serving profile count otherwise, and tells whether all of it fits into 31 bits. It
// stores field by field, as sit does it.
func (v *env) servingGlobals(g *kernels.ServingGlobals) (fits bool) {
	r, e, most := v.rules, &v.Episode, v.mostWaits()
	queue := int32(r.queueCap)
	g.QueueLen = min(v.QueueLen, queue)
	g.Growth = max(-queue, min(queue, v.Growth))
	g.Oldest = min(max(0, v.Step-v.tally.Oldest), r.maxWait)
	g.Good, g.Waits = int32(min(v.tally.Goodput, e.GoodNorm)), int32(min(uint64(v.tally.FirstWaits), most))
	g.Norm, g.Most = uint32(e.GoodNorm), uint32(most)
	return e.GoodNorm|most < 1<<31
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
	for w := range v.rules.width {
		evict, compress, swap := v.allowed(w)
		swap = v.swappable(w, swap)
		n := min(64, v.rules.slots-64*w)
		kernels.MaskRows(row[64*w*kv.NumOps:][:n*kv.NumOps], evict, compress, swap)
	}
}
