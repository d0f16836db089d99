/* Keeps the threads of a pool on CPUs of their own. A kernel may wake a thread on the CPU of the one that
 * wakes it, and then keep it there: two threads that wait for each other are never both ready to run, so no
 * balancing sees them, and they take turns on one CPU beside an idle one. Only Linux says where a thread is
 * and takes it elsewhere; on other systems these functions do nothing. */
#ifndef LE_PLACEMENT_H
#define LE_PLACEMENT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>

/* Where a thread of a pool runs. Everything but `cpu` is guarded by the pool's lock. */
typedef struct le_place {
    atomic_int cpu;         /* where it was when it last looked; -1: not known */
    atomic_int narrowed;    /* it was moved, and is to allow itself its CPUs again */
    pthread_t thread;       /* unused of member 0, the caller, who is never moved */
    unsigned long cpus[16]; /* what it may use, while narrowed: 1024 CPUs, as many as glibc's cpu_set_t */
} le_place;

/* Nothing is known, nothing is to be undone. */
void le_place_begin(le_place *place);

/* The calling thread, whose place this is, looks where it is. */
void le_place_look(le_place *place);

/* Whether two of these places were on one CPU when they last looked. */
int le_places_shared(const le_place *places, size_t members);

/* Move those that share the CPU of an earlier one to others that they may use and none of these runs on, if
 * there are any. What a thread may use is narrowed for that until it calls le_place_widen. */
void le_places_spread(le_place *places, size_t members);

/* The calling thread, whose place this is, may use again what it might before it was moved. */
void le_place_widen(le_place *place);

#endif
