package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"

	"github.com/kvgym/kvgym/kernels"
)

// mover512 moves the row that waits in a Staging, some lines at a time. A nil one moves nothing.
type mover512 struct {
	row, to Mem
	stream  bool
	next    int // line
}

const (
	stagedLines = 4 * kernels.StagedRow / 64
	movedLines  = kernels.MovedLines // by a call
)

func newMover512(seat Register, stream bool) *mover512 {
	s, r := GP64(), GP64()
	MOVQ(Mem{Base: seat, Disp: offStStaging}, s)
	MOVQ(Mem{Base: s, Disp: offSgRow}, r)
	row := local(r)
	MOVQ(Mem{Base: s, Disp: offSgTo}, r)
	return &mover512{row: row, to: local(r), stream: stream}
}

// some moves the next lines. What passes all calls has moved the whole row.
func (m *mover512) some() {
	if m == nil {
		return
	}
	row, to := GP64(), GP64()
	MOVQ(m.row, row)
	MOVQ(m.to, to)
	end := min(m.next+movedLines, stagedLines)
	moveLines512(to, row, m.next, end, m.stream)
	m.next = end
}

func moveLines512(to, row Register, first, end int, stream bool) {
	for i := first; i < end; i++ {
		z := ZMM()
		VMOVUPS(Mem{Base: row, Disp: 64 * i}, z)
		store512(z, Mem{Base: to, Disp: 64 * i}, stream)
	}
}

func streamLines512() {
	TEXT("streamLinesAVX512", NOSPLIT, "func(to, from *float32, lines int)")
	Pragma("noescape")
	Doc("streamLinesAVX512 moves cache lines, at least one, past the caches.")
	to, from, n := argument("to"), argument("from"), argument("lines")
	Label("line")
	moveLines512(to, from, 0, 1, true)
	ADDQ(U8(64), from)
	ADDQ(U8(64), to)
	DECQ(n)
	JNZ(LabelRef("line"))
	VZEROUPPER()
	RET()
}
