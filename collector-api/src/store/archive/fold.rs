//! Makes the rollups of a series from its samples.
//!
//! Sums are exact: integers, and floats as the decimals that they were sent as (0.1 + 0.2 is 0.3). So they do not depend on how the samples came together,
//! and take little room. Only where a float is no decimal of up to 12 digits, floats are added as floats, with the lost bits carried along.

use devmon_core::Value;
use devmon_core::wire::TimestampMs;

use crate::store::column::{Cells, MAX_DIGITS, exact_at, scale};
use crate::store::rollup::Rollup;

/// The rollups of samples whose times ascend, by bucket. Booleans count as the numbers 0 and 1, texts as none.
pub(crate) fn rollups(ts: &[i64], cells: &Cells, bucket_ms: i64) -> Vec<Rollup> {
    let mut out = Vec::new();
    let mut begin = 0;
    for bucket in ts.chunk_by(|a, b| a.div_euclid(bucket_ms) == b.div_euclid(bucket_ms)) {
        let end = begin + bucket.len();
        let mut fold = Fold::default();
        for i in begin..end {
            match cells {
                Cells::Float(v) => fold.float(v[i]),
                Cells::Integer(v) => fold.integer(v[i]),
                Cells::Boolean(v) => fold.integer(i64::from(v[i])),
                Cells::Mixed(v) => match &v[i] {
                    Value::Float(x) => fold.float(*x),
                    Value::Integer(x) => fold.integer(*x),
                    Value::Boolean(x) => fold.integer(i64::from(*x)),
                    Value::Text(_) => {}
                },
            }
        }
        let start = bucket[0].div_euclid(bucket_ms) * bucket_ms;
        let (min, max) = fold.range.take().unzip();
        out.push(Rollup {
            ts: TimestampMs(start),
            count: bucket.len() as u64,
            numbers: fold.numbers,
            min,
            max,
            sum: fold.sum(),
            first: cells.get(begin),
            first_ts: TimestampMs(bucket[0]),
            last: cells.get(end - 1),
            last_ts: TimestampMs(bucket[bucket.len() - 1]),
            increase: fold.increase(),
        });
        begin = end;
    }
    out
}

#[derive(Default)]
struct Fold {
    numbers: u64,
    /// Smallest and largest; of equal ones the first. A number that is none (NaN) is passed over where there are others.
    range: Option<(Value, Value)>,
    has_floats: bool,
    decimals: Decimals,
    /// What holds once a number was no decimal.
    inexact: bool,
    sum: Compensated,
    increase: Compensated,
    before: f64,
}

impl Fold {
    fn integer(&mut self, x: i64) {
        self.number(Value::Integer(x), x as f64);
        self.inexact |= self.decimals.add(i128::from(x), 0).is_none();
    }

    fn float(&mut self, x: f64) {
        self.has_floats = true;
        self.number(Value::Float(x), x);
        if !self.inexact {
            let mut digits = self.decimals.digits..=MAX_DIGITS;
            let exact = digits.find_map(|d| Some((exact_at(x, scale(d)?)?, d)));
            let added = exact.and_then(|(m, d)| self.decimals.add(i128::from(m), d));
            self.inexact = added.is_none();
        }
    }

    fn number(&mut self, value: Value, x: f64) {
        if self.numbers > 0 {
            let grown = if x < self.before { x } else { x - self.before };
            self.increase.add(grown);
        }
        self.before = x;
        self.numbers += 1;
        self.sum.add(x);
        match &mut self.range {
            None => self.range = Some((value.clone(), value)),
            Some((min, max)) if is_none(min) => {
                *min = value.clone();
                *max = value;
            }
            Some((min, max)) => {
                if less(&value, min) {
                    *min = value;
                } else if less(max, &value) {
                    *max = value;
                }
            }
        }
    }

    fn sum(&self) -> Option<Value> {
        if self.numbers == 0 {
            return None;
        }
        let exact = self.decimals.sum;
        Some(if self.inexact {
            Value::Float(self.sum.get())
        } else if self.has_floats {
            Value::Float(self.decimals.float(exact))
        } else {
            i64::try_from(exact).map_or(Value::Float(exact as f64), Value::Integer)
        })
    }

    fn increase(&self) -> f64 {
        if self.inexact {
            self.increase.get()
        } else {
            self.decimals.float(self.decimals.increase)
        }
    }
}

fn is_none(number: &Value) -> bool {
    number.as_f64().is_none_or(f64::is_nan)
}

fn less(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Integer(a), Value::Integer(b)) => a < b,
        (a, b) => a.as_f64().unwrap_or(0.0) < b.as_f64().unwrap_or(0.0),
    }
}

/// Sum and increase as integers of 10^-digits.
#[derive(Default)]
struct Decimals {
    digits: u8,
    sum: i128,
    increase: i128,
    before: Option<i128>,
}

impl Decimals {
    /// Adds `m` / 10^`digits`; `None` beyond 128 bits.
    fn add(&mut self, mut m: i128, digits: u8) -> Option<()> {
        if digits > self.digits {
            let by = 10i128.checked_pow(u32::from(digits - self.digits))?;
            self.sum = self.sum.checked_mul(by)?;
            self.increase = self.increase.checked_mul(by)?;
            self.before = match self.before {
                Some(before) => Some(before.checked_mul(by)?),
                None => None,
            };
            self.digits = digits;
        } else {
            m = m.checked_mul(10i128.checked_pow(u32::from(self.digits - digits))?)?;
        }
        self.sum = self.sum.checked_add(m)?;
        if let Some(before) = self.before {
            let grown = if m < before { m } else { m - before };
            self.increase = self.increase.checked_add(grown)?;
        }
        self.before = Some(m);
        Some(())
    }

    fn float(&self, m: i128) -> f64 {
        m as f64 / 10f64.powi(self.digits.into())
    }
}

/// A sum of floats that carries what each addition lost (Neumaier).
#[derive(Default)]
struct Compensated {
    sum: f64,
    lost: f64,
}

impl Compensated {
    fn add(&mut self, x: f64) {
        let sum = self.sum + x;
        self.lost += if self.sum.abs() >= x.abs() {
            (self.sum - sum) + x
        } else {
            (x - sum) + self.sum
        };
        self.sum = sum;
    }

    fn get(&self) -> f64 {
        // Infinite sums lose "not a number".
        if self.lost.is_finite() {
            self.sum + self.lost
        } else {
            self.sum
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(values: &[Value]) -> Rollup {
        let mut cells = Cells::of(&values[0]);
        values[1..].iter().for_each(|value| cells.push(value));
        let ts: Vec<i64> = (0..values.len() as i64).map(|i| 60_000 + i).collect();
        let mut rollups = rollups(&ts, &cells, 60_000);
        assert_eq!(rollups.len(), 1);
        rollups.remove(0)
    }

    fn floats(values: &[f64]) -> Vec<Value> {
        values.iter().map(|&x| Value::Float(x)).collect()
    }

    #[test]
    fn decimals_are_added_as_decimals() {
        let made = one(&floats(&[0.1, 0.2, 0.05]));
        assert_eq!(made.sum, Some(Value::Float(0.35)));
        assert_eq!(made.increase, 0.15);
        assert_eq!(made.min, Some(Value::Float(0.05)));
        assert_eq!(made.max, Some(Value::Float(0.2)));
    }

    #[test]
    fn a_counter_that_falls_began_anew() {
        let integers: Vec<Value> = [5, 9, 2, 4].into_iter().map(Value::Integer).collect();
        assert_eq!(one(&integers).increase, 8.0);
        assert_eq!(one(&floats(&[5.5, 9.0, 2.25, 4.0])).increase, 7.5);
    }

    #[test]
    fn integers_stay_integers_as_long_as_they_fit() {
        let sum = |values: &[i64]| {
            let values: Vec<Value> = values.iter().map(|&x| Value::Integer(x)).collect();
            one(&values).sum.unwrap()
        };
        assert_eq!(
            sum(&[i64::MAX, i64::MIN, 5]),
            Value::Integer(4),
            "not by way of floats"
        );
        assert_eq!(sum(&[i64::MAX, 1]), Value::Float(i64::MAX as f64));
    }

    #[test]
    fn texts_count_but_are_no_numbers() {
        let made = one(&[
            Value::Text("up".into()),
            Value::Boolean(true),
            Value::Text("down".into()),
        ]);
        assert_eq!((made.count, made.numbers), (3, 1));
        assert_eq!(made.sum, Some(Value::Integer(1)));
        assert_eq!(made.last, Value::Text("down".into()));
        let made = one(&[Value::Text("up".into())]);
        assert_eq!((made.min, made.sum, made.increase), (None, None, 0.0));
    }

    #[test]
    fn what_is_no_decimal_is_added_as_floats() {
        let third = 1.0 / 3.0;
        assert_eq!(
            one(&floats(&[third, third, third])).sum,
            Some(Value::Float(1.0))
        );
        let made = one(&floats(&[f64::NAN, 1.0, f64::INFINITY]));
        assert_eq!(made.min, Some(Value::Float(1.0)));
        assert_eq!(made.max, Some(Value::Float(f64::INFINITY)));
    }

    #[test]
    fn each_bucket_has_its_own() {
        let cells = Cells::Integer(vec![1, 2, 3]);
        let made = rollups(&[-1, 0, 60_000], &cells, 60_000);
        let starts: Vec<i64> = made.iter().map(|r| r.ts.0).collect();
        assert_eq!(starts, [-60_000, 0, 60_000]);
        assert_eq!(made[0].first_ts, TimestampMs(-1));
    }
}
