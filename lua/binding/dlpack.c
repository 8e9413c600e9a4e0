/* dlpack.c: tensors of other libraries in the process, by their address. */
#include "binding.h"
#include "perigee_dlpack.h"

static void *check_pointer(lua_State *L, int arg) {
    int whole = 0;
    void *pointer = NULL;
    if (lua_type(L, arg) == LUA_TLIGHTUSERDATA)
        pointer = lua_touserdata(L, arg);
    else if (lua_type(L, arg) == LUA_TNUMBER)
        pointer = (void *)(uintptr_t)lua_tointegerx(L, arg, &whole);
    if (pointer == NULL)
        lperi_argument(L, arg,
                       "tensor: %s given, allowed: the address of a DLManagedTensor, as a light "
                       "userdata or an integer",
                       luaL_tolstring(L, arg, NULL));
    return pointer;
}

/* from_dlpack(tensor[, { versioned, stream }]) */
int lperi_from_dlpack(lua_State *L) {
    static const char *const own[] = { "versioned", "stream", NULL };
    void *tensor = check_pointer(L, 1);
    lua_settop(L, 2);
    int options = lperi_checkoptions(L, 2, own, NULL);
    bool versioned = lperi_optionflag(L, options, "versioned", false);
    peri_queue queue = lperi_optionqueue(L, options, "stream");
    peri_context *context;
    lperi_matrix *box = lperi_newmatrix(L);
    peri_place place = PERI_CPU;
    peri_status status = lperi_context(L, &context);
    /* before it is taken: a wait that fails leaves it the caller's */
    if (status == PERI_OK)
        status = versioned ? peri_dlpack_place_versioned(tensor, &place)
                           : peri_dlpack_place(tensor, &place);
    if (status == PERI_OK) status = peri_queue_wait(context, place, queue);
    if (status == PERI_OK)
        status = versioned ? peri_matrix_from_dlpack_versioned(context, tensor, &box->handle)
                           : peri_matrix_from_dlpack(context, tensor, &box->handle);
    return lperi_result(L, status, 1);
}

/* matrix:to_dlpack([{ versioned }]) -> a light userdata, which whoever takes it gives back */
int lperi_matrix_to_dlpack(lua_State *L) {
    static const char *const own[] = { "versioned", NULL };
    peri_matrix *matrix = lperi_checkmatrix(L, 1);
    lua_settop(L, 2);
    int options = lperi_checkoptions(L, 2, own, NULL);
    struct DLManagedTensor *plain = NULL;
    struct DLManagedTensorVersioned *versioned = NULL;
    peri_status status;
    if (lperi_optionflag(L, options, "versioned", false))
        status = peri_matrix_to_dlpack_versioned(matrix, &versioned);
    else
        status = peri_matrix_to_dlpack(matrix, &plain);
    lua_pushlightuserdata(L, versioned != NULL ? (void *)versioned : (void *)plain);
    return lperi_result(L, status, 1);
}
