/* flat.c: exact search: every search scans the rows that pass. Cost O(q * n * dim), blocked. Rows
 * that a device has no room for stay on the host and pass through it (streamed.h). */
#include <string.h>

#include "index/streamed.h"

#define FLAT_BUILD_PARAMS(X, S)                                                                    \
    PERI_METRIC_PARAM(X, S)                                                                        \
    X(S, CHOICE, residence, 0, 0, 2, "auto|device|host", "device, when the rows fit; else host",   \
      "where the rows lie; on the host every search sends them through the device in chunks")

PERI_PARAMS_STRUCT(flat_params, FLAT_BUILD_PARAMS)

static const peri_param flat_build_rows[] = { PERI_PARAMS_ROWS(flat_params, FLAT_BUILD_PARAMS) };
static const peri_param_table flat_build_table = { "flat.build", flat_build_rows, 2 };
static const peri_param_table flat_search_table = { "flat.search", NULL, 0 };

_Static_assert(sizeof(flat_params) <= PERI_PARAMS_BYTES, "the parameters fit an index");

static const char *const flat_sections[] = { NULL };

static peri_status flat_build(peri_index *index, peri_matrix *rows, size_t threads,
                              const peri_control *control) {
    (void)index;
    (void)rows;
    (void)threads;
    (void)control;
    return PERI_OK;
}

static peri_status flat_adopt(peri_index *index) {
    (void)index;
    return PERI_OK;
}

/* The rows are all there is. */
static peri_status flat_extend(const peri_index *old, peri_index *next, const peri_growth *growth) {
    (void)old;
    (void)next;
    (void)growth;
    return PERI_OK;
}

static peri_status flat_streams(const peri_index *index, const peri_matrix *rows, bool *out) {
    flat_params params;
    memcpy(&params, index->params, sizeof params);
    return peri_streamed_choose(index, rows, params.residence, out);
}

/* All rows are one list, whose slots are their positions. */
static peri_status flat_range(const peri_index *index, peri_lane *lane,
                              const peri_range_scan *scan) {
    peri_op_range_scan op = { .kind = PERI_OP_RANGE_SCAN,
                              .metric = index->metric,
                              .queries = scan->queries,
                              .rows = peri_matrix_view(peri_index_section(index, "rows")),
                              .lengths = peri_index_lengths(index),
                              .filter = scan->filter,
                              .radius = scan->radius,
                              .counts = scan->counts,
                              .offsets = scan->offsets,
                              .room = scan->room,
                              .ids = scan->ids,
                              .distances = scan->distances };
    int64_t *offsets;
    uint32_t *sizes;
    PERI_TRY(peri_lane_take_host(lane, 2, sizeof *offsets, &offsets));
    PERI_TRY(peri_lane_take_host(lane, 1, sizeof *sizes, &sizes));
    offsets[0] = 0;
    offsets[1] = (int64_t)index->rows;
    sizes[0] = (uint32_t)index->rows;
    op.lists.n_lists = 1;
    op.lists.capacity = index->rows;
    PERI_TRY(peri_lane_upload(lane, offsets, 2, sizeof *offsets, &op.lists.offsets));
    PERI_TRY(peri_lane_upload(lane, sizes, 1, sizeof *sizes, &op.lists.sizes));
    return peri_lane_run(lane, (const peri_op *)&op);
}

const peri_kind peri_flat_kind = {
    .ops = PERI_INDEX_OPS("flat", &flat_search_table),
    .build_table = &flat_build_table,
    .saved_table = &flat_build_table,
    .sections = flat_sections,
    .memory = "n * dim * bytes",
    .build = flat_build,
    .adopt = flat_adopt,
    .range = flat_range,
    .streams = flat_streams,
    .extend = flat_extend,
};
