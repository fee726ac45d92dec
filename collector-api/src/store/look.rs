//! Looking at a store that no collector has open, without opening it: nothing is replayed, sealed, repaired or set aside.
//!
//! One thing changes all the same: sled has no read-only mode. It may write its snapshot and cut a torn tail off its log, as each start does, and a snapshot
//! that a kill left half made is removed, for sled does not open with it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use devmon_core::journal::Checker;

use super::archive::{DayFile, Holds};
use super::blob::{self, Id};
use super::block;
use super::catalogue::Catalogue;
use super::days::{self, Day, Named};
use super::engine::StoreError;
use super::kv::{Each, Kv, SledKv, Table};
use super::open;
use super::persist::{Hour, Restore};
use super::purge;
use super::watermark::Watermark;

/// Figures of a store at rest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    pub devices: u64,
    /// Without those that are in the journal only.
    pub series: u64,
    pub journal_segments: u64,
    pub journal_bytes: u64,
    pub blocks: u64,
    pub database_bytes: u64,
    pub dead_letters_bytes: u64,
    /// Day files with raw samples, those with rollups of a minute, and those with rollups of an hour only.
    pub raw_days: TierFigures,
    pub minute_days: TierFigures,
    pub hour_days: TierFigures,
    /// Day files that count and can not be read, with the reason.
    pub unreadable_days: Vec<String>,
    /// First and last hour with blocks, in hours since 1970.
    pub hours: Option<(u32, u32)>,
    /// What was moved aside at some start, for an operator.
    pub degraded: Option<String>,
}

/// Day files that hold one tier and those coarser than it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TierFigures {
    pub files: u64,
    pub bytes: u64,
    /// First and last of their days, in days since 1970.
    pub days: Option<(u32, u32)>,
}

impl TierFigures {
    /// Days come in order.
    fn add(&mut self, file: &DayFile) {
        self.files += 1;
        self.bytes += file.figures().bytes;
        let first = self.days.map_or(file.day(), |(first, _)| first);
        self.days = Some((first, file.day()));
    }
}

/// What the database knows of devices, streams and hours.
pub(super) struct Known {
    pub(super) watermark: Option<Watermark>,
    pub(super) catalogue: Catalogue,
    pub(super) hours: BTreeMap<u32, Hour>,
    /// Which file counts for each day.
    pub(super) days: BTreeMap<u32, Named>,
    /// Streams of devices that were forgotten, of which something may be left.
    pub(super) purged: BTreeSet<u32>,
    /// Records that were replaced, and those of a seal that was not finished.
    pub(super) leftovers: u64,
}

/// The journal of the store in `dir`, held so that no collector starts meanwhile.
///
/// # Errors
/// [`StoreError`]: there is no store, or a collector runs.
pub(super) fn hold(dir: &Path) -> Result<Checker, StoreError> {
    let journal = dir.join("journal");
    if !journal.is_dir() {
        return Err(StoreError::Database {
            path: dir.to_owned(),
            detail: "no collector has stored anything here; name its directory with --data-dir"
                .to_owned(),
        });
    }
    Ok(Checker::open(&journal)?)
}

/// The database, if there is one.
pub(super) fn database(dir: &Path) -> Result<Option<SledKv>, StoreError> {
    let db = dir.join("db");
    db.is_dir().then(|| SledKv::open_as_it_is(&db)).transpose()
}

pub(super) fn known(kv: &dyn Kv) -> Result<Known, StoreError> {
    let damaged = |key: String, detail: &dyn std::fmt::Display| StoreError::DamagedBlock {
        key,
        detail: detail.to_string(),
    };
    let watermark = kv.get(Table::Meta, Watermark::KEY)?;
    let watermark = watermark
        .map(|bytes| {
            Watermark::decode(&bytes).ok_or_else(|| damaged("watermark".into(), &"not of our form"))
        })
        .transpose()?;
    let generation = watermark.map_or(0, |w| w.generation);
    let tombstones = purge::load(kv)?;
    let mut restore = Restore::new(&tombstones);
    let leftovers = blob::load(kv, generation, &mut |id: Id, _, record| {
        restore
            .record(id, &record)
            .map_err(|e| damaged(format!("{id:?}"), &e))
    })?;
    let (_, tombstones) = restore.remains(tombstones);
    let (catalogue, hours) = restore
        .finish()
        .map_err(|e| damaged("catalogue".into(), &e))?;
    Ok(Known {
        watermark,
        catalogue,
        hours,
        days: days::records(kv)?,
        purged: tombstones.into_iter().flat_map(|t| t.streams).collect(),
        leftovers: leftovers.garbage.len() as u64,
    })
}

/// Hands over all blocks by key, until it is told to stop.
pub(super) fn blocks(kv: &dyn Kv, each: Each<'_>) -> Result<(), StoreError> {
    kv.scan(Table::Blocks, &[], &[0xff; block::KEY_BYTES + 1], each)
}

/// Figures of the store in `dir`.
///
/// # Errors
/// [`StoreError`]: there is none, a collector runs on it, its database does not open.
pub fn figures(dir: &Path) -> Result<Figures, StoreError> {
    let journal = hold(dir)?;
    let mut figures = Figures {
        journal_segments: journal.segments().len() as u64,
        journal_bytes: journal.size_bytes()?,
        degraded: open::degraded(dir, Vec::new())?,
        ..Figures::default()
    };
    let letters = dir.join("dead-letters");
    if letters.is_dir() {
        figures.dead_letters_bytes = Checker::open(&letters)?.size_bytes()?;
    }
    if let Some(kv) = database(dir)? {
        figures.database_bytes = kv.size_bytes();
        let mut known = known(&kv)?;
        // As a start does: what is written of these hours is older than what was deleted since.
        let archived = known.days.iter().map(|(&day, &named)| {
            let file = None; // only its day counts here
            (day, Day { named, file })
        });
        days::recount(&kv, &archived.collect(), &mut known.hours)?;
        figures.devices = known.catalogue.devices.len() as u64;
        figures.series = known.catalogue.series;
        figures.blocks = known.hours.values().map(|hour| hour.blocks).sum();
        for (day, named) in &known.days {
            match DayFile::open(&days::path(dir, *day, named.revision)) {
                Ok(file) => match file.holds() {
                    Holds::Raw => figures.raw_days.add(&file),
                    Holds::Minute => figures.minute_days.add(&file),
                    Holds::Hour => figures.hour_days.add(&file),
                },
                Err(error) => figures.unreadable_days.push(error.to_string()),
            }
        }
        let first = known.hours.first_key_value();
        let last = known.hours.last_key_value();
        figures.hours = first
            .zip(last)
            .map(|((first, _), (last, _))| (*first, *last));
    }
    Ok(figures)
}
