#include <stdlib.h>
#include <string.h>

#include "cpu.h"
#include "kernels/kernels.h"

/* Each table is filled by one source, kernels/kernels.inc, which defines every member: no pointer is null. */
#define LE_ISA(name, architecture, flags) extern const le_kernels le_kernels_##name;
#include "instruction_sets.def"
#undef LE_ISA

typedef struct instruction_set {
    const le_kernels *kernels;
    int (*runs)(void);
} instruction_set;

static const instruction_set instruction_sets[] = {
#define LE_ISA(name, architecture, flags) {&le_kernels_##name, le_cpu_runs_##name},
#include "instruction_sets.def"
#undef LE_ISA
};

enum { INSTRUCTION_SETS = sizeof instruction_sets / sizeof instruction_sets[0] };

size_t le_isa_count(void) {
    return INSTRUCTION_SETS;
}

const char *le_isa_name(size_t index) {
    return index < INSTRUCTION_SETS ? instruction_sets[index].kernels->name : NULL;
}

int le_isa_supported(size_t index) {
    return index < INSTRUCTION_SETS && instruction_sets[index].runs();
}

le_status le_isa_select(const char *name, const le_kernels **kernels) {
    if (kernels == NULL) {
        return LE_ERROR_ARGUMENT;
    }
    if (name == NULL) {
        name = getenv("LSTM_ENGINE_ISA");
    }
    const int best = name == NULL || name[0] == '\0';
    for (size_t index = 0; index < INSTRUCTION_SETS; index++) {
        const instruction_set *set = &instruction_sets[index];
        if (best || strcmp(name, set->kernels->name) == 0) {
            if (set->runs()) {
                *kernels = set->kernels;
                return LE_OK;
            }
            if (!best) {
                return LE_ERROR_UNSUPPORTED_ISA;
            }
        }
    }
    return LE_ERROR_UNKNOWN_ISA;
}

const char *le_kernels_name(const le_kernels *kernels) {
    return kernels->name;
}

int le_kernels_vectorised(const le_kernels *kernels) {
    return kernels->vectorised;
}
