/* Which split of a run among threads is the fastest. */
#ifndef LE_SPLIT_H
#define LE_SPLIT_H

#include "plan.h"

/* Set split and members of a plan whose rows are known: LE_ALONE and 1 where threads do not pay. */
void le_choose_split(const le_lstm *lstm, const le_run *run, le_plan *plan);

/* Steps of a chunk that the members of a split by layers hand on, at most. */
size_t le_layers_chunk(const le_run *run, const le_plan *plan);

/* How many threads can share out the hidden units of a stream's steps; 1 if it cannot be done or does not
 * pay. */
size_t le_stream_members(const le_lstm *lstm, le_split split, size_t threads);

/* Who computes a step of a stream. */
typedef enum le_step_by {
    LE_BY_ONE,   /* one thread */
    LE_BY_AWAKE, /* all members if they are awake or soon will be */
    LE_BY_ALL    /* all members */
} le_step_by;

/* Who computes a step of `batch` rows, where more than one member can. */
le_step_by le_choose_step(const le_lstm *lstm, le_split split, size_t batch);

#endif
