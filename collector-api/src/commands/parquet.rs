//! Samples as Parquet: what `export --format parquet` writes and `import` reads, for tools that read tables. The only file that knows the crate.
//!
//! | column | type | |
//! |---|---|---|
//! | `device`, `path` | string | |
//! | `ts` | int64, timestamp in ms, UTC | |
//! | `type` | string | `float`, `integer`, `boolean` or `text`: which of the next four holds the value; the others are null |
//! | `float` | double | every bit of it |
//! | `integer` | int64 | |
//! | `boolean` | boolean | |
//! | `text` | string | |
//!
//! zstd, dictionaries for what repeats, a checksum for each page. Memory is bounded: a row group is written when it has [`GROUP_ROWS`] rows or [`GROUP_BYTES`]
//! of text, and rows are read some thousands at a time, however long the groups are.

use std::fs::File;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use anyhow::{Context as _, anyhow, ensure};
use bytes::Bytes;
use devmon_core::wire::DeviceId;
use devmon_core::{MetricPath, Value};
use parquet::basic::{
    Compression, Encoding, LogicalType, Repetition, TimeUnit, Type as Physical, ZstdLevel,
};
use parquet::column::reader::{ColumnReaderImpl, get_typed_column_reader};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::reader::{FileReader as _, RowGroupReader};
use parquet::file::serialized_reader::SerializedFileReader;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::{ColumnPath, Type, TypePtr};

use super::rows::{Row, RowWriter, row, unknown_type};

/// Rows of a group, some 10 MB of memory while it is gathered.
const GROUP_ROWS: usize = 64 << 10;
/// Bytes of texts in a group.
const GROUP_BYTES: usize = 16 << 20;
/// Rows that are read at a time.
const READ_ROWS: usize = 4096;
const ZSTD_LEVEL: i32 = 3;

const COLUMNS: [&str; 8] = [
    "device", "path", "ts", "type", "float", "integer", "boolean", "text",
];

fn schema() -> Result<TypePtr, ParquetError> {
    let timestamp = LogicalType::timestamp(true, TimeUnit::MILLIS);
    let text = Some(LogicalType::String);
    let kinds = [
        (Physical::BYTE_ARRAY, text.clone()),
        (Physical::BYTE_ARRAY, text.clone()),
        (Physical::INT64, Some(timestamp)),
        (Physical::BYTE_ARRAY, text.clone()),
        (Physical::DOUBLE, None),
        (Physical::INT64, None),
        (Physical::BOOLEAN, None),
        (Physical::BYTE_ARRAY, text),
    ];
    let fields = COLUMNS.iter().zip(kinds).enumerate();
    let fields = fields.map(|(at, (name, (physical, logical)))| {
        let repetition = if at < 4 {
            Repetition::REQUIRED
        } else {
            Repetition::OPTIONAL
        };
        let field = Type::primitive_type_builder(name, physical);
        let field = field.with_repetition(repetition).with_logical_type(logical);
        field.build().map(Arc::new)
    });
    let fields = fields.collect::<Result<_, _>>()?;
    Ok(Arc::new(
        Type::group_type_builder("samples")
            .with_fields(fields)
            .build()?,
    ))
}

/// Writes rows in groups.
pub(super) struct ParquetWriter<W: Write + Send> {
    /// `None` when it is finished.
    file: Option<SerializedFileWriter<W>>,
    group: Group,
}

#[derive(Default)]
struct Group {
    device: Vec<ByteArray>,
    path: Vec<ByteArray>,
    ts: Vec<i64>,
    types: Vec<ByteArray>,
    float: Cells<f64>,
    integer: Cells<i64>,
    boolean: Cells<bool>,
    text: Cells<ByteArray>,
    text_bytes: usize,
}

/// The values that are there, and for each row whether one is.
#[derive(Default)]
struct Cells<T> {
    values: Vec<T>,
    there: Vec<i16>,
}

impl<T> Cells<T> {
    fn push(&mut self, value: Option<T>) {
        self.there.push(value.is_some().into());
        self.values.extend(value);
    }
}

impl<W: Write + Send> ParquetWriter<W> {
    pub(super) fn new(out: W) -> anyhow::Result<Self> {
        let column = |name: &str| ColumnPath::from(name);
        let properties = WriterProperties::builder()
            .set_created_by(concat!("devmon-collector ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?))
            // Of chunks, so that a reader passes over those of other devices, paths and times.
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_column_dictionary_enabled(column("ts"), false)
            .set_column_encoding(column("ts"), Encoding::DELTA_BINARY_PACKED)
            .build();
        Ok(Self {
            file: Some(SerializedFileWriter::new(
                out,
                schema()?,
                Arc::new(properties),
            )?),
            group: Group::default(),
        })
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        let group = std::mem::take(&mut self.group);
        let file = self.file.as_mut().context("written to after its end")?;
        if group.ts.is_empty() {
            return Ok(());
        }
        let mut out = file.next_row_group()?;
        put::<ByteArrayType, W>(&mut out, &group.device, None)?;
        put::<ByteArrayType, W>(&mut out, &group.path, None)?;
        put::<Int64Type, W>(&mut out, &group.ts, None)?;
        put::<ByteArrayType, W>(&mut out, &group.types, None)?;
        put::<DoubleType, W>(&mut out, &group.float.values, Some(&group.float.there))?;
        put::<Int64Type, W>(&mut out, &group.integer.values, Some(&group.integer.there))?;
        put::<BoolType, W>(&mut out, &group.boolean.values, Some(&group.boolean.there))?;
        put::<ByteArrayType, W>(&mut out, &group.text.values, Some(&group.text.there))?;
        out.close()?;
        Ok(())
    }
}

fn put<T: DataType, W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: &[T::T],
    there: Option<&[i16]>,
) -> anyhow::Result<()> {
    let mut column = group
        .next_column()?
        .context("a column more than the schema has")?;
    column.typed::<T>().write_batch(values, there, None)?;
    Ok(column.close()?)
}

impl<W: Write + Send> RowWriter for ParquetWriter<W> {
    fn row(
        &mut self,
        device: &DeviceId,
        path: &MetricPath,
        ts: i64,
        value: &Value,
    ) -> anyhow::Result<()> {
        let group = &mut self.group;
        // Rows of a series follow each other: one copy of its names is shared.
        again(&mut group.device, device.as_str());
        again(&mut group.path, path.as_str());
        group.ts.push(ts);
        group
            .types
            .push(Bytes::from_static(value.type_name().as_bytes()).into());
        let (mut float, mut integer, mut boolean, mut text) = (None, None, None, None);
        match value {
            Value::Float(x) => float = Some(*x),
            Value::Integer(x) => integer = Some(*x),
            Value::Boolean(x) => boolean = Some(*x),
            Value::Text(x) => {
                group.text_bytes += x.len();
                text = Some(ByteArray::from(x.as_str()));
            }
        }
        group.float.push(float);
        group.integer.push(integer);
        group.boolean.push(boolean);
        group.text.push(text);
        if group.ts.len() >= GROUP_ROWS || group.text_bytes >= GROUP_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        self.flush()?;
        if let Some(file) = self.file.take() {
            file.into_inner()?.flush()?;
        }
        Ok(())
    }
}

fn again(column: &mut Vec<ByteArray>, text: &str) {
    let name = match column.last() {
        Some(last) if last.data() == text.as_bytes() => last.clone(),
        _ => ByteArray::from(text),
    };
    column.push(name);
}

/// Reads what [`ParquetWriter`] wrote. `each` is given the number of each row, from 1; `done` how much of the file's bytes was read.
///
/// # Errors
/// With the row: what is no row, or what `each` returns. A file that is damaged, or of other columns.
pub(super) fn read(
    file: File,
    each: &mut dyn FnMut(u64, Row) -> anyhow::Result<()>,
    done: &mut dyn FnMut(u64),
) -> anyhow::Result<()> {
    // Bytes from elsewhere: what the crate does not foresee must be an error here, too.
    let read = catch_unwind(AssertUnwindSafe(|| read_groups(file, each, done)));
    read.unwrap_or_else(|_| Err(anyhow!("the Parquet file is damaged")))
}

fn read_groups(
    file: File,
    each: &mut dyn FnMut(u64, Row) -> anyhow::Result<()>,
    done: &mut dyn FnMut(u64),
) -> anyhow::Result<()> {
    let file = SerializedFileReader::new(file)?;
    let found = file.metadata().file_metadata().schema();
    ensure!(
        found.get_fields() == schema()?.get_fields(),
        "its columns are not {}, so this is nothing that export wrote",
        COLUMNS.join(", ")
    );
    let mut number = 0;
    for at in 0..file.num_row_groups() {
        let group = file.get_row_group(at)?;
        read_group(&*group, &mut number, each).with_context(|| format!("row group {at}"))?;
        let bytes = group.metadata().compressed_size();
        done(u64::try_from(bytes).unwrap_or(0));
    }
    Ok(())
}

/// A column, and its next rows.
struct Column<T: DataType> {
    reader: ColumnReaderImpl<T>,
    values: Vec<T::T>,
    there: Vec<i16>,
    /// The next of `values`.
    next: usize,
}

impl<T: DataType> Column<T> {
    fn new(group: &dyn RowGroupReader, at: usize) -> Result<Self, ParquetError> {
        Ok(Self {
            reader: get_typed_column_reader(group.get_column_reader(at)?),
            values: Vec::new(),
            there: Vec::new(),
            next: 0,
        })
    }

    /// Reads so many rows.
    fn fill(&mut self, rows: usize) -> anyhow::Result<()> {
        self.values.clear();
        self.there.clear();
        self.next = 0;
        let there = Some(&mut self.there);
        let (found, _, _) = self
            .reader
            .read_records(rows, there, None, &mut self.values)?;
        ensure!(found == rows, "its columns are of different lengths");
        Ok(())
    }

    fn take(&mut self) -> anyhow::Result<T::T> {
        let value = self.values.get_mut(self.next).map(std::mem::take);
        self.next += 1;
        value.context("a column ends early")
    }

    /// The value of the row of this number since [`fill`](Self::fill), if there is one.
    fn at(&mut self, row: usize) -> anyhow::Result<Option<T::T>> {
        match self.there.get(row) {
            Some(0) | None => Ok(None),
            Some(_) => self.take().map(Some),
        }
    }
}

fn read_group(
    group: &dyn RowGroupReader,
    number: &mut u64,
    each: &mut dyn FnMut(u64, Row) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut device = Column::<ByteArrayType>::new(group, 0)?;
    let mut path = Column::<ByteArrayType>::new(group, 1)?;
    let mut ts = Column::<Int64Type>::new(group, 2)?;
    let mut types = Column::<ByteArrayType>::new(group, 3)?;
    let mut float = Column::<DoubleType>::new(group, 4)?;
    let mut integer = Column::<Int64Type>::new(group, 5)?;
    let mut boolean = Column::<BoolType>::new(group, 6)?;
    let mut texts = Column::<ByteArrayType>::new(group, 7)?;
    let mut left = usize::try_from(group.metadata().num_rows())?;
    while left > 0 {
        let rows = left.min(READ_ROWS);
        left -= rows;
        device.fill(rows)?;
        path.fill(rows)?;
        ts.fill(rows)?;
        types.fill(rows)?;
        float.fill(rows)?;
        integer.fill(rows)?;
        boolean.fill(rows)?;
        texts.fill(rows)?;
        for at in 0..rows {
            *number += 1;
            let line = *number;
            let mut one = || {
                let cells = (
                    float.at(at)?.map(Value::Float),
                    integer.at(at)?.map(Value::Integer),
                    boolean.at(at)?.map(Value::Boolean),
                    texts
                        .at(at)?
                        .map(|text| text.as_utf8().map(|t| Value::Text(t.to_owned())))
                        .transpose()?,
                );
                let (kind, device, path, ts) =
                    (types.take()?, device.take()?, path.take()?, ts.take()?);
                let kind = kind.as_utf8()?;
                let value = match (kind, cells) {
                    ("float", (Some(value), None, None, None))
                    | ("integer", (None, Some(value), None, None))
                    | ("boolean", (None, None, Some(value), None))
                    | ("text", (None, None, None, Some(value))) => value,
                    ("float" | "integer" | "boolean" | "text", _) => {
                        return Err(anyhow!("its value is not in the column {kind} alone"));
                    }
                    (other, _) => return Err(anyhow!(unknown_type(other))),
                };
                let row = row(device.as_utf8()?, path.as_utf8()?, ts, value);
                each(line, row.map_err(|e| anyhow!(e))?)
            };
            one().with_context(|| format!("row {line}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, SeekFrom};

    use proptest::prelude::*;

    use super::*;
    use crate::commands::rows::tests::rows;

    fn written(rows: &[Row]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        let mut writer = ParquetWriter::new(&file).unwrap();
        for row in rows {
            writer
                .row(&row.device, &row.path, row.ts.0, &row.value)
                .unwrap();
        }
        writer.finish().unwrap();
        drop(writer);
        file.seek(SeekFrom::Start(0)).unwrap();
        file
    }

    fn read_all(file: &File) -> anyhow::Result<Vec<Row>> {
        let mut rows = Vec::new();
        let mut each = |_, row| {
            rows.push(row);
            Ok(())
        };
        read(file.try_clone()?, &mut each, &mut |_| {})?;
        Ok(rows)
    }

    proptest! {
        #[test]
        fn parquet_rows_come_back_bit_for_bit(rows in rows()) {
            let back = read_all(&written(&rows)).unwrap();
            prop_assert_eq!(&back, &rows);
            prop_assert!(back.iter().zip(&rows).all(|(a, b)| a.value.same_bits(&b.value)));
        }

        #[test]
        fn a_changed_byte_of_parquet_is_an_error_or_changes_nothing(rows in rows(), at: prop::sample::Index, bit in 0..8u32) {
            let file = written(&rows);
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut &file, &mut bytes).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let mut changed = tempfile::tempfile().unwrap();
            changed.write_all(&bytes).unwrap();
            let _ = read_all(&changed); // no panic; not every byte of the footer has a meaning
        }
    }

    #[test]
    fn parquet_is_written_in_groups_and_read_in_pieces() {
        let row = |n: i64| Row {
            device: "d".parse().unwrap(),
            path: if n % 2 == 0 { "/a" } else { "/b" }.parse().unwrap(),
            ts: devmon_core::wire::TimestampMs(1_795_450_000_000 + n),
            value: if n % 3 == 0 {
                Value::Integer(n)
            } else {
                Value::Float(n as f64)
            },
        };
        let rows: Vec<_> = (0..i64::try_from(GROUP_ROWS).unwrap() + 10_000)
            .map(row)
            .collect();
        let file = written(&rows);
        assert_eq!(
            SerializedFileReader::new(file.try_clone().unwrap())
                .unwrap()
                .num_row_groups(),
            2
        );
        assert!(read_all(&file).unwrap() == rows);
    }

    #[test]
    fn parquet_of_something_else_is_refused() {
        let schema = Type::group_type_builder("other").build().unwrap();
        let file = tempfile::tempfile().unwrap();
        let writer = SerializedFileWriter::new(&file, Arc::new(schema), Arc::default()).unwrap();
        writer.close().unwrap();
        let said = read_all(&file).unwrap_err().to_string();
        assert!(said.contains("nothing that export wrote"), "{said}");
    }
}
