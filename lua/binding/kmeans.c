/* kmeans.c: k-means: what the engine made, as a table of matrices and numbers, of which a hook
 * makes an object (lua/perigee/kmeans.lua). */
#include "binding.h"

/* A box on the stack and the matrix that goes into it. */
typedef struct field {
    const char *name;
    lperi_matrix *box;
} field;

static void set_integer(lua_State *L, const char *name, size_t value) {
    lua_pushinteger(L, (lua_Integer)value);
    lua_setfield(L, -2, name);
}

static void push_clusters(lua_State *L, const peri_clusters *clusters) {
    set_integer(L, "smallest", clusters->smallest);
    set_integer(L, "largest", clusters->largest);
    set_integer(L, "trained_rows", clusters->trained_rows);
    set_integer(L, "iterations", clusters->iterations);
    set_integer(L, "repaired", clusters->repaired);
    lua_pushnumber(L, clusters->inertia);
    lua_setfield(L, -2, "inertia");
    lua_pushstring(L, peri_metric_name(clusters->metric));
    lua_setfield(L, -2, "metric");
}

/* The rows at `arg`: a matrix, or a table of rows. Leaves what it makes on the stack. */
static peri_status read_rows(lua_State *L, int arg, peri_matrix **out) {
    *out = NULL;
    if (lua_type(L, arg) != LUA_TTABLE) {
        *out = lperi_checkmatrix(L, arg);
        return PERI_OK;
    }
    peri_status status = lperi_tablematrix(L, arg, PERI_F32);
    if (status == PERI_OK) *out = lperi_checkmatrix(L, -1);
    return status;
}

/* Option "centroids"; leaves it on the stack. */
static peri_matrix *read_centroids(lua_State *L, int options) {
    int type = lperi_pushoption(L, options, "centroids");
    if (type == LUA_TNIL) return NULL;
    if (luaL_testudata(L, -1, LPERI_MATRIX) == NULL)
        luaL_error(L, "option 'centroids': a %s given, allowed: a matrix", lua_typename(L, type));
    return lperi_checkmatrix(L, -1);
}

static peri_status run(lua_State *L, int options, peri_clustering *asked, peri_clusters *clusters) {
    lperi_control control;
    lperi_control_begin(L, options, &control);
    asked->control = &control.control;
    peri_matrix_retain(asked->rows); /* progress may close them */
    if (asked->centroids != NULL) peri_matrix_retain(asked->centroids);
    peri_status status = peri_clusters_train(asked, clusters);
    peri_matrix_release(asked->rows);
    peri_matrix_release(asked->centroids);
    if (control.failed) peri_clusters_reset(clusters);
    lperi_control_end(L, &control);
    return status;
}

/* kmeans(rows[, { place, residence, centroids, labels, threads, progress, and parameters }])
 * -> Clusters */
int lperi_kmeans(lua_State *L) {
    static const char *const own[] = { "centroids", "labels",   "place", "residence",
                                       "threads",   "progress", NULL };
    field fields[] = {
        { "centroids", NULL }, { "labels", NULL }, { "distances", NULL }, { "sizes", NULL }
    };
    lua_settop(L, 2);
    int options = lperi_checkoptions(L, 2, own, "train");
    peri_clustering asked = PERI_CLUSTERING_INIT;
    peri_clusters clusters = { 0 };
    peri_status status = read_rows(L, 1, &asked.rows);
    if (status != PERI_OK) return lperi_result(L, status, 0);
    asked.centroids = read_centroids(L, options);
    asked.labels = lperi_optionflag(L, options, "labels", true);
    asked.threads = lperi_optioncount(L, options, "threads", 0, 1024);
    peri_place place;
    asked.place = lperi_optionwhere(L, options, &place);
    asked.residence = lperi_optionresidence(L, options);
    lperi_options params;
    lperi_readoptions(L, options, own, &params);
    asked.options = (peri_options){ params.list, params.count };
    lua_createtable(L, 0, 12);
    int result = lua_gettop(L);
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        fields[i].box = lperi_newmatrix(L);
        lua_setfield(L, result, fields[i].name);
    }
    status = run(L, options, &asked, &clusters);
    if (status != PERI_OK) return lperi_result(L, status, 0);
    peri_matrix *made[] = { clusters.centroids, clusters.labels, clusters.distances,
                            clusters.sizes };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) fields[i].box->handle = made[i];
    lua_settop(L, result);
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        if (made[i] != NULL) {
            lua_getfield(L, result, fields[i].name);
            lperi_collectmatrix(L, made[i]);
            lua_pop(L, 1);
            continue;
        }
        lua_pushnil(L);
        lua_setfield(L, result, fields[i].name);
    }
    push_clusters(L, &clusters);
    lperi_pushhook(L, "clusters");
    lua_insert(L, -2);
    lua_call(L, 1, 1);
    return 1;
}
