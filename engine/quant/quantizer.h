/* quantizer.h: the handle around a quantizer of any kind, and what a kind brings.
 *
 * A kind is a table: its parameters, how to train, and how to code rows: one row at a time on the
 * host (encode, decode; quantizer.c runs them in parallel), or a batch at a time with operations
 * of a place (encode_batch, decode_batch). Saving and opening are one generic walk over parameters
 * and sections. Threads: a quantizer is immutable once made; any number at once. */
#ifndef PERI_QUANT_QUANTIZER_H
#define PERI_QUANT_QUANTIZER_H

#include <stdatomic.h>

#include "core/params.h"
#include "io/container.h"
#include "quant/binary.h"
#include "quant/pq.h"
#include "quant/rabitq.h"
#include "quant/sq.h"

#define PERI_QUANTIZER_SECTIONS_MAX 4
#define PERI_QUANTIZER_PARAMS_BYTES 128

/* What one call of encode or decode works on: rows f32 [n, dim] of host memory, or any matrix for
 * the kinds that code in batches, and their codes [n, row_bytes], packed, on the host. */
typedef struct peri_code_batch {
    peri_matrix *rows; /* in of encode, out of decode (f32, host) */
    uint8_t *codes;
    size_t threads;
    const peri_control *control;
} peri_code_batch;

typedef struct peri_quantizer_kind {
    const char *name;
    const peri_param_table *train_table;
    /* Learns from train->rows; context, dim and params are set, params become the resolved ones. */
    peri_status (*train)(peri_quantizer *self, const peri_train *train);
    /* Takes sections of a file, which are not trusted; context, dim and params are set. */
    peri_status (*adopt)(peri_quantizer *self, peri_container *file);
    /* Lists the sections to save; returns how many. */
    size_t (*sections)(const peri_quantizer *self, peri_section *list);
    size_t (*row_bytes)(const peri_quantizer *self);
    size_t (*scratch_bytes)(const peri_quantizer *self); /* of a row; NULL = none */
    void (*encode)(const peri_quantizer *self, const float *x, uint8_t *code, void *scratch);
    void (*decode)(const peri_quantizer *self, const uint8_t *code, float *x, void *scratch);
    peri_status (*encode_batch)(const peri_quantizer *self, const peri_code_batch *batch);
    peri_status (*decode_batch)(const peri_quantizer *self, const peri_code_batch *batch);
    void (*describe)(const peri_quantizer *self, peri_field_fn field, void *ud); /* or NULL */
    void (*reset)(peri_quantizer *self);
} peri_quantizer_kind;

struct peri_quantizer {
    atomic_size_t references;
    peri_context *context;
    const peri_quantizer_kind *kind;
    uint32_t dim;
    size_t row_bytes;
    _Alignas(16) unsigned char params[PERI_QUANTIZER_PARAMS_BYTES];
    union {
        peri_sq sq;
        peri_binary binary;
        struct {
            peri_rabitq codes;
            peri_matrix *centroid; /* f32 [1, dim] on the host; NULL = none */
            float *rotated;        /* [padded_dim] of it */
        } rabitq;
        peri_pq pq;
    } as;
};

extern const peri_quantizer_kind peri_sq_kind, peri_binary_kind, peri_rabitq_kind, peri_pq_kind,
    peri_opq_kind;
const peri_quantizer_kind *peri_quantizer_kind_find(const char *name);

/* A new handle of a kind, with default parameters and nothing learned. */
peri_status peri_quantizer_create(peri_context *context, const peri_quantizer_kind *kind,
                                  uint32_t dim, peri_quantizer **out);

/* A sample of train->rows as f32 on the host, checked for NaN and Inf. */
peri_status peri_train_sample(const peri_train *train, size_t most, uint64_t seed,
                              peri_matrix **out);

/* Tells one whole number. */
void peri_tell_int(peri_field_fn field, void *ud, const char *key, int64_t value);

/* A row of X(…) that every kind has which learns from a sample of columns. */
#define PERI_SAMPLE_PARAMS(X, S)                                                                   \
    X(S, INT, max_train_rows, 65536, 1, 16777216, NULL, NULL,                                      \
      "rows to learn from at most, a seeded sample")                                               \
    X(S, INT, seed, 137, 0, 9007199254740991, NULL, NULL, "of the random choices")

#endif
