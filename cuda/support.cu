/* support.cu: what the kernels take, and the reason in words when they don't. */
#include <stdarg.h>
#include <stdio.h>

#include "device.cuh"
#include "ops.h"

namespace {

struct answer {
    char *text;
    size_t size;
};

__attribute__((format(printf, 2, 3))) bool refuse(answer why, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    if (why.size > 0) vsnprintf(why.text, why.size, format, arguments);
    va_end(arguments);
    return false;
}

const char *name_of(peri_dtype dtype) {
    switch (dtype) {
#define DTYPE_WORD(name, word, bytes)                                                              \
    case PERI_##name: return word;
        PERI_DTYPE_MAP(DTYPE_WORD)
#undef DTYPE_WORD
    case PERI_DTYPE_COUNT: break;
    }
    return "an unknown dtype";
}

const char *name_of(peri_op_kind kind) {
    switch (kind) {
#define OP_NAME(NAME, name)                                                                        \
    case PERI_OP_##NAME: return #name;
        PERI_OP_MAP(OP_NAME)
#undef OP_NAME
    case PERI_OP_COUNT: break;
    }
    return "an unknown operation";
}

bool is_vector(peri_dtype dtype) {
    return dtype == PERI_F32 || dtype == PERI_F16 || dtype == PERI_I8 || dtype == PERI_U8;
}

/* A load of an element must be aligned to it. */
bool aligned(const peri_view *view, answer why) {
    size_t bytes = peri_cuda_dtype_bytes(view->dtype);
    if (view->rows == 0 || ((size_t)view->data | view->stride_bytes) % bytes == 0) return true;
    return refuse(why, "not on cuda: rows at %p every %zu bytes are not aligned to %s", view->data,
                  view->stride_bytes, name_of(view->dtype));
}

bool rows_taken(const peri_view *rows, answer why) {
    if (!is_vector(rows->dtype))
        return refuse(why, "rows of %s are not searched, only f32 f16 i8 u8", name_of(rows->dtype));
    if (rows->cols == 0 || rows->cols > PERI_DIM_MAX)
        return refuse(why, "%zu columns given, 1..%u are taken", rows->cols, PERI_DIM_MAX);
    return aligned(rows, why);
}

bool search_taken(peri_metric metric, const peri_view *queries, const peri_view *rows,
                  const float *lengths, size_t k, answer why) {
    peri_dtype wanted = rows->dtype == PERI_F16 ? PERI_F32 : rows->dtype;
    if (!rows_taken(rows, why) || !aligned(queries, why)) return false;
    if (rows->rows > PERI_SLOTS_MAX)
        return refuse(why, "not on cuda: %zu rows given, at most %u are taken", rows->rows,
                      PERI_SLOTS_MAX);
    if ((unsigned)metric >= PERI_METRIC_COUNT) return refuse(why, "metric %d is not known", metric);
    if (metric == PERI_L1 || metric == PERI_HAMMING)
        return refuse(why, "not on cuda: metric %s", metric == PERI_L1 ? "l1" : "hamming");
    if (metric == PERI_COSINE && lengths == nullptr && rows->rows > 0)
        return refuse(why, "cosine needs the lengths of the rows");
    if (queries->cols != rows->cols)
        return refuse(why, "queries have %zu columns, rows %zu", queries->cols, rows->cols);
    if (queries->dtype != wanted)
        return refuse(why, "queries of %s on rows of %s, %s is taken", name_of(queries->dtype),
                      name_of(rows->dtype), name_of(wanted));
    if (k > PERI_CUDA_K_MAX)
        return refuse(why, "not on cuda: k: %zu given, at most %u is taken", k, PERI_CUDA_K_MAX);
    return true;
}

bool convert_taken(const peri_op_convert *op, answer why) {
    if (op->in.rows != op->out.rows || op->in.cols != op->out.cols)
        return refuse(why, "shapes differ: %zu x %zu to %zu x %zu", op->in.rows, op->in.cols,
                      op->out.rows, op->out.cols);
    if (op->in.dtype == op->out.dtype) return true;
    if (!is_vector(op->in.dtype) || !is_vector(op->out.dtype))
        return refuse(why, "%s is not converted to %s", name_of(op->in.dtype),
                      name_of(op->out.dtype));
    return aligned(&op->in, why) && aligned(&op->out, why);
}

bool gather_taken(const peri_op_gather *op, answer why) {
    if (op->rows.cols != op->out.cols || op->rows.dtype != op->out.dtype)
        return refuse(why, "%zu columns of %s are not gathered into %zu of %s", op->rows.cols,
                      name_of(op->rows.dtype), op->out.cols, name_of(op->out.dtype));
    return true;
}

bool knn_taken(const peri_op_knn *op, answer why) {
    if (op->k == 0) return refuse(why, "k: 0 given, 1..%u are taken", PERI_CUDA_K_MAX);
    if (op->filter.count > 0 && op->filter.bits == nullptr)
        return refuse(why, "not on cuda: a filter without its bits");
    return search_taken(op->metric, &op->queries, &op->rows, op->lengths, op->k, why);
}

bool refine_taken(const peri_op_refine *op, answer why) {
    return search_taken(op->metric, &op->queries, &op->rows, op->lengths, op->k, why);
}

} /* namespace */

bool peri_cuda_supports(const peri_device *device, const peri_op *op, char *reason, size_t size) {
    (void)device;
    answer why = { reason, size };
    switch (op->kind) {
    case PERI_OP_CONVERT: return convert_taken((const peri_op_convert *)op, why);
    case PERI_OP_LENGTHS: return rows_taken(&((const peri_op_lengths *)op)->rows, why);
    case PERI_OP_GATHER: return gather_taken((const peri_op_gather *)op, why);
    case PERI_OP_KNN: return knn_taken((const peri_op_knn *)op, why);
    case PERI_OP_REFINE: return refine_taken((const peri_op_refine *)op, why);
    default: break;
    }
    return refuse(why, "not on cuda: %s", name_of(op->kind));
}
