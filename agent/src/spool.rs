//! The spool: messages that have waited too long, on disk until the broker has acknowledged them.
//!
//! A [`Journal`] and a cursor. A record behind the cursor **sleeps**: it is on disk only. [`Spool::wake`] hands the oldest out and moves the cursor over them; from there they are
//! **awake**, held in memory by the [`outbox`](crate::outbox), until [`Spool::settle`] says that the broker has them, [`Spool::sleep`] that memory was needed for others, or [`Spool::rewind`] that
//! the connection is lost and all sleep again.
//! A record may also be stored as awake, because it is just being sent. Segments in which all is settled are deleted.
//!
//! **Promises**: what [`Spool::store`] has returned `Ok` for survives kill -9 and power cuts, and is handed out again after a restart. At a restart everything in the spool sleeps, so that up
//! to one segment ([`SEGMENT_BYTES`]) of settled messages may be sent again; the collector knows them by their (device, boot, seq).
//! Bounded by bytes and age: whole segments go, oldest first, and what slept in them is counted. What was awake is in the outbox's hands, which learns of it by [`State::oldest`].
//!
//! It leaves to others: when to store (the outbox), and not to block the daemon ([`SpoolThread`], which is all that it sees).

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant, SystemTime};

use devmon_core::journal::{Dropped, Journal, JournalError, Options, Position, Reader};
use tracing::{error, info, warn};

use crate::holder;

/// Small, for a segment is what is deleted at a time, what is read into memory at a time, and what may be sent again after a crash.
pub const SEGMENT_BYTES: u64 = 512 * 1024;
/// After a failed write (a full or read-only disk), messages stay in memory for this long before the next try.
const RETRY: Duration = Duration::from_secs(10);

/// What whoever has a journal holds a lock of, in its directory.
const LOCK: &str = "lock";

/// Where the spool lies and how much it may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub dir: PathBuf,
    pub max_bytes: u64,
    pub max_age: Duration,
}

impl Limits {
    /// The process that has the spool, as far as the kernel tells.
    #[must_use]
    pub fn holder(&self) -> Option<u32> {
        holder::of(&self.dir.join(LOCK))
    }
}

/// What was given up, and why.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GivenUp {
    /// Messages over `max_bytes`.
    pub full: u64,
    /// Messages over `max_age`.
    pub aged: u64,
    /// Segments with bytes that are not what was written; how many messages were in them can not be known.
    pub damaged: u64,
}

/// The spool itself. Blocks on the disk; used by one thread.
#[derive(Debug)]
pub struct Spool {
    journal: Journal,
    /// Everything behind it sleeps, but for what is in `awake` and `settled`.
    cursor: Position,
    /// With the end of what it sees: all that was committed when it was made.
    reader: Option<(Reader, Position)>,
    /// Ends of records that are awake.
    awake: BTreeSet<Position>,
    /// Ends of records that are settled and still on disk, for others in their segment are not.
    settled: BTreeSet<Position>,
    given_up: GivenUp,
    max_bytes: u64,
}

impl Spool {
    /// Opens or makes it. Whatever is in it sleeps.
    ///
    /// # Errors
    /// [`JournalError`]: the directory can not be made or written, or another agent has it.
    pub fn open(limits: &Limits) -> Result<Self, JournalError> {
        let options = Options {
            segment_bytes: SEGMENT_BYTES,
            max_bytes: Some(limits.max_bytes),
            max_age: Some(limits.max_age),
        };
        let (journal, recovery) = Journal::open(&limits.dir, options)?;
        if let Some(aside) = recovery.damaged {
            warn!(file = %aside.display(), "the spool was damaged; what could be read is kept, the segment as it was found lies here");
        }
        let mut spool = Self {
            journal,
            cursor: Position::START,
            reader: None,
            awake: BTreeSet::new(),
            settled: BTreeSet::new(),
            given_up: GivenUp::default(),
            max_bytes: limits.max_bytes,
        };
        spool.enforce();
        Ok(spool)
    }

    /// Writes messages and returns when they are on disk, with the place of each. Those with `true` are awake, the others sleep.
    ///
    /// # Errors
    /// [`JournalError`]; then none of them is in the spool.
    pub fn store(&mut self, messages: &[(&[u8], bool)]) -> Result<Vec<Position>, JournalError> {
        let nothing_sleeps = !self.sleeps();
        let mut places = Vec::with_capacity(messages.len());
        for (payload, _) in messages {
            places.push(self.journal.append(payload)?);
        }
        self.journal.commit()?;
        let all_awake = messages.iter().all(|(_, awake)| *awake);
        for (place, (_, awake)) in places.iter().zip(messages) {
            if *awake {
                self.awake.insert(*place);
            }
        }
        if nothing_sleeps && all_awake {
            self.cursor = self.journal.committed();
            self.reader = None;
        }
        self.enforce();
        Ok(places)
    }

    /// The oldest sleeping messages, at most `count` and some `bytes`; they are awake now. Empty: nothing sleeps.
    pub fn wake(&mut self, count: usize, bytes: usize) -> Vec<(Position, Vec<u8>)> {
        let mut woken = Vec::new();
        let mut size = 0;
        while woken.len() < count && size < bytes {
            let end = self.journal.committed();
            if self.reader.is_none() && self.sleeps() {
                self.reader = Some((self.journal.read_from(self.cursor), end));
            }
            let Some((reader, seen)) = &mut self.reader else {
                break;
            };
            let seen = *seen;
            match reader.next() {
                Some(Ok(record)) => {
                    self.cursor = record.end;
                    if !self.settled.contains(&record.end) && self.awake.insert(record.end) {
                        size += record.payload.len();
                        woken.push((record.end, record.payload));
                    }
                }
                Some(Err(e)) => {
                    error!(error = %e, "part of the spool can not be read and is passed over");
                    self.given_up.damaged += 1;
                    self.reader = None;
                    let next = self.cursor.segment + 1;
                    self.cursor = end.min(Position {
                        segment: next,
                        offset: 0,
                    });
                }
                None => {
                    self.cursor = self.cursor.max(seen);
                    self.reader = None;
                }
            }
        }
        self.trim();
        woken
    }

    /// The broker has this message.
    pub fn settle(&mut self, place: Position) {
        if self.awake.remove(&place) {
            self.settled.insert(place);
        }
        self.trim();
    }

    /// These were awake and sleep again.
    pub fn sleep(&mut self, places: &[Position]) {
        for place in places {
            if self.awake.remove(place) {
                // Where the record begins is not known, but its segment is; what is settled or awake in it is passed over.
                let begins = Position {
                    segment: place.segment,
                    offset: 0,
                };
                self.cursor = self.cursor.min(begins);
                self.reader = None;
            }
        }
    }

    /// Everything that is not settled sleeps again.
    pub fn rewind(&mut self) {
        self.awake.clear();
        self.cursor = self.journal.oldest();
        self.reader = None;
    }

    /// True if a message is on disk only.
    #[must_use]
    pub fn sleeps(&self) -> bool {
        self.journal.has_records_behind(self.cursor)
    }

    /// No record lies before it.
    #[must_use]
    pub fn oldest(&self) -> Position {
        self.journal.oldest()
    }

    /// Bytes on disk.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.journal.size_bytes()
    }

    /// What was given up since it was opened.
    #[must_use]
    pub fn given_up(&self) -> GivenUp {
        self.given_up
    }

    /// Deletes what nobody needs. `whole`: also the newest segment, if all of it is settled; the next message begins another.
    pub fn tidy(&mut self, whole: bool) {
        let used = self.journal.has_records_behind(Position::START);
        if whole && used && !self.sleeps() && self.awake.is_empty() {
            self.cursor = self.journal.committed();
            self.journal.roll();
        }
        self.trim();
    }

    fn trim(&mut self) {
        let needed = self.awake.first().map_or(self.cursor, |first| {
            // An end: the record itself begins before it, in the same segment.
            let begins = Position {
                segment: first.segment,
                offset: 0,
            };
            self.cursor.min(begins)
        });
        if let Err(e) = self.journal.trim_to(needed) {
            warn!(error = %e, "spool");
        }
        self.settled = self.settled.split_off(&self.journal.oldest());
    }

    fn enforce(&mut self) {
        let full = self.journal.size_bytes() > self.max_bytes;
        let before = self.journal.dropped();
        if let Err(e) = self.journal.enforce_limits(SystemTime::now()) {
            warn!(error = %e, "spool");
        }
        let dropped = self.journal.dropped();
        if dropped.segments == before.segments {
            return;
        }
        let begins = self.journal.oldest();
        let settled = self.settled.range(..begins).count() as u64;
        // Awake ones are in the outbox, which counts what it loses.
        let awake = self.awake.range(..begins).count() as u64;
        let lost = lost(before, dropped).saturating_sub(settled + awake);
        if full {
            self.given_up.full += lost;
        } else {
            self.given_up.aged += lost;
        }
        self.settled = self.settled.split_off(&begins);
        self.awake = self.awake.split_off(&begins);
        if self.cursor < begins {
            self.cursor = begins;
            self.reader = None;
        }
    }
}

fn lost(before: Dropped, now: Dropped) -> u64 {
    now.records - before.records
}

/// A message on its way to disk.
#[derive(Debug)]
pub struct Waiting {
    pub key: u64,
    pub payload: Vec<u8>,
    /// It stays in memory as well.
    pub awake: bool,
}

#[derive(Debug)]
enum Order {
    Store(Vec<Waiting>),
    Wake { count: usize, bytes: usize },
    Settle(Vec<Position>),
    Sleep(Vec<Position>),
    Rewind,
}

/// What the spool's thread has to say.
#[derive(Debug)]
pub enum Event {
    /// It stands open.
    Opened(State),
    /// They are on disk now. Key and place of those that stay awake.
    Stored(Vec<(u64, Position)>, State),
    /// They could not be written and are given back; why, for an operator.
    Refused(Vec<Waiting>, String),
    Woken(Vec<(Position, Vec<u8>)>, State),
    Settled(State),
}

/// How full it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// How often it was rewound: what was woken before is asleep again.
    pub rewinds: u64,
    /// How often it was told that messages sleep again: orders to sleep, and to rewind.
    pub told: u64,
    /// What was stored before it is on disk no more.
    pub oldest: Position,
    /// Messages are on disk only.
    pub sleeps: bool,
    pub size_bytes: u64,
    pub given_up: GivenUp,
}

impl Default for State {
    /// Of a spool that has never been open.
    fn default() -> Self {
        Self {
            rewinds: 0,
            told: 0,
            oldest: Position::START,
            sleeps: false,
            size_bytes: 0,
            given_up: GivenUp::default(),
        }
    }
}

/// The spool on a thread of its own: a disk that stalls delays no tick.
#[derive(Debug)]
pub struct SpoolThread {
    orders: Sender<Order>,
    thread: std::thread::JoinHandle<()>,
}

/// Small: the thread only writes and reads.
const STACK_BYTES: usize = 256 * 1024;

impl SpoolThread {
    /// Starts it; `tell` is called on its thread. `keep_newest`: settled messages of the newest segment stay until the segment is full, so that a spool
    /// that is written at each round does not begin a file at each round.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(
        limits: Limits,
        keep_newest: bool,
        tell: impl Fn(Event) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (orders, inbox) = channel(); // the outbox gives one order of a kind at a time
        let thread = std::thread::Builder::new()
            .name("spool".into())
            .stack_size(STACK_BYTES)
            .spawn(move || run(&limits, keep_newest, &inbox, &tell))?;
        Ok(Self { orders, thread })
    }

    pub fn store(&self, messages: Vec<Waiting>) {
        let _ = self.orders.send(Order::Store(messages)); // the thread ends after this handle only
    }

    pub fn wake(&self, count: usize, bytes: usize) {
        let _ = self.orders.send(Order::Wake { count, bytes });
    }

    pub fn settle(&self, places: Vec<Position>) {
        let _ = self.orders.send(Order::Settle(places));
    }

    /// Puts these to sleep.
    pub fn sleep(&self, places: Vec<Position>) {
        let _ = self.orders.send(Order::Sleep(places));
    }

    /// Puts everything to sleep that is not settled.
    pub fn rewind(&self) {
        let _ = self.orders.send(Order::Rewind);
    }

    /// Ends it after the orders that it has. The handle tells when.
    #[must_use]
    pub fn stop(self) -> std::thread::JoinHandle<()> {
        self.thread
    }
}

/// What the thread knows of its spool: open, or since when not and why.
struct Slot<'a> {
    limits: &'a Limits,
    spool: Option<Spool>,
    tried: Instant,
    problem: String,
}

impl Slot<'_> {
    fn get(&mut self) -> Result<&mut Spool, String> {
        if self.spool.is_none() && (self.problem.is_empty() || self.tried.elapsed() >= RETRY) {
            self.tried = Instant::now();
            match Spool::open(self.limits) {
                Ok(spool) => self.spool = Some(spool),
                Err(e @ JournalError::Locked(_)) => {
                    let problem = self.whose();
                    if self.problem != problem {
                        error!(
                            problem,
                            lock = %e,
                            "the spool is not this agent's: messages wait in memory only; it is tried again"
                        );
                        self.problem = problem;
                    }
                }
                Err(e) => self.say(&e.to_string()),
            }
        }
        self.spool.as_mut().ok_or_else(|| self.problem.clone())
    }

    /// For an operator: who has it, and what to do.
    fn whose(&self) -> String {
        let dir = self.limits.dir.display();
        let process = (self.limits.holder())
            .map(|pid| format!(" (process {pid})"))
            .unwrap_or_default();
        format!(
            "another agent{process} has {dir}: end it, or give this one a --state-dir of its own"
        )
    }

    fn say(&mut self, problem: &str) {
        if self.problem != problem {
            error!(
                problem,
                "the spool can not be written: messages wait in memory only; free space or make the directory writable, it is tried again"
            );
            self.problem = problem.to_owned();
        }
    }
}

fn run(limits: &Limits, keep_newest: bool, orders: &Receiver<Order>, tell: &dyn Fn(Event)) {
    let mut slot = Slot {
        limits,
        spool: None,
        tried: Instant::now(),
        problem: String::new(),
    };
    // Rewinds, and all orders after which messages sleep.
    let mut told = (0, 0);
    let state = |spool: &Spool, (rewinds, told)| State {
        rewinds,
        told,
        oldest: spool.oldest(),
        sleeps: spool.sleeps(),
        size_bytes: spool.size_bytes(),
        given_up: spool.given_up(),
    };
    if let Ok(spool) = slot.get() {
        tell(Event::Opened(state(spool, told)));
    }
    let mut failed_at: Option<Instant> = None;
    for order in orders {
        match order {
            Order::Store(messages) => {
                let paused = failed_at.is_some_and(|at| at.elapsed() < RETRY);
                let stored = if paused {
                    Err(slot.problem.clone())
                } else {
                    slot.get().and_then(|spool| {
                        let refs: Vec<_> = messages
                            .iter()
                            .map(|m| (m.payload.as_slice(), m.awake))
                            .collect();
                        let places = spool.store(&refs).map_err(|e| e.to_string())?;
                        Ok((places, state(spool, told)))
                    })
                };
                match stored {
                    Ok((places, state)) => {
                        if failed_at.take().is_some() {
                            slot.problem.clear();
                            info!(dir = %limits.dir.display(), "the spool can be written again");
                        }
                        let stored = messages.iter().zip(places);
                        let awake = stored.filter(|(m, _)| m.awake);
                        let awake = awake.map(|(m, place)| (m.key, place)).collect();
                        tell(Event::Stored(awake, state));
                    }
                    Err(problem) => {
                        if !paused {
                            failed_at = Some(Instant::now());
                            slot.say(&problem);
                        }
                        tell(Event::Refused(messages, problem));
                    }
                }
            }
            Order::Wake { count, bytes } => {
                let (woken, state) = match slot.get() {
                    Ok(spool) => (spool.wake(count, bytes), state(spool, told)),
                    Err(_) => (
                        Vec::new(),
                        State {
                            rewinds: told.0,
                            told: told.1,
                            ..State::default()
                        },
                    ),
                };
                tell(Event::Woken(woken, state));
            }
            Order::Rewind => {
                told = (told.0 + 1, told.1 + 1);
                if let Ok(spool) = slot.get() {
                    spool.rewind();
                    tell(Event::Settled(state(spool, told)));
                }
            }
            Order::Sleep(places) => {
                told.1 += 1;
                if let Ok(spool) = slot.get() {
                    spool.sleep(&places);
                    tell(Event::Settled(state(spool, told)));
                }
            }
            Order::Settle(places) => {
                if let Ok(spool) = slot.get() {
                    for place in places {
                        spool.settle(place);
                    }
                    spool.tidy(!keep_newest);
                    tell(Event::Settled(state(spool, told)));
                }
            }
        }
    }
    if let Some(spool) = &mut slot.spool {
        spool.tidy(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(dir: &tempfile::TempDir) -> Limits {
        Limits {
            dir: dir.path().join("spool"),
            max_bytes: 64 << 20,
            max_age: Duration::from_secs(3600),
        }
    }

    fn store(spool: &mut Spool, texts: &[&str], awake: bool) -> Vec<Position> {
        let messages: Vec<_> = texts.iter().map(|t| (t.as_bytes(), awake)).collect();
        spool.store(&messages).unwrap()
    }

    /// Everything that sleeps, a few at a time.
    fn wake_all(spool: &mut Spool) -> Vec<(Position, String)> {
        let mut all = Vec::new();
        loop {
            let woken = spool.wake(2, 1 << 20);
            if woken.is_empty() {
                return all;
            }
            let text = |(at, bytes)| (at, String::from_utf8(bytes).unwrap());
            all.extend(woken.into_iter().map(text));
        }
    }

    fn texts(woken: &[(Position, String)]) -> Vec<&str> {
        woken.iter().map(|(_, text)| text.as_str()).collect()
    }

    #[test]
    fn what_is_stored_is_handed_out_once_in_order_and_again_after_a_crash() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(&limits(&dir)).unwrap();
        assert!(!spool.sleeps());
        store(&mut spool, &["a", "b", "c"], false);
        let woken = wake_all(&mut spool);
        assert_eq!(texts(&woken), ["a", "b", "c"]);
        store(&mut spool, &["d"], false);
        assert_eq!(texts(&wake_all(&mut spool)), ["d"]);
        spool.settle(woken[0].0);
        drop(spool); // a crash: nothing is written at the end
        let mut spool = Spool::open(&limits(&dir)).unwrap();
        assert!(spool.sleeps());
        assert_eq!(texts(&wake_all(&mut spool)), ["a", "b", "c", "d"]);
    }

    #[test]
    fn what_is_awake_is_not_handed_out_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(&limits(&dir)).unwrap();
        store(&mut spool, &["a"], false);
        let awake = store(&mut spool, &["b"], true);
        store(&mut spool, &["c"], false);
        spool.settle(awake[0]);
        assert_eq!(texts(&wake_all(&mut spool)), ["a", "c"]);
        let awake = store(&mut spool, &["d"], true);
        assert!(!spool.sleeps());
        assert!(wake_all(&mut spool).is_empty());
        spool.settle(awake[0]);
    }

    #[test]
    fn a_lost_connection_puts_to_sleep_what_is_not_settled() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(&limits(&dir)).unwrap();
        store(&mut spool, &["a", "b", "c"], false);
        let woken = wake_all(&mut spool);
        let awake = store(&mut spool, &["d", "e"], true);
        spool.settle(woken[1].0);
        spool.settle(awake[0]);
        spool.rewind();
        spool.settle(woken[0].0); // too late: it is asleep
        assert_eq!(texts(&wake_all(&mut spool)), ["a", "c", "e"]);
    }

    #[test]
    fn what_leaves_memory_sleeps_again_and_nothing_else_does() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(&limits(&dir)).unwrap();
        let awake = store(&mut spool, &["a", "b", "c", "d"], true);
        spool.settle(awake[0]);
        spool.sleep(&[awake[1], awake[3]]);
        assert!(spool.sleeps());
        assert_eq!(texts(&wake_all(&mut spool)), ["b", "d"]);
        assert!(!spool.sleeps());
        spool.sleep(&[awake[0]]); // settled: too late
        assert!(!spool.sleeps());
        for place in awake {
            spool.settle(place);
        }
        spool.tidy(true);
        assert!(spool.size_bytes() < 64);
    }

    #[test]
    fn a_settled_spool_is_empty_on_disk_and_stays_so() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(&limits(&dir)).unwrap();
        store(&mut spool, &["a", "b"], false);
        for (place, _) in wake_all(&mut spool) {
            spool.settle(place);
        }
        spool.tidy(true);
        let size = spool.size_bytes();
        assert!(size < 64, "{size}");
        let files = || std::fs::read_dir(dir.path().join("spool")).unwrap().count();
        let before = files();
        spool.tidy(true);
        spool.tidy(true);
        assert_eq!((files(), spool.sleeps()), (before, false));
        drop(spool);
        let mut spool = Spool::open(&limits(&dir)).unwrap();
        assert!(!spool.sleeps() && wake_all(&mut spool).is_empty());
    }

    #[test]
    fn the_oldest_goes_when_it_is_full_and_only_losses_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits {
            max_bytes: 2 * SEGMENT_BYTES,
            ..limits(&dir)
        };
        let mut spool = Spool::open(&limits).unwrap();
        let big = "x".repeat(SEGMENT_BYTES as usize / 4);
        store(&mut spool, &[&big], false);
        let first = spool.wake(1, 1).remove(0).0;
        for _ in 0..11 {
            store(&mut spool, &[&big], false);
        }
        assert!(spool.size_bytes() <= limits.max_bytes + SEGMENT_BYTES);
        let lost = spool.given_up().full;
        let left = wake_all(&mut spool).len() as u64;
        assert_eq!(lost + left + 1, 12, "each is lost, left or awake");
        assert!(lost > 0);
        spool.settle(first); // its segment is gone, and that is no error
    }

    #[test]
    fn a_damaged_segment_costs_itself_only() {
        let dir = tempfile::tempdir().unwrap();
        let limits = limits(&dir);
        let mut spool = Spool::open(&limits).unwrap();
        store(&mut spool, &["a", "b"], false);
        drop(spool);
        let mut spool = Spool::open(&limits).unwrap(); // a new segment
        store(&mut spool, &["c"], false);
        drop(spool);
        let segment = |n: u64| limits.dir.join(format!("{n:020}.dmj"));
        let mut bytes = std::fs::read(segment(0)).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(segment(0), bytes).unwrap();
        let mut spool = Spool::open(&limits).unwrap();
        assert_eq!(texts(&wake_all(&mut spool)), ["a", "c"]);
        assert_eq!(spool.given_up().damaged, 1);
    }

    #[test]
    fn two_agents_do_not_share_a_spool() {
        let dir = tempfile::tempdir().unwrap();
        let _first = Spool::open(&limits(&dir)).unwrap();
        let second = Spool::open(&limits(&dir)).unwrap_err().to_string();
        assert!(second.contains("in use by another process"), "{second}");
    }
}
