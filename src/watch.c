#include "watch.h"

#include <limits.h>

#include "clock.h"

/* Between two calls of the caller's check: well under the 100 ms that a person waits for without noticing,
 * and seldom enough that what the check waits for (an interpreter's lock) does not count. */
enum { CHECK_NANOSECONDS = 40 * 1000 * 1000 };

/* Multiply-adds between two looks at the clock, which takes 25 ns: not over 10 ms on a slow core. */
enum { LOOK_OPERATIONS = 4 * 1000 * 1000 };

void le_watch_begin(le_watch *watch, const le_run *run, size_t member, double operations) {
    const int checks = member == 0 && run->interrupted != NULL;
    *watch = (le_watch){
        .run = run,
        .threads = run->members > 1 ? run->threads : NULL,
        .every = !checks                                ? UINT_MAX
                 : operations * 1000 >= LOOK_OPERATIONS ? 1 + (unsigned)(LOOK_OPERATIONS / (operations + 1))
                                                        : 1000,
        .next = checks ? le_now() + CHECK_NANOSECONDS : UINT64_MAX,
    };
    watch->left = watch->every;
}

int le_watch_look(le_watch *watch) {
    watch->left = watch->every;
    if (watch->stopped || watch->next == UINT64_MAX) {
        return watch->stopped;
    }
    const uint64_t time = le_now();
    if (time >= watch->next) {
        watch->next = time + CHECK_NANOSECONDS;
        watch->stopped = watch->run->interrupted(watch->run->interrupted_context) != 0 ||
                         (watch->threads != NULL && le_threads_lost(watch->threads));
        if (watch->stopped && watch->threads != NULL) {
            le_threads_stop(watch->threads);
        }
    }
    return watch->stopped;
}
