/* The SIMD vocabulary of one instruction set (README.md beside this file lists the names).
 *
 * A source that is compiled once per instruction set is given exactly one of these macros by the build. There
 * is no guessing from the compiler's own macros: a file built with -march=native by mistake must not change
 * its kernel.
 */
#ifndef LE_SIMD_SIMD_H
#define LE_SIMD_SIMD_H

#if defined(LE_SIMD_AVX512) + defined(LE_SIMD_AVX2) + defined(LE_SIMD_NEON) + defined(LE_SIMD_SCALAR) != 1
#error "define exactly one of LE_SIMD_AVX512, LE_SIMD_AVX2, LE_SIMD_NEON, LE_SIMD_SCALAR"
#endif

/* Inlining is forced because every vector argument would otherwise travel through memory, and because two
 * copies of one out-of-line helper, compiled with different flags, must never meet in the linker. */
#define V_INLINE static inline __attribute__((always_inline, unused))

#if defined(LE_SIMD_AVX512)
#include "avx512.h"
#elif defined(LE_SIMD_AVX2)
#include "avx2.h"
#elif defined(LE_SIMD_NEON)
#include "neon.h"
#else
#include "scalar.h"
#endif

#endif
