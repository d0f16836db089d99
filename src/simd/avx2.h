/* The SIMD vocabulary on AVX2 and FMA. Included by simd.h only. */
#ifndef LE_SIMD_AVX2_H
#define LE_SIMD_AVX2_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#define V_LANES 8

typedef __m256 vf;
typedef __m256i vi;

/* Eight entries read from here + 8 - n have their sign set in the first n lanes. */
static const int32_t vf_lane_masks[16] __attribute__((aligned(64), unused)) = {
    -1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0,
};

V_INLINE __m256i vf_first_lanes(size_t n) {
    return _mm256_loadu_si256((const __m256i *)(const void *)(vf_lane_masks + (8 - n)));
}

V_INLINE vf vf_load(const float *p) {
    return _mm256_loadu_ps(p);
}
V_INLINE void vf_store(float *p, vf a) {
    _mm256_storeu_ps(p, a);
}
V_INLINE vf vf_load_n(const float *p, size_t n) {
    return _mm256_maskload_ps(p, vf_first_lanes(n));
}
V_INLINE void vf_store_n(float *p, vf a, size_t n) {
    _mm256_maskstore_ps(p, vf_first_lanes(n), a);
}
V_INLINE vf vf_set1(float s) {
    return _mm256_set1_ps(s);
}
V_INLINE vf vf_zero(void) {
    return _mm256_setzero_ps();
}

V_INLINE vf vf_add(vf a, vf b) {
    return _mm256_add_ps(a, b);
}
V_INLINE vf vf_sub(vf a, vf b) {
    return _mm256_sub_ps(a, b);
}
V_INLINE vf vf_mul(vf a, vf b) {
    return _mm256_mul_ps(a, b);
}
V_INLINE vf vf_div(vf a, vf b) {
    return _mm256_div_ps(a, b);
}
V_INLINE vf vf_fma(vf a, vf b, vf c) {
    return _mm256_fmadd_ps(a, b, c);
}
V_INLINE vf vf_fnma(vf a, vf b, vf c) {
    return _mm256_fnmadd_ps(a, b, c);
}

/* VMINPS and VMAXPS return their second operand where either is NaN and where both are zeros: the order
 * matters. */
V_INLINE vf vf_min(vf bound, vf x) {
    return _mm256_min_ps(bound, x);
}
V_INLINE vf vf_max(vf bound, vf x) {
    return _mm256_max_ps(bound, x);
}

V_INLINE vf vf_abs(vf a) {
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}
V_INLINE vf vf_neg(vf a) {
    return _mm256_xor_ps(_mm256_set1_ps(-0.0f), a);
}
V_INLINE vf vf_copysign(vf magnitude, vf sign) {
    return _mm256_or_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0f), magnitude),
                        _mm256_and_ps(_mm256_set1_ps(-0.0f), sign));
}

V_INLINE vf vf_select_gt(vf a, vf b, vf x, vf y) {
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_GT_OQ));
}
V_INLINE vf vf_select_ge(vf a, vf b, vf x, vf y) {
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_GE_OQ));
}

/* Two factors, because 2^n itself may be no normal float. The first product is exact: with abs(n) <= 252 its
 * factor is 2^-126 at the least, and where p * 2^-126 is rounded (n <= -251) the result is 0 either way. */
V_INLINE vf vf_ldexp(vf p, vf n) {
    const __m256i one = _mm256_set1_epi32(0x3F800000);
    const __m256i whole = _mm256_cvtps_epi32(n);
    const __m256i half = _mm256_srai_epi32(whole, 1);
    const __m256i rest = _mm256_sub_epi32(whole, half);
    const vf by_half = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_slli_epi32(half, 23), one));
    const vf by_rest = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_slli_epi32(rest, 23), one));
    return _mm256_mul_ps(_mm256_mul_ps(p, by_half), by_rest);
}

V_INLINE vi vi_set1(int32_t s) {
    return _mm256_set1_epi32(s);
}
V_INLINE vi vi_add(vi a, vi b) {
    return _mm256_add_epi32(a, b);
}
V_INLINE vi vi_sub(vi a, vi b) {
    return _mm256_sub_epi32(a, b);
}
V_INLINE vi vi_and(vi a, vi b) {
    return _mm256_and_si256(a, b);
}
V_INLINE vi vi_max(vi a, vi b) {
    return _mm256_max_epi32(a, b);
}
V_INLINE int32_t vi_largest(vi a) {
    __m128i half = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    half = _mm_max_epi32(half, _mm_shuffle_epi32(half, _MM_SHUFFLE(1, 0, 3, 2)));
    half = _mm_max_epi32(half, _mm_shuffle_epi32(half, _MM_SHUFFLE(2, 3, 0, 1)));
    return _mm_cvtsi128_si32(half);
}
#define vi_shift_left(a, count) _mm256_slli_epi32((a), (count))
#define vi_shift_right(a, count) _mm256_srai_epi32((a), (count))
V_INLINE vf vi_to_vf(vi a) {
    return _mm256_cvtepi32_ps(a);
}
V_INLINE vi vf_bits(vf a) {
    return _mm256_castps_si256(a);
}
V_INLINE vf vf_from_bits(vi a) {
    return _mm256_castsi256_ps(a);
}

#endif
