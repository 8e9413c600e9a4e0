/* dlpack_abi.h: the structures of DLPack, as its specification lays them out (DLPack: Open In
 * Memory Tensor Structure, version 1.1, https://dmlc.github.io/dlpack/latest/c_api.html). Only what
 * a matrix can be is named; the tags of the two managed tensors are those of the specification, so
 * that a program may include its own header beside perigee.h. */
#ifndef PERI_CORE_DLPACK_ABI_H
#define PERI_CORE_DLPACK_ABI_H

#include <stdint.h>

#define PERI_DL_MAJOR 1u
#define PERI_DL_MINOR 1u

/* Device types. */
enum {
    PERI_DL_CPU = 1,
    PERI_DL_CUDA = 2,
    PERI_DL_CUDA_HOST = 3, /* page-locked */
    PERI_DL_EXT = 12,      /* an extension: here the fake devices of tests */
    PERI_DL_CUDA_MANAGED = 13,
};

/* Type codes. */
enum { PERI_DL_INT = 0, PERI_DL_UINT = 1, PERI_DL_FLOAT = 2, PERI_DL_BFLOAT = 4 };

/* Flags of a versioned tensor. */
#define PERI_DL_READ_ONLY UINT64_C(1)

typedef struct peri_dl_version {
    uint32_t major, minor;
} peri_dl_version;

typedef struct peri_dl_device {
    int32_t type, id;
} peri_dl_device;

typedef struct peri_dl_dtype {
    uint8_t code, bits;
    uint16_t lanes;
} peri_dl_dtype;

typedef struct peri_dl_tensor {
    void *data;
    peri_dl_device device;
    int32_t ndim;
    peri_dl_dtype dtype;
    int64_t *shape;
    int64_t *strides; /* in elements; NULL: packed, the last axis fastest */
    uint64_t byte_offset;
} peri_dl_tensor;

struct DLManagedTensor {
    peri_dl_tensor dl_tensor;
    void *manager_ctx;
    void (*deleter)(struct DLManagedTensor *self); /* NULL: nothing to give back */
};

struct DLManagedTensorVersioned {
    peri_dl_version version;
    void *manager_ctx;
    void (*deleter)(struct DLManagedTensorVersioned *self);
    uint64_t flags;
    peri_dl_tensor dl_tensor;
};

#endif
