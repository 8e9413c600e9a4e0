/* hnswlib_convert.h: between our HNSW index and hnswlib's file. */
#ifndef PERI_INDEX_HNSWLIB_CONVERT_H
#define PERI_INDEX_HNSWLIB_CONVERT_H

#include "index/index.h"

/* Only an index of kind "hnsw". Cosine is written as normalized rows for hnswlib's inner-product
 * space. */
peri_status peri_hnswlib_save(peri_index *index, const char *path,
                              const peri_file_options *options);
/* The file does not say metric and dtype: options->metric is required. Labels become ids. */
peri_status peri_hnswlib_open(peri_context *context, const char *path,
                              const peri_file_options *options, peri_searcher **out);

#endif
