/* bfloat16 on CPUs of AVX-512 that multiply whole matrices of words. */
#define LE_SIMD_AVX512
#define LE_SIMD_BF16
#define LE_SIMD_AMX
#define LE_KERNELS_NAME avx512_amx_bf16
#include "common.inc"
#include "narrow_bfloat16.inc"
