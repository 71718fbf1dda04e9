package kernels_test

import (
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"

	"github.com/kvgym/kvgym/internal/rng"
	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/reward"
	"github.com/stretchr/testify/require"
)

// member is an environment of a run.
type member struct {
	Key    uint64
	Level  uint8
	Limits kernels.Limits
	Pages  [8]uint16
	Ledger kernels.Ledger
	Ended  uint32
	Block  kernels.Block
	Queue  [kernels.QueueRoom]uint64
	Needs  [kernels.QueueRoom]uint32
	Ops    [kernels.Lanes]uint8
}

// told is what a step tells of an environment.
type told struct {
	Reward                [8]float32
	Terminated, Truncated [8]uint8
}

// convoy is a run, and all that it stands on.
type convoy struct {
	members []member
	rows    *[8][kernels.TrailRow]float32
	told    told
	frame   kernels.Frame
	tables  kernels.RequestTables
	counts  [8][8]uint16
	run     kernels.Run
}

func (m *member) seat() kernels.Seat {
	return kernels.Seat{Block: &m.Block, Ledger: &m.Ledger, Limits: &m.Limits, Pages: &m.Pages, Queue: &m.Queue, Needs: &m.Needs}
}

func randomConvoy(r *rand.Rand) *convoy {
	c := &convoy{members: make([]member, 1+r.IntN(6)), tables: *randomTables(r)}
	wait := uint8(r.IntN(6))
	for i := range c.members {
		in := randomStep(r)
		in.Tables, in.Wait, in.Groups, in.From = c.tables, wait, 3, false
		if r.IntN(3) != 0 {
			in.Tight = 0
		}
		f := in.repair()
		f.Growth = max(f.Growth, c.frame.Growth)
		c.frame = *f
		m := &c.members[i]
		*m = member{Key: r.Uint64(), Level: uint8(r.IntN(4)), Limits: in.Limits, Pages: in.Pages, Ledger: in.Ledger, Block: in.Block, Queue: in.Queue, Needs: in.Needs, Ops: in.Ops}
		m.Ledger.Step-- // of those done
		if r.IntN(12) == 0 {
			m.Ended = 1
		}
	}
	c.frame.Tables = &c.tables
	c.frame.Steps = 1 + c.members[r.IntN(len(c.members))].Ledger.Step
	for i := range c.frame.Den {
		c.frame.Den[i] = 1 + r.Int32N(5000)
	}
	c.frame.Den[15] = kernels.MostLatency
	for level := range c.counts {
		c.counts[level] = [8]uint16{30000, 50000, 60000, 64000, 65000, 65500, 65535}
		if level == 4 {
			c.counts[level] = [8]uint16{5000, 20000, 40000, 50000, 60000, 65000, 65535}
		}
		if r.IntN(8) == 0 {
			c.counts[level] = [8]uint16{100, 200, 300, 400, 500, 600, 60000}
		}
	}
	for i := range c.told.Reward {
		c.told.Reward[i], c.told.Terminated[i], c.told.Truncated[i] = 77, 77, 77
	}
	c.run = kernels.Run{Terminal: uint8(r.IntN(2)), Ahead: r.IntN(2) == 0, Last: c.frame.Steps, Weights: (*[reward.SeedTerms]int64)(reward.SeedWeights[:]),
		Arrivals: kernels.RunArrivals{Base: rng.Counter(0, rng.Request, 0, 0), Count: rng.Counter(0, rng.Arrivals, 0, 0), Burst: rng.Counter(0, rng.Arrivals, 0, 255),
			Chance: uint64(r.IntN(65536))}}
	c.run.Truncate = 1 - c.run.Terminal
	if r.IntN(3) != 0 {
		c.run.Last = 1 << 30
	}
	return c
}

func (c *convoy) clone() *convoy {
	d := *c
	d.members, d.rows = slices.Clone(c.members), new([8][kernels.TrailRow]float32)
	return &d
}

// steps is Steps.
func (c *convoy) steps(t *kernels.Trail) (done int, left kernels.Stage, a kernels.Admission, s kernels.Shared) {
	m, r := &c.members[0], c.run
	r.Seat, r.Ops, r.Row = m.seat(), &m.Ops, &c.rows[0]
	for i := range r.Stride {
		r.Stride[i] = int(unsafe.Sizeof(*m))
	}
	r.Stride[7] = int(unsafe.Sizeof(c.rows[0]))
	at := func(offset uintptr) int { return int(offset) - int(unsafe.Offsetof(m.Ledger)) }
	r.Key, r.Level, r.Ended = at(unsafe.Offsetof(m.Key)), at(unsafe.Offsetof(m.Level)), at(unsafe.Offsetof(m.Ended))
	r.Reward, r.Terminated, r.Truncated = &c.told.Reward[0], &c.told.Terminated[0], &c.told.Truncated[0]
	r.Arrivals.Counts, c.frame.Tables = &c.counts, &c.tables
	done, left = kernels.Steps(&r, len(c.members), &c.frame, &a, &s, t)
	return done, left, a, s
}

// draws is what a member's step draws from.
func (c *convoy) draws(m *member) *kernels.ArrivalDraws {
	step, level := uint32(m.Ledger.Step), m.Level
	if level == 3 && uint64(rng.Draw(m.Key, rng.Arrivals, step, 255)&0xFFFF) < c.run.Arrivals.Chance {
		level = 4
	}
	return &kernels.ArrivalDraws{Base: rng.Counter(m.Key, rng.Request, step, 0), Count: rng.Counter(m.Key, rng.Arrivals, step, 0), Counts: &c.counts[level]}
}

// each is what Steps is to do, one environment after the other. Observations are written at once.
func (c *convoy) each() (done int, left kernels.Stage, a kernels.Admission, s kernels.Shared) {
	c.frame.Tables = &c.tables
	for i := range c.members {
		m := &c.members[i]
		if m.Ended != 0 || m.Ledger.Step >= c.run.Last {
			return i, kernels.StageOperate, a, s
		}
		before := m.Ledger
		m.Ledger.Step++
		m.Ledger.Growth = -before.QueueLen
		seat := m.seat()
		left = kernels.Step(&seat, &c.frame, &m.Ops, c.draws(m), &a, &s, kernels.StageOperate)
		switch left {
		case kernels.StageOperate:
			m.Ledger = before
			return i, left, a, s
		case kernels.StageDone:
			c.judge(i, &a)
			kernels.Observe(c.rows[i][:], &seat, &c.frame, &s, false)
		default:
			return i, left, a, s
		}
	}
	return len(c.members), kernels.StageOperate, a, s
}

// judge charges accesses and finds reward and flags.
func (c *convoy) judge(i int, a *kernels.Admission) {
	m := &c.members[i]
	l, b := &m.Ledger, &m.Block
	for reads := a.Reads; reads != 0; reads &= reads - 1 {
		s := bits.TrailingZeros64(reads)
		prefix := b.Prefix[s]
		if prefix == 0 {
			continue
		}
		qp := ((b.Tokens[s]+127)/128 - uint32(m.Pages[prefix])) << (2 - b.Int8>>s&1 - 2*(b.Int4>>s&1))
		l.LatencyMilli += uint32(a.Joins[prefix]) * (100 + min(200, 2*qp))
		l.Counters.SwapReads += uint32(a.Joins[prefix])
	}
	l.Growth += l.QueueLen
	used, budget := l.UsedQP(), m.Limits.BudgetQP
	l.HeadroomTenths += reward.HeadroomTenths(used, budget)
	l.Counters.PressureSteps += reward.Pressure(used, budget)
	score := reward.SeedScore(l.Counters.Failures, l.Tokens, m.Limits.TokenNorm, l.HeadroomTenths, uint32(c.frame.Steps), used, budget,
		l.RetainedPrivate+l.RetainedShared, l.LatencyMilli, l.RiskHundredths)
	c.told.Reward[i] = float32(score-l.Score) / reward.ScoreOne
	l.Score = score
	ended := uint8(0)
	if l.Step >= c.frame.Steps {
		ended, m.Ended = 1, 1
	}
	c.told.Terminated[i], c.told.Truncated[i] = ended&c.run.Terminal, ended&c.run.Truncate
}

// settled cuts off what no result depends on.
func (c *convoy) settled() []member {
	for i := range c.members {
		m := &c.members[i]
		clear(m.Queue[m.Ledger.QueueLen:])
		clear(m.Needs[m.Ledger.QueueLen:])
	}
	return c.members
}

// Environments that step one after the other in one call do what they do one by one, and leave to the caller what they would.
func TestSteps(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		r, g := random(24), newGuarded(t, int(unsafe.Sizeof([8][kernels.TrailRow]float32{})))
		var left [kernels.StageDone + 1]int
		all, ended, bursts, reads := 0, 0, 0, 0
		for k := range rounds {
			c, last := randomConvoy(r), randomTrailing(r)
			want := c.clone()
			c.rows = (*[8][kernels.TrailRow]float32)(unsafe.Pointer(unsafe.SliceData(g.floats())))
			clear(g.floats())
			if !kernels.StepsPay() {
				done, stage, _, _ := c.steps(&kernels.Trail{})
				require.Zero(t, done)
				require.Equal(t, kernels.StageOperate, stage)
				require.Equal(t, want.members, c.members, "left as it was")
				continue
			}
			row := &c.rows[7] // of the one before
			var wantRow [kernels.TrailRow]float32
			seat := last.seat()
			kernels.Observe(wantRow[:], &seat, &c.frame, &last.shared, false)
			var trail kernels.Trail
			trail.Leave(row, &seat, &c.frame, &last.shared, k%2 == 0)
			done, stage, a, s := c.steps(&trail)
			trail.Flush()
			kernels.Fence()
			wantDone, wantStage, wantA, wantS := want.each()
			require.Equal(t, wantDone, done, "round %d", k)
			require.Equal(t, wantStage, stage, "round %d", k)
			require.Equal(t, want.settled(), c.settled(), "round %d: %d done", k, done)
			require.Equal(t, want.told, c.told, "round %d", k)
			require.Equal(t, bitsOf(wantRow[:]), bitsOf(row[:]), "round %d: the observation that was left", k)
			clear(row[:])
			for i := range want.rows {
				require.Equal(t, bitsOf(want.rows[i][:]), bitsOf(c.rows[i][:]), "round %d: observation %d", k, i)
			}
			g.check(t)
			if stage >= kernels.StageArrive {
				require.Equal(t, []any{wantS.Extra, wantS.Gain, wantS.Last, wantA.Reads}, []any{s.Extra, s.Gain, s.Last, a.Reads})
			}
			if stage == kernels.StageEnter || stage == kernels.StageArrive && a.Reads != 0 {
				require.Equal(t, wantA.Joins, a.Joins)
			}
			left[stage]++
			if done == len(c.members) {
				all++
			}
			for i := range done {
				ended += int(c.members[i].Ended)
				if c.draws(&c.members[i]).Counts == &c.counts[4] {
					bursts++
				}
				reads += int(c.members[i].Ledger.Counters.SwapReads)
			}
		}
		if kernels.StepsPay() {
			for _, n := range []int{left[kernels.StageOperate], left[kernels.StageEnter], left[kernels.StageArrive], all, ended, bursts, reads} {
				require.Positive(t, n)
			}
		}
	})
}
