package rollout

import "github.com/kvgym/kvgym/vecenv"

// shardRecorder collects one shard's two tables. Its memory is used again for the next shard.
type shardRecorder struct {
	plan     *plan
	seed     uint64
	shard    shard
	steps    stepRows
	episodes episodeRows
	judge    actionRecorder
	live0    []int32 // of each episode of the shard
	returned []float64
}

// start empties the recorder for a shard.
func (r *shardRecorder) start(s shard) {
	r.shard = s
	r.steps.resize(int(s.n)*r.plan.steps, r.plan.obsBytes)
	r.steps.number(r.seed, s.group.index, r.plan.firstEpisode(s.group), s.first, r.plan.steps)
	r.episodes.clear()
	fit(&r.live0, int(s.n))
	fit(&r.returned, int(s.n))
}

func (r *shardRecorder) reset(episode int64, i int, b *vecenv.Batch) {
	n := int32(0)
	b.View(i).Live(func(*vecenv.SlotState) bool { n++; return true })
	r.live0[episode], r.returned[episode] = n, 0
}

func (r *shardRecorder) before(episode int64, i int, b *vecenv.Batch, pairs []int32) {
	v := b.View(i)
	row := int(episode)*r.plan.steps + v.Step()
	r.judge.record(&r.steps.acts, row, v, pairs)
	if r.plan.obsBytes > 0 {
		r.steps.observe(row, b, i)
	}
}

func (r *shardRecorder) after(episode int64, i int, b *vecenv.Batch) {
	v := b.View(i)
	r.steps.record(int(episode)*r.plan.steps+v.Step()-1, b, i, r.live0[episode])
	r.returned[episode] += float64(b.Reward[i])
	if v.Step() == r.plan.steps {
		r.episodes.record(v, ended{episode: r.plan.firstEpisode(r.shard.group) + r.shard.first + episode, group: r.shard.group.index,
			live0: r.live0[episode], returned: r.returned[episode]})
	}
}

// tables are the columns of the recorded shard.
func (r *shardRecorder) tables() (steps, episodes []column) {
	policy, difficulty := r.shard.group.policy, r.shard.group.difficulty.String()
	return r.steps.columns(policy, difficulty, r.plan.obs), r.episodes.columns(policy, difficulty)
}
