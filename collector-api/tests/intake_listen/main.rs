//! The listener, as clients see it: hand-made packets over real sockets, into a real store.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test may panic as the test does"
)]

mod client;
mod collector;
mod protocol;
mod publishing;
mod tls;
mod wills;
