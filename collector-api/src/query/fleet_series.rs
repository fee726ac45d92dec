//! Series of the same metrics over all devices, as values of common buckets: what a chart of one metric of many devices is drawn from.
//!
//! All series share the times of their buckets, so there is a step always: raw samples of several devices share no times. Pages are by device and path, in that order, and each has the whole range; a
//! page ends before it has more than [`MAX_POINTS`] points or [`MAX_ANSWER_BYTES`](super::range::MAX_ANSWER_BYTES) of texts, or needs more than
//! [`MAX_SAMPLES_READ`](super::range::MAX_SAMPLES_READ) samples.

use std::sync::Arc;

use devmon_core::MetricPath;
use devmon_core::wire::{DeviceId, TimestampMs};

use super::aggregate::Aggregate;
use super::column::Column;
use super::descriptors::{Described, DescriptorCache};
use super::devices::DeviceFilter;
use super::fleet::{DEVICES_AT_ONCE, FleetLatest, Pattern, latest};
use super::range::{Resolution, SeriesQuery, check_bytes, check_points, series_within};
use super::{MAX_POINTS, QueryError, plan, step};
use crate::store::engine::{DeviceRecord, Store};
use crate::store::rollup::Tier;

/// Paths of a device that are read at a time: as many as one call for a device may name, so that what is answered there is answered here.
const PATHS_AT_ONCE: usize = 50;

/// What is asked.
#[derive(Debug, Clone)]
pub struct FleetSeriesQuery {
    /// At least one.
    pub patterns: Vec<Pattern>,
    pub filter: DeviceFilter,
    pub from: TimestampMs,
    /// Not before `from`. Exclusive.
    pub to: TimestampMs,
    pub buckets: Buckets,
    /// What becomes of the samples of a bucket, each a column; at least one.
    pub aggregates: Vec<Aggregate>,
    /// Most series of a page.
    pub limit: usize,
    /// Device and path behind which the page begins.
    pub after: Option<(String, String)>,
}

/// How long the buckets are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Buckets {
    /// So many ms (≥ 1).
    Step(i64),
    /// At most so many (≥ 2), none shorter than the interval of the slowest source, of the devices that are meant, that may have what is asked for.
    Points(u64),
}

/// A page.
#[derive(Debug)]
pub struct FleetSeriesAnswer {
    pub step_ms: i64,
    pub tier: Tier,
    /// Times of the rows, in unix ms.
    pub t: Vec<i64>,
    pub series: Vec<FleetSeries>,
    /// Device and path behind which the next page begins.
    pub next: Option<(String, String)>,
}

/// One series of one device.
#[derive(Debug)]
pub struct FleetSeries {
    pub device: DeviceId,
    pub path: MetricPath,
    pub described: Arc<Described>,
    /// A column for each aggregate; each has one entry for each time.
    pub columns: Vec<Column>,
}

/// Answers a query.
///
/// # Errors
/// [`QueryError::TooManyPoints`] where not even the first series can be answered; [`QueryError::Store`].
pub fn series(
    store: &dyn Store,
    cache: &DescriptorCache,
    query: &FleetSeriesQuery,
    now: TimestampMs,
) -> Result<FleetSeriesAnswer, QueryError> {
    let (from, to) = (query.from.0, query.to.0);
    let step_ms = match query.buckets {
        Buckets::Step(step_ms) => step_ms,
        Buckets::Points(points) => {
            let kept = plan::shortest_step_ms(store, from);
            let at_least = slowest_interval_ms(store, query, now).max(kept);
            step::choose(from, to, points, at_least)
        }
    };
    let rows = usize::try_from(step::buckets(from, to, step_ms)).unwrap_or(usize::MAX);
    check_points(rows, query.aggregates.len())?;
    let room = MAX_POINTS / (rows * query.aggregates.len()).max(1);
    let after = query.after.as_ref();
    let page = latest(
        store,
        cache,
        &query.patterns,
        &query.filter,
        after.map(|(device, path)| (device.as_str(), path.as_str())),
        query.limit.min(room),
        now,
    );
    let name = |device: &DeviceId, path: &MetricPath| (device.to_string(), path.to_string());
    let mut answer = FleetSeriesAnswer {
        step_ms,
        tier: plan::tier(store, step_ms, from),
        t: step::starts(step::floor(from, step_ms), step_ms, rows),
        series: Vec::with_capacity(page.items.len()),
        next: page
            .last()
            .map(|item| name(&item.device, &item.series.path)),
    };
    let (mut read, mut bytes) = (0, 0);
    let of_a_device = page.items.chunk_by(|a, b| a.device == b.device);
    for group in of_a_device.flat_map(|group| group.chunks(PATHS_AT_ONCE)) {
        let found = columns(store, query, group, step_ms, rows, &mut read).and_then(|found| {
            let columns = found.iter().flat_map(|series| &series.columns);
            bytes += columns.map(Column::bytes).sum::<usize>();
            check_bytes(bytes)?;
            Ok(found)
        });
        match (found, answer.series.last()) {
            (Ok(found), _) => answer.series.extend(found),
            // Forgotten since the list was made.
            (Err(QueryError::NoDevice(_) | QueryError::NoMetric { .. }), _) => {}
            (Err(QueryError::TooManyPoints(_)), Some(last)) => {
                answer.next = Some(name(&last.device, &last.path));
                break;
            }
            (Err(error), _) => return Err(error),
        }
    }
    Ok(answer)
}

/// The columns of some series of one device.
fn columns(
    store: &dyn Store,
    query: &FleetSeriesQuery,
    group: &[FleetLatest],
    step_ms: i64,
    rows: usize,
    read: &mut usize,
) -> Result<Vec<FleetSeries>, QueryError> {
    let Some(first) = group.first() else {
        return Ok(Vec::new());
    };
    let asked = SeriesQuery {
        device: first.device.to_string(),
        paths: group.iter().map(|item| item.series.path.clone()).collect(),
        from: query.from,
        to: query.to,
        resolution: Resolution::Step(step_ms),
        aggregates: query.aggregates.clone(),
        limit: rows,
        start: None,
    };
    let mut columns = series_within(store, &asked, read)?.columns.into_iter();
    let series = group.iter().map(|item| FleetSeries {
        device: item.device.clone(),
        path: item.series.path.clone(),
        described: item.described.clone(),
        columns: columns.by_ref().take(query.aggregates.len()).collect(),
    });
    Ok(series.collect())
}

/// The longest interval of the sources that may have what is asked for; buckets below it would mostly be empty and look like gaps.
fn slowest_interval_ms(store: &dyn Store, query: &FleetSeriesQuery, now: TimestampMs) -> i64 {
    let meant = |device: &DeviceRecord| device.series > 0 && query.filter.fits(device, now);
    let mut slowest = 0;
    let mut after: Option<String> = None;
    loop {
        let devices = store.devices(after.as_deref(), DEVICES_AT_ONCE, &meant);
        let Some(last) = devices.last() else {
            return i64::try_from(slowest).unwrap_or(i64::MAX);
        };
        after = Some(last.id.to_string());
        let sources = devices
            .iter()
            .flat_map(|d| &d.about)
            .flat_map(|a| &a.sources);
        let asked = sources.filter(|source| {
            let patterns = &mut query.patterns.iter();
            patterns.any(|pattern| pattern.may_be_of(&source.name))
        });
        slowest = asked.map(|s| s.interval_ms).fold(slowest, u64::max);
    }
}
