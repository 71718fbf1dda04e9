// Package trace reads request traces of LLM serving: who asked when, for how
// many tokens, and which prompt blocks were shared with earlier requests. Use
// it to turn a public trace file into a stream of validated records, to find
// out which requests belong to one conversation, or to write a synthetic trace
// of the same shape. It knows files and sessions; it knows no simulator.
//
// # Formats
//
//	name      file   time        block ids  sessions named by the file
//	mooncake  JSONL  ms          512        no
//	dynamo    JSONL  ms, delays  512        session_id
//	bailian   JSONL  s           16         parent_chat_id
//	azure     CSV    wall clock  none       no
//	burstgpt  CSV    s           none       Session ID (conversation log)
//	vidur     CSV    s           none       no
//
// Files may be plain, gzip or zstd; the first bytes decide, not the name. The
// format is detected from the first row or the CSV header, or given by name.
// CSV columns are found by header name, never by position.
//
// # Reading
//
// [Open] and [NewReader] give a [Reader]; [Reader.Next] fills one [Record] a
// call in file order. Memory is bounded by the longest line (16 MiB at most)
// and, for the dynamo format, by its number of sessions and named requests; a
// file of tens of millions of rows streams.
//
// # Strictness
//
// A row that breaks a rule of its format is a [LineError] naming file, line,
// field, value and what is allowed. Bad are: broken JSON or CSV, a missing
// field, a wrong type, NaN and infinities, a time before the previous record's,
// fewer than 1 or more than 2^31-1 tokens, no block ids or more than 2^20, a
// count of ids that does not fit the prompt, an id twice in one request, a line
// above 16 MiB. Reading stops there unless [Options.SkipBadLines] is set; then
// such rows are counted. A damaged or truncated stream always stops reading.
//
// Decimal times are converted from their text to integer microseconds, rounded
// half up, without passing through floating point.
//
// # Sessions
//
// A [Sessionizer] places each record using only the records before it, so a
// label never leaks the future: its session, its turn, and how much of its
// prompt an infinite prefix cache would hold. Its documentation states the
// rules.
//
// # Caveats
//
// No type of this package is safe for concurrent use; separate values are
// independent. [Record.Blocks] is valid until the next call of [Reader.Next].
package trace
