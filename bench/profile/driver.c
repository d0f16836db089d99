/* Runs one cell of the benchmark with the C core alone, for bench/profile: all that callgrind collects
 * happens inside measured().
 *
 * driver ISA BATCH TIME FEATURES HIDDEN LAYERS DIRECTIONS CALLS
 */
#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lstm_engine/lstm_engine.h"

enum { MOST_CELLS = 32 };

static void *need(void *pointer) {
    if (pointer == NULL) {
        fputs("driver: out of memory\n", stderr);
        exit(1);
    }
    return pointer;
}

static void need_ok(le_status status, const char *what) {
    if (status != LE_OK) {
        fprintf(stderr, "driver: %s failed with status %d\n", what, (int)status);
        exit(1);
    }
}

/* Uniform in [-scale, scale), the same numbers every time. */
static float *random_floats(size_t count, float scale) {
    static unsigned state = 1;
    float *floats = need(malloc(count * sizeof *floats));
    for (size_t place = 0; place < count; place++) {
        state = state * 1664525u + 1013904223u;
        floats[place] = scale * ((float)(state >> 8) / (float)(1 << 23) - 1.0f);
    }
    return floats;
}

__attribute__((noinline)) void measured(const le_lstm *lstm, le_stream *stream, const le_run *run,
                                        void *workspace) {
    if (stream != NULL) {
        le_stream_step(stream, run->x, run->y);
    } else {
        need_ok(le_lstm_run(lstm, run, workspace), "le_lstm_run");
    }
}

int main(int count, char **words) {
    if (count != 9) {
        fputs("usage: driver ISA BATCH TIME FEATURES HIDDEN LAYERS DIRECTIONS CALLS\n", stderr);
        return 2;
    }
    size_t numbers[7];
    for (int place = 0; place < 7; place++) {
        numbers[place] = strtoul(words[place + 2], NULL, 10);
    }
    const size_t batch = numbers[0], time = numbers[1], features = numbers[2], hidden = numbers[3];
    const size_t layers = numbers[4], directions = numbers[5], calls = numbers[6];
    if (layers * directions == 0 || layers * directions > MOST_CELLS) {
        fputs("driver: too many layers\n", stderr);
        return 2;
    }

    le_cell_spec cells[MOST_CELLS];
    memset(cells, 0, sizeof cells);
    const float scale = 1.0f / sqrtf((float)hidden);
    for (size_t cell = 0; cell < layers * directions; cell++) {
        le_cell_spec *spec = &cells[cell];
        spec->input_size = cell < directions ? features : directions * hidden;
        spec->hidden_size = hidden;
        spec->kernel = random_floats(spec->input_size * 4 * hidden, scale);
        spec->recurrent_kernel = random_floats(hidden * 4 * hidden, scale);
        spec->bias = random_floats(4 * hidden, scale);
        spec->input_activation.kind = spec->forget_activation.kind = spec->output_activation.kind =
            LE_SIGMOID;
        spec->cell_activation.kind = spec->hidden_activation.kind = LE_TANH;
    }
    le_lstm_spec spec;
    memset(&spec, 0, sizeof spec);
    spec.layers = layers;
    spec.directions = directions;
    spec.cells = cells;

    const le_kernels *kernels = NULL;
    need_ok(le_isa_select(words[1], &kernels), "le_isa_select");
    le_lstm *lstm = NULL;
    need_ok(le_lstm_create(kernels, &spec, &lstm), "le_lstm_create");
    le_stream *stream = NULL;
    if (batch == 1 && time == 1 && directions == 1) {
        need_ok(le_stream_create(lstm, 1, NULL, LE_FASTEST, &stream), "le_stream_create");
    }
    le_run run;
    memset(&run, 0, sizeof run);
    run.batch = batch;
    run.time = time;
    run.x = random_floats(batch * time * features, 1.0f);
    run.x_row_stride = time * features;
    run.x_time_stride = features;
    run.y = random_floats(batch * time * directions * hidden, 0.0f);
    run.y_row_stride = time * directions * hidden;
    run.y_time_stride = directions * hidden;
    run.sequences = 1;
    size_t bytes = 0;
    need_ok(le_lstm_workspace_bytes(lstm, &run, &bytes), "le_lstm_workspace_bytes");
    void *workspace = NULL;
    if (posix_memalign(&workspace, 64, bytes + 64) != 0) {
        need(NULL);
    }
    for (size_t call = 0; call < calls; call++) {
        measured(lstm, stream, &run, workspace);
    }
    return 0;
}
