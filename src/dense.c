#include "lstm_engine/dense.h"

#include <string.h>

#include "kernels/kernels.h"
#include "memory.h"

le_status le_linear_create(const le_kernels *kernels, size_t input_size, size_t output_size,
                           const float *kernel, const float *bias, le_activation activation,
                           le_linear **result) {
    size_t padded_bytes, elements;
    if (kernels == NULL || result == NULL || output_size == 0 || (kernel == NULL && input_size != 0) ||
        (unsigned)activation.kind >= LE_ACTIVATION_COUNT) {
        return LE_ERROR_ARGUMENT;
    }
    const size_t lanes = kernels->lanes;
    if (le_add(output_size, 4 * lanes, &elements) != LE_OK ||
        le_multiply(elements, sizeof(float), &padded_bytes) != LE_OK ||
        le_multiply(padded_bytes, input_size, &elements) != LE_OK) {
        return LE_ERROR_SIZE;
    }
    le_linear *linear = le_allocate(1, sizeof *linear);
    if (linear == NULL) {
        return LE_ERROR_MEMORY;
    }
    const size_t blocks = (output_size + 4 * lanes - 1) / (4 * lanes);
    const size_t last = le_linear_block_vectors(output_size, lanes, blocks - 1);
    linear->kernels = kernels;
    linear->input_size = input_size;
    linear->output_size = output_size;
    linear->activation = activation;
    linear->panel_floats = ((blocks - 1) * 4 + last) * lanes * input_size;
    linear->panels = le_allocate(linear->panel_floats, sizeof(float));
    linear->bias = le_allocate(blocks * 4 * lanes, sizeof(float));
    if (linear->panels == NULL || linear->bias == NULL) {
        le_linear_destroy(linear);
        return LE_ERROR_MEMORY;
    }
    float *panel = linear->panels;
    for (size_t block = 0; block < blocks; block++) {
        const size_t first = block * 4 * lanes;
        const size_t width = le_linear_block_vectors(output_size, lanes, block) * lanes;
        const size_t used = le_min_size(width, output_size - first);
        for (size_t row = 0; row < input_size; row++) {
            memcpy(panel + row * width, kernel + row * output_size + first, used * sizeof(float));
        }
        panel += input_size * width;
    }
    if (bias != NULL) {
        memcpy(linear->bias, bias, output_size * sizeof(float));
    }
    *result = linear;
    return LE_OK;
}

void le_linear_destroy(le_linear *linear) {
    if (linear != NULL) {
        le_free(linear->panels);
        le_free(linear->bias);
        le_free(linear);
    }
}

size_t le_linear_memory_bytes(const le_linear *linear) {
    const size_t block = 4 * linear->kernels->lanes;
    return sizeof *linear + (linear->panel_floats + le_round_up(linear->output_size, block)) * sizeof(float);
}

/* Rows taken at a time: enough for the weights of a block to stay in cache over several tiles of rows. */
enum { LINEAR_ROWS = 64 };

void le_linear_run(const le_linear *linear, size_t rows, const float *x, size_t x_stride, float *y,
                   size_t y_stride) {
    const float *x_rows[LINEAR_ROWS];
    float *y_rows[LINEAR_ROWS];
    for (size_t first = 0; first < rows; first += LINEAR_ROWS) {
        const size_t count = le_min_size(LINEAR_ROWS, rows - first);
        for (size_t row = 0; row < count; row++) {
            x_rows[row] = x + (first + row) * x_stride;
            y_rows[row] = y + (first + row) * y_stride;
        }
        linear->kernels->linear(linear, count, x_rows, y_rows);
    }
}

void le_activate(const le_kernels *kernels, le_activation activation, size_t count, const float *x,
                 float *y) {
    kernels->activate(activation, count, x, y);
}

void le_softmax(const le_kernels *kernels, size_t rows, size_t columns, const float *x, float *y) {
    if (columns != 0) {
        kernels->softmax(rows, columns, x, y);
    }
}

void le_layer_norm(const le_kernels *kernels, size_t rows, size_t columns, const float *x, const float *gamma,
                   const float *beta, float epsilon, float *y) {
    if (columns != 0) {
        kernels->layer_norm(rows, columns, x, gamma, beta, epsilon, y);
    }
}
