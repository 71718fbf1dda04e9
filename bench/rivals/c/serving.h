/* The serving profile, section 13: a struct per environment. Included twice, as seed.h is. */

#define Sequence N(ServingSequence)
#define Ticket N(ServingTicket)
#define Prefix N(ServingPrefix)
#define Env N(ServingEnv)

/* One slot, one cache line. As in the seed profile it begins with what the observation shows, in its order. */
typedef struct {
	union {
		u16 seen[16]; /* the last four are shown times 0, where the next slot's row then comes */
		struct {
			u16 qp;       /* of a page at its level: 4, 2, 1 */
			u16 cost;     /* private cost, 0 in CPU memory; at most twice the budget */
			u16 reclaim;  /* the same; a shared gain is added after */
			u16 not_seen; /* progress comes here */
			u16 rate;     /* at most 128, more is not seen */
			u16 priority, eviction, phase, hotness;
			u16 age; /* min(t - last access, 16) */
			u16 prefix;
			u16 place; /* GPU, MOVING, CPU */
			u16 live, tokens, target;
			u16 memory; /* private cost at its level, wherever it lies */
		};
	};
	u32 work, ref;
	float progress;
	u16 moving, wake; /* wake is NEVER for what is not idle and for system entries */
	u16 born, admit;
	u16 left; /* step in which it was swapped out */
	u8 type, pause;
	u8 leaving; /* of MOVING: out, else in */
	u8 wanted, first, late;
} __attribute__((aligned(64))) Sequence;

typedef struct {
	u32 ref;
	u16 private, remaining, need; /* need is private pages at fp16, quarter pages */
	u16 born, since;
	u8 priority, prefix, type, pause;
	u8 first, late, again;
} Ticket;

typedef struct {
	u16 pages, multiplier; /* prefix 0 is none: 0 pages, multiplier 4 */
	u16 members, slot_sum; /* resident ones; with one member the sum of their slots is its slot */
} Prefix;

typedef struct {
	Sequence slots[CAP] __attribute__((aligned(64)));
	u64 key;
	u32 env, episode;
	i32 step, done;
	i32 capacity, budget, level, watermark;
	u64 host, host_limit; /* CPU memory taken by swapped and leaving sequences */
	float scales[16];     /* of a slot's observed values */
	float denominators[GLOBALS];

	i32 used, shared; /* quarter pages: all, and of the prefixes */
	i32 live, generating, compressed, swapped, leaving, returning, waiting_first;
	i32 high;      /* no live slot from here on */
	i32 free_hint; /* no empty slot below */
	i32 queued, growth, demand, oldest;
	i32 headroom, pressure, risk;
	i64 busy; /* quarter pages that this step's compressions have read and written */
	u64 tokens, goodput, good_norm, waste, window;
	u32 first_waits, request_norm;
	i64 score;
	u32 arrived, admitted, completed, expired, rejected, evictions, compressions, swaps, invalid, forced, late, first_tokens;

	Prefix prefixes[1 + TENANTS];
	Ticket queue[CAP + CAP / 2]; /* arrivals stop at CAP / 2, what is dropped from slots comes on top */
} Env;

/* A request's next turn, rule 13.3. */
static inline bool N(serving_has_next)(u32 ref) { return (ref & 3) != 0; }
static inline int N(serving_pause)(u32 ref) { return 2 << (ref >> 2 & 3); }
static inline int N(serving_prompt)(u32 ref) { return 256 << (ref >> 2 & 3); }
static inline int N(serving_output)(u32 ref) { return (int)(ref >> 4 & 0xFFFF); }

/* Memory. */

static inline void N(serving_see_cost)(const Env *e, Sequence *s) {
	s->cost = s->reclaim = s->place == CPU ? 0 : (u16)min_int(s->memory, 2 * e->budget);
}

static inline void N(serving_set_memory)(Env *e, Sequence *s, int memory) {
	int d = memory - s->memory;
	s->memory = (u16)memory;
	if (s->place != CPU) {
		e->used += d;
	}
	if (s->place == CPU || (s->place == MOVING && s->leaving)) {
		e->host += (u64)(i64)d;
	}
	N(serving_see_cost)(e, s);
}

static inline void N(serving_join)(Env *e, int prefix, int slot) {
	Prefix *p = &e->prefixes[prefix];
	if (prefix > 0 && p->members == 0) {
		p->multiplier = 4;
		e->used += 4 * p->pages;
		e->shared += 4 * p->pages;
	}
	p->members++;
	p->slot_sum += slot;
}

static inline void N(serving_leave)(Env *e, int prefix, int slot) {
	Prefix *p = &e->prefixes[prefix];
	p->members--;
	p->slot_sum -= slot;
	if (prefix > 0 && p->members == 0) {
		e->used -= p->multiplier * p->pages;
		e->shared -= p->multiplier * p->pages;
		p->multiplier = 0;
	}
}

/* What a prefix adds to the memory when a member comes, rule 13.20. */
static inline int N(serving_prefix_need)(const Prefix *p) { return p->members == 0 ? 4 * p->pages : 0; }

static inline void N(serving_set_phase)(Env *e, Sequence *s, int phase) {
	e->generating += (phase >= DECODE) - (s->phase >= DECODE);
	s->phase = (u16)phase;
}

static void N(serving_remove)(Env *e, int i) {
	Sequence *s = &e->slots[i];
	N(serving_set_memory)(e, s, 0);
	if (s->place != CPU) {
		N(serving_leave)(e, s->prefix, i);
	}
	e->live--;
	e->generating -= s->phase >= DECODE;
	e->compressed -= s->qp != 4;
	e->swapped -= s->place == CPU;
	e->leaving -= s->place == MOVING && s->leaving;
	e->returning -= s->place == MOVING && !s->leaving;
	e->waiting_first -= !s->first;
	e->free_hint = min_int(e->free_hint, i);
	*s = (Sequence){.wake = NEVER};
	while (e->high > 0 && !e->slots[e->high - 1].live) {
		e->high--;
	}
}

static inline int N(serving_empty_slot)(const Env *e) {
	int i = e->free_hint;
	while (i < SLOTS && e->slots[i].live) {
		i++;
	}
	return i;
}

/* Puts a resident sequence into an empty slot. */
static inline void N(serving_place)(Env *e, int i, const Sequence *given) {
	Sequence *s = &e->slots[i];
	*s = *given;
	s->live = 1;
	s->qp = 4;
	s->eviction = eviction_percent[s->type];
	s->progress = (float)s->tokens / (float)s->target;
	e->used += s->memory;
	N(serving_see_cost)(e, s);
	N(serving_join)(e, s->prefix, i);
	e->live++;
	e->generating += s->phase >= DECODE;
	e->waiting_first += !s->first;
	e->free_hint = i + 1;
	e->high = max_int(e->high, i + 1);
}

/* The time to compute a prompt, but for a resident prefix; rule 13.17. */
static inline u32 N(serving_prompt_work)(const Env *e, const Sequence *s) {
	const Prefix *p = &e->prefixes[s->prefix];
	int cached = p->members > 0 ? p->pages * PAGE_TOKENS : 0;
	return prefill_us(s->tokens - cached, cached);
}

/* Takes a sequence out of its slot and back into the queue if it has anything left to do, rule 13.12. */
static void N(serving_drop)(Env *e, int i) {
	const Sequence *s = &e->slots[i];
	bool idle = s->phase == IDLE;
	if (s->type != SYSTEM && (!idle || N(serving_has_next)(s->ref))) {
		Ticket *r = &e->queue[e->queued++];
		*r = (Ticket){.ref = s->ref, .private = s->tokens - e->prefixes[s->prefix].pages * PAGE_TOKENS, .remaining = s->target - s->tokens,
			.born = s->born, .since = e->step, .priority = s->priority, .prefix = s->prefix, .type = s->type, .pause = s->pause,
			.first = s->first, .late = s->late, .again = s->phase != PREFILL};
		if (idle) {
			r->private += N(serving_prompt)(s->ref);
			r->remaining = N(serving_output)(s->ref);
			r->ref--;
			r->born = max_int(e->step, s->wake);
			r->since = max_int(e->step, s->wake - 1);
			r->first = r->late = 0;
		}
		r->need = 4 * pages_of(r->private);
		e->demand += r->need;
	}
	N(serving_remove)(e, i);
}

/* Makes room for a slot's growth, rule 13.16; tells whether its sequence is still there. */
static bool __attribute__((noinline)) N(serving_make_room)(Env *e, int slot, int growth) {
	while (e->used + growth > e->budget) {
		int victim = -1, newest = -1;
		for (int i = 0; i < e->high; i++) {
			const Sequence *s = &e->slots[i];
			if (s->memory > 0 && s->place != CPU && s->type != SYSTEM && s->admit >= newest) {
				newest = s->admit;
				victim = i;
			}
		}
		if (victim < 0) {
			return true;
		}
		e->forced++;
		N(serving_drop)(e, victim);
		if (victim == slot) {
			return false;
		}
	}
	return true;
}

static inline bool N(serving_fit)(Env *e, int slot, int growth) {
	return growth == 0 || e->used + growth <= e->budget || N(serving_make_room)(e, slot, growth);
}

/* Operations, rules 13.11 to 13.14. */

typedef struct {
	int asked;      /* to leave in this step, by slot */
	u8 slots[CAP];
	u8 wanted[1 + TENANTS]; /* the lowest QP that a compression gave to a member of each prefix */
} N(ServingOps);

static void N(serving_operation)(Env *e, N(ServingOps) *o, int op, int i) {
	Sequence *s = &e->slots[i];
	bool settled = s->live && s->place == GPU && s->phase != PREFILL;
	if (op == EVICT && s->live) {
		e->risk += risk_of_eviction(s->type, s->priority, s->tokens, s->target);
		e->evictions++;
		N(serving_drop)(e, i);
	} else if (op == COMPRESS && settled && s->qp != 1) {
		e->compressions++;
		e->compressed += s->qp == 4;
		e->busy += s->memory + s->memory / 2;
		s->qp /= 2;
		N(serving_set_memory)(e, s, s->memory / 2);
		o->wanted[s->prefix] = (u8)min_int(o->wanted[s->prefix], s->qp);
	} else if (op == SWAP && settled) {
		e->swaps++;
		o->slots[o->asked++] = (u8)i;
	} else if (op == SWAP && s->place == CPU && !s->wanted) {
		e->swaps++;
		s->wanted = 1;
	} else {
		e->invalid++;
	}
}

static inline void N(serving_operations)(Env *e, const u8 *ops) {
	u64 groups[CAP / 8];
	u8 firsts[CAP / 8];
	int n = 0;
	for (int i = 0; i < SLOTS; i += 8) {
		memcpy(&groups[n], ops + i, 8);
		firsts[n] = i;
		n += groups[n] != 0;
	}
	if (n == 0) {
		return;
	}
	N(ServingOps) o;
	o.asked = 0;
	memset(o.wanted, 4, sizeof o.wanted);
	for (int k = 0; k < n; k++) {
		for (u64 left = groups[k]; left != 0;) {
			int byte = __builtin_ctzll(left) / 8;
			N(serving_operation)(e, &o, left >> 8 * byte & 255, firsts[k] + byte);
			left &= ~(255ull << 8 * byte);
		}
	}
	for (int k = 0; k < o.asked; k++) {
		Sequence *s = &e->slots[o.slots[k]];
		if (e->host + s->memory > e->host_limit) {
			e->swaps--;
			e->invalid++;
			continue;
		}
		e->host += s->memory;
		e->leaving++;
		s->place = MOVING;
		s->leaving = 1;
		s->moving = s->memory;
	}
	for (int p = 1; p <= TENANTS; p++) {
		Prefix *x = &e->prefixes[p];
		if (x->multiplier > o.wanted[p]) {
			int d = x->pages * (x->multiplier - o.wanted[p]);
			e->busy += x->pages * (x->multiplier + o.wanted[p]);
			e->used -= d;
			e->shared -= d;
			x->multiplier = o.wanted[p];
		}
	}
}

/* Transfers, rule 13.14. */

static inline i64 N(serving_move)(Sequence *s, i64 *link) {
	i64 x = min_i64(*link, s->moving);
	s->moving -= x;
	*link -= x;
	return s->moving == 0;
}

static inline void N(serving_transfer_out)(Env *e) {
	if (e->leaving == 0) {
		return;
	}
	i64 link = server.link_qp;
	for (int i = 0; i < e->high; i++) {
		Sequence *s = &e->slots[i];
		if (s->place == MOVING && s->leaving && N(serving_move)(s, &link)) {
			s->place = CPU;
			s->leaving = 0;
			s->left = e->step;
			s->cost = s->reclaim = 0;
			e->used -= s->memory;
			e->leaving--;
			e->swapped++;
			N(serving_leave)(e, s->prefix, i);
		}
	}
	e->waste += (u64)(link_ns(server.link_qp - link) / 1000);
}

static inline void N(serving_transfer_in)(Env *e) {
	if (e->returning == 0) {
		return;
	}
	i64 link = server.link_qp;
	for (int i = 0; i < e->high; i++) {
		Sequence *s = &e->slots[i];
		if (s->place == MOVING && !s->leaving && N(serving_move)(s, &link)) {
			s->place = GPU;
			e->returning--;
		}
	}
	e->waste += (u64)(link_ns(server.link_qp - link) / 1000);
}

/* Lists are ordered by the step of admission and then by slot: as numbers, admission * 256 + slot. */
static inline void N(serving_sort)(u32 *list, int n) {
	for (int i = 1; i < n; i++) {
		u32 x = list[i];
		int j = i;
		for (; j > 0 && list[j - 1] > x; j--) {
			list[j] = list[j - 1];
		}
		list[j] = x;
	}
}

static inline void N(serving_swap_in)(Env *e) {
	if (e->swapped == 0) {
		return;
	}
	u32 list[CAP];
	int n = 0;
	for (int i = 0; i < e->high; i++) {
		const Sequence *s = &e->slots[i];
		if (s->place == CPU && s->left != e->step && (s->wanted || s->phase != IDLE)) {
			list[n++] = (u32)s->admit << 8 | i;
		}
	}
	N(serving_sort)(list, n);
	for (int k = 0; k < n; k++) {
		int i = list[k] & 255;
		Sequence *s = &e->slots[i];
		int need = s->memory + N(serving_prefix_need)(&e->prefixes[s->prefix]);
		if (e->used + need + e->watermark > e->budget) {
			continue;
		}
		e->host -= s->memory;
		e->used += s->memory;
		e->swapped--;
		e->returning++;
		N(serving_join)(e, s->prefix, i);
		s->place = MOVING;
		s->wanted = 0;
		s->moving = need;
		N(serving_see_cost)(e, s);
	}
}

/* Hotness decays everywhere, and idle sequences go on or end; rules 6.4 and 13.15. */
static inline void N(serving_wake)(Env *e) {
	u8 list[CAP];
	int n = 0, high = e->high, step = e->step;
	for (int i = 0; i < high; i++) {
		Sequence *s = &e->slots[i];
		s->hotness -= s->hotness / 4;
		s->age = min_int(s->age + s->live, 16);
		list[n] = i;
		n += s->wake <= step;
	}
	for (int k = 0; k < n; k++) {
		int i = list[k];
		Sequence *s = &e->slots[i];
		if (s->wake > step || s->place == MOVING) { /* dropped for one before it, or not yet where it goes */
			continue;
		}
		if (!N(serving_has_next)(s->ref)) {
			e->completed++;
			N(serving_remove)(e, i);
			continue;
		}
		int prompt = N(serving_prompt)(s->ref);
		int growth = (pages_of(s->tokens + prompt) - pages_of(s->tokens)) * s->qp;
		if (s->place == GPU && !N(serving_fit)(e, i, growth)) {
			continue;
		}
		s->work = prefill_us(prompt, s->tokens);
		N(serving_set_memory)(e, s, s->memory + growth);
		s->tokens += prompt;
		s->target = s->tokens + N(serving_output)(s->ref);
		s->progress = (float)s->tokens / (float)s->target;
		s->phase = PREFILL;
		s->ref--;
		s->born = step;
		s->wake = NEVER;
		s->first = s->late = 0;
		s->age = 0;
		s->hotness = min_int(255, s->hotness + 63);
		e->waiting_first++;
	}
}

/* Prefill and generation, rules 13.17 and 13.18. */

static void N(serving_end_turn)(Env *e, int i) {
	Sequence *s = &e->slots[i];
	bool next = N(serving_has_next)(s->ref);
	if (s->type == GENERATION && !next && s->ref == 0) {
		e->completed++;
		N(serving_remove)(e, i);
		return;
	}
	N(serving_set_phase)(e, s, IDLE);
	s->wake = e->step + (next ? N(serving_pause)(s->ref) : 2 * (1 + s->pause));
}

/* Spends the step's prefill time, lists the slots that then generate, in order, and returns the time. */
static inline i64 N(serving_prefill)(Env *e, u8 *generating, int *count, i64 *context) {
	u32 list[CAP];
	int waiting = 0, n = 0;
	i64 sum = 0;
	for (int i = 0, high = e->high; i < high; i++) {
		const Sequence *s = &e->slots[i];
		int runs = s->place == GPU, generates = runs & (s->phase >= DECODE);
		list[waiting] = (u32)s->admit << 8 | i;
		waiting += runs & (s->phase == PREFILL);
		generating[n] = i;
		n += generates;
		sum += s->tokens & -generates;
	}
	i64 spent = 0;
	N(serving_sort)(list, waiting);
	for (int k = 0; k < waiting && spent < server.prefill_us; k++) {
		int i = list[k] & 255;
		Sequence *s = &e->slots[i];
		i64 x = min_i64(server.prefill_us - spent, s->work);
		s->work -= x;
		spent += x;
		if (s->work == 0) {
			N(serving_set_phase)(e, s, s->type == REASONING ? THINKING : DECODE);
			sum += s->tokens;
			int j = n++;
			for (; j > 0 && generating[j - 1] > i; j--) {
				generating[j] = generating[j - 1];
			}
			generating[j] = i;
		}
	}
	*count = n;
	*context = sum;
	return spent;
}

static inline void N(serving_generate)(Env *e) {
	u8 list[CAP + 1];
	int count;
	i64 context;
	i64 prefilled = N(serving_prefill)(e, list, &count, &context);
	if (count == 0) {
		return;
	}
	i64 left_us = server.step_us - compress_ns(e->busy) / 1000 - (config.preset.disaggregated ? 0 : prefilled);
	i64 all = max_i64(0, left_us) * 1000 / decode_step_ns(count, context);
	if (all == 0) {
		return;
	}
	int pace = (int)min_i64(65535, all);
	u64 good = 0, tokens = 0;
	for (int k = 0; k < count; k++) {
		int i = list[k];
		Sequence *s = &e->slots[i];
		int left = s->target - s->tokens, n = min_int(pace, left);
		int growth = (pages_of(s->tokens + n) - pages_of(s->tokens)) * s->qp;
		if (e->used + growth > e->budget && growth > 0) {
			/* The one branch that looks beyond this sequence; it may drop any, those on the list too. */
			if (!s->live || !N(serving_make_room)(e, i, growth)) {
				continue;
			}
		}
		if (!s->live) {
			continue;
		}
		s->memory += growth;
		e->used += growth;
		N(serving_see_cost)(e, s);
		s->tokens += n;
		s->progress = (float)s->tokens / (float)s->target;
		s->rate = min_int(n, 128);
		tokens += n;
		s->age = 0;
		s->hotness = min_int(255, s->hotness + 63);
		if (!s->first) {
			s->first = 1;
			e->first_tokens++;
			e->waiting_first--;
			s->late = e->step - s->born > config.max_wait;
			e->late += s->late;
		}
		int qp = min_int(s->qp, e->prefixes[s->prefix].multiplier);
		good += (u64)(n * (50 + s->priority)) * (u64)server.quality[qp] << (s->late ^ 1);
		if (n == left) {
			N(serving_end_turn)(e, i);
		}
	}
	e->tokens += tokens;
	e->goodput += good / 2000;
}

/* Queue, rule 13.20. */

static void N(serving_admit)(Env *e, const Ticket *r, int i) {
	Sequence s = {.type = r->type, .phase = PREFILL, .prefix = r->prefix, .priority = r->priority, .pause = r->pause, .hotness = 63, .ref = r->ref,
		.memory = r->need, .tokens = r->private + e->prefixes[r->prefix].pages * PAGE_TOKENS, .wake = NEVER, .born = r->born, .admit = e->step,
		.first = r->first, .late = r->late};
	s.target = s.tokens + r->remaining;
	s.work = N(serving_prompt_work)(e, &s);
	e->waste += r->again ? s.work : 0;
	N(serving_place)(e, i, &s);
	e->admitted++;
	if (r->prefix > 0) { /* its system entry; only an episode's start places one, so it lies in one of the first slots */
		for (int k = 0; k < TENANTS; k++) {
			Sequence *system = &e->slots[k];
			if (system->live && system->type == SYSTEM && system->prefix == r->prefix) {
				system->age = 0;
				system->hotness = min_int(255, system->hotness + 63);
			}
		}
	}
}

/* Admission and expiry in one pass, and the steps that requests have waited for their first token. */
static inline void N(serving_serve_queue)(Env *e) {
	int kept = 0, n = e->queued, oldest = e->step, waits = 0;
	for (int k = 0; k < n; k++) {
		const Ticket *r = &e->queue[k];
		int need = r->need + N(serving_prefix_need)(&e->prefixes[r->prefix]);
		if (e->used + need + e->watermark <= e->budget && r->since < e->step) {
			int i = N(serving_empty_slot)(e);
			if (i < SLOTS) {
				e->demand -= r->need;
				N(serving_admit)(e, r, i);
				continue;
			}
		}
		if (e->step - r->since >= config.max_wait) {
			e->demand -= r->need;
			e->expired++;
			continue;
		}
		oldest = min_int(oldest, r->since);
		waits += (r->since < e->step) & (r->first ^ 1);
		e->queue[kept++] = *r;
	}
	e->queued = kept;
	e->oldest = oldest;
	e->first_waits += waits + e->waiting_first;
}

static inline void N(serving_arrive)(Env *e) {
	int n = count_arrivals(e->key, e->level, e->step, SLOTS);
	int taken = max_int(0, min_int(n, SLOTS / 2 - e->queued));
	for (int k = 0; k < taken; k++) {
		u64 w = request_word(e->key, e->step, k);
		Ticket *r = &e->queue[e->queued++];
		*r = (Ticket){.ref = request_ref(w), .private = agent_prompt(w), .remaining = agent_output(w), .need = 8 * request_pages(w),
			.born = e->step, .since = e->step, .priority = request_priority(w), .prefix = request_prefix(w), .type = request_type(w),
			.pause = field(w, 42, 2)};
		e->demand += r->need;
	}
	e->arrived += n;
	e->rejected += n - taken;
}

/* Score, rule 13.21: what the step adds to it. */
static inline int N(serving_account)(Env *e) {
	i64 used = e->used, budget = e->budget;
	e->headroom += headroom_tenths(used, budget);
	e->pressure += used * 100 > budget * 95;
	u64 f = e->expired + e->rejected, norm = e->request_norm;
	i64 goodput = share(e->goodput, e->good_norm);
	i64 requests = -share(2 * f + e->late, 2 * norm);
	i64 first = -share(e->first_waits, (u64)config.max_wait * norm);
	i64 waste = -share(e->waste, e->window);
	i64 score = floor_div(70 * goodput + 20 * requests + 7 * first + 3 * waste, 1600);
	int reward = (int)(score - e->score);
	e->score = score;
	return reward;
}

/* Observation, rule 13.22. */

static void __attribute__((noinline)) N(serving_observe_globals)(const i32 *restrict numerators, const float *restrict denominators, float *restrict row) {
	for (int k = 0; k < GLOBALS; k++) {
		row[k] = (float)numerators[k] / denominators[k];
	}
}

/* Sixteen values a slot though there are twelve, as in the seed profile. */
static void __attribute__((noinline)) N(serving_observe_slots)(const Sequence *restrict s, int high, const float *restrict scales, float *restrict row) {
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

static inline void N(serving_observe)(const Env *e, float *row) {
	int budget = e->budget;
	u64 longest = (u64)config.max_wait * e->request_norm;
	const i32 numerators[GLOBALS] = {
		min_int(e->used, 2 * budget), budget, config.steps - e->step, e->pressure, min_int(e->queued, SLOTS / 2),
		max_int(-(SLOTS / 2), min_int(SLOTS / 2, e->growth)), min_int(e->step - e->oldest, config.max_wait), min_int(e->demand, 4 * budget),
		e->live, e->generating, e->compressed, e->swapped, min_int(e->shared, 2 * budget), min_int(e->expired + e->rejected, 16),
		0, (i32)min_u64(e->first_waits, longest),
	};
	N(serving_observe_globals)(numerators, e->denominators, row);
	row[14] = (float)(i64)min_u64(e->goodput, e->good_norm) / e->denominators[14];
	N(serving_observe_slots)(e->slots, e->high, e->scales, row + GLOBALS);
	for (int p = 1; p <= TENANTS; p++) { /* the shared gain of a prefix's only resident member */
		const Prefix *x = &e->prefixes[p];
		if (x->members == 1) {
			int i = x->slot_sum;
			int reclaim = e->slots[i].memory + x->pages * x->multiplier;
			row[GLOBALS + i * FEATURES + 2] = (float)min_int(reclaim, 2 * budget) * e->scales[2];
		}
	}
}

/* Reset, rules 13.4 to 13.6 and 13.9. */

/* What an unconstrained server would hold and deliver, summed. */
typedef struct {
	u64 page_steps, good;
	u32 requests;
} N(ServingDemand);

/* A life that holds memory from `held` on and generates `left` tokens from step `start` on, `last` being that turn's last step. */
static inline void N(serving_live)(N(ServingDemand) *d, u64 w, int private, int held, int start, int left, int last) {
	int steps = config.steps, rate = server.rate;
	int good = min_int(left, rate * max_int(0, steps - start + 1));
	private += left;
	if (request_type(w) == CONTEXT) {
		int output = agent_output(w), pause = field(w, 42, 2), span = server.spans[field(w, 25, 6)];
		for (int turns = field(w, 40, 2); turns > 0 && last < steps; turns--) {
			start = last + (2 << pause);
			good += min_int(output, rate * max_int(0, steps - start + 1));
			private += (256 << pause) + output;
			last = start + span - 1;
		}
	}
	d->good += (u64)good * (50 + request_priority(w));
	d->page_steps += (u64)pages_of(private) * (u64)(min_int(last, steps) - held + 1);
}

static inline void N(serving_demand)(const Env *e, int initial, N(ServingDemand) *d) {
	for (int p = 1; p <= TENANTS; p++) {
		d->page_steps += (u64)e->prefixes[p].pages * (config.steps + 1);
	}
	d->requests = initial - TENANTS;
	for (int k = TENANTS; k < initial; k++) {
		u64 w = draw(e->key, DRAW_INITIAL, 0, k);
		int output = agent_output(w), span = server.spans[field(w, 25, 6)];
		if (request_type(w) == CONTEXT && field(w, 62, 1)) { /* idle: its next turn is the first */
			if (field(w, 40, 2) > 0) {
				int start = 1 + field(w, 54, 3);
				w -= 1ull << 40;
				N(serving_live)(d, w, agent_prompt(w) + output + (256 << field(w, 42, 2)), 0, start, output, start + span - 1);
			}
			continue;
		}
		int done = (int)scale(field(w, 48, 6), 6, output), left = output - done;
		N(serving_live)(d, w, agent_prompt(w) + done, 0, 1, left, (left + server.rate - 1) / server.rate);
	}
	for (int t = 0; t <= config.steps; t++) {
		int n = count_arrivals(e->key, e->level, t, SLOTS);
		d->requests += n;
		for (int k = 0; k < n && t < config.steps; k++) {
			u64 w = request_word(e->key, t, k);
			N(serving_live)(d, w, agent_prompt(w), t + 1, t + 2, agent_output(w), t + 1 + server.spans[field(w, 25, 6)]);
		}
	}
}

static void N(serving_reset)(Env *e) {
	static const u16 capacity_permille[3] = {750, 600, 450};
	u64 key = stream_key(config.seed, e->env, e->episode);
	u32 env = e->env, episode = e->episode;
	for (int i = 0; i < e->high; i++) {
		e->slots[i] = (Sequence){.wake = NEVER};
	}
	memset(&e->key, 0, offsetof(Env, queue) - offsetof(Env, key));
	e->env = env;
	e->episode = episode;
	e->key = key;
	u64 w = draw(key, DRAW_EPISODE, 0, 0);
	int tier = episode_tier(w);
	e->level = tier_levels[tier][field(w, 32, 1)];
	for (int p = 1; p <= TENANTS; p++) {
		e->prefixes[p].pages = 8 * (1 + field(draw(key, DRAW_PREFIX, 0, p), 0, 3));
	}
	e->prefixes[0].multiplier = 4;
	int initial = TENANTS + (14 + (int)scale(field(w, 33, 16), 16, 8)) * SLOTS / 64;
	N(ServingDemand) d = {0};
	N(serving_demand)(e, initial, &d);
	u64 pages = d.page_steps * capacity_permille[tier] / 1000 / (config.steps + 1);
	pages = min_u64(max_i64(SLOTS, (i64)pages), 1 << 24);
	pages = min_u64(pages, (u64)max_i64(1, config.preset.capacity_tokens / PAGE_TOKENS));
	e->capacity = 4 * (int)pages;
	e->budget = episode_budget(w, tier, e->capacity);
	e->watermark = e->budget / 64;
	e->host_limit = (u64)e->budget * config.preset.host_permille / 1000;
	e->good_norm = d.good > 1 ? d.good : 1;
	e->request_norm = d.requests > 1 ? d.requests : 1;
	e->window = (u64)config.steps * server.step_us;
	float b = (float)e->budget, n = (float)SLOTS, q = (float)(SLOTS / 2), inverse = 1.0f / b;
	const float scales[16] = {0.25f, inverse, inverse, 0, 1.0f / 128, 1.0f / 100, 1.0f / 100, 0.25f, 1.0f / 255, 1.0f / 16, 1.0f / 8, 0.5f};
	memcpy(e->scales, scales, sizeof scales);
	const float denominators[GLOBALS] = {b, (float)e->capacity, (float)config.steps, (float)config.steps, q, q, (float)config.max_wait, b, n, n, n, n, b, 16,
		(float)(i64)e->good_norm, (float)(i64)((u64)config.max_wait * e->request_norm)};
	memcpy(e->denominators, denominators, sizeof denominators);
	for (int k = 0; k < initial; k++) {
		w = draw(key, DRAW_INITIAL, 0, k);
		Sequence s = {.priority = request_priority(w), .hotness = field(w, 54, 8), .first = 1, .wake = NEVER};
		if (k < TENANTS) {
			s.type = SYSTEM;
			s.prefix = k + 1;
			s.tokens = s.target = e->prefixes[k + 1].pages * PAGE_TOKENS;
			s.age = field(w, 62, 2);
		} else {
			int output = agent_output(w), done = (int)scale(field(w, 48, 6), 6, output);
			s.type = request_type(w);
			s.prefix = request_prefix(w);
			s.pause = field(w, 42, 2);
			s.ref = request_ref(w);
			s.phase = s.type == REASONING ? THINKING : DECODE;
			if (s.type == CONTEXT && field(w, 62, 1)) {
				s.phase = IDLE;
				done = output;
				s.wake = 1 + field(w, 54, 3);
				s.age = field(w, 57, 3);
			}
			int private = agent_prompt(w) + done;
			s.memory = 4 * pages_of(private);
			s.tokens = e->prefixes[s.prefix].pages * PAGE_TOKENS + private;
			s.target = s.tokens + output - done;
		}
		if (e->live < SLOTS && e->used + s.memory + N(serving_prefix_need)(&e->prefixes[s.prefix]) <= e->budget) {
			N(serving_place)(e, e->live, &s);
		}
	}
	N(serving_arrive)(e);
	e->oldest = 0;
}

static inline int N(serving_step)(Env *e, const u8 *ops) {
	e->step++;
	int before = e->queued;
	e->busy = 0;
	if (ops) {
		N(serving_operations)(e, ops);
	}
	N(serving_transfer_out)(e);
	N(serving_wake)(e);
	N(serving_swap_in)(e);
	N(serving_transfer_in)(e);
	N(serving_generate)(e);
	N(serving_serve_queue)(e);
	N(serving_arrive)(e);
	e->growth = e->queued - before;
	return N(serving_account)(e);
}

static inline void N(serving_prefetch)(const Env *e) {
	for (int i = 0; i < SLOTS / 2; i++) {
		__builtin_prefetch(&e->slots[i], 1);
	}
	for (const char *p = (const char *)&e->key; p < (const char *)&e->queue[8]; p += 64) {
		__builtin_prefetch(p, 1);
	}
}

/* Steps all environments; rule 11.1, next-step. Without ops every slot is kept. */
static void N(serving_step_all)(void *envs, const u8 *ops) {
	Env *e = envs;
	const int row = GLOBALS + FEATURES * SLOTS;
	for (int i = 0; i < config.envs; i++, e++) {
		int reward = 0;
		N(serving_prefetch)(e + (i + 1 < config.envs));
		if (e->done) {
			e->episode++;
			N(serving_reset)(e);
		} else {
			reward = N(serving_step)(e, ops ? ops + (size_t)i * SLOTS : NULL);
			e->done = e->step == config.steps;
		}
		N(serving_observe)(e, observations + (size_t)i * row);
		rewards[i] = (float)reward * (1.0f / (1 << 20));
		terminated[i] = (u8)e->done;
		truncated[i] = 0;
	}
}

/* For an environment of which nothing is known, unlike in serving_step_all, where its slots from high on are empty. */
static void N(serving_start)(void *envs, int i, u32 env, u32 episode) {
	Env *e = (Env *)envs + i;
	e->high = SLOTS;
	e->env = env;
	e->episode = episode;
	N(serving_reset)(e);
}

static u32 N(serving_episode)(const void *envs, int i) { return ((const Env *)envs)[i].episode; }

static const Rules N(serving_rules) = {sizeof(Env), N(serving_start), N(serving_episode), N(serving_step_all)};

#undef Sequence
#undef Ticket
#undef Prefix
#undef Env
