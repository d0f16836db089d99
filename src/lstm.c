#include "lstm.h"

#include <limits.h>
#include <string.h>

#include "memory.h"
#include "pack.h"
#include "plan.h"
#include "float_state.h"

/* Check what no single cell can know: that the cells of a stack fit together. */
static le_status check_stack(const le_lstm_spec *spec) {
    if (spec->layers == 0 || (spec->directions != 1 && spec->directions != 2) || spec->cells == NULL ||
        (spec->backend != LE_FUSED && spec->backend != LE_BLAS) ||
        (spec->dtype != LE_FLOAT32 && spec->dtype != LE_FLOAT64) ||
        (spec->backend == LE_FUSED && spec->dtype != LE_FLOAT32) ||
        (unsigned)spec->compute_type >= LE_COMPUTE_TYPE_COUNT ||
        (spec->compute_type != LE_AS_DTYPE && spec->backend != LE_FUSED) ||
        (spec->backend == LE_BLAS && spec->dtype == LE_FLOAT32 && spec->sgemm == NULL) ||
        (spec->backend == LE_BLAS && spec->dtype == LE_FLOAT64 && spec->dgemm == NULL)) {
        return LE_ERROR_ARGUMENT;
    }
    size_t cells;
    le_status status = le_multiply(spec->layers, spec->directions, &cells);
    if (status != LE_OK) {
        return status;
    }
    const le_cell_spec *first = &spec->cells[0];
    const size_t output_size = first->projection_size != 0 ? first->projection_size : first->hidden_size;
    for (size_t cell = 0; cell < cells; cell++) {
        const le_cell_spec *one = &spec->cells[cell];
        const size_t inputs = cell < spec->directions ? first->input_size : spec->directions * output_size;
        status = le_cell_check(one);
        if (status != LE_OK) {
            return status;
        }
        if (one->input_size != inputs || one->hidden_size != first->hidden_size ||
            one->projection_size != first->projection_size) {
            return LE_ERROR_ARGUMENT;
        }
    }
    /* The Fortran interface of a BLAS counts in int. */
    if (spec->backend == LE_BLAS && (first->hidden_size > INT_MAX / 4 || first->input_size > INT_MAX)) {
        return LE_ERROR_SIZE;
    }
    return LE_OK;
}

/* Copy one array of a blas cell into its storage and move on. */
static const void *keep(char **storage, const void *source, size_t elements, size_t element_bytes) {
    if (source == NULL) {
        return NULL;
    }
    void *kept = *storage;
    memcpy(kept, source, elements * element_bytes);
    *storage += le_round_up(elements * element_bytes, LE_ALIGNMENT);
    return kept;
}

static le_status keep_blas_cell(const le_cell_spec *spec, size_t element_bytes, le_blas_cell *cell,
                                size_t *bytes) {
    const size_t gates = 4 * spec->hidden_size;
    const size_t outputs = spec->projection_size != 0 ? spec->projection_size : spec->hidden_size;
    const size_t total =
        (spec->input_size + outputs + 1 + 1) * gates + spec->hidden_size * spec->projection_size;
    /* Room for the padding of five arrays to whole cache lines. */
    *bytes = total * element_bytes + 5 * LE_ALIGNMENT;
    cell->storage = le_allocate(*bytes, 1);
    if (cell->storage == NULL) {
        return LE_ERROR_MEMORY;
    }
    char *storage = cell->storage;
    cell->spec = *spec;
    cell->spec.kernel = keep(&storage, spec->kernel, spec->input_size * gates, element_bytes);
    cell->spec.recurrent_kernel = keep(&storage, spec->recurrent_kernel, outputs * gates, element_bytes);
    cell->spec.bias = keep(&storage, spec->bias, gates, element_bytes);
    cell->spec.projection = keep(&storage, spec->projection, spec->hidden_size * outputs, element_bytes);
    cell->spec.peepholes = keep(&storage, spec->peepholes, 3 * spec->hidden_size, element_bytes);
    return LE_OK;
}

le_status le_lstm_create(const le_kernels *kernels, const le_lstm_spec *spec, le_lstm **result) {
    if (kernels == NULL || spec == NULL || result == NULL) {
        return LE_ERROR_ARGUMENT;
    }
    le_status status = check_stack(spec);
    if (status != LE_OK) {
        return status;
    }
    le_lstm *lstm = le_allocate(1, sizeof *lstm);
    if (lstm == NULL) {
        return LE_ERROR_MEMORY;
    }
    const size_t cells = spec->layers * spec->directions;
    lstm->kernels = kernels;
    lstm->dtype = spec->dtype;
    lstm->compute_type = spec->compute_type;
    lstm->narrow = le_narrow_select(kernels, spec->compute_type, spec->without);
    lstm->backend = spec->backend;
    lstm->sgemm = spec->sgemm;
    lstm->dgemm = spec->dgemm;
    lstm->layers = spec->layers;
    lstm->directions = spec->directions;
    lstm->reverse = spec->reverse != 0;
    lstm->input_size = spec->cells[0].input_size;
    lstm->hidden_size = spec->cells[0].hidden_size;
    lstm->output_size =
        spec->cells[0].projection_size != 0 ? spec->cells[0].projection_size : spec->cells[0].hidden_size;
    lstm->memory_bytes = sizeof *lstm;
    if (spec->backend == LE_FUSED) {
        lstm->cells = le_allocate(cells, sizeof *lstm->cells);
    } else {
        lstm->blas_cells = le_allocate(cells, sizeof *lstm->blas_cells);
    }
    status = lstm->cells == NULL && lstm->blas_cells == NULL ? LE_ERROR_MEMORY : LE_OK;
    for (size_t cell = 0; cell < cells && status == LE_OK; cell++) {
        size_t bytes = 0;
        status = spec->backend == LE_FUSED
                     ? le_cell_pack(lstm, &spec->cells[cell], &lstm->cells[cell], &bytes)
                     : keep_blas_cell(&spec->cells[cell], le_dtype_bytes(spec->dtype),
                                      &lstm->blas_cells[cell], &bytes);
        lstm->memory_bytes += bytes;
    }
    if (status != LE_OK) {
        le_lstm_destroy(lstm);
        return status;
    }
    *result = lstm;
    return LE_OK;
}

void le_lstm_destroy(le_lstm *lstm) {
    if (lstm == NULL) {
        return;
    }
    for (size_t cell = 0; cell < lstm->layers * lstm->directions; cell++) {
        if (lstm->cells != NULL) {
            le_cell_release(&lstm->cells[cell]);
        }
        if (lstm->blas_cells != NULL) {
            le_free(lstm->blas_cells[cell].storage);
        }
    }
    le_free(lstm->cells);
    le_free(lstm->blas_cells);
    le_free(lstm);
}

size_t le_lstm_memory_bytes(const le_lstm *lstm) {
    return lstm->memory_bytes;
}

static le_status check_run(const le_lstm *lstm, const le_run *run) {
    if (lstm == NULL || run == NULL || (run->mask != NULL && run->lengths != NULL) ||
        (run->x == NULL && run->batch != 0 && run->time != 0 && lstm->input_size != 0)) {
        return LE_ERROR_ARGUMENT;
    }
    for (size_t row = 0; run->lengths != NULL && row < run->batch; row++) {
        if (run->lengths[row] < 0 || (uint64_t)run->lengths[row] > run->time) {
            return LE_ERROR_ARGUMENT;
        }
    }
    return LE_OK;
}

le_status le_lstm_workspace_bytes(const le_lstm *lstm, const le_run *run, size_t *bytes) {
    le_status status = check_run(lstm, run);
    if (status != LE_OK || bytes == NULL) {
        return status != LE_OK ? status : LE_ERROR_ARGUMENT;
    }
    const le_plan plan = le_plan_run(lstm, run);
    if (lstm->backend == LE_FUSED) {
        return le_fused_workspace(lstm, run, &plan, NULL, NULL, bytes);
    }
    return le_blas_workspace(lstm, run, &plan, NULL, NULL, bytes);
}

le_status le_lstm_run(const le_lstm *lstm, const le_run *run, void *workspace) {
    le_status status = check_run(lstm, run);
    if (status != LE_OK || workspace == NULL) {
        return status != LE_OK ? status : LE_ERROR_ARGUMENT;
    }
    const le_float_state before = le_float_state_enter();
    if (lstm->backend == LE_FUSED) {
        status = le_fused_run(lstm, run, workspace);
    } else {
        status = lstm->dtype == LE_FLOAT64 ? le_blas_run_float64(lstm, run, workspace)
                                           : le_blas_run_float32(lstm, run, workspace);
    }
    le_float_state_leave(before);
    return status;
}

void le_lstm_take_threads(const le_lstm *lstm, le_run *run) {
    run->members = run->threads == NULL ? 1 : le_threads_count(run->threads);
    if (run->members > 1 && check_run(lstm, run) == LE_OK) {
        const le_plan plan = le_plan_run(lstm, run);
        run->members = le_threads_take(run->threads, plan.members);
    } else {
        run->members = 1;
    }
}

void le_lstm_give_threads(le_run *run) {
    if (run->members > 1) {
        le_threads_give(run->threads);
        run->members = 1;
    }
}
