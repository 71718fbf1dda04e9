package policy

import (
	"fmt"
	"slices"

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
		for k, rest := range rests {
			out = append(out, &once{now: now, first: first(), rest: rest(), plan: k})
		}
	}
	return append(out, &constant{level: kv.INT8}, &constant{level: kv.INT4})
}

// once takes one policy's measure in the step that is decided now, and another's from then on.
type once struct {
	now         *int
	first, rest Policy
	plan        int // number of the rest
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
	repeats    []bool                          // does what an earlier candidate does, from the first step on
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
	n := len(s.candidates)
	s.acts, s.first, s.repeats = make([]Actions, n), make([]Actions, n), make([]bool, n)
}

func (*search) Name() string { return "search" }

func (s *search) Act(v vecenv.View, a *Actions) {
	if err := s.fork(v); err != nil {
		panic(fmt.Sprintf("policy: search: %v", err))
	}
	s.now = v.Step()
	clear(s.repeats)
	s.decide()
	for c := range s.acts {
		s.first[c].pairs = append(s.first[c].pairs[:0], s.acts[c].pairs...)
		s.repeats[c] = s.repeat(c)
	}
	s.step()
	for step := v.Step() + 1; step < v.Steps(); step++ {
		s.decide()
		s.step()
	}
	best := 0
	for c := range s.candidates {
		if !s.repeats[c] && s.forks.View(c).Score() > s.forks.View(best).Score() {
			best = c
		}
	}
	a.pairs = append(a.pairs, s.first[best].pairs...)
}

// repeat tells whether an earlier candidate takes the same measure and goes on in the same way.
func (s *search) repeat(c int) bool {
	o, ok := s.candidates[c].(*once)
	if !ok {
		return false
	}
	for k, p := range s.candidates[:c] {
		if q, ok := p.(*once); ok && q.plan == o.plan && slices.Equal(s.first[k].pairs, s.first[c].pairs) {
			return true
		}
	}
	return false
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
			MaxWait: cfg.MaxWait, Profile: v.Profile(), Preset: cfg.Preset, Autoreset: vecenv.Disabled, NoObs: true, Workers: 1, Groups: len(s.candidates)})
		if err != nil {
			return err
		}
		s.forks, s.like = forks, v.Batch()
	}
	for c := range s.candidates {
		if err := v.Batch().Fork(v.Env(), s.forks, c); err != nil {
			return err
		}
	}
	return nil
}

// decide asks every candidate that repeats no other for its operations.
func (s *search) decide() {
	for c, p := range s.candidates {
		if s.repeats[c] {
			continue
		}
		s.acts[c].Clear()
		p.Act(s.forks.View(c), &s.acts[c])
		if s.restrict != nil {
			s.restrict(s.forks.View(c), &s.acts[c])
		}
	}
}

// step steps the fork of every candidate that repeats no other.
func (s *search) step() {
	for c := range s.candidates {
		if s.repeats[c] {
			continue
		}
		pairs := s.acts[c].Pairs()
		err := s.forks.Send(c, vecenv.Actions{List: pairs, PerEnv: len(pairs) / 2})
		if err == nil {
			err = s.forks.Recv(c)
		}
		if err != nil {
			panic(fmt.Sprintf("policy: search: %v", err))
		}
	}
}
