//go:build !linux

package vecenv

func adviseHuge([]byte) {}
