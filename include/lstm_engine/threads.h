/* Threads that help with a run: asked for once, made at the first run that uses them, asleep in between.
 *
 * A pool serves one run at a time; a run that finds it busy goes on alone, at once. Nothing that a run
 * computes depends on how many threads took part. */
#ifndef LSTM_ENGINE_THREADS_H
#define LSTM_ENGINE_THREADS_H

#include <stddef.h>

#include "status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct le_threads le_threads;

/* Most threads of a pool, the caller's included. */
enum { LE_THREADS_MOST = 1024 };

/* A pool of `count` threads, the caller's own included. No thread is made yet. Any number of runs and models
 * may share it, from several threads at once.
 *
 * Safe across fork: a child begins without the pool's threads and makes new ones when it needs them.
 *
 * Returns LE_ERROR_ARGUMENT if count is 0 or above LE_THREADS_MOST, LE_ERROR_MEMORY. */
le_status le_threads_create(size_t count, le_threads **threads);

/* End the pool's threads and free it; NULL is allowed. No run may be using it. */
void le_threads_destroy(le_threads *threads);

/* Threads that the pool was made for. */
size_t le_threads_count(const le_threads *threads);

/* Threads of its own that the pool has now: 0 before the first run that used them. */
size_t le_threads_alive(const le_threads *threads);

#ifdef __cplusplus
}
#endif

#endif
