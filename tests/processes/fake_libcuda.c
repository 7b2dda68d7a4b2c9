/* A stand-in for the library of NVIDIA's driver, which cannot exist without a GPU. Its answers come from the
 * environment: FAKE_CUDA_UUIDS (one letter for each GPU), FAKE_CUDA_INIT and FAKE_CUDA_CONTEXT (what cuInit and taking a
 * context return; -1: they never return), FAKE_CUDA_VERSION, FAKE_CUDA_FREE_MIB of 40960 (all of it once the file
 * FAKE_CUDA_FREE_LATER is there, which a first look makes), FAKE_CUDA_CAPABILITY (90). */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int number(const char *name, int otherwise) {
    const char *text = getenv(name);
    int value = text ? atoi(text) : otherwise;
    while (value < 0)
        sleep(60);
    return value;
}

static const char *uuids(void) {
    const char *text = getenv("FAKE_CUDA_UUIDS");
    return text ? text : "A";
}

int cuInit(unsigned flags) { return number("FAKE_CUDA_INIT", 0); }
int cuDriverGetVersion(int *version) { return *version = number("FAKE_CUDA_VERSION", 13000), 0; }
int cuDeviceGetCount(int *count) { return *count = (int)strlen(uuids()), 0; }
int cuDeviceGet(int *device, int index) { return *device = index, 0; }
int cuDeviceGetName(char *name, int size, int device) { return strncpy(name, "NVIDIA Test", size), 0; }
int cuDeviceGetUuid_v2(char *uuid, int device) { return memset(uuid, uuids()[device], 16), 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    int capability = number("FAKE_CUDA_CAPABILITY", 90);
    return *value = attribute == 75 ? capability / 10 : capability % 10, 0;
}
int cuDevicePrimaryCtxRetain(void **context, int device) { return number("FAKE_CUDA_CONTEXT", 0); }
int cuDevicePrimaryCtxRelease_v2(int device) { return 0; }
int cuCtxSetCurrent(void *context) { return 0; }
int cuMemGetInfo_v2(size_t *free, size_t *total) {
    const char *later = getenv("FAKE_CUDA_FREE_LATER");
    int mib = later && access(later, F_OK) == 0 ? 40000 : number("FAKE_CUDA_FREE_MIB", 40000);
    if (later)
        fclose(fopen(later, "w"));
    return *free = (size_t)mib << 20, *total = (size_t)40960 << 20, 0;
}
int cuGetErrorString(int code, const char **text) {
    return *text = code == 100 ? "no CUDA-capable device is detected"
                 : code == 214 ? "uncorrectable ECC error encountered" : "unknown error", 0;
}
