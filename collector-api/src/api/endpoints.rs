//! One function an endpoint: what was asked → `query` → what is answered. All of them block.

use std::sync::Arc;

use devmon_core::wire::TimestampMs;
use schemars::JsonSchema;
use serde::Serialize;
use warp::http::StatusCode;
use warp::http::header::{CONTENT_DISPOSITION, HeaderMap};
use warp::http::{HeaderValue, Method};

use super::Api;
use super::page::{self, Cursor};
use super::params::{Params, Segment, bad_cursor};
use super::patience::Line;
use super::problem::{Kind, Problem};
use super::reply::{self, Response};
use crate::query::devices::{DeviceFilter, Status};
use crate::query::{dead_letters, devices, fleet, metrics, range};

/// A call as it came.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) method: Method,
    /// Still percent-encoded.
    pub(super) path: String,
    pub(super) query: String,
    pub(super) headers: HeaderMap,
    /// The connection that it came on.
    pub(super) line: Option<Arc<Line>>,
}

impl Call {
    fn params(&self, known: &[&str]) -> Result<Params, Problem> {
        Params::parse(&self.query, known)
    }

    /// A page as an answer.
    fn page<T: Serialize>(&self, params: &Params, items: Vec<T>, next: Option<Cursor>) -> Response {
        let next_cursor = next.map(|cursor| cursor.text());
        let link = next_cursor
            .as_ref()
            .map(|cursor| page::link(&self.path, params, cursor));
        reply::with_link(reply::json(&reply::List { items, next_cursor }), link)
    }
}

/// Asks the store.
pub(super) type Endpoint = fn(&Api, &Call, &Segment) -> Result<Response, Problem>;

/// Begins a stream.
pub(super) type Stream = fn(&Api, &Call) -> Result<warp::reply::Response, Problem>;

/// What a route does.
#[derive(Clone, Copy)]
pub(super) enum Handler {
    /// One of a bounded number of calls that read the store.
    Store(Endpoint),
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
    let params = call.params(&["limit", "cursor", "q", "status"])?;
    let filter = DeviceFilter {
        q: params.get("q").map(str::to_owned),
        status: params.status()?,
    };
    let after = match params.cursor()? {
        None => None,
        Some(Cursor::Device(id)) => Some(id),
        Some(_) => return Err(bad_cursor()),
    };
    let page = devices::list(
        &*api.store,
        &filter,
        after.as_deref(),
        params.list_limit()?,
        TimestampMs::now(),
    );
    let last = page.items.last().filter(|_| page.more);
    let next = last.map(|view| Cursor::Device(view.record.id.to_string()));
    let items: Vec<_> = page.items.iter().map(reply::Device::from).collect();
    Ok(call.page(&params, items, next))
}

pub(super) fn device(api: &Api, call: &Call, device: &Segment) -> Result<Response, Problem> {
    call.params(&[])?;
    let detail = devices::one(&*api.store, device.device()?.as_str(), TimestampMs::now())?;
    Ok(reply::json(&reply::DeviceInFull::from(&detail)))
}

pub(super) fn forget(api: &Api, call: &Call, device: &Segment) -> Result<Response, Problem> {
    call.params(&[])?;
    let device = device.device()?;
    devices::forget(&*api.store, device.as_str())?;
    api.events.forgotten(device.as_str());
    tracing::info!(%device, "forgotten, with all that it sent");
    Ok(reply::done())
}

pub(super) fn metrics(api: &Api, call: &Call, device: &Segment) -> Result<Response, Problem> {
    let params = call.params(&["prefix", "limit", "cursor"])?;
    let device = device.device()?;
    let after = match params.cursor()? {
        None => None,
        Some(Cursor::Metric(path)) => Some(path),
        Some(_) => return Err(bad_cursor()),
    };
    let (page, described) = metrics::list(
        &*api.store,
        &api.descriptors,
        device.as_str(),
        &params.prefix()?,
        after.as_deref(),
        params.list_limit()?,
    )?;
    let last = page.items.last().filter(|_| page.more);
    let next = last.map(|record| Cursor::Metric(record.path.to_string()));
    let items: Vec<_> = page
        .items
        .iter()
        .map(|r| reply::Metric::new(r, &described))
        .collect();
    Ok(call.page(&params, items, next))
}

pub(super) fn latest(api: &Api, call: &Call, device: &Segment) -> Result<Response, Problem> {
    let params = call.params(&["prefix", "format"])?;
    let device = device.device()?;
    let as_tree = params.one_of(
        "format",
        &[false, true],
        |tree| if tree { "tree" } else { "flat" },
    )?;
    let (series, described) = metrics::latest(
        &*api.store,
        &api.descriptors,
        device.as_str(),
        &params.prefix()?,
    )?;
    if as_tree == Some(true) {
        let tree = metrics::tree(&series);
        return Ok(reply::json(&reply::LatestTree::new(device.as_str(), &tree)));
    }
    let items = series
        .iter()
        .map(|r| reply::Latest::new(r, &described))
        .collect();
    Ok(reply::json(&reply::LatestFlat {
        device: device.as_str(),
        items,
    }))
}

pub(super) fn fleet_latest(api: &Api, call: &Call, _: &Segment) -> Result<Response, Problem> {
    let params = call.params(&["path", "limit", "cursor"])?;
    let patterns = params.patterns()?;
    let cursor = params.cursor()?;
    let after = match &cursor {
        None => None,
        Some(Cursor::Fleet { device, path }) => Some((device.as_str(), path.as_str())),
        Some(_) => return Err(bad_cursor()),
    };
    let page = fleet::latest(
        &*api.store,
        &api.descriptors,
        &patterns,
        after,
        params.list_limit()?,
        TimestampMs::now(),
    );
    let next = page.items.last().filter(|_| page.more);
    let next = next.map(|item| Cursor::Fleet {
        device: item.device.to_string(),
        path: item.series.path.to_string(),
    });
    let items: Vec<_> = page.items.iter().map(reply::FleetItem::from).collect();
    Ok(call.page(&params, items, next))
}

pub(super) fn series(api: &Api, call: &Call, device: &Segment) -> Result<Response, Problem> {
    let params = call.params(&[
        "path", "from", "to", "step", "points", "agg", "limit", "cursor",
    ])?;
    let now = TimestampMs::now();
    let query = params.series(&device.device()?, now)?;
    let answer = range::series(&*api.store, &query)?;
    let about = api
        .store
        .device(&query.device)
        .and_then(|record| record.about);
    let described = api.descriptors.of(about.as_ref());
    let cursor = answer.next.map(|next| {
        let (from, to) = (query.from, query.to);
        Cursor::Series {
            next,
            from,
            to,
            step_ms: answer.step_ms,
        }
        .text()
    });
    let link = cursor
        .as_ref()
        .map(|cursor| page::link(&call.path, &params, cursor));
    let body = reply::Series::new(&query, &answer, &described, cursor.as_deref());
    let mut response = reply::with_link(reply::json(&body), link);
    if params.is_closed(query.to, now) {
        reply::keep_closed(&mut response);
    }
    Ok(response)
}

pub(super) fn status(api: &Api, call: &Call, _: &Segment) -> Result<Response, Problem> {
    call.params(&[])?;
    let store = api.store.status();
    let intake = (api.intake)();
    let counts = devices::count(&*api.store, TimestampMs::now());
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
    }))
}

pub(super) fn dead_letters(api: &Api, call: &Call, _: &Segment) -> Result<Response, Problem> {
    let params = call.params(&["limit", "cursor"])?;
    let before = match params.cursor()? {
        None => None,
        Some(Cursor::DeadLetter(id)) => Some(id),
        Some(_) => return Err(bad_cursor()),
    };
    let page = dead_letters::list(&*api.store, before, params.list_limit()?)?;
    let next = page
        .items
        .last()
        .filter(|_| page.more)
        .map(|letter| Cursor::DeadLetter(letter.id));
    let items: Vec<_> = page.items.iter().map(reply::DeadLetterItem::from).collect();
    Ok(call.page(&params, items, next))
}

pub(super) fn dead_letter(api: &Api, call: &Call, id: &Segment) -> Result<Response, Problem> {
    call.params(&[])?;
    let letter = dead_letters::one(&*api.store, id.id()?)?;
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
    let store = api.store.status();
    let problem = store.problem.clone().or_else(|| (api.intake)().problem);
    if let Some(reason) = problem {
        return Err(Problem::new(
            Kind::NotReady,
            format!("the collector takes no messages: {reason}"),
        ));
    }
    let (status, reason) = reply::state(&store);
    Ok(probe(&Probe { status, reason }))
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
