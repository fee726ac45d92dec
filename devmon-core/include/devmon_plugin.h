/* The C entry of a devmon plugin: what the agent calls, and what it promises in return.
 *
 * A shared library named lib<name>.so (or libdevmon_<name>.so) that exports these functions is the source <name>. Texts are UTF-8 and end with NUL. The agent calls one
 * source from one thread at a time. Nothing may unwind or longjmp out of these functions. docs/plugins.md has the rules of names and units; `devmon-agent check-plugin FILE`
 * tells what is wrong with a plugin.
 */
#ifndef DEVMON_PLUGIN_H
#define DEVMON_PLUGIN_H

#include <stdint.h>

/* What devmon_plugin_abi returns. The agent refuses any other number. */
#define DEVMON_PLUGIN_ABI 1

/* Limits of a tree; one that passes them is refused whole. */
#define DEVMON_MAX_NAME_BYTES 128
#define DEVMON_MAX_TEXT_BYTES 1024
#define DEVMON_MAX_DEPTH 16
#define DEVMON_MAX_LEAVES 10000

#if defined(__GNUC__)
#define DEVMON_EXPORT __attribute__((visibility("default")))
#else
#define DEVMON_EXPORT
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* DEVMON_PLUGIN_ABI. */
DEVMON_EXPORT uint32_t devmon_plugin_abi(void);

/* Makes a source from its configuration, a JSON object ("{}" if the operator gave none). NULL: it could not be made; devmon_plugin_error(NULL) says why. */
DEVMON_EXPORT void *devmon_plugin_new(const char *config_json);

/* One round: the tree as a JSON object of numbers, booleans, texts and objects. NULL: no data this round if devmon_plugin_error gives NULL, else a failure. */
DEVMON_EXPORT char *devmon_plugin_collect(void *source);

/* Frees what devmon_plugin_collect returned; called before the next round. */
DEVMON_EXPORT void devmon_plugin_free(char *text);

/* Ends a source. */
DEVMON_EXPORT void devmon_plugin_drop(void *source);

/* Optional: what the leaves mean, as a JSON array of {"path", "unit", "kind": "gauge"|"counter"|"state"|"text", "help"}. Owned by the plugin, valid until the next call. */
DEVMON_EXPORT const char *devmon_plugin_describe(void *source);

/* Optional: why the last call gave NULL, for an operator; NULL: nothing is wrong. Owned by the plugin, valid until the next call. `source` may be NULL. */
DEVMON_EXPORT const char *devmon_plugin_error(void *source);

#ifdef __cplusplus
}
#endif

#endif
