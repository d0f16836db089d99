/* One layer in one direction over a group of rows, on the fused backend.
 *
 * h is never copied on the way: each row's step writes its hidden state straight into its output slot and the
 * next step reads it from there, through the row pointers that the kernels take. Rows that a mask or a length
 * leaves out are simply not among the pointers. */
#ifndef LE_CELL_RUN_H
#define LE_CELL_RUN_H

#include "plan.h"
#include "watch.h"

typedef struct le_cell_run {
    const le_lstm *lstm;
    const le_run *run;
    const le_plan *plan;
    le_fused_space *space;
    const le_cell *cell;
    le_cell_state *state;
    const le_group *group;
    size_t rows;              /* of the group */
    size_t first_unit, units; /* of h that are computed here: all but with a member of a crew */
    size_t cell_units;        /* of c */
    le_member *member;        /* or NULL */
    le_watch *watch;
    int backward;
    const float *input;
    le_view input_view;
    float *output; /* NULL: h goes back and forth between the state's two buffers */
    le_view output_view;
} le_cell_run;

/* Set the states of a cell, of layers and directions number `index`, to where the run begins. */
void le_cell_run_begin(const le_cell_run *r, size_t index);

/* Steps [first_step, last_step) of the direction's own count. */
void le_cell_run_chunk(const le_cell_run *r, size_t first_step, size_t last_step);

/* Give the final states of cell `index` to the caller. */
void le_cell_run_end(const le_cell_run *r, size_t index);

/* The last output of a direction, where no sequences are wanted. */
void le_cell_run_write_last(const le_cell_run *r, size_t direction);

#endif
