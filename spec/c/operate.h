/* operate.h: what the tests of operations share: devices, data, runs with guarded scratch.
 *
 * Memory comes from calloc through test_new, so that a sanitizer sees each block; scratch is filled
 * with junk first (an operation may not count on zeros) and has a guard behind it. */
#ifndef PERIGEE_SPEC_OPERATE_H
#define PERIGEE_SPEC_OPERATE_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/distances.h"
#include "check.h"
#include "core/context.h"
#include "core/distance.h"
#include "core/half.h"
#include "core/matrix.h"
#include "core/random.h"

#define TEST_DTYPES 4 /* f32 f16 i8 u8 */
#define TEST_METRICS                                                                               \
    3 /* euclidean is squared L2 inside; the report differs, and has its own test */

static const peri_metric test_metrics[] = { PERI_SQEUCLIDEAN, PERI_INNER_PRODUCT, PERI_COSINE };
/* Those that no pass of matrix multiplication bounds; hamming is of u8 rows. */
static const peri_metric test_other_metrics[] = { PERI_L1, PERI_HAMMING };
#define TEST_OTHER_METRICS 2

/* A block of its own, 64-byte aligned when its size is a multiple of 64. */
static inline void *test_new(size_t count, size_t size) {
    void *block = calloc(count + 1, size);
    if (block == NULL) exit(2);
    return block;
}

static inline peri_device *test_device(peri_context *context, peri_place_kind kind) {
    peri_device *device = NULL;
    peri_status status = peri_context_device(context, (peri_place){ (uint16_t)kind, 0 }, &device);
    if (status != PERI_OK) {
        fprintf(stderr, "no device %d: %s\n", kind, peri_error_detail());
        exit(2);
    }
    return device;
}

static inline peri_context *test_context(uint32_t threads) {
    peri_context_options options = PERI_CONTEXT_OPTIONS_INIT;
    peri_context *context = NULL;
    options.threads = threads;
    if (peri_context_create(&options, &context) != PERI_OK) exit(2);
    return context;
}

/* Runs an operation on `threads` workers (0 = the device's) and waits. */
static inline peri_status test_run(peri_device *device, const void *operation, size_t threads,
                                   const peri_control *control) {
    const peri_op *op = operation;
    char reason[256] = "";
    if (!device->driver->supports(device, op, reason, sizeof reason))
        return peri_fail(PERI_E_UNSUPPORTED, "%s", reason);
    peri_stream *stream = NULL;
    peri_status status = device->driver->stream_open(device, &stream);
    if (status != PERI_OK) return status;
    stream->threads = threads;
    stream->control = control;
    size_t bytes = device->driver->scratch_bytes(device, op), guard = 64;
    unsigned char *scratch = aligned_alloc(64, (bytes + guard + 63) / 64 * 64);
    if (scratch == NULL) exit(2);
    memset(scratch, 0xA5, bytes + guard);
    status = device->driver->run(stream, op, scratch, bytes);
    peri_status waited = device->driver->stream_wait(stream, control);
    size_t written = 0;
    for (size_t i = bytes; i < bytes + guard; i++) written += scratch[i] != 0xA5;
    CHECK(written == 0, "%zu bytes behind the scratch were written", written);
    free(scratch);
    device->driver->stream_close(stream);
    return status == PERI_OK ? waited : status;
}

static inline float test_uniform(uint64_t seed, uint64_t i) {
    return (float)(peri_random_mix(seed, i) >> 40) * 0x1p-23f - 1.0f;
}

static inline void test_store(peri_dtype dtype, void *row, size_t j, float value) {
    switch (dtype) {
    case PERI_F16: ((uint16_t *)row)[j] = peri_float_to_half(value); break;
    case PERI_I8: ((int8_t *)row)[j] = (int8_t)rintf(127 * value); break;
    case PERI_U8: ((uint8_t *)row)[j] = (uint8_t)rintf(127.5f * value + 127.5f); break;
    default: ((float *)row)[j] = value; break;
    }
}

/* A matrix of random values in [-1, 1) (integers: the whole range), `spare` elements between its
 * rows. */
static inline peri_view test_matrix(peri_dtype dtype, size_t rows, size_t cols, size_t spare,
                                    uint64_t seed) {
    size_t stride = (cols + spare) * peri_dtype_bytes(dtype);
    peri_view view = { test_new(rows, stride), rows, cols, stride, dtype, PERI_CPU };
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++)
            test_store(dtype, peri_view_row(&view, i), j, test_uniform(seed, i * cols + j));
    return view;
}

/* Canonical lengths of the rows; the caller frees. */
static inline float *test_lengths(const peri_view *rows) {
    float *lengths = test_new(rows->rows, sizeof *lengths);
    for (size_t i = 0; i < rows->rows; i++)
        lengths[i] = peri_canonical_length(rows->dtype, peri_view_row(rows, i),
                                           (uint32_t)rows->cols);
    return lengths;
}

static inline bool test_same_bits(const float *a, const float *b, size_t count, size_t *at) {
    for (size_t i = 0; i < count; i++) {
        uint32_t x, y;
        memcpy(&x, a + i, sizeof x);
        memcpy(&y, b + i, sizeof y);
        *at = i;
        if (x != y) return false;
    }
    return true;
}

/* Calls `body` with each instruction set in turn; absent ones are skipped by name. */
static inline void test_each_isa(void (*body)(peri_isa isa, void *ud), void *ud) {
    for (int isa = 0; isa < PERI_ISA_COUNT; isa++) {
        if (!peri_isa_force((peri_isa)isa)) {
            check_skip(peri_isa_name((peri_isa)isa), "this CPU lacks it");
            continue;
        }
        body((peri_isa)isa, ud);
    }
    peri_isa_force(PERI_ISA_COUNT);
}

#endif
