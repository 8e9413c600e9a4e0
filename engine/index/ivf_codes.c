/* ivf_codes.c: rows to entries of inverted lists that hold codes. */
#include "index/ivf_codes.h"

#include <string.h>

#include "core/checked.h"

#define CHUNK_BYTES (UINT64_C(32) << 20) /* of turned rows at a time */

/* ---- turning ------------------------------------------------------------------------------ */

peri_status peri_ivf_turn_rows(const peri_index *index, peri_lane *lane, const peri_ivf_turn *turn,
                               const peri_view *rows, const uint32_t *labels,
                               const peri_view *out) {
    peri_op_rotate op = { .kind = PERI_OP_ROTATE,
                          .rows = *rows,
                          .centroids = turn->centroids,
                          .labels = turn->centroids == NULL ? NULL : labels,
                          .rotation = turn->rotation,
                          .out = *out };
    if (rows->rows == 0) return PERI_OK;
    if (index->metric == PERI_COSINE) {
        peri_op_lengths lengths = { PERI_OP_LENGTHS, *rows, NULL };
        PERI_TRY(peri_lane_take(lane, rows->rows, sizeof *lengths.out, &lengths.out));
        PERI_TRY(peri_lane_run(lane, (const peri_op *)&lengths));
        op.lengths = lengths.out;
    }
    return peri_lane_run(lane, (const peri_op *)&op);
}

peri_status peri_ivf_turned(const peri_index *index, const peri_ivf_turn *turn, peri_matrix *rows,
                            peri_matrix *labels, size_t threads, const peri_control *control,
                            peri_matrix **out) {
    peri_view view = peri_matrix_view(rows);
    const uint32_t *list = labels == NULL ? NULL : peri_matrix_view(labels).data;
    peri_lane *lane = NULL;
    peri_status status;
    PERI_TRY(peri_matrix_create(index->context, view.rows, turn->cols, PERI_F32, view.place, out));
    PERI_GO(peri_lane_acquire(index->device, &lane));
    peri_lane_follow(lane, control, threads);
    peri_view to = peri_matrix_view(*out);
    PERI_GO(peri_ivf_turn_rows(index, lane, turn, &view, list, &to));
    PERI_GO(peri_lane_wait(lane, control));
done:
    if (lane != NULL) peri_lane_close(lane);
    if (status == PERI_OK) return PERI_OK;
    peri_matrix_release(*out);
    *out = NULL;
    return status;
}

/* ---- entries ------------------------------------------------------------------------------ */

static peri_view rows_of(peri_view view, size_t first, size_t count) {
    view.data = (char *)view.data + first * view.stride_bytes;
    view.rows = count;
    return view;
}

static peri_status code_chunk(const peri_index *index, const peri_ivf_coder *coder,
                              const peri_entries *entries, const peri_view *rows, size_t first,
                              peri_lane *lane) {
    const uint32_t *labels = peri_matrix_view(entries->labels).data;
    peri_ivf_chunk chunk = { .labels = labels + first };
    chunk.turned = (peri_view){
        NULL, rows->rows, coder->turn.cols, coder->turn.cols * sizeof(float), PERI_F32, rows->place
    };
    for (size_t i = 0; i < PERI_LIST_PARTS_MAX; i++)
        if (entries->parts[i] != NULL)
            chunk.parts[i] = rows_of(peri_matrix_view(entries->parts[i]), first, rows->rows);
    PERI_TRY(peri_lane_take(lane, rows->rows, chunk.turned.stride_bytes, &chunk.turned.data));
    PERI_TRY(peri_ivf_turn_rows(index, lane, &coder->turn, rows, chunk.labels, &chunk.turned));
    PERI_TRY(coder->encode(index, lane, &chunk));
    PERI_TRY(peri_lane_wait(lane, entries->control));
    peri_lane_rewind(lane);
    return PERI_OK;
}

static void entries_close(peri_entries *entries) {
    peri_matrix_release(entries->labels);
    for (size_t i = 0; i < PERI_LIST_PARTS_MAX; i++) peri_matrix_release(entries->parts[i]);
}

static peri_status make_parts(const peri_index *index, const peri_lists_layout *layout,
                              const peri_ivf_coder *coder, size_t count, peri_entries *entries) {
    for (size_t i = 0; layout->parts[i] != NULL; i++)
        if (coder->parts[i].cols > 0)
            PERI_TRY(peri_matrix_create(index->context, count, coder->parts[i].cols,
                                        coder->parts[i].dtype, index->device->place,
                                        &entries->parts[i]));
    return PERI_OK;
}

/* What rows become in the lists of `index`. */
static peri_status entries_open(const peri_index *index, const peri_ivf_codes *codes,
                                peri_matrix *rows, peri_entries *entries) {
    peri_view view = peri_matrix_view(rows);
    peri_ivf_coder coder = { .encode = NULL };
    peri_lane *lane = NULL;
    peri_status status;
    PERI_GO(codes->coder(index, &coder));
    PERI_GO(peri_ivf_label(index, rows, entries->threads, entries->control, &entries->labels));
    PERI_GO(make_parts(index, codes->layout, &coder, view.rows, entries));
    PERI_GO(peri_lane_acquire(index->device, &lane));
    peri_lane_follow(lane, entries->control, entries->threads);
    size_t chunk = peri_max_size(1024, CHUNK_BYTES / (coder.turn.cols * sizeof(float)));
    for (size_t first = 0; first < view.rows; first += chunk) {
        peri_view some = rows_of(view, first, peri_min_size(chunk, view.rows - first));
        PERI_GO(code_chunk(index, &coder, entries, &some, first, lane));
    }
done:
    if (lane != NULL) peri_lane_close(lane);
    if (status != PERI_OK) entries_close(entries);
    return status;
}

/* ---- building and growing ----------------------------------------------------------------- */

peri_status peri_ivf_codes_build(peri_index *index, const peri_ivf_codes *codes, peri_matrix *given,
                                 size_t threads, const peri_control *control) {
    peri_ivf_params params = peri_ivf_params_of(index);
    peri_entries entries = { .threads = threads, .control = control };
    peri_matrix *rows = NULL, *added = NULL;
    peri_status status;
    PERI_GO(peri_matrix_move(given, index->device->place, &rows));
    PERI_GO(peri_ivf_train(index, rows, threads, control));
    PERI_GO(codes->train(index, rows, threads, control));
    size_t count = params.add_data_on_build != 0 ? peri_matrix_view(rows).rows : 0;
    PERI_GO(peri_matrix_slice(rows, 0, count, &added));
    PERI_GO(peri_index_set_shape(index, count, index->dim, index->dtype));
    PERI_GO(entries_open(index, codes, added, &entries));
    status = peri_lists_create(index, codes->layout, (size_t)params.n_lists, &entries);
    entries_close(&entries);
done:
    peri_matrix_release(added);
    peri_matrix_release(rows);
    return status;
}

peri_status peri_ivf_codes_extend(const peri_index *old, peri_index *next,
                                  const peri_ivf_codes *codes, const peri_growth *growth) {
    peri_entries entries = { .first = growth->first,
                             .threads = growth->threads,
                             .control = growth->control };
    for (const char *const *name = codes->shared; *name != NULL; name++)
        PERI_TRY(peri_index_share(next, old, *name));
    PERI_TRY(entries_open(old, codes, growth->rows, &entries));
    peri_status status = peri_lists_extend(old, next, codes->layout, &entries);
    entries_close(&entries);
    return status;
}
