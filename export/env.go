package export

import (
	"errors"
	"fmt"
	"sync"

	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/policy"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/vecenv"
)

// Env is a batch in foreign hands. Any goroutine may call it, one at a time: a call that meets another one is refused with ErrBusy.
type Env struct {
	mu      sync.Mutex
	batch   *vecenv.Batch
	drivers map[string]*policy.Driver
}

// ErrBusy tells that another thread is in a call with the same environment.
var ErrBusy = errors.New("another thread is in a call with this environment: allowed one at a time")

// open counts what is open in this process, all at one SIMD level.
var open struct {
	sync.Mutex
	envs int
}

// Open makes a batch. Tensors that are nil are allocated.
func Open(s *Spec, tensors vecenv.Buffers) (*Env, error) {
	open.Lock()
	defer open.Unlock()
	before := kernels.Active()
	cfg, err := s.Config()
	if now := kernels.Active(); now != before && (open.envs > 0 || err != nil) {
		if err == nil {
			err = fmt.Errorf("config: simd: %q while other environments run at %s: allowed one level in a process", s.SIMD, before)
		}
		_ = kernels.Use(before)
	}
	if err != nil {
		return nil, err
	}
	cfg.Buffers = tensors
	b, err := vecenv.New(cfg)
	if err != nil {
		return nil, InWords(err)
	}
	open.envs++
	return &Env{batch: b, drivers: map[string]*policy.Driver{}}, nil
}

// Close stops the workers; a second call does nothing.
func (e *Env) Close() error {
	if !e.mu.TryLock() {
		return ErrBusy
	}
	defer e.mu.Unlock()
	if e.batch == nil {
		return nil
	}
	e.batch.Close()
	e.batch = nil
	open.Lock()
	open.envs--
	open.Unlock()
	return nil
}

// use runs f with the batch, unless it is closed or in use.
func (e *Env) use(f func(b *vecenv.Batch) error) error {
	if !e.mu.TryLock() {
		return ErrBusy
	}
	defer e.mu.Unlock()
	if e.batch == nil {
		return vecenv.ErrClosed
	}
	return f(e.batch)
}

// SetBuffers is vecenv's.
func (e *Env) SetBuffers(tensors vecenv.Buffers) error {
	return e.use(func(b *vecenv.Batch) error { return b.SetBuffers(tensors) })
}

// Reset is vecenv's.
func (e *Env) Reset(o vecenv.ResetOptions) error {
	return e.use(func(b *vecenv.Batch) error { return b.Reset(o) })
}

// Step is vecenv's, without a closure: it is called often.
func (e *Env) Step(a vecenv.Actions) error {
	if !e.mu.TryLock() {
		return ErrBusy
	}
	defer e.mu.Unlock()
	if e.batch == nil {
		return vecenv.ErrClosed
	}
	return e.batch.Step(a)
}

// Send is vecenv's.
func (e *Env) Send(group int, a vecenv.Actions) error {
	return e.use(func(b *vecenv.Batch) error { return b.Send(group, a) })
}

// Recv is vecenv's.
func (e *Env) Recv(group int) error {
	return e.use(func(b *vecenv.Batch) error { return b.Recv(group) })
}

// Snapshot is vecenv's.
func (e *Env) Snapshot(first, end int) (out []byte, err error) {
	err = e.use(func(b *vecenv.Batch) error { out, err = b.Snapshot(nil, first, end); return err })
	return out, err
}

// Restore is vecenv's.
func (e *Env) Restore(snapshot []byte, first int) error {
	return e.use(func(b *vecenv.Batch) error { return b.Restore(snapshot, first) })
}

// Fork copies environment from of e to environment to of dst, which may be e.
func (e *Env) Fork(from int, dst *Env, to int) error {
	return e.use(func(b *vecenv.Batch) error {
		if dst == e {
			return b.Fork(from, b, to)
		}
		return dst.use(func(d *vecenv.Batch) error { return b.Fork(from, d, to) })
	})
}

// Decide asks a registered policy for the operations of all environments, as pairs [envs][2*slots][op, slot] for Actions.List.
func (e *Env) Decide(name string, list []int32) error {
	return e.use(func(b *vecenv.Batch) error {
		d := e.drivers[name]
		if d == nil {
			p, err := policy.NewFor(name, b.Config().Slots)
			if err != nil {
				return err
			}
			d = policy.NewDriver(p, b.Envs(), b.Config().Slots)
			e.drivers[name] = d
		}
		got := d.Decide(b).List
		if len(list) != len(got) {
			return fmt.Errorf("decide: %d values: allowed %d, 2 pairs a slot", len(list), len(got))
		}
		copy(list, got)
		return nil
	})
}

// Identities tells which episode each environment plays.
func (e *Env) Identities(f func(i int, id scenario.Identity)) error {
	return e.use(func(b *vecenv.Batch) error {
		for i := range b.Envs() {
			f(i, b.Identity(i))
		}
		return nil
	})
}
