package trace

import "bytes"

// parseInt reads a decimal integer with an optional minus sign and nothing
// else: no plus, no fraction, no exponent, no spaces.
func parseInt(s []byte) (int64, bool) {
	neg := len(s) > 0 && s[0] == '-'
	if neg {
		s = s[1:]
	}
	v, ok := parseUint(s)
	if !ok || v > 1<<63-1 {
		return 0, false
	}
	if neg {
		return -int64(v), true
	}
	return int64(v), true
}

// parseUint reads a decimal integer of digits only.
func parseUint(s []byte) (uint64, bool) {
	if len(s) == 0 || len(s) > 20 {
		return 0, false
	}
	var v uint64
	for _, c := range s {
		if c < '0' || c > '9' {
			return 0, false
		}
		d := uint64(c - '0')
		if v > (1<<64-1-d)/10 {
			return 0, false
		}
		v = v*10 + d
	}
	return v, true
}

// parseDecimal returns the non-negative decimal number s times 10^shift,
// rounded half up: with shift 6 it turns seconds into microseconds. It works on
// the digits, because the copies of traces in circulation hold seconds such as
// 5.8926549999999995, which a truncating conversion puts one microsecond off.
// It refuses signs, NaN, infinities and results above maxTimeMicros.
func parseDecimal(s []byte, shift int) (int64, bool) {
	exp := 0
	if i := bytes.IndexAny(s, "eE"); i >= 0 {
		var ok bool
		if exp, ok = parseExponent(s[i+1:]); !ok {
			return 0, false
		}
		s = s[:i]
	}
	whole, frac, _ := bytes.Cut(s, []byte{'.'})
	n := len(whole) + len(frac)
	if n == 0 {
		return 0, false
	}
	digit := func(i int) byte {
		if i < len(whole) {
			return whole[i]
		}
		return frac[i-len(whole)]
	}
	point := len(whole) + exp + shift // digits before it form the result
	var v int64
	for i := range n {
		c := digit(i)
		if c < '0' || c > '9' {
			return 0, false
		}
		if i < point {
			v = v*10 + int64(c-'0')
		} else if i == point && c >= '5' {
			v++
		}
		if v > maxTimeMicros {
			return 0, false
		}
	}
	for i := n; i < point && v > 0; i++ {
		v *= 10
		if v > maxTimeMicros {
			return 0, false
		}
	}
	return v, true
}

// parseExponent reads what follows the e of a decimal number. Exponents that no
// 16 MiB line can bring back into range are clamped.
func parseExponent(s []byte) (int, bool) {
	neg := false
	if len(s) > 0 && (s[0] == '+' || s[0] == '-') {
		neg = s[0] == '-'
		s = s[1:]
	}
	if len(s) == 0 {
		return 0, false
	}
	v := 0
	for _, c := range s {
		if c < '0' || c > '9' {
			return 0, false
		}
		v = min(v*10+int(c-'0'), 2*MaxLineBytes)
	}
	if neg {
		v = -v
	}
	return v, true
}

// parseClock reads "2023-11-16 18:15:46.6805900" with an optional fraction of
// up to nine digits and an optional zone (Z, +hh, +hhmm, +hh:mm), and returns
// microseconds since 1970, rounded half up. Without a zone the time is taken as
// UTC: only differences matter here. The standard library's parser would take
// these texts too, but not without an allocation a row.
func parseClock(s []byte) (int64, bool) {
	if len(s) < 19 || s[4] != '-' || s[7] != '-' || (s[10] != ' ' && s[10] != 'T') || s[13] != ':' || s[16] != ':' {
		return 0, false
	}
	var f [6]int
	for i, at := range [6][2]int{{0, 4}, {5, 7}, {8, 10}, {11, 13}, {14, 16}, {17, 19}} {
		v, ok := parseUint(s[at[0]:at[1]])
		if !ok {
			return 0, false
		}
		f[i] = int(v)
	}
	year, month, day, hour, minute, second := f[0], f[1], f[2], f[3], f[4], f[5]
	if year < 1970 || month < 1 || month > 12 || day < 1 || day > daysIn(year, month) || hour > 23 || minute > 59 || second > 59 {
		return 0, false
	}
	rest := s[19:]
	var micros int64
	if len(rest) > 0 && rest[0] == '.' {
		end := 1
		for end < len(rest) && rest[end] >= '0' && rest[end] <= '9' {
			end++
		}
		if end < 2 || end > 10 {
			return 0, false
		}
		micros, _ = parseDecimal(rest[:end], 6)
		rest = rest[end:]
	}
	offset, ok := parseZone(rest)
	if !ok {
		return 0, false
	}
	seconds := int64(daysSinceEpoch(year, month, day))*86400 + int64(hour*3600+minute*60+second-offset)
	return seconds*1_000_000 + micros, true
}

// parseZone returns a zone's offset east of UTC in seconds.
func parseZone(s []byte) (int, bool) {
	if len(s) == 0 || (len(s) == 1 && s[0] == 'Z') {
		return 0, true
	}
	sign := 1
	switch s[0] {
	case '+':
	case '-':
		sign = -1
	default:
		return 0, false
	}
	s = s[1:]
	if len(s) == 5 && s[2] == ':' {
		s = []byte{s[0], s[1], s[3], s[4]}
	}
	if len(s) != 2 && len(s) != 4 {
		return 0, false
	}
	v, ok := parseUint(s)
	if len(s) == 2 {
		v *= 100
	}
	if !ok || v/100 > 23 || v%100 > 59 {
		return 0, false
	}
	return sign * (int(v/100)*3600 + int(v%100)*60), true
}

func leap(year int) bool { return year%4 == 0 && (year%100 != 0 || year%400 == 0) }

func daysIn(year, month int) int {
	switch month {
	case 2:
		if leap(year) {
			return 29
		}
		return 28
	case 4, 6, 9, 11:
		return 30
	}
	return 31
}

// daysSinceEpoch counts days from 1970-01-01 in the Gregorian calendar. The
// year is shifted to start in March, so that the leap day comes last.
func daysSinceEpoch(year, month, day int) int {
	if month <= 2 {
		year--
		month += 12
	}
	return 365*year + year/4 - year/100 + year/400 + (153*(month-3)+2)/5 + day - 1 - 719468
}
