//! The devmon agent: measures one device and publishes what it sees.
//!
//! # The way of a sample
//!
//! [`plugins`] turns files into sources, each on its own thread. [`schedule`] says when each is due, on multiples of its interval on the wall clock; the [`daemon`] asks
//! those and gathers their trees into frames of one message. The message waits in the [`outbox`] until [`publish`] has the broker's PUBACK for it; what waits for long goes to disk, to the [`spool`].
//!
//! # Around it
//!
//! [`cli`] is what was typed, [`config`] what it means together with environment and file, [`connection`] where the broker is and what its refusals mean, [`about`] what the device
//! says about itself, [`show`] the commands that print, [`check_plugin`] tells an author what is wrong.
//!
//! # What it promises
//!
//! It starts whatever the plugins or the broker are like. A source that hangs, fails or panics costs only its own metrics, and its state says why. A sample is sent until it is
//! acknowledged or counted as dropped, over restarts and power cuts.

pub mod about;
pub mod batch;
pub mod check;
pub mod check_plugin;
pub mod cli;
pub mod clock;
pub mod config;
pub mod connection;
pub mod control;
pub mod daemon;
pub mod footprint;
mod holder;
mod log;
pub mod outbox;
pub mod own;
pub mod plugins;
mod private;
pub mod publish;
pub mod schedule;
mod scratch;
pub mod service;
pub mod show;
pub mod spool;
