//! Bounds on what the catalogue may grow to: devices, series of a device, series of all.
//!
//! A message that would pass one is refused whole, before it is written; devices and series that are known go on. A batch is judged before any of it is applied, so
//! what its earlier messages make new is counted upwards; where that would decide, the batch is cut there and judged on ([`Admission::Later`]).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use devmon_core::wire::{DeviceId, FlatFrame, Reason};

use super::catalogue::{Catalogue, Device};
use super::engine::{Accepted, Content};
use super::local::Options;

/// Text of all paths of a device: with it the record of a stream's paths stays far below what the database takes (`blob`).
const DEVICE_PATH_BYTES: u64 = 64 << 20;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Yes,
    No {
        reason: Reason,
        limit: u64,
    },
    /// Not to be said before the earlier messages of the batch are applied.
    Later,
}

/// What a batch adds, counted upwards.
#[derive(Debug, Default)]
pub(super) struct Growth<'a> {
    devices: HashSet<&'a DeviceId>,
    of_device: HashMap<&'a DeviceId, New>,
    series: u64,
}

/// Series that are not known.
#[derive(Debug, Default, Clone, Copy)]
struct New {
    series: u64,
    path_bytes: u64,
}

impl<'a> Growth<'a> {
    pub(super) fn admit(
        &mut self,
        catalogue: &Catalogue,
        device: Option<&Device>,
        item: &'a Accepted,
        limits: &Options,
    ) -> Admission {
        let is_new = device.is_none() && !self.devices.contains(&item.device);
        let devices = (catalogue.devices.len() + self.devices.len()) as u64;
        if is_new && devices >= limits.max_devices {
            return self.beyond(
                Reason::TooManyDevices,
                limits.max_devices,
                !self.devices.is_empty(),
            );
        }
        let frames = match &item.content {
            Content::Metrics { frames, .. } => &frames[..],
            Content::Status(_) | Content::About(_) => &[],
        };
        let mut new = New::default();
        if frames.iter().any(|frame| !is_known(device, frame)) {
            new = count(device, frames);
        }
        if new.series > 0 {
            let before = self
                .of_device
                .get(&item.device)
                .copied()
                .unwrap_or_default();
            let known = device.map_or((0, 0), Device::extent);
            let series = known.0 + before.series + new.series;
            let bytes = known.1 + before.path_bytes + new.path_bytes;
            if series > limits.max_device_series || bytes > DEVICE_PATH_BYTES {
                let limit = limits.max_device_series;
                return self.beyond(Reason::TooManySeries, limit, before.series > 0);
            }
            if catalogue.all_series + self.series + new.series > limits.max_series {
                return self.beyond(Reason::TooManySeries, limits.max_series, self.series > 0);
            }
            self.series += new.series;
            let of_device = self.of_device.entry(&item.device).or_default();
            of_device.series += new.series;
            of_device.path_bytes += new.path_bytes;
        }
        if is_new {
            self.devices.insert(&item.device);
        }
        Admission::Yes
    }

    fn beyond(&self, reason: Reason, limit: u64, guessed: bool) -> Admission {
        if guessed {
            Admission::Later
        } else {
            Admission::No { reason, limit }
        }
    }
}

/// The usual case: a frame of the shape that its stream had last.
fn is_known(device: Option<&Device>, frame: &FlatFrame) -> bool {
    let source = frame.source.as_deref();
    let stream = device
        .zip(source)
        .and_then(|(device, source)| device.stream(source));
    stream.is_some_and(|stream| stream.has_shape(&frame.shape))
}

/// The series of the frames that the device does not have, each once.
fn count(device: Option<&Device>, frames: &[FlatFrame]) -> New {
    let mut new = New::default();
    let mut seen = HashSet::new();
    let mut last: Option<&FlatFrame> = None;
    for frame in frames {
        if last.is_some_and(|l| l.source == frame.source && Arc::ptr_eq(&l.shape, &frame.shape)) {
            continue;
        }
        last = Some(frame);
        let source = frame.source.as_deref();
        for path in frame.shape.paths() {
            let is_there = device.is_some_and(|device| device.has(source, path));
            if !is_there && seen.insert((source, path)) {
                new.series += 1;
                new.path_bytes += (path.len() + source.map_or(0, str::len)) as u64;
            }
        }
    }
    new
}

#[cfg(test)]
mod tests {
    use super::super::Engine;
    use super::super::engine::{Committed, Store};
    use super::super::seal_tests::metrics;
    use super::*;

    fn tree(from: u32, to: u32) -> String {
        let leaves: Vec<_> = (from..to).map(|n| format!("\"n{n}\":{n}")).collect();
        leaves.join(",")
    }

    #[test]
    fn beyond_a_limit_messages_are_refused_and_what_is_known_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let limits = Options {
            max_devices: 2,
            max_device_series: 10,
            max_series: 15,
            ..Options::default()
        };
        let store = Engine::open(dir.path(), limits).unwrap();
        let no = |reason, limit| Committed::Refused { reason, limit };
        let stored = |samples| Committed::Stored { samples };
        // In one batch, where the later ones depend on the earlier.
        let batch = [
            metrics("a", 1, &[(0, "s", tree(0, 6))]),
            metrics("a", 2, &[(1, "s", tree(0, 6)), (2, "s", tree(0, 6))]),
            metrics("a", 3, &[(3, "s", tree(0, 10))]),
            metrics("a", 4, &[(4, "s", tree(0, 11))]),
            metrics("a", 4, &[(4, "s", tree(0, 11))]),
            metrics("b", 1, &[(5, "s", tree(0, 3)), (5, "t", tree(0, 3))]),
            metrics("b", 2, &[(6, "s", tree(0, 3)), (6, "t", tree(1, 2))]),
            metrics("c", 1, &[(7, "s", tree(0, 1))]),
        ];
        let expected = [
            stored(6),
            stored(12),
            stored(10),
            no(Reason::TooManySeries, 10),
            no(Reason::TooManySeries, 10),
            no(Reason::TooManySeries, 15),
            stored(4),
            no(Reason::TooManyDevices, 2),
        ];
        assert_eq!(store.commit(&batch).unwrap(), expected);
        drop(store);
        let store = Engine::open(
            dir.path(),
            Options {
                max_device_series: 10,
                max_devices: 2,
                ..Options::default()
            },
        )
        .unwrap();
        let again = [
            metrics("a", 5, &[(8, "s", tree(0, 10))]),
            metrics("a", 6, &[(9, "s", tree(5, 11))]),
            metrics("c", 2, &[(9, "s", tree(5, 11))]),
        ];
        let expected = [
            stored(10),
            no(Reason::TooManySeries, 10),
            no(Reason::TooManyDevices, 2),
        ];
        assert_eq!(store.commit(&again).unwrap(), expected);
    }
}
