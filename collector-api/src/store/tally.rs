//! The arithmetic over samples of one series: count, sum, extremes, ends and increase, fed in order of time.
//!
//! - Integers are added exactly (128 bits), floats in the order in which they come. Booleans are the numbers 0 and 1; texts count, but are none.
//! - The increase is that of a counter between neighbouring numbers; a value below the one before is a reset and counts from zero.
//! - Rollups may be joined as if their samples were fed, except where texts and numbers mix in one series: a rollup does not tell where its numbers
//!   begin and end if it begins or ends with a text. Then no increase is made across that edge, and the time of its increase is that of all its samples.

use std::cmp::Ordering;
use std::ops::Range;

use devmon_core::Value;
use devmon_core::wire::TimestampMs;

use super::column::Cells;
use super::rollup::Rollup;

/// Time in ms and value.
type Sample = (i64, Value);

/// What is known of some samples: enough for a rollup and for every aggregate of a query.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tally {
    /// Samples of any type.
    pub count: u64,
    /// Those that are numbers.
    pub numbers: u64,
    /// Sums; `None`: there was none of that type.
    integers: Option<i128>,
    floats: Option<f64>,
    pub min: Option<Value>,
    pub max: Option<Value>,
    first: Option<Sample>,
    last: Option<Sample>,
    /// First and last number, if it is known.
    first_number: Option<Sample>,
    last_number: Option<Sample>,
    /// Increase of a counter, and the ms that it took.
    pub increase: f64,
    pub increase_ms: i64,
}

impl Tally {
    /// Takes the next samples: `ts[i]` belongs to the value at `range.start + i`.
    pub fn add(&mut self, ts: &[i64], values: &Cells, range: Range<usize>) {
        let ([first, ..], [.., last], true) = (ts, ts, ts.len() == range.len()) else {
            return;
        };
        self.count += ts.len() as u64;
        let begin = (*first, range.start);
        self.first
            .get_or_insert_with(|| (begin.0, values.get(begin.1)));
        self.last = Some((*last, values.get(range.end - 1)));
        match values {
            Cells::Float(v) => {
                let v = &v[range];
                let sum = v.iter().skip(usize::from(self.floats.is_none()));
                let begin = self.floats.unwrap_or(v[0]);
                self.floats = Some(sum.fold(begin, |sum, x| sum + x));
                self.run(ts, v, Value::Float, f64::total_cmp, |a, b| b - a);
            }
            Cells::Integer(v) => {
                let v = &v[range];
                let sum: i128 = v.iter().map(|&x| i128::from(x)).sum();
                self.integers = Some(self.integers.unwrap_or(0) + sum); // 2^63 samples fit
                let increase = |a: i64, b: i64| (i128::from(b) - i128::from(a)) as f64;
                self.run(ts, v, Value::Integer, i64::cmp, increase);
            }
            Cells::Boolean(v) => {
                for (&t, &x) in ts.iter().zip(&v[range]) {
                    self.number(t, Value::Integer(i64::from(x)));
                }
            }
            Cells::Mixed(v) => {
                for (&t, x) in ts.iter().zip(&v[range]) {
                    if let Some(number) = numeric(x) {
                        self.number(t, number);
                    }
                }
            }
        }
    }

    /// Numbers of one type, all but their sum.
    fn run<T: Copy>(
        &mut self,
        ts: &[i64],
        v: &[T],
        value: fn(T) -> Value,
        cmp: fn(&T, &T) -> Ordering,
        increase: impl Fn(T, T) -> f64,
    ) {
        let ([first, rest @ ..], [first_ms, ..], [.., last_ms]) = (v, ts, ts) else {
            return;
        };
        self.begin(*first_ms, value(*first));
        let (mut before, mut min, mut max, mut grown) = (*first, *first, *first, 0.0);
        for &x in rest {
            if cmp(&x, &min) == Ordering::Less {
                min = x;
            }
            if cmp(&x, &max) == Ordering::Greater {
                max = x;
            }
            grown += if cmp(&x, &before) == Ordering::Less {
                float(&value(x)) // a reset
            } else {
                increase(before, x)
            };
            before = x;
        }
        self.increase += grown;
        self.increase_ms += last_ms - first_ms;
        self.numbers += rest.len() as u64;
        self.extremes(value(min), value(max));
        self.last_number = Some((*last_ms, value(before)));
    }

    /// One number of a mixed column.
    fn number(&mut self, ts_ms: i64, value: Value) {
        match value {
            Value::Float(x) => self.floats = Some(self.floats.map_or(x, |sum| sum + x)),
            Value::Integer(x) => self.integers = Some(self.integers.unwrap_or(0) + i128::from(x)),
            _ => {}
        }
        self.begin(ts_ms, value.clone());
        self.extremes(value.clone(), value.clone());
        self.last_number = Some((ts_ms, value));
    }

    /// The first of some numbers: joins it to the one before.
    fn begin(&mut self, ts_ms: i64, value: Value) {
        if let Some((before_ms, before)) = &self.last_number {
            self.increase += increase(before, &value);
            self.increase_ms += ts_ms - before_ms;
        }
        if self.numbers == 0 {
            self.first_number = Some((ts_ms, value));
        }
        self.numbers += 1;
    }

    fn extremes(&mut self, min: Value, max: Value) {
        let keep = |kept: &mut Option<Value>, value: Value, wanted| {
            if kept
                .as_ref()
                .is_none_or(|kept| compare(&value, kept) == wanted)
            {
                *kept = Some(value);
            }
        };
        keep(&mut self.min, min, Ordering::Less);
        keep(&mut self.max, max, Ordering::Greater);
    }

    /// Takes the next samples as a rollup.
    pub fn join(&mut self, rollup: &Rollup) {
        self.count += rollup.count;
        let first = || (rollup.first_ts.0, rollup.first.clone());
        self.first.get_or_insert_with(first);
        self.last = Some((rollup.last_ts.0, rollup.last.clone()));
        if rollup.numbers == 0 {
            return;
        }
        match numeric(&rollup.first) {
            Some(first) => {
                self.begin(rollup.first_ts.0, first);
                self.numbers -= 1; // counted below
            }
            None if self.numbers == 0 => self.first_number = None,
            None => {}
        }
        self.numbers += rollup.numbers;
        match rollup.sum {
            Some(Value::Integer(x)) => {
                self.integers = Some(self.integers.unwrap_or(0) + i128::from(x));
            }
            Some(Value::Float(x)) => self.floats = Some(self.floats.map_or(x, |sum| sum + x)),
            _ => {}
        }
        if let (Some(min), Some(max)) = (&rollup.min, &rollup.max) {
            self.extremes(min.clone(), max.clone());
        }
        self.increase += rollup.increase;
        if rollup.numbers > 1 {
            self.increase_ms += rollup.last_ts.0 - rollup.first_ts.0;
        }
        self.last_number = numeric(&rollup.last).map(|last| (rollup.last_ts.0, last));
    }

    /// Sum of the numbers: an integer if all are and it fits, else a float.
    #[must_use]
    pub fn sum(&self) -> Option<Value> {
        match (self.floats, self.integers) {
            (None, None) => None,
            (Some(x), None) => Some(Value::Float(x)),
            (None, Some(n)) => {
                Some(i64::try_from(n).map_or(Value::Float(n as f64), Value::Integer))
            }
            (Some(x), Some(n)) => Some(Value::Float(x + n as f64)),
        }
    }

    /// Mean of the numbers.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        let integers = self.integers.map(|n| n as f64);
        let sum = match (self.floats, integers) {
            (Some(x), Some(n)) => x + n,
            (x, n) => x.or(n)?,
        };
        Some(sum / self.numbers as f64)
    }

    /// The newest value, of any type.
    #[must_use]
    pub fn last(&self) -> Option<&Value> {
        self.last.as_ref().map(|(_, value)| value)
    }

    /// The first number and its time in ms; `None`: there is none, or it is not known.
    #[must_use]
    pub fn first_number(&self) -> Option<&(i64, Value)> {
        self.first_number.as_ref()
    }

    /// The last number and its time in ms; `None`: there is none, or it is not known.
    #[must_use]
    pub fn last_number(&self) -> Option<&(i64, Value)> {
        self.last_number.as_ref()
    }

    /// As the rollup of the bucket that begins at `ts`; `None` without samples.
    #[must_use]
    pub fn into_rollup(self, ts: TimestampMs) -> Option<Rollup> {
        let sum = self.sum();
        let ((first_ts, first), (last_ts, last)) = self.first.zip(self.last)?;
        Some(Rollup {
            ts,
            count: self.count,
            numbers: self.numbers,
            min: self.min,
            max: self.max,
            sum,
            first,
            first_ts: TimestampMs(first_ts),
            last,
            last_ts: TimestampMs(last_ts),
            increase: self.increase,
        })
    }
}

/// The value for arithmetic: booleans are 0 and 1, texts are none.
fn numeric(value: &Value) -> Option<Value> {
    match value {
        Value::Boolean(x) => Some(Value::Integer(i64::from(*x))),
        Value::Text(_) => None,
        number => Some(number.clone()),
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
#[must_use]
pub fn increase(before: &Value, value: &Value) -> f64 {
    if compare(value, before) == Ordering::Less {
        return float(value);
    }
    match (before, value) {
        (Value::Integer(a), Value::Integer(b)) => (i128::from(*b) - i128::from(*a)) as f64,
        (a, b) => float(b) - float(a),
    }
}
