/* The kernels of one instruction set: the one source, compiled with this set's flags. */
#define LE_SIMD_NEON
#define LE_KERNELS_NAME neon
#include "kernels.inc"
