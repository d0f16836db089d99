/* The SIMD vocabulary on AVX-512: F, DQ, VL and BW. Included by simd.h only. */
#ifndef LE_SIMD_AVX512_H
#define LE_SIMD_AVX512_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#define V_LANES 16

typedef __m512 vf;
typedef __m512i vi;

/* 1 <= n <= 16, so the shift stays inside 32 bits and n = 16 sets all lanes. */
V_INLINE __mmask16 vf_first_lanes(size_t n) {
    return (__mmask16)((1u << n) - 1u);
}

V_INLINE vf vf_load(const float *p) {
    return _mm512_loadu_ps(p);
}
V_INLINE void vf_store(float *p, vf a) {
    _mm512_storeu_ps(p, a);
}
V_INLINE vf vf_load_n(const float *p, size_t n) {
    return _mm512_maskz_loadu_ps(vf_first_lanes(n), p);
}
V_INLINE void vf_store_n(float *p, vf a, size_t n) {
    _mm512_mask_storeu_ps(p, vf_first_lanes(n), a);
}
V_INLINE vf vf_set1(float s) {
    return _mm512_set1_ps(s);
}
V_INLINE vf vf_zero(void) {
    return _mm512_setzero_ps();
}

V_INLINE vf vf_add(vf a, vf b) {
    return _mm512_add_ps(a, b);
}
V_INLINE vf vf_sub(vf a, vf b) {
    return _mm512_sub_ps(a, b);
}
V_INLINE vf vf_mul(vf a, vf b) {
    return _mm512_mul_ps(a, b);
}
V_INLINE vf vf_div(vf a, vf b) {
    return _mm512_div_ps(a, b);
}
V_INLINE vf vf_fma(vf a, vf b, vf c) {
    return _mm512_fmadd_ps(a, b, c);
}
V_INLINE vf vf_fnma(vf a, vf b, vf c) {
    return _mm512_fnmadd_ps(a, b, c);
}

/* VMINPS and VMAXPS return their second operand where either is NaN and where both are zeros: the order
 * matters. */
V_INLINE vf vf_min(vf bound, vf x) {
    return _mm512_min_ps(bound, x);
}
V_INLINE vf vf_max(vf bound, vf x) {
    return _mm512_max_ps(bound, x);
}

V_INLINE vf vf_abs(vf a) {
    return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), a);
}
V_INLINE vf vf_neg(vf a) {
    return _mm512_xor_ps(_mm512_set1_ps(-0.0f), a);
}
V_INLINE vf vf_copysign(vf magnitude, vf sign) {
    /* 0xD8: bit by bit, sign where the mask is set, else magnitude. */
    return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(
        _mm512_castps_si512(magnitude), _mm512_castps_si512(sign), _mm512_set1_epi32(INT32_MIN), 0xD8));
}

V_INLINE vf vf_select_gt(vf a, vf b, vf x, vf y) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), y, x);
}
V_INLINE vf vf_select_ge(vf a, vf b, vf x, vf y) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_GE_OQ), y, x);
}

V_INLINE vf vf_ldexp(vf p, vf n) {
    return _mm512_scalef_ps(p, n);
}

V_INLINE vi vi_set1(int32_t s) {
    return _mm512_set1_epi32(s);
}
V_INLINE vi vi_add(vi a, vi b) {
    return _mm512_add_epi32(a, b);
}
V_INLINE vi vi_sub(vi a, vi b) {
    return _mm512_sub_epi32(a, b);
}
V_INLINE vi vi_and(vi a, vi b) {
    return _mm512_and_si512(a, b);
}
V_INLINE vi vi_max(vi a, vi b) {
    return _mm512_max_epi32(a, b);
}
V_INLINE int32_t vi_largest(vi a) {
    return _mm512_reduce_max_epi32(a);
}
#define vi_shift_left(a, count) _mm512_slli_epi32((a), (count))
#define vi_shift_right(a, count) _mm512_srai_epi32((a), (count))
V_INLINE vf vi_to_vf(vi a) {
    return _mm512_cvtepi32_ps(a);
}
V_INLINE vi vf_bits(vf a) {
    return _mm512_castps_si512(a);
}
V_INLINE vf vf_from_bits(vi a) {
    return _mm512_castsi512_ps(a);
}

#endif
