//! One stream's day, put together from what the store has of it: its day file and the blocks behind that. Of two samples of one time the later commit counts.
//!
//! A day whose file holds rollups only can take late samples in, but not look for repeats among samples that are gone: what comes late is folded in, exact in
//! count, min, max, first and last for samples that were not there before; one that was sent twice counts twice. The sum is that of the stored sum and the
//! late samples'. The increase is exact where all late samples lie before or behind the stored ones of their bucket, and else their sum.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use devmon_core::Value;

use super::archive::{self, DayFile, Holds, Writer};
use super::block::{self, Block, Table, TableColumn};
use super::days::DAY_HOURS;
use super::engine::StoreError;
use super::kv::{self, Kv};
use super::range::Found;
use super::rollup::{Rollup, Tier};

/// A stream's series with their samples, later its rollups.
#[derive(Default)]
pub(super) struct Merge {
    found: BTreeMap<u32, Found>,
    /// Of a file that has no raw samples: minute, hour.
    stored: [BTreeMap<u32, Vec<Rollup>>; 2],
}

/// Series for which a file is to hold something.
pub(super) type Wanted<'a> = &'a dyn Fn(u32) -> bool;

const TIERS: [Tier; 2] = [Tier::Minute, Tier::Hour];

impl Merge {
    /// Takes in what the day's file has.
    pub(super) fn file(
        &mut self,
        file: &DayFile,
        stream: u32,
        wanted: Wanted<'_>,
    ) -> Result<(), StoreError> {
        if file.holds() == Holds::Raw {
            return file.read(
                stream,
                wanted,
                i64::MIN,
                i64::MAX,
                &mut |series, ts, values| {
                    let found = self.found.entry(series).or_default();
                    found.append(0, ts, values, 0..ts.len());
                },
            );
        }
        for (tier, stored) in TIERS.into_iter().zip(&mut self.stored) {
            if tier == Tier::Minute && file.holds() == Holds::Hour {
                continue;
            }
            file.rollups(
                tier,
                stream,
                wanted,
                i64::MIN,
                i64::MAX,
                &mut |series, rollups| stored.entry(series).or_default().extend(rollups),
            )?;
        }
        Ok(())
    }

    /// Takes in the blocks of the day that seals from `above` (not included) to `upto` wrote.
    pub(super) fn blocks(
        &mut self,
        kv: &dyn Kv,
        day: u32,
        stream: u32,
        (above, upto): (u32, u32),
        wanted: Wanted<'_>,
    ) -> Result<(), StoreError> {
        let mut failed = Ok(());
        for hour in day * DAY_HOURS..(day + 1) * DAY_HOURS {
            let first = block::key(hour, stream, 0, 0, 0);
            let last = block::key(hour, stream, u32::MAX, u32::MAX, u32::MAX);
            kv.scan(kv::Table::Blocks, &first, &last, &mut |key, value| {
                let generation = block::generation_of(key).unwrap_or(u32::MAX);
                if generation <= above || generation > upto {
                    return ControlFlow::Continue(());
                }
                match Block::decode(key, value, wanted) {
                    Ok(block) => block.columns(&mut |series, ts, values| {
                        let found = self.found.entry(series).or_default();
                        found.append(generation.into(), ts, values, 0..ts.len());
                    }),
                    Err(error) => {
                        failed = Err(error);
                        return ControlFlow::Break(());
                    }
                }
                ControlFlow::Continue(())
            })?;
            if failed.is_err() {
                break;
            }
        }
        failed
    }

    /// Writes what was taken in as the stream of a file that holds `holds`; a stream of which nothing is left is left out.
    pub(super) fn write(
        self,
        writer: &mut Writer,
        stream: u32,
        holds: Holds,
    ) -> Result<(), StoreError> {
        let mut found = self.found;
        found.values_mut().for_each(Found::settle);
        if holds == Holds::Raw {
            let table = table(found);
            return if table.columns.is_empty() {
                Ok(())
            } else {
                writer.raw(stream, &table)
            };
        }
        let [minute, hour] = self.stored;
        let minute = if holds == Holds::Minute {
            with_samples(minute, &found, Tier::Minute)
        } else {
            Vec::new()
        };
        let hour = with_samples(hour, &found, Tier::Hour);
        if hour.is_empty() {
            return Ok(());
        }
        writer.rollups(stream, &minute, &hour)
    }
}

/// The table of samples by series.
fn table(found: BTreeMap<u32, Found>) -> Table {
    let mut ts: Vec<i64> = Vec::new();
    for found in found.values() {
        if ts != found.ts() {
            ts = union(&ts, found.ts());
        }
    }
    let columns = found.into_iter().filter_map(|(series, found)| {
        let (of_column, cells) = found.into_parts();
        let mut row = 0;
        let rows = of_column.iter().map(|t| {
            // Each of them is in the union.
            while ts[row] < *t {
                row += 1;
            }
            row as u32
        });
        let rows: Vec<u32> = rows.collect();
        (!rows.is_empty()).then_some(TableColumn {
            series,
            rows,
            cells,
        })
    });
    let columns = columns.collect();
    Table { ts, columns }
}

/// All numbers of two ascending lists, each once.
fn union(a: &[i64], b: &[i64]) -> Vec<i64> {
    let mut out = Vec::with_capacity(a.len().max(b.len()));
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    loop {
        let next = match (a.peek(), b.peek()) {
            (Some(x), Some(y)) => **x.min(y),
            (Some(x), None) => **x,
            (None, Some(y)) => **y,
            (None, None) => return out,
        };
        a.next_if(|x| **x == next);
        b.next_if(|y| **y == next);
        out.push(next);
    }
}

/// Stored rollups with those of the samples.
fn with_samples(
    mut stored: BTreeMap<u32, Vec<Rollup>>,
    found: &BTreeMap<u32, Found>,
    tier: Tier,
) -> Vec<(u32, Vec<Rollup>)> {
    let Some(bucket_ms) = tier.bucket_ms() else {
        return Vec::new();
    };
    for (&series, found) in found {
        let late = archive::roll_up(found.ts(), found.values(), bucket_ms);
        let of_series = stored.entry(series).or_default();
        if of_series.is_empty() {
            *of_series = late;
            continue;
        }
        late.into_iter().for_each(|late| add_late(of_series, late));
    }
    let rollups = stored.into_iter();
    rollups.filter(|(_, rollups)| !rollups.is_empty()).collect()
}

/// Adds the rollup of late samples to those of a series.
pub(super) fn add_late(stored: &mut Vec<Rollup>, late: Rollup) {
    match stored.binary_search_by_key(&late.ts, |rollup| rollup.ts) {
        Ok(at) => fold_in(&mut stored[at], late),
        Err(at) => stored.insert(at, late),
    }
}

/// Adds late samples to the rollup of their bucket.
fn fold_in(stored: &mut Rollup, late: Rollup) {
    stored.count += late.count;
    stored.numbers += late.numbers;
    stored.increase += late.increase;
    let step = if late.first_ts > stored.last_ts {
        number(&stored.last).zip(number(&late.first))
    } else if late.last_ts < stored.first_ts {
        number(&late.last).zip(number(&stored.first))
    } else {
        None
    };
    stored.increase += step.map_or(0.0, |(from, to)| if to < from { to } else { to - from });
    stored.min = pick(stored.min.take(), late.min, |new, old| new < old);
    stored.max = pick(stored.max.take(), late.max, |new, old| new > old);
    stored.sum = add(stored.sum.take(), late.sum);
    if late.first_ts < stored.first_ts {
        (stored.first, stored.first_ts) = (late.first, late.first_ts);
    }
    if late.last_ts >= stored.last_ts {
        (stored.last, stored.last_ts) = (late.last, late.last_ts);
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Float(x) => Some(*x),
        Value::Integer(x) => Some(*x as f64),
        Value::Boolean(x) => Some(f64::from(u8::from(*x))),
        Value::Text(_) => None,
    }
}

fn pick(old: Option<Value>, new: Option<Value>, better: fn(f64, f64) -> bool) -> Option<Value> {
    match (old, new) {
        (Some(old), Some(new)) => {
            let both = number(&new).zip(number(&old));
            let is_better = both.is_some_and(|(new, old)| better(new, old));
            Some(if is_better { new } else { old })
        }
        (old, new) => old.or(new),
    }
}

fn add(a: Option<Value>, b: Option<Value>) -> Option<Value> {
    match (a, b) {
        (Some(a), Some(b)) => {
            if let (Value::Integer(a), Value::Integer(b)) = (&a, &b)
                && let Some(sum) = a.checked_add(*b)
            {
                return Some(Value::Integer(sum));
            }
            let sum = number(&a).zip(number(&b));
            sum.map(|(a, b)| Value::Float(a + b))
        }
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::column::Cells;

    proptest! {
        #[test]
        fn late_samples_behind_or_before_the_stored_ones_fold_in_exactly(
            all in prop::collection::btree_map(0i64..120_000, -1000i64..1000, 2..50),
            cut in 0usize..50,
            late_is_first: bool,
        ) {
            let cut = cut % all.len();
            let (ts, values): (Vec<i64>, Vec<i64>) = all.into_iter().unzip();
            let of = |range: std::ops::Range<usize>| {
                archive::roll_up(&ts[range.clone()], &Cells::Integer(values[range].to_vec()), 60_000)
            };
            let (stored, late) = if late_is_first {
                (of(cut..ts.len()), of(0..cut))
            } else {
                (of(0..cut), of(cut..ts.len()))
            };
            let mut got = stored;
            late.into_iter().for_each(|late| add_late(&mut got, late));
            prop_assert_eq!(got, of(0..ts.len()));
        }
    }

    #[test]
    fn series_of_different_times_share_a_table() {
        let mut found: BTreeMap<u32, Found> = BTreeMap::new();
        let mut put = |series, ts: &[i64]| {
            let cells = Cells::Integer(ts.to_vec());
            found
                .entry(series)
                .or_default()
                .append(1, ts, &cells, 0..ts.len());
        };
        put(1, &[10, 20, 40]);
        put(4, &[20, 30]);
        let table = table(found);
        assert_eq!(table.ts, [10, 20, 30, 40]);
        let rows: Vec<_> = table
            .columns
            .iter()
            .map(|c| (c.series, c.rows.clone()))
            .collect();
        assert_eq!(rows, [(1, vec![0, 1, 3]), (4, vec![1, 2])]);
    }
}
