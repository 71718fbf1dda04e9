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

const common = `You manage the KV cache of an LLM inference server. GPU memory is short, requests queue, and you decide what leaves the cache. An episode has %d steps; each of your replies is one step. In a reply, call as many tools as you need, under pressure two or three or more: all are applied, in the order of the calls. Then the server runs one step: sequences generate tokens, finished ones leave, waiting requests are admitted if they fit into the memory budget, new requests arrive. A request that has waited %d steps fails.

`

const seedRules = `Tools:
- evict(seq_id): drops the sequence, and with it what it would still have generated.
- compress(seq_id): one level down, fp16 to int8 to int4; each level halves its memory. Two calls take fp16 to int4.
- swap_to_cpu(seq_id): to CPU memory, for good. It goes on at half speed, and each access adds 0.1 to 0.3 of latency.
- keep(): changes nothing.

Score, a weighted sum:
- 0.40 failures: -0.15 for each failed request and -0.10 more for each beyond two, at worst -1.
- 0.25 throughput: tokens generated, as a share of what the episode asks for, at most 1.
- 0.18 headroom: 0.4 times the mean over all steps of 1 if memory_usage < 0.80, 0.5 if < 0.95, 0.2 if < 1, else -0.5.
- 0.07 memory at the end: 0.2 if memory_usage < 0.85, 0.1 if < 0.95, 0 if < 1, else -0.2.
- 0.05 value at the end: the mean of 1 - eviction value over the memory in use.
- 0.03 latency: -0.2 times the latency of swaps, at worst -0.3.
- 0.02 risky evictions: -0.30 for a system block, -0.15 for context of priority >= 0.5, -0.20 for generation with priority and progress >= 0.7.

`

const servingRules = `Tools, at the prices of a real engine:
- evict(seq_id): sends the sequence back to the queue. Once it is admitted again, all its tokens are computed again (recompute_ms of prefill); one that is dead is gone.
- compress(seq_id): one level down, fp16 to int8 to int4; each level halves its memory and takes its shared prefix along. What it generates from then on counts %g %% less at int8, %g %% less at int4.
- swap_to_cpu(seq_id): to CPU memory, as fast as the link carries it. There it pauses; it comes back by itself when it has work and there is room. For one in CPU memory: asks it back. Best for sequences that are idle.
- keep(): changes nothing.
Where growing sequences find no memory, the server drops those admitted last.

Score, a weighted sum:
- 0.70 goodput: tokens generated, weighted by 0.5 + priority and by quality, late ones by half, as a share of what an unlimited server gives.
- 0.20 requests: minus the share of requests that failed and half the share whose first token came late.
- 0.07 first tokens: minus the time that requests waited for their first token, as a share.
- 0.03 waste: minus the time of transfers and of computing again, as a share.

`

const observationNotes = `The observation is one JSON object. Memory is in shares of the budget (memory_budget: the budget as a share of the GPU's memory). cost is what a sequence holds alone. The pages of a shared prefix count once and stay while any sequence in GPU memory shares it; frees is what evicting would really free. Eviction value: system 0 (worst to evict), context 0.25, generation 0.5, reasoning 0.9, ephemeral 1 (safest). Reasoning and ephemeral sequences with no tokens_left are dead: nobody reads them again. phase is given for what does not generate. top_memory_entries are the largest; top_eviction_candidates come best first; any seq_id in the cache is allowed. Only your tool calls count, not what you write.`

const servingNotes = ` cpu: free CPU memory, and what the link carries in a step.`
