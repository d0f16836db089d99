#include "pack.h"

#include <string.h>

#include "cpu.h"
#include "memory.h"
#include "narrow.h"

static int activation_known(le_activation activation) {
    return (unsigned)activation.kind < LE_ACTIVATION_COUNT;
}

le_status le_cell_check(const le_cell_spec *spec) {
    const size_t outputs = spec->projection_size != 0 ? spec->projection_size : spec->hidden_size;
    size_t gates, rows, elements;
    if (spec->hidden_size == 0 || spec->recurrent_kernel == NULL ||
        (spec->kernel == NULL && spec->input_size != 0) ||
        (spec->projection == NULL) != (spec->projection_size == 0) || !(spec->gate_clip >= 0.0) ||
        !(spec->cell_clip >= 0.0) || !activation_known(spec->input_activation) ||
        !activation_known(spec->forget_activation) || !activation_known(spec->cell_activation) ||
        !activation_known(spec->output_activation) || !activation_known(spec->hidden_activation)) {
        return LE_ERROR_ARGUMENT;
    }
    /* 64 lanes of slack cover the padding of every instruction set; 8 bytes the widest element. */
    if (le_add(spec->hidden_size, 64, &elements) != LE_OK ||
        le_multiply(elements, 4 * sizeof(double), &gates) != LE_OK ||
        le_add(spec->input_size, outputs, &rows) != LE_OK || le_multiply(rows, gates, &elements) != LE_OK) {
        return LE_ERROR_SIZE;
    }
    return LE_OK;
}

static int is(le_activation activation, le_activation_kind kind) {
    return activation.kind == kind;
}

/* Copy the four gates of one row of a canonical kernel into the blocks of the panels. */
static void pack_row(const le_cell *cell, size_t lanes, size_t panel_row, const float *source) {
    for (size_t gate = 0; gate < 4; gate++) {
        for (size_t unit = 0; unit < cell->hidden_size; unit++) {
            float *panel = cell->panels + unit / lanes * cell->panel_floats + panel_row * 4 * lanes;
            panel[gate * lanes + unit % lanes] = source[gate * cell->hidden_size + unit];
        }
    }
}

le_status le_cell_pack(const le_lstm *lstm, const le_cell_spec *spec, le_cell *cell, size_t *bytes) {
    const le_kernels *kernels = lstm->kernels;
    const size_t lanes = kernels->lanes;
    le_status status = le_cell_check(spec);
    if (status != LE_OK) {
        return status;
    }
    memset(cell, 0, sizeof *cell);
    cell->input_size = spec->input_size;
    cell->hidden_size = spec->hidden_size;
    cell->output_size = spec->projection_size != 0 ? spec->projection_size : spec->hidden_size;
    cell->blocks = (spec->hidden_size + lanes - 1) / lanes;
    cell->padded_hidden = cell->blocks * lanes;
    cell->peephole_stride = cell->padded_hidden;
    /* Rows of W and of R that stay float32. */
    const int narrow = lstm->narrow != NULL;
    const size_t input_rows = narrow && lstm->compute_type != LE_INT8_RECURRENT ? 0 : cell->input_size;
    const size_t recurrent_rows = narrow ? 0 : cell->output_size;
    cell->panel_floats = (input_rows + recurrent_rows) * 4 * lanes;
    cell->fetches = le_cpu_wants_fetching();
    cell->passes = le_cpu_wants_passing();
    cell->input_activation = spec->input_activation;
    cell->forget_activation = spec->forget_activation;
    cell->cell_activation = spec->cell_activation;
    cell->output_activation = spec->output_activation;
    cell->hidden_activation = spec->hidden_activation;
    cell->gate_clip = (float)spec->gate_clip;
    cell->cell_clip = (float)spec->cell_clip;
    cell->coupled = spec->coupled != 0;
    cell->standard = !cell->coupled && cell->gate_clip == 0.0f && cell->cell_clip == 0.0f &&
                     spec->peepholes == NULL && is(spec->input_activation, LE_SIGMOID) &&
                     is(spec->forget_activation, LE_SIGMOID) && is(spec->output_activation, LE_SIGMOID) &&
                     is(spec->cell_activation, LE_TANH) && is(spec->hidden_activation, LE_TANH);

    const size_t panel_elements = cell->blocks * cell->panel_floats;
    const size_t bias_elements = 4 * cell->padded_hidden;
    const size_t peephole_elements = spec->peepholes == NULL ? 0 : 3 * cell->padded_hidden;
    cell->panels = le_allocate(panel_elements, sizeof(float));
    cell->bias = le_allocate(bias_elements, sizeof(float));
    cell->peepholes = peephole_elements == 0 ? NULL : le_allocate(peephole_elements, sizeof(float));
    if (cell->panels == NULL || cell->bias == NULL || (peephole_elements != 0 && cell->peepholes == NULL)) {
        le_cell_release(cell);
        return LE_ERROR_MEMORY;
    }

    const size_t gates = 4 * cell->hidden_size;
    for (size_t row = 0; row < input_rows; row++) {
        pack_row(cell, lanes, row, (const float *)spec->kernel + row * gates);
    }
    for (size_t row = 0; row < recurrent_rows; row++) {
        pack_row(cell, lanes, cell->input_size + row, (const float *)spec->recurrent_kernel + row * gates);
    }
    if (spec->bias != NULL) {
        for (size_t gate = 0; gate < 4; gate++) {
            for (size_t unit = 0; unit < cell->hidden_size; unit++) {
                cell->bias[unit / lanes * 4 * lanes + gate * lanes + unit % lanes] =
                    ((const float *)spec->bias)[gate * cell->hidden_size + unit];
            }
        }
    }
    for (size_t row = 0; row < 3 && spec->peepholes != NULL; row++) {
        memcpy(cell->peepholes + row * cell->padded_hidden,
               (const float *)spec->peepholes + row * cell->hidden_size, cell->hidden_size * sizeof(float));
    }
    *bytes = (panel_elements + bias_elements + peephole_elements) * sizeof(float);
    if (narrow) {
        size_t narrow_bytes = 0;
        status = le_narrow_pack(lstm, spec, cell, &narrow_bytes);
        if (status != LE_OK) {
            le_cell_release(cell);
            return status;
        }
        *bytes += narrow_bytes;
    }
    if (spec->projection != NULL) {
        const le_activation none = {LE_LINEAR, 0.0f, 0.0f};
        status = le_linear_create(kernels, cell->hidden_size, cell->output_size, spec->projection, NULL, none,
                                  &cell->projection);
        if (status != LE_OK) {
            le_cell_release(cell);
            return status;
        }
        *bytes += le_linear_memory_bytes(cell->projection);
    }
    return LE_OK;
}

void le_cell_release(le_cell *cell) {
    le_free(cell->panels);
    le_free(cell->bias);
    le_free(cell->peepholes);
    le_narrow_release(cell->narrow);
    le_linear_destroy(cell->projection);
    memset(cell, 0, sizeof *cell);
}
