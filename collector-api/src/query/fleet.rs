//! The newest values of the same metrics over all devices, by a pattern of their paths. From memory.

use std::collections::{BTreeMap, HashSet};
use std::str::FromStr;
use std::sync::Arc;

use devmon_core::MetricPath;
use devmon_core::path::PathError;
use devmon_core::wire::{DeviceId, TimestampMs};

use super::descriptors::{Described, DescriptorCache};
use super::devices::{self, DeviceFilter, Status, status};
use super::{Page, QueryError};
use crate::store::engine::{DeviceRecord, SeriesRecord, Store};

/// Devices that are looked through between two looks at the list of devices.
pub(super) const DEVICES_AT_ONCE: usize = 256;

/// A path in which a segment `*` stands for any one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(MetricPath);

/// A text that is no pattern of paths.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    #[error(transparent)]
    Path(#[from] PathError),
    /// Would find nothing, silently.
    #[error(
        "{0:?}: a * stands for one whole name, as in /disk/*/used_bytes; neither parts of names nor several names can be left open"
    )]
    Star(String),
}

/// A path whose segments are names or `*`.
///
/// # Errors
/// [`PatternError`].
pub fn starred(text: &str) -> Result<MetricPath, PatternError> {
    let path: MetricPath = text.parse()?;
    let half = path.segments().find(|s| s.contains('*') && s != "*");
    match half {
        Some(half) => Err(PatternError::Star(half.into_owned())),
        None => Ok(path),
    }
}

impl FromStr for Pattern {
    type Err = PatternError;
    fn from_str(text: &str) -> Result<Self, PatternError> {
        starred(text).map(Self)
    }
}

impl Pattern {
    /// True if a source of this name may have what fits.
    pub(super) fn may_be_of(&self, source: &str) -> bool {
        let first = self.0.segments().next();
        first.is_some_and(|first| first == "*" || first == source)
    }

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

/// A page of the newest values that fit a pattern, of the devices that are meant, by device and path, those behind `after` (device, path) first.
#[must_use]
pub fn latest(
    store: &dyn Store,
    cache: &DescriptorCache,
    patterns: &[Pattern],
    filter: &DeviceFilter,
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
        && filter.fits(&device, now)
    {
        add(device, Some(path), &mut items);
    }
    let mut behind = after.map(|(device, _)| device.to_owned());
    while items.len() <= limit {
        let meant = |d: &DeviceRecord| d.series > 0 && filter.fits(d, now);
        let devices = store.devices(behind.as_deref(), DEVICES_AT_ONCE, &meant);
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

/// The paths of a device's series that are meant by paths in which a segment `*` stands for any one name: in their order, those of a pattern by path, each once.
///
/// # Errors
/// [`QueryError::NoDevice`], [`QueryError::NoMetric`] where a pattern fits none, [`QueryError::TooManyPaths`] beyond `most`.
pub fn expand(
    store: &dyn Store,
    device: &str,
    paths: Vec<MetricPath>,
    most: usize,
) -> Result<Vec<MetricPath>, QueryError> {
    if !paths.iter().any(|path| path.segments().any(|s| s == "*")) {
        return Ok(paths);
    }
    devices::record(store, device)?;
    let mut all = Vec::new();
    let mut known = HashSet::new();
    for path in paths {
        if !path.segments().any(|s| s == "*") {
            if known.insert(path.to_string()) {
                all.push(path);
            }
            continue;
        }
        let pattern = [Pattern(path)];
        let found = matching(store, device, &pattern, None, most + 1);
        let [Pattern(path)] = pattern;
        if found.is_empty() {
            let (device, path) = (device.to_owned(), path.to_string());
            return Err(QueryError::NoMetric { device, path });
        }
        let new = found.into_iter().map(|series| series.path);
        all.extend(new.filter(|path| known.insert(path.to_string())));
        if all.len() > most {
            return Err(QueryError::TooManyPaths {
                device: device.to_owned(),
                pattern: path.to_string(),
                most,
            });
        }
    }
    Ok(all)
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
