/* The time since some moment, for what depends on how long something takes. No result does. */
#ifndef LE_CLOCK_H
#define LE_CLOCK_H

#include <stdint.h>
#include <time.h>

/* Nanoseconds; 0 if there is no clock. */
static inline uint64_t le_now(void) {
    struct timespec time;
    if (clock_gettime(CLOCK_MONOTONIC, &time) != 0) {
        return 0;
    }
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

#endif
