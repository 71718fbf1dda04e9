// Package rollout plays whole episodes with given policies and keeps them as Parquet files: use it when you need data
// about KV-cache eviction to train, evaluate or plot with, rather than an environment to step yourself.
//
// # What is written
//
// Run plays Config.Episodes episodes for every group, a pair of policy and difficulty, and writes
//
//	OUT/steps/part-00000.parquet     one row an environment step
//	OUT/episodes/part-00000.parquet  one row an episode
//	OUT/manifest.json                configuration, columns with units, files, host, rates
//
// Episode e of every group is the one with identity (Config.Seed, env e, episode 0), so policies are compared on the same
// episodes, and kvgym inspect --env e shows any of them whole. Together the two tables hold every number that the reward
// functions of both profiles and the four metrics need (docs/simulator.md, section 9 and rule 13.21); nothing has to be
// simulated again. Both profiles have the same columns; those that only the serving profile fills are 0 in the seed profile.
//
// A row of the steps table shows the state after its step, and the actions and, when asked for, the observation from just
// before it: obs, actions and reward of one row belong together. An observation is a fixed-size binary in the layout of
// section 10, which the manifest states: of little-endian float32 values, or of a byte a value.
//
// # What the files depend on
//
// The data files are a function of the configuration alone: the same bytes for any number of workers and environments, on
// any machine, in one go or after any number of interruptions. Time, host, SIMD level and program version stand in the manifest only.
// A part holds a range of episodes of one group; its size follows from steps, slots and obs.
//
// # Interruption
//
// Every file is written under a temporary name, synced and renamed. A part is finished when its episodes file has its
// name; the steps file gets its name before. After a crash or an interrupt, a Run with Config.Resume keeps the finished
// parts, removes what was left over and plays the rest. Two processes must not write to one folder at a time.
//
// # Memory
//
// A worker holds one part: some 30 to 150 MB with synthetic traffic and 64 slots, whatever the number of episodes.
package rollout
