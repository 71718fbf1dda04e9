package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// trailer512 writes the observation of a Trail in parts, between those of another environment's step. A nil one writes nothing.
type trailer512 struct {
	seat         func(off int) func() GPVirtual
	to           func() GPVirtual // where the row belongs
	given        map[string]func() GPVirtual
	codes, pages Mem
	last         Mem
	limit, inv   Mem // dwords
	live         Mem // groups up to the last sequence
	stream       bool
	empty        []func() // what writes the groups without sequences
}

// within lets what follows find the trail's environment where it would find its own.
func (t *trailer512) within(do func()) {
	own := given
	given = t.given
	do()
	given = own
}

// begin prepares what all groups need, and writes the global values.
func (t *trailer512) begin() {
	t.given = seated512()
	for name, off := range seatOf512 {
		t.given[name] = t.seat(off)
	}
	t.given["s"] = func() GPVirtual {
		r := argument("trail")
		ADDQ(U8(offTrShared), r)
		return r
	}
	t.within(func() {
		b := argument("b")
		t.codes = AllocLocal(64)
		VMOVDQU8(codes512(b), t.codes)
		t.last = local(and(andNot(planeOf(b, offAlive), planeOf(b, offSwapped)), planeOf(argument("s"), offShLast)))
		pages := YMM()
		VPMOVZXWD(Mem{Base: argument("pages")}, pages)
		t.pages = AllocLocal(32)
		VMOVDQU(pages, t.pages)
		live := GP64()
		liveGroups512(b, live)
		t.live = local(live)
		t.limit, t.inv = measures512()
	})
}

// globals writes the global values.
func (t *trailer512) globals() {
	if t == nil {
		return
	}
	t.within(func() {
		planes := ZMM()
		VMOVDQU64(Mem{Base: argument("b"), Disp: offAlive}, planes)
		store512(seatGlobals512(planes, argument("l"), argument("f"), nil), Mem{Base: t.to()}, t.stream)
	})
}

// inverse512 is 1 over the first dword of n.
func inverse512(n VecVirtual) VecVirtual {
	x, one := XMM(), XMM()
	VCVTUDQ2PS(n.AsX(), x)
	VMOVSS(constant(float32(1)), one)
	VDIVSS(x, one, x)
	return x
}

// group writes the rows of 16 slots.
func (t *trailer512) group(g int) {
	if t == nil {
		return
	}
	t.within(func() {
		empty, done := fmt.Sprintf("empty%d", g), fmt.Sprintf("written%d", g)
		first := 64 * (1 + 12*g)
		CMPQ(t.live, U8(uint8(g)))
		JLE(LabelRef(empty))
		f := t.observer(g).features()
		if t.stream {
			to := t.to()
			for i, line := range transpose512(f) {
				store512(line, Mem{Base: to, Disp: first + 64*i}, t.stream)
			}
		} else {
			storeHalves512(f, t.to(), first)
		}
		Label(done)
		t.empty = append(t.empty, func() {
			Label(empty)
			zero, to := ZMM(), t.to()
			VPXORD(zero, zero, zero)
			for i := range 12 {
				store512(zero, Mem{Base: to, Disp: first + 64*i}, t.stream)
			}
			JMP(LabelRef(done))
		})
	})
}

// late is what stands behind everything else, so that what is done most often is passed through without a jump.
func (t *trailer512) late() {
	for _, write := range t.empty {
		t.within(write)
	}
}

// observer loads what the features of a group need.
func (t *trailer512) observer(g int) *observer512 {
	o := &observer512{b: argument("b"), first: 16 * g, codes: t.codes, last: t.last, tables: newCodeTables512(), limit: t.limit, inv: t.inv, step: ZMM()}
	o.pages = eightDwords512(t.pages)
	o.gain = eightDwords512(Mem{Base: argument("s"), Disp: offShGain})
	VPBROADCASTD(Mem{Base: argument("l"), Disp: offLgStep}, o.step)
	return o
}
