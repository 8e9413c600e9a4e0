/* ivf_codes.c: rows to codes on the host, in batches; queries to the space of the codes. */
#include "index/ivf_codes.h"

#include <string.h>

#include "core/checked.h"
#include "core/codes.h"
#include "core/distance.h"
#include "core/memory.h"
#include "core/threads.h"
#include "io/host_rows.h"
#include "quant/sample.h"

#define BATCH_BYTES ((size_t)32 << 20) /* of f32 rows; large enough for all threads */
#define CHUNK_ROWS 64u

const peri_lists_layout peri_ivf_codes_layout = {
    1, { "list_codes", "list_adds", "list_scales", NULL }
};

static const char *const shared[] = { "centroids", "origin", "code_centroids", "rotation" };

/* ---- the space of the codes --------------------------------------------------------------- */

/* What preparing a row takes, on the host. */
typedef struct space {
    const peri_ivf_coder *coder;
    peri_matrix *origin_here, *centroids_here; /* retained or NULL */
    const float *origin;                       /* [dim] or NULL */
    const float *centroids;                    /* [n_lists, cols] or NULL */
    uint32_t dim;
    bool unit;
} space;

static peri_status host_section(const peri_index *index, const char *name, peri_matrix **here,
                                const float **data) {
    peri_matrix *section = peri_index_section(index, name);
    *here = NULL;
    *data = NULL;
    if (section == NULL) return PERI_OK;
    PERI_TRY(peri_matrix_move(section, PERI_CPU, here));
    *data = peri_matrix_view(*here).data;
    return PERI_OK;
}

static void space_close(space *s) {
    peri_matrix_release(s->origin_here);
    peri_matrix_release(s->centroids_here);
}

static peri_status space_open(const peri_index *index, const peri_ivf_coder *coder, space *s) {
    *s = (space){ .coder = coder, .dim = index->dim, .unit = index->metric == PERI_COSINE };
    peri_status status = host_section(index, "origin", &s->origin_here, &s->origin);
    if (status == PERI_OK)
        status = host_section(index, "code_centroids", &s->centroids_here, &s->centroids);
    if (status != PERI_OK) space_close(s);
    return status;
}

/* out [cols] from row [dim]; buffer [dim]. */
static void prepare(const space *s, const float *row, float *buffer, float *out) {
    float *to = s->coder->rotate == NULL ? out : buffer;
    float length = s->unit ? peri_canonical_length(PERI_F32, row, s->dim) : 0;
    for (size_t j = 0; j < s->dim; j++) {
        float x = length > 0 ? row[j] / length : row[j];
        to[j] = s->origin == NULL ? x : x - s->origin[j];
    }
    if (s->coder->rotate != NULL) s->coder->rotate(s->coder, buffer, out);
}

static peri_status find_origin(peri_index *index, const peri_view *centroids) {
    peri_matrix *host = NULL, *here = NULL;
    peri_status status;
    PERI_GO(peri_host_matrix_create(index->context, 1, index->dim, PERI_F32, &host));
    float *origin = peri_matrix_view(host).data;
    for (size_t j = 0; j < index->dim; j++) {
        double sum = 0;
        for (size_t l = 0; l < centroids->rows; l++) sum += (double)peri_float_row(centroids, l)[j];
        origin[j] = (float)(sum / (double)centroids->rows);
    }
    PERI_GO(peri_matrix_move(host, index->device->place, &here));
    PERI_GO(peri_index_add(index, "origin", here));
done:
    peri_matrix_release(host);
    return status;
}

static peri_status prepare_centroids(peri_index *index, const peri_ivf_coder *coder,
                                     const peri_view *centroids) {
    peri_matrix *host = NULL, *here = NULL;
    float *buffer = NULL;
    space s;
    peri_status status;
    PERI_TRY(space_open(index, coder, &s));
    s.unit = false; /* they are */
    PERI_GO(peri_memory_acquire(index->context, index->dim, sizeof *buffer, &buffer));
    PERI_GO(peri_host_matrix_create(index->context, centroids->rows, coder->cols, PERI_F32, &host));
    peri_view out = peri_matrix_view(host);
    for (size_t l = 0; l < centroids->rows; l++)
        prepare(&s, peri_float_row(centroids, l), buffer, peri_view_row(&out, l));
    PERI_GO(peri_matrix_move(host, index->device->place, &here));
    PERI_GO(peri_index_add(index, "code_centroids", here));
done:
    peri_memory_release(index->context, buffer, index->dim, sizeof *buffer);
    peri_matrix_release(host);
    space_close(&s);
    return status;
}

peri_status peri_ivf_codes_train(peri_index *index, const peri_ivf_coder *coder) {
    peri_matrix *here;
    PERI_TRY(peri_matrix_move(peri_index_section(index, "centroids"), PERI_CPU, &here));
    peri_view centroids = peri_matrix_view(here);
    peri_status status = PERI_OK;
    if (peri_ivf_squared(index)) status = find_origin(index, &centroids);
    if (status == PERI_OK && !coder->whole) status = prepare_centroids(index, coder, &centroids);
    peri_matrix_release(here);
    return status;
}

/* ---- rows --------------------------------------------------------------------------------- */

/* A batch of rows on their way: to codes, or (without) to what is left of them. */
typedef struct row_job {
    const space *space;
    peri_view rows; /* f32, host */
    const uint32_t *labels;
    uint8_t *codes;
    size_t code_bytes;
    float *adds, *scales; /* or NULL */
    float *left;          /* [m, cols] or NULL */
    char *scratch;
    size_t scratch_bytes; /* a worker */
} row_job;

static void leave(const row_job *job, size_t r, const float *row, const float *centroid) {
    size_t cols = job->space->coder->cols;
    float *left = job->left + r * cols;
    for (size_t j = 0; j < cols; j++) left[j] = centroid == NULL ? row[j] : row[j] - centroid[j];
}

static peri_status row_task(void *ud, size_t task, size_t worker) {
    const row_job *job = ud;
    const space *s = job->space;
    const peri_ivf_coder *coder = s->coder;
    size_t first = task * CHUNK_ROWS, stop = peri_min_size(first + CHUNK_ROWS, job->rows.rows);
    float *row = (float *)(void *)(job->scratch + worker * job->scratch_bytes);
    float *buffer = row + coder->cols;
    for (size_t r = first; r < stop; r++) {
        const float *centroid = s->centroids == NULL
                                    ? NULL
                                    : s->centroids + (size_t)job->labels[r] * coder->cols;
        float add = 0, scale = 1;
        prepare(s, peri_float_row(&job->rows, r), buffer, row);
        if (job->left != NULL) {
            leave(job, r, row, centroid);
            continue;
        }
        coder->encode(coder, row, centroid, job->codes + r * job->code_bytes, &add, &scale, buffer);
        if (job->adds != NULL) job->adds[r] = add;
        if (job->scales != NULL) job->scales[r] = scale;
    }
    return PERI_OK;
}

static peri_status run_batch(row_job *job, peri_matrix *rows, size_t threads,
                             const peri_control *control) {
    const peri_ivf_coder *coder = job->space->coder;
    peri_context *context = peri_matrix_context(rows);
    peri_matrix *host;
    PERI_TRY(peri_host_floats(rows, &host));
    job->rows = peri_matrix_view(host);
    size_t workers = peri_threads(context, threads);
    size_t buffer = peri_max_size(job->space->dim * sizeof(float), coder->scratch_bytes);
    job->scratch_bytes = peri_round_up(coder->cols * sizeof(float) + buffer, PERI_ALIGN);
    peri_loop loop = { "encode", threads, control };
    peri_status status = peri_memory_acquire(context, workers, job->scratch_bytes, &job->scratch);
    if (status == PERI_OK)
        status = peri_parallel(context, &loop, peri_ceil_div(job->rows.rows, CHUNK_ROWS), row_task,
                               job);
    peri_memory_release(context, job->scratch, workers, job->scratch_bytes);
    peri_matrix_release(host);
    return status;
}

/* All rows; the job's outputs are those of row 0. */
static peri_status run_rows(row_job job, peri_matrix *rows, size_t threads,
                            const peri_control *control) {
    peri_view view = peri_matrix_view(rows);
    size_t most = peri_max_size(CHUNK_ROWS, BATCH_BYTES / sizeof(float) / view.cols);
    for (size_t first = 0, count; first < view.rows; first += count) {
        peri_matrix *part;
        count = peri_min_size(most, view.rows - first);
        PERI_TRY(peri_matrix_slice(rows, first, first + count, &part));
        peri_status status = run_batch(&job, part, threads, control);
        peri_matrix_release(part);
        PERI_TRY(status);
        job.labels += count;
        if (job.codes != NULL) job.codes += count * job.code_bytes;
        if (job.adds != NULL) job.adds += count;
        if (job.scales != NULL) job.scales += count;
        if (job.left != NULL) job.left += count * job.space->coder->cols;
    }
    return PERI_OK;
}

peri_status peri_ivf_codes_sample(const peri_index *index, const peri_ivf_coder *coder,
                                  peri_matrix *rows, size_t most, size_t threads,
                                  const peri_control *control, peri_matrix **out) {
    peri_matrix *some = NULL, *labels = NULL, *here = NULL;
    uint64_t seed = (uint64_t)peri_ivf_params_of(index).seed;
    space s = { 0 };
    peri_status status;
    *out = NULL;
    PERI_GO(peri_sample_rows(rows, most, seed, &some));
    PERI_GO(peri_ivf_label(index, some, threads, control, &labels));
    PERI_GO(peri_matrix_move(labels, PERI_CPU, &here));
    PERI_GO(space_open(index, coder, &s));
    PERI_GO(peri_host_matrix_create(index->context, peri_matrix_view(some).rows, coder->cols,
                                    PERI_F32, out));
    row_job job = { .space = &s,
                    .labels = peri_matrix_view(here).data,
                    .left = peri_matrix_view(*out).data };
    PERI_GO(run_rows(job, some, threads, control));
done:
    space_close(&s);
    peri_matrix_release(here);
    peri_matrix_release(labels);
    peri_matrix_release(some);
    if (status == PERI_OK || *out == NULL) return status;
    peri_matrix_release(*out);
    *out = NULL;
    return status;
}

/* ---- entries ------------------------------------------------------------------------------ */

static void entries_close(peri_entries *entries) {
    peri_matrix_release(entries->labels);
    for (size_t i = 0; i < PERI_LIST_PARTS_MAX; i++) peri_matrix_release(entries->parts[i]);
}

/* The codes of all rows, on the host. */
static peri_status encode(const peri_index *index, const space *s, peri_matrix *rows,
                          peri_matrix *labels, const peri_entries *like, peri_matrix **host) {
    const peri_ivf_coder *coder = s->coder;
    size_t n = peri_matrix_view(rows).rows;
    row_job job = { .space = s,
                    .labels = peri_matrix_view(labels).data,
                    .code_bytes = peri_codes_bytes(coder->cols, coder->bits) };
    PERI_TRY(
        peri_host_matrix_create(index->context, n, job.code_bytes, PERI_U8, &host[PERI_IVF_CODES]));
    job.codes = peri_matrix_view(host[PERI_IVF_CODES]).data;
    if (coder->adds) {
        PERI_TRY(peri_host_matrix_create(index->context, n, 1, PERI_F32, &host[PERI_IVF_ADDS]));
        job.adds = peri_matrix_view(host[PERI_IVF_ADDS]).data;
    }
    if (coder->scales) {
        PERI_TRY(peri_host_matrix_create(index->context, n, 1, PERI_F32, &host[PERI_IVF_SCALES]));
        job.scales = peri_matrix_view(host[PERI_IVF_SCALES]).data;
    }
    return run_rows(job, rows, like->threads, like->control);
}

static peri_status entries_open(const peri_index *index, const peri_ivf_coder *coder,
                                peri_matrix *rows, peri_entries *entries) {
    peri_matrix *host[PERI_LIST_PARTS_MAX] = { NULL }, *labels = NULL;
    space s = { 0 };
    peri_status status;
    PERI_GO(peri_ivf_label(index, rows, entries->threads, entries->control, &entries->labels));
    PERI_GO(peri_matrix_move(entries->labels, PERI_CPU, &labels));
    PERI_GO(space_open(index, coder, &s));
    PERI_GO(encode(index, &s, rows, labels, entries, host));
    for (size_t i = 0; i < PERI_LIST_PARTS_MAX; i++)
        if (host[i] != NULL)
            PERI_GO(peri_matrix_move(host[i], index->device->place, &entries->parts[i]));
done:
    space_close(&s);
    for (size_t i = 0; i < PERI_LIST_PARTS_MAX; i++) peri_matrix_release(host[i]);
    peri_matrix_release(labels);
    if (status != PERI_OK) entries_close(entries);
    return status;
}

peri_status peri_ivf_codes_fill(peri_index *index, const peri_ivf_coder *coder, peri_matrix *rows,
                                size_t threads, const peri_control *control) {
    peri_ivf_params params = peri_ivf_params_of(index);
    peri_entries entries = { .threads = threads, .control = control };
    size_t count = params.add_data_on_build != 0 ? peri_matrix_view(rows).rows : 0;
    peri_matrix *added;
    PERI_TRY(peri_matrix_slice(rows, 0, count, &added));
    peri_status status = peri_index_set_shape(index, count, index->dim, index->dtype);
    if (status == PERI_OK) status = entries_open(index, coder, added, &entries);
    if (status == PERI_OK) {
        status = peri_lists_create(index, &peri_ivf_codes_layout, (size_t)params.n_lists, &entries);
        entries_close(&entries);
    }
    peri_matrix_release(added);
    return status;
}

/* ---- coming and leaving ------------------------------------------------------------------- */

peri_status peri_ivf_codes_extend(const peri_index *old, peri_index *next,
                                  const peri_ivf_coder *coder, const peri_growth *growth,
                                  const char *const *more) {
    peri_entries entries = { .first = growth->first,
                             .threads = growth->threads,
                             .control = growth->control };
    for (size_t i = 0; i < sizeof shared / sizeof *shared; i++)
        PERI_TRY(peri_index_share(next, old, shared[i]));
    for (; *more != NULL; more++) PERI_TRY(peri_index_share(next, old, *more));
    PERI_TRY(entries_open(old, coder, growth->rows, &entries));
    peri_status status = peri_lists_extend(old, next, &peri_ivf_codes_layout, &entries);
    entries_close(&entries);
    return status;
}

peri_status peri_ivf_codes_remove(const peri_index *old, peri_index *next, const peri_loss *loss) {
    return peri_lists_remove(old, next, &peri_ivf_codes_layout, loss);
}

peri_status peri_ivf_codes_pack(const peri_index *old, peri_index *next) {
    return peri_lists_pack(old, next, &peri_ivf_codes_layout);
}

/* ---- opening ------------------------------------------------------------------------------ */

static peri_status check_shape(const peri_index *index, const char *name, size_t rows, size_t cols,
                               peri_dtype dtype) {
    peri_matrix *section = peri_index_section(index, name);
    if (section == NULL) return peri_fail(PERI_E_CORRUPT, "section '%s' is missing", name);
    peri_view view = peri_matrix_view(section);
    if (view.rows == rows && view.cols == cols && view.dtype == dtype && peri_view_packed(&view))
        return PERI_OK;
    return peri_fail(PERI_E_CORRUPT, "section '%s' is %zu x %zu %s, expected %zu x %zu %s", name,
                     view.rows, view.cols, peri_dtype_name(view.dtype), rows, cols,
                     peri_dtype_name(dtype));
}

peri_status peri_ivf_codes_floats(const peri_index *index, const char *name, size_t rows,
                                  size_t cols) {
    PERI_TRY(check_shape(index, name, rows, cols, PERI_F32));
    peri_status status = peri_matrix_check(peri_index_section(index, name), false, name, 0, NULL);
    return status == PERI_E_INVALID ? PERI_E_CORRUPT : status;
}

/* A section that is there exactly when it should be. */
static peri_status check_optional(const peri_index *index, const char *name, bool wanted,
                                  size_t rows, size_t cols) {
    if (wanted) return peri_ivf_codes_floats(index, name, rows, cols);
    if (peri_index_section(index, name) == NULL) return PERI_OK;
    return peri_fail(PERI_E_CORRUPT, "section '%s' is not for these parameters", name);
}

peri_status peri_ivf_codes_check(peri_index *index, const peri_ivf_coder *coder) {
    size_t n_lists = (size_t)peri_ivf_params_of(index).n_lists;
    PERI_TRY(peri_ivf_check(index));
    PERI_TRY(peri_lists_check(index, &peri_ivf_codes_layout, n_lists));
    size_t capacity = peri_lists_of(index).capacity;
    PERI_TRY(check_optional(index, "origin", peri_ivf_squared(index), 1, index->dim));
    PERI_TRY(check_optional(index, "code_centroids", !coder->whole, n_lists, coder->cols));
    PERI_TRY(check_optional(index, "rotation", coder->rotate != NULL, coder->cols, index->dim));
    PERI_TRY(check_optional(index, "list_adds", coder->adds, capacity, 1));
    PERI_TRY(check_optional(index, "list_scales", coder->scales, capacity, 1));
    return check_shape(index, "list_codes", capacity, peri_codes_bytes(coder->cols, coder->bits),
                       PERI_U8);
}

/* ---- searching ---------------------------------------------------------------------------- */

static void *data_of(const peri_index *index, const char *name) {
    peri_matrix *section = peri_index_section(index, name);
    return section == NULL ? NULL : peri_matrix_view(section).data;
}

peri_op_code_scan peri_ivf_codes_op(const peri_index *index, const peri_ivf_coder *coder) {
    peri_op_code_scan op = { .kind = PERI_OP_CODE_SCAN,
                             .metric = index->metric,
                             .lists = peri_lists_of(index),
                             .centroids = data_of(index, "code_centroids"),
                             .codes = data_of(index, "list_codes"),
                             .bits = coder->bits,
                             .query_bytes = 1,
                             .adds = data_of(index, "list_adds"),
                             .scales = data_of(index, "list_scales") };
    op.queries = (peri_view){ .cols = coder->cols,
                              .stride_bytes = coder->cols * sizeof(float),
                              .dtype = PERI_F32,
                              .place = index->device->place };
    return op;
}

/* Queries in the space of the codes. */
static peri_status turn(const peri_index *index, peri_lane *lane, const peri_view *from,
                        peri_view *to) {
    peri_op_rotate op = { .kind = PERI_OP_ROTATE, .rows = *from };
    op.centroids = data_of(index, "origin");
    op.rotation = data_of(index, "rotation");
    if (op.centroids == NULL && op.rotation == NULL) {
        *to = *from;
        return PERI_OK;
    }
    to->rows = from->rows;
    PERI_TRY(peri_lane_take(lane, to->rows, to->stride_bytes, &to->data));
    op.out = *to;
    return peri_lane_run(lane, (const peri_op *)&op);
}

peri_status peri_ivf_codes_scan(const peri_index *index, peri_lane *lane, const peri_scan *scan,
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

peri_status peri_ivf_codes_check_place(const peri_index *index, peri_op_code_scan *op) {
    peri_op_rotate turn_op = { .kind = PERI_OP_ROTATE, .rows = op->queries, .out = op->queries };
    turn_op.rows.cols = index->dim;
    turn_op.rows.stride_bytes = index->dim * sizeof(float);
    turn_op.centroids = data_of(index, "origin");
    turn_op.rotation = data_of(index, "rotation");
    if (turn_op.centroids != NULL || turn_op.rotation != NULL)
        PERI_TRY(peri_ivf_check_op(index, &turn_op));
    op->k = 1;
    return peri_ivf_check_op(index, op);
}
