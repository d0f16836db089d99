#include "cell_run.h"

#include <string.h>

#include "memory.h"

/* Steps whose projection is done with nothing beside it, before the first window that can be done beside a
 * recurrence: as few as it takes for that to be ready in time, where a layer has half as many inputs as
 * units.
 */
enum { LE_AHEAD_FIRST = LE_AHEAD_ROWS / 2 };

static void fill_skipped(const le_cell_run *r, size_t row, float *slot) {
    const size_t bytes = r->units * sizeof(float);
    le_cell_state *state = r->state;
    if (slot != NULL) {
        slot += r->first_unit;
    }
    if (r->run->lengths != NULL) {
        if (slot != NULL) {
            memset(slot, 0, bytes);
        }
        return;
    }
    if (r->run->zero_masked) {
        state->has_output[row] = 0;
    }
    if (slot == NULL) {
        return;
    }
    if (state->has_output[row]) {
        memcpy(slot, state->current[row] + r->first_unit, bytes);
    } else {
        memset(slot, 0, bytes);
    }
}

/* Input of the row at a step. */
static const float *input_at(const le_cell_run *r, size_t row, size_t step, size_t first_step) {
    size_t time;
    le_step_time(r->run, le_group_row(r->group, row), step, r->backward, &time);
    return r->input + le_view_at(&r->input_view, row, time, step - first_step);
}

/* bias + x @ W of the one row for a whole window of steps, with nothing beside it. */
static void project_window(const le_cell_run *r, size_t step, size_t last_step, size_t first_step,
                           float *out) {
    const size_t count = le_min_size(r->plan->window, last_step - step);
    for (size_t index = 0; index < count; index++) {
        r->space->x_rows[index] = input_at(r, 0, step + index, first_step);
    }
    le_cell_project(r->lstm->kernels, r->cell, count, r->space->x_rows, out, 4 * r->cell->padded_hidden,
                    &r->space->narrow);
}

/* Set up the projection of the steps from `step` on. */
static void project_ahead(const le_cell_run *r, size_t step, size_t last_step, size_t first_step, float *out,
                          le_ahead *ahead) {
    const size_t inputs = r->cell->input_size;
    float *x = r->space->ahead_x;
    const size_t count = step < last_step ? le_min_size(LE_AHEAD_ROWS, last_step - step) : 0;
    for (size_t row = 0; row < LE_AHEAD_ROWS; row++) {
        const float *source = row < count ? input_at(r, 0, step + row, first_step) : NULL;
        for (size_t feature = 0; feature < inputs; feature++) {
            x[feature * LE_AHEAD_ROWS + row] = source == NULL ? 0.0f : source[feature];
        }
    }
    *ahead = (le_ahead){.x = x, .out = out, .vector = count == 0 ? 4 * r->cell->blocks : 0};
}

static void run_chunk(const le_cell_run *r, size_t first_step, size_t last_step) {
    const le_cell *cell = r->cell;
    le_fused_space *space = r->space;
    le_cell_state *state = r->state;
    const size_t padded_output = le_round_up(cell->output_size, r->lstm->kernels->lanes);
    le_ahead ahead = {0};
    float *projected = space->projected[0];
    size_t window = first_step; /* the first step of the present window, and of the next */
    size_t next_window = r->plan->window == 0 ? last_step : first_step;
    for (size_t step = first_step; step < last_step; step++) {
        if (le_watch_stopped(r->watch)) {
            return;
        }
        size_t active = 0;
        if (step == next_window) {
            window = step;
            if (!r->plan->ahead) {
                next_window = step + r->plan->window;
                project_window(r, step, last_step, first_step, projected);
            } else if (step == first_step) {
                next_window = step + LE_AHEAD_FIRST;
                project_window(r, step, le_min_size(next_window, last_step), first_step, projected);
            } else {
                next_window = step + LE_AHEAD_ROWS;
                r->lstm->kernels->cell_finish_ahead(cell, &ahead);
                projected = ahead.out;
            }
            if (r->plan->ahead) {
                float *other = projected == space->projected[0] ? space->projected[1] : space->projected[0];
                project_ahead(r, next_window, last_step, first_step, other, &ahead);
            }
        }
        for (size_t row = 0; row < r->rows; row++) {
            size_t time;
            const int is_active = le_step_time(r->run, le_group_row(r->group, row), step, r->backward, &time);
            float *slot = r->output == NULL
                              ? NULL
                              : r->output + le_view_at(&r->output_view, row, time, step - first_step);
            if (!is_active) {
                fill_skipped(r, row, slot);
                continue;
            }
            space->output_rows[active] = slot;
            if (slot == NULL || r->member != NULL) {
                float *even = state->h[0] + row * padded_output;
                slot = state->current[row] == even ? state->h[1] + row * padded_output : even;
            }
            if (r->plan->window != 0) {
                space->init_rows[active] = projected + (step - window) * 4 * cell->padded_hidden;
            } else {
                space->x_rows[active] = r->input + le_view_at(&r->input_view, row, time, step - first_step);
            }
            space->h_rows[active] = state->current[row];
            space->c_rows[active] = state->c + row * cell->padded_hidden;
            space->h_next_rows[active] = slot + r->first_unit;
            state->current[row] = slot;
            state->has_output[row] = 1;
            active++;
        }
        if (active == 0) {
            continue;
        }
        const le_cell_rows rows = {
            .rows = active,
            .x = r->plan->window != 0 ? NULL : space->x_rows,
            .projected = r->plan->window != 0 ? space->init_rows : NULL,
            .h = space->h_rows,
            .c = space->c_rows,
            .h_next = cell->projection == NULL ? space->h_next_rows : space->hidden_rows,
            .backward = step & 1,
        };
        if (r->plan->ahead) {
            r->lstm->kernels->cell_step_ahead(cell, &rows, &ahead);
        } else {
            le_cell_step(r->lstm->kernels, cell, &rows, &space->narrow);
        }
        if (cell->projection != NULL) {
            r->lstm->kernels->linear(cell->projection, active, (const float *const *)space->hidden_rows,
                                     space->h_next_rows);
        }
        if (r->member != NULL &&
            !le_member_exchange(r->member, active, space->h_next_rows, space->output_rows)) {
            r->watch->stopped = 1;
            return;
        }
    }
    if (r->member != NULL) {
        /* What the others have written is the input of the next layer, and nobody reads this chunk's any
         * more. */
        r->watch->stopped |= !le_member_meet(r->member);
    } else if (r->output != NULL) {
        /* The slots may be used again for the next chunk or layer. */
        for (size_t row = 0; row < r->rows; row++) {
            float *own = state->h[0] + row * padded_output;
            if (state->current[row] != own) {
                memcpy(own, state->current[row], cell->output_size * sizeof(float));
                state->current[row] = own;
            }
        }
    }
}

void le_cell_run_chunk(const le_cell_run *r, size_t first_step, size_t last_step) {
    run_chunk(r, first_step, last_step);
    le_narrow_end(&r->space->narrow);
}

void le_cell_run_begin(const le_cell_run *r, size_t index) {
    const le_lstm *lstm = r->lstm;
    const size_t padded_hidden = r->cell->padded_hidden;
    const size_t padded_output = le_round_up(lstm->output_size, lstm->kernels->lanes);
    const float *h0 = r->run->h0;
    const float *c0 = r->run->c0;
    le_cell_state *state = r->state;
    memset(state->c, 0, r->rows * padded_hidden * sizeof(float));
    memset(state->h[0], 0, r->rows * padded_output * sizeof(float));
    memset(state->has_output, 0, r->rows);
    for (size_t row = 0; row < r->rows; row++) {
        const size_t source = index * r->run->batch + le_group_row(r->group, row);
        if (h0 != NULL) {
            memcpy(state->h[0] + row * padded_output, h0 + source * lstm->output_size,
                   lstm->output_size * sizeof(float));
        }
        if (c0 != NULL) {
            memcpy(state->c + row * padded_hidden, c0 + source * lstm->hidden_size + r->first_unit,
                   r->cell_units * sizeof(float));
        }
        state->current[row] = state->h[0] + row * padded_output;
    }
}

void le_cell_run_end(const le_cell_run *r, size_t index) {
    const le_lstm *lstm = r->lstm;
    float *h_n = r->run->h_n;
    float *c_n = r->run->c_n;
    for (size_t row = 0; row < r->rows; row++) {
        const size_t target = index * r->run->batch + le_group_row(r->group, row);
        if (h_n != NULL) {
            memcpy(h_n + target * lstm->output_size + r->first_unit, r->state->current[row] + r->first_unit,
                   r->units * sizeof(float));
        }
        if (c_n != NULL) {
            memcpy(c_n + target * lstm->hidden_size + r->first_unit,
                   r->state->c + row * r->cell->padded_hidden, r->cell_units * sizeof(float));
        }
    }
}

void le_cell_run_write_last(const le_cell_run *r, size_t direction) {
    const size_t bytes = r->units * sizeof(float);
    for (size_t row = 0; row < r->rows; row++) {
        float *y = (float *)r->run->y + le_group_row(r->group, row) * r->run->y_row_stride +
                   direction * r->lstm->output_size + r->first_unit;
        if (r->state->has_output[row]) {
            memcpy(y, r->state->current[row] + r->first_unit, bytes);
        } else {
            memset(y, 0, bytes);
        }
    }
}
