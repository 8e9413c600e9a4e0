/* matrix.c: matrices as values: made, sliced, gathered, converted, moved. Files are engine/io's. */
#include "core/matrix.h"

#include <math.h>
#include <string.h>

#include "core/checked.h"
#include "core/distance.h"
#include "core/half.h"
#include "core/lane.h"
#include "core/memory.h"
#include "core/numa.h"
#include "core/ring.h"
#include "core/threads.h"

struct peri_matrix {
    atomic_size_t references;
    peri_context *context;
    peri_view view;
    peri_mem *mem;          /* the memory it lies in, when that is the engine's */
    bool owns;              /* gives `mem` back; else a parent does */
    bool pinned, read_only; /* host memory that is page-locked; others' that is not written */
    peri_anchor_fn release; /* what keeps foreign memory alive, or NULL */
    void *anchor;
};

static bool on_host(peri_place place) {
    return place.kind == PERI_PLACE_CPU || place.kind == PERI_PLACE_REF;
}

/* ---- life --------------------------------------------------------------------------------- */

static peri_status matrix_new(peri_context *context, peri_view view, peri_matrix **out) {
    peri_matrix *matrix;
    *out = NULL;
    PERI_TRY(peri_memory_acquire_zeroed(context, 1, sizeof *matrix, &matrix));
    atomic_init(&matrix->references, 1);
    peri_context_retain(context);
    matrix->context = context;
    matrix->view = view;
    *out = matrix;
    return PERI_OK;
}

peri_status peri_matrix_anchor(peri_context *context, peri_view view, peri_anchor_fn release,
                               void *anchor, peri_matrix **out) {
    peri_status status = matrix_new(context, view, out);
    if (status != PERI_OK) {
        if (release != NULL) release(anchor);
        return status;
    }
    (*out)->release = release;
    (*out)->anchor = anchor;
    return PERI_OK;
}

void peri_matrix_adopt(peri_matrix *matrix, peri_anchor_fn release, void *anchor, bool pinned,
                       bool read_only) {
    PERI_ASSERT(matrix->release == NULL && matrix->mem == NULL);
    matrix->release = release;
    matrix->anchor = anchor;
    matrix->pinned = pinned;
    matrix->read_only = read_only;
}

void peri_matrix_borrow(peri_matrix *part, const peri_matrix *whole) {
    PERI_ASSERT(!part->owns);
    part->mem = whole->mem;
    part->pinned = whole->pinned;
    part->read_only = whole->read_only;
}

bool peri_matrix_read_only(const peri_matrix *matrix) { return matrix->read_only; }
bool peri_matrix_pinned(const peri_matrix *matrix) { return matrix->pinned; }

void peri_matrix_share(peri_matrix *matrix) {
    if (matrix->mem != NULL) __atomic_store_n(&matrix->mem->shared, true, __ATOMIC_SEQ_CST);
}

void *peri_matrix_anchored(const peri_matrix *matrix, peri_anchor_fn release) {
    return matrix->release == release ? matrix->anchor : NULL;
}

void peri_matrix_retain(peri_matrix *matrix) { atomic_fetch_add(&matrix->references, 1); }

void peri_matrix_release(peri_matrix *matrix) {
    if (matrix == NULL || atomic_fetch_sub(&matrix->references, 1) != 1) return;
    peri_context *context = matrix->context;
    if (matrix->owns) matrix->mem->device->driver->mem_release(matrix->mem);
    if (matrix->release != NULL) matrix->release(matrix->anchor);
    peri_memory_release(context, matrix, 1, sizeof *matrix);
    peri_context_release(context);
}

peri_view peri_matrix_view(const peri_matrix *matrix) { return matrix->view; }
peri_context *peri_matrix_context(const peri_matrix *matrix) { return matrix->context; }

/* Of the device's own memory at `place`, or of the host's, page-locked for it. */
static peri_status acquire_as(peri_context *context, peri_view shape, peri_memory_kind kind,
                              peri_matrix **out) {
    size_t row_bytes, bytes, rows = shape.rows, cols = shape.cols;
    if (cols == 0) return peri_fail(PERI_E_ARGUMENT, "cols: 0 given, allowed: 1 and more");
    if ((unsigned)shape.dtype >= PERI_DTYPE_COUNT)
        return peri_fail(PERI_E_ARGUMENT, "dtype: %d given, which is none", (int)shape.dtype);
    if (!peri_mul_fits(cols, peri_dtype_bytes(shape.dtype), &row_bytes) ||
        !peri_mul_fits(rows, row_bytes, &bytes))
        return peri_fail(PERI_E_MEMORY, "%zu x %zu %s is more than memory can hold", rows, cols,
                         peri_dtype_name(shape.dtype));
    peri_device *device;
    PERI_TRY(peri_context_device(context, shape.place, &device));
    peri_view view = { NULL, rows, cols, row_bytes, shape.dtype, shape.place };
    bool pinned = kind != PERI_MEMORY_DEVICE && !device->shares_host;
    if (pinned) view.place = PERI_CPU;
    PERI_TRY(matrix_new(context, view, out));
    (*out)->pinned = pinned;
    if (bytes == 0) return PERI_OK;
    peri_status status = peri_device_acquire(device, bytes, kind, PERI_USE_ROWS, &(*out)->mem);
    if (status != PERI_OK) {
        peri_matrix_release(*out);
        *out = NULL;
        return status;
    }
    (*out)->owns = true;
    (*out)->view.data = (*out)->mem->data;
    return PERI_OK;
}

peri_status peri_matrix_acquire(peri_context *context, size_t rows, size_t cols, peri_dtype dtype,
                                peri_place place, peri_matrix **out) {
    *out = NULL;
    return acquire_as(context, (peri_view){ NULL, rows, cols, 0, dtype, place }, PERI_MEMORY_DEVICE,
                      out);
}

/* Runs one operation at a place and waits. */
static peri_status run_at(peri_context *context, peri_place place, const peri_op *op) {
    peri_device *device;
    peri_lane *lane = NULL;
    peri_status status;
    PERI_GO(peri_context_device(context, place, &device));
    PERI_GO(peri_lane_acquire(device, &lane));
    PERI_GO(peri_lane_run(lane, op));
    PERI_GO(peri_lane_wait(lane, NULL));
done:
    peri_lane_release(lane);
    return status;
}

peri_status peri_matrix_create(peri_context *context, size_t rows, size_t cols, peri_dtype dtype,
                               peri_place place, peri_matrix **out) {
    PERI_TRY(peri_matrix_acquire(context, rows, cols, dtype, place, out));
    peri_view *view = &(*out)->view;
    size_t bytes = view->rows * view->stride_bytes;
    if (bytes == 0) return PERI_OK;
    if (on_host(place)) {
        if (!peri_numa_spread(context, view->data, bytes)) memset(view->data, 0, bytes);
        return PERI_OK;
    }
    peri_device *device = (*out)->mem->device;
    peri_lane *lane = NULL;
    peri_status status;
    PERI_GO(peri_lane_acquire(device, &lane));
    PERI_GO(device->driver->fill(peri_lane_stream(lane), view->data, 0, bytes));
    PERI_GO(peri_lane_wait(lane, NULL));
done:
    peri_lane_release(lane);
    if (status != PERI_OK) {
        peri_matrix_release(*out);
        *out = NULL;
    }
    return status;
}

peri_status peri_matrix_create_pinned(peri_context *context, size_t rows, size_t cols,
                                      peri_dtype dtype, peri_place device, peri_matrix **out) {
    *out = NULL;
    PERI_TRY(acquire_as(context, (peri_view){ NULL, rows, cols, 0, dtype, device },
                        PERI_MEMORY_PINNED, out));
    const peri_view *view = &(*out)->view;
    if (view->data != NULL) memset(view->data, 0, rows * view->stride_bytes);
    return PERI_OK;
}

/* ---- copying ------------------------------------------------------------------------------ */

/* Much pageable host memory goes through a ring; `done` says whether it did. */
static peri_status copy_by_ring(peri_device *device, const peri_view *to, const peri_view *from,
                                bool *done) {
    const peri_ring_way way = { .threads = 0 };
    size_t row_bytes = from->cols * peri_dtype_bytes(from->dtype);
    bool up = on_host(from->place), down = on_host(to->place);
    peri_ring *ring = NULL;
    *done = false;
    if ((!up && !down) || from->rows * row_bytes < PERI_RING_BYTES_MIN ||
        row_bytes > PERI_RING_ROW_BYTES_MAX)
        return PERI_OK;
    PERI_TRY(peri_ring_acquire(device, &ring));
    if (ring == NULL) return PERI_OK;
    peri_status status = up ? peri_ring_upload(ring, to->data, to->stride_bytes, from->data,
                                               from->stride_bytes, from->rows, row_bytes, &way)
                            : peri_ring_download(ring, to->data, to->stride_bytes, from->data,
                                                 from->stride_bytes, from->rows, row_bytes, &way);
    peri_status waited = peri_ring_wait(ring);
    peri_ring_release(ring);
    *done = true;
    return status == PERI_OK ? waited : status;
}

/* Rows between two memories, at most one of them off the host, or both on devices of one driver. */
static peri_status copy_rows(peri_context *context, const peri_view *to, const peri_view *from,
                             bool pinned) {
    size_t row_bytes = from->cols * peri_dtype_bytes(from->dtype);
    if (from->rows == 0) return PERI_OK;
    if (on_host(to->place) && on_host(from->place)) {
        for (size_t r = 0; r < from->rows; r++)
            memcpy(peri_view_row(to, r), peri_view_row(from, r), row_bytes);
        return PERI_OK;
    }
    peri_device *to_device = NULL, *from_device = NULL;
    peri_lane *lane = NULL;
    peri_status status;
    bool done = false;
    if (!on_host(to->place)) PERI_GO(peri_context_device(context, to->place, &to_device));
    if (!on_host(from->place)) PERI_GO(peri_context_device(context, from->place, &from_device));
    peri_device *device = to_device != NULL ? to_device : from_device;
    if (!pinned) PERI_GO(copy_by_ring(device, to, from, &done));
    if (done) goto done;
    PERI_GO(peri_lane_acquire(device, &lane));
    PERI_GO(device->driver->copy(peri_lane_stream(lane), to->data, to->stride_bytes, to_device,
                                 from->data, from->stride_bytes, from_device, from->rows,
                                 row_bytes));
    PERI_GO(peri_lane_wait(lane, NULL));
done:
    peri_lane_release(lane);
    return status;
}

static peri_status check_rows(const peri_matrix *matrix, size_t first, size_t count) {
    if (first <= matrix->view.rows && count <= matrix->view.rows - first) return PERI_OK;
    return peri_fail(PERI_E_ARGUMENT, "rows: %zu..%zu given, the matrix has 0..%zu", first,
                     first + count, matrix->view.rows);
}

static peri_view rows_of(const peri_matrix *matrix, size_t first, size_t count) {
    peri_view view = matrix->view;
    if (count > 0) view.data = peri_view_row(&matrix->view, first);
    view.rows = count;
    return view;
}

static peri_view packed_host(const peri_matrix *matrix, void *data, size_t count) {
    size_t row_bytes = matrix->view.cols * peri_dtype_bytes(matrix->view.dtype);
    return (peri_view){ data, count, matrix->view.cols, row_bytes, matrix->view.dtype, PERI_CPU };
}

peri_status peri_matrix_read(const peri_matrix *matrix, size_t first, size_t count, void *out) {
    PERI_TRY(check_rows(matrix, first, count));
    peri_view to = packed_host(matrix, out, count), from = rows_of(matrix, first, count);
    return copy_rows(matrix->context, &to, &from, false);
}

peri_status peri_matrix_write(peri_matrix *matrix, size_t first, size_t count, const void *data) {
    PERI_TRY(check_rows(matrix, first, count));
    if (matrix->read_only)
        return peri_fail(PERI_E_ARGUMENT, "matrix: its memory belongs to others and is read-only");
    peri_view to = rows_of(matrix, first, count);
    peri_view from = packed_host(matrix, (void *)(uintptr_t)data, count);
    return copy_rows(matrix->context, &to, &from, false);
}

peri_status peri_matrix_copy_into(peri_matrix *to, size_t first, const peri_matrix *from) {
    PERI_TRY(check_rows(to, first, from->view.rows));
    peri_view view = rows_of(to, first, from->view.rows);
    return copy_rows(to->context, &view, &from->view, to->pinned || from->pinned);
}

peri_status peri_matrix_move(peri_matrix *matrix, peri_place place, peri_matrix **out) {
    *out = NULL;
    const peri_view *view = &matrix->view;
    if (peri_place_equal(view->place, place)) {
        peri_matrix_retain(matrix);
        *out = matrix;
        return PERI_OK;
    }
    bool apart = !on_host(place) && !on_host(view->place) && place.kind != view->place.kind;
    if (apart) { /* devices of two drivers meet on the host */
        peri_matrix *host = NULL;
        PERI_TRY(peri_matrix_move(matrix, PERI_CPU, &host));
        peri_status status = peri_matrix_move(host, place, out);
        peri_matrix_release(host);
        return status;
    }
    PERI_TRY(peri_matrix_acquire(matrix->context, view->rows, view->cols, view->dtype, place, out));
    peri_status status = copy_rows(matrix->context, &(*out)->view, view, matrix->pinned);
    if (status != PERI_OK) {
        peri_matrix_release(*out);
        *out = NULL;
    }
    return status;
}

peri_status peri_matrix_pin(peri_matrix *matrix, peri_place device, peri_matrix **out) {
    peri_view shape = matrix->view;
    *out = NULL;
    if (matrix->pinned) {
        peri_matrix_retain(matrix);
        *out = matrix;
        return PERI_OK;
    }
    shape.place = device;
    PERI_TRY(acquire_as(matrix->context, shape, PERI_MEMORY_PINNED, out));
    peri_status status = copy_rows(matrix->context, &(*out)->view, &matrix->view, true);
    if (status != PERI_OK) {
        peri_matrix_release(*out);
        *out = NULL;
    }
    return status;
}

/* ---- values ------------------------------------------------------------------------------- */

static void release_parent(void *anchor) { peri_matrix_release(anchor); }

peri_status peri_matrix_slice(peri_matrix *matrix, size_t first, size_t stop, peri_matrix **out) {
    *out = NULL;
    if (first > stop || stop > matrix->view.rows)
        return peri_fail(PERI_E_ARGUMENT,
                         "slice: first %zu, stop %zu given, allowed: 0 <= first "
                         "<= stop <= %zu",
                         first, stop, matrix->view.rows);
    peri_matrix_retain(matrix);
    PERI_TRY(peri_matrix_anchor(matrix->context, rows_of(matrix, first, stop - first),
                                release_parent, matrix, out));
    peri_matrix_borrow(*out, matrix);
    return PERI_OK;
}

static peri_status check_ids(const peri_matrix *matrix, const int64_t *ids, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (ids[i] < 0 || (uint64_t)ids[i] >= matrix->view.rows)
            return peri_fail(PERI_E_ARGUMENT, "ids: entry %zu is %lld, allowed: 0..%lld", i,
                             (long long)ids[i], (long long)matrix->view.rows - 1);
    }
    return PERI_OK;
}

peri_status peri_matrix_gather(const peri_matrix *matrix, const int64_t *ids, size_t count,
                               peri_matrix **out) {
    *out = NULL;
    PERI_TRY(check_ids(matrix, ids, count));
    const peri_view *view = &matrix->view;
    PERI_TRY(
        peri_matrix_acquire(matrix->context, count, view->cols, view->dtype, view->place, out));
    peri_device *device;
    peri_lane *lane = NULL;
    peri_status status = PERI_OK;
    if (count == 0) return PERI_OK;
    peri_op_gather op = { PERI_OP_GATHER, *view, NULL, (*out)->view };
    PERI_GO(peri_context_device(matrix->context, view->place, &device));
    PERI_GO(peri_lane_acquire(device, &lane));
    PERI_GO(peri_lane_upload(lane, ids, count, sizeof *ids, &op.slots));
    PERI_GO(peri_lane_run(lane, (const peri_op *)&op));
    PERI_GO(peri_lane_wait(lane, NULL));
done:
    peri_lane_release(lane);
    if (status != PERI_OK) {
        peri_matrix_release(*out);
        *out = NULL;
    }
    return status;
}

peri_status peri_matrix_convert(const peri_matrix *matrix, peri_dtype dtype, peri_matrix **out) {
    const peri_view *view = &matrix->view;
    PERI_TRY(peri_matrix_acquire(matrix->context, view->rows, view->cols, dtype, view->place, out));
    if (view->rows == 0) return PERI_OK;
    peri_op_convert op = { PERI_OP_CONVERT, *view, (*out)->view };
    peri_status status = run_at(matrix->context, view->place, (const peri_op *)&op);
    if (status != PERI_OK) {
        peri_matrix_release(*out);
        *out = NULL;
    }
    return status;
}

/* Rows within this of length 1 stay as they are, so normalizing twice changes nothing. */
#define UNIT_SLACK 4.8e-7f

static peri_status normalize_task(void *ud, size_t task, size_t worker) {
    peri_view *view = ud;
    (void)worker;
    size_t stop = peri_min_size(view->rows, (task + 1) * 1024);
    for (size_t r = task * 1024; r < stop; r++) {
        float *row = peri_view_row(view, r);
        float length = peri_canonical_length(PERI_F32, row, (uint32_t)view->cols);
        if (fabsf(length - 1.0f) <= UNIT_SLACK) continue;
        for (size_t c = 0; c < view->cols; c++) row[c] /= length;
    }
    return PERI_OK;
}

peri_status peri_matrix_normalize(const peri_matrix *matrix, peri_matrix **out) {
    *out = NULL;
    peri_matrix *wide = NULL, *host = NULL;
    peri_status status;
    PERI_GO(peri_matrix_convert(matrix, PERI_F32, &wide));
    PERI_GO(peri_matrix_move(wide, PERI_CPU, &host));
    PERI_GO(peri_matrix_check(host, true, "normalize", 0, NULL));
    PERI_GO(peri_parallel(matrix->context, NULL, peri_ceil_div(host->view.rows, 1024),
                          normalize_task, &host->view));
    PERI_GO(peri_matrix_move(host, matrix->view.place, out));
done:
    peri_matrix_release(wide);
    peri_matrix_release(host);
    return status;
}

/* ---- checking ----------------------------------------------------------------------------- */

static float element(const peri_view *view, const void *row, size_t column) {
    switch (view->dtype) {
    case PERI_F32: return ((const float *)row)[column];
    case PERI_F16: return peri_half_to_float(((const uint16_t *)row)[column]);
    case PERI_I8: return ((const int8_t *)row)[column];
    default: return ((const uint8_t *)row)[column];
    }
}

/* Whether all of a row is finite, with no branch an element: an exponent of all ones is NaN or
 * Inf. */
static bool row_finite(const peri_view *view, const void *row) {
    unsigned bad = 0;
    if (view->dtype == PERI_F32) {
        for (size_t c = 0; c < view->cols; c++) {
            uint32_t bits;
            memcpy(&bits, (const char *)row + c * sizeof bits, sizeof bits);
            bad |= (bits & 0x7F800000u) == 0x7F800000u;
        }
    } else if (view->dtype == PERI_F16) {
        const uint16_t *x = row;
        for (size_t c = 0; c < view->cols; c++) bad |= (x[c] & 0x7C00u) == 0x7C00u;
    }
    return bad == 0;
}

/* Whether a row has a length to divide by: cosine and normalizing ask for it. */
static bool row_has_direction(const peri_view *view, const void *row) {
    float length = peri_canonical_length(view->dtype, row, (uint32_t)view->cols);
    return length > 0 && isfinite(length);
}

/* `row` is row r of the view, wherever it lies. */
static peri_status bad_row(const peri_view *view, const void *row, size_t r, const char *what) {
    for (size_t c = 0; c < view->cols; c++) {
        float value = element(view, row, c);
        if (!isfinite(value))
            return peri_fail(PERI_E_INVALID, "%s: row %zu, column %zu is %s", what, r, c,
                             isnan(value) ? "NaN"
                             : value > 0  ? "Inf"
                                          : "-Inf");
    }
    return peri_fail(PERI_E_INVALID, "%s: row %zu has no direction: its length is %s", what, r,
                     peri_canonical_length(view->dtype, row, (uint32_t)view->cols) > 0
                         ? "past the range of f32"
                         : "0");
}

peri_status peri_view_check(const peri_view *view, bool zeros, const char *what) {
    for (size_t r = 0; r < view->rows; r++) {
        const void *row = peri_view_row(view, r);
        if (!row_finite(view, row) || (zeros && !row_has_direction(view, row)))
            return bad_row(view, row, r, what);
    }
    return PERI_OK;
}

typedef struct check_job {
    peri_view view;
    bool zeros;
    const char *what;
    atomic_size_t *first_bad;
} check_job;

/* The lowest bad row is reported, whichever worker comes first. */
static peri_status check_task(void *ud, size_t task, size_t worker) {
    const check_job *job = ud;
    (void)worker;
    size_t stop = peri_min_size(job->view.rows, (task + 1) * 1024);
    for (size_t r = task * 1024; r < stop; r++) {
        const void *row = peri_view_row(&job->view, r);
        if (row_finite(&job->view, row) && (!job->zeros || row_has_direction(&job->view, row)))
            continue;
        size_t lowest = atomic_load(job->first_bad);
        while (r < lowest && !atomic_compare_exchange_weak(job->first_bad, &lowest, r)) {}
        break;
    }
    return PERI_OK;
}

static peri_status check_on_host(peri_matrix *matrix, bool zeros, const char *what, size_t threads,
                                 const peri_control *control) {
    peri_matrix *host;
    PERI_TRY(peri_matrix_move(matrix, PERI_CPU, &host));
    atomic_size_t first_bad;
    atomic_init(&first_bad, SIZE_MAX);
    check_job job = { host->view, zeros, what, &first_bad };
    peri_loop loop = { "check", threads, control };
    peri_status status = peri_parallel(matrix->context, &loop, peri_ceil_div(job.view.rows, 1024),
                                       check_task, &job);
    size_t bad = atomic_load(&first_bad);
    if (status == PERI_OK && bad != SIZE_MAX)
        status = bad_row(&job.view, peri_view_row(&job.view, bad), bad, what);
    peri_matrix_release(host);
    return status;
}

/* ---- checking where the rows are ---------------------------------------------------------- */

#define SUSPECTS_MOST 256u /* rows of huge elements; beyond, all are looked at on the host */

/* The lengths of all rows on the host, by the operation of the place; NULL when it has none. */
static peri_status read_lengths(const peri_matrix *matrix, size_t threads,
                                const peri_control *control, peri_device *device, float **out) {
    peri_op_lengths op = { PERI_OP_LENGTHS, matrix->view, NULL };
    size_t rows = matrix->view.rows;
    char reason[256];
    peri_lane *lane = NULL;
    peri_status status;
    *out = NULL;
    PERI_GO(peri_lane_acquire(device, &lane));
    PERI_GO(peri_lane_take(lane, rows, sizeof *op.out, &op.out));
    if (!device->driver->supports(device, (const peri_op *)&op, reason, sizeof reason)) goto done;
    peri_lane_follow(lane, control, threads);
    PERI_GO(peri_memory_acquire(matrix->context, rows, sizeof **out, out));
    PERI_GO(peri_lane_run(lane, (const peri_op *)&op));
    PERI_GO(peri_lane_fetch(lane, *out, op.out, rows, sizeof **out));
    PERI_GO(peri_lane_wait(lane, control));
done:
    peri_lane_release(lane);
    if (status == PERI_OK) return PERI_OK;
    peri_memory_release(matrix->context, *out, rows, sizeof **out);
    *out = NULL;
    return status;
}

static bool is_suspect(float length, bool zeros) {
    return !isfinite(length) || (zeros && !(length > 0));
}

/* A length that is finite, and not 0, clears a row. One that is not may come of finite elements
 * whose squares overflow, so such rows are looked at; sets `enough` when that was done for all. */
static peri_status check_suspects(const peri_matrix *matrix, bool zeros, const char *what,
                                  const float *lengths, bool *enough) {
    size_t rows = matrix->view.rows, suspects = 0;
    void *row;
    peri_status status = PERI_OK;
    for (size_t r = 0; r < rows; r++) suspects += is_suspect(lengths[r], zeros);
    *enough = suspects <= SUSPECTS_MOST;
    if (suspects == 0 || !*enough) return PERI_OK;
    peri_view view = packed_host(matrix, NULL, 1);
    PERI_TRY(peri_memory_acquire(matrix->context, 1, view.stride_bytes, &row));
    for (size_t r = 0; r < rows && status == PERI_OK; r++) {
        if (!is_suspect(lengths[r], zeros)) continue;
        status = peri_matrix_read(matrix, r, 1, row);
        if (status != PERI_OK) break;
        bool good = row_finite(&view, row) && (!zeros || row_has_direction(&view, row));
        if (!good) status = bad_row(&view, row, r, what);
    }
    peri_memory_release(matrix->context, row, 1, view.stride_bytes);
    return status;
}

peri_status peri_matrix_check(peri_matrix *matrix, bool zeros, const char *what, size_t threads,
                              const peri_control *control) {
    const peri_view *view = &matrix->view;
    bool whole = view->dtype == PERI_I8 || view->dtype == PERI_U8, enough = false;
    peri_device *device;
    float *lengths;
    if (whole && !zeros) return PERI_OK; /* every number is finite */
    if (on_host(view->place) || view->rows == 0 || view->dtype > PERI_U8)
        return check_on_host(matrix, zeros, what, threads, control);
    PERI_TRY(peri_context_device(matrix->context, view->place, &device));
    PERI_TRY(read_lengths(matrix, threads, control, device, &lengths));
    peri_status status = PERI_OK;
    if (lengths != NULL) {
        status = check_suspects(matrix, zeros, what, lengths, &enough);
        peri_memory_release(matrix->context, lengths, view->rows, sizeof *lengths);
    }
    if (status != PERI_OK || enough) return status;
    return check_on_host(matrix, zeros, what, threads, control);
}
