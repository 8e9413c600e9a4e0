/* opq.c: books and rotation in turn. */
#include "quant/opq.h"

#include <math.h>
#include <string.h>

#include "core/checked.h"
#include "core/memory.h"
#include "core/threads.h"
#include "io/host_rows.h"
#include "quant/codebook.h"
#include "quant/lapack.h"
#include "quant/sample.h"

enum { FIRST_ITERS = 10, NEXT_ITERS = 2 }; /* of Lloyd's, before a rotation: taste */

typedef struct opq {
    const peri_opq_training *training;
    peri_context *context;
    peri_pq *pq;
    peri_view sample; /* on the host */
    uint8_t *codes;   /* [m, row_bytes] of the rotated sample, on the host */
    float *words;     /* the codebooks on the host */
    double *sums;     /* [workers, 2^pq_bits, dim] */
    double *product;  /* [dim, rotated_dim]: sample^T * what the codes stand for */
    double *turned;   /* [dim, rotated_dim]: the next rotation, transposed */
    double *energies; /* [pq_dim] squared lengths of what a piece's codes stand for, all rows */
    size_t words_count, row_bytes, workers;
    size_t done; /* rotations, for progress */
} opq;

static peri_status opq_init(opq *run) {
    const peri_pq *pq = run->pq;
    size_t codes = (size_t)1 << pq->pq_bits, cells = (size_t)pq->dim * pq->rotated_dim;
    peri_context *context = run->context;
    run->words_count = pq->pq_dim * codes * pq->pq_len;
    run->row_bytes = peri_pq_row_bytes(pq->pq_dim, pq->pq_bits);
    run->workers = peri_threads(context, run->training->threads);
    PERI_TRY(peri_memory_acquire(context, run->sample.rows, run->row_bytes, &run->codes));
    PERI_TRY(peri_memory_acquire(context, run->words_count, sizeof(float), &run->words));
    PERI_TRY(
        peri_memory_acquire(context, run->workers * codes * pq->dim, sizeof(double), &run->sums));
    PERI_TRY(peri_memory_acquire(context, pq->pq_dim, sizeof(double), &run->energies));
    PERI_TRY(peri_memory_acquire(context, cells, sizeof(double), &run->product));
    return peri_memory_acquire(context, cells, sizeof(double), &run->turned);
}

static void opq_reset(opq *run) {
    const peri_pq *pq = run->pq;
    size_t codes = (size_t)1 << pq->pq_bits, cells = (size_t)pq->dim * pq->rotated_dim;
    peri_context *context = run->context;
    peri_memory_release(context, run->codes, run->sample.rows, run->row_bytes);
    peri_memory_release(context, run->words, run->words_count, sizeof(float));
    peri_memory_release(context, run->sums, run->workers * codes * pq->dim, sizeof(double));
    peri_memory_release(context, run->energies, pq->pq_dim, sizeof(double));
    peri_memory_release(context, run->product, cells, sizeof(double));
    peri_memory_release(context, run->turned, cells, sizeof(double));
}

/* Books for the rotated sample, going on from those there are, and its codes. */
static peri_status code_sample(opq *run, peri_matrix *rotated, uint32_t n_iters) {
    peri_pq *pq = run->pq;
    peri_codebook_training training = { .rows = rotated,
                                        .books = pq->pq_dim,
                                        .pq_bits = pq->pq_bits,
                                        .n_iters = n_iters,
                                        .seed = run->training->seed,
                                        .start = pq->codebooks,
                                        .threads = run->training->threads,
                                        .control = run->training->control };
    peri_matrix *books;
    peri_device *device;
    peri_lane *lane = NULL;
    uint8_t *codes;
    peri_view view = peri_matrix_view(rotated);
    PERI_TRY(peri_codebooks_train(&training, &books));
    peri_matrix_release(pq->codebooks);
    pq->codebooks = books;
    PERI_TRY(peri_context_device(run->context, view.place, &device));
    peri_status status;
    PERI_GO(peri_lane_acquire(device, &lane));
    peri_lane_follow(lane, training.control, training.threads);
    PERI_GO(peri_lane_out(lane, run->codes, view.rows, run->row_bytes, &codes));
    PERI_GO(peri_pq_encode(pq, lane, &view, NULL, codes));
    PERI_GO(peri_lane_fetch(lane, run->codes, codes, view.rows, run->row_bytes));
    PERI_GO(peri_lane_wait(lane, training.control));
    PERI_GO(peri_matrix_read(books, 0, peri_matrix_view(books).rows, run->words));
done:
    peri_lane_release(lane);
    return status;
}

/* Columns of one piece of the product: the rows of each code are summed first, in order, so that
 * the codeword is multiplied once. */
static peri_status product_task(void *ud, size_t task, size_t worker) {
    const opq *run = ud;
    const peri_pq *pq = run->pq;
    size_t dim = pq->dim, len = pq->pq_len, codes = (size_t)1 << pq->pq_bits;
    double *sums = run->sums + worker * codes * dim;
    const float *words = run->words + task * codes * len;
    double energy = 0;
    memset(sums, 0, codes * dim * sizeof *sums);
    for (size_t r = 0; r < run->sample.rows; r++) {
        const float *x = peri_float_row(&run->sample, r);
        size_t code = peri_codes_get(run->codes + r * run->row_bytes, task, pq->pq_bits);
        double *sum = sums + code * dim;
        for (size_t i = 0; i < dim; i++) sum[i] += (double)x[i];
        for (size_t l = 0; l < len; l++)
            energy += (double)words[code * len + l] * (double)words[code * len + l];
    }
    run->energies[task] = energy;
    for (size_t i = 0; i < dim; i++) {
        double *to = run->product + i * pq->rotated_dim + task * len;
        memset(to, 0, len * sizeof *to);
        for (size_t c = 0; c < codes; c++)
            for (size_t l = 0; l < len; l++)
                to[l] += sums[c * dim + i] * (double)words[c * len + l];
    }
    return PERI_OK;
}

/* One rotation further. `error` gets the sample's squared error under the new rotation, but for a
 * constant: |y|^2 - 2 <x, y>, whose products are the singular values. */
static peri_status turn(opq *run, peri_place place, double *error) {
    peri_pq *pq = run->pq;
    peri_loop loop = { NULL, run->training->threads, run->training->control };
    peri_matrix *host = NULL, *there;
    double sum = 0;
    peri_status status;
    PERI_GO(peri_parallel(run->context, &loop, pq->pq_dim, product_task, run));
    PERI_GO(peri_lapack_procrustes(run->context, run->product, pq->dim, pq->rotated_dim,
                                   run->turned, &sum));
    *error = -2 * sum;
    for (size_t j = 0; j < pq->pq_dim; j++) *error += run->energies[j];
    PERI_GO(peri_host_matrix_create(run->context, pq->rotated_dim, pq->dim, PERI_F32, &host));
    float *rotation = peri_matrix_view(host).data;
    for (size_t i = 0; i < pq->dim; i++)
        for (size_t j = 0; j < pq->rotated_dim; j++)
            rotation[j * pq->dim + i] = (float)run->turned[i * pq->rotated_dim + j];
    PERI_GO(peri_matrix_move(host, place, &there));
    peri_matrix_release(pq->rotation);
    pq->rotation = there;
done:
    peri_matrix_release(host);
    return status;
}

/* `count` rotations from where the pq is. */
static peri_status turn_often(opq *run, uint32_t count, double *error) {
    const peri_opq_training *t = run->training;
    peri_place place = peri_matrix_view(t->sample).place;
    for (uint32_t i = 0; i < count; i++) {
        peri_matrix *rotated;
        if (t->control != NULL)
            PERI_TRY(t->control->poll(t->control->ud, "rotate", run->done, t->n_iters));
        PERI_TRY(peri_pq_rotated(run->pq, t->sample, t->threads, NULL, &rotated));
        uint32_t n_iters = run->pq->codebooks == NULL ? FIRST_ITERS : NEXT_ITERS;
        peri_status status = code_sample(run, rotated, n_iters);
        peri_matrix_release(rotated);
        PERI_TRY(status);
        PERI_TRY(turn(run, place, error));
        run->done++;
    }
    return PERI_OK;
}

/* A few rotations from the columns as they are, and from a random rotation; what has the smaller
 * error goes on. Columns that belong together (neighbouring cells of a SIFT descriptor) are lost by
 * the one, columns of falling variance by the other. */
static peri_status choose_start(opq *run, uint32_t count) {
    peri_pq *pq = run->pq, plain = *pq;
    peri_place place = peri_matrix_view(run->training->sample).place;
    double plain_error = INFINITY, error = 0;
    peri_status status;
    if (pq->dim == pq->rotated_dim) {
        PERI_GO(turn_often(run, count, &plain_error));
        plain = *pq;
        pq->rotation = pq->codebooks = NULL;
    }
    PERI_GO(peri_pq_make_rotation(pq, run->context, place, true, run->training->seed));
    PERI_GO(turn_often(run, count, &error));
    if (plain_error <= error) {
        peri_pq kept = plain;
        plain = *pq;
        *pq = kept;
    }
done:
    peri_pq_reset(&plain);
    return status;
}

peri_status peri_opq_learn_rotation(peri_pq *pq, const peri_opq_training *training) {
    opq run = { .training = training, .context = peri_matrix_context(training->sample), .pq = pq };
    uint32_t trial = (training->n_iters + 3) / 4;
    peri_matrix *host = NULL;
    const char *name;
    double error;
    peri_status status;
    PERI_TRY(peri_lapack_find(&name));
    PERI_TRY(peri_matrix_move(training->sample, PERI_CPU, &host));
    run.sample = peri_matrix_view(host);
    PERI_GO(opq_init(&run));
    PERI_GO(choose_start(&run, trial));
    PERI_GO(turn_often(&run, training->n_iters - trial, &error));
done:
    peri_matrix_release(host);
    opq_reset(&run);
    peri_matrix_release(pq->codebooks);
    pq->codebooks = NULL;
    return status;
}
