//! Samples of a device's series over a time range: raw, or one value a bucket. Both come in pages by time.
//!
//! Memory is bounded by the page, not by the range: the store is read window by window, and a window that holds too much is halved. Work is bounded, too:
//! a question that needs more than [`MAX_SAMPLES_READ`] samples or answers more than [`MAX_POINTS`] points is refused with what to do.

use devmon_core::wire::TimestampMs;
use devmon_core::{MetricPath, Value};

use super::aggregate::{Aggregate, Buckets, max_pair_ms};
use super::{MAX_POINTS, QueryError, devices, step};
use crate::store::engine::{SeriesRange, SeriesRecord, Store, StoreError};

/// Most samples that one question may make the store read: 50 paths at 1 s for four days, some seconds of work.
pub const MAX_SAMPLES_READ: usize = 20_000_000;
/// Most samples in memory at a time: some 40 MB.
const WINDOW_SAMPLES: usize = 1_000_000;

/// What is asked.
#[derive(Debug, Clone)]
pub struct SeriesQuery {
    pub device: String,
    /// At least one.
    pub paths: Vec<MetricPath>,
    pub from: TimestampMs,
    /// Not before `from`. Exclusive.
    pub to: TimestampMs,
    pub resolution: Resolution,
    /// Rows of a page.
    pub limit: usize,
    /// Where the page starts, as the page before said; `None` for the first.
    pub start: Option<TimestampMs>,
}

/// Raw samples, or one value a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    Raw,
    /// Buckets of so many ms (≥ 1).
    Step(i64, Aggregate),
    /// At most so many buckets (≥ 2), none shorter than the interval of the slowest source asked about.
    Points(u64, Aggregate),
}

/// What is answered. Each column has one entry for each time.
#[derive(Debug, Clone, PartialEq)]
pub struct SeriesAnswer {
    pub step_ms: Option<i64>,
    pub aggregate: Option<Aggregate>,
    pub t: Vec<TimestampMs>,
    /// In the order of the paths; `None` marks a gap.
    pub columns: Vec<Vec<Option<Value>>>,
    /// Where the next page starts.
    pub next: Option<TimestampMs>,
}

/// Answers a query.
///
/// # Errors
/// [`QueryError::NoDevice`], [`QueryError::NoMetric`], [`QueryError::TooManyPoints`], [`QueryError::Store`].
pub fn series(store: &dyn Store, query: &SeriesQuery) -> Result<SeriesAnswer, QueryError> {
    let known = find(store, query)?;
    let mut read = Reader {
        store,
        query,
        read: 0,
        width_ms: i64::MAX,
    };
    // What lies outside the kept samples needs no reading. One ms more: `to` is exclusive.
    let oldest = known.iter().map(|s| s.first_ts.0).min().unwrap_or(i64::MIN);
    let newest = known
        .iter()
        .map(|s| s.last_ts.0)
        .max()
        .map_or(i64::MAX, |t| t.saturating_add(1));
    let kept = (oldest, newest);
    match query.resolution {
        Resolution::Raw => raw(&mut read, kept),
        Resolution::Step(step_ms, aggregate) => stepped(&mut read, kept, step_ms, aggregate),
        Resolution::Points(points, aggregate) => {
            let at_least = slowest_interval_ms(store, query)?;
            let step_ms = step::choose(query.from.0, query.to.0, points, at_least);
            stepped(&mut read, kept, step_ms, aggregate)
        }
    }
}

fn find(store: &dyn Store, query: &SeriesQuery) -> Result<Vec<SeriesRecord>, QueryError> {
    devices::record(store, &query.device)?;
    let find = |path: &MetricPath| {
        // The path itself sorts before all that is below it.
        let first = store.series(&query.device, path.as_str(), None, 1).pop();
        first
            .filter(|s| s.path == *path)
            .ok_or_else(|| QueryError::NoMetric {
                device: query.device.clone(),
                path: path.to_string(),
            })
    };
    query.paths.iter().map(find).collect()
}

/// The longest interval of the sources whose paths are asked about; buckets below it would mostly be empty and look like gaps.
fn slowest_interval_ms(store: &dyn Store, query: &SeriesQuery) -> Result<i64, QueryError> {
    let about = devices::about(store, &query.device)?;
    let sources = about.iter().flat_map(|a| &a.sources);
    let asked = sources.filter(|source| {
        let named = |path: &MetricPath| {
            path.segments()
                .next()
                .is_some_and(|first| first == source.name)
        };
        query.paths.iter().any(named)
    });
    Ok(asked
        .map(|s| i64::try_from(s.interval_ms).unwrap_or(i64::MAX))
        .max()
        .unwrap_or(0))
}

/// Reads the store in windows that fit into memory.
struct Reader<'a> {
    store: &'a dyn Store,
    query: &'a SeriesQuery,
    read: usize,
    /// Width of the next window.
    width_ms: i64,
}

impl Reader<'_> {
    /// Samples from `at` on, of a window that ends at `to` at the latest, with `cap` samples at most; and where it ended.
    fn window(
        &mut self,
        at: i64,
        to: i64,
        cap: usize,
    ) -> Result<(Vec<SeriesRange>, i64), QueryError> {
        loop {
            let end = at.saturating_add(self.width_ms).min(to);
            let SeriesQuery { device, paths, .. } = self.query;
            match self
                .store
                .range(device, paths, TimestampMs(at), TimestampMs(end), cap)
            {
                Ok(ranges) => {
                    self.read += ranges.iter().map(SeriesRange::len).sum::<usize>();
                    if self.read > MAX_SAMPLES_READ {
                        return Err(QueryError::TooManyPoints(format!(
                            "more than {MAX_SAMPLES_READ} samples lie in this range; ask for a shorter one, for fewer paths, or for a smaller limit"
                        )));
                    }
                    self.width_ms = self.width_ms.saturating_mul(2);
                    return Ok((ranges, end));
                }
                // One ms holds one sample of each path at most, so halving ends.
                Err(StoreError::TooManySamples { .. }) if end - at > 1 => {
                    self.width_ms = (end - at) / 2
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn check_points(rows: usize, paths: usize) -> Result<(), QueryError> {
    if rows.saturating_mul(paths) > MAX_POINTS {
        return Err(QueryError::TooManyPoints(format!(
            "{rows} rows of {paths} paths are more than {MAX_POINTS} points; ask for a shorter range, a longer step, fewer paths, or a smaller limit"
        )));
    }
    Ok(())
}

fn raw(read: &mut Reader<'_>, (oldest, newest): (i64, i64)) -> Result<SeriesAnswer, QueryError> {
    let query = read.query;
    let width = query.paths.len();
    let mut answer = SeriesAnswer {
        step_ms: None,
        aggregate: None,
        t: Vec::new(),
        columns: vec![Vec::new(); width],
        next: None,
    };
    let mut at = query.start.unwrap_or(query.from).0.max(oldest);
    let to = query.to.0.min(newest);
    // Enough for the page and one row more even if no two paths share a time, with room so that a halved window is still enough.
    let cap = (query.limit + 1)
        .saturating_mul(2 * width)
        .min(WINDOW_SAMPLES);
    while at < to && answer.t.len() <= query.limit {
        let (ranges, end) = read.window(at, to, cap)?;
        merge(&ranges, &mut answer, query.limit + 1);
        check_points(answer.t.len().min(query.limit), width)?;
        at = end;
    }
    answer.next = answer.t.get(query.limit).copied();
    answer.t.truncate(query.limit);
    for column in &mut answer.columns {
        column.truncate(query.limit);
    }
    Ok(answer)
}

/// Appends the union of the ranges' times, each column with a gap where it has no sample, until there are `rows` rows.
fn merge(ranges: &[SeriesRange], answer: &mut SeriesAnswer, rows: usize) {
    let mut at = vec![0; ranges.len()];
    while answer.t.len() < rows {
        let times = ranges.iter().zip(&at).filter_map(|(r, &i)| r.ts.get(i));
        let Some(&ts) = times.min() else {
            return;
        };
        answer.t.push(TimestampMs(ts));
        for ((range, at), column) in ranges.iter().zip(&mut at).zip(&mut answer.columns) {
            let here = range.ts.get(*at) == Some(&ts);
            column.push(here.then(|| range.values.get(*at)));
            *at += usize::from(here);
        }
    }
}

fn stepped(
    read: &mut Reader<'_>,
    (oldest, newest): (i64, i64),
    step_ms: i64,
    aggregate: Aggregate,
) -> Result<SeriesAnswer, QueryError> {
    let query = read.query;
    let from = query
        .start
        .map_or(query.from.0, |start| start.0.max(query.from.0));
    let first = step::floor(from, step_ms);
    let all = step::buckets(from, query.to.0, step_ms);
    let rows = usize::try_from(all).unwrap_or(usize::MAX).min(query.limit);
    check_points(rows, query.paths.len())?;
    let t: Vec<_> = (0_i64..)
        .map(|i| TimestampMs(first + i * step_ms))
        .take(rows)
        .collect();
    let end = t
        .last()
        .map_or(first, |last| last.0.saturating_add(step_ms));

    let new = |_: &MetricPath| Buckets::new(aggregate, step_ms, first, from);
    let mut columns: Vec<Buckets> = query.paths.iter().map(new).collect();
    let before = if aggregate == Aggregate::Rate {
        max_pair_ms(step_ms)
    } else {
        0
    };
    let mut at = from.saturating_sub(before).max(oldest);
    let to = end.min(query.to.0).min(newest);
    while at < to {
        let (ranges, window_end) = read.window(at, to, WINDOW_SAMPLES)?;
        for (range, column) in ranges.into_iter().zip(&mut columns) {
            for (ts, value) in range.iter() {
                column.push(ts, value);
            }
        }
        at = window_end;
    }
    Ok(SeriesAnswer {
        step_ms: Some(step_ms),
        aggregate: Some(aggregate),
        t,
        columns: columns.into_iter().map(|c| c.finish(rows)).collect(),
        next: (all > rows as u64).then_some(TimestampMs(end)),
    })
}
