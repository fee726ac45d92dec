//! Samples as rows of text: what `export` writes and `import` reads.
//!
//! | form | a row |
//! |---|---|
//! | CSV (RFC 4180), with the header `device,path,ts,type,value` | `edge_device_01,/cpu/utilization,1795450000000,float,12.5` |
//! | JSON lines | `{"device":"edge_device_01","path":"/cpu/utilization","ts":1795450000000,"type":"float","value":12.5}` |
//!
//! Times are unix ms. The type is `float`, `integer`, `boolean` or `text`, and decides how the value is read: each comes back bit for bit, floats as the shortest
//! digits that read as the same float.

use std::io::{BufRead, Read, Write};

use anyhow::{Context as _, anyhow, bail, ensure};
use devmon_core::tree::MAX_TEXT_BYTES;
use devmon_core::wire::{DeviceId, TimestampMs};
use devmon_core::{MetricPath, Value};
use serde::{Deserialize, Serialize};

use super::rollup_rows;

const HEADER: [&str; 5] = ["device", "path", "ts", "type", "value"];
/// Longest line of JSON that is read: a device id, a path and a text at their limits, every byte escaped, are half of it.
const MAX_LINE_BYTES: u64 = 64 << 10;

/// A sample with where it belongs.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    pub(super) device: DeviceId,
    pub(super) path: MetricPath,
    pub(super) ts: TimestampMs,
    pub(super) value: Value,
}

/// Writes rows in one form.
pub(super) trait RowWriter {
    fn row(
        &mut self,
        device: &DeviceId,
        path: &MetricPath,
        ts: i64,
        value: &Value,
    ) -> anyhow::Result<()>;

    /// Writes what is left.
    fn finish(&mut self) -> anyhow::Result<()>;
}

pub(super) struct CsvWriter<W: Write>(csv::Writer<W>);

impl<W: Write> CsvWriter<W> {
    pub(super) fn new(out: W) -> anyhow::Result<Self> {
        let mut writer = csv::Writer::from_writer(out);
        writer.write_record(HEADER)?;
        Ok(Self(writer))
    }
}

impl<W: Write> RowWriter for CsvWriter<W> {
    fn row(
        &mut self,
        device: &DeviceId,
        path: &MetricPath,
        ts: i64,
        value: &Value,
    ) -> anyhow::Result<()> {
        let text;
        let value_text = match value {
            Value::Text(text) => text,
            other => {
                text = json(other)?.to_string();
                &text
            }
        };
        let record = [
            device.as_str(),
            path.as_str(),
            &ts.to_string(),
            value.type_name(),
            value_text,
        ];
        Ok(self.0.write_record(record)?)
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        Ok(self.0.flush()?)
    }
}

pub(super) struct JsonLinesWriter<W: Write>(pub(super) W);

#[derive(Serialize)]
struct JsonRow<'a> {
    device: &'a str,
    path: &'a str,
    ts: i64,
    r#type: &'a str,
    value: serde_json::Value,
}

impl<W: Write> RowWriter for JsonLinesWriter<W> {
    fn row(
        &mut self,
        device: &DeviceId,
        path: &MetricPath,
        ts: i64,
        value: &Value,
    ) -> anyhow::Result<()> {
        let row = JsonRow {
            device: device.as_str(),
            path: path.as_str(),
            ts,
            r#type: value.type_name(),
            value: json(value)?,
        };
        serde_json::to_writer(&mut self.0, &row)?;
        Ok(self.0.write_all(b"\n")?)
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        Ok(self.0.flush()?)
    }
}

pub(super) fn json(value: &Value) -> anyhow::Result<serde_json::Value> {
    Ok(match value {
        Value::Float(x) => serde_json::Number::from_f64(*x)
            .context("a float that is no number; the store takes none")?
            .into(),
        Value::Integer(x) => (*x).into(),
        Value::Boolean(x) => (*x).into(),
        Value::Text(x) => x.as_str().into(),
    })
}

/// Reads rows of either form, told apart by the first byte: JSON begins with `{`. `each` is given the line of each row, for what it finds wrong.
///
/// # Errors
/// With the line: what is no row, or what `each` returns.
pub(super) fn read(
    mut from: impl BufRead,
    each: &mut dyn FnMut(u64, Row) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    match from.fill_buf()?.first() {
        None => Ok(()), // an empty file has no rows
        Some(b'{') => read_json_lines(from, each),
        Some(_) => read_csv(from, each),
    }
}

fn read_csv(
    from: impl Read,
    each: &mut dyn FnMut(u64, Row) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut reader = csv::Reader::from_reader(from);
    let header = reader.headers()?;
    ensure!(
        !header.iter().eq(rollup_rows::HEADER),
        "line 1: these are rollups (export --tier), which can not be imported: samples can"
    );
    ensure!(
        header.iter().eq(HEADER),
        "line 1: the header is not {}, so this is nothing that export wrote",
        HEADER.join(",")
    );
    let mut record = csv::StringRecord::new();
    loop {
        match reader.read_record(&mut record) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error) => return Err(csv_error(error)),
        }
        let line = record.position().map_or(0, csv::Position::line);
        let row = csv_row(&record).map_err(|e| anyhow!("line {line}: {e}"))?;
        each(line, row).with_context(|| format!("line {line}"))?;
    }
}

fn csv_error(error: csv::Error) -> anyhow::Error {
    let line = error.position().map(csv::Position::line);
    let what = match error.kind() {
        csv::ErrorKind::UnequalLengths { len, .. } => {
            format!("{len} columns, and not {}", HEADER.len())
        }
        csv::ErrorKind::Utf8 { .. } => "not UTF-8".to_owned(),
        _ => error.to_string(),
    };
    match line {
        Some(line) => anyhow!("line {line}: {what}"),
        None => anyhow!(what),
    }
}

fn csv_row(record: &csv::StringRecord) -> Result<Row, String> {
    let column = |i: usize| record.get(i).unwrap_or_default(); // as many as the header has
    let text = column(4);
    let not = |what: &str| format!("{text:?} is no {what}");
    let value = match column(3) {
        "float" => Value::Float(text.parse().map_err(|_| not("float"))?),
        "integer" => Value::Integer(
            text.parse()
                .map_err(|_| not("integer from -2^63 to 2^63-1"))?,
        ),
        "boolean" => Value::Boolean(
            text.parse()
                .map_err(|_| not("boolean: write true or false"))?,
        ),
        "text" => Value::Text(text.to_owned()),
        other => return Err(unknown_type(other)),
    };
    let ts = column(2);
    let ts = ts
        .parse()
        .map_err(|_| format!("{ts:?} is no time in unix ms"))?;
    row(column(0), column(1), ts, value)
}

fn read_json_lines(
    mut from: impl BufRead,
    each: &mut dyn FnMut(u64, Row) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        (&mut from)
            .take(MAX_LINE_BYTES)
            .read_until(b'\n', &mut bytes)?;
        if bytes.is_empty() {
            break;
        }
        if bytes.len() as u64 == MAX_LINE_BYTES && !bytes.ends_with(b"\n") {
            bail!("line {line}: longer than {MAX_LINE_BYTES} bytes: no row is");
        }
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        let row = json_row(&bytes).map_err(|e| anyhow!("line {line}: {e}"))?;
        each(line, row).with_context(|| format!("line {line}"))?;
    }
    Ok(())
}

#[derive(Deserialize)]
struct ReadRow {
    device: String,
    path: String,
    ts: i64,
    r#type: String,
    value: serde_json::Value,
}

fn json_row(line: &[u8]) -> Result<Row, String> {
    let read: ReadRow = serde_json::from_slice(line).map_err(|e| {
        // Each line is parsed alone, so that the line it names is always 1.
        let text = e.to_string();
        text.replace(" at line 1 column ", ", column ")
    })?;
    let not = |what: &str| format!("{} is no {what}", read.value);
    let value = match read.r#type.as_str() {
        "float" => Value::Float(read.value.as_f64().ok_or_else(|| not("float"))?),
        "integer" => Value::Integer(
            read.value
                .as_i64()
                .ok_or_else(|| not("integer from -2^63 to 2^63-1"))?,
        ),
        "boolean" => Value::Boolean(read.value.as_bool().ok_or_else(|| not("boolean"))?),
        "text" => Value::Text(read.value.as_str().ok_or_else(|| not("text"))?.to_owned()),
        other => return Err(unknown_type(other)),
    };
    row(&read.device, &read.path, read.ts, value)
}

pub(super) fn unknown_type(name: &str) -> String {
    format!("{name:?} is no type; there are float, integer, boolean and text")
}

/// What the intake would check of a message.
pub(super) fn row(device: &str, path: &str, ts: i64, value: Value) -> Result<Row, String> {
    let device = device.parse::<DeviceId>().map_err(|e| e.to_string())?;
    let path = path.parse::<MetricPath>().map_err(|e| e.to_string())?;
    let ts = TimestampMs(ts);
    if ts < TimestampMs::EARLIEST {
        return Err(format!("ts {ts} lies before 2000-01-01"));
    }
    match &value {
        Value::Float(x) if !x.is_finite() => return Err(format!("{x} is no finite float")),
        Value::Text(x) if x.len() > MAX_TEXT_BYTES => {
            return Err(format!(
                "a text of {} bytes; the most is {MAX_TEXT_BYTES}",
                x.len()
            ));
        }
        _ => {}
    }
    Ok(Row {
        device,
        path,
        ts,
        value,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<i64>().prop_map(Value::Integer),
            prop::num::f64::ANY
                .prop_filter("finite", |x| x.is_finite())
                .prop_map(Value::Float),
            any::<bool>().prop_map(Value::Boolean),
            "[ -~\n\r\"äß,]{0,8}".prop_map(Value::Text),
        ]
    }

    pub(in crate::commands) fn rows() -> impl Strategy<Value = Vec<Row>> {
        let path = prop::collection::vec("[a-z,\"/~ ]{1,4}", 1..4);
        let row = (
            "[a-z][a-z0-9_]{0,5}",
            path,
            946_684_800_000..i64::MAX,
            value(),
        );
        let row = row.prop_map(|(device, names, ts, value)| Row {
            device: device.parse().unwrap(),
            path: MetricPath::from_segments(names).unwrap(),
            ts: TimestampMs(ts),
            value,
        });
        prop::collection::vec(row, 0..20)
    }

    fn written(rows: &[Row], writer: &mut dyn RowWriter) {
        for row in rows {
            writer
                .row(&row.device, &row.path, row.ts.0, &row.value)
                .unwrap();
        }
        writer.finish().unwrap();
    }

    fn read_all(bytes: &[u8]) -> anyhow::Result<Vec<Row>> {
        let mut rows = Vec::new();
        read(bytes, &mut |_, row| {
            rows.push(row);
            Ok(())
        })?;
        Ok(rows)
    }

    proptest! {
        #[test]
        fn rows_come_back_bit_for_bit(rows in rows()) {
            let mut csv = Vec::new();
            written(&rows, &mut CsvWriter::new(&mut csv).unwrap());
            let mut jsonl = Vec::new();
            written(&rows, &mut JsonLinesWriter(&mut jsonl));
            for bytes in [csv, jsonl] {
                let back = read_all(&bytes).unwrap();
                prop_assert_eq!(&back, &rows);
                prop_assert!(back.iter().zip(&rows).all(|(a, b)| a.value.same_bits(&b.value)));
            }
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0usize..3) {
            let prefix = [&b""[..], b"{", b"device,path,ts,type,value\n"][kind];
            let _ = read_all(&[prefix, &bytes].concat());
        }
    }

    #[test]
    fn what_is_no_row_is_refused_with_its_line() {
        let csv = |line: &str| {
            format!("device,path,ts,type,value\nd,/a,1795450000000,text,\"x\ny\"\n{line}\n")
        };
        let cases = [
            (csv("d,/a,1795450000000,float"), "line 4: 4 columns"),
            (
                csv("d,/a,1795450000000,real,1"),
                "line 4: \"real\" is no type",
            ),
            (
                csv("d,/a,1795450000000,integer,1.5"),
                "line 4: \"1.5\" is no integer",
            ),
            (
                csv("d,/a,1795450000000,float,NaN"),
                "line 4: NaN is no finite",
            ),
            (csv("d,/a,7,float,1"), "line 4: ts 7 lies before"),
            (csv("d,/a,today,float,1"), "line 4: \"today\" is no time"),
            (csv("d,a,1795450000000,float,1"), "line 4: "),
            (csv("../d,/a,1795450000000,float,1"), "line 4: "),
            ("time,value\n".to_owned(), "line 1: the header"),
            ("{\"device\":\"d\"}".to_owned(), "line 1: missing field"),
            ("{}\n\n".to_owned(), "line 1: missing field"),
        ];
        for (text, says) in cases {
            let said = format!("{:#}", read_all(text.as_bytes()).unwrap_err());
            assert!(said.starts_with(says), "{said:?} is not {says:?}");
        }
        assert_eq!(read_all(b"").unwrap(), []);
    }
}
