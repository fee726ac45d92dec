//! From samples to one value a bucket. The only place where rates are made.
//!
//! - `avg`, `min`, `max`, `sum` skip texts and read booleans as 0 and 1; `count` and `last` take every type.
//! - Integers stay integers, exactly, in `min`, `max`, `last`, and in `sum` as long as it fits 64 bits.
//! - `rate` belongs to counters. Each sample adds its increase over the sample before it to the bucket that it falls into; a value below the one
//!   before is a reset and counts from zero. The bucket's rate is the sum of its increases over the time they took, per second. So the sample before a
//!   range is needed for its first bucket, and a bucket shorter than the interval holds the mean rate since the sample before. Samples
//!   further apart than [`max_pair_ms`] do not make a pair: nothing is known of the time between, and a bucket's value must not depend on where the asked range begins.
//! - A bucket without a value is `None`: a gap, never 0. A result beyond the range of a float is a gap, too; JSON has no word for it.

use std::cmp::Ordering;

use devmon_core::Value;
use devmon_core::wire::TimestampMs;

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

/// One bucket being filled, in order of time.
#[derive(Debug, Default)]
struct Bucket {
    count: u64,
    floats: Option<f64>,
    integers: Option<i128>,
    /// The smallest, largest or last value.
    kept: Option<Value>,
    increase: f64,
    increase_ms: i64,
}

/// Turns one series' samples, fed in order of time, into buckets.
#[derive(Debug)]
pub struct Buckets {
    aggregate: Aggregate,
    step_ms: i64,
    first_ms: i64,
    /// Samples before this only serve as the one before the first.
    from_ms: i64,
    bucket: Bucket,
    values: Vec<Option<Value>>,
    before: Option<(i64, Value)>,
}

impl Buckets {
    /// For buckets from `first_ms` (a multiple of the step) on.
    #[must_use]
    pub fn new(aggregate: Aggregate, step_ms: i64, first_ms: i64, from_ms: i64) -> Self {
        Self {
            aggregate,
            step_ms,
            first_ms,
            from_ms,
            bucket: Bucket::default(),
            values: Vec::new(),
            before: None,
        }
    }

    /// Takes the next sample in order of time.
    pub fn push(&mut self, ts: TimestampMs, value: Value) {
        let inside = ts.0 >= self.from_ms;
        if inside {
            let index =
                usize::try_from((ts.0 - self.first_ms).div_euclid(self.step_ms)).unwrap_or(0);
            self.close_until(index);
        }
        if self.aggregate == Aggregate::Rate {
            self.pair(ts.0, value, inside);
        } else if inside {
            self.bucket.add(self.aggregate, value);
        }
    }

    /// The values of `count` buckets.
    #[must_use]
    pub fn finish(mut self, count: usize) -> Vec<Option<Value>> {
        self.close_until(count);
        self.values.truncate(count);
        self.values
    }

    /// Ends the open bucket and leaves out empty ones until bucket `index` is the open one.
    fn close_until(&mut self, index: usize) {
        if self.values.len() < index {
            let value = std::mem::take(&mut self.bucket).value(self.aggregate);
            self.values.push(value);
            self.values.resize(index, None);
        }
    }

    fn pair(&mut self, ts_ms: i64, value: Value, inside: bool) {
        let Some(value) = numeric(value) else {
            return;
        };
        if let Some((before_ms, before)) = &self.before
            && inside
            && ts_ms - before_ms <= max_pair_ms(self.step_ms)
        {
            self.bucket.increase += increase(before, &value);
            self.bucket.increase_ms += ts_ms - before_ms;
        }
        self.before = Some((ts_ms, value));
    }
}

impl Bucket {
    fn add(&mut self, aggregate: Aggregate, value: Value) {
        match aggregate {
            Aggregate::Count => self.count += 1,
            Aggregate::Last => self.kept = Some(value),
            Aggregate::Min => self.keep_if(Ordering::Less, value),
            Aggregate::Max => self.keep_if(Ordering::Greater, value),
            Aggregate::Sum | Aggregate::Avg => match numeric(value) {
                Some(Value::Float(x)) => {
                    self.count += 1;
                    self.floats = Some(self.floats.map_or(x, |sum| sum + x));
                }
                Some(Value::Integer(x)) => {
                    self.count += 1;
                    self.integers = Some(self.integers.unwrap_or(0) + i128::from(x)); // 2^63 such samples fit
                }
                _ => {}
            },
            Aggregate::Rate => {} // made of pairs
        }
    }

    fn keep_if(&mut self, wanted: Ordering, value: Value) {
        if let Some(value) = numeric(value)
            && self
                .kept
                .as_ref()
                .is_none_or(|kept| compare(&value, kept) == wanted)
        {
            self.kept = Some(value);
        }
    }

    fn value(self, aggregate: Aggregate) -> Option<Value> {
        let sum = || match (self.floats, self.integers) {
            (None, None) => None,
            (Some(x), None) => Some(x),
            (floats, Some(n)) => Some(floats.map_or(n as f64, |x| x + n as f64)),
        };
        let value = match aggregate {
            Aggregate::Count => (self.count > 0).then(|| Value::from(self.count)),
            Aggregate::Min | Aggregate::Max | Aggregate::Last => self.kept,
            Aggregate::Avg => sum().map(|sum| Value::Float(sum / self.count as f64)),
            Aggregate::Sum => match (self.floats, self.integers.map(i64::try_from)) {
                (None, Some(Ok(n))) => Some(Value::Integer(n)),
                _ => sum().map(Value::Float),
            },
            Aggregate::Rate => (self.increase_ms > 0)
                .then(|| Value::Float(self.increase / (self.increase_ms as f64 / 1000.0))),
        };
        value.filter(|v| !matches!(v, Value::Float(x) if !x.is_finite()))
    }
}

/// The value for arithmetic: booleans are 0 and 1, texts are none.
fn numeric(value: Value) -> Option<Value> {
    match value {
        Value::Boolean(x) => Some(Value::Integer(i64::from(x))),
        Value::Text(_) => None,
        number => Some(number),
    }
}

fn float(value: &Value) -> f64 {
    value.as_f64().unwrap_or_default() // only numbers come here
}

fn compare(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Integer(a), Value::Integer(b)) => a.cmp(b),
        (a, b) => float(a).total_cmp(&float(b)),
    }
}

/// What a counter grew by, exactly for integers.
fn increase(before: &Value, value: &Value) -> f64 {
    if compare(value, before) == Ordering::Less {
        return float(value);
    }
    match (before, value) {
        (Value::Integer(a), Value::Integer(b)) => (i128::from(*b) - i128::from(*a)) as f64,
        (a, b) => float(b) - float(a),
    }
}
