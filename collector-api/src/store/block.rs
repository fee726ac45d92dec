//! A block: some rows of some columns of one stream within one hour, as one value of the database. Self-contained, checksummed, exact.
//!
//! Keys are big-endian, so that they sort by time first: retention deletes a range, a read of an hour is a range.
//!
//! | offset | size | key |
//! |---|---|---|
//! | 0 | 4 | hour bucket: hours since 1970 |
//! | 4 | 4 | number of the stream |
//! | 8 | 4 | first time in the block, ms from the start of the hour |
//! | 12 | 4 | generation: number of the seal that wrote it; of two samples of one time, the higher counts |
//! | 16 | 4 | number among the blocks of that seal, stream and hour |
//!
//! | offset | size | value, version 1 |
//! |---|---|---|
//! | 0 | 1 | version, 1 |
//! | 1 | 1 | 0: the body is plain; 1: it is zstd |
//! | 2 | 4 | CRC-32C of the key and of all that follows, little-endian |
//! | 6 | varint | length of the body, unpacked |
//! | | rest | body |
//!
//! | size | body |
//! |---|---|
//! | varint | number of rows n |
//! | | times: an integer series of n (`column`) |
//! | varint | number of columns |
//! | varint, varint | each column: distance of its series' number from the one before, length of its bytes |
//! | | each column's bytes: presence, values (`column`) |
//!
//! Presence: 0 all rows · 1, varint, varint: so many rows from this one on · 2 and a bit for each row, lowest first.

use std::cell::RefCell;
use std::ops::Range;

use zstd::bulk::Decompressor;

use super::column::{Cells, get_bits, get_series, put_bits, put_series};
use super::engine::StoreError;
use super::head::HOUR_MS;
use super::kv::MAX_VALUE_BYTES;
use super::varint::{Cursor, Malformed, put_u64};

const VERSION: u8 = 1;
const PLAIN: u8 = 0;
const ZSTD: u8 = 1;
/// Most rows of a block: a body of one column never passes [`MAX_BODY_BYTES`], and a read unpacks little that it does not need.
const MAX_ROWS: usize = 1024;
/// Largest body before packing; metrics shrink to a fifth and less.
const MAX_BODY_BYTES: usize = 32 * 1024;
/// zstd's own default; higher levels gain 2 % on blocks of this size and cost twice the time.
const ZSTD_LEVEL: i32 = 1; // 3 costs a tenth of the intake, and day files pack anew anyway

/// zstd's own head takes a tenth of it, and hardly anything repeats: a row of some columns, as a large fleet seals them.
const WORTH_PACKING_BYTES: usize = 100;

pub(super) const KEY_BYTES: usize = 20;

/// Sorted rows of a stream within one hour.
#[derive(Debug)]
pub(super) struct Table {
    /// Distinct and ascending.
    pub(super) ts: Vec<i64>,
    /// By series, ascending; none is empty.
    pub(super) columns: Vec<TableColumn>,
}

#[derive(Debug)]
pub(super) struct TableColumn {
    pub(super) series: u32,
    /// The row of each value, ascending.
    pub(super) rows: Vec<u32>,
    pub(super) cells: Cells,
}

/// The key of a block.
pub(super) fn key(
    hour: u32,
    stream: u32,
    first_ms: u32,
    generation: u32,
    part: u32,
) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[0..4].copy_from_slice(&hour.to_be_bytes());
    key[4..8].copy_from_slice(&stream.to_be_bytes());
    key[8..12].copy_from_slice(&first_ms.to_be_bytes());
    key[12..16].copy_from_slice(&generation.to_be_bytes());
    key[16..20].copy_from_slice(&part.to_be_bytes());
    key
}

/// The seal that wrote the block with this key; `None` if it is no key of ours.
pub(super) fn generation_of(key: &[u8]) -> Option<u32> {
    (key.len() == KEY_BYTES).then(|| u32::from_be_bytes([key[12], key[13], key[14], key[15]]))
}

/// What a key says.
pub(super) struct KeyParts {
    pub(super) hour: u32,
    pub(super) stream: u32,
    pub(super) generation: u32,
}

/// The parts of a key; `None` if it is no key of ours.
pub(super) fn parse_key(key: &[u8]) -> Option<KeyParts> {
    let key: &[u8; KEY_BYTES] = key.try_into().ok()?;
    let number = |at: usize| u32::from_be_bytes([key[at], key[at + 1], key[at + 2], key[at + 3]]);
    Some(KeyParts {
        hour: number(0),
        stream: number(4),
        generation: number(12),
    })
}

/// Cuts a table into blocks and hands each over with its key. Deterministic: the same table gives the same blocks.
pub(super) fn encode(
    table: &Table,
    hour: u32,
    stream: u32,
    generation: u32,
    put: Put<'_>,
) -> Result<(), StoreError> {
    let mut encoder = Encoder {
        table,
        hour,
        stream,
        generation,
        part: 0,
        put,
    };
    let mut begin = 0;
    while begin < table.ts.len() {
        let end = (begin + MAX_ROWS).min(table.ts.len());
        encoder.rows(begin..end, 0..table.columns.len())?;
        begin = end;
    }
    Ok(())
}

type Put<'a> = &'a mut dyn FnMut([u8; KEY_BYTES], Vec<u8>) -> Result<(), StoreError>;

struct Encoder<'a> {
    table: &'a Table,
    hour: u32,
    stream: u32,
    generation: u32,
    part: u32,
    put: Put<'a>,
}

impl Encoder<'_> {
    /// Writes the given rows of the given columns: as many columns together as fit; a column that alone is too long in halves of its rows.
    fn rows(&mut self, rows: Range<usize>, columns: Range<usize>) -> Result<(), StoreError> {
        let table = self.table;
        let mut times = Vec::new();
        put_series(&mut times, &table.ts[rows.clone()]);
        let columns: Vec<(usize, Vec<u8>)> = columns
            .filter_map(|i| column_bytes(&table.columns[i], &rows).map(|bytes| (i, bytes)))
            .collect();
        let mut rest = &columns[..];
        while let [(first, _), ..] = rest {
            let mut count = as_many_as_may_fit(rest, MAX_BODY_BYTES.saturating_sub(times.len()));
            let value = loop {
                let body = self.body(rows.len(), &times, &rest[..count]);
                let key = self.key(rows.start);
                let value = seal(&key, &body);
                if value.len() <= MAX_VALUE_BYTES {
                    break Some((key, value));
                }
                if count == 1 {
                    break None;
                }
                count /= 2;
            };
            match value {
                Some((key, value)) => {
                    (self.put)(key, value)?;
                    self.part += 1;
                }
                None => {
                    // One row of one column always fits: a text has at most 1 KiB. So this ends.
                    let middle = rows.start + rows.len() / 2;
                    self.rows(rows.start..middle, *first..*first + 1)?;
                    self.rows(middle..rows.end, *first..*first + 1)?;
                }
            }
            rest = &rest[count..];
        }
        Ok(())
    }

    fn key(&self, first_row: usize) -> [u8; KEY_BYTES] {
        let first_ms = self.table.ts[first_row].rem_euclid(HOUR_MS) as u32; // an hour has 3 600 000
        key(self.hour, self.stream, first_ms, self.generation, self.part)
    }

    fn body(&self, rows: usize, times: &[u8], columns: &[(usize, Vec<u8>)]) -> Vec<u8> {
        let mut body = Vec::with_capacity(MAX_BODY_BYTES);
        put_u64(&mut body, rows as u64);
        body.extend_from_slice(times);
        put_u64(&mut body, columns.len() as u64);
        let mut before = 0;
        for (i, bytes) in columns {
            let series = self.table.columns[*i].series;
            put_u64(&mut body, u64::from(series - before));
            put_u64(&mut body, bytes.len() as u64);
            before = series;
        }
        for (_, bytes) in columns {
            body.extend_from_slice(bytes);
        }
        body
    }
}

fn as_many_as_may_fit(columns: &[(usize, Vec<u8>)], mut room: usize) -> usize {
    let fits = columns.iter().take_while(|(_, bytes)| {
        let fits = bytes.len() <= room;
        room = room.saturating_sub(bytes.len());
        fits
    });
    fits.count().max(1)
}

/// Presence and values of a column in these rows; `None` if it has none there.
fn column_bytes(column: &TableColumn, rows: &Range<usize>) -> Option<Vec<u8>> {
    let first = column.rows.partition_point(|&r| (r as usize) < rows.start);
    let last = column.rows.partition_point(|&r| (r as usize) < rows.end);
    let present = &column.rows[first..last];
    let (Some(&front), Some(&back)) = (present.first(), present.last()) else {
        return None;
    };
    let mut out = Vec::new();
    if present.len() == rows.len() {
        out.push(0);
    } else if (back - front) as usize + 1 == present.len() {
        out.push(1);
        put_u64(&mut out, present.len() as u64);
        put_u64(&mut out, (front as usize - rows.start) as u64);
    } else {
        out.push(2);
        let mut here = present.iter().map(|&r| r as usize).peekable();
        put_bits(
            &mut out,
            rows.clone().map(|row| here.next_if_eq(&row).is_some()),
        );
    }
    let at: Vec<u32> = (first as u32..last as u32).collect();
    column.cells.gather(&at).encode(&mut out);
    Some(out)
}

/// The value for a body: packed where that helps, with its checksum.
fn seal(key: &[u8; KEY_BYTES], body: &[u8]) -> Vec<u8> {
    let packed = (body.len() >= WORTH_PACKING_BYTES).then(|| pack(body));
    let (packing, bytes) = match packed.as_ref().and_then(Option::as_ref) {
        Some(packed) if packed.len() < body.len() => (ZSTD, &packed[..]),
        _ => (PLAIN, body),
    };
    let mut value = vec![VERSION, packing, 0, 0, 0, 0];
    put_u64(&mut value, body.len() as u64);
    value.extend_from_slice(bytes);
    let crc = checksum(key, &value);
    value[2..6].copy_from_slice(&crc.to_le_bytes());
    value
}

/// As zstd; `None` without memory, and plain is as good.
fn pack(body: &[u8]) -> Option<Vec<u8>> {
    thread_local! {
        static PACKER: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
    }
    PACKER.with_borrow_mut(|packer| {
        if packer.is_none() {
            *packer = zstd::bulk::Compressor::new(ZSTD_LEVEL).ok();
        }
        packer.as_mut()?.compress(body).ok()
    })
}

/// Of the key, and of the value without its place for the checksum.
fn checksum(key: &[u8], value: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(key), &value[..2]);
    crc32c::crc32c_append(crc, &value[6..])
}

/// An opened block: times and the columns that were asked for.
#[derive(Debug)]
pub(super) struct Block {
    ts: Vec<i64>,
    columns: Vec<TableColumn>,
}

impl Block {
    /// Checks the block and reads the columns of the series for which `wanted` says yes.
    ///
    /// # Errors
    /// [`StoreError::DamagedBlock`] with the key.
    pub(super) fn decode(
        key: &[u8],
        value: &[u8],
        wanted: &dyn Fn(u32) -> bool,
    ) -> Result<Self, StoreError> {
        read(key, value, wanted).map_err(|malformed| StoreError::DamagedBlock {
            key: key.iter().map(|byte| format!("{byte:02x}")).collect(),
            detail: malformed.to_string(),
        })
    }

    /// Hands over the columns that were read: series, times ascending, a value for each time.
    pub(super) fn columns(&self, f: &mut dyn FnMut(u32, &[i64], &Cells)) {
        for TableColumn {
            series,
            rows,
            cells,
        } in &self.columns
        {
            if rows.len() == self.ts.len() {
                f(*series, &self.ts, cells);
            } else {
                let ts: Vec<i64> = rows.iter().map(|&row| self.ts[row as usize]).collect();
                f(*series, &ts, cells);
            }
        }
    }
}

fn read(key: &[u8], value: &[u8], wanted: &dyn Fn(u32) -> bool) -> Result<Block, Malformed> {
    let mut cursor = Cursor(value);
    if cursor.u8()? != VERSION {
        return Err(Malformed("a version that this release does not know"));
    }
    let packing = cursor.u8()?;
    if u32::from_le_bytes(cursor.array()?) != checksum(key, value) {
        return Err(Malformed("the checksum does not fit"));
    }
    // One column may be longer than MAX_BODY_BYTES: it is packed alone.
    let body_bytes = cursor.count(MAX_ROWS * (devmon_core::tree::MAX_TEXT_BYTES + 16))?;
    let unpacked;
    let mut body = match packing {
        PLAIN => cursor,
        ZSTD => {
            unpacked = unpack(cursor.0, body_bytes)?;
            Cursor(&unpacked)
        }
        _ => return Err(Malformed("unknown packing")),
    };
    let rows = body.count(MAX_ROWS)?;
    let ts = get_series(&mut body, rows)?;
    let mut directory = Vec::new();
    let mut series = 0u32;
    for _ in 0..body.count(body.0.len())? {
        series = series
            .checked_add(body.u32()?)
            .ok_or(Malformed("a series beyond 32 bits"))?;
        directory.push((series, body.count(body_bytes)?));
    }
    let mut columns = Vec::new();
    for (series, length) in directory {
        let mut column = Cursor(body.take(length)?);
        if wanted(series) {
            let present = presence(&mut column, rows)?;
            let cells = Cells::decode(&mut column, present.len())?;
            columns.push(TableColumn {
                series,
                rows: present,
                cells,
            });
        }
    }
    Ok(Block { ts, columns })
}

/// Unpacks a body of at most `most` bytes.
fn unpack(packed: &[u8], most: usize) -> Result<Vec<u8>, Malformed> {
    thread_local! {
        // Its tables take longer to set up than a block to unpack.
        static UNPACKER: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
    }
    let unpacked = UNPACKER.with_borrow_mut(|slot| {
        let unpacker = match slot {
            Some(unpacker) => unpacker,
            None => slot.insert(Decompressor::new()?),
        };
        unpacker.decompress(packed, most)
    });
    unpacked.map_err(|_: std::io::Error| Malformed("zstd does not unpack it"))
}

fn presence(from: &mut Cursor<'_>, rows: usize) -> Result<Vec<u32>, Malformed> {
    let all = 0..rows as u32; // bounded by MAX_ROWS
    Ok(match from.u8()? {
        0 => all.collect(),
        1 => {
            let count = from.count(rows)? as u32;
            let first = from.count(rows)? as u32;
            if first + count > rows as u32 {
                return Err(Malformed("more values than rows"));
            }
            (first..first + count).collect()
        }
        2 => {
            let bits = get_bits(from, rows)?;
            all.filter(|&row| bits[row as usize]).collect()
        }
        _ => return Err(Malformed("unknown presence")),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use devmon_core::Value;
    use devmon_core::wire::TimestampMs;
    use proptest::prelude::*;

    use super::*;
    use crate::store::column::tests::value;
    use crate::store::head::Rows;

    type Model = BTreeMap<(u32, i64), Value>;
    type Values = Vec<([u8; KEY_BYTES], Vec<u8>)>;

    fn blocks(table: &Table, hour: u32) -> Values {
        let mut out: Values = Vec::new();
        encode(table, hour, 7, 3, &mut |key, value| {
            assert!(value.len() <= MAX_VALUE_BYTES, "{} bytes", value.len());
            assert!(out.iter().all(|(k, _)| *k != key), "a key stands twice");
            out.push((key, value));
            Ok(())
        })
        .unwrap();
        out
    }

    fn samples(values: &Values) -> Model {
        let mut found = Model::new();
        for (key, value) in values {
            Block::decode(key, value, &|_| true)
                .unwrap()
                .columns(&mut |series, ts, cells| {
                    for (i, &ts) in ts.iter().enumerate() {
                        assert!(found.insert((series, ts), cells.get(i)).is_none());
                    }
                });
        }
        found
    }

    fn same(a: &Model, b: &Model) -> bool {
        a.len() == b.len()
            && a.iter()
                .zip(b)
                .all(|((k, v), (l, w))| k == l && v.same_bits(w))
    }

    /// Rows and the model of what must come out of them.
    fn rows(frames: Vec<(i64, Vec<(u32, Value)>)>) -> (Rows, Model) {
        let (mut rows, mut model) = (Rows::default(), Model::new());
        for (ts, cells) in frames {
            let row = rows.row(TimestampMs(ts));
            for (series, value) in cells {
                rows.set(row, series, &value);
                model.insert((series, ts), value);
            }
        }
        (rows, model)
    }

    proptest! {
        #[test]
        fn what_goes_into_blocks_comes_out(
            frames in prop::collection::vec((0i64..5000, prop::collection::vec((0u32..6, value()), 0..5)), 1..80),
        ) {
            let (rows, model) = rows(frames);
            let mut found = Model::new();
            for (hour, table) in rows.tables() {
                found.extend(samples(&blocks(&table, hour)));
            }
            prop_assert!(same(&found, &model));
        }

        #[test]
        fn any_bytes_are_read_or_refused(mut value in prop::collection::vec(any::<u8>(), 6..80)) {
            value[0] = VERSION;
            value[1] %= 2;
            let key = key(1, 2, 3, 4, 5);
            let crc = checksum(&key, &value);
            value[2..6].copy_from_slice(&crc.to_le_bytes());
            let read = Block::decode(&key, &value, &|_| true);
            drop(read); // no panic, no large allocation
        }
    }

    #[test]
    fn long_texts_are_cut_by_rows_and_many_columns_by_columns() {
        let text = |seed: i64| {
            let letters = (0..1024).scan(seed as u32 * 7919 + 1, |state, _| {
                *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                Some(char::from(b'!' + (*state >> 24) as u8 % 90))
            });
            Value::Text(letters.collect())
        };
        let texts: Vec<_> = (0..200)
            .map(|i| (i, vec![(0, text(i)), (1, Value::Integer(i))]))
            .collect();
        let (rows_, model) = rows(texts);
        assert!(same(&samples(&blocks(&rows_.tables()[0].1, 0)), &model));

        let wide = (0..30).map(|i| {
            (
                i * 1000,
                (0..5000u32)
                    .map(|s| (s, Value::Float(f64::from(s).sqrt() * i as f64)))
                    .collect(),
            )
        });
        let (rows_, model) = rows(wide.collect());
        let values = blocks(&rows_.tables()[0].1, 0);
        assert!(values.len() > 10);
        assert!(same(&samples(&values), &model));
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let (rows, _) = rows(
            (0..20)
                .map(|i| (i * 1000, vec![(0, Value::Float(0.1 * i as f64))]))
                .collect(),
        );
        let (key, value) = blocks(&rows.tables()[0].1, 0).remove(0);
        for bit in 0..value.len() * 8 {
            let mut damaged = value.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(
                Block::decode(&key, &damaged, &|_| true).is_err(),
                "bit {bit}"
            );
        }
        let mut elsewhere = key;
        elsewhere[7] ^= 1;
        assert!(
            Block::decode(&elsewhere, &value, &|_| true).is_err(),
            "another stream's place"
        );
    }

    #[test]
    fn only_what_was_asked_for_is_read() {
        let (rows, _) = rows(
            (0..5)
                .map(|i| (i, vec![(0, Value::Integer(i)), (4, Value::Integer(-i))]))
                .collect(),
        );
        let (key, value) = blocks(&rows.tables()[0].1, 0).remove(0);
        let mut seen = Vec::new();
        let block = Block::decode(&key, &value, &|series| series == 4).unwrap();
        block.columns(&mut |series, ts, cells| seen.push((series, ts.to_vec(), cells.clone())));
        let cells = Cells::Integer(vec![0, -1, -2, -3, -4]);
        assert_eq!(seen, [(4, vec![0, 1, 2, 3, 4], cells)]);
    }

    /// Bytes of the release that made version 1, written down: every newer one must read them.
    #[test]
    fn the_fixture_of_version_1_is_read() {
        let (rows, model) = rows(vec![
            (
                3_600_000,
                vec![(0, Value::Float(0.5)), (1, Value::Integer(7))],
            ),
            (
                3_601_000,
                vec![(0, Value::Float(-0.0)), (2, Value::Text("up".into()))],
            ),
        ]);
        let byte = |i| u8::from_str_radix(&FIXTURE_V1[i..i + 2], 16).unwrap();
        let value: Vec<u8> = (0..FIXTURE_V1.len()).step_by(2).map(byte).collect();
        let written_now = blocks(&rows.tables()[0].1, 1).remove(0);
        assert_eq!(written_now.0, key(1, 7, 0, 3, 0));
        eprintln!(
            "written now: {}",
            written_now
                .1
                .iter()
                .map(|b| format!("{b:02x}"))
                .collect::<String>()
        );
        assert!(same(&samples(&vec![(written_now.0, value)]), &model));
    }

    const FIXTURE_V1: &str =
        "01007508e84425020180bab703d00f030008010601080001023fe002bfe001010000010e0101010004027570";
}
