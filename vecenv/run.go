package vecenv

import (
	"unsafe"

	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/reward"
)

// askFrom is the size of the observation tensor from which a step asks for memory ahead; docs/performance.md.
const askFrom = 2 << 20

// chooseRuns says whether one kernel steps one environment after the other: where observations trail, and nothing else describes a step than
// observation, reward and flags.
func (b *Batch) chooseRuns() {
	r := &b.rules[Seed]
	b.runs = b.trails && b.serving == nil && b.Mask == nil && b.Components == nil && b.Metrics == nil && kernels.StepsPay()
	if !b.runs {
		return
	}
	var h head
	const size = int(unsafe.Sizeof(head{}))
	fromLedger := func(offset uintptr) int { return int(offset) - int(unsafe.Offsetof(h.Ledger)) }
	b.run = kernels.Run{
		Stride:   [8]int{int(unsafe.Sizeof(block{})), size, size, size, r.words * 8, r.words * 4, kernels.Lanes, kernels.TrailRow * 4},
		Key:      fromLedger(unsafe.Offsetof(h.Episode) + unsafe.Offsetof(h.Episode.Key)),
		Level:    fromLedger(unsafe.Offsetof(h.Episode) + unsafe.Offsetof(h.Episode.ArrivalLevel)),
		Ended:    fromLedger(unsafe.Offsetof(h.Ended)),
		Terminal: 1,
		Ahead:    4*len(b.Obs) >= askFrom,
		Last:     r.steps,
		Weights:  (*[reward.SeedTerms]int64)(reward.SeedWeights[:]),
	}
	if r.truncate {
		b.run.Terminal, b.run.Truncate = 0, 1
	}
	if b.cfg.Autoreset == SameStep { // whose last step leads to two observations
		b.run.Last--
	}
	r.drawn.Arrivals(&b.run.Arrivals)
}

// stepRun lets environments from the one at next on step, which moves on, until one is to step otherwise. The actions are of environments
// from first on.
func (b *Batch) stepRun(v *env, next *int, hi, first int, a *Actions) {
	r, f, s := &v.scratch.run, &v.rules.frame, v.scratch
	for *next < hi {
		i := *next
		b.load(v, i)
		p, q := &r.Seat, &v.seat // field by field; as in sit
		p.Block, p.Ledger, p.Limits, p.Pages, p.Queue, p.Needs = q.Block, q.Ledger, q.Limits, q.Pages, q.Queue, q.Needs
		r.Ops = (*[kernels.Lanes]uint8)(a.Ops[(i-first)*kernels.Lanes:])
		r.Row = (*[kernels.TrailRow]float32)(b.Obs[i*kernels.TrailRow:])
		r.Reward, r.Terminated, r.Truncated = &b.Reward[i], &b.Terminated[i], &b.Truncated[i]
		if b.pool.flagsMeet {
			r.Terminated, r.Truncated = &s.terminated[0], &s.truncated[0]
		}
		n, left := kernels.Steps(r, hi-i, f, &s.admission, &s.shared, v.trail)
		if b.pool.flagsMeet {
			copy(b.Terminated[i:], s.terminated[:n])
			copy(b.Truncated[i:], s.truncated[:n])
		}
		i += n
		if *next = i; left == kernels.StageOperate {
			return
		}
		b.load(v, i)
		v.complete(left)
		v.Growth += v.QueueLen
		b.finishEnv(v, i)
		*next = i + 1
	}
}
