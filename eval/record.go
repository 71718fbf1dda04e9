package eval

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/kvgym/kvgym/internal/outdir"
	"github.com/kvgym/kvgym/toolenv"
)

// ResultsName is the file of the results in the output folder.
const ResultsName = "results.jsonl"

// Row is one episode, as a line of the results. Its key is Policy, Example and Rollout.
type Row struct {
	Policy     string `json:"policy"` // who played: the model's name, or a policy's
	Example    int    `json:"example"`
	Rollout    int    `json:"rollout"`
	Difficulty string `json:"difficulty"` // that the episode was drawn from

	Score      *float64              `json:"score"` // nil: it failed
	Components map[string]float64    `json:"components"`
	Metrics    map[string]float64    `json:"metrics"`
	Calls      map[string]int        `json:"calls"`
	Faults     map[toolenv.Fault]int `json:"faults"`
	Turns      int                   `json:"turns"`
	Usage                            // of the endpoint
	Seconds    float64               `json:"seconds"`
	Failure    *Failure              `json:"error"` // nil: it was played to its end
	Memory     []float64             `json:"memory_usage_by_turn"`
	Messages   []json.RawMessage     `json:"messages,omitempty"`
}

// Usage counts what an endpoint did for an episode.
type Usage struct {
	Requests         int   `json:"requests"` // retries included
	Retries          int   `json:"retries"`
	CutReplies       int   `json:"cut_replies"` // replies that ended at the limit of tokens
	PromptTokens     int64 `json:"prompt_tokens"`
	CachedTokens     int64 `json:"cached_tokens"` // of them
	CompletionTokens int64 `json:"completion_tokens"`
	ReasoningTokens  int64 `json:"reasoning_tokens"` // of them
}

// key names an episode of a run.
type key struct {
	policy           string
	example, rollout int
}

func (r *Row) key() key { return key{r.Policy, r.Example, r.Rollout} }

// results is the file of results of a run under way. Its methods may be called from several goroutines.
type results struct {
	mu   sync.Mutex
	file *os.File
	rows []Row // without their messages
}

// openResults opens the file for more rows. What an earlier run has left there is kept if it was played to its end and keep wants it; whatever else,
// such as a line that a kill tore, is removed.
func openResults(dir outdir.Dir, keep func(key) bool) (*results, error) {
	r := &results{}
	path := filepath.Join(dir.Path, ResultsName)
	seen := map[key]bool{}
	err := dir.Publish(ResultsName, func(w io.Writer) error {
		return eachLine(path, func(line []byte) error {
			var row Row
			if json.Unmarshal(line, &row) != nil || row.Score == nil || !keep(row.key()) || seen[row.key()] {
				return nil
			}
			seen[row.key()] = true
			row.Messages = nil
			r.rows = append(r.rows, row)
			_, err := w.Write(append(line, '\n'))
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	if r.file, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0); err != nil {
		return nil, fmt.Errorf("eval: %w", err)
	}
	return r, nil
}

// eachLine calls f with every whole line of a file, which need not be there.
func eachLine(path string, f func(line []byte) error) error {
	in, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer in.Close()
	for lines := bufio.NewReaderSize(in, 1<<20); ; {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := f(bytes.TrimSuffix(line, []byte("\n"))); err != nil {
			return err
		}
	}
}

// add appends a row and returns once it is on disk.
func (r *results) add(row Row) error {
	line, err := json.Marshal(&row)
	if err != nil {
		return fmt.Errorf("eval: %s: %w", ResultsName, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := r.file.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("eval: %w", err)
	}
	if err := r.file.Sync(); err != nil {
		return fmt.Errorf("eval: %w", err)
	}
	row.Messages = nil
	r.rows = append(r.rows, row)
	return nil
}

// ReadRows calls f with every episode of a folder that Run wrote.
func ReadRows(out string, f func(*Row) error) error {
	return eachLine(filepath.Join(out, ResultsName), func(line []byte) error {
		var row Row
		if err := json.Unmarshal(line, &row); err != nil {
			return fmt.Errorf("eval: %s: %w", ResultsName, err)
		}
		return f(&row)
	})
}
