/* Leaves a child behind that holds all it inherited, standard error and the host's socket among it, and ends: while it is loaded, or in its third round (LATE).
   With DETACHED the child leaves the host's process group. The child ends by itself. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int rounds;

static void leave(void) {
    int ready[2];
    if (pipe(ready))
        return;
    pid_t child = fork();
    if (child == 0) {
#ifdef DETACHED
        setsid();
#endif
        close(ready[1]); /* the other end sees that it stands */
        close(ready[0]);
        sleep(90);
        _exit(0);
    }
    close(ready[1]);
    char byte;
    (void)!read(ready[0], &byte, 1);
    fprintf(stderr, "left %d\n", child);
    abort();
}

__attribute__((constructor)) static void init(void) {
#ifndef LATE
    leave();
#endif
}

uint32_t devmon_plugin_abi(void) { return 1; }

void *devmon_plugin_new(const char *config) {
    (void)config;
    return &rounds;
}

char *devmon_plugin_collect(void *handle) {
    (void)handle;
    if (++rounds >= 3)
        leave();
    return strdup("{\"a\": 1}");
}

void devmon_plugin_free(char *json) { free(json); }

void devmon_plugin_drop(void *handle) { (void)handle; }
