package kernels

// TicketLanes is the number of waiting requests in one Tickets.
const TicketLanes = 32

// Tickets holds 32 waiting requests of the serving profile, column by column: exactly 640 bytes. Columns of places that nobody waits in
// hold stale values that no result depends on.
type Tickets struct {
	Private   [TicketLanes]uint32 `unit:"private tokens it will hold when admitted"`
	Ref       [TicketLanes]uint32 `unit:"name of the session's present turn, 0 none"`
	Remaining [TicketLanes]uint16 `unit:"tokens to generate"`
	Born      [TicketLanes]int16  `unit:"step in which the turn began"`
	Since     [TicketLanes]int16  `unit:"step since which it waits; in the future while it pauses"`
	Priority  [TicketLanes]uint8  `unit:"percent"`
	Prefix    [TicketLanes]uint8  `unit:"shared prefix id, 0 none"`
	Type      [TicketLanes]uint8  `unit:"block type"`
	Codes     [TicketLanes]uint8  `unit:"bits 4-5 run code, 6-7 pause code"`
	Flags     [TicketLanes]uint8  `unit:"bit 0 first token given, 1 late, 2 prefilled before"`
	Reserved  [TicketLanes]uint8  `unit:"0"`
}

// Bits of Flags.
const (
	TicketFirst = 1 << iota // the turn has given its first token
	TicketLate              // after the deadline
	TicketAgain             // prefilled before
)

// Waiting is what Wait tells: planes of tickets.
type Waiting struct {
	Ready uint32 // may be admitted
	Fits  uint32 // of these, those that there is memory for
	Old   uint32 // have waited too long
	Fresh uint32 // have given no first token
}

// Enqueue decodes eight requests of the serving profile into the tickets from the first on, which is at most 24; rules 13.3 and 13.20.
//
//	Private = (Pages[...]-1)*128 + 1 + bits 18-24; Remaining = Output[...]; Born, Since = step; Codes in bits 4-7; Flags = 0
//	Ref = 2^31 | Output[...]<<4 | bits 40-43 for context, else 0
func Enqueue(t *Tickets, first int, words *[8]uint64, tables *RequestTables, step int16) {
	_ = t.Private[first+7]
	enqueue(t, first, words, tables, step)
}

// Wait looks at the first n tickets; rule 13.20. pages are those of each prefix, mul what a page of it costs now, 0 where nobody holds it.
//
//	for i := range n {
//		if Since[i] < step { i joins Ready }
//		if Since[i] <= old { i joins Old }
//		if Flags[i]&TicketFirst == 0 { i joins Fresh }
//		need := 4*pages(Private[i]) + (4*pages[Prefix[i]] if mul[Prefix[i]] is 0)
//		if i in Ready && need <= room { i joins Fits }
//	}
func Wait(t *Tickets, n int, step, old int16, room uint32, pages *[8]uint16, mul *[8]uint8, w *Waiting) {
	wait(t, n, step, old, room, pages, mul, w)
}

// Choose goes through the tickets of a set in order and takes those that there are slots and memory for, of which each then has that much
// less; rule 13.20. pages and mul are as in Wait.
//
//	for i in set {
//		need := 4*pages(Private[i]) + (4*pages[Prefix[i]] if mul[Prefix[i]] is 0 and nobody before has it)
//		if slots > 0 && need <= room { i joins chosen; slots--; room -= need }
//	}
func Choose(t *Tickets, set uint32, slots int, room uint32, pages *[8]uint16, mul *[8]uint8) (chosen uint32) {
	return choose(t, set, slots, room, pages, mul)
}

// Settle puts the tickets of a set, in order, into the empty slots of a plane, in order, of which there are as many; rule 13.20. It writes
// the columns and planes of the block, where they are to prefill, and Ref, Born, Admit, First and Late of its lane.
//
//	Tokens = Private + 128*pages[Prefix]; Rate = 0; LastAccess, Admit = step; Hotness = 63; Cycle = Codes; the rest as the ticket says
func Settle(b *Block, lane *Lane, t *Tickets, set uint32, slots uint64, pages *[8]uint16, step int16) {
	settle(b, lane, t, set, slots, pages, step)
}

// Served is what ServeTickets tells.
type Served struct {
	Waste      uint64   // microseconds of prefill of those that had been prefilled before
	FirstWaits uint32   // who waits on, may be admitted and has given no first token
	Oldest     int32    // least Since of who waits on; 32,767 without any
	Joins      [8]uint8 // admissions by prefix
}

// ServeTickets is the service of a queue of at most TicketLanes requests, in an environment of one block: Wait with a 64th of the budget
// left free, Choose of what fits, Pay and Settle of those into the lowest slots, and Leave of them and of who has waited too long; rule
// 13.20. It brings QueueLen, PendingQP and the counters of the ledger up to date.
func ServeTickets(p *Seat, f *Frame, lane *Lane, t *Tickets, clock *Clock, s *Served) {
	serveTickets(p, f, lane, t, clock, s)
}

// ArriveTickets lets the requests of a step of drawn traffic join a queue of at most TicketLanes: Arrive with the counters of d, and Enqueue
// behind who waits. It brings QueueLen, PendingQP and Arrived of the ledger up to date. n is how many they are. ok is false, and nothing but
// what lies behind the queue changes, if there may not be room for eight more tickets, or if more than eight requests arrive.
func ArriveTickets(l *Ledger, f *Frame, t *Tickets, d *ArrivalDraws) (n int, ok bool) {
	return arriveTickets(l, f, t, d)
}

// Leave removes the tickets that are not in a plane: the others move up, and what lies behind them becomes 0. Of those that stay it returns
// the least Since, 32,767 if there are none, and what they need alone, 4*pages(Private) each.
func Leave(t *Tickets, stay uint32) (oldest int16, qp uint32) { return leave(t, stay) }
