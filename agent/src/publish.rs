//! The connection to the broker: what the outbox holds goes out at QoS 1 and leaves the outbox at its PUBACK. The only file that knows rumqttc.
//!
//! **Promises** that a message accepted by [`Publisher::metrics`] is sent until it is acknowledged, over any number of lost connections and restarted brokers, as long as
//! the outbox keeps it; that the retained status says `online` after each connect, `offline` after an orderly end, and `offline` by the broker's own hand (the
//! last will) after any other end. **Leaves** durability to the outbox and deduplication to the collector: after a lost connection, what was not acknowledged is sent again.
//!
//! rumqttc alone does not keep the first promise: at a CONNACK without session it forgets everything accepted so far, it has no way to ask which publish was acknowledged, and a
//! packet id still in use stalls it (`rumqttc/src/eventloop.rs`, `state.rs`; issues 805, 1014, 1056). So the driver here:
//! - asks for a clean session each time and starts with a fresh rumqttc state, so that a reconnect has one case only: everything unacknowledged is sent anew. A
//!   kept session would spare a few duplicates at the price of state in the broker;
//! - keeps its own window of [`WINDOW`] messages, so that rumqttc's queue is never full and packet ids practically never collide;
//! - finds out which packet id a message got by order: rumqttc announces ids in the order of its queue;
//! - polls in a task of its own that is never cancelled: a poll dropped half-way may lose what it was writing.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use devmon_core::wire::about::{Presence, Status};
use devmon_core::wire::pack::Packed;
use devmon_core::wire::{DeviceId, TimestampMs, TopicKind, TopicScheme};
use rumqttc::{
    AsyncClient, Event, EventLoop, LastWill, MqttOptions, MqttState, Outgoing, Packet, QoS,
    TlsConfiguration, Transport,
};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{debug, error, info, warn};

use crate::clock::Reading;
use crate::connection::{Broker, Problem};
use crate::outbox::{DropReason, Durability, Outbox};
use crate::spool::{Limits, SpoolThread, State};

/// Unacknowledged publishes at a time. AWS IoT Core allows 100 on a connection.
const WINDOW: usize = 64;
/// Packet ids in turn; four windows, so that a PUBACK out of order rarely meets its id again.
const PACKET_IDS: u16 = 256;
/// Both directions. Nothing we send is larger than 128 KiB (AWS); nothing we receive is larger than an acknowledgement.
const MAX_PACKET_BYTES: usize = 256 * 1024;
/// AWS IoT Core raises shorter ones and drops the connection after 1.5 times this.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Backlog messages a second: AWS IoT Core takes 100 publishes a second on a connection, and live data needs room among them.
const BACKLOG_PER_S: f64 = 80.0;
const BACKLOG_PACE: Duration = Duration::from_millis(100);
/// Between attempts to connect, doubled from the first to the second, jittered. AWS allows one CONNECT a second for a client id.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// For the spool to write what is left at the end.
const SPOOLED: Duration = Duration::from_secs(2);
/// For the good-bye to a broker that the configuration names no longer.
const PARTING: Duration = Duration::from_secs(2);
/// A connection that lived this long was a good one: the back-off starts anew.
const GOOD_CONNECTION: Duration = Duration::from_secs(10);

/// How the link fares.
#[derive(Debug, Clone, Default)]
pub struct LinkReport {
    pub connected: bool,
    /// Why not, if not.
    pub problem: Option<String>,
    /// Metrics messages since the start; the first counts repeats.
    pub published: u64,
    pub acknowledged: u64,
    pub outbox_messages: usize,
    pub outbox_bytes: usize,
    pub spool: State,
    pub spool_problem: Option<String>,
    pub dropped: BTreeMap<DropReason, u64>,
}

/// Who publishes where.
#[derive(Clone)]
pub struct Identity {
    pub device: DeviceId,
    pub topics: TopicScheme,
}

/// The daemon's handle on the connection.
pub struct Publisher {
    broker: Broker,
    shared: Arc<Shared>,
    tasks: [JoinHandle<()>; 2],
}

struct Shared {
    link: Mutex<Link>,
    /// Something was acknowledged, connected or lost.
    progress: Notify,
    /// There may be backlog to pace.
    pace: Notify,
    /// No more reconnecting.
    stop: Notify,
}

/// What was handed to rumqttc.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ticket {
    Status,
    About,
    Metrics(u64),
}

struct Link {
    client: AsyncClient,
    identity: Identity,
    outbox: Outbox,
    connected: bool,
    /// Counts brokers: what the connection to an earlier one says is not about this one.
    generation: u64,
    stopping: bool,
    status: Presence,
    about: Option<Vec<u8>>,
    /// Retained messages that still have to be sent on this connection.
    owes_status: bool,
    owes_about: bool,
    in_flight: InFlight,
    /// Backlog messages that may be sent now, and when that was last reckoned.
    budget: f64,
    reckoned: Instant,
    published: u64,
    acknowledged: u64,
    problem: Option<String>,
}

impl Publisher {
    /// Starts to connect, and to read what the spool has. Must be called within a tokio runtime.
    #[must_use]
    pub fn start(
        identity: Identity,
        broker: Broker,
        outbox: Outbox,
        spool: Option<Limits>,
    ) -> Self {
        let (client, events) = connect(&identity, &broker);
        let shared = Arc::new(Shared {
            link: Mutex::new(Link {
                client,
                identity,
                outbox,
                connected: false,
                generation: 0,
                stopping: false,
                status: Presence::Online,
                about: None,
                owes_status: false,
                owes_about: false,
                in_flight: InFlight::default(),
                budget: BACKLOG_PER_S,
                reckoned: Instant::now(),
                published: 0,
                acknowledged: 0,
                problem: None,
            }),
            progress: Notify::new(),
            pace: Notify::new(),
            stop: Notify::new(),
        });
        if let Some(limits) = spool {
            shared.open_spool(limits);
        }
        let tasks = [
            tokio::spawn(poll(shared.clone(), events, broker.clone())),
            tokio::spawn(pace(shared.clone())),
        ];
        Self {
            broker,
            shared,
            tasks,
        }
    }

    /// Sends these as soon as possible, and until each is acknowledged. Unless all must be taken now, it leaves those for which broker or spool are about to make room: called again a
    /// moment later, it drops nothing for them.
    pub fn metrics(&self, messages: &mut VecDeque<Packed>, must: bool) {
        let mut link = self.shared.link();
        let before = dropped(&link);
        let now = Instant::now();
        while let Some(message) = messages.front() {
            if !must && link.outbox.is_busy(message.payload.len()) {
                break;
            }
            if let Some(message) = messages.pop_front() {
                link.outbox.push(message.payload, now);
                link.pump();
            }
        }
        link.outbox.maintain(now);
        let after = dropped(&link);
        if after > before && after.next_power_of_two() != before.next_power_of_two() {
            // Once at each doubling, so that an outage of a day is a page of log, not a book.
            warn!(
                dropped = after,
                reasons = ?link.outbox.dropped(),
                "oldest messages are dropped"
            );
        }
        link.pump();
    }

    /// Sends this as retained `about`, now and after each connect.
    pub fn about(&self, payload: Vec<u8>) {
        let mut link = self.shared.link();
        link.about = Some(payload);
        link.owes_about = true;
        link.pump();
    }

    /// How it fares.
    #[must_use]
    pub fn report(&self) -> LinkReport {
        let link = self.shared.link();
        let (spool, spool_problem) = link.outbox.spool();
        LinkReport {
            connected: link.connected,
            problem: link.problem.clone(),
            published: link.published,
            acknowledged: link.acknowledged,
            outbox_messages: link.outbox.len(),
            outbox_bytes: link.outbox.size_bytes(),
            spool,
            spool_problem: spool_problem.map(str::to_owned),
            dropped: link.outbox.dropped(),
        }
    }

    /// Ends the connection in order and begins another, to this broker; what is not acknowledged goes there.
    pub fn redirect(&mut self, broker: Broker) {
        let identity = self.shared.link().identity.clone();
        let (client, events) = connect(&identity, &broker);
        let is_parting = {
            let mut link = self.shared.link();
            let is_parting = link.connected && link.say_goodbye();
            link.on_disconnect();
            link.client = client;
            link.generation += 1;
            link.problem = None;
            is_parting
        };
        self.broker = broker.clone();
        let shared = self.shared.clone();
        let next = tokio::spawn(async {});
        let mut old = std::mem::replace(&mut self.tasks[0], next);
        self.tasks[0] = tokio::spawn(async move {
            // One after the other: if it is the same broker after all, the old good-bye must not come after the new `online`.
            if !is_parting || timeout(PARTING, &mut old).await.is_err() {
                old.abort();
            }
            poll(shared, events, broker).await;
        });
    }

    /// Where it connects to.
    #[must_use]
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// When [`maintain`](Self::maintain) has something to do, if nothing is acknowledged until then.
    #[must_use]
    pub fn next_maintenance(&self) -> Option<Instant> {
        self.shared.link().outbox.next_maintenance()
    }

    /// Spools what the broker does not answer for.
    pub fn maintain(&self) {
        self.shared.link().outbox.maintain(Instant::now());
    }

    /// Sends what is pending until the deadline, says `offline`, disconnects, and spools what is left. Returns the number of messages that could not be kept.
    pub async fn stop(self, limit: Duration) -> usize {
        let until = tokio::time::Instant::now() + limit;
        self.shared.link().stopping = true;
        self.shared.stop.notify_one();
        self.wait(until, |link| link.outbox.is_empty()).await;
        {
            let mut link = self.shared.link();
            (link.status, link.owes_status) = (Presence::Offline, true);
            link.pump();
        }
        // The good-bye has its own moment when the backlog used the deadline up.
        let until = until.max(tokio::time::Instant::now() + limit / 6);
        let sent = |link: &Link| !link.owes_status && !link.in_flight.has(Ticket::Status);
        self.wait(until, sent).await;
        let connected = {
            let link = self.shared.link();
            link.connected && link.client.try_disconnect().is_ok()
        };
        let [poll, pace] = self.tasks;
        pace.abort();
        if connected {
            // Ends itself after DISCONNECT is written.
            let _ = timeout(limit / 6, poll).await;
        } else {
            poll.abort();
        }
        let closing = self.shared.link().outbox.close();
        let until = Instant::now() + SPOOLED;
        while closing.as_ref().is_some_and(|t| !t.is_finished()) && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(2)).await; // a thread can not be awaited
        }
        let link = self.shared.link();
        let (lost, kept) = (link.outbox.unwritten(), link.outbox.len());
        if kept > lost || link.outbox.spool().0.sleeps {
            info!(
                size_bytes = link.outbox.spool().0.size_bytes,
                "what was not delivered is kept in the spool"
            );
        }
        lost
    }

    /// Waits until `done`, the deadline, or a lost connection.
    async fn wait(&self, until: tokio::time::Instant, done: impl Fn(&Link) -> bool) {
        loop {
            let progress = self.shared.progress.notified();
            {
                let mut link = self.shared.link();
                link.pump();
                if !link.connected || done(&link) {
                    return;
                }
            }
            if tokio::time::timeout_at(until, progress).await.is_err() {
                return;
            }
        }
    }
}

impl Shared {
    fn open_spool(self: &Arc<Self>, limits: Limits) {
        let shared = Arc::downgrade(self);
        let tell = move |event| {
            let Some(shared) = shared.upgrade() else {
                return;
            };
            let mut link = shared.link();
            link.outbox.on_spool(event, Instant::now());
            link.pump();
            if link.outbox.has_backlog() {
                shared.pace.notify_one();
            }
            shared.progress.notify_waiters();
        };
        let mut link = self.link();
        let keep_newest = link.outbox.durability() == Durability::Strict;
        match SpoolThread::start(limits, keep_newest, tell) {
            Ok(thread) => link.outbox.set_spool(thread),
            Err(e) => error!(error = %e, "no thread for the spool: messages wait in memory only"),
        }
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn dropped(link: &Link) -> u64 {
    link.outbox.dropped().values().sum()
}

fn believable_now() -> Option<TimestampMs> {
    let now = Reading::now();
    now.is_set().then_some(now.wall)
}

fn status_json(status: Presence, reason: Option<&str>, ts: Option<TimestampMs>) -> Vec<u8> {
    let status = Status {
        status,
        ts,
        reason: reason.map(str::to_owned),
    };
    serde_json::to_vec(&status).unwrap_or_default() // two words and a number into memory: no failure is possible
}

fn connect(identity: &Identity, broker: &Broker) -> (AsyncClient, EventLoop) {
    let (client, mut events) = AsyncClient::new(options(identity, broker), WINDOW + 8);
    // A message is written in one piece; waiting for more to fill a packet would only delay it.
    events.network_options.set_tcp_nodelay(true);
    (client, events)
}

fn options(identity: &Identity, broker: &Broker) -> MqttOptions {
    let Identity { device, topics } = identity;
    let mut options = MqttOptions::new(device.as_str(), &broker.host, broker.port);
    let will = status_json(Presence::Offline, Some("connection lost"), None);
    let topic = topics.topic(device, TopicKind::Status);
    options
        .set_clean_session(true)
        .set_keep_alive(KEEP_ALIVE)
        .set_max_packet_size(MAX_PACKET_BYTES, MAX_PACKET_BYTES)
        .set_inflight(PACKET_IDS)
        .set_last_will(LastWill::new(topic, will, QoS::AtLeastOnce, true));
    if let Some(tls) = &broker.tls {
        let tls = TlsConfiguration::Rustls(tls.clone());
        options.set_transport(Transport::tls_with_config(tls));
    }
    options
}

/// Drives rumqttc until the connection is ended on purpose.
async fn poll(shared: Arc<Shared>, mut events: EventLoop, broker: Broker) {
    let generation = shared.link().generation;
    let mut failures = 0;
    let mut connected_at: Option<Instant> = None;
    let mut said = None;
    loop {
        let polled = events.poll().await;
        match polled {
            Ok(event) => {
                let mut link = shared.link();
                if link.generation != generation {
                    if matches!(event, Event::Outgoing(Outgoing::Disconnect)) {
                        return;
                    }
                    continue;
                }
                if let Event::Incoming(Packet::ConnAck(_)) = &event {
                    connected_at = Some(Instant::now());
                    info!(mqtt = %broker, "connected");
                }
                link.on_event(&event);
                link.pump();
                if link.outbox.has_backlog() {
                    shared.pace.notify_one();
                }
                shared.progress.notify_waiters();
                if matches!(event, Event::Outgoing(Outgoing::Disconnect)) {
                    return;
                }
            }
            Err(e) => {
                {
                    let mut link = shared.link();
                    if link.generation != generation {
                        return;
                    }
                    link.on_disconnect();
                    if link.stopping {
                        shared.progress.notify_waiters();
                        return;
                    }
                }
                // Everything is in the outbox: nothing of the old connection may be left to be mistaken for the new one's.
                events.clean();
                events.pending.clear();
                events.state = MqttState::new(PACKET_IDS, false);
                shared.progress.notify_waiters();

                let lived = connected_at.take().map(|at| at.elapsed());
                if lived.is_some_and(|lived| lived >= GOOD_CONNECTION) {
                    (failures, said) = (0, None);
                }
                let problem = Problem::of(&e, lived, &broker);
                shared.link().problem = Some(problem.text.clone());
                if said.as_ref() == Some(&problem) {
                    debug!(problem = problem.text, "still not connected");
                } else {
                    warn!(mqtt = %broker, problem = problem.text, hint = problem.hint, "not connected");
                    said = Some(problem);
                }
                let wait = backoff(failures);
                failures += 1;
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = shared.stop.notified() => return,
                }
            }
        }
    }
}

/// 1 s, 2 s, … 60 s, each times 0.5 to 1.5: a fleet that lost its broker comes back spread out.
fn backoff(failures: u32) -> Duration {
    let (shortest, longest) = BACKOFF;
    let wait = shortest.saturating_mul(1 << failures.min(16)).min(longest);
    let random = f64::from((ulid::Ulid::new().0 & 0xffff) as u16) / 65_536.0;
    wait.mul_f64(0.5 + random).clamp(shortest / 2, longest)
}

/// Lets the backlog out at its pace, for the poll task only wakes for the network.
async fn pace(shared: Arc<Shared>) {
    loop {
        shared.pace.notified().await;
        loop {
            tokio::time::sleep(BACKLOG_PACE).await;
            let mut link = shared.link();
            link.pump();
            if !link.connected || !link.outbox.has_backlog() {
                break;
            }
        }
    }
}

impl Link {
    /// Hands over as much as the window allows: status, about, live data, backlog.
    fn pump(&mut self) {
        while self.connected && self.in_flight.len() < WINDOW {
            let Some((ticket, kind, retain, payload)) = self.next() else {
                return;
            };
            let topic = self.identity.topics.topic(&self.identity.device, kind);
            let sent = self
                .client
                .try_publish(topic, QoS::AtLeastOnce, retain, payload);
            if let Err(e) = sent {
                // The queue has room for a window and more; what is lost here is sent again after the next connect.
                error!(error = %e, "rumqttc refused a publish");
                return;
            }
            self.published += u64::from(matches!(ticket, Ticket::Metrics(_)));
            self.in_flight.submitted(ticket);
        }
    }

    fn next(&mut self) -> Option<(Ticket, TopicKind, bool, Vec<u8>)> {
        if self.owes_status {
            self.owes_status = false;
            let reason = (self.status == Presence::Offline).then_some("shutdown");
            let payload = status_json(self.status, reason, believable_now());
            return Some((Ticket::Status, TopicKind::Status, true, payload));
        }
        if self.owes_about
            && let Some(about) = self.about.clone()
        {
            self.owes_about = false;
            return Some((Ticket::About, TopicKind::About, true, about));
        }
        let metrics = |(seq, payload)| (Ticket::Metrics(seq), TopicKind::Metrics, false, payload);
        if let Some(live) = self.outbox.next(false) {
            return Some(metrics(live));
        }
        let now = Instant::now();
        let earned = now.duration_since(self.reckoned).as_secs_f64() * BACKLOG_PER_S;
        self.budget = (self.budget + earned).min(BACKLOG_PER_S);
        self.reckoned = now;
        if self.budget < 1.0 && !self.stopping {
            return None;
        }
        let backlog = self.outbox.next(true)?;
        self.budget -= 1.0;
        Some(metrics(backlog))
    }

    /// Leaves this broker in order: it is told `offline`, and closes without the last will. False if rumqttc takes no more.
    fn say_goodbye(&self) -> bool {
        let topic = self
            .identity
            .topics
            .topic(&self.identity.device, TopicKind::Status);
        let payload = status_json(Presence::Offline, Some("moved"), believable_now());
        self.client
            .try_publish(topic, QoS::AtLeastOnce, true, payload)
            .and_then(|()| self.client.try_disconnect())
            .is_ok()
    }

    fn on_event(&mut self, event: &Event) {
        match event {
            Event::Incoming(Packet::ConnAck(_)) => {
                self.connected = true;
                self.problem = None;
                self.outbox.connected();
                (self.owes_status, self.owes_about) = (true, true);
            }
            Event::Outgoing(Outgoing::Publish(id)) => self.in_flight.sent(*id),
            Event::Outgoing(Outgoing::AwaitAck(id)) => self.in_flight.collided(*id),
            Event::Incoming(Packet::PubAck(ack)) => {
                if let Some(Ticket::Metrics(seq)) = self.in_flight.acknowledged(ack.pkid) {
                    self.acknowledged += 1;
                    self.outbox.acknowledged(seq);
                }
            }
            _ => {}
        }
    }

    fn on_disconnect(&mut self) {
        self.connected = false;
        self.in_flight = InFlight::default();
        self.outbox.disconnected();
    }
}

/// Which packet id belongs to what. rumqttc announces ids in the order of its queue; there is no other way to learn them (issue 805).
#[derive(Debug, Default)]
struct InFlight {
    /// In rumqttc's queue, without an id yet.
    queued: VecDeque<Ticket>,
    by_id: HashMap<u16, Ticket>,
    /// Waits in rumqttc until its id is free again.
    collided: Option<(u16, Ticket)>,
}

impl InFlight {
    fn len(&self) -> usize {
        self.queued.len() + self.by_id.len() + usize::from(self.collided.is_some())
    }

    fn has(&self, ticket: Ticket) -> bool {
        self.queued.contains(&ticket)
            || self.by_id.values().any(|t| *t == ticket)
            || self.collided.is_some_and(|(_, t)| t == ticket)
    }

    fn submitted(&mut self, ticket: Ticket) {
        self.queued.push_back(ticket);
    }

    fn sent(&mut self, id: u16) {
        let ticket = match self.collided {
            Some((waiting, ticket)) if waiting == id => {
                self.collided = None;
                Some(ticket)
            }
            _ => self.queued.pop_front(),
        };
        if let Some(ticket) = ticket {
            self.by_id.insert(id, ticket);
        }
    }

    fn collided(&mut self, id: u16) {
        self.collided = self.queued.pop_front().map(|ticket| (id, ticket));
    }

    fn acknowledged(&mut self, id: u16) -> Option<Ticket> {
        self.by_id.remove(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_find_their_message_even_after_a_collision() {
        let mut f = InFlight::default();
        for seq in 1..=3 {
            f.submitted(Ticket::Metrics(seq));
        }
        f.sent(1);
        f.sent(2);
        f.collided(1); // the ids wrapped, and 1 is not acknowledged yet
        assert_eq!(f.len(), 3);
        // rumqttc sends the one that waited when it handles the PUBACK, and announces both in this order.
        assert_eq!(f.acknowledged(1), Some(Ticket::Metrics(1)));
        f.sent(1);
        assert_eq!(f.acknowledged(2), Some(Ticket::Metrics(2)));
        assert_eq!(f.acknowledged(1), Some(Ticket::Metrics(3)));
        assert_eq!(f.acknowledged(1), None);
        assert_eq!(f.len(), 0);
    }

    #[test]
    fn backoff_grows_to_a_minute_and_is_spread() {
        for (failures, s) in [(0, 1.0), (3, 8.0), (6, 60.0), (40, 60.0)] {
            for _ in 0..50 {
                let wait = backoff(failures).as_secs_f64();
                assert!(wait >= s * 0.5 && wait <= (s * 1.5).min(60.0), "{wait}");
            }
        }
    }
}
