//! The section of one stream in a day file: its directory, and behind it the pieces that the directory lists, in its order.
//!
//! A piece is a run of bytes under one checksum. Short ones stand in the directory itself; one with the bytes of an earlier one is not written again.
//!
//! | size | description of a piece |
//! |---|---|
//! | varint | 0: it is empty; else n × 4 + kind: 1 inline, 2 behind the directory, both of n bytes; 3 the same as the nth piece before this one |
//! | | 1: the bytes; 2: their CRC-32C (4) |
//!
//! | size | directory |
//! |---|---|
//! | varint | number of series |
//! | varints | each series' number: distance from the one before |
//! | | raw samples, if the file holds them |
//! | | rollups, 1 m if the file holds them, then 1 h |
//!
//! | size | raw samples |
//! |---|---|
//! | varint | number of chunks: consecutive rows |
//! | varint, zigzag, varint | each chunk: rows, first time, ms from there to the last |
//! | pieces | each chunk: times in ms from its first (`numbers`) |
//! | pieces | each series, each chunk: values (`column`), empty if there are none; if there are, presence (`column`), empty if all rows have a value |
//!
//! | size | rollups of a tier |
//! |---|---|
//! | varint | 0: none are stored, they are to be made from the raw samples; else 1 + number of different "when" (`rollups`) |
//! | pieces | each "when" |
//! | varints | each series: 0 none, else 1 + its "when" |
//! | varint | number of packs: consecutive series that have rollups |
//! | varint, piece | each pack: number of its series; as packed bytes (`pack`), for each of them a varint length and that many bytes: "what" (`rollups`) |

use std::collections::HashMap;
use std::ops::Range;

use crate::store::varint::{Cursor, Malformed, put_i64, put_u64};

const INLINE: u64 = 1;
const BEHIND: u64 = 2;
const SAME: u64 = 3;

/// Longer pieces get a checksum of their own.
const MOST_INLINE: usize = 24;

/// A section that is being written.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) directory: Vec<u8>,
    pub(super) pieces: Vec<u8>,
    count: u64,
    known: HashMap<Vec<u8>, u64>,
}

impl Draft {
    /// Appends a piece and its description.
    pub(super) fn piece(&mut self, bytes: Vec<u8>) {
        let number = self.count;
        self.count += 1;
        if bytes.is_empty() {
            self.directory.push(0);
        } else if bytes.len() <= MOST_INLINE {
            put_u64(&mut self.directory, (bytes.len() as u64) << 2 | INLINE);
            self.directory.extend_from_slice(&bytes);
        } else if let Some(before) = self.known.get(&bytes) {
            put_u64(&mut self.directory, (number - before) << 2 | SAME);
        } else {
            put_u64(&mut self.directory, (bytes.len() as u64) << 2 | BEHIND);
            self.directory
                .extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
            self.pieces.extend_from_slice(&bytes);
            self.known.insert(bytes, number);
        }
    }
}

/// Where a piece lies.
#[derive(Debug, Clone)]
pub(super) enum Piece {
    /// In the directory, at these bytes.
    Inline(Range<usize>),
    /// In the section, at these bytes, with this checksum.
    Behind(Range<usize>, u32),
}

impl Piece {
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Inline(at) | Self::Behind(at, _) => at.is_empty(),
        }
    }
}

#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) rows: usize,
    pub(super) first: i64,
    pub(super) last: i64,
    pub(super) times: Piece,
}

/// One series' values in one chunk.
#[derive(Debug)]
pub(super) struct Column {
    pub(super) values: Piece,
    pub(super) presence: Piece,
}

#[derive(Debug, Default)]
pub(super) struct Raw {
    pub(super) chunks: Vec<Chunk>,
    /// Series by series, for each as many as there are chunks.
    pub(super) columns: Vec<Column>,
}

#[derive(Debug)]
pub(super) struct Stored {
    pub(super) whens: Vec<Piece>,
    /// For each series: which of the whens.
    pub(super) when_of: Vec<Option<usize>>,
    /// Series with rollups, and their values.
    pub(super) packs: Vec<(usize, Piece)>,
}

/// A directory as read.
#[derive(Debug)]
pub(super) struct Directory {
    /// Ascending.
    pub(super) series: Vec<u32>,
    pub(super) raw: Option<Raw>,
    pub(super) minute: Option<Stored>,
    pub(super) hour: Option<Stored>,
}

/// What is written of one tier's rollups.
#[derive(Default)]
pub(super) struct TierDraft {
    pub(super) whens: Vec<Vec<u8>>,
    pub(super) when_of: Vec<Option<usize>>,
    pub(super) packs: Vec<(u64, Vec<u8>)>,
}

pub(super) fn put_series(out: &mut Vec<u8>, series: &[u32]) {
    put_u64(out, series.len() as u64);
    let mut before = 0;
    for &series in series {
        put_u64(out, u64::from(series - before));
        before = series;
    }
}

pub(super) fn put_chunk(out: &mut Vec<u8>, rows: usize, first: i64, last: i64) {
    put_u64(out, rows as u64);
    put_i64(out, first);
    put_u64(out, last.wrapping_sub(first) as u64);
}

/// Rollups that are not stored.
pub(super) fn put_no_tier(draft: &mut Draft) {
    draft.directory.push(0);
}

pub(super) fn put_tier(draft: &mut Draft, tier: TierDraft) {
    put_u64(&mut draft.directory, 1 + tier.whens.len() as u64);
    tier.whens.into_iter().for_each(|when| draft.piece(when));
    for when in tier.when_of {
        put_u64(&mut draft.directory, when.map_or(0, |when| 1 + when as u64));
    }
    put_u64(&mut draft.directory, tier.packs.len() as u64);
    for (series, pack) in tier.packs {
        put_u64(&mut draft.directory, series);
        draft.piece(pack);
    }
}

pub(super) struct Reader<'a> {
    whole: &'a [u8],
    rest: Cursor<'a>,
    /// All pieces so far.
    pieces: Vec<Piece>,
    /// Where the next piece behind the directory begins, in the section.
    next: usize,
    section_bytes: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(directory: &'a [u8], section_bytes: usize) -> Self {
        Self {
            whole: directory,
            rest: Cursor(directory),
            pieces: Vec::new(),
            next: directory.len(),
            section_bytes,
        }
    }

    fn piece(&mut self) -> Result<Piece, Malformed> {
        let code = self.rest.u64()?;
        let n = usize::try_from(code >> 2).map_err(|_| Malformed("a length beyond memory"))?;
        let piece = match code & 3 {
            0 if n == 0 => Piece::Inline(0..0),
            INLINE => {
                let begin = self.whole.len() - self.rest.0.len();
                self.rest.take(n)?;
                Piece::Inline(begin..begin + n)
            }
            BEHIND => {
                let crc = u32::from_le_bytes(self.rest.array()?);
                let begin = self.next;
                let end = begin
                    .checked_add(n)
                    .filter(|&end| end <= self.section_bytes);
                self.next = end.ok_or(Malformed("a piece beyond its section"))?;
                Piece::Behind(begin..self.next, crc)
            }
            SAME => {
                let before = self.pieces.len().checked_sub(n);
                let before = before.and_then(|i| self.pieces.get(i));
                before.ok_or(Malformed("no such piece before"))?.clone()
            }
            _ => return Err(Malformed("unknown kind of piece")),
        };
        self.pieces.push(piece.clone());
        Ok(piece)
    }

    /// Reads the directory of a file that holds these.
    pub(super) fn directory(
        mut self,
        raw: bool,
        minute: bool,
        max_rows: usize,
    ) -> Result<Directory, Malformed> {
        let count = self.rest.count(self.rest.0.len())?;
        let mut series = Vec::with_capacity(count);
        let mut number = 0u32;
        for i in 0..count {
            let distance = self.rest.u32()?;
            if i > 0 && distance == 0 {
                return Err(Malformed("a series stands twice"));
            }
            number = number
                .checked_add(distance)
                .ok_or(Malformed("a series beyond 32 bits"))?;
            series.push(number);
        }
        let raw = if raw {
            Some(self.raw(count, max_rows)?)
        } else {
            None
        };
        let minute = if minute { self.tier(count)? } else { None };
        let hour = self.tier(count)?;
        if !self.rest.0.is_empty() || self.next != self.section_bytes {
            return Err(Malformed("bytes are left over"));
        }
        Ok(Directory {
            series,
            raw,
            minute,
            hour,
        })
    }

    fn raw(&mut self, series: usize, max_rows: usize) -> Result<Raw, Malformed> {
        let count = self.rest.count(self.rest.0.len())?;
        let mut spans = Vec::new();
        for _ in 0..count {
            let rows = self.rest.count(max_rows)?;
            let first = self.rest.i64()?;
            let last = first.checked_add_unsigned(self.rest.u64()?);
            spans.push((rows, first, last.ok_or(Malformed("a time beyond 64 bits"))?));
        }
        let mut raw = Raw::default();
        for (rows, first, last) in spans {
            let times = self.piece()?;
            raw.chunks.push(Chunk {
                rows,
                first,
                last,
                times,
            });
        }
        for _ in 0..series {
            for _ in 0..count {
                let values = self.piece()?;
                let presence = if values.is_empty() {
                    Piece::Inline(0..0)
                } else {
                    self.piece()?
                };
                raw.columns.push(Column { values, presence });
            }
        }
        Ok(raw)
    }

    fn tier(&mut self, series: usize) -> Result<Option<Stored>, Malformed> {
        let Some(whens) = self.rest.count(self.rest.0.len() + 1)?.checked_sub(1) else {
            return Ok(None);
        };
        let whens = (0..whens)
            .map(|_| self.piece())
            .collect::<Result<Vec<_>, _>>()?;
        let mut when_of = Vec::with_capacity(series);
        for _ in 0..series {
            when_of.push(self.rest.count(whens.len())?.checked_sub(1));
        }
        let mut packs = Vec::new();
        let mut left = when_of.iter().flatten().count();
        for _ in 0..self.rest.count(self.rest.0.len())? {
            let series = self.rest.count(left)?;
            left -= series;
            packs.push((series, self.piece()?));
        }
        if left > 0 {
            return Err(Malformed("series without their rollups"));
        }
        Ok(Some(Stored {
            whens,
            when_of,
            packs,
        }))
    }
}
