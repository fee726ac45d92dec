//! Remote write to real receivers (Debian's victoria-metrics and prometheus) from a real collector: what it stores they hold, whoever is down or killed meanwhile.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test may panic as the test does"
)]

mod agreement;
mod answers;
mod collector;
mod gate;
mod outages;
mod receivers;
mod tls;
