//! Home Assistant: in broker mode, chosen paths are announced by its MQTT discovery, and their values said in a form that its templates can read. Off unless configured.
//!
//! # Promises
//! - An entity is there for each series that a pattern chooses, of each device that is chosen: discovery is retained, said at each connection, and again a moment after Home Assistant's birth message.
//! - What is no longer chosen, or no longer there, is taken back: its retained messages are emptied. What to take back is read from the broker itself, so it is known after a restart, and with a new
//!   data directory, too.
//! - Honest: an entity is available while the collector is connected, its device online, and its own series comes. What does not come is `null`, never 0 and never the last value.
//! - Bounded: a device's state is said once an interval at most, and only if it has changed; so many messages at once, then their acknowledgements are waited for; so many entities
//!   ([`MAX_ENTITIES`], [`MAX_DEVICE_ENTITIES`]), and what is beyond is counted.
//! - The intake knows nothing of it: it has a [connection](crate::intake::subscribe::line) of its own, and its topics are none that the intake reads.
//!
//! [`words`] has Home Assistant's words for ours, [`entity`] one entity and its message, [`desk`] what was said and what has to be, [`run`] the connection. It leaves to others: how a
//! device does (`query`), what there is (`store`).

mod desk;
#[cfg(test)]
mod desk_tests;
mod entity;
mod progress;
mod run;
mod settings;
mod words;

pub use progress::{Figures, Progress};
pub use run::run;
pub use settings::{Keys, Settings};

/// Entities of all devices together. Home Assistant itself becomes slow with some ten thousand.
pub const MAX_ENTITIES: usize = 50_000;
/// Entities of one device: a state message of them has some 20 KiB.
pub const MAX_DEVICE_ENTITIES: usize = 500;
