//go:build amd64 && !purego

package kernels

import (
	"unsafe"

	"github.com/klauspost/cpuid/v2"
)

// What each level needs of the processor; cpuid looks at the operating system's support, too.
var (
	needsAVX2   = []cpuid.FeatureID{cpuid.AVX, cpuid.AVX2, cpuid.BMI1, cpuid.BMI2, cpuid.POPCNT}
	needsAVX512 = []cpuid.FeatureID{cpuid.AVX512F, cpuid.AVX512BW, cpuid.AVX512CD, cpuid.AVX512DQ, cpuid.AVX512VL, cpuid.AVX512VBMI,
		cpuid.AVX512VBMI2, cpuid.AVX512VNNI, cpuid.AVX512VPOPCNTDQ, cpuid.GFNI, cpuid.LZCNT}
)

// trails: see TrailPays.
var trails = cpuid.CPU.VendorID == cpuid.Intel

func detect() []Level {
	levels := []Level{Generic}
	if cpuid.CPU.Supports(needsAVX2...) {
		levels = append(levels, AVX2)
		if cpuid.CPU.Supports(needsAVX512...) {
			levels = append(levels, AVX512)
		}
	}
	return levels
}

func opPlanes(ops *[Lanes]uint8) (lo, hi, over uint64) {
	switch active {
	case AVX512:
		return opPlanesAVX512(ops)
	case AVX2:
		return opPlanesAVX2(ops)
	}
	return opPlanesGeneric(ops)
}

func heat(h *[Lanes]uint8, warm uint64) {
	switch active {
	case AVX512:
		heatAVX512(h, warm)
	case AVX2:
		heatAVX2(h, warm)
	default:
		heatGeneric(h, warm)
	}
}

func advance(b *Block, pages *[8]uint16, step int16, used, limit uint32, a *Advanced) {
	switch active {
	case AVX512:
		if advanceAVX512(b, pages, step, used, limit, a) {
			return
		}
	case AVX2:
		if advanceAVX2(b, pages, step, used, limit, a) {
			return
		}
	}
	advanceGeneric(b, pages, step, used, limit, a)
}

func prefixes(b *Block, n int, pages *[8]uint16, s *Shared) {
	switch {
	case n == 1 && active == AVX512:
		prefixesAVX512(b, pages, s)
	case n == 1 && active == AVX2:
		prefixesAVX2(b, pages, s)
	default:
		prefixesGeneric(b, n, pages, s)
	}
}

func holders(b *Block, n int, pages *[8]uint16, mul *[8]uint8, s *Shared) {
	if n == 1 && active == AVX512 {
		holdersAVX512(b, pages, mul, s)
	} else {
		holdersGeneric(b, n, pages, mul, s)
	}
}

// admit has no AVX2 kernel: none was faster in whole steps; kernels/gen/avx2.go says why.
func admit(queue []uint64, needs []uint32, first, n, old, kept int, a *Admission) int {
	switch active {
	case AVX512:
		return admitAVX512(&queue[0], &needs[0], first, n, old, kept, a)
	}
	return admitGeneric(queue, needs, first, n, old, kept, a)
}

func enter(b *Block, slots uint64, words *[8]uint64, count int, t *RequestTables, prefixPages *[8]uint16, step int16, joins *[8]uint8) uint32 {
	switch active {
	case AVX512:
		return enterAVX512(b, slots, words, count, t, prefixPages, step, joins)
	}
	return enterGeneric(b, slots, words, count, t, prefixPages, step, joins)
}

func act(b *Block, ops *[Lanes]uint8, pages *[8]uint16, a *Acted) {
	switch active {
	case AVX512:
		actAVX512(b, ops, pages, a)
	case AVX2:
		actAVX2(b, ops, pages, a)
	default:
		actGeneric(b, ops, pages, a)
	}
}

func globals(dst *[16]float32, num, den *[16]int32, budget, capacity, norm, most uint32, stream bool) {
	switch active {
	case AVX512:
		globalsAVX512(dst, num, den, budget, capacity, norm, most, stream)
	case AVX2:
		globalsAVX2(dst, num, den, budget, capacity, norm, most, stream)
	default:
		globalsGeneric(dst, num, den, budget, capacity, norm, most)
	}
}

func arrive(words *[8]uint64, needs *[8]uint32, base, stamp uint64, t *RequestTables, count uint64, lanes int, table *[8]uint16, room int) (int, uint32) {
	switch active {
	case AVX512:
		return arriveAVX512(words, needs, base, stamp, t, count, lanes, table, room)
	case AVX2:
		return arriveAVX2(words, needs, base, stamp, t, count, lanes, table, room)
	}
	return arriveGeneric(words, needs, base, stamp, t, count, lanes, table, room)
}

func draws(dst *[8]uint64, base uint64) {
	switch active {
	case AVX512:
		drawsAVX512(dst, base)
	case AVX2:
		drawsAVX2(dst, base)
	default:
		drawsGeneric(dst, base)
	}
}

func arrivals(words *[8]uint64, needs *[8]uint32, base, stamp uint64, t *RequestTables) {
	switch active {
	case AVX512:
		arrivalsAVX512(words, needs, base, stamp, t)
	case AVX2:
		arrivalsAVX2(words, needs, base, stamp, t)
	default:
		arrivalsGeneric(words, needs, base, stamp, t)
	}
}

func requests(words *[8]uint64, t *RequestTables, prefixPages *[8]uint16, last int16, hotness uint8, n *Newcomers) {
	switch active {
	case AVX512:
		requestsAVX512(words, t, prefixPages, last, hotness, n)
	case AVX2:
		requestsAVX2(words, t, prefixPages, last, hotness, n)
	default:
		requestsGeneric(words, t, prefixPages, last, hotness, n)
	}
}

func together(n *Newcomers, count int, joins uint64, pages *[8]uint16) (private, whole uint32, joined uint64) {
	if active == AVX512 {
		return togetherAVX512(n, count, joins, pages)
	}
	return togetherGeneric(n, count, joins, pages)
}

func arriveSteps(words *[StepRoom]uint64, d *StepDraws, first, n int) int {
	if active == AVX512 {
		return arriveStepsAVX512(words, d, first, n)
	}
	return arriveStepsGeneric(words, d, first, n)
}

func initials(draws *[8]uint64, base uint64, t *RequestTables, prefixPages *[8]uint16, system int, n *Newcomers) {
	switch active {
	case AVX512:
		initialsAVX512(draws, base, t, prefixPages, system, n)
	case AVX2:
		drawsAVX2(draws, base)
		initialsAVX2(draws, t, prefixPages, n)
		n.systems(draws, prefixPages, system)
	default:
		initialsGeneric(draws, base, t, prefixPages, system, n)
	}
}

func place(b *Block, slots uint64, n *Newcomers, take uint8) uint32 {
	if active == AVX512 && take&(take+1) == 0 { // the first ones, as is usual
		return placeAVX512(b, slots, n, take)
	}
	if active == AVX2 {
		return placeAVX2(b, slots, n, take)
	}
	return placeGeneric(b, slots, n, take)
}

func touch(b *Block, plane uint64, joins *[8]uint8, step int16) {
	switch active {
	case AVX512:
		touchAVX512(b, plane, joins, step)
	case AVX2:
		touchAVX2(b, plane, joins, step)
	default:
		touchGeneric(b, plane, joins, step)
	}
}

func counts(u uint64, table *[8]uint16) int {
	switch active {
	case AVX512:
		return countsAVX512(u, table)
	case AVX2:
		return countsAVX2(u, table)
	}
	return countsGeneric(u, table)
}

func maskRows(dst []uint8, evict, compress, swap uint64) {
	switch active {
	case AVX512:
		maskRowsAVX512(&dst[0], len(dst)/64, evict, compress, swap)
	case AVX2:
		maskRowsAVX2(&dst[0], len(dst)/64, evict, compress, swap)
	default:
		maskRowsGeneric(dst, evict, compress, swap)
	}
}

func rows(dst []float32, b *Block, v *View, stream bool) {
	groups := len(dst) / (16 * SlotFeatures)
	switch {
	case active == AVX512 && stream:
		rowsStreamAVX512(&dst[0], groups, b, v)
	case active == AVX512:
		rowsAVX512(&dst[0], groups, b, v)
	case active == AVX2 && stream:
		rowsStreamAVX2(&dst[0], groups, b, v)
	case active == AVX2:
		rowsAVX2(&dst[0], groups, b, v)
	default:
		rowsGeneric(dst, b, v)
	}
}

func columns(dst []float32, stride, slots int, b *Block, v *View, stream bool) {
	switch {
	case active == AVX512 && stream:
		columnsStreamAVX512(&dst[0], 4*stride, slots/16, b, v)
	case active == AVX512:
		columnsAVX512(&dst[0], 4*stride, slots/16, b, v)
	case active == AVX2 && stream:
		columnsStreamAVX2(&dst[0], 4*stride, slots/16, b, v)
	case active == AVX2:
		columnsAVX2(&dst[0], 4*stride, slots/16, b, v)
	default:
		columnsGeneric(dst, stride, slots, b, v)
	}
}

func byteRows(dst []uint8, b *Block, v *View) {
	switch active {
	case AVX512:
		byteRowsAVX512(&dst[0], len(dst)/(16*SlotFeatures), b, v)
	case AVX2:
		byteRowsAVX2(&dst[0], len(dst)/(16*SlotFeatures), b, v)
	default:
		byteRowsGeneric(dst, b, v)
	}
}

func byteColumns(dst []uint8, stride, slots int, b *Block, v *View) {
	switch active {
	case AVX512:
		byteColumnsAVX512(&dst[0], stride, slots/16, b, v)
	case AVX2:
		byteColumnsAVX2(&dst[0], stride, slots/16, b, v)
	default:
		byteColumnsGeneric(dst, stride, slots, b, v)
	}
}

func fill(dst []float32, x float32, stream bool) {
	head := 0 // values before the first whole line
	if len(dst) > 0 {
		head = min(len(dst), int(-uintptr(unsafe.Pointer(&dst[0]))&63)/4)
	}
	lines := (len(dst) - head) / 16
	if active == Generic || lines == 0 {
		fillGeneric(dst, x)
		return
	}
	fillGeneric(dst[:head], x)
	if active == AVX512 {
		fillAVX512(&dst[head], lines, x, stream)
	} else {
		fillAVX2(&dst[head], lines, x, stream)
	}
	fillGeneric(dst[head+16*lines:], x)
}

func fence() {
	if active != Generic {
		storeFence()
	}
}

func step(p *Seat, f *Frame, ops *[Lanes]uint8, d *ArrivalDraws, a *Admission, s *Shared, from Stage) Stage {
	if active == AVX512 {
		return Stage(stepAVX512(p, f, ops, d, a, s, uint8(from)))
	}
	return stepEach(p, f, ops, d, a, s, from)
}

func stepTrailing(p *Seat, f *Frame, ops *[Lanes]uint8, d *ArrivalDraws, a *Admission, s *Shared, t *Trail) Stage {
	switch {
	case active != AVX512:
		return stepTrailingEach(p, f, ops, d, a, s, t)
	case t.Stream:
		return Stage(stepTrailingStreamAVX512(p, f, ops, d, a, s, t))
	default:
		return Stage(stepTrailingAVX512(p, f, ops, d, a, s, t))
	}
}

func observe(dst []float32, p *Seat, f *Frame, s *Shared, stream bool) {
	switch {
	case active == AVX512 && stream:
		observeStreamAVX512(&dst[0], p, f, s)
	case active == AVX512:
		observeAVX512(&dst[0], p, f, s)
	default:
		observeEach(dst, p, f, s, stream)
	}
}

func observeServing(dst []float32, p *Seat, f *Frame, g *ServingGlobals, stream bool) {
	switch {
	case active == AVX512 && stream:
		observeServingStreamAVX512(&dst[0], p, f, g)
	case active == AVX512:
		observeServingAVX512(&dst[0], p, f, g)
	default:
		observeServingEach(dst, p, f, g, stream)
	}
}

func due(steps *[Lanes]int16, set uint64, at int16) uint64 {
	if active == AVX512 {
		return dueAVX512(steps, set, at)
	}
	return dueGeneric(steps, set, at)
}

func sum(column *[Lanes]uint32, set uint64) uint64 {
	if active == AVX512 {
		return sumAVX512(column, set)
	}
	return sumGeneric(column, set)
}

func prefill(b *Block, lane *Lane, budget uint64, p *Prefilled) {
	if active != AVX512 || !prefillAVX512(b, lane, budget, p) {
		prefillGeneric(b, lane, budget, p)
	}
}

func remove(b *Block, lane *Lane, mask uint64, pages *[8]uint16) (qp, retained uint32, empty uint8) {
	if active == AVX512 {
		return removeAVX512(b, lane, mask, pages)
	}
	return removeGeneric(b, lane, mask, pages)
}

func operateServing(p *Seat, lane *Lane, ops *[Lanes]uint8, host, link uint32, o *Operated) bool {
	if active == AVX512 {
		return operateServingAVX512(p, lane, ops, host, link, o)
	}
	return operateServingGeneric(p, lane, ops, host, link, o)
}

func choose(t *Tickets, set uint32, slots int, room uint32, pages *[8]uint16, mul *[8]uint8) (chosen uint32) {
	if active == AVX512 {
		return chooseAVX512(t, set, slots, room, pages, mul)
	}
	return chooseGeneric(t, set, slots, room, pages, mul)
}

func decode(b *Block, lane *Lane, l *Ledger, set uint64, n uint32, deadline int16, room uint32, worth *[8]uint32, d *Decoded) bool {
	if active == AVX512 {
		return decodeAVX512(b, lane, l, set, n, deadline, room, worth, d)
	}
	return decodeGeneric(b, lane, l, set, n, deadline, room, worth, d)
}

func enqueue(t *Tickets, first int, words *[8]uint64, tables *RequestTables, step int16) {
	if active == AVX512 {
		enqueueAVX512(t, first, words, tables, step)
		return
	}
	enqueueGeneric(t, first, words, tables, step)
}

func pay(l *Ledger, t *Tickets, set uint32, free uint64, pages *[8]uint16, clock *Clock, work *[Lanes]uint32, joins *[8]uint8) (slots, waste uint64) {
	if active == AVX512 && clock.fits {
		if slots, waste, ok := payAVX512(l, t, set, free, pages, clock, work, joins); ok {
			return slots, waste
		}
	}
	return payGeneric(l, t, set, free, pages, clock, work, joins)
}

func serveTickets(p *Seat, f *Frame, lane *Lane, t *Tickets, clock *Clock, s *Served) {
	if active == AVX512 && clock.fits && serveTicketsAVX512(p, f, lane, t, clock, s) {
		return
	}
	serveTicketsGeneric(p, f, lane, t, clock, s)
}

func arriveTickets(l *Ledger, f *Frame, t *Tickets, d *ArrivalDraws) (n int, ok bool) {
	if active == AVX512 {
		return arriveTicketsAVX512(l, f, t, d)
	}
	return arriveTicketsGeneric(l, f, t, d)
}

func wait(t *Tickets, n int, step, old int16, room uint32, pages *[8]uint16, mul *[8]uint8, w *Waiting) {
	if active == AVX512 {
		waitAVX512(t, n, step, old, room, pages, mul, w)
		return
	}
	waitGeneric(t, n, step, old, room, pages, mul, w)
}

func settle(b *Block, lane *Lane, t *Tickets, set uint32, slots uint64, pages *[8]uint16, step int16) {
	if active == AVX512 {
		settleAVX512(b, lane, t, set, slots, pages, step)
		return
	}
	settleGeneric(b, lane, t, set, slots, pages, step)
}

func leave(t *Tickets, stay uint32) (oldest int16, qp uint32) {
	if active == AVX512 {
		return leaveAVX512(t, stay)
	}
	return leaveGeneric(t, stay)
}

func lives(l *Lives, words []uint64) (pageSteps, good uint64) {
	if active == AVX512 {
		return livesAVX512(l, &words[0], len(words))
	}
	return livesGeneric(l, words)
}

func prefetch(p []uint8) {
	if active != Generic && len(p) >= 64 {
		prefetchLines(&p[0], len(p)/64)
	}
}

func livesInitial(l *Lives, draws *[8]uint64, n int) (pageSteps, good uint64) {
	if active == AVX512 {
		return livesInitialAVX512(l, draws, n)
	}
	return livesInitialGeneric(l, draws, n)
}

func steps(r *Run, n int, f *Frame, a *Admission, s *Shared, t *Trail) (int, Stage) {
	if active != AVX512 {
		return 0, StageOperate
	}
	var done int
	var left uint8
	switch {
	case t.Stream:
		done, left = stepsStreamAVX512(r, f, a, s, t, n)
	case r.Ahead:
		done, left = stepsAheadAVX512(r, f, a, s, t, n)
	default:
		done, left = stepsAVX512(r, f, a, s, t, n)
	}
	return done, Stage(left)
}
