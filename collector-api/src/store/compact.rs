//! Compaction: a day that is closed goes from blocks into one file, once more when late samples have come, and coarser as it ages. In its own thread: commits,
//! seals and reads go on.
//!
//! # Steps for a day, and what a crash between them leaves
//! 1. **Names**: the catalogue is copied beside the files (`names`). *Crash: nothing has happened.*
//! 2. **File**: what the day's file has, and the blocks of all seals up to the last one, stream by stream into a new revision; fsync, rename, fsync of the
//!    folder. *Crash: opening removes the file that no record names.*
//! 3. **Record**: the file, and the last of these seals; barrier. This is what counts from now on. *Crash before the barrier: either side is whole.*
//! 4. **Switch**: readers are given the file instead of the blocks, in one step under the lock.
//! 5. **Clean**: blocks of these seals are deleted in small batches, the older revision is unlinked. *Crash: they do not count; opening goes on deleting.*
//!
//! # Readers during the hand-over
//! A reader takes the list of days, the list of hours and the last seal under one lock. With the list from before the switch it reads the blocks, and the older
//! revision through its descriptor; with the one from behind it, the file, and of the blocks only those of later seals. Both are whole. Step 5 waits until
//! nobody holds the list from before.
//!
//! An error leaves the day as it was; it is tried again a minute later.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use devmon_core::wire::{DeviceId, TimestampMs};

use super::archive::{DayFile, Holds, Writer};
use super::block;
use super::days::{self, DAY_HOURS, Day, Days, Named};
use super::engine::StoreError;
use super::kv::{self, Table};
use super::local::{Shared, lock};
use super::merge::Merge;
use super::watermark::Watermark;
use super::{names, purge, retention};

/// How often the thread looks for something to do, or sooner if late samples are to wait for less.
const TICK: Duration = Duration::from_secs(60);
/// Late samples do not wait for all of `archive_late_after` if they take so much of the file's size …
const LATE_SHARE: u64 = 10;
/// … but for this part of it.
const LATE_PART: u32 = 36;
/// Deletes at once, and the pause behind them: sled frees a page for each page it writes, and commits share the disk.
const BATCH: usize = 64;
const PAUSE: Duration = Duration::from_millis(2);
/// How often it is looked whether readers are done with what is to be deleted.
const READERS: Duration = Duration::from_millis(2);

/// How the thread is spoken to.
#[derive(Default)]
pub(super) struct Signal {
    orders: Mutex<Orders>,
    changed: Condvar,
    /// Bytes of blocks and files of this round's days: done, and all.
    pub(super) round_bytes: (AtomicU64, AtomicU64),
}

#[derive(Default)]
struct Orders {
    stop: bool,
    /// Rounds that somebody waits for, and how many of those are done.
    wanted: u64,
    done: u64,
    /// Days that ended before count as closed for them.
    before: Option<TimestampMs>,
    result: Option<String>,
}

impl Signal {
    pub(super) fn stop(&self) {
        lock(&self.orders).stop = true;
        self.changed.notify_all();
    }

    fn stopped(&self) -> bool {
        lock(&self.orders).stop
    }

    pub(super) fn compact_and_wait(&self, before: TimestampMs) -> Result<(), String> {
        let mut orders = lock(&self.orders);
        orders.before = orders.before.max(Some(before));
        orders.wanted += 1;
        let mine = orders.wanted;
        self.changed.notify_all();
        while orders.done < mine {
            if orders.stop {
                return Err("the store is being closed".into());
            }
            let changed = self.changed.wait(orders);
            orders = changed.unwrap_or_else(PoisonError::into_inner);
        }
        orders.result.clone().map_or(Ok(()), Err)
    }
}

/// The thread's own state.
pub(super) struct Compactor {
    shared: Arc<Shared>,
    /// Streams that this seal and earlier ones wrote are in `names`.
    names_upto: Cell<u32>,
    /// Blocks were deleted since the database was last asked to give disk back.
    deleted: Cell<bool>,
}

/// A stream that is in the catalogue: its device and its place there.
type Live = HashMap<u32, (DeviceId, usize)>;

impl Compactor {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            names_upto: Cell::new(0),
            deleted: Cell::new(true),
        }
    }

    /// Runs until the signal says stop.
    pub(super) fn run(self) {
        let signal = &self.shared.compaction;
        let tick = TICK.min(self.shared.options.archive_late_after / LATE_PART);
        let tick = tick.max(Duration::from_millis(10));
        let mut first = true;
        loop {
            let (wanted, before) = {
                let mut orders = lock(&signal.orders);
                if !orders.stop && orders.wanted == orders.done && !first {
                    let waited = signal.changed.wait_timeout(orders, tick);
                    orders = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                if orders.stop {
                    return;
                }
                (orders.wanted, orders.before.take())
            };
            first = false;
            let problem = self.round(before).err().map(|error| error.to_string());
            let mut orders = lock(&signal.orders);
            if !orders.stop {
                self.report(problem.as_deref());
            }
            orders.done = wanted;
            orders.result = problem;
            signal.changed.notify_all();
        }
    }

    /// One line when it begins to fail, one when it works again.
    fn report(&self, problem: Option<&str>) {
        let mut known = lock(&self.shared.archive_problem);
        match (&*known, problem) {
            (None, Some(error)) => tracing::error!(
                error,
                "days can not be archived; they stay in the database until it works again"
            ),
            (Some(_), None) => tracing::info!("archiving works again"),
            _ => {}
        }
        *known = problem.map(str::to_owned);
    }

    /// Does what is due. A day that fails does not keep the others from it; the first error is returned.
    fn round(&self, before: Option<TimestampMs>) -> Result<(), StoreError> {
        let now = TimestampMs::now();
        let mut result = Ok(());
        let mut note = |done: Result<(), StoreError>| {
            if result.is_ok() {
                result = done;
            }
        };
        let unclean =
            |(day, of): (&u32, &Day)| (!of.named.clean && of.file.is_some()).then_some(*day);
        let left: Vec<u32> = self.days().iter().filter_map(unclean).collect();
        for day in left {
            note(self.clean(day));
        }
        if before.is_some()
            || self
                .due(now, None)
                .iter()
                .any(|day| !self.days().contains_key(day))
        {
            let sealed = self.shared.signal.seal_and_wait();
            sealed.map_err(|detail| self.failed(detail))?;
        }
        let due = self.due(now, before);
        let (done, all) = &self.shared.compaction.round_bytes;
        done.store(0, Relaxed);
        all.store(due.iter().map(|day| self.bytes_of(*day)).sum(), Relaxed);
        for day in due {
            self.check_stop()?;
            let bytes = self.bytes_of(day);
            note(self.day(day, now, None));
            done.fetch_add(bytes, Relaxed);
        }
        // Not in the loop's head: no list may be held there while one is replaced.
        note(self.forget(now));
        let aged = retention::due(&self.shared.options, &self.days(), now);
        for day in aged {
            self.check_stop()?;
            note(self.day(day, now, None));
        }
        loop {
            let next = retention::over_bytes(&self.shared.options, &self.days());
            let Some((day, holds)) = next else { break };
            self.check_stop()?;
            let done = match holds {
                Some(holds) => self.day(day, now, Some(holds)),
                None => self.drop_day(day, now),
            };
            let failed = done.is_err();
            note(done);
            if failed {
                break;
            }
        }
        if result.is_ok() && self.shared.read().hours.is_empty() {
            self.trim_journal()?;
        }
        if result.is_ok() && self.deleted.replace(false) && self.shared.kv.shrink()? {
            tracing::debug!(
                bytes = self.shared.kv.size_bytes(),
                "the database was written anew, smaller"
            );
        }
        result
    }

    /// All that was sealed is in files now: what a seal leaves of the journal, for a database that might be lost, has done its duty.
    fn trim_journal(&self) -> Result<(), StoreError> {
        let watermark = self.shared.kv.get(Table::Meta, Watermark::KEY)?;
        if let Some(watermark) = watermark.as_deref().and_then(Watermark::decode) {
            self.shared.journal.lock().trim_to(watermark.replay_from)?;
        }
        Ok(())
    }

    /// Removes what is left of forgotten devices: blocks, samples in day files, names. Then their tombstones.
    fn forget(&self, now: TimestampMs) -> Result<(), StoreError> {
        let (tombstones, hours) = {
            let state = self.shared.read();
            let hours: Vec<u32> = state.hours.keys().copied().collect();
            (state.tombstones.clone(), hours)
        };
        if tombstones.is_empty() {
            return Ok(());
        }
        let streams: BTreeSet<u32> = tombstones
            .iter()
            .flat_map(|t| t.streams.iter().copied())
            .collect();
        for hour in hours {
            for &stream in &streams {
                let from = block::key(hour, stream, 0, 0, 0);
                let to = block::key(hour, stream, u32::MAX, u32::MAX, u32::MAX);
                self.delete_between(hour, from, to, u32::MAX)?;
            }
        }
        let mut with_samples = Vec::new();
        for (&day, of) in self.days().iter() {
            if let Some(file) = &of.file
                && file
                    .streams()?
                    .iter()
                    .any(|stream| streams.contains(stream))
            {
                with_samples.push(day);
            }
        }
        for day in with_samples {
            self.check_stop()?;
            self.day(day, now, None)?;
        }
        if names::exist(&self.shared.dir) {
            names::write(&self.shared)?;
        }
        let kv = &*self.shared.kv;
        let openings = kv.openings();
        kv::barrier_since(kv, openings)?;
        for tombstone in &tombstones {
            purge::delete(kv, tombstone)?;
        }
        let mut state = self.shared.write();
        state
            .tombstones
            .retain(|tombstone| !tombstones.contains(tombstone));
        Ok(())
    }

    fn days(&self) -> Arc<Days> {
        self.shared.read().days.clone()
    }

    /// What a day takes in the database and in its file.
    fn bytes_of(&self, day: u32) -> u64 {
        let state = self.shared.read();
        let hours = day * DAY_HOURS..(day + 1) * DAY_HOURS;
        let blocks: u64 = state.hours.range(hours).map(|(_, hour)| hour.bytes).sum();
        let file = state.days.get(&day).and_then(|day| day.file.as_ref());
        blocks + file.map_or(0, |file| file.figures().bytes)
    }

    fn failed(&self, detail: String) -> StoreError {
        StoreError::Database {
            path: days::folder(&self.shared.dir),
            detail,
        }
    }

    fn check_stop(&self) -> Result<(), StoreError> {
        if self.shared.compaction.stopped() {
            return Err(self.failed("the store is being closed".into()));
        }
        Ok(())
    }

    /// Days with blocks that should be in a file by now, oldest first. `before`: all that ended by then.
    fn due(&self, now: TimestampMs, before: Option<TimestampMs>) -> Vec<u32> {
        let ms = |of: Duration| i64::try_from(of.as_millis()).unwrap_or(i64::MAX);
        let options = &self.shared.options;
        let after = ms(options.archive_after);
        let late_after = ms(options.archive_late_after);
        let late_at_least = ms(options.archive_late_after / LATE_PART);
        let state = self.shared.read();
        let mut bytes: BTreeMap<u32, u64> = BTreeMap::new();
        for (hour, figures) in &state.hours {
            *bytes.entry(hour / DAY_HOURS).or_default() += figures.bytes;
        }
        let is_due = |day: u32, late_bytes: u64| {
            let end = days::end_of(day);
            let of = state.days.get(&day);
            if of.is_some_and(|day| day.file.is_none()) {
                return false; // its file may come back from a backup
            }
            if before.is_some_and(|before| end <= before) {
                return true;
            }
            if end.0.saturating_add(after) > now.0 {
                return false;
            }
            let Some((of, file)) = of.and_then(|day| Some((day, day.file.as_ref()?))) else {
                return true;
            };
            let age = now.since(of.named.made);
            let much = late_bytes.saturating_mul(LATE_SHARE) > file.figures().bytes;
            age >= late_after || (much && age >= late_at_least)
        };
        bytes.retain(|day, bytes| is_due(*day, *bytes));
        bytes.into_keys().collect()
    }

    /// Makes the file of a day, as coarse as its age asks for, or as `at_least`; or drops the day.
    fn day(&self, day: u32, now: TimestampMs, at_least: Option<Holds>) -> Result<(), StoreError> {
        let Some(by_age) = retention::holds(&self.shared.options, day, now) else {
            return self.drop_day(day, now);
        };
        self.shared.reserve.hold()?;
        let (upto, old) = {
            let state = self.shared.read();
            (state.generation, state.days.get(&day).cloned())
        };
        let old_holds = old
            .as_ref()
            .and_then(|day| day.file.as_ref())
            .map(|f| f.holds());
        let holds = by_age
            .max(at_least.unwrap_or(Holds::Raw))
            .max(old_holds.unwrap_or(Holds::Raw));
        if self.names_upto.get() < upto {
            names::write(&self.shared)?;
            self.names_upto.set(upto);
        }
        let mut revision = old.as_ref().map_or(0, |day| day.named.revision) + 1;
        let mut path = days::path(&self.shared.dir, day, revision);
        // One of an attempt that failed behind its publication: its record may be on disk after all, and has to find that very file.
        while path.exists() {
            revision += 1;
            path = days::path(&self.shared.dir, day, revision);
        }
        let mut temporary = path.clone().into_os_string();
        temporary.push(days::TEMPORARY);
        let temporary = Path::new(&temporary);
        let begin = std::time::Instant::now();
        if old_holds.is_some_and(|old| old < holds) {
            tracing::debug!(day, to = ?holds, "making a day coarser");
        } else {
            tracing::debug!(day, holds = ?holds, "archiving a day");
        }
        let written = self.write(temporary, day, now, holds, upto, old.as_ref());
        if let Err(error) = written.and_then(|()| days::publish(temporary, &path)) {
            let removed = std::fs::remove_file(temporary);
            drop(removed); // else at the next start
            return Err(error);
        }
        let file = Arc::new(DayFile::open(&path)?);
        let named = Named {
            revision,
            upto,
            made: now,
            clean: false,
        };
        let openings = self.shared.kv.openings();
        days::put(&*self.shared.kv, day, named)?;
        kv::barrier_since(&*self.shared.kv, openings)?;
        let figures = file.figures();
        self.change(
            day,
            Some(Day {
                named,
                file: Some(file),
            }),
        );
        tracing::debug!(
            file = %path.display(),
            bytes = figures.bytes,
            samples = figures.samples,
            took_ms = begin.elapsed().as_millis() as u64,
            "a day was archived"
        );
        if let Some(old) = old {
            self.unlink(day, old.named.revision);
        }
        self.clean(day)
    }

    fn unlink(&self, day: u32, revision: u32) {
        let path = days::path(&self.shared.dir, day, revision);
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(file = %path.display(), %error, "a replaced day file can not be removed; it is removed at the next start");
        }
    }

    fn write(
        &self,
        path: &Path,
        day: u32,
        now: TimestampMs,
        holds: Holds,
        upto: u32,
        old: Option<&Day>,
    ) -> Result<(), StoreError> {
        let above = old.map_or(0, Day::hidden_upto);
        let file = old.and_then(|day| day.file.as_deref());
        let mut streams = self.streams(day)?;
        if let Some(file) = file {
            streams.extend(file.streams()?);
        }
        let live = self.live();
        let mut writer = Writer::create(path, day, holds)?;
        for stream in streams {
            self.check_stop()?;
            let Some(of) = live.get(&stream) else {
                continue; // of a device that was purged
            };
            let expired = self.expired(of, day, now);
            let wanted = |series: u32| !expired.contains(&series);
            let mut merge = Merge::default();
            if let Some(file) = file {
                merge.file(file, stream, &wanted)?;
            }
            merge.blocks(&*self.shared.kv, day, stream, (above, upto), &wanted)?;
            merge.write(&mut writer, stream, holds)?;
        }
        writer.finish()?;
        Ok(())
    }

    /// Streams with blocks on a day.
    fn streams(&self, day: u32) -> Result<BTreeSet<u32>, StoreError> {
        let mut streams = BTreeSet::new();
        for hour in day * DAY_HOURS..(day + 1) * DAY_HOURS {
            let mut next = Some(0);
            while let Some(stream) = next.take() {
                // One step for each stream, not for each block.
                let from = block::key(hour, stream, 0, 0, 0);
                let (_, to) = days::hour_keys(hour);
                self.shared
                    .kv
                    .scan(Table::Blocks, &from, &to, &mut |key, _| {
                        if let Some(found) = block::parse_key(key).map(|parts| parts.stream) {
                            streams.insert(found);
                            next = found.checked_add(1);
                        }
                        ControlFlow::Break(())
                    })?;
            }
        }
        Ok(streams)
    }

    fn live(&self) -> Live {
        let state = self.shared.read();
        let devices = state.catalogue.devices.iter();
        let streams = devices.flat_map(|(id, device)| {
            let numbered = device.streams.iter().enumerate();
            numbered.map(|(at, stream)| (stream.number, (id.clone(), at)))
        });
        streams.collect()
    }

    /// Series of a stream that are not kept for so long.
    fn expired(&self, (id, at): &(DeviceId, usize), day: u32, now: TimestampMs) -> BTreeSet<u32> {
        let options = &self.shared.options;
        if options.keep.is_empty() {
            return BTreeSet::new();
        }
        let state = self.shared.read();
        let device = state.catalogue.devices.get(id);
        let Some(stream) = device.and_then(|device| device.streams.get(*at)) else {
            return BTreeSet::new();
        };
        let top = stream.prefix();
        let is_expired =
            |below: &str| retention::is_expired(options, &format!("{top}{below}"), day, now);
        let expired = (0..)
            .zip(stream.layout.paths())
            .filter(|(_, below)| is_expired(below));
        expired.map(|(number, _)| number).collect()
    }

    /// Gives readers another file for a day, or none, and waits until nobody holds the list from before.
    fn change(&self, day: u32, to: Option<Day>) {
        let old = {
            let mut state = self.shared.write();
            let mut days = (*state.days).clone();
            match to {
                Some(to) => days.insert(day, to),
                None => days.remove(&day),
            };
            std::mem::replace(&mut state.days, Arc::new(days))
        };
        while Arc::strong_count(&old) > 1 && !self.shared.compaction.stopped() {
            std::thread::sleep(READERS);
        }
    }

    /// Deletes the blocks that the day's file holds.
    fn clean(&self, day: u32) -> Result<(), StoreError> {
        let Some(of) = self.days().get(&day).cloned() else {
            return Ok(());
        };
        let kv = &*self.shared.kv;
        let openings = kv.openings();
        tracing::debug!(day, "deleting blocks that a day file holds");
        for hour in day * DAY_HOURS..(day + 1) * DAY_HOURS {
            self.delete_blocks(hour, of.hidden_upto())?;
        }
        kv::barrier_since(kv, openings)?; // the record says that they are gone
        let named = Named {
            clean: true,
            ..of.named
        };
        days::put(kv, day, named)?;
        tracing::debug!(day, "blocks that a day file holds were deleted");
        self.change(day, Some(Day { named, ..of })); // with its wait: there is never more than one list from before
        Ok(())
    }

    fn delete_blocks(&self, hour: u32, upto: u32) -> Result<(), StoreError> {
        let (from, to) = days::hour_keys(hour);
        let generation = self.shared.read().generation;
        self.delete_between(hour, from, to, upto)?;
        let mut others = false;
        let scan = &mut |_: &[u8], _: &[u8]| {
            others = true;
            ControlFlow::Break(())
        };
        self.shared.kv.scan(Table::Blocks, &from, &to, scan)?;
        let mut state = self.shared.write();
        // The figures may be older than what an earlier life deleted. Without a seal since then nobody has added to them.
        if !others && state.generation == generation {
            state.hours.remove(&hour);
        }
        Ok(())
    }

    /// Deletes the blocks of an hour between two keys that were written up to a seal.
    fn delete_between(
        &self,
        hour: u32,
        mut from: [u8; block::KEY_BYTES],
        to: [u8; block::KEY_BYTES],
        upto: u32,
    ) -> Result<(), StoreError> {
        loop {
            self.check_stop()?;
            let mut found: Vec<(Vec<u8>, u64)> = Vec::new();
            self.shared
                .kv
                .scan(Table::Blocks, &from, &to, &mut |key, value| {
                    if block::generation_of(key).is_some_and(|generation| generation <= upto) {
                        found.push((key.to_vec(), (key.len() + value.len()) as u64));
                    }
                    if found.len() < BATCH {
                        ControlFlow::Continue(())
                    } else {
                        ControlFlow::Break(())
                    }
                })?;
            self.deleted.set(self.deleted.get() || !found.is_empty());
            for (key, bytes) in &found {
                self.shared.kv.delete(Table::Blocks, key)?;
                let mut state = self.shared.write();
                if let Some(figures) = state.hours.get_mut(&hour) {
                    figures.blocks = figures.blocks.saturating_sub(1);
                    figures.bytes = figures.bytes.saturating_sub(*bytes);
                    if figures.blocks == 0 {
                        state.hours.remove(&hour);
                    }
                }
            }
            match found.last() {
                Some((key, _)) if found.len() == BATCH => from.copy_from_slice(key),
                _ => return Ok(()),
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Removes a day that is kept in no tier any more: its file, then its blocks.
    fn drop_day(&self, day: u32, now: TimestampMs) -> Result<(), StoreError> {
        let old = self.days().get(&day).cloned();
        let upto = self.shared.read().generation;
        tracing::debug!(day, "removing a day that is kept no longer");
        if let Some(old) = &old {
            let openings = self.shared.kv.openings();
            days::delete(&*self.shared.kv, day)?;
            kv::barrier_since(&*self.shared.kv, openings)?;
            self.change(day, None);
            self.unlink(day, old.named.revision);
        }
        for hour in day * DAY_HOURS..(day + 1) * DAY_HOURS {
            self.delete_blocks(hour, upto)?;
        }
        let first_kept = retention::first_kept(&self.shared.options, now);
        let cutoff = days::end_of(day).max(first_kept);
        self.shared.write().catalogue.retain_from(cutoff);
        tracing::info!(day, "a day that is kept no longer was removed");
        Ok(())
    }
}
