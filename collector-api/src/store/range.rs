//! Reading samples: day files, blocks and heads together, by time, each time once, of two the one committed later.
//!
//! Each of them hands over **parts**: some times of a series and the values for them, as slices. A part has an order: of two samples of one time the one in the
//! part of the higher order counts, and within a part the later one. Parts are appended as they come; only what came out of order, or twice, is sorted, and
//! that happens once.
//!
//! | order | part of |
//! |---|---|
//! | 0 | a day file |
//! | generation (≥ 1) | a block |
//! | last committed generation + 1, + 2 | rows being sealed, the head |

use std::collections::{BTreeMap, HashMap};
use std::ops::{ControlFlow, Range};

use devmon_core::MetricPath;
use devmon_core::wire::TimestampMs;

use super::archive::{DayFile, Holds};
use super::block::{self, Block};
use super::column::Cells;
use super::days::{DAY_HOURS, Day, day_of};
use super::engine::{SeriesRange, StoreError};
use super::head::hour_of;
use super::kv::Table;
use super::local::Shared;

/// Samples of one series as they are found.
#[derive(Debug, Default)]
pub(super) struct Found {
    ts: Vec<i64>,
    values: Cells,
    /// Lengths and orders of the parts, behind each other.
    parts: Vec<(usize, u64)>,
    /// A time is not above the one before.
    unsettled: bool,
}

impl Found {
    /// Appends a part: `ts[i]` belongs to the value at `range.start + i`.
    pub(super) fn append(&mut self, order: u64, ts: &[i64], values: &Cells, range: Range<usize>) {
        let (Some(first), true) = (ts.first(), ts.len() == range.len()) else {
            return;
        };
        self.unsettled |=
            self.ts.last().is_some_and(|last| last >= first) || !ts.is_sorted_by(|a, b| a < b);
        self.ts.extend_from_slice(ts);
        self.values.append(values, range);
        match self.parts.last_mut() {
            Some((count, last)) if *last == order => *count += ts.len(),
            _ => self.parts.push((ts.len(), order)),
        }
    }

    /// Appends what lies in `from ≤ t < to` of a part whose times ascend.
    fn append_within(&mut self, order: u64, ts: &[i64], values: &Cells, from: i64, to: i64) {
        let begin = ts.partition_point(|&t| t < from);
        let end = ts.partition_point(|&t| t < to).max(begin);
        self.append(order, &ts[begin..end], values, begin..end);
    }

    pub(super) fn ts(&self) -> &[i64] {
        &self.ts
    }

    pub(super) fn values(&self) -> &Cells {
        &self.values
    }

    pub(super) fn into_parts(self) -> (Vec<i64>, Cells) {
        (self.ts, self.values)
    }

    /// Sorts, and keeps of each time the sample that was committed last.
    pub(super) fn settle(&mut self) {
        if !self.unsettled {
            return;
        }
        let parts = self.parts.iter();
        let orders: Vec<u64> = parts
            .flat_map(|&(count, order)| std::iter::repeat_n(order, count))
            .collect();
        let mut at: Vec<u32> = (0..self.ts.len() as u32).collect(); // bounded by the limit, below 2^32
        let key = |i: u32| (self.ts[i as usize], orders[i as usize]);
        at.sort_by_key(|&i| key(i)); // stable: within a part, the later commit stays behind
        let mut kept: Vec<u32> = Vec::with_capacity(at.len());
        for i in at {
            match kept.last_mut() {
                Some(last) if self.ts[*last as usize] == self.ts[i as usize] => *last = i,
                _ => kept.push(i),
            }
        }
        let runs = kept.chunk_by(|&a, &b| orders[a as usize] == orders[b as usize]);
        self.parts = runs
            .map(|run| (run.len(), orders[run[0] as usize]))
            .collect();
        self.values = self.values.gather(&kept);
        self.ts = kept.iter().map(|&i| self.ts[i as usize]).collect();
        self.unsettled = false;
    }
}

/// All that is being looked for, in the order of the paths.
struct Search {
    found: Vec<Found>,
    from: i64,
    to: i64,
    /// Most samples all together.
    limit: usize,
}

impl Search {
    /// Ends a read that has found too much before it takes more memory; times that stand twice are looked for only then.
    fn check(&mut self) -> Result<(), StoreError> {
        let count = |found: &[Found]| found.iter().map(|f| f.ts.len()).sum::<usize>();
        if count(&self.found) > self.limit {
            self.found.iter_mut().for_each(Found::settle);
            if count(&self.found) > self.limit {
                return Err(StoreError::TooManySamples { limit: self.limit });
            }
        }
        Ok(())
    }
}

/// The series wanted of one stream, with their places among the paths.
type Wanted = HashMap<u32, usize>;

/// See [`Store::range`](super::engine::Store::range).
pub(super) fn range(
    shared: &Shared,
    device: &str,
    paths: &[MetricPath],
    from: TimestampMs,
    to: TimestampMs,
    limit: usize,
) -> Result<Vec<SeriesRange>, StoreError> {
    let mut search = Search {
        found: paths.iter().map(|_| Found::default()).collect(),
        from: from.0,
        to: to.0,
        limit,
    };
    let mut streams: BTreeMap<u32, Wanted> = BTreeMap::new();
    let mut same = Vec::new(); // a path that was asked for twice
    let committed;
    let hours: Vec<u32>;
    let days;
    {
        // One consistent view: what is being sealed is read from memory until its generation is committed, and from blocks afterwards.
        let state = shared.read();
        committed = state.generation;
        let device = state.catalogue.devices.get(device).filter(|_| from < to);
        for (i, path) in paths.iter().enumerate() {
            let Some(device) = device else { break };
            let Some((place, series)) = device.find(path) else {
                continue;
            };
            let stream = &device.streams[place as usize];
            let wanted = streams.entry(stream.number).or_default();
            if let Some(&first) = wanted.get(&series) {
                same.push((i, first));
                continue;
            }
            wanted.insert(series, i);
            let rows = stream.sealing.as_deref().into_iter().chain([&stream.rows]);
            for (order, rows) in rows.enumerate() {
                let order = u64::from(committed) + 1 + order as u64;
                let found = &mut search.found[i];
                rows.read(series, from, to, &mut |ts, values, range| {
                    found.append(order, ts, values, range);
                });
            }
            search.check()?;
        }
        days = state.days.clone(); // held until all is read: what it names stays (`compact`)
        let last = TimestampMs(to.0.saturating_sub(1)).max(from);
        hours = state
            .hours
            .range(hour_of(from)..=hour_of(last))
            .map(|(hour, _)| *hour)
            .collect();
    }
    for (&stream, wanted) in &streams {
        for (_, day) in days.range(day_of(from)..=day_of(to)) {
            if let Some(file) = &day.file {
                read_day(file, stream, wanted, &mut search)?;
                search.check()?;
            }
        }
        for &hour in &hours {
            let hidden_upto = days.get(&(hour / DAY_HOURS)).map_or(0, Day::hidden_upto);
            let seals = (hidden_upto, committed);
            read_hour(shared, hour, stream, seals, wanted, &mut search)?;
            search.check()?;
        }
    }
    let mut found = search.found;
    found.iter_mut().for_each(Found::settle);
    let mut series: Vec<SeriesRange> = paths
        .iter()
        .zip(found)
        .map(|(path, found)| SeriesRange {
            path: path.clone(),
            ts: found.ts,
            values: found.values,
        })
        .collect();
    for (i, first) in same {
        (series[i].ts, series[i].values) = (series[first].ts.clone(), series[first].values.clone());
    }
    if series.iter().map(SeriesRange::len).sum::<usize>() > limit {
        return Err(StoreError::TooManySamples { limit });
    }
    Ok(series)
}

fn read_day(
    file: &DayFile,
    stream: u32,
    wanted: &Wanted,
    search: &mut Search,
) -> Result<(), StoreError> {
    if file.holds() != Holds::Raw {
        return Ok(());
    }
    let (from, to) = (search.from, search.to);
    let is_wanted = |series| wanted.contains_key(&series);
    file.read(stream, &is_wanted, from, to, &mut |series, ts, values| {
        if let Some(&i) = wanted.get(&series) {
            search.found[i].append_within(0, ts, values, from, to);
        }
    })
}

/// Blocks of the seals behind the first and up to the second: those before lie in the day's file, those behind are still in memory.
fn read_hour(
    shared: &Shared,
    hour: u32,
    stream: u32,
    (hidden_upto, committed): (u32, u32),
    wanted: &Wanted,
    search: &mut Search,
) -> Result<(), StoreError> {
    let mut failed = Ok(());
    let (from, to) = (search.from, search.to);
    let first = block::key(hour, stream, 0, 0, 0);
    let last = block::key(hour, stream, u32::MAX, u32::MAX, u32::MAX);
    shared
        .kv
        .scan(Table::Blocks, &first, &last, &mut |key, value| {
            let generation = block::generation_of(key).unwrap_or(u32::MAX);
            if generation <= hidden_upto || generation > committed {
                return ControlFlow::Continue(());
            }
            match Block::decode(key, value, &|series| wanted.contains_key(&series)) {
                Ok(block) => block.columns(&mut |series, ts, values| {
                    if let Some(&i) = wanted.get(&series) {
                        search.found[i].append_within(generation.into(), ts, values, from, to);
                    }
                }),
                Err(error) => failed = Err(error),
            }
            if failed.is_ok() {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
    failed
}
