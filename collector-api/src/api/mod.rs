//! The REST API of `docs/rest-api.md`, and the dashboard's files. The only room that knows HTTP and warp.
//!
//! A call's way: [`server`] accepts the connection → `exchange` does what every call needs → [`routes`] finds the endpoint → [`params`] checks what was asked → `endpoints` asks `query`
//! → [`reply`] puts the answer into its documented form; what may be long is written while it is sent (`large`). Whatever fails on the way becomes a [`problem`]. Store calls block, so endpoints run on tokio's
//! blocking threads, a bounded number at a time; a panic there is an answer of status 500 and ends nothing else. One endpoint, [`events`], answers with a stream instead.
//!
//! The port answers before there is a store ([`Front`]): a journal may take a while to replay, and whoever watches should see that, not a closed port.

pub mod accept;
pub mod assets;
mod body;
mod calls;
mod csv;
mod endpoints;
mod events;
mod exchange;
mod large;
mod openapi;
pub mod page;
pub mod params;
mod patience;
mod places;
pub mod problem;
pub mod prometheus;
pub mod reply;
pub mod routes;
mod series;
pub mod server;
mod sheet;
pub mod time;

use std::fmt;
use std::sync::{Arc, OnceLock};

use devmon_core::wire::TimestampMs;

use crate::events::Events;
use crate::forward::Progress;
use crate::home_assistant;
use crate::intake::IntakeStatus;
use crate::query::descriptors::DescriptorCache;
use crate::query::names::NamesCache;
use crate::store::engine::Store;
pub use exchange::cors::{OriginError, Origins};
use problem::{Kind, Problem};

/// What the endpoints work with.
pub struct Api {
    pub store: Arc<dyn Store>,
    /// Asks the intake how it is.
    pub intake: Box<dyn Fn() -> IntakeStatus + Send + Sync>,
    /// How messages come in: `listener`, `broker` or `listener+broker`.
    pub mode: &'static str,
    /// When the collector started.
    pub started: TimestampMs,
    pub descriptors: DescriptorCache,
    pub events: Events,
    /// How forwarding goes, target by target.
    pub forwarding: Vec<Arc<Progress>>,
    /// How announcing to Home Assistant goes; `None`: it is off.
    pub home_assistant: Option<Arc<home_assistant::Progress>>,
    /// The words of Prometheus for them.
    pub names: NamesCache,
    /// What was answered since the start.
    pub requests: prometheus::Requests,
    /// What long answers on their way may take.
    room: large::Room,
    /// What else is to be done when a device is forgotten.
    forgotten: Box<dyn Fn(&str) + Send + Sync>,
}

impl Api {
    /// An API over a store that is open.
    pub fn new(
        store: Arc<dyn Store>,
        intake: impl Fn() -> IntakeStatus + Send + Sync + 'static,
        mode: &'static str,
        started: TimestampMs,
    ) -> Self {
        Self {
            store,
            intake: Box::new(intake),
            mode,
            started,
            descriptors: DescriptorCache::default(),
            events: Events::default(),
            forwarding: Vec::new(),
            home_assistant: None,
            names: NamesCache::default(),
            requests: prometheus::Requests::default(),
            room: large::Room::of(large::ROOM_BYTES),
            forgotten: Box::new(|_| {}),
        }
    }

    /// With something to do when a device is forgotten: its connection is closed, so that it says anew what it is.
    #[must_use]
    pub fn with_forgotten(mut self, forgotten: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.forgotten = Box::new(forgotten);
        self
    }

    /// With another bound than 128 MiB on the memory that long answers may take while they are sent.
    #[must_use]
    pub fn with_room(mut self, bytes: usize) -> Self {
        self.room = large::Room::of(bytes);
        self
    }

    /// With events that somebody makes; without this there are none.
    #[must_use]
    pub fn with_events(mut self, events: Events) -> Self {
        self.events = events;
        self
    }

    /// With what is forwarded; without this nothing is.
    #[must_use]
    pub fn with_forwarding(mut self, forwarding: Vec<Arc<Progress>>) -> Self {
        self.forwarding = forwarding;
        self
    }

    /// With what is said to Home Assistant; without this nothing is.
    #[must_use]
    pub fn with_home_assistant(mut self, announced: Option<Arc<home_assistant::Progress>>) -> Self {
        self.home_assistant = announced;
        self
    }
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api")
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

/// What the server answers from: an [`Api`] once there is one. Before, probes and the dashboard's files are answered, and calls that need the store are told
/// how far it is.
pub struct Front {
    /// What a caller has to know; `None`: everybody may ask.
    token: Option<String>,
    api: OnceLock<Api>,
    opening: Box<dyn Fn() -> String + Send + Sync>,
}

impl Front {
    /// Of a store that is being opened; `opening` says how far it is.
    pub fn new(
        token: Option<String>,
        opening: impl Fn() -> String + Send + Sync + 'static,
    ) -> Self {
        Self {
            token,
            api: OnceLock::new(),
            opening: Box::new(opening),
        }
    }

    /// The store is open: from now on all calls are answered.
    pub fn open(&self, api: Api) {
        let first = self.api.set(api);
        debug_assert!(first.is_ok(), "a store is opened once");
    }

    /// The collector ends: lets streams end, which would go on for ever.
    fn end_streams(&self) {
        if let Some(api) = self.api.get() {
            api.events.close();
        }
    }

    fn api(&self) -> Result<&Api, Problem> {
        self.api.get().ok_or_else(|| {
            let opening = (self.opening)();
            Problem::new(Kind::NotReady, format!("opening: {opening}"))
        })
    }
}

impl fmt::Debug for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Front")
            .field("api", &self.api)
            .finish_non_exhaustive() // the token stays out of logs
    }
}
