/* Tests of the SIMD vocabulary and of the elementary functions over it, for the instruction set that this
 * file is compiled for (LE_SIMD_...).
 *
 *     test_simd_math hash STRIDE           every STRIDE-th float32 and the special ones: a hash of each
 * function's bits test_simd_math check STRIDE [NAME]   the same, and the largest error against the C library
 * in double precision
 *
 * Always tests the vocabulary, the special cases and the independence of lanes first. A hash is a sum over
 * the arguments, so the order and the number of lanes do not matter. tests/test_simd_math.py compares the
 * hashes of all instruction sets. Prints a line per function; returns 1 with a line per failure.
 */
#define _DEFAULT_SOURCE /* mmap's MAP_ANONYMOUS */
#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "simd/math.h"
#include "simd_functions.h"

static int failures = 0;

#define EXPECT(condition, ...)                                                                               \
    do {                                                                                                     \
        if (!(condition) && ++failures <= 50) {                                                              \
            printf("FAILED line %d: ", __LINE__);                                                            \
            printf(__VA_ARGS__);                                                                             \
            printf("\n");                                                                                    \
        }                                                                                                    \
    } while (0)

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* A NaN's sign and payload are free. */
static bool same(float a, float b) {
    return bits_of(a) == bits_of(b) || (isnan(a) && isnan(b));
}

/* ---- sweeps ---- */

static uint32_t mix(uint32_t x, uint32_t y) {
    uint32_t hash = x * 0x9E3779B1u + y * 0x85EBCA77u + 0x165667B1u;
    hash = (hash ^ (hash >> 15)) * 0x2C1B3C6Du;
    hash = (hash ^ (hash >> 12)) * 0x297A2D39u;
    return hash ^ (hash >> 15);
}

/* A second argument for the first: half of them any float32, half of them in (-16, 16). */
static float second_for(uint32_t first) {
    const uint32_t hash = mix(first, 0xB5297A4Du);
    return hash & 1u ? float_of(mix(first, hash)) : (float)((int32_t)hash >> 8) * 0x1p-19f;
}

/* Places where a path, a clamp or a rounding changes; each is swept with its neighbours. */
static const float turning_points[] = {
    0.0f,  FLT_MIN,    FLT_TRUE_MIN, FLT_MAX,     1.0f,          2.0f,      0.5f,      0.25f,
    0.75f, 0x1p-30f,   0x1p-24f,     0x1p-12f,    88.72284f,     88.376f,   89.0f,     87.33654f,
    25.0f, 17.328679f, 104.0f,       103.97208f,  LE_TANH_CLAMP, 9.010913f, 0.92f,     4.0f,
    18.0f, 168.78f,    169.2f,       0.34657359f, 1.25f,         2.5f,      5.656854f, 0.000244140625f,
};
#define NEIGHBOURS 64
#define BLOCK 4093 /* prime: every block has a tail */

typedef struct sweep {
    uint64_t hash;
    double worst; /* error over what is allowed */
    double units; /* largest error in units, where units are the bound */
    float worst_at, units_at;
} sweep;

static void check_value(const function *f, float a, float b, float got, sweep *s) {
    const double want = f->reference(a, b);
    if (isnan(want)) {
        EXPECT(isnan(got), "%s(%a, %a) is %a, expected NaN", f->name, a, b, got);
        return;
    }
    const double slack = f->slack == NULL ? 0.0 : f->slack(a, b);
    if (isnan(got) && isinf(b) && slack > 0.0) {
        return; /* sigmoid_times: infinity times what is 0 by then */
    }
    EXPECT(!isnan(got), "%s(%a, %a) is NaN, expected %a", f->name, a, b, want);
    if (isinf(want)) {
        EXPECT((double)got == want, "%s(%a, %a) is %a, expected %a", f->name, a, b, got, want);
        return;
    }
    /* An infinity stands for the float that would follow the largest. */
    const double value = isinf(got) ? copysign(0x1p128, got) : (double)got;
    const double error = fabs(value - want), unit = unit_of(want);
    if (isinf(got) && fabs(want) >= 0x1p128) {
        return;
    }
    if (error > 0.0) {
        const double over = error / (f->units * unit + slack);
        if (over > s->worst) {
            s->worst = over;
            s->worst_at = a;
        }
        if (slack == 0.0 && error / unit > s->units) {
            s->units = error / unit;
            s->units_at = a;
        }
    }
}

/* Sweep every function that is `wanted` over a block of patterns. */
static void sweep_block(const uint32_t *patterns, size_t count, bool check, const bool *wanted,
                        sweep *sweeps) {
    static float first[BLOCK], second[BLOCK], out[BLOCK];
    for (size_t index = 0; index < count; index++) {
        first[index] = float_of(patterns[index]);
        second[index] = second_for(patterns[index]);
    }
    for (size_t which = 0; which < FUNCTION_COUNT; which++) {
        const function *f = &functions[which];
        if (!wanted[which]) {
            continue;
        }
        f->apply(first, second, out, count);
        uint64_t sum = 0;
        int outside = 0;
        for (size_t index = 0; index < count; index++) {
            const uint32_t bits = isnan(out[index]) ? 0x7FC00000u : bits_of(out[index]);
            sum += mix(patterns[index], bits);
            outside |=
                (out[index] < f->low) | (out[index] > f->high) | (isnan(first[index]) && !isnan(out[index]));
        }
        sweeps[which].hash += sum;
        EXPECT(outside == 0, "%s leaves its range, or loses a NaN, in the block of pattern %08x", f->name,
               (unsigned)patterns[0]);
        for (size_t index = 0; check && index < count; index++) {
            check_value(f, first[index], second[index], out[index], &sweeps[which]);
        }
    }
}

static void sweep_all(uint64_t stride, bool check, const bool *wanted, sweep *sweeps) {
    static uint32_t patterns[BLOCK];
    size_t count = 0;
    for (uint64_t pattern = 0; pattern < UINT64_C(1) << 32; pattern += stride) {
        patterns[count++] = (uint32_t)pattern;
        if (count == BLOCK) {
            sweep_block(patterns, count, check, wanted, sweeps);
            count = 0;
        }
    }
    sweep_block(patterns, count, check, wanted, sweeps);
    for (size_t point = 0; point < sizeof turning_points / sizeof turning_points[0]; point++) {
        count = 0;
        for (int step = -NEIGHBOURS; step <= NEIGHBOURS; step++) {
            const uint32_t bits = bits_of(turning_points[point]) + (uint32_t)step;
            patterns[count++] = bits;
            patterns[count++] = bits ^ 0x80000000u;
        }
        patterns[count++] = bits_of(INFINITY);
        patterns[count++] = bits_of(-INFINITY);
        patterns[count++] = bits_of(NAN);
        sweep_block(patterns, count, check, wanted, sweeps);
    }
}

/* ---- special cases ---- */

static void test_special_cases(void) {
    static const struct {
        const char *name;
        float a, b, want;
    } cases[] = {
        {"exp", -INFINITY, 0, 0.0f},
        {"exp", INFINITY, 0, INFINITY},
        {"exp", 0.0f, 0, 1.0f},
        {"exp", -104.0f, 0, 0.0f},
        {"exp", -103.5f, 0, FLT_TRUE_MIN},
        {"exp", 88.7229f, 0, INFINITY},
        {"expm1", -INFINITY, 0, -1.0f},
        {"expm1", INFINITY, 0, INFINITY},
        {"expm1", -0.0f, 0, -0.0f},
        {"expm1", 3 * FLT_TRUE_MIN, 0, 3 * FLT_TRUE_MIN},
        {"log1p", -1.0f, 0, -INFINITY},
        {"log1p", -1.0000001f, 0, NAN},
        {"log1p", -INFINITY, 0, NAN},
        {"log1p", INFINITY, 0, INFINITY},
        {"log1p", -0.0f, 0, -0.0f},
        {"log1p", -FLT_TRUE_MIN, 0, -FLT_TRUE_MIN},
        {"erf", INFINITY, 0, 1.0f},
        {"erf", -INFINITY, 0, -1.0f},
        {"erf", -0.0f, 0, -0.0f},
        {"erf", -5.0f, 0, -1.0f},
        {"sigmoid", -INFINITY, 0, 0.0f},
        {"sigmoid", -200.0f, 0, 0.0f},
        {"sigmoid", -FLT_MAX, 0, 0.0f},
        {"sigmoid", 0.0f, 0, 0.5f},
        {"sigmoid", INFINITY, 0, 1.0f},
        {"sigmoid", 18.0f, 0, 1.0f},
        {"tanh", INFINITY, 0, 1.0f},
        {"tanh", -INFINITY, 0, -1.0f},
        {"tanh", 9.0f, 0, 1.0f},
        {"tanh", -9.0f, 0, -1.0f},
        {"tanh", -0.0f, 0, -0.0f},
        {"tanh", 5 * FLT_TRUE_MIN, 0, 5 * FLT_TRUE_MIN},
        {"tanh", 0x1.fffffep-20f, 0, 0x1.fffffep-20f},
        {"sigmoid_times", INFINITY, 1e38f, 1e38f},
        {"sigmoid_times", INFINITY, FLT_TRUE_MIN, FLT_TRUE_MIN},
        {"sigmoid_times", -INFINITY, FLT_MAX, 0.0f},
        {"sigmoid_times", -INFINITY, -FLT_MAX, -0.0f},
        {"sigmoid_times", -200.0f, FLT_MAX, 0.0f},
        {"sigmoid_times", -INFINITY, INFINITY, NAN},
        {"sigmoid_times", 1.0f, -INFINITY, -INFINITY},
        {"sigmoid_times", NAN, 0.0f, NAN},
        {"sigmoid_times", -INFINITY, NAN, NAN},
        {"sigmoid_tanh", INFINITY, INFINITY, 1.0f},
        {"sigmoid_tanh", INFINITY, 7 * FLT_TRUE_MIN, 7 * FLT_TRUE_MIN},
        {"sigmoid_tanh", -INFINITY, INFINITY, 0.0f},
        {"sigmoid_tanh", -INFINITY, -1.0f, -0.0f},
        {"sigmoid_tanh", NAN, 1.0f, NAN},
        {"sigmoid_tanh", 1.0f, NAN, NAN},
        {"relu", -0.0f, 0, -0.0f},
        {"relu", -INFINITY, 0, 0.0f},
        {"relu", INFINITY, 0, INFINITY},
        {"hard_sigmoid", -INFINITY, 0, 0.0f},
        {"hard_sigmoid", INFINITY, 0, 1.0f},
        {"softsign", INFINITY, 0, NAN},
        {"elu", -INFINITY, 0, -1.5f},
        {"elu", INFINITY, 0, INFINITY},
        {"elu", -0.0f, 0, -0.0f},
        {"selu", -INFINITY, 0, -1.7580993408473766f},
        {"softplus", -INFINITY, 0, 0.0f},
        {"softplus", INFINITY, 0, INFINITY},
        {"softplus", -100.0f, 0, 3.78350585e-44f},
        {"gelu", INFINITY, 0, INFINITY},
        {"gelu", -INFINITY, 0, NAN},
        {"gelu_tanh", INFINITY, 0, INFINITY},
        {"gelu_tanh", -INFINITY, 0, NAN},
        {"gelu_tanh", -1e20f, 0, -0.0f},
        {"silu", INFINITY, 0, INFINITY},
        {"silu", -INFINITY, 0, NAN},
        {"silu", -1000.0f, 0, -0.0f},
        {"thresholded_relu", 1.25f, 0, 0.0f},
        {"thresholded_relu", -INFINITY, 0, 0.0f},
        {"scaled_tanh", INFINITY, 0, 1.7159f},
    };
    for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index++) {
        const function *f = function_named(cases[index].name);
        const float a = cases[index].a, b = cases[index].b, want = cases[index].want;
        float got;
        f->apply(&a, &b, &got, 1);
        EXPECT(same(got, want), "%s(%a, %a) is %a, expected %a", f->name, a, b, got, want);
    }
    /* The forms that a kernel may take for one another have the same bits. */
    for (uint64_t pattern = 0; pattern < UINT64_C(1) << 32; pattern += 65521) {
        const float a = float_of((uint32_t)pattern), infinite = INFINITY;
        float plain, other;
        apply_tanh(&a, &a, &plain, 1);
        apply_activate_tanh(&a, &a, &other, 1);
        EXPECT(same(plain, other), "activate(LE_TANH) differs from tanh at %a", a);
        apply_sigmoid_tanh(&infinite, &a, &other, 1);
        EXPECT(same(plain, other), "sigmoid(inf) * tanh(b) differs from tanh(b) at %a", a);
        const float minus = -a;
        apply_tanh(&minus, &a, &other, 1);
        EXPECT(same(plain, -other), "tanh is not odd at %a", a);
        apply_sigmoid(&a, &a, &plain, 1);
        apply_activate_sigmoid(&a, &a, &other, 1);
        EXPECT(same(plain, other), "activate(LE_SIGMOID) differs from sigmoid at %a", a);
        const float one = 1.0f;
        apply_sigmoid_times(&a, &one, &other, 1);
        EXPECT(same(plain, other), "sigmoid(a) * 1 differs from sigmoid(a) at %a", a);
    }
}

/* ---- lanes ---- */

static void test_lanes_are_independent(void) {
    static const float junk[] = {NAN,          INFINITY, -INFINITY, FLT_MAX, -FLT_MAX,
                                 FLT_TRUE_MIN, -0.0f,    -1000.0f,  88.8f,   3.0f};
    static const float values[] = {0.0f, -1.5f, 0.3f, 7.9f, -88.9f, 1e-40f, NAN};
    const size_t junk_count = sizeof junk / sizeof junk[0];
    for (size_t index = 0; index < FUNCTION_COUNT; index++) {
        const function *f = &functions[index];
        for (size_t v = 0; v < sizeof values / sizeof values[0]; v++) {
            const float a = values[v], b = 0.7f;
            float alone;
            f->apply(&a, &b, &alone, 1);
            for (size_t lane = 0; lane < V_LANES; lane++) {
                float first[V_LANES], second[V_LANES], out[V_LANES];
                for (size_t other = 0; other < V_LANES; other++) {
                    first[other] = other == lane ? a : junk[(other + lane + v) % junk_count];
                    second[other] = other == lane ? b : junk[(3 * other + v) % junk_count];
                }
                f->apply(first, second, out, V_LANES);
                EXPECT(same(out[lane], alone), "%s(%a): %a among junk in lane %zu, %a alone", f->name, a,
                       out[lane], lane, alone);
            }
        }
    }
}

/* ---- the vocabulary ---- */

static const float samples[] = {0.0f,     -0.0f,     1.0f,   -1.0f,    1.5f,    -2.75f,  0.1f,
                                3e38f,    -3e38f,    1e-38f, 1e-45f,   -1e-40f, FLT_MIN, FLT_MAX,
                                INFINITY, -INFINITY, NAN,    16777217, 0.3f,    -7.0f};
#define SAMPLES (sizeof samples / sizeof samples[0])

static void expect_lanes(const char *what, vf value, const float *want) {
    float got[V_LANES];
    vf_store(got, value);
    for (size_t lane = 0; lane < V_LANES; lane++) {
        EXPECT(same(got[lane], want[lane]), "%s: lane %zu is %a, expected %a", what, lane, got[lane],
               want[lane]);
    }
}

#define EXPECT_LANES(expression, wanted)                                                                     \
    do {                                                                                                     \
        float want[V_LANES];                                                                                 \
        for (size_t lane = 0; lane < V_LANES; lane++) {                                                      \
            const float a = x[lane], b = y[lane], c = z[lane];                                               \
            (void)a, (void)b, (void)c;                                                                       \
            want[lane] = wanted;                                                                             \
        }                                                                                                    \
        const vf a = vf_load(x), b = vf_load(y), c = vf_load(z);                                             \
        (void)a, (void)b, (void)c;                                                                           \
        expect_lanes(#expression, expression, want);                                                         \
    } while (0)

static void test_vocabulary(void) {
    for (size_t round = 0; round < SAMPLES * SAMPLES * SAMPLES; round++) {
        float x[V_LANES], y[V_LANES], z[V_LANES];
        for (size_t lane = 0; lane < V_LANES; lane++) {
            x[lane] = samples[(round + lane) % SAMPLES];
            y[lane] = samples[(round / SAMPLES + 3 * lane) % SAMPLES];
            z[lane] = samples[(round / SAMPLES / SAMPLES + 7 * lane) % SAMPLES];
        }
        EXPECT_LANES(vf_fma(a, b, c), fmaf(a, b, c));
        EXPECT_LANES(vf_fnma(a, b, c), fmaf(-a, b, c));
        if (round >= SAMPLES * SAMPLES) {
            continue;
        }
        EXPECT_LANES(vf_add(a, b), a + b);
        EXPECT_LANES(vf_sub(a, b), a - b);
        EXPECT_LANES(vf_mul(a, b), a * b);
        EXPECT_LANES(vf_div(a, b), a / b);
        EXPECT_LANES(vf_min(a, b), b > a ? a : b);
        EXPECT_LANES(vf_max(a, b), b < a ? a : b);
        EXPECT_LANES(vf_copysign(a, b), copysignf(a, b));
        EXPECT_LANES(vf_select_gt(a, b, c, a), a > b ? c : a);
        EXPECT_LANES(vf_select_ge(a, b, c, a), a >= b ? c : a);
        EXPECT_LANES(vf_abs(a), fabsf(a));
        EXPECT_LANES(vf_neg(a), -a);
        EXPECT_LANES(vf_zero(), 0.0f);
        EXPECT_LANES(vf_set1(1.25f), 1.25f);
        EXPECT_LANES(vf_from_bits(vf_bits(a)), a);
        EXPECT_LANES(vf_from_bits(vi_set1(0x3FA00000)), 1.25f);
        EXPECT_LANES(vf_from_bits(vi_add(vf_bits(a), vf_bits(b))), float_of(bits_of(a) + bits_of(b)));
        EXPECT_LANES(vf_from_bits(vi_sub(vf_bits(a), vf_bits(b))), float_of(bits_of(a) - bits_of(b)));
        EXPECT_LANES(vf_from_bits(vi_and(vf_bits(a), vf_bits(b))), float_of(bits_of(a) & bits_of(b)));
        EXPECT_LANES(vf_from_bits(vi_shift_left(vf_bits(a), 3)), float_of(bits_of(a) << 3));
        EXPECT_LANES(vi_to_vf(vi_shift_right(vf_bits(a), 5)), (float)((int32_t)bits_of(a) >> 5));
    }
    for (int n = -252; n <= 252; n++) {
        float x[V_LANES], y[V_LANES], z[V_LANES];
        for (size_t lane = 0; lane < V_LANES; lane++) {
            static const float significands[] = {0.5f,        2.0f,       1.0f,  1.9999999f,
                                                 -0.7071068f, 1.4142135f, -1.1f, NAN};
            x[lane] = significands[((size_t)(n + 252) + lane) % 8];
            y[lane] = (float)n;
            z[lane] = 0.0f;
        }
        EXPECT_LANES(vf_ldexp(a, b), (float)ldexp((double)a, (int)b));
    }
}

static void test_partial_access(void) {
    /* The last float of a readable page is followed by one that must not be touched. */
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    unsigned char *pages = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT(pages != MAP_FAILED && mprotect(pages + page, page, PROT_NONE) == 0, "no guard page");
    if (failures > 0) {
        return;
    }
    float *end = (float *)(void *)(pages + page);
    for (size_t n = 1; n <= V_LANES; n++) {
        float value[V_LANES], got[V_LANES], out[3 * V_LANES];
        for (size_t lane = 0; lane < V_LANES; lane++) {
            value[lane] = 1.0f + (float)lane;
        }
        vf_store_n(end - n, vf_load(value), n);
        vf_store(got, vf_load_n(end - n, n));
        for (size_t lane = 0; lane < V_LANES; lane++) {
            EXPECT(got[lane] == (lane < n ? value[lane] : 0.0f), "load_n of %zu: lane %zu is %g", n, lane,
                   got[lane]);
        }
        for (size_t place = 0; place < 3 * V_LANES; place++) {
            out[place] = -5.0f;
        }
        vf_store_n(out + V_LANES, vf_load(value), n);
        for (size_t place = 0; place < 3 * V_LANES; place++) {
            const bool inside = place >= V_LANES && place < V_LANES + n;
            EXPECT(out[place] == (inside ? value[place - V_LANES] : -5.0f),
                   "store_n of %zu changed place %zu", n, place);
        }
    }
    munmap(pages, 2 * page);
}

int main(int argc, char **argv) {
    const bool check = argc >= 3 && strcmp(argv[1], "check") == 0;
    const uint64_t stride = argc >= 3 ? strtoull(argv[2], NULL, 10) : 0;
    if (stride == 0 || (!check && strcmp(argv[1], "hash") != 0)) {
        fprintf(stderr, "usage: %s hash|check STRIDE [NAME ...]\n", argv[0]);
        return 2;
    }
    test_partial_access();
    test_vocabulary();
    test_special_cases();
    test_lanes_are_independent();
    bool wanted[FUNCTION_COUNT];
    static sweep sweeps[FUNCTION_COUNT];
    for (size_t index = 0; index < FUNCTION_COUNT; index++) {
        wanted[index] = argc == 3;
        for (int argument = 3; argument < argc; argument++) {
            wanted[index] = wanted[index] || strcmp(argv[argument], functions[index].name) == 0;
        }
    }
    sweep_all(stride, check, wanted, sweeps);
    for (size_t index = 0; index < FUNCTION_COUNT; index++) {
        const sweep *s = &sweeps[index];
        if (!wanted[index]) {
            continue;
        }
        printf("%s %016llx", functions[index].name, (unsigned long long)s->hash);
        if (check) {
            printf(" %.4f units at %.9g; %.4f of what is allowed at %.9g", s->units, s->units_at, s->worst,
                   s->worst_at);
        }
        printf("\n");
        EXPECT(s->worst <= 1.0, "%s is off by %.3f times what is allowed at %.9g (%a)", functions[index].name,
               s->worst, s->worst_at, s->worst_at);
    }
    return failures > 0 ? 1 : 0;
}
