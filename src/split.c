#include "split.h"

#include "memory.h"

/* Multiply-adds that are worth the threads: some 40 microseconds of one core, for waking a thread takes 10
 * to 30. */
#define WORTH 2e6

/* Rows for each member from which rows are shared out before units: with fewer a tile of the kernels loads
 * every weight for too few multiply-adds (two threads at H = 256: 1.5 times as fast with two rows, by
 * units 1.85). */
enum { ROWS_LEAST = 4 };

/* Hidden units from which units are shared out, and those that each member has at least: at every step the
 * members wait for each other's part of h, 65 to 270 ns by the host's mood (two threads, one row: 1.6 times
 * as fast at H = 96, 1.8 at 128, twice from 256 on, where each half fits its core's own cache). */
enum { UNITS_HIDDEN_LEAST = 96, UNITS_LEAST = 48 };

/* Whether the hidden units can be shared out, and to how many. */
static size_t unit_members(const le_lstm *lstm, const le_run *run) {
    if (lstm->backend == LE_BLAS || lstm->narrow != NULL || lstm->output_size != lstm->hidden_size ||
        lstm->cells[0].projection != NULL) {
        return 1;
    }
    const size_t most = run->split == LE_FASTEST ? lstm->hidden_size / UNITS_LEAST : lstm->cells[0].blocks;
    return le_min_size(run->members, most);
}

/* The same for the rows. */
static size_t row_members(const le_lstm *lstm, const le_run *run, const le_plan *plan) {
    /* The sums of a BLAS depend on how many rows it is given: the groups stay those of one thread. */
    const size_t most = lstm->backend == LE_BLAS ? le_plan_groups(plan, run->batch) : run->batch;
    return le_min_size(run->members, most);
}

static void split_rows(const le_lstm *lstm, const le_run *run, le_plan *plan) {
    plan->members = row_members(lstm, run, plan);
    if (plan->members < 2) {
        plan->members = 1;
        return;
    }
    plan->split = LE_ROWS;
    if (lstm->backend != LE_BLAS) {
        plan->in_a_turn = plan->members;
        const size_t turns = le_plan_groups(plan, run->batch) / plan->members;
        plan->rows = (run->batch - 1) / (turns * plan->members) + 1;
    }
}

static void split_units(const le_lstm *lstm, const le_run *run, le_plan *plan) {
    plan->members = le_max_size(unit_members(lstm, run), 1);
    if (plan->members > 1) {
        plan->split = LE_UNITS;
    }
}

void le_choose_split(const le_lstm *lstm, const le_run *run, le_plan *plan) {
    plan->split = LE_ALONE;
    plan->members = 1;
    plan->in_a_turn = 1;
    if (run->members < 2 || run->batch == 0 || run->time == 0) {
        return;
    }
    const double operations = le_step_operations(lstm) * (double)run->batch * (double)run->time;
    if (run->split == LE_ROWS) {
        split_rows(lstm, run, plan);
    } else if (run->split == LE_UNITS) {
        split_units(lstm, run, plan);
    } else if (run->split == LE_FASTEST && operations >= WORTH) {
        if (run->batch / run->members < ROWS_LEAST && lstm->hidden_size >= UNITS_HIDDEN_LEAST) {
            split_units(lstm, run, plan);
        }
        if (plan->split == LE_ALONE && run->batch > 1) {
            split_rows(lstm, run, plan);
        }
    }
}
