// Package rivals runs what kvgym's speed is compared with: other implementations of the same rules, each a process of its
// own that steps a batch when told to. Use it from benchmarks and from the tests that prove a rival equal; nothing that
// simulates needs it.
//
// # The C rival
//
// BuildC compiles the C sources in directory c, which are part of the binary: kvgym's rules as a struct per environment in C,
// in two styles. Plain is what one writes from the rules for PufferLib's ocean environments; tuned is what a C author can
// make of that by hand without intrinsics, assembly, threads or another layout. Both follow docs/simulator.md for synthetic
// traffic in both profiles and give the same bits as vecenv; this package's test compares them. What was tried to make the
// tuned style fast stands at the top of c/main.c.
//
// # Protocol
//
// A rival reads commands from its standard input, a line each, and answers each with a line on its standard output; any
// answer may be `error TEXT` instead. Paths must not contain white space.
//
//	init profile=seed envs=1024 slots=64 steps=15 max_wait=5 seed=42 first_env=0 difficulty=all cycle=48 warm=16 ops=/path [preset=/path] [style=plain]
//	        answers "ok". The file ops has a byte for every operation, [cycle][envs][slots]: keep 0, evict 1, compress 2,
//	        swap 3, others are invalid. The file preset, for profile=serving, is what WritePreset has written. Only the C rival
//	        knows style.
//	stagger answers "ok". Makes and saves the start state, in which every sixteenth of the environments is at another step:
//	        environment i is reset to the episode (seed, first_env + i, 0); then, for k = 0 to 15, the environments with
//	        i mod 16 = k are reset to their next episodes, and all are stepped once without operations (autoreset next-step).
//	digest  answers "digest HEX16". Goes back to the start state, makes cycle steps, the k-th with the k-th op matrix, and
//	        hashes after each: all observations (their bits as 32-bit words), all rewards (likewise), the terminated bytes and
//	        the truncated bytes (each as a word), with 64-bit FNV-1a over words.
//	run R   answers "ns N". R times: goes back to the start state and makes the first warm steps of the cycle, not timed, since the
//	        state is in the caches of whoever took it back; then makes the others, timed.
//	quit    ends the process, as does the end of its input.
package rivals
