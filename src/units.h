/* Hidden units shared out among threads: each computes its own units of every cell, from weights that stay in
 * its own core's cache, and at every step gives the others its part of h.
 *
 * Every member has all of h for itself. A part is published in one of two places in turns: who has seen that
 * all have published once more knows that the part before it has been read by all. */
#ifndef LE_UNITS_H
#define LE_UNITS_H

#include "kernels/kernels.h"
#include "threads.h"

/* One member's place for what it gives. */
typedef struct le_published {
    le_counter count; /* parts given so far */
    float *part[2];   /* [rows][units] */
} le_published;

/* One member. */
typedef struct le_member {
    le_threads *threads;
    le_published *published; /* [members] */
    size_t members;
    size_t index;
    size_t blocks; /* of a cell, in all */
    size_t lanes;  /* units of a block */
    size_t hidden_size;
    size_t first_unit; /* of this member */
    size_t units;
    size_t count; /* parts given so far */
} le_member;

/* A member's part of a cell. */
typedef struct le_part {
    le_cell cell;
    le_narrow narrow; /* of the cell, where its weights are narrow */
} le_part;

/* Set a member up: which units are its own. */
void le_member_begin(le_member *member, size_t hidden_size, size_t lanes, size_t members, size_t index);

/* The most units that one member has. */
size_t le_member_most_units(size_t hidden_size, size_t lanes, size_t members);

/* The member's part of a cell, over the same weights; there is no projection. */
void le_member_part(const le_member *member, const le_cell *cell, le_part *part);

/* Give the member's units of h, of `rows` rows, to the others and to the outputs that are not NULL, and take
 * theirs. Returns 0 if the run was stopped. */
int le_member_exchange(le_member *member, size_t rows, float *const *h, float *const *outputs);

/* Wait until all members have come here; whatever the members share out. Returns 0 if the run was stopped. */
int le_member_meet(le_member *member);

#endif
