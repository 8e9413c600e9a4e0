/* support.cu: what the kernels take, and the reason in words when they don't. */
#include "support.cuh"

#include <stdarg.h>
#include <stdio.h>

#include "device.cuh"
#include "ops.h"

bool peri_cuda_refuse(peri_cuda_answer why, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    if (why.size > 0) vsnprintf(why.text, why.size, format, arguments);
    va_end(arguments);
    return false;
}

const char *peri_cuda_name(peri_dtype dtype) {
    switch (dtype) {
#define DTYPE_WORD(name, word, bytes)                                                              \
    case PERI_##name: return word;
        PERI_DTYPE_MAP(DTYPE_WORD)
#undef DTYPE_WORD
    case PERI_DTYPE_COUNT: break;
    }
    return "an unknown dtype";
}

const char *peri_cuda_name(peri_op_kind kind) {
    switch (kind) {
#define OP_NAME(NAME, name)                                                                        \
    case PERI_OP_##NAME: return #name;
        PERI_OP_MAP(OP_NAME)
#undef OP_NAME
    case PERI_OP_COUNT: break;
    }
    return "an unknown operation";
}

bool peri_cuda_is_vector(peri_dtype dtype) {
    return dtype == PERI_F32 || dtype == PERI_F16 || dtype == PERI_I8 || dtype == PERI_U8;
}

bool peri_cuda_aligned(const peri_view *view, peri_cuda_answer why) {
    size_t bytes = peri_cuda_dtype_bytes(view->dtype);
    if (view->rows == 0 || ((size_t)view->data | view->stride_bytes) % bytes == 0) return true;
    return peri_cuda_refuse(why, "not on cuda: rows at %p every %zu bytes are not aligned to %s",
                            view->data, view->stride_bytes, peri_cuda_name(view->dtype));
}

bool peri_cuda_rows_taken(const peri_view *rows, peri_cuda_answer why) {
    if (!peri_cuda_is_vector(rows->dtype))
        return peri_cuda_refuse(why, "rows of %s are not searched, only f32 f16 i8 u8",
                                peri_cuda_name(rows->dtype));
    if (rows->cols == 0 || rows->cols > PERI_DIM_MAX)
        return peri_cuda_refuse(why, "%zu columns given, 1..%u are taken", rows->cols,
                                PERI_DIM_MAX);
    return peri_cuda_aligned(rows, why);
}

bool peri_cuda_scan_taken(peri_metric metric, const peri_view *queries, const peri_view *rows,
                          const float *lengths, peri_cuda_answer why) {
    peri_dtype wanted = rows->dtype == PERI_F16 ? PERI_F32 : rows->dtype;
    if (!peri_cuda_rows_taken(rows, why) || !peri_cuda_aligned(queries, why)) return false;
    if (rows->rows > PERI_SLOTS_MAX)
        return peri_cuda_refuse(why, "not on cuda: %zu rows given, at most %u are taken",
                                rows->rows, PERI_SLOTS_MAX);
    if (queries->rows > PERI_SLOTS_MAX)
        return peri_cuda_refuse(why, "not on cuda: %zu queries given, at most %u are taken",
                                queries->rows, PERI_SLOTS_MAX);
    if ((unsigned)metric >= PERI_METRIC_COUNT)
        return peri_cuda_refuse(why, "metric %d is not known", metric);
    if (metric == PERI_HAMMING && rows->dtype != PERI_U8)
        return peri_cuda_refuse(why, "hamming compares the bits of u8 rows, not of %s",
                                peri_cuda_name(rows->dtype));
    if (metric == PERI_COSINE && lengths == nullptr && rows->rows > 0)
        return peri_cuda_refuse(why, "cosine needs the lengths of the rows");
    if (queries->cols != rows->cols)
        return peri_cuda_refuse(why, "queries have %zu columns, rows %zu", queries->cols,
                                rows->cols);
    if (queries->dtype != wanted)
        return peri_cuda_refuse(why, "queries of %s on rows of %s, %s is taken",
                                peri_cuda_name(queries->dtype), peri_cuda_name(rows->dtype),
                                peri_cuda_name(wanted));
    return true;
}

bool peri_cuda_search_taken(peri_metric metric, const peri_view *queries, const peri_view *rows,
                            const float *lengths, peri_cuda_answer why) {
    if (metric == PERI_L1 || metric == PERI_HAMMING)
        return peri_cuda_refuse(why, "not on cuda: metric %s",
                                metric == PERI_L1 ? "l1" : "hamming");
    return peri_cuda_scan_taken(metric, queries, rows, lengths, why);
}
