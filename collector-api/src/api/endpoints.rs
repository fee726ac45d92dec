//! One function an endpoint: what was asked → `query` → what is answered. All of them block.

use std::collections::BTreeMap;
use std::sync::Arc;

use devmon_core::descriptor::Kind;
use devmon_core::wire::{DeviceId, Reason, TimestampMs, labels};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use warp::http::StatusCode;
use warp::http::header::{CONTENT_DISPOSITION, HeaderMap};
use warp::http::{HeaderValue, Method};
use warp::hyper::body::Bytes;

use super::Api;
use super::accept::Media;
use super::csv::{self, Row};
use super::events::Begun;
use super::page::{self, Cursor};
use super::params::{Params, Segment, all, bad_cursor, each};
use super::patience::Line;
use super::problem::{Kind as Error, Problem};
use super::reply::{self, Response};
use crate::query::devices::Status;
use crate::query::metrics::MetricFilter;
use crate::query::{dead_letters, devices, fleet, metrics};

pub(super) const KINDS: [Kind; 4] = [Kind::Gauge, Kind::Counter, Kind::State, Kind::Text];

/// A call as it came.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) method: Method,
    /// Still percent-encoded.
    pub(super) path: String,
    pub(super) query: String,
    pub(super) headers: HeaderMap,
    /// What it brought, if the route takes any.
    pub(super) body: Bytes,
    /// The connection that it came on.
    pub(super) line: Option<Arc<Line>>,
}

impl Call {
    /// The parameters, of which there may be the known ones, and what is read from them.
    ///
    /// # Errors
    /// All that is wrong with names and values.
    pub(super) fn asked<T>(
        &self,
        known: &[&str],
        values: impl FnOnce(&Params) -> Result<T, Problem>,
    ) -> Result<(Params, T), Problem> {
        Params::read(&self.path, &self.query, known, values)
    }

    /// The device in the path of a call without parameters.
    fn device(&self, segment: &Segment) -> Result<DeviceId, Problem> {
        let (_, device) = self.asked(&[], |_| segment.device())?;
        Ok(device)
    }

    /// A page as an answer.
    fn page<T: Serialize>(&self, params: &Params, items: Vec<T>, next: Option<Cursor>) -> Response {
        let next_cursor = next.map(|cursor| cursor.text(params.query()));
        let link = self.link(params, next_cursor.as_deref());
        reply::with_link(reply::json(&reply::List { items, next_cursor }), link)
    }

    /// A page as JSON or as a table; of a table, the next page is in the `Link` header only.
    fn page_or_table<T: Serialize + Row>(
        &self,
        params: &Params,
        items: Vec<T>,
        next: Option<Cursor>,
    ) -> Result<Response, Problem> {
        Ok(match Media::of(&self.headers)? {
            Media::Json => reply::with_vary(self.page(params, items, next)),
            Media::Csv => {
                let cursor = next.map(|cursor| cursor.text(params.query()));
                let link = self.link(params, cursor.as_deref());
                reply::with_link(csv::list(&items), link)
            }
        })
    }

    pub(super) fn link(&self, params: &Params, cursor: Option<&str>) -> Option<String> {
        cursor.map(|cursor| page::link(&self.path, params, cursor))
    }
}

/// Asks the store.
pub(super) type Endpoint = fn(&Api, &Call, &Segment) -> Result<Response, Problem>;

/// Asks the store for what may be long, and answers in pieces.
pub(super) type Large = fn(&Api, &Call, &Segment) -> Result<warp::reply::Response, Problem>;

/// Begins a stream; while the store opens, one that says so and ends.
pub(super) type Stream = fn(Result<&Api, Problem>, &Call) -> Result<warp::reply::Response, Problem>;

/// What a route does.
#[derive(Clone, Copy)]
pub(super) enum Handler {
    /// One of a bounded number of calls that read the store.
    Store(Endpoint),
    /// The same, with an answer of any length.
    Large(Large),
    /// The same for what PromQL asks: fewer at a time, which are not among those calls and wait only so long.
    Query(Large),
    /// A look at how the store is, which waits behind no call of those.
    Probe(Endpoint),
    /// Answers at once, store or none.
    Page(fn(&Call, &Segment) -> Result<Response, Problem>),
    /// Answers with a stream that ends with the collector.
    Stream(Stream),
    /// What a call has in a table until it is said what it does.
    Nothing,
}

pub(super) fn devices(api: &Api, call: &Call, _: &Segment) -> Result<Response, Problem> {
    let known = [
        "limit", "cursor", "device", "q", "status", "label", "sort", "follow",
    ];
    let (params, ((order, start), filter, limit, follow)) = call.asked(&known, |params| {
        let upwards = |cursor| match cursor {
            Cursor::Device(id) => Some(id),
            _ => None,
        };
        all((
            params.order('d', &devices::SortBy::ALL, devices::SortBy::as_str, upwards),
            params.device_filter(),
            params.list_limit(),
            params.follow(),
        ))
    })?;
    let begun = Begun::by(api, follow)?;
    let now = TimestampMs::now();
    let page = devices::list(&*api.store, &filter, order.sort, start, limit, now);
    let next = page.last();
    let next = next.map(|(place, _)| order.behind(place, Cursor::Device));
    let items: Vec<_> = page.items.iter().map(|(_, v)| v.into()).collect();
    let answer = call.page_or_table::<reply::Device<'_>>(&params, items, next)?;
    Ok(begun.on(answer))
}

pub(super) fn device(api: &Api, call: &Call, device: &Segment) -> Result<Response, Problem> {
    let device = call.device(device)?;
    let detail = devices::one(&*api.store, device.as_str(), TimestampMs::now())?;
    Ok(reply::json(&reply::DeviceInFull::from(&detail)))
}

/// What may be changed of a device, as a merge patch (RFC 7396).
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DevicePatch {
    /// By name; `null` takes one away. `null` for all of them takes away all that were given here; without it nothing changes.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none" // so the schema does not ask for it
    )]
    #[schemars(with = "Option<BTreeMap<String, Option<String>>>")]
    labels: Option<Option<BTreeMap<String, Option<String>>>>,
}

/// `null` is something else than nothing.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

impl DevicePatch {
    fn read(body: &[u8]) -> Result<Self, Problem> {
        let wrong = |what: String| {
            let detail =
                format!("{what}; send {{\"labels\":{{\"site\":\"berlin\",\"old\":null}}}}");
            Problem::new(Error::Malformed, detail)
        };
        let value: serde_json::Value =
            serde_json::from_slice(body).map_err(|e| wrong(format!("the body is no JSON: {e}")))?;
        let Some(fields) = value.as_object() else {
            return Err(wrong("the body is no JSON object".to_owned()));
        };
        if let Some(name) = fields.keys().find(|name| *name != "labels") {
            return Err(wrong(format!("{name:?} can not be changed; labels can")));
        }
        Self::deserialize(value).map_err(|_| {
            wrong("labels is neither null nor an object of texts and nulls".to_owned())
        })
    }
}

pub(super) fn patch(api: &Api, call: &Call, segment: &Segment) -> Result<Response, Problem> {
    let device = call.device(segment)?;
    let changes = match DevicePatch::read(&call.body)?.labels {
        None => BTreeMap::new(),
        Some(Some(labels)) => labels,
        Some(None) => {
            let record = devices::record(&*api.store, device.as_str())?;
            let given = record.labels.iter().flat_map(|labels| labels.keys());
            given.map(|name| (name.clone(), None)).collect()
        }
    };
    each(changes.iter().map(|(name, value)| {
        labels::check(name, value.as_deref().unwrap_or_default())
            .map_err(|e| Problem::parameter(format!("labels.{name}"), e))
    }))?;
    devices::relabel(&*api.store, device.as_str(), &changes)?;
    if !changes.is_empty() {
        let labels = serde_json::to_string(&changes).unwrap_or_default();
        tracing::info!(%device, labels, "labelled");
    }
    self::device(api, call, segment)
}

pub(super) fn forget(api: &Api, call: &Call, device: &Segment) -> Result<Response, Problem> {
    let device = call.device(device)?;
    devices::forget(&*api.store, device.as_str())?;
    api.events.forgotten(device.as_str());
    (api.forgotten)(device.as_str());
    Ok(reply::done())
}

pub(super) fn metrics(api: &Api, call: &Call, device: &Segment) -> Result<Response, Problem> {
    let known = ["prefix", "q", "kind", "unit", "sort", "limit", "cursor"];
    let (params, (device, (order, start), filter, limit)) = call.asked(&known, |params| {
        let upwards = |cursor| match cursor {
            Cursor::Metric(path) => Some(path),
            _ => None,
        };
        all((
            device.device(),
            params.order('m', &metrics::SortBy::ALL, metrics::SortBy::as_str, upwards),
            metric_filter(params),
            params.list_limit(),
        ))
    })?;
    let (page, described) = metrics::list(
        &*api.store,
        &api.descriptors,
        device.as_str(),
        &filter,
        order.sort,
        start,
        limit,
    )?;
    let next = page.last();
    let next = next.map(|(place, _)| order.behind(place, Cursor::Metric));
    let records = page.items.iter().map(|(_, record)| record);
    let items: Vec<_> = records
        .map(|record| reply::Metric::new(record, &described))
        .collect();
    call.page_or_table(&params, items, next)
}

fn metric_filter(params: &Params) -> Result<MetricFilter, Problem> {
    let kind = params.one_of("kind", &KINDS, Kind::as_str);
    let (prefix, kind) = all((params.prefix(), kind))?;
    Ok(MetricFilter {
        prefix,
        q: params.get("q").map(str::to_owned),
        kind,
        unit: params.get("unit").map(str::to_owned),
    })
}

pub(super) fn latest(api: &Api, call: &Call, device: &Segment) -> Result<Response, Problem> {
    let (_, (device, as_tree, prefix, follow)) =
        call.asked(&["prefix", "format", "follow"], |params| {
            let as_str = |tree| if tree { "tree" } else { "flat" };
            let as_tree = params.one_of("format", &[false, true], as_str);
            all((device.device(), as_tree, params.prefix(), params.follow()))
        })?;
    let media = match as_tree {
        Some(true) => Media::Json,
        _ => Media::of(&call.headers)?,
    };
    let begun = Begun::by(api, follow)?;
    let (series, described) =
        metrics::latest(&*api.store, &api.descriptors, device.as_str(), &prefix)?;
    if as_tree == Some(true) {
        let tree = metrics::tree(&series);
        let tree = reply::LatestTree::new(device.as_str(), &tree);
        return Ok(begun.on(reply::json(&tree)));
    }
    let items: Vec<_> = series
        .iter()
        .map(|r| reply::Latest::new(r, &described))
        .collect();
    if media == Media::Csv {
        return Ok(begun.on(csv::list(&items)));
    }
    Ok(begun.on(reply::with_vary(reply::json(&reply::LatestFlat {
        device: device.as_str(),
        items,
    }))))
}

pub(super) fn fleet_latest(api: &Api, call: &Call, _: &Segment) -> Result<Response, Problem> {
    let known = [
        "path", "device", "q", "status", "label", "limit", "cursor", "follow",
    ];
    let (params, (patterns, filter, after, limit, follow)) = call.asked(&known, |params| {
        let after = params.cursor().and_then(|cursor| match cursor {
            None => Ok(None),
            Some(Cursor::Fleet { device, path }) => Ok(Some((device, path))),
            Some(_) => Err(bad_cursor()),
        });
        all((
            params.patterns(),
            params.device_filter(),
            after,
            params.list_limit(),
            params.follow(),
        ))
    })?;
    let after = after.as_ref();
    let begun = Begun::by(api, follow)?;
    let page = fleet::latest(
        &*api.store,
        &api.descriptors,
        &patterns,
        &filter,
        after.map(|(device, path)| (device.as_str(), path.as_str())),
        limit,
        TimestampMs::now(),
    );
    let next = page.last().map(|item| Cursor::Fleet {
        device: item.device.to_string(),
        path: item.series.path.to_string(),
    });
    let items: Vec<_> = page.items.iter().map(reply::FleetItem::from).collect();
    Ok(begun.on(call.page_or_table(&params, items, next)?))
}

pub(super) fn status(api: &Api, call: &Call, _: &Segment) -> Result<Response, Problem> {
    call.asked(&[], |_| Ok(()))?;
    let store = api.store.status();
    let intake = (api.intake)();
    let now = TimestampMs::now();
    let counts = devices::count(&*api.store, now);
    let forwarding: Vec<_> = api.forwarding.iter().map(|p| p.figures(now)).collect();
    let announced = api.home_assistant.as_ref().map(|p| p.figures());
    Ok(reply::json(&reply::Status {
        version: env!("CARGO_PKG_VERSION"),
        started: api.started,
        devices: Status::ALL
            .map(Status::as_str)
            .into_iter()
            .zip(counts)
            .collect(),
        series: store.series,
        intake: reply::Intake::new(api.mode, &intake, &store),
        store: (&store).into(),
        events: api.events.counters().into(),
        remote_write: forwarding.iter().map(Into::into).collect(),
        home_assistant: announced.as_ref().map(Into::into),
    }))
}

pub(super) fn dead_letters(api: &Api, call: &Call, _: &Segment) -> Result<Response, Problem> {
    let (params, (reason, before, limit)) =
        call.asked(&["limit", "cursor", "reason"], |params| {
            let before = params.cursor().and_then(|cursor| match cursor {
                None => Ok(None),
                Some(Cursor::DeadLetter(id)) => Ok(Some(id)),
                Some(_) => Err(bad_cursor()),
            });
            let reason = params.one_of("reason", Reason::ALL, Reason::as_str);
            all((reason, before, params.list_limit()))
        })?;
    let page = dead_letters::list(&*api.store, reason, before, limit)?;
    let next = page.last().map(|letter| Cursor::DeadLetter(letter.id));
    let items: Vec<_> = page.items.iter().map(reply::DeadLetterItem::from).collect();
    Ok(call.page(&params, items, next))
}

pub(super) fn dead_letter(api: &Api, call: &Call, id: &Segment) -> Result<Response, Problem> {
    let (_, id) = call.asked(&[], |_| id.id())?;
    let letter = dead_letters::one(&*api.store, id)?;
    let mut response = reply::bytes(StatusCode::OK, "application/octet-stream", letter.payload);
    // Whatever a stranger sent is for saving, never for a browser to show.
    let attachment = HeaderValue::from_static("attachment");
    response
        .headers_mut()
        .insert(CONTENT_DISPOSITION, attachment);
    Ok(response)
}

pub(super) fn livez(_: &Call, _: &Segment) -> Result<Response, Problem> {
    Ok(probe(&Probe {
        status: "ok",
        reason: None,
    }))
}

/// Degraded is ready: messages are taken, and whoever would send them elsewhere could not mend what is missing here.
pub(super) fn readyz(api: &Api, _: &Call, _: &Segment) -> Result<Response, Problem> {
    let (store, intake) = (api.store.status(), (api.intake)());
    if let Some(reason) = store.problem.as_ref().or(intake.problem.as_ref()) {
        return Err(Problem::new(
            Error::NotReady,
            format!("the collector takes no messages: {reason}"),
        ));
    }
    // The devices' messages wait at the broker, and what came before is there to be asked for.
    let away = intake.broker.filter(|broker| !broker.connected);
    let away = away.map(|broker| {
        let why = broker.last_error.as_deref();
        let why = why.map_or(String::new(), |why| format!(": {why}"));
        format!("no connection to the broker {}{why}", broker.address)
    });
    let (status, reason) = reply::state(&store);
    let Some(away) = away else {
        return Ok(probe(&Probe { status, reason }));
    };
    let reasons: Vec<_> = reason.into_iter().chain([away.as_str()]).collect();
    Ok(probe(&Probe {
        status: "degraded",
        reason: Some(&reasons.join("; ")),
    }))
}

/// How it is now, for nobody to keep.
fn probe(document: &Probe<'_>) -> Response {
    reply::respond(StatusCode::OK, "application/json", document)
}

/// How the collector is.
#[derive(Serialize, JsonSchema)]
pub(super) struct Probe<'a> {
    #[schemars(schema_with = "super::openapi::schemas::store_state")]
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}
