package export

import (
	"fmt"
	"os"
	"slices"
	"sync"

	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/vecenv"
)

// MaxTraces is how many traces Traces keeps.
const MaxTraces = 4

// Traces keeps the traces that it has read last, so that many small environments of one file read it once. The zero value is ready; any
// goroutine may use it.
type Traces struct {
	mu   sync.Mutex
	kept []*kept // last used first
}

// kept is a trace that is being read or has been.
type kept struct {
	key  traceKey
	once sync.Once
	src  *scenario.Traffic
	err  error
}

// traceKey tells traces apart: how the file is read, on what server, and which state of the file.
type traceKey struct {
	cfg     scenario.TrafficConfig // without Serving and Difficulty
	server  string
	size    int64
	changed int64
}

// Config is Spec.Config for one small environment: with a trace that may have been read before, at the SIMD level that the process has.
func (t *Traces) Config(s *Spec) (c vecenv.Config, err error) {
	if s.SIMD != "" {
		return c, fmt.Errorf("config: simd: %.40q: allowed none, an episode has the process's level", s.SIMD)
	}
	if err := kernels.Problem(); err != nil {
		return c, err
	}
	if c, err = s.words(); err != nil {
		return c, err
	}
	return c, s.sources(&c, t.load)
}

func (t *Traces) load(tc scenario.TrafficConfig) (*scenario.Traffic, error) {
	info, err := os.Stat(tc.Path)
	if err != nil {
		return scenario.LoadTraffic(tc) // which says what is wrong
	}
	key := traceKey{cfg: tc, size: info.Size(), changed: info.ModTime().UnixNano()}
	key.cfg.Serving, key.cfg.Difficulty = nil, 0
	if tc.Serving != nil {
		key.server = tc.Serving.Fingerprint()
	}
	k := t.find(key)
	k.once.Do(func() { k.src, k.err = scenario.LoadTraffic(tc) })
	if k.err != nil {
		t.forget(k)
		return nil, k.err
	}
	return k.src.WithDifficulty(tc.Difficulty)
}

// find is the place of a trace, now the first.
func (t *Traces) find(key traceKey) *kept {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.IndexFunc(t.kept, func(k *kept) bool { return k.key == key })
	k := &kept{key: key}
	if i >= 0 {
		k = t.kept[i]
		t.kept = slices.Delete(t.kept, i, i+1)
	}
	t.kept = slices.Insert(t.kept, 0, k)
	t.kept = t.kept[:min(len(t.kept), MaxTraces)]
	return k
}

// forget lets the next one read the file again.
func (t *Traces) forget(k *kept) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = slices.DeleteFunc(t.kept, func(o *kept) bool { return o == k })
}
