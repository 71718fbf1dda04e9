package kv

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPages(t *testing.T) {
	for tokens, pages := range map[uint32]uint32{0: 0, 1: 1, 127: 1, 128: 1, 129: 2, 256: 2, 1 << 24: 1 << 17} {
		require.Equal(t, pages, Pages(tokens), "%d tokens", tokens)
	}
}

// The seed's tables.
func TestValues(t *testing.T) {
	for kind, percent := range map[BlockType]uint32{System: 0, Context: 25, Generation: 50, Reasoning: 90, Ephemeral: 100} {
		require.Equal(t, percent, kind.EvictionPercent(), kind)
		require.Equal(t, 100-percent, 5*kind.RetentionTwentieths(), kind)
	}
	for quant, cost := range map[Quant]uint32{FP16: 4, INT8: 2, INT4: 1} {
		require.Equal(t, cost, quant.QuarterPages(), quant)
	}
}

func TestNames(t *testing.T) {
	for op := range Op(NumOps) {
		parsed, ok := ParseOp(op.String())
		require.True(t, ok)
		require.Equal(t, op, parsed)
	}
	_, ok := ParseOp("Evict")
	require.False(t, ok)
	require.Equal(t, []string{"invalid", "invalid", "invalid", "invalid"}, []string{Op(4).String(), BlockType(5).String(), Quant(3).String(), Phase(4).String()})
}
