//! The collector: takes the devices' messages in over MQTT, keeps every leaf of their trees as a time series, answers questions about them.
//!
//! The rooms, in the order in which a sample travels. Each imports only from those before it; [`store::engine`] is the contract between them.
//!
//! 1. [`intake`] receives messages, checks them, and acknowledges them once the store has them on disk.
//! 2. [`store`] keeps samples: what is durable when, how it is ordered, when it is visible.
//! 3. [`query`] answers over the store: status of devices, ranges, buckets, rates. Pure logic; the only place where rates are made.
//! 4. [`events`] tells what happens as it happens: made of what is committed, kept for a while, read by followers.
//! 5. [`forward`] passes on what is committed, by remote write.
//! 6. [`home_assistant`] tells Home Assistant of chosen paths, over the broker.
//! 7. [`api`] is the REST API and the dashboard's files; the only room that knows HTTP.
//!
//! Around them: [`commands`] looks after a store that does not run; [`cli`] is what was typed, [`config`] what it means, [`serve`] wires the rooms together and takes them down in order,
//! [`certs`] makes certificates for development.

pub mod api;
pub mod certs;
pub mod cli;
pub mod commands;
pub mod config;
mod courtesy;
pub mod events;
pub mod forward;
pub mod home_assistant;
pub mod intake;
pub mod query;
pub mod serve;
pub mod store;
