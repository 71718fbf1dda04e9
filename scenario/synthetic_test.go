package scenario

import (
	"math"
	"sync"
	"testing"

	"github.com/kvgym/kvgym/kv"
	"github.com/stretchr/testify/require"
)

func mix(z uint64) uint64 {
	z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
	z = (z ^ (z >> 27)) * 0x94D049BB133111EB
	return z ^ (z >> 31)
}

// draw is rules 2.2 and 2.3, written again.
func draw(id Identity, purpose, step, index uint64) uint64 {
	const g = 0x9E3779B97F4A7C15
	k := mix(id.Seed + g)
	k = mix(k + (uint64(id.Env)+1)*g)
	k = mix(k + (uint64(id.Episode)+1)*g)
	return mix(k + (purpose<<56+step<<24+index)*g)
}

func bitsOf(w uint64, lo, n uint) uint64 { return w >> lo & (1<<n - 1) }

func synthetic(t testing.TB, slots, steps int, d Difficulty) *Synthetic {
	s, err := NewSynthetic(slots, steps, d)
	require.NoError(t, err)
	return s
}

// Rules 4.1 to 4.4, drawn again from the text.
func TestSyntheticEpisode(t *testing.T) {
	ranges := [3][2]uint64{{900, 1000}, {750, 900}, {650, 800}}
	levels := [3][2]Level{{Low, Moderate}, {Moderate, High}, {High, Bursty}}
	for _, slots := range []int{16, 64, 80, 256} {
		for _, d := range []Difficulty{Easy, Medium, Hard, All} {
			s := synthetic(t, slots, 30, d)
			for n := range uint32(200) {
				id := Identity{Seed: uint64(n) * 77, Env: n, Episode: 3 * n}
				var e Episode
				s.Begin(id, &e)
				w := draw(id, 1, 0, 0)
				tier := uint64(d)
				if d == All {
					tier = bitsOf(w, 0, 16) * 3 >> 16
				}
				permille := ranges[tier][0] + bitsOf(w, 16, 16)*(ranges[tier][1]-ranges[tier][0]+1)>>16
				require.EqualValues(t, slots*16, e.CapacityQP)
				require.EqualValues(t, uint64(slots)*16*permille/1000, e.BudgetQP)
				require.EqualValues(t, tier, e.DrawnFrom)
				require.Equal(t, levels[tier][bitsOf(w, 32, 1)], e.ArrivalLevel)
				require.EqualValues(t, 4+(6+bitsOf(w, 33, 16)*8>>16)*uint64(slots)/64, e.NumInitial)
				require.EqualValues(t, 1000, e.TokenNorm)
				for p := uint64(1); p <= 4; p++ {
					require.EqualValues(t, 2+draw(id, 2, 0, p)&7, e.PrefixPages[p])
				}
			}
		}
	}
}

// Rule 4.5, decoded again from the text, with the tables that tables_test checks.
func TestSyntheticRequest(t *testing.T) {
	s := synthetic(t, 64, 15, All)
	var e Episode
	s.Begin(Identity{}, &e)
	for n := range uint64(20_000) {
		w := mix(n) & (1<<48 - 1)
		q := s.Decode(&e, Word(w))
		b := w & 255
		kind := kv.Ephemeral
		if b < 217 {
			kind = kv.Reasoning
		}
		if b < 166 {
			kind = kv.Generation
		}
		if b < 56 {
			kind = kv.Context
		}
		prefix := uint64(0)
		if w>>10&3 != 0 {
			prefix = 1 + w>>8&3
		}
		require.Equal(t, Sequence{PromptTokens: uint32(uint64(promptPages[w>>12&63]-1)*128 + 1 + w>>18&127), OutputTokens: uint16(outputTokens[w>>25&63]),
			RateTokens: uint16(1 + w>>31&3), Priority: uint8(w >> 33 & 127 * 101 >> 7), Prefix: uint8(prefix), Type: kind, Codes: uint8(w>>40&3<<4 | w>>42&3<<6)}, q)
		tokens, p := s.Demand(&e, Word(w))
		require.Equal(t, q.PromptTokens, tokens)
		require.Equal(t, q.Prefix, p)
	}
}

// Arrivals have the means that the tiers name: over n steps the mean of a Poisson count lies within 4 standard errors.
func TestArrivalMeans(t *testing.T) {
	for _, slots := range []int{16, 64, 256} {
		counts, steps := map[Level]float64{}, map[Level]float64{}
		for _, d := range []Difficulty{Easy, Hard} {
			s := synthetic(t, slots, 100, d)
			for n := range uint32(300) {
				var e Episode
				s.Begin(Identity{Seed: 1, Env: n}, &e)
				out := make([]Word, 0)
				for step := range 100 {
					counts[e.ArrivalLevel] += float64(arrive(s, &e, step, out))
					steps[e.ArrivalLevel]++
				}
			}
		}
		for level, mean := range map[Level]float64{Low: 2.7, Moderate: 2.9, High: 3.2, Bursty: 0.7*2.0 + 0.3*6.1} {
			want := mean * float64(slots) / 64
			require.Greater(t, steps[level], 1000.0)
			sigma := math.Sqrt(want) * 1.5 / math.Sqrt(steps[level]) // bursty spreads wider than Poisson
			require.InDelta(t, want, counts[level]/steps[level], 4*sigma, "%s at %d slots", level, slots)
		}
	}
}

// Neighbouring identities share nothing; the same one gives the same episode from several goroutines at once.
func TestIdentities(t *testing.T) {
	s := synthetic(t, 64, 15, All)
	fingerprint := func(id Identity) (all []uint64) {
		var e Episode
		s.Begin(id, &e)
		out := make([]Word, 32)
		for step := range 15 {
			for _, w := range out[:min(32, arrive(s, &e, step, out))] {
				all = append(all, uint64(w))
			}
		}
		return all
	}
	base := fingerprint(Identity{7, 7, 7})
	seen := map[uint64]bool{}
	for _, w := range base {
		seen[w] = true
	}
	for _, id := range []Identity{{8, 7, 7}, {6, 7, 7}, {7, 8, 7}, {7, 6, 7}, {7, 7, 8}, {7, 7, 6}} {
		for _, w := range fingerprint(id) {
			require.False(t, seen[w], "%+v", id)
		}
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { require.Equal(t, base, fingerprint(Identity{7, 7, 7})) })
	}
	wg.Wait()
}

func TestBadShapes(t *testing.T) {
	for _, c := range [][2]int{{0, 15}, {15, 15}, {24, 15}, {272, 15}, {64, 0}, {64, 4097}, {64, -1}} {
		_, err := NewSynthetic(c[0], c[1], Easy)
		require.ErrorContains(t, err, "allowed")
	}
	_, err := NewSynthetic(64, 15, 9)
	require.ErrorContains(t, err, "difficulty: 9: allowed easy, medium, hard, all")
	for _, name := range []string{"easy", "medium", "hard", "all"} {
		d, err := ParseDifficulty(name)
		require.NoError(t, err)
		require.Equal(t, name, d.String())
	}
	_, err = ParseDifficulty("Hard")
	require.ErrorContains(t, err, `difficulty: "Hard": allowed easy, medium, hard, all`)
}

// arrive is Arrive without what the requests need.
func arrive(s Source, e *Episode, step int, out []Word) int {
	n, _ := s.Arrive(e, step, out, nil)
	return n
}
