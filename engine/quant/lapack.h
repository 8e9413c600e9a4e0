/* lapack.h: the one thing we ask of a LAPACK: the singular value decomposition behind a learned
 * rotation. The library is opened on first use and never linked: who does not learn rotations needs
 * none. Threads: any. */
#ifndef PERI_QUANT_LAPACK_H
#define PERI_QUANT_LAPACK_H

#include "core/status.h"

/* Finds a LAPACK: PERI_OK and its file name, or PERI_E_UNSUPPORTED and, in the detail, what is
 * missing and which package has it. */
peri_status peri_lapack_find(const char **name);

/* The orthonormal matrix nearest to a: with a = U S V^T, out = U V^T (the answer to the orthogonal
 * Procrustes problem: Schonemann, 1966). a, out [rows, cols] row-major, rows <= cols: out has
 * orthonormal rows. `sum` is that of the singular values: tr(out^T a). `a` is destroyed; context
 * pays for scratch. */
peri_status peri_lapack_procrustes(peri_context *context, double *a, size_t rows, size_t cols,
                                   double *out, double *sum);

#endif
