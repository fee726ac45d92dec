//! The store: keeps samples durably and reads them back.
//!
//! [`engine`] is the contract; all above speak to its trait only. [`Engine`] keeps it, on the local disk. The way of a batch through the files:
//!
//! 1. [`engine`]'s `commit` → `local`: repeats are dropped (`dedupe`), the rest is written to the journal (`record`) and fsynced: durable.
//! 2. `catalogue` and `head`: devices, series and recent samples, in memory: visible. A restart rebuilds them from the journal.
//! 3. `seal`: now and then the head becomes blocks (`column`, `block`) in the database (`kv`, over sled), which says how far it is (`watermark`), and the journal is trimmed.
//! 4. `compact`: closed days become files (`days`, `merge`, `archive`), which get coarser and go as they age (`retention`).
//! 5. `range` reads files, blocks and heads together; [`rollup`] makes minutes and hours of them ([`tally`] is the arithmetic), `stored` takes those that files
//!    have; `dead_letters` keeps what was refused.
//! 6. `follow` reads the journal for those who pass on what was committed; `pin` keeps it for them. `measured` says how large it is while somebody writes.
//! 7. [`verify`] and `look` read a store that nobody has open, damaged ones too.

#[doc(hidden)]
pub mod bench;
pub mod engine;

mod admit;
mod archive;
mod blob;
mod block;
mod bounds;
mod catalogue;
mod column;
mod compact;
#[cfg(test)]
mod compact_tests;
mod days;
mod dead_letters;
mod dedupe;
#[cfg(test)]
mod fault_tests;
mod follow;
mod gaps;
mod groups;
mod head;
mod kv;
mod labels;
mod layout;
mod local;
mod look;
mod measured;
mod merge;
mod names;
mod open;
mod persist;
mod pin;
mod purge;
mod range;
mod record;
mod reserve;
mod retention;
pub mod rollup;
mod seal;
#[cfg(test)]
pub(crate) mod seal_tests;
mod stored;
pub mod tally;
#[cfg(test)]
mod turn_tests;
mod varint;
pub mod verify;
mod watermark;
mod writing;

pub use column::Cells;
pub use gaps::Gaps;
pub use local::{Engine, Options};
pub use look::{Figures, TierFigures, figures};
pub use open::HowFar;
pub use pin::{Pin, Pins};
pub use retention::{Keep, Pattern};
