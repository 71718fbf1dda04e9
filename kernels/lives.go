package kernels

import (
	"github.com/kvgym/kvgym/internal/rng"
	"github.com/kvgym/kvgym/kv"
)

// StepDraws are the counters of the arrivals of step 0; those of later steps are StepStride more for each.
type StepDraws struct {
	Count  uint64        // of how many arrive
	Burst  uint64        // of whether there is a burst
	Base   uint64        // of what each of them brings
	Counts [2]*[8]uint16 // thresholds of how many: without a burst, and with one
	Chance uint16        // of a burst, 65536ths
	Lanes  int           // draws that count, at most 4
}

// StepStride is the distance of the counters of two steps.
const StepStride = rng.Golden << 24 & (1<<64 - 1)

// StepRoom is the room that the words of eight steps take.
const StepRoom = 8*28 + 8

// ArriveSteps draws the words of the requests of n steps from first on, n at most 8, step after step, as Arrive does, and returns how many
// they are. What words has behind them may be overwritten.
//
//	for t := first; t < first+n; t++ {
//		count, burst, base := Count + t*StepStride, Burst + t*StepStride, Base + t*StepStride
//		k := Counts of the lanes of mix(count), by the thresholds Counts[1] if the lower 16 bits of mix(burst) are below Chance, else Counts[0]
//		append mix(base + i*golden) & (1<<48 - 1) | t<<48 for i < k
//	}
func ArriveSteps(words *[StepRoom]uint64, d *StepDraws, first, n int) int {
	return arriveSteps(words, d, first, n)
}

func arriveStepsGeneric(words *[StepRoom]uint64, d *StepDraws, first, n int) (total int) {
	for t := uint64(first); t < uint64(first+n); t++ {
		burst := (rng.Mix(d.Burst+t*StepStride)&0xFFFF - uint64(d.Chance)) >> 63
		count := counts(rng.Mix(d.Count+t*StepStride)&(^uint64(0)>>(64-16*d.Lanes)), d.Counts[burst])
		base := d.Base + t*StepStride
		for i := range uint64(count) {
			words[total] = rng.Mix(base+i*rng.Golden)&(1<<48-1) | t<<48
			total++
		}
	}
	return total
}

// Lives is what requests of the serving profile meet on a server without constraints; rule 13.4.
type Lives struct {
	Tables *RequestTables
	Spans  [64]uint16 // steps that a turn takes, by bits 25 to 30
	Rate   uint32     // tokens that a sequence generates a step, at most 65,535
	Steps  uint32     // of the episode, at most 4096
}

const (
	unconstrainedStart = 2   // a request generates from the second step after its arrival
	turnGap            = 2   // steps from the end of a turn to the next one, shifted by the pause code; rule 13.3
	toolTokens         = 256 // that the next turn brings, likewise
)

// life follows the sequence of a word that holds memory from step held on and generates left tokens in the span steps from start on, and
// then its session's further turns. It returns the pages it holds, summed over the steps, and its tokens times their weight.
func (l *Lives) life(w uint64, tokens, held, start, left, span uint32) (pageSteps, good uint64) {
	delivered := l.delivered(left, start)
	tokens += left
	end := start + span - 1
	if l.Tables.typeOf(uint32(w&0xFF)) == uint32(kv.Context) {
		k, pause := w>>25&63, w>>42&3
		out := uint32(l.Tables.Output[k])
		for turns := w >> 40 & 3; turns > 0 && end < l.Steps; turns-- {
			start = end + turnGap<<pause
			delivered += l.delivered(out, start)
			tokens += toolTokens<<pause + out
			end = start + uint32(l.Spans[k]) - 1
		}
	}
	priority := uint32(w >> 33 & 127 * 101 >> 7)
	return uint64(kv.Pages(tokens)) * uint64(min(end, l.Steps)-held+1), uint64(delivered) * uint64(kv.TokenWeight(priority))
}

// delivered is what a turn of n tokens that starts in a step delivers in the episode.
func (l *Lives) delivered(n, start uint32) uint32 {
	return min(n, l.Rate*(max(l.Steps+1, start)-start))
}

// AddInitial adds up the lives of the initial sequences of draws that are no system entries; rules 13.4 and 13.6.
//
//	for _, w := range draws {
//		prompt, out := (Pages[...]-1)*128 + 1 + bits 18-24, Output[...]
//		done := bits 48-53 * out >> 6
//		if not context or bit 62 is 0 {
//			pageSteps, good += life(w, prompt+done, 0, 1, out-done, ceil((out-done) / Rate))
//		} else if bits 40-41 are not 0 {
//			pageSteps, good += life(w - 1<<40, prompt+out + 256<<bits 42-43, 0, 1 + bits 54-56, out, Spans[...])
//		}
//	}
func (l *Lives) AddInitial(draws *[8]uint64, n int) (pageSteps, good uint64) {
	return livesInitial(l, draws, min(n, len(draws)))
}

// Add adds up the lives of the requests of words, which their highest 16 bits say the steps of, all before the episode's last.
//
//	for _, w := range words {
//		a := w >> 48
//		pageSteps, good += life(w, (Pages[...]-1)*128 + 1 + bits 18-24, a+1, a+2, Output[...], Spans[...])
//	}
func (l *Lives) Add(words []uint64) (pageSteps, good uint64) {
	if len(words) == 0 {
		return 0, 0
	}
	return lives(l, words)
}

func livesGeneric(l *Lives, words []uint64) (pageSteps, good uint64) {
	for _, w := range words {
		a, k := uint32(w>>48), w>>25&63
		p, g := l.life(w, l.prompt(w), a+1, a+unconstrainedStart, uint32(l.Tables.Output[k]), uint32(l.Spans[k]))
		pageSteps += p
		good += g
	}
	return pageSteps, good
}

func (l *Lives) prompt(w uint64) uint32 {
	return (uint32(l.Tables.Pages[w>>12&63])-1)*kv.PageTokens + 1 + uint32(w>>18&127)
}

func livesInitialGeneric(l *Lives, draws *[8]uint64, n int) (pageSteps, good uint64) {
	for _, w := range draws[:n] {
		p, g := l.initial(w)
		pageSteps += p
		good += g
	}
	return pageSteps, good
}

func (l *Lives) initial(w uint64) (pageSteps, good uint64) {
	k := w >> 25 & 63
	out := uint32(l.Tables.Output[k])
	if l.Tables.typeOf(uint32(w&0xFF)) != uint32(kv.Context) || w>>62&1 == 0 {
		done := uint32(w>>48&63) * out >> 6
		left := out - done
		return l.life(w, l.prompt(w)+done, 0, 1, left, (left+l.Rate-1)/l.Rate)
	}
	if w>>40&3 == 0 {
		return 0, 0
	}
	w -= 1 << 40 // idle: the next turn is the first that counts
	return l.life(w, l.prompt(w)+out+toolTokens<<(w>>42&3), 0, 1+uint32(w>>54&7), out, uint32(l.Spans[k]))
}
