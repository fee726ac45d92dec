//! The newest values of the same metrics over all devices, by a pattern of their paths. From memory.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

use devmon_core::MetricPath;
use devmon_core::path::PathError;
use devmon_core::wire::{DeviceId, TimestampMs};

use super::Page;
use super::descriptors::{Described, DescriptorCache};
use super::devices::{Status, status};
use crate::store::engine::{DeviceRecord, SeriesRecord, Store};

/// Devices that are looked through between two looks at the list of devices.
const DEVICES_AT_ONCE: usize = 256;

/// A path in which a segment `*` stands for any one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(MetricPath);

impl FromStr for Pattern {
    type Err = PathError;
    fn from_str(text: &str) -> Result<Self, PathError> {
        text.parse().map(Self)
    }
}

impl Pattern {
    /// The path above the first `*`: what is to be looked through.
    fn prefix(&self) -> &str {
        let text = self.0.as_str();
        let open = text
            .find("/*/")
            .or_else(|| text.ends_with("/*").then(|| text.len() - 2));
        &text[..open.unwrap_or(text.len())]
    }

    /// True if the path has a name for each segment, and equal ones where the pattern names them.
    #[must_use]
    pub fn matches(&self, path: &MetricPath) -> bool {
        let (mut wanted, mut given) = (self.0.as_str().split('/'), path.as_str().split('/'));
        loop {
            match (wanted.next(), given.next()) {
                (None, None) => return true,
                (Some(wanted), Some(given)) if wanted == "*" || wanted == given => {}
                _ => return false,
            }
        }
    }
}

/// A newest value with its device.
#[derive(Debug, Clone)]
pub struct FleetLatest {
    pub device: DeviceId,
    pub status: Status,
    pub series: SeriesRecord,
    pub described: Arc<Described>,
}

/// A page of the newest values that fit a pattern, by device and path, those behind `after` (device, path) first.
#[must_use]
pub fn latest(
    store: &dyn Store,
    cache: &DescriptorCache,
    patterns: &[Pattern],
    after: Option<(&str, &str)>,
    limit: usize,
    now: TimestampMs,
) -> Page<FleetLatest> {
    let mut items = Vec::new();
    let add = |device: DeviceRecord, after: Option<&str>, items: &mut Vec<_>| {
        let room = limit + 1 - items.len();
        let found = matching(store, device.id.as_str(), patterns, after, room);
        if found.is_empty() {
            return;
        }
        let described = cache.of(device.about.as_ref());
        let status = status(&device, now);
        items.extend(found.into_iter().map(|series| FleetLatest {
            device: device.id.clone(),
            status,
            series,
            described: described.clone(),
        }));
    };
    if let Some((device, path)) = after
        && let Some(device) = store.device(device)
    {
        add(device, Some(path), &mut items);
    }
    let mut behind = after.map(|(device, _)| device.to_owned());
    while items.len() <= limit {
        let devices = store.devices(behind.as_deref(), DEVICES_AT_ONCE, &|d| d.series > 0);
        let Some(last) = devices.last() else { break };
        behind = Some(last.id.to_string());
        for device in devices {
            if items.len() <= limit {
                add(device, None, &mut items);
            }
        }
    }
    Page::cut(items, limit)
}

/// Series of a device that fit a pattern, by path, at most `room`.
fn matching(
    store: &dyn Store,
    device: &str,
    patterns: &[Pattern],
    after: Option<&str>,
    room: usize,
) -> Vec<SeriesRecord> {
    let mut found = BTreeMap::new();
    for pattern in patterns {
        let prefix = pattern.prefix();
        // Without a * the path itself is the first of all within it.
        let most = if prefix == pattern.0.as_str() {
            1
        } else {
            usize::MAX
        };
        let all = store.series(device, prefix, after, most);
        let fits = all
            .into_iter()
            .filter(|series| pattern.matches(&series.path));
        found.extend(fits.map(|series| (series.path.to_string(), series)));
    }
    found.into_values().take(room).collect()
}
