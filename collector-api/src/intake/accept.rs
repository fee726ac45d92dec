//! The one way in: decode → check → group → commit → acknowledge.
//!
//! # Promises
//! - [`Outcome::Acknowledge`] means: on disk. The message is stored, was stored before, or is kept as a dead letter with its reason.
//! - [`Outcome::Refuse`] means: nothing of it is kept (the disk is full, the collector stops). It must not be acknowledged, so that it comes again.
//! - What waits is bounded in messages and in bytes. When the bound is reached [`Intake::submit`] waits; the transports then stop reading.
//!
//! Decoding runs where the message came in; one thread of its own ([`WriterGuard`]) commits all that has gathered while the disk was busy as one batch.
//! Messages of one caller are committed in the order in which they were submitted. It leaves to others: transports, packet ids, what is a repeat (the store).

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use devmon_core::Value;
use devmon_core::wire::about::MAX_ABOUT_BYTES;
use devmon_core::wire::message::MAX_DECOMPRESSED_BYTES;
use devmon_core::wire::{
    About, DeviceId, FlatFrame, FlatMessage, Reason, Refusal, Status, TimestampMs, TopicKind,
    TopicScheme,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use super::feed::Feed;
use super::write;
use crate::courtesy;
use crate::store::engine::{Accepted, Content, DeadLetter, Refused, Store};

/// What a waiting message costs besides its payload: the decoded tree, the places in queues. Bounds empty messages too.
const MESSAGE_OVERHEAD_BYTES: usize = 512;
/// What the tree of a message that is not compressed is taken to cost, in payloads: what waits is the payload and the tree. Trees of few, long names cost
/// less; of many short ones more, but each payload is bounded, and so is their number.
const TREE_FACTOR: usize = 4;
/// Charged for a compressed message until it is decoded: what it may decompress to, as tree. Then what it came to is known, and the rest is given back.
const COMPRESSED_BYTES: usize = MAX_DECOMPRESSED_BYTES * TREE_FACTOR;
/// How a zstd frame begins; no JSON does.
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// Most payload of a dead letter. Our listener takes no more; a broker may deliver up to 256 MiB, which no record of a journal holds, and it would come again for ever.
const MAX_LETTER_BYTES: usize = 2 << 20;

/// A PUBLISH as a transport hands it over.
#[derive(Debug, Clone)]
pub struct Publish {
    pub topic: String,
    pub payload: Bytes,
    /// Whom the sender's certificate names; it may publish for that device only. `None`: not checked.
    pub identity: Option<Arc<str>>,
    /// The copy that a broker kept for new subscribers. It says nothing about when the device was last here.
    pub retained: bool,
}

impl Publish {
    /// A live message from a sender that is not checked.
    pub fn new(topic: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Self {
            topic: topic.into(),
            payload: payload.into(),
            identity: None,
            retained: false,
        }
    }
}

/// What the transport may tell the sender.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "only Acknowledge allows a PUBACK"]
pub enum Outcome {
    /// It is on disk: send PUBACK.
    Acknowledge,
    /// It is not, for this reason: send none, and make the sender come again.
    Refuse(String),
}

/// What the intake checks and how much may wait.
#[derive(Debug, Clone)]
pub struct IntakeSettings {
    pub scheme: TopicScheme,
    /// How far ahead of the collector's clock a sample may lie, in milliseconds.
    pub max_ahead_ms: i64,
    /// Messages that may wait for the disk.
    pub queue_messages: usize,
    /// Bytes that may wait for the disk, as estimated: payloads and what they are decoded to.
    pub queue_bytes: usize,
}

impl Default for IntakeSettings {
    fn default() -> Self {
        Self {
            scheme: TopicScheme::default(),
            max_ahead_ms: 3_600_000, // an hour: a wrong time zone is refused, a clock that drifts is not
            queue_messages: 16_384,  // at 100 000 messages/s a sixth of a second: several fsyncs
            queue_bytes: 32 << 20,
        }
    }
}

/// How the connection to the broker is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BrokerStatus {
    /// `host:port`.
    pub address: String,
    /// The connection stands, and the broker has granted the subscriptions.
    pub connected: bool,
    /// Why the last connection ended or could not be made.
    pub last_error: Option<String>,
}

/// Figures since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IntakeStatus {
    /// Messages stored, of every kind.
    pub messages: u64,
    /// Samples in them.
    pub samples: u64,
    /// Messages that had been stored before.
    pub duplicates: u64,
    /// Messages kept as dead letters, by reason; every reason is there.
    pub refused: Refused,
    /// Messages that could not be taken because the store failed; they come again.
    pub put_off: u64,
    /// Open connections of the listener.
    pub connections: u64,
    /// Messages that wait for the disk.
    pub queued_messages: u64,
    /// Bytes that wait for the disk.
    pub queued_bytes: u64,
    /// When a commit last succeeded.
    pub last_commit: Option<TimestampMs>,
    /// Why commits fail now.
    pub problem: Option<String>,
    /// In broker mode.
    pub broker: Option<BrokerStatus>,
}

/// The intake; clones are handles of the same one.
#[derive(Clone)]
pub struct Intake {
    shared: Arc<Shared>,
    jobs: mpsc::Sender<Job>,
}

impl std::fmt::Debug for Intake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Intake").finish_non_exhaustive()
    }
}

/// What the handles and the writer share.
pub(super) struct Shared {
    pub(super) store: Arc<dyn Store>,
    settings: IntakeSettings,
    room: Arc<Semaphore>,
    room_bytes: usize,
    pub(super) counters: Counters,
    /// Number of commits that stored something; for those who wait for news.
    pub(super) commits: watch::Sender<u64>,
    pub(super) feed: Arc<Feed>,
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) messages: AtomicU64,
    pub(super) samples: AtomicU64,
    pub(super) duplicates: AtomicU64,
    pub(super) put_off: AtomicU64,
    pub(super) connections: AtomicU64,
    pub(super) queued: AtomicU64,
    pub(super) refused: Mutex<BTreeMap<Reason, u64>>,
    /// Unix ms; 0: never.
    pub(super) last_commit: AtomicI64,
    pub(super) problem: Mutex<Option<String>>,
    broker: Mutex<Option<BrokerStatus>>,
}

/// What travels to the writer.
pub(super) enum Job {
    Item {
        what: Item,
        done: oneshot::Sender<Outcome>,
        /// Given back when the job is dropped, that is: done.
        _room: OwnedSemaphorePermit,
    },
    Stop,
}

pub(super) enum Item {
    Store { accepted: Accepted, retained: bool },
    Bury(DeadLetter),
}

/// Resolves when the message's fate is known. Dropping it changes nothing for the message.
#[derive(Debug)]
#[must_use = "its outcome decides whether a PUBACK is sent"]
pub struct Ticket(State);

#[derive(Debug)]
enum State {
    Waiting(oneshot::Receiver<Outcome>),
    Known(Outcome),
}

impl Ticket {
    fn stopped() -> Self {
        Self(State::Known(Outcome::Refuse(
            "the collector stops".to_owned(),
        )))
    }

    /// Ready when the outcome is known; it can be polled as a future still.
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let State::Waiting(receiver) = &mut self.0 {
            let Poll::Ready(outcome) = Pin::new(receiver).poll(cx) else {
                return Poll::Pending;
            };
            // Its sender went without a word: the writer has ended.
            *self = outcome.map_or_else(|_| Self::stopped(), |outcome| Self(State::Known(outcome)));
        }
        Poll::Ready(())
    }
}

impl Future for Ticket {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        self.poll_ready(cx).map(|()| match &self.0 {
            State::Known(outcome) => outcome.clone(),
            State::Waiting(_) => unreachable!("ready means known"),
        })
    }
}

/// The writer's thread. [`stop`](Self::stop) it, or drop it: then what was submitted is committed first.
#[derive(Debug)]
pub struct WriterGuard {
    jobs: mpsc::Sender<Job>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl WriterGuard {
    /// Commits what was submitted, refuses what comes later, ends the thread. Blocks: call it off the async threads.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        // The queue may be full: then the writer is at work and makes room soon.
        while let Err(mpsc::error::TrySendError::Full(_)) = self.jobs.try_send(Job::Stop) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        if thread.join().is_err() {
            tracing::error!("the intake's writer had panicked");
        }
    }
}

impl Drop for WriterGuard {
    fn drop(&mut self) {
        self.end();
    }
}

impl Intake {
    /// Starts the writer over a store.
    ///
    /// # Panics
    /// If the operating system gives no thread.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, settings: IntakeSettings) -> (Self, WriterGuard) {
        let (jobs, queue) = mpsc::channel(settings.queue_messages.max(1));
        let room_bytes = settings.queue_bytes.clamp(1 << 16, u32::MAX as usize);
        let shared = Arc::new(Shared {
            store,
            settings,
            room: Arc::new(Semaphore::new(room_bytes)),
            room_bytes,
            counters: Counters::default(),
            commits: watch::Sender::new(0),
            feed: Arc::default(),
        });
        let thread = std::thread::Builder::new().name("intake-writer".into());
        let thread = {
            let shared = shared.clone();
            thread.spawn(move || {
                courtesy::of_this_thread();
                write::run(&shared, queue);
            })
        };
        let guard = WriterGuard {
            jobs: jobs.clone(),
            thread: Some(thread.expect("no thread at start-up: nothing could be stored")),
        };
        (Self { shared, jobs }, guard)
    }

    /// Takes a message in and waits until its fate is known.
    pub async fn accept(&self, publish: Publish) -> Outcome {
        self.submit(publish).await.await
    }

    /// Takes a message in; waits only while too much is queued. Cancel-safe: dropped while it waits, the message was not taken.
    pub async fn submit(&self, publish: Publish) -> Ticket {
        let shared = &self.shared;
        let cost = cost(&publish).min(shared.room_bytes);
        let is_compressed = publish.payload.starts_with(ZSTD_MAGIC);
        let cost = u32::try_from(cost).unwrap_or(u32::MAX); // room_bytes is a u32
        let Ok(mut room) = shared.room.clone().acquire_many_owned(cost).await else {
            return Ticket::stopped();
        };
        let Ok(place) = self.jobs.reserve().await else {
            return Ticket::stopped();
        };
        let what = check(&shared.settings, publish);
        if is_compressed {
            let surplus = room.num_permits().saturating_sub(weight(&what));
            drop(room.split(surplus)); // given back
        }
        let (done, outcome) = oneshot::channel();
        shared.counters.queued.fetch_add(1, Relaxed);
        place.send(Job::Item {
            what,
            done,
            _room: room,
        });
        Ticket(State::Waiting(outcome))
    }

    /// Figures now.
    #[must_use]
    pub fn status(&self) -> IntakeStatus {
        let counters = &self.shared.counters;
        let counted = lock(&counters.refused);
        let refused = Reason::ALL
            .iter()
            .map(|reason| (reason.as_str(), counted.get(reason).copied().unwrap_or(0)))
            .collect();
        drop(counted);
        let last_commit = counters.last_commit.load(Relaxed);
        let free = self.shared.room.available_permits();
        IntakeStatus {
            messages: counters.messages.load(Relaxed),
            samples: counters.samples.load(Relaxed),
            duplicates: counters.duplicates.load(Relaxed),
            refused,
            put_off: counters.put_off.load(Relaxed),
            connections: counters.connections.load(Relaxed),
            queued_messages: counters.queued.load(Relaxed),
            queued_bytes: self.shared.room_bytes.saturating_sub(free) as u64,
            last_commit: (last_commit != 0).then_some(TimestampMs(last_commit)),
            problem: lock(&counters.problem).clone(),
            broker: lock(&counters.broker).clone(),
        }
    }

    /// Changes with each commit that stored something: for whoever waits for news. The number only grows.
    #[must_use]
    pub fn commits(&self) -> watch::Receiver<u64> {
        self.shared.commits.subscribe()
    }

    /// What is committed, message by message, for the one who follows it.
    #[must_use]
    pub fn feed(&self) -> Arc<Feed> {
        self.shared.feed.clone()
    }

    /// Counts a connection for as long as the result lives.
    pub(super) fn count_connection(&self) -> Counted {
        self.shared.counters.connections.fetch_add(1, Relaxed);
        Counted(self.shared.clone())
    }

    /// Says how the connection to the broker is.
    pub(super) fn set_broker(&self, status: BrokerStatus) {
        *lock(&self.shared.counters.broker) = Some(status);
    }
}

impl Shared {
    /// The letter for a message that was good but for the store's bounds.
    pub(super) fn refused_by_store(
        &self,
        item: Accepted,
        reason: Reason,
        limit: u64,
    ) -> DeadLetter {
        let kind = match item.content {
            Content::Metrics { .. } => TopicKind::Metrics,
            Content::Status(_) => TopicKind::Status,
            Content::About(_) => TopicKind::About,
        };
        let detail = match reason {
            Reason::TooManyDevices => format!(
                "device {} would be one more than {limit}; raise max_devices",
                item.device
            ),
            _ => format!(
                "its new series would be more than {limit}, or their paths too long together; raise max_device_series or max_series if they are meant"
            ),
        };
        let publish = Publish::new(self.settings.scheme.topic(&item.device, kind), item.payload);
        letter(publish, Refusal { reason, detail }, TimestampMs::now())
    }
}

/// One open connection, counted.
pub(super) struct Counted(Arc<Shared>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.counters.connections.fetch_sub(1, Relaxed);
    }
}

/// A panic elsewhere leaves counters whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a message is charged before it is decoded.
fn cost(publish: &Publish) -> usize {
    let payload = publish.payload.len();
    let tree = if publish.payload.starts_with(ZSTD_MAGIC) {
        COMPRESSED_BYTES
    } else {
        payload * (TREE_FACTOR - 1) // the payload itself is the first
    };
    payload + tree + publish.topic.len() + MESSAGE_OVERHEAD_BYTES
}

/// About what a decoded message takes. The payload is kept too: it goes into the journal as it came.
fn weight(what: &Item) -> usize {
    MESSAGE_OVERHEAD_BYTES
        + match what {
            Item::Store { accepted, .. } => {
                let leaves = match &accepted.content {
                    Content::Metrics { frames, .. } => frames.iter().map(frame_weight).sum(),
                    Content::Status(_) | Content::About(_) => 0, // never compressed
                };
                accepted.payload.len() + accepted.device.as_str().len() + leaves
            }
            Item::Bury(letter) => letter.payload.len() + letter.topic.len() + letter.detail.len(),
        }
}

/// The shape is counted in full: it may be shared, or not.
fn frame_weight(frame: &FlatFrame) -> usize {
    let texts = frame.values.iter().map(|value| match value {
        Value::Text(text) => text.len(),
        _ => 0,
    });
    let source = frame.source.as_ref().map_or(0, |source| source.len());
    size_of::<FlatFrame>()
        + source
        + frame.shape.size_bytes()
        + size_of_val(&*frame.values)
        + texts.sum::<usize>()
}

/// Decodes and checks: what is to be stored, or buried.
fn check(settings: &IntakeSettings, publish: Publish) -> Item {
    let now = TimestampMs::now();
    match examine(settings, &publish, now) {
        Ok((device, content, received)) => Item::Store {
            accepted: Accepted {
                device,
                received,
                payload: publish.payload,
                content,
            },
            retained: publish.retained,
        },
        Err(refusal) => Item::Bury(letter(publish, refusal, now)),
    }
}

fn letter(publish: Publish, refusal: Refusal, now: TimestampMs) -> DeadLetter {
    let (mut detail, mut payload) = (refusal.detail, publish.payload);
    if payload.len() > MAX_LETTER_BYTES {
        detail.push_str(&format!(
            "; the first {MAX_LETTER_BYTES} of {} bytes are kept",
            payload.len()
        ));
        payload = Bytes::copy_from_slice(&payload[..MAX_LETTER_BYTES]); // a slice would hold all of it
    }
    DeadLetter {
        id: 0, // the store numbers them
        ts: now,
        topic: publish.topic,
        reason: refusal.reason,
        detail,
        payload,
    }
}

/// Whose message it is, what it says, and when it counts as received.
fn examine(
    settings: &IntakeSettings,
    publish: &Publish,
    now: TimestampMs,
) -> Result<(DeviceId, Content, TimestampMs), Refusal> {
    let topic = settings.scheme.parse(&publish.topic);
    let (device, kind) = topic.map_err(|e| Refusal::new(Reason::InvalidTopic, e))?;
    // Before the payload is read: whoever may not speak for a device costs no decoding.
    if let Some(identity) = publish
        .identity
        .as_deref()
        .filter(|i| *i != device.as_str())
    {
        let detail = format!("the certificate names {identity:?}, the topic device {device}");
        return Err(Refusal::new(Reason::NotAuthorized, detail));
    }
    // A retained copy is as old as it says; a clock ahead of ours counts as now.
    let copy_received = |said: Option<TimestampMs>| {
        let said = said.filter(|ts| publish.retained && *ts >= TimestampMs::EARLIEST && *ts < now);
        said.unwrap_or(now)
    };
    match kind {
        TopicKind::Metrics => {
            let mut message = FlatMessage::decode(&publish.payload)?;
            message.check_device(&device)?;
            message.check_times(now, settings.max_ahead_ms)?;
            // Decoding for a retained copy leaves the gap open: its time of arrival is unknown (see the writer).
            if !publish.retained {
                for frame in &mut message.frames {
                    frame.ts.get_or_insert(now);
                }
            }
            let content = Content::Metrics {
                id: message.id,
                frames: message.frames,
            };
            Ok((device, content, now))
        }
        TopicKind::Status => {
            let status: Status = read_json(&publish.payload)?;
            let received = copy_received(status.ts);
            Ok((device, Content::Status(status.status), received))
        }
        TopicKind::About => {
            let mut about: About = read_json(&publish.payload)?;
            if about.v != 1 {
                let detail = format!("about version {}; this collector reads version 1", about.v);
                return Err(Refusal::new(Reason::UnsupportedVersion, detail));
            }
            let named = about.device.get_or_insert_with(|| device.clone());
            if *named != device {
                let detail = format!("the payload names device {named}, the topic {device}");
                return Err(Refusal::new(Reason::DeviceMismatch, detail));
            }
            let received = copy_received(about.ts);
            Ok((device, Content::About(Arc::new(about)), received))
        }
    }
}

/// Reads a status or an about, as a metrics message is read: size, UTF-8, JSON, form, each with its own reason.
fn read_json<T: serde::de::DeserializeOwned>(payload: &[u8]) -> Result<T, Refusal> {
    if payload.len() > MAX_ABOUT_BYTES {
        let detail = format!("{} bytes; the most is {MAX_ABOUT_BYTES}", payload.len());
        return Err(Refusal::new(Reason::PayloadTooLarge, detail));
    }
    let text = std::str::from_utf8(payload).map_err(|e| Refusal::new(Reason::InvalidUtf8, e))?;
    serde_json::from_str(text).map_err(|error| {
        let reason = if error.is_data() {
            Reason::InvalidMessage
        } else {
            Reason::InvalidJson
        };
        Refusal::new(reason, error)
    })
}
