// Package scenario says what arrives at a simulated server, and when: use it to draw episodes, synthetic or cut from a
// real trace. It knows no environment; vecenv and the oracle ask it.
//
// An episode is a pure function of its Identity and of the Source's configuration. Two Sources exist: Synthetic
// (docs/simulator.md, section 4) and Traffic, which cuts windows out of a trace (section 5). A Source is immutable
// after construction and safe for concurrent use; the Episode it fills belongs to one caller.
package scenario
