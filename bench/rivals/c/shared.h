/* What both profiles share: random streams, the tables of synthetic traffic, a server's times. "Rule 4.5" and the like
 * are rules of docs/simulator.md, which this program follows bit for bit. */
#ifndef KVGYM_RIVAL_SHARED_H
#define KVGYM_RIVAL_SHARED_H

#include <stdint.h>
#include <stdbool.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int16_t i16;
typedef int32_t i32;
typedef int64_t i64;

enum { SYSTEM, CONTEXT, GENERATION, REASONING, EPHEMERAL };
enum { IDLE, PREFILL, DECODE, THINKING };
enum { KEEP, EVICT, COMPRESS, SWAP };
enum { GPU, MOVING, CPU };

enum {
	PAGE_TOKENS = 128,
	TENANTS = 4,
	MAX_SLOTS = 256,
	MAX_KNOTS = 64,
	GLOBALS = 16,      /* observed values of an environment */
	FEATURES = 12,     /* and of each slot */
	NEVER = 65535      /* a step that never comes */
};

#define ONE (1 << 24) /* a term of 1.0 */

typedef struct {
	i64 tokens, ns;
} Knot;

/* What operations cost on a server: kv.Preset. */
typedef struct {
	i64 capacity_tokens, step_ms, prefill_permille, disaggregated, pair_ps, ctx_ps, curve_ns, link_ps, host_permille,
		compress_ps, quality[3];
	Knot prefill[MAX_KNOTS], decode[MAX_KNOTS];
	int prefill_knots, decode_knots;
} Preset;

/* What all environments of the process have in common. One process is one batch, so it is global and the compiler knows
 * where everything is. */
typedef struct {
	int serving, envs, slots, steps, max_wait, cycle, warm, difficulty; /* difficulty: easy 0, medium, hard, all 3 */
	u64 seed;
	u32 first_env;
	u32 token_norm;
	Preset preset;
} Config;

static Config config;

/* The tensors, contiguous over the environments. */
static float *observations, *rewards;
static u8 *terminated, *truncated;

static inline int min_int(int a, int b) { return a < b ? a : b; }
static inline int max_int(int a, int b) { return a > b ? a : b; }
static inline i64 min_i64(i64 a, i64 b) { return a < b ? a : b; }
static inline i64 max_i64(i64 a, i64 b) { return a > b ? a : b; }
static inline u64 min_u64(u64 a, u64 b) { return a < b ? a : b; }
static inline int pages_of(u32 tokens) { return (int)((tokens + PAGE_TOKENS - 1) / PAGE_TOKENS); }

/* Random streams, section 2. */

#define GOLDEN 0x9E3779B97F4A7C15ull

enum { DRAW_EPISODE = 1, DRAW_PREFIX, DRAW_INITIAL, DRAW_ARRIVALS, DRAW_REQUEST };

static inline u64 mix(u64 z) {
	z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
	z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
	return z ^ (z >> 31);
}

static inline u64 stream_key(u64 seed, u32 env, u32 episode) {
	u64 k = mix(seed + GOLDEN);
	k = mix(k + ((u64)env + 1) * GOLDEN);
	return mix(k + ((u64)episode + 1) * GOLDEN);
}

static inline u64 draw(u64 key, u64 purpose, u64 step, u64 index) {
	return mix(key + (purpose << 56 | step << 24 | index) * GOLDEN);
}

static inline u32 field(u64 w, int lo, int n) { return (u32)(w >> lo) & ((1u << n) - 1); }
static inline u32 scale(u32 x, int n, u32 m) { return x * m >> n; }

/* Traffic, section 4. */

static const u8 prompt_pages[64] = {1, 2, 2, 2, 3, 3, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4, 5, 5, 5, 5, 5, 5, 5, 5, 6, 6, 6, 6, 6, 6,
	6, 7, 7, 7, 7, 7, 7, 8, 8, 8, 8, 8, 9, 9, 9, 9, 10, 10, 10, 11, 11, 11, 12, 12, 13, 14, 14, 15, 16, 18, 21, 24};
static const u8 output_tokens[64] = {8, 10, 12, 13, 14, 15, 16, 17, 17, 18, 19, 20, 20, 21, 22, 22, 23, 24, 24, 25, 26, 26, 27, 28, 28, 29,
	30, 31, 31, 32, 33, 34, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 49, 50, 52, 53, 55, 57, 59, 61, 64, 66, 69, 73,
	77, 82, 89, 96, 96, 96};

/* The leading entries that are <= u count; the eighth never is. */
enum { BURST = 4 };
static const i32 arrival_table[5][8] = {
	{33368, 55892, 63493, 65204, 65492, 65531, 65535, 65536}, /* low */
	{31741, 54753, 63095, 65110, 65476, 65529, 65535, 65536}, /* medium */
	{29447, 53005, 62428, 64941, 65444, 65524, 65535, 65536}, /* high */
	{39750, 59624, 64593, 65421, 65525, 65535, 65535, 65536}, /* bursty */
	{14262, 36012, 52596, 61026, 64240, 65220, 65469, 65536}, /* a bursty level's burst */
};
static const u8 tier_levels[3][2] = {{0, 1}, {1, 2}, {2, 3}};
static const u16 tier_permille[3][2] = {{900, 1000}, {750, 900}, {650, 800}};

static u8 type_table[256];
static const u8 eviction_percent[5] = {0, 25, 50, 90, 100};

static void fill_tables(void) {
	for (int b = 0; b < 256; b++) {
		type_table[b] = b < 56 ? CONTEXT : b < 166 ? GENERATION : b < 217 ? REASONING : EPHEMERAL;
	}
}

/* A request's parts, rule 4.5. */
static inline int request_type(u64 w) { return type_table[(u8)w]; }
static inline int request_prefix(u64 w) { return field(w, 10, 2) == 0 ? 0 : 1 + (int)field(w, 8, 2); }
static inline int request_pages(u64 w) { return prompt_pages[field(w, 12, 6)]; }
static inline int request_last_page(u64 w) { return 1 + (int)field(w, 18, 7); } /* tokens of a prompt's last page */
static inline int request_output(u64 w) { return output_tokens[field(w, 25, 6)]; }
static inline int request_priority(u64 w) { return (int)scale(field(w, 33, 7), 7, 101); }

/* The number of requests that arrive in a step, rules 4.7 and 4.8. */
static inline int count_arrivals(u64 key, int level, int step, int slots) {
	if (level == 3 && field(draw(key, DRAW_ARRIVALS, step, 255), 0, 16) < 19661) {
		level = BURST;
	}
	const i32 *table = arrival_table[level];
	int n = 0;
	for (int lane = 0; lane < slots / 16; lane += 4) {
		u64 w = draw(key, DRAW_ARRIVALS, step, lane / 4);
		for (int j = 0; j < min_int(4, slots / 16 - lane); j++, w >>= 16) {
			i32 u = (i32)(w & 65535);
			int k = (u >= table[0]) + (u >= table[1]) + (u >= table[2]); /* three without a branch, more are rare */
			while (k >= 3 && u >= table[k]) {
				k++;
			}
			n += k;
		}
	}
	return n;
}

static inline u64 request_word(u64 key, int step, int k) { return draw(key, DRAW_REQUEST, step, k) & ((1ull << 48) - 1); }

/* An episode's tier, rules 4.1 to 4.3: what the first draw w of an episode says. */
static inline int episode_tier(u64 w) {
	return config.difficulty == 3 ? (int)scale(field(w, 0, 16), 16, 3) : config.difficulty;
}

static inline int episode_budget(u64 w, int tier, u32 capacity) {
	u32 lo = tier_permille[tier][0], hi = tier_permille[tier][1];
	return (int)((u64)capacity * (lo + scale(field(w, 16, 16), 16, hi - lo + 1)) / 1000);
}

/* Score, section 9. */

static inline int risk_of_eviction(int type, int priority, u32 tokens, u32 target) {
	if (type == SYSTEM) {
		return 30;
	}
	if (type == CONTEXT) {
		return priority >= 50 ? 15 : 0;
	}
	return type == GENERATION && priority >= 70 && (u64)tokens * 10 >= (u64)target * 7 ? 20 : 0;
}

static inline int headroom_tenths(i64 used, i64 budget) {
	return used * 100 < budget * 80 ? 10 : used * 100 < budget * 95 ? 5 : used < budget ? 2 : -5;
}

/* min(a / b, 1) in units of 2^-24. */
static inline i64 share(u64 a, u64 b) {
	a = min_u64(a, b);
	return b < 1ull << 40 ? (i64)((a << 24) / b) : (i64)(((unsigned __int128)a << 24) / b);
}

static inline i64 floor_div(i64 a, i64 b) { return a / b - (a % b < 0); }

/* A server's times, rule 13.2. What does not change is computed once. */

enum { QP_TOKENS = 32 };

static struct {
	i64 step_us, prefill_us, link_qp;
	i64 quality[5];                  /* by QP of a page */
	i64 decode_base[MAX_SLOTS + 1];  /* nanoseconds, by running sequences */
	int rate;                        /* of the unconstrained server */
	int spans[64];                   /* steps that a turn takes there, by the index of its output */
} server;

static inline i64 at(const Knot *knots, int n, i64 tokens) {
	if (tokens <= knots[0].tokens) {
		return knots[0].ns;
	}
	int i = 1;
	while (i < n - 1 && tokens > knots[i].tokens) {
		i++;
	}
	const Knot *a = &knots[i - 1], *b = &knots[i];
	return a->ns + (tokens - a->tokens) * (b->ns - a->ns) / (b->tokens - a->tokens);
}

/* No sequence of synthetic traffic has the 2^25 tokens at which the rule caps. */
static inline u32 prefill_us(i64 m, i64 cached) {
	if (m == 0) {
		return 0;
	}
	u64 pairs = (u64)(m * cached + m * m / 2);
	i64 ns = at(config.preset.prefill, config.preset.prefill_knots, m) + (i64)(pairs / 1000) * config.preset.pair_ps +
		(i64)(pairs % 1000) * config.preset.pair_ps / 1000;
	return (u32)min_i64(1ll << 31, (ns + 999) / 1000);
}

static inline i64 attention_ns(i64 base, i64 context) {
	if (config.preset.curve_ns != 0) {
		context = min_i64(context, 1 << 20);
		base -= (config.preset.curve_ns * (context * context >> 20)) >> 20;
	}
	return max_i64(1000000, base + context * config.preset.ctx_ps / 1000);
}

static inline i64 decode_step_ns(int running, i64 context) { return attention_ns(server.decode_base[running], context); }
static inline i64 link_ns(i64 qp) { return qp * config.preset.link_ps * QP_TOKENS / 1000; }
static inline i64 compress_ns(i64 qp) { return qp * config.preset.compress_ps * QP_TOKENS / 1000; }

static void start_server(void) {
	const Preset *p = &config.preset;
	server.step_us = p->step_ms * 1000;
	server.prefill_us = server.step_us * p->prefill_permille / 1000;
	server.link_qp = max_i64(1, p->step_ms * 1000000000 / (p->link_ps * QP_TOKENS));
	server.quality[4] = p->quality[0];
	server.quality[2] = p->quality[1];
	server.quality[1] = p->quality[2];
	for (int n = 0; n <= MAX_SLOTS; n++) {
		server.decode_base[n] = at(p->decode, p->decode_knots, n);
	}
	i64 ns = p->step_ms * 1000000;
	if (!p->disaggregated) {
		ns -= ns * p->prefill_permille / 2000;
	}
	server.rate = (int)min_i64(65535, max_i64(1, ns / decode_step_ns(config.slots / 2, config.slots / 2 * 4096)));
	for (int k = 0; k < 64; k++) {
		server.spans[k] = (4 * output_tokens[k] + server.rate - 1) / server.rate;
	}
}

/* A request of the serving profile, rule 13.3. */
static inline int agent_prompt(u64 w) { return (2 * request_pages(w) - 1) * PAGE_TOKENS + request_last_page(w); }
static inline int agent_output(u64 w) { return 4 * request_output(w); }
static inline u32 request_ref(u64 w) {
	u32 ref = 1u << 31 | (u32)agent_output(w) << 4 | field(w, 40, 4);
	return request_type(w) == CONTEXT ? ref : 0;
}

#endif
