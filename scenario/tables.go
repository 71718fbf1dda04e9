package scenario

// The tables of docs/simulator.md, rules 4.5, 4.7 and 4.8. They are quantiles and distribution functions of the named
// gonum distributions, rounded to integers once and committed, because a draw must not depend on a machine's last bit;
// TestTablesAreTheDistributions recomputes them.

// arrivalTableLen is the largest number of requests that 16 slots' share of traffic can bring in a step.
const arrivalTableLen = 7

// Mean requests a step for 64 slots. A lane of 16 slots draws from a Poisson distribution of a quarter of it.
var (
	arrivalMeans = [4]float64{2.7, 2.9, 3.2, 2.0} // low, medium, high, bursty between bursts
	burstMean    = 6.1                            // bursty in a burst
)

// arrivalThresholds[level][k] is round(65536 * P(at most k arrivals)) of a lane, at most 65535. The last value of a table is no
// part of it.
var arrivalThresholds = [8][arrivalTableLen + 1]uint16{
	{33368, 55892, 63493, 65204, 65492, 65531, 65535},
	{31741, 54753, 63095, 65110, 65476, 65529, 65535},
	{29447, 53005, 62428, 64941, 65444, 65524, 65535},
	{39750, 59624, 64593, 65421, 65525, 65535, 65535},
	burst: {14262, 36012, 52596, 61026, 64240, 65220, 65469}, // of a bursty lane in a burst step
}

// promptPages are pages of a private prompt: log-normal, median 6.3, sigma 0.6, at quantiles (i+1/2)/64, within 1 to 24.
var promptPages = [64]uint8{
	1, 2, 2, 2, 3, 3, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4,
	4, 4, 5, 5, 5, 5, 5, 5, 5, 5, 6, 6, 6, 6, 6, 6,
	6, 7, 7, 7, 7, 7, 7, 8, 8, 8, 8, 8, 9, 9, 9, 9,
	10, 10, 10, 11, 11, 11, 12, 12, 13, 14, 14, 15, 16, 18, 21, 24,
}

// outputTokens are tokens to generate: log-normal, median 34, sigma 0.6, at quantiles (i+1/2)/64, within 4 to 96.
var outputTokens = [64]uint16{
	8, 10, 12, 13, 14, 15, 16, 17, 17, 18, 19, 20, 20, 21, 22, 22,
	23, 24, 24, 25, 26, 26, 27, 28, 28, 29, 30, 31, 31, 32, 33, 34,
	34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 49, 50,
	52, 53, 55, 57, 59, 61, 64, 66, 69, 73, 77, 82, 89, 96, 96, 96,
}

// rateTokens are tokens generated a step.
var rateTokens = [4]uint16{1, 2, 3, 4}
