/* Activations in float64, for the blas backend: the C library's functions, in place. */
#ifndef LE_ACTIVATION_FLOAT64_H
#define LE_ACTIVATION_FLOAT64_H

#include <stddef.h>

#include "lstm_engine/activation.h"

/* values[i] = activation(values[i]); the formulas are those of lstm_engine/activations.py. */
void le_activate_float64(le_activation activation, size_t count, double *values);

#endif
