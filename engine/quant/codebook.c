/* codebook.c: Lloyd's iterations over all books of a product quantizer. */
#include "quant/codebook.h"

#include <math.h>
#include <string.h>

#include "core/checked.h"
#include "core/codes.h"
#include "core/lane.h"
#include "core/memory.h"
#include "core/random.h"
#include "core/threads.h"
#include "io/host_rows.h"
#include "quant/sample.h"

/* Books of one task share the cache lines of the rows they read. */
#define TASK_COLUMNS 16u

typedef struct lloyd {
    const peri_codebook_training *training;
    peri_context *context;
    peri_device *device;
    peri_view rows;    /* at the place */
    peri_matrix *host; /* the same on the host */
    size_t m, len, codes, row_bytes;
    float *words;          /* [books * codes, len] on the host */
    uint8_t *found, *last; /* [m, row_bytes] codes of this and of the last iteration */
    double *sums;          /* [books * codes, len] */
    uint32_t *counts;      /* [books * codes] */
    size_t words_count;
} lloyd;

static peri_status lloyd_init(lloyd *run) {
    const peri_codebook_training *t = run->training;
    run->context = peri_matrix_context(t->rows);
    run->rows = peri_matrix_view(t->rows);
    run->m = run->rows.rows;
    run->len = run->rows.cols / t->books;
    run->codes = (size_t)1 << t->pq_bits;
    run->row_bytes = peri_codes_bytes(t->books, t->pq_bits);
    run->words_count = t->books * run->codes;
    peri_context *context = run->context;
    PERI_TRY(peri_context_device(context, run->rows.place, &run->device));
    PERI_TRY(peri_host_floats(t->rows, &run->host));
    PERI_TRY(peri_memory_acquire(context, run->words_count * run->len, sizeof(float), &run->words));
    PERI_TRY(peri_memory_acquire(context, run->words_count * run->len, sizeof(double), &run->sums));
    PERI_TRY(peri_memory_acquire(context, run->words_count, sizeof(uint32_t), &run->counts));
    PERI_TRY(peri_memory_acquire(context, run->m, run->row_bytes, &run->found));
    return peri_memory_acquire(context, run->m, run->row_bytes, &run->last);
}

static void lloyd_reset(lloyd *run) {
    peri_context *context = run->context;
    peri_matrix_release(run->host);
    peri_memory_release(context, run->words, run->words_count * run->len, sizeof(float));
    peri_memory_release(context, run->sums, run->words_count * run->len, sizeof(double));
    peri_memory_release(context, run->counts, run->words_count, sizeof(uint32_t));
    peri_memory_release(context, run->found, run->m, run->row_bytes);
    peri_memory_release(context, run->last, run->m, run->row_bytes);
}

/* ---- the beginning ------------------------------------------------------------------------ */

/* Codeword c of each book is the piece of a row of the c-th part of the rows. */
static void draw_words(const lloyd *run) {
    const peri_codebook_training *t = run->training;
    peri_view rows = peri_matrix_view(run->host);
    size_t drawn = peri_min_size(run->codes, run->m);
    for (size_t book = 0; book < t->books; book++) {
        uint64_t seed = peri_random_mix(t->seed, book);
        for (size_t c = 0; c < run->codes; c++) {
            size_t part = c < drawn ? c : 0;
            size_t first = part * run->m / drawn, stop = (part + 1) * run->m / drawn;
            size_t row = first + peri_random_mix(seed, part) % (stop - first);
            memcpy(run->words + (book * run->codes + c) * run->len,
                   peri_float_row(&rows, row) + book * run->len, run->len * sizeof(float));
        }
    }
}

/* ---- one iteration ------------------------------------------------------------------------ */

static peri_status assign(const lloyd *run) {
    const peri_codebook_training *t = run->training;
    peri_lane *lane = NULL;
    uint8_t *codes = NULL;
    peri_op_pq_encode op = { .kind = PERI_OP_PQ_ENCODE,
                             .rows = run->rows,
                             .books = t->books,
                             .pq_dim = t->books,
                             .pq_len = (uint32_t)run->len,
                             .pq_bits = t->pq_bits };
    size_t count = run->words_count * run->len;
    peri_status status;
    PERI_GO(peri_lane_acquire(run->device, &lane));
    peri_lane_follow(lane, t->control, t->threads);
    PERI_GO(peri_lane_upload(lane, run->words, count, sizeof(float), &op.codebooks));
    PERI_GO(peri_lane_out(lane, run->found, run->m, run->row_bytes, &codes));
    op.codes = codes;
    PERI_GO(peri_lane_run(lane, (const peri_op *)&op));
    PERI_GO(peri_lane_fetch(lane, run->found, codes, run->m, run->row_bytes));
    PERI_GO(peri_lane_wait(lane, t->control));
done:
    peri_lane_release(lane);
    return status;
}

static void sum_book(const lloyd *run, size_t book) {
    peri_view rows = peri_matrix_view(run->host);
    size_t len = run->len;
    double *sums = run->sums + book * run->codes * len;
    uint32_t *counts = run->counts + book * run->codes;
    memset(sums, 0, run->codes * len * sizeof *sums);
    memset(counts, 0, run->codes * sizeof *counts);
    for (size_t r = 0; r < run->m; r++) {
        size_t c = peri_codes_get(run->found + r * run->row_bytes, book, run->training->pq_bits);
        const float *x = peri_float_row(&rows, r) + book * len;
        for (size_t l = 0; l < len; l++) sums[c * len + l] += (double)x[l];
        counts[c]++;
    }
}

/* The largest code gives half of its pieces to an empty one: their words part by 1/1024 of each
 * element, this way and that, so that the next assignment splits them. */
static void split_largest(const lloyd *run, float *words, uint32_t *counts, size_t empty) {
    size_t largest = 0;
    for (size_t c = 1; c < run->codes; c++)
        if (counts[c] > counts[largest]) largest = c;
    if (counts[largest] < 2) return;
    for (size_t l = 0; l < run->len; l++) {
        float *from = words + largest * run->len + l, *to = words + empty * run->len + l;
        float apart = fabsf(*from) * 0x1p-10f * (l % 2 == 0 ? 1.0f : -1.0f);
        *to = *from - apart;
        *from += apart;
    }
    counts[empty] = counts[largest] / 2;
    counts[largest] -= counts[empty];
}

static void move_words(const lloyd *run, size_t book) {
    size_t len = run->len, drawn = peri_min_size(run->codes, run->m);
    float *words = run->words + book * run->codes * len;
    const double *sums = run->sums + book * run->codes * len;
    uint32_t *counts = run->counts + book * run->codes;
    for (size_t c = 0; c < run->codes; c++)
        for (size_t l = 0; l < len && counts[c] > 0; l++)
            words[c * len + l] = (float)(sums[c * len + l] / counts[c]);
    for (size_t c = 0; c < drawn; c++)
        if (counts[c] == 0) split_largest(run, words, counts, c);
    for (size_t c = drawn; c < run->codes; c++) memcpy(words + c * len, words, len * sizeof *words);
}

static size_t task_books(const lloyd *run) { return peri_max_size(1, TASK_COLUMNS / run->len); }

static peri_status update_task(void *ud, size_t task, size_t worker) {
    const lloyd *run = ud;
    size_t first = task * task_books(run);
    size_t stop = peri_min_size(first + task_books(run), run->training->books);
    (void)worker;
    for (size_t book = first; book < stop; book++) {
        sum_book(run, book);
        move_words(run, book);
    }
    return PERI_OK;
}

static peri_status iterate(lloyd *run) {
    const peri_codebook_training *t = run->training;
    peri_loop loop = { NULL, t->threads, t->control };
    size_t tasks = peri_ceil_div(t->books, task_books(run));
    for (uint32_t i = 0; i < t->n_iters; i++) {
        PERI_TRY(assign(run));
        if (i > 0 && memcmp(run->found, run->last, run->m * run->row_bytes) == 0) break;
        PERI_TRY(peri_parallel(run->context, &loop, tasks, update_task, run));
        uint8_t *kept = run->last;
        run->last = run->found;
        run->found = kept;
    }
    return PERI_OK;
}

peri_status peri_codebooks_train(const peri_codebook_training *training, peri_matrix **codebooks) {
    lloyd run = { .training = training };
    peri_matrix *host = NULL;
    peri_status status;
    *codebooks = NULL;
    PERI_GO(lloyd_init(&run));
    size_t count = run.words_count;
    if (training->start == NULL)
        draw_words(&run);
    else
        PERI_GO(peri_matrix_read(training->start, 0, count, run.words));
    PERI_GO(iterate(&run));
    PERI_GO(peri_host_matrix_create(run.context, count, run.len, PERI_F32, &host));
    PERI_GO(peri_matrix_write(host, 0, count, run.words));
    PERI_GO(peri_matrix_move(host, run.rows.place, codebooks));
done:
    peri_matrix_release(host);
    lloyd_reset(&run);
    return status;
}
