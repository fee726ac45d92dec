// Claims the C ABI and lacks most of it.
#include <stdint.h>
uint32_t devmon_plugin_abi(void) { return 1; }
void *devmon_plugin_new(const char *config) { (void)config; return (void *)1; }
