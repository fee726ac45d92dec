//! Answers in their documented form. Names and nullability here are the contract of `docs/rest-api.md`.
//!
//! Integers are written exactly, whatever their size; floats in the shortest form that reads back to the same bits.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

use base64::Engine as _;
use devmon_core::tree::MetricTree;
use devmon_core::wire::about::{AgentFacts, HostFacts, SourceState};
use devmon_core::wire::json::{TreeJson, ValueJson};
use devmon_core::wire::{Labels, TimestampMs};
use schemars::JsonSchema;
use serde::ser::SerializeSeq;
use serde::{Serialize, Serializer};
use warp::http::header::{CACHE_CONTROL, CONTENT_TYPE, LINK, X_CONTENT_TYPE_OPTIONS};
use warp::http::{HeaderValue, StatusCode};
use warp::hyper::body::Bytes;

use super::exchange::vary;
use super::openapi::schemas::{self, UnixMs};
use crate::events::Counters;
use crate::forward::Figures;
use crate::home_assistant;
use crate::intake::IntakeStatus;
use crate::query::aggregate::Aggregate;
use crate::query::column::Column;
use crate::query::descriptors::Described;
use crate::query::devices::{DeviceDetail, DeviceView, labels};
use crate::query::fleet::FleetLatest;
use crate::query::range::{SeriesAnswer, SeriesQuery};
use crate::store::Cells;
use crate::store::engine::{DeadLetter, SeriesRecord, StoreStatus};

/// Bytes of a dead letter's payload that a list shows.
pub const DEAD_LETTER_SHOWN_BYTES: usize = 4_096;

/// Five minutes: a look here and there at the same chart asks once.
const CLOSED: &str = "private, max-age=300";

/// An answer whose body is whole.
pub type Response = warp::http::Response<Bytes>;

/// An answer of the given type that must not be cached.
pub(super) fn respond(
    status: StatusCode,
    content_type: &'static str,
    document: &impl Serialize,
) -> Response {
    match serde_json::to_vec(document) {
        Ok(body) => bytes(status, content_type, body),
        Err(error) => {
            // Only a map with keys that are no strings can not be written; there is none.
            tracing::error!(%error, "an answer could not be written");
            bytes(
                StatusCode::INTERNAL_SERVER_ERROR,
                "application/problem+json",
                Vec::new(),
            )
        }
    }
}

/// An answer of bytes that must not be cached.
pub(super) fn bytes(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A good answer, which may be kept by whom asks each time whether it still holds (`ETag`: `exchange`).
pub(super) fn json(document: &impl Serialize) -> Response {
    kept(respond(StatusCode::OK, "application/json", document))
}

/// Lets the caller keep an answer, and ask whether it still holds.
pub(super) fn kept(mut response: Response) -> Response {
    let no_cache = HeaderValue::from_static("no-cache");
    response.headers_mut().insert(CACHE_CONTROL, no_cache);
    response
}

/// Lets the caller keep an answer about what is long over without asking, for a while: what comes late, or is forgotten, shows after that.
pub(super) fn keep_closed(response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(CLOSED));
    // Not for whom lost the token meanwhile.
    vary(headers, "authorization");
}

/// Says that there are other forms of this answer.
pub(super) fn with_vary(mut response: Response) -> Response {
    vary(response.headers_mut(), "accept");
    response
}

/// A good answer with nothing to say.
pub(super) fn done() -> Response {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(CACHE_CONTROL, no_store);
    response
}

/// Adds the link to the next page.
pub(super) fn with_link(mut response: Response, link: Option<String>) -> Response {
    if let Some(value) = link.and_then(|l| HeaderValue::try_from(l).ok()) {
        response.headers_mut().insert(LINK, value);
    }
    response
}

/// A page of a list.
#[derive(Debug, Serialize, JsonSchema)]
pub struct List<T> {
    pub items: Vec<T>,
    pub next_cursor: Option<String>,
}

/// A device in the list.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Device<'a> {
    pub(super) id: &'a str,
    #[schemars(schema_with = "schemas::device_status")]
    pub(super) status: &'static str,
    #[schemars(with = "UnixMs")]
    pub(super) first_seen: TimestampMs,
    #[schemars(with = "UnixMs")]
    pub(super) last_seen: TimestampMs,
    pub(super) sources: usize,
    pub(super) metrics: u64,
    pub(super) problems: usize,
    pub(super) labels: BTreeMap<&'a str, &'a str>,
}

impl<'a> From<&'a DeviceView> for Device<'a> {
    fn from(view: &'a DeviceView) -> Self {
        Self {
            id: view.record.id.as_str(),
            status: view.status.as_str(),
            first_seen: view.record.first_seen,
            last_seen: view.record.last_seen,
            sources: view.sources,
            metrics: view.record.series,
            problems: view.problems,
            labels: labels(&view.record),
        }
    }
}

/// A device in full.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DeviceInFull<'a> {
    id: &'a str,
    #[schemars(schema_with = "schemas::device_status")]
    status: &'static str,
    #[schemars(with = "UnixMs")]
    first_seen: TimestampMs,
    #[schemars(with = "UnixMs")]
    last_seen: TimestampMs,
    sources_count: usize,
    metrics: u64,
    problems: usize,
    /// Those that count, and whose they are.
    labels: BTreeMap<&'a str, &'a str>,
    agent_labels: BTreeMap<&'a str, &'a str>,
    operator_labels: BTreeMap<&'a str, &'a str>,
    #[schemars(with = "Option<schemas::AgentFacts>")]
    agent: Option<&'a AgentFacts>,
    #[schemars(with = "Option<schemas::HostFacts>")]
    host: Option<&'a HostFacts>,
    sources: Vec<Source<'a>>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Source<'a> {
    name: &'a str,
    #[schemars(schema_with = "schemas::source_state")]
    state: SourceState,
    reason: Option<&'a str>,
    interval_ms: u64,
    version: Option<&'a str>,
    #[schemars(with = "Option<UnixMs>")]
    last_ts: Option<TimestampMs>,
}

impl<'a> From<&'a DeviceDetail> for DeviceInFull<'a> {
    fn from(detail: &'a DeviceDetail) -> Self {
        let Device {
            id,
            status,
            first_seen,
            last_seen,
            sources,
            metrics,
            problems,
            labels,
        } = (&detail.view).into();
        let about = detail.view.record.about.as_deref();
        let listed = about
            .into_iter()
            .flat_map(|a| &a.sources)
            .zip(&detail.last_ts);
        Self {
            id,
            status,
            first_seen,
            last_seen,
            sources_count: sources,
            metrics,
            problems,
            labels,
            agent_labels: texts(about.map(|a| &a.labels)),
            operator_labels: texts(detail.view.record.labels.as_deref()),
            agent: about.map(|a| &a.agent),
            host: about.map(|a| &a.host),
            sources: listed
                .map(|(source, last_ts)| Source {
                    name: &source.name,
                    state: source.state,
                    reason: source.reason.as_deref(),
                    interval_ms: source.interval_ms,
                    version: source.version.as_deref(),
                    last_ts: *last_ts,
                })
                .collect(),
        }
    }
}

fn texts(labels: Option<&Labels>) -> BTreeMap<&str, &str> {
    let all = labels.into_iter().flatten();
    all.map(|(name, value)| (name.as_str(), value.as_str()))
        .collect()
}

/// A metric in the list.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Metric<'a> {
    pub(super) path: &'a str,
    pub(super) unit: Option<&'a str>,
    #[schemars(schema_with = "schemas::metric_kind")]
    pub(super) kind: Option<&'static str>,
    pub(super) help: Option<&'a str>,
    pub(super) labels: BTreeMap<&'a str, String>,
    #[serde(rename = "type")]
    #[schemars(schema_with = "schemas::value_type")]
    pub(super) type_: &'static str,
    #[schemars(with = "UnixMs")]
    pub(super) first_ts: TimestampMs,
    #[schemars(with = "UnixMs")]
    pub(super) last_ts: TimestampMs,
}

impl<'a> Metric<'a> {
    pub(super) fn new(record: &'a SeriesRecord, described: &'a Described) -> Self {
        let descriptor = described.find(&record.path);
        let labels = descriptor.and_then(|d| d.template.labels(&record.path));
        Self {
            path: record.path.as_str(),
            unit: descriptor.map(|d| d.unit.as_str()),
            kind: descriptor.map(|d| d.kind.as_str()),
            help: descriptor.map(|d| d.help.as_str()),
            labels: labels.into_iter().flatten().collect(),
            type_: record.last_value.type_name(),
            first_ts: record.first_ts,
            last_ts: record.last_ts,
        }
    }
}

/// The newest values, one an entry.
#[derive(Serialize, JsonSchema)]
pub struct LatestFlat<'a> {
    pub device: &'a str,
    pub items: Vec<Latest<'a>>,
}

/// A newest value.
#[derive(Serialize, JsonSchema)]
pub struct Latest<'a> {
    pub(super) path: &'a str,
    #[schemars(with = "schemas::MetricValue")]
    pub(super) value: ValueJson<'a>,
    #[schemars(with = "UnixMs")]
    pub(super) ts: TimestampMs,
    pub(super) unit: Option<&'a str>,
    #[schemars(schema_with = "schemas::metric_kind")]
    pub(super) kind: Option<&'static str>,
}

impl<'a> Latest<'a> {
    pub(super) fn new(record: &'a SeriesRecord, described: &'a Described) -> Self {
        let descriptor = described.find(&record.path);
        Self {
            path: record.path.as_str(),
            value: ValueJson(&record.last_value),
            ts: record.last_ts,
            unit: descriptor.map(|d| d.unit.as_str()),
            kind: descriptor.map(|d| d.kind.as_str()),
        }
    }
}

/// A newest value of one device of the fleet.
#[derive(Serialize, JsonSchema)]
pub struct FleetItem<'a> {
    pub(super) device: &'a str,
    #[schemars(schema_with = "schemas::device_status")]
    pub(super) status: &'static str,
    #[serde(flatten)]
    pub(super) latest: Latest<'a>,
}

impl<'a> From<&'a FleetLatest> for FleetItem<'a> {
    fn from(item: &'a FleetLatest) -> Self {
        Self {
            device: item.device.as_str(),
            status: item.status.as_str(),
            latest: Latest::new(&item.series, &item.described),
        }
    }
}

/// The newest values as a tree.
#[derive(Serialize, JsonSchema)]
pub struct LatestTree<'a> {
    device: &'a str,
    #[schemars(with = "schemas::Tree")]
    metrics: TreeJson<'a>,
}

impl<'a> LatestTree<'a> {
    pub(super) fn new(device: &'a str, tree: &'a MetricTree) -> Self {
        Self {
            device,
            metrics: TreeJson(tree),
        }
    }
}

/// Columns over time.
#[derive(Serialize, JsonSchema)]
pub struct Series<'a> {
    pub(super) device: &'a str,
    #[schemars(with = "UnixMs")]
    pub(super) from: TimestampMs,
    #[schemars(with = "UnixMs")]
    pub(super) to: TimestampMs,
    pub(super) step_ms: Option<i64>,
    #[schemars(schema_with = "schemas::tier")]
    pub(super) tier: &'static str,
    pub(super) t: &'a [i64],
    pub(super) series: Vec<SeriesColumn<'a>>,
    pub(super) next_cursor: Option<&'a str>,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct SeriesColumn<'a> {
    pub(super) path: &'a str,
    pub(super) unit: Option<&'a str>,
    #[schemars(schema_with = "schemas::metric_kind")]
    pub(super) kind: Option<&'static str>,
    #[schemars(schema_with = "schemas::aggregate")]
    pub(super) agg: Option<&'static str>,
    #[serde(serialize_with = "column")]
    #[schemars(with = "Vec<Option<schemas::MetricValue>>")]
    pub(super) v: &'a Column,
}

impl<'a> Series<'a> {
    pub(super) fn new(
        query: &'a SeriesQuery,
        answer: &'a SeriesAnswer,
        described: &'a Described,
        next_cursor: Option<&'a str>,
    ) -> Self {
        // A raw answer has one column for each path, another one for each of its aggregates.
        let aggregates: Vec<Option<Aggregate>> = match &query.aggregates[..] {
            [] => vec![None],
            aggregates => aggregates.iter().copied().map(Some).collect(),
        };
        let labels = query.paths.iter().flat_map(|path| {
            let descriptor = described.find(path);
            aggregates
                .iter()
                .map(move |aggregate| (path, descriptor, aggregate))
        });
        let columns = labels
            .zip(&answer.columns)
            .map(|((path, descriptor, aggregate), v)| SeriesColumn {
                path: path.as_str(),
                unit: descriptor.map(|d| d.unit.as_str()),
                kind: descriptor.map(|d| d.kind.as_str()),
                agg: aggregate.map(Aggregate::as_str),
                v,
            });
        Self {
            device: &query.device,
            from: query.from,
            to: query.to,
            step_ms: answer.step_ms,
            tier: answer.tier.as_str(),
            t: &answer.t,
            series: columns.collect(),
            next_cursor,
        }
    }
}

/// Straight from the typed values where there is no gap, which is nearly always.
fn column<S: Serializer>(column: &&Column, s: S) -> Result<S::Ok, S::Error> {
    match column.dense() {
        Some(Cells::Float(v)) => s.collect_seq(v),
        Some(Cells::Integer(v)) => s.collect_seq(v),
        Some(Cells::Boolean(v)) => s.collect_seq(v),
        Some(Cells::Mixed(v)) => s.collect_seq(v.iter().map(ValueJson)),
        None => {
            let mut rows = s.serialize_seq(Some(column.len()))?;
            for value in column.iter() {
                rows.serialize_element(&value.as_ref().map(ValueJson))?;
            }
            rows.end()
        }
    }
}

/// The collector's own figures.
#[derive(Serialize, JsonSchema)]
pub struct Status<'a> {
    pub(super) version: &'static str,
    #[schemars(with = "UnixMs")]
    pub(super) started: TimestampMs,
    #[schemars(schema_with = "schemas::device_counts")]
    pub(super) devices: BTreeMap<&'static str, u64>,
    pub(super) series: u64,
    pub(super) intake: Intake<'a>,
    pub(super) store: StoreFigures<'a>,
    pub(super) events: EventFigures,
    pub(super) remote_write: Vec<RemoteWrite<'a>>,
    /// `null` while it is off.
    pub(super) home_assistant: Option<HomeAssistant<'a>>,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Intake<'a> {
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
    pub(super) fn new(mode: &'static str, status: &'a IntakeStatus, store: &StoreStatus) -> Self {
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
pub(super) struct StoreFigures<'a> {
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
pub(super) fn state(status: &StoreStatus) -> (&'static str, Option<&str>) {
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
pub(super) struct EventFigures {
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
pub(super) struct RemoteWrite<'a> {
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
pub(super) struct HomeAssistant<'a> {
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

/// A refused message in the list, its payload up to [`DEAD_LETTER_SHOWN_BYTES`].
#[derive(Debug, Serialize, JsonSchema)]
pub struct DeadLetterItem<'a> {
    id: String, // a text: beyond 2^53 a number would not survive a browser
    #[schemars(with = "UnixMs")]
    ts: TimestampMs,
    topic: &'a str,
    #[schemars(schema_with = "schemas::refusal")]
    reason: &'static str,
    detail: &'a str,
    size: usize,
    payload: String,
    #[schemars(schema_with = "schemas::payload_encoding")]
    payload_encoding: &'static str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
}

impl<'a> From<&'a DeadLetter> for DeadLetterItem<'a> {
    fn from(letter: &'a DeadLetter) -> Self {
        let (payload, payload_encoding) = match std::str::from_utf8(&letter.payload) {
            Ok(text) => (
                text[..text.floor_char_boundary(DEAD_LETTER_SHOWN_BYTES)].to_owned(),
                "utf-8",
            ),
            Err(_) => {
                let shown = letter.payload.len().min(DEAD_LETTER_SHOWN_BYTES);
                (
                    base64::engine::general_purpose::STANDARD.encode(&letter.payload[..shown]),
                    "base64",
                )
            }
        };
        Self {
            id: letter.id.to_string(),
            ts: letter.ts,
            topic: &letter.topic,
            reason: letter.reason.as_str(),
            detail: &letter.detail,
            size: letter.payload.len(),
            payload,
            payload_encoding,
            truncated: letter.payload.len() > DEAD_LETTER_SHOWN_BYTES,
        }
    }
}
