//! Events as text/event-stream (WHATWG HTML, server-sent events): the contract of `docs/rest-api.md`.

use devmon_core::Value;
use devmon_core::wire::json::ValueJson;
use devmon_core::wire::{FlatFrame, TimestampMs};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use warp::hyper::body::Bytes;

use crate::events::Gap;
use crate::events::event::{Event, EventId, What};
use crate::events::paths::escaped;

/// When a browser comes again by itself, in ms.
const RETRY_MS: u64 = 2_000;

/// What each client is sent first: where it is. An id without data moves a client's place and is no event to it.
pub(super) fn hello(out: &mut Vec<u8>, place: EventId) {
    out.extend_from_slice(format!("retry: {RETRY_MS}\nid: {place}\n\n").as_bytes());
}

/// What a client is sent that comes before there are events: why, as a comment, and when to come again.
pub(super) fn not_yet(why: &str) -> String {
    let why = why.replace(['\r', '\n'], " ");
    format!("retry: {RETRY_MS}\n: {why}\n\n")
}

/// What is sent when there is nothing else.
pub(super) fn heartbeat(out: &mut Vec<u8>, place: EventId) {
    out.extend_from_slice(format!(": nothing new\nid: {place}\n\n").as_bytes());
}

/// It has no id of its own: a client that goes now and comes again is told again.
pub(super) fn gap(out: &mut Vec<u8>, gap: &Gap) {
    out.extend_from_slice(b"event: gap\n");
    let (from, to) = (gap.from.to_string(), gap.to.to_string());
    let reason = gap.reason;
    data(out, &GapText { from, to, reason });
}

/// All of an event. Its text is made once for all clients.
pub(super) fn all(out: &mut Vec<u8>, id: EventId, event: &Event) {
    let make = || {
        let mut text = Vec::new();
        write(&mut text, id, event, None);
        Bytes::from(text)
    };
    out.extend_from_slice(event.text.get_or_init(make));
}

/// Of an event of samples those in the given places.
pub(super) fn some(out: &mut Vec<u8>, id: EventId, event: &Event, places: &[u32]) {
    write(out, id, event, Some(places));
}

fn write(out: &mut Vec<u8>, id: EventId, event: &Event, places: Option<&[u32]>) {
    let kind = event.kind().as_str();
    out.extend_from_slice(format!("id: {id}\nevent: {kind}\n").as_bytes());
    let device = &*event.device;
    match &event.what {
        What::Samples(frame) => data(
            out,
            &Samples {
                device,
                source: frame.source.as_deref(),
                ts: event.ts(),
                values: Values { frame, places },
            },
        ),
        What::Status {
            status,
            previous,
            ts,
        } => data(
            out,
            &Changed {
                device,
                status: status.as_str(),
                previous: previous.map(|status| status.as_str()),
                ts: *ts,
            },
        ),
        What::Source {
            name,
            state,
            reason,
            previous,
            ts,
        } => data(
            out,
            &Source {
                device,
                source: name,
                state: *state,
                reason: reason.as_deref(),
                previous: *previous,
                ts: *ts,
            },
        ),
        What::Device { is_there, ts } => data(
            out,
            &Device {
                device,
                change: if *is_there { "appeared" } else { "forgotten" },
                ts: *ts,
            },
        ),
    }
}

/// One line: JSON has no line breaks but escaped ones.
fn data(out: &mut Vec<u8>, document: &impl Serialize) {
    out.extend_from_slice(b"data: ");
    if let Err(error) = serde_json::to_writer(&mut *out, document) {
        tracing::error!(%error, "an event could not be written"); // only a key that is no text can not
    }
    out.extend_from_slice(b"\n\n");
}

#[derive(Serialize)]
struct GapText {
    from: String,
    to: String,
    reason: &'static str,
}

#[derive(Serialize)]
struct Samples<'a> {
    device: &'a str,
    source: Option<&'a str>,
    ts: TimestampMs,
    values: Values<'a>,
}

#[derive(Serialize)]
struct Changed<'a> {
    device: &'a str,
    status: &'static str,
    previous: Option<&'static str>,
    ts: TimestampMs,
}

#[derive(Serialize)]
struct Source<'a> {
    device: &'a str,
    source: &'a str,
    state: Option<devmon_core::wire::about::SourceState>,
    reason: Option<&'a str>,
    previous: Option<devmon_core::wire::about::SourceState>,
    ts: TimestampMs,
}

#[derive(Serialize)]
struct Device<'a> {
    device: &'a str,
    change: &'static str,
    ts: TimestampMs,
}

/// Leaves by their whole path.
struct Values<'a> {
    frame: &'a FlatFrame,
    /// `None`: all.
    places: Option<&'a [u32]>,
}

impl Serialize for Values<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut path = String::new();
        if let Some(source) = &self.frame.source {
            path.push('/');
            path.push_str(&escaped(source));
        }
        let length = path.len();
        let mut map = s.serialize_map(None)?;
        let mut put = |(leaf, value): (&str, &Value)| {
            path.truncate(length);
            path.push_str(leaf);
            map.serialize_entry(&path, &ValueJson(value))
        };
        let mut leaves = self.frame.leaves();
        match self.places {
            None => leaves.try_for_each(put)?,
            Some(places) => {
                let mut passed = 0;
                for place in places {
                    // By place, ascending.
                    let skip = (*place as usize).saturating_sub(passed);
                    if let Some(leaf) = leaves.nth(skip) {
                        put(leaf)?;
                    }
                    passed = *place as usize + 1;
                }
            }
        }
        map.end()
    }
}
