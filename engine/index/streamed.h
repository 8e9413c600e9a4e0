/* streamed.h: exact searches over rows that stay on the host and pass the device in chunks. */
#ifndef PERI_INDEX_STREAMED_H
#define PERI_INDEX_STREAMED_H

#include "index/asked.h"

/* Whether an index of these rows keeps them on the host: `residence` of the kind (0 auto, 1 device,
 * 2 host); auto: when they take more of the device than is free, an eighth left for searches. */
peri_status peri_streamed_choose(const peri_index *index, const peri_matrix *rows,
                                 int64_t residence, bool *out);

/* Whether the place does what streaming needs besides the scan. */
peri_status peri_streamed_check_place(const peri_index *index);

/* The rows of a refinement, [count] of them or PERI_ID_NONE, brought to the place: sets rows,
 * lengths and candidates of the operation. */
peri_status peri_streamed_pick(const peri_index *index, peri_lane *lane, const int64_t *rows,
                               size_t count, peri_op_refine *op);

/* Queries of a streamed search, and where their answer goes. */
typedef struct peri_streaming {
    const peri_asked *asked;
    peri_view queries; /* [q, dim] at the place */
    const uint32_t
        *members; /* [q] whose filters they have, when each has its own; NULL: 0, 1, .. */
    int64_t *ids; /* [q, k] host; inside values */
    float *distances;
} peri_streaming;

/* Compares all rows, one chunk after the other: while one is searched the next is on its way. The
 * answer of a scan of all rows, and done when it returns. Cost: one transfer of the rows; two
 * chunks of the device's memory, and what the scan of one needs. */
peri_status peri_streamed_search(peri_search *search, const peri_streaming *streaming);

/* All rows within `radius` (inside), in one pass too: offsets [q + 1] out, ids i64 (slots) and
 * distances f32 [offsets[q]] on the host, in any order within a query, which the caller owns, also
 * after a failure. `ids` and `distances` of `streaming` are not used. */
peri_status peri_streamed_range(peri_search *search, const peri_streaming *streaming, float radius,
                                int64_t *offsets, peri_matrix **ids, peri_matrix **distances);

#endif
