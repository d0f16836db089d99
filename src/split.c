#include "split.h"

#include "memory.h"

/* Multiply-adds that are worth the threads: some 40 microseconds of one core, for waking a thread takes 10
 * to 30. Narrow types do two to four times as many in that time. */
#define WORTH 2e6
#define WORTH_NARROW 5e6

/* Rows for each member from which rows are shared out before anything else: with fewer a tile of the kernels
 * loads every weight for too few multiply-adds (two threads at H = 256: 1.5 times as fast with two rows, by
 * units 1.85). */
enum { ROWS_LEAST = 4 };

/* Hidden units from which units are shared out, and those that each member has at least: at every step the
 * members wait for each other's part of h, 65 to 270 ns by the host's mood (two threads, one row: 1.6 times
 * as fast at H = 96, 1.8 at 128, twice from 256 on, where each half fits its core's own cache). */
enum { UNITS_HIDDEN_LEAST = 96, UNITS_LEAST = 48 };

/* A split by layers has so many chunks for each member at least, if the sequence is long enough: the members
 * above wait for the first, and the members below are done before the last. A chunk is whole windows of the
 * projection that runs ahead. */
enum { CHUNKS_FOR_EACH = 4 };

/* What one multiply-add of a step takes in float32, about; and from what time of one thread on a step is
 * shared out among threads that are awake, who meet after each layer. */
#define MULTIPLY_ADD_NS 0.034
#define AWAKE_WORTH_NS 2000
#define MEET_NS 800

/* Whether the hidden units can be shared out, and to how many of so many threads. */
static size_t unit_members(const le_lstm *lstm, le_split split, size_t threads) {
    if (lstm->backend == LE_BLAS || lstm->output_size != lstm->hidden_size ||
        lstm->cells[0].projection != NULL) {
        return 1;
    }
    const size_t most = split == LE_FASTEST ? lstm->hidden_size / UNITS_LEAST : lstm->cells[0].blocks;
    return le_max_size(le_min_size(threads, most), 1);
}

/* The same for the rows. */
static size_t row_members(const le_lstm *lstm, const le_run *run, const le_plan *plan) {
    /* The sums of a BLAS depend on how many rows it is given: the groups stay those of one thread. */
    const size_t most = lstm->backend == LE_BLAS ? le_plan_groups(plan, run->batch) : run->batch;
    return le_min_size(run->members, most);
}

/* For the directions. */
static size_t direction_members(const le_lstm *lstm, const le_run *run) {
    return lstm->backend == LE_BLAS ? 1 : le_min_size(run->members, lstm->directions);
}

/* And for the layers. */
static size_t layer_members(const le_lstm *lstm, const le_run *run) {
    return lstm->backend == LE_BLAS || lstm->directions == 2 ? 1 : le_min_size(run->members, lstm->layers);
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

/* Share out among so many, if that is more than one. */
static void split_among(le_split split, size_t members, le_plan *plan) {
    if (members > 1) {
        plan->split = split;
        plan->members = members;
    }
}

/* The fastest split of a few rows. */
static void split_few(const le_lstm *lstm, const le_run *run, le_plan *plan) {
    const size_t directions = direction_members(lstm, run);
    const size_t units =
        lstm->hidden_size >= UNITS_HIDDEN_LEAST ? unit_members(lstm, run->split, run->members) : 1;
    /* Directions need nothing of each other at a step, but they are only two. */
    if (directions >= units && directions > 1) {
        split_among(LE_DIRECTIONS, directions, plan);
    } else if (units > 1) {
        split_among(LE_UNITS, units, plan);
    } else if (run->batch == 1) {
        /* Two rows are better off alone with a thread each. */
        split_among(LE_LAYERS, layer_members(lstm, run), plan);
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
        split_among(LE_UNITS, unit_members(lstm, run->split, run->members), plan);
    } else if (run->split == LE_DIRECTIONS) {
        split_among(LE_DIRECTIONS, direction_members(lstm, run), plan);
    } else if (run->split == LE_LAYERS) {
        split_among(LE_LAYERS, layer_members(lstm, run), plan);
    } else if (run->split == LE_FASTEST && operations >= (lstm->narrow == NULL ? WORTH : WORTH_NARROW)) {
        if (run->batch / run->members < ROWS_LEAST) {
            split_few(lstm, run, plan);
        }
        if (plan->split == LE_ALONE && run->batch > 1) {
            split_rows(lstm, run, plan);
        }
    }
}

size_t le_layers_chunk(const le_run *run, const le_plan *plan) {
    const size_t steps = run->time / (plan->members * CHUNKS_FOR_EACH);
    return le_round_up(le_max_size(steps, 1), LE_AHEAD_ROWS);
}

size_t le_stream_members(const le_lstm *lstm, le_split split, size_t threads) {
    if (split == LE_UNITS || (split == LE_FASTEST && lstm->hidden_size >= UNITS_HIDDEN_LEAST)) {
        return unit_members(lstm, split, threads);
    }
    return 1;
}

le_step_by le_choose_step(const le_lstm *lstm, le_split split, size_t batch) {
    if (split == LE_UNITS) {
        return LE_BY_ALL;
    }
    double nanoseconds = le_step_operations(lstm) * (double)batch * MULTIPLY_ADD_NS;
    if (lstm->narrow != NULL) {
        nanoseconds *= lstm->compute_type == LE_BFLOAT16 ? 0.5 : 0.3;
    }
    return nanoseconds >= AWAKE_WORTH_NS + (double)lstm->layers * MEET_NS ? LE_BY_AWAKE : LE_BY_ONE;
}
