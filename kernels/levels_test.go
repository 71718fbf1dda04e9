package kernels_test

import (
	"math/rand/v2"
	"testing"

	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/kv"
	"github.com/stretchr/testify/require"
)

// onEachLevel runs a test under every level but the reference; a level that this machine or build has not is a visible skip.
// Tests that use it must not be parallel: the level is the process's.
func onEachLevel(t *testing.T, test func(t *testing.T)) {
	before := kernels.Active()
	defer func() { require.NoError(t, kernels.Use(before)) }()
	for _, level := range []kernels.Level{kernels.AVX2, kernels.AVX512} {
		t.Run(level.String(), func(t *testing.T) {
			if err := kernels.Use(level); err != nil {
				t.Skip(err)
			}
			test(t)
		})
	}
}

// generic calls f under the reference.
func generic(f func()) {
	before := kernels.Active()
	if err := kernels.Use(kernels.Generic); err != nil {
		panic(err)
	}
	f()
	if err := kernels.Use(before); err != nil {
		panic(err)
	}
}

// rounds is how many random inputs a comparison tries.
const rounds = 3000

func random(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0x6B)) }

// plane draws a plane that is empty, full, sparse or even.
func plane(r *rand.Rand) uint64 {
	x := r.Uint64()
	switch r.IntN(6) {
	case 0:
		return 0
	case 1:
		return ^uint64(0)
	case 2:
		return x & r.Uint64() & r.Uint64()
	case 3:
		return x | r.Uint64()
	case 4:
		return x & (1<<r.IntN(64) - 1) // high lanes empty, as in most environments
	}
	return x
}

// numbers draws tokens and the like: small ones mostly, edges sometimes.
func numbers(r *rand.Rand, limit uint32) uint32 {
	switch r.IntN(8) {
	case 0:
		return limit
	case 1:
		return 0
	case 2:
		return r.Uint32N(limit + 1)
	case 3:
		return min(limit, 128*r.Uint32N(20)) // whole pages
	}
	return min(limit, r.Uint32N(4000))
}

// randomBlock draws a block that keeps the invariants a block has.
func randomBlock(r *rand.Rand, pages *[8]uint16) *kernels.Block {
	b := new(kernels.Block)
	b.Alive = plane(r)
	b.Swapped = b.Alive & plane(r)
	b.Int8 = b.Alive & plane(r)
	b.Int4 = b.Alive & plane(r) &^ b.Int8
	b.Prefill = b.Alive & plane(r) & r.Uint64()
	b.Active = b.Alive & plane(r) &^ b.Prefill
	maxRate := uint32([]int{0xFFFF, 8, 200}[r.IntN(3)])
	for s := range kernels.Lanes {
		b.Prefix[s] = uint8(r.IntN(8))
		b.Tokens[s] = uint32(pages[b.Prefix[s]])*kv.PageTokens + numbers(r, 1<<24)
		b.Remaining[s] = uint16(numbers(r, 0xFFFF))
		b.Rate[s] = uint16(numbers(r, maxRate))
		b.LastAccess[s] = int16(r.IntN(60) - 40)
		b.Priority[s] = uint8(r.IntN(101))
		b.Hotness[s] = uint8(r.Uint32())
		b.Cycle[s] = uint8(r.Uint32())
		if r.IntN(2) == 0 {
			b.Cycle[s] = b.Cycle[s]&^15 | uint8(r.IntN(3))
		}
		if b.Alive>>s&1 != 0 {
			t := uint64(r.IntN(kv.NumBlockTypes))
			b.Type0 |= t & 1 << s
			b.Type1 |= t >> 1 & 1 << s
			b.Type2 |= t >> 2 & 1 << s
		}
	}
	members(b)
	return b
}

func randomPages(r *rand.Rand) (p [8]uint16) {
	for i := 1; i < len(p); i++ {
		p[i] = uint16(numbers(r, 0xFFFF))
	}
	return p
}

func randomView(r *rand.Rand, pages *[8]uint16) *kernels.View {
	budget := 1 + numbers(r, 1<<26)
	v := &kernels.View{PrefixPages: pages, Last: plane(r), Moving: plane(r), Limit: 2 * budget, Inv: 1 / float32(budget), Step: int32(20 + r.IntN(4000)), Gain: new([8]uint32)}
	for i := 1; i < len(v.Gain); i++ {
		v.Gain[i] = numbers(r, 4*0xFFFF)
	}
	return v
}

// cut leaves no sequence beyond the first lanes.
func cut(b *kernels.Block, lanes int) {
	keep := ^uint64(0) >> (64 - lanes)
	for _, p := range []*uint64{&b.Alive, &b.Swapped, &b.Type0, &b.Type1, &b.Type2, &b.Int8, &b.Int4, &b.Prefill, &b.Active} {
		*p &= keep
	}
}

// members makes the prefixes' planes agree with the column.
func members(b *kernels.Block) {
	b.Members = [kv.MaxPrefixes]uint64{}
	for s, p := range b.Prefix {
		if p != 0 {
			b.Members[p-1] |= b.Alive & (1 << s)
		}
	}
}
