/* A sliding window: at every sample what a chain gives for the last `length` samples, from a zero state.
 *
 * Not by running the window again: the windows that the samples to come will complete are kept in flight,
 * each one step further with every sample. When a sample arrives, the oldest of them lacks one step, which is
 * the answer; the others advance as one batch when the caller has time. The input projection of a sample is
 * computed once for all of them.
 *
 * A window belongs to one thread at a time. After le_window_create nothing is allocated. */
#ifndef LSTM_ENGINE_WINDOW_H
#define LSTM_ENGINE_WINDOW_H

#include <stddef.h>

#include "chain.h"
#include "status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct le_window le_window;

/* Make a window over the last `length` samples for `batch` rows that are fed together, both at least 1. The
 * chain must outlive it. */
le_status le_window_create(const le_chain *chain, size_t length, size_t batch, le_window **window);

/* Free a window; NULL is allowed. */
void le_window_destroy(le_window *window);

/* Forget all samples. */
void le_window_reset(le_window *window);

/* Samples that the window holds, up to its length. */
size_t le_window_samples(const le_window *window);

/* Take the next sample, x (batch, inputs). Returns 1, and the answers in y (batch, outputs), once there are
 * `length` samples; 0 before. x is read before y is written, so they may overlap.
 *
 * With `defer` only the windows that end with this sample take it, which is one step of each row; the others
 * do in le_window_settle, or at the beginning of the next call. Without, all do, as one batch. The bits are
 * the same. */
int le_window_push(le_window *window, const void *x, void *y, int defer);

/* Let the windows that are still in flight take the last sample; nothing if they have. Made for the time
 * between two samples, it ends with bringing near what the next answer needs, if they are many. */
void le_window_settle(le_window *window);

#ifdef __cplusplus
}
#endif

#endif
