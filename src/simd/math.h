/* Elementary functions over the SIMD vocabulary.
 *
 * Every function gives the same bits on every instruction set for every float32 (except a NaN's sign and payload): it
 * is one fixed sequence of correctly rounded additions, products, FMAs, divisions and integer operations on bits. There
 * are no tables and no approximate instructions, which differ between makers.
 *
 * ULP bounds are the largest errors over ALL float32 arguments against the C library in double precision, in units of
 * the last place of the correctly rounded float32 result; tests/c/test_simd_math.c measures them. The two-argument
 * functions are measured over grids and random pairs. Below 2^-126 a unit is 2^-149, and results underflow gradually.
 *
 * Coefficients are made by tools/fit_coefficients.py; the name of a coefficient ends with its power of the argument.
 */
#ifndef LE_SIMD_MATH_H
#define LE_SIMD_MATH_H

#include "lstm_engine/activation.h"
#include "simd.h"

/* ---- exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln(2) / 2 ---------------------------------------------------- */

/* Adding 1.5 * 2^23 leaves a float of unit spacing: it rounds to an integer, to nearest even, and the integer then
 * stands in the low bits of the float. With LE_MAGIC + b it is n + b that stands there; shifted left by 23, the eight
 * bits of n + 127 are the float 2^n. */
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

/* exp(x).
 * Special: exp(-inf) = +0, exp(+inf) = +inf, NaN stays NaN; overflows above 88.7228, underflows to 0 below -103.97. */
V_INLINE vf vf_exp(vf x)
{
    /* exp(89) is past the largest float and exp(-104) under half the smallest: the clamps change no result, and keep
     * n within what vf_ldexp takes. */
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

/* ---- sigmoid and its fused forms ---------------------------------------------------------------------------------- */

/* exp(r) = 1 + r + r^2 (C2 + C3 r + C4 r^2 + C5 r^3), largest relative error 1.76 * 2^-24. A sixth coefficient would
 * gain 0.9 ULP at a cost of 5% of an LSTM cell. */
#define LE_EXP5_C2 4.999923e-1f
#define LE_EXP5_C3 1.6667113e-1f
#define LE_EXP5_C4 4.189019e-2f
#define LE_EXP5_C5 8.3126845e-3f

/* Largest n for which the denominators below, up to 2^8.1 * (1 + 1.42 * 2^n), are finite with room to spare. */
#define LE_SIGMOID_SPLIT 117

/* sigmoid(a) = 1 / (1 + exp(-a)) as the fraction shrink / (1 + p * scale).
 *
 * exp(-a) overflows below a = -88.7, where sigmoid(a) is still a denormal float, and sigmoid(a) times something large
 * a normal one. So exp(-a) = p * 2^n is split: scale = 2^min(n, 117) goes to the denominator, where the 1 no longer
 * counts, and shrink = 2^(117 - max(n, 117)) to the numerator. From n = 244 on (a <= -168.8) shrink is 0.
 */
V_INLINE void vf_sigmoid_parts(vf a, vf *p, vf *scale, vf *shrink)
{
    /* Above 25 exp(-a) is under 2^-36 and lost beside 1 (17.4 would do). Below, -169.2 gives n = 244, where shrink
     * becomes 0: sigmoid of -200 or -inf is 0 and not some tiny number, which a huge factor could make visible. */
    const vf clamped = vf_max(vf_set1(-169.2f), vf_min(vf_set1(25.0f), a));
    const vf biased = vf_fma(clamped, vf_set1(-LE_LOG2_E), vf_set1(LE_MAGIC + 127.0f));
    const vf n = vf_sub(biased, vf_set1(LE_MAGIC + 127.0f));
    /* Minus the reduced argument; the odd coefficients below have their signs changed for it. */
    const vf minus_r = vf_fma(n, vf_set1(LE_LN2_LOW), vf_fma(n, vf_set1(LE_LN2_HIGH), clamped));
    /* Pairwise instead of Horner's chain: 8 cycles less latency in a cell, one addition more where ports are free. */
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

/* sigmoid(x) = 1 / (1 + exp(-x)).
 * Special: sigmoid(-inf) = +0, sigmoid(+inf) = 1, sigmoid(0) = 0.5, NaN stays NaN; never above 1; +0 below -103.98. */
V_INLINE vf vf_sigmoid(vf x)
{
    vf p, scale, shrink;
    vf_sigmoid_parts(x, &p, &scale, &shrink);
    return vf_div(shrink, vf_fma(p, scale, vf_set1(1.0f)));
}

/* sigmoid(a) * b = b / (1 + exp(-a)), one division.
 * Special: NaN in either gives NaN; a = +inf gives b, a = -inf gives 0 with b's sign for finite b and NaN for infinite
 * b (0 times infinity, and as the formula gives). Exact in range: where exp(-a) is past the largest float the product
 * is still right, down to a = -168.8; below that it is 0, which is off by less than 2^-115. */
V_INLINE vf vf_sigmoid_times(vf a, vf b)
{
    vf p, scale, shrink;
    vf_sigmoid_parts(a, &p, &scale, &shrink);
    return vf_div(vf_mul(b, shrink), vf_fma(p, scale, vf_set1(1.0f)));
}

/* ---- tanh(x) = x P(x^2) / Q(x^2) ---------------------------------------------------------------------------------- */

/* Numerator 1 + P3 x^2 + ... (times x), denominator 1 + Q2 x^2 + ...; largest relative error 0.149 * 2^-24 on
 * [0, 8.2]. Degree 9 over 8 costs one FMA less than 13 over 6 with a third of its error, and no coefficient is negative:
 * nothing cancels. Both constant terms are exactly 1, so that tanh(x) = x for every small x, denormals included. */
#define LE_TANH_P3 1.3434541e-1f
#define LE_TANH_P5 3.5595265e-3f
#define LE_TANH_P7 2.1682965e-5f
#define LE_TANH_P9 1.4902492e-8f
#define LE_TANH_Q2 4.676787e-1f
#define LE_TANH_Q4 2.6119184e-2f
#define LE_TANH_Q6 3.3910375e-4f
#define LE_TANH_Q8 8.396207e-7f
/* The first float32 at which the fraction divides to exactly 1: below it tanh is below 1, from it on it is 1 (the
 * true tanh rounds to 1 from 9.01 on, and is 1 - 3.3 * 2^-24 here). */
#define LE_TANH_CLAMP 8.067224f

/* tanh(x) = numerator / denominator with 1 <= denominator < 2^8.1; a NaN is in both. */
V_INLINE void vf_tanh_fraction(vf x, vf *numerator, vf *denominator)
{
    const vf clamped = vf_max(vf_set1(-LE_TANH_CLAMP), vf_min(vf_set1(LE_TANH_CLAMP), x));
    const vf u = vf_mul(clamped, clamped);
    vf p = vf_fma(u, vf_set1(LE_TANH_P9), vf_set1(LE_TANH_P7));
    vf q = vf_fma(u, vf_set1(LE_TANH_Q8), vf_set1(LE_TANH_Q6));
    p = vf_fma(u, p, vf_set1(LE_TANH_P5));
    q = vf_fma(u, q, vf_set1(LE_TANH_Q4));
    p = vf_fma(u, p, vf_set1(LE_TANH_P3));
    q = vf_fma(u, q, vf_set1(LE_TANH_Q2));
    p = vf_fma(u, p, vf_set1(1.0f));
    *denominator = vf_fma(u, q, vf_set1(1.0f));
    *numerator = vf_mul(clamped, p);
}

/* tanh(x).
 * Special: tanh(+-inf) = +-1, tanh(-0) = -0, NaN stays NaN; |tanh(x)| <= 1, with equality from 8.067224 on. */
V_INLINE vf vf_tanh(vf x)
{
    vf numerator, denominator;
    vf_tanh_fraction(x, &numerator, &denominator);
    return vf_div(numerator, denominator);
}

/* sigmoid(a) * tanh(b) as one fraction: one division.
 * Special: NaN in either gives NaN; a = +inf gives the bits of vf_tanh(b), a = -inf gives 0 with b's sign. */
V_INLINE vf vf_sigmoid_tanh(vf a, vf b)
{
    vf p, scale, shrink, numerator, denominator;
    vf_sigmoid_parts(a, &p, &scale, &shrink);
    vf_tanh_fraction(b, &numerator, &denominator);
    /* 1 + exp(-a) first: it is there before the denominator where b is the younger of the two, as a cell's state is. */
    return vf_div(vf_mul(numerator, shrink), vf_mul(denominator, vf_fma(p, scale, vf_set1(1.0f))));
}

#endif
