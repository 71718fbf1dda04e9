// Package report turns environments and results into what people and programs read: use it for the episode documents of
// `kvgym inspect`. It only reads; it never steps.
package report
