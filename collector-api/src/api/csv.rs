//! Answers as tables: `text/csv` by RFC 4180, a header row first, lines that end with CR LF, quotes where they are needed.
//!
//! What is `null` in JSON is an empty cell. Numbers are written as in JSON. The text of a cell is the metric's own, whatever a spreadsheet may make of it.

use std::collections::BTreeMap;

use csv::{Terminator, Writer, WriterBuilder};
use devmon_core::Value;
use devmon_core::wire::TimestampMs;
use devmon_core::wire::json::ValueJson;
use serde::Serialize;
use warp::http::StatusCode;

use super::reply::{Device, FleetItem, Latest, Metric, Response, bytes, kept, with_vary};

pub(super) const CONTENT_TYPE: &str = "text/csv; charset=utf-8; header=present";

/// One item of a list as a row.
pub(super) trait Row {
    const HEADER: &'static [&'static str];

    /// A cell for each of [`HEADER`](Self::HEADER).
    fn write(&self, cells: &mut Cells);
}

/// A list as a table.
pub(super) fn list<T: Row>(items: &[T]) -> Response {
    let mut cells = Cells::new();
    T::HEADER.iter().for_each(|name| cells.text(name));
    cells.end();
    for item in items {
        item.write(&mut cells);
        cells.end();
    }
    cells.answer()
}

/// A table that is being written, cell by cell, to memory: nothing here fails.
pub(super) struct Cells {
    out: Writer<Vec<u8>>,
    scratch: Vec<u8>,
}

impl Cells {
    fn new() -> Self {
        Self::behind(Vec::new())
    }

    /// Goes on behind whole rows.
    pub(super) fn behind(rows: Vec<u8>) -> Self {
        let mut builder = WriterBuilder::new();
        builder.terminator(Terminator::CRLF).flexible(true);
        Self {
            out: builder.from_writer(rows),
            scratch: Vec::new(),
        }
    }

    /// Bytes that are written, but for some KiB.
    pub(super) fn written(&self) -> usize {
        self.out.get_ref().len()
    }

    /// All that is written.
    ///
    /// # Errors
    /// None that is known: it writes to memory.
    pub(super) fn into_bytes(self) -> std::io::Result<Vec<u8>> {
        self.out.into_inner().map_err(|e| e.into_error())
    }

    pub(super) fn text(&mut self, text: &str) {
        let _ = self.out.write_field(text);
    }

    fn maybe(&mut self, text: Option<&str>) {
        self.text(text.unwrap_or_default());
    }

    pub(super) fn number(&mut self, number: i64) {
        self.value(Some(&Value::Integer(number)));
    }

    fn count(&mut self, count: u64) {
        self.text(&count.to_string());
    }

    fn time(&mut self, time: TimestampMs) {
        self.number(time.0);
    }

    pub(super) fn value(&mut self, value: Option<&Value>) {
        match value {
            None => self.text(""),
            Some(Value::Text(text)) => self.text(text),
            Some(value) => {
                self.scratch.clear();
                let _ = serde_json::to_writer(&mut self.scratch, &ValueJson(value));
                let _ = self.out.write_field(&self.scratch);
            }
        }
    }

    /// As JSON; nothing, if there is nothing in it.
    fn map<V: AsRef<str> + Serialize>(&mut self, map: &BTreeMap<&str, V>) {
        if map.is_empty() {
            return self.text("");
        }
        self.text(&serde_json::to_string(map).unwrap_or_default());
    }

    pub(super) fn end(&mut self) {
        let _ = self.out.write_record(None::<&[u8]>);
    }

    fn answer(self) -> Response {
        let table = self.into_bytes().unwrap_or_default();
        with_vary(kept(bytes(StatusCode::OK, CONTENT_TYPE, table)))
    }
}

impl Row for Device<'_> {
    const HEADER: &'static [&'static str] = &[
        "id",
        "status",
        "first_seen",
        "last_seen",
        "sources",
        "metrics",
        "problems",
        "labels",
    ];

    fn write(&self, cells: &mut Cells) {
        cells.text(self.id);
        cells.text(self.status);
        cells.time(self.first_seen);
        cells.time(self.last_seen);
        cells.count(self.sources as u64);
        cells.count(self.metrics);
        cells.count(self.problems as u64);
        cells.map(&self.labels);
    }
}

impl Row for Metric<'_> {
    const HEADER: &'static [&'static str] = &[
        "path", "unit", "kind", "help", "labels", "type", "first_ts", "last_ts",
    ];

    fn write(&self, cells: &mut Cells) {
        cells.text(self.path);
        cells.maybe(self.unit);
        cells.maybe(self.kind);
        cells.maybe(self.help);
        cells.map(&self.labels);
        cells.text(self.type_);
        cells.time(self.first_ts);
        cells.time(self.last_ts);
    }
}

impl Row for Latest<'_> {
    const HEADER: &'static [&'static str] = &["path", "value", "ts", "unit", "kind"];

    fn write(&self, cells: &mut Cells) {
        cells.text(self.path);
        cells.value(Some(self.value.0));
        cells.time(self.ts);
        cells.maybe(self.unit);
        cells.maybe(self.kind);
    }
}

impl Row for FleetItem<'_> {
    const HEADER: &'static [&'static str] =
        &["device", "status", "path", "value", "ts", "unit", "kind"];

    fn write(&self, cells: &mut Cells) {
        cells.text(self.device);
        cells.text(self.status);
        self.latest.write(cells);
    }
}
