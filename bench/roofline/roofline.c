/* What one core of this machine can do at most: fused multiply-adds a second, and bytes loaded a second.
 *
 * Compiled once per instruction set by bench/roofline.py, which also turns seconds into rates. Every function
 * times itself, so that the cost of calling it from Python is not in the figure.
 */
#if defined(__AMX_BF16__) && defined(__linux__)
#define _GNU_SOURCE /* syscall */
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#if defined(ROOFLINE_AVX512)

#include <immintrin.h>
typedef __m512 vector;
#define IN_VECTOR_REGISTER "v"
/* Two units of latency 4 need 8 chains; 16 leave room for longer latencies and still fit 32 registers. */
#define ACCUMULATORS 16
static inline vector broadcast(float value) {
    return _mm512_set1_ps(value);
}
static inline vector load(const float *from) {
    return _mm512_load_ps(from);
}
static inline vector multiply_add(vector a, vector b, vector c) {
    return _mm512_fmadd_ps(a, b, c);
}

#elif defined(ROOFLINE_AVX2)

#include <immintrin.h>
typedef __m256 vector;
#define IN_VECTOR_REGISTER "x"
/* Two units of latency 4 or 5 need 10 chains; with two operands, 12 fit the 16 registers. */
#define ACCUMULATORS 12
static inline vector broadcast(float value) {
    return _mm256_set1_ps(value);
}
static inline vector load(const float *from) {
    return _mm256_load_ps(from);
}
static inline vector multiply_add(vector a, vector b, vector c) {
    return _mm256_fmadd_ps(a, b, c);
}

#elif defined(ROOFLINE_NEON)

#include <arm_neon.h>
typedef float32x4_t vector;
#define IN_VECTOR_REGISTER "w"
/* Four units of latency 4 need 16 chains; 24 still fit 32 registers. */
#define ACCUMULATORS 24
static inline vector broadcast(float value) {
    return vdupq_n_f32(value);
}
static inline vector load(const float *from) {
    return vld1q_f32(from);
}
static inline vector multiply_add(vector a, vector b, vector c) {
    return vfmaq_f32(c, a, b);
}

#else /* scalar C: multiply and add, because a fused operation may be a library call here */

typedef float vector;
#if defined(__x86_64__) || defined(__i386__)
#define IN_VECTOR_REGISTER "x"
#elif defined(__aarch64__)
#define IN_VECTOR_REGISTER "w"
#else
#define IN_VECTOR_REGISTER "f"
#endif
/* Two units each for multiplying and adding, latency 3 or 4 each: 14 chains, which with two operands fit 16
 * registers. */
#define ACCUMULATORS 14
static inline vector broadcast(float value) {
    return value;
}
static inline vector load(const float *from) {
    return *from;
}
static inline vector multiply_add(vector a, vector b, vector c) {
    return a * b + c;
}

#endif

#define CHAINS_12(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)
#define CHAINS_14(DO) CHAINS_12(DO) DO(12) DO(13)
#define CHAINS_16(DO) CHAINS_14(DO) DO(14) DO(15)
#define CHAINS_24(DO) CHAINS_16(DO) DO(16) DO(17) DO(18) DO(19) DO(20) DO(21) DO(22) DO(23)
#if ACCUMULATORS == 12
#define EACH_CHAIN(DO) CHAINS_12(DO)
#elif ACCUMULATORS == 14
#define EACH_CHAIN(DO) CHAINS_14(DO)
#elif ACCUMULATORS == 16
#define EACH_CHAIN(DO) CHAINS_16(DO)
#else
#define EACH_CHAIN(DO) CHAINS_24(DO)
#endif

#define LANES (sizeof(vector) / sizeof(float))
/* Vectors loaded by one turn of the load loop: enough that the loop's own instructions cost no load slot. */
#define LOADS_PER_TURN 8
/* Chained additions of one turn of the clock loop. */
#define ADDITIONS_PER_TURN 16

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Floating-point operations of one turn of roofline_multiply_add_seconds; a multiply-add counts as two. */
size_t roofline_flops_per_turn(void) {
    return 2 * LANES * ACCUMULATORS;
}

/* roofline_load_seconds reads whole blocks of this many bytes from an address that is a multiple of it. */
size_t roofline_block_bytes(void) {
    return LOADS_PER_TURN * sizeof(vector);
}

/* Additions of one turn of roofline_clock_seconds. */
size_t roofline_additions_per_turn(void) {
    return ADDITIONS_PER_TURN;
}

/* Seconds that `turns` turns of independent multiply-add chains take.
 *
 * factor and addend come from the caller so that the compiler cannot compute the result; with |factor| < 1
 * the chains settle at addend / (1 - factor), far from denormals and infinities. The sum goes to *sink.
 */
double roofline_multiply_add_seconds(size_t turns, float factor, float addend, float *sink) {
    const vector factors = broadcast(factor);
    const vector addends = broadcast(addend);
    /* Variables, not an array: compilers unroll too late to keep an array in registers, and would measure
     * stores. */
#define START(chain) vector chain_##chain = broadcast((float)(chain + 1));
    EACH_CHAIN(START)
#undef START

    const double start = seconds_now();
    for (size_t turn = 0; turn < turns; ++turn) {
        /* The empty asm makes the chain opaque: the compiler neither joins turns nor makes vectors of scalar
         * chains. */
#define ADVANCE(chain)                                                                                       \
    chain_##chain = multiply_add(chain_##chain, factors, addends);                                           \
    __asm__ volatile("" : "+" IN_VECTOR_REGISTER(chain_##chain));
        EACH_CHAIN(ADVANCE)
#undef ADVANCE
    }
    const double stop = seconds_now();

    vector sum = broadcast(0.0f);
#define GATHER(chain) sum = multiply_add(sum, factors, chain_##chain);
    EACH_CHAIN(GATHER)
#undef GATHER
    float lanes[LANES];
    memcpy(lanes, &sum, sizeof sum);
    *sink = lanes[0];
    return stop - start;
}

/* --- products of narrow types: how many a second, where this instruction set has an instruction for them */

enum { DOT_BFLOAT16, DOT_INT8 };

#if defined(__AVX512BF16__)
#define BFLOAT16_OPERATIONS 64
typedef __m512 bfloat16_sum;
static inline bfloat16_sum bfloat16_dot(bfloat16_sum sum, vector operand) {
    return _mm512_dpbf16_ps(sum, (__m512bh)operand, (__m512bh)operand);
}
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#define BFLOAT16_OPERATIONS 16
typedef float32x4_t bfloat16_sum;
static inline bfloat16_sum bfloat16_dot(bfloat16_sum sum, vector operand) {
    return vbfdotq_f32(sum, vreinterpretq_bf16_f32(operand), vreinterpretq_bf16_f32(operand));
}
#endif

#if defined(__AVX512VNNI__)
#define INT8_OPERATIONS 128
typedef __m512i int8_sum;
static inline int8_sum int8_dot(int8_sum sum, vector operand) {
    return _mm512_dpbusd_epi32(sum, _mm512_castps_si512(operand), _mm512_castps_si512(operand));
}
#elif defined(ROOFLINE_AVX2) || defined(ROOFLINE_AVX512)
/* Widened to 16 bits, which is exact; the addition is part of it. In vectors of AVX2, which both sets have.
 */
#define INT8_OPERATIONS 32
typedef __m256i int8_sum;
static inline int8_sum int8_dot(int8_sum sum, vector operand) {
    __m256i words;
    memcpy(&words, &operand, sizeof words);
    __asm__ volatile("" : "+x"(words)); /* or the product would be taken once, before the loop */
    return _mm256_add_epi32(sum, _mm256_madd_epi16(words, words));
}
#elif defined(__ARM_FEATURE_DOTPROD)
#define INT8_OPERATIONS 32
typedef int32x4_t int8_sum;
static inline int8_sum int8_dot(int8_sum sum, vector operand) {
    return vdotq_s32(sum, vreinterpretq_s8_f32(operand), vreinterpretq_s8_f32(operand));
}
#endif

/* The matrix registers of AMX, where there are any and the system gives leave to use them. */
#if defined(__AMX_BF16__) && defined(__AMX_INT8__) && defined(__linux__)
#define MATRICES 1
enum { MATRIX_TURNS = 4, MATRIX_ROWS = 16, MATRIX_BYTES = 64 };

static int matrices_granted(void) {
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

static double matrix_seconds(int kind, size_t turns) {
    struct {
        unsigned char palette, start_row, reserved[14];
        unsigned short row_bytes[16];
        unsigned char rows[16];
    } config = {.palette = 1};
    for (int index = 0; index < 8; ++index) {
        config.row_bytes[index] = MATRIX_BYTES;
        config.rows[index] = MATRIX_ROWS;
    }
    __asm__ volatile("" : : "r"(&config) : "memory"); /* gcc 12 does not know that all of it is read */
    _tile_loadconfig(&config);                        /* which zeroes the registers */
    const double start = seconds_now();
    for (size_t turn = 0; turn < turns; ++turn) {
        if (kind == DOT_BFLOAT16) {
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        } else {
            _tile_dpbusd(0, 4, 6);
            _tile_dpbusd(1, 4, 7);
            _tile_dpbusd(2, 5, 6);
            _tile_dpbusd(3, 5, 7);
        }
    }
    const double took = seconds_now() - start;
    _tile_release();
    return took;
}
#endif

/* Operations of one turn of roofline_dot_seconds, a multiplication and an addition being two; 0 where the
 * instruction set has no such instruction. */
size_t roofline_dot_operations_per_turn(int kind) {
#if defined(MATRICES)
    if (matrices_granted())
        return (size_t)2 * MATRIX_TURNS * MATRIX_ROWS * MATRIX_ROWS *
               (kind == DOT_INT8 ? MATRIX_BYTES : MATRIX_BYTES / 2);
#endif
#if defined(BFLOAT16_OPERATIONS)
    if (kind == DOT_BFLOAT16)
        return (size_t)BFLOAT16_OPERATIONS * ACCUMULATORS;
#endif
#if defined(INT8_OPERATIONS)
    if (kind == DOT_INT8)
        return (size_t)INT8_OPERATIONS * ACCUMULATORS;
#endif
    (void)kind;
    return 0;
}

#define DEFINE_DOT_SECONDS(type)                                                                             \
    static double type##_seconds(size_t turns, vector operand) {                                             \
        EACH_CHAIN(START_##type)                                                                             \
        const double start = seconds_now();                                                                  \
        for (size_t turn = 0; turn < turns; ++turn) {                                                        \
            EACH_CHAIN(ADVANCE_##type)                                                                       \
        }                                                                                                    \
        return seconds_now() - start;                                                                        \
    }
#define START_bfloat16(chain) bfloat16_sum chain_##chain = {0};
#define START_int8(chain) int8_sum chain_##chain = {0};
#define ADVANCE_bfloat16(chain)                                                                              \
    chain_##chain = bfloat16_dot(chain_##chain, operand);                                                    \
    __asm__ volatile("" : "+" IN_VECTOR_REGISTER(chain_##chain));
#define ADVANCE_int8(chain)                                                                                  \
    chain_##chain = int8_dot(chain_##chain, operand);                                                        \
    __asm__ volatile("" : "+" IN_VECTOR_REGISTER(chain_##chain));
#if defined(BFLOAT16_OPERATIONS)
DEFINE_DOT_SECONDS(bfloat16)
#endif
#if defined(INT8_OPERATIONS)
DEFINE_DOT_SECONDS(int8)
#endif

/* Seconds that `turns` turns of independent chains of products take; 0 where there is no such instruction.
 *
 * The operands are zero: the time of these instructions does not depend on their values. `operand` comes from
 * the caller so that the compiler does not know that. */
double roofline_dot_seconds(int kind, size_t turns, float operand) {
#if defined(MATRICES)
    if (matrices_granted())
        return matrix_seconds(kind, turns);
#endif
#if defined(BFLOAT16_OPERATIONS)
    if (kind == DOT_BFLOAT16)
        return bfloat16_seconds(turns, broadcast(operand));
#endif
#if defined(INT8_OPERATIONS)
    if (kind == DOT_INT8)
        return int8_seconds(turns, broadcast(operand));
#endif
    (void)kind;
    (void)turns;
    (void)operand;
    return 0.0;
}

static inline void load_block(const float *block) {
#pragma GCC unroll 8
    for (size_t place = 0; place < LOADS_PER_TURN; ++place) {
        const vector value = load(block + place * LANES);
        /* Uses the register and nothing else: the loop is loads, as in a matrix times vector product at its
         * best. */
        __asm__ volatile("" : : IN_VECTOR_REGISTER(value));
    }
}

/* Blocks begin to end of each of `streams` parts, side by side, a block of each in turn. */
static void load_range(const float *data, size_t begin, size_t end, size_t part, size_t streams) {
    if (streams == 1) { /* no second loop: in the first level it would show */
        for (size_t block = begin; block < end; ++block)
            load_block(data + block * LOADS_PER_TURN * LANES);
        return;
    }
    for (size_t block = begin; block < end; ++block)
        for (size_t stream = 0; stream < streams; ++stream)
            load_block(data + (stream * part + block) * LOADS_PER_TURN * LANES);
}

/* Seconds that loading `bytes` bytes `passes` times takes, after `warm_passes` untimed ones.
 *
 * data is aligned to roofline_block_bytes(); bytes is a multiple of streams times that, chunk_bytes of that,
 * and none is 0. The data is walked in `streams` equal parts at once: more streams keep more requests to far
 * memory on their way. With pendulum set, every second pass walks the chunks of each part backward (but
 * forward inside a chunk, which is the way that prefetchers like), so that the end of the last pass is still
 * in the nearer cache: for a set that does not quite fit.
 */
double roofline_load_seconds(const float *data, size_t bytes, size_t chunk_bytes, size_t streams,
                             int pendulum, size_t warm_passes, size_t passes) {
    const size_t part = bytes / streams / (LOADS_PER_TURN * sizeof(vector));
    const size_t chunk = chunk_bytes / (LOADS_PER_TURN * sizeof(vector));
    double start = seconds_now();
    for (size_t pass = 0; pass < warm_passes + passes; ++pass) {
        if (pass == warm_passes)
            start = seconds_now();
        if (!pendulum || pass % 2 == 0) {
            load_range(data, 0, part, part, streams);
            continue;
        }
        for (size_t end = part; end > 0;) {
            const size_t begin = (end - 1) / chunk * chunk;
            load_range(data, begin, end, part, streams);
            end = begin;
        }
    }
    return seconds_now() - start;
}

/* Seconds that `turns` turns of dependent integer additions take, one addition a clock cycle on every CPU
 * known to us.
 *
 * The step is a variable: some CPUs add small constants while renaming registers, in no time at all.
 */
double roofline_clock_seconds(size_t turns, uint64_t step, uint64_t *sink) {
    uint64_t sum = 0;
    const double start = seconds_now();
    for (size_t turn = 0; turn < turns; ++turn) {
#pragma GCC unroll 16
        for (size_t addition = 0; addition < ADDITIONS_PER_TURN; ++addition) {
            sum += step;
            __asm__ volatile("" : "+r"(sum));
        }
    }
    const double stop = seconds_now();
    *sink = sum;
    return stop - start;
}
