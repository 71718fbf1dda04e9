package kernels_test

import (
	"testing"

	"github.com/kvgym/kvgym/kernels"
)

// benchEach times a kernel under each level of this machine.
func benchEach(b *testing.B, f func()) {
	before := kernels.Active()
	defer func() { _ = kernels.Use(before) }()
	for _, level := range kernels.Levels() {
		b.Run("simd="+level.String(), func(b *testing.B) {
			_ = kernels.Use(level)
			for range b.N {
				f()
			}
		})
	}
}

// typical is a block as a step meets it: 26 sequences in the lowest slots, 18 of them generating.
func typical() (*kernels.Block, *kernels.View, *[8]uint16) {
	r := random(1)
	pages := &[8]uint16{0, 4, 5, 6, 7}
	b := randomBlock(r, pages)
	cut(b, 0)
	for s := range kernels.Lanes {
		b.Tokens[s], b.Remaining[s], b.Rate[s], b.Prefix[s] = 900+uint32(s), 40000, uint16(s%3), uint8(s%5)
		b.Tokens[s] += 128 * uint32(pages[b.Prefix[s]])
	}
	b.Alive = 1<<26 - 1
	b.Active = 0x2DB6DB6 & b.Alive
	b.Type0, b.Type1 = 0x1111111&b.Alive, 0x2222222&b.Alive
	b.Int8, b.Swapped = 0x0100100, 0x0020002
	for s := range 26 {
		if p := b.Prefix[s]; p != 0 {
			b.Members[p-1] |= 1 << s
		}
	}
	return b, &kernels.View{PrefixPages: pages, Limit: 2000, Inv: 1.0 / 1000, Step: 7, Gain: new([8]uint32)}, pages
}

func BenchmarkOpPlanes(b *testing.B) {
	ops := [64]uint8{3: 1, 17: 2}
	benchEach(b, func() { kernels.OpPlanes(&ops) })
}

func BenchmarkAct(b *testing.B) {
	block, _, pages := typical()
	ops := [64]uint8{3: 1, 17: 2, 5: 3}
	var a kernels.Acted
	start := *block
	benchEach(b, func() { *block = start; kernels.Act(block, &ops, pages, &a) })
}

func BenchmarkAdvance(b *testing.B) {
	block, _, pages := typical()
	var a kernels.Advanced
	start := *block
	benchEach(b, func() { *block = start; kernels.Advance(block, pages, 7, 100, 1<<28, &a) })
}

func BenchmarkPrefixes(b *testing.B) {
	block, _, pages := typical()
	var s kernels.Shared
	benchEach(b, func() { kernels.Prefixes(block, 1, pages, &s) })
}

func BenchmarkAdmit(b *testing.B) {
	queue, needs := make([]uint64, 40), make([]uint32, 40)
	a := kernels.Admission{Extra: new([8]uint32)}
	benchEach(b, func() {
		for i := range 5 {
			needs[i] = uint32(10 + 20*i)
		}
		a.Used, a.Budget, a.Free, a.Taken = 0, 70, 30, 0
		kernels.Admit(queue, needs, 0, 5, 1, 0, &a)
	})
}

func BenchmarkTouch(b *testing.B) {
	block, _, _ := typical()
	joins := [8]uint8{0, 1, 0, 2}
	benchEach(b, func() { kernels.Touch(block, 15, &joins, 9) })
}

func BenchmarkNewcomers(b *testing.B) {
	block, _, pages := typical()
	var words [8]uint64
	var needs [8]uint32
	var n kernels.Newcomers
	t := randomTables(random(2))
	b.Run("kernel=arrivals", func(b *testing.B) { benchEach(b, func() { kernels.Arrivals(&words, &needs, 77, 1<<48, t) }) })
	b.Run("kernel=requests", func(b *testing.B) { benchEach(b, func() { kernels.Requests(&words, t, pages, 7, 63, &n) }) })
	b.Run("kernel=initials", func(b *testing.B) { benchEach(b, func() { kernels.Initials(&words, 77, t, pages, 4, &n) }) })
	table := [8]uint16{33368, 55892, 63493, 65204, 65492, 65531, 65535}
	b.Run("kernel=arrive", func(b *testing.B) {
		benchEach(b, func() { kernels.Arrive(&words, &needs, 77, 1<<48, t, 78, 4, &table, 20) })
	})
	start := *block
	b.Run("kernel=enter", func(b *testing.B) {
		benchEach(b, func() { *block = start; kernels.Enter(block, 7<<40, &words, 3, t, pages, 7, &[8]uint8{}) })
	})
	b.Run("kernel=place", func(b *testing.B) { benchEach(b, func() { *block = start; kernels.Place(block, 7<<40, &n, 7) }) })
	b.Run("kernel=copy", func(b *testing.B) { benchEach(b, func() { *block = start }) })
}

func BenchmarkCounts(b *testing.B) {
	table := [8]uint16{33368, 55892, 63493, 65204, 65492, 65531, 65535}
	benchEach(b, func() { kernels.Counts(0x123456789ABCDEF0, &table) })
}

func BenchmarkMaskRows(b *testing.B) {
	row := make([]uint8, 256)
	benchEach(b, func() { kernels.MaskRows(row, 0xFFFF, 0xFF, 0xF0F0) })
}

func BenchmarkObservation(b *testing.B) {
	block, view, _ := typical()
	floats, bytes := make([]float32, 768), make([]uint8, 768)
	b.Run("layout=rows/dtype=f32", func(b *testing.B) { benchEach(b, func() { kernels.Rows(floats, block, view, false) }) })
	b.Run("layout=columns/dtype=f32", func(b *testing.B) { benchEach(b, func() { kernels.Columns(floats, 64, 64, block, view, false) }) })
	b.Run("layout=rows/dtype=u8", func(b *testing.B) { benchEach(b, func() { kernels.ByteRows(bytes, block, view) }) })
	b.Run("layout=columns/dtype=u8", func(b *testing.B) { benchEach(b, func() { kernels.ByteColumns(bytes, 64, 64, block, view) }) })
}
