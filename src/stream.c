/* Streams: a state that advances one step at a time; all that a step needs is laid out beforehand. */
#include <string.h>

#include "clock.h"
#include "float_state.h"
#include "lstm.h"
#include "memory.h"
#include "plan.h"
#include "split.h"

/* One layer of a fused stream. h alternates between two buffers: a step reads one and writes the other. */
typedef struct stream_layer {
    float *c;          /* [batch][padded_hidden] */
    float *h[2];       /* [batch][padded_output] */
    float **c_rows;    /* [batch] */
    float **h_rows[2]; /* [batch] */
} stream_layer;

/* One of the threads that share out the hidden units of a step: its part of every cell, and scratch of its
 * own. */
typedef struct stream_member {
    _Alignas(LE_ALIGNMENT) le_member member;
    le_part *parts; /* [layers] */
    float **c_rows; /* [batch]: of its first unit */
    float **h_rows; /* [batch] */
    le_narrow_space narrow;
} stream_member;

/* Nanoseconds that a step of several layers takes one thread, from which on threads that sleep are called to
 * join it at one of its layers, and one of a single layer, from which on it waits for them. Waking a thread
 * takes 30 microseconds after a short pause, and up to 700 where a virtual machine has given the CPU away. */
enum { CALL_WORTH_NS = 100 * 1000, WAIT_WORTH_NS = 2 * 1000 * 1000 };

/* Shorter steps call them when they have followed one another closely for so long: those to come find them
 * awake. To call a thread whose CPU has halted takes up to 20 microseconds of its caller's. */
enum { FOLLOWING_NS = 100 * 1000 };

struct le_stream {
    const le_lstm *lstm;
    size_t batch;
    size_t padded_hidden;
    size_t padded_output;
    /* fused */
    stream_layer *layers;
    const float **x_rows; /* [batch] */
    float **hidden_rows;  /* [batch]: before the projection */
    le_narrow_space narrow;
    /* fused, shared out */
    le_threads *threads;
    le_step_by by;
    size_t members;
    stream_member *crew;     /* [members] */
    le_published *published; /* [members] */
    /* blas: states as le_run takes them, and a workspace for one step */
    void *h;
    void *c;
    void *workspace;
    /* all of the above in one allocation */
    void *memory;
    /* Written at every step, in cache lines of their own: what all members read, and the caller's own. */
    _Alignas(LE_ALIGNMENT) size_t first_layer; /* from which on the step is shared out */
    int parity;                                /* which h buffer holds the state */
    _Alignas(LE_ALIGNMENT) uint64_t ended;     /* when the last step did */
    uint64_t alone; /* nanoseconds that a step takes one thread, at best; 0: not known yet */
    uint64_t first; /* when the first of the steps began that follow one another closely */
};

static void *rows_of(le_arena *arena, size_t batch, float *first, size_t stride) {
    float **rows = le_arena_take(arena, batch, sizeof *rows);
    for (size_t row = 0; rows != NULL && row < batch; row++) {
        rows[row] = first + row * stride;
    }
    return rows;
}

static void lay_out_fused(le_stream *stream, le_arena *arena) {
    const le_lstm *lstm = stream->lstm;
    const size_t batch = stream->batch;
    stream->layers = le_arena_take(arena, lstm->layers, sizeof *stream->layers);
    for (size_t layer = 0; layer < lstm->layers; layer++) {
        stream_layer laid;
        laid.c = le_arena_take(arena, batch * stream->padded_hidden, sizeof(float));
        laid.c_rows = rows_of(arena, batch, laid.c, stream->padded_hidden);
        for (int parity = 0; parity < 2; parity++) {
            laid.h[parity] = le_arena_take(arena, batch * stream->padded_output, sizeof(float));
            laid.h_rows[parity] = rows_of(arena, batch, laid.h[parity], stream->padded_output);
        }
        if (stream->layers != NULL) {
            stream->layers[layer] = laid;
        }
    }
    le_narrow_take(arena, lstm, batch, &stream->narrow);
    stream->x_rows = le_arena_take(arena, batch, sizeof *stream->x_rows);
    float *hidden = le_arena_take(arena, batch * stream->padded_hidden, sizeof(float));
    stream->hidden_rows = rows_of(arena, batch, hidden, stream->padded_hidden);
}

static void lay_out_crew(le_stream *stream, le_arena *arena) {
    const le_lstm *lstm = stream->lstm;
    stream->crew = le_arena_take(arena, stream->members, sizeof *stream->crew);
    stream->published = le_arena_take(arena, stream->members, sizeof *stream->published);
    for (size_t index = 0; index < stream->members; index++) {
        stream_member one = {.parts = le_arena_take(arena, lstm->layers, sizeof *one.parts)};
        one.c_rows = le_arena_take(arena, stream->batch, sizeof *one.c_rows);
        one.h_rows = le_arena_take(arena, stream->batch, sizeof *one.h_rows);
        le_narrow_take(arena, lstm, stream->batch, &one.narrow);
        /* What two threads write must not share a pair of cache lines. */
        (void)le_arena_take(arena, LE_APART_BYTES, 1);
        if (stream->crew == NULL) {
            continue;
        }
        one.member.threads = stream->threads;
        one.member.published = stream->published;
        le_member_begin(&one.member, lstm->hidden_size, lstm->kernels->lanes, stream->members, index);
        atomic_init(&stream->published[index].count.value, 0);
        for (size_t layer = 0; layer < lstm->layers; layer++) {
            le_member_part(&one.member, &lstm->cells[layer], &one.parts[layer]);
        }
        stream->crew[index] = one;
    }
}

static le_run one_step(const le_stream *stream, const void *x, void *y) {
    const le_lstm *lstm = stream->lstm;
    return (le_run){
        .batch = stream->batch,
        .time = 1,
        .x = x,
        .x_row_stride = lstm->input_size,
        .x_time_stride = lstm->input_size,
        .y = y,
        .y_row_stride = lstm->output_size,
        .y_time_stride = lstm->output_size,
        .h0 = stream->h,
        .c0 = stream->c,
        .h_n = stream->h,
        .c_n = stream->c,
    };
}

static le_status lay_out_blas(le_stream *stream, le_arena *arena) {
    const le_lstm *lstm = stream->lstm;
    const size_t element = le_dtype_bytes(lstm->dtype);
    const size_t rows = lstm->layers * stream->batch;
    size_t bytes;
    stream->h = le_arena_take(arena, rows * lstm->output_size, element);
    stream->c = le_arena_take(arena, rows * lstm->hidden_size, element);
    le_run run = one_step(stream, stream, NULL);
    const le_status status = le_lstm_workspace_bytes(lstm, &run, &bytes);
    if (status == LE_OK) {
        stream->workspace = le_arena_take(arena, bytes, 1);
    }
    return status;
}

le_status le_stream_create(const le_lstm *lstm, size_t batch, le_threads *threads, le_split split,
                           le_stream **result) {
    if (lstm == NULL || result == NULL || batch == 0 || lstm->directions != 1 || lstm->reverse) {
        return LE_ERROR_ARGUMENT;
    }
    /* The widest row of the state times the batch bounds every product below. */
    size_t elements;
    if (le_multiply(batch, lstm->layers, &elements) != LE_OK ||
        le_multiply(elements, 64 * (lstm->hidden_size + lstm->output_size + 64), &elements) != LE_OK) {
        return LE_ERROR_SIZE;
    }
    le_stream *stream = le_allocate(1, sizeof *stream);
    if (stream == NULL) {
        return LE_ERROR_MEMORY;
    }
    stream->lstm = lstm;
    stream->batch = batch;
    stream->padded_hidden = le_round_up(lstm->hidden_size, lstm->kernels->lanes);
    stream->padded_output = le_round_up(lstm->output_size, lstm->kernels->lanes);
    if (threads != NULL) {
        stream->threads = threads;
        stream->by = le_choose_step(lstm, split, batch);
        stream->members =
            stream->by == LE_BY_ONE ? 1 : le_stream_members(lstm, split, le_threads_count(threads));
    }
    le_arena arena = {NULL, 0, 0};
    for (int pass = 0; pass < 2; pass++) {
        le_status status = LE_OK;
        if (lstm->backend == LE_FUSED) {
            lay_out_fused(stream, &arena);
            if (stream->members > 1) {
                lay_out_crew(stream, &arena);
            }
        } else {
            status = lay_out_blas(stream, &arena);
        }
        if (status == LE_OK && arena.overflow) {
            status = LE_ERROR_SIZE;
        }
        if (status == LE_OK && pass == 0) {
            stream->memory = le_allocate(arena.used, 1);
            status = stream->memory == NULL ? LE_ERROR_MEMORY : LE_OK;
            arena = (le_arena){stream->memory, 0, 0};
        }
        if (status != LE_OK) {
            le_stream_destroy(stream);
            return status;
        }
    }
    *result = stream;
    return LE_OK;
}

void le_stream_destroy(le_stream *stream) {
    if (stream != NULL) {
        le_free(stream->memory);
        le_free(stream);
    }
}

void le_stream_reset(le_stream *stream) {
    le_stream_set_state(stream, NULL, NULL);
}

/* The rows of one layer's step: `cell` is the layer's, or a member's part of it with rows of its own. */
static le_cell_rows layer_rows(const le_stream *stream, size_t layer, const float *const *inputs,
                               float *const *c, float *const *h_next) {
    return (le_cell_rows){
        .rows = stream->batch,
        .x = inputs,
        .h = (const float *const *)stream->layers[layer].h_rows[stream->parity],
        .c = c,
        .h_next = h_next,
        .backward = stream->parity,
    };
}

/* What a layer's step leaves for the next one. */
static float *const *outputs_of(const le_stream *stream, size_t layer) {
    return stream->layers[layer].h_rows[!stream->parity];
}

static const float *const *inputs_of(const le_stream *stream, size_t layer) {
    return layer == 0 ? stream->x_rows : (const float *const *)outputs_of(stream, layer - 1);
}

/* Up to the layer at which the threads that have been called are there; returns that layer, or how many there
 * are. */
static size_t step_alone(le_stream *stream, int called) {
    const le_lstm *lstm = stream->lstm;
    size_t layer = 0;
    for (; layer < lstm->layers; layer++) {
        if (called && le_threads_awake(stream->threads, stream->members)) {
            break;
        }
        const le_cell *cell = &lstm->cells[layer];
        float *const *outputs = outputs_of(stream, layer);
        const le_cell_rows rows =
            layer_rows(stream, layer, inputs_of(stream, layer), stream->layers[layer].c_rows,
                       cell->projection == NULL ? outputs : stream->hidden_rows);
        le_cell_step(lstm->kernels, cell, &rows, &stream->narrow);
        if (cell->projection != NULL) {
            lstm->kernels->linear(cell->projection, stream->batch, (const float *const *)stream->hidden_rows,
                                  outputs);
        }
    }
    le_narrow_end(&stream->narrow);
    return layer;
}

/* Have rows of h brought that other members have written. */
static void ask_for(const le_stream *stream, float *const *rows) {
    for (size_t row = 0; row < stream->batch; row++) {
        for (size_t unit = 0; unit < stream->lstm->hidden_size; unit += LE_ALIGNMENT / sizeof(float)) {
            __builtin_prefetch(rows[row] + unit, 0, 3);
        }
    }
}

/* One member's part of a step. Each writes its units of h where all read them: the lines change hands once,
 * for they are asked for together before the next layer begins. Two buffers take turns, so nobody writes what
 * is being read. */
static void step_part(void *context, size_t index) {
    const le_stream *stream = context;
    const le_lstm *lstm = stream->lstm;
    stream_member *own = &stream->crew[index];
    /* Those of the last layer nobody has asked for since they were written. */
    ask_for(stream, stream->layers[lstm->layers - 1].h_rows[stream->parity]);
    for (size_t layer = stream->first_layer; layer < lstm->layers; layer++) {
        float *const *outputs = outputs_of(stream, layer);
        for (size_t row = 0; row < stream->batch; row++) {
            own->c_rows[row] = stream->layers[layer].c_rows[row] + own->member.first_unit;
            own->h_rows[row] = outputs[row] + own->member.first_unit;
        }
        const le_cell_rows rows =
            layer_rows(stream, layer, inputs_of(stream, layer), own->c_rows, own->h_rows);
        le_cell_step(lstm->kernels, &own->parts[layer].cell, &rows, &own->narrow);
        if (layer + 1 == lstm->layers) {
            break;
        }
        (void)le_member_meet(&own->member);
        ask_for(stream, outputs);
    }
    le_narrow_end(&own->narrow);
}

/* Whether a step that begins at `now` should call threads that sleep. */
static int worth_calling(le_stream *stream, uint64_t now) {
    const uint64_t close = stream->alone / 2 > LE_THREADS_LOOK_NS ? stream->alone / 2 : LE_THREADS_LOOK_NS;
    if (now - stream->ended > close) {
        stream->first = now;
    }
    return now - stream->first > FOLLOWING_NS || (stream->lstm->layers > 1 && stream->alone > CALL_WORTH_NS);
}

/* A step whose hidden units several threads can share out. All do so from the first layer on if they are
 * awake; else one begins alone, and those that it has called join it at the layer at which they are there. */
static void step_by_members(le_stream *stream) {
    const size_t layers = stream->lstm->layers;
    const uint64_t begun = le_now();
    const int calls = worth_calling(stream, begun);
    const int together = stream->by == LE_BY_ALL || (layers == 1 && stream->alone > WAIT_WORTH_NS) ||
                         le_threads_awake(stream->threads, stream->members);
    size_t taken = together || calls ? le_threads_take(stream->threads, stream->members) : 1;
    if (taken > 1 && taken < stream->members) {
        le_threads_give(stream->threads);
        taken = 1;
    }
    const int called = taken > 1 && !together;
    size_t layer = 0;
    if (called) {
        const uint64_t patience = stream->alone / 16;
        le_threads_call(stream->threads, stream->members, patience < LE_THREADS_LOOK_NS ? 0 : patience);
    }
    if (taken == 1 || called) {
        layer = step_alone(stream, called);
    }
    if (layer < layers) {
        stream->first_layer = layer;
        le_threads_run(stream->threads, stream->members, step_part, stream);
    } else if (called) {
        le_threads_dismiss(stream->threads);
    }
    if (taken > 1) {
        le_threads_give(stream->threads);
    }
    stream->ended = le_now();
    if (layer == layers) {
        const uint64_t took = stream->ended - begun;
        stream->alone = stream->alone == 0 || took < stream->alone ? took : stream->alone;
    }
}

static void step_fused(le_stream *stream, const float *x, float *y) {
    const le_lstm *lstm = stream->lstm;
    for (size_t row = 0; row < stream->batch; row++) {
        const float *row_x = x + row * lstm->input_size;
        /* Other members read it, and an input is often where the last was. */
        if (stream->x_rows[row] != row_x) {
            stream->x_rows[row] = row_x;
        }
    }
    if (stream->members > 1) {
        step_by_members(stream);
    } else {
        (void)step_alone(stream, 0);
    }
    float *const *outputs = outputs_of(stream, lstm->layers - 1);
    for (size_t row = 0; row < stream->batch; row++) {
        memcpy(y + row * lstm->output_size, outputs[row], lstm->output_size * sizeof(float));
    }
    stream->parity = !stream->parity;
}

void le_stream_step(le_stream *stream, const void *x, void *y) {
    if (stream->lstm->backend == LE_FUSED) {
        const le_float_state before = le_float_state_enter();
        step_fused(stream, x, y);
        le_float_state_leave(before);
        return;
    }
    const le_run run = one_step(stream, x, y);
    (void)le_lstm_run(stream->lstm, &run, stream->workspace);
}

void le_stream_get_state(const le_stream *stream, void *h, void *c) {
    const le_lstm *lstm = stream->lstm;
    const size_t rows = lstm->layers * stream->batch;
    if (lstm->backend == LE_BLAS) {
        memcpy(h, stream->h, rows * lstm->output_size * le_dtype_bytes(lstm->dtype));
        memcpy(c, stream->c, rows * lstm->hidden_size * le_dtype_bytes(lstm->dtype));
        return;
    }
    for (size_t index = 0; index < rows; index++) {
        const stream_layer *state = &stream->layers[index / stream->batch];
        const size_t row = index % stream->batch;
        memcpy((float *)h + index * lstm->output_size, state->h_rows[stream->parity][row],
               lstm->output_size * sizeof(float));
        memcpy((float *)c + index * lstm->hidden_size, state->c_rows[row], lstm->hidden_size * sizeof(float));
    }
}

/* Copy elements, or zeros where there is no source. */
static void copy_or_zero(void *target, const void *source, size_t offset_bytes, size_t bytes) {
    if (source == NULL) {
        memset(target, 0, bytes);
    } else {
        memcpy(target, (const char *)source + offset_bytes, bytes);
    }
}

void le_stream_set_state(le_stream *stream, const void *h, const void *c) {
    const le_lstm *lstm = stream->lstm;
    const size_t rows = lstm->layers * stream->batch;
    const size_t h_bytes = lstm->output_size * le_dtype_bytes(lstm->dtype);
    const size_t c_bytes = lstm->hidden_size * le_dtype_bytes(lstm->dtype);
    if (lstm->backend == LE_BLAS) {
        copy_or_zero(stream->h, h, 0, rows * h_bytes);
        copy_or_zero(stream->c, c, 0, rows * c_bytes);
        return;
    }
    for (size_t index = 0; index < rows; index++) {
        stream_layer *state = &stream->layers[index / stream->batch];
        const size_t row = index % stream->batch;
        copy_or_zero(state->h_rows[stream->parity][row], h, index * h_bytes, h_bytes);
        copy_or_zero(state->c_rows[row], c, index * c_bytes, c_bytes);
    }
}
