//! The store on the local disk: the journal, the catalogue with the heads, the database, and who may touch which when.
//!
//! # Order of locks
//! journal → state. A commit holds the journal for the length of an fsync and the state only while it applies what is durable, so readers never wait for the
//! disk. Nor does who asks for figures: they are known without the journal's lock (`measured`). Readers have their turns between the messages of a commit, so they may see its first messages before its last, but each message whole. Two threads work behind them, `seal` and `compact`; the second one takes the state only to look and to switch. The sealing thread (`seal`) takes both for a moment to cut, and neither while it writes blocks.
//!
//! # Files in the store's directory
//! | name | what |
//! |---|---|
//! | `journal/` | what was committed and may not be in the database yet |
//! | `archive/` | closed days, one file each (`archive`), and whose samples they are (`names`) |
//! | `db/` | sled: sealed samples and the catalogue |
//! | `db.quarantine-<ms>/` | a database that could not be opened, moved aside whole |
//! | `dead-letters/` | refused messages |
//! | `reserve` | room for a full disk (`reserve`) |

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use devmon_core::MetricPath;
use devmon_core::journal::{self, Journal, Position};
use devmon_core::wire::labels::MAX_LABELS;
use devmon_core::wire::{DeviceId, Labels, MessageId, TimestampMs};
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::admit::{Admission, Growth};
use super::archive::Holds;
use super::bounds::Bounds;
use super::catalogue::Catalogue;
use super::compact::Compactor;
use super::days::{self, Days};
use super::dead_letters::DeadLetters;
use super::engine::{
    Accepted, Committed, Content, DeadLetter, DeviceRecord, SeriesRange, SeriesRecord,
    SeriesRollups, Store, StoreError, StoreStatus, Stretch,
};
use super::kv::{self, Kv};
use super::measured::Measured;
use super::open::{self, HowFar};
use super::persist::Hour;
use super::pin::Pins;
use super::purge::Purged;
use super::reserve::Reserve;
use super::retention::Keep;
use super::rollup::Tier;
use super::seal::Sealer;
use super::writing::{Write, Writing};
use super::{follow, labels, range, record, stored};

/// Trimming works by whole segments, and one always stays.
const JOURNAL_SEGMENT_BYTES: u64 = 32 << 20;
/// Samples that a commit applies before who waits to read has a turn: half a millisecond of work, where a whole batch may be 30.
const SAMPLES_PER_TURN: u64 = 2000;
/// How long commits wait for a seal when the heads are full.
const SEAL_PATIENCE: Duration = Duration::from_secs(10);

/// How the store is kept. The defaults suit one collector on one disk.
#[derive(Debug, Clone)]
pub struct Options {
    /// Days older than this lose their raw samples, and keep rollups of a minute and an hour.
    pub retention: Duration,
    /// Days older than this lose the rollups of a minute, too.
    pub retention_1m: Duration,
    /// Days older than this are deleted, if the other two do not keep them longer.
    pub retention_1h: Duration,
    /// What is kept for a shorter time, in all tiers.
    pub keep: Vec<Keep>,
    /// Bound on the day files, in bytes: beyond it the oldest day of the finest tier goes coarser, first.
    pub archive_max_bytes: Option<u64>,
    /// A day becomes a file so long after its end.
    pub archive_after: Duration,
    /// Late samples of a day are merged into its file so long after it was made; a 36th of that if they are much.
    pub archive_late_after: Duration,
    /// The heads are sealed into blocks when the journal has grown by this since the last time: what a restart has to replay, at some 100 MB/s.
    pub seal_journal_bytes: u64,
    /// The heads are sealed when their oldest sample arrived so long ago.
    pub seal_age: Duration,
    /// The heads are sealed when they hold so many samples, at 2 to 9 bytes of memory each if they are numbers.
    pub seal_samples: u64,
    /// The heads are sealed when they take about so many bytes of memory: what bounds texts. Estimated upwards, 32 bytes for a sample and what its text takes,
    /// so that numbers reach [`seal_samples`](Self::seal_samples) first. Sealing needs the same again for a moment.
    pub seal_bytes: u64,
    /// These bounds grow with the number of series, so that a seal has some rows of each to write; the memory of the heads not beyond this.
    pub seal_max_bytes: u64,
    /// Bound on the dead letters, in bytes; the oldest go first.
    pub dead_letters_bytes: u64,
    /// Devices that the store takes; the first message of one more is refused.
    pub max_devices: u64,
    /// Series of one device, those without samples too; a message with one more is refused.
    pub max_device_series: u64,
    /// Series of all devices.
    pub max_series: u64,
    /// Who needs the journal for longer than the store does.
    pub pins: Pins,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            retention: Duration::from_secs(30 * 86_400),
            retention_1m: Duration::from_secs(365 * 86_400),
            retention_1h: Duration::from_secs(5 * 365 * 86_400),
            keep: Vec::new(),
            archive_max_bytes: None,
            archive_after: Duration::from_secs(3600),
            archive_late_after: Duration::from_secs(6 * 3600),
            seal_journal_bytes: 256 << 20,
            seal_age: Duration::from_secs(3600),
            seal_samples: 2_000_000,
            seal_bytes: 256 << 20,
            seal_max_bytes: 4 << 30,
            dead_letters_bytes: 16 << 20,
            max_devices: 1_000_000,
            max_device_series: 100_000,
            max_series: 10_000_000, // some 1.5 GB of memory
            pins: Pins::default(),
        }
    }
}

/// The store in a directory. Dropping it ends its thread; what was committed is safe at any time.
pub struct Engine {
    shared: Arc<Shared>,
    sealer: Option<std::thread::JoinHandle<()>>,
    compactor: Option<std::thread::JoinHandle<()>>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("dir", &self.shared.dir)
            .finish_non_exhaustive()
    }
}

/// What the engine and its sealing thread share.
pub(super) struct Shared {
    pub(super) dir: PathBuf,
    pub(super) options: Options,
    pub(super) journal: Measured<Journal>,
    /// Held while a seal is made, and while a device is forgotten: a seal knows of a device either everything or nothing. Taken before all others.
    pub(super) sealing: Mutex<()>,
    state: RwLock<State>,
    pub(super) kv: Box<dyn Kv>,
    pub(super) reserve: Arc<Reserve>,
    pub(super) letters: Measured<DeadLetters>,
    pub(super) signal: super::seal::Signal,
    pub(super) compaction: super::compact::Signal,
    /// Appended to the journal since the last cut.
    pub(super) unsealed_bytes: AtomicU64,
    last_commit_us: AtomicU64,
    writing: Writing,
    pub(super) sealing_problem: Mutex<Option<String>>,
    pub(super) archive_problem: Mutex<Option<String>>,
    pub(super) degraded: Option<String>,
}

/// What readers see.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) catalogue: Catalogue,
    /// The last seal that was committed; blocks of a higher one do not count.
    pub(super) generation: u32,
    /// Forgotten devices of which something is left on disk.
    pub(super) tombstones: Vec<Purged>,
    /// Hours that have blocks.
    pub(super) hours: BTreeMap<u32, Hour>,
    /// Days that have a file. Replaced as a whole (`compact`): a reader keeps the list that it began with while it reads.
    pub(super) days: Arc<Days>,
    /// Samples that are being sealed.
    pub(super) sealing_samples: u64,
    /// Arrival of the oldest message that is not in the database.
    pub(super) unsealed_since: Option<TimestampMs>,
}

impl Shared {
    pub(super) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read()
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write()
    }
}

/// A thread that panicked elsewhere has not left data half-changed: each change is one call.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Engine {
    /// Opens or makes the store in `dir`. Blocks while the journal is replayed.
    ///
    /// A database that can not be opened is moved aside, and the store goes on with what the journal holds; [`StoreStatus::degraded`] says so.
    ///
    /// # Errors
    /// [`StoreError`]: the directory is in use, the journal is damaged, the disk does not take writes. It names the file and what to do.
    pub fn open(dir: &Path, options: Options) -> Result<Self, StoreError> {
        Self::open_watched(dir, options, &HowFar::default())
    }

    /// As [`open`](Self::open); `how_far` says how far it is, meanwhile.
    ///
    /// # Errors
    /// As there.
    pub fn open_watched(
        dir: &Path,
        options: Options,
        how_far: &HowFar,
    ) -> Result<Self, StoreError> {
        Self::open_as(dir, options, how_far, |kv| kv)
    }

    /// Opens the store with something between it and its database: tests break it there.
    #[cfg(test)]
    pub(super) fn open_with(
        dir: &Path,
        options: Options,
        wrap: impl FnOnce(Box<dyn Kv>) -> Box<dyn Kv>,
    ) -> Result<Self, StoreError> {
        Self::open_as(dir, options, &HowFar::default(), wrap)
    }

    fn open_as(
        dir: &Path,
        options: Options,
        how_far: &HowFar,
        wrap: impl FnOnce(Box<dyn Kv>) -> Box<dyn Kv>,
    ) -> Result<Self, StoreError> {
        let journal_options = journal::Options {
            segment_bytes: JOURNAL_SEGMENT_BYTES.min(options.seal_journal_bytes),
            ..journal::Options::default()
        };
        how_far.begin("checking the journal's last segment", 0);
        // First: its lock keeps a second collector from the database, too.
        let (journal, recovery) = Journal::open(&dir.join("journal"), journal_options)?;
        if recovery.torn_bytes > 0 {
            tracing::warn!(
                torn_bytes = recovery.torn_bytes,
                "cut off the journal what a crash left half written"
            );
        }
        let letters = DeadLetters::open(&dir.join("dead-letters"), options.dead_letters_bytes)?;
        let reserve = Arc::new(Reserve::of(dir));
        let opened = open::open(dir, &journal, &reserve, how_far, wrap)?;
        if let Err(error) = reserve.hold() {
            tracing::warn!(%error, "nothing is taken in until then");
        }
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            options,
            unsealed_bytes: AtomicU64::new(opened.replayed_bytes),
            journal: Measured::new(journal, Journal::size_bytes),
            sealing: Mutex::new(()),
            state: RwLock::new(opened.state),
            kv: opened.kv,
            reserve,
            letters: Measured::new(letters, DeadLetters::size_bytes),
            signal: super::seal::Signal::default(),
            compaction: super::compact::Signal::default(),
            last_commit_us: AtomicU64::new(0),
            writing: Writing::default(),
            sealing_problem: Mutex::new(None),
            archive_problem: Mutex::new(None),
            degraded: opened.degraded,
        });
        let sealer = Sealer::new(shared.clone(), opened.next_generation, opened.records);
        let no_thread = |e: std::io::Error| StoreError::Database {
            path: dir.to_owned(),
            detail: format!("no thread: {e}"),
        };
        let thread = |name: &str| std::thread::Builder::new().name(name.into());
        let compactor = Compactor::new(shared.clone());
        let mut engine = Self {
            shared,
            sealer: None,
            compactor: None,
        };
        let spawned = thread("store-seal").spawn(move || sealer.run());
        engine.sealer = Some(spawned.map_err(no_thread)?);
        let spawned = thread("store-compact").spawn(move || compactor.run());
        engine.compactor = Some(spawned.map_err(no_thread)?);
        Ok(engine)
    }

    /// Seals, and makes files of all days that are over, late samples included; waits for it.
    ///
    /// # Errors
    /// [`StoreError`]: not all days could be archived. Nothing is lost; it is tried again later.
    pub fn compact_now(&self) -> Result<(), StoreError> {
        self.compact_before(TimestampMs::now())
    }

    /// As [`compact_now`](Self::compact_now) with the days that ended by `before`.
    ///
    /// # Errors
    /// As there.
    pub fn compact_before(&self, before: TimestampMs) -> Result<(), StoreError> {
        let compacted = self.shared.compaction.compact_and_wait(before);
        compacted.map_err(|detail| StoreError::Database {
            path: self.shared.dir.clone(),
            detail,
        })
    }

    /// Bytes of the days that are being made into files: done, and all.
    #[must_use]
    pub fn compacting(&self) -> (u64, u64) {
        let (done, all) = &self.shared.compaction.round_bytes;
        (done.load(Relaxed), all.load(Relaxed))
    }

    /// Seals now and waits for it: what was committed before is in blocks afterwards.
    ///
    /// # Errors
    /// [`StoreError`]: the database did not take it. Nothing is lost; it is tried again later.
    pub fn seal_now(&self) -> Result<(), StoreError> {
        self.shared
            .signal
            .seal_and_wait()
            .map_err(|detail| StoreError::Database {
                path: self.shared.dir.clone(),
                detail,
            })
    }
}

#[cfg(test)]
impl Engine {
    /// Blocks that are really there, for comparison with the figures.
    pub(super) fn count_blocks(&self) -> u64 {
        let mut blocks = 0;
        let count = &mut |_: &[u8], _: &[u8]| {
            blocks += 1;
            std::ops::ControlFlow::Continue(())
        };
        let scanned = self
            .shared
            .kv
            .scan(super::kv::Table::Blocks, &[], &[0xff; 32], count);
        scanned.unwrap();
        blocks
    }

    /// What it has and who may touch it when, to hold a lock for longer than anybody else does.
    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Samples that readers see in the heads.
    pub(super) fn head_samples(&self) -> u64 {
        self.shared.read().catalogue.head_samples
    }

    /// What the heads are taken to hold, those being sealed too.
    pub(super) fn head_bytes(&self) -> u64 {
        self.shared.read().catalogue.head_bytes.get()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // First, for it waits for seals.
        self.shared.compaction.stop();
        if self
            .compactor
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("the compacting thread had panicked");
        }
        self.shared.signal.stop();
        if self
            .sealer
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("the sealing thread had panicked");
        }
    }
}

impl Shared {
    /// Waits while the heads hold far more than the sealing thread was asked to leave in them.
    fn wait_for_room(&self) -> Result<(), StoreError> {
        let (most_samples, most_bytes) = {
            let series = self.read().catalogue.all_series;
            Bounds::of(&self.options, series).most(&self.options)
        };
        let full = || {
            let state = self.read();
            state.catalogue.head_samples + state.sealing_samples > most_samples
                || state.catalogue.head_bytes.get() > most_bytes
        };
        let give_up = Instant::now() + SEAL_PATIENCE;
        while full() {
            self.signal.request();
            if !self.signal.wait_for_seal(give_up) {
                let detail = format!(
                    "more than {most_samples} samples or {most_bytes} bytes of them wait to be sealed: the database does not keep up, or fails"
                );
                return Err(StoreError::Database {
                    path: self.dir.clone(),
                    detail,
                });
            }
        }
        Ok(())
    }

    fn commit(&self, batch: &[Accepted]) -> Result<Vec<Committed>, StoreError> {
        let mut committed = Vec::with_capacity(batch.len());
        while let Some(rest) = batch.get(committed.len()..).filter(|rest| !rest.is_empty()) {
            committed.extend(self.commit_some(rest)?);
        }
        Ok(committed)
    }

    /// Commits the front of a batch: all of it but near a limit.
    fn commit_some(&self, batch: &[Accepted]) -> Result<Vec<Committed>, StoreError> {
        self.reserve.hold()?;
        self.wait_for_room()?;
        let mut journal = self.journal.lock();
        let verdicts = self.judge(batch);
        let mut bytes = 0;
        let mut buffer = Vec::new();
        for (item, verdict) in batch.iter().zip(&verdicts) {
            if verdict.is_none() {
                buffer.clear();
                record::encode(item, &mut buffer);
                journal.append(&buffer)?; // too long for a record: not after the intake's limits
                bytes += buffer.len() as u64;
            }
        }
        journal.commit()?;
        // Durable from here on; still under the journal's lock, so that a cut falls between two batches.
        let mut state = self.write();
        let mut committed = Vec::with_capacity(verdicts.len());
        let mut in_turn = 0;
        for (item, verdict) in batch.iter().zip(verdicts) {
            if let Some(verdict) = verdict {
                committed.push(verdict);
                continue;
            }
            state.unsealed_since.get_or_insert(item.received);
            let samples = state.catalogue.apply(item);
            committed.push(Committed::Stored { samples });
            in_turn += samples;
            if in_turn >= SAMPLES_PER_TURN {
                in_turn = 0;
                RwLockWriteGuard::bump(&mut state); // costs nothing if nobody waits
            }
        }
        // Those being sealed too, and then it is asked for what is done already: that does nothing.
        let bounds = Bounds::of(&self.options, state.catalogue.all_series);
        let full = state.catalogue.head_samples > bounds.samples
            || state.catalogue.head_bytes.get() > bounds.bytes;
        drop(state);
        drop(journal);
        let unsealed = self.unsealed_bytes.fetch_add(bytes, Relaxed) + bytes;
        if unsealed > bounds.journal_bytes || full {
            self.signal.request();
        }
        Ok(committed)
    }

    /// For each item why it is not to be stored, up to one that can only be judged when those before it are stored.
    fn judge(&self, batch: &[Accepted]) -> Vec<Option<Committed>> {
        let state = self.read();
        let catalogue = &state.catalogue;
        let mut in_batch = HashSet::new();
        let mut growth = Growth::default();
        let mut verdicts = Vec::with_capacity(batch.len());
        for item in batch {
            let device = catalogue.devices.get(&item.device);
            let id = match &item.content {
                Content::Metrics { id, .. } => id.as_ref().map(|id| (&item.device, id)),
                _ => None,
            };
            let is_repeat = |id: &(&DeviceId, &MessageId)| {
                device.is_some_and(|device| device.seen.contains(id.1)) || in_batch.contains(id)
            };
            if id.as_ref().is_some_and(is_repeat) {
                verdicts.push(Some(Committed::Duplicate));
                continue;
            }
            match growth.admit(catalogue, device, item, &self.options) {
                Admission::Yes => {
                    in_batch.extend(id);
                    verdicts.push(None);
                }
                Admission::No { reason, limit } => {
                    verdicts.push(Some(Committed::Refused { reason, limit }));
                }
                Admission::Later => break,
            }
        }
        verdicts
    }

    /// Forgets a device: durable in the journal, then in memory; the rest is the next seal's and compaction's.
    fn purge(&self, device: &str) -> Result<bool, StoreError> {
        let sealing = lock(&self.sealing);
        let mut journal = self.journal.lock();
        let known = self
            .read()
            .catalogue
            .devices
            .get_key_value(device)
            .map(|(id, _)| id.clone());
        let Some(id) = known else {
            return Ok(false);
        };
        let now = TimestampMs::now();
        let mut record = Vec::new();
        record::encode_purge(&id, now, &mut record);
        journal.append(&record)?;
        journal.commit()?;
        let mut state = self.write();
        state.unsealed_since.get_or_insert(now);
        let labels = state.catalogue.devices.get_mut(&id);
        let labels = labels.and_then(|device| device.labels.take());
        state.catalogue.purge(&id);
        drop((state, journal));
        // What is left of them by a failure here is older than a device of this name can be, and goes with the next start.
        for name in labels.iter().flat_map(|labels| labels.keys()) {
            if let Err(error) = labels::put(&*self.kv, &id, name, None, now) {
                tracing::warn!(%error, "a label of a forgotten device stays until the next start");
                break;
            }
        }
        drop(sealing);
        tracing::info!(device = id.as_str(), "a device was forgotten");
        self.signal.request();
        Ok(true)
    }

    /// Changes the labels of a device: durable in the database, then in memory.
    fn label(
        &self,
        device: &str,
        changes: &BTreeMap<String, Option<String>>,
    ) -> Result<bool, StoreError> {
        let _sealing = lock(&self.sealing); // one writer at a time
        let known = {
            let state = self.read();
            let found = state.catalogue.devices.get_key_value(device);
            found.map(|(id, device)| (id.clone(), device.first_seen, device.labels.clone()))
        };
        let Some((id, first_seen, labels)) = known else {
            return Ok(false);
        };
        let mut labels = labels.map_or_else(Labels::new, |labels| (*labels).clone());
        for (name, value) in changes {
            match value {
                Some(value) => labels.insert(name.clone(), value.clone()),
                None => labels.remove(name),
            };
        }
        if labels.len() > MAX_LABELS {
            return Err(StoreError::TooManyLabels { limit: MAX_LABELS });
        }
        self.reserve.hold()?;
        // The clock may have gone back since the device was new.
        let given = TimestampMs::now().max(first_seen);
        let openings = self.kv.openings();
        for (name, value) in changes {
            labels::put(&*self.kv, &id, name, value.as_deref(), given)?;
        }
        kv::barrier_since(&*self.kv, openings)?;
        if let Some(device) = self.write().catalogue.devices.get_mut(&id) {
            device.labels = (!labels.is_empty()).then(|| Arc::new(labels));
        }
        Ok(true)
    }
}

impl Store for Engine {
    fn commit(&self, batch: &[Accepted]) -> Result<Vec<Committed>, StoreError> {
        let begin = Instant::now();
        let writing = &self.shared.writing;
        let result = writing.during(Write::Messages, || self.shared.commit(batch));
        let took = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.shared.last_commit_us.store(took, Relaxed);
        result
    }

    fn purge(&self, device: &str) -> Result<bool, StoreError> {
        let writing = &self.shared.writing;
        writing.during(Write::Change, || self.shared.purge(device))
    }

    fn label(
        &self,
        device: &str,
        changes: &BTreeMap<String, Option<String>>,
    ) -> Result<bool, StoreError> {
        let writing = &self.shared.writing;
        let label = || match self.shared.label(device, changes) {
            Err(error @ StoreError::TooManyLabels { .. }) => Ok(Err(error)), // no fault of the disk
            result => result.map(Ok),
        };
        writing.during(Write::Change, label)?
    }

    fn bury(&self, letters: Vec<DeadLetter>) -> Result<(), StoreError> {
        self.shared.writing.during(Write::DeadLetters, || {
            self.shared.reserve.hold()?;
            Ok(self.shared.letters.lock().bury(&letters)?)
        })
    }

    fn devices(
        &self,
        after: Option<&str>,
        limit: usize,
        keep: &dyn Fn(&DeviceRecord) -> bool,
    ) -> Vec<DeviceRecord> {
        self.shared.read().catalogue.list(after, limit, keep)
    }

    fn device(&self, id: &str) -> Option<DeviceRecord> {
        let state = self.shared.read();
        let (id, device) = state.catalogue.devices.get_key_value(id)?;
        Some(device.record(id))
    }

    fn series(
        &self,
        device: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Vec<SeriesRecord> {
        let state = self.shared.read();
        let device = state.catalogue.devices.get(device);
        device.map_or_else(Vec::new, |device| device.list(prefix, after, limit))
    }

    fn range(
        &self,
        device: &str,
        paths: &[MetricPath],
        from: TimestampMs,
        to: TimestampMs,
        limit: usize,
    ) -> Result<Vec<SeriesRange>, StoreError> {
        range::range(&self.shared, device, paths, from, to, limit)
    }

    fn rollups(
        &self,
        device: &str,
        paths: &[MetricPath],
        tier: Tier,
        from: TimestampMs,
        to: TimestampMs,
        limit: usize,
    ) -> Result<Vec<SeriesRollups>, StoreError> {
        let question = stored::Question {
            device,
            paths,
            tier,
            bucket_ms: tier.bucket_ms().unwrap_or(i64::MAX),
            limit,
        };
        let to = if tier == Tier::Raw { from } else { to };
        stored::rollups(&self.shared, &question, from, to)
    }

    fn kept_from(&self, tier: Tier) -> TimestampMs {
        stored::kept_from(&self.shared, tier)
    }

    fn follow(&self, from: Position, max_bytes: u64) -> Result<Stretch, StoreError> {
        follow::follow(&self.shared, from, max_bytes)
    }

    fn dead_letters(
        &self,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        Ok(self.shared.letters.lock().list(before, limit))
    }

    fn status(&self) -> StoreStatus {
        let shared = &self.shared;
        let state = shared.read();
        let files = || state.days.values().filter_map(|day| day.file.as_deref());
        let oldest = |holds| {
            let mut days = files().filter(|file| file.holds() == holds);
            days.next().map(|file| days::start_of(file.day())) // by day
        };
        StoreStatus {
            problem: shared.writing.problem(),
            sealing_problem: lock(&shared.sealing_problem).clone(),
            degraded: shared.degraded.clone(),
            devices: state.catalogue.devices.len() as u64,
            series: state.catalogue.series,
            journal_bytes: shared.journal.size_bytes(),
            blocks: state.hours.values().map(|hour| hour.blocks).sum(),
            database_bytes: shared.kv.size_bytes(),
            head_samples: state.catalogue.head_samples + state.sealing_samples,
            dead_letters_bytes: shared.letters.size_bytes(),
            archive_problem: lock(&shared.archive_problem).clone(),
            archive_files: files().count() as u64,
            archive_bytes: files().map(|file| file.figures().bytes).sum(),
            oldest_day: oldest(Holds::Raw),
            oldest_day_1m: oldest(Holds::Minute),
            oldest_day_1h: oldest(Holds::Hour),
            last_commit_us: shared.last_commit_us.load(Relaxed),
        }
    }
}
