/* asked.h: what a search asks of an index, made ready for operations: queries in the dtype that
 * they take, filters bound, joined with those of wrappers and with the rows that are alive, and
 * placed. All of it lies in the lane's arenas. */
#ifndef PERI_INDEX_ASKED_H
#define PERI_INDEX_ASKED_H

#include "index/index.h"

typedef struct peri_asked {
    peri_index *index;   /* retained */
    peri_view queries;   /* in the query dtype of the index; on the host, or at its place */
    peri_bound **bounds; /* what is held until the end */
    size_t bound_count;
    uint32_t filter_count;        /* distinct filters after joining those of wrappers */
    const uint64_t **bits;        /* [filter_count] host */
    size_t *passing;              /* [filter_count] host */
    bool per_query;               /* filter of query i is i, else 0 */
    peri_filter_view placed;      /* the filters at the place, without `which` */
    uint64_t *const *placed_bits; /* [filter_count] host: where they are */
} peri_asked;

/* Takes the reference to the index over, also when it fails; close it then too. */
peri_status peri_asked_open(peri_asked *asked, peri_index *index, peri_search *search);
void peri_asked_close(peri_asked *asked);

/* Rows that a query may be answered with. */
size_t peri_asked_passing(const peri_asked *asked, size_t query);

/* Queries in the dtype that the operations take: as they are, or a converted copy. */
peri_status peri_queries_prepare(const peri_index *index, peri_lane *lane, const peri_view *from,
                                 peri_view *out);

#endif
