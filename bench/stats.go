package bench

import "slices"

// spread is what is told of the values of several rounds.
type spread struct{ median, least, greatest float64 }

// spreadOf is of at least one value; the median of an even number is the mean of the two in the middle.
func spreadOf(values []float64) spread {
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	return spread{median: (v[(n-1)/2] + v[n/2]) / 2, least: v[0], greatest: v[n-1]}
}

// quotients divides round by round.
func quotients(a, b []float64) []float64 {
	q := make([]float64, len(a))
	for i := range q {
		q[i] = a[i] / b[i]
	}
	return q
}
