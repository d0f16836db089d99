/* Packing of canonical weights into the panels drawn in kernels/kernels.h: once, at load. */
#ifndef LE_PACK_H
#define LE_PACK_H

#include "lstm.h"

/* Check one cell's sizes and pointers, for any backend. */
le_status le_cell_check(const le_cell_spec *spec);

/* Pack a cell for the kernels and the compute type of `lstm`; what was allocated is freed on error. *bytes
 * receives the memory taken. */
le_status le_cell_pack(const le_lstm *lstm, const le_cell_spec *spec, le_cell *cell, size_t *bytes);
void le_cell_release(le_cell *cell);

#endif
