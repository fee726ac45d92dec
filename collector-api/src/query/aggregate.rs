//! From samples, or rollups of them, to one value a bucket. The only place where rates are made; the sums and extremes under them are
//! [`tally`](crate::store::tally)'s.
//!
//! - `avg`, `min`, `max`, `sum` skip texts and read booleans as 0 and 1; `count` and `last` take every type.
//! - Integers stay integers, exactly, in `min`, `max`, `last`, and in `sum` as long as it fits 64 bits.
//! - `rate` belongs to counters. Each sample adds its increase over the sample before it to the bucket that it falls into; a value below the one
//!   before is a reset and counts from zero. The bucket's rate is the sum of its increases over the time they took, per second. So the sample before a
//!   range is needed for its first bucket, and a bucket shorter than the interval holds the mean rate since the sample before. Samples
//!   further apart than [`max_pair_ms`] do not make a pair: nothing is known of the time between, and a bucket's value must not depend on where the asked range begins.
//! - Rollups give what their samples would: exactly for integers; floats are added bucket by bucket, so the last digits of `sum`, `avg` and `rate` may
//!   differ. `rate` differs where texts and numbers mix in one series (`tally` says how).
//! - A bucket without a value is `None`: a gap, never 0. A result beyond the range of a float is a gap, too; JSON has no word for it.

use devmon_core::Value;

use super::column::Column;
use crate::store::Cells;
use crate::store::rollup::Rollup;
use crate::store::tally::{Tally, increase};

/// Neighbouring samples further apart than this (or than the step, if that is longer) make no rate: one hour, four times the longest interval in common use.
const PAIR_MS: i64 = 3_600_000;

/// Longest time between two samples that make a rate with buckets of `step_ms`; how far before a range its first bucket has to look.
#[must_use]
pub fn max_pair_ms(step_ms: i64) -> i64 {
    step_ms.max(PAIR_MS)
}

/// How samples become one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aggregate {
    Avg,
    Min,
    Max,
    Sum,
    Count,
    Last,
    /// Increase per second of a counter.
    Rate,
}

impl Aggregate {
    pub const ALL: [Self; 7] = [
        Self::Avg,
        Self::Min,
        Self::Max,
        Self::Sum,
        Self::Count,
        Self::Last,
        Self::Rate,
    ];

    /// `avg`, `min`, `max`, `sum`, `count`, `last` or `rate`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Avg => "avg",
            Self::Min => "min",
            Self::Max => "max",
            Self::Sum => "sum",
            Self::Count => "count",
            Self::Last => "last",
            Self::Rate => "rate",
        }
    }
}

/// Turns one series' samples or rollups, fed in order of time, into buckets: a column for each aggregate.
#[derive(Debug)]
pub struct Buckets {
    aggregates: Vec<Aggregate>,
    step_ms: i64,
    first_ms: i64,
    /// What is before this only serves as the sample before the first.
    from_ms: i64,
    /// Number of the open bucket.
    index: usize,
    open: Tally,
    /// The last number before the open bucket, and its time.
    before: Option<(i64, Value)>,
    columns: Vec<Column>,
}

impl Buckets {
    /// For buckets from `first_ms` (a multiple of the step) on.
    #[must_use]
    pub fn new(aggregates: &[Aggregate], step_ms: i64, first_ms: i64, from_ms: i64) -> Self {
        Self {
            aggregates: aggregates.to_vec(),
            step_ms,
            first_ms,
            from_ms,
            index: 0,
            open: Tally::default(),
            before: None,
            columns: vec![Column::default(); aggregates.len()],
        }
    }

    /// Takes the next samples.
    pub fn samples(&mut self, ts: &[i64], values: &Cells) {
        let mut begin = ts.partition_point(|&t| t < self.from_ms);
        if begin > 0 {
            let mut outside = Tally::default();
            outside.add(&ts[..begin], values, 0..begin);
            self.keep_last(&outside);
        }
        while let Some(&first) = ts.get(begin) {
            let end_ms = self.turn_to(first);
            let rest = &ts[begin..];
            let end = begin + rest.iter().position(|&t| t >= end_ms).unwrap_or(rest.len());
            self.open.add(&ts[begin..end], values, begin..end);
            begin = end;
        }
    }

    /// Takes the next rollup, whose bucket is a part of one of these.
    pub fn rollup(&mut self, rollup: &Rollup) {
        if rollup.ts.0 >= self.from_ms {
            self.turn_to(rollup.ts.0);
            self.open.join(rollup);
        } else {
            let mut outside = Tally::default();
            outside.join(rollup);
            self.keep_last(&outside);
        }
    }

    /// The columns, in the order of the aggregates, of `count` buckets.
    #[must_use]
    pub fn finish(mut self, count: usize) -> Vec<Column> {
        self.close();
        for column in &mut self.columns {
            column.pad(count);
            column.truncate(count);
        }
        self.columns
    }

    /// Opens the bucket that a time falls into and returns where it ends.
    fn turn_to(&mut self, ts_ms: i64) -> i64 {
        let number = (ts_ms - self.first_ms).div_euclid(self.step_ms);
        let index = usize::try_from(number).unwrap_or(0);
        if index != self.index {
            self.close();
            self.index = index;
        }
        self.first_ms + (number + 1) * self.step_ms
    }

    fn close(&mut self) {
        let bucket = std::mem::take(&mut self.open);
        if bucket.count == 0 {
            return;
        }
        for (aggregate, column) in self.aggregates.iter().zip(&mut self.columns) {
            let value = match aggregate {
                Aggregate::Avg => bucket.mean().map(Value::Float),
                Aggregate::Min => bucket.min.clone(),
                Aggregate::Max => bucket.max.clone(),
                Aggregate::Sum => bucket.sum(),
                Aggregate::Count => Some(Value::from(bucket.count)),
                Aggregate::Last => bucket.last().cloned(),
                Aggregate::Rate => rate(self.before.as_ref(), &bucket, self.step_ms),
            };
            column.pad(self.index);
            column.push(value.filter(|v| !matches!(v, Value::Float(x) if !x.is_finite())));
        }
        self.keep_last(&bucket);
    }

    fn keep_last(&mut self, bucket: &Tally) {
        if bucket.numbers > 0 {
            self.before = bucket.last_number().cloned();
        }
    }
}

/// Increase per second within a bucket and from the number before it.
fn rate(before: Option<&(i64, Value)>, bucket: &Tally, step_ms: i64) -> Option<Value> {
    let (mut grown, mut ms) = (bucket.increase, bucket.increase_ms);
    if let (Some((before_ms, before)), Some((ts_ms, value))) = (before, bucket.first_number())
        && ts_ms - before_ms <= max_pair_ms(step_ms)
    {
        grown += increase(before, value);
        ms += ts_ms - before_ms;
    }
    (ms > 0).then(|| Value::Float(grown / (ms as f64 / 1000.0)))
}
