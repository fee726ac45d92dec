// A plain C plugin: counts its rounds; round 3 has no data, round 4 fails.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct source { int rounds; const char *error; };

uint32_t devmon_plugin_abi(void) { return 1; }

void *devmon_plugin_new(const char *config_json) {
    return strstr(config_json, "refuse") ? NULL : calloc(1, sizeof(struct source));
}

char *devmon_plugin_collect(void *p) {
    struct source *s = p;
    s->error = NULL;
    if (++s->rounds == 3) return NULL;
    if (s->rounds == 4) { s->error = "sensor unplugged"; return NULL; }
    char *text = malloc(64);
    snprintf(text, 64, "{\"rounds\":%d,\"tank\":{\"level\":0.5}}", s->rounds);
    return text;
}

void devmon_plugin_free(char *text) { free(text); }
void devmon_plugin_drop(void *p) { free(p); }

const char *devmon_plugin_describe(void *p) {
    (void)p;
    return "[{\"path\":\"/tank/level\",\"unit\":\"1\",\"kind\":\"gauge\",\"help\":\"How full.\"}]";
}

const char *devmon_plugin_error(void *p) { return p ? ((struct source *)p)->error : "told to refuse"; }
