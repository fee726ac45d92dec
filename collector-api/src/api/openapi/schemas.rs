//! Schemas of what the types of [`reply`](crate::api::reply) leave open: closed lists of words, times, values of metrics, and what others than this crate define.
//!
//! The types say their own shape (`JsonSchema`); a field that is a text there and one of a few words in truth names one of these functions.

use std::borrow::Cow;

use devmon_core::descriptor::Kind;
use devmon_core::wire::Reason;
use devmon_core::wire::about::SourceState;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::api::endpoints::KINDS;
use crate::query::aggregate::Aggregate;
use crate::query::devices::Status;
use crate::store::rollup::Tier;

/// A point in time in answers.
pub(in crate::api) struct UnixMs;

impl JsonSchema for UnixMs {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "UnixMs".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "integer", "format": "int64"})
    }
}

/// A value of a metric. An integer may lie beyond 2^53.
pub(in crate::api) struct MetricValue;

impl JsonSchema for MetricValue {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "MetricValue".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": ["number", "boolean", "string"]})
    }
}

/// Metrics as a tree: branches by name, values as leaves.
pub(in crate::api) struct Tree;

impl JsonSchema for Tree {
    fn schema_name() -> Cow<'static, str> {
        "Tree".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let branch = generator.subschema_for::<Self>();
        let leaf = generator.subschema_for::<MetricValue>();
        json_schema!({
            "type": "object",
            "description": "Branches by name, values as leaves.",
            "additionalProperties": {"anyOf": [branch, leaf]}
        })
    }
}

/// What runs on the device, as its `about` message says.
#[derive(JsonSchema)]
#[expect(
    dead_code,
    reason = "the shape of devmon-core's type; a test holds an answer against it"
)]
pub(in crate::api) struct AgentFacts {
    /// Of devmon-agent; `null` for another publisher.
    version: Option<String>,
    /// Rounds of this time come in one message; left out: each as it is measured.
    #[schemars(default, skip_serializing_if = "Option::is_none", with = "u64")]
    publish_every_ms: Option<u64>,
}

/// What the device is, as its `about` message says; what it does not know is `null`.
#[derive(JsonSchema)]
#[expect(
    dead_code,
    reason = "the shape of devmon-core's type; a test holds an answer against it"
)]
pub(in crate::api) struct HostFacts {
    hostname: Option<String>,
    os: Option<String>,
    kernel: Option<String>,
    arch: Option<String>,
    /// Logical CPUs.
    cpus: Option<u32>,
    /// When it was started, in unix ms.
    boot_ts: Option<UnixMs>,
}

fn words(all: impl IntoIterator<Item = &'static str>) -> Schema {
    json_schema!({"type": "string", "enum": all.into_iter().collect::<Vec<_>>()})
}

fn words_or_null(all: impl IntoIterator<Item = &'static str>) -> Schema {
    let all: Vec<_> = all.into_iter().map(Some).chain([None]).collect();
    json_schema!({"type": ["string", "null"], "enum": all})
}

pub(in crate::api) fn device_status(_: &mut SchemaGenerator) -> Schema {
    words(Status::ALL.map(Status::as_str))
}

pub(in crate::api) fn device_counts(_: &mut SchemaGenerator) -> Schema {
    let names = Status::ALL.map(Status::as_str);
    let count = serde_json::json!({"type": "integer", "minimum": 0});
    let counts = names.map(|name| (name.to_owned(), count.clone()));
    json_schema!({
        "type": "object",
        "properties": serde_json::Map::from_iter(counts),
        "required": names
    })
}

pub(in crate::api) fn source_state(_: &mut SchemaGenerator) -> Schema {
    let all = [
        SourceState::Ok,
        SourceState::Unavailable,
        SourceState::Failing,
        SourceState::Quarantined,
        SourceState::Stopped,
    ];
    json_schema!({"type": "string", "enum": all})
}

pub(in crate::api) fn metric_kind(_: &mut SchemaGenerator) -> Schema {
    words_or_null(KINDS.map(Kind::as_str))
}

pub(in crate::api) fn value_type(_: &mut SchemaGenerator) -> Schema {
    words(["float", "integer", "boolean", "text"])
}

pub(in crate::api) fn tier(_: &mut SchemaGenerator) -> Schema {
    words([Tier::Raw, Tier::Minute, Tier::Hour].map(Tier::as_str))
}

pub(in crate::api) fn aggregate(_: &mut SchemaGenerator) -> Schema {
    words_or_null(Aggregate::ALL.map(Aggregate::as_str))
}

pub(in crate::api) fn intake_mode(_: &mut SchemaGenerator) -> Schema {
    words(["listener", "broker", "listener+broker"])
}

pub(in crate::api) fn refusal(_: &mut SchemaGenerator) -> Schema {
    words(Reason::ALL.iter().map(|r| r.as_str()))
}

pub(in crate::api) fn rejected(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "propertyNames": words(Reason::ALL.iter().map(|r| r.as_str())),
        "additionalProperties": {"type": "integer", "minimum": 0}
    })
}

pub(in crate::api) fn store_state(_: &mut SchemaGenerator) -> Schema {
    words(["ok", "degraded", "failing"])
}

pub(in crate::api) fn payload_encoding(_: &mut SchemaGenerator) -> Schema {
    words(["utf-8", "base64"])
}

/// A good answer of the query API, in Prometheus' envelope.
fn envelope(data: serde_json::Value) -> Schema {
    json_schema!({
        "type": "object",
        "properties": {
            "status": {"const": "success"},
            "data": data,
            "warnings": {"type": "array", "items": {"type": "string"}, "minItems": 1}
        },
        "required": ["status", "data"]
    })
}

/// A point: unix seconds, and the value as a text. Not as `prefixItems`, which schemathesis takes for a mistake.
fn point() -> serde_json::Value {
    serde_json::json!({"type": "array", "items": {"type": ["number", "string"]}, "minItems": 2, "maxItems": 2})
}

fn series_of(key: &str, points: &serde_json::Value) -> serde_json::Value {
    serde_json::json!({
        "type": "array",
        "items": {
            "type": "object",
            "properties": {"metric": labels(), key: points},
            "required": ["metric", key]
        }
    })
}

fn labels() -> serde_json::Value {
    serde_json::json!({"type": "object", "additionalProperties": {"type": "string"}})
}

fn result(type_: &str, result: serde_json::Value) -> serde_json::Value {
    serde_json::json!({
        "type": "object",
        "properties": {"resultType": {"const": type_}, "result": result},
        "required": ["resultType", "result"]
    })
}

/// `query`.
pub(in crate::api) fn instant(_: &mut SchemaGenerator) -> Schema {
    let points = serde_json::json!({"type": "array", "items": point()});
    envelope(serde_json::json!({"oneOf": [
        result("vector", series_of("value", &point())),
        result("matrix", series_of("values", &points)),
        result("scalar", point()),
        result("string", point())
    ]}))
}

/// `query_range`.
pub(in crate::api) fn range(_: &mut SchemaGenerator) -> Schema {
    let points = serde_json::json!({"type": "array", "items": point()});
    envelope(result("matrix", series_of("values", &points)))
}

/// `series`.
pub(in crate::api) fn label_sets(_: &mut SchemaGenerator) -> Schema {
    envelope(serde_json::json!({"type": "array", "items": labels()}))
}

/// `labels` and the values of one.
pub(in crate::api) fn texts(_: &mut SchemaGenerator) -> Schema {
    envelope(serde_json::json!({"type": "array", "items": {"type": "string"}}))
}

/// `metadata`.
pub(in crate::api) fn metadata(_: &mut SchemaGenerator) -> Schema {
    envelope(serde_json::json!({
        "type": "object",
        "additionalProperties": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "type": {"enum": ["counter", "gauge", "histogram", "unknown"]},
                    "help": {"type": "string"},
                    "unit": {"type": "string"}
                },
                "required": ["type", "help", "unit"]
            }
        }
    }))
}

/// `status/buildinfo`.
pub(in crate::api) fn no_rules(_: &mut SchemaGenerator) -> Schema {
    none_of("groups")
}

pub(in crate::api) fn no_alerts(_: &mut SchemaGenerator) -> Schema {
    none_of("alerts")
}

fn none_of(name: &str) -> Schema {
    envelope(serde_json::json!({
        "type": "object",
        "properties": {name: {"type": "array", "maxItems": 0}},
        "required": [name]
    }))
}

pub(in crate::api) fn build_info(_: &mut SchemaGenerator) -> Schema {
    let names = [
        "version",
        "revision",
        "branch",
        "buildUser",
        "buildDate",
        "goVersion",
    ];
    let texts = names.map(|name| (name.to_owned(), serde_json::json!({"type": "string"})));
    envelope(serde_json::json!({
        "type": "object",
        "properties": serde_json::Map::from_iter(texts),
        "required": names
    }))
}

/// An error of the query API.
pub(in crate::api) fn query_error(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "properties": {
            "status": {"const": "error"},
            "errorType": {"enum": ["bad_data", "execution", "timeout", "internal"]},
            "error": {"type": "string"}
        },
        "required": ["status", "errorType", "error"]
    })
}
