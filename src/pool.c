/* Pools: numbers of streams, the places of their states in one slab, and steps of any of them together. */
#include "lstm_engine/pool.h"

#include <string.h>

#include "chain.h"
#include "watch.h"

/* A number is `generation << PLACE_BITS | place`. */
enum { PLACE_BITS = 22 };
static const uint32_t LAST_GENERATION = 0x7fffffff;

struct le_pool {
    const le_chain *chain; /* NULL: without states */
    size_t capacity;
    uint32_t first; /* no stream here has a generation up to this */
    size_t open;
    uint32_t *generations; /* [capacity]: of the stream that is, or will next be, at the place */
    uint8_t *is_open;      /* [capacity] */
    double *last_used;     /* [capacity] */
    uint32_t *marks;       /* [capacity]: the call of le_pool_find that met the place last */
    uint32_t call;
    uint32_t *free; /* [capacity]: places in a ring, the one that was free for longest taken first */
    size_t free_first;
    size_t free_count;
    uint32_t *found;     /* [capacity] */
    char *states;        /* [capacity][state_bytes] */
    const void **x_rows; /* [LE_CHAIN_ROWS], and so the next three: the streams that advance now */
    void **state_rows;
    void **y_rows;
    int64_t *left; /* steps */
    le_chain_space space;
    void *memory;
};

static le_status lay_out(le_pool *pool, le_arena *arena) {
    const size_t capacity = pool->capacity;
    pool->generations = le_arena_take(arena, capacity, sizeof *pool->generations);
    pool->is_open = le_arena_take(arena, capacity, 1);
    pool->last_used = le_arena_take(arena, capacity, sizeof *pool->last_used);
    pool->marks = le_arena_take(arena, capacity, sizeof *pool->marks);
    pool->free = le_arena_take(arena, capacity, sizeof *pool->free);
    pool->found = le_arena_take(arena, capacity, sizeof *pool->found);
    if (pool->chain == NULL) {
        return arena->overflow ? LE_ERROR_SIZE : LE_OK;
    }
    pool->states = le_arena_take(arena, capacity, pool->chain->state_bytes);
    pool->x_rows = le_arena_take(arena, LE_CHAIN_ROWS, sizeof *pool->x_rows);
    pool->state_rows = le_arena_take(arena, LE_CHAIN_ROWS, sizeof *pool->state_rows);
    pool->y_rows = le_arena_take(arena, LE_CHAIN_ROWS, sizeof *pool->y_rows);
    pool->left = le_arena_take(arena, LE_CHAIN_ROWS, sizeof *pool->left);
    return le_chain_lay_out(pool->chain, arena, &pool->space);
}

le_status le_pool_create(const le_chain *chain, size_t capacity, uint32_t first, le_pool **result) {
    if (result == NULL || capacity == 0 || capacity > LE_POOL_MOST || first >= (uint32_t)1 << 30) {
        return LE_ERROR_ARGUMENT;
    }
    le_pool *pool = le_allocate(1, sizeof *pool);
    if (pool == NULL) {
        return LE_ERROR_MEMORY;
    }
    pool->chain = chain;
    pool->capacity = capacity;
    pool->first = first;
    le_arena arena = {NULL, 0, 0};
    for (int pass = 0; pass < 2; pass++) {
        le_status status = lay_out(pool, &arena);
        if (status == LE_OK && pass == 0) {
            pool->memory = le_allocate(arena.used, 1);
            status = pool->memory == NULL ? LE_ERROR_MEMORY : LE_OK;
            arena = (le_arena){pool->memory, 0, 0};
        }
        if (status != LE_OK) {
            le_pool_destroy(pool);
            return status;
        }
    }
    for (size_t place = 0; place < capacity; place++) {
        pool->generations[place] = first + 1;
        pool->free[place] = (uint32_t)place;
    }
    pool->free_count = capacity;
    *result = pool;
    return LE_OK;
}

void le_pool_destroy(le_pool *pool) {
    if (pool != NULL) {
        le_free(pool->memory);
        le_free(pool);
    }
}

/* The place of an open stream. */
static le_status place_of(const le_pool *pool, int64_t id, size_t *place) {
    if (id < 0) {
        return LE_ERROR_UNKNOWN_ID;
    }
    *place = (size_t)(id & (((int64_t)1 << PLACE_BITS) - 1));
    const int64_t generation = id >> PLACE_BITS;
    if (*place >= pool->capacity || generation <= pool->first || generation > pool->generations[*place]) {
        return LE_ERROR_UNKNOWN_ID;
    }
    if (generation == pool->generations[*place]) {
        return pool->is_open[*place] ? LE_OK : LE_ERROR_UNKNOWN_ID;
    }
    return LE_ERROR_CLOSED_ID;
}

le_status le_pool_open(le_pool *pool, double now, int64_t *id) {
    if (pool->free_count == 0) {
        return LE_ERROR_FULL;
    }
    const size_t place = pool->free[pool->free_first];
    pool->free_first = (pool->free_first + 1) % pool->capacity;
    pool->free_count--;
    pool->is_open[place] = 1;
    pool->open++;
    pool->last_used[place] = now;
    if (pool->chain != NULL) {
        memset(pool->states + place * pool->chain->state_bytes, 0, pool->chain->state_bytes);
    }
    *id = (int64_t)pool->generations[place] << PLACE_BITS | (int64_t)place;
    return LE_OK;
}

le_status le_pool_close(le_pool *pool, int64_t id) {
    size_t place;
    const le_status status = place_of(pool, id, &place);
    if (status != LE_OK) {
        return status;
    }
    pool->is_open[place] = 0;
    pool->open--;
    if (pool->generations[place]++ == LAST_GENERATION) {
        return LE_OK; /* No number is left for the place: it is given up rather than one used twice. */
    }
    pool->free[(pool->free_first + pool->free_count) % pool->capacity] = (uint32_t)place;
    pool->free_count++;
    return LE_OK;
}

size_t le_pool_count(const le_pool *pool) {
    return pool->open;
}

int64_t le_pool_id_at(const le_pool *pool, size_t place) {
    return pool->is_open[place] ? (int64_t)pool->generations[place] << PLACE_BITS | (int64_t)place : -1;
}

double le_pool_last_used(const le_pool *pool, size_t place) {
    return pool->last_used[place];
}

int le_pool_has(const le_pool *pool, int64_t id) {
    size_t place;
    return place_of(pool, id, &place) == LE_OK;
}

void *le_pool_state(const le_pool *pool, int64_t id) {
    size_t place;
    if (pool->chain == NULL || place_of(pool, id, &place) != LE_OK) {
        return NULL;
    }
    return pool->states + place * pool->chain->state_bytes;
}

le_status le_pool_find(le_pool *pool, size_t count, const int64_t *ids, const uint32_t **places,
                       size_t *wrong) {
    if (++pool->call == 0) {
        memset(pool->marks, 0, pool->capacity * sizeof *pool->marks);
        pool->call = 1;
    }
    for (size_t index = 0; index < count; index++) {
        size_t place;
        le_status status = place_of(pool, ids[index], &place);
        if (status == LE_OK && pool->marks[place] == pool->call) {
            status = LE_ERROR_REPEATED_ID;
        }
        if (status != LE_OK) {
            *wrong = index;
            return status;
        }
        pool->marks[place] = pool->call;
        pool->found[index] = (uint32_t)place;
    }
    *places = pool->found;
    return LE_OK;
}

void le_pool_touch(le_pool *pool, size_t count, double now) {
    for (size_t index = 0; index < count; index++) {
        pool->last_used[pool->found[index]] = now;
    }
}

/* Ask memory for the states of the streams from number `first` on. */
static void ask_for_states(const le_pool *pool, size_t first, size_t last) {
    const size_t bytes = pool->chain->state_bytes;
    for (size_t index = first; index < last; index++) {
        const char *state = pool->states + pool->found[index] * bytes;
        for (size_t offset = 0; offset < bytes; offset += LE_ALIGNMENT) {
            __builtin_prefetch(state + offset, 1, 2);
        }
    }
}

le_status le_pool_step(le_pool *pool, size_t count, const int64_t *steps, const void *x, void *y,
                       int (*interrupted)(void *context), void *context) {
    const le_chain *chain = pool->chain;
    const le_run asked_by = {.interrupted = interrupted, .interrupted_context = context};
    le_watch watch;
    le_watch_begin(&watch, &asked_by, 0, chain->operations * LE_CHAIN_ROWS);
    const size_t x_bytes = chain->input_size * chain->element_bytes;
    const size_t y_bytes = chain->output_size * chain->element_bytes;
    const char *next_x = x;
    char *next_y = y;
    size_t next = 0, active = 0, asked = 0;
    /* As soon as a stream has had its steps the next one takes its row, so that rows are full to the end. */
    while (next < count || active != 0) {
        if (le_watch_stopped(&watch)) {
            return LE_ERROR_INTERRUPTED;
        }
        for (; active < LE_CHAIN_ROWS && next < count; next++) {
            const int64_t wanted = steps == NULL ? 1 : steps[next];
            if (wanted <= 0) {
                continue;
            }
            pool->x_rows[active] = next_x;
            pool->state_rows[active] = pool->states + pool->found[next] * chain->state_bytes;
            pool->y_rows[active] = next_y;
            pool->left[active] = wanted;
            next_x += (size_t)wanted * x_bytes;
            next_y += (size_t)wanted * y_bytes;
            active++;
        }
        if (active == 0) {
            break;
        }
        /* Behind the first ones, the states of those that come next are on their way while these advance. */
        const size_t last = le_min_size(next + LE_CHAIN_ROWS, count);
        ask_for_states(pool, le_max_size(asked, next), last);
        asked = last;
        le_chain_run(chain, 0, chain->units_count, active, pool->x_rows, NULL, pool->state_rows, pool->y_rows,
                     &pool->space);
        size_t kept = 0;
        for (size_t row = 0; row < active; row++) {
            if (--pool->left[row] == 0) {
                continue;
            }
            pool->x_rows[kept] = (const char *)pool->x_rows[row] + x_bytes;
            pool->state_rows[kept] = pool->state_rows[row];
            pool->y_rows[kept] = (char *)pool->y_rows[row] + y_bytes;
            pool->left[kept] = pool->left[row];
            kept++;
        }
        active = kept;
    }
    return LE_OK;
}

void le_pool_save(const le_pool *pool, size_t count, void *states) {
    const size_t bytes = pool->chain->state_bytes;
    for (size_t index = 0; index < count; index++) {
        memcpy((char *)states + index * bytes, pool->states + pool->found[index] * bytes, bytes);
    }
}

void le_pool_load(le_pool *pool, size_t count, const void *states) {
    const size_t bytes = pool->chain->state_bytes;
    for (size_t index = 0; index < count; index++) {
        memcpy(pool->states + pool->found[index] * bytes, (const char *)states + index * bytes, bytes);
    }
}
