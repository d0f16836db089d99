/* An LSTM stack: packed once, run over batches of sequences or stepped as a stream.
 *
 * Sizes and strides are in elements unless a name ends in _bytes. Weights come in the canonical layout:
 * gates in the order input, forget, cell, output along an axis of 4 * hidden_size, row-major.
 *
 * An le_lstm does not change after le_lstm_create: any number of threads may run it at once, each with
 * its own workspace or stream. */
#ifndef LSTM_ENGINE_LSTM_H
#define LSTM_ENGINE_LSTM_H

#include <stddef.h>
#include <stdint.h>

#include "activation.h"
#include "isa.h"
#include "status.h"
#include "threads.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Element type of weights, inputs, states and outputs. */
typedef enum le_dtype { LE_FLOAT32 = 0, LE_FLOAT64 = 1 } le_dtype;

/* What the products of the gates are computed in. Inputs, states, activations and outputs are of the dtype
 * whatever it is.
 *
 * LE_BFLOAT16        weights, and on CPUs that multiply bfloat16 x and h too, rounded to bfloat16; sums in
 * float32 LE_INT8            weights with a scale for each gate and unit, x and h with a scale for each row
 * and step; exact sums LE_INT8_RECURRENT  the same for h and its weights alone: the products of x stay
 * float32, which has the smaller error
 *
 * In int8 a row whose x or h holds a NaN or an infinity gives NaN from that step on. */
typedef enum le_compute_type {
    LE_AS_DTYPE = 0,
    LE_BFLOAT16 = 1,
    LE_INT8 = 2,
    LE_INT8_RECURRENT = 3,
    LE_COMPUTE_TYPE_COUNT = 4
} le_compute_type;

/* Which code runs the gates: our packed kernels, or a BLAS given by the caller. */
typedef enum le_backend { LE_FUSED = 0, LE_BLAS = 1 } le_backend;

/* Matrix product of a BLAS with the Fortran interface (all arguments by pointer, column-major). */
typedef void (*le_sgemm)(char *, char *, int *, int *, int *, float *, float *, int *, float *, int *,
                         float *, float *, int *);
typedef void (*le_dgemm)(char *, char *, int *, int *, int *, double *, double *, int *, double *, int *,
                         double *, double *, int *);

/* One cell: one layer in one direction. The equations are those of CellWeights in lstm_engine/weights.py. */
typedef struct le_cell_spec {
    size_t input_size;
    size_t hidden_size;
    size_t projection_size;       /* output size of the projection; 0 for none */
    const void *kernel;           /* [input_size][4 * hidden_size] */
    const void *recurrent_kernel; /* [output_size][4 * hidden_size] */
    const void *bias;             /* [4 * hidden_size], or NULL */
    const void *projection;       /* [hidden_size][projection_size], or NULL */
    const void *peepholes;        /* [3][hidden_size]: input, forget, output; or NULL */
    le_activation input_activation;
    le_activation forget_activation;
    le_activation cell_activation;
    le_activation output_activation;
    le_activation hidden_activation;
    double gate_clip; /* bound of the arguments of the gates' activations; 0 for none */
    double cell_clip; /* bound of the cell state; 0 for none */
    int coupled;      /* forget gate = 1 - input gate */
} le_cell_spec;

/* A stack of cells, all of one hidden and output size. */
typedef struct le_lstm_spec {
    le_dtype dtype;               /* LE_FLOAT64 needs LE_BLAS */
    le_compute_type compute_type; /* all but LE_AS_DTYPE need LE_FLOAT32 and LE_FUSED; int8: at most 2^17
                                     inputs and outputs */
    int without; /* how many of the best extensions for the compute type, such as AMX and VNNI, to leave out:
                    for tests; usually 0 */
    le_backend backend;
    le_sgemm sgemm; /* for LE_BLAS and LE_FLOAT32 */
    le_dgemm dgemm; /* for LE_BLAS and LE_FLOAT64 */
    size_t layers;
    size_t directions;         /* 1 or 2 */
    int reverse;               /* with one direction: time runs backward */
    const le_cell_spec *cells; /* [layers][directions] */
} le_lstm_spec;

typedef struct le_lstm le_lstm;

/* Pack the weights for an instruction set. The spec's arrays are copied and may be freed afterwards.
 *
 * Returns LE_ERROR_ARGUMENT if the sizes do not fit together, LE_ERROR_SIZE, LE_ERROR_MEMORY. */
le_status le_lstm_create(const le_kernels *kernels, const le_lstm_spec *spec, le_lstm **lstm);

/* Free an LSTM; NULL is allowed. */
void le_lstm_destroy(le_lstm *lstm);

/* Name of the instruction set that a compute type would run on, with what it is extended by: "avx512_vnni".
 * `without` as in le_lstm_spec. */
const char *le_kernels_name_for(const le_kernels *kernels, le_compute_type compute_type, int without);

/* Bytes of packed weights. */
size_t le_lstm_memory_bytes(const le_lstm *lstm);

/* What the threads of a run share out. */
typedef enum le_split {
    LE_FASTEST,    /* what is the fastest for the shape */
    LE_ALONE,      /* nothing: one thread */
    LE_ROWS,       /* groups of rows */
    LE_UNITS,      /* the hidden units of every cell, at every step; without a projection */
    LE_DIRECTIONS, /* the two directions of every layer */
    LE_LAYERS      /* the layers of a stack of one direction, each a chunk of time behind the one below */
} le_split;

/* A batch of sequences to run. Pointers are to the LSTM's dtype.
 *
 * The features of one step are contiguous: element (row, step, feature) of x lies at
 * x[row * x_row_stride + step * x_time_stride + feature], and likewise for y. x, y and the states must
 * not overlap. */
typedef struct le_run {
    size_t batch;
    size_t time;
    const void *x; /* (batch, time, input_size) */
    size_t x_row_stride;
    size_t x_time_stride;
    void
        *y; /* sequences: (batch, time, directions * output_size); else (batch, directions * output_size): the
               output of the last processed step of each direction; or NULL: no output but the final state */
    size_t y_row_stride;
    size_t y_time_stride;
    int sequences;
    const void *h0; /* [layers * directions][batch][output_size], or NULL for zero */
    const void *c0; /* [layers * directions][batch][hidden_size], or NULL for zero */
    void *h_n;      /* like h0: the final state, or NULL if not wanted */
    void *c_n;
    const uint8_t *mask;    /* (batch, time) contiguous: 0 where a step is to be skipped; or NULL */
    int zero_masked;        /* output of a skipped step: zero, instead of the previous output */
    const int64_t *lengths; /* (batch,), 0 <= length <= time, or NULL. Not together with mask: outputs past a
                               row's length are zero, and time runs backward from the row's last real step */
    le_threads *threads;    /* whose threads help, or NULL */
    le_split split; /* LE_FASTEST; or another one, to be taken wherever the shape allows it, for tests */
    size_t members; /* threads that take part: what le_lstm_take_threads has set, or 0 or 1 for the caller
                       alone */
    int (*interrupted)(
        void *context); /* called some 20 times a second by the caller's own thread while the run goes
                           on; if it returns 1 the run stops with LE_ERROR_INTERRUPTED. Or NULL */
    void *interrupted_context;
} le_run;

/* Take as many of run->threads for this run as make it faster, and set run->members: 1, and nothing is taken,
 * where one thread is as fast or the pool is busy. le_lstm_workspace_bytes and le_lstm_run come after, then
 * le_lstm_give_threads. The bits do not depend on it. */
void le_lstm_take_threads(const le_lstm *lstm, le_run *run);
void le_lstm_give_threads(le_run *run);

/* Bytes of workspace that le_lstm_run needs for this run (64-byte aligned). Bounded in batch, but for one
 * size_t a row where there are lengths; bounded in time except for bidirectional stacks of several layers. */
le_status le_lstm_workspace_bytes(const le_lstm *lstm, const le_run *run, size_t *bytes);

/* Run a batch of sequences. Allocates nothing. LE_ERROR_INTERRUPTED if run->interrupted said so. */
le_status le_lstm_run(const le_lstm *lstm, const le_run *run, void *workspace);

/* The state of `batch` sequences that advance together through a stack of one direction, forward in time. */
typedef struct le_stream le_stream;

/* Create a stream at state zero. Steps that take long enough are shared out among `threads`, which may be
 * NULL, and split is as in le_run: LE_FASTEST, or LE_UNITS for every step. The bits do not depend on it. */
le_status le_stream_create(const le_lstm *lstm, size_t batch, le_threads *threads, le_split split,
                           le_stream **stream);

/* Free a stream; NULL is allowed. The LSTM and the threads must outlive it. */
void le_stream_destroy(le_stream *stream);

/* Set the state to zero. */
void le_stream_reset(le_stream *stream);

/* Advance every row by one step: x (batch, input_size) and y (batch, output_size), contiguous, not
 * overlapping. Allocates nothing. The same bits as le_lstm_run. */
void le_stream_step(le_stream *stream, const void *x, void *y);

/* Copy the state out or in: h [layers][batch][output_size], c [layers][batch][hidden_size]. */
void le_stream_get_state(const le_stream *stream, void *h, void *c);
void le_stream_set_state(le_stream *stream, const void *h, const void *c);

#ifdef __cplusplus
}
#endif

#endif
