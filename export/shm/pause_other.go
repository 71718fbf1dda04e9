//go:build !amd64 || purego

package shm

func pause() {}
