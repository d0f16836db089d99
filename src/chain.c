/* Chains: rows that advance by one step through all units, each row's state wherever it lies. */
#include "chain.h"

#include <string.h>

#include "float_state.h"

static size_t units_of(const le_stage *stage) {
    return stage->kind == LE_STAGE_LSTM && stage->lstm->backend == LE_FUSED ? stage->lstm->layers : 1;
}

/* Whether a stage is complete. */
static int is_sound(const le_stage *stage) {
    switch (stage->kind) {
    case LE_STAGE_LSTM:
        return stage->lstm != NULL && stage->lstm->directions == 1 && !stage->lstm->reverse;
    case LE_STAGE_LINEAR:
        return stage->linear != NULL;
    case LE_STAGE_ACTIVATION:
    case LE_STAGE_SOFTMAX:
        return stage->kernels != NULL && stage->size != 0;
    }
    return 0;
}

static size_t element_bytes_of(const le_stage *stage) {
    return stage->kind == LE_STAGE_LSTM ? le_dtype_bytes(stage->lstm->dtype) : sizeof(float);
}

/* Elements of a row's state that come to `used`, each array on cache lines of its own. */
static size_t take(size_t *used, size_t elements, size_t element_bytes) {
    const size_t offset = *used;
    *used += le_round_up(elements, LE_ALIGNMENT / element_bytes);
    return offset;
}

static void fill_lstm(const le_lstm *lstm, size_t stage, le_unit *units, size_t element_bytes, size_t *used) {
    if (lstm->backend == LE_BLAS) {
        *units = (le_unit){
            .kind = LE_UNIT_BLAS,
            .lstm = lstm,
            .input_size = lstm->input_size,
            .output_size = lstm->output_size,
            .h_offset = take(used, lstm->layers * lstm->output_size, element_bytes),
        };
        units->c_offset = take(used, lstm->layers * lstm->hidden_size, element_bytes);
        return;
    }
    for (size_t layer = 0; layer < lstm->layers; layer++) {
        const le_cell *cell = &lstm->cells[layer];
        units[layer] = (le_unit){
            .kind = LE_UNIT_CELL,
            .kernels = lstm->kernels,
            .cell = cell,
            .stage = stage,
            .input_size = cell->input_size,
            .output_size = cell->output_size,
            .h_offset = take(used, cell->output_size, element_bytes),
        };
        units[layer].c_offset = take(used, cell->padded_hidden, element_bytes);
    }
}

static void fill_other(const le_stage *stage, le_unit *unit) {
    *unit = (le_unit){
        .kind = stage->kind == LE_STAGE_LINEAR    ? LE_UNIT_LINEAR
                : stage->kind == LE_STAGE_SOFTMAX ? LE_UNIT_SOFTMAX
                                                  : LE_UNIT_ACTIVATION,
        .kernels = stage->kind == LE_STAGE_LINEAR ? stage->linear->kernels : stage->kernels,
        .linear = stage->linear,
        .activation = stage->activation,
        .input_size = stage->kind == LE_STAGE_LINEAR ? stage->linear->input_size : stage->size,
        .output_size = stage->kind == LE_STAGE_LINEAR ? stage->linear->output_size : stage->size,
    };
}

le_status le_chain_create(const le_stage *stages, size_t count, le_chain **result) {
    if (stages == NULL || result == NULL || count == 0) {
        return LE_ERROR_ARGUMENT;
    }
    size_t units = 0;
    for (size_t stage = 0; stage < count; stage++) {
        if (!is_sound(&stages[stage]) || element_bytes_of(&stages[stage]) != element_bytes_of(stages)) {
            return LE_ERROR_ARGUMENT;
        }
        /* Both are of memory that is there: no sum of them can overflow. */
        units += units_of(&stages[stage]);
    }
    le_chain *chain = le_allocate(1, sizeof *chain);
    if (chain == NULL) {
        return LE_ERROR_MEMORY;
    }
    chain->stages = le_allocate(count, sizeof *chain->stages);
    chain->units = le_allocate(units, sizeof *chain->units);
    if (chain->stages == NULL || chain->units == NULL) {
        le_chain_destroy(chain);
        return LE_ERROR_MEMORY;
    }
    chain->stages_count = count;
    chain->element_bytes = element_bytes_of(stages);
    chain->first_recurrent = chain->end_recurrent = units;
    size_t used = 0;
    for (size_t stage = 0; stage < count; stage++) {
        const size_t first = chain->units_count;
        const int recurrent = stages[stage].kind == LE_STAGE_LSTM;
        chain->units_count += units_of(&stages[stage]);
        chain->stages[stage] = (le_chain_stage){recurrent ? stages[stage].lstm : NULL, first};
        if (recurrent) {
            fill_lstm(stages[stage].lstm, stage, &chain->units[first], chain->element_bytes, &used);
            chain->operations += le_step_operations(stages[stage].lstm);
            chain->first_recurrent = le_min_size(chain->first_recurrent, first);
            chain->end_recurrent = chain->units_count;
        } else {
            const le_unit *unit = &chain->units[first];
            fill_other(&stages[stage], &chain->units[first]);
            chain->operations +=
                (unit->kind == LE_UNIT_LINEAR ? (double)unit->input_size : 20.0) * (double)unit->output_size;
        }
    }
    chain->state_bytes = le_max_size(used * chain->element_bytes, LE_ALIGNMENT);
    chain->input_size = chain->units[0].input_size;
    chain->output_size = chain->units[units - 1].output_size;
    le_status status = LE_OK;
    for (size_t unit = 0; unit < units; unit++) {
        const le_unit *this = &chain->units[unit];
        const size_t hidden = this->cell != NULL ? this->cell->padded_hidden : 0;
        if (unit != 0 && this->input_size != chain->units[unit - 1].output_size) {
            status = LE_ERROR_ARGUMENT;
        }
        chain->width = le_max_size(chain->width, le_max_size(this->output_size, hidden));
        chain->width = le_max_size(chain->width, this->input_size);
    }
    chain->width = le_round_up(chain->width, LE_ALIGNMENT / chain->element_bytes);
    if (status != LE_OK) {
        le_chain_destroy(chain);
        return status;
    }
    *result = chain;
    return LE_OK;
}

void le_chain_destroy(le_chain *chain) {
    if (chain != NULL) {
        le_free(chain->stages);
        le_free(chain->units);
        le_free(chain);
    }
}

size_t le_chain_state_bytes(const le_chain *chain) {
    return chain->state_bytes;
}

/* Copy the state of a stage between a row's block and canonical arrays, in either direction. */
static void copy_state(const le_chain *chain, size_t stage, char *state, char *h, char *c, int out) {
    const le_lstm *lstm = chain->stages[stage].lstm;
    const size_t element = chain->element_bytes;
    if (lstm == NULL) {
        return;
    }
    for (size_t layer = 0; layer < lstm->layers; layer++) {
        const int fused = lstm->backend == LE_FUSED;
        const le_unit *unit = &chain->units[chain->stages[stage].first_unit + (fused ? layer : 0)];
        const size_t place = fused ? 0 : layer;
        char *own_h = state + (unit->h_offset + place * lstm->output_size) * element;
        char *own_c = state + (unit->c_offset + place * lstm->hidden_size) * element;
        char *given_h = h + layer * lstm->output_size * element;
        char *given_c = c + layer * lstm->hidden_size * element;
        memcpy(out ? given_h : own_h, out ? own_h : given_h, lstm->output_size * element);
        memcpy(out ? given_c : own_c, out ? own_c : given_c, lstm->hidden_size * element);
    }
}

void le_chain_get_state(const le_chain *chain, size_t stage, const void *state, void *h, void *c) {
    copy_state(chain, stage, (char *)state, h, c, 1);
}

void le_chain_set_state(const le_chain *chain, size_t stage, void *state, const void *h, const void *c) {
    copy_state(chain, stage, state, (char *)h, (char *)c, 0);
}

/* One step of `rows` rows in the blas backend, over the gathered arrays. */
static le_run blas_run_of(const le_lstm *lstm, size_t rows, const le_chain_space *space) {
    return (le_run){
        .batch = rows,
        .time = 1,
        .x = space->x,
        .x_row_stride = lstm->input_size,
        .x_time_stride = lstm->input_size,
        .y = space->y,
        .y_row_stride = lstm->output_size,
        .y_time_stride = lstm->output_size,
        .h0 = space->h,
        .c0 = space->c,
        .h_n = space->h,
        .c_n = space->c,
    };
}

le_status le_chain_lay_out(const le_chain *chain, le_arena *arena, le_chain_space *space) {
    size_t layers = 0, workspace = 0;
    for (size_t stage = 0; stage < chain->stages_count; stage++) {
        const le_lstm *lstm = chain->stages[stage].lstm;
        if (lstm == NULL || lstm->backend != LE_BLAS) {
            continue;
        }
        layers = le_max_size(layers, lstm->layers);
        for (size_t rows = 1; rows <= LE_CHAIN_ROWS; rows++) {
            size_t bytes;
            le_run run = blas_run_of(lstm, rows, space);
            run.x = chain; /* not read: there is no array yet */
            const le_status status = le_lstm_workspace_bytes(lstm, &run, &bytes);
            if (status != LE_OK) {
                return status;
            }
            workspace = le_max_size(workspace, bytes);
        }
    }
    size_t row_bytes;
    if (le_multiply(chain->width, chain->element_bytes, &row_bytes) != LE_OK) {
        return LE_ERROR_SIZE;
    }
    for (int turn = 0; turn < 2; turn++) {
        space->between[turn] = le_arena_take(arena, LE_CHAIN_ROWS, row_bytes);
        space->between_rows[turn] = le_arena_take(arena, LE_CHAIN_ROWS, sizeof(void *));
    }
    space->hidden = le_arena_take(arena, LE_CHAIN_ROWS, row_bytes);
    space->hidden_rows = le_arena_take(arena, LE_CHAIN_ROWS, sizeof(void *));
    space->c_rows = le_arena_take(arena, LE_CHAIN_ROWS, sizeof(void *));
    space->h_rows = le_arena_take(arena, LE_CHAIN_ROWS, sizeof(void *));
    space->narrow = le_arena_take(arena, chain->stages_count, sizeof *space->narrow);
    for (size_t stage = 0; stage < chain->stages_count; stage++) {
        const le_lstm *lstm = chain->stages[stage].lstm;
        le_narrow_space narrow;
        if (lstm != NULL) {
            le_narrow_take(arena, lstm, LE_CHAIN_ROWS, &narrow);
            if (space->narrow != NULL) {
                space->narrow[stage] = narrow;
            }
        }
    }
    const size_t gathered = layers == 0 ? 0 : LE_CHAIN_ROWS;
    space->x = le_arena_take(arena, gathered, row_bytes);
    space->y = le_arena_take(arena, gathered, row_bytes);
    space->h = le_arena_take(arena, gathered * layers, row_bytes);
    space->c = le_arena_take(arena, gathered * layers, row_bytes);
    space->workspace = le_arena_take(arena, workspace, 1);
    for (size_t row = 0; arena->base != NULL && row < LE_CHAIN_ROWS; row++) {
        for (int turn = 0; turn < 2; turn++) {
            space->between_rows[turn][row] = (char *)space->between[turn] + row * row_bytes;
        }
        space->hidden_rows[row] = space->hidden + row * chain->width;
    }
    return arena->overflow ? LE_ERROR_SIZE : LE_OK;
}

static void run_cell(const le_unit *unit, size_t rows, const float *const *x, const float *const *projected,
                     void *const *states, float *const *y, le_chain_space *space) {
    const le_cell *cell = unit->cell;
    for (size_t row = 0; row < rows; row++) {
        float *state = states[row];
        space->h_rows[row] = state + unit->h_offset;
        space->c_rows[row] = state + unit->c_offset;
    }
    const le_cell_rows step = {
        .rows = rows,
        .x = projected == NULL ? x : NULL,
        .projected = projected,
        .h = space->h_rows,
        .c = space->c_rows,
        .h_next = cell->projection == NULL ? y : space->hidden_rows,
    };
    le_cell_step(unit->kernels, cell, &step, &space->narrow[unit->stage]);
    if (cell->projection != NULL) {
        unit->kernels->linear(cell->projection, rows, (const float *const *)space->hidden_rows, y);
    }
    /* The new h goes where the next unit, or the caller, wants it, and from there into the state, whose old h
     * every unit of the cell had to read. A second place in the state instead would be written from far away.
     */
    for (size_t row = 0; row < rows; row++) {
        memcpy((float *)space->h_rows[row], y[row], cell->output_size * sizeof(float));
    }
}

/* Copy `bytes` of each row between one contiguous array and the rows' own places. */
static void gather(char *array, void *const *rows, size_t count, size_t offset, size_t bytes, int out) {
    for (size_t row = 0; row < count; row++) {
        char *own = (char *)rows[row] + offset;
        memcpy(out ? own : array + row * bytes, out ? array + row * bytes : own, bytes);
    }
}

static void run_blas(const le_chain *chain, const le_unit *unit, size_t rows, const void *const *x,
                     void *const *states, void *const *y, le_chain_space *space) {
    const le_lstm *lstm = unit->lstm;
    const size_t element = chain->element_bytes;
    const size_t h_bytes = lstm->output_size * element, c_bytes = lstm->hidden_size * element;
    const le_run run = blas_run_of(lstm, rows, space);
    gather(space->x, (void *const *)x, rows, 0, lstm->input_size * element, 0);
    for (int out = 0; out < 2; out++) {
        for (size_t layer = 0; layer < lstm->layers; layer++) {
            gather((char *)space->h + layer * rows * h_bytes, states, rows,
                   unit->h_offset * element + layer * h_bytes, h_bytes, out);
            gather((char *)space->c + layer * rows * c_bytes, states, rows,
                   unit->c_offset * element + layer * c_bytes, c_bytes, out);
        }
        if (!out) {
            (void)le_lstm_run(lstm, &run, space->workspace);
        }
    }
    gather(space->y, y, rows, 0, h_bytes, 1);
}

void le_chain_run(const le_chain *chain, size_t first, size_t end, size_t rows, const void *const *x,
                  const float *const *projected, void *const *states, void *const *y, le_chain_space *space) {
    const le_float_state before = le_float_state_enter();
    for (size_t index = first; index < end; index++) {
        const le_unit *unit = &chain->units[index];
        void *const *target = index + 1 == end ? y : space->between_rows[index & 1];
        switch (unit->kind) {
        case LE_UNIT_CELL:
            run_cell(unit, rows, (const float *const *)x, index == first ? projected : NULL, states,
                     (float *const *)target, space);
            break;
        case LE_UNIT_BLAS:
            run_blas(chain, unit, rows, x, states, target, space);
            break;
        case LE_UNIT_LINEAR:
            unit->kernels->linear(unit->linear, rows, (const float *const *)x, (float *const *)target);
            break;
        case LE_UNIT_ACTIVATION:
            for (size_t row = 0; row < rows; row++) {
                unit->kernels->activate(unit->activation, unit->output_size, x[row], target[row]);
            }
            break;
        case LE_UNIT_SOFTMAX:
            for (size_t row = 0; row < rows; row++) {
                unit->kernels->softmax(1, unit->output_size, x[row], target[row]);
            }
            break;
        }
        x = (const void *const *)target;
    }
    for (size_t stage = 0; stage < chain->stages_count; stage++) {
        le_narrow_end(&space->narrow[stage]);
    }
    le_float_state_leave(before);
}
