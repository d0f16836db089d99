/* The fused backend: groups of rows through all layers and directions, by one thread or by a crew of them. */
#include "cell_run.h"
#include "memory.h"
#include "run_groups.h"

/* Set up layer `layer`, direction `direction`: where its input comes from and where its output goes. */
static le_cell_run layer_run(const le_lstm *lstm, const le_run *run, const le_plan *plan,
                             le_fused_space *space, size_t layer, size_t direction, const le_group *group,
                             le_watch *watch) {
    const size_t index = layer * lstm->directions + direction;
    const size_t width = lstm->directions * lstm->output_size;
    const size_t steps = lstm->directions == 2 ? run->time : plan->chunk;
    const le_view between = {0, steps * width, width, lstm->directions == 1, NULL};
    le_member *member = plan->split == LE_UNITS ? space->member : NULL;
    le_cell_run r = {
        .lstm = lstm,
        .run = run,
        .plan = plan,
        .space = space,
        .cell = member == NULL ? &lstm->cells[index] : &space->parts[index].cell,
        .state = &space->states[index],
        .group = group,
        .rows = group->rows,
        .watch = watch,
        .first_unit = member == NULL ? 0 : member->first_unit,
        .units = member == NULL ? lstm->output_size : member->units,
        .cell_units = member == NULL ? lstm->hidden_size : member->units,
        .member = member,
        .backward = le_runs_backward(lstm, direction),
    };
    if (layer == 0) {
        r.input = run->x;
        r.input_view = le_batch_view(group, run->x_row_stride, run->x_time_stride);
    } else {
        r.input = space->between[(layer - 1) & 1];
        r.input_view = between;
    }
    if (layer + 1 < lstm->layers) {
        r.output = space->between[layer & 1];
        r.output_view = between;
        r.output_view.offset = direction * lstm->output_size;
    } else if (run->y != NULL && run->sequences) {
        r.output = run->y;
        r.output_view = le_batch_view(group, run->y_row_stride, run->y_time_stride);
        r.output_view.offset += direction * lstm->output_size;
    }
    return r;
}

/* Begin a group in a member's space. */
static void begin_group(const le_lstm *lstm, le_fused_space *space, const le_group *group) {
    for (size_t row = 0; row < group->rows; row++) {
        space->hidden_rows[row] = space->hidden + row * le_round_up(lstm->hidden_size, lstm->kernels->lanes);
    }
}

/* End a cell: its final state, and the output where that is the last one alone. */
static void end_cell(const le_cell_run *r, size_t layer, size_t direction) {
    le_cell_run_end(r, layer * r->lstm->directions + direction);
    if (layer + 1 == r->lstm->layers && r->run->y != NULL && !r->run->sequences) {
        le_cell_run_write_last(r, direction);
    }
}

/* One direction of a layer, from its first step to its last. */
static void run_whole(const le_lstm *lstm, const le_run *run, const le_plan *plan, le_fused_space *space,
                      size_t layer, size_t direction, const le_group *group, le_watch *watch) {
    const le_cell_run r = layer_run(lstm, run, plan, space, layer, direction, group, watch);
    le_cell_run_begin(&r, layer * lstm->directions + direction);
    for (size_t step = 0; step < run->time; step += plan->chunk) {
        le_cell_run_chunk(&r, step, le_min_size(step + plan->chunk, run->time));
    }
    end_cell(&r, layer, direction);
}

static void run_group(const le_lstm *lstm, const le_run *run, const le_plan *plan, void *member_space,
                      const le_group *group, le_watch *watch) {
    le_fused_space *space = member_space;
    begin_group(lstm, space, group);
    if (lstm->directions == 2) {
        /* The next layer needs the whole sequence of both. */
        for (size_t layer = 0; layer < lstm->layers; layer++) {
            run_whole(lstm, run, plan, space, layer, 0, group, watch);
            run_whole(lstm, run, plan, space, layer, 1, group, watch);
        }
        return;
    }
    /* A stack of one direction goes up chunk by chunk. */
    for (size_t layer = 0; layer < lstm->layers; layer++) {
        const le_cell_run r = layer_run(lstm, run, plan, space, layer, 0, group, watch);
        le_cell_run_begin(&r, layer);
    }
    for (size_t step = 0; step < run->time; step += plan->chunk) {
        for (size_t layer = 0; layer < lstm->layers; layer++) {
            const le_cell_run r = layer_run(lstm, run, plan, space, layer, 0, group, watch);
            le_cell_run_chunk(&r, step, le_min_size(step + plan->chunk, run->time));
        }
    }
    for (size_t layer = 0; layer < lstm->layers; layer++) {
        const le_cell_run r = layer_run(lstm, run, plan, space, layer, 0, group, watch);
        end_cell(&r, layer, 0);
    }
}

/* A run in which a crew goes through every group together: each member has a part of the stack. */
typedef struct crew_run {
    const le_lstm *lstm;
    const le_run *run;
    const le_plan *plan;
    const le_fused_work *work;
    int interrupted;
} crew_run;

/* A direction for each member, who meet where a layer ends. */
static void run_directions(const crew_run *all, le_fused_space *space, const le_group *group,
                           le_watch *watch) {
    begin_group(all->lstm, space, group);
    for (size_t layer = 0; layer < all->lstm->layers && !watch->stopped; layer++) {
        run_whole(all->lstm, all->run, all->plan, space, layer, space->member->index, group, watch);
        watch->stopped |= !le_member_meet(space->member);
    }
}

/* Layers [first, last) of a member. */
static void layers_of(const crew_run *all, size_t index, size_t *first, size_t *last) {
    *first = all->lstm->layers * index / all->plan->members;
    *last = all->lstm->layers * (index + 1) / all->plan->members;
}

/* Some layers for each member: while one takes a chunk through its layers, the next takes the chunk before
 * through those above. A chunk is handed over in one of two places in turns. */
static void run_layers(const crew_run *all, le_fused_space *space, const le_group *group, le_watch *watch) {
    const le_lstm *lstm = all->lstm;
    const le_run *run = all->run;
    const le_plan *plan = all->plan;
    le_member *member = space->member;
    le_published *published = all->work->published;
    size_t first, last;
    layers_of(all, member->index, &first, &last);
    begin_group(lstm, space, group);
    for (size_t layer = first; layer < last; layer++) {
        const le_cell_run r = layer_run(lstm, run, plan, space, layer, 0, group, watch);
        le_cell_run_begin(&r, layer);
    }
    for (size_t step = 0; step < run->time && !watch->stopped; step += plan->chunk) {
        const size_t parity = member->count & 1;
        const int ready =
            member->index == 0 || le_threads_await(run->threads, member->index,
                                                   &published[member->index - 1].count, member->count + 1);
        /* The next member has taken what lay in this place. */
        const int free = member->index + 1 == member->members || member->count < 2 ||
                         le_threads_await(run->threads, member->index, &published[member->index + 1].count,
                                          member->count - 1);
        if (!ready || !free) {
            watch->stopped = 1;
            return;
        }
        for (size_t layer = first; layer < last; layer++) {
            le_cell_run r = layer_run(lstm, run, plan, space, layer, 0, group, watch);
            if (layer == first && layer != 0) {
                r.input = all->work->spaces[member->index - 1].handed[parity];
            }
            if (layer + 1 == last && last != lstm->layers) {
                r.output = space->handed[parity];
            }
            le_cell_run_chunk(&r, step, le_min_size(step + plan->chunk, run->time));
        }
        le_threads_announce(run->threads, &published[member->index].count, ++member->count);
    }
    for (size_t layer = first; layer < last; layer++) {
        const le_cell_run r = layer_run(lstm, run, plan, space, layer, 0, group, watch);
        end_cell(&r, layer, 0);
    }
}

static void crew_member(void *context, size_t index) {
    crew_run *all = context;
    const le_lstm *lstm = all->lstm;
    le_fused_space *space = &all->work->spaces[index];
    le_watch watch;
    le_watch_begin(&watch, all->run, index, le_step_operations(lstm) * (double)all->plan->rows);
    space->member->threads = all->run->threads;
    space->member->published = all->work->published;
    le_member_begin(space->member, lstm->hidden_size, lstm->kernels->lanes, all->plan->members, index);
    for (size_t cell = 0; space->parts != NULL && cell < lstm->layers * lstm->directions; cell++) {
        le_member_part(space->member, &lstm->cells[cell], &space->parts[cell]);
    }
    const size_t groups = le_plan_groups(all->plan, all->run->batch);
    for (size_t number = 0; number < groups && !watch.stopped; number++) {
        const le_group group = le_plan_group(all->plan, all->run->batch, number, all->work->rows.order);
        if (group.rows == 0) {
            continue;
        }
        if (all->plan->split == LE_DIRECTIONS) {
            run_directions(all, space, &group, &watch);
        } else if (all->plan->split == LE_LAYERS) {
            run_layers(all, space, &group, &watch);
        } else {
            run_group(lstm, all->run, all->plan, space, &group, &watch);
        }
    }
    if (index == 0) {
        all->interrupted = watch.stopped;
    }
}

static le_status run_crew(const le_lstm *lstm, const le_run *run, const le_plan *plan,
                          const le_fused_work *work) {
    crew_run all = {.lstm = lstm, .run = run, .plan = plan, .work = work};
    if (work->rows.order != NULL) {
        le_order_rows(plan, run, &work->rows);
    }
    for (size_t member = 0; member < plan->members; member++) {
        atomic_init(&work->published[member].count.value, 0);
        if (plan->split != LE_LAYERS) {
            /* Everybody's outputs together are the next layer's inputs. */
            work->spaces[member].between[0] = work->spaces[0].between[0];
            work->spaces[member].between[1] = work->spaces[0].between[1];
        }
    }
    le_threads_run(run->threads, plan->members, crew_member, &all);
    return all.interrupted ? LE_ERROR_INTERRUPTED : LE_OK;
}

le_status le_fused_run(const le_lstm *lstm, const le_run *run, void *workspace) {
    const le_plan plan = le_plan_run(lstm, run);
    le_fused_work work;
    size_t bytes;
    const le_status status = le_fused_workspace(lstm, run, &plan, workspace, &work, &bytes);
    if (status != LE_OK) {
        return status;
    }
    if (le_plan_crew(&plan)) {
        return run_crew(lstm, run, &plan, &work);
    }
    return le_run_groups(lstm, run, &plan, &work.rows, work.spaces, sizeof *work.spaces, run_group);
}
