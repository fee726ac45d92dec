//! The rollups of one series in one day as bytes: when (often the same for all series of a stream), and what.
//!
//! | when | |
//! |---|---|
//! | varint | number of rollups n |
//! | `numbers` × 4 | starts of the buckets, ms from the start of the day; samples; ms from the start of the bucket to the first, to the last sample |
//!
//! | what | |
//! |---|---|
//! | 1 | how: 0 any values, 1 integers, 2 decimals |
//! | 1 | bits: 1 `numbers` differ from the samples · 2 no last · 4 no min · 8 no max · 16 no sum · 32 no increase · 64 sum is a column · 128 increase is a column |
//! | | if bit 1: numbers (`numbers`) |
//! | | 0: columns (`column`) first, last; min, max, sum: 0/1 for which of them are there (`numbers`), a column of these; increase, a column |
//! | | 1 and 2: a byte for 2: digits d; all that follows is × 10^d, in `numbers`: first; last − first; min(first, last) − min; max − max(first, last); sum − samples × ⌊(min + max) / 2⌋; increase − (last − first). Those whose "no" bit is set are all 0 and not written |
//!
//! Differences wrap around. Constants take a few bytes, counters little more than their first and last values.

use devmon_core::Value;
use devmon_core::wire::TimestampMs;

use super::{column, numbers};
use crate::store::column::{Cells, as_decimals, exact_at, scale};
use crate::store::rollup::Rollup;
use crate::store::varint::{Cursor, Malformed, put_u64};

const ANY: u8 = 0;
const INTEGERS: u8 = 1;
const DECIMALS: u8 = 2;

const NUMBERS_DIFFER: u8 = 1;
const NO_LAST: u8 = 2;
const NO_MIN: u8 = 4;
const NO_MAX: u8 = 8;
const NO_SUM: u8 = 16;
const NO_INCREASE: u8 = 32;
const SUM_IS_COLUMN: u8 = 64;
const INCREASE_IS_COLUMN: u8 = 128;

/// When the samples of a series were.
#[derive(Debug, Clone)]
pub(super) struct When {
    ts: Vec<i64>,
    count: Vec<i64>,
    first: Vec<i64>,
    last: Vec<i64>,
}

/// Bytes of the part that other series may share.
pub(super) fn put_when(out: &mut Vec<u8>, rollups: &[Rollup], day_start: i64) {
    put_u64(out, rollups.len() as u64);
    let mut put = |of: &dyn Fn(&Rollup) -> i64| {
        numbers::put(out, &rollups.iter().map(of).collect::<Vec<_>>());
    };
    put(&|r| r.ts.0.wrapping_sub(day_start));
    put(&|r| r.count as i64);
    put(&|r| r.first_ts.0.wrapping_sub(r.ts.0));
    put(&|r| r.last_ts.0.wrapping_sub(r.ts.0));
}

/// Reads it; at most `most` rollups.
pub(super) fn get_when(
    from: &mut Cursor<'_>,
    day_start: i64,
    most: usize,
) -> Result<When, Malformed> {
    let n = from.count(most)?;
    let mut ts = numbers::get(from, n)?;
    ts.iter_mut().for_each(|t| *t = t.wrapping_add(day_start));
    Ok(When {
        ts,
        count: numbers::get(from, n)?,
        first: numbers::get(from, n)?,
        last: numbers::get(from, n)?,
    })
}

/// All values of the rollups as integers of 10^-digits.
struct Scaled {
    first: Vec<i64>,
    last: Vec<i64>,
    min: Vec<i64>,
    max: Vec<i64>,
}

/// Bytes of the values.
pub(super) fn put_what(out: &mut Vec<u8>, rollups: &[Rollup]) {
    let mut bits = 0;
    let mut body = Vec::new();
    if rollups.iter().any(|r| r.numbers != r.count) {
        bits |= NUMBERS_DIFFER;
        let numbers: Vec<i64> = rollups.iter().map(|r| r.numbers as i64).collect();
        numbers::put(&mut body, &numbers);
    }
    let how = if let Some(scaled) = as_integers(rollups) {
        put_scaled(&mut body, &mut bits, rollups, &scaled, None);
        INTEGERS
    } else if let Some((digits, scaled)) = as_floats(rollups) {
        body.push(digits);
        put_scaled(&mut body, &mut bits, rollups, &scaled, Some(digits));
        DECIMALS
    } else {
        put_values(&mut body, rollups.iter().map(|r| &r.first));
        put_values(&mut body, rollups.iter().map(|r| &r.last));
        put_options(&mut body, rollups.iter().map(|r| r.min.as_ref()));
        put_options(&mut body, rollups.iter().map(|r| r.max.as_ref()));
        put_options(&mut body, rollups.iter().map(|r| r.sum.as_ref()));
        put_increase(&mut body, rollups);
        ANY
    };
    out.extend_from_slice(&[how, bits]);
    out.extend_from_slice(&body);
}

fn as_integers(rollups: &[Rollup]) -> Option<Scaled> {
    let integer = |value: Option<&Value>| match value {
        Some(Value::Integer(x)) => Some(*x),
        _ => None,
    };
    Some(Scaled {
        first: all(rollups, |r| integer(Some(&r.first)))?,
        last: all(rollups, |r| integer(Some(&r.last)))?,
        min: all(rollups, |r| integer(r.min.as_ref()))?,
        max: all(rollups, |r| integer(r.max.as_ref()))?,
    })
}

fn as_floats(rollups: &[Rollup]) -> Option<(u8, Scaled)> {
    let float = |value: Option<&Value>| match value {
        Some(Value::Float(x)) => Some(*x),
        _ => None,
    };
    let mut values = all(rollups, |r| float(Some(&r.first)))?;
    values.extend(all(rollups, |r| float(Some(&r.last)))?);
    values.extend(all(rollups, |r| float(r.min.as_ref()))?);
    values.extend(all(rollups, |r| float(r.max.as_ref()))?);
    let (digits, scaled) = as_decimals(&values)?;
    let mut parts = scaled.chunks(rollups.len()).map(<[i64]>::to_vec);
    let scaled = Scaled {
        first: parts.next()?,
        last: parts.next()?,
        min: parts.next()?,
        max: parts.next()?,
    };
    Some((digits, scaled))
}

fn all<T>(rollups: &[Rollup], of: impl Fn(&Rollup) -> Option<T>) -> Option<Vec<T>> {
    rollups.iter().map(of).collect()
}

/// What the sum would be if the values lay evenly between min and max.
fn even_sum(count: i64, min: i64, max: i64) -> i64 {
    let middle = (i128::from(min) + i128::from(max)) >> 1;
    (i128::from(count).wrapping_mul(middle)) as i64
}

/// `digits`: for floats.
fn put_scaled(
    out: &mut Vec<u8>,
    bits: &mut u8,
    rollups: &[Rollup],
    of: &Scaled,
    digits: Option<u8>,
) {
    let n = rollups.len();
    numbers::put(out, &of.first);
    let mut put = |bit: u8, differences: Vec<i64>| {
        if differences.iter().all(|&x| x == 0) {
            *bits |= bit;
        } else {
            numbers::put(out, &differences);
        }
    };
    let each = |f: &dyn Fn(usize) -> i64| (0..n).map(f).collect::<Vec<i64>>();
    let grown = each(&|i| of.last[i].wrapping_sub(of.first[i]));
    put(NO_LAST, grown.clone());
    put(
        NO_MIN,
        each(&|i| of.first[i].min(of.last[i]).wrapping_sub(of.min[i])),
    );
    put(
        NO_MAX,
        each(&|i| of.max[i].wrapping_sub(of.first[i].max(of.last[i]))),
    );
    let scale = scale(digits.unwrap_or(0)).unwrap_or(1.0);
    let sums = all(rollups, |r| match (&r.sum, digits) {
        (Some(Value::Integer(x)), None) => Some(*x),
        (Some(Value::Float(x)), Some(_)) => exact_at(*x, scale),
        _ => None,
    });
    if let Some(sums) = &sums {
        let even = |i: usize| even_sum(rollups[i].count as i64, of.min[i], of.max[i]);
        put(NO_SUM, each(&|i| sums[i].wrapping_sub(even(i))));
    }
    let increases = all(rollups, |r| exact_at(r.increase, scale));
    if let Some(increases) = &increases {
        put(NO_INCREASE, each(&|i| increases[i].wrapping_sub(grown[i])));
    }
    if sums.is_none() {
        *bits |= SUM_IS_COLUMN;
        put_options(out, rollups.iter().map(|r| r.sum.as_ref()));
    }
    if increases.is_none() {
        *bits |= INCREASE_IS_COLUMN;
        put_increase(out, rollups);
    }
}

fn put_values<'a>(out: &mut Vec<u8>, mut values: impl Iterator<Item = &'a Value>) {
    if let Some(first) = values.next() {
        let mut cells = Cells::of(first);
        values.for_each(|value| cells.push(value));
        column::put(out, &cells);
    }
}

fn put_options<'a>(out: &mut Vec<u8>, values: impl Iterator<Item = Option<&'a Value>> + Clone) {
    let there: Vec<i64> = values.clone().map(|v| i64::from(v.is_some())).collect();
    numbers::put(out, &there);
    put_values(out, values.flatten());
}

fn put_increase(out: &mut Vec<u8>, rollups: &[Rollup]) {
    let increases = rollups.iter().map(|r| r.increase).collect();
    column::put(out, &Cells::Float(increases));
}

/// Reads the rollups of a series.
pub(super) fn get_what(
    from: &mut Cursor<'_>,
    when: &When,
) -> Result<impl Iterator<Item = Rollup>, Malformed> {
    let n = when.ts.len();
    let (how, bits) = (from.u8()?, from.u8()?);
    let counts = if bits & NUMBERS_DIFFER == 0 {
        when.count.clone()
    } else {
        numbers::get(from, n)?
    };
    let what = match how {
        ANY => What {
            first: get_values(from, n)?,
            last: get_values(from, n)?,
            min: get_options(from, n)?,
            max: get_options(from, n)?,
            sum: get_options(from, n)?,
            increase: get_floats(from, n)?,
        },
        INTEGERS => get_scaled(from, bits, when, None)?,
        DECIMALS => {
            let digits = from.u8()?;
            get_scaled(from, bits, when, Some(digits))?
        }
        _ => return Err(Malformed("unknown form of rollups")),
    };
    let When {
        ts,
        count,
        first,
        last,
    } = when.clone();
    Ok((0..n).map(move |i| Rollup {
        ts: TimestampMs(ts[i]),
        count: count[i] as u64,
        numbers: counts[i] as u64,
        min: what.min.get(i),
        max: what.max.get(i),
        sum: what.sum.get(i),
        first: what.first.get(i),
        first_ts: TimestampMs(ts[i].wrapping_add(first[i])),
        last: what.last.get(i),
        last_ts: TimestampMs(ts[i].wrapping_add(last[i])),
        increase: what.increase[i],
    }))
}

struct What {
    first: Cells,
    last: Cells,
    min: Options,
    max: Options,
    sum: Options,
    increase: Vec<f64>,
}

/// Values of which some may be missing.
struct Options {
    /// The place of each among the values; empty: all are there.
    at: Vec<Option<usize>>,
    cells: Option<Cells>,
}

impl Options {
    fn all(cells: Cells) -> Self {
        Self {
            at: Vec::new(),
            cells: Some(cells),
        }
    }

    fn get(&self, i: usize) -> Option<Value> {
        let at = if self.at.is_empty() {
            Some(i)
        } else {
            self.at[i]
        };
        self.cells.as_ref().and_then(|cells| Some(cells.get(at?)))
    }
}

fn get_values(from: &mut Cursor<'_>, n: usize) -> Result<Cells, Malformed> {
    if n == 0 {
        return Ok(Cells::Float(Vec::new()));
    }
    column::get(from, n)
}

fn get_options(from: &mut Cursor<'_>, n: usize) -> Result<Options, Malformed> {
    let mut present = 0;
    let mut place = |there: i64| {
        (there != 0).then(|| {
            present += 1;
            present - 1
        })
    };
    let at = numbers::get(from, n)?.into_iter().map(&mut place).collect();
    let cells = match present {
        0 => None,
        n => Some(column::get(from, n)?),
    };
    Ok(Options { at, cells })
}

fn get_floats(from: &mut Cursor<'_>, n: usize) -> Result<Vec<f64>, Malformed> {
    match get_values(from, n)? {
        Cells::Float(values) => Ok(values),
        _ => Err(Malformed("another type where floats should stand")),
    }
}

/// `digits`: for floats.
fn get_scaled(
    from: &mut Cursor<'_>,
    bits: u8,
    when: &When,
    digits: Option<u8>,
) -> Result<What, Malformed> {
    let n = when.ts.len();
    let scale = scale(digits.unwrap_or(0)).ok_or(Malformed("too many digits"))?;
    let first = numbers::get(from, n)?;
    let mut differences = |bit: u8| {
        if bits & bit == 0 {
            numbers::get(from, n)
        } else {
            Ok(vec![0; n])
        }
    };
    let each = |f: &dyn Fn(usize) -> i64| (0..n).map(f).collect::<Vec<i64>>();
    let grown = differences(NO_LAST)?;
    let last = each(&|i| first[i].wrapping_add(grown[i]));
    let below = differences(NO_MIN)?;
    let min = each(&|i| first[i].min(last[i]).wrapping_sub(below[i]));
    let above = differences(NO_MAX)?;
    let max = each(&|i| first[i].max(last[i]).wrapping_add(above[i]));
    let mut sum = None;
    if bits & SUM_IS_COLUMN == 0 {
        let beside = differences(NO_SUM)?;
        sum = Some(each(&|i| {
            even_sum(when.count[i], min[i], max[i]).wrapping_add(beside[i])
        }));
    }
    let mut increase = None;
    if bits & INCREASE_IS_COLUMN == 0 {
        let beside = differences(NO_INCREASE)?;
        increase = Some(each(&|i| grown[i].wrapping_add(beside[i])));
    }
    let floats = |scaled: Vec<i64>| scaled.iter().map(|&m| m as f64 / scale).collect();
    let cells = |scaled: Vec<i64>| match digits {
        None => Cells::Integer(scaled),
        Some(_) => Cells::Float(floats(scaled)),
    };
    Ok(What {
        first: cells(first),
        last: cells(last),
        min: Options::all(cells(min)),
        max: Options::all(cells(max)),
        sum: match sum {
            Some(sum) => Options::all(cells(sum)),
            None => get_options(from, n)?,
        },
        increase: match increase {
            Some(increase) => floats(increase),
            None => get_floats(from, n)?,
        },
    })
}
