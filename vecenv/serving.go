package vecenv

import (
	"math/bits"
	"unsafe"

	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/scenario"
)

// The state and the step of the serving profile; docs/simulator.md, section 13. A batch without serving environments has none
// of the memory declared here.

// lane is what the serving profile holds of 64 slots beside their block.
//
// INVARIANT: every plane is a subset of Alive; Out, In and Swapped exclude each other; Fresh and Wanted are subsets of Swapped;
// Moving is not 0 only in Out or In, Work only in Prefill. Columns of dead slots hold stale values that nothing reads.
type lane struct {
	Out    uint64 `unit:"plane, on the way to CPU memory"`
	In     uint64 `unit:"plane, on the way back"`
	Fresh  uint64 `unit:"plane, swapped out in the last step"`
	Wanted uint64 `unit:"plane, swapped and asked back"`
	First  uint64 `unit:"plane, the turn has given its first token"`
	Late   uint64 `unit:"plane, after the deadline"`

	Reserved [2]uint64 `unit:"0"`

	Work   [64]uint32 `unit:"microseconds of prefill left"`
	Moving [64]uint32 `unit:"quarter pages still to cross the link"`
	Ref    [64]uint32 `unit:"name of the session's present turn, 0 none"`
	Wake   [64]int16  `unit:"step in which an idle sequence goes on or ends"`
	Born   [64]int16  `unit:"step in which the turn began"`
	Admit  [64]int16  `unit:"step of admission"`
}

// ticket is one waiting request of the serving profile.
type ticket struct {
	Private   uint32 `unit:"private tokens it will hold when admitted"`
	Ref       uint32 `unit:"name of the session's present turn, 0 none"`
	Remaining uint16 `unit:"tokens to generate"`
	Born      int16  `unit:"step in which the turn began"`
	Since     int16  `unit:"step since which it waits; in the future while it pauses"`
	Priority  uint8  `unit:"percent"`
	Prefix    uint8  `unit:"shared prefix id, 0 none"`
	Type      uint8  `unit:"block type"`
	Codes     uint8  `unit:"bits 4-5 run code, 6-7 pause code"`
	Flags     uint8  `unit:"bit 0 first token given, 1 late, 2 prefilled before"`
	Reserved  uint8  `unit:"0"`
}

const (
	ticketFirst = 1 << iota
	ticketLate
	ticketAgain
)

// tally is what the serving profile holds of an environment beside its head.
type tally struct {
	Goodput    uint64 `unit:"weighted tokens"`
	WasteUS    uint64 `unit:"microseconds"`
	FirstWaits uint32 `unit:"steps"`
	Oldest     int32  `unit:"step since which the oldest ticket waits; 32767 without any"`
}

// servingMemory holds tally, lanes and tickets of every environment, each environment's in one piece: apart they would lie in
// as many pages.
type servingMemory struct {
	bytes  []uint8
	stride int // bytes an environment
	width  int // lanes an environment
	room   int // tickets an environment
}

const tallyBytes = 64

func newServingMemory(envs, width, slots int) *servingMemory {
	m := &servingMemory{width: width, room: ticketCap(slots)}
	m.stride = tallyBytes + width*int(unsafe.Sizeof(lane{})) + m.room*int(unsafe.Sizeof(ticket{}))
	m.stride = (m.stride+63)&^63 | 64 // an odd number of lines, or environments would fight for a few sets of the caches
	m.bytes = aligned[uint8](envs * m.stride)
	return m
}

// at is environment i's part. The types hold no pointers, and their sizes are multiples of their alignment.
func (m *servingMemory) at(i int) (*tally, []lane, []ticket) {
	part := m.bytes[i*m.stride : (i+1)*m.stride]
	lanes := part[tallyBytes:]
	tickets := lanes[m.width*int(unsafe.Sizeof(lane{})):]
	return (*tally)(unsafe.Pointer(&part[0])), unsafe.Slice((*lane)(unsafe.Pointer(&lanes[0])), m.width),
		unsafe.Slice((*ticket)(unsafe.Pointer(&tickets[0])), m.room)
}

// servingRules is what all serving environments of a batch share.
type servingRules struct {
	preset     kv.Preset
	id         string // of the preset
	stepUS     int64
	prefillUS  int64 // what prefill may take of a step
	linkQP     int64
	quality    [4]uint64  // thousandths, by level
	decodeBase [257]int64 // nanoseconds, by running sequences
}

func newServingRules(p *kv.Preset) *servingRules {
	r := &servingRules{preset: *p, id: p.Fingerprint(), stepUS: p.StepMillis * 1000, linkQP: p.LinkQP()}
	r.prefillUS = r.stepUS * p.PrefillPermille / 1000
	for level, permille := range p.QualityPermille {
		r.quality[level] = uint64(permille)
	}
	for n := range r.decodeBase {
		r.decodeBase[n] = p.DecodeBaseNS(int64(n))
	}
	return r
}

// ticketCap is how many waiting requests an environment has room for: those that arrive take at most half of the slots' number,
// and every sequence that is live may have to wait again.
func ticketCap(slots int) int { return slots + slots/2 }

// maxWake bounds the steps that Wake, Born and Since count.
const maxWake = 32_767

// clear removes the slots of the mask from every plane.
func (l *lane) clear(mask uint64) {
	keep := ^mask
	l.Out &= keep
	l.In &= keep
	l.Fresh &= keep
	l.Wanted &= keep
	l.First &= keep
	l.Late &= keep
}

// settled are the slots in GPU memory, prefilled and not on their way: what can be compressed or swapped out.
func settled(b *block, l *lane) uint64 {
	return b.Alive &^ (b.Swapped | l.Out | l.In | b.Prefill)
}

// allowed gives the slots of block w on which each operation is possible; rules 8.1 and 13.11. Whether the CPU has memory for
// one that swaps out is for refuseSwaps and swappable to say.
func (v *env) allowed(w int) (evict, compress, swap uint64) {
	b := &v.blocks[w]
	if v.rules.serving == nil {
		resident := b.Alive &^ b.Swapped
		return b.Alive, resident &^ b.Int4, resident
	}
	l := &v.lanes[w]
	s := settled(b, l)
	return b.Alive, s &^ b.Int4, s | b.Swapped&^l.Wanted
}

// scratch is what one step of a serving environment remembers from its actions.
type scratch struct {
	busyQP   int64                     // memory traffic of compressions
	asked    [4]uint64                 // planes: to leave in this step
	wantedQP [kv.MaxPrefixes + 1]uint8 // quarter pages a page that the coarsest compressed member asks of its prefix; 0 none
}

// stepServing runs the phases of one step; rule 13.10.
func (v *env) stepServing(ops []uint8, list []int32) {
	for w := range v.lanes {
		v.lanes[w].Fresh = 0
	}
	var sc scratch
	if ops != nil {
		for w := range v.blocks {
			n := min(64, len(ops)-64*w)
			v.applyServingBlock(w, ops[64*w:64*w+n], &sc)
		}
	} else {
		v.applyServingList(list, &sc)
	}
	v.refuseSwaps(&sc)
	v.lowerPrefixes(&sc)
	v.transferOut()
	for w := range v.blocks {
		decayHotness(&v.blocks[w].Hotness)
	}
	v.wake()
	v.swapIn()
	v.transferIn()
	v.decodeServing(v.prefill(), sc.busyQP)
	v.serveTickets()
	v.arriveTickets()
	for w := range v.blocks {
		v.tally.FirstWaits += uint32(bits.OnesCount64((v.blocks[w].Prefill | v.blocks[w].Active) &^ v.lanes[w].First))
	}
}

// applyServingBlock turns up to 64 op bytes into planes and applies them; on different slots the order cannot matter.
func (v *env) applyServingBlock(w int, row []uint8, sc *scratch) {
	lo, hi, high := opPlanes(row)
	var unknown uint64
	if high&^opBits != 0 {
		lo, hi, unknown = checkedPlanes(row)
	}
	if lo|hi|unknown == 0 {
		return
	}
	evict, compress, swap := v.allowed(w)
	e, c, s := lo&^hi&evict, hi&^lo&compress, lo&hi&swap
	v.Counters.Invalid += uint32(bits.OnesCount64(lo|hi|unknown) - bits.OnesCount64(e|c|s))
	v.applyServing(w, e, c, s, sc)
}

// applyServingList applies ordered pairs (op, slot).
func (v *env) applyServingList(list []int32, sc *scratch) {
	for i := 0; i+1 < len(list); i += 2 {
		op, slot := list[i], list[i+1]
		if op == int32(kv.Keep) {
			continue
		}
		if op < 0 || op >= kv.NumOps || slot < 0 || int(slot) >= v.rules.slots {
			v.Counters.Invalid++
			continue
		}
		w, bit := int(slot)/64, uint64(1)<<(slot&63)
		e, c, s := v.allowed(w)
		e, c, s = e&bit&planeIf(op == int32(kv.Evict)), c&bit&planeIf(op == int32(kv.Compress)), s&bit&planeIf(op == int32(kv.Swap))
		if e|c|s == 0 {
			v.Counters.Invalid++
			continue
		}
		v.applyServing(w, e, c, s, sc)
	}
}

func planeIf(b bool) uint64 {
	if b {
		return ^uint64(0)
	}
	return 0
}

// applyServing does operations that are allowed; rules 13.12 to 13.14.
func (v *env) applyServing(w int, evict, compress, swap uint64, sc *scratch) {
	b, l := &v.blocks[w], &v.lanes[w]
	if evict != 0 {
		v.countRisk(b, evict)
		v.Counters.Evictions += uint32(bits.OnesCount64(evict))
		for m := evict; m != 0; m &= m - 1 {
			v.drop(w, uint(bits.TrailingZeros64(m)))
		}
	}
	for m := compress; m != 0; m &= m - 1 {
		v.compressServing(b, uint(bits.TrailingZeros64(m)), sc)
	}
	v.Counters.Compressions += uint32(bits.OnesCount64(compress))
	back := swap & b.Swapped
	l.Wanted |= back
	for m := swap &^ back; m != 0; m &= m - 1 {
		s := uint(bits.TrailingZeros64(m)) & 63
		l.Moving[s] = v.privatePages(b, s) * b.quant(s).QuarterPages()
	}
	l.Out |= swap &^ back
	sc.asked[w&3] |= swap &^ back
	v.Counters.Swaps += uint32(bits.OnesCount64(swap))
}

// hostLimit is the CPU's memory for swapped sequences, quarter pages; rule 13.14.
func (v *env) hostLimit() uint64 {
	return uint64(v.Episode.BudgetQP) * uint64(v.rules.serving.preset.HostPermille) / 1000
}

// hostQP is what swapped and leaving sequences take of it, but for those of some planes.
func (v *env) hostQP(but *[4]uint64) (qp uint64) {
	for w := range v.blocks {
		b := &v.blocks[w]
		for m := (b.Swapped | v.lanes[w].Out) &^ but[w&3]; m != 0; m &= m - 1 {
			s := uint(bits.TrailingZeros64(m))
			qp += uint64(v.privatePages(b, s) * b.quant(s).QuarterPages())
		}
	}
	return qp
}

// refuseSwaps takes back swaps that the CPU has no memory for, in slot order; rule 13.14.
func (v *env) refuseSwaps(sc *scratch) {
	if sc.asked[0]|sc.asked[1]|sc.asked[2]|sc.asked[3] == 0 {
		return
	}
	host, limit := v.hostQP(&sc.asked), v.hostLimit()
	for w := range v.lanes {
		l := &v.lanes[w]
		for m := sc.asked[w&3] & l.Out; m != 0; m &= m - 1 {
			s := bits.TrailingZeros64(m) & 63
			if host+uint64(l.Moving[s]) <= limit {
				host += uint64(l.Moving[s])
				continue
			}
			l.Out &^= m & -m
			l.Moving[s] = 0
			v.Counters.Swaps--
			v.Counters.Invalid++
		}
	}
}

// swappable takes those slots out of a plane that are to leave and that the CPU has no memory for.
func (v *env) swappable(w int, plane uint64) uint64 {
	if v.rules.serving == nil {
		return plane
	}
	b := &v.blocks[w]
	limit, used := v.hostLimit(), v.hostQP(&[4]uint64{})
	for m := plane &^ b.Swapped; m != 0; m &= m - 1 {
		s := uint(bits.TrailingZeros64(m))
		if used+uint64(v.privatePages(b, s)*b.quant(s).QuarterPages()) > limit {
			plane &^= m & -m
		}
	}
	return plane
}

// compressServing takes one slot a level down; rule 13.13.
func (v *env) compressServing(b *block, s uint, sc *scratch) {
	s &= 63
	bit := uint64(1) << s
	pages, before := v.privatePages(b, s), b.quant(s).QuarterPages()
	after := before / 2
	b.Int4 |= bit & b.Int8
	b.Int8 ^= bit
	freed := pages * (before - after)
	v.PrivateQP -= freed
	v.RetainedPrivate -= freed * b.blockType(s).RetentionTwentieths()
	sc.busyQP += int64(pages) * int64(before+after)
	if p := b.Prefix[s] & kv.MaxPrefixes; p != 0 && (sc.wantedQP[p] == 0 || after < uint32(sc.wantedQP[p])) {
		sc.wantedQP[p] = uint8(after)
	}
}

// lowerPrefixes compresses the shared pages of compressed sequences, once for all who share them; rule 13.13.
func (v *env) lowerPrefixes(sc *scratch) {
	for p := 1; p <= kv.MaxPrefixes; p++ {
		want, have := sc.wantedQP[p], v.PrefixMul[p]
		if want != 0 && want < have {
			sc.busyQP += int64(v.Episode.PrefixPages[p]) * int64(want+have)
			v.setPrefix(p, uint32(want), prefixWeight)
		}
	}
}

// prefixWeight is the retention weight of shared pages, those of a system block; rule 13.21.
const prefixWeight = 20

// hold makes a new member hold its prefix, at fp16 if nobody held it.
func (v *env) hold(p uint8) {
	if p &= kv.MaxPrefixes; p != 0 && v.PrefixMul[p] == 0 {
		v.setPrefix(int(p), kv.FP16QuarterPages, prefixWeight)
	}
}

// leave frees a prefix that no resident member holds any more.
func (v *env) leave(p uint8) {
	if p &= kv.MaxPrefixes; p == 0 || v.PrefixMul[p] == 0 {
		return
	}
	for w := range v.blocks {
		if v.blocks[w].Members[p-1]&^v.blocks[w].Swapped != 0 {
			return
		}
	}
	v.setPrefix(int(p), 0, 0)
}

// free takes the private memory of a resident slot off the totals.
func (v *env) free(b *block, s uint) {
	qp := v.privatePages(b, s) * b.quant(s).QuarterPages()
	v.PrivateQP -= qp
	v.RetainedPrivate -= qp * b.blockType(s).RetentionTwentieths()
}

// remove empties a slot.
func (v *env) remove(w int, s uint) {
	s &= 63
	b := &v.blocks[w]
	bit := uint64(1) << s
	resident := b.Swapped&bit == 0
	if resident {
		v.free(b, s)
	}
	b.clear(bit)
	v.lanes[w].clear(bit)
	if resident {
		v.leave(b.Prefix[s])
	}
}

// drop takes a sequence out of its slot and back into the queue, if it has anything left to do; rule 13.12.
func (v *env) drop(w int, s uint) {
	s &= 63
	b, l := &v.blocks[w], &v.lanes[w]
	bit := uint64(1) << s
	if typ := b.blockType(s); typ != kv.System {
		k := ticket{Private: b.Tokens[s] - v.prefixTokens(b.Prefix[s]), Ref: l.Ref[s], Remaining: b.Remaining[s], Born: l.Born[s], Since: int16(v.Step),
			Priority: b.Priority[s], Prefix: b.Prefix[s], Type: uint8(typ), Codes: b.Cycle[s] &^ 15}
		k.Flags = uint8(l.First>>s&1) | uint8(l.Late>>s&1)<<1
		if b.Prefill&bit == 0 {
			k.Flags |= ticketAgain
		}
		waits := true
		if (b.Prefill|b.Active)&bit == 0 {
			waits = v.park(&k, l.Wake[s])
		}
		if waits && int(v.QueueLen) < len(v.tickets) {
			v.tickets[v.QueueLen] = k
			v.QueueLen++
		}
	}
	v.remove(w, s)
}

// park makes the ticket of an idle sequence that of its session's next turn; false if there is none.
func (v *env) park(k *ticket, wake int16) bool {
	turn, ok := v.rules.source.Next(&v.Episode, k.Ref)
	if !ok {
		return false
	}
	now := int16(v.Step)
	k.Private += turn.PromptTokens
	k.Remaining, k.Ref = turn.OutputTokens, turn.Ref
	k.Born, k.Since = max(now, wake), max(now, wake-1)
	k.Flags = ticketAgain
	if k.Type == uint8(kv.Generation) {
		k.Type = uint8(kv.Context)
	}
	return true
}

// transferOut moves leaving sequences to CPU memory as far as the link's budget goes; rule 13.14.
func (v *env) transferOut() {
	budget := v.rules.serving.linkQP
	for w := range v.blocks {
		b, l := &v.blocks[w], &v.lanes[w]
		for m := l.Out; m != 0; m &= m - 1 {
			s := uint(bits.TrailingZeros64(m)) & 63
			if !l.move(s, &budget) {
				continue
			}
			v.free(b, s)
			l.Out &^= m & -m
			l.Fresh |= m & -m
			b.Swapped |= m & -m
			v.leave(b.Prefix[s])
		}
	}
	v.countTransfer(budget)
}

// transferIn does it for returning ones.
func (v *env) transferIn() {
	budget := v.rules.serving.linkQP
	for w := range v.lanes {
		l := &v.lanes[w]
		for m := l.In; m != 0; m &= m - 1 {
			if l.move(uint(bits.TrailingZeros64(m)), &budget) {
				l.In &^= m & -m
			}
		}
	}
	v.countTransfer(budget)
}

// move takes what a slot still has to move from the link's budget, and tells whether it has arrived.
func (l *lane) move(s uint, budget *int64) bool {
	s &= 63
	x := min(*budget, int64(l.Moving[s]))
	l.Moving[s] -= uint32(x)
	*budget -= x
	return l.Moving[s] == 0
}

// countTransfer counts the time of what a direction of the link has moved in a step, of which budget was left.
func (v *env) countTransfer(budget int64) {
	if moved := v.rules.serving.linkQP - budget; moved != 0 {
		v.tally.WasteUS += uint64(v.rules.serving.preset.LinkNS(moved) / 1000)
	}
}

// wake lets idle sequences go on or end; rule 13.15.
func (v *env) wake() {
	for w := range v.blocks {
		b, l := &v.blocks[w], &v.lanes[w]
		for m := b.Alive &^ (b.Prefill | b.Active | l.Out | l.In | b.system()); m != 0; m &= m - 1 {
			s := uint(bits.TrailingZeros64(m)) & 63
			if int32(l.Wake[s]) <= v.Step && b.Alive>>s&1 != 0 { // an earlier slot may have preempted this one
				v.wakeSlot(w, s)
			}
		}
	}
}

func (v *env) wakeSlot(w int, s uint) {
	s &= 63
	b, l := &v.blocks[w], &v.lanes[w]
	bit := uint64(1) << s
	turn, ok := v.rules.source.Next(&v.Episode, l.Ref[s])
	if !ok {
		v.remove(w, s)
		v.Counters.Completed++
		return
	}
	tokens := b.Tokens[s]
	if b.Swapped&bit == 0 && !v.grow(w, s, turn.PromptTokens) {
		return
	}
	l.Work[s] = v.rules.serving.preset.PrefillUS(int64(turn.PromptTokens), int64(tokens))
	b.Tokens[s] = tokens + turn.PromptTokens
	b.Remaining[s] = turn.OutputTokens
	b.Prefill |= bit
	if b.Type1&^b.Type0&bit != 0 { // generation becomes context
		if b.Swapped&bit == 0 {
			v.RetainedPrivate += 5 * v.privatePages(b, s) * b.quant(s).QuarterPages()
		}
		b.Type0 |= bit
		b.Type1 &^= bit
	}
	l.Ref[s], l.Born[s] = turn.Ref, int16(v.Step)
	l.First &^= bit
	l.Late &^= bit
	b.LastAccess[s] = int16(v.Step)
	b.Hotness[s] = uint8(min(255, int(b.Hotness[s])+63))
}

// grow gives a resident slot the memory for n more tokens, preempting the newest sequences where there is none, and tells
// whether the sequence itself is still there; rule 13.16. The tokens themselves are for the caller to add.
func (v *env) grow(w int, s uint, n uint32) bool {
	s &= 63
	b := &v.blocks[w]
	pages := kv.Pages(b.Tokens[s]+n) - kv.Pages(b.Tokens[s])
	if pages == 0 {
		return true
	}
	qp := pages * b.quant(s).QuarterPages()
	for v.usedQP()+qp > v.Episode.BudgetQP {
		vw, vs, ok := v.newest()
		if !ok {
			break
		}
		v.Counters.Forced++
		v.drop(vw, vs)
		if vw == w && vs == s {
			return false
		}
	}
	v.PrivateQP += qp
	v.RetainedPrivate += qp * b.blockType(s).RetentionTwentieths()
	return true
}

// newest is the resident sequence that was admitted last, of several the one in the highest slot.
func (v *env) newest() (w int, s uint, ok bool) {
	best := int16(-1)
	for i := range v.blocks {
		b, l := &v.blocks[i], &v.lanes[i]
		for m := b.Alive &^ (b.Swapped | b.system()); m != 0; m &= m - 1 {
			k := uint(bits.TrailingZeros64(m)) & 63
			if l.Admit[k] >= best && v.privatePages(b, k) != 0 {
				w, s, ok, best = i, k, true, l.Admit[k]
			}
		}
	}
	return w, s, ok
}

// oldest is the slot of a set, given block by block, that was admitted first, of several the lowest.
func (v *env) oldest(set *[4]uint64) (w int, s uint, ok bool) {
	best := int32(maxWake + 1)
	for i := range v.lanes {
		for m := set[i&3]; m != 0; m &= m - 1 {
			k := uint(bits.TrailingZeros64(m)) & 63
			if a := int32(v.lanes[i].Admit[k]); a < best {
				w, s, ok, best = i, k, true, a
			}
		}
	}
	return w, s, ok
}

// prefill spends the step's prefill time, oldest admission first, and returns what it spent, microseconds; rule 13.17.
func (v *env) prefill() int64 {
	var set [4]uint64
	any := uint64(0)
	for w := range v.blocks {
		b, l := &v.blocks[w], &v.lanes[w]
		set[w&3] = b.Prefill &^ (b.Swapped | l.Out | l.In)
		any |= set[w&3]
	}
	if any == 0 {
		return 0
	}
	budget := v.rules.serving.prefillUS
	left := budget
	for left > 0 {
		w, s, ok := v.oldest(&set)
		if !ok {
			break
		}
		b, l := &v.blocks[w], &v.lanes[w]
		x := min(left, int64(l.Work[s]))
		l.Work[s] -= uint32(x)
		left -= x
		if l.Work[s] == 0 {
			bit := uint64(1) << s
			set[w&3] &^= bit
			b.Prefill &^= bit
			b.Active |= bit
		}
	}
	return budget - left
}

// decodeServing generates with what is left of the step; rule 13.18.
func (v *env) decodeServing(prefilled, busyQP int64) {
	var set [4]uint64
	running, context := 0, int64(0)
	for w := range v.blocks {
		b, l := &v.blocks[w], &v.lanes[w]
		active := b.Active &^ (b.Swapped | l.Out | l.In)
		set[w&3] = active
		running += bits.OnesCount64(active)
		for m := active; m != 0; m &= m - 1 {
			context += int64(b.Tokens[bits.TrailingZeros64(m)&63])
		}
	}
	if running == 0 {
		return
	}
	n := v.decodeTokens(running, context, prefilled, busyQP)
	if n == 0 {
		return
	}
	good := uint64(0)
	for w := range v.blocks {
		good += v.decodeBlock(w, set[w&3], n)
	}
	v.tally.Goodput += good / 2000
}

// decodeTokens is how many tokens each of the running sequences generates in a step that has spent some time on prefill and
// compression.
func (v *env) decodeTokens(running int, context, prefilled, busyQP int64) uint32 {
	r := v.rules.serving
	left := r.stepUS
	if busyQP != 0 {
		left -= r.preset.CompressNS(busyQP) / 1000
	}
	if !r.preset.Disaggregated {
		left -= prefilled
	}
	if left <= 0 {
		return 0
	}
	return uint32(min(65_535, left*1000/r.preset.AttentionNS(r.decodeBase[running&511%257], context)))
}

// decodeBlock generates up to n tokens on every slot of a set and returns their worth; rule 13.18.
func (v *env) decodeBlock(w int, set uint64, n uint32) (worth uint64) {
	b, l := &v.blocks[w], &v.lanes[w]
	quality := &v.rules.serving.quality
	step, total := int16(v.Step), uint32(0)
	for m := set; m != 0; m &= m - 1 {
		s := uint(bits.TrailingZeros64(m)) & 63
		bit := m & -m
		if b.Active&bit == 0 {
			continue // an earlier slot has preempted this one
		}
		tokens, rest := b.Tokens[s], b.Remaining[s]
		k := min(n, uint32(rest))
		if kv.Pages(tokens+k) != kv.Pages(tokens) && !v.grow(w, s, k) {
			continue
		}
		rest -= uint16(k)
		total += k
		b.Tokens[s] = tokens + k
		b.Remaining[s] = rest
		b.Rate[s] = uint16(k)
		b.LastAccess[s] = step
		b.Hotness[s] = uint8(min(255, uint32(b.Hotness[s])+63))
		if l.First&bit == 0 {
			v.firstToken(l, s)
		}
		level := max(b.quant(s), levelOf[v.PrefixMul[b.Prefix[s]&kv.MaxPrefixes]&7])
		worth += uint64(k) * uint64(servingWeightBase+uint32(b.Priority[s])) * quality[level&3] << (1 &^ (l.Late >> s & 1))
		if rest == 0 {
			v.endTurn(w, s)
		}
	}
	v.Tokens += total
	return worth
}

// servingWeightBase is added to a priority to give a token's weight; rule 13.18.
const servingWeightBase = 50

// levelOf turns quarter pages a page into the level; no prefix counts as fp16.
var levelOf = [8]kv.Quant{0: kv.FP16, 1: kv.INT4, 2: kv.INT8, 4: kv.FP16}

func (v *env) firstToken(l *lane, s uint) {
	l.First |= 1 << s
	v.Counters.FirstTokens++
	if v.Step-int32(l.Born[s&63]) > v.rules.maxWait {
		l.Late |= 1 << s
		v.Counters.Late++
	}
}

// endTurn is rule 13.19.
func (v *env) endTurn(w int, s uint) {
	s &= 63
	b, l := &v.blocks[w], &v.lanes[w]
	turn, ok := v.rules.source.Next(&v.Episode, l.Ref[s])
	if !ok && l.Ref[s] == 0 && b.blockType(s) == kv.Generation {
		v.remove(w, s)
		v.Counters.Completed++
		return
	}
	b.Active &^= 1 << s
	pause := 2 * int32(1+b.Cycle[s]>>6)
	if ok {
		pause = int32(turn.PauseSteps)
	}
	l.Wake[s] = int16(min(maxWake, v.Step+pause))
}

func (v *env) watermark() uint32 { return v.Episode.BudgetQP / 64 }

// prefixNeed is what a prefix adds to the memory when a member comes; rule 13.20.
func (v *env) prefixNeed(p uint8) uint32 {
	if p &= kv.MaxPrefixes; v.PrefixMul[p] != 0 {
		return 0
	}
	return uint32(v.Episode.PrefixPages[p]) * kv.FP16QuarterPages
}

// swapIn brings swapped sequences back, oldest admission first; rule 13.20.
func (v *env) swapIn() {
	var set [4]uint64
	any := uint64(0)
	for w := range v.blocks {
		b, l := &v.blocks[w], &v.lanes[w]
		set[w&3] = b.Swapped &^ l.Fresh & (l.Wanted | b.Active | b.Prefill)
		any |= set[w&3]
	}
	if any == 0 {
		return
	}
	for {
		w, s, ok := v.oldest(&set)
		if !ok {
			return
		}
		b, l := &v.blocks[w], &v.lanes[w]
		bit := uint64(1) << s
		set[w&3] &^= bit
		qp := v.privatePages(b, s) * b.quant(s).QuarterPages()
		need := qp + v.prefixNeed(b.Prefix[s])
		if v.usedQP()+need+v.watermark() > v.Episode.BudgetQP {
			continue
		}
		v.hold(b.Prefix[s])
		v.PrivateQP += qp
		v.RetainedPrivate += qp * b.blockType(s).RetentionTwentieths()
		b.Swapped &^= bit
		l.Wanted &^= bit
		l.In |= bit
		l.Moving[s] = need
	}
}

// serveTickets admits what fits, in order, and fails what has waited too long; rule 13.20.
func (v *env) serveTickets() {
	kept, pending, step, oldest := 0, uint32(0), int16(v.Step), int16(maxWake)
	tickets := v.tickets[:v.QueueLen]
	for i := range tickets {
		k := &tickets[i]
		qp := kv.Pages(k.Private) * kv.FP16QuarterPages
		if k.Since < step && v.admitTicket(k, qp) {
			continue
		}
		if int32(step)-int32(k.Since) >= v.rules.maxWait {
			v.Counters.Failures++
			continue
		}
		if k.Since < step && k.Flags&ticketFirst == 0 {
			v.tally.FirstWaits++
		}
		if kept != i {
			tickets[kept] = *k
		}
		oldest = min(oldest, k.Since)
		kept++
		pending += qp
	}
	v.QueueLen = int32(kept)
	v.PendingQP = pending
	v.tally.Oldest = int32(oldest)
}

// admitTicket places a waiting request if a slot is free and its memory fits.
func (v *env) admitTicket(k *ticket, qp uint32) bool {
	limit := v.Episode.BudgetQP - v.watermark()
	if v.usedQP()+qp > limit || v.usedQP()+qp+v.prefixNeed(k.Prefix) > limit {
		return false
	}
	w, s, ok := v.freeSlot()
	if !ok {
		return false
	}
	prefix := v.prefixTokens(k.Prefix)
	q := scenario.Sequence{Priority: k.Priority, Prefix: k.Prefix, Type: kv.BlockType(k.Type), Codes: k.Codes}
	b, l := &v.blocks[w], &v.lanes[w]
	l.Work[s&63] = v.promptWork(k.Private, prefix, k.Prefix)
	if k.Flags&ticketAgain != 0 {
		v.tally.WasteUS += uint64(l.Work[s&63])
	}
	v.hold(k.Prefix)
	b.place(s, &q, k.Private+prefix, kv.Prefill, 0)
	b.Remaining[s&63] = k.Remaining
	b.LastAccess[s&63], b.Hotness[s&63] = int16(v.Step), 63
	l.start(s, k.Ref, k.Born, int16(v.Step))
	l.First |= uint64(k.Flags&ticketFirst) << s
	l.Late |= uint64(k.Flags&ticketLate) >> 1 << s
	v.PrivateQP += qp
	v.RetainedPrivate += qp * q.Type.RetentionTwentieths()
	v.Counters.Admitted++
	if k.Prefix != 0 {
		v.touchSystem(int(k.Prefix & kv.MaxPrefixes))
	}
	return true
}

// promptWork is the time to compute a prompt of private tokens after a prefix, whose pages a resident member may already hold.
func (v *env) promptWork(private, prefix uint32, id uint8) uint32 {
	p := &v.rules.serving.preset
	if v.PrefixMul[id&kv.MaxPrefixes] != 0 {
		return p.PrefillUS(int64(private), int64(prefix))
	}
	return p.PrefillUS(int64(private+prefix), 0)
}

// start gives the columns of a slot that a sequence takes their first values; its planes are clear.
func (l *lane) start(s uint, ref uint32, born, admit int16) {
	s &= 63
	l.Ref[s], l.Born[s], l.Admit[s] = ref, born, admit // Moving and Wake are written when they begin to mean something
}

// arriveTickets lets the step's new requests join the queue; rule 13.20. The words' place in the queue of the seed profile
// serves as their buffer.
func (v *env) arriveTickets() {
	n := int(v.QueueLen)
	room := v.queue[:max(0, v.rules.queueCap-n)]
	arrived := v.rules.source.Arrive(&v.Episode, int(v.Step), room)
	taken := min(arrived, len(room))
	for _, word := range room[:taken] {
		q := v.rules.source.Decode(&v.Episode, word)
		if n >= len(v.tickets) {
			break
		}
		v.tickets[n] = ticket{Private: q.PromptTokens, Ref: q.Ref, Remaining: q.OutputTokens, Born: int16(v.Step), Since: int16(v.Step), Priority: q.Priority,
			Prefix: q.Prefix, Type: uint8(q.Type), Codes: q.Codes}
		n++
		v.PendingQP += kv.Pages(q.PromptTokens) * kv.FP16QuarterPages
	}
	if taken > 0 {
		v.tally.Oldest = min(v.tally.Oldest, v.Step)
	}
	v.QueueLen = int32(n)
	v.Counters.Arrived += uint32(arrived)
	v.Counters.Rejected += uint32(arrived - taken)
	v.Counters.Failures += uint32(arrived - taken)
}

// placeServing completes an initial sequence that has just been placed; rule 13.9. shared tells whether its prefix was
// resident before.
func (v *env) placeServing(w int, s uint, q *scenario.InitialSequence, shared bool) {
	s &= 63
	b, l := &v.blocks[w], &v.lanes[w]
	l.start(s, q.Ref, 0, 0)
	l.Wake[s] = int16(q.Timer)
	b.Rate[s] = 0
	b.Cycle[s] &^= 15
	if q.Phase != kv.Prefill {
		l.First |= 1 << s
		return
	}
	prefix := v.prefixTokens(q.Prefix)
	p := &v.rules.serving.preset
	if shared {
		l.Work[s] = p.PrefillUS(int64(b.Tokens[s]-prefix), int64(prefix))
	} else {
		l.Work[s] = p.PrefillUS(int64(b.Tokens[s]), 0)
	}
}
