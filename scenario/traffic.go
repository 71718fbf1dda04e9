package scenario

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"

	"github.com/kvgym/kvgym/internal/rng"
	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/trace"
)

// TrafficConfig says how a trace becomes episodes. The zero value of a field means its default.
type TrafficConfig struct {
	Path         string
	Format       trace.Format // default trace.Auto
	SkipBadLines bool         // count bad lines instead of failing
	Slots        int          // of the environments; default 64
	Steps        int          // of an episode; default 15
	Difficulty   Difficulty
	StepMillis   int // length of a step in the trace's time; 1 to 3,600,000; default 1,000
	DecodeRate   int // tokens a sequence generates a second; 1 to 10,000; default 30
	// SampleMillis is the share of sessions kept, thousandths, 1 to 1000. 0 chooses the largest share at which an
	// unconstrained server would hold at most half of Slots sequences on average.
	SampleMillis int
	// Serving makes episodes of the serving profile on a server like this preset, whose step must be StepMillis long: norms and
	// capacity are those of rule 13.5, and the default sample is what its prefill can carry, too.
	Serving *kv.Preset
	// Closed replays sessions in a closed loop (Serving only): a turn starts its think time after the end of the one before
	// it, in the sequence that holds that one's cache, instead of at its timestamp as a request of its own.
	Closed bool
}

// TrafficInfo tells what a trace gave.
type TrafficInfo struct {
	Path         string  `json:"path"`
	Format       string  `json:"format"`
	SHA256       string  `json:"sha256"`
	Requests     int64   `json:"requests"`  // used, after sampling
	Sessions     int64   `json:"sessions"`  // used
	BadLines     int64   `json:"bad_lines"` // skipped
	FirstBadLine string  `json:"first_bad_line,omitempty"`
	FileRequests int64   `json:"file_requests"` // in the file
	FileSessions int64   `json:"file_sessions"` // in the file
	Windows      int64   `json:"windows"`       // distinct episodes' starts
	HitShare     float64 `json:"hit_share"`     // of used prompt tokens that an infinite prefix cache would hold
	SampleMillis int     `json:"sample_millis"`
	StepMillis   int     `json:"step_millis"`
	DecodeRate   int     `json:"decode_rate"`
	MeanLive     float64 `json:"mean_live"` // sequences an unconstrained server would hold
	Sharing      string  `json:"sharing"`   // "blocks" when the trace has block ids, else "modelled"
}

// maxTraceSteps bounds the tables that are indexed by step: 20 bytes each, 1.3 GB in all. Tables of the steps where
// something changes would not be smaller for real traces, in which something happens in most steps.
const maxTraceSteps = 1 << 26

// maxPromptTokens bounds a prompt, so that no sum of waiting prompts can overflow; longer ones are cut to it.
const maxPromptTokens = 1 << 24

// request is one request of the trace: what an environment needs of it, and what sampling needs.
type request struct {
	step      uint32
	input     uint32
	prefixKey uint32 // index into prefixPages, 0 none
	session   uint32
	output    uint16
	typ       kv.BlockType
	priority  uint8
	offCode   uint8
	knownTok  uint32
	previous  uint32 // number of the session's request before this one, from 1; 0 none
	next      uint32 // and of the one after it
}

// Traffic draws episodes as windows of a trace; docs/simulator.md, section 5.
type Traffic struct {
	cfg         TrafficConfig
	rate        uint16
	requests    []request
	stepStart   []uint32 // index of the first request at or after each step; one more entry than steps
	prefixPages []uint16 // by prefix key
	demand      []uint64 // cumulative unconstrained private pages over steps
	generated   []uint64 // cumulative unconstrained tokens over steps
	good        []uint64 // the same, weighted; serving only
	delay       uint32   // steps from arrival to generation on an unconstrained server
	info        TrafficInfo
}

// LoadTraffic reads a trace once, from front to back, and keeps 36 bytes a request and 20 a step.
func LoadTraffic(cfg TrafficConfig) (*Traffic, error) {
	return LoadTrafficContext(context.Background(), cfg)
}

// LoadTrafficContext is LoadTraffic that gives up with the context's error when ctx ends.
func LoadTrafficContext(ctx context.Context, cfg TrafficConfig) (*Traffic, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	rate := int64(cfg.DecodeRate) * int64(cfg.StepMillis) / 1000
	t := &Traffic{cfg: cfg, rate: uint16(min(65535, max(1, rate))), prefixPages: []uint16{0}, delay: 3}
	if cfg.Serving != nil {
		t.delay = firstTokenSteps
	}
	if err := t.read(ctx); err != nil {
		return nil, err
	}
	if len(t.requests) == 0 {
		return nil, fmt.Errorf("scenario: trace %s: 0 requests: allowed at least 1", cfg.Path)
	}
	t.sample()
	t.link()
	t.index()
	return t, nil
}

func (c *TrafficConfig) fill() error {
	set := func(p *int, d int) {
		if *p == 0 {
			*p = d
		}
	}
	set(&c.Slots, 64)
	set(&c.Steps, 15)
	set(&c.StepMillis, 1000)
	set(&c.DecodeRate, 30)
	if err := CheckShape(c.Slots, c.Steps); err != nil {
		return err
	}
	if c.Difficulty > All {
		return fmt.Errorf("difficulty: %d: allowed easy, medium, hard, all", c.Difficulty)
	}
	for _, f := range []struct {
		name      string
		v, lo, hi int
	}{{"trace step milliseconds", c.StepMillis, 1, 3_600_000}, {"trace decode rate", c.DecodeRate, 1, 10_000}, {"trace sample permille", c.SampleMillis, 0, 1000}} {
		if f.v < f.lo || f.v > f.hi {
			return fmt.Errorf("scenario: %s: %d: allowed %d to %d", f.name, f.v, f.lo, f.hi)
		}
	}
	if c.Serving == nil {
		if c.Closed {
			return errors.New("scenario: closed loop: without a preset: allowed with the serving profile")
		}
		return nil
	}
	if err := c.Serving.Validate(); err != nil {
		return err
	}
	if c.Serving.StepMillis != int64(c.StepMillis) {
		return fmt.Errorf("scenario: trace step milliseconds: %d: allowed the preset's, %d", c.StepMillis, c.Serving.StepMillis)
	}
	return nil
}

// read fills requests and prefixPages; rules 5.2 to 5.4.
func (t *Traffic) read(ctx context.Context) error {
	r, err := trace.Open(t.cfg.Path, trace.Options{Format: t.cfg.Format, SkipBadLines: t.cfg.SkipBadLines})
	if err != nil {
		return err
	}
	defer r.Close()
	sessions := trace.NewSessionizer()
	keys := map[uint64]uint32{}
	t.info.Sharing = "modelled"
	var rec trace.Record
	for {
		if len(t.requests)%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		err := r.Next(&rec)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		step := rec.TimeMicros / (int64(t.cfg.StepMillis) * 1000)
		if step >= maxTraceSteps {
			return fmt.Errorf("scenario: trace %s line %d: time %d s is step %d: allowed below %d steps: take a longer step", t.cfg.Path, rec.Line, rec.TimeMicros/1e6, step, maxTraceSteps)
		}
		place := sessions.Place(&rec)
		q := request{step: uint32(step), input: uint32(min(rec.InputTokens, maxPromptTokens)), session: uint32(place.Session), output: uint16(min(rec.OutputTokens, 65535)),
			priority: uint8(rec.PriorityPct), typ: typeAtArrival(&rec, &place), offCode: uint8(rng.Field(lineDraw(&rec), 4, 2))}
		if rec.BlockTokens > 0 {
			t.info.Sharing = "blocks"
			q.knownTok = uint32(min(int64(place.KnownBlocks)*int64(rec.BlockTokens), rec.InputTokens))
		}
		q.prefixKey = t.prefixKey(&rec, &place, keys)
		t.requests = append(t.requests, q)
	}
	t.info.Path, t.info.Format, t.info.SHA256 = t.cfg.Path, string(r.Format()), r.SHA256()
	t.info.BadLines, t.info.FileRequests, t.info.FileSessions = r.BadLines(), int64(len(t.requests)), sessions.Sessions()
	if e := r.FirstBad(); e != nil {
		t.info.FirstBadLine = e.Error()
	}
	return nil
}

// lineDraw is the fixed draw of a request that the trace says nothing about; rule 5.4.
func lineDraw(rec *trace.Record) uint64 {
	return rng.Mix(uint64(rec.Line))
}

// typeAtArrival uses only what is known when the request arrives; rule 5.3.
func typeAtArrival(rec *trace.Record, p *trace.Placement) kv.BlockType {
	switch {
	case rec.Kind == trace.KindAPI || rec.Kind == trace.KindSubagent:
		return kv.Ephemeral
	case rec.Kind == trace.KindThinking:
		return kv.Reasoning
	case p.FollowUp:
		return kv.Context
	}
	return kv.Generation
}

// prefixKey numbers the shared prefix of a request, 0 for none; rule 5.4.
func (t *Traffic) prefixKey(rec *trace.Record, p *trace.Placement, keys map[uint64]uint32) uint32 {
	var id, pages uint64
	if rec.BlockTokens > 0 {
		k := min(int64(p.SystemBlocks), (rec.InputTokens-1)/int64(rec.BlockTokens))
		for _, b := range rec.Blocks[:k] {
			id = rng.Mix(id + b + 1)
		}
		pages = uint64(k) * uint64(rec.BlockTokens) / kv.PageTokens
	} else if w := lineDraw(rec); rng.Field(w, 2, 2) != 0 {
		tenant := uint64(rng.Field(w, 0, 2))
		id, pages = tenant+1, 4+2*tenant
	}
	if pages == 0 || pages > 65535 || pages*kv.PageTokens >= uint64(min(rec.InputTokens, maxPromptTokens)) {
		return 0
	}
	key, ok := keys[id]
	if !ok {
		key = uint32(len(t.prefixPages))
		keys[id] = key
		t.prefixPages = append(t.prefixPages, uint16(pages))
	}
	return key
}

// life is the number of steps after arrival at which an unconstrained server has finished the request; rule 5.6.
func (t *Traffic) life(q *request) uint32 {
	return t.delay - 1 + (uint32(q.output)+uint32(t.rate)-1)/uint32(t.rate)
}

// sample keeps whole sessions; rule 5.5.
func (t *Traffic) sample() {
	steps := uint64(t.requests[len(t.requests)-1].step) + 1
	keep := uint64(t.cfg.SampleMillis)
	if keep == 0 {
		var live uint64
		for i := range t.requests {
			live += uint64(t.life(&t.requests[i]) - 1)
		}
		keep = min(1000, max(1, 1000*steps*uint64(t.cfg.Slots)/2/max(1, live)))
		if p := t.cfg.Serving; p != nil {
			keep = min(keep, max(1, t.prefillShare(p, steps)))
		}
	}
	t.info.SampleMillis = int(keep)
	kept := t.requests[:0]
	for _, q := range t.requests {
		if rng.Mix(uint64(q.session)+1)%1000 < keep {
			kept = append(kept, q)
		}
	}
	if len(kept) > 0 {
		t.requests = kept
	}
}

// prefillShare is how many thousandths of the sessions the preset can prefill in seven tenths of the time it has for that;
// rule 13.7.
func (t *Traffic) prefillShare(p *kv.Preset, steps uint64) uint64 {
	var work uint64 // microseconds
	for i := range t.requests {
		q := &t.requests[i]
		prefix := int64(t.prefixPages[q.prefixKey]) * kv.PageTokens
		work += uint64(p.PrefillUS(int64(q.input)-prefix, prefix))
	}
	hi, lo := bits.Mul64(steps*uint64(p.StepMillis*p.PrefillPermille), 700)
	work = max(1, work)
	if hi >= work {
		return 1000
	}
	share, _ := bits.Div64(hi, lo, work)
	return share
}

// link connects the requests of every session.
func (t *Traffic) link() {
	if !t.cfg.Closed {
		return
	}
	last := map[uint32]uint32{}
	for i := range t.requests {
		q := &t.requests[i]
		if p := last[q.session]; p != 0 {
			q.previous = p
			t.requests[p-1].next = uint32(i + 1)
		}
		last[q.session] = uint32(i + 1)
	}
}

// index builds the tables over steps; rules 5.1 and 5.6.
func (t *Traffic) index() {
	steps := int(t.requests[len(t.requests)-1].step) + 1
	last := steps + 1
	for i := range t.requests {
		last = max(last, int(t.requests[i].step+t.life(&t.requests[i]))+1)
	}
	last = min(last, steps+1+t.cfg.Steps)
	t.stepStart = make([]uint32, steps+1)
	t.demand, t.generated = make([]uint64, last+1), make([]uint64, last+1)
	if t.cfg.Serving != nil {
		t.good = make([]uint64, last+1)
	}
	seen := map[uint32]struct{}{}
	var input, known, live uint64
	next := 0
	for i := range t.requests {
		q := &t.requests[i]
		for ; next <= int(q.step); next++ {
			t.stepStart[next] = uint32(i)
		}
		seen[q.session] = struct{}{}
		input += uint64(q.input)
		known += uint64(q.knownTok)
		live += uint64(t.life(q) - 1)
		t.addLife(q)
	}
	for ; next <= steps; next++ {
		t.stepStart[next] = uint32(len(t.requests))
	}
	accumulate(t.demand)    // pages a step
	accumulate(t.demand)    // and their running sum
	accumulate(t.generated) // tokens a step
	accumulate(t.generated) // and their running sum
	accumulate(t.good)
	accumulate(t.good)
	t.info.Requests, t.info.Sessions = int64(len(t.requests)), int64(len(seen))
	t.info.Windows = int64(t.windows())
	t.info.HitShare = float64(known) / float64(input)
	t.info.MeanLive = float64(live) / float64(steps)
	t.info.StepMillis, t.info.DecodeRate = t.cfg.StepMillis, t.cfg.DecodeRate
}

// addLife adds a request's unconstrained life to the tables, as differences between steps: so it takes the same time
// however long the request lives.
func (t *Traffic) addLife(q *request) {
	pages := uint64(kv.Pages(q.input+uint32(q.output)) - uint32(t.prefixPages[q.prefixKey]))
	step := int(q.step)
	addBetween(t.demand, step+1, step+int(t.life(q)), pages)
	first := step + int(t.delay)
	full := first + int(q.output/t.rate) // the first step that does not generate at the full rate
	addBetween(t.generated, first, full, uint64(t.rate))
	addBetween(t.generated, full, full+1, uint64(q.output%t.rate))
	if t.good != nil {
		weight := uint64(kv.TokenWeight(uint32(q.priority)))
		addBetween(t.good, first, full, weight*uint64(t.rate))
		addBetween(t.good, full, full+1, weight*uint64(q.output%t.rate))
	}
}

// addBetween adds x to the steps from first to before end of a table of differences, whose last entry is a sink.
func addBetween(a []uint64, first, end int, x uint64) {
	a[min(first, len(a)-1)] += x
	a[min(end, len(a)-1)] -= x
}

func accumulate(a []uint64) {
	for i := 1; i < len(a); i++ {
		a[i] += a[i-1]
	}
}

// windows is the number of different first steps an episode may have; rule 5.1.
func (t *Traffic) windows() int { return max(1, len(t.stepStart)-1-t.cfg.Steps) }

// WithDifficulty is the same traffic at another difficulty; the tables are shared, nothing is read again.
func (t *Traffic) WithDifficulty(d Difficulty) (*Traffic, error) {
	if d > All {
		return nil, fmt.Errorf("difficulty: %d: allowed easy, medium, hard, all", d)
	}
	other := *t
	other.cfg.Difficulty = d
	return &other, nil
}

// Info tells what the trace gave.
func (t *Traffic) Info() TrafficInfo { return t.info }

// Shape implements Source.
func (t *Traffic) Shape() Shape { return Shape{Slots: t.cfg.Slots, Steps: t.cfg.Steps} }

// CheckEpisode implements Source.
func (t *Traffic) CheckEpisode(e *Episode) error {
	if int64(e.WindowStep) >= int64(t.windows()) || int64(e.Cursor) > int64(len(t.requests)) || e.NumPrefixes > kv.MaxPrefixes {
		return fmt.Errorf("episode: window %d, cursor %d, %d prefixes: allowed below %d, up to %d, up to %d", e.WindowStep, e.Cursor, e.NumPrefixes,
			t.windows(), len(t.requests), kv.MaxPrefixes)
	}
	for p := 1; p <= int(e.NumPrefixes); p++ {
		if int64(e.PrefixKeys[p]) >= int64(len(t.prefixPages)) || e.PrefixPages[p] != t.prefixPages[e.PrefixKeys[p]] {
			return fmt.Errorf("episode: prefix %d: key %d of %d pages: allowed the trace's", p, e.PrefixKeys[p], e.PrefixPages[p])
		}
	}
	return nil
}

// Fingerprint implements Source.
func (t *Traffic) Fingerprint() string {
	fp := fmt.Sprintf("traffic/sha256=%s/format=%s/skip=%v/slots=%d/steps=%d/difficulty=%s/step_ms=%d/rate=%d/sample=%d", t.info.SHA256,
		t.info.Format, t.cfg.SkipBadLines, t.cfg.Slots, t.cfg.Steps, t.cfg.Difficulty, t.cfg.StepMillis, t.cfg.DecodeRate, t.info.SampleMillis)
	if p := t.cfg.Serving; p != nil {
		fp += fmt.Sprintf("/serving/capacity=%d/closed=%v", p.CapacityTokens, t.cfg.Closed)
	}
	return fp
}

// Begin implements Source; rules 5.1, 5.7 and 5.9.
func (t *Traffic) Begin(id Identity, e *Episode) {
	*e = newEpisode(id)
	hi, _ := bits.Mul64(rng.Draw(e.Key, rng.Window, 0, 0), uint64(t.windows()))
	e.WindowStep = uint32(hi)
	first, end := int(hi), min(int(hi)+t.cfg.Steps, len(t.demand)-1)
	pages := t.demand[end]
	if first > 0 {
		pages -= t.demand[first-1]
	}
	mean := pages * capacityTenths / uint64(10*(t.cfg.Steps+1))
	e.CapacityQP = kv.FP16QuarterPages * uint32(min(1<<24, max(uint64(t.cfg.Slots), mean)))
	e.drawTier(t.cfg.Difficulty, rng.Draw(e.Key, rng.Episode, 0, tierWord))
	e.ArrivalLevel = FromTrace
	e.TokenNorm = uint32(min(1<<31, max(1, t.generated[min(end, len(t.generated)-1)]-t.generated[first])))
	e.Cursor = t.scanStart(e)
	for i := e.Cursor; i < t.firstOf(e.WindowStep); i++ {
		if t.initial(e, i) {
			e.NumInitial++
		}
	}
	if p := t.cfg.Serving; p != nil {
		sum := demandSum{pageSteps: pages, good: t.good[min(end, len(t.good)-1)] - t.good[first]}
		sum.requests = uint32(e.NumInitial) + t.firstOf(uint32(first+t.cfg.Steps)+1) - t.firstOf(uint32(first))
		e.setServing(sum, t.cfg.Steps, t.cfg.Slots, p)
		e.drawTier(t.cfg.Difficulty, rng.Draw(e.Key, rng.Episode, 0, tierWord))
	}
}

// capacityTenths scales the mean unconstrained demand of a window to its capacity.
const capacityTenths = 8

func (t *Traffic) firstOf(step uint32) uint32 { return t.stepStart[min(int(step), len(t.stepStart)-1)] }

// scanStart is where the search for initial sequences begins: at most four requests a slot before the window.
func (t *Traffic) scanStart(e *Episode) uint32 {
	end := t.firstOf(e.WindowStep)
	return end - min(end, uint32(4*t.cfg.Slots))
}

// liveAt tells whether an unconstrained server would still be generating the request after the step; rule 5.7.
func (t *Traffic) liveAt(q *request, step uint32) bool {
	return q.step < step && step < q.step+t.life(q)
}

// Initial implements Source; i must go up from 0 one by one. Rule 5.7.
func (t *Traffic) Initial(e *Episode, _ int) InitialSequence {
	for !t.initial(e, e.Cursor) {
		e.Cursor++
	}
	q := &t.requests[e.Cursor]
	e.Cursor++
	out := InitialSequence{Sequence: t.sequence(e, q, t.prefixID(e, q)), Phase: kv.Decode, Hotness: 63}
	switch {
	case e.WindowStep == q.step+1:
		out.Phase = kv.Prefill
	case q.typ == kv.Reasoning:
		out.Phase = kv.Thinking
	}
	if e.WindowStep >= q.step+t.delay {
		out.DoneTokens = uint16((e.WindowStep - q.step - t.delay + 1) * uint32(t.rate))
	}
	return out
}

// prefixID gives the episode's small number for a request's shared prefix, assigning the next one to a new prefix; rule
// 5.8.
func (t *Traffic) prefixID(e *Episode, q *request) uint8 {
	if q.prefixKey == 0 {
		return 0
	}
	for p := uint8(1); p <= e.NumPrefixes; p++ {
		if e.PrefixKeys[p] == q.prefixKey {
			return p
		}
	}
	if e.NumPrefixes == kv.MaxPrefixes {
		return 0
	}
	e.NumPrefixes++
	e.PrefixKeys[e.NumPrefixes] = q.prefixKey
	e.PrefixPages[e.NumPrefixes] = t.prefixPages[q.prefixKey]
	return e.NumPrefixes
}

func (t *Traffic) sequence(e *Episode, q *request, prefix uint8) Sequence {
	return Sequence{PromptTokens: privatePrompt(e, q, prefix), OutputTokens: q.output, RateTokens: t.rate,
		Priority: q.priority, Prefix: prefix, Type: q.typ, Steady: true, Codes: q.offCode << 6, Ref: t.refOf(q)}
}

// refOf names a request's turn; 0 in an open loop.
func (t *Traffic) refOf(q *request) uint32 {
	if !t.cfg.Closed {
		return 0
	}
	if q.next != 0 {
		return t.requests[q.next-1].previous
	}
	return refLast
}

// refLast names the last turn of any session.
const refLast = 1<<32 - 1

// Next implements Source; rule 13.7.
func (t *Traffic) Next(_ *Episode, ref uint32) (Turn, bool) {
	if ref == 0 || int64(ref) > int64(len(t.requests)) || t.requests[ref-1].next == 0 {
		return Turn{}, false
	}
	q := &t.requests[ref-1]
	f := &t.requests[q.next-1]
	end := q.step + t.life(q) - 1 // on an unconstrained server
	pause := max(1, int64(f.step+t.delay)-int64(end))
	return Turn{PauseSteps: uint16(min(65535, pause)), PromptTokens: f.input - min(f.input-1, q.input+uint32(q.output)), OutputTokens: f.output, Ref: t.refOf(f)}, true
}

// continued tells whether a request is a turn of a session that the episode already holds, so that it does not arrive by
// itself; rule 13.7.
func (t *Traffic) continued(e *Episode, q *request) bool {
	if q.previous == 0 {
		return false
	}
	return t.requests[q.previous-1].step >= e.WindowStep || t.held(e, q.previous-1)
}

// held tells whether a request from before the window is still running, and near enough to be looked at; rule 5.7.
func (t *Traffic) held(e *Episode, i uint32) bool {
	return i >= t.scanStart(e) && t.liveAt(&t.requests[i], e.WindowStep)
}

// initial tells whether a request from before the window is an initial sequence: it is held, and not a turn of one that is.
func (t *Traffic) initial(e *Episode, i uint32) bool {
	previous := t.requests[i].previous
	return t.held(e, i) && (previous == 0 || !t.held(e, previous-1))
}

// Arrive implements Source; rules 5.1 and 5.8. The low 32 bits of a word are the request's number, the next 3 its prefix id.
func (t *Traffic) Arrive(e *Episode, step int, out []Word) int {
	at := e.WindowStep + uint32(step)
	first, end := t.firstOf(at), t.firstOf(at+1)
	n := 0
	for i := first; i < end; i++ {
		if q := &t.requests[i]; !t.continued(e, q) {
			prefix := t.prefixID(e, q)
			if n < len(out) {
				out[n] = Word(i) | Word(prefix)<<32
			}
			n++
		}
	}
	e.Cursor = end
	return n
}

// Demand implements Source.
func (t *Traffic) Demand(e *Episode, w Word) (uint32, uint8) {
	prefix := uint8(w >> 32 & 7)
	return privatePrompt(e, t.requestOf(w), prefix), prefix
}

// Decode implements Source.
func (t *Traffic) Decode(e *Episode, w Word) Sequence {
	return t.sequence(e, t.requestOf(w), uint8(w>>32&7))
}

// requestOf finds a word's request; a word from outside may name one that the trace does not have.
func (t *Traffic) requestOf(w Word) *request {
	return &t.requests[min(uint64(uint32(w)), uint64(len(t.requests)-1))]
}

// privatePrompt is what a request's prompt holds beyond its prefix. Only a word from outside can pair a request with a
// prefix that leaves it nothing; it gets one token, so that the bound of maxPromptTokens holds for it too.
func privatePrompt(e *Episode, q *request, prefix uint8) uint32 {
	return q.input - min(q.input-1, uint32(e.PrefixPages[prefix])*kv.PageTokens)
}
