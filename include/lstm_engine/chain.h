/* A chain: LSTM stacks, dense layers and activations one behind the other, advanced step by step.
 *
 * A row's state is one block of memory, wherever that lies, so that any rows can advance together. */
#ifndef LSTM_ENGINE_CHAIN_H
#define LSTM_ENGINE_CHAIN_H

#include <stddef.h>

#include "activation.h"
#include "dense.h"
#include "isa.h"
#include "lstm.h"
#include "status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum le_stage_kind {
    LE_STAGE_LSTM = 0,
    LE_STAGE_LINEAR = 1,
    LE_STAGE_ACTIVATION = 2,
    LE_STAGE_SOFTMAX = 3
} le_stage_kind;

/* One stage; what it points to must outlive the chain. */
typedef struct le_stage {
    le_stage_kind kind;
    const le_lstm *lstm;       /* of one direction, forward in time */
    const le_linear *linear;   /* float32 */
    const le_kernels *kernels; /* of an activation or softmax: float32 */
    le_activation activation;
    size_t size; /* of an activation or softmax: features */
} le_stage;

typedef struct le_chain le_chain;

/* Make a chain of `count` stages, at least one; they are copied.
 *
 * Returns LE_ERROR_ARGUMENT if they do not fit together, LE_ERROR_SIZE, LE_ERROR_MEMORY. */
le_status le_chain_create(const le_stage *stages, size_t count, le_chain **chain);

/* Free a chain; NULL is allowed. */
void le_chain_destroy(le_chain *chain);

/* Bytes of a row's state; the state of zeros is the beginning. A multiple of 64, as must be its address. */
size_t le_chain_state_bytes(const le_chain *chain);

/* Copy the state of stage number `stage`, an LSTM, out of a row's state, or into it: h [layers][output_size]
 * and c [layers][hidden_size]. */
void le_chain_get_state(const le_chain *chain, size_t stage, const void *state, void *h, void *c);
void le_chain_set_state(const le_chain *chain, size_t stage, void *state, const void *h, const void *c);

#ifdef __cplusplus
}
#endif

#endif
