/* kvgym's C interface; docs/abi.md is its reference. Every call that can fail returns a code and, if err is given, writes a message of
   less than err_size bytes there, ended by a zero byte. */
#ifndef KVGYM_H
#define KVGYM_H

#include <stdint.h>

#define KVGYM_ABI 1

enum {
	KVGYM_OK = 0,
	KVGYM_REFUSED = 1, /* an argument is not allowed: the message names it */
	KVGYM_CLOSED = 2,  /* the handle is closed or was never opened */
	KVGYM_BUSY = 3,    /* another thread is in a call with the same handle */
	KVGYM_BROKEN = 4,  /* a step has panicked: close the handle */
	KVGYM_FORKED = 5,  /* this process is a fork of the one that loaded the library */
	KVGYM_INTERNAL = 6 /* a fault of kvgym: please report it */
};

/* Tensors, row-major, row i for environment i. One that is not asked for, or not given, is NULL. */
typedef struct {
	float *obs, *final_obs;           /* [envs][obs length], float32 observations */
	uint8_t *obs_u8, *final_obs_u8;   /* the same, uint8 observations */
	float *reward;                    /* [envs] */
	uint8_t *terminated, *truncated;  /* [envs] */
	uint8_t *mask;                    /* [envs][slots][4] */
	float *components;                /* [envs][11] */
	float *metrics;                   /* [envs][19] */
} kvgym_tensors;

#ifdef __cplusplus
extern "C" {
#endif

int32_t kvgym_abi(void);
void *kvgym_alloc(int64_t bytes); /* zeroed, on a cache line, on huge pages if it fills one; NULL if there is no memory */
void kvgym_free(void *memory);

/* n integers of 1, 2, 4 or 8 bytes to op bytes: what is none of 0 to 3 becomes 255, which a step counts as invalid. */
int32_t kvgym_narrow(const void *in, int64_t bytes, int64_t n, uint8_t *out);

int32_t kvgym_describe(const char *config, char *out, int64_t out_size, int64_t *needed, char *err, int64_t err_size);
int32_t kvgym_open(const char *config, const kvgym_tensors *tensors, int64_t *handle, char *err, int64_t err_size);
int32_t kvgym_close(int64_t handle, char *err, int64_t err_size);
int32_t kvgym_set_tensors(int64_t handle, const kvgym_tensors *tensors, char *err, int64_t err_size);
int32_t kvgym_reset(int64_t handle, const uint8_t *mask, const uint64_t *seeds, const kvgym_tensors *tensors, char *err, int64_t err_size);
int32_t kvgym_step(int64_t handle, const uint8_t *ops, const int32_t *list, int64_t per_env, const kvgym_tensors *tensors, char *err, int64_t err_size);
int32_t kvgym_send(int64_t handle, int64_t group, const uint8_t *ops, const int32_t *list, int64_t per_env, char *err, int64_t err_size);
int32_t kvgym_recv(int64_t handle, int64_t group, char *err, int64_t err_size);
int32_t kvgym_decide(int64_t handle, const char *policy, int32_t *list, char *err, int64_t err_size);
int32_t kvgym_identities(int64_t handle, uint64_t *seeds, uint32_t *envs, uint32_t *episodes, char *err, int64_t err_size);
int32_t kvgym_snapshot(int64_t handle, int64_t first, int64_t end, uint8_t *out, int64_t out_size, int64_t *needed, char *err, int64_t err_size);
int32_t kvgym_restore(int64_t handle, const uint8_t *snapshot, int64_t size, int64_t first, char *err, int64_t err_size);
int32_t kvgym_fork(int64_t handle, int64_t from, int64_t to_handle, int64_t to, char *err, int64_t err_size);

/* Episodes played by tool calls (docs/language-models.md). Each text that a call gives is a string of its own, to be given back with kvgym_free.
   Calls with one episode that meet wait for each other. */
int32_t kvgym_tools(char **tools, char *err, int64_t err_size);
int32_t kvgym_episode_open(const char *config, int64_t *episode, char *err, int64_t err_size);
int32_t kvgym_episode_close(int64_t episode, char *err, int64_t err_size);
int32_t kvgym_episode_prompts(int64_t episode, char **system, char **prompt, char *err, int64_t err_size);
int32_t kvgym_episode_call(int64_t episode, const char *name, const char *arguments, char **answer, char *err, int64_t err_size);
int32_t kvgym_episode_step(int64_t episode, char **message, int32_t *done, char *err, int64_t err_size);
int32_t kvgym_episode_result(int64_t episode, char **result, char *err, int64_t err_size);
int32_t kvgym_episode_suggest(int64_t episode, const char *policy, char **calls, char *err, int64_t err_size);

/* Words in shared memory (docs/shared-memory.md). There is no Go behind these two: they work in a fork, too.
   kvgym_wake publishes a value and wakes the other side if its word `sleeps` is not 0. kvgym_wait waits until a word is not `old` any more,
   spinning first, then asleep with its own word `sleeps` at 1; KVGYM_BUSY tells that timeout_ns have passed before. NULL is refused. */
int32_t kvgym_wake(uint32_t *word, uint32_t value, const uint32_t *sleeps);
int32_t kvgym_wait(const uint32_t *word, uint32_t old, uint32_t *sleeps, int64_t spin_ns, int64_t timeout_ns);

#ifdef __cplusplus
}
#endif
#endif
