/* quantizer.c: perigee.Quantizer, rows to short codes and back. Immutable once trained. */
#include <string.h>

#include "binding.h"

/* ---- the box ------------------------------------------------------------------------------ */

static lperi_quantizer *new_quantizer(lua_State *L) {
    lperi_quantizer *box = lua_newuserdatauv(L, sizeof *box, 0);
    box->handle = NULL;
    luaL_setmetatable(L, LPERI_QUANTIZER);
    return box;
}

static peri_quantizer *check_quantizer(lua_State *L, int arg) {
    const lperi_quantizer *box = luaL_checkudata(L, arg, LPERI_QUANTIZER);
    if (box->handle == NULL) lperi_argument(L, arg, "this quantizer is closed");
    return box->handle;
}

/* ---- making ------------------------------------------------------------------------------- */

/* <kind>.train(rows[, { threads, progress, and training parameters }]) */
int lperi_quantizer_train(lua_State *L) {
    static const char *const own[] = { "threads", "progress", NULL };
    lua_settop(L, 2);
    int options = lperi_checkoptions(L, 2, own, "train");
    peri_train train = PERI_TRAIN_INIT;
    train.kind = lua_tostring(L, lua_upvalueindex(1));
    peri_status status = lperi_readrows(L, 1, &train.rows);
    if (status != PERI_OK) return lperi_result(L, status, 0);
    train.threads = lperi_optioncount(L, options, "threads", 0, 1024);
    lperi_options params;
    lperi_readoptions(L, options, own, &params);
    train.options = (peri_options){ params.list, params.count };
    lperi_control control;
    lperi_control_begin(L, options, &control);
    train.control = &control.control;
    lperi_quantizer *box = new_quantizer(L);
    peri_matrix_retain(train.rows); /* progress may close it */
    status = peri_quantizer_train(&train, &box->handle);
    peri_matrix_release(train.rows);
    lperi_control_end(L, &control);
    return lperi_result(L, status, 1);
}

/* <kind>.open(path[, { progress }]) */
int lperi_quantizer_open(lua_State *L) {
    static const char *const own[] = { "progress", NULL };
    const char *path = luaL_checkstring(L, 1);
    lua_settop(L, 2);
    int options = lperi_checkoptions(L, 2, own, NULL);
    peri_context *context;
    lperi_control control;
    lperi_control_begin(L, options, &control);
    lperi_quantizer *box = new_quantizer(L);
    peri_status status = lperi_context(L, &context);
    if (status == PERI_OK)
        status = peri_quantizer_open(context, path, lua_tostring(L, lua_upvalueindex(1)),
                                     &control.control, &box->handle);
    lperi_control_end(L, &control);
    return lperi_result(L, status, 1);
}

/* ---- coding ------------------------------------------------------------------------------- */

/* What encode, decode and distortion have in common: a quantizer, rows, options. */
typedef struct coding_call {
    peri_quantizer *quantizer;
    peri_matrix *rows;
    peri_coding coding;
    lperi_control control;
} coding_call;

static peri_status begin_coding(lua_State *L, coding_call *call) {
    static const char *const own[] = { "threads", "progress", NULL };
    call->quantizer = check_quantizer(L, 1);
    lua_settop(L, 3);
    int options = lperi_checkoptions(L, 3, own, NULL);
    call->coding = (peri_coding)PERI_CODING_INIT;
    call->coding.threads = lperi_optioncount(L, options, "threads", 0, 1024);
    peri_status status = lperi_readrows(L, 2, &call->rows);
    if (status != PERI_OK) return status;
    lperi_control_begin(L, options, &call->control);
    call->coding.control = &call->control.control;
    return PERI_OK;
}

/* The handles stay while the engine works, whatever progress closes. Nothing in between raises. */
static void hold(const coding_call *call) {
    peri_quantizer_retain(call->quantizer);
    peri_matrix_retain(call->rows);
}

static void drop(const coding_call *call) {
    peri_matrix_release(call->rows);
    peri_quantizer_release(call->quantizer);
}

static int quantizer_encode(lua_State *L) {
    coding_call call;
    peri_status status = begin_coding(L, &call);
    if (status != PERI_OK) return lperi_result(L, status, 0);
    lperi_matrix *box = lperi_newmatrix(L);
    hold(&call);
    status = peri_quantizer_encode(call.quantizer, call.rows, &call.coding, &box->handle);
    drop(&call);
    lperi_control_end(L, &call.control);
    if (status == PERI_OK) lperi_collectmatrix(L, box->handle);
    return lperi_result(L, status, 1);
}

static int quantizer_decode(lua_State *L) {
    coding_call call;
    lperi_checkmatrix(L, 2);
    peri_status status = begin_coding(L, &call);
    if (status != PERI_OK) return lperi_result(L, status, 0);
    lperi_matrix *box = lperi_newmatrix(L);
    hold(&call);
    status = peri_quantizer_decode(call.quantizer, call.rows, &call.coding, &box->handle);
    drop(&call);
    lperi_control_end(L, &call.control);
    if (status == PERI_OK) lperi_collectmatrix(L, box->handle);
    return lperi_result(L, status, 1);
}

static int quantizer_distortion(lua_State *L) {
    coding_call call;
    double distortion = 0;
    peri_status status = begin_coding(L, &call);
    if (status != PERI_OK) return lperi_result(L, status, 0);
    hold(&call);
    status = peri_quantizer_distortion(call.quantizer, call.rows, &call.coding, &distortion);
    drop(&call);
    lperi_control_end(L, &call.control);
    lua_pushnumber(L, distortion);
    return lperi_result(L, status, 1);
}

/* ---- the rest ------------------------------------------------------------------------------ */

/* quantizer:save(path[, { progress }]) */
static int quantizer_save(lua_State *L) {
    static const char *const own[] = { "progress", NULL };
    peri_quantizer *quantizer = check_quantizer(L, 1);
    const char *path = luaL_checkstring(L, 2);
    lua_settop(L, 3);
    int options = lperi_checkoptions(L, 3, own, NULL);
    lperi_control control;
    lperi_control_begin(L, options, &control);
    peri_quantizer_retain(quantizer);
    peri_status status = peri_quantizer_save(quantizer, path, &control.control);
    peri_quantizer_release(quantizer);
    lperi_control_end(L, &control);
    lua_pushboolean(L, 1);
    return lperi_result(L, status, 1);
}

static void describe(const void *handle, peri_field_fn field, void *ud) {
    peri_quantizer_describe(handle, field, ud);
}

static int quantizer_info(lua_State *L) {
    return lperi_pushdescription(L, describe, check_quantizer(L, 1));
}

static int quantizer_tostring(lua_State *L) {
    const lperi_quantizer *box = luaL_checkudata(L, 1, LPERI_QUANTIZER);
    if (box->handle == NULL)
        lua_pushliteral(L, "Quantizer (closed)");
    else
        lua_pushfstring(L, "Quantizer %s, rows of %I in %I bytes", peri_quantizer_name(box->handle),
                        (LUAI_UACINT)peri_quantizer_dim(box->handle),
                        (LUAI_UACINT)peri_quantizer_row_bytes(box->handle));
    return 1;
}

static int quantizer_close(lua_State *L) {
    lperi_quantizer *box = luaL_checkudata(L, 1, LPERI_QUANTIZER);
    peri_quantizer *quantizer = box->handle;
    box->handle = NULL;
    peri_quantizer_release(quantizer);
    return 0;
}

static const char *const quantizer_fields[] = { "kind", "dim", "row_bytes", NULL };

static int quantizer_index(lua_State *L) {
    lua_pushvalue(L, 2);
    if (lua_rawget(L, lua_upvalueindex(1)) != LUA_TNIL) return 1;
    if (lua_type(L, 2) != LUA_TSTRING) return 0;
    const char *key = lua_tostring(L, 2);
    const peri_quantizer *quantizer = check_quantizer(L, 1);
    if (strcmp(key, "kind") == 0)
        lua_pushstring(L, peri_quantizer_name(quantizer));
    else if (strcmp(key, "dim") == 0)
        lua_pushinteger(L, peri_quantizer_dim(quantizer));
    else if (strcmp(key, "row_bytes") == 0)
        lua_pushinteger(L, (lua_Integer)peri_quantizer_row_bytes(quantizer));
    else
        return 0;
    return 1;
}

static const luaL_Reg quantizer_methods[] = {
    { "encode", quantizer_encode },
    { "decode", quantizer_decode },
    { "distortion", quantizer_distortion },
    { "info", quantizer_info },
    { "save", quantizer_save },
    { "close", quantizer_close },
    { NULL, NULL },
};

static const luaL_Reg quantizer_meta[] = {
    { "__gc", quantizer_close },
    { "__close", quantizer_close },
    { "__tostring", quantizer_tostring },
    { NULL, NULL },
};

void lperi_openquantizer(lua_State *L) {
    static const lperi_type type = { LPERI_QUANTIZER, quantizer_methods, quantizer_meta,
                                     quantizer_index, quantizer_fields };
    lperi_newtype(L, &type, "Quantizer");
}
