/* index.h: an index is a list of named sections (matrices at its place), the same list as in its
 * file.
 *
 * A kind is a table: how to build the sections, what a search does with them. Moving, saving and
 * opening are one generic walk over the sections. An index is immutable once built. */
#ifndef PERI_INDEX_INDEX_H
#define PERI_INDEX_INDEX_H

#include "core/matrix.h"
#include "index/searcher.h"
#include "io/container.h"

#define PERI_SECTIONS_MAX 8
#define PERI_PARAMS_BYTES 512

typedef struct peri_index peri_index;

typedef struct peri_kind {
    peri_searcher_ops ops;
    const peri_param_table
        *build_table; /* what a builder may ask; its struct begins with `metric` */
    const peri_param_table *saved_table; /* the same rows and more that the index must remember */
    /* Makes the sections besides "rows" and "ids". NULL: this kind is not built from rows. */
    peri_status (*build)(peri_index *index, size_t threads, const peri_control *control);
    /* Checks the sections of an index that was opened or moved; nothing in them is trusted. */
    peri_status (*adopt)(peri_index *index);
    /* The walk of a graph kind: its graph, hierarchy and, from the options, its parameters; the
     * rest of the operation is filled in already. NULL: every search is exact. */
    peri_status (*walk)(const peri_index *index, const peri_options *options, size_t k,
                        peri_op_graph_search *op);
} peri_kind;

struct peri_index {
    peri_searcher base;
    const peri_kind *kind;
    peri_dtype dtype;
    peri_section sections[PERI_SECTIONS_MAX];
    size_t section_count;
    _Alignas(16) unsigned char params[PERI_PARAMS_BYTES]; /* the build struct, resolved */
    const int64_t *ids; /* [rows] host, row to id; NULL = row numbers */
    peri_id_map map;    /* id to row */
    peri_filter *alive; /* rows that are not marked deleted; NULL = all */
};

/* A new index of a kind, without sections; head filled. */
peri_status peri_index_create(peri_context *context, const peri_kind *kind, peri_place place,
                              peri_index **out);

/* Adds a section, taking over the reference. */
peri_status peri_index_add(peri_index *index, const char *name, peri_matrix *matrix);
/* A section's matrix (not retained), or NULL. */
peri_matrix *peri_index_section(const peri_index *index, const char *name);

/* Takes rows, dtype, dim and metric over from the rows section and the parameters. */
peri_status peri_index_set_rows(peri_index *index, peri_matrix *rows);
/* Sets row to id; [n, 1] i64, unique, >= 0; retained. */
peri_status peri_index_set_ids(peri_index *index, peri_matrix *ids);

/* "lengths" for cosine, made at the index's place when the metric needs it and it is not there. */
peri_status peri_index_add_lengths(peri_index *index);
const float *peri_index_lengths(const peri_index *index);

/* Whether the index's place does what a search of it needs: an index that can't be searched
 * where it is is refused when it is built, opened or moved. PERI_E_UNSUPPORTED with the reason. */
peri_status peri_index_check_place(const peri_index *index);

/* Shared slots of peri_searcher_ops for indexes (index.c, index_search.c). */
peri_status peri_index_submit(peri_searcher *self, peri_search *search);
peri_status peri_index_finish(peri_searcher *self, peri_search *search);
void peri_index_abandon(peri_searcher *self, peri_search *search);
peri_status peri_index_score(peri_searcher *self, peri_search *search, const int64_t *ids,
                             size_t columns, float *distances);
void peri_index_describe(const peri_searcher *self, peri_field_fn field, void *ud);
void peri_index_line(const peri_searcher *self, char *text, size_t size);
void peri_index_free(peri_searcher *self);

/* The slots in the order of peri_searcher_ops, for a kind's table. */
#define PERI_INDEX_OPS(word, search_table)                                                         \
    {                                                                                              \
        word, search_table, peri_index_submit, peri_index_finish, peri_index_abandon,              \
            peri_index_score, peri_index_describe, peri_index_line, peri_index_free                \
    }

/* The kinds. */
extern const peri_kind peri_flat_kind, peri_cagra_kind, peri_hnsw_kind;
const peri_kind *peri_kind_find(const char *name);

/* An index behind a searcher, or NULL when it is a combinator. */
peri_index *peri_index_of(peri_searcher *searcher);

#endif
