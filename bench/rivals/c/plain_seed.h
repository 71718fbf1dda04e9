/* The seed profile in the plain style: rules 3 to 10 of docs/simulator.md, a function a phase. main.c includes this file
 * twice, once with CAP and SLOTS the constant 64 and once with room for any number of slots; N(x) gives names of their own
 * to each. */

#include "plain_shared.h"

#define F(x) N(plain_seed_##x)
#define Sequence N(PlainSeedSequence)
#define Request N(PlainSeedRequest)
#define Env N(PlainSeedEnv)

typedef struct {
	int tokens, remaining, rate;
	int last_access, timer;
	u8 alive, type, phase, quant, swapped;
	u8 prefix, priority, hotness;
	u8 run, pause; /* codes: lengths of the timers */
} Sequence;

typedef struct {
	int prompt, output, rate;
	int birth; /* step of its arrival */
	u8 type, prefix, priority, run, pause;
} Request;

typedef struct {
	Sequence slots[CAP];
	Request queue[CAP / 2];
	int queued, growth; /* waiting requests, and how many more than before the step */

	u64 key;
	u32 env, episode;
	int step, done;
	int capacity, budget, level;

	int prefix_pages[1 + TENANTS];
	int members[1 + TENANTS][QUANTS]; /* resident sequences of a prefix, by level */
	int private, shared;              /* memory in use, quarter pages */

	int tokens, latency, headroom, pressure, risk;
	int arrived, admitted, completed, expired, rejected, evictions, compressions, swaps, invalid, swap_reads;
	i64 score;
} Env;

/* Memory, rules 1.5 to 1.8. */

static inline int F(private_pages)(const Env *e, const Sequence *s) { return pages_of(s->tokens) - e->prefix_pages[s->prefix]; }

static inline int F(cost)(const Env *e, const Sequence *s) { return s->swapped ? 0 : F(private_pages)(e, s) * quant_qp[s->quant]; }

static inline int F(used)(const Env *e) { return e->private + e->shared; }

/* What a page of a prefix costs: the finest level of its resident members decides. */
static inline int F(multiplier)(const Env *e, int prefix) {
	for (int q = FP16; q < QUANTS; q++) {
		if (e->members[prefix][q] > 0) {
			return quant_qp[q];
		}
	}
	return 0;
}

/* Counts a resident sequence in (n = 1) or out (n = -1) of the memory. */
static inline void F(count_memory)(Env *e, const Sequence *s, int n) {
	int p = s->prefix;
	e->private += n * F(cost)(e, s);
	if (p != 0) {
		e->shared -= F(multiplier)(e, p) * e->prefix_pages[p];
		e->members[p][s->quant] += n;
		e->shared += F(multiplier)(e, p) * e->prefix_pages[p];
	}
}

static inline void F(clear_slot)(Env *e, Sequence *s) {
	if (!s->swapped) {
		F(count_memory)(e, s, -1);
	}
	s->alive = 0;
}

/* Memory that a sequence needs to be admitted, rule 7.2. */
static inline int F(need)(const Env *e, int private_tokens, int prefix) {
	return 4 * pages_of(private_tokens) + e->prefix_pages[prefix] * (4 - F(multiplier)(e, prefix));
}

/* A swapped sequence is accessed, rule 6.9. */
static inline void F(swap_read)(Env *e, const Sequence *s) {
	e->latency += 100 + min_int(200, 2 * F(private_pages)(e, s) * quant_qp[s->quant]);
	e->swap_reads++;
}

/* Operations, rule 6.2. */
static void F(actions)(Env *e, const u8 *ops) {
	for (int i = 0; i < SLOTS; i++) {
		int op = ops[i];
		if (op == KEEP) {
			continue;
		}
		Sequence *s = &e->slots[i];
		if (op == EVICT && s->alive) {
			e->risk += risk_of_eviction(s->type, s->priority, s->tokens, s->tokens + s->remaining);
			e->evictions++;
			F(clear_slot)(e, s);
		} else if (op == COMPRESS && s->alive && !s->swapped && s->quant < INT4) {
			F(count_memory)(e, s, -1);
			s->quant++;
			F(count_memory)(e, s, 1);
			e->compressions++;
		} else if (op == SWAP && s->alive && !s->swapped) {
			F(count_memory)(e, s, -1);
			s->swapped = 1;
			e->swaps++;
		} else {
			e->invalid++;
		}
	}
}

/* Rule 6.4. */
static void F(decay)(Env *e) {
	for (int i = 0; i < SLOTS; i++) {
		Sequence *s = &e->slots[i];
		s->hotness -= s->hotness / 4;
	}
}

/* A generating sequence, rules 6.6 to 6.8. */
static inline void F(decode)(Env *e, Sequence *s) {
	int rate = s->swapped ? (s->rate + 1) / 2 : s->rate;
	int n = min_int(rate, s->remaining);
	if (s->swapped) {
		F(swap_read)(e, s);
	} else {
		int growth = (pages_of(s->tokens + n) - pages_of(s->tokens)) * quant_qp[s->quant];
		if (growth > 0 && F(used)(e) + growth > e->capacity) {
			return; /* stalls */
		}
		e->private += growth;
	}
	s->tokens += n;
	s->remaining -= n;
	s->last_access = e->step;
	s->hotness += 63;
	e->tokens += n;
	if (s->type == CONTEXT) {
		if (s->timer > 0 && --s->timer == 0 && s->remaining > 0) {
			s->phase = IDLE;
			s->timer = 1 + s->pause;
		}
	} else if (s->type >= REASONING && s->remaining == 0) {
		s->phase = IDLE;
		s->timer = 1 + s->pause;
	}
}

/* Rule 6.5. */
static void F(generate)(Env *e) {
	for (int i = 0; i < SLOTS; i++) {
		Sequence *s = &e->slots[i];
		if (!s->alive) {
			continue;
		}
		switch (s->phase) {
		case PREFILL:
			s->phase = s->type == REASONING ? THINKING : DECODE;
			break;
		case IDLE:
			if (s->timer > 0 && --s->timer == 0 && s->remaining > 0) {
				s->phase = DECODE;
				s->timer = 2 + s->run;
			}
			break;
		default:
			F(decode)(e, s);
		}
	}
}

/* Rule 6.10. */
static void F(complete)(Env *e) {
	for (int i = 0; i < SLOTS; i++) {
		Sequence *s = &e->slots[i];
		if (!s->alive || s->remaining > 0 || s->type == SYSTEM) {
			continue;
		}
		if (s->type == CONTEXT || s->type == GENERATION || (s->phase == IDLE && s->timer == 0)) {
			F(clear_slot)(e, s);
			e->completed++;
		}
	}
}

/* An admitted request accesses the system entry of its prefix, rule 7.4. Only a reset makes such entries, in the first slots. */
static inline void F(access_system)(Env *e, int prefix) {
	for (int i = 0; i < TENANTS; i++) {
		Sequence *s = &e->slots[i];
		if (s->alive && s->type == SYSTEM && s->prefix == prefix) {
			if (s->swapped) {
				F(swap_read)(e, s);
			}
			s->last_access = e->step;
			s->hotness = min_int(255, s->hotness + 63);
		}
	}
}

/* Rules 7.2 to 7.4. */
static void F(admit)(Env *e) {
	int kept = 0, slot = 0;
	for (int k = 0; k < e->queued; k++) {
		const Request *r = &e->queue[k];
		while (slot < SLOTS && e->slots[slot].alive) {
			slot++;
		}
		if (slot == SLOTS || F(used)(e) + F(need)(e, r->prompt, r->prefix) > e->budget) {
			e->queue[kept++] = *r;
			continue;
		}
		Sequence *s = &e->slots[slot];
		*s = (Sequence){.alive = 1, .type = r->type, .phase = PREFILL, .tokens = e->prefix_pages[r->prefix] * PAGE_TOKENS + r->prompt,
			.remaining = r->output, .rate = r->rate, .last_access = e->step, .timer = r->type == CONTEXT ? 2 + r->run : 0, .prefix = r->prefix,
			.priority = r->priority, .hotness = 63, .run = r->run, .pause = r->pause};
		F(count_memory)(e, s, 1);
		e->admitted++;
		F(access_system)(e, r->prefix);
	}
	e->queued = kept;
}

/* Rule 7.5. */
static void F(expire)(Env *e) {
	int kept = 0;
	for (int k = 0; k < e->queued; k++) {
		if (e->step - e->queue[k].birth >= config.max_wait) {
			e->expired++;
		} else {
			e->queue[kept++] = e->queue[k];
		}
	}
	e->queued = kept;
}

/* A request from its draw, rule 4.5. */
static inline Request F(request)(u64 w, int birth) {
	return (Request){.prompt = (request_pages(w) - 1) * PAGE_TOKENS + request_last_page(w), .output = request_output(w), .rate = 1 + field(w, 31, 2),
		.birth = birth, .type = request_type(w), .prefix = request_prefix(w), .priority = request_priority(w), .run = field(w, 40, 2),
		.pause = field(w, 42, 2)};
}

/* Rule 7.6. */
static void F(arrive)(Env *e) {
	int n = count_arrivals(e->key, e->level, e->step, SLOTS);
	e->arrived += n;
	for (int k = 0; k < n; k++) {
		if (e->queued == SLOTS / 2) {
			e->rejected += n - k;
			break;
		}
		e->queue[e->queued++] = F(request)(request_word(e->key, e->step, k), e->step);
	}
}

/* R of rule 9.6. */
static int F(retained)(const Env *e) {
	int sum = 0, best[1 + TENANTS] = {0};
	for (int i = 0; i < SLOTS; i++) {
		const Sequence *s = &e->slots[i];
		if (!s->alive || s->swapped) {
			continue;
		}
		sum += retention[s->type] * F(cost)(e, s);
		best[s->prefix] = max_int(best[s->prefix], retention[s->type]);
	}
	for (int p = 1; p <= TENANTS; p++) {
		sum += best[p] * F(multiplier)(e, p) * e->prefix_pages[p];
	}
	return sum;
}

/* Rules 9.1 to 9.4: the step's reward in units of 2^-20. */
static int F(reward)(Env *e) {
	i64 used = F(used)(e), budget = e->budget, f = e->expired + e->rejected;
	e->headroom += headroom_tenths(used, budget);
	e->pressure += used * 100 > budget * 95;
	i64 failure = -(min_i64(15 * f + 10 * max_i64(0, f - 2), 100) * ONE / 100);
	i64 throughput = min_i64(e->tokens, config.token_norm) * ONE / config.token_norm;
	i64 headroom = floor_div((i64)e->headroom * 4 * ONE, 100 * config.steps);
	i64 efficiency = used * 100 < budget * 85 ? ONE * 2 / 10 : used * 100 < budget * 95 ? ONE / 10 : used < budget ? 0 : -(ONE * 2 / 10);
	i64 quality = used == 0 ? 0 : (i64)F(retained)(e) * ONE / (20 * used);
	i64 latency = -(min_i64(2 * (i64)e->latency, 3000) * ONE / 10000);
	i64 risk = -((i64)e->risk * ONE / 100);
	i64 score = floor_div(40 * failure + 25 * throughput + 18 * headroom + 7 * efficiency + 5 * quality + 3 * latency + 2 * risk, 1600);
	int reward = (int)(score - e->score);
	e->score = score;
	return reward;
}

/* What the shared pages of a resident sequence would get cheaper by without it, rule 10.2. */
static inline int F(shared_gain)(const Env *e, const Sequence *s) {
	int p = s->prefix, without = 0;
	if (p == 0 || s->swapped) {
		return 0;
	}
	for (int q = FP16; q < QUANTS; q++) {
		if (e->members[p][q] - (q == s->quant) > 0) {
			without = quant_qp[q];
			break;
		}
	}
	return e->prefix_pages[p] * (F(multiplier)(e, p) - without);
}

/* Section 10. */
static void F(observe)(Env *e, float *row) {
	int live = 0, generating = 0, compressed = 0, swapped = 0, demand = 0, limit = 2 * e->budget;
	float inverse = 1.0f / (float)e->budget, budget = (float)e->budget, slots = (float)SLOTS, places = (float)(SLOTS / 2);
	float *o = row + GLOBALS;
	for (int i = 0; i < SLOTS; i++, o += FEATURES) {
		const Sequence *s = &e->slots[i];
		if (!s->alive) {
			memset(o, 0, FEATURES * sizeof(float));
			continue;
		}
		live++;
		generating += s->phase >= DECODE;
		compressed += s->quant != FP16;
		swapped += s->swapped;
		int cost = F(cost)(e, s);
		o[0] = seen_quant[s->quant];
		o[1] = (float)min_int(cost, limit) * inverse;
		o[2] = (float)min_int(cost + F(shared_gain)(e, s), limit) * inverse;
		o[3] = (float)s->tokens / (float)(s->tokens + s->remaining);
		o[4] = (float)min_int(s->rate, 128) / 128.0f;
		o[5] = (float)s->priority * (1.0f / 100.0f);
		o[6] = seen_eviction[s->type];
		o[7] = seen_phase[s->phase];
		o[8] = (float)s->hotness * (1.0f / 255.0f);
		o[9] = (float)min_int(e->step - s->last_access, 16) / 16.0f;
		o[10] = (float)s->prefix / 8.0f;
		o[11] = (float)s->swapped;
	}
	for (int k = 0; k < e->queued; k++) {
		demand += 4 * pages_of(e->queue[k].prompt);
	}
	row[0] = (float)min_int(F(used)(e), limit) / budget;
	row[1] = budget / (float)e->capacity;
	row[2] = (float)(config.steps - e->step) / (float)config.steps;
	row[3] = (float)e->pressure / (float)config.steps;
	row[4] = (float)e->queued / places;
	row[5] = (float)e->growth / places;
	row[6] = e->queued > 0 ? (float)(e->step - e->queue[0].birth) / (float)config.max_wait : 0.0f;
	row[7] = (float)min_int(demand, 4 * e->budget) / budget;
	row[8] = (float)live / slots;
	row[9] = (float)generating / slots;
	row[10] = (float)compressed / slots;
	row[11] = (float)swapped / slots;
	row[12] = (float)min_int(e->shared, limit) / budget;
	row[13] = (float)min_int(e->expired + e->rejected, 16) / 16.0f;
	row[14] = (float)min_int(e->tokens, config.token_norm) / (float)config.token_norm;
	row[15] = (float)min_int(e->latency, 1500) / 1500.0f;
}

/* Initial sequence k, rule 4.6. */
static inline Sequence F(initial)(const Env *e, int k) {
	u64 w = draw(e->key, DRAW_INITIAL, 0, k);
	if (k < TENANTS) {
		return (Sequence){.alive = 1, .type = SYSTEM, .prefix = k + 1, .tokens = e->prefix_pages[k + 1] * PAGE_TOKENS, .phase = IDLE,
			.priority = request_priority(w), .last_access = -(int)field(w, 62, 2), .hotness = field(w, 54, 8)};
	}
	Request r = F(request)(w, 0);
	int done = (int)scale(field(w, 48, 6), 6, r.output);
	Sequence s = {.alive = 1, .type = r.type, .phase = r.type == REASONING ? THINKING : DECODE,
		.tokens = e->prefix_pages[r.prefix] * PAGE_TOKENS + r.prompt + done, .remaining = r.output - done, .rate = r.rate, .prefix = r.prefix,
		.priority = r.priority, .hotness = field(w, 54, 8), .run = r.run, .pause = r.pause};
	if (r.type == CONTEXT) {
		s.timer = 2 + r.run;
		if (field(w, 62, 1) == 1) {
			s.phase = IDLE;
			s.timer = 1 + r.pause;
			s.last_access = -(int)field(w, 54, 3);
		}
	}
	return s;
}

/* Sections 3 and 4. */
static void F(reset)(Env *e) {
	*e = (Env){.env = e->env, .episode = e->episode, .key = stream_key(config.seed, e->env, e->episode)};
	u64 w = draw(e->key, DRAW_EPISODE, 0, 0);
	int tier = episode_tier(w);
	e->capacity = SLOTS * 16;
	e->budget = episode_budget(w, tier, e->capacity);
	e->level = tier_levels[tier][field(w, 32, 1)];
	for (int p = 1; p <= TENANTS; p++) {
		e->prefix_pages[p] = 2 + field(draw(e->key, DRAW_PREFIX, 0, p), 0, 3);
	}
	int slot = 0, initial = TENANTS + (6 + (int)scale(field(w, 33, 16), 16, 8)) * SLOTS / 64;
	for (int k = 0; k < initial && slot < SLOTS; k++) {
		Sequence s = F(initial)(e, k);
		int private_tokens = s.tokens - e->prefix_pages[s.prefix] * PAGE_TOKENS;
		if (F(used)(e) + F(need)(e, private_tokens, s.prefix) <= e->budget) {
			e->slots[slot++] = s;
			F(count_memory)(e, &s, 1);
		}
	}
	F(arrive)(e);
}

/* Rule 6.1. Without ops every slot is kept. */
static int F(step)(Env *e, const u8 *ops) {
	e->step++;
	int queued = e->queued;
	if (ops != NULL) {
		F(actions)(e, ops);
	}
	F(decay)(e);
	F(generate)(e);
	F(complete)(e);
	F(admit)(e);
	F(expire)(e);
	F(arrive)(e);
	e->growth = e->queued - queued;
	return F(reward)(e);
}

/* Steps all environments; rule 11.1, next-step. */
static void F(step_all)(void *envs, const u8 *ops) {
	for (int i = 0; i < config.envs; i++) {
		Env *e = (Env *)envs + i;
		int reward = 0;
		if (e->done) {
			e->episode++;
			F(reset)(e);
		} else {
			reward = F(step)(e, ops == NULL ? NULL : ops + (size_t)i * SLOTS);
			e->done = e->step == config.steps;
		}
		F(observe)(e, observations + (size_t)i * (GLOBALS + FEATURES * SLOTS));
		rewards[i] = (float)reward / (1 << 20);
		terminated[i] = e->done;
		truncated[i] = 0;
	}
}

static void F(start)(void *envs, int i, u32 env, u32 episode) {
	Env *e = (Env *)envs + i;
	e->env = env;
	e->episode = episode;
	F(reset)(e);
}

static u32 F(episode)(const void *envs, int i) { return ((const Env *)envs)[i].episode; }

static const Rules F(rules) = {sizeof(Env), F(start), F(episode), F(step_all)};

#undef F
#undef Sequence
#undef Request
#undef Env
