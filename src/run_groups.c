#include "run_groups.h"

typedef struct groups_run {
    const le_lstm *lstm;
    const le_run *run;
    const le_plan *plan;
    const le_row_order *rows;
    char *spaces;
    size_t space_bytes;
    le_run_group run_group;
    atomic_size_t next; /* group that nobody has taken: who is held up takes fewer */
    int interrupted;
} groups_run;

static void member_groups(void *context, size_t member) {
    groups_run *all = context;
    le_watch watch;
    le_watch_begin(&watch, all->run, member, le_step_operations(all->lstm) * (double)all->plan->rows);
    const size_t groups = le_plan_groups(all->plan, all->run->batch);
    size_t number;
    while (!watch.stopped && (number = atomic_fetch_add(&all->next, 1)) < groups) {
        const le_group group = le_plan_group(all->plan, all->run->batch, number, all->rows->order);
        if (group.rows != 0) {
            all->run_group(all->lstm, all->run, all->plan, all->spaces + member * all->space_bytes, &group,
                           &watch);
        }
    }
    if (member == 0) {
        all->interrupted = watch.stopped;
    }
}

le_status le_run_groups(const le_lstm *lstm, const le_run *run, const le_plan *plan, const le_row_order *rows,
                        void *spaces, size_t space_bytes, le_run_group run_group) {
    groups_run all = {
        .lstm = lstm,
        .run = run,
        .plan = plan,
        .rows = rows,
        .spaces = spaces,
        .space_bytes = space_bytes,
        .run_group = run_group,
    };
    if (rows->order != NULL) {
        le_order_rows(plan, run, rows);
    }
    if (plan->members > 1) {
        le_threads_run(run->threads, plan->members, member_groups, &all);
    } else {
        member_groups(&all, 0);
    }
    return all.interrupted ? LE_ERROR_INTERRUPTED : LE_OK;
}
