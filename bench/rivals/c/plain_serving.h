/* The serving profile in the plain style: section 13 of docs/simulator.md, a function a phase. Included twice, as
 * plain_seed.h is. */

#include "plain_shared.h"

#define F(x) N(plain_serving_##x)
#define Sequence N(PlainServingSequence)
#define Ticket N(PlainServingTicket)
#define Turn N(PlainServingTurn)
#define Demand N(PlainServingDemand)
#define Env N(PlainServingEnv)

typedef struct {
	int tokens, remaining, rate, last_access;
	int wake;   /* step in which it goes on while idle */
	int born;   /* step in which its turn began */
	int admit;  /* step of admission */
	int left;   /* step in which it was swapped out */
	int moving; /* quarter pages still to cross the link */
	u32 work;   /* microseconds of prefill left */
	u32 ref;    /* its session's further turns */
	u8 alive, type, phase, quant, prefix, priority, hotness, pause;
	u8 swapped, out, in, wanted, first, late; /* flags, rule 13.8 */
} Sequence;

typedef struct {
	int private_tokens, remaining, born, since;
	u32 ref;
	u8 type, prefix, priority, pause;
	u8 first, late, again;
} Ticket;

typedef struct {
	int pause, prompt, output;
	u32 ref;
} Turn;

typedef struct {
	Sequence slots[CAP];
	Ticket queue[CAP + CAP / 2]; /* arrivals stop at CAP / 2, what is dropped from slots comes on top */
	int queued, growth;          /* waiting requests, and how many more than before the step */

	u64 key;
	u32 env, episode;
	int step, done;
	int capacity, budget, level;

	int prefix_pages[1 + TENANTS];
	int members[1 + TENANTS];    /* resident sequences of a prefix */
	int multiplier[1 + TENANTS]; /* what a page of it costs */
	int private, shared;         /* memory in use, quarter pages */
	i64 host, host_limit;        /* CPU memory of swapped and leaving sequences */
	i64 busy;                    /* quarter pages that this step's compressions have read and written */

	u64 goodput, good_norm, waste, window;
	u32 first_waits, request_norm;
	i64 tokens, score;
	int headroom, pressure, risk;
	int arrived, admitted, completed, expired, rejected, evictions, compressions, swaps, invalid, forced, late, first_tokens;
} Env;

/* The turn that follows in a session, if any; rule 13.3. */
static inline bool F(next_turn)(u32 ref, Turn *turn) {
	if ((ref & 3) == 0) {
		return false;
	}
	int code = ref >> 2 & 3;
	*turn = (Turn){.pause = 2 << code, .prompt = 256 << code, .output = ref >> 4 & 0xFFFF, .ref = ref - 1};
	return true;
}

static inline bool F(runs)(const Sequence *s) { return s->alive && !s->swapped && !s->out && !s->in; }

/* Memory. */

static inline int F(private_tokens)(const Env *e, const Sequence *s) { return s->tokens - e->prefix_pages[s->prefix] * PAGE_TOKENS; }

/* A sequence's private memory, wherever it lies. */
static inline int F(memory)(const Env *e, const Sequence *s) { return (pages_of(s->tokens) - e->prefix_pages[s->prefix]) * quant_qp[s->quant]; }

static inline int F(cost)(const Env *e, const Sequence *s) { return s->swapped ? 0 : F(memory)(e, s); }

static inline int F(used)(const Env *e) { return e->private + e->shared; }

/* A sequence comes into GPU memory; a prefix that nobody holds comes with it, at fp16. */
static inline void F(join)(Env *e, const Sequence *s) {
	int p = s->prefix;
	e->private += F(memory)(e, s);
	if (e->members[p]++ == 0) {
		e->multiplier[p] = 4;
		e->shared += 4 * e->prefix_pages[p];
	}
}

static inline void F(leave)(Env *e, const Sequence *s) {
	int p = s->prefix;
	e->private -= F(memory)(e, s);
	if (--e->members[p] == 0) {
		e->shared -= e->multiplier[p] * e->prefix_pages[p];
		e->multiplier[p] = 0;
	}
}

/* What a prefix adds to the memory when a member comes, rule 13.20. */
static inline int F(prefix_need)(const Env *e, int prefix) { return e->members[prefix] == 0 ? 4 * e->prefix_pages[prefix] : 0; }

static inline void F(clear_slot)(Env *e, Sequence *s) {
	if (!s->swapped) {
		F(leave)(e, s);
	}
	if (s->swapped || s->out) {
		e->host -= F(memory)(e, s);
	}
	*s = (Sequence){0};
}

/* Takes a sequence out of its slot and back into the queue if it has anything left to do, rule 13.12. */
static void F(drop)(Env *e, Sequence *s) {
	Ticket r = {.private_tokens = F(private_tokens)(e, s), .remaining = s->remaining, .born = s->born, .since = e->step, .ref = s->ref,
		.type = s->type, .prefix = s->prefix, .priority = s->priority, .pause = s->pause, .first = s->first, .late = s->late,
		.again = s->phase != PREFILL};
	bool back = s->type != SYSTEM;
	if (back && s->phase == IDLE) {
		Turn turn;
		back = F(next_turn)(s->ref, &turn);
		if (back) {
			r.private_tokens += turn.prompt;
			r.remaining = turn.output;
			r.ref = turn.ref;
			r.born = max_int(e->step, s->wake);
			r.since = max_int(e->step, s->wake - 1);
			r.first = r.late = 0;
		}
	}
	if (back) {
		e->queue[e->queued++] = r;
	}
	F(clear_slot)(e, s);
}

/* Makes room for a sequence's growth by dropping those that were admitted last, and tells whether it is still there itself;
 * rule 13.16. */
static bool F(fit)(Env *e, const Sequence *growing, int growth) {
	while (growth > 0 && F(used)(e) + growth > e->budget) {
		Sequence *victim = NULL;
		for (int i = 0; i < SLOTS; i++) {
			Sequence *s = &e->slots[i];
			if (!s->alive || s->type == SYSTEM || F(cost)(e, s) == 0) {
				continue;
			}
			if (victim == NULL || s->admit >= victim->admit) {
				victim = s;
			}
		}
		if (victim == NULL) {
			return true;
		}
		e->forced++;
		F(drop)(e, victim);
		if (victim == growing) {
			return false;
		}
	}
	return true;
}

static inline int F(growth)(const Sequence *s, int tokens) { return (pages_of(s->tokens + tokens) - pages_of(s->tokens)) * quant_qp[s->quant]; }

/* The time to compute a sequence's prompt, but for a prefix that is there; rule 13.17. It comes before the sequence joins. */
static inline u32 F(prompt_work)(const Env *e, const Sequence *s) {
	int private_tokens = F(private_tokens)(e, s);
	return e->members[s->prefix] > 0 ? prefill_us(private_tokens, s->tokens - private_tokens) : prefill_us(s->tokens, 0);
}

/* Puts slots into the order of their admission, those of one step into that of their numbers, which they come in. */
static inline void F(sort_by_admission)(const Env *e, int *slots, int n) {
	for (int k = 1; k < n; k++) {
		int slot = slots[k], j = k;
		for (; j > 0 && e->slots[slots[j - 1]].admit > e->slots[slot].admit; j--) {
			slots[j] = slots[j - 1];
		}
		slots[j] = slot;
	}
}

/* Operations, rules 13.11 to 13.14. */
static void F(actions)(Env *e, const u8 *ops) {
	int asked[CAP], leaving = 0;                            /* slots that are to leave */
	int coarsest[1 + TENANTS] = {FP16, FP16, FP16, FP16, FP16}; /* level that a compression gave to a member */
	for (int i = 0; i < SLOTS; i++) {
		int op = ops[i];
		if (op == KEEP) {
			continue;
		}
		Sequence *s = &e->slots[i];
		bool settled = F(runs)(s) && s->phase != PREFILL;
		if (op == EVICT && s->alive) {
			e->risk += risk_of_eviction(s->type, s->priority, s->tokens, s->tokens + s->remaining);
			e->evictions++;
			F(drop)(e, s);
		} else if (op == COMPRESS && settled && s->quant < INT4) {
			int before = F(memory)(e, s);
			s->quant++;
			int after = F(memory)(e, s);
			e->private += after - before;
			e->busy += before + after;
			e->compressions++;
			coarsest[s->prefix] = max_int(coarsest[s->prefix], s->quant);
		} else if (op == SWAP && settled) {
			asked[leaving++] = i;
			e->swaps++;
		} else if (op == SWAP && s->alive && s->swapped && !s->wanted) {
			s->wanted = 1;
			e->swaps++;
		} else {
			e->invalid++;
		}
	}
	for (int k = 0; k < leaving; k++) {
		Sequence *s = &e->slots[asked[k]];
		int memory = F(memory)(e, s);
		if (e->host + memory <= e->host_limit) {
			e->host += memory;
			s->out = 1;
			s->moving = memory;
		} else {
			e->swaps--;
			e->invalid++;
		}
	}
	for (int p = 1; p <= TENANTS; p++) {
		int before = e->multiplier[p], after = quant_qp[coarsest[p]];
		if (before > after) {
			e->multiplier[p] = after;
			e->shared -= e->prefix_pages[p] * (before - after);
			e->busy += e->prefix_pages[p] * (before + after);
		}
	}
}

/* Transfers, rule 13.14. */

/* Moves a sequence as far as the link goes, and tells whether it has arrived. */
static inline bool F(move)(Sequence *s, i64 *link) {
	int n = (int)min_i64(*link, s->moving);
	s->moving -= n;
	*link -= n;
	return s->moving == 0;
}

static void F(transfer_out)(Env *e) {
	i64 link = server.link_qp;
	for (int i = 0; i < SLOTS; i++) {
		Sequence *s = &e->slots[i];
		if (!s->alive || !s->out) {
			continue;
		}
		if (F(move)(s, &link)) {
			F(leave)(e, s);
			s->out = 0;
			s->swapped = 1;
			s->left = e->step;
		}
	}
	e->waste += link_ns(server.link_qp - link) / 1000;
}

static void F(transfer_in)(Env *e) {
	i64 link = server.link_qp;
	for (int i = 0; i < SLOTS; i++) {
		Sequence *s = &e->slots[i];
		if (!s->alive || !s->in) {
			continue;
		}
		if (F(move)(s, &link)) {
			s->in = 0;
		}
	}
	e->waste += link_ns(server.link_qp - link) / 1000;
}

/* Rule 6.4. */
static void F(decay)(Env *e) {
	for (int i = 0; i < SLOTS; i++) {
		Sequence *s = &e->slots[i];
		s->hotness -= s->hotness / 4;
	}
}

/* Idle sequences go on or end, rule 13.15. */
static void F(wake)(Env *e) {
	for (int i = 0; i < SLOTS; i++) {
		Sequence *s = &e->slots[i];
		if (!s->alive || s->phase != IDLE || s->type == SYSTEM || s->out || s->in || s->wake > e->step) {
			continue;
		}
		Turn turn;
		if (!F(next_turn)(s->ref, &turn)) {
			F(clear_slot)(e, s);
			e->completed++;
			continue;
		}
		int growth = F(growth)(s, turn.prompt);
		if (s->swapped) {
			e->host += growth;
		} else if (F(fit)(e, s, growth)) {
			e->private += growth;
		} else {
			continue;
		}
		s->work = prefill_us(turn.prompt, s->tokens);
		s->tokens += turn.prompt;
		s->remaining = turn.output;
		s->ref = turn.ref;
		s->phase = PREFILL;
		s->born = s->last_access = e->step;
		s->first = s->late = 0;
		s->hotness = min_int(255, s->hotness + 63);
	}
}

/* Memory that admissions and swap-ins leave free. */
static inline int F(watermark)(const Env *e) { return e->budget / 64; }

/* Swapped sequences come back, the oldest admission first; rule 13.20. */
static void F(swap_in)(Env *e) {
	int slots[CAP], n = 0;
	for (int i = 0; i < SLOTS; i++) {
		const Sequence *s = &e->slots[i];
		if (s->alive && s->swapped && s->left != e->step && (s->wanted || s->phase != IDLE)) {
			slots[n++] = i;
		}
	}
	F(sort_by_admission)(e, slots, n);
	for (int k = 0; k < n; k++) {
		Sequence *s = &e->slots[slots[k]];
		int memory = F(memory)(e, s), need = memory + F(prefix_need)(e, s->prefix);
		if (F(used)(e) + need + F(watermark)(e) > e->budget) {
			continue;
		}
		F(join)(e, s);
		e->host -= memory;
		s->swapped = s->wanted = 0;
		s->in = 1;
		s->moving = need;
	}
}

/* Spends the step's prefill time, the oldest admission first, and returns what it spent; rule 13.17. */
static i64 F(prefill)(Env *e) {
	int slots[CAP], n = 0;
	for (int i = 0; i < SLOTS; i++) {
		const Sequence *s = &e->slots[i];
		if (F(runs)(s) && s->phase == PREFILL) {
			slots[n++] = i;
		}
	}
	F(sort_by_admission)(e, slots, n);
	i64 spent = 0;
	for (int k = 0; k < n && spent < server.prefill_us; k++) {
		Sequence *s = &e->slots[slots[k]];
		u32 x = (u32)min_i64(server.prefill_us - spent, s->work);
		s->work -= x;
		spent += x;
		if (s->work == 0) {
			s->phase = s->type == REASONING ? THINKING : DECODE;
		}
	}
	return spent;
}

/* Rule 13.19. */
static void F(end_turn)(Env *e, Sequence *s) {
	Turn turn;
	if (F(next_turn)(s->ref, &turn)) {
		s->phase = IDLE;
		s->wake = e->step + turn.pause;
	} else if (s->type == GENERATION) {
		F(clear_slot)(e, s);
		e->completed++;
	} else {
		s->phase = IDLE;
		s->wake = e->step + 2 * (1 + s->pause);
	}
}

/* A sequence generates up to n tokens; returns their worth. */
static u64 F(decode)(Env *e, Sequence *s, int n) {
	n = min_int(n, s->remaining);
	int growth = F(growth)(s, n);
	if (!F(fit)(e, s, growth)) {
		return 0;
	}
	e->private += growth;
	s->tokens += n;
	s->remaining -= n;
	s->rate = n;
	s->last_access = e->step;
	s->hotness = min_int(255, s->hotness + 63);
	e->tokens += n;
	if (!s->first) {
		s->first = 1;
		e->first_tokens++;
		if (e->step - s->born > config.max_wait) {
			s->late = 1;
			e->late++;
		}
	}
	int qp = quant_qp[s->quant];
	if (s->prefix != 0) {
		qp = min_int(qp, e->multiplier[s->prefix]);
	}
	u64 worth = (u64)n * (50 + s->priority) * server.quality[qp];
	if (!s->late) {
		worth *= 2;
	}
	if (s->remaining == 0) {
		F(end_turn)(e, s);
	}
	return worth;
}

/* Rule 13.18. */
static void F(generate)(Env *e, i64 prefilled) {
	int slots[CAP], running = 0;
	i64 context = 0;
	for (int i = 0; i < SLOTS; i++) {
		const Sequence *s = &e->slots[i];
		if (F(runs)(s) && s->phase >= DECODE) {
			slots[running++] = i;
			context += s->tokens;
		}
	}
	if (running == 0) {
		return;
	}
	i64 left = server.step_us - compress_ns(e->busy) / 1000;
	if (!config.preset.disaggregated) {
		left -= prefilled;
	}
	int n = (int)min_i64(65535, max_i64(0, left) * 1000 / decode_step_ns(running, context));
	if (n == 0) {
		return;
	}
	u64 worth = 0;
	for (int k = 0; k < running; k++) {
		Sequence *s = &e->slots[slots[k]];
		if (s->alive) { /* not dropped for another's growth */
			worth += F(decode)(e, s, n);
		}
	}
	e->goodput += worth / 2000;
}

/* An admitted request accesses the system entry of its prefix. Only a reset makes such entries, in the first slots. */
static inline void F(access_system)(Env *e, int prefix) {
	for (int i = 0; i < TENANTS; i++) {
		Sequence *s = &e->slots[i];
		if (s->alive && s->type == SYSTEM && s->prefix == prefix) {
			s->last_access = e->step;
			s->hotness = min_int(255, s->hotness + 63);
		}
	}
}

/* Rule 13.20. */
static void F(admit)(Env *e) {
	int kept = 0, slot = 0;
	for (int k = 0; k < e->queued; k++) {
		const Ticket *r = &e->queue[k];
		while (slot < SLOTS && e->slots[slot].alive) {
			slot++;
		}
		int need = 4 * pages_of(r->private_tokens) + F(prefix_need)(e, r->prefix);
		if (slot == SLOTS || r->since >= e->step || F(used)(e) + need + F(watermark)(e) > e->budget) {
			e->queue[kept++] = *r;
			continue;
		}
		Sequence *s = &e->slots[slot];
		*s = (Sequence){.alive = 1, .type = r->type, .phase = PREFILL, .tokens = r->private_tokens + e->prefix_pages[r->prefix] * PAGE_TOKENS,
			.remaining = r->remaining, .last_access = e->step, .born = r->born, .admit = e->step, .ref = r->ref, .prefix = r->prefix,
			.priority = r->priority, .hotness = 63, .pause = r->pause, .first = r->first, .late = r->late};
		s->work = F(prompt_work)(e, s);
		if (r->again) {
			e->waste += s->work;
		}
		F(join)(e, s);
		e->admitted++;
		F(access_system)(e, r->prefix);
	}
	e->queued = kept;
}

static void F(expire)(Env *e) {
	int kept = 0;
	for (int k = 0; k < e->queued; k++) {
		if (e->step - e->queue[k].since >= config.max_wait) {
			e->expired++;
		} else {
			e->queue[kept++] = e->queue[k];
		}
	}
	e->queued = kept;
}

static void F(arrive)(Env *e) {
	int n = count_arrivals(e->key, e->level, e->step, SLOTS);
	e->arrived += n;
	for (int k = 0; k < n; k++) {
		if (e->queued >= SLOTS / 2) {
			e->rejected += n - k;
			break;
		}
		u64 w = request_word(e->key, e->step, k);
		e->queue[e->queued++] = (Ticket){.private_tokens = agent_prompt(w), .remaining = agent_output(w), .born = e->step, .since = e->step,
			.ref = request_ref(w), .type = request_type(w), .prefix = request_prefix(w), .priority = request_priority(w), .pause = field(w, 42, 2)};
	}
}

/* W of rule 13.21. */
static void F(count_waits)(Env *e) {
	for (int k = 0; k < e->queued; k++) {
		e->first_waits += e->queue[k].since < e->step && !e->queue[k].first;
	}
	for (int i = 0; i < SLOTS; i++) {
		const Sequence *s = &e->slots[i];
		if (!s->alive) {
			continue;
		}
		e->first_waits += s->phase != IDLE && !s->first;
	}
}

/* Rule 13.21: the step's reward in units of 2^-20. */
static int F(reward)(Env *e) {
	i64 used = F(used)(e), budget = e->budget;
	e->headroom += headroom_tenths(used, budget);
	e->pressure += used * 100 > budget * 95;
	u64 f = e->expired + e->rejected, norm = e->request_norm;
	i64 goodput = share(e->goodput, e->good_norm);
	i64 requests = -share(2 * f + e->late, 2 * norm);
	i64 first = -share(e->first_waits, config.max_wait * norm);
	i64 waste = -share(e->waste, e->window);
	i64 score = floor_div(70 * goodput + 20 * requests + 7 * first + 3 * waste, 1600);
	int reward = (int)(score - e->score);
	e->score = score;
	return reward;
}

/* What the shared pages of a resident sequence would get cheaper by without it. */
static inline int F(shared_gain)(const Env *e, const Sequence *s) {
	return s->swapped || e->members[s->prefix] > 1 ? 0 : e->prefix_pages[s->prefix] * e->multiplier[s->prefix];
}

/* Rule 13.22. */
static void F(observe)(const Env *e, float *row) {
	int live = 0, generating = 0, compressed = 0, swapped = 0, demand = 0, oldest = 0, limit = 2 * e->budget;
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
		o[11] = s->swapped ? 1.0f : s->out || s->in ? 0.5f : 0.0f;
	}
	for (int k = 0; k < e->queued; k++) {
		const Ticket *r = &e->queue[k];
		demand += 4 * pages_of(r->private_tokens);
		oldest = max_int(oldest, e->step - r->since);
	}
	i64 longest = (i64)config.max_wait * e->request_norm;
	row[0] = (float)min_int(F(used)(e), limit) / budget;
	row[1] = budget / (float)e->capacity;
	row[2] = (float)(config.steps - e->step) / (float)config.steps;
	row[3] = (float)e->pressure / (float)config.steps;
	row[4] = (float)min_int(e->queued, SLOTS / 2) / places;
	row[5] = (float)max_int(-(SLOTS / 2), min_int(SLOTS / 2, e->growth)) / places;
	row[6] = (float)min_int(oldest, config.max_wait) / (float)config.max_wait;
	row[7] = (float)min_int(demand, 4 * e->budget) / budget;
	row[8] = (float)live / slots;
	row[9] = (float)generating / slots;
	row[10] = (float)compressed / slots;
	row[11] = (float)swapped / slots;
	row[12] = (float)min_int(e->shared, limit) / budget;
	row[13] = (float)min_int(e->expired + e->rejected, 16) / 16.0f;
	row[14] = (float)(i64)min_u64(e->goodput, e->good_norm) / (float)(i64)e->good_norm;
	row[15] = (float)min_i64(e->first_waits, longest) / (float)longest;
}

/* Reset, rules 13.3 to 13.6 and 13.9. */

/* What an unconstrained server would hold and deliver, summed over the episode. */
typedef struct {
	u64 page_steps, good;
	int requests;
} Demand;

static inline int F(turn_steps)(int tokens) { return (tokens + server.rate - 1) / server.rate; }

/* Tokens that a turn of n tokens delivers in the episode if it starts in that step. */
static inline int F(delivered)(int n, int start) { return min_int(n, server.rate * max_int(0, config.steps - start + 1)); }

/* Adds the life of a request there, rule 13.4: it holds memory from step held on and generates n tokens from step start on. */
static void F(add_life)(Demand *d, u64 w, int tokens, int held, int start, int n, int turns) {
	int good = F(delivered)(n, start), end = start + F(turn_steps)(n) - 1;
	int output = agent_output(w), pause = field(w, 42, 2);
	tokens += n;
	for (; turns > 0 && end < config.steps; turns--) {
		start = end + (2 << pause);
		end = start + F(turn_steps)(output) - 1;
		good += F(delivered)(output, start);
		tokens += (256 << pause) + output;
	}
	d->good += (u64)good * (50 + request_priority(w));
	d->page_steps += (u64)pages_of(tokens) * (min_int(end, config.steps) - held + 1);
}

static Demand F(demand)(const Env *e, int initial) {
	Demand d = {.requests = initial - TENANTS};
	for (int p = 1; p <= TENANTS; p++) {
		d.page_steps += (u64)e->prefix_pages[p] * (config.steps + 1);
	}
	for (int k = TENANTS; k < initial; k++) {
		u64 w = draw(e->key, DRAW_INITIAL, 0, k);
		int output = agent_output(w), done = (int)scale(field(w, 48, 6), 6, output);
		int turns = request_type(w) == CONTEXT ? (int)field(w, 40, 2) : 0;
		if (request_type(w) != CONTEXT || field(w, 62, 1) == 0) {
			F(add_life)(&d, w, agent_prompt(w) + done, 0, 1, output - done, turns);
		} else if (turns > 0) { /* idle: its next turn is the first that counts */
			F(add_life)(&d, w, agent_prompt(w) + output + (256 << field(w, 42, 2)), 0, 1 + field(w, 54, 3), output, turns - 1);
		}
	}
	for (int t = 0; t <= config.steps; t++) {
		int n = count_arrivals(e->key, e->level, t, SLOTS);
		d.requests += n;
		for (int k = 0; k < n && t < config.steps; k++) { /* what arrives in the last step is never admitted */
			u64 w = request_word(e->key, t, k);
			F(add_life)(&d, w, agent_prompt(w), t + 1, t + 2, agent_output(w), request_type(w) == CONTEXT ? (int)field(w, 40, 2) : 0);
		}
	}
	return d;
}

/* Initial sequence k, rule 13.6. */
static inline Sequence F(initial)(const Env *e, int k) {
	u64 w = draw(e->key, DRAW_INITIAL, 0, k);
	if (k < TENANTS) {
		return (Sequence){.alive = 1, .type = SYSTEM, .prefix = k + 1, .tokens = e->prefix_pages[k + 1] * PAGE_TOKENS, .phase = IDLE, .first = 1,
			.priority = request_priority(w), .last_access = -(int)field(w, 62, 2), .hotness = field(w, 54, 8)};
	}
	int type = request_type(w), prefix = request_prefix(w), output = agent_output(w), done = (int)scale(field(w, 48, 6), 6, output);
	bool idle = type == CONTEXT && field(w, 62, 1) == 1;
	if (idle) {
		done = output;
	}
	return (Sequence){.alive = 1, .type = type, .phase = idle ? IDLE : type == REASONING ? THINKING : DECODE,
		.tokens = e->prefix_pages[prefix] * PAGE_TOKENS + agent_prompt(w) + done, .remaining = output - done, .prefix = prefix, .first = 1,
		.wake = idle ? 1 + (int)field(w, 54, 3) : 0, .last_access = idle ? -(int)field(w, 57, 3) : 0, .ref = request_ref(w),
		.priority = request_priority(w), .hotness = field(w, 54, 8), .pause = field(w, 42, 2)};
}

static void F(reset)(Env *e) {
	static const int capacity_permille[3] = {750, 600, 450};
	*e = (Env){.env = e->env, .episode = e->episode, .key = stream_key(config.seed, e->env, e->episode)};
	u64 w = draw(e->key, DRAW_EPISODE, 0, 0);
	int tier = episode_tier(w);
	e->level = tier_levels[tier][field(w, 32, 1)];
	for (int p = 1; p <= TENANTS; p++) {
		e->prefix_pages[p] = 8 * (1 + field(draw(e->key, DRAW_PREFIX, 0, p), 0, 3));
	}
	int slot = 0, initial = TENANTS + (14 + (int)scale(field(w, 33, 16), 16, 8)) * SLOTS / 64;
	Demand d = F(demand)(e, initial);
	i64 pages = d.page_steps * capacity_permille[tier] / 1000 / (config.steps + 1);
	pages = min_i64(max_i64(SLOTS, pages), 1 << 24);
	pages = max_i64(1, min_i64(pages, config.preset.capacity_tokens / PAGE_TOKENS));
	e->capacity = (int)(4 * pages);
	e->budget = episode_budget(w, tier, e->capacity);
	e->host_limit = (i64)e->budget * config.preset.host_permille / 1000;
	e->good_norm = max_i64(1, d.good);
	e->request_norm = max_int(1, d.requests);
	e->window = config.steps * server.step_us;
	for (int k = 0; k < initial && slot < SLOTS; k++) {
		Sequence s = F(initial)(e, k);
		if (F(used)(e) + F(memory)(e, &s) + F(prefix_need)(e, s.prefix) <= e->budget) {
			e->slots[slot++] = s;
			F(join)(e, &s);
		}
	}
	F(arrive)(e);
}

/* Rule 13.10. Without ops every slot is kept. */
static int F(step)(Env *e, const u8 *ops) {
	e->step++;
	int queued = e->queued;
	e->busy = 0;
	if (ops != NULL) {
		F(actions)(e, ops);
	}
	F(transfer_out)(e);
	F(decay)(e);
	F(wake)(e);
	F(swap_in)(e);
	F(transfer_in)(e);
	i64 prefilled = F(prefill)(e);
	F(generate)(e, prefilled);
	F(admit)(e);
	F(expire)(e);
	F(arrive)(e);
	e->growth = e->queued - queued;
	F(count_waits)(e);
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
#undef Ticket
#undef Turn
#undef Demand
#undef Env
