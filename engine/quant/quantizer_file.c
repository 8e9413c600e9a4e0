/* quantizer_file.c: saving and opening a quantizer in our container: its kind, its parameters and
 * "dim", its sections. A choice is written as its word, so that its number may change. */
#include <string.h>

#include "quant/quantizer.h"

#define OPTIONS_MAX 16
#define WORD_MAX 48

peri_status peri_quantizer_save(peri_quantizer *q, const char *path, const peri_control *control) {
    const peri_param_table *table = q->kind->train_table;
    peri_option list[OPTIONS_MAX];
    char words[OPTIONS_MAX][WORD_MAX];
    PERI_ASSERT(table->count < OPTIONS_MAX);
    for (size_t i = 0; i < table->count; i++) {
        list[i].key = table->list[i].name;
        list[i].value = peri_param_value(&table->list[i], q->params, words[i], WORD_MAX);
    }
    list[table->count] = (peri_option){ "dim", { PERI_VALUE_INT, { .i = q->dim } } };
    peri_options params = { list, table->count + 1 };
    peri_section sections[PERI_QUANTIZER_SECTIONS_MAX];
    size_t count = q->kind->sections(q, sections);
    return peri_container_save(q->context, path, q->kind->name, &params, sections, count, control);
}

/* ---- opening ------------------------------------------------------------------------------ */

static peri_status find_kind(peri_container *file, const char *path, const char *wanted,
                             const peri_quantizer_kind **kind) {
    const char *name = peri_container_kind(file);
    *kind = peri_quantizer_kind_find(name);
    if (*kind == NULL)
        return peri_fail(PERI_E_UNSUPPORTED, "'%s' holds an index of kind '%.31s', no quantizer",
                         path, name);
    if (wanted != NULL && strcmp(wanted, name) != 0)
        return peri_fail(PERI_E_UNSUPPORTED, "'%s' holds a quantizer of kind '%s', not '%.31s'",
                         path, name, wanted);
    return PERI_OK;
}

static peri_status read_dim(peri_container *file, uint32_t *dim) {
    peri_options params = peri_container_params(file);
    for (size_t i = 0; i < params.count; i++) {
        const peri_value *value = &params.list[i].value;
        if (strcmp(params.list[i].key, "dim") != 0) continue;
        if (value->type != PERI_VALUE_INT || value->as.i < 1 || value->as.i > PERI_DIM_MAX)
            return peri_fail(PERI_E_CORRUPT, "parameter 'dim' is not within 1..%u", PERI_DIM_MAX);
        *dim = (uint32_t)value->as.i;
        return PERI_OK;
    }
    return peri_fail(PERI_E_CORRUPT, "parameter 'dim' is missing");
}

peri_status peri_quantizer_open(peri_context *context, const char *path, const char *kind_name,
                                const peri_control *control, peri_quantizer **out) {
    peri_container *file = NULL;
    const peri_quantizer_kind *kind;
    peri_quantizer *made = NULL;
    uint32_t dim = 0;
    peri_status status;
    *out = NULL;
    PERI_GO(peri_container_open(context, path, false, control, &file));
    PERI_GO(find_kind(file, path, kind_name, &kind));
    PERI_GO(read_dim(file, &dim));
    PERI_GO(peri_quantizer_create(context, kind, dim, &made));
    peri_options params = peri_container_params(file);
    PERI_GO(peri_params_read(kind->train_table, &params, made->params));
    PERI_GO(kind->adopt(made, file));
    made->row_bytes = kind->row_bytes(made);
    *out = made;
    made = NULL;
done:
    peri_quantizer_release(made);
    peri_container_close(file);
    return status == PERI_E_ARGUMENT ? PERI_E_CORRUPT : status;
}
