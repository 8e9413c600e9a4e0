/* io_hostile_test.c: files that lie. Every truncation, every byte changed, every integer of every
 * header replaced by hostile values; for the container also with its checksums made right again. A
 * reader may only say no, or (where a format has no checksum) give arrays that are in bounds, and
 * it may not take more memory than the file justifies: its size * 1.25 + 1 MiB. */
#include "io_samples.h"

#include "io/container_layout.h"
#include "io/crc32c.h"

/* ---- samples and readers ------------------------------------------------------------------ */

typedef enum reader_kind { READS_MATRIX, READS_CONTAINER, READS_HNSW } reader_kind;

typedef struct sample {
    char name[32];
    reader_kind kind;
    peri_dtype dtype;
    size_t stride; /* > 0: a file of rows without a header, which may be cut between rows */
    blob bytes;
} sample;

static peri_status read_matrix(peri_context *context, const char *path, bool map) {
    peri_load_options options = PERI_LOAD_OPTIONS_INIT;
    peri_matrix *matrix;
    options.map = map;
    peri_status status = peri_matrix_load(context, path, &options, &matrix);
    if (status == PERI_OK) matrix_touch(matrix);
    peri_matrix_release(matrix);
    return status;
}

static peri_status read_container(peri_context *context, const char *path, bool map) {
    peri_container *container;
    peri_status status = peri_container_open(context, path, map, NULL, &container);
    if (status != PERI_OK) return status;
    peri_options params = peri_container_params(container);
    for (size_t i = 0; i < params.count; i++)
        if (params.list[i].value.type == PERI_VALUE_TEXT)
            CHECK(strlen(params.list[i].value.as.text) < 1 << 20, "a text without end");
    peri_container_close(container);
    return PERI_OK;
}

/* Whether a graph can be walked without leaving its arrays. */
static void check_walkable(const peri_hnswlib_graph *g, const char *path) {
    uint8_t *levels = calloc(1, g->count + 1);
    CHECK(peri_hnswlib_check(g, PERI_E_CORRUPT, "accepted", NULL, levels) == PERI_OK, "%s: %s",
          path, peri_error_detail());
    CHECK(g->count == 0 || (g->entry < g->count && levels[g->entry] == g->level_max), "%s", path);
    peri_view base = peri_matrix_view(g->graph);
    for (size_t i = 0; i < g->count; i++) {
        const uint32_t *links = peri_view_row(&base, i);
        for (size_t j = 0; j < g->max_m0; j++)
            CHECK(links[j] < g->count || links[j] == PERI_SLOT_NONE, "%s: link %u", path, links[j]);
    }
    matrix_touch(g->rows);
    matrix_touch(g->labels);
    matrix_touch(g->links);
    free(levels);
}

static peri_status read_hnsw(peri_context *context, const char *path, peri_dtype dtype) {
    peri_hnswlib_graph g;
    peri_status status = peri_hnswlib_read(context, path, dtype, NULL, &g);
    if (status == PERI_OK) check_walkable(&g, path);
    peri_hnswlib_graph_release(&g);
    return status;
}

/* Reads a file as its sample is read; the failure must be one that files may cause. */
static peri_status read_sample(const sample *s, const char *path, size_t file_bytes, bool map) {
    peri_context *context = plain_context();
    peri_context_stats stats;
    peri_status status = s->kind == READS_MATRIX      ? read_matrix(context, path, map)
                         : s->kind == READS_CONTAINER ? read_container(context, path, map)
                                                      : read_hnsw(context, path, s->dtype);
    bool typed = status == PERI_OK || status == PERI_E_IO || status == PERI_E_CORRUPT ||
                 status == PERI_E_UNSUPPORTED;
    CHECK(typed, "%s: status %d, %s", s->name, status, peri_error_detail());
    peri_context_stat(context, &stats);
    CHECK(stats.bytes_peak <= file_bytes + file_bytes / 4 + ((size_t)1 << 20),
          "%s: %zu bytes taken for a file of %zu", s->name, stats.bytes_peak, file_bytes);
    context_end(context, s->name);
    return status;
}

static size_t make_samples(sample *samples) {
    peri_context *context = plain_context();
    size_t count = 0;
#define MATRIX_SAMPLE(format, dtype_)                                                              \
    {                                                                                              \
        sample *s = &samples[count++];                                                             \
        snprintf(s->name, sizeof s->name, "%s.%s", peri_dtype_name(dtype_), format);               \
        s->kind = READS_MATRIX;                                                                    \
        s->dtype = dtype_;                                                                         \
        s->stride = strstr(format, "vecs") ? 4 + 7 * peri_dtype_bytes(dtype_) : 0;                 \
        peri_matrix *matrix = random_matrix(context, 5, 7, dtype_);                                \
        CHECK(peri_matrix_save(matrix, sample_path(s->name), NULL) == PERI_OK, "%s", s->name);     \
        peri_matrix_release(matrix);                                                               \
    }
    SAMPLE_FORMATS(MATRIX_SAMPLE)
#undef MATRIX_SAMPLE
    samples[count++] = (sample){ .name = "index.perigee", .kind = READS_CONTAINER };
    CHECK(save_container(context, sample_path("index.perigee"), NULL) == PERI_OK, "container");
    samples[count++] = (sample){ .name = "f32.hnsw", .kind = READS_HNSW, .dtype = PERI_F32 };
    CHECK(save_hnsw(context, sample_path("f32.hnsw"), PERI_F32, NULL) == PERI_OK, "hnsw");
    samples[count++] = (sample){ .name = "u8.hnsw", .kind = READS_HNSW, .dtype = PERI_U8 };
    CHECK(save_hnsw(context, sample_path("u8.hnsw"), PERI_U8, NULL) == PERI_OK, "hnsw");
    for (size_t i = 0; i < count; i++) {
        samples[i].bytes = blob_read(sample_path(samples[i].name));
        CHECK(samples[i].bytes.bytes > 0, "%s is empty", samples[i].name);
    }
    context_end(context, "samples");
    return count;
}

/* A changed file, read both ways; true when any way accepted it. */
static bool accepts(const sample *s, const void *data, size_t bytes) {
    char name[48];
    snprintf(name, sizeof name, "bad_%s", s->name);
    const char *path = sample_path(name);
    blob_write(path, data, bytes);
    bool accepted = read_sample(s, path, bytes, false) == PERI_OK;
    if (s->kind == READS_HNSW) return accepted;
    bool mapped = read_sample(s, path, bytes, true) == PERI_OK;
    CHECK(mapped == accepted, "%s: mapping and reading disagree", s->name);
    return accepted || mapped;
}

/* ---- truncation, tails, flips ------------------------------------------------------------- */

static void test_lengths(const sample *s) {
    for (size_t bytes = 0; bytes < s->bytes.bytes; bytes++) {
        /* All lengths of a small file; of a large one those near its ends and around its
         * sections. */
        if (bytes > 4096 && (bytes % 4096 > 300 || bytes % 4 != 0) && bytes + 300 < s->bytes.bytes)
            continue;
        bool whole_rows = s->stride > 0 && bytes > 0 && bytes % s->stride == 0;
        CHECK(accepts(s, s->bytes.data, bytes) == whole_rows, "%s cut at %zu", s->name, bytes);
    }
    unsigned char *longer = calloc(1, s->bytes.bytes + 4096);
    memcpy(longer, s->bytes.data, s->bytes.bytes);
    const size_t tails[] = { 1, 4, 8, 12, 4096 };
    for (size_t i = 0; i < sizeof tails / sizeof *tails; i++)
        CHECK(!accepts(s, longer, s->bytes.bytes + tails[i]), "%s with a tail of %zu", s->name,
              tails[i]);
    free(longer);
}

static void test_flips(const sample *s) {
    size_t accepted = 0, tried = 0;
    unsigned char *data = malloc(s->bytes.bytes);
    memcpy(data, s->bytes.data, s->bytes.bytes);
    for (size_t at = 0; at < s->bytes.bytes; at++) {
        unsigned char old = data[at];
        const unsigned char changed[] = { 0x00, 0xFF, old ^ 1, old ^ 0x80,
                                          (unsigned char)(old + 1) };
        bool padding = s->kind == READS_CONTAINER && at % 4096 > 512;
        for (size_t i = 0; i < sizeof changed; i++) {
            if (changed[i] == old || (padding && i != at % 5)) continue;
            data[at] = changed[i];
            tried++;
            accepted += accepts(s, data, s->bytes.bytes);
        }
        data[at] = old;
    }
    CHECK(tried > s->bytes.bytes / 2, "%s: %zu changes", s->name, tried);
    if (s->kind == READS_CONTAINER) CHECK(accepted == 0, "%s: %zu accepted", s->name, accepted);
    CHECK(accepted < tried, "%s: nothing was refused", s->name);
    free(data);
}

/* ---- integers ----------------------------------------------------------------------------- */

static const uint64_t hostile[] = { 0,
                                    1,
                                    0x7FFFFFFFu,
                                    0x80000000u,
                                    0xFFFFFFFEu,
                                    0xFFFFFFFFu,
                                    0x100000000u,
                                    UINT64_C(1) << 40,
                                    (UINT64_C(1) << 62) + 1,
                                    INT64_MAX,
                                    UINT64_C(1) << 63,
                                    UINT64_MAX - 7,
                                    UINT64_MAX };

/* Writes hostile values into one integer of the sample, and its own value +- 1; counts what is
 * accepted. */
static size_t hostile_field(const sample *s, size_t at, size_t bytes, bool recompute) {
    uint64_t own = 0;
    size_t accepted = 0, count = sizeof hostile / sizeof *hostile;
    unsigned char *data = malloc(s->bytes.bytes);
    memcpy(&own, s->bytes.data + at, bytes);
    for (size_t i = 0; i < count + 2; i++) {
        uint64_t value = i < count ? hostile[i] : i == count ? own + 1 : own - 1;
        if (bytes == 4 && value > 0xFFFFFFFFu && i < count) continue;
        if (bytes == 4) value &= 0xFFFFFFFFu;
        if (value == own) continue;
        memcpy(data, s->bytes.data, s->bytes.bytes);
        memcpy(data + at, &value, bytes);
        if (recompute) {
            peri_container_head head;
            memcpy(&head, data, sizeof head);
            size_t header = peri_min_size(head.header_bytes, s->bytes.bytes - sizeof head);
            head.crc = peri_crc32c(peri_crc32c(0, data, PERI_CONTAINER_HEAD_COVERED),
                                   data + sizeof head, header);
            memcpy(data, &head, sizeof head);
        }
        accepted += accepts(s, data, s->bytes.bytes);
    }
    free(data);
    return accepted;
}

static void test_matrix_fields(const sample *s) {
    const char *ending = strrchr(s->name, '.');
    if (strstr(ending, "bin") != NULL) {
        CHECK(hostile_field(s, 0, 4, false) == 0, "%s: rows", s->name);
        CHECK(hostile_field(s, 4, 4, false) == 0, "%s: columns", s->name);
    } else if (s->stride > 0) {
        for (size_t row = 0; row < 5; row++)
            CHECK(hostile_field(s, row * s->stride, 4, false) == 0, "%s: row %zu", s->name, row);
    } else { /* the version bytes and the literal's length, u16 or, were it version 2, u32 */
        CHECK(hostile_field(s, 8, 4, false) == 0, "%s: length", s->name);
        sample v2 = *s;
        v2.bytes.data = malloc(s->bytes.bytes);
        memcpy(v2.bytes.data, s->bytes.data, s->bytes.bytes);
        v2.bytes.data[6] = 2;
        CHECK(hostile_field(&v2, 8, 4, false) == 0, "%s: length of version 2", s->name);
        free(v2.bytes.data);
    }
}

/* Shapes as text: hostile numbers on either side, and products that wrap to the right length. */
static void test_npy_shapes(void) {
    static const char *const shapes[] = { "(0, 7)",
                                          "(1, 7)",
                                          "(4, 7)",
                                          "(6, 7)",
                                          "(5, 0)",
                                          "(5, 1)",
                                          "(5, 6)",
                                          "(5, 8)",
                                          "(2147483648, 7)",
                                          "(4294967295, 7)",
                                          "(4294967301, 7)",
                                          "(1099511627776, 7)",
                                          "(9223372036854775807, 7)",
                                          "(18446744073709551615, 7)",
                                          "(5, 2147483648)",
                                          "(5, 4294967303)",
                                          "(5, 1099511627776)",
                                          "(5, 9223372036854775807)",
                                          "(4611686018427387939, 1)",
                                          "(1, 4611686018427387939)",
                                          "(2305843009213693957, 8)",
                                          "(4294967296, 4294967296)",
                                          "(3689348814741910358, 5)" };
    sample s = { .name = "shape.npy", .kind = READS_MATRIX, .dtype = PERI_F32 };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        unsigned char file[512] = "\x93NUMPY\x01";
        int length = snprintf((char *)file + 10, 118,
                              "{'descr': '<f4', 'fortran_order': False, 'shape': %s, }", shapes[i]);
        memset(file + 10 + length, ' ', 118 - (size_t)length);
        file[8] = 118;
        CHECK(!accepts(&s, file, 128 + 140), "shape %s for 140 bytes", shapes[i]);
    }
}

/* Every field of hnswlib's head, and every integer of the body. */
static void test_hnsw_fields(const sample *s) {
    static const struct {
        size_t at, bytes;
    } fields[] = { { 0, 8 },  { 16, 8 }, { 24, 8 }, { 32, 8 }, { 40, 8 },
                   { 48, 4 }, { 52, 4 }, { 56, 8 }, { 64, 8 }, { 72, 8 } };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        CHECK(hostile_field(s, fields[i].at, fields[i].bytes, false) == 0, "%s: field at %zu",
              s->name, fields[i].at);
    /* Room for more elements, and another ef_construction, are no lies. */
    CHECK(hostile_field(s, 8, 8, false) <= 2, "%s: max elements", s->name);
    CHECK(hostile_field(s, 88, 8, false) <= 4, "%s: ef_construction", s->name);
    CHECK(hostile_field(s, 80, 8, false) <= 12, "%s: mult", s->name);
    size_t element = 4 + 4 * 4 + 4 * peri_dtype_bytes(s->dtype) + 8,
           upper = 96 + HNSW_COUNT * element;
    for (size_t i = 0; i < HNSW_COUNT; i++) {
        hostile_field(s, 96 + i * element, 4, false); /* counts of links 0 and 1 are in range */
        for (size_t j = 0; j < 4; j++) hostile_field(s, 96 + i * element + 4 + 4 * j, 4, false);
        /* A label past 2^63 - 1: 2^63 and the two close to 2^64. */
        CHECK(hostile_field(s, 96 + i * element + element - 8, 8, false) <= 12, "%s: label",
              s->name);
    }
    for (size_t at = upper; at + 4 <= s->bytes.bytes; at += 4) hostile_field(s, at, 4, false);
    /* The lengths of the elements' upper levels can't change alone. */
    CHECK(hostile_field(s, upper, 4, false) == 0 && hostile_field(s, upper + 4, 4, false) == 0 &&
              hostile_field(s, upper + 8, 4, false) == 0,
          "%s: lengths", s->name);
}

/* What one byte of a graph's file says: bits of a link header that hnswlib never sets, and a row of
 * upper links that belongs to no element. */
static void test_hnsw_rest(const sample *s) {
    unsigned char *data = calloc(1, s->bytes.bytes + 12);
    memcpy(data, s->bytes.data, s->bytes.bytes);
    data[96 + 2] = 2;
    CHECK(!accepts(s, data, s->bytes.bytes) && strstr(peri_error_detail(), "unknown marks"),
          "%s: %s", s->name, peri_error_detail());
    data[96 + 2] = 0;
    data[96 + 3] = 1;
    CHECK(!accepts(s, data, s->bytes.bytes) && strstr(peri_error_detail(), "unknown marks"),
          "%s: %s", s->name, peri_error_detail());
    data[96 + 3] = 0;
    CHECK(!accepts(s, data, s->bytes.bytes + 12) && strstr(peri_error_detail(), "goes on"),
          "%s: %s", s->name, peri_error_detail());
    free(data);
}

/* The container: head fields, then every byte of the header as if an integer began there, checksums
 * made right. Values of parameters are data; all that says where something is must be refused. */
static void test_container_fields(const sample *s) {
    peri_container_head head;
    memcpy(&head, s->bytes.data, sizeof head);
    CHECK(hostile_field(s, 8, 4, true) == 0, "version");
    CHECK(hostile_field(s, 12, 4, true) == 0, "bytes of the header");
    CHECK(hostile_field(s, 16, 8, true) == 0, "bytes of the file");
    CHECK(hostile_field(s, 28, 4, true) == 0 && hostile_field(s, 60, 4, true) == 0, "zeros");
    size_t stop = sizeof head + head.header_bytes;
    for (size_t at = sizeof head; at + 4 <= stop; at++) {
        hostile_field(s, at, 4, true);
        if (at + 8 <= stop) hostile_field(s, at, 8, true);
    }
    /* Rows of the table, found by their names: u32 dtype, u64 rows, cols, offset, u32 crc. */
    for (int i = 0; i < PERI_DTYPE_COUNT; i++) {
        char name[32];
        int length = snprintf(name, sizeof name, "%s_rows", peri_dtype_name((peri_dtype)i)) + 1;
        const unsigned char *found = memmem(s->bytes.data, stop, name, (size_t)length);
        if (!CHECK(found != NULL, "no %s", name)) continue;
        size_t at = (size_t)(found - s->bytes.data) + (size_t)length;
        CHECK(hostile_field(s, at, 4, true) <= 2, "%s: dtype", name); /* another of the same size */
        CHECK(hostile_field(s, at + 4, 8, true) == 0, "%s: rows", name);
        CHECK(hostile_field(s, at + 12, 8, true) == 0, "%s: cols", name);
        CHECK(hostile_field(s, at + 20, 8, true) == 0, "%s: offset", name);
        CHECK(hostile_field(s, at + 28, 4, true) == 0, "%s: checksum", name);
    }
}

int main(void) {
    static sample samples[32];
    samples_begin();
    size_t count = make_samples(samples);
    for (size_t i = 0; i < count; i++) {
        sample *s = &samples[i];
        CHECK(accepts(s, s->bytes.data, s->bytes.bytes), "%s: %s", s->name, peri_error_detail());
        test_lengths(s);
        test_flips(s);
        if (s->kind == READS_MATRIX) test_matrix_fields(s);
        if (s->kind == READS_CONTAINER) test_container_fields(s);
        if (s->kind == READS_HNSW) test_hnsw_fields(s);
        if (s->kind == READS_HNSW) test_hnsw_rest(s);
        free(s->bytes.data);
    }
    test_npy_shapes();
    samples_end();
    return check_done();
}
