/* The SIMD vocabulary of the narrow compute types: weights of 16 and 8 bits.
 *
 * A weight word is 32 bits: two bfloat16 (`vb_`) or four int8 (`vq_`) of one unit, for as many values of k. A
 * vector of words holds V_LANES units. An instruction set does what its baseline can; LE_SIMD_BF16,
 * LE_SIMD_VNNI and LE_SIMD_DOTPROD say that the file is compiled for CPUs that multiply whole words.
 *
 * | name | meaning |
 * |---|---|
 * | `VB_BYTES`, `VQ_BYTES` | bytes of the values that belong to one word |
 * | `VB_EXPANDS`, `VQ_EXPANDS` | 1 where a vector of words takes two registers to multiply with |
 * | `vb_weights`, `vq_weights` | a vector of weight words, ready to multiply with |
 * | `vb_load(p)`, `vq_load(p)` | V_LANES words |
 * | `vb_values`, `vq_values` | the values of one word, in every lane |
 * | `vb_spread(p)`, `vq_spread(p)` | those at p |
 * | `vb_dot(acc, w, x)`, `vq_dot(acc, w, x)` | acc + the sum of a word's products; exact and wrapping for
 * int8 | | `vb_store(p, x)`, `vq_store(p, q)` | V_LANES values, as `spread` wants them */
#ifndef LE_SIMD_NARROW_H
#define LE_SIMD_NARROW_H

#include <string.h>

#include "simd.h"

/* ---- bfloat16: the upper half of a float32 ---- */

#if defined(LE_SIMD_BF16)

/* Both sides in bfloat16. The instruction's own sum of two products is one fixed sequence of roundings. */
#define VB_BYTES 4
#define VB_EXPANDS 0
typedef __m512bh vb_weights;
typedef __m512bh vb_values;

V_INLINE vb_weights vb_load(const int32_t *p) {
    return (__m512bh)_mm512_loadu_si512(p);
}
V_INLINE vb_values vb_spread(const unsigned char *p) {
    int32_t word;
    memcpy(&word, p, sizeof word);
    return (__m512bh)_mm512_set1_epi32(word);
}
V_INLINE vf vb_dot(vf acc, vb_weights w, vb_values x) {
    return _mm512_dpbf16_ps(acc, w, x);
}
V_INLINE void vb_store(unsigned char *p, vf x) {
    _mm256_storeu_si256((__m256i *)(void *)p, (__m256i)_mm512_cvtneps_pbh(x));
}

#else

/* A shift and a mask give the weights in float32, exactly; the values stay float32. */
#define VB_BYTES 8
#define VB_EXPANDS 1
typedef struct vb_weights {
    vf even, odd;
} vb_weights;
typedef vb_weights vb_values;

V_INLINE vb_weights vb_load(const int32_t *p) {
    vi words;
    memcpy(&words, p, sizeof words);
    return (vb_weights){vf_from_bits(vi_shift_left(words, 16)),
                        vf_from_bits(vi_and(words, vi_set1(-0x10000)))};
}
V_INLINE vb_values vb_spread(const unsigned char *p) {
    float values[2];
    memcpy(values, p, sizeof values);
    return (vb_values){vf_set1(values[0]), vf_set1(values[1])};
}
V_INLINE vf vb_dot(vf acc, vb_weights w, vb_values x) {
    return vf_fma(x.odd, w.odd, vf_fma(x.even, w.even, acc));
}
V_INLINE void vb_store(unsigned char *p, vf x) {
    memcpy(p, &x, sizeof x);
}

#endif

/* ---- int8 ---- */

/* VQ_OFFSET is added to a value before it is stored, and VQ_PLACES says at which byte of a word each of four
 * k lies: see struct le_narrow_kernels. */
V_INLINE int32_t vq_word(const unsigned char *p) {
    int32_t word;
    memcpy(&word, p, sizeof word);
    return word;
}

#if defined(LE_SIMD_VNNI)

/* The instruction multiplies unsigned by signed bytes: values are stored with 128 added. */
#define VQ_BYTES 4
#define VQ_EXPANDS 0
#define VQ_OFFSET 128
#define VQ_PLACES 0, 1, 2, 3
typedef vi vq_weights;
typedef vi vq_values;

V_INLINE vq_weights vq_load(const int32_t *p) {
    return _mm512_loadu_si512(p);
}
V_INLINE vq_values vq_spread(const unsigned char *p) {
    return vi_set1(vq_word(p));
}
V_INLINE vi vq_dot(vi acc, vq_weights w, vq_values x) {
    return _mm512_dpbusd_epi32(acc, x, w);
}
V_INLINE void vq_store(unsigned char *p, vi q) {
    _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtepi32_epi8(vi_add(q, vi_set1(VQ_OFFSET))));
}

#elif defined(LE_SIMD_DOTPROD)

#define VQ_BYTES 4
#define VQ_EXPANDS 0
#define VQ_OFFSET 0
#define VQ_PLACES 0, 1, 2, 3
typedef int8x16_t vq_weights;
typedef int8x16_t vq_values;

V_INLINE vq_weights vq_load(const int32_t *p) {
    return vreinterpretq_s8_s32(vld1q_s32(p));
}
V_INLINE vq_values vq_spread(const unsigned char *p) {
    return vreinterpretq_s8_s32(vdupq_n_s32(vq_word(p)));
}
V_INLINE vi vq_dot(vi acc, vq_weights w, vq_values x) {
    return vdotq_s32(acc, w, x);
}
V_INLINE void vq_store(unsigned char *p, vi q) {
    const int16x4_t halves = vmovn_s32(q);
    const int8x8_t bytes = vmovn_s16(vcombine_s16(halves, halves));
    const int32_t word = vget_lane_s32(vreinterpret_s32_s8(bytes), 0);
    memcpy(p, &word, sizeof word);
}

#elif defined(LE_SIMD_SCALAR)

#define VQ_BYTES 4
#define VQ_EXPANDS 0
#define VQ_OFFSET 0
#define VQ_PLACES 0, 1, 2, 3
typedef int32_t vq_weights;
typedef int32_t vq_values;

V_INLINE vq_weights vq_load(const int32_t *p) {
    return *p;
}
V_INLINE vq_values vq_spread(const unsigned char *p) {
    return vq_word(p);
}
V_INLINE vi vq_dot(vi acc, vq_weights w, vq_values x) {
    int8_t weights[4], values[4];
    memcpy(weights, &w, sizeof weights);
    memcpy(values, &x, sizeof values);
    for (int byte = 0; byte < 4; byte++) {
        acc = vi_add(acc, weights[byte] * values[byte]);
    }
    return acc;
}
V_INLINE void vq_store(unsigned char *p, vi q) {
    *p = (unsigned char)q;
}

#else

/* Words of four bytes become two words of two halves, products of halves are added in pairs: exact, where the
 * instruction for unsigned by signed bytes (vpmaddubsw) would saturate. Values are stored as halves. The even
 * bytes of a word are those that one shift brings down, so they hold the first two k. */
#define VQ_BYTES 8
#define VQ_EXPANDS 1
#define VQ_OFFSET 0
#define VQ_PLACES 0, 2, 1, 3
typedef struct vq_weights {
    vi first, second;
} vq_weights;
typedef vq_weights vq_values;

V_INLINE vq_values vq_spread(const unsigned char *p) {
    return (vq_values){vi_set1(vq_word(p)), vi_set1(vq_word(p + 4))};
}

#if defined(LE_SIMD_AVX512)
V_INLINE vq_weights vq_load(const int32_t *p) {
    const vi words = _mm512_loadu_si512(p);
    return (vq_weights){_mm512_srai_epi16(_mm512_slli_epi16(words, 8), 8), _mm512_srai_epi16(words, 8)};
}
V_INLINE vi vq_add_products(vi acc, vi a, vi b) {
    return _mm512_add_epi32(acc, _mm512_madd_epi16(a, b));
}
V_INLINE void vq_store(unsigned char *p, vi q) {
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtepi32_epi16(q));
}
#elif defined(LE_SIMD_AVX2)
V_INLINE vq_weights vq_load(const int32_t *p) {
    const vi words = _mm256_loadu_si256((const __m256i *)(const void *)p);
    return (vq_weights){_mm256_srai_epi16(_mm256_slli_epi16(words, 8), 8), _mm256_srai_epi16(words, 8)};
}
V_INLINE vi vq_add_products(vi acc, vi a, vi b) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(a, b));
}
V_INLINE void vq_store(unsigned char *p, vi q) {
    _mm_storeu_si128((__m128i *)(void *)p,
                     _mm_packs_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1)));
}
#else
V_INLINE vq_weights vq_load(const int32_t *p) {
    const int16x8_t words = vreinterpretq_s16_s32(vld1q_s32(p));
    return (vq_weights){vreinterpretq_s32_s16(vshrq_n_s16(vshlq_n_s16(words, 8), 8)),
                        vreinterpretq_s32_s16(vshrq_n_s16(words, 8))};
}
V_INLINE vi vq_add_products(vi acc, vi a, vi b) {
    const int16x8_t left = vreinterpretq_s16_s32(a);
    const int16x8_t right = vreinterpretq_s16_s32(b);
    return vaddq_s32(
        acc, vpaddq_s32(vmull_s16(vget_low_s16(left), vget_low_s16(right)), vmull_high_s16(left, right)));
}
V_INLINE void vq_store(unsigned char *p, vi q) {
    const int16x4_t halves = vmovn_s32(q);
    memcpy(p, &halves, sizeof halves);
}
#endif

V_INLINE vi vq_dot(vi acc, vq_weights w, vq_values x) {
    return vq_add_products(vq_add_products(acc, w.first, x.first), w.second, x.second);
}

#endif

#endif
