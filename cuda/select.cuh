/* select.cuh: the k least keys of a stream, by one block, in shared memory.
 *
 * A key is a distance and a slot in 64 bits, so that one comparison gives the order of the seam:
 * nearer first, ties to the lower slot. The buffer holds `capacity` best keys, then room for as
 * many new ones; a new key enters only if it is below the k-th best so far. When the room may run
 * out, one bitonic sort of the whole buffer keeps the best. After the first rounds few keys pass
 * and sorting is rare. Source of the network: Batcher, Sorting networks and their applications,
 * 1968. */
#ifndef PERI_CUDA_SELECT_CUH
#define PERI_CUDA_SELECT_CUH

#include "distance.cuh"

constexpr uint64_t PERI_KEY_NONE = ~UINT64_C(0);

/* Floats in the order of their values as unsigned integers. The two zeros are equal to the seam,
 * and so here; a value inside is never NaN. */
__device__ inline uint64_t peri_key(float value, uint32_t slot) {
    uint32_t bits = value == 0.0f ? 0u : __float_as_uint(value);
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (uint64_t)bits << 32 | slot;
}
__device__ inline uint32_t peri_key_slot(uint64_t key) { return (uint32_t)key; }
__device__ inline float peri_key_value(uint64_t key) {
    uint32_t bits = (uint32_t)(key >> 32);
    return __uint_as_float(bits & 0x80000000u ? bits ^ 0x80000000u : ~bits);
}

/* One query's selection; the struct is in shared memory, as is what `keys` names. */
struct peri_select {
    uint64_t *keys;    /* [2 * capacity] */
    uint64_t bound;    /* the k-th best so far */
    unsigned count;    /* new keys since the last sort */
    unsigned capacity; /* a power of two, >= k */
    unsigned k;
};

/* By all threads of the block; the caller synchronises before the first push. */
__device__ inline void peri_select_begin(peri_select *s, uint64_t *keys, unsigned capacity,
                                         unsigned k) {
    if (threadIdx.x == 0) {
        s->keys = keys;
        s->bound = PERI_KEY_NONE;
        s->count = 0;
        s->capacity = capacity;
        s->k = k;
    }
    for (unsigned i = threadIdx.x; i < 2 * capacity; i += blockDim.x) keys[i] = PERI_KEY_NONE;
}

/* By any one thread. Between two flushes at most `capacity` keys are pushed. */
__device__ inline void peri_select_push(peri_select *s, uint64_t key) {
    if (key < s->bound) s->keys[s->capacity + atomicAdd(&s->count, 1u)] = key;
}

/* Sorts `count` keys, a power of two; all threads, after a barrier; ends with one. Strides up to 32
 * stay within the 64 keys of a warp's lanes, so only the others need the block. */
__device__ inline void peri_bitonic_sort(uint64_t *keys, unsigned count) {
    for (unsigned size = 2; size <= count; size *= 2) {
        for (unsigned stride = size / 2; stride > 0; stride /= 2) {
            for (unsigned i = threadIdx.x; i < count / 2; i += blockDim.x) {
                unsigned low = 2 * i - (i & (stride - 1)), high = low + stride;
                uint64_t a = keys[low], b = keys[high];
                if ((a > b) == ((low & size) == 0)) {
                    keys[low] = b;
                    keys[high] = a;
                }
            }
            const bool wide = stride > PERI_WARP || (stride == 1 && size > PERI_WARP);
            if (wide || size == count)
                __syncthreads();
            else
                __syncwarp();
        }
    }
}

/* By all threads, after a __syncthreads(); ends with one. With `unique`, equal keys count once. */
__device__ inline void peri_select_flush(peri_select *s, bool unique) {
    unsigned total = 2 * s->capacity;
    peri_bitonic_sort(s->keys, total);
    if (unique) {
        /* Each thread looks at its own keys before any is changed; 2048 keys are 8 rounds of
         * 256. */
        unsigned again = 0;
        for (unsigned i = threadIdx.x, round = 0; i < total; i += blockDim.x, round++)
            if (i > 0 && s->keys[i] == s->keys[i - 1]) again |= 1u << round;
        __syncthreads();
        for (unsigned i = threadIdx.x, round = 0; i < total; i += blockDim.x, round++)
            if (again >> round & 1u) s->keys[i] = PERI_KEY_NONE;
        __syncthreads();
        peri_bitonic_sort(s->keys, total);
    }
    for (unsigned i = s->capacity + threadIdx.x; i < total; i += blockDim.x)
        s->keys[i] = PERI_KEY_NONE;
    if (threadIdx.x == 0) {
        s->count = 0;
        s->bound = s->keys[s->k - 1];
    }
    __syncthreads();
}

/* 1 when `round` more pushes may not fit. */
__device__ inline unsigned peri_select_full(const peri_select *s, unsigned round) {
    return s->count + round > s->capacity;
}

/* After each round of at most `round` pushes; all threads, the same arguments. */
__device__ inline void peri_select_round(peri_select *s, unsigned round, bool unique) {
    __syncthreads();
    unsigned full = peri_select_full(s, round);
    __syncthreads(); /* nobody pushes while another still reads the count */
    if (full != 0) peri_select_flush(s, unique);
}

/* The least power of two >= k, and >= least. */
static inline unsigned peri_select_capacity(size_t k, unsigned least) {
    unsigned capacity = least;
    while (capacity < k) capacity *= 2;
    return capacity;
}

/* Writes `count` sorted keys as ids and distances, padded to k; all threads, after a barrier. A
 * zero distance is computed again, since a key does not tell -0 from +0. */
template <typename T, int SUM>
__device__ inline void peri_keys_write(const uint64_t *keys, unsigned count, unsigned k,
                                       const void *query, const void *rows, size_t row_stride,
                                       const float *lengths, uint32_t dim, peri_metric metric,
                                       int64_t *ids, float *distances) {
    using Q = typename peri_row_types<T>::query;
    const Q *q = static_cast<const Q *>(query);
    for (unsigned i = threadIdx.x / PERI_WARP; i < k; i += blockDim.x / PERI_WARP) {
        uint64_t key = i < count ? keys[i] : PERI_KEY_NONE;
        bool none = key == PERI_KEY_NONE;
        float value = none ? __int_as_float(0x7F800000) : peri_key_value(key);
        if (!none && value == 0.0f) {
            uint32_t slot = peri_key_slot(key);
            bool cosine = metric == PERI_COSINE;
            float sum = peri_warp_sum<SUM>(q, peri_row<T>(rows, row_stride, slot), dim);
            float length = cosine ? peri_warp_length(q, dim) : 0.0f;
            value = peri_inside(metric, sum, length, cosine ? lengths[slot] : 0.0f);
        }
        if (threadIdx.x % PERI_WARP == 0) {
            ids[i] = none ? PERI_ID_NONE : (int64_t)peri_key_slot(key);
            distances[i] = value;
        }
    }
}

/* The same of a selection, after the last flush. */
template <typename T, int SUM>
__device__ inline void peri_select_write(const peri_select *s, const void *query, const void *rows,
                                         size_t row_stride, const float *lengths, uint32_t dim,
                                         peri_metric metric, int64_t *ids, float *distances) {
    peri_keys_write<T, SUM>(s->keys, s->k, s->k, query, rows, row_stride, lengths, dim, metric, ids,
                            distances);
}

#endif
