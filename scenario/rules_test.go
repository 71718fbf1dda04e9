package scenario

import (
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/kvgym/kvgym/kv"
	"github.com/stretchr/testify/require"
)

// book holds the tables of docs/simulator.md, read from its text, so that the rules and the program cannot drift apart.
type book struct {
	prompt, output []uint64
	levels         map[string][]uint64
}

func readBook(t *testing.T) (b book) {
	text, err := os.ReadFile(filepath.Join("..", "docs", "simulator.md"))
	require.NoError(t, err)
	b.prompt = numbersAfter(t, string(text), "\nPROMPT (", 64)
	b.output = numbersAfter(t, string(text), "\nOUTPUT (", 64)
	b.levels = map[string][]uint64{}
	for _, level := range []string{"low", "medium", "high", "bursty", "burst"} {
		b.levels[level] = numbersAfter(t, string(text), "\n| "+level+" | ", 7)
	}
	return b
}

// numbersAfter reads the n numbers that follow the mark: those of its table's row, or of the first code span.
func numbersAfter(t *testing.T, text, mark string, n int) (out []uint64) {
	_, rest, ok := strings.Cut(text, mark)
	require.True(t, ok, mark)
	if strings.HasSuffix(mark, "(") { // a heading with numbers of its own
		_, rest, _ = strings.Cut(rest, "`")
	}
	for _, word := range regexp.MustCompile(`[0-9]+`).FindAllString(rest, n) {
		x, err := strconv.ParseUint(word, 10, 64)
		require.NoError(t, err)
		out = append(out, x)
	}
	return out
}

// request is rule 4.5.
func (b *book) request(w uint64) Sequence {
	q := Sequence{PromptTokens: uint32((b.prompt[bitsOf(w, 12, 6)]-1)*128 + 1 + bitsOf(w, 18, 7)), OutputTokens: uint16(b.output[bitsOf(w, 25, 6)]),
		RateTokens: uint16(1 + bitsOf(w, 31, 2)), Priority: uint8(bitsOf(w, 33, 7) * 101 >> 7), Codes: uint8(bitsOf(w, 40, 2)<<4 | bitsOf(w, 42, 2)<<6),
		Type: kv.Ephemeral}
	switch x := bitsOf(w, 0, 8); {
	case x < 56:
		q.Type = kv.Context
	case x < 166:
		q.Type = kv.Generation
	case x < 217:
		q.Type = kv.Reasoning
	}
	if bitsOf(w, 10, 2) != 0 {
		q.Prefix = uint8(1 + bitsOf(w, 8, 2))
	}
	return q
}

// initial is rule 4.6.
func (b *book) initial(id Identity, i uint64) InitialSequence {
	w := draw(id, 3, 0, i)
	q := InitialSequence{Sequence: b.request(w), Hotness: uint8(bitsOf(w, 54, 8)), Phase: kv.Decode}
	if i < 4 {
		q.Sequence = Sequence{Type: kv.System, Prefix: uint8(i + 1), Priority: q.Priority}
		q.Phase, q.LastAccess = kv.Idle, -int16(bitsOf(w, 62, 2))
		return q
	}
	q.DoneTokens = uint16(bitsOf(w, 48, 6) * uint64(q.OutputTokens) >> 6)
	if q.Type == kv.Reasoning {
		q.Phase = kv.Thinking
	}
	if q.Type == kv.Context {
		q.Timer = 2 + q.OnCode()
		if bitsOf(w, 62, 1) == 1 {
			q.Phase, q.Timer, q.LastAccess = kv.Idle, 1+q.OffCode(), -int16(bitsOf(w, 54, 3))
		}
	}
	return q
}

// arrivals is rules 4.7 and 4.8.
func (b *book) arrivals(id Identity, level string, slots, step uint64) (n int) {
	if level == "bursty" && bitsOf(draw(id, 4, step, 255), 0, 16) < 19661 {
		level = "burst"
	}
	for lane := range slots / 16 {
		u := bitsOf(draw(id, 4, step, lane/4), uint(16*(lane%4)), 16)
		for _, entry := range b.levels[level] {
			if entry > u {
				break
			}
			n++
		}
	}
	return n
}

// Rules 4.6 to 4.9: initial sequences and every step's arrivals, drawn again from the text and its tables.
func TestSyntheticDraws(t *testing.T) {
	rules := readBook(t)
	levels := map[Level]string{Low: "low", Moderate: "medium", High: "high", Bursty: "bursty"}
	seen := map[Level]bool{}
	for _, slots := range []int{16, 64, 80, 256} {
		for _, d := range []Difficulty{Easy, Hard} {
			s := synthetic(t, slots, 30, d)
			for n := range uint32(60) {
				id := Identity{Seed: 1<<63 + uint64(n), Env: 5 * n, Episode: n}
				var e Episode
				s.Begin(id, &e)
				require.NoError(t, s.CheckEpisode(&e))
				for i := range uint64(e.NumInitial) {
					require.Equal(t, rules.initial(id, i), s.Initial(&e, int(i)), "initial %d", i)
				}
				seen[e.ArrivalLevel] = true
				out := make([]Word, 5) // fewer than may arrive: the count must be whole all the same
				for step := range uint64(31) {
					count := arrive(s, &e, int(step), out)
					require.Equal(t, rules.arrivals(id, levels[e.ArrivalLevel], uint64(slots), step), count, "step %d", step)
					for k, w := range out[:min(count, len(out))] {
						want := bitsOf(draw(id, 5, step, uint64(k)), 0, 48)
						require.EqualValues(t, want|step<<48, w)
						require.Equal(t, rules.request(want), s.Decode(&e, w))
					}
				}
			}
		}
	}
	require.Len(t, seen, 4, "every arrival level was drawn")
}

// The kinds and prefixes of the requests that arrive have the shares that rule 4.5 gives them, and the tiers and levels
// those of 4.1 and 4.3: each within 4.5 standard errors, which one of a hundred thousand checks would miss.
func TestSyntheticFrequencies(t *testing.T) {
	s := synthetic(t, 64, 15, All)
	counts, total, episodes := map[string]float64{}, 0.0, 0.0
	out := make([]Word, 64)
	for n := range uint32(4000) {
		var e Episode
		s.Begin(Identity{Seed: 3, Env: n % 100, Episode: n / 100}, &e)
		episodes++
		counts[e.DrawnFrom.String()]++
		counts["level "+e.ArrivalLevel.String()]++
		for step := range 15 {
			for _, w := range out[:arrive(s, &e, step, out)] {
				q := s.Decode(&e, w)
				total++
				counts[q.Type.String()]++
				counts["prefix "+strconv.Itoa(int(q.Prefix))]++
				counts["rate "+strconv.Itoa(int(q.RateTokens))]++
			}
		}
	}
	within := func(name string, share, of float64) {
		require.InDelta(t, share, counts[name]/of, 4.5*math.Sqrt(share*(1-share)/of), name)
	}
	for name, share := range map[string]float64{"context": 56, "generation": 110, "reasoning": 51, "ephemeral": 39, "prefix 0": 64, "prefix 1": 48,
		"prefix 2": 48, "prefix 3": 48, "prefix 4": 48, "rate 1": 64, "rate 2": 64, "rate 3": 64, "rate 4": 64} {
		within(name, share/256, total)
	}
	for name, share := range map[string]float64{"easy": 2, "medium": 2, "hard": 2, "level low": 1, "level medium": 2, "level high": 2, "level bursty": 1} {
		within(name, share/6, episodes)
	}
}
