/* knn: the plan of exact kNN.
 *
 * queries [q, d] | rows [n, d] f32 f16 i8 u8 | lengths [n] (cosine) | ids, distances [q, k]
 * Few queries or few rows, l1 and hamming: canonical distances of all pairs (knn_direct.cuh). Else,
 * for a chunk of the queries, so that scratch is bounded:
 *   floats   few queries of f32 rows: by reading these once (knn_floats.cuh). What follows is then
 *            done when some query has no proof;
 *   prepare  rows and queries to f16 (prepare.cuh), a chunk of the rows at a time; rows of f16, i8
 *            and u8 are read where they lie. Of a filter that all queries share only the rows that
 *            pass;
 *   coarse   the best `wanted` > k of each query by tensor cores (coarse.cuh);
 *   rescore  their canonical distances, the best k, and the proof that no other row is among these
 *            (rescore.cuh, certificate.cuh).
 * Then a ladder for the queries without a proof, whose number stays on the device; each rung takes
 * those that the one before it left, and leaves at once when there are none:
 *   reach    how near, by coarse values, a row must be to be nearer than the k-th that was found
 *            (knn_reach.cuh); the coarse pass collects all rows that are, and they alone are
 *            scanned;
 *   direct   all rows, for those that reach more than there is room for.
 * The host never waits. Work 2 * q * n * d flop on tensor cores, twice when queries are left; bytes
 * n * d * (read + 4 written and read) a chunk of queries, q * wanted * d * bytes of random rows.
 * On an H200, 10 000 queries x 1M x 128 f32: 5.3 ms when all are proved, of which empty launches of
 * the ladder are 0.02; 10.5 when none is, among clusters of 64 rows 1e-3 wide, 19 when each query
 * reaches 5 000 rows; 350 by scans of all rows.
 * Why not more precise products: halves split in two prove little, since the doubt of near twins is
 * that of the tensor cores' own sums; f32 differences of all pairs take 86 ms at the rate of FP32.
 */
#include "coarse.cuh"
#include "core/status.h"
#include "device.cuh"
#include "distance.cuh"
#include "knn_direct.cuh"
#include "knn_floats.cuh"
#include "knn_reach.cuh"
#include "ops.h"
#include "prepare.cuh"
#include "rescore.cuh"
#include "select.cuh"

namespace {

/* Below, reading all rows once is cheaper. Measured on an H200, 1M x 128: 16 queries take 0.59 ms
 * directly, 32 take 1.06 ms and 0.65 ms by the coarse pass. */
constexpr size_t COARSE_QUERIES_MIN = 20;
constexpr size_t COARSE_ROWS_MIN = 2048;
constexpr size_t SLACK_MIN = 14;     /* candidates beyond k, and at least 3 / 8 of k */
constexpr size_t WANTED_UNIT = 8;    /* their number is a multiple of this */
constexpr size_t ROWS_UNIT = 256;    /* of a chunk */
constexpr size_t QUERIES_UNIT = 128; /* of a chunk */
constexpr size_t ROW_BYTES_MAX = (size_t)132 << 20;
constexpr size_t QUERY_BYTES_MAX = (size_t)24 << 20;
constexpr size_t NAME_BYTES_MAX = (size_t)64 << 20;
/* Runs of the coarse pass: measured on 1M x 128, k 10: 5.41 ms, all rows at once 6.33 ms. */
constexpr size_t FIRST_RUN = 16384;      /* or as many as a bound among so few is worth: */
constexpr size_t FIRST_RUN_WANTED = 320; /* for each candidate */
constexpr size_t RUN_GROWTH = 7;
/* Rows that queries left collect: for each, were all left, or more where there are few queries. */
constexpr size_t REACH_EACH = 8192;
constexpr size_t REACH_LEAST = (size_t)16 << 20;
constexpr size_t REACH_MOST = (size_t)64 << 20;
constexpr size_t ALIGN = 256;

size_t ceil_div(size_t a, size_t b) { return a / b + (a % b != 0); }
size_t least(size_t a, size_t b) { return a < b ? a : b; }
size_t most(size_t a, size_t b) { return a > b ? a : b; }
size_t round_up(size_t a, size_t unit) { return ceil_div(a, unit) * unit; }

/* How an operation is done; the same for scratch and run. */
struct plan {
    bool coarse;
    bool named;   /* only the rows that pass a shared filter, by name */
    bool tested;  /* filters go into the coarse pass */
    bool as_is;   /* rows are read where they lie */
    bool floats;  /* first as knn_floats.cuh has it; the rest is for what that leaves */
    size_t total; /* rows of the coarse pass */
    uint32_t wanted, depth;
    size_t query_chunk, row_chunk;
    /* offsets in scratch, bytes */
    size_t stats, centre, names, names_room, rows, terms, queries, about, keys, which, left, zeros;
    size_t again, packed, packed_filters, bounds, counts, which_direct, left_direct, rest;
    size_t rest_bytes; /* of a coarse pass, of direct, or of what is reached and its scan */
    size_t reached;    /* entries at `rest` */
    size_t bytes;
};

bool shares_filter(const peri_op_knn *op) {
    return op->filter.count > 0 && op->filter.which == nullptr;
}

size_t chunk_of(size_t total, size_t bytes_each, size_t bytes_max, size_t unit) {
    size_t most_each = most(bytes_max / bytes_each / unit * unit, unit);
    return most(round_up(ceil_div(total, ceil_div(most(total, 1), most_each)), unit), unit);
}

/* Whether the products are those of bytes. */
bool takes_bytes(const peri_op_knn *op) {
    return (op->rows.dtype == PERI_I8 || op->rows.dtype == PERI_U8) && op->metric != PERI_COSINE;
}

size_t element_bytes(const peri_op_knn *op) { return takes_bytes(op) ? 1 : sizeof(__half); }

/* Whether rows can go into the coarse pass as they lie. */
bool lies_well(const peri_op_knn *op) {
    return (takes_bytes(op) || (op->rows.dtype == PERI_F16 && op->metric != PERI_COSINE)) &&
           ((size_t)op->rows.data | op->rows.stride_bytes) % 16 == 0;
}

peri_coarse coarse_of(const peri_op_knn *op, const plan *p, size_t queries, size_t rows) {
    peri_coarse c = {};
    c.type = !takes_bytes(op)            ? PERI_COARSE_F16
             : op->rows.dtype == PERI_I8 ? PERI_COARSE_S8
                                         : PERI_COARSE_U8;
    c.query_count = queries;
    c.row_count = rows;
    c.depth = p->depth;
    c.wanted = p->wanted;
    return c;
}

/* Rows of a run of the coarse pass after `seen` of them. */
size_t run_of(const plan *p, size_t seen) {
    if (p->floats) return p->row_chunk;
    size_t first = round_up(most(FIRST_RUN, FIRST_RUN_WANTED * p->wanted), ROWS_UNIT);
    return most(first, seen * RUN_GROWTH);
}

size_t coarse_scratch_of(const peri_device *device, const peri_op_knn *op, const plan *p,
                         size_t rows) {
    size_t bytes = 0, queries = op->queries.rows;
    const size_t counts[2] = { least(p->query_chunk, queries), (queries - 1) % p->query_chunk + 1 };
    for (size_t count : counts) {
        peri_coarse c = coarse_of(op, p, count, rows);
        if (p->tested) c.filter = op->filter;
        if (p->floats) c.queries_left = (const uint32_t *)ALIGN; /* that there is one */
        bytes = most(bytes, peri_coarse_scratch(device, &c));
    }
    return bytes;
}

/* The most that the coarse pass asks for, of all its runs: those of best_chunk(). */
size_t coarse_scratch(const peri_device *device, const peri_op_knn *op, const plan *p) {
    size_t last = (p->total - 1) % p->row_chunk + 1;
    size_t bytes = coarse_scratch_of(device, op, p, least(p->row_chunk, p->total));
    bytes = most(bytes, coarse_scratch_of(device, op, p, last));
    for (size_t seen = 0, at = 0; seen < p->total && (at != 0 || run_of(p, seen) < p->row_chunk);
         at = seen % p->row_chunk) {
        size_t run = least(run_of(p, seen), least(p->row_chunk - at, p->total - seen));
        bytes = most(bytes, coarse_scratch_of(device, op, p, run));
        seen += run;
    }
    return bytes;
}

/* The most that direct asks for, of the parts of the queries. */
size_t direct_scratch(const peri_device *device, const peri_op_knn *op, const plan *p) {
    peri_op_knn part = *op;
    part.queries.rows = least(p->query_chunk, op->queries.rows);
    size_t bytes = peri_knn_direct_scratch(device, &part);
    part.queries.rows = (op->queries.rows - 1) % p->query_chunk + 1;
    return most(bytes, peri_knn_direct_scratch(device, &part));
}

/* Names that may be collected at once. */
size_t reach_entries(const peri_op_knn *op, const plan *p) {
    size_t queries = least(p->query_chunk, op->queries.rows);
    return least(least(most(queries * REACH_EACH, REACH_LEAST), REACH_MOST), queries * p->total);
}

size_t take(size_t *at, size_t bytes) {
    size_t offset = *at;
    *at += round_up(bytes, ALIGN);
    return offset;
}

void lay_out(plan *p, const peri_device *device, const peri_op_knn *op) {
    size_t at = 0, q = p->query_chunk;
    p->stats = take(&at, sizeof(peri_prepared_stats));
    p->centre = take(&at, p->depth * sizeof(float));
    p->names = take(&at, p->named ? p->total * sizeof(uint32_t) : 0);
    p->names_room = take(&at, p->named ? peri_prepare_names_scratch(op->rows.rows) : 0);
    p->rows = take(&at, p->as_is ? 0 : p->row_chunk * p->depth * element_bytes(op));
    p->terms = take(&at, p->row_chunk * sizeof(float));
    p->queries = take(&at, q * p->depth * element_bytes(op));
    p->about = take(&at, q * sizeof(peri_prepared_query));
    p->keys = take(&at, q * p->wanted * sizeof(uint64_t));
    p->which = take(&at, q * sizeof(uint32_t));
    p->left = take(&at, sizeof(uint32_t));
    p->zeros = take(&at, p->tested && shares_filter(op) ? q * sizeof(uint32_t) : 0);
    p->again = take(&at, p->floats ? PERI_KNN_FLOATS_STATE : 0);
    p->packed = take(&at, q * p->depth * element_bytes(op));
    p->packed_filters = take(&at, p->tested && !shares_filter(op) ? q * sizeof(uint32_t) : 0);
    p->bounds = take(&at, q * sizeof(uint64_t));
    p->counts = take(&at, q * sizeof(uint32_t));
    p->which_direct = take(&at, q * sizeof(uint32_t));
    p->left_direct = take(&at, sizeof(uint32_t));
    p->rest = at;
    p->reached = reach_entries(op, p);
    size_t direct = direct_scratch(device, op, p);
    p->rest_bytes = most(coarse_scratch(device, op, p),
                         round_up(p->reached * sizeof(uint32_t), ALIGN) + direct);
    if (p->floats) p->rest_bytes = most(p->rest_bytes, peri_knn_floats_scratch(device, op));
    p->bytes = at + p->rest_bytes + ALIGN; /* scratch is aligned to 64 bytes only */
}

plan make_plan(const peri_device *device, const peri_op_knn *op) {
    plan p = {};
    size_t slack = most(SLACK_MIN, op->k * 3 / 8);
    size_t wanted = round_up(op->k + slack, WANTED_UNIT);
    p.total = shares_filter(op) && op->filter.passing != nullptr ? op->filter.passing[0]
                                                                 : op->rows.rows;
    p.coarse = (op->queries.rows >= COARSE_QUERIES_MIN || peri_knn_floats_takes(op)) &&
               p.total >= COARSE_ROWS_MIN && wanted <= PERI_COARSE_WANTED_MAX &&
               op->metric != PERI_L1 && op->metric != PERI_HAMMING;
    if (!p.coarse) {
        p.rest_bytes = p.bytes = peri_knn_direct_scratch(device, op);
        return p;
    }
    bool all = shares_filter(op) && op->filter.passing != nullptr && p.total == op->rows.rows;
    p.named = shares_filter(op) && op->filter.passing != nullptr && !all &&
              p.total * sizeof(uint32_t) <= NAME_BYTES_MAX;
    p.tested = op->filter.count > 0 && !p.named && !all;
    if (!p.named) p.total = op->rows.rows;
    p.as_is = !p.named && lies_well(op);
    p.wanted = (uint32_t)wanted;
    p.depth = (uint32_t)round_up(op->rows.cols, PERI_COARSE_DEPTH_BYTES / element_bytes(op));
    size_t row_bytes = (p.as_is ? 0 : p.depth * element_bytes(op)) + sizeof(float);
    size_t query_bytes = p.depth * element_bytes(op) + p.wanted * sizeof(uint64_t) +
                         sizeof(peri_prepared_query) + 2 * sizeof(uint32_t);
    p.row_chunk = chunk_of(p.total, row_bytes, ROW_BYTES_MAX, ROWS_UNIT);
    p.query_chunk = chunk_of(op->queries.rows, query_bytes, QUERY_BYTES_MAX, QUERIES_UNIT);
    p.floats = op->queries.rows <= p.query_chunk && peri_knn_floats_takes(op);
    lay_out(&p, device, op);
    return p;
}

/* ---- running it ---------------------------------------------------------------------------- */

struct search {
    peri_stream *stream;
    const peri_op_knn *op;
    plan p;
    peri_prepare prepare;
    char *scratch;

    template <typename T> T *at(size_t offset) const {
        return reinterpret_cast<T *>(scratch + offset);
    }
};

void describe_rows(search *s) {
    const plan &p = s->p;
    const peri_op_knn *op = s->op;
    peri_prepare *prepare = &s->prepare;
    prepare->metric = op->metric;
    prepare->rows = op->rows;
    prepare->total = p.total;
    prepare->names = p.named ? s->at<uint32_t>(p.names) : nullptr;
    prepare->lengths = op->lengths;
    /* whole numbers and halves are halves already */
    prepare->centred = op->rows.dtype == PERI_F32 || op->metric == PERI_COSINE;
    prepare->bytes = takes_bytes(op);
    prepare->depth = p.depth;
    prepare->centre = s->at<float>(p.centre);
    prepare->stats = s->at<peri_prepared_stats>(p.stats);
}

/* Queries first .. first + count - 1 as an operation of their own. */
peri_op_knn part_of(const peri_op_knn *op, size_t first, size_t count) {
    peri_op_knn part = *op;
    part.queries.data = static_cast<char *>(op->queries.data) + first * op->queries.stride_bytes;
    part.queries.rows = count;
    if (op->filter.which != nullptr) part.filter.which = op->filter.which + first;
    part.ids = op->ids + first * op->k;
    part.distances = op->distances + first * op->k;
    return part;
}

/* A chunk of the rows, prepared again when `fresh`. */
peri_status prepare_chunk(const search &s, size_t first, size_t count, bool fresh) {
    const plan &p = s.p;
    if (!fresh) return PERI_OK;
    return peri_prepare_rows(s.stream, &s.prepare, first, count,
                             p.as_is ? nullptr : s.at<void>(p.rows), s.at<float>(p.terms));
}

/* `count` rows from the first-th of those that count, which is row `at` of the chunk that is
 * prepared, against the part's queries: all that the passes have in common. */
peri_coarse coarse_rows(const search &s, const peri_op_knn &part, size_t first, size_t at,
                        size_t count) {
    const plan &p = s.p;
    peri_coarse c = coarse_of(&part, &p, part.queries.rows, count);
    c.queries = s.at<void>(p.queries);
    c.rows = s.at<char>(p.rows) + at * p.depth * element_bytes(&part);
    if (p.as_is) {
        c.rows = static_cast<char *>(part.rows.data) + first * part.rows.stride_bytes;
        c.row_stride_bytes = part.rows.stride_bytes;
        c.columns = (uint32_t)part.rows.cols;
    }
    c.terms = s.at<float>(p.terms) + at;
    c.scale = peri_prepare_squared(part.metric) ? -2.0f : -1.0f;
    c.first = (uint32_t)first;
    if (p.named) c.names = s.at<uint32_t>(p.names) + first;
    if (p.tested) {
        c.filter = part.filter;
        if (c.filter.which == nullptr) c.filter.which = s.at<uint32_t>(p.zeros);
    }
    c.queries_left = s.prepare.needed;
    return c;
}

/* ---- the first pass: the best `wanted` of each query --------------------------------------- */

/* A chunk of the rows in runs that grow with the rows seen: each begins with the bounds that the
 * one before it found, so that few of its rows are looked at twice. */
peri_status best_chunk(const search &s, const peri_op_knn &part, size_t first, size_t count) {
    const plan &p = s.p;
    for (size_t at = 0; at < count;) {
        size_t run = least(run_of(&p, first + at), count - at);
        peri_coarse c = coarse_rows(s, part, first + at, at, run);
        c.bounded = first + at > 0;
        c.keys = s.at<uint64_t>(p.keys);
        PERI_TRY(peri_coarse_run(s.stream, &c, s.at<void>(p.rest), p.rest_bytes));
        at += run;
    }
    return PERI_OK;
}

/* Answers all queries of the part; those without a proof are `left`, at `which`. */
peri_status best_pass(const search &s, const peri_op_knn &part, bool prepared) {
    const plan &p = s.p;
    CU_TRY(s.stream->device, cudaMemsetAsync(s.at<void>(p.keys), 0xFF,
                                             part.queries.rows * p.wanted * sizeof(uint64_t),
                                             peri_cuda_handle(s.stream)));
    for (size_t first = 0; first < p.total; first += p.row_chunk) {
        size_t count = least(p.row_chunk, p.total - first);
        PERI_TRY(prepare_chunk(s, first, count, !prepared));
        PERI_TRY(best_chunk(s, part, first, count));
    }
    peri_rescore r = {};
    r.op = &part;
    r.wanted = p.wanted;
    r.keys = s.at<uint64_t>(p.keys);
    r.about = s.at<peri_prepared_query>(p.about);
    r.stats = s.prepare.stats;
    r.needed = s.prepare.needed;
    if (p.floats) r.counted = s.at<uint32_t>(p.again) + PERI_KNN_FLOATS_TRIED;
    r.which = s.at<uint32_t>(p.which);
    r.left = s.at<uint32_t>(p.left);
    return peri_rescore_run(s.stream, &r);
}

/* ---- the ladder ---------------------------------------------------------------------------- */

/* Bounds and packed queries of those left, in the order of `which`. */
peri_status find_reach(const search &s, const peri_op_knn &part) {
    const plan &p = s.p;
    peri_knn_reach r = {};
    r.op = &part;
    r.which = s.at<uint32_t>(p.which);
    r.left = s.at<uint32_t>(p.left);
    r.about = s.at<peri_prepared_query>(p.about);
    r.stats = s.prepare.stats;
    r.queries = s.at<void>(p.queries);
    r.query_bytes = p.depth * element_bytes(&part);
    r.packed = s.at<void>(p.packed);
    if (p.tested && part.filter.which != nullptr) r.filter_which = s.at<uint32_t>(p.packed_filters);
    r.bounds = s.at<uint64_t>(p.bounds);
    r.counts = s.at<uint32_t>(p.counts);
    r.none_left = s.at<uint32_t>(p.left_direct);
    return peri_knn_reach_run(s.stream, &r);
}

/* Rows of a chunk that queries left reach, to the names at `rest`. */
peri_status reach_chunk(const search &s, const peri_op_knn &part, size_t first, size_t count) {
    const plan &p = s.p;
    peri_coarse c = coarse_rows(s, part, first, 0, count);
    c.queries = s.at<void>(p.packed);
    c.queries_left = s.at<uint32_t>(p.left);
    if (p.tested && part.filter.which != nullptr) c.filter.which = s.at<uint32_t>(p.packed_filters);
    c.wanted = 1;
    c.bounded = true;
    c.reach.bounds = s.at<uint64_t>(p.bounds);
    c.reach.counts = s.at<uint32_t>(p.counts);
    c.reach.names = s.at<uint32_t>(p.rest);
    c.reach.entries = p.reached;
    return peri_coarse_run(s.stream, &c, nullptr, 0);
}

/* Answers the queries of `which` that reach few rows; the others are `left_direct`. Chunks come
 * from the last, which is still prepared, to the first. */
peri_status reach_pass(const search &s, const peri_op_knn &part) {
    const plan &p = s.p;
    search left = s;
    left.prepare.needed = s.at<uint32_t>(p.left);
    PERI_TRY(find_reach(s, part));
    size_t last = (p.total - 1) / p.row_chunk * p.row_chunk;
    for (size_t first = last;; first -= p.row_chunk) {
        size_t count = least(p.row_chunk, p.total - first);
        PERI_TRY(prepare_chunk(left, first, count, first != last));
        PERI_TRY(reach_chunk(s, part, first, count));
        if (first == 0) break;
    }
    peri_knn_rows lists = {};
    lists.counts = s.at<uint32_t>(p.counts);
    lists.names = s.at<uint32_t>(p.rest);
    lists.entries = p.reached;
    lists.which = s.at<uint32_t>(p.which_direct);
    lists.left = s.at<uint32_t>(p.left_direct);
    lists.all = part.scanned;
    size_t taken = round_up(p.reached * sizeof(uint32_t), ALIGN);
    return peri_knn_direct_run(s.stream, &part, s.at<uint32_t>(p.left), s.at<uint32_t>(p.which),
                               &lists, s.at<char>(p.rest) + taken, p.rest_bytes - taken);
}

/* `prepared`: the only chunk of rows is still there from the part before. */
peri_status search_part(const search &s, const peri_op_knn &part, bool prepared) {
    const plan &p = s.p;
    PERI_TRY(peri_prepare_queries(s.stream, &s.prepare, &part.queries, s.at<void>(p.queries),
                                  s.at<peri_prepared_query>(p.about)));
    PERI_TRY(best_pass(s, part, prepared));
    PERI_TRY(reach_pass(s, part));
    return peri_knn_direct_run(s.stream, &part, s.at<uint32_t>(p.left_direct),
                               s.at<uint32_t>(p.which_direct), nullptr, s.at<void>(p.rest),
                               p.rest_bytes);
}

peri_status search_run(search *s) {
    const plan &p = s->p;
    const peri_op_knn *op = s->op;
    describe_rows(s);
    if (p.named)
        PERI_TRY(peri_prepare_names(s->stream, op->filter.bits, op->rows.rows,
                                    s->at<uint32_t>(p.names), p.total, s->at<void>(p.names_room)));
    if (p.tested && shares_filter(op))
        CU_TRY(s->stream->device,
               cudaMemsetAsync(s->at<void>(p.zeros), 0, p.query_chunk * sizeof(uint32_t),
                               peri_cuda_handle(s->stream)));
    if (p.floats) {
        PERI_TRY(peri_knn_floats_run(s->stream, op, s->at<void>(p.again), s->at<void>(p.rest),
                                     p.rest_bytes));
        s->prepare.needed = s->at<uint32_t>(p.again) + PERI_KNN_FLOATS_AGAIN;
    }
    PERI_TRY(peri_prepare_begin(s->stream, &s->prepare));
    for (size_t first = 0; first < op->queries.rows; first += p.query_chunk) {
        size_t count = least(p.query_chunk, op->queries.rows - first);
        bool prepared = first > 0 && p.total <= p.row_chunk;
        peri_op_knn part = part_of(op, first, count);
        PERI_TRY(search_part(*s, part, prepared));
    }
    return PERI_OK;
}

bool supports(const peri_device *, const peri_op *any, peri_cuda_answer why) {
    auto op = (const peri_op_knn *)any;
    if (op->k == 0 || op->k > PERI_CUDA_K_MAX)
        return peri_cuda_refuse(why, "not on cuda: k: %zu given, 1..%u are taken", op->k,
                                PERI_CUDA_K_MAX);
    if (op->filter.count > 0 && op->filter.bits == nullptr)
        return peri_cuda_refuse(why, "not on cuda: a filter without its bits");
    return peri_cuda_scan_taken(op->metric, &op->queries, &op->rows, op->lengths, why);
}

size_t scratch(const peri_device *device, const peri_op *any) {
    auto op = (const peri_op_knn *)any;
    return op->queries.rows == 0 ? 0 : make_plan(device, op).bytes;
}

peri_status run(peri_stream *stream, const peri_op *any, void *scratch, size_t scratch_bytes) {
    search s = {};
    s.stream = stream;
    s.op = (const peri_op_knn *)any;
    s.scratch = static_cast<char *>(scratch);
    for (uint32_t *count : { s.op->redone, s.op->scanned })
        if (count != nullptr)
            CU_TRY(stream->device,
                   cudaMemsetAsync(count, 0, sizeof *count, peri_cuda_handle(stream)));
    if (s.op->queries.rows == 0) return PERI_OK;
    s.p = make_plan(stream->device, s.op);
    if (scratch_bytes < s.p.bytes)
        return stream->device->host->fail(PERI_E_ARGUMENT, "knn: %zu bytes of scratch, %zu needed",
                                          scratch_bytes, s.p.bytes);
    s.scratch += (ALIGN - (size_t)s.scratch % ALIGN) % ALIGN;
    if (!s.p.coarse)
        return peri_knn_direct_run(stream, s.op, nullptr, nullptr, nullptr, scratch, scratch_bytes);
    return search_run(&s);
}

} /* namespace */

const peri_cuda_op peri_cuda_knn_op = { supports, scratch, run };
