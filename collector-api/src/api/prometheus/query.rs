//! The query API of Prometheus, below `/prometheus/api/v1/`: parameters in, Prometheus' envelope out. GET, and POST with a form, which arrives here as a query string.
//!
//! As in Prometheus, parameters that are not known are ignored, times are unix seconds or RFC 3339, numbers in answers are texts, and errors are
//! `{"status":"error","errorType":…,"error":…}` with 400 (`bad_data`), 422 (`execution`) or 503 (`timeout`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use devmon_core::wire::TimestampMs;
use serde::Serialize;
use serde_json::{Value as Json, json};
use warp::Reply;
use warp::http::StatusCode;
use warp::reply::Response as Long;

use super::super::endpoints::Call;
use super::super::large;
use super::super::params::Segment;
use super::super::problem::Problem;

use super::super::Api;
use super::super::reply::{Response, json as good, respond};
use super::asked::Asked;
use super::matrix::{Matrix, Points, number, seconds};
use crate::query::families::Type;
use crate::query::promql::eval::{Eval, PATIENCE};
use crate::query::promql::patience::Patience;
use crate::query::promql::plan::{self, Budget};
use crate::query::promql::{self, Error, Labels, MAX_STEPS, Outcome, Steps, Val};

const JSON: &str = "application/json";
/// Most series, labels or values of one list.
const MAX_LISTED: usize = 50_000;
/// The version whose rules are followed, and by which Grafana decides what it may ask.
const LIKE_VERSION: &str = "2.42.0";

/// An error in Prometheus' envelope.
fn failed(error: &Error) -> Response {
    let (status, kind) = match error {
        Error::BadData(_) => (StatusCode::BAD_REQUEST, "bad_data"),
        Error::Execution(_) | Error::TooManySamples(_) => {
            (StatusCode::UNPROCESSABLE_ENTITY, "execution")
        }
        Error::Timeout(_) => (StatusCode::SERVICE_UNAVAILABLE, "timeout"),
        Error::Store(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
    };
    let text = match error {
        Error::Store(error) => {
            tracing::error!(%error, "a query could not be answered");
            "the store could not be read; the collector's log has the cause".to_owned()
        }
        other => other.to_string(),
    };
    respond(
        status,
        "application/json",
        &json!({"status": "error", "errorType": kind, "error": text}),
    )
}

#[derive(Serialize)]
struct Envelope<T> {
    status: &'static str,
    data: T,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

fn answer<T: Serialize>(result: Result<(T, Vec<String>), Error>) -> Result<Response, Problem> {
    Ok(match result {
        Ok((data, warnings)) => good(&Envelope {
            status: "success",
            data,
            warnings,
        }),
        Err(error) => failed(&error),
    })
}

fn budget() -> Budget {
    Budget {
        samples: 0,
        series: plan::MAX_SERIES,
        patience: Patience {
            deadline: Instant::now() + PATIENCE,
            whole: PATIENCE,
        },
    }
}

pub(in crate::api) fn instant(api: &Api, call: &Call, _: &Segment) -> Result<Long, Problem> {
    let ask = || {
        let asked = Asked::of(call)?;
        let expr = promql::parse(asked.needed("query")?)?;
        let at = asked.time("time")?.unwrap_or_else(|| TimestampMs::now().0);
        let steps = Steps {
            start_ms: at,
            step_ms: 1,
            count: 1,
            end_ms: at,
        };
        let patience = asked.patience()?;
        let mut eval = Eval::new(&*api.store, &api.names, steps, patience);
        let outcome = eval.run(&expr)?;
        Ok((outcome, eval.warnings, at))
    };
    match ask() {
        Ok((Outcome::Val(Val::Vector(series)), warnings, at)) => {
            large::answer(&api.room, JSON, Matrix::vector(at, series, warnings))
        }
        Ok((Outcome::Val(Val::Scalar(v)), warnings, at)) => {
            single("scalar", json!([seconds(at), number(v[0])]), warnings)
        }
        Ok((Outcome::Val(Val::Text(text)), warnings, at)) => {
            single("string", json!([seconds(at), text]), warnings)
        }
        Ok((Outcome::Raw(series), warnings, _)) => {
            let of = |(labels, v)| (labels, Points::Raw(v));
            let series = series.into_iter().map(of).collect();
            large::answer(&api.room, JSON, Matrix::new(series, warnings))
        }
        Err(error) => Ok(failed(&error).into_response()),
    }
}

pub(in crate::api) fn range(api: &Api, call: &Call, _: &Segment) -> Result<Long, Problem> {
    let ask = || {
        let asked = Asked::of(call)?;
        let expr = promql::parse(asked.needed("query")?)?;
        asked.needed("start").and(asked.needed("end"))?;
        let (start, end) = asked.span()?;
        asked.needed("step")?;
        let step_ms = asked
            .duration("step")?
            .map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX));
        if end < start {
            return Err(Error::BadData(
                "invalid parameter \"end\": end timestamp must not be before start time".into(),
            ));
        }
        if step_ms < 1 {
            return Err(Error::BadData("invalid parameter \"step\": zero or negative query resolution step widths are not accepted".into()));
        }
        let count = usize::try_from((end - start) / step_ms)
            .unwrap_or(usize::MAX)
            .saturating_add(1);
        if count > MAX_STEPS + 1 {
            return Err(Error::BadData(format!(
                "exceeded maximum resolution of {MAX_STEPS} points per timeseries; ask for a longer step"
            )));
        }
        let steps = Steps {
            start_ms: start,
            step_ms,
            count,
            end_ms: end,
        };
        let patience = asked.patience()?;
        let mut eval = Eval::new(&*api.store, &api.names, steps, patience);
        let outcome = eval.run(&expr)?;
        let series: Vec<(Labels, Vec<f64>)> = match outcome {
            Outcome::Val(Val::Vector(series)) => {
                series.into_iter().map(|s| (s.labels, s.v)).collect()
            }
            Outcome::Val(Val::Scalar(v)) => vec![(Labels::new(), v)],
            _ => {
                return Err(Error::BadData(
                    "invalid expression type for range query, must be Scalar or instant Vector"
                        .into(),
                ));
            }
        };
        let of = |(labels, v)| (labels, Points::Steps(steps, v));
        Ok(Matrix::new(
            series.into_iter().map(of).collect(),
            eval.warnings,
        ))
    };
    match ask() {
        Ok(matrix) => large::answer(&api.room, JSON, matrix),
        Err(error) => Ok(failed(&error).into_response()),
    }
}

/// What is no series. Grafana before 10.1.2 reads it as it comes, and has to know the type before the result.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Single {
    result_type: &'static str,
    result: Json,
}

fn single(result_type: &'static str, result: Json, warnings: Vec<String>) -> Result<Long, Problem> {
    let data = Single {
        result_type,
        result,
    };
    answer(Ok((data, warnings))).map(Reply::into_response)
}

pub(super) fn metric(labels: &Labels) -> Json {
    labels
        .iter()
        .map(|(n, v)| (n.clone(), Json::from(v.as_str())))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// Looks through the catalogue.
fn look(
    api: &Api,
    asked: &Asked,
    f: &mut dyn FnMut(Labels) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut all = asked.selectors()?;
    if all.is_empty() {
        all.push(Vec::new());
    }
    plan::walk(
        &*api.store,
        &api.names,
        &all,
        asked.span()?,
        &budget(),
        &mut |_, one, mut labels| {
            if let devmon_core::Value::Text(text) = &one.series.last_value {
                let text: &str = text.as_ref();
                labels.push(("value".into(), text.to_owned()));
                labels.sort_unstable();
            }
            // `walk` has not looked at `value`.
            if !plan::fits(&all, &labels, "") {
                return Ok(());
            }
            f(labels)
        },
    )
}

fn too_many() -> Error {
    Error::Execution(format!(
        "more than {MAX_LISTED} to list; narrow it with match[]"
    ))
}

pub(in crate::api) fn series(api: &Api, call: &Call, _: &Segment) -> Result<Long, Problem> {
    let ask = || {
        let asked = Asked::of(call)?;
        if asked.selectors()?.is_empty() {
            return Err(Error::BadData("no match[] parameter provided".into()));
        }
        let mut found = Vec::new();
        look(api, &asked, &mut |labels| {
            found.push(labels);
            if found.len() > MAX_LISTED {
                Err(too_many())
            } else {
                Ok(())
            }
        })?;
        Ok(found)
    };
    match ask() {
        Ok(found) => large::answer(&api.room, JSON, Matrix::series(found)),
        Err(error) => Ok(failed(&error).into_response()),
    }
}

pub(in crate::api) fn labels(api: &Api, call: &Call, _: &Segment) -> Result<Long, Problem> {
    let ask = || {
        let mut found = BTreeSet::new();
        look(api, &Asked::of(call)?, &mut |labels| {
            for (name, _) in labels {
                found.insert(name);
            }
            Ok(())
        })?;
        Ok((json!(found), Vec::new()))
    };
    answer(ask()).and_then(|answer| large::whole(&api.room, answer))
}

pub(in crate::api) fn label_values(
    api: &Api,
    call: &Call,
    name: &Segment,
) -> Result<Long, Problem> {
    let ask = || {
        let name = name.file_name().ok_or_else(|| {
            Error::BadData("the label's name is not percent-encoded UTF-8".to_owned())
        })?;
        let mut found = BTreeSet::new();
        look(api, &Asked::of(call)?, &mut |labels| {
            found.extend(labels.into_iter().find(|(n, _)| *n == name).map(|(_, v)| v));
            if found.len() > MAX_LISTED {
                Err(too_many())
            } else {
                Ok(())
            }
        })?;
        Ok((json!(found), Vec::new()))
    };
    answer(ask()).and_then(|answer| large::whole(&api.room, answer))
}

pub(in crate::api) fn metadata(api: &Api, call: &Call, _: &Segment) -> Result<Long, Problem> {
    let ask = || {
        let asked = Asked::of(call)?;
        let wanted = asked.get("metric");
        let most = asked.get("limit").map(|n| {
            n.parse().map_err(|_| {
                Error::BadData(format!("invalid parameter \"limit\": {n:?} is no number"))
            })
        });
        let most = most.transpose()?.unwrap_or(usize::MAX);
        let mut found: BTreeMap<String, Json> = BTreeMap::new();
        plan::walk(
            &*api.store,
            &api.names,
            &[Vec::new()],
            (i64::MIN, i64::MAX),
            &budget(),
            &mut |_, one, _| {
                let family = &one.mapped.family;
                if wanted.is_none_or(|w| w == family.name)
                    && found.len() < most
                    && !found.contains_key(&family.name)
                {
                    let type_ = match family.type_ {
                        Type::Counter => "counter",
                        Type::Gauge | Type::Info => "gauge",
                        Type::Histogram => "histogram",
                        Type::Unknown => "unknown",
                    };
                    let entry = json!([{"type": type_, "help": family.help, "unit": family.unit.unwrap_or_default()}]);
                    found.insert(family.name.clone(), entry);
                }
                Ok(())
            },
        )?;
        Ok((json!(found), Vec::new()))
    };
    answer(ask()).and_then(|answer| large::whole(&api.room, answer))
}

pub(in crate::api) fn build_info(_: &Api, _: &Call, _: &Segment) -> Result<Response, Problem> {
    let revision = concat!("devmon ", env!("CARGO_PKG_VERSION"));
    let data = json!({"version": LIKE_VERSION, "revision": revision, "branch": "", "buildUser": "", "buildDate": "", "goVersion": ""});
    answer(Ok((data, Vec::new())))
}

/// Rules, of which there are none here: Grafana asks for them, and takes an error for a broken data source.
pub(in crate::api) fn rules(_: &Api, _: &Call, _: &Segment) -> Result<Response, Problem> {
    answer(Ok((json!({"groups": []}), Vec::new())))
}

/// Alerts, of which there are none either.
pub(in crate::api) fn alerts(_: &Api, _: &Call, _: &Segment) -> Result<Response, Problem> {
    answer(Ok((json!({"alerts": []}), Vec::new())))
}
