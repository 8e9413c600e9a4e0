/* lapack.c: dgesdd of whatever LAPACK the machine has.
 *
 * Who may touch what: `lapack` is filled once, under pthread_once, and only read afterwards. The
 * library is never closed: it may have threads. */
#include "quant/lapack.h"

#include <dlfcn.h>
#include <pthread.h>
#include <string.h>

#include "core/checked.h"
#include "core/memory.h"

/* Fortran's calling convention: everything by address, 32-bit integers, a text's length last. */
typedef void (*dgesdd_fn)(const char *jobz, const int *m, const int *n, double *a, const int *lda,
                          double *s, double *u, const int *ldu, double *vt, const int *ldvt,
                          double *work, const int *lwork, int *iwork, int *info,
                          size_t jobz_length);

static struct {
    const char *name;
    dgesdd_fn dgesdd;
} lapack;

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void find(void) {
    static const char *const names[] = { "liblapack.so.3", "libopenblas.so.0", "liblapack.so",
                                         "libopenblas.so" };
    for (size_t i = 0; i < sizeof names / sizeof *names && lapack.dgesdd == NULL; i++) {
        void *library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
        if (library == NULL) continue;
        *(void **)&lapack.dgesdd = dlsym(library, "dgesdd_");
        lapack.name = names[i];
    }
}

peri_status peri_lapack_find(const char **name) {
    pthread_once(&once, find);
    *name = lapack.name;
    if (lapack.dgesdd != NULL) return PERI_OK;
    return peri_fail(PERI_E_UNSUPPORTED,
                     "no LAPACK (liblapack.so.3, package liblapack3 or libopenblas0): "
                     "pq and the others work, opq learns no rotation");
}

peri_status peri_library_find(const char *name, const char **file) {
    *file = NULL;
    if (strcmp(name, "lapack") == 0) return peri_lapack_find(file);
    return peri_fail(PERI_E_ARGUMENT, "library: '%.40s' given, allowed: lapack", name);
}

typedef struct svd {
    double *s, *u, *vt, *work; /* column-major, as Fortran sees them */
    int *iwork;
    size_t small, large, work_count;
} svd;

static peri_status svd_init(svd *d, peri_context *context, size_t rows, size_t cols) {
    d->small = peri_min_size(rows, cols);
    d->large = peri_max_size(rows, cols);
    /* what LAPACK's documentation asks for jobz = 'S', with room to work in blocks */
    d->work_count = 4 * d->small * d->small + 7 * d->small + 64 * (d->small + d->large);
    PERI_TRY(peri_memory_acquire(context, d->small, sizeof(double), &d->s));
    PERI_TRY(peri_memory_acquire(context, cols * d->small, sizeof(double), &d->u));
    PERI_TRY(peri_memory_acquire(context, rows * d->small, sizeof(double), &d->vt));
    PERI_TRY(peri_memory_acquire(context, d->work_count, sizeof(double), &d->work));
    return peri_memory_acquire(context, 8 * d->small, sizeof(int), &d->iwork);
}

static void svd_reset(svd *d, peri_context *context, size_t rows, size_t cols) {
    peri_memory_release(context, d->s, d->small, sizeof(double));
    peri_memory_release(context, d->u, cols * d->small, sizeof(double));
    peri_memory_release(context, d->vt, rows * d->small, sizeof(double));
    peri_memory_release(context, d->work, d->work_count, sizeof(double));
    peri_memory_release(context, d->iwork, 8 * d->small, sizeof(int));
}

/* Row-major a is, to Fortran, its transpose [cols, rows] = V S U^T: `u` gets V and `vt` U^T. */
peri_status peri_lapack_procrustes(peri_context *context, double *a, size_t rows, size_t cols,
                                   double *out, double *sum) {
    const char *name;
    svd d = { .s = NULL };
    peri_status status;
    PERI_TRY(peri_lapack_find(&name));
    PERI_GO(svd_init(&d, context, rows, cols));
    int m = (int)cols, n = (int)rows, k = (int)d.small, lwork = (int)d.work_count, info = 0;
    lapack.dgesdd("S", &m, &n, a, &m, d.s, d.u, &m, d.vt, &k, d.work, &lwork, d.iwork, &info, 1);
    if (info != 0) {
        status = peri_fail(PERI_E_INVALID,
                           "%s: the decomposition of a %zu x %zu matrix failed (%d)", name, rows,
                           cols, info);
        goto done;
    }
    *sum = 0;
    for (size_t s = 0; s < d.small; s++) *sum += d.s[s];
    memset(out, 0, rows * cols * sizeof *out);
    for (size_t i = 0; i < rows; i++)
        for (size_t s = 0; s < d.small; s++)
            for (size_t j = 0; j < cols; j++)
                out[i * cols + j] += d.vt[i * d.small + s] * d.u[s * cols + j];
done:
    svd_reset(&d, context, rows, cols);
    return status;
}
