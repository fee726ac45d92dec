//! The collector's own figures.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

use devmon_core::wire::TimestampMs;
use schemars::JsonSchema;
use serde::Serialize;

use crate::api::openapi::schemas::{self, UnixMs};
use crate::events::Counters;
use crate::forward::Figures;
use crate::home_assistant;
use crate::intake::IntakeStatus;
use crate::store::engine::StoreStatus;

/// The collector's own figures.
#[derive(Serialize, JsonSchema)]
pub struct Status<'a> {
    pub(in crate::api) version: &'static str,
    #[schemars(with = "UnixMs")]
    pub(in crate::api) started: TimestampMs,
    #[schemars(schema_with = "schemas::device_counts")]
    pub(in crate::api) devices: BTreeMap<&'static str, u64>,
    pub(in crate::api) series: u64,
    pub(in crate::api) intake: Intake<'a>,
    pub(in crate::api) store: StoreFigures<'a>,
    pub(in crate::api) events: EventFigures,
    pub(in crate::api) remote_write: Vec<RemoteWrite<'a>>,
    /// `null` while it is off.
    pub(in crate::api) home_assistant: Option<HomeAssistant<'a>>,
}

#[derive(Serialize, JsonSchema)]
pub(in crate::api) struct Intake<'a> {
    #[schemars(schema_with = "schemas::intake_mode")]
    mode: &'static str,
    connections: u64,
    messages: u64,
    samples: u64,
    duplicates: u64,
    dead_letters: u64,
    #[schemars(schema_with = "schemas::rejected")]
    rejected: &'a BTreeMap<&'static str, u64>,
    last_commit_ms: f64,
    broker: Option<Broker<'a>>,
}

#[derive(Serialize, JsonSchema)]
struct Broker<'a> {
    address: &'a str,
    connected: bool,
    last_error: Option<&'a str>,
}

impl<'a> Intake<'a> {
    pub(in crate::api) fn new(
        mode: &'static str,
        status: &'a IntakeStatus,
        store: &StoreStatus,
    ) -> Self {
        Self {
            mode,
            connections: status.connections,
            messages: status.messages,
            samples: status.samples,
            duplicates: status.duplicates,
            dead_letters: status.refused.values().sum(),
            rejected: &status.refused,
            last_commit_ms: store.last_commit_us as f64 / 1000.0,
            broker: status.broker.as_ref().map(|broker| Broker {
                address: &broker.address,
                connected: broker.connected,
                last_error: broker.last_error.as_deref(),
            }),
        }
    }
}

#[derive(Serialize, JsonSchema)]
pub(in crate::api) struct StoreFigures<'a> {
    #[schemars(schema_with = "schemas::store_state")]
    state: &'static str,
    reason: Option<&'a str>,
    journal_bytes: u64,
    blocks: u64,
    database_bytes: u64,
    head_samples: u64,
    dead_letters_bytes: u64,
    archive_files: u64,
    archive_bytes: u64,
    /// Begin of the oldest day of which samples are kept in a file, and of those of which nothing finer than a minute, or an hour, is.
    #[schemars(with = "Option<UnixMs>")]
    oldest_day: Option<TimestampMs>,
    #[schemars(with = "Option<UnixMs>")]
    oldest_day_1m: Option<TimestampMs>,
    #[schemars(with = "Option<UnixMs>")]
    oldest_day_1h: Option<TimestampMs>,
}

/// The state of a store in a word, and why. The worst first: nothing is taken in; all is, but not yet where it belongs; something was lost before.
pub(in crate::api) fn state(status: &StoreStatus) -> (&'static str, Option<&str>) {
    let lesser = status
        .sealing_problem
        .as_deref()
        .or(status.archive_problem.as_deref())
        .or(status.degraded.as_deref());
    match (status.problem.as_deref(), lesser) {
        (Some(reason), _) => ("failing", Some(reason)),
        (None, Some(reason)) => ("degraded", Some(reason)),
        (None, None) => ("ok", None),
    }
}

impl<'a> From<&'a StoreStatus> for StoreFigures<'a> {
    fn from(status: &'a StoreStatus) -> Self {
        let (state, reason) = state(status);
        Self {
            state,
            reason,
            journal_bytes: status.journal_bytes,
            blocks: status.blocks,
            database_bytes: status.database_bytes,
            head_samples: status.head_samples,
            dead_letters_bytes: status.dead_letters_bytes,
            archive_files: status.archive_files,
            archive_bytes: status.archive_bytes,
            oldest_day: status.oldest_day,
            oldest_day_1m: status.oldest_day_1m,
            oldest_day_1h: status.oldest_day_1h,
        }
    }
}

#[derive(Serialize, JsonSchema)]
pub(in crate::api) struct EventFigures {
    clients: u64,
    sent: u64,
    gaps: u64,
    dropped: u64,
}

impl From<&Counters> for EventFigures {
    fn from(counters: &Counters) -> Self {
        Self {
            clients: counters.clients.load(Relaxed),
            sent: counters.sent.load(Relaxed),
            gaps: counters.gaps.load(Relaxed),
            dropped: counters.dropped.load(Relaxed),
        }
    }
}

/// One target of remote write.
#[derive(Serialize, JsonSchema)]
pub(in crate::api) struct RemoteWrite<'a> {
    name: &'a str,
    url: &'a str,
    /// `ok`, or `failing` while requests are not answered.
    state: &'static str,
    reason: Option<&'a str>,
    samples_sent: u64,
    samples_dropped: BTreeMap<&'static str, u64>,
    failures: BTreeMap<&'static str, u64>,
    behind_seconds: f64,
    behind_bytes: u64,
    #[schemars(with = "Option<UnixMs>")]
    last_sent: Option<TimestampMs>,
    last_refusal: Option<&'a str>,
}

impl<'a> From<&'a Figures> for RemoteWrite<'a> {
    fn from(figures: &'a Figures) -> Self {
        let failing = figures.problem.is_some();
        Self {
            name: &figures.name,
            url: &figures.url,
            state: if failing { "failing" } else { "ok" },
            reason: figures.problem.as_deref(),
            samples_sent: figures.sent,
            samples_dropped: figures.dropped.iter().copied().collect(),
            failures: figures.failures.iter().copied().collect(),
            behind_seconds: figures.behind_seconds,
            behind_bytes: figures.behind_bytes,
            last_sent: figures.last_sent,
            last_refusal: figures.last_refusal.as_deref(),
        }
    }
}

/// What is said to Home Assistant.
#[derive(Serialize, JsonSchema)]
pub(in crate::api) struct HomeAssistant<'a> {
    /// `ok`, or `failing` while nothing is said, or nothing of it may arrive.
    state: &'static str,
    reason: Option<&'a str>,
    devices: u64,
    entities: u64,
    /// Series that are chosen and not said: there are too many.
    left_out: u64,
    waiting: u64,
    published: u64,
    births: u64,
}

impl<'a> From<&'a home_assistant::Figures> for HomeAssistant<'a> {
    fn from(figures: &'a home_assistant::Figures) -> Self {
        let failing = figures.problem.is_some();
        Self {
            state: if failing { "failing" } else { "ok" },
            reason: figures.problem.as_deref(),
            devices: figures.devices,
            entities: figures.entities,
            left_out: figures.left_out,
            waiting: figures.waiting,
            published: figures.published,
            births: figures.births,
        }
    }
}
