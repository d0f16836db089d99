/* int8 on CPUs of this instruction set that multiply whole words. */
#define LE_SIMD_AVX512
#define LE_SIMD_VNNI
#define LE_KERNELS_NAME avx512_vnni
#include "common.inc"
#include "narrow_int8.inc"
