#include "activation_float64.h"

#include <math.h>

static const double SQRT_HALF = 0.70710678118654752440;
static const double SQRT_TWO_OVER_PI = 0.79788456080286535588;
/* Klambauer et al. 2017, "Self-Normalizing Neural Networks". */
static const double SELU_SCALE = 1.0507009873554804934193349852946;
static const double SELU_ALPHA = 1.6732632423543772848170429916717;

static double activate_one(le_activation_kind kind, double alpha, double beta, double x) {
    switch (kind) {
    case LE_SIGMOID:
        return 1.0 / (1.0 + exp(-x));
    case LE_TANH:
        return tanh(x);
    case LE_RELU:
        /* Written so that NaN stays NaN, here and below. */
        return x < 0.0 ? 0.0 : x;
    case LE_HARD_SIGMOID: {
        const double value = alpha * x + beta;
        return value < 0.0 ? 0.0 : value > 1.0 ? 1.0 : value;
    }
    case LE_SOFTSIGN:
        return x / (1.0 + fabs(x));
    case LE_ELU:
        return x > 0.0 ? x : alpha * expm1(x);
    case LE_SELU:
        return SELU_SCALE * (x > 0.0 ? x : SELU_ALPHA * expm1(x));
    case LE_SOFTPLUS:
        return x > 0.0 ? x + log1p(exp(-x)) : log1p(exp(x));
    case LE_EXPONENTIAL:
        return exp(x);
    case LE_GELU:
        return 0.5 * x * erfc(-x * SQRT_HALF);
    case LE_GELU_TANH:
        return 0.5 * x * (1.0 + tanh(SQRT_TWO_OVER_PI * (x + 0.044715 * x * x * x)));
    case LE_SILU:
        return x / (1.0 + exp(-x));
    case LE_LEAKY_RELU:
        return x < 0.0 ? alpha * x : x;
    case LE_AFFINE:
        return alpha * x + beta;
    case LE_THRESHOLDED_RELU:
        return x > alpha || x != x ? x : 0.0;
    case LE_SCALED_TANH:
        return alpha * tanh(beta * x);
    case LE_LINEAR:
    case LE_ACTIVATION_COUNT:
        break;
    }
    return x;
}

void le_activate_float64(le_activation activation, size_t count, double *values) {
    for (size_t index = 0; index < count; index++) {
        values[index] = activate_one(activation.kind, activation.alpha, activation.beta, values[index]);
    }
}
