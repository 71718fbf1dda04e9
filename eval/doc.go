// Package eval lets language models play episodes and judges them: use it to score any OpenAI-compatible endpoint, or to run a policy through the
// same tools for comparison, and to keep what was said.
//
// # What is played
//
// Run plays Config.Rollouts rollouts of each of Config.Examples examples for every player: a model behind an endpoint, and policies of package
// policy, which call the same tools through toolenv. Example i is environment i of the configuration, for every player and rollout, so all
// are compared on the same episodes, and kvgym inspect --env i shows any of them. A rollout is a goroutine; at most Config.Concurrent are under way.
//
// # What is written
//
//	OUT/results.jsonl    one line an episode, appended and synced as it ends: Row
//	OUT/results.parquet  the same rows at the end, flat
//	OUT/manifest.json    configuration, columns, host, endpoint, summary
//
// A line is on disk before its episode counts as done, so a killed run loses no finished episode, and Config.Resume plays the others. What failed is
// played again then.
//
// # What goes wrong
//
// The client retries what may pass: 408, 409, 429 and 5xx, with the wait that the endpoint asks for, requests without a reply in time, dropped
// connections, and replies that are no completion. An episode whose request still fails, or fails for good, is reported with its error
// and has no score. Whatever a model says is played: what is wrong about its tool calls toolenv answers and counts.
package eval
