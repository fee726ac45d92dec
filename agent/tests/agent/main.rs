//! The agent as its users have it: the binary, real plugin files, a real broker.
//!
//! One test binary, for linking costs more than the tests. `support` builds the plugins and runs the processes.

#![expect(
    clippy::unwrap_used,
    reason = "a test that can not go on fails there; helpers are part of the tests"
)]

mod check_plugin;
mod cli;
mod control;
mod isolation;
mod plugins;
mod publish;
mod spool;
mod support;
mod tls;
mod trust;
