package rollout

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/kvgym/kvgym/internal/outdir"
	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/vecenv"
)

// manifest describes a rollout's folder. Everything that may differ between two runs of one configuration stands here.
type manifest struct {
	Status      string                `json:"status"` // running or done
	Fingerprint string                `json:"fingerprint"`
	Config      identity              `json:"config"`
	Program     Program               `json:"program"`
	Host        host                  `json:"host"`
	Workers     int                   `json:"workers"`
	Envs        int                   `json:"envs"`
	Trace       *scenario.TrafficInfo `json:"trace,omitempty"`
	Groups      []manifestGroup       `json:"groups"`
	Shards      int64                 `json:"shards"`
	Tables      map[string][]columnOf `json:"tables"`
	Names       names                 `json:"names"`
	Observation *vecenv.Layout        `json:"observation,omitempty"`
	Files       []fileOf              `json:"files,omitempty"` // when done
	Summary     *Summary              `json:"summary,omitempty"`
}

// fileOf describes one data file.
type fileOf struct {
	Path   string `json:"path"` // within the folder
	Rows   int64  `json:"rows"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

type host struct {
	OS   string `json:"os"`
	Arch string `json:"arch"`
	CPUs int    `json:"cpus"`
	Go   string `json:"go"`
	SIMD string `json:"simd"`
}

type manifestGroup struct {
	Policy       string `json:"policy"`
	Difficulty   string `json:"difficulty"`
	FirstEpisode int64  `json:"first_episode"`
	Episodes     int64  `json:"episodes"`
	FirstShard   int64  `json:"first_shard"`
	Shards       int64  `json:"shards"`
}

// columnOf documents one column.
type columnOf struct {
	Name   string     `json:"name"`
	Type   string     `json:"type"`
	About  string     `json:"about"`
	Fields []columnOf `json:"fields,omitempty"`
}

// names are the words behind the small numbers in the tables.
type names struct {
	Ops        []string `json:"op"`
	BlockTypes []string `json:"block_type"`
	Quants     []string `json:"quant"`
}

func (r *run) manifest(status string, sum *Summary) manifest {
	c, p := &r.cfg, r.plan
	m := manifest{Status: status, Fingerprint: r.folder.fingerprint, Config: r.id, Program: c.Program,
		Host: host{runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version(), kernels.Active().String()}, Workers: c.Workers, Envs: c.Envs, Trace: r.trace,
		Shards: p.shards(), Tables: map[string][]columnOf{}, Names: allNames(), Summary: sum}
	if sum != nil {
		m.Files = r.listed()
	}
	for i := range p.groups {
		g := &p.groups[i]
		m.Groups = append(m.Groups, manifestGroup{g.policy, g.difficulty.String(), p.firstEpisode(g), p.episodes, int64(g.index) * p.perGroup, p.perGroup})
	}
	rec := shardRecorder{plan: p, shard: p.shard(0)}
	rec.steps.obs.width = p.obsBytes
	steps, episodes := rec.tables()
	m.Tables[stepsTable], m.Tables[episodesTable] = document(steps), document(episodes)
	if p.obsBytes > 0 {
		l := vecenv.LayoutOf(p.slots, p.obs.values(), vecenv.SlotMajor)
		m.Observation = &l
	}
	return m
}

func document(cols []column) (out []columnOf) {
	for i := range cols {
		c := columnOf{Name: cols[i].name, Type: cols[i].typeName(), About: cols[i].unit}
		if l, ok := cols[i].data.(list); ok {
			c.Fields = document(l.fields)
		}
		out = append(out, c)
	}
	return out
}

func allNames() names {
	var n names
	for o := range kv.Op(kv.NumOps) {
		n.Ops = append(n.Ops, o.String())
	}
	for t := range kv.BlockType(kv.NumBlockTypes) {
		n.BlockTypes = append(n.BlockTypes, t.String())
	}
	for q := range kv.Quant(kv.NumQuants) {
		n.Quants = append(n.Quants, q.String())
	}
	return n
}

// readManifest returns nil where there is none.
func (f *folder) readManifest() (*manifest, error) {
	path := filepath.Join(f.Path, outdir.ManifestName)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("rollout: %w", err)
	}
	var m manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, outdir.Refuse("rollout: %s: %v: allowed the manifest that a rollout wrote", path, err)
	}
	return &m, nil
}
