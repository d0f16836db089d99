/* Chains from the inside: units, each of which turns rows into rows. */
#ifndef LE_CHAIN_H
#define LE_CHAIN_H

#include "lstm.h"
#include "lstm_engine/chain.h"
#include "memory.h"
#include "narrow.h"

/* Rows that advance together. With 64 every weight is read once for 64 multiply-adds, and the rows' states
 * still fit a core's own cache beside the panels. */
enum { LE_CHAIN_ROWS = 64 };

typedef enum le_unit_kind {
    LE_UNIT_CELL,
    LE_UNIT_BLAS,
    LE_UNIT_LINEAR,
    LE_UNIT_ACTIVATION,
    LE_UNIT_SOFTMAX
} le_unit_kind;

/* One layer: of a stack in the fused backend each layer is a unit of its own. */
typedef struct le_unit {
    le_unit_kind kind;
    const le_kernels *kernels;
    const le_cell *cell;
    size_t stage; /* that it belongs to */
    const le_lstm *lstm;
    const le_linear *linear;
    le_activation activation;
    size_t input_size;
    size_t output_size;
    size_t h_offset; /* in a row's state, in elements; of BLAS units [layers][output_size] and
                        [layers][hidden_size] */
    size_t c_offset;
} le_unit;

/* What remains of a stage: where its units begin. */
typedef struct le_chain_stage {
    const le_lstm *lstm; /* NULL: it has no state */
    size_t first_unit;
} le_chain_stage;

struct le_chain {
    size_t stages_count;
    le_chain_stage *stages;
    size_t units_count;
    le_unit *units;
    size_t first_recurrent; /* unit; units_count if there is none */
    size_t end_recurrent;   /* unit behind the last recurrent one; units_count if there is none */
    size_t input_size;
    size_t output_size;
    size_t element_bytes;
    size_t state_bytes;
    size_t width;      /* elements of the widest row between two units, padded */
    double operations; /* multiply-adds of one step of one row, about */
};

/* Scratch memory of one caller, for up to LE_CHAIN_ROWS rows. */
typedef struct le_chain_space {
    void *between[2]; /* [rows][width], in turns */
    void **between_rows[2];
    float *hidden; /* [rows][width]: before a projection */
    float **hidden_rows;
    float **c_rows;
    const float **h_rows;
    le_narrow_space *narrow; /* [stages] */
    void *h, *c, *x, *y;     /* blas: states, input and output gathered; and a workspace */
    void *workspace;
} le_chain_space;

/* Lay the scratch memory out, or measure it. */
le_status le_chain_lay_out(const le_chain *chain, le_arena *arena, le_chain_space *space);

/* Run the units [first, end) for one step of up to LE_CHAIN_ROWS rows: x [rows] (input of the first unit),
 * states [rows] (blocks of state_bytes) and y [rows] (output of the last), which do not overlap. `projected`,
 * if not NULL, are the accumulators of the first unit, a cell, in place of its x. */
void le_chain_run(const le_chain *chain, size_t first, size_t end, size_t rows, const void *const *x,
                  const float *const *projected, void *const *states, void *const *y, le_chain_space *space);

#endif
