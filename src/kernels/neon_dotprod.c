/* int8 on CPUs of this instruction set that multiply whole words. */
#define LE_SIMD_NEON
#define LE_SIMD_DOTPROD
#define LE_KERNELS_NAME neon_dotprod
#include "common.inc"
#include "narrow_int8.inc"
