/* An NVML of two GPUs for tests. GPU 1 supports neither utilization nor power.
 *
 * Fixed when compiled: -DSWITCHES="dir"; -DNO_POWER, -DNO_MEMORY, -DNO_INIT leave a symbol out.
 * Changed while it runs, by a file of that name in SWITCHES: lost0, lost1, no_gpus, mismatch, not_loaded, unknown.
 * Every nvmlInit_v2 adds a byte to the file `attempts` there, and to `inits` if it succeeds. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory_v2;

enum { OK = 0, NOT_SUPPORTED = 3, DRIVER_NOT_LOADED = 9, GPU_IS_LOST = 15, LIB_RM_VERSION_MISMATCH = 18,
       ARGUMENT_VERSION_MISMATCH = 25, INVALID_ARGUMENT = 2, UNKNOWN = 999 };

static int on(const char *name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", SWITCHES, name);
    return access(path, F_OK) == 0;
}

static int broken(void) {
    if (on("mismatch")) return LIB_RM_VERSION_MISMATCH;
    if (on("not_loaded")) return DRIVER_NOT_LOADED;
    return OK;
}

/* A handle is the index + 1. */
static int index_of(void *device) { return (int)(long)device - 1; }
static int state(void *device) {
    if (broken()) return broken();
    if (on(index_of(device) == 0 ? "lost0" : "lost1")) return GPU_IS_LOST;
    return on("unknown") ? UNKNOWN : OK;
}

#ifndef NO_INIT
static void count(const char *path) {
    FILE *f = fopen(path, "a");
    if (f) { fputc('.', f); fclose(f); }
}
int nvmlInit_v2(void) {
    count(SWITCHES "/attempts");
    if (broken()) return broken();
    count(SWITCHES "/inits");
    return OK;
}
#endif
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int e) { (void)e; return "fake"; }
int nvmlSystemGetDriverVersion(char *out, unsigned n) { snprintf(out, n, "570.86.15"); return OK; }
int nvmlSystemGetNVMLVersion(char *out, unsigned n) { snprintf(out, n, "12.570.86.15"); return OK; }
int nvmlSystemGetCudaDriverVersion(int *out) { *out = 12080; return OK; }
int nvmlSystemGetCudaDriverVersion_v2(int *out) { *out = 12080; return OK; }
int nvmlDeviceGetCount_v2(unsigned *out) { *out = on("no_gpus") ? 0 : 2; return broken(); }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **out) {
    if (i > 1) return INVALID_ARGUMENT;
    *out = (void *)(long)(i + 1);
    return broken();
}
int nvmlDeviceGetName(void *d, char *out, unsigned n) {
    snprintf(out, n, "NVIDIA Fake %d", index_of(d));
    return state(d);
}
int nvmlDeviceGetUUID(void *d, char *out, unsigned n) {
    snprintf(out, n, "GPU-0000-%d", index_of(d));
    return state(d);
}
int nvmlDeviceGetUtilizationRates(void *d, Utilization *out) {
    if (index_of(d) == 1) return state(d) ? state(d) : NOT_SUPPORTED;
    out->gpu = 37;
    out->memory = 12;
    return state(d);
}
#ifndef NO_MEMORY
int nvmlDeviceGetMemoryInfo_v2(void *d, Memory_v2 *out) {
    if (out->version != (sizeof(Memory_v2) | (2u << 24))) return ARGUMENT_VERSION_MISMATCH;
    out->total = 8ull << 30;
    out->reserved = 1ull << 29;
    out->used = 2ull << 30;
    out->free = out->total - out->reserved - out->used;
    return state(d);
}
#endif
int nvmlDeviceGetTemperature(void *d, int sensor, unsigned *out) {
    if (sensor != 0) return INVALID_ARGUMENT;
    *out = 41 + index_of(d);
    return state(d);
}
#ifndef NO_POWER
int nvmlDeviceGetPowerUsage(void *d, unsigned *out) {
    if (index_of(d) == 1) return state(d) ? state(d) : NOT_SUPPORTED;
    *out = 70500;
    return state(d);
}
#endif
