/* The groups of rows of a run, one after another or shared out among threads; for every backend. */
#ifndef LE_RUN_GROUPS_H
#define LE_RUN_GROUPS_H

#include "plan.h"
#include "watch.h"

/* Run one group through the whole stack, in one member's space. */
typedef void (*le_run_group)(const le_lstm *lstm, const le_run *run, const le_plan *plan, void *space,
                             const le_group *group, le_watch *watch);

/* Run all groups. spaces: [plan->members], space_bytes each. */
le_status le_run_groups(const le_lstm *lstm, const le_run *run, const le_plan *plan, const le_row_order *rows,
                        void *spaces, size_t space_bytes, le_run_group run_group);

#endif
