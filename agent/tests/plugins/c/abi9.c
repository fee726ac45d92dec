// Built for a C ABI that does not exist yet.
#include <stdint.h>
uint32_t devmon_plugin_abi(void) { return 9; }
