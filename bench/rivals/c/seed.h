/* The seed profile, rules 3 to 10: a struct per environment. main.c includes this file twice, once with CAP and SLOTS the
 * constant 64 and once with room for any number of slots; N(x) gives names of their own to each. */

#define Sequence N(SeedSequence)
#define Request N(SeedRequest)
#define Prefix N(SeedPrefix)
#define Env N(SeedEnv)

/* One slot. The first twelve bytes are what the observation shows, in its order, each to be multiplied by a constant: an
 * empty slot is all zeros, so its observation needs no branch. */
typedef struct {
	union {
		u8 seen[16]; /* the last four are shown times 0, where the next slot's row then comes */
		struct {
			u8 qp;       /* of a page at its level: 4, 2, 1 */
			u8 cost;     /* private cost, 0 if swapped: at most 25 pages at fp16 */
			u8 reclaim;  /* the same; a shared gain is added after */
			u8 not_seen; /* progress comes here */
			u8 rate, priority, eviction, phase, hotness;
			u8 age; /* min(t - last access, 16) */
			u8 prefix, swapped;
			u8 live, type, run, pause;
		};
	};
	u8 pages; /* private */
	u8 pace;  /* tokens a step: the rate, or half of it if swapped */
	u16 tokens, target;
	u16 latency;   /* of an access if swapped, else 0 */
	u16 timer_end; /* step in which the timer gets to 0; 0: none runs */
	u16 due;       /* step in which something happens that is not plain generation or plain waiting, or NEVER */
	float progress;
} Sequence;

typedef struct {
	u64 word; /* the rest is decoded when it is admitted */
	i16 birth;
	u8 need; /* private pages at fp16 */
	u8 prefix;
} Request;

/* A shared prefix and its resident members, by level (fp16, int8, int4 at 0, 1, 2). */
typedef struct {
	u16 count[3], slot_sum[3]; /* with one member, the sum of its members' slots is its slot */
	u16 types[5];
	u8 pages, multiplier;
} Prefix;

typedef struct {
	Sequence slots[CAP] __attribute__((aligned(64)));
	u64 key;
	u32 env, episode;
	i32 step, done;
	i32 capacity, budget, level;
	float scales[16]; /* of a slot's observed bytes */
	float denominators[GLOBALS]; /* of the global observations */

	i32 used, shared;   /* quarter pages: all, and of the prefixes */
	i32 retained;       /* private part of R, rule 9.6 */
	i32 live, generating, compressed, swapped;
	i32 high;           /* no live slot from here on */
	i32 free_hint;      /* no empty slot below */
	i32 queued, growth, demand;
	i32 headroom, pressure, risk;
	u32 latency, tokens;
	i64 score;
	u32 arrived, admitted, completed, expired, rejected, evictions, compressions, swaps, invalid, swap_reads;

	Prefix prefixes[1 + TENANTS];
	Request queue[CAP / 2];
} Env;

/* Memory. */

static inline int N(seed_level)(const Sequence *s) { return s->qp == 4 ? 0 : s->qp == 2 ? 1 : 2; }

static inline void N(seed_set_cost)(Env *e, Sequence *s, int cost) {
	int d = cost - s->cost;
	s->cost = s->reclaim = (u8)cost;
	e->used += d;
	e->retained += d * (20 - s->eviction / 5);
}

static inline int N(seed_multiplier)(const Prefix *p) { return p->count[0] ? 4 : p->count[1] ? 2 : p->count[2] ? 1 : 0; }

/* Prefix 0 is none: it has no pages, so what is counted there changes nothing. */
static inline void N(seed_member)(Env *e, const Sequence *s, int slot, int level, int n) {
	Prefix *p = &e->prefixes[s->prefix];
	p->count[level] += n;
	p->slot_sum[level] += n * slot;
	p->types[s->type] += n;
	int m = N(seed_multiplier)(p), d = p->pages * (m - p->multiplier);
	p->multiplier = (u8)m;
	e->used += d;
	e->shared += d;
}

static inline void N(seed_set_latency)(Sequence *s) { s->latency = 100 + min_int(200, 2 * s->pages * s->qp); }

static inline void N(seed_set_phase)(Env *e, Sequence *s, int phase) {
	e->generating += (phase >= DECODE) - (s->phase >= DECODE);
	s->phase = (u8)phase;
}

static void N(seed_remove)(Env *e, int i) {
	Sequence *s = &e->slots[i];
	if (!s->swapped) {
		N(seed_set_cost)(e, s, 0);
		N(seed_member)(e, s, i, N(seed_level)(s), -1);
	}
	e->live--;
	e->generating -= s->phase >= DECODE;
	e->compressed -= s->qp != 4;
	e->swapped -= s->swapped;
	e->free_hint = min_int(e->free_hint, i);
	*s = (Sequence){.target = 1, .due = NEVER};
	while (e->high > 0 && !e->slots[e->high - 1].live) {
		e->high--;
	}
}

static inline int N(seed_empty_slot)(const Env *e) {
	int i = e->free_hint;
	while (i < SLOTS && e->slots[i].live) {
		i++;
	}
	return i;
}

/* Puts a sequence whose fields are set into an empty slot. */
static inline void N(seed_place)(Env *e, int i) {
	Sequence *s = &e->slots[i];
	s->live = 1;
	s->qp = 4;
	s->pace = s->rate;
	s->eviction = eviction_percent[s->type];
	s->progress = (float)s->tokens / (float)s->target;
	N(seed_set_cost)(e, s, 4 * s->pages);
	N(seed_member)(e, s, i, 0, 1);
	e->live++;
	e->generating += s->phase >= DECODE;
	e->free_hint = i + 1;
	e->high = max_int(e->high, i + 1);
}

/* Says when a generating sequence needs more than to count tokens: at its last token, at a page's end, at its timer's end.
 * From is the first step that is still to come. Quotients by a pace of 1 to 4 are exact in 16 bits. */
static inline void N(seed_plan)(Sequence *s, int from) {
	static const u32 reciprocal[5] = {0, 65536, 32768, 21846, 16384};
	int left = s->target - s->tokens, room = -s->tokens & (PAGE_TOKENS - 1);
	u32 r = reciprocal[s->pace];
	int last = (int)((left - 1) * r >> 16), page = (int)(room * r >> 16);
	int due = from + min_int(last, page);
	s->due = s->timer_end >= from ? min_int(due, s->timer_end) : due;
}

/* Operations, rule 6.2. */

static void N(seed_operation)(Env *e, int op, int i) {
	Sequence *s = &e->slots[i];
	if (op == EVICT && s->live) {
		e->risk += risk_of_eviction(s->type, s->priority, s->tokens, s->target);
		e->evictions++;
		N(seed_remove)(e, i);
	} else if (op == COMPRESS && s->live && !s->swapped && s->qp != 1) {
		int level = N(seed_level)(s);
		e->compressions++;
		e->compressed += level == 0;
		N(seed_set_cost)(e, s, s->cost / 2);
		N(seed_member)(e, s, i, level, -1);
		N(seed_member)(e, s, i, level + 1, 1);
		s->qp /= 2;
	} else if (op == SWAP && s->live && !s->swapped) {
		e->swaps++;
		e->swapped++;
		N(seed_set_cost)(e, s, 0);
		N(seed_member)(e, s, i, N(seed_level)(s), -1);
		s->swapped = 1;
		s->pace = (s->rate + 1) / 2;
		N(seed_set_latency)(s);
		if (s->phase >= DECODE) {
			N(seed_plan)(s, e->step);
		}
	} else {
		e->invalid++;
	}
}

/* Most slots are kept: only the groups of eight with an operation are looked at, which are listed without a branch. */
static inline void N(seed_operations)(Env *e, const u8 *ops) {
	u64 groups[CAP / 8];
	u8 firsts[CAP / 8];
	int n = 0;
	for (int i = 0; i < SLOTS; i += 8) {
		memcpy(&groups[n], ops + i, 8);
		firsts[n] = i;
		n += groups[n] != 0;
	}
	for (int k = 0; k < n; k++) {
		for (u64 left = groups[k]; left != 0;) {
			int byte = __builtin_ctzll(left) / 8;
			N(seed_operation)(e, left >> 8 * byte & 255, firsts[k] + byte);
			left &= ~(255ull << 8 * byte);
		}
	}
}

/* Dynamics, rules 6.4 to 6.10. */

static inline void N(seed_go)(Env *e, Sequence *s, int phase, int timer) {
	N(seed_set_phase)(e, s, phase);
	s->timer_end = timer > 0 ? e->step + timer : 0;
	N(seed_plan)(s, e->step + 1);
}

static inline void N(seed_rest)(Env *e, Sequence *s) {
	N(seed_set_phase)(e, s, IDLE);
	s->timer_end = s->due = e->step + 1 + s->pause;
}

/* What is due on a slot; the loop of seed_generate has only decayed its hotness. Tells whether the sequence is complete. */
static inline bool N(seed_event)(Env *e, Sequence *s) {
	if (s->phase == PREFILL) {
		N(seed_go)(e, s, s->type == REASONING ? THINKING : DECODE, s->type == CONTEXT ? 2 + s->run : 0);
		return false;
	}
	if (s->phase == IDLE) {
		if (s->tokens == s->target) {
			return true;
		}
		N(seed_go)(e, s, DECODE, 2 + s->run);
		return false;
	}
	int left = s->target - s->tokens, n = min_int(s->pace, left);
	bool page = n > (-s->tokens & (PAGE_TOKENS - 1));
	if (page && !s->swapped && e->used + s->qp > e->capacity) { /* stalls: nothing of it changes */
		s->due++;
		s->timer_end += s->timer_end > 0;
		return false;
	}
	e->latency += s->latency;
	e->swap_reads += s->swapped;
	if (page) {
		s->pages++;
		if (s->swapped) {
			N(seed_set_latency)(s);
		} else {
			N(seed_set_cost)(e, s, s->cost + s->qp);
		}
	}
	s->tokens += n;
	s->progress = (float)s->tokens / (float)s->target;
	e->tokens += n;
	s->age = 0;
	s->hotness += 63;
	if (n == left) {
		if (s->type <= GENERATION) {
			return true;
		}
		N(seed_rest)(e, s);
	} else if (s->timer_end == e->step) { /* only context sequences have one here */
		N(seed_rest)(e, s);
	} else {
		N(seed_plan)(s, e->step + 1);
	}
	return false;
}

/* What nearly all slots do, which is to generate some tokens or nothing, has no branch: no predictor would know which. The
 * others are listed and then dealt with, in slot order as well: what the first kind does touches no other slot. */
static inline void N(seed_generate)(Env *e) {
	u8 events[CAP], complete[CAP];
	int listed = 0, completed = 0, high = e->high, step = e->step;
	int tokens = 0, latency = 0, reads = 0;
	for (int i = 0; i < high; i++) {
		Sequence *s = &e->slots[i];
		int plain = s->due != step;
		int generates = -(plain & (s->phase >= DECODE)); /* a mask */
		events[listed] = i;
		listed += plain ^ 1;
		int n = s->pace & generates;
		tokens += n;
		latency += s->latency & generates;
		reads += s->swapped & generates;
		s->tokens += n;
		s->progress = (float)s->tokens / (float)s->target;
		s->hotness += (63 & generates) - s->hotness / 4;
		s->age = min_int(s->age + s->live, 16) & ~generates;
	}
	e->tokens += tokens;
	e->latency += latency;
	e->swap_reads += reads;
	for (int k = 0; k < listed; k++) {
		if (N(seed_event)(e, &e->slots[events[k]])) {
			complete[completed++] = events[k];
		}
	}
	e->completed += completed;
	for (int k = 0; k < completed; k++) { /* after all generation: what they free prevents no stall of this step */
		N(seed_remove)(e, complete[k]);
	}
}

/* Queue, section 7. */

static void N(seed_admit)(Env *e, const Request *r, int i) {
	Sequence *s = &e->slots[i];
	u64 w = r->word;
	s->type = request_type(w);
	s->phase = PREFILL;
	s->prefix = r->prefix;
	s->pages = r->need / 4;
	s->tokens = (e->prefixes[r->prefix].pages + s->pages - 1) * PAGE_TOKENS + request_last_page(w);
	s->target = s->tokens + request_output(w);
	s->rate = 1 + field(w, 31, 2);
	s->priority = request_priority(w);
	s->run = field(w, 40, 2);
	s->pause = field(w, 42, 2);
	s->due = e->step + 1;
	s->hotness = 63;
	s->age = 0;
	N(seed_place)(e, i);
	e->admitted++;
	/* The prefix's system entry, rule 7.4: only an episode's start places one, always in slot prefix-1. */
	Sequence *system = &e->slots[r->prefix - (r->prefix > 0)];
	if (r->prefix > 0 && system->live && system->type == SYSTEM) {
		e->latency += system->latency;
		e->swap_reads += system->swapped;
		system->age = 0;
		system->hotness = min_int(255, system->hotness + 63);
	}
}

static inline void N(seed_arrive)(Env *e) {
	int n = count_arrivals(e->key, e->level, e->step, SLOTS);
	int taken = min_int(n, SLOTS / 2 - e->queued);
	for (int k = 0; k < taken; k++) {
		Request *r = &e->queue[e->queued++];
		u64 w = request_word(e->key, e->step, k);
		*r = (Request){.word = w, .birth = e->step, .need = 4 * request_pages(w), .prefix = request_prefix(w)};
		e->demand += r->need;
	}
	e->arrived += n;
	e->rejected += n - taken;
}

/* Admission and expiry in one pass: a request that was passed over has no second chance in this step. */
static inline void N(seed_serve_queue)(Env *e) {
	int kept = 0, n = e->queued;
	for (int k = 0; k < n; k++) {
		const Request *r = &e->queue[k];
		const Prefix *p = &e->prefixes[r->prefix];
		if (e->used + r->need + p->pages * (4 - p->multiplier) <= e->budget) {
			int i = N(seed_empty_slot)(e);
			if (i < SLOTS) {
				e->demand -= r->need;
				N(seed_admit)(e, r, i);
				continue;
			}
		}
		if (e->step - r->birth >= config.max_wait) {
			e->demand -= r->need;
			e->expired++;
			continue;
		}
		e->queue[kept++] = *r;
	}
	e->queued = kept;
}

/* Score, section 9: what the step adds to it. */
static inline int N(seed_account)(Env *e) {
	i64 used = e->used, budget = e->budget;
	e->headroom += headroom_tenths(used, budget);
	e->pressure += used * 100 > budget * 95;
	i64 retained = e->retained;
	for (int p = 1; p <= TENANTS; p++) {
		const Prefix *x = &e->prefixes[p];
		int worth = x->types[SYSTEM] ? 20 : x->types[CONTEXT] ? 15 : x->types[GENERATION] ? 10 : x->types[REASONING] ? 2 : 0;
		retained += worth * x->multiplier * x->pages;
	}
	i64 f = e->expired + e->rejected;
	i64 failure = -(min_i64(15 * f + 10 * max_i64(0, f - 2), 100) * ONE / 100);
	i64 throughput = (i64)((u64)min_i64(e->tokens, config.token_norm) * ONE / config.token_norm);
	i64 headroom = floor_div((i64)e->headroom * 4 * ONE, 100 * (i64)config.steps);
	i64 efficiency = used * 100 < budget * 85 ? ONE * 2 / 10 : used * 100 < budget * 95 ? ONE / 10 : used < budget ? 0 : -(ONE * 2 / 10);
	i64 quality = used == 0 ? 0 : (i64)((u64)retained * ONE / (u64)(20 * used));
	i64 latency = -(min_i64(2 * (i64)e->latency, 3000) * ONE / 10000);
	i64 risk = -((i64)e->risk * ONE / 100);
	i64 score = floor_div(40 * failure + 25 * throughput + 18 * headroom + 7 * efficiency + 5 * quality + 3 * latency + 2 * risk, 1600);
	int reward = (int)(score - e->score);
	e->score = score;
	return reward;
}

/* Observation, section 10. */

/* The loops over the tensor stand alone, with restrict, for the compiler to make vectors of them. */

static void __attribute__((noinline)) N(seed_observe_globals)(const i32 *restrict numerators, const float *restrict denominators, float *restrict row) {
	for (int k = 0; k < GLOBALS; k++) {
		row[k] = (float)numerators[k] / denominators[k];
	}
}

/* Writes sixteen values a slot though there are twelve, which vectors like; the next slot, or the next environment, writes
 * over the last four, and the tensor's end has room for them. */
static void __attribute__((noinline)) N(seed_observe_slots)(const Sequence *restrict s, int high, const float *restrict scales, float *restrict row) {
	for (int i = 0; i < high; i++) {
		i32 seen[16];
		for (int k = 0; k < 16; k++) {
			seen[k] = s[i].seen[k];
		}
		for (int k = 0; k < 16; k++) {
			row[FEATURES * i + k] = (float)seen[k] * scales[k];
		}
	}
	for (int i = high; i < SLOTS; i++) { /* not one memset, which is slow where the tensor is not in the cache */
		memset(row + FEATURES * i, 0, sizeof(float) * FEATURES);
	}
	for (int i = 0; i < high; i++) {
		row[FEATURES * i + 3] = s[i].progress;
	}
}

static inline void N(seed_observe)(const Env *e, float *row) {
	int budget = e->budget;
	const i32 numerators[GLOBALS] = {
		min_int(e->used, 2 * budget), budget, config.steps - e->step, e->pressure, e->queued, e->growth,
		e->queued ? e->step - e->queue[0].birth : 0, min_int(e->demand, 4 * budget), e->live, e->generating, e->compressed, e->swapped,
		min_int(e->shared, 2 * budget), min_int(e->expired + e->rejected, 16), min_int(e->tokens, config.token_norm), min_int(e->latency, 1500),
	};
	N(seed_observe_globals)(numerators, e->denominators, row);
	N(seed_observe_slots)(e->slots, e->high, e->scales, row + GLOBALS);
	for (int p = 1; p <= TENANTS; p++) { /* shared gain, rule 10.2: only a prefix's only member at its finest level has one */
		const Prefix *x = &e->prefixes[p];
		int level = x->count[0] ? 0 : x->count[1] ? 1 : 2;
		if (x->count[level] == 1) {
			int coarser = level < 1 && x->count[1] ? 2 : level < 2 && x->count[2] ? 1 : 0;
			int i = x->slot_sum[level];
			int reclaim = e->slots[i].cost + x->pages * (x->multiplier - coarser);
			row[GLOBALS + i * FEATURES + 2] = (float)min_int(reclaim, 2 * budget) * e->scales[2];
		}
	}
}

/* Reset, sections 3 and 4. */

static void N(seed_reset)(Env *e) {
	u64 key = stream_key(config.seed, e->env, e->episode);
	u32 env = e->env, episode = e->episode;
	for (int i = 0; i < e->high; i++) {
		e->slots[i] = (Sequence){.target = 1, .due = NEVER};
	}
	memset(&e->key, 0, offsetof(Env, queue) - offsetof(Env, key));
	e->env = env;
	e->episode = episode;
	e->key = key;
	u64 w = draw(key, DRAW_EPISODE, 0, 0);
	int tier = episode_tier(w);
	e->capacity = SLOTS * 16;
	e->budget = episode_budget(w, tier, e->capacity);
	e->level = tier_levels[tier][field(w, 32, 1)];
	float inverse = 1.0f / (float)e->budget;
	const float scales[16] = {0.25f, inverse, inverse, 0, 1.0f / 128, 1.0f / 100, 1.0f / 100, 0.25f, 1.0f / 255, 1.0f / 16, 1.0f / 8, 1};
	memcpy(e->scales, scales, sizeof scales);
	float b = (float)e->budget, n = (float)SLOTS, q = (float)(SLOTS / 2);
	float denominators[GLOBALS] = {b, (float)e->capacity, (float)config.steps, (float)config.steps, q, q, (float)config.max_wait, b, n, n, n, n, b, 16,
		(float)config.token_norm, 1500};
	memcpy(e->denominators, denominators, sizeof denominators);
	for (int p = 1; p <= TENANTS; p++) {
		e->prefixes[p].pages = 2 + field(draw(key, DRAW_PREFIX, 0, p), 0, 3);
	}
	int initial = TENANTS + (6 + (int)scale(field(w, 33, 16), 16, 8)) * SLOTS / 64;
	for (int k = 0; k < initial; k++) {
		Sequence s = {0};
		w = draw(key, DRAW_INITIAL, 0, k);
		s.priority = request_priority(w);
		s.hotness = field(w, 54, 8);
		if (k < TENANTS) {
			s.type = SYSTEM;
			s.prefix = k + 1;
			s.tokens = s.target = e->prefixes[k + 1].pages * PAGE_TOKENS;
			s.age = field(w, 62, 2);
			s.due = NEVER;
		} else {
			int output = request_output(w), done = (int)scale(field(w, 48, 6), 6, output);
			int private = (request_pages(w) - 1) * PAGE_TOKENS + request_last_page(w) + done;
			s.type = request_type(w);
			s.prefix = request_prefix(w);
			s.pages = pages_of(private);
			s.tokens = e->prefixes[s.prefix].pages * PAGE_TOKENS + private;
			s.target = s.tokens + output - done;
			s.rate = 1 + field(w, 31, 2);
			s.run = field(w, 40, 2);
			s.pause = field(w, 42, 2);
			s.pace = s.rate;
			s.phase = s.type == REASONING ? THINKING : DECODE;
			s.timer_end = s.type == CONTEXT ? 2 + s.run : 0;
			if (s.type == CONTEXT && field(w, 62, 1)) {
				s.phase = IDLE;
				s.due = s.timer_end = 1 + s.pause;
				s.age = field(w, 54, 3);
			} else {
				N(seed_plan)(&s, 1);
			}
		}
		const Prefix *p = &e->prefixes[s.prefix];
		if (e->live < SLOTS && e->used + 4 * s.pages + p->pages * (4 - p->multiplier) <= e->budget) {
			e->slots[e->live] = s;
			N(seed_place)(e, e->live);
		}
	}
	N(seed_arrive)(e);
}

static inline int N(seed_step)(Env *e, const u8 *ops) {
	e->step++;
	int before = e->queued;
	if (ops) {
		N(seed_operations)(e, ops);
	}
	N(seed_generate)(e);
	N(seed_serve_queue)(e);
	N(seed_arrive)(e);
	e->growth = e->queued - before;
	return N(seed_account)(e);
}

/* What the next environment's step will read: a batch that is larger than the caches waits for memory most of its time. */
static inline void N(seed_prefetch)(const Env *e) {
	for (int i = 0; i < SLOTS / 2; i += 2) {
		__builtin_prefetch(&e->slots[i], 1);
	}
	for (const char *p = (const char *)&e->key; p < (const char *)&e->queue[8]; p += 64) {
		__builtin_prefetch(p, 1);
	}
}

/* Steps all environments; rule 11.1, next-step. Without ops every slot is kept. */
static void N(seed_step_all)(void *envs, const u8 *ops) {
	Env *e = envs;
	const int row = GLOBALS + FEATURES * SLOTS;
	for (int i = 0; i < config.envs; i++, e++) {
		int reward = 0;
		N(seed_prefetch)(e + (i + 1 < config.envs));
		if (e->done) {
			e->episode++;
			N(seed_reset)(e);
		} else {
			reward = N(seed_step)(e, ops ? ops + (size_t)i * SLOTS : NULL);
			e->done = e->step == config.steps;
		}
		N(seed_observe)(e, observations + (size_t)i * row);
		rewards[i] = (float)reward * (1.0f / (1 << 20));
		terminated[i] = (u8)e->done;
		truncated[i] = 0;
	}
}

/* For an environment of which nothing is known, unlike in seed_step_all, where its slots from high on are empty. */
static void N(seed_start)(void *envs, int i, u32 env, u32 episode) {
	Env *e = (Env *)envs + i;
	e->high = SLOTS;
	e->env = env;
	e->episode = episode;
	N(seed_reset)(e);
}

static u32 N(seed_episode)(const void *envs, int i) { return ((const Env *)envs)[i].episode; }

static const Rules N(seed_rules) = {sizeof(Env), N(seed_start), N(seed_episode), N(seed_step_all)};

#undef Sequence
#undef Request
#undef Prefix
#undef Env
