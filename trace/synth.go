package trace

import (
	"bufio"
	"container/heap"
	"io"
	"math"
	"strconv"
)

// SynthConfig says what Synthesize writes. A field left at zero has its default.
type SynthConfig struct {
	// Requests is the number of rows, 1 to 10,000,000. Default 2000.
	Requests int
	// Seed chooses the file; every value is a good one.
	Seed uint64
	// Rate is the mean number of requests a second once follow-ups of earlier
	// sessions have built up (some minutes), 0.01 to 100,000. Default 4.
	Rate float64
	// Tenants is the number of groups of users with their own system prompt, 1
	// to 65,536. Smaller numbers are more popular. Default 8.
	Tenants int
	// SystemBlocks is the length of a tenant's system prompt in blocks of 512
	// tokens, 1 to 64. Default 1: Sessionizer takes requests that share more
	// than one block for one session, so that a longer system prompt joins a
	// tenant's sessions.
	SystemBlocks int
	// MaxInputTokens bounds a prompt; a session ends before it would pass it.
	// At least 512*SystemBlocks+512, at most 1,048,576. Default 65,536.
	MaxInputTokens int
}

const synthBlock = 512 // tokens of a Mooncake block

// Validate tells what is wrong with the configuration, as "field: value: allowed ...", or nil.
func (c SynthConfig) Validate() error {
	_, err := c.withDefaults()
	return err
}

// withDefaults replaces zeros and checks the result.
func (c SynthConfig) withDefaults() (SynthConfig, error) {
	for _, f := range []struct {
		name     string
		field    *int
		def      int
		min, max int
		allowed  string
	}{
		{"requests", &c.Requests, 2000, 1, 10_000_000, "1 to 10000000"},
		{"tenants", &c.Tenants, 8, 1, 65_536, "1 to 65536"},
		{"system_blocks", &c.SystemBlocks, 1, 1, 64, "1 to 64"},
		{"max_input_tokens", &c.MaxInputTokens, 65_536, 1, 1 << 20, "512*system_blocks+512 to 1048576"},
	} {
		if *f.field == 0 {
			*f.field = f.def
		}
		if *f.field < f.min || *f.field > f.max {
			return c, rangeError(f.name, *f.field, f.allowed)
		}
	}
	if c.MaxInputTokens < (c.SystemBlocks+1)*synthBlock {
		return c, rangeError("max_input_tokens", c.MaxInputTokens, "512*system_blocks+512 to 1048576")
	}
	if c.Rate == 0 {
		c.Rate = 4
	}
	if math.IsNaN(c.Rate) || c.Rate < 0.01 || c.Rate > 100_000 {
		return c, rangeError("rate", c.Rate, "0.01 to 100000")
	}
	return c, nil
}

// Distributions: quantiles of lognormal ones, chosen so that prompts have a
// median near 3,000 and a 90th percentile near 12,000 tokens and answers a
// median of 300: a scaled-down production chat trace.
var (
	firstMessageTokens = quantiles{60, 140, 290, 430, 850, 1800, 3900, 8300, 12600, 27000, 45000, 60000}
	nextMessageTokens  = quantiles{3, 10, 24, 40, 100, 280, 770, 1900, 3300, 9200, 18000, 30000}
	outputTokens       = quantiles{39, 71, 108, 136, 197, 300, 456, 664, 832, 1269, 2038, 3010}
	thinkMillis        = quantiles{1117, 2930, 5791, 8328, 15282, 30000, 58891, 108067, 155408, 307214, 659466, 1200000}
)

const (
	// Of 100 sessions this many have a second turn, and of 100 sessions with at
	// least two turns this many have another. The mean is 1.71 turns.
	secondTurnPct  = 30
	anotherTurnPct = 58
	meanTurnsMilli = 1714

	millisPerOutputToken = 20     // how long an answer takes before thinking starts
	burstMillis          = 30_000 // length of a window of one arrival rate
)

// burstPct is the arrival rate of a window in percent of the mean; the mean of
// the list is 100.
var burstPct = [...]int64{60, 80, 100, 100, 120, 140}

// Purposes of streams.
const (
	streamArrivals = iota + 1
	streamBursts
	streamSession
)

// Synthesize writes a Mooncake trace of c.Requests rows to w. Sessions arrive
// as a Poisson process whose rate changes mildly every 30 seconds. A session
// belongs to a tenant and starts with its system prompt; each further turn
// resends the previous prompt and answer and adds a message after a think time.
// The rows obey every rule Reader checks, and equal configurations give equal
// bytes on every architecture. Errors are those of c, "field: value: allowed
// ...", and of w. Memory grows with the sessions that are waiting for a turn.
func Synthesize(w io.Writer, c SynthConfig) error {
	c, err := c.withDefaults()
	if err != nil {
		return err
	}
	bw := bufio.NewWriterSize(w, 64<<10)
	g := newGenerator(c)
	var line []byte
	for range c.Requests {
		line = g.next(line[:0])
		if _, err := bw.Write(line); err != nil {
			return err
		}
	}
	return bw.Flush()
}

// synthSession is a session that has a turn to come.
type synthSession struct {
	at     int64 // arrival of that turn, microseconds
	number uint64
	random stream
	turn   int
	input  int64
	output int64
	blocks []uint64 // ids of the prompt of the last turn written
}

// generator holds the sessions in flight, ordered by their next turn.
type generator struct {
	cfg      SynthConfig
	arrivals stream
	gap      int64 // mean time between new sessions, 1/64 microsecond
	coming   *synthSession
	open     sessionHeap
	sessions uint64
	systems  [][]uint64 // a tenant's system prompt, nil before its first request
	nextID   uint64
}

func newGenerator(c SynthConfig) *generator {
	g := &generator{cfg: c, arrivals: newStream(c.Seed, streamArrivals, 0), systems: make([][]uint64, c.Tenants)}
	// A single division, which is exactly rounded everywhere.
	g.gap = int64(meanTurnsMilli * 1000 * 64 / c.Rate)
	g.coming = g.newSession(0)
	return g
}

// newSession creates a session whose first turn arrives at the given time.
func (g *generator) newSession(at int64) *synthSession {
	s := &synthSession{at: at, number: g.sessions, random: newStream(g.cfg.Seed, streamSession, g.sessions)}
	g.sessions++
	// The smaller of two draws: popularity falls linearly with the number.
	n := uint64(g.cfg.Tenants)
	tenant := min(s.random.below(n), s.random.below(n))
	if g.systems[tenant] == nil {
		g.systems[tenant] = g.newIDs(nil, g.cfg.SystemBlocks)
	}
	s.blocks = append(s.blocks, g.systems[tenant]...)
	system := int64(g.cfg.SystemBlocks) * synthBlock
	s.input = min(system+s.random.draw(&firstMessageTokens), int64(g.cfg.MaxInputTokens))
	s.output = s.random.draw(&outputTokens)
	return s
}

// newIDs appends n ids that no request has had. A block that is new to the file
// gets a new id, so the ids form a tree.
func (g *generator) newIDs(to []uint64, n int) []uint64 {
	for range n {
		to = append(to, g.nextID)
		g.nextID++
	}
	return to
}

// next appends the next row to line and moves its session on.
func (g *generator) next(line []byte) []byte {
	var s *synthSession
	if len(g.open) > 0 && before(g.open[0], g.coming) {
		s = heap.Pop(&g.open).(*synthSession)
	} else {
		s = g.coming
		g.coming = g.newSession(g.nextArrival(s.at))
	}
	s.blocks = g.newIDs(s.blocks, int((s.input+synthBlock-1)/synthBlock)-len(s.blocks))
	line = s.appendRow(line)
	if g.advance(s) {
		heap.Push(&g.open, s)
	}
	return line
}

// nextArrival returns the arrival of the session after one at the given time.
func (g *generator) nextArrival(at int64) int64 {
	bursts := newStream(g.cfg.Seed, streamBursts, uint64(at/(burstMillis*1000)))
	pct := burstPct[bursts.below(uint64(len(burstPct)))]
	return at + g.arrivals.exponential(g.gap*100/pct)>>6
}

// advance plans the turn after the one just written, if there is one.
func (g *generator) advance(s *synthSession) bool {
	pct := uint64(anotherTurnPct)
	if s.turn == 0 {
		pct = secondTurnPct
	}
	more := s.random.below(100) < pct
	next := s.input + s.output + s.random.draw(&nextMessageTokens)
	if !more || next > int64(g.cfg.MaxInputTokens) {
		return false
	}
	// The answer fills the last block up if that was partial, which makes it
	// another block: only full blocks carry over.
	s.blocks = s.blocks[:s.input/synthBlock]
	s.at += (s.output*millisPerOutputToken + s.random.draw(&thinkMillis)) * 1000
	s.input = next
	s.output = s.random.draw(&outputTokens)
	s.turn++
	return true
}

// appendRow appends the row of the session's current turn.
func (s *synthSession) appendRow(b []byte) []byte {
	b = append(b, `{"timestamp": `...)
	b = strconv.AppendInt(b, s.at/1000, 10)
	b = append(b, `, "input_length": `...)
	b = strconv.AppendInt(b, s.input, 10)
	b = append(b, `, "output_length": `...)
	b = strconv.AppendInt(b, s.output, 10)
	b = append(b, `, "hash_ids": [`...)
	for i, id := range s.blocks {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = strconv.AppendUint(b, id, 10)
	}
	return append(b, "]}\n"...)
}

// sessionHeap orders sessions by time, then by number.
type sessionHeap []*synthSession

func before(a, b *synthSession) bool {
	return a.at < b.at || a.at == b.at && a.number < b.number
}

func (h sessionHeap) Len() int           { return len(h) }
func (h sessionHeap) Less(i, j int) bool { return before(h[i], h[j]) }
func (h sessionHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *sessionHeap) Push(x any)        { *h = append(*h, x.(*synthSession)) }
func (h *sessionHeap) Pop() any {
	old := *h
	s := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return s
}
