// Package vecenv is the batch: thousands of simulated inference servers held as columns and stepped together. Use it to
// train or judge a KV-cache eviction policy from Go; every other face of kvgym stands on it.
//
// # Model
//
// One environment is one server. A step is one decision: the policy's operations are applied, sequences generate,
// finished ones complete, waiting requests are admitted or fail, new requests arrive. docs/simulator.md is normative and
// numbered; comments cite its rules. The same (seed, env, episode, actions) gives the same bits whatever the number of
// workers, the batch around it, the SIMD level of package kernels, or the machine.
//
// # Memory
//
// An environment is a head (totals, the episode drawn), one 1,024-byte block for every 64 slots, and a queue of waiting
// requests: about 1.8 KiB at 64 slots, and 3.2 KiB more in the serving profile. Flags are bits of uint64 planes, one bit a slot. New allocates everything; Step,
// Send and Recv allocate nothing and start no goroutine.
//
// The observation is written once, straight into its tensor: float32 or bytes (Config.ObsType), slot by slot or feature by feature
// (Config.ObsOrder), through the caches or, for large tensors, past them (Config.Stores). LayoutOf describes each of these.
//
// # Who owns which bytes when
//
// The tensors of Buffers belong to the batch from Step (or Send) until it returns (until Recv of the same group), and to
// the caller otherwise: written by the batch in place, valid until the next step of that group. Action slices are read
// only during Step, or between Send and Recv; the caller must not change them in between.
//
// # Threads
//
// A Batch is driven by one goroutine at a time. Different groups of one batch may be in flight together, sent and
// received by that goroutine. Different batches are independent. The caller of Step and Recv works too; the other workers live as long
// as the batch, spin for a moment between steps and then sleep, and can be bound to processors (Config.Pin).
//
// # Caveats
//
// A Batch with more than one worker owns goroutines: Close it. After a panic inside a step the batch is broken: every
// later call returns an error that names environment, seed and episode.
package vecenv
