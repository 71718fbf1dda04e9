//go:build !linux

package vecenv

// canPin tells whether this system lets threads be bound to processors.
const canPin = false

func pin(int) (release func(), err error) { return func() {}, nil }
