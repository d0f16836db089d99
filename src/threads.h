/* What runs do with a pool of threads: take it, run a task on it, wait for each other, give it back. */
#ifndef LE_THREADS_INTERNAL_H
#define LE_THREADS_INTERNAL_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "lstm_engine/threads.h"
#include "memory.h"

/* Bytes that one thread writes and others read lie this far apart: two cache lines, which are fetched
 * together. */
enum { LE_APART_BYTES = 128 };

/* A number that one member counts up and others wait for. */
typedef struct le_counter {
    _Alignas(LE_ALIGNMENT) atomic_size_t value;
    char apart[LE_APART_BYTES - LE_ALIGNMENT];
} le_counter;

/* What every member of a run does; member 0 is the caller. */
typedef void (*le_task)(void *context, size_t member);

/* Take the pool for one run by at most `wanted` members, and make the threads that are missing. Returns how
 * many members there are, with the caller: 1, and nothing is taken, if threads is NULL, another run has the
 * pool or no thread can be made. */
size_t le_threads_take(le_threads *threads, size_t wanted);

/* Give back what le_threads_take gave more than one member for. */
void le_threads_give(le_threads *threads);

/* Run the task on the members that le_threads_take gave; returns when all have ended. */
void le_threads_run(le_threads *threads, size_t members, le_task task, void *context);

/* Nanoseconds for which a thread looks for its next job before it sleeps: about what it takes to wake it. */
enum { LE_THREADS_LOOK_NS = 30 * 1000 };

/* Whether so many members, the caller included, are there and awake: a job begins at once. */
int le_threads_awake(const le_threads *threads, size_t members);

/* Wake the pool's other threads, if they sleep, and wait for them for at most so many nanoseconds;
 * le_threads_take has been called. They look for a job until one has been run, or until le_threads_dismiss
 * and a while. */
void le_threads_call(le_threads *threads, size_t members, uint64_t nanoseconds);
void le_threads_dismiss(le_threads *threads);

/* Set a counter and wake who waits for it. */
void le_threads_announce(le_threads *threads, le_counter *counter, size_t value);

/* The member waits until a counter is at least `value`: it spins for some microseconds, then sleeps. What was
 * written before the counter was set can be read after. Returns 0 if the run was stopped instead. */
int le_threads_await(le_threads *threads, size_t member, const le_counter *counter, size_t value);

/* Make every wait of this run return, and le_threads_stopped say so. */
void le_threads_stop(le_threads *threads);
int le_threads_stopped(const le_threads *threads);

/* 1 in the child of a fork that the caller's own thread made during this run (in a signal handler, say): the
 * other members are not here. The run must stop. */
int le_threads_lost(const le_threads *threads);

#endif
