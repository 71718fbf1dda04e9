package bench

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/vecenv"
)

// run is one call of Run.
type run struct {
	cfg      Config
	level    kernels.Level // that Run found
	dir      string        // for files that rivals read
	programs programs
	scenes   map[sceneKey]*scene // of the present comparison
	skipped  []Skipped

	done, total int64 // turns
}

type sceneKey struct {
	profile vecenv.Profile
	envs    int
}

// Run measures at the SIMD level that is active; see the package documentation for what is measured and how, and for what may not
// happen meanwhile. It blocks for about the number of turns times Config.Turn and half as long for preparations, and returns ctx's
// error soon after ctx ends.
func Run(ctx context.Context, cfg Config) (_ *Report, err error) {
	cfg, err = cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	r := &run{cfg: cfg, level: kernels.Active()}
	defer func() { _ = kernels.Use(r.level) }()
	if cfg.Rivals {
		if r.dir, err = os.MkdirTemp("", "kvgym-bench"); err != nil {
			return nil, fmt.Errorf("bench: %w", err)
		}
		defer os.RemoveAll(r.dir)
		if err := r.findRivals(ctx); err != nil {
			return nil, err
		}
	}
	start := time.Now()
	comparisons := r.plan()
	for _, c := range comparisons {
		r.total += c.turns(cfg.Rounds)
	}
	rep := newReport(&cfg, r.level)
	rep.Skipped = append(rep.Skipped, r.skipped...)
	for _, c := range comparisons {
		if err := r.measure(ctx, c); err != nil {
			return nil, err
		}
		rep.add(&cfg, c)
	}
	rep.SecondsTotal = time.Since(start).Seconds()
	return rep, nil
}

// plan says what is compared. Memory is taken only when a comparison's turn has come.
func (r *run) plan() (list []*comparison) {
	for _, envs := range r.cfg.Envs {
		for _, obs := range obsKinds {
			list = append(list, r.steps(vecenv.Seed, envs, obs))
		}
	}
	for _, obs := range obsKinds {
		list = append(list, r.steps(vecenv.Serving, r.cfg.envsNear(mainEnvs), obs))
	}
	if c := r.otherGames(); c != nil {
		list = append(list, c)
	}
	return list
}

// steps compares numbers of workers on one workload, and with what else there is for it.
func (r *run) steps(profile vecenv.Profile, envs int, obs string) *comparison {
	c := &comparison{}
	rivals := r.cfg.Rivals && obs == obsF32 && slices.Contains(r.cfg.rivalEnvs, envs)
	counts := []int{1}
	if rivals && r.cfg.Workers > 2 {
		counts = append(counts, 2) // against two processes
	}
	if r.cfg.Workers > 1 {
		counts = append(counts, r.cfg.Workers)
	}
	ours := map[int]*contestant{}
	for _, n := range counts {
		ours[n] = c.add(r.ours(profile, envs, n, obs, r.level, false))
		if n > 1 {
			c.compare(ours[n], ours[1], "go-1-worker")
		}
	}
	if obsBytes(obs, r.cfg.Slots) > 0 {
		for _, n := range counts {
			ours[n].stores = c.add(r.ntStore(profile, envs, n, obs))
			c.compare(ours[n], ours[n].stores, "nt-store")
		}
	}
	if rivals {
		r.addC(c, profile, envs, ours)
	}
	return c
}

// addC adds the C rivals, and the lower levels.
func (r *run) addC(c *comparison, profile vecenv.Profile, envs int, ours map[int]*contestant) {
	single := []*contestant{ours[1]}
	if profile == vecenv.Seed && envs == r.cfg.envsNear(mainEnvs) {
		for _, l := range slices.Backward(kernels.Levels()) {
			if l >= r.level {
				continue
			}
			lower := c.add(r.ours(profile, envs, 1, obsF32, l, true))
			lower.stores = ours[1].stores
			single = append(single, lower)
			if l == kernels.Generic {
				for _, better := range single[:len(single)-1] {
					c.compare(better, lower, l.String())
				}
			}
		}
	}
	if r.programs.c == "" {
		return
	}
	plain := c.add(r.playing(cPlain, profile, envs, 1, r.programs.c))
	for _, x := range single {
		c.compare(x, plain, cPlain)
	}
	if most := ours[r.cfg.Workers]; most != ours[1] {
		c.compare(most, plain, cPlain)
	}
	switch {
	case r.cfg.Workers == 1:
		r.skip("workers: 1: allowed at least 2, so that there is something to compare two processes with", cTwo)
	case envs%(2*phases) != 0: // the halves would be staggered in another way
		r.skip(fmt.Sprintf("envs: %d: allowed a multiple of %d for two processes", envs, 2*phases), cTwo)
	default:
		c.compare(ours[2], c.add(r.playing(cTwo, profile, envs, 2, r.programs.c)), cTwo)
	}
	tuned := c.add(r.playing(cTuned, profile, envs, 1, r.programs.c))
	for _, x := range single {
		c.compare(x, tuned, cTuned)
	}
}

// otherGames compares with Python: with the same rules at as many environments, and with all workers at those of most comparisons, of CartPole,
// and of a batch for each worker; with CartPole at its own.
func (r *run) otherGames() *comparison {
	if len(r.programs.have) == 0 {
		return nil
	}
	c := &comparison{}
	var many []*contestant
	for _, n := range slices.Compact([]int{r.cfg.envsNear(mainEnvs), r.cfg.envsNear(cartPoleEnvs)}) {
		many = append(many, c.add(r.ours(vecenv.Seed, n, r.cfg.Workers, obsF32, r.level, false)))
	}
	vector := many
	if r.cfg.Workers > 1 {
		vector = append(vector, c.add(r.apart(obsF32)))
	}
	var few *contestant
	for _, g := range [][2]string{{gymSync, "sync"}, {gymAsync, "async"}} {
		if !r.programs.have[g[0]] {
			continue
		}
		if few == nil {
			few = c.add(r.ours(vecenv.Seed, pythonEnvs, 1, obsF32, r.level, false))
			few.stores = c.add(r.ntStore(vecenv.Seed, pythonEnvs, 1, obsF32))
		}
		x := c.add(r.gymnasium(g[0], g[1]))
		c.compare(few, x, g[0])
		for _, ours := range vector {
			c.compare(ours, x, g[0])
		}
	}
	for _, g := range [][2]string{{envpoolCartPole, "envpool"}, {gymCartPole, "gymnasium-vector"}} {
		if r.programs.have[g[0]] {
			c.compare(many[len(many)-1], c.add(r.cartPole(g[0], g[1])), g[0])
		}
	}
	return c
}

// scene is the scene of the present comparison for so many environments.
func (r *run) scene(ctx context.Context, profile vecenv.Profile, envs int) (*scene, error) {
	key := sceneKey{profile, envs}
	if s := r.scenes[key]; s != nil {
		return s, nil
	}
	s, err := newScene(ctx, profile, envs, r.cfg.Slots, r.cfg.Seed, 0, nil)
	if err != nil {
		return nil, err
	}
	if r.scenes == nil {
		r.scenes = map[sceneKey]*scene{}
	}
	r.scenes[key] = s
	return s, nil
}

func (r *run) closeScenes() {
	for _, s := range r.scenes {
		s.close()
	}
	r.scenes = nil
}

// skip notes rivals that are left out. Reasons are told once for a rival.
func (r *run) skip(why string, names ...string) {
	why = strings.Join(strings.Fields(why), " ")
	for _, n := range names {
		s := Skipped{Against: n, Why: why}
		if !slices.Contains(r.skipped, s) {
			r.skipped = append(r.skipped, s)
			r.cfg.Skip(s)
		}
	}
}

// step tells of a turn that is done.
func (r *run) step() {
	r.done++
	r.cfg.Progress(r.done, r.total)
}
