/* kvgym-rival: kvgym's rules as a struct per environment in C, in two styles. Plain (plain_*.h) is what one writes from the
 * rules for PufferLib's ocean environments; tuned (seed.h, serving.h) is what a C author can make of that by hand. Both are
 * arrays of structs and loops over slots, without intrinsics, assembly or threads.
 *
 * What was tried for the tuned style, in nanoseconds an environment and step of the seed profile with 64 / 1,024 / 4,096
 * environments of 64 slots (Zen 4, gcc 12, fastest of many runs; in brackets the profile, if it is the other):
 *
 *   kept      memory, counts and prefix members kept up to date instead of summed, loops over live slots
 *             only, a switch over the phases                                                     740   766   972
 *   kept      fields of a slot in the order and unit of the observation, as bytes that a loop over 16
 *             multiplies by constants: the compiler makes vectors of it (it did not of separate
 *             assignments); the quotients of the globals likewise                                510   540   770
 *   rejected  generation without branches, all conditions computed for every slot: more
 *             instructions cost what the mispredictions had cost                                 506   549   900
 *   kept      each slot knows the step in which something else than plain generation is due: a
 *             short loop without branches lists the few slots at which it is                     421   476   800
 *   kept      loops end at the highest live slot; slots at the struct's start, 32 bytes each     397   457   720
 *   kept      prefetch of the next environment                                                   400   448   560
 *   kept      rows of empty slots cleared one by one: one large memset becomes "rep stos", which is
 *             slow where the tensor is not in the cache (1,122 to 939 at 4,096 in serving)       405   445   490
 *   rejected  division only where tokens were generated (a branch)                               460   505     -
 *   rejected  prefetch of the tensor's next row                                                  421   471   620
 *   no effect hotness and age stored as one word; no division at all; functions not inlined; a fit test that
 *             remembers the room left; tickets moved only if needed; prefetch up to the highest live slot only
 *   kept      arrivals counted by three comparisons and a rare loop: 20 cycles instead of 37 by a vector of eight
 *   rejected  [serving] at a reset, lives of an unconstrained server without branches: 680 instead of 645 at 64
 *   no effect [serving] the reset's requests listed first, in one loop instead of one a step
 *
 * What could be skipped because a caller leaves the tensor alone, such as rows that were empty before, is written: kvgym's
 * callers may write into it between steps. */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "shared.h"

/* One profile at one number of slots. */
typedef struct {
	size_t env_size;
	void (*start)(void *envs, int i, u32 env, u32 episode);
	u32 (*episode)(const void *envs, int i);
	void (*step)(void *envs, const u8 *ops); /* NULL keeps everything */
} Rules;

#define N(x) x##_64
#define CAP 64
#define SLOTS 64
#include "plain_seed.h"
#include "plain_serving.h"
#include "seed.h"
#include "serving.h"
#undef N
#undef CAP
#undef SLOTS

#define N(x) x##_any
#define CAP MAX_SLOTS
#define SLOTS config.slots
#include "plain_seed.h"
#include "plain_serving.h"
#include "seed.h"
#include "serving.h"
#undef N
#undef CAP
#undef SLOTS

static const Rules *rules;
static void *envs, *start_state;
static u8 *ops;

static void answer(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void answer(const char *format, ...) {
	va_list args;
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
	fflush(stdout);
}

/* A NULL result means success, else it is the error. */
static const char *failure(const char *format, ...) __attribute__((format(printf, 1, 2)));
static const char *failure(const char *format, ...) {
	static char text[512];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	return text;
}

static void *allocate(size_t size) {
	void *p = NULL;
	size = (size + 63) / 64 * 64;
	if (posix_memalign(&p, 64, size) != 0) {
		fprintf(stderr, "kvgym-rival: no memory for %zu bytes\n", size);
		exit(1);
	}
	memset(p, 0, size);
	return p;
}

static const char *read_ops(const char *path) {
	size_t size = (size_t)config.cycle * config.envs * config.slots;
	FILE *f = fopen(path, "rb");
	if (f == NULL) {
		return failure("ops: %s: %s", path, strerror(errno));
	}
	ops = allocate(size);
	size_t n = fread(ops, 1, size, f);
	int more = fgetc(f) != EOF;
	fclose(f);
	if (n != size || more) {
		return failure("ops: %s: %s than %zu bytes", path, more ? "more" : "less", size);
	}
	return NULL;
}

static const char *read_integer(const char *name, const char *text, i64 lo, i64 hi, i64 *out) {
	char *end;
	errno = 0;
	long long v = strtoll(text, &end, 10);
	if (errno != 0 || end == text || *end != 0 || v < lo || v > hi) {
		return failure("%s=%.40s: allowed %" PRId64 " to %" PRId64, name, text, lo, hi);
	}
	*out = v;
	return NULL;
}

/* Reads what WritePreset of the Go side has written: a line a field, its name and its numbers. */
static const char *read_preset(const char *path, Preset *p) {
	struct {
		const char *name;
		i64 *values;
		int most, count;
	} fields[] = {{"capacity_tokens", &p->capacity_tokens, 1, 0}, {"step_ms", &p->step_ms, 1, 0}, {"prefill_permille", &p->prefill_permille, 1, 0},
		{"disaggregated", &p->disaggregated, 1, 0}, {"pair_ps", &p->pair_ps, 1, 0}, {"ctx_ps", &p->ctx_ps, 1, 0}, {"curve_ns", &p->curve_ns, 1, 0},
		{"link_ps", &p->link_ps, 1, 0}, {"host_permille", &p->host_permille, 1, 0}, {"compress_ps", &p->compress_ps, 1, 0},
		{"quality_permille", p->quality, 3, 0}, {"prefill", &p->prefill[0].tokens, 2 * MAX_KNOTS, 0}, {"decode", &p->decode[0].tokens, 2 * MAX_KNOTS, 0}};
	enum { FIELDS = sizeof fields / sizeof *fields, PREFILL_FIELD = FIELDS - 2, DECODE_FIELD };
	FILE *f = fopen(path, "r");
	if (f == NULL) {
		return failure("preset: %s: %s", path, strerror(errno));
	}
	const char *err = NULL;
	char *line = NULL;
	size_t room = 0;
	while (err == NULL && getline(&line, &room, f) > 0) {
		char *name = strtok(line, " \n");
		for (int k = 0; name != NULL && k < FIELDS; k++) {
			if (strcmp(name, fields[k].name) == 0) {
				for (char *text = strtok(NULL, " \n"); text != NULL && err == NULL; text = strtok(NULL, " \n")) {
					err = fields[k].count == fields[k].most ? failure("preset: %s: %s: more than %d numbers", path, fields[k].name, fields[k].most)
						: read_integer(fields[k].name, text, 0, INT64_MAX, &fields[k].values[fields[k].count++]);
				}
			}
		}
	}
	free(line);
	fclose(f);
	for (int k = 0; k < FIELDS && err == NULL; k++) {
		bool knots = k >= PREFILL_FIELD;
		if (knots ? fields[k].count < 4 || fields[k].count % 2 != 0 : fields[k].count != fields[k].most) {
			err = failure("preset: %s: %s: %d numbers", path, fields[k].name, fields[k].count);
		}
	}
	p->prefill_knots = fields[PREFILL_FIELD].count / 2;
	p->decode_knots = fields[DECODE_FIELD].count / 2;
	if (err == NULL && (p->link_ps == 0 || p->step_ms == 0)) {
		err = failure("preset: %s: link_ps and step_ms must not be 0", path);
	}
	return err;
}

static const char *init(char *line) {
	const char *ops_path = NULL, *preset_path = NULL, *err = NULL;
	i64 tuned = 0, serving = -1, difficulty = -1, envs_n = 0, slots = 64, steps = 15, max_wait = 5, cycle = 1, warm = 0, first_env = 0;
	struct {
		const char *name;
		i64 *value, lo, hi;
	} integers[] = {{"envs", &envs_n, 1, 1 << 20}, {"slots", &slots, 16, MAX_SLOTS}, {"steps", &steps, 1, 4096}, {"max_wait", &max_wait, 1, 4096},
		{"cycle", &cycle, 1, 4096}, {"warm", &warm, 0, 4095}, {"first_env", &first_env, 0, UINT32_MAX}};
	if (rules != NULL) {
		return "init: once is enough";
	}
	for (char *word = strtok(line, " "); word != NULL; word = strtok(NULL, " ")) {
		char *value = strchr(word, '=');
		if (value == NULL) {
			return failure("init: %.60s: not name=value", word);
		}
		*value++ = 0;
		bool known = false;
		for (size_t k = 0; k < sizeof integers / sizeof *integers; k++) {
			if (strcmp(word, integers[k].name) == 0) {
				known = true;
				if ((err = read_integer(word, value, integers[k].lo, integers[k].hi, integers[k].value)) != NULL) {
					return err;
				}
			}
		}
		if (strcmp(word, "seed") == 0) {
			char *end;
			errno = 0;
			config.seed = strtoull(value, &end, 10);
			if (errno != 0 || end == value || *end != 0) {
				return failure("seed=%.40s: allowed 0 to 2^64-1", value);
			}
		} else if (strcmp(word, "profile") == 0) {
			serving = strcmp(value, "seed") == 0 ? 0 : strcmp(value, "serving") == 0 ? 1 : -1;
		} else if (strcmp(word, "style") == 0) {
			tuned = strcmp(value, "plain") == 0 ? 0 : strcmp(value, "tuned") == 0 ? 1 : -1;
		} else if (strcmp(word, "difficulty") == 0) {
			static const char *names[] = {"easy", "medium", "hard", "all"};
			for (int k = 0; k < 4; k++) {
				difficulty = strcmp(value, names[k]) == 0 ? k : difficulty;
			}
		} else if (strcmp(word, "ops") == 0) {
			ops_path = value;
		} else if (strcmp(word, "preset") == 0) {
			preset_path = value;
		} else if (!known) {
			return failure("init: %.60s: unknown", word);
		}
	}
	if (tuned < 0) {
		return "init: style: allowed plain, tuned";
	}
	if (serving < 0) {
		return "init: profile: allowed seed, serving";
	}
	if (difficulty < 0) {
		return "init: difficulty: allowed easy, medium, hard, all";
	}
	if (envs_n < 1) {
		return "init: envs: missing";
	}
	if (slots % 16 != 0) {
		return failure("slots=%d: allowed multiples of 16", (int)slots);
	}
	if (warm >= cycle) {
		return failure("warm=%d: allowed less than cycle, %d", (int)warm, (int)cycle);
	}
	if (ops_path == NULL) {
		return "init: ops: missing";
	}
	config = (Config){.serving = serving, .envs = envs_n, .slots = slots, .steps = steps, .max_wait = max_wait, .cycle = cycle, .warm = warm,
		.difficulty = difficulty, .seed = config.seed, .first_env = first_env};
	config.token_norm = max_int(1, 500 * steps / 15);
	fill_tables();
	if (serving) {
		if (preset_path == NULL) {
			return "init: preset: missing";
		}
		if ((err = read_preset(preset_path, &config.preset)) != NULL) {
			return err;
		}
		start_server();
	}
	if ((err = read_ops(ops_path)) != NULL) {
		return err;
	}
	const Rules *choice[2][2][2] = {{{&plain_seed_rules_any, &plain_seed_rules_64}, {&plain_serving_rules_any, &plain_serving_rules_64}},
		{{&seed_rules_any, &seed_rules_64}, {&serving_rules_any, &serving_rules_64}}};
	rules = choice[tuned][serving][slots == 64];
	envs = allocate(envs_n * rules->env_size);
	start_state = allocate(envs_n * rules->env_size);
	observations = allocate(sizeof(float) * (envs_n * (GLOBALS + FEATURES * slots) + 4));
	rewards = allocate(sizeof(float) * envs_n);
	terminated = allocate(envs_n);
	truncated = allocate(envs_n);
	return NULL;
}

/* Sixteenths of the environments at different steps of their episodes. */
static void stagger(void) {
	for (int i = 0; i < config.envs; i++) {
		rules->start(envs, i, config.first_env + i, 0);
	}
	for (int k = 0; k < 16; k++) {
		for (int i = k; i < config.envs; i += 16) {
			rules->start(envs, i, config.first_env + i, rules->episode(envs, i) + 1);
		}
		rules->step(envs, NULL);
	}
	memcpy(start_state, envs, config.envs * rules->env_size);
}

static void rewind_state(void) { memcpy(envs, start_state, config.envs * rules->env_size); }

static void step(int k) { rules->step(envs, ops + (size_t)k * config.envs * config.slots); }

static u64 hash_bytes(u64 h, const u8 *p, size_t n) {
	for (size_t i = 0; i < n; i++) {
		h = (h ^ p[i]) * 1099511628211u;
	}
	return h;
}

static u64 hash_floats(u64 h, const float *p, size_t n) {
	for (size_t i = 0; i < n; i++) {
		u32 bits;
		memcpy(&bits, p + i, sizeof bits);
		h = (h ^ bits) * 1099511628211u;
	}
	return h;
}

static u64 digest(void) {
	u64 h = 14695981039346656037u;
	rewind_state();
	for (int k = 0; k < config.cycle; k++) {
		step(k);
		h = hash_floats(h, observations, (size_t)config.envs * (GLOBALS + FEATURES * config.slots));
		h = hash_floats(h, rewards, config.envs);
		h = hash_bytes(h, terminated, config.envs);
		h = hash_bytes(h, truncated, config.envs);
	}
	return h;
}

static i64 now_ns(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (i64)t.tv_sec * 1000000000 + t.tv_nsec;
}

static i64 run(i64 rounds) {
	i64 total = 0;
	for (i64 r = 0; r < rounds; r++) {
		rewind_state();
		for (int k = 0; k < config.warm; k++) {
			step(k);
		}
		i64 begin = now_ns();
		for (int k = config.warm; k < config.cycle; k++) {
			step(k);
		}
		total += now_ns() - begin;
	}
	return total;
}

/* For finding a difference: the outputs of one environment after so many steps from the start state. */
static void dump(int steps, int env) {
	rewind_state();
	for (int k = 0; k < steps; k++) {
		step(k);
	}
	int n = GLOBALS + FEATURES * config.slots;
	printf("dump %.9g %d %d", rewards[env], terminated[env], truncated[env]);
	for (int k = 0; k < n; k++) {
		printf(" %.9g", observations[(size_t)env * n + k]);
	}
	answer("%s", "");
}

int main(void) {
	char *line = NULL;
	size_t room = 0;
	bool staggered = false;
	while (getline(&line, &room, stdin) > 0) {
		line[strcspn(line, "\r\n")] = 0;
		char *rest = line + strcspn(line, " ");
		rest += *rest == ' ' ? (*rest = 0, 1) : 0;
		const char *err = NULL;
		i64 n = 0, env = 0;
		if (strcmp(line, "quit") == 0) {
			break;
		} else if (strcmp(line, "init") == 0) {
			if ((err = init(rest)) == NULL) {
				answer("ok");
			}
		} else if (rules == NULL) {
			err = failure("%.60s: no init yet", line);
		} else if (strcmp(line, "stagger") == 0) {
			stagger();
			staggered = true;
			answer("ok");
		} else if (!staggered) {
			err = failure("%.60s: no stagger yet", line);
		} else if (strcmp(line, "digest") == 0) {
			answer("digest %016" PRIx64, digest());
		} else if (strcmp(line, "run") == 0) {
			if ((err = read_integer("rounds", rest, 1, 1000000000, &n)) == NULL) {
				answer("ns %" PRId64, run(n));
			}
		} else if (strcmp(line, "dump") == 0) {
			char *second = rest + strcspn(rest, " ");
			second += *second == ' ' ? (*second = 0, 1) : 0;
			if ((err = read_integer("step", rest, 0, config.cycle, &n)) == NULL && (err = read_integer("env", second, 0, config.envs - 1, &env)) == NULL) {
				dump((int)n, (int)env);
			}
		} else {
			err = failure("%.60s: unknown command: allowed init, stagger, digest, run, dump, quit", line);
		}
		if (err != NULL) {
			answer("error %s", err);
		}
	}
	free(line);
	return 0;
}
