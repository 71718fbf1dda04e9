package trace

import "math/bits"

// stream is a splitmix64 counter. Everything drawn from it is computed in
// integers, so that a seed gives one file on every architecture: the last bits
// of floating-point logarithms and exponentials do not.
type stream struct{ state uint64 }

// newStream returns the stream number n of a purpose under a seed. Hashing
// rather than adding keeps neighbouring seeds and numbers unrelated.
func newStream(seed, purpose, n uint64) stream {
	return stream{mix(mix(mix(seed+golden)^purpose) + n*golden)}
}

func (s *stream) next() uint64 {
	s.state += golden
	return mix(s.state)
}

// below returns a number from 0 to n-1, n > 0; the bias is under n/2^64.
func (s *stream) below(n uint64) uint64 {
	hi, _ := bits.Mul64(s.next(), n)
	return hi
}

// quantiles is an inverse distribution function: the values at quantileAt, with
// straight lines between them.
type quantiles [len(quantileAt)]int64

// quantileAt is in 1/10,000.
var quantileAt = [...]int64{0, 100, 500, 1000, 2500, 5000, 7500, 9000, 9500, 9900, 9990, 10000}

// draw returns a number from the first to the last value of q.
func (s *stream) draw(q *quantiles) int64 {
	const unit = 1 << 16 // of 1/10,000; keeps the product below in 63 bits
	x := int64(s.below(10000 * unit))
	i := 1
	for x >= quantileAt[i]*unit {
		i++
	}
	lo, hi := quantileAt[i-1]*unit, quantileAt[i]*unit
	return q[i-1] + (q[i]-q[i-1])*(x-lo)/(hi-lo)
}

// exponential returns an exponentially distributed number of the given mean,
// mean < 2^37. For u = 2^-(k+1) * (1+f) it is (k+1) ln 2 - ln(1+f), with k the
// leading zeros of a random word and f the bits after its first one.
func (s *stream) exponential(mean int64) int64 {
	w := s.next() | 1
	k := bits.LeadingZeros64(w)
	f := w << (k + 1) >> 32 // 32 bits of fraction; short words have zeros at the end
	i, part := f>>27, int64(f&(1<<27-1))
	log := ln1p[i] + (ln1p[i+1]-ln1p[i])*part>>27
	return mean * (int64(k+1)*ln2 - log) >> 20
}

// ln2 and ln1p[i] = ln(1 + i/32) are in units of 2^-20.
const ln2 = 726817

var ln1p = [33]int64{
	0, 32266, 63570, 93965, 123504, 152234, 180198, 207435,
	233983, 259875, 285143, 309817, 333923, 357487, 380534, 403085,
	425161, 446782, 467966, 488731, 509092, 529065, 548665, 567906,
	586800, 605359, 623596, 641520, 659144, 676476, 693527, 710304,
	726817,
}
