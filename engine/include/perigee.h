/* perigee.h: the whole public C API of Perigee, in reading order.
 *
 * status and errors -> context -> places -> dtypes and metrics -> views and matrices -> options ->
 * filters -> searchers (build, search, save, open) -> quantizers -> clustering -> measuring.
 *
 * Conventions
 *   - Every function returns a peri_status; PERI_OK is 0. peri_error_detail() says what, where and
 *     which values, for the calling thread. Out pointers are set to NULL before anything can fail.
 *   - Handles are opaque and reference-counted: *_retain adds, *_release drops; NULL is allowed.
 *   - Sizes and counts are size_t, ids are int64_t (-1 is none), dimensions uint32_t.
 *   - A view is row-major, one row is one vector; it never owns.
 *   - The library never prints, exits, aborts, reads the environment or installs signal handlers.
 */
#ifndef PERIGEE_H
#define PERIGEE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PERI_API __attribute__((visibility("default")))

#define PERI_VERSION "0.1.0"

/* Limits, checked with their number in the message. */
#define PERI_DIM_MAX 32768u        /* 255^2 * 32768 still fits a signed 32-bit sum */
#define PERI_K_MAX 16384u          /* neighbours asked for by one query */
#define PERI_SLOTS_MAX 0x7FFFFFFEu /* rows of one graph: a slot is 32 bits, the top one is spare */
#define PERI_SLOT_NONE 0xFFFFFFFFu /* ends a short row of a graph */
#define PERI_ID_NONE ((int64_t)-1) /* a missing result */

/* ---- status ------------------------------------------------------------------------------- */

/* X(name, value, code, text). `code` is the third value that Lua returns. PERI_E_ARGUMENT and
 * PERI_E_CLOSED are misuse (Lua raises); the others are the outside world (Lua: nil, message,
 * code). */
#define PERI_STATUS_MAP(X)                                                                         \
    X(OK, 0, "ok", "no error")                                                                     \
    X(E_ARGUMENT, -1, "argument", "an argument is of the wrong type, shape or range")              \
    X(E_INVALID, -2, "invalid", "the data given is not valid")                                     \
    X(E_IO, -3, "io", "a file could not be read or written")                                       \
    X(E_CORRUPT, -4, "corrupt", "a file does not hold what its header says")                       \
    X(E_MEMORY, -5, "memory", "out of memory, or over the limit given")                            \
    X(E_DEVICE, -6, "device", "a device is absent or failed")                                      \
    X(E_UNSUPPORTED, -7, "unsupported", "this place or kind does not do this")                     \
    X(E_INTERRUPTED, -8, "interrupted", "interrupted")                                             \
    X(E_TIMEOUT, -9, "timeout", "out of time")                                                     \
    X(E_CANCELLED, -10, "cancelled", "cancelled")                                                  \
    X(E_BUSY, -11, "busy", "in use")                                                               \
    X(E_CLOSED, -12, "closed", "the handle is closed")                                             \
    X(E_FORK, -13, "fork", "the device was opened before a fork")

typedef enum peri_status {
#define PERI_STATUS_ENUM(name, value, code, text) PERI_##name = value,
    PERI_STATUS_MAP(PERI_STATUS_ENUM)
#undef PERI_STATUS_ENUM
} peri_status;

/* The short code of a status, such as "io"; never NULL. */
PERI_API const char *peri_status_code(peri_status status);

/* One sentence for a status; never NULL. */
PERI_API const char *peri_status_text(peri_status status);

/* What the last failed call of this thread said: what, where and which values. Valid until the next
 * call of this thread that fails; "" when none failed. */
PERI_API const char *peri_error_detail(void);

/* ---- context ------------------------------------------------------------------------------ */

typedef struct peri_context peri_context;

/* Allocates (p NULL, old_bytes 0), resizes or frees (new_bytes 0, returns NULL). Called from any
 * thread. Returns NULL when it can't; `p` is then untouched. `align` is a power of two. */
typedef struct peri_allocator {
    void *ud;
    void *(*resize)(void *ud, void *p, size_t old_bytes, size_t new_bytes, size_t align);
} peri_allocator;

typedef struct peri_context_options {
    uint32_t size;            /* sizeof(peri_context_options) */
    uint32_t threads;         /* workers of the pool, the caller's thread counted; 0 = one a CPU */
    size_t memory_bytes;      /* host bytes this context may hold; 0 = no limit */
    peri_allocator allocator; /* resize NULL = the C library's */
    const char *plugin_path;  /* folder of the plug-ins; NULL = the folder of this library */
} peri_context_options;

#define PERI_CONTEXT_OPTIONS_INIT                                                                  \
    { (uint32_t)sizeof(peri_context_options), 0, 0, { NULL, NULL }, NULL }

typedef struct peri_context_stats {
    size_t bytes;        /* held now, host memory */
    size_t bytes_peak;   /* the most ever held */
    size_t bytes_limit;  /* 0 = none */
    size_t blocks;       /* allocations alive */
    uint64_t acquired;   /* allocations ever made: a search adds none after warm-up */
    uint32_t threads;    /* size of the pool, the caller counted */
    uint32_t numa_nodes; /* memory nodes with CPUs of ours; with more than one the threads of the
                            pool are kept on a node each, and large matrices spread over all */
} peri_context_stats;

/* Makes a context: an allocator, a thread pool (started on first use) and the devices opened so
 * far. Threads: a context may be shared by any number of threads. */
PERI_API peri_status peri_context_create(const peri_context_options *options, peri_context **out);
PERI_API void peri_context_retain(peri_context *context);
PERI_API void peri_context_release(peri_context *context);
PERI_API void peri_context_stat(const peri_context *context, peri_context_stats *out);

/* ---- following long work ------------------------------------------------------------------ */

/* Long calls poll on the calling thread, at least every 50 ms: `stage` names the work, `done` of
 * `total` steps are finished (total 0: not counted). PERI_OK goes on; any other status ends the
 * call with it (use PERI_E_CANCELLED or PERI_E_INTERRUPTED) and nothing is left behind. */
typedef struct peri_control {
    peri_status (*poll)(void *ud, const char *stage, size_t done, size_t total);
    void *ud;
} peri_control;

/* ---- places ------------------------------------------------------------------------------- */

typedef enum peri_place_kind {
    PERI_PLACE_CPU = 0,  /* "cpu": SIMD and threads */
    PERI_PLACE_REF = 1,  /* "ref": every operation, naive; the oracle of tests */
    PERI_PLACE_FAKE = 2, /* "fake:0", "fake:1": pretend devices with queues, for tests */
    PERI_PLACE_CUDA = 3, /* "cuda:0": the plug-in */
} peri_place_kind;

typedef struct peri_place {
    uint16_t kind;   /* peri_place_kind */
    uint16_t number; /* device number, 0 for cpu and ref */
} peri_place;

#define PERI_CPU ((peri_place){ PERI_PLACE_CPU, 0 })

/* Reads "cpu", "cuda:1", "cuda" (= cuda:0), "auto" (= the first cuda device that opens and does
 * what is asked, else cpu; here: cpu). PERI_E_ARGUMENT names what is allowed. */
PERI_API peri_status peri_place_parse(const char *text, peri_place *out);

/* Writes the place's word, at most `size` bytes with the final NUL, and returns `text`. */
PERI_API const char *peri_place_format(peri_place place, char *text, size_t size);

/* What memory of a device is for: it is counted by use. X(NAME, word). */
#define PERI_USE_MAP(X)                                                                            \
    X(ROWS, "rows")       /* matrices: rows, graphs, codes */                                      \
    X(SCRATCH, "scratch") /* of searches and builds; kept between them, see peri_device_trim */    \
    X(STAGING, "staging") /* chunks of rows on their way through */                                \
    X(OTHER, "other")

typedef enum peri_memory_use {
#define PERI_USE_ENUM(name, word) PERI_USE_##name,
    PERI_USE_MAP(PERI_USE_ENUM)
#undef PERI_USE_ENUM
        PERI_USE_COUNT
} peri_memory_use;

typedef struct peri_device_info {
    char name[128];     /* "cpu (avx512)", "NVIDIA H200" */
    char detail[256];   /* limits in words: instruction sets, compute capability, driver */
    size_t bytes_total; /* memory; 0 = unknown */
    size_t bytes_free;
    uint32_t units;                    /* threads or multiprocessors */
    uint32_t shares_host;              /* 1: its memory is the host's, nothing is copied */
    uint64_t peers;                    /* bit i: device i of the same driver is reached directly */
    size_t bytes_held[PERI_USE_COUNT]; /* of the device's own memory, by this context */
} peri_device_info;

/* Counts the devices of a kind; 0 with PERI_OK and a reason in peri_error_detail() when its
 * plug-in or driver is absent. */
PERI_API peri_status peri_device_count(peri_context *context, peri_place_kind kind, uint32_t *out);
PERI_API peri_status peri_device_stat(peri_context *context, peri_place place,
                                      peri_device_info *out);

/* At most this many bytes of the device's own memory for this context from now on; 0 = all it has.
 * What is held already stays. PERI_E_UNSUPPORTED: the place uses the host's memory, which a
 * context limits. */
PERI_API peri_status peri_device_limit(peri_context *context, peri_place place, size_t bytes);

/* Where rows and what is made of them lie when a device works at them. On the host, rows pass the
 * device in chunks of a few hundred MiB, one transfer of them a pass. */
typedef enum peri_residence {
    PERI_RESIDENCE_AUTO = 0,   /* there, when they fit; else on the host */
    PERI_RESIDENCE_DEVICE = 1, /* there, or PERI_E_MEMORY */
    PERI_RESIDENCE_HOST = 2
} peri_residence;

/* Gives back the scratch and the page-locked blocks that idle searches and copies keep. The engine
 * does so by itself when memory runs short, before it says PERI_E_MEMORY. */
PERI_API peri_status peri_device_trim(peri_context *context, peri_place place);

/* ---- dtypes and metrics ------------------------------------------------------------------- */

/* X(name, word, bytes). */
#define PERI_DTYPE_MAP(X)                                                                          \
    X(F32, "f32", 4)                                                                               \
    X(F16, "f16", 2)                                                                               \
    X(I8, "i8", 1)                                                                                 \
    X(U8, "u8", 1)                                                                                 \
    X(I32, "i32", 4)                                                                               \
    X(U32, "u32", 4)                                                                               \
    X(I64, "i64", 8)

typedef enum peri_dtype {
#define PERI_DTYPE_ENUM(name, word, bytes) PERI_##name,
    PERI_DTYPE_MAP(PERI_DTYPE_ENUM)
#undef PERI_DTYPE_ENUM
        PERI_DTYPE_COUNT
} peri_dtype;

/* The word of a dtype, such as "f32"; never NULL. */
PERI_API const char *peri_dtype_name(peri_dtype dtype);
/* Bytes of one element; 0 for what is no dtype. */
PERI_API size_t peri_dtype_bytes(peri_dtype dtype);
/* The dtype of a word. PERI_E_ARGUMENT names those there are. */
PERI_API peri_status peri_dtype_parse(const char *text, peri_dtype *out);

/* X(name, word). Inside, smaller is nearer (inner product negated, euclidean squared); at this
 * API a metric reports what its users expect: squared L2, L2, inner product, 1 - cosine, the sum
 * of absolute differences, and the number of bits that differ. The last takes u8 rows alone, whose
 * bytes are eight bits each (pg.binary makes them); it and l1 are for the kinds whose help() says
 * so. */
#define PERI_METRIC_MAP(X)                                                                         \
    X(SQEUCLIDEAN, "sqeuclidean")                                                                  \
    X(EUCLIDEAN, "euclidean")                                                                      \
    X(INNER_PRODUCT, "inner_product")                                                              \
    X(COSINE, "cosine")                                                                            \
    X(L1, "l1")                                                                                    \
    X(HAMMING, "hamming")

typedef enum peri_metric {
#define PERI_METRIC_ENUM(name, word) PERI_##name,
    PERI_METRIC_MAP(PERI_METRIC_ENUM)
#undef PERI_METRIC_ENUM
        PERI_METRIC_COUNT
} peri_metric;

/* The word of a metric, such as "cosine"; never NULL. */
PERI_API const char *peri_metric_name(peri_metric metric);
/* The metric of a word. PERI_E_ARGUMENT names those there are. */
PERI_API peri_status peri_metric_parse(const char *text, peri_metric *out);

/* ---- views and matrices ------------------------------------------------------------------- */

typedef struct peri_view {
    void *data; /* at `place`; row r begins at data + r * stride_bytes */
    size_t rows, cols;
    size_t stride_bytes; /* >= cols * bytes of dtype */
    peri_dtype dtype;
    peri_place place;
} peri_view;

typedef struct peri_matrix peri_matrix;

/* A new matrix of zeros. PERI_E_ARGUMENT (cols 0), PERI_E_MEMORY, PERI_E_DEVICE. */
PERI_API peri_status peri_matrix_create(peri_context *context, size_t rows, size_t cols,
                                        peri_dtype dtype, peri_place place, peri_matrix **out);
PERI_API void peri_matrix_retain(peri_matrix *matrix);
PERI_API void peri_matrix_release(peri_matrix *matrix);
PERI_API peri_view peri_matrix_view(const peri_matrix *matrix);
PERI_API peri_context *peri_matrix_context(const peri_matrix *matrix);

/* Rows [first, stop) without a copy; keeps the parent alive. PERI_E_ARGUMENT. */
PERI_API peri_status peri_matrix_slice(peri_matrix *matrix, size_t first, size_t stop,
                                       peri_matrix **out);

/* The rows named by `ids` (count of them, 0-based), in that order, copied. PERI_E_ARGUMENT names
 * the first one out of range. */
PERI_API peri_status peri_matrix_gather(const peri_matrix *matrix, const int64_t *ids, size_t count,
                                        peri_matrix **out);

/* A copy in another dtype: rounded to nearest even, saturated for integers. */
PERI_API peri_status peri_matrix_convert(const peri_matrix *matrix, peri_dtype dtype,
                                         peri_matrix **out);

/* An f32 copy with rows of length 1. PERI_E_INVALID names a zero, NaN or Inf row. */
PERI_API peri_status peri_matrix_normalize(const peri_matrix *matrix, peri_matrix **out);

/* The same rows at another place: a copy, or `matrix` retained when it is there already. */
PERI_API peri_status peri_matrix_move(peri_matrix *matrix, peri_place place, peri_matrix **out);

/* Copies rows [first, first + count) to or from packed host memory of the same dtype. */
PERI_API peri_status peri_matrix_read(const peri_matrix *matrix, size_t first, size_t count,
                                      void *out);
PERI_API peri_status peri_matrix_write(peri_matrix *matrix, size_t first, size_t count,
                                       const void *data);

/* A matrix of zeros in memory of the host that is page-locked: copies to and from `device` run at
 * the full rate of the link, and beside other work. Its place is the host's. Where a device shares
 * the host's memory it is a plain matrix. PERI_E_MEMORY: page-locked memory is often limited. */
PERI_API peri_status peri_matrix_create_pinned(peri_context *context, size_t rows, size_t cols,
                                               peri_dtype dtype, peri_place device,
                                               peri_matrix **out);
/* A copy in such memory, or `matrix` retained when it is there already. */
PERI_API peri_status peri_matrix_pin(peri_matrix *matrix, peri_place device, peri_matrix **out);
/* Whether the memory belongs to others who forbade to write to it. */
PERI_API bool peri_matrix_read_only(const peri_matrix *matrix);
/* Whether the memory is page-locked. */
PERI_API bool peri_matrix_pinned(const peri_matrix *matrix);

/* ---- queues of others (their memory: perigee_dlpack.h) ------------------------------------- */

/* A caller's queue on a device: a cudaStream_t in `handle`, 0 and 1 the default stream. */
typedef struct peri_queue {
    bool given; /* false: none */
    void *handle;
} peri_queue;

/* Waits until what is in the queue is done. */
PERI_API peri_status peri_queue_wait(peri_context *context, peri_place place, peri_queue queue);
/* Says that a caller's queue reads or writes the matrix: when its memory is given back, the device
 * is waited for first. */
PERI_API void peri_matrix_share(peri_matrix *matrix);

/* ---- files of rows ------------------------------------------------------------------------- */

typedef struct peri_load_options {
    uint32_t size;
    const char *format; /* NULL = by the name's ending: npy fvecs bvecs ivecs fbin ... */
    size_t first, stop; /* rows [first, stop); stop SIZE_MAX = to the end */
    bool map;           /* map the file when its layout allows, else read */
    const peri_control *control;
} peri_load_options;

#define PERI_LOAD_OPTIONS_INIT                                                                     \
    { (uint32_t)sizeof(peri_load_options), NULL, 0, SIZE_MAX, false, NULL }

/* Reads a matrix file: .npy .fvecs .bvecs .ivecs .fbin .f16bin .u8bin .i8bin .ibin. In a .npy, f64
 * become f32 and one dimension is one column. Sizes are checked against the file's length before
 * anything is allocated. PERI_E_IO, PERI_E_CORRUPT, PERI_E_UNSUPPORTED (a dtype or layout we do not
 * take, named), PERI_E_ARGUMENT (rows). */
PERI_API peri_status peri_matrix_load(peri_context *context, const char *path,
                                      const peri_load_options *options, peri_matrix **out);

/* Writes a matrix file beside `path`, syncs, renames. The ending (or `format`) must suit the
 * dtype. */
PERI_API peri_status peri_matrix_save(const peri_matrix *matrix, const char *path,
                                      const char *format);

/* ---- options ------------------------------------------------------------------------------ */

typedef enum peri_value_type {
    PERI_VALUE_INT = 0,
    PERI_VALUE_REAL = 1,
    PERI_VALUE_FLAG = 2,
    PERI_VALUE_TEXT = 3, /* also a choice, by its word */
} peri_value_type;

typedef struct peri_value {
    peri_value_type type;
    union {
        int64_t i;
        double r;
        bool flag;
        const char *text;
    } as;
} peri_value;

typedef struct peri_option {
    const char *key;
    peri_value value;
} peri_option;

/* Options by name, as they come from a script. An unknown key is PERI_E_ARGUMENT and the message
 * names the nearest known one. */
typedef struct peri_options {
    const peri_option *list;
    size_t count;
} peri_options;

/* One row of a kind's parameter table: what validates an option also prints its help. */
typedef struct peri_param {
    const char *name;
    peri_value_type type; /* PERI_VALUE_TEXT: a choice */
    size_t offset;        /* in the kind's parameter struct (int64_t, double for REAL) */
    double fallback;      /* default; a choice's number; 0 or -1 with a rule = automatic */
    double min, max;      /* inclusive */
    const char *choices;  /* "auto|exact|nn_descent", NULL if not a choice */
    const char *rule;     /* how the automatic value is found, NULL if none */
    const char *meaning;
} peri_param;

typedef struct peri_param_table {
    const char *name; /* "cagra.build" */
    const peri_param *list;
    size_t count;
} peri_param_table;

/* The tables of a kind's verb: kind "flat", "ivf_flat", "ivf_pq", "ivf_sq", "ivf_rabitq", "cagra",
 * "hnsw", "vamana", "filtered", "refined"; verb "build", "search", "to_hnsw". Quantizers: "pq",
 * "opq", "sq", "binary", "rabitq"; verb "train"; also that of "kmeans", and "build" of
 * "knn_graph". NULL: there is none. */
PERI_API const peri_param_table *peri_params_find(const char *kind, const char *verb);

/* The kinds by number, from 0; NULL past the last: of indexes, of quantizers, and all that have
 * tables. */
PERI_API const char *peri_kind_name(size_t number);
PERI_API const char *peri_quantizer_kind_name(size_t number);
PERI_API const char *peri_params_name(size_t number);

/* Bytes of an index of a kind ("bytes" of its description) as a formula in the syntax of Lua over
 * n, dim, bytes (of one element) and the resolved parameters, before what every kind adds: 8 n
 * with ids, 4 n under cosine where rows are kept, n once rows were removed. NULL: none. */
PERI_API const char *peri_kind_memory(const char *kind);

/* Receives the fields of a description, in order. `text` values live during the call. */
typedef void (*peri_field_fn)(void *ud, const char *key, const peri_value *value);

/* ---- filters ------------------------------------------------------------------------------ */

/* A filter says which rows may be returned. It is a value: combining makes a new one. It is
 * bound to an index (its number of rows and its ids) at the search, or by a call that gives n. */
typedef struct peri_filter peri_filter;

/* Rows whose id is in the list; any order, repeats allowed. */
PERI_API peri_status peri_filter_ids(peri_context *context, const int64_t *ids, size_t count,
                                     peri_filter **out);
/* Rows [first, stop). */
PERI_API peri_status peri_filter_range(peri_context *context, int64_t first, int64_t stop,
                                       peri_filter **out);
/* Packed bits, least significant bit of byte 0 first: bit r set = row r allowed; rows past `count`
 * bits are not. */
PERI_API peri_status peri_filter_bits(peri_context *context, const void *bytes, size_t count,
                                      peri_filter **out);
typedef enum peri_filter_op { PERI_FILTER_AND, PERI_FILTER_OR, PERI_FILTER_MINUS } peri_filter_op;
PERI_API peri_status peri_filter_join(peri_filter_op op, peri_filter *left, peri_filter *right,
                                      peri_filter **out);
PERI_API peri_status peri_filter_not(peri_filter *filter, peri_filter **out);
PERI_API void peri_filter_retain(peri_filter *filter);
PERI_API void peri_filter_release(peri_filter *filter);
/* How many of rows 0..n-1 pass. O(n / 64) the first time for this n, then kept. */
PERI_API peri_status peri_filter_count(peri_filter *filter, size_t n, size_t *out);
/* Whether one id passes. */
PERI_API peri_status peri_filter_test(peri_filter *filter, int64_t id, bool *out);

/* ---- searchers ---------------------------------------------------------------------------- */

/* Everything that answers queries. Index kinds: "flat", "ivf_flat", "ivf_pq", "ivf_sq",
 * "ivf_rabitq", "cagra", "hnsw", "vamana". Combinators wrap searchers: "filtered", "refined".
 * Threads: any number of searches at once. */
typedef struct peri_searcher peri_searcher;

typedef struct peri_build {
    uint32_t size;
    const char
        *kind; /* "flat", "ivf_flat", "ivf_pq", "cagra", ..; those that are built from rows */
    peri_matrix *rows; /* [n, dim] f32 f16 i8 u8; kept by reference */
    peri_matrix *ids;  /* [n, 1] i64, unique, >= 0; NULL = row numbers */
    peri_place place;
    peri_options options; /* the kind's "build" table; metric is one of them */
    size_t threads;       /* 0 = the context's */
    const peri_control *control;
} peri_build;

#define PERI_BUILD_INIT                                                                            \
    { (uint32_t)sizeof(peri_build), NULL, NULL, NULL, { 0, 0 }, { NULL, 0 }, 0, NULL }

/* Builds an index. PERI_E_ARGUMENT (options, shapes), PERI_E_INVALID (NaN, Inf, zero vector under
 * cosine, with row and column), PERI_E_MEMORY, PERI_E_CANCELLED, PERI_E_UNSUPPORTED (place). */
PERI_API peri_status peri_searcher_build(const peri_build *build, peri_searcher **out);

typedef struct peri_extension {
    uint32_t size;
    peri_matrix *rows; /* [m, dim] in the index's dtype */
    peri_matrix *ids;  /* [m, 1] i64, >= 0, of no row alive; NULL = row numbers, which go on */
    size_t threads;    /* 0 = the context's */
    const peri_control *control;
} peri_extension;

#define PERI_EXTENSION_INIT                                                                        \
    { (uint32_t)sizeof(peri_extension), NULL, NULL, 0, NULL }

/* Adds rows behind those of an index. The next state is made aside and takes the place of the one
 * there is: searches under way finish on what they began with, a failure changes nothing. Writers
 * of one index wait for each other. Cost: O(m) for the rows, and the kind's. PERI_E_ARGUMENT
 * (shape, dtype, ids missing where the index has ids), PERI_E_INVALID (NaN, ids taken),
 * PERI_E_UNSUPPORTED (the kind), PERI_E_MEMORY, PERI_E_CANCELLED. */
PERI_API peri_status peri_searcher_extend(peri_searcher *searcher, const peri_extension *more);

typedef struct peri_removal {
    uint32_t size;
    const int64_t *ids; /* [count]; those that no row has are passed over */
    size_t count;
    size_t threads;
    const peri_control *control;
} peri_removal;

#define PERI_REMOVAL_INIT                                                                          \
    { (uint32_t)sizeof(peri_removal), NULL, 0, 0, NULL }

/* Removes rows by id, in the way of peri_searcher_extend; `removed` receives how many there were.
 * Their slots stay as holes: row numbers and the ids of other rows never change, filters go on
 * counting by slot. O(rows). */
PERI_API peri_status peri_searcher_remove(peri_searcher *searcher, const peri_removal *less,
                                          size_t *removed);

typedef struct peri_request {
    uint32_t size;
    peri_view queries;           /* [q, dim] on the host or at the searcher's place */
    size_t k;                    /* 1..PERI_K_MAX; more than the rows: padded */
    peri_filter *const *filters; /* filter_count of them */
    size_t filter_count;         /* 0 none, 1 for the batch, q one for each query */
    peri_options options;        /* the "search" tables of the tree's layers */
    size_t threads;              /* 0 = the context's */
    const peri_control *control;
    peri_queue queue; /* the search comes after what is in it, and what follows in it after the
                         search */
} peri_request;

#define PERI_REQUEST_INIT                                                                          \
    {                                                                                              \
        (uint32_t)sizeof(peri_request), { NULL, 0, 0, 0, PERI_F32, { 0, 0 } }, 0, NULL, 0,         \
            { NULL, 0 }, 0, NULL, {                                                                \
            false, NULL                                                                            \
        }                                                                                          \
    }

/* What an answer says of itself. */
typedef struct peri_hits_info {
    const char *path; /* "exact", "graph", "graph+exact", "lists", "lists+all lists",
                         "all lists"; static text */
    peri_place place;
    double visited;     /* distances computed, a query, on average */
    double selectivity; /* share of rows that pass the filters; 1 without */
    size_t missing;     /* results that are PERI_ID_NONE; not counted where they stay on a device */
    size_t redone;      /* queries that an exact search did twice: its first pass, with less
                           precision, proved nothing. 0 where there is no such pass */
    size_t scanned;     /* of these, the queries that cost a scan of all rows */
} peri_hits_info;

/* The caller's buffers: row i holds the neighbours of query i, nearest first; short rows are padded
 * with PERI_ID_NONE at the worst value (+inf for distances, -inf for the inner product). */
typedef struct peri_hits {
    int64_t *ids;     /* [q, k] */
    float *distances; /* [q, k] */
    peri_hits_info info;
    peri_place place; /* of both: the host or the searcher's place; told wrongly: E_ARGUMENT */
} peri_hits;

/* Answers a batch and waits; but with a queue, and queries and hits at the searcher's place, a flat
 * index without ids of its own only enqueues: queries, hits and filters must stay until the queue
 * got there. Queries on a device are not looked at: a NaN among them gives +inf. Queries are f32 or
 * f16 for indexes of f32 and f16 rows; for i8 and u8 rows they are of that dtype, or, on the host,
 * floats that are whole numbers in its range. Cost: no allocation after the first search of that
 * shape. Errors: PERI_E_ARGUMENT (dim, k, options, filters), PERI_E_INVALID (NaN, Inf, zero query
 * under cosine, with row and column), PERI_E_DEVICE, PERI_E_CANCELLED, PERI_E_INTERRUPTED. */
PERI_API peri_status peri_searcher_search(peri_searcher *searcher, const peri_request *request,
                                          peri_hits *hits);

/* What a search by distance found: the rows of query i are items offsets[i] .. offsets[i + 1] - 1,
 * nearest first, ties by row. The caller releases the matrices. */
typedef struct peri_range_hits {
    peri_matrix *offsets;   /* i64 [q + 1, 1] */
    peri_matrix *ids;       /* i64 [found, 1] */
    peri_matrix *distances; /* f32 [found, 1] in reported units */
} peri_range_hits;

/* All rows at `radius` or nearer, in reported units (inner product: at `radius` or larger): those
 * of all rows for "flat", of the lists that a search of these options looks at for "ivf_flat".
 * request->k keeps the nearest so many of each query, 0 all. Cost: two scans, and memory for what
 * is found before the nearest are kept. PERI_E_UNSUPPORTED for other kinds; errors as of
 * peri_searcher_search. */
PERI_API peri_status peri_searcher_range(peri_searcher *searcher, const peri_request *request,
                                         float radius, peri_range_hits *hits);

/* Exact values of given rows: distances[i, j] of query i to ids[i, j] in reported units;
 * PERI_ID_NONE gives the worst value. PERI_E_UNSUPPORTED when the searcher holds no rows. */
PERI_API peri_status peri_searcher_score(peri_searcher *searcher, const peri_view *queries,
                                         const int64_t *ids, size_t columns, float *distances);

/* One more reference. */
PERI_API void peri_searcher_retain(peri_searcher *searcher);
/* One reference less; the last frees it and lets go of what it wraps. NULL is allowed. */
PERI_API void peri_searcher_release(peri_searcher *searcher);

/* Wraps: every search also obeys `filter`. The inner searcher is retained. */
PERI_API peri_status peri_searcher_filtered(peri_searcher *inner, peri_filter *filter,
                                            peri_searcher **out);
/* Wraps: asks the inner one for `ratio` * k and re-ranks on `rows` (option "ratio"). */
PERI_API peri_status peri_searcher_refined(peri_searcher *inner, peri_matrix *rows,
                                           peri_options options, peri_searcher **out);
/* An HNSW index over the graph of a CAGRA index: options of table "cagra.to_hnsw". Rows are
 * shared. */
PERI_API peri_status peri_searcher_to_hnsw(peri_searcher *cagra, peri_options options,
                                           const peri_control *control, peri_searcher **out);

/* The index at another place: a copy of its sections there. */
PERI_API peri_status peri_searcher_move(peri_searcher *searcher, peri_place place,
                                        peri_searcher **out);

/* Fields of a searcher: kind, rows, dim, dtype, metric, place, bytes, resolved parameters
 * ("params.itopk_size"), the inner searchers ("inner.…"). */
PERI_API void peri_searcher_describe(const peri_searcher *searcher, peri_field_fn field, void *ud);

/* Layer `depth` of the tree (0 = this) as one line of text, or false when there is none:
 * explain(). */
PERI_API bool peri_searcher_explain(const peri_searcher *searcher, size_t depth, char *line,
                                    size_t size);

/* The word of its kind: "flat", "ivf_flat", .., "filtered", "refined"; static text. */
PERI_API const char *peri_searcher_kind(const peri_searcher *searcher);
/* The context it was built in, not retained for the caller. */
PERI_API peri_context *peri_searcher_context(const peri_searcher *searcher);
/* Rows that it searches; the slots of removed ones are counted. */
PERI_API size_t peri_searcher_rows(const peri_searcher *searcher);
/* Columns that a query must have. */
PERI_API uint32_t peri_searcher_dim(const peri_searcher *searcher);
/* What its distances are. */
PERI_API peri_metric peri_searcher_metric(const peri_searcher *searcher);
/* The rows it holds, retained for the caller; NULL in `out` when it holds none. */
PERI_API peri_status peri_searcher_dataset(peri_searcher *searcher, peri_matrix **out);

typedef struct peri_file_options {
    uint32_t size;
    const char *format; /* NULL or "perigee": our container; "hnswlib" */
    bool dataset;       /* save: with the rows (default true) */
    bool map;           /* open: map the file instead of reading it */
    peri_place place;   /* open */
    peri_matrix *rows;  /* open: the rows of a file that was saved without; NULL = the file's */
    const char *metric; /* open hnswlib: the file does not say; required */
    const char *dtype;  /* hnswlib, open and save: "f32" (default) or "u8" */
    const peri_control *control;
} peri_file_options;

#define PERI_FILE_OPTIONS_INIT                                                                     \
    { (uint32_t)sizeof(peri_file_options), NULL, true, false, { 0, 0 }, NULL, NULL, NULL, NULL }

/* Writes beside `path`, syncs file and folder, renames: an interrupted save leaves the old file. */
PERI_API peri_status peri_searcher_save(peri_searcher *searcher, const char *path,
                                        const peri_file_options *options);
PERI_API peri_status peri_searcher_open(peri_context *context, const char *path,
                                        const peri_file_options *options, peri_searcher **out);

/* ---- quantizers --------------------------------------------------------------------------- */

/* An optional library that is opened on first use: "lapack", which learns rotations for opq. Its
 * file name in `file` (static text), or PERI_E_UNSUPPORTED and, in the detail, what is missing and
 * which package has it. */
PERI_API peri_status peri_library_find(const char *name, const char **file);

/* Turns rows into short codes and back. Kinds: "pq", "opq" (product quantization, with a learned
 * rotation), "sq" (8 or 4 bits a column, or f16), "binary" (a bit a column), "rabitq" (1 to 8 bits
 * a rotated column). Learned once, immutable; the same bits for a seed at any number of threads. */
typedef struct peri_quantizer peri_quantizer;

typedef struct peri_train {
    uint32_t size;
    const char *kind;
    peri_matrix *rows;    /* [n, dim] f32 f16 i8 u8, n > 0; read during the call only */
    peri_options options; /* the kind's "train" table */
    size_t threads;       /* 0 = the context's */
    const peri_control *control;
} peri_train;

#define PERI_TRAIN_INIT                                                                            \
    { (uint32_t)sizeof(peri_train), NULL, NULL, { NULL, 0 }, 0, NULL }

/* Learns a quantizer from rows; pq and opq at the rows' place, and they code there. PERI_E_ARGUMENT
 * (options, shapes), PERI_E_INVALID (NaN, Inf), PERI_E_MEMORY, PERI_E_CANCELLED, PERI_E_UNSUPPORTED
 * (place; opq without a LAPACK). */
PERI_API peri_status peri_quantizer_train(const peri_train *train, peri_quantizer **out);

/* How encode, decode and distortion run. */
typedef struct peri_coding {
    uint32_t size;
    size_t threads; /* 0 = the context's */
    const peri_control *control;
} peri_coding;

#define PERI_CODING_INIT                                                                           \
    { (uint32_t)sizeof(peri_coding), 0, NULL }

/* Codes of rows [n, dim] f32 f16 i8 u8, anywhere: u8 [n, row_bytes] on the host. `coding` may be
 * NULL. PERI_E_ARGUMENT (dim), PERI_E_INVALID (NaN, Inf, with row and column). */
PERI_API peri_status peri_quantizer_encode(peri_quantizer *quantizer, peri_matrix *rows,
                                           const peri_coding *coding, peri_matrix **codes);
/* What codes [n, row_bytes] u8 stand for: f32 [n, dim] on the host. Any bytes are taken: codes of
 * another quantizer give rows of no meaning. PERI_E_ARGUMENT (shape). */
PERI_API peri_status peri_quantizer_decode(peri_quantizer *quantizer, peri_matrix *codes,
                                           const peri_coding *coding, peri_matrix **rows);
/* The mean over the rows of the squared distance between a row and its decoded code. */
PERI_API peri_status peri_quantizer_distortion(peri_quantizer *quantizer, peri_matrix *rows,
                                               const peri_coding *coding, double *out);

/* Fields: kind, dim, row_bytes, bytes, parameters as they were resolved ("params.pq_dim"), and what
 * the kind has to say. */
PERI_API void peri_quantizer_describe(const peri_quantizer *quantizer, peri_field_fn field,
                                      void *ud);
/* "pq", "opq", "sq", "binary", "rabitq"; static text. */
PERI_API const char *peri_quantizer_name(const peri_quantizer *quantizer);
/* Columns of its rows. */
PERI_API uint32_t peri_quantizer_dim(const peri_quantizer *quantizer);
/* Bytes of the code of a row. */
PERI_API size_t peri_quantizer_row_bytes(const peri_quantizer *quantizer);

/* Writes beside `path`, syncs, renames. */
PERI_API peri_status peri_quantizer_save(peri_quantizer *quantizer, const char *path,
                                         const peri_control *control);
/* Opens what save wrote, trusting none of it. `kind` NULL takes any. PERI_E_IO, PERI_E_CORRUPT,
 * PERI_E_UNSUPPORTED (another kind, named). */
PERI_API peri_status peri_quantizer_open(peri_context *context, const char *path, const char *kind,
                                         const peri_control *control, peri_quantizer **out);
/* One more reference. */
PERI_API void peri_quantizer_retain(peri_quantizer *quantizer);
/* One reference less; the last frees it. NULL is allowed. */
PERI_API void peri_quantizer_release(peri_quantizer *quantizer);

/* ---- clustering, rows against rows --------------------------------------------------------- */

#include "perigee_clusters.h"

/* ---- measuring ---------------------------------------------------------------------------- */

/* Recall of found [q, k] against truth [q, t], t >= k: by id (values NULL), or by value: a found
 * row is right when its value is no worse than the k-th true one within a relative 1e-5 (ties
 * and equal rows count as right). Ids are i64, i32 or u32 views; values f32 in reported units. */
PERI_API peri_status peri_recall(const peri_view *found_ids, const peri_view *found_values,
                                 const peri_view *truth_ids, const peri_view *truth_values,
                                 peri_metric metric, double *out);

#ifdef __cplusplus
}
#endif
#endif
