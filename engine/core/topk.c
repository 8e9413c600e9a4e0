/* topk.c: the bounded heap of topk.h. */
#include "core/topk.h"

#include "core/status.h"

void peri_topk_init(peri_topk *top, float *distances, int64_t *ids, size_t k) {
    *top = (peri_topk){ distances, ids, k, 0 };
}

/* Whether entry a is farther than entry b: the heap keeps the farthest on top. */
static bool farther(const peri_topk *top, size_t a, size_t b) {
    return peri_nearer(top->distances[b], top->ids[b], top->distances[a], top->ids[a]);
}

static void swap(peri_topk *top, size_t a, size_t b) {
    float distance = top->distances[a];
    int64_t id = top->ids[a];
    top->distances[a] = top->distances[b];
    top->ids[a] = top->ids[b];
    top->distances[b] = distance;
    top->ids[b] = id;
}

static void sift_down(peri_topk *top, size_t slot, size_t count) {
    for (;;) {
        size_t child = 2 * slot + 1;
        if (child >= count) return;
        if (child + 1 < count && farther(top, child + 1, child)) child++;
        if (!farther(top, child, slot)) return;
        swap(top, child, slot);
        slot = child;
    }
}

static void sift_up(peri_topk *top, size_t slot) {
    while (slot > 0) {
        size_t parent = (slot - 1) / 2;
        if (!farther(top, slot, parent)) return;
        swap(top, slot, parent);
        slot = parent;
    }
}

void peri_topk_insert(peri_topk *top, float distance, int64_t id) {
    if (top->k == 0) return;
    if (top->count < top->k) {
        size_t slot = top->count++;
        top->distances[slot] = distance;
        top->ids[slot] = id;
        sift_up(top, slot);
        return;
    }
    top->distances[0] = distance;
    top->ids[0] = id;
    sift_down(top, 0, top->count);
}

void peri_topk_finish(peri_topk *top) {
    for (size_t count = top->count; count > 1; count--) {
        swap(top, 0, count - 1);
        sift_down(top, 0, count - 1);
    }
    for (size_t i = top->count; i < top->k; i++) {
        top->distances[i] = INFINITY;
        top->ids[i] = PERI_ID_NONE;
    }
}
