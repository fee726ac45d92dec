//! Rollups as rows of text: what `export --tier 1m` and `--tier 1h` write. For tools that draw and count; `import` takes samples only.
//!
//! | column | what |
//! |---|---|
//! | `device`, `path` | whose |
//! | `ts` | begin of the minute or hour, unix ms |
//! | `count` | samples in it, of any type |
//! | `min`, `max`, `sum` | of the numbers among them, booleans as 0 and 1; empty (CSV) or null (JSON lines) without any |
//! | `first`, `last` | the values at its ends, of any type |
//! | `increase` | what a counter grew by within it |

use std::io::Write;

use devmon_core::wire::DeviceId;
use devmon_core::{MetricPath, Value};
use serde::Serialize;

use super::rows::json;
use crate::store::rollup::Rollup;

pub(super) const HEADER: [&str; 10] = [
    "device", "path", "ts", "count", "min", "max", "sum", "first", "last", "increase",
];

/// Writes rollups in one form.
pub(super) trait RollupWriter {
    fn row(&mut self, device: &DeviceId, path: &MetricPath, rollup: &Rollup) -> anyhow::Result<()>;

    /// Writes what is left.
    fn finish(&mut self) -> anyhow::Result<()>;
}

pub(super) struct CsvRollups<W: Write>(csv::Writer<W>);

impl<W: Write> CsvRollups<W> {
    pub(super) fn new(out: W) -> anyhow::Result<Self> {
        let mut writer = csv::Writer::from_writer(out);
        writer.write_record(HEADER)?;
        Ok(Self(writer))
    }
}

impl<W: Write> RollupWriter for CsvRollups<W> {
    fn row(&mut self, device: &DeviceId, path: &MetricPath, rollup: &Rollup) -> anyhow::Result<()> {
        let text = |value: Option<&Value>| match value {
            None => Ok(String::new()),
            Some(Value::Text(text)) => Ok(text.clone()),
            Some(other) => json(other).map(|json| json.to_string()),
        };
        let record = [
            device.as_str(),
            path.as_str(),
            &rollup.ts.to_string(),
            &rollup.count.to_string(),
            &text(rollup.min.as_ref())?,
            &text(rollup.max.as_ref())?,
            &text(rollup.sum.as_ref())?,
            &text(Some(&rollup.first))?,
            &text(Some(&rollup.last))?,
            &text(Some(&Value::Float(rollup.increase)))?,
        ];
        Ok(self.0.write_record(record)?)
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        Ok(self.0.flush()?)
    }
}

pub(super) struct JsonLinesRollups<W: Write>(pub(super) W);

#[derive(Serialize)]
struct JsonRow<'a> {
    device: &'a str,
    path: &'a str,
    ts: i64,
    count: u64,
    min: Option<serde_json::Value>,
    max: Option<serde_json::Value>,
    sum: Option<serde_json::Value>,
    first: serde_json::Value,
    last: serde_json::Value,
    increase: f64,
}

impl<W: Write> RollupWriter for JsonLinesRollups<W> {
    fn row(&mut self, device: &DeviceId, path: &MetricPath, rollup: &Rollup) -> anyhow::Result<()> {
        let number = |value: Option<&Value>| value.map(json).transpose();
        let row = JsonRow {
            device: device.as_str(),
            path: path.as_str(),
            ts: rollup.ts.0,
            count: rollup.count,
            min: number(rollup.min.as_ref())?,
            max: number(rollup.max.as_ref())?,
            sum: number(rollup.sum.as_ref())?,
            first: json(&rollup.first)?,
            last: json(&rollup.last)?,
            increase: rollup.increase,
        };
        serde_json::to_writer(&mut self.0, &row)?;
        Ok(self.0.write_all(b"\n")?)
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        Ok(self.0.flush()?)
    }
}
