/* perigee_backend.h: the seam. A backend is a table of slots (peri_driver) and a table of
 * operations.
 *
 * Three handles: driver (a table, one a process), device (opened by a context), stream (a queue on
 * a device; one thread at a time). The index code above the seam says what to do, in which order
 * and with which defaults; only the hot loops live below it.
 *
 * Rules
 *   - An operation is a plain struct that begins with its kind. run() copies the struct before it
 *     returns; the memory that its pointers name must stay until stream_wait().
 *   - All pointers of an operation are at the device's place, except those marked `host`.
 *   - Inside, smaller is nearer: inner product is negated, euclidean squared, cosine is 1 - cos.
 *     Ties go to the lower slot. A missing result is PERI_ID_NONE at +inf.
 *   - Distances are those of the canonical routine (core/distance.h), bit for bit, on every backend
 *     whose `supports` does not say otherwise.
 *   - run() may use the scratch it is given and nothing else; scratch_bytes() is an upper bound of
 *   it.
 *   - A backend never falls back silently: supports() answers with a reason.
 */
#ifndef PERIGEE_BACKEND_H
#define PERIGEE_BACKEND_H

#include "perigee.h"

#ifdef __cplusplus
extern "C" {
#endif

#define PERI_BACKEND_ABI 4u

typedef struct peri_driver peri_driver;
typedef struct peri_device peri_device;
typedef struct peri_stream peri_stream;
typedef struct peri_event peri_event;
typedef struct peri_host peri_host;

typedef enum peri_memory_kind {
    PERI_MEMORY_DEVICE, /* the device's own; the host may not touch it */
    PERI_MEMORY_PINNED, /* the host's, page-locked: fast to copy */
    PERI_MEMORY_MAPPED, /* the host's, also addressed by the device */
} peri_memory_kind;

/* A block of memory. `data` is an address at the device's place; views point into it. */
typedef struct peri_mem {
    peri_device *device;
    void *data;
    size_t bytes;
    peri_memory_kind kind;
    peri_memory_use use;
    bool foreign;  /* wrapped, not owned: release forgets it */
    bool shared;   /* others were given the address: release waits for the device first */
    void *backend; /* the backend's own */
} peri_mem;

/* The first fields of every device. A backend embeds this at the head of its own struct. */
struct peri_device {
    const peri_driver *driver;
    const peri_host *host;
    peri_context *context;
    peri_place place;
    uint32_t threads;     /* for backends that run on the context's pool */
    uint32_t shares_host; /* 1: host pointers are device pointers */
    uint64_t generation;  /* of the process when opened: differs after a fork */
    void *lanes;          /* the engine's pool of streams with scratch; not the backend's */
    void *parked;         /* lanes that were left with work under way */
    void *rings;          /* the engine's pool of page-locked blocks */
};

struct peri_stream {
    peri_device *device;
    /* (optional) follows an operation that runs on the calling thread; NULL otherwise */
    const peri_control *control;
    size_t threads; /* at most this many workers for the next run; 0 = the device's */
};

/* ---- operations --------------------------------------------------------------------------- */

/* X(NAME, name): enum, names, the support table and the parity spec come from this list. */
#define PERI_OP_MAP(X)                                                                             \
    X(CONVERT, convert)             /* dtype to dtype, rounding to nearest even, saturating */     \
    X(LENGTHS, lengths)             /* Euclidean length of every row */                            \
    X(GATHER, gather)               /* rows by slot */                                             \
    X(SCATTER, scatter)             /* rows to slots */                                            \
    X(SELECT_K, select_k)           /* the least values of every row */                            \
    X(MERGE, merge)                 /* the best of several sorted lists */                         \
    X(PAIRWISE, pairwise)           /* every query to every row */                                 \
    X(KNN, knn)                     /* exact nearest rows */                                       \
    X(OTHERS, others)               /* answers of rows about themselves, without themselves */     \
    X(ASSIGN, assign)               /* the nearest centroid of every row */                        \
    X(CLUSTER_SUMS, cluster_sums)   /* centroids moved to the mean of their rows */                \
    X(LIST_SCAN, list_scan)         /* exact nearest entries of some inverted lists */             \
    X(PQ_SCAN, pq_scan)             /* the same where entries are codes of product quantization */ \
    X(CODE_SCAN, code_scan)         /* the same where entries are small whole numbers */           \
    X(RANGE_SCAN, range_scan)       /* all entries within a distance */                            \
    X(REFINE, refine)               /* exact values of candidates, best k or in the order given */ \
    X(LIST_JOIN, list_join)         /* nearest rows of every row among the lists it probes */      \
    X(GRAPH_DESCENT, graph_descent) /* one iteration of NN-descent */                              \
    X(GRAPH_PRUNE, graph_prune)     /* detour pruning and reverse edges */                         \
    X(GRAPH_LINK, graph_link)       /* links chosen among candidates by distances */               \
    X(GRAPH_SEARCH, graph_search)   /* best-first walk */                                          \
    X(ROTATE, rotate)               /* rows less their centroids, turned by a matrix */            \
    X(PQ_ENCODE, pq_encode)         /* the nearest codeword of every piece of a row */             \
    X(REPORT, report)               /* values as a metric reports them */

typedef enum peri_op_kind {
#define PERI_OP_ENUM(NAME, name) PERI_OP_##NAME,
    PERI_OP_MAP(PERI_OP_ENUM)
#undef PERI_OP_ENUM
        PERI_OP_COUNT
} peri_op_kind;

/* The head of every operation: cast by `kind`. */
typedef struct peri_op {
    peri_op_kind kind;
} peri_op;

/* Which rows each query may return. count 0: all. Every search operation carries one. */
typedef struct peri_filter_view {
    uint32_t count; /* distinct filters */
    size_t words;   /* 64-bit words of a bitset, >= ceil(rows / 64); spare bits are 0 */
    const uint64_t *const *bits; /* [count] bitsets: bit r of word r / 64 = row r may be returned */
    const uint32_t *const
        *lists;            /* [count] the same as ascending slots, or NULL; an entry may be NULL */
    const size_t *passing; /* host [count]: rows that pass */
    const uint32_t *which; /* [queries] filter of each query; NULL = filter 0 for all */
} peri_filter_view;

/* out[i, j] = in[i, j] in the dtype of out. Any pair of f32 f16 i8 u8, and equal dtypes. */
typedef struct peri_op_convert {
    peri_op_kind kind;
    peri_view in, out; /* [n, d] both */
} peri_op_convert;

/* out[i] = sqrt(sum of squares of row i), f32, canonical. */
typedef struct peri_op_lengths {
    peri_op_kind kind;
    peri_view rows; /* [n, d] f32 f16 i8 u8 */
    float *out;     /* [n] */
} peri_op_lengths;

/* out[i] = rows[slots[i]]; all slots are in range (the caller checked). */
typedef struct peri_op_gather {
    peri_op_kind kind;
    peri_view rows;       /* [n, d] any dtype */
    const int64_t *slots; /* [m] */
    peri_view out;        /* [m, d] same dtype */
} peri_op_gather;

/* Codes that are scanned a group of rows at a time lie interleaved: byte b of row p of a matrix of
 * u8 is at (p - p % PERI_CODES_GROUP) * cols + b * PERI_CODES_GROUP + p % PERI_CODES_GROUP, so that
 * one load takes a byte of each row of a group. The matrix is packed and has whole groups. */
#define PERI_CODES_GROUP 32u

/* out[to[i]] = rows[from[i]]; all are in range and those of `to` distinct (the caller checked).
 * What is named by no entry of `to` stays as it is. */
typedef struct peri_op_scatter {
    peri_op_kind kind;
    peri_view rows;                         /* [n, d] any dtype; not the memory of `out` */
    const int64_t *from;                    /* [m]; NULL = 0, 1, 2 .. */
    const int64_t *to;                      /* [m]; NULL = 0, 1, 2 .. */
    size_t count;                           /* m */
    peri_view out;                          /* [., d] same dtype */
    bool rows_interleaved, out_interleaved; /* u8 only: see PERI_CODES_GROUP */
} peri_op_scatter;

/* The k least values of each row, ascending, equal ones by column. A zero has no sign and comes out
 * without one; a NaN counts as +inf and comes out as that. PERI_ID_NONE at +inf ends a row of fewer
 * than k columns. */
#define PERI_SELECT_K_MAX 4096u

typedef struct peri_op_select_k {
    peri_op_kind kind;
    peri_view values;   /* [n, columns] f32, at most PERI_SLOTS_MAX columns */
    const int64_t *ids; /* [n, columns] what a column is called; NULL = 0, 1, 2 .. */
    size_t k;           /* 1..PERI_SELECT_K_MAX */
    int64_t *best_ids;  /* [n, k] out */
    float *best_values; /* [n, k] out */
} peri_op_select_k;

/* The k best of the lists that each query has, one a part, in the order of (distance, id, part).
 * A list is in the order of (distance, id), and PERI_ID_NONE at +inf ends a short one, as it does
 * the answer. bases[p] is added to the ids of part p, so that a chunk or a shard of rows may count
 * from 0. Distances come out with the bits that they have; none is a NaN. With `unique` entries of
 * equal distance and id count once. */
typedef struct peri_op_merge {
    peri_op_kind kind;
    size_t queries, parts;
    size_t part_k;          /* entries of a list */
    const int64_t *ids;     /* [parts, queries, part_k] */
    const float *distances; /* [parts, queries, part_k] */
    const int64_t *bases;   /* [parts], or NULL = 0 */
    bool unique;
    size_t k;
    int64_t *best_ids;     /* [queries, k] out */
    float *best_distances; /* [queries, k] out */
} peri_op_merge;

/* out[i, j] = the canonical distance of query i and row j, the value inside. */
typedef struct peri_op_pairwise {
    peri_op_kind kind;
    peri_metric metric;
    peri_view queries;    /* [q, d] as in KNN */
    peri_view rows;       /* [n, d] f32 f16 i8 u8 */
    const float *lengths; /* [n] of rows; cosine only, else may be NULL */
    peri_view out;        /* [q, n] f32 */
} peri_op_pairwise;

/* The k nearest rows of each query, exact: canonical distances, ties to the lower slot.
 * Queries are f32 for rows of f32 and f16, else of the rows' dtype.
 * A backend may look for candidates with less precision first. `redone` is the number of queries
 * for which that proved nothing, so that they cost a second look, and `scanned` of those whose
 * second look was a scan of all rows: 0 where every row is looked at, or rows are told from
 * candidates one by one. */
typedef struct peri_op_knn {
    peri_op_kind kind;
    peri_metric metric;
    peri_view queries;    /* [q, d] */
    peri_view rows;       /* [n, d] */
    const float *lengths; /* [n] of rows; cosine only, else may be NULL */
    peri_filter_view filter;
    size_t k;
    int64_t *ids;      /* [q, k] slots */
    float *distances;  /* [q, k] */
    uint32_t *redone;  /* [1] out; may be NULL */
    uint32_t *scanned; /* [1] out; may be NULL */
} peri_op_knn;

/* Lists of neighbours from the answers to rows that were searched among themselves: list i is
 * ids[i] without slot first + i when that is among its first `degree`, and ends at `degree`
 * entries. For what is missing PERI_SLOT_NONE, PERI_ID_NONE at +inf. */
typedef struct peri_op_others {
    peri_op_kind kind;
    const int64_t *ids;     /* [count, degree + 1] slots or PERI_ID_NONE */
    const float *distances; /* [count, degree + 1]; NULL without other_distances */
    size_t count, degree;
    size_t first;
    uint32_t *slots;        /* [count, degree] out; may be NULL */
    int64_t *other_ids;     /* [count, degree] out; may be NULL */
    float *other_distances; /* [count, degree] out; may be NULL */
} peri_op_others;

/* Inverted lists (Sivic & Zisserman, ICCV 2003; Jegou et al., PAMI 2011) in one arena: the entries
 * of list l are positions offsets[l] .. offsets[l] + sizes[l] - 1 of the arena, room for more may
 * follow. What an entry holds (a row, a code, a length) is row `position` of a matrix beside the
 * lists. */
typedef struct peri_lists_view {
    size_t n_lists;
    size_t capacity;        /* positions of the arena */
    const int64_t *offsets; /* [n_lists + 1] ascending, the last is the capacity */
    const uint32_t *sizes;  /* [n_lists] */
    const uint32_t *slots;  /* [capacity] slot of the entry: what filters and answers name */
} peri_lists_view;

/* The k nearest entries of each query in the lists that it probes, exact: canonical distances, ties
 * to the lower slot, as if KNN were asked with a filter of the slots in these lists.
 * visited[i] = entries in them that pass the filter. Queries as in KNN. */
typedef struct peri_op_list_scan {
    peri_op_kind kind;
    peri_metric metric;
    peri_view queries;     /* [q, d] */
    const int64_t *probes; /* [q, n_probes] lists, distinct in a row, or PERI_ID_NONE; NULL = all */
    size_t n_probes;       /* not read without probes */
    peri_lists_view lists;
    peri_view rows;       /* [capacity, d] f32 f16 i8 u8 */
    const float *lengths; /* [capacity] of rows; cosine only, else may be NULL */
    peri_filter_view filter;
    size_t k;
    int64_t *ids;      /* [q, k] slots */
    float *distances;  /* [q, k] */
    uint32_t *visited; /* [q]; may be NULL */
} peri_op_list_scan;

/* The k nearest entries of each query in the lists that it probes, where an entry is `cols` whole
 * numbers u[j] of `bits` bits: scalar quantization of what is left of a row when its list's
 * centroid is subtracted, and RaBitQ (Gao & Long, SIGMOD 2024). Numbers stand for
 *     y[j] = scale * (middle[j] + step[j] * (u[j] - half)),  half = (2^bits - 1) / 2
 * with one scale an entry, and the row is centroid + y. `add` of an entry is what its squared
 * distance to any query has beyond |q - centroid|^2 - 2 <q, y>. By values from whole numbers, so
 * that they are the same on every instruction set, at any batch and number of threads; ties to the
 * lower slot. Each step is rounded to f32:
 *   query:  w[j] = q[j] * step[j], m = the largest |w[j]|, f = L / m; 0 when m is 0 or one of both
 *       is no finite number. v[j] = w[j] * f plus 0.5 (minus, below 0), the fraction dropped.
 *       d = m / L / 2, or 0 with f. o = the canonical dot of q and middle, 0 without steps, where
 *       middle[j] = low[j] + half * step[j].
 *       With query_bytes 1, L is 127. With 2, L is 16319 and v = 128 * v1 + v0 with v0 in -64..63.
 *   T = sum (2 u[j] - (2^bits - 1)) * v[j] of whole numbers; with 2 bytes f32 of that sum with v1,
 *       times 128, plus f32 of that with v0.
 *   p = scale * (d * T + o)
 *   squared L2, euclidean:  (B + add) - 2 * p,  B = the canonical squared distance of q and the
 *       centroid, without centroids the canonical dot of q with itself
 *   inner product:  B - p,  B = minus the canonical dot of q and the centroid, 0 without
 *   cosine:         1 + (B - p) / the canonical length of q
 * A NaN counts as +inf. visited[i] = entries in the lists that pass the filter. */
typedef struct peri_op_code_scan {
    peri_op_kind kind;
    peri_metric metric;
    peri_view queries;     /* [q, cols] f32 */
    const int64_t *probes; /* [q, n_probes] as in LIST_SCAN */
    size_t n_probes;
    peri_lists_view lists;
    const float *centroids; /* [n_lists, cols], or NULL */
    const uint8_t *codes;   /* [capacity, ceil(cols * bits / 8)] packed as core/codes.h says */
    uint32_t bits;          /* 1..8 */
    uint32_t query_bytes;   /* 1 or 2 */
    const float *low;       /* [cols], or NULL: middle is 0 */
    const float *step;      /* [cols], or NULL with low: 1 */
    const float *adds;      /* [capacity], or NULL: 0; read for squared L2 only */
    const float *scales;    /* [capacity], or NULL: 1 */
    peri_filter_view filter;
    size_t k;
    int64_t *ids;      /* [q, k] slots */
    float *distances;  /* [q, k] */
    uint32_t *visited; /* [q]; may be NULL */
} peri_op_code_scan;

/* All entries of the probed lists that pass and whose canonical distance is `radius` or nearer. A
 * first run without offsets counts them; a second one, with room for as many, names them. */
typedef struct peri_op_range_scan {
    peri_op_kind kind;
    peri_metric metric;
    peri_view queries;     /* [q, d] */
    const int64_t *probes; /* as in LIST_SCAN */
    size_t n_probes;
    peri_lists_view lists; /* slots NULL: an entry's slot is its position */
    peri_view rows;        /* [capacity, d] f32 f16 i8 u8 */
    const float *lengths;  /* [capacity]; cosine */
    peri_filter_view filter;
    float radius;           /* inside */
    int64_t *counts;        /* [q] out: entries found */
    const int64_t *offsets; /* [q] where a query's entries go; NULL = they are only counted */
    size_t room;            /* items of ids and distances */
    int64_t *ids;           /* [room] out: slots, in any order within a query */
    float *distances;       /* [room] out */
} peri_op_range_scan;

/* The k nearest entries of each query in the lists that it probes, where an entry is a code of
 * product quantization (Jegou, Douze, Schmid: Product quantization for nearest neighbor search,
 * PAMI 2011, the asymmetric distance): by its value from tables, ties to the lower slot.
 *
 * For query x, a list with centroid c (all zeros without centroids) and codewords W, those of book
 * j for piece j or of the list's book for all pieces:
 *   squared L2, euclidean:  t = x - c;  T[j][w] = the sum over i, ascending, of fma(u, u, sum) with
 *       u = t[j * pq_len + i] - W[w][i], from 0;  value = S
 *   inner product:          T[j][w] = the sum over i, ascending, of fma(x[j * pq_len + i], W[w][i],
 *       sum), from 0;  value = -(D + S), D = the canonical dot of x and c (0 without centroids)
 *   cosine:                 the same with value = 1 - (D + S); queries are of length 1
 * where S = the sum over j, ascending, of T[j][code j], from 0, each step rounded to f32. A value
 * that overflowed to NaN counts as +inf. So the answer is the same on every instruction set, at any
 * batch and number of threads, however a backend finds its candidates.
 *
 * lut_dtype is the coarsest type (f32, f16, u8) that a backend may keep T in; `supports` says
 * whether it makes use of that. On the host values are those of f32 whatever it says.
 * visited[i] = entries in the lists that pass the filter. */
typedef struct peri_op_pq_scan {
    peri_op_kind kind;
    peri_metric metric;
    peri_view queries;     /* [q, pq_dim * pq_len] f32, rotated as the codes are */
    const int64_t *probes; /* [q, n_probes] lists, distinct in a row, or PERI_ID_NONE; NULL = all */
    size_t n_probes;       /* not read without probes */
    peri_lists_view lists;
    const float *centroids; /* [n_lists, pq_dim * pq_len] rotated; NULL: codes are of whole rows */
    const float *codebooks; /* [books * 2^pq_bits, pq_len] */
    bool per_cluster;       /* a book for each list; else one for each piece */
    uint32_t pq_dim, pq_len;
    uint32_t pq_bits;     /* 1..8 */
    const uint8_t *codes; /* [capacity, ceil(pq_dim * pq_bits / 8)] packed as core/codes.h says,
                             interleaved (PERI_CODES_GROUP); lists begin with a group */
    peri_dtype lut_dtype;
    peri_filter_view filter;
    size_t k;
    int64_t *ids;      /* [q, k] slots */
    float *distances;  /* [q, k] */
    uint32_t *visited; /* [q]; may be NULL */
} peri_op_pq_scan;

/* The nearest centroid of every row: labels[i] = the slot of the smallest canonical distance, ties
 * to the lower slot, also when all are +inf. Rows of f16, i8 and u8 are widened to f32, exactly,
 * and take the query's side of the distance. */
typedef struct peri_op_assign {
    peri_op_kind kind;
    peri_metric metric;
    peri_view rows;       /* [n, d] f32 f16 i8 u8 */
    peri_view centroids;  /* [c, d] f32, c >= 1 */
    const float *lengths; /* [c] of centroids; cosine only, else may be NULL */
    uint32_t *labels;     /* [n] out */
    float *distances;     /* [n] out, the value inside; may be NULL */
} peri_op_assign;

/* Every centroid moves to the mean of its rows (and of itself, as often as `weights` says: the
 * step of mini-batch k-means, Sculley: Web-scale k-means clustering, WWW 2010):
 *
 * S(c) = the sum of the rows labelled c in f64: its rows in ascending order are taken in groups of
 * PERI_SUMS_GROUP, a group is summed from 0 one row after the other, and the groups' sums are added
 * in their order. With `lengths` an element counts as (double)x / (double)lengths[row].
 * w = weights[c], or 0 without; n = counts[c].
 *   n == 0: the centroid stays as it is, bit for bit.
 *   mean = (float)(S(c) / n) when w == 0, else (float)((w * (double)centroid + S(c)) / (w + n)),
 * each operation rounded on its own. With `unit` the mean is divided, in f32, by its canonical
 * length; a mean of length 0, or past the range of f32, leaves the centroid as it is. */
#define PERI_SUMS_GROUP 256u

typedef struct peri_op_cluster_sums {
    peri_op_kind kind;
    bool unit;
    peri_view rows;         /* [n, d] f32 f16 i8 u8 */
    const uint32_t *labels; /* [n] slots of centroids, in range (the caller's) */
    const float *lengths;   /* [n] of rows, or NULL */
    const double *weights;  /* [c], or NULL */
    peri_view centroids;    /* [c, d] f32, in and out */
    uint32_t *counts;       /* [c] out: rows of each label */
} peri_op_cluster_sums;

/* Canonical distances of given candidates. k > 0: the best k of each row, sorted, a slot that
 * appears twice is taken once, PERI_ID_NONE skipped. k == 0: distances[i, j] belongs to
 * candidates[i, j] and ids is not written. */
typedef struct peri_op_refine {
    peri_op_kind kind;
    peri_metric metric;
    peri_view queries;         /* [q, d] */
    peri_view rows;            /* [n, d] */
    const float *lengths;      /* [n]; cosine */
    const int64_t *candidates; /* [q, columns] slots or PERI_ID_NONE */
    size_t columns;
    size_t k;
    int64_t *ids;     /* [q, k] */
    float *distances; /* [q, k], or [q, columns] when k == 0 */
} peri_op_refine;

/* The nearest rows of every row among the rows of the lists that it probes: an inverted file joined
 * with itself. Rows are sorted by list: list l is rows starts[l]..starts[l + 1] - 1, and may be
 * empty. out: the `degree` nearest of each row, itself left out, in the order of (canonical
 * distance, slot); a row of f16 is widened where it is the query. PERI_SLOT_NONE at +inf ends a
 * short list. */
typedef struct peri_op_list_join {
    peri_op_kind kind;
    peri_metric metric;
    peri_view rows;         /* [n, d] */
    const float *lengths;   /* [n]; cosine */
    const uint32_t *starts; /* [lists + 1] ascending from 0 to n */
    size_t lists;
    const uint32_t *probes; /* [n, probe_count] lists in any order, each counts once;
                               PERI_SLOT_NONE is none */
    size_t probe_count;
    size_t degree;
    uint32_t *slots;  /* [n, degree] out */
    float *distances; /* [n, degree] out; may be NULL */
} peri_op_list_join;

/* One iteration of NN-descent (Dong, Charikar, Li: Efficient k-nearest neighbor graph construction
 * for generic similarity measures, WWW 2011), in the pull form: row u joins the sampled lists of
 * its sampled neighbours, forward and reverse, and writes only its own list, so the result does not
 * depend on the number of threads. Lists are sorted by (distance, slot), without self and repeats;
 * PERI_SLOT_NONE at +inf ends a short one. Random choices depend on (seed, iteration, row) and
 * never on a stride.
 *
 * Iteration 0: the list of u is `degree` distinct rows other than u, drawn by Floyd's sampling
 *   (Bentley & Floyd 1987): for j = n - 1 - degree .. n - 2, t = peri_random_below(mix(seed, u), j,
 *   j + 1); take t, or j if t is taken already; number x stands for slot x when x < u, else x + 1.
 *   All are fresh.
 * Iteration i > 0, with key = mix(seed, i) and mix = peri_random_mix:
 *   new(u): the first `samples` fresh entries of u's list.
 *   old(u): of its entries that are not fresh, in their order, `samples` (or all) consecutive ones,
 *     cyclically, from number peri_random_below(key, u, how many there are).
 *   new'(v): of the rows u with v in new(u) the `samples` of smallest (mix(mix(key, v), u) >> 32,
 *     u); old'(v) likewise from old.
 *   candidates of u: new'(u); of every v in new(u) and new'(u) all of new, new', old, old'(v); of
 *     every v in old(u) and old'(u) all of new, new'(v).
 *   The next list of u: the best `degree` of its list and its candidates. Candidates that
 *   entered are fresh (and counted in `updates`), members of new(u) are not, the other entries
 *   stay as they were. */
typedef struct peri_op_graph_descent {
    peri_op_kind kind;
    peri_metric metric;
    peri_view rows;       /* [n, d] */
    const float *lengths; /* [n]; cosine */
    size_t degree;        /* entries a list, < n */
    uint32_t iteration;
    uint32_t samples; /* new and old neighbours taken from a list, each way */
    uint64_t seed;
    const uint32_t *slots;  /* [n, degree] in; not read at iteration 0 */
    const float *distances; /* [n, degree] in */
    const uint8_t *fresh;   /* [n, degree] in: 1 = not yet joined */
    uint32_t *slots_next;   /* [n, degree] out */
    float *distances_next;
    uint8_t *fresh_next;
    uint64_t *updates; /* [1] out: entries that are new in the lists */
} peri_op_graph_descent;

/* From sorted kNN lists to a graph of fixed degree (CAGRA: Ootomo et al., arXiv 2308.15136, section
 * IV; with the detour count as the reference implementation has it: any rank of the second leg
 * counts).
 *
 * 1. detours of edge A->L[j]: indices i < j with L[j] in the list of L[i]; keep `degree` edges of
 *    fewest detours, ties by rank in L.
 * 2. reverse edges of the kept ones, in the order of their position among the source's kept edges,
 *    then source slot. (No more than `degree` reverse edges a row can matter.)
 * 3. merge: the first half (rounded up) of the kept ones, then reverse edges not yet there, then
 *    the remaining kept ones, up to `degree`. No self, no repeats; PERI_SLOT_NONE ends a short
 *    row. */
typedef struct peri_op_graph_prune {
    peri_op_kind kind;
    size_t rows;
    const uint32_t *knn; /* [rows, knn_degree] nearest first; PERI_SLOT_NONE ends a short list */
    size_t knn_degree;
    uint32_t *graph; /* [rows, degree] out */
    size_t degree;   /* <= knn_degree */
} peri_op_graph_prune;

/* Links of rows, chosen among candidates by distances: the neighbour selection heuristic of HNSW
 * (Malkov & Yashunin 2018, algorithm 4); with alpha above 1, RobustPrune of Vamana (Subramanya et
 * al.: DiskANN, NeurIPS 2019, algorithm 2). Row i of the output is that of row t = slots[i].
 *
 * Its candidates, without PERI_SLOT_NONE, t itself and repeats, are gone through by (v(t, c), c),
 * where v is the value inside (smaller is nearer). Candidate c is dropped when for some link r
 * kept before
 *     v(r, c) < limit,  or  v(r, c) == limit and v(r, c) <= v(t, r)
 * and else kept, until `degree` are. (The second case: a link r equal to t is at the distance of t
 * from every c, and would drop them all. It drops only what is equal to it.) With alpha 1, limit =
 * v(t, c); above, v(t, c) / alpha, and under the inner product, whose values are negative,
 *     limit = fma(1 / alpha - 1, fma(|t|, |c|, v(t, c)), v(t, c)):
 * what is divided is how far v is from the least it can be, which for rows of length 1 is the rule
 * of cosine. A v that overflowed to NaN counts as +inf. PERI_SLOT_NONE ends a short row. */
typedef struct peri_op_graph_link {
    peri_op_kind kind;
    peri_metric metric;
    peri_view rows;       /* [n, d] */
    const float *lengths; /* [n]; cosine, and inner product with alpha above 1 */
    float alpha;          /* >= 1 */
    size_t count;
    const uint32_t *slots;      /* [count] */
    const uint32_t *candidates; /* [count, columns] PERI_SLOT_NONE is passed over */
    const float *distances;     /* [count, columns] v(t, c), no NaN; NULL = not known yet */
    size_t columns;
    uint32_t *links;       /* [count, degree] out */
    float *link_distances; /* [count, degree] out: v(t, link), a zero without its sign, +inf past
                              the end; may be NULL */
    size_t degree;
} peri_op_graph_link;

/* Upper levels over a graph (HNSW: Malkov & Yashunin 2018). A walk descends them greedily. */
typedef struct peri_hierarchy {
    uint32_t entry;        /* where every walk begins; PERI_SLOT_NONE = no fixed entry */
    uint32_t level_max;    /* 0 = no upper levels */
    size_t degree;         /* links a node on an upper level */
    const uint32_t *first; /* [n] row of `links` that holds level 1 of a node (level l: + l - 1) */
    const uint32_t *links; /* [., degree] PERI_SLOT_NONE ends a short row */
} peri_hierarchy;

/* What a walk may measure by in place of the rows: 8 bits an element (scalar quantization).
 * Element j of a row is code c[j], 0..255, and stands for low[j] + step[j] * c[j]; under cosine the
 * codes are those of the rows brought to length 1. From an f32 query and a row's codes:
 *   squared L2, euclidean:  e[j] = the code of q[j]: (q[j] - low[j]) * scale[j], below 0 (and NaN)
 *       made 0, above 255 made 255, plus 0.5, the fraction dropped.  The value is f32 of the whole
 *       number sum (e[j] - c[j])^2. (step is the same for every j here.)
 *   inner product, cosine:  w[j] = q[j] * step[j], m = the largest |w[j]|, f = 4063 / m or 0 when
 *       m is 0;  t[j] = w[j] * f, between -4063 and 4063 (NaN made -4063), plus 4096.5, the
 *       fraction dropped, minus 4096.  The value is f32 of the whole number -sum t[j] * c[j].
 * Each step is rounded to f32 once; whole numbers make the values the same on every backend
 * (core/code.h). Columns from d on are 0 in the rows and count 0.
 *
 * Or, with bits 1, 2 or 4, RaBitQ codes (Gao & Long, SIGMOD 2024; arXiv 2409.09913) of rows of any
 * of f32 f16 i8 u8: `dim` numbers u[j] of `bits` bits, packed as core/codes.h says, and behind them
 * add and scale of the row, f32, unaligned. With R the rotation of `signs` (core/turns.h):
 *   squared L2, euclidean:  y = R q - center, rounded after each
 *   inner product, cosine:  y = R q
 *   m = the largest |y[j]|, f = 127 / m, or 0 when m is 0 or one of both is no finite number;
 *   v[j] = y[j] * f, between -127 and 127 (NaN made 127), plus 0.5 (minus, below 0), the fraction
 *       dropped;
 *   h = m / 127 * 0.5, or 0 with f
 *   T = the whole number sum (2 u[j] - (2^bits - 1)) * v[j],  p = scale * (h * T)
 *   The value is add - 2 * p under squared L2 and euclidean, else -p; a NaN counts as +inf.
 * It leaves out what is the same for all rows. `linked` is the same once more, beside the links:
 * for each row, and each 16 of its links, 16 adds, 16 scales, and then of word w (of 4 bytes) of
 * their codes 16 words, for each w. What belongs to no link is 0. A backend may go by either. */
typedef struct peri_codes_view {
    peri_view rows;     /* [n, cols] u8, cols a multiple of 32, >= d; data NULL: no codes */
    const float *low;   /* [d] */
    const float *step;  /* [d] */
    const float *scale; /* [d] 1 / step, or 0 for a column whose codes are all 0 */
    /* with fewer bits than 8 */
    uint32_t bits;         /* 1, 2 or 4; 0 = those of 8 bits */
    uint32_t dim;          /* a multiple of 32, >= d; rows have dim * bits / 8 + 8 columns */
    const float *center;   /* [dim] */
    const float *signs;    /* [4, dim] */
    const uint8_t *linked; /* [n, peri_packed_block(..)] 64-byte aligned, or NULL (core/code.h) */
} peri_codes_view;

/* Best-first walk over a graph, exactly:
 *
 * `taken` = rows that were offered, each once; every one of them that passes the filter is offered
 * to the k results too. L = the itopk_size best of `taken` by (distance, slot), each open or not.
 *
 * Begin: the entry after the descent of the hierarchy, if there is one; then the landmarks, in
 * order; then `seeds` rows: all rows if n <= seeds, else row
 *     peri_random_mix(rand_xor_mask ^ peri_random_bytes(query), i) % n, i = 0..seeds-1.
 * Descent, on each level from level_max to 1: while the best of the row's links, in (distance,
 * slot) order, is nearer than the row, move there. Only the row where it ends is offered.
 *
 * Repeat, at most max(max_iterations, min_iterations) times (max_iterations 0 = no bound), while L
 * has open entries: close the first search_width of them (or all), then offer each link of each
 * that is not in `taken`. A row that leaves L does not come back.
 *
 * With codes, `distance` above is the value by the codes, and the results come after: of the
 * offered rows that pass the filter the `rerank` best by the codes (without a filter: of L) get
 * canonical distances, and the k best of them are the results.
 *
 * visited = distances computed: rows offered and, in the descent, the entry and each link looked
 * at; with codes the canonical ones too, and with codes of fewer than 8 bits each link of a row
 * that was opened, offered or not. A distance that overflowed to NaN counts as +inf. The
 * result depends on the query's bytes and the parameters only, never on its place in the batch. */
typedef struct peri_op_graph_search {
    peri_op_kind kind;
    peri_metric metric;
    peri_view queries;     /* [q, d] */
    peri_view rows;        /* [n, d] */
    const float *lengths;  /* [n]; cosine */
    const uint32_t *graph; /* [n, degree]; PERI_SLOT_NONE ends a short row */
    size_t degree;
    peri_hierarchy hierarchy;
    const uint32_t *landmarks; /* [landmark_count] rows where every walk begins too */
    size_t landmark_count;
    peri_filter_view filter;
    peri_codes_view codes;
    size_t rerank;     /* with codes: k..itopk_size */
    size_t itopk_size; /* >= k */
    size_t search_width;
    size_t max_iterations;
    size_t min_iterations;
    size_t seeds;
    uint64_t rand_xor_mask;
    size_t k;
    int64_t *ids;      /* [q, k] slots */
    float *distances;  /* [q, k] */
    uint32_t *visited; /* [q] distances computed; may be NULL */
} peri_op_graph_search;

/* out[i] = rotation * t with t = rows[i] / lengths[i] - centroids[labels[i]], f32 (the row widened
 * first, one division, one subtraction). Element r of the product is the canonical dot of row r of
 * the rotation and t. Without lengths nothing is divided; without centroids t is the row; with
 * centroids and no labels all rows take centroid 0; without a rotation out[i] is t with zeros
 * behind it. */
typedef struct peri_op_rotate {
    peri_op_kind kind;
    peri_view rows;         /* [n, d] f32 f16 i8 u8 */
    const float *lengths;   /* [n] or NULL */
    const float *centroids; /* [m, d] or NULL */
    const uint32_t *labels; /* [n] below m, or NULL */
    const float *rotation;  /* [out.cols, d] or NULL: then out.cols >= d */
    peri_view out;          /* [n, .] f32 */
} peri_op_rotate;

/* Product quantization (Jegou, Douze, Schmid, 2011). Piece j of a row is its columns [j * pq_len,
 * (j + 1) * pq_len); its code is the nearest of the 2^pq_bits codewords of a book: book j, or, with
 * labels, book labels[i] for all pieces of row i. Nearest: the sum over l, ascending, of fma(t, t,
 * sum) with t = x[l] - codeword[l], from 0; ties to the lower code; a NaN is no nearer than
 * anything. Codes are packed as core/codes.h says, spare bits 0. */
typedef struct peri_op_pq_encode {
    peri_op_kind kind;
    peri_view rows;         /* [n, pq_dim * pq_len] f32 */
    const float *codebooks; /* [books * 2^pq_bits, pq_len] */
    size_t books;           /* pq_dim, or with labels any number */
    const uint32_t *labels; /* [n] below books, or NULL */
    uint32_t pq_dim, pq_len;
    uint32_t pq_bits; /* 1..8 */
    uint8_t *codes;   /* [n, ceil(pq_dim * pq_bits / 8)] */
} peri_op_pq_encode;

/* values[i] becomes what the metric reports of it, in place: inner product -v; euclidean the root
 * of v, 0 when v is not above 0; others v. */
typedef struct peri_op_report {
    peri_op_kind kind;
    peri_metric metric;
    float *values; /* [count] */
    size_t count;
} peri_op_report;

/* ---- the table ---------------------------------------------------------------------------- */

/* What the engine hands to a plug-in, which does not link to it. */
struct peri_host {
    uint32_t abi;
    /* Writes the calling thread's detail and returns `status`. */
    peri_status (*fail)(peri_status status, const char *format, ...);
    /* Host memory of a context, accounted: as peri_allocator.resize, 64-byte aligned. */
    void *(*resize)(peri_context *context, void *p, size_t old_bytes, size_t new_bytes);
    /* Changes in every child of a fork. */
    uint64_t (*generation)(void);
};

/* Called on a thread of the backend when all that was enqueued before is done; `status` and
 * `detail` say how it went (a thread-local can't). */
typedef void (*peri_notify_fn)(void *ud, peri_status status, const char *detail);

struct peri_driver {
    uint32_t abi;     /* PERI_BACKEND_ABI; a mismatch is refused, never guessed */
    const char *name; /* "cpu", "ref", "fake", "cuda" */
    peri_place_kind kind;

    /* Counts devices. 0 with PERI_OK and the reason in the detail when there are none; PERI_E_FORK
     * where there may be some that a child of a fork can't have. */
    peri_status (*device_count)(const peri_host *host, uint32_t *out);
    /* May be asked before a device is open; must not create a CUDA context when `device` is
     * NULL. */
    peri_status (*device_stat)(const peri_host *host, uint32_t number, peri_device *device,
                               peri_device_info *out);
    peri_status (*device_open)(const peri_host *host, peri_context *context, uint32_t number,
                               uint32_t threads, peri_device **out);
    void (*device_close)(peri_device *device);

    /* Memory, 64-byte aligned at least. PERI_E_MEMORY says bytes needed and free. */
    peri_status (*mem_acquire)(peri_device *device, size_t bytes, peri_memory_kind kind,
                               peri_memory_use use, peri_mem **out);
    void (*mem_release)(peri_mem *mem);
    /* (optional) Takes a caller's memory as it is. */
    peri_status (*mem_wrap)(peri_device *device, void *data, size_t bytes, peri_mem **out);
    /* (optional) Whether operations may use memory of a caller as the device's; allocates nothing.
     * PERI_E_ARGUMENT says what it is instead. */
    peri_status (*mem_check)(peri_device *device, const void *data, size_t bytes);
    /* (optional) At most this many bytes of the device's own memory from now on; 0 = all it has. */
    peri_status (*mem_limit)(peri_device *device, size_t bytes);

    peri_status (*stream_open)(peri_device *device, peri_stream **out);
    void (*stream_close)(peri_stream *stream);
    /* (optional) Takes a caller's queue (a cudaStream_t) as it is. */
    peri_status (*stream_wrap)(peri_device *device, void *foreign, peri_stream **out);
    /* Waits until all that was enqueued is done and returns its first failure. `control` (may be
     * NULL) is polled meanwhile; when it ends the wait, the queue is drained first. */
    peri_status (*stream_wait)(peri_stream *stream, const peri_control *control);
    /* (optional) */
    peri_status (*stream_notify)(peri_stream *stream, peri_notify_fn fn, void *ud);

    /* Enqueues a copy of rows x row_bytes between strides; either side may be host memory (then
     * `*_device` is NULL) or another device of the same driver. */
    peri_status (*copy)(peri_stream *stream, void *to, size_t to_stride, peri_device *to_device,
                        const void *from, size_t from_stride, peri_device *from_device, size_t rows,
                        size_t row_bytes);
    /* Enqueues filling with one byte value. */
    peri_status (*fill)(peri_stream *stream, void *to, int byte, size_t bytes);

    /* (optional, all or none) Events within and across devices. */
    peri_status (*event_open)(peri_device *device, peri_event **out);
    peri_status (*event_record)(peri_event *event, peri_stream *stream);
    peri_status (*event_wait)(peri_event *event, peri_stream *stream);
    void (*event_close)(peri_event *event);

    /* Whether the operation can run, shapes and dtypes considered; writes the reason when not. */
    bool (*supports)(const peri_device *device, const peri_op *op, char *reason, size_t size);
    size_t (*scratch_bytes)(const peri_device *device, const peri_op *op);
    /* Enqueues. `scratch` has scratch_bytes() at least, at the device's place, 64-byte aligned. */
    peri_status (*run)(peri_stream *stream, const peri_op *op, void *scratch, size_t scratch_bytes);

    /* (optional, all or none) A bound list of operations, run once for all: a CUDA graph where
     * there is one. plan_compile copies the operations and runs nothing; scratch[i] has the
     * scratch_bytes() of ops[i]. plan_run enqueues them on any stream of the device, as run() would
     * each: what their pointers name must be there then, and one run of a plan is over before the
     * next begins. The stream must be idle when a plan is closed. */
    peri_status (*plan_compile)(peri_stream *stream, const peri_op *const *ops,
                                void *const *scratch, size_t count, void **out_plan);
    peri_status (*plan_run)(peri_stream *stream, void *plan);
    void (*plan_close)(void *plan);

    /* (optional, all or none) A resident kernel that is fed through a mailbox. */
    peri_status (*resident_open)(peri_device *device, const peri_op *op, size_t slots, void **out);
    peri_status (*resident_submit)(void *resident, const void *query, uint64_t *out_ticket);
    peri_status (*resident_poll)(void *resident, uint64_t ticket, bool *out_done);
    void (*resident_close)(void *resident);
};

/* The one symbol of a plug-in. NULL when `abi` is not its own; says so through host->fail. */
typedef const peri_driver *(*peri_plugin_fn)(uint32_t abi, const peri_host *host);
#define PERI_PLUGIN_SYMBOL "perigee_plugin"

#ifdef __cplusplus
}
#endif
#endif
