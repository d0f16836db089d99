#include "units.h"

#include <string.h>

#include "memory.h"

/* First block of a member. */
static size_t first_block(const le_member *member, size_t index) {
    return member->blocks * index / member->members;
}

static void units_of(const le_member *member, size_t hidden_size, size_t index, size_t *first,
                     size_t *units) {
    *first = first_block(member, index) * member->lanes;
    *units = le_min_size(first_block(member, index + 1) * member->lanes, hidden_size) - *first;
}

void le_member_begin(le_member *member, size_t hidden_size, size_t lanes, size_t members, size_t index) {
    member->members = members;
    member->index = index;
    member->blocks = (hidden_size + lanes - 1) / lanes;
    member->lanes = lanes;
    member->hidden_size = hidden_size;
    member->count = 0;
    units_of(member, hidden_size, index, &member->first_unit, &member->units);
}

size_t le_member_most_units(size_t hidden_size, size_t lanes, size_t members) {
    const size_t blocks = (hidden_size + lanes - 1) / lanes;
    return (blocks + members - 1) / members * lanes;
}

void le_member_part(const le_member *member, const le_cell *cell, le_part *part) {
    const size_t first = first_block(member, member->index);
    const size_t first_gate = first * 4 * member->lanes;
    le_cell *own = &part->cell;
    *own = *cell;
    own->blocks = first_block(member, member->index + 1) - first;
    own->hidden_size = member->units;
    own->padded_hidden = own->blocks * member->lanes;
    own->panels += first * cell->panel_floats;
    own->bias += first_gate;
    if (cell->peepholes != NULL) {
        own->peepholes += first * member->lanes;
    }
    if (cell->narrow == NULL) {
        return;
    }
    part->narrow = *cell->narrow;
    part->narrow.panels += first * cell->narrow->panel_words;
    for (int segment = 0; segment < 2; segment++) {
        if (cell->narrow->scales[segment] != NULL) {
            part->narrow.scales[segment] += first_gate;
            part->narrow.start[segment] += first_gate;
        }
    }
    own->narrow = &part->narrow;
}

int le_member_exchange(le_member *member, size_t rows, float *const *h, float *const *outputs) {
    le_published *own = &member->published[member->index];
    const size_t parity = ++member->count & 1;
    const size_t bytes = member->units * sizeof(float);
    for (size_t row = 0; row < rows; row++) {
        memcpy(own->part[parity] + row * member->units, h[row], bytes);
    }
    le_threads_announce(member->threads, &own->count, member->count);
    /* While the others may still be at work. */
    for (size_t row = 0; row < rows; row++) {
        if (outputs[row] != NULL) {
            memcpy(outputs[row] + member->first_unit, h[row], bytes);
        }
    }
    for (size_t place = 1; place < member->members; place++) {
        /* Each begins with its neighbour, so that not all read from one. */
        const size_t index = (member->index + place) % member->members;
        const le_published *other = &member->published[index];
        size_t first, units;
        units_of(member, member->hidden_size, index, &first, &units);
        if (!le_threads_await(member->threads, member->index, &other->count, member->count)) {
            return 0;
        }
        for (size_t row = 0; row < rows; row++) {
            memcpy(h[row] - member->first_unit + first, other->part[parity] + row * units,
                   units * sizeof(float));
        }
    }
    return 1;
}

int le_member_meet(le_member *member) {
    return le_member_exchange(member, 0, NULL, NULL);
}
