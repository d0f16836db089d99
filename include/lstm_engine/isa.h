/* Instruction sets: which are compiled in, which this CPU runs, which one to use. */
#ifndef LSTM_ENGINE_ISA_H
#define LSTM_ENGINE_ISA_H

#include <stddef.h>

#include "status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The table of kernels of one instruction set; its members are internal to the core. */
typedef struct le_kernels le_kernels;

/* Number of instruction sets compiled in. The scalar one always is, and is the last. */
size_t le_isa_count(void);

/* Name of instruction set `index`, best first: "avx512", "avx2", "neon", "scalar". NULL if out of range. */
const char *le_isa_name(size_t index);

/* 1 if this CPU (and its operating system) runs instruction set `index`, else 0. */
int le_isa_supported(size_t index);

/* Choose an instruction set.
 *
 * name     NULL: the value of the environment variable LSTM_ENGINE_ISA, or if that is unset or empty the
 *          best that this CPU runs. A name: that one.
 * kernels  receives the table; untouched on error.
 *
 * Returns LE_ERROR_UNKNOWN_ISA or LE_ERROR_UNSUPPORTED_ISA; there is no silent fallback. */
le_status le_isa_select(const char *name, const le_kernels **kernels);

/* Name of the instruction set of a table. */
const char *le_kernels_name(const le_kernels *kernels);

/* 1 if the table is a vector one, 0 for the scalar reference. */
int le_kernels_vectorised(const le_kernels *kernels);

#ifdef __cplusplus
}
#endif

#endif
