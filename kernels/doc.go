// Package kernels holds the array functions that a step of the simulator needs, each in plain Go and, where the machine has them, in
// AVX2 and AVX-512: use it below vecenv, where 64 slots are handled at once. It knows arrays, bit planes and tables; environments,
// traffic and rewards live above it, but that Steps finds the seed profile's reward by the way. A kernel's documentation is the loop that it does, and the plain Go next to it (generic*.go, lives.go) is what
// every level must equal, bit for bit.
//
//	kernel       what it does                                                      assembly
//	OpPlanes     op bytes to bit planes                                            AVX2, AVX-512
//	Act          one op a slot, and the memory that frees                          AVX2, AVX-512
//	Advance      a step's generation, timers and completion of 64 slots            AVX2, AVX-512
//	Prefixes     level, weight, memory and last holder of shared prefixes          AVX2, AVX-512 (one block)
//	Holders      who alone holds a shared prefix that has a level of its own       AVX-512 (one block)
//	Admit        first fit of waiting requests, and what stays moved together      AVX-512
//	Requests     decodes eight admitted requests                                   AVX2, AVX-512
//	Initials     decodes eight initial sequences                                   AVX2, AVX-512
//	Together     what initial sequences take if all of them enter                  AVX-512
//	Place        puts newcomers into slots                                         AVX2, AVX-512
//	Enter        Requests, Place and Touch                                         AVX2 (in three calls), AVX-512
//	Touch        accesses to slots through their prefix                            AVX2, AVX-512
//	Heat         decay of hotness                                                  AVX2, AVX-512
//	Draws        eight random numbers                                              AVX2, AVX-512
//	Counts       thresholds reached by four draws                                  AVX2, AVX-512
//	Arrivals     draws eight requests                                              AVX2, AVX-512
//	Arrive       Arrivals and how many of them there are                           AVX2, AVX-512
//	ArriveSteps  the words of eight steps' requests                                AVX-512
//	Globals      the global values of an observation                               AVX2, AVX-512
//	OperateServing  a serving step's operations, and who leaves the GPU at once    AVX-512
//	Prefill      a serving step's prefill, oldest first                            AVX-512
//	Decode       a serving step's generation of 64 slots, and what it is worth     AVX-512
//	Sum          what a set of slots has in a column                               AVX-512
//	Remove       takes sequences out of the planes, and tells what they held       AVX-512
//	Due          slots whose step has come                                         AVX-512
//	Enqueue      decodes eight requests into the queue of the serving profile      AVX-512
//	Wait         what of that queue is ready, fits, and has waited too long        AVX-512
//	Choose       first fit of that queue                                           AVX-512
//	Pay          what admitted requests of that queue cost, and need               AVX-512
//	Settle       requests of that queue into their slots                           AVX-512
//	Leave        takes requests out of that queue                                  AVX-512
//	ServeTickets Wait, Choose, Pay, Settle and Leave in one call                   AVX-512
//	ArriveTickets  Arrive and Enqueue in one call                                  AVX-512
//	Lives        what requests hold and deliver on an unconstrained server         AVX-512
//	Prefetch     asks for memory ahead                                             AVX2, AVX-512
//	Rows         observation rows, slot by slot, float32                           AVX2, AVX-512, also streamed
//	Columns      the same feature by feature                                       AVX2, AVX-512, also streamed
//	ByteRows     Rows as bytes                                                     AVX2, AVX-512
//	ByteColumns  Columns as bytes                                                  AVX2, AVX-512
//	Observe      a whole row: numerators, Globals and Rows in one call             AVX2 (in two calls), AVX-512, also streamed
//	ObserveServing  the same of the serving profile, Holders included              AVX-512, also streamed
//	Step         a whole step of the seed profile                                  AVX2 (in its kernels), AVX-512
//	StepTrailing Step, and another environment's Observe meanwhile                 AVX2 (one after the other), AVX-512, also streamed
//	Steps        StepTrailing of environments one after the other, their rewards and flags  AVX-512, also streamed
//	MaskRows     action masks                                                      AVX2, AVX-512
//	Fill         stores one value, the memory's limit in benchmarks                AVX2, AVX-512, also streamed
//
// A level without a kernel uses the reference. The level is chosen once, when the program starts: the best that the processor and the
// operating system support, or a lower one that the environment variable KVGYM_SIMD names, or Use. The build tag purego, and every
// architecture but amd64, leave the reference alone.
//
// The assembly is written by the programs in gen, a module of its own, and committed: make gen after a change there or in Block.
// Kernels check nothing that their callers have not been told to keep; the exported functions check lengths and panic with the
// kernel's name. None keeps a pointer but a Trail, allocates or starts anything; all may run in several goroutines on different memory, but Use may
// not run meanwhile.
package kernels
