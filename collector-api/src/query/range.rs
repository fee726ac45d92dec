//! Samples of a device's series over a time range: raw, or one or several values a bucket. Both come in pages by time. `plan` says which tier they come from.
//!
//! Memory is bounded by the page, not by the range: the store is read window by window, and a window that holds too much is halved. Work is bounded, too:
//! a question that needs more than [`MAX_SAMPLES_READ`] samples or answers more than [`MAX_POINTS`] points is refused with what to do.

use devmon_core::MetricPath;
use devmon_core::wire::TimestampMs;

use super::aggregate::{Aggregate, Buckets, max_pair_ms};
use super::column::Column;
use super::{MAX_POINTS, QueryError, devices, plan, step};
use crate::store::engine::{SeriesRange, SeriesRecord, SeriesRollups, Store, StoreError};
use crate::store::rollup::Tier;

/// Most samples that one question may make the store read: 50 paths at 1 s for four days, some seconds of work.
pub const MAX_SAMPLES_READ: usize = 20_000_000;
/// Most that the values of one answer may take in memory: a million numbers take 9 MB; only texts come here.
pub const MAX_ANSWER_BYTES: usize = 64 << 20;
/// Most samples in memory at a time: some 16 MB of numbers.
const WINDOW_SAMPLES: usize = 1_000_000;
/// Most rollups in memory at a time: some 20 MB.
const WINDOW_ROLLUPS: usize = 100_000;

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
    /// What becomes of the samples of a bucket, each a column; none for raw samples.
    pub aggregates: Vec<Aggregate>,
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
    Step(i64),
    /// At most so many buckets (≥ 2), none shorter than the interval of the slowest source asked about.
    Points(u64),
}

/// What is answered. Each column has one entry for each time.
#[derive(Debug, Clone, PartialEq)]
pub struct SeriesAnswer {
    pub step_ms: Option<i64>,
    pub tier: Tier,
    /// Times of the rows, in unix ms.
    pub t: Vec<i64>,
    /// For each path, in their order, one column, or one for each aggregate.
    pub columns: Vec<Column>,
    /// Where the next page starts.
    pub next: Option<TimestampMs>,
}

/// Answers a query.
///
/// # Errors
/// [`QueryError::NoDevice`], [`QueryError::NoMetric`], [`QueryError::TooManyPoints`], [`QueryError::Store`].
pub fn series(store: &dyn Store, query: &SeriesQuery) -> Result<SeriesAnswer, QueryError> {
    series_within(store, query, &mut 0)
}

/// Answers one of several queries that share a bound on what is read; `read` was before, and grows.
pub(super) fn series_within(
    store: &dyn Store,
    query: &SeriesQuery,
    read: &mut usize,
) -> Result<SeriesAnswer, QueryError> {
    let known = find(store, query)?;
    let mut read = Reader {
        store,
        query,
        read,
        width_ms: i64::MAX,
    };
    // What lies outside the kept samples needs no reading. One ms more: `to` is exclusive.
    let oldest = known.iter().map(|s| s.first_ts.0).min().unwrap_or(i64::MIN);
    let newest = known
        .iter()
        .map(|s| s.last_ts.0)
        .max()
        .map_or(i64::MAX, |t| t.saturating_add(1));
    match query.resolution {
        Resolution::Raw => raw(&mut read, (oldest, newest)),
        Resolution::Step(step_ms) => stepped(&mut read, newest, step_ms),
        Resolution::Points(points) => {
            let at_least =
                slowest_interval_ms(store, query)?.max(plan::shortest_step_ms(store, query.from.0));
            let step_ms = step::choose(query.from.0, query.to.0, points, at_least);
            stepped(&mut read, newest, step_ms)
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
    read: &'a mut usize,
    /// Width of the next window.
    width_ms: i64,
}

impl Reader<'_> {
    /// Samples from `at` on, of a window that ends at `to` at the latest, with `cap` samples at most; and where it ended.
    fn samples(
        &mut self,
        at: i64,
        to: i64,
        cap: usize,
    ) -> Result<(Vec<SeriesRange>, i64), QueryError> {
        let (store, SeriesQuery { device, paths, .. }) = (self.store, self.query);
        let read = |from, to| {
            let ranges = store.range(device, paths, from, to, cap)?;
            let count = ranges.iter().map(SeriesRange::len).sum();
            Ok((ranges, count))
        };
        self.window(at, to, 1, &read)
    }

    /// Rollups likewise; `at` and `to` are whole buckets.
    fn rollups(
        &mut self,
        tier: Tier,
        at: i64,
        to: i64,
    ) -> Result<(Vec<SeriesRollups>, i64), QueryError> {
        let (store, SeriesQuery { device, paths, .. }) = (self.store, self.query);
        let read = |from, to| {
            let rollups = store.rollups(device, paths, tier, from, to, WINDOW_ROLLUPS)?;
            let count = rollups.iter().map(|r| r.rollups.len()).sum();
            Ok((rollups, count))
        };
        self.window(at, to, tier.bucket_ms().unwrap_or(1), &read)
    }

    fn window<T>(
        &mut self,
        at: i64,
        to: i64,
        unit_ms: i64,
        read: &Read<'_, T>,
    ) -> Result<(T, i64), QueryError> {
        loop {
            let end = at.saturating_add(self.width_ms).min(to);
            match read(TimestampMs(at), TimestampMs(end)) {
                Ok((found, count)) => {
                    *self.read += count;
                    if *self.read > MAX_SAMPLES_READ {
                        return Err(QueryError::TooManyPoints(format!(
                            "more than {MAX_SAMPLES_READ} samples lie in this range; ask for a shorter one, for fewer paths, for a step of whole hours, or for a smaller limit"
                        )));
                    }
                    self.width_ms = self.width_ms.saturating_mul(2);
                    return Ok((found, end));
                }
                // One unit holds one sample or rollup of each path at most, so halving ends.
                Err(StoreError::TooManySamples { .. }) if end - at > unit_ms => {
                    let half = (end - at) / 2;
                    self.width_ms = step::floor(half, unit_ms).max(unit_ms);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Reads `from ≤ t < to`, and says how much it was.
type Read<'a, T> = dyn Fn(TimestampMs, TimestampMs) -> Result<(T, usize), StoreError> + 'a;

pub(super) fn check_points(rows: usize, columns: usize) -> Result<(), QueryError> {
    if rows.saturating_mul(columns) > MAX_POINTS {
        return Err(QueryError::TooManyPoints(format!(
            "{rows} rows of {columns} columns are more than {MAX_POINTS} points; ask for a shorter range, a longer step, fewer paths or aggregates, or a smaller limit"
        )));
    }
    Ok(())
}

pub(super) fn check_bytes(bytes: usize) -> Result<(), QueryError> {
    if bytes > MAX_ANSWER_BYTES {
        return Err(QueryError::TooManyPoints(format!(
            "these texts have more than {} MiB; ask for a shorter range, fewer paths, or a smaller limit",
            MAX_ANSWER_BYTES >> 20
        )));
    }
    Ok(())
}

fn bytes(columns: &[Column]) -> usize {
    columns.iter().map(Column::bytes).sum()
}

fn raw(read: &mut Reader<'_>, (oldest, newest): (i64, i64)) -> Result<SeriesAnswer, QueryError> {
    let query = read.query;
    let width = query.paths.len();
    let (mut t, mut columns) = (Vec::new(), vec![Column::default(); width]);
    let mut at = query.start.unwrap_or(query.from).0.max(oldest);
    let to = query.to.0.min(newest);
    // Enough for the page and one row more even if no two paths share a time, with room so that a halved window is still enough.
    let cap = (query.limit + 1)
        .saturating_mul(2 * width)
        .min(WINDOW_SAMPLES);
    while at < to && t.len() <= query.limit {
        let (ranges, end) = read.samples(at, to, cap)?;
        merge(&ranges, query.limit + 1 - t.len(), &mut t, &mut columns);
        check_points(t.len().min(query.limit), width)?;
        check_bytes(bytes(&columns))?;
        at = end;
    }
    let next = t.get(query.limit).map(|&next| TimestampMs(next));
    t.truncate(query.limit);
    for column in &mut columns {
        column.truncate(query.limit);
    }
    Ok(SeriesAnswer {
        step_ms: None,
        tier: Tier::Raw,
        t,
        columns,
        next,
    })
}

/// Appends the union of the ranges' times, `rows` at most, each column with a gap where it has no sample.
fn merge(ranges: &[SeriesRange], rows: usize, t: &mut Vec<i64>, columns: &mut [Column]) {
    let Some((first, rest)) = ranges.split_first() else {
        return;
    };
    // Paths of one source come at the same times.
    if rest.iter().all(|range| range.ts == first.ts) {
        let rows = rows.min(first.len());
        t.extend_from_slice(&first.ts[..rows]);
        for (range, column) in ranges.iter().zip(columns) {
            column.append(&range.values, 0..rows);
        }
        return;
    }
    let mut union: Vec<i64> = ranges.iter().flat_map(|r| &r.ts).copied().collect();
    union.sort_unstable(); // made of few ascending runs
    union.dedup();
    union.truncate(rows);
    for (range, column) in ranges.iter().zip(columns) {
        let mut ts = range.ts.iter().peekable();
        let present: Vec<bool> = union.iter().map(|t| ts.next_if_eq(&t).is_some()).collect();
        column.append_sparse(&range.values, 0..range.len() - ts.len(), &present);
    }
    t.append(&mut union);
}

fn stepped(read: &mut Reader<'_>, newest: i64, step_ms: i64) -> Result<SeriesAnswer, QueryError> {
    let query = read.query;
    let from = query
        .start
        .map_or(query.from.0, |start| start.0.max(query.from.0));
    let first = step::floor(from, step_ms);
    let all = step::buckets(from, query.to.0, step_ms);
    let rows = usize::try_from(all).unwrap_or(usize::MAX).min(query.limit);
    check_points(rows, query.paths.len() * query.aggregates.len())?;
    let t = step::starts(first, step_ms, rows);
    let end = t.last().map_or(first, |last| last.saturating_add(step_ms));

    let tier = plan::tier(read.store, step_ms, query.from.0);
    let before = if query.aggregates.contains(&Aggregate::Rate) {
        max_pair_ms(step_ms)
    } else {
        0
    };
    let to = end.min(query.to.0);
    let raw_from = read.store.kept_from(Tier::Raw).0;
    let plan = plan::plan(tier, (from, to), before, raw_from);
    let new = |_: &MetricPath| Buckets::new(&query.aggregates, step_ms, first, plan.from_ms);
    let mut buckets: Vec<Buckets> = query.paths.iter().map(new).collect();
    for part in plan.parts {
        let kept_from = read.store.kept_from(part.tier).0;
        match part.tier.bucket_ms() {
            None => {
                let (mut at, to) = (part.from_ms.max(kept_from), part.to_ms.min(newest));
                while at < to {
                    let (ranges, end) = read.samples(at, to, WINDOW_SAMPLES)?;
                    for (range, buckets) in ranges.iter().zip(&mut buckets) {
                        buckets.samples(&range.ts, &range.values);
                    }
                    at = end;
                }
            }
            Some(bucket_ms) => {
                let mut at = part.from_ms.max(step::floor(kept_from, bucket_ms));
                let to = part.to_ms.min(step::ceil(newest, bucket_ms));
                read.width_ms = i64::MAX;
                while at < to {
                    let (rollups, end) = read.rollups(part.tier, at, to)?;
                    for (series, buckets) in rollups.iter().zip(&mut buckets) {
                        series.rollups.iter().for_each(|r| buckets.rollup(r));
                    }
                    at = end;
                }
            }
        }
    }
    let columns: Vec<_> = buckets.into_iter().flat_map(|b| b.finish(rows)).collect();
    check_bytes(bytes(&columns))?;
    Ok(SeriesAnswer {
        step_ms: Some(step_ms),
        tier,
        t,
        columns,
        next: (all > rows as u64).then_some(TimestampMs(end)),
    })
}
