//! Home Assistant discovery over a real mosquitto, from the program itself: what is retained, what is said again, what is taken back.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test may panic as the test does"
)]

mod announcing;
mod broker;
mod collector;
mod rights;
