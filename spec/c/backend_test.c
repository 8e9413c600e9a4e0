/* backend_test: convert, lengths, gather and refine on the cpu backend against ref, bit for bit, on
 * every instruction set and 1..4 threads; and the memory slots that both share. */
#include "operate.h"

#define THREADS 4

static peri_context *context;
static peri_device *cpu, *ref;
static size_t turn; /* threads are taken in turn */

static size_t following_threads(void) { return 1 + turn++ % THREADS; }

/* The bytes between rows must stay as they were, so whole blocks are compared. */
static bool same_block(const peri_view *a, const peri_view *b) {
    return memcmp(a->data, b->data, a->rows * a->stride_bytes) == 0;
}

static peri_view blank(peri_dtype dtype, size_t rows, size_t cols, size_t spare) {
    peri_view view = test_matrix(dtype, rows, 1, cols + spare - 1, 0);
    memset(view.data, 0x77, rows * view.stride_bytes);
    view.cols = cols;
    return view;
}

/* ---- convert ------------------------------------------------------------------------------ */

static void compare_convert(peri_op_convert *op, const char *what) {
    peri_view wanted = blank(op->out.dtype, op->in.rows, op->in.cols, 3);
    op->kind = PERI_OP_CONVERT;
    op->out = wanted;
    CHECK(test_run(ref, op, 0, NULL) == PERI_OK, "ref: %s", peri_error_detail());
    for (int isa = 0; isa < PERI_ISA_COUNT; isa++) {
        if (!peri_isa_force((peri_isa)isa)) continue;
        op->out = blank(wanted.dtype, op->in.rows, op->in.cols, 3);
        peri_status status = test_run(cpu, op, following_threads(), NULL);
        CHECK(status == PERI_OK && same_block(&op->out, &wanted),
              "%s: %s to %s on %s, %zu x %zu: %d", what, peri_dtype_name(op->in.dtype),
              peri_dtype_name(wanted.dtype), peri_isa_name((peri_isa)isa), op->in.rows, op->in.cols,
              status);
        free(op->out.data);
    }
    peri_isa_force(PERI_ISA_COUNT);
    op->out = wanted;
}

static void check_convert(peri_dtype from, peri_dtype to) {
    static const size_t cols[] = { 1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 100, 1023 };
    for (size_t c = 0; c < sizeof cols / sizeof *cols; c++) {
        peri_op_convert op = { .in = test_matrix(from, 33 * (c % 3), cols[c], c % 2, c) };
        if (from == PERI_F32) /* past the ranges of the others too */
            for (size_t i = 0; i < op.in.rows; i++)
                for (size_t j = 0; j < cols[c]; j++)
                    ((float *)peri_view_row(&op.in, i))[j] *= i % 2 == 0 ? 300.0f : 70000.0f;
        op.out.dtype = to;
        compare_convert(&op, "random");
        free(op.in.data);
        free(op.out.data);
    }
}

/* Every half to f32 and back; the way back gives what was there, but for the payload of a NaN. */
static void check_all_halves(void) {
    peri_view halves = test_matrix(PERI_F16, 64, 1024, 0, 1);
    for (size_t i = 0; i < 65536; i++) ((uint16_t *)halves.data)[i] = (uint16_t)i;
    peri_op_convert widen = { .in = halves, .out = { .dtype = PERI_F32 } };
    compare_convert(&widen, "all halves");
    peri_op_convert narrow = { .in = widen.out, .out = { .dtype = PERI_F16 } };
    compare_convert(&narrow, "all halves");
    size_t wrong = 0;
    for (size_t i = 0; i < 65536; i++) {
        bool nan = (i & 0x7C00) == 0x7C00 && (i & 0x3FF) != 0;
        const uint16_t *row = peri_view_row(&narrow.out, i / 1024);
        wrong += nan ? (row[i % 1024] & 0x7C00) != 0x7C00 : row[i % 1024] != i;
    }
    CHECK(wrong == 0, "%zu halves changed on the way to f32 and back", wrong);
    free(halves.data);
    free(widen.out.data);
    free(narrow.out.data);
}

/* Known answers: the oracle itself must round to even and saturate. */
static void check_rounding(void) {
    static const float in[] = { 0.5f,     1.5f,     2.5f,     -0.5f,    -1.5f,     126.5f, 127.5f,
                                1e9f,     -1e9f,    254.5f,   INFINITY, -INFINITY, NAN,    -3.2f,
                                65519.0f, 65520.0f, 0x1p-24f, 0x1p-25f, 0x1.8p-24f };
    static const int8_t i8[] = { 0,   2,    2, 0,  -2,  126, 127, 127, -128, 127,
                                 127, -128, 0, -3, 127, 127, 0,   0,   0 };
    static const uint8_t u8[] = { 0,   2, 2, 0, 0,   126, 128, 255, 0, 254,
                                  255, 0, 0, 0, 255, 255, 0,   0,   0 };
    size_t count = sizeof in / sizeof *in;
    peri_view view = { (void *)(uintptr_t)in, 1, count, sizeof in, PERI_F32, PERI_CPU };
    peri_op_convert op = { .in = view, .out = { .dtype = PERI_I8 } };
    compare_convert(&op, "rounding");
    CHECK(memcmp(op.out.data, i8, count) == 0, "f32 to i8");
    free(op.out.data);
    op.out = (peri_view){ .dtype = PERI_U8 };
    compare_convert(&op, "rounding");
    CHECK(memcmp(op.out.data, u8, count) == 0, "f32 to u8");
    free(op.out.data);
    op.out = (peri_view){ .dtype = PERI_F16 };
    compare_convert(&op, "rounding");
    const uint16_t *half = op.out.data;
    CHECK(half[14] == 0x7BFF && half[15] == 0x7C00 && half[16] == 1 && half[17] == 0 &&
              half[18] == 2,
          "f32 to f16: %x %x %x %x %x", half[14], half[15], half[16], half[17], half[18]);
    free(op.out.data);
}

/* ---- lengths and gather ------------------------------------------------------------------- */

static void check_lengths(peri_dtype dtype, size_t rows, size_t cols) {
    peri_op_lengths op = { .kind = PERI_OP_LENGTHS };
    op.rows = test_matrix(dtype, rows, cols, cols % 3, rows + cols);
    float *wanted = test_new(rows, sizeof *wanted), *found = test_new(rows, sizeof *found);
    size_t at = 0;
    op.out = wanted;
    CHECK(test_run(ref, &op, 0, NULL) == PERI_OK, "ref: %s", peri_error_detail());
    op.out = found;
    for (int isa = 0; isa < PERI_ISA_COUNT; isa++) {
        if (!peri_isa_force((peri_isa)isa)) continue;
        peri_status status = test_run(cpu, &op, following_threads(), NULL);
        CHECK(status == PERI_OK && test_same_bits(found, wanted, rows, &at),
              "lengths, %s %s, %zu x %zu: row %zu: %a, wanted %a", peri_dtype_name(dtype),
              peri_isa_name((peri_isa)isa), rows, cols, at, (double)found[at], (double)wanted[at]);
    }
    peri_isa_force(PERI_ISA_COUNT);
    free(wanted);
    free(found);
    free(op.rows.data);
}

static void check_gather(peri_dtype dtype, size_t rows, size_t cols, size_t picks) {
    peri_op_gather op = { .kind = PERI_OP_GATHER };
    int64_t *slots = test_new(picks, sizeof *slots);
    op.rows = test_matrix(PERI_U8, rows, cols * peri_dtype_bytes(dtype), 8, rows);
    op.rows.cols = cols;
    op.rows.dtype = dtype;
    op.slots = slots;
    for (size_t i = 0; i < picks; i++) slots[i] = peri_random_below(cols, i, (uint32_t)rows);
    peri_view wanted = blank(dtype, picks, cols, 2), found = blank(dtype, picks, cols, 2);
    op.out = wanted;
    CHECK(test_run(ref, &op, 0, NULL) == PERI_OK, "ref: %s", peri_error_detail());
    op.out = found;
    peri_status status = test_run(cpu, &op, following_threads(), NULL);
    CHECK(status == PERI_OK && same_block(&found, &wanted), "gather, %s %zu of %zu x %zu",
          peri_dtype_name(dtype), picks, rows, cols);
    free(op.rows.data);
    free(wanted.data);
    free(found.data);
    free(slots);
}

/* ---- refine ------------------------------------------------------------------------------- */

typedef struct results {
    int64_t *ids;
    float *distances;
} results;

static results new_results(size_t count) {
    results r = { test_new(count, sizeof(int64_t)), test_new(count, sizeof(float)) };
    memset(r.ids, 0x5A, count * sizeof(int64_t));
    return r;
}

static void free_results(results r) {
    free(r.ids);
    free(r.distances);
}

static void compare_refine(peri_op_refine *op, const char *what) {
    size_t count = op->queries.rows * (op->k == 0 ? op->columns : op->k), at = 0;
    results wanted = new_results(count);
    op->ids = wanted.ids;
    op->distances = wanted.distances;
    CHECK(test_run(ref, op, 0, NULL) == PERI_OK, "ref: %s", peri_error_detail());
    for (int isa = 0; isa < PERI_ISA_COUNT; isa++) {
        if (!peri_isa_force((peri_isa)isa)) continue;
        results found = new_results(count);
        op->ids = found.ids;
        op->distances = found.distances;
        peri_status status = test_run(cpu, op, following_threads(), NULL);
        bool same = test_same_bits(found.distances, wanted.distances, count, &at) &&
                    memcmp(found.ids, wanted.ids, count * sizeof(int64_t)) == 0;
        CHECK(status == PERI_OK && same, "refine, %s %s %s %s, %zu columns, k %zu, near %zu", what,
              peri_dtype_name(op->rows.dtype), peri_metric_name(op->metric),
              peri_isa_name((peri_isa)isa), op->columns, op->k, at);
        free_results(found);
    }
    peri_isa_force(PERI_ISA_COUNT);
    free_results(wanted);
}

static void check_refine(peri_dtype dtype, peri_metric metric, size_t rows, size_t columns) {
    static const size_t ks[] = { 0, 1, 2, 10, 300 };
    peri_op_refine op = { .kind = PERI_OP_REFINE, .metric = metric, .columns = columns };
    op.queries = test_matrix(peri_query_dtype(dtype), 9, 40, 1, 5);
    op.rows = test_matrix(dtype, rows, 40, 2, 6);
    float *lengths = test_lengths(&op.rows);
    op.lengths = metric == PERI_COSINE ? lengths : NULL;
    int64_t *candidates = test_new(9 * columns, sizeof *candidates);
    for (size_t i = 0; i < 9 * columns; i++) {
        bool none = rows == 0 || peri_random_below(columns, i, 10) == 0 || i / columns == 4;
        candidates[i] = none ? PERI_ID_NONE : peri_random_below(rows, i, (uint32_t)rows);
    }
    op.candidates = candidates;
    for (size_t i = 0; i < sizeof ks / sizeof *ks; i++) {
        op.k = ks[i];
        compare_refine(&op, rows < columns ? "many repeats" : "few repeats");
    }
    free(op.queries.data);
    free(op.rows.data);
    free(lengths);
    free(candidates);
}

/* ---- memory ------------------------------------------------------------------------------- */

static void check_memory(peri_device *device) {
    const peri_driver *driver = device->driver;
    peri_context_stats before, during, after;
    peri_mem *mem = NULL, *wrapped = NULL;
    char outside[64] = { 0 };
    peri_context_stat(context, &before);
    CHECK(driver->mem_acquire(device, 1000, PERI_MEMORY_DEVICE, PERI_USE_ROWS, &mem) == PERI_OK &&
              mem->bytes == 1000 && (uintptr_t)mem->data % 64 == 0,
          "acquire: %s", peri_error_detail());
    peri_context_stat(context, &during);
    CHECK(during.bytes >= before.bytes + 1000, "accounted: %zu", during.bytes - before.bytes);
    CHECK(driver->mem_wrap(device, outside, 64, &wrapped) == PERI_OK && wrapped->data == outside,
          "wrap");
    peri_stream *stream = NULL;
    CHECK(driver->stream_open(device, &stream) == PERI_OK, "stream");
    char rows[12] = "abcdefghijk";
    driver->fill(stream, mem->data, 'z', 100);
    driver->copy(stream, mem->data, 10, device, rows, 4, NULL, 3, 2);
    CHECK(memcmp(mem->data, "abzzzzzzzzefzzzzzzzzijzz", 24) == 0, "a copy between strides");
    driver->stream_close(stream);
    driver->mem_release(wrapped);
    driver->mem_release(mem);
    peri_context_stat(context, &after);
    CHECK(after.bytes == before.bytes && after.blocks == before.blocks,
          "all is given back: %zu bytes", after.bytes - before.bytes);
}

static void check_memory_limit(peri_place_kind kind) {
    peri_context_options options = PERI_CONTEXT_OPTIONS_INIT;
    peri_context *limited = NULL;
    options.memory_bytes = 1 << 20;
    if (!CHECK(peri_context_create(&options, &limited) == PERI_OK, "a context with a limit"))
        return;
    peri_device *device = test_device(limited, kind);
    peri_mem *mem = NULL;
    peri_status status = device->driver->mem_acquire(device, 2 << 20, PERI_MEMORY_DEVICE,
                                                     PERI_USE_ROWS, &mem);
    CHECK(status == PERI_E_MEMORY && mem == NULL &&
              strstr(peri_error_detail(), "2097152 bytes needed") != NULL,
          "past the limit: %d, %s", status, peri_error_detail());
    peri_context_stats stats;
    peri_context_stat(limited, &stats);
    CHECK(stats.bytes < 4096, "nothing is left behind: %zu bytes", stats.bytes);
    peri_context_release(limited);
}

int main(void) {
    context = test_context(THREADS);
    cpu = test_device(context, PERI_PLACE_CPU);
    ref = test_device(context, PERI_PLACE_REF);
    for (int isa = 0; isa < PERI_ISA_COUNT; isa++)
        if (!peri_isa_present((peri_isa)isa))
            check_skip(peri_isa_name((peri_isa)isa), "this CPU lacks it");
    for (int from = 0; from < TEST_DTYPES; from++)
        for (int to = 0; to < TEST_DTYPES; to++) check_convert((peri_dtype)from, (peri_dtype)to);
    check_all_halves();
    check_rounding();
    for (int d = 0; d < TEST_DTYPES; d++) {
        peri_dtype dtype = (peri_dtype)d;
        for (size_t cols = 1; cols <= 130; cols++) check_lengths(dtype, cols % 67, cols);
        check_lengths(dtype, 50, 4095);
        check_lengths(dtype, 5000, 33);
        for (int m = 0; m < TEST_METRICS; m++) {
            check_refine(dtype, test_metrics[m], 1000, 50);
            check_refine(dtype, test_metrics[m], 100, 333);
            check_refine(dtype, test_metrics[m], 0, 5);
            check_refine(dtype, test_metrics[m], 10, 0);
        }
    }
    for (int dtype = 0; dtype < PERI_DTYPE_COUNT; dtype++) {
        check_gather((peri_dtype)dtype, 100, 37, 1000);
        check_gather((peri_dtype)dtype, 1, 1, 3);
        check_gather((peri_dtype)dtype, 7, 20000, 60);
    }
    check_memory(cpu);
    check_memory(ref);
    check_memory_limit(PERI_PLACE_CPU);
    check_memory_limit(PERI_PLACE_REF);
    peri_context_release(context);
    return check_done();
}
