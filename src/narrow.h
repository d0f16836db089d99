/* Cells of a narrow compute type: packing, and one step over the kernels of kernels/narrow.h. */
#ifndef LE_NARROW_H
#define LE_NARROW_H

#include "lstm.h"
#include "memory.h"

/* The best kernels that this CPU has for a compute type beside `kernels`, `without` the best of its
 * extensions; behind all of them come those that every CPU of the instruction set has. NULL for LE_AS_DTYPE.
 */
const le_narrow_kernels *le_narrow_select(const le_kernels *kernels, le_compute_type type, int without);

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
    const le_narrow_kernels *kernels;
    size_t ready; /* rows, up to a height, that the kernels have been made ready for; 0: not at all */
} le_narrow_space;

/* Take the space for steps of up to `rows` rows from an arena; nothing for an LSTM that is not narrow. */
void le_narrow_take(le_arena *arena, const le_lstm *lstm, size_t rows, le_narrow_space *space);

/* Give back what the kernels were made ready with. A call into the engine does so on each of its threads,
 * when the last step there is done: making them ready takes as long as a step of a small cell. */
static inline void le_narrow_end(le_narrow_space *space) {
    if (space->ready != 0) {
        space->ready = 0;
        space->kernels->end();
    }
}

/* What cell_step and cell_project of struct le_kernels do, for a cell of any compute type. le_narrow_end
 * follows. */
void le_cell_step(const le_kernels *kernels, const le_cell *cell, const le_cell_rows *step,
                  le_narrow_space *space);
void le_cell_project(const le_kernels *kernels, const le_cell *cell, size_t rows, const float *const *x,
                     float *out, size_t out_stride, le_narrow_space *space);

#endif
