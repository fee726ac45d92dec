//! Broker mode: reads the devices' topics from a broker, and acknowledges to it what is on disk. The only room that knows rumqttc:
//! this file and [`line`], a second connection for what the collector says itself.
//!
//! # Promises
//! - The session is persistent: what devices publish while the collector is away waits at the broker, as far as the broker keeps it.
//! - An acknowledgement goes out after the commit, on the connection on which the message came, or not at all. Each connection has an event loop of its own: rumqttc
//!   keeps events of a lost connection, and an acknowledgement of one of those could meet another message's packet id in a new session.
//! - It subscribes at the first connection and whenever the broker has forgotten the session. Connected is who is subscribed: what is published from then on arrives.
//! - When the store takes nothing, it disconnects, and the broker delivers again after a pause.
//!
//! Polling is never cancelled in mid-connection and waits for nothing but room in the intake; acknowledgements are sent from a task beside it.
//! AWS IoT Core: port 443 speaks MQTT with the ALPN name of `devmon_core::tls`; at most one connection a second; three filters in one SUBSCRIBE.

#[cfg(test)]
pub(crate) mod fake;
pub(crate) mod line;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use devmon_core::tls::{AWS_ALPN, CertFiles};
use devmon_core::wire::{TopicKind, TopicScheme};
use rumqttc::{
    AsyncClient, Event, EventLoop, MqttOptions, Outgoing, Packet, QoS, SubAck, SubscribeFilter,
    SubscribeReasonCode, TlsConfiguration, Transport,
};
use tokio::sync::{mpsc, watch};

use super::Intake;
use super::accept::{self, BrokerStatus, Outcome, Ticket};

/// Pauses between connections: doubled from the first to the longest, each jittered. AWS allows one connection a second.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A connection that held for so long was a good one: the next pause is the first again.
const GOOD_CONNECTION: Duration = Duration::from_secs(30);
/// Publishes between the connection and the intake; beyond it the connection is not read.
const QUEUED: usize = 256;
/// Acknowledgements that may wait for the connection: as many as there are packet ids, so that there is always room.
const ACKS: usize = 65_536;
/// Largest packet: what MQTT can express. A smaller limit would break the connection on each delivery of a larger one, for ever; the intake cuts it short.
const PACKET_BYTES: usize = 268_435_456;
/// How long the end may take: the window's outcomes, DISCONNECT.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(3);

/// Names the session where the configuration does not.
const DEFAULT_CLIENT_ID: &str = "devmon-collector";

/// Which broker, as whom, for which topics.
#[derive(Debug, Clone)]
pub struct BrokerSettings {
    pub host: String,
    pub port: u16,
    /// `None`: plain TCP.
    pub tls: Option<CertFiles>,
    /// Names the persistent session; two collectors need two.
    pub client_id: String,
    pub keep_alive: Duration,
    pub scheme: TopicScheme,
    /// `None`: all shards.
    pub shard: Option<u32>,
}

impl BrokerSettings {
    /// The defaults for a broker.
    #[must_use]
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
            tls: None,
            client_id: DEFAULT_CLIENT_ID.into(),
            keep_alive: Duration::from_secs(30),
            scheme: TopicScheme::default(),
            shard: None,
        }
    }
}

/// Certificates that can not be used: the only error that trying again does not help.
pub type SettingsError = devmon_core::tls::TlsError;

/// Reads from the broker until `shutdown` becomes true, reconnecting as often as needed.
///
/// # Errors
/// [`SettingsError`] at once; everything later is retried and shown in the intake's status.
pub async fn run(
    settings: BrokerSettings,
    intake: Intake,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), SettingsError> {
    let options = options(&settings)?;
    let status = BrokerStatus {
        address: format!("{}:{}", settings.host, settings.port),
        ..BrokerStatus::default()
    };
    intake.set_broker(status.clone());
    let reader = Reader {
        options,
        settings,
        intake,
        status,
        shutdown: shutdown.clone(),
    };
    let mut task = tokio::spawn(reader.run());
    tokio::select! {
        _ = &mut task => return Ok(()),
        _ = shutdown.wait_for(|stop| *stop) => {}
    }
    if tokio::time::timeout(SHUTDOWN_PATIENCE, &mut task)
        .await
        .is_err()
    {
        task.abort(); // what it had not acknowledged comes again
    }
    Ok(())
}

fn options(settings: &BrokerSettings) -> Result<MqttOptions, SettingsError> {
    // A persistent session needs a name; rumqttc panics without one.
    let named = !settings.client_id.is_empty();
    let client_id = if named {
        settings.client_id.as_str()
    } else {
        DEFAULT_CLIENT_ID
    };
    let mut options = MqttOptions::new(client_id, settings.host.clone(), settings.port);
    options
        .set_clean_session(false)
        .set_manual_acks(true)
        .set_keep_alive(settings.keep_alive.max(Duration::from_secs(5)))
        .set_max_packet_size(PACKET_BYTES, PACKET_BYTES);
    if let Some(files) = &settings.tls {
        let alpn: &[&[u8]] = if settings.port == 443 {
            &[AWS_ALPN]
        } else {
            &[]
        };
        let config = TlsConfiguration::Rustls(files.client_config(alpn)?);
        options.set_transport(Transport::tls_with_config(config));
    }
    Ok(options)
}

/// How long to wait before the next connection.
#[derive(Debug)]
pub(crate) struct Pauses {
    jitter: RandomState,
    attempt: u64,
    next: Duration,
}

impl Pauses {
    pub(crate) fn new() -> Self {
        Self {
            jitter: RandomState::new(),
            attempt: 0,
            next: FIRST_PAUSE,
        }
    }

    /// After a connection that held for so long. Between one and one and a half pauses: a fleet of collectors must not come back in step, nor AWS see two connections in a second.
    pub(crate) fn next(&mut self, held: Duration) -> Duration {
        if held > GOOD_CONNECTION {
            self.next = FIRST_PAUSE;
        }
        self.attempt += 1;
        let spread = self.jitter.hash_one(self.attempt) % 500;
        let pause = self.next + self.next.mul_f64(spread as f64 / 1000.0);
        self.next = (self.next * 2).min(LONGEST_PAUSE);
        pause
    }
}

/// Connects again and again.
struct Reader {
    options: MqttOptions,
    settings: BrokerSettings,
    intake: Intake,
    status: BrokerStatus,
    shutdown: watch::Receiver<bool>,
}

impl Reader {
    async fn run(mut self) {
        let mut pauses = Pauses::new();
        let mut subscribed = false;
        loop {
            let begin = Instant::now();
            let error = self.connection(&mut subscribed).await;
            if *self.shutdown.borrow() {
                self.report(false, None);
                return;
            }
            let pause = pauses.next(begin.elapsed());
            tracing::warn!(
                broker = self.status.address,
                error,
                pause_s = pause.as_secs(),
                "not connected to the broker; trying again"
            );
            self.report(false, Some(error));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = self.shutdown.wait_for(|stop| *stop) => {}
            }
            if *self.shutdown.borrow() {
                self.report(false, None);
                return;
            }
        }
    }

    fn report(&mut self, connected: bool, error: Option<String>) {
        self.status.connected = connected;
        if error.is_some() {
            self.status.last_error = error;
        }
        self.intake.set_broker(self.status.clone());
    }

    /// One connection from beginning to end; returns why it ended.
    async fn connection(&mut self, subscribed: &mut bool) -> String {
        let (client, mut events) = AsyncClient::new(self.options.clone(), ACKS);
        // Before CONNACK there is nothing that could be lost by giving up.
        let connected = tokio::select! {
            connected = events.poll() => connected,
            _ = self.shutdown.wait_for(|stop| *stop) => return "the collector stops".to_owned(),
        };
        match connected {
            Ok(Event::Incoming(Packet::ConnAck(ack))) => {
                tracing::info!(
                    broker = self.status.address,
                    session = ack.session_present,
                    "connected to the broker"
                );
                // What is published before the broker has granted the filters is lost to us.
                *subscribed &= ack.session_present;
                if *subscribed {
                    self.report(true, None);
                } else if let Err(error) = client.try_subscribe_many(asked(&self.topics())) {
                    return error.to_string();
                }
            }
            Ok(other) => return format!("the broker begins with {other:?}"),
            Err(error) => return error.to_string(),
        }
        let (publishes, queue) = mpsc::channel(QUEUED);
        let taker = Taker {
            client,
            intake: self.intake.clone(),
            window: VecDeque::new(),
            shutdown: self.shutdown.clone(),
        };
        let taker = tokio::spawn(taker.run(queue));
        let ended = self.poll(&mut events, &publishes, subscribed).await;
        drop(publishes);
        if taker.is_finished() {
            // It ended the connection: its word is the cause.
            return taker.await.unwrap_or_else(|e| e.to_string());
        }
        taker.abort(); // no acknowledgement of this connection may be sent any more; there is nowhere to send it, either
        ended
    }

    /// Hands publishes over until the connection ends; returns why.
    async fn poll(
        &mut self,
        events: &mut EventLoop,
        publishes: &mpsc::Sender<rumqttc::Publish>,
        subscribed: &mut bool,
    ) -> String {
        loop {
            match events.poll().await {
                Ok(Event::Incoming(Packet::Publish(publish))) => {
                    if publishes.send(publish).await.is_err() {
                        return "the collector takes nothing more".to_owned();
                    }
                }
                Ok(Event::Incoming(Packet::SubAck(ack))) => {
                    if let Err(refused) = granted(&self.topics(), &ack) {
                        return refused;
                    }
                    *subscribed = true;
                    self.report(true, None);
                }
                Ok(Event::Outgoing(Outgoing::Disconnect)) => return "disconnected".to_owned(),
                Ok(_) => {}
                Err(error) => return error.to_string(),
            }
        }
    }

    fn topics(&self) -> Vec<String> {
        let filter = |kind| self.settings.scheme.filter(self.settings.shard, kind);
        TopicKind::ALL.map(filter).into()
    }
}

fn asked(topics: &[String]) -> Vec<SubscribeFilter> {
    let filter = |topic: &String| SubscribeFilter::new(topic.clone(), QoS::AtLeastOnce);
    topics.iter().map(filter).collect()
}

/// Whether the broker has granted all topics that it was asked for; an error says which it refuses.
fn granted(topics: &[String], ack: &SubAck) -> Result<(), String> {
    if !ack.return_codes.contains(&SubscribeReasonCode::Failure) {
        return Ok(());
    }
    let answers = topics.iter().zip(&ack.return_codes); // in the order of the question
    let refused = answers.filter(|(_, code)| **code == SubscribeReasonCode::Failure);
    let refused: Vec<_> = refused.map(|(topic, _)| topic.as_str()).collect();
    let topics = refused.join(", ");
    tracing::error!(
        topics,
        "the broker refuses subscriptions; give this client the right to read there"
    );
    Err(format!(
        "the broker refuses the subscription of {topics}; give this client the right to read there"
    ))
}

/// Takes the publishes of one connection in and acknowledges them, in order.
struct Taker {
    client: AsyncClient,
    intake: Intake,
    window: VecDeque<(rumqttc::Publish, Ticket)>,
    shutdown: watch::Receiver<bool>,
}

enum Next {
    Publish(Option<rumqttc::Publish>),
    Outcome(Outcome),
    Stop,
}

impl Taker {
    /// Ends with the connection, or ends it: by DISCONNECT, and the reason.
    async fn run(mut self, mut queue: mpsc::Receiver<rumqttc::Publish>) -> String {
        let ended = loop {
            let Self {
                window, shutdown, ..
            } = &mut self;
            let front = poll_fn(|cx| match window.front_mut() {
                Some((_, ticket)) => std::pin::Pin::new(ticket).poll(cx),
                None => std::task::Poll::Pending,
            });
            let next = tokio::select! {
                biased;
                _ = shutdown.wait_for(|stop| *stop) => Next::Stop,
                outcome = front => Next::Outcome(outcome),
                publish = queue.recv() => Next::Publish(publish),
            };
            match next {
                Next::Publish(Some(publish)) => self.submit(publish).await,
                Next::Publish(None) => return "the connection ended".to_owned(),
                Next::Outcome(outcome) => {
                    if let Err(why) = self.answer(outcome) {
                        break why;
                    }
                }
                Next::Stop => {
                    // What is under way is acknowledged still; what is queued comes again.
                    while let Some((_, ticket)) = self.window.front_mut() {
                        let outcome = ticket.await;
                        if self.answer(outcome).is_err() {
                            break;
                        }
                    }
                    break "the collector stops".to_owned();
                }
            }
        };
        // Behind the acknowledgements, so that those arrive.
        if let Err(error) = self.client.try_disconnect() {
            tracing::debug!(%error, "no DISCONNECT sent");
        }
        ended
    }

    async fn submit(&mut self, mut publish: rumqttc::Publish) {
        let ticket = self.intake.submit(accept::Publish {
            topic: std::mem::take(&mut publish.topic),
            payload: std::mem::take(&mut publish.payload),
            identity: None, // whom the broker lets publish what is the broker's to say
            retained: publish.retain,
        });
        let ticket = ticket.await;
        self.window.push_back((publish, ticket));
    }

    /// Acknowledges the front of the window, whose outcome this is.
    fn answer(&mut self, outcome: Outcome) -> Result<(), String> {
        let Some((publish, _)) = self.window.pop_front() else {
            return Ok(());
        };
        match outcome {
            Outcome::Acknowledge => self.client.try_ack(&publish).map_err(|e| e.to_string()),
            Outcome::Refuse(why) => Err(why),
        }
    }
}
