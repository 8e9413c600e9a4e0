/* io_samples.h: small files of every format, and matrices to make them of, for the tests of
 * engine/io. */
#ifndef PERI_SPEC_IO_SAMPLES_H
#define PERI_SPEC_IO_SAMPLES_H

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "core/matrix.h"
#include "core/random.h"
#include "io/container.h"
#include "io/file_map.h"
#include "io/hnswlib_file.h"
#include "io/host_rows.h"

/* ---- files -------------------------------------------------------------------------------- */

static char sample_folder[128];

static inline void samples_begin(void) {
    snprintf(sample_folder, sizeof sample_folder, "%.100s/perigee-io-XXXXXX", check_folder());
    if (mkdtemp(sample_folder) == NULL) abort();
}

/* A path in the folder; four of them live at a time. */
static inline const char *sample_path(const char *name) {
    static char paths[4][256];
    static unsigned turn;
    char *path = paths[turn++ % 4];
    snprintf(path, sizeof paths[0], "%.120s/%.120s", sample_folder, name);
    return path;
}

/* Entries of the folder, "." and ".." not counted: an interrupted save leaves none. */
static inline size_t folder_count(void) {
    size_t count = 0;
    DIR *folder = opendir(sample_folder);
    for (const struct dirent *e; folder != NULL && (e = readdir(folder)) != NULL;) count++;
    if (folder != NULL) closedir(folder);
    return count - 2;
}

static inline void samples_end(void) {
    DIR *folder = opendir(sample_folder);
    for (const struct dirent *e; folder != NULL && (e = readdir(folder)) != NULL;)
        if (e->d_type != DT_DIR) unlinkat(dirfd(folder), e->d_name, 0);
    if (folder != NULL) closedir(folder);
    CHECK(rmdir(sample_folder) == 0, "%s is not empty", sample_folder);
}

typedef struct blob {
    unsigned char *data;
    size_t bytes;
} blob;

static inline blob blob_read(const char *path) {
    blob b = { NULL, 0 };
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0) return b;
    b.data = malloc((size_t)st.st_size + 1);
    ssize_t got = read(fd, b.data, (size_t)st.st_size);
    b.bytes = got < 0 ? 0 : (size_t)got;
    close(fd);
    return b;
}

/* In place: a file system may flush a file that was truncated first, which costs a disk access a
 * file. */
static inline void blob_write(const char *path, const void *data, size_t bytes) {
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0 || pwrite(fd, data, bytes, 0) != (ssize_t)bytes) abort();
    if (ftruncate(fd, (off_t)bytes) != 0) abort();
    close(fd);
}

static inline bool blob_same(const char *path, blob expected) {
    blob found = blob_read(path);
    bool same = found.bytes == expected.bytes && found.data != NULL &&
                memcmp(found.data, expected.data, found.bytes) == 0;
    free(found.data);
    return same;
}

/* ---- contexts and matrices ---------------------------------------------------------------- */

static inline peri_context *plain_context(void) {
    peri_context_options options = PERI_CONTEXT_OPTIONS_INIT;
    peri_context *context;
    options.threads = 1;
    if (peri_context_create(&options, &context) != PERI_OK) abort();
    return context;
}

/* Nothing may be held when a context goes. */
static inline void context_end(peri_context *context, const char *what) {
    peri_context_stats stats;
    peri_context_stat(context, &stats);
    CHECK(stats.bytes == 0 && stats.blocks == 0, "%s: %zu bytes in %zu blocks are held", what,
          stats.bytes, stats.blocks);
    peri_context_release(context);
}

/* Random bytes; f32 are finite numbers, so that they compare and convert. */
static inline peri_matrix *random_matrix(peri_context *context, size_t rows, size_t cols,
                                         peri_dtype dtype) {
    peri_matrix *matrix;
    if (peri_host_matrix_create(context, rows, cols, dtype, &matrix) != PERI_OK) abort();
    unsigned char *data = peri_matrix_view(matrix).data;
    size_t bytes = rows * cols * peri_dtype_bytes(dtype);
    for (size_t i = 0; i < bytes; i++) data[i] = (unsigned char)peri_random_mix(cols, i);
    for (size_t i = 0; dtype == PERI_F32 && i < bytes / 4; i++)
        ((float *)(void *)data)[i] = (float)(int32_t)(peri_random_mix(rows, i) >> 40) / 64.0f;
    return matrix;
}

/* Whether rows [first, ...) of `whole` are the rows of `part`. */
static inline bool rows_same(const peri_matrix *whole, size_t first, const peri_matrix *part) {
    peri_view a = peri_matrix_view(whole), b = peri_matrix_view(part);
    if (a.cols != b.cols || a.dtype != b.dtype || first + b.rows > a.rows) return false;
    size_t row_bytes = a.cols * peri_dtype_bytes(a.dtype);
    for (size_t r = 0; r < b.rows; r++)
        if (memcmp(peri_view_row(&a, first + r), peri_view_row(&b, r), row_bytes) != 0)
            return false;
    return true;
}

static inline bool matrix_same(const peri_matrix *a, const peri_matrix *b) {
    return peri_matrix_view(a).rows == peri_matrix_view(b).rows && rows_same(a, 0, b);
}

/* Reads every byte, so that a sanitizer sees a view that is too long. */
static inline uint64_t matrix_touch(const peri_matrix *matrix) {
    peri_view view = peri_matrix_view(matrix);
    uint64_t sum = 0;
    for (size_t r = 0; r < view.rows; r++)
        sum ^= peri_random_bytes(peri_view_row(&view, r), view.cols * peri_dtype_bytes(view.dtype));
    return sum;
}

/* ---- samples ------------------------------------------------------------------------------ */

/* An index file: every dtype, every type of parameter, a section without rows. */
static inline peri_status save_container(peri_context *context, const char *path,
                                         const peri_control *control) {
    const peri_option list[] = {
        { "graph_degree", { PERI_VALUE_INT, { .i = -64 } } },
        { "alpha", { PERI_VALUE_REAL, { .r = 0.1 } } },
        { "exact", { PERI_VALUE_FLAG, { .flag = true } } },
        { "metric", { PERI_VALUE_TEXT, { .text = "inner_product" } } },
        { "note", { PERI_VALUE_TEXT, { .text = "" } } },
    };
    const peri_options params = { list, sizeof list / sizeof *list };
    peri_section sections[PERI_DTYPE_COUNT + 1];
    memset(sections, 0, sizeof sections);
    for (int i = 0; i < PERI_DTYPE_COUNT; i++) {
        snprintf(sections[i].name, sizeof sections[i].name, "%s_rows",
                 peri_dtype_name((peri_dtype)i));
        sections[i].matrix = random_matrix(context, 3 + (size_t)i, 5, (peri_dtype)i);
    }
    snprintf(sections[PERI_DTYPE_COUNT].name, PERI_SECTION_NAME_MAX, "none");
    sections[PERI_DTYPE_COUNT].matrix = random_matrix(context, 0, 9, PERI_I64);
    peri_status status = peri_container_save(context, path, "cagra", &params, sections,
                                             PERI_DTYPE_COUNT + 1, control);
    for (int i = 0; i <= PERI_DTYPE_COUNT; i++) peri_matrix_release(sections[i].matrix);
    return status;
}

#define HNSW_COUNT 6u

/* Six elements on a ring; element 2 has levels 1 and 2, element 4 level 1; element 5 is deleted. */
static inline peri_hnswlib_graph make_hnsw(peri_context *context, peri_dtype dtype) {
    peri_hnswlib_graph g = { .count = HNSW_COUNT,
                             .dim = 4,
                             .dtype = dtype,
                             .m = 2,
                             .max_m = 2,
                             .max_m0 = 4,
                             .ef_construction = 100,
                             .level_max = 2,
                             .entry = 2 };
    g.rows = random_matrix(context, g.count, g.dim, dtype);
    g.labels = random_matrix(context, g.count, 1, PERI_I64);
    g.graph = random_matrix(context, g.count, g.max_m0, PERI_U32);
    g.first = random_matrix(context, g.count, 1, PERI_U32);
    g.links = random_matrix(context, 3, g.max_m, PERI_U32);
    g.deleted = random_matrix(context, g.count, 1, PERI_U8);
    uint32_t *graph = peri_matrix_view(g.graph).data, *first = peri_matrix_view(g.first).data;
    static const uint32_t links[] = { 4, PERI_SLOT_NONE, PERI_SLOT_NONE, PERI_SLOT_NONE,
                                      2, PERI_SLOT_NONE };
    for (uint32_t i = 0; i < HNSW_COUNT; i++) {
        ((int64_t *)peri_matrix_view(g.labels).data)[i] = (int64_t)i * 1000 + INT64_C(0x100000000);
        ((uint8_t *)peri_matrix_view(g.deleted).data)[i] = i == 5;
        first[i] = i == 2 ? 0 : i == 4 ? 2 : PERI_SLOT_NONE;
        for (uint32_t j = 0; j < 4; j++)
            graph[4 * i + j] = j < 2 ? (i + 1 + j * (HNSW_COUNT - 2)) % HNSW_COUNT : PERI_SLOT_NONE;
    }
    memcpy(peri_matrix_view(g.links).data, links, sizeof links);
    return g;
}

static inline peri_status save_hnsw(peri_context *context, const char *path, peri_dtype dtype,
                                    const peri_control *control) {
    peri_hnswlib_graph g = make_hnsw(context, dtype);
    peri_status status = peri_hnswlib_write(context, path, &g, control);
    peri_hnswlib_graph_release(&g);
    return status;
}

/* X(format, dtype). Every format with every dtype that it holds. */
/* clang-format off */
#define SAMPLE_FORMATS(X)                                                                          \
    X("npy", PERI_F32) X("npy", PERI_F16) X("npy", PERI_I8) X("npy", PERI_U8) X("npy", PERI_I32)   \
    X("npy", PERI_U32) X("npy", PERI_I64) X("fvecs", PERI_F32) X("bvecs", PERI_U8)                 \
    X("ivecs", PERI_I32) X("fbin", PERI_F32) X("f16bin", PERI_F16) X("u8bin", PERI_U8)             \
    X("i8bin", PERI_I8) X("ibin", PERI_I32)
/* clang-format on */

#endif
