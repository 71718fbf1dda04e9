package vecenv

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/reward"
	"github.com/kvgym/kvgym/scenario"
)

// Batch is a set of environments stepped together; see the package documentation for ownership and threads.
type Batch struct {
	Buffers         // the tensors, row i for environment i
	next    Buffers // what SetBuffers is looking at

	cfg    Config
	rules  [2]rules // by profile
	heads  []head
	blocks []block
	queues []scenario.Word
	needs  []uint32 // what waiting requests need; derived from queues, no part of the state

	scratch  *scratch       // of the caller
	stream   bool           // observations pass the caches by
	trails   bool           // those of the seed profile are left to be written while the next environment steps
	runs     bool           // kernels.Steps does the steps of a matrix of operations
	run      kernels.Run    // what it takes that no step changes
	profiles []Profile      // nil: cfg.Profile for all
	serving  *servingMemory // nil: no environment has the serving profile

	ids    []scenario.Identity // of the running episode; ended environments keep theirs
	fresh  []bool              // never reset
	width  int                 // blocks an environment
	groups []group
	pool   *pool
	broken error
	closed bool
}

// group is a contiguous range of environments that is sent and received as one.
type group struct {
	first, end int
	inFlight   bool
	job        job
}

// Actions are one step's operations for the environments of a batch or group, in one of two forms. The zero value keeps
// everything.
type Actions struct {
	// Ops is an op matrix [envs][slots] of kv.Op values.
	Ops []uint8
	// List holds PerEnv ordered pairs (op, slot) for each environment, [envs][PerEnv][2]; op kv.Keep fills the rest.
	List   []int32
	PerEnv int
}

// ErrClosed is returned by every method of a closed batch.
var ErrClosed = errors.New("vecenv: batch is closed")

// New allocates a batch. Every environment must be Reset before it is stepped.
func New(cfg Config) (*Batch, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	b := &Batch{Buffers: cfg.Buffers, cfg: cfg, width: (cfg.Slots + 63) / 64}
	if err := b.Buffers.prepare(&cfg); err != nil {
		return nil, err
	}
	b.makeRules()
	b.chooseStores()
	b.heads = aligned[head](cfg.Envs)
	b.blocks = aligned[block](cfg.Envs * b.width)
	words := b.rules[Seed].words
	b.queues = aligned[scenario.Word](cfg.Envs * words)
	b.needs = aligned[uint32](cfg.Envs * words)
	b.ids = make([]scenario.Identity, cfg.Envs)
	b.fresh = make([]bool, cfg.Envs)
	for i := range b.fresh {
		b.fresh[i] = true
		b.ids[i] = scenario.Identity{Seed: cfg.Seed, Env: cfg.FirstEnv + uint32(i)}
	}
	b.scratch = newScratch()
	b.groups = make([]group, cfg.Groups)
	for g := range b.groups {
		b.groups[g].first = cfg.Envs * g / cfg.Groups
		b.groups[g].end = cfg.Envs * (g + 1) / cfg.Groups
	}
	b.pool = newPool(b, cfg.Workers)
	if err := b.pool.startWorkers(cfg.Pin); err != nil {
		b.pool.close()
		return nil, err
	}
	return b, nil
}

// makeRules makes the rules of both profiles, and the memory that the serving profile adds.
func (b *Batch) makeRules() {
	cfg := &b.cfg
	last := cfg.Slots - 64*(b.width-1)
	r := &b.rules[Seed]
	*r = rules{source: cfg.Source, slots: cfg.Slots, width: b.width, steps: int32(cfg.Steps), maxWait: int32(cfg.MaxWait),
		queueCap: cfg.Slots / 2, lastMask: ^uint64(0) >> (64 - last), truncate: cfg.Truncate, obsLen: ObsLen(cfg.Slots)}
	r.ticketGroups = ticketGroups(cfg.Slots)
	r.words = (r.queueCap+scan-1)&^(scan-1) + arriving
	if cfg.Source != nil {
		r.growth = kv.FP16QuarterPages * (cfg.Source.MaxRate()/kv.PageTokens + 1)
	}
	if r.whole = b.width == 1; r.whole {
		r.drawn, _ = cfg.Source.(*scenario.Synthetic)
	}
	r.frame = r.newFrame()
	if !cfg.plays(Serving) {
		return
	}
	s := &b.rules[Serving]
	*s = b.rules[Seed]
	s.profile, s.source, s.drawn, s.whole, s.serving = Serving, cfg.ServingSource, nil, false, newServingRules(&cfg.Preset)
	if b.width == 1 {
		if s.agents, _ = cfg.ServingSource.(*scenario.Agents); s.agents != nil {
			s.frame.Tables = s.agents.Tables()
		}
	}
	b.profiles = slices.Clone(cfg.Profiles)
	b.serving = newServingMemory(cfg.Envs, b.width, cfg.Slots)
}

// rulesOf are the rules of environment i.
func (b *Batch) rulesOf(i int) *rules {
	if b.profiles != nil {
		return &b.rules[b.profiles[i]&1]
	}
	return &b.rules[b.cfg.Profile&1]
}

// Config returns the configuration with every default filled in.
func (b *Batch) Config() Config { return b.cfg }

// Envs is the number of environments.
func (b *Batch) Envs() int { return b.cfg.Envs }

// Group returns the range of environments [first, end) of a group.
func (b *Batch) Group(g int) (first, end int) { return b.groups[g].first, b.groups[g].end }

// Close stops the workers. It is safe to call twice; it waits for groups in flight.
func (b *Batch) Close() {
	if b.closed {
		return
	}
	for g := range b.groups {
		if b.groups[g].inFlight {
			_ = b.Recv(g)
		}
	}
	b.closed = true
	b.pool.close()
}

// usable tells why the batch cannot be used, if it cannot.
func (b *Batch) usable() error {
	if b.closed {
		return ErrClosed
	}
	return b.broken
}

// Step applies the actions to all environments and writes every tensor. It waits until all are done.
func (b *Batch) Step(a Actions) error {
	if err := b.checkIdle("Step"); err != nil {
		return err
	}
	if err := b.checkActions(a, 0, b.cfg.Envs); err != nil {
		return err
	}
	stride := len(a.Ops) / b.cfg.Envs
	listStride := len(a.List) / b.cfg.Envs
	for g := range b.groups {
		gr := &b.groups[g]
		b.launch(gr, sub(a, gr.first, gr.end, stride, listStride))
	}
	var first error
	for g := range b.groups {
		if err := b.Recv(g); err != nil && first == nil {
			first = err
		}
	}
	return first
}

func sub(a Actions, first, end, stride, listStride int) Actions {
	out := Actions{PerEnv: a.PerEnv}
	if a.Ops != nil {
		out.Ops = a.Ops[first*stride : end*stride]
	}
	if a.List != nil {
		out.List = a.List[first*listStride : end*listStride]
	}
	return out
}

// Send starts a step of one group; its actions hold rows for the group's environments only. With one worker the work is
// done in Recv. Sending a group twice without Recv is an error.
func (b *Batch) Send(g int, a Actions) error {
	gr, err := b.groupOf("Send", g)
	if err != nil {
		return err
	}
	if gr.inFlight {
		return fmt.Errorf("vecenv: Send: group %d: already in flight: Recv it first", g)
	}
	if err := b.checkActions(a, gr.first, gr.end); err != nil {
		return err
	}
	b.launch(gr, a)
	return nil
}

func (b *Batch) launch(gr *group, a Actions) {
	gr.inFlight = true
	gr.job.actions = a
	b.pool.start(&gr.job)
}

// Recv waits for the step that Send started; the group's rows of every tensor are then the caller's.
func (b *Batch) Recv(g int) error {
	gr, err := b.groupOf("Recv", g)
	if err != nil {
		return err
	}
	if !gr.inFlight {
		return fmt.Errorf("vecenv: Recv: group %d: not in flight: Send it first", g)
	}
	b.pool.wait(&gr.job)
	gr.inFlight = false
	gr.job.actions = Actions{}
	if p := gr.job.takePanic(); p != nil {
		b.broken = p
	}
	return b.broken
}

func (b *Batch) groupOf(call string, g int) (*group, error) {
	if err := b.usable(); err != nil {
		return nil, err
	}
	if g < 0 || g >= len(b.groups) {
		return nil, fmt.Errorf("vecenv: %s: group: %d: allowed 0 to %d", call, g, len(b.groups)-1)
	}
	return &b.groups[g], nil
}

// checkIdle tells whether a call that needs the whole batch may go on.
func (b *Batch) checkIdle(call string) error {
	if err := b.usable(); err != nil {
		return err
	}
	for g := range b.groups {
		if b.groups[g].inFlight {
			return fmt.Errorf("vecenv: %s: group %d: in flight: Recv it first", call, g)
		}
	}
	return nil
}

// neverReset finds the first of some environments that is fresh, -1 if none is, 20 times as fast as a loop.
func neverReset(fresh []bool) int {
	return bytes.IndexByte(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(fresh))), len(fresh)), 1)
}

func (b *Batch) checkActions(a Actions, first, end int) error {
	envs := end - first
	if a.Ops != nil && a.List != nil {
		return errors.New("vecenv: Actions: Ops and List both given: allowed one of them")
	}
	if a.Ops != nil && len(a.Ops) != envs*b.cfg.Slots {
		return fmt.Errorf("vecenv: Actions.Ops: %d values: allowed %d, %d environments of %d slots", len(a.Ops), envs*b.cfg.Slots, envs, b.cfg.Slots)
	}
	if a.List != nil && (a.PerEnv < 0 || len(a.List) != envs*a.PerEnv*2) {
		return fmt.Errorf("vecenv: Actions.List: %d values with PerEnv %d: allowed PerEnv at least 0 and %d environments of PerEnv pairs", len(a.List), a.PerEnv, envs)
	}
	if i := neverReset(b.fresh[first:end]); i >= 0 {
		return fmt.Errorf("vecenv: Step: environment %d: never reset: Reset it first", first+i)
	}
	for i := first; b.cfg.Autoreset == Disabled && i < end; i++ {
		if b.heads[i].Ended != 0 {
			return fmt.Errorf("vecenv: Step: environment %d: its episode has ended and autoreset is disabled: Reset it first", i)
		}
	}
	return nil
}

// envAt assembles environment i.
func (b *Batch) envAt(i int) (v env) {
	v.scratch = b.scratch
	b.load(&v, i)
	return v
}

// load assembles environment i in an env that has a scratch. Bounds are checked by the callers once, not slice by slice.
func (b *Batch) load(v *env, i int) {
	r := b.rulesOf(i)
	v.head, v.rules = &b.heads[i], r
	v.sit((*block)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(b.blocks)), i*r.width*int(unsafe.Sizeof(block{})))),
		(*scenario.Word)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(b.queues)), i*r.words*8)),
		(*uint32)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(b.needs)), i*r.words*4)))
	switch {
	case r.serving != nil:
		v.tally, v.firstLane, v.firstTicket = b.serving.at(i)
	case b.serving != nil: // the last one may have been of the other profile
		v.tally, v.firstLane, v.firstTicket = nil, nil, nil
	}
}

// stepEnv steps environment i, writes its rows and resets it when its mode says so. row is its place in the actions, v has a scratch.
func (b *Batch) stepEnv(v *env, i, row int, a *Actions) {
	b.load(v, i)
	if v.Ended != 0 { // NextStep: this step is the reset
		b.ids[i].Episode++
		v.reset(b.ids[i])
		b.writeReset(v, i)
		return
	}
	v.step(actionRows(a, row, b.cfg.Slots))
	b.finishEnv(v, i)
}

// finishEnv writes what a step of environment i has led to.
func (b *Batch) finishEnv(v *env, i int) {
	components := v.scratch.terms(b.Components)
	gain := v.account(components)
	b.Reward[i] = float32(gain) * (1.0 / reward.ScoreOne)
	ended := v.Step >= v.rules.steps
	b.Terminated[i], b.Truncated[i] = 0, 0
	if ended {
		v.Ended = 1
		if v.rules.truncate {
			b.Truncated[i] = 1
		} else {
			b.Terminated[i] = 1
		}
	}
	b.writeTotals(v, i, components)
	if ended && b.cfg.Autoreset == SameStep {
		b.writeObs(v, i, b.FinalObs, b.FinalObsBytes, false)
		b.ids[i].Episode++
		v.reset(b.ids[i])
	}
	b.writeView(v, i)
}

func actionRows(a *Actions, row, slots int) (ops []uint8, list []int32) {
	if a.Ops != nil {
		return a.Ops[row*slots : (row+1)*slots], nil
	}
	if a.List != nil {
		return nil, a.List[row*a.PerEnv*2 : (row+1)*a.PerEnv*2]
	}
	return nil, nil
}

// writeObs writes environment i's row of whichever observation tensor there is.
func (b *Batch) writeObs(v *env, i int, floats []float32, bytes []uint8, stream bool) {
	n := b.rules[Seed].obsLen
	switch {
	case floats != nil:
		v.observe(floats[i*n:(i+1)*n], b.cfg.ObsOrder, stream)
	case bytes != nil:
		v.observeBytes(bytes[i*n:(i+1)*n], b.cfg.ObsOrder)
	}
}

// trailPays is a variable for tests.
var trailPays = kernels.TrailPays

// chooseStores says how observations go to memory. They are written in the next environment's step where that pays, and the kernel of a
// whole step, which does it, can write them.
func (b *Batch) chooseStores() {
	r := &b.rules[Seed]
	b.trails = b.Obs != nil && b.cfg.plays(Seed) && r.drawn != nil && r.obsLen == kernels.TrailRow && b.cfg.ObsOrder == SlotMajor && trailPays()
	b.stream = b.cfg.Stores.streams(b.Obs, b.trails)
	b.chooseRuns()
}

// Streams tells whether observations pass the caches by; Config.Stores.
func (b *Batch) Streams() bool { return b.stream }

// publish makes streamed observations visible to whoever is told next that they are there.
func (b *Batch) publish() {
	if b.stream {
		kernels.Fence()
	}
}

// writeView writes what describes the present state: observation and mask.
func (b *Batch) writeView(v *env, i int) {
	if v.trail != nil && v.rules.whole {
		row := (*[kernels.TrailRow]float32)(b.Obs[i*kernels.TrailRow:])
		v.trail.Leave(row, &v.seat, &v.rules.frame, &v.scratch.shared, b.stream)
	} else {
		b.writeObs(v, i, b.Obs, b.ObsBytes, b.stream)
	}
	if b.Mask != nil {
		n := b.cfg.Slots * kv.NumOps
		v.maskRow(b.Mask[i*n : (i+1)*n])
	}
}

// writeTotals writes what describes the episode so far: components and metrics.
func (b *Batch) writeTotals(v *env, i int, terms *reward.Terms) {
	if b.Components != nil {
		writeComponents((*[reward.NumTerms]float32)(b.Components[i*reward.NumTerms:]), terms)
	}
	if b.Metrics != nil {
		v.metrics((*[NumMetrics]float32)(b.Metrics[i*NumMetrics:]))
	}
}

// writeReset writes the rows of an environment that has just been reset.
func (b *Batch) writeReset(v *env, i int) {
	b.Reward[i], b.Terminated[i], b.Truncated[i] = 0, 0, 0
	b.writeTotals(v, i, &reward.Terms{})
	b.writeView(v, i)
}
