/* Sliding windows: the windows in flight in a ring of `length` slots, one of which begins with each sample.
 */
#include "lstm_engine/window.h"

#include <string.h>

#include "chain.h"
#include "float_state.h"

/* Windows in flight from which the next answer is rehearsed: a step more is little beside theirs, and they
 * have been through more memory than a core keeps near. */
enum { REHEARSED_LENGTH = 64 };

struct le_window {
    const le_chain *chain;
    size_t length;
    size_t batch;
    size_t samples; /* up to length */
    size_t newest;  /* slot of the window that begins with the last sample */
    int pending;    /* whether that sample is still to be taken by the windows in flight */
    int projects;   /* whether the first recurrent unit takes projected inputs */
    size_t gates;   /* accumulators of a projected row */
    char *states;   /* [length][batch] blocks */
    char *inputs;   /* [batch][input of the first recurrent unit]: the last sample, if it is not projected */
    float *projected;    /* [batch][gates] */
    char *sink;          /* [LE_CHAIN_ROWS][width]: outputs that nobody looks at */
    char *last;          /* [batch][width]: outputs of the last recurrent unit that the units behind it get */
    char *sample;        /* [batch][input]: what is pending */
    char *rehearsed;     /* [up to LE_CHAIN_ROWS] blocks: a state that nobody needs */
    const void **x_rows; /* [LE_CHAIN_ROWS], and so the next three */
    const float **projected_rows;
    void **state_rows;
    void **y_rows;
    le_chain_space space;
    void *memory;
};

/* Bytes of the rows that the recurrent units get: the input itself where nothing comes before them. */
static size_t input_bytes(const le_chain *chain) {
    return chain->first_recurrent < chain->units_count
               ? chain->units[chain->first_recurrent].input_size * chain->element_bytes
               : chain->output_size * chain->element_bytes;
}

static le_status lay_out(le_window *window, le_arena *arena) {
    const le_chain *chain = window->chain;
    size_t rows, row_bytes;
    if (le_multiply(window->length, window->batch, &rows) != LE_OK ||
        le_multiply(chain->width, chain->element_bytes, &row_bytes) != LE_OK) {
        return LE_ERROR_SIZE;
    }
    window->states = le_arena_take(arena, rows, chain->state_bytes);
    window->inputs = le_arena_take(arena, window->batch, input_bytes(chain));
    size_t gates_bytes;
    if (le_multiply(window->gates, sizeof(float), &gates_bytes) != LE_OK) {
        return LE_ERROR_SIZE;
    }
    window->projected = le_arena_take(arena, window->batch, gates_bytes);
    window->sink = le_arena_take(arena, LE_CHAIN_ROWS, row_bytes);
    window->last = le_arena_take(arena, window->batch, row_bytes);
    window->sample = le_arena_take(arena, window->batch, chain->input_size * chain->element_bytes);
    window->rehearsed = le_arena_take(arena, le_min_size(LE_CHAIN_ROWS, window->batch), chain->state_bytes);
    window->x_rows = le_arena_take(arena, LE_CHAIN_ROWS, sizeof *window->x_rows);
    window->projected_rows = le_arena_take(arena, LE_CHAIN_ROWS, sizeof *window->projected_rows);
    window->state_rows = le_arena_take(arena, LE_CHAIN_ROWS, sizeof *window->state_rows);
    window->y_rows = le_arena_take(arena, LE_CHAIN_ROWS, sizeof *window->y_rows);
    return le_chain_lay_out(chain, arena, &window->space);
}

le_status le_window_create(const le_chain *chain, size_t length, size_t batch, le_window **result) {
    if (chain == NULL || result == NULL || length == 0 || batch == 0) {
        return LE_ERROR_ARGUMENT;
    }
    le_window *window = le_allocate(1, sizeof *window);
    if (window == NULL) {
        return LE_ERROR_MEMORY;
    }
    window->chain = chain;
    window->length = length;
    window->batch = batch;
    if (chain->first_recurrent < chain->units_count &&
        chain->units[chain->first_recurrent].kind == LE_UNIT_CELL) {
        window->projects = 1;
        window->gates = 4 * chain->units[chain->first_recurrent].cell->padded_hidden;
    }
    le_arena arena = {NULL, 0, 0};
    for (int pass = 0; pass < 2; pass++) {
        le_status status = lay_out(window, &arena);
        if (status == LE_OK && pass == 0) {
            window->memory = le_allocate(arena.used, 1);
            status = window->memory == NULL ? LE_ERROR_MEMORY : LE_OK;
            arena = (le_arena){window->memory, 0, 0};
        }
        if (status != LE_OK) {
            le_window_destroy(window);
            return status;
        }
    }
    le_window_reset(window);
    *result = window;
    return LE_OK;
}

void le_window_destroy(le_window *window) {
    if (window != NULL) {
        le_free(window->memory);
        le_free(window);
    }
}

void le_window_reset(le_window *window) {
    window->samples = 0;
    window->newest = window->length - 1;
    window->pending = 0;
}

size_t le_window_samples(const le_window *window) {
    return window->samples;
}

static char *state_of(const le_window *window, size_t slot, size_t row) {
    return window->states + (slot * window->batch + row) * window->chain->state_bytes;
}

/* Slot of the window that the last sample completed. */
static size_t oldest_of(const le_window *window) {
    return (window->newest + 1) % window->length;
}

/* What the windows need of the sample: the units before the first recurrent one, and its projection. */
static void take_sample(le_window *window, const char *x) {
    const le_chain *chain = window->chain;
    const size_t x_bytes = chain->input_size * chain->element_bytes, bytes = input_bytes(chain);
    const size_t before = chain->first_recurrent;
    for (size_t first = 0, rows; first < window->batch; first += rows) {
        rows = le_min_size(LE_CHAIN_ROWS, window->batch - first);
        for (size_t row = 0; row < rows; row++) {
            window->x_rows[row] = x + (first + row) * x_bytes;
            window->y_rows[row] = window->inputs + (first + row) * bytes;
        }
        if (before != 0) {
            le_chain_run(chain, 0, before, rows, window->x_rows, NULL, NULL, window->y_rows, &window->space);
        } else if (!window->projects) {
            memcpy(window->y_rows[0], window->x_rows[0], rows * bytes);
        }
        if (window->projects) {
            const le_unit *unit = &chain->units[before];
            const void *const *given = before != 0 ? (const void *const *)window->y_rows : window->x_rows;
            const le_float_state before_state = le_float_state_enter();
            le_cell_project(unit->kernels, unit->cell, rows, (const float *const *)given,
                            window->projected + first * window->gates, window->gates,
                            &window->space.narrow[unit->stage]);
            le_narrow_end(&window->space.narrow[unit->stage]);
            le_float_state_leave(before_state);
        }
    }
}

/* All windows in flight take a sample; those that end with it give their answers where `y` is not NULL, and
 * are left out where it is. */
static void advance(le_window *window, const char *x, char *y) {
    const le_chain *chain = window->chain;
    const size_t y_bytes = chain->output_size * chain->element_bytes;
    const size_t width_bytes = chain->width * chain->element_bytes, bytes = input_bytes(chain);
    const size_t head = chain->end_recurrent;
    take_sample(window, x);
    if (chain->first_recurrent == chain->units_count) {
        if (y != NULL) {
            memcpy(y, window->inputs, window->batch * y_bytes);
        }
        return;
    }
    const size_t oldest = oldest_of(window), full = window->samples == window->length;
    const size_t windows = window->samples - (full && y == NULL);
    size_t left = windows * window->batch, active = 0;
    size_t slot = (window->newest + window->length - windows + 1) % window->length;
    /* Runs of one size: a last one of a few rows would read all weights for them. */
    size_t runs = (left + LE_CHAIN_ROWS - 1) / LE_CHAIN_ROWS;
    size_t rows = runs == 0 ? 0 : (left + runs - 1) / runs;
    for (size_t count = 0; count < windows; count++, slot = (slot + 1) % window->length) {
        const int answers = y != NULL && full && slot == oldest;
        for (size_t row = 0; row < window->batch; row++) {
            window->x_rows[active] = window->inputs + row * bytes;
            window->projected_rows[active] = window->projected + row * window->gates;
            window->state_rows[active] = state_of(window, slot, row);
            window->y_rows[active] = !answers                    ? window->sink + active * width_bytes
                                     : head < chain->units_count ? window->last + row * width_bytes
                                                                 : y + row * y_bytes;
            active++;
            left--;
            if (active == rows) {
                le_chain_run(chain, chain->first_recurrent, head, active, window->x_rows,
                             window->projects ? window->projected_rows : NULL, window->state_rows,
                             window->y_rows, &window->space);
                runs--;
                rows = runs == 0 ? 0 : (left + runs - 1) / runs;
                active = 0;
            }
        }
    }
    for (size_t first = 0; y != NULL && full && head < chain->units_count && first < window->batch;
         first += rows) {
        rows = le_min_size(LE_CHAIN_ROWS, window->batch - first);
        for (size_t row = 0; row < rows; row++) {
            window->x_rows[row] = window->last + (first + row) * width_bytes;
            window->y_rows[row] = y + (first + row) * y_bytes;
        }
        le_chain_run(chain, head, chain->units_count, rows, window->x_rows, NULL, NULL, window->y_rows,
                     &window->space);
    }
}

/* The last step of the windows that end with a sample, alone. The sample is not projected before, for one
 * pass over the weights of one row is quicker than two; what the others need is done when they advance. */
static void answer(le_window *window, char *y) {
    const le_chain *chain = window->chain;
    const size_t x_bytes = chain->input_size * chain->element_bytes;
    const size_t y_bytes = chain->output_size * chain->element_bytes;
    for (size_t first = 0, rows; first < window->batch; first += rows) {
        rows = le_min_size(LE_CHAIN_ROWS, window->batch - first);
        for (size_t row = 0; row < rows; row++) {
            window->x_rows[row] = window->sample + (first + row) * x_bytes;
            window->state_rows[row] = state_of(window, oldest_of(window), first + row);
            window->y_rows[row] = y + (first + row) * y_bytes;
        }
        le_chain_run(chain, 0, chain->units_count, rows, window->x_rows, NULL, window->state_rows,
                     window->y_rows, &window->space);
    }
}

/* Run a step as the next answer will, on a state that nobody needs. After many other windows the weights, the
 * code and the state of the oldest have left the nearest caches, and the answer would have to wait for them.
 */
static void rehearse(le_window *window) {
    const le_chain *chain = window->chain;
    const size_t rows = le_min_size(LE_CHAIN_ROWS, window->batch);
    memset(window->rehearsed, 0, rows * chain->state_bytes);
    for (size_t row = 0; row < rows; row++) {
        window->x_rows[row] = window->sample + row * chain->input_size * chain->element_bytes;
        window->state_rows[row] = window->rehearsed + row * chain->state_bytes;
        window->y_rows[row] = window->last + row * chain->width * chain->element_bytes;
    }
    le_chain_run(chain, 0, chain->units_count, rows, window->x_rows, NULL, window->state_rows, window->y_rows,
                 &window->space);
    const size_t next = (oldest_of(window) + 1) % window->length;
    for (size_t byte = 0; byte < rows * chain->state_bytes; byte += LE_ALIGNMENT) {
        __builtin_prefetch(state_of(window, next, 0) + byte, 1);
    }
}

/* Let the windows in flight take a sample that is pending. */
static int catch_up(le_window *window) {
    const int pending = window->pending;
    if (pending) {
        window->pending = 0;
        advance(window, window->sample, NULL);
    }
    return pending;
}

int le_window_push(le_window *window, const void *x, void *y, int defer) {
    const le_chain *chain = window->chain;
    (void)catch_up(window);
    window->newest = oldest_of(window);
    memset(state_of(window, window->newest, 0), 0, window->batch * chain->state_bytes);
    window->samples += window->samples < window->length;
    const int full = window->samples == window->length;
    if (!defer) {
        advance(window, x, full ? y : NULL);
        return full;
    }
    memcpy(window->sample, x, window->batch * chain->input_size * chain->element_bytes);
    window->pending = 1;
    if (full) {
        answer(window, y);
    }
    return full;
}

void le_window_settle(le_window *window) {
    if (catch_up(window) && window->length >= REHEARSED_LENGTH && window->samples + 1 >= window->length) {
        rehearse(window);
    }
}
