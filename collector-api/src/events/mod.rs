//! What happens, as it happens: new samples, devices that come, go and change, sources that fail and recover.
//!
//! A commit's way: the intake's [`Feed`](crate::intake::feed::Feed) → [`fleet`] makes events of it, on one thread → [`log`] numbers and keeps them for a while → each follower
//! reads the log from its own place, at its own speed, through its [`filter`].
//!
//! # Promises
//! - **Committed**: an event is made of what is on disk, in the order in which it was committed.
//! - **Numbered**: each event has an [`EventId`]; a follower that names the last one it has seen gets those behind it, or is told of a gap.
//! - **Bounded**: events are kept once for all followers, by bytes ([`log::MAX_BYTES`]). A follower has a place in the log and nothing else that grows.
//! - **Free when nobody follows**: then no event is made. What was kept is kept for [`LINGER`] after the last follower went, so that it may come back.
//!
//! It leaves to others: how events travel (`api`), what a device's status is (`query`).

#[doc(hidden)]
pub mod bench;
pub mod event;
pub mod filter;
pub mod fleet;
mod layouts;
pub mod log;
pub mod paths;

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{
    Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use devmon_core::wire::TimestampMs;
use tokio::sync::watch;

pub use event::{Event, EventId};
pub use filter::{DevicePattern, Filter, Kinds};
pub use log::Batch;
pub use paths::PathPattern;

use crate::courtesy;
use crate::intake::feed::{Feed, News};
use crate::store::engine::Store;
use fleet::Fleet;
use log::Log;

/// How long events are made and kept after the last follower went: a proxy that restarts, a laptop that changes its network.
pub const LINGER: Duration = Duration::from_secs(120);
/// Followers are woken so often at most, however often something is committed; the first event after a rest goes out at once. Below what an eye can follow, and
/// 300 followers are woken 6000 times a second instead of once for each of them and each commit.
const WAKE_EVERY: Duration = Duration::from_millis(50);
/// How often it is looked for devices that have fallen silent.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long it is waited until the thread of events knows the devices: it reads them from memory.
const KNOWN_WITHIN: Duration = Duration::from_secs(1);

/// Where the log ends, for those who wait for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The number of the next event.
    pub next: u64,
    /// There will be no more: the collector ends.
    pub closed: bool,
}

/// Figures for `/status`.
#[derive(Debug, Default)]
pub struct Counters {
    /// Followers now.
    pub clients: AtomicU64,
    /// Events sent, to all followers together.
    pub sent: AtomicU64,
    /// Gaps that followers were told of.
    pub gaps: AtomicU64,
    /// Followers that were let go because they did not read.
    pub dropped: AtomicU64,
}

/// The events of one collector; clones are handles of the same.
#[derive(Debug, Clone)]
pub struct Events(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Names this start of the collector: numbers of another one say nothing here.
    boot: u64,
    /// Most followers at once.
    most: u64,
    log: RwLock<Log>,
    head: watch::Sender<Head>,
    feed: Arc<Feed>,
    /// Devices that were forgotten and not yet told of.
    forgotten: Mutex<Vec<Box<str>>>,
    /// What followers ask for.
    paths: paths::Shared,
    /// Whether the devices are known that changes are told of; with those who wait for that.
    known: (Mutex<bool>, Condvar),
    /// Followers that have come.
    came: AtomicU64,
    ended: AtomicBool,
    counters: Counters,
}

/// The thread that makes events. Dropped, it ends.
#[derive(Debug)]
pub struct EventsGuard {
    events: Events,
    thread: Option<JoinHandle<()>>,
}

impl Drop for EventsGuard {
    fn drop(&mut self) {
        self.events.close();
        self.events.0.ended.store(true, Relaxed);
        self.events.0.feed.wake();
        if self.thread.take().is_some_and(|t| t.join().is_err()) {
            tracing::error!("the thread of events had panicked");
        }
    }
}

/// There are as many followers as there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} clients follow events already, which is the most")]
pub struct TooMany(pub u64);

impl Default for Events {
    /// Events that nobody makes: for an API without an intake.
    fn default() -> Self {
        Self::new(Arc::default(), u64::MAX)
    }
}

impl Events {
    fn new(feed: Arc<Feed>, most: u64) -> Self {
        let log = Log::default();
        let head = Head {
            next: log.next(),
            closed: false,
        };
        Self(Arc::new(Shared {
            // Keyed anew in each process by the operating system's randomness.
            boot: RandomState::new().hash_one(TimestampMs::now()),
            most,
            log: RwLock::new(log),
            head: watch::Sender::new(head),
            feed,
            forgotten: Mutex::default(),
            paths: paths::Shared::default(),
            known: (Mutex::new(true), Condvar::new()),
            came: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            counters: Counters::default(),
        }))
    }

    /// Starts the thread that makes events of what the feed tells; at most so many may follow at once.
    ///
    /// # Panics
    /// If the operating system gives no thread.
    #[must_use]
    pub fn start(feed: Arc<Feed>, store: Arc<dyn Store>, most: u64) -> (Self, EventsGuard) {
        let events = Self::new(feed, most);
        events.set_known(false);
        let thread = std::thread::Builder::new().name("events".into());
        let running = events.clone();
        let thread = thread.spawn(move || {
            courtesy::of_this_thread();
            running.run(&*store);
        });
        let guard = EventsGuard {
            events: events.clone(),
            thread: Some(thread.expect("no thread at start-up: nobody could follow events")),
        };
        (events, guard)
    }

    /// Begins to follow: after `last` if it is given, else with what is committed from now on.
    ///
    /// # Errors
    /// [`TooMany`].
    pub fn follow(&self, last: Option<EventId>) -> Result<Follower, TooMany> {
        let shared = &self.0;
        let head = shared.head.subscribe();
        let mut log = self.write();
        let clients = shared.counters.clients.fetch_add(1, Relaxed);
        let follower = Follower {
            events: self.clone(),
            next: log.next(),
            told: log.next(),
            thin_before: 0,
            resumes: false,
            stranger: None,
            head,
        };
        if clients >= shared.most {
            return Err(TooMany(shared.most)); // dropping the follower takes it off the count
        }
        shared.came.fetch_add(1, Relaxed);
        if !log.is_open() {
            log.open();
            shared.feed.want(true);
            shared.feed.wake();
        }
        drop(log);
        Ok(follower.after(last, shared.boot))
    }

    /// Where a stream may begin that goes on from an answer: whatever is committed, or changes, after this returns has a higher number. From now on events are made, for
    /// [`LINGER`] at least. Blocks a moment.
    ///
    /// # Errors
    /// [`TooMany`].
    pub fn begin(&self) -> Result<EventId, TooMany> {
        let place = self.follow(None)?.place();
        let (known, changed) = &self.0.known;
        let known = known.lock().unwrap_or_else(PoisonError::into_inner);
        // If it takes longer, a change of status may be missed, samples may not.
        let _waited = changed.wait_timeout_while(known, KNOWN_WITHIN, |known| !*known);
        Ok(place)
    }

    fn set_known(&self, is_known: bool) {
        let (known, changed) = &self.0.known;
        *known.lock().unwrap_or_else(PoisonError::into_inner) = is_known;
        changed.notify_all();
    }

    /// The same filter, with what the others know already who ask for the same paths.
    #[must_use]
    pub fn shared(&self, filter: Filter) -> Filter {
        filter.sharing(&self.0.paths)
    }

    /// A device was forgotten.
    pub fn forgotten(&self, device: &str) {
        if self.0.feed.is_wanted() {
            self.gone().push(device.into());
            self.0.feed.wake();
        }
    }

    /// Lets all followers end.
    pub fn close(&self) {
        self.0.head.send_modify(|head| head.closed = true);
    }

    /// Figures since the start.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    fn gone(&self) -> MutexGuard<'_, Vec<Box<str>>> {
        let gone = self.0.forgotten.lock();
        gone.unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> RwLockReadGuard<'_, Log> {
        self.0.log.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Log> {
        self.0.log.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes events until the guard is dropped.
    fn run(&self, store: &dyn Store) {
        let shared = &self.0;
        let mut fleet: Option<Fleet> = None;
        let mut alone_since = Instant::now();
        let mut looked = Instant::now();
        let mut woke = Instant::now();
        let mut announced = self.read().next();
        let mut came = 0;
        while !shared.ended.load(Relaxed) {
            let next = self.read().next();
            let deadline = match &fleet {
                None => Instant::now() + Duration::from_secs(3600), // until a follower wakes us
                Some(_) if next != announced => (woke + WAKE_EVERY).min(looked + LOOK_EVERY),
                Some(_) => looked + LOOK_EVERY,
            };
            let news = shared.feed.next(deadline);
            let now = TimestampMs::now();
            if !self.read().is_open() {
                continue;
            }
            // Before what has come is looked at: the first of it must not be new to us only.
            let known = fleet.get_or_insert_with(|| {
                alone_since = Instant::now();
                let fleet = Fleet::of(store, now);
                self.set_known(true);
                fleet
            });
            let mut made = Vec::new();
            match news {
                News::Stored(stored) => known.stored(store, stored, now, &mut made),
                News::Missed => {
                    tracing::warn!(
                        "events were left out: the intake was faster than they could be made"
                    );
                    self.write().hole();
                    known.look_again(store, now, &mut made);
                }
                News::Nothing => {}
            }
            let gone = std::mem::take(&mut *self.gone());
            for device in gone {
                known.forgotten(store, &device, now, &mut made);
            }
            if looked.elapsed() >= LOOK_EVERY {
                looked = Instant::now();
                known.look_for_silence(store, now, &mut made);
            }
            if !made.is_empty() {
                self.write().push(made);
            }
            let next = self.read().next();
            if next != announced && woke.elapsed() >= WAKE_EVERY {
                woke = Instant::now();
                announced = next;
                shared.head.send_modify(|head| head.next = next);
            }
            let before = std::mem::replace(&mut came, shared.came.load(Relaxed));
            if shared.counters.clients.load(Relaxed) > 0 || came != before {
                alone_since = Instant::now();
            } else if alone_since.elapsed() >= LINGER && self.rest() {
                fleet = None;
            }
        }
    }

    /// Stops making events; false if somebody has come meanwhile.
    fn rest(&self) -> bool {
        let mut log = self.write();
        if self.0.counters.clients.load(Relaxed) > 0 {
            return false;
        }
        log.close();
        self.set_known(false);
        self.0.feed.want(false);
        true
    }
}

/// One who follows: a place in the log.
#[derive(Debug)]
pub struct Follower {
    events: Events,
    /// The number of the next event to look at.
    next: u64,
    /// Gaps before this number were told.
    told: u64,
    /// It fell behind: before this number it gets the newest of each thing.
    thin_before: u64,
    /// It was here before, and has not read yet.
    resumes: bool,
    /// The last event seen of another start, until that gap was told.
    stranger: Option<EventId>,
    head: watch::Receiver<Head>,
}

/// How a follower wants its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Every one.
    Every,
    /// Of those before this number the newest of each thing.
    NewestBefore(u64),
}

/// Events between two numbers of which a follower does not get all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The last event before the gap, as the follower knows it.
    pub from: EventId,
    /// The last event of the gap.
    pub to: EventId,
    /// `restarted`: the collector was. `expired`: the follower was away too long. `behind`: it, or the collector itself, was too slow.
    pub reason: &'static str,
}

impl Follower {
    fn after(mut self, last: Option<EventId>, boot: u64) -> Self {
        match last {
            // A number that was not given yet can only be made up.
            Some(id) if id.boot == boot && id.seq < self.next => {
                self.next = id.seq + 1;
                self.told = self.next;
                self.resumes = true;
            }
            Some(id) => self.stranger = Some(id),
            None => {}
        }
        self
    }

    /// The last event that was looked at.
    #[must_use]
    pub fn place(&self) -> EventId {
        self.id(self.next.saturating_sub(1))
    }

    /// The name of an event.
    #[must_use]
    pub fn id_of(&self, event: &Event) -> EventId {
        self.id(event.seq)
    }

    fn id(&self, seq: u64) -> EventId {
        let boot = self.events.0.boot;
        EventId { boot, seq }
    }

    /// The number of the next event that will be made.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.events.read().next()
    }

    /// Some of the events from this follower's place on, and what it misses of them. Its place moves behind them.
    #[must_use]
    pub fn read(&mut self, pace: Pace) -> (Option<Gap>, Batch) {
        let log = self.events.read();
        let pace = match pace {
            Pace::Every if self.next < self.thin_before => Pace::NewestBefore(self.thin_before),
            pace => pace,
        };
        let (batch, lost_before) = match pace {
            Pace::NewestBefore(end) => (log.newest(self.next, end), log.floor().min(end)),
            Pace::Every => match log.every(self.next) {
                Some(batch) => (batch, 0),
                // All of the way to where things are now: who reads too slowly for every event would never get there.
                None => {
                    self.thin_before = log.next();
                    (log.newest(self.next, self.thin_before), self.thin_before)
                }
            },
        };
        drop(log);
        let begin = self.told.max(self.next);
        let gap = if let Some(from) = self.stranger.take() {
            let to = self.id(lost_before.max(begin).saturating_sub(1));
            let reason = "restarted";
            Some(Gap { from, to, reason })
        } else if lost_before > begin {
            let (from, to) = (self.id(begin.saturating_sub(1)), self.id(lost_before - 1));
            let reason = if self.resumes { "expired" } else { "behind" };
            Some(Gap { from, to, reason })
        } else {
            None
        };
        self.told = self.told.max(lost_before);
        self.resumes = false;
        self.next = batch.next;
        if gap.is_some() {
            self.counters().gaps.fetch_add(1, Relaxed);
        }
        (gap, batch)
    }

    /// Waits until there are events behind its place, or a gap to tell of; false: there will be none.
    pub async fn more(&mut self) -> bool {
        let next = self.next;
        let now = self.stranger.is_some();
        let wanted = |head: &Head| head.closed || now || head.next > next;
        let head = self.head.wait_for(wanted).await;
        head.is_ok_and(|head| !head.closed)
    }

    /// Waits until there will be no more.
    pub async fn closed(&mut self) {
        let _gone = self.head.wait_for(|head| head.closed).await;
    }

    /// The figures of all followers.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        self.events.counters()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.counters().clients.fetch_sub(1, Relaxed);
    }
}
