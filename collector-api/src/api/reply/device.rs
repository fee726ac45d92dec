//! Devices: in the list, and one in full.

use std::collections::BTreeMap;

use devmon_core::wire::about::{AgentFacts, HostFacts, SourceState};
use devmon_core::wire::{Labels, TimestampMs};
use schemars::JsonSchema;
use serde::Serialize;

use crate::api::openapi::schemas::{self, UnixMs};
use crate::query::devices::{DeviceDetail, DeviceView, labels};

/// A device in the list.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Device<'a> {
    pub(in crate::api) id: &'a str,
    #[schemars(schema_with = "schemas::device_status")]
    pub(in crate::api) status: &'static str,
    #[schemars(with = "UnixMs")]
    pub(in crate::api) first_seen: TimestampMs,
    #[schemars(with = "UnixMs")]
    pub(in crate::api) last_seen: TimestampMs,
    pub(in crate::api) sources: usize,
    pub(in crate::api) metrics: u64,
    pub(in crate::api) problems: usize,
    pub(in crate::api) labels: BTreeMap<&'a str, &'a str>,
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
    /// `null` if it does not say.
    interval_ms: Option<u64>,
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
                    interval_ms: (source.interval_ms > 0).then_some(source.interval_ms),
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
