package policy

import (
	"fmt"

	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/vecenv"
)

// searchCandidates are the policies whose moves search tries, each played out to the end by itself.
var searchCandidates = []string{"noop", "greedy", "compress-first", "compress-int8", "compress-all", "value-aware", "lru", "largest-first"}

// servingCandidates are those of the serving profile: every measure, followed by each of some rules of thumb. What follows is
// among the measures, so that search can go on as it has planned.
func servingCandidates(now *int) []Policy {
	measures := []func() Policy{
		func() Policy { return noop{} },
		func() Policy { return &tiered{hold: 101} },
		func() Policy { return &tiered{hold: 60} },
		func() Policy { return &tiered{hold: 30} },
		func() Policy { return &tiered{} },
		func() Policy { return &tiered{compress: true} },
		func() Policy { return &tiered{compress: true, deep: true} },
		func() Policy { return &tiered{eager: kv.INT8, deep: true} },
		func() Policy { return &tiered{running: true} },
		func() Policy { return &tiered{recompute: true} },
		func() Policy { return &constant{level: kv.INT4} },
	}
	rests := []func() Policy{
		func() Policy { return noop{} },
		func() Policy { return &tiered{compress: true} },
		func() Policy { return &tiered{eager: kv.INT8, deep: true} },
	}
	var out []Policy
	for _, first := range measures {
		for _, rest := range rests {
			out = append(out, &once{now: now, first: first(), rest: rest()})
		}
	}
	return append(out, &constant{level: kv.INT8}, &constant{level: kv.INT4})
}

// once takes one policy's measure in the step that is decided now, and another's from then on.
type once struct {
	now         *int
	first, rest Policy
}

func (*once) Name() string { return "once" }

func (o *once) Act(v vecenv.View, a *Actions) {
	if v.Step() == *o.now {
		o.first.Act(v, a)
		return
	}
	o.rest.Act(v, a)
}

// search forks the environment once for every candidate, plays that candidate to the episode's end, and makes the first
// move of the best. The forks see the arrivals that will really come: it is not a fair competitor but a reference for how
// much there is to gain, and at least as good as any candidate on every episode.
type search struct {
	candidates []Policy
	now        int                             // step that is decided
	profile    vecenv.Profile                  // that the candidates are for
	restrict   func(v vecenv.View, a *Actions) // nil; tests take operations away with it
	forks      *vecenv.Batch                   // one environment a candidate
	like       *vecenv.Batch                   // the batch that forks was made for
	acts       []Actions                       // of each candidate in the present step
	first      []Actions                       // of each candidate in the first step
	list       []int32
}

func newSearch() Policy {
	s := &search{}
	s.choose(vecenv.Seed)
	return s
}

// choose makes the candidates of a profile.
func (s *search) choose(p vecenv.Profile) {
	s.profile, s.candidates = p, nil
	if p == vecenv.Serving {
		s.candidates = servingCandidates(&s.now)
	} else {
		for _, n := range searchCandidates {
			p, err := New(n)
			if err != nil {
				panic(fmt.Sprintf("policy: search candidate: %v", err))
			}
			s.candidates = append(s.candidates, p)
		}
	}
	s.acts, s.first = make([]Actions, len(s.candidates)), make([]Actions, len(s.candidates))
}

func (*search) Name() string { return "search" }

func (s *search) Act(v vecenv.View, a *Actions) {
	if err := s.fork(v); err != nil {
		panic(fmt.Sprintf("policy: search: %v", err))
	}
	s.now = v.Step()
	for step := v.Step(); step < v.Steps(); step++ {
		s.play()
		if step == v.Step() {
			for c := range s.acts {
				s.first[c].pairs = append(s.first[c].pairs[:0], s.acts[c].pairs...)
			}
		}
	}
	best := 0
	for c := range s.candidates {
		if s.forks.View(c).Score() > s.forks.View(best).Score() {
			best = c
		}
	}
	a.pairs = append(a.pairs, s.first[best].pairs...)
}

// fork copies the environment once for every candidate.
func (s *search) fork(v vecenv.View) error {
	if s.like != v.Batch() || s.profile != v.Profile() {
		if s.profile != v.Profile() {
			s.choose(v.Profile())
		}
		if s.forks != nil {
			s.forks.Close()
		}
		cfg := v.Batch().Config()
		forks, err := vecenv.New(vecenv.Config{Envs: len(s.candidates), Slots: cfg.Slots, Steps: cfg.Steps, Source: v.Source(), ServingSource: v.Source(),
			MaxWait: cfg.MaxWait, Profile: v.Profile(), Preset: cfg.Preset, Autoreset: vecenv.Disabled, NoObs: true, Workers: 1})
		if err != nil {
			return err
		}
		s.forks, s.like = forks, v.Batch()
		s.list = make([]int32, len(s.candidates)*cfg.Slots*4)
	}
	for c := range s.candidates {
		if err := v.Batch().Fork(v.Env(), s.forks, c); err != nil {
			return err
		}
	}
	return nil
}

// play steps every fork once with its candidate.
func (s *search) play() {
	clear(s.list)
	row := len(s.list) / len(s.candidates)
	for c, p := range s.candidates {
		s.acts[c].Clear()
		p.Act(s.forks.View(c), &s.acts[c])
		if s.restrict != nil {
			s.restrict(s.forks.View(c), &s.acts[c])
		}
		copy(s.list[c*row:(c+1)*row], s.acts[c].Pairs())
	}
	if err := s.forks.Step(vecenv.Actions{List: s.list, PerEnv: row / 2}); err != nil {
		panic(fmt.Sprintf("policy: search: %v", err))
	}
}
