/* device_load_test: what the plug-in costs where it is not used: loading it and counting devices,
 * before any context of a device exists: told, and 50 ms are the most that is wanted. The start of
 * the driver itself (cuInit) is told apart. */
#include <dlfcn.h>
#include <time.h>

#include "place.h"

/* Of this process, so that a busy machine does not count. */
static double cpu_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6;
}

int main(void) {
    peri_context *context = place_context();
    char path[1200];
    uint32_t count = 0;
    snprintf(path, sizeof path, "%s/perigee_cuda.so", context->plugin_path);
    if (access(path, R_OK) != 0) {
        check_skip("the plug-in", "it was not built");
        peri_context_release(context);
        return 77;
    }
    double began = cpu_ms();
    const peri_driver *driver;
    peri_status status = peri_driver_find(context, PERI_PLACE_CUDA, &driver);
    double loaded = cpu_ms() - began;
    CHECK(status == PERI_OK, "%s", peri_error_detail());
    void *cuda = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    int (*init)(unsigned) = NULL;
    if (cuda != NULL) *(void **)&init = dlsym(cuda, "cuInit");
    began = cpu_ms();
    if (init != NULL) (void)init(0);
    double started = cpu_ms() - began;
    began = cpu_ms();
    place_must(peri_device_count(context, PERI_PLACE_CUDA, &count), "count");
    double counted = cpu_ms() - began;
    if (count == 0)
        CHECK(strlen(peri_error_detail()) > 0 && strchr(peri_error_detail(), '\n') == NULL,
              "no device, and no reason in one line: %s", peri_error_detail());
    printf("loading %.1f ms, counting %u devices %.1f ms, the driver's start %.1f ms of CPU\n",
           loaded, count, counted, started);
    peri_context_release(context);
    return check_done();
}
