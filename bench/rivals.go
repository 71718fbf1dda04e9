package bench

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kvgym/kvgym/bench/rivals"
	"github.com/kvgym/kvgym/vecenv"
)

// Names of rivals, as in Ratio.Against.
const (
	cPlain          = "c-aos-1"
	cTwo            = "c-aos-2"
	cTuned          = "c-tuned-1"
	gymSync         = "gymnasium-sync"
	gymAsync        = "gymnasium-async"
	envpoolCartPole = "envpool-cartpole"
	gymCartPole     = "gymnasium-cartpole-vector"
)

// programs are the rivals that this machine has; a path is "" where it has not.
type programs struct {
	c      string
	python string
	have   map[string]bool // Python rivals whose packages are there
}

// findRivals builds and finds what there is, and tells what is skipped.
func (r *run) findRivals(ctx context.Context) error {
	c, err := r.cfg.buildC(ctx, r.dir)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		r.skip(err.Error(), cPlain, cTwo, cTuned)
	} else {
		r.programs.c = c
	}
	pythons := []string{gymSync, gymAsync, gymCartPole, envpoolCartPole}
	python, err := r.cfg.findPython(r.cfg.Root)
	if err != nil {
		r.skip(err.Error(), pythons...)
		return nil
	}
	if err := rivals.WritePython(r.dir); err != nil {
		return err
	}
	r.programs.python, r.programs.have = python, map[string]bool{}
	missing := map[string]error{}
	for _, module := range []string{"gymnasium", "envpool"} {
		missing[module] = probe(ctx, python, module)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	for _, name := range pythons {
		module := "gymnasium"
		if name == envpoolCartPole {
			module = "envpool"
		}
		if missing[module] != nil {
			r.skip(missing[module].Error(), name)
		} else {
			r.programs.have[name] = true
		}
	}
	return nil
}

// probe tells why a Python interpreter cannot import a module, if it cannot.
func probe(ctx context.Context, python, module string) error {
	out, err := exec.CommandContext(ctx, python, "-c", "import numpy, "+module).CombinedOutput()
	if err == nil {
		return nil
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return fmt.Errorf("rivals: %s cannot import %s: %w: %.200s", python, module, err, lines[len(lines)-1])
}

// playing is a rival of the same rules: processes that share the environments of a scene equally and step at once.
func (r *run) playing(name string, profile vecenv.Profile, envs, processes int, program string, args ...string) *contestant {
	x := &contestant{name: name, profile: profile, envs: envs, workers: processes, obs: obsF32, level: r.level}
	var ps []*rivals.Process
	x.open = func(ctx context.Context) error {
		s, err := r.scene(ctx, profile, envs)
		if err != nil {
			return err
		}
		x.close = func() { closeAll(ps) }
		for k := range processes {
			p, err := rivals.Start(ctx, program, args...)
			if err != nil {
				return err
			}
			ps = append(ps, p)
			if err := r.prepare(ctx, p, s, name, envs*k/processes, envs*(k+1)/processes); err != nil {
				return err
			}
		}
		x.checked = true
		return nil
	}
	x.take = func(_ context.Context, cycles int) (turn, error) {
		return together(ps, func(p *rivals.Process) (turn, error) {
			took, err := p.Run(cycles)
			return turnOf(int64(cycles*timed*envs/processes), took), err
		})
	}
	return x
}

// prepare gives a rival rows [first, end) of a scene, and compares its digest.
func (r *run) prepare(ctx context.Context, p *rivals.Process, s *scene, name string, first, end int) error {
	w, err := s.rival(r.dir, first, end)
	if err != nil {
		return err
	}
	if name == cTuned {
		w.Style = "tuned"
	}
	if err := p.Init(w); err != nil {
		return err
	}
	if err := p.Stagger(); err != nil {
		return err
	}
	got, err := p.Digest()
	if err != nil {
		return err
	}
	want, err := s.want(ctx, first, end)
	if err == nil && got != want {
		err = fmt.Errorf("digest %016x: allowed %016x, that of kvgym: it does not give the same observations, rewards and flags, so that "+
			"a ratio would say nothing", got, want)
	}
	return err
}

// turnOf is a turn of so many steps.
func turnOf(steps int64, took time.Duration) turn {
	return turn{rate: float64(steps) / took.Seconds(), took: took}
}

// together lets processes or batches run at once, and adds their rates.
func together[T any](ps []T, take func(T) (turn, error)) (turn, error) {
	turns, errs := make([]turn, len(ps)), make([]error, len(ps))
	var wg sync.WaitGroup
	for k, p := range ps {
		wg.Go(func() { turns[k], errs[k] = take(p) })
	}
	wg.Wait()
	sum := turns[0]
	for _, t := range turns[1:] {
		sum.rate += t.rate
		sum.took = min(sum.took, t.took)
	}
	return sum, errors.Join(errs...)
}

// closeAll ends processes; what they say about it is no news for who measures.
func closeAll(ps []*rivals.Process) {
	for _, p := range ps {
		_ = p.Close()
	}
}

// gymnasium is the Python environment under a vector environment of Gymnasium; mode is sync or async.
func (r *run) gymnasium(name, mode string) *contestant {
	x := r.playing(name, vecenv.Seed, pythonEnvs, 1, r.programs.python, filepath.Join(r.dir, "gymnasium_rival.py"), mode)
	if mode == "async" {
		x.settings = fmt.Sprintf("a process an environment, %d", pythonEnvs)
	}
	return x
}

// cartPoleSetting is one way to step CartPole.
type cartPoleSetting struct {
	processes int
	rivals.CartPole
}

func (s cartPoleSetting) String() string {
	text := fmt.Sprintf("processes=%d/envs=%d", s.processes, s.Envs)
	if s.Threads != 0 {
		text += fmt.Sprintf("/threads=%d", s.Threads)
	}
	if s.Batch != 0 {
		text += fmt.Sprintf("/async/batch=%d", s.Batch)
	}
	return text
}

// cartPoleSettings are the settings that are tried.
func cartPoleSettings(kind string, cores int) (list []cartPoleSetting) {
	const steps = 16 // batches of a cycle
	threads := 0
	if kind == "envpool" {
		threads = 1 // more are slower in synchronous mode
		list = append(list, cartPoleSetting{1, rivals.CartPole{Kind: kind, Envs: 2048, Batch: 1024, Threads: cores, Steps: steps}})
	}
	for _, processes := range slices.Compact([]int{1, cores}) {
		for _, envs := range []int{1024, 4096} {
			list = append(list, cartPoleSetting{processes, rivals.CartPole{Kind: kind, Envs: envs, Threads: threads, Steps: steps}})
		}
	}
	return list
}

// cartPole is CartPole at the setting that was best when it was opened.
func (r *run) cartPole(name, kind string) *contestant {
	x := &contestant{name: name, profile: vecenv.Seed, level: r.level}
	x.open = func(ctx context.Context) error {
		settings := cartPoleSettings(kind, r.cfg.Workers)
		return openBest(ctx, r, x, settings, func(s cartPoleSetting) (*contestant, error) { return r.cartPoleWith(ctx, s) })
	}
	return x
}

// cartPoleWith starts the processes of a setting; close must be called even after an error.
func (r *run) cartPoleWith(ctx context.Context, s cartPoleSetting) (*contestant, error) {
	var ps []*rivals.Process
	c := &contestant{settings: s.String(), envs: s.Envs * s.processes, workers: s.processes, level: r.level, close: func() { closeAll(ps) }}
	for range s.processes {
		p, err := rivals.Start(ctx, r.programs.python, filepath.Join(r.dir, "cartpole_rival.py"))
		if err != nil {
			return c, err
		}
		ps = append(ps, p)
		if err := p.InitCartPole(s.CartPole); err != nil {
			return c, err
		}
	}
	c.take = func(_ context.Context, cycles int) (turn, error) {
		return together(ps, func(p *rivals.Process) (turn, error) {
			took, steps, err := p.RunCartPole(cycles)
			return turnOf(steps, took), err
		})
	}
	return c, nil
}
