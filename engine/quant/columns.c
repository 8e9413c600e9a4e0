/* columns.c: columns of a row-major sample, one task each. */
#include "quant/columns.h"

#include "core/checked.h"
#include "core/memory.h"
#include "core/threads.h"
#include "quant/sample.h"

typedef struct column_job {
    peri_view sample;
    peri_column_fn fn;
    void *ud;
    float *buffers; /* [workers, m] */
} column_job;

static peri_status column_task(void *ud, size_t task, size_t worker) {
    const column_job *job = ud;
    size_t rows = job->sample.rows;
    float *values = job->buffers + worker * rows;
    for (size_t r = 0; r < rows; r++) values[r] = peri_float_row(&job->sample, r)[task];
    job->fn(job->ud, task, values, rows);
    return PERI_OK;
}

peri_status peri_each_column(peri_matrix *sample, size_t threads, const peri_control *control,
                             peri_column_fn fn, void *ud) {
    peri_context *context = peri_matrix_context(sample);
    column_job job = { peri_matrix_view(sample), fn, ud, NULL };
    size_t workers = peri_threads(context, threads), count;
    if (!peri_mul_fits(workers, job.sample.rows, &count))
        return peri_fail(PERI_E_MEMORY, "%zu rows are too many to learn from", job.sample.rows);
    PERI_TRY(peri_memory_acquire(context, count, sizeof(float), &job.buffers));
    peri_loop loop = { "train", threads, control };
    peri_status status = peri_parallel(context, &loop, job.sample.cols, column_task, &job);
    peri_memory_release(context, job.buffers, count, sizeof(float));
    return status;
}

static void swap(float *values, size_t a, size_t b) {
    float kept = values[a];
    values[a] = values[b];
    values[b] = kept;
}

/* Hoare's selection with the middle of three as pivot and three-way partition, so that equal
 * values cost nothing. */
float peri_column_select(float *values, size_t count, size_t rank) {
    size_t first = 0, stop = count;
    while (stop - first > 1) {
        float a = values[first], b = values[first + (stop - first) / 2], c = values[stop - 1];
        float pivot = a < b ? (b < c ? b : a < c ? c : a) : (a < c ? a : b < c ? c : b);
        size_t below = first, above = stop, i = first;
        while (i < above) {
            if (values[i] < pivot)
                swap(values, i++, below++);
            else if (values[i] > pivot)
                swap(values, i, --above);
            else
                i++;
        }
        if (rank < below)
            stop = below;
        else if (rank >= above)
            first = above;
        else
            return pivot;
    }
    return values[rank];
}

float peri_column_mean(const float *values, size_t count) {
    double sum = 0;
    for (size_t i = 0; i < count; i++) sum += (double)values[i];
    return (float)(sum / (double)count);
}
