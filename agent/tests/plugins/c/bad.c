/* Counts its rounds; in round 3 it does what MODE says. */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SEGFAULT 1
#define EXIT 2
#define MEMORY 3
#define LOOP 4
#define GARBAGE 5
#define NOT_UTF8 6
#define SHOUT 7
#define SHARED 8
#define CHILDREN 9
#define CHATTER 10

static int rounds;

uint32_t devmon_plugin_abi(void) { return 1; }

void *devmon_plugin_new(const char *config) {
    (void)config;
    return &rounds;
}

char *devmon_plugin_collect(void *handle) {
    (void)handle;
    if (++rounds >= 3) {
        switch (MODE) {
        case SEGFAULT:
            *(volatile int *)8 = 1;
            break;
        case EXIT:
            fprintf(stderr, "licence has run out\n");
            _exit(3);
        case MEMORY:
            for (;;)
                memset(malloc(1 << 20), 1, 1 << 20); /* the first NULL ends it */
        case LOOP:
            for (volatile int i = 0;; i++)
                ;
        case GARBAGE:
            return strdup("{\"a\": [1,");
        case NOT_UTF8:
            return strdup("\xff\xfe");
        case SHOUT:
            return NULL;
        case CHATTER:
            for (int i = 0; i < 20000; i++)
                fprintf(stderr, "line %d\n", i);
            break;
        case SHARED: { /* memory that RLIMIT_DATA does not count; it goes on answering */
            size_t size = 8 << 20;
            char *more = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
            if (more != MAP_FAILED)
                memset(more, 1, size);
            break;
        }
        case CHILDREN: /* four of 16 MiB each, for a minute; it goes on answering */
            for (int i = 0; rounds == 3 && i < 4; i++)
                if (fork() == 0) {
                    size_t size = 16 << 20;
                    memset(malloc(size), 1, size);
                    sleep(60);
                    _exit(0);
                }
        }
    }
    char *json = malloc(64);
    snprintf(json, 64, "{\"rounds\": %d, \"version\": %d}", rounds, VERSION);
    return json;
}

/* Longer than any message may be. */
const char *devmon_plugin_error(void *handle) {
    static char text[400 * 1024];
    (void)handle;
    if (MODE != SHOUT)
        return NULL;
    memset(text, 'x', sizeof text - 1);
    return text;
}

const char *devmon_plugin_describe(void *handle) {
    (void)handle;
    if (MODE == SHOUT) { /* more than one message holds */
        static char all[400 * 1024];
        char *end = all;
        for (int i = 0; i < 4000; i++)
            end += sprintf(end, "%c{\"path\":\"/a_name_that_is_rather_long_%d\",\"unit\":\"1\",\"kind\":\"gauge\",\"help\":\"X.\"}", i ? ',' : '[', i);
        strcpy(end, "]");
        return all;
    }
    return "[{\"path\":\"/rounds\",\"unit\":\"1\",\"kind\":\"gauge\",\"help\":\"Rounds so far.\"}]";
}

void devmon_plugin_free(char *json) { free(json); }

void devmon_plugin_drop(void *handle) { (void)handle; }
