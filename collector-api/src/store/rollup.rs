//! Rollups: what is kept of a series' samples in one minute or one hour.
//!
//! A rollup is made from all samples of its bucket, so late ones correct it: as long as raw samples are kept, it is made anew from them. What crosses the edge
//! between two buckets (the increase of a counter from the last sample of one to the first of the next) belongs to neither: both ends are kept, and
//! the reader joins them.
//!
//! [`Fold`] makes rollups of samples, and coarser ones of finer ones; [`tally`](super::tally) is the arithmetic, which queries share.

use std::ops::Range;

use devmon_core::Value;
use devmon_core::wire::TimestampMs;

use super::column::Cells;
use super::engine::{SeriesRange, SeriesRollups, StoreError};
use super::tally::Tally;

/// Resolution of stored data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Samples as they came.
    Raw,
    Minute,
    Hour,
}

impl Tier {
    /// Its name in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Minute => "1m",
            Self::Hour => "1h",
        }
    }

    /// Length of its buckets in ms; `None` for raw samples.
    #[must_use]
    pub fn bucket_ms(self) -> Option<i64> {
        match self {
            Self::Raw => None,
            Self::Minute => Some(60_000),
            Self::Hour => Some(3_600_000),
        }
    }
}

/// What is kept of the samples of one bucket. There is at least one.
#[derive(Debug, Clone, PartialEq)]
pub struct Rollup {
    /// Start of the bucket: a multiple of its length.
    pub ts: TimestampMs,
    /// Samples of any type.
    pub count: u64,
    /// Samples that count as numbers: booleans do, as 0 and 1; texts do not.
    pub numbers: u64,
    /// Smallest and largest number; `None` without numbers.
    pub min: Option<Value>,
    pub max: Option<Value>,
    /// Sum of the numbers: an integer if all are and it fits, else a float.
    pub sum: Option<Value>,
    pub first: Value,
    pub first_ts: TimestampMs,
    pub last: Value,
    pub last_ts: TimestampMs,
    /// What a counter grew by between neighbouring numbers of the bucket; where it fell, it began anew at 0.
    pub increase: f64,
}

/// Turns the samples of one series, or its finer rollups, fed in order of time, into rollups of buckets of one length.
#[derive(Debug)]
pub struct Fold {
    bucket_ms: i64,
    /// Start of the open bucket.
    open_ms: i64,
    open: Tally,
}

impl Fold {
    /// For buckets of `bucket_ms` (≥ 1).
    #[must_use]
    pub fn new(bucket_ms: i64) -> Self {
        Self {
            bucket_ms,
            open_ms: i64::MIN,
            open: Tally::default(),
        }
    }

    /// Takes the next samples: `ts[i]` belongs to the value at `range.start + i`. Hands over the buckets that they close.
    pub fn samples(
        &mut self,
        ts: &[i64],
        values: &Cells,
        range: Range<usize>,
        f: &mut dyn FnMut(Rollup),
    ) {
        let mut begin = 0;
        while let Some(&first) = ts.get(begin) {
            self.turn_to(first, f);
            let end_ms = self.open_ms.saturating_add(self.bucket_ms);
            let rest = &ts[begin..];
            let end = begin + rest.iter().position(|&t| t >= end_ms).unwrap_or(rest.len());
            self.open.add(
                &ts[begin..end],
                values,
                range.start + begin..range.start + end,
            );
            begin = end;
        }
    }

    /// Takes the next finer rollup.
    pub fn rollup(&mut self, rollup: &Rollup, f: &mut dyn FnMut(Rollup)) {
        self.turn_to(rollup.ts.0, f);
        self.open.join(rollup);
    }

    /// Hands over the last bucket.
    pub fn finish(mut self, f: &mut dyn FnMut(Rollup)) {
        self.close(f);
    }

    fn turn_to(&mut self, ts_ms: i64, f: &mut dyn FnMut(Rollup)) {
        let start = ts_ms.saturating_sub(ts_ms.rem_euclid(self.bucket_ms));
        if start != self.open_ms {
            self.close(f);
            self.open_ms = start;
        }
    }

    fn close(&mut self, f: &mut dyn FnMut(Rollup)) {
        if let Some(rollup) = std::mem::take(&mut self.open).into_rollup(TimestampMs(self.open_ms))
        {
            f(rollup);
        }
    }
}

/// Most raw samples in memory at a time while rollups are made of them.
const WINDOW_SAMPLES: usize = 1_000_000;

/// Makes rollups from raw samples: for each series those whose bucket begins in `from ≤ t < to`. `read` reads the samples of a range, at most so many.
///
/// # Errors
/// [`StoreError::TooManySamples`] when there are more than `limit` all together; what `read` returns.
pub(super) fn from_raw(
    bucket_ms: i64,
    (from, to): (TimestampMs, TimestampMs),
    limit: usize,
    read: &dyn Fn(TimestampMs, TimestampMs, usize) -> Result<Vec<SeriesRange>, StoreError>,
) -> Result<Vec<SeriesRollups>, StoreError> {
    let up = |t: i64| t.saturating_add((bucket_ms - t.rem_euclid(bucket_ms)) % bucket_ms);
    let (mut at, to) = (up(from.0), up(to.0));
    let mut out: Vec<SeriesRollups> = Vec::new();
    let mut folds: Vec<Fold> = Vec::new();
    let mut width = i64::MAX;
    let mut count = 0;
    loop {
        let end = at.saturating_add(width).min(to).max(at);
        let ranges = match read(TimestampMs(at), TimestampMs(end), WINDOW_SAMPLES) {
            // One ms holds one sample of each path at most, so halving ends.
            Err(StoreError::TooManySamples { .. }) if end - at > 1 => {
                width = (end - at) / 2;
                continue;
            }
            ranges => ranges?,
        };
        for (i, range) in ranges.into_iter().enumerate() {
            if folds.len() <= i {
                folds.push(Fold::new(bucket_ms));
                out.push(SeriesRollups {
                    path: range.path,
                    rollups: Vec::new(),
                });
            }
            let rollups = &mut out[i].rollups;
            let before = rollups.len();
            folds[i].samples(&range.ts, &range.values, 0..range.ts.len(), &mut |r| {
                rollups.push(r);
            });
            count += rollups.len() - before;
        }
        if count > limit {
            return Err(StoreError::TooManySamples { limit });
        }
        if end >= to {
            break;
        }
        (at, width) = (end, width.saturating_mul(2));
    }
    for (fold, out) in folds.into_iter().zip(&mut out) {
        let before = out.rollups.len();
        fold.finish(&mut |r| out.rollups.push(r));
        count += out.rollups.len() - before;
    }
    if count > limit {
        return Err(StoreError::TooManySamples { limit });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Samples = Vec<(i64, Value)>;

    fn number() -> impl Strategy<Value = Value> {
        prop_oneof![
            4 => any::<i32>().prop_map(|x| Value::Integer(x.into())),
            2 => (-1_000_000_i64..1_000_000).prop_map(|x| Value::Float(x as f64 / 4.0)), // sums are exact
            1 => any::<bool>().prop_map(Value::Boolean),
        ]
    }

    fn samples(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Samples> {
        let apart = prop_oneof![8 => 1_i64..20_000, 1 => 1_i64..9_000_000];
        prop::collection::vec((apart, value), 1..120).prop_map(|steps| {
            let mut at = 1_795_450_000_000;
            let place = |(apart, value)| {
                at += apart;
                (at, value)
            };
            steps.into_iter().map(place).collect()
        })
    }

    fn columns(samples: &[(i64, Value)]) -> (Vec<i64>, Cells) {
        let ts = samples.iter().map(|(ts, _)| *ts).collect();
        (ts, samples.iter().map(|(_, value)| value.clone()).collect())
    }

    /// Word by word as [`Rollup`] has it.
    fn model(samples: &[(i64, Value)], bucket_ms: i64) -> Vec<Rollup> {
        let buckets =
            samples.chunk_by(|a, b| a.0.div_euclid(bucket_ms) == b.0.div_euclid(bucket_ms));
        let rollup = |inside: &[(i64, Value)]| {
            let as_number = |value: &Value| match value {
                Value::Boolean(x) => Value::Integer((*x).into()),
                number => number.clone(),
            };
            let texts = |value: &&Value| !matches!(value, Value::Text(_));
            let all = inside.iter().map(|(_, value)| value).filter(texts);
            let numbers: Vec<Value> = all.map(as_number).collect();
            let floats: Vec<f64> = numbers.iter().filter_map(Value::as_f64).collect();
            let integers = numbers.iter().all(|n| matches!(n, Value::Integer(_)));
            let order =
                |a: &&Value, b: &&Value| a.as_f64().unwrap().total_cmp(&b.as_f64().unwrap());
            let sum: f64 = floats.iter().sum();
            let ends = (&inside[0], &inside[inside.len() - 1]);
            Rollup {
                ts: TimestampMs(ends.0.0.div_euclid(bucket_ms) * bucket_ms),
                count: inside.len() as u64,
                numbers: numbers.len() as u64,
                min: numbers.iter().min_by(order).cloned(),
                max: numbers.iter().rev().max_by(order).cloned(), // of equal ones the first, as for the smallest
                sum: match (numbers.is_empty(), integers) {
                    (true, _) => None,
                    (_, true) => Some(Value::Integer(sum as i64)),
                    (_, false) => Some(Value::Float(sum)),
                },
                first: ends.0.1.clone(),
                first_ts: TimestampMs(ends.0.0),
                last: ends.1.1.clone(),
                last_ts: TimestampMs(ends.1.0),
                increase: floats
                    .windows(2)
                    .map(|w| if w[1] < w[0] { w[1] } else { w[1] - w[0] })
                    .sum(),
            }
        };
        buckets.map(rollup).collect()
    }

    /// Folds samples that come in pieces of such lengths.
    fn fold(samples: &[(i64, Value)], bucket_ms: i64, pieces: usize) -> Vec<Rollup> {
        let (mut fold, mut out) = (Fold::new(bucket_ms), Vec::new());
        for piece in samples.chunks(pieces) {
            let (ts, cells) = columns(piece);
            fold.samples(&ts, &cells, 0..ts.len(), &mut |r| out.push(r));
        }
        fold.finish(&mut |r| out.push(r));
        out
    }

    fn coarser(rollups: &[Rollup], bucket_ms: i64) -> Vec<Rollup> {
        let (mut fold, mut out) = (Fold::new(bucket_ms), Vec::new());
        rollups
            .iter()
            .for_each(|r| fold.rollup(r, &mut |r| out.push(r)));
        fold.finish(&mut |r| out.push(r));
        out
    }

    proptest! {
        #[test]
        fn rollups_are_those_of_the_model(
            samples in samples(prop_oneof![4 => number(), 1 => "[a-c]".prop_map(Value::Text)]),
            bucket_ms in prop::sample::select(vec![60_000_i64, 3_600_000]),
            pieces in 1_usize..50,
        ) {
            prop_assert_eq!(fold(&samples, bucket_ms, pieces), model(&samples, bucket_ms));
        }

        #[test]
        fn hours_of_minutes_are_hours_of_samples(samples in samples(number())) {
            let minutes = fold(&samples, 60_000, usize::MAX);
            prop_assert_eq!(coarser(&minutes, 3_600_000), fold(&samples, 3_600_000, usize::MAX));
        }

        #[test]
        fn columns_of_one_type_are_folded_as_mixed_ones(
            integers in samples(any::<i32>().prop_map(|x| Value::Integer(x.into()))),
            floats in samples((-1_000_000_i64..1_000_000).prop_map(|x| Value::Float(x as f64 / 4.0))),
        ) {
            for samples in [integers, floats] {
                prop_assert_eq!(fold(&samples, 60_000, usize::MAX), fold(&samples, 60_000, 1));
                prop_assert_eq!(fold(&samples, 60_000, 7), model(&samples, 60_000));
            }
        }
    }

    #[test]
    fn sums_beyond_64_bits_become_floats() {
        let rollups = fold(
            &[(0, Value::Integer(i64::MAX)), (1, Value::Integer(i64::MAX))],
            60_000,
            9,
        );
        assert_eq!(rollups[0].sum, Some(Value::Float(2.0 * i64::MAX as f64)));
        assert_eq!(rollups[0].increase, 0.0);
    }
}
