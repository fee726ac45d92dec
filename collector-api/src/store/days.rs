//! Which day files count. One closed day (UTC) is one file of the archive; a record in the database says which revision of it, and up to which seal it holds
//! the day's samples.
//!
//! # Promises
//! - A file is named by a record only after it is whole on disk, and a record changes in one step: at each moment exactly one revision of a day counts.
//! - Blocks of a day count only if their seal is later than the record's: what the file holds may still lie in the database, or be gone already.
//! - A file that is named but missing or damaged is said at each start, by its name. Its day is not compacted, so that nothing overwrites what a backup may
//!   bring back; blocks that came later are read.
//! - A database that was lost takes no history with it: the newest whole file of each day is taken up, and `names` says whose samples they are.
//!
//! | offset | size | record in the table `meta`, little-endian; the key is `day` and the day's number, big-endian |
//! |---|---|---|
//! | 0 | 1 | version, 1 |
//! | 1 | 4 | revision of the file |
//! | 5 | 4 | generation: samples of this seal and of all before are in the file |
//! | 9 | 8 | when it was made, unix ms |
//! | 17 | 1 | 1: blocks of these seals are deleted; 0: some may be left |
//! | 18 | 4 | CRC-32C of key and all of that |

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use devmon_core::wire::TimestampMs;
use time::Date;

use super::archive::DayFile;
use super::block;
use super::engine::StoreError;
use super::kv::{self, Kv, Table};
use super::persist::Hour;

pub(super) const DAY_MS: i64 = 86_400_000;
pub(super) const DAY_HOURS: u32 = 24;
const VERSION: u8 = 1;
const EXTENSION: &str = "dma";

/// All days that have a file, as readers see them. What changes is made anew: a reader keeps the one that it began with.
pub(super) type Days = BTreeMap<u32, Day>;

/// A day and its file.
#[derive(Debug, Clone)]
pub(super) struct Day {
    pub(super) named: Named,
    /// `None`: it is missing or damaged.
    pub(super) file: Option<Arc<DayFile>>,
}

/// What the record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) revision: u32,
    pub(super) upto: u32,
    pub(super) made: TimestampMs,
    pub(super) clean: bool,
}

impl Day {
    /// Blocks of this seal and of earlier ones do not count: their samples are in the file.
    pub(super) fn hidden_upto(&self) -> u32 {
        self.file.as_ref().map_or(0, |_| self.named.upto)
    }
}

impl Named {
    const BYTES: usize = 22;

    fn encode(self, key: &[u8]) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.revision.to_le_bytes());
        out.extend_from_slice(&self.upto.to_le_bytes());
        out.extend_from_slice(&self.made.0.to_le_bytes());
        out.push(self.clean.into());
        let crc = crc32c::crc32c_append(crc32c::crc32c(key), &out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(key: &[u8], value: &[u8]) -> Option<Self> {
        let value: &[u8; Self::BYTES] = value.try_into().ok()?;
        let (body, crc) = value.split_last_chunk::<4>()?;
        let good = crc32c::crc32c_append(crc32c::crc32c(key), body) == u32::from_le_bytes(*crc);
        let (revision, rest) = body[1..].split_first_chunk()?;
        let (upto, rest) = rest.split_first_chunk()?;
        let (made, clean) = rest.split_first_chunk()?;
        (good && body[0] == VERSION).then_some(Self {
            revision: u32::from_le_bytes(*revision),
            upto: u32::from_le_bytes(*upto),
            made: TimestampMs(i64::from_le_bytes(*made)),
            clean: clean == [1],
        })
    }
}

/// The day of a time: days since 1970.
pub(super) fn day_of(ts: TimestampMs) -> u32 {
    u32::try_from(ts.0.div_euclid(DAY_MS)).unwrap_or(if ts.0 < 0 { 0 } else { u32::MAX })
}

/// When a day begins.
pub(super) fn start_of(day: u32) -> TimestampMs {
    TimestampMs(i64::from(day) * DAY_MS)
}

/// When a day ends.
pub(super) fn end_of(day: u32) -> TimestampMs {
    TimestampMs((i64::from(day) + 1) * DAY_MS)
}

fn key(day: u32) -> [u8; 7] {
    let mut key = *b"day\0\0\0\0";
    key[3..].copy_from_slice(&day.to_be_bytes());
    key
}

/// Says which file counts for a day; durable after the next barrier.
pub(super) fn put(kv: &dyn Kv, day: u32, named: Named) -> Result<(), StoreError> {
    let key = key(day);
    kv.put(Table::Meta, &key, &named.encode(&key))
}

/// Says that a day has no file.
pub(super) fn delete(kv: &dyn Kv, day: u32) -> Result<(), StoreError> {
    kv.delete(Table::Meta, &key(day))
}

/// Where day files lie.
pub(super) fn folder(dir: &Path) -> PathBuf {
    dir.join("archive")
}

/// The path of a day file: `archive/2026-11-23.1.dma`.
pub(super) fn path(dir: &Path, day: u32, revision: u32) -> PathBuf {
    let date = i32::try_from(day)
        .ok()
        .and_then(|day| {
            Date::from_julian_day(
                time::UtcDateTime::UNIX_EPOCH
                    .date()
                    .to_julian_day()
                    .checked_add(day)?,
            )
            .ok()
        })
        .map_or_else(|| day.to_string(), |date| date.to_string()); // a plain number after the year 9999
    folder(dir).join(format!("{date}.{revision}.{EXTENSION}"))
}

/// The revision in a file's name, and the rest of it; `None` if it is no day file's.
fn parse(name: &str) -> Option<(&str, u32)> {
    let (date, revision) = name
        .strip_suffix(EXTENSION)?
        .strip_suffix('.')?
        .split_once('.')?;
    Some((date, revision.parse().ok()?))
}

fn failed(path: &Path, error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Database {
        path: path.to_owned(),
        detail: error.to_string(),
    }
}

/// What the archive's folder and the records said at the start.
#[derive(Debug, Default)]
pub(super) struct Opened {
    pub(super) days: Days,
    /// Named files that can not be read, for an operator.
    pub(super) problems: Vec<String>,
}

/// Opens the files that count, and removes the others. `adopt`: the database is new, so the newest whole file of each day counts.
pub(super) fn open(dir: &Path, kv: &dyn Kv, adopt: bool) -> Result<Opened, StoreError> {
    let folder = folder(dir);
    std::fs::create_dir_all(&folder).map_err(|e| failed(&folder, &e))?;
    if adopt {
        adopt_files(dir, kv)?;
    }
    let mut opened = Opened::default();
    for (day, named) in records(kv)? {
        let path = path(dir, day, named.revision);
        let file = DayFile::open(&path);
        if let Err(error) = &file {
            tracing::error!(file = %path.display(), %error, "a day file can not be read: its day is missing");
            opened.problems.push(format!("{}: {error}", path.display()));
        }
        let file = file.ok().map(Arc::new);
        opened.days.insert(day, Day { named, file });
    }
    let counts: Vec<PathBuf> = opened
        .days
        .iter()
        .map(|(day, of)| path(dir, *day, of.named.revision))
        .collect();
    for path in files(&folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let unfinished = name.ends_with(TEMPORARY);
        let left_over = parse(&name).is_some() && !adopt && !counts.contains(&path);
        if unfinished || left_over {
            std::fs::remove_file(&path).map_err(|e| failed(&path, &e))?;
            tracing::info!(file = %path.display(), "removed a day file that does not count");
        }
    }
    Ok(opened)
}

/// Whether a file has the name of a day file.
pub(super) fn is_day_file(path: &Path) -> bool {
    parse(&path.file_name().unwrap_or_default().to_string_lossy()).is_some()
}

/// True if there is a day file, whether it counts or not.
pub(super) fn has_files(dir: &Path) -> Result<bool, StoreError> {
    let folder = folder(dir);
    std::fs::create_dir_all(&folder).map_err(|e| failed(&folder, &e))?;
    Ok(files(&folder)?.iter().any(|path| is_day_file(path)))
}

/// What the name of a file ends with until it is whole.
pub(super) const TEMPORARY: &str = ".tmp";

/// All that lies in the archive's folder.
pub(super) fn files(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = std::fs::read_dir(folder).map_err(|e| failed(folder, &e))?;
    let paths = entries.map(|entry| entry.map(|e| e.path()));
    paths
        .collect::<Result<_, _>>()
        .map_err(|e| failed(folder, &e))
}

/// Which file counts for each day.
pub(super) fn records(kv: &dyn Kv) -> Result<BTreeMap<u32, Named>, StoreError> {
    let mut records = BTreeMap::new();
    let mut damaged = None;
    kv.scan(Table::Meta, b"day", b"daz", &mut |key, value| {
        let day = key.get(3..).and_then(|day| day.try_into().ok());
        match day.zip(Named::decode(key, value)) {
            Some((day, named)) => {
                records.insert(u32::from_be_bytes(day), named);
            }
            None => damaged = Some(String::from_utf8_lossy(key).into_owned()),
        }
        ControlFlow::Continue(())
    })?;
    match damaged {
        Some(key) => Err(StoreError::DamagedBlock {
            key,
            detail: "the record of a day file is not of our form".into(),
        }),
        None => Ok(records),
    }
}

/// Names the newest whole file of each day. Others stay where they are.
fn adopt_files(dir: &Path, kv: &dyn Kv) -> Result<(), StoreError> {
    let mut newest: BTreeMap<u32, u32> = BTreeMap::new();
    for path in files(&folder(dir))? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let Some((_, revision)) = parse(&name) else {
            continue;
        };
        match DayFile::open(&path).and_then(|file| file.verify().map(|()| file)) {
            Ok(file) => {
                let of_day = newest.entry(file.day()).or_default();
                *of_day = revision.max(*of_day);
            }
            Err(error) => {
                tracing::error!(file = %path.display(), %error, "a day file is damaged and is left where it lies");
            }
        }
    }
    for (&day, &revision) in &newest {
        let named = Named {
            revision,
            upto: 0,
            made: TimestampMs::now(),
            clean: true,
        };
        put(kv, day, named)?;
    }
    if !newest.is_empty() {
        tracing::warn!(
            days = newest.len(),
            "the database is new: took up the day files that were found"
        );
    }
    kv.barrier()
}

/// Counts blocks anew in the hours of days that have a file: a checkpoint may be older than what was deleted since.
pub(super) fn recount(
    kv: &dyn Kv,
    days: &Days,
    hours: &mut BTreeMap<u32, Hour>,
) -> Result<(), StoreError> {
    let archived: Vec<u32> = hours
        .keys()
        .copied()
        .filter(|hour| days.contains_key(&(hour / DAY_HOURS)))
        .collect();
    for hour in archived {
        let mut figures = Hour::default();
        let (first, last) = hour_keys(hour);
        kv.scan(Table::Blocks, &first, &last, &mut |key, value| {
            figures.blocks += 1;
            figures.bytes += (key.len() + value.len()) as u64;
            ControlFlow::Continue(())
        })?;
        if figures.blocks == 0 {
            hours.remove(&hour);
        } else {
            hours.insert(hour, figures);
        }
    }
    Ok(())
}

/// The keys of an hour's blocks lie between these.
pub(super) fn hour_keys(hour: u32) -> ([u8; block::KEY_BYTES], [u8; block::KEY_BYTES]) {
    let first = block::key(hour, 0, 0, 0, 0);
    let last = block::key(hour, u32::MAX, u32::MAX, u32::MAX, u32::MAX);
    (first, last)
}

/// Makes a file that was written under a temporary name count as whole: its name, and the folder's entry, are durable.
pub(super) fn publish(temporary: &Path, path: &Path) -> Result<(), StoreError> {
    std::fs::rename(temporary, path).map_err(|e| failed(path, &e))?;
    kv::sync_dir(path.parent().unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_after_its_date() {
        let name = |day| path(Path::new("d"), day, 7).display().to_string();
        assert_eq!(name(0), "d/archive/1970-01-01.7.dma");
        assert_eq!(name(11_016), "d/archive/2000-02-29.7.dma");
        assert_eq!(name(19_722), "d/archive/2023-12-31.7.dma");
        assert_eq!(name(20_780), "d/archive/2026-11-23.7.dma");
        assert_eq!(parse("2026-11-23.7.dma"), Some(("2026-11-23", 7)));
        assert_eq!(parse("2026-11-23.7.dma.tmp"), None);
        assert_eq!(parse("streams"), None);
    }

    #[test]
    fn a_record_comes_back_or_is_refused() {
        let named = Named {
            revision: 3,
            upto: 70_000,
            made: TimestampMs(1_795_450_000_000),
            clean: true,
        };
        let bytes = named.encode(&key(5));
        assert_eq!(Named::decode(&key(5), &bytes), Some(named));
        assert_eq!(Named::decode(&key(6), &bytes), None, "another day's");
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Named::decode(&key(5), &changed), None, "bit {bit}");
        }
    }
}
