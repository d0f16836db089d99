#include <stdlib.h>
#include <string.h>

#include "cpu.h"
#include "kernels/kernels.h"
#include "narrow.h"

/* Each table is filled by one source, kernels/kernels.inc, which defines every member: no pointer is null. */
#define LE_ISA(name, architecture, flags) extern const le_kernels le_kernels_##name;
#define LE_EXTENSION(name, set, type, architecture, flags) extern const le_narrow_kernels le_##type##_##name;
#include "instruction_sets.def"
#undef LE_ISA
#undef LE_EXTENSION

typedef struct instruction_set {
    const le_kernels *kernels;
    int (*runs)(void);
} instruction_set;

static const instruction_set instruction_sets[] = {
#define LE_ISA(name, architecture, flags) {&le_kernels_##name, le_cpu_runs_##name},
#define LE_EXTENSION(name, set, type, architecture, flags)
#include "instruction_sets.def"
#undef LE_ISA
#undef LE_EXTENSION
};

enum { bfloat16 = LE_BFLOAT16, int8 = LE_INT8 };

/* The scalar set has no extension and ends the list, which would be empty on some architectures. */
static const struct {
    const le_kernels *set;
    int type;
    const le_narrow_kernels *kernels;
    int (*runs)(void);
} extensions[] = {
#define LE_ISA(name, architecture, flags)
#define LE_EXTENSION(name, set, type, architecture, flags)                                                   \
    {&le_kernels_##set, type, &le_##type##_##name, le_cpu_runs_##name},
#include "instruction_sets.def"
#undef LE_ISA
#undef LE_EXTENSION
    {NULL, 0, NULL, NULL},
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

const le_narrow_kernels *le_narrow_select(const le_kernels *kernels, le_compute_type type, int without) {
    const int wanted = type == LE_INT8_RECURRENT ? LE_INT8 : (int)type;
    for (size_t index = 0; extensions[index].set != NULL; index++) {
        if (extensions[index].set == kernels && extensions[index].type == wanted &&
            extensions[index].runs() && without-- <= 0) {
            return extensions[index].kernels;
        }
    }
    return wanted == LE_INT8 ? kernels->int8 : wanted == LE_BFLOAT16 ? kernels->bfloat16 : NULL;
}

const char *le_kernels_name_for(const le_kernels *kernels, le_compute_type type, int without) {
    const le_narrow_kernels *narrow = le_narrow_select(kernels, type, without);
    return narrow == NULL ? kernels->name : narrow->name;
}

const char *le_kernels_name(const le_kernels *kernels) {
    return kernels->name;
}

int le_kernels_vectorised(const le_kernels *kernels) {
    return kernels->vectorised;
}
