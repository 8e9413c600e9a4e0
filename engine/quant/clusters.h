/* clusters.h: the parameter table of k-means, which peri_params_find() gives out. */
#ifndef PERI_QUANT_CLUSTERS_H
#define PERI_QUANT_CLUSTERS_H

#include "perigee.h"

extern const peri_param_table peri_kmeans_table; /* "kmeans.train" */

#endif
