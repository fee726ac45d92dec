//! What is not yet acknowledged: messages wait here from the moment they are packed until the broker's PUBACK.
//!
//! Live data goes first: after an outage the newest message leaves at once, and what gathered meanwhile follows as backlog, oldest first.
//!
//! While the broker answers, messages are in memory only and nothing is written to disk. What is not acknowledged within [`PATIENCE`] is handed to the [`spool`](crate::spool) and leaves memory, unless
//! it is just being sent; [`Durability::Strict`] writes each message at once. So a kill -9 or a power cut costs what was measured in the last seconds of an
//! outage, or nothing. A spool that can not be written gives its messages back, and they wait in memory.
//!
//! Memory is bounded by bytes. When it is full, what is on disk as well leaves it first and is read again later, then what is not is written. Only when the spool refuses, the oldest messages are
//! dropped and counted by [`DropReason`], for a fresh value is worth more than an old one. While a disk that stalls owes an answer, memory may hold [twice the bound](Outbox::make_room); beyond it
//! messages are dropped all the same.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use devmon_core::journal::Position;
use serde::Deserialize;

use crate::spool::{Event, SpoolThread, State, Waiting};

/// Default bound in memory: some 5 000 messages of a small device, over an hour at 1 s.
pub const DEFAULT_BYTES: usize = 8 * 1024 * 1024;
/// What a message costs beside its payload: map entry, vector header, allocator.
const OVERHEAD_BYTES: usize = 128;
/// Unacknowledged for this long: the broker does not answer. Then one write for all that waits, so an outage costs flash one write in this time.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Messages that are read back from disk at a time; as much again when half of it is sent.
const WAKE: usize = 64;
/// And their bytes; of a small outbox a quarter. The last one may exceed it.
const WAKE_BYTES: usize = 1024 * 1024;

/// When messages are written to disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// When the broker does not answer, and at the end.
    #[default]
    Relaxed,
    /// Each, at once.
    Strict,
}

/// Why a message was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DropReason {
    /// Memory was full, the spool took nothing, and this was the oldest message.
    OutboxFull,
    /// The spool was over its bytes, and this was among the oldest.
    SpoolFull,
    /// It was in the spool for longer than its age limit.
    SpoolAge,
    /// The disk changed its bytes; counted once a segment.
    SpoolDamaged,
    /// The agent ended before the broker had acknowledged it, and it could not be spooled.
    Shutdown,
}

impl DropReason {
    /// The name in logs and counters.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OutboxFull => "outbox_full",
            Self::SpoolFull => "spool_full",
            Self::SpoolAge => "spool_age",
            Self::SpoolDamaged => "spool_damaged",
            Self::Shutdown => "shutdown",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Live,
    Backlog,
    InFlight,
}

#[derive(Debug)]
struct Entry {
    /// `None`: it is in flight, and to send it again it is read from disk.
    payload: Option<Vec<u8>>,
    place: Place,
    since: Instant,
    disk: Disk,
}

/// Whether a message is on disk as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disk {
    No,
    /// It was handed to the spool's thread, which has not answered yet.
    Asked,
    At(Position),
    /// It was, and the spool deleted it to keep its bounds. It is not written again: that would only delete others.
    Deleted,
}

impl Disk {
    /// On disk, or with the spool's thread, which gives it back if it can not write it.
    fn has_it(self) -> bool {
        matches!(self, Self::Asked | Self::At(_))
    }
}

impl Entry {
    fn size_bytes(&self) -> usize {
        cost(self.payload.as_deref())
    }

    /// In memory only, and of use to the spool.
    fn is_unwritten(&self) -> bool {
        self.disk == Disk::No && self.payload.is_some()
    }
}

fn cost(payload: Option<&[u8]>) -> usize {
    payload.map_or(0, <[u8]>::len) + OVERHEAD_BYTES
}

/// Messages in memory, and what the spool has behind them. Called by one task at a time.
#[derive(Debug)]
pub struct Outbox {
    limit_bytes: usize,
    bytes: usize,
    durability: Durability,
    /// By number in order of arrival, so oldest first.
    entries: BTreeMap<u64, Entry>,
    next_key: u64,
    /// Entries at each place, so that nobody searches for what is not there.
    live: usize,
    backlog: usize,
    dropped: BTreeMap<DropReason, u64>,
    spool: Option<SpoolThread>,
    /// As the spool's thread last said.
    state: State,
    problem: Option<String>,
    /// Bytes of each order to store that is not answered yet.
    storing: VecDeque<usize>,
    /// Left memory while they were being stored.
    let_go: BTreeSet<u64>,
    /// Left memory for they are on disk, and the spool has not yet said that it knows: with the number of the order that tells it.
    parting: BTreeMap<Position, u64>,
    /// How often the spool was told that messages sleep again.
    told: u64,
    waking: bool,
    connected: bool,
    /// How often the spool was rewound.
    rewinds: u64,
}

impl Outbox {
    #[must_use]
    pub fn new(limit_bytes: usize, durability: Durability) -> Self {
        Self {
            limit_bytes,
            bytes: 0,
            durability,
            entries: BTreeMap::new(),
            next_key: 0,
            live: 0,
            backlog: 0,
            dropped: BTreeMap::new(),
            spool: None,
            state: State::default(),
            problem: None,
            storing: VecDeque::new(),
            let_go: BTreeSet::new(),
            parting: BTreeMap::new(),
            told: 0,
            waking: false,
            connected: false,
            rewinds: 0,
        }
    }

    /// Gives it a spool; the spool's events come back through [`on_spool`](Self::on_spool).
    pub fn set_spool(&mut self, spool: SpoolThread) {
        self.spool = Some(spool);
    }

    #[must_use]
    pub fn durability(&self) -> Durability {
        self.durability
    }

    /// Takes a message. May drop older ones.
    pub fn push(&mut self, payload: Vec<u8>, now: Instant) {
        self.insert(payload, Place::Live, now, Disk::No);
        self.write_at_once();
        self.make_room();
    }

    /// Strict: hands over what is not written. A spool that refuses is asked again by [`maintain`](Self::maintain), one that is behind when it has answered.
    fn write_at_once(&mut self) {
        if self.durability == Durability::Strict && self.problem.is_none() && !self.is_behind() {
            self.spill(true);
        }
    }

    /// The spool has more to write than it should be given: the rest would only be dropped later.
    fn is_behind(&self) -> bool {
        self.storing_bytes() > self.limit_bytes / 2
    }

    fn storing_bytes(&self) -> usize {
        self.storing.iter().sum()
    }

    fn insert(&mut self, payload: Vec<u8>, place: Place, since: Instant, disk: Disk) {
        let key = self.next_key;
        self.next_key += 1;
        self.put(key, payload, place, since, disk);
    }

    fn put(&mut self, key: u64, payload: Vec<u8>, place: Place, since: Instant, disk: Disk) {
        self.count(place, 1);
        let entry = Entry {
            payload: Some(payload),
            place,
            since,
            disk,
        };
        self.bytes += entry.size_bytes();
        self.entries.insert(key, entry);
    }

    /// The next message to send: live first, then backlog if `backlog` allows. It counts as in flight from here.
    pub fn next(&mut self, backlog: bool) -> Option<(u64, Vec<u8>)> {
        let place = match (self.live, self.backlog) {
            (1.., _) => Place::Live,
            (0, 1..) if backlog => Place::Backlog,
            _ => return None,
        };
        // Live messages are the newest: a search from the end finds the first of the few there are, in their order.
        let found = if place == Place::Live {
            let newest_first = self.entries.iter().rev().filter(|(_, e)| e.place == place);
            newest_first.take(self.live).last()
        } else {
            self.entries.iter().find(|(_, e)| e.place == place)
        };
        let key = *found?.0;
        self.count(place, -1);
        let entry = self.entries.get_mut(&key)?;
        entry.place = Place::InFlight;
        let payload = entry.payload.clone()?; // only what is in flight has none
        self.refill();
        Some((key, payload))
    }

    /// The broker has it. Unknown numbers are ignored: it may have been dropped meanwhile.
    pub fn acknowledged(&mut self, key: u64) {
        if let Some(entry) = self.remove(key)
            && let Disk::At(place) = entry.disk
        {
            self.settle(place);
        }
        self.refill();
    }

    /// The connection is gone: what was in flight or live is backlog now; what is on disk as well leaves memory.
    pub fn disconnected(&mut self) {
        self.connected = false;
        (self.bytes, self.live, self.backlog) = (0, 0, 0);
        let mut on_disk = Vec::new();
        for (key, entry) in std::mem::take(&mut self.entries) {
            match (entry.disk, entry.payload) {
                (Disk::At(place), _) => on_disk.push(place),
                (disk, Some(payload)) => {
                    self.put(key, payload, Place::Backlog, entry.since, disk);
                }
                (Disk::Asked, None) => {
                    self.let_go.insert(key);
                }
                // It was in flight only: neither here nor on disk any more.
                (Disk::No | Disk::Deleted, None) => self.drop_one(DropReason::SpoolFull),
            }
        }
        if let Some(spool) = self.spool.as_ref().filter(|_| !on_disk.is_empty()) {
            self.rewinds += 1;
            spool.rewind();
            self.part(&on_disk);
        }
    }

    /// These are on disk only, and the spool was just told so.
    fn part(&mut self, places: &[Position]) {
        self.told += 1;
        let told = self.told;
        self.parting.extend(places.iter().map(|p| (*p, told)));
        self.state.sleeps = true;
    }

    /// A connection stands: the newest message is live, all before it are backlog.
    pub fn connected(&mut self) {
        self.disconnected();
        self.connected = true;
        if let Some(mut newest) = self.entries.last_entry() {
            newest.get_mut().place = Place::Live;
            self.live += 1;
            self.backlog -= 1;
        }
        self.refill();
    }

    /// When [`maintain`](Self::maintain) has something to write, if nothing is acknowledged until then.
    #[must_use]
    pub fn next_maintenance(&self) -> Option<Instant> {
        self.spool.as_ref()?;
        let unwritten = self.entries.values().find(|e| e.is_unwritten())?;
        Some(unwritten.since + PATIENCE)
    }

    /// Writes what has waited too long.
    pub fn maintain(&mut self, now: Instant) {
        let due = self.next_maintenance().is_some_and(|at| now >= at);
        if due && self.storing.is_empty() {
            self.spill(false);
        }
    }

    /// Hands to the spool what it has not. What is in flight stays in memory as well; with `keep` everything does.
    fn spill(&mut self, keep: bool) {
        if self.spool.is_none() {
            return;
        }
        let unwritten = self.entries.iter().filter(|(_, e)| e.is_unwritten());
        let keys: Vec<u64> = unwritten.map(|(key, _)| *key).collect();
        let mut waiting = Vec::with_capacity(keys.len());
        for key in keys {
            let Some(entry) = self.entries.get_mut(&key) else {
                continue;
            };
            let awake = keep || entry.place == Place::InFlight;
            let payload = if awake {
                entry.disk = Disk::Asked;
                entry.payload.clone()
            } else {
                self.remove(key).and_then(|e| e.payload)
            };
            waiting.push(Waiting {
                key,
                payload: payload.unwrap_or_default(), // there is one: that was asked above
                awake,
            });
        }
        if let Some(spool) = self.spool.as_ref().filter(|_| !waiting.is_empty()) {
            let bytes = waiting.iter().map(|w| cost(Some(&w.payload))).sum();
            self.storing.push_back(bytes);
            spool.store(waiting);
        }
    }

    /// The end: everything is handed to the spool, which writes it and ends. `None`: there is no spool.
    pub fn close(&mut self) -> Option<std::thread::JoinHandle<()>> {
        for entry in self.entries.values_mut() {
            if entry.disk == Disk::Deleted {
                entry.disk = Disk::No; // the newer ones have been delivered meanwhile, or not: it is the last chance
            }
        }
        self.spill(true);
        self.spool.take().map(SpoolThread::stop)
    }

    /// Messages in memory that are not on disk.
    #[must_use]
    pub fn unwritten(&self) -> usize {
        let written = |e: &&Entry| !matches!(e.disk, Disk::At(_));
        self.entries.values().filter(written).count() + self.let_go.len()
    }

    /// Takes what the spool's thread has to say.
    pub fn on_spool(&mut self, event: Event, now: Instant) {
        match event {
            Event::Opened(state) | Event::Settled(state) => self.learn(state),
            Event::Stored(places, state) => {
                self.storing.pop_front();
                self.problem = None;
                self.stored(places, state.rewinds == self.rewinds);
                self.learn(state);
                self.write_at_once();
            }
            Event::Refused(messages, problem) => {
                self.storing.pop_front();
                self.problem = Some(problem);
                for message in messages {
                    self.refused(message, now);
                }
            }
            Event::Woken(messages, state) => {
                self.waking = false;
                // Of before a lost connection: they sleep again.
                let valid = state.rewinds == self.rewinds;
                for (place, payload) in messages.into_iter().filter(|_| valid) {
                    self.insert(payload, Place::Backlog, now, Disk::At(place));
                }
                self.learn(state);
            }
        }
        self.make_room();
        self.refill();
    }

    /// These are on disk, awake. Not `current`: a lost connection has put them to sleep since.
    fn stored(&mut self, places: Vec<(u64, Position)>, current: bool) {
        let mut asleep = Vec::new();
        for (key, place) in places {
            match self.entries.get_mut(&key) {
                Some(entry) if current || entry.place == Place::InFlight => {
                    entry.disk = Disk::At(place);
                }
                Some(_) => {
                    self.remove(key);
                }
                None if self.let_go.remove(&key) => asleep.push(place),
                // Acknowledged meanwhile.
                None => self.settle(place),
            }
        }
        self.sleep(asleep);
    }

    /// The spool could not write it.
    fn refused(&mut self, message: Waiting, now: Instant) {
        let Waiting {
            key,
            payload,
            awake,
        } = message;
        if let Some(entry) = self.entries.get_mut(&key) {
            self.bytes -= entry.size_bytes();
            (entry.disk, entry.since) = (Disk::No, now);
            entry.payload = Some(payload);
            self.bytes += entry.size_bytes();
        } else if self.let_go.remove(&key) || !awake {
            self.put(key, payload, Place::Backlog, now, Disk::No);
        }
    }

    /// What the spool deleted to keep its own bounds is on disk no more.
    fn learn(&mut self, state: State) {
        let oldest = state.oldest;
        if oldest != self.state.oldest {
            for entry in self.entries.values_mut() {
                if matches!(entry.disk, Disk::At(place) if place < oldest) {
                    entry.disk = Disk::Deleted;
                }
            }
        }
        let mut lost = 0;
        self.parting.retain(|place, told| {
            let knows = *told <= state.told; // then it counts for itself
            lost += u64::from(!knows && *place < oldest);
            !knows && *place >= oldest
        });
        if lost > 0 {
            *self.dropped.entry(DropReason::SpoolFull).or_default() += lost;
        }
        self.state = state;
        self.state.sleeps |= !self.parting.is_empty();
    }

    fn settle(&mut self, place: Position) {
        if let Some(spool) = &self.spool {
            spool.settle(vec![place]);
        }
    }

    fn sleep(&mut self, places: Vec<Position>) {
        if let Some(spool) = self.spool.as_ref().filter(|_| !places.is_empty()) {
            spool.sleep(places.clone());
            self.part(&places);
        }
    }

    /// Reads more back from disk before the backlog in memory runs out. Not into memory that is half full: it would leave again at once.
    fn refill(&mut self) {
        let Some(spool) = &self.spool else { return };
        let has_room = self.bytes <= self.limit_bytes / 2;
        if self.connected
            && self.state.sleeps
            && !self.waking
            && has_room
            && self.backlog < WAKE / 2
        {
            self.waking = true;
            spool.wake(WAKE, WAKE_BYTES.min(self.limit_bytes / 4));
        }
    }

    /// Keeps the bound: by forgetting what is on disk or on its way there, then by writing, and by dropping only if the spool refuses, or owes an answer for so long
    /// that memory and what it was handed are over twice the bound.
    fn make_room(&mut self) {
        if self.bytes > self.limit_bytes && self.spool.is_some() {
            self.forget_payloads();
            self.forget_what_is_on_disk();
            if self.bytes > self.limit_bytes && self.problem.is_none() && !self.is_behind() {
                self.spill(false);
                self.forget_payloads();
            }
        }
        let is_awaited = !self.storing.is_empty() && self.problem.is_none();
        let most = if is_awaited {
            (2 * self.limit_bytes).saturating_sub(self.storing_bytes())
        } else {
            self.limit_bytes
        };
        while self.bytes > most {
            let Some(key) = self.victim() else { break };
            self.remove(key);
            self.drop_one(DropReason::OutboxFull);
        }
    }

    /// Of what is in flight, the bytes are needed only if the connection is lost; then it is read from disk.
    fn forget_payloads(&mut self) {
        let in_flight = self
            .entries
            .values_mut()
            .filter(|e| e.place == Place::InFlight && e.disk.has_it() && e.payload.is_some());
        for entry in in_flight {
            self.bytes -= entry.size_bytes();
            entry.payload = None;
            self.bytes += entry.size_bytes();
        }
    }

    /// Until the bound holds: backlog that was read too early, then the oldest live messages.
    fn forget_what_is_on_disk(&mut self) {
        let (mut excess, mut keys) = (self.bytes.saturating_sub(self.limit_bytes), Vec::new());
        for place in [Place::Backlog, Place::Live] {
            let there = self.entries.iter().filter(|(_, e)| e.place == place);
            for (key, entry) in there.filter(|(_, e)| e.disk.has_it()) {
                if excess == 0 {
                    break;
                }
                excess = excess.saturating_sub(entry.size_bytes());
                keys.push(*key);
            }
        }
        let mut asleep = Vec::new();
        for key in keys {
            match self.remove(key).map(|e| e.disk) {
                Some(Disk::At(place)) => asleep.push(place),
                Some(Disk::Asked) => {
                    self.let_go.insert(key);
                }
                Some(Disk::No | Disk::Deleted) | None => {}
            }
        }
        self.sleep(asleep);
    }

    fn drop_one(&mut self, reason: DropReason) {
        *self.dropped.entry(reason).or_default() += 1;
    }

    /// The oldest message that is neither in flight nor on disk, else the oldest of all, but never the newest.
    fn victim(&self) -> Option<u64> {
        let newest = *self.entries.last_key_value()?.0;
        let only_here = |e: &Entry| e.payload.is_some() && !e.disk.has_it();
        let in_memory = || self.entries.iter().filter(|(_, e)| only_here(e));
        let waiting = in_memory()
            .find(|(_, e)| e.place != Place::InFlight)
            .map(|(key, _)| *key)
            .filter(|key| *key != newest);
        let oldest = in_memory().map(|(key, _)| *key).next()?;
        waiting.or((oldest != newest).then_some(oldest))
    }

    fn remove(&mut self, key: u64) -> Option<Entry> {
        let entry = self.entries.remove(&key)?;
        self.bytes -= entry.size_bytes();
        self.count(entry.place, -1);
        Some(entry)
    }

    fn count(&mut self, place: Place, by: isize) {
        match place {
            Place::Live => self.live = self.live.saturating_add_signed(by),
            Place::Backlog => self.backlog = self.backlog.saturating_add_signed(by),
            Place::InFlight => {}
        }
    }

    /// Is there backlog in memory to send?
    #[must_use]
    pub fn has_backlog(&self) -> bool {
        self.backlog > 0
    }

    /// Messages in memory that are not yet acknowledged.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if all is acknowledged.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
            && !self.state.sleeps
            && self.storing.is_empty()
            && self.parting.is_empty()
            && !self.waking
    }

    /// Bytes in memory, with those that the spool was handed and has not answered for.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.bytes + self.storing_bytes()
    }

    /// The spool as it last said, and why it can not be written.
    #[must_use]
    pub fn spool(&self) -> (State, Option<&str>) {
        (self.state, self.problem.as_deref())
    }

    /// Messages dropped since the start, by reason.
    #[must_use]
    pub fn dropped(&self) -> BTreeMap<DropReason, u64> {
        let mut dropped = self.dropped.clone();
        let given_up = self.state.given_up;
        for (reason, count) in [
            (DropReason::SpoolFull, given_up.full),
            (DropReason::SpoolAge, given_up.aged),
            (DropReason::SpoolDamaged, given_up.damaged),
        ] {
            if count > 0 {
                *dropped.entry(reason).or_default() += count;
            }
        }
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::Limits;
    use std::sync::mpsc::{Receiver, channel};

    fn outbox(limit_bytes: usize) -> Outbox {
        Outbox::new(limit_bytes, Durability::Relaxed)
    }

    fn push(outbox: &mut Outbox, size: usize) {
        outbox.push(vec![b'x'; size], Instant::now());
    }

    fn drain(outbox: &mut Outbox, backlog: bool) -> Vec<u64> {
        std::iter::from_fn(|| outbox.next(backlog).map(|(key, _)| key)).collect()
    }

    #[test]
    fn live_data_goes_first_and_the_backlog_in_order() {
        let mut outbox = outbox(DEFAULT_BYTES);
        (0..4).for_each(|_| push(&mut outbox, 10));
        assert_eq!(drain(&mut outbox, true), [0, 1, 2, 3]);
        outbox.acknowledged(1);
        outbox.disconnected();
        push(&mut outbox, 10);
        push(&mut outbox, 10);
        outbox.connected();
        assert!(outbox.has_backlog());
        push(&mut outbox, 10);
        let live = drain(&mut outbox, false);
        assert_eq!(live, [5, 6], "no backlog unless allowed");
        assert_eq!(drain(&mut outbox, true), [0, 2, 3, 4]);
        outbox.acknowledged(6);
        for key in [0, 2, 3, 4, 5] {
            outbox.acknowledged(key);
        }
        assert!(outbox.is_empty() && outbox.bytes == 0);
    }

    #[test]
    fn the_oldest_is_dropped_and_counted_when_full() {
        let each = 1_000 + OVERHEAD_BYTES;
        let mut outbox = outbox(3 * each);
        (0..5).for_each(|_| push(&mut outbox, 1_000));
        assert_eq!(outbox.dropped()[&DropReason::OutboxFull], 2);
        assert_eq!(drain(&mut outbox, true), [2, 3, 4]);
        // All in flight: a broker that answers nothing. The bound holds, the newest stays.
        push(&mut outbox, 1_000);
        assert_eq!((outbox.len(), drain(&mut outbox, true)), (3, vec![5]));
        outbox.acknowledged(2); // dropped meanwhile
        assert_eq!(outbox.len(), 3);
    }

    #[test]
    fn a_single_message_over_the_bound_is_kept() {
        let mut outbox = outbox(100);
        push(&mut outbox, 1_000);
        assert_eq!(drain(&mut outbox, true), [0]);
    }

    /// An outbox with a real spool whose events are taken by hand.
    struct WithSpool {
        outbox: Outbox,
        events: Receiver<Event>,
    }

    impl WithSpool {
        fn new(dir: &std::path::Path, durability: Durability) -> Self {
            Self::bounded(dir, durability, 1 << 30)
        }

        fn bounded(dir: &std::path::Path, durability: Durability, max_bytes: u64) -> Self {
            let limits = Limits {
                dir: dir.to_owned(),
                max_bytes,
                max_age: Duration::from_secs(3600),
            };
            let (tell, events) = channel();
            let strict = durability == Durability::Strict;
            let mut outbox = Outbox::new(DEFAULT_BYTES, durability);
            let thread = SpoolThread::start(limits, strict, move |e| drop(tell.send(e)));
            outbox.set_spool(thread.unwrap());
            let mut this = Self { outbox, events };
            if dir.parent().unwrap().is_dir() {
                this.event();
            }
            this
        }

        fn event(&mut self) {
            let event = self.events.recv_timeout(Duration::from_secs(20)).unwrap();
            self.outbox.on_spool(event, Instant::now());
        }

        /// Takes what the spool has said, and waits for what it was asked to write.
        fn listen(&mut self) {
            while !self.outbox.storing.is_empty() {
                self.event();
            }
            while let Ok(event) = self.events.try_recv() {
                self.outbox.on_spool(event, Instant::now());
            }
        }

        /// Numbered messages of so many bytes; after each, as many are sent as the connection's window takes, and no PUBACK comes. The keys in flight.
        fn push_unanswered(&mut self, numbers: std::ops::Range<usize>, size: usize) -> Vec<u64> {
            let start = Instant::now();
            let mut in_flight = Vec::new();
            for i in numbers {
                let now = start + Duration::from_secs(i as u64);
                let number = i.to_string(); // a width of a format ends at 65535
                let message = "0".repeat(size - number.len()) + &number;
                self.outbox.push(message.into_bytes(), now);
                self.outbox.maintain(now);
                while in_flight.len() < 64
                    && let Some((key, _)) = self.outbox.next(true)
                {
                    in_flight.push(key);
                }
                self.listen();
                let (size, limit) = (self.outbox.size_bytes(), self.outbox.limit_bytes);
                assert!(size <= 2 * limit, "{i}: {size} of {limit}");
            }
            in_flight
        }

        /// Sends and acknowledges everything; the payloads in the order of sending.
        fn deliver(&mut self) -> Vec<String> {
            let mut sent = Vec::new();
            self.outbox.connected();
            while !self.outbox.is_empty() {
                match self.outbox.next(true) {
                    Some((key, payload)) => {
                        sent.push(String::from_utf8(payload).unwrap());
                        self.outbox.acknowledged(key);
                    }
                    None => self.event(),
                }
            }
            sent
        }
    }

    fn segments(dir: &std::path::Path) -> u64 {
        let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
        files.map(|f| f.metadata().unwrap().len()).sum()
    }

    #[test]
    fn nothing_is_written_while_the_broker_answers() {
        let dir = tempfile::tempdir().unwrap();
        let mut spooled = WithSpool::new(dir.path(), Durability::Relaxed);
        let start = Instant::now();
        for i in 0..100 {
            let now = start + Duration::from_secs(i);
            spooled.outbox.push(b"m".to_vec(), now);
            let (key, _) = spooled.outbox.next(false).unwrap();
            spooled.outbox.acknowledged(key);
            spooled.outbox.maintain(now);
        }
        let end = spooled.outbox.close().unwrap();
        end.join().unwrap();
        assert_eq!(segments(dir.path()), 0);
    }

    #[test]
    fn an_outage_goes_to_disk_leaves_memory_and_comes_back_after_a_kill() {
        let dir = tempfile::tempdir().unwrap();
        let mut spooled = WithSpool::new(dir.path(), Durability::Relaxed);
        let start = Instant::now();
        for i in 0..300_u32 {
            let now = start + Duration::from_secs(u64::from(i));
            spooled.outbox.push(i.to_string().into_bytes(), now);
            spooled.outbox.disconnected();
            spooled.outbox.maintain(now);
            if !spooled.outbox.storing.is_empty() {
                spooled.event();
            }
            assert!(spooled.outbox.len() < 10, "memory stays small");
        }
        let unwritten = spooled.outbox.unwritten();
        assert!(unwritten <= 6, "{unwritten}");
        // kill -9: what the thread has written is all that is left. The journal's lock goes with the process; here with the thread.
        let WithSpool { mut outbox, .. } = spooled;
        let thread = outbox.spool.take().unwrap().stop();
        thread.join().unwrap();
        let mut spooled = WithSpool::new(dir.path(), Durability::Relaxed);
        spooled.outbox.push(b"live".to_vec(), Instant::now());
        let sent = spooled.deliver();
        assert_eq!(sent[0], "live");
        let kept = 300 - unwritten;
        let expected: Vec<_> = (0..kept).map(|i| i.to_string()).collect();
        assert_eq!(sent[1..], expected);
        while !matches!(
            spooled.outbox.state,
            State {
                sleeps: false,
                size_bytes: ..64,
                ..
            }
        ) {
            spooled.event(); // the disk is given back
        }
    }

    #[test]
    fn strict_writes_each_message_before_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let mut spooled = WithSpool::new(dir.path(), Durability::Strict);
        for i in 0..10 {
            spooled
                .outbox
                .push(format!("m{i}").into_bytes(), Instant::now());
            spooled.event();
            assert_eq!(spooled.outbox.unwritten(), 0);
        }
        drop(spooled);
        let mut spooled = WithSpool::new(dir.path(), Durability::Strict);
        let expected: Vec<_> = (0..10).map(|i| format!("m{i}")).collect();
        assert_eq!(spooled.deliver(), expected);
    }

    #[test]
    fn a_spool_that_can_not_be_written_leaves_bounded_memory() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let mut spooled = WithSpool::new(&file.join("spool"), Durability::Relaxed);
        spooled.outbox.limit_bytes = 10 * (1_000 + OVERHEAD_BYTES);
        let start = Instant::now();
        for i in 0..100 {
            spooled
                .outbox
                .push(vec![b'x'; 1_000], start + Duration::from_secs(i));
            spooled.outbox.disconnected();
            spooled.outbox.maintain(start + Duration::from_secs(i));
            while !spooled.outbox.storing.is_empty() {
                spooled.event();
            }
        }
        assert!(spooled.outbox.spool().1.is_some());
        assert_eq!(spooled.outbox.len(), 10);
        assert_eq!(spooled.outbox.dropped()[&DropReason::OutboxFull], 90);
        assert_eq!(spooled.deliver().len(), 10);
    }

    #[test]
    fn the_end_writes_what_is_pending() {
        let dir = tempfile::tempdir().unwrap();
        let mut spooled = WithSpool::new(dir.path(), Durability::Relaxed);
        spooled.outbox.push(b"last".to_vec(), Instant::now());
        spooled.outbox.next(false).unwrap(); // in flight
        let end = spooled.outbox.close().unwrap();
        end.join().unwrap();
        spooled.event();
        assert_eq!(spooled.outbox.unwritten(), 0);
        let mut again = WithSpool::new(dir.path(), Durability::Relaxed);
        assert_eq!(again.deliver(), ["last"]);
    }

    const EACH: usize = 1_000 + OVERHEAD_BYTES;

    /// The numbers of messages, each once, in order.
    fn numbers(payloads: &[String]) -> Vec<usize> {
        let all: std::collections::BTreeSet<usize> =
            payloads.iter().map(|p| p.parse().unwrap()).collect();
        all.into_iter().collect()
    }

    #[test]
    fn nothing_is_dropped_while_the_spool_takes_it() {
        for durability in [Durability::Relaxed, Durability::Strict] {
            let dir = tempfile::tempdir().unwrap();
            let mut spooled = WithSpool::new(dir.path(), durability);
            spooled.outbox.limit_bytes = 20 * EACH;
            // An outage with a backlog, a connection that answers nothing, its end, and another.
            spooled.outbox.disconnected();
            let start = Instant::now();
            for i in 0..100 {
                let now = start + Duration::from_secs(i);
                let message = format!("{i:01000}").into_bytes();
                spooled.outbox.push(message, now);
                spooled.outbox.maintain(now);
                spooled.listen();
            }
            spooled.outbox.connected();
            spooled.event(); // some of it is awake
            spooled.push_unanswered(100..300, 1_000);
            spooled.outbox.disconnected();
            let sent = numbers(&spooled.deliver());
            let none = BTreeMap::new();
            assert_eq!(spooled.outbox.dropped(), none, "{durability:?}");
            assert_eq!(sent, (0..300).collect::<Vec<_>>(), "{durability:?}");
        }
    }

    #[test]
    fn a_connection_that_answers_late_gets_everything() {
        for durability in [Durability::Relaxed, Durability::Strict] {
            let dir = tempfile::tempdir().unwrap();
            let mut spooled = WithSpool::new(dir.path(), durability);
            spooled.outbox.limit_bytes = 20 * EACH;
            spooled.outbox.connected();
            let in_flight = spooled.push_unanswered(0..300, 1_000);
            assert_eq!(in_flight.len(), 64);
            assert!(spooled.outbox.dropped().is_empty());
            // The same connection: no rewind brings them back.
            in_flight
                .iter()
                .for_each(|key| spooled.outbox.acknowledged(*key));
            let mut rest = std::collections::BTreeSet::new();
            while !spooled.outbox.is_empty() {
                match spooled.outbox.next(true) {
                    Some((key, payload)) => {
                        let number: usize = String::from_utf8(payload).unwrap().parse().unwrap();
                        assert!(rest.insert(number), "{number} is sent twice");
                        spooled.outbox.acknowledged(key);
                    }
                    None => spooled.event(),
                }
            }
            assert_eq!(rest.len(), 300 - 64, "{durability:?}");
        }
    }

    #[test]
    fn a_disk_that_stalls_costs_bounded_memory_and_counted_messages() {
        for durability in [Durability::Relaxed, Durability::Strict] {
            let dir = tempfile::tempdir().unwrap();
            let mut spooled = WithSpool::new(dir.path(), durability);
            let limit = 20 * EACH;
            spooled.outbox.limit_bytes = limit;
            let start = Instant::now();
            for i in 0..200 {
                let now = start + Duration::from_secs(i);
                let message = format!("{i:01000}").into_bytes();
                spooled.outbox.push(message, now);
                spooled.outbox.maintain(now);
                // Its answers are not heard.
                let size = spooled.outbox.size_bytes();
                assert!(size <= 2 * limit, "{durability:?} {i}: {size} of {limit}");
            }
            let dropped = spooled.outbox.dropped()[&DropReason::OutboxFull];
            let sent = numbers(&spooled.deliver());
            assert_eq!(sent.len() as u64 + dropped, 200, "{durability:?}");
            assert!(sent.contains(&199) && sent.len() >= 20, "{sent:?}");
        }
    }

    #[test]
    fn what_a_full_spool_deletes_is_still_in_memory_or_counted() {
        let size = crate::spool::SEGMENT_BYTES as usize / 4;
        for in_memory in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let max = 2 * crate::spool::SEGMENT_BYTES;
            let mut spooled = WithSpool::bounded(dir.path(), Durability::Strict, max);
            if !in_memory {
                spooled.outbox.limit_bytes = 2 * size;
            }
            spooled.outbox.connected();
            let in_flight = spooled.push_unanswered(0..40, size);
            assert_eq!(in_flight.len(), 40);
            spooled.outbox.disconnected();
            let sent = numbers(&spooled.deliver());
            let dropped: u64 = spooled.outbox.dropped().values().sum();
            assert_eq!(sent.len() as u64 + dropped, 40, "{sent:?}");
            assert_eq!(dropped == 0, in_memory, "{dropped}");
        }
    }
}
