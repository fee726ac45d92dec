//! The spool on a thread of its own: orders in, events out. It opens the spool, tries again while it can not, and says why to whoever asks for the state.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use devmon_core::journal::{JournalError, Position};
use tracing::{error, info, warn};

use super::{GivenUp, Limits, RETRY, Spool};

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
    /// It could not be opened and is tried again; why, for an operator. Told after each try.
    NotOpen(String),
    /// What is settled can not be deleted, why; or it can be again. Told when that changes.
    Stuck(Option<String>),
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
        Self::start_with(limits, keep_newest, RETRY, tell)
    }

    /// The same; what failed is tried again after this.
    pub(crate) fn start_with(
        limits: Limits,
        keep_newest: bool,
        retry: Duration,
        tell: impl Fn(Event) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (orders, inbox) = channel(); // the outbox gives one order of a kind at a time
        let thread = std::thread::Builder::new()
            .name("spool".into())
            .stack_size(STACK_BYTES)
            .spawn(move || run(&limits, keep_newest, retry, &inbox, &tell))?;
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

/// What the thread knows of its spool: open, or why not.
struct Slot<'a> {
    limits: &'a Limits,
    retry: Duration,
    spool: Option<Spool>,
    /// When what failed is tried again.
    again_at: Instant,
    problem: String,
    /// What was last said of what can not be deleted.
    stuck: Option<String>,
}

impl Slot<'_> {
    /// How long until what failed is tried again; `None`: nothing did.
    fn waits(&self) -> Option<Duration> {
        let failed = self.spool.as_ref().is_none_or(|s| s.stuck().is_some());
        failed.then(|| self.again_at.saturating_duration_since(Instant::now()))
    }

    /// Opens the spool, or deletes what could not be deleted, if it is time for that. The event to tell, if there is one.
    fn try_again(&mut self, state: impl Fn(&Spool) -> State) -> Option<Event> {
        if self.waits() != Some(Duration::ZERO) {
            return None;
        }
        self.again_at = Instant::now() + self.retry;
        if let Some(spool) = &mut self.spool {
            spool.try_again();
            return None;
        }
        match Spool::open(self.limits) {
            Ok(spool) => {
                if !self.problem.is_empty() {
                    self.writable_again();
                }
                let opened = Event::Opened(state(&spool));
                self.spool = Some(spool);
                return Some(opened);
            }
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
        Some(Event::NotOpen(self.problem.clone()))
    }

    fn get(&mut self) -> Result<&mut Spool, String> {
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

    fn writable_again(&mut self) {
        self.problem.clear();
        info!(dir = %self.limits.dir.display(), "the spool can be written again");
    }

    /// Whether something can not be deleted, when that has changed: it is found at each acknowledgement.
    fn stuck_anew(&mut self) -> Option<Event> {
        let stuck = self.spool.as_ref().and_then(Spool::stuck);
        if self.stuck.as_deref() == stuck {
            return None;
        }
        let problem = stuck.map(str::to_owned);
        match (&problem, &self.stuck) {
            (Some(problem), None) => {
                self.again_at = Instant::now() + self.retry;
                warn!(
                    problem,
                    "what the broker has can not be deleted from the spool, which only grows: make the directory and its files deletable (chown, chattr -i -a); it is tried again"
                );
            }
            (Some(_), Some(_)) => {}
            (None, _) => info!("what the broker has is deleted from the spool again"),
        }
        self.stuck.clone_from(&problem);
        Some(Event::Stuck(problem))
    }
}

fn run(
    limits: &Limits,
    keep_newest: bool,
    retry: Duration,
    orders: &Receiver<Order>,
    tell: &dyn Fn(Event),
) {
    let mut slot = Slot {
        limits,
        retry,
        spool: None,
        again_at: Instant::now(),
        problem: String::new(),
        stuck: None,
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
    let mut failed_at: Option<Instant> = None;
    loop {
        if let Some(event) = slot.try_again(|spool| state(spool, told)) {
            if matches!(event, Event::Opened(_)) {
                failed_at = None;
            }
            tell(event);
        }
        if let Some(event) = slot.stuck_anew() {
            tell(event);
        }
        let order = match slot.waits() {
            Some(wait) => orders.recv_timeout(wait),
            None => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        let order = match order {
            Ok(order) => order,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        match order {
            Order::Store(messages) => {
                let paused = failed_at.is_some_and(|at| at.elapsed() < retry);
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
                            slot.writable_again();
                        }
                        let stored = messages.iter().zip(places);
                        let awake = stored.filter(|(m, _)| m.awake);
                        let awake = awake.map(|(m, place)| (m.key, place)).collect();
                        tell(Event::Stored(awake, state));
                    }
                    Err(problem) => {
                        if !paused && slot.spool.is_some() {
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
