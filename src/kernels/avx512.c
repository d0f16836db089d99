/* The kernels of one instruction set: the one source, compiled with this set's flags. */
#define LE_SIMD_AVX512
#define LE_KERNELS_NAME avx512
#include "kernels.inc"
