/* kmeans_chunks.c: centroids stay on the device, rows pass; labels and distances of a chunk, 8
 * bytes a row, come home while the next one is compared. */
#include "quant/kmeans_chunks.h"

#include "core/chunks.h"

typedef struct pass {
    const peri_assign_chunks *asked;
    peri_chunks chunks;
    peri_op_assign op; /* template */
} pass;

/* What is made of a chunk: its labels, and behind them its distances. */
static peri_status assign_chunk(void *ud, peri_lane *lane, const peri_chunk *chunk) {
    const pass *p = ud;
    peri_op_assign op = p->op;
    op.rows = chunk->rows;
    op.labels = chunk->out;
    op.distances = (float *)(op.labels + chunk->rows.rows);
    return peri_lane_run(lane, (const peri_op *)&op);
}

static peri_status take_chunk(void *ud, peri_lane *lane, const peri_chunk *chunk) {
    pass *p = ud;
    size_t count = chunk->rows.rows;
    const uint32_t *labels = chunk->out;
    const size_t each = sizeof *labels; /* both */
    PERI_TRY(peri_chunks_fetch(&p->chunks, lane, p->asked->labels + chunk->first, each, labels,
                               each, count, each));
    return peri_chunks_fetch(&p->chunks, lane, p->asked->distances + chunk->first, each,
                             labels + count, each, count, each);
}

static peri_status find_lengths(pass *p, peri_matrix **out) {
    peri_op_lengths op = { PERI_OP_LENGTHS, p->op.centroids, NULL };
    if (p->op.metric != PERI_COSINE) return PERI_OK;
    PERI_TRY(peri_matrix_create(p->chunks.device->context, op.rows.rows, 1, PERI_F32,
                                p->chunks.device->place, out));
    p->op.lengths = op.out = peri_matrix_view(*out).data;
    return peri_progress_run(p->chunks.device, (const peri_op *)&op, p->asked->control,
                             p->asked->threads);
}

peri_status peri_assign_chunks_pass(const peri_assign_chunks *asked) {
    peri_progress progress;
    pass p = { .asked = asked,
               .chunks = { .device = asked->device,
                           .rows = asked->rows,
                           .out_bytes = sizeof(uint32_t) + sizeof(float),
                           .threads = asked->threads,
                           .progress = &progress,
                           .run = assign_chunk,
                           .take = take_chunk },
               .op = { .kind = PERI_OP_ASSIGN, .metric = asked->metric } };
    peri_matrix *centroids = NULL, *lengths = NULL;
    peri_status status;
    p.chunks.ud = &p;
    peri_progress_init(&progress, asked->control, "k-means", peri_matrix_view(asked->rows).rows);
    PERI_GO(peri_matrix_move(asked->centroids, asked->device->place, &centroids));
    p.op.centroids = peri_matrix_view(centroids);
    PERI_GO(find_lengths(&p, &lengths));
    PERI_GO(peri_chunks_pass(&p.chunks));
done:
    peri_matrix_release(lengths);
    peri_matrix_release(centroids);
    return status;
}
