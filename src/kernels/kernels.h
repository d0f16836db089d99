/* The table of kernels of one instruction set, and the packed weights that they read.
 *
 * The packed panel of a cell
 * --------------------------
 * Units are taken in blocks of V, the lanes of one vector (AVX-512: 16, AVX2: 8, NEON: 4, scalar: 1). A
 * block's panel holds, for each row k of the stacked kernels [W; R], the weights of its V units for the
 * four gates side by side, so that one pass over k reads memory in order and a unit's four gates end in
 * registers together:
 *
 *      block 0                                  block 1
 *      k=0    [ i x V | f x V | c x V | o x V ]  [ ... ]
 *      k=1    [ i x V | f x V | c x V | o x V ]  [ ... ]
 *      ...      rows 0 .. input_size-1: W, applied to x
 *      k=I    [ i x V | f x V | c x V | o x V ]
 *      ...      rows I .. I+R-1: R, applied to h
 *
 * Units beyond hidden_size have weight and bias 0 and are never stored. Every pre-activation is one chain
 *
 *      acc = bias; acc = fma(x[k], W[k], acc) for k ascending; acc = fma(h[k], R[k], acc) for k ascending
 *
 * on every path, whatever the tile: this is what makes the bits the same everywhere. A tile of rows may
 * stop between W and R (the projected input is stored and loaded again: exact), never split k.
 *
 * The panel of a linear layer is the same with blocks of 4 * V outputs; the last block is as many whole
 * vectors wide as it needs (1, 2 or 4). */
#ifndef LE_KERNELS_H
#define LE_KERNELS_H

#include <stddef.h>

#include "lstm_engine/dense.h"
#include "lstm_engine/isa.h"
#include "lstm_engine/lstm.h"
#include "narrow.h"

struct le_linear {
    const le_kernels *kernels;
    size_t input_size;
    size_t output_size;
    size_t panel_floats;
    float *panels; /* [block][input_size][width of the block] */
    float *bias;   /* [output_size rounded up to whole blocks of 4 * V] */
    le_activation activation;
};

/* Panels of a cell, in bytes, above which they count as large: more than a core's own cache holds, they come
 * from the last-level cache or from memory. */
enum { LE_LARGE_PANEL_BYTES = 4 * 1024 * 1024 };

/* Bytes from which panels do not lie in a core's first cache for all rows of a batch. */
enum { LE_PANEL_BEYOND_L1_BYTES = 128 * 1024 };

/* One packed cell. */
typedef struct le_cell {
    size_t input_size;
    size_t hidden_size;
    size_t output_size;
    size_t blocks;        /* of V units */
    size_t padded_hidden; /* blocks * V */
    size_t
        panel_floats; /* of one block: (input_size + output_size) * 4 * V; fewer where weights are narrow */
    float *panels;    /* [blocks][input_size + output_size][4][V] */
    float *bias;      /* [blocks][4][V] */
    float *peepholes; /* [3][peephole_stride], or NULL */
    size_t peephole_stride; /* padded_hidden of the whole cell */
    le_linear *projection;  /* or NULL */
    le_activation input_activation, forget_activation, cell_activation, output_activation, hidden_activation;
    float gate_clip, cell_clip; /* 0 for none */
    int coupled;
    int standard;      /* sigmoid gates, tanh elsewhere, nothing else: the fused cell applies */
    le_narrow *narrow; /* the gates' weights of a narrow compute type; NULL for float32 */
    int fetches;       /* whether batches ask for the panels from the second cache, which some CPUs need */
    int passes;        /* whether a large projection may be asked for past the second cache */
} le_cell;

/* One time step of a set of rows, given by pointers so that any subset of a batch needs no copy. */
typedef struct le_cell_rows {
    size_t rows;
    const float *const *x;         /* [rows]: input_size floats each; not read where projected is given */
    const float *const *projected; /* [rows]: blocks * 4 * V accumulators that hold bias + x @ W; or NULL */
    const float *const *h;         /* [rows]: output_size floats each */
    float *const *c;               /* [rows]: padded_hidden floats each, updated in place */
    float *const *h_next;          /* [rows]: hidden_size floats each are written; not the memory of any h */
    int backward; /* walk the blocks from the last to the first: the same bits, other cache lines */
} le_cell_rows;

/* Steps of a projection that runs ahead of a recurrence. */
enum { LE_AHEAD_ROWS = 16 };

/* The input projection of the next LE_AHEAD_ROWS steps of one row, done beside the recurrence of the present
 * ones.
 *
 * A recurrent step of one row reads each weight for one multiply-add: memory bounds it, and the multipliers
 * idle half of the time. A projection reads each weight for many multiply-adds: the multipliers bound it. Run
 * in one loop, the second costs next to nothing.
 *
 * It is done in tasks of one vector of the gates and some of the rows; a task may stop after any product, its
 * accumulators then lie in `out`. */
typedef struct le_ahead {
    const float *x; /* [input_size][LE_AHEAD_ROWS]: the steps side by side */
    float *out;     /* [LE_AHEAD_ROWS][4 * padded_hidden] */
    size_t row;     /* of the present task; counted, like the next two, by the kernels */
    size_t vector;  /* of the 4 * blocks; the projection is done when there are no more */
    size_t k;       /* products done in the present task */
} le_ahead;

struct le_kernels {
    const char *name;
    size_t lanes;   /* V */
    int vectorised; /* 0 for the scalar reference */
    /* Gates, cell state and hidden state of one step. */
    void (*cell_step)(const le_cell *cell, const le_cell_rows *step);
    /* The same for one row, taking as much of `ahead` along as fits. */
    void (*cell_step_ahead)(const le_cell *cell, const le_cell_rows *step, le_ahead *ahead);
    /* What is left of it. */
    void (*cell_finish_ahead)(const le_cell *cell, le_ahead *ahead);
    /* projected[row] = bias + x[row] @ W, in the panel's order of units; row r at out + r * out_stride. */
    void (*cell_project)(const le_cell *cell, size_t rows, const float *const *x, float *out,
                         size_t out_stride);
    /* Turn the pre-activations [rows][blocks][4][V] of `blocks` blocks from `block` on into the new states.
     */
    void (*cell_finish)(const le_cell *cell, size_t block, size_t blocks, size_t rows, const float *gates,
                        float *const *c, float *const *h_next);
    /* The products of the narrow compute types with what every CPU of this instruction set has; registry.c
     * knows where there is better. */
    const le_narrow_kernels *bfloat16, *int8;
    /* y[row] = activation(bias + x[row] @ kernel). */
    void (*linear)(const le_linear *linear, size_t rows, const float *const *x, float *const *y);
    void (*activate)(le_activation activation, size_t count, const float *x, float *y);
    void (*softmax)(size_t rows, size_t columns, const float *x, float *y);
    void (*layer_norm)(size_t rows, size_t columns, const float *x, const float *gamma, const float *beta,
                       float epsilon, float *y);
};

/* Vectors in block `block` of a linear layer with `output_size` outputs: 4, or 1, 2 or 4 for the last. */
static inline size_t le_linear_block_vectors(size_t output_size, size_t lanes, size_t block) {
    const size_t left = output_size - block * 4 * lanes;
    return left <= lanes ? 1 : left <= 2 * lanes ? 2 : 4;
}

#endif
