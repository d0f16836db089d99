#define _DEFAULT_SOURCE /* madvise */
#include "memory.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

le_status le_multiply(size_t a, size_t b, size_t *product) {
    if (b != 0 && a > SIZE_MAX / b) {
        return LE_ERROR_SIZE;
    }
    *product = a * b;
    return LE_OK;
}

le_status le_add(size_t a, size_t b, size_t *sum) {
    if (a > SIZE_MAX - b) {
        return LE_ERROR_SIZE;
    }
    *sum = a + b;
    return LE_OK;
}

void *le_allocate(size_t count, size_t element_bytes) {
    size_t bytes;
    if (le_multiply(count, element_bytes, &bytes) != LE_OK || bytes > PTRDIFF_MAX - LE_ALIGNMENT) {
        return NULL;
    }
    bytes = le_round_up(bytes == 0 ? 1 : bytes, LE_ALIGNMENT);
    const size_t alignment = bytes < LE_HUGE_PAGE ? (size_t)LE_ALIGNMENT : (size_t)LE_HUGE_PAGE;
    void *pointer = NULL;
    if (posix_memalign(&pointer, alignment, bytes) != 0) {
        return NULL;
    }
#if defined(MADV_HUGEPAGE)
    if (bytes >= LE_HUGE_PAGE) {
        /* Before the first write, which is what takes the pages. Only a wish: without huge pages all is as
         * right. */
        (void)madvise(pointer, bytes, MADV_HUGEPAGE);
    }
#endif
    memset(pointer, 0, bytes);
    return pointer;
}

void le_free(void *pointer) {
    free(pointer);
}

void *le_arena_take(le_arena *arena, size_t count, size_t element_bytes) {
    size_t bytes;
    if (le_multiply(count, element_bytes, &bytes) != LE_OK || bytes > PTRDIFF_MAX - LE_ALIGNMENT ||
        le_add(arena->used, le_round_up(bytes, LE_ALIGNMENT), &bytes) != LE_OK) {
        arena->overflow = 1;
        return NULL;
    }
    void *taken = arena->base == NULL ? NULL : arena->base + arena->used;
    arena->used = bytes;
    return taken;
}
