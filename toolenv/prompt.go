package toolenv

import (
	"fmt"

	"github.com/kvgym/kvgym/vecenv"
)

// systemPrompt tells a model the rules of its profile.
func systemPrompt(v vecenv.View) string {
	intro := fmt.Sprintf(common, v.Steps(), v.MaxWait())
	if p := v.Preset(); p != nil {
		loss := func(level int) float64 { return float64(1000-p.QualityPermille[level]) / 10 }
		return intro + fmt.Sprintf(servingRules, loss(1), loss(2)) + observationNotes + servingNotes
	}
	return intro + seedRules + observationNotes
}

const common = `You manage the KV cache of an LLM inference server. GPU memory is short, requests queue, and you decide what leaves it. An episode has %d steps; each of your replies is one step. In a reply, call as many tools as you need (under pressure two or three, or more): they are applied in the order of the calls. Then the server runs: sequences generate tokens, finished ones leave, waiting requests are admitted if they fit into the memory budget, new ones arrive. A request that has waited %d steps fails.

`

const seedRules = `Tools:
- evict(seq_id): the sequence is dropped, with all it would still have generated.
- compress(seq_id): one level down, fp16, int8, int4; each halves its memory. Two calls take fp16 to int4.
- swap_to_cpu(seq_id): to CPU memory for good; from then on it generates at half speed, and each access adds 0.1 to 0.3 of latency.
- keep(): changes nothing.

Score, the weighted sum of:
- 0.40 failures: -0.15 for each failed request, -0.10 more for each beyond two, at worst -1.
- 0.25 throughput: tokens generated, as a share of what the episode asks for, at most 1.
- 0.18 headroom: 0.4 times the mean over all steps of 1 if memory_usage < 0.80, 0.5 if < 0.95, 0.2 if < 1, else -0.5.
- 0.07 memory at the end: 0.2 if memory_usage < 0.85, 0.1 if < 0.95, 0 if < 1, else -0.2.
- 0.05 what is left at the end: the mean of 1 - eviction value over the memory in use.
- 0.03 latency: -0.2 times the latency of swaps, at worst -0.3.
- 0.02 risky evictions: -0.30 for a system block, -0.15 for context of priority >= 0.5, -0.20 for generation of priority and progress >= 0.7.

`

const servingRules = `Tools, at the prices of a real engine:
- evict(seq_id): back to the queue; when it is admitted again, all its tokens are computed again (recompute_ms of prefill).
- compress(seq_id): one level down, fp16, int8, int4; each halves its memory and that of its shared prefix. Tokens that it generates from then on count %g %% less at int8, %g %% less at int4.
- swap_to_cpu(seq_id): to CPU memory, as fast as the link carries it; it pauses there and comes back by itself when it is needed and there is room. On a sequence in CPU memory: asks it back. Good for sequences that are idle.
- keep(): changes nothing.
If growing sequences find no memory, the server drops the last admitted ones itself.

Score, the weighted sum of:
- 0.70 goodput: tokens generated, weighted by 0.5 + priority and by quality, late ones half, as a share of what an unlimited server gives.
- 0.20 requests: minus the share that failed, and half the share whose first token came late.
- 0.07 first tokens: minus the steps that requests waited for their first token, as a share.
- 0.03 waste: minus the time of transfers and of computing again, as a share.

`

const observationNotes = `The observation is one JSON object. Shares are of the memory budget unless they say otherwise; memory_budget is the budget as a share of the GPU. A cost is what a sequence holds alone; the pages of a shared prefix count once, and stay while any sequence in GPU memory shares it. Eviction value: 0 system (worst to evict), 0.25 context, 0.5 generation, 0.9 reasoning, 1 ephemeral (safest). A reasoning or ephemeral sequence at progress 1 is dead: nobody reads it again. Idle ones pause, prefill ones have yet to start, others generate. top_memory_entries are the largest, top_eviction_candidates those that are best evicted, best first. Any live seq_id is allowed; visible_seq_ids are those listed. Your tool calls are your answer; nothing else that you write is read.`

const servingNotes = ` cpu.free is the CPU memory left, cpu.link_per_step what the link carries in a step.`
