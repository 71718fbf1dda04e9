package vecenv

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kvgym/kvgym/scenario"
)

// The pool: Workers-1 goroutines live as long as the batch, and the caller works too. A job is a group's step; its
// environments are claimed in chunks through atomic counters. Each worker has a share of its own, which it claims first in every step,
// so that the states and rows of its environments stay in its core's cache; then it helps with the others', so a worker that is late
// or descheduled costs at most one chunk. Waiting spins for spinTime, yielding, and then parks, so a shared machine is not burnt.
const (
	spinTime    = 200 * time.Microsecond
	spinsPerAsk = 64 // spins between looks at the clock
	minChunk    = 16
	cacheLine   = 64
	// soloEnvs is the batch size below which waking workers costs more than it brings (measured; docs/performance.md).
	soloEnvs = 32
)

// job is done again and again, once a step. Each time costs the caller two writes to lines that other cores have: number with the actions, and
// the pool's epoch.
type job struct {
	actions Actions
	number  atomic.Uint32 // counts its steps

	_                 [64]byte
	first, end, chunk int32   // never change
	shares            []share // one a worker

	_    [64]byte
	done atomic.Uint32 // environments, in all steps; modulo 2^32
	_    [60]byte

	waiting atomic.Bool // the caller sleeps
	woken   chan struct{}
	failed  atomic.Pointer[stepPanic]
}

// doneAt is what done is when a step is.
func (j *job) doneAt(number uint32) uint32 { return number * uint32(j.end-j.first) }

// share is the part of a job that one worker claims from first.
type share struct {
	first, end int32         // never change
	claimed    atomic.Uint64 // upper half: the step that the lower one is of; lower half: the first environment that nobody has claimed
	_          [112]byte     // claims must not share a cache line, nor the pair of lines that some processors fetch together
}

// claim takes up to n environments for a step; none if none are left. Nobody has to make a share ready for the next step: the first claim
// does, and one of a step that is over finds nothing.
func (s *share) claim(number uint32, n int32) (lo, hi int32) {
	for {
		was := s.claimed.Load()
		later := int32(number - uint32(was>>32))
		if lo = s.first; later == 0 {
			lo = int32(uint32(was))
		}
		if later < 0 || lo >= s.end {
			return 0, 0
		}
		hi = min(lo+n, s.end)
		if s.claimed.CompareAndSwap(was, uint64(number)<<32|uint64(uint32(hi))) {
			return lo, hi
		}
	}
}

type stepPanic struct {
	env   int
	id    scenario.Identity
	value any
	stack []byte
}

// PanicError tells that a step panicked; the batch that returns it is broken and returns it from then on.
type PanicError struct {
	Env      int               // row
	Identity scenario.Identity // the episode it played
	Value    any               // what was panicked with
	Stack    []byte            // of the panicking goroutine
}

func (e *PanicError) Error() string {
	return fmt.Sprintf("vecenv: step: environment %d (seed %d, env %d, episode %d): panic: %v: the batch is broken, make a new one",
		e.Env, e.Identity.Seed, e.Identity.Env, e.Identity.Episode, e.Value)
}

type pool struct {
	batch     *Batch
	workers   int
	epoch     atomic.Uint64 // increases with every job; what workers wait for
	mu        sync.Mutex
	wake      *sync.Cond
	parked    atomic.Int32
	closing   atomic.Bool
	exited    sync.WaitGroup
	flagsMeet bool // workers have so few environments each that much of their flags stands in one cache line
}

func newPool(b *Batch, workers int) *pool {
	p := &pool{batch: b, workers: min(workers, (b.cfg.Envs+minChunk-1)/minChunk)}
	if b.cfg.Envs < soloEnvs {
		p.workers = 1
	}
	p.wake = sync.NewCond(&p.mu)
	for g := range b.groups {
		j, first, end := &b.groups[g].job, b.groups[g].first, b.groups[g].end
		j.first, j.end = int32(first), int32(end)
		j.chunk = int32(max(minChunk, min(256, (end-first)/(4*p.workers))))
		j.divide(p.workers)
		p.flagsMeet = p.flagsMeet || p.workers > 1 && j.chunk < cacheLine && j.shares[0].end%cacheLine != 0 // chunks of groups differ by one at most
		j.woken = make(chan struct{}, 1)
	}
	return p
}

// divide gives every worker a share of whole chunks, as equal as they allow. Of step 0 all is claimed.
func (j *job) divide(workers int) {
	j.shares = make([]share, workers)
	chunks, first := int(j.end-j.first+j.chunk-1)/int(j.chunk), j.first
	for k := range j.shares {
		s := &j.shares[k]
		s.first, s.end = first, min(j.end, j.first+int32((k+1)*chunks/workers)*j.chunk)
		s.claimed.Store(uint64(uint32(s.end)))
		first = s.end
	}
}

// startWorkers starts all workers but the caller, and waits until those that are to be pinned are.
func (p *pool) startWorkers(pinned bool) error {
	ready := make(chan error)
	for k := range p.workers - 1 {
		p.exited.Add(1)
		go func() {
			var err error
			if pinned {
				var release func()
				release, err = pin(k + 1) // the caller is wherever it likes, often on the first
				defer release()
			}
			ready <- err
			p.work(k+1, newScratch())
		}()
	}
	var first error
	for range p.workers - 1 {
		if err := <-ready; err != nil && first == nil {
			first = err
		}
	}
	return first
}

func (p *pool) close() {
	p.mu.Lock()
	p.closing.Store(true)
	p.wake.Broadcast()
	p.mu.Unlock()
	p.exited.Wait()
}

// start publishes a job.
func (p *pool) start(j *job) {
	if p.workers == 1 {
		return
	}
	j.number.Add(1) // from here on a worker may claim
	p.epoch.Add(1)
	if p.parked.Load() > 0 {
		p.mu.Lock()
		p.wake.Broadcast()
		p.mu.Unlock()
	}
}

// wait works on the job until nothing is left to claim, then waits for the others.
func (p *pool) wait(j *job) {
	if p.workers == 1 { // nothing is claimed or counted
		v := env{scratch: p.batch.scratch}
		p.steps(j, int(j.first), int(j.end), &v)
		p.finish(v.scratch)
		return
	}
	p.run(j, 0, p.batch.scratch)
	all := j.doneAt(j.number.Load())
	if j.done.Load() == all {
		return
	}
	for deadline, i := time.Now().Add(spinTime), 0; j.done.Load() != all; i++ {
		if i%spinsPerAsk == spinsPerAsk-1 {
			if time.Now().After(deadline) {
				j.park(all)
				return
			}
			runtime.Gosched()
		}
	}
}

// park sleeps until the worker that finishes the step's last chunk wakes the caller. A wake-up that comes too late, for a wait that is over, ends
// no other: that looks again, and sleeps on.
func (j *job) park(all uint32) {
	j.waiting.Store(true)
	for j.done.Load() != all {
		<-j.woken
	}
	j.waiting.Store(false)
}

// run claims and steps chunks of the job until none is left, those of worker k's share first. Nothing of it is done before all of it is:
// the last row of one chunk may be written by the first step of the next.
func (p *pool) run(j *job, k int, s *scratch) {
	v, did, number := env{scratch: s}, uint32(0), j.number.Load()
	for range j.shares {
		did += p.runShare(j, number, &j.shares[k], &v)
		if k++; k == len(j.shares) {
			k = 0
		}
	}
	if did == 0 {
		return
	}
	p.finish(s)
	if j.done.Add(did) == j.doneAt(number) && j.waiting.Load() {
		select {
		case j.woken <- struct{}{}:
		default:
		}
	}
}

// finish writes the observation that a worker has left, and makes its stores visible to whoever is told next that they are done.
func (p *pool) finish(s *scratch) {
	s.trail.Flush()
	p.batch.publish()
}

// runShare returns how many environments it has stepped.
func (p *pool) runShare(j *job, number uint32, part *share, v *env) (did uint32) {
	for {
		lo, hi := part.claim(number, j.chunk)
		if lo >= hi {
			return did
		}
		p.steps(j, int(lo), int(hi), v)
		did += uint32(hi - lo)
	}
}

// steps steps environments [lo, hi); a panic is kept for the caller instead of crossing into the runtime.
func (p *pool) steps(j *job, lo, hi int, v *env) {
	i, b := lo, p.batch
	if b.trails && v.trail == nil { // asked behind a claim: before one, a caller may be giving the batch other buffers
		v.trail, v.scratch.run = &v.scratch.trail, b.run
	}
	defer func() {
		if r := recover(); r != nil {
			j.failed.CompareAndSwap(nil, &stepPanic{env: i, id: b.ids[i], value: r, stack: debug.Stack()})
		}
	}()
	for i < hi {
		if b.runs && j.actions.Ops != nil && v.trail.To != nil {
			if b.stepRun(v, &i, hi, int(j.first), &j.actions); i == hi {
				break
			}
		}
		b.prefetch(min(i+1, hi-1))
		b.stepEnv(v, i, i-int(j.first), &j.actions)
		i++
	}
}

// takePanic returns the panic of a finished job as an error, and forgets it.
func (j *job) takePanic() error {
	f := j.failed.Swap(nil)
	if f == nil {
		return nil
	}
	return &PanicError{Env: f.env, Identity: f.id, Value: f.value, Stack: f.stack}
}

// work is the life of worker k, which has a scratch of its own.
func (p *pool) work(k int, s *scratch) {
	defer p.exited.Done()
	var seen uint64
	for !p.closing.Load() {
		now := p.epoch.Load()
		if now == seen {
			p.idle(seen)
			continue
		}
		seen = now
		for g := range p.batch.groups {
			p.run(&p.batch.groups[g].job, k, s)
		}
	}
}

// idle spins until the epoch moves, then parks.
func (p *pool) idle(seen uint64) {
	for deadline, i := time.Now().Add(spinTime), 0; ; i++ {
		if p.epoch.Load() != seen || p.closing.Load() {
			return
		}
		if i%spinsPerAsk == spinsPerAsk-1 {
			if time.Now().After(deadline) {
				break
			}
			runtime.Gosched()
		}
	}
	p.mu.Lock()
	p.parked.Add(1)
	for p.epoch.Load() == seen && !p.closing.Load() {
		p.wake.Wait()
	}
	p.parked.Add(-1)
	p.mu.Unlock()
}
