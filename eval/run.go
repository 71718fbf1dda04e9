package eval

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/kvgym/kvgym/internal/outdir"
	"golang.org/x/sync/errgroup"
)

// Progress is how far a run has come.
type Progress struct {
	Done, Total, Failed int     // episodes; failed ones are done
	Score               float64 // mean of those with one; 0 if none has
}

// run is one evaluation under way.
type run struct {
	cfg      Config
	id       identity
	dir      outdir.Dir
	start    time.Time
	results  *results
	kept     int
	progress func(Progress)

	mu  sync.Mutex
	now Progress
	sum float64 // of scores
}

// Run plays what the configuration says. progress, which may be nil, is called after every episode, one call at a time. When ctx is cancelled Run leaves the
// finished episodes and returns the context's error. Episodes that fail are no error: Summary.Failed counts them.
func Run(ctx context.Context, cfg Config, progress func(Progress)) (*Summary, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	id, err := cfg.identity()
	if err != nil {
		return nil, err
	}
	r := &run{cfg: cfg, id: id, dir: outdir.Dir{Path: cfg.Out, Owner: "eval"}, start: time.Now(), progress: progress}
	if err := os.MkdirAll(cfg.Out, 0o755); err != nil {
		return nil, r.dir.Unwritable(err)
	}
	release, err := r.dir.Lock()
	if err != nil {
		return nil, err
	}
	defer release()
	if err := r.admit(); err != nil {
		return nil, err
	}
	return r.play(ctx)
}

// manifest describes a run's folder.
type manifest struct {
	Status   string     `json:"status"` // running or done
	Config   identity   `json:"config"`
	Endpoint *endpoints `json:"endpoint,omitempty"` // of the latest run
	Program  program    `json:"program"`
	Columns  []ColumnOf `json:"columns"` // of the Parquet file
	Summary  *Summary   `json:"summary,omitempty"`
}

// endpoints is how the model was asked, which is not part of what the results are of.
type endpoints struct {
	BaseURL    string  `json:"base_url"`
	MaxRetries int     `json:"max_retries"`
	Timeout    float64 `json:"timeout_seconds"`
	Concurrent int     `json:"max_concurrent"`
}

type program struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
	CPUs    int    `json:"cpus"`
}

func (r *run) manifest(status string, sum *Summary) *manifest {
	m := &manifest{Status: status, Config: r.id, Columns: Columns(), Summary: sum,
		Program: program{r.cfg.Version, r.cfg.Commit, runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU()}}
	if e := r.cfg.Model; e != nil {
		u, err := url.Parse(e.BaseURL)
		if err == nil {
			m.Endpoint = &endpoints{u.Redacted(), e.MaxRetries, e.Timeout.Seconds(), r.cfg.Concurrent}
		}
	}
	return m
}

// admit tells whether the folder may be written to.
func (r *run) admit() error {
	path := filepath.Join(r.cfg.Out, outdir.ManifestName)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(filepath.Join(r.cfg.Out, ResultsName)); err == nil {
			return outdir.Refuse("eval: out: %s: holds %s but no %s: allowed a folder that an eval wrote", r.cfg.Out, ResultsName, outdir.ManifestName)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("eval: %w", err)
	}
	if !r.cfg.Resume {
		return outdir.Refuse("eval: out: %s: holds results already: allowed another folder, or resuming that one", r.cfg.Out)
	}
	var was struct {
		Config json.RawMessage `json:"config"`
	}
	var there bytes.Buffer
	if err := errors.Join(json.Unmarshal(text, &was), json.Compact(&there, was.Config)); err != nil || was.Config[0] != '{' {
		return outdir.Refuse("eval: %s: not one of ours: allowed the manifest that an eval wrote", path)
	}
	id, err := json.Marshal(&r.id)
	if err != nil {
		return err
	}
	if d := outdir.Differences(there.Bytes(), id); d != "" {
		return outdir.Refuse("eval: out: %s: holds results of another configuration, which cannot be resumed with this one: %s", r.cfg.Out, d)
	}
	return nil
}

// players are who plays, in the order of the summary.
func (r *run) players() (names []string, players []player) {
	if m := r.cfg.Model; m != nil {
		names, players = append(names, m.Name), append(players, modelPlayer{newEndpoint(m, r.cfg.Concurrent)})
	}
	for _, p := range r.cfg.Policies {
		names, players = append(names, p), append(players, policyPlayer{p})
	}
	return names, players
}

func (r *run) play(ctx context.Context) (_ *Summary, err error) {
	if err := r.dir.PublishJSON(outdir.ManifestName, r.manifest("running", nil)); err != nil {
		return nil, err
	}
	names, players := r.players()
	missing := map[key]bool{}
	for _, name := range names {
		for i := range r.cfg.Examples * r.cfg.Rollouts {
			missing[key{name, i / r.cfg.Rollouts, i % r.cfg.Rollouts}] = true
		}
	}
	r.now.Total = len(missing)
	if r.results, err = openResults(r.dir, func(k key) bool { return missing[k] }); err != nil {
		return nil, err
	}
	defer r.results.file.Close()
	r.kept = len(r.results.rows)
	for i := range r.results.rows {
		delete(missing, r.results.rows[i].key())
		r.count(&r.results.rows[i])
	}
	g, each := errgroup.WithContext(ctx) // each ends with the first error
	g.SetLimit(r.cfg.Concurrent)
	for n, name := range names {
		for i := range r.cfg.Examples * r.cfg.Rollouts {
			k := key{name, i / r.cfg.Rollouts, i % r.cfg.Rollouts}
			if missing[k] && each.Err() == nil {
				g.Go(func() error { return r.rollout(each, players[n], k) })
			}
		}
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return r.finish(names)
}

// rollout plays one episode and keeps it.
func (r *run) rollout(ctx context.Context, p player, k key) error {
	env, err := r.cfg.env(k.example)
	if err != nil {
		return err
	}
	defer env.Close()
	row, err := play(ctx, env, p, Row{Policy: k.policy, Example: k.example, Rollout: k.rollout})
	if err != nil {
		return err
	}
	if err := r.results.add(row); err != nil {
		return err
	}
	r.count(&row)
	return nil
}

func (r *run) count(row *Row) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now.Done++
	if row.Score == nil {
		r.now.Failed++
	} else {
		r.sum += *row.Score
		r.now.Score = r.sum / float64(r.now.Done-r.now.Failed)
	}
	if r.progress != nil {
		r.progress(r.now)
	}
}

func (r *run) finish(names []string) (*Summary, error) {
	s := r.summarize(names)
	if err := r.dir.Publish(ParquetName, func(w io.Writer) error { return writeParquet(w, r.cfg.Out) }); err != nil {
		return nil, err
	}
	return s, r.dir.PublishJSON(outdir.ManifestName, r.manifest("done", s))
}
