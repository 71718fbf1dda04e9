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
	// soloEnvs is the batch size below which waking workers costs more than it brings (measured; docs/performance.md).
	soloEnvs = 32
)

type job struct {
	actions           Actions
	first, end, chunk int32 // never change

	shares []share // one a worker

	_    [64]byte
	left atomic.Int32 // environments not yet done
	_    [60]byte

	active  atomic.Bool
	waiting atomic.Bool
	done    chan struct{}
	failed  atomic.Pointer[stepPanic]
}

// share is the part of a job that one worker claims from first.
type share struct {
	first, end int32 // never change
	next       atomic.Int32
	_          [116]byte // claims must not share a cache line, nor the pair of lines that some processors fetch together
}

// claim takes up to n environments; none if none are left.
func (s *share) claim(n int32) (lo, hi int32) {
	if s.next.Load() >= s.end { // so that who finds nothing writes nothing
		return 0, 0
	}
	lo = s.next.Add(n) - n
	return lo, min(lo+n, s.end)
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
	batch   *Batch
	workers int
	epoch   atomic.Uint64 // increases with every job; what workers wait for
	mu      sync.Mutex
	wake    *sync.Cond
	parked  atomic.Int32
	closing atomic.Bool
	exited  sync.WaitGroup
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
		j.done = make(chan struct{}, 1)
	}
	return p
}

// divide gives every worker a share of whole chunks, as equal as they allow. Nothing can be claimed yet.
func (j *job) divide(workers int) {
	j.shares = make([]share, workers)
	chunks, first := int(j.end-j.first+j.chunk-1)/int(j.chunk), j.first
	for k := range j.shares {
		s := &j.shares[k]
		s.first, s.end = first, min(j.end, j.first+int32((k+1)*chunks/workers)*j.chunk)
		s.next.Store(s.end)
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
	// The order matters: a worker still looking at the last job may claim from this one as soon as a share's next is stored.
	j.waiting.Store(false)
	j.left.Store(j.end - j.first)
	j.active.Store(true)
	for k := range j.shares {
		j.shares[k].next.Store(j.shares[k].first)
	}
	if p.workers == 1 {
		return
	}
	p.epoch.Add(1)
	if p.parked.Load() > 0 {
		p.mu.Lock()
		p.wake.Broadcast()
		p.mu.Unlock()
	}
}

// wait works on the job until nothing is left to claim, then waits for the others.
func (p *pool) wait(j *job) {
	p.run(j, 0, p.batch.scratch)
	if j.left.Load() == 0 {
		j.active.Store(false)
		return
	}
	for deadline, i := time.Now().Add(spinTime), 0; ; i++ {
		if j.left.Load() == 0 {
			break
		}
		if i%spinsPerAsk == spinsPerAsk-1 {
			if time.Now().After(deadline) {
				p.park(j)
				break
			}
			runtime.Gosched()
		}
	}
	j.active.Store(false)
}

// park sleeps until the worker that finishes the job's last chunk wakes the caller.
func (p *pool) park(j *job) {
	j.waiting.Store(true)
	for j.left.Load() != 0 {
		<-j.done
	}
	select { // a wake-up that came too late must not end the next wait early
	case <-j.done:
	default:
	}
}

// run claims and steps chunks of the job until none is left, those of worker k's share first. Nothing of it is done before all of it is:
// the last row of one chunk may be written by the first step of the next.
func (p *pool) run(j *job, k int, s *scratch) {
	v, did := env{scratch: s}, int32(0)
	for range j.shares {
		did += p.runShare(j, &j.shares[k], &v)
		if k++; k == len(j.shares) {
			k = 0
		}
	}
	if did == 0 {
		return
	}
	s.trail.Flush()
	p.batch.publish()
	if j.left.Add(-did) == 0 && j.waiting.Load() {
		select {
		case j.done <- struct{}{}:
		default:
		}
	}
}

// runShare returns how many environments it has stepped.
func (p *pool) runShare(j *job, part *share, v *env) (did int32) {
	for j.active.Load() {
		lo, hi := part.claim(j.chunk)
		if lo >= hi {
			break
		}
		p.steps(j, int(lo), int(hi), v)
		did += hi - lo
	}
	return did
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
