package kernels

import (
	"math"

	"github.com/kvgym/kvgym/kv"
)

// Clock is a preset's time of prefill as tables, for Pay.
type Clock struct {
	From    [64]uint8   // segment of n tokens, by the leading zeros of n - 1 as 64 bits
	End     [16]uint64  // of each segment: the tokens that it reaches to
	Start   [16]uint64  // and those after which it begins
	NS      [16]uint64  // nanoseconds there
	Rise    [16]uint64  // nanoseconds more in Span tokens, below 2^32
	Inverse [16]float64 // 1/Span, not below it
	PairPS  uint64

	of   *kv.Clock
	fits bool // the tables hold all
}

// NewClock makes the tables of a clock.
func NewClock(of *kv.Clock) *Clock {
	c, segments := &Clock{of: of, PairPS: of.PairPS}, of.Segments
	c.fits = len(segments) <= len(c.End)
	for i := range c.End {
		s := segments[min(i, len(segments)-1)]
		c.fits = c.fits && s.Rise < 1<<32
		c.End[i], c.Start[i], c.NS[i], c.Rise[i], c.Inverse[i] = s.End, s.Start, s.NS, s.Rise, inverse(s.Span)
	}
	for zeros := range c.From {
		c.From[zeros] = of.From[min(31, (64-zeros)&63)]
	}
	return c
}

// inverse is a factor by which x/n is the product rounded down, of whole numbers, while x is below 2^51: n is exact, and the factor errs
// by at most two parts in 2^53, upwards, so the product is off by less than 1/n.
func inverse(n uint64) float64 {
	x := 1 / float64(n)
	if math.FMA(x, float64(n), -1) < 0 {
		x = math.Nextafter(x, 1)
	}
	return x
}

// Pay places the tickets of a set, in order, into the lowest slots of a plane, of which there are enough, and returns these: all but what
// Settle writes of it. The ledger gets their private memory and the prefixes that nobody held, joins as many as each prefix gets, work
// the slots' microseconds of prefill. waste is that of those that had been prefilled before. Rules 13.17 and 13.20.
//
//	for i in set {
//		prefix := 128*pages[Prefix[i]]
//		if PrefixMul[Prefix[i]] is 0 { the prefix is held from now on; work = time(Private[i] + prefix, after 0) } else { time(Private[i], after prefix) }
//	}
func Pay(l *Ledger, t *Tickets, set uint32, free uint64, pages *[8]uint16, clock *Clock, work *[Lanes]uint32, joins *[8]uint8) (slots, waste uint64) {
	return pay(l, t, set, free, pages, clock, work, joins)
}
