package trace

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// errLongLine is returned by lineReader for a line above MaxLineBytes.
var errLongLine = errors.New("line too long")

// lineReader splits a stream into lines with bounded memory. bufio.Scanner
// would do but for its error on a long line, which is final: here the line can
// be skipped.
type lineReader struct {
	br   *bufio.Reader
	long []byte // a line that did not fit br's buffer, reused
	line int64  // number of the line last returned, from 1
	rest bool   // the tail of an overlong line is still to be thrown away
}

// next returns the next line without its end ("\n" or "\r\n"). The slice is
// valid until the next call. A last line without an end counts; io.EOF follows.
// After errLongLine the next call goes on with the line after.
func (l *lineReader) next() ([]byte, error) {
	for l.rest {
		_, err := l.br.ReadSlice('\n')
		if err == nil {
			l.rest = false
		} else if err != bufio.ErrBufferFull {
			return nil, err
		}
	}
	l.line++
	part, err := l.br.ReadSlice('\n')
	if err == bufio.ErrBufferFull {
		l.long = l.long[:0]
		for err == bufio.ErrBufferFull && len(l.long) <= MaxLineBytes {
			l.long = append(l.long, part...)
			part, err = l.br.ReadSlice('\n')
		}
		l.long = append(l.long, part...)
		part = l.long
	}
	broken := err != nil && err != io.EOF && err != bufio.ErrBufferFull
	if broken || err == io.EOF && len(part) == 0 {
		l.line-- // a line that never came is not counted
		return nil, err
	}
	part = bytes.TrimSuffix(part, []byte{'\n'})
	part = bytes.TrimSuffix(part, []byte{'\r'})
	if len(part) > MaxLineBytes {
		l.rest = err == bufio.ErrBufferFull
		return nil, errLongLine
	}
	if l.line == 1 {
		part = bytes.TrimPrefix(part, []byte("\xef\xbb\xbf"))
	}
	return part, nil
}
