/* What stands around an LSTM in a model: dense layers, activations, softmax, layer normalisation; float32.
 *
 * Like the LSTM's, every row's result has the same bits whatever the other rows are, on every instruction
 * set. */
#ifndef LSTM_ENGINE_DENSE_H
#define LSTM_ENGINE_DENSE_H

#include <stddef.h>

#include "activation.h"
#include "isa.h"
#include "status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct le_linear le_linear;

/* Pack y = activation(x @ kernel + bias).
 *
 * kernel  [input_size][output_size]
 * bias    [output_size], or NULL */
le_status le_linear_create(const le_kernels *kernels, size_t input_size, size_t output_size,
                           const float *kernel, const float *bias, le_activation activation,
                           le_linear **linear);
void le_linear_destroy(le_linear *linear);
size_t le_linear_memory_bytes(const le_linear *linear);

/* x (rows, input_size) with row stride x_stride to y (rows, output_size) with row stride y_stride. */
void le_linear_run(const le_linear *linear, size_t rows, const float *x, size_t x_stride, float *y,
                   size_t y_stride);

/* y[i] = activation(x[i]); y may be x. */
void le_activate(const le_kernels *kernels, le_activation activation, size_t count, const float *x, float *y);

/* Softmax over each contiguous row of `columns`; y may be x. */
void le_softmax(const le_kernels *kernels, size_t rows, size_t columns, const float *x, float *y);

/* Layer normalisation of each contiguous row; gamma and beta [columns] or NULL; y may be x. */
void le_layer_norm(const le_kernels *kernels, size_t rows, size_t columns, const float *x, const float *gamma,
                   const float *beta, float epsilon, float *y);

#ifdef __cplusplus
}
#endif

#endif
