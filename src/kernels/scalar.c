/* The kernels of one instruction set: the one source, compiled with this set's flags. */
#define LE_SIMD_SCALAR
#define LE_KERNELS_NAME scalar
#include "kernels.inc"
