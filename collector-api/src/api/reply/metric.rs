//! Metrics and their newest values: of a device, of a fleet, as a tree.

use std::collections::BTreeMap;

use devmon_core::tree::MetricTree;
use devmon_core::wire::TimestampMs;
use devmon_core::wire::json::{TreeJson, ValueJson};
use schemars::JsonSchema;
use serde::Serialize;

use crate::api::openapi::schemas::{self, UnixMs};
use crate::query::descriptors::Described;
use crate::query::fleet::FleetLatest;
use crate::store::engine::SeriesRecord;

/// A metric in the list.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Metric<'a> {
    pub(in crate::api) path: &'a str,
    pub(in crate::api) unit: Option<&'a str>,
    #[schemars(schema_with = "schemas::metric_kind")]
    pub(in crate::api) kind: Option<&'static str>,
    pub(in crate::api) help: Option<&'a str>,
    pub(in crate::api) labels: BTreeMap<&'a str, String>,
    #[serde(rename = "type")]
    #[schemars(schema_with = "schemas::value_type")]
    pub(in crate::api) type_: &'static str,
    #[schemars(with = "UnixMs")]
    pub(in crate::api) first_ts: TimestampMs,
    #[schemars(with = "UnixMs")]
    pub(in crate::api) last_ts: TimestampMs,
}

impl<'a> Metric<'a> {
    pub(in crate::api) fn new(record: &'a SeriesRecord, described: &'a Described) -> Self {
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
    pub(in crate::api) path: &'a str,
    #[schemars(with = "schemas::MetricValue")]
    pub(in crate::api) value: ValueJson<'a>,
    #[schemars(with = "UnixMs")]
    pub(in crate::api) ts: TimestampMs,
    pub(in crate::api) unit: Option<&'a str>,
    #[schemars(schema_with = "schemas::metric_kind")]
    pub(in crate::api) kind: Option<&'static str>,
}

impl<'a> Latest<'a> {
    pub(in crate::api) fn new(record: &'a SeriesRecord, described: &'a Described) -> Self {
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
    pub(in crate::api) device: &'a str,
    #[schemars(schema_with = "schemas::device_status")]
    pub(in crate::api) status: &'static str,
    #[serde(flatten)]
    pub(in crate::api) latest: Latest<'a>,
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
    pub(in crate::api) fn new(device: &'a str, tree: &'a MetricTree) -> Self {
        Self {
            device,
            metrics: TreeJson(tree),
        }
    }
}
