/* params.c: reads options against a parameter table, so that validation and help say the same. */
#include "core/params.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/checked.h"

#define NAME_MAX_LENGTH 48

static void store(const peri_param *param, void *params, double value) {
    char *field = (char *)params + param->offset;
    if (param->type == PERI_VALUE_REAL) {
        memcpy(field, &value, sizeof value);
    } else {
        int64_t whole = (int64_t)value;
        memcpy(field, &whole, sizeof whole);
    }
}

void peri_params_default(const peri_param_table *table, void *params) {
    for (size_t i = 0; i < table->count; i++)
        store(&table->list[i], params, table->list[i].fallback);
}

const peri_param *peri_param_find(const peri_param_table *table, const char *name) {
    for (size_t i = 0; i < table->count; i++)
        if (strcmp(table->list[i].name, name) == 0) return &table->list[i];
    return NULL;
}

/* The word of choice `number` copied to `word`; false when there is none. */
static bool choice_word(const char *choices, int64_t number, char *word, size_t size) {
    const char *from = choices;
    for (int64_t i = 0; from != NULL; i++) {
        const char *bar = strchr(from, '|');
        size_t length = bar == NULL ? strlen(from) : (size_t)(bar - from);
        if (i == number) {
            snprintf(word, size, "%.*s", (int)length, from);
            return true;
        }
        from = bar == NULL ? NULL : bar + 1;
    }
    return false;
}

static const char *type_word(peri_value_type type) {
    switch (type) {
    case PERI_VALUE_INT: return "a whole number";
    case PERI_VALUE_REAL: return "a number";
    case PERI_VALUE_FLAG: return "true or false";
    case PERI_VALUE_TEXT: return "a string";
    }
    return "a value";
}

static peri_status wrong_type(const peri_param *param, const peri_value *value) {
    const char *needs = param->choices != NULL ? param->choices : type_word(param->type);
    return peri_fail(PERI_E_ARGUMENT, "option '%s': %s given, allowed: %s", param->name,
                     type_word(value->type), needs);
}

static peri_status read_choice(const peri_param *param, const peri_value *value, void *params) {
    if (value->type != PERI_VALUE_TEXT) return wrong_type(param, value);
    char word[NAME_MAX_LENGTH];
    for (int64_t i = 0; choice_word(param->choices, i, word, sizeof word); i++) {
        if (strcmp(word, value->as.text) == 0) {
            store(param, params, (double)i);
            return PERI_OK;
        }
    }
    return peri_fail(PERI_E_ARGUMENT, "option '%s': '%.40s' given, allowed: %s", param->name,
                     value->as.text, param->choices);
}

static peri_status read_number(const peri_param *param, const peri_value *value, void *params) {
    double number;
    if (value->type == PERI_VALUE_INT)
        number = (double)value->as.i;
    else if (value->type == PERI_VALUE_REAL)
        number = value->as.r;
    else
        return wrong_type(param, value);
    bool whole = param->type == PERI_VALUE_REAL || number == floor(number);
    if (!whole || !(number >= param->min && number <= param->max))
        return peri_fail(PERI_E_ARGUMENT, "option '%s': %.15g given, allowed: %s%.15g..%.15g",
                         param->name, number, param->type == PERI_VALUE_INT ? "whole " : "",
                         param->min, param->max);
    store(param, params, number);
    return PERI_OK;
}

static peri_status read_one(const peri_param *param, const peri_value *value, void *params) {
    if (param->type == PERI_VALUE_TEXT) return read_choice(param, value, params);
    if (param->type != PERI_VALUE_FLAG) return read_number(param, value, params);
    if (value->type != PERI_VALUE_FLAG) return wrong_type(param, value);
    store(param, params, value->as.flag ? 1 : 0);
    return PERI_OK;
}

peri_status peri_params_read(const peri_param_table *table, const peri_options *options,
                             void *params) {
    for (size_t i = 0; i < options->count; i++) {
        const peri_param *param = peri_param_find(table, options->list[i].key);
        if (param != NULL) PERI_TRY(read_one(param, &options->list[i].value, params));
    }
    return PERI_OK;
}

/* Edit distance of two short words (Levenshtein 1966), one row at a time. */
static size_t edit_distance(const char *a, const char *b) {
    size_t row[NAME_MAX_LENGTH + 1], n = strnlen(a, NAME_MAX_LENGTH),
                                     m = strnlen(b, NAME_MAX_LENGTH);
    for (size_t j = 0; j <= m; j++) row[j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            size_t above = row[j];
            size_t change = diagonal + (a[i - 1] != b[j - 1]);
            row[j] = peri_min_size(change, peri_min_size(above, row[j - 1]) + 1);
            diagonal = above;
        }
    }
    return row[m];
}

static peri_status unknown_option(const char *key, const peri_param_table *const *tables,
                                  size_t count) {
    const char *nearest = NULL;
    size_t best = SIZE_MAX;
    for (size_t t = 0; t < count; t++) {
        for (size_t i = 0; i < tables[t]->count; i++) {
            size_t distance = edit_distance(key, tables[t]->list[i].name);
            if (distance < best) {
                best = distance;
                nearest = tables[t]->list[i].name;
            }
        }
    }
    if (nearest == NULL)
        return peri_fail(PERI_E_ARGUMENT, "unknown option '%.48s': none taken", key);
    return peri_fail(PERI_E_ARGUMENT, "unknown option '%.48s': did you mean '%s'?", key, nearest);
}

peri_status peri_options_check(const peri_options *options, const peri_param_table *const *tables,
                               size_t count) {
    for (size_t i = 0; i < options->count; i++) {
        bool known = false;
        for (size_t t = 0; t < count && !known; t++)
            known = peri_param_find(tables[t], options->list[i].key) != NULL;
        if (!known) return unknown_option(options->list[i].key, tables, count);
    }
    return PERI_OK;
}

peri_value peri_param_value(const peri_param *param, const void *params, char *word, size_t size) {
    peri_value value = { param->type, { 0 } };
    const char *field = (const char *)params + param->offset;
    int64_t whole = 0;
    if (param->type == PERI_VALUE_REAL) {
        memcpy(&value.as.r, field, sizeof value.as.r);
        return value;
    }
    memcpy(&whole, field, sizeof whole);
    if (param->type == PERI_VALUE_INT) {
        value.as.i = whole;
    } else if (param->type == PERI_VALUE_FLAG) {
        value.as.flag = whole > 0;
    } else {
        if (!choice_word(param->choices, whole, word, size)) snprintf(word, size, "unknown");
        value.as.text = word;
    }
    return value;
}
