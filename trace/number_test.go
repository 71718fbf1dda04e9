package trace

import (
	"encoding/csv"
	"fmt"
	"math/big"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParseDecimal(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "1": 1_000_000, "1.": 1_000_000, ".5": 500_000, "61.114": 61_114_000,
		"5.8926549999999995": 5_892_655, "218.98225300000001": 218_982_253,
		"0.0000005": 1, "0.00000049999999": 0, "0.0000000": 0,
		"1e3": 1_000_000_000, "1.5E-3": 1500, "2.3e-05": 23, "12e+0": 12_000_000,
		"0.000001e6": 1_000_000, "1e-400": 0, "0e99999999999999": 0, "5e-7": 1, "4e-7": 0, "9e-8": 0,
		"10000000000": maxTimeMicros, "00012": 12_000_000, "9.9999999": 10_000_000,
	} {
		got, ok := parseDecimal([]byte(text), 6)
		require.True(t, ok, text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{
		"", ".", "-1", "+1", "NaN", "inf", "Infinity", "1e", "1e+", "e5", "1.2.3", "0x10", "1_000", " 1", "1 ",
		"10000000000.000001", "1e11", "1e99999999999999999999", strings.Repeat("9", 400),
	} {
		_, ok := parseDecimal([]byte(text), 6)
		require.False(t, ok, text)
	}
}

// Ensure that decimal texts agree with exact rational arithmetic.
func TestParseDecimalAgainstRationals(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		text := fmt.Sprintf("%d.%0*d", r.IntN(1_000_000), 1+r.IntN(18), r.Int64N(1_000_000_000_000_000_000))
		if r.IntN(3) == 0 {
			text += fmt.Sprintf("e%d", r.IntN(12)-9)
		}
		rat, ok := new(big.Rat).SetString(text)
		require.True(t, ok, text)
		rat.Mul(rat, big.NewRat(1_000_000, 1)).Add(rat, big.NewRat(1, 2))
		want := new(big.Int).Quo(rat.Num(), rat.Denom())
		got, ok := parseDecimal([]byte(text), 6)
		if want.Cmp(big.NewInt(maxTimeMicros)) > 0 {
			require.False(t, ok, text)
			continue
		}
		require.True(t, ok, text)
		require.Equal(t, want.Int64(), got, text)
	}
}

// Ensure that clock texts, printed and parsed, agree with package time.
func TestParseClockAgainstTime(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	layouts := []string{
		"2006-01-02 15:04:05.000000", "2006-01-02 15:04:05.0000000", "2006-01-02 15:04:05.000000-07:00",
		"2006-01-02T15:04:05.000000Z", "2006-01-02 15:04:05.000000-0700",
	}
	for range 20000 {
		zone := time.UTC
		layout := layouts[r.IntN(len(layouts))]
		if strings.Contains(layout, "-07") {
			zone = time.FixedZone("z", (r.IntN(2*23*60)-23*60)*60)
		}
		at := time.UnixMicro(86400_000_000 + r.Int64N(250_000*86400*1_000_000)).In(zone)
		text := at.Format(layout)
		got, ok := parseClock([]byte(text))
		require.True(t, ok, text)
		require.Equal(t, at.UnixMicro(), got, text)
	}
}

func TestParseClock(t *testing.T) {
	base, ok := parseClock([]byte("2023-11-16 18:15:46"))
	require.True(t, ok)
	for text, want := range map[string]int64{
		"2023-11-16 18:15:46.6805900":       680_590,
		"2023-11-16 18:15:46.9999995":       1_000_000,
		"2023-11-16 18:15:46.9999994":       999_999,
		"2023-11-16 18:15:46.1":             100_000,
		"2023-11-16 20:15:46+02":            0,
		"2023-11-16 16:45:46.000001-01:30":  1,
		"2023-11-16T18:15:46.123456789Z":    123_457,
		"2023-11-16 18:15:46.000000+0000":   0,
		"2023-11-17 00:00:00.000000+00:00":  5*3600_000_000 + 44*60_000_000 + 14_000_000,
		"2024-02-29 18:15:46.000000":        (14 + 31 + 31 + 29) * 86400_000_000,
		"2023-11-16 18:15:46.000000000":     0,
		"2023-11-16 18:15:45.9999999+00:00": 0,
	} {
		got, ok := parseClock([]byte(text))
		require.True(t, ok, text)
		require.Equal(t, want, got-base, text)
	}
	for _, text := range []string{
		"", "2023-11-16", "2023-11-16 18:15", "2023-02-29 00:00:00", "2100-02-29 00:00:00", "2023-04-31 00:00:00",
		"2023-00-10 00:00:00", "2023-10-00 00:00:00", "2023-10-10 24:00:00", "2023-10-10 00:60:00", "2023-10-10 00:00:60",
		"1969-12-31 23:59:59", "2023-10-10 00:00:00.", "2023-10-10 00:00:00.1234567890", "2023-10-10 00:00:00 UTC",
		"2023-10-10 00:00:00+1", "2023-10-10 00:00:00+24:00", "2023-10-10 00:00:00+00:60", "2023-10-10 00:00:00+00-00",
		"2023-10-10x00:00:00", "202a-10-10 00:00:00", "2023-10-10 00:00:-1", "2023-10-10 00:00:00.5.5",
	} {
		_, ok := parseClock([]byte(text))
		require.False(t, ok, text)
	}
}

func TestParseInt(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "-1": -1, "007": 7, "9223372036854775807": 1<<63 - 1} {
		got, ok := parseInt([]byte(text))
		require.True(t, ok, text)
		require.Equal(t, want, got)
	}
	for _, text := range []string{"", "-", "--1", "+1", "1.0", "1e3", "9223372036854775808", "18446744073709551616", "99999999999999999999999", "1 "} {
		_, ok := parseInt([]byte(text))
		require.False(t, ok, text)
	}
}

// Ensure that our splitter reads what the standard library writes, spaces
// around fields aside.
func TestSplitCSVAgainstStandardLibrary(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	pieces := []string{"a", "12", ",", `"`, " ", "GPT-4", ""}
	for range 20000 {
		fields := make([]string, 1+r.IntN(4))
		for i := range fields {
			for range r.IntN(4) {
				fields[i] += pieces[r.IntN(len(pieces))]
			}
			fields[i] = strings.TrimSpace(fields[i])
		}
		var b strings.Builder
		w := csv.NewWriter(&b)
		require.NoError(t, w.Write(fields))
		w.Flush()
		got, ok := splitCSV([]byte(strings.TrimSuffix(b.String(), "\n")), nil)
		require.True(t, ok, "%q", b.String())
		require.Len(t, got, len(fields), "%q", b.String())
		for i := range fields {
			require.Equal(t, fields[i], string(got[i]), "%q", b.String())
		}
	}
	for _, bad := range []string{`"a`, `a"b`, `"a"b`, `"a" b,c`, `a,"`, `a,"b""`} {
		_, ok := splitCSV([]byte(bad), nil)
		require.False(t, ok, bad)
	}
}
