#if defined(__linux__)
#define _GNU_SOURCE /* pthread_setname_np */
#endif
#include "threads.h"

#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>

#include "clock.h"
#include "float_state.h"
#include "memory.h"
#include "placement.h"

/* Looks at a counter, of 10 to 40 ns each, between two at the clock. */
enum { LOOKS = 64 };

/* Nanoseconds for which a member looks for what it waits for in a job before it sleeps. Whoever sleeps there
 * is woken late, 50 to 100 microseconds where its CPU has halted in a virtual machine; by then the threads
 * that wait for the next job sleep too, and every step of a stream would wake everybody again. */
enum { IN_A_JOB_NS = 300 * 1000 };

/* For which a worker that has ended its part of a job waits for the others, and for which one that was called
 * to a job waits for that: as long as a large layer takes one thread. */
enum { AFTER_A_PART_NS = 1000 * 1000, WHEN_CALLED_NS = 5 * 1000 * 1000 };

/* A job is announced as one number: which one, and how many members take part; 0 if there is only one to
 * come. */
enum { MEMBER_BITS = 12 };

typedef struct worker {
    le_threads *threads;
    size_t member;
    size_t seen; /* the last job that was announced before the thread was made */
    pthread_t handle;
} worker;

/* Written at every job by the caller, and looked at by the workers: all in one cache line, which changes
 * hands once. */
typedef struct job_line {
    _Alignas(LE_ALIGNMENT) atomic_size_t job;
    atomic_size_t over; /* the last job that is over for all members */
    le_task task;
    void *context;
    atomic_size_t members; /* of the job */
} job_line;

_Static_assert(sizeof(job_line) == LE_ALIGNMENT, "what a job is must fit a cache line");

/* Ordered by who writes and who reads, for a line that one thread writes is far away for all others. */
struct le_threads {
    /* Seldom written. */
    size_t count;
    worker *workers;  /* [count - 1] */
    le_place *places; /* [count], by member */
    atomic_size_t alive;
    le_threads *previous, *next; /* of all pools of the process */
    atomic_size_t idle;          /* workers that sleep until a job comes */
    atomic_size_t asleep;        /* members of a job that sleep in it */
    atomic_int stopped;
    int ending;
    pthread_mutex_t lock;
    pthread_cond_t called; /* a job was announced */
    pthread_cond_t moved;  /* a counter counted, the job has ended or is to stop */

    /* By callers alone. */
    char apart_1[LE_APART_BYTES];
    _Atomic(const char *) taker; /* the mark of the thread that has taken the pool, or null */
    atomic_int lost;
    size_t parts; /* of workers, in all jobs up to now */

    /* By the caller for the workers, and back. */
    char apart_2[LE_APART_BYTES];
    job_line now;
    char apart_3[LE_ALIGNMENT];
    le_counter ended; /* parts that workers have ended, in all jobs */
};

/* Its address tells threads apart, and stays that of the thread that forks in its child. */
static _Thread_local char mark;

/* Every pool, for the child of a fork, which has to forget their threads. */
static pthread_mutex_t pools_lock = PTHREAD_MUTEX_INITIALIZER;
static le_threads *pools;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;
static int fork_handled;

static void before_fork(void) {
    pthread_mutex_lock(&pools_lock);
}

static void after_fork_in_parent(void) {
    pthread_mutex_unlock(&pools_lock);
}

/* The child has one thread: nobody else looks. Locks may have been held by threads that are not here: they
 * are made anew. */
static void after_fork_in_child(void) {
    for (le_threads *threads = pools; threads != NULL; threads = threads->next) {
        pthread_mutex_init(&threads->lock, NULL);
        pthread_cond_init(&threads->called, NULL);
        pthread_cond_init(&threads->moved, NULL);
        atomic_store(&threads->idle, 0);
        atomic_store(&threads->asleep, 0);
        atomic_store(&threads->alive, 0);
        /* Nobody is here to end a job that was going on. */
        atomic_store(&threads->ended.value, threads->parts);
        threads->ending = 0;
        const int ours = atomic_load(&threads->taker) == &mark;
        atomic_store(&threads->lost, ours);
        if (!ours) {
            atomic_store(&threads->taker, NULL);
        }
    }
    pthread_mutex_unlock(&pools_lock);
}

static void handle_forks(void) {
    fork_handled = pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child) == 0;
}

le_status le_threads_create(size_t count, le_threads **result) {
    if (result == NULL || count == 0 || count > LE_THREADS_MOST) {
        return LE_ERROR_ARGUMENT;
    }
    pthread_once(&fork_once, handle_forks);
    if (!fork_handled) {
        return LE_ERROR_MEMORY;
    }
    le_threads *threads = le_allocate(1, le_round_up(sizeof *threads, LE_APART_BYTES));
    worker *workers = le_allocate(count - 1, sizeof *workers);
    le_place *places = le_allocate(count, sizeof *places);
    if (threads == NULL || workers == NULL || places == NULL) {
        le_free(threads);
        le_free(workers);
        le_free(places);
        return LE_ERROR_MEMORY;
    }
    threads->count = count;
    threads->workers = workers;
    threads->places = places;
    le_place_begin(&places[0]);
    pthread_mutex_init(&threads->lock, NULL);
    pthread_cond_init(&threads->called, NULL);
    pthread_cond_init(&threads->moved, NULL);
    pthread_mutex_lock(&pools_lock);
    threads->next = pools;
    if (pools != NULL) {
        pools->previous = threads;
    }
    pools = threads;
    pthread_mutex_unlock(&pools_lock);
    *result = threads;
    return LE_OK;
}

static void wake(le_threads *threads, pthread_cond_t *sleepers) {
    /* The lock orders this after the last look of a thread that goes to sleep. */
    pthread_mutex_lock(&threads->lock);
    pthread_cond_broadcast(sleepers);
    pthread_mutex_unlock(&threads->lock);
}

void le_threads_destroy(le_threads *threads) {
    if (threads == NULL) {
        return;
    }
    pthread_mutex_lock(&pools_lock);
    if (threads->previous != NULL) {
        threads->previous->next = threads->next;
    } else {
        pools = threads->next;
    }
    if (threads->next != NULL) {
        threads->next->previous = threads->previous;
    }
    pthread_mutex_unlock(&pools_lock);
    pthread_mutex_lock(&threads->lock);
    threads->ending = 1;
    pthread_cond_broadcast(&threads->called);
    pthread_mutex_unlock(&threads->lock);
    const size_t alive = atomic_load(&threads->alive);
    for (size_t index = 0; index < alive; index++) {
        pthread_join(threads->workers[index].handle, NULL);
    }
    pthread_cond_destroy(&threads->called);
    pthread_cond_destroy(&threads->moved);
    pthread_mutex_destroy(&threads->lock);
    le_free(threads->workers);
    le_free(threads->places);
    le_free(threads);
}

size_t le_threads_count(const le_threads *threads) {
    return threads->count;
}

size_t le_threads_alive(const le_threads *threads) {
    return atomic_load(&threads->alive);
}

/* A member looks where it is, and undoes what was done to bring it there. */
static void arrive(le_threads *threads, size_t member) {
    le_place *place = &threads->places[member];
    if (atomic_load_explicit(&place->narrowed, memory_order_relaxed)) {
        pthread_mutex_lock(&threads->lock);
        if (atomic_load(&place->narrowed)) {
            le_place_widen(place);
        }
        pthread_mutex_unlock(&threads->lock);
    }
    le_place_look(place);
}

static void look_again(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

/* A member looks where it is: whether another one is on the same CPU, perhaps the one that it waits for. */
static int in_the_way(le_threads *threads, size_t member) {
    le_place_look(&threads->places[member]);
    return le_places_shared(threads->places,
                            atomic_load_explicit(&threads->now.members, memory_order_relaxed));
}

/* Whether `end` has come; at once where there is no clock. */
static int is_over(uint64_t end) {
    const uint64_t now = le_now();
    return now == 0 || now >= end;
}

/* A worker's wait for a job other than `seen`; 0: the pool ends. Time counts from when that one is over,
 * which is waited for up to `patience` nanoseconds: members end at different times, and the next step of a
 * stream cannot come before the last of them. */
static size_t next_job(le_threads *threads, size_t seen, size_t member, uint64_t patience) {
    uint64_t end = le_now() + (patience != 0 ? patience : LE_THREADS_LOOK_NS);
    for (unsigned look = 1;; look++) {
        const size_t job = atomic_load_explicit(&threads->now.job, memory_order_acquire);
        if (job != seen) {
            return job;
        }
        if (patience != 0 && atomic_load_explicit(&threads->now.over, memory_order_relaxed) == seen) {
            patience = 0;
            end = le_now() + LE_THREADS_LOOK_NS;
        }
        if (look % LOOKS == 0 && (is_over(end) || (patience != 0 && in_the_way(threads, member)))) {
            break;
        }
        look_again();
    }
    size_t job;
    pthread_mutex_lock(&threads->lock);
    atomic_fetch_add(&threads->idle, 1);
    while ((job = atomic_load(&threads->now.job)) == seen && !threads->ending) {
        pthread_cond_wait(&threads->called, &threads->lock);
    }
    atomic_fetch_sub(&threads->idle, 1);
    pthread_mutex_unlock(&threads->lock);
    return job == seen ? 0 : job;
}

static void name_this_thread(size_t member) {
#if defined(__linux__)
    char name[16]; /* the most that Linux takes */
    snprintf(name, sizeof name, "lstm_engine/%u", (unsigned)(member % 1000));
    (void)pthread_setname_np(pthread_self(), name);
#else
    (void)member;
#endif
}

static void *work(void *argument) {
    const worker *self = argument;
    le_threads *threads = self->threads;
    name_this_thread(self->member);
    /* A new thread has the state of the one that made it. */
    (void)le_float_state_enter();
    size_t seen = self->seen;
    uint64_t patience = 0;
    while ((seen = next_job(threads, seen, self->member, patience)) != 0) {
        const size_t members = seen & ((1u << MEMBER_BITS) - 1);
        patience = members == 0 ? WHEN_CALLED_NS : self->member < members ? AFTER_A_PART_NS : 0;
        if (patience != 0) {
            arrive(threads, self->member);
        }
        if (self->member < members) {
            threads->now.task(threads->now.context, self->member);
            atomic_fetch_add(&threads->ended.value, 1);
            if (atomic_load(&threads->asleep) != 0) {
                wake(threads, &threads->moved);
            }
        }
    }
    return NULL;
}

/* Make the threads that `members` members need; fewer if they cannot be had. */
static void start(le_threads *threads, size_t members) {
    sigset_t all, before;
    sigfillset(&all);
    /* Signals are for the host's own threads. */
    if (pthread_sigmask(SIG_SETMASK, &all, &before) != 0) {
        return;
    }
    for (size_t index = atomic_load(&threads->alive); index + 1 < members; index++) {
        worker *one = &threads->workers[index];
        one->threads = threads;
        one->member = index + 1;
        one->seen = atomic_load(&threads->now.job);
        le_place_begin(&threads->places[one->member]);
        if (pthread_create(&one->handle, NULL, work, one) != 0) {
            break;
        }
        threads->places[one->member].thread = one->handle;
        atomic_store(&threads->alive, index + 1);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

size_t le_threads_take(le_threads *threads, size_t wanted) {
    const char *nobody = NULL;
    if (threads == NULL || wanted < 2 || threads->count < 2 ||
        !atomic_compare_exchange_strong(&threads->taker, &nobody, &mark)) {
        return 1;
    }
    wanted = le_min_size(wanted, threads->count);
    if (atomic_load(&threads->alive) + 1 < wanted) {
        start(threads, wanted);
    }
    const size_t members = le_min_size(wanted, atomic_load(&threads->alive) + 1);
    if (atomic_load(&threads->stopped)) {
        atomic_store(&threads->stopped, 0);
    }
    if (members == 1) {
        le_threads_give(threads);
    }
    return members;
}

int le_threads_awake(const le_threads *threads, size_t members) {
    const size_t alive = atomic_load_explicit(&threads->alive, memory_order_relaxed);
    const size_t idle = atomic_load_explicit(&threads->idle, memory_order_relaxed);
    return alive + 1 >= members + idle;
}

void le_threads_give(le_threads *threads) {
    atomic_store_explicit(&threads->lost, 0, memory_order_relaxed);
    atomic_store_explicit(&threads->taker, NULL, memory_order_release);
}

/* A member of a job looks at a counter until it is at least `value`: 1 if it is. 0 after a while, at once
 * where the run was stopped, and soon where another member is on this CPU, perhaps the one that is to count.
 */
static int look_for(le_threads *threads, size_t member, const le_counter *counter, size_t value) {
    uint64_t end = 0;
    do {
        for (int look = 0; look < LOOKS; look++) {
            if (atomic_load_explicit(&counter->value, memory_order_acquire) >= value) {
                return 1;
            }
            if (le_threads_stopped(threads)) {
                return 0;
            }
            look_again();
        }
        end = end == 0 ? le_now() + IN_A_JOB_NS : end;
    } while (!in_the_way(threads, member) && !is_over(end));
    return 0;
}

/* Sequentially consistent, like a sleeper's count of itself and its last look: one of the two is seen. */
static void announce_job(le_threads *threads, size_t members) {
    const size_t number = (atomic_load(&threads->now.job) >> MEMBER_BITS) + 1;
    atomic_store(&threads->now.job, number << MEMBER_BITS | members);
    if (atomic_load(&threads->idle) != 0) {
        wake(threads, &threads->called);
    }
}

/* See to it that the members of the job to come can run at the same time. */
static void gather(le_threads *threads, size_t members) {
    atomic_store_explicit(&threads->now.members, members, memory_order_relaxed);
    le_place_look(&threads->places[0]);
    if (le_places_shared(threads->places, members)) {
        pthread_mutex_lock(&threads->lock);
        le_places_spread(threads->places, members);
        pthread_mutex_unlock(&threads->lock);
    }
}

void le_threads_call(le_threads *threads, size_t members, uint64_t nanoseconds) {
    gather(threads, members);
    announce_job(threads, 0);
    const uint64_t end = le_now() + nanoseconds;
    while (nanoseconds != 0 && !le_threads_awake(threads, members) && !is_over(end)) {
        look_again();
    }
}

void le_threads_dismiss(le_threads *threads) {
    atomic_store_explicit(&threads->now.over, atomic_load(&threads->now.job), memory_order_relaxed);
}

void le_threads_run(le_threads *threads, size_t members, le_task task, void *context) {
    threads->now.task = task;
    threads->now.context = context;
    gather(threads, members);
    threads->parts += members - 1;
    announce_job(threads, members);
    task(context, 0);
    if (!look_for(threads, 0, &threads->ended, threads->parts)) {
        pthread_mutex_lock(&threads->lock);
        atomic_fetch_add(&threads->asleep, 1);
        while (atomic_load(&threads->ended.value) < threads->parts) {
            pthread_cond_wait(&threads->moved, &threads->lock);
        }
        atomic_fetch_sub(&threads->asleep, 1);
        pthread_mutex_unlock(&threads->lock);
    }
    le_threads_dismiss(threads);
}

void le_threads_announce(le_threads *threads, le_counter *counter, size_t value) {
    atomic_store(&counter->value, value);
    if (atomic_load(&threads->asleep) != 0) {
        wake(threads, &threads->moved);
    }
}

int le_threads_await(le_threads *threads, size_t member, const le_counter *counter, size_t value) {
    if (look_for(threads, member, counter, value)) {
        return 1;
    }
    if (le_threads_stopped(threads)) {
        return 0;
    }
    pthread_mutex_lock(&threads->lock);
    if (in_the_way(threads, member)) {
        le_places_spread(threads->places, atomic_load_explicit(&threads->now.members, memory_order_relaxed));
    }
    atomic_fetch_add(&threads->asleep, 1);
    while (atomic_load(&counter->value) < value && !atomic_load(&threads->stopped)) {
        pthread_cond_wait(&threads->moved, &threads->lock);
    }
    atomic_fetch_sub(&threads->asleep, 1);
    pthread_mutex_unlock(&threads->lock);
    return !le_threads_stopped(threads);
}

void le_threads_stop(le_threads *threads) {
    atomic_store(&threads->stopped, 1);
    wake(threads, &threads->moved);
}

int le_threads_stopped(const le_threads *threads) {
    return atomic_load_explicit(&threads->stopped, memory_order_relaxed);
}

int le_threads_lost(const le_threads *threads) {
    return atomic_load_explicit(&threads->lost, memory_order_relaxed);
}
