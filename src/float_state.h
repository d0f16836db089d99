/* The floating-point state that the kernels compute in: round to nearest, denormal numbers kept, no traps.
 *
 * A host may have set another one, for instance flushing denormals to zero. The bits may not depend on that,
 * nor on which thread computes what; so a run sets its own state and puts the host's back. */
#ifndef LE_FLOAT_STATE_H
#define LE_FLOAT_STATE_H

#include <stdint.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

/* The control bits of a thread. */
typedef uint64_t le_float_state;

/* Set the kernels' state; returns what was there. A few cycles where nothing has to change. */
static inline le_float_state le_float_state_enter(void) {
#if defined(__x86_64__)
    /* All exceptions masked; the six lowest bits only record which have occurred. */
    const unsigned wanted = 0x1F80, recorded = 0x3F;
    const unsigned found = _mm_getcsr();
    if ((found & ~recorded) != wanted) {
        _mm_setcsr(wanted | (found & recorded));
    }
    return found;
#elif defined(__aarch64__)
    uint64_t found;
    __asm__ volatile("mrs %0, fpcr" : "=r"(found));
    if (found != 0) {
        __asm__ volatile("msr fpcr, %0" ::"r"((uint64_t)0));
    }
    return found;
#else
    return 0;
#endif
}

/* Put back what le_float_state_enter returned. */
static inline void le_float_state_leave(le_float_state before) {
#if defined(__x86_64__)
    const unsigned wanted = 0x1F80, recorded = 0x3F;
    if ((before & ~(uint64_t)recorded) != wanted) {
        _mm_setcsr((unsigned)before);
    }
#elif defined(__aarch64__)
    if (before != 0) {
        __asm__ volatile("msr fpcr, %0" ::"r"(before));
    }
#else
    (void)before;
#endif
}

#endif
