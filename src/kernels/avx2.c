/* The kernels of one instruction set: the one source, compiled with this set's flags. */
#define LE_SIMD_AVX2
#define LE_KERNELS_NAME avx2
#include "kernels.inc"
