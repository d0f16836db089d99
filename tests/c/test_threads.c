/* The pool of threads and what runs do with it, for the sanitizers: many callers, every split, more threads
 * than cores, forks in between. Prints one line for each check that failed; exit status: how many. */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "lstm_engine/lstm_engine.h"

static int failures;

#define CHECK(condition)                                                                                     \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            printf("FAILED %s:%d: %s\n", __FILE__, __LINE__, #condition);                                    \
            __atomic_fetch_add(&failures, 1, __ATOMIC_RELAXED);                                              \
        }                                                                                                    \
    } while (0)

enum { WORKSPACE_BYTES = 4 << 20 };
enum { INPUTS = 7, HIDDEN = 96, LAYERS = 2, BATCH = 9, TIME = 23, CALLERS = 4, ROUNDS = 10 };

static float *random_floats(size_t count, uint32_t seed) {
    float *values = malloc(count * sizeof *values);
    for (size_t index = 0; index < count; index++) {
        seed = seed * 1664525u + 1013904223u;
        values[index] = 0.1f * ((float)(int32_t)seed / 2147483648.0f);
    }
    return values;
}

typedef struct outcome {
    float y[BATCH * TIME * 2 * HIDDEN];
    float h[LAYERS * 2 * BATCH * HIDDEN];
    float c[LAYERS * 2 * BATCH * HIDDEN];
} outcome;

static const float *x;
static const int64_t lengths[BATCH] = {TIME, 3, 0, 17, 5, 5, 22, 1, 9};

static le_status run_with(const le_lstm *lstm, size_t directions, size_t batch, int ragged,
                          le_threads *threads, le_split split, void *workspace, outcome *out) {
    le_run run = {
        .batch = batch,
        .time = TIME,
        .x = x,
        .x_row_stride = TIME * INPUTS,
        .x_time_stride = INPUTS,
        .y = out->y,
        .y_row_stride = TIME * directions * HIDDEN,
        .y_time_stride = directions * HIDDEN,
        .sequences = 1,
        .h_n = out->h,
        .c_n = out->c,
        .lengths = ragged ? lengths : NULL,
        .threads = threads,
        .split = split,
    };
    memset(out, 0, sizeof *out);
    le_lstm_take_threads(lstm, &run);
    size_t bytes = 0;
    le_status status = le_lstm_workspace_bytes(lstm, &run, &bytes);
    CHECK(bytes <= WORKSPACE_BYTES);
    if (status == LE_OK && bytes <= WORKSPACE_BYTES) {
        status = le_lstm_run(lstm, &run, workspace);
    }
    le_lstm_give_threads(&run);
    return status;
}

typedef struct caller {
    const le_lstm *lstm;
    size_t directions;
    le_threads *threads;
    const outcome *wanted; /* [2]: without lengths and with them */
    pthread_barrier_t *barrier;
} caller;

static void *allocate_workspace(void) {
    void *workspace = NULL;
    if (posix_memalign(&workspace, 64, WORKSPACE_BYTES) != 0) {
        perror("workspace");
        exit(1);
    }
    return workspace;
}

static void call(const caller *self, void *workspace, outcome *found) {
    for (int round = 0; round < ROUNDS; round++) {
        const int ragged = round & 1;
        static const le_split splits[] = {LE_UNITS, LE_ROWS, LE_FASTEST, LE_DIRECTIONS, LE_LAYERS};
        const le_split split = splits[(size_t)round % (sizeof splits / sizeof *splits)];
        CHECK(run_with(self->lstm, self->directions, BATCH, ragged, self->threads, split, workspace, found) ==
              LE_OK);
        CHECK(memcmp(found, &self->wanted[ragged], sizeof *found) == 0);
    }
}

/* The same sequences step by step, every step by all threads that are free; or, with pauses, by those that
 * join it. */
static void step(const caller *self, le_split split, int pauses, outcome *found) {
    le_stream *stream = NULL;
    CHECK(le_stream_create(self->lstm, BATCH, self->threads, split, &stream) == LE_OK);
    memset(found, 0, sizeof *found);
    for (size_t time = 0; time < TIME; time++) {
        float inputs[BATCH * INPUTS], outputs[BATCH * HIDDEN];
        for (size_t row = 0; row < BATCH; row++) {
            memcpy(inputs + row * INPUTS, x + (row * TIME + time) * INPUTS, INPUTS * sizeof(float));
        }
        if (pauses) {
            nanosleep(&(struct timespec){.tv_nsec = (long)(time % 4) * 300 * 1000}, NULL);
        }
        le_stream_step(stream, inputs, outputs);
        for (size_t row = 0; row < BATCH; row++) {
            memcpy(found->y + (row * TIME + time) * HIDDEN, outputs + row * HIDDEN, HIDDEN * sizeof(float));
        }
    }
    le_stream_get_state(stream, found->h, found->c);
    le_stream_destroy(stream);
    CHECK(memcmp(found, &self->wanted[0], sizeof *found) == 0);
}

/* AddressSanitizer's allocator, unlike that of the C library, does not survive a fork in the middle of
 * another thread's malloc: nobody allocates or frees between the two barriers, between which the forks are.
 */
static void *call_in_a_thread(void *argument) {
    const caller *self = argument;
    void *workspace = allocate_workspace();
    outcome *found = malloc(sizeof *found);
    pthread_barrier_wait(self->barrier);
    call(self, workspace, found);
    pthread_barrier_wait(self->barrier);
    if (self->directions == 1) {
        step(self, LE_UNITS, 0, found);
        step(self, LE_FASTEST, 1, found);
    }
    free(found);
    free(workspace);
    return NULL;
}

static void test_directions(const le_kernels *kernels, size_t directions, int forks) {
    le_cell_spec cells[LAYERS * 2];
    float *arrays[3 * LAYERS * 2];
    size_t count = 0;
    memset(cells, 0, sizeof cells);
    for (size_t cell = 0; cell < LAYERS * directions; cell++) {
        cells[cell].input_size = cell < directions ? INPUTS : directions * HIDDEN;
        cells[cell].hidden_size = HIDDEN;
        cells[cell].kernel = arrays[count++] =
            random_floats(cells[cell].input_size * 4 * HIDDEN, 1 + (uint32_t)cell);
        cells[cell].recurrent_kernel = arrays[count++] =
            random_floats(HIDDEN * 4 * HIDDEN, 9 + (uint32_t)cell);
        cells[cell].bias = arrays[count++] = random_floats(4 * HIDDEN, 17 + (uint32_t)cell);
        cells[cell].input_activation.kind = LE_SIGMOID;
        cells[cell].forget_activation.kind = LE_SIGMOID;
        cells[cell].cell_activation.kind = LE_TANH;
        cells[cell].output_activation.kind = LE_SIGMOID;
        cells[cell].hidden_activation.kind = LE_TANH;
    }
    const le_lstm_spec spec = {
        .dtype = LE_FLOAT32, .backend = LE_FUSED, .layers = LAYERS, .directions = directions, .cells = cells};
    le_lstm *lstm = NULL;
    CHECK(le_lstm_create(kernels, &spec, &lstm) == LE_OK);
    outcome *wanted = malloc(2 * sizeof *wanted);
    outcome *found = malloc(sizeof *found);
    void *workspace = allocate_workspace();
    CHECK(run_with(lstm, directions, BATCH, 0, NULL, LE_FASTEST, workspace, &wanted[0]) == LE_OK);
    CHECK(run_with(lstm, directions, BATCH, 1, NULL, LE_FASTEST, workspace, &wanted[1]) == LE_OK);
    for (size_t members = 2; members <= 7; members += members == 4 ? 3 : 1) {
        le_threads *threads = NULL;
        CHECK(le_threads_create(members, &threads) == LE_OK);
        pthread_barrier_t barrier;
        CHECK(pthread_barrier_init(&barrier, NULL, CALLERS + 1) == 0);
        caller one = {lstm, directions, threads, wanted, &barrier};
        call(&one, workspace, found); /* alone first: no other caller has the pool */
        CHECK(le_threads_alive(threads) != 0);
        if (directions == 1) {
            step(&one, LE_FASTEST, 1, found);
        }
        pthread_t callers[CALLERS];
        for (int index = 0; index < CALLERS; index++) {
            CHECK(pthread_create(&callers[index], NULL, call_in_a_thread, &one) == 0);
        }
        pthread_barrier_wait(&barrier);
        for (int fork_number = 0; fork_number < forks; fork_number++) {
            const pid_t child = fork();
            if (child == 0) {
                failures = 0;
                call(&one, workspace, found);
                le_threads_destroy(threads);
                _exit(failures != 0);
            }
            int status = 1;
            CHECK(waitpid(child, &status, 0) == child && status == 0);
        }
        pthread_barrier_wait(&barrier);
        for (int index = 0; index < CALLERS; index++) {
            pthread_join(callers[index], NULL);
        }
        pthread_barrier_destroy(&barrier);
        le_threads_destroy(threads);
    }
    for (size_t index = 0; index < count; index++) {
        free(arrays[index]);
    }
    free(workspace);
    free(found);
    free(wanted);
    le_lstm_destroy(lstm);
}

int main(int argc, char **argv) {
    (void)argv;
    /* ThreadSanitizer does not follow a process with threads into its children: any argument leaves the forks
     * out. */
    const int forks = argc > 1 ? 0 : 3;
    float *input = random_floats(BATCH * TIME * INPUTS, 99);
    x = input;
    le_threads *threads = NULL;
    CHECK(le_threads_create(0, &threads) == LE_ERROR_ARGUMENT);
    CHECK(le_threads_create(LE_THREADS_MOST + 1, &threads) == LE_ERROR_ARGUMENT);
    le_threads_destroy(NULL);
    const le_kernels *kernels = NULL;
    CHECK(le_isa_select(NULL, &kernels) == LE_OK);
    test_directions(kernels, 1, forks);
    test_directions(kernels, 2, forks);
    free(input);
    if (failures == 0) {
        puts("threads good");
    }
    return failures != 0;
}
