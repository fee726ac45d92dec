//! `GET /api/v1/events` over real sockets, a real store and a real intake: what is stored is what is sent.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test may panic as the test does"
)]

mod changes;
mod client;
mod collector;
mod filters;
mod many;
mod resume;
mod slow;
