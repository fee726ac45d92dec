//! The archive: one immutable, checksummed file for each closed day, where nearly all history lies.
//!
//! A day file holds, stream by stream, either the raw samples of the day with their 1 h rollups, or 1 m and 1 h rollups, or 1 h rollups only. It is
//! written once ([`Writer`]: the caller renames it into place) and read by position ([`DayFile`]: one file descriptor, 8 bytes of memory for 512 streams).
//! One series is read without the others. Every byte stands under a CRC-32C, and no length is trusted: damage is an error that names file and offset.
//!
//! Integers of fixed size are little-endian; varints as in `store/varint`.
//!
//! | offset | size | header |
//! |---|---|---|
//! | 0 | 8 | `devmonDA` |
//! | 8 | 1 | version, 1 |
//! | 9 | 1 | holds: 0 raw and 1 h, 1 1 m and 1 h, 2 1 h |
//! | 10 | 2 | 0 |
//! | 12 | 4 | day: days since 1970 |
//! | 16 | 4 | CRC-32C of the 16 bytes before |
//!
//! Then the sections of the streams (`section`), ascending; then the index: pages of 512 entries, the last one shorter, then a fence for each page.
//!
//! | size | entry of the index | | size | fence |
//! |---|---|---|---|---|
//! | 4 | number of the stream | | 4 | first stream of the page |
//! | 8 | offset of its section | | 4 | CRC-32C of the page |
//! | 4 | length of the section | | | |
//! | 4 | length of its directory | | | |
//! | 4 | CRC-32C of the directory | | | |
//!
//! | offset from the end | size | footer |
//! |---|---|---|
//! | −36 | 8 | offset of the index |
//! | −28 | 8 | samples in the file, or that its rollups stand for |
//! | −20 | 4 | streams |
//! | −16 | 4 | CRC-32C of the fences |
//! | −12 | 4 | CRC-32C of the header and the 24 bytes before |
//! | −8 | 8 | `DAdevmon` |

mod column;
mod fold;
mod numbers;
mod pack;
mod read;
mod rollups;
mod section;
#[cfg(test)]
mod tests;
mod write;

pub(crate) use self::{fold::rollups as roll_up, read::DayFile, write::Writer};

const MAGIC: &[u8; 8] = b"devmonDA";
const MAGIC_AT_END: &[u8; 8] = b"DAdevmon";
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 20;
const FOOTER_BYTES: usize = 36;
const ENTRY_BYTES: usize = 24;
const FENCE_BYTES: usize = 8;
/// Streams in one page of the index: one read of 12 KiB finds a stream, and the fences of 500 000 streams take 8 KiB of memory.
const PAGE_STREAMS: usize = 512;

/// Most rows of a chunk: what is decoded at least for one sample. Columns get no smaller from longer ones.
const MAX_CHUNK_ROWS: usize = 32 * 1024;

const DAY_MS: i64 = 86_400_000;

/// What a day file holds, in figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) bytes: u64,
    /// Raw samples, or those that the rollups stand for.
    pub(crate) samples: u64,
    pub(crate) streams: u32,
}

/// Which tiers a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Holds {
    /// Raw samples and 1 h.
    Raw = 0,
    /// 1 m and 1 h.
    Minute = 1,
    /// 1 h.
    Hour = 2,
}

impl Holds {
    const ALL: [Self; 3] = [Self::Raw, Self::Minute, Self::Hour];
}

/// Start of a day.
fn day_start(day: u32) -> i64 {
    i64::from(day) * DAY_MS
}
