/* What this CPU can run. Compiled with baseline flags only: it must run before anything is known. */
#ifndef LE_CPU_H
#define LE_CPU_H

/* 1 if the CPU and the operating system run the named instruction set, or extension of one, of
 * instruction_sets.def. */
int le_cpu_runs_avx512(void);
int le_cpu_runs_avx512_bf16(void);
int le_cpu_runs_avx512_amx_bf16(void);
int le_cpu_runs_avx512_amx_int8(void);
int le_cpu_runs_avx512_vnni(void);
int le_cpu_runs_avx2(void);
int le_cpu_runs_neon(void);
int le_cpu_runs_neon_dotprod(void);
int le_cpu_runs_scalar(void);

/* 1 if batches are quicker where the kernels ask for the weights from the second cache: on Intel's Sapphire
 * Rapids by 9 to 33%. AMD's Zen 4 comes to 93 to 96% of its limit without. */
int le_cpu_wants_fetching(void);

/* 0 where what is asked for past the second cache is not kept in the third one either, and comes from memory
 * each time: on Intel's servers sequences of 512 units took 1.2 times as long for it, with AVX2 2.6 times.
 * Nothing of the kind on AMD's Zen 4. */
int le_cpu_wants_passing(void);

#endif
