//! Times and columns as JSON and as CSV, written piece by piece from the numbers ([`large`](super::large)).
//!
//! JSON goes column by column, and a column is freed when it is written. CSV goes row by row; of several groups of columns one behind the other, and a group is freed when it is written.

use std::hash::{DefaultHasher, Hasher};
use std::io;

use devmon_core::wire::json::ValueJson;
use serde::Serialize;

use super::csv::Cells;
use super::large::Pieces;
use crate::query::column::{Column, Place};

/// What both forms are written from.
pub(super) struct Sheet {
    t: Vec<i64>,
    columns: Vec<Column>,
    /// Bytes of all that is not freed.
    held: usize,
    freed: usize,
}

impl Sheet {
    /// Each column has one entry for each time.
    pub(super) fn new(t: Vec<i64>, columns: Vec<Column>) -> Self {
        let held = size_of_val(&t[..]) + columns.iter().map(Column::bytes).sum::<usize>();
        Self {
            t,
            columns,
            held,
            freed: 0,
        }
    }

    /// Frees the first columns.
    fn free(&mut self, columns: usize) -> usize {
        for column in self.freed..columns {
            let column = std::mem::take(&mut self.columns[column]);
            self.held -= column.bytes();
        }
        self.freed = self.freed.max(columns);
        self.held
    }

    fn settle(&mut self) {
        self.t = self.t.clone();
        for column in &mut self.columns {
            *column = column.clone();
        }
    }

    fn digest(&self, into: &mut DefaultHasher) {
        into.write_usize(self.t.len());
        self.t.iter().for_each(|&t| into.write_i64(t));
        self.columns.iter().for_each(|column| column.digest(into));
    }
}

/// `{…,"t":[…],"series":[{…,"v":[…]},…],"next_cursor":…}`.
pub(super) struct Json {
    sheet: Sheet,
    /// `{…`: an object that is not closed.
    head: Vec<u8>,
    /// The same, for each column.
    heads: Vec<Vec<u8>>,
    tail: Vec<u8>,
    at: At,
}

/// What is written next.
enum At {
    Head,
    Time(usize),
    /// Of a column the head, or what is at a place.
    Column(usize, Option<Place>),
    End,
}

impl Json {
    /// `head` and `heads` are written as objects with at least one field.
    pub(super) fn new<H: Serialize>(
        head: &impl Serialize,
        heads: impl IntoIterator<Item = H>,
        sheet: Sheet,
        next_cursor: Option<&str>,
    ) -> serde_json::Result<Self> {
        let open = |object: Vec<u8>| {
            debug_assert!(object.len() > 2 && object.ends_with(b"}"));
            let mut open = object;
            open.pop();
            open
        };
        let heads = heads.into_iter();
        let heads = heads.map(|head| serde_json::to_vec(&head).map(open));
        let tail = format!(
            "],\"next_cursor\":{}}}",
            serde_json::to_string(&next_cursor)?
        );
        Ok(Self {
            head: open(serde_json::to_vec(head)?),
            heads: heads.collect::<Result<_, _>>()?,
            sheet,
            tail: tail.into(),
            at: At::Head,
        })
    }
}

impl Pieces for Json {
    fn write(&mut self, out: &mut Vec<u8>, most: usize) -> io::Result<bool> {
        let Sheet { t, columns, .. } = &self.sheet;
        while out.len() < most {
            self.at = match self.at {
                At::Head => {
                    out.extend_from_slice(&self.head);
                    out.extend_from_slice(b",\"t\":[");
                    At::Time(0)
                }
                At::Time(i) => {
                    let mut next = i;
                    while let Some(t) = t.get(next)
                        && out.len() < most
                    {
                        comma(out, next);
                        serde_json::to_writer(&mut *out, t)?;
                        next += 1;
                    }
                    if next < t.len() {
                        At::Time(next)
                    } else {
                        out.extend_from_slice(b"],\"series\":[");
                        At::Column(0, None)
                    }
                }
                At::Column(i, None) => match self.heads.get(i) {
                    Some(head) => {
                        comma(out, i);
                        out.extend_from_slice(head);
                        out.extend_from_slice(b",\"v\":[");
                        At::Column(i, Some(Place::default()))
                    }
                    None => {
                        out.extend_from_slice(&self.tail);
                        At::End
                    }
                },
                At::Column(i, Some(mut place)) => loop {
                    if out.len() >= most {
                        break At::Column(i, Some(place));
                    }
                    let row = place.row();
                    let Some(value) = columns[i].next(&mut place) else {
                        out.extend_from_slice(b"]}");
                        break At::Column(i + 1, None);
                    };
                    comma(out, row);
                    match value {
                        Some(value) => serde_json::to_writer(&mut *out, &ValueJson(&value))?,
                        None => out.extend_from_slice(b"null"),
                    }
                },
                At::End => return Ok(false),
            };
        }
        Ok(!matches!(self.at, At::End))
    }

    fn free(&mut self) -> usize {
        let written = match self.at {
            At::Head | At::Time(_) => 0,
            At::Column(i, _) => i,
            At::End => self.sheet.columns.len(),
        };
        self.sheet.free(written)
    }

    fn settle(&mut self) {
        self.sheet.settle();
    }

    fn digest(&self, into: &mut DefaultHasher) {
        into.write(&self.head);
        self.heads.iter().for_each(|head| into.write(head));
        into.write(&self.tail);
        self.sheet.digest(into);
    }
}

fn comma(out: &mut Vec<u8>, i: usize) {
    if i > 0 {
        out.push(b',');
    }
}

/// A row for each group and time: what the group is called, the time, a cell for each of its columns.
pub(super) struct Csv {
    sheet: Sheet,
    header: Vec<String>,
    groups: Vec<Vec<String>>,
    /// Columns of a group.
    width: usize,
    header_is_written: bool,
    group: usize,
    row: usize,
    places: Vec<Place>,
}

impl Csv {
    /// As many columns for each group. `header` names what a group is called by, the time, and the columns of one.
    pub(super) fn new(header: Vec<String>, groups: Vec<Vec<String>>, sheet: Sheet) -> Self {
        let width = sheet.columns.len() / groups.len().max(1);
        Self {
            places: vec![Place::default(); width],
            sheet,
            header,
            groups,
            width,
            header_is_written: false,
            group: 0,
            row: 0,
        }
    }
}

impl Pieces for Csv {
    fn write(&mut self, out: &mut Vec<u8>, most: usize) -> io::Result<bool> {
        let mut cells = Cells::behind(std::mem::take(out));
        if !self.header_is_written {
            self.header_is_written = true;
            self.header.iter().for_each(|name| cells.text(name));
            cells.end();
        }
        while cells.written() < most && self.group < self.groups.len() {
            let Some(t) = self.sheet.t.get(self.row) else {
                self.group += 1;
                self.row = 0;
                self.places.fill(Place::default());
                continue;
            };
            self.groups[self.group]
                .iter()
                .for_each(|name| cells.text(name));
            cells.number(*t);
            let columns = &self.sheet.columns[self.group * self.width..];
            for (column, place) in columns.iter().zip(&mut self.places) {
                cells.value(column.next(place).flatten().as_deref());
            }
            cells.end();
            self.row += 1;
        }
        *out = cells.into_bytes()?;
        Ok(self.group < self.groups.len())
    }

    fn free(&mut self) -> usize {
        self.sheet.free(self.group * self.width)
    }

    fn settle(&mut self) {
        self.sheet.settle();
    }

    fn digest(&self, into: &mut DefaultHasher) {
        for name in self.header.iter().chain(self.groups.iter().flatten()) {
            into.write(name.as_bytes());
            into.write_u8(0xff); // in no text
        }
        self.sheet.digest(into);
    }
}

#[cfg(test)]
mod tests {
    use devmon_core::Value;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn value() -> impl Strategy<Value = Option<Value>> {
        prop_oneof![
            Just(None),
            any::<i64>().prop_map(|x| Some(Value::Integer(x))),
            (-1e9..1e9).prop_map(|x| Some(Value::Float(x))),
            any::<bool>().prop_map(|x| Some(Value::Boolean(x))),
            "[a\",\r\n/é]{0,9}".prop_map(|x| Some(Value::Text(x))),
        ]
    }

    /// Columns of one length.
    fn columns() -> impl Strategy<Value = Vec<Vec<Option<Value>>>> {
        (0..30_usize, 0..6_usize).prop_flat_map(|(rows, columns)| {
            let numbers = (-1e3..1e3).prop_map(|x| Some(Value::Float(x)));
            let column = prop_oneof![
                prop::collection::vec(value(), rows),
                prop::collection::vec(numbers, rows),
            ];
            prop::collection::vec(column, columns)
        })
    }

    fn sheet(columns: &[Vec<Option<Value>>]) -> Sheet {
        let rows = columns.first().map_or(0, Vec::len);
        let column = |values: &Vec<Option<Value>>| {
            let mut column = Column::default();
            values.iter().for_each(|value| column.push(value.clone()));
            column
        };
        let t = (0..rows).map(|row| row as i64 * 1_000).collect();
        Sheet::new(t, columns.iter().map(column).collect())
    }

    /// All pieces, none of them much longer than `most`; what is left in memory grows less and is nothing but the times at the end.
    fn written(mut pieces: impl Pieces, most: usize, slack: usize, times: usize) -> Vec<u8> {
        let (mut whole, mut held) = (Vec::new(), usize::MAX);
        loop {
            let mut out = Vec::new();
            let more = pieces.write(&mut out, most).unwrap();
            assert!(out.len() < most + slack, "{} of {most}", out.len());
            whole.extend(out);
            let now = pieces.free();
            assert!(now <= held);
            held = now;
            if !more {
                assert_eq!(held, times * 8);
                return whole;
            }
        }
    }

    proptest! {
        #[test]
        fn pieces_of_json_are_the_document(columns in columns(), most in 1_usize..2_000) {
            let rows = columns.first().map_or(0, Vec::len);
            let heads = || (0..columns.len()).map(|i| json!({"path": format!("/{i}")}));
            let new = || Json::new(&json!({"device": "d"}), heads(), sheet(&columns), Some("x")).unwrap();
            let text = written(new(), most, 200, rows);
            let v = |i: usize| columns[i].iter().map(|v| v.as_ref().map(ValueJson)).collect::<Vec<_>>();
            let series: Vec<_> = (0..columns.len()).map(|i| json!({"path": format!("/{i}"), "v": v(i)})).collect();
            let t: Vec<_> = (0..rows).map(|row| row * 1_000).collect();
            let read: serde_json::Value = serde_json::from_slice(&text).unwrap();
            prop_assert_eq!(read, json!({"device": "d", "t": t, "series": series, "next_cursor": "x"}));
            prop_assert_eq!(text, written(new(), usize::MAX >> 1, 0, rows));
        }

        #[test]
        fn pieces_of_csv_are_the_table(columns in columns(), most in 1_usize..2_000, width in 1_usize..4) {
            let groups = columns.len() / width;
            let columns = &columns[..groups * width];
            let rows = columns.first().map_or(0, Vec::len);
            let new = || {
                let names = (0..groups).map(|i| vec![format!("g{i}")]).collect();
                Csv::new(vec!["g".to_owned(), "t".to_owned()], names, sheet(columns))
            };
            let text = written(new(), most, 20_000, rows);
            prop_assert_eq!(&text, &written(new(), usize::MAX >> 1, 0, rows));
            let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(&text[..]);
            let records: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
            prop_assert_eq!(records.len(), groups * rows);
            for (i, record) in records.iter().enumerate() {
                let (group, row) = (i / rows, i % rows);
                prop_assert_eq!(&record[0], format!("g{group}"));
                prop_assert_eq!(&record[1], (row * 1_000).to_string());
                for column in 0..width {
                    let expected = match &columns[group * width + column][row] {
                        None => String::new(),
                        Some(Value::Text(text)) => text.clone(),
                        Some(value) => serde_json::to_string(&ValueJson(value)).unwrap(),
                    };
                    prop_assert_eq!(&record[column + 2], expected);
                }
            }
        }

        #[test]
        fn what_differs_has_another_digest(columns in columns(), other in columns()) {
            let digest = |columns: &[Vec<Option<Value>>]| {
                let mut hash = DefaultHasher::new();
                sheet(columns).digest(&mut hash);
                hash.finish()
            };
            prop_assert_eq!(digest(&columns), digest(&columns));
            prop_assert_eq!(columns == other, digest(&columns) == digest(&other));
        }
    }
}
