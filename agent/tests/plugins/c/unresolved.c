// Calls a function that nobody has.
#include <stdint.h>
void no_such_function_anywhere(void);
uint32_t devmon_plugin_abi(void) { no_such_function_anywhere(); return 1; }
