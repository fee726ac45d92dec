//! Opening: the database, what a crash left in it, the catalogue, and the journal behind the watermark.
//!
//! In order: open the database (its own ladder: `kv`) → remove blocks and records of a seal that was never committed → read the catalogue → open the day
//! files, and remove those that do not count → replay the journal. A catalogue that can not be read ends like a database that can not be opened: it is moved aside, and what the journal holds is replayed.

use std::collections::HashMap;
use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use devmon_core::journal::{Journal, Position};

use super::blob::{self, Id};
use super::block;
use super::days;
use super::engine::StoreError;
use super::kv::{self, Kv, SledKv, Table};
use super::labels;
use super::local::{State, lock};
use super::names;
use super::persist::{self, Restore};
use super::purge;
use super::record::{self, Entry};
use super::reserve::Reserve;
use super::watermark::Watermark;

/// An open store, but for its threads.
pub(super) struct Opened {
    pub(super) kv: Box<dyn Kv>,
    pub(super) state: State,
    pub(super) next_generation: u32,
    /// The generation of each record that counts.
    pub(super) records: HashMap<Id, u32>,
    pub(super) replayed_bytes: u64,
    pub(super) degraded: Option<String>,
}

/// How far opening is, for others than the thread that opens.
#[derive(Debug, Default)]
pub struct HowFar {
    step: Mutex<&'static str>,
    done: AtomicU64,
    /// 0: it is not known how much there is to do.
    total: AtomicU64,
}

impl HowFar {
    /// The step that it is at, what of it is done, and how much there is to do, 0 if nobody knows.
    #[must_use]
    pub fn now(&self) -> (&'static str, u64, u64) {
        let step = lock(&self.step);
        (*step, self.done.load(Relaxed), self.total.load(Relaxed))
    }

    pub(super) fn begin(&self, name: &'static str, total: u64) {
        let mut step = lock(&self.step);
        self.done.store(0, Relaxed);
        self.total.store(total, Relaxed);
        *step = name;
    }

    fn done(&self, amount: u64) {
        self.done.fetch_add(amount, Relaxed);
    }
}

impl fmt::Display for HowFar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.now() {
            (step, _, 0) => f.write_str(step),
            (step, done, total) => {
                let percent = done.min(total).saturating_mul(100) / total;
                write!(f, "{step}, {percent} %")
            }
        }
    }
}

pub(super) fn open(
    dir: &Path,
    journal: &Journal,
    reserve: &Arc<Reserve>,
    how_far: &HowFar,
    wrap: impl FnOnce(Box<dyn Kv>) -> Box<dyn Kv>,
) -> Result<Opened, StoreError> {
    how_far.begin("reading the database", 0);
    let db = dir.join("db");
    let opened = SledKv::open(&db, reserve)?;
    let mut aside = opened.quarantined;
    let mut kv: Box<dyn Kv> = Box::new(opened.kv);
    // Only what can not be what was written is moved aside; a full disk or a missing permission is an error, and the database stays.
    let is_damage = |e: &StoreError| matches!(e, StoreError::DamagedBlock { .. });
    let mut loaded = load(&*kv);
    if loaded.as_ref().is_err_and(is_damage) {
        // Once more on a fresh start: sled panics for other reasons too.
        drop(kv);
        let opened = SledKv::open(&db, reserve)?;
        aside = aside.or(opened.quarantined);
        kv = Box::new(opened.kv);
        loaded = load(&*kv);
    }
    if let Some(error) = loaded.as_ref().err().filter(|e| is_damage(e)) {
        drop(kv);
        let moved_to = kv::quarantine(&db)?;
        tracing::error!(%error, moved_to = %moved_to.display(), "the database's catalogue can not be read; beginning an empty one");
        aside = Some(moved_to);
        kv = Box::new(SledKv::open(&db, reserve)?.kv);
        loaded = load(&*kv);
    }
    let loaded = loaded?;
    if let Some(aside) = aside {
        tracing::warn!(lies_in = %aside.display(), "the store goes on with what the journal holds");
    }
    let Loaded {
        mut state,
        next_generation,
        records,
        watermark,
    } = loaded;
    how_far.begin("opening the day files", 0);
    let adopt = watermark.is_none();
    if adopt {
        take_up_names(dir, &mut state)?;
    }
    let archive = days::open(dir, &*kv, adopt)?;
    days::recount(&*kv, &archive.days, &mut state.hours)?;
    if adopt {
        state.catalogue.keep_clear_of(&archive.days)?;
    }
    state.days = Arc::new(archive.days);
    let degraded = degraded(dir, archive.problems)?;
    let kv = wrap(kv);
    let from = replay_from(&*kv, journal, watermark)?;
    let replayed_bytes = replay(journal, from, &mut state, how_far)?;
    labels::restore(&*kv, &mut state.catalogue)?;
    Ok(Opened {
        kv,
        state,
        next_generation,
        records,
        replayed_bytes,
        degraded,
    })
}

/// What was moved aside at this or an earlier start and still waits for somebody: not forgotten at the next one.
pub(super) fn degraded(dir: &Path, day_files: Vec<String>) -> Result<Option<String>, StoreError> {
    let mut aside = Vec::new();
    for (folder, mark) in [
        (dir.to_owned(), ".quarantine-"),
        (dir.join("journal"), ".dmj.damaged"),
    ] {
        let failed = |e: std::io::Error| StoreError::Database {
            path: folder.clone(),
            detail: e.to_string(),
        };
        for entry in std::fs::read_dir(&folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().contains(mark))
            {
                aside.push(path.display().to_string());
            }
        }
    }
    aside.sort();
    let mut said = Vec::new();
    if !aside.is_empty() {
        said.push(format!(
            "data that could not be read at a start lies in {}; what journal and archive held was restored, the rest is missing. Move it out of the data directory once it has been dealt with",
            aside.join(", ")
        ));
    }
    if !day_files.is_empty() {
        said.push(format!(
            "the samples of these days are missing until their files are brought back from a backup: {}",
            day_files.join(", ")
        ));
    }
    Ok((!said.is_empty()).then(|| said.join(". ")))
}

/// Begins with the catalogue that lies beside the day files. Without one they are nobody's: then all of the archive is moved aside.
fn take_up_names(dir: &Path, state: &mut State) -> Result<(), StoreError> {
    let folder = days::folder(dir);
    match names::read(dir) {
        Ok(Some(catalogue)) => {
            tracing::warn!(
                devices = catalogue.devices.len(),
                "the database is empty: the catalogue beside the archive is taken up"
            );
            state.catalogue = catalogue;
        }
        Ok(None) if !days::has_files(dir)? => {}
        without => {
            let moved_to = kv::quarantine(&folder)?;
            let error = without.err().map(|e| e.to_string());
            tracing::error!(error, moved_to = %moved_to.display(), "nothing says whose samples the day files hold; beginning an empty archive");
        }
    }
    Ok(())
}

struct Loaded {
    state: State,
    next_generation: u32,
    records: HashMap<Id, u32>,
    watermark: Option<Watermark>,
}

fn load(kv: &dyn Kv) -> Result<Loaded, StoreError> {
    let damaged = |key: String, detail: &dyn std::fmt::Display| StoreError::DamagedBlock {
        key,
        detail: detail.to_string(),
    };
    let watermark = match kv.get(Table::Meta, Watermark::KEY)? {
        None => None,
        Some(bytes) => {
            let watermark = Watermark::decode(&bytes);
            Some(watermark.ok_or_else(|| damaged("watermark".into(), &"not of our form"))?)
        }
    };
    let generation = watermark.map_or(0, |w| w.generation);
    let tombstones = purge::load(kv)?;
    let mut restore = Restore::new(&tombstones);
    let mut records = HashMap::new();
    let leftovers = blob::load(kv, generation, &mut |id, generation, record| {
        restore
            .record(id, &record)
            .map_err(|e| damaged(format!("{id:?}"), &e))?;
        records.insert(id, generation);
        Ok(())
    })?;
    let highest = leftovers
        .garbage
        .iter()
        .map(|(_, generation)| *generation)
        .max()
        .unwrap_or(0);
    for (uncommitted, intent) in &leftovers.intents {
        let hours = persist::read_intent(intent).unwrap_or_default(); // damaged: the crash came before any block
        tracing::info!(
            generation = uncommitted,
            hours = hours.len(),
            "removing what an unfinished seal wrote"
        );
        for hour in hours {
            remove_blocks(kv, hour, *uncommitted)?;
        }
    }
    if !leftovers.garbage.is_empty() {
        kv.barrier()?; // blocks first: the intent names them
        for (id, generation) in leftovers.garbage {
            blob::delete(kv, id, generation)?;
        }
        kv.barrier()?;
    }
    let (remains, tombstones) = restore.remains(tombstones);
    for id in remains {
        if let Some(generation) = records.remove(&id) {
            blob::delete(kv, id, generation)?;
        }
    }
    let (catalogue, hours) = restore
        .finish()
        .map_err(|e| damaged("catalogue".into(), &e))?;
    let state = State {
        catalogue,
        generation,
        hours,
        tombstones,
        ..State::default()
    };
    Ok(Loaded {
        state,
        next_generation: generation.max(highest) + 1,
        records,
        watermark,
    })
}

fn remove_blocks(kv: &dyn Kv, hour: u32, generation: u32) -> Result<(), StoreError> {
    let (from, to) = (hour.to_be_bytes(), (u64::from(hour) + 1).to_be_bytes());
    let mut keys = Vec::new();
    kv.scan(Table::Blocks, &from, &to[4..], &mut |key, _| {
        if block::generation_of(key) == Some(generation) {
            keys.push(key.to_vec());
        }
        ControlFlow::Continue(())
    })?;
    keys.iter()
        .try_for_each(|key| kv.delete(Table::Blocks, key))
}

/// Where replay begins: at the watermark; or at the start, when this is not the journal that the watermark speaks of.
fn replay_from(
    kv: &dyn Kv,
    journal: &Journal,
    watermark: Option<Watermark>,
) -> Result<Position, StoreError> {
    let Some(watermark) = watermark else {
        return Ok(Position::START);
    };
    if watermark.replay_from <= journal.committed() {
        return Ok(watermark.replay_from);
    }
    // Somebody moved the journal away. A new one counts from the start; replaying what is known changes nothing.
    tracing::warn!("the journal is shorter than the database says; replaying all of it");
    let from_start = Watermark {
        replay_from: Position::START,
        ..watermark
    };
    kv.put(Table::Meta, Watermark::KEY, &from_start.encode())?;
    kv.barrier()?;
    Ok(Position::START)
}

/// Applies what lies behind `from`; returns how many bytes that were.
fn replay(
    journal: &Journal,
    from: Position,
    state: &mut State,
    how_far: &HowFar,
) -> Result<u64, StoreError> {
    how_far.begin("replaying the journal", journal.bytes_behind(from));
    let mut bytes = 0;
    let mut unreadable = 0u64;
    let mut first_problem = None;
    for entry in journal.read_from(from) {
        let entry = entry?;
        bytes += entry.payload.len() as u64;
        how_far.done(entry.payload.len() as u64);
        match record::decode(&entry.payload) {
            Ok(Entry::Purge { device, received }) => {
                state.unsealed_since.get_or_insert(received);
                // What was seen later only is in the catalogue already, and another device.
                let known = state.catalogue.devices.get(&device);
                if known.is_some_and(|known| known.first_seen <= received) {
                    state.catalogue.purge(&device);
                }
            }
            Ok(Entry::Message(item)) => {
                state.unsealed_since.get_or_insert(item.received);
                // No check for repeats: what is in the journal was new when it came, and the catalogue may be ahead of it.
                state.catalogue.apply(&item);
            }
            Err(error) => {
                unreadable += 1;
                first_problem.get_or_insert(error);
            }
        }
    }
    if let Some(error) = first_problem {
        tracing::error!(unreadable, %error, "messages in the journal can not be read by this release and are left out");
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_it_is_is_said_in_percent_once_that_is_known() {
        let how_far = HowFar::default();
        how_far.begin("reading", 0);
        assert_eq!(how_far.to_string(), "reading");
        how_far.begin("replaying", 300);
        how_far.done(100);
        assert_eq!(how_far.to_string(), "replaying, 33 %");
        how_far.done(250); // an estimate may be short
        assert_eq!(how_far.to_string(), "replaying, 100 %");
    }
}
