//! Long columns: presence and values of one series in one chunk of a day file, each in the shortest of a few exact forms.
//!
//! Every value comes back bit for bit, as from `store/column`, whose forms suit a few hundred values; these suit thousands.
//!
//! | tag | values | bytes behind the tag, for n values |
//! |---|---|---|
//! | 0 | constant | one tagged value (`store/column`) that stands for all |
//! | 1 | short | packed bytes (`pack`) that hold a column of floats of `store/column` |
//! | 2 | decimals | a byte: digits d behind the point; then value × 10^d (`numbers`), which divided by 10^d gives back each bit |
//! | 3 | integers | `numbers` |
//! | 4 | floats | varint length; that many bytes: pco's wrapped format (f64) |
//! | 5 | runs of floats | varint: number of runs r; r lengths less one (`numbers`); r values, as 1, 2 or 4 |
//! | 6 | booleans | as 0 and 1 (`numbers`) |
//! | 7 | bits | booleans: packed bytes, a bit for each, lowest first |
//! | 8 | texts | packed bytes: the distinct texts, each as varint length and bytes; then which of them, from 0 (`numbers`) |
//! | 9 | mixed | types (`numbers`): 0 float, 1 integer, 2 boolean, 3 text; then for each type that is there a column of its values, in order of type |
//!
//! | tag | presence | bytes behind the tag |
//! |---|---|---|
//! | 0 | a run | varints: values, first row |
//! | 1 | bits | packed bytes: a bit for each row, lowest first |
//! | 2 | runs | varint: how many; then their lengths (`numbers`): absent, present, absent, … from the first row on |
//!
//! Where all rows have a value, no presence is written.

use std::collections::HashMap;

use devmon_core::Value;
use devmon_core::tree::MAX_TEXT_BYTES;
use pco::DeltaSpec;

use super::numbers::{self, get_pco, keep_shorter, pco_bytes};
use super::pack;
use crate::store::column::{Cells, as_decimals, get_bits, get_value, put_bits, put_value, scale};
use crate::store::varint::{Cursor, Malformed, put_bytes, put_u64};

const CONSTANT: u8 = 0;
const SHORT: u8 = 1;
const DECIMALS: u8 = 2;
const INTEGERS: u8 = 3;
const FLOATS: u8 = 4;
const FLOAT_RUNS: u8 = 5;
const BOOLEANS: u8 = 6;
const BITS: u8 = 7;
const TEXTS: u8 = 8;
const MIXED: u8 = 9;

const PRESENT_RUN: u8 = 0;
const PRESENT_BITS: u8 = 1;
const PRESENT_RUNS: u8 = 2;

/// Up to so many floats the forms of `store/column` are tried too.
const MOST_FOR_SHORT: usize = 1024;
/// A value in [`SHORT`]: a tag and 8 bytes.
const SHORT_VALUE_BYTES: usize = 9;

/// Appends a column; it must have a value.
pub(super) fn put(out: &mut Vec<u8>, cells: &Cells) {
    match cells {
        Cells::Float(values) => put_floats(out, values),
        Cells::Integer(values) => {
            out.push(INTEGERS);
            numbers::put(out, values);
        }
        Cells::Boolean(values) => {
            let mut best = vec![BOOLEANS];
            let as_numbers: Vec<i64> = values.iter().map(|&x| i64::from(x)).collect();
            numbers::put(&mut best, &as_numbers);
            let mut bits = Vec::new();
            put_bits(&mut bits, values.iter().copied());
            let mut other = vec![BITS];
            pack::put(&mut other, &bits);
            keep_shorter(&mut best, other);
            out.extend_from_slice(&best);
        }
        Cells::Mixed(values) => put_mixed(out, values),
    }
}

/// Reads a column of `n` values; `n` must be bounded by the caller.
pub(super) fn get(from: &mut Cursor<'_>, n: usize) -> Result<Cells, Malformed> {
    Ok(match from.u8()? {
        CONSTANT => match get_value(from)? {
            Value::Float(x) => Cells::Float(vec![x; n]),
            Value::Integer(x) => Cells::Integer(vec![x; n]),
            Value::Boolean(x) => Cells::Boolean(vec![x; n]),
            Value::Text(x) => Cells::Mixed(vec![Value::Text(bounded(&x)?.to_owned()); n]),
        },
        tag @ (SHORT | DECIMALS | FLOATS) => Cells::Float(get_dense_floats(tag, from, n)?),
        INTEGERS => Cells::Integer(numbers::get(from, n)?),
        FLOAT_RUNS => Cells::Float(get_float_runs(from, n)?),
        BOOLEANS => Cells::Boolean(numbers::get(from, n)?.iter().map(|&x| x != 0).collect()),
        BITS => {
            let bits = pack::unpack(from, n.div_ceil(8))?;
            Cells::Boolean(get_bits(&mut Cursor(&bits), n)?)
        }
        TEXTS => Cells::Mixed(get_texts(from, n)?),
        MIXED => Cells::Mixed(get_mixed(from, n)?),
        _ => return Err(Malformed("unknown form of a column")),
    })
}

fn put_floats(out: &mut Vec<u8>, values: &[f64]) {
    let same = |a: &f64, b: &f64| a.to_bits() == b.to_bits();
    let runs = values.chunk_by(same).count();
    if runs == 1 {
        out.push(CONSTANT);
        put_value(out, &Value::Float(values[0]));
        return;
    }
    let mut best = Vec::new();
    put_dense_floats(&mut best, values);
    // Decimals know runs themselves.
    if best.first() != Some(&DECIMALS) && runs <= values.len() / 3 {
        let (lengths, firsts): (Vec<i64>, Vec<f64>) = values
            .chunk_by(same)
            .map(|run| (run.len() as i64 - 1, run[0]))
            .unzip();
        let mut other = vec![FLOAT_RUNS];
        put_u64(&mut other, runs as u64);
        numbers::put(&mut other, &lengths);
        put_dense_floats(&mut other, &firsts);
        keep_shorter(&mut best, other);
    }
    out.extend_from_slice(&best);
}

fn put_dense_floats(out: &mut Vec<u8>, values: &[f64]) {
    if let Some((digits, scaled)) = as_decimals(values) {
        out.extend_from_slice(&[DECIMALS, digits]);
        numbers::put(out, &scaled);
        return;
    }
    let mut best = Vec::new();
    if let Some(bytes) = pco_bytes(values, &[DeltaSpec::Auto]) {
        best.push(FLOATS);
        put_bytes(&mut best, &bytes);
    }
    if values.len() <= MOST_FOR_SHORT || best.is_empty() {
        let mut bytes = Vec::new();
        Cells::Float(values.to_vec()).encode(&mut bytes);
        let mut other = vec![SHORT];
        pack::put(&mut other, &bytes);
        keep_shorter(&mut best, other);
    }
    out.extend_from_slice(&best);
}

fn get_dense_floats(tag: u8, from: &mut Cursor<'_>, n: usize) -> Result<Vec<f64>, Malformed> {
    match tag {
        SHORT => {
            let bytes = pack::unpack(from, 1 + n * SHORT_VALUE_BYTES)?;
            match Cells::decode(&mut Cursor(&bytes), n)? {
                Cells::Float(values) => Ok(values),
                _ => Err(Malformed("another type where floats should stand")),
            }
        }
        DECIMALS => {
            let scale = scale(from.u8()?).ok_or(Malformed("too many digits"))?;
            let scaled = numbers::get(from, n)?;
            Ok(scaled.into_iter().map(|m| m as f64 / scale).collect())
        }
        FLOATS => get_pco(from.bytes()?, n),
        _ => Err(Malformed("unknown form of floats")),
    }
}

fn get_float_runs(from: &mut Cursor<'_>, n: usize) -> Result<Vec<f64>, Malformed> {
    let runs = from.count(n)?;
    let lengths = numbers::get(from, runs)?;
    let tag = from.u8()?;
    let firsts = get_dense_floats(tag, from, runs)?;
    let mut values = Vec::with_capacity(n);
    for (length, first) in lengths.into_iter().zip(firsts) {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length >= n - values.len() {
            return Err(Malformed("runs beyond the end"));
        }
        values.resize(values.len() + length + 1, first);
    }
    if values.len() != n {
        return Err(Malformed("runs end too early"));
    }
    Ok(values)
}

fn type_of(value: &Value) -> i64 {
    match value {
        Value::Float(_) => 0,
        Value::Integer(_) => 1,
        Value::Boolean(_) => 2,
        Value::Text(_) => 3,
    }
}

fn put_mixed(out: &mut Vec<u8>, values: &[Value]) {
    let types: Vec<i64> = values.iter().map(type_of).collect();
    if types.iter().all(|&t| t == 3) {
        put_texts(out, values.iter().filter_map(as_text));
        return;
    }
    out.push(MIXED);
    numbers::put(out, &types);
    let (mut floats, mut integers, mut booleans) = (Vec::new(), Vec::new(), Vec::new());
    for value in values {
        match value {
            Value::Float(x) => floats.push(*x),
            Value::Integer(x) => integers.push(*x),
            Value::Boolean(x) => booleans.push(*x),
            Value::Text(_) => {}
        }
    }
    for cells in [
        Cells::Float(floats),
        Cells::Integer(integers),
        Cells::Boolean(booleans),
    ] {
        if !cells.is_empty() {
            put(out, &cells);
        }
    }
    if types.contains(&3) {
        put_texts(out, values.iter().filter_map(as_text));
    }
}

fn get_mixed(from: &mut Cursor<'_>, n: usize) -> Result<Vec<Value>, Malformed> {
    let types = numbers::get(from, n)?;
    let mut columns: [Option<(Cells, usize)>; 4] = [None, None, None, None];
    for (t, column) in (0i64..).zip(&mut columns) {
        let count = types.iter().filter(|&&x| x == t).count();
        if count > 0 {
            if from.0.first() == Some(&MIXED) {
                return Err(Malformed("a mixed column within another"));
            }
            *column = Some((get(from, count)?, 0));
        }
    }
    let mut values = Vec::with_capacity(n);
    for t in types {
        let column = usize::try_from(t).ok().and_then(|t| columns.get_mut(t));
        let Some(Some((cells, next))) = column else {
            return Err(Malformed("unknown type of value"));
        };
        values.push(cells.get(*next));
        *next += 1;
    }
    Ok(values)
}

fn as_text(value: &Value) -> Option<&str> {
    match value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

fn put_texts<'a>(out: &mut Vec<u8>, texts: impl Iterator<Item = &'a str>) {
    let mut distinct = Vec::new();
    let mut count = 0i64;
    let mut index = HashMap::new();
    let which: Vec<i64> = texts
        .map(|text| {
            *index.entry(text).or_insert_with(|| {
                put_bytes(&mut distinct, text.as_bytes());
                count += 1;
                count - 1
            })
        })
        .collect();
    out.push(TEXTS);
    pack::put(out, &distinct);
    numbers::put(out, &which);
}

fn get_texts(from: &mut Cursor<'_>, n: usize) -> Result<Vec<Value>, Malformed> {
    let distinct = pack::unpack(from, n * (MAX_TEXT_BYTES + 2))?;
    let which = numbers::get(from, n)?;
    let mut rest = Cursor(&distinct);
    let mut texts = Vec::new();
    while !rest.0.is_empty() {
        texts.push(bounded(rest.text()?)?);
    }
    let text = |which: i64| {
        let text = usize::try_from(which).ok().and_then(|i| texts.get(i));
        text.map(|text| Value::Text((*text).to_owned()))
    };
    which
        .into_iter()
        .map(|which| text(which).ok_or(Malformed("no such text")))
        .collect()
}

/// A few bytes must not stand for gigabytes: no text was ever taken in that is longer.
fn bounded(text: &str) -> Result<&str, Malformed> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(Malformed("a text beyond its bound"));
    }
    Ok(text)
}

/// Appends which of the rows from `first_row` on, `n` of them, are `present`; nothing if all are.
pub(super) fn put_presence(out: &mut Vec<u8>, present: &[u32], first_row: u32, n: usize) {
    let (Some(&front), Some(&back)) = (present.first(), present.last()) else {
        return;
    };
    if present.len() == n {
        return;
    }
    if (back - front) as usize + 1 == present.len() {
        out.push(PRESENT_RUN);
        put_u64(out, present.len() as u64);
        put_u64(out, u64::from(front - first_row));
        return;
    }
    let mut lengths = Vec::new();
    let mut next = first_row;
    for run in present.chunk_by(|a, b| a + 1 == *b) {
        lengths.push(i64::from(run[0] - next));
        lengths.push(run.len() as i64);
        next = run[0] + run.len() as u32;
    }
    let mut best = vec![PRESENT_RUNS];
    put_u64(&mut best, lengths.len() as u64);
    numbers::put(&mut best, &lengths);
    let mut bits = vec![0u8; n.div_ceil(8)];
    for row in present {
        let row = (row - first_row) as usize;
        bits[row / 8] |= 1 << (row % 8);
    }
    let mut other = vec![PRESENT_BITS];
    pack::put(&mut other, &bits);
    keep_shorter(&mut best, other);
    out.extend_from_slice(&best);
}

/// The rows, counted from 0, of `n` that have a value: strictly ascending.
pub(super) fn get_presence(from: &mut Cursor<'_>, n: usize) -> Result<Vec<u32>, Malformed> {
    let beyond = Malformed("more values than rows");
    let most = u32::try_from(n).map_err(|_| beyond)?;
    if from.0.is_empty() {
        return Ok((0..most).collect());
    }
    match from.u8()? {
        PRESENT_RUN => {
            let (count, first) = (from.count(n)?, from.count(n)?);
            if first + count > n {
                return Err(beyond);
            }
            Ok((first as u32..(first + count) as u32).collect())
        }
        PRESENT_BITS => {
            let bytes = pack::unpack(from, n.div_ceil(8))?;
            let bits = get_bits(&mut Cursor(&bytes), n)?;
            Ok((0..most).filter(|&row| bits[row as usize]).collect())
        }
        PRESENT_RUNS => {
            let count = from.count(n + 1)?;
            let mut present = Vec::new();
            let mut row = 0u32;
            for (i, length) in numbers::get(from, count)?.into_iter().enumerate() {
                let length = u32::try_from(length).map_err(|_| beyond)?;
                let end = row.checked_add(length).filter(|&end| end <= most);
                let end = end.ok_or(beyond)?;
                if i % 2 == 1 {
                    present.extend(row..end);
                }
                row = end;
            }
            Ok(present)
        }
        _ => Err(Malformed("unknown presence")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::column::tests::value;

    fn there_and_back(values: &[Value]) -> usize {
        let mut cells = Cells::of(&values[0]);
        values[1..].iter().for_each(|value| cells.push(value));
        let mut bytes = Vec::new();
        put(&mut bytes, &cells);
        let mut cursor = Cursor(&bytes);
        let back = get(&mut cursor, values.len()).unwrap();
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

    /// Values in runs, mostly of one type.
    fn column() -> impl Strategy<Value = Vec<Value>> {
        let type_of = prop::sample::select(vec![0, 1, 2, 3, 4]);
        (type_of, prop::collection::vec((value(), 1usize..9), 1..120)).prop_map(|(only, runs)| {
            let fits = |value: &Value| only == 4 || super::type_of(value) == only;
            let values: Vec<Value> = runs
                .iter()
                .filter(|(value, _)| fits(value))
                .flat_map(|(value, n)| vec![value.clone(); *n])
                .collect();
            if values.is_empty() {
                vec![runs[0].0.clone()]
            } else {
                values
            }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn values_come_back_bit_for_bit(values in column()) {
            there_and_back(&values);
        }

        #[test]
        fn floats_of_any_bits_come_back(bits in prop::collection::vec(any::<u64>(), 1..300)) {
            let values: Vec<Value> = bits.into_iter().map(|b| Value::Float(f64::from_bits(b))).collect();
            there_and_back(&values);
        }

        #[test]
        fn presence_comes_back(rows in prop::collection::btree_set(1000u32..1200, 1..150)) {
            let rows: Vec<u32> = rows.into_iter().collect();
            let mut bytes = Vec::new();
            put_presence(&mut bytes, &rows, 1000, 200);
            let back = get_presence(&mut Cursor(&bytes), 200).unwrap();
            prop_assert_eq!(back.iter().map(|row| row + 1000).collect::<Vec<_>>(), rows);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64), n in 0usize..200) {
            let read = get(&mut Cursor(&bytes), n);
            prop_assert!(read.is_err() || read.unwrap().len() == n);
            let read = get_presence(&mut Cursor(&bytes), n);
            prop_assert!(read.is_err() || read.unwrap().iter().all(|&row| (row as usize) < n));
        }
    }

    #[test]
    fn special_floats_in_long_columns_keep_their_bits() {
        for special in [-0.0, f64::INFINITY, f64::from_bits(0x7ff0_0000_0000_0002)] {
            let value = |i: i32| {
                if i == 700 {
                    special
                } else {
                    f64::from(i) / 8.0
                }
            };
            let values: Vec<Value> = (0..1500).map(|i| Value::Float(value(i))).collect();
            there_and_back(&values);
        }
    }

    #[test]
    fn a_text_beyond_its_bound_is_refused() {
        let long = "x".repeat(MAX_TEXT_BYTES + 1);
        let mut bytes = Vec::new();
        put(&mut bytes, &Cells::of(&Value::Text(long)));
        assert!(get(&mut Cursor(&bytes), 1).is_err());
    }
}
