// Package kernels holds the array functions that a step of the simulator needs, each in plain Go and, where the machine has them,
// in AVX2 and AVX-512: use it below vecenv, where 64 slots are handled at once. It knows arrays, bit planes and tables, no
// environments and no rules.
package kernels
