//! The catalogue as records of the database, both ways.
//!
//! A seal writes the records of the devices that changed; opening reads them all. They may be newer than the journal's watermark: applying a message again
//! changes nothing. All numbers are varints, signed ones zigzag; times are unix ms; a text is its length and its UTF-8. Each record begins with its version: 1,
//! and 2 for devices and latest.
//!
//! | record | behind the version |
//! |---|---|
//! | checkpoint | next device number, next stream number; number of hours; each: hour, blocks, bytes |
//! | devices | until the end, each: number; id; first seen, last seen; 0 or 1 and last metrics; presence (0 unknown, 1 online, 2 offline); window of messages (`dedupe`) |
//! | about | the JSON of the wire |
//! | stream | number of the device; name; number of series; their paths |
//! | latest | until the end, each: number of the stream; number of series; each: 0, or 1 with first time, last time less first time, newest value tagged (`column`) |
//! | intent | number of hours; the hours |

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use devmon_core::wire::about::{About, Presence};
use devmon_core::wire::{DeviceId, TimestampMs};

use super::blob::{Id, Kind};
use super::catalogue::{Catalogue, Device, Known, Stream};
use super::column::{get_value, put_value};
use super::dedupe::Seen;
use super::layout::Layouts;
use super::purge::Purged;
use super::varint::{Cursor, Malformed, put_bytes, put_i64, put_u64};

const VERSION: u8 = 1;
/// Of the records that a group shares; 1 had one device, one stream.
const GROUPS_VERSION: u8 = 2;

/// Blocks of an hour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Hour {
    pub(super) blocks: u64,
    pub(super) bytes: u64,
}

pub(super) fn checkpoint(catalogue: &Catalogue, hours: &BTreeMap<u32, Hour>) -> Vec<u8> {
    let mut out = vec![VERSION];
    put_u64(&mut out, catalogue.next_device.into());
    put_u64(&mut out, catalogue.next_stream.into());
    put_u64(&mut out, hours.len() as u64);
    for (hour, figures) in hours {
        put_u64(&mut out, (*hour).into());
        put_u64(&mut out, figures.blocks);
        put_u64(&mut out, figures.bytes);
    }
    out
}

pub(super) fn intent(hours: impl ExactSizeIterator<Item = u32>) -> Vec<u8> {
    let mut out = vec![VERSION];
    put_u64(&mut out, hours.len() as u64);
    hours.for_each(|hour| put_u64(&mut out, hour.into()));
    out
}

pub(super) fn read_intent(record: &[u8]) -> Result<Vec<u32>, Malformed> {
    let mut from = begin(Kind::Intent, record)?;
    (0..from.count(record.len())?).map(|_| from.u32()).collect()
}

pub(super) fn devices<'a>(members: impl Iterator<Item = (&'a DeviceId, &'a Device)>) -> Vec<u8> {
    let mut out = vec![GROUPS_VERSION];
    for (id, device) in members {
        put_u64(&mut out, device.number.into());
        put_device(&mut out, id, device);
    }
    out
}

fn put_device(out: &mut Vec<u8>, id: &DeviceId, device: &Device) {
    put_bytes(out, id.as_str().as_bytes());
    put_i64(out, device.first_seen.0);
    put_i64(out, device.last_seen.0);
    put_u64(out, device.last_metrics.is_some().into());
    if let Some(ts) = device.last_metrics {
        put_i64(out, ts.0);
    }
    out.push(match device.presence {
        None => 0,
        Some(Presence::Online) => 1,
        Some(Presence::Offline) => 2,
    });
    device.seen.encode(out);
}

/// A text that serde has read it can write; if not, the journal's next one tries again.
pub(super) fn about(about: &About) -> Vec<u8> {
    let mut out = vec![VERSION];
    out.extend(serde_json::to_vec(about).unwrap_or_default());
    out
}

pub(super) fn stream(device: u32, stream: &Stream) -> Vec<u8> {
    let mut out = vec![VERSION];
    put_u64(&mut out, device.into());
    put_bytes(&mut out, stream.name.as_bytes());
    put_u64(&mut out, stream.series.len() as u64);
    let prefix = stream.prefix();
    for path in stream.layout.paths() {
        put_u64(&mut out, (prefix.len() + path.len()) as u64);
        out.extend_from_slice(prefix.as_bytes());
        out.extend_from_slice(path.as_bytes());
    }
    out
}

/// Of each stream the first series, as many as have their paths in its own record: reading finds no place for others, and there may be some since that was written.
pub(super) fn latest<'a>(members: impl Iterator<Item = (&'a Stream, usize)>) -> Vec<u8> {
    let mut out = vec![GROUPS_VERSION];
    for (stream, written) in members {
        let series = &stream.series[..written.min(stream.series.len())];
        if series.is_empty() {
            continue;
        }
        put_u64(&mut out, stream.number.into());
        put_u64(&mut out, series.len() as u64);
        for series in series {
            let Some(known) = &series.known else {
                out.push(0);
                continue;
            };
            out.push(1);
            put_i64(&mut out, known.first_ts.0);
            put_i64(&mut out, known.last_ts.since(known.first_ts));
            put_value(&mut out, &known.last_value);
        }
    }
    out
}

/// Puts a catalogue together from its records, which come by kind and number.
#[derive(Debug, Default)]
pub(super) struct Restore {
    pub(super) hours: BTreeMap<u32, Hour>,
    next_device: u32,
    next_stream: u32,
    devices: BTreeMap<u32, (DeviceId, Device)>,
    /// By number, with the device's.
    streams: BTreeMap<u32, (u32, Stream)>,
    layouts: Layouts,
    /// Devices of tombstones: what is left of them is no damage.
    purged: BTreeSet<u32>,
    /// What is left of them.
    remains: Vec<Id>,
}

impl Restore {
    pub(super) fn new(tombstones: &[Purged]) -> Self {
        Self {
            purged: tombstones.iter().map(|purged| purged.device).collect(),
            ..Self::default()
        }
    }

    pub(super) fn record(&mut self, id: Id, record: &[u8]) -> Result<(), Malformed> {
        let mut from = begin(id.kind, record)?;
        match id.kind {
            Kind::Checkpoint => {
                self.next_device = from.u32()?;
                self.next_stream = from.u32()?;
                for _ in 0..from.count(record.len())? {
                    let hour = from.u32()?;
                    self.hours.insert(
                        hour,
                        Hour {
                            blocks: from.u64()?,
                            bytes: from.u64()?,
                        },
                    );
                }
            }
            Kind::Devices => {
                while !from.0.is_empty() {
                    let number = from.u32()?;
                    let device = read_device(&mut from, number)?;
                    self.devices.insert(number, device);
                }
            }
            Kind::About => {
                if self.is_gone(id.number) {
                    self.remains.push(id);
                    return Ok(());
                }
                let about = serde_json::from_slice(from.0).map_err(|_| Malformed("no about"))?;
                self.device(id.number)?.about = Some(Arc::new(about));
            }
            Kind::Stream => {
                let device = from.u32()?;
                if self.is_gone(device) {
                    self.remains.push(id);
                    return Ok(());
                }
                let mut stream = Stream::new(id.number, from.text()?);
                let prefix = stream.prefix();
                for _ in 0..from.count(record.len())? {
                    let path = from.text()?.strip_prefix(prefix.as_str());
                    stream.restore(path.ok_or(Malformed("a path of another stream"))?);
                }
                self.layouts.share(&mut stream.layout);
                self.streams.insert(id.number, (device, stream));
            }
            Kind::Latest => {
                while !from.0.is_empty() {
                    let of = self.streams.get_mut(&from.u32()?);
                    let (_, stream) = of.ok_or(Malformed("samples of no stream"))?;
                    // The paths may have been written by an earlier seal, then there are fewer samples; never more.
                    let count = from.count(stream.series.len())?;
                    for series in stream.series.iter_mut().take(count) {
                        series.known = read_known(&mut from)?;
                    }
                }
            }
            Kind::Intent => {}
        }
        Ok(())
    }

    /// True if the device was forgotten, and that was committed: else it stands among the devices, which come first.
    fn is_gone(&self, device: u32) -> bool {
        self.purged.contains(&device) && !self.devices.contains_key(&device)
    }

    /// Records that tombstones stand for, and the tombstones that count.
    pub(super) fn remains(&mut self, tombstones: Vec<Purged>) -> (Vec<Id>, Vec<Purged>) {
        let valid = tombstones
            .into_iter()
            .filter(|purged| self.is_gone(purged.device));
        (self.remains.clone(), valid.collect())
    }

    fn device(&mut self, number: u32) -> Result<&mut Device, Malformed> {
        let (_, device) = self
            .devices
            .get_mut(&number)
            .ok_or(Malformed("no such device"))?;
        Ok(device)
    }

    pub(super) fn finish(mut self) -> Result<(Catalogue, BTreeMap<u32, Hour>), Malformed> {
        let next_stream = self.streams.keys().next_back().map_or(0, |last| last + 1);
        let next_device = self.devices.keys().next_back().map_or(0, |last| last + 1);
        for (device, stream) in std::mem::take(&mut self.streams).into_values() {
            self.device(device)?.add_stream(stream);
        }
        // What came while the records were written may have numbers above those that the checkpoint knows.
        let mut catalogue = Catalogue {
            next_device: self.next_device.max(next_device),
            next_stream: self.next_stream.max(next_stream),
            layouts: self.layouts,
            ..Catalogue::default()
        };
        for (id, device) in self.devices.into_values() {
            catalogue.series += device.live();
            catalogue.all_series += device.extent().0;
            catalogue.devices.insert(id, device);
        }
        Ok((catalogue, self.hours))
    }
}

fn begin(kind: Kind, record: &[u8]) -> Result<Cursor<'_>, Malformed> {
    let mut from = Cursor(record);
    let known = match kind {
        Kind::Devices | Kind::Latest => GROUPS_VERSION,
        _ => VERSION,
    };
    match from.u8()? {
        version if version == known => Ok(from),
        _ => Err(Malformed("a version that this release does not know")),
    }
}

fn read_device(from: &mut Cursor<'_>, number: u32) -> Result<(DeviceId, Device), Malformed> {
    let id = from
        .text()?
        .parse()
        .map_err(|_| Malformed("no device id"))?;
    let mut device = Device::new(number, TimestampMs(from.i64()?));
    device.last_seen = TimestampMs(from.i64()?);
    if from.u64()? == 1 {
        device.last_metrics = Some(TimestampMs(from.i64()?));
    }
    device.presence = match from.u8()? {
        0 => None,
        1 => Some(Presence::Online),
        2 => Some(Presence::Offline),
        _ => return Err(Malformed("unknown presence")),
    };
    device.seen = Seen::decode(from)?;
    Ok((id, device))
}

fn read_known(from: &mut Cursor<'_>) -> Result<Option<Known>, Malformed> {
    if from.u8()? == 0 {
        return Ok(None);
    }
    let first_ts = TimestampMs(from.i64()?);
    let last_ts = TimestampMs(first_ts.0.wrapping_add(from.i64()?));
    Ok(Some(Known {
        first_ts,
        last_ts,
        last_value: get_value(from)?,
    }))
}
