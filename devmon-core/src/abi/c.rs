//! The C entry: for plugins in C, or in any language that can export C functions.
//!
//! ```c
//! uint32_t    devmon_plugin_abi(void);                    // 1; any other number is refused
//! void       *devmon_plugin_new(const char *config_json); // a source, or NULL: failed (ask devmon_plugin_error(NULL))
//! char       *devmon_plugin_collect(void *source);        // the tree as JSON, or NULL: no data this round
//! void        devmon_plugin_free(char *text);             // for what collect returned
//! void        devmon_plugin_drop(void *source);
//! const char *devmon_plugin_describe(void *source);       // optional: descriptors as a JSON array; owned by the plugin
//! const char *devmon_plugin_error(void *source);          // optional: why the last call gave NULL, or NULL: nothing wrong; owned by the plugin
//! ```
//!
//! `devmon-core/include/devmon_plugin.h` declares the same for C; `docs/plugins.md` is for authors. Texts are UTF-8 and NUL-terminated. The agent calls one source from one thread at a time and frees what `collect` returned before it calls again; texts owned
//! by the plugin must stay valid until the next call on that source. Nothing may unwind out of these functions. The source's name is the file's:
//! `libdevmon_x.so` and `libx.so` give `x`.

use std::ffi::{c_char, c_void};

/// What `devmon_plugin_abi` must return.
pub const C_ABI: u32 = 1;

pub const ABI_SYMBOL: &[u8] = b"devmon_plugin_abi\0";
pub const NEW_SYMBOL: &[u8] = b"devmon_plugin_new\0";
pub const COLLECT_SYMBOL: &[u8] = b"devmon_plugin_collect\0";
pub const FREE_SYMBOL: &[u8] = b"devmon_plugin_free\0";
pub const DROP_SYMBOL: &[u8] = b"devmon_plugin_drop\0";
pub const DESCRIBE_SYMBOL: &[u8] = b"devmon_plugin_describe\0";
pub const ERROR_SYMBOL: &[u8] = b"devmon_plugin_error\0";

pub type AbiFn = unsafe extern "C" fn() -> u32;
pub type NewFn = unsafe extern "C" fn(*const c_char) -> *mut c_void;
pub type CollectFn = unsafe extern "C" fn(*mut c_void) -> *mut c_char;
pub type FreeFn = unsafe extern "C" fn(*mut c_char);
pub type DropFn = unsafe extern "C" fn(*mut c_void);
pub type DescribeFn = unsafe extern "C" fn(*mut c_void) -> *const c_char;
pub type ErrorFn = unsafe extern "C" fn(*mut c_void) -> *const c_char;
