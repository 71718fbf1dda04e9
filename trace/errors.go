package trace

import (
	"fmt"
	"strconv"
	"strings"
)

// maxShown is how many bytes of a value an error repeats. A bad value may be a
// whole line of 16 MiB, and errors end up in logs.
const maxShown = 60

// LineError says which rule a row of a trace file breaks.
type LineError struct {
	File    string // name given to Open or NewReader
	Line    int64  // 1-based, in the decompressed text
	Field   string // name in the file, or "row" when the row as a whole is bad
	Value   string // as written, its first 1024 bytes; "missing" when absent
	Allowed string // what would have been accepted
}

// Error returns one line, "FILE:LINE: FIELD: VALUE: allowed ALLOWED". A value
// that is long or not printable ASCII is quoted and cut to 60 bytes.
func (e *LineError) Error() string {
	return fmt.Sprintf("%s:%d: %s: %s: allowed %s",
		oneLine(e.File), e.Line, oneLine(e.Field), show(e.Value), oneLine(e.Allowed))
}

// rangeError reports a bad option or configuration value, in the form a
// LineError has after its position.
func rangeError(field string, value any, allowed string) error {
	return fmt.Errorf("%s: %s: allowed %s", field, show(fmt.Sprint(value)), allowed)
}

// show renders an untrusted value for an error message.
func show(s string) string {
	if s == "" {
		return `""`
	}
	if len(s) > maxShown {
		return strconv.QuoteToASCII(s[:maxShown]) + "..."
	}
	if !printable(s) {
		return strconv.QuoteToASCII(s)
	}
	return s
}

// oneLine keeps trusted text, such as a file name, as it is unless a control
// character in it would break the promise of one line.
func oneLine(s string) string {
	if strings.IndexFunc(s, func(c rune) bool { return c < 0x20 || c == 0x7f || c == '\u0085' || c == '\u2028' || c == '\u2029' }) < 0 {
		return s
	}
	return strconv.Quote(s)
}

func printable(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < 0x20 || s[i] >= 0x7f {
			return false
		}
	}
	return true
}
