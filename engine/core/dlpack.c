/* dlpack.c: tensors of others as matrices, and matrices as tensors for others; nothing is copied.
 *
 * A tensor is trusted to be what it says (it is a pointer of the caller's process), but what it
 * says is checked: axes, sizes, strides, type, device, and that the address is memory of that
 * device. In: the matrix keeps the tensor and calls its deleter when it goes. Out: the tensor
 * keeps the matrix, and its deleter lets go of it. */
#include "core/dlpack_abi.h"

#include "perigee_dlpack.h"

#include "core/checked.h"
#include "core/lane.h"
#include "core/matrix.h"
#include "core/memory.h"

/* ---- in ----------------------------------------------------------------------------------- */

static const struct {
    peri_dl_dtype dl;
    peri_dtype dtype;
} dtypes[] = {
    { { PERI_DL_FLOAT, 32, 1 }, PERI_F32 }, { { PERI_DL_FLOAT, 16, 1 }, PERI_F16 },
    { { PERI_DL_INT, 8, 1 }, PERI_I8 },     { { PERI_DL_UINT, 8, 1 }, PERI_U8 },
    { { PERI_DL_INT, 32, 1 }, PERI_I32 },   { { PERI_DL_UINT, 32, 1 }, PERI_U32 },
    { { PERI_DL_INT, 64, 1 }, PERI_I64 },
};

#define DTYPES (sizeof dtypes / sizeof *dtypes)

static const char *code_word(uint8_t code) {
    switch (code) {
    case PERI_DL_INT: return "int";
    case PERI_DL_UINT: return "uint";
    case PERI_DL_FLOAT: return "float";
    case PERI_DL_BFLOAT: return "bfloat";
    default: return "type";
    }
}

static peri_status read_dtype(peri_dl_dtype dl, peri_dtype *out) {
    for (size_t i = 0; i < DTYPES; i++)
        if (dtypes[i].dl.code == dl.code && dtypes[i].dl.bits == dl.bits && dl.lanes == 1) {
            *out = dtypes[i].dtype;
            return PERI_OK;
        }
    return peri_fail(PERI_E_ARGUMENT,
                     "tensor: %s%u of %u lanes given, allowed: float32 float16 int8 uint8 int32 "
                     "uint32 int64 of 1 lane",
                     code_word(dl.code), dl.bits, dl.lanes);
}

static peri_status read_place(peri_dl_device device, peri_place *place, bool *pinned) {
    *pinned = device.type == PERI_DL_CUDA_HOST;
    *place = PERI_CPU;
    if (device.type == PERI_DL_CPU || *pinned) return PERI_OK;
    bool cuda = device.type == PERI_DL_CUDA || device.type == PERI_DL_CUDA_MANAGED;
    if (!cuda && device.type != PERI_DL_EXT)
        return peri_fail(
            PERI_E_ARGUMENT,
            "tensor: on a device of type %d, allowed: 1 (cpu), 2 (cuda), 3 (page-locked "
            "host memory), 13 (managed)",
            (int)device.type);
    if (device.id < 0 || device.id > UINT16_MAX)
        return peri_fail(PERI_E_ARGUMENT, "tensor: on device number %d", (int)device.id);
    *place = (peri_place){ cuda ? PERI_PLACE_CUDA : PERI_PLACE_FAKE, (uint16_t)device.id };
    return PERI_OK;
}

/* Rows, columns and the stride of rows; one axis is one column. */
static peri_status read_shape(const peri_dl_tensor *tensor, peri_view *view) {
    int64_t rows = 1, cols = 1, row_step, col_step = 1;
    size_t bytes = peri_dtype_bytes(view->dtype);
    if (tensor->ndim != 1 && tensor->ndim != 2)
        return peri_fail(PERI_E_ARGUMENT, "tensor: %d axes given, allowed: 1 or 2",
                         (int)tensor->ndim);
    if (tensor->shape == NULL)
        return peri_fail(PERI_E_ARGUMENT, "tensor: no shape given for %d axes", (int)tensor->ndim);
    rows = tensor->shape[0];
    if (tensor->ndim == 2) cols = tensor->shape[1];
    if (rows < 0 || cols < 1 || (uint64_t)rows > SIZE_MAX / 2 || (uint64_t)cols > SIZE_MAX / 2)
        return peri_fail(PERI_E_ARGUMENT, "tensor: %lld x %lld given, allowed: 1 column and more",
                         (long long)rows, (long long)cols);
    row_step = cols;
    if (tensor->strides != NULL) row_step = tensor->strides[0];
    if (tensor->strides != NULL && tensor->ndim == 2) col_step = tensor->strides[1];
    if (rows <= 1) row_step = cols; /* an axis of one has any stride */
    if ((cols > 1 && col_step != 1) || row_step < cols)
        return peri_fail(PERI_E_ARGUMENT,
                         "tensor: strides %lld, %lld of %lld x %lld, allowed: rows that lie behind "
                         "each other, their columns side by side",
                         (long long)row_step, (long long)col_step, (long long)rows,
                         (long long)cols);
    view->rows = (size_t)rows;
    view->cols = (size_t)cols;
    size_t all;
    if (!peri_mul_fits((size_t)row_step, bytes, &view->stride_bytes) ||
        !peri_mul_fits(view->rows, view->stride_bytes, &all))
        return peri_fail(
            PERI_E_ARGUMENT,
            "tensor: %zu rows of %lld elements of %zu bytes given, which are more than "
            "an address space",
            view->rows, (long long)row_step, bytes);
    return PERI_OK;
}

/* Where the first row begins; the last byte lies in the address space too. */
static peri_status read_data(const peri_dl_tensor *tensor, peri_view *view) {
    size_t begin = (size_t)(uintptr_t)tensor->data, end;
    if (tensor->data == NULL) return PERI_OK;
    if (tensor->byte_offset > SIZE_MAX ||
        !peri_add_fits(begin, (size_t)tensor->byte_offset, &begin) ||
        !peri_add_fits(begin, view->rows * view->stride_bytes, &end))
        return peri_fail(PERI_E_ARGUMENT,
                         "tensor: byte_offset %llu and %zu rows every %zu bytes given, which at %p "
                         "wrap around",
                         (unsigned long long)tensor->byte_offset, view->rows, view->stride_bytes,
                         tensor->data);
    view->data = (char *)tensor->data + tensor->byte_offset;
    return PERI_OK;
}

/* The device must know the memory as its own: a wrong address is told here, not by a fault. */
static peri_status check_memory(peri_context *context, const peri_view *view) {
    peri_device *device;
    peri_mem *mem;
    if (view->rows == 0) return PERI_OK;
    if (view->data == NULL) return peri_fail(PERI_E_ARGUMENT, "tensor: no data");
    if ((uintptr_t)view->data % peri_dtype_bytes(view->dtype) != 0)
        return peri_fail(PERI_E_ARGUMENT, "tensor: data at %p is not aligned to %s", view->data,
                         peri_dtype_name(view->dtype));
    PERI_TRY(peri_context_device(context, view->place, &device));
    if (device->shares_host) return PERI_OK;
    size_t bytes = (view->rows - 1) * view->stride_bytes +
                   view->cols * peri_dtype_bytes(view->dtype);
    PERI_TRY(device->driver->mem_wrap(device, view->data, bytes, &mem));
    device->driver->mem_release(mem);
    return PERI_OK;
}

/* All but the keeping. */
static peri_status read_tensor(peri_context *context, const peri_dl_tensor *tensor, peri_view *view,
                               bool *pinned) {
    *view = (peri_view){ .data = NULL };
    PERI_TRY(read_dtype(tensor->dtype, &view->dtype));
    PERI_TRY(read_place(tensor->device, &view->place, pinned));
    PERI_TRY(read_shape(tensor, view));
    PERI_TRY(read_data(tensor, view));
    return check_memory(context, view);
}

/* A tensor that a matrix holds. It is in the context's list meanwhile: its owner gave it once, and
 * a second matrix would give it back twice. */
typedef struct taken {
    peri_context *context;
    void *tensor;
    bool versioned;
    struct taken *following;
} taken;

/* Enters `t` into the list, unless its tensor is there. */
static peri_status list_tensor(taken *t) {
    bool held = false;
    pthread_mutex_lock(&t->context->lock);
    for (const taken *other = t->context->tensors; other != NULL && !held; other = other->following)
        held = other->tensor == t->tensor;
    if (!held) {
        t->following = t->context->tensors;
        t->context->tensors = t;
    }
    pthread_mutex_unlock(&t->context->lock);
    if (!held) return PERI_OK;
    return peri_fail(PERI_E_ARGUMENT,
                     "tensor: %p given, which a matrix holds already: it is taken "
                     "once",
                     t->tensor);
}

static void unlist_tensor(const taken *t) {
    pthread_mutex_lock(&t->context->lock);
    taken **link = (taken **)&t->context->tensors;
    while (*link != t) link = &(*link)->following;
    *link = t->following;
    pthread_mutex_unlock(&t->context->lock);
}

/* The deleter is called last: the tensor's address may be another's from then on. */
static void release_tensor(void *anchor) {
    taken *t = anchor, was = *t;
    unlist_tensor(t);
    peri_memory_release(was.context, t, 1, sizeof *t);
    struct DLManagedTensor *plain = was.versioned ? NULL : was.tensor;
    struct DLManagedTensorVersioned *versioned = was.versioned ? was.tensor : NULL;
    if (plain != NULL && plain->deleter != NULL) plain->deleter(plain);
    if (versioned != NULL && versioned->deleter != NULL) versioned->deleter(versioned);
}

/* A matrix over the view; the tensor stays the caller's when this fails. */
static peri_status keep(peri_context *context, const peri_view *view, bool pinned, bool read_only,
                        bool versioned, void *tensor, peri_matrix **out) {
    taken *t;
    PERI_TRY(peri_memory_acquire_zeroed(context, 1, sizeof *t, &t));
    *t = (taken){ .context = context, .tensor = tensor, .versioned = versioned };
    peri_status status = peri_matrix_anchor(context, *view, NULL, NULL, out);
    if (status == PERI_OK) status = list_tensor(t);
    if (status == PERI_OK) {
        peri_matrix_adopt(*out, release_tensor, t, pinned, read_only);
        return PERI_OK;
    }
    peri_matrix_release(*out);
    *out = NULL;
    peri_memory_release(context, t, 1, sizeof *t);
    return status;
}

static peri_status check_plain(const struct DLManagedTensor *tensor) {
    return tensor != NULL ? PERI_OK : peri_fail(PERI_E_ARGUMENT, "tensor: none given");
}

static peri_status check_versioned(const struct DLManagedTensorVersioned *tensor) {
    if (tensor == NULL) return peri_fail(PERI_E_ARGUMENT, "tensor: none given");
    if (tensor->version.major == PERI_DL_MAJOR) return PERI_OK;
    return peri_fail(PERI_E_ARGUMENT, "tensor: of DLPack %u.%u, allowed: %u.x",
                     tensor->version.major, tensor->version.minor, PERI_DL_MAJOR);
}

peri_status peri_dlpack_place(const struct DLManagedTensor *tensor, peri_place *out) {
    bool pinned;
    *out = PERI_CPU;
    PERI_TRY(check_plain(tensor));
    return read_place(tensor->dl_tensor.device, out, &pinned);
}

peri_status peri_dlpack_place_versioned(const struct DLManagedTensorVersioned *tensor,
                                        peri_place *out) {
    bool pinned;
    *out = PERI_CPU;
    PERI_TRY(check_versioned(tensor));
    return read_place(tensor->dl_tensor.device, out, &pinned);
}

peri_status peri_matrix_from_dlpack(peri_context *context, struct DLManagedTensor *tensor,
                                    peri_matrix **out) {
    peri_view view;
    bool pinned;
    *out = NULL;
    PERI_TRY(check_plain(tensor));
    PERI_TRY(read_tensor(context, &tensor->dl_tensor, &view, &pinned));
    return keep(context, &view, pinned, false, false, tensor, out);
}

peri_status peri_matrix_from_dlpack_versioned(peri_context *context,
                                              struct DLManagedTensorVersioned *tensor,
                                              peri_matrix **out) {
    peri_view view;
    bool pinned;
    *out = NULL;
    PERI_TRY(check_versioned(tensor));
    PERI_TRY(read_tensor(context, &tensor->dl_tensor, &view, &pinned));
    bool read_only = (tensor->flags & PERI_DL_READ_ONLY) != 0;
    return keep(context, &view, pinned, read_only, true, tensor, out);
}

/* ---- out ---------------------------------------------------------------------------------- */

typedef struct lent {
    peri_matrix *matrix;
    int64_t shape[2], strides[2];
    union {
        struct DLManagedTensor plain;
        struct DLManagedTensorVersioned versioned;
    } tensor;
} lent;

static void lent_free(lent *l) {
    peri_matrix *matrix = l->matrix;
    peri_context *context = peri_matrix_context(matrix);
    peri_context_retain(context);
    peri_matrix_release(matrix);
    peri_memory_release(context, l, 1, sizeof *l);
    peri_context_release(context);
}

static void delete_plain(struct DLManagedTensor *tensor) { lent_free(tensor->manager_ctx); }
static void delete_versioned(struct DLManagedTensorVersioned *tensor) {
    lent_free(tensor->manager_ctx);
}

static peri_dl_device device_of(peri_place place) {
    if (place.kind == PERI_PLACE_CUDA) return (peri_dl_device){ PERI_DL_CUDA, place.number };
    if (place.kind == PERI_PLACE_FAKE) return (peri_dl_device){ PERI_DL_EXT, place.number };
    return (peri_dl_device){ PERI_DL_CPU, 0 };
}

static peri_status lend(peri_matrix *matrix, lent **out, peri_dl_tensor *tensor) {
    peri_view view = peri_matrix_view(matrix);
    size_t bytes = peri_dtype_bytes(view.dtype);
    if (view.stride_bytes % bytes != 0)
        return peri_fail(PERI_E_UNSUPPORTED,
                         "rows every %zu bytes can't be told in elements of %zu: copy the matrix",
                         view.stride_bytes, bytes);
    PERI_TRY(peri_memory_acquire_zeroed(peri_matrix_context(matrix), 1, sizeof **out, out));
    lent *l = *out;
    peri_matrix_retain(matrix);
    peri_matrix_share(matrix);
    l->matrix = matrix;
    l->shape[0] = (int64_t)view.rows;
    l->shape[1] = (int64_t)view.cols;
    l->strides[0] = (int64_t)(view.stride_bytes / bytes);
    l->strides[1] = 1;
    *tensor = (peri_dl_tensor){ .data = view.data,
                                .device = device_of(view.place),
                                .ndim = 2,
                                .shape = l->shape,
                                .strides = l->strides };
    for (size_t i = 0; i < DTYPES; i++)
        if (dtypes[i].dtype == view.dtype) tensor->dtype = dtypes[i].dl;
    return PERI_OK;
}

peri_status peri_matrix_to_dlpack(peri_matrix *matrix, struct DLManagedTensor **out) {
    peri_dl_tensor tensor;
    lent *l;
    *out = NULL;
    PERI_TRY(lend(matrix, &l, &tensor));
    l->tensor.plain = (struct DLManagedTensor){ tensor, l, delete_plain };
    *out = &l->tensor.plain;
    return PERI_OK;
}

peri_status peri_matrix_to_dlpack_versioned(peri_matrix *matrix,
                                            struct DLManagedTensorVersioned **out) {
    peri_dl_tensor tensor;
    lent *l;
    *out = NULL;
    PERI_TRY(lend(matrix, &l, &tensor));
    l->tensor.versioned = (struct DLManagedTensorVersioned){ { PERI_DL_MAJOR, PERI_DL_MINOR },
                                                             l,
                                                             delete_versioned,
                                                             peri_matrix_read_only(matrix)
                                                                 ? PERI_DL_READ_ONLY
                                                                 : 0,
                                                             tensor };
    *out = &l->tensor.versioned;
    return PERI_OK;
}
