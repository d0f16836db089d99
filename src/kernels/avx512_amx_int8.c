/* int8 on CPUs of AVX-512 that multiply whole matrices of words. */
#define LE_SIMD_AVX512
#define LE_SIMD_VNNI
#define LE_SIMD_AMX
#define LE_KERNELS_NAME avx512_amx_int8
#include "common.inc"
#include "narrow_int8.inc"
