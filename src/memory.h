/* Checked sizes and aligned memory: the one place where sizes are multiplied. */
#ifndef LE_MEMORY_H
#define LE_MEMORY_H

#include <stddef.h>

#include "lstm_engine/status.h"

/* One cache line, and one AVX-512 vector. */
enum { LE_ALIGNMENT = 64 };

/* Memory of this size and more begins at a multiple of it and asks Linux for pages of it. The panels of one
 * step are more small pages than a core keeps addresses of, and hardware prefetchers stop at the end of a
 * page (3 to 10% at H = 512 and H = 1024). */
enum { LE_HUGE_PAGE = 2 * 1024 * 1024 };

/* *product = a * b, or LE_ERROR_SIZE if it does not fit. */
le_status le_multiply(size_t a, size_t b, size_t *product);

/* *sum = a + b, or LE_ERROR_SIZE if it does not fit. */
le_status le_add(size_t a, size_t b, size_t *sum);

/* `value` rounded up to a multiple of `step`; the caller has checked that it fits. */
static inline size_t le_round_up(size_t value, size_t step) {
    return (value + step - 1) / step * step;
}

/* Smaller and larger of two sizes. */
static inline size_t le_min_size(size_t a, size_t b) {
    return a < b ? a : b;
}
static inline size_t le_max_size(size_t a, size_t b) {
    return a > b ? a : b;
}

/* Zeroed memory for count elements of element_bytes, aligned to LE_ALIGNMENT at least; NULL on overflow or
 * want of memory. A count of 0 gives a valid pointer. */
void *le_allocate(size_t count, size_t element_bytes);
void le_free(void *pointer);

/* A region laid out piece by piece: first with base NULL to learn its size, then over real memory. */
typedef struct le_arena {
    char *base;   /* NULL while measuring */
    size_t used;  /* bytes */
    int overflow; /* a size did not fit: the measure is not valid */
} le_arena;

/* Take count * element_bytes bytes, aligned. Returns NULL while measuring. */
void *le_arena_take(le_arena *arena, size_t count, size_t element_bytes);

#endif
