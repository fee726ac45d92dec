//! The daemon: ticks ask sources, answers become frames, frames of one tick become messages. And the orderly end.
//!
//! One task on a single-threaded runtime does all of it; whatever may block is on a source's own thread. Everything it waits for is listed in [`Daemon::run`].
//!
//! Shutdown, on SIGTERM or SIGINT: no source is asked any more, the answers that are under way are awaited briefly, what is pending is published within
//! [`DRAIN`] or spooled, `offline` is said, the connection is closed. A second signal ends it at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use devmon_core::wire::about::HostFacts;
use devmon_core::wire::pack::pack;
use devmon_core::wire::{Frame, TimestampMs};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{error, info, warn};
use ulid::Ulid;

use crate::about;
use crate::batch;
use crate::config::{Compression, Settings};
use crate::connection::Broker;
use crate::outbox::{DropReason, Outbox};
use crate::plugins::running::{self, Moves, Sources};
use crate::plugins::source::Report;
use crate::plugins::supervise;
use crate::plugins::watch::{self, Change, Watch};
use crate::plugins::{copy, directory};
use crate::publish::{Identity, Publisher};
use crate::schedule::Schedule;
use crate::show;

/// Frames of one tick that come within this travel in one message. A quick source waits no longer for a slow one.
const GATHER: Duration = Duration::from_millis(100);
/// Files that changed and wait for the daemon; the watching thread waits with more.
const CHANGES: usize = 16;
/// Changes of states within this make one `about`.
const DEBOUNCE: Duration = Duration::from_millis(500);
/// The spool is not asked to write more often, however long it takes for an answer.
const MAINTENANCE: Duration = Duration::from_millis(500);
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

struct Daemon {
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
    /// Frames of the present tick, and until when more are awaited.
    gathered: Vec<Frame>,
    gather_until: Option<Instant>,
    /// When what was gathered is published.
    send_at: Option<Instant>,
    /// By how much this device publishes later than its ticks.
    jitter: Duration,
    about_at: Option<Instant>,
}

/// Runs until a signal.
///
/// # Errors
/// When the plugin directory can not be listed or the system lacks what a daemon needs. Plugins and brokers are no reason.
pub async fn run(settings: Settings, broker: Broker) -> anyhow::Result<()> {
    let mut end = Signals::new()?;
    let settings = Arc::new(settings);
    let dir = settings.plugin_dir.display().to_string();
    let candidates = directory::candidates(&settings.plugin_dir)
        .with_context(|| format!("cannot list plugin directory {dir}"))?;
    let found = directory::verdicts(&candidates, &settings);
    if let Some(private) = settings.private_plugins() {
        let used = found
            .iter()
            .filter_map(|f| watch::copy_of(f.verdict.as_ref().ok()?));
        copy::clean(&private, &used.collect::<Vec<_>>());
    }
    let (tell, changes) = mpsc::channel(CHANGES);
    let watch = Watch::start(settings.clone(), candidates, tell)
        .context("cannot watch the plugin directory")?;
    if found.is_empty() {
        warn!(dir, "no plugins: nothing is measured");
    }
    let (sources, reports) = Sources::start(found, &settings, supervise::deadline);
    let names: Vec<&str> = sources.names().collect();
    for problem in running::unknown(&settings, &names) {
        warn!(problem, "configuration");
    }
    let now = TimestampMs::now();
    let mut schedule = Schedule::default();
    for (source, interval) in sources.intervals() {
        schedule.add(source, interval, now);
    }
    let shortest = sources
        .intervals()
        .map(|(_, i)| i)
        .min()
        .unwrap_or(settings.interval);
    let period = shortest.max(settings.publish_every);
    let jitter = batch::jitter(&settings.device, period, settings.jitter);
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
    let mut daemon = Daemon {
        host: about::host_facts(),
        settings,
        sources,
        reports,
        watch,
        changes,
        schedule,
        publisher,
        boot: Ulid::new().to_string(),
        next_seq: 0,
        gathered: Vec::new(),
        gather_until: None,
        send_at: None,
        jitter,
        about_at: None,
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
                self.sources.next_overdue(),
                self.publisher
                    .next_maintenance()
                    .map(|at| at.max(now + MAINTENANCE)),
            ];
            let wake = due.into_iter().flatten().min().unwrap_or(tick);
            tokio::select! {
                () = end.wait() => return,
                Some(report) = self.reports.recv() => self.take(report),
                Some(change) = self.changes.recv() => {
                    let moves = self.sources.apply(change, &self.settings);
                    self.follow(moves);
                }
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
    }

    /// Does whatever is due.
    fn work(&mut self) {
        let now = Instant::now();
        for (index, tick) in self.schedule.due(TimestampMs::now()) {
            if self.sources.ask(index, tick, now) {
                self.gather_until.get_or_insert(now + GATHER);
            }
        }
        self.sources.check(now);
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
            let (sources, descriptors) = self.sources.about();
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
    }

    fn take(&mut self, report: Report) {
        if let Some(frame) = self.sources.take(report, Instant::now()) {
            self.gathered.push(frame);
            if self.gather_until.is_none() {
                self.plan_to_send(Instant::now()); // too late for its tick's message
            }
        }
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
            &self.gathered,
        );
        self.gathered.clear();
        if self.settings.compression == Compression::Zstd {
            for message in &mut messages {
                batch::compress(&mut message.payload);
            }
        }
        self.publisher.metrics(messages);
    }

    async fn stop(mut self) {
        info!("stopping");
        let until = Instant::now() + LAST_ROUND;
        while self.sources.is_awaiting() && Instant::now() < until {
            match tokio::time::timeout_at(until.into(), self.reports.recv()).await {
                Ok(Some(report)) => self.take(report),
                _ => break,
            }
        }
        self.send();
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
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hang_up.recv() => warn!("SIGHUP: this version reads its configuration and plugins at start only"),
            }
        }
    }
}
