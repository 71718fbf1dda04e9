// Package report turns environments and results into what people and programs read: use it for the episode documents of
// `kvgym inspect`, and for the tables and the transcript of `kvgym eval`. It only reads; it never steps.
package report
