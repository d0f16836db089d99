#include "narrow.h"

#include <math.h>
#include <string.h>

/* Panels of one step beyond this many bytes come from the last-level cache, which gives more when more places
 * are read at the same time. */
enum { WIDE_BYTES = 1024 * 1024 };

/* ---- packing ---- */

/* Upper half of a float32, rounded to nearest, ties to even. A NaN stays one. */
static uint32_t bfloat16_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (value != value) {
        return (bits >> 16) | 0x40;
    }
    return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
}

/* Where gate `gate` of unit `unit` lies in arrays [blocks][4][V]. */
static size_t place_of(size_t lanes, size_t gate, size_t unit) {
    return unit / lanes * 4 * lanes + gate * lanes + unit % lanes;
}

/* Scale of one column of a kernel, by the rules of kernels/narrow.h. */
static float column_scale(const float *column, size_t rows, size_t stride) {
    float largest = 0.0f;
    for (size_t row = 0; row < rows; row++) {
        const float magnitude = fabsf(column[row * stride]);
        if (!(magnitude <= 3.402823466e38f)) {
            return magnitude - magnitude;
        }
        largest = magnitude > largest ? magnitude : largest;
    }
    return largest < LE_NARROW_SMALLEST ? 0.0f : largest / LE_NARROW_LEVELS;
}

/* Where a word of a unit and gate lies in a panel: [words / together][4][together][V]. */
static size_t word_at(const le_narrow_kernels *kernels, size_t word, size_t gate, size_t unit) {
    const size_t together = kernels->words_together, lanes = kernels->lanes;
    return word / together * together * 4 * lanes + (gate * together + word % together) * lanes +
           unit % lanes;
}

/* One column, of one unit and gate, in bfloat16; `panel` is where its segment begins in the unit's block. */
static void pack_bfloat16(const le_narrow_kernels *kernels, const float *column, size_t rows,
                          size_t column_stride, size_t gate, size_t unit, int32_t *panel) {
    for (size_t row = 0; row < rows; row++) {
        uint32_t bits;
        int32_t *target = panel + word_at(kernels, row / 2, gate, unit);
        memcpy(&bits, target, sizeof bits);
        bits |= bfloat16_of(column[row * column_stride]) << (row % 2 * 16);
        memcpy(target, &bits, sizeof bits);
    }
}

/* One column in int8; returns the first value of its sums. */
static int32_t pack_int8(const le_narrow_kernels *kernels, const float *column, size_t rows,
                         size_t column_stride, float scale, size_t gate, size_t unit, int32_t *panel) {
    int64_t sum = 0;
    for (size_t row = 0; row < rows && scale > 0.0f; row++) {
        const int8_t stored = (int8_t)lrintf(column[row * column_stride] / scale);
        unsigned char *bytes = (unsigned char *)(panel + word_at(kernels, row / 4, gate, unit));
        memcpy(bytes + kernels->places[row % 4], &stored, 1);
        sum += stored;
    }
    return (int32_t)(uint32_t)(uint64_t)(-sum * kernels->offset);
}

le_status le_narrow_pack(const le_lstm *lstm, const le_cell_spec *spec, le_cell *cell, size_t *bytes) {
    const le_narrow_kernels *kernels = lstm->narrow;
    const int quantized = lstm->compute_type != LE_BFLOAT16;
    const size_t lanes = kernels->lanes;
    const size_t gates = 4 * cell->hidden_size;
    const size_t rows[2] = {lstm->compute_type == LE_INT8_RECURRENT ? 0 : cell->input_size,
                            cell->output_size};
    const float *const sources[2] = {spec->kernel, spec->recurrent_kernel};
    if (quantized && (rows[0] > LE_NARROW_MOST_VALUES || rows[1] > LE_NARROW_MOST_VALUES)) {
        return LE_ERROR_SIZE;
    }
    le_narrow *narrow = le_allocate(1, sizeof *narrow);
    cell->narrow = narrow;
    if (narrow == NULL) {
        return LE_ERROR_MEMORY;
    }
    narrow->kernels = kernels;
    for (int segment = 0; segment < 2; segment++) {
        narrow->words[segment] =
            le_round_up((rows[segment] + kernels->per_word - 1) / kernels->per_word, kernels->words_step);
    }
    narrow->panel_words = (narrow->words[0] + narrow->words[1]) * 4 * lanes;
    const size_t words = cell->blocks * narrow->panel_words;
    const size_t columns = quantized ? 4 * cell->padded_hidden : 0;
    narrow->panels = le_allocate(words, sizeof(int32_t));
    *bytes = sizeof *narrow + words * sizeof(int32_t) + 2 * columns * (sizeof(float) + sizeof(int32_t));
    for (int segment = 0; segment < 2; segment++) {
        narrow->scales[segment] = le_allocate(columns, sizeof(float));
        narrow->start[segment] = le_allocate(columns, sizeof(int32_t));
        if (narrow->panels == NULL || narrow->scales[segment] == NULL || narrow->start[segment] == NULL) {
            return LE_ERROR_MEMORY;
        }
        for (size_t column = 0; column < gates; column++) {
            const size_t gate = column / cell->hidden_size;
            const size_t unit = column % cell->hidden_size;
            int32_t *panel = narrow->panels + unit / lanes * narrow->panel_words +
                             (segment == 0 ? 0 : narrow->words[0]) * 4 * lanes;
            const float *source = sources[segment] + column;
            if (quantized) {
                const size_t place = place_of(lanes, gate, unit);
                const float scale = column_scale(source, rows[segment], gates);
                narrow->scales[segment][place] = scale;
                narrow->start[segment][place] =
                    pack_int8(kernels, source, rows[segment], gates, scale, gate, unit, panel);
            } else {
                pack_bfloat16(kernels, source, rows[segment], gates, gate, unit, panel);
            }
        }
    }
    return LE_OK;
}

void le_narrow_release(le_narrow *narrow) {
    if (narrow != NULL) {
        le_free(narrow->panels);
        for (int segment = 0; segment < 2; segment++) {
            le_free(narrow->scales[segment]);
            le_free(narrow->start[segment]);
        }
        le_free(narrow);
    }
}

/* ---- running ---- */

void le_narrow_take(le_arena *arena, const le_lstm *lstm, size_t rows, le_narrow_space *space) {
    memset(space, 0, sizeof *space);
    if (lstm->narrow == NULL) {
        return;
    }
    /* Kernels may read whole heights of rows, whose results they drop. */
    rows = le_round_up(le_min_size(rows, LE_NARROW_ROWS), lstm->narrow->rows_step);
    const size_t counts[2] = {le_max_size(lstm->input_size, lstm->directions * lstm->output_size),
                              lstm->output_size};
    for (int segment = 0; segment < 2; segment++) {
        /* Whole vectors are written, and a cache line between two rows keeps them from sharing sets of a
         * cache. */
        space->strides[segment] =
            le_round_up(counts[segment], 64) * lstm->narrow->word_bytes / lstm->narrow->per_word +
            LE_ALIGNMENT;
        space->values[segment] = le_arena_take(arena, rows, space->strides[segment]);
        space->scales[segment] = le_arena_take(arena, rows, sizeof(float));
    }
    const int projects = lstm->compute_type == LE_INT8_RECURRENT && lstm->layers * lstm->directions != 0;
    const size_t gates = 4 * le_round_up(lstm->hidden_size, lstm->kernels->lanes);
    space->projected = le_arena_take(arena, projects ? rows * gates : 0, sizeof(float));
    space->init = le_arena_take(arena, rows, sizeof *space->init);
}

static void make_ready(const le_narrow_kernels *kernels, size_t rows, le_narrow_space *space) {
    const size_t height = le_min_size(rows, kernels->rows_step);
    if (kernels->begin != NULL && space->ready != height && kernels->begin(rows)) {
        space->kernels = kernels;
        space->ready = height;
    }
}

static void convert(const le_narrow_kernels *kernels, size_t rows, const float *const *source, size_t count,
                    int segment, const le_narrow_space *space) {
    for (size_t row = 0; row < rows; row++) {
        space->scales[segment][row] =
            kernels->convert(source[row], count, space->values[segment] + row * space->strides[segment]);
    }
}

/* Move a tile to the rows from `row` on. */
static inline void go_to_row(le_narrow_tile *t, const le_narrow_space *space, size_t row) {
    for (int segment = 0; segment < 2; segment++) {
        t->values[segment] = space->values[segment] + row * space->strides[segment];
        t->row_scales[segment] = space->scales[segment] + row;
    }
}

/* And to the blocks from `block` on. */
static inline void go_to_block(le_narrow_tile *t, const le_narrow *narrow, size_t block) {
    const size_t block_gates = 4 * narrow->kernels->lanes;
    /* Without W the panel begins with R. */
    t->panel = narrow->panels + block * narrow->panel_words +
               (t->words[0] == 0 ? narrow->words[0] * block_gates : 0);
    for (int segment = 0; segment < 2; segment++) {
        t->unit_scales[segment] = narrow->scales[segment] + block * block_gates;
        t->start[segment] = narrow->start[segment] + block * block_gates;
    }
}

/* A tile for the first blocks and the first rows of a step; where it takes its first values from and puts its
 * results is still to be said. It is made once and then moved: made anew for each call of a kernel, which
 * loads what has just been stored in other widths, it cost 4 to 14% of a step of one row. */
static le_narrow_tile first_tile(const le_cell *cell, const size_t words[2], size_t step_rows,
                                 const le_narrow_space *space) {
    const le_narrow *narrow = cell->narrow;
    le_narrow_tile t = {.block_stride = narrow->panel_words, .step_rows = step_rows};
    go_to_row(&t, space, 0);
    for (int segment = 0; segment < 2; segment++) {
        t.words[segment] = words[segment];
        t.strides[segment] = space->strides[segment];
    }
    return t;
}

/* One row: some blocks at a time, in either order. */
static void step_row(const le_kernels *kernels, const le_cell *cell, const le_cell_rows *step,
                     const float *const *init, const size_t words[2], const le_narrow_space *space) {
    _Alignas(64) float gates[4 * 4 * 16];
    const le_narrow_kernels *narrow = cell->narrow->kernels;
    const size_t block_gates = 4 * narrow->lanes;
    const size_t bytes = (words[0] + words[1]) * 4 * cell->padded_hidden * sizeof(int32_t);
    const size_t most = bytes > WIDE_BYTES ? narrow->blocks_most : le_min_size(2, narrow->blocks_most);
    const size_t groups = (cell->blocks + most - 1) / most;
    const float *first;
    le_narrow_tile t = first_tile(cell, words, 1, space);
    t.init = &first;
    t.out = gates;
    for (size_t count = 0; count < groups; count++) {
        const size_t group = step->backward ? groups - 1 - count : count;
        const size_t last = le_min_size((group + 1) * most, cell->blocks);
        size_t taken;
        for (size_t block = group * most; block < last; block += taken) {
            for (taken = most; taken > last - block;) {
                taken /= 2;
            }
            first = init[0] + block * block_gates;
            go_to_block(&t, cell->narrow, block);
            narrow->tile(&t, 1, taken);
            kernels->cell_finish(cell, block, taken, 1, gates, step->c, step->h_next);
        }
    }
}

/* Several rows: blocks outermost, so that a block's panel stays in cache while all rows pass over it. */
static void step_rows(const le_kernels *kernels, const le_cell *cell, const le_cell_rows *step,
                      const float *const *init, const size_t words[2], const le_narrow_space *space) {
    _Alignas(64) float gates[LE_NARROW_TILE_ROWS * 4 * 16];
    const float *first[LE_NARROW_TILE_ROWS];
    const le_narrow_kernels *narrow = cell->narrow->kernels;
    const size_t block_gates = 4 * narrow->lanes;
    const size_t tiles = (step->rows + narrow->rows_most - 1) / narrow->rows_most;
    le_narrow_tile t = first_tile(cell, words, step->rows, space);
    t.init = first;
    t.out = gates;
    t.out_stride = block_gates;
    for (size_t count = 0; count < cell->blocks; count++) {
        const size_t block = step->backward ? cell->blocks - 1 - count : count;
        size_t rows;
        go_to_block(&t, cell->narrow, block);
        /* Tiles of even height: a last one of a row or two would load every word for few products. */
        for (size_t done = 0, left = tiles; left != 0; done += rows, left--) {
            rows = le_round_up((step->rows - done + left - 1) / left, narrow->rows_step);
            rows = le_min_size(rows, step->rows - done);
            for (size_t row = 0; row < rows; row++) {
                first[row] = init[done + row] + block * block_gates;
            }
            go_to_row(&t, space, done);
            narrow->tile(&t, rows, 1);
            kernels->cell_finish(cell, block, 1, rows, gates, step->c + done, step->h_next + done);
        }
    }
}

static void narrow_step(const le_kernels *kernels, const le_cell *cell, const le_cell_rows *step,
                        le_narrow_space *space) {
    const le_narrow *narrow = cell->narrow;
    const int projects = step->projected == NULL && narrow->words[0] == 0 && cell->input_size != 0;
    const size_t words[2] = {step->projected == NULL ? narrow->words[0] : 0, narrow->words[1]};
    if (words[0] != 0) {
        convert(narrow->kernels, step->rows, step->x, cell->input_size, 0, space);
    }
    convert(narrow->kernels, step->rows, step->h, cell->output_size, 1, space);
    if (projects) {
        kernels->cell_project(cell, step->rows, step->x, space->projected, 4 * cell->padded_hidden);
    }
    const float *const *init = step->projected;
    if (init == NULL) {
        for (size_t row = 0; row < step->rows; row++) {
            space->init[row] = projects ? space->projected + row * 4 * cell->padded_hidden : cell->bias;
        }
        init = space->init;
    }
    make_ready(narrow->kernels, step->rows, space);
    if (step->rows == 1) {
        step_row(kernels, cell, step, init, words, space);
    } else {
        step_rows(kernels, cell, step, init, words, space);
    }
}

void le_cell_step(const le_kernels *kernels, const le_cell *cell, const le_cell_rows *step,
                  le_narrow_space *space) {
    if (cell->narrow == NULL) {
        kernels->cell_step(cell, step);
        return;
    }
    for (size_t done = 0; done < step->rows; done += LE_NARROW_ROWS) {
        const le_cell_rows part = {
            .rows = le_min_size(LE_NARROW_ROWS, step->rows - done),
            .x = step->x == NULL ? NULL : step->x + done,
            .projected = step->projected == NULL ? NULL : step->projected + done,
            .h = step->h + done,
            .c = step->c + done,
            .h_next = step->h_next + done,
            .backward = step->backward,
        };
        narrow_step(kernels, cell, &part, space);
    }
}

static void narrow_project(const le_cell *cell, size_t rows, const float *const *x, float *out,
                           size_t out_stride, le_narrow_space *space) {
    const float *first[LE_NARROW_TILE_ROWS];
    const le_narrow_kernels *narrow = cell->narrow->kernels;
    const size_t words[2] = {cell->narrow->words[0], 0};
    const size_t block_gates = 4 * narrow->lanes;
    convert(narrow, rows, x, cell->input_size, 0, space);
    make_ready(narrow, rows, space);
    le_narrow_tile t = first_tile(cell, words, rows, space);
    t.init = first;
    t.out_stride = out_stride;
    for (size_t block = 0; block < cell->blocks; block++) {
        go_to_block(&t, cell->narrow, block);
        for (size_t row = 0; row < narrow->rows_most; row++) {
            first[row] = cell->bias + block * block_gates;
        }
        for (size_t done = 0; done < rows; done += narrow->rows_most) {
            go_to_row(&t, space, done);
            t.out = out + done * out_stride + block * block_gates;
            narrow->tile(&t, le_min_size(narrow->rows_most, rows - done), 1);
        }
    }
}

void le_cell_project(const le_kernels *kernels, const le_cell *cell, size_t rows, const float *const *x,
                     float *out, size_t out_stride, le_narrow_space *space) {
    if (cell->narrow == NULL || cell->narrow->words[0] == 0) {
        kernels->cell_project(cell, rows, x, out, out_stride);
        return;
    }
    for (size_t done = 0; done < rows; done += LE_NARROW_ROWS) {
        narrow_project(cell, le_min_size(LE_NARROW_ROWS, rows - done), x + done, out + done * out_stride,
                       out_stride, space);
    }
}
