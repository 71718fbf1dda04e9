package scripted

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kvgym/kvgym/internal/rng"
)

// Fault numbers what can go wrong with a request.
type Fault int

// The faults. Slow goes together with any other one; of those, the first that hits is done.
const (
	Slow      Fault = iota // the reply takes Faults.Delay longer
	Limited                // 429 with Retry-After
	Broken                 // 500
	Dropped                // the connection ends in the middle of the body
	Garbled                // the body is no JSON
	Arguments              // the arguments of tool calls are no JSON
	NumFaults       = 6

	sound Fault = -1 // nothing goes wrong
)

var faultNames = [NumFaults]string{"slow", "429", "500", "drop", "json", "arguments"}

// String is the fault's name, as in the flags of the command.
func (f Fault) String() string { return faultNames[f] }

// Faults says which requests go wrong.
type Faults struct {
	When       [NumFaults]When
	Seed       uint64
	Delay      time.Duration // of Slow
	RetryAfter time.Duration // of Limited
}

// When chooses requests: a share of them, or those of given numbers. The zero value chooses none.
type When struct {
	share   float64
	numbers []uint64
}

// WhenAllowed says what ParseWhen allows.
const WhenAllowed = "a share such as 10%, or numbers of requests such as 3,7"

// ParseWhen reads a share such as 10%, or the numbers of requests such as 3,7, counted from 1. The empty word chooses none.
func ParseWhen(word string) (w When, err error) {
	if word == "" {
		return w, nil
	}
	if share, ok := strings.CutSuffix(word, "%"); ok {
		w.share, err = strconv.ParseFloat(share, 64)
		if w.share /= 100; err != nil || !(w.share >= 0 && w.share <= 1) {
			return When{}, fmt.Errorf("%.40q: allowed %s", word, WhenAllowed)
		}
		return w, nil
	}
	for _, text := range strings.Split(word, ",") {
		n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 64)
		if err != nil || n == 0 {
			return When{}, fmt.Errorf("%.40q: allowed %s", word, WhenAllowed)
		}
		w.numbers = append(w.numbers, n)
	}
	return w, nil
}

// hits tells whether fault f comes to request n.
func (f *Faults) hits(fault Fault, n uint64) bool {
	w := &f.When[fault]
	if slices.Contains(w.numbers, n) {
		return true
	}
	draw := rng.Mix(rng.Key(f.Seed, uint32(fault), 0) + n*rng.Golden)
	return float64(draw>>11) < w.share*(1<<53)
}

// of returns the fault of request n beside Slow, or sound.
func (f *Faults) of(n uint64) Fault {
	for fault := Limited; fault < NumFaults; fault++ {
		if f.hits(fault, n) {
			return fault
		}
	}
	return sound
}
