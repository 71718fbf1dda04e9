// Package kv holds the words of KV-cache management that every other package shares: block types, quantisation,
// phases, operations, and the page arithmetic. Everything here is an integer; see docs/simulator.md, section 1.
package kv

// PageTokens is the number of tokens in one page.
const PageTokens = 128

// FP16QuarterPages is the cost of one fp16 page. Memory is counted in quarter pages, so that every quantisation
// level's cost is an integer (fp16 4, int8 2, int4 1).
const FP16QuarterPages = 4

// MaxPrefixes is the largest number of shared prefixes in one episode; prefix 0 means "none".
const MaxPrefixes = 7

// Pages returns the number of pages that hold the given number of tokens.
func Pages(tokens uint32) uint32 { return (tokens + PageTokens - 1) / PageTokens }

// BlockType says what a sequence's cache holds.
type BlockType uint8

// The block types, in the order of their eviction value.
const (
	System BlockType = iota
	Context
	Generation
	Reasoning
	Ephemeral
	NumBlockTypes = 5
)

var blockTypeNames = [NumBlockTypes]string{"system", "context", "generation", "reasoning", "ephemeral"}

func (t BlockType) String() string { return name(blockTypeNames[:], int(t)) }

// EvictionPercent is 100 times the eviction value: 0 is the worst block to evict, 100 the safest.
func (t BlockType) EvictionPercent() uint32 { return evictionPercent[t] }

var evictionPercent = [NumBlockTypes]uint32{0, 25, 50, 90, 100}

// RetentionTwentieths is 20 times (1 - eviction value): how much it is worth to still hold a block of this type.
func (t BlockType) RetentionTwentieths() uint32 { return 20 - evictionPercent[t]/5 }

// TokenWeight is what a token of a priority (percent) counts in the goodput of the serving profile; rule 13.18.
func TokenWeight(priority uint32) uint32 { return 50 + priority }

// Quant is the quantisation level of a sequence's cache.
type Quant uint8

// The quantisation levels; compression goes one up, never back.
const (
	FP16 Quant = iota
	INT8
	INT4
	NumQuants = 3
)

var quantNames = [NumQuants]string{"fp16", "int8", "int4"}

func (q Quant) String() string { return name(quantNames[:], int(q)) }

// QuarterPages is the cost of one page at this level.
func (q Quant) QuarterPages() uint32 { return FP16QuarterPages >> q }

// Phase says what a sequence is doing.
type Phase uint8

// The phases of a sequence.
const (
	Idle Phase = iota
	Prefill
	Decode
	Thinking
	NumPhases = 4
)

var phaseNames = [NumPhases]string{"idle", "prefill", "decode", "reasoning"}

func (p Phase) String() string { return name(phaseNames[:], int(p)) }

// Op is what a policy may do to one sequence in one step.
type Op uint8

// The operations.
const (
	Keep Op = iota
	Evict
	Compress
	Swap
	NumOps = 4
)

var opNames = [NumOps]string{"keep", "evict", "compress", "swap"}

func (o Op) String() string { return name(opNames[:], int(o)) }

// ParseOp returns the operation of that name.
func ParseOp(s string) (Op, bool) {
	for i, n := range opNames {
		if n == s {
			return Op(i), true
		}
	}
	return 0, false
}

func name(names []string, i int) string {
	if i < len(names) {
		return names[i]
	}
	return "invalid"
}
