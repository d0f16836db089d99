/* The kernels of the narrow compute types, bfloat16 and int8, and the packed weights that they read.
 *
 * Only the products of the gates are narrow. Everything else of a cell, from the pre-activations on, is the
 * float32 code of the same instruction set.
 *
 * The panels are those of kernels.h with words of 32 bits in place of floats: a word holds the weights of one
 * unit and one gate for two k (bfloat16) or four k (int8). The k of W and of R are filled up with zeros to
 * words_step words each, and words_together of a unit and gate lie one behind the other; both are 1 but where
 * whole matrices are multiplied (narrow_amx.inc). A row's x and h are converted once for each step into
 * values that lie as the words do.
 *
 * bfloat16: acc = bias; acc = dot(acc, words, values) for the words of W, then of R: one chain in float32, of
 * single words or of sixteen at a time.
 *
 * int8: gate = bias + (x_scale * w_scale[unit]) * sum(W words) + (h_scale * r_scale[unit]) * sum(R words)
 * with exact sums in int32 and each + one fused multiply-add, left to right.
 *
 * int8 in numbers: a column of W or R has the scale max(abs(weights)) / 127, a row of x or h the scale
 * max(abs(values)) / 127, and what is stored is the quotient rounded to nearest, ties to even. A scale
 * depends on its own row or column alone, so a row's bits do not depend on its neighbours. A row with a NaN
 * or an infinity has the scale NaN: whatever is computed from it is NaN, never a number. A row whose largest
 * value is below 2^-100 counts as zero, for its quotients could overflow. The same holds for columns. */
#ifndef LE_KERNELS_NARROW_H
#define LE_KERNELS_NARROW_H

#include <stddef.h>
#include <stdint.h>

#include "lstm_engine/lstm.h"

/* Rows that are converted and taken through all blocks together; this bounds the scratch memory of a step. */
enum { LE_NARROW_ROWS = 128 };

/* Rows of the highest tiles. */
enum { LE_NARROW_TILE_ROWS = 32 };

/* int8: more k than this could overflow a sum of products of 127 * 127. */
enum { LE_NARROW_MOST_VALUES = 1 << 17 };

/* Smallest maximum that has a scale, 2^-100, and what quotients are made of. */
#define LE_NARROW_SMALLEST 0x1p-100f
#define LE_NARROW_LEVELS 127.0f

/* The gates of some rows for one block, or of one row for some blocks. W comes first of each pair, then R. */
typedef struct le_narrow_tile {
    const int32_t *panel;           /* first word that is used */
    size_t block_stride;            /* words from one block's panel to the next */
    size_t words[2];                /* of a unit and gate; 0 where there is nothing to multiply */
    const unsigned char *values[2]; /* of the first row */
    size_t strides[2];              /* bytes from row to row */
    const float *const *init;       /* [rows]: first value of each gate */
    float *out;                     /* [rows][out_stride]: [blocks][4][V] */
    size_t out_stride;
    size_t step_rows; /* of the step that the tile is of, as `begin` was told */
    /* int8 alone: */
    const float *row_scales[2];  /* [rows] */
    const float *unit_scales[2]; /* [blocks][4][V] */
    const int32_t *start[2]; /* [blocks][4][V]: first value of each sum, which takes `offset` away again */
} le_narrow_tile;

/* The kernels of one compute type on one instruction set. */
typedef struct le_narrow_kernels {
    const char *name;        /* of the instruction set, with what it is extended by */
    size_t lanes;            /* V, as of the le_kernels that they belong to */
    size_t per_word;         /* k of a word: 2 or 4 */
    size_t word_bytes;       /* of the values that belong to a word */
    size_t words_step;       /* the words of W, and of R, are filled up with words of zeros to a multiple */
    unsigned char places[4]; /* int8: at which byte of a word each k lies */
    int offset;              /* int8: what is added to each value */
    size_t rows_most;        /* of a tile, up to LE_NARROW_TILE_ROWS */
    size_t words_together;   /* of a unit and gate that lie together, a divisor of words_step; usually 1 */
    size_t rows_step;        /* of the heights of tiles of many rows: a multiple */
    size_t blocks_most;      /* of a tile of one row: a power of two */
    /* Convert `count` values of a row, filled up with zeros to words_step words; returns the row's scale (1
     * for bfloat16). Up to 16 values past the last word are written. */
    float (*convert)(const float *values, size_t count, unsigned char *out);
    /* Make this thread's registers ready for tiles of steps of `rows` rows, of which only the number up to
     * rows_step counts; returns 0 if there is nothing to be made ready. `end` gives them back. NULL where
     * there never is anything. */
    int (*begin)(size_t rows);
    void (*end)(void);
    /* 1 <= rows <= rows_most with one block, or one row with a power of two of blocks up to blocks_most. */
    void (*tile)(const le_narrow_tile *tile, size_t rows, size_t blocks);
} le_narrow_kernels;

/* The packed narrow weights of one cell. */
typedef struct le_narrow {
    const le_narrow_kernels *kernels;
    size_t words[2];    /* of W and of R; 0 for W where the input projection is float32 */
    size_t panel_words; /* of one block */
    int32_t *panels;    /* [blocks][words of W, words of R, both / together][4][together][V] */
    float *scales[2];   /* int8: [blocks][4][V] */
    int32_t *start[2];  /* int8: [blocks][4][V] */
} le_narrow;

#endif
