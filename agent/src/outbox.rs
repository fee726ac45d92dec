//! What is not yet acknowledged: messages wait here from the moment they are packed until the broker's PUBACK.
//!
//! Live data goes first: after an outage the newest message leaves at once, and what gathered meanwhile follows as backlog, oldest first.
//!
//! While the broker answers, messages are in memory only and nothing is written to disk. What is not acknowledged within [`PATIENCE`] is handed to the [`spool`](crate::spool) and leaves memory, unless
//! it is just being sent; [`Durability::Strict`] writes each message at once. So a kill -9 or a power cut costs what was measured in the last seconds of an
//! outage, or nothing. A spool that can not be written gives its messages back, and they wait in memory.
//!
//! Memory is bounded by bytes: when it is full and the spool takes nothing, the oldest messages are dropped and counted by [`DropReason`], for a fresh value is worth more than an old one.

use std::collections::BTreeMap;
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
    payload: Vec<u8>,
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
    /// Orders that are not answered yet.
    storing: usize,
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
            storing: 0,
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
        if self.durability == Durability::Strict {
            self.spill(now, Duration::ZERO, true);
        }
        self.make_room(now);
    }

    fn insert(&mut self, payload: Vec<u8>, place: Place, since: Instant, disk: Disk) {
        let key = self.next_key;
        self.next_key += 1;
        self.put(key, payload, place, since, disk);
    }

    fn put(&mut self, key: u64, payload: Vec<u8>, place: Place, since: Instant, disk: Disk) {
        self.bytes += payload.len() + OVERHEAD_BYTES;
        self.count(place, 1);
        let entry = Entry {
            payload,
            place,
            since,
            disk,
        };
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
        let payload = entry.payload.clone();
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
    }

    /// The connection is gone: what was in flight or live is backlog now; what is on disk as well leaves memory.
    pub fn disconnected(&mut self) {
        self.connected = false;
        let before = self.entries.len();
        self.entries
            .retain(|_, entry| !matches!(entry.disk, Disk::At(_)));
        if let Some(spool) = self.spool.as_ref().filter(|_| self.entries.len() < before) {
            self.rewinds += 1;
            self.state.sleeps = true;
            spool.rewind();
        }
        self.bytes = 0;
        for entry in self.entries.values_mut() {
            entry.place = Place::Backlog;
            self.bytes += entry.payload.len() + OVERHEAD_BYTES;
        }
        (self.live, self.backlog) = (0, self.entries.len());
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
        let unwritten = self.entries.values().find(|e| e.disk == Disk::No)?;
        Some(unwritten.since + PATIENCE)
    }

    /// Writes what has waited too long.
    pub fn maintain(&mut self, now: Instant) {
        let due = self.next_maintenance().is_some_and(|at| now >= at);
        if due && self.storing == 0 {
            self.spill(now, Duration::ZERO, false);
        }
    }

    /// Hands to the spool what has waited for `age`. What is in flight stays in memory as well; with `keep` everything does.
    fn spill(&mut self, now: Instant, age: Duration, keep: bool) {
        if self.spool.is_none() {
            return;
        }
        let old = |e: &Entry| now.saturating_duration_since(e.since) >= age;
        let keys: Vec<u64> = (self.entries.iter())
            .filter(|(_, e)| e.disk == Disk::No && old(e))
            .map(|(key, _)| *key)
            .collect();
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
                self.remove(key).map(|e| e.payload).unwrap_or_default()
            };
            waiting.push(Waiting {
                key,
                payload,
                awake,
            });
        }
        if let Some(spool) = self.spool.as_ref().filter(|_| !waiting.is_empty()) {
            self.storing += 1;
            spool.store(waiting);
        }
    }

    /// The end: everything is handed to the spool, which writes it and ends. `None`: there is no spool.
    pub fn close(&mut self, now: Instant) -> Option<std::thread::JoinHandle<()>> {
        self.spill(now, Duration::ZERO, true);
        self.spool.take().map(SpoolThread::stop)
    }

    /// Messages in memory that are not on disk.
    #[must_use]
    pub fn unwritten(&self) -> usize {
        let written = |e: &&Entry| !matches!(e.disk, Disk::At(_));
        self.entries.values().filter(written).count()
    }

    /// Takes what the spool's thread has to say.
    pub fn on_spool(&mut self, event: Event, now: Instant) {
        match event {
            Event::Opened(state) => self.state = state,
            Event::Stored(places, state) => {
                self.storing = self.storing.saturating_sub(1);
                (self.state, self.problem) = (state, None);
                for (key, place) in places {
                    match self.entries.get_mut(&key) {
                        Some(entry) => entry.disk = Disk::At(place),
                        // Acknowledged meanwhile.
                        None => self.settle(place),
                    }
                }
            }
            Event::Refused(messages, problem) => {
                self.storing = self.storing.saturating_sub(1);
                self.problem = Some(problem);
                for message in messages {
                    if let Some(entry) = self.entries.get_mut(&message.key) {
                        (entry.disk, entry.since) = (Disk::No, now);
                    } else if !message.awake {
                        self.put(message.key, message.payload, Place::Backlog, now, Disk::No);
                    }
                }
                self.make_room(now);
            }
            Event::Woken(messages, state) => {
                self.waking = false;
                self.state = state;
                // Of before a lost connection: they sleep again.
                let valid = state.rewinds == self.rewinds;
                for (place, payload) in messages.into_iter().filter(|_| valid) {
                    self.insert(payload, Place::Backlog, now, Disk::At(place));
                }
            }
            Event::Settled(state) => self.state = state,
        }
        self.refill();
    }

    fn settle(&mut self, place: Position) {
        if let Some(spool) = &self.spool {
            spool.settle(vec![place]);
        }
    }

    /// Reads more back from disk before the backlog in memory runs out.
    fn refill(&mut self) {
        let Some(spool) = &self.spool else { return };
        if self.connected && self.state.sleeps && !self.waking && self.backlog < WAKE / 2 {
            self.waking = true;
            spool.wake(WAKE, WAKE_BYTES);
        }
    }

    /// Keeps the bound: by writing if the spool takes it, else by dropping.
    fn make_room(&mut self, now: Instant) {
        if self.bytes <= self.limit_bytes {
            return;
        }
        if self.spool.is_some() && self.problem.is_none() && self.storing == 0 {
            self.spill(now, Duration::ZERO, false);
        }
        while self.bytes > self.limit_bytes {
            let Some(key) = self.victim() else { break };
            self.remove(key);
            *self.dropped.entry(DropReason::OutboxFull).or_default() += 1;
        }
    }

    /// The oldest message that is neither in flight nor on disk, else the oldest of all, but never the newest.
    fn victim(&self) -> Option<u64> {
        let newest = *self.entries.last_key_value()?.0;
        let in_memory = || self.entries.iter().filter(|(_, e)| e.disk == Disk::No);
        let waiting = in_memory()
            .find(|(_, e)| e.place != Place::InFlight)
            .map(|(key, _)| *key)
            .filter(|key| *key != newest);
        let oldest = in_memory().map(|(key, _)| *key).next()?;
        waiting.or((oldest != newest).then_some(oldest))
    }

    fn remove(&mut self, key: u64) -> Option<Entry> {
        let entry = self.entries.remove(&key)?;
        self.bytes -= entry.payload.len() + OVERHEAD_BYTES;
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
        self.entries.is_empty() && !self.state.sleeps && self.storing == 0 && !self.waking
    }

    /// Bytes in memory.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.bytes
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
                dropped.insert(reason, count);
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
            let limits = Limits {
                dir: dir.to_owned(),
                max_bytes: 1 << 30,
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
        let end = spooled.outbox.close(start).unwrap();
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
            if spooled.outbox.storing > 0 {
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
            while spooled.outbox.storing > 0 {
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
        let end = spooled.outbox.close(Instant::now()).unwrap();
        end.join().unwrap();
        spooled.event();
        assert_eq!(spooled.outbox.unwritten(), 0);
        let mut again = WithSpool::new(dir.path(), Durability::Relaxed);
        assert_eq!(again.deliver(), ["last"]);
    }
}
