/* dlpack_test: tensors of others become matrices and matrices tensors, without a copy: what is
 * taken, what is refused and why, and who gives what back when. */
#include "core/dlpack_abi.h"
#include "core/lane.h"
#include "perigee_dlpack.h"
#include "place.h"

static peri_context *context;
static size_t deleted, deleted_versioned;

static void count_plain(struct DLManagedTensor *tensor) {
    (void)tensor;
    deleted++;
}

static void count_versioned(struct DLManagedTensorVersioned *tensor) {
    (void)tensor;
    deleted_versioned++;
}

/* 6 x 4 f32 in rows of 5, the first 2 elements left out. */
typedef struct sample {
    float data[40];
    int64_t shape[3], strides[3];
    struct DLManagedTensor tensor;
} sample;

static sample *sample_make(sample *s) {
    for (size_t i = 0; i < 40; i++) s->data[i] = (float)i;
    s->shape[0] = 6, s->shape[1] = 4, s->shape[2] = 1;
    s->strides[0] = 5, s->strides[1] = 1, s->strides[2] = 1;
    s->tensor = (struct DLManagedTensor){
        { s->data, { PERI_DL_CPU, 0 }, 2, { PERI_DL_FLOAT, 32, 1 }, s->shape, s->strides, 8 },
        s,
        count_plain
    };
    return s;
}

/* ---- in ----------------------------------------------------------------------------------- */

static void check_taken(void) {
    sample s;
    peri_matrix *m = NULL, *slice = NULL;
    sample_make(&s);
    deleted = 0;
    place_must(peri_matrix_from_dlpack(context, &s.tensor, &m), "from_dlpack");
    peri_view view = peri_matrix_view(m);
    CHECK(view.data == s.data + 2 && view.rows == 6 && view.cols == 4 && view.stride_bytes == 20 &&
              view.dtype == PERI_F32 && view.place.kind == PERI_PLACE_CPU,
          "%zu x %zu every %zu bytes", view.rows, view.cols, view.stride_bytes);
    place_must(peri_matrix_slice(m, 2, 4, &slice), "slice");
    peri_matrix_release(m);
    CHECK(deleted == 0, "deleted while a slice is there");
    float row[4];
    place_must(peri_matrix_read(slice, 1, 1, row), "read");
    CHECK(row[0] == 17 && row[3] == 20, "%g .. %g", (double)row[0], (double)row[3]);
    peri_matrix_release(slice);
    CHECK(deleted == 1, "deleted %zu times", deleted);
}

static void check_shapes(void) {
    static const struct {
        peri_dl_dtype dl;
        peri_dtype dtype;
    } types[] = { { { PERI_DL_FLOAT, 16, 1 }, PERI_F16 }, { { PERI_DL_INT, 8, 1 }, PERI_I8 },
                  { { PERI_DL_UINT, 8, 1 }, PERI_U8 },    { { PERI_DL_INT, 32, 1 }, PERI_I32 },
                  { { PERI_DL_UINT, 32, 1 }, PERI_U32 },  { { PERI_DL_INT, 64, 1 }, PERI_I64 } };
    sample s;
    peri_matrix *m = NULL;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        sample_make(&s)->tensor.dl_tensor.dtype = types[i].dl;
        s.tensor.dl_tensor.strides = NULL;
        s.shape[0] = 3;
        place_must(peri_matrix_from_dlpack(context, &s.tensor, &m), "a type");
        peri_view view = peri_matrix_view(m);
        CHECK(view.dtype == types[i].dtype && view.rows == 3 && view.cols == 4 &&
                  view.stride_bytes == 4 * peri_dtype_bytes(view.dtype),
              "type %zu", i);
        peri_matrix_release(m);
    }
    sample_make(&s)->tensor.dl_tensor.ndim = 1;
    place_must(peri_matrix_from_dlpack(context, &s.tensor, &m), "one axis");
    peri_view view = peri_matrix_view(m);
    CHECK(view.rows == 6 && view.cols == 1 && view.stride_bytes == 20, "one axis: %zu x %zu",
          view.rows, view.cols);
    peri_matrix_release(m);
    sample_make(&s)->shape[0] = 1;
    s.strides[0] = -7; /* of an axis of one: of no meaning */
    s.tensor.deleter = NULL;
    place_must(peri_matrix_from_dlpack(context, &s.tensor, &m), "one row");
    peri_matrix_release(m);
    sample_make(&s)->shape[0] = 0;
    s.tensor.dl_tensor.data = NULL;
    place_must(peri_matrix_from_dlpack(context, &s.tensor, &m), "no rows");
    peri_matrix_release(m);
}

/* Refused with words, and left to the caller. */
static void refused(sample *s, peri_status wanted, const char *words) {
    peri_matrix *m = (peri_matrix *)s;
    deleted = 0;
    peri_status status = peri_matrix_from_dlpack(context, &s->tensor, &m);
    CHECK(status == wanted && m == NULL && strstr(peri_error_detail(), words) != NULL,
          "%s wanted: %s: %s", words, peri_status_code(status), peri_error_detail());
    CHECK(deleted == 0, "%s: the tensor was deleted", words);
}

static void check_refused(void) {
    sample s;
    peri_matrix *m;
    CHECK(peri_matrix_from_dlpack(context, NULL, &m) == PERI_E_ARGUMENT, "no tensor");
    sample_make(&s)->tensor.dl_tensor.ndim = 3;
    refused(&s, PERI_E_ARGUMENT, "3 axes");
    sample_make(&s)->tensor.dl_tensor.dtype.lanes = 4;
    refused(&s, PERI_E_ARGUMENT, "4 lanes");
    sample_make(&s)->tensor.dl_tensor.dtype.bits = 64;
    refused(&s, PERI_E_ARGUMENT, "float64");
    sample_make(&s)->tensor.dl_tensor.dtype = (peri_dl_dtype){ PERI_DL_BFLOAT, 16, 1 };
    refused(&s, PERI_E_ARGUMENT, "bfloat16");
    sample_make(&s)->strides[1] = 2;
    refused(&s, PERI_E_ARGUMENT, "strides 5, 2");
    sample_make(&s)->strides[0] = 3;
    refused(&s, PERI_E_ARGUMENT, "strides 3, 1");
    sample_make(&s)->strides[0] = -5;
    refused(&s, PERI_E_ARGUMENT, "strides -5, 1");
    sample_make(&s)->shape[1] = 0;
    refused(&s, PERI_E_ARGUMENT, "6 x 0");
    sample_make(&s)->shape[0] = -1;
    refused(&s, PERI_E_ARGUMENT, "-1 x 4");
    sample_make(&s)->strides[0] = INT64_MAX;
    refused(&s, PERI_E_ARGUMENT, "address space");
    sample_make(&s)->tensor.dl_tensor.byte_offset = 6;
    refused(&s, PERI_E_ARGUMENT, "not aligned");
    sample_make(&s)->tensor.dl_tensor.byte_offset = UINT64_MAX - 7;
    refused(&s, PERI_E_ARGUMENT, "byte_offset 18446744073709551608");
    sample_make(&s)->tensor.dl_tensor.shape = NULL;
    refused(&s, PERI_E_ARGUMENT, "no shape given for 2 axes");
    sample_make(&s)->tensor.dl_tensor.ndim = 0;
    refused(&s, PERI_E_ARGUMENT, "0 axes");
    sample_make(&s)->shape[0] = INT64_MAX;
    refused(&s, PERI_E_ARGUMENT, "address space");
    sample_make(&s)->shape[0] = INT64_MAX / 10;
    refused(&s, PERI_E_ARGUMENT, "wrap around");
    sample_make(&s)->tensor.dl_tensor.data = NULL;
    refused(&s, PERI_E_ARGUMENT, "no data");
    sample_make(&s)->tensor.dl_tensor.device.type = 4;
    refused(&s, PERI_E_ARGUMENT, "device of type 4");
    sample_make(&s)->tensor.dl_tensor.device = (peri_dl_device){ PERI_DL_EXT, -1 };
    refused(&s, PERI_E_ARGUMENT, "device number -1");
    sample_make(&s)->tensor.dl_tensor.device = (peri_dl_device){ PERI_DL_EXT, 9 };
    refused(&s, PERI_E_DEVICE, "fake:9");
    sample_make(&s)->tensor.dl_tensor.device = (peri_dl_device){ PERI_DL_EXT, 0 };
    refused(&s, PERI_E_ARGUMENT, "not memory of this device");
}

/* A tensor is given once: while a matrix holds it nobody else gets it, afterwards it may come
 * again. */
static void check_twice(void) {
    sample s, other;
    peri_matrix *m = NULL, *second = NULL;
    sample_make(&s);
    sample_make(&other);
    for (int round = 0; round < 3; round++) {
        place_must(peri_matrix_from_dlpack(context, &other.tensor, &second), "another tensor");
        place_must(peri_matrix_from_dlpack(context, &s.tensor, &m), "a tensor");
        refused(&s, PERI_E_ARGUMENT, "which a matrix holds already");
        refused(&other, PERI_E_ARGUMENT, "which a matrix holds already");
        peri_matrix_release(round == 1 ? m : second);
        CHECK(deleted == 1, "deleted %zu times", deleted);
        peri_matrix_release(round == 1 ? second : m);
        CHECK(deleted == 2, "deleted %zu times", deleted);
    }
}

static void check_places(void) {
    static const struct {
        peri_dl_device device;
        peri_place place;
    } known[] = { { { PERI_DL_CPU, 0 }, { PERI_PLACE_CPU, 0 } },
                  { { PERI_DL_CUDA_HOST, 0 }, { PERI_PLACE_CPU, 0 } },
                  { { PERI_DL_CUDA, 3 }, { PERI_PLACE_CUDA, 3 } },
                  { { PERI_DL_CUDA_MANAGED, 1 }, { PERI_PLACE_CUDA, 1 } } };
    struct DLManagedTensorVersioned versioned = { .version = { 1, 0 } };
    peri_place found;
    sample s;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        sample_make(&s)->tensor.dl_tensor.device = known[i].device;
        place_must(peri_dlpack_place(&s.tensor, &found), "place");
        CHECK(peri_place_equal(found, known[i].place), "place %zu is %u:%u", i, found.kind,
              found.number);
    }
    s.tensor.dl_tensor.device.type = 4;
    CHECK(peri_dlpack_place(&s.tensor, &found) == PERI_E_ARGUMENT, "a device of no kind");
    CHECK(peri_dlpack_place(NULL, &found) == PERI_E_ARGUMENT, "no tensor");
    CHECK(peri_dlpack_place_versioned(NULL, &found) == PERI_E_ARGUMENT, "no tensor");
    versioned.dl_tensor.device = (peri_dl_device){ PERI_DL_CUDA, 2 };
    place_must(peri_dlpack_place_versioned(&versioned, &found), "place");
    CHECK(found.kind == PERI_PLACE_CUDA && found.number == 2, "%u:%u", found.kind, found.number);
    versioned.version.major = 3;
    CHECK(peri_dlpack_place_versioned(&versioned, &found) == PERI_E_ARGUMENT, "another version");
}

/* What claims to be of a device and is not, or is less than it claims. */
static void check_claims(peri_place at, int32_t type) {
    sample s;
    peri_matrix *real = NULL;
    struct DLManagedTensor *tensor = NULL;
    sample_make(&s)->tensor.dl_tensor.device = (peri_dl_device){ type, at.number };
    refused(&s, PERI_E_ARGUMENT, "the memory at");
    place_must(peri_matrix_create(context, 6, 4, PERI_F32, at, &real), "matrix there");
    place_must(peri_matrix_to_dlpack(real, &tensor), "to_dlpack");
    sample_make(&s)->tensor.dl_tensor.device = (peri_dl_device){ type, at.number };
    s.tensor.dl_tensor.data = tensor->dl_tensor.data;
    s.shape[0] = INT64_C(1) << 40;
    refused(&s, PERI_E_ARGUMENT, "the last byte");
    s.tensor.dl_tensor.device.id = 77;
    refused(&s, PERI_E_DEVICE, "77");
    tensor->deleter(tensor);
    peri_matrix_release(real);
}

static void check_versioned(void) {
    sample s;
    peri_matrix *m = NULL;
    struct DLManagedTensorVersioned *out = NULL;
    float row[4] = { 0 };
    sample_make(&s);
    struct DLManagedTensorVersioned tensor = {
        { 1, 7 }, NULL, count_versioned, PERI_DL_READ_ONLY, s.tensor.dl_tensor
    };
    deleted_versioned = 0;
    place_must(peri_matrix_from_dlpack_versioned(context, &tensor, &m), "versioned");
    peri_status status = peri_matrix_write(m, 0, 1, row);
    CHECK(status == PERI_E_ARGUMENT && s.data[2] == 2, "read-only memory was written: %s",
          peri_status_code(status));
    place_must(peri_matrix_to_dlpack_versioned(m, &out), "out again");
    CHECK(out->flags == PERI_DL_READ_ONLY && out->version.major == 1, "the flag is lost");
    peri_matrix_release(m);
    CHECK(deleted_versioned == 0, "deleted while a tensor is out");
    out->deleter(out);
    CHECK(deleted_versioned == 1, "deleted %zu times", deleted_versioned);
    tensor.version.major = 2;
    status = peri_matrix_from_dlpack_versioned(context, &tensor, &m);
    CHECK(status == PERI_E_ARGUMENT && strstr(peri_error_detail(), "2.7") != NULL,
          "another version: %s", peri_error_detail());
}

/* ---- out ---------------------------------------------------------------------------------- */

/* To a tensor and back, after the matrix went, on the host and on a device. */
static void check_round_trip(peri_place at) {
    enum { ROWS = 9, COLS = 3 };
    peri_matrix *host = NULL, *m = NULL, *back = NULL, *again = NULL;
    struct DLManagedTensor *tensor = NULL;
    float found[ROWS * COLS];
    size_t wrong = 0;
    place_must(peri_matrix_create(context, ROWS + 1, COLS, PERI_F32, PERI_CPU, &host), "matrix");
    float *values = peri_matrix_view(host).data;
    for (size_t i = 0; i < (ROWS + 1) * COLS; i++) values[i] = (float)i;
    place_must(peri_matrix_move(host, at, &m), "move");
    peri_matrix_release(host);
    place_must(peri_matrix_slice(m, 1, ROWS + 1, &back), "slice");
    peri_matrix_release(m);
    place_must(peri_matrix_to_dlpack(back, &tensor), "to_dlpack");
    CHECK(tensor->dl_tensor.ndim == 2 && tensor->dl_tensor.shape[0] == ROWS &&
              tensor->dl_tensor.shape[1] == COLS && tensor->dl_tensor.strides[0] == COLS &&
              tensor->dl_tensor.strides[1] == 1 && tensor->dl_tensor.byte_offset == 0,
          "shape of the tensor");
    peri_matrix_release(back);
    place_must(peri_matrix_from_dlpack(context, tensor, &again), "from_dlpack");
    CHECK(peri_matrix_view(again).place.kind == at.kind, "another place");
    place_must(peri_matrix_read(again, 0, ROWS, found), "read");
    for (size_t i = 0; i < ROWS * COLS; i++) wrong += found[i] != (float)(i + COLS);
    CHECK(wrong == 0, "%zu values are wrong", wrong);
    peri_matrix_release(again);
}

int main(void) {
    context = place_context();
    peri_context_stats before, after;
    check_round_trip((peri_place){ PERI_PLACE_FAKE, 1 });
    place_must(peri_device_trim(context, (peri_place){ PERI_PLACE_FAKE, 1 }), "trim");
    peri_context_stat(context, &before);
    check_taken();
    check_shapes();
    check_refused();
    check_twice();
    check_places();
    check_versioned();
    check_round_trip(PERI_CPU);
    check_round_trip((peri_place){ PERI_PLACE_FAKE, 1 });
    uint32_t gpus = 0;
    place_must(peri_device_count(context, PERI_PLACE_CUDA, &gpus), "count");
    if (gpus > 0) {
        check_round_trip((peri_place){ PERI_PLACE_CUDA, 0 });
        check_claims((peri_place){ PERI_PLACE_CUDA, 0 }, PERI_DL_CUDA);
        check_claims((peri_place){ PERI_PLACE_CUDA, 0 }, PERI_DL_CUDA_MANAGED);
    } else {
        check_skip("cuda", peri_error_detail());
    }
    place_must(peri_device_trim(context, (peri_place){ PERI_PLACE_FAKE, 1 }), "trim");
    peri_context_stat(context, &after);
    CHECK(after.blocks <= before.blocks + (gpus > 0 ? 20 : 2), "%zu blocks stay",
          after.blocks - before.blocks);
    peri_context_release(context);
    return check_done();
}
