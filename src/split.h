/* Which split of a run among threads is the fastest. */
#ifndef LE_SPLIT_H
#define LE_SPLIT_H

#include "plan.h"

/* Set split and members of a plan whose rows are known: LE_ALONE and 1 where threads do not pay. */
void le_choose_split(const le_lstm *lstm, const le_run *run, le_plan *plan);

/* Steps of a chunk that the members of a split by layers hand on, at most. */
size_t le_layers_chunk(const le_run *run, const le_plan *plan);

#endif
