//! The words of devmon, and everything that its two daemons share.
//!
//! # The words
//!
//! A **device** is one monitored machine. On it, an agent runs **sources**; each returns a [`MetricTree`] when asked: a recursive value whose
//! branches map names to nodes and whose leaves are [`Value`]s. The address of a leaf is its [`MetricPath`], an RFC 6901 JSON Pointer such as
//! `/disk/~1home/used_bytes`. A [`Descriptor`](descriptor::Descriptor) says what the leaves of a path template mean: unit, kind, help.
//! A **frame** is one source's tree at one time; a **message** carries frames of one device over MQTT; a **series** is one path of one
//! device over time.
//!
//! # The layers
//!
//! [`tree`] knows [`path`]; [`descriptor`] knows [`path`]; [`rules`] says which names, units and values are good; [`abi`] carries trees between a
//! plugin and the agent. That is all a plugin author sees. The daemons switch on more: [`wire`] (device ids, topics, messages as bytes), [`journal`] (the append-only log on disk),
//! [`config`] (TOML with positions in its errors), [`tls`] (certificates by file name). Nothing here starts a thread, opens a socket or
//! loads a library.
//!
//! # A source in full
//!
//! ```
//! use devmon_core::{CollectError, MetricSource, MetricTree};
//!
//! struct Uptime(std::time::Instant);
//!
//! impl MetricSource for Uptime {
//!     fn collect(&mut self) -> Result<MetricTree, CollectError> {
//!         let mut tree = MetricTree::new();
//!         tree.set("uptime_seconds", self.0.elapsed().as_secs_f64());
//!         Ok(tree)
//!     }
//! }
//!
//! let tree = Uptime(std::time::Instant::now()).collect()?;
//! assert_eq!(tree.leaves().next().unwrap().0.to_string(), "/uptime_seconds");
//! # Ok::<(), CollectError>(())
//! ```
//!
//! Add [`export_plugin!`], build it as a `cdylib`, and drop the file into the agent's plugin directory.

pub mod abi;
pub mod descriptor;
pub mod path;
pub mod rules;
pub mod source;
pub mod tree;

#[cfg(feature = "config")]
pub mod config;
#[cfg(feature = "journal")]
pub mod journal;
#[cfg(feature = "tls")]
pub mod tls;
#[cfg(feature = "wire")]
pub mod wire;

pub use path::MetricPath;
pub use source::{CollectError, MetricSource};
pub use tree::{MetricTree, Node, Value};
