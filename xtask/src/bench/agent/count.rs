//! What a program sends, counted where it is received: bytes both ways, and, where the spelling is known, messages and values.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde_json::Value as Json;

use crate::relay::packets::{Packet, Stream};
use crate::relay::{Tap, Way};

/// How values are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// MQTT, devmon's messages: a value is a leaf of a frame.
    Devmon,
    /// MQTT, `time:value[:value…]`.
    Collectd,
    /// A value a line.
    Lines,
    /// Compressed, or in a form that is not looked into.
    Opaque,
}

/// So far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    /// TCP payload to the receiver, acknowledgements and handshakes of the protocol among it.
    pub(super) bytes_up: u64,
    pub(super) bytes_down: u64,
    pub(super) messages: u64,
    pub(super) values: u64,
}

#[derive(Debug)]
pub(super) struct Counter {
    spelling: Spelling,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    counts: Counts,
    streams: BTreeMap<u64, Stream>,
}

impl Counter {
    pub(super) fn new(spelling: Spelling) -> Self {
        Self {
            spelling,
            state: Mutex::default(),
        }
    }

    pub(super) fn counts(&self) -> Counts {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .counts
    }
}

impl Tap for Counter {
    fn pass(&self, connection: u64, way: Way, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { counts, streams } = &mut *state;
        if way == Way::Down {
            counts.bytes_down += bytes.len() as u64;
            return;
        }
        counts.bytes_up += bytes.len() as u64;
        match self.spelling {
            Spelling::Opaque => {}
            Spelling::Lines => {
                counts.values += bytes.iter().filter(|b| **b == b'\n').count() as u64
            }
            Spelling::Devmon | Spelling::Collectd => {
                // Both send MQTT, or the figures would stay at 0 and be seen.
                let _ = streams
                    .entry(connection)
                    .or_default()
                    .feed(bytes, &mut |packet| {
                        if let Packet::Publish { payload, .. } = packet {
                            counts.messages += 1;
                            counts.values += match self.spelling {
                                Spelling::Collectd => colons(payload),
                                _ => frames(payload),
                            };
                        }
                    });
            }
        }
    }

    fn closed(&self, connection: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.streams.remove(&connection);
    }
}

fn colons(payload: &[u8]) -> u64 {
    payload.iter().filter(|b| **b == b':').count() as u64
}

fn frames(payload: &[u8]) -> u64 {
    let message: Json = serde_json::from_slice(payload).unwrap_or_default();
    let frames = message["frames"].as_array().map_or(&[][..], Vec::as_slice);
    frames.iter().map(|frame| leaves(&frame["metrics"])).sum()
}

fn leaves(node: &Json) -> u64 {
    match node {
        Json::Object(below) => below.values().map(leaves).sum(),
        Json::Null => 0,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_in_each_spelling() {
        assert_eq!(colons(b"1795450000.123:12.5:7\0"), 2);
        let message = br#"{"v":1,"frames":[{"ts":1,"source":"cpu","metrics":{"a":1,"b":{"c":"x","d":{}}}},{"metrics":{"e":2}}]}"#;
        assert_eq!((frames(message), frames(b"online")), (3, 0));
    }
}
