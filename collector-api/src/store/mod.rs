//! The store: keeps samples durably and reads them back.
//!
//! [`engine`] is the contract; all above speak to its trait only. [`Engine`] keeps it, on the local disk. The way of a batch through the files:
//!
//! 1. [`engine`]'s `commit` → `local`: repeats are dropped (`dedupe`), the rest is written to the journal (`record`) and fsynced: durable.
//! 2. `catalogue` and `head`: devices, series and recent samples, in memory: visible. A restart rebuilds them from the journal.
//! 3. `seal`: now and then the head becomes blocks (`column`, `block`) in the database (`kv`, over sled), and the journal is trimmed.
//! 4. `range` reads head and blocks together; `retention` drops old hours; `dead_letters` keeps what was refused.

pub mod engine;

mod blob;
mod block;
mod catalogue;
mod column;
mod dead_letters;
mod dedupe;
#[cfg(test)]
mod fault_tests;
mod head;
mod kv;
mod layout;
mod local;
mod open;
mod persist;
mod range;
mod record;
mod retention;
pub mod rollup;
mod seal;
#[cfg(test)]
mod seal_tests;
mod varint;

pub use local::{Engine, Options};
