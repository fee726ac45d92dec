//! The daemon: ticks ask sources, answers become frames, frames of one tick become messages. And the orderly end.
//!
//! One task on a single-threaded runtime does all of it; whatever may block is on a source's own thread. Everything it waits for is listed in [`Daemon::run`].
//!
//! SIGHUP reads the configuration again: sources whose settings changed are started anew, a changed broker or certificate is connected to, the rest goes on untouched.
//!
//! Shutdown, on SIGTERM or SIGINT: no source is asked any more, the answers that are under way are awaited briefly, what is pending is published within
//! [`DRAIN`] or spooled, `offline` is said, the connection is closed. A second signal ends it at once.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use devmon_core::MetricTree;
use devmon_core::descriptor::DescriptorText;
use devmon_core::wire::about::{HostFacts, SourceAbout};
use devmon_core::wire::pack::{Packed, pack};
use devmon_core::wire::{Frame, TimestampMs};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{debug, error, info, warn};
use ulid::Ulid;

use crate::about;
use crate::batch::{self, Gathered};
use crate::clock::{self, Clock, Reading};
use crate::config::{Compression, Settings};
use crate::connection::Broker;
use crate::control::{self, Asked, Request};
use crate::footprint;
use crate::outbox::{DropReason, Outbox};
use crate::own;
use crate::plugins::directory::{self, Found};
use crate::plugins::running::{self, Moves, Sources};
use crate::plugins::source::Report;
use crate::plugins::supervise;
use crate::plugins::watch::{Change, Watch};
use crate::private;
use crate::publish::{Identity, Publisher};
use crate::schedule::Schedule;
use crate::service;
use crate::show;

/// Frames of one tick that come within this travel in one message. A quick source waits no longer for a slow one.
const GATHER: Duration = Duration::from_millis(100);
/// Files that changed and wait for the daemon; the watching thread waits with more.
const CHANGES: usize = 16;
/// For files that are there at the start to be looked at before the agent says that it is ready; later ones join it as files do that are dropped in.
const FIRST_LOOK: Duration = Duration::from_secs(5);
/// Changes of states within this make one `about`.
const DEBOUNCE: Duration = Duration::from_millis(500);
/// The spool is not asked to write more often, however long it takes for an answer.
const MAINTENANCE: Duration = Duration::from_millis(500);
/// Messages for which the outbox had no room are offered to it again after this.
const OFFER: Duration = Duration::from_millis(20);
/// For delivering what is pending at the end. Service managers give 10 s and more.
const DRAIN: Duration = Duration::from_secs(3);
/// For sources to finish a round at the end.
const LAST_ROUND: Duration = Duration::from_millis(500);
/// Blocking helpers only look names up.
const HELPER_STACK_BYTES: usize = 256 * 1024;

/// The runtime: one thread, and a helper for name lookups when there are names.
///
/// # Errors
/// When the system gives no timer or poller.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .thread_stack_size(HELPER_STACK_BYTES)
        .thread_keep_alive(Duration::from_secs(1))
        .build()
}

/// Reads the configuration again, as it was given at the start; the broker as well, with its certificates. An error is for an operator.
pub type Reread = Box<dyn Fn() -> Result<(Settings, Broker), String>>;

/// The number of the agent's own source in the schedule; others count from 0.
const OWN: usize = usize::MAX;

/// What the first look at the plugin directory brought in time.
struct First {
    found: Vec<Found>,
    changes: usize,
    /// Nothing is still being looked at.
    complete: bool,
}

/// Waits for the verdicts on the files that are there at the start, [`FIRST_LOOK`] at most. In the order of their names: of two with one source name the first has it.
async fn first_look(changes: &mut mpsc::Receiver<Change>) -> First {
    let until = tokio::time::Instant::now() + FIRST_LOOK;
    let mut first = First {
        found: Vec::new(),
        changes: 0,
        complete: false,
    };
    while let Ok(Some(change)) = tokio::time::timeout_at(until, changes.recv()).await {
        match change {
            Change::Found(found) => first.found.push(*found),
            Change::Removed { file } => first.found.retain(|f| f.file() != file),
            Change::Looked => {
                first.complete = true;
                break;
            }
        }
        first.changes += 1;
    }
    first.found.sort_by(|a, b| a.path.cmp(&b.path));
    first
}

struct Daemon {
    reread: Reread,
    asked: mpsc::Receiver<Asked>,
    watchdog: Option<Duration>,
    watchdog_at: Option<Instant>,
    clock: Clock,
    own: Vec<DescriptorText>,
    started: Instant,
    settings: Arc<Settings>,
    host: HostFacts,
    sources: Sources,
    reports: mpsc::Receiver<Report>,
    watch: Watch,
    changes: mpsc::Receiver<Change>,
    schedule: Schedule,
    publisher: Publisher,
    /// With the number of each message: which of this device's messages is which, over restarts.
    boot: String,
    next_seq: u64,
    /// Messages that wait for room in the outbox; until others are packed.
    packed: VecDeque<Packed>,
    /// Frames of the present tick, and until when more are awaited.
    gathered: Gathered,
    gather_until: Option<Instant>,
    /// When what was gathered is published.
    send_at: Option<Instant>,
    /// By how much this device publishes later than its ticks.
    jitter: Duration,
    about_at: Option<Instant>,
    /// When code that has not run lately is given back.
    give_back_at: Instant,
}

/// Runs until a signal.
///
/// # Errors
/// When the plugin directory can not be listed or the system lacks what a daemon needs. Plugins and brokers are no reason.
pub async fn run(settings: Settings, broker: Broker, reread: Reread) -> anyhow::Result<()> {
    let mut end = Signals::new()?;
    let settings = Arc::new(settings);
    let dir = settings.plugin_dir.display().to_string();
    let candidates = directory::candidates(&settings.plugin_dir)
        .with_context(|| format!("cannot list plugin directory {dir}"))?;
    let spool_dir = settings.spool_limits().map(|l| l.dir);
    for dir in spool_dir.iter().chain(&settings.private_plugins()) {
        private::close(dir);
    }
    if candidates.is_empty() {
        warn!(dir, "no plugins: nothing is measured");
    }
    let files = candidates.len();
    let (tell, mut changes) = mpsc::channel(CHANGES);
    let watch = Watch::start(settings.clone(), candidates, tell)
        .context("cannot watch the plugin directory")?;
    let first = tokio::select! {
        first = first_look(&mut changes) => first,
        () = end.wait() => return Ok(()),
    };
    let (sources, reports) = Sources::start(first.found, &settings, supervise::deadline);
    watch.followed(first.changes, sources.copies());
    let names: Vec<&str> = sources.names().collect();
    if first.complete {
        for problem in running::unknown(&settings, &sources.known()) {
            warn!(problem, "configuration");
        }
    } else {
        let waits = files.saturating_sub(first.changes);
        warn!(
            waits,
            "some plugins take long to load: the agent starts without waiting for them"
        );
    }
    let now = TimestampMs::now();
    let mut schedule = Schedule::default();
    for (source, interval) in sources.intervals() {
        schedule.add(source, interval, now);
    }
    let own_settings = settings.source(own::NAME);
    if own_settings.enabled {
        schedule.add(OWN, settings.interval_of(own::NAME, None), now);
    }
    let shortest = sources
        .intervals()
        .map(|(_, i)| i)
        .min()
        .unwrap_or(settings.interval);
    let jitter = settings.jitter_for(shortest);
    let identity = Identity {
        device: settings.device.clone(),
        topics: settings.topics.clone(),
    };
    let outbox = Outbox::new(settings.outbox_bytes, settings.spool.durability);
    let limits = settings.spool_limits();
    if limits.is_none() {
        warn!(
            "no state directory: what the broker does not take is kept in memory only; give --state-dir"
        );
    }
    let publisher = Publisher::start(identity, broker, outbox, limits);

    let ready = format!(
        "ready device={} mqtt={} sources={}\n",
        settings.device,
        settings.mqtt,
        names.join(",")
    );
    show::print(&ready);
    let watchdog = service::watchdog();
    service::ready();
    let mut daemon = Daemon {
        reread,
        asked: control::listen(settings.state_dir.as_deref()),
        watchdog,
        watchdog_at: None,
        clock: Clock::default(),
        own: own::descriptors()
            .iter()
            .map(DescriptorText::from)
            .collect(),
        started: Instant::now(),
        host: about::host_facts(),
        gathered: Gathered::new(settings.outbox_bytes),
        settings,
        sources,
        reports,
        watch,
        changes,
        schedule,
        publisher,
        boot: Ulid::new().to_string(),
        next_seq: 0,
        packed: VecDeque::new(),
        gather_until: None,
        send_at: None,
        jitter,
        about_at: None,
        give_back_at: Instant::now() + footprint::SETTLED,
    };
    daemon.run(&mut end).await;
    tokio::select! {
        () = daemon.stop() => Ok(()),
        () = end.wait() => anyhow::bail!("ended by a second signal; what was pending is lost"),
    }
}

impl Daemon {
    async fn run(&mut self, end: &mut Signals) {
        loop {
            self.work();
            let now = Instant::now();
            let tick = now + self.schedule.sleep(TimestampMs::now());
            let due = [
                Some(tick),
                self.gather_until,
                self.send_at,
                self.about_at,
                self.watchdog_at,
                Some(self.give_back_at),
                (!self.packed.is_empty()).then_some(now + OFFER),
                self.sources.next_overdue(),
                self.publisher
                    .next_maintenance()
                    .map(|at| at.max(now + MAINTENANCE)),
            ];
            let wake = due.into_iter().flatten().min().unwrap_or(tick);
            tokio::select! {
                () = ended(&mut end.terminate, &mut end.interrupt) => return,
                _ = end.hang_up.recv() => self.reload(),
                Some((request, reply)) = self.asked.recv() => {
                    let _ = reply.send(self.answer(request)); // whoever asked may have left
                }
                Some(report) = self.reports.recv() => self.take(report),
                Some(change) = self.changes.recv() => {
                    let counts = usize::from(!matches!(change, Change::Looked));
                    let moves = self.sources.apply(change, &self.settings);
                    self.follow(moves);
                    self.watch.followed(counts, self.sources.copies());
                }
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
    }

    /// Does whatever is due.
    fn work(&mut self) {
        let now = Instant::now();
        let reading = Reading::now();
        if let Some(by_ms) = self.clock.observe(reading) {
            warn!(by_ms, "the wall clock was set");
        }
        let evidence = || clock::evidence(Path::new("/run"), Path::new("/sys"), reading.wall);
        let believed = self.clock.weigh(reading, evidence);
        if self.clock.held() > 0 && believed {
            let held = self.clock.release(reading);
            info!(
                frames = held.len(),
                "the clock is believed: what was measured before has its time now"
            );
            held.into_iter().for_each(|frame| self.line_up(frame));
            self.plan_to_send(now);
        }
        if let Some(every) = self.watchdog
            && self.watchdog_at.is_none_or(|at| now >= at)
        {
            service::alive();
            self.watchdog_at = Some(now + every);
        }
        if now >= self.give_back_at {
            self.give_back_at = now + footprint::AGAIN;
            let bytes = footprint::give_back_code();
            debug!(bytes, "code is given back");
        }
        if !self.sources.is_awaiting() {
            self.clock.all_answered(reading);
        }
        for (index, tick) in self.schedule.due(reading.wall) {
            self.clock.asked(tick, reading);
            if index == OWN {
                let frame = Frame {
                    ts: Some(tick),
                    source: Some(own::NAME.into()),
                    metrics: self.own_tree(),
                };
                self.gather(frame);
                self.gather_until.get_or_insert(now + GATHER);
            } else if self.sources.ask(index, tick, now) {
                self.gather_until.get_or_insert(now + GATHER);
            }
        }
        self.sources.check(now);
        if !self.packed.is_empty() {
            self.publisher.metrics(&mut self.packed, false);
        }
        self.publisher.maintain();
        let complete = !self.sources.is_awaiting();
        if self.gather_until.is_some_and(|at| now >= at || complete) {
            self.gather_until = None;
            self.plan_to_send(now);
        }
        if self.send_at.is_some_and(|at| now >= at) {
            self.send();
        }
        if self.sources.take_changed() {
            self.about_at.get_or_insert(now + DEBOUNCE);
        }
        if self.about_at.is_some_and(|at| now >= at) {
            self.about_at = None;
            let (sources, descriptors) = self.about();
            let payload = about::payload(&self.settings, &self.host, sources, descriptors);
            self.publisher.about(payload);
        }
    }

    fn follow(&mut self, moves: Moves) {
        let now = TimestampMs::now();
        for source in moves.gone {
            self.schedule.remove(source);
        }
        for (source, interval) in moves.new {
            self.schedule.add(source, interval, now);
        }
        for file in moves.again {
            self.watch.again(&file);
        }
        self.set_jitter();
    }

    fn take(&mut self, report: Report) {
        if let Some(frame) = self.sources.take(report, Instant::now()) {
            self.gather(frame);
            if self.gather_until.is_none() {
                self.plan_to_send(Instant::now()); // too late for its tick's message
            }
        }
    }

    /// Puts a frame in line, or holds it until its time is known.
    fn gather(&mut self, frame: Frame) {
        let now = Reading::now();
        if frame.ts.is_some_and(|ts| self.clock.vouches_for(ts, now)) {
            self.line_up(frame);
            return;
        }
        if self.clock.held() == 0 && !self.clock.believes(now) {
            warn!("the clock is not set, or may not be: what is measured waits until it is");
        }
        let before = self.clock.given_up();
        self.clock.hold(frame, now.boot_ms);
        if before == 0 && self.clock.given_up() > 0 {
            warn!("too much waits for the clock to be set: the oldest is given up");
        }
    }

    /// Puts a frame in line; sends what is there when that is enough for a message or more, whatever the time.
    fn line_up(&mut self, frame: Frame) {
        self.gathered.push(frame);
        if self.gathered.is_full() {
            self.send();
        }
    }

    /// All sources and descriptors, the agent's own first.
    fn about(&self) -> (Vec<SourceAbout>, Vec<DescriptorText>) {
        let (mut sources, mut descriptors) = self.sources.about();
        let interval = self.settings.interval_of(own::NAME, None);
        if self.settings.source(own::NAME).enabled {
            sources.insert(0, own::about(interval));
            descriptors.extend(self.own.iter().cloned());
        }
        (sources, descriptors)
    }

    fn own_tree(&self) -> MetricTree {
        let facts = own::Facts {
            states: self.sources.count_states(),
            rounds: self.sources.rounds(),
            clock_jumps: self.clock.jumps(),
            clock_given_up: self.clock.given_up(),
        };
        own::tree(&self.publisher.report(), &facts)
    }

    /// Follows what changed in the configuration; what did not is not touched.
    fn reload(&mut self) {
        service::reloading();
        match (self.reread)() {
            Ok((new, broker)) => self.reconfigure(new, broker),
            Err(problem) => error!(
                problem,
                "SIGHUP: the configuration is not usable; the agent goes on with the one it has"
            ),
        }
        service::ready();
    }

    fn reconfigure(&mut self, mut new: Settings, broker: Broker) {
        let old = self.settings.clone();
        for what in new.keep_until_restart(&old) {
            warn!(
                what,
                "SIGHUP: a change of this needs a restart; the old value stays"
            );
        }
        if old.labels != new.labels {
            self.about_at.get_or_insert(Instant::now() + DEBOUNCE);
        }
        let new = Arc::new(new);
        self.settings = new.clone();
        self.watch.settings(new.clone());
        if self.publisher.broker() != &broker {
            info!(mqtt = %broker, "SIGHUP: connects anew");
            self.publisher.redirect(broker);
        }
        let all = || self.sources.names().map(str::to_owned).collect();
        let restarted: Vec<String> = old.changed_sources(&new).unwrap_or_else(all);
        if restarted.iter().any(|name| name == own::NAME) || old.interval != new.interval {
            self.schedule.remove(OWN);
            if new.source(own::NAME).enabled {
                self.schedule
                    .add(OWN, new.interval_of(own::NAME, None), TimestampMs::now());
            }
        }
        let moves = self.sources.restart(&restarted);
        info!(
            sources = restarted.join(","),
            "SIGHUP: configuration read again; these sources are started anew"
        );
        self.follow(moves);
    }

    /// The shortest interval may have changed.
    fn set_jitter(&mut self) {
        let shortest = self.sources.intervals().map(|(_, i)| i).min();
        let shortest = shortest.unwrap_or(self.settings.interval);
        self.jitter = self.settings.jitter_for(shortest);
    }

    fn answer(&mut self, request: Request) -> serde_json::Value {
        match request {
            Request::Retry(name) => match self.sources.readmit(&name) {
                Ok(None) => serde_json::json!({"retry": name}),
                Ok(Some(file)) => {
                    self.watch.again(&file);
                    serde_json::json!({"retry": name, "file": file})
                }
                Err(error) => serde_json::json!({"error": error}),
            },
            Request::Status => self.status(),
        }
    }

    fn status(&self) -> serde_json::Value {
        let link = self.publisher.report();
        let (sources, _) = self.about();
        let dropped: serde_json::Map<_, _> = (link.dropped.iter())
            .map(|(reason, n)| (reason.as_str().to_owned(), (*n).into()))
            .collect();
        let isolation: BTreeMap<_, _> = self.sources.isolations().collect();
        let crashes: BTreeMap<_, _> = self.sources.crashes().collect();
        serde_json::json!({
            "device": self.settings.device,
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "uptime_s": self.started.elapsed().as_secs(),
            "mqtt": self.settings.mqtt.to_string(),
            "connected": link.connected,
            "problem": link.problem,
            "published": link.published,
            "acknowledged": link.acknowledged,
            "dropped": dropped,
            "outbox": {"messages": link.outbox_messages, "bytes": link.outbox_bytes},
            "spool": {
                "bytes": link.spool.size_bytes,
                "backlog": link.spool.sleeps,
                "problem": link.spool_problem,
            },
            "clock": {
                "set": self.clock.believes(Reading::now()),
                "held_frames": self.clock.held(),
                "given_up_frames": self.clock.given_up(),
                "jumps": self.clock.jumps(),
            },
            "sources": sources,
            "isolation": isolation,
            "crashes": crashes,
        })
    }

    fn plan_to_send(&mut self, now: Instant) {
        if !self.gathered.is_empty() {
            let every = self.settings.publish_every;
            let delay = batch::delay(every, self.jitter, TimestampMs::now());
            self.send_at.get_or_insert(now + delay);
        }
    }

    fn send(&mut self) {
        self.send_at = None;
        if self.gathered.is_empty() {
            return;
        }
        let mut messages = pack(
            &self.settings.device,
            &self.boot,
            &mut self.next_seq,
            &self.gathered.take(),
        );
        if self.settings.compression == Compression::Zstd {
            for message in &mut messages {
                batch::compress(&mut message.payload);
            }
        }
        // Those of the last time have had their moment: what waits here is bounded as well.
        self.publisher.metrics(&mut self.packed, true);
        self.packed = messages.into();
        self.publisher.metrics(&mut self.packed, false);
    }

    /// What waits for a time gets the one that is believed now, if it can be true at all: it is spooled, and the next agent may know no better.
    fn last_held(&mut self) {
        let now = Reading::now();
        if now.is_set() {
            let held = self.clock.release(now);
            held.into_iter().for_each(|frame| self.line_up(frame));
            return;
        }
        let frames = self.clock.give_up();
        if frames > 0 {
            error!(
                frames,
                "the clock was never set: what was measured has no time and is lost"
            );
        }
    }

    async fn stop(mut self) {
        service::stopping();
        info!("stopping");
        let until = Instant::now() + LAST_ROUND;
        while self.sources.is_awaiting() && Instant::now() < until {
            match tokio::time::timeout_at(until.into(), self.reports.recv()).await {
                Ok(Some(report)) => self.take(report),
                _ => break,
            }
        }
        self.last_held();
        self.send();
        self.publisher.metrics(&mut self.packed, true);
        self.sources.stop(LAST_ROUND).await;
        let lost = self.publisher.stop(DRAIN).await;
        if lost > 0 {
            let reason = DropReason::Shutdown.as_str();
            error!(
                messages = lost,
                reason, "messages were neither delivered nor spooled"
            );
        }
        info!("stopped");
    }
}

/// The signals that a daemon knows.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    /// Until SIGTERM or SIGINT.
    async fn wait(&mut self) {
        ended(&mut self.terminate, &mut self.interrupt).await;
    }
}

async fn ended(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
