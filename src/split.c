#include "split.h"

#include "memory.h"

/* Multiply-adds that are worth the threads: some 50 microseconds of one core, for waking a thread takes 10
 * to 30. */
#define WORTH 3e6

void le_choose_split(const le_lstm *lstm, const le_run *run, le_plan *plan) {
    plan->split = LE_ALONE;
    plan->members = 1;
    plan->in_a_turn = 1;
    const double operations = le_step_operations(lstm) * (double)run->batch * (double)run->time;
    const int free = run->split == LE_FASTEST;
    if (run->members < 2 || run->batch < 2 || run->split == LE_ALONE || (free && operations < WORTH)) {
        return;
    }
    if (lstm->backend == LE_BLAS) {
        /* The sums of a BLAS depend on how many rows it is given: the groups stay those of one thread. */
        plan->members = le_min_size(run->members, le_plan_groups(plan, run->batch));
    } else {
        plan->members = le_min_size(run->members, run->batch);
        plan->in_a_turn = plan->members;
        const size_t turns = le_plan_groups(plan, run->batch) / plan->members;
        plan->rows = (run->batch - 1) / (turns * plan->members) + 1;
    }
    plan->split = plan->members > 1 ? LE_ROWS : LE_ALONE;
}
