#if defined(__linux__) && defined(__x86_64__)
#define _GNU_SOURCE /* syscall */
#endif
#include "cpu.h"

int le_cpu_runs_scalar(void) {
    return 1;
}

#if defined(__x86_64__)

#include <cpuid.h>
#include <stdint.h>

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

/* XCR0 says which registers the operating system saves: a CPU flag alone is not enough. */
static uint64_t read_xcr0(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return ((uint64_t)high << 32) | low;
}

enum {
    XCR0_SSE = 1 << 1,
    XCR0_AVX = 1 << 2,
    XCR0_OPMASK = 1 << 5,
    XCR0_ZMM_HIGH = 1 << 6,
    XCR0_ZMM_16_31 = 1 << 7,
    XCR0_TILES = 3 << 17
};

/* Leaves and bits: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, CPUID. */
typedef struct cpu_features {
    int avx2_fma;
    int avx512;
    int avx512_vnni;
    int avx512_bf16;
    int amx_bf16;
    int amx_int8;
} cpu_features;

/* Linux lets a process use the matrix registers, 8 KB of state for each thread, once it has asked, which may
 * be done any number of times; processes that it forks inherit the leave. It says no where a thread has an
 * alternate signal stack that is too small for them. */
static int tiles_granted(void) {
#if defined(__linux__)
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
#else
    return 0;
#endif
}

static cpu_features detect(void) {
    cpu_features features = {0};
    unsigned eax, ebx, ecx, edx;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx)) {
        return features;
    }
    const int fma = (ecx >> 12) & 1;
    const int osxsave = (ecx >> 27) & 1;
    const int avx = (ecx >> 28) & 1;
    if (!osxsave || !avx || !fma) {
        return features;
    }
    const uint64_t xcr0 = read_xcr0();
    const uint64_t ymm = XCR0_SSE | XCR0_AVX;
    const uint64_t zmm = ymm | XCR0_OPMASK | XCR0_ZMM_HIGH | XCR0_ZMM_16_31;
    if ((xcr0 & ymm) != ymm || !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) {
        return features;
    }
    features.avx2_fma = (ebx >> 5) & 1;
    const int f = (ebx >> 16) & 1;
    const int dq = (ebx >> 17) & 1;
    const int bw = (ebx >> 30) & 1;
    const int vl = (ebx >> 31) & 1;
    features.avx512 = features.avx2_fma && f && dq && bw && vl && (xcr0 & zmm) == zmm;
    const int tiles = features.avx512 && ((edx >> 24) & 1) && (xcr0 & XCR0_TILES) == XCR0_TILES;
    const int amx_bf16 = (edx >> 22) & 1, amx_int8 = (edx >> 25) & 1;
    features.avx512_vnni = features.avx512 && ((ecx >> 11) & 1);
    /* Leaf 7 says in eax how many subleaves it has. */
    if (features.avx512 && eax >= 1 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx)) {
        features.avx512_bf16 = (eax >> 5) & 1;
    }
    if (tiles) {
        features.amx_bf16 = features.avx512_bf16 && amx_bf16;
        features.amx_int8 = features.avx512_vnni && amx_int8;
    }
    return features;
}

int le_cpu_runs_avx512(void) {
    return detect().avx512;
}

int le_cpu_runs_avx512_vnni(void) {
    return detect().avx512_vnni;
}

int le_cpu_runs_avx512_bf16(void) {
    return detect().avx512_bf16;
}

int le_cpu_runs_avx512_amx_bf16(void) {
    return detect().amx_bf16 && tiles_granted();
}

int le_cpu_runs_avx512_amx_int8(void) {
    return detect().amx_int8 && tiles_granted();
}

int le_cpu_runs_avx2(void) {
    return detect().avx2_fma;
}

static int made_by_intel(void) {
    unsigned eax, ebx, ecx, edx;
    /* "GenuineIntel", of which the last four letters are enough. */
    return __get_cpuid(0, &eax, &ebx, &ecx, &edx) && ecx == 0x6C65746E;
}

int le_cpu_wants_fetching(void) {
    return made_by_intel();
}

int le_cpu_wants_passing(void) {
    return !made_by_intel();
}

#elif defined(__aarch64__)

#if defined(__linux__)
#include <sys/auxv.h>
#ifndef HWCAP_ASIMD
#define HWCAP_ASIMD (1 << 1)
#endif
#ifndef HWCAP_ASIMDDP
#define HWCAP_ASIMDDP (1 << 20)
#endif
int le_cpu_runs_neon(void) {
    return (getauxval(AT_HWCAP) & HWCAP_ASIMD) != 0;
}
int le_cpu_runs_neon_dotprod(void) {
    return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
}
#else
/* Every other system on aarch64 (macOS, the BSDs) requires Advanced SIMD. */
int le_cpu_runs_neon(void) {
    return 1;
}
/* Every Mac of this architecture has the dot products; elsewhere there is no saying. */
int le_cpu_runs_neon_dotprod(void) {
#if defined(__APPLE__)
    return 1;
#else
    return 0;
#endif
}
#endif

#endif

#if !defined(__x86_64__)
int le_cpu_wants_fetching(void) {
    return 0;
}

int le_cpu_wants_passing(void) {
    return 1;
}
#endif
