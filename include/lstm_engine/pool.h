/* A pool: the states of many streams of one chain, any of which advance together in one call.
 *
 * Streams have numbers that are never used again: a number holds the place of the stream's state and how
 * often that place was taken, so that the number of a closed stream cannot reach the one that has its place
 * now.
 *
 * A pool belongs to one thread at a time. After le_pool_create nothing is allocated. */
#ifndef LSTM_ENGINE_POOL_H
#define LSTM_ENGINE_POOL_H

#include <stddef.h>
#include <stdint.h>

#include "chain.h"
#include "status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Most streams of a pool: numbers then stay below 2^53, which every JSON reader holds exactly. */
#define LE_POOL_MOST ((size_t)1 << 22)

typedef struct le_pool le_pool;

/* Make a pool for `capacity` streams, 1 to LE_POOL_MOST. The chain must outlive it; NULL for a pool of
 * numbers and places without states. `first`, below 2^30, is the first part of the first numbers: pools with
 * different ones have different numbers. */
le_status le_pool_create(const le_chain *chain, size_t capacity, uint32_t first, le_pool **pool);

/* Free a pool; NULL is allowed. */
void le_pool_destroy(le_pool *pool);

/* Open a stream at the state zero, last used at `now`. Returns LE_ERROR_FULL if there is no place left. */
le_status le_pool_open(le_pool *pool, double now, int64_t *id);

/* Close a stream. Returns LE_ERROR_UNKNOWN_ID or LE_ERROR_CLOSED_ID. */
le_status le_pool_close(le_pool *pool, int64_t id);

/* Streams that are open. */
size_t le_pool_count(const le_pool *pool);

/* Number of the open stream at a place below the capacity; -1 if none is there. */
int64_t le_pool_id_at(const le_pool *pool, size_t place);

/* When the stream at a place was last used. */
double le_pool_last_used(const le_pool *pool, size_t place);

/* 1 if a stream is open. Unlike le_pool_find it changes nothing: it may be asked while another thread is in
 * le_pool_step. */
int le_pool_has(const le_pool *pool, int64_t id);

/* The state of a stream, le_chain_state_bytes; NULL if it is not open or the pool has no states. */
void *le_pool_state(const le_pool *pool, int64_t id);

/* Look up `count` streams, in any order: *places, of the pool's own memory, until the next call. On an error,
 * which is LE_ERROR_UNKNOWN_ID, LE_ERROR_CLOSED_ID or LE_ERROR_REPEATED_ID, *wrong is the first one that is
 * the reason; no more than capacity + 1 numbers are read. */
le_status le_pool_find(le_pool *pool, size_t count, const int64_t *ids, const uint32_t **places,
                       size_t *wrong);

/* Advance the streams that le_pool_find found last, `count` of them, each by as many steps as `steps` says
 * or, where that is NULL, by one. x has the steps of the first stream, then those of the second, ...: (sum of
 * steps, inputs); y likewise (sum of steps, outputs). They must not overlap. The same bits as advancing each
 * alone.
 *
 * `interrupted`, if not NULL, is called with `context` as that of le_run is: if it returns 1 the call stops
 * with LE_ERROR_INTERRUPTED. Some of the streams have then moved: le_pool_save before and le_pool_load after
 * undo it. */
le_status le_pool_step(le_pool *pool, size_t count, const int64_t *steps, const void *x, void *y,
                       int (*interrupted)(void *context), void *context);

/* Copy the states of the streams that le_pool_find found last out of the pool, or back: `count` times
 * le_chain_state_bytes. */
void le_pool_save(const le_pool *pool, size_t count, void *states);
void le_pool_load(le_pool *pool, size_t count, const void *states);

/* Mark the streams that le_pool_find found last as used at `now`. */
void le_pool_touch(le_pool *pool, size_t count, double now);

#ifdef __cplusplus
}
#endif

#endif
