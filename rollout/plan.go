package rollout

import (
	"fmt"
	"path/filepath"

	"github.com/kvgym/kvgym/scenario"
)

// group is one policy at one difficulty.
type group struct {
	index      int
	policy     string
	difficulty scenario.Difficulty
	source     scenario.Source
}

// plan divides a rollout into shards. It follows from the configuration alone.
type plan struct {
	groups   []group
	episodes int64 // of a group
	perShard int64 // episodes of a shard, but for the last of a group
	perGroup int64 // shards of a group
	steps    int
	slots    int
	obs      Obs
	obsBytes int // of one observation; 0: none
}

// shard is a range of episodes of one group.
type shard struct {
	number int64 // names the files
	group  *group
	first  int64 // within the group
	n      int64
}

// Bounds of a shard. Fewer rows make more files and syncs, more rows take memory: a row costs some 130 bytes and what its
// actions take (up to about 40 bytes an operation, of which there may be one a slot), and its observation. A group has at
// least wantedShards where they are not tiny, so that every worker has something to do.
const (
	shardRows     = 1 << 16
	shardObsBytes = 64 << 20
	wantedShards  = 8
	leastEpisodes = 64
)

func newPlan(c *Config, sources []scenario.Source) *plan {
	p := &plan{episodes: c.Episodes, steps: c.Steps, slots: c.Slots, obs: c.Obs, obsBytes: c.Obs.bytes(c.Slots)}
	rows := shardRows * defaultSlots / max(defaultSlots, c.Slots)
	if p.obsBytes > 0 {
		rows = min(rows, shardObsBytes/p.obsBytes)
	}
	p.perShard = max(1, min(int64(rows/c.Steps), max(leastEpisodes, (c.Episodes+wantedShards-1)/wantedShards)))
	p.perGroup = (p.episodes + p.perShard - 1) / p.perShard
	for _, name := range c.Policies {
		for i, d := range c.Difficulties {
			p.groups = append(p.groups, group{index: len(p.groups), policy: name, difficulty: d, source: sources[i]})
		}
	}
	return p
}

// shards is the number of shards.
func (p *plan) shards() int64 { return p.perGroup * int64(len(p.groups)) }

// total is the number of episodes.
func (p *plan) total() int64 { return p.episodes * int64(len(p.groups)) }

// shard describes shard number i.
func (p *plan) shard(i int64) shard {
	first := i % p.perGroup * p.perShard
	return shard{number: i, group: &p.groups[i/p.perGroup], first: first, n: min(p.perShard, p.episodes-first)}
}

// firstEpisode is the number of a group's first episode in the rollout.
func (p *plan) firstEpisode(g *group) int64 { return int64(g.index) * p.episodes }

// The two tables.
const (
	stepsTable    = "steps"
	episodesTable = "episodes"
)

// partName is the path of a shard's file within the output folder.
func partName(table string, number int64) string {
	return filepath.Join(table, fmt.Sprintf("part-%05d.parquet", number))
}
