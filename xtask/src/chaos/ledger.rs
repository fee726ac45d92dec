//! What passed between the agents and the broker, and between the broker and the collector: kept apart from both, so that neither is asked what it has done.
//!
//! A message is **published** when its PUBLISH passes to the broker, **acknowledged** when the broker's PUBACK passes to the agent, **stored** when the collector's
//! PUBACK for it passes to the broker. Each frame's samples are known from the first of these on, by device, path and time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Map, Value as Json};

use crate::load::now_ms;
use crate::relay::packets::{Packet, SUBACK, Stream};
use crate::relay::{Tap, Way};

/// A message whose newest frame is older than this by its device's clock is backlog.
const FRESH: Duration = Duration::from_secs(3);

/// Which message: device, boot, seq.
pub(super) type Name = (String, String, u64);

#[derive(Deserialize)]
struct Message {
    device: String,
    boot: String,
    seq: u64,
    frames: Vec<Frame>,
}

#[derive(Deserialize)]
struct Frame {
    ts: i64,
    source: String,
    metrics: Map<String, Json>,
}

/// One (series, time).
#[derive(Debug, Default, Clone)]
pub(super) struct Sample {
    /// All values that were published for it. Two, if a device's clock said the same time twice.
    pub(super) values: Vec<Json>,
    pub(super) acked: Option<Acked>,
}

/// When the broker's first PUBACK for it passed, and for which message.
#[derive(Debug, Clone)]
pub(super) struct Acked {
    pub(super) at: Instant,
    pub(super) message: Arc<Name>,
}

/// One device's.
#[derive(Debug, Default, Clone)]
pub(super) struct Device {
    /// By path, then by time.
    pub(super) samples: BTreeMap<String, BTreeMap<i64, Sample>>,
    /// Times at which a source was published.
    pub(super) ticks: BTreeMap<String, BTreeSet<i64>>,
    /// What its clock is ahead of ours, now.
    ahead_ms: i64,
    last_publish: Option<Instant>,
    last_backlog: Option<Instant>,
}

#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Counts {
    pub(super) published: u64,
    /// Of them, sent before.
    pub(super) again: u64,
    pub(super) acked: u64,
    pub(super) stored: u64,
    pub(super) backlog: u64,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) devices: BTreeMap<String, Device>,
    known: BTreeSet<Arc<Name>>,
    pub(super) acked: BTreeSet<Arc<Name>>,
    /// The collector has said that it has them.
    pub(super) stored: BTreeSet<Name>,
    pub(super) counts: Counts,
    /// The broker has taken a subscription of the collector's.
    pub(super) subscribed: bool,
    /// What could not be read: a fault of ours or of theirs, and of nobody's network.
    pub(super) unreadable: Vec<String>,
}

#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<State>);

impl Ledger {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_clock(&self, device: &str, ahead_ms: i64) {
        let mut state = self.state();
        state.devices.entry(device.to_owned()).or_default().ahead_ms = ahead_ms;
    }

    /// The devices that have not sent for a while, or have sent backlog lately.
    pub(super) fn undrained(&self) -> Vec<String> {
        let state = self.state();
        let lately = |at: Option<Instant>| at.is_some_and(|at| at.elapsed() < FRESH);
        let late = |device: &&Device| lately(device.last_backlog) || !lately(device.last_publish);
        let late = state.devices.iter().filter(|(_, device)| late(device));
        late.map(|(name, _)| name.clone()).collect()
    }
}

impl State {
    /// Messages that the broker has and the collector has not.
    pub(super) fn between(&self) -> usize {
        let acked = self.acked.iter();
        acked.filter(|name| !self.stored.contains(name)).count()
    }

    fn published(&mut self, payload: &[u8]) -> Option<Arc<Name>> {
        let message = self.read(payload)?;
        self.counts.published += 1;
        let name = Arc::new((message.device.clone(), message.boot, message.seq));
        if self.known.contains(&name) {
            self.counts.again += 1;
        }
        self.known.insert(name.clone());
        let device = self.devices.entry(message.device).or_default();
        let newest = message.frames.iter().map(|f| f.ts).max().unwrap_or(0);
        let age_ms = now_ms() + device.ahead_ms - newest;
        device.last_publish = Some(Instant::now());
        if age_ms.unsigned_abs() > FRESH.as_millis() as u64 {
            device.last_backlog = device.last_publish;
            self.counts.backlog += 1;
        }
        for frame in &message.frames {
            let ticks = device.ticks.entry(frame.source.clone()).or_default();
            ticks.insert(frame.ts);
            each_leaf(frame, &mut |path, value| {
                let series = device.samples.entry(path).or_default();
                let values = &mut series.entry(frame.ts).or_default().values;
                if !values.contains(value) {
                    values.push(value.clone());
                }
            });
        }
        Some(name)
    }

    fn acked(&mut self, name: &Arc<Name>, payload: &[u8]) {
        self.counts.acked += 1;
        let now = Instant::now();
        if !self.acked.insert(name.clone()) {
            return;
        }
        let Some(message) = self.read(payload) else {
            return;
        };
        let device = self.devices.entry(message.device).or_default();
        for frame in &message.frames {
            each_leaf(frame, &mut |path, _| {
                let series = device.samples.get_mut(&path);
                if let Some(sample) = series.and_then(|s| s.get_mut(&frame.ts)) {
                    let message = name.clone();
                    sample.acked.get_or_insert(Acked { at: now, message });
                }
            });
        }
    }

    fn read(&mut self, payload: &[u8]) -> Option<Message> {
        let plain;
        let json = if payload.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            plain = zstd::decode_all(payload).unwrap_or_default();
            &plain
        } else {
            payload
        };
        match serde_json::from_slice(json) {
            Ok(message) => Some(message),
            Err(error) => {
                let text = String::from_utf8_lossy(json);
                let begin: String = text.chars().take(200).collect();
                self.unreadable.push(format!("{error}: {begin}"));
                None
            }
        }
    }
}

/// Paths as the collector makes them: JSON Pointers that begin with the source.
fn each_leaf(frame: &Frame, each: &mut dyn FnMut(String, &Json)) {
    fn below(path: &str, node: &Json, each: &mut dyn FnMut(String, &Json)) {
        match node {
            Json::Object(branch) => {
                for (name, node) in branch {
                    below(&child(path, name), node, each);
                }
            }
            leaf => each(path.to_owned(), leaf),
        }
    }
    let top = child("", &frame.source);
    for (name, node) in &frame.metrics {
        below(&child(&top, name), node, each);
    }
}

fn child(path: &str, name: &str) -> String {
    format!("{path}/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// PUBLISHes on their way: by connection and packet id.
type Waiting<T> = BTreeMap<(u64, u16), T>;

/// Between the agents and the broker.
#[derive(Debug)]
pub(super) struct AgentSide {
    ledger: Arc<Ledger>,
    line: Mutex<LineState<(Arc<Name>, Vec<u8>)>>,
}

/// Between the collector and the broker.
#[derive(Debug)]
pub(super) struct CollectorSide {
    ledger: Arc<Ledger>,
    line: Mutex<LineState<Name>>,
}

#[derive(Debug)]
struct LineState<T> {
    streams: BTreeMap<(u64, Way), Stream>,
    waiting: Waiting<T>,
}

impl<T> LineState<T> {
    fn new() -> Mutex<Self> {
        Mutex::new(Self {
            streams: BTreeMap::new(),
            waiting: BTreeMap::new(),
        })
    }

    fn closed(&mut self, connection: u64) {
        self.streams.retain(|(number, _), _| *number != connection);
        self.waiting.retain(|(number, _), _| *number != connection);
    }
}

impl AgentSide {
    pub(super) fn new(ledger: Arc<Ledger>) -> Self {
        let line = LineState::new();
        Self { ledger, line }
    }
}

impl CollectorSide {
    pub(super) fn new(ledger: Arc<Ledger>) -> Self {
        let line = LineState::new();
        Self { ledger, line }
    }
}

fn is_metrics(topic: &[u8]) -> bool {
    topic.ends_with(b"/metrics")
}

impl Tap for AgentSide {
    fn pass(&self, connection: u64, way: Way, bytes: &[u8]) {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let LineState { streams, waiting } = &mut *line;
        let stream = streams.entry((connection, way)).or_default();
        let read = stream.feed(bytes, &mut |packet| match (way, packet) {
            (
                Way::Up,
                Packet::Publish {
                    topic, id, payload, ..
                },
            ) => {
                // An id that is used anew is another message's, whoever had it.
                waiting.remove(&(connection, id));
                if is_metrics(topic)
                    && let Some(name) = self.ledger.state().published(payload)
                {
                    waiting.insert((connection, id), (name, payload.to_vec()));
                }
            }
            (Way::Down, Packet::PubAck(id)) => {
                if let Some((name, payload)) = waiting.remove(&(connection, id)) {
                    self.ledger.state().acked(&name, &payload);
                }
            }
            _ => {}
        });
        if let Err(error) = read {
            let what = format!("agent and broker, {way:?}: {error}");
            self.ledger.state().unreadable.push(what);
        }
    }

    fn closed(&self, connection: u64) {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        line.closed(connection);
    }
}

impl Tap for CollectorSide {
    fn pass(&self, connection: u64, way: Way, bytes: &[u8]) {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let LineState { streams, waiting } = &mut *line;
        let stream = streams.entry((connection, way)).or_default();
        let read = stream.feed(bytes, &mut |packet| match (way, packet) {
            (
                Way::Down,
                Packet::Publish {
                    topic, id, payload, ..
                },
            ) => {
                waiting.remove(&(connection, id));
                if is_metrics(topic)
                    && let Some(message) = self.ledger.state().read(payload)
                {
                    let name = (message.device, message.boot, message.seq);
                    waiting.insert((connection, id), name);
                }
            }
            (Way::Down, Packet::Other(SUBACK)) => self.ledger.state().subscribed = true,
            (Way::Up, Packet::PubAck(id)) => {
                if let Some(name) = waiting.remove(&(connection, id)) {
                    let mut state = self.ledger.state();
                    state.counts.stored += 1;
                    state.stored.insert(name);
                }
            }
            _ => {}
        });
        if let Err(error) = read {
            let what = format!("broker and collector, {way:?}: {error}");
            self.ledger.state().unreadable.push(what);
        }
    }

    fn closed(&self, connection: u64) {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        line.closed(connection);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(first: u8, body: &[u8]) -> Vec<u8> {
        let mut out = vec![first];
        let length = body.len();
        out.extend([(length & 0x7f) as u8 | 0x80, (length >> 7) as u8]);
        out.extend(body);
        out
    }

    fn publish(id: u16, payload: &str) -> Vec<u8> {
        let mut body = vec![0, 9];
        body.extend(b"x/metrics");
        body.extend(id.to_be_bytes());
        body.extend(payload.as_bytes());
        packet(0x32, &body)
    }

    #[test]
    fn only_what_a_puback_has_passed_for_is_acknowledged() {
        let ledger = Arc::new(Ledger::default());
        let side = AgentSide::new(ledger.clone());
        let message = |seq: u64| {
            format!(
                r#"{{"v":1,"device":"d","boot":"b","seq":{seq},"frames":[{{"ts":{},"source":"disk","metrics":{{"/home":{{"a~b":{seq}}}}}}}]}}"#,
                1000 * seq
            )
        };
        side.pass(1, Way::Up, &publish(1, &message(1)));
        side.pass(1, Way::Up, &publish(2, &message(2)));
        side.pass(2, Way::Down, &[0x40, 2, 0, 1]); // another connection's
        side.pass(1, Way::Down, &[0x40, 2, 0, 2]);
        side.closed(1);
        side.pass(3, Way::Up, &publish(1, &message(1)));

        let far = CollectorSide::new(ledger.clone());
        far.pass(1, Way::Down, &publish(7, &message(2)));
        assert_eq!(ledger.state().between(), 1);
        far.pass(1, Way::Up, &[0x40, 2, 0, 7]);

        let state = ledger.state();
        assert_eq!(state.between(), 0);
        let series = &state.devices["d"].samples["/disk/~1home/a~0b"];
        assert!(series[&1000].acked.is_none() && series[&2000].acked.is_some());
        let counts = state.counts;
        assert_eq!((counts.published, counts.again, counts.acked), (3, 1, 1));
        assert!(state.unreadable.is_empty(), "{:?}", state.unreadable);
    }
}
