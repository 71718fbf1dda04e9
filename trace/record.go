package trace

import "strings"

// Format names a trace file format; the package documentation lists them.
type Format string

// The formats. Auto is not a format of a file but the wish to detect it.
const (
	Auto     Format = "auto"
	Mooncake Format = "mooncake"
	Dynamo   Format = "dynamo"
	Bailian  Format = "bailian"
	Azure    Format = "azure"
	BurstGPT Format = "burstgpt"
	Vidur    Format = "vidur"
)

// Formats returns the formats of files, without Auto, as a new slice.
func Formats() []Format {
	return []Format{Mooncake, Dynamo, Bailian, Azure, BurstGPT, Vidur}
}

// formatNames lists the formats for error messages.
func formatNames() string {
	var names []string
	for _, f := range Formats() {
		names = append(names, string(f))
	}
	return strings.Join(names, ", ")
}

// ParseFormat returns the format named s, in lower case; "auto" and "" give
// Auto. The error repeats the value and lists what is allowed.
func ParseFormat(s string) (Format, error) {
	if s == "" || s == string(Auto) {
		return Auto, nil
	}
	for _, f := range Formats() {
		if s == string(f) {
			return f, nil
		}
	}
	return "", rangeError("format", s, string(Auto)+", "+formatNames())
}

// Kind is what the trace itself says of a request at its arrival. It never
// depends on later rows.
type Kind uint8

// The kinds. burstgpt tells KindAPI, dynamo KindSubagent, bailian (by type) all
// but KindSubagent; everything else is KindChat.
const (
	KindChat Kind = iota
	KindAPI
	KindThinking
	KindSubagent // dynamo: the row is a branch or child of another
	KindSearch
	KindImage
	KindFile
	KindCoder
)

var kindNames = [...]string{"chat", "api", "thinking", "subagent", "search", "image", "file", "coder"}

// String returns the kind's name in lower case, "unknown" for other values.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "unknown"
}

// Limits of a row. A row outside of them is bad.
const (
	MaxTokens    = 1<<31 - 1 // of a prompt or an output
	MaxBlocks    = 1 << 20   // ids in one request
	MaxLineBytes = 16 << 20  // of one line, without its end
)

// maxTimeMicros bounds times and delays (317 years), so that sums cannot overflow.
const maxTimeMicros = 10_000_000_000 * 1_000_000

// defaultPriorityPct is the priority of a request of which the file says nothing.
const defaultPriorityPct = 35

// Record is one request of a trace. The zero value is not a valid record;
// Reader.Next fills it.
type Record struct {
	// Line is the 1-based line of the row in the decompressed file.
	Line int64
	// TimeMicros is the arrival in microseconds after the first record, >= 0
	// and never less than the record before.
	TimeMicros int64
	// InputTokens and OutputTokens are the lengths of prompt and answer, 1 to MaxTokens.
	InputTokens  int64
	OutputTokens int64
	// BlockTokens is the number of prompt tokens a block id stands for; 0 when
	// the format has no ids. The last block may be partial.
	BlockTokens int32
	// Blocks holds the prompt's block ids from the start, 1 to MaxBlocks and
	// distinct, ceil(InputTokens/BlockTokens) of them; nil when the format has
	// none. Valid until the next call of Reader.Next, which reuses the memory.
	Blocks []uint64
	// Session is a 64-bit hash of the file's own session id; 0 when the row
	// names none. Bailian names parents instead.
	Session uint64
	// HasChat is true when ChatID and Parent come from the file (bailian).
	HasChat bool
	// Parent is the chat id of the previous turn, -1 for none.
	Parent int64
	// ChatID is the request's own id, >= 0; 0 in other formats.
	ChatID int64
	// Turn is the turn number as the file writes it (bailian counts from 1);
	// 0 when it writes none. Placement.Turn counts for every format.
	Turn int32
	// DelayMicros is the wait between the end of the session's previous turn
	// (or of the requests the row waits for) and this request, tool time
	// included; 0 when the file gives none. Only dynamo gives it.
	DelayMicros int64
	Kind        Kind
	// PriorityPct is the priority the file implies, 0 to 100; 35 when it
	// implies none. bailian, by type: text 35, search 40, image and file 45,
	// api 25, thinking 50, coder 45. burstgpt: GPT-4 60, others 35, less 15
	// for the API log.
	PriorityPct int8
}

// Options says how to read a file. The zero value detects the format and
// stops at the first bad row.
type Options struct {
	// Format is the format of the file; Auto or "" detects it.
	Format Format
	// SkipBadLines counts and skips bad rows instead of failing. Errors of the
	// stream itself, of detection and of a CSV header still fail.
	SkipBadLines bool
	// BlockTokens is the number of tokens of a block id, 1 to 65536; 0 means
	// 512 for mooncake and dynamo and 16 for bailian. Others ignore it.
	BlockTokens int
}

// maxBlockTokens bounds Options.BlockTokens; no engine in use has larger blocks.
const maxBlockTokens = 1 << 16

func (o Options) validate() error {
	if _, err := ParseFormat(string(o.Format)); err != nil {
		return err
	}
	if o.BlockTokens < 0 || o.BlockTokens > maxBlockTokens {
		return rangeError("block_tokens", o.BlockTokens, "0 (the format's own) to 65536")
	}
	return nil
}

// blockTokens returns the block size to use for f, 0 if f has no block ids.
func (o Options) blockTokens(f Format) int32 {
	size := 0
	switch f {
	case Mooncake, Dynamo:
		size = 512
	case Bailian:
		size = 16
	}
	if size > 0 && o.BlockTokens > 0 {
		size = o.BlockTokens
	}
	return int32(size)
}
