/* index.h: an index is a list of named sections (matrices at its place), the same list as in its
 * file.
 *
 * A kind is a table: how to build the sections, what a search does with them. Moving, saving,
 * opening, extending and removing are one generic walk over the sections. An index never changes
 * once it is made: what a user holds is a handle (handle.h), and extending or removing makes the
 * next index aside and puts it in the handle. */
#ifndef PERI_INDEX_INDEX_H
#define PERI_INDEX_INDEX_H

#include "core/matrix.h"
#include "index/searcher.h"
#include "io/container.h"

/* The metric of a kind that compares rows as they are; first of its parameters, a peri_metric. */
#define PERI_METRIC_PARAM(X, S)                                                                    \
    X(S, CHOICE, metric, 0, 0, 5, "sqeuclidean|euclidean|inner_product|cosine|l1|hamming", NULL,   \
      "what near means; hamming: the bits that differ in rows of u8")

#define PERI_SECTIONS_MAX 16
#define PERI_PARAMS_BYTES 512

typedef struct peri_index peri_index;

/* A group of queries for a kind that neither scans all rows nor walks a graph. Everything is at
 * the index's place. */
typedef struct peri_scan {
    const peri_options *options; /* of the request; the kind reads its search table */
    peri_view queries;           /* [q, dim] in the query dtype of the index */
    peri_filter_view filter;
    size_t k;
    bool exhaustive;   /* look at every row that passes: few do, or a first answer was short */
    int64_t *ids;      /* [q, k] out: slots, nearest first, PERI_ID_NONE at +inf pads */
    float *distances;  /* [q, k] out: inside values */
    uint32_t *visited; /* [q] out: rows looked at */
} peri_scan;

/* A search by distance. Everything is at the index's place. */
typedef struct peri_range_scan {
    const peri_options *options;
    peri_view queries;
    peri_filter_view filter;
    float radius;    /* inside */
    int64_t *counts; /* the rest: as in peri_op_range_scan */
    const int64_t *offsets;
    size_t room;
    int64_t *ids;
    float *distances;
} peri_range_scan;

/* Rows that are added to an index. */
typedef struct peri_growth {
    peri_matrix *rows; /* [m, dim] at the index's place, of its dtype, checked */
    size_t first;      /* slot of the first of them: the rows that there were */
    size_t threads;
    const peri_control *control;
} peri_growth;

/* Slots that leave an index. */
typedef struct peri_loss {
    const uint32_t *slots; /* [count] ascending, distinct, alive until now */
    size_t count;
    size_t threads;
    const peri_control *control;
} peri_loss;

typedef struct peri_kind {
    peri_searcher_ops ops;
    const peri_param_table
        *build_table; /* what a builder may ask; its struct begins with `metric` */
    const peri_param_table *saved_table; /* the same rows and more that the index must remember */
    const char *const
        *sections;      /* names besides "rows" "ids" "lengths" "deleted"; ends with NULL */
    const char *memory; /* what peri_kind_memory answers */
    bool rowless; /* keeps no section "rows": what it needs of them is in sections of its own */
    /* Makes the sections besides "rows" and "ids". NULL: this kind is not built from rows. */
    peri_status (*build)(peri_index *index, peri_matrix *rows, size_t threads,
                         const peri_control *control);
    /* Checks the sections of an index that was opened or moved; nothing in them is trusted. */
    peri_status (*adopt)(peri_index *index);
    /* The walk of a graph kind: its graph, hierarchy and, from the options, its parameters; the
     * rest of the operation is filled in already. NULL: every search is exact, or `scan`. */
    peri_status (*walk)(const peri_index *index, const peri_options *options, size_t k,
                        peri_op_graph_search *op);
    /* Enqueues the search of a list kind; scratch comes from the lane. */
    peri_status (*scan)(const peri_index *index, peri_lane *lane, const peri_scan *scan);
    /* (optional) Whether rows stay on the host for searches that send them through the device;
     * the index is filled but for its rows. NULL: never. */
    peri_status (*streams)(const peri_index *index, const peri_matrix *rows, bool *out);
    /* (optional) Enqueues a search by distance. */
    peri_status (*range)(const peri_index *index, peri_lane *lane, const peri_range_scan *scan);
    /* With `scan`: share of the rows that a search with these options looks at. */
    peri_status (*reach)(const peri_index *index, const peri_options *options, double *out);
    /* (with scan) Whether the place does what a search needs; says why not. */
    peri_status (*check_place)(const peri_index *index);
    /* (optional) Fills the sections of `next`, whose "rows", "ids", "lengths" and "deleted" are
     * there (as far as the kind has them); params are those of `old`, to be changed in place.
     * Writers come one at a time; searches of `old` go on meanwhile. */
    peri_status (*extend)(const peri_index *old, peri_index *next, const peri_growth *growth);
    /* (optional) The same when slots leave: they stay as holes, marked in "deleted". All sections
     * of `old` are shared already; peri_index_replace changes one. NULL with extend: marks are
     * enough. */
    peri_status (*remove)(const peri_index *old, peri_index *next, const peri_loss *loss);
    /* (optional) Replaces sections of `next`, which shares those of `old`, by such without what
     * only growing needs. Called for a loose index that is saved or moved. */
    peri_status (*pack)(const peri_index *old, peri_index *next);
    /* (optional) Fields beyond those of every index. */
    void (*describe)(const peri_index *index, peri_field_fn field, void *ud);
} peri_kind;

struct peri_index {
    atomic_size_t references;
    peri_context *context; /* retained */
    const peri_kind *kind;
    peri_device *device;
    peri_metric metric;
    uint32_t dim;
    size_t rows; /* slots, those of removed rows counted */
    peri_dtype dtype;
    peri_section sections[PERI_SECTIONS_MAX];
    size_t section_count;
    _Alignas(16) unsigned char params[PERI_PARAMS_BYTES]; /* the build struct, resolved */
    const int64_t *ids; /* [rows] host, row to id; NULL = row numbers */
    peri_id_map map;    /* id to row, of rows that are alive */
    size_t removed;     /* rows that are marked in "deleted" */
    size_t holes; /* of those, the ones that are gone from graph or lists: no search meets them */
    peri_filter *alive; /* the others; NULL = all */
    bool loose;         /* `pack` of the kind has something to do */
    bool streamed;      /* section "rows" is on the host, the place is not */
};

/* A new index of a kind, without sections; head filled. */
peri_status peri_index_create(peri_context *context, const peri_kind *kind, peri_place place,
                              peri_index **out);
void peri_index_retain(peri_index *index);
void peri_index_release(peri_index *index); /* NULL is allowed */

/* Adds a section, taking over the reference. */
peri_status peri_index_add(peri_index *index, const char *name, peri_matrix *matrix);
/* The same in place of the section of that name, which may be missing. */
peri_status peri_index_replace(peri_index *index, const char *name, peri_matrix *matrix);
/* Lets a section go, when there is one of that name. */
void peri_index_drop(peri_index *index, const char *name);
/* A section's matrix (not retained), or NULL. */
peri_matrix *peri_index_section(const peri_index *index, const char *name);
/* Where section "rows" is, or would be. */
static inline peri_place peri_index_rows_place(const peri_index *index) {
    return index->streamed ? PERI_CPU : index->device->place;
}
/* Adds a section of `from`, retained, when it has it. */
peri_status peri_index_share(peri_index *index, const peri_index *from, const char *name);

/* Takes count, dtype and dim of the rows and the metric of the parameters over. */
peri_status peri_index_set_shape(peri_index *index, size_t rows, size_t dim, peri_dtype dtype);
/* The same, and keeps the rows as a section at the index's place unless the kind is rowless. */
peri_status peri_index_set_rows(peri_index *index, peri_matrix *rows);
/* Sets row to id; [n, 1] i64, >= 0, unique among the rows alive (set "deleted" before);
 * retained. ids.c */
peri_status peri_index_set_ids(peri_index *index, peri_matrix *ids);
/* Sets which rows are removed: [n, 1] u8, 1 = removed; retained. removed.c */
peri_status peri_index_set_deleted(peri_index *index, peri_matrix *deleted);
/* The index without what only growing needs, as it is saved and moved: itself, retained, when there
 * is nothing to leave out. grow.c */
peri_status peri_index_pack(peri_index *index, peri_index **out);
/* The row of an id, PERI_ID_NONE when no row alive has it. ids.c */
int64_t peri_index_find(const peri_index *index, int64_t id);

/* "lengths" for cosine, made at the index's place when the metric needs it and it is not there. */
peri_status peri_index_add_lengths(peri_index *index);
const float *peri_index_lengths(const peri_index *index);
/* Lengths of rows anywhere, as a matrix at the index's place. */
peri_status peri_index_make_lengths(const peri_index *index, peri_matrix *rows, peri_matrix **out);

/* Whether the index's place does what a search of it needs: an index that can't be searched
 * where it is is refused when it is built, opened or moved. PERI_E_UNSUPPORTED with the reason. */
peri_status peri_index_check_place(const peri_index *index);

/* Shared slots of peri_searcher_ops for indexes: index_search.c and handle.c. */
peri_status peri_index_submit(peri_searcher *self, peri_search *search);
peri_status peri_index_finish(peri_searcher *self, peri_search *search);
void peri_index_abandon(peri_searcher *self, peri_search *search);
peri_status peri_index_score(peri_searcher *self, peri_search *search, const int64_t *ids,
                             size_t columns, float *distances);
peri_status peri_index_range(peri_searcher *self, peri_search *search, float radius,
                             peri_range_hits *hits); /* index_range.c */
void peri_index_describe(const peri_searcher *self, peri_field_fn field, void *ud);
void peri_index_line(const peri_searcher *self, char *text, size_t size);
void peri_handle_free(peri_searcher *self);

/* The slots in the order of peri_searcher_ops, for a kind's table. */
#define PERI_INDEX_OPS(word, search_table)                                                         \
    {                                                                                              \
        word, search_table, peri_index_submit, peri_index_finish, peri_index_abandon,              \
            peri_index_score, peri_index_range, peri_index_describe, peri_index_line,              \
            peri_handle_free, true                                                                 \
    }

/* The kinds, in the order in which they are told. */
extern const peri_kind peri_flat_kind, peri_ivf_flat_kind, peri_ivf_pq_kind, peri_ivf_sq_kind,
    peri_ivf_rabitq_kind, peri_cagra_kind, peri_hnsw_kind, peri_vamana_kind;
extern const peri_kind *const peri_kinds[];
extern const size_t peri_kind_count;
const peri_kind *peri_kind_find(const char *name);

#endif
