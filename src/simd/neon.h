/* The SIMD vocabulary on aarch64 Advanced SIMD (NEON). Included by simd.h only. */
#ifndef LE_SIMD_NEON_H
#define LE_SIMD_NEON_H

#include <arm_neon.h>
#include <stddef.h>
#include <stdint.h>

#define V_LANES 4

typedef float32x4_t vf;
typedef int32x4_t vi;

V_INLINE vf vf_load(const float *p) {
    return vld1q_f32(p);
}
V_INLINE void vf_store(float *p, vf a) {
    vst1q_f32(p, a);
}
V_INLINE vf vf_set1(float s) {
    return vdupq_n_f32(s);
}
V_INLINE vf vf_zero(void) {
    return vdupq_n_f32(0.0f);
}

/* There are no masked accesses: lane by lane, each only where it lies within n. */
V_INLINE vf vf_load_n(const float *p, size_t n) {
    if (n >= 4) {
        return vld1q_f32(p);
    }
    vf a = vld1q_lane_f32(p, vdupq_n_f32(0.0f), 0);
    if (n >= 2) {
        a = vld1q_lane_f32(p + 1, a, 1);
    }
    if (n >= 3) {
        a = vld1q_lane_f32(p + 2, a, 2);
    }
    return a;
}
V_INLINE void vf_store_n(float *p, vf a, size_t n) {
    if (n >= 4) {
        vst1q_f32(p, a);
        return;
    }
    vst1q_lane_f32(p, a, 0);
    if (n >= 2) {
        vst1q_lane_f32(p + 1, a, 1);
    }
    if (n >= 3) {
        vst1q_lane_f32(p + 2, a, 2);
    }
}

V_INLINE vf vf_add(vf a, vf b) {
    return vaddq_f32(a, b);
}
V_INLINE vf vf_sub(vf a, vf b) {
    return vsubq_f32(a, b);
}
V_INLINE vf vf_mul(vf a, vf b) {
    return vmulq_f32(a, b);
}
V_INLINE vf vf_div(vf a, vf b) {
    return vdivq_f32(a, b);
}
V_INLINE vf vf_fma(vf a, vf b, vf c) {
    return vfmaq_f32(c, a, b);
}
V_INLINE vf vf_fnma(vf a, vf b, vf c) {
    return vfmsq_f32(c, a, b);
}

/* Not FMIN and FMAX: they order -0 below +0 where the vocabulary, like x86, keeps x. */
V_INLINE vf vf_min(vf bound, vf x) {
    return vbslq_f32(vcgtq_f32(x, bound), bound, x);
}
V_INLINE vf vf_max(vf bound, vf x) {
    return vbslq_f32(vcgtq_f32(bound, x), bound, x);
}

V_INLINE vf vf_abs(vf a) {
    return vabsq_f32(a);
}
V_INLINE vf vf_neg(vf a) {
    return vnegq_f32(a);
}
V_INLINE vf vf_copysign(vf magnitude, vf sign) {
    return vbslq_f32(vdupq_n_u32(0x80000000u), sign, magnitude);
}

V_INLINE vf vf_select_gt(vf a, vf b, vf x, vf y) {
    return vbslq_f32(vcgtq_f32(a, b), x, y);
}
V_INLINE vf vf_select_ge(vf a, vf b, vf x, vf y) {
    return vbslq_f32(vcgeq_f32(a, b), x, y);
}

/* Two factors, because 2^n itself may be no normal float. The first product is exact: with abs(n) <= 252 its
 * factor is 2^-126 at the least, and where p * 2^-126 is rounded (n <= -251) the result is 0 either way. */
V_INLINE vf vf_ldexp(vf p, vf n) {
    const int32x4_t one = vdupq_n_s32(0x3F800000);
    const int32x4_t whole = vcvtq_s32_f32(n);
    const int32x4_t half = vshrq_n_s32(whole, 1);
    const int32x4_t rest = vsubq_s32(whole, half);
    const vf by_half = vreinterpretq_f32_s32(vaddq_s32(vshlq_n_s32(half, 23), one));
    const vf by_rest = vreinterpretq_f32_s32(vaddq_s32(vshlq_n_s32(rest, 23), one));
    return vmulq_f32(vmulq_f32(p, by_half), by_rest);
}

V_INLINE vi vi_set1(int32_t s) {
    return vdupq_n_s32(s);
}
V_INLINE vi vi_add(vi a, vi b) {
    return vaddq_s32(a, b);
}
V_INLINE vi vi_sub(vi a, vi b) {
    return vsubq_s32(a, b);
}
V_INLINE vi vi_and(vi a, vi b) {
    return vandq_s32(a, b);
}
V_INLINE vi vi_max(vi a, vi b) {
    return vmaxq_s32(a, b);
}
V_INLINE int32_t vi_largest(vi a) {
    return vmaxvq_s32(a);
}
#define vi_shift_left(a, count) vshlq_n_s32((a), (count))
#define vi_shift_right(a, count) vshrq_n_s32((a), (count))
V_INLINE vf vi_to_vf(vi a) {
    return vcvtq_f32_s32(a);
}
V_INLINE vi vf_bits(vf a) {
    return vreinterpretq_s32_f32(a);
}
V_INLINE vf vf_from_bits(vi a) {
    return vreinterpretq_f32_s32(a);
}

#endif
