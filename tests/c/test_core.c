/* The C API on its own: nothing of Python, only include/lstm_engine. A C program links the core like this one
 * does.
 *
 * Prints one line for each check that failed and, for each compute type whose bits are promised, a hash of
 * every fused output, which must be the same for every instruction set and architecture. Exit status: the
 * number of failed checks, 0 if all is well. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lstm_engine/lstm_engine.h"

static int failures;
static uint64_t hash = 1469598103934665603u; /* FNV-1a */

#define CHECK(condition)                                                                                     \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            printf("FAILED %s:%d: %s\n", __FILE__, __LINE__, #condition);                                    \
            failures++;                                                                                      \
        }                                                                                                    \
    } while (0)

static void hash_floats(const float *values, size_t count) {
    for (size_t index = 0; index < count; index++) {
        uint32_t bits;
        memcpy(&bits, &values[index], sizeof bits);
        for (int byte = 0; byte < 4; byte++) {
            hash = (hash ^ ((bits >> (8 * byte)) & 0xff)) * 1099511628211u;
        }
    }
}

static uint64_t random_state = 42;

/* Uniform in (-scale, scale); exact float32 on every machine. */
static float uniform(float scale) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return scale * ((float)(int32_t)(random_state >> 40) / 8388608.0f - 1.0f);
}

static float *random_floats(size_t count, float scale) {
    float *values = malloc((count + 1) * sizeof *values);
    for (size_t index = 0; index < count; index++) {
        values[index] = uniform(scale);
    }
    return values;
}

/* What is checked in one round. */
typedef struct round_of_checks {
    const char *name; /* appended to the instruction set's */
    le_compute_type compute_type;
    int without;  /* as in le_lstm_spec: 1 leaves out the best extension, ALL every one */
    double bound; /* largest relative L2 error of a row's last output */
    int same_bits;
} round_of_checks;

enum { ALL = 100 };

/* The errors of narrow types are those of a single row of a few units. */
static const round_of_checks rounds[] = {
    {"", LE_AS_DTYPE, 0, 1e-6, 1},
    {":bfloat16", LE_BFLOAT16, 0, 2e-2, 0},
    {":bfloat16:second", LE_BFLOAT16, 1, 2e-2, 0},
    {":bfloat16:baseline", LE_BFLOAT16, ALL, 2e-2, 1},
    {":int8", LE_INT8, 0, 5e-2, 1},
    {":int8:second", LE_INT8, 1, 5e-2, 1},
    {":int8:baseline", LE_INT8, ALL, 5e-2, 1},
    {":int8_recurrent", LE_INT8_RECURRENT, 0, 5e-2, 1},
    {":int8_recurrent:second", LE_INT8_RECURRENT, 1, 5e-2, 1},
    {":int8_recurrent:baseline", LE_INT8_RECURRENT, ALL, 5e-2, 1},
};

enum { MOST_CELLS = 6 };

typedef struct model {
    le_cell_spec cells[MOST_CELLS];
    le_lstm_spec spec;
    float *arrays[4 * MOST_CELLS];
    size_t array_count;
} model;

static const float *keep(model *m, float *array) {
    m->arrays[m->array_count++] = array;
    return array;
}

static void make_model(model *m, size_t layers, size_t directions, int reverse, size_t inputs, size_t hidden,
                       size_t projection) {
    memset(m, 0, sizeof *m);
    const size_t outputs = projection != 0 ? projection : hidden;
    const float scale = 1.0f / sqrtf((float)hidden);
    for (size_t cell = 0; cell < layers * directions; cell++) {
        le_cell_spec *spec = &m->cells[cell];
        spec->input_size = cell < directions ? inputs : directions * outputs;
        spec->hidden_size = hidden;
        spec->projection_size = projection;
        spec->kernel = keep(m, random_floats(spec->input_size * 4 * hidden, scale));
        spec->recurrent_kernel = keep(m, random_floats(outputs * 4 * hidden, scale));
        spec->bias = keep(m, random_floats(4 * hidden, scale));
        if (projection != 0) {
            spec->projection = keep(m, random_floats(hidden * projection, scale));
        }
        spec->input_activation.kind = spec->forget_activation.kind = spec->output_activation.kind =
            LE_SIGMOID;
        spec->cell_activation.kind = spec->hidden_activation.kind = LE_TANH;
    }
    m->spec.layers = layers;
    m->spec.directions = directions;
    m->spec.reverse = reverse;
    m->spec.cells = m->cells;
}

static void free_model(model *m) {
    for (size_t array = 0; array < m->array_count; array++) {
        free(m->arrays[array]);
    }
}

/* The equations in double, one layer, one row, forward. */
static void oracle(const le_cell_spec *cell, size_t time, const float *x, double *h, double *c) {
    const size_t units = cell->hidden_size;
    const float *kernel = cell->kernel, *recurrent = cell->recurrent_kernel, *bias = cell->bias;
    double *gates = malloc(4 * units * sizeof *gates);
    for (size_t step = 0; step < time; step++) {
        for (size_t gate = 0; gate < 4 * units; gate++) {
            gates[gate] = (double)bias[gate];
            for (size_t k = 0; k < cell->input_size; k++) {
                gates[gate] += (double)x[step * cell->input_size + k] * (double)kernel[k * 4 * units + gate];
            }
            for (size_t k = 0; k < units; k++) {
                gates[gate] += h[k] * (double)recurrent[k * 4 * units + gate];
            }
        }
        for (size_t unit = 0; unit < units; unit++) {
            const double input_gate = 1.0 / (1.0 + exp(-gates[unit]));
            const double forget_gate = 1.0 / (1.0 + exp(-gates[units + unit]));
            const double output_gate = 1.0 / (1.0 + exp(-gates[3 * units + unit]));
            c[unit] = forget_gate * c[unit] + input_gate * tanh(gates[2 * units + unit]);
            h[unit] = output_gate * tanh(c[unit]);
        }
    }
    free(gates);
}

static void run(const le_lstm *lstm, le_run *r) {
    size_t bytes = 0;
    void *workspace = NULL;
    CHECK(le_lstm_workspace_bytes(lstm, r, &bytes) == LE_OK);
    CHECK(posix_memalign(&workspace, 64, bytes) == 0);
    CHECK(le_lstm_run(lstm, r, workspace) == LE_OK);
    free(workspace);
}

static void check_against_oracle(const le_kernels *kernels, const round_of_checks *round) {
    const size_t sizes[][2] = {{1, 1}, {3, 5}, {8, 16}, {7, 17}, {20, 33}, {5, 64}, {40, 70}};
    for (size_t which = 0; which < sizeof sizes / sizeof sizes[0]; which++) {
        const size_t inputs = sizes[which][0], hidden = sizes[which][1], batch = 11, time = 19;
        model m;
        le_lstm *lstm = NULL;
        make_model(&m, 1, 1, 0, inputs, hidden, 0);
        m.spec.compute_type = round->compute_type;
        m.spec.without = round->without;
        CHECK(le_lstm_create(kernels, &m.spec, &lstm) == LE_OK);
        float *x = random_floats(batch * time * inputs, 1.0f);
        float *y = random_floats(batch * time * hidden, 1.0f);
        float *one = random_floats(time * hidden, 1.0f);
        le_run r = {.batch = batch,
                    .time = time,
                    .x = x,
                    .x_row_stride = time * inputs,
                    .x_time_stride = inputs,
                    .y = y,
                    .y_row_stride = time * hidden,
                    .y_time_stride = hidden,
                    .sequences = 1};
        run(lstm, &r);
        hash_floats(y, batch * time * hidden);
        for (size_t row = 0; row < batch; row++) {
            double *state = calloc(2 * hidden, sizeof *state);
            double error = 0.0, norm = 0.0;
            oracle(&m.cells[0], time, x + row * time * inputs, state, state + hidden);
            for (size_t unit = 0; unit < hidden; unit++) {
                const double difference = state[unit] - (double)y[(row * time + time - 1) * hidden + unit];
                error += difference * difference;
                norm += state[unit] * state[unit];
            }
            CHECK(sqrt(error) <= round->bound * sqrt(norm));
            free(state);

            /* A row alone, and the same row step by step: the same bits. */
            le_run single = r;
            single.batch = 1;
            single.x = x + row * time * inputs;
            single.y = one;
            run(lstm, &single);
            CHECK(memcmp(one, y + row * time * hidden, time * hidden * sizeof *y) == 0);
        }
        le_stream *stream = NULL;
        float *stepped = random_floats(hidden, 1.0f);
        CHECK(le_stream_create(lstm, 1, NULL, LE_FASTEST, &stream) == LE_OK);
        for (size_t step = 0; step < time; step++) {
            le_stream_step(stream, x + step * inputs, stepped);
            CHECK(memcmp(stepped, y + step * hidden, hidden * sizeof *y) == 0);
        }
        le_stream_destroy(stream);
        free(stepped);
        free(one);
        free(x);
        free(y);
        le_lstm_destroy(lstm);
        free_model(&m);
    }
}

/* Stacks, directions, projections, masks and lengths: no oracle here (Python has it), but one hash for all.
 */
static void check_variants(const le_kernels *kernels, const round_of_checks *round) {
    for (size_t variant = 0; variant < 32; variant++) {
        const size_t layers = 1 + variant % 3, directions = 1 + (variant >> 2) % 2;
        const size_t projection = (variant >> 3) % 2 ? 6 : 0, hidden = 9 + variant, inputs = 1 + variant % 5;
        const size_t batch = 1 + variant % 10, time = 1 + variant, outputs = projection ? projection : hidden;
        model m;
        le_lstm *lstm = NULL;
        make_model(&m, layers, directions, (int)(variant >> 4) % 2, inputs, hidden, projection);
        m.spec.compute_type = round->compute_type;
        m.spec.without = round->without;
        if (variant % 4 == 3) {
            m.cells[0].coupled = 1;
            m.cells[0].gate_clip = 1.5;
            m.cells[0].hidden_activation.kind = LE_SOFTPLUS;
            m.cells[0].cell_activation.kind = LE_GELU;
        }
        CHECK(le_lstm_create(kernels, &m.spec, &lstm) == LE_OK);
        float *x = random_floats(batch * time * inputs, 2.0f);
        float *y = random_floats(batch * time * directions * outputs, 1.0f);
        float *h = random_floats(layers * directions * batch * outputs, 1.0f);
        float *c = random_floats(layers * directions * batch * hidden, 1.0f);
        uint8_t *mask = malloc(batch * time);
        int64_t *lengths = malloc(batch * sizeof *lengths);
        for (size_t place = 0; place < batch * time; place++) {
            mask[place] = uniform(1.0f) > -0.3f;
        }
        for (size_t row = 0; row < batch; row++) {
            lengths[row] = (int64_t)((row * 7 + variant) % (time + 1));
        }
        le_run r = {.batch = batch,
                    .time = time,
                    .x = x,
                    .x_row_stride = time * inputs,
                    .x_time_stride = inputs,
                    .y = y,
                    .y_row_stride = time * directions * outputs,
                    .y_time_stride = directions * outputs,
                    .sequences = 1,
                    .h_n = h,
                    .c_n = c,
                    .mask = variant % 2 ? mask : NULL,
                    .lengths = variant % 2 ? NULL : lengths,
                    .zero_masked = (int)(variant >> 1) % 2};
        run(lstm, &r);
        hash_floats(y, batch * time * directions * outputs);
        hash_floats(h, layers * directions * batch * outputs);
        hash_floats(c, layers * directions * batch * hidden);
        free(lengths);
        free(mask);
        free(c);
        free(h);
        free(y);
        free(x);
        le_lstm_destroy(lstm);
        free_model(&m);
    }
}

static void check_dense(const le_kernels *kernels) {
    const le_activation none = {LE_LINEAR, 0.0, 0.0};
    for (size_t outputs = 1; outputs < 140; outputs += 13) {
        const size_t inputs = 3 + outputs / 2, rows = 1 + outputs % 12;
        float *kernel = random_floats(inputs * outputs, 1.0f), *bias = random_floats(outputs, 1.0f);
        float *x = random_floats(rows * inputs, 1.0f), *y = random_floats(rows * outputs, 1.0f);
        le_linear *linear = NULL;
        CHECK(le_linear_create(kernels, inputs, outputs, kernel, bias, none, &linear) == LE_OK);
        le_linear_run(linear, rows, x, inputs, y, outputs);
        hash_floats(y, rows * outputs);
        for (size_t row = 0; row < rows; row++) {
            for (size_t output = 0; output < outputs; output++) {
                double sum = (double)bias[output];
                for (size_t k = 0; k < inputs; k++) {
                    sum += (double)x[row * inputs + k] * (double)kernel[k * outputs + output];
                }
                CHECK(fabs(sum - (double)y[row * outputs + output]) < 1e-4);
            }
        }
        le_softmax(kernels, rows, outputs, y, y);
        hash_floats(y, rows * outputs);
        le_linear_destroy(linear);
        free(y);
        free(x);
        free(bias);
        free(kernel);
    }
}

/* A chain of two stacks and what stands between them; the pointers of `stages` are to what the caller frees.
 */
static void make_stages(const le_kernels *kernels, model models[2], le_stage stages[4]) {
    memset(stages, 0, 4 * sizeof *stages);
    le_lstm *lstm = NULL;
    le_linear *linear = NULL;
    make_model(&models[0], 2, 1, 0, 5, 19, 7);
    CHECK(le_lstm_create(kernels, &models[0].spec, &lstm) == LE_OK);
    stages[0] = (le_stage){.kind = LE_STAGE_LSTM, .lstm = lstm};
    float *kernel = random_floats(7 * 6, 0.5f);
    CHECK(le_linear_create(kernels, 7, 6, kernel, NULL, (le_activation){LE_RELU, 0, 0}, &linear) == LE_OK);
    free(kernel);
    stages[1] = (le_stage){.kind = LE_STAGE_LINEAR, .linear = linear};
    make_model(&models[1], 1, 1, 0, 6, 17, 0);
    CHECK(le_lstm_create(kernels, &models[1].spec, &lstm) == LE_OK);
    stages[2] = (le_stage){.kind = LE_STAGE_LSTM, .lstm = lstm};
    stages[3] = (le_stage){.kind = LE_STAGE_SOFTMAX, .kernels = kernels, .size = 17};
}

static void free_stages(model models[2], le_stage stages[4]) {
    le_lstm_destroy((le_lstm *)stages[0].lstm);
    le_linear_destroy((le_linear *)stages[1].linear);
    le_lstm_destroy((le_lstm *)stages[2].lstm);
    free_model(&models[0]);
    free_model(&models[1]);
}

/* One stream through the stages of make_stages. */
typedef struct alone {
    le_stream *streams[2];
} alone;

static void step_alone(const alone *stream, const le_stage stages[4], const float *x, float *y) {
    float first[7], second[6];
    le_stream_step(stream->streams[0], x, first);
    le_linear_run(stages[1].linear, 1, first, 7, second, 6);
    le_stream_step(stream->streams[1], second, y);
    le_softmax(stages[3].kernels, 1, 17, y, y);
}

/* Streams of a pool, in any order and by any number of steps, against streams of their own. */
static void check_pool(const le_kernels *kernels) {
    enum { CAPACITY = 90, STEPS = 3 };
    model models[2];
    le_stage stages[4];
    le_chain *chain = NULL;
    le_pool *pool = NULL;
    make_stages(kernels, models, stages);
    CHECK(le_chain_create(stages, 4, &chain) == LE_OK);
    CHECK(le_pool_create(chain, CAPACITY, 5, &pool) == LE_OK);
    alone streams[CAPACITY];
    int64_t ids[CAPACITY + 1], steps[CAPACITY];
    for (size_t index = 0; index < CAPACITY; index++) {
        CHECK(le_pool_open(pool, 0.0, &ids[index]) == LE_OK);
        CHECK(le_stream_create(stages[0].lstm, 1, NULL, LE_FASTEST, &streams[index].streams[0]) == LE_OK);
        CHECK(le_stream_create(stages[2].lstm, 1, NULL, LE_FASTEST, &streams[index].streams[1]) == LE_OK);
    }
    CHECK(le_pool_open(pool, 0.0, &ids[CAPACITY]) == LE_ERROR_FULL);
    const uint32_t *places = NULL;
    size_t wrong = 0;
    float *x = random_floats(CAPACITY * STEPS * 5, 1.0f);
    float *y = random_floats(CAPACITY * STEPS * 17, 1.0f), wanted[17];
    for (size_t count = 1; count <= CAPACITY; count += 11) {
        int64_t chosen[CAPACITY];
        for (size_t index = 0; index < count; index++) {
            chosen[index] = ids[(index * 7 + count) % CAPACITY];
            steps[index] = (int64_t)((index + count) % (STEPS + 1));
        }
        CHECK(le_pool_find(pool, count, chosen, &places, &wrong) == LE_OK);
        CHECK(le_pool_step(pool, count, count % 2 ? NULL : steps, x, y, NULL, NULL) == LE_OK);
        le_pool_touch(pool, count, (double)count);
        size_t row = 0;
        for (size_t index = 0; index < count; index++) {
            for (int64_t step = 0; step < (count % 2 ? 1 : steps[index]); step++, row++) {
                step_alone(&streams[(index * 7 + count) % CAPACITY], stages, x + row * 5, wanted);
                CHECK(memcmp(wanted, y + row * 17, sizeof wanted) == 0);
            }
        }
    }
    /* States out and in, and numbers that are not those of open streams. */
    float h[2 * 7], c[2 * 19], own_h[2 * 7], own_c[2 * 19];
    le_chain_get_state(chain, 0, le_pool_state(pool, ids[3]), h, c);
    le_stream_get_state(streams[3].streams[0], own_h, own_c);
    CHECK(memcmp(h, own_h, sizeof h) == 0 && memcmp(c, own_c, sizeof c) == 0);
    memset(c, 0, sizeof c);
    le_chain_set_state(chain, 0, le_pool_state(pool, ids[3]), h, c);
    le_chain_get_state(chain, 0, le_pool_state(pool, ids[3]), own_h, own_c);
    CHECK(memcmp(h, own_h, sizeof h) == 0 && memcmp(c, own_c, sizeof c) == 0);
    CHECK(le_pool_has(pool, ids[3]) && !le_pool_has(pool, -1) && !le_pool_has(pool, ids[3] + CAPACITY));
    CHECK(le_pool_close(pool, ids[3]) == LE_OK);
    CHECK(le_pool_close(pool, ids[3]) == LE_ERROR_CLOSED_ID && !le_pool_has(pool, ids[3]));
    CHECK(le_pool_state(pool, ids[3]) == NULL && le_pool_id_at(pool, 3) == -1);
    CHECK(le_pool_count(pool) == CAPACITY - 1);
    CHECK(le_pool_find(pool, CAPACITY, ids, &places, &wrong) == LE_ERROR_CLOSED_ID && wrong == 3);
    CHECK(le_pool_open(pool, 1.0, &ids[CAPACITY]) == LE_OK && ids[CAPACITY] != ids[3]);
    CHECK(le_pool_id_at(pool, 3) == ids[CAPACITY] && le_pool_last_used(pool, 3) == 1.0);
    ids[3] = ids[0];
    CHECK(le_pool_find(pool, CAPACITY + 1, ids, &places, &wrong) == LE_ERROR_REPEATED_ID && wrong == 3);
    ids[3] = INT64_MIN;
    CHECK(le_pool_find(pool, CAPACITY, ids, &places, &wrong) == LE_ERROR_UNKNOWN_ID && wrong == 3);
    CHECK(le_pool_close(pool, 0) == LE_ERROR_UNKNOWN_ID);
    CHECK(le_pool_find(pool, 0, NULL, &places, &wrong) == LE_OK);
    CHECK(le_pool_step(pool, 0, NULL, NULL, NULL, NULL, NULL) == LE_OK);
    for (size_t index = 0; index < CAPACITY; index++) {
        le_stream_destroy(streams[index].streams[0]);
        le_stream_destroy(streams[index].streams[1]);
    }
    le_pool_destroy(pool);
    CHECK(le_pool_create(chain, 0, 0, &pool) == LE_ERROR_ARGUMENT);
    CHECK(le_pool_create(chain, LE_POOL_MOST + 1, 0, &pool) == LE_ERROR_ARGUMENT);
    le_pool_destroy(NULL);
    le_chain_destroy(chain);
    CHECK(le_chain_create(stages, 0, &chain) == LE_ERROR_ARGUMENT);
    stages[3].size = 16; /* not what comes before it gives */
    CHECK(le_chain_create(stages, 4, &chain) == LE_ERROR_ARGUMENT);
    le_chain_destroy(NULL);
    free(x);
    free(y);
    free_stages(models, stages);
}

/* Every answer of a sliding window against streams that were fed the window alone. */
static void check_window(const le_kernels *kernels) {
    model models[2];
    le_stage stages[4];
    le_chain *chain = NULL;
    make_stages(kernels, models, stages);
    CHECK(le_chain_create(stages, 4, &chain) == LE_OK);
    alone stream;
    CHECK(le_stream_create(stages[0].lstm, 1, NULL, LE_FASTEST, &stream.streams[0]) == LE_OK);
    CHECK(le_stream_create(stages[2].lstm, 1, NULL, LE_FASTEST, &stream.streams[1]) == LE_OK);
    const size_t lengths[] = {1, 2, 9, 40}, batches[] = {1, 3, 70};
    for (size_t variant = 0; variant < 12; variant++) {
        const size_t length = lengths[variant % 4], batch = batches[variant / 4], samples = length + 5;
        le_window *window = NULL;
        float *x = random_floats(samples * batch * 5, 1.0f);
        float *y = random_floats(batch * 17, 1.0f), wanted[17];
        CHECK(le_window_create(chain, length, batch, &window) == LE_OK);
        for (size_t round = 0; round < 2; round++) {
            for (size_t sample = 0; sample < samples; sample++) {
                const int full = le_window_push(window, x + sample * batch * 5, y, (sample + round) % 3 != 0);
                CHECK(full == (sample + 1 >= length));
                CHECK(le_window_samples(window) == (full ? length : sample + 1));
                if (sample % 2) {
                    le_window_settle(window);
                }
                /* A few rows of many are enough: all have the same way. */
                for (size_t row = 0; full && row < batch; row += 23) {
                    le_stream_reset(stream.streams[0]);
                    le_stream_reset(stream.streams[1]);
                    for (size_t step = sample + 1 - length; step <= sample; step++) {
                        step_alone(&stream, stages, x + (step * batch + row) * 5, wanted);
                    }
                    CHECK(memcmp(wanted, y + row * 17, sizeof wanted) == 0);
                }
            }
            le_window_reset(window);
            CHECK(le_window_samples(window) == 0);
        }
        le_window_destroy(window);
        free(x);
        free(y);
    }
    le_window *window = NULL;
    CHECK(le_window_create(chain, 0, 1, &window) == LE_ERROR_ARGUMENT);
    CHECK(le_window_create(chain, 1, 0, &window) == LE_ERROR_ARGUMENT);
    CHECK(le_window_create(NULL, 1, 1, &window) == LE_ERROR_ARGUMENT);
    CHECK(le_window_create(chain, SIZE_MAX / 2, SIZE_MAX / 2, &window) == LE_ERROR_SIZE);
    le_window_destroy(NULL);
    le_stream_destroy(stream.streams[0]);
    le_stream_destroy(stream.streams[1]);
    le_chain_destroy(chain);
    free_stages(models, stages);
}

static void check_refusals(const le_kernels *kernels) {
    model m;
    le_lstm *lstm = NULL;
    le_stream *stream = NULL;
    const le_kernels *other = NULL;
    make_model(&m, 2, 2, 0, 3, 4, 0);
    CHECK(le_lstm_create(NULL, &m.spec, &lstm) == LE_ERROR_ARGUMENT);
    CHECK(le_lstm_create(kernels, NULL, &lstm) == LE_ERROR_ARGUMENT);
    m.cells[2].input_size = 7;
    CHECK(le_lstm_create(kernels, &m.spec, &lstm) == LE_ERROR_ARGUMENT);
    m.cells[2].input_size = 8;
    m.cells[0].hidden_size = SIZE_MAX / 8;
    CHECK(le_lstm_create(kernels, &m.spec, &lstm) == LE_ERROR_SIZE);
    m.cells[0].hidden_size = 4;
    m.cells[1].cell_activation.kind = LE_ACTIVATION_COUNT;
    CHECK(le_lstm_create(kernels, &m.spec, &lstm) == LE_ERROR_ARGUMENT);
    m.cells[1].cell_activation.kind = LE_TANH;
    m.spec.backend = LE_BLAS; /* and no product given */
    CHECK(le_lstm_create(kernels, &m.spec, &lstm) == LE_ERROR_ARGUMENT);
    m.spec.backend = LE_FUSED;
    m.spec.compute_type = LE_COMPUTE_TYPE_COUNT;
    CHECK(le_lstm_create(kernels, &m.spec, &lstm) == LE_ERROR_ARGUMENT);
    m.spec.compute_type = LE_INT8;
    m.spec.backend = LE_BLAS; /* which has no narrow types */
    CHECK(le_lstm_create(kernels, &m.spec, &lstm) == LE_ERROR_ARGUMENT);
    m.spec.compute_type = LE_AS_DTYPE;
    m.spec.backend = LE_FUSED;
    CHECK(le_lstm_create(kernels, &m.spec, &lstm) == LE_OK);
    CHECK(le_stream_create(lstm, 1, NULL, LE_FASTEST, &stream) == LE_ERROR_ARGUMENT); /* bidirectional */
    const int64_t lengths[1] = {6};
    float x[15] = {0};
    size_t bytes = 0;
    le_run r = {.batch = 1, .time = 5, .x = x, .x_row_stride = 15, .x_time_stride = 3, .lengths = lengths};
    CHECK(le_lstm_workspace_bytes(lstm, &r, &bytes) == LE_ERROR_ARGUMENT); /* a length past the end */
    r.lengths = NULL;
    r.time = SIZE_MAX / 4;
    CHECK(le_lstm_workspace_bytes(lstm, &r, &bytes) == LE_ERROR_SIZE);
    le_lstm_destroy(lstm);
    le_lstm_destroy(NULL);
    le_stream_destroy(NULL);
    free_model(&m);
    CHECK(le_isa_select("abacus", &other) == LE_ERROR_UNKNOWN_ISA && other == NULL);
    CHECK(le_isa_name(le_isa_count()) == NULL);
    CHECK(strcmp(le_isa_name(le_isa_count() - 1), "scalar") == 0);
    for (int status = -1; status <= LE_STATUS_COUNT; status++) {
        CHECK(le_status_message((le_status)status) != NULL);
    }
}

/* Whether a round checks kernels that no other one does: the second best may be the only ones behind the
 * best. */
static int is_of_interest(const le_kernels *kernels, const round_of_checks *round) {
    const char *name = le_kernels_name_for(kernels, round->compute_type, round->without);
    return round->without != 1 || strcmp(name, le_kernels_name_for(kernels, round->compute_type, ALL)) != 0;
}

int main(void) {
    for (size_t index = 0; index < le_isa_count(); index++) {
        const le_kernels *kernels = NULL;
        if (!le_isa_supported(index)) {
            CHECK(le_isa_select(le_isa_name(index), &kernels) == LE_ERROR_UNSUPPORTED_ISA);
            continue;
        }
        CHECK(le_isa_select(le_isa_name(index), &kernels) == LE_OK);
        for (size_t place = 0; place < sizeof rounds / sizeof rounds[0]; place++) {
            const round_of_checks *round = &rounds[place];
            if (!is_of_interest(kernels, round)) {
                continue;
            }
            random_state = 42;
            hash = 1469598103934665603u;
            check_against_oracle(kernels, round);
            check_variants(kernels, round);
            if (round->compute_type == LE_AS_DTYPE) {
                check_dense(kernels);
                check_pool(kernels);
                check_window(kernels);
                check_refusals(kernels);
            }
            if (round->same_bits) {
                printf("%s%s %016llx\n", le_kernels_name(kernels), round->name, (unsigned long long)hash);
            }
        }
    }
    return failures > 100 ? 100 : failures;
}
