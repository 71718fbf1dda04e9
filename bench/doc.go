// Package bench measures how fast kvgym steps, against itself, against the memory's limit and against other implementations. Use it
// through `kvgym bench`, or call Run from a program that wants the numbers; nothing that simulates needs it.
//
// # What is stepped
//
// A batch in the middle of staggered episodes: every sixteenth of the environments is at another step of its episode, so that each
// step resets some of them. The operations of a cycle of 48 steps are drawn before the clock runs, from those that the action mask
// allows, on one slot of ten: about three an environment and step. After a cycle the batch goes back to its start state, which is not
// timed, nor are the first 16 steps of the next cycle: the state that was taken back is in the cache of the core that did it, so that
// other workers fetch it from there, which no step after another does. The start state and the operations are a function of seed,
// profile, slots and number of environments.
//
// # How it is measured
//
// What is compared runs in turns: in every round each contestant runs once, for about Config.Turn and a whole number of cycles, and
// every other round has the opposite order. So what disturbs the machine disturbs all, and a drift favours nobody. A ratio is
// computed in every round; its median, least and greatest are reported. A rate is the median of its rounds. Each contestant is
// warmed up before its first round. Times are of a monotonic clock, for other programs of their own.
//
// An environment step is one step of one environment, the steps that only reset it included. Rates of observations and stores are
// bytes written a second; allocations are of the Go heap, in one step of the whole batch, and the least of the rounds, since those
// that the runtime makes for itself meanwhile are counted, too.
//
// # What it is measured against
//
//   - go-1-worker: kvgym itself with one worker; generic: at the level of plain Go.
//   - nt-store: kernels.Fill at the machine's best level, past the caches if the level can, by as many threads as the batch has
//     workers, over a buffer as large as the observations. The ratio is of bytes a second.
//   - c-aos-1: the C rival of package rivals, a struct an environment, in one process; c-aos-2: two processes at once, half of the
//     environments each, whose rates are added; c-tuned-1: the same rules in C that was tuned, in one process.
//   - gymnasium-sync, gymnasium-async: a Python environment of the same rules under Gymnasium's vector environments, against kvgym with
//     as many environments, with more, and as a batch for each worker that waits for no other: at the best of a few numbers of
//     environments that are tried first. The rates of these batches are added, and Result.Batches counts them.
//   - envpool-cartpole, gymnasium-cartpole-vector: CartPole, a far smaller game, at the best of a few settings that are tried first.
//
// Before the clock runs, every rival of the same rules and every lower level must give the same bits as kvgym in every observation,
// reward and flag of a cycle; Ratio.Checked tells so. One that does not is an error: the speed of another game says nothing.
//
// # Threads
//
// Run may be called by one goroutine at a time in a process, and nothing else may step meanwhile: it changes the SIMD level between
// turns, and gives back the one it found. Let nothing else run on the machine either.
package bench
