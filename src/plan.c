#include "plan.h"

#include "kernels/kernels.h"
#include "memory.h"
#include "split.h"

/* Rows of a group. Every step of a group streams all panels once; with 64 rows the multiply-adds take an
 * order of magnitude longer than that even from the last-level cache, while the group's states still fit a
 * core's own. */
enum { GROUP_ROWS = 64 };

/* The same where the panels of a cell are too large for a core's own cache: every pass over them counts more
 * than where the states lie (8% at B = 128, H = 512). */
enum { GROUP_ROWS_LARGE = 128 };

/* Bytes of projected inputs that the blas backend holds at once: a part of a 512 KB to 1 MB second-level
 * cache. */
enum { PROJECTED_BYTES = 256 * 1024, PROJECTED_STEPS_LEAST = 16, PROJECTED_STEPS_MOST = 512 };

/* Bytes between two layers of a stack that runs chunk by chunk. */
enum { BETWEEN_BYTES = 128 * 1024, BETWEEN_STEPS_LEAST = 1, BETWEEN_STEPS_MOST = 128 };

/* Bytes that the outputs between two bidirectional layers, which need the whole sequence, should not pass. */
enum { BETWEEN_WHOLE_BYTES = 64 * 1024 * 1024 };

/* Inputs are projected for several steps at once for as few rows as this: one row reads every weight for a
 * single multiply-add, so taking W for several steps at once saves most of its traffic; several rows share
 * each read already. The kernels that project beside the recurrence take one row. */
enum { PROJECT_ROWS = 1 };

/* W and R together may be this large for a projection beside the recurrence: both must stay in the last-level
 * cache (32 MB shared where we measured), for what has to come from memory again and again costs more than is
 * hidden. Above it, W is read once for as many steps as this many bytes of projected inputs hold. */
enum { AHEAD_BYTES = 16 * 1024 * 1024, WINDOW_BYTES = 2 * 1024 * 1024, WINDOW_STEPS_MOST = 128 };

static size_t clamp(size_t value, size_t least, size_t most) {
    return value < least ? least : value > most ? most : value;
}

le_plan le_plan_run(const le_lstm *lstm, const le_run *run) {
    le_plan plan;
    const size_t gate_bytes = 4 * lstm->hidden_size * le_dtype_bytes(lstm->dtype);
    const size_t inputs = le_max_size(lstm->input_size, lstm->directions * lstm->output_size);
    /* Divide before multiplying: no product of sizes from outside can overflow here, and below. */
    const int large = inputs + lstm->output_size > LE_LARGE_PANEL_BYTES / gate_bytes;
    plan.rows = le_min_size(le_max_size(run->batch, 1), large ? GROUP_ROWS_LARGE : GROUP_ROWS);
    const size_t step_bytes = lstm->output_size * le_dtype_bytes(lstm->dtype);
    if (lstm->directions == 2 && lstm->layers > 1) {
        const size_t row_steps = BETWEEN_WHOLE_BYTES / (4 * step_bytes);
        plan.rows = clamp(row_steps / le_max_size(run->time, 1), 1, plan.rows);
    }
    le_choose_split(lstm, run, &plan);
    plan.window = 0;
    plan.ahead = 0;
    if (plan.rows <= PROJECT_ROWS && run->time > 1 && lstm->input_size != 0) {
        plan.ahead = lstm->narrow == NULL && inputs + lstm->output_size <= AHEAD_BYTES / gate_bytes;
        plan.window = plan.ahead || lstm->narrow != NULL
                          ? LE_AHEAD_ROWS
                          : clamp(WINDOW_BYTES / gate_bytes, LE_AHEAD_ROWS, WINDOW_STEPS_MOST);
    }
    if (lstm->backend == LE_BLAS) {
        plan.chunk =
            clamp(PROJECTED_BYTES / plan.rows / gate_bytes, PROJECTED_STEPS_LEAST, PROJECTED_STEPS_MOST);
    } else if (lstm->layers > 1 && lstm->directions == 1) {
        plan.chunk = clamp(BETWEEN_BYTES / (step_bytes * plan.rows), BETWEEN_STEPS_LEAST, BETWEEN_STEPS_MOST);
        if (plan.split == LE_LAYERS) {
            plan.chunk = le_min_size(plan.chunk, le_layers_chunk(run, &plan));
        }
    } else {
        plan.chunk = run->time;
    }
    plan.chunk = clamp(plan.chunk, 1, le_max_size(run->time, 1));
    return plan;
}

/* Elements of one buffer between two layers. */
static size_t between_elements(const le_lstm *lstm, const le_run *run, const le_plan *plan, int *overflow) {
    if (lstm->layers == 1) {
        return 0;
    }
    size_t elements = plan->rows;
    const size_t steps = lstm->directions == 2 ? run->time : plan->chunk;
    if (le_multiply(elements, steps, &elements) != LE_OK ||
        le_multiply(elements, lstm->directions * lstm->output_size, &elements) != LE_OK) {
        *overflow = 1;
        return 0;
    }
    return elements;
}

static le_status arena_status(const le_arena *arena, int overflow, size_t *bytes) {
    if (arena->overflow || overflow) {
        return LE_ERROR_SIZE;
    }
    *bytes = le_max_size(arena->used, LE_ALIGNMENT);
    return LE_OK;
}

static le_row_order take_order(le_arena *arena, const le_run *run) {
    const size_t count = run->lengths == NULL ? 0 : run->batch;
    le_row_order rows;
    rows.order = le_arena_take(arena, count, sizeof *rows.order);
    rows.sorted = le_arena_take(arena, count, sizeof *rows.sorted);
    if (count == 0) {
        rows.order = NULL;
    }
    return rows;
}

/* Lay out one member's part. */
static void take_fused_space(le_arena *arena, const le_lstm *lstm, const le_plan *plan, size_t between,
                             le_fused_space *space) {
    const size_t rows = plan->rows;
    const size_t lanes = lstm->kernels->lanes;
    const size_t padded_hidden = le_round_up(lstm->hidden_size, lanes);
    const size_t padded_output = le_round_up(lstm->output_size, lanes);
    const size_t cells = lstm->layers * lstm->directions;
    space->states = le_arena_take(arena, cells, sizeof *space->states);
    for (size_t cell = 0; cell < cells; cell++) {
        le_cell_state state;
        state.c = le_arena_take(arena, rows * padded_hidden, sizeof(float));
        state.h[0] = le_arena_take(arena, rows * padded_output, sizeof(float));
        state.h[1] = le_arena_take(arena, rows * padded_output, sizeof(float));
        state.current = le_arena_take(arena, rows, sizeof *state.current);
        state.has_output = le_arena_take(arena, rows, 1);
        if (space->states != NULL) {
            space->states[cell] = state;
        }
    }
    space->between[0] = le_arena_take(arena, between, sizeof(float));
    space->between[1] =
        le_arena_take(arena, lstm->layers > 2 || lstm->directions == 2 ? between : 0, sizeof(float));
    space->hidden = le_arena_take(arena, rows * padded_hidden, sizeof(float));
    const size_t inputs = le_max_size(lstm->input_size, lstm->directions * lstm->output_size);
    const size_t gates = 4 * padded_hidden;
    space->projected[0] = le_arena_take(arena, plan->window * gates, sizeof(float));
    space->projected[1] = le_arena_take(arena, plan->ahead ? plan->window * gates : 0, sizeof(float));
    space->ahead_x = le_arena_take(arena, plan->ahead ? plan->window * inputs : 0, sizeof(float));
    le_narrow_take(arena, lstm, le_max_size(rows, plan->window), &space->narrow);
    space->x_rows = le_arena_take(arena, le_max_size(rows, plan->window), sizeof *space->x_rows);
    space->h_rows = le_arena_take(arena, rows, sizeof *space->h_rows);
    space->init_rows = le_arena_take(arena, rows, sizeof *space->init_rows);
    space->c_rows = le_arena_take(arena, rows, sizeof *space->c_rows);
    space->h_next_rows = le_arena_take(arena, rows, sizeof *space->h_next_rows);
    space->hidden_rows = le_arena_take(arena, rows, sizeof *space->hidden_rows);
    space->output_rows = le_arena_take(arena, rows, sizeof *space->output_rows);
    space->member = NULL;
    space->parts = NULL;
    const size_t handed = plan->split == LE_LAYERS ? between : 0;
    space->handed[0] = le_arena_take(arena, handed, sizeof(float));
    space->handed[1] = le_arena_take(arena, handed, sizeof(float));
    if (le_plan_crew(plan)) {
        space->member = le_arena_take(arena, 1, sizeof *space->member);
    }
    if (plan->split == LE_UNITS) {
        space->parts = le_arena_take(arena, cells, sizeof *space->parts);
    }
    /* What two threads write must not share a pair of cache lines. */
    (void)le_arena_take(arena, LE_APART_BYTES, 1);
}

le_status le_fused_workspace(const le_lstm *lstm, const le_run *run, const le_plan *plan, void *base,
                             le_fused_work *work, size_t *bytes) {
    le_fused_work measured;
    le_fused_space space;
    le_arena arena = {base, 0, 0};
    int overflow = 0;
    if (work == NULL) {
        work = &measured;
    }
    const size_t between = between_elements(lstm, run, plan, &overflow);
    work->rows = take_order(&arena, run);
    work->spaces = le_arena_take(&arena, plan->members, sizeof *work->spaces);
    for (size_t member = 0; member < plan->members; member++) {
        take_fused_space(&arena, lstm, plan, between, &space);
        if (base != NULL) {
            work->spaces[member] = space;
        }
    }
    work->published = le_arena_take(&arena, le_plan_crew(plan) ? plan->members : 0, sizeof *work->published);
    const size_t part =
        plan->rows * le_member_most_units(lstm->hidden_size, lstm->kernels->lanes, plan->members);
    for (size_t index = 0; plan->split == LE_UNITS && index < 2 * plan->members; index++) {
        float *taken = le_arena_take(&arena, part + LE_APART_BYTES / sizeof(float), sizeof(float));
        if (base != NULL) {
            work->published[index / 2].part[index % 2] = taken;
        }
    }
    return arena_status(&arena, overflow, bytes);
}

static void take_blas_space(le_arena *arena, const le_lstm *lstm, const le_plan *plan, size_t between,
                            le_blas_space *space) {
    const size_t rows = plan->rows;
    const size_t element = le_dtype_bytes(lstm->dtype);
    const size_t cells = lstm->layers * lstm->directions;
    const size_t inputs = le_max_size(lstm->input_size, lstm->directions * lstm->output_size);
    space->h = le_arena_take(arena, cells * rows * lstm->output_size, element);
    space->c = le_arena_take(arena, cells * rows * lstm->hidden_size, element);
    space->last = le_arena_take(arena, cells * rows * lstm->output_size, element);
    space->between[0] = le_arena_take(arena, between, element);
    space->between[1] = le_arena_take(arena, between, element);
    space->gathered = le_arena_take(arena, plan->chunk * rows * inputs, element);
    space->gates = le_arena_take(arena, plan->chunk * rows * 4 * lstm->hidden_size, element);
    space->hidden = le_arena_take(arena, rows * lstm->hidden_size, element);
    (void)le_arena_take(arena, LE_APART_BYTES, 1);
}

le_status le_blas_workspace(const le_lstm *lstm, const le_run *run, const le_plan *plan, void *base,
                            le_blas_work *work, size_t *bytes) {
    le_blas_work measured;
    le_blas_space space;
    le_arena arena = {base, 0, 0};
    int overflow = 0;
    if (work == NULL) {
        work = &measured;
    }
    const size_t between = between_elements(lstm, run, plan, &overflow);
    work->rows = take_order(&arena, run);
    work->spaces = le_arena_take(&arena, plan->members, sizeof *work->spaces);
    for (size_t member = 0; member < plan->members; member++) {
        take_blas_space(&arena, lstm, plan, between, &space);
        if (base != NULL) {
            work->spaces[member] = space;
        }
    }
    return arena_status(&arena, overflow, bytes);
}
