/* binding.h: what the files of the binding share.
 *
 * Every handle is a userdata box, made closed and with its metatable before the engine fills it,
 * so that an error of Lua's never leaks one. `close`, `__close` and `__gc` are one function. No
 * lua_State is kept: what a call needs of it lives on the stack of that call.
 *
 * Misuse raises and names the argument; the outside world returns nil, message, code
 * (lperi_result). */
#ifndef LPERI_BINDING_H
#define LPERI_BINDING_H

#include <lauxlib.h>
#include <lua.h>

#include "perigee_lua.h"

#define LPERI_MATRIX "perigee.Matrix"
#define LPERI_SEARCHER "perigee.Searcher"
#define LPERI_FILTER "perigee.Filter"
#define LPERI_HITS "perigee.Hits"
#define LPERI_QUANTIZER "perigee.Quantizer"

#define LPERI_PLACE_SIZE 32

/* ---- result.c ----------------------------------------------------------------------------- */

/* The end of every call of the engine: `values` when it went well (they are on top of the
 * stack), an error for misuse, else nil, message and code. */
int lperi_result(lua_State *L, peri_status status, int values);

/* Raises "bad argument #arg to 'f' (...)". */
int lperi_argument(lua_State *L, int arg, const char *format, ...);

/* An integer of min..max, or an error that names the argument, the value and the range. */
lua_Integer lperi_checkrange(lua_State *L, int arg, const char *name, lua_Integer min,
                             lua_Integer max);

/* Tells the collector of native bytes that the handle on the stack now holds. */
void lperi_collect(lua_State *L, size_t bytes);

/* ---- module.c ----------------------------------------------------------------------------- */

/* The context of this state: its host's, else the one that the process shares, made on first
 * use. */
peri_status lperi_context(lua_State *L, peri_context **out);

typedef struct lperi_type {
    const char *name; /* of the metatable */
    const luaL_Reg *methods;
    const luaL_Reg *meta; /* but __index, which is `index` with the methods as its upvalue */
    lua_CFunction index;
    const char *const *fields; /* what `index` knows besides the methods; ends with NULL */
} lperi_type;

/* Makes the metatable and sets module[word] to the methods; the module is on top of the stack. */
void lperi_newtype(lua_State *L, const lperi_type *type, const char *word);

/* Pushes a function that the Lua side gave to core.hooks, or raises. */
void lperi_pushhook(lua_State *L, const char *name);

/* ---- options.c ---------------------------------------------------------------------------- */

#define LPERI_OPTIONS_MAX 48

typedef struct lperi_options {
    peri_option list[LPERI_OPTIONS_MAX];
    size_t count;
} lperi_options;

/* Checks the option table at `arg` (nil and none: no options): every key is one of `own` or a
 * parameter of `verb` of some kind (NULL: of none). Returns `arg`, or 0 when there are no
 * options. */
int lperi_checkoptions(lua_State *L, int arg, const char *const *own, const char *verb);

/* Reads what is not in `own` for the engine. Keys and texts stay anchored on the stack. */
void lperi_readoptions(lua_State *L, int options, const char *const *own, lperi_options *out);

/* Pushes options[key] (nil when there are none) and returns its type. */
int lperi_pushoption(lua_State *L, int options, const char *key);
/* Leaves the string on the stack, where it is anchored. */
const char *lperi_optiontext(lua_State *L, int options, const char *key);
bool lperi_optionflag(lua_State *L, int options, const char *key, bool fallback);
size_t lperi_optioncount(lua_State *L, int options, const char *key, size_t fallback, size_t max);
/* The place named, or the CPU. */
peri_place lperi_optionplace(lua_State *L, int options, const char *key);
/* Option "place" in `room`, or NULL without it. */
const peri_place *lperi_optionwhere(lua_State *L, int options, peri_place *room);
/* Option "residence". */
peri_residence lperi_optionresidence(lua_State *L, int options);
/* A caller's queue: an address, as a light userdata or an integer. */
peri_queue lperi_optionqueue(lua_State *L, int options, const char *key);

/* ---- control.c ---------------------------------------------------------------------------- */

typedef struct lperi_hook {
    lua_State *thread;
    lua_Hook function;
    int mask, count;
} lperi_hook;

/* Follows one long call on the calling thread: progress, cancelling, Ctrl-C. Lives in its C
 * frame. */
typedef struct lperi_control {
    peri_control control;
    lua_State *L;
    lperi_hook hooks[2]; /* of this coroutine and of the main one, as they were at the start */
    int progress;        /* stack index of the function, 0 without */
    int failure;         /* stack index where its error waits */
    bool bar, failed;
    int64_t next_ms;
    char stage[48]; /* the last one told */
    bool told_end;  /* that it was finished, too */
} lperi_control;

/* Takes option "progress"; leaves values on the stack that the call needs. */
void lperi_control_begin(lua_State *L, int options, lperi_control *control);
/* After the call: raises what the progress function raised. */
void lperi_control_end(lua_State *L, lperi_control *control);

/* ---- numbers.c ---------------------------------------------------------------------------- */

/* A dtype named at `arg`, "f32" when there is none. */
peri_dtype lperi_checkdtype(lua_State *L, int arg);

/* Pushes the value of one element. f16 has none here: convert first. */
void lperi_pushnumber(lua_State *L, peri_dtype dtype, const void *element);

/* Makes and pushes a matrix of the table of rows (or of numbers: one row) at `arg`. */
peri_status lperi_tablematrix(lua_State *L, int arg, peri_dtype dtype);

/* Row numbers or ids from a list or a matrix of whole numbers. May push a buffer that holds
 * them. */
const int64_t *lperi_checkids(lua_State *L, int arg, size_t *count);

/* Queries for `dim` columns: a matrix, a table of numbers, a table of rows, a packed f32 string.
 * May push a buffer. Returns the matrix that the view is of, or NULL. */
peri_matrix *lperi_checkqueries(lua_State *L, int arg, uint32_t dim, peri_view *out);

/* ---- matrix.c, filter.c, hits.c, searcher.c ------------------------------------------------ */

typedef struct lperi_matrix {
    peri_matrix *handle; /* NULL: closed */
} lperi_matrix;

typedef struct lperi_filter {
    peri_filter *handle;
    bool bound; /* the number of rows was given */
    size_t n;
} lperi_filter;

typedef struct lperi_searcher {
    peri_searcher *handle;
} lperi_searcher;

typedef struct lperi_quantizer {
    peri_quantizer *handle;
} lperi_quantizer;

/* Answers: two matrices [q, k] at one place. Uservalues 1 and 2 keep the handles that fields give
 * out. */
typedef struct lperi_hits {
    peri_matrix *neighbors, *distances;
    peri_hits_info info;
    peri_metric metric;
} lperi_hits;

/* Push a closed box. */
lperi_matrix *lperi_newmatrix(lua_State *L);
lperi_filter *lperi_newfilter(lua_State *L);
lperi_searcher *lperi_newsearcher(lua_State *L);
lperi_hits *lperi_newhits(lua_State *L);

lperi_hits *lperi_checkhits(lua_State *L, int arg);

/* A matrix, or a raised error that says how to bring it to the host. */
peri_view lperi_checkhostview(lua_State *L, int arg);

/* Gives `hits` matrices of this shape there, unless it has them. */
peri_status lperi_shapehits(lperi_hits *hits, peri_context *context, peri_place place,
                            size_t queries, size_t k);
/* Pushes hits over the two matrices, "neighbors" and "distances", of a table. */
lperi_hits *lperi_tablehits(lua_State *L, int table, size_t queries, size_t k);

/* Tells the collector of what a matrix or a searcher holds. */
void lperi_collectmatrix(lua_State *L, const peri_matrix *matrix);
void lperi_collectsearcher(lua_State *L, const peri_searcher *searcher);

bool lperi_onhost(peri_place place);

/* Pushes what `describe` tells of a handle as a table, "a.b" as field b of table a. */
typedef void (*lperi_describe_fn)(const void *handle, peri_field_fn field, void *ud);
int lperi_pushdescription(lua_State *L, lperi_describe_fn describe, const void *handle);

void lperi_openmatrix(lua_State *L);
void lperi_openfilter(lua_State *L);
void lperi_openhits(lua_State *L);
void lperi_opensearcher(lua_State *L);
void lperi_openquantizer(lua_State *L);

/* ---- entries of the module, by the file that holds them ------------------------------------ */

/* matrix.c */
int lperi_load(lua_State *L);
int lperi_matrix_new(lua_State *L);
int lperi_pack(lua_State *L);
int lperi_unpack(lua_State *L);

/* filter.c */
int lperi_filter_ids(lua_State *L);
int lperi_filter_range(lua_State *L);
int lperi_filter_bits(lua_State *L);

/* dlpack.c */
int lperi_from_dlpack(lua_State *L);
int lperi_matrix_to_dlpack(lua_State *L);

/* devices.c */
int lperi_devices(lua_State *L);
int lperi_limit(lua_State *L);
int lperi_trim(lua_State *L);

/* hits.c */
int lperi_hits_new(lua_State *L);
int lperi_recall(lua_State *L);

/* build.c: how searchers come to be, and are saved */
int lperi_build(lua_State *L); /* upvalue 1: the kind */
int lperi_open(lua_State *L);
int lperi_searcher_extend(lua_State *L);
int lperi_searcher_remove(lua_State *L);
int lperi_searcher_filtered(lua_State *L);
int lperi_searcher_refined(lua_State *L);
int lperi_searcher_to_hnsw(lua_State *L);
int lperi_searcher_to(lua_State *L);
int lperi_searcher_save(lua_State *L);

/* kmeans.c */
int lperi_kmeans(lua_State *L);
/* The rows at `arg`: a matrix, or a table of rows. Leaves what it makes on the stack. */
peri_status lperi_readrows(lua_State *L, int arg, peri_matrix **out);

/* pairs.c */
int lperi_pairwise(lua_State *L);
int lperi_knn_graph(lua_State *L);

/* quantizer.c; upvalue 1: the kind */
int lperi_quantizer_train(lua_State *L);
int lperi_quantizer_open(lua_State *L);

/* params.c */
int lperi_params(lua_State *L);
int lperi_defaults(lua_State *L); /* upvalue 1: the kind */

#endif
