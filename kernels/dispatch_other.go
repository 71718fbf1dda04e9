//go:build !amd64 || purego

package kernels

// Every kernel is its reference here.

const trails = false // see TrailPays

func detect() []Level { return []Level{Generic} }

func opPlanes(ops *[Lanes]uint8) (lo, hi, over uint64) { return opPlanesGeneric(ops) }

func heat(h *[Lanes]uint8, warm uint64) { heatGeneric(h, warm) }

func advance(b *Block, pages *[8]uint16, step int16, used, limit uint32, a *Advanced) {
	advanceGeneric(b, pages, step, used, limit, a)
}

func prefixes(b *Block, n int, pages *[8]uint16, s *Shared) { prefixesGeneric(b, n, pages, s) }

func admit(queue []uint64, needs []uint32, first, n, old, kept int, a *Admission) int {
	return admitGeneric(queue, needs, first, n, old, kept, a)
}

func enter(b *Block, slots uint64, words *[8]uint64, count int, t *RequestTables, prefixPages *[8]uint16, step int16, joins *[8]uint8) uint32 {
	return enterGeneric(b, slots, words, count, t, prefixPages, step, joins)
}

func act(b *Block, ops *[Lanes]uint8, pages *[8]uint16, a *Acted) { actGeneric(b, ops, pages, a) }

func globals(dst *[16]float32, num, den *[16]int32, budget, capacity, norm, most uint32, _ bool) {
	globalsGeneric(dst, num, den, budget, capacity, norm, most)
}

func arrive(words *[8]uint64, needs *[8]uint32, base, stamp uint64, t *RequestTables, count uint64, lanes int, table *[8]uint16, room int) (int, uint32) {
	return arriveGeneric(words, needs, base, stamp, t, count, lanes, table, room)
}

func draws(dst *[8]uint64, base uint64) { drawsGeneric(dst, base) }

func arrivals(words *[8]uint64, needs *[8]uint32, base, stamp uint64, t *RequestTables) {
	arrivalsGeneric(words, needs, base, stamp, t)
}

func requests(words *[8]uint64, t *RequestTables, prefixPages *[8]uint16, last int16, hotness uint8, n *Newcomers) {
	requestsGeneric(words, t, prefixPages, last, hotness, n)
}

func together(n *Newcomers, count int, joins uint64, pages *[8]uint16) (private, whole uint32, joined uint64) {
	return togetherGeneric(n, count, joins, pages)
}

func arriveSteps(words *[StepRoom]uint64, d *StepDraws, first, n int) int {
	return arriveStepsGeneric(words, d, first, n)
}

func initials(draws *[8]uint64, base uint64, t *RequestTables, prefixPages *[8]uint16, system int, n *Newcomers) {
	initialsGeneric(draws, base, t, prefixPages, system, n)
}

func place(b *Block, slots uint64, n *Newcomers, take uint8) uint32 {
	return placeGeneric(b, slots, n, take)
}

func holders(b *Block, n int, pages *[8]uint16, mul *[8]uint8, s *Shared) {
	holdersGeneric(b, n, pages, mul, s)
}

func touch(b *Block, plane uint64, joins *[8]uint8, step int16) {
	touchGeneric(b, plane, joins, step)
}

func counts(u uint64, table *[8]uint16) int { return countsGeneric(u, table) }

func maskRows(dst []uint8, evict, compress, swap uint64) {
	maskRowsGeneric(dst, evict, compress, swap)
}

func rows(dst []float32, b *Block, v *View, _ bool) { rowsGeneric(dst, b, v) }

func columns(dst []float32, stride, slots int, b *Block, v *View, _ bool) {
	columnsGeneric(dst, stride, slots, b, v)
}

func byteRows(dst []uint8, b *Block, v *View) { byteRowsGeneric(dst, b, v) }

func byteColumns(dst []uint8, stride, slots int, b *Block, v *View) {
	byteColumnsGeneric(dst, stride, slots, b, v)
}

func fill(dst []float32, x float32, _ bool) { fillGeneric(dst, x) }

func fence() {}

func step(p *Seat, f *Frame, ops *[Lanes]uint8, d *ArrivalDraws, a *Admission, s *Shared, from Stage) Stage {
	return stepEach(p, f, ops, d, a, s, from)
}

func stepTrailing(p *Seat, f *Frame, ops *[Lanes]uint8, d *ArrivalDraws, a *Admission, s *Shared, t *Trail) Stage {
	return stepTrailingEach(p, f, ops, d, a, s, t)
}

func observe(dst []float32, p *Seat, f *Frame, s *Shared, stream bool) {
	observeEach(dst, p, f, s, stream)
}

func observeServing(dst []float32, p *Seat, f *Frame, g *ServingGlobals, stream bool) {
	observeServingEach(dst, p, f, g, stream)
}

func due(steps *[Lanes]int16, set uint64, at int16) uint64 { return dueGeneric(steps, set, at) }

func sum(column *[Lanes]uint32, set uint64) uint64 {
	return sumGeneric(column, set)
}

func prefill(b *Block, lane *Lane, budget uint64, p *Prefilled) { prefillGeneric(b, lane, budget, p) }

func remove(b *Block, lane *Lane, mask uint64, pages *[8]uint16) (qp, retained uint32, empty uint8) {
	return removeGeneric(b, lane, mask, pages)
}

func operateServing(p *Seat, lane *Lane, ops *[Lanes]uint8, host, link uint32, o *Operated) bool {
	return operateServingGeneric(p, lane, ops, host, link, o)
}

func choose(t *Tickets, set uint32, slots int, room uint32, pages *[8]uint16, mul *[8]uint8) (chosen uint32) {
	return chooseGeneric(t, set, slots, room, pages, mul)
}

func decode(b *Block, lane *Lane, l *Ledger, set uint64, n uint32, deadline int16, room uint32, worth *[8]uint32, d *Decoded) bool {
	return decodeGeneric(b, lane, l, set, n, deadline, room, worth, d)
}

func enqueue(t *Tickets, first int, words *[8]uint64, tables *RequestTables, step int16) {
	enqueueGeneric(t, first, words, tables, step)
}

func pay(l *Ledger, t *Tickets, set uint32, free uint64, pages *[8]uint16, clock *Clock, work *[Lanes]uint32, joins *[8]uint8) (slots, waste uint64) {
	return payGeneric(l, t, set, free, pages, clock, work, joins)
}

func serveTickets(p *Seat, f *Frame, lane *Lane, t *Tickets, clock *Clock, s *Served) {
	serveTicketsGeneric(p, f, lane, t, clock, s)
}

func arriveTickets(l *Ledger, f *Frame, t *Tickets, d *ArrivalDraws) (n int, ok bool) {
	return arriveTicketsGeneric(l, f, t, d)
}

func wait(t *Tickets, n int, step, old int16, room uint32, pages *[8]uint16, mul *[8]uint8, w *Waiting) {
	waitGeneric(t, n, step, old, room, pages, mul, w)
}

func settle(b *Block, lane *Lane, t *Tickets, set uint32, slots uint64, pages *[8]uint16, step int16) {
	settleGeneric(b, lane, t, set, slots, pages, step)
}

func leave(t *Tickets, stay uint32) (oldest int16, qp uint32) { return leaveGeneric(t, stay) }

func lives(l *Lives, words []uint64) (pageSteps, good uint64) { return livesGeneric(l, words) }

func prefetch([]uint8) {}

func livesInitial(l *Lives, draws *[8]uint64, n int) (pageSteps, good uint64) {
	return livesInitialGeneric(l, draws, n)
}

func steps(r *Run, n int, f *Frame, a *Admission, s *Shared, t *Trail) (int, Stage) {
	return 0, StageOperate
}
