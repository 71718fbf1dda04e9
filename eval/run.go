package eval

import (
	"context"
	"io"
	"os"
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

// job is an episode to play.
type job struct {
	key
	player player
}

// jobs are all episodes, in the order in which they begin.
func (r *run) jobs() (names []string, all []job) {
	names, players := r.players()
	for n, name := range names {
		for i := range r.cfg.Examples * r.cfg.Rollouts {
			all = append(all, job{key{name, i / r.cfg.Rollouts, i % r.cfg.Rollouts}, players[n]})
		}
	}
	return names, all
}

func (r *run) play(ctx context.Context) (_ *Summary, err error) {
	if err := r.dir.PublishJSON(outdir.ManifestName, r.manifest("running", nil)); err != nil {
		return nil, err
	}
	names, jobs := r.jobs()
	r.now.Total = len(jobs)
	missing := map[key]bool{}
	for _, j := range jobs {
		missing[j.key] = true
	}
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
	for _, j := range jobs {
		if missing[j.key] && each.Err() == nil {
			g.Go(func() error { return r.rollout(each, j) })
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
func (r *run) rollout(ctx context.Context, j job) error {
	env, err := r.cfg.env(j.example)
	if err != nil {
		return err
	}
	defer env.Close()
	row, err := play(ctx, env, j.player, Row{Policy: j.policy, Example: j.example, Rollout: j.rollout})
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
