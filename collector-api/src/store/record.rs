//! One accepted message as a record of the intake's journal, both ways.
//!
//! The payload is kept as it came and is decoded again by the same code at a restart: no second format to keep in step, and what a device sent can be
//! read from the journal with nothing but this table.
//!
//! | offset | size | record, version 1 |
//! |---|---|---|
//! | 0 | 1 | version, 1 |
//! | 1 | 1 | kind: 1 metrics, 2 status, 3 about, 4 the device is forgotten (no payload) |
//! | 2 | 8 | arrival, unix ms, little-endian |
//! | 10 | 1 | length d of the device id, 1 to 128 |
//! | 11 | d | device id |
//! | 11 + d | rest | payload as it came |

use std::sync::Arc;

use bytes::Bytes;
use devmon_core::wire::{About, DeviceId, FlatMessage, Status, TimestampMs};

use super::engine::{Accepted, Content};

const VERSION: u8 = 1;
const METRICS: u8 = 1;
const STATUS: u8 = 2;
const ABOUT: u8 = 3;
const PURGE: u8 = 4;

/// What a record says.
#[derive(Debug)]
pub(super) enum Entry {
    Message(Accepted),
    /// All that came from the device before is forgotten.
    Purge {
        device: DeviceId,
        received: TimestampMs,
    },
}

/// Why a record of the journal could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecordError {
    #[error("a record of version {0}; this release reads version 1: use the release that wrote it")]
    Version(u8),
    #[error("a record that is not of our form: {0}")]
    Form(&'static str),
    #[error("a payload that was good when it came and is refused now: {0}")]
    Payload(String),
}

/// Appends the record of `item` to `out`.
pub(super) fn encode(item: &Accepted, out: &mut Vec<u8>) {
    let kind = match item.content {
        Content::Metrics { .. } => METRICS,
        Content::Status(_) => STATUS,
        Content::About(_) => ABOUT,
    };
    put_head(kind, &item.device, item.received, out);
    out.extend_from_slice(&item.payload);
}

/// Appends the record that forgets a device.
pub(super) fn encode_purge(device: &DeviceId, now: TimestampMs, out: &mut Vec<u8>) {
    put_head(PURGE, device, now, out);
}

fn put_head(kind: u8, device: &DeviceId, received: TimestampMs, out: &mut Vec<u8>) {
    let device = device.as_str().as_bytes();
    out.extend_from_slice(&[VERSION, kind]);
    out.extend_from_slice(&received.0.to_le_bytes());
    out.push(device.len() as u8); // a device id has at most 128 bytes
    out.extend_from_slice(device);
}

/// True if it holds a metrics message, or says so.
pub(super) fn is_metrics(record: &[u8]) -> bool {
    record.get(1) == Some(&METRICS)
}

/// Reads a record and decodes its payload.
///
/// # Errors
/// [`RecordError`]; the checksum has been checked before, so this is another release's record, or a bug.
pub(super) fn decode(record: &[u8]) -> Result<Entry, RecordError> {
    let form = RecordError::Form;
    let (&[version, kind], rest) = record.split_first_chunk().ok_or(form("too short"))?;
    if version != VERSION {
        return Err(RecordError::Version(version));
    }
    let (&received, rest) = rest.split_first_chunk::<8>().ok_or(form("too short"))?;
    let received = TimestampMs(i64::from_le_bytes(received));
    let (&length, rest) = rest.split_first().ok_or(form("too short"))?;
    let (device, payload) = rest
        .split_at_checked(length.into())
        .ok_or(form("too short"))?;
    let device = std::str::from_utf8(device)
        .ok()
        .and_then(|d| d.parse::<DeviceId>().ok());
    let device = device.ok_or(form("no device id"))?;
    let refused = |e: &dyn std::fmt::Display| RecordError::Payload(e.to_string());
    let content = match kind {
        METRICS => {
            let mut message = FlatMessage::decode(payload).map_err(|e| refused(&e))?;
            for frame in &mut message.frames {
                frame.ts.get_or_insert(received);
            }
            Content::Metrics {
                id: message.id,
                frames: message.frames,
            }
        }
        STATUS => {
            let status: Status = serde_json::from_slice(payload).map_err(|e| refused(&e))?;
            Content::Status(status.status)
        }
        ABOUT => {
            let mut about: About = serde_json::from_slice(payload).map_err(|e| refused(&e))?;
            about.device.get_or_insert_with(|| device.clone());
            Content::About(Arc::new(about))
        }
        PURGE => return Ok(Entry::Purge { device, received }),
        _ => return Err(form("unknown kind")),
    };
    // The payload is in the journal already: nobody needs it a second time.
    Ok(Entry::Message(Accepted {
        device,
        received,
        payload: Bytes::new(),
        content,
    }))
}
