/* parity_rows.h: convert, lengths, gather. A part of device_parity_test. */
#ifndef PERIGEE_SPEC_PARITY_ROWS_H
#define PERIGEE_SPEC_PARITY_ROWS_H

#include "parity.h"

/* Runs convert at a place and brings back what `out`'s rows became, spare elements included. */
static peri_status convert_at(place *p, const peri_view *in, const peri_view *out, void *result) {
    peri_op_convert op = { PERI_OP_CONVERT, place_put_view(p, in), *out };
    size_t bytes = out->rows * out->stride_bytes;
    op.out.place = p->device->place;
    op.out.data = place_room(p, bytes);
    peri_status status = place_run(p, &op);
    if (status == PERI_OK) place_fetch(p, result, op.out.data, bytes);
    return status;
}

static void check_convert(pair *t, peri_dtype from, peri_dtype to, size_t rows, size_t cols,
                          size_t spare, float scale) {
    peri_view in = test_matrix(from, rows, cols, spare, cols + 7);
    if (from == PERI_F32)
        for (size_t i = 0; i < rows * (cols + spare); i++) ((float *)in.data)[i] *= scale;
    size_t stride = (cols + 1) * peri_dtype_bytes(to);
    peri_view out = { NULL, rows, cols, stride, to, PERI_CPU };
    void *wanted = test_new(rows, stride), *found = test_new(rows, stride);
    place_must(convert_at(&t->ref, &in, &out, wanted), "ref convert");
    if (went(t, PERI_OP_CONVERT, "convert", convert_at(&t->tested, &in, &out, found)))
        CHECK(memcmp(wanted, found, rows * stride) == 0, "convert %s to %s, %zu x %zu, scale %g",
              peri_dtype_name(from), peri_dtype_name(to), rows, cols, (double)scale);
    clear(t);
    free(in.data);
    free(wanted);
    free(found);
}

/* Every half, then floats that round, saturate, underflow and are not finite. */
static void check_convert_values(pair *t) {
    static const float special[] = { 0.0f,       -0.0f,     0.5f,     1.5f,      2.5f,     -0.5f,
                                     127.5f,     128.5f,    -128.5f,  255.5f,    1e30f,    -1e30f,
                                     65504.0f,   65519.0f,  65520.0f, 0x1p-14f,  0x1p-24f, 0x1p-25f,
                                     0x1.8p-25f, 0x1p-149f, INFINITY, -INFINITY, NAN,      -NAN };
    size_t count = sizeof special / sizeof special[0];
    peri_view in = { test_new(65536, 2), 256, 256, 512, PERI_F16, PERI_CPU };
    for (size_t i = 0; i < 65536; i++) ((uint16_t *)in.data)[i] = (uint16_t)i;
    for (size_t to = 0; to < TEST_DTYPES; to++) {
        size_t bytes = 65536 * peri_dtype_bytes(dtypes[to]);
        peri_view out = { NULL, 256, 256, bytes / 256, dtypes[to], PERI_CPU };
        peri_view few = {
            (void *)(uintptr_t)special, 1, count, sizeof special, PERI_F32, PERI_CPU
        };
        peri_view few_out = { NULL,       1,       count, count * peri_dtype_bytes(dtypes[to]),
                              dtypes[to], PERI_CPU };
        char *wanted = test_new(1, bytes), *found = test_new(1, bytes);
        place_must(convert_at(&t->ref, &in, &out, wanted), "ref convert");
        if (went(t, PERI_OP_CONVERT, "convert", convert_at(&t->tested, &in, &out, found)))
            CHECK(memcmp(wanted, found, bytes) == 0, "convert every f16 to %s",
                  peri_dtype_name(dtypes[to]));
        place_must(convert_at(&t->ref, &few, &few_out, wanted), "ref convert");
        if (went(t, PERI_OP_CONVERT, "convert", convert_at(&t->tested, &few, &few_out, found)))
            for (size_t i = 0; i < count; i++)
                CHECK(memcmp(wanted + i * few_out.stride_bytes / count,
                             found + i * few_out.stride_bytes / count,
                             few_out.stride_bytes / count) == 0,
                      "convert %g to %s", (double)special[i], peri_dtype_name(dtypes[to]));
        clear(t);
        free(wanted);
        free(found);
    }
    free(in.data);
}

static peri_status lengths_at(place *p, const peri_view *rows, float *result) {
    peri_op_lengths op = { PERI_OP_LENGTHS, place_put_view(p, rows), NULL };
    op.out = place_room(p, rows->rows * sizeof *op.out);
    peri_status status = place_run(p, &op);
    if (status == PERI_OK) place_fetch(p, result, op.out, rows->rows * sizeof *op.out);
    return status;
}

static void check_lengths(pair *t, peri_dtype dtype, size_t rows, size_t cols) {
    peri_view in = test_matrix(dtype, rows, cols, rows % 2, 3 * cols);
    float *wanted = test_new(rows, sizeof *wanted), *found = test_new(rows, sizeof *found);
    size_t at = 0;
    place_must(lengths_at(&t->ref, &in, wanted), "ref lengths");
    if (went(t, PERI_OP_LENGTHS, "lengths", lengths_at(&t->tested, &in, found)))
        CHECK(test_same_bits(wanted, found, rows, &at), "lengths of %s, %zu x %zu, row %zu",
              peri_dtype_name(dtype), rows, cols, at);
    clear(t);
    free(in.data);
    free(wanted);
    free(found);
}

static peri_status gather_at(place *p, const peri_view *rows, const int64_t *slots, size_t count,
                             void *result, size_t stride) {
    peri_op_gather op = { PERI_OP_GATHER, place_put_view(p, rows), NULL, *rows };
    op.slots = place_put(p, slots, count * sizeof *slots);
    op.out.rows = count;
    op.out.stride_bytes = stride;
    op.out.data = place_room(p, count * stride);
    op.out.place = p->device->place;
    peri_status status = place_run(p, &op);
    if (status == PERI_OK) place_fetch(p, result, op.out.data, count * stride);
    return status;
}

static void check_gather(pair *t, peri_dtype dtype, size_t rows, size_t cols, size_t count,
                         size_t spare) {
    size_t bytes = peri_dtype_bytes(dtype), in_stride = (cols + spare) * bytes;
    size_t stride = (cols + spare) * bytes;
    peri_view in = { test_new(rows, in_stride), rows, cols, in_stride, dtype, PERI_CPU };
    for (size_t i = 0; i < rows * in_stride; i++)
        ((uint8_t *)in.data)[i] = (uint8_t)peri_random_mix(5, i);
    int64_t *slots = test_new(count, sizeof *slots);
    for (size_t i = 0; i < count; i++) slots[i] = peri_random_below(6, i, (uint32_t)rows);
    void *wanted = test_new(count, stride), *found = test_new(count, stride);
    place_must(gather_at(&t->ref, &in, slots, count, wanted, stride), "ref gather");
    if (went(t, PERI_OP_GATHER, "gather", gather_at(&t->tested, &in, slots, count, found, stride)))
        CHECK(memcmp(wanted, found, count * stride) == 0, "gather %zu of %zu x %zu %s, spare %zu",
              count, rows, cols, peri_dtype_name(dtype), spare);
    clear(t);
    free(in.data);
    free(slots);
    free(wanted);
    free(found);
}

static peri_status scatter_at(place *p, const peri_view *rows, const int64_t *from,
                              const int64_t *to, size_t count, size_t room, void *result) {
    size_t stride = rows->stride_bytes;
    peri_op_scatter op = { .kind = PERI_OP_SCATTER, .rows = place_put_view(p, rows), .out = *rows };
    op.from = place_put(p, from, count * sizeof *from);
    op.to = place_put(p, to, count * sizeof *to);
    op.count = count;
    op.out.rows = room;
    op.out.data = place_room(p, room * stride); /* what is not written keeps the pattern */
    op.out.place = p->device->place;
    peri_status status = place_run(p, &op);
    if (status == PERI_OK) place_fetch(p, result, op.out.data, room * stride);
    return status;
}

/* Every second row of the room, from the last one down. */
static void check_scatter(pair *t, peri_dtype dtype, size_t rows, size_t cols, size_t count,
                          bool named) {
    peri_view in = test_matrix(dtype, rows, cols, 1, 8);
    size_t room = 2 * count, bytes = room * in.stride_bytes;
    int64_t *from = named ? test_new(count, sizeof *from) : NULL;
    int64_t *to = test_new(count, sizeof *to);
    for (size_t i = 0; i < count; i++) {
        to[i] = (int64_t)(room - 1 - 2 * i);
        if (named) from[i] = peri_random_below(6, i, (uint32_t)rows);
    }
    void *wanted = test_new(1, bytes), *found = test_new(1, bytes);
    place_must(scatter_at(&t->ref, &in, from, to, count, room, wanted), "ref scatter");
    if (went(t, PERI_OP_SCATTER, "scatter",
             scatter_at(&t->tested, &in, from, to, count, room, found)))
        CHECK(memcmp(wanted, found, bytes) == 0, "scatter %zu of %zu x %zu %s%s", count, rows, cols,
              peri_dtype_name(dtype), named ? "" : ", all");
    clear(t);
    free(in.data);
    free(from);
    free(to);
    free(wanted);
    free(found);
}

static void sweep_rows(pair *t) {
    static const size_t dims[] = { 1, 31, 32, 33, 100, 130, 257 };
    for (size_t a = 0; a < TEST_DTYPES; a++) {
        for (size_t d = 0; d < sizeof dims / sizeof dims[0]; d++) {
            check_lengths(t, dtypes[a], 9, dims[d]);
            check_gather(t, dtypes[a], 50, dims[d], 33, d % 3);
            for (size_t b = 0; b < TEST_DTYPES; b++)
                check_convert(t, dtypes[a], dtypes[b], 5, dims[d], d % 2, d % 2 == 0 ? 1 : 300);
        }
    }
    check_gather(t, PERI_I64, 20, 3, 7, 0);
    check_gather(t, PERI_U32, 20, 4, 70, 0);
    check_convert(t, PERI_I32, PERI_I32, 3, 5, 1, 1);
    check_convert_values(t);
}

#endif
