/* The blas backend in float32; activations come from the instruction set's own table. */
#include "lstm.h"

#define REAL float
#define LE_BLAS_NAME le_blas_run_float32
#define GEMM sgemm
#define ACTIVATE(lstm, activation, count, values) (lstm)->kernels->activate(activation, count, values, values)
#include "blas_run.inc"
