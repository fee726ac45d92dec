//! Reads a day file: by position, so that several threads may at once; only what was asked for, and nothing of it is trusted.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::section::{Column, Directory, Piece, Raw, Reader, Stored};
use super::write::failed;
use super::{
    DAY_MS, ENTRY_BYTES, FENCE_BYTES, FOOTER_BYTES, Figures, HEADER_BYTES, Holds, MAGIC,
    MAGIC_AT_END, MAX_CHUNK_ROWS, PAGE_STREAMS, VERSION, column, day_start, fold, numbers, pack,
    rollups,
};
use crate::store::block::{Table, TableColumn};
use crate::store::column::Cells;
use crate::store::engine::StoreError;
use crate::store::rollup::{Rollup, Tier};
use crate::store::varint::{Cursor, Malformed};

/// What is read at least: small streams come with one read.
const WINDOW_BYTES: usize = 16 * 1024;
/// Most of a pack of rollups, unpacked: a full one and one series of 1 m rollups that are of texts.
const MAX_PACK_BYTES: usize = 64 << 20;

/// An open day file. Cheap to open and to keep: one file descriptor, and 8 bytes for 512 streams.
#[derive(Debug)]
pub(crate) struct DayFile {
    file: File,
    path: PathBuf,
    day: u32,
    holds: Holds,
    figures: Figures,
    index_offset: u64,
    fences: Vec<Fence>,
}

#[derive(Debug, Clone, Copy)]
struct Fence {
    first: u32,
    crc: u32,
}

/// Where a stream's section lies.
#[derive(Debug, Clone, Copy)]
struct Entry {
    stream: u32,
    offset: u64,
    length: u32,
    directory: u32,
    crc: u32,
}

/// Called with a series, times that ascend, and their values.
type Samples<'a> = &'a mut dyn FnMut(u32, &[i64], &Cells);

impl DayFile {
    /// Opens a file and checks its header, footer and fences.
    ///
    /// # Errors
    /// [`StoreError::UnknownArchive`], [`StoreError::DamagedArchive`], [`StoreError::Archive`]; the latter two from all that follows as well.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let file = File::open(path).map_err(|e| failed(path, &e))?;
        let bytes = file.metadata().map_err(|e| failed(path, &e))?.len();
        let damaged = |offset: u64, what: &'static str| damaged(path, offset, Malformed(what));
        if bytes < (HEADER_BYTES + FOOTER_BYTES) as u64 {
            return Err(damaged(0, "it ends too early"));
        }
        let header: [u8; HEADER_BYTES] = array_at(&file, path, 0)?;
        if header[..8] != *MAGIC {
            return Err(damaged(0, "it is no day file"));
        }
        if header[8] != VERSION {
            return Err(StoreError::UnknownArchive {
                path: path.to_owned(),
                offset: 8,
                version: header[8],
            });
        }
        if u32_at(&header, 16) != crc32c::crc32c(&header[..16]) {
            return Err(damaged(0, "the header's checksum does not fit"));
        }
        let holds = Holds::ALL.get(usize::from(header[9]));
        let holds = *holds.ok_or_else(|| damaged(9, "unknown tiers"))?;
        let at = bytes - FOOTER_BYTES as u64;
        let footer: [u8; FOOTER_BYTES] = array_at(&file, path, at)?;
        let crc = crc32c::crc32c_append(crc32c::crc32c(&header), &footer[..24]);
        if footer[28..] != *MAGIC_AT_END || u32_at(&footer, 24) != crc {
            return Err(damaged(at, "it ends too early, or its footer is damaged"));
        }
        let (index_offset, streams) = (u64_at(&footer, 0), u32_at(&footer, 16));
        let pages = u64::from(streams).div_ceil(PAGE_STREAMS as u64);
        let fence_bytes = pages * FENCE_BYTES as u64;
        let fences_at = u64::from(streams)
            .checked_mul(ENTRY_BYTES as u64)
            .and_then(|index| index.checked_add(index_offset));
        let fences_at = fences_at.filter(|f| f.checked_add(fence_bytes) == Some(at));
        let fences_at = fences_at.ok_or_else(|| damaged(at, "the index has another length"))?;
        let fences = bytes_at(&file, path, fences_at, fence_bytes as usize)?; // not longer than the file
        if u32_at(&footer, 20) != crc32c::crc32c(&fences) {
            return Err(damaged(
                fences_at,
                "the checksum of the fences does not fit",
            ));
        }
        let fences = fences.chunks_exact(FENCE_BYTES).map(|fence| Fence {
            first: u32_at(fence, 0),
            crc: u32_at(fence, 4),
        });
        Ok(Self {
            path: path.to_owned(),
            day: u32_at(&header, 12),
            holds,
            figures: Figures {
                bytes,
                samples: u64_at(&footer, 8),
                streams,
            },
            index_offset,
            fences: fences.collect(),
            file,
        })
    }

    /// Days since 1970.
    pub(crate) fn day(&self) -> u32 {
        self.day
    }

    pub(crate) fn holds(&self) -> Holds {
        self.holds
    }

    pub(crate) fn figures(&self) -> Figures {
        self.figures
    }

    /// All streams, ascending.
    pub(crate) fn streams(&self) -> Result<Vec<u32>, StoreError> {
        let mut streams = Vec::new();
        for page in 0..self.fences.len() {
            streams.extend(self.page(page)?.iter().map(|entry| entry.stream));
        }
        Ok(streams)
    }

    /// Hands over the raw samples with `from ≤ t < to` of the series for which `wanted` says yes: in parts, the times of a series ascending. A file of
    /// rollups has none.
    pub(crate) fn read(
        &self,
        stream: u32,
        wanted: &dyn Fn(u32) -> bool,
        from: i64,
        to: i64,
        f: Samples<'_>,
    ) -> Result<(), StoreError> {
        let Some((mut section, directory)) = self.section(stream)? else {
            return Ok(());
        };
        let Some(raw) = &directory.raw else {
            return Ok(());
        };
        let wanted: Vec<usize> = (0..directory.series.len())
            .filter(|&i| wanted(directory.series[i]))
            .collect();
        for (c, chunk) in raw.chunks.iter().enumerate() {
            if wanted.is_empty() || chunk.last < from || chunk.first >= to {
                continue;
            }
            let ts = section.times(raw, c)?;
            let rows = ts.partition_point(|&t| t < from)..ts.partition_point(|&t| t < to);
            for &i in &wanted {
                let column = &raw.columns[i * raw.chunks.len() + c];
                let Some((present, cells)) = section.column(column, ts.len())? else {
                    continue;
                };
                let first = present.partition_point(|&r| (r as usize) < rows.start);
                let last = present.partition_point(|&r| (r as usize) < rows.end);
                if first == last {
                    continue;
                }
                let cells = if last - first == cells.len() {
                    cells
                } else {
                    cells.gather(&(first as u32..last as u32).collect::<Vec<_>>())
                };
                if present.len() == ts.len() {
                    f(directory.series[i], &ts[first..last], &cells);
                } else {
                    let ts: Vec<i64> = present[first..last]
                        .iter()
                        .map(|&r| ts[r as usize])
                        .collect();
                    f(directory.series[i], &ts, &cells);
                }
            }
        }
        Ok(())
    }

    /// All raw samples of a stream.
    pub(crate) fn table(&self, stream: u32) -> Result<Option<Table>, StoreError> {
        let Some((mut section, directory)) = self.section(stream)? else {
            return Ok(None);
        };
        let Some(raw) = &directory.raw else {
            return Ok(None);
        };
        section.whole()?;
        let mut ts = Vec::new();
        for chunk in 0..raw.chunks.len() {
            ts.extend(section.times(raw, chunk)?);
        }
        let mut columns = Vec::new();
        for (i, &series) in directory.series.iter().enumerate() {
            if let Some((rows, cells)) = section.series(raw, i)? {
                columns.push(TableColumn {
                    series,
                    rows,
                    cells,
                });
            }
        }
        Ok(Some(Table { ts, columns }))
    }

    /// Hands over the rollups whose buckets begin at `from ≤ t < to`, of the series for which `wanted` says yes. A file with raw samples has those of both
    /// tiers: what is not stored is made. Else those of a finer tier than it holds are none.
    pub(crate) fn rollups(
        &self,
        tier: Tier,
        stream: u32,
        wanted: &dyn Fn(u32) -> bool,
        from: i64,
        to: i64,
        f: &mut dyn FnMut(u32, &mut dyn Iterator<Item = Rollup>),
    ) -> Result<(), StoreError> {
        let (Some(bucket_ms), Some((mut section, directory))) =
            (tier.bucket_ms(), self.section(stream)?)
        else {
            return Ok(());
        };
        let stored = match tier {
            Tier::Minute => &directory.minute,
            _ => &directory.hour,
        };
        let mut hand_over = |series: u32, rollups: &mut dyn Iterator<Item = Rollup>| {
            f(
                series,
                &mut rollups.filter(|r| (from..to).contains(&r.ts.0)),
            );
        };
        if let Some(stored) = stored {
            let most = (DAY_MS / bucket_ms) as usize;
            return section.stored(stored, &directory.series, most, wanted, &mut hand_over);
        }
        let Some(raw) = &directory.raw else {
            return Ok(());
        };
        let mut ts = Vec::new();
        for (i, &series) in directory.series.iter().enumerate() {
            if !wanted(series) {
                continue;
            }
            if ts.is_empty() {
                for chunk in 0..raw.chunks.len() {
                    ts.extend(section.times(raw, chunk)?);
                }
            }
            if let Some((rows, cells)) = section.series(raw, i)? {
                let ts: Vec<i64> = rows.iter().map(|&r| ts[r as usize]).collect();
                hand_over(
                    series,
                    &mut fold::rollups(&ts, &cells, bucket_ms).into_iter(),
                );
            }
        }
        Ok(())
    }

    /// Checks every checksum, and that everything decodes; changes nothing.
    pub(crate) fn verify(&self) -> Result<(), StoreError> {
        let (mut offset, mut samples, mut last) = (HEADER_BYTES as u64, 0, None);
        for page in 0..self.fences.len() {
            for entry in self.page(page)? {
                let out_of_order = last.is_some_and(|last| last >= entry.stream);
                if out_of_order || entry.offset != offset {
                    return Err(self.damaged(self.page_offset(page), "sections out of order"));
                }
                offset += u64::from(entry.length);
                last = Some(entry.stream);
                if let Some(table) = self.table(entry.stream)? {
                    let cells = table.columns.iter().map(|column| column.cells.len() as u64);
                    samples += cells.sum::<u64>();
                }
                for tier in [Tier::Minute, Tier::Hour] {
                    let mut count = 0;
                    let all = (i64::MIN, i64::MAX);
                    self.rollups(tier, entry.stream, &|_| true, all.0, all.1, &mut |_, r| {
                        count += r.map(|r| r.count).sum::<u64>();
                    })?;
                    if tier == Tier::Hour && self.holds != Holds::Raw {
                        samples += count;
                    }
                }
            }
        }
        if offset != self.index_offset || samples != self.figures.samples {
            return Err(self.damaged(
                self.index_offset,
                "it holds another number of bytes or samples than its footer says",
            ));
        }
        Ok(())
    }

    fn page_offset(&self, page: usize) -> u64 {
        self.index_offset + (page * PAGE_STREAMS * ENTRY_BYTES) as u64
    }

    /// The entries of a page of the index.
    fn page(&self, page: usize) -> Result<Vec<Entry>, StoreError> {
        let begin = page * PAGE_STREAMS;
        let count = (self.figures.streams as usize - begin).min(PAGE_STREAMS);
        let offset = self.page_offset(page);
        let bytes = bytes_at(&self.file, &self.path, offset, count * ENTRY_BYTES)?;
        if self.fences[page].crc != crc32c::crc32c(&bytes) {
            return Err(self.damaged(
                offset,
                "the checksum of this page of the index does not fit",
            ));
        }
        let entries = bytes.chunks_exact(ENTRY_BYTES).map(|entry| Entry {
            stream: u32_at(entry, 0),
            offset: u64_at(entry, 4),
            length: u32_at(entry, 12),
            directory: u32_at(entry, 16),
            crc: u32_at(entry, 20),
        });
        Ok(entries.collect())
    }

    /// The section of a stream, with its directory; `None` if it is not here.
    fn section(&self, stream: u32) -> Result<Option<(Section<'_>, Directory)>, StoreError> {
        let after = self.fences.partition_point(|fence| fence.first <= stream);
        let Some(page) = after.checked_sub(1) else {
            return Ok(None);
        };
        let entries = self.page(page)?;
        let Ok(i) = entries.binary_search_by_key(&stream, |entry| entry.stream) else {
            return Ok(None);
        };
        let entry = entries[i];
        let end = entry.offset.checked_add(u64::from(entry.length));
        if end.is_none_or(|end| end > self.index_offset) || entry.directory > entry.length {
            return Err(self.damaged(self.page_offset(page), "a section beyond the index"));
        }
        let mut section = Section {
            file: self,
            offset: entry.offset,
            length: entry.length as usize,
            directory: Vec::new(),
            window: (0, Vec::new()),
        };
        section.directory = section.bytes(0..entry.directory as usize, entry.crc)?;
        let (raw, minute) = (self.holds == Holds::Raw, self.holds == Holds::Minute);
        let directory = Reader::new(&section.directory, section.length)
            .directory(raw, minute, MAX_CHUNK_ROWS)
            .map_err(|malformed| damaged(&self.path, entry.offset, malformed))?;
        Ok(Some((section, directory)))
    }

    fn damaged(&self, offset: u64, what: &'static str) -> StoreError {
        damaged(&self.path, offset, Malformed(what))
    }
}

/// A section that is being read.
struct Section<'a> {
    file: &'a DayFile,
    offset: u64,
    length: usize,
    directory: Vec<u8>,
    /// The bytes of the section that were read last, and where they begin.
    window: (usize, Vec<u8>),
}

impl Section<'_> {
    /// Reads all at once: everything will be asked for.
    fn whole(&mut self) -> Result<(), StoreError> {
        let file = self.file;
        self.window = (
            0,
            bytes_at(&file.file, &file.path, self.offset, self.length)?,
        );
        Ok(())
    }

    fn bytes(&mut self, at: std::ops::Range<usize>, crc: u32) -> Result<Vec<u8>, StoreError> {
        let (begin, bytes) = &self.window;
        if at.start < *begin || at.end > begin + bytes.len() {
            let length = at.len().max(WINDOW_BYTES).min(self.length - at.start);
            let offset = self.offset + at.start as u64;
            let read = bytes_at(&self.file.file, &self.file.path, offset, length)?;
            self.window = (at.start, read);
        }
        let (begin, bytes) = &self.window;
        let bytes = bytes[at.start - begin..at.end - begin].to_vec();
        if crc32c::crc32c(&bytes) != crc {
            return Err(self.damaged(at.start, Malformed("the checksum does not fit")));
        }
        Ok(bytes)
    }

    /// The bytes of a piece, and where in the section they stand.
    fn piece(&mut self, piece: &Piece) -> Result<(Vec<u8>, usize), StoreError> {
        match piece {
            Piece::Inline(at) => Ok((self.directory[at.clone()].to_vec(), at.start)),
            Piece::Behind(at, crc) => Ok((self.bytes(at.clone(), *crc)?, at.start)),
        }
    }

    /// Reads a piece by `get`, which must take all of it.
    fn decode<T>(
        &mut self,
        piece: &Piece,
        get: impl FnOnce(&mut Cursor<'_>) -> Result<T, Malformed>,
    ) -> Result<T, StoreError> {
        let (bytes, at) = self.piece(piece)?;
        let mut cursor = Cursor(&bytes);
        let got = get(&mut cursor).map_err(|malformed| self.damaged(at, malformed))?;
        if !cursor.0.is_empty() {
            return Err(self.damaged(at, Malformed("bytes are left over")));
        }
        Ok(got)
    }

    fn damaged(&self, at: usize, malformed: Malformed) -> StoreError {
        damaged(&self.file.path, self.offset + at as u64, malformed)
    }

    /// The times of a chunk: distinct, ascending.
    fn times(&mut self, raw: &Raw, chunk: usize) -> Result<Vec<i64>, StoreError> {
        let chunk = &raw.chunks[chunk];
        self.decode(&chunk.times, |from| {
            let mut ts = numbers::get(from, chunk.rows)?;
            ts.iter_mut().for_each(|t| *t = t.wrapping_add(chunk.first));
            let ascending = ts.windows(2).all(|pair| pair[0] < pair[1]);
            if !ascending || ts.last() != Some(&chunk.last) || ts[0] != chunk.first {
                return Err(Malformed("times out of order"));
            }
            Ok(ts)
        })
    }

    /// The rows with a value and the values of one series in a chunk of so many rows.
    fn column(
        &mut self,
        column: &Column,
        rows: usize,
    ) -> Result<Option<(Vec<u32>, Cells)>, StoreError> {
        if column.values.is_empty() {
            return Ok(None);
        }
        let present = self.decode(&column.presence, |from| column::get_presence(from, rows))?;
        if present.is_empty() {
            return Err(self.damaged(0, Malformed("a column without values")));
        }
        let cells = self.decode(&column.values, |from| column::get(from, present.len()))?;
        Ok(Some((present, cells)))
    }

    /// All of one series: the ith.
    fn series(&mut self, raw: &Raw, i: usize) -> Result<Option<(Vec<u32>, Cells)>, StoreError> {
        let mut all: Option<(Vec<u32>, Cells)> = None;
        let mut begin = 0u32;
        let columns = &raw.columns[i * raw.chunks.len()..(i + 1) * raw.chunks.len()];
        for (chunk, column) in raw.chunks.iter().zip(columns) {
            if let Some((present, cells)) = self.column(column, chunk.rows)? {
                let rows = present.into_iter().map(|r| begin + r);
                match &mut all {
                    None => all = Some((rows.collect(), cells)),
                    Some((all_rows, all_cells)) => {
                        all_rows.extend(rows);
                        append(all_cells, cells);
                    }
                }
            }
            begin += chunk.rows as u32; // all chunks together: below the ms of a day
        }
        Ok(all)
    }

    fn stored(
        &mut self,
        stored: &Stored,
        series: &[u32],
        most: usize,
        wanted: &dyn Fn(u32) -> bool,
        f: &mut dyn FnMut(u32, &mut dyn Iterator<Item = Rollup>),
    ) -> Result<(), StoreError> {
        let start = day_start(self.file.day);
        let mut whens: Vec<Option<rollups::When>> = vec![None; stored.whens.len()];
        let with_rollups = series.iter().zip(&stored.when_of);
        let mut with_rollups = with_rollups.filter_map(|(series, when)| Some((*series, (*when)?)));
        for (count, piece) in &stored.packs {
            let in_pack: Vec<(u32, usize)> = with_rollups.by_ref().take(*count).collect();
            if !in_pack.iter().any(|(series, _)| wanted(*series)) {
                continue;
            }
            for (series, when) in &in_pack {
                if wanted(*series) && whens[*when].is_none() {
                    let got = self.decode(&stored.whens[*when], |from| {
                        rollups::get_when(from, start, most)
                    })?;
                    whens[*when] = Some(got);
                }
            }
            self.decode(piece, |from| {
                let bytes = pack::unpack(from, MAX_PACK_BYTES)?;
                let mut rest = Cursor(&bytes);
                for (series, when) in in_pack {
                    let what = rest.bytes()?;
                    if let Some(when) = whens[when].as_ref().filter(|_| wanted(series)) {
                        f(series, &mut rollups::get_what(&mut Cursor(what), when)?);
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}

fn append(to: &mut Cells, from: Cells) {
    match (&mut *to, from) {
        (Cells::Float(to), Cells::Float(from)) => to.extend(from),
        (Cells::Integer(to), Cells::Integer(from)) => to.extend(from),
        (Cells::Boolean(to), Cells::Boolean(from)) => to.extend(from),
        (Cells::Mixed(to), Cells::Mixed(from)) => to.extend(from),
        (to, from) => (0..from.len()).for_each(|i| to.push(&from.get(i))),
    }
}

fn damaged(path: &Path, offset: u64, malformed: Malformed) -> StoreError {
    StoreError::DamagedArchive {
        path: path.to_owned(),
        offset,
        detail: malformed.to_string(),
    }
}

/// `length` must be bounded by the file's.
fn bytes_at(file: &File, path: &Path, offset: u64, length: usize) -> Result<Vec<u8>, StoreError> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, offset)
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                damaged(path, offset, Malformed("it ends too early"))
            }
            _ => failed(path, &e),
        })?;
    Ok(bytes)
}

fn array_at<const N: usize>(file: &File, path: &Path, offset: u64) -> Result<[u8; N], StoreError> {
    let bytes = bytes_at(file, path, offset, N)?;
    bytes
        .try_into()
        .map_err(|_| damaged(path, offset, Malformed("it ends too early")))
}

/// Of 4 bytes that are there.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
