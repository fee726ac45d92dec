//! Writes a day file, stream by stream: one stream's day is in memory at a time, and 24 bytes for each stream before it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::section::{Draft, TierDraft, put_chunk, put_no_tier, put_series, put_tier};
use super::{
    DAY_MS, ENTRY_BYTES, FENCE_BYTES, FOOTER_BYTES, Figures, HEADER_BYTES, Holds, MAGIC,
    MAGIC_AT_END, MAX_CHUNK_ROWS, PAGE_STREAMS, VERSION, column, day_start, fold, numbers, pack,
    rollups,
};
use crate::store::block::{Table, TableColumn};
use crate::store::engine::StoreError;
use crate::store::rollup::{Rollup, Tier};
use crate::store::varint::put_bytes;

/// A pack of rollups is closed when it is so long, unpacked: what is read at least for one series.
const PACK_BYTES: usize = 16 * 1024;
/// Streams with fewer rows in the day have no rollups stored with their raw samples: to make them takes no longer than to read them.
const LEAST_ROWS_FOR_ROLLUPS: usize = 4096;

/// A day file that is being written. Dropped without [`finish`](Self::finish), it leaves a file that no reader accepts.
#[derive(Debug)]
pub(crate) struct Writer {
    path: PathBuf,
    out: BufWriter<File>,
    header: [u8; HEADER_BYTES],
    day: u32,
    holds: Holds,
    /// Bytes written so far.
    offset: u64,
    index: Vec<u8>,
    last: Option<u32>,
    samples: u64,
}

impl Writer {
    /// Begins a file for a day (days since 1970). One of that name must not exist.
    ///
    /// # Errors
    /// [`StoreError::Archive`]. So with all that follows; the file is of no use then.
    pub(crate) fn create(path: &Path, day: u32, holds: Holds) -> Result<Self, StoreError> {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(MAGIC);
        header[8] = VERSION;
        header[9] = holds as u8;
        header[12..16].copy_from_slice(&day.to_le_bytes());
        let crc = crc32c::crc32c(&header[..16]);
        header[16..].copy_from_slice(&crc.to_le_bytes());
        let file = File::create_new(path).map_err(|e| failed(path, &e))?;
        let mut writer = Self {
            path: path.to_owned(),
            out: BufWriter::with_capacity(256 * 1024, file),
            header,
            day,
            holds,
            offset: 0,
            index: Vec::new(),
            last: None,
            samples: 0,
        };
        writer.put(&header)?;
        Ok(writer)
    }

    /// Adds a stream's raw samples of the day; streams in ascending order. Makes their 1 h rollups.
    pub(crate) fn raw(&mut self, stream: u32, table: &Table) -> Result<(), StoreError> {
        self.expect(self.holds == Holds::Raw, "raw samples in a file of rollups")?;
        let (from, to) = (day_start(self.day), day_start(self.day) + DAY_MS);
        let inside = |t: &i64| (from..to).contains(t);
        self.expect(
            table.ts.first().is_none_or(inside) && table.ts.last().is_none_or(inside),
            "samples of another day",
        )?;
        let mut draft = Draft::default();
        let series: Vec<u32> = table.columns.iter().map(|column| column.series).collect();
        put_series(&mut draft.directory, &series);
        put_raw(&mut draft, table);
        if table.ts.len() < LEAST_ROWS_FOR_ROLLUPS {
            put_no_tier(&mut draft);
        } else {
            let bucket_ms = Tier::Hour.bucket_ms().unwrap_or(DAY_MS);
            let mut tier = TierWriter::new(self.day);
            for column in &table.columns {
                let ts: Vec<i64> = column.rows.iter().map(|&r| table.ts[r as usize]).collect();
                tier.series(&fold::rollups(&ts, &column.cells, bucket_ms));
            }
            put_tier(&mut draft, tier.finish());
        }
        let samples = table.columns.iter().map(|column| column.cells.len() as u64);
        self.section(stream, &draft, samples.sum())
    }

    /// Adds a stream's rollups: each series, ascending, with its rollups by time. `minute` is empty for [`Holds::Hour`].
    pub(crate) fn rollups(
        &mut self,
        stream: u32,
        minute: &[(u32, Vec<Rollup>)],
        hour: &[(u32, Vec<Rollup>)],
    ) -> Result<(), StoreError> {
        self.expect(self.holds != Holds::Raw, "rollups in a file of raw samples")?;
        self.expect(
            self.holds == Holds::Minute || minute.is_empty(),
            "1 m rollups in a file of 1 h rollups",
        )?;
        let mut series: Vec<u32> = minute
            .iter()
            .chain(hour)
            .map(|(series, _)| *series)
            .collect();
        series.sort_unstable();
        series.dedup();
        let mut draft = Draft::default();
        put_series(&mut draft.directory, &series);
        if self.holds == Holds::Minute {
            put_tier(&mut draft, self.tier(&series, minute));
        }
        put_tier(&mut draft, self.tier(&series, hour));
        let samples = hour
            .iter()
            .flat_map(|(_, rollups)| rollups)
            .map(|r| r.count);
        self.section(stream, &draft, samples.sum())
    }

    fn tier(&self, series: &[u32], of: &[(u32, Vec<Rollup>)]) -> TierDraft {
        let mut tier = TierWriter::new(self.day);
        let mut of = of.iter().peekable();
        for series in series {
            let rollups = of.next_if(|(s, _)| s == series);
            tier.series(rollups.map_or(&[], |(_, rollups)| rollups.as_slice()));
        }
        tier.finish()
    }

    fn section(&mut self, stream: u32, draft: &Draft, samples: u64) -> Result<(), StoreError> {
        self.expect(
            self.last.is_none_or(|last| last < stream),
            "streams out of order",
        )?;
        let length = u32::try_from(draft.directory.len() + draft.pieces.len());
        let length = length.map_err(|_| self.refused("more than 4 GiB of one stream"))?;
        let mut entry = [0; ENTRY_BYTES];
        entry[0..4].copy_from_slice(&stream.to_le_bytes());
        entry[4..12].copy_from_slice(&self.offset.to_le_bytes());
        entry[12..16].copy_from_slice(&length.to_le_bytes());
        entry[16..20].copy_from_slice(&(draft.directory.len() as u32).to_le_bytes());
        entry[20..24].copy_from_slice(&crc32c::crc32c(&draft.directory).to_le_bytes());
        self.put(&draft.directory)?;
        self.put(&draft.pieces)?;
        self.index.extend_from_slice(&entry);
        self.last = Some(stream);
        self.samples += samples;
        Ok(())
    }

    /// Writes index and footer, and makes the file durable under its name of now; the caller renames it and fsyncs the directory.
    pub(crate) fn finish(mut self) -> Result<Figures, StoreError> {
        let index = std::mem::take(&mut self.index);
        let streams = (index.len() / ENTRY_BYTES) as u32; // numbers of streams are distinct
        let mut fences = Vec::with_capacity(index.len() / PAGE_STREAMS / 2);
        for page in index.chunks(PAGE_STREAMS * ENTRY_BYTES) {
            let mut fence = [0; FENCE_BYTES];
            fence[..4].copy_from_slice(&page[..4]);
            fence[4..].copy_from_slice(&crc32c::crc32c(page).to_le_bytes());
            fences.extend_from_slice(&fence);
        }
        let mut footer = [0; FOOTER_BYTES];
        footer[0..8].copy_from_slice(&self.offset.to_le_bytes());
        footer[8..16].copy_from_slice(&self.samples.to_le_bytes());
        footer[16..20].copy_from_slice(&streams.to_le_bytes());
        footer[20..24].copy_from_slice(&crc32c::crc32c(&fences).to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&self.header), &footer[..24]);
        footer[24..28].copy_from_slice(&crc.to_le_bytes());
        footer[28..36].copy_from_slice(MAGIC_AT_END);
        self.put(&index)?;
        self.put(&fences)?;
        self.put(&footer)?;
        self.out
            .flush()
            .and_then(|()| self.out.get_ref().sync_all())
            .map_err(|e| failed(&self.path, &e))?;
        Ok(Figures {
            bytes: self.offset,
            samples: self.samples,
            streams,
        })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.out
            .write_all(bytes)
            .map_err(|e| failed(&self.path, &e))?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn expect(&self, holds: bool, otherwise: &str) -> Result<(), StoreError> {
        if holds {
            Ok(())
        } else {
            Err(self.refused(otherwise))
        }
    }

    fn refused(&self, detail: &str) -> StoreError {
        StoreError::Archive {
            path: self.path.clone(),
            detail: format!("not written: {detail}"),
        }
    }
}

pub(super) fn failed(path: &Path, e: &std::io::Error) -> StoreError {
    StoreError::Archive {
        path: path.to_owned(),
        detail: e.to_string(),
    }
}

fn put_raw(draft: &mut Draft, table: &Table) {
    let chunks = chunks(table.ts.len());
    draft
        .directory
        .extend_from_slice(&count_bytes(chunks.len()));
    for chunk in &chunks {
        let ts = &table.ts[chunk.clone()];
        put_chunk(&mut draft.directory, ts.len(), ts[0], ts[ts.len() - 1]);
    }
    for chunk in &chunks {
        let ts = &table.ts[chunk.clone()];
        let since: Vec<i64> = ts.iter().map(|t| t - ts[0]).collect();
        let mut bytes = Vec::new();
        numbers::put_times(&mut bytes, &since);
        draft.piece(bytes);
    }
    for column in &table.columns {
        for chunk in &chunks {
            put_column(draft, column, chunk);
        }
    }
}

fn count_bytes(count: usize) -> Vec<u8> {
    let mut out = Vec::new();
    crate::store::varint::put_u64(&mut out, count as u64);
    out
}

/// Rows of even chunks.
fn chunks(rows: usize) -> Vec<Range<usize>> {
    let count = rows.div_ceil(MAX_CHUNK_ROWS);
    (0..count)
        .map(|i| rows * i / count..rows * (i + 1) / count)
        .collect()
}

fn put_column(draft: &mut Draft, column: &TableColumn, chunk: &Range<usize>) {
    let first = column.rows.partition_point(|&r| (r as usize) < chunk.start);
    let last = column.rows.partition_point(|&r| (r as usize) < chunk.end);
    let present = &column.rows[first..last];
    let mut values = Vec::new();
    if present.is_empty() {
        draft.piece(values);
        return;
    }
    if present.len() == column.cells.len() {
        column::put(&mut values, &column.cells);
    } else {
        let at: Vec<u32> = (first as u32..last as u32).collect();
        column::put(&mut values, &column.cells.gather(&at));
    }
    draft.piece(values);
    let mut presence = Vec::new();
    column::put_presence(&mut presence, present, chunk.start as u32, chunk.len());
    draft.piece(presence);
}

/// Collects one tier's rollups, series by series.
struct TierWriter {
    day_start: i64,
    draft: TierDraft,
    known: HashMap<Vec<u8>, usize>,
    pack: Vec<u8>,
    in_pack: u64,
}

impl TierWriter {
    fn new(day: u32) -> Self {
        Self {
            day_start: day_start(day),
            draft: TierDraft::default(),
            known: HashMap::new(),
            pack: Vec::new(),
            in_pack: 0,
        }
    }

    fn series(&mut self, of: &[Rollup]) {
        if of.is_empty() {
            self.draft.when_of.push(None);
            return;
        }
        let mut when = Vec::new();
        rollups::put_when(&mut when, of, self.day_start);
        let whens = &mut self.draft.whens;
        let number = *self.known.entry(when).or_insert_with_key(|when| {
            whens.push(when.clone());
            whens.len() - 1
        });
        self.draft.when_of.push(Some(number));
        let mut what = Vec::new();
        rollups::put_what(&mut what, of);
        put_bytes(&mut self.pack, &what);
        self.in_pack += 1;
        if self.pack.len() >= PACK_BYTES {
            self.close();
        }
    }

    fn close(&mut self) {
        let mut bytes = Vec::new();
        pack::put(&mut bytes, &std::mem::take(&mut self.pack));
        let series = std::mem::take(&mut self.in_pack);
        self.draft.packs.push((series, bytes));
    }

    fn finish(mut self) -> TierDraft {
        if self.in_pack > 0 {
            self.close();
        }
        self.draft
    }
}
