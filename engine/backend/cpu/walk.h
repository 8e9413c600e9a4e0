/* walk.h: one query's walk as a machine of two half-steps, so that a worker can have several walks
 * under way.
 *
 * What a walk waits for is memory: the row of links of the row it opens, then the rows that the
 * links name. Each half-step ends by asking for what the next one reads:
 *   peri_walk_gather  reads the links, keeps those that are new, asks for their rows;
 *   peri_walk_absorb  measures these rows, offers them, chooses what to open next and asks for its
 *                     links.
 * With codes beside the links (peri_codes_view), the first half also has the values of all links
 * and keeps what may enter the list; no rows are asked for.
 * Between the halves of one walk a worker does those of others. A walk touches nothing of its
 * neighbours, so its answer does not depend on who they are. */
#ifndef PERI_BACKEND_CPU_WALK_H
#define PERI_BACKEND_CPU_WALK_H

#include "backend/cpu/distances.h"
#include "backend/cpu/near_offer.h"
#include "backend/cpu/packed_codes.h"
#include "backend/cpu/walk_links.h"

#define PERI_WALK_BATCH 128u /* rows handed to the distance kernel at once */

typedef enum peri_walk_stage {
    PERI_WALK_ENTRY, /* measures the entry */
    PERI_WALK_DESCENT,
    PERI_WALK_LANDMARKS,
    PERI_WALK_SEEDS,
    PERI_WALK_GRAPH,
    PERI_WALK_RERANK, /* canonical distances of what the codes found */
    PERI_WALK_DONE,
} peri_walk_stage;

/* What all walks of an operation share. */
typedef struct peri_walk_plan {
    const peri_op_graph_search *op;
    peri_distances exact; /* canonical distances of the rows */
    peri_distances walk;  /* what the walk goes by: the same, or the values of the codes */
    peri_near_offer_fn offer;
    peri_walk_links_fn links;
    size_t walk_bytes, exact_bytes; /* of a row, that are asked for ahead */
    size_t log_room;
    bool coded;
    peri_packed_codes packed; /* bits 0: none */
    peri_packed_kernels kernels;
    size_t limit; /* rounds at most */
} peri_walk_plan;

typedef struct peri_walk {
    const peri_walk_plan *plan;
    /* scratch, kept from query to query */
    peri_near_list list;    /* L; marked = closed */
    peri_near_list passing; /* with a filter: the best that pass, by what the walk goes by */
    peri_near_list best;    /* with codes: the best by canonical distance */
    uint32_t *opened;       /* [search_width] */
    uint64_t *taken;        /* [words] a bit for each row that was offered; clean between walks */
    uint32_t *log;          /* [log_room] what was set in taken, as long as it fits */
    uint32_t *passed;       /* [PERI_WALK_BATCH] with a filter: those of a batch that pass */
    float *distances;       /* [PERI_WALK_BATCH] */
    uint64_t *spare;        /* [PERI_WALK_BATCH + PERI_NEAR_BLOCK] keys */
    uint8_t *code;          /* the encoded query */
    /* of the query */
    size_t number; /* in the batch */
    const void *query;
    const void *asked; /* what the kernel of the walk takes: the query or its code */
    float query_length;
    const uint64_t *bits; /* of the query's filter; NULL = all */
    uint64_t seed_key;
    uint32_t visited;
    uint32_t *slots; /* [PERI_WALK_BATCH] gathered, not yet absorbed: the end of the log */
    bool log_lost;   /* the log began anew: taken has more than it says */
    /* where it is */
    peri_walk_stage stage;
    size_t gathered;       /* slots in `slots` */
    const uint32_t *links; /* rest of the row of links under way, */
    size_t links_left;     /* so many */
    const uint8_t *block;  /* with codes beside the links: theirs */
    uint32_t level;        /* descent */
    bool moved;
    uint64_t here; /* the key of the row where it is */
    size_t next;   /* seed, or candidate to re-rank */
    size_t opened_count, opened_next, rounds;
    size_t first_open; /* nothing before it in L is open */
} peri_walk;

void peri_walk_plan_init(peri_walk_plan *plan, const peri_op_graph_search *op);

/* Lays the scratch of a walk out over `base` (NULL: only the size is wanted); returns its size. */
size_t peri_walk_lay_out(const peri_walk_plan *plan, void *base, peri_walk *walk);
/* Once for each walk before its first query; where its scratch was cleaned before, a reset is
 * enough. */
void peri_walk_clean(peri_walk *walk);
void peri_walk_reset(peri_walk *walk);

void peri_walk_begin(peri_walk *walk, size_t number);
void peri_walk_gather(peri_walk *walk);
/* False when the walk is over and its results are written. */
bool peri_walk_absorb(peri_walk *walk);

#endif
