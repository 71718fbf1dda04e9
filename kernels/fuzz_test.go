package kernels_test

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"

	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/kv"
	"github.com/stretchr/testify/require"
)

// fuzzLevels makes inputs from fuzzed bytes and requires that every level gives what the reference gives for them. run gets a copy of
// the input, makes it keep what the kernels' documentation asks for, and returns all that they wrote.
func fuzzLevels[T any](f *testing.F, seed func(r *rand.Rand, in *T), run func(in T) []any) {
	r := random(22)
	for range 8 {
		var in T
		seed(r, &in)
		data, err := binary.Append(nil, binary.LittleEndian, &in)
		require.NoError(f, err)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var in T
		fillFrom(data, &in)
		before := kernels.Active()
		defer func() { require.NoError(t, kernels.Use(before)) }()
		var want []any
		for _, level := range kernels.Levels() {
			require.NoError(t, kernels.Use(level))
			got := run(in)
			if level == kernels.Generic {
				want = got
				continue
			}
			for i := range want {
				require.Equal(t, want[i], got[i], "%s, result %d", level, i)
			}
		}
	})
}

// seedBlock starts a corpus from blocks as the other tests draw them.
func seedBlock(r *rand.Rand, b *kernels.Block, pages *[8]uint16) {
	*pages = randomPages(r)
	*b = *randomBlock(r, pages)
}

// repair makes a block of arbitrary bytes keep the invariants of one, and the limits of its columns.
func repair(b *kernels.Block, pages *[8]uint16, step int16) {
	pages[0] = 0
	for _, plane := range []*uint64{&b.Swapped, &b.Type0, &b.Type1, &b.Type2, &b.Int8, &b.Int4, &b.Prefill, &b.Active} {
		*plane &= b.Alive
	}
	b.Type2 &^= b.Type0 | b.Type1
	b.Int4 &^= b.Int8
	b.Active &^= b.Prefill
	for s := range kernels.Lanes {
		b.Prefix[s] &= kv.MaxPrefixes
		b.Priority[s] %= 101
		b.Tokens[s] = uint32(pages[b.Prefix[s]])*kv.PageTokens + b.Tokens[s]%(1<<24+1)
		b.LastAccess[s] = min(b.LastAccess[s], step)
	}
	members(b)
}

func repairTables(t *kernels.RequestTables) {
	for i := range t.Pages {
		t.Pages[i], t.Output[i] = max(1, t.Pages[i]), max(1, t.Output[i])
	}
	for i := range t.Types {
		t.Types[i] &= 0xFF
	}
	slices.Sort(t.Types[:])
}

func FuzzAdvance(f *testing.F) {
	type input struct {
		Block       kernels.Block
		Pages       [8]uint16
		Step        int16
		Used, Limit uint32
		Tight       bool
	}
	fuzzLevels(f, func(r *rand.Rand, in *input) {
		seedBlock(r, &in.Block, &in.Pages)
		in.Step, in.Used, in.Limit, in.Tight = 100, numbers(r, 1<<28), numbers(r, 1<<28), r.IntN(2) == 0
	}, func(in input) []any {
		repair(&in.Block, &in.Pages, in.Step)
		in.Used, in.Limit = in.Used%(1<<28+1), in.Limit%(1<<28+1)
		if in.Tight { // room for a few pages only
			in.Limit = min(1<<28, in.Used+in.Limit%64)
		}
		var a kernels.Advanced
		kernels.Advance(&in.Block, &in.Pages, in.Step, in.Used, in.Limit, &a)
		return []any{a, in.Block}
	})
}

func FuzzDecode(f *testing.F) {
	type input struct {
		Block kernels.Block
		Pages [8]uint16
		Set   uint64
		First uint64
		Late  uint64
		N     uint16
		Step  int16
		Room  uint32
		Mul   [8]uint8
		Worth [8]uint32
		Due   [kernels.Lanes]int16
	}
	fuzzLevels(f, func(r *rand.Rand, in *input) {
		seedBlock(r, &in.Block, &in.Pages)
		in.Set, in.First, in.Late, in.N, in.Step, in.Room = plane(r), plane(r), plane(r), uint16(1+r.IntN(60)), 100, r.Uint32N(600)
		mul, worth := randomWorth(r)
		in.Mul, in.Worth = *mul, *worth
	}, func(in input) []any {
		repair(&in.Block, &in.Pages, in.Step)
		for i := range in.Mul {
			in.Mul[i], in.Worth[i] = []uint8{0, 1, 2, 4}[in.Mul[i]&3], in.Worth[i]%(1<<25)
		}
		set := in.Set & in.Block.Active &^ in.Block.Swapped
		var d kernels.Decoded
		context, due := kernels.Sum(&in.Block.Tokens, in.Set), kernels.Due(&in.Due, in.Set, in.Step)
		lane, ledger := kernels.Lane{First: in.First, Late: in.Late, Born: in.Due}, kernels.Ledger{Step: int32(in.Step), PrefixMul: in.Mul}
		for s, age := range in.Due {
			lane.Ref[s] = uint32(age) & 3
		}
		ok := kernels.Decode(&in.Block, &lane, &ledger, set, uint32(in.N), in.Step, in.Room, &in.Worth, &d)
		return []any{ok, d, in.Block, lane, ledger, context, due}
	})
}

func FuzzPrefixes(f *testing.F) {
	type input struct {
		Blocks [4]kernels.Block
		Pages  [8]uint16
		Few    uint64 // leaves only these alive, so that some hold their prefix alone
		N      uint8
	}
	fuzzLevels(f, func(r *rand.Rand, in *input) {
		for i := range in.Blocks {
			seedBlock(r, &in.Blocks[i], &in.Pages)
		}
		in.Few, in.N = plane(r), uint8(r.Uint32())
	}, func(in input) []any {
		for i := range in.Blocks {
			in.Blocks[i].Alive &= in.Few
			repair(&in.Blocks[i], &in.Pages, 0)
		}
		var one, s kernels.Shared
		kernels.Prefixes(&in.Blocks[0], 1, &in.Pages, &one)
		kernels.Prefixes(&in.Blocks[0], 1+int(in.N&3), &in.Pages, &s)
		return []any{one, s}
	})
}

func FuzzAdmit(f *testing.F) {
	type input struct {
		Queue                    [72]uint64
		Needs                    [72]uint32
		Extra                    [8]uint32
		Used, Room               uint32
		Free, First, N, Old, Put uint8
	}
	fuzzLevels(f, func(r *rand.Rand, in *input) {
		for i := range in.Queue {
			in.Queue[i], in.Needs[i] = r.Uint64(), numbers(r, 1<<12)|uint32(r.IntN(8))<<kernels.DemandShift
		}
		in.Used, in.Room, in.Free, in.First, in.N = r.Uint32N(1<<20), r.Uint32N(20000), uint8(r.IntN(64)), uint8(r.IntN(33)), uint8(r.IntN(33))
	}, func(in input) []any {
		for i := range in.Needs {
			in.Needs[i] &= 8<<kernels.DemandShift - 1
		}
		for p := range in.Extra {
			in.Extra[p] %= 4*0xFFFF + 1
		}
		in.Extra[0] = 0
		first, n := int(in.First%33), int(in.N%33)
		old, kept := int(in.Old)%(n+1), int(in.Put)%(first+1)
		if in.Put&1 == 0 {
			kept = first
		}
		in.Used %= 1 << 28
		a := kernels.Admission{Extra: &in.Extra, Used: in.Used, Budget: in.Used + in.Room%(1<<20) - min(in.Used, 7), Free: uint32(in.Free)}
		end := kernels.Admit(in.Queue[:], in.Needs[:], first, n, old, kept, &a)
		clear(a.Words[a.Taken:])
		return []any{end, a, in.Queue[:end], in.Needs[:end], in.Queue[first+32:], in.Needs[first+32:]}
	})
}

func lines[T float32 | uint8](n int) (values, all []T) {
	all = make([]T, n+128)
	size := int(unsafe.Sizeof(all[0]))
	head := int(-uintptr(unsafe.Pointer(&all[0]))&63) / size
	all = all[head : head+n+16]
	return all[:n:n], all
}

func FuzzObservation(f *testing.F) {
	type input struct {
		Block         kernels.Block
		Pages         [8]uint16
		Gain          [8]uint32
		Last, Moving  uint64
		Budget        uint32
		Step          int16
		Slots, Stride uint8
		Stream        bool
	}
	fuzzLevels(f, func(r *rand.Rand, in *input) {
		seedBlock(r, &in.Block, &in.Pages)
		in.Last, in.Moving, in.Budget, in.Step = plane(r), plane(r), numbers(r, 1<<26), 100
		in.Slots, in.Stride, in.Stream = uint8(r.IntN(4)), uint8(r.IntN(4)), r.IntN(2) == 0
	}, func(in input) []any {
		slots := 16 * (1 + int(in.Slots&3))
		in.Block.Alive &= ^uint64(0) >> (64 - slots)
		repair(&in.Block, &in.Pages, in.Step)
		for p := range in.Gain {
			in.Gain[p] %= 4*0xFFFF + 1
		}
		in.Gain[0] = 0
		budget := 1 + in.Budget%(1<<28)
		v := &kernels.View{PrefixPages: &in.Pages, Gain: &in.Gain, Last: in.Last, Moving: in.Moving, Limit: 2 * budget, Inv: 1 / float32(budget), Step: int32(in.Step)}
		stride := slots + 16*int(in.Stride&3)
		rows, allRows := lines[float32](slots * kernels.SlotFeatures)
		columns, allColumns := lines[float32](stride * kernels.SlotFeatures)
		byteRows, allByteRows := lines[uint8](slots * kernels.SlotFeatures)
		byteColumns, allByteColumns := lines[uint8](stride * kernels.SlotFeatures)
		kernels.Rows(rows, &in.Block, v, in.Stream)
		kernels.Columns(columns, stride, slots, &in.Block, v, in.Stream)
		kernels.ByteRows(byteRows, &in.Block, v)
		kernels.ByteColumns(byteColumns, stride, slots, &in.Block, v)
		kernels.Fence()
		return []any{bitsOf(allRows), bitsOf(allColumns), allByteRows, allByteColumns, in.Block}
	})
}

func FuzzNewcomers(f *testing.F) {
	type input struct {
		Block   kernels.Block
		Pages   [8]uint16
		Tables  kernels.RequestTables
		Words   [8]uint64
		Joins   [8]uint8
		Last    int16
		Hotness uint8
		Take    uint8
		Count   uint8
		System  uint8
	}
	fuzzLevels(f, func(r *rand.Rand, in *input) {
		seedBlock(r, &in.Block, &in.Pages)
		in.Tables = *randomTables(r)
		for i := range in.Words {
			in.Words[i] = r.Uint64()
		}
		in.Last, in.Take, in.Count, in.System = 100, uint8(r.Uint32()), uint8(r.IntN(9)), uint8(r.IntN(8))
	}, func(in input) []any {
		repair(&in.Block, &in.Pages, in.Last)
		repairTables(&in.Tables)
		var requests, initials kernels.Newcomers
		kernels.Requests(&in.Words, &in.Tables, &in.Pages, in.Last, in.Hotness, &requests)
		kernels.Initials(new([8]uint64), in.Words[0], &in.Tables, &in.Pages, int(in.System&7), &initials)

		// The lowest empty slots, as many as there are newcomers, or fewer newcomers if there are not that many.
		lowest := func(n int) (slots uint64) {
			for free := ^in.Block.Alive; n > 0; n-- {
				slots |= free & -free
				free &= free - 1
			}
			return slots
		}
		empty := bits.OnesCount64(^in.Block.Alive)
		take := in.Take
		for bits.OnesCount8(take) > empty {
			take &= take - 1
		}
		count := min(int(in.Count%9), empty)
		entered, placed, first := in.Block, in.Block, in.Block
		e := kernels.Enter(&entered, lowest(count), &in.Words, count, &in.Tables, &in.Pages, in.Last, &in.Joins)
		p := kernels.Place(&placed, lowest(bits.OnesCount8(take)), &initials, take)
		q := kernels.Place(&first, lowest(count), &requests, uint8(1<<count-1))
		return []any{requests, initials, e, p, q, entered, placed, first}
	})
}

func FuzzDraws(f *testing.F) {
	type input struct {
		Tables             kernels.RequestTables
		Base, Stamp, Count uint64
		Thresholds         [8]uint16
		Lanes, Room        uint8
	}
	fuzzLevels(f, func(r *rand.Rand, in *input) {
		in.Tables, in.Base, in.Stamp, in.Count = *randomTables(r), r.Uint64(), r.Uint64(), r.Uint64()
		for i := range in.Thresholds {
			in.Thresholds[i] = uint16(r.Uint32())
		}
		in.Lanes, in.Room = uint8(r.IntN(4)), uint8(r.IntN(33))
	}, func(in input) []any {
		repairTables(&in.Tables)
		stamp := in.Stamp &^ (1<<48 - 1)
		var drawn, words, arrived [8]uint64
		var needs, needed [8]uint32
		kernels.Draws(&drawn, in.Base)
		kernels.Arrivals(&words, &needs, in.Base, stamp, &in.Tables)
		n, qp := kernels.Arrive(&arrived, &needed, in.Base, stamp, &in.Tables, in.Count, 1+int(in.Lanes&3), &in.Thresholds, int(in.Room%33))
		return []any{drawn, words, needs, arrived, needed, n, qp, kernels.Counts(in.Count, &in.Thresholds)}
	})
}

func FuzzPlanes(f *testing.F) {
	type input struct {
		Block                      kernels.Block
		Ops                        [kernels.Lanes]uint8
		Evict, Compress, Swap, Any uint64
		Joins                      [8]uint8
		Step                       int16
		Groups                     uint8
	}
	fuzzLevels(f, func(r *rand.Rand, in *input) {
		var pages [8]uint16
		seedBlock(r, &in.Block, &pages)
		for s := range in.Ops {
			in.Ops[s] = uint8(r.IntN(6))
		}
		in.Evict, in.Compress, in.Swap, in.Any, in.Joins = plane(r), plane(r), plane(r), plane(r), [8]uint8{1, 1, 2, 5, 0, 32}
	}, func(in input) []any {
		repair(&in.Block, new([8]uint16), in.Step)
		lo, hi, over := kernels.OpPlanes(&in.Ops)
		heat := in.Block.Hotness
		kernels.Heat(&heat, in.Any)
		kernels.Touch(&in.Block, in.Any, &in.Joins, in.Step)
		mask, all := lines[uint8](64 * (1 + int(in.Groups&3)))
		kernels.MaskRows(mask, in.Evict, in.Compress, in.Swap)
		return []any{lo, hi, over, heat, in.Block, all}
	})
}

func FuzzGlobals(f *testing.F) {
	type input struct {
		Num, Den                     [16]int32
		Budget, Capacity, Norm, Most uint32
		Stream                       bool
	}
	fuzzLevels(f, func(r *rand.Rand, in *input) {
		for i := range in.Num {
			in.Num[i], in.Den[i] = r.Int32(), r.Int32()
		}
		in.Budget, in.Capacity, in.Norm, in.Most = r.Uint32(), r.Uint32(), r.Uint32(), r.Uint32()
	}, func(in input) []any {
		for i, x := range in.Den {
			in.Den[i] = max(1, x&0x7FFFFFFF)
		}
		positive := func(x uint32) uint32 { return max(1, x&0x7FFFFFFF) }
		globals, all := lines[float32](16)
		kernels.Globals((*[16]float32)(globals), &in.Num, &in.Den, positive(in.Budget), positive(in.Capacity), positive(in.Norm), positive(in.Most), in.Stream)
		kernels.Fence()
		return []any{bitsOf(all)}
	})
}
