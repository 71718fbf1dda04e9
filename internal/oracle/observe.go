package oracle

import (
	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/scenario"
)

// Observation is the observation row in float32; rules 10.1 and 10.2. Every operation is rounded to float32 by an
// explicit conversion, so that nothing can be fused.
func (v *Env) Observation() []float32 {
	row := v.globals()
	for i := range v.Slots {
		row = append(row, v.slotFeatures(i)...)
	}
	return row
}

// quotient is one rounded division of two integers.
func quotient(a, b int) float32 { return float32(float32(a) / float32(b)) }

func (v *Env) globals() []float32 {
	var live, generating, compressed, swapped int
	for i := range v.Slots {
		e := &v.Slots[i]
		if !e.Alive {
			continue
		}
		live++
		if e.Phase == kv.Decode || e.Phase == kv.Thinking {
			generating++
		}
		if e.Quant != kv.FP16 {
			compressed++
		}
		if e.Swapped {
			swapped++
		}
	}
	oldest, demand := 0, 0
	for i, r := range v.Queue {
		if i == 0 {
			oldest = v.Step - r.Birth
		}
		demand += 4 * int(kv.Pages(v.source.Decode(&v.Episode, r.Word).PromptTokens))
	}
	budget, slots, queue := int(v.Episode.BudgetQP), len(v.Slots), v.queueCap
	waiting, growth := len(v.Queue), v.Growth
	throughput := quotient(int(min(v.Totals.Tokens, uint64(v.Totals.TokenNorm))), int(v.Totals.TokenNorm))
	latency := quotient(int(min(v.Totals.LatencyMilli, 1500)), 1500)
	if v.preset != nil { // rule 13.22
		oldest, demand = 0, 0
		for _, r := range v.Tickets {
			oldest = max(oldest, min(v.Step-r.Since, v.maxWait))
			demand += 4 * int(kv.Pages(r.Private))
		}
		waiting, growth = min(len(v.Tickets), queue), max(-queue, min(queue, v.Growth))
		s := &v.Totals.Serving
		throughput = quotient(int(min(s.Goodput, s.GoodNorm)), int(s.GoodNorm))
		most := int(s.MaxWait) * int(s.RequestNorm)
		latency = quotient(min(int(s.FirstWaits), most), most)
	}
	return []float32{
		quotient(min(int(v.Used()), 2*budget), budget),
		quotient(budget, int(v.Episode.CapacityQP)),
		quotient(v.Steps-v.Step, v.Steps),
		quotient(int(v.Count.PressureSteps), v.Steps),
		quotient(waiting, queue),
		quotient(growth, queue),
		quotient(oldest, v.maxWait),
		quotient(min(demand, 4*budget), budget),
		quotient(live, slots),
		quotient(generating, slots),
		quotient(compressed, slots),
		quotient(swapped, slots),
		quotient(min(int(v.SharedCost()), 2*budget), budget),
		quotient(min(int(v.Count.Failures), 16), 16),
		throughput,
		latency,
	}
}

func (v *Env) slotFeatures(slot int) []float32 {
	e := &v.Slots[slot]
	if !e.Alive {
		return make([]float32, 12)
	}
	limit := 2 * int(v.Episode.BudgetQP)
	inv := quotient(1, int(v.Episode.BudgetQP))
	share := func(qp uint32) float32 { return float32(float32(min(int(qp), limit)) * inv) }
	swapped := float32(0)
	switch {
	case e.Swapped:
		swapped = 1
	case e.Serving.Out || e.Serving.In:
		swapped = 0.5
	}
	return []float32{
		quotient(int(e.Quant.QuarterPages()), 4),
		share(v.Cost(e)),
		share(v.Cost(e) + v.sharedGain(e)),
		quotient(int(e.Tokens), int(e.Tokens+e.Remaining)),
		quotient(int(min(e.Rate, 128)), 128),
		float32(float32(e.Priority) * quotient(1, 100)),
		quotient(int(e.Type.EvictionPercent()), 100),
		quotient(int(e.Phase), 4),
		float32(float32(e.Hotness) * quotient(1, 255)),
		quotient(min(v.Step-e.LastAccess, 16), 16),
		quotient(int(e.Prefix), 8),
		swapped,
	}
}

// sharedGain is what the shared pages of a sequence would get cheaper by without it; rule 10.2.
func (v *Env) sharedGain(e *Entry) uint32 {
	if e.Swapped || e.Prefix == 0 {
		return 0
	}
	with := v.PrefixMultiplier(e.Prefix) // in the serving profile the level is the prefix's own, so the gain is all or nothing
	e.Swapped = true
	without := v.PrefixMultiplier(e.Prefix)
	e.Swapped = false
	return uint32(v.Episode.PrefixPages[e.Prefix]) * (with - without)
}

// Mask is the action mask; rule 8.1.
func (v *Env) Mask() []uint8 {
	var out []uint8
	for i := range v.Slots {
		e := &v.Slots[i]
		can := func(b bool) uint8 {
			if b {
				return 1
			}
			return 0
		}
		if v.preset != nil {
			out = append(out, 1, can(v.allowed(kv.Evict, i)), can(v.allowed(kv.Compress, i)), can(v.allowed(kv.Swap, i) && v.hostHas(i)))
			continue
		}
		out = append(out, 1, can(e.Alive), can(e.Alive && !e.Swapped && e.Quant != kv.INT4), can(e.Alive && !e.Swapped))
	}
	return out
}

// hostHas tells whether the CPU has memory for a sequence that is asked to leave; rule 13.14.
func (v *Env) hostHas(slot int) bool {
	if v.Slots[slot].Swapped {
		return true
	}
	host := uint64(v.Cost(&v.Slots[slot]))
	for i := range v.Slots {
		host += uint64(v.hostCost(&v.Slots[i]))
	}
	return host <= v.hostLimit()
}

// Metrics are the metrics of rule 9.5.
func (v *Env) Metrics() []float32 {
	c := &v.Count
	return []float32{float32(v.Totals.Tokens), float32(c.Failures), quotient(int(v.Totals.LatencyMilli), 1000), float32(c.PressureSteps),
		float32(c.Arrived), float32(c.Admitted), float32(c.Completed), float32(c.Rejected), float32(c.Evictions), float32(c.Compressions),
		float32(c.Swaps), float32(c.Invalid), float32(c.SwapReads), quotient(int(v.Used()), int(v.Episode.BudgetQP)),
		float32(c.Forced), float32(c.Late), float32(c.FirstTokens), float32(v.Totals.Serving.FirstWaits), float32(v.Totals.Serving.WasteUS)}
}

// Payload is a waiting request without the step of its arrival.
func (w Waiting) Payload() scenario.Word { return w.Word & (1<<scenario.PayloadBits - 1) }
