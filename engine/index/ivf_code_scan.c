/* ivf_code_scan.c: the space of the codes, chunks to codes on the host, queries to that space. */
#include "index/ivf_code_scan.h"

#include <string.h>

#include "core/checked.h"
#include "core/codes.h"
#include "core/memory.h"
#include "core/threads.h"
#include "io/host_rows.h"
#include "quant/sample.h"

#define TASK_ROWS 64u

const peri_lists_layout peri_code_scan_layout = {
    1, { "list_codes", "list_adds", "list_scales", NULL }, 0
};
enum { PART_CODES, PART_ADDS, PART_SCALES };

static void *data_of(const peri_index *index, const char *name) {
    peri_matrix *section = peri_index_section(index, name);
    return section == NULL ? NULL : peri_matrix_view(section).data;
}

/* Whether the centroids of the codes are others than those of the lists. */
static bool has_code_centroids(const peri_index *index, const peri_code_shape *shape) {
    return !shape->whole && (peri_index_squared(index) || shape->rotated);
}

/* ---- the space of the codes --------------------------------------------------------------- */

static peri_status add_origin(peri_index *index) {
    peri_matrix *centroids = NULL, *host = NULL, *here = NULL;
    peri_status status;
    PERI_GO(peri_matrix_move(peri_index_section(index, "centroids"), PERI_CPU, &centroids));
    PERI_GO(peri_host_matrix_create(index->context, 1, index->dim, PERI_F32, &host));
    peri_view view = peri_matrix_view(centroids);
    float *origin = peri_matrix_view(host).data;
    for (size_t j = 0; j < index->dim; j++) {
        double sum = 0;
        for (size_t l = 0; l < view.rows; l++) sum += (double)peri_float_row(&view, l)[j];
        origin[j] = (float)(sum / (double)view.rows);
    }
    PERI_GO(peri_matrix_move(host, index->device->place, &here));
    PERI_GO(peri_index_add(index, "origin", here));
done:
    peri_matrix_release(host);
    peri_matrix_release(centroids);
    return status;
}

static peri_op_rotate turn_op(const peri_index *index, const peri_view *rows,
                              const peri_view *out) {
    return (peri_op_rotate){ .kind = PERI_OP_ROTATE,
                             .rows = *rows,
                             .centroids = data_of(index, "origin"),
                             .rotation = data_of(index, "rotation"),
                             .out = *out };
}

peri_status peri_code_scan_train(peri_index *index, const peri_code_shape *shape, size_t threads,
                                 const peri_control *control) {
    peri_view centroids = peri_matrix_view(peri_index_section(index, "centroids"));
    peri_matrix *turned = NULL;
    peri_lane *lane = NULL;
    peri_status status;
    if (peri_index_squared(index)) PERI_TRY(add_origin(index));
    if (!has_code_centroids(index, shape)) return PERI_OK;
    PERI_TRY(peri_matrix_create(index->context, centroids.rows, shape->cols, PERI_F32,
                                centroids.place, &turned));
    peri_view out = peri_matrix_view(turned);
    peri_op_rotate op = turn_op(index, &centroids, &out);
    PERI_GO(peri_lane_acquire(index->device, &lane));
    peri_lane_follow(lane, control, threads);
    PERI_GO(peri_lane_run(lane, (const peri_op *)&op));
    PERI_GO(peri_lane_wait(lane, control));
done:
    if (lane != NULL) peri_lane_close(lane);
    if (status == PERI_OK) return peri_index_add(index, "code_centroids", turned);
    peri_matrix_release(turned);
    return status;
}

static peri_ivf_turn turn_of(const peri_index *index, const peri_code_shape *shape) {
    return (peri_ivf_turn){ .centroids = shape->whole ? NULL : data_of(index, "centroids"),
                            .rotation = data_of(index, "rotation"),
                            .cols = shape->cols };
}

static void subtract(float *row, const float *origin, size_t cols) {
    for (size_t j = 0; origin != NULL && j < cols; j++) row[j] -= origin[j];
}

peri_status peri_code_scan_sample(const peri_index *index, const peri_code_shape *shape,
                                  peri_matrix *rows, size_t most, size_t threads,
                                  const peri_control *control, peri_matrix **out) {
    uint64_t seed = (uint64_t)peri_ivf_params_of(index).seed;
    peri_ivf_turn turn = turn_of(index, shape);
    peri_matrix *some = NULL, *labels = NULL, *turned = NULL, *origin = NULL;
    peri_status status;
    *out = NULL;
    PERI_GO(peri_sample_rows(rows, most, seed, &some));
    PERI_GO(peri_ivf_label(index, some, threads, control, &labels));
    PERI_GO(peri_ivf_turned(index, &turn, some, labels, threads, control, &turned));
    PERI_GO(peri_matrix_move(turned, PERI_CPU, out)); /* nobody else has it yet */
    if (!shape->whole || !peri_index_squared(index)) goto done;
    PERI_GO(peri_matrix_move(peri_index_section(index, "origin"), PERI_CPU, &origin));
    peri_view view = peri_matrix_view(*out);
    for (size_t i = 0; i < view.rows; i++)
        subtract(peri_view_row(&view, i), peri_matrix_view(origin).data, view.cols);
done:
    peri_matrix_release(origin);
    peri_matrix_release(turned);
    peri_matrix_release(labels);
    peri_matrix_release(some);
    if (status == PERI_OK || *out == NULL) return status;
    peri_matrix_release(*out);
    *out = NULL;
    return status;
}

/* ---- chunks ------------------------------------------------------------------------------- */

typedef struct chunk_job {
    const peri_row_coder *coder;
    size_t rows, code_bytes;
    float *turned; /* [rows, cols] */
    const uint32_t *labels;
    peri_matrix *centroids_here, *origin_here;
    const float *centroids; /* [n_lists, cols] or NULL */
    const float *origin;    /* [cols], with codes of whole rows; or NULL */
    uint8_t *codes;
    float *adds, *scales; /* or NULL */
    char *scratch;
    size_t scratch_bytes;
} chunk_job;

void peri_code_scan_coder(const peri_index *index, const peri_code_shape *shape,
                          peri_ivf_coder *coder) {
    coder->turn = turn_of(index, shape);
    coder->parts[PART_CODES].cols = peri_codes_bytes(shape->cols, shape->bits);
    coder->parts[PART_CODES].dtype = PERI_U8;
    coder->parts[PART_ADDS].cols = shape->adds;
    coder->parts[PART_ADDS].dtype = PERI_F32;
    coder->parts[PART_SCALES].cols = shape->scales;
    coder->parts[PART_SCALES].dtype = PERI_F32;
}

static peri_status code_task(void *ud, size_t task, size_t worker) {
    const chunk_job *job = ud;
    const peri_code_shape *shape = &job->coder->shape;
    size_t first = task * TASK_ROWS, stop = peri_min_size(first + TASK_ROWS, job->rows);
    for (size_t i = first; i < stop; i++) {
        float add = 0, scale = 1, *left = job->turned + i * shape->cols;
        uint8_t *code = job->codes + i * job->code_bytes;
        const float *centroid = job->centroids == NULL
                                    ? NULL
                                    : job->centroids + (size_t)job->labels[i] * shape->cols;
        subtract(left, job->origin, shape->cols);
        memset(code, 0, job->code_bytes);
        job->coder->code(job->coder->quantizer, shape, left, centroid, code, &add, &scale,
                         job->scratch + worker * job->scratch_bytes);
        if (job->adds != NULL) job->adds[i] = add;
        if (job->scales != NULL) job->scales[i] = scale;
    }
    return PERI_OK;
}

static peri_status host_section(const peri_index *index, const char *name, peri_matrix **here,
                                const float **data) {
    PERI_TRY(peri_matrix_move(peri_index_section(index, name), PERI_CPU, here));
    *data = peri_matrix_view(*here).data;
    return PERI_OK;
}

static peri_status open_space(const peri_index *index, chunk_job *job) {
    const peri_code_shape *shape = &job->coder->shape;
    bool own = has_code_centroids(index, shape);
    if (!shape->whole)
        return host_section(index, own ? "code_centroids" : "centroids", &job->centroids_here,
                            &job->centroids);
    if (!peri_index_squared(index)) return PERI_OK;
    return host_section(index, "origin", &job->origin_here, &job->origin);
}

/* What the host reads and writes: the chunk itself where memory is shared. */
static peri_status open_chunk(peri_lane *lane, const peri_ivf_chunk *chunk, chunk_job *job) {
    const peri_view *turned = &chunk->turned;
    void *labels = (void *)(uintptr_t)chunk->labels;
    job->turned = turned->data;
    if (peri_lane_device(lane)->shares_host == 0) {
        PERI_TRY(peri_lane_take_host(lane, turned->rows, turned->stride_bytes, &job->turned));
        PERI_TRY(peri_lane_take_host(lane, turned->rows, sizeof *job->labels, &labels));
        PERI_TRY(
            peri_lane_fetch(lane, job->turned, turned->data, turned->rows, turned->stride_bytes));
        PERI_TRY(peri_lane_fetch(lane, labels, chunk->labels, turned->rows, sizeof *job->labels));
    }
    job->labels = labels;
    return peri_lane_wait(lane, NULL);
}

static peri_status take_parts(peri_lane *lane, const peri_ivf_chunk *chunk, void **data) {
    bool shared = peri_lane_device(lane)->shares_host != 0;
    for (size_t i = PART_CODES; i <= PART_SCALES; i++) {
        const peri_view *part = &chunk->parts[i];
        data[i] = part->data;
        if (part->data == NULL || shared) continue;
        PERI_TRY(peri_lane_take_host(lane, part->rows, part->stride_bytes, &data[i]));
    }
    return PERI_OK;
}

/* From the host's copies to the chunk. */
static peri_status send_parts(peri_lane *lane, const peri_ivf_chunk *chunk, void *const *data) {
    if (peri_lane_device(lane)->shares_host != 0) return PERI_OK;
    for (size_t i = PART_CODES; i <= PART_SCALES; i++) {
        peri_op_convert op = { PERI_OP_CONVERT, chunk->parts[i], chunk->parts[i] };
        if (data[i] == NULL) continue;
        PERI_TRY(peri_lane_upload(lane, data[i], op.in.rows, op.in.stride_bytes, &op.in.data));
        PERI_TRY(peri_lane_run(lane, (const peri_op *)&op));
    }
    return peri_lane_wait(lane, NULL);
}

static peri_status code_rows(const peri_index *index, peri_lane *lane, chunk_job *job) {
    const peri_stream *stream = peri_lane_stream(lane);
    size_t workers = peri_threads(index->context, stream->threads);
    peri_loop loop = { "encode", stream->threads, stream->control };
    job->scratch_bytes = peri_round_up(job->coder->scratch_bytes, PERI_ALIGN);
    PERI_TRY(peri_lane_take_host(lane, workers, job->scratch_bytes, &job->scratch));
    return peri_parallel(index->context, &loop, peri_ceil_div(job->rows, TASK_ROWS), code_task,
                         job);
}

peri_status peri_code_scan_encode(const peri_index *index, const peri_row_coder *coder,
                                  peri_lane *lane, const peri_ivf_chunk *chunk) {
    const peri_code_shape *shape = &coder->shape;
    chunk_job job = { .coder = coder,
                      .rows = chunk->turned.rows,
                      .code_bytes = peri_codes_bytes(shape->cols, shape->bits) };
    void *data[PERI_LIST_PARTS_MAX] = { NULL };
    peri_status status;
    PERI_GO(open_space(index, &job));
    PERI_GO(open_chunk(lane, chunk, &job));
    PERI_GO(take_parts(lane, chunk, data));
    job.codes = data[PART_CODES];
    job.adds = data[PART_ADDS];
    job.scales = data[PART_SCALES];
    PERI_GO(code_rows(index, lane, &job));
    PERI_GO(send_parts(lane, chunk, data));
done:
    peri_matrix_release(job.centroids_here);
    peri_matrix_release(job.origin_here);
    return status;
}

/* ---- leaving ------------------------------------------------------------------------------ */

peri_status peri_code_scan_remove(const peri_index *old, peri_index *next, const peri_loss *loss) {
    return peri_lists_remove(old, next, &peri_code_scan_layout, loss);
}

peri_status peri_code_scan_pack(const peri_index *old, peri_index *next) {
    return peri_lists_pack(old, next, &peri_code_scan_layout);
}

/* ---- opening ------------------------------------------------------------------------------ */

static peri_status check_section(const peri_index *index, const char *name, size_t rows,
                                 size_t cols, peri_dtype dtype) {
    peri_matrix *section = peri_index_section(index, name);
    if (section == NULL) return peri_fail(PERI_E_CORRUPT, "section '%s' is missing", name);
    peri_view view = peri_matrix_view(section);
    if (view.rows != rows || view.cols != cols || view.dtype != dtype || !peri_view_packed(&view))
        return peri_fail(PERI_E_CORRUPT, "section '%s' is %zu x %zu %s, expected %zu x %zu %s",
                         name, view.rows, view.cols, peri_dtype_name(view.dtype), rows, cols,
                         peri_dtype_name(dtype));
    if (dtype != PERI_F32) return PERI_OK;
    peri_status status = peri_matrix_check(section, false, name, 0, NULL);
    return status == PERI_E_INVALID ? PERI_E_CORRUPT : status;
}

/* A section of f32 that is there exactly when it should be. */
static peri_status check_optional(const peri_index *index, const char *name, bool wanted,
                                  size_t rows, size_t cols) {
    if (wanted) return check_section(index, name, rows, cols, PERI_F32);
    if (peri_index_section(index, name) == NULL) return PERI_OK;
    return peri_fail(PERI_E_CORRUPT, "section '%s' is not for these parameters", name);
}

peri_status peri_code_scan_check(peri_index *index, const peri_code_shape *shape) {
    size_t n_lists = (size_t)peri_ivf_params_of(index).n_lists, cols = shape->cols;
    PERI_TRY(peri_ivf_check(index));
    PERI_TRY(peri_lists_check(index, &peri_code_scan_layout, n_lists));
    size_t capacity = peri_lists_of(index).capacity;
    PERI_TRY(check_optional(index, "origin", peri_index_squared(index), 1, index->dim));
    PERI_TRY(check_optional(index, "rotation", shape->rotated, cols, index->dim));
    PERI_TRY(
        check_optional(index, "code_centroids", has_code_centroids(index, shape), n_lists, cols));
    PERI_TRY(check_optional(index, "list_adds", shape->adds, capacity, 1));
    PERI_TRY(check_optional(index, "list_scales", shape->scales, capacity, 1));
    return check_section(index, "list_codes", capacity, peri_codes_bytes(cols, shape->bits),
                         PERI_U8);
}

/* ---- searching ---------------------------------------------------------------------------- */

peri_op_code_scan peri_code_scan_op(const peri_index *index, const peri_code_shape *shape) {
    const char *centroids = has_code_centroids(index, shape) ? "code_centroids" : "centroids";
    peri_op_code_scan op = { .kind = PERI_OP_CODE_SCAN,
                             .metric = index->metric,
                             .lists = peri_lists_of(index),
                             .centroids = shape->whole ? NULL : data_of(index, centroids),
                             .codes = data_of(index, "list_codes"),
                             .bits = shape->bits,
                             .query_bytes = 1,
                             .adds = data_of(index, "list_adds"),
                             .scales = data_of(index, "list_scales") };
    op.queries = (peri_view){ .cols = shape->cols,
                              .stride_bytes = shape->cols * sizeof(float),
                              .dtype = PERI_F32,
                              .place = index->device->place };
    return op;
}

/* Queries in the space of the codes. */
static peri_status turn(const peri_index *index, peri_lane *lane, const peri_view *from,
                        peri_view *to) {
    to->rows = from->rows;
    peri_op_rotate op = turn_op(index, from, to);
    if (op.centroids == NULL && op.rotation == NULL) {
        *to = *from;
        return PERI_OK;
    }
    PERI_TRY(peri_lane_take(lane, to->rows, to->stride_bytes, &op.out.data));
    *to = op.out;
    return peri_lane_run(lane, (const peri_op *)&op);
}

peri_status peri_code_scan_run(const peri_index *index, peri_lane *lane, const peri_scan *scan,
                               peri_op_code_scan *op) {
    peri_ivf_probes probes;
    PERI_TRY(peri_ivf_probe(index, lane, scan, &probes));
    PERI_TRY(turn(index, lane, &probes.queries, &op->queries));
    op->probes = probes.lists;
    op->n_probes = probes.n_probes;
    op->filter = scan->filter;
    op->k = scan->k;
    op->ids = scan->ids;
    op->distances = scan->distances;
    op->visited = scan->visited;
    return peri_lane_run(lane, (const peri_op *)op);
}

peri_status peri_code_scan_place(const peri_index *index, peri_op_code_scan *op) {
    peri_view rows = op->queries;
    rows.cols = index->dim;
    rows.stride_bytes = index->dim * sizeof(float);
    peri_op_rotate rotate = turn_op(index, &rows, &op->queries);
    if (rotate.centroids != NULL || rotate.rotation != NULL)
        PERI_TRY(peri_ivf_check_op(index, &rotate));
    op->k = 1;
    return peri_ivf_check_op(index, op);
}
