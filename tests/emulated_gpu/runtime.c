// CUDA's runtime and driver as far as PyTorch calls them outside of kernels, on host memory: devices, allocations,
// copies, streams and events. Launching a kernel fails, so nothing is computed by accident. See __init__.py.
#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#undef cudaGetDeviceProperties

#define EXPORT __attribute__((visibility("default")))
#define OK(signature) EXPORT cudaError_t signature { return cudaSuccess; }

static _Thread_local int current;
static _Thread_local cudaError_t pending;

static cudaError_t fail(cudaError_t error) { return pending = error; }

static size_t setting(const char *name, size_t otherwise) {
    const char *value = getenv(name);
    return value ? strtoull(value, NULL, 10) : otherwise;
}

// EMULATED_GPUS, EMULATED_GPU_BYTES of memory of each, EMULATED_GPU_NO_PINNING, and EMULATED_GPU_ERROR, a cudaError_t that
// a broken GPU answers with where it is asked whether it is done
static int devices(void) { return (int)setting("EMULATED_GPUS", 1); }
static size_t capacity(void) { return setting("EMULATED_GPU_BYTES", (size_t)8 << 30); }

// ------------------------------------------------------------------------------------------------ memory

struct block { char *begin; size_t size; enum cudaMemoryType type; int device, owned; struct block *next; };
static struct block *blocks;
static size_t used[64];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void enter(void *begin, size_t size, enum cudaMemoryType type, int owned) {
    struct block *b = malloc(sizeof *b);
    *b = (struct block){begin, size, type, current, owned, NULL};
    pthread_mutex_lock(&lock);
    b->next = blocks;
    blocks = b;
    pthread_mutex_unlock(&lock);
}

static cudaError_t leave(const void *begin) {
    pthread_mutex_lock(&lock);
    for (struct block **at = &blocks; *at; at = &(*at)->next)
        if ((*at)->begin == (const char *)begin) {
            struct block *b = *at;
            *at = b->next;
            if (b->type == cudaMemoryTypeDevice) used[b->device] -= b->size;
            pthread_mutex_unlock(&lock);
            if (b->owned) free(b->begin);
            free(b);
            return cudaSuccess;
        }
    pthread_mutex_unlock(&lock);
    return fail(cudaErrorInvalidValue);
}

EXPORT cudaError_t cudaMalloc(void **out, size_t size) {
    pthread_mutex_lock(&lock);
    int fits = used[current] + size <= capacity();
    if (fits) used[current] += size;
    pthread_mutex_unlock(&lock);
    if (!fits || posix_memalign(out, 512, size ? size : 1)) return fail(cudaErrorMemoryAllocation);
    enter(*out, size, cudaMemoryTypeDevice, 1);
    return cudaSuccess;
}
EXPORT cudaError_t cudaFree(void *p) { return p ? leave(p) : cudaSuccess; }
EXPORT cudaError_t cudaHostAlloc(void **out, size_t size, unsigned flags) {
    if (posix_memalign(out, 512, size ? size : 1)) return fail(cudaErrorMemoryAllocation);
    enter(*out, size, cudaMemoryTypeHost, 1);
    return cudaSuccess;
}
EXPORT cudaError_t cudaFreeHost(void *p) { return p ? leave(p) : cudaSuccess; }
EXPORT cudaError_t cudaHostRegister(void *p, size_t size, unsigned flags) {
    if (setting("EMULATED_GPU_NO_PINNING", 0)) return fail(cudaErrorNotSupported);
    enter(p, size, cudaMemoryTypeHost, 0);
    return cudaSuccess;
}
EXPORT cudaError_t cudaHostUnregister(void *p) { return leave(p); }
EXPORT cudaError_t cudaMemGetInfo(size_t *free_, size_t *total) {
    *total = capacity();
    *free_ = capacity() - used[current];
    return cudaSuccess;
}
EXPORT cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *out, const void *p) {
    memset(out, 0, sizeof *out);
    out->type = cudaMemoryTypeUnregistered;
    out->device = -2;
    pthread_mutex_lock(&lock);
    for (struct block *b = blocks; b; b = b->next)
        if (b->begin <= (const char *)p && (const char *)p < b->begin + b->size) {
            out->type = b->type;
            out->device = b->device;
            out->hostPointer = b->type == cudaMemoryTypeHost ? (void *)p : NULL;
            out->devicePointer = (void *)p;
        }
    pthread_mutex_unlock(&lock);
    return cudaSuccess;
}
EXPORT cudaError_t cudaMemcpy(void *to, const void *from, size_t size, enum cudaMemcpyKind kind) {
    memmove(to, from, size);
    return cudaSuccess;
}
EXPORT cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, enum cudaMemcpyKind kind, cudaStream_t s) {
    memmove(to, from, size);
    return cudaSuccess;
}
EXPORT cudaError_t cudaMemcpyPeerAsync(void *to, int device, const void *from, int other, size_t size, cudaStream_t s) {
    memmove(to, from, size);
    return cudaSuccess;
}
EXPORT cudaError_t cudaMemset(void *p, int value, size_t size) {
    memset(p, value, size);
    return cudaSuccess;
}
EXPORT cudaError_t cudaMemsetAsync(void *p, int value, size_t size, cudaStream_t s) {
    memset(p, value, size);
    return cudaSuccess;
}

// ------------------------------------------------------------------------------------------------ devices

EXPORT cudaError_t cudaGetDeviceCount(int *out) {
    *out = devices();
    return *out ? cudaSuccess : fail(cudaErrorNoDevice);
}
EXPORT cudaError_t cudaGetDevice(int *out) {
    *out = current;
    return cudaSuccess;
}
EXPORT cudaError_t cudaSetDevice(int device) {
    if (device < 0 || device >= devices()) return fail(cudaErrorInvalidDevice);
    current = device;
    return cudaSuccess;
}
EXPORT cudaError_t cudaGetDeviceProperties_v2(struct cudaDeviceProp *out, int device) {
    memset(out, 0, sizeof *out);
    strcpy(out->name, "Emulated GPU");
    out->totalGlobalMem = capacity();
    out->major = 9;
    out->multiProcessorCount = 1;
    out->warpSize = 32;
    out->maxThreadsPerBlock = out->maxThreadsDim[0] = out->maxThreadsDim[1] = 1024;
    out->maxThreadsDim[2] = 64;
    out->maxGridSize[0] = 2147483647;
    out->maxGridSize[1] = out->maxGridSize[2] = 65535;
    out->maxThreadsPerMultiProcessor = 2048;
    out->regsPerBlock = out->regsPerMultiprocessor = 65536;
    out->sharedMemPerBlock = 49152;
    out->textureAlignment = out->texturePitchAlignment = 512;
    return cudaSuccess;
}
EXPORT cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *out, int device) {
    return cudaGetDeviceProperties_v2(out, device);
}
EXPORT cudaError_t cudaDeviceGetAttribute(int *out, enum cudaDeviceAttr attribute, int device) {
    *out = attribute == cudaDevAttrComputeCapabilityMajor ? 9 : 0;
    return cudaSuccess;
}
EXPORT cudaError_t cudaDeviceCanAccessPeer(int *out, int device, int other) {
    *out = 0;
    return cudaSuccess;
}
EXPORT cudaError_t cudaDeviceGetPCIBusId(char *out, int size, int device) {
    strncpy(out, "0000:00:00.0", (size_t)size);
    return cudaSuccess;
}
EXPORT cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = *greatest = 0;
    return cudaSuccess;
}
OK(cudaDeviceSynchronize(void))
EXPORT cudaError_t cudaDriverGetVersion(int *out) {
    *out = CUDART_VERSION;
    return cudaSuccess;
}
EXPORT cudaError_t cudaGetLastError(void) {
    cudaError_t error = pending;
    pending = cudaSuccess;
    return error;
}
EXPORT cudaError_t cudaPeekAtLastError(void) { return pending; }
OK(cudaProfilerStart(void))
OK(cudaProfilerStop(void))

// ------------------------------------------------------------------------------------------------ streams, events

EXPORT cudaError_t cudaStreamCreate(cudaStream_t *out) {
    *out = malloc(1);
    return cudaSuccess;
}
EXPORT cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags) { return cudaStreamCreate(out); }
EXPORT cudaError_t cudaStreamCreateWithPriority(cudaStream_t *out, unsigned flags, int priority) {
    return cudaStreamCreate(out);
}
EXPORT cudaError_t cudaStreamGetPriority(cudaStream_t s, int *out) {
    *out = 0;
    return cudaSuccess;
}
OK(cudaStreamDestroy(cudaStream_t s))
OK(cudaStreamQuery(cudaStream_t s))
OK(cudaStreamSynchronize(cudaStream_t s))
OK(cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t event, unsigned flags))
EXPORT cudaError_t cudaStreamIsCapturing(cudaStream_t s, enum cudaStreamCaptureStatus *out) {
    *out = cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
EXPORT cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *mode) { return cudaSuccess; }
EXPORT cudaError_t cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t function, void *data) {
    function(data);
    return cudaSuccess;
}
EXPORT cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags) {
    *out = calloc(1, sizeof(struct timespec));
    return cudaSuccess;
}
EXPORT cudaError_t cudaEventCreate(cudaEvent_t *out) { return cudaEventCreateWithFlags(out, 0); }
EXPORT cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t s) {
    clock_gettime(CLOCK_MONOTONIC, (struct timespec *)event);
    return cudaSuccess;
}
EXPORT cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t s, unsigned flags) {
    return cudaEventRecord(event, s);
}
EXPORT cudaError_t cudaEventElapsedTime(float *out, cudaEvent_t from, cudaEvent_t to) {
    struct timespec *a = (struct timespec *)from, *b = (struct timespec *)to;
    *out = (float)((double)(b->tv_sec - a->tv_sec) * 1e3 + (double)(b->tv_nsec - a->tv_nsec) / 1e6);
    return cudaSuccess;
}
EXPORT cudaError_t cudaEventDestroy(cudaEvent_t event) {
    free(event);
    return cudaSuccess;
}
EXPORT cudaError_t cudaEventQuery(cudaEvent_t event) { return (cudaError_t)setting("EMULATED_GPU_ERROR", cudaSuccess); }
OK(cudaEventSynchronize(cudaEvent_t event))

// ------------------------------------------------------------------------------------------------ kernels

EXPORT cudaError_t cudaLaunchKernel(const void *f, dim3 grid, dim3 block, void **args, size_t shared, cudaStream_t s) {
    return fail(cudaErrorLaunchFailure);
}
EXPORT cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *f, void **args) {
    return fail(cudaErrorLaunchFailure);
}
