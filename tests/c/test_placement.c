/* Threads that share a CPU are taken apart, and may use all of theirs again afterwards. Linux alone does it;
 * elsewhere, and with a single CPU, the same calls must do nothing. Prints one line for each check that
 * failed; exit status: how many. */
#if defined(__linux__)
#define _GNU_SOURCE
#endif
#include "placement.h"

#include <stdio.h>

#if defined(__linux__)
#include <sched.h>
#endif

static int failures;

#define CHECK(condition)                                                                                     \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            printf("FAILED %s:%d: %s\n", __FILE__, __LINE__, #condition);                                    \
            failures++;                                                                                      \
        }                                                                                                    \
    } while (0)

enum { MEMBERS = 3 };

typedef struct worker {
    le_place place;
    pthread_barrier_t *turn;
} worker;

/* Waits until it was moved, then allows itself all of its CPUs again. */
static void *stand(void *argument) {
    worker *self = argument;
    pthread_barrier_wait(self->turn);
    pthread_barrier_wait(self->turn);
    if (atomic_load(&self->place.narrowed)) {
        le_place_widen(&self->place);
    }
    pthread_barrier_wait(self->turn);
    pthread_barrier_wait(self->turn);
    return NULL;
}

static void test_nothing_known(void) {
    le_place places[MEMBERS];
    for (int member = 0; member < MEMBERS; member++) {
        le_place_begin(&places[member]);
    }
    CHECK(!le_places_shared(places, MEMBERS));
    le_places_spread(places, MEMBERS);
    for (int member = 0; member < MEMBERS; member++) {
        CHECK(!atomic_load(&places[member].narrowed));
    }
}

#if defined(__linux__)
static int count_of(pthread_t thread, int cpu) {
    cpu_set_t set;
    CHECK(pthread_getaffinity_np(thread, sizeof set, &set) == 0);
    return CPU_COUNT(&set) * 2 + (CPU_ISSET(cpu, &set) ? 1 : 0);
}

static void test_two_on_one(void) {
    pthread_barrier_t turn;
    CHECK(pthread_barrier_init(&turn, NULL, 2) == 0);
    le_place places[2];
    worker other = {.turn = &turn};
    le_place_begin(&places[0]);
    le_place_begin(&other.place);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, stand, &other) == 0);
    pthread_barrier_wait(&turn);
    const int cpu = sched_getcpu();
    const int caller = count_of(pthread_self(), cpu);
    const int before = count_of(thread, cpu);
    le_place_begin(&places[1]);
    places[1].thread = thread;
    atomic_store(&places[0].cpu, cpu);
    atomic_store(&places[1].cpu, cpu);
    CHECK(le_places_shared(places, 2));
    le_places_spread(places, 2);
    CHECK(count_of(pthread_self(), cpu) == caller);
    if (before > 2 && before % 2 == 1) {
        /* All it had but the one that both were on. */
        CHECK(count_of(thread, cpu) == before - 3);
        CHECK(atomic_load(&places[1].narrowed));
        CHECK(!le_places_shared(places, 2));
        /* Asked once more, for another CPU: it begins with all that the thread had. */
        atomic_store(&places[1].cpu, cpu);
        le_places_spread(places, 2);
        CHECK(count_of(thread, cpu) == before - 3);
    } else {
        CHECK(count_of(thread, cpu) == before);
        CHECK(!atomic_load(&places[1].narrowed));
    }
    for (size_t word = 0; word < sizeof places[1].cpus / sizeof *places[1].cpus; word++) {
        other.place.cpus[word] = places[1].cpus[word];
    }
    atomic_store(&other.place.narrowed, atomic_load(&places[1].narrowed));
    pthread_barrier_wait(&turn);
    pthread_barrier_wait(&turn);
    CHECK(count_of(thread, cpu) == before);
    CHECK(!atomic_load(&other.place.narrowed));
    pthread_barrier_wait(&turn);
    pthread_join(thread, NULL);
    pthread_barrier_destroy(&turn);
}
#endif

int main(void) {
    test_nothing_known();
#if defined(__linux__)
    test_two_on_one();
#endif
    if (failures == 0) {
        puts("places good");
    }
    return failures != 0;
}
