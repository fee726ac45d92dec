//! Reading samples: blocks and heads together, by time, each time once, of two the one committed later.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

use devmon_core::wire::TimestampMs;
use devmon_core::{MetricPath, Value};

use super::block::{self, Block};
use super::engine::{SeriesRange, StoreError};
use super::head::hour_of;
use super::kv::Table;
use super::local::Shared;

/// Samples of one series as they are found.
#[derive(Debug, Default)]
struct Found {
    /// Time, order of commit, value.
    samples: Vec<(TimestampMs, u64, Value)>,
    /// Samples behind this length have not been sorted.
    sorted: usize,
}

impl Found {
    /// Sorts, and keeps of each time the sample that was committed last.
    fn settle(&mut self) {
        if self.sorted == self.samples.len() {
            return;
        }
        let in_order = self.samples.is_sorted_by(|a, b| a.0 < b.0);
        if !in_order {
            // Stable: within one part of the store, the later commit comes behind.
            self.samples.sort_by_key(|(ts, order, _)| (*ts, *order));
            self.samples.reverse();
            self.samples.dedup_by_key(|(ts, _, _)| *ts);
            self.samples.reverse();
        }
        self.sorted = self.samples.len();
    }

    /// False when it holds more than `limit` samples; times that stand twice are looked for only now and then.
    fn fits(&mut self, limit: usize) -> bool {
        if self.samples.len() <= limit.saturating_mul(2) {
            return true;
        }
        self.settle();
        self.samples.len() <= limit
    }
}

/// What the scan over the blocks of one stream looks for.
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
    let mut found: Vec<Found> = paths.iter().map(|_| Found::default()).collect();
    let mut streams: BTreeMap<u32, Wanted> = BTreeMap::new();
    let mut same = Vec::new(); // a path that was asked for twice
    let committed;
    let hours: Vec<u32>;
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
            if let Some(&first) = streams.entry(stream.number).or_default().get(&series) {
                same.push((i, first));
                continue;
            }
            streams.entry(stream.number).or_default().insert(series, i);
            let rows = stream.sealing.as_deref().into_iter().chain([&stream.rows]);
            for (order, rows) in rows.enumerate() {
                let order = u64::from(committed) + 1 + order as u64;
                let found = &mut found[i];
                let mut fits = true;
                rows.read(series, from, to, &mut |ts, value| {
                    found.samples.push((ts, order, value));
                    fits = found.fits(limit);
                    fits
                });
                if !fits {
                    return Err(StoreError::TooManySamples { limit });
                }
            }
        }
        let last = TimestampMs(to.0.saturating_sub(1)).max(from);
        hours = state
            .hours
            .range(hour_of(from)..=hour_of(last))
            .map(|(hour, _)| *hour)
            .collect();
    }
    for (&stream, wanted) in &streams {
        for &hour in &hours {
            read_hour(
                shared,
                hour,
                stream,
                committed,
                wanted,
                (from, to),
                &mut found,
            )?;
            check(&mut found, limit)?;
        }
    }
    for (i, first) in same {
        found[i].samples = found[first].samples.clone();
    }
    found.iter_mut().for_each(Found::settle);
    if found.iter().map(|f| f.samples.len()).sum::<usize>() > limit {
        return Err(StoreError::TooManySamples { limit });
    }
    let series = paths.iter().zip(found).map(|(path, found)| SeriesRange {
        path: path.clone(),
        samples: found
            .samples
            .into_iter()
            .map(|(ts, _, value)| (ts, value))
            .collect(),
    });
    Ok(series.collect())
}

fn read_hour(
    shared: &Shared,
    hour: u32,
    stream: u32,
    committed: u32,
    wanted: &Wanted,
    (from, to): (TimestampMs, TimestampMs),
    found: &mut [Found],
) -> Result<(), StoreError> {
    let mut failed = Ok(());
    let first = block::key(hour, stream, 0, 0, 0);
    let last = block::key(hour, stream, u32::MAX, u32::MAX, u32::MAX);
    shared
        .kv
        .scan(Table::Blocks, &first, &last, &mut |key, value| {
            let generation = block::generation_of(key).unwrap_or(u32::MAX);
            if generation > committed {
                return ControlFlow::Continue(()); // a seal at work: its samples are still in memory
            }
            match Block::decode(key, value, &|series| wanted.contains_key(&series)) {
                Ok(block) => block.visit(&mut |series, ts, value| {
                    if let Some(&i) = wanted.get(&series).filter(|_| ts >= from && ts < to) {
                        found[i].samples.push((ts, generation.into(), value));
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

/// Ends a read that has found too much before it takes more memory.
fn check(found: &mut [Found], limit: usize) -> Result<(), StoreError> {
    let count = |found: &[Found]| found.iter().map(|f| f.samples.len()).sum::<usize>();
    if count(found) > limit {
        found.iter_mut().for_each(Found::settle);
        if count(found) > limit {
            return Err(StoreError::TooManySamples { limit });
        }
    }
    Ok(())
}
