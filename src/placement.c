#if defined(__linux__)
#define _GNU_SOURCE /* sched_getcpu, pthread_setaffinity_np */
#endif
#include "placement.h"

#include <string.h>

#if defined(__linux__)
#include <sched.h>

_Static_assert(sizeof(cpu_set_t) <= sizeof(((le_place *)0)->cpus), "a place must hold a set of CPUs");
#endif

void le_place_begin(le_place *place) {
    atomic_store(&place->cpu, -1);
    atomic_store(&place->narrowed, 0);
}

void le_place_look(le_place *place) {
#if defined(__linux__)
    const int cpu = sched_getcpu();
    /* Others read it at each job: what has not changed stays in their caches. */
    if (cpu != atomic_load_explicit(&place->cpu, memory_order_relaxed)) {
        atomic_store_explicit(&place->cpu, cpu, memory_order_relaxed);
    }
#else
    (void)place;
#endif
}

static int cpu_of(const le_place *place) {
    return atomic_load_explicit(&place->cpu, memory_order_relaxed);
}

int le_places_shared(const le_place *places, size_t members) {
#if defined(__linux__)
    /* More members than this are on machines whose schedulers have more to choose from. */
    enum { MEMBERS_MOST = 64 };
    members = members < MEMBERS_MOST ? members : MEMBERS_MOST;
    for (size_t one = 1; one < members; one++) {
        const int cpu = cpu_of(&places[one]);
        for (size_t other = 0; cpu >= 0 && other < one; other++) {
            if (cpu == cpu_of(&places[other])) {
                return 1;
            }
        }
    }
#else
    (void)places, (void)members;
#endif
    return 0;
}

void le_places_spread(le_place *places, size_t members) {
#if defined(__linux__)
    cpu_set_t used, seen;
    CPU_ZERO(&used);
    CPU_ZERO(&seen);
    for (size_t member = 0; member < members; member++) {
        const int cpu = cpu_of(&places[member]);
        if (cpu >= 0 && cpu < CPU_SETSIZE) {
            CPU_SET(cpu, &used);
        }
    }
    for (size_t member = 0; member < members; member++) {
        le_place *place = &places[member];
        const int cpu = cpu_of(place);
        if (cpu < 0 || cpu >= CPU_SETSIZE) {
            continue;
        }
        if (!CPU_ISSET(cpu, &seen)) {
            CPU_SET(cpu, &seen);
            continue;
        }
        cpu_set_t allowed, others;
        if (atomic_load(&place->narrowed)) {
            memcpy(&allowed, place->cpus, sizeof allowed);
        } else if (pthread_getaffinity_np(place->thread, sizeof allowed, &allowed) != 0) {
            return;
        }
        CPU_AND(&others, &allowed, &used);
        CPU_XOR(&others, &others, &allowed);
        if (CPU_COUNT(&others) == 0) {
            return;
        }
        if (pthread_setaffinity_np(place->thread, sizeof others, &others) != 0) {
            return;
        }
        memcpy(place->cpus, &allowed, sizeof allowed);
        atomic_store(&place->narrowed, 1);
        atomic_store(&place->cpu, -1);
    }
#else
    (void)places, (void)members;
#endif
}

void le_place_widen(le_place *place) {
#if defined(__linux__)
    cpu_set_t allowed;
    memcpy(&allowed, place->cpus, sizeof allowed);
    (void)pthread_setaffinity_np(pthread_self(), sizeof allowed, &allowed);
    atomic_store(&place->narrowed, 0);
#else
    (void)place;
#endif
}
