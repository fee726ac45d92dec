//! The stable ABI between a plugin and the agent: the contract, its version, and both sides' conversions.
//!
//! A plugin is a dynamic library with one of two entries:
//! - **Rust** ([`source`]): an abi_stable root module, made by [`export_plugin!`](crate::export_plugin). The layout of every type that crosses is checked at
//!   load, both ways, so an older plugin runs in a newer agent and the other way round.
//! - **C** ([`c`]): seven plain functions; the tree travels as JSON.
//!
//! # What may change, and how
//!
//! [`ABI_MAJOR`] changes when an old plugin can no longer be used; that is refused at load by name. [`ABI_MINOR`] grows when something is *added*, under these
//! rules, which keep each older interface a prefix of the newer one:
//! - a new method goes last in [`source::AbiSource`] and has a default body; a new field goes last in [`source::PluginModule`];
//! - [`source::AbiNode`] and [`source::AbiCollected`] never change: their `kind` and `outcome` are open numbers, and a reader skips those it does not know;
//! - supertraits, field order and existing signatures never change.
//!
//! | minor | added |
//! |---|---|
//! | 0 | name, version, `new`; `describe`, `collect` |
//! | 1 | `default_interval_ms` in the root module; `facts` of a source |
//!
//! # Panics and ownership
//!
//! A panic that crossed this boundary would end the agent, so `export_plugin!` catches it inside the plugin and hands it over as text. Everything that
//! crosses is owned by the receiver and freed through the allocator of the side that made it (abi_stable's vtables see to it; the C entry
//! has `devmon_plugin_free`). A plugin has its own copy of std: the agent's logging and threads are invisible to it. `unsafe` lives here and in the agent's loader only.

pub mod c;
mod export;
pub mod source;

/// Plugins of another major version are refused.
pub const ABI_MAJOR: u32 = 1;
/// Grows when something is added; see the table above.
pub const ABI_MINOR: u32 = 1;

/// What [`export_plugin!`](crate::export_plugin) expands to needs these names.
#[doc(hidden)]
pub mod private {
    pub use super::export::{Exported, collected, facts_json, panic_text, start};
    pub use abi_stable::{
        library::{__call_root_module_loader, CheckTypeLayout, LibHeader, RootModuleResult},
        prefix_type::PrefixTypeTrait,
        std_types::{RResult, RStr, RString},
    };
}
