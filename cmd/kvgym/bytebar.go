package main

import (
	"io"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// barDelay is how long work must take before it shows a progress bar.
const barDelay = 2 * time.Second

// isTerminal tells whether messages go to a person.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// byteBar shows how much of a file has been read, on a terminal and after barDelay only. After an interruption, finish may
// come while another goroutine still reads.
type byteBar struct {
	mu    sync.Mutex
	w     io.Writer // nil: never shown, or finished
	title string
	start time.Time
	bar   *progressbar.ProgressBar
}

func newByteBar(w io.Writer, title string, quiet bool) *byteBar {
	if quiet || !isTerminal(w) {
		w = nil
	}
	return &byteBar{w: w, title: title, start: time.Now()}
}

func (b *byteBar) set(done, total int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.w == nil || time.Since(b.start) < barDelay {
		return
	}
	if b.bar == nil {
		b.bar = progressbar.NewOptions64(total, progressbar.OptionSetWriter(b.w), progressbar.OptionSetDescription(b.title),
			progressbar.OptionShowBytes(true), progressbar.OptionClearOnFinish())
	}
	_ = b.bar.Set64(done)
}

func (b *byteBar) finish() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.w = nil
	if b.bar != nil {
		_ = b.bar.Finish()
	}
}
