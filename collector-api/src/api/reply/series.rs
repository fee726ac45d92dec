//! Columns over time: of one device, and of one metric of many. An answer may have a million points, so it is not one document here: [`sheet`](crate::api::sheet) writes these heads, and the times and
//! values between them. What the whole looks like say [`Series`] and [`FleetSeries`], which only schemas are made of; tests hold answers against them.

use devmon_core::MetricPath;
use devmon_core::wire::TimestampMs;
use schemars::JsonSchema;
use serde::Serialize;

use crate::api::openapi::schemas::{self, UnixMs};
use crate::query::aggregate::Aggregate;
use crate::query::descriptors::Described;

/// What stands before the times: what was asked, and what that meant.
#[derive(Serialize, JsonSchema)]
pub struct SeriesHead<'a> {
    pub(in crate::api) device: &'a str,
    #[schemars(with = "UnixMs")]
    pub(in crate::api) from: TimestampMs,
    #[schemars(with = "UnixMs")]
    pub(in crate::api) to: TimestampMs,
    pub(in crate::api) step_ms: Option<i64>,
    #[schemars(schema_with = "schemas::tier")]
    pub(in crate::api) tier: &'static str,
}

/// What stands before the values of a column: whose they are.
#[derive(Serialize, JsonSchema)]
pub struct ColumnHead<'a> {
    pub(in crate::api) path: &'a str,
    unit: Option<&'a str>,
    #[schemars(schema_with = "schemas::metric_kind")]
    kind: Option<&'static str>,
    #[schemars(schema_with = "schemas::aggregate")]
    agg: Option<&'static str>,
}

impl<'a> ColumnHead<'a> {
    pub(in crate::api) fn new(
        path: &'a MetricPath,
        aggregate: Option<Aggregate>,
        described: &'a Described,
    ) -> Self {
        let descriptor = described.find(path);
        Self {
            path: path.as_str(),
            unit: descriptor.map(|d| d.unit.as_str()),
            kind: descriptor.map(|d| d.kind.as_str()),
            agg: aggregate.map(Aggregate::as_str),
        }
    }
}

/// [`SeriesHead`] of the fleet: the times are those of buckets.
#[derive(Serialize, JsonSchema)]
pub struct FleetSeriesHead {
    #[schemars(with = "UnixMs")]
    pub(in crate::api) from: TimestampMs,
    #[schemars(with = "UnixMs")]
    pub(in crate::api) to: TimestampMs,
    pub(in crate::api) step_ms: i64,
    #[schemars(schema_with = "schemas::tier")]
    pub(in crate::api) tier: &'static str,
}

/// [`ColumnHead`] of one of many devices.
#[derive(Serialize, JsonSchema)]
pub struct FleetColumnHead<'a> {
    pub(in crate::api) device: &'a str,
    #[serde(flatten)]
    pub(in crate::api) column: ColumnHead<'a>,
}

/// A column: `T` says whose it is.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "the shape of what sheet writes")]
#[schemars(inline)]
pub(super) struct Column<T> {
    #[serde(flatten)]
    head: T,
    v: Vec<Option<schemas::MetricValue>>,
}

/// Columns over time.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "the shape of what sheet writes")]
pub struct Series<'a> {
    #[serde(flatten)]
    head: SeriesHead<'a>,
    t: Vec<UnixMs>,
    series: Vec<Column<ColumnHead<'a>>>,
    next_cursor: Option<&'a str>,
}

/// Columns over time, of many devices.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "the shape of what sheet writes")]
pub struct FleetSeries<'a> {
    #[serde(flatten)]
    head: FleetSeriesHead,
    t: Vec<UnixMs>,
    series: Vec<Column<FleetColumnHead<'a>>>,
    next_cursor: Option<&'a str>,
}
