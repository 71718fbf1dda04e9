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
