package vecenv_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/kvgym/kvgym/internal/oracle"
	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/reward"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/vecenv"
)

// lockstep plays a batch and one oracle for each of its environments on the same actions, and compares every column, every
// tensor and every invariant after every step.
type lockstep struct {
	batch    *vecenv.Batch
	cfg      vecenv.Config
	oracles  []*oracle.Env
	episodes int // finished
	random   *rand.Rand
	list     []int32
	ops      []uint8
	actions  [][]oracle.Action
}

// listPairs is the number of pairs an environment has in an ordered list.
const listPairs = 24

func newLockstep(cfg vecenv.Config, seed uint64) (*lockstep, error) {
	cfg.Outputs = vecenv.AllOutputs
	b, err := vecenv.New(cfg)
	if err != nil {
		return nil, err
	}
	cfg = b.Config()
	l := &lockstep{batch: b, cfg: cfg, oracles: make([]*oracle.Env, cfg.Envs),
		random: rand.New(rand.NewPCG(seed, 1)), list: make([]int32, cfg.Envs*listPairs*2), ops: make([]uint8, cfg.Envs*cfg.Slots),
		actions: make([][]oracle.Action, cfg.Envs)}
	if err := b.Reset(vecenv.ResetOptions{}); err != nil {
		return nil, err
	}
	for i := range l.oracles {
		l.oracles[i] = oracle.New(cfg.Source, cfg.Slots, cfg.Steps, cfg.MaxWait)
		if v := b.View(i); v.Profile() == vecenv.Serving {
			l.oracles[i] = oracle.NewServing(v.Source(), cfg.Slots, cfg.Steps, cfg.MaxWait, v.Preset())
		}
		l.oracles[i].Reset(b.Identity(i))
	}
	return l, l.compareAll()
}

// step draws actions in one of the two forms, steps both sides and compares them.
func (l *lockstep) step() error {
	a := vecenv.Actions{Ops: l.ops}
	if l.random.IntN(2) == 0 {
		a = vecenv.Actions{List: l.list, PerEnv: listPairs}
	}
	for i := range l.oracles {
		l.actions[i] = l.actions[i][:0]
		if a.Ops != nil {
			l.drawOps(i)
		} else {
			l.drawList(i)
		}
	}
	if err := l.batch.Step(a); err != nil {
		return err
	}
	for i, o := range l.oracles {
		l.stepOracle(i, o)
	}
	return l.compareAll()
}

// stepOracle gives one oracle what the batch's environment got, autoreset included.
func (l *lockstep) stepOracle(i int, o *oracle.Env) {
	if o.Done() { // next-step mode: this step was the reset
		o.Reset(l.batch.Identity(i))
		return
	}
	o.StepOnce(l.actions[i])
	if o.Done() {
		l.episodes++
	}
}

// drawOps fills an op matrix row: nothing, a few operations, or many, and sometimes unknown ones.
func (l *lockstep) drawOps(i int) {
	row := l.ops[i*l.cfg.Slots : (i+1)*l.cfg.Slots]
	rarity := []int{1 << 30, 16, 6, 1}[l.random.IntN(4)]
	for s := range row {
		row[s] = 0
		if l.random.IntN(rarity) == 0 {
			row[s] = uint8(l.random.IntN(4))
			if l.random.IntN(64) == 0 {
				row[s] = uint8(l.random.IntN(256))
			}
		}
		if row[s] != 0 {
			l.actions[i] = append(l.actions[i], oracle.Action{Op: int(row[s]), Slot: s})
		}
	}
}

// drawList fills an environment's ordered list: operations on slots that may repeat, some of them out of every bound.
func (l *lockstep) drawList(i int) {
	row := l.list[i*listPairs*2 : (i+1)*listPairs*2]
	clear(row)
	n := []int{0, 3, 8, listPairs}[l.random.IntN(4)]
	for k := range n {
		op, slot := int32(l.random.IntN(4)), int32(l.random.IntN(l.cfg.Slots))
		if k > 0 && l.random.IntN(3) == 0 {
			slot = row[2*k-1] // again the same one
		}
		switch l.random.IntN(40) {
		case 0:
			op = []int32{-1, 4, math.MaxInt32, math.MinInt32, 256}[l.random.IntN(5)]
		case 1:
			slot = []int32{-1, int32(l.cfg.Slots), math.MaxInt32, math.MinInt32}[l.random.IntN(4)]
		}
		row[2*k], row[2*k+1] = op, slot
		l.actions[i] = append(l.actions[i], oracle.Action{Op: int(op), Slot: int(slot)})
	}
}

func (l *lockstep) compareAll() error {
	if err := l.batch.Check(); err != nil {
		return err
	}
	for i, o := range l.oracles {
		if err := l.compare(i, o); err != nil {
			id := l.batch.Identity(i)
			return fmt.Errorf("environment %d (seed %d, env %d, episode %d), step %d: %w", i, id.Seed, id.Env, id.Episode, o.Step, err)
		}
	}
	return nil
}

func (l *lockstep) compare(i int, o *oracle.Env) error {
	v := l.batch.View(i)
	final := o.Done() && l.cfg.Autoreset == vecenv.SameStep
	if err := l.compareFlags(i, o); err != nil {
		return err
	}
	if err := l.compareTotals(i, o); err != nil {
		return err
	}
	if final { // the batch already plays the next episode; its terminal row stands apart
		if err := equalBits("final observation", o.Observation(), l.row(l.batch.FinalObs, i)); err != nil {
			return err
		}
		o.Reset(l.batch.Identity(i))
	}
	if err := compareState(o, v); err != nil {
		return err
	}
	if err := equalBits("observation", o.Observation(), l.row(l.batch.Obs, i)); err != nil {
		return err
	}
	n := l.cfg.Slots * kv.NumOps
	if got := l.batch.Mask[i*n : (i+1)*n]; !slices.Equal(got, o.Mask()) {
		return fmt.Errorf("mask: %v, oracle %v", got, o.Mask())
	}
	return nil
}

func (l *lockstep) row(tensor []float32, i int) []float32 {
	n := vecenv.ObsLen(l.cfg.Slots)
	return tensor[i*n : (i+1)*n]
}

func (l *lockstep) compareFlags(i int, o *oracle.Env) error {
	ended := uint8(0)
	if o.Done() {
		ended = 1
	}
	terminated, truncated := ended, uint8(0)
	if l.cfg.Truncate {
		terminated, truncated = 0, ended
	}
	b := l.batch
	if b.Terminated[i] != terminated || b.Truncated[i] != truncated {
		return fmt.Errorf("terminated %d, truncated %d: oracle %d, %d", b.Terminated[i], b.Truncated[i], terminated, truncated)
	}
	return nil
}

// compareTotals compares reward, components and metrics, which in same-step mode are still those of the ended episode.
func (l *lockstep) compareTotals(i int, o *oracle.Env) error {
	if err := equalBits("reward", []float32{float32(o.Reward) / reward.ScoreOne}, l.batch.Reward[i:i+1]); err != nil {
		return err
	}
	var terms []float32
	for _, x := range o.Terms {
		terms = append(terms, float32(float64(x)/reward.TermOne))
	}
	if err := equalBits("components", terms, l.batch.Components[i*reward.NumTerms:(i+1)*reward.NumTerms]); err != nil {
		return err
	}
	return equalBits("metrics", o.Metrics(), l.batch.Metrics[i*vecenv.NumMetrics:(i+1)*vecenv.NumMetrics])
}

// compareState compares the whole state: head, slots and queue.
func compareState(o *oracle.Env, v vecenv.View) error {
	c, t := v.Counters(), v.Totals()
	if err := compareNumbers(
		number{"step", o.Step, v.Step()}, number{"used", int(o.Used()), int(v.UsedQP())}, number{"shared", int(o.SharedCost()), int(v.SharedQP())},
		number{"queue", len(o.Queue) + len(o.Tickets), v.QueueLen()}, number{"growth", o.Growth, v.Growth()}, number{"score", int(o.Score), int(v.Score())},
		number{"capacity", int(o.Episode.CapacityQP), int(v.Episode().CapacityQP)}, number{"budget", int(o.Episode.BudgetQP), int(v.BudgetQP())},
	); err != nil {
		return err
	}
	if want := (vecenv.Counters(o.Count)); want != c {
		return fmt.Errorf("counters: %+v, oracle %+v", c, want)
	}
	want := o.Totals
	want.UsedQP, want.Failures, want.RetainedTwenty = o.Used(), o.Count.Failures, t.RetainedTwenty
	if want != t {
		return fmt.Errorf("totals: %+v, oracle %+v", t, want)
	}
	if o.Step > 0 && o.Totals.RetainedTwenty != t.RetainedTwenty {
		return fmt.Errorf("retained: %d, oracle %d", t.RetainedTwenty, o.Totals.RetainedTwenty)
	}
	if err := compareSlots(o, v); err != nil {
		return err
	}
	for k, r := range o.Queue {
		q, arrived := v.Waiting(k)
		if decoded := v.Source().Decode(&o.Episode, r.Payload()); arrived != r.Birth || q != decoded {
			return fmt.Errorf("queue %d: %+v of step %d, oracle %+v of step %d", k, q, arrived, decoded, r.Birth)
		}
	}
	return compareTickets(o, v)
}

func compareTickets(o *oracle.Env, v vecenv.View) error {
	for k, r := range o.Tickets {
		q, since := v.Waiting(k)
		t := v.Ticket(k)
		got := oracle.Ticket{Private: q.PromptTokens, Remaining: uint32(q.OutputTokens), Priority: uint32(q.Priority), Ref: q.Ref, Prefix: q.Prefix, Type: q.Type,
			OnCode: int(q.OnCode()), OffCode: int(q.OffCode()), Born: t.Born, Since: since, First: t.First, Late: t.Late, Again: t.Again}
		if got != r {
			return fmt.Errorf("ticket %d: %+v, oracle %+v", k, got, r)
		}
	}
	return nil
}

type number struct {
	name         string
	oracle, fast int
}

func compareNumbers(numbers ...number) error {
	for _, n := range numbers {
		if n.oracle != n.fast {
			return fmt.Errorf("%s: %d, oracle %d", n.name, n.fast, n.oracle)
		}
	}
	return nil
}

func compareSlots(o *oracle.Env, v vecenv.View) error {
	live := 0
	var failed error
	v.Live(func(s *vecenv.SlotState) bool {
		live++
		e := o.Slots[s.Slot]
		got := oracle.Entry{Alive: true, Type: s.Type, Phase: s.Phase, Quant: s.Quant, Swapped: s.Swapped, Tokens: s.Tokens,
			Remaining: s.Remaining, Rate: s.Rate, Priority: s.Priority, Prefix: s.Prefix, LastAccess: s.LastAccess,
			Hotness: uint32(s.Hotness), Timer: int(s.Timer), OnCode: int(s.OnCode), OffCode: int(s.OffCode)}
		if o.Serving() {
			got.Serving = served(v, s, &e)
		}
		if got != e {
			failed = fmt.Errorf("slot %d: %+v, oracle %+v", s.Slot, got, e)
		} else if s.CostQP != o.Cost(&e) || s.PrivatePages != o.PrivatePages(&e) {
			failed = fmt.Errorf("slot %d: cost %d of %d pages, oracle %d of %d", s.Slot, s.CostQP, s.PrivatePages, o.Cost(&e), o.PrivatePages(&e))
		}
		return failed == nil
	})
	if failed != nil {
		return failed
	}
	for i := range o.Slots {
		if o.Slots[i].Alive {
			live--
		}
	}
	if live != 0 {
		return fmt.Errorf("live slots: %d more than the oracle", live)
	}
	return nil
}

// served is what a slot's state tells of the serving profile. Fresh and what an idle sequence wakes for in other phases are
// not told; they show in what follows from them.
func served(v vecenv.View, s *vecenv.SlotState, e *oracle.Entry) oracle.Served {
	x := v.ServingSlot(s.Slot)
	out := oracle.Served{Work: s.WorkUS, Moving: x.MoveQP, Ref: x.TurnRef, Wake: x.Wake, Born: x.Born, Admit: x.Admit, Out: s.Moving && !s.Back,
		In: s.Moving && s.Back, Fresh: e.Serving.Fresh, Wanted: s.Wanted, First: s.First, Late: x.Late}
	if s.Phase != kv.Idle {
		out.Wake = e.Serving.Wake
	}
	return out
}

func equalBits(name string, want, got []float32) error {
	if len(want) != len(got) {
		return fmt.Errorf("%s: %d values, oracle %d", name, len(got), len(want))
	}
	for k := range want {
		if math.Float32bits(want[k]) != math.Float32bits(got[k]) {
			return fmt.Errorf("%s[%d]: %v, oracle %v", name, k, got[k], want[k])
		}
	}
	return nil
}

// mustSynthetic makes a synthetic source of a shape that is known to be allowed.
func mustSynthetic(slots, steps int, d scenario.Difficulty) scenario.Source {
	s, err := scenario.NewSynthetic(slots, steps, d)
	if err != nil {
		panic(err)
	}
	return s
}
