package trace

import (
	"io"
	"os"
)

// Info summarises a trace file.
type Info struct {
	Format   string `json:"format"`
	Requests int64  `json:"requests"`
	Sessions int64  `json:"sessions"`
	// Blocks counts block ids over all requests, DistinctBlocks each once.
	Blocks         int64 `json:"blocks"`
	DistinctBlocks int64 `json:"distinct_blocks"`
	// HitBlocks is the sum of Placement.KnownBlocks: the hits of an infinite
	// prefix cache. HitTokens weighs each request's by min(known tokens, prompt).
	HitBlocks    int64 `json:"hit_blocks"`
	HitTokens    int64 `json:"hit_tokens"`
	InputTokens  int64 `json:"input_tokens"`
	OutputTokens int64 `json:"output_tokens"`
	LargestInput int64 `json:"largest_input"` // tokens of the longest prompt
	FollowUps    int64 `json:"follow_ups"`    // requests that are not the first of their session
	// SecondsCovered is the time from the first to the last arrival.
	SecondsCovered float64 `json:"seconds_covered"`
	BadLines       int64   `json:"bad_lines"`
	FirstBadLine   string  `json:"first_bad_line"` // "" if there is none
	SHA256         string  `json:"sha256"`         // of the file as it is on disk, hex
}

// progressEvery is how many bytes lie between two calls of a progress function.
const progressEvery = 1 << 20

// Summarize reads the file at path once and summarises it. progress, if not
// nil, is called now and then from the same goroutine with the bytes of the
// file read and its size, and once at the end. Errors are those of Open and
// Reader.Next; bad rows are errors unless o skips them.
func Summarize(path string, o Options, progress func(bytesRead, bytesTotal int64)) (Info, error) {
	r, err := Open(path, o)
	if err != nil {
		return Info{}, err
	}
	defer r.Close()
	var total int64
	if st, err := os.Stat(path); err == nil {
		total = st.Size()
	}
	info := Info{Format: string(r.Format())}
	s := NewSessionizer()
	var rec Record
	var reported int64
	for {
		err := r.Next(&rec)
		if progress != nil && (err != nil || r.BytesRead()-reported >= progressEvery) {
			reported = r.BytesRead()
			progress(reported, total)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return Info{}, err
		}
		info.add(&rec, s.Place(&rec))
	}
	info.Sessions = s.Sessions()
	info.DistinctBlocks = s.DistinctBlocks()
	info.BadLines = r.BadLines()
	if err := r.FirstBad(); err != nil {
		info.FirstBadLine = err.Error()
	}
	info.SHA256 = r.SHA256()
	return info, nil
}

func (i *Info) add(rec *Record, p Placement) {
	i.Requests++
	i.Blocks += int64(len(rec.Blocks))
	i.HitBlocks += int64(p.KnownBlocks)
	i.HitTokens += min(int64(p.KnownBlocks)*int64(rec.BlockTokens), rec.InputTokens)
	i.InputTokens += rec.InputTokens
	i.OutputTokens += rec.OutputTokens
	i.LargestInput = max(i.LargestInput, rec.InputTokens)
	if p.FollowUp {
		i.FollowUps++
	}
	i.SecondsCovered = float64(rec.TimeMicros) / 1e6
}
