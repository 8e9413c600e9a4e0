/* quantizer.c: the life of a quantizer, and coding matrices of any dtype, place and length.
 *
 * Rows are coded in batches, so that a conversion or a copy from a device takes bounded memory;
 * within a batch, chunks of rows run in parallel. Every row is coded on its own, so neither batch
 * nor threads show in the codes. */
#include "quant/quantizer.h"

#include <string.h>

#include "core/checked.h"
#include "core/memory.h"
#include "core/threads.h"
#include "io/host_rows.h"
#include "quant/sample.h"

#define BATCH_BYTES ((size_t)32 << 20) /* of f32 rows: taste; large enough for all threads */
#define CHUNK_ROWS 128u

static const peri_quantizer_kind *const kinds[] = { &peri_pq_kind, &peri_opq_kind, &peri_sq_kind,
                                                    &peri_binary_kind, &peri_rabitq_kind };

const peri_quantizer_kind *peri_quantizer_kind_find(const char *name) {
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(kinds[i]->name, name) == 0) return kinds[i];
    return NULL;
}

const char *peri_quantizer_kind_name(size_t number) {
    return number < sizeof kinds / sizeof *kinds ? kinds[number]->name : NULL;
}

/* ---- life --------------------------------------------------------------------------------- */

peri_status peri_quantizer_create(peri_context *context, const peri_quantizer_kind *kind,
                                  uint32_t dim, peri_quantizer **out) {
    PERI_TRY(peri_memory_acquire_zeroed(context, 1, sizeof **out, out));
    atomic_init(&(*out)->references, 1);
    peri_context_retain(context);
    (*out)->context = context;
    (*out)->kind = kind;
    (*out)->dim = dim;
    peri_params_default(kind->train_table, (*out)->params);
    return PERI_OK;
}

void peri_quantizer_retain(peri_quantizer *quantizer) {
    atomic_fetch_add(&quantizer->references, 1);
}

void peri_quantizer_release(peri_quantizer *quantizer) {
    if (quantizer == NULL || atomic_fetch_sub(&quantizer->references, 1) != 1) return;
    peri_context *context = quantizer->context;
    quantizer->kind->reset(quantizer);
    peri_memory_release(context, quantizer, 1, sizeof *quantizer);
    peri_context_release(context);
}

const char *peri_quantizer_name(const peri_quantizer *quantizer) { return quantizer->kind->name; }
uint32_t peri_quantizer_dim(const peri_quantizer *quantizer) { return quantizer->dim; }
size_t peri_quantizer_row_bytes(const peri_quantizer *quantizer) { return quantizer->row_bytes; }

/* ---- training ----------------------------------------------------------------------------- */

static peri_status check_shape(const peri_view *rows) {
    if (rows->dtype > PERI_U8)
        return peri_fail(PERI_E_ARGUMENT, "rows: dtype %s given, allowed: f32 f16 i8 u8",
                         peri_dtype_name(rows->dtype));
    if (rows->cols > PERI_DIM_MAX)
        return peri_fail(PERI_E_ARGUMENT, "rows: dim %zu given, allowed: 1..%u", rows->cols,
                         PERI_DIM_MAX);
    return PERI_OK;
}

static peri_status check_train(const peri_train *train, const peri_quantizer_kind **kind) {
    if (train->size != sizeof *train)
        return peri_fail(PERI_E_ARGUMENT, "train.size: %u given, this library takes %zu",
                         train->size, sizeof *train);
    *kind = train->kind == NULL ? NULL : peri_quantizer_kind_find(train->kind);
    if (*kind == NULL)
        return peri_fail(PERI_E_ARGUMENT, "kind: '%.40s' given, allowed: pq opq sq binary rabitq",
                         train->kind == NULL ? "" : train->kind);
    if (train->rows == NULL) return peri_fail(PERI_E_ARGUMENT, "rows: none given");
    peri_view view = peri_matrix_view(train->rows);
    PERI_TRY(check_shape(&view));
    if (view.rows == 0) return peri_fail(PERI_E_ARGUMENT, "rows: 0 given, allowed: 1 and more");
    return peri_options_check(&train->options, &(*kind)->train_table, 1);
}

peri_status peri_quantizer_train(const peri_train *train, peri_quantizer **out) {
    const peri_quantizer_kind *kind = NULL;
    peri_quantizer *made = NULL;
    peri_status status;
    *out = NULL;
    PERI_TRY(check_train(train, &kind));
    uint32_t dim = (uint32_t)peri_matrix_view(train->rows).cols;
    PERI_GO(peri_quantizer_create(peri_matrix_context(train->rows), kind, dim, &made));
    PERI_GO(peri_params_read(kind->train_table, &train->options, made->params));
    PERI_GO(kind->train(made, train));
    made->row_bytes = kind->row_bytes(made);
    *out = made;
    made = NULL;
done:
    peri_quantizer_release(made);
    return status;
}

peri_status peri_train_sample(const peri_train *train, size_t most, uint64_t seed,
                              peri_matrix **out) {
    peri_matrix *some;
    *out = NULL;
    PERI_TRY(peri_sample_rows(train->rows, most, seed, &some));
    peri_status status = peri_matrix_move(some, PERI_CPU, out);
    peri_matrix_release(some);
    if (status != PERI_OK) return status;
    status = peri_matrix_check(*out, false, "rows", train->threads, train->control);
    if (status == PERI_OK) return PERI_OK;
    peri_matrix_release(*out);
    *out = NULL;
    return status;
}

/* ---- a batch, row by row ------------------------------------------------------------------ */

typedef struct row_job {
    const peri_quantizer *quantizer;
    peri_view rows; /* f32, host */
    uint8_t *codes;
    bool decode;
    char *scratch; /* scratch_bytes a worker */
    size_t scratch_bytes;
} row_job;

static peri_status row_task(void *ud, size_t task, size_t worker) {
    const row_job *job = ud;
    const peri_quantizer *q = job->quantizer;
    size_t first = task * CHUNK_ROWS, stop = peri_min_size(first + CHUNK_ROWS, job->rows.rows);
    void *scratch = job->scratch + worker * job->scratch_bytes;
    for (size_t r = first; r < stop; r++) {
        float *row = peri_view_row(&job->rows, r);
        uint8_t *code = job->codes + r * q->row_bytes;
        if (job->decode)
            q->kind->decode(q, code, row, scratch);
        else
            q->kind->encode(q, row, code, scratch);
    }
    return PERI_OK;
}

static peri_status run_rows(const peri_quantizer *q, const peri_code_batch *batch, bool decode) {
    row_job job = { q, peri_matrix_view(batch->rows), batch->codes, decode, NULL, 0 };
    size_t workers = peri_threads(q->context, batch->threads);
    if (q->kind->scratch_bytes != NULL)
        job.scratch_bytes = peri_round_up(q->kind->scratch_bytes(q), PERI_ALIGN);
    PERI_TRY(peri_memory_acquire(q->context, workers, job.scratch_bytes, &job.scratch));
    peri_loop loop = { NULL, batch->threads, batch->control };
    size_t tasks = peri_ceil_div(job.rows.rows, CHUNK_ROWS);
    peri_status status = peri_parallel(q->context, &loop, tasks, row_task, &job);
    peri_memory_release(q->context, job.scratch, workers, job.scratch_bytes);
    return status;
}

static peri_status encode_batch(const peri_quantizer *q, const peri_code_batch *batch) {
    if (q->kind->encode_batch != NULL) return q->kind->encode_batch(q, batch);
    peri_code_batch host = *batch;
    PERI_TRY(peri_host_floats(batch->rows, &host.rows));
    peri_status status = run_rows(q, &host, false);
    peri_matrix_release(host.rows);
    return status;
}

static peri_status decode_batch(const peri_quantizer *q, const peri_code_batch *batch) {
    if (q->kind->decode_batch != NULL) return q->kind->decode_batch(q, batch);
    return run_rows(q, batch, true);
}

/* ---- all batches -------------------------------------------------------------------------- */

static size_t batch_rows(const peri_quantizer *q) {
    return peri_max_size(CHUNK_ROWS, BATCH_BYTES / sizeof(float) / q->dim);
}

static peri_status check_coding(const peri_coding *coding) {
    if (coding->size == sizeof *coding) return PERI_OK;
    return peri_fail(PERI_E_ARGUMENT, "coding.size: %u given, this library takes %zu", coding->size,
                     sizeof *coding);
}

static peri_status check_rows(const peri_quantizer *q, const peri_view *rows) {
    PERI_TRY(check_shape(rows));
    if (rows->cols == q->dim) return PERI_OK;
    return peri_fail(PERI_E_ARGUMENT, "rows: dim %zu given, the quantizer has %u", rows->cols,
                     q->dim);
}

static peri_status follow(const peri_coding *coding, const char *stage, size_t done, size_t total) {
    const peri_control *control = coding->control;
    return control == NULL ? PERI_OK : control->poll(control->ud, stage, done, total);
}

/* NaN and Inf are named by their row in the whole. */
static peri_status check_values(peri_matrix *rows, const peri_coding *coding) {
    if (peri_matrix_view(rows).dtype > PERI_F16) return PERI_OK;
    return peri_matrix_check(rows, false, "rows", coding->threads, coding->control);
}

peri_status peri_quantizer_encode(peri_quantizer *q, peri_matrix *rows, const peri_coding *coding,
                                  peri_matrix **codes) {
    static const peri_coding plain = PERI_CODING_INIT;
    *codes = NULL;
    if (coding == NULL) coding = &plain;
    PERI_TRY(check_coding(coding));
    peri_view view = peri_matrix_view(rows);
    PERI_TRY(check_rows(q, &view));
    peri_matrix *made = NULL, *part = NULL;
    peri_status status;
    PERI_GO(check_values(rows, coding));
    PERI_GO(peri_host_matrix_create(q->context, view.rows, q->row_bytes, PERI_U8, &made));
    for (size_t first = 0, count; first < view.rows; first += count) {
        count = peri_min_size(batch_rows(q), view.rows - first);
        PERI_GO(follow(coding, "encode", first, view.rows));
        PERI_GO(peri_matrix_slice(rows, first, first + count, &part));
        peri_code_batch batch = { part,
                                  (uint8_t *)peri_matrix_view(made).data + first * q->row_bytes,
                                  coding->threads, coding->control };
        PERI_GO(encode_batch(q, &batch));
        peri_matrix_release(part);
        part = NULL;
    }
    *codes = made;
    made = NULL;
done:
    peri_matrix_release(part);
    peri_matrix_release(made);
    return status;
}

static peri_status decode_all(const peri_quantizer *q, peri_matrix *codes,
                              const peri_coding *coding, peri_matrix *rows) {
    peri_view view = peri_matrix_view(codes);
    uint8_t *packed = NULL;
    peri_matrix *part = NULL;
    size_t most = peri_min_size(batch_rows(q), view.rows);
    peri_status status;
    PERI_GO(peri_memory_acquire(q->context, most, q->row_bytes, &packed));
    for (size_t first = 0, count; first < view.rows; first += count) {
        count = peri_min_size(most, view.rows - first);
        PERI_GO(follow(coding, "decode", first, view.rows));
        PERI_GO(peri_matrix_read(codes, first, count, packed));
        PERI_GO(peri_matrix_slice(rows, first, first + count, &part));
        peri_code_batch batch = { part, packed, coding->threads, coding->control };
        PERI_GO(decode_batch(q, &batch));
        peri_matrix_release(part);
        part = NULL;
    }
done:
    peri_matrix_release(part);
    peri_memory_release(q->context, packed, most, q->row_bytes);
    return status;
}

peri_status peri_quantizer_decode(peri_quantizer *q, peri_matrix *codes, const peri_coding *coding,
                                  peri_matrix **rows) {
    static const peri_coding plain = PERI_CODING_INIT;
    *rows = NULL;
    if (coding == NULL) coding = &plain;
    PERI_TRY(check_coding(coding));
    peri_view view = peri_matrix_view(codes);
    if (view.dtype != PERI_U8 || view.cols != q->row_bytes)
        return peri_fail(PERI_E_ARGUMENT, "codes: %zu x %zu %s given, allowed: u8 of %zu columns",
                         view.rows, view.cols, peri_dtype_name(view.dtype), q->row_bytes);
    peri_matrix *made;
    PERI_TRY(peri_host_matrix_create(q->context, view.rows, q->dim, PERI_F32, &made));
    peri_status status = decode_all(q, codes, coding, made);
    if (status == PERI_OK)
        *rows = made;
    else
        peri_matrix_release(made);
    return status;
}

/* ---- distortion --------------------------------------------------------------------------- */

typedef struct error_job {
    peri_view rows, decoded;
    double *sums; /* one a chunk */
} error_job;

static peri_status error_task(void *ud, size_t task, size_t worker) {
    const error_job *job = ud;
    size_t first = task * CHUNK_ROWS, stop = peri_min_size(first + CHUNK_ROWS, job->rows.rows);
    double sum = 0;
    (void)worker;
    for (size_t r = first; r < stop; r++) {
        const float *a = peri_float_row(&job->rows, r), *b = peri_float_row(&job->decoded, r);
        for (size_t j = 0; j < job->rows.cols; j++) {
            double difference = (double)a[j] - (double)b[j];
            sum += difference * difference;
        }
    }
    job->sums[task] = sum;
    return PERI_OK;
}

/* Adds the squared errors of a batch, chunk after chunk. */
static peri_status add_errors(peri_matrix *rows, peri_matrix *decoded, const peri_coding *coding,
                              double *total) {
    peri_context *context = peri_matrix_context(decoded);
    peri_matrix *host;
    PERI_TRY(peri_host_floats(rows, &host));
    error_job job = { peri_matrix_view(host), peri_matrix_view(decoded), NULL };
    size_t tasks = peri_ceil_div(job.rows.rows, CHUNK_ROWS);
    peri_loop loop = { NULL, coding->threads, coding->control };
    peri_status status = peri_memory_acquire(context, tasks, sizeof(double), &job.sums);
    if (status == PERI_OK) status = peri_parallel(context, &loop, tasks, error_task, &job);
    for (size_t i = 0; status == PERI_OK && i < tasks; i++) *total += job.sums[i];
    peri_memory_release(context, job.sums, tasks, sizeof(double));
    peri_matrix_release(host);
    return status;
}

peri_status peri_quantizer_distortion(peri_quantizer *q, peri_matrix *rows,
                                      const peri_coding *coding, double *out) {
    static const peri_coding plain = PERI_CODING_INIT;
    *out = 0;
    if (coding == NULL) coding = &plain;
    PERI_TRY(check_coding(coding));
    peri_view view = peri_matrix_view(rows);
    PERI_TRY(check_rows(q, &view));
    if (view.rows == 0) return peri_fail(PERI_E_ARGUMENT, "rows: 0 given, allowed: 1 and more");
    peri_matrix *part = NULL, *codes = NULL, *decoded = NULL;
    peri_coding quiet = { sizeof quiet, coding->threads, NULL };
    double total = 0;
    peri_status status;
    PERI_GO(check_values(rows, coding));
    for (size_t first = 0, count; first < view.rows; first += count) {
        count = peri_min_size(batch_rows(q), view.rows - first);
        PERI_GO(follow(coding, "distortion", first, view.rows));
        PERI_GO(peri_matrix_slice(rows, first, first + count, &part));
        PERI_GO(peri_quantizer_encode(q, part, &quiet, &codes));
        PERI_GO(peri_quantizer_decode(q, codes, &quiet, &decoded));
        PERI_GO(add_errors(part, decoded, &quiet, &total));
        peri_matrix_release(part);
        peri_matrix_release(codes);
        peri_matrix_release(decoded);
        part = codes = decoded = NULL;
    }
    *out = total / (double)view.rows;
done:
    peri_matrix_release(part);
    peri_matrix_release(codes);
    peri_matrix_release(decoded);
    return status;
}

/* ---- describing --------------------------------------------------------------------------- */

void peri_tell_int(peri_field_fn field, void *ud, const char *key, int64_t value) {
    peri_value told = { PERI_VALUE_INT, { .i = value } };
    field(ud, key, &told);
}

static void tell_params(const peri_quantizer *q, peri_field_fn field, void *ud) {
    const peri_param_table *table = q->kind->train_table;
    for (size_t i = 0; i < table->count; i++) {
        char key[64] = "params.", word[48];
        strncat(key, table->list[i].name, sizeof key - sizeof "params.");
        peri_value value = peri_param_value(&table->list[i], q->params, word, sizeof word);
        field(ud, key, &value);
    }
}

void peri_quantizer_describe(const peri_quantizer *q, peri_field_fn field, void *ud) {
    peri_section sections[PERI_QUANTIZER_SECTIONS_MAX];
    peri_value name = { PERI_VALUE_TEXT, { .text = q->kind->name } };
    size_t bytes = 0, count = q->kind->sections(q, sections);
    for (size_t i = 0; i < count; i++) {
        peri_view view = peri_matrix_view(sections[i].matrix);
        bytes += view.rows * view.cols * peri_dtype_bytes(view.dtype);
    }
    field(ud, "kind", &name);
    peri_tell_int(field, ud, "dim", q->dim);
    peri_tell_int(field, ud, "row_bytes", (int64_t)q->row_bytes);
    peri_tell_int(field, ud, "bytes", (int64_t)bytes);
    if (q->kind->describe != NULL) q->kind->describe(q, field, ud);
    tell_params(q, field, ud);
}
