/* neighbors.h: the parameter table of kNN graphs, which peri_params_find() gives out. */
#ifndef PERI_GRAPH_NEIGHBORS_H
#define PERI_GRAPH_NEIGHBORS_H

#include "perigee.h"

extern const peri_param_table peri_knn_graph_table; /* "knn_graph.build" */

#endif
