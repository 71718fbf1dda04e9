// Command gen writes the assembly of package kernels. It is a module of its own, so that nobody who imports kvgym inherits the
// generator. Run `make gen` after a change; the output is committed.
package main

import (
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"unsafe"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"

	"github.com/kvgym/kvgym/internal/rng"
	"github.com/kvgym/kvgym/kernels"
)

var level = flag.String("level", "", "avx2 or avx512")

func main() {
	flag.Parse()
	Package("github.com/kvgym/kvgym/kernels")
	ConstraintExpr("amd64,!purego")
	switch *level {
	case "avx512":
		avx512()
	case "avx2":
		avx2()
	default:
		fmt.Fprintln(os.Stderr, "gen: -level: allowed avx2, avx512")
		os.Exit(2)
	}
	Generate()
	if err := writeConstants(flag.Lookup("out").Value.String()); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

// writeConstants appends the constants to the assembly.
func writeConstants(path string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	fmt.Fprintf(f, "\n// No code: nothing runs into it.\nTEXT %s_constants<>(SB), NOSPLIT|NOFRAME, $0-0\n\tPCALIGN $64\n", *level)
	for i := 0; i < len(constants); i += 8 {
		fmt.Fprintf(f, "\tQUAD $0x%016x\n", binary.LittleEndian.Uint64(constants[i:]))
	}
	return f.Close()
}

// Offsets of the columns and planes of a block, from the declaration itself.
var (
	block kernels.Block

	offTokens     = int(unsafe.Offsetof(block.Tokens))
	offRemaining  = int(unsafe.Offsetof(block.Remaining))
	offLastAccess = int(unsafe.Offsetof(block.LastAccess))
	offRate       = int(unsafe.Offsetof(block.Rate))
	offPriority   = int(unsafe.Offsetof(block.Priority))
	offPrefix     = int(unsafe.Offsetof(block.Prefix))
	offHotness    = int(unsafe.Offsetof(block.Hotness))
	offCycle      = int(unsafe.Offsetof(block.Cycle))
	offAlive      = int(unsafe.Offsetof(block.Alive))
	offSwapped    = int(unsafe.Offsetof(block.Swapped))
	offType0      = int(unsafe.Offsetof(block.Type0))
	offType1      = int(unsafe.Offsetof(block.Type1))
	offType2      = int(unsafe.Offsetof(block.Type2))
	offInt8       = int(unsafe.Offsetof(block.Int8))
	offInt4       = int(unsafe.Offsetof(block.Int4))
	offPrefill    = int(unsafe.Offsetof(block.Prefill))
	offActive     = int(unsafe.Offsetof(block.Active))
	offMembers    = int(unsafe.Offsetof(block.Members))
)

// Offsets of a view.
var (
	view kernels.View

	offPages  = int(unsafe.Offsetof(view.PrefixPages))
	offGain   = int(unsafe.Offsetof(view.Gain))
	offLast   = int(unsafe.Offsetof(view.Last))
	offMoving = int(unsafe.Offsetof(view.Moving))
	offLimit  = int(unsafe.Offsetof(view.Limit))
	offInv    = int(unsafe.Offsetof(view.Inv))
	offStep   = int(unsafe.Offsetof(view.Step))
)

// Offsets of what Advance tells.
var (
	advanced kernels.Advanced

	offDone      = int(unsafe.Offsetof(advanced.Done))
	offAdvTokens = int(unsafe.Offsetof(advanced.Tokens))
	offQP        = int(unsafe.Offsetof(advanced.QP))
	offRetained  = int(unsafe.Offsetof(advanced.Retained))

	offFreed         = int(unsafe.Offsetof(advanced.Freed))
	offFreedRetained = int(unsafe.Offsetof(advanced.FreedRetained))
)

// Offsets of what Act tells.
var (
	acted kernels.Acted

	offEvicted          = int(unsafe.Offsetof(acted.Evicted))
	offCompressed       = int(unsafe.Offsetof(acted.Compressed))
	offActSwapped       = int(unsafe.Offsetof(acted.Swapped))
	offRead             = int(unsafe.Offsetof(acted.Read))
	offInvalid          = int(unsafe.Offsetof(acted.Invalid))
	offRisk             = int(unsafe.Offsetof(acted.RiskHundredths))
	offLatency          = int(unsafe.Offsetof(acted.LatencyMilli))
	offActFreed         = int(unsafe.Offsetof(acted.Freed))
	offActFreedRetained = int(unsafe.Offsetof(acted.FreedRetained))
)

// Offsets of waiting requests of the serving profile, and of what Wait tells.
var (
	tickets kernels.Tickets
	waiting kernels.Waiting

	offTkPrivate   = int(unsafe.Offsetof(tickets.Private))
	offTkRef       = int(unsafe.Offsetof(tickets.Ref))
	offTkRemaining = int(unsafe.Offsetof(tickets.Remaining))
	offTkBorn      = int(unsafe.Offsetof(tickets.Born))
	offTkSince     = int(unsafe.Offsetof(tickets.Since))
	offTkPriority  = int(unsafe.Offsetof(tickets.Priority))
	offTkPrefix    = int(unsafe.Offsetof(tickets.Prefix))
	offTkType      = int(unsafe.Offsetof(tickets.Type))
	offTkCodes     = int(unsafe.Offsetof(tickets.Codes))
	offTkFlags     = int(unsafe.Offsetof(tickets.Flags))

	offWtReady = int(unsafe.Offsetof(waiting.Ready))
	offWtFits  = int(unsafe.Offsetof(waiting.Fits))
	offWtOld   = int(unsafe.Offsetof(waiting.Old))
	offWtFresh = int(unsafe.Offsetof(waiting.Fresh))
)

// Offsets of what lives depend on.
var (
	livesOf kernels.Lives

	offLvTables = int(unsafe.Offsetof(livesOf.Tables))
	offLvSpans  = int(unsafe.Offsetof(livesOf.Spans))
	offLvRate   = int(unsafe.Offsetof(livesOf.Rate))
	offLvSteps  = int(unsafe.Offsetof(livesOf.Steps))
)

// Offsets of what Decode tells.
var (
	decoded kernels.Decoded

	offDecFinished = int(unsafe.Offsetof(decoded.Finished))
	offDecWorth    = int(unsafe.Offsetof(decoded.Worth))
	offDecGone     = int(unsafe.Offsetof(decoded.Gone))
)

// Offsets of an observation that is left.
var (
	trail kernels.Trail

	offTrSeat   = int(unsafe.Offsetof(trail.Seat))
	offTrShared = int(unsafe.Offsetof(trail.Shared))
	offTrTo     = int(unsafe.Offsetof(trail.To))
)

// Offsets of the state of shared prefixes, and of an admission.
var (
	shared    kernels.Shared
	admission kernels.Admission

	offShExtra    = int(unsafe.Offsetof(shared.Extra))
	offShGain     = int(unsafe.Offsetof(shared.Gain))
	offShLast     = int(unsafe.Offsetof(shared.Last))
	offShQP       = int(unsafe.Offsetof(shared.QP))
	offShRetained = int(unsafe.Offsetof(shared.Retained))
	offShMul      = int(unsafe.Offsetof(shared.Mul))
	offShWeight   = int(unsafe.Offsetof(shared.Weight))

	offAdExtra   = int(unsafe.Offsetof(admission.Extra))
	offAdUsed    = int(unsafe.Offsetof(admission.Used))
	offAdBudget  = int(unsafe.Offsetof(admission.Budget))
	offAdFree    = int(unsafe.Offsetof(admission.Free))
	offAdTaken   = int(unsafe.Offsetof(admission.Taken))
	offAdFailed  = int(unsafe.Offsetof(admission.Failed))
	offAdPrivate = int(unsafe.Offsetof(admission.Private))
	offAdGone    = int(unsafe.Offsetof(admission.Gone))
	offAdJoins   = int(unsafe.Offsetof(admission.Joins))
	offAdReads   = int(unsafe.Offsetof(admission.Reads))
	offAdWords   = int(unsafe.Offsetof(admission.Words))
)

// Offsets of what an environment counts, and of what its global values are divided by.
var (
	ledger kernels.Ledger
	frame  kernels.Frame

	offLgScore           = int(unsafe.Offsetof(ledger.Score))
	offLgTokens          = int(unsafe.Offsetof(ledger.Tokens))
	offLgTenths          = int(unsafe.Offsetof(ledger.HeadroomTenths))
	offLgStep            = int(unsafe.Offsetof(ledger.Step))
	offLgQueueLen        = int(unsafe.Offsetof(ledger.QueueLen))
	offLgGrowth          = int(unsafe.Offsetof(ledger.Growth))
	offLgPrivateQP       = int(unsafe.Offsetof(ledger.PrivateQP))
	offLgSharedQP        = int(unsafe.Offsetof(ledger.SharedQP))
	offLgRetainedPrivate = int(unsafe.Offsetof(ledger.RetainedPrivate))
	offLgRetainedShared  = int(unsafe.Offsetof(ledger.RetainedShared))
	offLgPendingQP       = int(unsafe.Offsetof(ledger.PendingQP))
	offLgLatencyMilli    = int(unsafe.Offsetof(ledger.LatencyMilli))
	offLgRisk            = int(unsafe.Offsetof(ledger.RiskHundredths))
	offLgPrefixMul       = int(unsafe.Offsetof(ledger.PrefixMul))
	offLgPrefixWeight    = int(unsafe.Offsetof(ledger.PrefixWeight))

	offCounters        = int(unsafe.Offsetof(ledger.Counters))
	offLgArrived       = offCounters + int(unsafe.Offsetof(ledger.Counters.Arrived))
	offLgAdmitted      = offCounters + int(unsafe.Offsetof(ledger.Counters.Admitted))
	offLgCompleted     = offCounters + int(unsafe.Offsetof(ledger.Counters.Completed))
	offLgFailures      = offCounters + int(unsafe.Offsetof(ledger.Counters.Failures))
	offLgRejected      = offCounters + int(unsafe.Offsetof(ledger.Counters.Rejected))
	offLgEvictions     = offCounters + int(unsafe.Offsetof(ledger.Counters.Evictions))
	offLgCompressions  = offCounters + int(unsafe.Offsetof(ledger.Counters.Compressions))
	offLgSwaps         = offCounters + int(unsafe.Offsetof(ledger.Counters.Swaps))
	offLgInvalid       = offCounters + int(unsafe.Offsetof(ledger.Counters.Invalid))
	offLgSwapReads     = offCounters + int(unsafe.Offsetof(ledger.Counters.SwapReads))
	offLgLate          = offCounters + int(unsafe.Offsetof(ledger.Counters.Late))
	offLgFirstTokens   = offCounters + int(unsafe.Offsetof(ledger.Counters.FirstTokens))
	offLgPressureSteps = offCounters + int(unsafe.Offsetof(ledger.Counters.PressureSteps))

	offFrDen      = int(unsafe.Offsetof(frame.Den))
	offFrSteps    = int(unsafe.Offsetof(frame.Steps))
	offFrMaxWait  = int(unsafe.Offsetof(frame.MaxWait))
	offFrQueueCap = int(unsafe.Offsetof(frame.QueueCap))
	offFrGrowth   = int(unsafe.Offsetof(frame.Growth))
	offFrSlots    = int(unsafe.Offsetof(frame.Slots))
	offFrTables   = int(unsafe.Offsetof(frame.Tables))
	offFrGroups   = int(unsafe.Offsetof(frame.Groups))
)

// Offsets of where an environment stands, and of the draws of a step's arrivals.
var (
	seat   kernels.Seat
	limits kernels.Limits
	draws  kernels.ArrivalDraws

	offStBlock    = int(unsafe.Offsetof(seat.Block))
	offStLedger   = int(unsafe.Offsetof(seat.Ledger))
	offStLimits   = int(unsafe.Offsetof(seat.Limits))
	offStPages    = int(unsafe.Offsetof(seat.Pages))
	offStQueue    = int(unsafe.Offsetof(seat.Queue))
	offStNeeds    = int(unsafe.Offsetof(seat.Needs))
	offLmCapacity = int(unsafe.Offsetof(limits.CapacityQP))
	offLmBudget   = int(unsafe.Offsetof(limits.BudgetQP))
	offLmNorm     = int(unsafe.Offsetof(limits.TokenNorm))
	offDrBase     = int(unsafe.Offsetof(draws.Base))
	offDrCount    = int(unsafe.Offsetof(draws.Count))
	offDrCounts   = int(unsafe.Offsetof(draws.Counts))
)

// Offsets of a run.
var (
	run kernels.Run

	offRnOps        = int(unsafe.Offsetof(run.Ops))
	offRnRow        = int(unsafe.Offsetof(run.Row))
	offRnStride     = int(unsafe.Offsetof(run.Stride))
	offRnKey        = int(unsafe.Offsetof(run.Key))
	offRnLevel      = int(unsafe.Offsetof(run.Level))
	offRnEnded      = int(unsafe.Offsetof(run.Ended))
	offRnReward     = int(unsafe.Offsetof(run.Reward))
	offRnTerminated = int(unsafe.Offsetof(run.Terminated))
	offRnTruncated  = int(unsafe.Offsetof(run.Truncated))
	offRnTerminal   = int(unsafe.Offsetof(run.Terminal))
	offRnTruncate   = int(unsafe.Offsetof(run.Truncate))
	offRnLast       = int(unsafe.Offsetof(run.Last))
	offRnWeights    = int(unsafe.Offsetof(run.Weights))
	offRnBase       = int(unsafe.Offsetof(run.Arrivals) + unsafe.Offsetof(run.Arrivals.Base))
	offRnCount      = int(unsafe.Offsetof(run.Arrivals) + unsafe.Offsetof(run.Arrivals.Count))
	offRnBurst      = int(unsafe.Offsetof(run.Arrivals) + unsafe.Offsetof(run.Arrivals.Burst))
	offRnCounts     = int(unsafe.Offsetof(run.Arrivals) + unsafe.Offsetof(run.Arrivals.Counts))
	offRnChance     = int(unsafe.Offsetof(run.Arrivals) + unsafe.Offsetof(run.Arrivals.Chance))
)

// Offsets of what the serving profile counts otherwise.
var (
	servingGlobals kernels.ServingGlobals

	offSgQueueLen = int(unsafe.Offsetof(servingGlobals.QueueLen))
	offSgGrowth   = int(unsafe.Offsetof(servingGlobals.Growth))
	offSgOldest   = int(unsafe.Offsetof(servingGlobals.Oldest))
	offSgGood     = int(unsafe.Offsetof(servingGlobals.Good))
	offSgWaits    = int(unsafe.Offsetof(servingGlobals.Waits))
	offSgNorm     = int(unsafe.Offsetof(servingGlobals.Norm))
	offSgMost     = int(unsafe.Offsetof(servingGlobals.Most))
	offSgMoving   = int(unsafe.Offsetof(servingGlobals.Moving))
)

// Offsets of a lane.
var (
	lane kernels.Lane

	offLnOut    = int(unsafe.Offsetof(lane.Out))
	offLnIn     = int(unsafe.Offsetof(lane.In))
	offLnFresh  = int(unsafe.Offsetof(lane.Fresh))
	offLnWanted = int(unsafe.Offsetof(lane.Wanted))
	offLnFirst  = int(unsafe.Offsetof(lane.First))
	offLnLate   = int(unsafe.Offsetof(lane.Late))
	offLnWork   = int(unsafe.Offsetof(lane.Work))
	offLnRef    = int(unsafe.Offsetof(lane.Ref))
	offLnBorn   = int(unsafe.Offsetof(lane.Born))
	offLnAdmit  = int(unsafe.Offsetof(lane.Admit))
)

// Offsets of what Prefill tells.
var (
	prefilled kernels.Prefilled

	offPfSpent   = int(unsafe.Offsetof(prefilled.Spent))
	offPfSet     = int(unsafe.Offsetof(prefilled.Set))
	offPfContext = int(unsafe.Offsetof(prefilled.Context))
)

// Offsets of what OperateServing tells.
var (
	operated kernels.Operated

	offOpEvict = int(unsafe.Offsetof(operated.Evict))
	offOpBusy  = int(unsafe.Offsetof(operated.BusyQP))
	offOpMoved = int(unsafe.Offsetof(operated.MovedQP))
)

// Offsets of what ServeTickets tells.
var (
	served kernels.Served

	offSvWaste      = int(unsafe.Offsetof(served.Waste))
	offSvFirstWaits = int(unsafe.Offsetof(served.FirstWaits))
	offSvOldest     = int(unsafe.Offsetof(served.Oldest))
	offSvJoins      = int(unsafe.Offsetof(served.Joins))
)

// Offsets of the tables of prefill.
var (
	clock kernels.Clock

	offClFrom    = int(unsafe.Offsetof(clock.From))
	offClEnd     = int(unsafe.Offsetof(clock.End))
	offClStart   = int(unsafe.Offsetof(clock.Start))
	offClNS      = int(unsafe.Offsetof(clock.NS))
	offClRise    = int(unsafe.Offsetof(clock.Rise))
	offClInverse = int(unsafe.Offsetof(clock.Inverse))
	offClPair    = int(unsafe.Offsetof(clock.PairPS))
)

// Offsets of the draws of several steps' arrivals.
var (
	stepDraws kernels.StepDraws

	offSdCount  = int(unsafe.Offsetof(stepDraws.Count))
	offSdBurst  = int(unsafe.Offsetof(stepDraws.Burst))
	offSdBase   = int(unsafe.Offsetof(stepDraws.Base))
	offSdCounts = int(unsafe.Offsetof(stepDraws.Counts))
	offSdChance = int(unsafe.Offsetof(stepDraws.Chance))
	offSdLanes  = int(unsafe.Offsetof(stepDraws.Lanes))
)

// Offsets of newcomers, and of the tables of requests.
var (
	newcomers kernels.Newcomers
	tables    kernels.RequestTables

	offNewTokens    = int(unsafe.Offsetof(newcomers.Tokens))
	offNewNeed      = int(unsafe.Offsetof(newcomers.Need))
	offNewRemaining = int(unsafe.Offsetof(newcomers.Remaining))
	offNewLast      = int(unsafe.Offsetof(newcomers.LastAccess))
	offNewRate      = int(unsafe.Offsetof(newcomers.Rate))
	offNewPriority  = int(unsafe.Offsetof(newcomers.Priority))
	offNewPrefix    = int(unsafe.Offsetof(newcomers.Prefix))
	offNewHotness   = int(unsafe.Offsetof(newcomers.Hotness))
	offNewCycle     = int(unsafe.Offsetof(newcomers.Cycle))
	offNewType0     = int(unsafe.Offsetof(newcomers.Type0))   // then Type1 and Type2
	offNewPrefill   = int(unsafe.Offsetof(newcomers.Prefill)) // then Active
	offTabPages     = int(unsafe.Offsetof(tables.Pages))
	offTabOutput    = int(unsafe.Offsetof(tables.Output))
	offTabTypes     = int(unsafe.Offsetof(tables.Types))
)

const (
	golden      = rng.Golden
	stepStride  = kernels.StepStride
	demandShift = kernels.DemandShift
	demandMask  = kernels.DemandMask
	ticketFirst = kernels.TicketFirst
	ticketLate  = kernels.TicketLate
	ticketAgain = kernels.TicketAgain
	ticketLanes = kernels.TicketLanes
	mostLatency = kernels.MostLatency

	mostOperated = kernels.MostOperated
)

var byteScale = kernels.ByteScale

// constants are the values that assembly loads, by bytes. They stand in lines of 64 bytes, for a load that crosses two takes twice as long,
// and behind the code, for the linker aligns data to 32 bytes only: by chance, a step was four percent slower.
var constants []byte

var open, lineOf []int // lines of what is smaller: how much of them is used, and where they stand

// constant makes a read-only constant of values, whose size is a power of two up to 64 bytes, or some lines, and returns where it
// stands. Equal contents share a place.
func constant[T uint8 | uint16 | uint32 | uint64 | float32](values ...T) Mem {
	key := fmt.Sprintf("%T%v", values[0], values)
	if m, ok := made[key]; ok {
		return m
	}
	var b []byte
	b, err := binary.Append(b, binary.LittleEndian, values)
	if err != nil {
		panic(err)
	}
	m := NewDataAddr(NewStaticSymbol(*level+"_constants"), among(b))
	made[key] = m
	return m
}

// among puts bytes among the constants.
func among(b []byte) (at int) {
	size := len(b)
	if size >= 64 {
		at = len(constants)
		constants = append(constants, make([]byte, (size+63)/64*64)...)
	} else {
		line := -1
		for i, used := range open {
			if to := (used + size - 1) / size * size; to+size <= 64 {
				line, at = i, lineOf[i]+to
				open[i] = to + size
				break
			}
		}
		if line < 0 {
			at = len(constants)
			constants = append(constants, make([]byte, 64)...)
			open, lineOf = append(open, size), append(lineOf, at)
		}
	}
	copy(constants[at:], b)
	return at
}

var made = map[string]Mem{}

// planeOf loads a plane.
func planeOf(b Register, off int) GPVirtual {
	r := GP64()
	MOVQ(Mem{Base: b, Disp: off}, r)
	return r
}

// upperPlane is planeOf one of the upper four planes of a line that has just been stored whole. Intel's processors forward a vector of
// it to a load, but to a general register only what stands in the lower half; the rest waits until the line is in memory.
func upperPlane(b Register, off int) GPVirtual {
	x, r := XMM(), GP64()
	VMOVQ(Mem{Base: b, Disp: off}, x)
	VMOVQ(x, r)
	return r
}

// and, andNot and or make new planes; andNot(a, b) is a &^ b.
func and(a, b GPVirtual) GPVirtual {
	r := GP64()
	MOVQ(a, r)
	ANDQ(b, r)
	return r
}

func or(a, b GPVirtual) GPVirtual {
	r := GP64()
	MOVQ(a, r)
	ORQ(b, r)
	return r
}

func andNot(a, b GPVirtual) GPVirtual {
	r := GP64()
	ANDNQ(a, b, r)
	return r
}

func returnBool(name string, x uint8) {
	r := GP8()
	MOVB(U8(x), r)
	Store(r, Return(name))
}

// mustAddr is where a parameter stands in the frame.
func mustAddr(param string) Mem {
	c, err := Param(param).Resolve()
	if err != nil {
		panic(err)
	}
	return c.Addr
}

// given says where argument finds what the kernel at hand has no parameter for.
var given map[string]func() GPVirtual

// argument loads a parameter, or what stands for it.
func argument(name string) GPVirtual {
	if from := given[name]; from != nil {
		return from()
	}
	r := GP64()
	Load(Param(name), r)
	return r
}
