/* old_driver.c: as much of libcuda.so.1 as says that it is a driver for CUDA 11.0, for
 * spec/c/plugin_test.c. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#pragma GCC visibility push(default)
int cuInit(unsigned flags);
int cuDriverGetVersion(int *version);
int cuDeviceGetCount(int *count);
int cuGetProcAddress(const char *name, void **call, int version, uint64_t flags);
int cuGetProcAddress_v2(const char *name, void **call, int version, uint64_t flags, int *found);
#pragma GCC visibility pop

#define NOT_SUPPORTED 801 /* of the driver: what else is asked for */

static int nothing(void) { return NOT_SUPPORTED; }

int cuInit(unsigned flags) {
    (void)flags;
    return 0;
}

int cuDriverGetVersion(int *version) {
    *version = 11000;
    return 0;
}

int cuDeviceGetCount(int *count) {
    *count = 1;
    return 0;
}

typedef void (*call_fn)(void);

int cuGetProcAddress(const char *name, void **call, int version, uint64_t flags) {
    call_fn found = (call_fn)nothing;
    (void)flags;
    if (strcmp(name, "cuInit") == 0) found = (call_fn)cuInit;
    if (strcmp(name, "cuDriverGetVersion") == 0) found = (call_fn)cuDriverGetVersion;
    if (strcmp(name, "cuDeviceGetCount") == 0) found = (call_fn)cuDeviceGetCount;
    if (strcmp(name, "cuGetProcAddress") == 0)
        found = version >= 12000 ? (call_fn)cuGetProcAddress_v2 : (call_fn)cuGetProcAddress;
    memcpy(call, &found, sizeof found);
    return 0;
}

int cuGetProcAddress_v2(const char *name, void **call, int version, uint64_t flags, int *found) {
    if (found != NULL) *found = 0;
    return cuGetProcAddress(name, call, version, flags);
}
