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
