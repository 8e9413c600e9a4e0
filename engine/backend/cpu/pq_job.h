/* pq_job.h: a scan of product-quantized codes while it runs, what a worker has, and a query on a
 * list with the tables that bound its values. */
#ifndef PERI_BACKEND_CPU_PQ_JOB_H
#define PERI_BACKEND_CPU_PQ_JOB_H

#include "backend/cpu/list_work.h"
#include "backend/cpu/pq_scan.h"
#include "backend/cpu/sums.h"

#define PERI_PQ_NO_LIMIT UINT32_MAX

/* How entries get their values and what passes them over. */
typedef enum peri_pq_way {
    PERI_PQ_PLAIN,  /* the values of all, from T */
    PERI_PQ_NARROW, /* codes of 4 bits: T, and small tables of it */
    PERI_PQ_WIDE,   /* codes of 5 to 8 bits: the same, where lists don't change T */
    PERI_PQ_DIRECT  /* where they do: small tables for the bound at hand, values without T */
} peri_pq_way;

/* The small tables of a query, but for what the list adds. */
typedef struct peri_pq_bounds {
    float scale;
    double low_sum, largest;
} peri_pq_bounds;

typedef struct peri_pq_job {
    peri_list_work work;
    const peri_op_pq_scan *op;
    const peri_pq_kernels *kernels;
    peri_sums_fn dot;
    peri_pq_shape shape;
    peri_pq_way way;
    uint32_t most;      /* the largest number of a small table: sums fit 16 bits */
    bool fixed;         /* small tables do not depend on the list: made once a batch */
    size_t together;    /* queries whose tables are there at once */
    size_t table_bytes; /* of the small tables of a query */
    float *words;       /* transposed codewords: of all books, or NULL with a book for each list */
    float *norms;       /* their squares [pq_dim, words], or NULL; PERI_PQ_DIRECT */
    double norm_sum;    /* the sum of the largest of each piece */
    float *fixed_T;     /* [batch_limit, pq_dim, words] */
    uint8_t *fixed_small;
    peri_pq_bounds *fixed_bounds;
    char *parts; /* of the workers, part_bytes each */
    size_t part_bytes;
} peri_pq_job;

/* What a worker has. */
typedef struct peri_pq_part {
    float *t;       /* [together, dim] of queries less the centroid */
    float *words;   /* transposed codewords of a list's own book */
    float *norms;   /* of it */
    float *lows;    /* [pq_dim] */
    float *T;       /* [together, pq_dim, words] */
    uint8_t *small; /* [together, table_bytes] */
    uint8_t *tail;  /* one group of codes */
} peri_pq_part;

/* Codewords for a list. */
typedef struct peri_pq_books {
    const float *words; /* transposed */
    const float *norms; /* or NULL */
    const float *plain; /* as they come */
    double norm_sum;
} peri_pq_books;

/* A query on a list. */
typedef struct peri_pq_asked {
    size_t query; /* of the batch */
    const uint64_t *bits;
    peri_list_keep *keep;
    const peri_pq_books *books;
    float dot;      /* D of the contract */
    float *t;       /* PERI_PQ_DIRECT: less the centroid; [dim] */
    float *T;       /* else: [pq_dim, words] */
    uint8_t *small; /* table_bytes */
    double low_sum; /* of sign * T at least */
    double slack;   /* of rounding: sums of f32 against the sums of their numbers */
    double scale;   /* of the small tables */
    float bound;    /* what `limit` is for */
    bool waits;     /* PERI_PQ_DIRECT: for a bound, and then for small tables */
    bool closed;    /* no entry can be near enough */
    uint32_t limit;
    size_t passed;
    size_t count; /* entries that the fast scan let through and that wait for their values */
    const uint8_t *codes[PERI_PQ_PICKED]; /* their first bytes; the others are a group apart */
    uint32_t slots[PERI_PQ_PICKED];
} peri_pq_asked;

/* Where a worker's part is; returns its bytes. `base` NULL: only how many. */
size_t peri_pq_lay_out(const peri_pq_job *job, char *base, peri_pq_part *p);

/* Fills job->words and job->norms. */
void peri_pq_transpose(peri_pq_job *job);
/* Codewords for a list, from the part where it has its own. */
peri_pq_books peri_pq_books_of(const peri_pq_job *job, const peri_pq_part *p, size_t list);

/* Tables of a query that no list changes: peri_list_work.prepare. */
void peri_pq_prepare(const void *job, size_t query, size_t worker);

/* Tables of queries on a list, `within` the part, and limits by what is known of their nearest. */
void peri_pq_open(const peri_pq_job *job, const peri_pq_part *p, size_t list, peri_pq_asked *asked,
                  size_t count);

/* The limit for a bound; where the query waits for one, small tables first. */
void peri_pq_set_limit(const peri_pq_job *job, peri_pq_asked *a, float bound);

/* From S to the value. */
float peri_pq_value(const peri_pq_job *job, const peri_pq_asked *a, float sum);

#endif
