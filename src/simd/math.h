/* Elementary functions over the SIMD vocabulary.
 *
 * Every function gives the same bits on every instruction set for every float32 (except a NaN's sign and
 * payload): it is one fixed sequence of correctly rounded additions, products, FMAs, divisions and integer
 * operations on bits. There are no tables and no approximate instructions, which differ between makers.
 *
 * "ULP" is the largest error measured against the C library in double precision, in units in the last place
 * of the correctly rounded float32: over every float32 with 2^-14 <= |x| < 256 and a dense sample of the
 * others, for two arguments over random pairs (tests/c/test_simd_math.c). Below 2^-126 a unit is 2^-149:
 * results underflow gradually.
 *
 * Coefficients are made by tools/fit_coefficients.py; the name of a coefficient ends with its power of the
 * argument.
 */
#ifndef LE_SIMD_MATH_H
#define LE_SIMD_MATH_H

#include <float.h>
#include <math.h>

#include "lstm_engine/activation.h"
#include "simd.h"

/* ---- exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln(2) / 2 ---- */

/* Adding 1.5 * 2^23 leaves a float of unit spacing: it rounds to an integer, to nearest even, and the integer
 * then stands in the low bits of the float. With LE_MAGIC + b it is n + b that stands there; shifted left by
 * 23, the eight bits of n + 127 are the float 2^n. */
#define LE_MAGIC 12582912.0f
#define LE_MAGIC_BITS 0x4B400000

#define LE_LOG2_E 1.442695f /* 1 / ln(2) */
/* Cody and Waite: n * LE_LN2_HIGH is exact (15 + 8 bits), so that r carries no error but its own rounding. */
#define LE_LN2_HIGH 6.9314575e-1f
#define LE_LN2_LOW 1.4286068e-6f

/* exp(r) = 1 + r + r^2 (C2 + ... ), largest relative error 0.052 * 2^-24 */
#define LE_EXP6_C2 4.9999994e-1f
#define LE_EXP6_C3 1.6666521e-1f
#define LE_EXP6_C4 4.1668255e-2f
#define LE_EXP6_C5 8.368663e-3f
#define LE_EXP6_C6 1.3821464e-3f

/* exp(x): 1.02 ULP.
 * Special: exp(-inf) = +0, exp(+inf) = +inf, NaN stays NaN; overflows above 88.7228, underflows to 0 below
 * -103.97. */
V_INLINE vf vf_exp(vf x) {
    /* exp(89) is past the largest float and exp(-104) under half the smallest: the clamps change no result,
     * and keep n within what vf_ldexp takes. */
    const vf clamped = vf_max(vf_set1(-104.0f), vf_min(vf_set1(89.0f), x));
    const vf n = vf_sub(vf_fma(clamped, vf_set1(LE_LOG2_E), vf_set1(LE_MAGIC)), vf_set1(LE_MAGIC));
    const vf r = vf_fnma(n, vf_set1(LE_LN2_LOW), vf_fnma(n, vf_set1(LE_LN2_HIGH), clamped));
    vf q = vf_fma(r, vf_set1(LE_EXP6_C6), vf_set1(LE_EXP6_C5));
    q = vf_fma(r, q, vf_set1(LE_EXP6_C4));
    q = vf_fma(r, q, vf_set1(LE_EXP6_C3));
    q = vf_fma(r, q, vf_set1(LE_EXP6_C2));
    const vf p = vf_add(vf_set1(1.0f), vf_fma(vf_mul(r, r), q, r));
    return vf_ldexp(p, n);
}

/* ---- sigmoid and its fused forms ---- */

/* exp(r) = 1 + r + r^2 (C2 + C3 r + C4 r^2 + C5 r^3), largest relative error 1.76 * 2^-24. A sixth
 * coefficient would take sigmoid from 3.5 to 3.0 ULP, and 4 (AVX-512) to 7% (AVX2) more time for an LSTM
 * cell. */
#define LE_EXP5_C2 4.999923e-1f
#define LE_EXP5_C3 1.6667113e-1f
#define LE_EXP5_C4 4.189019e-2f
#define LE_EXP5_C5 8.3126845e-3f

/* Largest n for which the denominators below, up to 2^8.1 * (1 + 1.42 * 2^n), are finite, with room left. */
#define LE_SIGMOID_SPLIT 117

/* sigmoid(a) = 1 / (1 + exp(-a)) as the fraction shrink / (1 + p * scale).
 *
 * exp(-a) overflows below a = -88.7, where sigmoid(a) is still a denormal float, and sigmoid(a) times
 * something large a normal one. So exp(-a) = p * 2^n is split: scale = 2^min(n, 117) goes to the denominator,
 * where the 1 no longer counts, and shrink = 2^(117 - max(n, 117)) to the numerator. From n = 244 on (a <=
 * -168.8) shrink is 0.
 */
V_INLINE void vf_sigmoid_parts(vf a, vf *p, vf *scale, vf *shrink) {
    /* Above 25 exp(-a) is under 2^-36 and lost beside 1 (17.4 would do). Below, -169.2 gives n = 244, where
     * shrink becomes 0: sigmoid of -200 or -inf is 0 and not some tiny number, which a huge factor could make
     * visible. */
    const vf clamped = vf_max(vf_set1(-169.2f), vf_min(vf_set1(25.0f), a));
    const vf biased = vf_fma(clamped, vf_set1(-LE_LOG2_E), vf_set1(LE_MAGIC + 127.0f));
    const vf n = vf_sub(biased, vf_set1(LE_MAGIC + 127.0f));
    /* Minus the reduced argument; the odd coefficients below have their signs changed for it. */
    const vf minus_r = vf_fma(n, vf_set1(LE_LN2_LOW), vf_fma(n, vf_set1(LE_LN2_HIGH), clamped));
    /* Pairwise instead of Horner's chain: 8 cycles less latency in a cell, one addition more where ports are
     * free. */
    const vf r_squared = vf_mul(minus_r, minus_r);
    const vf low = vf_fma(minus_r, vf_set1(-LE_EXP5_C3), vf_set1(LE_EXP5_C2));
    const vf high = vf_fma(minus_r, vf_set1(-LE_EXP5_C5), vf_set1(LE_EXP5_C4));
    *p = vf_fma(r_squared, vf_fma(r_squared, high, low), vf_sub(vf_set1(1.0f), minus_r));

    const vf split = vf_set1(LE_MAGIC + 127.0f + LE_SIGMOID_SPLIT);
    *scale = vf_from_bits(vi_shift_left(vf_bits(vf_min(split, biased)), 23));
    const vi shrink_exponent =
        vi_sub(vi_set1(LE_MAGIC_BITS + 127 + 127 + LE_SIGMOID_SPLIT), vf_bits(vf_max(split, biased)));
    *shrink = vf_from_bits(vi_shift_left(shrink_exponent, 23));
}

/* sigmoid(x) = 1 / (1 + exp(-x)): 3.5 ULP.
 * Special: sigmoid(-inf) = +0, sigmoid(+inf) = 1, sigmoid(0) = 0.5, NaN stays NaN; never above 1; +0 below
 * -103.98. */
V_INLINE vf vf_sigmoid(vf x) {
    vf p, scale, shrink;
    vf_sigmoid_parts(x, &p, &scale, &shrink);
    return vf_div(shrink, vf_fma(p, scale, vf_set1(1.0f)));
}

/* sigmoid(a) * b = b / (1 + exp(-a)), one division: 4 ULP.
 * Special: NaN in either gives NaN; a = +inf gives b, a = -inf gives 0 with b's sign for finite b and NaN for
 * infinite b (0 times infinity, and as the formula gives). Exact in range: where exp(-a) is past the largest
 * float the product is still right, down to a = -168.8; below that it is 0, which is off by less than 2^-115.
 */
V_INLINE vf vf_sigmoid_times(vf a, vf b) {
    vf p, scale, shrink;
    vf_sigmoid_parts(a, &p, &scale, &shrink);
    return vf_div(vf_mul(b, shrink), vf_fma(p, scale, vf_set1(1.0f)));
}

/* ---- tanh(x) = x P(x^2) / Q(x^2) ---- */

/* Numerator x + P3 x^3 + ..., denominator 1 + Q2 x^2 + ...; largest relative error 0.149 * 2^-24 on
 * [0, 8.2]. Degree 9 over 8 costs one FMA less than 13 over 6 with a third of its error, and no coefficient
 * is negative: nothing cancels. Both constant terms are exactly 1, so that tanh(x) = x for every small x,
 * denormals included. */
#define LE_TANH_P3 1.3434541e-1f
#define LE_TANH_P5 3.5595265e-3f
#define LE_TANH_P7 2.1682965e-5f
#define LE_TANH_P9 1.4902492e-8f
#define LE_TANH_Q2 4.676787e-1f
#define LE_TANH_Q4 2.6119184e-2f
#define LE_TANH_Q6 3.3910375e-4f
#define LE_TANH_Q8 8.396207e-7f
/* The first float32 at which the fraction divides to exactly 1: below it tanh is below 1, from it on it is 1
 * (the true tanh rounds to 1 from 9.01 on, and is 1 - 3.5 * 2^-24 here). */
#define LE_TANH_CLAMP 8.041272f

/* tanh(x) = numerator / denominator with 1 <= denominator < 2^8.1; a NaN is in both. */
V_INLINE void vf_tanh_fraction(vf x, vf *numerator, vf *denominator) {
    const vf clamped = vf_max(vf_set1(-LE_TANH_CLAMP), vf_min(vf_set1(LE_TANH_CLAMP), x));
    const vf u = vf_mul(clamped, clamped);
    const vf cube = vf_mul(clamped, u);
    vf p = vf_fma(u, vf_set1(LE_TANH_P9), vf_set1(LE_TANH_P7));
    vf q = vf_fma(u, vf_set1(LE_TANH_Q8), vf_set1(LE_TANH_Q6));
    p = vf_fma(u, p, vf_set1(LE_TANH_P5));
    q = vf_fma(u, q, vf_set1(LE_TANH_Q4));
    p = vf_fma(u, p, vf_set1(LE_TANH_P3));
    q = vf_fma(u, q, vf_set1(LE_TANH_Q2));
    /* x + x^3 p instead of x (1 + x^2 p): as many operations, one less in the chain, and for |x| < 1, where x
     * carries the sum, 2.4 ULP instead of 3.2. */
    *numerator = vf_fma(cube, p, clamped);
    *denominator = vf_fma(u, q, vf_set1(1.0f));
}

/* tanh(x): 5 ULP, 2.5 ULP for |x| < 1.
 * Special: tanh(+-inf) = +-1, tanh(-0) = -0, NaN stays NaN; |tanh(x)| <= 1, equal from 8.041272 on. */
V_INLINE vf vf_tanh(vf x) {
    vf numerator, denominator;
    vf_tanh_fraction(x, &numerator, &denominator);
    return vf_div(numerator, denominator);
}

/* sigmoid(a) * tanh(b) as one fraction, one division: 7 ULP.
 * Special: NaN in either gives NaN; a = +inf gives the bits of vf_tanh(b), a = -inf gives 0 with b's sign. */
V_INLINE vf vf_sigmoid_tanh(vf a, vf b) {
    vf p, scale, shrink, numerator, denominator;
    vf_sigmoid_parts(a, &p, &scale, &shrink);
    vf_tanh_fraction(b, &numerator, &denominator);
    /* 1 + exp(-a) first: it is there before the denominator where b is the younger of the two, as a cell's
     * state is. */
    return vf_div(vf_mul(numerator, shrink), vf_mul(denominator, vf_fma(p, scale, vf_set1(1.0f))));
}

/* ---- expm1, log1p, erf ---- */

/* exp(r) - 1 = r + r^2 (C2 + ... ), largest relative error 0.0073 * 2^-24 */
#define LE_EXPM1_C2 5.0e-1f
#define LE_EXPM1_C3 1.6666666e-1f
#define LE_EXPM1_C4 4.1666493e-2f
#define LE_EXPM1_C5 8.333547e-3f
#define LE_EXPM1_C6 1.3932324e-3f
#define LE_EXPM1_C7 1.976067e-4f

/* exp(x) - 1 = 2^n (exp(r) - 1) + (2^n - 1), relatively accurate around 0: 1.5 ULP.
 * Special: expm1(-inf) = -1, expm1(+inf) = +inf, expm1(-0) = -0, NaN stays NaN. */
V_INLINE vf vf_expm1(vf x) {
    /* exp(-18) is under 2^-25 and lost beside -1; exp(89) is past the largest float. */
    const vf clamped = vf_max(vf_set1(-18.0f), vf_min(vf_set1(89.0f), x));
    const vf biased = vf_fma(clamped, vf_set1(LE_LOG2_E), vf_set1(LE_MAGIC + 126.0f));
    const vf n = vf_sub(biased, vf_set1(LE_MAGIC + 126.0f));
    const vf r = vf_fnma(n, vf_set1(LE_LN2_LOW), vf_fnma(n, vf_set1(LE_LN2_HIGH), clamped));
    vf q = vf_fma(r, vf_set1(LE_EXPM1_C7), vf_set1(LE_EXPM1_C6));
    q = vf_fma(r, q, vf_set1(LE_EXPM1_C5));
    q = vf_fma(r, q, vf_set1(LE_EXPM1_C4));
    q = vf_fma(r, q, vf_set1(LE_EXPM1_C3));
    q = vf_fma(r, q, vf_set1(LE_EXPM1_C2));
    const vf p = vf_fma(vf_mul(r, r), q, r);
    /* Half the result, because 2^128 is no float while half of the largest results is. */
    const vf half_scale = vf_from_bits(vi_shift_left(vf_bits(biased), 23));
    const vf half = vf_fma(p, half_scale, vf_sub(half_scale, vf_set1(0.5f)));
    /* x itself up to 2^-30, where x^2 / 2 is no longer seen: halving denormals would round them, -0 become
     * +0. */
    return vf_select_gt(vf_set1(0x1p-30f), vf_abs(x), x, vf_add(half, half));
}

/* log(1 + f) = f + f^2 (C2 + ... ) on [-0.25, 0.5], largest relative error 0.083 * 2^-24 */
#define LE_LN2 6.931472e-1f
#define LE_LOG1P_C2 -5.0e-1f
#define LE_LOG1P_C3 3.333345e-1f
#define LE_LOG1P_C4 -2.500011e-1f
#define LE_LOG1P_C5 1.9990848e-1f
#define LE_LOG1P_C6 -1.6646877e-1f
#define LE_LOG1P_C7 1.4477625e-1f
#define LE_LOG1P_C8 -1.3163957e-1f
#define LE_LOG1P_C9 1.04726434e-1f
#define LE_LOG1P_C10 -4.5153163e-2f

/* log(1 + x) = n ln(2) + log(1 + f), 1 + f = (1 + x) / 2^n in [0.75, 1.5), relatively accurate around 0:
 * 1.3 ULP.
 * Special: log1p(-1) = -inf, below -1 NaN, log1p(+inf) = +inf, log1p(-0) = -0, NaN stays NaN. */
V_INLINE vf vf_log1p(vf x) {
    /* n * 2^23: what the bits of 1 + x exceed those of 0.75 by, without the fraction. */
    const vi above = vi_sub(vf_bits(vf_add(vf_set1(1.0f), x)), vi_set1(0x3F400000));
    const vi n_bits = vi_and(above, vi_set1(-0x00800000));
    /* f = x / 2^n + (1 / 2^n - 1) from x, not from the rounded 1 + x: no bit of a small x is lost. 4 / 2^n is
     * a normal float for every n, 1 / 2^n is not. */
    const vf four_scaled = vf_from_bits(vi_sub(vi_set1(0x40800000), n_bits));
    const vf x_scaled = vf_from_bits(vi_sub(vf_bits(x), n_bits));
    const vf f = vf_add(x_scaled, vf_fma(vf_set1(0.25f), four_scaled, vf_set1(-1.0f)));
    vf q = vf_fma(f, vf_set1(LE_LOG1P_C10), vf_set1(LE_LOG1P_C9));
    q = vf_fma(f, q, vf_set1(LE_LOG1P_C8));
    q = vf_fma(f, q, vf_set1(LE_LOG1P_C7));
    q = vf_fma(f, q, vf_set1(LE_LOG1P_C6));
    q = vf_fma(f, q, vf_set1(LE_LOG1P_C5));
    q = vf_fma(f, q, vf_set1(LE_LOG1P_C4));
    q = vf_fma(f, q, vf_set1(LE_LOG1P_C3));
    q = vf_fma(f, q, vf_set1(LE_LOG1P_C2));
    const vf log_f = vf_fma(vf_mul(f, f), q, f);
    const vf n = vi_to_vf(vi_shift_right(n_bits, 23));
    /* The result has the sign of x; a sum gives +0 for -0. */
    const vf inside = vf_copysign(vf_fma(n, vf_set1(LE_LN2), log_f), x);
    const vf outside = vf_select_ge(x, vf_set1(-1.0f), vf_set1(-INFINITY), vf_set1(NAN));
    const vf finite = vf_select_gt(x, vf_set1(-1.0f), inside, outside);
    return vf_select_gt(x, vf_set1(FLT_MAX), x, finite);
}

/* erf(x) - x = x (C1 + C3 x^2 + ... ) on [0, 0.92], largest error 0.26 * 2^-24 of erf(x) */
#define LE_ERF_SMALL_C1 1.2837915e-1f
#define LE_ERF_SMALL_C3 -3.76125e-1f
#define LE_ERF_SMALL_C5 1.1281877e-1f
#define LE_ERF_SMALL_C7 -2.676858e-2f
#define LE_ERF_SMALL_C9 4.995854e-3f
#define LE_ERF_SMALL_C11 -6.003808e-4f
/* -log(1 - erf(x)) = x (C1 + C2 x + ... ) on [0.92, 4], whose error costs erf(x) at most 0.013 * 2^-24 */
#define LE_ERF_LARGE_C1 1.1286485f
#define LE_ERF_LARGE_C2 6.351512e-1f
#define LE_ERF_LARGE_C3 1.0623703e-1f
#define LE_ERF_LARGE_C4 -2.3762163e-2f
#define LE_ERF_LARGE_C5 3.6424857e-3f
#define LE_ERF_LARGE_C6 -3.2280418e-4f
#define LE_ERF_LARGE_C7 1.1230621e-5f

/* erf(x), 1.1 ULP: a polynomial up to 0.92, 1 - exp(-polynomial) above, because a fraction like that of tanh
 * comes to 6 ULP. Special: erf(+-inf) = +-1, erf(-0) = -0, NaN stays NaN; |erf(x)| <= 1. */
V_INLINE vf vf_erf(vf x) {
    const vf magnitude = vf_abs(x);
    const vf u = vf_mul(x, x);
    vf s = vf_fma(u, vf_set1(LE_ERF_SMALL_C11), vf_set1(LE_ERF_SMALL_C9));
    s = vf_fma(u, s, vf_set1(LE_ERF_SMALL_C7));
    s = vf_fma(u, s, vf_set1(LE_ERF_SMALL_C5));
    s = vf_fma(u, s, vf_set1(LE_ERF_SMALL_C3));
    s = vf_fma(u, s, vf_set1(LE_ERF_SMALL_C1));
    const vf small = vf_fma(x, s, x);

    /* 1 - erf(4) is 1.54e-8, under a quarter of the spacing of floats below 1: lost in the subtraction. */
    const vf z = vf_min(vf_set1(4.0f), magnitude);
    vf t = vf_fma(z, vf_set1(LE_ERF_LARGE_C7), vf_set1(LE_ERF_LARGE_C6));
    t = vf_fma(z, t, vf_set1(LE_ERF_LARGE_C5));
    t = vf_fma(z, t, vf_set1(LE_ERF_LARGE_C4));
    t = vf_fma(z, t, vf_set1(LE_ERF_LARGE_C3));
    t = vf_fma(z, t, vf_set1(LE_ERF_LARGE_C2));
    t = vf_fma(z, t, vf_set1(LE_ERF_LARGE_C1));
    const vf large = vf_sub(vf_set1(1.0f), vf_exp(vf_neg(vf_mul(z, t))));

    return vf_select_gt(magnitude, vf_set1(0.92f), vf_copysign(large, x), small);
}

/* ---- activations ---- */

/* log(1 + exp(x)) = max(x, 0) + log1p(exp(-|x|)), accurate on both sides and down to the denormals. */
V_INLINE vf vf_softplus(vf x) {
    return vf_add(vf_max(vf_zero(), x), vf_log1p(vf_exp(vf_neg(vf_abs(x)))));
}

/* x / 2 * (1 + erf(x / sqrt(2))), Hendrycks and Gimpel 2016. */
V_INLINE vf vf_gelu(vf x) {
    const vf half = vf_mul(vf_set1(0.5f), x);
    return vf_fma(half, vf_erf(vf_mul(vf_set1(0.70710678f), x)), half);
}

/* x / 2 * (1 + tanh(z)), z = sqrt(2 / pi) (x + 0.044715 x^3), by the identity (1 + tanh(z)) / 2 = sigmoid(2
 * z), which does not cancel for negative x. */
V_INLINE vf vf_gelu_tanh(vf x) {
    const vf inner = vf_fma(vf_mul(x, x), vf_set1(0.0713548162726f), vf_set1(1.59576912161f));
    return vf_sigmoid_times(vf_mul(x, inner), x);
}

/* alpha * (exp(x) - 1) where x <= 0, positive * x elsewhere. */
V_INLINE vf vf_elu(vf x, vf alpha, vf positive) {
    return vf_select_gt(x, vf_zero(), vf_mul(positive, x), vf_mul(alpha, vf_expm1(vf_min(vf_zero(), x))));
}

/* The activation `kind` of x, formulas as in lstm_engine/activation.h. NaN in is NaN out for every kind;
 * where a formula in float32 comes to infinity / infinity or 0 * infinity, so does this and gives NaN.
 *
 * `kind`, `alpha` and `beta` do not change inside a loop: call this with a constant kind in each branch of a
 * switch around the loop, or leave it to the compiler.
 *
 * Beside each kind stands its error; 0.5 ULP is a correctly rounded result. */
V_INLINE vf vf_activate(le_activation_kind kind, float alpha, float beta, vf x) {
    switch (kind) {
    case LE_SIGMOID: /* 3.5 ULP; the bits of vf_sigmoid */
        return vf_sigmoid(x);
    case LE_TANH: /* 5 ULP; the bits of vf_tanh */
        return vf_tanh(x);
    case LE_RELU: /* exact; -0 stays -0 */
        return vf_max(vf_zero(), x);
    case LE_HARD_SIGMOID: /* 0.5 ULP: alpha * x + beta is rounded once */
        return vf_max(vf_zero(), vf_min(vf_set1(1.0f), vf_fma(vf_set1(alpha), x, vf_set1(beta))));
    case LE_SOFTSIGN: /* 1.5 ULP; NaN at +-inf */
        return vf_div(x, vf_add(vf_set1(1.0f), vf_abs(x)));
    case LE_ELU: /* 2 ULP, also around 0 */
        return vf_elu(x, vf_set1(alpha), vf_set1(1.0f));
    case LE_SELU: /* 2 ULP, also around 0 */
        return vf_elu(x, vf_set1(1.7580993408473766f), vf_set1(1.0507009873554805f));
    case LE_SOFTPLUS: /* 1.8 ULP, also far below 0 */
        return vf_softplus(x);
    case LE_EXPONENTIAL: /* 1.02 ULP; the bits of vf_exp */
        return vf_exp(x);
    case LE_GELU: /* 1.2 ULP for x >= 0; 0.75 * 2^-24 |x| below, where 1 + erf cancels; NaN at -inf */
        return vf_gelu(x);
    case LE_GELU_TANH: /* 3.5 ULP for x >= 0; 3.5 + 5 |z| ULP below (exp of a rounded z); NaN at -inf */
        return vf_gelu_tanh(x);
    case LE_SILU: /* 4 ULP; NaN at -inf */
        return vf_sigmoid_times(x, x);
    case LE_LEAKY_RELU: /* 0.5 ULP */
        return vf_select_ge(x, vf_zero(), x, vf_mul(vf_set1(alpha), x));
    case LE_AFFINE: /* 0.5 ULP: rounded once */
        return vf_fma(vf_set1(alpha), x, vf_set1(beta));
    case LE_THRESHOLDED_RELU: /* exact; the comparison is turned round to let NaN through */
        return vf_select_ge(vf_set1(alpha), x, vf_zero(), x);
    case LE_SCALED_TANH: /* 6 ULP */
        return vf_mul(vf_set1(alpha), vf_tanh(vf_mul(vf_set1(beta), x)));
    case LE_LINEAR: /* exact */
    case LE_ACTIVATION_COUNT:
        break;
    }
    return x;
}

#endif
