/* Activation functions of the gates, of the hidden state and of dense layers.
 *
 * The same list, with the formulas, stands in lstm_engine/activations.py; a test compares the codes.
 */
#ifndef LSTM_ENGINE_ACTIVATION_H
#define LSTM_ENGINE_ACTIVATION_H

#ifdef __cplusplus
extern "C" {
#endif

typedef enum le_activation_kind {
    LE_LINEAR = 0,
    LE_SIGMOID = 1,
    LE_TANH = 2,
    LE_RELU = 3,
    LE_HARD_SIGMOID = 4,      /* min(max(alpha * x + beta, 0), 1) */
    LE_SOFTSIGN = 5,          /* x / (1 + |x|) */
    LE_ELU = 6,               /* x > 0 ? x : alpha * (exp(x) - 1) */
    LE_SELU = 7,              /* scale * (x > 0 ? x : alpha * (exp(x) - 1)), Klambauer et al. 2017 */
    LE_SOFTPLUS = 8,          /* log(1 + exp(x)) */
    LE_EXPONENTIAL = 9,       /* exp(x) */
    LE_GELU = 10,             /* x / 2 * (1 + erf(x / sqrt(2))), Hendrycks and Gimpel 2016 */
    LE_GELU_TANH = 11,        /* the same with tanh(sqrt(2 / pi) * (x + 0.044715 x^3)) for erf */
    LE_SILU = 12,             /* x / (1 + exp(-x)) */
    LE_LEAKY_RELU = 13,       /* x >= 0 ? x : alpha * x */
    LE_AFFINE = 14,           /* alpha * x + beta */
    LE_THRESHOLDED_RELU = 15, /* x > alpha ? x : 0 */
    LE_SCALED_TANH = 16,      /* alpha * tanh(beta * x) */
    LE_ACTIVATION_COUNT = 17
} le_activation_kind;

/* An activation with its parameters; what a kind does not use is ignored. */
typedef struct le_activation {
    le_activation_kind kind;
    double alpha;
    double beta;
} le_activation;

#ifdef __cplusplus
}
#endif

#endif
