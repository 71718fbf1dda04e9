// Package policy holds the baselines: policies that decide, step by step, which sequences to evict, compress or swap. Use
// them to compare with, to search with, or as examples. Each acts through the public view of one environment and the same
// action interface as any trainer.
//
// A new policy is one file: a type with Name and Act, and a line in the registry. See lru.go.
//
// A Policy may keep scratch memory between calls and belongs to one goroutine at a time; what it decides depends only on
// the view, never on earlier calls.
package policy
