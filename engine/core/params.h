/* params.h: one X-macro list a kind and verb gives the parameter struct, its table, its defaults.
 *
 *   #define LIST(X, S)  X(S, INT, name, fallback, min, max, choices, rule, meaning) ...
 *   PERI_PARAMS_STRUCT(cagra_search_params, LIST)
 *   static const peri_param rows[] = { PERI_PARAMS_ROWS(cagra_search_params, LIST) };
 *
 * TYPE is INT, REAL, FLAG or CHOICE. A field is int64_t (a choice holds its number in `choices`,
 * a flag 0 or 1) or double. When a parameter is automatic its fallback is what the struct holds
 * (0 or -1) and `rule` says how the value is found; the kind's resolve() fills it in. */
#ifndef PERI_CORE_PARAMS_H
#define PERI_CORE_PARAMS_H

#include "core/status.h"

#define PERI_PARAM_FIELD_INT int64_t
#define PERI_PARAM_FIELD_REAL double
#define PERI_PARAM_FIELD_FLAG int64_t
#define PERI_PARAM_FIELD_CHOICE int64_t
#define PERI_PARAM_TYPE_INT PERI_VALUE_INT
#define PERI_PARAM_TYPE_REAL PERI_VALUE_REAL
#define PERI_PARAM_TYPE_FLAG PERI_VALUE_FLAG
#define PERI_PARAM_TYPE_CHOICE PERI_VALUE_TEXT

#define PERI_PARAM_MEMBER(row, type, name, fallback, min, max, choices, rule, meaning)             \
    PERI_PARAM_FIELD_##type name;
#define PERI_PARAMS_STRUCT(struct_name, LIST)                                                      \
    typedef struct struct_name {                                                                   \
        LIST(PERI_PARAM_MEMBER, struct_name)                                                       \
    } struct_name;

#define PERI_PARAM_ROW(row, type, name, fallback, min, max, choices, rule, meaning)                \
    { #name,                                                                                       \
      PERI_PARAM_TYPE_##type,                                                                      \
      offsetof(row, name),                                                                         \
      (double)(fallback),                                                                          \
      (double)(min),                                                                               \
      (double)(max),                                                                               \
      choices,                                                                                     \
      rule,                                                                                        \
      meaning },
#define PERI_PARAMS_ROWS(struct_name, LIST) LIST(PERI_PARAM_ROW, struct_name)

/* Fills `params` with the table's defaults. */
void peri_params_default(const peri_param_table *table, void *params);

/* Reads the options whose keys are in the table into `params` (after the defaults). Type, range
 * and choice are checked: PERI_E_ARGUMENT names option, value and range. Keys that are not in
 * the table are left alone: see peri_options_check. */
peri_status peri_params_read(const peri_param_table *table, const peri_options *options,
                             void *params);

/* Fails with the nearest known name when an option's key is in none of the tables. */
peri_status peri_options_check(const peri_options *options, const peri_param_table *const *tables,
                               size_t count);

/* Row of a name, or NULL. */
const peri_param *peri_param_find(const peri_param_table *table, const char *name);

/* The current value of one parameter; a choice comes as its word, which lives in `word`. */
peri_value peri_param_value(const peri_param *param, const void *params, char *word, size_t size);

#endif
