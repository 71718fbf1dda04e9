package rollout

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kvgym/kvgym/internal/outdir"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/vecenv"
	"golang.org/x/sync/errgroup"
)

// run is one rollout on its way.
type run struct {
	cfg    Config
	id     identity
	plan   *plan
	folder folder
	trace  *scenario.TrafficInfo
	start  time.Time
	files  sync.Map // of this run and of those kept: name within the folder to fileOf

	stop     atomic.Bool
	done     atomic.Int64 // environment steps
	progress func(done, total int64)
}

// Run plays the rollout and returns its summary. progress, which may be nil, is called from several goroutines with the
// environment steps that are done, kept ones included, and the total. When ctx is cancelled Run stops between two steps,
// leaves the finished parts, and returns the context's error.
func Run(ctx context.Context, cfg Config, progress func(done, total int64)) (Summary, error) {
	if err := cfg.fill(); err != nil {
		return Summary{}, err
	}
	sources, err := cfg.sources(ctx)
	if err != nil {
		return Summary{}, err
	}
	r := &run{cfg: cfg, id: cfg.identity(sources), plan: newPlan(&cfg, sources), start: time.Now(), progress: progress}
	r.folder = folder{outdir.Dir{Path: cfg.Out, Owner: "rollout"}, r.id.fingerprint()}
	if t, ok := sources[0].(*scenario.Traffic); ok {
		info := t.Info()
		r.trace = &info
	}
	if err := r.admit(); err != nil {
		return Summary{}, err
	}
	if err := r.folder.create(); err != nil {
		return Summary{}, err
	}
	release, err := r.folder.Lock()
	if err != nil {
		return Summary{}, err
	}
	defer release()
	return r.play(ctx)
}

// sources makes one source a difficulty; a trace is read once.
func (c *Config) sources(ctx context.Context) ([]scenario.Source, error) {
	var out []scenario.Source
	var traffic *scenario.Traffic
	if c.Traffic != nil {
		t := *c.Traffic
		t.Slots, t.Steps, t.Difficulty = c.Slots, c.Steps, c.Difficulties[0]
		t.Serving = nil
		if c.Profile == vecenv.Serving {
			t.Serving = &c.Preset
			if t.StepMillis == 0 {
				t.StepMillis = int(c.Preset.StepMillis)
			}
		}
		var err error
		if traffic, err = scenario.LoadTrafficContext(ctx, t); err != nil {
			return nil, err
		}
	}
	for _, d := range c.Difficulties {
		var s scenario.Source
		var err error
		switch {
		case traffic != nil:
			s, err = traffic.WithDifficulty(d)
		case c.Profile == vecenv.Serving:
			s, err = scenario.NewAgents(c.Slots, c.Steps, d, c.Preset)
		default:
			s, err = scenario.NewSynthetic(c.Slots, c.Steps, d)
		}
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// admit tells whether the folder may be written to.
func (r *run) admit() error {
	used, err := r.folder.used()
	if err != nil || !used {
		return err
	}
	if !r.cfg.Resume {
		return outdir.Refuse("rollout: out: %s: holds a rollout already: allowed another folder, or resuming that one", r.cfg.Out)
	}
	m, err := r.folder.readManifest()
	if err != nil {
		return err
	}
	if m == nil {
		return outdir.Refuse("rollout: out: %s: holds parts but no %s: allowed a folder that a rollout wrote", r.cfg.Out, outdir.ManifestName)
	}
	if m.Fingerprint != r.folder.fingerprint {
		return outdir.Refuse("rollout: out: %s: holds a rollout of another configuration, which cannot be resumed with this one: %s", r.cfg.Out, outdir.Differences([]byte(m.Config.json()), []byte(r.id.json())))
	}
	return nil
}

// play plays the shards that are missing and writes the manifest.
func (r *run) play(ctx context.Context) (Summary, error) {
	was, err := r.folder.readManifest()
	if err != nil {
		return Summary{}, err
	}
	missing, kept, err := r.survey(was)
	if err != nil {
		return Summary{}, err
	}
	// The manifest of a finished rollout keeps the rates of the run that played it.
	finished := len(missing) == 0 && was != nil && was.Status == "done"
	if !finished {
		m := r.manifest("running", nil)
		if err := r.folder.PublishJSON(outdir.ManifestName, &m); err != nil {
			return Summary{}, err
		}
	}
	r.count(kept * int64(r.cfg.Steps))
	if err := r.work(ctx, missing); err != nil {
		return Summary{}, err
	}
	seconds := time.Since(r.start).Seconds()
	groups, err := r.summarize()
	if err != nil {
		return Summary{}, err
	}
	sum := Summary{Episodes: r.plan.total(), EnvSteps: r.plan.total() * int64(r.cfg.Steps), Kept: kept, Seconds: seconds, Out: r.cfg.Out, Groups: groups,
		Profile: r.id.Profile, Trace: r.trace, Complete: len(missing) == 0}
	sum.StepsPerSec = float64((sum.Episodes-kept)*int64(r.cfg.Steps)) / seconds
	sum.Bytes = r.size()
	if finished {
		return sum, nil
	}
	m := r.manifest("done", &sum)
	return sum, r.folder.PublishJSON(outdir.ManifestName, &m)
}

// survey finds out which shards are missing and how many episodes are kept, and removes what is left of the missing. A
// shard is kept when both its files are there, whole, and as the manifest lists them where it lists them.
func (r *run) survey(was *manifest) (missing []int64, kept int64, err error) {
	listed := map[string]fileOf{}
	if was != nil {
		for _, f := range was.Files {
			listed[f.Path] = f
		}
	}
	finished := map[int64]bool{}
	for i := range r.plan.shards() {
		s := r.plan.shard(i)
		if r.cfg.Resume && r.folder.finished(s, r.cfg.Steps) && r.keep(s, listed) {
			finished[i] = true
			kept += s.n
			continue
		}
		missing = append(missing, i)
	}
	return missing, kept, r.folder.clean(func(number int64) bool { return finished[number] })
}

// keep takes the two files of a finished shard into the list, unless they are not what the manifest lists.
func (r *run) keep(s shard, listed map[string]fileOf) bool {
	var found [2]fileOf
	for k, table := range []string{stepsTable, episodesTable} {
		f, err := r.folder.describe(partName(table, s.number), r.rows(table, s))
		if was, ok := listed[f.Path]; err != nil || ok && was != f {
			return false
		}
		found[k] = f
	}
	for _, f := range found {
		r.files.Store(f.Path, f)
	}
	return true
}

// rows is the number of rows of a shard's file.
func (r *run) rows(table string, s shard) int64 {
	if table == stepsTable {
		return s.n * int64(r.cfg.Steps)
	}
	return s.n
}

// work plays shards on all workers. The first error stops them all.
func (r *run) work(ctx context.Context, missing []int64) error {
	g, ctx := errgroup.WithContext(ctx)
	defer context.AfterFunc(ctx, func() { r.stop.Store(true) })()
	var next atomic.Int64
	for range min(r.cfg.Workers, len(missing)) {
		g.Go(func() error {
			w := worker{run: r, player: player{cfg: &r.cfg, envs: max(1, r.cfg.Envs/r.cfg.Workers), stop: &r.stop, done: r.count}, rec: shardRecorder{plan: r.plan, seed: r.cfg.Seed}}
			defer w.player.close()
			for i := next.Add(1) - 1; i < int64(len(missing)); i = next.Add(1) - 1 {
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := w.shard(r.plan.shard(missing[i])); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

func (r *run) count(steps int64) {
	done := r.done.Add(steps)
	if r.progress != nil {
		r.progress(done, r.plan.total()*int64(r.cfg.Steps))
	}
}

// worker plays and writes shards. It belongs to one goroutine.
type worker struct {
	run    *run
	player player
	rec    shardRecorder
	table  tableWriter
}

// shard plays a shard and publishes its two files, the episodes last: their name is the mark that it is finished.
func (w *worker) shard(s shard) error {
	w.rec.start(s)
	if err := w.player.play(s, &w.rec); err != nil {
		return err
	}
	steps, episodes := w.rec.tables()
	for _, t := range []struct {
		name string
		cols []column
	}{{stepsTable, steps}, {episodesTable, episodes}} {
		name, rows, meta, sum := partName(t.name, s.number), w.run.rows(t.name, s), w.run.folder.metaOf(&w.run.id, t.name, s), newDigest()
		if err := w.run.folder.Publish(name, func(out io.Writer) error { return w.write(io.MultiWriter(out, sum), t.cols, int(rows), meta) }); err != nil {
			return err
		}
		w.run.files.Store(filepath.ToSlash(name), sum.file(name, rows))
	}
	return nil
}

// write writes a table; arrow-go panics on some errors of the writer below it.
func (w *worker) write(out io.Writer, cols []column, rows int, meta []field) (err error) {
	watched := &watchedWriter{w: out}
	defer func() {
		if r := recover(); r != nil {
			err = watched.err
			if err == nil {
				err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
			}
		}
	}()
	return w.table.write(watched, cols, rows, meta)
}

// watchedWriter remembers the first error.
type watchedWriter struct {
	w   io.Writer
	err error
}

func (w *watchedWriter) Write(p []byte) (int, error) {
	n, err := w.w.Write(p)
	if err != nil && w.err == nil {
		w.err = err
	}
	return n, err
}

// size is the number of bytes of all data files.
func (r *run) size() (bytes int64) {
	for _, f := range r.listed() {
		bytes += f.Bytes
	}
	return bytes
}

// listed are all data files, by path.
func (r *run) listed() (out []fileOf) {
	r.files.Range(func(_, f any) bool {
		out = append(out, f.(fileOf))
		return true
	})
	slices.SortFunc(out, func(a, b fileOf) int { return strings.Compare(a.Path, b.Path) })
	return out
}
