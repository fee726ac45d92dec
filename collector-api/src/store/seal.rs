//! Sealing: heads become blocks, the catalogue is written down, the journal is trimmed. In its own thread, besides commits and reads.
//!
//! # Steps, and what a crash between them leaves
//! 1. **Cut** (in memory, under both locks): the heads are set aside, the journal begins a new segment. *Crash: nothing has happened.*
//! 2. **Intent**: the hours that will get blocks are written down; barrier. *Crash: opening finds an uncommitted generation and removes what it wrote.*
//! 3. **Blocks and records** under the new generation; barrier. *Crash: as above; readers ignore generations that are not committed.*
//! 4. **Watermark**: generation and the place of the cut; barrier. This commits the seal. *Crash before the barrier: either side of it is whole.*
//! 5. **Trim**: readers are switched from memory to blocks, the journal is trimmed, replaced records are removed. *Crash: opening replays nothing that is
//!    sealed, for it begins at the watermark; replaced records are removed then.*
//!
//! An error in 2 to 4 leaves what was cut in memory and in the journal, and the same seal is tried again; intake goes on meanwhile.
//! What somebody [pins](super::Pins) of the journal is not trimmed. The journal keeps its last segment even if all of it is sealed: its number is what the next segments count on from.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use devmon_core::journal::Position;
use devmon_core::wire::{DeviceId, TimestampMs};

use super::blob::{self, Id, Kind};
use super::block;
use super::engine::StoreError;
use super::groups::Groups;
use super::head::Rows;
use super::kv::{self, Table};
use super::local::{Shared, lock};
use super::persist::{self, Hour};
use super::purge::{self, Purged};
use super::watermark::Watermark;

/// How often the thread looks at the age of the heads.
const TICK: Duration = Duration::from_secs(1);
/// How long after an error sealing is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(10);
const INTENT: Id = Id {
    kind: Kind::Intent,
    number: 0,
};

/// How the thread is spoken to.
#[derive(Default)]
pub(super) struct Signal {
    state: Mutex<Wishes>,
    changed: Condvar,
}

#[derive(Default)]
struct Wishes {
    stop: bool,
    /// The heads are full: seal as soon as the last error is old enough.
    requested: bool,
    /// Seals that somebody waits for, and how many of those are done.
    wanted: u64,
    done: u64,
    result: Option<String>,
    /// Seals since the start, failed ones too.
    seals: u64,
}

impl Signal {
    pub(super) fn request(&self) {
        lock(&self.state).requested = true;
        self.changed.notify_all();
    }

    pub(super) fn stop(&self) {
        lock(&self.state).stop = true;
        self.changed.notify_all();
    }

    pub(super) fn seal_and_wait(&self) -> Result<(), String> {
        let mut wishes = lock(&self.state);
        wishes.wanted += 1;
        let mine = wishes.wanted;
        self.changed.notify_all();
        while wishes.done < mine {
            if wishes.stop {
                return Err("the store is being closed".into()); // the thread may have ended
            }
            wishes = self
                .changed
                .wait(wishes)
                .unwrap_or_else(PoisonError::into_inner);
        }
        wishes.result.clone().map_or(Ok(()), Err)
    }

    /// Waits for the end of a seal, or until `give_up`: then false.
    pub(super) fn wait_for_seal(&self, give_up: Instant) -> bool {
        let mut wishes = lock(&self.state);
        let seals = wishes.seals;
        while wishes.seals == seals {
            let left = give_up.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            wishes = self
                .changed
                .wait_timeout(wishes, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }
}

/// The sealing thread's own state.
pub(super) struct Sealer {
    shared: Arc<Shared>,
    next_generation: u32,
    /// The generation under which each record of the catalogue lies.
    records: HashMap<Id, u32>,
    /// A cut that is not in the database yet.
    cut: Option<Cut>,
}

/// What was set aside by a cut.
struct Cut {
    generation: u32,
    upto: Position,
    heads: Vec<(u32, Arc<Rows>)>,
    devices: Vec<DeviceId>,
    abouts: Vec<DeviceId>,
    /// It was tried before: what it wrote then is overwritten.
    retry: bool,
}

/// What the steps wrote, to be made true in memory.
#[derive(Default)]
struct Written {
    /// What it adds to each hour.
    hours: BTreeMap<u32, Hour>,
    records: Vec<Id>,
    /// Number of the stream, and how many of its series have their paths in the database.
    persisted: HashMap<u32, usize>,
    /// Devices that it wrote the catalogue without.
    purged: Vec<Purged>,
}

/// Which record, its bytes, and for one with a stream's paths how many it has.
type Record = (Id, Vec<u8>, Option<(u32, usize)>);

impl Sealer {
    pub(super) fn new(
        shared: Arc<Shared>,
        next_generation: u32,
        records: HashMap<Id, u32>,
    ) -> Self {
        Self {
            shared,
            next_generation,
            records,
            cut: None,
        }
    }

    /// Runs until the signal says stop.
    pub(super) fn run(mut self) {
        let mut not_before = Instant::now();
        loop {
            let (requested, wanted) = {
                let mut wishes = lock(&self.shared.signal.state);
                if !wishes.stop && wishes.wanted == wishes.done {
                    let waited = self.shared.signal.changed.wait_timeout(wishes, TICK);
                    wishes = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                if wishes.stop {
                    self.finish(&mut wishes, None);
                    return;
                }
                (wishes.requested, wishes.wanted)
            };
            let asked = lock(&self.shared.signal.state).done < wanted;
            let due = requested || self.is_old() || self.cut.is_some();
            if asked || (due && Instant::now() >= not_before) {
                let problem = self.seal().err().map(|error| error.to_string());
                self.report(problem.as_deref());
                if problem.is_some() {
                    not_before = Instant::now() + RETRY_AFTER;
                }
                let shared = self.shared.clone();
                let mut wishes = lock(&shared.signal.state);
                wishes.done = wishes.done.max(wanted);
                wishes.requested = false;
                wishes.seals += 1;
                self.finish(&mut wishes, problem);
            }
        }
    }

    fn finish(&self, wishes: &mut Wishes, problem: Option<String>) {
        if wishes.stop {
            wishes.done = wishes.wanted;
            wishes.result = Some("the store is being closed".into());
        } else {
            wishes.result = problem;
        }
        self.shared.signal.changed.notify_all();
    }

    fn is_old(&self) -> bool {
        let since = self.shared.read().unsealed_since;
        let most = i64::try_from(self.shared.options.seal_age.as_millis()).unwrap_or(i64::MAX);
        since.is_some_and(|since| TimestampMs::now().since(since) >= most)
    }

    /// One line when it begins to fail, one when it works again.
    fn report(&self, problem: Option<&str>) {
        let mut known = lock(&self.shared.sealing_problem);
        match (&*known, problem) {
            (None, Some(error)) => tracing::error!(
                error,
                "sealing fails; the journal keeps all until it works again"
            ),
            (Some(_), None) => tracing::info!("sealing works again"),
            _ => {}
        }
        *known = problem.map(str::to_owned);
    }

    fn seal(&mut self) -> Result<(), StoreError> {
        let shared = self.shared.clone();
        let _sealing = lock(&shared.sealing);
        shared.reserve.hold()?;
        // A cut that failed before goes first; then what has come since, if that was asked for.
        let begin = Instant::now();
        for _ in 0..2 {
            let again = self.cut.is_some();
            if !again {
                self.cut = self.make_cut();
            }
            let Some(cut) = &mut self.cut else {
                return Ok(());
            };
            let retry = std::mem::replace(&mut cut.retry, true);
            let Some(cut) = &self.cut else { return Ok(()) };
            tracing::debug!(generation = cut.generation, "sealing");
            let written = self.write(cut, retry)?;
            let samples: u64 = cut.heads.iter().map(|(_, rows)| rows.samples()).sum();
            tracing::debug!(
                generation = cut.generation,
                samples,
                took_ms = begin.elapsed().as_millis() as u64,
                "sealed"
            );
            self.switch(written);
            if !again {
                break;
            }
        }
        Ok(())
    }

    /// Step 1.
    fn make_cut(&mut self) -> Option<Cut> {
        let mut journal = self.shared.journal.lock();
        let mut state = self.shared.write();
        let mut cut = Cut {
            generation: self.next_generation,
            upto: Position::START,
            heads: Vec::new(),
            devices: Vec::new(),
            abouts: Vec::new(),
            retry: false,
        };
        for (id, device) in &mut state.catalogue.devices {
            if !device.touched {
                continue;
            }
            device.touched = false;
            cut.devices.push(id.clone());
            if std::mem::take(&mut device.about_touched) {
                cut.abouts.push(id.clone());
            }
            for stream in &mut device.streams {
                if !stream.rows.is_empty() {
                    let rows = Arc::new(std::mem::take(&mut stream.rows));
                    stream.sealing = Some(rows.clone());
                    cut.heads.push((stream.number, rows));
                }
            }
        }
        if cut.devices.is_empty() && state.catalogue.purged.is_empty() {
            return None;
        }
        journal.roll();
        cut.upto = journal.committed();
        state.sealing_samples = std::mem::take(&mut state.catalogue.head_samples);
        state.unsealed_since = None;
        self.shared.unsealed_bytes.store(0, Relaxed);
        self.next_generation += 1;
        Some(cut)
    }

    /// Steps 2 to 4.
    fn write(&self, cut: &Cut, retry: bool) -> Result<Written, StoreError> {
        let kv = &*self.shared.kv;
        let openings = kv.openings();
        let barrier = || kv::barrier_since(kv, openings);
        let mut written = Written::default();

        let heads = cut.heads.iter();
        let hours: BTreeSet<u32> = heads.flat_map(|(_, rows)| rows.hours()).collect();
        if retry {
            blob::delete(kv, INTENT, cut.generation)?;
        }
        blob::put(
            kv,
            INTENT,
            cut.generation,
            &persist::intent(hours.into_iter()),
        )?;
        barrier()?;

        // One stream after the other: the second copy that sorting takes is of one stream only.
        for (stream, rows) in &cut.heads {
            for (hour, table) in rows.tables() {
                let figures = written.hours.entry(hour).or_default();
                block::encode(&table, hour, *stream, cut.generation, &mut |key, value| {
                    figures.blocks += 1;
                    figures.bytes += (key.len() + value.len()) as u64;
                    kv.put(Table::Blocks, &key, &value)
                })?;
            }
        }
        let mut put = |kind: Kind, number: u32, record: &[u8]| {
            let id = Id { kind, number };
            if retry {
                blob::delete(kv, id, cut.generation)?; // a shorter record would keep the longer one's last pieces
            }
            written.records.push(id);
            blob::put(kv, id, cut.generation, record)
        };
        for id in &cut.devices {
            for (id, record, persisted) in self.records_of(id, cut.abouts.contains(id)) {
                put(id.kind, id.number, &record)?;
                written.persisted.extend(persisted);
            }
        }
        written.purged = self.shared.read().catalogue.purged.clone();
        for purged in &written.purged {
            purge::put(kv, purged)?;
        }
        let groups = Groups::of(&self.shared.read().catalogue, &cut.devices, &written.purged);
        for id in groups.ids() {
            let record = groups.record(&self.shared.read().catalogue, id, &written.persisted);
            put(id.kind, id.number, &record)?;
        }
        let checkpoint = {
            let state = self.shared.read();
            let mut hours = state.hours.clone();
            add(&mut hours, &written.hours);
            persist::checkpoint(&state.catalogue, &hours)
        };
        put(Kind::Checkpoint, 0, &checkpoint)?;
        barrier()?;

        let watermark = Watermark {
            generation: cut.generation,
            replay_from: cut.upto,
        };
        kv.put(Table::Meta, Watermark::KEY, &watermark.encode())?;
        barrier()?;
        Ok(written)
    }

    /// The records of a device alone, as it is now: newer than the cut, which is harmless.
    fn records_of(&self, id: &DeviceId, about: bool) -> Vec<Record> {
        let state = self.shared.read();
        let Some(device) = state.catalogue.devices.get(id) else {
            return Vec::new();
        };
        let number = device.number;
        let mut records = Vec::new();
        if let Some(about) = device.about.as_ref().filter(|_| about) {
            let record = persist::about(about);
            records.push((
                Id {
                    kind: Kind::About,
                    number,
                },
                record,
                None,
            ));
        }
        for stream in &device.streams {
            if stream.series.len() > stream.persisted {
                let id = Id {
                    kind: Kind::Stream,
                    number: stream.number,
                };
                let persisted = Some((stream.number, stream.series.len()));
                records.push((id, persist::stream(number, stream), persisted));
            }
        }
        records
    }

    /// Step 5: nothing in it can undo the seal, so its errors are only logged.
    fn switch(&mut self, written: Written) {
        let Some(cut) = self.cut.take() else { return };
        {
            let mut state = self.shared.write();
            state.generation = cut.generation;
            add(&mut state.hours, &written.hours);
            state.sealing_samples = 0;
            for id in &cut.devices {
                let Some(device) = state.catalogue.devices.get_mut(id) else {
                    continue;
                };
                for stream in &mut device.streams {
                    stream.sealing = None;
                    if let Some(&persisted) = written.persisted.get(&stream.number) {
                        stream.persisted = persisted;
                    }
                }
            }
        }
        let all_but_the_last = Position {
            segment: cut.upto.segment,
            offset: 0,
        };
        let held = self.shared.options.pins.oldest();
        let no_longer_needed = held.map_or(all_but_the_last, |held| held.min(all_but_the_last));
        if let Err(error) = self.shared.journal.lock().trim_to(no_longer_needed) {
            tracing::warn!(%error, "the journal can not be trimmed; it is tried again at the next seal");
        }
        if let Err(error) = self.bury(written.purged) {
            tracing::warn!(%error, "records of a forgotten device can not be removed; they are removed at the next start");
        }
        let mut replaced = vec![(INTENT, cut.generation)];
        for id in written.records {
            replaced.extend(
                self.records
                    .insert(id, cut.generation)
                    .map(|generation| (id, generation)),
            );
        }
        for (id, generation) in replaced {
            if let Err(error) = blob::delete(&*self.shared.kv, id, generation) {
                tracing::warn!(%error, "a replaced record can not be removed; it is removed at the next start");
                return;
            }
        }
    }
}

impl Sealer {
    /// Removes the records of devices that the catalogue was written without; what else is left of them is compaction's.
    fn bury(&mut self, purged: Vec<Purged>) -> Result<(), StoreError> {
        for purged in purged {
            let streams = purged.streams.iter().map(|stream| (Kind::Stream, *stream));
            for (kind, number) in streams.chain([(Kind::About, purged.device)]) {
                let id = Id { kind, number };
                if let Some(generation) = self.records.remove(&id) {
                    blob::delete(&*self.shared.kv, id, generation)?;
                }
            }
            let mut state = self.shared.write();
            state
                .catalogue
                .purged
                .retain(|other| other.device != purged.device);
            state.tombstones.push(purged);
        }
        Ok(())
    }
}

/// Adds what a seal wrote to the figures of the hours.
fn add(hours: &mut BTreeMap<u32, Hour>, written: &BTreeMap<u32, Hour>) {
    for (hour, added) in written {
        let figures = hours.entry(*hour).or_default();
        figures.blocks += added.blocks;
        figures.bytes += added.bytes;
    }
}
