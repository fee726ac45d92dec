//! The samples of one stream that are not yet in blocks: one shared column of times, a column of values for each series.
//!
//! A **stream** is what one source of one device sends: paths that come together, at the same times. Rows are kept in the order in which they were
//! committed, late ones too; [`Rows::tables`] sorts them when they are sealed, [`Rows::read`] leaves the sorting to the reader. Where a time stands twice,
//! the later row counts. Each [`CHUNK`] values of a column are closed: encoded as in a block, some 2 bytes for each instead of 8.
//!
//! It leaves to others: which series a column belongs to (its place is the series' number in the stream), durability.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use devmon_core::Value;
use devmon_core::wire::TimestampMs;

use super::block::{Table, TableColumn};
use super::column::Cells;
use super::varint::Cursor;

/// Length of the buckets that blocks are kept in.
pub(super) const HOUR_MS: i64 = 3_600_000;

/// The hour bucket of a time: hours since 1970. Times before 2000 or after 491 936 never come this far.
pub(super) fn hour_of(ts: TimestampMs) -> u32 {
    u32::try_from(ts.0.div_euclid(HOUR_MS)).unwrap_or(if ts.0 < 0 { 0 } else { u32::MAX })
}

/// What a sample is taken to cost in memory: a [`Value`] (24), its row number (4), its share of the time. A column of one type takes less; what is bounded
/// by this is bounded.
pub(super) const SAMPLE_BYTES: u64 = 32;
/// What a text is taken to cost besides its bytes: its own allocation.
const TEXT_BYTES: u64 = 16;
/// A place in the list of columns, used or not.
pub(super) const COLUMN_BYTES: u64 = size_of::<Column>() as u64;

/// Takes times, and the values at these places of the cells.
pub(super) type Part<'a> = &'a mut dyn FnMut(&[i64], &Cells, Range<usize>);

/// Values of a column that are closed together: the open ones of a column take 1 KiB.
const CHUNK: usize = 128;
/// What a closed chunk is taken to cost besides its bytes.
const CHUNK_BYTES: u64 = 32;

/// About how many bytes of memory all heads take, those being sealed too. Each [`Rows`] adds what it takes and gives it back when it is dropped.
#[derive(Debug, Clone, Default)]
pub(super) struct HeadBytes(Arc<AtomicU64>);

impl HeadBytes {
    pub(super) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The part of one [`Rows`] in [`HeadBytes`].
#[derive(Debug)]
struct Charged {
    total: HeadBytes,
    bytes: u64,
}

impl Drop for Charged {
    fn drop(&mut self) {
        self.total.0.fetch_sub(self.bytes, Relaxed);
    }
}

/// Recent samples of a stream, in the order of their commits.
#[derive(Debug, Default)]
pub(super) struct Rows {
    ts: Vec<i64>,
    /// By the series' number in the stream; shorter than the stream's list if the last ones have no sample here.
    columns: Vec<Column>,
    /// Times never went back, so that a range of times is a range of rows.
    out_of_order: bool,
    samples: u64,
    /// About how much memory it takes.
    bytes: u64,
    charged: Option<Charged>,
}

#[derive(Debug, Clone, Default)]
struct Column {
    rows: RowNumbers,
    /// Row of the last value.
    last: u32,
    /// All values but the last ones, [`CHUNK`] in each.
    #[expect(
        clippy::box_collection,
        reason = "there is one for each series of the fleet, and few are full"
    )]
    closed: Option<Box<Vec<Box<[u8]>>>>,
    /// The last values; `None`: there is no value at all.
    cells: Option<Cells>,
}

impl Column {
    fn len(&self) -> usize {
        let closed = self.closed.as_ref().map_or(0, |closed| closed.len());
        closed * CHUNK + self.cells.as_ref().map_or(0, Cells::len)
    }

    /// The values of a chunk, the open one behind the closed ones.
    fn chunk(&self, number: usize) -> Option<Cow<'_, Cells>> {
        match self.closed.as_ref().and_then(|closed| closed.get(number)) {
            // It was encoded here: it can be decoded.
            Some(bytes) => Cells::decode(&mut Cursor(bytes), CHUNK)
                .ok()
                .map(Cow::Owned),
            None => self.cells.as_ref().map(Cow::Borrowed),
        }
    }

    /// All values.
    fn all(&self) -> Option<Cow<'_, Cells>> {
        let Some(closed) = &self.closed else {
            return self.cells.as_ref().map(Cow::Borrowed);
        };
        let mut all = self.chunk(0)?.into_owned();
        for number in 1..=closed.len() {
            let chunk = self.chunk(number)?;
            all.append(&chunk, 0..chunk.len());
        }
        Some(Cow::Owned(all))
    }

    /// Puts a value behind the others; returns by how much less memory they take if they were closed before.
    fn push(&mut self, value: &Value) -> u64 {
        let Some(cells) = &mut self.cells else {
            self.cells = Some(Cells::of(value));
            return 0;
        };
        if cells.len() < CHUNK {
            cells.push(value);
            return 0;
        }
        let mut bytes = Vec::new();
        cells.encode(&mut bytes);
        let texts = match cells {
            Cells::Mixed(values) => values.iter().map(text_bytes).sum(),
            _ => 0,
        };
        let before = CHUNK as u64 * SAMPLE_BYTES + texts;
        let after = CHUNK_BYTES + bytes.len() as u64;
        self.closed.get_or_insert_default().push(bytes.into());
        cells.restart(value);
        before.saturating_sub(after)
    }
}

/// Which rows have a value.
#[derive(Debug, Clone)]
enum RowNumbers {
    /// All from this one on, as many as there are values: the usual case takes no memory.
    From(u32),
    /// These, in order.
    List(Vec<u32>),
}

impl Default for RowNumbers {
    fn default() -> Self {
        Self::From(0)
    }
}

impl RowNumbers {
    fn at(&self, i: usize) -> u32 {
        match self {
            Self::From(first) => first + i as u32,
            Self::List(list) => list[i],
        }
    }

    /// Index of the first value whose row is `row` or later, of `len` values.
    fn position(&self, row: u32, len: usize) -> usize {
        match self {
            Self::From(first) => (row.saturating_sub(*first) as usize).min(len),
            Self::List(list) => list.partition_point(|&r| r < row),
        }
    }
}

impl Rows {
    pub(super) fn is_empty(&self) -> bool {
        self.ts.is_empty()
    }

    pub(super) fn samples(&self) -> u64 {
        self.samples
    }

    /// Brings what it has come to take into `total`, where it counts until it is dropped. The total is always the same one.
    pub(super) fn charge(&mut self, total: &HeadBytes) {
        let bytes = self.bytes;
        let charged = self.charged.get_or_insert_with(|| Charged {
            total: total.clone(),
            bytes: 0,
        });
        // Added before subtracted: the total is never below what is there.
        charged.total.0.fetch_add(bytes, Relaxed);
        charged.total.0.fetch_sub(charged.bytes, Relaxed);
        charged.bytes = bytes;
    }

    /// The row for samples of this time that are committed now. Frames that were split come behind each other and share one.
    pub(super) fn row(&mut self, ts: TimestampMs) -> u32 {
        match self.ts.last() {
            Some(&last) if last == ts.0 => {}
            last => {
                self.out_of_order |= last.is_some_and(|&last| ts.0 < last);
                self.ts.push(ts.0);
            }
        }
        self.ts.len() as u32 - 1 // bounded by the seal, far below 2^32
    }

    /// Makes room for so many series at once.
    pub(super) fn widen(&mut self, series: usize) {
        if self.columns.capacity() < series {
            self.columns.reserve_exact(series - self.columns.len());
        }
    }

    /// Sets the value of a series in the last row.
    pub(super) fn set(&mut self, row: u32, series: u32, value: &Value) {
        let at = series as usize;
        if at >= self.columns.len() {
            self.bytes += (at + 1 - self.columns.len()) as u64 * COLUMN_BYTES;
            self.columns.resize_with(at + 1, Column::default);
        }
        let column = &mut self.columns[at];
        match (&mut column.rows, &mut column.cells) {
            (rows, None) => *rows = RowNumbers::From(row),
            (_, Some(cells)) if column.last == row => {
                self.bytes += text_bytes(value);
                self.bytes = self
                    .bytes
                    .saturating_sub(text_bytes(&cells.get(cells.len() - 1)));
                cells.replace_last(value); // the later of two frames of one time
                return;
            }
            (RowNumbers::From(_), Some(_)) if column.last + 1 == row => {}
            (RowNumbers::From(first), Some(_)) => {
                let mut list: Vec<u32> = (*first..=column.last).collect();
                list.push(row);
                column.rows = RowNumbers::List(list);
            }
            (RowNumbers::List(list), Some(_)) => list.push(row),
        }
        column.last = row;
        self.samples += 1;
        self.bytes += SAMPLE_BYTES + text_bytes(value);
        self.bytes = self.bytes.saturating_sub(column.push(value));
    }

    /// Hands over the samples of a series with `from ≤ t < to`, in the order of their commits: times, and the values of these indices.
    pub(super) fn read(&self, series: u32, from: TimestampMs, to: TimestampMs, f: Part<'_>) {
        let Some(column) = self.columns.get(series as usize) else {
            return;
        };
        let length = column.len();
        let (begin, end) = if self.out_of_order {
            (0, length)
        } else {
            let row = |ts: TimestampMs| self.ts.partition_point(|&t| t < ts.0) as u32;
            let begin = column.rows.position(row(from), length);
            (begin, column.rows.position(row(to), length).max(begin))
        };
        for number in begin / CHUNK..end.div_ceil(CHUNK) {
            let Some(cells) = column.chunk(number) else {
                continue;
            };
            let first = number * CHUNK;
            let inside = begin.max(first)..end.min(first + cells.len());
            let time = |i: usize| self.ts[column.rows.at(i) as usize];
            if self.out_of_order {
                let of_time = |&i: &usize| (from.0..to.0).contains(&time(i));
                let at: Vec<u32> = inside.filter(of_time).map(|i| (i - first) as u32).collect();
                let ts: Vec<i64> = at.iter().map(|&i| time(first + i as usize)).collect();
                f(&ts, &cells.gather(&at), 0..at.len());
                continue;
            }
            let cell = inside.start - first..inside.end - first;
            match &column.rows {
                RowNumbers::From(row) => {
                    let row = *row as usize;
                    f(&self.ts[row + inside.start..row + inside.end], &cells, cell);
                }
                RowNumbers::List(_) => {
                    let ts: Vec<i64> = inside.map(time).collect();
                    f(&ts, &cells, cell);
                }
            }
        }
    }

    /// The hours in which it has samples.
    pub(super) fn hours(&self) -> BTreeSet<u32> {
        let same_hour = |a: &i64, b: &i64| a.div_euclid(HOUR_MS) == b.div_euclid(HOUR_MS);
        let runs = self.ts.chunk_by(same_hour);
        runs.map(|run| hour_of(TimestampMs(run[0]))).collect()
    }

    /// The same samples by hour, sorted, each time once.
    pub(super) fn tables(&self) -> Vec<(u32, Table)> {
        // rank[row]: the row's place among the distinct times.
        let mut order: Vec<u32> = (0..self.ts.len() as u32).collect();
        order.sort_by_key(|&row| self.ts[row as usize]); // stable: of one time, the later commit stays behind
        let mut times: Vec<i64> = Vec::with_capacity(order.len());
        let mut rank = vec![0u32; order.len()];
        for &row in &order {
            let ts = self.ts[row as usize];
            if times.last() != Some(&ts) {
                times.push(ts);
            }
            rank[row as usize] = times.len() as u32 - 1;
        }
        let mut columns = Vec::new();
        for (series, column) in self.columns.iter().enumerate() {
            if let Some(cells) = column.all() {
                columns.push((
                    series as u32,
                    placed(&column.rows, cells.len(), &rank),
                    cells,
                ));
            }
        }
        let mut tables = Vec::new();
        let mut begin = 0;
        for of_hour in times.chunk_by(|a, b| a.div_euclid(HOUR_MS) == b.div_euclid(HOUR_MS)) {
            let end = begin + of_hour.len();
            let columns = columns.iter().filter_map(|(series, placed, cells)| {
                let first = placed.partition_point(|&(rank, _)| (rank as usize) < begin);
                let last = placed.partition_point(|&(rank, _)| (rank as usize) < end);
                let placed = &placed[first..last];
                let at: Vec<u32> = placed.iter().map(|&(_, cell)| cell).collect();
                (!at.is_empty()).then(|| TableColumn {
                    series: *series,
                    rows: placed
                        .iter()
                        .map(|&(rank, _)| rank - begin as u32)
                        .collect(),
                    cells: cells.gather(&at),
                })
            });
            let table = Table {
                ts: of_hour.to_vec(),
                columns: columns.collect(),
            };
            tables.push((hour_of(TimestampMs(of_hour[0])), table));
            begin = end;
        }
        tables
    }
}

/// What a value takes besides [`SAMPLE_BYTES`].
fn text_bytes(value: &Value) -> u64 {
    match value {
        Value::Text(text) => TEXT_BYTES + text.len() as u64,
        _ => 0,
    }
}

/// For each value that counts: its row's rank and its index, by rank.
fn placed(rows: &RowNumbers, len: usize, rank: &[u32]) -> Vec<(u32, u32)> {
    let mut placed: Vec<(u32, u32)> = (0..len)
        .map(|i| (rank[rows.at(i) as usize], i as u32))
        .collect();
    if !placed.is_sorted_by(|a, b| a.0 < b.0) {
        placed.sort_unstable(); // by rank, then by commit
        let mut kept: Vec<(u32, u32)> = Vec::with_capacity(placed.len());
        for pair in placed {
            match kept.last_mut() {
                Some(last) if last.0 == pair.0 => *last = pair,
                _ => kept.push(pair),
            }
        }
        return kept;
    }
    placed
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    type Model = BTreeMap<(u32, i64), Value>;

    fn insert(rows: &mut Rows, model: &mut Model, ts: i64, cells: &[(u32, i64)]) {
        let row = rows.row(TimestampMs(ts));
        for &(series, value) in cells {
            rows.set(row, series, &Value::Integer(value));
            model.insert((series, ts), Value::Integer(value));
        }
    }

    fn from_tables(rows: &Rows) -> Model {
        let mut found = Model::new();
        for (hour, table) in rows.tables() {
            for column in &table.columns {
                for (i, &row) in column.rows.iter().enumerate() {
                    let ts = table.ts[row as usize];
                    assert_eq!(hour_of(TimestampMs(ts)), hour);
                    let twice = found.insert((column.series, ts), column.cells.get(i));
                    assert_eq!(twice, None, "a time stands twice");
                }
            }
        }
        found
    }

    fn from_reads(rows: &Rows, from: i64, to: i64) -> Model {
        let mut found = Model::new();
        for series in 0..4 {
            rows.read(
                series,
                TimestampMs(from),
                TimestampMs(to),
                &mut |ts, cells, range| {
                    assert_eq!(ts.len(), range.len());
                    found.extend(
                        ts.iter()
                            .zip(range)
                            .map(|(&ts, i)| ((series, ts), cells.get(i))),
                    );
                },
            );
        }
        found
    }

    proptest! {
        #[test]
        fn rows_are_a_map_in_which_the_later_commit_counts(
            frames in prop::collection::vec((0i64..30, prop::collection::vec((0u32..4, any::<i64>()), 1..4)), 0..60),
            from in 0i64..30, length in 0i64..30,
        ) {
            let (mut rows, mut model) = (Rows::default(), Model::new());
            for (slot, cells) in frames {
                insert(&mut rows, &mut model, slot * HOUR_MS / 7, &cells); // hours apart and several in one
            }
            prop_assert_eq!(from_tables(&rows), model.clone());
            let (from, to) = (from * HOUR_MS / 7, (from + length) * HOUR_MS / 7);
            let within = model.into_iter().filter(|((_, ts), _)| (from..to).contains(ts)).collect::<Model>();
            prop_assert_eq!(from_reads(&rows, from, to), within);
        }
    }

    #[test]
    fn closed_values_are_read_as_open_ones() {
        let (mut rows, mut model) = (Rows::default(), Model::new());
        for n in 0..3 * CHUNK as i64 + 5 {
            // Series 0 always, 1 with gaps, 2 of changing type, 3 from the middle on and out of order.
            insert(&mut rows, &mut model, n * 10, &[(0, n), (0, n + 1)]);
            if n % 3 != 0 {
                insert(&mut rows, &mut model, n * 10, &[(1, -n)]);
            }
            if n > CHUNK as i64 {
                insert(&mut rows, &mut model, n * 10, &[(3, n * n)]);
            }
            let ts = TimestampMs(n * 10);
            let value = match n / 100 % 3 {
                0 => Value::Float(n as f64 / 8.0),
                1 => Value::Text(format!("n{n}")),
                _ => Value::Integer(n),
            };
            let row = rows.row(ts);
            rows.set(row, 2, &value);
            model.insert((2, ts.0), value);
        }
        let check = |rows: &Rows, model: &Model| {
            assert_eq!(&from_tables(rows), model);
            for (from, to) in [(0, i64::MAX), (1275, 1285), (1280, 2570), (3000, 3000)] {
                let within = model.iter().filter(|((_, ts), _)| (from..to).contains(ts));
                let within: Model = within.map(|(k, v)| (*k, v.clone())).collect();
                assert_eq!(from_reads(rows, from, to), within);
            }
        };
        check(&rows, &model);
        insert(&mut rows, &mut model, 5, &[(0, 7), (3, 8)]);
        check(&rows, &model);

        let total = HeadBytes::default();
        rows.charge(&total);
        let bytes = total.get();
        assert!(
            bytes > 0 && bytes < rows.samples() * SAMPLE_BYTES / 2,
            "{bytes}"
        );
    }

    #[test]
    fn a_split_frame_shares_its_row() {
        let (mut rows, mut model) = (Rows::default(), Model::new());
        insert(&mut rows, &mut model, 1000, &[(0, 1)]);
        insert(&mut rows, &mut model, 1000, &[(1, 2)]);
        insert(&mut rows, &mut model, 1000, &[(1, 3)]);
        assert_eq!(rows.ts.len(), 1);
        assert_eq!(rows.samples(), 2);
        assert_eq!(from_tables(&rows), model);
    }

    #[test]
    fn bytes_count_texts_and_are_given_back_with_the_rows() {
        let total = HeadBytes::default();
        let text = |len: usize| Value::Text("x".repeat(len));
        let mut rows = Rows::default();
        for ts in 0..10 {
            let row = rows.row(TimestampMs(ts));
            rows.set(row, 1, &text(1000));
            rows.charge(&total);
        }
        let expected = 2 * COLUMN_BYTES + 10 * (SAMPLE_BYTES + TEXT_BYTES + 1000);
        assert_eq!(total.get(), expected);
        rows.set(9, 1, &text(10)); // replaces
        rows.charge(&total);
        assert_eq!(total.get(), expected - 990);

        let sealing = std::mem::take(&mut rows);
        let row = rows.row(TimestampMs(0));
        rows.set(row, 0, &Value::Integer(1));
        rows.charge(&total);
        drop(sealing);
        assert_eq!(total.get(), COLUMN_BYTES + SAMPLE_BYTES);
        drop(rows);
        assert_eq!(total.get(), 0);
    }
}
