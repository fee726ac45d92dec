//! The REST API of `docs/rest-api.md`, and the dashboard's files. The only room that knows HTTP and warp.
//!
//! A call's way: [`server`] accepts the connection → [`routes`] finds the endpoint → [`params`] checks what was asked → `endpoints` asks `query`
//! → [`reply`] puts the answer into its documented form. Whatever fails on the way becomes a [`problem`]. Store calls block, so endpoints run on tokio's
//! blocking threads, a bounded number at a time; a panic there is an answer of status 500 and ends nothing else.

pub mod assets;
mod endpoints;
pub mod page;
pub mod params;
pub mod problem;
pub mod reply;
pub mod routes;
pub mod server;
pub mod time;

use std::fmt;
use std::sync::Arc;

use devmon_core::wire::TimestampMs;

use crate::intake::IntakeStatus;
use crate::query::descriptors::DescriptorCache;
use crate::store::engine::Store;

/// What the endpoints work with.
pub struct Api {
    pub store: Arc<dyn Store>,
    /// Asks the intake how it is.
    pub intake: Box<dyn Fn() -> IntakeStatus + Send + Sync>,
    /// How messages come in: `listener`, `broker` or `listener+broker`.
    pub mode: &'static str,
    /// When the collector started.
    pub started: TimestampMs,
    /// What a caller has to know; `None`: everybody may ask.
    pub token: Option<String>,
    pub descriptors: DescriptorCache,
}

impl Api {
    /// An API over a store, started now.
    pub fn new(
        store: Arc<dyn Store>,
        intake: impl Fn() -> IntakeStatus + Send + Sync + 'static,
        mode: &'static str,
        token: Option<String>,
    ) -> Self {
        Self {
            store,
            intake: Box::new(intake),
            mode,
            started: TimestampMs::now(),
            token,
            descriptors: DescriptorCache::default(),
        }
    }
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api")
            .field("mode", &self.mode)
            .finish_non_exhaustive() // the token stays out of logs
    }
}
