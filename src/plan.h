/* The plan: how a run is cut into groups of rows and chunks of time, and how large its workspace is.
 *
 * A pure function of shapes. It changes where intermediate values lie and in which order rows and units are
 * visited, never the order of any sum: the bits do not depend on it. */
#ifndef LE_PLAN_H
#define LE_PLAN_H

#include <stdint.h>

#include "lstm.h"
#include "narrow.h"
#include "threads.h"
#include "units.h"

typedef struct le_plan {
    le_split split;
    size_t members;   /* threads that take part */
    size_t in_a_turn; /* groups of rows that are alike, and end together: one for each member, or 1 */
    size_t rows;      /* rows that run through the whole sequence together */
    size_t chunk;     /* time steps that one layer takes before the next layer does */
    size_t window; /* steps for which x @ W is computed at once, before their recurrence; 0: with each step */
    int ahead;     /* whether a window is computed beside the recurrence of the one before */
} le_plan;

/* The plan of a run by at most run->members threads. */
le_plan le_plan_run(const le_lstm *lstm, const le_run *run);

/* Whether the members of a plan go through every group of rows together, each with a part of the stack. */
static inline int le_plan_crew(const le_plan *plan) {
    return plan->split != LE_ALONE && plan->split != LE_ROWS;
}

/* The state of one cell (one layer, one direction) over a group of rows. */
typedef struct le_cell_state {
    float *c;              /* [rows][padded_hidden] */
    float *h[2];           /* [rows][padded output_size]: used in turns where no output slot holds h */
    const float **current; /* [rows]: where each row's h is now */
    uint8_t *has_output;   /* [rows]: whether a masked step has a previous output to repeat */
} le_cell_state;

/* Rows of a batch that run together. */
typedef struct le_group {
    size_t first;
    size_t rows;
    const size_t *order; /* [rows]: which rows of the batch they are; NULL: those from `first` on */
} le_group;

/* The row of the batch that a row of a group is. */
static inline size_t le_group_row(const le_group *group, size_t row) {
    return group->order == NULL ? group->first + row : group->order[row];
}

/* How many groups of rows there are: in turns, of one group for each member of a split by rows. Some may be
 * empty. */
size_t le_plan_groups(const le_plan *plan, size_t batch);

/* A group by its number; order is that of le_order_rows, or NULL. */
le_group le_plan_group(const le_plan *plan, size_t batch, size_t number, const size_t *order);

/* The order of the rows of a run with lengths. */
typedef struct le_row_order {
    size_t *order;  /* [batch], or NULL without lengths */
    size_t *sorted; /* the same again, for the work on it */
} le_row_order;

/* Order the rows: in each group the longest first, so that few steps have few rows; and the groups of one
 * turn alike, so that its members end together. */
void le_order_rows(const le_plan *plan, const le_run *run, const le_row_order *rows);

/* Workspace of the fused backend. */
typedef struct le_fused_space {
    le_cell_state *states; /* [layers][directions] */
    float *between[2];     /* output of one layer, input of the next, in turns */
    float *hidden;         /* [rows][padded_hidden]: before the projection */
    float *projected[2];   /* [window][4 * padded_hidden]: of the present steps and of the next, in turns */
    le_narrow_space narrow;
    float *ahead_x;       /* [input of a layer][LE_AHEAD_ROWS] */
    const float **x_rows; /* [rows], at least window */
    const float **h_rows; /* [rows], and so the next four */
    const float **init_rows;
    float **c_rows;
    float **h_next_rows;
    float **hidden_rows;
    float **output_rows;
    float *handed[2];  /* of a split by layers: what the next member takes from here, in turns */
    le_member *member; /* of a crew, or NULL */
    le_part *parts;    /* [layers][directions]: its part of every cell, in a split by units; or NULL */
} le_fused_space;

/* The workspace of a whole run. */
typedef struct le_fused_work {
    le_row_order rows;
    le_fused_space *spaces;  /* [members] */
    le_published *published; /* [members], of a crew */
} le_fused_work;

/* Lay the workspace out over `base`, or measure it where base is NULL. */
le_status le_fused_workspace(const le_lstm *lstm, const le_run *run, const le_plan *plan, void *base,
                             le_fused_work *work, size_t *bytes);

/* Workspace of the blas backend; elements of the LSTM's dtype. */
typedef struct le_blas_space {
    void *h;          /* [layers][directions][rows][output_size] */
    void *c;          /* [layers][directions][rows][hidden_size] */
    void *last;       /* like h: previous output, for masked steps */
    void *between[2]; /* as for the fused backend, row-major */
    void *gathered;   /* [chunk][rows][input of a layer] */
    void *gates;      /* [chunk][rows][4 * hidden_size] */
    void *hidden;     /* [rows][hidden_size] */
} le_blas_space;

/* Its workspace of a whole run. */
typedef struct le_blas_work {
    le_row_order rows;
    le_blas_space *spaces; /* [members] */
} le_blas_work;

le_status le_blas_workspace(const le_lstm *lstm, const le_run *run, const le_plan *plan, void *base,
                            le_blas_work *work, size_t *bytes);

/* Where the steps of one layer's input or output lie. */
typedef struct le_view {
    size_t offset; /* elements before the first feature */
    size_t row_stride;
    size_t time_stride;
    int by_step;        /* slots are numbered by step within the chunk instead of by time */
    const size_t *rows; /* the row of the batch that each row of the group is, or NULL: as they come */
} le_view;

/* Element offset of a row's slot for a step. */
static inline size_t le_view_at(const le_view *view, size_t row, size_t time, size_t step_in_chunk) {
    return view->offset + (view->rows == NULL ? row : view->rows[row]) * view->row_stride +
           (view->by_step ? step_in_chunk : time) * view->time_stride;
}

/* The rows of a group in an array of the whole batch. */
static inline le_view le_batch_view(const le_group *group, size_t row_stride, size_t time_stride) {
    return (le_view){group->order == NULL ? group->first * row_stride : 0, row_stride, time_stride, 0,
                     group->order};
}

/* Whether a row takes part in a step, and at which time: one place for lengths, masks and directions.
 *
 * Returns 1 and sets *time if the row is active. Returns 0 if not, with *time the slot to be filled. */
static inline int le_step_time(const le_run *run, size_t row, size_t step, int backward, size_t *time) {
    if (run->lengths != NULL) {
        const size_t length = (size_t)run->lengths[row];
        *time = step < length && backward ? length - 1 - step : step;
        return step < length;
    }
    *time = backward ? run->time - 1 - step : step;
    return run->mask == NULL || run->mask[row * run->time + *time] != 0;
}

#endif
