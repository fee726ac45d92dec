//! Devices and how they do. The only place that knows when a device is online, stale or offline.
//!
//! - **offline**: the last thing it said about itself was goodbye, or its last will arrived.
//! - **stale**: not known to be gone, but no sample has arrived for three intervals of its fastest running source (or of its batches, if it
//!   publishes less often than it measures), at least 15 s. Of a device that does not say how often it sends: for three times the gap that is usual
//!   between its messages ([`Gaps`]).
//! - **online**: neither; connected, or, for publishers without status messages, sending.
//!
//! What has arrived counts, not what the device's clock said: a device whose clock is wrong is not gone.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use devmon_core::MetricPath;
use devmon_core::wire::TimestampMs;
use devmon_core::wire::about::{About, Presence, SourceAbout, SourceState};

use super::sort::{First, Place, Placed, Sort};
use super::{Page, QueryError};
use crate::store::Gaps;
use crate::store::engine::{DeviceRecord, Store, StoreError};

/// Missed intervals after which data is not fresh any more: one may be late, one may be lost.
pub const STALE_INTERVALS: u64 = 3;
/// Shortest silence that counts: below it, a reconnect or a long garbage collection of a broker would flicker.
pub const STALE_AT_LEAST_MS: u64 = 15_000;

/// How a device does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Online,
    Stale,
    Offline,
}

impl Status {
    pub const ALL: [Self; 3] = [Self::Online, Self::Stale, Self::Offline];

    /// `online`, `stale` or `offline`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Stale => "stale",
            Self::Offline => "offline",
        }
    }
}

/// The status of a device at `now`.
#[must_use]
pub fn status(record: &DeviceRecord, now: TimestampMs) -> Status {
    if record.presence == Some(Presence::Offline) {
        return Status::Offline;
    }
    // A device that has just introduced itself gets as long for its first sample as for any other.
    let last = record.last_metrics.unwrap_or(record.first_seen);
    let patience = patience_ms(record.about.as_deref(), &record.gaps);
    if u64::try_from(now.since(last)).is_ok_and(|silent_ms| silent_ms > patience) {
        Status::Stale
    } else {
        Status::Online
    }
}

/// How long a device may send no sample and is not stale, in ms. What it says about itself counts; of one that does not say how often it sends, what was seen does.
#[must_use]
pub fn patience_ms(about: Option<&About>, gaps: &Gaps) -> u64 {
    let batched_ms = about.map_or(0, |a| a.agent.publish_every_ms);
    let said_ms = fastest_interval_ms(about).max(batched_ms);
    let interval_ms = if said_ms > 0 {
        said_ms
    } else {
        gaps.usual_ms().unwrap_or(0)
    };
    interval_ms
        .saturating_mul(STALE_INTERVALS)
        .max(STALE_AT_LEAST_MS)
}

/// The shortest interval of the sources that send: those that are ok, or all when none is. 0 when nothing is known.
fn fastest_interval_ms(about: Option<&About>) -> u64 {
    let said = |s: &&SourceAbout| s.interval_ms > 0;
    let sources = || about.iter().flat_map(|a| &a.sources).filter(said);
    let running = sources().filter(|s| s.state == SourceState::Ok);
    running
        .map(|s| s.interval_ms)
        .min()
        .or_else(|| sources().map(|s| s.interval_ms).min())
        .unwrap_or(0)
}

/// A device as it stands in the list.
#[derive(Debug, Clone)]
pub struct DeviceView {
    pub record: DeviceRecord,
    pub status: Status,
    /// Number of its sources.
    pub sources: usize,
    /// Sources that are failing or quarantined.
    pub problems: usize,
}

impl DeviceView {
    fn new(record: DeviceRecord, now: TimestampMs) -> Self {
        Self {
            status: status(&record, now),
            sources: sources(&record),
            problems: problems(&record),
            record,
        }
    }
}

fn sources(record: &DeviceRecord) -> usize {
    record.about.as_ref().map_or(0, |about| about.sources.len())
}

fn problems(record: &DeviceRecord) -> usize {
    let troubled = |state| matches!(state, SourceState::Failing | SourceState::Quarantined);
    let sources = record.about.iter().flat_map(|about| &about.sources);
    sources.filter(|source| troubled(source.state)).count()
}

/// Which devices are meant; by default all.
#[derive(Debug, Clone, Default)]
pub struct DeviceFilter {
    /// Its id is one of these, in which `*` stands for any characters; none: any.
    pub ids: Vec<glob::Pattern>,
    /// Part of the id, in any case.
    pub q: Option<String>,
    /// One of these; none: any.
    pub status: Vec<Status>,
    /// All of these: a name, and its value; `None`: any.
    pub labels: Vec<(String, Option<String>)>,
}

impl DeviceFilter {
    /// True if the device is meant.
    #[must_use]
    pub fn fits(&self, record: &DeviceRecord, now: TimestampMs) -> bool {
        let id = record.id.as_str();
        (self.ids.is_empty() || self.ids.iter().any(|pattern| pattern.matches(id)))
            && self.q.as_ref().is_none_or(|part| contains(id, part))
            && (self.status.is_empty() || self.status.contains(&status(record, now)))
            && self.labels.iter().all(|(name, wanted)| {
                let given = label(record, name);
                given.is_some_and(|given| wanted.as_ref().is_none_or(|w| w == given))
            })
    }
}

/// The value of a label that counts: the operator's, else the device's own.
fn label<'a>(record: &'a DeviceRecord, name: &str) -> Option<&'a str> {
    let own = || record.about.as_ref()?.labels.get(name);
    let operator = record.labels.as_ref().and_then(|labels| labels.get(name));
    operator.or_else(own).map(String::as_str)
}

/// All labels that count, by name.
#[must_use]
pub fn labels(record: &DeviceRecord) -> BTreeMap<&str, &str> {
    let own = record.about.iter().flat_map(|about| &about.labels);
    let operator = record.labels.iter().flat_map(|labels| labels.iter());
    own.chain(operator)
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect()
}

/// True if an id holds this part, in any case. Ids are ASCII.
fn contains(id: &str, part: &str) -> bool {
    let (id, part) = (id.as_bytes(), part.as_bytes());
    let same = |window: &[u8]| window.eq_ignore_ascii_case(part);
    part.is_empty() || id.windows(part.len()).any(same)
}

/// What devices can be sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SortBy {
    Id,
    Status,
    FirstSeen,
    LastSeen,
    Metrics,
    Sources,
    Problems,
}

impl SortBy {
    pub const ALL: [Self; 7] = [
        Self::Id,
        Self::Status,
        Self::FirstSeen,
        Self::LastSeen,
        Self::Metrics,
        Self::Sources,
        Self::Problems,
    ];

    /// The name of the field in the answer.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::Status => "status",
            Self::FirstSeen => "first_seen",
            Self::LastSeen => "last_seen",
            Self::Metrics => "metrics",
            Self::Sources => "sources",
            Self::Problems => "problems",
        }
    }

    /// The figure. A status counts upwards from what is well: online, stale, offline.
    fn figure(self, record: &DeviceRecord, now: TimestampMs) -> i64 {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        match self {
            Self::Id => 0,
            Self::Status => status(record, now) as i64,
            Self::FirstSeen => record.first_seen.0,
            Self::LastSeen => record.last_seen.0,
            Self::Metrics => i64::try_from(record.series).unwrap_or(i64::MAX),
            Self::Sources => count(sources(record)),
            Self::Problems => count(problems(record)),
        }
    }
}

/// A page of devices in this order.
#[must_use]
pub fn list(
    store: &dyn Store,
    filter: &DeviceFilter,
    sort: Sort<SortBy>,
    after: Option<Place>,
    limit: usize,
    now: TimestampMs,
) -> Page<Placed<DeviceView>> {
    let by_id = sort.by == SortBy::Id;
    if by_id && !sort.down {
        let after = after.as_ref().map(Place::name);
        let keep = |record: &DeviceRecord| filter.fits(record, now);
        let view = |record: DeviceRecord| {
            let place = Place::new(0, record.id.as_str(), false);
            (place, DeviceView::new(record, now))
        };
        return Page::cut(store.devices(after, limit + 1, &keep), limit).map(view);
    }
    let first = First::new(after, limit + 1, sort.down, by_id);
    let first = RefCell::new(first);
    // Chosen while filtering: of all that there are, one page is kept.
    store.devices(None, usize::MAX, &|record| {
        if filter.fits(record, now) {
            let figure = sort.by.figure(record, now);
            first.borrow_mut().add(figure, record.id.as_str());
        }
        false
    });
    let page = Page::cut(first.into_inner().into_sorted(), limit);
    let view = |place: Place| {
        let record = store.device(place.name())?; // forgotten meanwhile
        Some((place, DeviceView::new(record, now)))
    };
    Page {
        more: page.more,
        items: page.items.into_iter().filter_map(view).collect(),
    }
}

/// A device in full.
#[derive(Debug, Clone)]
pub struct DeviceDetail {
    pub view: DeviceView,
    /// For each source of the about message, in its order, the time of its newest sample.
    pub last_ts: Vec<Option<TimestampMs>>,
}

/// One device in full.
///
/// # Errors
/// [`QueryError::NoDevice`].
pub fn one(store: &dyn Store, id: &str, now: TimestampMs) -> Result<DeviceDetail, QueryError> {
    let record = record(store, id)?;
    let last_ts = record
        .about
        .iter()
        .flat_map(|about| &about.sources)
        .map(|source| newest_sample(store, id, &source.name))
        .collect();
    let view = DeviceView::new(record, now);
    Ok(DeviceDetail { view, last_ts })
}

fn newest_sample(store: &dyn Store, device: &str, source: &str) -> Option<TimestampMs> {
    let top = MetricPath::from_segments([source]).ok()?;
    let series = store.series(device, top.as_str(), None, usize::MAX);
    series.iter().map(|s| s.last_ts).max()
}

/// What the store knows of a device.
///
/// # Errors
/// [`QueryError::NoDevice`].
pub fn record(store: &dyn Store, id: &str) -> Result<DeviceRecord, QueryError> {
    store
        .device(id)
        .ok_or_else(|| QueryError::NoDevice(id.to_owned()))
}

pub(super) fn about(store: &dyn Store, id: &str) -> Result<Option<Arc<About>>, QueryError> {
    Ok(record(store, id)?.about)
}

/// Gives a device labels, or with `None` takes those away that an operator gave it: then what the device says itself counts again.
///
/// # Errors
/// [`QueryError::NoDevice`], [`QueryError::TooManyLabels`], [`QueryError::Store`].
pub fn relabel(
    store: &dyn Store,
    id: &str,
    changes: &BTreeMap<String, Option<String>>,
) -> Result<(), QueryError> {
    match store.label(id, changes) {
        Ok(true) => Ok(()),
        Ok(false) => Err(QueryError::NoDevice(id.to_owned())),
        Err(StoreError::TooManyLabels { limit }) => Err(QueryError::TooManyLabels(limit)),
        Err(error) => Err(error.into()),
    }
}

/// Forgets a device and all that it sent.
///
/// # Errors
/// [`QueryError::NoDevice`], [`QueryError::Store`].
pub fn forget(store: &dyn Store, id: &str) -> Result<(), QueryError> {
    if store.purge(id)? {
        Ok(())
    } else {
        Err(QueryError::NoDevice(id.to_owned()))
    }
}

/// How many devices are in each state, in the order of [`Status::ALL`].
#[must_use]
pub fn count(store: &dyn Store, now: TimestampMs) -> [u64; 3] {
    let counts = std::cell::Cell::new([0; 3]);
    // Counted while filtering: nothing is kept, so nothing is copied.
    store.devices(None, usize::MAX, &|record| {
        let mut all = counts.get();
        all[status(record, now) as usize] += 1;
        counts.set(all);
        false
    });
    counts.get()
}
