package shm

import (
	"time"

	"github.com/kvgym/kvgym/export"
	"github.com/kvgym/kvgym/scenario"
)

// Config describes a server.
type Config struct {
	Name    string        // 1 to 64 letters, digits, dots, dashes and underscores; one server of a name for each user and directory
	Dir     string        // where its socket stands; default RuntimeDir()
	Spec    export.Spec   // of all environments together; Workers are those of all ranges together, Groups must be 0 or 1
	Clients int           // ranges, as equal as possible; 1 to the number of environments and to MaxClients; default 1
	Blocks  int           // sets of tensors of a range that take turns; 1 to MaxBlocks; default DefaultBlocks
	Idle    time.Duration // how long a client may hold a range without a call; default an hour
	Log     func(string)  // gets one line for whatever happens; from several goroutines, one at a time; default nothing
	Ready   func(Info)    // is called once clients can connect

	// What tests do otherwise.
	authorize func(uid uint32) error // of every client; default sameUser
	source    func(scenario.Source) scenario.Source
}

// MaxClients bounds the ranges of a server.
const MaxClients = 1024

// DefaultBlocks is how many sets of tensors a range has: one with the last results, one to write, and one more, so that a client that lends
// results to a caller without copying them (as the Python adapters do) always has one that nobody holds.
const DefaultBlocks = 3

// DefaultIdle is how long a client may hold a range without a call.
const DefaultIdle = time.Hour

// Info is what a server tells once clients can connect.
type Info struct {
	Name         string   `json:"name"`
	Socket       string   `json:"socket"`
	PID          int      `json:"pid"`
	Version      int      `json:"version"`
	Layout       string   `json:"layout"`
	Envs         int      `json:"envs"`
	Ranges       [][2]int `json:"ranges"`  // of environments
	Workers      int      `json:"workers"` // of each range
	Blocks       int      `json:"blocks"`
	SegmentBytes int64    `json:"segment_bytes"` // of the largest range
	SIMD         string   `json:"simd"`
}
