//! One event: what happened, its number, and what it is the newest of.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use devmon_core::Value;
use devmon_core::wire::about::SourceState;
use devmon_core::wire::{FlatFrame, TimestampMs};

use super::layouts::LayoutNumber;
use crate::query::devices::Status;

/// What an event takes beside what it holds: its places in the log's lists.
const OVERHEAD_BYTES: usize = 256;
/// What a leaf takes as JSON beside its path, about.
const LEAF_JSON_BYTES: usize = 24;

/// Names an event: which start of the collector, and a number that grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId {
    pub boot: u64,
    pub seq: u64,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.boot, self.seq)
    }
}

/// A text that names no event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no id of an event; give the id of the last one that came, or leave it out")]
pub struct EventIdError(String);

impl FromStr for EventId {
    type Err = EventIdError;

    fn from_str(text: &str) -> Result<Self, EventIdError> {
        let parse = || {
            let (boot, seq) = text.split_once('-')?;
            let digits = seq.bytes().all(|b| b.is_ascii_digit());
            let seq = seq.parse().ok().filter(|_| digits)?;
            let hex = boot.len() == 16 && boot.bytes().all(|b| b.is_ascii_hexdigit());
            let boot = u64::from_str_radix(boot, 16).ok().filter(|_| hex)?;
            Some(Self { boot, seq })
        };
        parse().ok_or_else(|| EventIdError(text.chars().take(64).collect()))
    }
}

/// What is called what in the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Samples,
    Status,
    Source,
    Device,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Samples, Self::Status, Self::Source, Self::Device];

    /// `samples`, `status`, `source` or `device`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Samples => "samples",
            Self::Status => "status",
            Self::Source => "source",
            Self::Device => "device",
        }
    }
}

/// Something that happened to a device.
#[derive(Debug)]
pub struct Event {
    /// Given by the log.
    pub seq: u64,
    pub device: Arc<str>,
    /// Names the device among those that are followed; small, and 0 if it has none.
    pub(super) device_number: u32,
    pub what: What,
    /// Of samples: names the frame's layout; 0 if it has none.
    pub(super) layout: LayoutNumber,
    /// Its text for those who want all of it, once one of them has asked.
    pub text: OnceLock<Bytes>,
}

/// What happened.
#[derive(Debug)]
pub enum What {
    /// A frame was stored.
    Samples(FlatFrame),
    /// Its status is another one.
    Status {
        status: Status,
        /// `None`: it was not known before.
        previous: Option<Status>,
        ts: TimestampMs,
    },
    /// A source came, went, or is in another state, or in the same one for another reason.
    Source {
        name: Box<str>,
        /// `None`: the agent names it no longer.
        state: Option<SourceState>,
        reason: Option<Box<str>>,
        /// `None`: it was not there before.
        previous: Option<SourceState>,
        ts: TimestampMs,
    },
    /// It was seen for the first time, or forgotten.
    Device { is_there: bool, ts: TimestampMs },
}

/// What only the newest counts of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Slot {
    Samples(Option<Box<str>>),
    Status,
    Source(Box<str>),
    Device,
}

impl Event {
    /// An event whose device and layout have no number.
    pub(super) fn new(device: Arc<str>, what: What) -> Self {
        Self {
            seq: 0,
            device,
            device_number: 0,
            what,
            layout: 0,
            text: OnceLock::new(),
        }
    }

    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.what {
            What::Samples(_) => Kind::Samples,
            What::Status { .. } => Kind::Status,
            What::Source { .. } => Kind::Source,
            What::Device { .. } => Kind::Device,
        }
    }

    pub(super) fn slot(&self) -> Slot {
        match &self.what {
            What::Samples(frame) => Slot::Samples(frame.source.clone()),
            What::Status { .. } => Slot::Status,
            What::Source { name, .. } => Slot::Source(name.clone()),
            What::Device { .. } => Slot::Device,
        }
    }

    pub(super) fn is_of(&self, slot: &Slot) -> bool {
        match (&self.what, slot) {
            (What::Samples(frame), Slot::Samples(source)) => frame.source == *source,
            (What::Source { name, .. }, Slot::Source(other)) => name == other,
            (What::Status { .. }, Slot::Status) | (What::Device { .. }, Slot::Device) => true,
            _ => false,
        }
    }

    /// When it happened: for samples, the time of the frame.
    #[must_use]
    pub fn ts(&self) -> TimestampMs {
        match self.what {
            What::Samples(ref frame) => frame.ts.unwrap_or(TimestampMs(0)), // stored frames have one
            What::Status { ts, .. } | What::Source { ts, .. } | What::Device { ts, .. } => ts,
        }
    }

    /// About what it takes in memory, its text included.
    pub(super) fn size_bytes(&self) -> usize {
        let held = match &self.what {
            What::Samples(frame) => {
                let texts = frame.values.iter().map(|value| match value {
                    Value::Text(text) => 2 * text.len(),
                    _ => 0,
                });
                let prefix = frame.source.as_ref().map_or(0, |source| source.len() + 1);
                let leaf = size_of::<Value>() + LEAF_JSON_BYTES + prefix;
                // Once as paths, which may be shared with others or not, and once in the text.
                2 * frame.shape.size_bytes() + frame.values.len() * leaf + texts.sum::<usize>()
            }
            What::Source { name, reason, .. } => {
                2 * (name.len() + reason.as_ref().map_or(0, |reason| reason.len()))
            }
            What::Status { .. } | What::Device { .. } => 0,
        };
        OVERHEAD_BYTES + size_of::<Self>() + self.device.len() + held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_back_as_they_were_and_nothing_else_is_one() {
        let id = EventId {
            boot: 0xab,
            seq: u64::MAX,
        };
        assert_eq!(id.to_string(), "00000000000000ab-18446744073709551615");
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in [
            "",
            "-",
            "ab-1",
            "00000000000000ab-",
            "00000000000000ab-+1",
            "00000000000000ab-18446744073709551616",
            "+0000000000000ab-1",
            "00000000000000ab-1\n",
        ] {
            assert!(text.parse::<EventId>().is_err(), "{text:?}");
        }
    }
}
