//! Columns over time.

use devmon_core::wire::TimestampMs;
use devmon_core::wire::json::ValueJson;
use schemars::JsonSchema;
use serde::ser::SerializeSeq;
use serde::{Serialize, Serializer};

use crate::api::openapi::schemas::{self, UnixMs};
use crate::query::aggregate::Aggregate;
use crate::query::column::Column;
use crate::query::descriptors::Described;
use crate::query::range::{SeriesAnswer, SeriesQuery};
use crate::store::Cells;

/// Columns over time.
#[derive(Serialize, JsonSchema)]
pub struct Series<'a> {
    pub(in crate::api) device: &'a str,
    #[schemars(with = "UnixMs")]
    pub(in crate::api) from: TimestampMs,
    #[schemars(with = "UnixMs")]
    pub(in crate::api) to: TimestampMs,
    pub(in crate::api) step_ms: Option<i64>,
    #[schemars(schema_with = "schemas::tier")]
    pub(in crate::api) tier: &'static str,
    pub(in crate::api) t: &'a [i64],
    pub(in crate::api) series: Vec<SeriesColumn<'a>>,
    pub(in crate::api) next_cursor: Option<&'a str>,
}

#[derive(Serialize, JsonSchema)]
pub(in crate::api) struct SeriesColumn<'a> {
    pub(in crate::api) path: &'a str,
    pub(in crate::api) unit: Option<&'a str>,
    #[schemars(schema_with = "schemas::metric_kind")]
    pub(in crate::api) kind: Option<&'static str>,
    #[schemars(schema_with = "schemas::aggregate")]
    pub(in crate::api) agg: Option<&'static str>,
    #[serde(serialize_with = "column")]
    #[schemars(with = "Vec<Option<schemas::MetricValue>>")]
    pub(in crate::api) v: &'a Column,
}

impl<'a> Series<'a> {
    pub(in crate::api) fn new(
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
