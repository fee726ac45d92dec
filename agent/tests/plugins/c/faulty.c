// Does wrong what its configuration says, for the tests of check-plugin: {"do":"crash"}. Without a word it does nothing wrong.
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct source { char fault[32]; int rounds; const char *error; };

static void *volatile reserved;
static int silent;
static int lives; // sources made and not dropped

uint32_t devmon_plugin_abi(void) { return 1; }

void *devmon_plugin_new(const char *config) {
    const char *fault = strstr(config, "\"do\":\"");
    if (strstr(config, "\"crash-in-new\"")) abort();
    if (strstr(config, "\"refuse\"")) return NULL;
    if (strstr(config, "\"once\"") && lives++) return NULL;
    if (strstr(config, "\"large\"") && !(reserved = malloc(180 << 20))) return silent = 1, NULL;
    struct source *s = calloc(1, sizeof *s);
    if (fault) sscanf(fault, "\"do\":\"%31[^\"]", s->fault);
    return s;
}

static void sleep_for_ever(void) { for (;;) pause(); }

static void *sleeper(void *nothing) { pause(); return nothing; }

static int deep(int n) { volatile char page[4096]; page[0] = (char)n; return n ? deep(n - 1) + page[0] : 0; }

static char *copied(const char *text) { return strdup(text); }

char *devmon_plugin_collect(void *p) {
    struct source *s = p;
    int round = ++s->rounds;
#define FAULT(name) (strcmp(s->fault, name) == 0)
    s->error = NULL;
    if (FAULT("crash") && round == 3) *(volatile int *)8 = 1;
    if (FAULT("overflow")) return deep(1000) ? copied("{}") : copied("{\"a\":1}"); // 4 MB of stack
    if (FAULT("exit") && round == 2) exit(3);
    if (FAULT("hang") && round == 2) for (;;) pause();
    if (FAULT("eat")) for (;;) memset(malloc(1 << 20), 1, 1 << 20);
    if (FAULT("null")) return NULL;
    if (FAULT("garbage")) return copied("{\"a\":");
    if (FAULT("no-object")) return copied("[1]");
    if (FAULT("empty")) return copied("{}");
    if (FAULT("fails") && round % 2) { s->error = "sensor unplugged"; return NULL; }
    if (FAULT("crash-at-exit") && round == 1) atexit(abort);
    if (FAULT("hang-at-exit") && round == 1) atexit(sleep_for_ever);
    if (FAULT("leaves-a-process") && round == 2) {
        if (fork() == 0) { execl("/bin/sleep", "sleep", "5", (char *)0); _exit(1); }
        abort();
    }
    if (FAULT("forks") && round == 2 && fork() == 0) for (;;) pause();
    if (FAULT("over") ) return copied(round < 20 ? "{\"utilization\":0.5}" : "{\"utilization\":1.5}");
    if (FAULT("trickle")) memset(malloc(100), 1, 100);
    if (FAULT("leak")) memset(malloc(4096), 1, 4096);
    if (FAULT("files")) (void)!open("/dev/null", O_RDONLY);
    if (FAULT("threads") && round < 40) {
        pthread_t thread;
        pthread_attr_t small;
        pthread_attr_init(&small);
        pthread_attr_setstacksize(&small, 65536);
        pthread_create(&thread, &small, sleeper, NULL);
    }
    if (FAULT("prints")) printf("round %d\n", round);
    if (FAULT("slow")) usleep(2100000);
    char *text = malloc(2 << 20);
    if (FAULT("fell")) sprintf(text, "{\"seen_total\":%d}", 100 - round);
    else if (FAULT("strays")) sprintf(text, "{\"process\":{\"%d\":1}}", round);
    else if (FAULT("changes")) sprintf(text, round % 2 ? "{\"answer\":1}" : "{\"answer\":\"one\"}");
    else if (FAULT("names")) sprintf(text, "{\"used_mb\":1,\"latency_ms\":1,\"cpu_percent\":1,\"disk\":{\"utilization\":55}}");
    else if (FAULT("limits")) {
        char *end = text + sprintf(text, "{\"answer\":1,\"list\":[1],\"big\":10000000000000000000,\"\":1,\"long\":\"");
        memset(end, 'x', 2000);
        end += 2000 + sprintf(end + 2000, "\",\"deep\":");
        for (int i = 0; i < 20; i++) end += sprintf(end, "{\"d\":");
        end += sprintf(end, "1");
        for (int i = 0; i < 20; i++) end += sprintf(end, "}");
        sprintf(end, "}");
    } else if (FAULT("many")) {
        char *end = text + sprintf(text, "{\"answer\":1");
        for (int i = 0; i < 20000; i++) end += sprintf(end, ",\"n%d\":1", i);
        sprintf(end, "}");
    } else if (FAULT("texts")) {
        char *end = text + sprintf(text, "{\"answer\":1");
        for (int i = 0; i < 1500; i++) end += sprintf(end, ",\"t%d\":\"%01000d\"", i, i);
        sprintf(end, "}");
    } else sprintf(text, "{\"answer\":%d}", round);
    return text;
}

void devmon_plugin_free(char *text) { free(text); }

void devmon_plugin_drop(void *p) {
    if (strcmp(((struct source *)p)->fault, "crash-in-drop") == 0) abort();
    free(p);
}

const char *devmon_plugin_describe(void *p) {
    struct source *s = p;
    if (FAULT("undescribed")) return NULL;
    if (FAULT("bad-describe")) return "[{\"path\":\"/a\",\"kind\":\"gague\"}]";
    if (FAULT("describes-wrongly"))
        return "[{\"path\":\"/answer\",\"unit\":\"KiBy\",\"kind\":\"text\",\"help\":\"x\"},{\"path\":\"/used\",\"unit\":\"By\",\"kind\":\"gauge\",\"help\":\"X.\"},"
               "{\"path\":\"/seen\",\"unit\":\"1\",\"kind\":\"counter\",\"help\":\"X.\"}]";
    if (FAULT("over")) return "[{\"path\":\"/utilization\",\"unit\":\"1\",\"kind\":\"gauge\",\"help\":\"X.\"}]";
    if (FAULT("fell")) return "[{\"path\":\"/seen_total\",\"unit\":\"1\",\"kind\":\"counter\",\"help\":\"X.\"}]";
    if (FAULT("strays")) return "[{\"path\":\"/process/{pid}\",\"unit\":\"1\",\"kind\":\"gauge\",\"help\":\"X.\"}]";
    return "[{\"path\":\"/answer\",\"unit\":\"1\",\"kind\":\"gauge\",\"help\":\"The answer.\"}]";
}

const char *devmon_plugin_error(void *p) { return p ? ((struct source *)p)->error : silent ? NULL : "told to refuse"; }
