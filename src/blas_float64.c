/* The blas backend in float64. */
#include "activation_float64.h"
#include "lstm.h"

#define REAL double
#define LE_BLAS_NAME le_blas_run_float64
#define GEMM dgemm
#define ACTIVATE(lstm, activation, count, values) le_activate_float64(activation, count, values)
#include "blas_run.inc"
