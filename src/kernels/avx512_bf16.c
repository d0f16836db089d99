/* bfloat16 on CPUs of this instruction set that multiply whole words. */
#define LE_SIMD_AVX512
#define LE_SIMD_BF16
#define LE_KERNELS_NAME avx512_bf16
#include "common.inc"
#include "narrow_bfloat16.inc"
