/* knn_chunks.c: the best so far and the best of a chunk lie behind each other on the device, as
 * operation MERGE takes them. Distances are canonical and rows come in order, so the answer is that
 * of one scan to the bit. */
#include "graph/knn_chunks.h"

static size_t items(const peri_knn_chunks *knn) { return knn->queries.rows * knn->k; }

/* Enqueues the merge of the best so far with that of rows from `first` on. */
static peri_status merge_chunk(const peri_knn_chunks *knn, peri_lane *lane, size_t first) {
    int64_t *bases;
    peri_op_merge op = { .kind = PERI_OP_MERGE,
                         .queries = knn->queries.rows,
                         .parts = 2,
                         .part_k = knn->k,
                         .ids = knn->ids[knn->turn],
                         .distances = knn->distances[knn->turn],
                         .k = knn->k,
                         .best_ids = knn->ids[1 - knn->turn],
                         .best_distances = knn->distances[1 - knn->turn] };
    PERI_TRY(peri_lane_take_host(lane, 2, sizeof *bases, &bases));
    bases[0] = 0;
    bases[1] = (int64_t)first;
    PERI_TRY(peri_lane_upload(lane, bases, 2, sizeof *bases, &op.bases));
    return peri_lane_run(lane, (const peri_op *)&op);
}

static peri_status find_lengths(peri_lane *lane, peri_op_knn *op) {
    peri_op_lengths lengths = { PERI_OP_LENGTHS, op->rows, NULL };
    PERI_TRY(peri_lane_take(lane, op->rows.rows, sizeof(float), &lengths.out));
    op->lengths = lengths.out;
    return peri_lane_run(lane, (const peri_op *)&lengths);
}

/* Lists change places once everything is enqueued: a chunk may be asked for again. */
static peri_status run_chunk(void *ud, peri_lane *lane, const peri_chunk *chunk) {
    peri_knn_chunks *knn = ud;
    size_t skip = chunk->first == 0 ? 0 : items(knn);
    peri_op_knn op = { .kind = PERI_OP_KNN,
                       .metric = knn->metric,
                       .queries = knn->queries,
                       .rows = chunk->rows,
                       .k = knn->k,
                       .ids = knn->ids[knn->turn] + skip,
                       .distances = knn->distances[knn->turn] + skip };
    if (knn->lengths != NULL)
        op.lengths = knn->lengths + chunk->first;
    else if (knn->metric == PERI_COSINE)
        PERI_TRY(find_lengths(lane, &op));
    if (knn->filter != NULL)
        PERI_TRY(knn->filter(knn->ud, lane, chunk->first, chunk->rows.rows, &op.filter));
    PERI_TRY(peri_lane_run(lane, (const peri_op *)&op));
    if (chunk->first == 0) return PERI_OK;
    PERI_TRY(merge_chunk(knn, lane, chunk->first));
    knn->turn = 1 - knn->turn;
    return PERI_OK;
}

peri_status peri_knn_chunks_open(peri_knn_chunks *knn, peri_lane *lane) {
    for (size_t i = 0; i < 2; i++) {
        PERI_TRY(peri_lane_take(lane, 2 * items(knn), sizeof(int64_t), &knn->ids[i]));
        PERI_TRY(peri_lane_take(lane, 2 * items(knn), sizeof(float), &knn->distances[i]));
    }
    return PERI_OK;
}

peri_status peri_knn_chunks_pass(peri_knn_chunks *knn, peri_chunks *chunks) {
    knn->turn = 0;
    chunks->ud = knn;
    chunks->run = run_chunk;
    PERI_TRY(peri_chunks_pass(chunks));
    knn->best_ids = knn->ids[knn->turn];
    knn->best_distances = knn->distances[knn->turn];
    return PERI_OK;
}

peri_status peri_knn_chunks_check(const peri_device *device) {
    const peri_op_merge merge = {
        .kind = PERI_OP_MERGE, .queries = 1, .parts = 2, .part_k = 1, .k = 1
    };
    char reason[256] = "", place[32];
    if (device->driver->supports(device, (const peri_op *)&merge, reason, sizeof reason))
        return PERI_OK;
    return peri_fail(PERI_E_UNSUPPORTED, "%s: the rows do not fit and can't be streamed: %s",
                     peri_place_format(device->place, place, sizeof place), reason);
}
