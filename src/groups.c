/* Groups of rows: how a batch is cut, and which rows of different lengths go together. */
#include "memory.h"
#include "plan.h"

size_t le_plan_groups(const le_plan *plan, size_t batch) {
    const size_t members = plan->in_a_turn;
    const size_t most = members * plan->rows;
    return (batch / most + (batch % most != 0)) * members;
}

/* Rows [*first, *first + *rows) of the batch that one turn takes. */
static void turn_rows(const le_plan *plan, size_t batch, size_t turn, size_t *first, size_t *rows) {
    const size_t most = plan->in_a_turn * plan->rows;
    *first = turn * most;
    *rows = le_min_size(most, batch - *first);
}

le_group le_plan_group(const le_plan *plan, size_t batch, size_t number, const size_t *order) {
    const size_t members = plan->in_a_turn;
    const size_t place = number % members;
    le_group group;
    size_t all;
    turn_rows(plan, batch, number / members, &group.first, &all);
    group.rows = all / members + (place < all % members);
    group.first += place * (all / members) + le_min_size(place, all % members);
    group.order = order == NULL ? NULL : order + group.first;
    return group;
}

/* Whether row a goes before row b: the longer one, of two alike the first. */
static int before(const int64_t *lengths, size_t a, size_t b) {
    return lengths[a] > lengths[b] || (lengths[a] == lengths[b] && a < b);
}

static void sink(const int64_t *lengths, size_t *heap, size_t root, size_t count) {
    const size_t moved = heap[root];
    for (size_t child; (child = 2 * root + 1) < count; root = child) {
        if (child + 1 < count && before(lengths, heap[child], heap[child + 1])) {
            child++;
        }
        if (!before(lengths, moved, heap[child])) {
            break;
        }
        heap[root] = heap[child];
    }
    heap[root] = moved;
}

/* Heap sort: takes no memory, and no more time for an order that somebody has chosen to be bad. */
static void sort_rows(const int64_t *lengths, size_t *rows, size_t count) {
    for (size_t root = count / 2; root-- > 0;) {
        sink(lengths, rows, root, count);
    }
    for (size_t last = count; last-- > 1;) {
        const size_t largest = rows[0];
        rows[0] = rows[last];
        rows[last] = largest;
        sink(lengths, rows, 0, last);
    }
}

void le_order_rows(const le_plan *plan, const le_run *run, const le_row_order *rows) {
    size_t *sorted = rows->sorted;
    const size_t members = plan->in_a_turn;
    for (size_t row = 0; row < run->batch; row++) {
        sorted[row] = row;
    }
    sort_rows(run->lengths, sorted, run->batch);
    for (size_t number = 0; number < le_plan_groups(plan, run->batch); number++) {
        const le_group group = le_plan_group(plan, run->batch, number, NULL);
        size_t turn, all;
        turn_rows(plan, run->batch, number / members, &turn, &all);
        /* Dealt out like cards, forward and back, so that the sums of the lengths come out alike. */
        const size_t place = number % members;
        for (size_t round = 0; round < group.rows; round++) {
            const int back = (round & 1) != 0 && (round + 1) * members <= all;
            rows->order[group.first + round] =
                sorted[turn + round * members + (back ? members - 1 - place : place)];
        }
    }
}
