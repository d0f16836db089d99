/* The functions that test_simd_math.c tests: each over the vocabulary, in double precision, and how far apart
 * the two may be, as math.h states it.
 */
#ifndef LE_TESTS_SIMD_FUNCTIONS_H
#define LE_TESTS_SIMD_FUNCTIONS_H

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "simd/math.h"

/* ---- the functions under test ---- */

/* Runs of whole vectors and a tail, as kernels have them. `a` and `b` are the arguments in `expression`. */
#define APPLY(name, expression)                                                                              \
    static void apply_##name(const float *first, const float *second, float *out, size_t count) {            \
        size_t done = 0;                                                                                     \
        for (; done + V_LANES <= count; done += V_LANES) {                                                   \
            const vf a = vf_load(first + done), b = vf_load(second + done);                                  \
            (void)b;                                                                                         \
            vf_store(out + done, expression);                                                                \
        }                                                                                                    \
        if (done < count) {                                                                                  \
            const vf a = vf_load_n(first + done, count - done), b = vf_load_n(second + done, count - done);  \
            (void)b;                                                                                         \
            vf_store_n(out + done, expression, count - done);                                                \
        }                                                                                                    \
    }

APPLY(exp, vf_exp(a))
APPLY(expm1, vf_expm1(a))
APPLY(log1p, vf_log1p(a))
APPLY(erf, vf_erf(a))
APPLY(sigmoid, vf_sigmoid(a))
APPLY(tanh, vf_tanh(a))
APPLY(sigmoid_times, vf_sigmoid_times(a, b))
APPLY(sigmoid_tanh, vf_sigmoid_tanh(a, b))
APPLY(linear, vf_activate(LE_LINEAR, 0.0f, 0.0f, a))
APPLY(activate_sigmoid, vf_activate(LE_SIGMOID, 0.0f, 0.0f, a))
APPLY(activate_tanh, vf_activate(LE_TANH, 0.0f, 0.0f, a))
APPLY(relu, vf_activate(LE_RELU, 0.0f, 0.0f, a))
APPLY(hard_sigmoid, vf_activate(LE_HARD_SIGMOID, 0.2f, 0.5f, a))
APPLY(softsign, vf_activate(LE_SOFTSIGN, 0.0f, 0.0f, a))
APPLY(elu, vf_activate(LE_ELU, 1.5f, 0.0f, a))
APPLY(selu, vf_activate(LE_SELU, 0.0f, 0.0f, a))
APPLY(softplus, vf_activate(LE_SOFTPLUS, 0.0f, 0.0f, a))
APPLY(exponential, vf_activate(LE_EXPONENTIAL, 0.0f, 0.0f, a))
APPLY(gelu, vf_activate(LE_GELU, 0.0f, 0.0f, a))
APPLY(gelu_tanh, vf_activate(LE_GELU_TANH, 0.0f, 0.0f, a))
APPLY(silu, vf_activate(LE_SILU, 0.0f, 0.0f, a))
APPLY(leaky_relu, vf_activate(LE_LEAKY_RELU, 0.01f, 0.0f, a))
APPLY(affine, vf_activate(LE_AFFINE, 0.75f, -0.1f, a))
APPLY(thresholded_relu, vf_activate(LE_THRESHOLDED_RELU, 1.25f, 0.0f, a))
APPLY(scaled_tanh, vf_activate(LE_SCALED_TANH, 1.7159f, 0.6666667f, a))

/* ---- the same in double precision ---- */

static double sigmoid64(double a) {
    return 1.0 / (1.0 + exp(-a));
}
#define REFERENCE(name, expression)                                                                          \
    static double reference_##name(double a, double b) {                                                     \
        (void)b;                                                                                             \
        return expression;                                                                                   \
    }
REFERENCE(exp, exp(a))
REFERENCE(expm1, expm1(a))
REFERENCE(log1p, log1p(a))
REFERENCE(erf, erf(a))
REFERENCE(sigmoid, sigmoid64(a))
REFERENCE(tanh, tanh(a))
REFERENCE(sigmoid_times, b *sigmoid64(a))
REFERENCE(sigmoid_tanh, tanh(b) * sigmoid64(a))
REFERENCE(linear, a)
REFERENCE(activate_sigmoid, sigmoid64(a))
REFERENCE(activate_tanh, tanh(a))
REFERENCE(relu, isnan(a) || a > 0.0 ? a : 0.0)
REFERENCE(hard_sigmoid, isnan(a) ? a : fmin(fmax((double)0.2f * a + 0.5, 0.0), 1.0))
REFERENCE(softsign, a / (1.0 + fabs(a)))
REFERENCE(elu, a > 0.0 ? a : 1.5 * expm1(a))
REFERENCE(selu, 1.0507009873554805 * (a > 0.0 ? a : 1.6732632423543772 * expm1(a)))
REFERENCE(softplus, (a > 0.0 || isnan(a) ? a : 0.0) + log1p(exp(-fabs(a))))
REFERENCE(exponential, exp(a))
REFERENCE(gelu, 0.5 * a * erfc(-a / sqrt(2.0)))
REFERENCE(gelu_tanh, a *sigmoid64(2.0 * sqrt(2.0 / acos(-1.0)) * (a + 0.044715 * a * a * a)))
REFERENCE(silu, a *sigmoid64(a))
REFERENCE(leaky_relu, a >= 0.0 ? a : (double)0.01f * a)
REFERENCE(affine, (double)0.75f * a + (double)-0.1f)
REFERENCE(thresholded_relu, isnan(a) || a > 1.25 ? a : 0.0)
REFERENCE(scaled_tanh, (double)1.7159f * tanh((double)0.6666667f * a))

/* ---- what is allowed, as stated in math.h ---- */

/* One unit in the last place of the float32 nearest to value. */
static double unit_of(double value) {
    int exponent;
    const double nearest = fmin(fabs((double)(float)value), FLT_MAX);
    frexp(nearest, &exponent);
    return ldexp(1.0, (nearest < (double)FLT_MIN ? -125 : exponent) - 24);
}

/* Allowed absolute error beyond the function's units, for those whose bound is not a number of units alone.
 */
static double slack_gelu(double a, double b) {
    (void)b;
    return a < 0.0 ? 0.75 * fabs(a) * 0x1p-24 : 0.0;
}
static double slack_gelu_tanh(double a, double b) {
    const double twice_z = 2.0 * sqrt(2.0 / acos(-1.0)) * fabs(a + 0.044715 * a * a * a);
    return a < 0.0 ? fmin(2.5 * twice_z * unit_of(reference_gelu_tanh(a, b)), fabs(a)) : 0.0;
}
static double slack_sigmoid_times(double a, double b) {
    (void)b;
    return a < -168.7 ? 0x1p-115 : 0.0;
}

typedef struct function {
    const char *name;
    void (*apply)(const float *first, const float *second, float *out, size_t count);
    double (*reference)(double a, double b);
    double units; /* allowed error in units in the last place */
    double (*slack)(double a, double b);
    float low, high; /* the function's range */
} function;

#define FUNCTION(name, units, slack, low, high)                                                              \
    {#name, apply_##name, reference_##name, units, slack, low, high}
static const function functions[] = {
    FUNCTION(exp, 1.02, NULL, 0.0f, INFINITY),
    FUNCTION(expm1, 1.5, NULL, -1.0f, INFINITY),
    FUNCTION(log1p, 1.5, NULL, -INFINITY, INFINITY),
    FUNCTION(erf, 1.2, NULL, -1.0f, 1.0f),
    FUNCTION(sigmoid, 3.5, NULL, 0.0f, 1.0f),
    FUNCTION(tanh, 5.0, NULL, -1.0f, 1.0f),
    FUNCTION(sigmoid_times, 4.0, slack_sigmoid_times, -INFINITY, INFINITY),
    FUNCTION(sigmoid_tanh, 7.0, NULL, -1.0f, 1.0f),
    FUNCTION(linear, 0.0, NULL, -INFINITY, INFINITY),
    FUNCTION(activate_sigmoid, 3.5, NULL, 0.0f, 1.0f),
    FUNCTION(activate_tanh, 5.0, NULL, -1.0f, 1.0f),
    FUNCTION(relu, 0.0, NULL, -0.0f, INFINITY),
    FUNCTION(hard_sigmoid, 0.5000001, NULL, 0.0f, 1.0f),
    FUNCTION(softsign, 1.5, NULL, -1.0f, 1.0f),
    FUNCTION(elu, 2.0, NULL, -1.5f, INFINITY),
    FUNCTION(selu, 2.0, NULL, -1.7580994f, INFINITY),
    FUNCTION(softplus, 1.8, NULL, 0.0f, INFINITY),
    FUNCTION(exponential, 1.02, NULL, 0.0f, INFINITY),
    FUNCTION(gelu, 1.2, slack_gelu, -0.17f, INFINITY),
    FUNCTION(gelu_tanh, 3.5, slack_gelu_tanh, -0.1701f, INFINITY),
    FUNCTION(silu, 4.0, NULL, -0.2785f, INFINITY),
    FUNCTION(leaky_relu, 0.5000001, NULL, -INFINITY, INFINITY),
    FUNCTION(affine, 0.5000001, NULL, -INFINITY, INFINITY),
    FUNCTION(thresholded_relu, 0.0, NULL, 0.0f, INFINITY),
    FUNCTION(scaled_tanh, 6.0, NULL, -1.7159001f, 1.7159001f),
};
#define FUNCTION_COUNT (sizeof functions / sizeof functions[0])

static const function *function_named(const char *name) {
    for (size_t index = 0; index < FUNCTION_COUNT; index++) {
        if (strcmp(functions[index].name, name) == 0) {
            return &functions[index];
        }
    }
    return NULL;
}

#endif
