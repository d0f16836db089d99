/* Whether a run is to go on: asked before every step, by every thread. */
#ifndef LE_WATCH_H
#define LE_WATCH_H

#include <stdint.h>

#include "lstm.h"
#include "threads.h"

typedef struct le_watch {
    const le_run *run;
    le_threads *threads; /* that take part, or NULL */
    uint64_t next;       /* when the caller's check is due, in nanoseconds */
    unsigned every;      /* steps between two looks at the clock */
    unsigned left;       /* until the next */
    int stopped;
} le_watch;

/* Begin: `member` 0 is the thread of the caller, which alone calls run->interrupted. A step takes
 * `operations` multiply-adds or so. */
void le_watch_begin(le_watch *watch, const le_run *run, size_t member, double operations);

/* The slow part of le_watch_stopped. */
int le_watch_look(le_watch *watch);

/* 1 if the run is to stop, for all that take part. */
static inline int le_watch_stopped(le_watch *watch) {
    if (watch->threads != NULL && le_threads_stopped(watch->threads)) {
        watch->stopped = 1;
    }
    if (--watch->left == 0) {
        return le_watch_look(watch);
    }
    return watch->stopped;
}

#endif
