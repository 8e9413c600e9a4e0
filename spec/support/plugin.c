/* plugin.c: plug-ins that are not what the library takes, for spec/c/plugin_test.c, which puts this
 * in the place of the real one. PERIGEE_TEST_PLUGIN says what it is. */
#include <stdlib.h>
#include <string.h>

#include "perigee_backend.h"

PERI_API const peri_driver *perigee_plugin(uint32_t abi, const peri_host *host);

static peri_status no_devices(const peri_host *host, uint32_t *out) {
    *out = 0;
    (void)host->fail(PERI_E_DEVICE, "no device: this is a pretended plug-in");
    return PERI_OK;
}

PERI_API const peri_driver *perigee_plugin(uint32_t abi, const peri_host *host) {
    static peri_driver driver;
    const char *what = getenv("PERIGEE_TEST_PLUGIN");
    if (what == NULL) what = "";
    driver.abi = abi;
    driver.name = "cuda";
    driver.kind = PERI_PLACE_CUDA;
    driver.device_count = no_devices;
    if (strcmp(what, "declines") == 0) {
        (void)host->fail(PERI_E_DEVICE, "of interface %u, asked for %u", abi + 1, abi);
        return NULL;
    }
    if (strcmp(what, "silent") == 0) return NULL;
    if (strcmp(what, "older") == 0) driver.abi = abi - 1;
    if (strcmp(what, "other") == 0) driver.kind = PERI_PLACE_CPU;
    return &driver;
}
