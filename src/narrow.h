/* Cells of a narrow compute type: packing, and one step over the kernels of kernels/narrow.h. */
#ifndef LE_NARROW_H
#define LE_NARROW_H

#include "lstm.h"
#include "memory.h"

/* The best kernels that this CPU has for a compute type beside `kernels`, or those that every CPU of that
 * instruction set has if `baseline`; NULL for LE_AS_DTYPE. */
const le_narrow_kernels *le_narrow_select(const le_kernels *kernels, le_compute_type type, int baseline);

/* Pack the gates' narrow weights into cell->narrow. Fails with LE_ERROR_SIZE on more than
 * LE_NARROW_MOST_VALUES inputs or outputs in int8. */
le_status le_narrow_pack(const le_lstm *lstm, const le_cell_spec *spec, le_cell *cell, size_t *bytes);
void le_narrow_release(le_narrow *narrow);

/* What a step of a narrow cell writes on its way. */
typedef struct le_narrow_space {
    unsigned char *values[2]; /* [rows][stride]: x and h, converted */
    size_t strides[2];        /* bytes */
    float *scales[2];         /* [rows] */
    float *projected;         /* [rows][4 * padded_hidden], for LE_INT8_RECURRENT */
    const float **init;       /* [rows] */
} le_narrow_space;

/* Take the space for steps of up to `rows` rows from an arena; nothing for an LSTM that is not narrow. */
void le_narrow_take(le_arena *arena, const le_lstm *lstm, size_t rows, le_narrow_space *space);

/* What cell_step and cell_project of struct le_kernels do, for a cell of any compute type. */
void le_cell_step(const le_kernels *kernels, const le_cell *cell, const le_cell_rows *step,
                  const le_narrow_space *space);
void le_cell_project(const le_kernels *kernels, const le_cell *cell, size_t rows, const float *const *x,
                     float *out, size_t out_stride, const le_narrow_space *space);

#endif
