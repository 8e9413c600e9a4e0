/* names.c: the words of dtypes, metrics and places. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/checked.h"
#include "core/status.h"

static const char *const dtype_names[] = {
#define DTYPE_NAME(name, word, bytes) word,
    PERI_DTYPE_MAP(DTYPE_NAME)
#undef DTYPE_NAME
};
static const size_t dtype_bytes[] = {
#define DTYPE_BYTES(name, word, bytes) bytes,
    PERI_DTYPE_MAP(DTYPE_BYTES)
#undef DTYPE_BYTES
};
static const char *const metric_names[] = {
#define METRIC_NAME(name, word) word,
    PERI_METRIC_MAP(METRIC_NAME)
#undef METRIC_NAME
};
static const char *const place_names[] = { "cpu", "ref", "fake", "cuda" };

const char *peri_dtype_name(peri_dtype dtype) {
    return (unsigned)dtype < PERI_DTYPE_COUNT ? dtype_names[dtype] : "unknown";
}

size_t peri_dtype_bytes(peri_dtype dtype) {
    return (unsigned)dtype < PERI_DTYPE_COUNT ? dtype_bytes[dtype] : 0;
}

peri_status peri_dtype_parse(const char *text, peri_dtype *out) {
    for (unsigned i = 0; i < PERI_DTYPE_COUNT; i++) {
        if (strcmp(text, dtype_names[i]) == 0) {
            *out = (peri_dtype)i;
            return PERI_OK;
        }
    }
    return peri_fail(PERI_E_ARGUMENT, "dtype: '%.40s' given, allowed: f32 f16 i8 u8 i32 u32 i64",
                     text);
}

const char *peri_metric_name(peri_metric metric) {
    return (unsigned)metric < PERI_METRIC_COUNT ? metric_names[metric] : "unknown";
}

peri_status peri_metric_parse(const char *text, peri_metric *out) {
    for (unsigned i = 0; i < PERI_METRIC_COUNT; i++) {
        if (strcmp(text, metric_names[i]) == 0) {
            *out = (peri_metric)i;
            return PERI_OK;
        }
    }
    return peri_fail(PERI_E_ARGUMENT,
                     "metric: '%.40s' given, allowed: sqeuclidean euclidean inner_product cosine "
                     "l1 hamming",
                     text);
}

/* Splits "cuda:1" into its word's length and number; false when the number is no number. */
static bool split_place(const char *text, size_t *word, unsigned long *number) {
    const char *colon = strchr(text, ':');
    *word = colon == NULL ? strlen(text) : (size_t)(colon - text);
    *number = 0;
    if (colon == NULL) return true;
    if (colon[1] < '0' || colon[1] > '9') return false;
    char *end;
    *number = strtoul(colon + 1, &end, 10);
    return *end == '\0' && *number <= UINT16_MAX;
}

peri_status peri_place_parse(const char *text, peri_place *out) {
    size_t word;
    unsigned long number;
    *out = PERI_CPU;
    if (strcmp(text, "auto") == 0) return PERI_OK;
    if (split_place(text, &word, &number)) {
        for (uint16_t kind = 0; kind < sizeof place_names / sizeof *place_names; kind++) {
            const char *name = place_names[kind];
            bool numbered = kind == PERI_PLACE_FAKE || kind == PERI_PLACE_CUDA;
            if (strlen(name) != word || strncmp(name, text, word) != 0) continue;
            if (!numbered && text[word] != '\0') continue;
            *out = (peri_place){ kind, (uint16_t)number };
            return PERI_OK;
        }
    }
    return peri_fail(PERI_E_ARGUMENT, "place: '%.40s' given, allowed: auto cpu cuda:N (fake:N ref)",
                     text);
}

const char *peri_place_format(peri_place place, char *text, size_t size) {
    const char *name = place.kind < sizeof place_names / sizeof *place_names
                           ? place_names[place.kind]
                           : "unknown";
    if (place.kind == PERI_PLACE_FAKE || place.kind == PERI_PLACE_CUDA)
        snprintf(text, size, "%s:%u", name, place.number);
    else
        snprintf(text, size, "%s", name);
    return text;
}
