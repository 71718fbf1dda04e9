package vecenv

import (
	"unsafe"

	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/kv"
)

// The state of the serving profile; docs/simulator.md, section 13. A batch without serving environments has none
// of the memory declared here.

// lane is what the serving profile holds of 64 slots beside their block.
type lane struct{ kernels.Lane }

// ticket is one waiting request of the serving profile, out of the columns of kernels.Tickets.
type ticket struct {
	Private, Ref           uint32
	Remaining              uint16
	Born, Since            int16
	Priority, Prefix, Type uint8
	Codes, Flags           uint8
}

const (
	ticketFirst = kernels.TicketFirst
	ticketLate  = kernels.TicketLate
	ticketAgain = kernels.TicketAgain
)

// ticket is waiting request i.
func (v *env) ticket(i int) ticket {
	t, k := &v.tickets()[i/kernels.TicketLanes], i%kernels.TicketLanes
	return ticket{Private: t.Private[k], Ref: t.Ref[k], Remaining: t.Remaining[k], Born: t.Born[k], Since: t.Since[k], Priority: t.Priority[k],
		Prefix: t.Prefix[k], Type: t.Type[k], Codes: t.Codes[k], Flags: t.Flags[k]}
}

// setTicket makes it another.
func (v *env) setTicket(i int, q *ticket) {
	t, k := &v.tickets()[i/kernels.TicketLanes], i%kernels.TicketLanes
	t.Private[k], t.Ref[k], t.Remaining[k], t.Born[k], t.Since[k] = q.Private, q.Ref, q.Remaining, q.Born, q.Since
	t.Priority[k], t.Prefix[k], t.Type[k], t.Codes[k], t.Flags[k] = q.Priority, q.Prefix, q.Type, q.Codes, q.Flags
}

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
	groups int // of tickets an environment
}

const (
	tallyBytes   = 64
	prefetchFrom = 4 << 20 // bytes of a batch
)

func newServingMemory(envs, width, slots int) *servingMemory {
	m := &servingMemory{width: width, groups: ticketGroups(slots)}
	m.stride = tallyBytes + width*int(unsafe.Sizeof(lane{})) + m.groups*int(unsafe.Sizeof(kernels.Tickets{}))
	m.stride = (m.stride+63)&^63 | 64 // an odd number of lines, or environments would fight for a few sets of the caches
	m.bytes = aligned[uint8](envs * m.stride)
	return m
}

// at is environment i's part. The types hold no pointers, and their sizes are multiples of their alignment.
func (m *servingMemory) at(i int) (*tally, *lane, *kernels.Tickets) {
	part := m.bytes[i*m.stride : (i+1)*m.stride]
	lanes := part[tallyBytes:]
	tickets := lanes[m.width*int(unsafe.Sizeof(lane{})):]
	return (*tally)(unsafe.Pointer(&part[0])), (*lane)(unsafe.Pointer(&lanes[0])), (*kernels.Tickets)(unsafe.Pointer(&tickets[0]))
}

// prefetch asks for what a step of environment i of the serving profile is going to read; only a long queue has more than that. Its parts
// lie in several places, which the processor does not foresee, and there is time: a step takes longer than memory. Batches that fit into
// the caches anyway lose 20 ns a step by it.
func (b *Batch) prefetch(i int) {
	if b.serving == nil || len(b.serving.bytes) < prefetchFrom || !kernels.PrefetchPays() {
		return
	}
	const usual = tallyBytes + unsafe.Sizeof(lane{}) + unsafe.Sizeof(kernels.Tickets{})
	kernels.Prefetch(b.serving.bytes[i*b.serving.stride:][:usual])
	kernels.Prefetch(unsafe.Slice((*uint8)(unsafe.Pointer(&b.blocks[i*b.width])), unsafe.Sizeof(block{})))
	kernels.Prefetch(unsafe.Slice((*uint8)(unsafe.Pointer(&b.heads[i])), unsafe.Sizeof(head{})))
}

// servingRules is what all serving environments of a batch share.
type servingRules struct {
	preset      kv.Preset
	id          string // of the preset
	clock       *kv.Clock
	ticketClock *kernels.Clock // the same for kernels
	stepUS      int64
	prefillUS   int64 // what prefill may take of a step
	linkQP      int64
	worth       [8]uint32  // of a token, thousandths, by the quarter pages that a page costs at its level
	decodeBase  [257]int64 // nanoseconds, by running sequences
}

func newServingRules(p *kv.Preset) *servingRules {
	r := &servingRules{preset: *p, id: p.Fingerprint(), clock: p.Clock(), stepUS: p.StepMillis * 1000, linkQP: p.LinkQP()}
	r.ticketClock = kernels.NewClock(r.clock)
	r.prefillUS = r.stepUS * p.PrefillPermille / 1000
	for level, permille := range p.QualityPermille {
		r.worth[kv.Quant(level).QuarterPages()] = uint32(permille)
	}
	for n := range r.decodeBase {
		r.decodeBase[n] = p.DecodeBaseNS(int64(n))
	}
	return r
}

// ticketCap is how many waiting requests an environment has room for: those that arrive take at most half of the slots' number,
// and every sequence that is live may have to wait again.
func ticketCap(slots int) int { return slots + slots/2 }

// ticketGroups is how many groups of columns these take.
func ticketGroups(slots int) int {
	return (ticketCap(slots) + kernels.TicketLanes - 1) / kernels.TicketLanes
}

// maxQueue bounds the waiting requests up to which an environment lets more arrive.
const maxQueue = 256 / 2

// maxWake bounds the steps that Wake, Born and Since count.
const maxWake = 32_767

// settled are the slots in GPU memory, prefilled and not on their way: what can be compressed or swapped out.
func settled(b *block, l *lane) uint64 {
	return b.Alive &^ (b.Swapped | l.Out | l.In | b.Prefill)
}
