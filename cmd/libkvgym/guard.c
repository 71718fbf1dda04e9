/* The C side of the interface. A fork of a process has no running Go: a call into it would hang for ever. So every function asks here
   first, before any Go. */
#define _GNU_SOURCE
#pragma GCC optimize("O3")
#include "kvgym.h"
#include "_cgo_export.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

static volatile int forked;

static void in_child(void) { forked = 1; }

__attribute__((constructor)) static void watch_forks(void) { pthread_atfork(NULL, NULL, in_child); }

static int32_t refuse(char *err, int64_t err_size)
{
	static const char text[] = "this process is a fork of the one that loaded kvgym, and Go cannot run in it: start processes with "
		"spawn or forkserver instead of fork, or load kvgym in the child only";
	if (err != NULL && err_size > 0) {
		strncpy(err, text, (size_t)err_size - 1);
		err[err_size - 1] = 0;
	}
	return KVGYM_FORKED;
}

#define PUBLIC __attribute__((visibility("default")))
#define GUARDED(call) return forked ? refuse(err, err_size) : (call)

PUBLIC int32_t kvgym_abi(void) { return KVGYM_ABI; }

PUBLIC void *kvgym_alloc(int64_t bytes)
{
	const size_t huge = 2 << 20;
	void *p = NULL;
	if (bytes <= 0) return NULL;
	size_t n = ((size_t)bytes + 63) & ~(size_t)63;
	size_t align = n >= huge ? huge : 64;
	n = (n + align - 1) & ~(align - 1);
	if (posix_memalign(&p, align, n) != 0) return NULL;
#ifdef MADV_HUGEPAGE
	if (align == huge) madvise(p, n, MADV_HUGEPAGE);
#endif
	memset(p, 0, n);
	return p;
}

PUBLIC void kvgym_free(void *memory) { free(memory); }

#define NARROW(type) \
	for (int64_t i = 0; i < n; i++) { \
		type x = ((const type *)in)[i]; \
		out[i] = x <= 3 ? (uint8_t)x : 255; \
	}

PUBLIC int32_t kvgym_narrow(const void *in, int64_t bytes, int64_t n, uint8_t *out)
{
	if (n <= 0) return n == 0 ? KVGYM_OK : KVGYM_REFUSED;
	if (in == NULL || out == NULL) return KVGYM_REFUSED;
	switch (bytes) { /* as unsigned ones: negative values are large */
	case 1: NARROW(uint8_t) return KVGYM_OK;
	case 2: NARROW(uint16_t) return KVGYM_OK;
	case 4: NARROW(uint32_t) return KVGYM_OK;
	case 8: NARROW(uint64_t) return KVGYM_OK;
	}
	return KVGYM_REFUSED;
}

PUBLIC int32_t kvgym_describe(const char *config, char *out, int64_t out_size, int64_t *needed, char *err, int64_t err_size)
{
	GUARDED(goDescribe((char *)config, out, out_size, needed, err, err_size));
}

PUBLIC int32_t kvgym_open(const char *config, const kvgym_tensors *tensors, int64_t *handle, char *err, int64_t err_size)
{
	GUARDED(goOpen((char *)config, (kvgym_tensors *)tensors, handle, err, err_size));
}

PUBLIC int32_t kvgym_close(int64_t handle, char *err, int64_t err_size) { GUARDED(goClose(handle, err, err_size)); }

PUBLIC int32_t kvgym_set_tensors(int64_t handle, const kvgym_tensors *tensors, char *err, int64_t err_size)
{
	GUARDED(goSetTensors(handle, (kvgym_tensors *)tensors, err, err_size));
}

PUBLIC int32_t kvgym_reset(int64_t handle, const uint8_t *mask, const uint64_t *seeds, const kvgym_tensors *tensors, char *err, int64_t err_size)
{
	GUARDED(goReset(handle, (uint8_t *)mask, (uint64_t *)seeds, (kvgym_tensors *)tensors, err, err_size));
}

PUBLIC int32_t kvgym_step(int64_t handle, const uint8_t *ops, const int32_t *list, int64_t per_env, const kvgym_tensors *tensors, char *err, int64_t err_size)
{
	GUARDED(goStep(handle, (uint8_t *)ops, (int32_t *)list, per_env, (kvgym_tensors *)tensors, err, err_size));
}

PUBLIC int32_t kvgym_send(int64_t handle, int64_t group, const uint8_t *ops, const int32_t *list, int64_t per_env, char *err, int64_t err_size)
{
	GUARDED(goSend(handle, group, (uint8_t *)ops, (int32_t *)list, per_env, err, err_size));
}

PUBLIC int32_t kvgym_recv(int64_t handle, int64_t group, char *err, int64_t err_size) { GUARDED(goRecv(handle, group, err, err_size)); }

PUBLIC int32_t kvgym_decide(int64_t handle, const char *policy, int32_t *list, char *err, int64_t err_size)
{
	GUARDED(goDecide(handle, (char *)policy, list, err, err_size));
}

PUBLIC int32_t kvgym_identities(int64_t handle, uint64_t *seeds, uint32_t *envs, uint32_t *episodes, char *err, int64_t err_size)
{
	GUARDED(goIdentities(handle, seeds, envs, episodes, err, err_size));
}

PUBLIC int32_t kvgym_snapshot(int64_t handle, int64_t first, int64_t end, uint8_t *out, int64_t out_size, int64_t *needed, char *err,
	int64_t err_size)
{
	GUARDED(goSnapshot(handle, first, end, out, out_size, needed, err, err_size));
}

PUBLIC int32_t kvgym_restore(int64_t handle, const uint8_t *snapshot, int64_t size, int64_t first, char *err, int64_t err_size)
{
	GUARDED(goRestore(handle, (uint8_t *)snapshot, size, first, err, err_size));
}

PUBLIC int32_t kvgym_fork(int64_t handle, int64_t from, int64_t to_handle, int64_t to, char *err, int64_t err_size)
{
	GUARDED(goFork(handle, from, to_handle, to, err, err_size));
}

PUBLIC int32_t kvgym_tools(char **tools, char *err, int64_t err_size) { GUARDED(goTools(tools, err, err_size)); }

PUBLIC int32_t kvgym_episode_open(const char *config, int64_t *episode, char *err, int64_t err_size)
{
	GUARDED(goEpisodeOpen((char *)config, episode, err, err_size));
}

PUBLIC int32_t kvgym_episode_close(int64_t episode, char *err, int64_t err_size) { GUARDED(goEpisodeClose(episode, err, err_size)); }

PUBLIC int32_t kvgym_episode_prompts(int64_t episode, char **system, char **prompt, char *err, int64_t err_size)
{
	GUARDED(goEpisodePrompts(episode, system, prompt, err, err_size));
}

PUBLIC int32_t kvgym_episode_call(int64_t episode, const char *name, const char *arguments, char **answer, char *err, int64_t err_size)
{
	GUARDED(goEpisodeCall(episode, (char *)name, (char *)arguments, answer, err, err_size));
}

PUBLIC int32_t kvgym_episode_step(int64_t episode, char **message, int32_t *done, char *err, int64_t err_size)
{
	GUARDED(goEpisodeStep(episode, message, done, err, err_size));
}

PUBLIC int32_t kvgym_episode_result(int64_t episode, char **result, char *err, int64_t err_size)
{
	GUARDED(goEpisodeResult(episode, result, err, err_size));
}

PUBLIC int32_t kvgym_episode_suggest(int64_t episode, const char *policy, char **calls, char *err, int64_t err_size)
{
	GUARDED(goEpisodeSuggest(episode, (char *)policy, calls, err, err_size));
}

/* Waiting in shared memory. The futex is not private: the other side is another process. */

static int64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

static void nap(const uint32_t *word, uint32_t old, int64_t ns)
{
	struct timespec t = {ns / 1000000000, ns % 1000000000};
#ifdef __linux__
	syscall(SYS_futex, word, FUTEX_WAIT, old, &t, NULL, 0);
#else
	(void)word, (void)old;
	if (t.tv_sec > 0 || t.tv_nsec > 50000) t = (struct timespec){0, 50000};
	nanosleep(&t, NULL);
#endif
}

PUBLIC int32_t kvgym_wake(uint32_t *word, uint32_t value, const uint32_t *sleeps)
{
	if (word == NULL || sleeps == NULL) return KVGYM_REFUSED;
	__atomic_store_n(word, value, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(sleeps, __ATOMIC_SEQ_CST) == 0) return KVGYM_OK;
#ifdef __linux__
	syscall(SYS_futex, word, FUTEX_WAKE, 1 << 30, NULL, NULL, 0);
#endif
	return KVGYM_OK;
}

PUBLIC int32_t kvgym_wait(const uint32_t *word, uint32_t old, uint32_t *sleeps, int64_t spin_ns, int64_t timeout_ns)
{
	if (word == NULL || sleeps == NULL) return KVGYM_REFUSED;
	int64_t start = now_ns();
	if (spin_ns > 0)
		do {
			for (int i = 0; i < 32; i++, relax())
				if (__atomic_load_n(word, __ATOMIC_ACQUIRE) != old) return KVGYM_OK;
		} while (now_ns() - start < spin_ns);
	for (;;) {
		__atomic_store_n(sleeps, 1, __ATOMIC_SEQ_CST); /* before the look: whoever changes the word after it sees the flag */
		int changed = __atomic_load_n(word, __ATOMIC_SEQ_CST) != old;
		int64_t left = timeout_ns - (now_ns() - start);
		if (changed || left <= 0) {
			__atomic_store_n(sleeps, 0, __ATOMIC_SEQ_CST);
			return changed ? KVGYM_OK : KVGYM_BUSY;
		}
		nap(word, old, left);
	}
}
