/* The SIMD vocabulary in C11, one lane: for any processor. Included by simd.h only.
 *
 * fmaf is the C library's where the build has no FMA instruction: slow there, and right to the last bit,
 * which is what lets this path agree with the others.
 */
#ifndef LE_SIMD_SCALAR_H
#define LE_SIMD_SCALAR_H

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* x87 arithmetic would round to 64 bits of precision first: other bits than everywhere else. */
#if FLT_EVAL_METHOD != 0
#error "float arithmetic must be evaluated in float; on 32-bit x86 compile with -msse2 -mfpmath=sse"
#endif

#define V_LANES 1

typedef float vf;
typedef int32_t vi;

V_INLINE vf vf_load(const float *p) {
    return *p;
}
V_INLINE void vf_store(float *p, vf a) {
    *p = a;
}
V_INLINE vf vf_load_n(const float *p, size_t n) {
    (void)n;
    return *p;
}
V_INLINE void vf_store_n(float *p, vf a, size_t n) {
    (void)n;
    *p = a;
}
V_INLINE vf vf_set1(float s) {
    return s;
}
V_INLINE vf vf_zero(void) {
    return 0.0f;
}

V_INLINE vf vf_add(vf a, vf b) {
    return a + b;
}
V_INLINE vf vf_sub(vf a, vf b) {
    return a - b;
}
V_INLINE vf vf_mul(vf a, vf b) {
    return a * b;
}
V_INLINE vf vf_div(vf a, vf b) {
    return a / b;
}
V_INLINE vf vf_fma(vf a, vf b, vf c) {
    return fmaf(a, b, c);
}
V_INLINE vf vf_fnma(vf a, vf b, vf c) {
    return fmaf(-a, b, c);
}

V_INLINE vf vf_min(vf bound, vf x) {
    return x > bound ? bound : x;
}
V_INLINE vf vf_max(vf bound, vf x) {
    return x < bound ? bound : x;
}

V_INLINE vf vf_abs(vf a) {
    return fabsf(a);
}
V_INLINE vf vf_neg(vf a) {
    return -a;
}
V_INLINE vf vf_copysign(vf magnitude, vf sign) {
    return copysignf(magnitude, sign);
}

V_INLINE vf vf_select_gt(vf a, vf b, vf x, vf y) {
    return a > b ? x : y;
}
V_INLINE vf vf_select_ge(vf a, vf b, vf x, vf y) {
    return a >= b ? x : y;
}

/* Signed integers through unsigned ones: lanes wrap, as vectors do, where C leaves a signed overflow
 * undefined. */
V_INLINE vi vi_set1(int32_t s) {
    return s;
}
V_INLINE vi vi_add(vi a, vi b) {
    return (vi)((uint32_t)a + (uint32_t)b);
}
V_INLINE vi vi_sub(vi a, vi b) {
    return (vi)((uint32_t)a - (uint32_t)b);
}
V_INLINE vi vi_and(vi a, vi b) {
    return a & b;
}
V_INLINE vi vi_max(vi a, vi b) {
    return a > b ? a : b;
}
V_INLINE int32_t vi_largest(vi a) {
    return a;
}
V_INLINE vi vi_shift_left(vi a, int count) {
    return (vi)((uint32_t)a << count);
}
V_INLINE vi vi_shift_right(vi a, int count) {
    return a >> count;
}
V_INLINE vf vi_to_vf(vi a) {
    return (vf)a;
}
V_INLINE vi vf_bits(vf a) {
    vi bits;
    memcpy(&bits, &a, sizeof bits);
    return bits;
}
V_INLINE vf vf_from_bits(vi a) {
    vf value;
    memcpy(&value, &a, sizeof value);
    return value;
}

/* Two factors, because 2^n itself may be no normal float. The first product is exact: with abs(n) <= 252 its
 * factor is 2^-126 at the least, and where p * 2^-126 is rounded (n <= -251) the result is 0 either way. */
V_INLINE vf vf_ldexp(vf p, vf n) {
    const vi whole =
        n == n ? (vi)n : 0; /* C leaves the conversion of a NaN undefined; p is NaN there as well */
    const vi half = vi_shift_right(whole, 1);
    const vi rest = vi_sub(whole, half);
    const vf by_half = vf_from_bits(vi_add(vi_shift_left(half, 23), 0x3F800000));
    const vf by_rest = vf_from_bits(vi_add(vi_shift_left(rest, 23), 0x3F800000));
    return p * by_half * by_rest;
}

#endif
