//! The values of one series, in order: in memory typed and dense, on disk in the shortest of a few exact codecs.
//!
//! Every value comes back bit for bit: `-0.0`, all of i64, and the difference between `1` and `1.0`. A column whose values are of one type is held as such; a
//! publisher that sends `1` and then `1.5` makes it [`Cells::Mixed`].
//!
//! | tag | codec | bytes behind the tag, for n values |
//! |---|---|---|
//! | 0 | constant | one tagged value (below) that stands for all |
//! | 1 | float, XOR | for each: a byte with zero bytes in front (high 4 bits) and meaningful bytes (low 4 bits) of the XOR with the value before; those bytes, most significant first |
//! | 2 | float, decimal | a byte: digits d behind the point; then an integer series of value × 10^d, which divided by 10^d gives back each bit |
//! | 3 | integer | an integer series |
//! | 4 | boolean | a bit for each, lowest bit first |
//! | 5 | text | varint: number of distinct texts; each as varint length and bytes; then runs: varint index, varint length of the run |
//! | 6 | mixed | n tagged values |
//!
//! An integer series is a byte, 1 or 2: how often differences were taken; then n zigzag varints of what is left (differences wrap around).
//! A tagged value is a byte and: 0 float, 8 bytes little-endian; 1 integer, zigzag varint; 2 false; 3 true; 4 text, varint length and bytes.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use devmon_core::Value;

use super::varint::{Cursor, Malformed, put_bytes, put_i64, put_u64};

const CONSTANT: u8 = 0;
const FLOAT_XOR: u8 = 1;
const FLOAT_DECIMAL: u8 = 2;
const INTEGER: u8 = 3;
const BOOLEAN: u8 = 4;
const TEXT: u8 = 5;
const MIXED: u8 = 6;

/// Most digits behind the point that are tried; utilizations and loads have up to 4, sums of such a few more.
pub(super) const MAX_DIGITS: u8 = 12;
/// Integers below are exact in an f64.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Values of one column, without the times.
#[derive(Debug, Clone, PartialEq)]
pub enum Cells {
    Float(Vec<f64>),
    Integer(Vec<i64>),
    Boolean(Vec<bool>),
    /// Texts, or values of several types.
    Mixed(Vec<Value>),
}

impl Default for Cells {
    /// No values; the first one gives the type.
    fn default() -> Self {
        Self::Mixed(Vec::new())
    }
}

impl FromIterator<Value> for Cells {
    fn from_iter<I: IntoIterator<Item = Value>>(values: I) -> Self {
        let mut cells = Self::default();
        values.into_iter().for_each(|value| cells.push(&value));
        cells
    }
}

impl Cells {
    /// A column with its first value.
    #[must_use]
    pub fn of(value: &Value) -> Self {
        match value {
            Value::Float(x) => Self::Float(vec![*x]),
            Value::Integer(x) => Self::Integer(vec![*x]),
            Value::Boolean(x) => Self::Boolean(vec![*x]),
            Value::Text(_) => Self::Mixed(vec![value.clone()]),
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Float(v) => v.len(),
            Self::Integer(v) => v.len(),
            Self::Boolean(v) => v.len(),
            Self::Mixed(v) => v.len(),
        }
    }

    /// The value at `i`, which must be below [`len`](Self::len).
    #[must_use]
    pub fn get(&self, i: usize) -> Value {
        match self {
            Self::Float(v) => Value::Float(v[i]),
            Self::Integer(v) => Value::Integer(v[i]),
            Self::Boolean(v) => Value::Boolean(v[i]),
            Self::Mixed(v) => v[i].clone(),
        }
    }

    /// As [`get`](Self::get), without a copy of a text.
    #[must_use]
    pub fn peek(&self, i: usize) -> Cow<'_, Value> {
        match self {
            Self::Mixed(v) => Cow::Borrowed(&v[i]),
            typed => Cow::Owned(typed.get(i)),
        }
    }

    /// What the values take in memory; room that is kept for more is not counted.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Float(v) => size_of_val(&v[..]),
            Self::Integer(v) => size_of_val(&v[..]),
            Self::Boolean(v) => size_of_val(&v[..]),
            Self::Mixed(v) => {
                let texts = v.iter().map(|value| match value {
                    Value::Text(text) => text.len(),
                    _ => 0,
                });
                size_of_val(&v[..]) + texts.sum::<usize>()
            }
        }
    }

    pub fn push(&mut self, value: &Value) {
        if self.is_empty() {
            *self = Self::of(value);
            return;
        }
        match (&mut *self, value) {
            (Self::Float(v), Value::Float(x)) => v.push(*x),
            (Self::Integer(v), Value::Integer(x)) => v.push(*x),
            (Self::Boolean(v), Value::Boolean(x)) => v.push(*x),
            (Self::Mixed(v), value) => v.push(value.clone()),
            _ => self.mix().push(value.clone()),
        }
    }

    /// Becomes a column of this one value; the room is kept where it fits.
    pub(super) fn restart(&mut self, value: &Value) {
        match (&mut *self, value) {
            (Self::Float(v), Value::Float(_)) => v.clear(),
            (Self::Integer(v), Value::Integer(_)) => v.clear(),
            (Self::Boolean(v), Value::Boolean(_)) => v.clear(),
            _ => return *self = Self::of(value),
        }
        self.push(value);
    }

    /// Replaces the last value.
    pub(super) fn replace_last(&mut self, value: &Value) {
        match self {
            Self::Float(v) => drop(v.pop()),
            Self::Integer(v) => drop(v.pop()),
            Self::Boolean(v) => drop(v.pop()),
            Self::Mixed(v) => drop(v.pop()),
        }
        self.push(value);
    }

    /// Appends the values at `range` of another column.
    pub fn append(&mut self, other: &Self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        if self.is_empty() {
            *self = match other {
                Self::Float(v) => Self::Float(v[range].to_vec()),
                Self::Integer(v) => Self::Integer(v[range].to_vec()),
                Self::Boolean(v) => Self::Boolean(v[range].to_vec()),
                Self::Mixed(v) => Self::Mixed(v[range].to_vec()),
            };
            return;
        }
        match (&mut *self, other) {
            (Self::Float(v), Self::Float(w)) => v.extend_from_slice(&w[range]),
            (Self::Integer(v), Self::Integer(w)) => v.extend_from_slice(&w[range]),
            (Self::Boolean(v), Self::Boolean(w)) => v.extend_from_slice(&w[range]),
            (Self::Mixed(v), other) => v.extend(range.map(|i| other.get(i))),
            (_, other) => self.mix().extend(range.map(|i| other.get(i))),
        }
    }

    /// Leaves out what is behind the first `len` values.
    pub fn truncate(&mut self, len: usize) {
        match self {
            Self::Float(v) => v.truncate(len),
            Self::Integer(v) => v.truncate(len),
            Self::Boolean(v) => v.truncate(len),
            Self::Mixed(v) => v.truncate(len),
        }
    }

    fn mix(&mut self) -> &mut Vec<Value> {
        let mixed = (0..self.len()).map(|i| self.get(i)).collect();
        *self = Self::Mixed(mixed);
        match self {
            Self::Mixed(v) => v,
            _ => unreachable!("it was made mixed just now"),
        }
    }

    /// The values at `at`, in that order.
    #[must_use]
    pub fn gather(&self, at: &[u32]) -> Self {
        fn pick<T: Clone>(from: &[T], at: &[u32]) -> Vec<T> {
            at.iter().map(|&i| from[i as usize].clone()).collect()
        }
        match self {
            Self::Float(v) => Self::Float(pick(v, at)),
            Self::Integer(v) => Self::Integer(pick(v, at)),
            Self::Boolean(v) => Self::Boolean(pick(v, at)),
            Self::Mixed(v) => Self::Mixed(pick(v, at)),
        }
    }

    /// Appends the column in its shortest codec. There must be at least one value.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        if self.is_constant() {
            out.push(CONSTANT);
            put_value(out, &self.get(0));
            return;
        }
        match self {
            Self::Float(v) => put_floats(out, v),
            Self::Integer(v) => {
                out.push(INTEGER);
                put_series(out, v);
            }
            Self::Boolean(v) => {
                out.push(BOOLEAN);
                put_bits(out, v.iter().copied());
            }
            Self::Mixed(v) => put_mixed(out, v),
        }
    }

    fn is_constant(&self) -> bool {
        match self {
            Self::Float(v) => v.windows(2).all(|w| w[0].to_bits() == w[1].to_bits()),
            Self::Integer(v) => v.windows(2).all(|w| w[0] == w[1]),
            Self::Boolean(v) => v.windows(2).all(|w| w[0] == w[1]),
            Self::Mixed(v) => v.windows(2).all(|w| w[0].same_bits(&w[1])),
        }
    }

    /// Reads a column of `n` values; `n` must be bounded by the caller.
    pub(super) fn decode(from: &mut Cursor<'_>, n: usize) -> Result<Self, Malformed> {
        Ok(match from.u8()? {
            CONSTANT => match get_value(from)? {
                Value::Float(x) => Self::Float(vec![x; n]),
                Value::Integer(x) => Self::Integer(vec![x; n]),
                Value::Boolean(x) => Self::Boolean(vec![x; n]),
                text => Self::Mixed(vec![text; n]),
            },
            FLOAT_XOR => Self::Float(get_xor(from, n)?),
            FLOAT_DECIMAL => {
                let digits = from.u8()?;
                let scale = scale(digits).ok_or(Malformed("too many digits"))?;
                let series = get_series(from, n)?;
                Self::Float(series.into_iter().map(|m| m as f64 / scale).collect())
            }
            INTEGER => Self::Integer(get_series(from, n)?),
            BOOLEAN => Self::Boolean(get_bits(from, n)?),
            TEXT => Self::Mixed(get_texts(from, n)?),
            MIXED => Self::Mixed((0..n).map(|_| get_value(from)).collect::<Result<_, _>>()?),
            _ => return Err(Malformed("unknown column codec")),
        })
    }
}

fn put_floats(out: &mut Vec<u8>, values: &[f64]) {
    if let Some((digits, series)) = as_decimals(values) {
        out.extend_from_slice(&[FLOAT_DECIMAL, digits]);
        put_series(out, &series);
        return;
    }
    out.push(FLOAT_XOR);
    let mut before = 0;
    for x in values {
        let xor = x.to_bits() ^ before;
        before = x.to_bits();
        let front = (xor.leading_zeros() / 8) as usize; // 8 for no change at all
        let back = if xor == 0 {
            0
        } else {
            (xor.trailing_zeros() / 8) as usize
        };
        let meaningful = 8 - front - back;
        out.push((front << 4 | meaningful) as u8);
        out.extend_from_slice(&xor.to_be_bytes()[front..front + meaningful]);
    }
}

fn get_xor(from: &mut Cursor<'_>, n: usize) -> Result<Vec<f64>, Malformed> {
    let mut before = 0;
    let mut values = Vec::with_capacity(n.min(from.0.len()));
    for _ in 0..n {
        let shape = from.u8()?;
        let (front, meaningful) = (usize::from(shape >> 4), usize::from(shape & 15));
        if front + meaningful > 8 {
            return Err(Malformed("more than 8 bytes of a float"));
        }
        let mut xor = [0; 8];
        xor[front..front + meaningful].copy_from_slice(from.take(meaningful)?);
        before ^= u64::from_be_bytes(xor);
        values.push(f64::from_bits(before));
    }
    Ok(values)
}

/// The column as integers and the digits behind their point, if that gives back each bit.
pub(super) fn as_decimals(values: &[f64]) -> Option<(u8, Vec<i64>)> {
    let mut digits = 0;
    for &x in values {
        while exact_at(x, scale(digits)?).is_none() {
            digits += 1;
        }
    }
    let scale = scale(digits)?;
    let series = values
        .iter()
        .map(|&x| exact_at(x, scale))
        .collect::<Option<_>>()?;
    Some((digits, series))
}

/// The float as an integer of 1/`scale`, if that gives back each bit.
pub(super) fn exact_at(x: f64, scale: f64) -> Option<i64> {
    let scaled = (x * scale).round();
    // As the reader will compute it, and the bits decide: -0.0 comes back as 0.0, so it is none.
    let m = scaled as i64;
    (scaled.abs() < EXACT && (m as f64 / scale).to_bits() == x.to_bits()).then_some(m)
}

pub(super) fn scale(digits: u8) -> Option<f64> {
    (digits <= MAX_DIGITS).then(|| 10f64.powi(digits.into()))
}

/// Appends an integer series: differences, or differences of differences where those are shorter (counters, clocks).
pub(super) fn put_series(out: &mut Vec<u8>, values: &[i64]) {
    let begin = out.len();
    out.push(1);
    let mut before = 0i64;
    for &x in values {
        put_i64(out, x.wrapping_sub(before));
        before = x;
    }
    let once = out.len() - begin;
    out.push(2);
    let (mut before, mut step) = (0i64, 0i64);
    for &x in values {
        let this = x.wrapping_sub(before);
        put_i64(out, this.wrapping_sub(step));
        (before, step) = (x, this);
    }
    if out.len() - begin - once < once {
        out.drain(begin..begin + once);
    } else {
        out.truncate(begin + once);
    }
}

pub(super) fn get_series(from: &mut Cursor<'_>, n: usize) -> Result<Vec<i64>, Malformed> {
    let order = from.u8()?;
    let mut values = Vec::with_capacity(n.min(from.0.len()));
    let (mut before, mut step) = (0i64, 0i64);
    for _ in 0..n {
        step = match order {
            1 => from.i64()?,
            2 => step.wrapping_add(from.i64()?),
            _ => return Err(Malformed("unknown order of differences")),
        };
        before = before.wrapping_add(step);
        values.push(before);
    }
    Ok(values)
}

pub(super) fn put_bits(out: &mut Vec<u8>, bits: impl Iterator<Item = bool>) {
    for (i, bit) in bits.enumerate() {
        if i % 8 == 0 {
            out.push(0);
        }
        if let Some(last) = out.last_mut() {
            *last |= u8::from(bit) << (i % 8);
        }
    }
}

pub(super) fn get_bits(from: &mut Cursor<'_>, n: usize) -> Result<Vec<bool>, Malformed> {
    let bytes = from.take(n.div_ceil(8))?;
    Ok((0..n).map(|i| bytes[i / 8] >> (i % 8) & 1 == 1).collect())
}

fn put_mixed(out: &mut Vec<u8>, values: &[Value]) {
    let texts: Option<Vec<&str>> = values.iter().map(as_text).collect();
    let Some(texts) = texts else {
        out.push(MIXED);
        values.iter().for_each(|value| put_value(out, value));
        return;
    };
    out.push(TEXT);
    let mut distinct = Vec::new();
    let mut index = HashMap::new();
    for text in &texts {
        index.entry(*text).or_insert_with(|| {
            distinct.push(*text);
            distinct.len() - 1
        });
    }
    put_u64(out, distinct.len() as u64);
    distinct
        .iter()
        .for_each(|text| put_bytes(out, text.as_bytes()));
    for run in texts.chunk_by(|a, b| a == b) {
        put_u64(out, index[run[0]] as u64);
        put_u64(out, run.len() as u64);
    }
}

fn as_text(value: &Value) -> Option<&str> {
    match value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

fn get_texts(from: &mut Cursor<'_>, n: usize) -> Result<Vec<Value>, Malformed> {
    let count = from.count(from.0.len())?;
    let texts = (0..count)
        .map(|_| from.text())
        .collect::<Result<Vec<_>, _>>()?;
    let mut values = Vec::new();
    while values.len() < n {
        let index = from.count(texts.len())?;
        let text = texts.get(index).ok_or(Malformed("no such text"))?;
        let run = from.count(n - values.len())?;
        if run == 0 {
            return Err(Malformed("an empty run"));
        }
        values.extend((0..run).map(|_| Value::Text((*text).to_owned())));
    }
    Ok(values)
}

/// Appends a value with its type.
pub(super) fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Float(x) => {
            out.push(0);
            out.extend_from_slice(&x.to_bits().to_le_bytes());
        }
        Value::Integer(x) => {
            out.push(1);
            put_i64(out, *x);
        }
        Value::Boolean(x) => out.push(2 + u8::from(*x)),
        Value::Text(x) => {
            out.push(4);
            put_bytes(out, x.as_bytes());
        }
    }
}

pub(super) fn get_value(from: &mut Cursor<'_>) -> Result<Value, Malformed> {
    Ok(match from.u8()? {
        0 => Value::Float(f64::from_bits(u64::from_le_bytes(from.array()?))),
        1 => Value::Integer(from.i64()?),
        2 => Value::Boolean(false),
        3 => Value::Boolean(true),
        4 => Value::Text(from.text()?.to_owned()),
        _ => return Err(Malformed("unknown type of value")),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cells(values: &[Value]) -> Cells {
        let mut cells = Cells::of(&values[0]);
        values[1..].iter().for_each(|value| cells.push(value));
        cells
    }

    fn there_and_back(values: &[Value]) -> usize {
        let mut bytes = Vec::new();
        cells(values).encode(&mut bytes);
        let mut cursor = Cursor(&bytes);
        let back = Cells::decode(&mut cursor, values.len()).unwrap();
        assert!(cursor.0.is_empty(), "bytes are left over");
        assert_eq!(back.len(), values.len());
        for (i, value) in values.iter().enumerate() {
            assert!(
                back.get(i).same_bits(value),
                "{value:?} came back as {:?}",
                back.get(i)
            );
        }
        bytes.len()
    }

    fn float() -> impl Strategy<Value = f64> {
        prop_oneof![
            any::<u64>().prop_map(f64::from_bits), // every NaN and subnormal among them
            (-1_000_000i64..1_000_000, 0i32..6).prop_map(|(m, d)| m as f64 / 10f64.powi(d)),
            prop::sample::select(vec![0.0, -0.0, f64::INFINITY, 1e300, 5e-324, EXACT, -EXACT]),
        ]
    }

    fn integer() -> impl Strategy<Value = i64> {
        prop_oneof![
            any::<i64>(),
            -5i64..5,
            prop::sample::select(vec![i64::MIN, i64::MAX])
        ]
    }

    pub(in crate::store) fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            float().prop_map(Value::Float),
            integer().prop_map(Value::Integer),
            any::<bool>().prop_map(Value::Boolean),
            ".{0,12}".prop_map(Value::Text),
        ]
    }

    proptest! {
        #[test]
        fn floats_come_back_bit_for_bit(values in prop::collection::vec(float().prop_map(Value::Float), 1..80)) {
            there_and_back(&values);
        }

        #[test]
        fn integers_come_back(values in prop::collection::vec(integer().prop_map(Value::Integer), 1..80)) {
            there_and_back(&values);
        }

        #[test]
        fn booleans_come_back(values in prop::collection::vec(any::<bool>().prop_map(Value::Boolean), 1..80)) {
            there_and_back(&values);
        }

        #[test]
        fn texts_come_back(values in prop::collection::vec("[ab]{0,2}".prop_map(Value::Text), 1..80)) {
            there_and_back(&values);
        }

        #[test]
        fn mixed_values_come_back(values in prop::collection::vec(value(), 1..80)) {
            there_and_back(&values);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64), n in 0usize..200) {
            let read = Cells::decode(&mut Cursor(&bytes), n);
            prop_assert!(read.is_err() || read.unwrap().len() == n);
        }
    }

    #[test]
    fn zero_and_minus_zero_stay_apart() {
        there_and_back(&[Value::Float(0.0), Value::Float(-0.0), Value::Float(0.5)]);
        there_and_back(&[Value::Float(-0.0), Value::Float(-0.0)]);
    }

    #[test]
    fn one_and_one_point_five_of_one_publisher_keep_their_types() {
        there_and_back(&[
            Value::Integer(1),
            Value::Float(1.5),
            Value::Float(1.0),
            Value::Boolean(true),
        ]);
    }

    #[test]
    fn usual_columns_are_short() {
        let column =
            |f: &dyn Fn(i64) -> Value| there_and_back(&(0..1000).map(f).collect::<Vec<_>>());
        assert!(column(&|_| Value::Float(0.1)) < 12, "constant");
        assert!(
            column(&|i| Value::Integer(1_000_000 + i * 4096)) < 1020,
            "steady counter"
        );
        assert!(
            column(&|i| Value::Float((i * 7 % 100) as f64 / 1000.0)) < 2050,
            "utilization"
        );
        assert!(
            column(&|i| Value::Text(if i < 500 { "up" } else { "down" }.into())) < 30,
            "state"
        );
        assert!(column(&|i| Value::Boolean(i % 3 == 0)) < 130, "boolean");
    }
}
