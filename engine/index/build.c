/* build.c: the one way in to building an index, and the parameter tables by name. */
#include <stdio.h>
#include <string.h>

#include "graph/neighbors.h"
#include "index/combinators.h"
#include "index/handle.h"
#include "quant/clusters.h"
#include "quant/quantizer.h"

static peri_status refuse_kind(const char *given) {
    char allowed[256] = "";
    size_t used = 0;
    for (size_t i = 0; i < peri_kind_count; i++) {
        if (peri_kinds[i]->build == NULL || used >= sizeof allowed) continue;
        used += (size_t)snprintf(allowed + used, sizeof allowed - used, " %s",
                                 peri_kinds[i]->ops.kind);
    }
    return peri_fail(PERI_E_ARGUMENT, "kind: '%.40s' given, allowed:%s", given == NULL ? "" : given,
                     allowed);
}

static peri_status check_build(const peri_build *build, const peri_kind **kind) {
    if (build->size != sizeof *build)
        return peri_fail(PERI_E_ARGUMENT, "build.size: %u given, this library takes %zu",
                         build->size, sizeof *build);
    *kind = build->kind == NULL ? NULL : peri_kind_find(build->kind);
    if (*kind == NULL || (*kind)->build == NULL) return refuse_kind(build->kind);
    if (build->rows == NULL) return peri_fail(PERI_E_ARGUMENT, "rows: none given");
    if (peri_matrix_view(build->rows).rows == 0)
        return peri_fail(PERI_E_ARGUMENT, "rows: 0 given, allowed: 1 and more");
    return peri_options_check(&build->options, &(*kind)->build_table, 1);
}

peri_status peri_searcher_build(const peri_build *build, peri_searcher **out) {
    const peri_kind *kind = NULL;
    peri_index *index = NULL;
    peri_status status;
    *out = NULL;
    PERI_TRY(check_build(build, &kind));
    peri_context *context = peri_matrix_context(build->rows);
    PERI_GO(peri_index_create(context, kind, build->place, &index));
    PERI_GO(peri_params_read(kind->build_table, &build->options, index->params));
    int64_t metric;
    memcpy(&metric, index->params, sizeof metric);
    if (peri_matrix_view(build->rows).dtype <= PERI_U8)
        PERI_GO(peri_matrix_check(build->rows, metric == PERI_COSINE, "rows", build->threads,
                                  build->control));
    PERI_GO(peri_index_set_rows(index, build->rows));
    if (build->ids != NULL) PERI_GO(peri_index_set_ids(index, build->ids));
    PERI_GO(peri_index_add_lengths(index));
    PERI_GO(kind->build(index, build->rows, build->threads, build->control));
    PERI_GO(peri_index_check_place(index));
    return peri_handle_create(index, out);
done:
    peri_index_release(index);
    return status;
}

const peri_param_table *peri_params_find(const char *kind, const char *verb) {
    const peri_kind *found = peri_kind_find(kind);
    if (found != NULL && strcmp(verb, "build") == 0)
        return found->build == NULL ? NULL : found->build_table;
    if (found != NULL && strcmp(verb, "search") == 0) return found->ops.search_table;
    if (strcmp(kind, "cagra") == 0 && strcmp(verb, "to_hnsw") == 0) return &peri_to_hnsw_table;
    if (strcmp(kind, "kmeans") == 0 && strcmp(verb, "train") == 0) return &peri_kmeans_table;
    if (strcmp(kind, "knn_graph") == 0 && strcmp(verb, "build") == 0) return &peri_knn_graph_table;
    if (strcmp(kind, "refined") == 0) return &peri_refined_table;
    const peri_quantizer_kind *quantizer = peri_quantizer_kind_find(kind);
    if (quantizer != NULL && strcmp(verb, "train") == 0) return quantizer->train_table;
    return NULL;
}

const char *peri_kind_name(size_t number) {
    return number < peri_kind_count ? peri_kinds[number]->ops.kind : NULL;
}

const char *peri_params_name(size_t number) {
    static const char *const others[] = { "filtered", "refined", "kmeans", "knn_graph" };
    if (number < peri_kind_count) return peri_kind_name(number);
    number -= peri_kind_count;
    if (number < sizeof others / sizeof *others) return others[number];
    return peri_quantizer_kind_name(number - sizeof others / sizeof *others);
}

const char *peri_kind_memory(const char *kind) {
    const peri_kind *found = peri_kind_find(kind);
    return found == NULL ? NULL : found->memory;
}
