package kernels

import "github.com/kvgym/kvgym/kv"

// Ledger is what an environment counts and adds up.
type Ledger struct {
	Score           int64                     `unit:"2^-20"`
	Tokens          uint64                    `unit:"tokens"`
	Step            int32                     `unit:"steps done"`
	QueueLen        int32                     `unit:"requests"`
	Growth          int32                     `unit:"requests, change of the queue in the last step"`
	HeadroomTenths  int32                     `unit:"1/10"`
	PrivateQP       uint32                    `unit:"quarter pages"`
	SharedQP        uint32                    `unit:"quarter pages"`
	RetainedPrivate uint32                    `unit:"1/20 quarter pages"`
	RetainedShared  uint32                    `unit:"1/20 quarter pages"`
	PendingQP       uint32                    `unit:"quarter pages that waiting requests need for their private prompts"`
	LatencyMilli    uint32                    `unit:"1/1000"`
	RiskHundredths  uint32                    `unit:"1/100"`
	PrefixMul       [kv.MaxPrefixes + 1]uint8 `unit:"quarter pages a page of each shared prefix; rule 1.7"`
	PrefixWeight    [kv.MaxPrefixes + 1]uint8 `unit:"1/20, retention weight of each shared prefix; rule 9.6"`
	Counters        Counters                  `unit:"events"`
}

// Counters counts the events of an episode.
type Counters struct {
	Arrived       uint32 // requests
	Admitted      uint32 // requests
	Completed     uint32 // sequences
	Failures      uint32 // requests that waited MaxWait steps or found the queue full
	Rejected      uint32 // of Failures, those that found the queue full
	Evictions     uint32 // valid operations
	Compressions  uint32
	Swaps         uint32
	Invalid       uint32 // operations that could not be done
	SwapReads     uint32 // accesses to swapped sequences
	PressureSteps uint32 // steps above 95 % of the budget
	Forced        uint32 // serving: sequences that growth has preempted
	Late          uint32 // serving: turns whose first token came after the deadline
	FirstTokens   uint32 // serving: turns that have given their first token
}

// UsedQP is the memory in use, quarter pages.
func (l *Ledger) UsedQP() uint32 { return l.PrivateQP + l.SharedQP }

// Numerators are those of the observation's global values, rule 10.1, of which these are counted elsewhere: memory that may be used,
// tokens that make a throughput of 1, steps that the oldest request has waited, and how many lanes are alive, generate, are compressed and
// are swapped.
func (l *Ledger) Numerators(num *[16]int32, f *Frame, budget, norm uint32, oldest int32, live, active, compressed, swapped int) {
	num[0] = int32(min(l.UsedQP(), 2*budget))
	num[1] = int32(budget)
	num[2] = f.Steps - l.Step
	num[3] = int32(l.Counters.PressureSteps)
	num[4] = l.QueueLen
	num[5] = l.Growth
	num[6] = oldest
	num[7] = int32(min(l.PendingQP, 4*budget))
	num[8] = int32(live)
	num[9] = int32(active)
	num[10] = int32(compressed)
	num[11] = int32(swapped)
	num[12] = int32(min(l.SharedQP, 2*budget))
	num[13] = int32(min(l.Counters.Failures, 16))
	num[14] = int32(min(l.Tokens, uint64(norm)))
	num[15] = int32(min(l.LatencyMilli, MostLatency))
}

// MostLatency is the swap latency at which its observation ends, thousandths.
const MostLatency = 1500
