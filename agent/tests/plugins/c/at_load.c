/* What it does is done while it is loaded: it takes so much memory (MIB), or it hangs as long as there is a file FLAG (a path), or for ever without one. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef FLAG
#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
#define STUCK (access(TEXT(FLAG), F_OK) == 0)
#else
#define STUCK 1
#endif

__attribute__((constructor)) static void load(void) {
#ifdef MIB
    memset(malloc((size_t)MIB << 20), 1, (size_t)MIB << 20);
#else
    if (STUCK)
        sleep(1000);
#endif
}

uint32_t devmon_plugin_abi(void) { return 1; }

void *devmon_plugin_new(const char *config) { return config ? strdup(config) : 0; }

char *devmon_plugin_collect(void *handle) { return handle ? strdup("{\"version\": 1}") : 0; }

void devmon_plugin_free(char *json) { free(json); }

void devmon_plugin_drop(void *handle) { free(handle); }
