/* io_test.c: files that are as they should be: round trips of every format, the files that NumPy
 * and stock hnswlib wrote, ranges, mapping, and the words of refusals. */
#include "io_samples.h"

#include "core/half.h"
#include "io/crc32c.h"

/* ---- checksums ---------------------------------------------------------------------------- */

static void test_crc32c(void) {
    unsigned char data[600];
    memset(data, 0, sizeof data);
    CHECK(peri_crc32c(0, data, 32) == 0x8A9136AAu, "32 zeros, RFC 3720 B.4");
    memset(data, 0xFF, sizeof data);
    CHECK(peri_crc32c(0, data, 32) == 0x62A8AB43u, "32 ones, RFC 3720 B.4");
    for (int i = 0; i < 32; i++) data[i] = (unsigned char)i;
    CHECK(peri_crc32c(0, data, 32) == 0x46DD794Eu, "0 to 31, RFC 3720 B.4");
    CHECK(peri_crc32c(0, "123456789", 9) == 0xE3069283u, "the check value");
    for (size_t i = 0; i < sizeof data; i++) data[i] = (unsigned char)peri_random_mix(1, i);
    for (size_t bytes = 0; bytes < 300; bytes++) {
        const unsigned char *from = data + bytes % 17;
        uint32_t crc = peri_crc32c(0, from, bytes);
        CHECK(crc == peri_crc32c_table(0, from, bytes), "table and instruction, %zu bytes", bytes);
        uint32_t half = peri_crc32c(0, from, bytes / 3);
        CHECK(crc == peri_crc32c(half, from + bytes / 3, bytes - bytes / 3), "in two, %zu", bytes);
    }
}

/* ---- matrices ----------------------------------------------------------------------------- */

static void check_ranges(peri_context *context, const char *path, const peri_matrix *matrix) {
    size_t rows = peri_matrix_view(matrix).rows;
    const size_t ranges[][2] = {
        { 0, SIZE_MAX }, { 0, 0 }, { 0, 1 }, { rows / 2, SIZE_MAX }, { rows / 3, rows - rows / 4 },
        { rows, rows }
    };
    for (size_t i = 0; i < 2 * sizeof ranges / sizeof *ranges; i++) {
        peri_load_options options = PERI_LOAD_OPTIONS_INIT;
        options.first = ranges[i / 2][0];
        options.stop = ranges[i / 2][1];
        options.map = i % 2 == 1;
        size_t stop = options.stop == SIZE_MAX ? rows : options.stop;
        peri_matrix *found;
        peri_status status = peri_matrix_load(context, path, &options, &found);
        if (!CHECK(status == PERI_OK, "%s: %s", path, peri_error_detail())) continue;
        CHECK(peri_matrix_view(found).rows == stop - options.first, "%s: range %zu", path, i);
        CHECK(rows_same(matrix, options.first, found), "%s: range %zu", path, i);
        peri_matrix_release(found);
    }
    peri_load_options beyond = PERI_LOAD_OPTIONS_INIT;
    beyond.stop = rows + 1;
    peri_matrix *found;
    CHECK(peri_matrix_load(context, path, &beyond, &found) == PERI_E_ARGUMENT && found == NULL,
          "%s: rows past the end", path);
}

static void check_round_trip(const char *format, peri_dtype dtype, size_t rows, size_t cols) {
    peri_context *context = plain_context();
    char name[64];
    snprintf(name, sizeof name, "%s_%zu.%s", peri_dtype_name(dtype), rows, format);
    const char *path = sample_path(name);
    peri_matrix *matrix = random_matrix(context, rows, cols, dtype), *mapped, *slice;
    CHECK(peri_matrix_save(matrix, path, NULL) == PERI_OK, "%s: %s", path, peri_error_detail());
    check_ranges(context, path, matrix);
    /* A mapped .fvecs has a stride: saved again it must be the same file. */
    peri_load_options options = PERI_LOAD_OPTIONS_INIT;
    options.map = true;
    blob before = blob_read(path);
    if (CHECK(peri_matrix_load(context, path, &options, &mapped) == PERI_OK, "%s", path)) {
        CHECK(peri_matrix_save(mapped, path, NULL) == PERI_OK, "%s: over its own mapping", path);
        CHECK(blob_same(path, before), "%s: saved again", path);
        CHECK(peri_matrix_slice(mapped, rows / 2, rows, &slice) == PERI_OK, "%s", path);
        peri_matrix_release(mapped); /* the slice keeps the file mapped */
        CHECK(rows_same(matrix, rows / 2, slice), "%s: a slice of it", path);
        peri_matrix_release(slice);
    }
    free(before.data);
    unlink(path);
    peri_matrix_release(matrix);
    context_end(context, name);
}

static void test_round_trips(void) {
#define TRIP(format, dtype)                                                                        \
    check_round_trip(format, dtype, 1, 1);                                                         \
    check_round_trip(format, dtype, 5, 7);                                                         \
    check_round_trip(format, dtype, 3001, 33);                                                     \
    check_round_trip(format, dtype, 3, 100001);
    SAMPLE_FORMATS(TRIP)
#undef TRIP
}

static void test_no_rows(void) {
    peri_context *context = plain_context();
    peri_matrix *matrix = random_matrix(context, 0, 7, PERI_F32), *found = NULL;
    const char *const names[] = { "none.npy", "none.fbin", "none.fvecs" };
    for (size_t i = 0; i < 3; i++) {
        peri_status status = peri_matrix_save(matrix, sample_path(names[i]), NULL);
        if (i == 2) {
            CHECK(status == PERI_E_ARGUMENT, "an .fvecs of no rows has no dimension");
            continue;
        }
        CHECK(status == PERI_OK, "%s: %s", names[i], peri_error_detail());
        status = peri_matrix_load(context, sample_path(names[i]), NULL, &found);
        CHECK(status == PERI_OK && matrix_same(matrix, found), "%s: %s", names[i],
              peri_error_detail());
        peri_matrix_release(found);
        unlink(sample_path(names[i]));
    }
    peri_matrix_release(matrix);
    context_end(context, "no rows");
}

static void test_wrong_dtype(void) {
    peri_context *context = plain_context();
    peri_matrix *matrix = random_matrix(context, 2, 2, PERI_U8);
    CHECK(peri_matrix_save(matrix, sample_path("a.fvecs"), NULL) == PERI_E_ARGUMENT, "u8 to fvecs");
    CHECK(strstr(peri_error_detail(), "npy bvecs u8bin") != NULL, "%s", peri_error_detail());
    CHECK(peri_matrix_save(matrix, sample_path("a.csv"), NULL) == PERI_E_ARGUMENT, "csv");
    CHECK(strstr(peri_error_detail(), "'.csv'") != NULL &&
              strstr(peri_error_detail(), "npy fvecs") != NULL,
          "%s", peri_error_detail());
    CHECK(peri_matrix_save(matrix, sample_path("a"), "bvecs") == PERI_OK, "the format by option");
    CHECK(peri_matrix_save(matrix, sample_path("b.bvecs"), "tar") == PERI_E_ARGUMENT, "tar");
    CHECK(folder_count() == 1, "refused before a file is made");
    unlink(sample_path("a"));
    peri_matrix_release(matrix);
    context_end(context, "wrong dtype");
}

/* ---- files that NumPy wrote --------------------------------------------------------------- */

#define FIXTURES "spec/data/formats/"

/* The value of spec/data/README.md at i = 7 * row + column. */
static bool fixture_value(const peri_view *view, const char *type, size_t row, size_t col) {
    const void *at = peri_view_row(view, row);
    int64_t i = (int64_t)(7 * row + col);
    switch (view->dtype) {
    case PERI_F32: return ((const float *)at)[col] == (float)i * 0.5f - 4;
    case PERI_F16: return peri_half_to_float(((const uint16_t *)at)[col]) == (float)i * 0.5f - 4;
    case PERI_I8: return ((const int8_t *)at)[col] == i - 17;
    case PERI_U8: return ((const uint8_t *)at)[col] == i + 200;
    case PERI_I32: return ((const int32_t *)at)[col] == (i - 17) * 100000;
    case PERI_I64: return ((const int64_t *)at)[col] == (i - 17) * INT64_C(4294967296);
    default: return type == NULL;
    }
}

static void check_fixture(peri_context *context, const char *name) {
    char path[128];
    snprintf(path, sizeof path, FIXTURES "%s", name);
    for (int map = 0; map < 2; map++) {
        peri_load_options options = PERI_LOAD_OPTIONS_INIT;
        peri_matrix *found;
        options.map = map == 1;
        peri_status status = peri_matrix_load(context, path, &options, &found);
        if (!CHECK(status == PERI_OK, "%s", peri_error_detail())) continue;
        peri_view view = peri_matrix_view(found);
        bool good = view.rows == 5 && view.cols == 7;
        for (size_t i = 0; good && i < 35; i++) good = fixture_value(&view, name, i / 7, i % 7);
        CHECK(good, "%s: %zu x %zu %s", name, view.rows, view.cols, peri_dtype_name(view.dtype));
        peri_matrix_release(found);
    }
}

static void test_fixtures(void) {
    static const char *const names[] = { "f8.npy",   "f4.npy",    "f2.npy",   "f4.fvecs",
                                         "f4.fbin",  "f2.f16bin", "i1.npy",   "i1.i8bin",
                                         "u1.npy",   "u1.bvecs",  "u1.u8bin", "i4.npy",
                                         "i4.ivecs", "i4.ibin",   "i8.npy",   "f4_version2.npy" };
    if (access(FIXTURES "f4.npy", R_OK) != 0) {
        check_skip("files that NumPy wrote", FIXTURES " is not here");
        return;
    }
    peri_context *context = plain_context();
    peri_matrix *found;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) check_fixture(context, names[i]);
    CHECK(peri_matrix_load(context, FIXTURES "f4_fortran.npy", NULL, &found) ==
                  PERI_E_UNSUPPORTED &&
              strstr(peri_error_detail(), "Fortran") != NULL,
          "%s", peri_error_detail());
    CHECK(peri_matrix_load(context, FIXTURES "f4_big_endian.npy", NULL, &found) ==
                  PERI_E_UNSUPPORTED &&
              strstr(peri_error_detail(), "big-endian") != NULL,
          "%s", peri_error_detail());
    context_end(context, "fixtures");
}

/* Header texts and what becomes of them; each stands before 24 bytes of data. */
static const struct {
    const char *text;
    peri_status status;
    const char *says;
} header_cases[] = {
    { "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", PERI_OK, "" },
    { "{\"shape\":(2,3),\"descr\":\"<f4\",\"fortran_order\":False}\n", PERI_OK, "" },
    { "{'descr': '<f8', 'fortran_order': False, 'shape': (3,)}  ", PERI_OK, "" },
    { "{'descr': '<f4', 'fortran_order': True, 'shape': (6, 1)}", PERI_OK, "" },
    { "{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3)}", PERI_E_UNSUPPORTED, "Fortran" },
    { "{'descr': '<f4', 'fortran_order': False, 'shape': ()}", PERI_E_UNSUPPORTED, "0 dim" },
    { "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2, 3)}", PERI_E_UNSUPPORTED, "3 dim" },
    { "{'descr': '>f4', 'fortran_order': False, 'shape': (2, 3)}", PERI_E_UNSUPPORTED, "'>f4'" },
    { "{'descr': '|b1', 'fortran_order': False, 'shape': (4, 6)}", PERI_E_UNSUPPORTED, "'|b1'" },
    { "{'descr': '<u8', 'fortran_order': False, 'shape': (3, 1)}", PERI_E_UNSUPPORTED, "'<u8'" },
    { "{'descr': '<c8', 'fortran_order': False, 'shape': (3, 1)}", PERI_E_UNSUPPORTED, "'<c8'" },
    { "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (6,)}", PERI_E_UNSUPPORTED,
      "structured" },
    { "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 0)}", PERI_E_CORRUPT, "no values" },
    { "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 3)}", PERI_E_CORRUPT, "0 rows" },
    { "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 4)}", PERI_E_CORRUPT, "2 rows of 4" },
    { "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 8)}", PERI_E_CORRUPT,
      "claims 1099511627776 rows of 8" },
    { "{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387906, 3)}", PERI_E_CORRUPT,
      "claims" },
    { "{'descr': '<f4', 'fortran_order': False, 'shape': (18446744073709551617, 3)}",
      PERI_E_CORRUPT, "whole numbers" },
    { "{'descr': '<f4', 'fortran_order': False, 'shape': (-2, 3)}", PERI_E_CORRUPT, "whole" },
    { "{'descr': '<f4', 'fortran_order': False, 'shape': (6)}", PERI_E_CORRUPT, "whole" },
    { "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)} x", PERI_E_CORRUPT, "dict" },
    { "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)", PERI_E_CORRUPT, "dict" },
    { "{'descr': '<f4', 'fortran_order': False}", PERI_E_CORRUPT, "dict" },
    { "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}", PERI_E_CORRUPT,
      "dict" },
    { "{'descr': '<f4', 'fortran_order': 0, 'shape': (2, 3)}", PERI_E_CORRUPT, "dict" },
    { "{'descr': '\\x3cf4', 'fortran_order': False, 'shape': (2, 3)}", PERI_E_CORRUPT, "dict" },
    { "", PERI_E_CORRUPT, "dict" },
    { "{{{{{{{{((((((((", PERI_E_CORRUPT, "dict" },
};

static void test_npy_headers(void) {
    peri_context *context = plain_context();
    const char *path = sample_path("head.npy");
    for (size_t i = 0; i < sizeof header_cases / sizeof *header_cases; i++) {
        unsigned char file[256] = "\x93NUMPY\x01";
        size_t length = strlen(header_cases[i].text);
        peri_matrix *found;
        file[8] = (unsigned char)length;
        memcpy(file + 10, header_cases[i].text, length);
        blob_write(path, file, 10 + length + 24);
        for (int map = 0; map < 2; map++) { /* such headers end anywhere: mapping must decline */
            peri_load_options options = PERI_LOAD_OPTIONS_INIT;
            options.map = map == 1;
            peri_status status = peri_matrix_load(context, path, &options, &found);
            CHECK(status == header_cases[i].status, "%s: %d, %s", header_cases[i].text, status,
                  peri_error_detail());
            if (status == PERI_OK)
                matrix_touch(found);
            else
                CHECK(strstr(peri_error_detail(), header_cases[i].says) != NULL, "%s: %s",
                      header_cases[i].text, peri_error_detail());
            peri_matrix_release(found);
        }
    }
    unlink(path);
    context_end(context, "npy headers");
}

/* More f64 than one staging holds; each comes out rounded to the nearest f32. */
static void test_doubles(void) {
    enum { ROWS = 70001 };
    static const char text[] = "{'descr': '<f8', 'fortran_order': False, 'shape': (70001, 1)}";
    const char *path = sample_path("f8.npy");
    unsigned char *file = calloc(1, 128 + ROWS * 8);
    size_t offset = 10 + sizeof text - 1;
    memcpy(file, "\x93NUMPY\x01", 7);
    file[8] = (unsigned char)(sizeof text - 1);
    memcpy(file + 10, text, sizeof text - 1);
    for (size_t i = 0; i < ROWS; i++) {
        double value = (double)i / 3.0;
        memcpy(file + offset + 8 * i, &value, 8);
    }
    blob_write(path, file, offset + ROWS * 8);
    free(file);
    peri_context *context = plain_context();
    peri_load_options options = PERI_LOAD_OPTIONS_INIT;
    peri_matrix *found;
    options.first = 5;
    if (CHECK(peri_matrix_load(context, path, &options, &found) == PERI_OK, "%s",
              peri_error_detail())) {
        const float *values = peri_matrix_view(found).data;
        size_t wrong = 0;
        for (size_t i = 5; i < ROWS; i++) wrong += values[i - 5] != (float)((double)i / 3.0);
        CHECK(wrong == 0 && peri_matrix_view(found).dtype == PERI_F32, "%zu values", wrong);
        peri_matrix_release(found);
    }
    unlink(path);
    context_end(context, "doubles");
}

/* More rows than 32 bits count bytes of: a sparse file of 6 GB, of which the last rows are read. */
static void test_beyond_32_bits(void) {
    const uint32_t head[2] = { 3000000000u, 2 };
    const char *path = sample_path("far.u8bin");
    blob_write(path, head, sizeof head);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool made = ftruncate(fd, 8 + INT64_C(6000000000)) == 0 &&
                pwrite(fd, "abcd", 4, 8 + INT64_C(6000000000) - 4) == 4;
    close(fd);
    if (!made) check_skip("a file of 6 GB", "the file system has no room for it");
    peri_context *context = plain_context();
    for (int map = 0; map < 2 && made; map++) {
        peri_load_options options = PERI_LOAD_OPTIONS_INIT;
        peri_matrix *found;
        options.first = 2999999997u;
        options.map = map == 1;
        peri_status status = peri_matrix_load(context, path, &options, &found);
        if (!CHECK(status == PERI_OK, "%s", peri_error_detail())) continue;
        CHECK(memcmp(peri_matrix_view(found).data, "\0\0abcd", 6) == 0, "the last rows");
        peri_matrix_release(found);
    }
    unlink(path);
    context_end(context, "beyond 32 bits");
}

/* ---- the container ------------------------------------------------------------------------ */

static void check_params(const peri_container *container) {
    peri_options params = peri_container_params(container);
    if (!CHECK(params.count == 5, "%zu parameters", params.count)) return;
    const peri_option *p = params.list;
    CHECK(strcmp(p[0].key, "graph_degree") == 0 && p[0].value.type == PERI_VALUE_INT &&
              p[0].value.as.i == -64,
          "an integer");
    CHECK(p[1].value.type == PERI_VALUE_REAL && p[1].value.as.r == 0.1, "a real");
    CHECK(p[2].value.type == PERI_VALUE_FLAG && p[2].value.as.flag, "a flag");
    CHECK(p[3].value.type == PERI_VALUE_TEXT && strcmp(p[3].value.as.text, "inner_product") == 0,
          "a text");
    CHECK(strcmp(p[4].value.as.text, "") == 0, "an empty text");
}

static void test_container(void) {
    peri_context *context = plain_context();
    const char *path = sample_path("a.perigee");
    CHECK(save_container(context, path, NULL) == PERI_OK, "%s", peri_error_detail());
    for (int map = 0; map < 2; map++) {
        peri_container *container;
        peri_matrix *section = NULL;
        peri_status status = peri_container_open(context, path, map == 1, NULL, &container);
        if (!CHECK(status == PERI_OK, "%s", peri_error_detail())) continue;
        CHECK(strcmp(peri_container_kind(container), "cagra") == 0, "the kind");
        check_params(container);
        for (int i = 0; i < PERI_DTYPE_COUNT; i++) {
            char name[32];
            snprintf(name, sizeof name, "%s_rows", peri_dtype_name((peri_dtype)i));
            peri_matrix *expected = random_matrix(context, 3 + (size_t)i, 5, (peri_dtype)i);
            peri_matrix_release(section);
            CHECK(peri_container_section(container, name, &section) == PERI_OK, "%s", name);
            CHECK(section != NULL && matrix_same(expected, section), "%s, map %d", name, map);
            peri_matrix_release(expected);
        }
        peri_matrix *other;
        CHECK(peri_container_section(container, "none", &other) == PERI_OK && other != NULL &&
                  peri_matrix_view(other).rows == 0 && peri_matrix_view(other).cols == 9,
              "no rows");
        peri_matrix_release(other);
        CHECK(peri_container_section(container, "absent", &other) == PERI_OK && other == NULL,
              "no such section");
        peri_container_close(container);
        matrix_touch(section); /* outlives its container */
        CHECK(map == 0 || (uintptr_t)peri_matrix_view(section).data % 4096 == 0, "not in place");
        peri_matrix_release(section);
    }
    unlink(path);
    context_end(context, "container");
}

static void test_container_refusals(void) {
    peri_context *context = plain_context();
    peri_matrix *matrix = random_matrix(context, 1, 1, PERI_U8);
    peri_section two[2] = { { "rows", matrix }, { "rows", matrix } };
    peri_section blank = { "a b", matrix }, empty = { "", matrix }, none = { "rows", NULL };
    peri_option twice[2] = { { "k", { PERI_VALUE_INT, { .i = 1 } } },
                             { "k", { PERI_VALUE_INT, { .i = 2 } } } };
    peri_options params = { twice, 2 };
    const char *path = sample_path("a.perigee"), *kind = "flat";
    CHECK(peri_container_save(context, path, kind, NULL, two, 2, NULL) == PERI_E_ARGUMENT, "twice");
    CHECK(peri_container_save(context, path, kind, NULL, &blank, 1, NULL) == PERI_E_ARGUMENT, " ");
    CHECK(peri_container_save(context, path, kind, NULL, &empty, 1, NULL) == PERI_E_ARGUMENT, "''");
    CHECK(peri_container_save(context, path, kind, NULL, &none, 1, NULL) == PERI_E_ARGUMENT,
          "NULL");
    CHECK(peri_container_save(context, path, "", NULL, two, 1, NULL) == PERI_E_ARGUMENT, "kind");
    CHECK(peri_container_save(context, path, kind, &params, two, 1, NULL) == PERI_E_ARGUMENT,
          "keys");
    CHECK(folder_count() == 0, "refused before a file is made");
    peri_matrix_release(matrix);
    context_end(context, "container refusals");
}

/* ---- hnswlib ------------------------------------------------------------------------------ */

static bool hnsw_same(const peri_hnswlib_graph *a, const peri_hnswlib_graph *b) {
    return a->count == b->count && a->dim == b->dim && a->m == b->m && a->max_m == b->max_m &&
           a->max_m0 == b->max_m0 && a->ef_construction == b->ef_construction &&
           a->level_max == b->level_max && a->entry == b->entry && matrix_same(a->rows, b->rows) &&
           matrix_same(a->labels, b->labels) && matrix_same(a->graph, b->graph) &&
           matrix_same(a->first, b->first) && matrix_same(a->links, b->links) &&
           (a->deleted == NULL) == (b->deleted == NULL) &&
           (a->deleted == NULL || matrix_same(a->deleted, b->deleted));
}

static void test_hnsw_round_trip(void) {
    static const peri_dtype dtypes[] = { PERI_F32, PERI_U8 };
    peri_context *context = plain_context();
    const char *path = sample_path("a.hnsw");
    for (size_t i = 0; i < 2; i++) {
        peri_hnswlib_graph made = make_hnsw(context, dtypes[i]), found;
        CHECK(peri_hnswlib_write(context, path, &made, NULL) == PERI_OK, "%s", peri_error_detail());
        CHECK(peri_hnswlib_read(context, path, dtypes[i], NULL, &found) == PERI_OK, "%s",
              peri_error_detail());
        CHECK(found.rows != NULL && hnsw_same(&made, &found), "dtype %zu", i);
        peri_hnswlib_graph_release(&found);
        peri_hnswlib_graph_release(&made);
    }
    CHECK(peri_hnswlib_read(context, path, PERI_F16, NULL, &(peri_hnswlib_graph){ 0 }) ==
              PERI_E_ARGUMENT,
          "f16");
    unlink(path);
    context_end(context, "hnswlib");
}

/* Without upper levels: max level 0 and zero lengths, which stock hnswlib can search. */
static void test_hnsw_level0(void) {
    peri_context *context = plain_context();
    const char *path = sample_path("a.hnsw");
    peri_hnswlib_graph g = make_hnsw(context, PERI_F32), found;
    peri_matrix *first = g.first, *links = g.links, *labels = g.labels;
    g.first = g.links = g.labels = NULL;
    g.level_max = 0;
    CHECK(peri_hnswlib_write(context, path, &g, NULL) == PERI_OK, "%s", peri_error_detail());
    blob b = blob_read(path);
    size_t element = 4 + 4 * 4 + 4 * 4 + 8;
    CHECK(b.bytes == 96 + HNSW_COUNT * (element + 4), "%zu bytes", b.bytes);
    for (size_t i = 0; i < 4 * HNSW_COUNT; i++)
        CHECK(b.data[96 + HNSW_COUNT * element + i] == 0, "length byte %zu", i);
    CHECK(memcmp(b.data + 48, "\0\0\0\0", 4) == 0, "max level 0");
    CHECK(peri_hnswlib_read(context, path, PERI_F32, NULL, &found) == PERI_OK, "%s",
          peri_error_detail());
    CHECK(found.level_max == 0 && peri_matrix_view(found.links).rows == 0, "no upper levels");
    CHECK(((int64_t *)peri_matrix_view(found.labels).data)[3] == 3, "labels are element numbers");
    peri_hnswlib_graph_release(&found);
    /* What cuVS writes of its base layer: max level 1, no links there. */
    b.data[48] = 1;
    blob_write(path, b.data, b.bytes);
    CHECK(peri_hnswlib_read(context, path, PERI_F32, NULL, &found) == PERI_OK &&
              found.level_max == 0,
          "%s", peri_error_detail());
    peri_hnswlib_graph_release(&found);
    free(b.data);
    unlink(path);
    peri_matrix_release(first);
    peri_matrix_release(links);
    peri_matrix_release(labels);
    peri_hnswlib_graph_release(&g);
    context_end(context, "hnswlib level 0");
}

static void test_hnsw_empty(void) {
    peri_context *context = plain_context();
    const char *path = sample_path("a.hnsw");
    peri_hnswlib_graph g = { .dim = 3,
                             .dtype = PERI_F32,
                             .m = 16,
                             .max_m = 16,
                             .max_m0 = 32,
                             .ef_construction = 200,
                             .entry = PERI_SLOT_NONE },
                       found;
    g.rows = random_matrix(context, 0, 3, PERI_F32);
    g.graph = random_matrix(context, 0, 32, PERI_U32);
    CHECK(peri_hnswlib_write(context, path, &g, NULL) == PERI_OK, "%s", peri_error_detail());
    CHECK(peri_hnswlib_read(context, path, PERI_F32, NULL, &found) == PERI_OK && found.count == 0 &&
              found.dim == 3 && found.entry == PERI_SLOT_NONE,
          "%s", peri_error_detail());
    peri_hnswlib_graph_release(&found);
    peri_hnswlib_graph_release(&g);
    unlink(path);
    context_end(context, "hnswlib empty");
}

/* One number made wrong at a time: (where, value) in the graph's arrays or fields. */
static void test_hnsw_refusals(void) {
    peri_context *context = plain_context();
    for (int i = 0; i < 12; i++) {
        peri_hnswlib_graph g = make_hnsw(context, PERI_F32);
        uint32_t *graph = peri_matrix_view(g.graph).data, *links = peri_matrix_view(g.links).data;
        uint32_t *first = peri_matrix_view(g.first).data;
        switch (i) {
        case 0: graph[0] = HNSW_COUNT; break;     /* no such element */
        case 1: graph[0] = PERI_SLOT_NONE; break; /* a link after the end */
        case 2: links[0] = 0; break;              /* element 0 has no level 1 */
        case 3: links[2] = 4; break;              /* element 4 has no level 2 */
        case 4: first[2] = 1; break;              /* row 0 belongs to nobody */
        case 5: first[4] = 3; break;              /* there are three rows */
        case 6: g.entry = 4; break;               /* level 1, not 2 */
        case 7: g.entry = HNSW_COUNT; break;
        case 8: g.level_max = 1; break;
        case 9: ((int64_t *)peri_matrix_view(g.labels).data)[1] = -1; break;
        case 10: g.max_m = 3; break;
        default: g.m = g.max_m = 1; break; /* 1 / ln(1) */
        }
        CHECK(peri_hnswlib_write(context, sample_path("a.hnsw"), &g, NULL) == PERI_E_ARGUMENT,
              "case %d", i);
        CHECK(folder_count() == 0, "case %d left a file", i);
        peri_hnswlib_graph_release(&g);
    }
    context_end(context, "hnswlib refusals");
}

/* Files that stock hnswlib wrote; spec/data/README.md says what is in them. */
static void check_stock(peri_context *context, const char *path, bool deleted) {
    peri_hnswlib_graph g, again;
    peri_matrix *rows;
    peri_status status = peri_hnswlib_read(context, path, PERI_F32, NULL, &g);
    if (!CHECK(status == PERI_OK, "%s", peri_error_detail())) return;
    CHECK(g.count == 200 && g.dim == 16 && g.m == 8 && g.max_m0 == 16 && g.ef_construction == 100,
          "%s: %zu x %u", path, g.count, g.dim);
    CHECK(g.level_max >= 1 && peri_matrix_view(g.links).rows > 0, "%s has upper levels", path);
    CHECK(peri_matrix_load(context, FIXTURES "l2.fvecs", NULL, &rows) == PERI_OK, "%s",
          peri_error_detail());
    CHECK(rows != NULL && matrix_same(rows, g.rows), "%s: vectors", path);
    peri_matrix_release(rows);
    const int64_t *labels = peri_matrix_view(g.labels).data;
    for (int64_t i = 0; i < 200; i++) CHECK(labels[i] == 1000 + 3 * i, "%s: label", path);
    CHECK((g.deleted != NULL) == deleted, "%s: marks", path);
    for (size_t i = 0; deleted && i < 200; i++)
        CHECK(((uint8_t *)peri_matrix_view(g.deleted).data)[i] == (i == 17), "%s: mark", path);
    const char *copy = sample_path("again.hnsw");
    CHECK(peri_hnswlib_write(context, copy, &g, NULL) == PERI_OK, "%s", peri_error_detail());
    CHECK(peri_hnswlib_read(context, copy, PERI_F32, NULL, &again) == PERI_OK &&
              hnsw_same(&g, &again),
          "%s: written again", path);
    peri_hnswlib_graph_release(&again);
    peri_hnswlib_graph_release(&g);
    unlink(copy);
}

static void test_stock_files(void) {
    if (access(FIXTURES "l2.hnsw", R_OK) != 0) {
        check_skip("files that hnswlib wrote", FIXTURES " is not here");
        return;
    }
    peri_context *context = plain_context();
    check_stock(context, FIXTURES "l2.hnsw", false);
    check_stock(context, FIXTURES "ip.hnsw", true);
    context_end(context, "stock files");
}

int main(void) {
    samples_begin();
    test_crc32c();
    test_round_trips();
    test_no_rows();
    test_wrong_dtype();
    test_fixtures();
    test_npy_headers();
    test_doubles();
    test_beyond_32_bits();
    test_container();
    test_container_refusals();
    test_hnsw_round_trip();
    test_hnsw_level0();
    test_hnsw_empty();
    test_hnsw_refusals();
    test_stock_files();
    samples_end();
    return check_done();
}
