// Package rng gives the counter-based random streams of the simulator: use it wherever a draw must depend on
// (seed, env, episode, purpose, step, index) and on nothing else, so that scheduling and batch shape cannot reach it.
//
// The algorithm is rules 2.1 to 2.3 of docs/simulator.md: SplitMix64's finaliser applied to a keyed counter. It is a pure
// function of 64-bit integers, so every machine draws the same bits.
package rng

// Golden is 2^64 divided by the golden ratio, made odd: SplitMix64's increment.
const Golden = 0x9E3779B97F4A7C15

// Purpose separates the streams of one episode. The numbers are part of the rules.
type Purpose uint8

// The purposes of rule 2.3.
const (
	Episode  Purpose = 1 // difficulty, budget, arrival level, number of initial sequences
	Prefix   Purpose = 2 // pages of each shared prefix
	Initial  Purpose = 3 // initial sequences
	Arrivals Purpose = 4 // how many requests arrive in a step
	Request  Purpose = 5 // what each of them brings
	Window   Purpose = 6 // where in a trace the episode starts, and what the trace does not say
	Policy   Purpose = 7 // the random policy's choices
)

// Mix is SplitMix64's finaliser (Stafford's variant 13).
func Mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
	z = (z ^ z>>27) * 0x94D049BB133111EB
	return z ^ z>>31
}

// Key hashes an episode's identity. Each part is mixed before the next is added, so neighbouring seeds, environments
// and episodes have unrelated streams.
func Key(seed uint64, env, episode uint32) uint64 {
	k := Mix(seed + Golden)
	k = Mix(k + (uint64(env)+1)*Golden)
	return Mix(k + (uint64(episode)+1)*Golden)
}

// Draw returns the 64-bit draw number index of a purpose at a step. index must be below 2^24.
func Draw(key uint64, p Purpose, step, index uint32) uint64 { return Mix(Counter(key, p, step, index)) }

// Counter is what Draw mixes; After finds those of later indices.
func Counter(key uint64, p Purpose, step, index uint32) uint64 {
	return key + (uint64(p)<<56|uint64(step)<<24|uint64(index))*Golden
}

// Field cuts bits [lo, lo+n) out of a draw.
func Field(w uint64, lo, n uint) uint32 { return uint32(w >> lo & (1<<n - 1)) }

// Scale maps an n-bit field to 0..limit-1 by multiply and shift; limit must be at most 2^(32-n) for no overflow.
func Scale(field uint32, n uint, limit uint32) uint32 { return field * limit >> n }

// After is the counter of the draw n indices later.
func After(counter, n uint64) uint64 { return counter + n*Golden }
