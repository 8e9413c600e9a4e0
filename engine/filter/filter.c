/* filter.c: filters as trees of ids, ranges and packed bits; worked out to a bitset when bound.
 *
 * A node is immutable and shared by reference. Trees may be deep (a script that ORs ten thousand
 * terms one by one), so every walk loops down the larger child and recurses into the smaller one:
 * the depth of the recursion is at most log2 of the number of nodes.
 *
 * Threads: any. The last binding is kept with the filter, guarded by the context's lock. */
#include "filter/filter.h"

#include <stdlib.h>
#include <string.h>

#include "core/bitset.h"
#include "core/checked.h"
#include "core/memory.h"

typedef enum node_kind { NODE_IDS, NODE_RANGE, NODE_BITS, NODE_NOT, NODE_JOIN } node_kind;

struct peri_filter {
    atomic_size_t references;
    peri_context *context;
    node_kind kind;
    size_t nodes;              /* of the tree from here */
    int64_t first, stop;       /* range */
    int64_t *ids;              /* ids, ascending and unique */
    uint64_t *words;           /* bits */
    size_t count;              /* of ids, or of bits */
    size_t capacity;           /* items allocated */
    peri_filter_op op;         /* join */
    peri_filter *left, *right; /* right NULL for not */
    peri_bound *bound;         /* under the context's lock */
};

/* What a tree is worked out over: rows first..first+count-1 and, through the map, their ids. */
typedef struct universe {
    size_t first, count;
    const peri_id_map *map;
    peri_context *context;
} universe;

/* ---- life --------------------------------------------------------------------------------- */

static peri_status node_new(peri_context *context, node_kind kind, peri_filter **out) {
    peri_filter *node;
    *out = NULL;
    PERI_TRY(peri_memory_acquire_zeroed(context, 1, sizeof *node, &node));
    atomic_init(&node->references, 1);
    peri_context_retain(context);
    node->context = context;
    node->kind = kind;
    node->nodes = 1;
    *out = node;
    return PERI_OK;
}

void peri_filter_retain(peri_filter *filter) { atomic_fetch_add(&filter->references, 1); }

void peri_filter_release(peri_filter *filter) {
    while (filter != NULL && atomic_fetch_sub(&filter->references, 1) == 1) {
        peri_filter *larger = filter->left, *smaller = filter->right;
        if (larger != NULL && smaller != NULL && smaller->nodes > larger->nodes) {
            larger = filter->right;
            smaller = filter->left;
        }
        peri_filter_release(smaller);
        peri_context *context = filter->context;
        peri_memory_release(context, filter->ids, filter->capacity, sizeof *filter->ids);
        peri_memory_release(context, filter->words, filter->capacity, sizeof *filter->words);
        peri_bound_release(filter->bound);
        peri_memory_release(context, filter, 1, sizeof *filter);
        peri_context_release(context);
        filter = larger;
    }
}

static int compare_ids(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

peri_status peri_filter_ids(peri_context *context, const int64_t *ids, size_t count,
                            peri_filter **out) {
    *out = NULL;
    for (size_t i = 0; i < count; i++)
        if (ids[i] < 0)
            return peri_fail(PERI_E_ARGUMENT, "ids: entry %zu is %lld, allowed: 0 and more", i,
                             (long long)ids[i]);
    PERI_TRY(node_new(context, NODE_IDS, out));
    peri_status status = peri_memory_acquire(context, count, sizeof *ids, &(*out)->ids);
    if (status != PERI_OK) {
        peri_filter_release(*out);
        *out = NULL;
        return status;
    }
    int64_t *sorted = (*out)->ids;
    if (count > 0) memcpy(sorted, ids, count * sizeof *ids);
    if (count > 0) qsort(sorted, count, sizeof *sorted, compare_ids);
    size_t unique = 0;
    for (size_t i = 0; i < count; i++)
        if (unique == 0 || sorted[unique - 1] != sorted[i]) sorted[unique++] = sorted[i];
    (*out)->capacity = count;
    (*out)->count = unique;
    return PERI_OK;
}

peri_status peri_filter_range(peri_context *context, int64_t first, int64_t stop,
                              peri_filter **out) {
    *out = NULL;
    if (first < 0 || stop < first)
        return peri_fail(PERI_E_ARGUMENT,
                         "range: first %lld, stop %lld given, allowed: 0 <= first "
                         "<= stop",
                         (long long)first, (long long)stop);
    PERI_TRY(node_new(context, NODE_RANGE, out));
    (*out)->first = first;
    (*out)->stop = stop;
    return PERI_OK;
}

peri_status peri_filter_bits(peri_context *context, const void *bytes, size_t count,
                             peri_filter **out) {
    PERI_TRY(node_new(context, NODE_BITS, out));
    size_t words = peri_bitset_words(count);
    peri_status status = peri_memory_acquire_zeroed(context, words, 8, &(*out)->words);
    if (status != PERI_OK) {
        peri_filter_release(*out);
        *out = NULL;
        return status;
    }
    const unsigned char *byte = bytes;
    for (size_t i = 0; i < peri_ceil_div(count, 8); i++)
        (*out)->words[i / 8] |= (uint64_t)byte[i] << (8 * (i % 8));
    peri_bitset_trim((*out)->words, count);
    (*out)->capacity = words;
    (*out)->count = count;
    return PERI_OK;
}

peri_status peri_filter_join(peri_filter_op op, peri_filter *left, peri_filter *right,
                             peri_filter **out) {
    *out = NULL;
    if (left->context != right->context)
        return peri_fail(PERI_E_ARGUMENT, "filters of two contexts can't be joined");
    PERI_TRY(node_new(left->context, NODE_JOIN, out));
    peri_filter_retain(left);
    peri_filter_retain(right);
    (*out)->op = op;
    (*out)->left = left;
    (*out)->right = right;
    (*out)->nodes = 1 + left->nodes + right->nodes;
    return PERI_OK;
}

peri_status peri_filter_not(peri_filter *filter, peri_filter **out) {
    PERI_TRY(node_new(filter->context, NODE_NOT, out));
    peri_filter_retain(filter);
    (*out)->left = filter;
    (*out)->nodes = 1 + filter->nodes;
    return PERI_OK;
}

/* ---- working out -------------------------------------------------------------------------- */

/* First position in an ascending list whose entry is >= id. */
static size_t lower_bound(const int64_t *ids, size_t count, int64_t id) {
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (ids[middle] < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Both lists ascend, so one walk beside the other finds the rows; each step gallops by
 * bisection. */
static void leaf_mapped_ids(const peri_filter *node, const universe *u, uint64_t *out) {
    const peri_id_map *map = u->map;
    size_t at = 0;
    for (size_t i = 0; i < node->count && at < map->count; i++) {
        at += lower_bound(map->ids + at, map->count - at, node->ids[i]);
        if (at < map->count && map->ids[at] == node->ids[i]) peri_bitset_add(out, map->rows[at]);
    }
}

static void leaf_ids(const peri_filter *node, const universe *u, uint64_t *out) {
    if (u->map != NULL && u->map->serial != 0) {
        leaf_mapped_ids(node, u, out);
        return;
    }
    for (size_t i = lower_bound(node->ids, node->count, (int64_t)u->first); i < node->count; i++) {
        uint64_t offset = (uint64_t)node->ids[i] - u->first;
        if (offset >= u->count) break;
        peri_bitset_add(out, offset);
    }
}

static void leaf_range(const peri_filter *node, const universe *u, uint64_t *out) {
    uint64_t first = peri_max_size((size_t)node->first, u->first);
    uint64_t stop = peri_min_size((size_t)node->stop, u->first + u->count);
    if (first < stop) peri_bitset_add_range(out, first - u->first, stop - u->first);
}

static void leaf_bits(const peri_filter *node, const universe *u, uint64_t *out) {
    if (u->first == 0) {
        size_t words = peri_min_size(peri_bitset_words(u->count), node->capacity);
        if (words > 0) memcpy(out, node->words, words * sizeof *out);
        peri_bitset_trim(out, u->count);
        return;
    }
    for (size_t r = u->first; r < u->first + u->count && r < node->count; r++)
        if (peri_bitset_test(node->words, r)) peri_bitset_add(out, r - u->first);
}

static void eval_leaf(const peri_filter *node, const universe *u, uint64_t *out) {
    memset(out, 0, peri_bitset_words(u->count) * sizeof *out);
    switch (node->kind) {
    case NODE_IDS: leaf_ids(node, u, out); break;
    case NODE_RANGE: leaf_range(node, u, out); break;
    case NODE_BITS: leaf_bits(node, u, out); break;
    default: break;
    }
}

/* out = out op other, or other op out when `out` holds the right side. */
static void combine(const peri_filter *join, bool out_is_right, uint64_t *out,
                    const uint64_t *other, size_t words) {
    for (size_t w = 0; w < words; w++) {
        uint64_t left = out_is_right ? other[w] : out[w];
        uint64_t right = out_is_right ? out[w] : other[w];
        switch (join->op) {
        case PERI_FILTER_AND: out[w] = left & right; break;
        case PERI_FILTER_OR: out[w] = left | right; break;
        case PERI_FILTER_MINUS: out[w] = left & ~right; break;
        }
    }
}

static const peri_filter *larger_child(const peri_filter *node) {
    if (node->kind == NODE_NOT) return node->left;
    return node->left->nodes >= node->right->nodes ? node->left : node->right;
}

static peri_status eval(const peri_filter *root, const universe *u, uint64_t *out);

/* One step back up the spine: `out` holds the larger child of `node`. */
static peri_status eval_inner(const peri_filter *node, const universe *u, uint64_t *out) {
    size_t words = peri_bitset_words(u->count);
    if (node->kind == NODE_NOT) {
        for (size_t w = 0; w < words; w++) out[w] = ~out[w];
        peri_bitset_trim(out, u->count);
        return PERI_OK;
    }
    bool out_is_right = larger_child(node) == node->right && node->left != node->right;
    uint64_t *other;
    PERI_TRY(peri_memory_acquire(u->context, words, sizeof *other, &other));
    peri_status status = eval(out_is_right ? node->left : node->right, u, other);
    if (status == PERI_OK) combine(node, out_is_right, out, other, words);
    peri_memory_release(u->context, other, words, sizeof *other);
    return status;
}

static peri_status eval(const peri_filter *root, const universe *u, uint64_t *out) {
    size_t depth = 0;
    const peri_filter *leaf = root;
    for (; leaf->left != NULL; leaf = larger_child(leaf)) depth++;
    const peri_filter **spine;
    PERI_TRY(peri_memory_acquire(u->context, depth, sizeof *spine, &spine));
    const peri_filter *node = root;
    for (size_t i = 0; i < depth; i++, node = larger_child(node)) spine[i] = node;
    eval_leaf(leaf, u, out);
    peri_status status = PERI_OK;
    for (size_t i = depth; i-- > 0 && status == PERI_OK;) status = eval_inner(spine[i], u, out);
    peri_memory_release(u->context, spine, depth, sizeof *spine);
    return status;
}

/* ---- binding ------------------------------------------------------------------------------ */

void peri_bound_release(peri_bound *bound) {
    if (bound == NULL || atomic_fetch_sub(&bound->references, 1) != 1) return;
    peri_memory_release(bound->context, bound, sizeof *bound + bound->words * 8, 1);
}

static peri_bound *kept(peri_filter *filter, size_t rows, uint64_t serial) {
    pthread_mutex_lock(&filter->context->lock);
    peri_bound *bound = filter->bound;
    if (bound != NULL && (bound->rows != rows || bound->serial != serial)) bound = NULL;
    if (bound != NULL) atomic_fetch_add(&bound->references, 1);
    pthread_mutex_unlock(&filter->context->lock);
    return bound;
}

static void keep(peri_filter *filter, peri_bound *bound) {
    atomic_fetch_add(&bound->references, 1);
    pthread_mutex_lock(&filter->context->lock);
    peri_bound *old = filter->bound;
    filter->bound = bound;
    pthread_mutex_unlock(&filter->context->lock);
    peri_bound_release(old);
}

peri_status peri_filter_bind(peri_filter *filter, size_t rows, const peri_id_map *map,
                             peri_bound **out) {
    uint64_t serial = map == NULL ? 0 : map->serial;
    *out = kept(filter, rows, serial);
    if (*out != NULL) return PERI_OK;
    size_t words = peri_bitset_words(rows);
    peri_bound *bound;
    PERI_TRY(peri_memory_acquire(filter->context, sizeof *bound + words * 8, 1, &bound));
    atomic_init(&bound->references, 1);
    bound->context = filter->context;
    bound->rows = rows;
    bound->words = words;
    bound->serial = serial;
    universe u = { 0, rows, map, filter->context };
    peri_status status = eval(filter, &u, bound->bits);
    if (status != PERI_OK) {
        peri_bound_release(bound);
        return status;
    }
    bound->passing = peri_bitset_count(bound->bits, rows);
    keep(filter, bound);
    *out = bound;
    return PERI_OK;
}

peri_status peri_filter_count(peri_filter *filter, size_t n, size_t *out) {
    peri_bound *bound;
    *out = 0;
    PERI_TRY(peri_filter_bind(filter, n, NULL, &bound));
    *out = bound->passing;
    peri_bound_release(bound);
    return PERI_OK;
}

peri_status peri_filter_test(peri_filter *filter, int64_t id, bool *out) {
    *out = false;
    if (id < 0) return PERI_OK;
    universe u = { (size_t)id, 1, NULL, filter->context };
    uint64_t word = 0;
    PERI_TRY(eval(filter, &u, &word));
    *out = word & 1;
    return PERI_OK;
}
