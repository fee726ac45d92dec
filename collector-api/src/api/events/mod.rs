//! `GET /api/v1/events`: what happens, as server-sent events.
//!
//! What was asked → [`Filter`] and pace → a task for each client ([`client`]) that reads the log of [`events`](crate::events) from its own place, writes ([`text`]) what is wanted, and
//! waits for the client to take it. The body is what that task sends, one chunk at a time; it ends when the collector does, and the task ends when the body is dropped.

mod client;
mod text;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use devmon_core::config::DurationText;
use tokio::sync::mpsc;
use tracing::Span;
use warp::Reply;
use warp::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, X_CONTENT_TYPE_OPTIONS};
use warp::http::{HeaderValue, Method};
use warp::hyper::body::Bytes;

use super::Api;
use super::endpoints::Call;
use super::params::{Params, all, each, word};
use super::patience::Line;
use super::problem::{Kind as Error, Problem};
use crate::events::event::Kind;
use crate::events::{DevicePattern, EventId, Events, Filter, Kinds, PathPattern};

/// Most `device` of one call.
const MAX_DEVICES: usize = 1_000;
/// Most `path` of one call, as of the others.
const MAX_PATHS: usize = 50;
const MIN_INTERVAL_MS: std::ops::RangeInclusive<u64> = 100..=3_600_000;
const LAST_EVENT_ID: &str = "last-event-id";

/// What a client asked for.
struct Asked {
    filter: Filter,
    min_interval: Option<Duration>,
    last: Option<EventId>,
}

/// Answers with a stream that ends with the collector. While the store opens, with one that says so and ends: a browser's `EventSource` comes again after that, and gives up for good at
/// an error. It has no `id`, so that whoever comes again still names the last event that it saw.
pub(super) fn stream(
    api: Result<&Api, Problem>,
    call: &Call,
) -> Result<warp::reply::Response, Problem> {
    let asked = asked(call)?;
    if call.method == Method::HEAD {
        return Ok(with_headers(""));
    }
    let api = match api {
        Ok(api) => api,
        Err(problem) => return Ok(with_headers(text::not_yet(&problem.detail))),
    };
    let follower = api.events.follow(asked.last);
    let follower = follower.map_err(|e| Problem::new(Error::NotReady, e.to_string()))?;
    let (send, chunks) = mpsc::channel(1);
    tokio::spawn(client::run(
        follower,
        api.events.shared(asked.filter),
        asked.min_interval,
        send,
    ));
    let body = Body {
        chunks,
        line: call.line.clone(),
        events: api.events.clone(),
        span: Span::current(),
    };
    Ok(with_headers(warp::reply::stream(body)))
}

/// The header that says where a stream begins that goes on from an answer.
const EVENT_ID: HeaderName = HeaderName::from_static("event-id");

/// Where a stream may go on from an answer; to be had before the store is asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begun(Option<EventId>);

impl Begun {
    /// With `follow=true`; else it is nowhere.
    pub(super) fn by(api: &Api, follow: bool) -> Result<Self, Problem> {
        if !follow {
            return Ok(Self(None));
        }
        let begun = api.events.begin();
        let begun = begun.map_err(|e| Problem::new(Error::NotReady, e.to_string()))?;
        Ok(Self(Some(begun)))
    }

    /// Whether the answer is about now, and nothing to keep.
    pub(super) fn is_somewhere(self) -> bool {
        self.0.is_some()
    }

    /// Says it in the answer.
    pub(super) fn on<B>(self, mut answer: warp::http::Response<B>) -> warp::http::Response<B> {
        if let Some(id) = self.0
            && let Ok(id) = HeaderValue::try_from(id.to_string())
        {
            answer.headers_mut().insert(EVENT_ID, id);
        }
        answer
    }
}

fn with_headers(reply: impl Reply) -> warp::reply::Response {
    let mut response = reply.into_response();
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // nginx would collect some KiB before it passes anything on.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn asked(call: &Call) -> Result<Asked, Problem> {
    let known = ["device", "path", "types", "min_interval", "last_event_id"];
    let (_, (devices, paths, kinds, min_interval, last)) = call.asked(&known, |params| {
        all((
            listed::<DevicePattern>(params, "device", MAX_DEVICES),
            listed::<PathPattern>(params, "path", MAX_PATHS),
            kinds(params),
            params.get("min_interval").map(min_interval).transpose(),
            last(call, params),
        ))
    })?;
    Ok(Asked {
        filter: Filter::new(kinds, devices, paths),
        min_interval,
        last,
    })
}

fn kinds(params: &Params) -> Result<Kinds, Problem> {
    let Some(text) = params.get("types") else {
        return Ok(Kinds::ALL);
    };
    let kind = |name| word("types", name, &Kind::ALL, Kind::as_str);
    let kinds = each(text.split(',').map(kind))?;
    Ok(kinds.into_iter().fold(Kinds::NONE, Kinds::with))
}

fn last(call: &Call, params: &Params) -> Result<Option<EventId>, Problem> {
    // A browser sends the header when it comes again, with the address of the first time.
    let (name, last) = match call.headers.get(LAST_EVENT_ID) {
        Some(value) => ("Last-Event-ID", Some(value.to_str().unwrap_or("?"))),
        None => ("last_event_id", params.get("last_event_id")),
    };
    let last = last.filter(|text| !text.is_empty()).map(str::parse);
    last.transpose().map_err(|e| Problem::parameter(name, e))
}

fn listed<T>(params: &Params, name: &str, most: usize) -> Result<Vec<T>, Problem>
where
    T: std::str::FromStr<Err: ToString>,
{
    let parse = |text: &str| {
        text.parse()
            .map_err(|e: T::Err| Problem::parameter(name, e))
    };
    let all: Vec<T> = each(params.values(name).map(parse))?;
    if all.len() > most {
        let detail = format!("stands {} times; the most is {most}", all.len());
        return Err(Problem::parameter(name, detail));
    }
    Ok(all)
}

fn min_interval(text: &str) -> Result<Duration, Problem> {
    let duration = match text.parse() {
        Ok(ms) => Ok(Duration::from_millis(ms)),
        Err(_) => text.parse::<DurationText>().map(|d| d.0),
    };
    let in_range = |d: &Duration| {
        let ms = u64::try_from(d.as_millis());
        ms.is_ok_and(|ms| MIN_INTERVAL_MS.contains(&ms))
    };
    duration.ok().filter(in_range).ok_or_else(|| {
        let detail = format!(
            "{text:?} is no interval of 100ms to 1h; write 1s, 500ms, or plain milliseconds"
        );
        Problem::parameter("min_interval", detail)
    })
}

/// What a client's task sends, as a body.
struct Body {
    chunks: mpsc::Receiver<Bytes>,
    line: Option<Arc<Line>>,
    events: Events,
    /// Of the call, which is answered long before its body ends: lines of the log name it.
    span: Span,
}

impl futures_core::Stream for Body {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.chunks.poll_recv(cx).map(|chunk| chunk.map(Ok))
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if self.line.as_ref().is_some_and(|line| line.gave_up()) {
            self.events.counters().dropped.fetch_add(1, Relaxed);
            self.span.in_scope(|| {
                tracing::info!("a client of events did not read what was sent, and was let go");
            });
        }
    }
}
