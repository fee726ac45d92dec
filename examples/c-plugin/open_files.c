/* /open_files: file handles in use on the whole machine, and how many the kernel allows. A program that leaks them shows here before anything fails. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "devmon_plugin.h"

#define FILE_NR "/proc/sys/fs/file-nr" /* "handles-in-use 0 limit"; proc(5) */

struct source {
    char error[128]; /* why the last round failed; empty: it did not */
};

uint32_t devmon_plugin_abi(void) { return DEVMON_PLUGIN_ABI; }

void *devmon_plugin_new(const char *config_json) {
    if (strcmp(config_json, "{}") != 0)
        return NULL; /* devmon_plugin_error(NULL) says why */
    return calloc(1, sizeof(struct source));
}

char *devmon_plugin_collect(void *p) {
    struct source *source = p;
    unsigned long long open, limit;
    char *json = NULL;
    FILE *file = fopen(FILE_NR, "re");

    source->error[0] = '\0';
    if (file == NULL) {
        snprintf(source->error, sizeof source->error, "cannot open " FILE_NR ": %s", strerror(errno));
        return NULL;
    }
    if (fscanf(file, "%llu %*u %llu", &open, &limit) != 2 || limit == 0) {
        snprintf(source->error, sizeof source->error, FILE_NR " does not read as three numbers");
    } else if ((json = malloc(128)) != NULL) {
        snprintf(json, 128, "{\"open\":%llu,\"limit\":%llu,\"utilization\":%.6f}", open, limit, (double)open / (double)limit);
    } else {
        snprintf(source->error, sizeof source->error, "out of memory");
    }
    fclose(file);
    return json;
}

void devmon_plugin_free(char *text) { free(text); }

void devmon_plugin_drop(void *p) { free(p); }

const char *devmon_plugin_describe(void *p) {
    (void)p;
    return "[{\"path\":\"/open\",\"unit\":\"1\",\"kind\":\"gauge\",\"help\":\"File handles in use by all processes.\"},"
           "{\"path\":\"/limit\",\"unit\":\"1\",\"kind\":\"gauge\",\"help\":\"The most that the kernel hands out (fs.file-max).\"},"
           "{\"path\":\"/utilization\",\"unit\":\"1\",\"kind\":\"gauge\",\"help\":\"Share of the limit that is in use, 0 to 1.\"}]";
}

const char *devmon_plugin_error(void *p) {
    struct source *source = p;
    if (source == NULL)
        return "open_files takes no options, remove them (or memory is out)";
    return source->error[0] != '\0' ? source->error : NULL;
}
