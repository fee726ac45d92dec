//! The REST API against a store in memory, over real HTTP: every endpoint by the contract of `docs/rest-api.md`.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test may panic as the test does"
)]

mod devices;
mod errors;
mod exchange;
mod fleet;
mod fleet_series;
mod labels;
mod large;
mod lists;
mod mistakes;
mod model;
mod openapi;
mod pages;
mod prometheus;
mod promql;
mod series;
mod status;
mod support;
