/* The packed stack behind the opaque le_lstm of the C API. */
#ifndef LE_LSTM_INTERNAL_H
#define LE_LSTM_INTERNAL_H

#include "kernels/kernels.h"
#include "lstm_engine/lstm.h"

/* One cell of the blas backend: canonical weights in the LSTM's dtype, one allocation each. */
typedef struct le_blas_cell {
    le_cell_spec spec; /* its pointers are to our own copies */
    void *storage;     /* all arrays of the cell */
} le_blas_cell;

struct le_lstm {
    const le_kernels *kernels;
    le_dtype dtype;
    le_compute_type compute_type;
    const le_narrow_kernels *narrow; /* of a narrow compute type, or NULL */
    le_backend backend;
    le_sgemm sgemm;
    le_dgemm dgemm;
    size_t layers;
    size_t directions;
    int reverse; /* with one direction */
    size_t input_size;
    size_t hidden_size;
    size_t output_size;
    size_t memory_bytes;
    le_cell *cells;           /* fused: [layers][directions] */
    le_blas_cell *blas_cells; /* blas: [layers][directions] */
};

/* Bytes of one element. */
static inline size_t le_dtype_bytes(le_dtype dtype) {
    return dtype == LE_FLOAT64 ? sizeof(double) : sizeof(float);
}

/* 1 if direction number `direction` of the stack runs backward in time. */
static inline int le_runs_backward(const le_lstm *lstm, size_t direction) {
    return lstm->directions == 2 ? direction == 1 : lstm->reverse;
}

/* Multiply-adds of one step of one row through the whole stack, about. */
static inline double le_step_operations(const le_lstm *lstm) {
    const double outputs = (double)lstm->output_size;
    const double first = (double)lstm->input_size + outputs;
    const double later = (double)lstm->directions * outputs + outputs;
    return 4.0 * (double)lstm->hidden_size * (double)lstm->directions *
           (first + (double)(lstm->layers - 1) * later);
}

/* One run of each backend over a workspace laid out by the plan; see plan.h. */
le_status le_fused_run(const le_lstm *lstm, const le_run *run, void *workspace);
le_status le_blas_run_float32(const le_lstm *lstm, const le_run *run, void *workspace);
le_status le_blas_run_float64(const le_lstm *lstm, const le_run *run, void *workspace);

#endif
